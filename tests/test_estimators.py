"""Tables: scikit-learn's own checks, and what the estimators promise beyond them."""

from __future__ import annotations

import inspect
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from spinalnet._checks import TrainingError
from spinalnet.data import order
from spinalnet.tabular.estimators import (
    ControlClassifier,
    ControlRegressor,
    DenseClassifier,
    DenseRegressor,
    SpinalClassifier,
    SpinalRegressor,
)
from spinalnet.training.config import TrainConfig
from spinalnet.training.fitting import fit
from spinalnet.training.loop import Progress

CLASSES = [SpinalClassifier, SpinalRegressor, DenseClassifier, DenseRegressor]
CONTROLS = [ControlClassifier, ControlRegressor]
BARE: dict[str, Any] = {"ensemble_size": 1, "embedding": None, "early_stopping": False}


# No check is excluded. Fewer epochs and nets than the default, to be quick.
@parametrize_with_checks([make(epochs=50, ensemble_size=2) for make in [*CLASSES, *CONTROLS]])
def test_scikit_learn_checks(estimator, check) -> None:  # type: ignore[no-untyped-def]
    check(estimator)


@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "one-cycle"},
        {"optimizer": "sgd", "lr": 0.05, "clip_norm": 0.1},
        {"norm": "layer", "activation": "gelu"},
    ],
    ids=str,
)
def test_an_estimator_learns_what_fit_learns_by_autograd(
    make: type, options: dict[str, Any]
) -> None:
    classification = make in (SpinalClassifier, DenseClassifier)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 6))
    X = (X - X.mean(0)) / X.std(0)
    y = (X[:, 0] * X[:, 1] > 0).astype(int) if classification else X[:, 0] * X[:, 1]
    given = BARE | options
    model = make(hidden_features=5, epochs=7, batch_size=32, random_state=3, **given).fit(X, y)
    still = model.get_params() | {"lr": 1e-30, "epochs": 1}  # weights stay as they were drawn
    net = make(**still).fit(X, y).module_
    targets = torch.from_numpy(y if classification else ((y - y.mean()) / y.std())[:, None])

    class Source:  # float64, which ArrayDataset is not
        def __len__(self) -> int:
            return len(X)

        def batches(self, batch_size, *, shuffle=False, seed=0, epoch=0, **_):  # type: ignore[no-untyped-def]
            rows = order.epoch_order(len(X), shuffle, seed, epoch)
            for part in order.batch_slices(len(X), batch_size, shuffle):
                yield torch.from_numpy(X)[rows[part]], targets[rows[part]]

    last: list[torch.Tensor] = []  # fit goes back to the best epoch, the estimator does not

    def watch(progress: Progress) -> None:
        if progress.phase == "validate" and progress.epoch == 7:
            last.extend(parameter.detach().clone() for parameter in net.parameters())

    shared = {name: getattr(model, name) for name in ("optimizer", "lr", "schedule", "clip_norm")}
    seed = int(np.random.RandomState(3).randint(2**31 - 1))
    config = TrainConfig(
        epochs=7, batch_size=32, weight_decay=model.weight_decay, seed=seed, device="cpu", **shared
    )
    result = fit(net, Source(), Source(), config, on_progress=watch)
    expected = [row["train_loss"] for row in result.history]
    assert model.loss_curve_ == pytest.approx(expected, rel=1e-9)
    for ours, theirs in zip(model.module_.parameters(), last, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("make", CLASSES)
def test_every_option_is_a_parameter_and_explained(make: Any) -> None:
    assert make(7).get_params()["hidden_features"] == 7
    with pytest.raises(TypeError):
        make(7, 3, 0.1)
    text = inspect.cleandoc(SpinalClassifier.__doc__ or "")  # Python 3.13 has taken the margin off
    explained = set(re.findall(r"^    (\w+): ", text, re.M))
    explained -= set(re.findall(r"\w+_\b", " ".join(explained)))
    found = set(make().get_params())
    assert found <= explained
    missing = {"class_weight"} if make in (SpinalRegressor, DenseRegressor) else set()
    if make in (DenseClassifier, DenseRegressor):
        missing |= {"num_layers", "num_splits", "share_weights"}
    assert explained - found == missing | {"ValueError", "TrainingError"}


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "batch"},
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in ({}, {"dropout": 0.3}, {"activation": "elu"})
        ),
    ],
)
def test_equal_seeds_give_equal_bits(options: dict[str, Any]) -> None:
    X, y = load_wine(return_X_y=True)
    first, second, other = (
        SpinalClassifier(epochs=5, random_state=seed, **options).fit(X, y).predict_proba(X)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert SpinalClassifier(epochs=60, random_state=0, **options).fit(X, y).score(X, y) > 0.98


def test_training_leaves_the_global_generators_alone() -> None:
    X, y = load_iris(return_X_y=True)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    SpinalClassifier(epochs=2, dropout=0.2, random_state=0).fit(X, y)
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002


def test_single_precision_stays_single() -> None:
    X, y = load_iris(return_X_y=True)
    model = SpinalClassifier(epochs=3, random_state=0).fit(X.astype(np.float32), y)
    assert next(model.module_.parameters()).dtype is torch.float32
    assert next(SpinalClassifier(epochs=1).fit(X, y).module_.parameters()).dtype is torch.float64


def mixed_table(n: int = 300) -> tuple[dict[str, list[Any]], np.ndarray]:
    rng = np.random.default_rng(1)
    colour = rng.choice(["red", "green", "blue"], n)
    size = rng.normal(size=n)
    y = np.where(colour == "red", size > 0, size < 0).astype(int)
    table: dict[str, list[Any]] = {
        "size": [None if gone else v for v, gone in zip(size, rng.random(n) < 0.1, strict=True)],
        "colour": [
            None if gone else v for v, gone in zip(colour, rng.random(n) < 0.1, strict=True)
        ],
        "count": rng.integers(0, 5, n).tolist(),
        "flag": (rng.random(n) < 0.5).tolist(),
    }
    return table, np.array(["no", "yes"])[y]


@pytest.mark.parametrize("library", ["pandas", "polars", "pandas-nullable"])
def test_frames_with_categories_and_gaps(library: str) -> None:
    table, y = mixed_table()
    frames = pytest.importorskip(library.split("-")[0])
    frame = frames.DataFrame(table)
    if library == "pandas-nullable":
        frame = frame.convert_dtypes()
        frame["colour"] = frame["colour"].astype("category")
    model = SpinalClassifier(epochs=60, random_state=0).fit(frame, y)
    assert model.score(frame, y) > 0.85  # the rows with gaps cannot all be right
    assert list(model.feature_names_in_) == ["size", "colour", "count", "flag"]
    assert model.n_features_in_ == 4
    # size, its gap mark, count, flag; three colours and "missing"
    assert model.prepare(frame).shape == (300, 8)
    strange = frames.DataFrame({**table, "colour": ["violet"] * 300})
    assert model.predict(strange).shape == (300,)  # an unknown category counts as none of them
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(frame), model.predict_proba(frame))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frames.DataFrame({**table, "colour2": table["colour"]}))
    weights = np.ones(300)
    weights[:250] = 0
    half = SpinalClassifier(epochs=2, random_state=0).fit(frame, y, weights)
    same = SpinalClassifier(epochs=2, random_state=0).fit(frame[250:], y[250:])
    assert np.allclose(half.predict_proba(frame), same.predict_proba(frame))


