"""The named data sets: one row each of `DATASETS`, and nothing that reads a file.

A row says what a data set is, where it comes from and how its files lie; `readers` does the
reading. Lists of data sets are made from it without loading torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spinalnet.data import sources
from spinalnet.data.sources import Download


@dataclass(frozen=True)
class DatasetRow:
    """One row of `DATASETS`: a data set and all that is particular to it.

    Attributes:
        name: The name given to `load_dataset`.
        summary: One line for lists.
        class_names: Class names in label order; empty if the files name them, or for regression.
        image_shape: `(C, H, W)` as stored (folders: as loaded by default), `(F,)` for tables.
        mean: Mean per channel of the training images on the 0..1 scale; empty to compute it.
        std: Standard deviation per channel of the training images; empty to compute it.
        sizes: Number of training and test examples.
        source: Where the data comes from.
        licence: What its owners allow, as far as they say.
        size: Roughly how much is downloaded.
        reader: How the files lie; a row of `data.readers.READERS`.
        classes: Number of classes where `class_names` is empty.
        torchvision_name: The torchvision class whose folders its files lie in; `None` for none.
        downloads: The files of the network it is made of; empty where nobody may fetch it.
        paths: Where the data lies below the data folder: any one of these is enough.
        contents: What must lie in that folder, where that is known.
        exclude: Folders in it that are no classes.
        prefixes: IDX files: how the names of the training and the test files begin.
        label_suffix: IDX files: how the names of the label files end.
        first_label: The label of class 0 in the files.
        transposed: Whether images are stored with rows and columns exchanged; if so they are put
            upright. `dataclasses.replace(spec, transposed=False)` keeps them as stored.
        val_fraction: Share of the training examples used for validation.
        system_dirs: Folders searched when no `data_dir` is given (operating system packages).
        hint: How else, or how at all, to get the data; told when it is missing.
        notes: Sentences that belong with every result on this data.
    """

    name: str
    summary: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sizes: tuple[int, int]
    source: str
    licence: str
    size: str
    reader: Literal["digits", "idx", "torchvision", "flowers", "folder", "regression"] = "idx"
    classes: int = 0
    torchvision_name: str | None = None
    downloads: tuple[Download, ...] = ()
    paths: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    prefixes: tuple[str, str] = ("train", "t10k")
    label_suffix: str = "labels-idx1-ubyte"
    first_label: int = 0
    transposed: bool = False
    val_fraction: float = 0.1
    system_dirs: tuple[str, ...] = ()
    hint: str = ""
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for a regression."""
        return len(self.class_names) or self.classes


_DIGITS = tuple("0123456789")
_UPPER = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _emnist(
    split: str,
    summary: str,
    class_names: tuple[str, ...],
    mean: float,
    std: float,
    sizes: tuple[int, int],
    first_label: int = 0,
) -> DatasetRow:
    """Return the row of one EMNIST split."""
    return DatasetRow(
        name=f"emnist-{split}",
        summary=summary,
        class_names=class_names,
        image_shape=(1, 28, 28),
        mean=(mean,),
        std=(std,),
        sizes=sizes,
        source="Cohen et al., EMNIST, arXiv:1702.05373",
        licence="not stated (derived from NIST Special Database 19)",
        size="562 MB (all EMNIST parts)",
        torchvision_name="EMNIST",
        downloads=sources.EMNIST,
        prefixes=(f"emnist-{split}-train", f"emnist-{split}-test"),
        first_label=first_label,
        transposed=True,
    )


