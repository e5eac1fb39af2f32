"""Engines that run a frozen trunk: ONNX Runtime, torch with batch norm folded away, torch.

An engine takes batches of one size, filled up with zeros where images run out, on one thread each;
what it makes of an image then depends neither on its neighbours nor on the number of processors.
Processors are used by working on several batches at once.

An engine must agree with the trunk on a probe before it makes a single feature. One that cannot be
built, or does not agree, is `Unfit`, and the next is asked; which one it was is part of the key
that features are kept under, so those of two engines never meet.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from spinalnet._checks import unknown_name

Extractor = Callable[[Tensor], Tensor]

# Largest difference of a feature from the trunk's own, in full precision, as a part of the largest
# feature. Engines differ by the order in which they add: 2e-6 for EfficientNet-Lite0.
TOLERANCE = 1e-4
# In bf16, of the probe: 0.016 for EfficientNet-Lite0 (of photographs made larger it is 0.1).
BF16_TOLERANCE = 0.05
# Images up to which it does not pay to export the trunk, which takes some seconds.
FEW = 1024
_BATCH = {"cpu": 8}  # what stays in the cache of a core; elsewhere:
_LARGE_BATCH = 64
_OPSET = 18


class Unfit(Exception):
    """An engine cannot run this trunk; the message says why."""


@dataclass(frozen=True)
class Engine:
    """A way to run a trunk.

    Attributes:
        name: Row of `ENGINES`.
        device: Where it runs.
        input_shape: Of one image, `(C, H, W)`.
    """

    name: str
    device: torch.device
    input_shape: tuple[int, ...]

    @property
    def batch(self) -> int:
        """Images per call."""
        return _BATCH.get(self.device.type, _LARGE_BATCH)

    @property
    def key(self) -> str:
        """All that features depend on beside trunk and images."""
        version = torch.__version__
        if self.name == "onnxruntime":
            version += f" {importlib.import_module('onnxruntime').__version__}"
        precision = ENGINES[self.name].precision
        return f"{self.name} {version} {self.device.type} batch {self.batch} {precision}"

    def build(self, trunk: nn.Module) -> Extractor:
        """Return a function of a whole batch that may run in several threads at once.

        Args:
            trunk: In evaluation mode on the device; left as it is.

        Raises:
            Unfit: If this engine cannot run the trunk, or computes something else.
        """
        way = ENGINES[self.name]
        if way.build is None:
            return _as_it_is(trunk)
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(self.batch, *self.input_shape, generator=generator)
        try:
            extractor = way.build(trunk, probe)
            with torch.no_grad():
                truth, made = trunk(probe).float(), extractor(probe)
        except MemoryError:
            raise
        except Exception as error:  # exporters raise all kinds, on what they do not know
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise Unfit(f"{self.name} cannot run it: {reason[:200]}") from error
        scale = max(float(truth.abs().max()), torch.finfo(torch.float32).tiny)
        same = made.shape == truth.shape
        difference = float((made - truth).abs().max()) / scale if same else math.inf
        if not difference <= way.tolerance:
            raise Unfit(f"{self.name} differs by {difference:.1e} of the largest feature")
        return extractor


def _as_it_is(trunk: nn.Module) -> Extractor:
    turns = threading.Lock()

    def extract(images: Tensor) -> Tensor:
        if images.device.type != "cpu":  # one batch fills it, and its memory
            with turns:
                return trunk(images).float().cpu()
        if images.ndim == 4:  # channels innermost: twice as fast, whatever layout the weights have
            images = images.contiguous(memory_format=torch.channels_last)
        return trunk(images).float()

    return extract


# --- torch, folded --------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """Sees convolutions and batch norms as wholes, those of other libraries too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, nn.Conv2d | nn.BatchNorm2d)
        return known or super().is_leaf_module(m, module_qualified_name)


