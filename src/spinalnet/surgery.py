"""Model surgery: find the classifier of any network and put another head in its place.

A network's *classifier* is the linear map that makes its class scores: an `nn.Linear`, a 1x1
convolution, or the `nn.Identity` left by a library that was asked for features. It is found by what
timm declares about the network, or else by following the output back through the operations that
made it to the first layer with weights. Everything is tried on a twin of the network, made of
shapes without numbers where it allows that: the trial costs little, and no state of it moves.

Functions with a trailing underscore change the model they are given, and return it.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet._checks import SurgeryError, check_positive
from spinalnet.nn import (
    LinearHead,
    MLPHead,
    MultiTapSpinalNet,
    ProgressiveNet,
    SpinalLayer,
    SpinalNet,
    head_arguments,
    make_head,
)

# Where a classifier is: its dotted path, the module, or a function that picks it (or several).
Where = str | Sequence[str] | Callable[[Any], nn.Module | Sequence[nn.Module]]

_OURS = (SpinalNet, MLPHead, LinearHead, ProgressiveNet, MultiTapSpinalNet)


# --- heads on maps --------------------------------------------------------------------------------


class PositionHead(nn.Module):
    """A head in place of a 1x1 convolution: it reads the channels of every position of a map.

    Shape:
        input `(B, in_features, H, W)`, output `(B, out_features, H, W)`.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps: Tensor) -> Tensor:
        """Return the logits of every position."""
        return self.head(maps.movedim(1, -1)).movedim(-1, 1)


