"""SpinalNet on MNIST: the paper's small CNN with a spinal head, one epoch after the other.

python mnist.py                 # downloads MNIST (11 MB); about 99 % in eight epochs
python mnist.py --data digits   # scikit-learn's small digits instead: no download
"""

import argparse

from spinalnet import TrainConfig, count_params, create_model, evaluate, fit, load_dataset

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", default="mnist")
parser.add_argument("--data-dir", help="where the files are, or go; your cache folder without it")
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--seed", type=int, default=0)
asked = parser.parse_args()

splits = load_dataset(asked.data, data_dir=asked.data_dir, seed=asked.seed, image_size=28)
model = create_model("mnist-cnn", splits.info.num_classes, head="spinal", seed=asked.seed)
print(model.head)
print(f"{count_params(model).head:,} parameters in the head, {count_params(model).total:,} in all")


def tell(progress):
    if progress.row is not None:
        print(f"epoch {progress.epoch}: validation accuracy {progress.row['val_accuracy']:.4f}")


config = TrainConfig(epochs=asked.epochs, seed=asked.seed)
result = fit(model, splits.train, splits.val, config, on_progress=tell)
# `fit` leaves the weights of the best epoch in the model; the test images are used once, here.
print(f"epoch {result.best_epoch} is best; test {evaluate(model, splits.test).accuracy:.4f}")
