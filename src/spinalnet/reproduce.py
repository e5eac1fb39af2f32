"""Run a recipe in one of two ways, and keep what came out as one small record.

* `protocol="honest"`: everything is chosen on validation data split from the training data, a
  parameter-matched control is added, heads are compared by seed (`experiment.compare`);
* `protocol="paper"`: the original's own procedure with its own constants; where that let the test
  data decide (the rate, the epoch that is reported), the result says "selected on test".

Budgets: `full` is the original's length; `short` a stated share of epochs and data, called short
wherever it appears; `smoke` two steps an epoch on random data, to see that everything fits.

A record (`recipe.json`) holds the settings, the summary of the comparison and the commit, and no
path of the machine; `experiments_page` makes the page of all records.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, get_args

import torch

from spinalnet import _dist, experiment, report, runs, train
from spinalnet import data as data_room
from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.catalog import DATASETS
from spinalnet.config import TrainConfig
from spinalnet.data import ArrayDataset, DatasetInfo, Splits
from spinalnet.models import MODELS
from spinalnet.recipes import CONSTANTS, RECIPES, Recipe, find_recipes
from spinalnet.summary import summarize

Protocol = Literal["honest", "paper"]
Budget = Literal["smoke", "short", "full"]

_SHORT_EPOCHS, _SHORT_DATA = 0.1, 0.2
_SMOKE_BATCH = 4
_SMOKE_WIDTH = 16
# Small relatives, with an image side, that stand in for networks too large to try out quickly.
_SMOKE_MODELS = {
    "vgg5": ("vgg5", 16),
    "cifar-resnet18-half": ("cifar-resnet10-half", 9),
    "cifar-resnet34-half": ("cifar-resnet10-half", 9),
    "cifar-vgg19-bn": ("vgg5", 16),
    "vgg19_bn": ("vgg5", 16),
    "alexnet": ("alexnet", 63),
    "resnet18": ("cifar-resnet10-half", 9),
    "resnext50_32x4d": ("cifar-resnet10-half", 9),
    "wide_resnet101_2": ("cifar-resnet10-half", 9),
    "vit_large_patch16_224": ("vit_tiny_patch16_224", 16),
}


_REGRESSION_STUDY = tuple(r.name for r in find_recipes("regression"))
_NOISE_VARIANCE = 0.2**2 / 12  # of the noise 0.2 U that is added to every target


@dataclass(frozen=True)
class _Job:
    """A recipe with all that was asked for it."""

    recipe: Recipe
    protocol: Protocol
    budget: Budget

    @property
    def name(self) -> str:
        return "-".join([self.recipe.name, self.protocol, *([self.budget] * (not self.is_full))])

    @property
    def is_full(self) -> bool:
        return self.budget == "full"

    @property
    def selected_on(self) -> str:
        return self.recipe.selected_on if self.protocol == "paper" else "validation"

    @property
    def pretrained(self) -> bool:
        return self.recipe.pretrained and self.budget != "smoke"

    def limit(self) -> int | None:
        """Training examples of the short budget; None for all."""
        row = DATASETS[self.recipe.data]
        if self.budget != "short":
            return None
        if self.recipe.short is not None:
            return self.recipe.short[1]
        return max(row.num_classes, 10, round(_SHORT_DATA * row.sizes[0]))

    def config(self) -> TrainConfig:
        """Return the training settings at this budget."""
        config = self.recipe.train
        if self.protocol == "honest":
            config = replace(config, amp="auto")
        if self.is_full:
            return config
        if self.budget == "smoke":
            phases = tuple((lr, 1) for lr, _ in config.phases)
            return replace(config, phases=phases, epochs=1, batch_size=_SMOKE_BATCH, restart_from=0)
        share = _SHORT_EPOCHS
        if self.recipe.short is not None:
            share = self.recipe.short[0] / config.epochs
        return replace(
            config,
            epochs=max(1, round(share * config.epochs)),
            phases=tuple((lr, max(1, round(share * epochs))) for lr, epochs in config.phases),
            restart_from=round(share * config.restart_from),
            step_size=max(1, round(share * config.step_size)),
        )

    def question(self, seeds: int, data_dir: str | None) -> experiment.Comparison:
        """Return the comparison that answers this recipe."""
        recipe = self.recipe
        heads = recipe.heads
        if self.protocol == "paper":
            heads = recipe.original_heads or heads
        model, size = recipe.model, recipe.image_size
        if self.budget == "smoke":
            model, size = _SMOKE_MODELS.get(model, (model, None))
        fields: dict[str, dict[str, Any]] = {
            head: {"head_options": self._options(head)} for head in heads
        }
        if self.protocol == "paper":
            for head in fields.keys() & recipe.necks.keys():
                fields[head]["neck"] = recipe.necks[head]
        base = experiment.RunSpec(
            data=recipe.data,
            model=model,
            head=heads[0],
            head_options=fields[heads[0]]["head_options"],
            train=self.config(),
            data_dir=data_dir,
            image_size=size,
            in_channels=recipe.in_channels,
            limit=self.limit(),
            pretrained=self.pretrained,
            selected_on=self.selected_on,  # type: ignore[arg-type]
        )
        control = ("matched",) if self.protocol == "honest" else ()
        return experiment.Comparison(base, (*heads, *control), seeds, fields)

    def _options(self, head: str) -> dict[str, Any]:
        own = dict(self.recipe.options.get(head, {}))
        if self.budget != "smoke":
            return own
        # The relative that stands in must not bring options of its own.
        options = {**MODELS[self.recipe.model].heads.get(head, {}), **own}
        if head.startswith("spinal") and self.recipe.model in _SMOKE_MODELS:
            options = {"num_splits": 2, "norm": None, "dropout": 0.0} | options
        width = options.get("hidden_features")
        if isinstance(width, tuple):
            options["hidden_features"] = tuple(min(w, _SMOKE_WIDTH) for w in width)
        elif width is not None:
            options["hidden_features"] = min(width, _SMOKE_WIDTH)
        return options

    def load(self, spec: experiment.RunSpec, *, download: bool | None = None) -> Splits:
        """Load the data of a run as this protocol uses it."""
        recipe = self.recipe
        if self.budget == "smoke":
            splits = _random_splits(recipe, spec)
        else:
            row = DATASETS[recipe.data]
            if self.protocol == "paper":
                row = replace(row, transposed=False)  # the original takes the files as they are
            splits = data_room.load_dataset(
                row,
                spec.data_dir,
                spec.train.seed,
                image_size=spec.image_size,
                in_channels=spec.in_channels,
                limit=spec.limit,
                download=download,
            )
        splits = self._normalised(splits)
        notes = [*splits.info.notes, *recipe.notes]
        if self.budget == "short":
            notes.append(
                f"Short budget: {spec.train.epochs} of {recipe.train.epochs} epochs"
                + (f", at most {spec.limit} training examples" if spec.limit else "")
                + ". This is not the result of the full recipe."
            )
        info = replace(splits.info, notes=tuple(notes))
        if self.protocol == "paper":
            splits = _as_the_original(recipe, splits, whole=spec.limit is None)
            unused = range(info.num_classes, recipe.outputs or 0)
            names = (*info.class_names, *(f"unused output {k}" for k in unused))
            info = replace(info, class_names=names)
        return replace(splits, info=info)

    def _normalised(self, splits: Splits) -> Splits:
        """Use the constants of the original, or of the published weights; else the data's own."""
        if self.protocol == "paper" and splits.info.task == "classification":
            mean, std = CONSTANTS[self.recipe.constants]
        elif self.recipe.pretrained:
            mean, std = CONSTANTS["imagenet"]
        else:
            return splits
        train_, val, test = (
            part.normalized_by(mean, std) for part in (splits.train, splits.val, splits.test)
        )
        return Splits(train_, val, test, replace(splits.info, mean=mean, std=std))


