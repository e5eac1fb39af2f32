"""One tolerance table and one comparison for the whole test-suite; small images; runs."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from spinalnet.comparison import comparing, engine, stopwatch
from spinalnet.comparison.cost import Stopwatches

# Relative root-mean-square error against the float64 truth.
TOL = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def relative_rms(actual: Tensor, expected: Tensor) -> float:
    """Root-mean-square difference over root-mean-square of `expected` (1 if that is 0)."""
    actual, expected = actual.double(), expected.double()
    scale = expected.square().mean().sqrt() if expected.numel() else torch.tensor(0.0)
    error = (actual - expected).square().mean().sqrt() if expected.numel() else torch.tensor(0.0)
    return float(error / scale) if scale > 0 else float(error)


def assert_close(name: str, actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Compare with the tolerance of `dtype`; the message names the tensor."""
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape} != {expected.shape}"
    error = relative_rms(actual, expected)
    assert error <= TOL[dtype], f"{name}: relative RMS error {error:.2e} > {TOL[dtype]:.0e}"


def write_images(folder: Path, counts: Mapping[str, int], size: tuple[int, int] = (20, 16)) -> None:
    """Write PNG images of one colour each, all different, `counts[class]` per class folder."""
    for k, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            tone = sum(map(ord, str(folder.name))) % 97
            Image.new("RGB", size, (i * 5, k * 20, tone)).save(folder / name / f"{i:03}.png")


def no_times(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run has written without what a clock has said."""
    return {key: value for key, value in numbers.items() if key not in ("seconds", "train_seconds")}


def without_digests(run: Path) -> None:
    """Make of a run what a version left that wrote no digests."""
    from safetensors.torch import save_file

    from spinalnet import files

    (run / "DONE").write_bytes(b"")
    about = run / "environment.json"
    held = json.loads(about.read_text("utf-8"))
    if isinstance(held, dict):
        held.pop("blake2b", None)
        about.write_text(json.dumps(held), "utf-8")
    for path in run.glob("*.safetensors"):
        if files.digest_in(path) is not None:
            tensors, described = files.load_weights(path)
            save_file(tensors, path, metadata={"spinalnet": json.dumps(described)})


# What commands load late, beside the package.
_LATE = ("torch", "spinalnet.cli.runs", "spinalnet.cli.compare", "spinalnet.nn", "pandas")
_LATE += ("sklearn.datasets", "safetensors.torch")


def command(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `spinalnet WORDS` in this process, which has all loaded, to its exit code."""
    from spinalnet.cli import root

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in "oe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["spinalnet", *map(str, words)])
        if cwd is not None:
            patch.chdir(cwd)
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            root.main()
    code = stop.value.code
    said, told = (stream.buffer.getvalue().decode() for stream in (out, err))
    return subprocess.CompletedProcess(words, code if isinstance(code, int) else 0, said, told)


class Started:
    """`spinalnet WORDS` in a process of its own, whose parent has loaded the package.

    It is a fork of a process that has computed nothing: loading torch takes longer than most
    commands do. What is about loading, threads or workers starts a Python instead.

    Args:
        words: Of the command.
        code: Python that is executed instead of the command; `sys.argv` has the words.
        cwd: Its folder.
        variables: Of the environment, beside those of this process.
    """

    def __init__(
        self, *words: object, code: str | None = None, cwd: Path | None = None, **variables: str
    ) -> None:
        kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        processes = multiprocessing.get_context(kind)
        processes.set_forkserver_preload(["pytest", "spinalnet.cli.root", *_LATE])
        folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.said, self.told = folder / "out", folder / "err"
        for path in (self.said, self.told):
            path.touch()
        self.words = list(map(str, words))
        environment = {**os.environ, **variables}
        self.process = processes.Process(
            target=_run, args=(self.words, code, cwd, environment, self.said, self.told)
        )
        self.process.start()

    def ended(self, timeout: float = 200) -> subprocess.CompletedProcess[str]:
        """Wait for its end, or kill it after so many seconds, and return what it said."""
        self.process.join(timeout)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
        said, told = (path.read_text("utf-8") for path in (self.said, self.told))
        assert code is not None, f"{self.words} did not end in {timeout} s:\n{said}\n{told}"
        return subprocess.CompletedProcess(self.words, code, said, told)


def _run(
    words: list[str],
    code: str | None,
    cwd: Path | None,
    environment: dict[str, str],
    said: Path,
    told: Path,
) -> None:
    """Be the command, inside its process."""
    for number, path in ((1, said), (2, told)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", write_through=True)
        for number in (1, 2)
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd or ".")
    os.setsid()
    stay_in_one_process(pytest.MonkeyPatch())
    sys.argv = ["spinalnet", *words]
    exec(code or "from spinalnet.__main__ import main\nmain()", {"__name__": "__main__"})


def stay_in_one_process(patch: pytest.MonkeyPatch) -> None:
    """Let comparisons start no process unless they are asked to, by `jobs=2`.

    By default one starts seven, which load torch for longer than most tests take.
    """
    patch.setattr(engine, "usable_cpus", lambda: 1)
    patch.setattr(comparing, "Stopwatches", TimedHere)


class TimedHere(Stopwatches):
    """Times heads a few times in this process, as if it were a fresh one."""

    def load(self, *, beside_others: bool = False) -> None:
        """Start nothing."""

    def measure(self, order: bytes) -> list[Mapping[str, Mapping[str, list[float]]]]:
        """Measure what a process would."""
        heads, device, _ = pickle.loads(order)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stopwatch, "_SECONDS", 0.0)
            return [stopwatch.measure(heads, device)]


needs_whole_graphs = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12),
    reason="torch.compile of 2.11 and before cannot read a context variable",
)
