"""One run on images: trained, chosen on validation data, tested once.

The protocol of every honest number in this package lives here: the validation part is split from
the training data by the seed, every choice is made on it, and the test part is touched once, after
training. Runs with the same seed share the split, the order of the data, the augmentation draws
and, bit by bit, the initial trunk.

Under `torchrun` every process goes through all of this, and the main one writes the files.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spinalnet import _dist, files, locks
from spinalnet._checks import InputError
from spinalnet.comparison import moved
from spinalnet.comparison.baseline import Baseline
from spinalnet.comparison.building import build_model, load_splits, one_after_another
from spinalnet.comparison.calibration import quality
from spinalnet.comparison.metrics import measured
from spinalnet.comparison.outputs import OUTPUTS_FILE, AnyOutputs, Outputs, RegressionOutputs
from spinalnet.comparison.samples import keep_samples
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.spoken import with_shares
from spinalnet.comparison.trained import Description
from spinalnet.comparison.watching import Watching
from spinalnet.data import batches
from spinalnet.data.depths import Depths
from spinalnet.data.images import bad_list, fit_to, read_all
from spinalnet.models import assembly, features
from spinalnet.nn import count_macs, count_params, wiring_in
from spinalnet.training import TrainConfig, evaluation, fitting, loop, lrfind, placement, runs

if TYPE_CHECKING:
    from spinalnet.comparison.question import ComparisonSpec
    from spinalnet.comparison.spec import OnProgress
    from spinalnet.comparison.tables.spec import TableSpec
    from spinalnet.comparison.watching import Watch


def run_one(
    spec: RunSpec,
    out: str | Path,
    *,
    splits: batches.Splits | None = None,
    on_progress: OnProgress | None = None,
    watch: Watch = (),
) -> runs.RunRecord:
    """Train, choose on validation, test once, and leave a complete run folder.

    A finished run with the same settings is returned as it is; an interrupted one goes on.

    Args:
        spec: What to run.
        out: Folder of the run.
        splits: The data, if already loaded by `load_splits` for this seed.
        on_progress: Called with the spec at every step of training.
        watch: Told of every epoch and of the end, as `compare` tells; not of a run that is done.

    Raises:
        InputError: If anything asked for is impossible, before anything is written.
        FolderInUse: If another process writes into `out`.
        TrainingError: If the loss is no longer finite.
    """
    watching = Watching(watch if _dist.is_main() else ())
    if runs.is_done(out):
        open_folder(out, spec)  # refuses another question in the same folder
        return runs.load_run(files.expanded(out))
    with (
        locks.FolderLock(out) if _dist.is_main() else contextlib.nullcontext(),
        watching.of_run(spec, on_progress) as tell,
    ):
        record = _run(spec, out, splits, tell)
        watching.finished(spec.name, record.result or {})
    return record


def _run(
    spec: RunSpec, out: str | Path, splits: batches.Splits | None, on_progress: OnProgress | None
) -> runs.RunRecord:
    """Do what `run_one` says, alone in the folder."""
    if splits is None:
        moved.check_there(files.expanded(out), spec.data)
        splits = load_splits(spec)
    tell = None if on_progress is None else functools.partial(on_progress, spec)
    with one_after_another(spec.train):  # weights are fetched, features made once
        model = build_model(spec, splits.info)
        folder = open_folder(out, spec)
        if _dist.is_main():
            begun = folder.has_state() or bool(folder.metrics())
            keep_left_out(folder.path, splits, begun=begun)
            moved.keep_labels(folder.path, spec.data, begun=begun)
            moved.keep_data(folder.path, spec.data)
        trained, parts, after = model, splits, None
        if spec.model.freeze:
            parts = _features(model, splits, spec.train, tell)
            features.keep_trunk(model.trunk, folder.path)
            trained = head_alone(model)
    if spec.probe_epochs and not folder.has_state():
        after = _probe(model, splits, spec, tell)
    fitted = fitting.fit(
        trained,
        parts.train,
        parts.val,
        spec.train,
        out=folder,
        description=asdict(Description.of(spec, splits.info)),
        on_progress=tell,
        after=after,
    )
    if _dist.is_main():
        result = _result(spec, model, splits, parts, fitted)
        result["notes"] += filter(None, [moved.moved_note(folder.path)])
        if spec.tested:
            tested, outputs = measure(fitted.model, parts.test, spec.train, splits.info)
            rows = splits.test_rows
            outputs = replace(outputs, rows=None if rows is None else rows.int())
            depths = Depths(splits.info.pixel_range)
            outputs = _with_thumbnails(outputs, splits.test, depths)
            if isinstance(outputs, Outputs):
                outputs = with_shares(outputs, trained, parts.test)
            with folder.there():
                outputs.save(folder.path / OUTPUTS_FILE)
                samples = keep_samples(folder.path, splits, spec.train)
            result |= {"test": tested, "samples": samples and samples.to_dict()}
        else:
            result["val"] |= measure(fitted.model, parts.val, spec.train, splits.info)[0]
            result["val"].pop("confusion", None)
        if not spec.tested:  # of a trial only the numbers are of use
            for name in ("model.safetensors", features.TRUNK_FILE):
                with files.writing(folder.path / name):
                    (folder.path / name).unlink(missing_ok=True)
        folder.finish(result)
    _dist.barrier()
    return runs.load_run(folder.path)


def open_folder(path: str | Path, spec: RunSpec | TableSpec) -> runs.RunFolder:
    """Open the folder of a run, or begin it; one whose data has moved follows it.

    Raises:
        InputError: If it holds another run.
    """
    if isinstance(spec, RunSpec):
        moved.follow(path, spec)
    told = {name: getattr(spec, name) for name in ("preset", "chosen") if hasattr(spec, name)}

    def read(kept: Mapping[str, Any]) -> dict[str, Any]:
        # Where settings come from is noted; whether two runs are alike the settings say.
        return type(spec).from_dict(kept).to_dict() | told

    return runs.RunFolder.start(path, spec.to_dict(), read)


def _result(
    spec: RunSpec,
    model: assembly.ImageModel,
    splits: batches.Splits,
    parts: batches.Splits | features.FeatureSplits,
    fitted: loop.FitResult,
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
    wiring = wiring_in(model)
    val = fitted.val.to_dict()
    val.pop("confusion", None)
    # A regression is judged by how far its error on the data it has seen is from the rest.
    seen = {}
    if info.task == "regression" and info.units is None:
        seen = {"train": evaluation.evaluate(fitted.model, parts.train).to_dict()}
    elif info.task == "regression":  # trained in units of the values' spread
        val, seen = (
            {name: measure(fitted.model, part, spec.train, info)[0][name] for name in val}
            for part in (parts.val, parts.train)
        )
        seen = {"train": seen}
    return {
        "model": spec.model.name,
        "head": spec.model.head,
        "label": spec.label or spec.model.head,
        "data": info.name,
        "seed": spec.train.seed,
        "unit": spec.unit.to_dict(),
        "task": info.task,
        "class_names": list(info.class_names),
        "params": params.total,
        "trunk_params": params.trunk,
        "head_params": params.head,
        "macs": macs.total,
        "trunk_macs": macs.trunk,
        "head_macs": macs.head,
        "wiring": wiring and wiring.to_dict(),
        "train_size": len(splits.train),
        "baseline": Baseline.of(info.in_units(splits.train.targets), info.num_classes).to_dict(),
        **seen,
        "val": val,
        "best_epoch": fitted.best_epoch,
        "epochs_run": fitted.epochs_run,
        "train_seconds": fitted.seconds,
        "selected_on": spec.selected_on,
        "stopped": fitted.stopped,
        "notes": [*filter(None, [spec.chosen]), *info.notes, *model.notes, *fitted.notes],
    }


def keep_left_out(folder: Path, splits: batches.Splits, *, begun: bool) -> None:
    """Write which image files are left out: they belong to what a result is a result of.

    Raises:
        InputError: If what the folder holds was begun with others left out.
    """
    for name, lines in (("unused-files.txt", splits.unused), ("copies.txt", splits.copies)):
        if lines:
            files.write_text(folder / name, lines)
    path = folder / moved.LEFT_OUT_FILE
    listed = bad_list(splits.left_out)
    if begun and listed.encode() != (path.read_bytes() if path.exists() else b""):
        raise InputError(
            f"{folder} was begun with other image files left out than cannot be used now "
            "(bad-images.txt lists them): bring the files back to what they were, or choose "
            "another folder."
        )
    if listed:
        files.write_text(path, listed)


def _features(
    model: assembly.ImageModel,
    splits: batches.Splits,
    config: TrainConfig,
    on_progress: Callable[[loop.Progress], None] | None = None,
) -> features.FeatureSplits:
    device = placement.resolve_device(config.device)
    return features.frozen_splits(
        model.trunk, splits, augment=config.augment, device=device, on_progress=on_progress
    )


def head_alone(model: assembly.ImageModel) -> assembly.ImageModel:
    """Return the head as a model of features; its weights keep the names they have in `model`."""
    return assembly.ImageModel(nn.Identity(), model.head, model.name)


def _probe(
    model: assembly.ImageModel,
    splits: batches.Splits,
    spec: RunSpec,
    on_progress: Callable[[loop.Progress], None] | None,
) -> loop.FitResult:
    """Train the head of `model` on features of the plain images, and leave its best weights in it.

    It takes seconds and repeats itself bit by bit, so an interrupted run simply does it again.
    """
    config = replace(
        spec.train,
        epochs=spec.probe_epochs,
        lr=spec.probe_lr,
        **{name: TrainConfig.__dataclass_fields__[name].default for name in _OF_THE_WHOLE},
    )
    parts = _features(model, splits, config, on_progress)
    fitted = fitting.fit(head_alone(model), parts.train, parts.val, config, on_progress=on_progress)
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
    part: batches.ArrayDataset | batches.FolderDataset | features.FeatureDataset,
    config: TrainConfig,
    info: batches.DatasetInfo,
) -> tuple[dict[str, Any], AnyOutputs]:
    """Measure a model in full precision, with the memory format of training.

    Args:
        model: The model.
        part: Images, rows or features, with targets as the model was trained on them.
        config: How it was trained.
        info: On which data; it says in which units the values of a regression are.

    Returns:
        The numbers for `result.json`, and what the model said about every example.
    """
    logits = evaluation.predict_logits(
        model,
        part,
        batch_size=config.eval_batch_size,
        device=config.device,
        channels_last=config.channels_last,
    )
    targets = info.in_units(part.targets)
    logits = info.in_units(logits)
    given = batches.ArrayDataset(logits, targets)
    metrics = evaluation.evaluate(nn.Identity(), given, batch_size=config.eval_batch_size).to_dict()
    if part.targets.is_floating_point():
        said = RegressionOutputs.of(logits, targets)
        return measured(said) | metrics, said
    said = Outputs.of(logits, part.targets)
    scores = quality(said)
    metrics |= {"brier": scores.brier, "ece": scores.ece, "adaptive_ece": scores.adaptive_ece}
    return measured(said) | metrics, said


_THUMBNAILS, _THUMBNAIL_SIDE = 16, 96  # of photographs; small images are kept as they are


def _with_thumbnails(
    outputs: AnyOutputs, part: batches.ArrayDataset | batches.FolderDataset, depths: Depths
) -> AnyOutputs:
    """Return `outputs` with the names of the files, and pixels of the worst mistakes."""
    outputs = replace(outputs, paths=tuple(part.paths))
    rows = outputs.worst(_THUMBNAILS)
    if part.paths:
        chosen = [part.paths[row] for row in rows.tolist()]
        pixels, bad = read_all(chosen, 3, _THUMBNAIL_SIDE, depths)
        pixels[[row for row, _ in bad]] = 0  # changed since; the mistake stays
    elif isinstance(part, batches.ArrayDataset) and part.inputs.dtype == torch.uint8:
        pixels = part.inputs[rows]
        if max(pixels.shape[2:]) > _THUMBNAIL_SIDE:
            pixels = fit_to(pixels, _THUMBNAIL_SIDE)
    else:
        return outputs  # features, not images
    return outputs.with_thumbnails(rows, pixels)


def find_rates(
    question: ComparisonSpec,
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
        lowest: See `training.range_test`, as the following ones.
        highest: Rate of the last step.
        steps: Number of steps.
        on_step: Called with (head, steps done, steps).

    Returns:
        What was found, by row. Only training images are used.
    """
    specs = [spec for spec in question.of_unit(question.units()[0]) if isinstance(spec, RunSpec)]
    splits = load_splits(specs[0], download=download)
    found = {}
    for spec in specs:
        model, parts = build_model(spec, splits.info), splits
        if spec.model.freeze:
            parts, model = _features(model, splits, spec.train), head_alone(model)
        label = spec.label or spec.model.head
        found[label] = lrfind.range_test(
            model,
            parts.train,
            spec.train,
            lowest=lowest,
            highest=highest,
            steps=steps,
            on_step=None if on_step is None else functools.partial(on_step, label),
        )
    return found
