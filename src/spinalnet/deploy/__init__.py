"""Using a trained model: predictions, evaluation, files that run elsewhere."""

from spinalnet.deploy.evaluation import Evaluation, evaluate_run
from spinalnet.deploy.export import Exported, export_onnx, export_program
from spinalnet.deploy.frames import predict_frame
from spinalnet.deploy.hub import from_pretrained, push_to_hub, save_pretrained
from spinalnet.deploy.predict import Prediction, predict_images, write_predictions
from spinalnet.deploy.tables import RowPrediction, predict_rows, write_table_predictions
from spinalnet.deploy.verifying import Verified, verify
