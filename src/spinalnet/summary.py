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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spinalnet._checks import InputError
from spinalnet.runs import RunRecord, load_runs
from spinalnet.scores import ClassScore

if TYPE_CHECKING:
    from rich.table import Table

ALPHA = 0.05
"""Level of the tests; the intervals hold 1 - ALPHA."""

Outcome = Literal["better", "worse", "none", "untested"]


@dataclass(frozen=True)
class Difference:
    """The first head minus another, over the seeds that both finished.

    Attributes:
        minus: The head that is subtracted.
        of: The head it is subtracted from (the first head of the comparison).
        mean: Mean of the paired differences, in units of the metric; None without a pair.
        low: Lower end of the 95 % t interval; None if it cannot be formed.
        high: Upper end of the interval.
        n: Number of seeds that both heads finished.
        p_value: Of the paired t test, uncorrected; None if there is no test.
        p_holm: The same after Holm's correction over all comparisons of the report.
        outcome: What the evidence says of the first head. "untested": no test was possible.
        verdict: The same in words.
    """

    minus: str
    of: str
    mean: float | None
    low: float | None
    high: float | None
    n: int
    p_value: float | None
    p_holm: float | None
    outcome: Outcome
    verdict: str


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


@dataclass(frozen=True)
class Units:
    """How values of the metric are compared and printed."""

    metric: str
    test_size: int | None

    @property
    def higher_is_better(self) -> bool:
        """Whether it is an accuracy, not an error."""
        return self.metric == "accuracy"

    @property
    def decimals(self) -> int:
        """Decimals of a percentage: two from 1,000 test examples on, else one."""
        return 2 if (self.test_size or 0) > 1000 else 1

    def value(self, value: float | None, *, unit: bool = True) -> str:
        """Print a value; accuracies in per cent."""
        if value is None:
            return "–"
        if self.metric != "accuracy":
            return f"{value:.4g}"
        return f"{100 * value:.{self.decimals}f}" + (" %" if unit else "")

    def differences(self, *values: float) -> list[str]:
        """Print differences without unit; enough digits that one off zero does not read as 0."""
        if self.metric != "accuracy":
            return [f"{value:.3g}" for value in values]
        points = [100 * value for value in values]
        smallest = min((abs(p) for p in points if abs(p) > 1e-9), default=1.0)
        decimals = min(self.decimals + 2, max(self.decimals, math.ceil(-math.log10(smallest))))
        return [f"{0.0 if abs(p) <= 1e-9 else p:.{decimals}f}" for p in points]

    def amount(self, value: float) -> str:
        """Print one difference with its unit."""
        (text,) = self.differences(value)
        return f"{text} points" if self.metric == "accuracy" else f"{text} ({self.metric})"


def paired_difference(
    first: str, other: str, by_first: Mapping[int, float], by_other: Mapping[int, float]
) -> Difference:
    """Analyse one pair of heads; `_correct` adds outcome and verdict once all are known."""
    pairs = [by_first[seed] - by_other[seed] for seed in sorted(by_first.keys() & by_other.keys())]
    n = len(pairs)
    mean = math.fsum(pairs) / n if n else None
    low = high = p_value = None
    if mean is not None and n >= 2 and not _all_equal(pairs, [*by_first.values()]):
        from scipy.stats import t

        error = math.sqrt(math.fsum((d - mean) ** 2 for d in pairs) / (n - 1) / n)
        half_width = float(t.ppf(1 - ALPHA / 2, n - 1)) * error
        low, high = mean - half_width, mean + half_width
        p_value = float(2 * t.sf(abs(mean) / error, n - 1))
    return Difference(other, first, mean, low, high, n, p_value, None, "untested", "")


def _all_equal(differences: Sequence[float], values: Sequence[float]) -> bool:
    """Whether the differences are equal but for the rounding of the values they came from."""
    scale = max(abs(value) for value in [*values, *differences])
    return max(differences) - min(differences) <= 1e-9 * scale


