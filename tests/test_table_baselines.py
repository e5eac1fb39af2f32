"""Tables: models of other libraries, on the encoding that the nets get."""

from __future__ import annotations

import builtins
import importlib
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPRegressor

from spinalnet._checks import InputError
from spinalnet.comparison.tables.heads import (
    TABLE_MODELS,
    check_options,
    make_estimator,
    option_names,
)
from spinalnet.tabular.encoder import Encoder

OTHERS = ("lightgbm", "xgboost", "catboost", "tabm")


def mixed(rows: int = 120) -> tuple[Any, np.ndarray]:
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    colour = rng.choice(["red", "green", "blue"], rows)
    size = rng.normal(size=rows)
    y = 1000.0 + 100.0 * (size + (colour == "red")) + rng.normal(size=rows)
    return pd.DataFrame({"size": size, "colour": pd.Categorical(colour)}), y


def test_ridge_is_scikit_learn_s_on_the_encoding_of_the_nets() -> None:
    X, y = mixed()
    model = make_estimator("ridge", {"alpha": 0.5}, "regression", 0).fit(X, y)
    encoded = Encoder(X, None).transform(X)
    center, scale = y.mean(), y.std()
    own = Ridge(alpha=0.5).fit(encoded, (y - center) / scale)
    assert np.allclose(model.predict(X), own.predict(encoded) * scale + center)
    assert model.score(X, y) > 0.99
    label = np.where(y > 1000.0, "dear", "cheap")
    classifier = make_estimator("ridge", {}, "classification", 0).fit(X, label)
    logistic = LogisticRegression(max_iter=1000).fit(encoded, label)
    assert list(classifier.classes_) == ["cheap", "dear"]
    assert np.allclose(classifier.predict_proba(X), logistic.predict_proba(encoded))
    assert (classifier.predict(X) == logistic.predict(encoded)).all()


def test_scikit_learn_s_net_learns_a_target_of_any_size() -> None:
    X, y = mixed()
    model = make_estimator("sklearn-mlp", {}, "regression", 0).fit(X, y)
    assert isinstance(model.model_, MLPRegressor)
    assert model.score(X, y) > 0.9  # of raw targets around 1000 it would be far below 0
    huge = make_estimator("sklearn-mlp", {}, "regression", 0).fit(X, y * 1e6)
    assert np.allclose(huge.predict(X), model.predict(X) * 1e6, rtol=1e-6)
    both = make_estimator("sklearn-mlp", {"max_iter": 5}, "regression", 0, outputs=2)
    assert both.fit(X, np.c_[y, -y]).predict(X).shape == (len(y), 2)


@pytest.mark.parametrize("head", OTHERS)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_other_libraries_are_used_or_named(
    head: str, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = mixed()
    target = np.where(y > 1000.0, "dear", "cheap") if task == "classification" else y
    modules = ("tabm", "rtdl_num_embeddings") if head == "tabm" else (head,)
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError:
        with pytest.raises(InputError, match=f"head '{head}' needs .* not installed: pip install"):
            make_estimator(head, {}, task, 0)
        return
    quick = dict(TABLE_MODELS[head].brief) | ({"d_block": 8, "k": 2} if head == "tabm" else {})
    model = make_estimator(head, quick, task, 0).fit(X, target)
    assert model.predict(X).shape == target.shape
    again = make_estimator(head, quick, task, 0).fit(X, target)
    assert (again.predict(X) == model.predict(X)).all()
    assert set(quick) <= set(option_names(head, task))
    with pytest.raises(InputError, match="unknown option"):
        check_options(head, ["no_such_option"], task)


@pytest.mark.parametrize("head", OTHERS)
def test_a_missing_library_is_one_sentence(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__
    gone = {"lightgbm", "xgboost", "catboost", "tabm", "rtdl_num_embeddings"}

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] in gone:
            raise ImportError(f"No module named '{name}'", name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    real_import = importlib.import_module

    def import_without(name: str, package: str | None = None) -> Any:
        if name.split(".")[0] in gone:
            raise ImportError(f"No module named '{name}'", name=name)
        return real_import(name, package)

    monkeypatch.setattr("spinalnet.comparison.tables.baselines.import_module", import_without)
    monkeypatch.delitem(
        __import__("sys").modules, "spinalnet.comparison.tables.tabm_net", raising=False
    )
    with pytest.raises(InputError, match=r"which is not installed: pip install \w+, or leave"):
        make_estimator(head, {}, "classification", 0)
