"""What heads cost: ratios with intervals, the file they stand in, and the memory of a step."""

from __future__ import annotations

import itertools
import json
import math
import os
import pickle
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from spinalnet._checks import InputError, SpinalnetError
from spinalnet.comparison import comparing, cost, stopwatch
from spinalnet.comparison.building import build_model, load_splits
from spinalnet.comparison.cost import MeasurementError, peak_of_step, time_heads
from spinalnet.comparison.question import ComparisonSpec
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.times import (
    SCHEMA,
    HeadCost,
    RatioInterval,
    cost_of_rounds,
    heads_to_dict,
    paired_ratio,
    read_costs,
    time_verdict,
)
from spinalnet.data import ArrayDataset
from spinalnet.training import TrainConfig


def made_up(seed: int, processes: int = 4, rounds: int = 9) -> tuple[list, list]:
    rng = np.random.default_rng(seed)
    drift = rng.lognormal(0, 1, (processes, rounds))  # of the machine, which both heads meet
    first = drift * rng.lognormal(-9, 0.05, (processes, rounds))
    other = drift * rng.lognormal(-9.2, 0.05, (processes, rounds))
    return first.tolist(), other.tolist()


def longhand(first: list, other: list) -> tuple[float, float, float]:
    medians = [np.median(np.log(np.array(a) / np.array(b))) for a, b in zip(first, other)]  # noqa: B905
    n = len(medians)
    means = np.array([np.mean(drawn) for drawn in itertools.product(medians, repeat=n)])
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    widen = stats.t.ppf(0.975, n - 1) / stats.norm.ppf(0.975) * math.sqrt(n / (n - 1))
    centre = np.mean(medians)
    return tuple(
        np.exp([centre, centre - widen * (centre - low), centre + widen * (high - centre)])
    )


@pytest.mark.parametrize("processes", [2, 3, 4, 5])
def test_the_interval_is_that_of_all_resamples_of_processes(processes):
    first, other = made_up(processes, processes)
    found = paired_ratio(first, other)
    assert found is not None
    expected = longhand(first, other)
    assert (found.ratio, found.low, found.high) == pytest.approx(expected, rel=1e-12)
    assert found.low < math.exp(0.2) < found.high
    assert paired_ratio(first[:1], other[:1]) is None


def test_many_processes_are_resampled_at_random_to_the_same_end():
    first, other = made_up(0, 40)
    found = paired_ratio(first, other)
    medians = [np.median(np.log(np.array(a) / np.array(b))) for a, b in zip(first, other)]  # noqa: B905
    half = stats.t.ppf(0.975, 39) * np.std(medians, ddof=1) / math.sqrt(40)
    assert found is not None
    assert math.log(found.high / found.low) == pytest.approx(2 * half, rel=0.08)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    # Processes differ by more than rounds do; 3 of them are few, and the interval must know it.
    rng, hits = np.random.default_rng(0), {3: 0, 5: 0}
    for n in hits:
        for _ in range(800):
            other = np.exp(rng.normal(0, 0.05, (n, 1)) + rng.normal(0, 0.02, (n, 5)))
            found = paired_ratio(np.ones((n, 5)).tolist(), other.tolist())
            assert found is not None
            hits[n] += found.low <= 1.0 <= found.high
    assert all(0.92 < hit / 800 < 0.98 for hit in hits.values()), hits


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (RatioInterval(0.8, 0.7, 0.99), "faster"),
        (RatioInterval(0.8, 0.7, 1.0), None),
        (RatioInterval(1.2, 0.99, 1.4), None),
        (RatioInterval(1.2, 1.01, 1.4), "slower"),
        (None, None),
    ],
)
def test_time_is_told_where_the_interval_excludes_one(interval, verdict):
    assert time_verdict(interval) == verdict


