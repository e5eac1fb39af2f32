"""Run `python -m spinalnet` as the `spinalnet` command."""

from spinalnet.cli import main

main()