class PooledHead(nn.Module):
    """A head in place of a classifier that pools a map itself: it reads the mean over positions.

    Shape:
        input `(B, in_features, H, W)`, output `(B, out_features)`.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps: Tensor) -> Tensor:
        """Return the logits of the pooled map."""
        return self.head(maps.mean((2, 3)))


# --- the door -------------------------------------------------------------------------------------


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
    kinds = [_kind(model.get_submodule(path)) for path in declared]
    if declared and all(kinds):
        return declared

    trial = _try(model, input_shape, trace=True)
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
        if _kind(module := model.get_submodule(name)) and _width(module)[1] == columns
    ]
    if not fitting or len(fitting) < len(found) or output.ndim != 2:
        last = f"; the last layer with weights is {found[0]!r}" if found else ""
        raise SurgeryError(
            f"{type(model).__name__} does not end in a linear map to its {columns} outputs{last}. "
            "Pass where= to say which module to replace."
        )
    return tuple(fitting)


def replace_head_(
    model: nn.Module,
    head: str = "spinal",
    num_classes: int = 2,
    *,
    where: Where | None = None,
    input_shape: Sequence[int] | None = None,
    **options: Any,
) -> nn.Module:
    """Put a new head in place of the model's classifier; everything else stays bit by bit.

    The head gets the device, the number type and the training flag of what it replaces. Auxiliary
    classifiers of the Inception family, which judge the old classes while training, are removed.
    A classifier that is a 1x1 convolution is replaced position by position.

    Args:
        model: Any torchvision, timm or Hugging Face classifier of images, or a module of your own
            (that returns its logits, or a record with `logits`).
        head: Row of `spinalnet.nn.HEADS`.
        num_classes: Number of outputs.
        where: What to replace, if not the classifier that `find_classifier` finds: a dotted path,
            or a function such as `lambda m: m.classifier`. A module of any kind may be named; the
            head reads what it reads. For VGG the whole of "classifier" makes the head read the
            25,088 features of the convolutions, as the paper's does.
        input_shape: As in `find_classifier`.
        options: Options of the head. Without `hidden_features` a chain is as wide as there are
            classes, and at least 20: the width of the paper's transfer scripts. The output row then
            sees at least four numbers per class, and the head stays small beside any trunk.
            Without `num_params` the head "matched" gets the size of that spinal head.

    Returns:
        The model itself.

    Raises:
        SurgeryError: If the classifier cannot be told, or the model's output would not have
            `num_classes` columns; the model is then as it was.
        InputError: If there is no such head, or it has no such option.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 10))
        >>> replace_head_(model, "spinal", num_classes=3)(torch.randn(2, 8)).shape
        torch.Size([2, 3])
    """
    check_positive("num_classes", num_classes)
    head_arguments(head)  # an unknown head is told before anything else
    if where is None:
        paths = find_classifier(model, input_shape=input_shape)
    else:
        paths = _resolve(model, where)
    built = [_build(model, path, head, num_classes, input_shape, options) for path in paths]
    auxiliary = _auxiliary(model)
    before = {path: model.get_submodule(path) for path in (*paths, *auxiliary)}
    for path, new in zip(paths, built, strict=True):
        _set(model, path, new)
    for path in auxiliary:
        _set(model, path, None)
    problem = ""
    try:
        output = _try(model, input_shape).output
        if output.ndim != 2 or output.shape[1] != num_classes:
            problem = f"the output has shape {tuple(output.shape)} for a batch of {len(output)}"
    except SurgeryError as error:
        problem = str(error)
    if problem:
        for path, old in before.items():
            _set(model, path, old)
        raise SurgeryError(
            f"a head with {num_classes} outputs in place of {', '.join(map(repr, paths))} does not "
            f"fit {type(model).__name__} ({problem.rstrip('.')}). Pass where= to choose another "
            "module."
        )
    _set_counts(model, num_classes, bool(auxiliary))
    return model


def remove_classifier_(model: nn.Module, *, where: Where | None = None) -> nn.Module:
    """Leave `nn.Identity` in place of the classifier, so that the model makes features `(B, F)`.

    Auxiliary classifiers go too, as in `replace_head_`.

    Args:
        model: Any torchvision or timm classifier, or a module of your own.
        where: As in `replace_head_`.

    Returns:
        The model itself.

    Raises:
        SurgeryError: If the classifier cannot be told.
    """
    paths = find_classifier(model) if where is None else _resolve(model, where)
    for path in paths:
        _set(model, path, nn.Identity().train(model.get_submodule(path).training))
    auxiliary = _auxiliary(model)
    for path in auxiliary:
        _set(model, path, None)
    _set_counts(model, 0, bool(auxiliary))
    return model


def freeze_except_head_(model: nn.Module, *, where: Where | None = None) -> nn.Module:
    """Let only the head learn: no other parameter gets a gradient.

    `train.fit` runs a part whose parameters are all frozen as in evaluation, so that the statistics
    of its batch normalisation stay and nothing in it is dropped.

    Args:
        model: Any model, with a head of ours or not.
        where: The head, if it is not found by itself.

    Returns:
        The model itself.

    Raises:
        SurgeryError: If the head cannot be told.
    """
    paths = find_classifier(model) if where is None else _resolve(model, where)
    model.requires_grad_(False)
    for path in paths:
        model.get_submodule(path).requires_grad_(True)
    return model


def replace_hidden_(
    model: nn.Module,
    *,
    num_layers: int = 4,
    num_splits: int = 2,
    where: Where | None = None,
    input_shape: Sequence[int] | None = None,
) -> nn.Module:
    """Turn the hidden layers of a fully connected classifier into spinal hidden layers.

    Every linear layer before the classifier in the same `nn.Sequential` (the two of VGG and
    AlexNet, the one of MobileNetV3) becomes a chain with as many outputs and the activation that
    followed it, newly initialised. The classifier itself and the trunk stay.

    Args:
        model: A network whose classifier has hidden layers.
        num_layers: Length of each chain; must divide the width of every hidden layer.
        num_splits: Slices of the input each chain cycles through.
        where: The `nn.Sequential` that holds the layers, if not that of the classifier.
        input_shape: As in `find_classifier`.

    Returns:
        The model itself.

    Raises:
        SurgeryError: If there are no hidden layers, or their widths do not divide by `num_layers`.
    """
    check_positive("num_layers", num_layers)
    if where is None:
        paths = tuple(
            path.rpartition(".")[0] for path in find_classifier(model, input_shape=input_shape)
        )
    else:
        paths = _resolve(model, where)
    stack = model.get_submodule(paths[0])
    name = type(model).__name__
    layers = list(stack.children()) if isinstance(stack, nn.Sequential) else []
    linears = [index for index, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    if len(linears) < 2:
        raise SurgeryError(
            f"{name} has no hidden layers before its classifier (an nn.Sequential of at least two "
            "nn.Linear is needed). Use replace_head_, or pass where= to name the nn.Sequential."
        )
    keys = list(stack._modules)
    new: dict[str, nn.Module] = {}
    for index, following in itertools.pairwise(linears):
        old = layers[index]
        assert isinstance(old, nn.Linear)
        if old.out_features % num_layers:
            raise SurgeryError(
                f"the hidden layer {keys[index]!r} of {name} is {old.out_features} wide, which "
                f"does not divide by num_layers={num_layers}: choose a divisor."
            )
        between = range(index + 1, following)
        acts = [i for i in between if _is_activation(layers[i])]
        if len(acts) != 1:
            raise SurgeryError(
                f"the hidden layer {keys[index]!r} of {name} must be followed by one activation, "
                f"found {len(acts)}."
            )
        chain = SpinalLayer(
            old.in_features,
            old.out_features // num_layers,
            num_layers,
            num_splits=num_splits,
            activation=_out_of_place(layers[acts[0]]),
            bias=old.bias is not None,
            device=old.weight.device,
            dtype=old.weight.dtype,
        )
        new[keys[index]] = chain.train(old.training)
        new[keys[acts[0]]] = nn.Identity().train(old.training)  # it is in the chain now
    for key, module in new.items():
        setattr(stack, key, module)
    return model


# --- finding --------------------------------------------------------------------------------------


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


def _kind(module: nn.Module) -> str:
    """Return what kind of classifier this can be: linear, conv, identity or none ("")."""
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv2d):
        return "conv" if module.kernel_size == (1, 1) and module.groups == 1 else ""
    return "identity" if isinstance(module, nn.Identity) else ""


def _width(module: nn.Module) -> tuple[int, int]:
    """Return the numbers of inputs and outputs of a linear layer or a 1x1 convolution."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.Conv2d):
        return module.in_channels, module.out_channels
    return 0, 0


