"""Time per epoch of the estimators, in turns with scikit-learn's MLP and a DataLoader loop.

    OMP_NUM_THREADS=1 python benchmarks/estimators.py

Every case is timed in turns with its baseline in one run, on one thread, and reported as a ratio:
absolute times belong to the machine. scikit-learn's network has as many parameters as ours and
computes in the same precision; the loop trains the very same network, layer by layer in plain
PyTorch, on batches of a shuffling `DataLoader`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import new_parser
from sklearn.datasets import load_diabetes, load_digits
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from spinalnet import files, timing
from spinalnet.nn import backends
from spinalnet.nn.dense import matched_mlp
from spinalnet.tabular import estimators
from spinalnet.tabular.learner import RowsLearner
from spinalnet.training import environment
from spinalnet.training.loop import Loop

EPOCHS = 5  # per call, so that the start of a fit hardly counts
# One net on standardised numbers, all rows trained on: what is compared is the training.
BARE = {"ensemble_size": 1, "embedding": None, "early_stopping": False}
OUT = Path(__file__).parents[1] / "benchmarks" / "results" / "estimators.json"


def ours(kind: type, X: np.ndarray, y: np.ndarray, batch: int, width: Any) -> Any:
    """Return a call that trains epochs of our estimator, everything prepared."""
    model = kind(width, batch_size=batch, epochs=1, random_state=0, **BARE).fit(X, y)
    net, x = model.module_, model.prepare(X).to(torch.from_numpy(X).dtype)
    task, targets = "classification", torch.from_numpy(y)
    if hasattr(model, "target_scaler_"):
        task, targets = "regression", ((targets - targets.mean()) / targets.std())[:, None].to(x)
    config = model.train_config(0, epochs=EPOCHS)
    learner = RowsLearner(net, config, task, (x, targets, None))

    def epochs() -> None:
        loop = Loop(learner, config)
        while not loop.stopped:
            loop.run_epoch()

    return epochs, net, x, targets


def scikit_learn(kind: type, X: np.ndarray, y: np.ndarray, batch: int, width: int) -> Any:
    """Return a call that trains epochs of scikit-learn's network."""
    model = kind(
        hidden_layer_sizes=(width,),
        batch_size=batch,
        max_iter=EPOCHS,
        warm_start=True,
        n_iter_no_change=10**9,
        tol=0.0,
    )
    model.fit(X, y)
    return lambda: model.fit(X, y)


def data_loader(net: nn.Module, x: torch.Tensor, targets: torch.Tensor, batch: int) -> Any:
    """Return a call that trains epochs in the plainest way."""
    import copy

    net = copy.deepcopy(net).train()
    for parameter in net.parameters():
        parameter.data, parameter.grad = parameter.data.clone(), None
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(x, targets), batch_size=batch, shuffle=True)
    loss_of = nn.functional.mse_loss if targets.is_floating_point() else nn.functional.cross_entropy

    def epochs() -> None:
        with backends.use_backend("reference"):
            for _ in range(EPOCHS):
                for inputs, wanted in loader:
                    optimizer.zero_grad()
                    loss_of(net(inputs), wanted).backward()
                    optimizer.step()

    return epochs


def main() -> None:
    """Measure every case and write the rows."""
    import warnings

    new_parser(__doc__).parse_args()
    warnings.simplefilter("ignore")  # five epochs do not converge
    torch.set_num_threads(1)
    digits, diabetes = (
        tuple(np.asarray(part) for part in load(return_X_y=True))
        for load in (load_digits, load_diabetes)
    )
    # The regression on as many rows as the classification.
    diabetes = np.tile(diabetes[0], (4, 1)), np.tile(diabetes[1], 4)
    rows = []
    for precision in (np.float32, np.float64):
        for name, (X, y), spinal, dense, theirs in (
            ("digits", digits, estimators.SpinalClassifier, estimators.DenseClassifier,
             MLPClassifier),
            ("diabetes ×4", diabetes, estimators.SpinalRegressor, estimators.DenseRegressor,
             MLPRegressor),
        ):  # fmt: skip
            X = ((X - X.mean(0)) / (X.std(0) + 1e-9)).astype(precision)
            for batch in (64, 200):
                probe = spinal(16, epochs=1, **BARE).fit(X[:200], y[:200]).module_
                params = sum(p.numel() for p in probe.parameters())
                width = matched_mlp(X.shape[1], probe.out_features, params).hidden_features[0]
                for kind, size in ((spinal, 16), (dense, width)):
                    call, net, x, targets = ours(kind, X, y, batch, size)
                    cases = {
                        "ours": call,
                        "scikit-learn MLP, same parameters": scikit_learn(
                            theirs, X, y, batch, width
                        ),
                        "DataLoader loop, same network": data_loader(net, x, targets, batch),
                    }
                    times = timing.interleave(cases, seconds=4.0, min_rounds=9)
                    for baseline in list(cases)[1:]:
                        rows.append(
                            {
                                "case": f"{kind.__name__}, {name}, batch {batch}, "
                                f"{np.dtype(precision).name}",
                                "baseline": baseline,
                                "ours": times["ours"].median / EPOCHS,
                                "theirs": times[baseline].median / EPOCHS,
                                "ratio": times[baseline].median / times["ours"].median,
                                "ratio_of_minima": times[baseline].minimum / times["ours"].minimum,
                                "rounds": times["ours"].rounds,
                            }
                        )
                        print(json.dumps(rows[-1]), flush=True)
    protocol = (
        "Seconds per epoch, medians over rounds in which the cases take turns, one thread. "
        "Ratios above 1: ours is faster."
    )
    result = {"protocol": protocol, "rows": rows, **environment.describe_origin()}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(OUT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
