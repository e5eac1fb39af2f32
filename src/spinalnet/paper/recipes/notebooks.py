"""Transfer learning by the notebooks, the customizable and the shared-weight ones included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spinalnet.paper.recipes.row import (
    BEST_VALIDATION,
    FOLDER_MAXIMUM,
    NOTHING,
    TEST_MAXIMUM,
    Printed,
    Recipe,
    printed,
)
from spinalnet.paper.recipes.settings import (
    ADAM,
    CALTECH_PARTS,
    FLOWER_PARTS,
    PLAIN,
    VGG_ON_MNIST,
    bare,
    cut,
    dropout_norm,
    fine_tuned,
    standard,
    wide,
)

_FOLDER = "Jupyter Notebooks"
_VERSUS = f"{_FOLDER}/SpinalNet_vs_2L_FC"
_CUSTOMIZABLE = "Customizable Model"
_LOGGED = "output of the notebook"
_FLIPS = "rotation:15+resized-crop+flip+vertical-flip"
_FASHION_WARPS = "flip+affine:10,0.2+resized-crop:0.95,1"
_FLOWER_WARPS = "rotation:15+zoom-crop:468,448+flip+vertical-flip"
_SELECTED = "accuracy on the selection data"

_NOTEBOOKS = (
    Recipe(
        name="notebook-monkeys",
        sources=(f"{_FOLDER}/alexnet-spinalnet-fc-tl-10-monkey.ipynb",),
        data="monkeys",
        **wide(40, _FLIPS, 300, (0.01, 10), (0.01, 10), model="alexnet"),
        pictures=("resize:320+rotation:15+resized-crop:300+flip+vertical-flip", "resize:300,300"),
        selection=FOLDER_MAXIMUM,
        options={"spinal": bare(20)},
        printed=printed(_LOGGED, {"spinal": 0.922794}, _SELECTED),
        defects=("A9", "A17", "A33", "B15"),
    ),
    Recipe(
        name="notebook-caltech101",
        sources=(f"{_FOLDER}/spinalnet-caltech101.ipynb",),
        data="caltech-101",
        **wide(64, cut(230, 224), 224, (0.01, 5), (0.001, 5)),
        pictures=standard(230, 224),
        parts=CALTECH_PARTS,
        selection=BEST_VALIDATION,
        options={"spinal": bare(101)},
        printed=printed(_LOGGED, {"spinal": 0.9676}),
        defects=("A17", "A18", "B15"),
    ),
    Recipe(
        name="notebook-cifar10",
        pictures=standard(272, 256, "resize:256"),
        sources=(f"{_FOLDER}/spinalnet-cifar10-97-5+.ipynb",),
        data="cifar10",
        **wide(56, cut(272, 256), 256, (0.01, 5), (0.001, 5), (0.0001, 5)),
        selection=FOLDER_MAXIMUM,
        options={"spinal": bare(20)},
        printed=printed(_LOGGED, {"spinal": 0.9760}),
        defects=("A9", "A17", "A18"),
    ),
    Recipe(
        name="notebook-cifar100",
        pictures=standard(272, 256, "resize:256"),
        validation=(10, 4),
        sources=(f"{_FOLDER}/spinalnet-cifar100.ipynb",),
        data="cifar100",
        **wide(56, cut(272, 256), 256, (0.01, 5), (0.001, 5), (0.0001, 5)),
        selection=BEST_VALIDATION,
        options={"spinal": bare(200)},
        printed=printed(_LOGGED, {"spinal": 0.8631}),
        defects=("A17", "A18", "A30", "B14"),
    ),
    Recipe(
        name="notebook-stl10",
        pictures=standard(272, 256, "resize:256"),
        validation=(10, 0),
        sources=(f"{_FOLDER}/stl-10-spinalnet.ipynb",),
        data="stl10",
        **wide(24, cut(272, 256), 256, (0.0005, 20)),
        selection=BEST_VALIDATION,
        options={"spinal": dropout_norm(512)},
        printed=printed(_LOGGED, {"spinal": 0.9856}),
        defects=("A17", "A30", "B3", "B14"),
    ),
    Recipe(
        name="notebook-fashion-mnist",
        pictures=("resize:120+flip+affine:10,0.2+resized-crop:112,0.95,1", "resize:112"),
        validation=(10, 0),
        sources=(f"{_FOLDER}/transfer-learning-on-fashion-mnist-dataset.ipynb",),
        data="fashion-mnist",
        **wide(200, _FASHION_WARPS, 112, (0.01, 5), (0.001, 5), constants="half"),
        selection=BEST_VALIDATION,
        options={"spinal": {**bare(1024), "activation": "identity"}},
        in_channels=3,
        printed=printed(_LOGGED, {"spinal": 0.9476}),
        defects=("A8", "A17", "A18", "A30", "B14"),
        notes=("The notebook's head has no activation, so it is one affine map.",),
    ),
    Recipe(
        name="notebook-mnist",
        validation=(10, 4),
        sources=(f"{_FOLDER}/transfer-learning-on-mnist-with-vgg.ipynb",),
        **VGG_ON_MNIST,
        selection=BEST_VALIDATION,
        printed=printed(_LOGGED, {"spinal": 0.9975}),
        defects=("A17", "A18", "A30", "B14"),
    ),
    Recipe(
        name="notebook-flowers102-mlp",
        pictures=("resize:230+rotation:30+crop:224+flip+vertical-flip", "resize:224,224"),
        parts=FLOWER_PARTS,
        sources=(f"{_VERSUS}/pytorch-transfer-learning-oxford-102-2-layer-fc.ipynb",),
        data="flowers-102",
        model="resnext50_32x4d",
        **fine_tuned(
            64, "rotation:30+zoom-crop:230,224+flip+vertical-flip", 224, (0.01, 10), (0.001, 30)
        ),
        selection=FOLDER_MAXIMUM,
        original_heads=("mlp-paper",),
        options={"spinal": bare(102)},
        printed=printed(_LOGGED, {"mlp-paper": 0.976773}, _SELECTED),
        defects=("A6", "A9", "A17", "A18"),
    ),
    Recipe(
        name="notebook-flowers102",
        pictures=("resize:468+rotation:15+crop:448+flip+vertical-flip", "resize:448,448"),
        parts=FLOWER_PARTS,
        sources=(f"{_VERSUS}/spinalnet-oxford-102-flower.ipynb",),
        data="flowers-102",
        **wide(16, _FLOWER_WARPS, 448, (0.01, 10), (0.001, 30), original_heads=("linear",)),
        selection=FOLDER_MAXIMUM,
        options={"spinal": bare(102)},
        printed=printed(_LOGGED, {"linear": 0.991443}, _SELECTED),
        defects=("A6", "A9", "A17", "A18"),
        notes=("Called SpinalNet, the notebook trains a linear head.",),
    ),
    Recipe(
        name="customizable-stl10",
        pictures=standard(272, 256, "resize:256"),
        validation=(10, 0),
        sources=(f"{_CUSTOMIZABLE}/Customizable-SpinalNet-on-STL-10.ipynb",),
        data="stl10",
        **wide(24, cut(272, 256), 256, (0.001, 5), (0.0001, 10)),
        selection=BEST_VALIDATION,
        options={"spinal": {**bare(512), "num_splits": 2, "num_layers": 10}},
        printed=printed(_LOGGED, {"spinal": 0.9839}),
        defects=("A17", "A18", "A25", "A26", "A27", "A30", "B8", "B9"),
    ),
    Recipe(
        name="customizable-mnist",
        sources=(f"{_CUSTOMIZABLE}/spinalnettorch.py",),
        data="mnist",
        model="mnist-pixels",
        train=replace(ADAM, epochs=10),
        selection=TEST_MAXIMUM,
        options={
            "spinal": {"hidden_features": 50, "num_splits": 2, "num_layers": 10, "norm": None},
            "mlp-paper": {"hidden_features": 500, "norm": None},
        },
        constants="mnist",
        defects=("A25", "A26", "A27", "B8", "B9"),
        notes=(
            "Ours: the customizable net of the original on pixels, because its own example needs "
            "STL-10 and a GPU. There is no printed number.",
        ),
    ),
    Recipe(
        name="customizable-demo",
        sources=(f"{_CUSTOMIZABLE}/spinalnet-arbitrary-size-investigation.ipynb",),
        data="mnist",
        model="mnist-pixels",
        train=replace(PLAIN, epochs=1),
        selection=NOTHING,
        options={
            "spinal": {
                "hidden_features": 30,
                "num_splits": 4,
                "num_layers": 15,
                "activation": "leaky_relu",
                "norm": None,
            }
        },
        printed=(Printed("width of all hidden outputs side by side", 450, "output"),),
        defects=("A25", "A26", "A27"),
        notes=("A demonstration on random input; the original has nothing to train on.",),
    ),
)


def _shared(name: str, *, source: str, width: int, accuracy: float, **own: Any) -> Recipe:
    size = {"hidden_features": width, "num_layers": 8, "num_splits": 8}
    return Recipe(
        name=f"shared-stl10-{name}",
        sources=(f"Others/Other Papers/SpinalNet SW: {source}",),
        data="stl10",
        validation=(10, 0),
        selection=BEST_VALIDATION,
        heads=("spinal-shared", "spinal", "linear"),
        original_heads=("spinal-shared",),
        options={"spinal-shared": size, "spinal": {**size, "norm": None, "dropout": 0.0}},
        printed=printed(_LOGGED, {"spinal-shared": accuracy}),
        defects=("A17", "A25", "A26", "A30", "B3", "C8", "C9"),
        **own,
    )


ROWS = (
    *_NOTEBOOKS,
    _shared(
        "wideresnet",
        source="WideResNet-101",
        model="wide_resnet101_2",
        width=20,
        accuracy=0.9845,
        **fine_tuned(24, cut(272, 256), 256, (0.001, 5), (0.0001, 10)),
        pictures=standard(272, 256, "resize:256"),
    ),
    *(
        _shared(
            f"vit-{width}",
            source=f"Transformer, width {width}",
            model="vit_large_patch16_224",
            width=width,
            accuracy=accuracy,
            **fine_tuned(30, cut(244, 224), 224, (0.0005, 2)),
            pictures=standard(244, 224),
        )
        for width, accuracy in ((10, 0.995875), (20, 0.996375), (50, 0.996375), (100, 0.996625))
    ),
)
