"""One network on several processes: each takes its share of every batch.

    torchrun --nproc-per-node 2 distributed.py           # two processes, or two GPUs

The main process writes; the same command again goes on where the last epoch ended.
"""

import argparse

import torch.distributed as dist

from spinalnet import TrainConfig, create_model, evaluate, fit, load_dataset

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", default="digits")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--out", default="runs/distributed")
asked = parser.parse_args()

splits = load_dataset(asked.data, seed=0, image_size=28)
model = create_model("mnist-cnn", splits.info.num_classes, head="spinal", seed=0)
fit(model, splits.train, splits.val, TrainConfig(epochs=asked.epochs), out=asked.out)
found = evaluate(model, splits.test)
if not dist.is_initialized() or dist.get_rank() == 0:
    print(f"test accuracy {found.accuracy:.4f}")
