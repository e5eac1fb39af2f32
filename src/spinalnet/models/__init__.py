"""Networks: the paper's, published backbones, and a new head in any network."""

from spinalnet.models.assembly import ImageModel, ModelSpec, create_model
from spinalnet.models.backbones import find_backbone
from spinalnet.models.finding import find_classifier
from spinalnet.models.own_models import use_model
from spinalnet.models.surgery import (
    freeze_except_head_,
    remove_classifier_,
    replace_head_,
    replace_hidden_,
)
from spinalnet.models.zoo import MODELS, list_models