def _correct(differences: Sequence[Difference], units: Units) -> list[Difference]:
    """Add Holm-corrected p-values, outcomes and verdicts to the differences of a report."""
    holm = _holm([d.p_value for d in differences])
    corrected = []
    for d, p_holm in zip(differences, holm, strict=True):
        outcome: Outcome = "untested"
        if d.mean is not None and p_holm is not None:
            wins = (d.mean > 0) == units.higher_is_better
            outcome = "none" if p_holm >= ALPHA else "better" if wins else "worse"
        verdict = _verdict(d, outcome, units)
        corrected.append(
            Difference(**{**asdict(d), "p_holm": p_holm, "outcome": outcome, "verdict": verdict})
        )
    return corrected


def _holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction; comparisons without a test are not counted."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, i) in enumerate(tested):
        running = max(running, min(1.0, (len(tested) - rank) * p))
        corrected[i] = running
    return corrected


def _verdict(d: Difference, outcome: Outcome, units: Units) -> str:
    """Say in words what one comparison shows."""
    if d.mean is None:
        return "not comparable: no seed that both heads finished (n=0)"
    ahead = d.of if (d.mean > 0) == units.higher_is_better else d.minus
    if d.low is None or d.high is None:
        if d.n == 1:
            seen = f"{ahead} ahead by {units.amount(abs(d.mean))}" if d.mean else "no difference"
            return f"no verdict from a single seed: {seen} (n=1)"
        if abs(d.mean) < 1e-12:
            return f"identical results in every seed (n={d.n})"
        return (
            f"{ahead} is ahead by the same {units.amount(abs(d.mean))} in every seed; "
            f"without spread there is no interval and no test (n={d.n})"
        )
    if outcome == "none":
        corrected = " after the Holm correction" if (d.p_value or 0) < ALPHA else ""
        return f"no evidence of a difference{corrected} (n={d.n})"
    near, far = sorted((abs(d.low), abs(d.high)))  # both ends lie on the winner's side of zero
    mean, near, far = units.differences(abs(d.mean), near, far)
    unit = " points" if units.metric == "accuracy" else f" in {units.metric}"
    return f"{ahead} is better by {mean}{unit} (95 % interval {near} to {far}, n={d.n})"


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


def findings(data: str, model: str, heads: Sequence[HeadSummary], units: Units) -> list[str]:
    """Say what the first head reaches, then weigh its gain and cost against each other head."""
    first, *others = heads
    spread = "one seed"
    if first.std is not None:
        spread = f"standard deviation {units.differences(first.std)[0]}, n={first.n}"
    score = (
        f"{units.value(first.mean)} test accuracy"
        if units.metric == "accuracy"
        else f"a test {units.metric} of {units.value(first.mean)}"
    )
    return [
        f"On {data} with {model}, the {first.head} head reaches {score} ({spread}).",
        *(_against(first, h, h.difference, units) for h in others if h.difference),
    ]


def _against(first: HeadSummary, other: HeadSummary, d: Difference, units: Units) -> str:
    sentences = [f"Against {other.head}: {d.verdict}."]
    if d.outcome == "none" and d.mean is not None and d.low is not None and d.high is not None:
        mean, low, high = units.differences(d.mean, d.low, d.high)
        unit = " points" if units.metric == "accuracy" else ""
        sentences.append(
            f"The mean difference is {mean}{unit} (95 % interval {low} to {high}); "
            f"with these seeds and this spread, one below {units.amount((d.high - d.low) / 2)} "
            "would not have counted as evidence."
        )
    one_example = 1 / units.test_size if units.metric == "accuracy" and units.test_size else 0.0
    if d.outcome in ("better", "worse") and abs(d.mean or 0.0) < one_example:
        sentences.append("That is less than one test example.")
    ratios = {
        "parameters": _over(first.head_params, other.head_params),
        "MACs": _over(first.head_macs, other.head_macs),
        "inference time": _over(first.inference_us, other.inference_us),
        "training-step time": _over(first.training_us, other.training_us),
    }
    known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    if known:
        costs = listing([f"{ratio:.2f} times the {name}" for name, ratio in known.items()])
        sentences.append(f"The {first.head} head takes {costs} of the {other.head} head.")
        if whole := _over(first.train_seconds_mean, other.train_seconds_mean):
            sentences.append(f"Training the whole network takes {whole:.2f} times as long.")
        sentences.append(_weigh(first.head, d, known, units))
    return " ".join(sentence for sentence in sentences if sentence)


