"""What a model said about every test example, kept compactly.

Of a classifier the probabilities of an example are kept for its ten most probable classes, so that
a file stays small however many classes there are; what the scores need of the rest is kept as two
numbers. Of a regression predictions and targets are kept as they are. Both may carry `rows`, the
place of every test example in the whole data set, by which the parts that several models were
tested on (folds) can be `joined`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from spinalnet import files
from spinalnet._checks import InputError

OUTPUTS_FILE = "test-outputs.safetensors"  # in the folder of a run
_KEPT = 10  # most probable classes of an example


@dataclass(frozen=True)
class Outputs:
    """What a classifier said about N examples.

    Where it said nothing (its logits were not finite), all numbers of the example are NaN.

    Attributes:
        targets: True classes, int64, `(N,)`.
        classes: The most probable classes, best first, int64, `(N, k)`, k at most 10.
        probabilities: Of those classes, float32, `(N, k)`.
        log_likelihood: Natural logarithm of the probability of the true class, float32, `(N,)`.
        squares: Sum of the squared probabilities of all classes, float32, `(N,)`.
        num_classes: Number of all classes.
        paths: File of every example; empty where there are none.
        shown: Rows of the worst mistakes, which have thumbnails, `(M,)`.
        thumbnails: Pixels of those examples, uint8, `(M, C, h, w)`.
        rows: Place of every example in the whole data set, int32, `(N,)`; None if not known.
        shares: What each of the L layers of a spinal head adds to the logit of the predicted class,
            and to that of the true one, for the examples in `explained`, float32, `(E, L, 2)`; None
            of other heads. With the bias of the output row they add up to the logits.
        explained: Rows of those examples, `(E,)`: mistakes, more than those with thumbnails, since
            a report shows the mistakes that several runs together got most wrong.
    """

    targets: Tensor
    classes: Tensor
    probabilities: Tensor
    log_likelihood: Tensor
    squares: Tensor
    num_classes: int
    paths: tuple[str, ...] = ()
    shown: Tensor | None = None
    thumbnails: Tensor | None = None
    rows: Tensor | None = None
    shares: Tensor | None = None
    explained: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, targets: Tensor, paths: Sequence[str] = ()) -> Outputs:
        """Make them of logits `(N, K)` and true classes `(N,)`."""
        parts = []
        for rows, true in zip(logits.split(8192), targets.split(8192), strict=True):
            log_p = rows.double().log_softmax(1)
            p = log_p.exp()
            # Of equal probabilities topk puts any first: the predicted class is that of argmax.
            ranked = p.scatter(1, rows.argmax(1, keepdim=True), torch.inf)
            best = ranked.topk(min(_KEPT, p.shape[1]), dim=1).indices
            likelihood = log_p.gather(1, true[:, None])[:, 0]
            parts.append(
                (best, p.gather(1, best).float(), likelihood.float(), p.square().sum(1).float())
            )
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        return cls(targets, *columns, num_classes=logits.shape[1], paths=tuple(map(str, paths)))

    @classmethod
    def of_probabilities(cls, probabilities: Tensor, targets: Tensor) -> Outputs:
        """Make them of probabilities `(N, K)`, such as trees give, and true classes `(N,)`."""
        return cls.of(probabilities.double().log(), targets)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.targets)

    @property
    def predicted(self) -> Tensor:
        """The most probable class, `(N,)`."""
        return self.classes[:, 0]

    @property
    def correct(self) -> Tensor:
        """Whether that is the true class, `(N,)`."""
        return self.predicted == self.targets

    @property
    def finite(self) -> Tensor:
        """Whether the model said something about an example, bool, `(N,)`."""
        return self.probabilities[:, 0].isfinite()

    def worst(self, count: int) -> Tensor:
        """Return up to `count` rows of wrong predictions, the least probable truth first."""
        order = self.log_likelihood.argsort(stable=True)
        return order[~self.correct[order]][:count]

    def with_thumbnails(self, shown: Tensor, thumbnails: Tensor) -> Outputs:
        """Return the same with pixels of some rows."""
        return replace(self, shown=shown, thumbnails=thumbnails)

    def with_shares(self, explained: Tensor, shares: Tensor) -> Outputs:
        """Return the same with the shares of layers for some rows."""
        return replace(self, explained=explained, shares=shares)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: some 70 bytes an example, its path and the thumbnails."""
        small = torch.int16 if self.num_classes < 2**15 else torch.int32
        tensors = {
            "targets": self.targets.to(small),
            "classes": self.classes.to(small),
            "probabilities": self.probabilities,
            "log_likelihood": self.log_likelihood,
            "squares": self.squares,
        }
        if self.shares is not None and self.explained is not None:
            tensors |= {"shares": self.shares, "explained": self.explained.int()}
        files.save_weights(path, tensors | _places(self), {"num_classes": self.num_classes})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Outputs:
        """Read what `save` wrote.

        Raises:
            InputError: If the file is missing, damaged, or of a regression.
        """
        said = load_outputs(path)
        if not isinstance(said, cls):
            raise InputError(f"{path} holds the outputs of a regression, not of a classification.")
        return said


