"""Several processes train as one does: the same draws, losses and metrics, and what if one dies.

The processes are real, on this machine, and talk through gloo.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from helpers import Started, command, no_times
from spinalnet import InputError, SpinalNet, _dist, randomness
from spinalnet.data import ArrayDataset, FolderDataset
from spinalnet.randomness import BatchPart, draw_rows, part_of_batch
from spinalnet.training import TrainConfig, fit, runs
from spinalnet.training.together import in_part

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@contextmanager
def job(size: int, *words: str, code: str | None = None) -> Iterator[list[Started]]:
    """Start the processes of a job, without an agent that would end the others with one."""
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    started = [
        Started(*words, code=code, **shared, RANK=rank, LOCAL_RANK=rank)
        for rank in map(str, range(size))
    ]
    try:
        yield started
    finally:
        for one in started:
            one.process.kill()
            one.process.join()


# --- the same training ----------------------------------------------------------------------------


class Noisy(nn.Module):
    """Draws in ways of torch, of its own, and of this package; takes statistics of batches."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6) if norm else nn.GroupNorm(2, 6)
        self.drop = nn.Dropout2d(0.2)
        options = {"hidden_features": 8, "num_layers": 3, "dropout": 0.3}
        self.head = SpinalNet(6 * 16, 4, norm="batch" if norm else None, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.conv.weight)
        x = self.drop(F.relu(self.norm(self.conv(x))))
        x = F.max_pool2d(x, 2).flatten(1)
        if self.training:
            kept = x.new_empty(len(x), 1).bernoulli_(0.9)  # as timm's DropPath
            x = F.dropout(x * kept, 0.1) + 0.01 * torch.randn_like(x)
        return self.head(x)


def images(n: int, seed: int = 0) -> ArrayDataset:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 1, 10, 10), generator=generator).to(torch.uint8)
    targets = torch.arange(n) % 4
    pixels[:, 0] += (targets[:, None, None] * 20).to(torch.uint8)
    return ArrayDataset(pixels, targets, (0.5,), (0.25,))


SETTINGS: dict[str, dict[str, Any]] = {
    # 50 = 3 * 16 + 2: the last batch has fewer rows than four processes.
    "norm": {"norm": True, "augment": "rotation:10+crop:1+flip", "ema_decay": 0.5},
    "mixed": {"norm": False, "mix": "both", "augment": "trivial-augment", "clip_norm": 1.0},
    "parts": {"norm": False, "accumulate": 3, "class_weights": "balanced", "on_nonfinite": "skip"},
}


def train(name: str, out: str | None) -> Any:
    """Train as one of the processes that the environment describes."""
    torch.set_num_threads(1)
    options = dict(SETTINGS[name])
    # In float64: what a norm takes away again gets no gradient, and Adam makes steps of rounding.
    norm = options.pop("norm")
    model = Noisy(norm).double() if norm else Noisy(norm)
    config = TrainConfig(epochs=3, batch_size=16, lr=5e-3, device="cpu", **options)
    return fit(model, images(50), images(3, 1), config, out=out)  # fewer rows than processes


def train_all(out: str) -> None:
    for name in SETTINGS:
        train(name, f"{out}/{name}")


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return {name: train(name, None) for name in SETTINGS}


@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_processes_finds_the_losses_of_one(
    tmp_path: Path, alone: dict[str, Any], size: int
) -> None:
    code = f"import test_processes as t; t.train_all({str(tmp_path)!r})"
    with job(size, code=code) as processes:
        done = [process.ended() for process in processes]
        assert [one.returncode for one in done] == [0] * size, [one.stderr for one in done]
    for name, one in alone.items():
        together = runs.RunFolder(tmp_path / name)
        for row, expected in zip(together.metrics(), one.history, strict=True):
            for field in row.keys() - {"seconds"}:
                close = pytest.approx(expected[field], rel=1e-6 if name == "norm" else 2e-4)
                assert row[field] == close, (name, field)
        for field, tensor in together.load_model()[0].items():
            expected = one.model.state_dict()[field]
            torch.testing.assert_close(
                tensor, expected, rtol=1e-5, atol=1e-7, msg=f"{name} {field}"
            )
        environment = json.loads((tmp_path / name / "environment.json").read_text())
        assert environment["processes"] == size
        assert environment["precision"] == ("float64" if name == "norm" else "float32")


