"""Using a trained model: what it says about images.

A run folder, or its checkpoint alone, carries class names, image size and normalisation, so
nothing needs to be said again. Predictions are made batch by batch and written as they are made:
memory does not grow with the number of images, and an interruption leaves no half-written file.
"""

from __future__ import annotations

import contextlib
import csv
import heapq
import io
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import torch

from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.comparison import TrainedModel, load_trained
from spinalnet.data import normalize
from spinalnet.data.folders import iter_images
from spinalnet.data.images import BadImage, BadImagesError, read_batches, usable_cpus
from spinalnet.files import replacing
from spinalnet.texts import spreadsheet_cell
from spinalnet.training import placement

Format = Literal["csv", "jsonl"]
_FORMATS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
FEW_CLASSES = 20  # up to so many, every probability is written unless told otherwise


@dataclass(frozen=True)
class Prediction:
    """What a model says about one image: a probability for every class."""

    path: Path
    probabilities: tuple[float, ...]
    class_names: tuple[str, ...] = field(repr=False)

    @property
    def class_name(self) -> str:
        """The most probable class."""
        return self.top(1)[0][0]

    @property
    def probability(self) -> float:
        """Its probability."""
        return max(self.probabilities)

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the `count` most probable classes with their probabilities, best first."""
        pairs = zip(self.class_names, self.probabilities, strict=True)
        return heapq.nlargest(count, pairs, key=lambda pair: pair[1])


def predict_images(
    run: str | Path | TrainedModel,
    paths: Iterable[str | Path],
    *,
    batch_size: int = 64,
    device: str = "auto",
    on_bad_image: Callable[[BadImage], None] | None = None,
) -> Iterator[Prediction]:
    """Classify images as they come, some batches of them in memory at a time.

    Images are read as the training images were (size, channels, normalisation), by threads.

    Args:
        run: Folder of a run, a checkpoint file, or what `load_trained` returned.
        paths: Image files, and folders, which stand for all images below them; may be endless.
        batch_size: Images per forward pass.
        device: auto, cpu, cuda or mps.
        on_bad_image: Called with every file that cannot be used, which is then left out. Without
            it they are an error, all in one report, after the last prediction.

    Raises:
        InputError: If a folder holds no image, or images cannot be used; they are all named.
    """
    check_positive("batch_size", batch_size)
    trained = run if isinstance(run, TrainedModel) else load_trained(run)
    info = trained.info
    if info.task != "classification" or len(info.input_shape) != 3:
        raise InputError(
            f"this model was trained on '{info.name}', which are not images of classes: it cannot "
            "classify image files."
        )
    where = placement.resolve_device(device)
    return _predictions(trained, paths, batch_size, where, on_bad_image)


def _predictions(
    trained: TrainedModel,
    paths: Iterable[str | Path],
    batch_size: int,
    device: torch.device,
    on_bad_image: Callable[[BadImage], None] | None,
) -> Iterator[Prediction]:
    info, model = trained.info, trained.model.to(device).eval()
    reading: deque[list[str]] = deque()  # the batches that threads are decoding

    def batches() -> Iterator[list[str]]:
        files = _files(paths)
        while batch := list(islice(files, batch_size)):
            reading.append(batch)
            yield batch

    bad: list[BadImage] = []
    channels, size, _ = info.input_shape
    pixels_of = read_batches(batches(), channels, size, usable_cpus(), pinned=device.type == "cuda")
    with contextlib.closing(pixels_of):  # threads end, however this ends
        for pixels, wrong in pixels_of:
            batch, unusable = reading.popleft(), dict(wrong)
            for what in unusable.values():
                if on_bad_image is None:
                    bad.append(what)
                else:
                    on_bad_image(what)
            good = [row for row in range(len(batch)) if row not in unusable]
            if not good:
                continue
            inputs = pixels[good].to(device, non_blocking=True)
            with torch.no_grad():
                logits = model(normalize(inputs, info.mean, info.std))
                rows = logits.float().softmax(dim=1).cpu().tolist()
            for row, probabilities in zip(good, rows, strict=True):
                yield Prediction(Path(batch[row]), tuple(probabilities), info.class_names)
    if bad:
        raise BadImagesError(bad, "remove {them}, or leave such files out with on_bad_image=skip")


def _files(paths: Iterable[str | Path]) -> Iterator[str]:
    """Yield files as they are, and of folders all images below them."""
    for path in paths:
        if Path(path).is_dir():
            yield from map(str, iter_images([path]))
        else:
            yield str(path)


def read_paths(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield the paths in a text: one a line, or separated by NUL as `find -print0` writes them.

    Args:
        chunks: The text piece by piece; read as far as paths are asked for.
    """
    separator, rest = b"", b""
    for chunk in chunks:
        rest += chunk
        separator = separator or (b"\0" if b"\0" in rest else b"\n" if b"\n" in rest else b"")
        if separator:
            *paths, rest = rest.split(separator)
            yield from filter(None, map(_decode, paths))
    yield from filter(None, map(_decode, [rest]))


