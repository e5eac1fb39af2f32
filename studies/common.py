"""What the studies share: the choice of a setting, answers, a file that grows cell by cell, looks.

A study is a list of cells, each the row of one net on one task. Its file is written after every
cell, so that the same command goes on where it stopped; what was designed may not change meanwhile.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from spinalnet import InputError, files
from spinalnet._checks import check_values
from spinalnet.tabular.stacked import train_together
from spinalnet.training import TrainConfig
from spinalnet.training.environment import describe_environment

if TYPE_CHECKING:
    from spinalnet.comparison.inference import Estimate

RESULTS = Path(__file__).parents[1] / "results" / "studies"
Row = dict[str, Any]
Record = dict[str, Any]
Part = tuple[Tensor, Tensor]  # inputs (N, D), targets (N,) or (N, K)
Data = tuple[Part, Part, Part]  # for training, validation, testing
Setting = TypeVar("Setting")


# --- nets -----------------------------------------------------------------------------------------


def train(
    nets: Sequence[nn.Module],
    configs: Sequence[TrainConfig],
    datas: Sequence[Data],
    *,
    choose_epoch: bool = True,
) -> list[bool]:
    """Train each net on its data, and say of which the training broke off.

    Args:
        nets: Get the weights of their best epoch on validation, or of the last one.
        configs: One for each.
        datas: One for each; targets that are numbers are a regression.
        choose_epoch: Whether validation chooses the epoch.
    """
    numbers = datas[0][0][1].is_floating_point()
    found = train_together(
        nets,
        configs,
        "regression" if numbers else "classification",
        [(*data[0], None) for data in datas],
        [(*data[1], None) for data in datas] if choose_epoch else None,
    )
    return [one.error is not None for one in found]


def best_setting(
    settings: Sequence[Setting],
    seeds: Sequence[int],
    score: Callable[[Sequence[Setting], Sequence[int]], Sequence[float]],
) -> tuple[Setting, list[float]]:
    """Return the setting with the highest mean score over the seeds, and the means of all.

    Args:
        settings: What is chosen from; of equal ones the first is taken.
        seeds: Those of the choice, which no number that is told comes from.
        score: Trains with settings and seeds, pair by pair, and returns their scores on
            validation: higher is better.
    """
    pairs = [(setting, seed) for setting in settings for seed in seeds]
    scores = score([setting for setting, _ in pairs], [seed for _, seed in pairs])
    means = np.reshape(scores, (len(settings), len(seeds))).mean(1)
    return settings[int(means.argmax())], [float(mean) for mean in means]


@torch.no_grad()
def outputs(net: nn.Module, x: Tensor) -> Tensor:
    """Return what a net makes of inputs `(N, D)`, in evaluation: `(N, K)`."""
    net.eval()
    return net(x)


def right(net: nn.Module, part: Part) -> np.ndarray:
    """Return 1 where a net is right, `(N,)`, else 0."""
    logits = outputs(net, part[0])
    return ((logits.argmax(1) == part[1]) & logits.isfinite().all(1)).numpy().astype(float)


def mean_squared_error(net: nn.Module, part: Part) -> float:
    """Return the mean squared error of a net; infinite where it is no number."""
    error = float((outputs(net, part[0]) - part[1]).double().square().mean())
    return error if np.isfinite(error) else float("inf")


def packed(hits: np.ndarray) -> str:
    """Return hits `(N,)` as a short text."""
    return base64.b85encode(zlib.compress(np.packbits(hits > 0).tobytes(), 9)).decode()


def unpacked(texts: list[str], examples: int) -> np.ndarray:
    """Return what `packed` made of several nets, `(M, N)`."""
    rows = [zlib.decompress(base64.b85decode(text)) for text in texts]
    return np.stack([np.unpackbits(np.frombuffer(row, np.uint8))[:examples] for row in rows])


# --- answers --------------------------------------------------------------------------------------


def judged(
    questions: Sequence[Row], estimates: Sequence[Estimate], learnt: Sequence[bool] | None = None
) -> list[Row]:
    """Return each question with its answer; Holm's correction is made over all of them.

    Args:
        questions: What is asked, as it stands in the file.
        estimates: Of the difference that each is about.
        learnt: Whether any net of a question has learnt anything; if not, that is the answer.
    """
    from spinalnet.comparison import inference

    learnt = [True] * len(questions) if learnt is None else learnt
    return [
        {
            **question,
            "difference": estimate.mean,
            "low": estimate.low,
            "high": estimate.high,
            "verdict": said.code if known else "nothing-learned",
            "p_holm": said.p_holm,
            "p_equal_holm": said.p_equal_holm,
        }
        for question, estimate, said, known in zip(
            questions, estimates, inference.judge(estimates), learnt, strict=True
        )
    ]


# --- the file -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """How a study is run: folder of the data, file of the results, cells at a time, which part."""

    data_dir: Path
    out: Path
    jobs: int = 1
    only: str | None = None


@dataclass(frozen=True)
class Study:
    """A study as a command.

    Attributes:
        name: Of the script and of the file of its results.
        about: What the help says: the docstring of the script.
        design: Returns what must not change while cells are added.
        complete: Computes what a record lacks and writes it to the file; see `complete`.
        answers: Returns the answers of a record to what was asked beforehand.
        draw: Draws the figure of a record.
        needs_data: Whether there is a `--data-dir`.
        rows: The lists of a record whose rows are lines of the file.
        parts: What can be asked for alone.
    """

    name: str
    about: str
    design: Callable[[], Record]
    complete: Callable[[Record, Run], None]
    answers: Callable[[Record], Any]
    draw: Callable[[Record, Path], None]
    needs_data: bool = False
    rows: tuple[str, ...] = field(default=("cells",))
    parts: tuple[str, ...] = ()

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Compute what the file lacks, then its answers and the figure; return the exit code."""
        parser = argparse.ArgumentParser(description=self.about.splitlines()[0])
        if self.needs_data:
            parser.add_argument("--data-dir", type=Path, default=Path("data"))
        out = RESULTS / f"{self.name}.json"
        parser.add_argument("--out", type=Path, default=out, help="File of the results.")
        parser.add_argument("--jobs", type=int, default=1, help="Cells computed at a time.")
        parser.add_argument("--draw", action="store_true", help="Compute nothing anew.")
        if self.parts:
            parser.add_argument("--only", choices=self.parts, help="Compute this part alone.")
        given = parser.parse_args(argv)
        torch.set_num_threads(1)
        try:
            return self._run(given)
        except InputError as error:
            print(error, file=sys.stderr)
            return 2

    def _run(self, given: argparse.Namespace) -> int:
        record: Record = files.read_json(given.out) or {}
        with files.reading(given.out):
            lists = ("environments", *self.rows)
            check_values(record, dict.fromkeys(lists, tuple[Mapping[str, Any], ...] | None))
        if given.draw and not record:
            print(f"{given.out} is not there: run this without --draw first.", file=sys.stderr)
            return 2
        if not given.draw:
            asked = json.loads(json.dumps(self.design()))
            if record.get("design", asked) != asked:
                print(f"{given.out} is of another design: give another --out.", file=sys.stderr)
                return 2
            record = {
                "command": f"python studies/{self.name}.py",
                "design": asked,
                "environments": [*record.get("environments", []), describe_environment()],
                "answers": record.get("answers", []),  # of an earlier time, until there are more
                **{name: record.get(name, []) for name in self.rows},
            }
            data_dir, only = getattr(given, "data_dir", Path()), getattr(given, "only", None)
            self.complete(record, Run(data_dir, given.out, given.jobs, only))
        record["answers"] = self.answers(record)
        files.write_rows(given.out, record, *self.rows)
        self.draw(record, given.out.with_suffix(".png"))
        return 0


