"""One run, and a comparison: heads x seeds of runs that differ in nothing but the head.

The protocol of every honest number in this package lives here: the validation part is split from
the training data by the seed, every choice is made on it, and the test part is touched once, after
training. Runs with the same seed share the split, the order of the data, the augmentation draws
and, bit by bit, the initial trunk.

Under `torchrun` every process goes through all of this, and the main one writes the files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spinalnet import _dist, lrfind, models, runs, timing, train, transfer
from spinalnet import data as data_room
from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.augment import build_augment
from spinalnet.config import TrainConfig
from spinalnet.images import bad_list, fit_to, read_all
from spinalnet.nn import HEADS, count_macs, count_params
from spinalnet.scores import OUTPUTS_FILE, Outputs, quality

OnProgress = Callable[["RunSpec", train.Progress], None]


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides the result of one run; what `config.yaml` holds.

    Attributes:
        data: Name of a data set, or a folder of images.
        model: Row of `models.MODELS`.
        head: Row of `nn.HEADS`.
        head_options: Options that override the paper's.
        train: How to train; its seed is the seed of the run.
        data_dir: Where the data set's files are.
        image_size: Side in pixels that images are brought to; `None` for the data's own, or the
            model's where the data's is too small.
        in_channels: 1 for grey, 3 for colour; `None` for the data's own (3 for folders).
        limit: Use only so many training images.
        on_bad_image: Whether image files that cannot be used are refused ("error") or left out
            ("skip").
        neck: How the trunk's last map becomes features, where the model has a choice.
        pretrained: Start the trunk from published weights, or from those in the file of this path.
        selected_on: What every choice in training is made on: "validation", or, in a repetition
            of the paper's procedure, "test" or "training". The caller's `load` sees to it.
        trunk: "frozen" to train the head only, on features that the trunk makes once (see
            `transfer`); None to train both.
        probe_epochs: Train the head so long on features of the plain images first, then both from
            its best weights. The best epoch may be one of either stage.
        probe_lr: Learning rate of that first stage; all else is as in `train`.
    """

    data: str
    model: str = "mnist-cnn"
    head: str = "spinal"
    head_options: Mapping[str, Any] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)
    data_dir: str | None = None
    image_size: int | None = None
    in_channels: Literal[1, 3] | None = None
    limit: int | None = None
    on_bad_image: Literal["error", "skip"] = "error"
    neck: str | None = None
    pretrained: bool | str = False
    selected_on: Literal["validation", "test", "training"] = "validation"
    trunk: Literal["frozen"] | None = None
    probe_epochs: int = 0
    probe_lr: float = 3e-3

    def __post_init__(self) -> None:
        if self.trunk == "frozen" and self.train.mix != "none":
            raise InputError(
                "mix mixes images, but a frozen trunk is given every image once: leave out "
                "--freeze or mix."
            )
        if self.probe_epochs:
            check_positive("probe_epochs", self.probe_epochs)
            if not self.pretrained:
                raise InputError(
                    "probe_epochs trains a head on what a network has learned: give it published "
                    "weights or a file of them (--backbone or --weights), or leave it out."
                )
        if self.trunk == "frozen" and (self.probe_epochs or self.train.uses_depth):
            raise InputError(
                "a frozen trunk does not learn: leave out --freeze, or probe_epochs, trunk_lr, "
                "layer_decay, head_epochs, unfreeze_every and keep_statistics."
            )

    @property
    def name(self) -> str:
        """Name of the run's folder within a comparison."""
        return f"{self.head}-seed{self.train.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in `config.yaml`."""
        return {**asdict(self), "head_options": dict(self.head_options)} | {
            "train": self.train.to_dict()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """Read what `to_dict` gave."""
        return cls(**{**values, "train": TrainConfig.from_dict(values["train"])})


def load_splits(spec: RunSpec, *, download: bool | None = None) -> data_room.Splits:
    """Load the data of a run at a size its model can take.

    Raises:
        InputError: If a name is unknown, the data is missing or unusable.
    """
    row = models.model_spec(spec.model)
    build_augment(spec.train.augment)  # a misspelt step is told now, not in the first epoch
    size, channels = spec.image_size, spec.in_channels
    known = data_room.DATASETS.get(spec.data)
    is_image = known is None or len(known.image_shape) == 3
    if size is None and row.mean and is_image:
        size = row.input_shape[1]  # a backbone knows what it was trained on
    elif size is None and known is not None and is_image and known.image_shape[1] < row.min_size:
        size = row.input_shape[1]
    if channels is None and row.mean and spec.pretrained:
        channels = 3
    with _one_after_another(spec):  # a download is for one
        splits = data_room.load_dataset(
            spec.data,
            spec.data_dir,
            spec.train.seed,
            image_size=size,
            in_channels=channels,
            limit=spec.limit,
            download=download,
            on_bad_image=spec.on_bad_image,
        )
    if not row.mean or not spec.pretrained:
        return splits
    train_part, val, test = (
        part.normalized_by(row.mean, row.std) for part in (splits.train, splits.val, splits.test)
    )
    info = replace(splits.info, mean=row.mean, std=row.std)
    return replace(splits, train=train_part, val=val, test=test, info=info)


def _one_after_another(spec: RunSpec) -> AbstractContextManager[None]:
    """Join the job's processes; the main one goes through the block before the others."""
    _dist.connect(train.resolve_device(spec.train.device))
    return _dist.main_first()


def build_model(spec: RunSpec, info: data_room.DatasetInfo) -> models.ImageModel:
    """Build the network of a run, initialised from its seed."""
    channels, *sides = info.input_shape
    return models.create_model(
        spec.model,
        info.num_classes or 1,  # a regression has one output
        in_channels=channels,
        input_size=sides[0] if sides else None,
        head=spec.head,
        neck=spec.neck,
        pretrained=spec.pretrained,
        seed=spec.train.seed,
        **spec.head_options,
    )


def describe_model(spec: RunSpec, info: data_room.DatasetInfo) -> dict[str, Any]:
    """Return what a checkpoint must carry so that it can be used without anything else."""
    return {
        "model": spec.model,
        "head": spec.head,
        "head_options": dict(spec.head_options),
        "neck": spec.neck,
        "trunk": spec.trunk,
        "task": info.task,
        "class_names": list(info.class_names),
        "input_shape": list(info.input_shape),
        "mean": list(info.mean),
        "std": list(info.std),
        "data": info.name,
        "seed": spec.train.seed,
    }


def run_one(
    spec: RunSpec,
    out: str | Path,
    *,
    splits: data_room.Splits | None = None,
    on_progress: OnProgress | None = None,
) -> runs.RunRecord:
    """Train, choose on validation, test once, and leave a complete run folder.

    A finished run with the same settings is returned as it is; an interrupted one goes on.

    Args:
        spec: What to run.
        out: Folder of the run.
        splits: The data, if already loaded by `load_splits` for this seed.
        on_progress: Called with the spec at every step of training.

    Raises:
        InputError: If anything asked for is impossible, before anything is written.
        TrainingError: If the loss is no longer finite.
    """
    if spec.head not in HEADS:
        raise unknown_name("head", spec.head, HEADS)
    if runs.is_done(out):
        runs.RunFolder.start(out, spec.to_dict())  # refuses another question in the same folder
        return runs.load_runs(out)[0]
    splits = splits or load_splits(spec)
    tell = None if on_progress is None else functools.partial(on_progress, spec)
    with _one_after_another(spec):  # weights are fetched, features computed, files written once
        model = build_model(spec, splits.info)
        folder = runs.RunFolder.start(out, spec.to_dict())
        if _dist.is_main():
            _keep_left_out(folder.path, splits, begun=bool(folder.metrics()))
        trained, parts, after = model, splits, None
        if spec.trunk == "frozen":
            parts = _features(model, splits, spec.train)
            transfer.keep_trunk(model.trunk, folder.path)
            trained = _head_alone(model)
    if spec.probe_epochs and not folder.has_state():
        after = _probe(model, splits, spec, tell)
    fitted = train.fit(
        trained,
        parts.train,
        parts.val,
        spec.train,
        out=folder,
        description=describe_model(spec, splits.info),
        on_progress=tell,
        after=after,
    )
    if _dist.is_main():
        tested, outputs = measure(fitted.model, parts.test, spec.train)
        if outputs is not None:
            _with_thumbnails(outputs, splits.test).save(folder.path / OUTPUTS_FILE)
        folder.finish(_result(spec, model, splits, parts, fitted) | {"test": tested})
    _dist.barrier()
    return runs.load_runs(folder.path)[0]


def _result(
    spec: RunSpec,
    model: models.ImageModel,
    splits: data_room.Splits,
    parts: data_room.Splits | transfer.FeatureSplits,
    fitted: train.FitResult,
) -> dict[str, Any]:
    """Return the content of `result.json`, but for what the test says.

    Args:
        spec: What was asked for.
        model: The whole model.
        splits: The data as it is.
        parts: The data as it was trained on: `splits`, or the features of a frozen trunk.
        fitted: What came out of training on `parts`.
    """
    info = splits.info
    params, macs = count_params(model), count_macs(model, info.input_shape)
    val = fitted.val.to_dict()
    val.pop("confusion", None)
    # A regression is judged by how far its error on the data it has seen is from the rest.
    seen = {}
    if info.task == "regression":
        seen = {"train": train.evaluate(fitted.model, parts.train).to_dict()}
    return {
        "model": spec.model,
        "head": spec.head,
        "data": info.name,
        "seed": spec.train.seed,
        "task": info.task,
        "class_names": list(info.class_names),
        "params": params.total,
        "trunk_params": params.trunk,
        "head_params": params.head,
        "macs": macs.total,
        "trunk_macs": macs.trunk,
        "head_macs": macs.head,
        "train_size": len(splits.train),
        **seen,
        "val": val,
        "best_epoch": fitted.best_epoch,
        "epochs_run": fitted.epochs_run,
        "train_seconds": fitted.seconds,
        "selected_on": spec.selected_on,
        "stopped": fitted.stopped,
        "notes": [*info.notes, *fitted.notes],
    }


def _keep_left_out(folder: Path, splits: data_room.Splits, *, begun: bool) -> None:
    """Write which image files are left out: they belong to what a result is a result of.

    Raises:
        InputError: If what the folder holds was begun with others left out.
    """
    path = folder / "bad-images.txt"
    listed = bad_list(splits.left_out)
    if begun and listed != (path.read_text(encoding="utf-8") if path.exists() else ""):
        raise InputError(
            f"{folder} was begun with other image files left out than cannot be used now "
            "(bad-images.txt lists them): bring the files back to what they were, or choose "
            "another folder."
        )
    if listed:
        runs.write_text(path, listed)


def _features(
    model: models.ImageModel, splits: data_room.Splits, config: TrainConfig
) -> transfer.FeatureSplits:
    device = train.resolve_device(config.device)
    return transfer.frozen_splits(model.trunk, splits, augment=config.augment, device=device)


def _head_alone(model: models.ImageModel) -> models.ImageModel:
    """Return the head as a model of features; its weights keep the names they have in `model`."""
    return models.ImageModel(nn.Identity(), model.head, model.name)


def _probe(
    model: models.ImageModel,
    splits: data_room.Splits,
    spec: RunSpec,
    on_progress: Callable[[train.Progress], None] | None,
) -> train.FitResult:
    """Train the head of `model` on features of the plain images, and leave its best weights in it.

    It takes seconds and repeats itself bit by bit, so an interrupted run simply does it again.
    """
    config = replace(
        spec.train,
        epochs=spec.probe_epochs,
        lr=spec.probe_lr,
        **{name: TrainConfig.__dataclass_fields__[name].default for name in _OF_THE_WHOLE},
    )
    parts = _features(model, splits, config)
    fitted = train.fit(_head_alone(model), parts.train, parts.val, config, on_progress=on_progress)
    model.train()
    rows = tuple(row | {"stage": "probe"} for row in fitted.history)
    return replace(fitted, history=rows)


# What a probe does not take over from the training of the whole.
_OF_THE_WHOLE = (
    *("augment", "mix", "phases", "trunk_lr", "layer_decay", "head_epochs", "unfreeze_every"),
    "keep_statistics",
)


def measure(
    model: nn.Module,
    part: data_room.ArrayDataset | data_room.FolderDataset | transfer.FeatureDataset,
    config: TrainConfig,
) -> tuple[dict[str, Any], Outputs | None]:
    """Measure a model in full precision, with the memory format of training.

    Returns:
        The numbers for `result.json`; and, of a classifier, what it said about every example.
    """
    logits = train.predict_logits(
        model,
        part,
        batch_size=config.eval_batch_size,
        device=config.device,
        channels_last=config.channels_last,
    )
    said = data_room.ArrayDataset(logits, part.targets)
    metrics = train.evaluate(nn.Identity(), said, batch_size=config.eval_batch_size).to_dict()
    if part.targets.is_floating_point():
        return metrics, None
    outputs = Outputs.of(logits, part.targets)
    scores = quality(outputs)
    metrics |= {"brier": scores.brier, "ece": scores.ece, "adaptive_ece": scores.adaptive_ece}
    return metrics, outputs


_THUMBNAILS, _THUMBNAIL_SIDE = 16, 96  # of photographs; small images are kept as they are


def _with_thumbnails(
    outputs: Outputs, part: data_room.ArrayDataset | data_room.FolderDataset
) -> Outputs:
    """Return `outputs` with the names of the files, and pixels of the worst mistakes."""
    outputs = replace(outputs, paths=tuple(part.paths))
    rows = outputs.worst(_THUMBNAILS)
    if part.paths:
        chosen = [part.paths[row] for row in rows.tolist()]
        pixels, bad = read_all(chosen, 3, _THUMBNAIL_SIDE)
        pixels[[row for row, _ in bad]] = 0  # changed since; the mistake stays
    elif isinstance(part, data_room.ArrayDataset) and part.inputs.dtype == torch.uint8:
        pixels = part.inputs[rows]
        if max(pixels.shape[2:]) > _THUMBNAIL_SIDE:
            pixels = fit_to(pixels, _THUMBNAIL_SIDE)
    else:
        return outputs  # features, not images
    return outputs.with_thumbnails(rows, pixels)


@dataclass(frozen=True)
class Comparison:
    """A question: which of these heads is better on this data, over how many seeds?

    Attributes:
        base: The run that all share; its head and seed are replaced in turn.
        heads: Names of heads; the first is compared with each of the others.
        seeds: Number of paired seeds, counted from the seed of `base`.
        other: Fields of a head's runs that differ from `base`, by head; `head_options` for one.
    """

    base: RunSpec
    heads: tuple[str, ...] = ("spinal", "mlp", "matched", "linear")
    seeds: int = 5
    other: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_positive("seeds", self.seeds)
        if not self.heads:
            raise InputError("heads must name at least one head, for example spinal,mlp.")
        for head in self.heads:
            if head not in HEADS:
                raise unknown_name("head", head, HEADS)
        for head in self.other:
            if head not in self.heads:
                raise unknown_name("head with fields of its own", head, self.heads)
        if len(set(self.heads)) < len(self.heads):
            raise InputError(f"heads must differ, got {', '.join(self.heads)}.")

    def specs(self) -> Iterator[RunSpec]:
        """Yield every run, all heads of one seed before the next seed.

        The head options of `base` belong to the first head; the others keep the paper's, unless
        `other` says more.
        """
        first = self.base.train.seed
        for seed in range(first, first + self.seeds):
            for head in self.heads:
                options = self.base.head_options if head == self.heads[0] else {}
                if head == "matched" and self.heads[0] != "matched":
                    options = {"match": self.heads[0], "match_options": self.base.head_options}
                own = {"head_options": options} | dict(self.other.get(head, {}))
                config = replace(self.base.train, seed=seed)
                yield replace(self.base, head=head, train=config, **own)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in `comparison.yaml`."""
        base = self.base.to_dict()
        first = self.base.train.seed
        return {
            "data": base.pop("data"),
            "model": base.pop("model"),
            "heads": list(self.heads),
            "seeds": list(range(first, first + self.seeds)),
            "epochs": self.base.train.epochs,
            "base": base,
            "other": {head: dict(fields) for head, fields in self.other.items()},
        }


def compare(
    question: Comparison,
    out: str | Path,
    *,
    download: bool | None = None,
    on_progress: OnProgress | None = None,
    on_run: Callable[[RunSpec, runs.RunRecord], None] | None = None,
    load: Callable[[RunSpec], data_room.Splits] | None = None,
    timed: bool = True,
) -> Path:
    """Run every head with every seed, then time the heads side by side.

    Everything that can be refused is refused before the first file is written. Called again with
    the same question the finished runs stay and the unfinished go on; more seeds or heads extend
    the comparison.

    Args:
        question: What to compare.
        out: Folder of the comparison; runs go to `runs/<head>-seed<k>/` in it.
        download: Whether missing data may be fetched.
        on_progress: Called at every training step.
        on_run: Called after every run, also one that was already done.
        load: What loads the data of a run; `load_splits` without it.
        timed: Whether to time the heads, which takes a few seconds.

    Returns:
        The folder, ready for `report.write_report`.
    """
    out = Path(out)
    specs = list(question.specs())
    load = load or functools.partial(load_splits, download=download)
    splits = load(specs[0])
    with _one_after_another(specs[0]):
        for spec in specs[: len(question.heads)]:
            build_model(spec, splits.info)
        for spec in specs:
            if runs.is_run(out / "runs" / spec.name):
                runs.RunFolder.start(out / "runs" / spec.name, spec.to_dict())
        if _dist.is_main():
            _keep_left_out(out, splits, begun=(out / "comparison.yaml").exists())
            runs.write_mapping(out / "comparison.yaml", question.to_dict())

    loaded_seed = specs[0].train.seed
    for spec in specs:
        folder = out / "runs" / spec.name
        if not runs.is_done(folder) and spec.train.seed != loaded_seed:
            splits, loaded_seed = load(spec), spec.train.seed
        record = run_one(spec, folder, splits=splits, on_progress=on_progress)
        if on_run is not None:
            on_run(spec, record)
    if timed and _dist.is_main():
        runs.write_mapping(out / "timing.json", time_heads(question, splits))
    _dist.barrier()
    return out


def find_rates(
    question: Comparison,
    *,
    download: bool | None = None,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
    on_step: Callable[[str, int, int], None] | None = None,
) -> dict[str, lrfind.RangeTest]:
    """Run a range test of the learning rate for every head, with the first seed; write nothing.

    Args:
        question: Network, data, heads and settings, as for `compare`.
        download: Whether missing data may be fetched.
        lowest: See `lrfind.range_test`, as the following ones.
        highest: Rate of the last step.
        steps: Number of steps.
        on_step: Called with (head, steps done, steps).

    Returns:
        What was found, by head. Only training images are used.
    """
    specs = list(question.specs())[: len(question.heads)]
    splits = load_splits(specs[0], download=download)
    found = {}
    for spec in specs:
        model, parts = build_model(spec, splits.info), splits
        if spec.trunk == "frozen":
            parts, model = _features(model, splits, spec.train), _head_alone(model)
        found[spec.head] = lrfind.range_test(
            model,
            parts.train,
            spec.train,
            lowest=lowest,
            highest=highest,
            steps=steps,
            on_step=None if on_step is None else functools.partial(on_step, spec.head),
        )
    return found


def time_heads(question: Comparison, splits: data_room.Splits) -> dict[str, Any]:
    """Time every head alone on real features of one batch, in turns within this run.

    Returns:
        Microseconds per batch for inference and for forward plus backward, with the hardware.
    """
    config = question.base.train
    device = train.resolve_device(config.device)
    built = {
        spec.head: build_model(spec, splits.info).to(device)
        for spec in list(question.specs())[: len(question.heads)]
    }
    images, _ = next(iter(splits.train.batches(config.batch_size, device=device, shuffle=False)))
    cases: dict[str, Callable[[], object]] = {}
    for head, model in built.items():
        with torch.no_grad():
            features = model.eval().trunk(images)
        cases[f"{head}/inference"] = _inference(model.head, features)
        cases[f"{head}/training"] = _training(model.head, features)
    timings = timing.interleave(cases, seconds=0.5 * len(built), device=device)
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "batch_size": len(images),
        "rounds": min(t.rounds for t in timings.values()),
        "unit": "us per batch",
        "heads": {
            head: {
                mode: 1e6 * timings[f"{head}/{mode}"].median for mode in ("inference", "training")
            }
            for head in built
        },
    }


def _inference(head: nn.Module, features: Tensor) -> Callable[[], object]:
    def case() -> object:
        head.eval()
        with torch.no_grad():
            return head(features)

    return case


def _training(head: nn.Module, features: Tensor) -> Callable[[], object]:
    inputs = features.clone().requires_grad_()

    def case() -> object:
        head.train()
        head.zero_grad(set_to_none=True)
        inputs.grad = None
        return head(inputs).square().mean().backward()

    return case


@dataclass(frozen=True)
class TrainedModel:
    """A model out of a run folder, with all it needs to read images and name classes."""

    model: models.ImageModel
    info: data_room.DatasetInfo
    spec: RunSpec


def load_trained(path: str | Path) -> TrainedModel:
    """Rebuild a model from the folder of a run (its best weights) or from a checkpoint file.

    Raises:
        InputError: If `path` is neither, or the run has no weights yet.
    """
    is_file = Path(path).is_file()
    if not is_file and not runs.is_run(path):
        raise InputError(f"{path} is not the folder of a run; give the folder that --out named.")
    file = Path(path) if is_file else Path(path) / "model.safetensors"
    weights, about = runs.load_weights(file)
    if is_file:
        spec = RunSpec(
            about["data"],
            about["model"],
            about["head"],
            about["head_options"],
            neck=about.get("neck"),
        )
    else:
        spec = RunSpec.from_dict(runs.load_runs(path)[0].config)
    if about.get("trunk") == "frozen":
        weights |= transfer.load_trunk(file.parent)
    spec = replace(spec, pretrained=False, probe_epochs=0)  # the weights are here
    info = data_room.DatasetInfo(
        name=about["data"],
        task=about.get("task", "classification"),
        class_names=tuple(about["class_names"]),
        input_shape=tuple(about["input_shape"]),
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
    )
    model = build_model(spec, info)
    model.load_state_dict(weights)
    return TrainedModel(model.eval(), info, spec)
