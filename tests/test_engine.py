"""The grid of a comparison: the same bits from any number of workers; what fails stays alone."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import helpers
from helpers import no_times
from spinalnet import (
    ComparisonSpec,
    InputError,
    RunSpec,
    Splits,
    TrainConfig,
    TrainingError,
    compare,
    create_model,
    files,
    fit,
    run_one,
)
from spinalnet.comparison import building, comparing, engine
from spinalnet.comparison.cells import Cell, Event, Failure, pinned
from spinalnet.comparison.comparing import run_comparison
from spinalnet.comparison.engine import Effort, jobs_for, run_cells
from spinalnet.comparison.storage import Storage
from spinalnet.training import runs

BASE = RunSpec.of("digits", limit=100, epochs=2, lr=3e-3, device="cpu", seed=0)
LINUX = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")


def grid(folder: Path, heads: tuple[str, ...] = ("spinal", "mlp"), seeds: int = 2) -> list[Cell]:
    return comparing.cells_of(ComparisonSpec(BASE, heads, seeds), folder)


def files_of(folder: Path) -> dict[str, Any]:
    """Return what the runs in a folder hold, but for times."""
    found: dict[str, Any] = {}
    for run in sorted((folder / "runs").iterdir()):
        result = json.loads((run / "result.json").read_text())
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found[run.name] = (
            no_times(result),
            [no_times(row) for row in rows],
            *((run / f"{name}.safetensors").read_bytes() for name in ("model", "test-outputs")),
        )
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    assert run_cells(grid(folder, ("spinal", "mlp", "linear"))) == [None] * 6
    return folder


@pytest.mark.parametrize("jobs", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_results_are_the_same_bits_whatever_the_number_of_jobs(
    alone: Path, tmp_path: Path, jobs: int
) -> None:
    events: list[Event] = []
    cells = grid(tmp_path, ("spinal", "mlp", "linear"))
    assert run_cells(cells, jobs=jobs, on_event=events.append) == [None] * 6
    assert {event.worker for event in events} == set(range(jobs))
    assert sum(event.kind == "done" for event in events) == 6
    assert any(event.progress is not None and event.progress.row for event in events)
    assert files_of(tmp_path) == files_of(alone)
    result = json.loads((tmp_path / "runs/mlp-seed1/result.json").read_text())
    assert result["label"] == "mlp"
    assert result["unit"] == {"seed": 1, "resample": None, "name": "seed1"}


def test_fits_in_threads_of_one_process_are_those_of_one_after_another(tmp_path: Path) -> None:
    splits = building.load_splits(BASE)
    mlp = {"head": "mlp", "output_dropout": 0.5}  # it draws from torch's generator at every step

    def train(seed: int) -> dict[str, torch.Tensor]:
        model = create_model("mnist-cnn", 10, image_size=28, seed=seed, **mlp)
        config = TrainConfig(epochs=2, seed=seed, device="cpu")
        return dict(fit(model, splits.train, splits.val, config).model.state_dict())

    expected = [train(seed) for seed in range(4)]
    found: dict[int, dict[str, torch.Tensor]] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: train(seed)}))
        for seed in range(4)
    ]
    state = torch.get_rng_state()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), state)
    for seed, weights in enumerate(expected):
        for name, value in weights.items():
            assert torch.equal(found[seed][name], value), (seed, name)


def test_threads_are_those_asked_for_and_then_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    import threadpoolctl

    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    torch.set_num_threads(3)
    with pinned(2):
        assert torch.get_num_threads() == 2
        assert {row["num_threads"] for row in threadpoolctl.threadpool_info()} == {2}
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("2", "2")
    assert torch.get_num_threads() == 3
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ


def test_as_many_jobs_as_there_are_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "usable_cpus", lambda: 8)
    assert jobs_for("auto", 100, 1, "cpu") == 8
    assert jobs_for("auto", 100, 3, "cpu") == 2
    assert jobs_for("auto", 5, 1, "cpu") == 5
    assert jobs_for("auto", 0, 16, "cpu") == 1
    assert jobs_for(3, 100, 1, "cpu") == 3
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert jobs_for("auto", 100, 1, "cpu") == 1
    with pytest.raises(InputError, match="leave out jobs, or torchrun"):
        jobs_for(2, 100, 1, "cpu")


# Workers import this file to find these.

MENDED = "SPINALNET_TEST_MENDED"


def bad_data(spec: RunSpec) -> Splits:
    """Load the data of a run, with an accident for some of the seeds."""
    splits = building.load_splits(spec)
    if os.environ.get(MENDED):
        return splits
    match spec.train.seed:
        case 1:
            return splits.normalized_by((0.0,), (1e-60,))
        case 2:
            raise MemoryError
        case 3:
            raise ZeroDivisionError("a bug")
        case 4:
            raise InputError("the data of seed 4 must be there.")
        case 5:
            os.kill(os.getpid(), signal.SIGKILL)
    return splits


KINDS = {1: "diverged", 2: "memory", 3: "error", 4: "input", 5: "killed"}


@pytest.mark.parametrize(("jobs", "seeds"), [(1, 5), (2, 6)])  # being killed is for workers
def test_what_fails_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, seeds: int
) -> None:
    if jobs == 2 and sys.platform == "win32":
        pytest.skip("no signals")
    cells = grid(tmp_path, ("linear",), seeds)
    events: list[Event] = []
    failures = run_cells(cells, jobs=jobs, load=bad_data, on_event=events.append)
    assert [failure and failure.kind for failure in failures] == [
        KINDS.get(seed) for seed in range(seeds)
    ]
    reasons = [failure.reason for failure in failures if failure is not None]
    assert "loss is not finite in epoch 1" in reasons[0]
    assert "lower batch_size, or run fewer at a time" in reasons[1]
    assert reasons[2:4] == ["ZeroDivisionError: a bug", "the data of seed 4 must be there."]
    if jobs == 2:
        assert "ended by SIGKILL, as the system does when memory runs out" in reasons[4]
    for seed, kind in KINDS.items():
        if seed < seeds:
            kept = json.loads((cells[seed].folder / "failed.json").read_text())
            assert (kept["kind"], kept["reason"]) == (kind, failures[seed].reason)
            assert ("in bad_data" in kept.get("traceback", "")) == (kind == "error")
    assert {e.cell.spec.unit.seed for e in events if e.kind == "done"} == {0}

    stamp = (cells[0].folder / "DONE").stat().st_mtime_ns
    monkeypatch.setenv(MENDED, "1")
    assert run_cells(cells, jobs=jobs, load=bad_data) == [None] * seeds
    assert (cells[0].folder / "DONE").stat().st_mtime_ns == stamp
    assert all(runs.is_done(cell.folder) for cell in cells)
    assert not list(tmp_path.rglob("failed.json"))


def no_room(spec: RunSpec) -> Splits:
    """Load the data of a run, of which the last finds a full disk."""
    if spec.train.seed == 2 and not os.environ.get(MENDED):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise files.not_written(Path("cache.bin"), full, 200_000)
    return building.load_splits(spec)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk_is_that_of_all_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    cells = grid(tmp_path, ("linear",), 4)
    with pytest.raises(files.NotWritten, match=r"No space left on device, 200,000 bytes needed"):
        run_cells(cells, jobs=jobs, load=no_room)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("DONE")}
    assert done
    assert not runs.is_done(cells[2].folder)
    assert not list(tmp_path.rglob("failed.json"))
    monkeypatch.setenv(MENDED, "1")
    assert run_cells(cells, jobs=jobs, load=no_room) == [None] * 4
    assert {path: path.stat().st_mtime_ns for path in done} == done


def count_loads(spec: RunSpec) -> Splits:
    """Load data, and leave a trace of it."""
    folder = Path(os.environ["SPINALNET_TEST_LOADS"])
    (folder / f"{spec.train.seed}-{time.monotonic_ns()}").touch()
    return building.load_splits(spec)


@pytest.mark.parametrize(("jobs", "most"), [(1, 2), (2, 3)])  # the last of a unit may be shared
def test_data_are_read_once_for_all_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, most: int
) -> None:
    (tmp_path / "loads").mkdir()
    monkeypatch.setenv("SPINALNET_TEST_LOADS", str(tmp_path / "loads"))
    run_cells(grid(tmp_path, ("spinal", "mlp", "linear")), jobs=jobs, load=count_loads)
    assert 2 <= len(list((tmp_path / "loads").iterdir())) <= most


def test_what_cannot_be_sent_to_workers_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be sent to other processes .*: use jobs=1"):
        run_cells(grid(tmp_path), jobs=2, load=lambda spec: building.load_splits(spec))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, pytest.param(ZeroDivisionError, marks=pytest.mark.slow)]
)
def test_what_a_listener_raises_ends_it_all_and_keeps_what_is_done(
    tmp_path: Path, jobs: int, error: type[BaseException]
) -> None:
    def stop(event: Event) -> None:
        if event.kind == "progress" and done:
            raise error
        if event.kind == "done":
            done.append(event.cell)

    done: list[Cell] = []
    cells = grid(tmp_path, seeds=3)
    with pytest.raises(error):
        run_cells(cells, jobs=jobs, on_event=stop)
    assert runs.is_done(done[0].folder)
    assert not all(runs.is_done(cell.folder) for cell in cells)
    assert not list(tmp_path.rglob("failed.json"))
    assert run_cells(cells, jobs=1) == [None] * 6


def children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def wait_for(what: Callable[[], object], seconds: float = 200.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


COMMAND = ["compare", "digits", "--heads", "linear,spinal,mlp"]
COMMAND += ["--device", "cpu", "--limit", "300", "--seeds", "2", "--jobs", "2", "--epochs"]


@LINUX
@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT]
)
def test_an_end_of_any_kind_keeps_finished_runs_and_leaves_no_worker(
    tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "spinalnet", *COMMAND, "6", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: list(out.rglob("DONE")) or process.poll() is not None)
        workers = children(process.pid)
        assert len(workers) == 2
        process.send_signal(how)
        said = process.communicate(timeout=200)
        wait_for(lambda: not any(map(alive, workers)))
    finally:
        process.kill()
    assert process.returncode == (130 if how == signal.SIGINT else -9), said
    if how == signal.SIGINT:
        assert said[1].splitlines()[-1].startswith("stopped; 'spinalnet compare digits")
        assert "Traceback" not in said[1]
    done = {path: path.stat().st_mtime_ns for path in out.rglob("DONE")}
    assert 1 <= len(done) < 6
    assert not list(out.rglob("failed.json"))
    again = helpers.command(*COMMAND, "6", "--out", out)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(list(out.rglob("DONE"))) == 6
    assert (out / "report.html").exists()


# --- whole comparisons ----------------------------------------------------------------------------


def test_a_head_that_does_not_fit_in_memory_stays_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told: list[Failure] = []
    done = compare(
        replace(BASE, train=replace(BASE.train, epochs=1)),
        f"spinal,mlp:hidden_features={10**13},linear",
        seeds=2,
        out=out,
        jobs=1,
        on_event=lambda event: event.failure and told.append(event.failure),
    )
    assert {failure.kind for failure in told} == {"memory"}
    assert all("GiB at once): lower batch_size" in failure.reason for failure in told)
    assert not any("allocat" in failure.reason.lower() for failure in told)
    large = f"mlp:hidden_features={10**13}"
    assert set(done.failed) == {f"{large}-seed{seed}" for seed in (0, 1)}
    assert [(head.head, head.n) for head in done.summary.heads] == [
        ("spinal", 2),
        (large, 0),
        ("linear", 2),
    ]
    assert (out / "report.html").exists()
    assert set(json.loads((out / "timing.json").read_text())["heads"]) == {"spinal", "linear"}


def test_where_nothing_finishes_the_reason_is_raised(tmp_path: Path) -> None:
    question = ComparisonSpec(replace(BASE, train=replace(BASE.train, lr=1e30)), ("mlp", "linear"))
    with pytest.raises(TrainingError, match=r"no run finished; mlp-seed0: the .* is not finite"):
        run_comparison(replace(question, seeds=1), tmp_path, Effort(jobs=1))
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": "spinal"}, "nothing to compare with spinal alone"),
        ({"heads": "spinal,mpl"}, "did you mean 'mlp'"),
        ({"heads": "spinal,trees"}, "unknown head 'trees'"),
        ({"heads": "spinal,mlp,spinal"}, "heads must differ, got spinal twice"),
        ({"seeds": 0}, "seeds must be an integer >= 1"),
        ({"margin": -0.1}, "margin must be a number above 0"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"repeats": 3}, "give folds"),
        ({"tune": -1}, "tune must be a number of trials"),
        ({"jobs": 0}, "jobs must be an integer >= 1"),
        ({"threads": 0}, "threads must be an integer >= 1"),
        ({"engine": "dask"}, "unknown engine 'dask'"),
        ({"target": "x"}, "target has no meaning for 'digits', which is no table"),
        ({"time": "x"}, "time has no meaning for 'digits', which is no table"),
        ({"until_decided": True, "folds": 3}, "leave out until_decided, or the folds"),
        ({"until_decided": True, "max_seeds": 3}, "max_seeds must be at least seeds=5, got 3"),
        ({"max_seeds": 9}, "max_seeds is the limit of until_decided"),
        ({"seeds": 10**9}, "at most 10,000 units, got 1,000,000,000"),
        ({"folds": 200, "repeats": 99}, "at most 10,000 units, got 99,000"),
        ({"out": "s3://bucket/x"}, "give an address as storage"),
        ({"epocs": 3}, "unknown setting of a run 'epocs'; did you mean 'epochs'"),
        ({"data": "sklearn:iris", "heads": "spinal,vgg"}, "unknown head of tables 'vgg'"),
        ({"data": "sklearn:iris", "epochs": 3}, "epochs has no meaning for a table"),
        ({"data": "sklearn:iris", "model": "vgg5"}, "model has no meaning for a table"),
        ({"data": "sklearn:irs"}, "did you mean 'iris'"),
        ({"data": "sklearn:iris", "until_decided": True}, "leave out until_decided"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        compare(**{"data": "digits", "heads": "spinal,mlp", "out": "out"} | options)
    assert list(tmp_path.iterdir()) == []


def test_another_comparison_in_the_folder_is_refused(alone: Path, tmp_path: Path) -> None:
    question = ComparisonSpec(BASE, ("linear", "mlp"), 1)
    run_comparison(question, tmp_path, Effort(jobs=1), timed=False, reported=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for other, message in (
        (replace(question, margin=0.01), "margin = None, not 0.01"),
        (replace(question, metric="auroc"), "metric = None, not 'auroc'"),
        (replace(question, folds=3), "folds = 0, not 3"),
        (replace(question, base=BASE.having(epochs=3)), r"train\.epochs = 2, not 3"),
    ):
        with pytest.raises(InputError, match=message):
            run_comparison(other, tmp_path, Effort(jobs=1))
    with pytest.raises(InputError, match="holds a comparison on the data 'digits'"):
        compare("sklearn:iris", "spinal,trees", out=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_seeds_are_added_until_all_is_decided(tmp_path: Path) -> None:
    seen: list[int] = []

    def decided(folder: Path) -> bool:
        seen.append(len(list(folder.rglob("DONE"))) // 2)
        return seen[-1] >= enough

    def looks() -> list[int]:
        return json.loads((tmp_path / "looks.json").read_text())["looks"]

    question = ComparisonSpec(BASE.having(epochs=1), ("linear", "mlp"), 2)
    more: dict[str, Any] = {"timed": False, "reported": True, "decided": decided}
    enough = 4
    run_comparison(question, tmp_path, Effort(jobs=1), max_seeds=9, **more)
    assert seen == looks() == [2, 3, 4]
    # The same command again looks where it has stopped, and not at fewer.
    run_comparison(question, tmp_path, Effort(jobs=1), max_seeds=9, **more)
    assert seen == [2, 3, 4, 4]
    assert looks() == [2, 3, 4]
    enough = 99
    run_comparison(question, tmp_path, Effort(jobs=1), max_seeds=6, **more)
    assert seen == [2, 3, 4, 4, 4, 5]
    assert looks() == [2, 3, 4, 5, 6]
    assert len(list(tmp_path.rglob("DONE"))) == 12


@LINUX
@pytest.mark.slow  # five Pythons; that the tasks are the runs stands in test_answer.py
def test_the_tasks_of_an_array_make_the_same_comparison(tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "out put"
    command = ["compare", "digits", "--heads", "spinal,mlp", "--seeds", "1", "--epochs", "2"]
    command += ["--limit", "100", "--device", "cpu", "--lr", "3e-3", "--engine=print"]
    env = {**os.environ, "SPINALNET": f"{sys.executable} -m spinalnet"}
    shell: dict[str, Any] = {"capture_output": True, "text": True, "cwd": tmp_path, "env": env}
    printed = subprocess.run(
        [sys.executable, "-m", "spinalnet", *command, "--out", out.name], check=True, **shell
    )
    script = out / "slurm.sh"
    assert printed.stdout == script.read_text()
    assert {path.name for path in out.iterdir()} == {"slurm.sh", "comparison.yaml"}
    assert "#SBATCH --array=0-1\n" in printed.stdout
    for task in range(2):
        own = {**shell, "env": env | {"SLURM_ARRAY_TASK_ID": str(task)}}
        subprocess.run(["bash", str(script)], check=True, **own)
    expected = files_of(alone)
    assert files_of(out) == {name: expected[name] for name in ("spinal-seed0", "mlp-seed0")}
    # Without a number the script submits itself, and what follows the array.
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(
        '#!/bin/bash\nif [ "$1" = --parsable ]; then echo 7; else\n'
        'echo "$@" > asked; while [ "$1" != --wrap ]; do shift; done; bash -c "$2"; fi\n'
    )
    sbatch.chmod(0o755)
    own = {**shell, "env": env | {"PATH": f"{sbatch.parent}:{env['PATH']}"}}
    subprocess.run(["bash", str(script)], check=True, **own)
    assert "--dependency=afterany:7" in (tmp_path / "asked").read_text()
    assert {path.name for path in out.iterdir()} >= {"report.html", "timing.json", "summary.json"}


def test_a_plan_says_what_is_missing_and_writes_nothing(tmp_path: Path) -> None:
    from spinalnet.comparison import planning

    question = ComparisonSpec(BASE, ("linear", "mlp"), 3)
    run_one(question.cells()[0], tmp_path / "runs" / question.cells()[0].name)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    plan = planning.plan(question, tmp_path, Effort(jobs=2), building.load_splits)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert [(row.label, row.done, row.missing) for row in plan.rows] == [
        ("linear", ("seed0",), ("seed1", "seed2")),
        ("mlp", (), ("seed0", "seed1", "seed2")),
    ]
    assert plan.jobs == 2
    measured = [row.measured for row in plan.rows]
    assert plan.seconds == pytest.approx((2 * measured[0].seconds + 3 * measured[1].seconds) / 2)
    for one in measured:  # 2 epochs of 2 steps, and what is held out
        assert one.step_seconds is not None
        assert 4 * one.step_seconds < one.seconds
    linear = tmp_path / "runs/linear-seed0"
    kept = sum((linear / f"{n}.safetensors").stat().st_size for n in ("model", "test-outputs"))
    assert measured[0].disk == pytest.approx(kept, rel=0.5)
    if plan.memory is not None:
        assert 2e7 < plan.memory < 4e9
    sentences, columns, rows = planning.in_words(plan)
    assert "5 of 6 runs are missing" in sentences[0]
    assert "2 at a time" in sentences[0]
    assert rows[1][:3] == ["mlp", "0", "3 (seed0, seed1, seed2)"]
    assert len(columns) == len(rows[0])


def test_a_plan_counts_the_trials_of_tuning_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spinalnet.comparison import planning, tuning

    question = ComparisonSpec(BASE, ("linear", "mlp"), 3)
    seconds = (10.0, 20.0)
    measured = [planning.Measured(one, 0.1, 1000, None) for one in seconds]
    monkeypatch.setattr(planning, "_in_a_worker", lambda *_: measured)
    settled = tmp_path / "tuning" / "mlp-seed100000-trial1"
    monkeypatch.setattr(tuning, "_is_settled", settled.__eq__)
    plan = planning.plan(question, tmp_path, Effort(jobs=2), building.load_splits, trials=4)
    assert [row.trials for row in plan.rows] == [4, 3]
    assert plan.seconds == pytest.approx(((3 + 4) * 10 + (3 + 3) * 20) / 2)
    sentences, columns, rows = planning.in_words(plan)
    assert "The 7 trials of tuning that come first are counted" in sentences[1]
    assert [row[columns.index("trials")] for row in rows] == ["4", "3"]


def _of_a_cluster() -> list[int]:
    """Return the processes that run a task of a Ray cluster now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:  # it has ended
            continue
        if words.startswith(b"ray::_run_cell"):
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@LINUX
def test_a_cluster_gives_the_same_bits_though_a_worker_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    long = BASE.having(epochs=60)  # so that a run is under way when its worker is killed
    question = ComparisonSpec(long, ("spinal", "mlp"), 2)
    here = comparing.cells_of(question, tmp_path / "here")
    assert run_cells(here) == [None] * 4
    killed: list[int] = []

    def kill_one() -> None:
        until = time.monotonic() + 120
        while not killed and time.monotonic() < until:
            begun = list((tmp_path / "cluster").rglob("state.pt"))  # an epoch is done
            if begun and (workers := _of_a_cluster()):
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    cells = comparing.cells_of(question, tmp_path / "cluster")
    events: list[Event] = []
    try:
        failures = run_cells(cells, jobs=2, engine="ray", on_event=events.append)
    finally:
        killer.join()
    assert killed
    assert failures == [None] * 4
    assert sum(event.kind == "done" for event in events) == 4
    assert files_of(tmp_path / "cluster") == files_of(tmp_path / "here")


