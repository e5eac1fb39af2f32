"""A head of your own beside the spinal one, in a comparison with paired seeds and intervals.

    python own_head.py              # some minutes; --seeds 2 --epochs 2 for a first look

A head is a module that maps (B, in_features) to (B, out_features). Its keyword arguments become
its options, as in "own_head:GatedHead:width=16". The command knows it by the same name, in the
folder of this file: spinalnet compare digits --heads own_head:GatedHead,spinal,linear
"""

import argparse

import torch
from torch import nn

import spinalnet


class GatedHead(nn.Module):
    """A narrow hidden layer, each unit of which is switched by a gate."""

    def __init__(self, in_features: int, out_features: int, *, width: int = 24) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.hidden = nn.Linear(in_features, 2 * width)
        self.output = nn.Linear(width, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(nn.functional.glu(self.hidden(x)))


def main() -> None:
    """Compare it with a spinal and a linear head."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", default="runs/own-head")
    asked = parser.parse_args()
    found = spinalnet.compare(
        "digits",
        "own_head:GatedHead,spinal,linear",
        seeds=asked.seeds,
        epochs=asked.epochs,
        out=asked.out,
    )
    print(found.verdict)
    for head in found.summary.heads:
        if head.mean is not None:  # of one whose runs failed
            print(f"{head.head}: {100 * head.mean:.1f} % in {head.n} runs")


if __name__ == "__main__":  # every run imports this file for its head, and shall not start anew
    main()
