"""Metrics as means of contributions, against scikit-learn, longhand DeLong and the jackknife."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from spinalnet._checks import InputError
from spinalnet.comparison.baseline import (
    Baseline,
    baseline_outputs,
    few_note,
    prevalence,
    prevalence_note,
)
from spinalnet.comparison.metrics import (
    METRICS,
    default_metric,
    find_metric,
    gaps,
    mcnemar_counts,
    measured,
)
from spinalnet.comparison.outputs import Outputs, RegressionOutputs

CLASSIFICATION = [name for name, metric in METRICS.items() if metric.task == "classification"]
REGRESSION = [name for name, metric in METRICS.items() if metric.task == "regression"]


def logits_of(n: int, classes: int, seed: int = 0, skill: float = 1.0):
    """Logits of a middling classifier and true classes, the later classes rarer."""
    generator = torch.Generator().manual_seed(seed)
    shares = 1.0 / torch.arange(1.0, classes + 1)
    targets = torch.multinomial(shares, n, replacement=True, generator=generator)
    targets[:classes] = torch.arange(classes)
    logits = torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), targets] += skill
    return logits, targets


def values_of(n: int, outputs: int, seed: int = 0):
    """Predictions and true values, neither centred nor of one scale."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(n, outputs, generator=generator, dtype=torch.float64)
    targets = 5 + targets * torch.arange(1, outputs + 1)
    noise = torch.randn(n, outputs, generator=generator, dtype=torch.float64)
    return targets + noise - 0.2, targets


def by_scikit_learn(name: str, p, targets) -> float:
    """The metric of probabilities `(N, K)` or predictions `(N, outputs)`."""
    p, true = np.asarray(p), np.asarray(targets)
    if name == "auroc":
        classes = np.unique(true)
        if p.shape[1] == 2:
            return float(sk.roc_auc_score(true, p[:, 1]))
        return float(np.mean([sk.roc_auc_score(true == k, p[:, k]) for k in classes]))
    if name == "log-loss":
        return float(sk.log_loss(true, p, labels=list(range(p.shape[1]))))
    found = {
        "accuracy": lambda: sk.accuracy_score(true, p.argmax(1)),
        "balanced-accuracy": lambda: np.mean(
            [(p[true == k].argmax(1) == k).mean() for k in np.unique(true)]
        ),
        "macro-f1": lambda: sk.f1_score(true, p.argmax(1), average="macro"),
        "mse": lambda: sk.mean_squared_error(true, p),
        "mae": lambda: sk.mean_absolute_error(true, p),
        "r2": lambda: sk.r2_score(true, p),
    }
    return float(found[name]())


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_a_metric_of_classes_is_scikit_learns(name, classes):
    logits, targets = logits_of(700, classes)
    p = logits.double().softmax(1)
    outputs = Outputs.of(logits, targets)
    found = METRICS[name].value(outputs)
    assert found == pytest.approx(by_scikit_learn(name, p, targets), abs=1e-6)
    if name == "auroc" and classes > 2:  # the whole of it, not only its parts
        whole = sk.roc_auc_score(targets, p, multi_class="ovr", average="macro")
        assert found == pytest.approx(whole, abs=1e-6)
    if name == "balanced-accuracy":
        assert found == pytest.approx(sk.balanced_accuracy_score(targets, p.argmax(1)))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", REGRESSION)
def test_a_metric_of_values_is_scikit_learns(name, outputs):
    said, targets = values_of(300, outputs)
    found = METRICS[name].value(RegressionOutputs.of(said, targets))
    assert found == pytest.approx(by_scikit_learn(name, said, targets), rel=1e-12)


small_classes = st.integers(2, 4).flatmap(
    lambda k: st.lists(
        st.tuples(st.integers(0, k - 1), st.lists(st.integers(-3, 3), min_size=k, max_size=k)),
        min_size=1,
        max_size=25,
    )
)


@given(small_classes)
def test_the_mean_of_the_contributions_is_the_metric_of_classes(examples):
    logits = torch.tensor([row for _, row in examples]).float()  # few values: many ties
    targets = torch.tensor([true for true, _ in examples])
    outputs = Outputs.of(logits, targets)
    p = np.zeros(logits.shape)
    np.put_along_axis(p, outputs.classes.numpy(), outputs.probabilities.double().numpy(), 1)
    for name in CLASSIFICATION:
        if METRICS[name].available(outputs) is not None:
            assert name == "auroc"
            assert len(targets.unique()) == 1
            continue
        found = METRICS[name].contributions(outputs)
        assert found.shape == (len(targets),)
        if name == "log-loss":
            truth = float(-outputs.log_likelihood.double().mean())
        elif name == "auroc" and logits.shape[1] == 2:
            truth = by_scikit_learn(name, p, targets)
        elif name == "auroc":
            there = [k for k in range(logits.shape[1]) if (targets == k).sum() > 0]
            truth = np.mean([longhand_auroc(p[:, k], targets.numpy() == k) for k in there])
        else:
            truth = by_scikit_learn(name, p, targets)
        assert found.mean() == pytest.approx(truth, abs=1e-12)
        assert METRICS[name].value(outputs) == found.mean()


