"""The command over several data sets: `spinalnet study`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from spinalnet._checks import InputError
from spinalnet.cli.compare import read_jobs
from spinalnet.cli.options import Wait
from spinalnet.cli.output import answer, answer_part, say
from spinalnet.cli.progress import alone_in, plan_in_words, show_progress
from spinalnet.cli.root import ASK, app


@app.command("study", rich_help_panel=ASK)
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
        typer.Option(
            help="Of folders: the heads it is about, comma separated; all without it.",
            metavar="NAMES",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what would run, and what it costs; write nothing."),
    ] = False,
    wait: Wait = False,
) -> None:
    """Ask one question of several data sets: ranks, chances of being better, every answer.

    A study file holds data (a list of names, folders, tables with target), heads, seeds, the pairs
    the study is about (confirmatory), and options of every comparison. The same command again
    goes on where it was stopped.
    """
    from spinalnet.comparison import study

    command = f"spinalnet {shlex.join(sys.argv[1:])}"
    if len(what) == 1 and Path(what[0]).suffix.lower() in (".yaml", ".yml"):
        if confirmatory is not None:
            raise InputError("a study file says itself what it is about: leave out confirmatory.")
        spec = study.StudySpec.read(what[0])
        out = out or Path("runs") / Path(what[0]).stem
        workers = read_jobs(jobs)
        if dry_run:
            plans = []
            for name, plan in study.plan_study(spec, out, jobs=workers):
                told, shown = plan_in_words(plan, name)
                answer_part("planned", told, *shown)
                plans.append(told)
            answer({"plans": plans})
            return
        total = len(spec.data) * len(spec.heads) * spec.seeds
        with alone_in(out, wait), show_progress(total) as on_event:
            found = study.run_study(
                spec,
                out,
                jobs=workers,
                command=command,
                on_event=on_event,
                told=lambda name, summary: say(f"{name}: {summary.headline}", data=name),
            )
    else:
        if dry_run:
            raise InputError("--dry-run is for a study file: finished comparisons run nothing.")
        asked = None if confirmatory is None else [one.strip() for one in confirmatory.split(",")]
        found = study.together(study.read_folders(what), asked)
        out = out or Path("runs") / "study"
    page = study.write_study(found, out, command)
    answer({"report": page, "study": found.to_dict()}, found.headline, f"Report: {page}")
