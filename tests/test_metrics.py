"""Metrics as means of contributions: values against scikit-learn, spread against a jackknife."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from spinalnet import InputError
from spinalnet.comparison.metrics import (
    METRICS,
    baseline_outputs,
    default_metric,
    describe_targets,
    find_metric,
    gaps,
    measured,
    prevalence,
)
from spinalnet.comparison.outputs import Outputs, RegressionOutputs, joined, load_outputs


def classified(seed: int, n: int = 60, classes: int = 3, skew: float = 1.0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(n, generator=generator) ** skew * classes).long()
    targets[:classes] = torch.arange(classes)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(n), targets] += 1.0
    return Outputs.of(logits, targets)


def predicted(seed: int, n: int = 50, outputs: int = 2) -> RegressionOutputs:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(n, outputs, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, outputs, generator=generator, dtype=torch.float64)
    return RegressionOutputs.of(targets * 0.8 + 0.4 * noise, targets)


def probabilities(outputs: Outputs) -> np.ndarray:
    full = torch.zeros(len(outputs), outputs.num_classes, dtype=torch.float64)
    full = full.scatter(1, outputs.classes, outputs.probabilities.double())
    return (full / full.sum(1, keepdim=True)).numpy()


def of_sklearn(name: str, outputs: Outputs | RegressionOutputs) -> float:
    y = outputs.targets.numpy()
    if isinstance(outputs, RegressionOutputs):
        said = outputs.predictions.numpy()
        return {
            "mse": oracle.mean_squared_error,
            "mae": oracle.mean_absolute_error,
            "r2": oracle.r2_score,
        }[name](y, said)
    said, p = outputs.predicted.numpy(), probabilities(outputs)
    if name == "auroc":
        two = outputs.num_classes == 2
        return oracle.roc_auc_score(y, p[:, 1] if two else p, multi_class="ovr", average="macro")
    if name == "log-loss":
        return oracle.log_loss(y, p, labels=range(outputs.num_classes))
    if name == "macro-f1":
        return oracle.f1_score(y, said, average="macro")
    return {"accuracy": oracle.accuracy_score, "balanced-accuracy": oracle.balanced_accuracy_score}[
        name
    ](y, said)


def subset(outputs, rows: np.ndarray):
    index = torch.from_numpy(rows)
    if isinstance(outputs, RegressionOutputs):
        return RegressionOutputs(outputs.targets[index], outputs.predictions[index])
    columns = ("targets", "classes", "probabilities", "log_likelihood", "squares")
    return Outputs(*(getattr(outputs, c)[index] for c in columns), outputs.num_classes)


CASES = [(name, k) for name, m in METRICS.items() for k in (2, 3) if m.task == "classification"]
CASES += [(name, k) for name, m in METRICS.items() for k in (1, 3) if m.task == "regression"]


def made(name: str, size: int, seed: int, n: int = 60):
    kind = METRICS[name].task
    return classified(seed, n, size) if kind == "classification" else predicted(seed, n, size)


@pytest.mark.parametrize(("name", "size"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_values_are_those_of_scikit_learn(name: str, size: int, seed: int) -> None:
    outputs = made(name, size, seed)
    assert find_metric(name).value(outputs) == pytest.approx(of_sklearn(name, outputs), abs=1e-6)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_the_spread_of_contributions_is_the_variance_that_a_jackknife_finds(
    name: str, size: int
) -> None:
    outputs, n = made(name, size, 5, 400), 400
    metric = find_metric(name)
    rows = np.arange(n)
    left_out = [metric.value(subset(outputs, np.delete(rows, i))) for i in rows]
    jackknife = (n - 1) / n * np.square(left_out - np.mean(left_out)).sum()
    assert metric.contributions(outputs).var(ddof=1) / n == pytest.approx(jackknife, rel=0.03)


def test_the_contributions_to_auroc_are_delongs_placements_longhand() -> None:
    outputs = classified(2, 40, 2)
    scores, y = probabilities(outputs)[:, 1], outputs.targets.numpy()
    up, down = scores[y == 1], scores[y == 0]
    wins = (up[:, None] > down).astype(float) + 0.5 * (up[:, None] == down)
    delong = wins.mean(1).var(ddof=1) / len(up) + wins.mean(0).var(ddof=1) / len(down)
    found = find_metric("auroc").contributions(outputs)
    assert found.mean() == pytest.approx(wins.mean())
    assert found.var(ddof=1) / len(y) == pytest.approx(delong, rel=0.06)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(8, 80), size=st.integers(2, 5))
def test_contributions_average_to_the_metric_whatever_the_data(
    seed: int, n: int, size: int
) -> None:
    for outputs in (classified(seed, n, size, skew=3.0), predicted(seed, n, size)):
        for name, metric in METRICS.items():
            if metric.why_not(outputs) is None:
                expected = of_sklearn(name, outputs)
                assert metric.contributions(outputs).mean() == pytest.approx(expected, abs=1e-6)


def test_gaps_are_positive_where_the_first_is_better() -> None:
    good, bad = (
        predicted(0),
        RegressionOutputs.of(predicted(0).predictions + 9, predicted(0).targets),
    )
    assert gaps(METRICS["mse"], [good, good], [bad, bad]).mean() > 0
    assert gaps(METRICS["r2"], [good], [bad]).mean() > 0
    assert gaps(METRICS["r2"], [good] * 3, [bad] * 3).shape == (3, 50)
    with pytest.raises(InputError, match="same ones"):
        gaps(METRICS["mse"], [good], [predicted(1)])


def test_the_baseline_knows_the_training_part_only() -> None:
    outputs = classified(0, 60, 3)
    counts = describe_targets(torch.tensor([0, 2, 2, 2]), 3)
    said = baseline_outputs(outputs, counts, METRICS["accuracy"])
    share = float((outputs.targets == 2).double().mean())
    assert METRICS["accuracy"].value(said) == pytest.approx(share)
    assert METRICS["auroc"].value(said) == pytest.approx(0.5)
    assert METRICS["balanced-accuracy"].value(said) == pytest.approx(1 / 3)
    numbers = predicted(0)
    known = describe_targets(torch.tensor([[0.0, 1.0], [0.0, 4.0], [3.0, 1.0]]))
    assert known["mean"] == pytest.approx([1.0, 2.0])
    assert known["median"] == [0.0, 1.0]
    flat = baseline_outputs(numbers, known, METRICS["mse"])
    assert torch.equal(flat.predictions[0], torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert METRICS["r2"].value(flat) < 0
    absolute = baseline_outputs(numbers, known, METRICS["mae"])
    assert torch.equal(absolute.predictions[0], torch.tensor([0.0, 1.0], dtype=torch.float64))


def test_margins_and_defaults() -> None:
    assert METRICS["accuracy"].default_margin(0.1) == 0.005
    assert METRICS["mse"].default_margin(4.0) == pytest.approx(0.04)
    assert default_metric("classification", is_table=True) == "accuracy"
    assert default_metric("regression", is_table=True) == "r2"
    assert default_metric("regression", is_table=False) == "mse"
    with pytest.raises(InputError, match="did you mean 'accuracy'"):
        find_metric("acuracy")


def test_what_a_metric_cannot_be_had_of() -> None:
    many = classified(0, 60, 12)
    assert "12 classes" in (METRICS["auroc"].why_not(many) or "")
    assert "metric of a regression" in (METRICS["mse"].why_not(many) or "")
    assert set(measured(many)) == {"accuracy", "balanced_accuracy", "macro_f1", "log_loss"}
    assert prevalence(Outputs.of(torch.zeros(4, 2), torch.tensor([0, 1, 1, 1]))) == 0.75
    silent = Outputs.of(torch.full((4, 2), torch.nan), torch.tensor([0, 1, 1, 1]))
    assert set(measured(silent).values()) == {None}


@pytest.mark.parametrize("outputs", [classified(0), predicted(0)])
def test_outputs_come_back_from_files_and_folds_can_be_joined(outputs, tmp_path) -> None:
    from dataclasses import replace

    n = len(outputs)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    parts = []
    for rows in order.split(25):
        part = replace(subset(outputs, rows.numpy()), rows=rows.int())
        part.save(tmp_path / "part.safetensors")
        parts.append(load_outputs(tmp_path / "part.safetensors"))
    whole = joined(parts)
    assert torch.equal(whole.targets, outputs.targets)
    for name, metric in METRICS.items():
        if metric.why_not(outputs) is None:
            assert metric.value(whole) == pytest.approx(metric.value(outputs)), name
    with pytest.raises(InputError, match="two of them"):
        joined([parts[0], parts[0]])
    with pytest.raises(InputError, match="say their rows"):
        joined([outputs, outputs])


def test_damaged_outputs_are_told(tmp_path) -> None:
    from safetensors.torch import save_file

    outputs = classified(0, 20)
    path = tmp_path / "test-outputs.safetensors"
    outputs.save(path)

    def spoilt(**changes):
        from spinalnet.files import load_weights, save_weights

        outputs.save(path)
        tensors, about = load_weights(path)
        save_weights(path, tensors | changes, about)

    for changes in (
        {"classes": outputs.classes[:5].to(torch.int16)},
        {"targets": (outputs.targets + 9).to(torch.int16)},
        {"probabilities": outputs.probabilities + 2},
        {"squares": outputs.squares[:3]},
    ):
        spoilt(**changes)
        with pytest.raises(InputError, match="damaged"):
            load_outputs(path)
    save_file({"targets": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="damaged"):
        load_outputs(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        load_outputs(path)
