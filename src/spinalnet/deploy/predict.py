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
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import torch

from spinalnet._checks import InputError, check_positive, some, unknown_name
from spinalnet.comparison import TrainedModel, load_trained
from spinalnet.data import contents, normalize
from spinalnet.data.depths import Depths
from spinalnet.data.folders import iter_images
from spinalnet.data.images import BadImage, BadImagesError, read_batches, usable_cpus
from spinalnet.data.named_files import find_named
from spinalnet.data.table_files import is_table_file
from spinalnet.data.walking import Tally
from spinalnet.deploy.mirrored import with_tta
from spinalnet.files import expanded, replacing
from spinalnet.texts import spreadsheet_cell
from spinalnet.training import placement

Format = Literal["csv", "jsonl"]
_FORMATS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
FEW_CLASSES = 20  # up to so many, every probability is written unless told otherwise


@dataclass(frozen=True)
class Prediction:
    """What a model says about one image: a probability for every class, or a value.

    Attributes:
        path: The file.
        probabilities: Of every class; of a regression none.
        class_names: In the same order.
        value: Of a regression what it predicts, in the units of its labels; else None.
    """

    path: Path
    probabilities: tuple[float, ...]
    class_names: tuple[str, ...] = field(repr=False)
    value: float | None = None
    tta: str = "none"  # what they are averaged over (see `mirrored`)

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
    paths: str | Path | Iterable[str | Path],
    *,
    batch_size: int = 64,
    device: str = "auto",
    tta: str = "none",
    on_bad_image: Callable[[BadImage], None] | None = None,
    unused: Tally | None = None,
) -> Iterator[Prediction]:
    """Classify images as they come, or predict their values; some batches in memory at a time.

    Images are read as the training images were (size, channels, normalisation), by threads.

    Args:
        run: Folder of a run, a checkpoint file, or what `load_trained` returned.
        paths: Image files, and folders, which stand for all images below them; one, or several,
            which may be endless.
        batch_size: Images per forward pass.
        device: auto, cpu, cuda or mps.
        tta: "flip" for probabilities averaged over an image and its mirror image.
        on_bad_image: Called with every file that cannot be used, which is then left out. Without
            it they are an error, all in one report, after the last prediction.
        unused: Gets what lies in the folders and is no image.

    Raises:
        InputError: If a folder holds no image, or images cannot be used; they are all named.
    """
    check_positive("batch_size", batch_size)
    trained = run if isinstance(run, TrainedModel) else load_trained(run)
    info = trained.info
    if len(info.input_shape) != 3:
        raise InputError(
            f"this model was trained on '{info.name}', which are not images: it cannot predict "
            "image files."
        )
    with_tta(trained, tta)  # a misspelt one is told now, not with the first prediction
    where = placement.resolve_device(device)
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    files = _files(given, unused)
    return _predictions(trained, files, batch_size, where, tta, on_bad_image)


def _predictions(
    trained: TrainedModel,
    files: Iterator[str],
    batch_size: int,
    device: torch.device,
    tta: str,
    on_bad_image: Callable[[BadImage], None] | None,
) -> Iterator[Prediction]:
    info, model = trained.info, with_tta(trained, tta)[0].to(device).eval()
    reading: deque[list[str]] = deque()  # the batches that threads are decoding

    def batches() -> Iterator[list[str]]:
        while batch := list(islice(files, batch_size)):
            reading.append(batch)
            yield batch

    bad: list[BadImage] = []
    channels, size, _ = info.input_shape
    pixels_of = read_batches(
        batches(),
        channels,
        size,
        usable_cpus(),
        pinned=device.type == "cuda",
        depths=Depths(info.pixel_range, alone=True),
    )
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
                logits = model(normalize(inputs, info.mean, info.std)).float().cpu()
            if info.task == "regression":
                values = info.in_units(logits)[:, 0].tolist()
                for row, value in zip(good, values, strict=True):
                    yield Prediction(Path(batch[row]), (), (), value=value, tta=tta)
                continue
            for row, probabilities in zip(good, logits.softmax(dim=1).tolist(), strict=True):
                yield Prediction(Path(batch[row]), tuple(probabilities), info.class_names, tta=tta)
    if bad:
        raise BadImagesError(bad, "remove {them}, or leave such files out with on_bad_image=skip")


