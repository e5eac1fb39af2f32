"""Whatever ends a run, what it has done is kept, what is said of it is true, and it goes on."""

from __future__ import annotations

import itertools
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers import Started
from helpers import command as in_process
from spinalnet import SpinalNet
from spinalnet.data import ArrayDataset
from spinalnet.models.features import FeatureDataset
from spinalnet.training import RunFolder, TrainConfig, fit, stopping
from spinalnet.training.loop import Progress

# A command that gets a signal after a step of training, as if it had come just then.
AT_STEP = """
import os, sys
from spinalnet.training import learner
number, at, seen = {number}, {at}, 0
update = learner.ModelLearner.update_weights

def and_signal(self, lr):
    global seen
    update(self, lr)
    seen += 1
    if seen == at:
        os.kill(os.getpid(), number)

learner.ModelLearner.update_weights = and_signal
from spinalnet.cli.root import main
main()
"""
TRAIN = ["train", "digits", "--epochs", "3", "--limit", "400", "--device", "cpu"]


def command(*words: object, code: str | None = None) -> subprocess.CompletedProcess[str]:
    return Started(*words, code=code, COLUMNS="200").ended()


def result_of(run: Path) -> dict[str, Any]:
    result = json.loads((run / "result.json").read_text())
    del result["train_seconds"]
    return result


def rows_of(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("straight") / "run"
    done = command(*TRAIN, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize(
    ("how", "code", "at"), [("SIGTERM", 143, 3), ("SIGHUP", 129, 10), ("SIGINT", 130, 14)]
)
def test_a_signal_finishes_the_step_and_the_same_command_goes_on_bit_for_bit(
    tmp_path: Path, straight: Path, how: str, code: int, at: int
) -> None:
    out = tmp_path / "run"
    words = [*TRAIN, "--out", str(out)]
    number = int(getattr(signal, how))
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{how} is ignored here, as under nohup, and so it is by what is started")
    stopped = command(*words, code=AT_STEP.format(number=number, at=at))
    assert stopped.returncode == code, stopped.stderr
    said = stopped.stderr.splitlines()[-1]
    steps = 7  # of an epoch: 400 images, by 64
    epochs, before = divmod(at - 1, steps)
    assert f"{before + 1} of {steps} steps of epoch {epochs + 1} are saved in {out}" in said
    assert (f"{epochs} finished epoch" in said) == (epochs > 0)
    assert f"'{shlex.join(['spinalnet', *words])}' continues." in said
    assert "Traceback" not in stopped.stderr
    again = command(*words)
    assert again.returncode == 0, again.stderr
    assert result_of(out) == result_of(straight)
    assert rows_of(out) == rows_of(straight)
    same = [(run / "model.safetensors").read_bytes() for run in (out, straight)]
    assert same[0] == same[1]


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    code = AT_STEP.format(number=int(signal.SIGTERM), at=2).replace(
        "os.kill(os.getpid(), number)", "os.kill(os.getpid(), number); os.kill(os.getpid(), number)"
    )
    stopped = command(*TRAIN, "--out", tmp_path / "run", code=code)
    assert stopped.returncode == 143
    assert not (tmp_path / "run" / "state.pt").exists()


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("spinalnet.cli.root", signal.SIGTERM),
        ("typer", signal.SIGHUP),
        ("torch", signal.SIGINT),
        ("spinalnet.models.zoo", signal.SIGTERM),
    ],
)
def test_a_signal_while_modules_are_loaded_is_quiet(
    tmp_path: Path, module: str, number: signal.Signals
) -> None:
    """Send it from within the import of a module, wherever that happens to be."""
    code = f"""
import os, signal, sys

class Meddler:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {int(number)})

sys.meta_path.insert(0, Meddler())
from spinalnet.__main__ import main
main()
"""
    words = map(str, [*TRAIN, "--out", tmp_path / "run"])
    stopped = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert stopped.returncode == 128 + number
    assert stopped.stderr.strip() in ("", "stopped.")
    assert not list(tmp_path.iterdir()), "something was written"


