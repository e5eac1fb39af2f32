"""Run a recipe in one of two ways, and keep what came out as one small record.

* `protocol="honest"`: everything is chosen on validation data split from the training data, the
  controls are added (see `RecipeRequest.heads`), heads are compared by seed (`comparison.compare`);
* `protocol="paper"`: the original's own procedure with its own constants; where that let the test
  data decide (the rate, the epoch that is reported), the result says "selected on test". A recipe
  of our own has no such procedure.

Budgets: `full` is the original's length; `short` a stated share of epochs and data, called short
wherever it appears; `smoke` two steps an epoch on random data, to see that everything fits.

A record (`recipe.json`) holds the settings, the summary of the comparison and the commit, and no
path of the machine; `experiments` makes the page of all records.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from spinalnet import _dist, files, locks
from spinalnet._checks import InputError, TrainingError, check_positive, unknown_name
from spinalnet.comparison import ComparisonSpec, RunSpec, comparing, write_report
from spinalnet.comparison.cells import Event
from spinalnet.comparison.engine import Effort
from spinalnet.comparison.finished import read_folder
from spinalnet.data import DATASETS, ArrayDataset, DatasetInfo, DataSpec, Splits, loading, readers
from spinalnet.data.augment import ORIGINAL
from spinalnet.models import MODELS, ModelSpec, zoo
from spinalnet.models.assembly import CONTROLS, flavour_of, mlp_options
from spinalnet.paper.originals import as_pictures, load_originals
from spinalnet.paper.recipes import CONSTANTS, RECIPES, Recipe, find_recipes
from spinalnet.paper.records import Budget, LastBatches, Protocol, make_record, published_of
from spinalnet.training import TrainConfig

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


@dataclass(frozen=True)
class RecipeRequest:
    """A recipe and how it is to be run; what `prepare` returns.

    Attributes:
        recipe: A row of `RECIPES`.
        protocol: "honest" or "paper"; see the top of this file.
        budget: "full", "short" or "smoke".
        seeds: Number of paired seeds.
        data_dir: Where the data set's files are.
        download: Whether missing data may be fetched.
    """

    recipe: Recipe
    protocol: Protocol
    budget: Budget
    seeds: int = 5
    data_dir: str | None = None
    download: bool | None = None

    @property
    def name(self) -> str:
        """Name of the recipe's folder."""
        return "-".join([self.recipe.name, self.protocol, *([self.budget] * (not self.is_full))])

    @property
    def command(self) -> str:
        """What asks the same again."""
        words = ["spinalnet", "reproduce", self.recipe.name, "--protocol", self.protocol]
        words += ["--seeds", str(self.seeds), "--budget", self.budget]
        if self.data_dir is not None:
            words += ["--data-dir", self.data_dir]
        return shlex.join(words)

    @property
    def is_full(self) -> bool:
        """Whether it has the original's length."""
        return self.budget == "full"

    @property
    def selected_on(self) -> str:
        """What chooses: "validation", or what did in the original."""
        return self.recipe.selected_on if self.protocol == "paper" else "validation"

    @property
    def pretrained(self) -> bool:
        """Whether the trunk starts from published weights."""
        return self.recipe.pretrained and self.budget != "smoke"

    @property
    def _of_pictures(self) -> bool:
        """Whether images go through the transforms of the original's script."""
        paper = self.protocol == "paper" and self.budget != "smoke"
        return paper and self.recipe.pictures is not None

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
        if self.protocol == "honest" and not self.recipe.is_ours:
            config = replace(config, amp="auto")  # the original knew no half precision
        elif self._of_pictures:
            config = replace(config, augment=ORIGINAL + "; test ".join(self.recipe.pictures or ()))
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

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads to train: the original's, or all and the controls that tell something new.

        Those are an MLP of the size of the first head; the first head without its chain, where it
        is one chain; and the paper's MLP with the spinal head's norm and dropout, where its own
        were others.
        """
        if self.protocol == "paper":
            return self.recipe.original_heads or self.recipe.heads
        row, heads = MODELS[self.recipe.model], self.recipe.heads
        controls = ["matched"]
        if row.spinal == "spinal" and heads[0] in ("spinal", "spinal-shared", "spinal-reused"):
            controls.append("unchained")
        if "mlp-paper" in heads and self._mlp_differs():
            controls.append("mlp")
        return (*heads, *controls)

    def question(self) -> ComparisonSpec:
        """Return the comparison that answers this recipe."""
        recipe = self.recipe
        model, size = recipe.model, recipe.image_size
        if self.budget == "smoke":
            model, size = _SMOKE_MODELS.get(model, (model, None))
        fields: dict[str, dict[str, Any]] = {
            head: {"head_options": self._options(head)}
            for head in self.heads
            if head not in CONTROLS
        }
        first = self.heads[0]
        if self.protocol == "paper":
            for head in fields.keys() & recipe.necks.keys():
                fields[head]["neck"] = recipe.necks[head]
        base = RunSpec(
            DataSpec(recipe.data, self.data_dir, size, recipe.in_channels, self.limit()),
            ModelSpec(model, first, fields[first]["head_options"], pretrained=self.pretrained),
            self.config(),
            self.selected_on,  # type: ignore[arg-type]
        )
        return ComparisonSpec(base, self.heads, self.seeds, other=fields)

    def _full(self, head: str) -> dict[str, Any]:
        """Return the options of a head of the paper: those of the network, and the recipe's own."""
        row = MODELS[self.recipe.model].heads.get(head, {})
        return {**row, **self.recipe.options.get(head, {})}

    def _mlp(self) -> dict[str, Any]:
        return mlp_options(self._full("mlp-paper"), self._full("spinal"))

    def _mlp_differs(self) -> bool:
        """Whether "mlp" is another network than the paper's own; an unset rate or norm is none."""
        mlp, paper = (
            {name: value for name, value in flavour_of(options).items() if value}
            for options in (self._mlp(), self._full("mlp-paper"))
        )
        return mlp != paper

    def _options(self, head: str) -> dict[str, Any]:
        own = self._mlp() if head == "mlp" else dict(self.recipe.options.get(head, {}))
        if self.budget != "smoke":
            return own
        # The relative that stands in must not bring options of its own.
        options = self._full(head) | own
        if head.startswith("spinal") and self.recipe.model in _SMOKE_MODELS:
            options = {"num_splits": 2, "norm": None, "dropout": 0.0} | options
        width = options.get("hidden_features")
        if isinstance(width, tuple):
            options["hidden_features"] = tuple(min(w, _SMOKE_WIDTH) for w in width)
        elif width is not None:
            options["hidden_features"] = min(width, _SMOKE_WIDTH)
        return options

    def load(self, spec: RunSpec) -> Splits:
        """Load the data of a run as this protocol uses it."""
        recipe = self.recipe
        if self.budget == "smoke":
            splits = _random_splits(recipe, spec)
        else:
            row = DATASETS[recipe.data]
            if self.protocol == "paper":
                row = replace(row, transposed=False)  # the original takes the files as they are
            if self._of_pictures:
                splits = load_originals(recipe, spec, row, download=self.download)
            else:
                splits = loading.load(spec.data, spec.train.seed, row=row, download=self.download)
        constants = self._constants(splits.info.task)
        if constants is not None:
            splits = splits.normalized_by(*constants)
        notes = [*splits.info.notes, *recipe.notes]
        if self.budget == "short":
            notes.append(
                f"Short budget: {spec.train.epochs} of {recipe.train.epochs} epochs"
                + (f", at most {spec.data.limit} training examples" if spec.data.limit else "")
                + ". This is not the result of the full recipe."
            )
        info = replace(splits.info, notes=tuple(notes))
        if self.protocol == "paper":
            splits = _as_the_original(recipe, splits, whole=spec.data.limit is None)
            unused = range(info.num_classes, recipe.outputs or 0)
            names = (*info.class_names, *(f"unused output {k}" for k in unused))
            info = replace(info, class_names=names)
        splits = replace(splits, info=info)
        return as_pictures(recipe, splits) if self._of_pictures else splits

    def _constants(self, task: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return those of the original, or of the published weights; None for the data's own."""
        if self.protocol == "paper" and task == "classification":
            return CONSTANTS[self.recipe.constants]
        return CONSTANTS["imagenet"] if self.recipe.pretrained else None


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


def _random_splits(recipe: Recipe, spec: RunSpec) -> Splits:
    """Return random data of the right kind: two batches to train on, one for each other part."""
    row = DATASETS[recipe.data]
    channels = recipe.in_channels or row.image_shape[0]
    size = spec.data.image_size or row.image_shape[-1]
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


def run_recipe(
    name: str,
    *,
    protocol: str = "honest",
    seeds: int = 5,
    budget: str = "full",
    out: str | Path = "runs/recipes",
    data_dir: str | None = None,
    download: bool | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Path:
    """Run one recipe; called again with the same arguments it goes on where it stopped.

    Args:
        name: A name of `list_recipes()`.
        protocol: "honest" or "paper"; see the top of this file.
        seeds: Number of paired seeds.
        budget: "full", "short" or "smoke".
        out: Folder for the folders of recipes: `OUT/<recipe>-<protocol>[-<budget>]`.
        data_dir: Where the data set's files are.
        download: Whether missing data may be fetched.
        on_event: Told of every run that begins, goes on, ends or fails.

    Returns:
        The folder: a comparison with its report (not for smoke runs), and `recipe.json`.

    Raises:
        InputError: If a name is unknown or the data is missing, before anything is trained.
    """
    if name not in RECIPES:
        find_recipes(name)  # raises with the nearest names, unless it is a pattern
        raise InputError(f"run_recipe takes one recipe, got the pattern '{name}'.")
    request = prepare(
        RECIPES[name], protocol, budget, seeds=seeds, data_dir=data_dir, download=download
    )
    return run_request(request, out, on_event=on_event)


def run_request(
    request: RecipeRequest,
    out: str | Path = "runs/recipes",
    *,
    on_event: Callable[[Event], None] | None = None,
) -> Path:
    """Run what `prepare` has prepared; arguments and result as for `run_recipe`."""
    folder = files.expanded(out) / request.name
    with locks.FolderLock(folder) if _dist.is_main() else contextlib.nullcontext():
        return _run_in(folder, request, on_event)


def _run_in(folder: Path, request: RecipeRequest, on_event: Callable[[Event], None] | None) -> Path:
    """Do what `run_request` says, alone in the folder."""
    listener = LastBatches(folder) if request.selected_on == "training" else None

    def tell(event: Event) -> None:
        if listener is not None and event.progress is not None:
            assert isinstance(event.cell.spec, RunSpec)
            listener(event.cell.spec, event.progress)
        if on_event is not None:
            on_event(event)

    comparing.run_comparison(
        request.question(),
        folder,
        # In this process: the listener must hear of every step.
        Effort(jobs=1, threads=torch.get_num_threads(), on_event=tell),
        load=request.load,
        command=request.command,
        timed=False,  # the benchmarks do that, on a quiet machine
        reported=False,  # below, beside what the original printed
    )
    for row, reasons in read_folder(folder).failed.items():
        for unit, reason in reasons.items():
            raise TrainingError(f"{row}-{unit}: {reason}")
    if _dist.is_main():
        record = make_record(request.recipe, request.protocol, request.budget, folder)
        files.write_kept(folder / "recipe.json", record.to_dict())
        if request.budget != "smoke":
            published_of(record).save(folder)
            write_report(folder)
    _dist.barrier()
    return folder


def prepare(
    recipe: Recipe,
    protocol: str,
    budget: str,
    *,
    seeds: int = 5,
    data_dir: str | None = None,
    download: bool | None = None,
) -> RecipeRequest:
    """Check what is asked of a recipe; fetch its data and weights, where that is allowed.

    Raises:
        InputError: If it cannot be run so; the sentence says what is missing and how to get it.
    """
    for kind, value, known in (("protocol", protocol, Protocol), ("budget", budget, Budget)):
        if value not in get_args(known):
            raise unknown_name(kind, value, get_args(known))
    check_positive("seeds", seeds)
    if protocol == "paper" and recipe.is_ours:
        raise InputError(
            f"'{recipe.name}' is a recipe of our own, of which the original has no procedure: run "
            "it with protocol=honest."
        )
    request = RecipeRequest(recipe, protocol, budget, seeds, data_dir, download)  # type: ignore[arg-type]  # checked above
    if budget == "smoke":
        return request
    if recipe.is_demonstration:
        raise InputError(
            f"'{recipe.name}' is a demonstration without data of its own: run it with budget=smoke."
        )
    readers.ensure_present(DATASETS[recipe.data], data_dir, download=download)
    if request.pretrained:
        if download is False:
            place = f"copy the file to '{torch.hub.get_dir()}/checkpoints'"
            zoo.check_weights_here(recipe.model, place)
        _fetch_weights(recipe.model)
    return request


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