def test_frames_refuse_what_is_no_number() -> None:
    pd = pytest.importorskip("pandas")
    table, y = mixed_table(20)
    lasting = pd.DataFrame({**table, "day": pd.timedelta_range("1h", periods=20)})
    with pytest.raises(ValueError, match="'day' has type timedelta64"):
        SpinalClassifier().fit(lasting, y)
    infinite = pd.DataFrame({**table, "count": [np.inf] * 20})
    with pytest.raises(ValueError, match="infinity"):
        SpinalClassifier().fit(infinite, y)
    model = SpinalClassifier(epochs=1).fit(pd.DataFrame(table), y)
    with (
        pytest.raises(ValueError, match="data frame with the columns colour"),
        pytest.warns(UserWarning, match="feature names"),
    ):
        model.predict(np.zeros((3, 4)))


def test_an_all_numeric_frame_and_its_array_train_alike() -> None:
    frame, y = load_wine(return_X_y=True, as_frame=True)
    by_frame = SpinalClassifier(epochs=3, random_state=0).fit(frame, y)
    by_array = SpinalClassifier(epochs=3, random_state=0).fit(frame.to_numpy(), y)
    assert np.array_equal(by_frame.predict_proba(frame), by_array.predict_proba(frame.to_numpy()))


def test_weights_and_class_weights_multiply() -> None:
    X, y = load_iris(return_X_y=True)
    rows = np.r_[0:50, 50:60, 100:105]
    X, y = X[rows], y[rows]
    balanced = SpinalClassifier(epochs=5, class_weight="balanced", random_state=0).fit(X, y)
    counts = np.bincount(y)
    by_hand = SpinalClassifier(epochs=5, random_state=0).fit(X, y, len(y) / (3 * counts[y]))
    assert np.allclose(balanced.predict_proba(X), by_hand.predict_proba(X))
    mapping = {0: 1.0, 1: 5.0, 2: 10.0}
    named = SpinalClassifier(epochs=5, class_weight=mapping, random_state=0).fit(X, y)
    by_hand = SpinalClassifier(epochs=5, random_state=0).fit(X, y, np.array([1.0, 5, 10])[y])
    assert np.allclose(named.predict_proba(X), by_hand.predict_proba(X))


