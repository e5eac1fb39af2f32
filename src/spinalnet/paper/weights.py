"""Reading weights that the paper's own scripts have trained.

The scripts name the same parts differently from file to file. The tables here hold every spelling;
which one a checkpoint uses is found from its keys. Nothing is loaded unless everything fits, and no
file is opened in a way that could run code.

The networks of the scripts end in log-softmax where ours return logits; the weights are the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from spinalnet import files
from spinalnet._checks import InputError, some, unknown_name
from spinalnet.comparison.schema import SCHEMA
from spinalnet.models import trunks, zoo
from spinalnet.nn.activations import ACTIVATIONS
from spinalnet.nn.dense import LinearHead, MLPHead, ProgressiveNet
from spinalnet.nn.heads import head_arguments
from spinalnet.nn.layers import SpinalLayer, SpinalNet
from spinalnet.nn.variants import MultiTapSpinalNet, ReusedSpinalNet

_COUNTER = "num_batches_tracked"  # torch wrote none before 0.4.1

# Under which name a head hangs in a network. Networks written out in a script have none, or that of
# a sequence; a backbone has its classifier's.
_OWN, _FOREIGN = ("", "classifier", "fc_layer"), ("fc", "classifier", "head")
_CLASSIFIERS = {"alexnet": "classifier", "vgg19_bn": "classifier", "vit_large_patch16_224": "head"}


def _attributes(model_name: str) -> tuple[str, ...]:
    return _OWN if model_name in _TRUNKS else (_CLASSIFIERS.get(model_name, "fc"),)


@dataclass(frozen=True)
class _Chain:
    """Names of the modules of a spinal or Progressive head; layers count from 0.

    `activation` is the one all scripts with these names use, None where they differ.
    """

    layer: Callable[[int], str]
    output: str
    norm: Callable[[int], str] | None = None
    slope: str | None = None
    activation: str | None = "relu"
    dropout: bool = False


def _suffixed(name: str) -> Callable[[int], str]:
    return lambda i: f"{name}_{i}" if i else name


_CHAINS = (
    _Chain(_suffixed("fc1"), "fc2"),  # MNIST CNN
    _Chain(_suffixed("fc1"), "fc_layer"),  # CIFAR ResNet
    _Chain(  # bare heads, Progressive nets
        lambda i: f"fc_spinal_layer{i + 1}.0",
        "fc_out.0",
        norm=lambda i: f"fc_spinal_layer{i + 1}.1",
    ),
    _Chain(  # the same with dropout in front of every layer
        lambda i: f"fc_spinal_layer{i + 1}.1",
        "fc_out.1",
        norm=lambda i: f"fc_spinal_layer{i + 1}.2",
        dropout=True,
    ),
    _Chain(lambda i: f"layer{i + 1}", "_out", activation="identity"),
    _Chain(  # regression, hymenoptera, customizable and shared-weight nets
        lambda i: f"fc{i + 1}", "fcx", slope="lru", activation=None
    ),
)


@dataclass(frozen=True)
class _Stack:
    """Names of the modules of a fully connected head, and its dropout rates."""

    layers: tuple[str, ...]
    output: str
    norms: tuple[str, ...] = ()
    dropout: tuple[float, ...] | float = 0.0

    @property
    def modules(self) -> list[str]:
        """All names in the order of the modules: each layer, its norm, the output last."""
        pairs = zip(self.layers, self.norms, strict=True) if self.norms else zip(self.layers)
        return [*(name for pair in pairs for name in pair), self.output]


_STACKS = (
    _Stack(("fc1",), "fc2", dropout=(0.0, 0.5)),  # MNIST CNN
    _Stack(("1",), "5", norms=("2",), dropout=0.5),  # VGG-5
    _Stack(("1", "3"), "6", dropout=(0.1, 0.0, 0.1)),  # CIFAR CNN
    _Stack(("0", "3"), "6", dropout=(0.0, 0.5, 0.5)),  # VGG
    _Stack(("0", "2"), "4"),  # regression, two-layer transfer head
)

# Chains of Arch2 in the order of its taps (pixels, first and second convolution), then the top.
_TAPS = (_suffixed("fcp2"), _suffixed("fcp"), _suffixed("fc1"))
_TOP = ("fc2", "fc3")


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _leaves(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Submodules with a state of their own, in the order of their definition."""
    return [
        (name, leaf) for name, leaf in module.named_modules() if leaf._parameters or leaf._buffers
    ]


