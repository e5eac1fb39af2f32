"""Run `python -m spinalnet` as the `spinalnet` command."""

from spinalnet.cli.root import main

main()
