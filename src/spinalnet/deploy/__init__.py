"""Using a trained model: predictions, evaluation, files that run elsewhere."""

from spinalnet.deploy.export import Exported, export_onnx, export_program
from spinalnet.deploy.predict import (
    Evaluation,
    Prediction,
    evaluate_run,
    predict_images,
    write_predictions,
)
