from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
import re
import statistics
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch
import yaml
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from helpers import without_digests
from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.cli import root
from spinalnet.cli.progress import print_run
from spinalnet.comparison import classes, times
from spinalnet.comparison.answer import Summary
from spinalnet.comparison.calibration import quality
from spinalnet.comparison.classes import Confusion, judge
from spinalnet.comparison.findings import head_rows, repeated, short_rows, times_note
from spinalnet.comparison.finished import read_folder
from spinalnet.comparison.next_steps import next_steps
from spinalnet.comparison.outputs import OUTPUTS_FILE, Outputs
from spinalnet.comparison.report import drawing
from spinalnet.comparison.report.class_figures import paint_confusion
from spinalnet.comparison.report.figures import COSTS, _apart, learning_curves, paint_against_cost
from spinalnet.comparison.report.page import write_report
from spinalnet.comparison.statistics import paired_difference
from spinalnet.comparison.summary import load_summary, summarize, summarize_runs
from spinalnet.comparison.units import Unit
from spinalnet.comparison.wording import as_markdown, as_rich
from spinalnet.data import Resample
from spinalnet.training.runs import RunFolder, load_runs

SIZES = {  # head: parameters and MACs of the head
    "spinal": (8538, 8480),
    "mlp": (16850, 16800),
    "matched": (8620, 8570),
    "linear": (2610, 2600),
}
TRUNK_PARAMS, TRUNK_MACS = 5280, 464_000


RESULTS_TABLE = re.compile(r'<table [^>]*id="results"[^>]*>.*?</table>', re.DOTALL)


def write_comparison(
    folder: Path,
    scores: dict[str, list[float | None]],
    *,
    test_size: int = 1000,
    classes: int = 4,
    metric: str = "accuracy",
    epochs: int = 4,
    timing: dict[str, dict[str, float]] | None = None,
    unfinished: tuple[str, ...] = (),
    question: bool = True,
    class_names: list[str] | None = None,
    **result: Any,
) -> Path:
    """Write run folders with these test scores by head and seed (None: that run is absent)."""
    for head, values in scores.items():
        for seed, value in enumerate(values):
            if value is None:
                continue
            name = f"{head}-seed{seed}"
            run = RunFolder.start(folder / "runs" / name, {"head": head, "seed": seed})
            ran = max(1, epochs - seed % 2)  # odd seeds stop early
            for epoch in range(1, ran + 1):
                row = {"epoch": epoch, "val_loss": 1 / epoch}
                if metric == "accuracy" and math.isfinite(value):
                    row["val_accuracy"] = value * (1 - 0.5**epoch)
                run.append_metrics(row)
            if name in unfinished:
                continue
            params, macs = SIZES[head]
            test: dict[str, Any] = {"n": test_size, "loss": 0.1, metric: value}
            if metric == "accuracy":
                test["confusion"] = [
                    [9 if i == j else int(j == (i + 1) % classes) for j in range(classes)]
                    for i in range(classes)
                ]
            record = {
                "model": "mnist-cnn",
                "head": head,
                "label": head,
                "data": "digits",
                "seed": seed,
                "task": "classification" if metric == "accuracy" else "regression",
                "class_names": class_names or [f"class {i}" for i in range(classes)],
                "params": TRUNK_PARAMS + params,
                "trunk_params": TRUNK_PARAMS,
                "head_params": params,
                "macs": TRUNK_MACS + macs,
                "trunk_macs": TRUNK_MACS,
                "head_macs": macs,
                "val": {name: value for name, value in test.items() if name != "confusion"},
                "test": test,
                "best_epoch": 1,
                "epochs_run": ran,
                "train_seconds": 2.0 + seed,
                "selected_on": "validation",
                "notes": ["the given val/ is the test set"],
            }
            run.finish({**record, **result})
    if question:
        asked = {
            "data": "digits",
            "model": "mnist-cnn",
            "heads": list(scores),
            "units": [f"seed{seed}" for seed in range(max(map(len, scores.values())))],
            "epochs": epochs,
            "command": "spinalnet compare digits",
        }
        (folder / "comparison.yaml").write_text(yaml.safe_dump(asked))
    if timing:
        measured = {"schema": times.SCHEMA, "device": "cpu", "threads": 1, "batch_size": 128}
        (folder / "timing.json").write_text(json.dumps({**measured, "heads": timing}))
    return folder


FIRST = [0.972, 0.975, 0.969, 0.974, 0.971]
OTHER = [0.951, 0.950, 0.955, 0.949, 0.953]
NOISY = [0.974, 0.970, 0.976, 0.969, 0.970]


def only_difference(folder: Path):
    (row,) = [head for head in summarize(folder).heads if head.difference]
    return row.difference


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_comparison(
        tmp_path_factory.mktemp("report"),
        {"spinal": FIRST, "mlp": OTHER, "matched": NOISY},
        timing={
            "spinal": {"inference": 90.0, "training": 300.0},
            "mlp": {"inference": 45.0, "training": 150.0},
        },
    )
    assert write_report(folder) == folder / "report.html"
    return folder


def test_interval_and_p_value_are_those_of_the_paired_t_test(tmp_path):
    difference = only_difference(write_comparison(tmp_path, {"spinal": FIRST, "mlp": NOISY}))
    truth = stats.ttest_rel(FIRST, NOISY)
    interval = truth.confidence_interval(0.95)
    assert difference.p_value == pytest.approx(truth.pvalue, rel=1e-9)
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
    assert difference.mean == pytest.approx(sum(FIRST) / 5 - sum(NOISY) / 5)


def test_row_statistics(tmp_path):
    head = summarize(write_comparison(tmp_path, {"spinal": FIRST})).heads[0]
    assert head.mean == pytest.approx(0.9722)
    assert head.std == pytest.approx(0.002387, rel=1e-3)  # divided by n - 1
    assert head.train_seconds_mean == 4.0
    assert (head.n, head.params, head.head_macs) == (5, TRUNK_PARAMS + 8538, 8480)


def test_verdict_of_a_clear_win(tmp_path):
    difference = only_difference(write_comparison(tmp_path, {"spinal": FIRST, "mlp": OTHER}))
    assert difference.code == "better"
    assert difference.verdict == (
        "spinal is better than mlp by 2.1 points (95 % interval 1.5 to 2.6, n=5)"
    )


def test_verdict_of_a_clear_loss_names_the_winner(tmp_path):
    difference = only_difference(write_comparison(tmp_path, {"spinal": OTHER, "mlp": FIRST}))
    assert difference.code == "worse"
    assert difference.high < 0
    assert difference.verdict == (
        "mlp is better than spinal by 2.1 points (95 % interval 1.5 to 2.6, n=5)"
    )


def test_no_evidence_of_a_difference_is_not_equality(tmp_path):
    summary = summarize(write_comparison(tmp_path, {"spinal": FIRST, "mlp": NOISY}))
    difference = summary.heads[1].difference
    assert (difference.code, difference.reason) == ("undecided", "more-seeds")
    assert difference.verdict.startswith(
        f"undecided: about {difference.more} further seeds would probably decide (difference 0.0"
    )
    assert summary.headline == (
        "Undecided: spinal is shown neither better, worse nor equal to mlp "
        "(5 seeds, 1,000 test examples)."
    )


