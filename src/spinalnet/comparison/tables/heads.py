"""The heads of tables: what each is, which options it has, and its untrained estimator.

The nets have the same encoding of the columns, the same embedding of numbers and the same
training, and are averaged alike; they differ in the net. The others are what a table is usually
given to, each with the settings it comes with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from spinalnet._checks import InputError, TrainingError, unknown_name
from spinalnet.comparison.spaces import WIDTH


@dataclass(frozen=True)
class TableHead:
    """One row of `TABLE_MODELS`.

    Attributes:
        summary: What it is, in a few words.
        kind: Class of the estimator in `spinalnet.tabular`, without its ending; "" for others.
        classes: Of another library: "module:Class" of the classifier and of the regressor.
        encoded: Whether such a one gets the numbers that nets get, and not the table.
        brief: Options with which such a one is fitted in a moment.
        fixed: Options that make it this head; nobody else gives them.
        defaults: Options with other defaults than the estimator's.
        width: The hidden width it starts from, which tuning multiplies.
    """

    summary: str
    kind: str = ""
    classes: tuple[str, str] = ("", "")
    encoded: bool = True
    brief: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    width: int = 0


_HERE = "spinalnet.comparison.tables"

TABLE_MODELS: dict[str, TableHead] = {
    "spinal": TableHead("spinal net, 4 layers of 16, 2 slices", "Spinal", width=16),
    "unchained": TableHead(
        "spinal without the chain", "Control", fixed={"control": "unchained"}, width=16
    ),
    "unchained-matched": TableHead(
        "the same with as many parameters as spinal",
        "Control",
        fixed={"control": "unchained-matched"},
        width=16,
    ),
    "matched": TableHead(
        "one hidden layer, as many parameters as spinal",
        "Control",
        fixed={"control": "matched"},
        width=16,
    ),
    "mlp": TableHead("one hidden layer of 64", "Dense", width=64),
    # An embedding would make it additive, not linear, and of one optimum there is no ensemble.
    "linear": TableHead(
        "no hidden layer: logistic or least-squares regression, trained as the nets are",
        "Dense",
        fixed={"hidden_features": (), "embedding": None, "ensemble_size": 1},
        defaults={"lr": 3e-2},
    ),
    "ridge": TableHead(
        "scikit-learn's logistic regression, or ridge regression",
        classes=("sklearn.linear_model:LogisticRegression", "sklearn.linear_model:Ridge"),
        defaults={"max_iter": 1000},
    ),
    "sklearn-mlp": TableHead(
        "scikit-learn's MLP, one hidden layer of 100",
        classes=("sklearn.neural_network:MLPClassifier", "sklearn.neural_network:MLPRegressor"),
    ),
    "trees": TableHead(
        "scikit-learn's histogram gradient boosting",
        classes=(
            "sklearn.ensemble:HistGradientBoostingClassifier",
            "sklearn.ensemble:HistGradientBoostingRegressor",
        ),
        encoded=False,
        brief={"max_iter": 1},
        defaults={"categorical_features": "from_dtype"},
    ),
    "tabm": TableHead(
        "TabM, 32 networks that share most of their weights",
        classes=(f"{_HERE}.tabm_net:TabMClassifier", f"{_HERE}.tabm_net:TabMRegressor"),
        brief={"epochs": 1},
    ),
    "lightgbm": TableHead(
        "LightGBM's gradient boosting",
        classes=("lightgbm:LGBMClassifier", "lightgbm:LGBMRegressor"),
        brief={"n_estimators": 1},
        defaults={"n_jobs": 1, "verbosity": -1},
    ),
    "xgboost": TableHead(
        "XGBoost's gradient boosting",
        classes=("xgboost:XGBClassifier", "xgboost:XGBRegressor"),
        brief={"n_estimators": 1},
        defaults={"n_jobs": 1},
    ),
    "catboost": TableHead(
        "CatBoost's gradient boosting",
        classes=("catboost:CatBoostClassifier", "catboost:CatBoostRegressor"),
        brief={"iterations": 1},
        defaults={"thread_count": 1, "verbose": False, "allow_writing_files": False},
    ),
}

FOLLOWING = ("unchained", "unchained-matched", "matched")
"""The heads that are made after the spinal net they are compared with, whatever its options are."""

SIZE = (
    *("hidden_features", "num_layers", "num_splits", "share_weights"),
    *("activation", "norm", "dropout"),
)
"""Options of a spinal net that such heads take over."""


def head_row(head: str) -> TableHead:
    """Return a row of `TABLE_MODELS`.

    Raises:
        InputError: If there is no such head.
    """
    if head not in TABLE_MODELS:
        raise unknown_name("head of tables", head, TABLE_MODELS)
    return TABLE_MODELS[head]


def estimator_class(head: str, task: str) -> Any:
    """Return the class of a head's estimator for a task; errors as of `head_row`."""
    row = head_row(head)
    if row.kind:
        from spinalnet import tabular

        ending = "Classifier" if task == "classification" else "Regressor"
        return getattr(tabular, f"{row.kind}{ending}")
    from spinalnet.comparison.tables.baselines import find_class

    return find_class(row.classes[task != "classification"], head)


