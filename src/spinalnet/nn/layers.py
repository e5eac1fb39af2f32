"""The spinal hidden layer, and the net that it makes with an output row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from spinalnet._checks import InputError, check_positive, check_probability
from spinalnet.kernels import reference
from spinalnet.nn import backends, functional
from spinalnet.nn.activations import make_activation, make_norms
from spinalnet.nn.diagram import Drawn
from spinalnet.nn.flat import FlatStorage
from spinalnet.nn.reading import all_plain, has_bias, matrices, why_called
from spinalnet.nn.repeat import Repeat
from spinalnet.wiring import WiredLayer, Wiring, wired

if TYPE_CHECKING:
    from spinalnet.kernels.plan import Layout, Plans
    from spinalnet.nn.activations import Activation


def check_last_dimension(x: Tensor, in_features: int) -> None:
    """Raise `InputError` if x has not `in_features` features."""
    if x.dim() == 0 or x.shape[-1] != in_features:
        raise InputError(
            f"the last dimension of x must be in_features={in_features}, "
            f"got shape {tuple(x.shape)}."
        )


def check_read(net: SpinalLayer | SpinalNet) -> None:
    """Raise `InputError` if matrices and biases do not say what `net` computes."""
    reason = net.why_called()
    if reason is not None:
        raise InputError(
            f"the matrices and biases do not say what this net computes, for {reason}; remove the "
            "hook, merge the adapter, or differentiate the net automatically."
        )


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
        # Of which parts, slice and previous layer, the input of every layer consists.
        self.input_parts = reference.segments(
            in_features, hidden_features, num_layers, self.num_splits
        )
        # Which entry of `layers` serves each layer of the chain.
        self.schedule = tuple(min(i, 1) if share_weights else i for i in range(num_layers))
        widths = [sum(parts) for parts in self.input_parts]
        if share_weights:  # a shorter slice leaves the last column unused
            widths = [widths[0], max(widths[1:], default=0)][: max(self.schedule) + 1]
        self.layers = nn.ModuleList(
            [nn.Linear(width, hidden_features, bias, device, dtype) for width in widths]
        )
        self.norms = nn.ModuleList(make_norms(norm, hidden_features, num_layers, device, dtype))
        self.activation = make_activation(activation)
        self._repeat = Repeat()

    @property
    def slices(self) -> tuple[slice, ...]:
        """Which columns of the input each layer sees."""
        return reference.layer_slices(self.in_features, self.num_layers, self.num_splits)

    def linears(self) -> list[nn.Module]:
        """Return the map that serves each layer, a shared one once per layer."""
        layers = list(self.layers)
        return [layers[index] for index in self.schedule]

    def chain(self) -> tuple[list[Tensor], list[Tensor] | None]:
        """Return the weights and biases layer by layer, a shared one once per layer."""
        return matrices(self.linears())

    def why_called(self) -> str | None:
        """Return why the layers are called one by one, not read as matrices; None if they are read.

        See `nn.why_called`: a layer that is more than its matrix and its bias is called.
        """
        layers = list(self.layers)
        if not all_plain(layers):
            for index, layer in enumerate(layers):
                if (reason := why_called(layer)) is not None:
                    return f"layer {index} is called as a module: {reason}"
        if len({has_bias(layer) for layer in layers}) > 1:
            return "the layers are called as modules: only some of them have a bias"
        return None

    def backend_choice(self, x: Tensor) -> backends.BackendChoice:
        """Return which path `forward(x)` takes in the present mode, and why.

        Layers that are more than a matrix and a bias are called as modules, on the path
        "reference"; the reason says which.
        """
        return backends.choose_backend(self.call(x))

    def call(self, x: Tensor) -> backends.SpinalCall:
        """Describe the call that `forward(x)` makes, for `choose_backend`."""
        rows = x.reshape(-1, self.in_features)
        reason = self.why_called()
        # Of the matrices nothing is asked but their number and width, and whether they are plain.
        anchor = rows.new_empty(self.hidden_features, 0)
        call = backends.describe_call(
            rows,
            self.chain()[0] if reason is None else [anchor] * self.num_layers,
            num_splits=self.num_splits,
            negative_slope=backends.slope_of(self.activation),
            norms=list(self.norms) or None,
            masked=self.training and self.dropout > 0,
            bits=functional.draws_bits(rows),
        )
        return call._replace(called=reason)

    def macs(self) -> int:
        """Return the multiply-accumulates for one input row."""
        return reference.spinal_macs(
            self.in_features, self.hidden_features, self.num_layers, self.num_splits
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to `(..., num_layers * hidden_features)`."""
        return self._repeat(self, x)

    def compute(self, x: Tensor) -> Tensor:
        """Return what `forward` does, from scratch."""
        return self.run(x, self._repeat.plans)

    def run(
        self,
        x: Tensor,
        plans: Plans,
        output: nn.Module | None = None,
        output_dropout: float = 0.0,
        flat: tuple[Tensor, Layout] | None = None,
    ) -> Tensor:
        """Compute the hidden outputs, or with an output row its logits, at once.

        Args:
            x: Features. Shape `(..., in_features)`.
            plans: Of the module that is called.
            output: The output row, an `nn.Linear`.
            output_dropout: Probability of dropping an input of the output row.
            flat: The one parameter that holds all others, and where, if there is one.
        """
        check_last_dimension(x, self.in_features)
        rows = x if x.dim() == 2 else x.reshape(-1, self.in_features)
        masks = output_mask = None
        if self.training and self.dropout > 0:
            masks = functional.draw_masks(rows, self.input_parts, self.dropout)
        if output_dropout > 0:
            every_layer = (self.hidden_features,) * self.num_layers
            output_mask = functional.draw_masks(rows, [every_layer], output_dropout)
        if self.why_called() is not None:
            result = self._call_layers(rows, masks)
            if output is not None:
                result = output(result if output_mask is None else result * output_mask[0])
        else:
            weights, biases = self.chain()
            given = functional.Arguments(
                weights,
                biases,
                self.num_splits,
                activation=self.activation,
                norms=list(self.norms) or None,
                dropout_masks=masks,
                output=None if output is None else (output.weight, output.bias),  # type: ignore[arg-type]
                output_mask=output_mask,
            )
            result = functional.run(rows, given, plans=plans, flat=flat)
        return result if x.dim() == 2 else result.reshape(*x.shape[:-1], result.shape[-1])

    def _call_layers(self, rows: Tensor, masks: Any) -> Tensor:
        self.backend_choice(rows)  # refuses one asked for that would read matrices
        columns = [parts[0] for parts in self.input_parts]
        if self.share_weights:
            columns[1:] = [max(columns[1:], default=0)] * len(columns[1:])
        return reference.spinal_called(
            rows,
            self.linears(),
            slice_columns=columns,
            num_splits=self.num_splits,
            activation=self.activation,
            norms=list(self.norms) or None,
            dropout_masks=masks,
        )

    def extra_repr(self) -> str:
        """Describe the chain in `repr`."""
        return (
            f"in_features={self.in_features}, hidden_features={self.hidden_features}, "
            f"num_layers={self.num_layers}, num_splits={self.num_splits}, "
            f"dropout={self.dropout}, share_weights={self.share_weights}"
        )