def test_a_single_seed_gives_no_verdict(tmp_path):
    summary = summarize(write_comparison(tmp_path, {"spinal": [0.9], "mlp": [0.8]}))
    difference = summary.heads[1].difference
    assert (difference.low, difference.high, difference.p_value) == (None, None, None)
    assert difference.verdict == (
        "undecided: one seed compares two trained models, not two heads (n=1)"
    )
    assert summary.heads[0].std is None
    assert any("One seed per head" in note for note in summary.notes)


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [
        (0.0, "undecided: identical results in every seed (n=3)"),
        (
            -0.05,
            "undecided: spinal is ahead by the same 5 points in every seed, and without spread",
        ),
        (0.05, "undecided: mlp is ahead by the same 5 points in every seed, and without spread"),
    ],
)
def test_equal_differences_are_said_not_divided_by(tmp_path, shift, verdict):
    first = [0.7, 0.8, 0.9]
    scores = {"spinal": first, "mlp": [value + shift for value in first]}
    difference = only_difference(write_comparison(tmp_path, scores))
    assert difference.verdict.startswith(verdict)
    assert (difference.code, difference.reason) == ("undecided", "no-spread")
    assert (difference.p_value, difference.low) == (None, None)


def test_heads_without_a_common_seed_are_not_compared(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": [0.9, None], "mlp": [None, 0.8]})
    difference = only_difference(folder)
    assert (difference.n, difference.mean) == (0, None)
    assert difference.verdict == "undecided: no seed that both heads finished (n=0)"


def test_only_common_finished_seeds_are_paired_and_the_rest_is_named(tmp_path):
    folder = write_comparison(
        tmp_path, {"spinal": FIRST, "mlp": [*OTHER[:3], None, 0.1]}, unfinished=("mlp-seed4",)
    )
    summary = summarize(folder)
    first, other = summary.heads
    assert (first.n, other.n, other.difference.n) == (5, 3, 3)
    assert other.values == (*OTHER[:3], None, None)
    expected = [a - b for a, b in zip(FIRST[:3], OTHER[:3], strict=True)]
    assert other.difference.mean == pytest.approx(sum(expected) / 3)
    assert "1 run is unfinished and left out: mlp-seed4." in summary.notes
    assert "1 run is missing: mlp-seed3." in summary.notes


def test_a_run_without_a_finite_result_is_left_out(tmp_path):
    summary = summarize(
        write_comparison(tmp_path, {"spinal": FIRST, "mlp": [*OTHER[:4], math.nan]})
    )
    assert summary.heads[1].n == 4
    assert any("without a finite test result" in note for note in summary.notes)


def test_regression_prefers_the_lower_error(tmp_path):
    scores = {"spinal": [0.10, 0.11, 0.105], "mlp": [0.20, 0.22, 0.20]}
    folder = write_comparison(tmp_path, scores, metric="mse")
    summary = summarize(folder)
    difference = summary.heads[1].difference
    assert (summary.metric, difference.code) == ("mse", "better")
    assert difference.mean < 0
    assert re.match(
        r"spinal is better than mlp by 0\.10\d in MSE \(95 % interval", difference.verdict
    )
    assert summary.to_dict()["heads"][0]["mean"] == pytest.approx(0.105)
    write_report(folder)
    assert not (folder / "confusion.svg").exists()
    assert (folder / "learning_curves.svg").stat().st_size > 5000


def test_holm_takes_back_evidence_of_many_comparisons(tmp_path):
    weak = [
        value - step for value, step in zip(FIRST, [0.009, 0.003, 0.0, 0.008, 0.006], strict=True)
    ]
    alone = only_difference(write_comparison(tmp_path / "two", {"spinal": FIRST, "mlp": weak}))
    assert 0.025 < alone.p_value < 0.05
    assert alone.code == "better"
    scores = {"spinal": FIRST, "mlp": weak, "matched": NOISY}
    summary = summarize(write_comparison(tmp_path / "three", scores))
    together = summary.heads[1].difference
    assert together.p_value == pytest.approx(alone.p_value)
    assert together.p_holm == pytest.approx(2 * alone.p_value)
    assert (together.code, together.reason) == ("undecided", "correction")
    assert any("2 comparisons are made" in note for note in summary.methods)


def test_the_paragraph_tells_cost_and_times_only_where_they_surely_differ(tmp_path):
    timing = {
        "spinal": {"inference": 90.0, "training": 300.0},
        "mlp": {"inference": 45.0, "training": 150.0},
    }
    folder = write_comparison(tmp_path, {"spinal": FIRST, "mlp": OTHER}, timing=timing)
    verdict = summarize(folder).verdict
    assert "0.51 times the parameters" in verdict
    assert "time" not in verdict.replace("times", "")


def test_times_that_an_earlier_version_measured_are_shown_nowhere(tmp_path):
    ratio = {"ratio": 1.312, "low": 1.224, "high": 1.408}
    timing: Any = {
        "spinal": {"inference": 90.0, "training": 300.0, "peak_memory_bytes": 2**20},
        "mlp": {"inference": 91.0, "training": 310.0, "inference_ratio": ratio},
    }
    folder = write_comparison(tmp_path, {"spinal": FIRST, "mlp": OTHER}, timing=timing)
    assert "1.31" in summarize(folder).verdict
    written = summarize(folder).to_dict()  # by that version, which told them
    written["timing"]["schema"] = 2
    record = json.loads((folder / "timing.json").read_text(encoding="utf-8"))
    (folder / "timing.json").write_text(json.dumps(record | {"schema": 2}), encoding="utf-8")
    for summary in (summarize(folder), Summary.from_dict(written)):
        assert [head.inference_us for head in summary.heads] == [None, None]
        assert not any("inference" in title or "step" in title for title in head_rows(summary)[0])
        assert "peak\nmemory,\nMiB" in head_rows(summary)[0]
        assert times_note(summary) == ""
    assert "1.31" not in summarize(folder).verdict
    page = write_report(folder).read_text(encoding="utf-8")
    assert "heads take turns" not in page
    assert "microseconds per batch" not in page


def test_words_quote_the_ratio_of_times_that_the_table_shows(tmp_path):
    """The medians of two heads may stand the other way round: another turn, another speed."""
    ratio = {"ratio": 1.312, "low": 1.224, "high": 1.408}
    level = {"ratio": 1.01, "low": 0.97, "high": 1.05}
    timing: Any = {
        "spinal": {"inference": 90.0, "training": 300.0},
        "mlp": {
            **{"inference": 91.0, "training": 310.0},
            **{"inference_ratio": ratio, "training_ratio": level},
        },
    }
    summary = summarize(write_comparison(tmp_path, {"spinal": FIRST, "mlp": OTHER}, timing=timing))
    header, rows = head_rows(summary)
    cells = dict(zip(header, rows[1], strict=True))
    assert cells["spinal over this,\ninference"] == "1.31 (1.22 to 1.41)"
    assert cells["spinal over this,\ntraining step"] == "1.01 (0.97 to 1.05)"
    assert "1.31 (1.22 to 1.41) times the inference time of mlp" in summary.verdict
    assert "training-step time" not in summary.verdict
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("spinal over this: heads take turns") == 1
    place = page.index("spinal over this: heads take turns")
    assert place - RESULTS_TABLE.search(page).start() < 5000


@pytest.mark.parametrize(
    ("needed", "asked", "purpose"),
    [
        ({"mlp": 12}, 12, "Decide what is open"),
        ({"mlp": 44, "linear": 9}, 45, "Decide what is open"),
        ({"mlp": 30, "linear": 430}, 30, "Decide a part (it would probably take about 430 seeds"),
        ({"mlp": 2400}, 100, "Come nearer to an answer (it would probably take about 2,400 "),
    ],
)
def test_the_seeds_that_would_decide_are_those_that_are_asked_for(needed, asked, purpose, tmp_path):
    scores = dict.fromkeys(["spinal", *needed], FIRST)
    summary = summarize(write_comparison(tmp_path, scores))
    heads = [
        dataclasses.replace(
            head,
            difference=head.difference
            and dataclasses.replace(head.difference, more=needed[head.head] - len(FIRST)),
        )
        for head in summary.heads
    ]
    summary = dataclasses.replace(
        summary, heads=tuple(heads), command="spinalnet compare digits --seeds 5 --until-decided -q"
    )
    step = next_steps(read_folder(tmp_path), summary, tmp_path)[0]
    assert step.command == f"spinalnet compare digits --seeds {asked}"
    assert step.purpose.startswith(purpose)


def undecided(folder, more):
    """A comparison, and its heads as if so many further seeds would decide."""
    summary = summarize(write_comparison(folder, {"spinal": FIRST, "mlp": FIRST}))
    heads = [
        dataclasses.replace(
            h, difference=h.difference and dataclasses.replace(h.difference, more=more)
        )
        for h in summary.heads
    ]
    return summary, heads


def test_more_splits_are_a_fresh_comparison_in_a_new_folder(tmp_path):
    summary, heads = undecided(tmp_path, more=4)
    command = "spinalnet compare 'a b.csv' --preset quick --out 'my runs/c' --tune 4"
    of_splits = dataclasses.replace(summary, heads=heads, unit_kind="split", command=command)
    folder = Path("my runs/c")
    purpose, said = next_steps(read_folder(tmp_path), of_splits, folder)[0]
    assert purpose == "Decide what is open, in a fresh comparison"
    assert said == (
        "spinalnet compare 'a b.csv' --preset quick --tune 4 --seeds 9 --out 'my runs/c-9-splits'"
    )


@pytest.mark.parametrize(
    ("more", "asked", "purpose"),
    [
        (4, 2, "Decide what is open, in a fresh comparison"),
        (13, 4, "Decide what is open, in a fresh comparison"),
        (
            900,
            20,
            "Come nearer to an answer (it would probably take about 181 repeats against mlp)",
        ),
    ],
)
def test_more_of_folds_are_drawn_again_in_a_fresh_comparison(more, asked, purpose, tmp_path):
    summary = summarize(write_comparison(tmp_path, {"spinal": FIRST, "mlp": FIRST}))
    heads = [
        dataclasses.replace(
            h, difference=h.difference and dataclasses.replace(h.difference, more=more)
        )
        for h in summary.heads
    ]
    command = "spinalnet compare ./photos -q --folds 5 --json --repeats=1 --out runs/f -v --quiet"
    drawn = [Unit(seed, Resample("fold", k, 5)) for k in range(5) for seed in (0, 1)]
    units = {unit.name: unit for unit in drawn}
    asked_for = {"units": tuple(units), "seeds": (0, 1), "unit_kind": "fold", "command": command}
    of_folds = dataclasses.replace(summary, heads=heads, **asked_for)
    assert repeated(of_folds) == "5 folds, 2 seeds each"
    read = dataclasses.replace(read_folder(tmp_path), units=units)
    more_folds, tuned, *_ = next_steps(read, of_folds, Path("runs/f"))
    assert more_folds.purpose.startswith(purpose)
    again = f"--repeats {asked} --out runs/f-{asked}-repeats"
    assert more_folds.command == f"spinalnet compare ./photos --folds 5 {again}"
    assert tuned.command == "spinalnet compare ./photos --folds 5 --repeats=1 --tune 16"
    damaged = dataclasses.replace(of_folds, command="spinalnet compare 'a")
    assert next_steps(read, damaged, Path()) == []


@pytest.mark.parametrize(
    "names",
    [
        ["common birch tree seen from afar", "rare European mountain ash in autumn"],
        ["Grundstücksverkehrsgenehmigung", "no"],
        ["花が咲いている大きな桜の木の写真", "葉が落ちた冬の桜の木"],
        ["setosa of the north", "versicolor of the south", "virginica of the far east"],
    ],
)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_the_names_of_a_few_classes_are_whole_below_a_confusion(names):
    counts = ((9,) * len(names),) * len(names)
    shown = Confusion("spinal", 1, tuple(names), counts)
    figure = Figure(figsize=(4.6, 4.9), layout="constrained", dpi=72)
    axes = figure.add_subplot()
    paint_confusion(axes, drawing.LIGHT, shown)
    figure.draw_without_rendering()
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        said = [label.get_text() for label in labels]
        assert [re.sub(r"\s", "", one) for one in said] == [re.sub(r"\s", "", n) for n in names]
    below = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(below))


