"""What the runs of a comparison say: rows per head, paired differences, and the verdict in words.

Only files are read (`result.json`, `metrics.jsonl`, `comparison.yaml`, `timing.json`), never a
model or a data set, so a summary can be made years after the runs.

The statistics, in one place:

* heads are compared by seed: members of a pair share split, data order, augmentation stream and
  trunk initialisation, so the analysis is of the paired differences (first head minus other);
* the interval is Student's t on those differences, the p-value that of the paired t test;
* with several comparisons a difference counts as evidence only if its Holm-corrected p-value is
  below 0.05; the printed intervals stay the ones of each comparison alone;
* all runs are scored on one test set, so the interval covers the randomness of training only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spinalnet._checks import InputError
from spinalnet.comparison.statistics import ALPHA, Difference, Units, _correct, paired_difference
from spinalnet.comparison.wording import findings, listing
from spinalnet.training.runs import RunRecord, load_runs


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
    """All that the tables print; `as_dict` is the content of `summary.json`.

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

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for strict JSON; metric columns are named after the metric."""
        plural = "accuracies" if self.metric == "accuracy" else f"{self.metric}_values"
        names = {"mean": f"{self.metric}_mean", "std": f"{self.metric}_std", "values": plural}
        record = asdict(self)
        record["heads"] = [
            {names.get(key, key): value for key, value in head.items()} for head in record["heads"]
        ]
        return record


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


def read_folder(folder: Path) -> FinishedRuns:
    """Read the folder of a comparison, or of a single run, and see that its runs belong together.

    Raises:
        InputError: If there is no finished run, or the runs do not belong together.
    """
    records = load_runs(folder)
    question = _mapping(folder / "comparison.yaml") or {}
    finished: dict[str, dict[int, RunRecord]] = {}
    unfinished = []
    for record in records:
        if not (record.done and record.result):
            unfinished.append(record.path.name)
            continue
        head, seed = str(record.result["head"]), int(record.result["seed"])
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
    asked = question.get("heads") or []
    asked = asked.split(",") if isinstance(asked, str) else [str(head) for head in asked]
    # Without the question the spinal head, the subject of this package, is the first.
    found = [*asked, *sorted(finished, key=lambda head: (head != "spinal", head))]
    order = [head for head in dict.fromkeys(found) if head in finished]
    runs = {head: dict(sorted(finished[head].items())) for head in order}
    seeds = {seed for by_seed in runs.values() for seed in by_seed} | set(_seeds(question))
    expected = [(head, seed) for head in asked or order for seed in sorted(seeds)]
    absent = [f"{head}-seed{seed}" for head, seed in expected if seed not in finished.get(head, {})]
    timing = _mapping(folder / "timing.json")
    comparison = FinishedRuns(
        question,
        timing,
        runs,
        tuple(unfinished),
        tuple(name for name in absent if name not in unfinished),
        # A report that is written again keeps the command that the last one was given.
        question.get("command") or (_mapping(folder / "summary.json") or {}).get("command"),
    )
    for key in ("data", "model", "task"):
        values = sorted({str(result.get(key)) for result in comparison.results})
        if len(values) > 1:
            raise InputError(
                f"the runs of a comparison must share their {key}, got {listing(values)} in "
                f"'{folder}'. Keep one folder per comparison."
            )
    return comparison


def _mapping(path: Path) -> dict[str, Any] | None:
    """Read a YAML or JSON mapping (NaN as None); None if there is no such file."""
    import yaml

    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":  # YAML reads 1e-05 as a string
            loaded = json.loads(text, parse_constant=lambda _: None)
        else:
            loaded = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: it is damaged; restore or delete it.") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path} must hold a mapping: it is damaged; restore or delete it.")
    return loaded


def _seeds(question: Mapping[str, Any]) -> list[int]:
    """The seeds asked for: a list, or a number N that means 0 to N - 1."""
    asked = question.get("seeds") or []
    return list(range(asked)) if isinstance(asked, int) else [int(seed) for seed in asked]


def result_of(record: RunRecord) -> Mapping[str, Any]:
    """Return the result of a run that is finished."""
    return record.result or {}


def summarize(folder: str | Path) -> Summary:
    """Read a comparison folder and analyse it.

    Args:
        folder: The folder that `spinalnet compare --out` wrote (run folders in `runs/`).

    Returns:
        Rows per head, paired differences with intervals, the verdict in words, and notes.

    Raises:
        InputError: If there is no finished run, or the runs do not belong together.
    """
    return summarize_runs(read_folder(Path(folder)), None)


def summarize_runs(comparison: FinishedRuns, command: str | None) -> Summary:
    """Analyse what `read_folder` returned; see `summarize`."""
    results = comparison.results
    question = comparison.question
    metric = "accuracy" if "accuracy" in results[0]["test"] else "mse"
    sizes = sorted({int(r["test"]["n"]) for r in results if r["test"].get("n")})
    units = Units(metric, sizes[0] if sizes else None)
    values: dict[str, dict[int, float]] = {}
    unusable = []
    for head, by_seed in comparison.runs.items():
        for seed, record in by_seed.items():
            value = result_of(record)["test"].get(metric)
            if value is None or not math.isfinite(value):
                unusable.append(record.path.name)
            else:
                values.setdefault(head, {})[seed] = float(value)
    if not values:
        raise InputError(f"no run has a finite test {metric} ({listing(unusable)}). Train again.")
    first, *others = values
    seeds = sorted(
        {s for by_seed in comparison.runs.values() for s in by_seed} | {*_seeds(question)}
    )
    differences = _correct(
        [paired_difference(first, other, values[first], values[other]) for other in others], units
    )
    heads = tuple(
        _head_summary(head, comparison, values[head], seeds, difference)
        for head, difference in zip(values, [None, *differences], strict=True)
    )
    selected = sorted({str(result.get("selected_on", "validation")) for result in results})
    timing = comparison.timing
    environment = _common([record.environment for record in comparison.records])
    mixed = [key for key, value in environment.items() if isinstance(value, list)]
    notes = [
        *_missing_notes(comparison, unusable),
        *([f"The runs were not made alike: they differ in {listing(mixed)}."] if mixed else []),
        *dict.fromkeys(str(note) for result in results for note in result.get("notes") or []),
        *_method_notes(heads, units, selected, sizes, timing),
    ]
    data, model = (str(results[0].get(key)) for key in ("data", "model"))
    return Summary(
        data=data,
        model=model,
        epochs=_epochs(comparison),
        seeds=tuple(seeds),
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
    head: str,
    comparison: FinishedRuns,
    values: Mapping[int, float],
    seeds: Sequence[int],
    difference: Difference | None,
) -> HeadSummary:
    from statistics import fmean, stdev

    results = [result_of(comparison.runs[head][seed]) for seed in values]
    seconds = [float(r["train_seconds"]) for r in results if r.get("train_seconds") is not None]
    times = ((comparison.timing or {}).get("heads") or {}).get(head) or {}
    return HeadSummary(
        head=head,
        params=int(results[0]["params"]),
        head_params=int(results[0]["head_params"]),
        head_macs=int(results[0]["head_macs"]),
        macs=int(results[0]["macs"]),
        n=len(values),
        mean=fmean(values.values()),
        std=stdev(values.values()) if len(values) > 1 else None,
        values=tuple(values.get(seed) for seed in seeds),
        train_seconds_mean=fmean(seconds) if seconds else None,
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


def _missing_notes(comparison: FinishedRuns, unusable: Sequence[str]) -> list[str]:
    notes = []
    for names, what in (
        (comparison.unfinished, "unfinished and left out"),
        (comparison.absent, "missing"),
        (unusable, "without a finite test result and left out"),
    ):
        if names:
            one = len(names) == 1
            notes.append(
                f"{len(names)} {'run is' if one else 'runs are'} {what}: {listing(names)}."
            )
    if notes:
        notes.append("Differences use only the seeds that both heads of a pair finished.")
    return notes


def _method_notes(
    heads: Sequence[HeadSummary],
    units: Units,
    selected: Sequence[str],
    sizes: Sequence[int],
    timing: Mapping[str, Any] | None,
) -> list[str]:
    """What a reader must know of the method to judge the numbers."""
    notes = []
    if timing:
        batch, device = timing.get("batch_size", "?"), timing.get("device", "?")
        notes.append(
            f"Head times are microseconds per batch of {batch} on {device} with "
            f"{timing.get('threads', '?')} thread(s): the head alone, inference and training step."
        )
    if "test" in selected:
        notes.append(
            "Selected on test: the reported epoch was chosen by the test result, "
            "so the figures are optimistic."
        )
    tested = [h.difference for h in heads if h.difference and h.difference.p_value is not None]
    if tested:
        notes.append(
            "Intervals are 95 % t intervals of the differences paired by seed, first head minus "
            "other. All runs share one test set, so they cover the randomness of training "
            "(the seed) only, not the sampling of the test set."
        )
    if len(tested) > 1:
        notes.append(
            f"{len(tested)} comparisons are made: a difference counts as evidence only if its "
            f"Holm-corrected p-value is below {ALPHA}; each interval is that of its comparison "
            "alone."
        )
    if len(sizes) > 1:
        notes.append(f"The runs were tested on different numbers of examples: {listing(sizes)}.")
    if units.metric == "accuracy" and units.test_size:
        mean, size = heads[0].mean, units.test_size
        error = math.sqrt(mean * (1 - mean) / size)
        notes.append(
            f"The test set has {size:,} examples: one is worth {100 / size:.2g} points, and the "
            f"binomial standard error of a single accuracy near {units.value(mean)} is "
            f"{100 * error:.2g} points."
        )
    if all(head.n == 1 for head in heads):
        notes.append(
            "One seed per head: how much a result changes from seed to seed is unknown, so "
            "nothing can be concluded; use at least 5 seeds."
        )
    fewest = min((d.n for d in tested), default=0)
    if 2 <= fewest < 5:
        notes.append(
            f"With {fewest} pairs an interval is wide and leans on the differences being normally "
            "distributed; use at least 5 seeds before drawing conclusions."
        )
    return notes


def load_summary(path: str | Path) -> Summary:
    """Read a `summary.json` that `write_report` left, without the runs it was made from.

    Raises:
        InputError: If the file is missing or is not a summary.
    """
    record = _mapping(Path(path))
    if record is None:
        raise InputError(f"there is no summary '{path}'; 'spinalnet report DIR' writes one.")
    try:
        metric = record["metric"]
        plural = "accuracies" if metric == "accuracy" else f"{metric}_values"
        names = {f"{metric}_mean": "mean", f"{metric}_std": "std", plural: "values"}
        heads = []
        for row in record.pop("heads"):
            head = {names.get(key, key): value for key, value in row.items()}
            difference = head.pop("difference")
            head["difference"] = None if difference is None else Difference(**difference)
            heads.append(HeadSummary(**{**head, "values": tuple(head["values"])}))
        seeds, notes = tuple(record.pop("seeds")), tuple(record.pop("notes"))
        return Summary(**record, heads=tuple(heads), seeds=seeds, notes=notes)
    except (KeyError, TypeError) as error:
        raise InputError(f"'{path}' is not a summary of this version ({error}).") from error
