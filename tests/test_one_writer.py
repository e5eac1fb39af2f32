"""One process at a time writes into a folder; what others have put there is not followed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers import Started
from spinalnet import ComparisonSpec, InputError, RunSpec, compare, files, locks, run_one
from spinalnet.comparison import comparing
from spinalnet.comparison.engine import Effort
from spinalnet.locks import FolderInUse, FolderLock
from spinalnet.models import features
from spinalnet.training import runs

pytest.importorskip("fcntl")  # not on Windows, where the lock goes by name

SPEC = RunSpec.of("digits", limit=60, epochs=2, lr=3e-3, device="cpu", seed=0)
HOLDER = """
import sys
from spinalnet import locks
{before}
with locks.FolderLock(sys.argv[1], shared={shared}):
    print("held", flush=True)
    sys.stdin.read()
"""
# The same in the kernel's words, which starts in no time.
BARE = """
import fcntl, json, os, socket, sys
os.makedirs(sys.argv[1], exist_ok=True)
file = open(sys.argv[1] + "/.lock", "a+")
fcntl.flock(file, {how})
told = {{"pid": os.getpid(), "host": socket.gethostname(), "command": "x", "since": "y"}}
file.truncate(0)
file.write(json.dumps(told))
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(folder: Path, *, ours: str | None = None, shared: bool = False) -> Iterator[Any]:
    """Let another process have the lock of a folder, by our own code after the line `ours`."""
    code = BARE.format(how="fcntl.LOCK_SH" if shared else "fcntl.LOCK_EX")
    if ours is not None:
        code = HOLDER.format(before=ours, shared=shared)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("ours", ["", "locks.fcntl = None"], ids=["flock", "by name"])
def test_the_second_is_refused_by_the_name_of_the_first_and_a_crash_leaves_nothing(
    tmp_path, ours, monkeypatch
):
    if ours:
        monkeypatch.setattr(locks, "fcntl", None)
    with held(tmp_path / "run", ours=ours) as process:
        with pytest.raises(FolderInUse, match=rf"process {process.pid} .*wait=True"):
            FolderLock(tmp_path / "run").__enter__()
        process.kill()
        process.wait()
        with FolderLock(tmp_path / "run"):
            (tmp_path / "run" / "made").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["made"]


def test_who_waits_gets_it_when_the_other_ends_and_is_told_once(tmp_path):
    said: list[str] = []
    with held(tmp_path) as process:

        def told(sentence: str) -> None:
            said.append(sentence)
            assert process.poll() is None
            # It ends while somebody waits, not before: what waits looks several times.
            threading.Timer(0.2, process.kill).start()

        with FolderLock(tmp_path, wait=True, on_wait=told):
            assert process.wait() != 0
    assert len(said) == 1
    assert f"process {process.pid}" in said[0]


def test_a_folder_without_anything_written_is_gone_again(tmp_path):
    with FolderLock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / locks.LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []


def test_one_thread_takes_it_again_and_another_does_not(tmp_path):
    refused = []

    def other() -> None:
        try:
            with FolderLock(tmp_path):
                pass
        except FolderInUse as error:
            refused.append(str(error))

    with FolderLock(tmp_path):
        with FolderLock(tmp_path / "." / "x" / ".."), FolderLock(tmp_path):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert "another thread" in refused[0]
    other()
    assert len(refused) == 1