def _as_the_original(recipe: Recipe, splits: Splits, *, whole: bool) -> Splits:
    """Give every choice to the data that the original gave it to."""
    if recipe.selected_on == "validation":
        return splits
    training = splits.train
    if whole:  # nothing is held out
        training = splits.train.joined(splits.val)  # type: ignore[arg-type]  # of one kind
    if recipe.selected_on == "training":
        return replace(splits, train=training, val=training)
    # THE MARKED LINE: the test data take the place of the validation data, and choose.
    return replace(splits, train=training, val=splits.test)


def _random_splits(recipe: Recipe, spec: experiment.RunSpec) -> Splits:
    """Return random data of the right kind: two batches to train on, one for each other part."""
    row = DATASETS[recipe.data]
    channels = recipe.in_channels or row.image_shape[0]
    size = spec.image_size or row.image_shape[-1]
    shape = (channels, size, size) if len(row.image_shape) == 3 else row.image_shape
    generator = torch.Generator().manual_seed(spec.train.seed)

    def part(batches: int) -> ArrayDataset:
        count = batches * _SMOKE_BATCH
        if not row.num_classes:
            inputs = torch.randn(count, *shape, generator=generator)
            return ArrayDataset(inputs, inputs.sum(1, keepdim=True))
        images = torch.randint(0, 256, (count, *shape), generator=generator).to(torch.uint8)
        targets = torch.randint(0, row.num_classes, (count,), generator=generator)
        return ArrayDataset(images, targets, (0.5,) * channels, (0.25,) * channels)

    names = tuple(f"class {k}" for k in range(row.num_classes))
    task = "classification" if names else "regression"
    constants = ((0.5,) * channels, (0.25,) * channels) if names else ((), ())
    notes = ("Smoke run on random data: its numbers mean nothing.",)
    info = DatasetInfo(row.name, task, names, shape, *constants, notes)
    return Splits(part(2), part(1), part(1), info)


