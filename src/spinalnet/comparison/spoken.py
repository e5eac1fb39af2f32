"""Which layer of a spinal head spoke for which class, of the test images that a run got most wrong.

The output row is linear in the layers, so each has its exact share in every logit
(`theory.explain`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from spinalnet._checks import InputError
from spinalnet.comparison.outputs import Outputs
from spinalnet.nn import SpinalNet

if TYPE_CHECKING:
    from spinalnet.data import ArrayDataset, FolderDataset
    from spinalnet.models.assembly import ImageModel
    from spinalnet.models.features import FeatureDataset


def with_shares(
    outputs: Outputs, model: ImageModel, part: ArrayDataset | FolderDataset | FeatureDataset
) -> Outputs:
    """Return `outputs` with the shares of the layers for the rows that are shown.

    Args:
        outputs: What the model said about `part`.
        model: The network that said it, or its head alone.
        part: The test images, or their features.

    Returns:
        The same without shares where the head is another one, or its output row more than a matrix.
    """
    from spinalnet.theory import explain

    head: Any = model.head
    if outputs.shown is None or len(outputs.shown) == 0 or not isinstance(head, SpinalNet):
        return outputs
    rows = outputs.shown
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            (inputs, _), *_ = part.subset(rows).batches(len(rows), device=device)
            shares = explain(head, model.trunk(inputs)).float().cpu()
    except InputError:
        return outputs
    finally:
        model.train(training)
    asked = torch.stack([outputs.predicted[rows], outputs.targets[rows]], dim=1)
    return outputs.with_shares(shares.gather(2, asked[:, None].expand(-1, shares.shape[1], -1)))