def test_shared_goes_with_shared_and_not_with_alone(tmp_path):
    with held(tmp_path, shared=True), held(tmp_path, shared=True):
        with FolderLock(tmp_path, shared=True):
            pass
        with pytest.raises(FolderInUse):
            FolderLock(tmp_path).__enter__()
    with held(tmp_path), pytest.raises(FolderInUse):
        FolderLock(tmp_path, shared=True).__enter__()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_does_not_keep_the_lock_of_a_parent_that_was_killed(tmp_path):
    code = (
        "import os, sys, time\nfrom spinalnet.locks import FolderLock\n"
        "with FolderLock(sys.argv[1]):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n        time.sleep(30); os._exit(0)\n"
        "    print(child, flush=True)\n    time.sleep(30)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], stdout=subprocess.PIPE
    )
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        with FolderLock(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_by_name_a_process_of_another_machine_is_not_taken_for_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    (tmp_path / ".lock-owner").write_text('{"pid": 1, "host": "elsewhere", "command": "x"}')
    with pytest.raises(FolderInUse, match=r"on elsewhere .*delete .*\.lock-owner"):
        FolderLock(tmp_path).__enter__()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")
def test_by_name_a_number_that_another_process_has_now_is_a_dead_ones(tmp_path, monkeypatch):
    with FolderLock(tmp_path):
        told = (tmp_path / locks.LOCK_FILE).read_text()
    monkeypatch.setattr(locks, "fcntl", None)
    (tmp_path / ".lock-owner").write_text(told)
    with pytest.raises(FolderInUse):
        FolderLock(tmp_path).__enter__()  # this very process lives
    began = told.split('"began": "')[1].split('"')[0]
    (tmp_path / ".lock-owner").write_text(told.replace(f'"{began}"', '"7"'))
    with FolderLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


# Who takes it


def test_a_run_that_another_process_makes_is_refused_and_not_touched(tmp_path):
    with held(tmp_path / "run"):
        with pytest.raises(FolderInUse, match="in use by process"):
            run_one(SPEC, tmp_path / "run")
        with pytest.raises(FolderInUse):
            runs.RunFolder.start(tmp_path / "run", {"a": 1})
        assert [p.name for p in (tmp_path / "run").iterdir()] == [locks.LOCK_FILE]
    assert run_one(SPEC, tmp_path / "run").done


def train(folder: Path, *more: str) -> Started:
    command = ["train", "digits", "--limit", "60", "--epochs", "12", "--device", "cpu"]
    return Started(*command, "--out", folder, *more)


def test_of_two_that_train_into_one_folder_one_ends_whole_and_the_other_is_told(tmp_path):
    both = [one.ended() for one in [train(tmp_path / "run") for _ in range(2)]]
    codes = [done.returncode for done in both]
    # A sentence takes several lines, and the length of the path decides where they end.
    said = [" ".join((done.stdout + done.stderr).split()) for done in both]
    assert sorted(codes) in ([0, 2], [0, 0])  # the second may have come when the first was done
    for code, text in zip(codes, said, strict=True):
        told = "is in use by process" in text and "--wait" in text
        assert told if code == 2 else "Run folder" in text
    record = runs.load_run(tmp_path / "run")
    assert record.done
    assert [row["epoch"] for row in record.metrics] == list(range(1, 13))


def test_the_second_waits_if_it_is_told_to(tmp_path):
    with held(tmp_path / "run") as process:
        waiting = train(tmp_path / "run", "--wait")
        while "since" not in waiting.told.read_text():  # the sentence takes several lines
            assert waiting.process.is_alive()
            time.sleep(0.05)
        said = " ".join(waiting.told.read_text().split())
        assert "waiting for" in said
        assert f"process {process.pid}" in said
        process.kill()
        assert waiting.ended().returncode == 0
    assert runs.is_done(tmp_path / "run")


def test_two_comparisons_do_not_share_a_folder_but_the_tasks_of_one_do(tmp_path):
    question = ComparisonSpec(SPEC, ("spinal", "linear"), 1)
    effort, load = Effort(jobs=1), comparing.building.load_splits
    with held(tmp_path), pytest.raises(FolderInUse):
        comparing.run_comparison(question, tmp_path, effort)
    assert [path.name for path in tmp_path.iterdir()] == [locks.LOCK_FILE]
    with held(tmp_path), pytest.raises(FolderInUse):
        comparing.run_only("linear-seed0", question, tmp_path, effort, load)
    with held(tmp_path, shared=True):
        assert comparing.run_only("linear-seed0", question, tmp_path, effort, load) is None
        with pytest.raises(FolderInUse):
            comparing.run_comparison(question, tmp_path, effort)
    assert runs.is_done(tmp_path / "runs" / "linear-seed0")


def test_what_a_killed_comparison_was_writing_is_removed_when_it_goes_on(tmp_path):
    (tmp_path / ".comparison.yaml.0123456789abcdef.tmp").write_text("half")
    question = ComparisonSpec(SPEC, ("spinal", "linear"), 1)
    comparing.run_comparison(question, tmp_path, Effort(jobs=1), timed=False, reported=False)
    assert not list(tmp_path.glob(".*"))


def test_a_run_of_a_comparison_that_another_process_makes_fails_and_nothing_is_written_there(
    tmp_path,
):
    question = ComparisonSpec(SPEC, ("spinal", "linear"), 1)
    busy = tmp_path / "runs" / "spinal-seed0"
    with held(busy):
        comparing.run_comparison(question, tmp_path, Effort(jobs=1), timed=False, reported=False)
        assert [path.name for path in busy.iterdir()] == [locks.LOCK_FILE]
    assert runs.is_done(tmp_path / "runs" / "linear-seed0")


def test_of_a_job_of_several_processes_only_the_main_one_takes_the_lock(tmp_path, monkeypatch):
    runs.RunFolder.start(tmp_path, {"a": 1})
    with held(tmp_path):
        (tmp_path / ".state.pt.abc.tmp").touch()  # what the main process is writing
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        assert runs.RunFolder.start(tmp_path, {"a": 1}).path == tmp_path
        assert (tmp_path / ".state.pt.abc.tmp").exists()
        with pytest.raises(InputError, match="a = 1, not 2"):
            runs.RunFolder.start(tmp_path, {"a": 2})
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(FolderInUse):
            runs.RunFolder.start(tmp_path, {"a": 1})


# What lies there already


def test_links_that_were_planted_lead_nothing_outside_the_folder(tmp_path):
    outside, run = tmp_path / "precious", tmp_path / "run"
    outside.write_text("precious")
    run.mkdir()
    for name in (".state.pt.tmp", ".config.yaml.tmp", ".model.safetensors.tmp", ".DONE.tmp"):
        (run / name).symlink_to(outside)
    assert run_one(SPEC, run).done
    assert outside.read_text() == "precious"


OURS = ("environment.json", "metrics.jsonl", "model.safetensors", "result.json")


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to"])
def test_no_file_of_a_run_is_written_through_a_link(tmp_path, how):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_one(SPEC, run, on_progress=stop_at_once)
    for name in (*OURS, "test-outputs.safetensors", "samples.png"):
        (run / name).unlink(missing_ok=True)
        outside = tmp_path / f"precious-{name}"
        outside.write_bytes(b"{}")
        getattr(run / name, how)(outside)
    run_one(SPEC, run)
    for outside in tmp_path.glob("precious-*"):
        assert outside.read_bytes() == b"{}", outside


def stop_at_once(spec, progress):
    raise KeyboardInterrupt


def test_a_second_name_of_a_file_elsewhere_is_not_written_to_in_place(tmp_path):
    outside = tmp_path / "precious"
    outside.write_text("precious\n")
    run = runs.RunFolder.start(tmp_path / "run", {"a": 1})
    for name in ("metrics.jsonl", locks.LOCK_FILE):
        (run.path / name).hardlink_to(outside)
    with pytest.raises(InputError, match="another name of one"):
        run.append_metrics({"epoch": 1})
    with pytest.raises(InputError, match="another name of one"), FolderLock(run.path):
        pass
    assert outside.read_text() == "precious\n"


def test_no_state_from_elsewhere_is_gone_on_from(tmp_path):
    mine, other = (runs.RunFolder.start(tmp_path / name, {"a": 1}) for name in ("a", "b"))
    other.save_state({"epoch": 3})
    (mine.path / "state.pt").symlink_to(other.path / "state.pt")
    with pytest.raises(InputError, match="is a link"):
        mine.load_state()


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "DONE", "state.pt", ".lock"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path, name):
    run = runs.RunFolder.start(tmp_path / "run", {"a": 1})
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    os.mkfifo(run.path / f".config.yaml.{'0' * 16}.tmp")
    code = f"""
import contextlib, sys
from spinalnet._checks import InputError
from spinalnet.training import runs
for use in (
    lambda: runs.load_run({str(run.path)!r}),
    lambda: runs.RunFolder.start({str(run.path)!r}, {{"a": 1}}),
    lambda: runs.RunFolder({str(run.path)!r}).load_state(),
    lambda: runs.RunFolder({str(run.path)!r}).keep_metrics(0),
):
    with contextlib.suppress(InputError):
        use()
"""
    assert Started(code=code).ended(20).returncode == 0


