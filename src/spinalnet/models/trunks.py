"""The trunks of the paper's networks, and one of our own: from images to features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinalnet._checks import InputError
from spinalnet.models import backbones, channels


class MultiTapTrunk(nn.Module):
    """Stages in a row whose input and outputs, flattened and side by side, are the features."""

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def taps(self, images: Tensor) -> list[Tensor]:
        """Return the features of every depth, `(B, F_i)` each: the images first."""
        depths = [images]
        for stage in self.stages:
            depths.append(stage(depths[-1]))
        return [depth.flatten(1) for depth in depths]

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of all depths, shape `(B, sum F_i)`."""
        return torch.cat(self.taps(images), dim=1)


class PooledPositions(nn.Module):
    """Max-pool a map to `side` x `side` positions and lay them out one after the other.

    The features of a position stay together, so that contiguous slices of the output are
    positions: top left, top right, bottom left, bottom right for `side=2`. Windows cover every
    pixel, whatever the size of the map.

    Shape:
        input `(B, C, H, W)`, output `(B, side * side * C)`.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, maps: Tensor) -> Tensor:
        """Pool, and put the channels last."""
        stride = [length // self.side for length in maps.shape[2:]]
        window = [
            length - (self.side - 1) * step
            for length, step in zip(maps.shape[2:], stride, strict=True)
        ]
        return F.max_pool2d(maps, window, stride).flatten(2).transpose(1, 2).flatten(1)


def no_trunk(_: int) -> nn.Module:
    """Leave rows and pixels as they are, flattened."""
    return nn.Flatten()


def _mnist_cnn_stages(in_channels: int) -> tuple[nn.Sequential, nn.Sequential]:
    # Paper: pooling comes before the activation (the two commute for ReLU and max pooling).
    return (
        nn.Sequential(nn.Conv2d(in_channels, 10, kernel_size=5), nn.MaxPool2d(2), nn.ReLU()),
        nn.Sequential(
            nn.Conv2d(10, 20, kernel_size=5), nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.ReLU()
        ),
    )


def mnist_cnn_trunk(in_channels: int) -> nn.Module:
    """Two 5x5 convolutions."""
    first, second = _mnist_cnn_stages(in_channels)
    return nn.Sequential(*first, *second, nn.Flatten())


def arch2_trunk(in_channels: int) -> nn.Module:
    """The same two, with a tap on the pixels and behind each."""
    return MultiTapTrunk(_mnist_cnn_stages(in_channels))


def _conv_stages(in_channels: int, stages: Sequence[Sequence[int]]) -> list[nn.Module]:
    """3x3 convolution, norm, ReLU for every width; pooling after every stage."""
    layers: list[nn.Module] = []
    for widths in stages:
        for width in widths:
            conv = nn.Conv2d(in_channels, width, kernel_size=3, padding=1)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
            in_channels = width
        layers.append(nn.MaxPool2d(2))
    return layers


def vgg5_trunk(in_channels: int) -> nn.Module:
    """Ten 3x3 convolutions in four blocks."""
    # "VGG-5" is the paper's name; there are ten convolutions in four blocks.
    blocks = ((64, 64), (128, 128), (256, 256, 256), (256, 256, 256))
    trunk = nn.Sequential(*_conv_stages(in_channels, blocks), nn.Flatten())
    for conv in trunk:
        if isinstance(conv, nn.Conv2d):
            nn.init.normal_(conv.weight, std=(2.0 / (9 * conv.out_channels)) ** 0.5)
    return trunk


def cifar_vgg_trunk(*convs: int) -> Callable[[int], nn.Module]:
    """Trunk with so many convolutions in each of its five stages."""
    stages = [
        (width,) * count for width, count in zip((64, 128, 256, 512, 512), convs, strict=True)
    ]
    return lambda in_channels: nn.Sequential(*_conv_stages(in_channels, stages), nn.Flatten())


def cifar_cnn_trunk(in_channels: int) -> nn.Module:
    """Six 3x3 convolutions in three blocks."""
    layers: list[nn.Module] = []
    for first, second in ((32, 64), (128, 128), (256, 256)):
        layers += [
            nn.Conv2d(in_channels, first, kernel_size=3, padding=1),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, second, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        if first == 128:
            layers.append(nn.Dropout2d(0.05))
        in_channels = second
    return nn.Sequential(*layers, nn.Flatten())


class HalfResidualBlock(nn.Module):
    """Residual block of the paper's CIFAR nets: `body(x) + shortcut(x)`.

    Paper: no activation after the addition, and a 3x3 (not 1x1) convolution in the shortcut.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut.append(nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Map `(B, in_channels, H, W)` to `(B, channels, H / stride, W / stride)`."""
        return self.body(maps) + self.shortcut(maps)


def half_resnet_trunk(*blocks: int) -> Callable[[int], nn.Module]:
    """Residual trunk with so many blocks in each stage, 32 channels wide where others have 64."""

    def build(in_channels: int) -> nn.Module:
        trunk = nn.Sequential(
            nn.Conv2d(in_channels, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Dropout2d(0.02),
        )
        previous = 32
        for stage, count in enumerate(blocks):
            channels = 32 * 2**stage
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                trunk.append(HalfResidualBlock(previous, channels, stride))
                previous = channels
        for module in trunk.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return trunk

    return build


class Residual(nn.Module):
    """A body, and the way around it: `maps + body(maps)`."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape."""
        return maps + self.body(maps)


def resnet9_trunk(width: int = 32) -> Callable[[int], nn.Module]:
    """Eight convolutions, four of them in two residuals; `8 * width` features.

    Source: the ResNet-9 with which D. Page won the DAWNBench contest on CIFAR-10 ("How to train
    your ResNet", 2018), where it is 64 wide and its head is the ninth layer.
    """

    def conv(in_channels: int, channels: int, *after: nn.Module) -> nn.Sequential:
        layer = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU(), *after)

    def build(in_channels: int) -> nn.Module:
        second, third, last = 2 * width, 4 * width, 8 * width
        return nn.Sequential(
            conv(in_channels, width),
            conv(width, second, nn.MaxPool2d(2)),
            Residual(conv(second, second), conv(second, second)),
            conv(second, third, nn.MaxPool2d(2)),
            conv(third, last, nn.MaxPool2d(2)),
            Residual(conv(last, last), conv(last, last)),
            PooledPositions(1),
        )

    return build


