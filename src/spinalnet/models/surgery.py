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
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spinalnet._checks import InputError, SurgeryError, check_positive
from spinalnet.models.finding import (
    auxiliary_classifiers,
    called_again,
    classifier_kind,
    find_classifier,
    resolve,
    squashed,
    width,
)
from spinalnet.models.frozen import rest_
from spinalnet.models.twins import check_changeable, check_learns, try_out, uncompiled
from spinalnet.models.wrappers import PooledHead, PositionHead
from spinalnet.nn import SpinalLayer, head_arguments, make_head

if TYPE_CHECKING:
    from spinalnet.models.finding import Where


def replace_head_(
    model: nn.Module,
    head: str = "spinal",
    num_classes: int | None = None,
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
        num_classes: Number of outputs; it must be given.
        where: What to replace, if not the classifier that `find_classifier` finds: a dotted path,
            or a function such as `lambda m: m.classifier`. A module of any kind may be named; the
            head reads what it reads. For VGG the whole of "classifier" makes the head read the
            25,088 features of the convolutions, as the paper's does.
        input_shape: As in `find_classifier`.
        options: Options of the head. Without `hidden_features` a chain is as wide as there are
            classes, and at least 20: the width of the paper's transfer scripts. The output row then
            sees at least four numbers per class, and the head stays small beside any trunk.
            Without `num_params` the heads "matched" and "unchained-matched" get the size of that
            spinal head.

    Returns:
        The model itself.

    Raises:
        SurgeryError: If the classifier cannot be told or is the whole model, the model cannot be
            changed (scripted, quantised, made in inference mode), squashes what its classifier
            makes, or its output would not have `num_classes` columns; the model is then as it was.
        InputError: If there is no such head, or it has no such option, or `num_classes` is missing.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 10))
        >>> replace_head_(model, "spinal", num_classes=3)(torch.randn(2, 8)).shape
        torch.Size([2, 3])
    """
    if num_classes is None:
        raise InputError("num_classes must be given: the number of outputs of the new head.")
    check_positive("num_classes", num_classes)
    head_arguments(head)  # an unknown head is told before anything else
    if (inner := uncompiled(model)) is not model:
        replace_head_(inner, head, num_classes, where=where, input_shape=input_shape, **options)
        return model
    paths = _places(model, where, input_shape)
    built = [_build(model, path, head, num_classes, input_shape, options) for path in paths]
    auxiliary = auxiliary_classifiers(model)
    before = {path: model.get_submodule(path) for path in (*paths, *auxiliary)}
    for path, new in zip(paths, built, strict=True):
        _set(model, path, new)
    for path in auxiliary:
        _set(model, path, None)
    if problem := _why_not_usable(model, paths, num_classes, input_shape):
        for path, old in before.items():
            _set(model, path, old)
        if calls := called_again(model, paths, input_shape):
            problem = f"{calls}, and the head does not fit each time; pass where= to choose another"
        raise SurgeryError(
            f"a head with {num_classes} outputs in place of {', '.join(map(repr, paths))} does not "
            f"fit {type(model).__name__}: {problem.rstrip('.')}."
        )
    _set_counts(model, num_classes, bool(auxiliary))
    return model


def _places(
    model: nn.Module,
    where: Where | None,
    input_shape: Sequence[int] | None = None,
    *,
    learning: bool = True,
) -> tuple[str, ...]:
    """Return the paths of what is to be replaced, or to learn alone, in a model that allows it."""
    check_changeable(model)
    if learning:
        check_learns(model)
    if where is None:
        paths = find_classifier(model, input_shape=input_shape)
    else:
        paths = resolve(model, where)
    check_changeable(model, paths)
    return paths


def _why_not_usable(
    model: nn.Module, paths: Sequence[str], num_classes: int, input_shape: Sequence[int] | None
) -> str | None:
    """Return why a model with its new head does not make logits of so many classes."""
    choose = "pass where= to choose another module"
    try:
        trial = try_out(model, input_shape, trace=True, watch=paths)
    except SurgeryError as error:
        return f"{str(error).rstrip('.')}; {choose}"
    output = trial.output
    if output.ndim != 2 or output.shape[1] != num_classes:
        return f"the output has shape {tuple(output.shape)} for a batch of {len(output)}; {choose}"
    return squashed(model, trial)


def remove_classifier_(model: nn.Module, *, where: Where | None = None) -> nn.Module:
    """Leave `nn.Identity` in place of the classifier, so that the model makes features `(B, F)`.

    Auxiliary classifiers go too, as in `replace_head_`.

    Args:
        model: Any torchvision or timm classifier, or a module of your own.
        where: As in `replace_head_`.

    Returns:
        The model itself.

    Raises:
        SurgeryError: If the classifier cannot be told, or a softmax behind it would stay.
    """
    if (inner := uncompiled(model)) is not model:
        remove_classifier_(inner, where=where)
        return model
    paths = _places(model, where, learning=False)
    if problem := _would_squash(model, paths):
        raise SurgeryError(f"{type(model).__name__} would not make features: {problem}.")
    for path in paths:
        _set(model, path, nn.Identity().train(model.get_submodule(path).training))
    auxiliary = auxiliary_classifiers(model)
    for path in auxiliary:
        _set(model, path, None)
    _set_counts(model, 0, bool(auxiliary))
    return model


def _would_squash(model: nn.Module, paths: Sequence[str]) -> str | None:
    """Return what a model does to the scores of its classifier that it would do to features."""
    if type(model).__module__.startswith(("torchvision.", "timm.")):
        return None  # they end in their logits, and a trial takes time
    try:
        return squashed(model, try_out(model, None, trace=True, watch=paths))
    except SurgeryError:  # it does not say what it reads
        return None


def freeze_except_head_(model: nn.Module, *, where: Where | None = None) -> nn.Module:
    """Let only the head learn: no other parameter gets a gradient, and no statistic moves.

    Batch norms outside the head stay in evaluation mode when `model.train()` is called, in a loop
    of your own too, until their parameters learn again. `fit` also drops nothing in a part whose
    parameters are all frozen.

    Args:
        model: Any model, with a head of ours or not.
        where: The head, if it is not found by itself.

    Returns:
        The model itself.

    Raises:
        SurgeryError: If the head cannot be told.
    """
    paths = _places(uncompiled(model), where)
    heads = [uncompiled(model).get_submodule(path) for path in paths]
    model.requires_grad_(False)
    for head in heads:
        head.requires_grad_(True)
    rest_(model, besides=heads)
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
    if (inner := uncompiled(model)) is not model:
        replace_hidden_(
            inner,
            num_layers=num_layers,
            num_splits=num_splits,
            where=where,
            input_shape=input_shape,
        )
        return model
    paths = _places(model, where, input_shape)
    if where is None:
        paths = tuple(path.rpartition(".")[0] for path in paths)
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


def spinal_options(num_classes: int) -> dict[str, Any]:
    """Return the size of a spinal head of which nothing is asked; see `replace_head_`."""
    return {"hidden_features": max(20, num_classes), "num_layers": 4}


def matched_options(
    head: str, in_features: int, num_classes: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the option that gives a head as many parameters as another head has.

    For "matched" and "unchained-matched".
    """
    with torch.device("meta"):
        twin = make_head(head, in_features, num_classes, **options)
    return {"num_params": sum(p.numel() for p in twin.parameters())}


def _default_options(head: str, num_classes: int, in_features: int) -> dict[str, Any]:
    spinal = spinal_options(num_classes)
    accepted = head_arguments(head)
    if head in ("mlp", "mlp-paper"):  # no chain: the width of a chain is not theirs
        return {}
    options = {name: value for name, value in spinal.items() if name in accepted}
    if "num_params" in accepted:
        options |= matched_options("spinal", in_features, num_classes, spinal)
    return options


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
    kind = classifier_kind(old)
    adapt: Callable[[nn.Module], nn.Module] = lambda head: head  # noqa: E731
    if kind == "linear":
        in_features = width(old)[0]
    elif kind == "conv":
        in_features, adapt = width(old)[0], PositionHead
    else:
        watched = try_out(model, input_shape, watch=[path]).watched
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
