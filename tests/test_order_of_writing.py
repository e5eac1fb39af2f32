"""What belongs to an epoch is written before the state that says it is done."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers import Started
from spinalnet import InputError, RunSpec, files, run_one
from spinalnet.comparison import running
from spinalnet.paper import protocol
from spinalnet.paper.recipes import RECIPES
from spinalnet.paper.records import LastBatches
from spinalnet.training import runs, states, stopping
from spinalnet.training.learner import ModelLearner

resource = pytest.importorskip("resource")  # not on Windows

SPEC = RunSpec.of("digits", limit=60, epochs=3, lr=3e-3, device="cpu", seed=0)


class Killed(BaseException):
    """Ends a run as a kill does."""


def test_the_state_is_written_last(tmp_path, monkeypatch):
    written: list[str] = []

    def note(name: str):
        method = getattr(runs.RunFolder, name)

        def noted(self, *args, **options):
            written.append(name)
            return method(self, *args, **options)

        monkeypatch.setattr(runs.RunFolder, name, noted)

    for name in ("append_metrics", "save_model", "save_state"):
        note(name)
    run_one(replace(SPEC, train=replace(SPEC.train, epochs=1)), tmp_path / "run")
    assert written[:3] == ["append_metrics", "save_model", "save_state"]


def short_request() -> protocol.RecipeRequest:
    """Return a recipe that keeps the loss of every epoch's last batch, of four short epochs."""
    recipe = RECIPES["regression-sum"]
    recipe = replace(recipe, train=replace(recipe.train, epochs=4), short=(4, 200))
    request = protocol.prepare(recipe, "paper", "short", seeds=1)
    assert request.selected_on == "training"
    return request


@pytest.mark.parametrize("left", [0, 1, 2])
def test_the_loss_of_the_last_batch_is_the_same_when_the_epoch_was_left_before_it(
    tmp_path, monkeypatch, left
):
    request = short_request()
    update, seen = ModelLearner.update_weights, []

    def and_ask(self, lr):
        update(self, lr)
        seen.append(lr)
        if len(seen) == 2 * self.steps - left:
            stopping.asked = int(signal.SIGTERM)

    straight = protocol.run_request(request, tmp_path / "straight")
    monkeypatch.setattr(ModelLearner, "update_weights", and_ask)
    with pytest.raises(stopping.Interrupted):
        protocol.run_request(request, tmp_path / "stopped")
    folder = protocol.run_request(request, tmp_path / "stopped")
    for run in (folder / "runs").iterdir():
        losses = LastBatches(straight).read(run.name)
        assert len(losses) == 4
        assert LastBatches(folder).read(run.name) == losses


def test_a_record_of_the_papers_protocol_has_every_epoch_after_a_kill_behind_the_state(
    tmp_path, monkeypatch
):
    request = short_request()
    save, killed = runs.RunFolder.save_state, []

    def save_and_be_killed(self, state, **options):
        save(self, state, **options)
        if state["epoch"] == 2 and not killed:
            killed.append(self.path.name)
            raise Killed

    monkeypatch.setattr(runs.RunFolder, "save_state", save_and_be_killed)
    with pytest.raises(Killed):
        protocol.run_request(request, tmp_path)
    folder = protocol.run_request(request, tmp_path)
    for run in (folder / "runs").iterdir():
        assert sorted(LastBatches(folder).read(run.name), key=int) == ["1", "2", "3", "4"]
    straight = protocol.run_request(request, tmp_path / "straight")
    for run in (folder / "runs").iterdir():
        assert LastBatches(folder).read(run.name) == LastBatches(straight).read(run.name)


def test_a_record_that_lacks_an_epoch_is_not_made(tmp_path):
    files.write_mapping(tmp_path / "last_batches" / "a.json", {"1": 0.5, "3": 0.2})
    with pytest.raises(InputError, match="lacks the epochs 2"):
        LastBatches(tmp_path).read_all("a", 3)
    assert LastBatches(tmp_path).read_all("b", 3) == {}


def test_a_state_that_a_kill_left_behind_the_mark_is_removed_later(tmp_path):
    run = tmp_path / "run"

    def stop(spec, progress):
        if (progress.phase, progress.epoch) == ("train", 3):
            raise Killed

    with pytest.raises(Killed):
        run_one(SPEC, run, on_progress=stop)
    kept = {name: (run / name).read_bytes() for name in (states.STATE_FILE, states.BEFORE_FILE)}
    run_one(SPEC, run)
    assert not any((run / name).exists() for name in kept)
    for name, content in kept.items():
        (run / name).write_bytes(content)
    assert run_one(SPEC, run).done
    assert not any((run / name).exists() for name in kept)


