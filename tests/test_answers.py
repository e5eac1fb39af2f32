"""From run folders to the five answers: what a comparison says, and what it must not say."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from spinalnet._checks import InputError
from spinalnet.comparison import inference
from spinalnet.comparison.baseline import Baseline
from spinalnet.comparison.findings import head_rows, short_rows
from spinalnet.comparison.finished import FAILED_FILE, note_look
from spinalnet.comparison.metrics import METRICS, gaps, measured
from spinalnet.comparison.outputs import OUTPUTS_FILE, AnyOutputs, Outputs, RegressionOutputs
from spinalnet.comparison.report.page import write_report
from spinalnet.comparison.schema import SCHEMA
from spinalnet.comparison.summary import Summary, is_decided, load_summary, summarize
from spinalnet.comparison.units import Unit, run_name
from spinalnet.comparison.wording import VERDICTS, Units, as_rich
from spinalnet.data import Resample
from spinalnet.files import sealed, to_json
from spinalnet.training.runs import RunFolder

RESULTS = Path(__file__).parents[1] / "results"
COST = {"params": 9000, "head_params": 5000, "macs": 80_000, "head_macs": 4800}
CHEAP = {"params": 7000, "head_params": 3000, "macs": 78_000, "head_macs": 2900}

Said = Mapping[str, Mapping[Unit, AnyOutputs | None]]


def write_runs(folder: Path, said: Said, *, keep: bool = True, asked: Any = None, **own: Any):
    """Write a run folder for what every row said in every unit (None: it failed)."""
    for label, by_unit in said.items():
        for unit, outputs in by_unit.items():
            head = label.partition(":")[0]
            run = RunFolder.start(folder / "runs" / run_name(label, unit), {"head": head})
            if outputs is None:
                failed = {"kind": "diverged", "reason": "the loss became NaN in epoch 1."}
                failed |= {"label": label, "unit": unit.to_dict()}
                (run.path / FAILED_FILE).write_text(json.dumps(failed))
                continue
            if keep:
                outputs.save(run.path / OUTPUTS_FILE)
            run.finish(_result(label, unit, outputs) | own)
    units = list(next(iter(said.values())))
    question = {"heads": list(said), "units": [unit.name for unit in units], "data": "made"}
    question |= {"seeds": len(units), "model": "mnist-cnn", **(asked or {})}
    (folder / "comparison.yaml").write_text(yaml.safe_dump(question))
    return folder


def _result(label: str, unit: Unit, outputs: AnyOutputs) -> dict[str, Any]:
    classes = isinstance(outputs, Outputs)
    if classes:
        baseline = Baseline.of(outputs.targets, outputs.num_classes)
    else:
        baseline = Baseline.of(outputs.targets)
    return {
        "head": label.partition(":")[0],
        "label": label,
        "unit": unit.to_dict(),
        "seed": unit.seed,
        "data": "made",
        "model": "mnist-cnn",
        "task": "classification" if classes else "regression",
        "class_names": [f"c{k}" for k in range(outputs.num_classes)] if classes else None,
        **(CHEAP if label == "linear" else COST),
        "test": {"n": len(outputs), **measured(outputs)},
        "baseline": baseline.to_dict(),
        "epochs_run": 2,
        "train_seconds": 1.5,
        "selected_on": "validation",
        "notes": [],
    }


def classifier(
    accuracy: float, seed: int, *, examples: int, classes: int = 4, same: float = 0.0
) -> Outputs:
    """Return what a classifier of this accuracy says; a share `same` errs alike under all seeds."""
    every = np.random.default_rng(7)
    targets = torch.arange(examples) % classes
    shared = every.random(examples)
    own = np.random.default_rng([seed, int(1e6 * accuracy)]).random(examples)
    kept = every.random(examples) < same
    right = torch.from_numpy(np.where(kept, shared, own) < accuracy)
    logits = torch.zeros(examples, classes)
    shown = torch.where(right, targets, (targets + 1) % classes)
    logits[torch.arange(examples), shown] = 2.0
    return Outputs.of(logits, targets)


def by_seed(make: Callable[[int], AnyOutputs | None], n: int) -> dict[Unit, AnyOutputs | None]:
    return {Unit(seed): make(seed) for seed in range(n)}


def better(n: int = 5, examples: int = 2000) -> dict[str, Any]:
    return {
        "spinal": by_seed(lambda s: classifier(0.92, s, examples=examples), n),
        "mlp": by_seed(lambda s: classifier(0.85, s, examples=examples), n),
    }


def alike(n: int = 10, examples: int = 20_000, same: float = 0.99) -> dict[str, Any]:
    """Two heads that err alike but for a few examples."""
    return {
        "spinal": by_seed(lambda s: classifier(0.9, s, examples=examples, same=same), n),
        "linear": by_seed(lambda s: classifier(0.9001, s, examples=examples, same=same), n),
    }


def swapped(said: Mapping[str, Any]) -> dict[str, Any]:
    return dict(reversed(said.items()))


def only(summary: Summary):
    (found,) = [head.difference for head in summary.heads if head.difference]
    return found


# --- the five answers -----------------------------------------------------------------------------


def test_better_and_worse(tmp_path: Path) -> None:
    said = better()
    summary = summarize(write_runs(tmp_path / "a", said))
    d = only(summary)
    assert (d.code, summary.code) == ("better", "better")
    assert d.verdict.startswith("spinal is better than mlp by ")
    assert "95 % interval" in d.verdict
    assert summary.headline == "spinal is better than mlp (5 seeds, 2,000 test examples)."
    assert summary.verdict.startswith(summary.headline)

    other = summarize(write_runs(tmp_path / "b", swapped(said)))
    e = only(other)
    assert (e.code, e.of, e.minus) == ("worse", "mlp", "spinal")
    assert e.verdict.startswith("spinal is better than mlp by ")
    assert other.headline.startswith("mlp is worse than spinal")
    for name, mirrored in (("mean", "mean"), ("low", "high"), ("seeds_low", "seeds_high")):
        assert getattr(e, name) == pytest.approx(-getattr(d, mirrored))
    for name in ("p_value", "p_holm", "p_equal", "resolution", "n", "dominant"):
        assert getattr(e, name) == getattr(d, name)
    assert e.effect == pytest.approx(-d.effect)


def test_a_summary_has_the_numbers_of_the_crossed_estimate(tmp_path: Path) -> None:
    said = better()
    d = only(summarize(write_runs(tmp_path, said)))
    found = gaps(METRICS["accuracy"], list(said["spinal"].values()), list(said["mlp"].values()))
    expected = inference.crossed(found, 0.005, unit=1.0)
    assert (d.method, d.n, d.examples) == ("crossed", 5, 2000)
    assert (d.mean, d.low, d.high) == (expected.mean, expected.low, expected.high)
    assert d.mean == pytest.approx(np.mean(found))
    assert (d.p_value, d.p_equal) == (expected.p_difference, expected.p_equal)
    assert (d.seeds_low, d.seeds_high) == (expected.seeds_low, expected.seeds_high)


def test_equal_names_the_cheapest_and_only_then(tmp_path: Path) -> None:
    summary = summarize(write_runs(tmp_path / "a", alike()))
    d = only(summary)
    assert d.code == "equal"
    assert d.low is not None
    assert d.high is not None
    assert -0.005 < d.low < d.high < 0.005
    assert summary.headline.startswith("spinal is equal to linear within 0.5 points")
    assert summary.cheapest == "linear"
    assert "the cheapest is linear" in summary.verdict
    swap = summarize(write_runs(tmp_path / "b", swapped(alike())))
    assert (swap.code, swap.cheapest) == ("equal", "linear")
    assert summarize(write_runs(tmp_path / "c", better())).cheapest is None


def test_equal_although_a_difference_is_seen(tmp_path: Path) -> None:
    said = alike()
    first = said["spinal"]
    for unit, outputs in said["linear"].items():  # 0.2 points fewer, the same examples every time
        targets = outputs.targets
        logits = torch.zeros(len(targets), 4)
        right = first[unit].correct.clone()
        right[right.nonzero()[:40, 0]] = False
        logits[torch.arange(len(targets)), torch.where(right, targets, (targets + 1) % 4)] = 2.0
        said["linear"][unit] = Outputs.of(logits, targets)
    # One more of another seed, so that the seeds differ at all.
    said["linear"][Unit(0)] = first[Unit(0)]
    d = only(summarize(write_runs(tmp_path, said)))
    assert (d.code, d.seen) == ("equal", True)
    assert "a difference is seen, below that margin" in d.verdict


def test_undecided_is_never_called_equal(tmp_path: Path) -> None:
    said = {
        "spinal": by_seed(lambda s: classifier(0.90, s, examples=153), 5),
        "mlp": by_seed(lambda s: classifier(0.895, s, examples=153), 5),
    }
    summary = summarize(write_runs(tmp_path, said))
    d = only(summary)
    assert (d.code, d.reason) == ("undecided", "test-set-too-small")
    assert d.resolution > d.margin == 0.005
    assert "the test set is too small" in d.verdict
    assert "(it resolves" in d.verdict
    assert summary.headline.startswith("Undecided: ")
    assert summary.cheapest is None
    assert "is equal" not in summary.verdict
    assert "equals" not in summary.verdict


def test_undecided_tells_how_many_seeds_more(tmp_path: Path) -> None:
    said = {
        "spinal": by_seed(lambda s: classifier(0.9, s, examples=20_000), 2),
        "mlp": by_seed(lambda s: classifier(0.897, s, examples=20_000), 2),
    }
    d = only(summarize(write_runs(tmp_path, said)))
    assert (d.code, d.reason) == ("undecided", "more-seeds")
    assert f"about {d.more} further seed" in d.verdict


def test_nothing_learned_says_so_and_nothing_else(tmp_path: Path) -> None:
    said = {
        "spinal": by_seed(lambda s: classifier(0.27, s, examples=400), 5),
        "mlp": by_seed(lambda s: classifier(0.20, s, examples=400), 5),
        "linear": by_seed(lambda s: classifier(0.22, s, examples=400), 5),
    }
    summary = summarize(write_runs(tmp_path, said))
    assert summary.code == "nothing-learned"
    assert {h.difference.code for h in summary.heads[1:] if h.difference} == {"nothing-learned"}
    assert summary.verdict == summary.headline
    assert summary.headline.startswith("Nothing learned: ")
    assert summary.baseline == pytest.approx(0.25)
    assert "better" not in summary.verdict
    header, rows = head_rows(summary)
    assert "answer" not in header
    assert rows[-1][0] == "baseline"


def test_one_head_that_learned_is_enough_for_a_comparison(tmp_path: Path) -> None:
    said = {
        "spinal": by_seed(lambda s: classifier(0.2, s, examples=400), 5),
        "mlp": by_seed(lambda s: classifier(0.7, s, examples=400), 5),
    }
    assert summarize(write_runs(tmp_path, said)).code == "worse"


def test_every_code_has_a_word_and_a_colour() -> None:
    assert set(VERDICTS) == {"better", "worse", "equal", "undecided", "nothing-learned"}
    assert all(row.word and row.colour for row in VERDICTS.values())


# --- properties -----------------------------------------------------------------------------------

OPPOSITE = {"better": "worse", "worse": "better"}


@settings(max_examples=15)
@given(
    first=st.floats(0.3, 0.99),
    other=st.floats(0.3, 0.99),
    n=st.integers(1, 6),
    same=st.sampled_from([0.0, 0.9]),
    metric=st.sampled_from(["accuracy", "balanced-accuracy", "auroc", "macro-f1", "log-loss"]),
)
def test_swapping_swaps_better_and_worse(
    tmp_path_factory: pytest.TempPathFactory,
    first: float,
    other: float,
    n: int,
    same: float,
    metric: str,
) -> None:
    said = {
        "spinal": by_seed(lambda s: classifier(first, s, examples=120, same=same), n),
        "mlp": by_seed(lambda s: classifier(other, s + 100, examples=120, same=same), n),
    }
    folder = tmp_path_factory.mktemp("swap")
    one = only(summarize(write_runs(folder / "a", said), metric=metric))
    two = only(summarize(write_runs(folder / "b", swapped(said)), metric=metric))
    assert two.code == OPPOSITE.get(one.code, one.code)
    assert two.mean == pytest.approx(-one.mean, abs=1e-12)
    assert (two.reason, two.seen, two.more) == (one.reason, one.seen, one.more)
    if one.code in OPPOSITE:  # in the metric's own numbers: of a loss less is better
        assert (one.mean > 0) == ((one.code == "better") == METRICS[metric].higher_is_better)


def regression(error: float, seed: int, examples: int = 600) -> RegressionOutputs:
    targets = torch.from_numpy(np.random.default_rng(5).normal(size=(examples, 1)))
    noise = torch.from_numpy(np.random.default_rng([seed, 9]).normal(size=(examples, 1)))
    return RegressionOutputs.of(targets + error * noise, targets)


@pytest.mark.parametrize("metric", ["mse", "mae", "r2"])
def test_of_an_error_less_is_better(tmp_path: Path, metric: str) -> None:
    said = {
        "spinal": by_seed(lambda s: regression(0.3, s), 5),
        "mlp": by_seed(lambda s: regression(0.5, s), 5),
    }
    summary = summarize(write_runs(tmp_path, said, asked={"metric": metric}))
    d = only(summary)
    means = [head.mean for head in summary.heads]
    assert (summary.metric, d.code) == (metric, "better")
    assert d.mean == pytest.approx(means[0] - means[1])
    assert (d.mean > 0) == (metric == "r2")
    assert d.low < d.mean < d.high
    assert d.verdict.startswith("spinal is better than mlp by ")
    assert " by -" not in d.verdict


def test_holm_counts_all_comparisons(tmp_path: Path) -> None:
    said: dict[str, Any] = {"spinal": by_seed(lambda s: classifier(0.90, s, examples=1000), 5)}
    for i in range(4):
        said[f"mlp:hidden_features={10 + i}"] = by_seed(
            lambda s, i=i: classifier(0.88, s + 10 * i + 10, examples=1000), 5
        )
    summary = summarize(write_runs(tmp_path, said))
    found = [head.difference for head in summary.heads[1:] if head.difference]
    assert [d.p_holm for d in found] == inference.holm([d.p_value for d in found])
    assert [d.p_equal_holm for d in found] == inference.holm([d.p_equal for d in found])
    for d in found:
        assert (d.code == "better") == (d.p_holm < 0.05)
    weak = [d for d in found if d.p_value < 0.05 <= d.p_holm]
    assert [d.reason for d in weak] == ["correction"] * len(weak)
    assert any("corrected" in note for note in summary.methods)


# --- what is missing ------------------------------------------------------------------------------


def test_a_failed_cell_is_told_in_its_row_and_the_others_count(tmp_path: Path) -> None:
    said = better()
    said["mlp"][Unit(3)] = None
    summary = summarize(write_runs(tmp_path, said))
    row = summary.heads[1]
    assert (row.n, dict(row.failed or {})) == (4, {"seed3": "the loss became NaN in epoch 1."})
    assert row.values[3] is None
    assert only(summary).n == 4
    assert only(summary).code == "better"
    assert any("mlp failed in seed3: the loss became NaN" in note for note in summary.notes)
    header, rows = head_rows(summary)
    assert rows[1][header.index("n")] == "4 of 5"


@pytest.mark.parametrize("which", [0, 1])
def test_a_head_that_fails_everywhere_does_not_end_the_comparison(
    tmp_path: Path, which: int
) -> None:
    said = better()
    said["linear"] = by_seed(lambda s: classifier(0.8, s, examples=2000), 5)
    lost = list(said)[which]
    said[lost] = dict.fromkeys(said[lost])
    folder = write_runs(tmp_path, said)
    summary = summarize(folder)
    row = summary.heads[which]
    assert (row.head, row.n, row.mean, len(row.failed or {})) == (lost, 0, None, 5)
    assert [head.n for head in summary.heads if head.head != lost] == [5, 5]
    told = [head.difference for head in summary.heads[1:] if head.difference]
    assert [d.code for d in told if d.minus == lost or which == 0] == ["undecided"] * (2 - which)
    if which:
        assert told[1].code == "better"
        assert any(f"{lost} failed in seed0" in note for note in summary.notes)
    assert lost in summary.headline
    write_report(folder)
    assert load_summary(folder / "summary.json") == summary


def test_numbers_that_are_none_are_left_out_and_the_json_is_valid(tmp_path: Path) -> None:
    said = better()
    broken = said["mlp"][Unit(1)]
    said["mlp"][Unit(1)] = Outputs.of(torch.full((2000, 4), math.nan), broken.targets)
    folder = write_runs(tmp_path, said)
    summary = summarize(folder)
    assert (summary.heads[1].n, only(summary).n) == (4, 4)
    assert any("without a finite test result" in note for note in summary.notes)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = to_json(summary.to_dict())
    assert json.loads(text, parse_constant=refuse)["schema"] == SCHEMA
    assert Summary.from_dict(json.loads(text)) == summary


def test_scores_of_a_table_that_are_none_stay_empty(tmp_path: Path) -> None:
    said = {
        row: by_seed(lambda s, e=e: regression(e, s, 60), 3)
        for row, e in (("spinal", 0.3), ("dense", 0.5), ("trees", 0.2))
    }
    lost = [("dense", 1), *(("trees", seed) for seed in range(3))]
    for row, seed in lost:
        targets = said[row][Unit(seed)].targets
        said[row][Unit(seed)] = RegressionOutputs.of(torch.full_like(targets, math.nan), targets)
    folder = write_runs(tmp_path / "some", said, model="table")
    write_report(folder)
    summary = load_summary(folder / "summary.json")
    spinal, dense, trees = summary.heads
    first, second = spinal.values[1], dense.values[2]
    assert dense.values[1] is None
    assert (trees.values, trees.mean, trees.difference.mean) == ((None, None, None), None, None)
    assert "no seed that both models finished" in trees.difference.verdict
    lines = (folder / "scores.csv").read_text().splitlines()
    assert lines[2] == f"seed1,{first:.6f},,"
    assert lines[3].endswith(f",{second:.6f},")
    header, rows = short_rows(summary)
    (score,) = [i for i, title in enumerate(header) if title.startswith("R²")]
    assert rows[2][score : score + 2] == ["–", "–"]
    for row in said:
        said[row] = dict.fromkeys(said[row], said["trees"][Unit(0)])
    with pytest.raises(InputError, match="no run has a finite test R²"):
        summarize(write_runs(tmp_path / "none", said, model="table"))


@pytest.mark.parametrize(
    ("ours", "theirs"), [((0.9, 0.8, 0.7), (0.8, 0.7, 0.6)), ((1, 1), (0.5, 0.5))]
)
def test_without_spread_there_is_no_test(
    tmp_path: Path, ours: Sequence[float], theirs: Sequence[float]
) -> None:
    """Differences that are the same but for rounding were once better with p = 2.8e-31."""

    def exact(share: float, seed: int) -> Outputs:
        targets = torch.arange(20) % 2
        right = torch.arange(20) < round(20 * share)
        return Outputs.of(10.0 * torch.eye(2)[torch.where(right, targets, 1 - targets)], targets)

    kinds = {"seeds": lambda k: Unit(k), "splits": lambda k: Unit(k, Resample("split", k))}
    for name, unit in kinds.items():
        said = {
            "spinal": {unit(k): exact(v, k) for k, v in enumerate(ours)},
            "mlp": {unit(k): exact(v, k) for k, v in enumerate(theirs)},
        }
        d = only(summarize(write_runs(tmp_path / name, said, keep=False)))
        assert (d.code, d.p_value, d.low, d.reason) == ("undecided", None, None, "no-spread")
        assert "without spread there is no test" in d.verdict


def test_a_single_seed_is_about_two_trained_models(tmp_path: Path) -> None:
    summary = summarize(write_runs(tmp_path, better(n=1)))
    d = only(summary)
    assert (d.code, d.reason, d.n, d.method) == ("undecided", "single", 1, "single")
    assert d.p_value < 1e-6  # McNemar
    assert "one seed compares two trained models, not two heads" in d.verdict
    assert summary.headline.startswith("Undecided")


def test_runs_without_outputs_are_compared_over_seeds_alone(tmp_path: Path) -> None:
    summary = summarize(write_runs(tmp_path, better(), keep=False))
    d = only(summary)
    assert (d.method, d.examples, d.code) == ("seeds", None, "better")
    assert any("the intervals cover the seeds only" in note for note in summary.notes)
    assert summary.baseline is None


# --- looks ----------------------------------------------------------------------------------------


def test_seeds_that_are_added_after_a_look_get_intervals_that_allow_for_it(tmp_path: Path) -> None:
    said = better(n=12)
    folder = write_runs(tmp_path, said)
    plain = only(summarize(folder))
    note_look(folder, 12)
    again = summarize(folder)
    assert not again.stopping
    assert only(again) == plain
    note_look(folder, 5)
    looked = summarize(folder)
    d = only(looked)
    assert looked.stopping
    assert looked.looks == (5,)  # those before this one
    assert d.method == "stopping"
    assert d.low < plain.low < plain.high < d.high
    assert any("any number of looks" in note for note in looked.notes)


def test_a_report_is_a_look(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, better(n=3))
    write_report(folder)
    assert not load_summary(folder / "summary.json").stopping
    write_runs(folder, {row: dict(list(of.items())[3:]) for row, of in better(n=8).items()})
    question = yaml.safe_load((folder / "comparison.yaml").read_text())
    question |= {"units": [f"seed{k}" for k in range(8)], "seeds": 8}
    (folder / "comparison.yaml").write_text(yaml.safe_dump(question))
    write_report(folder)
    extended = load_summary(folder / "summary.json")
    assert (extended.stopping, extended.looks, len(extended.units)) == (True, (3,), 8)


def test_until_decided_asks_for_the_wider_intervals(tmp_path: Path) -> None:
    few = write_runs(tmp_path / "few", better(n=2))
    many = write_runs(tmp_path / "many", better(n=12))
    assert not is_decided(few)
    assert is_decided(many)
    small = {row: by_seed(lambda s: classifier(0.9, s, examples=60), 12) for row in ("a", "b")}
    small["b"] = by_seed(lambda s: classifier(0.9, s + 50, examples=60), 12)
    assert not is_decided(write_runs(tmp_path / "small", small))


# --- folds and splits -----------------------------------------------------------------------------


def drawn(kind: str, accuracy: float, seeds: int = 2, count: int = 5) -> dict[Unit, AnyOutputs]:
    def part(index: int) -> Resample:
        return Resample("fold", index, count) if kind == "fold" else Resample("split", index)

    return {
        Unit(seed, part(k)): replace(
            classifier(accuracy, 10 * k + seed, examples=300),
            rows=torch.arange(300, dtype=torch.int32) + 300 * k,
        )
        for k in range(count)
        for seed in range(seeds)
    }


@pytest.mark.parametrize(("kind", "overlap"), [("fold", 0.25), ("split", 1 / 3)])
def test_folds_and_splits_average_their_seeds_first(
    tmp_path: Path, kind: str, overlap: float
) -> None:
    said = {"spinal": drawn(kind, 0.9), "trees": drawn(kind, 0.7)}
    summary = summarize(write_runs(tmp_path, said, model="table"))
    d = only(summary)
    values = {
        row: np.array([o.correct.double().mean() for o in of.values()]).reshape(5, 2).mean(1)
        for row, of in said.items()
    }
    expected = inference.splits(
        values["spinal"] - values["trees"], overlap, 0.005, examples=1500, unit=1.0
    )
    assert (summary.unit_kind, d.method, d.n, d.examples) == (kind, "splits", 5, 1500)
    assert (d.mean, d.low, d.high) == pytest.approx((expected.mean, expected.low, expected.high))
    assert d.code == "better"
    assert any("Nadeau and Bengio" in note and "approximation" in note for note in summary.methods)
    assert summary.is_table
    note_look(tmp_path, 2)
    assert not summarize(tmp_path).stopping


def test_a_table_of_numbers_is_judged_by_r2(tmp_path: Path) -> None:
    said = {
        row: {Unit(k, Resample("split", k)): regression(e, k, 100) for k in range(6)}
        for row, e in (("spinal", 0.6), ("trees", 0.3))
    }
    summary = summarize(write_runs(tmp_path, said, model="table"))
    assert (summary.metric, summary.margin) == ("r2", 0.01)
    assert only(summary).code == "worse"


# --- margin, prevalence, printing -----------------------------------------------------------------


def test_a_margin_of_afterwards_is_told(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, alike(), asked={"margin": 0.004})
    asked = summarize(folder)
    assert only(asked).margin == asked.margin == 0.004
    assert not any("when the report was written" in note for note in asked.notes)
    later = summarize(folder, margin=0.05)
    assert later.margin == 0.05
    assert any("when the report was written" in note for note in later.notes)
    with pytest.raises(InputError, match="margin"):
        summarize(folder, margin=-0.1)


def test_prevalence_is_told_and_above_80_per_cent_balanced_accuracy_recommended(
    tmp_path: Path,
) -> None:
    def rare(seed: int, share: float) -> Outputs:
        said = classifier(0.97, seed, examples=1000, classes=2)
        targets = (torch.arange(1000) >= 1000 * share).long()
        logits = 3.0 * torch.eye(2)[torch.where(said.correct, targets, 1 - targets)]
        return Outputs.of(logits, targets)

    for share in (0.7, 0.9):
        said = {
            row: by_seed(lambda s, i=i, p=share: rare(s + 10 * i, p), 3)
            for i, row in enumerate(("spinal", "mlp"))
        }
        summary = summarize(write_runs(tmp_path / str(share), said))
        assert summary.prevalence == pytest.approx(share)
        told = [note for note in summary.notes if "balanced-accuracy" in note]
        assert bool(told) == (share > 0.8)
        assert any(f"{100 * share:.0f}" in n for n in [*summary.methods, *summary.notes])


def test_tables_fit_a_terminal(tmp_path: Path) -> None:
    from rich.console import Console

    said = better()
    said["unchained-matched"] = by_seed(lambda s: classifier(0.86, s, examples=2000), 5)
    summary = summarize(write_runs(tmp_path, said))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(as_rich(*short_rows(summary)))
    text = console.export_text()
    assert "unchained-matched" in text
    assert "…" not in text


def test_differences_are_printed_in_the_metrics_own_numbers() -> None:
    assert Units("accuracy", 2000).amount(0.0071) == "0.71 points"
    assert Units("r2").amount(0.01) == "0.01 in R²"


# --- files of earlier versions --------------------------------------------------------------------

EARLIER = sorted(
    path
    for path in [*RESULTS.glob("*.json"), *RESULTS.glob("tables/*/summary.json")]
    if json.loads(path.read_text()).get("schema", 1) < SCHEMA
)


@pytest.mark.parametrize("path", EARLIER, ids=lambda p: p.relative_to(RESULTS).as_posix())
def test_committed_results_of_earlier_versions_say_no_more_than_they_can(path: Path) -> None:
    kept = json.loads(path.read_text())
    summary = load_summary(path)
    rows = kept.get("models") or kept["heads"]
    for row, head in zip(rows, summary.heads, strict=True):
        values = row.get("scores") or row.get("accuracies") or row.get("values")
        assert list(head.values) == values
        assert head.mean == pytest.approx(np.mean([v for v in values if v is not None]))
        if (old := row["difference"]) is not None:
            d = head.difference
            assert d is not None
            assert (d.mean, d.low, d.high) == pytest.approx((old["mean"], old["low"], old["high"]))
            assert d.code in ("better", "worse", "undecided")
            assert d.code == "undecided" or d.p_holm < 0.05
            assert d.margin is None
            assert d.verdict
            assert "no evidence" not in d.verdict
            assert "not distinguishable" not in d.verdict
    assert "from an earlier version" in summary.headline
    assert ("seeds only" in summary.headline) != summary.is_table
    assert summary.verdict.startswith(summary.headline)
    assert "not distinguishable" not in summary.verdict
    written = to_json(sealed(summary.to_dict()))  # as it lies in the file
    assert Summary.from_dict(json.loads(written)) == summary
    head_rows(summary)


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    record = summarize(write_runs(tmp_path, better(n=2))).to_dict()
    with pytest.raises(InputError, match="Update spinalnet"):
        Summary.from_dict({**record, "schema": SCHEMA + 1})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda record: [record], "a mapping of names to values belongs there"),
        (lambda record: {}, "not a summary of a comparison"),
        (lambda record: {"heads": [{}], "metric": "accuracy"}, "it has no 'values'"),
        (
            lambda record: {k: v for k, v in record.items() if k != "heads"},
            "not a summary of a comparison",
        ),
        (lambda record: record | {"heads": [{"head": "mlp"}]}, "is missing"),
        (lambda record: record | {"schema": 0}, "a whole number from 1, got 0"),
        (lambda record: record | {"schema": -1}, "a whole number from 1, got -1"),
        (lambda record: record | {"schema": None}, "schema must be an integer, got None"),
        (lambda record: sealed(record) | {"data": "other"}, "does not match its digest"),
    ],
)
def test_what_is_no_summary_is_one_sentence(tmp_path: Path, change, sentence: str) -> None:
    record = summarize(write_runs(tmp_path, better(n=2))).to_dict()
    with pytest.raises(InputError, match=sentence):
        Summary.from_dict(change(json.loads(json.dumps(record))))
