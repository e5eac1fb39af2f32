"""Time the engines that run a frozen trunk, reading included, against the trunk as it is.

    python benchmarks/features.py DIR_OF_IMAGES

Writes benchmarks/results/features.json.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from command_line import existing_folder, new_parser
from torch import Tensor, nn

from spinalnet import timing
from spinalnet.bench.rows import compare, write_result
from spinalnet.comparison import building
from spinalnet.comparison.spec import RunSpec
from spinalnet.data import FolderDataset
from spinalnet.data.images import usable_cpus
from spinalnet.models.engines import ENGINES, Engine, Extractor
from spinalnet.models.extracting import extract_batches, one_thread_each
from spinalnet.models.surgery import freeze_except_head_

RESULT = Path(__file__).parent / "results" / "features.json"
IMAGES, BATCH = 32, 32
BASELINE = "trunk as it is"


def as_it_is(trunk: nn.Module, images: FolderDataset, threads: int) -> None:
    """Large batches, channels outermost, in the threads of torch; decoded ahead if several."""
    images = copy.copy(images)
    images.num_workers = threads if threads > 1 else 0
    torch.set_num_threads(threads)
    with torch.no_grad():
        for inputs, _ in images.batches(BATCH):
            trunk(inputs)


def by_engine(extractor: Extractor, batch: int, images: FolderDataset, threads: int) -> None:
    images = copy.copy(images)
    images.num_workers = 0

    def read(rows: Tensor) -> Tensor:
        return torch.cat([x for x, _ in images.subset(rows).batches(batch)])

    reads = [functools.partial(read, rows) for rows in torch.arange(len(images)).split(batch)]
    with one_thread_each():
        for _ in extract_batches(extractor, batch, reads, threads):
            pass


def difference(extractor: Extractor, trunk: nn.Module, images: FolderDataset) -> float:
    """Return the largest difference from the trunk's features, as a part of the largest one."""
    with torch.no_grad():
        pairs = [(extractor(x), trunk(x)) for x, _ in images.batches(8)]
    made, truth = (torch.cat(side) for side in zip(*pairs, strict=True))
    return float((made - truth).abs().max() / truth.abs().max())


def measure(folder: str) -> None:
    spec = RunSpec.of(folder, "efficientnet_lite0", limit=IMAGES, pretrained=True)
    splits = building.load_splits(spec)
    model = freeze_except_head_(building.build_model(spec, splits.info))
    trunk, shape = model.get_submodule("trunk").eval(), splits.info.input_shape
    constants = splits.train.mean, splits.train.std
    images = FolderDataset(splits.train.paths, splits.train.targets, 3, shape[1], *constants)
    ways = {name: Engine(name, torch.device("cpu"), shape).build(trunk) for name in ENGINES}
    differences = {name: difference(way, trunk, images) for name, way in ways.items()}
    rows = []
    for threads in dict.fromkeys((1, usable_cpus())):
        cases: dict[str, Callable[[], object]] = {
            BASELINE: functools.partial(as_it_is, trunk, images, threads)
        }
        for name, way in ways.items():
            cases[name] = functools.partial(by_engine, way, 8, images, threads)
        timings = timing.interleave(cases, seconds=10.0, min_rounds=5)
        for name in ways:
            case = f"{name}, {threads} thread(s)"
            rows.append(compare(case, BASELINE, "images/s", len(images), timings, ours=name))
            print(rows[-1], flush=True)
    said = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    torch.set_num_threads(1)
    protocol = (
        f"{IMAGES} JPEGs of {Path(folder).name} through efficientnet_lite0 at {shape[1]} pixels, "
        "reading included, all ways in turns; medians, quartiles of the ratio; trunk as it is: "
        f"batches of {BATCH}, torch's threads within a batch; engines: small batches, one thread "
        "each; exporting and folding, once, are not in the time; largest difference from what "
        f"the trunk makes, as a part of the largest feature: {said}"
    )
    write_result(RESULT, "features", protocol, rows)


if __name__ == "__main__":
    parser = new_parser(__doc__)
    parser.add_argument("images", type=existing_folder, help="folder of images")
    measure(str(parser.parse_args().images))