def option_names(head: str, task: str = "classification") -> list[str]:
    """Return the options that a head takes; errors as of `head_row`."""
    from spinalnet.comparison.tables.baselines import options_of

    names = options_of(estimator_class(head, task))
    taken = {"random_state", "device", "warm_start", "verbose", *head_row(head).fixed}
    return [name for name in names if name not in taken]


def check_options(head: str, options: Collection[str], task: str = "classification") -> None:
    """Refuse what a head does not take.

    Raises:
        InputError: If an option is unknown; the nearest one is named.
    """
    if not options:
        head_row(head)
        return
    known = option_names(head, task)
    for name in options:
        if name == "random_state":
            raise InputError("random_state is the seed of the run: give seed=, not an option.")
        if name not in known:
            raise unknown_name(f"option of head '{head}' on a table", name, known)


def training_options() -> list[str]:
    """Return the options of training, which all nets take alike."""
    from dataclasses import fields

    from spinalnet.tabular.options import TrainingOptions

    return [f.name for f in fields(TrainingOptions) if f.name not in ("random_state", "device")]


def tuned_options(
    head: str, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return options with what a trial of tuning sets, whose widths are multiples."""
    found = {**options, **settings}
    if WIDTH in found:
        start = options.get("hidden_features", head_row(head).width)
        factor = found.pop(WIDTH)
        widths = [start] if isinstance(start, int) else list(start)
        scaled = tuple(max(1, round(factor * width)) for width in widths)
        found["hidden_features"] = scaled[0] if isinstance(start, int) else scaled
    return found


def make_estimator(
    head: str, options: Mapping[str, Any], task: str, seed: int, *, outputs: int = 1
) -> Any:
    """Return the untrained estimator of a head.

    Args:
        head: Row of `TABLE_MODELS`.
        options: What it is given beside its defaults.
        task: "classification" or "regression".
        seed: Its `random_state`.
        outputs: Number of values it predicts; of other libraries' models there is one for each.

    Raises:
        InputError: If it has no such option, or a value of one is impossible.
    """
    row = head_row(head)
    check_options(head, options, task)
    given = {**row.defaults, **options, **row.fixed}
    estimator = estimator_class(head, task)(**given, random_state=seed)
    try:
        if row.kind:
            estimator.train_config(seed)
            _try_net(estimator)
        elif hasattr(estimator, "_parameter_constraints"):
            estimator._validate_params()  # scikit-learn's own sentence about a value
    except (TypeError, ValueError, TrainingError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"head '{head}' cannot be made on a table: {reason}.") from error
    if not row.kind and row.encoded:
        from spinalnet.comparison.tables.baselines import Encoded

        estimator = Encoded(estimator, task == "classification")
    if outputs > 1 and not row.kind:
        from sklearn.multioutput import MultiOutputRegressor

        return MultiOutputRegressor(estimator)
    return estimator


def _try_net(estimator: Any) -> None:
    """Make the net on some inputs, without memory, to see that its options are possible."""
    import torch

    with torch.device("meta"):
        estimator.make_net(64, 2, torch.float32)
