"""How the paper's scripts call the parts of their networks: every spelling, from file to file.

Which one a checkpoint uses is found from its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from spinalnet.models import assembly, trunks
from spinalnet.nn.dense import LinearHead, MLPHead, ProgressiveNet
from spinalnet.nn.layers import SpinalLayer, SpinalNet
from spinalnet.nn.variants import MultiTapSpinalNet, ReusedSpinalNet

# Under which name a head hangs in a network. Networks written out in a script have none, or that of
# a sequence; a backbone has its classifier's.
_OWN, _FOREIGN = ("", "classifier", "fc_layer"), ("fc", "classifier", "head")
_CLASSIFIERS = {"alexnet": "classifier", "vgg19_bn": "classifier"}


def attributes_of(model_name: str) -> tuple[str, ...]:
    """Return the names under which the scripts have hung the head on a row of `models.MODELS`."""
    if model_name in _TRUNKS:
        return _OWN
    return ("head",) if model_name.startswith("vit") else (_CLASSIFIERS.get(model_name, "fc"),)


@dataclass(frozen=True)
class Chain:
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


CHAINS = (
    Chain(_suffixed("fc1"), "fc2"),  # MNIST CNN
    Chain(_suffixed("fc1"), "fc_layer"),  # CIFAR ResNet
    Chain(  # bare heads, Progressive nets
        lambda i: f"fc_spinal_layer{i + 1}.0",
        "fc_out.0",
        norm=lambda i: f"fc_spinal_layer{i + 1}.1",
    ),
    Chain(  # the same with dropout in front of every layer
        lambda i: f"fc_spinal_layer{i + 1}.1",
        "fc_out.1",
        norm=lambda i: f"fc_spinal_layer{i + 1}.2",
        dropout=True,
    ),
    Chain(lambda i: f"layer{i + 1}", "_out", activation="identity"),
    Chain(  # regression, hymenoptera, customizable and shared-weight nets
        lambda i: f"fc{i + 1}", "fcx", slope="lru", activation=None
    ),
)


@dataclass(frozen=True)
class Stack:
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


STACKS = (
    Stack(("fc1",), "fc2", dropout=(0.0, 0.5)),  # MNIST CNN
    Stack(("1",), "5", norms=("2",), dropout=0.5),  # VGG-5
    Stack(("1", "3"), "6", dropout=(0.1, 0.0, 0.1)),  # CIFAR CNN
    Stack(("0", "3"), "6", dropout=(0.0, 0.5, 0.5)),  # VGG
    Stack(("0", "2"), "4"),  # regression, two-layer transfer head
)

# Chains of Arch2 in the order of its taps (pixels, first and second convolution), then the top.
TAPS = (_suffixed("fcp2"), _suffixed("fcp"), _suffixed("fc1"))
TOP = ("fc2", "fc3")


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
class Names:
    """One spelling of a head: our key to the original's, keys to leave alone, the activation."""

    keys: dict[str, str]
    dead: frozenset[str] = frozenset()
    activation: str | None = None


def _chain_names(head: SpinalNet | ProgressiveNet, chain: Chain) -> Names | None:
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
    return Names(_rename(head, [*prefixes, chain.output]), frozenset(dead), chain.activation)


def _head_names(head: nn.Module) -> Iterator[Names]:
    """Yield every spelling that can name the parts of `head`."""
    if isinstance(head, SpinalNet | ProgressiveNet):
        for chain in CHAINS:
            if (names := _chain_names(head, chain)) is not None:
                yield names
    elif isinstance(head, MultiTapSpinalNet):
        chains = [chain for chain in head.chains if isinstance(chain, SpinalLayer)]
        if len(chains) == len(TAPS) and not any(len(chain.norms) for chain in chains):
            layers = [
                tap(layer)
                for tap, chain in zip(TAPS, chains, strict=True)
                for layer in range(chain.num_layers)
            ]
            yield Names(_rename(head, [*layers, *TOP]), activation="relu")
    elif isinstance(head, MLPHead):
        for stack in STACKS:
            if len(stack.modules) == len(_leaves(head)):
                yield Names(_rename(head, stack.modules))
    elif isinstance(head, LinearHead):
        yield Names(_rename(head, [""]))


def candidates(model: nn.Module) -> Iterator[Names]:
    """Yield every spelling of a whole model or of a head on its own."""
    if isinstance(model, assembly.ImageModel):
        trunk = _TRUNKS.get(model.name, _under(""))(model.trunk)
        shared = {f"trunk.{ours}": key for ours, key in trunk.items()}
        head, prefix, attributes = model.head, "head.", attributes_of(model.name)
    else:
        shared, head, prefix, attributes = {}, model, "", ("", *_FOREIGN)
    for names in _head_names(head):
        for attribute in attributes:
            keys = {prefix + ours: _join(attribute, key) for ours, key in names.keys.items()}
            dead = frozenset(_join(attribute, key) for key in names.dead)
            yield Names(shared | keys, dead, names.activation)