def _decode(path: bytes) -> str:
    """Return a path as Python names files, whose names need not be text."""
    return path.removesuffix(b"\r").decode(sys.getfilesystemencoding(), "surrogateescape")


def write_predictions(
    run: str | Path,
    paths: Iterable[str | Path],
    out: str | Path | None = None,
    *,
    form: Format | None = None,
    top_k: int = 1,
    all_probabilities: bool | None = None,
    batch_size: int = 64,
    device: str = "auto",
    on_bad_image: Callable[[BadImage], None] | None = None,
    on_row: Callable[[Prediction], None] | None = None,
) -> int:
    """Write predictions as they are made.

    CSV has the columns path, prediction, probability, then `prediction_2`, `probability_2`, ... up
    to `top_k`, then `p_CLASS` for every class; names that a spreadsheet would run as a formula
    stand behind a quotation mark there. JSONL has one object a line with path, prediction,
    probability, `top` (pairs of class and probability) and `probabilities` (by class).

    Args:
        run: Folder of a run, or a checkpoint file.
        paths: As for `predict_images`.
        out: File that is replaced when all images are classified; standard output if None.
        form: csv or jsonl; without it the ending of `out` says so, else CSV.
        top_k: Write so many of the most probable classes.
        all_probabilities: Write every class's probability; by default with up to 20 classes.
        batch_size: Images per forward pass.
        device: auto, cpu, cuda or mps.
        on_bad_image: As for `predict_images`. Without it, and with bad files, `out` is not written.
        on_row: Called after every row.

    Returns:
        The number of rows.

    Raises:
        InputError: If images cannot be used, or `out` cannot be written.
    """
    form = form_of(out, form)
    trained = load_trained(run)
    names = trained.info.class_names
    top_k = min(check_positive("top_k", top_k), max(len(names), 1))
    if all_probabilities is None:
        all_probabilities = len(names) <= FEW_CLASSES
    rows = predict_images(
        trained, paths, batch_size=batch_size, device=device, on_bad_image=on_bad_image
    )
    count = 0
    with writable(out, form) as file:
        writer = csv.writer(file, lineterminator="\n")
        if form == "csv":
            more = [f"{what}_{i}" for i in range(2, top_k + 1) for what in _COLUMNS]
            every = [f"p_{name}" for name in names] if all_probabilities else []
            writer.writerow(["path", *_COLUMNS, *more, *map(spreadsheet_cell, every)])
        for row in rows:
            if form == "csv":
                top = [cell for name, p in row.top(top_k) for cell in (name, f"{p:.6f}")]
                every = [f"{p:.6f}" for p in row.probabilities] if all_probabilities else []
                writer.writerow(map(spreadsheet_cell, [str(row.path), *top, *every]))
            else:
                record = _record(row, top_k, all_probabilities)
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
            if on_row is not None:
                on_row(row)
    return count


_COLUMNS = ("prediction", "probability")


def _record(row: Prediction, top_k: int, all_probabilities: bool) -> dict[str, Any]:
    top = [[name, round(p, 6)] for name, p in row.top(top_k)]
    record: dict[str, Any] = {"path": str(row.path), "prediction": top[0][0]}
    record["probability"] = top[0][1]
    if top_k > 1:
        record["top"] = top
    if all_probabilities:
        pairs = zip(row.class_names, row.probabilities, strict=True)
        record["probabilities"] = {name: round(p, 6) for name, p in pairs}
    return record


def form_of(out: str | Path | None, form: str | None) -> Format:
    """Return the format of an output; the ending of `out` says it where `form` does not.

    Raises:
        InputError: If neither does.
    """
    if form is not None:
        for known in _FORMATS.values():
            if form == known:
                return known
        raise unknown_name("format", form, set(_FORMATS.values()))
    if out is None:
        return "csv"
    suffix = Path(out).suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(
            f"the ending of '{out}' says no format: use .csv or .jsonl, or give form=csv."
        )
    return _FORMATS[suffix]


@contextlib.contextmanager
def writable(out: str | Path | None, form: Format) -> Iterator[IO[str]]:
    """Open the output for text; names of files that are no text survive as well as they can."""
    # In JSON the escape that replaces a byte is JSON's own; in CSV the byte itself is kept.
    errors = "surrogateescape" if form == "csv" else "backslashreplace"
    with contextlib.ExitStack() as stack:
        raw = sys.stdout.buffer if out is None else stack.enter_context(replacing(out))
        text = io.TextIOWrapper(raw, "utf-8", errors=errors, newline="", write_through=False)
        try:
            yield text
            text.flush()
        finally:
            text.detach()  # who opened it closes it