@dataclass(frozen=True)
class RegressionOutputs:
    """What a regression said about N examples.

    Attributes:
        targets: True values, float32 or float64, `(N, outputs)`.
        predictions: What the model said, `(N, outputs)`; may hold numbers that are not finite.
        paths: As in `Outputs`.
        rows: As in `Outputs`.
        shown: Rows of the largest residuals, which have thumbnails, `(M,)`.
        thumbnails: As in `Outputs`.
    """

    targets: Tensor
    predictions: Tensor
    paths: tuple[str, ...] = ()
    rows: Tensor | None = None
    shown: Tensor | None = None
    thumbnails: Tensor | None = None

    @classmethod
    def of(
        cls, predictions: Tensor, targets: Tensor, paths: Sequence[str] = ()
    ) -> RegressionOutputs:
        """Make them of predicted and true values, both `(N,)` or `(N, outputs)`."""
        said, true = (
            (values if values.dtype == torch.float64 else values.float()).reshape(len(values), -1)
            for values in (predictions, targets)
        )
        if said.shape != true.shape:
            raise InputError(
                "predictions and targets must have the same shape, got "
                f"{tuple(predictions.shape)} and {tuple(targets.shape)}."
            )
        return cls(true, said, tuple(map(str, paths)))

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.targets)

    @property
    def finite(self) -> Tensor:
        """Whether all that the model said about an example are numbers, bool, `(N,)`."""
        return self.predictions.isfinite().all(1)

    @property
    def distances(self) -> Tensor:
        """How far a prediction is from the truth, float64, `(N,)`.

        The mean over the outputs of the absolute residual in standard deviations of the targets, so
        that none counts more for its unit.
        """
        true = self.targets.double()
        scale = true.std(0, correction=0).clamp(min=torch.finfo(torch.float64).tiny)
        return ((self.predictions.double() - true).abs() / scale).mean(1)

    def worst(self, count: int) -> Tensor:
        """Return up to `count` rows, those of the largest residuals first."""
        order = self.distances.argsort(descending=True, stable=True)
        return order[self.finite[order]][:count]

    def with_thumbnails(self, shown: Tensor, thumbnails: Tensor) -> RegressionOutputs:
        """Return the same with pixels of some rows."""
        return replace(self, shown=shown, thumbnails=thumbnails)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: 8 or 16 bytes an example and output; paths, thumbnails."""
        tensors = {"targets": self.targets, "predictions": self.predictions}
        files.save_weights(path, tensors | _places(self), {"task": "regression"})


def class_columns(names: Sequence[str], besides: Iterable[str]) -> list[str]:
    """Return the columns of classes in a frame: their names, after `p_` where one is taken."""
    taken = set(besides)
    return [f"p_{name}" if name in taken else str(name) for name in names]


AnyOutputs = Outputs | RegressionOutputs
Kind = TypeVar("Kind", bound=AnyOutputs)


def _places(outputs: AnyOutputs) -> dict[str, Tensor]:
    """Return what a file holds of where the examples come from, and of how they look."""
    tensors = {} if outputs.rows is None else {"rows": outputs.rows.int()}
    if outputs.shown is not None and outputs.thumbnails is not None:
        tensors |= {"shown": outputs.shown.int(), "thumbnails": outputs.thumbnails}
    if outputs.paths:
        text = bytearray("\0".join(outputs.paths).encode("utf-8", "surrogateescape"))
        tensors["paths"] = torch.frombuffer(text, dtype=torch.uint8)
    return tensors


def load_outputs(path: str | os.PathLike[str]) -> AnyOutputs:
    """Read what `save` of either kind wrote.

    Raises:
        InputError: If the file is missing, or holds what no model can have said.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}: give the folder of a run that has trained.")
    try:
        tensors, about = files.load_weights(path)
    except InputError as error:
        raise _damaged(path, "it is not a file that a run has written") from error
    try:
        if about.get("task") == "regression":
            values = tensors["targets"], tensors["predictions"]
            outputs = RegressionOutputs(*values, *_read_places(tensors), *_read_pictures(tensors))
        else:
            outputs = _classification(tensors, about)
        wrong = _what_is_wrong(outputs)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _damaged(path, "a part of it is missing or is no table of numbers") from error
    if wrong is not None:
        raise _damaged(path, wrong)
    return outputs


