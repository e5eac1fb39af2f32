"""From run folders to the answer: each of the five, on runs whose outputs are written by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from spinalnet._checks import InputError
from spinalnet.comparison.finished import FAILED_FILE
from spinalnet.comparison.outputs import OUTPUTS_FILE, AnyOutputs, Outputs, RegressionOutputs
from spinalnet.comparison.report import write_report
from spinalnet.comparison.report.figures import differences
from spinalnet.comparison.result import Comparison
from spinalnet.comparison.summary import Difference, Summary, load_summary, summarize
from spinalnet.comparison.units import Unit, run_name
from spinalnet.comparison.wording import verdict
from spinalnet.data import Resample
from spinalnet.files import write_kept
from spinalnet.training.runs import RunFolder

CLASSES = 4
Said = dict[str, dict[Unit, AnyOutputs]]


def write(folder: Path, said: Said, *, asked: bool = True, **question: Any) -> Path:
    """Write the folder of a comparison whose runs said this of their test examples."""
    units = dict.fromkeys(unit for by_unit in said.values() for unit in by_unit)
    for label, by_unit in said.items():
        for unit, outputs in by_unit.items():
            run = RunFolder.start(
                folder / "runs" / run_name(label, unit), {"head": label, "seed": unit.seed}
            )
            if run.path.joinpath("DONE").exists():
                continue
            outputs.save(run.path / OUTPUTS_FILE)
            run.finish(result(label, unit, outputs))
    if asked:
        names = [unit.name for unit in units]
        held = {"data": "digits", "model": "mnist-cnn", "heads": list(said), "units": names}
        (folder / "comparison.yaml").write_text(yaml.safe_dump(held | question))
    return folder


def result(label: str, unit: Unit, outputs: AnyOutputs) -> dict[str, Any]:
    drawn = unit.resample
    known: dict[str, Any] = {"n": len(outputs)}
    if isinstance(outputs, Outputs):
        known |= {"accuracy": float(outputs.correct.double().mean()), "loss": 0.1}
        baseline: dict[str, Any] = {"class_counts": [400, 300, 200, 100]}
    else:
        known["mse"] = float((outputs.predictions - outputs.targets).square().mean())
        baseline = {"mean": [0.0], "median": [0.0]}
    kept = None if drawn is None else dict(vars(drawn))
    return {
        **{"label": label, "head": label.partition(":")[0], "seed": unit.seed},
        "unit": {"seed": unit.seed, "resample": kept, "name": unit.name},
        **{"data": "digits", "model": "mnist-cnn", "notes": [], "baseline": baseline},
        "task": "classification" if isinstance(outputs, Outputs) else "regression",
        "class_names": [f"class {i}" for i in range(CLASSES)],
        **{"params": 110, "head_params": 10, "macs": 900, "head_macs": 90},
        **{"val": known, "test": known, "best_epoch": 1, "epochs_run": 1, "train_seconds": 2.0},
        "selected_on": "validation",
    }


def classified(correct: np.ndarray, rows: np.ndarray | None = None) -> Outputs:
    """Return outputs of a model that is right about these examples."""
    targets = torch.arange(len(correct)) % CLASSES
    predicted = torch.where(torch.as_tensor(correct), targets, (targets + 1) % CLASSES)
    found = Outputs.of(4.0 * torch.eye(CLASSES)[predicted], targets)
    return found if rows is None else replace(found, rows=torch.as_tensor(rows, dtype=torch.int32))


def with_mistakes(n: int, m: int, wrong: Sequence[int], at: int = 0) -> dict[Unit, AnyOutputs]:
    """Return models that are wrong about `wrong[seed]` examples, from the one at `at` on."""
    return {
        Unit(seed): classified(~np.isin(np.arange(m), np.arange(at, at + wrong[seed])))
        for seed in range(n)
    }


def only(summary: Summary) -> Difference:
    (found,) = [head.difference for head in summary.heads if head.difference]
    return found


# name: n, m, mistakes of the first, of the other, code, reason, what the verdict must say
CASES: dict[str, tuple[int, int, list[int], list[int], str, str | None, str]] = {
    "better": (
        *(5, 2000, [100, 104, 98, 101, 99], [200, 206, 199, 203, 197]),
        *("better", None, "spinal is better than mlp by 5."),
    ),
    "worse": (
        *(5, 2000, [200, 206, 199, 203, 197], [100, 104, 98, 101, 99]),
        *("worse", None, "mlp is better than spinal by 5."),
    ),
    "equal": (
        *(5, 20_000, [1000, 1004, 996, 1002, 999], [1003, 1001, 998, 1000, 1004]),
        *("equal", None, "spinal equals mlp within 0.5 points (difference 0."),
    ),
    "equal but seen": (
        *(5, 20_000, [1000, 1004, 996, 1002, 999], [1043, 1046, 1041, 1042, 1040]),
        *("equal", None, "within 0.5 points; a difference is seen, below that margin (diff"),
    ),
    "more seeds": (
        *(3, 20_000, [1000, 1100, 900], [1200, 1120, 1290]),
        *("undecided", "more-seeds", "undecided: about 3 further seeds would probably decide ("),
    ),
    "more seeds for a difference": (  # equality this test set could not show
        *(3, 200, [10, 14, 9], [24, 40, 22]),
        *("undecided", "more-seeds", "undecided: about 1 further seed would probably show a diff"),
    ),
    "test set too small": (
        *(5, 200, [10, 11, 9, 10, 10], [11, 10, 10, 11, 9]),
        *("undecided", "test-set-too-small", "the test set is too small to show equality (it res"),
    ),
    "single": (
        *(1, 2000, [100], [200], "undecided", "single"),
        "one seed compares two trained models, not two heads; between those, p < 0.001 (diff",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_answer_and_each_reason(tmp_path: Path, name: str) -> None:
    n, m, first, other, code, reason, words = CASES[name]
    said = {"spinal": with_mistakes(n, m, first), "mlp": with_mistakes(n, m, other)}
    summary = summarize(write(tmp_path, said))
    found = only(summary)
    assert (found.code, found.reason, found.n, found.examples) == (code, reason, n, m)
    assert words in found.verdict
    assert summary.code == code
    gaps = (np.array(other) - np.array(first)) / m
    assert found.mean == pytest.approx(gaps.mean())
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.mean < found.high
    if code == "equal":
        assert -0.005 < found.low < found.high < 0.005
        assert found.seen == ("seen" in name)
        assert found.seen == (found.low > 0)
        assert summary.cheapest == "spinal"
    if n > 1:  # the interval for seeds alone is Student's, and never the wider one
        spread = stats.t.ppf(0.975, n - 1) * gaps.std(ddof=1) / math.sqrt(n)
        assert found.seeds_low is not None
        assert found.seeds_high is not None
        assert found.seeds_high - found.seeds_low == pytest.approx(2 * spread, rel=0.02)
        assert found.low <= found.seeds_low + 1e-12
        assert found.high >= found.seeds_high - 1e-12
    else:
        won = other[0] - first[0]
        assert found.p_value == pytest.approx(stats.binomtest(won, won).pvalue)
    assert summary.headline.endswith(f"({n} seed{'s' if n > 1 else ''}, {m:,} test examples).")


def test_too_close_to_call(tmp_path: Path) -> None:
    m = 20_000
    first, other = np.ones(m, dtype=bool), np.ones(m, dtype=bool)
    first[:450], other[450:950] = False, False  # 0.25 points apart, on 950 examples
    said = {
        "spinal": {Unit(seed): classified(np.roll(first, seed)) for seed in range(4)},
        "mlp": {Unit(seed): classified(np.roll(other, 2 * seed)) for seed in range(4)},
    }
    found = only(summarize(write(tmp_path, said)))
    assert found.resolution is not None
    assert found.resolution < 0.005
    assert (found.code, found.reason, found.more) == ("undecided", "too-close", None)
    assert "no affordable number of further seeds would probably decide" in found.verdict


def test_models_that_never_differ_in_spread_are_not_tested(tmp_path: Path) -> None:
    # One model is right about everything, the other about nothing: the gaps are all 1.
    said = {"spinal": with_mistakes(3, 40, [0] * 3), "mlp": with_mistakes(3, 40, [40] * 3)}
    summary = summarize(write(tmp_path, said))
    found = only(summary)
    assert (found.code, found.reason, found.p_value) == ("undecided", "no-spread", None)
    assert "spinal is ahead by the same 100 points in every seed, and without" in found.verdict


def test_heads_without_a_common_unit_are_not_compared(tmp_path: Path) -> None:
    said = {"spinal": with_mistakes(2, 100, [10, 10]), "mlp": with_mistakes(3, 100, [10, 10, 10])}
    for seed in (0, 1):
        del said["mlp"][Unit(seed)]
    summary = summarize(write(tmp_path, said))
    found = only(summary)
    assert (found.code, found.reason, found.n) == ("undecided", "no-pairs", 0)
    assert found.verdict == "undecided: no seed that both heads finished (n=0)"
    assert "3 runs are missing: spinal-seed2, mlp-seed0 and mlp-seed1." in summary.notes


def test_a_decision_that_the_correction_takes_back(tmp_path: Path) -> None:
    m, rng = 100_000, np.random.default_rng(0)
    base = np.array([5000, 5080, 4930, 5040, 4960])
    # Gaps whose paired t test has p = 0.03; one alone decides, two of them do not.
    gaps = rng.normal(size=5)
    gaps = (gaps - gaps.mean()) / gaps.std(ddof=1)
    gaps = 1000 * (gaps / math.sqrt(5) * 1.0 + stats.t.isf(0.015, 4) / 5)
    first, other = base.tolist(), (base + gaps.round().astype(int)).tolist()
    said = {"spinal": with_mistakes(5, m, first), "mlp": with_mistakes(5, m, other)}
    alone = only(summarize(write(tmp_path / "two", said)))
    assert alone.p_value is not None
    assert 0.025 < alone.p_value < 0.05
    assert alone.code == "better"
    said["linear"] = with_mistakes(5, m, [5010, 5060, 4990, 5000, 4950])
    summary = summarize(write(tmp_path / "three", said))
    found = summary.heads[1].difference
    assert found is not None
    assert found.p_value == pytest.approx(alone.p_value)
    assert found.p_holm == pytest.approx(2 * alone.p_value)
    assert (found.code, found.reason) == ("undecided", "correction")
    assert "not after the correction for several comparisons" in found.verdict
    assert any(note.startswith("2 comparisons are made") for note in summary.methods)


def test_nothing_learned_is_all_that_is_said(tmp_path: Path) -> None:
    m = 1000  # the most frequent class of training has a quarter of the test examples
    said: Said = {
        "spinal": with_mistakes(3, m, [750, 752, 749]),
        "mlp": with_mistakes(3, m, [800, 820, 790]),
        "linear": with_mistakes(3, m, [751, 748, 750]),
    }
    summary = summarize(write(tmp_path, said))
    assert summary.code == "nothing-learned"
    for head in summary.heads[1:]:
        assert head.difference is not None
        same = replace(head.difference, mean=0.0, low=None, high=None)
        for one in (head.difference, same):
            assert verdict(one, summary.wording).startswith("nothing learned: neither is shown to")
    assert "nothing learned</text>" in differences(summary).svg
    assert summary.baseline == pytest.approx(0.25)
    assert {head.difference.code for head in summary.heads if head.difference} == {summary.code}
    assert summary.headline == (
        "Nothing learned: no head is shown to beat the baseline accuracy of 25.0 %, so the heads "
        "are not compared (3 seeds, 1,000 test examples)."
    )
    assert summary.verdict == summary.headline
    assert summary.cheapest is None
    # With one head that learned, heads are compared again.
    said["linear"] = with_mistakes(3, m, [500, 505, 499])
    summary = summarize(write(tmp_path / "learned", said))
    assert summary.heads[2].difference is not None
    assert summary.heads[2].difference.code == "worse"


# --- which way round ------------------------------------------------------------------------------


def predicted(n: int, m: int, error: Callable[[int, np.random.Generator], np.ndarray]) -> Any:
    rng = np.random.default_rng(5)
    targets = torch.as_tensor(np.random.default_rng(1).normal(size=m))
    return {
        Unit(s): RegressionOutputs.of(targets + torch.as_tensor(error(s, rng)), targets)
        for s in range(n)
    }


@pytest.mark.parametrize(
    "metric", ["mse", "mae", "r2", "accuracy", "balanced-accuracy", "log-loss"]
)
def test_swapping_the_first_two_rows_swaps_the_answer(tmp_path: Path, metric: str) -> None:
    if metric in ("mse", "mae", "r2"):
        good = predicted(5, 500, lambda s, rng: rng.normal(size=500) * 0.2)
        bad = predicted(5, 500, lambda s, rng: rng.normal(size=500) * 0.5)
    else:
        good = with_mistakes(5, 2000, [100, 104, 98, 101, 99])
        bad = with_mistakes(5, 2000, [200, 206, 199, 203, 197])
    one = only(summarize(write(tmp_path / "a", {"spinal": good, "mlp": bad}), metric=metric))
    two = only(summarize(write(tmp_path / "b", {"mlp": bad, "spinal": good}), metric=metric))
    assert (one.code, two.code) == ("better", "worse")
    for found in (one, two):
        assert found.verdict.startswith("spinal is better than mlp by ")
    assert one.mean is not None
    assert two.mean == pytest.approx(-one.mean)
    for low, high in (("low", "high"), ("seeds_low", "seeds_high")):
        assert getattr(two, low) == pytest.approx(-getattr(one, high))
        assert getattr(one, low) < one.mean < getattr(one, high)
    assert one.p_value == pytest.approx(two.p_value)
    assert one.effect == pytest.approx(-two.effect)
    lower_is_better = metric in ("mse", "mae", "log-loss")
    assert (one.mean < 0) == lower_is_better
    assert (one.high < 0) == lower_is_better  # type: ignore[operator]


# --- folds and splits -----------------------------------------------------------------------------


def test_folds_average_their_seeds_first(tmp_path: Path) -> None:
    folds, seeds, m, rng = 5, 2, 200, np.random.default_rng(3)
    said: Said = {"spinal": {}, "mlp": {}}
    values = {label: np.zeros((folds, seeds)) for label in said}
    for label, level in (("spinal", 0.9), ("mlp", 0.85)):
        for fold in range(folds):
            for seed in range(seeds):
                correct = rng.random(m) < level
                rows = np.arange(fold * m, (fold + 1) * m)
                unit = Unit(seed, Resample("fold", fold, folds))
                said[label][unit] = classified(correct, rows)
                values[label][fold, seed] = correct.mean()
    summary = summarize(write(tmp_path, said))
    found = only(summary)
    gaps = (values["spinal"] - values["mlp"]).mean(1)
    half = stats.t.ppf(0.975, folds - 1) * gaps.std(ddof=1) * math.sqrt(1 / folds + 1 / (folds - 1))
    assert (summary.unit_kind, found.method, found.n) == ("fold", "splits", folds)
    assert found.examples == folds * m
    assert (found.low, found.high) == pytest.approx((gaps.mean() - half, gaps.mean() + half))
    assert found.seeds_low is None
    assert "10 folds" not in summary.headline  # two seeds of five folds are five folds
    assert "(5 folds, 2 seeds each, 200 test examples each)" in summary.headline
    assert any("Nadeau" in note for note in summary.methods)
    # Every example is in one test part of each seed: those of one seed can be joined.
    one_seed = write(
        tmp_path / "one", {k: {u: o for u, o in v.items() if u.seed == 0} for k, v in said.items()}
    )
    assert len(Comparison.load(one_seed).predictions()) == folds * m
    every = Comparison.load(write(tmp_path / "all", said))
    of_second = every.predictions("mlp", seed=1)
    assert of_second.rows is not None
    assert of_second.rows.tolist() == list(range(folds * m))
    assert of_second.targets.shape == every.predictions("mlp").targets.shape
    assert len(every.predictions(unit=every.summary.units[0])) == m
    for given, message in (
        ({"seed": 7}, "no folds of seed 7 and repeat 0"),
        ({"repeat": 1}, "no folds of seed 0 and repeat 1"),
        ({"unit": "seed0"}, "unknown finished unit of spinal 'seed0'"),
    ):
        with pytest.raises(InputError, match=message):
            every.predictions(**given)


def test_what_was_said_without_folds_is_asked_for_by_unit(tmp_path: Path) -> None:
    said = {"spinal": with_mistakes(3, 500, [9, 8, 7]), "mlp": with_mistakes(3, 500, [9, 5, 6])}
    found = Comparison.load(write(tmp_path, said))
    assert len(found.predictions(unit="seed2")) == 500
    with pytest.raises(InputError, match="name a unit, such as unit='seed0'"):
        found.predictions()


def test_folds_of_different_sizes_are_told_with_both(tmp_path: Path) -> None:
    said: dict[str, dict[Unit, Outputs]] = {"spinal": {}, "mlp": {}}
    rng = np.random.default_rng(5)
    for label, level in (("spinal", 0.9), ("mlp", 0.7)):
        for fold, m in enumerate((178, 220, 190)):
            rows = np.arange(m) + 1000 * fold
            said[label][Unit(0, Resample("fold", fold, 3))] = classified(
                rng.random(m) < level, rows
            )
    summary = summarize(write(tmp_path, said))
    assert "(3 folds, 178 to 220 test examples each)" in summary.headline


def test_no_share_differs_by_more_than_everything(tmp_path: Path) -> None:
    said = {"spinal": with_mistakes(2, 20, [1, 18]), "mlp": with_mistakes(2, 20, [15, 2])}
    found = only(summarize(write(tmp_path, said)))
    assert (found.low, found.high) == (-1.0, 1.0)


# --- looks ----------------------------------------------------------------------------------------


def test_seeds_added_after_a_look_get_the_intervals_that_allow_for_it(tmp_path: Path) -> None:
    first, other = [100, 104, 98, 101, 99, 100, 103], [200, 206, 199, 203, 197, 205, 198]
    said = {"spinal": with_mistakes(3, 2000, first), "mlp": with_mistakes(3, 2000, other)}
    folder = write(tmp_path / "looked", said)
    write_report(folder)
    write_report(folder)  # looking again at the same changes nothing
    before = load_summary(folder / "summary.json")
    assert (before.stopping, only(before).method) == (False, "crossed")
    said = {"spinal": with_mistakes(7, 2000, first), "mlp": with_mistakes(7, 2000, other)}
    write(folder, said)
    write_report(folder)
    after = load_summary(folder / "summary.json")
    assert (after.stopping, after.looks, only(after).method) == (True, (3,), "stopping")
    assert any("Seeds were added after a look at the result (at 3)" in n for n in after.notes)
    fixed = only(summarize(write(tmp_path / "at once", said)))
    assert fixed.method == "crossed"
    wide = only(after)
    assert wide.low < fixed.low < fixed.high < wide.high  # type: ignore[operator]
    # What was looked at stays written down, also when the report is written once more.
    write_report(folder)
    assert load_summary(folder / "summary.json") == after


@pytest.mark.parametrize("how", [write_report, Comparison.load])
def test_a_look_at_some_of_the_seeds_asked_for_is_a_look(
    tmp_path: Path, how: Callable[[Path], object]
) -> None:
    first, other = [100, 104, 98, 101, 99, 100, 103], [200, 206, 199, 203, 197, 205, 198]
    every = {"spinal": with_mistakes(7, 2000, first), "mlp": with_mistakes(7, 2000, other)}
    folder = tmp_path / "asked"
    write(folder, every)
    for run in (folder / "runs").iterdir():
        if int(run.name[-1]) >= 3:
            run.rename(tmp_path / run.name)  # not run yet
    how(folder)
    begun = summarize(folder)
    assert begun.headline.endswith("(3 of 7 seeds, 2,000 test examples).")
    assert json.loads((folder / "looks.json").read_text())["looks"] == [3]
    for run in tmp_path.glob("*-seed*"):
        run.rename(folder / "runs" / run.name)
    after = summarize(folder)
    assert (after.stopping, after.looks, only(after).method) == (True, (3,), "stopping")
    assert after.headline.endswith("(7 seeds, 2,000 test examples).")


def test_a_look_at_one_seed_decides_nothing_and_counts_for_nothing(tmp_path: Path) -> None:
    said = {"spinal": with_mistakes(1, 2000, [100]), "mlp": with_mistakes(1, 2000, [200])}
    write_report(write(tmp_path, said))
    more = [100, 104, 98, 101, 99]
    said = {"spinal": with_mistakes(5, 2000, more), "mlp": with_mistakes(5, 2000, [200] * 5)}
    assert not summarize(write(tmp_path, said)).stopping


# --- what is missing ------------------------------------------------------------------------------


def fail(folder: Path, label: str, unit: Unit, reason: str) -> None:
    path = folder / "runs" / run_name(label, unit)
    RunFolder.start(path, {"head": label, "seed": unit.seed})
    kept = {"label": label, "unit": {"seed": unit.seed, "resample": None, "name": unit.name}}
    kept |= {"kind": "diverged", "reason": reason}
    (path / FAILED_FILE).write_text(json.dumps(kept))


def test_a_head_that_fails_is_told_and_the_others_are_judged(tmp_path: Path) -> None:
    first, other = [100, 104, 98, 101, 99], [200, 206, 199, 203, 197]
    said = {"spinal": with_mistakes(5, 2000, first), "mlp": with_mistakes(4, 2000, other)}
    folder = write(tmp_path, said, heads=["spinal", "linear", "mlp"])
    fail(folder, "mlp", Unit(4), "the loss is nan.")
    for seed in range(5):
        fail(folder, "linear", Unit(seed), "out of memory.")
    summary = summarize(folder)
    linear, mlp = summary.heads[1:]
    assert (linear.head, linear.n, linear.mean) == ("linear", 0, None)
    assert linear.difference is not None
    assert linear.difference.reason == "no-pairs"
    assert (mlp.n, mlp.failed) == (4, {"seed4": "the loss is nan."})
    assert mlp.difference is not None
    assert (mlp.difference.code, mlp.difference.n) == ("better", 4)
    assert "mlp failed in seed4: the loss is nan." in summary.notes
    assert any(n.startswith("linear failed in seed0, seed1, seed2, seed") for n in summary.notes)
    assert "undecided against linear" in summary.headline
    page = write_report(folder).read_text(encoding="utf-8")
    assert "4 of 5" in page
    assert "0 of 5" in page


def test_a_margin_given_after_the_runs_is_told(tmp_path: Path) -> None:
    said = {
        "spinal": with_mistakes(5, 2000, [100] * 4 + [101]),
        "mlp": with_mistakes(5, 2000, [150] * 5),
    }
    folder = write(tmp_path, said, margin=0.01)
    told = "The margin was given when the report was written"
    assert summarize(folder).margin == 0.01
    assert not any(told in note for note in summarize(folder).notes)
    later = summarize(folder, margin=0.05)
    assert (later.margin, only(later).code) == (0.05, "equal")
    assert any(told in note for note in later.notes)
    with pytest.raises(InputError, match="margin must be a number above 0"):
        summarize(folder, margin=-0.1)
    with pytest.raises(InputError, match="unknown metric 'acuracy'; did you mean 'accuracy'"):
        summarize(folder, metric="acuracy")
    with pytest.raises(InputError, match="mse"):
        summarize(folder, metric="mse")


def test_a_frequent_class_asks_for_balanced_accuracy(tmp_path: Path) -> None:
    targets = torch.zeros(500, dtype=torch.long)
    targets[:50] = 1
    noise = torch.randn(3, 500, CLASSES, generator=torch.Generator().manual_seed(0))
    outputs: dict[Unit, AnyOutputs] = {
        Unit(s): Outputs.of(3 * torch.eye(CLASSES)[targets] + noise[s], targets) for s in range(3)
    }
    summary = summarize(write(tmp_path, {"spinal": outputs, "mlp": dict(outputs)}))
    assert summary.prevalence == pytest.approx(0.9)
    assert any("90.0 %" in note and "balanced-accuracy" in note for note in summary.notes)


# --- earlier versions -----------------------------------------------------------------------------


def test_folders_of_earlier_versions_are_judged_by_their_seeds(tmp_path: Path) -> None:
    first, other = [0.972, 0.975, 0.969, 0.974, 0.971], [0.951, 0.950, 0.955, 0.949, 0.953]
    for label, scores in (("spinal", first), ("linear", other)):
        for seed, score in enumerate(scores):
            run = RunFolder.start(tmp_path / "runs" / f"{label}-seed{seed}", {"head": label})
            known = {"n": 1000, "accuracy": score, "loss": 0.1}
            run.finish(
                {
                    **{"head": label, "seed": seed, "data": "digits", "model": "mnist-cnn"},
                    **{"params": 20, "head_params": 10, "macs": 9, "head_macs": 9},
                    **{"test": known, "val": known, "task": "classification"},
                }
            )
    summary = summarize(tmp_path)
    found = only(summary)
    truth = stats.ttest_rel(first, other)
    interval = truth.confidence_interval(0.95)
    assert (found.method, found.code, found.n) == ("seeds", "better", 5)
    assert found.p_value == pytest.approx(truth.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert any("Not all runs kept what they said" in note for note in summary.notes)
    assert summary.baseline is None


RESULTS = Path(__file__).parents[1] / "results"
KEPT = sorted({*RESULTS.glob("*.json"), *RESULTS.rglob("summary.json")})


@pytest.mark.parametrize("path", KEPT, ids=lambda path: str(path.relative_to(RESULTS)))
def test_committed_results_of_any_version_are_read(path: Path) -> None:
    summary = load_summary(path)
    kept = json.loads(path.read_text())
    rows = kept["models" if "models" in kept else "heads"]
    assert len(summary.heads) == len(rows)
    assert summary.wording.title
    for head, row in zip(summary.heads, rows, strict=True):
        assert head.n == len([v for v in head.values if v is not None])
        if head.difference is None:
            continue
        outcome = row["difference"].get("outcome", head.difference.code)
        assert (head.difference.code == outcome) == (outcome not in ("none", "untested"))
        assert head.difference.code != "equal" or kept.get("schema") == 3
    assert Summary.from_dict(json.loads(json.dumps(summary.to_dict()))) == summary


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    said = {"spinal": with_mistakes(2, 50, [1, 2]), "mlp": with_mistakes(2, 50, [3, 2])}
    folder = write(tmp_path, said)
    write_report(folder)
    kept = json.loads((folder / "summary.json").read_text())
    write_kept(folder / "summary.json", kept | {"schema": 4})
    with pytest.raises(InputError, match=r"up to schema 3, got 4\. Update spinalnet"):
        load_summary(folder / "summary.json")
    (folder / "summary.json").write_text(later := json.dumps(kept | {"schema": 99}))
    with pytest.raises(InputError, match=r"summary\.json .*got 99\. Update spinalnet"):
        write_report(folder)
    assert (folder / "summary.json").read_text() == later