def test_costs_come_back_from_their_file():
    first, other = made_up(1)
    processes = [{"a": a, "b:x=1": b} for a, b in zip(first, other, strict=True)]
    found = cost_of_rounds(
        {"inference": processes, "training": processes}, {"a": 12, "b:x=1": None}
    )
    every = np.concatenate([np.array(rounds) for rounds in other]) * 1e6
    low, middle, high = np.quantile(every, [0.25, 0.5, 0.75])
    assert found["b:x=1"].inference_us == pytest.approx(middle)
    assert found["b:x=1"].training_quartiles == pytest.approx((low, high))
    assert found["b:x=1"].training_ratio == paired_ratio(first, other)
    assert found["a"].inference_ratio is None
    assert found["a"].peak_memory_bytes == 12
    written = json.loads(json.dumps({"schema": SCHEMA, "heads": heads_to_dict(found)}))
    assert read_costs(written) == found


def test_of_files_of_earlier_versions_the_memory_is_read_and_no_time():
    old = {"device": "cpu", "heads": {"mlp": {"inference": 82.0, "training": None}, "spinal": {}}}
    assert read_costs(old) == {"mlp": HeadCost(), "spinal": HeadCost()}
    old["schema"], old["heads"]["mlp"]["peak_memory_bytes"] = 2, 12
    assert read_costs(old) == {"mlp": HeadCost(peak_memory_bytes=12), "spinal": HeadCost()}
    assert read_costs(None) == {}


@pytest.mark.parametrize(
    ("timing", "reason"),
    [
        ({"heads": 5}, "heads must be a mapping or null, got 5"),
        ({"schema": 4}, r"up to schema 3, got 4\. Update spinalnet"),
        ({"schema": 0}, "schema must be a whole number from 1, got 0"),
        ({"schema": -2}, "schema must be a whole number from 1, got -2"),
        ({"schema": None}, "schema must be an integer, got None"),
        ({"schema": True}, "schema must be an integer, got True"),
        ({"schema": 2.5}, "schema must be an integer, got 2.5"),
        ({"heads": {"a": [1]}}, "a mapping of names to values belongs there"),
        ({"heads": {"a": {"inference": "x"}}}, "inference must be a number"),
        (
            {"schema": 3, "heads": {"a": {"inference_ratio": {"ratio": 1.0}}}},
            "low must be a number",
        ),
        ({"heads": {"a": {"training_quartiles": [1.0]}}}, "training_quartiles must be a list"),
    ],
)
def test_a_damaged_file_is_one_sentence(timing, reason):
    with pytest.raises(InputError, match=reason):
        read_costs(timing)


# --- measured -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base() -> RunSpec:
    return RunSpec.of("digits", limit=200, batch_size=32, device="cpu")


def test_a_head_against_itself_under_another_name_is_neither_faster_nor_slower(base):
    options = base.model.head_options
    assert options == {}
    question = ComparisonSpec(base, ("spinal", "spinal:dropout=0.0"))
    found = time_heads(question, load_splits(base), processes=3)
    assert {name: found[name] for name in ("schema", "device", "batch_size", "processes")} == {
        **{"schema": SCHEMA, "device": "cpu", "batch_size": 32, "processes": 3}
    }
    assert found["rounds"] >= 5
    assert found["memory_of"] == "network"
    costs = read_costs(json.loads(json.dumps(found)))
    assert list(costs) == ["spinal", "spinal:dropout=0.0"]
    first, same = costs.values()
    assert first.inference_ratio is None
    for ratio in (same.inference_ratio, same.training_ratio):
        assert ratio is not None
        assert ratio.low <= ratio.ratio <= ratio.high
        assert 0.2 < ratio.ratio < 5
    assert first.peak_memory_bytes == same.peak_memory_bytes
    for head in costs.values():
        assert head.training_us is not None
        assert head.inference_us is not None
        assert head.training_us > head.inference_us > 0
        assert head.inference_quartiles is not None
        assert head.inference_quartiles[0] <= head.inference_us <= head.inference_quartiles[1]


def test_a_wider_head_needs_more_time_and_memory(base):
    question = ComparisonSpec(base, ("spinal:hidden_features=8", "spinal:hidden_features=600"))
    narrow, wide = read_costs(time_heads(question, load_splits(base), processes=1)).values()
    assert narrow.peak_memory_bytes is not None
    assert wide.peak_memory_bytes is not None
    assert wide.peak_memory_bytes > 2 * narrow.peak_memory_bytes


