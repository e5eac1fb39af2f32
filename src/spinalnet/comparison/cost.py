"""What a head costs: heads timed in turns, alone, on real features."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spinalnet import timing
from spinalnet.comparison.building import build_model
from spinalnet.comparison.spec import RunSpec
from spinalnet.data import batches
from spinalnet.training import placement

if TYPE_CHECKING:
    from spinalnet.comparison.question import ComparisonSpec


def time_heads(question: ComparisonSpec, splits: batches.Splits) -> dict[str, Any]:
    """Time every head alone on real features of one batch, in turns within this run.

    Returns:
        Microseconds per batch for inference and for forward plus backward, with the hardware.
    """
    specs = [spec for spec in question.of_unit(question.units()[0]) if isinstance(spec, RunSpec)]
    config = specs[0].train
    device = placement.resolve_device(config.device)
    built = {
        spec.label or spec.model.head: build_model(spec, splits.info).to(device) for spec in specs
    }
    images, _ = next(iter(splits.train.batches(config.batch_size, device=device, shuffle=False)))
    cases: dict[str, Callable[[], object]] = {}
    for head, model in built.items():
        with torch.no_grad():
            features = model.eval().trunk(images)
        cases[f"{head}/inference"] = _inference(model.head, features)
        cases[f"{head}/training"] = _training(model.head, features)
    timings = timing.interleave(cases, seconds=0.5 * len(built), device=device)
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "batch_size": len(images),
        "rounds": min(t.rounds for t in timings.values()),
        "unit": "us per batch",
        "heads": {
            head: {
                mode: 1e6 * timings[f"{head}/{mode}"].median for mode in ("inference", "training")
            }
            for head in built
        },
    }


def _inference(head: nn.Module, features: Tensor) -> Callable[[], object]:
    def case() -> object:
        head.eval()
        with torch.no_grad():
            return head(features)

    return case


def _training(head: nn.Module, features: Tensor) -> Callable[[], object]:
    inputs = features.clone().requires_grad_()

    def case() -> object:
        head.train()
        head.zero_grad(set_to_none=True)
        inputs.grad = None
        return head(inputs).square().mean().backward()

    return case