# --- running -------------------------------------------------------------------------------------


def run_recipe(
    name: str,
    *,
    protocol: str = "honest",
    seeds: int = 5,
    budget: str = "full",
    out: str | Path = "runs/recipes",
    data_dir: str | None = None,
    download: bool | None = None,
    on_progress: experiment.OnProgress | None = None,
    on_run: Callable[[experiment.RunSpec, runs.RunRecord], None] | None = None,
) -> Path:
    """Run one recipe; called again with the same arguments it goes on where it stopped.

    Args:
        name: A name of `list_recipes()`.
        protocol: "honest" or "paper"; see the top of this room.
        seeds: Number of paired seeds.
        budget: "full", "short" or "smoke".
        out: Folder for the folders of recipes: `OUT/<recipe>-<protocol>[-<budget>]`.
        data_dir: Where the data set's files are.
        download: Whether missing data may be fetched.
        on_progress: Called at every training step.
        on_run: Called after every run.

    Returns:
        The folder: a comparison with its report (not for smoke runs), and `recipe.json`.

    Raises:
        InputError: If a name is unknown or the data is missing, before anything is trained.
    """
    if name not in RECIPES:
        find_recipes(name)  # raises with the nearest names, unless it is a pattern
        raise InputError(f"run_recipe takes one recipe, got the pattern '{name}'.")
    check_positive("seeds", seeds)
    recipe = RECIPES[name]
    job = check_ready(recipe, protocol, budget, data_dir, download=download)
    question = job.question(seeds, data_dir)
    folder = Path(out) / job.name
    listener = _LastBatches(folder) if recipe.selected_on == "training" else None

    def tell(spec: experiment.RunSpec, step: train.Progress) -> None:
        if listener is not None and protocol == "paper":
            listener(spec, step)
        if on_progress is not None:
            on_progress(spec, step)

    experiment.compare(
        question,
        folder,
        on_progress=tell,
        on_run=on_run,
        load=functools.partial(job.load, download=download),
        timed=False,  # the benchmarks do that, on a quiet machine
    )
    if budget != "smoke" and _dist.is_main():
        report.write_report(folder, command=_command(job, seeds))
    runs.write_mapping(folder / "recipe.json", _record(job, folder))
    return folder


def check_ready(
    recipe: Recipe,
    protocol: str,
    budget: str,
    data_dir: str | None = None,
    *,
    download: bool | None = None,
) -> _Job:
    """See that a recipe can be run as asked, fetching its data and weights where that is allowed.

    Raises:
        InputError: If it cannot; the sentence says what is missing and how to get it.
    """
    for kind, value, known in (("protocol", protocol, Protocol), ("budget", budget, Budget)):
        if value not in get_args(known):
            raise unknown_name(kind, value, get_args(known))
    job = _Job(recipe, protocol, budget)  # type: ignore[arg-type]  # checked above
    if budget == "smoke":
        return job
    if recipe.is_demonstration:
        raise InputError(
            f"'{recipe.name}' is a demonstration without data of its own: run it with budget=smoke."
        )
    data_room.check_present(DATASETS[recipe.data], data_dir, download=download)
    if job.pretrained:
        _fetch_weights(recipe.model)
    return job