def _rename(module: nn.Module, prefixes: Sequence[str]) -> dict[str, str]:
    """Map the state keys of `module` to those of modules named `prefixes`, leaf by leaf."""
    return {
        _join(name, key): _join(prefix, key)
        for (name, leaf), prefix in zip(_leaves(module), prefixes, strict=True)
        for key in leaf.state_dict()
    }


def _under(prefix: str) -> Callable[[nn.Module], dict[str, str]]:
    """The trunk's own names, below `prefix`."""
    return lambda trunk: {key: _join(prefix, key) for key in trunk.state_dict()}


def _mnist_cnn_names(trunk: nn.Module) -> dict[str, str]:
    return _rename(trunk, ("conv1", "conv2"))


def _vgg5_names(trunk: nn.Module) -> dict[str, str]:
    convs = [(block, 3 * i) for block, count in enumerate((2, 2, 3, 3), 1) for i in range(count)]
    return _rename(trunk, [f"l{block}.{i + j}" for block, i in convs for j in (0, 1)])


def _half_resnet_names(trunk: nn.Module) -> dict[str, str]:
    prefixes = ["conv1", "bn"]
    stage, index = 2, 0
    for block in trunk.modules():
        if isinstance(block, trunks.HalfResidualBlock):
            if len(block.shortcut):
                stage, index = stage + 1, 0
            parts = ["conv1", "bn1", "conv2", "bn2"]
            parts += ["downsample.0", "downsample.1"] if len(block.shortcut) else []
            prefixes += [f"conv{stage}_x.{index}.{part}" for part in parts]
            index += 1
    return _rename(trunk, prefixes)


_TRUNKS: dict[str, Callable[[nn.Module], dict[str, str]]] = {
    "mnist-cnn": _mnist_cnn_names,
    "arch2": _mnist_cnn_names,
    "vgg5": _vgg5_names,
    "cifar-cnn": _under("conv_layer"),
    **{f"cifar-resnet{depth}-half": _half_resnet_names for depth in (10, 18, 34)},
    **{f"cifar-vgg{depth}-bn": _under("features") for depth in (11, 13, 16, 19)},
    "mnist-pixels": _under(""),
    "regression-net": _under(""),
}


@dataclass(frozen=True)
class _Names:
    """One spelling of a head: our key to the original's, keys to leave alone, the activation."""

    keys: dict[str, str]
    dead: frozenset[str] = frozenset()
    activation: str | None = None


def _chain_names(head: SpinalNet | ProgressiveNet, chain: _Chain) -> _Names | None:
    linears = head.spine if isinstance(head, SpinalNet) else head
    schedule = head.spine.schedule if isinstance(head, SpinalNet) else tuple(range(head.num_layers))
    # A matrix that serves several layers is stored under the name of the first of them.
    prefixes = [chain.layer(schedule.index(i)) for i in range(len(linears.layers))]
    for index in range(len(linears.norms)):
        if chain.norm is None:
            return None
        prefixes.append(chain.norm(index))
    if _leaves(linears.activation):
        if chain.slope is None:
            return None
        prefixes.append(chain.slope)
    dead: set[str] = set()
    if isinstance(head, ReusedSpinalNet):
        # The scripts allocate and save the layers that never run.
        names = {chain.layer(layer) for layer in range(head.spine.num_layers)} - set(prefixes)
        dead = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    return _Names(_rename(head, [*prefixes, chain.output]), frozenset(dead), chain.activation)