def test_a_folder_that_is_removed_meanwhile_is_noticed_and_not_made_again(tmp_path):
    run = tmp_path / "run"

    def remove(spec, progress):
        if (progress.phase, progress.epoch) == ("validate", 2):
            shutil.rmtree(run)

    with pytest.raises(InputError, match=r"run is gone.*removed or replaced"):
        run_one(SPEC, run, on_progress=remove)
    assert not run.exists()


def test_a_folder_that_is_removed_at_the_end_is_not_made_again_as_a_result_alone(tmp_path):
    run = runs.RunFolder.start(tmp_path / "run", {"a": 1})
    shutil.rmtree(run.path)
    writes = [
        lambda: run.finish({}),
        lambda: run.save_state({"epoch": 1}),
        lambda: run.save_model({"w": torch.ones(1)}),
        lambda: run.append_metrics({"epoch": 1}),
    ]
    for write in writes:
        with pytest.raises(InputError, match="is gone"):
            write()
    assert not run.path.exists()


def test_a_folder_that_is_removed_while_it_is_written_to_is_the_reason(tmp_path, monkeypatch):
    run, open_aside = runs.RunFolder.start(tmp_path / "run", {"a": 1}), files._open_aside

    def removed(path):
        shutil.rmtree(run.path)
        return open_aside(path)

    monkeypatch.setattr(files, "_open_aside", removed)
    with pytest.raises(InputError, match="is gone"):
        run.save_state({"epoch": 1})


def test_a_folder_that_is_removed_behind_the_last_epoch_is_not_made_again(tmp_path, monkeypatch):
    run, measure = tmp_path / "run", running.measure

    def removed(*args):
        shutil.rmtree(run)
        return measure(*args)

    monkeypatch.setattr(running, "measure", removed)
    with pytest.raises(InputError, match="is gone"):
        run_one(SPEC, run)
    assert not run.exists()


LIMITED = """
import resource, sys
from spinalnet import RunSpec, run_one
from spinalnet._checks import SpinalnetError
spec = RunSpec.of("digits", limit=60, epochs=3, lr=3e-3, device="cpu", seed=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
try:
    run_one(spec, sys.argv[2])
except SpinalnetError as error:
    print(error)
    sys.exit(2)
"""


def test_no_room_says_how_much_is_needed_and_the_run_goes_on_after(tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    run, straight = tmp_path / "run", tmp_path / "straight"
    run_one(SPEC, straight)
    model = (straight / "model.safetensors").stat().st_size
    for limit in (model // 2, model + 1000):  # no room for the model; for the state
        done = Started(limit, run, code=LIMITED).ended()
        assert done.returncode == 2, done.stderr
        assert "bytes needed" in done.stdout
        assert "enforce" not in done.stdout + done.stderr
        assert runs.is_run(run)
        assert not runs.is_done(run)
        assert not list(run.glob(".*"))
    run_one(SPEC, run)
    one, other = (files.load_weights(path / "model.safetensors")[0] for path in (run, straight))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_full_disk_under_a_state_leaves_both_that_were_there(tmp_path, monkeypatch):
    run = runs.RunFolder.start(tmp_path / "run", {"a": 1})
    for epoch in (1, 2):
        run.save_state({"epoch": epoch, "w": torch.ones(1000)})
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}

    def full(self, data):
        self.error = OSError(28, "No space left on device")
        raise self.error

    monkeypatch.setattr(states._Hashed, "write", full)
    with pytest.raises(InputError, match=r"No space left on device, [\d,]+ bytes needed"):
        run.save_state({"epoch": 3, "w": torch.ones(1000)})
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_a_state_that_cannot_be_put_before_leaves_no_third_name(tmp_path, monkeypatch):
    run = runs.RunFolder.start(tmp_path / "run", {"a": 1})
    run.save_state({"epoch": 1})
    replace_ = Path.replace

    def broken(self, target):
        if Path(target).name == states.BEFORE_FILE and self.name.startswith("."):
            raise OSError(5, "Input/output error")
        return replace_(self, target)

    monkeypatch.setattr(Path, "replace", broken)
    run.save_state({"epoch": 2})
    assert run.load_state() == {"epoch": 2}
    assert not list(run.path.glob(".*"))


def test_a_kill_between_the_two_states_leaves_nothing_aside_in_the_next_save(tmp_path):
    run = runs.RunFolder.start(tmp_path / "run", {"a": 1})
    for epoch in (1, 2):
        run.save_state({"epoch": epoch})
    before, state = (run.path / name for name in (states.BEFORE_FILE, states.STATE_FILE))
    before.unlink()
    before.hardlink_to(state)  # the old one has its second name, the new one was not renamed
    run.save_state({"epoch": 3})
    assert not list(run.path.glob(".*"))
    before.replace(state)
    assert run.load_state() == {"epoch": 2}
