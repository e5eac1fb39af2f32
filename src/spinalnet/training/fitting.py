"""`fit`: train any model, choose its best epoch on validation data, and survive interruption.

`fit` never sees test data: the epoch, the learning rate and early stopping are decided on `val`.
All random draws of an epoch (data order, augmentation, dropout, rates) are functions of the seed
and the epoch, so a killed run goes on exactly where it was, and two models that are compared see
the same batches. What they are drawn from, and the choice of kernels, belongs to the whole process:
fits in several threads of one process take turns (`own_generators`).
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spinalnet import _dist, locks
from spinalnet._checks import InputError
from spinalnet.randomness import own_generators
from spinalnet.training import circumstances, runs, stopping
from spinalnet.training.config import TrainConfig
from spinalnet.training.learner import BringsLearner, ModelLearner
from spinalnet.training.loop import Loop, nothing_to_train_on
from spinalnet.training.placement import advise, resolve_device

if TYPE_CHECKING:
    from spinalnet.training.loop import FitResult, Progress
    from spinalnet.training.placement import Batch, Data


_SAFE_EVERY = 2.0  # seconds; to wait for the disk after epochs of a tenth takes a tenth of a run


@locks.writes_alone
def fit(
    model: nn.Module,
    train: Data,
    val: Data,
    config: TrainConfig | None = None,
    *,
    out: runs.RunFolder | str | os.PathLike[str] | None = None,
    description: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    after: FitResult | None = None,
) -> FitResult:
    """Train `model` in place and leave in it the weights of the best epoch on `val`.

    The best epoch has the highest validation accuracy, among equals the lowest validation loss; in
    a regression the lowest mean squared error. The test data is not this function's business.

    Args:
        model: Maps inputs to logits `(B, K)`, or to values shaped like float targets.
        train: Training data; integer targets `(B,)` mean classification, float ones regression.
        val: Data for every choice made in training.
        config: How to train; the defaults without one.
        out: Run folder, or a path to make one at. An interrupted run in it goes on where its last
            finished epoch ended. `RunFolder.finish` is left to the caller, who has the result.
        description: Kept in the header of `model.safetensors`; see `RunFolder.save_model`.
        on_progress: Called at every step, in the main process; must be quick. What it raises ends
            the training.
        after: An earlier stage, with whose best weights `model` comes. The epochs of this stage are
            counted on from there, and the best epoch is that of both. A run that `out` has already
            begun knows it.

    Returns:
        The model, the history and the validation metrics of the best epoch.

    Raises:
        InputError: If data and model do not fit together, or `out` cannot be used.
        FolderInUse: If another process writes into `out`.
        TrainingError: If the loss is no longer finite. The last finished epoch is in `out`.
    """
    config = config or TrainConfig()
    device = resolve_device(config.device)
    _dist.connect(device)
    if _dist.is_main() and out is not None and not isinstance(out, runs.RunFolder):
        out = runs.RunFolder.start(out, config.to_dict(), read=_as_now)
    _dist.barrier()
    run = runs.RunFolder(out) if isinstance(out, str | os.PathLike) else out
    if run is not None and runs.is_done(run.path):
        raise InputError(f"{run.path} holds a run that is done: use it, or choose another folder.")
    with own_generators([device] if device.type == "cuda" else []), _kernel_choice(config, device):
        own = isinstance(train, BringsLearner)
        learner = (
            train.learner(model, val, config) if own else ModelLearner(model, train, val, config)
        )
        loop = Loop(learner, config, on_progress)
        _take_up(run, after, loop, learner)
        loop.note(advise(learner.placement))
        safe_since = time.monotonic()
        with learner.all_released_after(), _kept(run, loop, learner):
            while not loop.stopped:
                row, is_best = loop.run_epoch()
                if run is not None and _dist.is_main():
                    durable = time.monotonic() - safe_since >= _SAFE_EVERY
                    # The state is last: what it says is done must be there whole.
                    run.append_metrics(row, durable=durable)
                    if is_best:
                        run.save_model(loop.best_weights, description, durable=durable)
                    run.save_state(loop.state_dict() | learner.state_dict(), durable=durable)
                    safe_since = time.monotonic() if durable else safe_since
                loop.tell("epoch", row=row, best=is_best)
                loop.end_if_asked()
        if run is not None and _dist.is_main():
            # Again: a run killed in a later epoch may have that one's weights, which it does anew.
            run.save_model(loop.best_weights, description)
        return loop.result(learner.model)


def _take_up(
    run: runs.RunFolder | None, after: FitResult | None, loop: Loop, learner: ModelLearner
) -> None:
    """Go on where the run was interrupted, else where the stage before has ended."""
    state = None if run is None else run.load_state()
    seen = _dist.most_of_all([float(state is None), float(state is not None)], learner.device)
    if min(seen) > 0:
        raise InputError(
            f"some of the {_dist.world_size()} processes do not see what is saved in "
            f"{run and run.path}: all machines need the same folder, such as one of a shared disk."
        )
    if run is not None and state is not None:
        kept = state.get("config")
        if not isinstance(kept, Mapping):
            raise _no_state(run, "it has no settings")
        if field := runs.first_difference(_as_now(kept), loop.config.to_dict()):
            name, old, new = field
            raise InputError(
                f"the interrupted run was trained with {name} = {old!r}, not {new!r}: repeat its "
                "settings to go on with it, or choose another folder."
            )
        try:
            learner.load_state_dict(state)
            loop.load_state_dict(state)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise _no_state(run, error) from error
        for sentence in run.notes:
            loop.notes.append(sentence)
            loop.tell("note", note=sentence)
    elif after is not None:
        loop.follow(after)
    if run is not None:
        if _dist.is_main():
            run.keep_metrics(0 if state is None else loop.epochs_done)
            for row in loop.history:
                run.append_metrics(row)
        if state is not None:
            loop.history = run.metrics()[: loop.epochs_done]


def _as_now(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that an older version may have written as they would be written now."""
    return TrainConfig.from_dict(config).to_dict()


