"""Commands that look into a model: what it depends on, and what it says in a browser."""

from __future__ import annotations

import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from spinalnet._checks import InputError, missing_gradio
from spinalnet.cli.options import RunFolder
from spinalnet.cli.output import answer, answer_part, say
from spinalnet.cli.progress import print_note
from spinalnet.cli.root import USE, app


@app.command("explain", rich_help_panel=USE)
def explain_command(
    run: RunFolder,
    data: Annotated[
        str | None, typer.Option(help="A table whose rows are asked. Default: the test rows.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for figure and numbers.")] = None,
) -> None:
    """Say what a model depends on: the columns of a table, or the layers of a spinal head.

    Of the model of a table, for every column, how much and in which direction. effect: how far a
    prediction moves when the row's value is exchanged for that of another row; slope: its
    derivative by a column of numbers. Both in the units of the target, or in probability.

    Of the model of images, for some test images, which slice at which layer spoke for which class
    (more of it: spinalnet theory explain).
    """
    from spinalnet.comparison.wording import as_rich
    from spinalnet.deploy import table_explain
    from spinalnet.deploy.saved import is_of_table

    if not is_of_table(run):
        _explain_images(run, data, out)
        return
    folder = out or Path("runs") / f"explain-{run.resolve().name}"
    found = table_explain.explain_table_model(run, folder, data=data, tell=print_note)
    header = ("output", "column", "effect", "slope (mean ± std)")
    rows = [
        [one.output, one.column, f"{one.effect:.4g}", table_explain.slope_text(one)]
        for one in found.effects[:40]
    ]
    title = f"effect of the columns on the prediction, {found.unit}, {found.rows} rows"
    answer({"folder": folder, "effects": found.records()}, as_rich(header, rows, title))
    say(f"All numbers and the figure: {folder}")


def _explain_images(run: Path, data: str | None, out: Path | None) -> None:
    """Draw which layers spoke for which class."""
    from spinalnet.comparison import explaining
    from spinalnet.comparison.loading import run_of

    if data is not None:
        raise InputError("--data has no meaning for the model of images: leave it out.")
    run = run_of(run, print_note)
    figure = explaining.explain_run(run, out or Path("runs") / f"explain-{run.resolve().name}")
    answer({"figure": figure}, f"Figure: {figure}")


@app.command("demo", rich_help_panel=USE)
def demo_command(
    run: RunFolder,
    port: Annotated[
        int | None, typer.Option(help="Port. Default: the first free one from 7860 on.")
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Whether to open it.")
    ] = True,
) -> None:
    """Try a model in a browser: drop or draw an image, or fill in a row of its table.

    Shows probabilities, which layer or column spoke for them, and the nearest mistakes. It is
    served to this machine alone (127.0.0.1) until it is interrupted; needs Gradio
    (pip install '.[demo]' in a checkout).
    """
    if find_spec("gradio") is None:  # told before torch and the model are loaded
        raise missing_gradio()
    from spinalnet.deploy import demo_page
    from spinalnet.training import stopping

    page = demo_page.interface(run, print_note)
    address = demo_page.serve(page, port=port, browser=browser, block=False)
    answer_part("serving", {"address": address}, f"{address} (Ctrl-C ends it)")
    try:
        page.block_thread()
    except stopping.Interrupted as error:
        if error.number != signal.SIGINT:
            raise
    # As was announced: nothing was cut short.
    page.close(verbose=False)
    say("the demo has ended.")
    answer({"address": address})