def test_draws_for_parts_are_those_for_the_whole() -> None:
    """With the longhand: draw for all rows, and take some."""
    rows = torch.tensor([1, 4, 7])

    def draw(n: int) -> torch.Tensor:
        return torch.rand(n, 5)

    torch.manual_seed(0)
    whole, after = draw(9), torch.rand(1)
    torch.manual_seed(0)
    with part_of_batch(BatchPart(9, rows)):
        part = draw_rows(draw, 3)
    assert torch.equal(part, whole[rows])
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(0)
    twice = draw(18).view(9, 2, 5)[rows].flatten(0, 1)
    torch.manual_seed(0)
    with part_of_batch(BatchPart(9, rows)):
        assert torch.equal(draw_rows(draw, 6), twice)
    assert randomness.batch_part is None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("layer", [nn.Dropout(0.4), nn.Dropout1d(0.4), nn.Dropout2d(0.4)])
def test_torchs_dropout_of_a_part_is_its_rows_of_the_whole(
    layer: nn.Module, layout: torch.memory_format
) -> None:
    x = torch.randn(10, 3, 4, 5).contiguous(memory_format=layout)
    x = x.flatten(2) if isinstance(layer, nn.Dropout1d) else x
    rows = torch.tensor([0, 3, 6, 9])
    torch.manual_seed(1)
    whole = layer(x)[rows]
    torch.manual_seed(1)
    with in_part(BatchPart(10, rows), real=True):
        part = layer(x[rows])
    assert torch.equal(part, whole)


# --- shares ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("images")
    paths = []
    for number in range(11):
        paths.append(root / f"{number:02}.png")
        Image.new("L", (12, 12), number * 20).save(paths[-1])
    return paths


@pytest.mark.parametrize("augment", ["none", "rotation:20+crop:2+resized-crop", "trivial-augment"])
@pytest.mark.parametrize("kind", ["memory", "files"])
@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_shares_of_batches_are_their_rows(
    folder: list[Path], kind: str, augment: str, of: int
) -> None:
    targets = torch.arange(11) % 3
    source: Any = FolderDataset(folder, targets, 1, 12)
    if kind == "memory":
        pixels = torch.cat([x for x, _ in source.batches(11)]).mul(255).round().to(torch.uint8)
        source = ArrayDataset(pixels, targets)
    options = {"shuffle": True, "seed": 3, "epoch": 2, "augment": augment}
    whole = list(source.batches(4, **options))
    for number in range(of):
        for first in range(len(whole) + 1):
            shares = list(source.batches(4, share=(number, of), first=first, **options))
            assert len(shares) == len(whole) - first
            for (x, y), (all_x, all_y) in zip(shares, whole[first:], strict=True):
                rows = list(_dist.own_rows(len(all_y), number, of))
                torch.testing.assert_close(x, all_x[rows])
                assert torch.equal(y, all_y)


