"""A comparison as a script of Slurm's: one task of an array for each run, then the report."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from spinalnet.comparison.comparing import TIMING

_SCRIPT = """\
#!/bin/bash
# {count} runs, each a task of an array; then the times of the heads and the report.
# Submit it with: bash {script}
# All nodes must see this folder. Run again, it does what is missing. SPINALNET is the command.
#SBATCH --job-name=spinalnet
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task={threads}
#SBATCH --output={logs}
SPINALNET=${{SPINALNET:-spinalnet}}
RUNS=(
{names}
)
if [ -n "$SLURM_ARRAY_TASK_ID" ]; then
    exec $SPINALNET {arguments} --only "${{RUNS[$SLURM_ARRAY_TASK_ID]}}"
fi
job=$(sbatch --parsable "$0") || exit
sbatch --job-name=spinalnet-report --cpus-per-task={threads} --dependency="afterany:$job" \\
    --wrap {report}
"""


def script_of(names: Sequence[str], arguments: Sequence[str], out: Path, threads: int) -> str:
    """Return the script.

    Args:
        names: Names of the runs.
        arguments: Of the command that makes them, the data and the folder included.
        out: Folder of the comparison.
        threads: Threads of each run.
    """
    command = shlex.join(arguments)
    wrapped = f"${{SPINALNET:-spinalnet}} {command} --only {TIMING}; "
    wrapped += f"${{SPINALNET:-spinalnet}} report {shlex.quote(str(out))}"
    return _SCRIPT.format(
        count=len(names),
        last=len(names) - 1,
        threads=threads,
        script=shlex.quote(str(out / "slurm.sh")),
        logs=re.sub(r"\s", "_", str(out / "slurm-%a.log")),
        names="\n".join(f"    {shlex.quote(name)}" for name in names),
        arguments=command,
        report=shlex.quote(wrapped),
    )
