"""Spinal layers and the heads they are compared with, as ordinary PyTorch modules.

`SpinalLayer` is the hidden layer, `SpinalNet` the same plus an output row; `LinearHead`,
`MLPHead` and `ProgressiveNet` are the counterparts. All take `(..., in_features)` and return
logits, never log-probabilities. `HEADS` is the one table of head names; `make_head` builds from it.

The order inside every hidden layer is Dropout, Linear, Norm, Activation (the paper's).

Source: Kabir et al., "SpinalNet: Deep Neural Network with Gradual Input", arXiv:2007.03347.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from spinalnet import ops
from spinalnet._checks import InputError, check_positive, check_probability, unknown_name

Activation = str | Callable[[], nn.Module]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}

NORMS: dict[str, Callable[..., nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


def make_activation(activation: Activation) -> nn.Module:
    """Return a module from a name in `ACTIVATIONS`, a module factory, or a module as it is."""
    if isinstance(activation, nn.Module):
        return activation
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        return ACTIVATIONS[activation]()
    module = activation() if callable(activation) else None
    if not isinstance(module, nn.Module):
        raise InputError(
            "activation must be a name or a function without arguments that returns a module, "
            f"got {activation!r}."
        )
    return module


def _make_norm(norm: str | None, features: int, device: Any, dtype: Any) -> nn.Module:
    if norm is None:
        return nn.Identity()
    if norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    return NORMS[norm](features, device=device, dtype=dtype)


def _negative_slope(activation: nn.Module) -> float | None:
    """Slope below zero of a piecewise linear activation (see `ops.spinal`), else None."""
    kind = type(activation)
    if kind is nn.ReLU:
        return 0.0
    if kind is nn.LeakyReLU:
        return float(activation.negative_slope)  # type: ignore[arg-type]
    return 1.0 if kind is nn.Identity else None


def _entries(mapping: Any, *keys: str) -> list[tuple[dict[str, Any], str, Any]]:
    return [(mapping, key, mapping[key]) for key in keys]


class SpinalLayer(nn.Module):
    """Spinal hidden layer: a chain of narrow layers, each fed a slice of the input.

    Layer `l` sees slice `l mod num_splits` and the output of layer `l - 1`; the outputs of all
    layers are concatenated. The slices are contiguous, near-equal and cover every feature. At
    most `num_layers` slices are made, so that no feature goes unseen (`num_splits` holds the
    number in force).

    Shape:
        input `(..., in_features)`, output `(..., num_layers * hidden_features)`.

    Args:
        in_features: Number of input features, at least `num_splits`.
        hidden_features: Width of every layer in the chain.
        num_layers: Length of the chain, any number from 1.
        num_splits: Number of slices the layers cycle through.
        activation: Name from `ACTIVATIONS` or a module factory; one instance serves all layers.
        norm: `"batch"`, `"layer"` or `None`, between the linear map and the activation. Each
            layer has its own.
        dropout: Probability of dropping an input of a layer (slice and previous output alike).
        share_weights: All layers but the first use one weight matrix and one bias.
        bias: Whether the linear maps have a bias.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        InputError: If a number is out of range or a name unknown.

    Example:
        >>> SpinalLayer(9, 5, num_layers=4)(torch.randn(3, 9)).shape
        torch.Size([3, 20])
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        num_layers: int = 4,
        *,
        num_splits: int = 2,
        activation: Activation = "relu",
        norm: str | None = None,
        dropout: float = 0.0,
        share_weights: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = check_positive("in_features", in_features)
        self.hidden_features = check_positive("hidden_features", hidden_features)
        self.num_layers = check_positive("num_layers", num_layers)
        self.num_splits = min(check_positive("num_splits", num_splits), num_layers)
        self.out_features = num_layers * hidden_features
        self.dropout = check_probability("dropout", dropout)
        self.share_weights = share_weights
        self.split_sizes = ops.split_sizes(in_features, self.num_splits)

        linears = [nn.Linear(self.split_sizes[0], hidden_features, bias, device, dtype)]
        if share_weights and num_layers > 1:
            # Slices differ by at most one feature; a shorter one leaves the last column unused.
            longest = max(
                self.split_sizes[layer % self.num_splits] for layer in range(1, num_layers)
            )
            linears.append(
                nn.Linear(longest + hidden_features, hidden_features, bias, device, dtype)
            )
        else:
            for layer in range(1, num_layers):
                width = self.split_sizes[layer % self.num_splits] + hidden_features
                linears.append(nn.Linear(width, hidden_features, bias, device, dtype))
        self.layers = nn.ModuleList(linears)
        self.norms = nn.ModuleList(
            [_make_norm(norm, hidden_features, device, dtype) for _ in range(num_layers)]
            if norm is not None
            else []
        )
        self.activation = make_activation(activation)
        self._memo = ops.Memo()
        # Which entry of `layers` serves each layer of the chain.
        self.schedule = tuple(min(i, 1) if share_weights else i for i in range(num_layers))

    def chain(self) -> tuple[list[Tensor], list[Tensor] | None]:
        """Return the weights and biases layer by layer, a shared one once per layer."""
        # Past `nn.Module.__getattr__`, which would take longer than a small head computes.
        modules: Any = self._modules
        linears = list(modules["layers"]._modules.values())
        if len(linears) < self.num_layers:  # some run more than once
            linears = [linears[index] for index in self.schedule]
        try:
            weights = [linear._parameters["weight"] for linear in linears]
            biases = [linear._parameters["bias"] for linear in linears]
        except KeyError:  # parametrized or flat: a property, and no longer in the dictionary
            if isinstance(linears[0], FlatLinear) and linears[0].net.flat_parts() is not None:
                return linears[0].net.flat_chain()
            weights = [linear.weight for linear in linears]
            biases = [linear.bias for linear in linears]
        return weights, None if biases[0] is None else biases

    def call(self, x: Tensor) -> ops.SpinalCall:
        """Describe the call that `forward(x)` makes, for `ops.choose_backend`."""
        rows = x.reshape(-1, self.in_features)
        return ops.describe_call(
            rows,
            self.chain()[0],
            num_splits=self.num_splits,
            negative_slope=_negative_slope(self.activation),
            norms=list(self.norms) or None,
            masked=self.training and self.dropout > 0,
            bits=ops.draws_bits(rows),
        )

    def _segments(self) -> list[tuple[int, ...]]:
        """Return of which parts the input of every layer consists."""
        sizes = [self.split_sizes[layer % self.num_splits] for layer in range(self.num_layers)]
        return [(size, self.hidden_features) if i else (size,) for i, size in enumerate(sizes)]

    def backend_choice(self, x: Tensor) -> ops.BackendChoice:
        """Return which path `forward(x)` takes in the present mode, and why."""
        return ops.choose_backend(self.call(x))

    def macs(self) -> int:
        """Return the multiply-accumulates for one input row."""
        return ops.spinal_macs(
            self.in_features, self.hidden_features, self.num_layers, self.num_splits
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to `(..., num_layers * hidden_features)`."""
        result = ops.again(self, x, self._memo)
        if result is None:
            result = self.run(x)
            self._memo.remember(self, self.watched)
        return result

    def watched(self) -> ops.Watched:
        """Return what the last call depended on, so that the next one need not look again."""
        modules: Any = self._modules
        layers = modules["layers"]._modules
        weights, biases = self.chain()
        entries = [*_entries(modules, "layers", "activation", "norms"), *_entries(layers, *layers)]
        for linear in layers.values():
            entries += _entries(linear._parameters, *linear._parameters)
        entries += _entries(self.__dict__, "training", "dropout", "num_splits", "schedule")
        activation = modules["activation"].__dict__
        entries += _entries(activation, *activation.keys() & {"negative_slope"})
        parameters = {id(tensor): tensor for tensor in [*weights, *(biases or ())]}
        return ops.Watched([*parameters.values()], entries, [modules["norms"]._modules])

    def run(
        self,
        x: Tensor,
        output: nn.Linear | None = None,
        output_dropout: float = 0.0,
        flat: tuple[Tensor, ops.Layout] | None = None,
    ) -> Tensor:
        """Compute `forward(x)`, or with an output row its logits, at once.

        Args:
            x: Features. Shape `(..., in_features)`.
            output: The output row.
            output_dropout: Probability of dropping an input of the output row.
            flat: The one parameter that holds all others, and where, if there is one.
        """
        shape = x.shape
        if shape[-1] != self.in_features:
            raise InputError(
                f"the last dimension of x must be in_features={self.in_features}, "
                f"got shape {tuple(shape)}."
            )
        rows = x if len(shape) == 2 else x.reshape(-1, self.in_features)
        modules: Any = self._modules
        activation = modules["activation"]
        slope = _negative_slope(activation)
        norms = list(modules["norms"]._modules.values()) or None
        masks = output_mask = None
        if self.training and self.dropout > 0:
            masks = ops.draw_masks(rows, self._segments(), self.dropout)
        if output_dropout > 0:
            every_layer = (self.hidden_features,) * self.num_layers
            output_mask = ops.draw_masks(rows, [every_layer], output_dropout)
        weights, biases = self.chain()
        result = ops.spinal(
            rows,
            weights,
            biases,
            num_splits=self.num_splits,
            activation=activation,
            negative_slope=slope,
            norms=norms,
            dropout_masks=masks,
            output=None if output is None else (output.weight, output.bias),
            output_mask=output_mask,
            flat=flat,
            memo=self._memo,
        )
        return result if len(shape) == 2 else result.reshape(*shape[:-1], result.shape[-1])

    def extra_repr(self) -> str:
        """Describe the chain in `repr`."""
        return (
            f"in_features={self.in_features}, hidden_features={self.hidden_features}, "
            f"num_layers={self.num_layers}, num_splits={self.num_splits}, "
            f"dropout={self.dropout}, share_weights={self.share_weights}"
        )


class FlatLinear(nn.Linear):
    """A linear map whose matrix and bias are pieces of the one parameter of its spinal net.

    Made by `SpinalNet.flatten_parameters`. In state dicts it is a linear map like any other.
    """

    net: SpinalNet  # a plain attribute, past `nn.Module.__setattr__`: the owner is no submodule
    places: dict[str, int]  # of "weight" and "bias", if there is one, in the layout of the net

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The matrix, a view of the net's parameter. Shape `(out_features, in_features)`."""
        return self.net.flat_piece(self.places["weight"])

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """The bias, a view of the net's parameter. Shape `(out_features,)`."""
        return self.net.flat_piece(self.places["bias"]) if "bias" in self.places else None

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.places:
            piece = getattr(self, name)
            destination[prefix + name] = piece if keep_vars else piece.detach()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # For the time of the call the pieces are what torch expects to copy into. Even with
        # `assign=True` they are: a piece cannot be another tensor.
        self._parameters.update({name: getattr(self, name).detach() for name in self.places})
        metadata = {**local_metadata, "assign_to_params_buffers": False}
        reports = strict, missing_keys, unexpected_keys, error_msgs
        try:
            super()._load_from_state_dict(state_dict, prefix, metadata, *reports)
        finally:
            self._parameters.clear()


class SpinalNet(nn.Module):
    """Spinal hidden layer plus output row: the head of a CNN, or a whole network for a table.

    Shape:
        input `(..., in_features)`, output logits `(..., out_features)`.

    Args:
        in_features: Number of input features.
        out_features: Number of outputs.
        hidden_features: Width of every layer in the chain.
        num_layers: Length of the chain.
        num_splits: See `SpinalLayer`, as the following ones.
        activation: Name or module factory.
        norm: `"batch"`, `"layer"` or `None`.
        dropout: Probability of dropping an input of a hidden layer.
        output_dropout: The same for the output row; `None` means equal to `dropout`.
        share_weights: All layers but the first share one matrix.
        bias: Whether the linear maps have a bias.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Example:
        >>> SpinalNet(320, 10, hidden_features=8, num_layers=6)(torch.randn(4, 320)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int,
        num_layers: int = 4,
        *,
        num_splits: int = 2,
        activation: Activation = "relu",
        norm: str | None = None,
        dropout: float = 0.0,
        output_dropout: float | None = None,
        share_weights: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = check_positive("out_features", out_features)
        self.spine = SpinalLayer(
            in_features,
            hidden_features,
            num_layers,
            num_splits=num_splits,
            activation=activation,
            norm=norm,
            dropout=dropout,
            share_weights=share_weights,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        self.output_dropout = nn.Dropout(
            check_probability(
                "output_dropout", dropout if output_dropout is None else output_dropout
            )
        )
        self.output = nn.Linear(self.spine.out_features, out_features, bias, device, dtype)
        # Set by `flatten_parameters`.
        self._layout: ops.Layout | None = None
        self._flat_linears: list[nn.Module] = []

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        modules: Any = self._modules  # past `nn.Module.__getattr__`, which takes a while
        spine = modules["spine"]
        if type(spine) is SpinalLayer:
            result = ops.again(self, x, spine._memo)
            if result is not None:
                return result
        output, dropout = self.output, self.output_dropout
        whole = (
            type(spine) is SpinalLayer
            and type(output) in (nn.Linear, FlatLinear)
            and type(dropout) is nn.Dropout
        )
        if whole and not ops.hooked(spine, output, dropout):
            dropped = dropout.p if dropout.training else 0.0
            result = spine.run(x, output, dropped, self.flat_parts())
            spine._memo.remember(self, self.watched)
            return result
        return output(dropout(spine(x)))

    def watched(self) -> ops.Watched:
        """Return what the last call depended on, if it was computed as one operation."""
        modules, output = self._modules, self.output
        parameters, entries, empty = self.spine.watched()
        entries += _entries(modules, "spine", "output", "output_dropout")
        entries += _entries(self.__dict__, "_layout")
        entries += _entries(self.output_dropout.__dict__, "training", "p")
        entries += _entries(output._parameters, *output._parameters)
        for module in (self.spine, output, self.output_dropout):
            entries += _entries(module.__dict__, *ops.HOOKS)
            empty += [module.__dict__[name] for name in ops.HOOKS]
        flat = self.flat_parts()
        if flat is not None:
            entries += _entries(self._parameters, "flat")
            return ops.Watched([flat[0]], entries, empty)
        last = [tensor for tensor in (output.weight, output.bias) if tensor is not None]
        return ops.Watched([*parameters, *last], entries, empty)

    def flatten_parameters(self) -> Self:
        """Keep the parameters of all linear maps in one, `flat`; return the net itself.

        Automatic differentiation and optimisers take time for every parameter they visit; the
        layers of a small head compute less than that. With one parameter a training step of such
        a head takes about half the time (`docs/kernels.md`), and computes the same.

        The layers keep their `weight` and `bias`, now views that can be read and, under
        `torch.no_grad()`, written in place, and the state dict keeps its keys, so that checkpoints
        fit both ways. But `parameters()` gives `flat` alone: no layer can be frozen, have an
        optimiser's group, be pruned or be parametrized by itself, and optimisers that look at the
        shape or the norm of a parameter (Muon, LARS, LAMB, no weight decay for biases) see one
        long vector. Norms and trainable activations keep their own parameters.

        Call it before the optimizer is made. Gradients so far are dropped.

        Raises:
            InputError: If the linear maps do not have their own matrices and biases (parametrized,
                tied, replaced), all of one type, on one device, frozen together or not at all.

        Example:
            >>> net = SpinalNet(320, 10, hidden_features=8, num_layers=6).flatten_parameters()
            >>> [name for name, _ in net.named_parameters()], "output.weight" in net.state_dict()
            (['flat'], True)
        """
        if self.flat_parts() is not None:
            return self
        linears: list[Any] = [*self.spine.layers, self.output]
        parameters: list[Tensor] = []
        places: list[dict[str, int]] = []
        for linear in linears:
            own = {name: p for name, p in linear._parameters.items() if p is not None}
            if type(linear) is not nn.Linear or "weight" not in own:
                raise InputError(
                    "flatten_parameters needs layers that are nn.Linear with parameters of their "
                    f"own, got {linear}; undo what replaced or parametrized it."
                )
            places.append({name: len(parameters) + i for i, name in enumerate(own)})
            parameters += own.values()
        kinds = {(p.dtype, p.device, p.requires_grad) for p in parameters}
        if len(kinds) > 1 or len(set(map(id, parameters))) < len(parameters):
            raise InputError(
                "flatten_parameters needs parameters of one type on one device, all of them frozen "
                "or none, and no two tied; flatten first and freeze then."
            )
        self.flat = nn.Parameter(
            torch.cat([p.detach().flatten() for p in parameters]), parameters[0].requires_grad
        )
        for linear, own in zip(linears, places, strict=True):
            linear._parameters.clear()
            linear.__class__ = FlatLinear
            linear.__dict__.update(net=self, places=own)
        chain = [places[index] for index in self.spine.schedule]
        self._flat_linears = linears
        self._layout = ops.Layout(
            tuple(own["weight"] for own in chain),
            tuple(own["bias"] for own in chain if "bias" in own),
            tuple(places[-1].values()),
            tuple(tuple(p.shape) for p in parameters),
        )
        return self

    def flat_parts(self) -> tuple[Tensor, ops.Layout] | None:
        """Return the one parameter and what is where in it; None if there are many."""
        if self._layout is None:
            return None
        modules: Any = self._modules
        layers = modules["spine"]._modules["layers"]._modules.values()
        if [*layers, modules["output"]] != self._flat_linears:
            return None  # somebody put another module in the place of one
        return self._parameters["flat"], self._layout  # type: ignore[return-value]

    def flat_piece(self, place: int) -> Tensor:
        """Return one matrix or bias after `flatten_parameters`."""
        assert self._layout is not None
        return self._layout.piece(self.flat, place)

    def flat_chain(self) -> tuple[list[Tensor], list[Tensor] | None]:
        """Return what `SpinalLayer.chain` does, by one operation for all layers.

        Each piece by itself would have a gradient as long as the whole parameter.
        """
        assert self._layout is not None
        pieces = self._layout.pieces([self.flat])
        weights, biases = ([pieces[i] for i in group] for group in self._layout[:2])
        return weights, biases or None

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(prefix + "flat", None)  # saved by the layers, each its own

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        reports = strict, missing_keys, unexpected_keys, error_msgs
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *reports)
        if prefix + "flat" in missing_keys:
            missing_keys.remove(prefix + "flat")


class LinearHead(nn.Module):
    """One linear map, with dropout before it if asked for.

    Shape:
        input `(..., in_features)`, output logits `(..., out_features)`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = check_positive("in_features", in_features)
        self.out_features = check_positive("out_features", out_features)
        self.dropout = nn.Dropout(check_probability("dropout", dropout))
        self.output = nn.Linear(in_features, out_features, bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        return self.output(self.dropout(x))


class _Normed(nn.Module):
    """Apply a norm over the last dimension, whatever leading dimensions there are."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.reshape(-1, x.shape[-1])).reshape(x.shape)


class MLPHead(nn.Module):
    """Fully connected layers of any widths: what a spinal head replaces.

    Shape:
        input `(..., in_features)`, output logits `(..., out_features)`.

    Args:
        in_features: Number of input features.
        out_features: Number of outputs.
        hidden_features: Widths of the hidden layers, one number or a sequence.
        activation: Name or module factory, a fresh instance per layer.
        norm: `"batch"`, `"layer"` or `None`.
        dropout: Probability before every linear map, or one probability for each of them
            (hidden layers and output row).
        output_dropout: Overrides the probability before the output row.
        bias: Whether the linear maps have a bias.
        device: Where the parameters are made.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int | Sequence[int] = 512,
        *,
        activation: Activation = "relu",
        norm: str | None = None,
        dropout: float | Sequence[float] = 0.0,
        output_dropout: float | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        widths = [hidden_features] if isinstance(hidden_features, int) else list(hidden_features)
        for width in widths:
            check_positive("hidden_features", width)
        rates = (
            [float(dropout)] * (len(widths) + 1)
            if isinstance(dropout, int | float)
            else [float(rate) for rate in dropout]
        )
        if len(rates) != len(widths) + 1:
            raise InputError(
                f"dropout must be one number or {len(widths) + 1} (hidden layers and output), "
                f"got {len(rates)}."
            )
        if output_dropout is not None:
            rates[-1] = output_dropout
        self.in_features = check_positive("in_features", in_features)
        self.out_features = check_positive("out_features", out_features)
        self.hidden_features = tuple(widths)
        blocks: list[nn.Module] = []
        for rate, inputs, width in zip(rates, [in_features, *widths], widths, strict=False):
            block: list[nn.Module] = []
            if check_probability("dropout", rate):
                block.append(nn.Dropout(rate))
            block.append(nn.Linear(inputs, width, bias, device, dtype))
            if norm is not None:
                block.append(_Normed(_make_norm(norm, width, device, dtype)))
            block.append(make_activation(activation))
            blocks.append(nn.Sequential(*block))
        self.layers = nn.Sequential(*blocks)
        self.output_dropout = nn.Dropout(check_probability("output_dropout", rates[-1]))
        self.output = nn.Linear([in_features, *widths][-1], out_features, bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        return self.output(self.output_dropout(self.layers(x)))


class ProgressiveNet(nn.Module):
    """Densely connected chain: every layer sees the whole input and all earlier layers.

    The Progressive SpinalNet of the same authors; not a split network. Layer 1 sees the input as
    it is, all later layers and the output row see one dropped copy of it (a single mask).

    Shape:
        input `(..., in_features)`, output logits `(..., out_features)`.

    Args:
        in_features: Number of input features.
        out_features: Number of outputs.
        hidden_features: Width of every layer.
        num_layers: Number of hidden layers.
        activation: Name or module factory; one instance serves all layers.
        norm: `"batch"`, `"layer"` or `None`.
        input_dropout: Probability of dropping a feature in the shared copy of the input.
        dropout: Probability before every hidden linear map.
        output_dropout: The same before the output row; `None` means equal to `dropout`.
        bias: Whether the linear maps have a bias.
        device: Where the parameters are made.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int,
        num_layers: int = 4,
        *,
        activation: Activation = "relu",
        norm: str | None = None,
        input_dropout: float = 0.2,
        dropout: float = 0.0,
        output_dropout: float | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = check_positive("in_features", in_features)
        self.out_features = check_positive("out_features", out_features)
        self.hidden_features = check_positive("hidden_features", hidden_features)
        self.num_layers = check_positive("num_layers", num_layers)
        self.input_dropout = nn.Dropout(check_probability("input_dropout", input_dropout))
        self.dropout = nn.Dropout(check_probability("dropout", dropout))
        self.output_dropout = nn.Dropout(
            check_probability(
                "output_dropout", dropout if output_dropout is None else output_dropout
            )
        )
        self.layers = nn.ModuleList(
            [
                nn.Linear(
                    in_features + layer * hidden_features, hidden_features, bias, device, dtype
                )
                for layer in range(num_layers)
            ]
        )
        self.norms = nn.ModuleList(
            [_make_norm(norm, hidden_features, device, dtype) for _ in range(num_layers)]
            if norm is not None
            else []
        )
        self.activation = make_activation(activation)
        self.output = nn.Linear(
            in_features + num_layers * hidden_features, out_features, bias, device, dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        rows = x.reshape(-1, self.in_features)
        seen = rows
        dropped = self.input_dropout(rows)
        for index, linear in enumerate(self.layers):
            z = linear(self.dropout(seen))
            if self.norms:
                z = self.norms[index](z)
            hidden = self.activation(z)
            seen = torch.cat([dropped if index == 0 else seen, hidden], dim=-1)
        logits = self.output(self.output_dropout(seen))
        return logits.reshape(*x.shape[:-1], self.out_features)


def matched_mlp(
    in_features: int,
    out_features: int,
    num_params: int,
    *,
    activation: Activation = "relu",
    norm: str | None = None,
    dropout: float = 0.0,
    output_dropout: float | None = None,
    bias: bool = True,
    device: Any = None,
    dtype: Any = None,
) -> MLPHead:
    """Return a one-hidden-layer `MLPHead` whose parameter count is nearest to `num_params`.

    The control of every comparison: same features in, same budget, no spine.

    Raises:
        InputError: If even one hidden neuron has more than twice `num_params`.
    """
    check_positive("num_params", num_params)
    per_neuron = in_features + out_features + (1 if bias else 0) + (2 if norm is not None else 0)
    fixed = out_features if bias else 0
    width = max(1, round((num_params - fixed) / per_neuron))
    if per_neuron * width + fixed > 2 * num_params:
        raise InputError(
            f"no MLP on {in_features} features and {out_features} outputs is near "
            f"{num_params} parameters (the smallest has {per_neuron + fixed})."
        )
    return MLPHead(
        in_features,
        out_features,
        width,
        activation=activation,
        norm=norm,
        dropout=dropout,
        output_dropout=output_dropout,
        bias=bias,
        device=device,
        dtype=dtype,
    )


class MultiTapSpinalNet(nn.Module):
    """One spinal chain per tap of a trunk, and two fully connected layers over all of them.

    The head of the paper's "Arch2": features taken at several depths of a network each run
    through a chain of their own; the outputs of all layers of all chains feed one hidden layer.

    Shape:
        input `(..., in_features)`, the taps side by side; output logits `(..., out_features)`.

    Args:
        in_features: Number of input features, the sum of `tap_features`.
        out_features: Number of outputs.
        hidden_features: Width of every layer in every chain.
        tap_features: Number of features of each tap, in their order in the input.
        layers_per_tap: Length of each chain.
        top_features: Width of the hidden layer over all chains.
        num_splits: See `SpinalLayer`, as `norm` and `dropout`.
        activation: Name or module factory, in the chains and in the hidden layer.
        norm: `"batch"`, `"layer"` or `None`.
        dropout: Probability of dropping an input of a chain's layer.
        output_dropout: The same for the two layers on top; `None` means equal to `dropout`.
        bias: Whether the linear maps have a bias.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        InputError: If the taps do not add up to `in_features` or have not one length each.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int,
        *,
        tap_features: Sequence[int],
        layers_per_tap: Sequence[int],
        top_features: int = 50,
        num_splits: int = 2,
        activation: Activation = "relu",
        norm: str | None = None,
        dropout: float = 0.0,
        output_dropout: float | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if sum(tap_features) != in_features:
            raise InputError(
                f"tap_features must add up to in_features={in_features}, got {[*tap_features]}."
            )
        if len(layers_per_tap) != len(tap_features):
            raise InputError(
                f"layers_per_tap must have one number for each of the {len(tap_features)} taps, "
                f"got {[*layers_per_tap]}."
            )
        self.in_features = in_features
        self.out_features = out_features
        self.tap_features = tuple(tap_features)
        chains = [
            SpinalLayer(
                features,
                hidden_features,
                num_layers,
                num_splits=num_splits,
                activation=activation,
                norm=norm,
                dropout=dropout,
                bias=bias,
                device=device,
                dtype=dtype,
            )
            for features, num_layers in zip(tap_features, layers_per_tap, strict=True)
        ]
        self.chains = nn.ModuleList(chains)
        self.top = MLPHead(
            sum(chain.out_features for chain in chains),
            out_features,
            top_features,
            activation=activation,
            norm=norm,
            dropout=dropout if output_dropout is None else output_dropout,
            bias=bias,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        if x.shape[-1] != self.in_features:
            raise InputError(
                f"the last dimension of x must be in_features={self.in_features}, "
                f"got shape {tuple(x.shape)}."
            )
        taps = x.split(self.tap_features, dim=-1)
        hidden = [chain(tap) for chain, tap in zip(self.chains, taps, strict=True)]
        return self.top(torch.cat(hidden, dim=-1))


class TiledSpinalNet(SpinalNet):
    """Compatibility: a spinal net whose slices fall as in the paper's customizable module.

    There a slice is `round(in_features / num_splits)` wide (halves to the even number), layer `l`
    takes the `l`-th such piece of the input, and an input too short for all layers is appended
    to itself. Where `num_splits` divides `in_features` and `num_layers` is at least `num_splits`
    this is `SpinalNet`. Elsewhere features go unseen (8 features, 4 splits, 3 layers: the last
    two) or slices drift and wrap around (7 features, 2 splits): use it for weights trained that
    way, and `SpinalNet` for everything else.

    Args:
        in_features: Number of input features.
        out_features: Number of outputs.
        hidden_features: Width of every layer in the chain.
        num_layers: Length of the chain.
        num_splits: Number that `in_features` is divided by to get the width of a slice.
        options: All other arguments of `SpinalNet`.

    Raises:
        InputError: If a slice would be empty, that is, if no output could depend on the input.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int,
        num_layers: int = 4,
        *,
        num_splits: int = 2,
        **options: Any,
    ) -> None:
        check_positive("in_features", in_features)
        check_positive("num_layers", num_layers)
        width = round(in_features / check_positive("num_splits", num_splits))
        if width == 0:
            raise InputError(
                f"num_splits={num_splits} leaves slices of no features for in_features="
                f"{in_features}, so that nothing would depend on the input. Lower num_splits."
            )
        # Piece `l` starts at feature `l * width`, counted around: after `period` pieces the
        # first one comes again, so one period of pieces is all that the chain has to see.
        period = min(num_layers, in_features // math.gcd(in_features, width))
        super().__init__(
            period * width,
            out_features,
            hidden_features,
            num_layers,
            num_splits=period,
            **options,
        )
        self.in_features = in_features

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        if x.shape[-1] != self.in_features:
            raise InputError(
                f"the last dimension of x must be in_features={self.in_features}, "
                f"got shape {tuple(x.shape)}."
            )
        copies = -(-self.spine.in_features // self.in_features)
        tiled = x if copies == 1 else torch.cat([x] * copies, dim=-1)
        return super().forward(tiled[..., : self.spine.in_features])


class ReusedSpinalNet(SpinalNet):
    """Compatibility: a spinal net in which some layers run with the weights of an earlier one.

    Two scripts of the paper allocate six layers but call the third and fourth again in place of
    the fifth and sixth (`reuse=[(4, 2), (5, 3)]`). That is another network than the one described,
    wanted only to use weights trained that way. Layers that never run are not allocated.

    Args:
        in_features: Number of input features.
        out_features: Number of outputs.
        hidden_features: Width of every layer in the chain.
        num_layers: Length of the chain.
        reuse: Pairs of a layer, counted from 0, and the earlier layer whose weights it takes.
        num_splits: See `SpinalNet`, as the following ones.
        activation: Name or module factory.
        norm: `"batch"`, `"layer"` or `None`; norms are not shared.
        dropout: Probability of dropping an input of a hidden layer.
        output_dropout: The same for the output row; `None` means equal to `dropout`.
        bias: Whether the linear maps have a bias.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        InputError: If `reuse` names a layer that is not earlier or sees slices of another width.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int,
        num_layers: int = 6,
        *,
        reuse: Sequence[tuple[int, int]],
        num_splits: int = 2,
        activation: Activation = "relu",
        norm: str | None = None,
        dropout: float = 0.0,
        output_dropout: float | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            hidden_features,
            num_layers,
            num_splits=num_splits,
            activation=activation,
            norm=norm,
            dropout=dropout,
            output_dropout=output_dropout,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        linears = [layer for layer in self.spine.layers if isinstance(layer, nn.Linear)]
        for layer, earlier in sorted(reuse):
            if not 0 <= earlier < layer < num_layers:
                raise InputError(
                    f"reuse must pair a layer below {num_layers} with an earlier one, "
                    f"got ({layer}, {earlier})."
                )
            if linears[layer].weight.shape != linears[earlier].weight.shape:
                raise InputError(
                    f"layer {layer} cannot reuse layer {earlier}: their weights have the shapes "
                    f"{tuple(linears[layer].weight.shape)} and "
                    f"{tuple(linears[earlier].weight.shape)}."
                )
            linears[layer] = linears[earlier]
        distinct = list(dict.fromkeys(linears))
        self.spine.layers = nn.ModuleList(distinct)
        self.spine.schedule = tuple(distinct.index(linear) for linear in linears)


def _shared(in_features: int, out_features: int, hidden_features: int, **options: Any) -> SpinalNet:
    return SpinalNet(in_features, out_features, hidden_features, **options, share_weights=True)


@dataclass(frozen=True)
class HeadSpec:
    """One head: how it is built, the class whose arguments are its options, one line for people."""

    build: Callable[..., nn.Module]
    options: Callable[..., nn.Module]
    summary: str


HEADS: dict[str, HeadSpec] = {
    "spinal": HeadSpec(SpinalNet, SpinalNet, "chain of narrow layers, each fed a slice"),
    "spinal-shared": HeadSpec(_shared, SpinalNet, "the same with one matrix for all later layers"),
    "mlp": HeadSpec(MLPHead, MLPHead, "the fully connected layers a spinal head replaces"),
    "matched": HeadSpec(matched_mlp, matched_mlp, "MLP with the spinal head's parameter count"),
    "linear": HeadSpec(LinearHead, LinearHead, "one linear map"),
    "progressive": HeadSpec(ProgressiveNet, ProgressiveNet, "dense chain: every layer sees all"),
    "spinal-taps": HeadSpec(MultiTapSpinalNet, MultiTapSpinalNet, "a spinal chain for every tap"),
    "spinal-tiled": HeadSpec(
        TiledSpinalNet, SpinalNet, "compatibility: slices of the original customizable module"
    ),
    "spinal-reused": HeadSpec(
        ReusedSpinalNet, ReusedSpinalNet, "compatibility: layers that run twice"
    ),
}


def head_arguments(name: str) -> dict[str, inspect.Parameter]:
    """Return the options that head `name` takes, by name.

    Raises:
        InputError: If there is no such head.
    """
    if name not in HEADS:
        raise unknown_name("head", name, HEADS)
    spec = HEADS[name]
    given = {"in_features", "out_features", *(["share_weights"] if spec.build is _shared else [])}
    parameters = inspect.signature(spec.options).parameters
    return {option: value for option, value in parameters.items() if option not in given}


def make_head(name: str, in_features: int, out_features: int, **options: Any) -> nn.Module:
    """Build the head `name` of `HEADS`; `options` are its class's keyword arguments.

    Raises:
        InputError: If the name or an option is unknown, or a needed option is missing.
    """
    arguments = head_arguments(name)
    for option in options:
        if option not in arguments:
            raise unknown_name(f"option of head '{name}'", option, arguments)
    missing = [
        option
        for option, argument in arguments.items()
        if argument.default is inspect.Parameter.empty and option not in options
    ]
    if missing:
        raise InputError(f"head '{name}' needs the option {', '.join(missing)}.")
    return HEADS[name].build(in_features, out_features, **options)


@dataclass(frozen=True)
class Count:
    """A number for the whole model and its two parts, `total = trunk + head`.

    A model without a `head` attribute is all trunk.
    """

    total: int
    trunk: int
    head: int


def count_params(model: nn.Module) -> Count:
    """Count parameters (buffers not included), split at `model.head`."""
    total = sum(parameter.numel() for parameter in model.parameters())
    head = getattr(model, "head", None)
    of_head = sum(p.numel() for p in head.parameters()) if isinstance(head, nn.Module) else 0
    return Count(total, total - of_head, of_head)


def count_macs(model: nn.Module, input_shape: Sequence[int]) -> Count:
    """Count multiply-accumulates of convolutions and linear maps for ONE input.

    Biases, norms, pooling and activations are not counted, nor are products of two activations
    (attention scores). Counted by forward hooks from actual output shapes: the counter that
    torch ships sees operations, so it would count our fused and packed paths differently from
    the same chain written longhand.

    Args:
        model: Any module; run once in eval mode on zeros. Its mode is restored.
        input_shape: Shape without the batch dimension, for example `(1, 28, 28)`.
    """
    counts: dict[nn.Module, int] = {}

    def add(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, SpinalLayer):
            rows = output.numel() // module.out_features
            counts[module] = counts.get(module, 0) + rows * module.macs()
        else:
            per_output = module.weight[0].numel()  # type: ignore[union-attr, index, operator]
            counts[module] = counts.get(module, 0) + output.numel() * per_output

    kinds = (SpinalLayer, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, kinds)]
    modes = {module: module.training for module in model.modules()}
    anchor = next(model.parameters(), torch.empty(0))
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *input_shape, dtype=anchor.dtype, device=anchor.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    head = getattr(model, "head", None)
    in_head = set(head.modules()) if isinstance(head, nn.Module) else set()
    total = sum(counts.values())
    of_head = sum(macs for module, macs in counts.items() if module in in_head)
    return Count(total, total - of_head, of_head)
