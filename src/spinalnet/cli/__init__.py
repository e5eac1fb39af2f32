"""The `spinalnet` command: one module per group of commands. Nothing is computed here."""

from spinalnet.cli import about, deploy, paper, runs, theory  # noqa: F401  (registers commands)
from spinalnet.cli.root import app, main

__all__ = ["app", "main"]
