"""Transfer learning by the scripts: pretrained trunks on data sets of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spinalnet.paper.recipes.row import BEST_VALIDATION, FOLDER_MAXIMUM, Recipe, printed
from spinalnet.paper.recipes.settings import (
    CALTECH_PARTS,
    FLOWER_PARTS,
    VGG_ON_MNIST,
    bare,
    cut,
    dropout_norm,
    fine_tuned,
    standard,
    wide,
)

_SCRIPT = "Transfer Learning/Transfer_Learning"
_DOC = "docstring of the script"
_SELECTED = "accuracy on the selection data"


def _vgg(data: str, *, script: str, notes: tuple[str, ...] = (), **own: Any) -> Recipe:
    """Return the row of a script whose spinal head is never reached."""
    unreached = (
        "The script puts its spinal head where VGG never looks and trains the network's own "
        "classifier with 1,000 outputs; the printed numbers are of other backbones."
    )
    return Recipe(
        name=f"transfer-{data}",
        sources=(f"{_SCRIPT}_{script}.py",),
        data=data,
        model="vgg19_bn",
        selection=FOLDER_MAXIMUM,
        original_heads=("mlp-paper",),
        options={"spinal": bare(20)},
        outputs=1000,
        notes=(unreached, *notes),
        **own,
    )


_HYMENOPTERA = Recipe(
    name="transfer-hymenoptera",
    sources=(f"{_SCRIPT}_hymenoptera.py",),
    data="hymenoptera",
    model="resnet18",
    **fine_tuned(4, "resized-crop+flip", 224, (0.001, 25), constants="imagenet"),
    pictures=("resized-crop:224+flip", "resize:256+centre-crop:224"),
    selection=FOLDER_MAXIMUM,
    heads=("spinal", "linear"),
    original_heads=("spinal",),
    defects=("A2", "A9", "B3"),
)

ROWS = (
    Recipe(
        name="transfer-bird225",
        sources=(f"{_SCRIPT}_Bird225.py",),
        data="bird-225",
        **wide(24, cut(230, 224), 224, (0.001, 25)),
        pictures=standard(230, 224),
        selection=BEST_VALIDATION,
        options={"spinal": dropout_norm(1024)},
        printed=printed(
            _DOC, {"spinal": 0.9956, "VGG19_bn, spinal": 0.9902, "VGG19_bn, its own layers": 0.9867}
        ),
        defects=("A17", "A19", "B3", "B6"),
    ),
    _vgg(
        "cifar10",
        script="CIFAR10",
        **fine_tuned(28, cut(272, 256), 256, (0.001, 50)),
        pictures=standard(272, 256, "resize:256"),
        printed=printed(_DOC, {"WideResNet, linear": 0.9822, "WideResNet, spinal": 0.9812}),
        defects=("A5", "A9", "A17", "A19", "A32", "B3"),
    ),
    _vgg(
        "svhn",
        script="SVHN",
        **fine_tuned(28, "rotation:15+zoom-crop:272,256", 256, (0.001, 50)),
        pictures=(
            "resize:272,320+rotation:15+centre-crop:272+crop:256",
            "resize:272,320+centre-crop:256",
        ),
        printed=printed(_DOC, {"WideResNet, spinal": 0.9787}),
        defects=("A5", "A9", "A10", "A17", "A19", "A32", "B3", "B5", "B7"),
        notes=("The script ends in an error in its transforms; this is what they set out to do.",),
    ),
    Recipe(
        name="transfer-cifar100",
        sources=(f"{_SCRIPT}_CIFAR100.py",),
        data="cifar100",
        **wide(24, cut(272, 256), 256, (0.001, 50)),
        pictures=standard(272, 256, "resize:256"),
        selection=FOLDER_MAXIMUM,
        options={"spinal": dropout_norm(512)},
        printed=printed(
            _DOC,
            {
                "spinal": 0.8834,
                "ResNet101 at 128 pixels, spinal": 0.8404,
                "CIFAR-10, ResNet101 at 128 pixels, spinal": 0.9703,
                "CIFAR-10, spinal": 0.9812,
            },
        ),
        defects=("A9", "A17", "A19", "A20", "B3"),
    ),
    Recipe(
        name="transfer-cinic10",
        sources=(f"{_SCRIPT}_CINIC10.py",),
        data="cinic-10",
        **wide(9, cut(456, 448), 448, (0.01, 20), (0.001, 20), constants="cinic"),
        pictures=standard(456, 448),
        selection=BEST_VALIDATION,
        options={"spinal": bare(20)},
        printed=printed(_DOC, {"spinal": 0.9360}),
        defects=("A18", "A21", "B3", "B12"),
    ),
    Recipe(
        name="transfer-caltech101",
        sources=(f"{_SCRIPT}_Caltech101.py",),
        data="caltech-101",
        **wide(30, cut(230, 224), 224, (0.001, 20), original_heads=("linear",)),
        pictures=standard(230, 224),
        parts=CALTECH_PARTS,
        selection=BEST_VALIDATION,
        options={"spinal": bare(1024)},
        printed=printed(
            _DOC, {"linear": 0.9611, "spinal": 0.9640, "spinal with dropout and norm": 0.9687}
        ),
        defects=("A7", "A17", "B3", "B15"),
        notes=("The script trains the linear head; the spinal one is commented out.",),
    ),
    Recipe(
        name="transfer-fruits360",
        sources=(f"{_SCRIPT}_Fruits360.py",),
        data="fruits-360",
        **wide(224, "rotation:15+resized-crop+flip+vertical-flip", 128, (0.01, 20)),
        pictures=("resize:140+rotation:15+resized-crop:128+flip+vertical-flip", "resize:128"),
        selection=FOLDER_MAXIMUM,
        options={"spinal": bare(131)},
        printed=printed("public run named in the README", {"spinal": 0.9999}),
        defects=("A9", "A17", "B7"),
    ),
    Recipe(
        name="transfer-mnist",
        sources=(f"{_SCRIPT}_MNIST.py",),
        **VGG_ON_MNIST,
        validation=(10, 0),
        selection=BEST_VALIDATION,
        defects=("A8", "A17", "A18", "A30", "B14"),
    ),
    Recipe(
        name="transfer-flowers102",
        sources=(f"{_SCRIPT}_Oxford102flower.py",),
        data="flowers-102",
        **wide(8, cut(464, 448), 448, (0.001, 50)),
        pictures=standard(464, 448),
        parts=FLOWER_PARTS,
        selection=FOLDER_MAXIMUM,
        options={"spinal": bare(102)},
        printed=(
            *printed(_DOC, {"linear": 0.9939, "spinal": 0.9930}, _SELECTED),
            *printed(_DOC, {"spinal with dropout and norm": 0.9914}, "the same"),
        ),
        defects=("A9", "A17", "A19", "B3"),
    ),
    Recipe(
        name="transfer-stl10",
        sources=(f"{_SCRIPT}_STL10.py",),
        data="stl10",
        **wide(24, cut(272, 256), 256, (0.001, 20)),
        pictures=standard(272, 256, "resize:256"),
        selection=FOLDER_MAXIMUM,
        options={"spinal": dropout_norm(512)},
        printed=printed(_DOC, {"spinal": 0.9823}),
        defects=("A9", "A10", "A17", "B3"),
    ),
    Recipe(
        name="transfer-cars",
        sources=(f"{_SCRIPT}_Stanford_Cars.py",),
        data="stanford-cars",
        **wide(9, cut(456, 448), 448, (0.001, 25), (0.0001, 25)),
        pictures=standard(456, 448),
        selection=FOLDER_MAXIMUM,
        options={"spinal": bare(196)},
        printed=printed(_DOC, {"spinal": 0.9335}),
        defects=("A9", "A17", "A18", "B3"),
    ),
    _HYMENOPTERA,
    replace(
        _HYMENOPTERA,
        name="transfer-hymenoptera-reused",
        heads=("spinal-reused", "linear"),
        original_heads=("spinal-reused",),
        notes=("The script's wiring: layers 3 and 4 also run as layers 5 and 6.",),
    ),
)