def _files(paths: Iterable[str | Path], unused: Tally | None) -> Iterator[str]:
    """Yield files as they are, and of folders all images below them."""
    contents.prepare()
    for path in map(expanded, paths):
        if path.is_dir():
            yield from map(str, iter_images([path], unused))
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
    paths: str | Path | Iterable[str | Path],
    out: str | Path | None = None,
    *,
    form: Format | None = None,
    top_k: int = 1,
    all_probabilities: bool | None = None,
    batch_size: int = 64,
    device: str = "auto",
    tta: str = "none",
    tell: Callable[[str], None] | None = None,
    on_bad_image: Callable[[BadImage], None] | None = None,
    on_row: Callable[[Prediction], None] | None = None,
    unused: Tally | None = None,
    ids: NamedRows | None = None,
) -> int:
    """Write predictions as they are made.

    CSV has the columns path, prediction, probability, then `prediction_2`, `probability_2`, ... up
    to `top_k`, then `p_CLASS` for every class; names that a spreadsheet would run as a formula
    stand behind a quotation mark there. JSONL has one object a line with path, prediction,
    probability, `top` (pairs of class and probability), `probabilities` (by class), and `tta` where
    they are averaged. Of a regression there is the prediction alone. With `ids` what a table calls
    an image comes first.

    Args:
        run: Folder of a run, or a checkpoint file.
        paths: As for `predict_images`.
        out: File that is replaced when all images are classified; standard output if None.
        form: csv or jsonl; without it the ending of `out` says so, else CSV.
        top_k: Write so many of the most probable classes.
        all_probabilities: Write every class's probability; by default with up to 20 classes.
        batch_size: Images per forward pass.
        device: auto, cpu, cuda or mps.
        tta: As for `predict_images`.
        tell: Called with a sentence for everything the user should know.
        on_bad_image: As for `predict_images`. Without it, and with bad files, `out` is not written.
        on_row: Called after every row.
        unused: As for `predict_images`.
        ids: In place of `paths`: the images that a table names (see `named_by_table`).

    Returns:
        The number of rows.

    Raises:
        InputError: If images cannot be used, or `out` cannot be written; if classes are asked for
            of a regression.
    """
    form = form_of(out, form)
    trained = load_trained(run)
    names = trained.info.class_names
    if trained.info.task == "regression" and (top_k > 1 or all_probabilities):
        raise InputError(
            "a regression predicts values, not classes: leave out top_k and all_probabilities."
        )
    top_k = min(check_positive("top_k", top_k), max(len(names), 1))
    if all_probabilities is None:
        all_probabilities = len(names) <= FEW_CLASSES
    paths = paths if ids is None else ids.paths
    note = with_tta(trained, tta)[1]
    if note and tell is not None:
        tell(note)
    options: dict[str, Any] = {"batch_size": batch_size, "device": device, "tta": tta}
    rows = predict_images(trained, paths, on_bad_image=on_bad_image, unused=unused, **options)
    count = 0
    with writable(out, form) as file:
        write = _writer(file, form, names, top_k, all_probabilities, ids)
        for row in rows:
            write(row)
            count += 1
            if on_row is not None:
                on_row(row)
    return count


