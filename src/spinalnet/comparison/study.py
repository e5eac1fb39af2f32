"""A study: the same question on several data sets, and what the answers say together.

A study file names the data and what is asked; every data set is a comparison in a folder of its
own, so a study goes on where it was stopped, and a data set more costs that one alone. The pairs
that the study is about (`confirmatory`) are written down before anything runs: their answers are
corrected for their number over all data sets (Holm); everything else is told without an answer.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np

from spinalnet import files, locks
from spinalnet._checks import InputError, read_values, some, unknown_name
from spinalnet.comparison import across
from spinalnet.comparison.across import Chances, Interval, Ranks
from spinalnet.comparison.answer import Summary
from spinalnet.comparison.metrics import METRICS
from spinalnet.comparison.statistics import holm
from spinalnet.comparison.summary import check_told, load_summary
from spinalnet.texts import from_yaml

if TYPE_CHECKING:
    from spinalnet.comparison.cells import Event
    from spinalnet.comparison.planning import Plan
    from spinalnet.comparison.question import ComparisonSpec

Told = Callable[[str, Summary], None]

_FIELDS = ("data", "heads", "seeds", "confirmatory", "options", "rope")
_PER_DATA = ("data", "target", "name", "options")
_OF_THE_STUDY = ("data", "heads", "seeds", "target", "out", "jobs", "command", "on_event", "watch")
FEWEST = 6
"""Data sets below which the signed-rank test would be sure of anything that none contradicts."""

_LEAST = -1.0
"""R2 below it counts as it: one split of a few rows must not be the whole answer."""


@dataclass(frozen=True)
class StudySpec:
    """What a study asks.

    Attributes:
        data: Arguments of `compare` by the name of the data set; "options" of one are its own.
        heads: Rows of every comparison; the first is compared with the others.
        seeds: Paired seeds, or splits of a table.
        confirmatory: Heads whose comparison with the first the study is about.
        options: Further arguments of every comparison, such as epochs.
        rope: Half the width of the region of practical equivalence across data sets.
    """

    data: Mapping[str, Mapping[str, Any]]
    heads: tuple[str, ...]
    seeds: int
    confirmatory: tuple[str, ...]
    options: Mapping[str, Any]
    rope: float = across.ROPE

    @classmethod
    def read(cls, path: str | Path) -> StudySpec:
        """Read a study file.

        Raises:
            InputError: If it is missing, no YAML, or says something unknown.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"there is no study file '{path}'.")
        text = files.read_text(path)
        try:
            given = from_yaml(text)
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"study file '{path}' is no YAML: {reason}.") from error
        if not isinstance(given, Mapping):
            raise InputError(f"study file '{path}' must hold names and values, such as seeds: 10.")
        for name in given:
            if name not in _FIELDS:
                raise unknown_name("entry of a study", str(name), _FIELDS)
        heads = _names(given.get("heads", "spinal,unchained,matched,mlp,linear"), "heads")
        confirmatory = _names(given.get("confirmatory", list(heads[1:])), "confirmatory")
        for head in confirmatory:
            if head not in heads[1:]:
                raise unknown_name("head of the study's confirmatory pairs", head, heads[1:])
        seeds, rope = given.get("seeds", 10), given.get("rope", across.ROPE)
        if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 2:
            raise InputError(f"seeds must be a whole number of at least 2, got {seeds!r}.")
        rope = read_values({"rope": rope}, {"rope": float})["rope"]
        if not 0 < rope < 1:
            raise InputError(f"rope must be a number between 0 and 1, got {rope!r}.")
        options = _options(given.get("options") or {})
        return cls(_data(given.get("data")), heads, seeds, confirmatory, options, rope)


def _options(given: Any) -> dict[str, Any]:
    """Return arguments of comparisons, each of its type: `lr: 1e-3` is text to YAML.

    Raises:
        InputError: If one is of another type, or is the study's to say.
    """
    if not isinstance(given, Mapping):
        raise InputError("options must be names and values, such as epochs: 8.")
    for name in given:
        if name in _OF_THE_STUDY:
            raise InputError(f"options must not hold {name}, which the study says itself.")
    return read_values(given, _hints())


