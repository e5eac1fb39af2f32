"""Finding the classifier of any network, by what it declares or by trying a twin of it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet._checks import SurgeryError
from spinalnet.models.wrappers import PooledHead, PositionHead
from spinalnet.nn.dense import LinearHead, MLPHead, ProgressiveNet
from spinalnet.nn.layers import SpinalLayer, SpinalNet
from spinalnet.nn.unchained import UnchainedNet
from spinalnet.nn.variants import MultiTapSpinalNet

# Where a classifier is: its dotted path, the module, or a function that picks it (or several).
Where = str | Sequence[str] | Callable[[Any], nn.Module | Sequence[nn.Module]]

_OURS = (SpinalNet, MLPHead, LinearHead, ProgressiveNet, MultiTapSpinalNet, UnchainedNet)


def find_classifier(
    model: nn.Module, *, input_shape: Sequence[int] | None = None
) -> tuple[str, ...]:
    """Return the dotted path of the model's classifier.

    Several paths come back where a network has several classifiers by design and says so, such as
    timm's distilled transformers, whose scores are the mean of two.

    Args:
        model: Any classifier of images or rows of numbers.
        input_shape: Shape of one input without the batch dimension; by default what the model
            declares, or 224 x 224 pixels.

    Raises:
        SurgeryError: If there is none, or there are several to choose from; they are named.

    Example:
        >>> find_classifier(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))
        ('2',)
    """
    ours = [name for name, _ in _own_heads(model)]
    if ours:
        return tuple(ours)
    declared = _declared(model)
    kinds = [classifier_kind(model.get_submodule(path)) for path in declared]
    if declared and all(kinds):
        return declared

    trial = try_out(model, input_shape, trace=True)
    output, found = trial.output, _last_weight_layers(trial)
    # A declared container is as good as an answer, if it holds what was found.
    if declared and all(any(f"{name}.".startswith(f"{d}.") for d in declared) for name in found):
        pass
    elif len(found) > 1:
        first = found[-1]
        raise SurgeryError(
            f"found {len(found)} possible classifiers in {type(model).__name__}: "
            f"{', '.join(map(repr, found))}. Pass where={first!r} to choose."
        )
    columns = output.shape[-1]
    fitting = [
        name
        for name in found
        if classifier_kind(module := model.get_submodule(name)) and width(module)[1] == columns
    ]
    if not fitting or len(fitting) < len(found) or output.ndim != 2:
        last = f"; the last layer with weights is {found[0]!r}" if found else ""
        raise SurgeryError(
            f"{type(model).__name__} does not end in a linear map to its {columns} outputs{last}. "
            "Pass where= to say which module to replace."
        )
    return tuple(fitting)


def _own_heads(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost heads of ours, with what adapts them to maps."""
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, (*_OURS, PositionHead, PooledHead)):
            yield path, child
        else:
            yield from _own_heads(child, f"{path}.")


def _declared(model: nn.Module) -> tuple[str, ...]:
    """Return the paths that timm declares and that are there."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    declared = config.get("classifier") if hasattr(config, "get") else None
    paths = (declared,) if isinstance(declared, str) else tuple(declared or ())
    return tuple(path for path in paths if _has(model, path))


def _has(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def classifier_kind(module: nn.Module) -> str:
    """Return what kind of classifier this can be: linear, conv, identity or none ("")."""
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv2d):
        return "conv" if module.kernel_size == (1, 1) and module.groups == 1 else ""
    return "identity" if isinstance(module, nn.Identity) else ""


def width(module: nn.Module) -> tuple[int, int]:
    """Return the numbers of inputs and outputs of a linear layer or a 1x1 convolution."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.Conv2d):
        return module.in_channels, module.out_channels
    return 0, 0


def resolve(model: nn.Module, where: Where) -> tuple[str, ...]:
    """Return the paths that `where` names."""
    chosen = where(model) if callable(where) else where
    items = [chosen] if isinstance(chosen, str | nn.Module) else list(chosen)
    names = {module: name for name, module in model.named_modules()}
    paths = []
    for item in items:
        path = item if isinstance(item, str) else names.get(item, "")
        if not path or not _has(model, path):
            shown = repr(item) if isinstance(item, str) else type(item).__name__
            known = ", ".join(repr(name) for name, _ in model.named_children())
            raise SurgeryError(
                f"where must name a module inside {type(model).__name__}, got {shown}. Its parts "
                f"are {known}."
            )
        paths.append(path)
    if not paths:
        raise SurgeryError(f"where must name a module of {type(model).__name__}, got none.")
    return tuple(paths)