PAPER_WEIGHTS = "IMAGENET1K_V1"
"""What torchvision now calls the ImageNet weights of 2020, with which the paper began."""


def torchvision_trunk(name: str, classifier: str) -> Callable[..., nn.Module]:
    """Trunk of a torchvision network: everything but its `classifier`."""

    def network(in_channels: int) -> nn.Module:
        import torchvision

        return channels.set_input_channels_(
            torchvision.models.get_model(name, weights=None), in_channels
        )

    def build(in_channels: int, pretrained: bool | str = False) -> nn.Module:
        import torchvision

        if isinstance(pretrained, str):
            body = backbones.from_file(network, pretrained, in_channels)
        elif pretrained:
            body = torchvision.models.get_model(name, weights=PAPER_WEIGHTS)
            body = channels.grey_or_colour(body, in_channels)
        else:
            body = network(in_channels)
        setattr(body, classifier, nn.Identity())
        return body

    return build


def vit_trunk(name: str) -> Callable[..., nn.Module]:
    """Trunk of one of timm's vision transformers."""

    def network(in_channels: int, pretrained: bool = False) -> nn.Module:
        try:
            import timm
        except ImportError as error:
            raise InputError(
                "the vision transformer needs the package timm: install it with 'pip install timm'."
            ) from error
        # Dynamic: images of any size, the position embedding is resampled to it.
        return timm.create_model(
            name,
            pretrained=pretrained,
            num_classes=0,
            in_chans=in_channels,
            dynamic_img_size=True,
            dynamic_img_pad=True,
        )

    def build(in_channels: int, pretrained: bool | str = False) -> nn.Module:
        if isinstance(pretrained, str):
            return backbones.from_file(network, pretrained, in_channels)
        if pretrained:
            return channels.grey_or_colour(network(3, pretrained=True), in_channels)
        return network(in_channels)

    return build