def _head_names(head: nn.Module) -> Iterator[_Names]:
    """Yield every spelling that can name the parts of `head`."""
    if isinstance(head, SpinalNet | ProgressiveNet):
        for chain in _CHAINS:
            if (names := _chain_names(head, chain)) is not None:
                yield names
    elif isinstance(head, MultiTapSpinalNet):
        chains = [chain for chain in head.chains if isinstance(chain, SpinalLayer)]
        if len(chains) == len(_TAPS) and not any(len(chain.norms) for chain in chains):
            layers = [
                tap(layer)
                for tap, chain in zip(_TAPS, chains, strict=True)
                for layer in range(chain.num_layers)
            ]
            yield _Names(_rename(head, [*layers, *_TOP]), activation="relu")
    elif isinstance(head, MLPHead):
        for stack in _STACKS:
            if len(stack.modules) == len(_leaves(head)):
                yield _Names(_rename(head, stack.modules))
    elif isinstance(head, LinearHead):
        yield _Names(_rename(head, [""]))


def _candidates(model: nn.Module) -> Iterator[_Names]:
    """Yield every spelling of a whole model or of a head on its own."""
    if isinstance(model, zoo.ImageModel):
        trunk = _TRUNKS.get(model.name, _under(""))(model.trunk)
        shared = {f"trunk.{ours}": key for ours, key in trunk.items()}
        head, prefix, attributes = model.head, "head.", _attributes(model.name)
    else:
        shared, head, prefix, attributes = {}, model, "", ("", *_FOREIGN)
    for names in _head_names(head):
        for attribute in attributes:
            keys = {prefix + ours: _join(attribute, key) for ours, key in names.keys.items()}
            dead = frozenset(_join(attribute, key) for key in names.dead)
            yield _Names(shared | keys, dead, names.activation)


def _head_of(model: nn.Module) -> nn.Module:
    return model.head if isinstance(model, zoo.ImageModel) else model


def _describe(model: nn.Module) -> str:
    name = f"model '{model.name}' with " if isinstance(model, zoo.ImageModel) else ""
    return f"{name}head {type(_head_of(model)).__name__}"


def _check_tensors(state_dict: Mapping[str, Any]) -> None:
    what = f"got {type(state_dict).__name__}"
    if isinstance(state_dict, Mapping):
        other = [str(key) for key, value in state_dict.items() if not isinstance(value, Tensor)]
        if state_dict and not other:
            return
        what = f"but {some(other, 3)} is not a tensor" if other else "but it is empty"
    raise InputError(
        f"a state dict must map names to tensors, {what}. "
        "Save model.state_dict() where the weights were trained."
    )


