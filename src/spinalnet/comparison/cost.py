"""What heads cost: their times, measured in several processes, and the memory of a training step.

Heads take turns on the real features of one batch. How a process happens to lie in memory changes
times by more than a process changes in itself, so several measure, one after another: fresh ones,
or copies of a fresh one that lie elsewhere. They load while the caller makes the features.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spinalnet._checks import SpinalnetError, check_positive
from spinalnet.comparison import times
from spinalnet.comparison.building import build_model
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.stopwatch import TimedHead
from spinalnet.training import placement
from spinalnet.training.objective import criterion_for
from spinalnet.training.updates import MovingAverage, clip_gradients, new_optimizer

if TYPE_CHECKING:
    from spinalnet.comparison.question import ComparisonSpec
    from spinalnet.data import ArrayDataset, FolderDataset, Splits
    from spinalnet.models import assembly
    from spinalnet.training import TrainConfig

_log = logging.getLogger(__name__)

_PROCESSES = {"cpu": 5}
_PROCESSES_ELSEWHERE = 3  # a GPU's own memory is laid out alike in all, and starting one is slow


class MeasurementError(SpinalnetError, RuntimeError):
    """The heads could not be timed; the runs are not touched by it."""


def time_heads(
    question: ComparisonSpec,
    splits: Splits,
    *,
    processes: int | None = None,
    watches: Stopwatches | None = None,
) -> dict[str, Any]:
    """Measure what every row's head costs.

    Inference and training (forward and backward) are of the head alone; the memory is of a whole
    training step, of the head alone where the trunk is frozen.

    Args:
        question: What is compared, on images.
        splits: Its data.
        processes: How many measure, one after another; 5 without it, 3 on a GPU.
        watches: Processes that may be loading already; ended here.

    Returns:
        What `timing.json` holds; see `times`.

    Raises:
        MeasurementError: If a process ends before its time.
    """
    began = time.perf_counter()
    cells = question.of_unit(question.units()[0])
    specs = {
        label: spec
        for label, spec in zip(question.heads, cells, strict=True)
        if isinstance(spec, RunSpec)
    }
    first = next(iter(specs.values()))
    device = placement.resolve_device(first.train.device)
    with watches or Stopwatches(processes, first.train.device) as watches:
        watches.load()
        heads, memory = _prepared(specs, splits, device)
        order = _pickled((heads, str(device), torch.get_num_threads()))
        measured = watches.measure(order)
    by_mode = {mode: [process[mode] for process in measured] for mode in times.MODES}
    return {
        "schema": times.SCHEMA,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "batch_size": len(next(iter(heads.values())).features),
        "processes": len(measured),
        "rounds": min(len(rounds) for one in by_mode["training"] for rounds in one.values()),
        "unit": "us per batch",
        "memory_of": "head" if first.model.freeze else "network",
        "seconds": round(time.perf_counter() - began, 2),
        "heads": times.heads_to_dict(times.cost_of_rounds(by_mode, memory)),
    }


def _prepared(
    specs: Mapping[str, RunSpec], splits: Splits, device: torch.device
) -> tuple[dict[str, TimedHead], dict[str, int | None]]:
    """Return every head with its features, on the CPU, and the memory of its training step."""
    batch_size = next(iter(specs.values())).train.batch_size
    batch = next(iter(splits.train.batches(batch_size, device=device, shuffle=False)))
    heads: dict[str, TimedHead] = {}
    memory: dict[str, int | None] = {}
    trunk: nn.Module | None = None
    features = batch[0]
    for label, spec in specs.items():
        model = build_model(spec, splits.info).to(device).eval()
        if trunk is None or not are_equal(trunk, model.trunk):
            trunk = model.trunk
            with torch.no_grad():
                features = trunk(batch[0])
        # A pickle, as the training step below may change what it is given.
        heads[label] = TimedHead(pickle.loads(_pickled(model.head.cpu())), features.cpu())
        memory[label] = _peak_memory(model, spec, batch, features, splits.train)
    return heads, memory


def are_equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks are the same: built alike, with the same weights."""
    ours, theirs = one.state_dict(), other.state_dict()
    return (
        repr(one) == repr(other)
        and ours.keys() == theirs.keys()
        and all(torch.equal(ours[name], theirs[name]) for name in ours)
    )