def test_each_process_decodes_only_its_share(
    folder: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from spinalnet.data import images as reading

    seen: list[str] = []
    fill = reading._fill

    def watch(out: torch.Tensor, paths: list[str], depths: Any) -> Any:
        seen.extend(paths)
        return fill(out, paths, depths)

    monkeypatch.setattr(reading, "_fill", watch)
    source = FolderDataset(folder, torch.arange(11) % 3, 1, 12)
    by_process = []
    for number in range(2):
        seen.clear()
        list(source.batches(4, share=(number, 2), shuffle=True, augment="rotation:5"))
        by_process.append(set(seen))
    assert by_process[0] | by_process[1] == set(map(str, folder))
    assert not by_process[0] & by_process[1]
    seen.clear()
    list(source.batches(4, first=2, shuffle=True))  # what was trained on is not read again
    assert len(seen) == 3


# --- what ends a job, and what goes on ------------------------------------------------------------


COMMAND = ["train", "digits", "--limit", "600", "--device", "cpu", "--out"]


def wait_for(run: Path, epochs: int) -> None:
    until = time.monotonic() + 200
    while time.monotonic() < until:
        path = run / "metrics.jsonl"
        if path.exists() and len(path.read_text().splitlines()) >= epochs:
            return
        time.sleep(0.05)
    raise AssertionError("nothing was trained")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_with_a_sentence_and_the_run_goes_on(
    tmp_path: Path, victim: int
) -> None:
    run, epochs = tmp_path / "run", ["--epochs", "200", "--early-stopping", "3"]
    with job(2, *COMMAND, str(run), *epochs) as processes:
        wait_for(run, 2)
        processes[victim].process.kill()
        done = processes[1 - victim].ended(30)  # else it would wait for hours
    said = done.stderr
    assert done.returncode == 1
    assert "as another has ended" in said
    assert "also with another number of processes" in said
    assert "Traceback" not in said
    trained = len(runs.RunFolder(run).metrics())
    again = command(*COMMAND, run, *epochs)
    assert again.returncode == 0, again.stderr
    said = " ".join(again.stderr.split())
    assert "other circumstances than it was begun (processes 1, not 2)" in said
    assert len(runs.RunFolder(run).metrics()) > trained
    environment = json.loads((run / "environment.json").read_text())
    assert environment["processes"] == 2
    assert environment["continued"][0]["processes"] == 1


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("together") / "run"
    with job(2, *COMMAND, str(run), "--epochs", "20") as processes:
        assert [process.ended().returncode for process in processes] == [0, 0]
    return run


@pytest.mark.parametrize("victim", [0, 1])
def test_a_job_that_lost_a_process_goes_on_to_the_same_bits(
    tmp_path: Path, undisturbed: Path, victim: int
) -> None:
    run = tmp_path / "run"
    with job(2, *COMMAND, str(run), "--epochs", "20") as processes:
        wait_for(run, 2)
        processes[victim].process.kill()
        processes[1 - victim].ended(30)
    assert len(runs.RunFolder(run).metrics()) < 20
    with job(2, *COMMAND, str(run), "--epochs", "20") as processes:
        assert [process.ended().returncode for process in processes] == [0, 0]
    told, expected = (runs.RunFolder(one).metrics() for one in (run, undisturbed))
    assert list(map(no_times, told)) == list(map(no_times, expected))
    weights, before = (runs.RunFolder(one).load_model()[0] for one in (run, undisturbed))
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.items())


def test_a_process_that_waits_for_the_others_answers_a_signal(tmp_path: Path) -> None:
    run, port = tmp_path / "run", free_port()
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    one = Started(*COMMAND, str(run), RANK="0", LOCAL_RANK="0", **shared)
    until = time.monotonic() + 60
    with socket.socket() as probe:  # the first process listens for the others
        while probe.connect_ex(("127.0.0.1", int(port))) and time.monotonic() < until:
            time.sleep(0.05)
    one.process.terminate()
    done = one.ended(30)
    assert done.returncode == 143
    assert "Traceback" not in done.stderr
    assert "stopped by SIGTERM; nothing is saved yet" in " ".join(done.stderr.split())


def test_a_process_does_not_wait_for_ever_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dist, "_ASSEMBLY", timedelta(seconds=0.2))
    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(_dist.ProcessLost, match="process 1 of 2 stops, as not all others have"):
        _dist._join_in_background(lambda: time.sleep(2))