def keyed(rows: list[Row], names: tuple[str, ...]) -> dict[tuple[Any, ...], Row]:
    """Return rows by their values of `names`."""
    return {tuple(row[name] for name in names): row for row in rows}


def complete(
    record: Record,
    run: Run,
    names: tuple[str, ...],
    keys: Iterable[tuple[Any, ...]],
    compute: Callable[[tuple[Any, ...]], Row],
    lists: tuple[str, ...] = ("cells",),
    into: str = "cells",
    now: Callable[[tuple[Any, ...]], bool] = lambda _: True,
) -> None:
    """Compute the cells that a record lacks, writing each to the file when it is done.

    Args:
        record: What the file holds.
        run: Where the file is, and how many cells are computed at a time.
        names: What of a row is its key.
        keys: Of all cells, in the order in which they stand in the file.
        compute: Returns the row of a key; a function of a module, for other processes find it by
            its name.
        lists: The lists of the record whose rows are lines of the file. With "hits" among them, the
            texts "right" of a row are rows of their own there, one for each seed.
        into: The list that gets the cells.
        now: Whether a cell that is missing is computed this time.
    """
    rows, order = record[into], {key: place for place, key in enumerate(keys)}
    for row in rows:
        if lacking := set(names) - row.keys():
            raise InputError(
                f"{run.out} cannot be used: a row of {into} lacks {', '.join(sorted(lacking))}; "
                "restore it from a copy, or give another --out."
            )
    missing = [key for key in order if key not in keyed(rows, names) and now(key)]
    for key, row in _computed(missing, compute, run.jobs):
        if "hits" in lists:
            own = dict(zip(names, key, strict=True))
            hits = enumerate(row.pop("right"))
            record["hits"] += [own | {"seed": seed, "right": text} for seed, text in hits]
        rows.append(row | {"environment": len(record["environments"]) - 1})
        rows.sort(key=lambda row: order.get(tuple(row[name] for name in names), len(order)))
        files.write_rows(run.out, record, *lists)
        told = [f"{statistics.fmean(row['test']):.4g}"] if "test" in row else []
        told += [f"{row['seconds']} s"] if "seconds" in row else []
        print(*key, *told, flush=True)


def _computed(
    keys: Sequence[tuple[Any, ...]], compute: Callable[[tuple[Any, ...]], Row], jobs: int
) -> Iterator[tuple[tuple[Any, ...], Row]]:
    if jobs == 1:
        yield from ((key, compute(key)) for key in keys)
        return
    pool = ProcessPoolExecutor(jobs)
    try:
        waiting = {pool.submit(compute, key): key for key in keys}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)


# --- looks ----------------------------------------------------------------------------------------


def plain(axes: Any, *, grid: str = "y") -> None:
    """Leave of a plot what is read: a pale grid, and two of its four edges."""
    axes.grid(axis=grid, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def line(
    axes: Any, places: Sequence[float], values: Sequence[Sequence[float]], **look: Any
) -> None:
    """Draw medians of several seeds over places, with a band from the least to the most."""
    middles = [statistics.median(some) for some in values]
    drawn = axes.plot(places, middles, marker="o", ms=4, **look)
    low, high = [min(some) for some in values], [max(some) for some in values]
    axes.fill_between(places, low, high, color=drawn[0].get_color(), alpha=0.12, lw=0)
