"""The command that lets one try a model in a browser: `spinalnet demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from spinalnet.cli.options import RunFolder
from spinalnet.cli.output import answer
from spinalnet.cli.progress import print_note
from spinalnet.cli.root import USE, app


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
    served to this machine alone (127.0.0.1) until it is interrupted; needs pip install
    'spinalnet[demo]'.
    """
    from spinalnet.deploy import demo

    page = demo.interface(run, print_note)
    address = demo.serve(page, port=port, browser=browser, block=False)
    answer({"address": address}, f"{address} (Ctrl-C ends it)")
    page.block_thread()
