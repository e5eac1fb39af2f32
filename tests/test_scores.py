from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, precision_recall_fscore_support

from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.comparison.calibration import (
    Bin,
    calibration_error,
    per_class,
    pooled,
    quality,
    reliability,
)
from spinalnet.comparison.outputs import Outputs, RegressionOutputs, joined, load_outputs
from spinalnet.training import evaluate


def said(n: int = 400, classes: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=generator)
    targets = torch.randint(0, classes, (n,), generator=generator)
    logits[torch.arange(n), targets] += 2
    return logits, targets


@pytest.mark.parametrize("classes", [2, 6, 40])
def test_scores_are_scikit_learns(classes):
    logits, targets = said(classes=classes)
    p = logits.double().softmax(1).numpy()
    found = quality(Outputs.of(logits, targets))
    labels = list(range(classes))
    assert found.nll == pytest.approx(log_loss(targets, p, labels=labels), rel=1e-6)
    truth = ((p - np.eye(classes)[targets]) ** 2).sum(1).mean()
    assert found.brier == pytest.approx(truth, rel=1e-5)
    assert found.accuracy == pytest.approx((p.argmax(1) == targets.numpy()).mean())
    best = logits.topk(min(5, classes)).indices
    top5 = float((best == targets[:, None]).any(1).float().mean())
    assert found.top5_accuracy == (pytest.approx(top5) if classes > 5 else None)


def test_calibration_error_by_hand():
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    correct = torch.tensor([True, True, True, False, True, False])
    bins = reliability(confidence, correct, bins=10)
    assert [b.count for b in bins] == [0, 0, 0, 0, 0, 2, 0, 0, 0, 4]
    assert (bins[9].confidence, bins[9].accuracy) == pytest.approx((0.95, 0.75))
    assert calibration_error(bins) == pytest.approx((4 * 0.20 + 2 * 0.05) / 6)


def test_a_confidence_on_a_border_belongs_to_the_lower_bin():
    confidence = torch.tensor([0.2, 0.4, 1.0, 0.0], dtype=torch.float64)
    bins = reliability(confidence, torch.ones(4).bool(), bins=5)
    assert [b.count for b in bins] == [2, 1, 0, 0, 1]


def test_a_calibrated_classifier_has_almost_no_error_and_a_boastful_one_has():
    generator = torch.Generator().manual_seed(1)
    p = torch.rand(20_000, generator=generator).clamp(1e-3, 1 - 1e-3)
    targets = (torch.rand(20_000, generator=generator) < p).long()
    logits = torch.stack([(1 - p).log(), p.log()], 1)
    honest, boastful = (quality(Outputs.of(scale * logits, targets)) for scale in (1, 4))
    assert honest.ece < 0.015
    assert honest.adaptive_ece < 0.015
    assert boastful.accuracy == honest.accuracy
    assert boastful.ece > 0.1
    assert boastful.adaptive_ece > 0.1
    assert boastful.nll > honest.nll


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_bins_lose_nothing(pairs):
    confidence = torch.tensor([c for c, _ in pairs], dtype=torch.float64)
    correct = torch.tensor([right for _, right in pairs])
    bins = reliability(confidence, correct)
    assert sum(b.count for b in bins) == len(pairs)
    whole = sum(b.count * b.accuracy for b in bins)
    assert whole == pytest.approx(float(correct.sum()))
    # No binning can find more distance than there is from example to example, or less than in all.
    most = float((confidence - correct.double()).abs().mean())
    least = abs(float(confidence.mean()) - float(correct.double().mean()))
    assert least - 1e-9 <= calibration_error(bins) <= most + 1e-9
    assert pooled([bins, bins])[3].count == 2 * bins[3].count


def test_pooled_bins_are_those_of_all_predictions():
    halves = [said(seed=seed) for seed in (0, 1)]
    several = [quality(Outputs.of(*half)).bins for half in halves]
    whole = Outputs.of(*(torch.cat(part) for part in zip(*halves, strict=True)))
    for ours, true in zip(pooled(several), quality(whole).bins, strict=True):
        assert (ours.low, ours.high, ours.count) == (true.low, true.high, true.count)
        assert (ours.confidence, ours.accuracy) == pytest.approx((true.confidence, true.accuracy))
    assert pooled([[Bin(0, 1, 0, 0.0, 0.0)]])[0].accuracy == 0