@given(
    st.integers(1, 3).flatmap(
        lambda width: st.lists(
            st.lists(st.integers(-50, 50), min_size=2 * width, max_size=2 * width),
            min_size=2,
            max_size=20,
        )
    )
)
def test_the_mean_of_the_contributions_is_the_metric_of_values(rows):
    numbers = torch.tensor(rows).double() / 8
    said, targets = numbers.chunk(2, dim=1)
    outputs = RegressionOutputs.of(said, targets)
    for name in REGRESSION:
        if METRICS[name].available(outputs) is not None:
            assert name == "r2"
            assert bool((targets == targets[0]).all())
            continue
        truth = by_scikit_learn(name, said, targets)
        scale = max(1.0, abs(truth))
        assert METRICS[name].contributions(outputs).mean() == pytest.approx(
            truth, abs=1e-12 * scale
        )


def longhand_auroc(score, positive):
    above, below = score[positive], score[~positive]
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in above for b in below]))


def longhand_delong(scores, positive):
    """DeLong's covariance matrix of the AUROCs of several scores, by his equations."""
    above = [np.asarray(s)[positive] for s in scores]
    below = [np.asarray(s)[~positive] for s in scores]
    kernel = [
        (a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None])
        for a, b in zip(above, below, strict=True)
    ]
    v10, v01 = np.array([k.mean(1) for k in kernel]), np.array([k.mean(0) for k in kernel])
    return np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]


@pytest.mark.parametrize(("n", "skill"), [(40, 1.0), (300, 2.5)])
def test_the_variance_of_auroc_and_of_a_difference_is_delongs(n, skill):
    first, targets = logits_of(n, 2, seed=1, skill=skill)
    other = first + 0.7 * torch.randn(n, 2, generator=torch.Generator().manual_seed(2))
    both = [Outputs.of(logits.round(decimals=1), targets) for logits in (first, other)]
    metric = METRICS["auroc"]
    p = [
        torch.where(o.classes[:, 0] == 1, o.probabilities[:, 0], o.probabilities[:, 1])
        for o in both
    ]
    truth = longhand_delong([x.numpy() for x in p], targets.numpy() == 1)
    for outputs, variance in zip(both, np.diag(truth), strict=True):
        assert metric.contributions(outputs).var(ddof=1) / n == pytest.approx(variance, rel=1e-9)
    gap = gaps(metric, both[:1], both[1:])[0]
    assert gap.var(ddof=1) / n == pytest.approx(
        truth[0, 0] + truth[1, 1] - 2 * truth[0, 1], rel=1e-9
    )


def test_a_classifier_surer_than_float32_keeps_its_order():
    sure = torch.arange(20.0, 60.0)
    logits = torch.stack([torch.zeros(40), sure], 1)
    targets = (sure > 40).long()
    assert METRICS["auroc"].value(Outputs.of(logits, targets)) == 1
    flipped = Outputs.of(logits.flip(1), 1 - targets)
    assert METRICS["auroc"].value(flipped) == 1


def taken(outputs, keep):
    """The same outputs of some examples."""
    columns = ("targets", "classes", "probabilities", "log_likelihood", "squares", "predictions")
    return replace(
        outputs, **{c: getattr(outputs, c)[keep] for c in columns if hasattr(outputs, c)}
    )


def an_outputs(metric, n, seed=0):
    if metric.task == "classification":
        return Outputs.of(*logits_of(n, 3, seed=seed))
    return RegressionOutputs.of(*values_of(n, 2, seed=seed))


@pytest.mark.parametrize("name", METRICS)
def test_the_spread_is_that_of_the_delete_one_jackknife(name):
    metric, m = METRICS[name], 250
    outputs = an_outputs(metric, m)
    left = np.array(
        [metric.value(taken(outputs, [j for j in range(m) if j != i])) for i in range(m)]
    )
    pseudo = m * metric.value(outputs) - (m - 1) * left
    found = metric.contributions(outputs)
    assert found.var(ddof=1) == pytest.approx(pseudo.var(ddof=1), rel=0.06)
    assert np.corrcoef(found, pseudo)[0, 1] > 0.999


