"""Time an epoch of a head on cached features against one through the frozen trunk.

    python benchmarks/transfer.py DIR_OF_PHOTOGRAPHS

Writes benchmarks/results/transfer.json.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import torch
from command_line import existing_folder, new_parser
from torch import nn

from spinalnet import timing
from spinalnet.bench.rows import compare, write_result
from spinalnet.comparison import building
from spinalnet.comparison.spec import RunSpec
from spinalnet.models import features as features_module
from spinalnet.models.surgery import freeze_except_head_
from spinalnet.training import placement

RESULT = Path(__file__).parent / "results" / "transfer.json"
IMAGES, BATCH = 64, 32


def epoch(
    model: nn.Module, source: placement.BatchSource, optimizer: torch.optim.Optimizer
) -> None:
    for inputs, targets in source.batches(BATCH, shuffle=True):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def measure(photographs: str) -> None:
    torch.set_num_threads(1)
    rows = []
    for head in ("spinal", "mlp"):
        spec = RunSpec.of(
            photographs, "efficientnet_lite0", head=head, limit=IMAGES, pretrained=True
        )
        splits = building.load_splits(spec)
        few = splits.test.subset(torch.arange(4))  # features of these are not looked at
        splits = dataclasses.replace(splits, val=few, test=few)
        model = freeze_except_head_(building.build_model(spec, splits.info)).train()
        trunk, module = model.get_submodule("trunk").eval(), model.get_submodule("head")
        optimizer = torch.optim.AdamW(module.parameters())
        with tempfile.TemporaryDirectory() as cache:
            features = features_module.frozen_splits(trunk, splits, cache=cache).train

        def ours(module=module, features=features, optimizer=optimizer) -> None:
            epoch(module, features, optimizer)

        def theirs(model=model, images=splits.train, optimizer=optimizer) -> None:
            epoch(model, images, optimizer)

        name = "frozen trunk in every epoch"
        timings = timing.interleave({"ours": ours, name: theirs}, seconds=10.0, min_rounds=5)
        rows.append(compare(f"{head} head", name, "images/s", len(splits.train), timings))
        print(rows[-1], flush=True)
    protocol = (
        f"one training epoch of a head on efficientnet_lite0, {IMAGES} photographs of 224 x 224 in "
        f"memory, batch {BATCH}, one thread, no augmentation; both ways in turns; medians, "
        "quartiles of the ratio; computing the features, once, is not in the time"
    )
    write_result(RESULT, "transfer", protocol, rows)


if __name__ == "__main__":
    parser = new_parser(__doc__)
    parser.add_argument("photographs", type=existing_folder, help="folder of images")
    measure(str(parser.parse_args().photographs))