def test_classes_are_scored_as_scikit_learn_does():
    logits, targets = said(classes=5)
    predicted = logits.argmax(1)
    predicted[predicted == 4] = 0  # a class that is never predicted
    confusion = torch.zeros(5, 5, dtype=torch.long)
    for true, guess in zip(targets, predicted, strict=True):
        confusion[true, guess] += 1
    truth = precision_recall_fscore_support(targets, predicted, zero_division=0)
    for row, expected in zip(per_class(confusion.tolist()), zip(*truth, strict=True), strict=True):
        assert (row.precision, row.recall, row.f1, row.support) == pytest.approx(expected)


def test_the_worst_are_wrong_and_the_truth_was_least_likely():
    logits, targets = said()
    outputs = Outputs.of(logits, targets)
    worst = outputs.worst(7)
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    wrong = logits.argmax(1) != targets
    expected = torch.where(wrong, loss, -1).argsort(descending=True)[:7]
    assert worst.tolist() == expected.tolist()
    right = Outputs.of(10 * torch.eye(3), torch.arange(3))
    assert len(right.worst(5)) == 0


@pytest.mark.parametrize("classes", [2, 1000])
def test_what_is_kept_is_small_and_scores_the_same(tmp_path, classes):
    logits, targets = said(n=1000, classes=classes)
    paths = [f"ä \udcff/{i}.jpg" for i in range(1000)]  # a name that is no valid text
    outputs = Outputs.of(logits, targets, paths)
    shown = outputs.worst(3)
    outputs.with_thumbnails(shown, torch.full((3, 3, 8, 8), 7, dtype=torch.uint8)).save(
        tmp_path / "x"
    )
    assert (tmp_path / "x").stat().st_size < 1000 * (70 + 20) + 3 * 192 + 1000
    back = Outputs.load(tmp_path / "x")
    assert back.paths == tuple(paths)
    assert torch.equal(back.targets, targets)
    assert torch.equal(back.predicted, logits.argmax(1))
    assert back.shown is not None
    assert torch.equal(back.shown, shown)
    assert quality(back) == quality(outputs)
    with pytest.raises(InputError, match="there is no file"):
        Outputs.load(tmp_path / "absent")


def test_a_network_that_learned_nothing_has_one_accuracy():
    logits, targets = torch.zeros(24, 12), torch.arange(24) % 12
    outputs = Outputs.of(logits, targets)
    assert torch.equal(outputs.predicted, logits.argmax(1))
    assert float(outputs.correct.double().mean()) == evaluate_of(logits, targets)
    logits[:, [4, 9]] = 1  # two share the first place
    assert torch.equal(Outputs.of(logits, targets).predicted, torch.full((24,), 4))


def evaluate_of(logits: torch.Tensor, targets: torch.Tensor) -> float:
    return evaluate(torch.nn.Identity(), [(logits, targets)]).accuracy or 0.0


def test_probabilities_make_the_same_outputs_as_logits():
    logits, targets = said(classes=5)
    ours = Outputs.of_probabilities(logits.double().softmax(1), targets)
    theirs = Outputs.of(logits, targets)
    assert torch.equal(ours.classes, theirs.classes)
    torch.testing.assert_close(ours.probabilities, theirs.probabilities)
    torch.testing.assert_close(ours.log_likelihood, theirs.log_likelihood)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3)])
def test_what_a_regression_said_comes_back(tmp_path, shape, dtype):
    predictions, targets = torch.randn(2, *shape, dtype=dtype)
    predictions[2] = torch.nan  # of a network that diverged
    outputs = RegressionOutputs.of(predictions, targets, [f"ä/{i}.png" for i in range(7)])
    rows = torch.tensor([5, 3, 99, 1, 0, 2, 4], dtype=torch.int32)
    replace(outputs, rows=rows).save(tmp_path / "x")
    back = load_outputs(tmp_path / "x")
    assert isinstance(back, RegressionOutputs)
    assert back.paths == outputs.paths
    assert torch.equal(back.targets, targets.reshape(7, -1))
    assert back.targets.dtype == dtype
    assert torch.equal(back.predictions.nan_to_num(7), predictions.reshape(7, -1).nan_to_num(7))
    assert back.finite.tolist() == [True, True, False, True, True, True, True]
    assert back.rows is not None
    assert torch.equal(back.rows, rows)
    with pytest.raises(InputError, match="of a regression, not of a classification"):
        Outputs.load(tmp_path / "x")
    with pytest.raises(InputError, match="the same shape"):
        RegressionOutputs.of(torch.zeros(7, 2), targets)