def load_original_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Copy weights trained by the paper's scripts into `model`, all of them or none.

    Args:
        model: A model of `create_model`, or a head on its own. A head may come from a whole
            network's checkpoint with its keys still below `fc.`, `classifier.` or `head.`.
        state_dict: The original's tensors by their original names. Counters of batch norms may be
            missing. Two kinds of dead tensors are left out: the layers that a `ReusedSpinalNet`
            stands in for, and the `fc.*` that two scripts put on a VGG-19 and never call.

    Returns:
        `model`.

    Raises:
        InputError: If a key is missing or left over, a shape differs, or the weights were trained
            with another activation. Nothing has been copied then.

    The keys cannot tell whether layers were run twice (see `ReusedSpinalNet`): weights of the
    regression and the hymenoptera script need that head.
    """
    _check_tensors(state_dict)
    candidates = list(_candidates(model))
    if not candidates:
        raise InputError(
            f"the original scripts have no {_describe(model)}: build it with the sizes and the "
            "norm the weights were trained with."
        )
    names = max(candidates, key=lambda one: sum(key in state_dict for key in one.keys.values()))
    ours = model.state_dict()
    wanted = {key: ours[own].shape for own, key in names.keys.items()}
    ignored = set(names.dead)
    if isinstance(model, zoo.ImageModel) and model.name == "vgg19_bn":
        ignored |= {key for key in state_dict if key.startswith("fc.")} - wanted.keys()
    missing = [key for key in wanted if key not in state_dict and not key.endswith(_COUNTER)]
    unexpected = [key for key in state_dict if key not in wanted and key not in ignored]
    shapes = [
        f"{key} {tuple(state_dict[key].shape)} instead of {tuple(shape)}"
        for key, shape in wanted.items()
        if key in state_dict and state_dict[key].shape != shape
    ]
    found = [
        f"{what} {some(keys, 3)}"
        for what, keys in (("missing", missing), ("left over", unexpected), ("shape of", shapes))
        if keys
    ]
    if found:
        raise InputError(
            f"these weights do not fit {_describe(model)}: {'; '.join(found)}. "
            "Build it with the head and the sizes they were trained with."
        )
    _check_activation(model, names.activation)
    taken = {own: state_dict[key] for own, key in names.keys.items() if key in state_dict}
    model.load_state_dict({**ours, **taken})
    return model


def _check_activation(model: nn.Module, name: str | None) -> None:
    if name is None:
        return
    for module in _head_of(model).modules():
        if not isinstance(module, SpinalLayer | ProgressiveNet):
            continue
        if type(module.activation) is not ACTIVATIONS[name]:
            raise InputError(
                f"these weights were trained with activation='{name}', but the head has "
                f"{type(module.activation).__name__}. Build it with activation='{name}'."
            )


_Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Guess:
    """What a checkpoint says about the head it was trained with."""

    head: str
    num_classes: int
    options: dict[str, Any]
    covered: int  # keys explained


def _read_head(state_dict: Mapping[str, Tensor], model_name: str, path: str | Path) -> _Guess:
    """Return the head that explains most of the keys.

    Raises:
        InputError: If no head does.
    """
    row = zoo.MODELS[model_name]
    guesses = [_read_taps(_shapes(state_dict, ""))] if row.spinal == "spinal-taps" else []
    for attribute in _attributes(model_name):
        shapes = _shapes(state_dict, attribute)
        guesses += [_read_chain(shapes, chain, row) for chain in _CHAINS]
        guesses += [_read_stack(shapes, stack) for stack in _STACKS]
        if _is_matrix(shapes, ""):  # a linear map; the paper pools to one position in front of it
            neck = {"neck": "vector"} if "vector" in row.necks else {}
            guesses.append(_Guess("linear", shapes[""][0], {"dropout": 0.0, **neck}, 1))
    found = [guess for guess in guesses if guess is not None]
    if not found:
        raise InputError(
            f"{path} holds no head that the original scripts use: the last keys are "
            f"{some(list(state_dict)[-3:], 3)}."
        )
    return max(found, key=lambda guess: guess.covered)


def _shapes(state_dict: Mapping[str, Tensor], attribute: str) -> _Shapes:
    """Return the shapes of all weights below an attribute, by the names of their modules."""
    start = f"{attribute}." if attribute else ""
    names = {key: key.rpartition(".")[0] for key in state_dict if key.split(".")[-1] == "weight"}
    return {
        name[len(start) :]: tuple(state_dict[key].shape)
        for key, name in names.items()
        if f"{name}.".startswith(start)
    }


def _is_matrix(shapes: _Shapes, *names: str) -> bool:
    return all(len(shapes.get(name, ())) == 2 for name in names)


def _count_layers(shapes: _Shapes, layer: Callable[[int], str]) -> int:
    return next(count for count in itertools.count() if not _is_matrix(shapes, layer(count)))


def _read_chain(shapes: _Shapes, chain: _Chain, row: zoo.ModelRow) -> _Guess | None:
    length = _count_layers(shapes, chain.layer)
    if length < 2 or not _is_matrix(shapes, chain.output):
        return None
    width, features = shapes[chain.layer(0)]
    classes, joined = shapes[chain.output]
    options: dict[str, Any] = {"hidden_features": width, "num_layers": length}
    normed = chain.norm is not None and chain.norm(0) in shapes
    if normed:
        options["norm"] = "batch"
    if joined == features + length * width:
        head = "progressive"
        options["dropout"] = 0.5 if chain.dropout else 0.0
    elif length == 2 and 0 < 2 * width < joined:
        head = "spinal-shared"
        options["num_layers"] = joined // width
    else:
        paper = row.heads["spinal"]
        options["dropout"] = paper.get("dropout", 0.5) if chain.dropout else 0.0
        if not normed and "norm" in paper:
            options["norm"] = None
        if chain.activation is not None:
            options["activation"] = chain.activation
        reused = "spinal-reused" in row.heads and chain.slope is not None and length == 6
        head = "spinal-reused" if reused else "spinal"
    return _Guess(head, classes, options, length * (1 + normed) + 1)


def _read_stack(shapes: _Shapes, stack: _Stack) -> _Guess | None:
    if not _is_matrix(shapes, *stack.layers, stack.output) or not set(stack.norms) <= set(shapes):
        return None
    options = {
        "hidden_features": [shapes[name][0] for name in stack.layers],
        "dropout": stack.dropout,
        "norm": "batch" if stack.norms else None,
    }
    return _Guess("mlp-paper", shapes[stack.output][0], options, len(stack.modules))


def _read_taps(shapes: _Shapes) -> _Guess | None:
    lengths = [_count_layers(shapes, tap) for tap in _TAPS]
    if 0 in lengths or not _is_matrix(shapes, *_TOP):
        return None
    options = {
        "hidden_features": shapes[_TAPS[0](0)][0],
        "layers_per_tap": lengths,
        "top_features": shapes[_TOP[0]][0],
    }
    return _Guess("spinal", shapes[_TOP[1]][0], options, sum(lengths) + 2)


def convert_checkpoint(
    path: str | Path,
    model_name: str,
    out: str | Path,
    *,
    head: str | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> zoo.ImageModel:
    """Turn a checkpoint of the original scripts into one of ours.

    Head, sizes and number of classes are read from the shapes in the file; what cannot be read
    there (dropout rates, an activation that the names leave open) is the paper's for that model.

    Args:
        path: The original's file; see `files.read_weights`.
        model_name: Row of `models.MODELS`.
        out: File to write, safetensors with the same header as the `model.safetensors` of a run.
        head: Name of a head, if the one read from the file is not wanted (`"spinal"` for weights
            whose six layers all ran, where the paper's script runs two of them twice).
        in_channels: Channels of the images; read from the file if there are convolutions.
        image_size: Side of the images in pixels; the paper's if `None`.
        class_names: One name per output; numbers if `None`.
        mean: Channel means that images were normalised with, on the 0..1 scale; 0 if `None`.
        std: The deviations; 1 if `None`.
        options: Options of the head; they override what was read.

    Returns:
        The model with its weights, in evaluation mode.

    Raises:
        InputError: If the file cannot be read, does not fit, or `out` cannot be written.
    """
    if model_name not in zoo.MODELS:
        raise unknown_name("model", model_name, zoo.MODELS)
    model, about = _build(path, model_name, head, in_channels, image_size, options)
    outputs, channels = len(about["class_names"]), about["input_shape"][0]
    if class_names is not None and len(class_names) != outputs:
        raise InputError(
            f"class_names must have {outputs} names, one per output of {path}, got "
            f"{len(class_names)}."
        )
    about |= {
        "class_names": list(class_names or about["class_names"]),
        "mean": list(mean or [0.0] * channels),
        "std": list(std or [1.0] * channels),
        "data": None,
        "seed": None,
        "converted_from": Path(path).name,
        "schema": SCHEMA,
    }
    files.save_weights(out, model.state_dict(), about)
    return model.eval()


def _build(
    path: str | Path,
    model_name: str,
    head: str | None,
    in_channels: int | None,
    image_size: int | None,
    options: Mapping[str, Any],
) -> tuple[zoo.ImageModel, dict[str, Any]]:
    """Return the network of a file with its weights, and what its shapes say of it."""
    state_dict = files.read_weights(path)
    guess = _read_head(state_dict, model_name, path)
    channels, *size = zoo.MODELS[model_name].input_shape
    if in_channels is None:
        kernels = (value.shape[1] for value in state_dict.values() if value.dim() == 4)
        in_channels = next(kernels, channels)
    head = head or guess.head
    accepted = {"neck", *head_arguments(head)}
    chosen = {key: value for key, value in guess.options.items() if key in accepted}
    chosen |= options
    model = zoo.create_model(model_name, guess.num_classes, in_channels, image_size, head, **chosen)
    load_original_state_dict(model, state_dict)
    return model, {
        "model": model_name,
        "head": head,
        "head_options": chosen,
        "class_names": [str(k) for k in range(guess.num_classes)],
        "input_shape": [in_channels, *(size if image_size is None else (image_size, image_size))],
    }
