"""What a row of the table holds, and the words its fields may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from spinalnet.data import DATASETS
from spinalnet.training import TrainConfig

# What decided, in the original, which epoch is reported.
SELECTION = {
    "max over epochs of the test accuracy": "test",
    "max over epochs of the accuracy on the second folder": "test",
    "test accuracy after every epoch, none chosen": "test",
    "test accuracy at the best validation accuracy": "validation",
    "minimum over epochs of the last mini-batch's training loss": "training",
    "none": "validation",
}
TEST_MAXIMUM, FOLDER_MAXIMUM, EVERY_EPOCH, BEST_VALIDATION, LAST_BATCH, NOTHING = SELECTION

# Normalisation constants of the original, (mean, std). The honest protocol uses those of the data,
# or of the published weights.
CONSTANTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((), ()),
    "mnist": ((0.1307,), (0.3081,)),
    "half": ((0.5,), (0.5,)),
    "cifar100": ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cinic": ((0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835)),
}

# Multiply-accumulates of one input at one side, with the paper's head: (MACs, side).
MACS: dict[str, tuple[float, int]] = {
    "regression-net": (14e3, 8),
    "mnist-pixels": (0.5e6, 28),
    "mnist-cnn": (0.47e6, 28),
    "arch2": (1.1e6, 28),
    "vgg5": (161e6, 28),
    "cifar-cnn": (134e6, 32),
    "cifar-resnet18-half": (152e6, 32),
    "cifar-resnet34-half": (304e6, 32),
    "cifar-vgg19-bn": (399e6, 32),
    "resnet9": (68.8e6, 28),
    "alexnet": (0.66e9, 224),
    "resnet18": (1.8e9, 224),
    "resnext50_32x4d": (4.2e9, 224),
    "vgg19_bn": (19.5e9, 224),
    "wide_resnet101_2": (22.8e9, 224),
    "vit_large_patch16_224": (61.6e9, 224),
}


@dataclass(frozen=True)
class Printed:
    """A number that the original printed: what it is, its value, and where it stands."""

    what: str
    value: float
    where: str


def printed(
    where: str, values: Mapping[str, float], what: str = "test accuracy"
) -> tuple[Printed, ...]:
    """Return numbers of one kind that stand in one place, by what they are of."""
    return tuple(Printed(f"{of}: {what}", value, where) for of, value in values.items())


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One experiment of the original, or a recipe of our own.

    Attributes:
        name: What `spinalnet reproduce` is given.
        sources: The files of the original that it stands for; none of a recipe of our own, whose
            settings are ours wherever the original's are named below.
        data: Row of `DATASETS`.
        model: Row of `models.MODELS`.
        train: The original's training settings, augmentation included.
        selection: How the original chose what it reported; see `SELECTION`.
        heads: The heads compared; the first is the subject.
        original_heads: Those that the original really trained, all of `heads` if empty.
        options: Options per head, where they are not those of the model's row.
        necks: Neck per head in the original, where it was not the same for all.
        image_size: Side that images are brought to; `None` for the data's own.
        in_channels: 3 where grey images were used as colour; `None` for the data's own.
        constants: The original's normalisation; see `CONSTANTS`.
        pretrained: Whether the trunk starts from published ImageNet weights.
        original_seeds: How the original seeded it.
        pictures: Transforms of training and of validation and test that the original's script has
            for photographs; see `paper.pictures`. The honest protocol has `train.augment`.
        parts: Images of the original's parts (train and test, or train, val and test), where the
            data set is not divided so.
        validation: (step, first): validation is every so many-th training image.
        outputs: Outputs of the original's network, where not the number of classes.
        printed: What the original printed.
        defects: Items of docs/paper-vs-code.md that touch it.
        notes: What else a reader must know.
        short: (epochs, training images) of the short budget; a tenth and a fifth if `None`.
    """

    name: str
    sources: tuple[str, ...] = ()
    data: str
    model: str
    train: TrainConfig
    selection: str
    heads: tuple[str, ...] = ("spinal", "mlp-paper")
    original_heads: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    necks: Mapping[str, str] = field(default_factory=dict)
    image_size: int | None = None
    in_channels: Literal[1, 3] | None = None
    constants: str = "none"
    pretrained: bool = False
    original_seeds: str = "none"
    pictures: tuple[str, str] | None = None
    parts: tuple[int, ...] = ()
    validation: tuple[int, int] | None = None
    outputs: int | None = None
    printed: tuple[Printed, ...] = ()
    defects: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    short: tuple[int, int] | None = None

    @property
    def is_ours(self) -> bool:
        """Whether it is a recipe of our own, and no experiment of the original."""
        return not self.sources

    @property
    def selected_on(self) -> str:
        """What decided in the original: "test", "validation" or "training"."""
        return SELECTION[self.selection]

    @property
    def is_demonstration(self) -> bool:
        """Whether the original had no data to train on."""
        return self.selection == NOTHING

    @property
    def gpu_hours(self) -> float:
        """Rough hours of one run (one head, one seed) on a GPU that sustains 10 TFLOP/s."""
        macs, reference = MACS[self.model]
        size = self.image_size or DATASETS[self.data].image_shape[-1]
        per_image = macs * (size / reference) ** 2 * 3 * 2  # forward and twice that back; 2 FLOPs
        return self.train.epochs * DATASETS[self.data].sizes[0] * per_image / 10e12 / 3600