# --- a storage between machines -------------------------------------------------------------------


def test_a_storage_keeps_a_run_and_its_mark_comes_last(tmp_path: Path, monkeypatch: Any) -> None:
    import fsspec

    storage = Storage("memory://bucket/comparison")
    storage.check()
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "DONE", "state.pt", "zz.json"):
        (run / name).write_text(name)
    memory, order = fsspec.filesystem("memory"), []
    put = memory.pipe_file
    monkeypatch.setattr(
        type(memory), "pipe_file", lambda _, path, data: (order.append(path), put(path, data))
    )
    storage.put(run, "runs/spinal-seed0")
    assert [path.rpartition("/")[2] for path in order][-1] == "DONE"
    back = tmp_path / "back"
    assert storage.get("runs/spinal-seed0", back)
    assert {p.name: p.read_text() for p in back.iterdir()} == {
        p.name: p.read_text() for p in run.iterdir()
    }
    (run / "state.pt").unlink()  # what is gone from the run goes from the storage, and from copies
    storage.put(run, "runs/spinal-seed0")
    assert storage.get("runs/spinal-seed0", back)
    assert sorted(path.name for path in back.iterdir()) == ["DONE", "config.yaml", "zz.json"]
    assert not storage.get("runs/other", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("runs/here", "storage must be an address such as s3://bucket/folder"),
        ("nowhere://bucket", "storage 'nowhere://bucket' cannot be used"),
        ("file:///proc/spinalnet/x", "cannot be written and read"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused(address: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Storage(address).check()


def test_a_storage_is_for_a_cluster() -> None:
    with pytest.raises(InputError, match="storage has no meaning without engine=ray"):
        Effort(storage="s3://bucket/folder")


@pytest.mark.slow
@LINUX
def test_a_cluster_without_a_shared_disk_passes_runs_through_a_storage(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    question = ComparisonSpec(BASE, ("spinal", "mlp"), 1)
    here = comparing.cells_of(question, tmp_path / "here")
    assert run_cells(here) == [None] * 2
    cells = comparing.cells_of(question, tmp_path / "there")
    address = f"file://{tmp_path}/storage"
    # One run lies there already, as of a driver that was killed: it is taken as it is.
    Storage(address).put(here[0].folder, f"runs/{here[0].folder.name}")
    assert run_cells(cells, jobs=2, engine="ray", storage=address) == [None] * 2
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")
    assert (cells[0].folder / "environment.json").read_bytes() == (
        here[0].folder / "environment.json"
    ).read_bytes()


def test_a_plan_refuses_runs_of_other_settings_as_the_comparison_will(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import spinalnet
    from spinalnet.comparison import planning
    from spinalnet.comparison.asking import ask
    from spinalnet.comparison.building import load_splits
    from spinalnet.comparison.engine import Effort
    from spinalnet.comparison.planning import plan

    measured = planning.Measured(1.0, 0.1, 1000, None)
    monkeypatch.setattr(planning, "_in_a_worker", lambda specs, *_: [measured] * len(specs))
    small = {"limit": 60, "epochs": 1}
    spinalnet.compare("digits", "linear,spinal", seeds=1, out=tmp_path / "d", jobs=1, **small)
    kept = plan(ask("digits", "linear,spinal", 2, **small), tmp_path / "d", Effort(), load_splits)
    assert [len(row.done) for row in kept.rows] == [1, 1]
    other = ask("digits", "linear,spinal", 1, **{**small, "epochs": 2})
    with pytest.raises(InputError, match=r"train\.epochs = 1, not 2"):
        plan(other, tmp_path / "d", Effort(), load_splits)