def test_a_recipe_is_run_at_its_length_and_then_with_more_seeds(tmp_path):
    summary, heads = undecided(tmp_path, more=4)
    made = "spinalnet reproduce mnist-cnn --protocol honest --seeds 5"
    folder, read = Path("runs/mine/mnist-cnn-honest"), read_folder(tmp_path)
    for budget, purpose, again in (
        ("short", "Run it at the original's length", "--seeds 5 --out runs/mine --budget full"),
        ("full", "Decide what is open", "--budget full --out runs/mine --seeds 9"),
    ):
        command = f"{made} --budget {budget}"
        asked = dataclasses.replace(summary, heads=heads, command=command)
        step = next_steps(read, asked, folder)[0]
        assert step == (purpose, f"spinalnet reproduce mnist-cnn --protocol honest {again}")


def test_a_very_long_name_of_two_keeps_both_ends():
    assert drawing.fold("a" * 40 + "$" * 60, 15).replace("\n", "").endswith(r"\$" * 14)
    assert drawing.fold("a" * 40 + "b" * 60, 15).count("\n") <= 3


def test_axes_end_where_the_metric_does_and_hold_the_quartiles(tmp_path):
    summary = summarize(write_comparison(tmp_path, {"spinal": [1.0, 0.5], "mlp": [1.0, 0.97]}))
    timed = {"inference_us": 100.0, "cost": {"inference_quartiles": [10.0, 9000.0]}}
    heads = [dataclasses.replace(head, **timed) for head in summary.heads]
    axes = Figure().add_subplot()
    shown = dataclasses.replace(summary, heads=heads)
    paint_against_cost(axes, drawing.LIGHT, shown, COSTS["inference"])
    low, high = axes.get_ylim()
    assert -0.05 < low <= 0.0  # the interval of two runs reaches far below
    assert 1.01 < high < 1.05  # a dot at 100 % is whole
    for line in axes.collections:
        for path in line.get_paths() if isinstance(line, LineCollection) else ():
            assert 0 <= path.vertices[:, 1].min() <= path.vertices[:, 1].max() <= 1
    left, right = axes.get_xlim()
    for line in axes.lines:
        assert left < min(line.get_xdata()) <= max(line.get_xdata()) < right


