"""The `spinalnet` command: one module per group of commands. Nothing is computed here."""

# Each registers its commands: this is their order in `--help`.
# isort: off
from spinalnet.cli import compare, study, runs, deploy, looking, about, paper, theory

# isort: on
from spinalnet.cli.root import app, main