# --- memory ---------------------------------------------------------------------------------------


def _peak_memory(
    model: assembly.ImageModel,
    spec: RunSpec,
    batch: tuple[Tensor, Tensor],
    features: Tensor,
    train: ArrayDataset | FolderDataset,
) -> int | None:
    """Return the most bytes in use at a time in a training step of a run."""
    images, targets = batch
    frozen = spec.model.freeze
    learner, inputs = (model.head, features) if frozen else (model, images)
    try:
        return peak_of_step(learner, inputs.detach(), targets, spec.train, train)
    except (MemoryError, RuntimeError):
        return None  # the times stand without it


def peak_of_step(
    model: nn.Module, inputs: Tensor, targets: Tensor, config: TrainConfig, train: Any
) -> int | None:
    """Make a training step; return the most bytes of tensors that it held at a time.

    Counted are weights and buffers, the batch, what the forward pass keeps, gradients, and what the
    optimizer and an average of the weights remember.

    Args:
        model: What is trained; moved to the device of `inputs`.
        inputs: A batch.
        targets: Of the batch.
        config: How it is trained.
        train: The training data, whose classes may be weighted.

    Returns:
        Bytes; None on a device that does not tell.
    """
    where = placement.place(
        model, config.device, config.amp, config.channels_last, config.eval_batch_size
    )
    if where.device.type not in ("cpu", "cuda"):
        return None
    model = where.move(model).train()
    if config.channels_last and inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in (*placement.tensors_of(model), inputs, targets)
    }
    watch = _peak_on_cpu if where.device.type == "cpu" else _peak_on_cuda
    dynamic = watch(lambda: _step(model, inputs, targets, config, where, train), held)
    return sum(held.values()) + dynamic


