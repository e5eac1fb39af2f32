"""How a small net learns from rows that stay in memory: the `Learner` of the estimators."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinalnet.data.order import batch_slices, epoch_order
from spinalnet.nn import LossGradient
from spinalnet.training import Metrics
from spinalnet.training.updates import clip_gradients, new_optimizer

if TYPE_CHECKING:
    from spinalnet.training import TrainConfig
    from spinalnet.training.placement import Task

Rows = tuple[Tensor, Tensor, Tensor | None]  # inputs (N, D), targets (N,) or (N, K), weights (N,)


class RowsLearner:
    """What `loop.Loop` trains for an estimator: bookkeeping would cost more than such a net.

    Gradients come in closed form where there is one (`LossGradient`), else from autograd. All
    parameters are one vector while it lives, as an optimizer's cost is per tensor; `release` gives
    them memory of their own again.
    """

    depth = 1
    notes: list[str] = []  # noqa: RUF012 (never filled)
    advice = "lower lr or set clip_norm"
    several_processes = False

    def __init__(
        self,
        net: nn.Module,
        config: TrainConfig,
        task: Task,
        rows: Rows,
        held_out: Rows | None = None,
    ) -> None:
        self.net, self.config, self.held_out = net, config, held_out
        self.task: Task = task
        self.rows, self.device = rows, rows[0].device
        batches = batch_slices(len(rows[0]), config.batch_size, True)
        self.sizes, self.steps = [part.stop - part.start for part in batches], len(batches)
        self.closed: LossGradient | None = None
        parameters = list(net.parameters())
        if LossGradient.why_not(net) is None:
            self.closed = LossGradient(net, task == "classification")  # type: ignore[arg-type]
            parameters, self.gradient = self.closed.parameters, self.closed.gradient
        else:
            self.gradient = torch.cat([torch.zeros_like(p).flatten() for p in parameters])
        self.vector = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
        self.vector.grad = self.gradient
        parts = [parameter.numel() for parameter in parameters]
        for parameter, values, gradients in zip(
            parameters, self.vector.data.split(parts), self.gradient.split(parts), strict=True
        ):
            parameter.data = values.view_as(parameter)
            parameter.grad = gradients.view_as(parameter)
        self.restart_optimizer()

    def restart_optimizer(self) -> None:
        """Take a new optimizer, which remembers no gradients."""
        self.optimizer = new_optimizer(self.config, [{"params": [self.vector]}])

    def begin_epoch(self, epoch: int) -> None:
        """Draw the order of an epoch (from 0)."""
        self.order = epoch_order(len(self.rows[0]), True, self.config.seed, epoch).to(self.device)
        self.net.train()

    def batches(self, first: int = 0) -> Iterator[Rows]:
        """Yield the batches of the epoch, from number `first` on."""
        # Once per epoch, not once per batch; index_select is several times faster than x[order].
        x, targets, weights = (
            itertools.repeat(None) if t is None else t.index_select(0, self.order).split(self.sizes)
            for t in self.rows
        )
        return itertools.islice(zip(x, targets, weights, strict=False), first, None)  # type: ignore[return-value]

    def is_finite(self, loss: Tensor) -> bool:
        """Return whether a step can be made."""
        return bool(torch.isfinite(loss) & torch.isfinite(self.gradient).all())

    def find_gradients(self, step: int, batch: Rows) -> tuple[Tensor, None]:
        """Return (mean loss, `None`) of a batch, its gradients being in the parameters."""
        if self.closed is not None:
            return self.closed(*batch), None
        x, targets, weights = batch
        self.gradient.zero_()
        loss = self._loss(self.net(x), targets, weights)
        loss.backward()
        return loss.detach(), None

    def _loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        if self.task == "classification":
            losses = F.cross_entropy(outputs, targets, reduction="none")
        else:
            losses = (outputs - targets).square().mean(1)
        return (losses if weights is None else losses * weights).mean()

    def update_weights(self, lr: float) -> None:
        """Make a step of the optimizer at the rate `lr`."""
        self.optimizer.param_groups[0]["lr"] = lr
        clip_gradients([self.vector], self.config)
        self.optimizer.step()

    @torch.no_grad()
    def measure(self) -> Metrics | None:
        """Return loss and accuracy on the held-out rows, weighted as in training."""
        if self.held_out is None:
            return None
        self.net.eval()
        x, targets, weights = self.held_out
        if weights is not None and not weights.any():
            weights = None  # rows of classes that count for nothing
        # Of mean 1 among these rows, so that a loss can be compared with one without weights.
        shares = None if weights is None else weights / weights.mean()
        outputs = self.net(x)
        accuracy = None
        if self.task == "classification":
            right = (outputs.argmax(1) == targets).double()
            accuracy = float((right if shares is None else right * shares).mean())
        loss = float(self._loss(outputs, targets, shares))
        return Metrics(n=len(x), loss=loss, accuracy=accuracy)

    def copy_weights(self) -> Tensor:
        """Return a copy of all parameters, as one vector."""
        return self.vector.detach().clone()

    def load_weights(self, weights: Tensor) -> None:
        """Take up what `copy_weights` returned."""
        self.vector.data.copy_(weights)

    def release(self) -> dict[str, Any]:
        """Give every parameter memory of its own again; return the optimizer's state."""
        for parameter in self.net.parameters():
            parameter.data = parameter.data.clone()
            parameter.grad = None
        self.net.eval()
        return self.optimizer.state_dict()
