"""Finding the classifier of any network, by what it declares or by trying a twin of it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet._checks import SurgeryError
from spinalnet.models.twins import (
    OURS,
    Trial,
    check_changeable,
    check_floating,
    try_out,
    uncompiled,
)
from spinalnet.models.wrappers import PooledHead, PositionHead

# Where a classifier is: its dotted path, the module, or a function that picks it (or several).
Where = str | Sequence[str] | Callable[[Any], nn.Module | Sequence[nn.Module]]


def find_classifier(
    model: nn.Module, *, input_shape: Sequence[int] | None = None
) -> tuple[str, ...]:
    """Return the dotted path of the model's classifier.

    Several paths come back where a network has several classifiers by design and says so, such as
    timm's distilled transformers, whose scores are the mean of two.

    Args:
        model: Any classifier of images or rows of numbers.
        input_shape: Shape of one input without the batch dimension; by default what the model
            declares (an `ImageModel` what it was built for), or 224 x 224 pixels.

    Raises:
        SurgeryError: If there is none, or there are several to choose from; they are named. If the
            model itself is the classifier, or its parts cannot be told (scripted, quantised).

    Example:
        >>> find_classifier(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))
        ('2',)
    """
    if (inner := uncompiled(model)) is not model:
        return tuple(
            f"_orig_mod.{path}" for path in find_classifier(inner, input_shape=input_shape)
        )
    check_changeable(model)
    if isinstance(model, (*OURS, PositionHead, PooledHead)):
        raise _is_itself(model)
    return tuple(name for name, _ in _own_heads(model)) or _find(model, input_shape)


def _is_itself(model: nn.Module) -> SurgeryError:
    return SurgeryError(
        f"{type(model).__name__} is the classifier itself, and nothing can be put in its own "
        "place: make a head with spinalnet.make_head, or wrap the model, nn.Sequential(model)."
    )


def _find(model: nn.Module, input_shape: Sequence[int] | None) -> tuple[str, ...]:
    """Return the paths of the classifier that a model declares, or that its output comes from."""
    declared = _declared(model)
    kinds = [classifier_kind(model.get_submodule(path)) for path in declared]
    if declared and all(kinds):
        return declared

    check_floating(model)
    programs = [n for n, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    try:
        trial = try_out(model, input_shape, trace=True)
    except SurgeryError as error:
        if not programs or input_shape is not None:
            raise
        raise SurgeryError(
            f"{programs[0]!r} in {type(model).__name__} is a scripted or traced program, which "
            "does not say what it reads: pass input_shape= with the shape of one input."
        ) from error
    output, found = trial.output, _last_weight_layers(trial)
    if "" in found:
        raise _is_itself(model)
    check_changeable(model, found or programs)  # what programs own cannot be told
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
        again = called_again(model, found, input_shape)
        raise SurgeryError(
            f"{type(model).__name__} does not end in a linear map to its {columns} outputs{last}"
            f"{again and f'; {again}'}. Pass where= to say which module to replace."
        )
    return tuple(fitting)


def _own_heads(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost heads of ours, with what adapts them to maps."""
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, (*OURS, PositionHead, PooledHead)):
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


def _last_weight_layers(trial: Trial) -> list[str]:
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


# What squashes logits into probabilities, in the graph of operations and as modules.
_SQUASHING = ("Softmax", "LogSoftmax", "Sigmoid", "LogSigmoid")


def _behind(start: Any, ends: Container[Any]) -> list[Any]:
    """Return the nodes of the graph that lie behind one, itself first, down to some ends."""
    found, queue = {}, [start]
    for node in queue:  # grows as it goes
        if node is not None and node not in found:
            found[node] = None
            if node not in ends:
                queue += [before for before, _ in node.next_functions]
    return list(found)


def squashed(model: nn.Module, trial: Trial) -> str | None:
    """Return what a model does to the logits of its classifier that makes them none, if anything.

    Args:
        model: The model.
        trial: Of the model, traced, that watched the classifier.
    """
    # Weights of several classifiers may be a softmax too, of parameters: it squashes no logits.
    makers = set(trial.makers)
    names = {
        node.name().rstrip("0").removesuffix("Backward")
        for node in _behind(trial.output.grad_fn, makers)
        if node not in makers and not makers.isdisjoint(_behind(node, makers))
    }
    kind = next((kind for kind in _SQUASHING if kind in names), None)
    if kind is None:
        return None
    modules = [path for path, module in model.named_modules() if type(module).__name__ == kind]
    if modules:
        where, how = f"its part {modules[-1]!r}", "put nn.Identity() in its place"
    else:
        where, how = "its forward", "take that out"
    return (
        f"{where} applies a {kind} to what the classifier makes, but a head makes logits, which "
        f"losses and predictions take as they are; {how} first"
    )


def called_again(model: nn.Module, paths: Sequence[str], input_shape: Sequence[int] | None) -> str:
    """Return a clause that says which of some modules run more than once in a pass; "" if none."""
    for path in paths:
        calls = len(try_out(model, input_shape, watch=[path]).makers)
        if calls > 1:
            return f"{path!r} is called {calls} times in one pass"
    return ""