def count_heads(recipe: Recipe, protocol: str) -> int:
    """Return how many heads a protocol trains: the original's, or all and the matched control."""
    return (
        len(recipe.original_heads or recipe.heads) if protocol == "paper" else 1 + len(recipe.heads)
    )


def _fetch_weights(model: str) -> None:
    """Have torch fetch the published weights now, not after the first data are read.

    Raises:
        InputError: If they cannot be fetched.
    """
    try:
        MODELS[model].trunk(MODELS[model].input_shape[0], pretrained=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the published weights of '{model}' cannot be fetched ({reason}): check the network, "
            f"or copy the file to '{torch.hub.get_dir()}/checkpoints'."
        ) from error


def _command(job: _Job, seeds: int) -> str:
    return (
        f"spinalnet reproduce {job.recipe.name} --protocol {job.protocol} --seeds {seeds} "
        f"--budget {job.budget}"
    )


class _LastBatches:
    """Keeps what the regression script prints: the training loss of an epoch's last mini-batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sums = (0.0, 0.0)  # of the epoch, before and after the present step

    def __call__(self, spec: experiment.RunSpec, step: train.Progress) -> None:
        total = DATASETS[spec.data].sizes[0]
        seen = min(step.step * spec.train.batch_size, total)
        if step.phase == "train" and step.loss is not None:
            before = 0.0 if step.step == 1 else self.sums[1]
            self.sums = (before, step.loss * seen)
        elif step.phase == "epoch":
            last = total % spec.train.batch_size or spec.train.batch_size
            losses = self.read(spec.name) | {str(step.epoch): (self.sums[1] - self.sums[0]) / last}
            runs.write_mapping(self._file(spec.name), losses)

    def _file(self, run: str) -> Path:
        return self.folder / "last_batches" / f"{run}.json"

    def read(self, run: str) -> dict[str, float]:
        """Return the losses of a run so far, by epoch."""
        file = self._file(run)
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _record(job: _Job, folder: Path) -> dict[str, Any]:
    """Return what is worth keeping of a finished recipe: no weights, no logs, no paths."""
    records = [record for record in runs.load_runs(folder / "runs") if record.result]
    results = [record.result for record in records if record.result]
    extras: dict[str, Any] = {}
    for head in dict.fromkeys(str(result["head"]) for result in results):
        own = [result for result in results if result["head"] == head]
        extras[head] = {"best_epochs": [result["best_epoch"] for result in own]}
        if "train" in own[0]:
            extras[head]["train_mse"] = [result["train"]["mse"] for result in own]
            extras[head]["test_r2"] = [result["test"]["r2"] for result in own]
        losses = [
            _LastBatches(folder).read(record.path.name)
            for record in records
            if record.result and record.result["head"] == head
        ]
        if all(losses):
            extras[head]["last_batch_minimum"] = [min(by_epoch.values()) for by_epoch in losses]
    config = job.config()
    return {
        "recipe": job.recipe.name,
        "protocol": job.protocol,
        "budget": job.budget,
        "epochs": config.epochs,
        "of_epochs": job.recipe.train.epochs,
        "train_size": results[0]["train_size"],
        "of_train_size": DATASETS[job.recipe.data].sizes[0],
        "hours": sum(result["train_seconds"] for result in results) / 3600,
        "heads": extras,
        "summary": summarize(folder).as_dict(),
    }


# --- what there is -------------------------------------------------------------------------------


def load_records(
    folder: str | Path = "results/recipes", files: str = "*.json"
) -> list[dict[str, Any]]:
    """Return the records in a folder, by recipe in the order of `RECIPES`, protocol and budget."""
    order = list(RECIPES)
    paths = sorted(Path(folder).glob(files))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return sorted(
        records, key=lambda r: (order.index(r["recipe"]), r["protocol"] != "paper", r["budget"])
    )


def keep_record(folder: str | Path, results: str | Path) -> Path:
    """Copy the record of a recipe's folder to the folder of results; return the new file."""
    target = Path(results) / f"{Path(folder).name}.json"
    runs.write_text(target, (Path(folder) / "recipe.json").read_text(encoding="utf-8"))
    return target


