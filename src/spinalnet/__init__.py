"""SpinalNet for PyTorch: the spinal layer, the paper's networks, and an honest comparison.

Source: Kabir et al., "SpinalNet: Deep Neural Network with Gradual Input", arXiv:2007.03347.

The public names are loaded when first used, so that `import spinalnet` (and the command's
`--help`) does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from spinalnet._checks import BackendUnavailable as BackendUnavailable
    from spinalnet._checks import InputError as InputError
    from spinalnet._checks import SpinalnetError as SpinalnetError
    from spinalnet._checks import SurgeryError as SurgeryError
    from spinalnet._checks import TrainingError as TrainingError
    from spinalnet.comparison.report.page import write_report as write_report
    from spinalnet.comparison.running import compare as compare
    from spinalnet.comparison.running import load_trained as load_trained
    from spinalnet.comparison.running import run_one as run_one
    from spinalnet.comparison.spec import Comparison as Comparison
    from spinalnet.comparison.spec import RunSpec as RunSpec
    from spinalnet.comparison.summary import load_summary as load_summary
    from spinalnet.comparison.summary import summarize as summarize
    from spinalnet.data.batches import ArrayDataset as ArrayDataset
    from spinalnet.data.batches import DatasetInfo as DatasetInfo
    from spinalnet.data.batches import Splits as Splits
    from spinalnet.data.loading import list_datasets as list_datasets
    from spinalnet.data.loading import load_dataset as load_dataset
    from spinalnet.deploy.export import Exported as Exported
    from spinalnet.deploy.export import export_onnx as export_onnx
    from spinalnet.deploy.export import export_program as export_program
    from spinalnet.deploy.predict import evaluate_run as evaluate_run
    from spinalnet.deploy.predict import predict_images as predict_images
    from spinalnet.deploy.predict import write_predictions as write_predictions
    from spinalnet.models.finding import find_classifier as find_classifier
    from spinalnet.models.surgery import freeze_except_head_ as freeze_except_head_
    from spinalnet.models.surgery import remove_classifier_ as remove_classifier_
    from spinalnet.models.surgery import replace_head_ as replace_head_
    from spinalnet.models.surgery import replace_hidden_ as replace_hidden_
    from spinalnet.models.zoo import create_model as create_model
    from spinalnet.models.zoo import list_models as list_models
    from spinalnet.nn.backends import use_backend as use_backend
    from spinalnet.nn.counting import Count as Count
    from spinalnet.nn.counting import count_macs as count_macs
    from spinalnet.nn.counting import count_params as count_params
    from spinalnet.nn.dense import LinearHead as LinearHead
    from spinalnet.nn.dense import MLPHead as MLPHead
    from spinalnet.nn.dense import ProgressiveNet as ProgressiveNet
    from spinalnet.nn.dense import matched_mlp as matched_mlp
    from spinalnet.nn.functional import spinal as spinal
    from spinalnet.nn.gradients import jacobian as jacobian
    from spinalnet.nn.heads import make_head as make_head
    from spinalnet.nn.layers import SpinalLayer as SpinalLayer
    from spinalnet.nn.layers import SpinalNet as SpinalNet
    from spinalnet.nn.reference import spinal_reference as spinal_reference
    from spinalnet.nn.reference import split_sizes as split_sizes
    from spinalnet.paper.weights import convert_checkpoint as convert_checkpoint
    from spinalnet.paper.weights import load_original_state_dict as load_original_state_dict
    from spinalnet.tabular.estimators import DenseClassifier as DenseClassifier
    from spinalnet.tabular.estimators import DenseRegressor as DenseRegressor
    from spinalnet.tabular.estimators import SpinalClassifier as SpinalClassifier
    from spinalnet.tabular.estimators import SpinalRegressor as SpinalRegressor
    from spinalnet.theory.approximation import approximate as approximate
    from spinalnet.theory.conversion import to_spinal as to_spinal
    from spinalnet.theory.narrowing import narrow as narrow
    from spinalnet.theory.sensitivity import explain as explain
    from spinalnet.theory.sensitivity import sensitivities as sensitivities
    from spinalnet.training.config import TrainConfig as TrainConfig
    from spinalnet.training.evaluation import Metrics as Metrics
    from spinalnet.training.evaluation import evaluate as evaluate
    from spinalnet.training.evaluation import predict_logits as predict_logits
    from spinalnet.training.fitting import fit as fit
    from spinalnet.training.loop import FitResult as FitResult
    from spinalnet.training.runs import load_runs as load_runs

# The complete public contract: name to the room it lives in. A test keeps it equal to the
# imports above.
_ROOMS = {
    "_checks": "BackendUnavailable InputError SpinalnetError SurgeryError TrainingError",
    "config": "TrainConfig",
    "data": "ArrayDataset DatasetInfo Splits list_datasets load_dataset",
    "estimators": "DenseClassifier DenseRegressor SpinalClassifier SpinalRegressor",
    "experiment": "Comparison RunSpec compare load_trained run_one",
    "export": "Exported export_onnx export_program",
    "gradients": "jacobian",
    "models": "create_model list_models",
    "narrowing": "narrow",
    "nn": "Count LinearHead MLPHead ProgressiveNet SpinalLayer SpinalNet count_macs count_params "
    "make_head matched_mlp",
    "ops": "spinal spinal_reference split_sizes use_backend",
    "original": "convert_checkpoint load_original_state_dict",
    "predict": "evaluate_run predict_images write_predictions",
    "report": "write_report",
    "runs": "load_runs",
    "sensitivity": "explain sensitivities",
    "summary": "load_summary summarize",
    "surgery": "find_classifier freeze_except_head_ remove_classifier_ replace_head_ "
    "replace_hidden_",
    "theory": "approximate to_spinal",
    "train": "FitResult Metrics evaluate fit predict_logits",
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names.split()}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Load a public name from its room (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'spinalnet' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"spinalnet.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Offer the public names to completion."""
    return sorted([*globals(), *__all__])