@functools.cache
def _hints() -> dict[str, Any]:
    """Return the types of all that a comparison is asked for, by name."""
    from spinalnet.comparison.comparing import compare
    from spinalnet.comparison.spec import RunSpec
    from spinalnet.comparison.tables.spec import TableSpec
    from spinalnet.data import DataSpec
    from spinalnet.models import ModelSpec
    from spinalnet.training import TrainConfig

    found: dict[str, Any] = {"batch_size": str, "save_every": int}  # or these
    for kind in (compare, RunSpec, TableSpec, DataSpec, ModelSpec, TrainConfig):
        for name, hint in get_type_hints(kind).items():
            found[name] = found[name] | hint if name in found else hint
    return found


def _names(given: Any, what: str) -> tuple[str, ...]:
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or not all(isinstance(one, str) for one in names):
        raise InputError(f"{what} must be names with commas between, got {given!r}.")
    return tuple(one.strip() for one in names if one.strip())


def _is_reserved(name: str) -> bool:
    """Whether Windows takes a name for a device: "aux.csv", "NUL". Folders are carried about."""
    device = r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?"
    return re.fullmatch(device, name, re.IGNORECASE) is not None


def _data(given: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(given, list) or not given:
        raise InputError("data must be a list of data sets: names, folders, tables with a target.")
    found: dict[str, dict[str, Any]] = {}
    for one in given:
        row = {"data": one} if isinstance(one, str) else one
        if not isinstance(row, Mapping) or not isinstance(row.get("data"), str):
            raise InputError(f"a data set is a name, or has an entry 'data'; got {one!r}.")
        for key in row:
            if key not in _PER_DATA:
                raise unknown_name("entry of a data set", str(key), _PER_DATA)
        row = dict(read_values(row, {"target": str | None, "name": str | int}))
        if "options" in row:
            row["options"] = _options(row["options"])
        stem = re.sub(r"[^A-Za-z0-9.]+", "-", Path(row["data"]).name).strip("-") or "data"
        stem = f"_{stem}" if _is_reserved(stem) else stem
        name = str(row.get("name", stem))
        if name in found or "/" in name or name in (".", "..") or _is_reserved(name):
            raise InputError(
                f"two data sets of a study are called '{name}', or that is no name of a folder: "
                "give them names of their own (name: ...)."
            )
        found[name] = {key: value for key, value in row.items() if key != "name"}
    return found


@locks.writes_alone
def run_study(
    spec: StudySpec,
    out: str | Path,
    *,
    jobs: Any = "auto",
    command: str | None = None,
    on_event: Callable[[Event], None] | None = None,
    told: Told | None = None,
) -> Study:
    """Make all comparisons of a study that are not there yet, and say what they say together.

    Args:
        spec: What is asked.
        out: Folder of the study: `NAME/` holds the comparison on a data set.
        jobs: See `compare`.
        command: See `compare`.
        on_event: See `compare`.
        told: Called with every data set's name and its answer.

    Raises:
        InputError: If anything asked for is impossible.
    """
    from spinalnet.comparison.comparing import compare

    out, found = files.expanded(out), {}
    asked = _asked(spec)
    _questions(spec)  # all of it is refused, if it must be, before the first run
    for name, of_data in asked.items():
        comparison = compare(
            heads=",".join(spec.heads),
            seeds=spec.seeds,
            out=out / name,
            jobs=jobs,
            command=command,
            on_event=on_event,
            **of_data,
        )
        found[name] = comparison.summary
        if told is not None:
            told(name, comparison.summary)
    return together(found, spec.confirmatory, spec.rope)


def _asked(spec: StudySpec) -> dict[str, dict[str, Any]]:
    """Return the arguments of the comparison on each data set, but for heads and seeds."""
    return {
        name: {key: value for key, value in row.items() if key != "options"}
        | {**spec.options, **row.get("options", {})}
        for name, row in spec.data.items()
    }


def _questions(spec: StudySpec) -> dict[str, ComparisonSpec]:
    from spinalnet.comparison.asking import ask

    found = {}
    for name, of_data in _asked(spec).items():
        try:
            found[name] = ask(heads=",".join(spec.heads), seeds=spec.seeds, **of_data)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    return found


def plan_study(
    spec: StudySpec, out: str | Path, *, jobs: Any = "auto"
) -> Iterator[tuple[str, Plan]]:
    """Yield the name of every data set with what its comparison would do and cost.

    Raises:
        InputError: If anything asked for is impossible.
    """
    from spinalnet.comparison import building, planning
    from spinalnet.comparison.engine import Effort

    asked = _asked(spec)
    for name, question in _questions(spec).items():
        folder = files.expanded(out) / name
        trials = 0 if question.is_of_table else asked[name].get("tune", 0)
        yield (
            name,
            planning.plan(
                *(question, folder, Effort(jobs), building.load_splits),
                trials=trials,
                given=asked[name],
            ),
        )


def read_folders(folders: Sequence[str | Path]) -> dict[str, Summary]:
    """Read finished comparisons by the names of their folders.

    Raises:
        InputError: If one is none, tells otherwise than its runs, or two have one name.
    """
    found: dict[str, Summary] = {}
    for folder in map(Path, folders):
        path = folder / "summary.json" if folder.is_dir() else folder
        if not folder.is_dir() and path.suffix.lower() != ".json":
            why = "is not there" if not path.exists() else "is no such file"
            if path.suffix.lower() == ".py" and path.exists():
                why = f"is a script, which `python {shlex.quote(str(path))}` starts"
            raise InputError(
                f"'{folder}' {why}: name a study file (.yaml) or folders of finished comparisons."
            )
        if not path.is_file():
            raise InputError(
                f"'{folder}' is no finished comparison: it has no summary.json. Run "
                "`spinalnet report` on it, or name another."
            )
        name = folder.name if folder.is_dir() else folder.stem
        if name in found:
            raise InputError(f"two comparisons are called '{name}': rename one of their folders.")
        found[name] = load_summary(path)
        if folder.is_dir() and (folder / "runs").is_dir():
            check_told(folder, need_runs=False)
    return found


@dataclass(frozen=True)
class Pair:
    """The first head against another, over all data sets.

    Attributes:
        minus: The other.
        confirmatory: Whether the study is about it.
        differences: Mean difference by data set, positive where the first is better.
        chances: Of the Bayesian signed-rank test; None with fewer than `FEWEST` data sets.
        improvement: Probability that a run of the first beats one of the other.
        answers: By data set; of a confirmatory pair corrected for all of the study's answers.
    """

    minus: str
    confirmatory: bool
    differences: Mapping[str, float]
    chances: Chances | None
    improvement: Interval | None
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Study:
    """What comparisons on several data sets say together.

    Attributes:
        heads: All rows that every data set has, the first one compared with the others.
        means: Mean score by data set and head, higher is better.
        metrics: What was measured, by data set.
        ranks: Of the heads; None with one data set.
        middle: Interquartile mean of every head, where all data sets have one metric.
        pairs: The first head against each other.
        rope: Half the width of the region of practical equivalence.
    """

    heads: tuple[str, ...]
    means: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, str]
    ranks: Ranks | None
    middle: Mapping[str, Interval]
    pairs: tuple[Pair, ...]
    rope: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, the content of `study.json`."""
        return {"schema": 1, **asdict(self)}

    @property
    def headline(self) -> str:
        """What the confirmatory pairs say, in one sentence."""
        said = []
        for pair in self.pairs:
            if pair.confirmatory and pair.chances is not None:
                code, chance = max(asdict(pair.chances).items(), key=lambda item: item[1])
                words = {"better": "better than", "equal": "equal to", "worse": "worse than"}
                sure = f"probability {chance:.2f}"
                said.append(f"{words[code]} {pair.minus} ({sure})")
        if not said:
            count = f"{len(self.means)} data set{'s' * (len(self.means) > 1)}"
            return (
                f"{count} of at least {FEWEST}: too few to say anything of others; the answers "
                "below are of each alone."
            )
        return (
            f"Over data sets like these {len(self.means)}, {self.heads[0]} is most probably "
            f"{some(said, len(said))}; equal means within {self.rope:g}."
        )


def together(
    summaries: Mapping[str, Summary],
    confirmatory: Sequence[str] | None = None,
    rope: float = across.ROPE,
) -> Study:
    """Say what several comparisons say together.

    Args:
        summaries: By the name of the data set; all with the same first head.
        confirmatory: Heads whose comparison with the first counts; all without them.
        rope: Half the width of the region of practical equivalence.

    Raises:
        InputError: If they have no two heads in common, or differ in the first.
    """
    if not summaries:
        raise InputError("a study needs a comparison.")
    firsts = sorted({summary.heads[0].head for summary in summaries.values()})
    if len(firsts) > 1:
        raise InputError(
            f"the comparisons of a study must have the same first head, got {some(firsts, 5)}."
        )
    rows = [[head.head for head in summary.heads] for summary in summaries.values()]
    heads = tuple(head for head in rows[0] if all(head in others for others in rows[1:]))
    if len(heads) < 2:
        raise InputError("the comparisons of a study must have two heads in common.")
    units = {name: _units(summary, heads) for name, summary in summaries.items()}
    means = {
        name: {head: float(np.mean(values)) for head, values in by_head.items()}
        for name, by_head in units.items()
    }
    table = np.array([[row[head] for head in heads] for row in means.values()])
    metrics = {name: summary.metric for name, summary in summaries.items()}
    middle = {}
    if len(set(metrics.values())) == 1:
        for head in heads:
            several = [by_head[head] for by_head in units.values()]
            middle[head] = across.bootstrap(across.interquartile_mean, several)
    chosen = heads[1:] if confirmatory is None else tuple(confirmatory)
    answers = _answers(summaries, heads, chosen)
    return Study(
        heads,
        means,
        metrics,
        across.ranks(table) if len(table) > 1 else None,
        middle,
        tuple(_pair(head, heads[0], units, means, answers, chosen, rope) for head in heads[1:]),
        rope,
    )


def _units(summary: Summary, heads: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the scores of every head, higher is better, by unit."""
    sign = 1.0 if METRICS[summary.metric].higher_is_better else -1.0
    found = {}
    for head in summary.heads:
        if head.head in heads:
            values = [sign * value for value in head.values if value is not None]
            if not values:
                raise InputError(f"no run of {head.head} has a result on {summary.data}.")
            found[head.head] = np.maximum(values, _LEAST) if sign > 0 else np.array(values)
    return found


