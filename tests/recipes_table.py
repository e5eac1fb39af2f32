"""What the original repository holds: every script, notebook and target, and the recipe for it.

One line per experiment: (file, what was chosen by editing it, recipe). Two repositories: SpinalNet
and ProgressiveSpinalNet.
"""

from __future__ import annotations

_REGRESSION = "Regression/Regression_NN_and_SpinalNet.py"
_TRANSFER = "Transfer Learning/Transfer_Learning"
_NOTEBOOKS = "Jupyter Notebooks"
_CUSTOM = "Customizable Model"
_SHARED = "Others/Other Papers/SpinalNet SW"
_PROGRESSIVE = "ProgressiveSpinalNet"

EXPERIMENTS: tuple[tuple[str, str, str], ...] = (
    # Regression: four targets; each net as described and as wired.
    (_REGRESSION, "product", "regression-product"),
    (_REGRESSION, "sin(product)", "regression-sin-product"),
    (_REGRESSION, "sum", "regression-sum"),
    (_REGRESSION, "sin(sum)", "regression-sin-sum"),
    (_REGRESSION, "product, layers reused", "regression-product-reused"),
    (_REGRESSION, "sin(product), layers reused", "regression-sin-product-reused"),
    (_REGRESSION, "sum, layers reused", "regression-sum-reused"),
    (_REGRESSION, "sin(sum), layers reused", "regression-sin-sum-reused"),
    # MNIST folder.
    ("MNIST/default_pytorch_MNIST.py", "", "mnist-cnn-default"),
    ("MNIST/default_pytorch_MNIST.py", "KMNIST", "kmnist-cnn-default"),
    ("MNIST/default_pytorch_MNIST.py", "QMNIST", "qmnist-cnn-default"),
    ("MNIST/default_pytorch_MNIST.py", "FashionMNIST", "fashion-mnist-cnn-default"),
    ("MNIST/default_pytorch_EMNIST.py", "", "emnist-digits-cnn-default"),
    ("MNIST/SpinalNet_MNIST.py", "", "mnist-cnn"),
    ("MNIST/SpinalNet_MNIST.py", "KMNIST", "kmnist-cnn"),
    ("MNIST/SpinalNet_MNIST.py", "QMNIST", "qmnist-cnn"),
    ("MNIST/SpinalNet_MNIST.py", "FashionMNIST", "fashion-mnist-cnn"),
    ("MNIST/SpinalNet_EMNIST_Digits.py", "", "emnist-digits-cnn"),
    ("MNIST/Arch2_MNIST.py", "", "mnist-arch2"),
    ("MNIST/Arch2_Fashion_MNIST.py", "", "fashion-mnist-arch2"),
    ("MNIST/Arch2_EMNIST_Digits.py", "", "emnist-digits-arch2"),
    ("MNIST/Arch2_KMNIST.py", "", "kmnist-arch2"),
    ("MNIST/Arch2_QMNIST.py", "", "qmnist-arch2"),
    # MNIST_VGG folder; two file names hold a blank.
    ("MNIST_VGG/MNIST_VGG_and_SpinalVGG.py", "", "mnist-vgg5"),
    ("MNIST_VGG/EMNIST_digits_VGG_and _SpinalVGG.py", "", "emnist-digits-vgg5"),
    ("MNIST_VGG/EMNIST_letters_VGG_and _SpinalVGG.py", "", "emnist-letters-vgg5"),
    ("MNIST_VGG/KMNIST_VGG_and_SpinalVGG.py", "", "kmnist-vgg5"),
    ("MNIST_VGG/QMNIST_VGG_and _SpinalVGG.py", "", "qmnist-vgg5"),
    ("MNIST_VGG/FashionMNIST_VGG_and _SpinalVGG.py", "", "fashion-mnist-vgg5"),
    ("EMNIST-Balanced (no script)", "", "emnist-balanced-vgg5"),
    # CIFAR folders.
    ("CIFAR-10/CNN_dropout_CIFAR10.py", "", "cifar10-cnn-default"),
    ("CIFAR-10/CNN_dropout_SpinalFC_CIFAR10.py", "", "cifar10-cnn"),
    ("CIFAR-100/CNN_dropout_Default_and_SpinalFC_CIFAR100.py", "", "cifar100-cnn"),
    ("CIFAR-10/ResNet_default_and_SpinalFC_CIFAR10.py", "", "cifar10-resnet"),
    ("CIFAR-100/ResNet_Default_and_SpinalFC_CIFAR100.py", "", "cifar100-resnet"),
    ("CIFAR-10/VGG_default_and_SpinalFC_CIFAR10.py", "", "cifar10-vgg"),
    ("CIFAR-100/VGG_Default_and_SpinalFC_CIFAR_100.py", "", "cifar100-vgg"),
    # Transfer Learning folder.
    (f"{_TRANSFER}_Bird225.py", "", "transfer-bird225"),
    (f"{_TRANSFER}_CIFAR10.py", "", "transfer-cifar10"),
    (f"{_TRANSFER}_CIFAR100.py", "", "transfer-cifar100"),
    (f"{_TRANSFER}_CINIC10.py", "", "transfer-cinic10"),
    (f"{_TRANSFER}_Caltech101.py", "", "transfer-caltech101"),
    (f"{_TRANSFER}_Fruits360.py", "", "transfer-fruits360"),
    (f"{_TRANSFER}_MNIST.py", "", "transfer-mnist"),
    (f"{_TRANSFER}_Oxford102flower.py", "", "transfer-flowers102"),
    (f"{_TRANSFER}_STL10.py", "", "transfer-stl10"),
    (f"{_TRANSFER}_SVHN.py", "", "transfer-svhn"),
    (f"{_TRANSFER}_Stanford_Cars.py", "", "transfer-cars"),
    (f"{_TRANSFER}_hymenoptera.py", "", "transfer-hymenoptera"),
    (f"{_TRANSFER}_hymenoptera.py", "layers reused", "transfer-hymenoptera-reused"),
    # Notebooks.
    (f"{_NOTEBOOKS}/alexnet-spinalnet-fc-tl-10-monkey.ipynb", "", "notebook-monkeys"),
    (f"{_NOTEBOOKS}/spinalnet-caltech101.ipynb", "", "notebook-caltech101"),
    (f"{_NOTEBOOKS}/spinalnet-cifar10-97-5+.ipynb", "", "notebook-cifar10"),
    (f"{_NOTEBOOKS}/spinalnet-cifar100.ipynb", "", "notebook-cifar100"),
    (f"{_NOTEBOOKS}/stl-10-spinalnet.ipynb", "", "notebook-stl10"),
    (
        f"{_NOTEBOOKS}/transfer-learning-on-fashion-mnist-dataset.ipynb",
        "",
        "notebook-fashion-mnist",
    ),
    (f"{_NOTEBOOKS}/transfer-learning-on-mnist-with-vgg.ipynb", "", "notebook-mnist"),
    (
        f"{_NOTEBOOKS}/SpinalNet_vs_2L_FC/pytorch-transfer-learning-oxford-102-2-layer-fc.ipynb",
        "",
        "notebook-flowers102-mlp",
    ),
    (
        f"{_NOTEBOOKS}/SpinalNet_vs_2L_FC/spinalnet-oxford-102-flower.ipynb",
        "",
        "notebook-flowers102",
    ),
    # Customizable model.
    (f"{_CUSTOM}/Customizable-SpinalNet-on-STL-10.ipynb", "", "customizable-stl10"),
    (f"{_CUSTOM}/spinalnet-arbitrary-size-investigation.ipynb", "", "customizable-demo"),
    (f"{_CUSTOM}/spinalnettorch.py", "the module, on MNIST (ours)", "customizable-mnist"),
    # Shared weights.
    (f"{_SHARED}: WideResNet-101", "", "shared-stl10-wideresnet"),
    (f"{_SHARED}: Transformer, width 10", "", "shared-stl10-vit-10"),
    (f"{_SHARED}: Transformer, width 20", "", "shared-stl10-vit-20"),
    (f"{_SHARED}: Transformer, width 50", "", "shared-stl10-vit-50"),
    (f"{_SHARED}: Transformer, width 100", "", "shared-stl10-vit-100"),
    # Progressive SpinalNet.
    (f"{_PROGRESSIVE}/Vanila_MNIST_ProgressiveSpinalNet.py", "", "progressive-mnist"),
    (f"{_PROGRESSIVE}/KMNIST.py", "", "progressive-kmnist"),
    (f"{_PROGRESSIVE}/EMNIST_DIGITS.py", "", "progressive-emnist-digits"),
    (f"{_PROGRESSIVE}/EMNIST_Letters.py", "", "progressive-emnist-letters"),
    (f"{_PROGRESSIVE}/QMNIST_010.py", "", "progressive-qmnist"),
    (f"{_PROGRESSIVE}/Transfer_Learning_Birds", "", "progressive-bird-225"),
    (f"{_PROGRESSIVE}/Transfer_Learning_Caltech101", "", "progressive-caltech-101"),
    (f"{_PROGRESSIVE}/Transfer_Learning_Fruits360", "", "progressive-fruits-360"),
    (f"{_PROGRESSIVE}/Transfer_Learning_STL10", "", "progressive-stl10"),
)

# Files that are no experiment, and what does their work here.
NOT_EXPERIMENTS = {
    "Transfer Learning/Pytorch_data_to_folders.py": "named data sets need no folders"
}

# How many files of each folder there are to cover.
FILES = {
    "Regression": 1,
    "MNIST": 9,
    "MNIST_VGG": 6,
    "CIFAR-10": 4,
    "CIFAR-100": 3,
    "Transfer Learning": 13,
    "Jupyter Notebooks": 9,
    "Customizable Model": 3,
    "Others": 5,
    "ProgressiveSpinalNet": 9,
    "EMNIST-Balanced (no script)": 1,
}