def folded(trunk: nn.Module) -> nn.Module:
    """Return a copy with every batch norm put into the convolution before it, if that is its own.

    Raises:
        Unfit: If there is none. What `torch.fx` cannot trace raises its own errors.
    """
    twin = copy.deepcopy(trunk)
    graph = _Tracer().trace(twin)
    modules = dict(twin.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    found = 0
    for node in calls:
        norm, source = modules[str(node.target)], node.args[0] if len(node.args) == 1 else None
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(source, fx.Node):
            continue
        if source.op != "call_module":
            continue
        conv, rest = modules[str(source.target)], _after_norm(norm)
        once = targets.count(node.target) == targets.count(source.target) == len(source.users) == 1
        if not isinstance(conv, nn.Conv2d) or rest is None or not once:
            continue
        assert norm.running_mean is not None
        assert norm.running_var is not None
        statistics = norm.running_mean, norm.running_var, norm.eps
        conv.weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, *statistics, norm.weight, norm.bias
        )
        conv.register_parameter("bias", bias)
        twin.set_submodule(str(node.target), rest)
        found += 1
    if not found:
        raise Unfit("no batch norm to fold")
    return fx.GraphModule(twin, graph).eval().to(memory_format=torch.channels_last)


def _after_norm(norm: nn.BatchNorm2d) -> nn.Module | None:
    """Return what is left of a batch norm when it is folded; None if that is not known."""
    if norm.running_mean is None or norm.running_var is None:
        return None
    if type(norm).forward is nn.BatchNorm2d.forward:  # one that rests (`frozen`) is one too
        return nn.Identity()
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)
    if isinstance(drop, nn.Module) and isinstance(act, nn.Module):  # timm's BatchNormAct2d
        return nn.Sequential(drop, act)
    return None


# --- ONNX Runtime ---------------------------------------------------------------------------------


def _exported(trunk: nn.Module, probe: Tensor) -> Extractor:
    """Export a copy of the trunk for batches of this size, and run it in ONNX Runtime."""
    onnxruntime = importlib.import_module("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            copy.deepcopy(trunk),
            (probe,),
            dynamo=True,
            input_names=["images"],
            output_names=["features"],
            opset_version=_OPSET,
            verbose=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def extract(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.contiguous().numpy()})[0])

    return extract


def _as_folded(trunk: nn.Module, probe: Tensor) -> Extractor:
    return _as_it_is(folded(trunk))


def _as_folded_in_bf16(trunk: nn.Module, probe: Tensor) -> Extractor:
    module = folded(trunk).to(torch.bfloat16)

    def extract(images: Tensor) -> Tensor:
        images = images.to(torch.bfloat16, memory_format=torch.channels_last)
        return module(images).float()

    return extract


@dataclass(frozen=True)
class Way:
    """What an engine does.

    Attributes:
        build: Returns what runs a trunk on batches like the probe; None for the trunk itself.
        tolerance: Largest difference from the trunk's features, as a part of the largest.
        precision: In which it computes.
    """

    build: Callable[[nn.Module, Tensor], Extractor] | None
    tolerance: float = TOLERANCE
    precision: str = "float32"


ENGINES: dict[str, Way] = {
    "onnxruntime": Way(_exported),
    "torch-folded": Way(_as_folded),
    "torch-folded-bf16": Way(_as_folded_in_bf16, BF16_TOLERANCE, "bfloat16"),
    "torch": Way(None),
}


def engines(
    device: torch.device, input_shape: Sequence[int], images: int, asked: str = "auto"
) -> list[Engine]:
    """Return the engines to try, the last of which fits every trunk.

    Args:
        device: Where features are computed.
        input_shape: Of one image, `(C, H, W)`.
        images: How many there are in all, in the cache or not.
        asked: A row of `ENGINES`, to try that one first whatever pays.

    Raises:
        InputError: If there is no such engine.
    """
    if asked not in ("auto", *ENGINES):
        raise unknown_name("engine", asked, ["auto", *ENGINES])
    names = [asked] if asked != "auto" else []
    if asked == "auto" and device.type == "cpu" and len(input_shape) == 3:
        packages = ("onnx", "onnxscript", "onnxruntime")
        if images > FEW and all(importlib.util.find_spec(name) for name in packages):
            names.append("onnxruntime")
        names.append("torch-folded")
    return [Engine(name, device, tuple(input_shape)) for name in dict.fromkeys([*names, "torch"])]
