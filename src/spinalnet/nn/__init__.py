"""The spinal layer and what it is compared with: modules, heads by name, costs, derivatives.

`layers` is the subject, `functional` the same as a function, `backends` says which path computes
it; `dense` and `variants` are the counterparts, `heads` the table of all.
"""

from spinalnet.kernels.masks import Masks
from spinalnet.kernels.reference import spinal_reference, split_sizes
from spinalnet.nn.activations import ACTIVATIONS, NORMS, make_activation
from spinalnet.nn.backends import (
    BACKENDS,
    BackendChoice,
    choose_backend,
    describe_call,
    use_backend,
)
from spinalnet.nn.counting import Count, count_macs, count_params, made_for
from spinalnet.nn.dense import LinearHead, MLPHead, Normed, ProgressiveNet, matched_mlp
from spinalnet.nn.described import describe_head, largest_size, load_weights, make_described
from spinalnet.nn.diagram import Drawn, as_html, spine_diagram, wiring_in
from spinalnet.nn.forms import form_of, why_no_form
from spinalnet.nn.functional import draw_masks, spinal
from spinalnet.nn.gradients import chain_input, hidden_influence, jacobian, linears_of
from spinalnet.nn.heads import HEADS, HeadRow, head_arguments, head_row, make_head
from spinalnet.nn.layers import SpinalLayer, SpinalNet, check_read
from spinalnet.nn.loss_gradient import LossGradient
from spinalnet.nn.overview import ModelSummary, summary
from spinalnet.nn.own_heads import use_head
from spinalnet.nn.reading import why_called
from spinalnet.nn.stacked import StackedModel, stack_models
from spinalnet.nn.unchained import UnchainedNet, matched_unchained
from spinalnet.nn.variants import MultiTapSpinalNet, ReusedSpinalNet, TiledSpinalNet
from spinalnet.own_code import is_own