def test_without_timing_no_time_is_claimed(tmp_path):
    summary = summarize(write_comparison(tmp_path, {"spinal": NOISY, "mlp": FIRST}))
    assert "inference time" not in summary.verdict
    assert "0.51 times the parameters" in summary.verdict
    assert "µs" not in as_markdown(*head_rows(summary))


def test_notes_state_what_the_interval_and_the_test_set_cover(tmp_path):
    summary = summarize(write_comparison(tmp_path, {"spinal": FIRST, "mlp": OTHER}))
    notes = " ".join([*summary.notes, *summary.methods])
    assert "randomness of training (the seed) only, not the sampling of the test set" in notes
    error = 100 * math.sqrt(0.9722 * 0.0278 / 1000)
    assert "1,000 examples: one is worth 0.1 points" in notes
    assert f"is {error:.2g} points" in notes
    assert notes.count("the given val/ is the test set") == 1


def test_selection_on_test_is_said(tmp_path):
    summary = summarize(write_comparison(tmp_path, {"spinal": FIRST}, selected_on="test"))
    assert summary.selected_on == "test"
    assert any(note.startswith("Selected on test") for note in summary.notes)


def test_without_the_question_the_spinal_head_is_first(tmp_path):
    folder = write_comparison(tmp_path, {"linear": OTHER, "spinal": FIRST}, question=False)
    summary = summarize(folder)
    assert [head.head for head in summary.heads] == ["spinal", "linear"]
    assert summary.command is None


def test_the_question_sets_the_order(tmp_path):
    summary = summarize(write_comparison(tmp_path, {"linear": OTHER, "spinal": FIRST}))
    assert [head.head for head in summary.heads] == ["linear", "spinal"]


def test_summary_json_holds_the_agreed_keys(written):
    def refuse(constant):
        raise AssertionError(f"{constant} is not strict JSON")

    record = json.loads((written / "summary.json").read_text(), parse_constant=refuse)
    assert record.pop("blake2b")
    assert record == json.loads(json.dumps(summarize(written).to_dict()))
    top = (
        "schema data model epochs seeds metric selected_on heads verdict notes environment command"
    )
    assert set(top.split()) <= set(record)
    row = (
        "head params head_params head_macs macs n mean std values "
        "train_seconds_mean inference_us training_us difference"
    )
    for head in record["heads"]:
        assert set(row.split()) <= set(head)
    assert record["heads"][0]["difference"] is None
    difference = record["heads"][1]["difference"]
    assert {"minus", "of", "mean", "low", "high", "n", "p_value", "verdict"} <= set(difference)
    assert (difference["minus"], difference["of"]) == ("mlp", "spinal")
    assert record["heads"][0]["values"] == FIRST
    assert (record["seeds"], record["command"]) == ([0, 1, 2, 3, 4], "spinalnet compare digits")
    assert record["heads"][2]["inference_us"] is None
    assert (record["schema"], record["units"][:2]) == (3, ["seed0", "seed1"])
    assert record["code"] == "mixed"


def test_summary_csv_has_a_row_per_head(written):
    rows = list(csv.DictReader(io.StringIO((written / "summary.csv").read_text())))
    assert [row["head"] for row in rows] == ["spinal", "mlp", "matched"]
    assert float(rows[0]["accuracy_mean"]) == pytest.approx(0.9722)
    assert rows[0]["difference_mean"] == ""
    assert float(rows[1]["difference_mean"]) == pytest.approx(0.0206)
    assert rows[1]["difference_verdict"].startswith("spinal is better")


@pytest.mark.parametrize("name", ["differences", "learning_curves", "cost", "confusion"])
def test_plots_are_drawings_with_text_and_numbers_to_point_at(written, name):
    root = ET.parse(written / f"{name}.svg").getroot()
    text = " ".join(node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "mlp" in text  # real text, which can be searched and read aloud
    titles = [node.text for node in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any("mlp" in (title or "") or "predicted as" in (title or "") for title in titles)


def test_drawings_share_a_page(written):
    page = (written / "report.html").read_text(encoding="utf-8")
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))
    for used in re.findall(r'(?:href="#|url\(#|labelledby=")([^")]+)', page):
        assert used in names
    assert "<style" not in page[page.index("<body>") :]  # of a drawing, it would be of all
    drawings = "".join(re.findall("<svg.*?</svg>", page, re.DOTALL))
    assert "var(--ink)" in drawings
    colours = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawings))
    assert colours <= {"#000000"}  # all others follow the page, light or dark


def test_page_is_self_contained_and_holds_the_result(written):
    page = (written / "report.html").read_text(encoding="utf-8")
    links = re.findall(r"""(?:src|srcset|href)=["']([^"']{0,60})""", page)
    inside = ("data:image/png;base64,", "#")
    assert {link for link in links if not link.startswith(inside)} == {
        "https://arxiv.org/abs/2007.03347"
    }
    for word in ("<script src", "@import", "fetch(", "XMLHttpRequest", "<iframe", "<link"):
        assert word not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert len(page) < 1_500_000
    summary = summarize(written)
    table = RESULTS_TABLE.search(page)
    assert table
    cells = table[0].replace('<br class="narrow">', "")
    for text in ("spinal", "matched", "16,800", "97.2 ± 0.2", "2.1 (1.5 to 2.6)", "22,130"):
        assert text in cells
    for note in (*summary.notes, *summary.methods):
        assert note in page
    assert page.count("<svg") == 4
    order = (summary.headline, 'class="chip', 'id="title-differences"', "What next", "<table")
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert page.count('class="chip') == 2
    assert "spinalnet compare digits" in page
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_a_cost_is_told_in_digits(tmp_path, monkeypatch):
    macs = {"spinal": 43_776, "linear": 10, "mlp": 480, "matched": 44_300}
    for head, count in macs.items():
        monkeypatch.setitem(SIZES, head, (count + 10, count))
    folder = write_comparison(tmp_path, dict.fromkeys(macs, FIRST[:2]))
    page = write_report(folder).read_text(encoding="utf-8")
    assert re.findall(r"([\d.,e+]+)× its", page) == ["4,400", "91", "0.99"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("spinalnet compare digits", "set --class-weights balanced, or --metric auroc."),
        ("spinalnet reproduce mnist-cnn", "set class weights balanced, or metric auroc."),
        (None, "set class weights balanced, or metric auroc."),
    ],
)
def test_a_report_speaks_in_options_where_a_command_made_the_runs_else_in_words(
    tmp_path, command, said
):
    note = "Some classes are never predicted: set class_weights=balanced, or metric=auroc."
    folder = write_comparison(tmp_path, {"spinal": FIRST[:2]}, notes=[note], question=False)
    page = write_report(folder, command=command).read_text(encoding="utf-8")
    assert f"never predicted: {said}" in page
    assert "_weights" not in page


