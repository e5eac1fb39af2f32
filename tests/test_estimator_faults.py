"""Tables: what the estimators once got wrong, each as a test."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris, load_wine
from sklearn.model_selection import GridSearchCV

from spinalnet._checks import InputError, TrainingError
from spinalnet.comparison.explaining import explain_table
from spinalnet.data import Table
from spinalnet.nn import SpinalNet
from spinalnet.tabular import ControlClassifier, DenseClassifier, SpinalClassifier, SpinalRegressor
from spinalnet.theory.sensitivity import explain, sensitivities


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (SpinalClassifier, {"num_layers": np.int64(3), "hidden_features": np.int32(4)}),
        (SpinalClassifier, {"num_splits": np.int64(2), "share_weights": np.True_}),
        (SpinalClassifier, {"dropout": np.float32(0.5), "lr": np.float64(1e-2)}),
        (SpinalClassifier, {"ensemble_size": np.int64(2), "num_bins": np.int16(4)}),
        (SpinalClassifier, {"early_stopping": np.True_, "batch_size": np.int64(16)}),
        (DenseClassifier, {"hidden_features": np.array([4, 3])}),
        (ControlClassifier, {"num_layers": np.int64(3), "hidden_features": np.int64(4)}),
    ],
)
def test_numbers_of_numpy_are_numbers(make: Any, options: dict[str, Any]) -> None:
    X, y = load_iris(return_X_y=True)
    plain = {
        name: value.tolist() if isinstance(value, np.ndarray) else value.item()
        for name, value in options.items()
    }
    shared = {"epochs": np.int64(2), "random_state": np.int64(1)}
    ours = make(**options, **shared).fit(X, y).predict_proba(X)
    assert np.array_equal(ours, make(**plain, epochs=2, random_state=1).fit(X, y).predict_proba(X))


def test_a_grid_of_numpy_integers_can_be_searched() -> None:
    X, y = load_iris(return_X_y=True)
    grid = {"num_layers": np.arange(2, 4), "hidden_features": np.array([4, 8])}
    search = GridSearchCV(SpinalClassifier(epochs=3, random_state=0), grid, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def after_two_passes(**changes: Any) -> tuple[SpinalClassifier, np.ndarray]:
    X, y = load_wine(return_X_y=True)
    model = SpinalClassifier(random_state=0, lr=1e-2).partial_fit(X, y, [0, 1, 2])
    model.set_params(**changes).partial_fit(X, y)
    return model, model.predict_proba(X)


def test_options_may_change_between_two_partial_fits() -> None:
    _, unchanged = after_two_passes()
    by_sgd, with_sgd = after_two_passes(optimizer="sgd")  # whose memory is another one
    assert np.isfinite(with_sgd).all()
    assert not np.array_equal(with_sgd, unchanged)
    X, y = load_wine(return_X_y=True)
    assert by_sgd.partial_fit(X, y).n_iter_ == 3
    decayed, with_decay = after_two_passes(weight_decay=10.0)
    assert not np.array_equal(with_decay, unchanged)
    before, _ = after_two_passes()

    def size(model: SpinalClassifier) -> float:
        return sum(float(p.detach().square().sum()) for p in model.module_.parameters())

    assert size(decayed) < size(before)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({0: 1.0, 1: -2.0}, r"class_weight must have a finite number >= 0 .* got -2.0 for 1"),
        ({0: 1.0, 1: float("nan")}, "got nan for 1"),
        ({0: "heavy"}, "got 'heavy' for 0"),
        ({0: 1.0, 7: 2.0}, r"class_weight must name classes of y, and \[7\] are none of"),
        ({"0": 1.0}, r"\['0'\] are none of \[0, 1, 2\]"),
        ({0: 0.0, 1: 0.0, 2: 0.0}, "leave some class"),
        ("heavy", "class_weight"),
    ],
)
def test_impossible_class_weights_are_named(weights: Any, message: str) -> None:
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=message):
        SpinalClassifier(class_weight=weights, epochs=1).fit(X, y)


def test_a_class_whose_rows_all_have_weight_zero_may_be_weighted() -> None:
    X, y = load_iris(return_X_y=True)
    model = SpinalClassifier(class_weight={0: 1.0, 1: 2.0, 2: 3.0}, epochs=1)
    assert list(model.fit(X, y, np.where(y == 2, 0.0, 1.0)).classes_) == [0, 1]


def test_fits_in_threads_are_those_one_after_the_other() -> None:
    X, y = load_wine(return_X_y=True)
    options: list[dict[str, Any]] = [
        {"random_state": 0, "dropout": 0.2},
        {"random_state": 1, "ensemble_size": 2, "embedding": "piecewise"},
        {"random_state": 2, "early_stopping": True},
        {"random_state": 3, "norm": "batch"},
    ]

    def trained(given: dict[str, Any]) -> np.ndarray:
        model = SpinalClassifier(epochs=8, **given).fit(X, y)
        return model.partial_fit(X, y).predict_proba(X)

    serial = [trained(given) for given in options]
    for _ in range(2):
        with ThreadPoolExecutor(4) as pool:
            threaded = list(pool.map(trained, options))
        for ours, theirs in zip(threaded, serial, strict=True):
            assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("options", [{}, {"ensemble_size": 2, "embedding": "piecewise"}])
def test_a_constant_target_is_returned_to_the_bit(options: dict[str, Any]) -> None:
    X = np.random.default_rng(0).normal(size=(60, 3))
    constant = np.full(60, 0.1) * 3  # whose mean is another number in the last bit
    with pytest.warns(UserWarning, match="y is constant"):
        model = SpinalRegressor(epochs=2, random_state=0, **options).fit(X, constant)
    values, spread = model.predict(X, return_std=True)
    assert (values == constant).all()
    assert (spread == 0.0).all()
    both = np.c_[constant, X[:, 0]]
    with pytest.warns(UserWarning, match="y is constant"):
        model = SpinalRegressor(epochs=60, random_state=0, **options).fit(X, both)
    assert (model.predict(X)[:, 0] == constant).all()
    assert np.corrcoef(model.predict(X)[:, 1], X[:, 0])[0, 1] > 0.9


def test_a_target_that_was_constant_in_the_first_rows_may_change() -> None:
    X = np.random.default_rng(0).normal(size=(64, 2))
    with pytest.warns(UserWarning, match="y is constant"):
        model = SpinalRegressor(random_state=0, lr=1e-2).partial_fit(X, np.full(64, 2.0))
    assert (model.predict(X) == 2.0).all()
    for _ in range(100):
        model.partial_fit(X, X[:, 0] + 2.0)
    assert np.corrcoef(model.predict(X), X[:, 0])[0, 1] > 0.9


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("options", [{"lr": 1e12}, {"lr": 1e300}, {"lr": 1e160, "epochs": 1}])
def test_a_divergence_is_a_sentence(early_stopping: bool, options: dict[str, Any]) -> None:
    X, y = load_diabetes(return_X_y=True)
    given = {"optimizer": "sgd", "epochs": 20, "random_state": 0, **options}
    model = SpinalRegressor(early_stopping=early_stopping, batch_size=1000, **given)
    with pytest.raises(TrainingError, match=r"not finite .* lower lr or set clip_norm"):
        model.fit(X, y)


@pytest.mark.parametrize("lr", [1e12, 1e300])
def test_so_is_one_that_comes_in_partial_fit(lr: float) -> None:
    X, y = load_diabetes(return_X_y=True)
    model = SpinalRegressor(optimizer="sgd", lr=lr, random_state=0)

    def go_on() -> None:
        for _ in range(6):
            model.partial_fit(X, y)

    with pytest.raises(TrainingError, match=r"not finite .* lower lr or set clip_norm"):
        go_on()


def test_sensitivities_of_a_regression_are_in_the_unit_of_its_target(tmp_path: Any) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(400, 2)), columns=["a", "b"])
    y = 1000.0 * X["a"].to_numpy() + 50.0
    found = explain_table(Table("made", X, y, "regression"), tmp_path)
    by_input = dict(zip(found.inputs, found.mean[0].tolist(), strict=True))
    # By the standardised input, of which a unit is one standard deviation.
    assert by_input["a"] == pytest.approx(1000.0 * X["a"].std(), rel=0.25)
    assert abs(by_input["b"]) < 200.0
    hundred = explain_table(Table("made", X, y / 100.0, "regression"), tmp_path)
    torch.testing.assert_close(hundred.mean * 100.0, found.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(hundred.std * 100.0, found.std, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (2, 3, 6), (4, 5)])
def test_explain_says_what_it_needs(shape: tuple[int, ...]) -> None:
    net = SpinalNet(6, 3, hidden_features=2)
    with pytest.raises(InputError, match=r"x must be \(N, 6\).* got shape"):
        explain(net, torch.zeros(shape))


def test_scales_of_outputs_must_be_as_many_as_outputs() -> None:
    net = SpinalNet(6, 3, hidden_features=2)
    with pytest.raises(InputError, match="scale must have 3"):
        sensitivities(net, torch.zeros(2, 6), scale=torch.ones(2))


@pytest.mark.parametrize("factor", [1e160, 1e300])
@pytest.mark.parametrize("part", ["X", "y", "one cell", "a frame"])
@pytest.mark.filterwarnings("error")
def test_numbers_whose_squares_overflow_are_named(factor: float, part: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    y = X[:, 0].copy()
    rows: Any = X
    if part == "y":
        y, said = y * factor, r"y must hold numbers .* in 'output 1': divide"
    elif part == "X":
        rows, said = X * factor, "X must hold numbers .* in 'x1', 'x2', 'x3': divide"
    else:
        X[3, 1], said = factor, "X must hold numbers .* in 'x2': divide"
        if part == "a frame":
            frame = pytest.importorskip("pandas").DataFrame(X, columns=["a", "b", "c"])
            rows, said = frame, "X must hold numbers .* in 'b': divide"
    for method in ("fit", "partial_fit"):
        with pytest.raises(InputError, match=said):
            getattr(SpinalRegressor(epochs=2, random_state=0), method)(rows, y)
    # What was learned from other rows says something about such a row all the same.
    model = SpinalRegressor(epochs=2, random_state=0).fit(rng.normal(size=(40, 3)), np.arange(40.0))
    assert np.isfinite(model.predict(np.full((1, 3), factor))).all()
