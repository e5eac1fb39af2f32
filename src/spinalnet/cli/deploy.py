"""Commands that use a trained model."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spinalnet._checks import InputError
from spinalnet.cli import names as complete
from spinalnet.cli.advice import runs_first
from spinalnet.cli.options import (
    DataDir,
    Ignore,
    ImageColumn,
    LabelColumn,
    LabelsOf,
    OnBadImage,
    RunFolder,
    SplitColumn,
    Tta,
    in_full,
    option,
    patterns,
)
from spinalnet.cli.output import answer, answer_part, manner, say, say_now
from spinalnet.cli.progress import counting, print_note
from spinalnet.cli.root import USE, app

if TYPE_CHECKING:
    from spinalnet.data import images

DEVICES = ("auto", "cpu", "cuda", "mps")


@app.command("evaluate", rich_help_panel=USE)
def evaluate_command(
    run: RunFolder,
    data: Annotated[
        str | None, typer.Option(help="Other data with the same classes.", callback=in_full)
    ] = None,
    data_dir: DataDir = None,
    labels: LabelsOf = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    on_bad_image: Annotated[
        str | None,
        option(
            "Image files",
            "For --data or --labels: image files that cannot be used: refuse, or leave out. "
            "Default: the run's.",
            choices=("error", "skip"),
        ),
    ] = None,
    ignore: Ignore = None,
    device: Annotated[str | None, option("Options", "Default: the run's.", choices=DEVICES)] = None,
    tta: Tta = "none",
) -> None:
    """Evaluate a trained model on the test part of its own or of other data, class by class.

    Images with a table of labels (--labels): all that it names, or those it calls test.

    The model of a table: on the test rows of its run, or on all rows of another table (--data).
    """
    from spinalnet import _dist
    from spinalnet.deploy import evaluate_run

    columns = {"image_column": image_column, "label_column": label_column}
    evaluation = evaluate_run(
        *(run, data, data_dir),
        device=device,
        labels=labels,
        **columns,
        split_column=split_column,
        on_bad_image=on_bad_image,  # type: ignore[arg-type]  # checked there
        ignore=patterns(ignore),
        tta=tta,
        tell=print_note,
    )
    lines: list[Any] = [
        f"{name:>14}  {value:.4f}" if name != "n" else f"{name:>14}  {value}"
        for name, value in evaluation.metrics.items()
        if name != "confusion"
    ]
    if evaluation.classes:
        from spinalnet.comparison.wording import class_scores

        lines += ["", class_scores(evaluation.classes)]
    if _dist.is_main():
        answer(evaluation.to_dict(), *lines)


def _standard_input() -> Iterator[bytes]:
    """Yield what comes in as it comes in; a buffered reader would wait for more."""
    while chunk := os.read(sys.stdin.fileno(), 1 << 16):
        yield chunk


@app.command("predict", rich_help_panel=USE)
def predict_command(
    ctx: typer.Context,
    run: RunFolder,
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders of images, or - for paths on standard input, one a line or "
            "separated by NUL (find -print0). For the model of a table: one table.",
            metavar="PATHS...",
            callback=in_full,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File (.csv, .jsonl); standard output without it.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file that --out names, if there is one.")
    ] = False,
    form: Annotated[
        str | None,
        option(
            "Options", "Default: by --out's ending, or csv.", "--format", choices=("csv", "jsonl")
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(help="So many of the most probable classes.", min=1)] = 1,
    all_probabilities: Annotated[
        bool | None,
        typer.Option(
            "--all-probabilities/--no-all-probabilities",
            help="Probability of every class. Default: with up to 20 classes.",
        ),
    ] = None,
    on_bad_image: OnBadImage = "error",
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.", min=1)] = 64,
    device: Annotated[str, option("Options", "Where to compute.", choices=DEVICES)] = "auto",
    tta: Tta = "none",
    keep: Annotated[
        str | None,
        typer.Option(
            help="Tables: columns written beside the predictions, comma separated, such as an id.",
            metavar="COLUMNS",
        ),
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option(
            help="PATHS are a table that names images, and their folder: column that is written "
            "beside the predictions, such as an id.",
            metavar="COLUMN",
            rich_help_panel="Labels",
        ),
    ] = None,
    image_column: ImageColumn = None,
) -> None:
    """Classify images or predict their values, any number of them, or the rows of a table.

    Rows are written as they are made. RUN may be a comparison, whose best run is taken. A table has
    its columns by name, in any order; missing values and new levels are allowed, a missing column
    is not.

    With bad files the exit code is 2, after one report of all of them, and --out is not written;
    with --on-bad-image skip they are listed, the others written, and the exit code is 0.
    """
    from spinalnet import _dist
    from spinalnet.comparison.loading import run_of
    from spinalnet.data.frames import is_table
    from spinalnet.data.walking import Tally
    from spinalnet.deploy import predict
    from spinalnet.deploy.saved import is_of_table
    from spinalnet.training import stopping

    if not _dist.is_main():
        return  # there is one file to write
    if sentence := runs_first("predict", run, paths):
        raise InputError(sentence)
    if not run.expanduser().exists():
        raise InputError(f"{run} is not the folder of a run: there is nothing of that name.")
    if manner.as_json and out is None:
        if form == "csv":
            raise InputError(
                "--json writes lines of JSON alone to standard output: leave out --format csv, or "
                "name a file for it (--out)."
            )
        form = form or "jsonl"
    if out is not None and out.expanduser().is_file() and not force:
        raise InputError(f"'{out}' exists already: name another file, or replace it with --force.")
    if is_of_table(run):
        of_images = ("on_bad_image", "batch_size", "device", "tta", "id_column", "image_column")
        _refuse(ctx, of_images, "for the model of a table")
        _predict_table(run, paths, out, keep, form, top_k, all_probabilities)
        return
    _refuse(ctx, ("keep",), "for the model of images")
    run = run_of(run, print_note)
    skipped = 0

    def leave_out(bad: images.BadImage) -> None:
        nonlocal skipped
        skipped += 1
        print_note(f"left out: '{bad.path}' {bad.reason}.")

    ids = None
    if id_column is not None or image_column is not None:
        skip = on_bad_image == "skip"
        ids = predict.named_by_table(paths, id_column, image_column, keep_missing=skip)
    elif tables := [path for path in paths if is_table(path)]:
        raise InputError(
            f"'{tables[0]}' is a table, not an image: with id_column=COLUMN the images that it "
            "names are predicted, with that column beside them."
        )
    named = (path for path in paths if path != "-")
    piped = predict.read_paths(_standard_input()) if "-" in paths else ()
    unused = Tally()
    try:
        with counting({"predict": None}, "images") as advance:
            count = predict.write_predictions(
                run,
                itertools.chain(named, piped),
                out,
                form=form,  # type: ignore[arg-type]  # checked there
                top_k=top_k,
                all_probabilities=all_probabilities,
                batch_size=batch_size,
                device=device,
                tta=tta,
                tell=print_note,
                on_bad_image=leave_out if on_bad_image == "skip" else None,
                on_row=lambda _: advance("predict"),
                unused=unused,
                ids=ids,
            )
    except (KeyboardInterrupt, stopping.Interrupted) as error:
        say_now("stopped; nothing was written." if out else "stopped.")
        raise typer.Exit(stopping.exit_code(error)) from None
    if unused:
        print_note(unused.note())
    also = f", {skipped} files left out" if skipped else ""
    _say_written(count, out, also)


def _say_written(count: int, out: Path | None, also: str = "") -> None:
    """Say how many predictions were written, where they do not stand above."""
    if out is not None and not manner.as_json:
        say(f"{count} predictions{also}: {out}")
    answer({"predictions": count, "file": out})


def _refuse(ctx: typer.Context, options: Sequence[str], why: str) -> None:
    """Refuse options that stand in the command but have no meaning here."""
    for name in options:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} has no meaning {why}: leave it out.")


def _predict_table(
    run: Path,
    paths: list[str],
    out: Path | None,
    keep: str | None,
    form: str | None,
    top_k: int,
    all_probabilities: bool | None,
) -> None:
    """Write predictions for the rows of one table."""
    from spinalnet.deploy import write_table_predictions

    if len(paths) != 1:
        raise InputError(
            f"the model of a table predicts one table at a time, got {len(paths)} paths."
        )
    count = write_table_predictions(
        run,
        paths[0],
        out,
        form=form,  # type: ignore[arg-type]  # checked there
        top_k=top_k,
        all_probabilities=all_probabilities,
        keep=[name.strip() for name in keep.split(",")] if keep else (),
        tell=print_note,
    )
    _say_written(count, out)


@app.command("verify", rich_help_panel=USE)
def verify_command(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder of a run, of a comparison, or of many.",
            metavar="FOLDER",
            autocompletion=complete.runs,
        ),
    ],
    models: Annotated[
        bool,
        typer.Option(
            "--models/--no-models",
            help="Whether to compute the metrics again from the models, where the data is here.",
        ),
    ] = True,
) -> None:
    """Check that runs are whole: every file, and whether the model still says the same.

    Files are held against their digests and against each other, the test metrics against what the
    model said and, if its data can be had, against the model. Nothing is changed; with any damage
    the exit code is 2.
    """
    from spinalnet.deploy import verify

    broken = {"run": 0, "comparison": 0, "model": 0}
    count = dict(broken)
    for found in verify(folder, models=models):
        count[found.kind] += 1
        broken[found.kind] += bool(found.damage)
        word = "damaged" if found.damage else "whole"
        said = [f"{found.run}: {word} ({len(found.checked)} checks)", *found.damage]
        said += [f"note: {note}" for note in found.notes]
        answer_part("run_checked", found.to_dict(), "\n  ".join(said))
    if not count["model"]:
        say(f"{count['run'] - broken['run']} of {count['run']} runs are whole.")
    if broken["comparison"]:
        say("The runs' comparison is damaged.")
    whole = count["run"] - broken["run"]
    answer({"runs": count["run"], "whole": whole, "comparisons_damaged": broken["comparison"]})
    if any(broken.values()):
        raise typer.Exit(2)


@app.command("export", rich_help_panel=USE)
def export_command(
    ctx: typer.Context,
    run: RunFolder,
    out: Annotated[Path, typer.Argument(help="File to write: .onnx, or .pt2 (torch.export).")],
    inputs: Annotated[
        str | None,
        option(
            "Options",
            "uint8-hwc or uint8-chw: images as bytes; float: images on the 0..1 scale, channels "
            "first, or rows. Default: uint8-hwc for images, float for rows.",
            choices=("uint8-hwc", "uint8-chw", "float"),
        ),
    ] = None,
    output: Annotated[
        str, option("Options", "What it answers with.", choices=("logits", "probabilities"))
    ] = "logits",
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize/--no-normalize", help="Whether the file normalises its inputs itself."
        ),
    ] = True,
    opset: Annotated[
        int | None, typer.Option(help="Version of the ONNX operators. Default: 18.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Tables: rows to compare file and model on. Default: the test rows.",
            callback=in_full,
        ),
    ] = None,
) -> None:
    """Write a trained model as a file that runs without this package, and check its answers.

    The model of a table takes its columns as they are, one input each, and answers with labels and
    probabilities, or with values in the units of the target.
    """
    from spinalnet import _dist
    from spinalnet.deploy import export
    from spinalnet.deploy.saved import is_of_table

    if not _dist.is_main():
        return  # there is one file to write
    if is_of_table(run):
        _refuse(ctx, ("inputs", "output", "normalize"), "for the model of a table")
        _export_table(run, out, data, opset)
        return
    _refuse(ctx, ("data",), "for the model of images")
    options: dict[str, Any] = {"inputs": inputs, "output": output, "normalize": normalize}
    if out.suffix == ".onnx":
        exported = export.export_onnx(run, out, **options, opset=opset or export.OPSET)
    elif out.suffix == ".pt2" and opset is None:
        exported = export.export_program(run, out, **options)
    else:
        raise InputError(f"the file must end in .onnx, or in .pt2 without --opset, got '{out}'.")
    shape = ", ".join(map(str, exported.inputs))
    lines = [
        f"{out}: inputs {exported.dtype} ({shape}), {exported.output} out, "
        f"{sum(exported.nodes.values())} operations, {out.stat().st_size:,} bytes; differs from "
        f"the model by {exported.largest_difference:.1e}"
    ]
    if exported.preprocessing is not None:
        lines.append(
            f"{exported.preprocessing}: makes its inputs of photographs, with Pillow and NumPy"
        )
    answer({"file": out, "exported": exported}, *lines)


def _export_table(run: Path, out: Path, data: str | None, opset: int | None) -> None:
    """Write the model of a table as an ONNX file."""
    from spinalnet.deploy import export, table_export

    if out.suffix != ".onnx":
        raise InputError(f"the model of a table is written as .onnx, got '{out}'.")
    done = table_export.export_table(
        run, out, data=data, opset=opset or export.OPSET, tell=print_note
    )
    inputs = ", ".join(f"{name} ({kind})" for name, kind in done.inputs.items())
    line = (
        f"{out}: inputs {inputs}; {' and '.join(done.outputs)} out, "
        f"{sum(done.nodes.values())} operations, {out.stat().st_size:,} bytes; differs from the "
        f"model by {done.largest_difference:.1e} on {done.rows} rows"
    )
    answer({"file": out, "exported": done}, line)