def draw_regression_study(records: Iterable[Mapping[str, Any]], path: str | Path) -> Path | None:
    """Draw the honest records of the regression recipes side by side, as a PNG file.

    Returns:
        The file, or None if no such record is there.
    """
    from io import BytesIO

    from spinalnet.diagrams import draw_regression

    panels = {
        str(record["recipe"]).removeprefix("regression-"): {
            head["head"]: head["mse_values"] for head in record["summary"]["heads"]
        }
        for record in records
        if record["protocol"] == "honest"
        and record["budget"] != "smoke"
        and record["recipe"] in _REGRESSION_STUDY
    }
    if not panels:
        return None
    image = BytesIO()
    draw_regression(panels, _NOISE_VARIANCE).savefig(image, format="png", dpi=110)
    runs.write_bytes(path, image.getvalue())
    return Path(path)


def status(recipe: Recipe, records: Iterable[Mapping[str, Any]], data_dir: str | None) -> str:
    """Say in a few words whether a recipe has been run, can be run, or what it needs."""
    done = [r for r in records if r["recipe"] == recipe.name and r["budget"] != "smoke"]
    if done:
        return "done: " + ", ".join(f"{r['protocol']} ({r['budget']})" for r in done)
    if recipe.is_demonstration:
        return "demonstration: smoke only"
    if not data_room.is_present(DATASETS[recipe.data], data_dir):
        return f"missing data: {recipe.data}"
    if recipe.gpu_hours >= 0.1:
        return f"ready; needs about {recipe.gpu_hours:.1f} GPU-hours a run"
    return "ready"


def describe_recipes(
    results: str | Path = "results/recipes", data_dir: str | None = None
) -> list[dict[str, Any]]:
    """Return one row per recipe: what it is, where it comes from, its status."""
    records = load_records(results)
    return [
        {
            "name": recipe.name,
            "data": recipe.data,
            "model": recipe.model,
            "heads": list(recipe.heads),
            "original_heads": list(recipe.original_heads or recipe.heads),
            "epochs": recipe.train.epochs,
            "batch_size": recipe.train.batch_size,
            "protocol": recipe.protocol,
            "sources": list(recipe.sources),
            "printed": [
                {"what": p.what, "value": p.value, "where": p.where} for p in recipe.printed
            ],
            "defects": list(recipe.defects),
            "gpu_hours": round(recipe.gpu_hours, 2),
            "status": status(recipe, records, data_dir),
        }
        for recipe in RECIPES.values()
    ]


def describe_datasets(data_dir: str | None = None) -> list[dict[str, Any]]:
    """Return one row per data set: what it is, where from, how large, whether it is here."""
    rows = []
    for spec in DATASETS.values():
        place = data_dir or "DIR"
        if spec.reader in ("digits", "regression"):
            how = "nothing to do"
        elif spec.torchvision_name is not None:
            how = f"spinalnet datasets --get {spec.name} --data-dir {place}"
        else:
            how = spec.hint
        rows.append(
            {
                "name": spec.name,
                "summary": spec.summary,
                "source": spec.source,
                "licence": spec.licence,
                "size": spec.size,
                "present": data_room.is_present(spec, data_dir),
                "get": how,
            }
        )
    return rows


# --- the page ------------------------------------------------------------------------------------