@pytest.mark.parametrize(
    ("words", "patched", "sentence"),
    [
        (
            ["lr-find", "digits", "--limit", "200"],
            "spinalnet.comparison.running.find_rates",
            "stopped; nothing is kept of it; the same command begins anew.",
        ),
        (
            ["train", "sklearn:diabetes", "--target", "target"],
            "spinalnet.comparison.tables.running.run_table",
            "stopped; nothing is saved yet; the same command begins anew.",
        ),
        (
            ["compare", "digits"],
            "spinalnet.comparison.comparing.run_comparison",
            "stopped; 'spinalnet compare digits --out {out}' continues: finished runs are kept, "
            "and the epochs that are done of unfinished ones (of a table, the nets).",
        ),
        (
            ["evaluate", "runs/x"],
            "spinalnet.deploy.evaluate_run",
            "stopped; nothing is kept of it; the same command begins anew.",
        ),
    ],
)
def test_what_is_said_when_a_command_is_stopped_is_true(
    tmp_path: Path, words: list[str], patched: str, sentence: str
) -> None:
    module, name = patched.rsplit(".", 1)
    code = f"""
import os, signal, sys, importlib
module = importlib.import_module({module!r})

def interrupted(*args, **options):
    os.kill(os.getpid(), signal.SIGINT)

setattr(module, {name!r}, interrupted)
from spinalnet.cli.root import main
main()
"""
    out = [] if words[0] == "evaluate" else ["--out", str(tmp_path / "out")]
    stopped = command(*words, *out, code=code)
    assert stopped.returncode == 130, stopped.stderr
    assert stopped.stderr.splitlines()[-1] == sentence.format(out=tmp_path / "out")


def test_ignored_signals_stay_ignored() -> None:
    """As under nohup."""
    code = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from spinalnet.training import stopping
stopping.install()
assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
"""
    assert command(code=code).returncode == 0


def test_after_the_end_of_a_command_no_signal_raises() -> None:
    """As when torchrun ends the others, because a process has ended."""
    code = """
import os, signal
from spinalnet.cli.root import main
try:
    main()
finally:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
"""
    ended = Started("list", "--nonsense", code=code, RANK="0").ended()
    assert ended.returncode == 2
    assert "nonsense" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("speaks", "said"), [(True, "stopped.\n"), (False, "")])
def test_a_signal_within_an_import_leaves_no_lock_and_a_worker_is_silent(
    tmp_path: Path, speaks: bool, said: str
) -> None:
    code = f"""
import os, signal, sys
from spinalnet.locks import FolderLock
from spinalnet.training import stopping

class Meddler:
    def find_spec(self, name, path=None, target=None):
        os.kill(os.getpid(), signal.SIGTERM)

stopping.install(speaks={speaks})
with FolderLock({str(tmp_path / "a")!r}), FolderLock({str(tmp_path / "a" / "b")!r}):
    sys.meta_path.insert(0, Meddler())
    import this