def _weigh(first: str, d: Difference, ratios: Mapping[str, float], units: Units) -> str:
    """One sentence on gain against cost; ratios within 5 % count as equal."""
    saved = listing([name for name, ratio in ratios.items() if ratio < 0.95])
    paid = listing([name for name, ratio in ratios.items() if ratio > 1.05])
    if d.outcome == "untested":
        return ""
    if d.outcome == "none":
        if saved and paid:
            return f"The choice is one of cost: {first} saves {saved} and pays in {paid}."
        if paid:
            return f"What {first} pays in {paid} buys nothing that these runs can show."
        if saved:
            loss = -(d.low or 0.0) if units.higher_is_better else (d.high or 0.0)
            allowed = f"; the interval still allows one of {units.amount(loss)}" if loss > 0 else ""
            return f"The saving in {saved} comes without a loss that these runs can show{allowed}."
        return "At about equal cost these runs give no reason to prefer either."
    if not saved and not paid:
        return "The cost is about equal."
    if d.outcome == "better":
        with_saving = f"comes with a saving in {saved}" if saved else ""
        with_price = f"is paid for in {paid}" if paid else ""
        return f"The gain {' and '.join(filter(None, [with_saving, with_price]))}."
    if saved:
        return f"The loss buys a saving in {saved}{f', at a price in {paid}' if paid else ''}."
    return f"It costs more {paid} as well: nothing in these runs speaks for {first}."


def _over(first: float | None, other: float | None) -> float | None:
    return first / other if first and other else None


def listing(items: Iterable[object]) -> str:
    """Join as in a sentence: "a, b and c"."""
    *head, last = [str(item) for item in items] or [""]
    return f"{', '.join(head)} and {last}" if head else last


def table_cells(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """The result table as text: header (lines split at newlines) and one row per head."""
    units = Units(summary.metric, summary.test_size)
    timed = any(head.inference_us or head.training_us for head in summary.heads)
    compared = len(summary.heads) > 1
    score = "accuracy,\n%" if summary.metric == "accuracy" else f"{summary.metric}\n"
    unit = ",\npoints" if summary.metric == "accuracy" else ""
    header = ["head", "params", "head\nMACs"]
    if timed:
        header.append("head time,\nµs (inf. /\ntrain.)")
    header.append(f"{score} (mean\n± std)")
    if compared:
        header.append(f"{summary.heads[0].head} minus\nthis (95 % interval{unit})")
    header += ["n", "train\nseconds"]
    rows = []
    for head in summary.heads:
        row = [head.head, f"{head.params:,}", f"{head.head_macs:,}"]
        if timed:
            row.append(f"{_number(head.inference_us)} / {_number(head.training_us)}")
        std = "" if head.std is None else f" ± {units.differences(head.std)[0]}"
        row.append(units.value(head.mean, unit=False) + std)
        if compared:
            row.append(_difference_cell(head.difference, units))
        rows.append([*row, str(head.n), _number(head.train_seconds_mean)])
    return header, rows


def _difference_cell(d: Difference | None, units: Units) -> str:
    if d is None or d.mean is None:
        return "–"
    if d.low is None or d.high is None:
        (mean,) = units.differences(d.mean)
        return f"{mean} (no interval, n={d.n})"
    mean, low, high = units.differences(d.mean, d.low, d.high)
    return f"{mean} ({low} to {high})"


def _number(value: float | None) -> str:
    """Print a time with about three digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def result_table(summary: Summary) -> Table:
    """Return the result table for the terminal, captioned with the setting."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    header, rows = table_cells(summary)
    table = Table(
        title=f"{summary.data}, {summary.model}, selected on {summary.selected_on}",
        box=SIMPLE_HEAD,  # with no rules between columns the table fits 80 characters
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in header:
        is_name = column == "head"
        table.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    for row in rows:
        table.add_row(*row)
    return table


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


def markdown_table(summary: Summary) -> str:
    """Return the result table as GitHub Markdown, without a trailing newline."""
    header, rows = table_cells(summary)
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [[column.replace("\n", " ") for column in header], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def class_table(classes: Mapping[str, ClassScore]) -> Table:
    """Return precision, recall, F1 and support by class, for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("class", "precision", "recall", "F1", "support"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, row in classes.items():
        shares = [f"{share:.4f}" for share in (row.precision, row.recall, row.f1)]
        table.add_row(escape(name), *shares, f"{row.support}")
    return table
