"""Trying a trained model: what it says of an image or a row, what spoke for it, what is alike.

It is plain Python (`ImageDemo`, `TableDemo`); `demo_page` draws it in a browser.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spinalnet._checks import InputError, SpinalnetError
from spinalnet.comparison import TableModel, TrainedModel, load
from spinalnet.comparison.loading import run_of
from spinalnet.comparison.tables.columns import Tell
from spinalnet.comparison.wording import plain_number
from spinalnet.data import normalize
from spinalnet.data.depths import Depths
from spinalnet.data.images import read_all
from spinalnet.nn import SpinalNet
from spinalnet.theory import explain

MOST_EXAMPLES = 4000  # of the validation part in which mistakes are looked for
SHOWN = 8  # mistakes, classes, and columns


@dataclass(frozen=True)
class Answer:
    """What a model says about one image or row.

    Attributes:
        probabilities: By class, the most probable first; of a regression none.
        value: Of a regression what it predicts, as text; else empty.
        shares_of: Header of `shares`.
        shares: Which part of the model, or which column, spoke for what.
        mistakes: Of a model of images: pictures `(H, W, 3)` with what they are and were taken for.
        mistaken_rows: Of a model of a table: the same as rows; the first is their header.
    """

    probabilities: dict[str, float] = field(default_factory=dict)
    value: str = ""
    shares_of: tuple[str, ...] = ()
    shares: list[list[str]] = field(default_factory=list)
    mistakes: list[tuple[np.ndarray, str]] = field(default_factory=list)
    mistaken_rows: list[list[str]] = field(default_factory=list)


class ImageDemo:
    """What may be asked of a model of images.

    Args:
        trained: The model.
        tell: Called with a sentence for what cannot be shown.

    Raises:
        InputError: If its inputs are no images.
    """

    def __init__(self, trained: TrainedModel, tell: Tell | None = None) -> None:
        if len(trained.info.input_shape) != 3:
            raise InputError(
                f"this model was trained on '{trained.info.name}', which are not images: there is "
                "nothing to draw."
            )
        self.trained, self.info = trained, trained.info
        self.model = trained.model.eval()
        self.why_no_mistakes = ""
        self._features, self._pictures, self._captions = self._find_mistakes()
        if self.why_no_mistakes and tell is not None:
            tell(self.why_no_mistakes)

    @property
    def title(self) -> str:
        """What is asked: data, network, head."""
        model = self.trained.spec.model
        return ", ".join(filter(None, [self.info.name, model.name, model.head]))

    @property
    def is_dark(self) -> bool:
        """Whether it learned light strokes on a dark ground, as digits are; a drawing is dark."""
        return self.info.input_shape[0] == 1 and bool(self.info.mean) and self.info.mean[0] < 0.4

    def ask(self, picture: Any, *, drawn: bool = False) -> Answer:
        """Answer for one picture.

        Args:
            picture: What Pillow makes an image of, `(H, W)` or `(H, W, C)`, or an image.
            drawn: Whether it was drawn in black on white.

        Raises:
            InputError: If there is none, or it cannot be used.
        """
        pixels = self._pixels(picture, invert=drawn and self.is_dark)
        info = self.info
        with torch.no_grad():
            features = self.model.trunk(normalize(pixels, info.mean, info.std))
            logits = self.model.head(features).float()
        near = self._nearest(features.flatten(1).float())
        if info.task == "regression":
            return Answer(value=plain_number(float(info.in_units(logits)[0, 0])), mistakes=near)
        probabilities = logits.softmax(dim=1)[0]
        order = probabilities.argsort(descending=True)[:SHOWN].tolist()
        named = {info.class_names[k]: float(probabilities[k]) for k in order}
        header, shares = self._shares(features, order[:3])
        return Answer(named, shares_of=header, shares=shares, mistakes=near)

    def _pixels(self, picture: Any, *, invert: bool) -> Tensor:
        """Read a picture as the training images were read, by way of a file, `(1, C, S, S)`."""
        from PIL import Image, ImageOps

        if picture is None:
            raise InputError("there is no picture yet: drop one, or draw one.")
        image = (
            picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
        )
        if image.mode in ("RGBA", "LA"):  # a drawing without ground
            ground = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
        if invert:
            image = ImageOps.invert(image.convert("L"))
        channels, side, _ = self.info.input_shape
        depths = Depths(self.info.pixel_range, alone=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "picture.png"
            image.save(path)
            pixels, bad = read_all([str(path)], channels, side, depths)
        if bad:
            raise InputError(f"the picture {bad[0][1].reason}.")
        return pixels

    def _shares(self, features: Tensor, shown: Sequence[int]) -> tuple[tuple[str, ...], list]:
        """Say which layer spoke for which of some classes; nothing of other heads."""
        head = self.model.head
        if not isinstance(head, SpinalNet):
            return (), []
        try:
            shares = explain(head, features)[0]
        except InputError:  # an output row that is more than a matrix
            return (), []
        rows = [
            [f"{layer + 1}", f"{layer % head.spine.num_splits + 1}", *_signed(shares[layer, shown])]
            for layer in range(len(shares))
        ]
        return ("layer", "slice", *(self.info.class_names[k] for k in shown)), rows

    def _find_mistakes(self) -> tuple[Tensor, list[np.ndarray], list[str]]:
        """Return features, pictures and captions of validation images that it gets wrong."""
        none = torch.empty(0, 0), [], []
        if self.info.task == "regression":
            return none
        try:
            part = self.trained.load_data().val
        except SpinalnetError as error:
            self.why_no_mistakes = f"mistakes cannot be shown: {error}"
            return none
        kept, pictures, captions, seen = [], [], [], 0
        for images, targets in part.batches(256):
            with torch.no_grad():
                features = self.model.trunk(images)
                said = self.model.head(features).argmax(1)
            for row in (said != targets).nonzero()[:, 0].tolist():
                kept.append(features[row].flatten().float())
                pictures.append(self._shown(images[row]))
                names = self.info.class_names
                captions.append(f"{names[int(targets[row])]}, taken for {names[int(said[row])]}")
            seen += len(targets)
            if seen >= MOST_EXAMPLES:
                break
        return (torch.stack(kept) if kept else none[0]), pictures, captions

    def _shown(self, image: Tensor) -> np.ndarray:
        """Return a normalised image `(C, H, W)` as bytes `(H, W, 3)`."""
        constants = (torch.tensor(one).view(-1, 1, 1) for one in (self.info.std, self.info.mean))
        std, mean = constants
        pixels = (image.float() * std + mean).clamp(0, 1).mul(255).byte()
        return pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()

    def _nearest(self, features: Tensor) -> list[tuple[np.ndarray, str]]:
        """Return the mistakes whose features point most nearly the same way."""
        if not self._pictures:
            return []
        alike = torch.nn.functional.cosine_similarity(self._features, features, dim=1)
        order = alike.argsort(descending=True)[:SHOWN].tolist()
        return [(self._pictures[k], self._captions[k]) for k in order]


class TableDemo:
    """What may be asked of the model of a table.

    Args:
        model: The model.
        tell: Called with a sentence for what cannot be shown.
    """

    def __init__(self, model: TableModel, tell: Tell | None = None) -> None:
        self.model, self.columns = model, model.about.columns
        self.names = [one.name or f"x{k + 1}" for k, one in enumerate(self.columns)]
        self._rows: Any = None
        self._wrong: list[int] = []
        self._captions: list[str] = []
        try:
            self._rows, targets = model.test_rows()
            self._find_mistakes(targets)
        except SpinalnetError as error:
            if tell is not None:
                tell(f"other rows cannot be shown: {error}")

    @property
    def title(self) -> str:
        """What is asked: data and head."""
        return f"{self.model.about.data}, {self.model.about.head}"

    def start(self) -> list[Any]:
        """Return a row to begin with: the first of the test rows, or nothing."""
        if self._rows is None or not len(self._rows):
            return [None] * len(self.columns)
        return [_plain(_cell(self._rows, 0, place)) for place in range(len(self.columns))]

    def ask(self, *values: Any) -> Answer:
        """Answer for one row, its values in the order of the columns; None for no value.

        Raises:
            InputError: If a value is none that its column can hold.
        """
        if len(values) != len(self.columns):
            raise InputError(f"a row has {len(self.columns)} values, got {len(values)}.")
        row = self._row(values)
        said = self.model.answers(row)[0]
        shares, header = self._shares(row, said)
        near = self._nearest(row)
        if self.model.task == "regression":
            targets = self.model.about.targets or ("value",) * len(said)
            pairs = zip(targets, map(float, said), strict=True)
            text = ", ".join(f"{target}: {plain_number(value)}" for target, value in pairs)
            return Answer(value=text, shares_of=header, shares=shares, mistaken_rows=near)
        order = np.argsort(-said, kind="stable")[:SHOWN]
        named = {self.model.class_names[k]: float(said[k]) for k in order}
        return Answer(named, shares_of=header, shares=shares, mistaken_rows=near)

    def _row(self, values: Sequence[Any]) -> Any:
        if not any(one.name for one in self.columns):
            return np.asarray([[np.nan if v in (None, "") else float(v) for v in values]])
        import pandas as pd

        cells = {
            one.name: [None if value == "" else value]
            for one, value in zip(self.columns, values, strict=True)
        }
        return self.model.aligned(pd.DataFrame(cells), data="this row")

    def _shares(self, row: Any, said: np.ndarray) -> tuple[list[list[str]], tuple[str, ...]]:
        """Say how the answer would move, on average, with each column's value of other rows."""
        if self._rows is None or not len(self._rows):
            return [], ()
        others = _pick(self._rows, range(min(len(self._rows), 50)))
        shown = int(said.argmax()) if self.model.task == "classification" else 0
        found = []
        for place, name in enumerate(self.names):
            moved = self.model.answers(_with_values_of(row, others, place))[:, shown] - said[shown]
            found.append((float(np.mean(moved)), name))
        found.sort(key=lambda one: -abs(one[0]))
        what = self.model.class_names[shown] if self.model.task == "classification" else "value"
        rows = [[name, *_signed(torch.tensor([-move]))] for move, name in found[:SHOWN]]
        return rows, ("column", f"spoke for {what} by")

    def _find_mistakes(self, targets: Any) -> None:
        """Remember the test rows that are furthest off."""
        said, targets = self.model.answers(self._rows), np.asarray(targets)
        if self.model.task == "classification":
            right = [self.model.classes.index(one) for one in targets.tolist()]
            guess = said.argmax(1)
            self._wrong = np.flatnonzero(guess != right).tolist()
            names = self.model.class_names
            self._captions = [
                f"{names[right[k]]}, taken for {names[guess[k]]}" for k in self._wrong
            ]
            return
        off = np.abs(said - targets.reshape(said.shape)).mean(1)
        self._wrong = np.argsort(-off)[: max(1, len(off) // 10)].tolist()
        self._captions = [
            f"{plain_number(float(targets.reshape(said.shape)[k, 0]))}, taken for "
            f"{plain_number(float(said[k, 0]))}"
            for k in self._wrong
        ]

    def _nearest(self, row: Any) -> list[list[str]]:
        """Return a header and the mistaken rows that are most like this one."""
        if not self._wrong:
            return []
        wrong = _pick(self._rows, self._wrong)
        far = np.zeros(len(self._wrong))
        for place, column in enumerate(self.columns):
            there, here = _values(wrong, place), _values(row, place)[0]
            if column.kind == "number":
                spread = float(np.nanstd(_values(self._rows, place).astype(float))) or 1.0
                apart = np.abs(there.astype(float) - float(here if here is not None else "nan"))
                far += np.nan_to_num(apart / spread, nan=1.0)
            else:
                far += np.array([str(one) != str(here) for one in there], dtype=float)
        nearest = np.argsort(far, kind="stable")[:SHOWN]
        header = ["", *self.names]
        return [header] + [
            [self._captions[k], *(_as_text(_cell(wrong, k, p)) for p in range(len(self.names)))]
            for k in nearest
        ]


def demo_of(run: str | Path, tell: Tell | None = None) -> ImageDemo | TableDemo:
    """Read a trained model, to be asked.

    Args:
        run: Folder of a run or of a comparison, or a checkpoint file.
        tell: Called with a sentence for everything the user should know.

    Raises:
        InputError: If there is no finished run.
    """
    model = load(run_of(run, tell))
    return TableDemo(model, tell) if isinstance(model, TableModel) else ImageDemo(model, tell)


def _signed(values: Tensor) -> list[str]:
    return [f"{float(value):+.3g}" for value in values]


def _pick(rows: Any, places: Sequence[int]) -> Any:
    places = list(places)
    return rows.iloc[places].reset_index(drop=True) if hasattr(rows, "iloc") else rows[places]


def _values(rows: Any, place: int) -> np.ndarray:
    column = rows.iloc[:, place].to_numpy(dtype=object) if hasattr(rows, "iloc") else rows[:, place]
    return np.array([_plain(one) for one in column], dtype=object)


def _cell(rows: Any, row: int, place: int) -> Any:
    return rows.iloc[row, place] if hasattr(rows, "iloc") else rows[row, place]


def _with_values_of(row: Any, others: Any, place: int) -> Any:
    """Return a row as often as there are others, with their values in one column."""
    if not hasattr(row, "iloc"):
        made = np.repeat(row, len(others), axis=0)
        made[:, place] = others[:, place]
        return made
    made = _pick(row, [0] * len(others))
    name = row.columns[place]
    made[name] = others[name].array
    return made


def _plain(value: Any) -> Any:
    """Return a cell as a plain value; None for nothing."""
    if value is None or value != value or type(value).__name__ in ("NAType", "NaTType"):
        return None
    return value.item() if hasattr(value, "item") else value


def _as_text(value: Any) -> str:
    value = _plain(value)
    return "" if value is None else plain_number(value) if isinstance(value, float) else str(value)
