"""How weights are found: settings, the loop, run folders. Knows no model and no data set."""

from typing import TYPE_CHECKING

from spinalnet._lazy import attach

if TYPE_CHECKING:
    from spinalnet.training.config import SCHEDULES, TrainConfig
    from spinalnet.training.environment import describe_environment, describe_origin
    from spinalnet.training.evaluation import Metrics, evaluate, predict_logits
    from spinalnet.training.fitting import fit
    from spinalnet.training.loop import FitResult, Progress
    from spinalnet.training.lrfind import range_test
    from spinalnet.training.runs import RunFolder, RunRecord, load_runs

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "config": "SCHEDULES TrainConfig",
        "evaluation": "Metrics evaluate predict_logits",
        "fitting": "fit",
        "loop": "FitResult Progress",
        "lrfind": "range_test",
        "runs": "RunFolder RunRecord load_runs",
        "environment": "describe_environment describe_origin",
    },
)  # pyright: ignore[reportUnsupportedDunderAll]
