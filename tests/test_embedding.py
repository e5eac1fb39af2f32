"""Tables: embeddings of numbers against their definitions, and averaged nets."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from spinalnet._checks import InputError
from spinalnet.tabular.embedding import PARTS, NumericalEmbedding, embedding_like, fit_embedding

ALL = "+".join(PARTS)


def embedded(kind: str, x: np.ndarray, at: np.ndarray | None = None, **options: Any) -> np.ndarray:
    found = fit_embedding(kind, x, **options)
    assert found is not None
    return found(torch.from_numpy(x if at is None else at)).numpy()


def piecewise_longhand(value: float, knots: list[float]) -> list[float]:
    """Equation (1) of arXiv:2203.05556; outside, one bin's length at most."""
    parts = []
    for left, right in itertools.pairwise(knots):
        if value < left and left > knots[0]:
            parts.append(0.0)
        elif value >= right and right < knots[-1]:
            parts.append(1.0)
        else:
            parts.append(min(2.0, max(-1.0, (value - left) / (right - left))))
    return parts


def test_piecewise_is_its_definition() -> None:
    x = np.arange(101.0)[:, None]
    at = np.array([-1e9, -3.0, 0.0, 12.5, 25.0, 60.0, 99.0, 100.0, 120.0, 1e9])
    knots = [0.0, 25.0, 50.0, 75.0, 100.0]
    expected = [piecewise_longhand(value, knots) for value in at]
    assert np.allclose(embedded("piecewise", x, at[:, None], bins=4), expected)


def test_bins_that_hold_no_value_are_left_out() -> None:
    x = np.r_[np.zeros(90), 1.0, 2.0, 5.0][:, None]  # nearly all quantiles are one value
    found = embedded("piecewise", x, np.array([[0.0], [1.0], [3.5], [5.0]]), bins=8)
    assert np.isfinite(found).all()
    assert np.allclose(found[:, 0], [0.0, 0.2, 0.7, 1.0])  # one bin from 0 to 5


def test_quantile_makes_any_variable_a_normal_one() -> None:
    rng = np.random.default_rng(0)
    x = np.exp(3.0 * rng.normal(size=4000))[:, None]  # spans nine orders of magnitude
    found = embedded("quantile", x)[:, 0]
    ranks = (np.argsort(np.argsort(x[:, 0])) + 0.5) / len(x)
    inside = (ranks > 0.1) & (ranks < 0.9)  # beyond, bins are long
    assert np.allclose(found[inside], norm.ppf(ranks[inside]), atol=0.05)
    assert (np.diff(found[np.argsort(x[:, 0])]) >= 0).all()


@pytest.mark.parametrize("kind", ["clip", "quantile", "piecewise", "periodic"])
def test_an_outlier_reaches_no_further_than_a_bin(kind: str) -> None:
    x = np.random.default_rng(0).normal(size=(500, 1))
    found = embedded(kind, x, np.array([[1e12], [-1e12]]))
    assert np.abs(found).max() < 10.0


def test_clip_is_the_robust_scaling_of_its_paper() -> None:
    x = np.random.default_rng(0).normal(3.0, 5.0, size=(20001, 1))
    z = (x - np.median(x)) / ((np.quantile(x, 0.75) - np.quantile(x, 0.25)) / 1.349)
    assert np.allclose(embedded("clip", x), z / np.sqrt(1 + (z / 3) ** 2), atol=1e-3)


@pytest.mark.parametrize("kind", [*PARTS, ALL])
def test_a_row_of_weight_two_is_two_rows(kind: str) -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(57, 3)), rng.integers(1, 4, 57)
    weighted = embedded(kind, x, weights=weights.astype(float))
    repeated = embedded(kind, x.repeat(weights, axis=0), x)
    assert np.allclose(weighted, repeated)


def test_inputs_of_two_values_go_past_it() -> None:
    rng = np.random.default_rng(0)
    flags = rng.integers(0, 2, (60, 2)).astype(float)
    x = np.c_[flags[:, 0], rng.normal(size=60), np.ones(60), flags[:, 1], rng.normal(size=60)]
    found = fit_embedding("quantile+piecewise", x, bins=4)
    assert found is not None
    assert found.columns.tolist() == [1, 4]
    assert found.out_features == 2 + 8 + 3
    last = found(torch.from_numpy(x))[:, -3:].numpy()
    assert np.array_equal(last, x[:, [0, 2, 3]])
    only = fit_embedding("piecewise", x, numeric=np.array([True, True, True, True, False]))
    assert only is not None
    assert only.columns.tolist() == [1]
    assert fit_embedding("piecewise", flags) is None
    assert fit_embedding(None, x) is None


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(InputError, match="unknown part of an embedding 'piecwise'; did you mean"):
        fit_embedding("quantile+piecwise", np.zeros((3, 1)))


@pytest.mark.parametrize("kind", [*PARTS, ALL])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_its_state_makes_it_again(kind: str, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    x = np.c_[rng.normal(size=(80, 2)), rng.integers(0, 2, 80), rng.integers(0, 5, 80)]
    found = fit_embedding(kind, x)
    assert found is not None
    found = found.to(dtype)
    again: NumericalEmbedding = embedding_like(kind, found.state_dict()).to(dtype)
    again.load_state_dict(found.state_dict())
    inputs = torch.from_numpy(x).to(dtype)
    assert again.out_features == found.out_features
    assert torch.equal(again(inputs), found(inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clip_is_bounded_however_far_a_number_lies(dtype: torch.dtype) -> None:
    found = fit_embedding("clip", np.arange(101.0)[:, None])
    assert found is not None
    at = [value for value in (1e8, 1e20, 1e38, 1e155, 1e300) if value < torch.finfo(dtype).max]
    far = torch.tensor([[sign * value] for sign in (1.0, -1.0) for value in at], dtype=dtype)
    said = found.to(dtype)(far)[:, 0]
    truth = torch.tensor([3.0] * len(at) + [-3.0] * len(at), dtype=dtype)
    assert torch.allclose(said, truth, rtol=1e-6)
