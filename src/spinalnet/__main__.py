"""Run `python -m spinalnet` as the `spinalnet` command."""

from spinalnet.cli.app import main

main()