class SpinalNet(Drawn, FlatStorage):
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
        self.output: nn.Linear = nn.Linear(
            self.spine.out_features, out_features, bias, device, dtype
        )
        self._repeat = Repeat()

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        return self._repeat(self, x)

    def compute(self, x: Tensor) -> Tensor:
        """Return what `forward` does, from scratch."""
        spine, output, dropout = self.spine, self.output, self.output_dropout
        whole = type(spine) is SpinalLayer and type(dropout) is nn.Dropout and all_plain([output])
        if not whole or backends.hooked(spine, dropout):
            return output(dropout(spine(x)))
        dropped = dropout.p if dropout.training else 0.0
        flat = self.flat_parts(spine.linears(), output) if self.is_flat else None
        return spine.run(x, self._repeat.plans, output, dropped, flat)

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

    def wiring(self) -> Wiring | None:
        """Return what feeds what, as plain data; None if a subclass computes something else."""
        if type(self).spread is not SpinalNet.spread or type(self.spine) is not SpinalLayer:
            return None
        layers = [
            WiredLayer(self.spine.hidden_features, seen.start, seen.stop, (i - 1,) if i else ())
            for i, seen in enumerate(self.spine.slices)
        ]
        return wired(self, self.in_features, self.out_features, layers)

    def flatten_parameters(self) -> Self:
        """Keep the parameters of all linear maps in one, `flat`; return the net itself.

        Automatic differentiation and optimisers take time for every parameter they visit; the
        layers of a small head compute less than that. With one parameter a training step of such
        a head takes about half the time (`docs/kernels.md`), and computes the same.

        The linear maps are replaced by others with the same `weight` and `bias`, now views that
        can be read and, under `torch.no_grad()`, written in place. The state dict keeps its keys,
        so that checkpoints fit both ways. But `parameters()` gives `flat` alone: no layer can be
        frozen, have an optimiser's group, be pruned, parametrized or quantized by itself, and
        optimisers that look at the shape or the norm of a parameter (Muon, LARS, LAMB, no weight
        decay for biases) see one long vector. Norms and trainable activations keep their own
        parameters.

        Call it before the optimizer is made. Gradients so far are dropped.

        Raises:
            InputError: If the linear maps do not have their own matrices and biases (parametrized,
                tied, replaced), all of one type, on one device, frozen together or not at all.

        Example:
            >>> net = SpinalNet(320, 10, hidden_features=8, num_layers=6).flatten_parameters()
            >>> [name for name, _ in net.named_parameters()], "output.weight" in net.state_dict()
            (['flat'], True)
        """
        if self.is_flat and self.flat_parts(self.spine.linears(), self.output) is not None:
            return self
        *layers, output = self.flatten_([*self.spine.layers, self.output])
        self.spine.layers = nn.ModuleList(layers)
        self.output = output
        return self
