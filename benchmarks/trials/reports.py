"""Reports of a thousand runs, and of a run of 200,000 epochs: how long, and how large the page."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from pathlib import Path

import torch

from spinalnet import RunSpec, files, run_one, write_report
from spinalnet.comparison.outputs import OUTPUTS_FILE, Outputs
from spinalnet.training import runs
from trials.record import Record

RUNS, ROWS, ROUNDS = 1000, 200_000, 3
HEADS = ("spinal", "mlp")


def run(record: Record, folder: Path, *, quick: bool = False) -> None:
    """Make the folders, report, and enter medians."""
    many, long = folder / "many", folder / "long"
    count, rows = (20, 2000) if quick else (RUNS, ROWS)
    make_many(many, count)
    make_long(long, rows)
    for name, place in ((f"{count:,} runs", many), (f"{rows:,} epochs", long)):
        seconds, of_processor = [], []
        for _ in range(1 if quick else ROUNDS):
            began, busy = time.perf_counter(), time.process_time()
            write_report(place)
            seconds.append(time.perf_counter() - began)
            of_processor.append(time.process_time() - busy)
        written = sum(path.stat().st_size for path in place.iterdir() if path.is_file())
        record.put(
            name,
            seconds=round(statistics.median(seconds), 2),
            processor_seconds=round(statistics.median(of_processor), 2),
            page_megabytes=round((place / "report.html").stat().st_size / 1e6, 2),
            folder_megabytes=round(written / 1e6, 1),
        )
        record.save()


def make_many(folder: Path, count: int) -> None:
    """Make a comparison of two heads with so many runs in all, each with answers of its own."""
    folder.mkdir(parents=True)
    seeds = range(count // len(HEADS))
    for head in HEADS:
        spec = RunSpec.of("digits", head=head, limit=200, epochs=3, device="cpu", seed=0)
        first = folder / "runs" / f"{head}-seed0"
        run_one(spec, first)
        result = json.loads((first / "result.json").read_text())
        said = Outputs.load(first / OUTPUTS_FILE)
        for seed in seeds[1:]:
            target = first.with_name(f"{head}-seed{seed}")
            shutil.copytree(first, target, ignore=shutil.ignore_patterns("DONE"))
            test = _answer_otherwise(said, seed, target / OUTPUTS_FILE)
            unit = {"seed": seed, "name": f"seed{seed}"}
            changed = {"seed": seed, "unit": unit, "test": result["test"] | test}
            files.write_mapping(target / "result.json", result | changed)
            _seal(target)
    question = {"heads": list(HEADS), "seeds": list(seeds), "data": "digits", "model": "mnist-cnn"}
    question["units"] = [f"seed{seed}" for seed in seeds]
    files.write_mapping(folder / "comparison.yaml", question)


def _answer_otherwise(said: Outputs, seed: int, path: Path) -> dict[str, object]:
    """Write other answers to a test; return what they change in its result."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.zeros(len(said), said.num_classes, dtype=torch.float64)
    logits.scatter_(1, said.classes, said.probabilities.double().log())
    logits += torch.randn(logits.shape, generator=generator, dtype=torch.float64)
    mine = Outputs.of(logits, said.targets)
    mine.save(path)
    pairs = said.num_classes * said.targets + mine.predicted
    confusion = pairs.bincount(minlength=said.num_classes**2).view(said.num_classes, -1)
    accuracy = float(mine.correct.double().mean())
    return {"accuracy": accuracy, "confusion": confusion.tolist()}


def _seal(folder: Path) -> None:
    """Mark a run as done, with the digests of what it holds now."""
    digests = {path.name: runs.digest_of_file(path) for path in sorted(folder.iterdir())}
    files.write_text(folder / "DONE", files.to_json({"digests": digests}))


def make_long(folder: Path, rows: int) -> None:
    """Make one run of so many epochs."""
    spec = RunSpec.of("digits", limit=60, epochs=2, device="cpu", seed=0)
    run_one(spec, folder)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    result = json.loads((folder / "result.json").read_text()) | {"epochs_run": rows}
    lines = [
        json.dumps(last | {"epoch": epoch, "val_loss": 1 / epoch}) for epoch in range(1, rows + 1)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    files.write_mapping(folder / "result.json", result)
    (folder / "DONE").unlink()
    _seal(folder)