def _answers(
    summaries: Mapping[str, Summary], heads: Sequence[str], chosen: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Return the answers by head and data set, corrected over all confirmatory ones."""
    asked = [
        (head.head, name, head.difference)
        for name, summary in summaries.items()
        for head in summary.heads
        if head.head in chosen and head.difference is not None
    ]
    differ = holm([d.p_value for _, _, d in asked])
    equal = holm([d.p_equal for _, _, d in asked])
    found: dict[str, dict[str, str]] = {head: {} for head in heads[1:]}
    for (head, name, d), p, q in zip(asked, differ, equal, strict=True):
        code = d.code
        if (code in ("better", "worse") and (p is None or p > 0.05)) or (
            code == "equal" and (q is None or q > 0.05)
        ):
            code = "undecided"
        found[head][name] = code
    return found


def _pair(
    head: str,
    first: str,
    units: Mapping[str, Mapping[str, np.ndarray]],
    means: Mapping[str, Mapping[str, float]],
    answers: Mapping[str, Mapping[str, str]],
    chosen: Sequence[str],
    rope: float,
) -> Pair:
    differences = {name: row[first] - row[head] for name, row in means.items()}
    several = len(differences) >= FEWEST
    return Pair(
        head,
        head in chosen,
        differences,
        across.signed_rank([*differences.values()], rope) if several else None,
        across.bootstrap(
            across.probability_of_improvement,
            [by_head[first] for by_head in units.values()],
            [by_head[head] for by_head in units.values()],
        ),
        answers[head],
    )


def write_study(study: Study, out: str | Path, command: str | None = None) -> Path:
    """Write `study.json`, the critical-difference diagram and the page; return the page's path."""
    from spinalnet.comparison.report.study_page import study_page

    out = Path(out)
    page, drawings = study_page(study, command)
    files.write_text(out / "study.json", files.to_json(study.to_dict()))
    for drawing in drawings:
        files.write_text(out / f"{drawing.name}.svg", drawing.svg)
    files.write_text(out / "study.html", page)
    return out / "study.html"