def experiments_page(results: str | Path = "results/recipes") -> str:
    """Return the Markdown page of all recipes, from the records in `results` alone."""
    kept = load_records(results)
    records = [record for record in kept if record["budget"] != "smoke"]
    tried = [record for record in kept if record["budget"] == "smoke"]
    run = [name for name in RECIPES if any(r["recipe"] == name for r in records)]
    lines = [
        "# Experiments",
        "",
        "Generated by `spinalnet recipes --page docs/experiments.md` from the records in "
        "`results/recipes/`; do not edit. What each recipe is stands in `spinalnet recipes`; what "
        "we do otherwise than the original, and why, in [paper-vs-code.md](paper-vs-code.md).",
        "",
        '"Paper protocol" is the original\'s procedure: where it let the test data choose, the '
        'column says so ("selected on test"), and the number is optimistic. "Honest" chooses on '
        "validation data and tests once. Values are mean ± standard deviation over seeds; "
        "accuracies in per cent. A short budget is a stated part of the original's length and "
        "not its result.",
        "",
        f"{len(run)} of {len(RECIPES)} recipes have been run.",
        "",
        "| recipe | head | printed | paper protocol | honest |",
        "|---|---|---|---|---|",
        *(row for name in run for row in _overview(RECIPES[name], records)),
        "",
    ]
    for name in run:
        lines += _section(RECIPES[name], [r for r in records if r["recipe"] == name])
    if (Path(results) / "regression.png").exists():
        lines += [
            "## The regression study in one figure",
            "",
            "`spinalnet reproduce regression --seeds 10 --keep results/recipes` draws it from the "
            "honest runs.",
            "",
            "![mean squared error of each head on four targets](../results/recipes/regression.png)",
            "",
        ]
    if tried:
        lines += _tried_out(tried)
    lines += [
        "## Not run yet",
        "",
        "GPU-hours are those of one head and one seed at 10 TFLOP/s, from the number of MACs.",
        "",
        "| recipe | data | GPU-hours a run, about | printed |",
        "|---|---|---:|---|",
    ]
    for recipe in RECIPES.values():
        if recipe.name not in run:
            printed = "; ".join(_number(p.value) for p in recipe.printed) or "–"
            hours = "below 0.01" if recipe.gpu_hours < 0.01 else f"{recipe.gpu_hours:.2g}"
            lines.append(f"| {recipe.name} | {recipe.data} | {hours} | {printed} |")
    return "\n".join(lines) + "\n"