def test_lists_of_numbers_take_a_line_of_json():
    values = {"confusion": [[1, 0], [2, 3]], "f": [1.5, math.inf], "names": ["é", "b"], "none": {}}
    text = files.to_json(values)
    assert json.loads(text) == values | {"f": [1.5, None]}
    assert "    [1, 0],\n    [2, 3]\n" in text
    assert '"f": [1.5, null]' in text


def test_names_are_escaped(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": FIRST[:2]}, data="<b>$a</b>", epochs=2)
    page = write_report(folder, command="spinalnet <i>").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "&lt;b&gt;$a&lt;/b&gt;" in page
    assert "spinalnet &lt;i&gt;" in page


def test_a_report_can_be_written_again_with_the_same_bytes(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": FIRST[:2]}, epochs=2, question=False)
    before = write_report(folder, command="spinalnet compare digits --seeds 2").read_bytes()
    assert b"digits --seeds 2" in before
    assert write_report(folder).read_bytes() == before  # the command is kept too
    assert not list(folder.glob(".*"))


def test_many_classes_are_listed_as_pairs(tmp_path):
    names = [f"class $ {i} 漢" for i in range(40)]  # the plot's font lacks the last sign
    folder = write_comparison(
        tmp_path, {"spinal": [0.9], "mlp": [0.8]}, classes=40, class_names=names
    )
    page = write_report(folder).read_text(encoding="utf-8")
    table = re.search(r'<table id="confused">.*?</table>', page, re.DOTALL)
    assert table
    assert table[0].count("<tr>") == 1 + 15
    assert (
        '<th scope="row">class $ 0 漢</th><td>class $ 1 漢</td><td>10.0 %</td><td>10.0 %</td>'
        in table[0]
    )
    assert (folder / "confusion.svg").is_file()


def test_terminal_and_markdown_tables_agree(written):
    summary = summarize(written)
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(as_rich(*head_rows(summary)))
    terminal = console.file.getvalue()
    header, rule, *rows = as_markdown(*head_rows(summary)).splitlines()
    assert header.count("|") == rule.count("|")
    assert len(rows) == 3
    for row in rows:
        for cell in row.strip("| ").split(" | "):
            assert cell in terminal
    assert (
        "| mlp | 2.1 (1.5 to 2.6) | better | 95.2 ± 0.2 | 5 | 16,850 | 22,130 | 16,800 | 45 | 150 "
        "| 4 |" in rows
    )


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run"):
        summarize(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        summarize(tmp_path / "absent")


def test_only_unfinished_runs_are_refused_by_name(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": [0.9]}, unfinished=("spinal-seed0",))
    with pytest.raises(InputError, match=r"only unfinished ones in .*spinal-seed0"):
        write_report(folder)
    assert not (folder / "summary.json").exists()


def test_runs_of_different_data_are_refused(tmp_path):
    write_comparison(tmp_path / "a", {"spinal": [0.9]})
    write_comparison(tmp_path / "b", {"mlp": [0.9]}, data="mnist")
    with pytest.raises(InputError, match="must share their data, got digits and mnist"):
        summarize(tmp_path)


def test_two_runs_of_one_head_and_seed_are_refused(tmp_path):
    write_comparison(tmp_path / "a", {"spinal": [0.9]})
    write_comparison(tmp_path / "b", {"spinal": [0.9]})
    with pytest.raises(InputError, match="one run per head and seed"):
        summarize(tmp_path)


def test_a_damaged_timing_file_is_named(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": [0.9]})
    (folder / "timing.json").write_text("{")
    with pytest.raises(InputError, match=r"timing\.json cannot be read"):
        summarize(folder)


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("comparison.yaml", {"heads": 5}, "heads must be text or a list or null, got 5"),
        ("comparison.yaml", {"heads": [1]}, r"heads must be .*, got \[1\]"),
        ("comparison.yaml", {"units": "x"}, "units must be a list"),
        ("comparison.yaml", {"seeds": "x"}, "seeds must be an integer or a list"),
        ("comparison.yaml", {"seeds": 1.5}, "seeds must be .*, got 1.5"),
        ("comparison.yaml", {"epochs": "x"}, "epochs must be an integer or null, got 'x'"),
        ("comparison.yaml", {"epochs": [1]}, "epochs must be"),
        ("timing.json", {"heads": 5}, "heads must be a mapping or null, got 5"),
        ("timing.json", {"heads": {"mlp": [1]}}, "a mapping of names to values belongs there"),
        ("timing.json", {"heads": {"mlp": {"inference": "x"}}}, "inference must be a number"),
        ("result.json", [], r"a mapping of names to values belongs there, got \[\]"),
        *(
            ("result.json", {name: ...}, f"{name} must be .*, got nothing")
            for name in ("head", "seed", "test")
        ),
        ("result.json", {"test": {"accuracy": "x"}}, "accuracy must be a number or null, got 'x'"),
        ("result.json", {"test": {"confusion": [[1, 2]]}}, "the confusion must be square"),
        ("environment.json", [1], r"a mapping of names to values belongs there, got \[1\]"),
    ],
)
def test_mangled_files_are_named(tmp_path, file, change, sentence):
    folder = write_comparison(tmp_path, {"spinal": [0.9, 0.8], "mlp": [0.9, 0.8]})
    of_run = file in ("result.json", "environment.json")
    path = (folder / "runs" / "mlp-seed0" if of_run else folder) / file
    if isinstance(change, dict):
        held = yaml.safe_load(path.read_text()) if path.exists() else {}
        change = {key: value for key, value in (held | change).items() if value is not ...}
    path.write_text(json.dumps(change))
    if of_run:  # as an earlier version left it: with no digest, which would not match
        without_digests(path.parent)
    with pytest.raises(InputError, match=rf"{re.escape(file)} cannot be used: .*{sentence}"):
        write_report(folder)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": [0.9]}, epochs=1)
    (folder / "summary.json").mkdir()  # a file cannot replace it, whoever runs the test
    with pytest.raises(InputError, match=r"cannot write .*summary\.json"):
        write_report(folder)
    assert not list(folder.glob(".*"))


def test_no_pyplot_state(written):
    import sys

    assert "matplotlib.pyplot" not in sys.modules


def test_near_columns_are_moved_apart_and_keep_their_order():
    xs = [8538.0, 16850.0, 8620.0]
    moved = _apart(xs)
    gap = 0.035 * math.log(16850 / 8538 * 1.6**2)
    assert moved[2] / moved[0] == pytest.approx(math.exp(gap), rel=1e-3)
    assert moved[1] == pytest.approx(xs[1])
    assert math.sqrt(moved[0] * moved[2]) == pytest.approx(math.sqrt(xs[0] * xs[2]))


def test_pairing_is_by_seed_not_by_order():
    difference = paired_difference("a", "b", {0: 0.5, 1: 0.7, 2: 0.9}, {2: 0.8, 0: 0.3, 5: 0.1})
    assert (difference.n, difference.mean) == (2, pytest.approx(0.15))


def test_terminal_table_fits_80_columns(written):
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(as_rich(*short_rows(summarize(written))))
    rows = [line for line in console.file.getvalue().splitlines() if "±" in line and " to " in line]
    assert [row.split()[0] for row in rows] == ["mlp", "matched"]
    assert all("2.1 (1.5 to 2.6)" in row for row in rows[:1])


def test_a_summary_comes_back_from_its_file(written, tmp_path):
    assert load_summary(written / "summary.json") == summarize(written)
    with pytest.raises(InputError, match="there is no summary"):
        load_summary(tmp_path / "nothing.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match="not a summary"):
        load_summary(tmp_path / "other.json")


def as_before(record: dict[str, Any]) -> dict[str, Any]:
    """Name the columns as files did that have no version."""
    metric = record["metric"]
    values = "accuracies" if metric == "accuracy" else f"{metric}_values"
    names = {"mean": f"{metric}_mean", "std": f"{metric}_std", "values": values}
    heads = [{names.get(k, k): v for k, v in head.items()} for head in record["heads"]]
    return {k: v for k, v in record.items() if k != "schema"} | {"heads": heads}


@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_files_from_before_the_version_are_read(tmp_path, metric):
    scores = {"spinal": FIRST, "mlp": [*OTHER[:4], None]}
    folder = write_comparison(tmp_path, scores, metric=metric)
    write_report(folder)
    summary = load_summary(folder / "summary.json")
    assert summary == summarize(folder)
    old = as_before(summary.to_dict())
    assert f"{metric}_mean" in old["heads"][0]
    (folder / "summary.json").write_text(json.dumps(old))
    read = load_summary(folder / "summary.json")
    for row, now in zip(read.heads, summary.heads, strict=True):
        for name in ("params", "n", "mean", "std", "values", "train_seconds_mean"):
            assert getattr(row, name) == getattr(now, name)
    found, now = read.heads[1].difference, summary.heads[1].difference
    assert now is not None
    assert found is not None
    for name in ("of", "mean", "low", "high", "n", "p_value", "p_holm"):
        assert getattr(found, name) == getattr(now, name)
    assert found.margin is None  # nothing was equal then
    assert read.heads[1].head == "mlp-paper"
    assert read.heads[1].difference is not None
    assert read.heads[1].difference.minus == "mlp-paper"
    assert "Against mlp-paper: " in read.verdict
    (folder / "summary.json").write_text(json.dumps(summary.to_dict() | {"schema": 4}))
    with pytest.raises(InputError, match=r"up to schema 3, got 4\. Update spinalnet"):
        load_summary(folder / "summary.json")


def test_a_run_without_a_finite_result_is_told_of(tmp_path, capsys):
    folder = write_comparison(tmp_path, {"spinal": [math.nan]}, metric="mse")
    print_run(load_runs(folder)[0])
    assert "spinal-seed0: val mse –" in capsys.readouterr().out


# --- classes and probabilities --------------------------------------------------------------------


def write_outputs(folder: Path, heads: dict[str, float], seeds: int = 3, n: int = 60) -> None:
    """Give the runs of a comparison outputs on 4 classes, the better the larger the number."""
    targets = torch.arange(n) % 4
    for head, skill in heads.items():
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            logits = torch.randn(n, 4, generator=generator)
            logits[torch.arange(n), targets] += skill
            logits[7] = torch.tensor([9.0, 0, 0, 0])  # of class 3: everybody's worst mistake
            outputs = Outputs.of(logits, targets, [f"photos/{i}.jpg" for i in range(n)])
            shown = outputs.worst(5)
            pixels = torch.full((len(shown), 3, 8, 8), 40 * seed, dtype=torch.uint8)
            pixels[:, 0] = shown.to(torch.uint8)[:, None, None]
            path = folder / "runs" / f"{head}-seed{seed}" / OUTPUTS_FILE
            outputs.with_thumbnails(shown, pixels).save(path)


def test_probabilities_are_scored_and_paired_by_seed(tmp_path):
    scores = {"spinal": FIRST[:3], "mlp": OTHER[:3]}
    folder = write_comparison(tmp_path, scores)
    write_outputs(folder, {"spinal": 2.0, "mlp": 1.0})
    page = write_report(folder).read_text(encoding="utf-8")
    first, other = json.loads((folder / "classification.json").read_text())["heads"]
    said = {
        head: [
            quality(Outputs.load(folder / "runs" / f"{head}-seed{seed}" / OUTPUTS_FILE))
            for seed in range(3)
        ]
        for head in scores
    }
    for row, head in ((first, "spinal"), (other, "mlp")):
        for name in ("ece", "adaptive_ece", "brier"):
            values = [getattr(found, name) for found in said[head]]
            assert row["mean"][name] == pytest.approx(statistics.fmean(values))
            assert row["std"][name] == pytest.approx(statistics.stdev(values))
        assert sum(b["count"] for b in row["reliability"]) == 3 * 60
    assert first["difference"] == {}
    truth = stats.ttest_rel([q.ece for q in said["spinal"]], [q.ece for q in said["mlp"]])
    assert other["difference"]["ece"]["p_value"] == pytest.approx(truth.pvalue)
    interval = truth.confidence_interval(0.95)
    assert other["difference"]["ece"]["low"] == pytest.approx(interval.low)
    assert other["difference"]["ece"]["high"] == pytest.approx(interval.high)
    table = re.search(r'<table id="probabilities">.*?</table>', page, re.DOTALL)
    assert table
    assert f"{100 * first['mean']['ece']:.1f} ± {100 * first['std']['ece']:.1f}" in table[0]
    assert f"({100 * interval.low:.1f} to {100 * interval.high:.1f})" in table[0]
    assert (folder / "reliability.svg").stat().st_size > 3000
    shown = sum(len(row["most_wrong"]) for row in (first, other))
    assert shown > 2
    assert page.count('<img src="data:image/png') == page.count("<img") == shown


def test_the_most_wrong_images_are_named_by_their_files(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": FIRST[:3], "mlp": OTHER[:3]})
    write_outputs(folder, {"spinal": 2.0, "mlp": 1.0})
    page = write_report(folder).read_text(encoding="utf-8")
    heads = json.loads((folder / "classification.json").read_text())["heads"]
    lists = re.findall(r'<h3>(\w+) .*?</h3>\s*<ul class="pictures">(.*?)</ul>', page, re.DOTALL)
    assert [name for name, _ in lists] == ["spinal", "mlp"]
    for (_, shown), head in zip(lists, heads, strict=True):
        rows = re.findall(
            r'alt="(.*?) taken for (.*?)">.*?, (\d+ %)<br><span class="soft">(.*?)</span>', shown
        )
        assert rows == [
            (m["true"], m["predicted"], f"{100 * m['probability']:.0f} %", m["path"].split("/")[-1])
            for m in head["most_wrong"]
        ]


def test_layers_that_spoke_for_a_mistake_are_shown_with_their_slices(tmp_path, monkeypatch):
    layers = [{"width": 2, "start": start, "stop": start + 4, "earlier": []} for start in (0, 4, 0)]
    wiring = {"in_features": 8, "out_features": 4, "layers": layers, "seen": [0, 1, 2]}
    wiring |= {"sees_input": False, "params": 40}
    folder = write_comparison(tmp_path, {"spinal": FIRST[:2], "mlp": OTHER[:2]}, wiring=wiring)
    write_outputs(folder, {"spinal": 3.0, "mlp": 1.0}, seeds=2)
    for seed in range(2):
        path = folder / "runs" / f"spinal-seed{seed}" / OUTPUTS_FILE
        said = Outputs.load(path)
        shares = torch.zeros(len(said.shown), 3, 2)
        shares[said.shown == 7] = torch.tensor([[1.0 + seed, 0], [4.0, 1.0], [0, 2.5]])
        said.with_shares(said.shown, shares).save(path)
    page = write_report(folder).read_text(encoding="utf-8")
    spinal, mlp = json.loads((folder / "classification.json").read_text())["heads"]
    assert spinal["most_wrong"][0]["layers"] == [  # means over both runs
        {"layer": 1, "slice": 1, "predicted": 1.5, "true": 0.0},
        {"layer": 2, "slice": 2, "predicted": 4.0, "true": 1.0},
        {"layer": 3, "slice": 1, "predicted": 0.0, "true": 2.5},
    ]
    assert all(one["layers"] == [] for one in mlp["most_wrong"])
    bars = re.search(r'<svg class="spoken".*?</svg>\s*<span class="soft">(.*?)</span>', page, re.S)
    assert bars
    assert bars[1] == "layer 2 (slice 2) most: +3.0"
    # What spoke for the mistake has one colour, in the words and in the bars.
    for kind in ("wrong", "true"):
        assert re.findall(rf"\.for-{kind} {{(.*?)}}", page) == [
            f" color: var(--{'worse' if kind == 'wrong' else 'accent'}); fill: currentColor; "
        ]
    assert re.findall(r"<title>(.*?)</title>", bars[0]) == [
        "layer 1, slice 1: +1.50 for class 0, +0.00 for class 3",
        "layer 2, slice 2: +4.00 for class 0, +1.00 for class 3",
        "layer 3, slice 1: +0.00 for class 0, +2.50 for class 3",
    ]
    assert re.findall(r'<g class="for-(\w+)"', bars[0]) == ["wrong", "wrong", "true"]
    widths = [float(one) for one in re.findall(r'width="([\d.]+)" height="4"', bars[0])]
    assert widths == pytest.approx([30.0, 60.0, 50.0])
    assert "No run that answered so" not in page
    kept = classes._layers
    with monkeypatch.context() as patch:  # of one image no run has kept them
        patch.setattr(classes, "_layers", lambda *of: () if of[1] == 7 else kept(*of))
        page = write_report(folder).read_text(encoding="utf-8")
    assert page.count("No run that answered so has kept what its layers said of this image") == 1


def test_a_mistake_is_explained_by_runs_that_do_not_show_it(tmp_path):
    layers = [{"width": 2, "start": start, "stop": start + 4, "earlier": []} for start in (0, 4)]
    wiring = {"in_features": 8, "out_features": 4, "layers": layers, "seen": [0, 1]}
    wiring |= {"sees_input": False, "params": 40}
    folder = write_comparison(tmp_path, {"spinal": FIRST[:3]}, wiring=wiring)
    write_outputs(folder, {"spinal": 3.0})
    for seed in range(3):
        path = folder / "runs" / f"spinal-seed{seed}" / OUTPUTS_FILE
        said = Outputs.load(path)
        if seed == 0:  # it alone has the picture, and took it for something else
            said.classes[7, :2] = said.classes[7, :2].flip(0)
            rows = said.shown
        else:
            rows = torch.tensor([7])
            others = said.shown != 7
            said = said.with_thumbnails(said.shown[others], said.thumbnails[others])
        said.with_shares(rows, torch.full((len(rows), 2, 2), float(seed))).save(path)
    write_report(folder)
    (head,) = json.loads((folder / "classification.json").read_text())["heads"]
    worst = head["most_wrong"][0]
    assert (worst["path"], worst["predicted"]) == ("photos/7.jpg", "class 0")
    assert [layer["predicted"] for layer in worst["layers"]] == [1.5, 1.5]


def test_samples_of_a_run_are_shown_and_nothing_where_there_are_none(tmp_path):
    from PIL import Image

    about = {"file": "samples.png", "labels": ["<b>", "dog"], "side": 8, "augment": "rotation:9"}
    about |= {"mix": "mixup:0.2"}
    scores = {"spinal": FIRST[:2], "mlp": OTHER[:2]}
    folder = write_comparison(tmp_path / "kept", scores, samples=about)
    assert "What the network sees" not in write_report(folder).read_text(encoding="utf-8")
    Image.new("L", (17, 17)).save(folder / "runs" / "mlp-seed1" / "samples.png")
    page = write_report(folder).read_text(encoding="utf-8")
    strip = re.search(r'<figure class="samples">.*?</figure>', page, re.DOTALL)
    assert strip
    assert "<li>&lt;b&gt;</li><li>dog</li>" in strip[0]
    assert (
        "8 × 8 pixels: plain above, and below as one epoch sees them, augmented by rotation:9"
        in (strip[0])
    )
    assert "(mixup:0.2)" in strip[0]
    assert 'class="small"' in strip[0]
    spoiled = write_comparison(tmp_path / "spoiled", scores, samples={"file": 3})
    with pytest.raises(InputError, match=r"result\.json"):
        write_report(spoiled)


def test_the_worst_mistakes_are_those_of_all_runs(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": FIRST[:3]})
    write_outputs(folder, {"spinal": 3.0})
    read = read_folder(folder)
    (head,) = judge(read, summarize_runs(read, None))
    worst = head.mistakes[0]
    assert (worst.row, worst.path) == (7, "photos/7.jpg")
    assert (worst.true, worst.predicted, worst.wrong) == ("class 3", "class 0", 3)
    p = torch.tensor([9.0, 0, 0, 0]).softmax(0)
    assert worst.probability == pytest.approx(float(p[0]))
    assert worst.true_probability == pytest.approx(float(p[3]), rel=1e-4)
    assert worst.pixels[0, 0, 0] == 7
    likelihood = [mistake.true_probability for mistake in head.mistakes]
    assert likelihood == sorted(likelihood)


def test_classes_are_scored_run_by_run(written):
    rows = list(csv.DictReader(io.StringIO((written / "per_class.csv").read_text())))
    assert len(rows) == 3 * 4
    # 9 of a class are right, 1 is taken for the next class, in every run.
    for row in rows:
        assert (row["support"], float(row["f1_std"])) == ("10", 0.0)
        for share in ("precision", "recall", "f1"):
            assert float(row[share]) == pytest.approx(0.9)
    page = (written / "report.html").read_text(encoding="utf-8")
    table = re.search(r'<table id="classes">.*?</table>', page, re.DOTALL)
    assert table
    assert (
        '<th scope="row">class 3</th><td>10</td><td>90.0</td><td>90.0</td><td>90.0 ± 0.0</td>'
        in table[0]
    )


def test_runs_that_kept_nothing_are_reported_without_calibration(written):
    head = json.loads((written / "classification.json").read_text())["heads"][0]
    assert head["mean"] == pytest.approx({"accuracy": 0.9722, "nll": 0.1})
    assert head["reliability"] == head["most_wrong"] == []
    page = (written / "report.html").read_text(encoding="utf-8")
    assert "expected calibration error" not in page
    assert not (written / "reliability.svg").exists()


def test_probabilities_that_are_no_numbers_are_left_out_and_null(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": FIRST[:2], "mlp": OTHER[:2]})
    write_outputs(folder, {"spinal": 2.0, "mlp": 1.0}, seeds=2)
    path = folder / "runs" / "spinal-seed1" / OUTPUTS_FILE
    logits = torch.full((4, 4), math.nan)
    Outputs.of(logits, torch.arange(4), ["a.jpg", "b \udcff.jpg", "c.jpg", "d.jpg"]).save(path)
    write_report(folder)

    def refuse(constant):
        raise AssertionError(f"{constant} is not strict JSON")

    text = (folder / "classification.json").read_text(encoding="utf-8")
    first, other = json.loads(text, parse_constant=refuse)["heads"]
    kept = quality(Outputs.load(folder / "runs" / "spinal-seed0" / OUTPUTS_FILE))
    assert first["mean"]["brier"] == pytest.approx(kept.brier)
    assert "brier" not in first["std"]
    assert other["difference"]["brier"]["n"] == 1
    assert sum(b["count"] for b in first["reliability"]) == 60
    (folder / "runs" / "spinal-seed0" / OUTPUTS_FILE).unlink()
    write_report(folder)
    first = json.loads((folder / "classification.json").read_text())["heads"][0]
    assert first["reliability"] == []


def test_names_of_files_that_are_no_text_come_back(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": FIRST[:1]})
    outputs = Outputs.of(torch.eye(4), torch.tensor([1, 1, 2, 3]), ["\udcff ä.jpg", "b", "c", "d"])
    pixels = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    run = folder / "runs" / "spinal-seed0"
    outputs.with_thumbnails(outputs.worst(1), pixels).save(run / OUTPUTS_FILE)
    write_report(folder)
    text = (folder / "classification.json").read_text(encoding="utf-8")
    assert json.loads(text)["heads"][0]["most_wrong"][0]["path"] == "\udcff ä.jpg"


def test_different_test_sets_share_no_contact_sheet(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": FIRST[:2]})
    write_outputs(folder, {"spinal": 2.0}, seeds=1, n=60)
    other = Outputs.of(torch.eye(4), torch.tensor([1, 1, 2, 3]))
    other.with_thumbnails(other.worst(1), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)).save(
        folder / "runs" / "spinal-seed1" / OUTPUTS_FILE
    )
    write_report(folder)
    assert (folder / "reliability.svg").exists()
    assert "Most wrong" not in (folder / "report.html").read_text(encoding="utf-8")


def test_one_run_has_a_report_of_its_own(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": FIRST[:1]}, question=False)
    write_outputs(folder, {"spinal": 2.0}, seeds=1)
    run = folder / "runs" / "spinal-seed0"
    page = write_report(run).read_text(encoding="utf-8")
    assert "<h1>digits: the spinal head</h1>" in page
    assert "against" not in page[page.index("<h2") :].split("</table>")[0]
    assert not (run / "cost.svg").exists()
    for words in ("mean over", "range over", "had already stopped"):  # of a single one
        assert words not in page
    assert load_runs(run)[0].done  # still the folder of a run


def test_many_classes_show_those_that_fare_worst(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": [0.9]}, classes=40)
    page = write_report(folder).read_text(encoding="utf-8")
    table = re.search(r'<table id="classes">.*?</table>', page, re.DOTALL)
    assert table
    assert table[0].count("<tr>") == 1 + 30
    assert "10 more are in" in page


def work_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """Write a report: how often each run's result was read, and the elements of each figure."""
    from matplotlib.figure import Figure

    read: Counter[Path] = Counter()
    passes: list[Figure] = []
    read_bytes, draw = Path.read_bytes, Figure.draw

    def counted(path: Path) -> bytes:
        read[path] += path.name == "result.json"
        return read_bytes(path)

    def drawing(figure: Figure, renderer: Any) -> None:
        passes.append(figure)
        draw(figure, renderer)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", counted)
        patched.setattr(Figure, "draw", drawing)
        page = write_report(folder).read_text(encoding="utf-8")
    figures = re.findall(r"<figure.*?</figure>", page, flags=re.DOTALL)
    drawn = [one.count("<") for one in figures if "<svg" in one]
    assert len(passes) == len(drawn)  # each is drawn once, and shown
    return sorted(filter(None, read.values())), drawn


def test_the_work_of_a_report_does_not_grow_with_classes(tmp_path, monkeypatch):
    scores = {"spinal": [0.9] * 2, "mlp": [0.8] * 2}
    some, many = (
        work_of(write_comparison(tmp_path / f"{n}", scores, classes=n), monkeypatch)
        for n in (40, 80)
    )
    assert some[0] == many[0] == [1] * 4
    assert some[1] == pytest.approx(many[1], abs=20)  # ticks have other numbers
    assert sum(many[1]) < 4000


def test_a_count_of_more_than_64_bits_is_refused_in_a_sentence(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": [0.9], "mlp": [0.8]}, classes=2)
    path = folder / "runs" / "mlp-seed0" / "result.json"
    result = json.loads(path.read_text())
    result["test"]["confusion"][0][0] = 2**63
    path.write_text(json.dumps(result))
    without_digests(path.parent)  # as of a version that kept no digests
    with pytest.raises(InputError, match=r"result\.json cannot be used: a count of the confusion"):
        write_report(folder)


def test_curves_of_a_table_are_by_epoch_of_each_net(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": [0.9] * 2, "mlp": [0.8] * 2}, epochs=0)
    for path in (folder / "runs").iterdir():
        without_digests(path)  # as of a version that kept no digests
        result = json.loads((path / "result.json").read_text()) | {"epochs_run": 4}
        (path / "result.json").write_text(json.dumps(result))
        rows = [
            {
                "epoch": i + 1,
                "net": i // 2 + 1,
                "epoch_of_net": i % 2 + 1,
                "train_loss": 1 / (i + 1),
            }
            for i in range(4)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (path / "metrics.jsonl").write_text(text)
    comparison = read_folder(folder)
    drawn = learning_curves(comparison, summarize_runs(comparison, None))
    assert drawn is not None
    assert drawn.caption.startswith("Training loss per epoch: mean over seeds and nets, ")
    assert f"mlp: {(1 / 2 + 1 / 4) / 2:.4g} in epoch 2" in drawn.svg


def test_quiet_says_no_notes(tmp_path, monkeypatch, capfd):
    folder = write_comparison(tmp_path, {"spinal": FIRST[:2], "mlp": FIRST[1:3]}, notes=["Known."])
    told = {}
    for words in ([], ["--quiet"]):
        monkeypatch.setattr("sys.argv", ["spinalnet", "report", str(folder), *words])
        with pytest.raises(SystemExit) as stop:
            root.main()
        assert stop.value.code == 0
        told[bool(words)] = capfd.readouterr()
    assert "note Known." in told[False].err
    assert told[True].err == ""
    assert told[True].out == told[False].out
