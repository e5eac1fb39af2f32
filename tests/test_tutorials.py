"""Every tutorial is executed from top to bottom, in one folder, as a reader would do it.

Commands and Python stand in fenced blocks and run in their order; a block of Python that begins
with the name of a file is written there. What a comment `<!-- try: OPTIONS -->` before a block says
is added to its commands here, for a reader has more time: few seeds and epochs.
"""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spinalnet.nn import HEADS
from test_cli import spinalnet as command

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
BLOCK = re.compile(
    r"(?:^<!-- try: (?P<options>.*?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)
NEEDS = {
    "researcher": ["pandas"],
    "photographs": ["onnxruntime", "onnxscript"],
    "tables": ["pandas"],
}
# What must be there at the end: that the commands did what the words around them say.
LEAVES = {
    "researcher": [
        "runs/digits/report.html",
        "runs/gated/summary.json",
        "runs/widths/summary.json",
    ],
    "photographs": ["runs/photos/report.html", "predictions.csv", "photos.onnx"],
    "tables": ["runs/homes/model.safetensors", "prices.csv", "runs/explained"],
}
SLOW = {"researcher", "photographs"}  # their comparisons of images take some ten seconds each


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """Yield what runs of a page: language, text, and options for the trial."""
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield match["language"], match["text"], match["options"] or ""


class Reader:
    """Does what a tutorial says."""

    def __init__(self) -> None:
        self.names: dict[str, object] = {"__name__": "tutorial"}
        self.started: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def do(self, language: str, text: str, options: str) -> None:
        """Run a block, on a port that is free here."""
        text = text.replace("8000", str(self.port))
        file = re.match(r"# (\w+\.py)\n", text)
        if language == "python" and file:
            Path(file[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, "tutorial", "exec"), self.names)
        else:
            assert language == "bash"
            for line in text.replace("\\\n", " ").splitlines():
                self.type(line, options)

    def type(self, line: str, options: str) -> None:
        """Run a line of a shell; one that ends with & goes on in the background."""
        program, *words = shlex.split(line.removesuffix("&"))
        if program == "spinalnet":
            command(*words, *shlex.split(options))
            return
        assert program == "python"
        started = subprocess.Popen([sys.executable, *words])
        if not line.endswith("&"):
            assert started.wait(timeout=200) == 0
            return
        self.started.append(started)
        for _ in range(2000):
            assert started.poll() is None
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise TimeoutError(line)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    known = {*sys.modules}
    rows = {*HEADS}
    made = Reader()
    yield made
    for one in made.started:
        one.kill()
        one.wait()
    for name in {*sys.modules} - known:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == tmp_path:
            del sys.modules[name]
    for name in {*HEADS} - rows:
        del HEADS[name]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in sorted(LEAVES)],
)
def test_a_tutorial_runs_from_top_to_bottom(name: str, reader: Reader) -> None:
    for package in NEEDS[name]:
        pytest.importorskip(package)
    for language, text, options in blocks(FOLDER / f"{name}.md"):
        reader.do(language, text, options)
    for path in LEAVES[name]:
        assert Path(path).exists(), path


def test_no_tutorial_is_left_out() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == {*LEAVES}


def test_a_block_that_fails_is_seen(reader: Reader) -> None:
    with pytest.raises(AssertionError):
        reader.do("bash", "spinalnet train nothing-there\n", "")
    with pytest.raises(ZeroDivisionError):
        reader.do("python", "1 / 0\n", "")
    with pytest.raises(AssertionError):
        reader.do("bash", "python -c 'raise SystemExit(3)'\n", "")
    reader.do("python", "# said.py\nWORD = 3\n", "")
    reader.do("python", "import said\nassert said.WORD == 3\n", "")