@pytest.mark.parametrize("make", [SpinalRegressor, DenseRegressor])
def test_several_outputs_at_once(make: type) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4))
    Y = np.c_[X[:, 0] + X[:, 1], 1000 * X[:, 2] + 5000]  # of very different size
    model = make(random_state=0).fit(X[:300], Y[:300])
    assert model.n_outputs_ == 2
    assert model.predict(X[300:]).shape == (100, 2)
    assert model.score(X[300:], Y[300:]) > 0.95
    single = make(epochs=2).fit(X, Y[:, 0])
    assert single.predict(X).shape == (400,)
    column = make(epochs=2).fit(X, Y[:, :1])
    assert column.predict(X).shape == (400, 1)


def test_partial_fit_goes_on_where_it_was() -> None:
    X, y = load_wine(return_X_y=True)
    model = SpinalClassifier(random_state=0, lr=1e-2)
    for epoch in range(30):
        model.partial_fit(X, y, classes=[0, 1, 2] if epoch == 0 else None)
    assert model.n_iter_ == 30
    assert len(model.loss_curve_) == 30
    assert model.loss_curve_[-1] < 0.1 * model.loss_curve_[0]
    assert model.score(X, y) > 0.97
    # Each pass through pickle in between changes nothing: the optimizer's state travels along.
    other = SpinalClassifier(random_state=0, lr=1e-2).partial_fit(X, y, [0, 1, 2])
    for _ in range(29):
        other = pickle.loads(pickle.dumps(other)).partial_fit(X, y)
    assert np.array_equal(other.predict_proba(X), model.predict_proba(X))
    # And it is what a fit with a constant rate does.
    shared = {"random_state": 0, "lr": 1e-2, "early_stopping": False}
    whole = SpinalClassifier(schedule="constant", epochs=30, **shared).fit(X, y)
    assert whole.loss_curve_ == pytest.approx(model.loss_curve_, rel=1e-9)

    with pytest.raises(ValueError, match="pass the weights as sample_weight"):
        SpinalClassifier(class_weight="balanced").partial_fit(X, y, [0, 1, 2])
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        SpinalClassifier().partial_fit(X, y)
    with pytest.raises(ValueError, match="not the same as on last call"):
        model.partial_fit(X, y, classes=[0, 1])
    few = SpinalClassifier().partial_fit(X[:20], y[:20], classes=[0, 1, 2])
    assert few.predict_proba(X).shape == (len(X), 3)
    with pytest.raises(ValueError, match="not in the first call"):
        few.partial_fit(X, y + 1)
    regressor = SpinalRegressor(random_state=0)
    for _ in range(3):
        regressor.partial_fit(X, y.astype(float))
    assert regressor.n_iter_ == 3


