"""What all estimators of tables share: rows in, encoding, members to train, and their average."""

from __future__ import annotations

import copy
import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)
from torch import Tensor, nn

from spinalnet._checks import InputError, some
from spinalnet.data.columns import is_frame
from spinalnet.randomness import own_generators
from spinalnet.tabular.embedding import embedding_like, fit_embedding
from spinalnet.tabular.encoder import Encoder
from spinalnet.tabular.ensemble import Job, Member, TableNet, train_members
from spinalnet.tabular.learner import Rows
from spinalnet.tabular.options import NetOptions, TrainingOptions
from spinalnet.training.placement import resolve_device

if TYPE_CHECKING:
    from spinalnet.training.placement import Task

SEEDS = 2**31 - 1

_FAR = 1e100  # standard deviations, which no row lies from the mean


def _numeric(encoder: Any, width: int) -> np.ndarray | None:
    """Return which of the encoded inputs are numbers or dates; None where the encoder says nothing.

    What text was turned into has many values too, but no order that is worth bins.
    """
    columns = getattr(encoder, "columns", None)
    if columns is None:
        return None
    found = np.zeros(width, dtype=bool)
    for column in columns:
        if column.kind in ("number", "date"):
            found[column.outputs] = True
    return found


def _overflowing() -> Any:
    """Silence NumPy where the spread of large numbers overflows: `_check_scaled` names them."""
    return np.errstate(over="ignore", invalid="ignore")


def _check_scaled(what: str, names: Sequence[str], values: np.ndarray) -> None:
    """Refuse rows `(N, columns)` that could not be standardised, since their squares overflow.

    Raises:
        InputError: It names the columns.
    """
    # Standardised they are small; where the spread overflowed they are as large as they came.
    bad = np.atleast_1d(~(np.abs(values) < _FAR).all(axis=0))
    if bad.any():
        found = [f"'{name}'" for name, one in zip(names, bad, strict=True) if one]
        raise InputError(
            f"{what} must hold numbers whose squares are finite (below about 1e150), to be "
            f"standardised, but larger ones are in {some(found, 5)}: divide them by a power of "
            "ten, or mend them."
        )