@pytest.mark.parametrize("name", METRICS)
def test_the_spread_is_that_of_test_sets_drawn_anew(name):
    metric, m, draws = METRICS[name], 200, 600
    whole = an_outputs(metric, m * draws, seed=3)
    parts = [taken(whole, slice(k * m, (k + 1) * m)) for k in range(draws)]
    values = [metric.value(part) for part in parts]
    own = np.mean([metric.contributions(part).var(ddof=1) / m for part in parts])
    # The standard error of a variance of 600 values is 6 % of it, and more with heavy tails.
    assert own == pytest.approx(np.var(values, ddof=1), rel=0.2)


def test_gaps_are_positive_where_the_first_is_better():
    pairs = [[logits_of(90, 3, seed=s, skill=skill)[0] for s in (1, 2)] for skill in (3.0, 0.5)]
    targets = logits_of(90, 3)[1]
    for logits in (x for pair in pairs for x in pair):
        logits[torch.arange(90), targets] += 1
    good, bad = ([Outputs.of(x, targets) for x in pair] for pair in pairs)
    better = [Outputs.of(4 * torch.eye(3)[targets], targets)] * 2
    for name in CLASSIFICATION:
        metric = METRICS[name]
        sign = 1 if metric.higher_is_better else -1
        found = gaps(metric, good, bad)
        assert found.shape == (2, 90)
        for row, one, other in zip(found, good, bad, strict=True):
            expected = sign * (metric.value(one) - metric.value(other))
            assert row.mean() == pytest.approx(expected, abs=1e-12)
        assert (gaps(metric, better, bad).mean(1) > 0).all()
        assert not gaps(metric, good, good).any()


def test_only_what_was_tested_on_the_same_examples_is_compared():
    logits, targets = logits_of(30, 3)
    one = Outputs.of(logits, targets)
    accuracy, mse = METRICS["accuracy"], METRICS["mse"]
    rolled = Outputs.of(logits, targets.roll(1))
    rows = torch.arange(30, dtype=torch.int32)
    for other in (rolled, taken(one, slice(20)), RegressionOutputs.of(*values_of(30, 1))):
        with pytest.raises(InputError, match="same test examples"):
            gaps(accuracy, [one], [other])
    with pytest.raises(InputError, match="same test examples"):
        gaps(accuracy, [one, rolled], [one, rolled])  # seed by seed, but not from seed to seed
    with pytest.raises(InputError, match="same test examples"):
        mcnemar_counts(one, rolled)
    with pytest.raises(InputError, match="same test examples"):
        gaps(accuracy, [replace(one, rows=rows)], [replace(one, rows=rows + 30)])
    assert gaps(accuracy, [replace(one, rows=rows)], [one]).shape == (1, 30)
    with pytest.raises(InputError, match="got 2 and 1"):
        gaps(accuracy, [one, one], [one])
    with pytest.raises(InputError, match="mse is a metric of a regression"):
        gaps(mse, [one], [one])


def test_mcnemar_counts_who_alone_is_right():
    targets = torch.tensor([0, 0, 0, 1, 1, 1])
    first = Outputs.of(torch.eye(2)[torch.tensor([0, 0, 0, 1, 0, 0])], targets)
    other = Outputs.of(torch.eye(2)[torch.tensor([0, 1, 1, 0, 1, 0])], targets)
    assert mcnemar_counts(first, other) == (3, 1)
    assert mcnemar_counts(other, first) == (1, 3)


def test_a_metric_that_outputs_do_not_have_says_why():
    many = Outputs.of(*logits_of(200, 12))
    assert METRICS["auroc"].available(many) == (
        "auroc needs the probability of every class, and outputs keep the 10 most probable of 12"
    )
    single = Outputs.of(torch.randn(5, 2), torch.ones(5, dtype=torch.long))
    assert "two classes in the test part" in str(METRICS["auroc"].available(single))
    with pytest.raises(InputError, match="two classes in the test part"):
        METRICS["auroc"].value(single)
    constant = RegressionOutputs.of(torch.randn(5), torch.ones(5))
    assert "targets that differ" in str(METRICS["r2"].available(constant))
    assert set(measured(constant)) == {"mse", "mae"}
    logits, targets = logits_of(20, 3)
    logits[[3, 8]] = torch.nan
    for name in CLASSIFICATION:
        reason = METRICS[name].available(Outputs.of(logits, targets))
        assert reason == "the model's outputs for 2 of 20 test examples are no numbers"
    certain = Outputs.of_probabilities(torch.eye(2)[[0, 1, 1]], torch.tensor([0, 1, 0]))
    assert "probability 0" in str(METRICS["log-loss"].available(certain))
    assert set(measured(certain)) == {"accuracy", "balanced_accuracy", "auroc", "macro_f1"}