def test_early_stopping_holds_out_rows_and_keeps_the_best() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 5))
    y = (X[:, 0] + 2 * rng.normal(size=200) > 0).astype(int)  # mostly noise: overfits at once
    model = SpinalClassifier(
        epochs=300, early_stopping=True, n_iter_no_change=5, validation_fraction=0.3, random_state=0
    ).fit(X, y)
    assert model.n_iter_ < 300
    assert model.n_iter_ == model.best_epoch_ + 5
    assert max(model.validation_scores_) == model.validation_scores_[model.best_epoch_ - 1]
    with pytest.raises(ValueError, match="early_stopping cannot hold out"):
        SpinalClassifier(early_stopping=True).fit(X[:3], [0, 1, 1])


def test_a_fit_without_early_stopping_forgets_the_scores_of_the_one_before() -> None:
    X, y = load_iris(return_X_y=True)
    model = SpinalClassifier(epochs=2, early_stopping=True, random_state=0).fit(X, y)
    assert len(model.validation_scores_) == 2
    assert not hasattr(model.set_params(early_stopping=False).fit(X, y), "validation_scores_")


def test_each_process_of_a_job_trains_an_estimator_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = load_iris(return_X_y=True)
    alone = SpinalClassifier(epochs=2, early_stopping=True, random_state=0).fit(X, y)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    one_of_two = SpinalClassifier(**alone.get_params()).fit(X, y)
    assert np.array_equal(one_of_two.predict_proba(X), alone.predict_proba(X))


def test_in_a_pipeline_and_a_grid_search() -> None:
    X, y = load_wine(return_X_y=True)
    pipeline = make_pipeline(PCA(5, random_state=0), SpinalClassifier(epochs=10, random_state=0))
    grid = {"spinalclassifier__lr": [1e-6, 1e-2], "spinalclassifier__num_layers": [2]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
    assert search.best_params_["spinalclassifier__lr"] == 1e-2
    assert search.best_score_ > 0.6
    copy = clone(search.best_estimator_)
    assert copy.get_params()["spinalclassifier__lr"] == 1e-2


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.array([[np.nan], [1.0]]), [0, 1], "contains NaN"),
        (np.array([[np.inf], [1.0]]), [0, 1], "contains infinity"),
        (np.array([["a"], ["b"]]), [0, 1], "could not convert string to float"),
        (np.ones((3, 2)), [0, 1], "inconsistent numbers of samples"),
        (np.ones((3, 2)), [1, 1, 1], "only one class"),
        (np.ones((3, 2)), None, "y is None"),
        (np.ones((3, 2)), [0.5, 1.5, 2.5], "Unknown label type: continuous"),
        (np.ones(3), [0, 1, 1], "Expected 2D array"),
    ],
)  # fmt: skip
def test_bad_data_is_named(X: np.ndarray, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpinalClassifier().fit(X, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be"),
        ({"batch_size": 2.5}, "batch_size must be"),
        ({"activation": "rleu"}, "did you mean 'relu'"),
        ({"schedule": "redraw"}, "use one"),
        ({"lr": -1.0}, "lr must be"),
        ({"hidden_features": 0}, "hidden_features must be"),
        ({"validation_fraction": 1.0}, "validation_fraction must be"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"device": "gpu"}, "unknown device"),
    ],
)
def test_bad_parameters_are_named(options: dict[str, Any], message: str) -> None:
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=message):
        SpinalClassifier(**options).fit(X, y)


def test_a_constant_target_is_repeated_with_a_warning() -> None:
    X = np.random.default_rng(0).normal(size=(30, 3))
    with pytest.warns(UserWarning, match="y is constant"):
        model = SpinalRegressor(epochs=30, random_state=0).fit(X, np.full(30, 7.0))
    assert np.allclose(model.predict(X), 7.0, atol=0.2)


def test_more_splits_than_features_are_as_many_as_there_are() -> None:
    X, y = load_iris(return_X_y=True)
    model = SpinalClassifier(num_splits=9, num_layers=12, epochs=1, **BARE).fit(X, y)
    assert model.module_.spine.num_splits == 4


def test_a_diverging_training_stops_with_advice() -> None:
    X, y = load_iris(return_X_y=True)
    with pytest.raises(TrainingError, match="lower lr"):
        SpinalRegressor(lr=1e12, optimizer="sgd", epochs=20).fit(X, y.astype(float))
    tamed = SpinalRegressor(lr=1e-2, optimizer="sgd", clip_norm=1.0, epochs=20, random_state=0)
    assert np.isfinite(tamed.fit(X, y.astype(float)).loss_)