def test_the_memory_of_a_step_is_what_its_tensors_take():
    # Weights (W), batch and targets; in the step gradients and two moments of AdamW; at the end of
    # the forward pass the hidden values and their activations, and the logits.
    net = nn.Sequential(nn.Linear(1000, 500, bias=False), nn.ReLU(), nn.Linear(500, 2, bias=False))
    x, y = torch.randn(64, 1000), torch.zeros(64, dtype=torch.long)
    weights = 4 * (1000 * 500 + 500 * 2)
    batch = x.nbytes + y.nbytes
    config = TrainConfig(device="cpu", optimizer="adamw", clip_norm=0.0)
    found = peak_of_step(net, x, y, config, ArrayDataset(x, y))
    hidden = 4 * 64 * 500
    assert found is not None
    # At the end of the backward pass: weights, gradients, two moments, the gradient of the hidden.
    assert 4 * weights + batch <= found <= 4 * weights + batch + 4 * hidden
    plain = peak_of_step(net, x, y, TrainConfig(device="cpu", optimizer="sgd", momentum=0.0), None)
    assert plain is not None
    assert found - plain == pytest.approx(2 * weights, rel=0.1)
    assert peak_of_step(net, x, y, config, None) == found  # the same every time
    average = peak_of_step(net, x, y, TrainConfig(device="cpu", ema_decay=0.9, clip_norm=0.0), None)
    assert average is not None
    assert average - found == pytest.approx(weights, rel=0.1)


def test_memory_grows_with_the_batch_by_what_the_forward_pass_keeps():
    net = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(50, 50), nn.ReLU())))
    sizes = []
    for batch in (2000, 4000):
        x, y = torch.randn(batch, 50), torch.randn(batch, 50)
        sizes.append(peak_of_step(net, x, y, TrainConfig(device="cpu"), None))
    assert sizes[0] is not None
    assert sizes[1] is not None
    rows = (sizes[1] - sizes[0]) / (2000 * 50 * 4)
    assert 6 + 2 <= rows <= 12 + 6  # input, target, and one to two values per layer