"""
    stopped = command(code=code)
    assert (stopped.returncode, stopped.stderr) == (143, said)
    assert not (tmp_path / "a").exists()


def test_a_command_gives_signals_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert in_process("--version").returncode == 0
    assert signal.getsignal(signal.SIGTERM) is before


# --- within an epoch ------------------------------------------------------------------------------


class Kill(Exception):
    """What ends a run without a word, as a SIGKILL does."""


def images(n: int = 70, seed: int = 0) -> ArrayDataset:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 1, 10, 10), generator=generator).to(torch.uint8)
    return ArrayDataset(pixels, torch.arange(n) % 4, (0.5,), (0.25,))


def network(norm: bool = True) -> nn.Module:
    torch.manual_seed(3)
    middle = nn.BatchNorm2d(4) if norm else nn.Identity()
    trunk = [nn.Conv2d(1, 4, 3), middle, nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten()]
    return nn.Sequential(*trunk, SpinalNet(256, 4, hidden_features=6, num_layers=3, dropout=0.3))


def loader() -> Any:
    """Return data that draw their order from the global generator, and cannot skip batches."""
    source = images()
    x = source.inputs.float() / 255
    held = torch.utils.data.TensorDataset(x, source.targets)
    return torch.utils.data.DataLoader(held, batch_size=16, shuffle=True)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"augment": "rotation:10+crop:1", "mix": "both", "ema_decay": 0.5},
    {"augment": "trivial-augment", "optimizer": "sgd", "schedule": "redraw", "accumulate": 2},
    {"on_nonfinite": "skip", "clip_norm": 1.0, "channels_last": False, "head_epochs": 0},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("end", [(1, 1), (1, 5), (2, 3)])
def test_a_killed_run_goes_on_within_its_epoch_bit_for_bit(
    tmp_path: Path, options: dict[str, Any], end: tuple[int, int]
) -> None:
    config = TrainConfig(epochs=3, batch_size=16, save_every="0.000001s", device="cpu", **options)
    make = images if "augment" in options or "mix" in options else loader
    one = fit(network(), make(), images(20, 1), config, out=tmp_path / "straight")

    def kill(progress: Progress) -> None:
        # A state is kept after the progress is told: that of the step before remains.
        if (progress.phase, progress.epoch, progress.step) == ("train", *end):
            raise Kill

    with pytest.raises(Kill):
        fit(network(), make(), images(20, 1), config, out=tmp_path / "killed", on_progress=kill)
    state = RunFolder(tmp_path / "killed").load_state()
    assert (state is None) == (end == (1, 1))
    if state is not None:
        within = state["within"]
        assert (0 if within is None else within["step"]) == end[1] - 1
    steps: list[int] = []
    two = fit(
        network(),
        make(),
        images(20, 1),
        config,
        out=tmp_path / "killed",
        on_progress=lambda p: steps.append(p.step) if p.phase == "train" else None,
    )
    assert steps[0] == end[1]
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[name]), name
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "straight")
    states = [RunFolder(tmp_path / run).load_state() for run in ("killed", "straight")]
    last, expected = (state["model"] if state else {} for state in states)
    assert list(last) == list(expected)
    assert all(torch.equal(last[name], expected[name]) for name in expected)


@pytest.mark.parametrize("where", [("train", 1, 2), ("train", 2, 5), ("validate", 2, 0)])
@pytest.mark.parametrize("kind", ["network", "head"])
def test_a_signal_that_was_put_off_ends_after_the_step_or_in_validation(
    tmp_path: Path, kind: str, where: tuple[str, int, int]
) -> None:
    def train(out: Path, on_progress: Any = None) -> Any:
        config = TrainConfig(epochs=3, batch_size=1 if kind == "head" else 16, device="cpu")
        if kind == "network":
            return fit(network(), images(), images(20, 1), config, out=out, on_progress=on_progress)
        torch.manual_seed(2)
        x, y = torch.randn(160, 12), torch.arange(160) % 4
        head = SpinalNet(12, 4, hidden_features=5, num_layers=3, dropout=0.2)
        data = FeatureDataset([x], y)
        return fit(head, data, data, config, out=out, on_progress=on_progress)

    def ask(progress: Progress) -> None:
        at_head = {("train", 1, 2): ("train", 1, 64), ("train", 2, 5): ("train", 2, 160)}
        place = (progress.phase, progress.epoch, progress.step)
        if place == (at_head.get(where, where) if kind == "head" else where):
            stopping.asked = int(signal.SIGTERM)

    one = train(tmp_path / "straight")
    with pytest.raises(stopping.Interrupted) as ended:
        train(tmp_path / "stopped", ask)
    assert stopping.exit_code(ended.value) == 143
    assert stopping.asked == 0
    assert stopping.saved is not None
    last = 160 if kind == "head" else 5
    done = {1: last, 2: 64 if kind == "head" else 2}[1 if where[1] == 2 else 2]
    finished = "1 finished epoch is saved and " if where[1] == 2 else ""
    said = f"{finished}{done} of {last} steps of epoch {where[1]} are saved in "
    assert stopping.saved() == f"{said}{tmp_path / 'stopped'}"
    two = train(tmp_path / "stopped")
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[name]), name
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "straight")


def test_epochs_are_saved_within_by_time_and_not_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    clock = iter(range(1_000_000))
    monkeypatch.setattr("spinalnet.training.loop._now", lambda: float(next(clock)))
    save = RunFolder.save_state

    def watch(self: RunFolder, state: Any, *, durable: bool = True) -> None:
        saved.append(0 if state["within"] is None else state["within"]["step"])
        save(self, state, durable=durable)

    monkeypatch.setattr(RunFolder, "save_state", watch)
    config = TrainConfig(epochs=1, batch_size=7, save_every="4s", device="cpu")
    fit(network(), images(), images(20, 1), config, out=tmp_path / "run")
    within, last = saved[:-1], saved[-1]
    assert last == 0
    assert 2 <= len(within) <= 4  # ten steps; a second or two for each
    assert all(b - a >= 2 for a, b in itertools.pairwise(within))


@pytest.mark.parametrize("text", ["5", "x", "-1m", "5d", "infh", ""])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    if text == "5":
        assert TrainConfig(save_every="5").save_seconds == 5
        return
    with pytest.raises(ValueError, match="save_every must be a time such as 90s, 5m or 2h"):
        TrainConfig(save_every=text)
