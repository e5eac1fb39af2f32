"""Run `python -m spinalnet`, or `spinalnet`, as the command.

Nothing but the standard library is loaded here before a signal is answered quietly: nothing has
been begun that an interrupt could spoil, and there is nothing to tell.
"""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Load the command and run it."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda came, _: os._exit(128 + came))
    from spinalnet.cli.root import main as run

    run()


if __name__ == "__main__":
    main()