@pytest.fixture
def started(monkeypatch) -> list[subprocess.Popen]:
    """The processes that a test starts."""
    found, popen = [], subprocess.Popen

    def start(*arguments, **options):
        found.append(popen(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return found


@pytest.fixture(params=["copies", "fresh"])
def copied(request, monkeypatch) -> bool:
    """Whether a process is copied, as most systems can, or each loads for itself."""
    if request.param == "fresh":
        monkeypatch.setattr(cost, "_COPIES", False)
    elif not cost._COPIES:
        pytest.skip("processes cannot be copied here")
    return request.param == "copies"


def test_a_process_that_is_ended_is_one_sentence(base, started, monkeypatch, copied):
    question, splits = ComparisonSpec(base, ("spinal", "linear")), load_splits(base)

    def end(*arguments):
        os.kill(started[-1].pid, signal.SIGKILL)
        return build_model(*arguments)

    monkeypatch.setattr(cost, "build_model", end)
    reason = r"could not be timed: .* was ended by SIGKILL.*; the runs stay"
    with pytest.raises(MeasurementError, match=reason) as told:
        time_heads(question, splits, processes=2)
    assert isinstance(told.value, SpinalnetError)
    assert isinstance(told.value, RuntimeError)
    assert "\n" not in str(told.value)
    assert len(started) == (1 if copied else 2)
    assert all(process.poll() is not None for process in started)


def test_a_copy_that_is_ended_is_one_sentence_too():
    killed = {"linear": stopwatch.TimedHead(Killed(), torch.ones(1))}
    with cost.Stopwatches(2) as watches, pytest.raises(MeasurementError, match="by SIGKILL"):
        watches.measure(pickle.dumps((killed, "cpu", 1)))
    wrong = {"linear": stopwatch.TimedHead(nn.Linear(2, 2), torch.ones(1, 3))}
    with cost.Stopwatches(2) as watches, pytest.raises(MeasurementError, match="shapes cannot"):
        watches.measure(pickle.dumps((wrong, "cpu", 1)))


class Killed(nn.Module):
    """A head at which the system ends the process."""

    def forward(self, x):
        os.kill(os.getpid(), signal.SIGKILL)


def test_stopwatches_that_load_beside_others_load_one_after_another(base, started, monkeypatch):
    monkeypatch.setattr(cost, "_COPIES", False)
    with cost.Stopwatches(3) as watches:
        watches.load(beside_others=True)
        assert len(started) <= 2  # the second begins when the first has loaded
        watches.load()
        found = time_heads(
            ComparisonSpec(base, ("spinal", "linear")), load_splits(base), watches=watches
        )
    assert found["processes"] == len(started) == 3
    assert all(process.poll() is not None for process in started)


def test_stopwatches_that_are_not_needed_are_gone_at_once(started, copied):
    with cost.Stopwatches(3) as watches:
        watches.load(beside_others=True)
    assert len(started) <= 2
    assert all(process.poll() is not None for process in started)


def test_ctrl_c_leaves_no_process_behind(base, started, monkeypatch, copied):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cost, "build_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        time_heads(ComparisonSpec(base, ("spinal", "mlp")), load_splits(base), processes=2)
    assert len(started) == (1 if copied else 2)
    assert all(process.poll() is not None for process in started)


def test_copies_lie_elsewhere_in_memory_and_say_what_they_measured(base, started):
    question = ComparisonSpec(base, ("spinal", "linear"))
    found = time_heads(question, load_splits(base), processes=4)
    assert found["processes"] == 4
    assert len(started) == (1 if cost._COPIES else 4)
    places = set()
    for layout in range(4):
        gaps = stopwatch._gaps(layout)
        places.add(torch.empty(3_000).data_ptr())
        del gaps
    assert len(places) > 1


def test_heads_that_cannot_be_sent_are_one_sentence(base, monkeypatch):
    class Local(nn.Identity):
        pass

    def build(*arguments):
        model = build_model(*arguments)
        model.head = Local()
        return model

    monkeypatch.setattr(cost, "build_model", build)
    with pytest.raises(MeasurementError, match="cannot be sent to the processes that time it"):
        time_heads(ComparisonSpec(base, ("spinal", "mlp")), load_splits(base), processes=2)


def test_processes_must_be_a_number(base):
    with pytest.raises(InputError, match="processes must be an integer >= 1"):
        time_heads(ComparisonSpec(base, ("spinal", "mlp")), load_splits(base), processes=0)


class Watched(nn.Linear):
    """Counts in which mode it is called, and how often its mode is set once it is being timed."""

    calls: ClassVar[Counter[str]] = Counter()

    def train(self, mode: bool = True) -> Watched:
        self.calls["set"] += 1
        return super().train(mode)

    def forward(self, input: Tensor) -> Tensor:
        mode = "training" if torch.is_grad_enabled() else "inference"
        self.calls[f"{mode}, {self.training}"] += 1
        return super().forward(input)


def test_to_switch_between_training_and_inference_is_in_no_time() -> None:
    Watched.calls.clear()
    stopwatch.measure({"one": stopwatch.TimedHead(Watched(3, 2), torch.ones(4, 3))}, "cpu")
    set_once = Watched.calls.pop("set")
    assert set_once <= 2  # before the first round
    assert Watched.calls.keys() == {"training, True", "inference, False"}
    assert min(Watched.calls.values()) > set_once


def test_times_of_a_version_that_counted_the_switch_are_measured_anew(tmp_path: Path) -> None:
    for schema, known in ((2, False), (SCHEMA, True)):
        told = {"schema": schema, "heads": {"one": {"inference": 1.0, "training": 2.0}}}
        (tmp_path / "timing.json").write_text(json.dumps(told), encoding="utf-8")
        assert comparing._is_known(["one"], tmp_path) == known
