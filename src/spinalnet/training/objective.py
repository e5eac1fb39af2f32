"""What a step lowers: the loss of a task, with its weights of classes, and mixtures of images."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from spinalnet._checks import InputError
from spinalnet.randomness import own_generators
from spinalnet.training.config import TrainConfig, parse_mix
from spinalnet.training.placement import Placement, batches_of

if TYPE_CHECKING:
    from spinalnet.training.placement import Data, Task


def criterion_for(
    config: TrainConfig, task: Task, train: Data, classes: int, placement: Placement
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return `loss(outputs, targets, all_targets)`.

    `outputs` and `targets` are one process's rows of the batch that has `all_targets`; the sum of
    the loss over the processes is the batch's mean loss.
    """
    if task == "regression":
        for name, unset in (("label_smoothing", 0.0), ("class_weights", "none")):
            if getattr(config, name) != unset:
                raise InputError(f"{name} needs classes, but the targets are numbers: unset it.")
        return lambda outputs, targets, all_targets: (
            F.mse_loss(outputs, targets, reduction="sum") / all_targets.numel()
        )
    weight = None
    if config.class_weights == "balanced":
        weight = _balanced_weights(train, classes, placement)

    def cross_entropy(outputs: Tensor, targets: Tensor, all_targets: Tensor) -> Tensor:
        summed = F.cross_entropy(
            outputs, targets, weight, reduction="sum", label_smoothing=config.label_smoothing
        )
        if weight is None:
            return summed / len(all_targets)
        mixed = all_targets.is_floating_point()
        return summed / (all_targets @ weight if mixed else weight[all_targets]).sum()

    return cross_entropy


def mixer_for(
    config: TrainConfig, classes: int, placement: Placement
) -> Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Return `mix(key, images, targets)`: mixed images and their shares of each class `(B, K)`.

    Images are mixed with their neighbours in the batch, by torchvision; the draws depend on the key
    alone.
    """
    asked = parse_mix(config.mix)
    if not asked:
        return None
    from torchvision.transforms import v2

    kinds = {"mixup": v2.MixUp, "cutmix": v2.CutMix}
    choice = v2.RandomChoice([kinds[name](alpha=a, num_classes=classes) for name, a in asked])

    def mix(key: str, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with own_generators():  # torchvision draws from the global stream
            torch.default_generator.manual_seed(random.Random(key).getrandbits(63))
            images, shares = choice(images, targets)
        if placement.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, shares

    return mix


def _balanced_weights(train: Data, classes: int, placement: Placement) -> Tensor:
    """Return weights `(K,)` under which every class of the training data counts the same."""
    targets = getattr(train, "targets", None)
    if not isinstance(targets, Tensor):  # a source that does not know its targets without reading
        batches = batches_of(train, placement.batch_size, placement)
        targets = torch.cat([targets.cpu() for _, targets in batches])
    counts = torch.bincount(targets.cpu(), minlength=classes)
    present = counts > 0
    weight = torch.ones(classes)
    weight[present] = counts.sum() / (present.sum() * counts[present])
    return weight.to(placement.device)
