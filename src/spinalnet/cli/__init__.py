"""The `spinalnet` command: one module per group of commands. Nothing is computed here."""

from spinalnet.cli import about, deploy, paper, runs, theory
from spinalnet.cli.root import app, main
