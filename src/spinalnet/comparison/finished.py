"""The runs of a comparison as their folder holds them: which are finished, which are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spinalnet import files
from spinalnet._checks import InputError, check_values
from spinalnet.comparison.schema import read_mapping
from spinalnet.comparison.wording import listing
from spinalnet.training import RunRecord, load_runs

# What is read of the files of a comparison and of its runs.
_QUESTION = {
    "heads": str | tuple[str, ...] | None,
    "seeds": int | tuple[int, ...] | None,
    "epochs": int | None,
    "command": str | None,
}
_TIMES = {"inference": float | None, "training": float | None}
_RESULT = {
    **dict.fromkeys(("seed", "params", "head_params", "head_macs", "macs"), int),
    "head": str,
    "test": Mapping,
    "train_seconds": float | None,
    "epochs_run": int | None,
    "notes": tuple[str, ...] | None,
    "class_names": tuple[str, ...] | None,
}
_TEST = {
    "n": int | None,
    "confusion": tuple[tuple[int, ...], ...] | None,
    **dict.fromkeys(("accuracy", "mse", "loss", "top5_accuracy"), float | None),
}


@dataclass(frozen=True)
class FinishedRuns:
    """A comparison folder as read: finished runs by head and seed, and what is missing."""

    question: Mapping[str, Any]
    timing: Mapping[str, Any] | None
    runs: Mapping[str, Mapping[int, RunRecord]]  # heads in order, first = the one compared
    unfinished: tuple[str, ...]
    absent: tuple[str, ...]
    command: str | None

    @property
    def records(self) -> list[RunRecord]:
        """All finished runs."""
        return [record for by_seed in self.runs.values() for record in by_seed.values()]

    @property
    def results(self) -> list[Mapping[str, Any]]:
        """Their results."""
        return [result_of(record) for record in self.records]

    @property
    def metric(self) -> str:
        """What their verdict is about."""
        return metric_of(self.results[0])

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds that ran or were asked for."""
        ran = {seed for by_seed in self.runs.values() for seed in by_seed}
        return tuple(sorted(ran | set(_seeds_asked(self.question))))


def result_of(record: RunRecord) -> Mapping[str, Any]:
    """Return the result of a run that is finished."""
    return record.result or {}


def metric_of(result: Mapping[str, Any]) -> str:
    """Return what a result is judged by: "accuracy", or "mse" of a regression."""
    return "accuracy" if "accuracy" in result["test"] else "mse"


def read_folder(folder: Path) -> FinishedRuns:
    """Read the folder of a comparison, or of a single run, and see that its runs belong together.

    Raises:
        InputError: If there is no finished run, or the runs do not belong together.
    """
    question = read_mapping(folder / "comparison.yaml") or {}
    with files.reading(folder / "comparison.yaml"):
        check_values(question, _QUESTION)
    timing = read_mapping(folder / "timing.json")
    with files.reading(folder / "timing.json"):
        check_values(timing or {}, {"heads": Mapping | None})
        for times in ((timing or {}).get("heads") or {}).values():
            check_values(times or {}, _TIMES)
    finished, unfinished = _by_head_and_seed(folder)
    asked = question.get("heads") or []
    asked = asked.split(",") if isinstance(asked, str) else list(asked)
    # Without the question the spinal head, the subject of this package, is the first.
    found = [*asked, *sorted(finished, key=lambda head: (head != "spinal", head))]
    order = [head for head in dict.fromkeys(found) if head in finished]
    comparison = FinishedRuns(
        question,
        timing=timing,
        runs={head: dict(sorted(finished[head].items())) for head in order},
        unfinished=tuple(unfinished),
        absent=(),
        # A report that is written again keeps the command that the last one was given.
        command=question.get("command")
        or (read_mapping(folder / "summary.json") or {}).get("command"),
    )
    for key in ("data", "model", "task"):
        values = sorted({str(result.get(key)) for result in comparison.results})
        if len(values) > 1:
            raise InputError(
                f"the runs of a comparison must share their {key}, got {listing(values)} in "
                f"'{folder}'. Keep one folder per comparison."
            )
    expected = [(head, seed) for head in asked or order for seed in comparison.seeds]
    absent = [f"{head}-seed{seed}" for head, seed in expected if seed not in finished.get(head, {})]
    return replace(comparison, absent=tuple(name for name in absent if name not in unfinished))


def _by_head_and_seed(folder: Path) -> tuple[dict[str, dict[int, RunRecord]], list[str]]:
    """Return the finished runs, and the names of the others."""
    finished: dict[str, dict[int, RunRecord]] = {}
    unfinished = []
    for record in load_runs(folder):
        if not record.done or record.result is None:
            unfinished.append(record.path.name)
            continue
        _check(record)
        head, seed = record.result.get("label") or record.result["head"], record.result["seed"]
        if seed in finished.setdefault(head, {}):
            raise InputError(
                f"a comparison holds one run per head and seed, got '{record.path.name}' and "
                f"'{finished[head][seed].path.name}' for {head}, seed {seed}. Move one away."
            )
        finished[head][seed] = record
    if not finished:
        raise InputError(
            f"a report needs a finished run, found only unfinished ones in '{folder}' "
            f"({listing(unfinished)}). Finish them with the command that started them."
        )
    return finished, unfinished


def _check(record: RunRecord) -> None:
    """See that a finished run's files hold what is read of them."""
    with files.reading(record.path / "result.json"):
        check_values(record.result, _RESULT)
        test = result_of(record)["test"]
        check_values(test, _TEST)
        matrix = test.get("confusion") or []
        if any(len(row) != len(matrix) for row in matrix):
            raise InputError("the confusion must be square.")
    with files.reading(record.path / "environment.json"):
        check_values(record.environment, {})


def _seeds_asked(question: Mapping[str, Any]) -> list[int]:
    """The seeds asked for: a list, or a number N that means 0 to N - 1."""
    asked = question.get("seeds") or []
    return list(range(asked)) if isinstance(asked, int) else list(asked)
