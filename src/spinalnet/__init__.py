"""SpinalNet for PyTorch: the spinal layer, the paper's networks, and an honest comparison.

Source: Kabir et al., "SpinalNet: Deep Neural Network with Gradual Input", arXiv:2007.03347.

The public names are loaded when first used, so that `import spinalnet` (and the command's
`--help`) does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spinalnet._lazy import attach

__version__ = "0.1.0"

# The complete public contract: a name, and the wing it lives in. For people and type checkers as
# imports, for Python as names to load when first used; a test keeps both equal.
if TYPE_CHECKING:
    from spinalnet._checks import BackendUnavailable as BackendUnavailable
    from spinalnet._checks import InputError as InputError
    from spinalnet._checks import SpinalnetError as SpinalnetError
    from spinalnet._checks import SurgeryError as SurgeryError
    from spinalnet._checks import TrainingError as TrainingError
    from spinalnet.comparison import Comparison as Comparison
    from spinalnet.comparison import ComparisonSpec as ComparisonSpec
    from spinalnet.comparison import RunSpec as RunSpec
    from spinalnet.comparison import Summary as Summary
    from spinalnet.comparison import TableModel as TableModel
    from spinalnet.comparison import TableSpec as TableSpec
    from spinalnet.comparison import TrainedModel as TrainedModel
    from spinalnet.comparison import Watcher as Watcher
    from spinalnet.comparison import WatchEvent as WatchEvent
    from spinalnet.comparison import compare as compare
    from spinalnet.comparison import load as load
    from spinalnet.comparison import load_summary as load_summary
    from spinalnet.comparison import load_trained as load_trained
    from spinalnet.comparison import run_one as run_one
    from spinalnet.comparison import summarize as summarize
    from spinalnet.comparison import write_report as write_report
    from spinalnet.data import ArrayDataset as ArrayDataset
    from spinalnet.data import DatasetInfo as DatasetInfo
    from spinalnet.data import DataSpec as DataSpec
    from spinalnet.data import Splits as Splits
    from spinalnet.data import list_datasets as list_datasets
    from spinalnet.data import load_dataset as load_dataset
    from spinalnet.deploy import Evaluation as Evaluation
    from spinalnet.deploy import Exported as Exported
    from spinalnet.deploy import Prediction as Prediction
    from spinalnet.deploy import evaluate_run as evaluate_run
    from spinalnet.deploy import export_onnx as export_onnx
    from spinalnet.deploy import export_program as export_program
    from spinalnet.deploy import from_pretrained as from_pretrained
    from spinalnet.deploy import predict_frame as predict_frame
    from spinalnet.deploy import predict_images as predict_images
    from spinalnet.deploy import push_to_hub as push_to_hub
    from spinalnet.deploy import save_pretrained as save_pretrained
    from spinalnet.deploy import write_predictions as write_predictions
    from spinalnet.models import ModelSpec as ModelSpec
    from spinalnet.models import create_model as create_model
    from spinalnet.models import find_classifier as find_classifier
    from spinalnet.models import freeze_except_head_ as freeze_except_head_
    from spinalnet.models import list_models as list_models
    from spinalnet.models import remove_classifier_ as remove_classifier_
    from spinalnet.models import replace_head_ as replace_head_
    from spinalnet.models import replace_hidden_ as replace_hidden_
    from spinalnet.nn import Count as Count
    from spinalnet.nn import LinearHead as LinearHead
    from spinalnet.nn import MLPHead as MLPHead
    from spinalnet.nn import ProgressiveNet as ProgressiveNet
    from spinalnet.nn import SpinalLayer as SpinalLayer
    from spinalnet.nn import SpinalNet as SpinalNet
    from spinalnet.nn import UnchainedNet as UnchainedNet
    from spinalnet.nn import count_macs as count_macs
    from spinalnet.nn import count_params as count_params
    from spinalnet.nn import jacobian as jacobian
    from spinalnet.nn import make_head as make_head
    from spinalnet.nn import matched_mlp as matched_mlp
    from spinalnet.nn import spinal as spinal
    from spinalnet.nn import spinal_reference as spinal_reference
    from spinalnet.nn import spine_diagram as spine_diagram
    from spinalnet.nn import split_sizes as split_sizes
    from spinalnet.nn import summary as summary
    from spinalnet.nn import use_backend as use_backend
    from spinalnet.paper import convert_checkpoint as convert_checkpoint
    from spinalnet.paper import load_original_state_dict as load_original_state_dict
    from spinalnet.paper import run_recipe as run_recipe
    from spinalnet.tabular import DenseClassifier as DenseClassifier
    from spinalnet.tabular import DenseRegressor as DenseRegressor
    from spinalnet.tabular import SpinalClassifier as SpinalClassifier
    from spinalnet.tabular import SpinalRegressor as SpinalRegressor
    from spinalnet.theory import approximate as approximate
    from spinalnet.theory import explain as explain
    from spinalnet.theory import narrow as narrow
    from spinalnet.theory import sensitivities as sensitivities
    from spinalnet.theory import to_spinal as to_spinal
    from spinalnet.training import FitResult as FitResult
    from spinalnet.training import Metrics as Metrics
    from spinalnet.training import TrainConfig as TrainConfig
    from spinalnet.training import evaluate as evaluate
    from spinalnet.training import fit as fit
    from spinalnet.training import load_runs as load_runs
    from spinalnet.training import predict_logits as predict_logits
    from spinalnet.training import range_test as range_test

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "_checks": "BackendUnavailable InputError SpinalnetError SurgeryError TrainingError",
        "comparison": "Comparison ComparisonSpec RunSpec Summary TableModel TableSpec TrainedModel "
        "WatchEvent Watcher compare load load_summary load_trained run_one summarize write_report",
        "data": "ArrayDataset DataSpec DatasetInfo Splits list_datasets load_dataset",
        "deploy": "Evaluation Exported Prediction evaluate_run export_onnx export_program "
        "from_pretrained predict_frame predict_images push_to_hub save_pretrained "
        "write_predictions",
        "models": "ModelSpec create_model find_classifier freeze_except_head_ list_models "
        "remove_classifier_ replace_head_ replace_hidden_",
        "nn": "Count LinearHead MLPHead ProgressiveNet SpinalLayer SpinalNet UnchainedNet "
        "count_macs count_params jacobian make_head matched_mlp spinal spinal_reference "
        "spine_diagram split_sizes summary use_backend",
        "paper": "convert_checkpoint load_original_state_dict run_recipe",
        "tabular": "DenseClassifier DenseRegressor SpinalClassifier SpinalRegressor",
        "theory": "approximate explain narrow sensitivities to_spinal",
        "training": "FitResult Metrics TrainConfig evaluate fit load_runs predict_logits "
        "range_test",
    },
)  # pyright: ignore[reportUnsupportedDunderAll]
