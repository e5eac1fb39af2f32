"""What is kept of a recipe that was run: one small record, without weights, logs and paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from spinalnet import files
from spinalnet._checks import InputError, read_fields
from spinalnet.comparison import RunSpec, Summary, summarize
from spinalnet.comparison.published import Published, PublishedValue
from spinalnet.comparison.schema import SCHEMA, check_version, load, with_paper_mlp
from spinalnet.comparison.wording import listing
from spinalnet.data import DATASETS, readers
from spinalnet.files import expanded
from spinalnet.paper.recipes import RECIPES, Recipe, find_recipes
from spinalnet.paper.recipes.row import EVERY_EPOCH
from spinalnet.training import loop, runs

Protocol = Literal["honest", "paper"]
Budget = Literal["smoke", "short", "full"]
RESULTS = "results/recipes"
"""Where records are kept, in a working copy of the project."""

FACTS_FILE = Path(__file__).with_name("found.json")
"""What the installed package knows of them; `python docs/tables.py` writes it."""


@dataclass(frozen=True)
class Fact:
    """The gist of a record.

    Attributes:
        recipe: Its name.
        protocol: How it was run.
        budget: At what length.
        seeds: How often.
        answer: What the comparison says, in a sentence.
        means: Mean of what was measured (`metric`), by head.
        metric: What was measured.
    """

    recipe: str
    protocol: Protocol
    budget: Budget
    seeds: int
    answer: str
    means: Mapping[str, float | None]
    metric: str


@dataclass(frozen=True)
class Record:
    """A recipe that was run; `to_dict` is the content of `recipe.json`.

    Attributes:
        recipe: Its name.
        protocol: How it was run.
        budget: At what length.
        epochs: Epochs asked for, of `of_epochs`.
        of_epochs: Epochs of the original.
        train_size: Training examples, of `of_train_size`.
        of_train_size: Those of the data set.
        hours: Training time of all runs.
        heads: What else is kept, by head, each with one value per seed: "best_epochs"; of a
            regression "train_mse" and "test_r2"; "last_batch_minimum" where the original prints it;
            "last_epoch", the test accuracy after the last one, where the original prints that of
            every epoch and chooses none.
        summary: What the comparison says.
    """

    recipe: str
    protocol: Protocol
    budget: Budget
    epochs: int
    of_epochs: int
    train_size: int
    of_train_size: int
    hours: float
    heads: Mapping[str, Mapping[str, list[float]]]
    summary: Summary

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for strict JSON."""
        return {"schema": SCHEMA, **asdict(self), "summary": self.summary.to_dict()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Record:
        """Make one of what `to_dict` returned, also in an earlier version.

        The MLP of a recipe was the paper's whatever the network, stand-ins of smoke runs included,
        so in an earlier version every "mlp" is "mlp-paper".

        Raises:
            InputError: If a later version wrote it, it is mangled or no record, or its recipe is
                unknown.
        """
        if check_version(record) < 3:
            record = with_paper_mlp(record)
        fields = {key: value for key, value in record.items() if key != "schema"}
        fields["summary"] = Summary.from_dict(fields.get("summary") or {})
        made = cls(**read_fields(cls, fields, "field"))
        if made.recipe not in RECIPES:
            find_recipes(made.recipe)  # says which are near
            raise InputError(f"unknown recipe '{made.recipe}': it stands for several.")
        return made


def facts_of(records: Iterable[Record]) -> list[Fact]:
    """Return the gist of records; those of smoke runs say nothing."""
    return [
        Fact(
            *(record.recipe, record.protocol, record.budget, len(record.summary.units)),
            record.summary.headline,
            {head.head: head.mean for head in record.summary.heads},
            record.summary.metric,
        )
        for record in records
        if record.budget != "smoke"
    ]


def known_facts(results: str | Path | None = None) -> list[Fact]:
    """Return the gist of kept records.

    Args:
        results: Their folder; None for what the package knows, and what lies in `RESULTS`.

    Raises:
        InputError: If a record cannot be read.
    """
    if results is not None:
        return facts_of(load_records(results))
    shipped = files.read_json(FACTS_FILE) or {}
    known = [Fact(**read_fields(Fact, one, "fact")) for one in shipped.get("facts", ())]
    facts = {(one.recipe, one.protocol, one.budget): one for one in known}
    here = facts_of(load_records(RESULTS)) if Path(RESULTS).is_dir() else []
    return [*(facts | {(one.recipe, one.protocol, one.budget): one for one in here}).values()]


def make_record(recipe: Recipe, protocol: Protocol, budget: Budget, folder: Path) -> Record:
    """Return what is worth keeping of a finished recipe."""
    records = [record for record in runs.load_runs(folder / "runs") if record.result]
    results = [(record, record.result) for record in records if record.result]
    heads: dict[str, dict[str, list[float]]] = {}
    for head in dict.fromkeys(str(result["head"]) for _, result in results):
        own = [result for _, result in results if result["head"] == head]
        heads[head] = {"best_epochs": [result["best_epoch"] for result in own]}
        if protocol == "paper" and recipe.selection == EVERY_EPOCH:
            heads[head]["last_epoch"] = [  # the test data stand where validation data do elsewhere
                record.metrics[-1]["val_accuracy"]
                for record, result in results
                if result["head"] == head
            ]
        if "train" in own[0]:
            heads[head]["train_mse"] = [result["train"]["mse"] for result in own]
            heads[head]["test_r2"] = [result["test"]["r2"] for result in own]
        losses = [
            LastBatches(folder).read_all(record.path.name, int(result["epochs_run"]))
            for record, result in results
            if result["head"] == head
        ]
        if all(losses):
            heads[head]["last_batch_minimum"] = [min(by_epoch.values()) for by_epoch in losses]
    return Record(
        recipe=recipe.name,
        protocol=protocol,
        budget=budget,
        epochs=records[0].config["train"]["epochs"],
        of_epochs=recipe.train.epochs,
        train_size=results[0][1]["train_size"],
        of_train_size=DATASETS[recipe.data].sizes[0],
        hours=sum(result["train_seconds"] for _, result in results) / 3600,
        heads=heads,
        summary=summarize(folder),
    )


def published_of(record: Record) -> Published:
    """Return what the original printed of a recipe, beside the same quantities of a record."""
    recipe, summary = RECIPES[record.recipe], record.summary
    marks = []
    if "test" in summary.selected_on.split():
        marks.append("selected on test: optimistic")
    if record.budget != "full":
        marks.append(f"{record.budget} budget: not its result")
    selected = "on the test data" if marks and "test" in marks[0] else "on validation data"
    if summary.selected_on == "training":
        selected = "on training data"
    how = "by the original's own procedure" if record.protocol == "paper" else "honestly"
    told = f"An experiment of the original ({listing(recipe.sources)})"
    reported = f" It reported: {recipe.selection}."
    if recipe.is_ours:
        told, reported = "A recipe of our own", ""
    setting = [
        f"{told}: {recipe.model} on {recipe.data}.{reported}",
        f"Here it was run {how}, the epoch chosen {selected}: {record.epochs} of "
        f"{record.of_epochs} epochs, {record.train_size:,} of {record.of_train_size:,} training "
        "examples.",
    ]
    if recipe.defects:
        setting.append(
            f"What is known to be wrong with the original here: {listing(recipe.defects)} in "
            "docs/paper-vs-code.md."
        )
    values = [
        PublishedValue(
            row.head, printed.what.partition(": ")[2], printed.value, printed.where, here
        )
        for row in summary.heads
        for printed in recipe.printed
        if _is_of(printed.what, row.head)
        for here in [_found(record, row.head, printed.what)]
    ]
    title = f"{recipe.name}, {record.protocol} protocol"
    in_points = summary.metric == "accuracy"
    return Published(title, tuple(marks), tuple(setting), tuple(values), in_points)


def _is_of(what: str, head: str) -> bool:
    """Whether a printed number is of a head; the original's spinal one may be a variant of ours."""
    return what.startswith((f"{head}:", f"{head.partition('-reused')[0]}:"))


def _found(record: Record, head: str, what: str) -> tuple[float, ...]:
    """Return the same quantity as a record has it, one value per seed; empty where it has not."""
    extra = record.heads.get(head, {})
    if "last mini-batch" in what:
        return tuple(extra.get("last_batch_minimum", ()))
    if "accuracy" in what and record.budget == "full":
        row = next(row for row in record.summary.heads if row.head == head)
        return tuple(value for value in row.values if value is not None)
    return ()


class LastBatches:
    """Keeps what the regression script prints: the training loss of an epoch's last mini-batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, spec: RunSpec, step: loop.Progress) -> None:
        """Hear of a step of training."""
        if step.phase == "validate":  # before the state that says that the epoch is done
            assert step.last_loss is not None
            losses = self.read(spec.name) | {str(step.epoch): step.last_loss}
            files.write_kept(self._file(spec.name), losses)

    def _file(self, run: str) -> Path:
        return self.folder / "last_batches" / f"{run}.json"

    def read(self, run: str) -> dict[str, float]:
        """Return the losses of a run so far, by epoch."""
        return files.read_json(self._file(run)) or {}

    def read_all(self, run: str, epochs: int) -> dict[str, float]:
        """Return the losses of a finished run, by epoch; empty where none were kept.

        Raises:
            InputError: If those of an epoch are missing.
        """
        losses, wanted = self.read(run), [str(epoch + 1) for epoch in range(epochs)]
        if losses and (missing := [epoch for epoch in wanted if epoch not in losses]):
            raise InputError(
                f"{self._file(run)} lacks the epochs {', '.join(missing)}: delete the folder of "
                f"the run {run} and run the same command again."
            )
        return {epoch: losses[epoch] for epoch in wanted if epoch in losses}


def load_records(folder: str | Path = RESULTS, files: str = "*.json") -> list[Record]:
    """Return the records in a folder, by recipe in the order of `RECIPES`, protocol and budget."""
    order = list(RECIPES)
    paths = sorted(expanded(folder).glob(files))
    records = [load(path, Record.from_dict, "record") for path in paths]
    return sorted(records, key=lambda r: (order.index(r.recipe), r.protocol != "paper", r.budget))


def keep_record(folder: str | Path, results: str | Path) -> Path:
    """Copy the record of a recipe's folder to the folder of results; return the new file."""
    target = expanded(results) / f"{expanded(folder).name}.json"
    files.write_text(target, (expanded(folder) / "recipe.json").read_text(encoding="utf-8"))
    return target


def status(recipe: Recipe, facts: Iterable[Fact], data_dir: str | None) -> str:
    """Say in a few words whether a recipe has been run, can be run, or what it needs."""
    done = [fact for fact in facts if fact.recipe == recipe.name]
    if done:
        return "done: " + ", ".join(f"{one.protocol} ({one.budget})" for one in done)
    if recipe.is_demonstration:
        return "demonstration: smoke only"
    data, said = DATASETS[recipe.data], "ready"
    if not readers.is_present(data, data_dir):
        if not data.downloads:
            return f"missing data: {recipe.data}"
        said = f"downloads {data.size.split(' (')[0]} first"
    if recipe.gpu_hours >= 0.1:
        said += f"; needs about {recipe.gpu_hours:.1f} GPU-hours a run"
    return said


def describe_recipes(
    results: str | Path | None = None, data_dir: str | None = None
) -> list[dict[str, Any]]:
    """Return one row per recipe: what it is, where it comes from, its status, what was found.

    Args:
        results: See `known_facts`.
        data_dir: Where data sets' files are.
    """
    facts = known_facts(results)
    return [
        {
            "name": recipe.name,
            "data": recipe.data,
            "model": recipe.model,
            "heads": list(recipe.heads),
            "original_heads": [] if recipe.is_ours else list(recipe.original_heads or recipe.heads),
            "epochs": recipe.train.epochs,
            "batch_size": recipe.train.batch_size,
            "selection": recipe.selection,
            "pictures": recipe.pictures,
            "parts": list(recipe.parts),
            "validation": recipe.validation,
            "sources": list(recipe.sources),
            "ours": recipe.is_ours,
            "printed": [
                {"what": p.what, "value": p.value, "where": p.where} for p in recipe.printed
            ],
            "defects": list(recipe.defects),
            "gpu_hours": round(recipe.gpu_hours, 2),
            "status": status(recipe, facts, data_dir),
            "found": [asdict(fact) for fact in facts if fact.recipe == recipe.name],
        }
        for recipe in RECIPES.values()
    ]
