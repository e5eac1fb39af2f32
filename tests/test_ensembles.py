"""Tables: several nets in one estimator, and what they say together."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_wine
from sklearn.metrics import log_loss, r2_score

from spinalnet._checks import InputError
from spinalnet.nn import SpinalNet
from spinalnet.tabular import (
    ControlClassifier,
    ControlRegressor,
    DenseClassifier,
    DenseRegressor,
    SpinalClassifier,
    SpinalRegressor,
)

CLASSIFIERS = [SpinalClassifier, DenseClassifier, ControlClassifier]
REGRESSORS = [SpinalRegressor, DenseRegressor, ControlRegressor]
OPTIONS: list[dict[str, Any]] = [
    {"embedding": None, "early_stopping": False},
    {"embedding": "quantile+piecewise", "early_stopping": True, "dropout": 0.1},
]


def singles(model: Any, X: np.ndarray, y: np.ndarray) -> list[Any]:
    """Fit every member alone."""
    options = model.get_params() | {"ensemble_size": 1}
    return [
        type(model)(**options | {"random_state": member["random_state"]}).fit(X, y)
        for member in model.members_
    ]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("make", CLASSIFIERS)
def test_probabilities_are_the_mean_of_those_of_single_nets(
    make: Any, options: dict[str, Any]
) -> None:
    X, y = load_wine(return_X_y=True)
    model = make(ensemble_size=3, epochs=5, random_state=7, **options).fit(X, y)
    alone = singles(model, X, y)
    assert model.members_[0]["random_state"] == 7
    assert len({member["seed"] for member in model.members_}) == 3
    each = [other.predict_proba(X) for other in alone]
    assert np.allclose(model.predict_proba(X), np.mean(each, axis=0), atol=1e-12)
    assert np.allclose(np.exp(model.predict_log_proba(X)), np.mean(each, axis=0), atol=1e-12)
    assert not np.allclose(each[0], each[1])
    for index, other in enumerate(alone):  # the nets themselves are the same bits
        net = getattr(other.module_, "members", [other.module_])[0]
        for ours, theirs in zip(
            model.module_.members[index].parameters(), net.parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)
        assert model.members_[index]["loss_curve"] == other.loss_curve_


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("make", REGRESSORS)
def test_predictions_are_the_mean_of_those_of_single_nets(
    make: Any, options: dict[str, Any]
) -> None:
    X, y = load_diabetes(return_X_y=True)
    model = make(ensemble_size=3, epochs=3, random_state=7, **options).fit(X, y)
    each = np.array([other.predict(X) for other in singles(model, X, y)])
    values, spread = model.predict(X, return_std=True)
    assert np.allclose(values, each.mean(0))
    assert np.allclose(spread, each.std(0))
    assert np.array_equal(values, model.predict(X))
    both = np.c_[y, -10.0 * y]
    values, spread = make(ensemble_size=2, epochs=2).fit(X, both).predict(X, return_std=True)
    assert values.shape == spread.shape == (len(X), 2)
    single = make(ensemble_size=1, epochs=1).fit(X, y).predict(X, return_std=True)
    assert (single[1] == 0.0).all()


@pytest.mark.parametrize("random_state", [None, "generator"])
def test_members_of_any_generator_can_be_had_alone(random_state: Any) -> None:
    X, y = load_wine(return_X_y=True)
    if random_state == "generator":
        random_state = np.random.RandomState(5)
    model = SpinalClassifier(ensemble_size=2, epochs=2, random_state=random_state).fit(X, y)
    each = [other.predict_proba(X) for other in singles(model, X, y)]
    assert np.allclose(model.predict_proba(X), np.mean(each, axis=0), atol=1e-12)


def test_an_average_is_better_than_its_members() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 8))
    y = np.sin(2.0 * X[:, 0]) + X[:, 1] * X[:, 2] + rng.normal(size=600)
    train, test = slice(0, 400), slice(400, None)
    model = SpinalRegressor(ensemble_size=6, random_state=0, early_stopping=False)
    model.fit(X[train], y[train])
    alone = [r2_score(y[test], m.predict(X[test])) for m in singles(model, X[train], y[train])]
    assert model.score(X[test], y[test]) > np.mean(alone) + 0.02
    label = (y > 0).astype(int)
    classifier = SpinalClassifier(ensemble_size=6, random_state=0, early_stopping=False)
    classifier.fit(X[train], label[train])
    losses = [
        log_loss(label[test], m.predict_proba(X[test]))
        for m in singles(classifier, X[train], label[train])
    ]
    assert log_loss(label[test], classifier.predict_proba(X[test])) < np.mean(losses) - 0.05


@pytest.mark.parametrize("options", OPTIONS)
def test_the_module_alone_says_what_the_estimator_says(options: dict[str, Any]) -> None:
    X, y = load_wine(return_X_y=True)
    model = SpinalClassifier(ensemble_size=2, epochs=3, random_state=0, **options).fit(X, y)
    logits = model.module_(model.prepare(X))
    assert np.allclose(logits.softmax(1).detach().numpy(), model.predict_proba(X))
    assert model.module_.in_features == 13
    assert model.module_.out_features == 3
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ensemble_size", [1, 3])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_module_can_be_made_again_from_its_weights(
    options: dict[str, Any], ensemble_size: int, dtype: Any
) -> None:
    X, y = load_wine(return_X_y=True)
    X = X.astype(dtype)
    model = SpinalClassifier(ensemble_size=ensemble_size, epochs=2, random_state=0, **options).fit(
        X, y
    )
    expected = model.predict_proba(X)
    weights = {name: tensor.clone() for name, tensor in model.module_.state_dict().items()}
    bare = copy.copy(model)
    del bare.module_
    module = bare.module_like(weights)
    assert type(module) is type(model.module_)
    module.load_state_dict(weights)
    bare.module_ = module.eval()
    assert np.array_equal(bare.predict_proba(X), expected)


def test_members_go_on_together_in_partial_fit() -> None:
    X, y = load_wine(return_X_y=True)
    options: dict[str, Any] = {"lr": 1e-2, "embedding": "quantile", "random_state": 3}
    model = SpinalClassifier(ensemble_size=2, **options)
    for _ in range(6):
        model = pickle.loads(pickle.dumps(model.partial_fit(X, y, [0, 1, 2])))
    assert model.n_iter_ == 6
    each = []
    for member in model.members_:
        alone = SpinalClassifier(
            ensemble_size=1, **options | {"random_state": member["random_state"]}
        )
        for _ in range(6):
            alone.partial_fit(X, y, [0, 1, 2])
        each.append(alone.predict_proba(X))
    assert np.allclose(model.predict_proba(X), np.mean(each, axis=0), atol=1e-12)


def test_one_net_without_an_embedding_is_the_net_itself() -> None:
    X, y = load_wine(return_X_y=True)
    model = SpinalClassifier(ensemble_size=1, embedding=None, epochs=1).fit(X, y)
    assert isinstance(model.module_, SpinalNet)


@pytest.mark.parametrize("size", [0, -1, 1.5, "many", True])
def test_a_number_of_nets_is_a_number(size: Any) -> None:
    X, y = load_wine(return_X_y=True)
    with pytest.raises(InputError, match="ensemble_size must be an integer >= 1"):
        SpinalClassifier(ensemble_size=size).fit(X, y)


def test_outliers_among_inputs_carry_no_prediction_away() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_cauchy(size=(600, 5))
    y = np.tanh(X[:, 0]) + np.tanh(X[:, 1]) + 0.3 * rng.normal(size=600)
    train, test = slice(0, 400), slice(400, None)
    bare: dict[str, Any] = {"embedding": None, "early_stopping": False}
    scores = [
        SpinalRegressor(ensemble_size=2, random_state=0, **options)
        .fit(X[train], y[train])
        .score(X[test], y[test])
        for options in ({}, bare)
    ]
    assert scores[0] > 0.6
    assert scores[1] < 0.3
    model = SpinalRegressor(ensemble_size=2, random_state=0).fit(X[train], y[train])
    far = model.predict(X[test] * 1e6)
    assert np.ptp(far) < 3.0 * np.ptp(y)


@pytest.mark.parametrize(("rows", "held_out"), [(40, False), (60, True)])
def test_rows_are_held_out_where_there_are_enough(rows: int, held_out: bool) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 3))
    model = SpinalRegressor(ensemble_size=1, epochs=3).fit(X, X[:, 0])
    assert hasattr(model, "validation_scores_") is held_out
    assert not hasattr(
        SpinalRegressor(ensemble_size=1, epochs=3, early_stopping=False).fit(X, X[:, 0]),
        "validation_scores_",
    )


def test_the_number_of_rows_decides_what_is_not_given() -> None:
    small, large = (SpinalClassifier().train_config(0, rows) for rows in (1000, 20_000))
    assert small.batch_size < large.batch_size
    assert small.early_stopping > large.early_stopping
    given = SpinalClassifier(batch_size=7, epochs=3, n_iter_no_change=2).train_config(0, 20_000)
    assert (given.batch_size, given.epochs, given.early_stopping) == (7, 3, 2)


def test_a_class_of_one_row_is_trained_on_all_the_same() -> None:
    X, y = load_wine(return_X_y=True)
    y = np.r_[y[:-1], 9]
    model = SpinalClassifier(ensemble_size=1, epochs=2, random_state=0).fit(X, y)
    assert model.predict_proba(X).shape == (len(X), 4)


def test_weights_decide_which_epoch_is_best() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    y = (X[:, 0] + rng.normal(size=300) > 0).astype(int)
    weights = rng.uniform(0.1, 3.0, 300)
    options: dict[str, Any] = {"ensemble_size": 1, "early_stopping": True, "epochs": 4}
    model = SpinalClassifier(random_state=0, **options).fit(X, y, weights)
    scaled = SpinalClassifier(random_state=0, **options).fit(X, y, 1000.0 * weights)
    assert model.validation_scores_ == pytest.approx(scaled.validation_scores_)
    plain = SpinalClassifier(random_state=0, **options).fit(X, y)
    assert model.validation_scores_ != plain.validation_scores_
    counts = {score * 30 for score in plain.validation_scores_}
    assert all(abs(count - round(count)) < 1e-9 for count in counts)
    assert any(abs(score * 30 - round(score * 30)) > 1e-9 for score in model.validation_scores_)
