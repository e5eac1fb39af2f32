"""Whether run folders hold what was written to them, and whether their models still say the same.

Every file is held against its digest, what it holds against the other files, the metrics against
what the model said of each test example, and, where the data is at hand, against the model itself.
Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from spinalnet import files
from spinalnet._checks import InputError, SpinalnetError
from spinalnet.comparison.finished import LOOKS_FILE, read_folder
from spinalnet.comparison.metrics import measured
from spinalnet.comparison.moved import DATA_FILE
from spinalnet.comparison.outputs import OUTPUTS_FILE, load_outputs
from spinalnet.comparison.passed_on import CONFIG_FILE, read_config
from spinalnet.comparison.published import PUBLISHED_FILE
from spinalnet.comparison.schema import read_mapping
from spinalnet.comparison.summary import check_counted, check_told
from spinalnet.comparison.tables.store import MODEL_FILE
from spinalnet.comparison.tuned import TRIALS_FOLDER, TUNING_FILE, check_trials
from spinalnet.deploy.evaluation import evaluate_run
from spinalnet.training import describe_environment, runs, states

_OF_COMPARISONS = (
    *("comparison.yaml", "timing.json", "summary.json", "recipe.json"),
    *(LOOKS_FILE, TUNING_FILE, DATA_FILE, PUBLISHED_FILE),
)
_CLOSE = 1e-4  # relative; another processor rounds otherwise
_CHANGES = ("started", "commit", "threads", "cores", "cpu", "platform")  # told by no result alone


@dataclass(frozen=True)
class Verified:
    """What was found in the folder of a run, or in that of a comparison beside its runs.

    Attributes:
        run: The folder.
        checked: What was held against what, in words.
        damage: Sentences on what does not hold; empty if all does.
        notes: Sentences on what could not be checked, or has changed around the run.
        kind: "run", "comparison", or "model" for one that was passed on.
    """

    run: Path
    checked: tuple[str, ...]
    damage: tuple[str, ...]
    notes: tuple[str, ...]
    kind: Literal["run", "comparison", "model"] = "run"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "run": str(self.run)}


@dataclass
class _Found:
    checked: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def holds(self, what: str, check: Callable[[], object]) -> Any:
        """Make a check that raises where something is wrong; return what it returned."""
        try:
            found = check()
        except InputError as error:
            self.damage.append(str(error))
            return None
        self.checked.append(what)
        return found


def verify(folder: str | Path, *, models: bool = True) -> Iterator[Verified]:
    """Check the run in a folder, or every run below it, and the comparisons that they belong to.

    Args:
        folder: Of a run, of a comparison, or of many; or of a model that was passed on.
        models: Whether to compute the metrics again from the model, where its data can be had.

    Raises:
        InputError: If there is no run.
    """
    folder = files.expanded(folder)
    try:
        found = runs.find_runs(folder)
    except InputError:
        if not (folder / CONFIG_FILE).is_file():
            raise
        yield _verify_passed_on(folder)
        return
    for path in found:
        yield verify_run(path, models=models)
    asked = {path.parent for name in _OF_COMPARISONS for path in Path(folder).rglob(name)}
    for path in sorted(asked):
        if not runs.is_run(path):  # a run alone keeps where its data are, too
            yield verify_comparison(path)


def _verify_passed_on(path: Path) -> Verified:
    """Hold what `save_pretrained` wrote against the digests in it."""
    found = _Found()
    if found.holds(CONFIG_FILE, lambda: read_config(path)) is not None:
        found.checked.append("the weights beside it")
        found.holds(MODEL_FILE, lambda: files.load_weights(path / MODEL_FILE))
    return Verified(path, tuple(found.checked), tuple(found.damage), (), "model")


def verify_comparison(path: Path) -> Verified:
    """Check the files of a comparison that are of no run: they can be read, and tell what runs do.

    Each is held against the digest in it, and the summary against the runs too.
    """
    found = _Found()
    for name in _OF_COMPARISONS:
        if (path / name).exists():
            found.holds(name, lambda name=name: read_mapping(path / name))
    ended = [one.parent.relative_to(path).parts for one in path.rglob(runs.DONE_FILE)]
    if not any("tuning" not in parts for parts in ended):
        if (path / "summary.json").exists():
            found.holds("the summary against the runs", lambda: check_counted(path, {}))
        found.notes.append("none of its runs is done: the same command goes on with it")
    elif not found.damage:
        read = found.holds("the runs and files of the comparison", lambda: read_folder(path))
        if read is not None and (path / "summary.json").exists():
            found.holds("the summary against the runs", lambda: check_told(path))
        if (path / TRIALS_FOLDER).is_dir():
            found.holds("the tuning against its trials", lambda: check_trials(path))
    damage = tuple(dict.fromkeys(found.damage))
    return Verified(path, tuple(found.checked), damage, tuple(found.notes), "comparison")


def verify_run(path: Path, *, models: bool = True) -> Verified:
    """Check the folder of one run; see `verify`."""
    found = _Found()
    done = runs.is_done(path)
    digests: Mapping[str, str] = found.holds("DONE", lambda: runs.read_digests(path)) or {}
    if done and not digests and not found.damage:
        found.notes.append("it has no digests: an earlier version wrote it")
    for name, digest in digests.items():
        found.holds(name, lambda name=name, digest=digest: _check_file(path / name, digest))
    for weights in sorted(path.glob("*.safetensors")):
        what = f"{weights.name} (content)"
        found.holds(what, lambda weights=weights: files.load_weights(weights)[1])
    for name in (states.STATE_FILE, states.BEFORE_FILE):
        if (path / name).exists():
            found.holds(name, lambda name=name: _check_state(path / name))
    record: runs.RunRecord | None = found.holds("the rows", lambda: runs.load_run(path))
    if record is not None:
        _check_epochs(path, record, found)
        if not done:
            found.notes.append("it is not done: the same command goes on with it")
        elif record.result is not None:
            _check_metrics(path, record.result, found, models=models and not found.damage)
        found.notes.extend(_changes(record.environment))
    damage = tuple(dict.fromkeys(found.damage))
    return Verified(path, tuple(found.checked), damage, tuple(found.notes))


def _check_file(path: Path, digest: str) -> None:
    held = runs.digest_of_file(path)
    if held is None:
        raise files.DamagedFile(f"{path} is gone.")
    if held != digest:
        raise files.damaged(path)


def _check_state(path: Path) -> None:
    if states.check(path) is False:
        raise files.damaged(path, "delete it, and the run goes on from the state before")


def _check_epochs(path: Path, record: runs.RunRecord, found: _Found) -> None:
    """See that a run that goes on has a row for every epoch that its state says is done."""
    run = runs.RunFolder(path)
    if record.done or not run.has_state():
        return
    state = found.holds("the newest state that is whole", run.load_state)
    if state is None:
        return
    found.damage.extend(one for one in run.notes if "damaged" in one)
    found.holds("the rows that the state was saved with", run.check_rows)
    epochs = int(state.get("epochs_before", 0)) + int(state.get("epoch", 0))
    if len(record.metrics) < epochs:
        found.damage.append(
            f"{path / runs.METRICS_FILE} should have {epochs} rows but has {len(record.metrics)}."
        )


def _check_metrics(path: Path, result: Mapping[str, Any], found: _Found, *, models: bool) -> None:
    """Compute the test metrics again, from what the model said and from the model itself."""
    test = result.get("test")
    if not isinstance(test, Mapping):
        return
    if (path / OUTPUTS_FILE).exists():
        said = found.holds(f"{OUTPUTS_FILE} (content)", lambda: load_outputs(path / OUTPUTS_FILE))
        if said is not None:
            _compare(test, measured(said), "what the model said of each example", found)
    if not models:
        return
    try:
        again = evaluate_run(path).metrics
    except (SpinalnetError, ImportError, MemoryError) as error:
        found.notes.append(f"the model was not asked again: {error}")
        return
    _compare(test, again, "the model, asked again", found)


def _compare(test: Mapping[str, Any], again: Mapping[str, Any], what: str, found: _Found) -> None:
    """Hold numbers of `result.json` against the same computed again."""
    n = test.get("n")
    slack = 1.5 / n if isinstance(n, int) and n > 0 else 0.0  # one example more or less
    wrong, seen = [], 0
    for name, value in again.items():
        kept = test.get(name)
        if not isinstance(value, int | float) or not isinstance(kept, int | float):
            continue
        seen += 1
        exact = isinstance(value, int)
        room = 0.0 if exact else _CLOSE * max(1.0, abs(kept)) + slack * ("accuracy" in name)
        if not abs(value - kept) <= room:
            wrong.append(f"{name} is {kept:g} in {runs.RESULT_FILE} and {value:g} again")
    if wrong:
        found.damage.append(f"the test metrics are not those of {what}: {'; '.join(wrong)}.")
    elif seen:
        found.checked.append(f"{seen} test metrics against {what}")


def _changes(environment: Mapping[str, Any]) -> list[str]:
    """Say which libraries are others than those of a run."""
    here = describe_environment()
    changed = [
        f"{name} was {environment[name]} and is {value}"
        for name, value in here.items()
        if name not in _CHANGES and name in environment and environment[name] != value
    ]
    return [f"made elsewhere: {'; '.join(changed)}"] if changed else []