def test_a_pipe_in_the_feature_cache_is_not_waited_for_but_replaced(tmp_path):
    folder = tmp_path / "features"
    folder.mkdir()
    code = f"""
import os
from pathlib import Path
import torch
from torch import nn
from spinalnet.models import features
from spinalnet.models.stored import FeatureStore

folder, keys, trunk = Path({str(folder)!r}), [b"k" * 16], nn.Linear(3, 2)
store = FeatureStore(folder)
store.add(keys, torch.ones(1, 2))
(part,) = folder.glob("part-*")
kept = FeatureStore(folder)
assert kept.missing(keys) == []
part.unlink()
os.mkfifo(part)
assert FeatureStore(folder).missing(keys) == keys
assert not part.exists()
os.mkfifo(part)
assert kept.load(keys) is None
os.mkfifo(folder / f"trunk-{{features.trunk_key(trunk)}}.safetensors")
(folder / "run").mkdir()
os.mkfifo(folder / "run" / features.TRUNK_FILE)
features.keep_trunk(trunk, folder / "run", cache=folder)
assert torch.equal(features.load_trunk(folder / "run")["trunk.weight"], trunk.weight)
"""
    ended = Started(code=code).ended(20)
    assert ended.returncode == 0, ended.stderr


def test_by_name_a_pipe_in_the_place_of_the_lock_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / ".lock-owner")
    code = f"""
import fcntl
from spinalnet import locks
locks.fcntl = None
try:
    locks.FolderLock({str(tmp_path)!r}).__enter__()
except locks.FolderInUse as error:
    print(error)
"""
    assert "another process" in Started(code=code).ended(20).stdout


