"""The command over several data sets: `spinalnet study`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from spinalnet._checks import InputError
from spinalnet.cli.progress import show_progress
from spinalnet.cli.root import app, out_console


@app.command("study")
def study_command(
    what: Annotated[
        list[str],
        typer.Argument(
            help="A study file (YAML), which is run; or folders of finished comparisons.",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the study.")] = None,
    jobs: Annotated[str, typer.Option(help="Runs at a time.", metavar="N|auto")] = "auto",
    confirmatory: Annotated[
        str | None,
        typer.Option(help="Of folders: the heads it is about, comma separated; all without it."),
    ] = None,
) -> None:
    """Ask one question of several data sets: ranks, chances of being better, every answer.

    A study file holds data (a list of names, folders, tables with target), heads, seeds, the pairs
    the study is about (confirmatory), and options of every comparison. The same command again
    goes on where it was stopped.
    """
    from spinalnet.comparison import study

    if len(what) == 1 and Path(what[0]).suffix.lower() in (".yaml", ".yml"):
        if confirmatory is not None:
            raise InputError("a study file says itself what it is about: leave out confirmatory.")
        spec = study.StudySpec.read(what[0])
        out = out or Path("runs") / Path(what[0]).stem
        workers = int(jobs) if jobs.isdecimal() else jobs
        with show_progress(len(spec.data) * len(spec.heads) * spec.seeds) as on_event:
            found = study.run_study(
                spec,
                out,
                jobs=workers,
                on_event=on_event,
                told=lambda name, summary: out_console.print(
                    f"{name}: {summary.headline}", highlight=False, markup=False
                ),
            )
    else:
        asked = None if confirmatory is None else [one.strip() for one in confirmatory.split(",")]
        found = study.together(study.read_folders(what), asked)
        out = out or Path("runs") / "study"
    page = study.write_study(found, out, f"spinalnet {shlex.join(sys.argv[1:])}")
    out_console.print(found.headline, highlight=False, markup=False, soft_wrap=True)
    out_console.print(f"Report: {page}", highlight=False, markup=False, soft_wrap=True)