def _step(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    config: TrainConfig,
    where: placement.Placement,
    train: Any,
) -> None:
    """Train on one batch as a run does, with an optimizer that has made steps before."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = new_optimizer(config, [{"params": trained}])
    average = MovingAverage(model, config.ema_decay) if config.ema_decay else None
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # what it remembers of earlier gradients is there from now on
    optimizer.zero_grad()
    with where.autocast():
        outputs = model(inputs)
    outputs = placement.at_least_float32(outputs)
    task = "regression" if targets.is_floating_point() else "classification"
    loss = criterion_for(config, task, train, outputs.shape[-1], where)
    loss(outputs, targets, targets).backward()
    clip_gradients(trained, config)
    optimizer.step()
    if average is not None:
        average.update()


def _peak_on_cuda(step: Callable[[], None], held: Mapping[int, int]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _peak_on_cpu(step: Callable[[], None], held: Mapping[int, int]) -> int:
    with _Storages(held) as watched:
        step()
    return watched.peak


class _Storages(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, until they are gone.

    Views, and what is changed in place, are no new tensors; nor is what lies at an address that is
    known to be held before.

    That is the same every time, where the memory of the process as the system sees it depends on
    what was freed and kept before. What an operation takes and gives back inside is not counted.
    """

    def __init__(self, before: Collection[int]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._before = frozenset(before)
        self._held: dict[int, weakref.finalize[Any, Any]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # it would import torch's compiler, to tell it that this is not compiled

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._hold(leaf.untyped_storage())
        return made

    def _hold(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if size == 0 or place in self._held or place in self._before:
            return
        self._held[place] = weakref.finalize(storage, self._gone, place, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, place: int, size: int) -> None:
        del self._held[place]
        self.now -= size


# --- processes that measure -----------------------------------------------------------------------


def _pickled(what: object) -> bytes:
    try:
        return pickle.dumps(what)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise MeasurementError(
            f"a head cannot be sent to the processes that time it ({error}): give functions and "
            "classes that stand in a module."
        ) from error


_COPIES = hasattr(os, "fork") and sys.platform != "darwin"  # whose libraries do not bear it


class Stopwatches:
    """Processes that load at the same time, and then measure one after another.

    Where the system can copy a process only one loads, and its copies measure.

    Leaving the block ends them; what was loaded before is waiting for it.

    Args:
        count: How many measure; without it 5 on the CPU, 3 on a GPU.
        device: Where they will measure, as in `TrainConfig`.
    """

    def __init__(self, count: int | None = None, device: str = "cpu") -> None:
        if count is None:
            kind = placement.resolve_device(device).type
            count = _PROCESSES.get(kind, _PROCESSES_ELSEWHERE)
        self._count = check_positive("processes", count)
        self._copies = count if _COPIES else 0
        self._processes: list[_Stopwatch] = []
        self._ready: list[bool] = []  # of the first of them
        self._is_begun = self._is_over = False
        self._starter: threading.Thread | None = None
        self._in_haste = threading.Event()

    def __enter__(self) -> Stopwatches:
        return self

    def load(self, *, beside_others: bool = False) -> None:
        """Start them, if they are not; they load while the caller does something else.

        Args:
            beside_others: Load one after another, as others are computing: one processor is free.
        """
        if not beside_others:
            self._in_haste.set()
        if self._is_begun:
            return
        self._is_begun = True
        if not beside_others:
            self._start_all()
            return
        self._starter = threading.Thread(target=self._start_all, daemon=True)
        self._starter.start()

    def _start_all(self) -> None:
        for number in range(1 if self._copies else self._count):
            if self._is_over:
                return
            self._processes.append(_Stopwatch(self._copies))
            if not self._in_haste.is_set():
                self._ready.append(self._processes[number].is_ready())

    def __exit__(self, *error: object) -> None:
        self._is_over = True
        if self._starter is not None:
            for process in self._processes:
                process.kill()  # else its starter would wait until it has loaded
            self._starter.join()
        for process in self._processes:
            process.end()
        self._processes.clear()

    def measure(self, order: bytes) -> list[Mapping[str, Mapping[str, list[float]]]]:
        """Give each process the order, when all have loaded, and return what they measured.

        Raises:
            MeasurementError: If one ends before its time.
        """
        self.load()
        if self._starter is not None:
            self._starter.join()
        self._ready += [process.is_ready() for process in self._processes[len(self._ready) :]]
        for process, ready in zip(self._processes, self._ready, strict=True):
            if not ready:
                raise process.ended()
        found = []
        for process in self._processes:
            for said in process.measure(order):
                found.append(said)
                done = {"done": len(found), "of": self._count}
                told = {"phase": "timing", "data": done}
                _log.info("timing: %(done)d of %(of)d processes have measured", done, extra=told)
        return found


class _Stopwatch:
    """A process that measures by `stopwatch.serve`, as its caller sees it."""

    def __init__(self, copies: int) -> None:
        threads = str(torch.get_num_threads())
        code = f"import sys; sys.path[:] = {sys.path!r}; from spinalnet.comparison import stopwatch"
        # Where a pipe could be full before the process ends.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{code}; stopwatch.serve({copies})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout

    def is_ready(self) -> bool:
        """Wait until it has loaded; False if it has ended."""
        return bool(self._answers.readline())

    def measure(self, order: bytes) -> Iterator[Mapping[str, Mapping[str, list[float]]]]:
        """Give it the order; yield what each of its copies measured.

        Raises:
            MeasurementError: If it ends before its time.
        """
        with contextlib.suppress(BrokenPipeError):  # how it ended is told below
            self._orders.write(order)
            self._orders.close()
        for line in self._answers:
            yield json.loads(line)
        if self._process.wait():
            raise self.ended()

    def kill(self) -> None:
        """Kill it, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()

    def end(self) -> None:
        """End it, whatever it does, and close what leads to it."""
        self.kill()
        self._process.wait()
        for pipe in (self._orders, self._answers, self._errors):
            with contextlib.suppress(OSError):  # what was written to a dead process
                pipe.close()

    def ended(self) -> MeasurementError:
        """Say how it ended, which should have measured."""
        code = self._process.wait()
        how = f"ended with exit code {code}"
        if code < 0:
            how = f"was ended by signal {-code}"
            with contextlib.suppress(ValueError):
                how = f"was ended by {signal.Signals(-code).name}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        said = f" ({lines[-1]})" if lines else ""
        return MeasurementError(
            f"the heads could not be timed: the process that measured {how}{said}; the runs stay "
            "as they are, and the same command times the heads again."
        )
