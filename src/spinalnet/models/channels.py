"""How many channels a network reads: colour, or grey with weights that were made for colour."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError
from spinalnet.models import twins


def check_colours(name: str, in_channels: int) -> None:
    """Raise `InputError` unless weights made for colour can read images of so many channels."""
    if in_channels not in (1, 3):
        raise InputError(
            f"the weights of {name} are for images in colour (in_channels=3) or in grey (1), got "
            f"{in_channels}: take one of these, or train the network from scratch."
        )


def grey_or_colour(model: nn.Module, in_channels: int) -> nn.Module:
    """Make a network with weights for colour read images of so many channels, if it can.

    For grey images the first convolution gets the sum of its filters over the colours: it makes of
    an image in one channel what it makes of the same image in three equal ones. Whether the network
    as a whole does is tried on random images.

    Args:
        model: A network for images in colour.
        in_channels: 3, or 1.

    Returns:
        The model itself.

    Raises:
        InputError: If `in_channels` is another number, or the network does more with its colours
            than a convolution does.
    """
    if in_channels == 3:
        return model
    name = type(model).__name__
    check_colours(name, in_channels)
    images, in_colour = _try_in_colour(model)
    stem = _stem(model)
    for conv in stem:
        colours = conv.weight.detach().unflatten(1, (-1, 3))
        conv.weight = nn.Parameter(colours.sum(2), conv.weight.requires_grad)
        conv.in_channels = conv.weight.shape[1]
    in_grey = _outputs(model, images) if stem else None
    if in_colour is not None and in_grey is not None:
        furthest = float((in_grey - in_colour).abs().max())
        if furthest <= 1e-3 * float(in_colour.abs().max()):
            return model
    raise InputError(
        f"the weights of {name} cannot be made to read grey images: it does more with the three "
        "colours than a plain convolution. Leave in_channels at 3, and grey images are read as "
        "three equal channels."
    )


def set_input_channels_(model: nn.Module, in_channels: int) -> nn.Module:
    """Give the first convolution as many input channels as asked for, newly initialised."""
    name, conv = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels != in_channels:
        parent, _, attribute = name.rpartition(".")
        fresh = nn.Conv2d(
            in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            bias=conv.bias is not None,
        )
        setattr(model.get_submodule(parent), attribute, fresh)
    return model


def _stem(model: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions that read the colours."""
    plain = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    # Some networks first fold patches of pixels into channels, the colours innermost.
    folded = [conv for conv in plain[:1] if conv.in_channels % 3 == 0]
    return [conv for conv in plain if conv.in_channels == 3] or folded


def _try_in_colour(model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return random images `(2, 1, H, W)` and what a network for colour makes of them."""
    generator = torch.Generator().manual_seed(0)
    sides = [(64, 64), *(shape[1:] for shape in twins.likely_shapes(model) if len(shape) == 3)]
    images = torch.empty(0)
    for side in sides:  # the smallest is tried first, for time
        images = torch.rand(2, 1, *side, generator=generator)
        if (outputs := _outputs(model, images.expand(-1, 3, -1, -1))) is not None:
            return images, outputs
    return images, None


def _outputs(model: nn.Module, images: Tensor) -> Tensor | None:
    """Return what a network makes of images in evaluation; None if it does not take them."""
    was_training = model.training
    try:
        with torch.no_grad():
            made = model.eval()(images)
    except Exception:  # whatever a network says to a size or a number of channels
        return None
    finally:
        model.train(was_training)
    return made if isinstance(made, Tensor) else None