def _folder(
    name: str,
    summary: str,
    classes: int,
    sizes: tuple[int, int],
    *,
    source: str,
    licence: str,
    size: str,
    paths: tuple[str, ...],
    hint: str,
    downloads: tuple[Download, ...] = (),
    exclude: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> DatasetRow:
    """Return the row of a data set that lies as a folder of images, one folder per class."""
    return DatasetRow(
        name=name,
        summary=summary,
        class_names=(),
        image_shape=(3, 64, 64),
        mean=(),
        std=(),
        sizes=sizes,
        source=source,
        licence=licence,
        size=size,
        reader="folder",
        classes=classes,
        downloads=downloads,
        paths=paths,
        exclude=exclude,
        hint=hint,
        notes=notes,
    )


def _kaggle(page: str, layout: str) -> str:
    return f"fetch it from kaggle.com/datasets/{page} (free account) and unpack it so that {layout}"


def _regression(name: str, formula: str) -> DatasetRow:
    """Return the row of one of the paper's four functions of eight normal variables."""
    return DatasetRow(
        name=f"regression-{name}",
        summary=f"y = {formula} + 0.2 U, x of 8 standard normals, U uniform in [0, 1)",
        class_names=(),
        image_shape=(8,),
        mean=(),
        std=(),
        sizes=(1000, 20_000),
        source="drawn by the recipe of the paper's regression script",
        licence="none needed (computed)",
        size="0 (computed)",
        reader="regression",
        notes=(
            "The noise 0.2 U has variance 0.04 / 12 = 0.00333: no predictor can have a smaller "
            "mean squared error on fresh data.",
        ),
    )


# How the constants were obtained: "computed" = mean and standard deviation over all pixels of all
# training images, from the files; "published" = the figure in common use, not recomputed.
DATASETS: dict[str, DatasetRow] = {
    spec.name: spec
    for spec in (
        DatasetRow(
            name="digits",
            summary="8x8 handwritten digits bundled with scikit-learn",
            class_names=_DIGITS,
            image_shape=(1, 8, 8),
            mean=(0.3058,),  # computed on all that is not the fixed test part
            std=(0.3764,),
            sizes=(1438, 359),
            source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI)",
            licence="CC BY 4.0",
            size="0 (bundled)",
            reader="digits",
            val_fraction=0.15,  # few images: a tenth would leave 14 per class
        ),
        DatasetRow(
            name="mnist",
            summary="28x28 handwritten digits",
            class_names=_DIGITS,
            image_shape=(1, 28, 28),
            mean=(0.1307,),  # computed: 0.13066, 0.30811
            std=(0.3081,),
            sizes=(60_000, 10_000),
            source="LeCun, Cortes and Burges, The MNIST database",
            licence="CC BY-SA 3.0",
            size="12 MB",
            torchvision_name="MNIST",
            downloads=sources.MNIST,
        ),
        DatasetRow(
            name="fashion-mnist",
            summary="28x28 photographs of clothing",
            class_names=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            image_shape=(1, 28, 28),
            mean=(0.2860,),  # computed: 0.28604, 0.35302
            std=(0.3530,),
            sizes=(60_000, 10_000),
            source="Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv:1708.07747",
            licence="MIT",
            size="31 MB",
            torchvision_name="FashionMNIST",
            downloads=sources.FASHION_MNIST,
            system_dirs=("/usr/share/datasets/fashion-mnist",),
            hint="on Debian, the package dataset-fashion-mnist also holds it",
        ),
        DatasetRow(
            name="kmnist",
            summary="28x28 cursive Japanese characters",
            class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
            image_shape=(1, 28, 28),
            mean=(0.1918,),  # published
            std=(0.3483,),
            sizes=(60_000, 10_000),
            source="Clanuwat et al., Kuzushiji-MNIST, arXiv:1812.01718",
            licence="CC BY-SA 4.0",
            size="21 MB",
            torchvision_name="KMNIST",
            downloads=sources.KMNIST,
        ),
        DatasetRow(
            name="qmnist",
            summary="MNIST with its full test set of 60,000 digits",
            class_names=_DIGITS,
            image_shape=(1, 28, 28),
            mean=(0.1307,),  # its training images are MNIST's, so are the constants
            std=(0.3081,),
            sizes=(60_000, 60_000),
            source="Yadav and Bottou, Cold Case: the Lost MNIST Digits, arXiv:1905.10498",
            licence="BSD 3-clause",
            size="21 MB",
            torchvision_name="QMNIST",
            downloads=sources.QMNIST,
            prefixes=("qmnist-train", "qmnist-test"),
            label_suffix="labels-idx2-int",
        ),
        # EMNIST: all published.
        _emnist("digits", "28x28 handwritten digits", _DIGITS, 0.1733, 0.3317, (240_000, 40_000)),
        _emnist(
            "letters",
            "28x28 handwritten letters, both cases merged",
            _UPPER,
            0.1722,
            0.3309,
            (124_800, 20_800),
            first_label=1,
        ),
        _emnist(
            "balanced",
            "28x28 handwritten digits and letters, similar cases merged",
            (*_DIGITS, *_UPPER, *"abdefghnqrt"),
            0.1751,
            0.3332,
            (112_800, 18_800),
        ),
        # Colour images that torchvision keeps in arrays: constants published.
        DatasetRow(
            name="cifar10",
            summary="32x32 photographs of 10 kinds of thing",
            class_names=(
                *("airplane", "automobile", "bird", "cat", "deer"),
                *("dog", "frog", "horse", "ship", "truck"),
            ),
            image_shape=(3, 32, 32),
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            sizes=(50_000, 10_000),
            source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009)",
            licence="not stated",
            size="170 MB",
            reader="torchvision",
            torchvision_name="CIFAR10",
            downloads=sources.CIFAR10,
            paths=("cifar-10-batches-py",),
            contents=(
                *("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
                *("test_batch", "batches.meta"),
            ),
        ),
        DatasetRow(
            name="cifar100",
            summary="32x32 photographs of 100 kinds of thing",
            class_names=(),
            image_shape=(3, 32, 32),
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            sizes=(50_000, 10_000),
            source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009)",
            licence="not stated",
            size="169 MB",
            reader="torchvision",
            classes=100,
            torchvision_name="CIFAR100",
            downloads=sources.CIFAR100,
            paths=("cifar-100-python",),
            contents=("train", "test", "meta"),
        ),
        DatasetRow(
            name="svhn",
            summary="32x32 house numbers, one digit in the middle",
            class_names=_DIGITS,
            image_shape=(3, 32, 32),
            mean=(0.4377, 0.4438, 0.4728),
            std=(0.1980, 0.2010, 0.1970),
            sizes=(73_257, 26_032),
            source="Netzer et al., Reading Digits in Natural Images (2011)",
            licence="non-commercial use",
            size="246 MB",
            reader="torchvision",
            torchvision_name="SVHN",
            downloads=sources.SVHN,
            paths=("test_32x32.mat",),  # fetched after the training part
        ),
        DatasetRow(
            name="stl10",
            summary="96x96 photographs of 10 kinds of thing, few of them labelled",
            class_names=(
                *("airplane", "bird", "car", "cat", "deer"),
                *("dog", "horse", "monkey", "ship", "truck"),
            ),
            image_shape=(3, 96, 96),
            mean=(0.4467, 0.4398, 0.4066),
            std=(0.2603, 0.2566, 0.2713),
            sizes=(5_000, 8_000),
            source="Coates, Lee and Ng, An Analysis of Single-Layer Networks (2011)",
            licence="not stated",
            size="2.6 GB",
            reader="torchvision",
            torchvision_name="STL10",
            downloads=sources.STL10,
            paths=("stl10_binary",),
            contents=(
                *("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"),
                *("unlabeled_X.bin", "class_names.txt"),
            ),
            notes=(
                "STL-10 defines 10 folds of 1,000 training images; here all 5,000 are training "
                "images and validation is split from them by the seed.",
            ),
        ),
        # Photographs of any size. Their constants are computed when they are loaded.
        DatasetRow(
            name="flowers-102",
            summary="photographs of 102 kinds of flower, 10 of each to train on",
            class_names=tuple(str(k) for k in range(1, 103)),
            image_shape=(3, 64, 64),
            mean=(),
            std=(),
            sizes=(1_020, 6_149),
            source="Nilsback and Zisserman, Automated Flower Classification (2008)",
            licence="not stated",
            size="345 MB",
            reader="flowers",
            torchvision_name="Flowers102",
            downloads=sources.FLOWERS102,
            paths=("flowers-102",),
            contents=("jpg", "imagelabels.mat", "setid.mat"),
            notes=(
                "These are the authors' own parts: 1,020 training, 1,020 validation and 6,149 test "
                "images. The paper's results are on a redistribution with 6,552 training images.",
            ),
        ),
        _folder(
            "caltech-101",
            "photographs of 101 kinds of thing",
            101,
            (6_942, 1_735),
            source="Li, Andreeto, Ranzato and Perona, Caltech 101 (2022)",
            licence="CC BY 4.0",
            size="137 MB",
            paths=("caltech101/101_ObjectCategories", "caltech-101", "caltech101"),
            downloads=sources.CALTECH101,
            exclude=("BACKGROUND_Google",),
            hint="it is also at data.caltech.edu/records/mzrjq-6wc02",
            notes=("The folder BACKGROUND_Google is not one of the 101 classes.",),
        ),
        _folder(
            "stanford-cars",
            "photographs of 196 models of car",
            196,
            (8_144, 8_041),
            source="Krause, Stark, Deng and Fei-Fei, 3D Object Representations (2013)",
            licence="non-commercial research",
            size="1.9 GB",
            paths=("car_data/car_data", "car_data", "stanford-cars", "stanford_cars"),
            hint="torchvision's source is gone; "
            + _kaggle(
                "jutrera/stanford-car-dataset-by-classes-folder",
                "car_data/train/<class> and car_data/test/<class> exist",
            ),
        ),
        _folder(
            "cinic-10",
            "32x32 photographs of CIFAR-10's classes from CIFAR-10 and ImageNet",
            10,
            (90_000, 90_000),
            source="Darlow et al., CINIC-10, arXiv:1810.03505",
            licence="MIT",
            size="650 MB",
            paths=("cinic-10", "cinic10", "CINIC-10"),
            downloads=sources.CINIC10,
            hint=_kaggle("mengcius/cinic10", "cinic-10/train, valid and test exist"),
        ),
        _folder(
            "bird-225",
            "224x224 photographs of 225 species of bird",
            225,
            (31_316, 1_125),
            source="Piosenka, 100 Bird Species, version 30 of August 2020 (Kaggle)",
            licence="CC0",
            size="1.4 GB",
            paths=("bird-225", "100-bird-species"),
            hint=_kaggle(
                "gpiosenka/100-bird-species", "bird-225/train, valid and test exist (version 30)"
            ),
            notes=("Later versions of this data set have more species than the 225 of the paper.",),
        ),
        _folder(
            "fruits-360",
            "100x100 photographs of 131 kinds of fruit, turned before a white ground",
            131,
            (67_692, 22_688),
            source="Muresan and Oltean, Fruit recognition from images (2018)",
            licence="CC BY-SA 4.0",
            size="760 MB",
            paths=("fruits-360_dataset/fruits-360", "fruits-360"),
            hint=_kaggle("moltean/fruits", "fruits-360/Training and Test exist"),
            notes=("Frames of one turning fruit are in both parts: the test is an easy one.",),
        ),
        _folder(
            "monkeys",
            "photographs of 10 species of monkey",
            10,
            (1_097, 272),
            source="slothkong, 10 Monkey Species (Kaggle)",
            licence="CC0",
            size="570 MB",
            paths=("monkeys", "10-monkey-species"),
            hint=_kaggle(
                "slothkong/10-monkey-species",
                "monkeys/training/training/<class> and monkeys/validation/validation/<class> exist",
            ),
        ),
        _folder(
            "hymenoptera",
            "photographs of ants and bees",
            2,
            (244, 153),
            source="the PyTorch tutorial on transfer learning (from ImageNet)",
            licence="not stated",
            size="47 MB",
            paths=("hymenoptera", "hymenoptera_data"),
            downloads=sources.HYMENOPTERA,
            hint="fetch download.pytorch.org/tutorial/hymenoptera_data.zip and unpack it so that "
            "hymenoptera_data/train and val exist",
        ),
        _regression("product", "x1 x2 ... x8"),
        _regression("sin-product", "sin(x1 x2 ... x8)"),
        _regression("sum", "x1 + x2 + ... + x8"),
        _regression("sin-sum", "sin(x1 + x2 + ... + x8)"),
    )
}