def auxiliary_classifiers(model: nn.Module) -> tuple[str, ...]:
    """Return the auxiliary classifiers of torchvision's and timm's Inception networks."""
    if not getattr(model, "aux_logits", False):
        return ()
    return tuple(
        name
        for name in ("aux1", "aux2", "AuxLogits")
        if isinstance(getattr(model, name, None), nn.Module)
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
    try:
        return copy.deepcopy(model, stand_ins).eval()
    except Exception as error:  # modules of users may hold anything
        raise SurgeryError(
            f"{type(model).__name__} cannot be copied for a trial ({error})."
        ) from error


@dataclass(frozen=True)
class _Trial:
    """What came of running a twin of a model on two inputs."""

    output: Tensor
    owners: dict[Tensor, str]  # the path of the module that owns each parameter of the twin
    watched: tuple[torch.Size, torch.Size] | None  # what the module to watch read and made


def try_out(
    model: nn.Module,
    input_shape: Sequence[int] | None,
    *,
    trace: bool = False,
    watch: str | None = None,
) -> _Trial:
    """Run a twin of the model on two inputs: shapes only, or, where it cannot, with its numbers.

    Args:
        model: The model.
        input_shape: Shape of one input; `None` to try what is likely.
        trace: Whether the output must remember the operations that made it.
        watch: Path of a module whose shapes are wanted.
    """
    shapes = [tuple(input_shape)] if input_shape is not None else _likely_shapes(model)
    reason: Exception | None = None
    for shape, shapes_only in itertools.product(shapes, (True, False)):
        twin = _twin(model, trace=trace, shapes_only=shapes_only)
        owners: dict[Tensor, str] = {
            parameter: path
            for path, module in twin.named_modules()
            for parameter in module.parameters(recurse=False)
        }
        seen: list[tuple[torch.Size, torch.Size]] = []
        if watch is not None:
            twin.get_submodule(watch).register_forward_hook(
                lambda _, read, made, seen=seen: seen.append((read[0].shape, made.shape))  # type: ignore[union-attr]
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
        return _Trial(output, owners, seen[-1] if seen else None)
    first = (str(reason).strip() or repr(reason)).splitlines()[0]
    raise SurgeryError(
        f"{type(model).__name__} does not run on inputs of shape {shapes[-1]} ({first[:200]}). "
        "Pass input_shape= with the shape of one input."
    ) from reason


def _likely_shapes(model: nn.Module) -> list[tuple[int, ...]]:
    """Return shapes of one input that the model may take, the likeliest first."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    declared = tuple(config.get("input_size") or () if hasattr(config, "get") else ())
    transformers = getattr(model, "config", None)  # of a Hugging Face model
    weighted = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, SpinalLayer, *_OURS)
    first = next((m for m in model.modules() if isinstance(m, weighted)), None)
    reads_rows: Any = first if isinstance(first, (nn.Linear, SpinalLayer, *_OURS)) else None
    if reads_rows is not None and not declared:
        return [(reads_rows.in_features,)]
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
    return list(dict.fromkeys((c, *side) for side in sides for c in channels))


# Operations that only look at a weight in another way, on its path into a product.
_VIEWS = ("T", "Transpose", "Permute", "View", "UnsafeView", "Reshape", "ToCopy", "Clone")


def _weight(node: Any) -> Tensor | None:
    """Return the matrix or filter that this graph node hands over, if it is one."""
    while not hasattr(node, "variable"):
        if node.name().removesuffix("0").removesuffix("Backward") not in _VIEWS:
            return None
        node = node.next_functions[0][0]
        if node is None:
            return None
    return node.variable if node.variable.ndim >= 2 else None


def _last_weight_layers(trial: _Trial) -> list[str]:
    """Follow the output back to the first layer with weights on every way, and name them."""
    found: dict[str, None] = {}
    seen: set[Any] = set()
    queue: list[Any] = [trial.output.grad_fn]
    for node in queue:  # grows as it goes
        if node is None or node in seen:
            continue
        seen.add(node)
        inputs = [before for before, _ in node.next_functions if before is not None]
        weights = [weight for before in inputs if (weight := _weight(before)) is not None]
        for weight in weights:
            if weight in trial.owners:
                found[trial.owners[weight]] = None
        if not weights:
            queue += inputs
    return list(found)
