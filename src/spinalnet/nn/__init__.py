"""The spinal layer and what it is compared with: modules, heads by name, costs, derivatives."""

from spinalnet.kernels.reference import (
    spinal_reference,
    split_sizes,
)
from spinalnet.nn.activations import (
    ACTIVATIONS,
    NORMS,
)
from spinalnet.nn.backends import (
    BACKENDS,
    BackendChoice,
    use_backend,
)
from spinalnet.nn.counting import (
    Count,
    count_macs,
    count_params,
)
from spinalnet.nn.dense import (
    LinearHead,
    MLPHead,
    ProgressiveNet,
    matched_mlp,
)
from spinalnet.nn.functional import (
    spinal,
)
from spinalnet.nn.gradients import (
    jacobian,
)
from spinalnet.nn.heads import (
    HEADS,
    head_arguments,
    make_head,
)
from spinalnet.nn.layers import (
    SpinalLayer,
    SpinalNet,
)
from spinalnet.nn.variants import (
    MultiTapSpinalNet,
    ReusedSpinalNet,
    TiledSpinalNet,
)

__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "HEADS",
    "NORMS",
    "BackendChoice",
    "Count",
    "LinearHead",
    "MLPHead",
    "MultiTapSpinalNet",
    "ProgressiveNet",
    "ReusedSpinalNet",
    "SpinalLayer",
    "SpinalNet",
    "TiledSpinalNet",
    "count_macs",
    "count_params",
    "head_arguments",
    "jacobian",
    "make_head",
    "matched_mlp",
    "spinal",
    "spinal_reference",
    "split_sizes",
    "use_backend",
]