def test_a_classifier_that_diverged_is_kept_as_such(tmp_path):
    logits, targets = said(n=20)
    logits[3] = torch.nan
    logits[4, 2] = torch.inf
    Outputs.of(logits, targets).save(tmp_path / "x")
    back = load_outputs(tmp_path / "x")
    assert (~back.finite).nonzero().flatten().tolist() == [3, 4]


def _put(name, index, value):
    def damage(tensors, about):
        tensors[name][index] = value

    return damage


def _cut(name):
    def damage(tensors, about):
        tensors[name] = tensors[name][:-1].clone()

    return damage


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_put("targets", 3, 12), "classes must lie between 0 and 11"),
        (_put("targets", 3, -1), "classes must lie between 0 and 11"),
        (_put("classes", (3, 2), 99), "classes must lie between 0 and 11"),
        (_put("probabilities", (3, 0), 1.5), "between 0 and 1"),
        (_put("probabilities", (3, 9), -0.1), "between 0 and 1"),
        (_put("probabilities", (3, 4), torch.nan), "between 0 and 1"),
        (_put("log_likelihood", 3, 0.5), "between 0 and 1"),
        (_put("log_likelihood", 3, torch.nan), "between 0 and 1"),
        (_put("squares", 3, torch.inf), "between 0 and 1"),
        (_put("probabilities", (3, 0), 0.0), "ranked by probability"),
        (_put("rows", 3, 5), "each once"),
        (_put("rows", 3, -2), "each once"),
        (_put("shown", 0, 20), "thumbnails must belong"),
        (_cut("thumbnails"), "thumbnails must belong"),
        (lambda tensors, about: tensors.pop("shown"), "thumbnails and their rows, or neither"),
        (_cut("log_likelihood"), "fit 20 examples of 12 classes"),
        (_cut("probabilities"), "fit 20 examples of 12 classes"),
        (_cut("rows"), "each once"),
        (_cut("paths"), None),
        (lambda tensors, about: tensors.update(paths=tensors["paths"][:5]), "names 2 files of 20"),
        (lambda tensors, about: tensors.pop("squares"), "missing"),
        (lambda tensors, about: about.update(num_classes="many"), "missing or is no table"),
        (lambda tensors, about: about.update(num_classes=3), "fit 20 examples of 3 classes"),
        (
            lambda tensors, about: tensors.update(squares=tensors["squares"].half()),
            "fit 20 examples of 12 classes",
        ),
        (
            lambda tensors, about: tensors.update({k: v[:0] for k, v in tensors.items()}),
            "no example",
        ),
    ],
)
def test_a_damaged_file_is_one_sentence_that_names_it(tmp_path, damage, reason):
    logits, targets = said(n=20)
    logits += torch.randn(20, 1)
    outputs = Outputs.of(logits, targets, [f"{i}." for i in range(20)])
    outputs = replace(outputs, rows=torch.arange(20, dtype=torch.int32))
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    outputs.with_thumbnails(torch.tensor([0, 1]), pixels).save(tmp_path / "x")
    load_outputs(tmp_path / "x")
    tensors, about = files.load_weights(tmp_path / "x")
    damage(tensors, about)
    files.save_weights(tmp_path / "x", tensors, about)
    if reason is None:  # a name is one letter shorter, which nobody can see
        load_outputs(tmp_path / "x")
        return
    with pytest.raises(InputError, match=reason) as caught:
        load_outputs(tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value)
    assert "run it again" in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_put("targets", (1, 0), torch.nan), "targets must be finite"),
        (_cut("predictions"), "one row per example"),
        (lambda tensors, about: tensors.pop("predictions"), "missing"),
        (
            lambda tensors, about: tensors.update(targets=tensors["targets"].long()),
            "floating-point",
        ),
        (lambda tensors, about: tensors.update(targets=torch.tensor(3.0)), "missing or is no"),
    ],
)
def test_a_damaged_regression_too(tmp_path, damage, reason):
    RegressionOutputs.of(torch.randn(9), torch.randn(9)).save(tmp_path / "x")
    tensors, about = files.load_weights(tmp_path / "x")
    damage(tensors, about)
    files.save_weights(tmp_path / "x", tensors, about)
    with pytest.raises(InputError, match=reason):
        load_outputs(tmp_path / "x")
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-3])
    with pytest.raises(InputError, match="not a file that a run has written"):
        load_outputs(tmp_path / "x")