def test_a_link_among_the_runs_of_a_comparison_is_refused(tmp_path):
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "c"
    elsewhere.mkdir()
    out.mkdir()
    (out / "runs").symlink_to(elsewhere)
    with pytest.raises(InputError, match="is a link to a folder elsewhere"):
        compare("digits", "spinal,linear", 1, epochs=1, limit=60, device="cpu", jobs=1, out=out)
    assert list(elsewhere.iterdir()) == []


def test_names_of_what_is_being_written_cannot_be_guessed(tmp_path):
    names = set()
    for _ in range(3):
        with files.replacing(tmp_path / "x"):
            names |= {path.name for path in tmp_path.iterdir() if path.name != "x"}
    assert len(names) == 3
    assert all(len(name.split(".")[2]) >= 16 for name in names)


@pytest.mark.parametrize("name", ["metrics.jsonl", locks.LOCK_FILE])
def test_a_link_in_the_place_of_a_file_that_is_opened_is_refused(tmp_path, name):
    run = runs.RunFolder.start(tmp_path / "run", {"a": 1})
    (run.path / name).symlink_to(tmp_path / "elsewhere")
    lock = FolderLock(run.path)
    write = lock.__enter__ if name == locks.LOCK_FILE else lambda: run.append_metrics({"epoch": 1})
    with pytest.raises(InputError, match=r"cannot write .* it is a link, .*: remove it\.$"):
        write()
    assert not (tmp_path / "elsewhere").exists()


def test_every_run_has_a_file_of_its_own_for_a_trunk_that_many_share(tmp_path):
    trunk = nn.Linear(3, 2)
    before = os.umask(0o027)
    try:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            features.keep_trunk(trunk, tmp_path / name, cache=tmp_path / "cache")
    finally:
        os.umask(before)
    found = [tmp_path / name / features.TRUNK_FILE for name in ("a", "b")]
    kept = [*found, *(tmp_path / "cache").glob("trunk-*")]
    assert len({path.stat().st_ino for path in kept}) == 3
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o640}
    whole = found[1].read_bytes()
    found[0].write_bytes(b"damaged")
    assert found[1].read_bytes() == whole
    assert torch.equal(features.load_trunk(tmp_path / "b")["trunk.weight"], trunk.weight)


WRITER = """
import sys
from spinalnet import files
with files.replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_writer_left_beside_a_users_files_goes_and_what_a_living_one_writes_stays(
    tmp_path,
):
    said, stranger = tmp_path / "said.csv", tmp_path / ".said.csv.tmp"
    stranger.write_text("mine")
    words = [sys.executable, "-c", WRITER, str(said)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"held\n"
        files.write_text(said, "whole")
        assert len(list(tmp_path.iterdir())) == 3  # its half still lies there
        writer.kill()
    assert len(list(tmp_path.iterdir())) == 3
    files.write_text(said, "whole again")
    assert sorted(tmp_path.iterdir()) == [stranger, said]
    assert (said.read_text(), stranger.read_text()) == ("whole again", "mine")


def test_many_write_one_file_at_once_and_none_takes_another_for_dead(tmp_path):
    path, wrong = tmp_path / "said.csv", []

    def write(number: int) -> None:
        try:
            for _ in range(150):
                with files.replacing(path, durable=False) as file:
                    file.write(bytes([number]) * 500)
        except InputError as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert list(tmp_path.iterdir()) == [path]
    assert len(set(path.read_bytes())) == 1
