"""A spinal head on a pre-trained ResNet-18, trained on a folder of photographs.

    python pretrained_backbone.py PHOTOS     # PHOTOS holds one folder of images per class

The trunk is frozen, so each epoch is a pass through it and a small step of the head. The command
`spinalnet compare PHOTOS --backbone resnet18 --freeze` computes the features once instead, and says
whether the head helps.
"""

import argparse

import torchvision

from spinalnet import DataSpec, TrainConfig, evaluate, fit, freeze_except_head_, replace_head_
from spinalnet.data import load

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("photos", help="a folder with one folder of images per class")
parser.add_argument("--weights", default="DEFAULT", help="of torchvision; none for random ones")
parser.add_argument("--image-size", type=int, default=224)
parser.add_argument("--epochs", type=int, default=5)
asked = parser.parse_args()

splits = load(DataSpec(asked.photos, image_size=asked.image_size), seed=0)
print(*splits.info.notes, sep="\n")

weights = None if asked.weights == "none" else asked.weights
model = torchvision.models.resnet18(weights=weights)
# Any classifier of torchvision, timm or your own: the last layer is found and replaced.
replace_head_(model, "spinal", splits.info.num_classes)
freeze_except_head_(model)
print(model.fc)

result = fit(model, splits.train, splits.val, TrainConfig(epochs=asked.epochs))
print(f"epoch {result.best_epoch} is best; test {evaluate(model, splits.test).accuracy:.4f}")