class NetEstimator(NetOptions, TrainingOptions, BaseEstimator):
    """What all estimators share: validation, encoding, training, and prediction."""

    _task: Task
    _num_outputs: int  # set by `_prepare_targets`
    n_features_in_: int  # set by scikit-learn's validation

    def _check_y(self, y: Any) -> np.ndarray:
        raise NotImplementedError

    def _prepare_targets(self, y: np.ndarray, weights: np.ndarray | None) -> None:
        raise NotImplementedError

    def _encode_targets(self, y: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _class_weights(self, y: np.ndarray, every: np.ndarray) -> np.ndarray | None:
        """Return what the class says of the weight of each row `y`; `every` has all classes."""
        return None

    # -- data in --

    def _check_X(self, X: Any, *, reset: bool) -> Any:
        """Return a frame as it is, anything else as a numeric array without NaN."""
        if not is_frame(X):
            encoder = None if reset else getattr(self, "encoder_", None)
            nan_allowed = encoder is not None and encoder.by_name
            finite = "allow-nan" if nan_allowed else True
            if encoder is not None and encoder.needs_frame:
                validate_data(self, X, reset=False, skip_check_array=True)
                return X  # refused by the encoder, which names the columns
            return validate_data(
                self, X, reset=reset, dtype=[np.float64, np.float32], ensure_all_finite=finite
            )
        if len(X) == 0 or len(X.columns) == 0:
            what = "sample" if len(X) == 0 else "feature"
            raise ValueError(
                f"Found array with 0 {what}(s) (shape={tuple(X.shape)}) while a minimum of 1 is "
                "required."
            )
        validate_data(self, X, reset=reset, skip_check_array=True)
        return X

    def _checked(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool
    ) -> tuple[Any, np.ndarray, np.ndarray | None]:
        """Validate; multiply the weights; drop rows of weight zero, which must not count."""
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y "
                "is None."
            )
        X = self._check_X(X, reset=reset)
        y = self._check_y(y)
        check_consistent_length(X, y)
        every = y
        if sample_weight is None:
            return X, y, self._class_weights(y, every)
        like = np.empty((len(y), 1))
        weights = _check_sample_weight(sample_weight, like, dtype=np.float64)
        if (weights < 0).any():
            raise ValueError("Negative values in data passed to `sample_weight`.")
        if not weights.any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        kept = np.flatnonzero(weights)
        if len(kept) < len(weights):
            X = X.iloc[kept] if hasattr(X, "iloc") else X[kept]
            y, weights = y[kept], weights[kept]
        by_class = self._class_weights(y, every)
        return X, y, weights if by_class is None else weights * by_class

    def _rows(
        self, X: Any, y: np.ndarray, weights: np.ndarray | None
    ) -> tuple[Rows, nn.Module | None]:
        """Return embedded inputs, targets and weights of mean 1, and the embedding."""
        first = not hasattr(self, "module_")
        dtype = torch.float32 if getattr(X, "dtype", None) == np.float32 else torch.float64
        if not first:  # in later calls of partial_fit
            dtype = next(self.module_.parameters()).dtype
        device = resolve_device(self.device)
        encoded = np.ascontiguousarray(self.encoder_.transform(X), dtype=np.float64)
        if first:
            _check_scaled("X", self._names_in(), encoded)
            embedding = fit_embedding(
                self.embedding,
                encoded,
                weights,
                bins=int(self.num_bins),
                numeric=_numeric(self.encoder_, encoded.shape[1]),
            )
        else:
            embedding = getattr(self.module_, "embedding", None)
        x = torch.from_numpy(encoded)
        if embedding is not None:
            # Its numbers are those that `module_` can hold, but it counts in double precision in
            # training too: bins can be narrow.
            embedding = copy.deepcopy(embedding).cpu().to(dtype).double()
            x = torch.cat([embedding(part).to(dtype) for part in x.split(65536)])
        x = x.to(device, dtype)
        coded = self._encode_targets(y)
        if first and coded.dtype.kind == "f":
            _check_scaled("y", [f"output {k + 1}" for k in range(coded.shape[1])], coded)
        targets = torch.from_numpy(coded)
        targets = targets.to(device, dtype if targets.is_floating_point() else None)
        if weights is None:
            return (x, targets, None), embedding
        shares = torch.from_numpy(weights / weights.mean()).to(device, dtype)
        return (x, targets, shares), embedding

    # -- training --

    def _draw_states(self) -> list[int]:
        """Return a `random_state` for every member; a single net with it is that member."""
        count = self.count_members()
        generator = check_random_state(self.random_state)
        drawn = [int(state) for state in generator.randint(SEEDS, size=count)]
        if isinstance(self.random_state, numbers.Integral):
            drawn[0] = int(self.random_state)
        return drawn

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train from scratch.

        Args:
            X: Array `(N, features)`, or a data frame, whose categories and missing values are
                encoded.
            y: Classes or labels `(N,)`; values `(N,)` or `(N, outputs)` for a regressor.
            sample_weight: Weight of each row `(N,)`; multiplied with the class weights. A row of
                weight 2 counts as if it were there twice, one of weight 0 as if it were not.

        Returns:
            The estimator.
        """
        self.train_config(0)  # refuses before anything is computed
        states = self._draw_states()
        X, y, weights = self._checked(X, y, sample_weight, reset=True)
        for name in ("module_", "members_", "_optimizer_state", "validation_scores_"):
            self.__dict__.pop(name, None)
        with _overflowing():
            self._prepare_targets(y, weights)
            self.encoder_ = Encoder(X, weights)
            rows, embedding = self._rows(X, y, weights)
        jobs = self._start(states, rows[0])
        for job in jobs:
            job.train, job.held_out = self._split(rows, job.seed)
        return self._train(jobs, rows, embedding)

    def _start(self, states: Sequence[int], x: Tensor) -> list[Job]:
        """Return members with random weights, about to be trained."""
        jobs = []
        for state in states:
            seed = int(check_random_state(state).randint(SEEDS))
            with own_generators():
                torch.manual_seed(seed)
                net = self.make_net(x.shape[1], self._num_outputs, x.dtype).to(x.device)
            jobs.append(Job(Member(state, seed), net, self.train_config(seed, len(x)), seed))
        return jobs

    def _train(self, jobs: Sequence[Job], rows: Rows, embedding: nn.Module | None) -> Any:
        """Train the members and take up what became of them."""
        train_members(jobs, rows, self._task)
        self.members_ = [vars(job.member) for job in jobs]
        self._optimizer_state = [job.optimizer for job in jobs]
        nets = [job.net for job in jobs]
        if embedding is not None:
            embedding = embedding.to(rows[0].device, rows[0].dtype)
        self.module_ = self._joined(embedding, nets)
        first = jobs[0].member
        self.n_iter_, self.best_epoch_ = first.n_iter, first.best_epoch
        self.loss_curve_, self.loss_ = first.loss_curve, first.loss_curve[-1]
        if first.validation_scores:
            self.validation_scores_ = first.validation_scores
        return self

    def _joined(self, embedding: nn.Module | None, nets: Sequence[nn.Module]) -> nn.Module:
        """Return one module on prepared inputs."""
        if embedding is None and len(nets) == 1:
            return nets[0]
        return TableNet(embedding, nets, self._task).eval()

    def module_like(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return an untrained `module_` that takes these weights up by `load_state_dict`.

        Args:
            weights: State dict of the `module_` of an estimator with these options, fitted to a
                table with these columns and targets.
        """
        dtype = next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())
        below = {name.split(".")[1] for name in weights if name.startswith("members.")}
        parts = {
            name.removeprefix("embedding."): tensor
            for name, tensor in weights.items()
            if name.startswith("embedding.")
        }
        embedding = embedding_like(self.embedding, parts).to(dtype) if parts else None
        width = len(self.prepared_names()) if embedding is None else embedding.out_features
        nets = [self.make_net(width, self._num_outputs, dtype) for _ in range(max(1, len(below)))]
        return self._joined(embedding, nets)

    def _split(self, rows: Rows, seed: int) -> tuple[Tensor | None, Tensor | None]:
        """Return which rows to train on, and which to hold out, of all classes alike."""
        x, targets, _ = rows
        if not self.holds_out(len(x)):
            return None, None
        labels = targets.cpu().numpy() if self._task == "classification" else None
        alike = labels is None or np.bincount(labels).min() > 1
        if self.early_stopping == "auto" and not alike:
            labels = None  # a class with a single row can not be on both sides
        try:
            parts = train_test_split(
                np.arange(len(x)),
                test_size=self.validation_fraction,
                random_state=seed,
                stratify=labels,
            )
        except ValueError as error:
            raise ValueError(
                f"early_stopping cannot hold out {self.validation_fraction:g} of n_samples="
                f"{len(x)}: {error} Give more rows or set early_stopping=False."
            ) from error
        train, held_out = (torch.from_numpy(part).to(x.device) for part in parts)
        return train, held_out

    def _partial_fit(
        self, X: Any, y: Any, sample_weight: Any, classes: Sequence[Any] | None = None
    ) -> Any:
        first, states = not hasattr(self, "module_"), []
        X, y, weights = self._checked(X, y, sample_weight, reset=first)
        if first:
            states = self._draw_states()
            with _overflowing():
                self._prepare_targets(y if classes is None else np.asarray(classes), weights)
                self.encoder_ = Encoder(X, weights)
        rows, embedding = self._rows(X, y, weights)
        jobs = self._start(states, rows[0]) if first else self._again()
        for job in jobs:
            done = job.member.n_iter
            changes = {"schedule": "constant", "early_stopping": 0, "epochs": done + 1}
            job.config = self.train_config(job.member.seed, len(rows[0]), **changes)
            job.seed = job.member.seed + done
        return self._train(jobs, rows, embedding)

    def _again(self) -> list[Job]:
        """Return the members where the last call left them."""
        nets = list(self.module_.members) if isinstance(self.module_, TableNet) else [self.module_]
        return [
            Job(Member(**member), net, self.train_config(0), 0, optimizer=optimizer)
            for member, net, optimizer in zip(
                self.members_, nets, self._optimizer_state, strict=True
            )
        ]

    # -- use --

    def prepare(self, X: Any) -> Tensor:
        """Return the encoded, standardised inputs of the network, `(N, features)`, float64."""
        check_is_fitted(self)
        X = self._check_X(X, reset=False)
        return torch.from_numpy(np.ascontiguousarray(self.encoder_.transform(X), dtype=np.float64))

    def prepared_names(self) -> list[str]:
        """Return names for the columns of `prepare`."""
        check_is_fitted(self)
        return self._names_in()

    def _names_in(self) -> list[str]:
        columns = getattr(self, "feature_names_in_", None)
        names = [f"x{i + 1}" for i in range(self.n_features_in_)]
        return self.encoder_.names(names if columns is None else [str(name) for name in columns])

    @torch.no_grad()
    def _each(self, X: Any) -> Tensor:
        """Return what every member says of the rows, `(members, N, outputs)`, float64."""
        x = self.prepare(X)
        # In double precision a row's result does not depend on the rows beside it.
        net = copy.deepcopy(self.module_).cpu().double().eval()
        parts = x.split(65536)
        if isinstance(net, TableNet):
            return torch.cat([net.each(part) for part in parts], dim=1)
        return torch.cat([net(part) for part in parts])[None]