# A process of a job that notes its number, and may be late.
NOTING = """
import os, pathlib, sys, time
from spinalnet.__main__ import main
folder, late = pathlib.Path(sys.argv.pop(1)), sys.argv.pop(1)
(folder / os.environ["RANK"]).write_text(str(os.getpid()))
if os.environ["RANK"] == late:
    time.sleep(100)
sys.argv[0] = "spinalnet"
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["training", "before all have come"])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_of_torchrun_that_is_killed_ends_the_job(
    tmp_path: Path, victim: int, when: str
) -> None:
    run, script, logs = tmp_path / "run", tmp_path / "noting.py", tmp_path / "logs"
    script.write_text(NOTING)
    agent = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    agent += ["--master-port", free_port(), "--log-dir", str(logs), "--redirects", "3"]
    late = str(victim) if when != "training" else "nobody"
    words = [*COMMAND, str(run), "--epochs", "500"]
    with (tmp_path / "agent").open("w") as said:
        job = subprocess.Popen([*agent, script, tmp_path, late, *words], stderr=said)
    try:
        if when == "training":
            wait_for(run, 2)
        else:
            time.sleep(25)  # the other has loaded all, and waits
        os.kill(int((tmp_path / str(victim)).read_text()), signal.SIGKILL)
        killed = time.monotonic()
        assert job.wait(30) == 1
    finally:
        job.kill()
    assert time.monotonic() - killed < 20
    (told,) = (path.read_text() for path in logs.rglob(f"{1 - victim}/stderr.log"))
    assert "Traceback" not in told
    if when == "training":
        assert "as another has ended" in told
    elif victim == 1:  # of several that are stopped the first speaks
        assert "nothing is saved yet" in told


def test_a_signal_to_one_process_saves_and_ends_all(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with job(2, *COMMAND, str(run), "--epochs", "500") as processes:
        wait_for(run, 2)
        processes[1].process.terminate()
        done = [process.ended() for process in processes]
    said = [one.stderr for one in done]
    assert [one.returncode for one in done] == [143, 143], said
    assert "Traceback" not in said[0] + said[1]
    assert "the same command continues" in said[0]
    state = runs.RunFolder(run).load_state()
    assert state is not None
    assert state["epoch"] == len(runs.RunFolder(run).metrics())


def test_another_precision_is_refused_when_a_run_goes_on_and_other_threads_are_told(
    tmp_path: Path,
) -> None:
    class End(Exception):
        pass

    def end(progress: Any) -> None:
        if progress.phase == "train" and progress.epoch == 2:
            raise End

    def model(dtype: torch.dtype) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(100, 4)).to(dtype)

    config = TrainConfig(epochs=2, device="cpu")
    with pytest.raises(End):
        fit(model(torch.float32), images(50), images(9), config, out=tmp_path, on_progress=end)
    state = runs.RunFolder(tmp_path).load_state()
    assert state is not None
    assert state["circumstances"]["precision"] == "float32"
    state["circumstances"]["precision"] = "bfloat16"
    runs.RunFolder(tmp_path).save_state(state)
    with pytest.raises(InputError, match=r"was trained in bfloat16 .* would go on in float32"):
        fit(model(torch.float32), images(50), images(9), config, out=tmp_path)
    threads = torch.get_num_threads()
    state["circumstances"] |= {"precision": "float32", "threads": threads + 1}
    runs.RunFolder(tmp_path).save_state(state)
    notes = fit(model(torch.float32), images(50), images(9), config, out=tmp_path).notes
    assert any(f"(threads {threads}, not {threads + 1})" in note for note in notes)


def test_a_run_that_goes_on_in_other_parts_of_batches_is_told(tmp_path: Path) -> None:
    def end(progress: Any) -> None:
        if progress.phase == "train" and progress.epoch == 2:
            raise KeyboardInterrupt

    def trained(accumulate: int, on_progress: Any = None) -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(100, 4))
        config = TrainConfig(epochs=2, device="cpu", accumulate=accumulate)
        data = images(50), images(9)
        return fit(model, *data, config, out=tmp_path, on_progress=on_progress)

    with pytest.raises(KeyboardInterrupt):
        trained(1, end)
    assert any("(accumulate 2, not 1)" in note for note in trained(2).notes)


@pytest.mark.slow
def test_two_hosts_train_together(tmp_path: Path) -> None:
    """Two agents, as on two machines, that meet at an address; here both are this machine."""
    run, port = tmp_path / "run", free_port()
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node"]
    agent += ["1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    agent += ["--rdzv-id", "test", "--local-addr", "127.0.0.1"]
    words = ["--epochs", "3", "--lr", "1e-3"]
    hosts = [
        subprocess.Popen(
            [*agent, "-m", "spinalnet", *COMMAND, str(run), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        said = [host.communicate(timeout=200) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], said
    environment = json.loads((run / "environment.json").read_text())
    assert environment["processes"] == 2
    alone = tmp_path / "alone"
    assert command(*COMMAND, alone, *words).returncode == 0
    for one, two in zip(
        runs.RunFolder(alone).metrics(), runs.RunFolder(run).metrics(), strict=True
    ):
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert two["val_accuracy"] == one["val_accuracy"]
