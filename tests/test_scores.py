from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, precision_recall_fscore_support

from spinalnet._checks import InputError
from spinalnet.comparison.calibration import (
    Bin,
    calibration_error,
    per_class,
    pooled,
    quality,
    reliability,
)
from spinalnet.comparison.outputs import Outputs


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
