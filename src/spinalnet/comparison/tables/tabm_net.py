"""TabM (Gorishniy et al., arXiv:2410.24210) as an estimator, where its package is installed.

The network and its embeddings are those of the packages `tabm` and `rtdl_num_embeddings`; the
training is that of TabM's published example: AdamW, the gradient's norm at most 1, every member its
own loss, and the weights of the epoch whose averaged prediction of the held-out rows is best.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

# Loading this file fails where these two are missing: see `baselines.find_class`.
import rtdl_num_embeddings as rtdl  # pyright: ignore[reportMissingImports]
import tabm  # pyright: ignore[reportMissingImports]
import torch
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from spinalnet.randomness import own_generators


class _Net(nn.Module):
    """Piecewise-linear embeddings of the numbers, the flags as they are, and TabM on both."""

    def __init__(self, x: Tensor, outputs: int, options: dict[str, Any]) -> None:
        super().__init__()
        several = torch.tensor([len(column.unique()) > 2 for column in x.T])
        self.numbers, self.flags = several.nonzero()[:, 0], (~several).nonzero()[:, 0]
        width, self.embed = len(self.flags), None
        if len(self.numbers):
            bins = rtdl.compute_bins(x[:, self.numbers], n_bins=min(48, len(x) - 1))
            self.embed = rtdl.PiecewiseLinearEmbeddings(bins, 16, activation=False, version="B")
            width += 16 * len(self.numbers)
        self.tabm = tabm.TabM.make(n_num_features=width, d_out=outputs, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Return what every member says, `(N, members, outputs)`."""
        parts = [x[:, self.flags]]
        if self.embed is not None:
            parts.append(self.embed(x[:, self.numbers]).flatten(1))
        return self.tabm(torch.cat(parts, dim=1))


class _TabM(BaseEstimator):
    """TabM on encoded rows.

    Args:
        k: Number of members.
        n_blocks: Hidden layers.
        d_block: Their width.
        dropout: Probability of dropping a hidden value.
        lr: Learning rate.
        weight_decay: Decoupled weight decay.
        epochs: At most.
        batch_size: Rows per step.
        patience: Epochs without a new best that end the training.
        validation_fraction: Share of the rows held out.
        random_state: Seed.
    """

    classifies = True

    def __init__(
        self,
        k: int = 32,
        n_blocks: int = 2,
        d_block: int = 512,
        dropout: float = 0.1,
        lr: float = 2e-3,
        weight_decay: float = 3e-4,
        epochs: int = 1000,
        batch_size: int = 256,
        patience: int = 16,
        validation_fraction: float = 0.2,
        random_state: int = 0,
    ) -> None:
        self.k, self.n_blocks, self.d_block, self.dropout = k, n_blocks, d_block, dropout
        self.lr, self.weight_decay, self.epochs, self.batch_size = (
            lr,
            weight_decay,
            epochs,
            batch_size,
        )
        self.patience, self.validation_fraction = patience, validation_fraction
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Any:
        """Train on numbers `(N, D)` and class numbers, or standardised values."""
        x = torch.as_tensor(np.asarray(X), dtype=torch.float32)
        if self.classifies:
            targets = torch.as_tensor(np.asarray(y)).long()
            outputs = int(targets.max()) + 1
        else:
            targets = torch.as_tensor(np.asarray(y), dtype=torch.float32)[:, None]
            outputs = 1
        parts = train_test_split(
            np.arange(len(x)), test_size=self.validation_fraction, random_state=self.random_state
        )
        train, held_out = (torch.from_numpy(np.asarray(part)) for part in parts)
        options = {"k": self.k, "n_blocks": self.n_blocks, "d_block": self.d_block}
        with own_generators():
            torch.manual_seed(self.random_state)
            net = _Net(x[train], outputs, options | {"dropout": self.dropout})
            self._train(net, x, targets, train, held_out)
        self.net_ = net.eval()
        return self

    def _train(
        self, net: _Net, x: Tensor, targets: Tensor, train: Tensor, held_out: Tensor
    ) -> None:
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        best, best_weights, since = np.inf, copy.deepcopy(net.state_dict()), 0
        for _ in range(self.epochs):
            net.train()
            for rows in train[torch.randperm(len(train))].split(self.batch_size):
                said = net(x[rows]).flatten(0, 1)
                truth = targets[rows].repeat_interleave(self.k, dim=0)
                loss = F.cross_entropy(said, truth) if self.classifies else F.mse_loss(said, truth)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
            net.eval()
            together = self._together(net, x[held_out])
            if self.classifies:
                score = float(F.nll_loss(together.clamp_min(1e-30).log(), targets[held_out]))
            else:
                score = float(F.mse_loss(together, targets[held_out]))
            since += 1
            if score < best:
                best, best_weights, since = score, copy.deepcopy(net.state_dict()), 0
            if since >= self.patience:
                break
        net.load_state_dict(best_weights)

    @torch.no_grad()
    def _together(self, net: _Net, x: Tensor) -> Tensor:
        """Return the members' mean: of probabilities, or of values."""
        said = torch.cat([net(part) for part in x.split(4096)])
        return (said.softmax(-1) if self.classifies else said).mean(1)


class TabMClassifier(_TabM):
    """TabM for classes; arguments as of `_TabM`."""

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the mean of the members' probabilities, `(N, classes)`."""
        return self._together(self.net_, torch.as_tensor(np.asarray(X)).float()).double().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return the numbers of the most probable classes."""
        return self.predict_proba(X).argmax(1)


class TabMRegressor(_TabM):
    """TabM for values; arguments as of `_TabM`."""

    classifies = False

    def predict(self, X: Any) -> np.ndarray:
        """Return the mean of the members' values, `(N,)`."""
        together = self._together(self.net_, torch.as_tensor(np.asarray(X)).float())
        return together[:, 0].double().numpy()
