"""VGG-5 with a spinal head beside the same network without the chain, on Fashion-MNIST.

    python vgg5.py                  # downloads Fashion-MNIST (30 MB); best with a GPU
    python vgg5.py --data digits --epochs 2 --limit 200

One seed says nothing about heads; it shows that both train alike. For an answer:
`spinalnet compare fashion-mnist --model vgg5 --heads spinal,unchained,mlp --seeds 10`.
"""

import argparse

from spinalnet import DataSpec, TrainConfig, count_macs, create_model, evaluate, fit
from spinalnet.data import load

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", default="fashion-mnist")
parser.add_argument("--data-dir")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--limit", type=int, help="training images to use; all without it")
asked = parser.parse_args()

data = DataSpec(asked.data, data_dir=asked.data_dir, image_size=28, limit=asked.limit)
splits = load(data, seed=0)
config = TrainConfig(epochs=asked.epochs, schedule="one-cycle", augment="crop:2+flip")
for head in ("spinal", "unchained"):
    # The same seed draws the same trunk, the same order of images and the same augmentation.
    model = create_model("vgg5", splits.info.num_classes, head=head, seed=0)
    macs = count_macs(model, splits.info.input_shape)
    fit(model, splits.train, splits.val, config)
    found = evaluate(model, splits.test)
    print(f"{head}: test accuracy {found.accuracy:.4f}, head {macs.head:,} multiplications")
