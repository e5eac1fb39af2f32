"""Trying a network on a twin, and which networks cannot be changed at all.

A twin is a copy of the modules made of shapes without numbers, where the network allows that: a
trial costs little, and no state of the network moves.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from spinalnet._checks import SurgeryError, some
from spinalnet.nn.dense import LinearHead, MLPHead, ProgressiveNet
from spinalnet.nn.layers import SpinalLayer, SpinalNet
from spinalnet.nn.unchained import UnchainedNet
from spinalnet.nn.variants import MultiTapSpinalNet

OURS = (SpinalNet, MLPHead, LinearHead, ProgressiveNet, MultiTapSpinalNet, UnchainedNet)

_QUANTISED = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the model that `torch.compile` was given; any other as it is."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def check_changeable(model: nn.Module, paths: Sequence[str] = ("",)) -> None:
    """Raise `SurgeryError` if parts at these paths, or the model, are programs without parts."""
    for path in paths:
        part = model
        for name in ["", *path.split(".")] if path else [""]:
            part = getattr(part, name) if name else part
            if isinstance(part, torch.jit.ScriptModule):
                raise SurgeryError(
                    f"{part.original_name} is a scripted or traced program, whose parts cannot be "
                    "replaced: change the model it was made from, and script that."
                )


def check_learns(model: nn.Module) -> None:
    """Raise `SurgeryError` if what a head is put on, or the head, could not be trained."""
    advice = "build or load the model, and change it, outside torch.inference_mode()"
    if torch.is_inference_mode_enabled():
        raise SurgeryError(f"a head made in inference mode could never learn: {advice}.")
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if made := [name for name, tensor in tensors.items() if tensor.is_inference()]:
        raise SurgeryError(
            f"{len(made)} tensors of {type(model).__name__} ({some(made, 2)}) were made in "
            f"inference mode, and no gradient can ever pass them: {advice}, or copy it there "
            "(copy.deepcopy(model))."
        )


def is_quantised(part: nn.Module) -> bool:
    """Return whether a layer computes with integers."""
    return type(part).__module__.startswith(_QUANTISED)


def check_floating(model: nn.Module) -> None:
    """Raise `SurgeryError` if the layers of a model are quantised, so that no way can be told."""
    for path, part in model.named_modules():
        if is_quantised(part):
            raise SurgeryError(
                f"{type(model).__name__} is quantised ({path!r} is a "
                f"{type(part).__module__}.{type(part).__name__}), so its output cannot be followed "
                "back to its classifier: put the head on the model from before that and quantise "
                "afterwards, or pass where= to say which module to replace."
            )


def _twin(model: nn.Module, *, trace: bool, shapes_only: bool) -> nn.Module:
    """Copy the modules but not the numbers: what a forward pass remembers stays in the copy."""
    stand_ins: dict[int, Any] = {}  # what `deepcopy` takes for an object instead of a copy
    for tensor in (*model.parameters(), *model.buffers()):
        shown: Tensor = tensor.detach()
        if shapes_only:
            shown = torch.empty_like(shown, device="meta")
        if isinstance(tensor, nn.Parameter):
            shown = nn.Parameter(shown, requires_grad=trace and tensor.is_floating_point())
        stand_ins[id(tensor)] = shown
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:  # such cannot be copied
                shown = value.detach()
                stand_ins[id(value)] = (
                    torch.empty_like(shown, device="meta") if shapes_only else shown
                )
    try:
        return _plain(copy.deepcopy(model, stand_ins).eval())
    except Exception as error:  # modules of users may hold anything
        raise SurgeryError(
            f"{type(model).__name__} cannot be copied for a trial ({error})."
        ) from error


def _plain(twin: nn.Module) -> nn.Module:
    """Make parameters of weights that are computed of others, such as those of a weight norm."""
    for module in list(twin.modules()):
        if parametrize.is_parametrized(module):
            with torch.no_grad():
                values = {name: getattr(module, name) for name in module.parametrizations}  # type: ignore[union-attr]
            learns = any(p.requires_grad for p in module.parameters())
            # Not torch's function for this: it changes the class, which the original shares.
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            for name, value in values.items():
                module.register_parameter(name, nn.Parameter(value, requires_grad=learns))
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
    return twin


@dataclass(frozen=True)
class Trial:
    """What came of running a twin of a model on two inputs."""

    output: Tensor
    owners: dict[Tensor, str]  # the path of the module that owns each parameter of the twin
    watched: tuple[torch.Size, torch.Size] | None  # what the modules to watch last read and made
    makers: tuple[Any, ...]  # the operations that made their results, one per call


def try_out(
    model: nn.Module,
    input_shape: Sequence[int] | None,
    *,
    trace: bool = False,
    watch: Sequence[str] = (),
) -> Trial:
    """Run a twin of the model on two inputs: shapes only, or, where it cannot, with its numbers.

    Args:
        model: The model.
        input_shape: Shape of one input; `None` to try what is likely.
        trace: Whether the output must remember the operations that made it.
        watch: Paths of modules whose calls are wanted.
    """
    shapes = [tuple(input_shape)] if input_shape is not None else likely_shapes(model)
    reason: Exception | None = None
    for shape, shapes_only in itertools.product(shapes, (True, False)):
        twin = _twin(model, trace=trace, shapes_only=shapes_only)
        owners: dict[Tensor, str] = {
            parameter: path
            for path, module in twin.named_modules()
            for parameter in module.parameters(recurse=False)
        }
        seen: list[tuple[torch.Size, torch.Size, Any]] = []
        for path in watch:
            twin.get_submodule(path).register_forward_hook(
                lambda _, read, named, made, seen=seen: seen.append(
                    ([*read, *named.values()][0].shape, made.shape, made.grad_fn)
                ),
                with_kwargs=True,
            )
        anchor = next((t for t in owners if t.is_floating_point()), torch.empty(0))
        try:
            with torch.set_grad_enabled(trace):
                output = twin(torch.zeros(2, *shape, dtype=anchor.dtype, device=anchor.device))
        except Exception as error:  # whatever a network says to a size it cannot take
            reason = error
            continue
        output = getattr(output, "logits", output)  # Hugging Face models return a record
        if not isinstance(output, Tensor):
            raise SurgeryError(
                f"{type(model).__name__} must return one tensor in evaluation, or a record with "
                f"logits, got {type(output).__name__}."
            )
        return Trial(
            output, owners, seen[-1][:2] if seen else None, tuple(node for *_, node in seen)
        )
    first = (str(reason).strip() or repr(reason)).splitlines()[0]
    raise SurgeryError(
        f"{type(model).__name__} does not run on inputs of shape {shapes[-1]} ({first[:200]}). "
        "Pass input_shape= with the shape of one input."
    ) from reason


def likely_shapes(model: nn.Module) -> list[tuple[int, ...]]:
    """Return shapes of one input that the model may take, the likeliest first."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    declared = tuple(config.get("input_size") or () if hasattr(config, "get") else ())
    transformers = getattr(model, "config", None)  # of a Hugging Face model
    weighted = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, SpinalLayer, *OURS)
    first = next((m for m in model.modules() if isinstance(m, weighted) or is_quantised(m)), None)
    reads_rows: Any = first if hasattr(first, "in_features") else None
    own = _own_shape(model, first)
    if reads_rows is not None and not declared:
        return list(dict.fromkeys([*own, (reads_rows.in_features,)]))
    channels = [first.in_channels] if isinstance(first, nn.Conv2d) else []
    channels += declared[:1] or [3]
    sides: list[tuple[int, ...]] = []
    for holder, name in (
        (getattr(model, "patch_embed", None), "img_size"),
        (model, "image_size"),
        (transformers, "image_size"),
    ):
        side = getattr(holder, name, None)
        if isinstance(side, int):
            sides.append((side, side))
        elif isinstance(side, Sequence) and len(side) == 2:
            sides.append(tuple(side))
    sides += [declared[1:]] if len(declared) == 3 else []
    sides.append((224, 224))
    return list(dict.fromkeys([*own, *((c, *side) for side in sides for c in channels)]))


def _own_shape(model: nn.Module, first: Any) -> list[tuple[int, ...]]:
    """Return what a model says in `input_shape`, as ours do, where its first layer takes that."""
    said = getattr(model, "input_shape", None)
    if not isinstance(said, tuple | list) or not all(type(n) is int and n > 0 for n in said):
        return []
    if hasattr(first, "in_features"):
        return [tuple(said)] * (math.prod(said) == first.in_features)
    return [tuple(said)] * (len(said) == 3 and getattr(first, "in_channels", None) == said[0])