def _resolve(model: nn.Module, where: Where) -> tuple[str, ...]:
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


def _auxiliary(model: nn.Module) -> tuple[str, ...]:
    """Return the auxiliary classifiers of torchvision's and timm's Inception networks."""
    if not getattr(model, "aux_logits", False):
        return ()
    return tuple(
        name
        for name in ("aux1", "aux2", "AuxLogits")
        if isinstance(getattr(model, name, None), nn.Module)
    )


# --- trying ---------------------------------------------------------------------------------------


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


def _try(
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


# --- replacing ------------------------------------------------------------------------------------


def spinal_options(num_classes: int) -> dict[str, Any]:
    """Return the size of a spinal head of which nothing is asked; see `replace_head_`."""
    return {"hidden_features": max(20, num_classes), "num_layers": 4}


def _default_options(head: str, num_classes: int, in_features: int) -> dict[str, Any]:
    spinal = spinal_options(num_classes)
    if head == "matched":
        with torch.device("meta"):
            twin = make_head("spinal", in_features, num_classes, **spinal)
        return {"num_params": sum(p.numel() for p in twin.parameters())}
    if head == "mlp":
        return {}
    return {name: value for name, value in spinal.items() if name in head_arguments(head)}


def _build(
    model: nn.Module,
    path: str,
    head: str,
    num_classes: int,
    input_shape: Sequence[int] | None,
    options: dict[str, Any],
) -> nn.Module:
    """Build the head that replaces the module at `path`."""
    old = model.get_submodule(path)
    kind = _kind(old)
    adapt: Callable[[nn.Module], nn.Module] = lambda head: head  # noqa: E731
    if kind == "linear":
        in_features = _width(old)[0]
    elif kind == "conv":
        in_features, adapt = _width(old)[0], PositionHead
    else:
        watched = _try(model, input_shape, watch=path).watched
        if watched is None:
            raise SurgeryError(
                f"'{path}' of {type(model).__name__} takes no part in its output. Pass where= to "
                "choose another module."
            )
        read, made = watched
        in_features = read[-1]
        if len(read) == 4:
            # Channels first, unless only the last dimension is the one a linear map reads.
            in_features = read[1]
            per_position = kind != "identity" and len(made) == 4 and made[2:] == read[2:]
            adapt = PositionHead if per_position and max(made[2:]) > 1 else PooledHead
    anchor = next(
        (t for m in (old, model) for t in m.parameters() if t.is_floating_point()), torch.empty(0)
    )
    chosen = {**_default_options(head, num_classes, in_features), **options}
    built = make_head(
        head, in_features, num_classes, device=anchor.device, dtype=anchor.dtype, **chosen
    )
    return adapt(built).train(old.training)


def _set(model: nn.Module, path: str, module: nn.Module | None) -> None:
    """Put a module at `path`, and wherever else the one that was there is used."""
    old = model.get_submodule(path)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
    for holder in model.modules():
        for key, child in holder._modules.items():
            if child is old:
                setattr(holder, key, module)


def _set_counts(model: nn.Module, num_classes: int, without_auxiliary: bool) -> None:
    """Keep what the model says about itself true."""
    if num_classes and isinstance(getattr(model, "num_classes", None), int):
        model.num_classes = num_classes  # type: ignore[assignment]
    if num_classes and isinstance(getattr(model, "num_labels", None), int):
        model.num_labels = num_classes  # type: ignore[assignment]
        config = getattr(model, "config", None)
        if config is not None and hasattr(config, "num_labels"):
            config.num_labels = num_classes  # Hugging Face: the names of the labels follow
    if without_auxiliary:
        model.aux_logits = False  # type: ignore[assignment]


def _is_activation(module: nn.Module) -> bool:
    """Return whether a module without parameters of its own acts on every number alone."""
    return type(module).__module__ == "torch.nn.modules.activation"


def _out_of_place(activation: nn.Module) -> nn.Module:
    """Return a copy that leaves its input alone: a chain needs the sums of its layers again."""
    twin = copy.deepcopy(activation)
    if hasattr(twin, "inplace"):
        twin.inplace = False  # type: ignore[assignment]
    return twin
