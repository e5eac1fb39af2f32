"""What SECURITY.md says of the network, held by Python's own account of what a process does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Whatever would open a port, or ask for an address, is told and does not come to pass.
WATCHED = """
import sys

def told(event, about):
    if event in ("socket.bind", "socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print("network:", event, about[1:], file=sys.stderr, flush=True)
        raise PermissionError(event)

sys.addaudithook(told)
from spinalnet.cli.root import main

for words in sys.argv[1:]:
    sys.argv = ["spinalnet", *words.split()]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, (words, ended.code)
"""


def watched(folder: Path, *commands: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WATCHED, *commands],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=300,
    )


def test_training_and_what_follows_open_no_port_and_ask_nobody(tmp_path: Path) -> None:
    done = watched(
        tmp_path,
        "train digits --limit 60 --epochs 1 --device cpu --out run",
        "evaluate run",
        "verify run",
        "report run",
    )
    assert done.returncode == 0, done.stderr
    assert "network:" not in done.stderr
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_watch_would_see_a_port_that_is_opened(tmp_path: Path) -> None:
    code = WATCHED.split("from spinalnet")[0] + "import socket; socket.create_server(('', 0))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "network: socket.bind" in done.stderr
