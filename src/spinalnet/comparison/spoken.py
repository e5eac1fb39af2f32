"""Which layer of a spinal head spoke for which class, of the test images that a run got wrong.

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


_MOST = 256  # mistakes that are explained, the worst ones
_AT_ONCE = 64


def with_shares(
    outputs: Outputs, model: ImageModel, part: ArrayDataset | FolderDataset | FeatureDataset
) -> Outputs:
    """Return `outputs` with the shares of the layers for the worst mistakes.

    A report shows what several runs together got most wrong: there a run may have been wrong about
    images that are not among its own worst, and whose pixels it does not keep.

    Args:
        outputs: What the model said about `part`.
        model: The network that said it, or its head alone.
        part: The test images, or their features.

    Returns:
        The same without shares where the head is another one, or its output row more than a matrix.
    """
    from spinalnet.theory import explain

    head: Any = model.head
    rows = outputs.worst(_MOST)
    if outputs.shown is None or len(rows) == 0 or not isinstance(head, SpinalNet):
        return outputs
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    found = []
    try:
        with torch.no_grad():
            for inputs, _ in part.subset(rows).batches(_AT_ONCE, device=device):
                found.append(explain(head, model.trunk(inputs)).float().cpu())
    except InputError:
        return outputs
    finally:
        model.train(training)
    shares = torch.cat(found)
    asked = torch.stack([outputs.predicted[rows], outputs.targets[rows]], dim=1)
    return outputs.with_shares(
        rows, shares.gather(2, asked[:, None].expand(-1, shares.shape[1], -1))
    )
