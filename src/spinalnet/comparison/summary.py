"""What the runs of a comparison say: rows per head, paired differences, and the verdict in words.

Only files are read (`result.json`, `metrics.jsonl`, `comparison.yaml`, `timing.json`), never a
model or a data set, so a summary can be made years after the runs. The heads are compared by seed
(see `statistics`); all runs are scored on one test set, so the interval covers the randomness of
training only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spinalnet._checks import InputError, read_fields
from spinalnet.comparison.findings import findings, method_notes, missing_notes
from spinalnet.comparison.finished import FinishedRuns, read_folder, result_of
from spinalnet.comparison.schema import SCHEMA, load, upgraded
from spinalnet.comparison.statistics import Difference, deviation, finite, mean, paired_difference
from spinalnet.comparison.wording import Units, judged, listing


@dataclass(frozen=True)
class HeadSummary:
    """One row of the result table.

    Attributes:
        head: Name of the head.
        params: Parameters of the whole model; `head_params` of the head alone.
        head_params: See `params`.
        head_macs: Multiply-accumulates of the head per example; `macs` of the whole model.
        macs: See `head_macs`.
        n: Number of finished runs.
        mean: Mean of the test metric over the finished runs (accuracies are fractions).
        std: Sample standard deviation (n - 1); None for a single run.
        values: Test metric by seed, in the order of `Summary.seeds`; None where there is no run.
        train_seconds_mean: Mean wall time of training.
        inference_us: Measured head time per batch, microseconds; None if it was not measured.
        training_us: The same for forward and backward.
        difference: None for the first head.
    """

    head: str
    params: int
    head_params: int
    head_macs: int
    macs: int
    n: int
    mean: float
    std: float | None
    values: tuple[float | None, ...]
    train_seconds_mean: float | None
    inference_us: float | None
    training_us: float | None
    difference: Difference | None


@dataclass(frozen=True)
class Summary:
    """All that the tables print; `to_dict` is the content of `summary.json`.

    Attributes:
        data: Name of the data set.
        model: Name of the model.
        epochs: Epochs asked for (fewer may have run: see early stopping).
        seeds: All seeds of the comparison.
        metric: "accuracy" (higher is better) or "mse" (lower is better).
        selected_on: What chose the epoch that is tested: "validation" or "test".
        test_size: Number of test examples.
        heads: One row per head; the first is the one the others are compared with.
        verdict: One paragraph.
        notes: Sentences a reader must know to judge the numbers.
        timing: Device, threads, batch size and repeats of the head times.
        environment: Software and hardware of the runs.
        command: The command that made the runs.
    """

    data: str
    model: str
    epochs: int | None
    seeds: tuple[int, ...]
    metric: str
    selected_on: str
    test_size: int | None
    heads: tuple[HeadSummary, ...]
    verdict: str
    notes: tuple[str, ...]
    timing: Mapping[str, Any] | None
    environment: Mapping[str, Any]
    command: str | None

    @property
    def units(self) -> Units:
        """How its numbers are printed."""
        return Units(self.metric, self.test_size)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for strict JSON."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Summary:
        """Make one of what `to_dict` returned, also in an earlier version.

        Raises:
            InputError: If a later version wrote it, or it is mangled.
            KeyError: If it is no summary.
        """
        return cls(**read_fields(cls, upgraded(record, "heads", HeadSummary), "field"))


def summarize(folder: str | Path) -> Summary:
    """Read a comparison folder and analyse it.

    Args:
        folder: The folder that `compare` wrote (run folders in `runs/`).

    Returns:
        Rows per head, paired differences with intervals, the verdict in words, and notes.

    Raises:
        InputError: If there is no finished run, or the runs do not belong together.
    """
    return summarize_runs(read_folder(Path(folder)), None)


def summarize_runs(comparison: FinishedRuns, command: str | None) -> Summary:
    """Analyse what `read_folder` returned; see `summarize`."""
    results, metric = comparison.results, comparison.metric
    sizes = sorted({int(r["test"]["n"]) for r in results if r["test"].get("n")})
    units = Units(metric, sizes[0] if sizes else None)
    values: dict[str, dict[int, float]] = {}
    unusable = []
    for head, by_seed in comparison.runs.items():
        for seed, record in by_seed.items():
            if kept := finite([result_of(record)["test"].get(metric)]):
                values.setdefault(head, {})[seed] = kept[0]
            else:
                unusable.append(record.path.name)
    if not values:
        raise InputError(f"no run has a finite test {metric} ({listing(unusable)}). Train again.")
    first, *others = values
    differences = judged(
        [paired_difference(first, other, values[first], values[other]) for other in others], units
    )
    heads = tuple(
        _head_summary(head, comparison, values[head], difference)
        for head, difference in zip(values, [None, *differences], strict=True)
    )
    selected = sorted({str(result.get("selected_on", "validation")) for result in results})
    timing = comparison.timing
    environment = _common([record.environment for record in comparison.records])
    mixed = [key for key, value in environment.items() if isinstance(value, list)]
    notes = [
        *missing_notes(comparison, unusable),
        *([f"The runs were not made alike: they differ in {listing(mixed)}."] if mixed else []),
        *dict.fromkeys(str(note) for result in results for note in result.get("notes") or []),
        *method_notes(heads, units, selected, sizes, timing),
    ]
    data, model = (str(results[0].get(key)) for key in ("data", "model"))
    return Summary(
        data=data,
        model=model,
        epochs=_epochs(comparison),
        seeds=comparison.seeds,
        metric=metric,
        selected_on=" and ".join(selected),
        test_size=units.test_size,
        heads=heads,
        verdict=" ".join(findings(data, model, heads, units)),
        notes=tuple(notes),
        timing={k: v for k, v in timing.items() if k != "heads"} if timing else None,
        environment=environment,
        command=command or comparison.command,
    )


def _head_summary(
    head: str, comparison: FinishedRuns, by_seed: Mapping[int, float], difference: Difference | None
) -> HeadSummary:
    results = [result_of(comparison.runs[head][seed]) for seed in by_seed]
    values = finite(by_seed.values())
    times = ((comparison.timing or {}).get("heads") or {}).get(head) or {}
    center = mean(values)
    assert center is not None
    return HeadSummary(
        head=head,
        params=int(results[0]["params"]),
        head_params=int(results[0]["head_params"]),
        head_macs=int(results[0]["head_macs"]),
        macs=int(results[0]["macs"]),
        n=len(values),
        mean=center,
        std=deviation(values),
        values=tuple(by_seed.get(seed) for seed in comparison.seeds),
        train_seconds_mean=mean(finite(r.get("train_seconds") for r in results)),
        inference_us=times.get("inference"),
        training_us=times.get("training"),
        difference=difference,
    )


def _epochs(comparison: FinishedRuns) -> int | None:
    """Epochs asked for: as the question says, else the longest run."""
    asked = comparison.question.get("epochs")
    ran = [result["epochs_run"] for result in comparison.results if result.get("epochs_run")]
    return int(asked) if asked else max(ran, default=None)


def _common(environments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all runs share; entries that differ are listed, of the start times the first."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for environment in environments for key in environment):
        seen = [environment.get(key) for environment in environments]
        distinct = [value for i, value in enumerate(seen) if value not in seen[:i]]
        merged[key] = distinct[0] if len(distinct) == 1 else distinct
    if isinstance(started := merged.get("started"), list):
        merged["started"] = min(filter(None, started), default=None)
    return merged


def load_summary(path: str | Path) -> Summary:
    """Read a `summary.json` that `write_report` left, without the runs it was made from.

    Raises:
        InputError: If the file is missing or is not a summary.
    """
    return load(path, Summary.from_dict, "summary")