@contextmanager
def _kept(run: runs.RunFolder | None, loop: Loop, learner: ModelLearner) -> Iterator[None]:
    """Let the loop save within an epoch, and a signal wait until it has."""
    if run is None:
        yield
        return
    loop.is_kept = True
    if _dist.is_main():
        loop.save = lambda: run.save_state(loop.state_dict() | learner.state_dict())
        circumstances.keep(run.path, learner.circumstances)
    try:
        with stopping.deferred(lambda: loop.saved_in(run.path)):
            yield
    finally:
        loop.save = None  # it holds the loop


def _no_state(run: runs.RunFolder, reason: object) -> InputError:
    return InputError(
        f"the state in {run.path} is none that this version can go on from ({reason!r}): it is "
        "damaged, or of another version; delete the folder and start again."
    )


@contextmanager
def trial(model: nn.Module, train: Data, config: TrainConfig) -> Iterator[Callable[[float], float]]:
    """Make single steps of training, for what wants to watch them: no validation, nothing written.

    Args:
        model: As for `fit`; trained in place.
        train: Training data, gone through again and again.
        config: How to train; the rate of each step is the caller's.

    Yields:
        A function that makes one step at a rate and returns the batch's loss before it. A step
        with a loss that is not finite leaves the weights as they are.

    Raises:
        InputError: If data and model do not fit together.
    """
    device = resolve_device(config.device)
    with own_generators([device] if device.type == "cuda" else []), _kernel_choice(config, device):
        learner = ModelLearner(model, train, train, config)

        def batches() -> Iterator[Batch]:
            for epoch in itertools.count():
                learner.begin_epoch(epoch)
                yielded = False
                for batch in learner.batches():
                    yielded = True
                    yield batch
                if not yielded:
                    raise nothing_to_train_on()

        endless = enumerate(batches())

        def step(lr: float) -> float:
            loss = float(learner.find_gradients(*next(endless))[0])
            if math.isfinite(loss):
                learner.update_weights(lr)
            return loss

        yield step


@contextmanager
def _kernel_choice(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Let CUDA search for fast kernels, or with `deterministic` use reproducible ones only."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    strict = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if config.deterministic:
        if device.type == "cuda":  # cuBLAS is reproducible with a fixed workspace only
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    cudnn.benchmark = not config.deterministic
    cudnn.deterministic = config.deterministic
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before
        if config.deterministic:  # to be asked imports torch's compiler, which takes seconds
            torch.use_deterministic_algorithms(strict, warn_only=warn_only)