# --- folds ----------------------------------------------------------------------------------------


def folds_of(outputs, k: int, seed: int = 0):
    """Cut outputs of a whole data set into folds, each in an order of its own."""
    n = len(outputs)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    columns = ("targets", "classes", "probabilities", "log_likelihood", "squares", "predictions")
    folds = []
    for rows in order.tensor_split(k):
        part = {c: getattr(outputs, c)[rows] for c in columns if hasattr(outputs, c)}
        paths = tuple(outputs.paths[i] for i in rows.tolist()) if outputs.paths else ()
        folds.append(replace(outputs, **part, paths=paths, rows=rows.int()))
    return folds


def test_folds_join_to_the_whole(tmp_path):
    logits, targets = said(n=50)
    whole = Outputs.of(logits, targets, [f"{i}.jpg" for i in range(50)])
    folds = folds_of(whole, 4)
    for i, fold in enumerate(folds):  # as they come from files
        shown = fold.worst(2)
        pixels = fold.targets[shown].to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)
        fold.with_thumbnails(shown, pixels).save(tmp_path / f"{i}")
    back = joined([Outputs.load(tmp_path / f"{i}") for i in range(4)])
    for name in ("targets", "classes", "probabilities", "log_likelihood", "squares"):
        assert torch.equal(getattr(back, name), getattr(whole, name)), name
    assert back.paths == whole.paths
    assert back.rows is not None
    assert back.rows.tolist() == list(range(50))
    assert quality(back) == quality(whole)
    assert back.shown is not None
    assert back.thumbnails is not None
    assert len(back.shown) == sum(len(fold.worst(2)) for fold in folds) > 0
    assert not back.correct[back.shown].any()
    assert back.thumbnails[:, 0, 0, 0].tolist() == back.targets[back.shown].tolist()
    back.save(tmp_path / "all")
    assert quality(Outputs.load(tmp_path / "all")) == quality(whole)


def test_folds_of_a_regression_join_too():
    predictions, targets = torch.randn(2, 30, 2)
    whole = RegressionOutputs.of(predictions, targets)
    back = joined(folds_of(whole, 3))
    assert torch.equal(back.targets, targets)
    assert torch.equal(back.predictions, predictions)
    some = joined(folds_of(whole, 3)[:2])  # a fold that failed leaves its rows out
    assert some.rows is not None
    assert torch.equal(some.targets, targets[some.rows])
    assert some.rows.tolist() == sorted(some.rows.tolist())


def test_what_does_not_belong_together_is_not_joined():
    whole = Outputs.of(*said(n=30))
    one, two = folds_of(whole, 2)
    with pytest.raises(InputError, match="at least one"):
        joined([])
    with pytest.raises(InputError, match="which rows of the data set"):
        joined([one, replace(two, rows=None)])
    with pytest.raises(InputError, match="15 of 45 are: join the folds of one repetition"):
        joined([one, two, one])
    with pytest.raises(InputError, match="all or none"):
        joined([one, replace(two, paths=tuple("x" * 15))])
    other = folds_of(Outputs.of(*said(n=30, classes=11)), 2)[1]
    with pytest.raises(InputError, match="the same classes"):
        joined([one, other])
    values = folds_of(RegressionOutputs.of(torch.randn(30), torch.randn(30)), 2)[1]
    with pytest.raises(InputError, match="of one kind"):
        joined([one, values])  # type: ignore[list-item]