def test_metrics_are_found_by_name_and_task():
    assert find_metric("r2", "regression") is METRICS["r2"]
    with pytest.raises(InputError, match="unknown metric 'auc'"):
        find_metric("auc")
    with pytest.raises(InputError, match="auroc is not for a regression: choose one of mse, mae"):
        find_metric("auroc", "regression")
    assert default_metric("classification", table=True).name == "accuracy"
    assert default_metric("regression").name == "mse"
    assert default_metric("regression", table=True).name == "r2"


def test_margins_are_fixed_in_advance():
    margins = {name: METRICS[name].default_margin(4.0) for name in METRICS}
    shares = dict.fromkeys(("accuracy", "balanced-accuracy", "auroc", "macro-f1"), 0.005)
    losses = dict.fromkeys(("log-loss", "mse", "mae"), 0.04)
    assert margins == pytest.approx({**shares, **losses, "r2": 0.01})
    assert METRICS["accuracy"].default_margin() == 0.005
    for baseline in (None, 0.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="give --margin"):
            METRICS["mse"].default_margin(baseline)


# --- the baseline ---------------------------------------------------------------------------------


def test_the_baseline_of_classes_is_scikit_learns_dummy():
    from sklearn.dummy import DummyClassifier

    train, (logits, targets) = torch.tensor([2] * 50 + [0] * 30 + [1] * 20), logits_of(200, 3)
    outputs = Outputs.of(logits, targets)
    baseline = Baseline.of(train, 3)
    assert baseline.to_dict() == {"class_counts": [30, 20, 50]}
    said = baseline_outputs(outputs, Baseline.from_dict(baseline.to_dict()))
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((100, 1)), train.numpy())
    p = dummy.predict_proba(np.zeros((200, 1)))
    for name in CLASSIFICATION:
        assert METRICS[name].value(said) == pytest.approx(
            by_scikit_learn(name, p, targets), abs=1e-6
        )
    assert METRICS["auroc"].value(said) == 0.5
    # Its differences from a model can be told like those of two models.
    assert gaps(METRICS["accuracy"], [outputs], [said]).mean() > 0


def test_a_class_without_a_training_example_leaves_the_baseline_a_loss():
    logits, targets = logits_of(50, 3)
    said = baseline_outputs(Outputs.of(logits, targets), Baseline((10, 9, 0)))
    assert 0 < METRICS["log-loss"].value(said) < 4


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_baseline_of_values_is_mean_or_median(outputs):
    train = values_of(81, outputs, seed=5)[1] ** 3
    said = RegressionOutputs.of(*values_of(60, outputs))
    baseline = Baseline.from_dict(Baseline.of(train).to_dict())
    assert baseline.class_counts is None
    true = said.targets.numpy()
    mean, median = train.numpy().mean(0), np.median(train.numpy(), axis=0)
    for name, centre in (("mse", mean), ("r2", mean), ("mae", median)):
        found = METRICS[name].value(baseline_outputs(said, baseline, name))
        expected = by_scikit_learn(name, np.broadcast_to(centre, true.shape), true)
        assert found == pytest.approx(expected)


def test_a_baseline_of_other_data_is_refused():
    outputs = Outputs.of(*logits_of(20, 3))
    with pytest.raises(InputError, match="3 classes must have as many counts, got 2"):
        baseline_outputs(outputs, Baseline((1, 2)))
    with pytest.raises(InputError, match="got none"):
        baseline_outputs(RegressionOutputs.of(*values_of(20, 1)), Baseline((1, 2)))


def test_a_prevalent_class_is_told():
    targets = torch.tensor([1] * 9 + [0])
    outputs = Outputs.of(torch.zeros(10, 2), targets)
    assert prevalence(outputs) == (1, 0.9)
    note = prevalence_note(outputs, ("healthy", "ill"))
    assert note is not None
    assert "90.0 % of the test examples are of class 'ill'" in note
    assert "metric=balanced-accuracy" in note
    assert prevalence_note(outputs, ("healthy", "ill"), "auroc") is None
    at_the_limit = Outputs.of(torch.zeros(10, 2), torch.tensor([1] * 8 + [0] * 2))
    assert prevalence_note(at_the_limit, ("healthy", "ill")) is None


def test_a_class_with_few_test_examples_is_told():
    targets = torch.tensor([0] * 30 + [2] * 9 + [3] * 20)
    outputs = Outputs.of(torch.zeros(59, 4), targets)
    names = ("a", "absent", "few", "d")
    for name in ("balanced-accuracy", "macro-f1", "auroc"):
        assert "class 'few' has 9 test examples" in str(few_note(outputs, names, name))
    assert few_note(outputs, names) is None  # accuracy counts examples
    enough = Outputs.of(torch.zeros(60, 4), torch.tensor([0] * 30 + [2] * 10 + [3] * 20))
    assert few_note(enough, names, "auroc") is None
