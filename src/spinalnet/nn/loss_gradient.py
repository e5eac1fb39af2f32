"""One training step's gradients of a small net in closed form: see `LossGradient`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinalnet._checks import InputError
from spinalnet.kernels import untracked
from spinalnet.kernels.masks import Masks
from spinalnet.nn import backends, functional
from spinalnet.nn.dense import MLPHead
from spinalnet.nn.flat import FlatLinear
from spinalnet.nn.gradients import linears_of, slope
from spinalnet.nn.layers import SpinalNet
from spinalnet.nn.reading import why_called


class LossGradient:
    """Loss and gradients of a small net for one batch in training mode, without autograd.

    Takes a `SpinalNet` or an `MLPHead` and gives every parameter a `grad`, all of them views of
    one vector `gradient`; call it like a function to fill it. With a piecewise linear activation
    the chain runs through the compiled kernels, where they are installed: a dense hidden layer is
    a chain of length one.

    Args:
        net: Without norms, trainable activations and matrices shared by unequal slices: see
            `why_not`. It must keep its parameters where they are.
        classification: Cross entropy of logits, or squared error.
    """

    def __init__(self, net: SpinalNet | MLPHead, classification: bool) -> None:
        reason = self.why_not(net)
        if reason is not None:
            raise InputError(f"the loss has no closed-form gradient here: {reason}.")
        self.classification = classification
        self.in_features = net.in_features
        self.output = net.output
        self.output_keep = 1.0 - net.output_dropout.p
        self.slices: list[slice | None]
        if isinstance(net, SpinalNet):
            spine = net.spine
            ends = torch.tensor(spine.split_sizes).cumsum(0).tolist()
            parts = [slice(e - s, e) for e, s in zip(ends, spine.split_sizes, strict=True)]
            self.linears = linears_of(spine)
            self.slices = [parts[i % spine.num_splits] for i in range(spine.num_layers)]
            self.activations: Sequence[Any] = [spine.activation] * spine.num_layers
            self.keeps = [1.0 - spine.dropout] * spine.num_layers
            splits = spine.num_splits
        else:
            blocks = [list(block) for block in net.layers]  # type: ignore[arg-type]
            self.linears = [next(m for m in b if isinstance(m, nn.Linear)) for b in blocks]
            self.slices = [None] * len(blocks)
            self.activations = [block[-1] for block in blocks]
            self.keeps = [
                1.0 - block[0].p if isinstance(block[0], nn.Dropout) else 1.0 for block in blocks
            ]
            splits = 1
        self.spinal = isinstance(net, SpinalNet)
        # A matrix that serves several layers collects its gradient from all, the last one first.
        self.writes = [
            linear not in self.linears[index + 1 :] for index, linear in enumerate(self.linears)
        ]
        maps = dict.fromkeys(self.linears)
        parameters = [linear.weight for linear in maps]
        parameters += [linear.bias for linear in maps if linear.bias is not None]
        parameters += [p for p in (self.output.weight, self.output.bias) if p is not None]
        self.parameters: list[Tensor] = parameters
        self.gradient = torch.zeros_like(torch.cat([p.detach().flatten() for p in parameters]))
        parts = self.gradient.split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        # Of which parts the input of every layer of a chain consists.
        self._segments = [
            (linear.in_features - linear.out_features, linear.out_features)
            if index
            else (linear.in_features,)
            for index, linear in enumerate(self.linears)
        ]
        self.minus_one = -torch.ones_like(self.gradient[:1])
        self.chain = self._compiled_chain(splits)

    def _compiled_chain(self, num_splits: int) -> untracked.UntrackedChain | None:
        """Return the net as the compiled kernels compute it; None if they cannot serve it."""
        if not self.linears or (not self.spinal and len(self.linears) > 1):
            return None
        weights = [linear.weight for linear in self.linears]
        rows = weights[0].detach().new_empty(1, self.in_features)
        negative_slope = backends.slope_of(self.activations[0])
        call = backends.describe_call(
            rows, weights, num_splits=num_splits, negative_slope=negative_slope, norms=None
        )
        if negative_slope is None or backends.BACKENDS["cpp"].why_not(call) is not None:
            return None
        last = (self.output.weight, self.output.bias)
        return untracked.UntrackedChain(
            weights,
            [linear.bias for linear in self.linears if linear.bias is not None],
            [tensor for tensor in last if tensor is not None],
            num_splits=num_splits,
            negative_slope=negative_slope,
        )

    @staticmethod
    def why_not(net: nn.Module) -> str | None:
        """Return why `net` has no closed form here; None if it has one."""
        if type(net) not in (SpinalNet, MLPHead):
            return f"{type(net).__name__} is neither a SpinalNet nor an MLPHead"
        if any(isinstance(m, nn.BatchNorm1d | nn.LayerNorm) for m in net.modules()):
            return "norms mix the rows or the neurons of a batch"
        if any(isinstance(m, FlatLinear) for m in net.modules()):
            return "its parameters are one"
        heard = next((m for m in net.modules() if backends.hooked(m)), None)
        if heard is not None:
            return f"a hook listens to its {type(heard).__name__}"
        if isinstance(net, SpinalNet):
            maps = [*net.spine.layers, net.output]
        else:
            # A block is dropout or not, linear map, activation.
            blocks: list[Any] = [*net.get_submodule("layers").children()]
            maps = [m for block in blocks for m in list(block)[:-1] if type(m) is not nn.Dropout]
            maps.append(net.get_submodule("output"))
            if len(maps) != len(blocks) + 1:
                return "a hidden layer is not one linear map"
        called = next((reason for m in maps if (reason := why_called(m)) is not None), None)
        if called is not None:
            return f"a linear map is called as a module: {called}"
        if any(m._parameters.get("weight") is None for m in maps):
            return "a matrix is parametrized"
        if type(net.output_dropout) is not nn.Dropout:
            return f"the output row is behind a {type(net.output_dropout).__name__}"
        linears = [m for m in net.modules() if isinstance(m, nn.Linear)]
        tensors = [p for m in dict.fromkeys(maps) for p in m._parameters.values() if p is not None]
        if len(set(map(id, tensors))) < len(tensors):
            return "two linear maps share a parameter"
        own = {id(p) for m in linears for p in m.parameters()}
        if any(id(p) not in own for p in net.parameters()):
            return "the activation has parameters of its own"
        spine = getattr(net, "spine", None)
        if spine is not None and spine.share_weights and len(set(spine.split_sizes)) > 1:
            return "a matrix is shared by slices of unequal length"
        return None

    @torch.no_grad()
    def __call__(self, x: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Write the gradients of `mean(weights * loss)` over the batch; return that loss.

        Args:
            x: Inputs `(B, D)`.
            targets: Class numbers `(B,)`, or values `(B, K)`.
            weights: Weight of each row `(B,)`; `None` for 1.
        """
        if self.chain is not None:
            outputs = self.chain.forward(x, *self._masks(x))
            loss, gradient = self._loss(outputs, targets, weights)
            gradients = [parameter.grad for parameter in self.chain.parameters]
            self.chain.backward(x, gradient, gradients)  # type: ignore[arg-type]
            return loss
        return self._by_operations(x, targets, weights)

    def _masks(self, x: Tensor) -> tuple[Masks | None, Masks | None]:
        """Draw what the net itself would draw for the layers and for the output row."""
        width = self.linears[0].out_features
        drawn: list[Masks | None] = []
        for keep, segments in (
            (self.keeps[0], self._segments),
            (self.output_keep, [(width,) * len(self.linears)]),
        ):
            masks = Masks(len(x), segments, 1.0 - keep, x.dtype) if keep < 1.0 else None
            drawn.append(masks)
        return drawn[0], drawn[1]

    def _by_operations(self, x: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Do the same with torch operations, for any activation."""
        inputs: list[Tensor] = []
        masks: list[Tensor | None] = []
        hidden: list[Tensor] = []
        zs: list[Tensor] = []
        previous = x
        for linear, part, act, keep in zip(
            self.linears, self.slices, self.activations, self.keeps, strict=True
        ):
            if part is None:
                seen = previous
            elif hidden:
                seen = torch.cat((x[:, part], previous), dim=1)
            else:
                seen = x[:, part]
            seen, mask = _dropped(seen, keep)
            z = F.linear(seen, linear.weight, linear.bias)
            # relu needs its value only, so that it may overwrite its argument.
            previous = z.relu_() if type(act) is nn.ReLU else act(z)
            inputs.append(seen)
            masks.append(mask)
            zs.append(z)
            hidden.append(previous)
        if self.spinal:
            top = hidden[0] if len(hidden) == 1 else torch.cat(hidden, dim=1)
        else:
            top = previous
        top, top_mask = _dropped(top, self.output_keep)
        outputs = F.linear(top, self.output.weight, self.output.bias)
        loss, gradient = self._loss(outputs, targets, weights)

        _collect(self.output, gradient, top, True)
        from_top = gradient @ self.output.weight
        if top_mask is not None:
            from_top *= top_mask
        width = hidden[0].shape[1] if hidden else 0
        gradient = from_top if not self.spinal else from_top[:, from_top.shape[1] - width :]
        for layer in range(len(self.linears) - 1, -1, -1):
            act, linear = self.activations[layer], self.linears[layer]
            if type(act) is nn.ReLU:
                gradient = torch.ops.aten.threshold_backward(gradient, hidden[layer], 0)
            elif type(act) is not nn.Identity:
                gradient = gradient * slope(act, zs[layer], hidden[layer])
            _collect(linear, gradient, inputs[layer], self.writes[layer])
            if layer == 0:
                break
            mask = masks[layer]
            if not self.spinal:
                gradient = gradient @ linear.weight
                if mask is not None:
                    gradient *= mask
                continue
            gradient = gradient @ linear.weight[:, -width:]
            if mask is not None:
                gradient *= mask[:, -width:]
            gradient += from_top[:, (layer - 1) * width : layer * width]
        return loss

    def _loss(
        self, outputs: Tensor, targets: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and its gradient by the outputs."""
        if not self.classification:
            difference = outputs - targets
            scaled = difference if weights is None else difference * weights[:, None]
            loss = torch.dot(scaled.flatten(), difference.flatten()) / difference.numel()
            return loss, scaled.mul(2.0 / difference.numel())
        logs = torch.log_softmax(outputs, dim=1)
        picked = logs.gather(1, targets[:, None])
        loss = -(picked if weights is None else picked[:, 0] * weights).sum() / len(outputs)
        gradient = logs.exp_()
        gradient.scatter_add_(1, targets[:, None], self.minus_one.expand(len(outputs), 1))
        gradient *= 1.0 / len(outputs) if weights is None else weights[:, None] / len(outputs)
        return loss, gradient


def _dropped(values: Tensor, keep: float) -> tuple[Tensor, Tensor | None]:
    if keep == 1.0:
        return values, None
    mask = functional.keep_mask(values, values.shape[1], 1.0 - keep)
    return values * mask, mask


def _collect(linear: nn.Linear, gradient: Tensor, inputs: Tensor, write: bool) -> None:
    """Write (or add, for a matrix met before) the gradient of a linear map's parameters."""
    weight, bias = linear.weight.grad, None if linear.bias is None else linear.bias.grad
    assert weight is not None
    if write:
        torch.mm(gradient.T, inputs, out=weight)
        if bias is not None:
            torch.sum(gradient, 0, out=bias)
        return
    weight.addmm_(gradient.T, inputs)
    if bias is not None:
        bias += gradient.sum(0)