def _damaged(path: str | os.PathLike[str], reason: str) -> InputError:
    return InputError(
        f"{path} does not hold what a model said, or it is damaged ({reason}): delete the folder "
        "of this run and run it again."
    )


def _classification(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Outputs:
    shown, thumbnails = _read_pictures(tensors)
    paths, rows = _read_places(tensors)
    return Outputs(
        tensors["targets"].long(),
        tensors["classes"].long(),
        tensors["probabilities"],
        tensors["log_likelihood"],
        tensors["squares"],
        num_classes=int(about["num_classes"]),
        paths=paths,
        shown=shown,
        thumbnails=thumbnails,
        rows=rows,
        shares=tensors.get("shares"),
        explained=_read_explained(tensors),
    )


def _read_explained(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return the rows of the shares; before they were named, they were those with thumbnails."""
    rows = tensors.get("explained", tensors.get("shown"))
    return None if rows is None or "shares" not in tensors else rows.long()


def _read_places(tensors: Mapping[str, Tensor]) -> tuple[tuple[str, ...], Tensor | None]:
    paths = tensors.get("paths")
    if paths is None:
        return (), tensors.get("rows")
    text = paths.numpy().tobytes().decode("utf-8", "surrogateescape")
    return tuple(text.split("\0")), tensors.get("rows")


def _read_pictures(tensors: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    shown = tensors.get("shown")
    return None if shown is None else shown.long(), tensors.get("thumbnails")


def _what_is_wrong(outputs: AnyOutputs) -> str | None:
    """Return why no model can have said this; None if one can."""
    n = len(outputs.targets)
    if n == 0:
        return "it holds no example"
    if outputs.paths and len(outputs.paths) != n:
        return f"it names {len(outputs.paths)} files of {n} examples"
    rows = outputs.rows
    if rows is not None and not (
        _is_table(rows, (n,), torch.int32) and int(rows.min()) >= 0 and len(rows.unique()) == n
    ):
        return "its rows must be places in the data set, each once"
    values = isinstance(outputs, RegressionOutputs)
    wrong = _wrong_values(outputs) if values else _wrong_classes(outputs)
    return wrong or _wrong_pictures(outputs)


def _is_table(tensor: Tensor, shape: tuple[int, ...], *dtypes: torch.dtype) -> bool:
    return tensor.shape == shape and tensor.dtype in dtypes


def _wrong_values(outputs: RegressionOutputs) -> str | None:
    said, true = outputs.predictions, outputs.targets
    if true.ndim != 2 or true.shape[1] == 0 or said.shape != true.shape:
        return "its predictions and targets must have one row per example, and match"
    if not (said.is_floating_point() and true.is_floating_point()):
        return "its predictions and targets must be floating-point numbers"
    return None if bool(true.isfinite().all()) else "its targets must be finite"


def _wrong_classes(outputs: Outputs) -> str | None:
    n, classes, p = len(outputs), outputs.num_classes, outputs.probabilities
    kept = (n, min(_KEPT, classes))
    if not (
        classes >= 1
        and _is_table(outputs.targets, (n,), torch.int64)
        and _is_table(outputs.classes, kept, torch.int64)
        and _is_table(p, kept, torch.float32)
        and _is_table(outputs.log_likelihood, (n,), torch.float32)
        and _is_table(outputs.squares, (n,), torch.float32)
    ):
        return f"its parts must fit {n} examples of {classes} classes"
    for indices in (outputs.targets, outputs.classes):
        if int(indices.min()) < 0 or int(indices.max()) >= classes:
            return f"its classes must lie between 0 and {classes - 1}"
    finite = outputs.finite
    p, likelihood, squares = p[finite], outputs.log_likelihood[finite], outputs.squares[finite]
    over = 1 + 1e-5  # rounding
    if not bool(
        ((p >= 0) & (p <= over)).all()
        and (p.sum(1) <= over).all()
        and (likelihood <= over - 1).all()
        and ((squares > 0) & (squares <= over)).all()
    ):
        return "its probabilities must lie between 0 and 1, and not sum to more"
    if bool((p[:, 1:] > p[:, :-1]).any()):
        return "its classes must be ranked by probability"
    return None


def _wrong_pictures(outputs: AnyOutputs) -> str | None:
    n, shown, pixels = len(outputs), outputs.shown, outputs.thumbnails
    if (shown is None) != (pixels is None):
        return "it must hold thumbnails and their rows, or neither"
    if shown is not None and pixels is not None:
        inside = shown.ndim == 1 and bool(((shown >= 0) & (shown < n)).all())
        if not inside or pixels.ndim != 4 or len(pixels) != len(shown):
            return "its thumbnails must belong to its examples"
    if isinstance(outputs, Outputs) and outputs.shares is not None:
        shares, rows = outputs.shares, outputs.explained
        if not (
            rows is not None
            and rows.ndim == 1
            and bool(((rows >= 0) & (rows < n)).all())
            and shares.ndim == 3
            and _is_table(shares, (len(rows), shares.shape[1], 2), torch.float32)
        ):
            return "the shares of its layers must belong to its examples"
    return None


def joined(parts: Sequence[Kind]) -> Kind:
    """Return what several models said about the parts that they were tested on as one, by place.

    Args:
        parts: Outputs of one kind, such as of every fold, all with `rows`, which do not overlap.

    Returns:
        Outputs of all their examples in the order of the data set.

    Raises:
        InputError: If they do not belong together.
    """
    if not parts:
        raise InputError("joined needs the outputs of at least one part, got none.")
    if len({type(part) for part in parts}) > 1:
        raise InputError("outputs can be joined only where they are of one kind.")
    if any(part.rows is None for part in parts):
        raise InputError(
            "outputs can be joined only where each says which rows of the data set it is about, "
            "and some here do not: run them again with this version."
        )
    rows = torch.cat([part.rows for part in parts if part.rows is not None])
    order = rows.argsort(stable=True)
    if len(rows.unique()) < len(rows):
        raise InputError(
            f"outputs can be joined only where no example is in two of them, and "
            f"{len(rows) - len(rows.unique())} of {len(rows)} are: join the folds of one "
            "repetition at a time."
        )
    named = sum(bool(part.paths) for part in parts)
    if named not in (0, len(parts)):
        raise InputError("outputs can be joined only where all or none of them name their files.")
    paths = [path for part in parts for path in part.paths]
    places = {"rows": rows[order], "paths": tuple(paths[i] for i in order.tolist() if paths)}
    columns = {
        name: _stacked([getattr(part, name) for part in parts], name)[order]
        for name in (_COLUMNS if isinstance(parts[0], Outputs) else ("targets", "predictions"))
    }
    return replace(parts[0], **columns, **places, **_joined_pictures(parts, order))


_COLUMNS = ("targets", "classes", "probabilities", "log_likelihood", "squares")


def _stacked(tensors: Sequence[Tensor], name: str) -> Tensor:
    shapes = {tuple(tensor.shape[1:]) for tensor in tensors}
    if len(shapes) > 1:
        raise InputError(f"outputs can be joined only where their {name} have one width.")
    return torch.cat(list(tensors))


def _joined_pictures(parts: Sequence[AnyOutputs], order: Tensor) -> dict[str, Tensor | None]:
    """Return the thumbnails of all parts, with their places after joining."""
    if len({part.num_classes for part in parts if isinstance(part, Outputs)}) > 1:
        raise InputError("outputs can be joined only where they have the same classes.")
    place = order.argsort()
    shown, pixels, before = [], [], 0
    explained, shares = [], []
    for part in parts:
        if part.shown is not None and part.thumbnails is not None:
            shown.append(place[before + part.shown])
            pixels.append(part.thumbnails)
        if isinstance(part, Outputs) and part.shares is not None and part.explained is not None:
            explained.append(place[before + part.explained])
            shares.append(part.shares)
        before += len(part)
    found: dict[str, Tensor | None] = {"shown": None, "thumbnails": _together(pixels)}
    if found["thumbnails"] is not None:
        found["shown"] = torch.cat(shown)
    if isinstance(parts[0], Outputs):
        found |= {"explained": None, "shares": _together(shares)}
        if found["shares"] is not None:
            found["explained"] = torch.cat(explained)
    return found


def _together(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Return what parts have as one; None if they have not all the same."""
    known = [part for part in parts if part is not None]
    alike = len({tuple(part.shape[1:]) for part in known}) == 1 and len(known) == len(parts)
    return torch.cat(known) if alike else None


def pictures(several: Sequence[AnyOutputs]) -> dict[int, np.ndarray]:
    """Return the thumbnails that runs have kept of one test set, by row.

    Returns:
        Pixels `(h, w)` or `(h, w, 3)`, uint8; nothing where the runs had different test sets.
    """
    if not several or any(not torch.equal(o.targets, several[0].targets) for o in several):
        return {}
    found = {}
    for outputs in several:
        if outputs.shown is None or outputs.thumbnails is None:
            continue
        for row, pixels in zip(outputs.shown.tolist(), outputs.thumbnails, strict=True):
            array = pixels.permute(1, 2, 0).numpy()
            found[row] = array[..., 0] if array.shape[2] == 1 else array
    return found
