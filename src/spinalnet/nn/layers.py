"""TODO(nn.layers): split from nn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError, check_positive, check_probability
from spinalnet.nn import backends, functional, reference
from spinalnet.nn.activations import _make_norm, _negative_slope, make_activation

if TYPE_CHECKING:
    from spinalnet.nn.activations import Activation


def why_called(module: nn.Module) -> str | None:
    """Return why only a call says what a linear map computes; None if its matrix and bias do.

    They say it of an `nn.Linear`, also of a parametrized one, whose matrix is a property. They do
    not for a module put around or in the place of one (adapters, quantization), for a subclass
    with a `forward` of its own, or where a hook listens, which may change what passes.
    """
    if backends.hooked(module):
        return f"{type(module).__name__} has hooks, or another forward than its class"
    kind = type(module)
    if kind in _READ or (isinstance(module, nn.Linear) and kind.forward is nn.Linear.forward):
        return None
    return f"{kind.__name__} is not a plain nn.Linear"


def check_read(net: SpinalLayer | SpinalNet) -> None:
    """Raise `InputError` if matrices and biases do not say what `net` computes."""
    reason = net.why_called()
    if reason is not None:
        raise InputError(
            f"the matrices and biases do not say what this net computes, for {reason}; remove the "
            "hook, merge the adapter, or differentiate the net automatically."
        )


def _entries(mapping: Any, *keys: str) -> list[tuple[dict[str, Any], str, Any]]:
    return [(mapping, key, mapping[key]) for key in keys]


def _unhooked(*modules: Any) -> tuple[list[tuple[dict[str, Any], str, Any]], list[Any]]:
    """Return what to watch to see that nobody listens to these modules: entries, empty ones."""
    entries: list[tuple[dict[str, Any], str, Any]] = []
    empty: list[Any] = []
    for module in modules:
        own = module.__dict__
        entries += [(own, "forward", ...), *_entries(own, *backends.HOOKS)]
        empty += [own[name] for name in backends.HOOKS]
    return entries, empty


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
        self.split_sizes = reference.split_sizes(in_features, self.num_splits)

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
        self._memo = backends.Memo()
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

    def call(self, x: Tensor) -> backends.SpinalCall:
        """Describe the call that `forward(x)` makes, for `ops.choose_backend`."""
        rows = x.reshape(-1, self.in_features)
        reason = self.why_called()
        # Of the matrices nothing is asked but their number and width, and whether they are plain.
        anchor = rows.new_empty(self.hidden_features, 0)
        call = backends.describe_call(
            rows,
            self.chain()[0] if reason is None else [anchor] * self.num_layers,
            num_splits=self.num_splits,
            negative_slope=_negative_slope(self.activation),
            norms=list(self.norms) or None,
            masked=self.training and self.dropout > 0,
            bits=functional.draws_bits(rows),
        )
        return call if reason is None else call._replace(called=reason)

    def why_called(self) -> str | None:
        """Return why the layers are called one by one, not read as matrices; None if they are read.

        See `nn.why_called`: a layer that is more than its matrix and its bias is called.
        """
        modules: Any = self._modules
        layers = modules["layers"]._modules
        linears = list(layers.values())
        if {type(linear) for linear in linears} <= _READ and not backends.hooked(*linears):
            return None
        for name, layer in layers.items():
            reason = why_called(layer)
            if reason is not None:
                return f"layer {name} is called as a module: {reason}"
        return None

    def _segments(self) -> list[tuple[int, ...]]:
        """Return of which parts the input of every layer consists."""
        sizes = [self.split_sizes[layer % self.num_splits] for layer in range(self.num_layers)]
        return [(size, self.hidden_features) if i else (size,) for i, size in enumerate(sizes)]

    def _slice_columns(self) -> list[int]:
        """Return how many columns of a slice every layer takes: a shared one, of the longest."""
        columns = [self.split_sizes[layer % self.num_splits] for layer in range(self.num_layers)]
        longest = max(columns[1:], default=0)
        return columns[:1] + [longest if self.share_weights else size for size in columns[1:]]

    def backend_choice(self, x: Tensor) -> backends.BackendChoice:
        """Return which path `forward(x)` takes in the present mode, and why.

        Layers that are more than a matrix and a bias are called as modules, on the path
        "reference"; the reason says which.
        """
        return backends.choose_backend(self.call(x))

    def macs(self) -> int:
        """Return the multiply-accumulates for one input row."""
        return reference.spinal_macs(
            self.in_features, self.hidden_features, self.num_layers, self.num_splits
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to `(..., num_layers * hidden_features)`."""
        result = functional.again(self, x, self._memo)
        if result is None:
            result = self.run(x)
            self._memo.remember(self, self.watched)
        return result

    def watched(self) -> backends.Watched:
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
        unhooked, empty = _unhooked(*layers.values(), modules["activation"])
        empty += [modules["norms"]._modules, *backends.GLOBAL_HOOKS]
        parameters = {id(tensor): tensor for tensor in [*weights, *(biases or ())]}
        return backends.Watched([*parameters.values()], entries + unhooked, empty)

    def run(
        self,
        x: Tensor,
        output: nn.Linear | None = None,
        output_dropout: float = 0.0,
        flat: tuple[Tensor, backends.Layout] | None = None,
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
        norms = list(modules["norms"]._modules.values()) or None
        masks = output_mask = None
        if self.training and self.dropout > 0:
            masks = functional.draw_masks(rows, self._segments(), self.dropout)
        if output_dropout > 0:
            every_layer = (self.hidden_features,) * self.num_layers
            output_mask = functional.draw_masks(rows, [every_layer], output_dropout)
        if self.why_called() is not None:
            backends.choose_backend(
                self.call(rows)
            )  # refuses one asked for that would read matrices
            layers = list(modules["layers"]._modules.values())
            result = reference.spinal_called(
                rows,
                [layers[index] for index in self.schedule],
                slice_columns=self._slice_columns(),
                num_splits=self.num_splits,
                activation=activation,
                norms=norms,
                dropout_masks=masks,
            )
            if output is not None:
                result = output(result if output_mask is None else result * output_mask[0])
            return result if len(shape) == 2 else result.reshape(*shape[:-1], result.shape[-1])
        weights, biases = self.chain()
        result = functional.spinal(
            rows,
            weights,
            biases,
            num_splits=self.num_splits,
            activation=activation,
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


# Whose matrix and bias say what they compute.
_READ = {nn.Linear, FlatLinear}


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
        self._layout: backends.Layout | None = None
        self._flat_linears: list[nn.Module] = []

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        modules: Any = self._modules  # past `nn.Module.__getattr__`, which takes a while
        spine = modules["spine"]
        if type(spine) is SpinalLayer:
            result = functional.again(self, x, spine._memo)
            if result is not None:
                return result
        output, dropout = self.output, self.output_dropout
        whole = (
            type(spine) is SpinalLayer
            and type(output) in (nn.Linear, FlatLinear)
            and type(dropout) is nn.Dropout
        )
        if whole and not backends.hooked(spine, output, dropout):  # else each is called
            dropped = dropout.p if dropout.training else 0.0
            result = spine.run(x, output, dropped, self.flat_parts())
            spine._memo.remember(self, self.watched)
            return result
        return output(dropout(spine(x)))

    def why_called(self) -> str | None:
        """Return why a layer or the output row is called as a module, not read as a matrix."""
        reason = self.spine.why_called()
        if reason is None and (reason := why_called(self.output)) is not None:
            reason = f"the output row is called as a module: {reason}"
        return reason

    def backend_choice(self, x: Tensor) -> backends.BackendChoice:
        """Return which path the chain takes in `forward(x)`, and why; says so of the output row.

        See `SpinalLayer.backend_choice`. An output row that is more than a matrix and a bias is
        called as a module after the chain.
        """
        choice = self.spine.backend_choice(self.spread(x))
        own = why_called(self.output)
        if own is None:
            return choice
        reason = f"{choice.reason}; the output row is called as a module: {own}"
        return backends.BackendChoice(choice.name, reason)

    def spread(self, x: Tensor) -> Tensor:
        """Return the input as the chain sees it."""
        return x

    def watched(self) -> backends.Watched:
        """Return what the last call depended on, if it was computed as one operation."""
        modules, output = self._modules, self.output
        parameters, entries, empty = self.spine.watched()
        entries += _entries(modules, "spine", "output", "output_dropout")
        entries += _entries(self.__dict__, "_layout")
        entries += _entries(self.output_dropout.__dict__, "training", "p")
        entries += _entries(output._parameters, *output._parameters)
        unhooked, silent = _unhooked(self.spine, output, self.output_dropout)
        entries, empty = entries + unhooked, empty + silent
        flat = self.flat_parts()
        if flat is not None:
            entries += _entries(self._parameters, "flat")
            return backends.Watched([flat[0]], entries, empty)
        last = [tensor for tensor in (output.weight, output.bias) if tensor is not None]
        return backends.Watched([*parameters, *last], entries, empty)

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
        self._layout = backends.Layout(
            tuple(own["weight"] for own in chain),
            tuple(own["bias"] for own in chain if "bias" in own),
            tuple(places[-1].values()),
            tuple(tuple(p.shape) for p in parameters),
        )
        return self

    def flat_parts(self) -> tuple[Tensor, backends.Layout] | None:
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