def _writer(
    file: IO[str],
    form: Format,
    names: Sequence[str],
    top_k: int,
    all_probabilities: bool,
    ids: NamedRows | None,
) -> Callable[[Prediction], object]:
    """Return what writes a row, behind the header that it writes first."""
    first = () if ids is None else ids.columns()

    def called(row: Prediction) -> tuple[str, ...]:
        return () if ids is None else ids.of_next(row.path)

    if form == "jsonl":

        def as_line(row: Prediction) -> object:
            record = dict(zip(first, called(row), strict=True))
            record |= _record(row, top_k, all_probabilities)
            return file.write(json.dumps(record, ensure_ascii=False) + "\n")

        return as_line
    writer = csv.writer(file, lineterminator="\n")
    columns = _COLUMNS if names else _COLUMNS[:1]
    more = [f"{what}_{i}" for i in range(2, top_k + 1) for what in columns]
    every = [f"p_{name}" for name in names] if all_probabilities else []
    writer.writerow(map(spreadsheet_cell, [*first, "path", *columns, *more, *every]))

    def as_cells(row: Prediction) -> object:
        if row.value is not None:
            said = [*called(row), str(row.path)]
            return writer.writerow([*map(spreadsheet_cell, said), f"{row.value:.10g}"])
        top = [cell for name, p in row.top(top_k) for cell in (name, f"{p:.6f}")]
        every = [f"{p:.6f}" for p in row.probabilities] if all_probabilities else []
        return writer.writerow(map(spreadsheet_cell, [*called(row), str(row.path), *top, *every]))

    return as_cells


_COLUMNS = ("prediction", "probability")


class NamedRows:
    """Images with what a table calls them, in its order.

    Args:
        named: The files, and the cells of their rows.
        column: Name of the column of those cells.
    """

    def __init__(self, named: Sequence[tuple[str, str]], column: str) -> None:
        written = ("path", "top", "probabilities")
        if column in (*written, *_COLUMNS) or re.fullmatch(r"p_.*|(prediction|prob.*)_\d+", column):
            raise InputError(
                f"id_column must not have the name of a column of the predictions, got '{column}': "
                "rename it in the table."
            )
        self.paths = [path for path, _ in named]
        self._column, self._next = column, iter(named)

    def columns(self) -> tuple[str]:
        """Return the name of the column."""
        return (self._column,)

    def of_next(self, path: Path) -> tuple[str]:
        """Return what the next row is called that has this file; others were left out."""
        return (next(cell for file, cell in self._next if Path(file) == path),)


def named_by_table(
    paths: Sequence[str | Path],
    id_column: str | None,
    image_column: str | None = None,
    *,
    keep_missing: bool = False,
) -> NamedRows:
    """Return the images that a table names, with what it calls them.

    Args:
        paths: The table, and the folder that its paths are relative to, in any order; without a
            folder it is the table's own.
        id_column: Column that is written beside the predictions; that of the images without it.
        image_column: Column that names the files; None: `id_column`, if its cells are files, or the
            column whose cells are.
        keep_missing: Leave it to the prediction to tell what is missing.

    Raises:
        InputError: If it is not one table and at most one folder, a column is missing, or files
            are missing, all at once.
    """
    folders = [Path(path) for path in paths if Path(path).is_dir()]
    tables = [Path(path) for path in paths if not Path(path).is_dir()]
    if len(tables) != 1 or len(folders) > 1 or not is_table_file(str(tables[0])):
        raise InputError(
            "id_column is a column of a table that names images: give one table, and the folder "
            f"that its paths are relative to, got {some([repr(str(path)) for path in paths], 3)}."
        )
    folder = folders[0] if folders else tables[0].parent
    named = find_named(folder, str(tables[0]), image_column, id_column, keep_missing=keep_missing)
    return NamedRows(named.rows, named.column)


def _record(row: Prediction, top_k: int, all_probabilities: bool) -> dict[str, Any]:
    if row.value is not None:
        return {"path": str(row.path), "prediction": row.value}
    top = [[name, round(p, 6)] for name, p in row.top(top_k)]
    record: dict[str, Any] = {"path": str(row.path), "prediction": top[0][0]}
    record["probability"] = top[0][1]
    if top_k > 1:
        record["top"] = top
    if row.tta != "none":
        record["tta"] = row.tta
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
