"""How a head learns from features in memory: by compiled steps where there are any, in `fit`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spinalnet import _dist
from spinalnet.data.order import batch_slices, epoch_order, stream_seed
from spinalnet.nn import form_of, why_no_form
from spinalnet.nn.backends import hooked
from spinalnet.training import steps
from spinalnet.training.learner import ModelLearner
from spinalnet.training.placement import resolve_device

if TYPE_CHECKING:
    from spinalnet.training.config import TrainConfig
    from spinalnet.training.learning import StepsTaken
    from spinalnet.training.placement import Data

Rows = tuple[Tensor, Tensor]  # features (N, F), targets (N,) or (N, K)


def head_of(model: nn.Module) -> nn.Module:
    """Return what computes, of a model whose trunk leaves features as they are."""
    trunk, head = (getattr(model, name, None) for name in ("trunk", "head"))
    if type(trunk) is nn.Identity and isinstance(head, nn.Module) and not hooked(model, trunk):
        return head
    return model


def why_not(model: nn.Module, config: TrainConfig, rows: Rows) -> str | None:
    """Return why `fit` trains this head step by step in Python; None if it does not.

    Depends on this head, its settings and its rows alone.
    """
    if (device := resolve_device(config.device)).type != "cpu":
        return f"it is trained on {device}"
    if _dist.world_size() > 1:
        return "several processes train it"
    if (reason := steps.why_not(config, rows[0]) or why_no_form(head_of(model))) is not None:
        return reason
    if any(p.dtype is not rows[0].dtype for p in model.parameters()):
        return f"its parameters are not of the type of the features, {rows[0].dtype}"
    targets = rows[1]
    if targets.is_floating_point() and targets.dim() != 2:
        return "its targets are not one column per output"
    return None


class HeadLearner(ModelLearner):
    """`ModelLearner` for a head of which `why_not` says nothing: steps without Python.

    Batches, rates, validation, checkpoints and state dicts are those of `ModelLearner`; weights
    agree to rounding, and dropout draws its masks from a stream of its own.

    Args:
        model: The head, maybe as a model whose trunk is `nn.Identity`.
        views: Features and targets as epoch `e` sees them: the one at `e` modulo their number.
        train: The same as a source of batches.
        val: Validation data.
        config: How to train.
    """

    steps_at_once = 64  # between two looks at the keyboard and the progress bar

    def __init__(
        self, model: nn.Module, views: Sequence[Rows], train: Data, val: Data, config: TrainConfig
    ) -> None:
        self._own: steps.VectorSteps | None = None
        super().__init__(model, train, val, config)
        form, self._parameters = form_of(head_of(self.model))
        self._own, self._views = steps.VectorSteps(form, self._parameters, config), views
        self._batches = batch_slices(len(views[0][0]), config.batch_size, True)
        self._mean, self._square = (torch.zeros_like(self._own.vector) for _ in range(2))
        self._before = 0
        self._share_memory()

    def restart_optimizer(self) -> None:
        """Take a new optimizer, which remembers no gradients."""
        super().restart_optimizer()
        if self._own is not None:  # not from the constructor
            self._mean.zero_()
            self._square.zero_()
            self._before = 0
            self._share_memory()

    def _share_memory(self) -> None:
        """Make the optimizer's memory pieces of the vectors that the steps write."""
        assert self._own is not None
        pieces = (vector.split(self._own.parts) for vector in (self._mean, self._square))
        for p, mean, square in zip(self._parameters, *pieces, strict=True):
            state = self.optimizer.state[p]
            if self.config.optimizer == "sgd":
                state["momentum_buffer"] = mean.view_as(p)
            else:
                state["step"] = torch.tensor(float(self._before))
                state["exp_avg"], state["exp_avg_sq"] = mean.view_as(p), square.view_as(p)

    @contextmanager
    def all_released_after(self) -> Iterator[None]:
        """Give every parameter memory of its own again after."""
        try:
            with super().all_released_after():
                yield
        finally:
            for parameter in self._parameters:
                parameter.data = parameter.data.clone()

    def begin_epoch(self, epoch: int) -> None:
        """Seed the generators and draw the order of the epoch."""
        super().begin_epoch(epoch)
        assert self._own is not None
        seed, rows = self.config.seed, self._views[epoch % len(self._views)]
        self._own.use_rows(*rows)
        order = epoch_order(len(rows[0]), True, seed, epoch)
        self._own.begin_epoch(order, self._batches, stream_seed("dropout", seed, epoch))
        self.model.train()

    def train_steps(self, first: int, rates: Sequence[float]) -> StepsTaken:
        """Make steps of the epoch; see `learning.StepsLearner`."""
        assert self._own is not None
        square = None if self.config.optimizer == "sgd" else self._square
        taken = self._own.take(first, rates, self._before, (self._mean, square))
        self._before += len(rates)
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"].fill_(self._before)
        for group in self.optimizer.param_groups:
            group["lr"] = rates[-1] * group["factor"]
        return taken

    def _last_gradients(self) -> tuple[list[str], list[Tensor]]:
        """Return the gradients of the last step, with the names of their parameters."""
        assert self._own is not None
        known = {id(parameter): name for name, parameter in self.model.named_parameters()}
        pieces = self._own.gradient.split(self._own.parts)
        pairs = zip(self._parameters, pieces, strict=True)
        names = [known.get(id(parameter), "a layer") for parameter in self._parameters]
        return names, [piece.view_as(parameter) for parameter, piece in pairs]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned, here or of a `ModelLearner`."""
        super().load_state_dict(state)
        assert self._own is not None
        pieces = (vector.split(self._own.parts) for vector in (self._mean, self._square))
        for p, mean, square in zip(self._parameters, *pieces, strict=True):
            memory = self.optimizer.state[p]
            for name, piece in (
                ("momentum_buffer", mean),
                ("exp_avg", mean),
                ("exp_avg_sq", square),
            ):
                if memory.get(name) is not None:
                    piece.view_as(p).copy_(memory[name])
            self._before = int(memory.get("step", 0))
        self._share_memory()
