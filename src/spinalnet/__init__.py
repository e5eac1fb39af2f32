"""SpinalNet for PyTorch: the spinal layer, the paper's networks, and an honest comparison.

Source: Kabir et al., "SpinalNet: Deep Neural Network with Gradual Input", arXiv:2007.03347.
"""

from spinalnet._checks import BackendUnavailable as BackendUnavailable
from spinalnet._checks import InputError as InputError
from spinalnet._checks import SpinalnetError as SpinalnetError
from spinalnet._checks import SurgeryError as SurgeryError
from spinalnet._checks import TrainingError as TrainingError
from spinalnet.models import create_model as create_model
from spinalnet.models import list_models as list_models
from spinalnet.nn import Count as Count
from spinalnet.nn import LinearHead as LinearHead
from spinalnet.nn import MLPHead as MLPHead
from spinalnet.nn import ProgressiveNet as ProgressiveNet
from spinalnet.nn import SpinalLayer as SpinalLayer
from spinalnet.nn import SpinalNet as SpinalNet
from spinalnet.nn import count_macs as count_macs
from spinalnet.nn import count_params as count_params
from spinalnet.nn import make_head as make_head
from spinalnet.nn import matched_mlp as matched_mlp
from spinalnet.ops import use_backend as use_backend

__version__ = "0.1.0"