def _tried_out(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the part of the page on smoke runs, without their numbers, which mean nothing."""
    lines = [
        "## Tried out on random data",
        "",
        "`spinalnet reproduce NAME --budget smoke`: every head of the recipe, two steps on random "
        "data of the right shape (with small stand-ins for networks too large for that), through "
        "training, validation and test. It shows that the recipe runs; what came out means nothing "
        "and is not shown. The test suite does the same for every recipe.",
        "",
        "| recipe | protocol | heads (parameters) | torch | commit |",
        "|---|---|---|---|---|",
    ]
    for record in records:
        summary = record["summary"]
        heads = ", ".join(f"{row['head']} ({row['params']:,})" for row in summary["heads"])
        environment = summary["environment"]
        lines.append(
            f"| {record['recipe']} | {record['protocol']} | {heads} | {environment.get('torch')} "
            f"| {_short_commit(environment.get('commit'))} |"
        )
    return [*lines, ""]


def _overview(recipe: Recipe, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one row per head: what was printed, and the longest run of each protocol."""
    best = {
        protocol: next(
            (
                r
                for budget in ("full", "short")
                for r in records
                if (r["recipe"], r["protocol"], r["budget"]) == (recipe.name, protocol, budget)
            ),
            None,
        )
        for protocol in get_args(Protocol)
    }
    heads = dict.fromkeys(
        head["head"] for record in best.values() if record for head in record["summary"]["heads"]
    )
    rows = []
    for head in heads:
        printed = "; ".join(
            _number(p.value) for p in recipe.printed if p.what.startswith(f"{head}:")
        )
        cells = [recipe.name, head, printed or "–"]
        cells += [_cell(best[protocol], head) for protocol in ("paper", "honest")]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _cell(record: Mapping[str, Any] | None, head: str) -> str:
    """Return one head's result in a record, with whatever qualifies it."""
    if record is None:
        return "–"
    summary = record["summary"]
    own = next((row for row in summary["heads"] if row["head"] == head), None)
    if own is None:
        return "–"
    if minima := record["heads"].get(head, {}).get("last_batch_minimum"):
        return f"{_spread(minima)} (last mini-batch of training, n={len(minima)})"
    values = [value for value in own[_values(summary)] if value is not None]
    text = f"{_spread(values, summary['metric'])} (n={len(values)}"
    if summary["selected_on"] != "validation":
        text += f", selected on {summary['selected_on']}"
    if record["budget"] != "full":
        text += f", {record['budget']}"
    return text + ")"


def _values(summary: Mapping[str, Any]) -> str:
    return "accuracies" if summary["metric"] == "accuracy" else f"{summary['metric']}_values"


def _spread(values: Sequence[float], metric: str = "mse") -> str:
    scale, digits = (100, ".2f") if metric == "accuracy" else (1, ".3g")
    spread = f" ± {scale * stdev(values):{digits}}" if len(values) > 1 else ""
    return f"{scale * fmean(values):{digits}}{spread}"


def _number(value: float) -> str:
    """Print what the original printed; its accuracies, as ours, in per cent."""
    return f"{100 * value:.2f}" if 0.5 < value < 1 else f"{value:g}"


def _section(recipe: Recipe, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the part of the page on one recipe."""
    lines = [f"## {recipe.name}", ""]
    lines += [f"{recipe.data}, {recipe.model}. From: {', '.join(recipe.sources)}.", ""]
    lines += [f"- printed: {p.what}: {_number(p.value)} ({p.where})" for p in recipe.printed]
    if recipe.defects:
        lines.append(f"- see {', '.join(recipe.defects)} in paper-vs-code.md")
    for record in records:
        lines += ["", *_result(recipe, record)]
    return [*lines, ""]


def _result(recipe: Recipe, record: Mapping[str, Any]) -> list[str]:
    summary = record["summary"]
    environment = summary["environment"]
    selected = summary["selected_on"]
    words = "selected on test" if selected == "test" else f"selected on {selected} data"
    title = f"{record['protocol']} protocol, {words}"
    if record["budget"] != "full":
        title += f", {record['budget']} budget"
    metric = "test accuracy, %" if summary["metric"] == "accuracy" else "test mse"
    has_train = any("train_mse" in extra for extra in record["heads"].values())
    has_last = any("last_batch_minimum" in extra for extra in record["heads"].values())
    columns = ["head", "params", "head MACs", metric]
    columns += ["test R²", "train mse"] * has_train
    columns += ["minimum of last mini-batches"] * has_last
    columns += [f"{summary['heads'][0]['head']} minus this (95 % interval)"]
    lines = [
        f"### {title.capitalize()}",
        "",
        f"{record['epochs']} of {record['of_epochs']} epochs, {record['train_size']:,} of "
        f"{record['of_train_size']:,} training examples, {len(summary['seeds'])} seeds, "
        f"{record['hours']:.2g} hours of training on "
        f"{environment.get('cuda_device') or environment.get('cpu')}, "
        f"{environment.get('threads')} thread(s), torch {environment.get('torch')}, commit "
        f"{_short_commit(environment.get('commit'))}.",
        "",
        f"`{summary['command']}`",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]
    for head in summary["heads"]:
        extra = record["heads"].get(head["head"], {})
        values = [value for value in head[_values(summary)] if value is not None]
        cells = [head["head"], f"{head['params']:,}", f"{head['head_macs']:,}"]
        cells.append(_spread(values, summary["metric"]))
        if has_train:
            cells += [_spread(extra["test_r2"]), _spread(extra["train_mse"])]
        minima = extra.get("last_batch_minimum")
        cells += [_spread(minima) if minima else "–"] * has_last
        cells.append(_interval(head["difference"], summary["metric"]))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {note}" for note in summary["notes"])]
    return lines


def _short_commit(commit: str | Sequence[str] | None) -> str:
    if commit is None:
        return "unknown"
    return commit[:10] if isinstance(commit, str) else " and ".join(one[:10] for one in commit)


def _interval(difference: Mapping[str, Any] | None, metric: str) -> str:
    if difference is None or difference["mean"] is None:
        return "–"
    scale, digits = (100, ".2f") if metric == "accuracy" else (1, ".2g")
    mean, low, high = (difference[key] for key in ("mean", "low", "high"))
    if low is None:
        return f"{scale * mean:{digits}} (no interval)"
    return (
        f"{scale * mean:{digits}} ({scale * low:{digits}} to {scale * high:{digits}}): "
        f"{difference['verdict']}"
    )
