"""The card of a model that is passed on: what it is, how good it is, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import spinalnet
from spinalnet._checks import install_extra, some
from spinalnet.comparison import Summary, load_summary
from spinalnet.comparison.metrics import title_of
from spinalnet.comparison.passed_on import KIND, config_of
from spinalnet.models import zoo
from spinalnet.nn import is_own
from spinalnet.tabular.options import by_size
from spinalnet.training import runs

_CITATION = """```bibtex
@article{kabir2022spinalnet,
  title   = {SpinalNet: Deep Neural Network With Gradual Input},
  author  = {Kabir, H. M. Dipu and Abdar, Moloud and Khosravi, Abbas and Jalali, Seyed Mohammad
             Jafar and Atiya, Amir F. and Nahavandi, Saeid and Srinivasan, Dipti},
  journal = {IEEE Transactions on Artificial Intelligence},
  year    = {2022}
}
```"""


def facts(folder: Path | None, header: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the configuration says of a model: what it takes, gives, reached, and how.

    Args:
        folder: Of its run, or of a model that was passed on, whose configuration is taken over;
            None if there is none.
        header: Of its file.
    """
    if folder is not None and (before := config_of(folder)) is not None:
        return {**before, "version": spinalnet.__version__}
    result = (runs.read_result(folder) or {}) if folder is not None else {}
    test = {
        key: value
        for key, value in (result.get("test") or {}).items()
        if isinstance(value, int | float)
    }
    known = ("task", "head", "model", "data", "class_names", "input_shape", "targets")
    found = {key: header[key] for key in known if header.get(key) not in (None, (), [])}
    if header.get("columns"):
        found["columns"] = [column["name"] for column in header["columns"]]
        parted = [c["name"] for c in header["columns"] if c.get("kind") in ("date", "text")]
        found |= {"encoded_outside": parted} if parted else {}
    numbers = ("head_params", "head_macs", "train_size", "epochs_run", "best_epoch", "selected_on")
    found |= {key: result[key] for key in numbers if result.get(key) is not None}
    asked = runs.read_config(folder) if folder is not None and runs.is_run(folder) else {}
    protocol = of_table if header.get("format") == "table" else of_images
    found["protocol"] = protocol(asked, result, header) if asked else {}
    return {"version": spinalnet.__version__, **found, "test": test}


def of_images(
    asked: Mapping[str, Any], result: Mapping[str, Any], header: Mapping[str, Any]
) -> dict[str, Any]:
    """Return how a run on images was made, by names for people, of its own record."""
    train, model = asked["train"], asked["model"]
    mixed = f", mixed by {train['mix']}" if train.get("mix", "none") != "none" else ""
    weights = "random" if not model.get("pretrained") else "published ones, pre-trained"
    if isinstance(model.get("pretrained"), str):
        weights = "those of a file"  # whose place is nobody's business
    trunk = "learns with the head"
    if model.get("freeze"):
        trunk = "frozen: the head was trained on its features"
    names = {"val": "validation", "test": "test"}
    sizes = {"training": result.get("train_size")}
    sizes |= {names[part]: (result.get(part) or {}).get("n") for part in names}
    probe = asked.get("probe_epochs")
    return _said(
        {
            "seed": train["seed"],
            "test part": _test_part(asked["data"].get("resample")),
            "examples": ", ".join(f"{n:,} {part}" for part, n in sizes.items() if n),
            "first weights of the trunk": weights,
            "trunk": trunk,
            "options of the head": _options(model.get("head_options")),
            "epochs of the head alone before": probe or None,
            "epochs": f"{result.get('epochs_run')} of at most {train['epochs']}",
            "choice of the epoch": f"the best on {result.get('selected_on', 'validation')}: "
            f"epoch {result.get('best_epoch')}",
            "batch size": train["batch_size"],
            "optimiser": _optimiser(train),
            "augmentation": f"{train['augment']}{mixed}",
            "label smoothing": train.get("label_smoothing") or None,
            "class weights": _unless_none(train.get("class_weights")),
        }
    )


def of_table(
    asked: Mapping[str, Any], result: Mapping[str, Any], header: Mapping[str, Any]
) -> dict[str, Any]:
    """Return how a run on a table was made, by names for people, of its own record."""
    params = header.get("params") or {}
    test = (result.get("test") or {}).get("n")
    sizes = f"{result.get('train_size'):,} training" if result.get("train_size") else ""
    about = {
        "seed": asked.get("seed"),
        "test part": _test_part(asked.get("resample")),
        "examples": ", ".join(filter(None, (sizes, f"{test:,} test" if test else ""))),
        "tuning": f"{asked['tune']} trials on training rows" if asked.get("tune") else None,
        "chosen by tuning": _options(result.get("chosen")),
    }
    if "epochs" not in params:  # trees, or a model of another library
        return _said({**about, "options": _options(asked.get("head_options"))})
    nets = params.get("ensemble_size") or 1
    held_out = params.get("early_stopping") not in (False, None)
    by_rows = by_size(result["train_size"]) if result.get("train_size") else {}
    epochs = params["epochs"] if params["epochs"] is not None else by_rows.get("epochs")
    most = f"at most {epochs}" if epochs is not None else "by the number of rows"
    ran = f" ({result['epochs_run']:,} of all nets)" if result.get("epochs_run") else ""
    return _said(
        {
            **about,
            "nets": f"{nets}, averaged" if nets != 1 else 1,
            "width and layers": _options({k: params[k] for k in _SIZES if k in params}),
            "numbers": f"embedded by {params['embedding']}" if params.get("embedding") else None,
            "epochs": f"{most} of each net{ran}",
            "choice of the epoch": f"early_stopping={params['early_stopping']}: the best on "
            f"{100 * params.get('validation_fraction', 0):.0f} % of the training rows, held out, "
            "where there are enough; else the last"
            if held_out
            else "the last",
            "batch size": params.get("batch_size")
            or by_rows.get("batch_size", "by the number of rows"),
            "optimiser": _optimiser(params),
        }
    )


_SIZES = ("hidden_features", "num_layers", "num_splits")


def _said(rows: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rows.items() if value not in (None, "")}


def _unless_none(value: Any) -> Any:
    return None if value == "none" else value


def _options(options: Mapping[str, Any] | None) -> str:
    """Return options of a head in words; those of a twin that a control was made after are its."""
    given = {key: value for key, value in (options or {}).items() if key != "match_options"}
    return ", ".join(f"{key}={value}" for key, value in given.items())


def _optimiser(train: Mapping[str, Any]) -> str:
    said = f"{train['optimizer']}, rate {train['lr']:g}, schedule {train['schedule']}"
    if train.get("weight_decay"):
        said += f", weight decay {train['weight_decay']:g}"
    if train["optimizer"] == "sgd" and train.get("momentum"):
        said += f", momentum {train['momentum']:g}"
    return said


def _test_part(resample: Mapping[str, Any] | None) -> str:
    if not resample:
        return "that of the data set, or split off once for all seeds"
    if resample.get("kind") == "fold":
        return f"fold {resample['index'] + 1} of {resample['count']}"
    return f"{100 * resample['fraction']:.0f} % of all, draw {resample['index'] + 1}"


def of_head(config: Mapping[str, Any]) -> str:
    """Return the card of a head alone."""
    given = {key: value for key, value in config.items() if key not in (KIND, "class")}
    name = str(config.get("class", "SpinalNet"))
    arguments = ", ".join(f"{key}={value!r}" for key, value in given.items())
    return "\n".join(
        [
            *_front(["spinalnet"]),
            f"# A {_text(name)} head",
            "",
            f"`{name}({arguments})`",
            "",
            *_python(
                "import torch",
                "from spinalnet import from_pretrained",
                *_using(head=name),
                "",
                f"net = from_pretrained({_NAME})",
                f"print(net(torch.zeros(1, {config['in_features']})).shape)  # logits, one a class",
            ),
            "A layer of a network: it says nothing without the trunk that it was trained on.",
            "",
            *_cited(),
        ]
    )


def _using(**places: str) -> list[str]:
    """Return the lines that use what is its author's code of a model and a head."""
    own = {
        kind: place
        for kind, place in places.items()
        if is_own(place) and (kind == "head" or zoo.is_own_model(place))
    }
    faces = {"head": "nn", "model": "models"}
    lines = [f"from spinalnet.{faces[kind]} import use_{kind}" for kind in sorted(own)]
    return lines + [f'\nuse_{kind}("{place}")  # code of its author' for kind, place in own.items()]


def of_network(config: Mapping[str, Any]) -> str:
    """Return the card of a network of which no run is known."""
    if "network" in config:
        name = config["network"]
        said = [
            f"The weights of a `{_text(name)}` with a `{_text(config['holds'])}` in it. Its code "
            "is not part of them: make the network as its author did, with that head in it, and "
            "put the weights into it.",
            "",
            *_python(
                "from spinalnet import from_pretrained",
                "",
                f"model = from_pretrained({_NAME}, into=network)  # the network you made",
            ),
        ]
    else:
        name, head = config["model"], config["head"]
        shape = [config["in_channels"], *[config["image_size"]] * 2]
        if config.get("image_size") is None:
            shape = shape[:1]
        said = [
            f"Network `{_text(name)}` with a `{_text(head['class'])}` of {head['out_features']} "
            f"outputs; takes inputs of {' x '.join(map(str, shape))}.",
            "",
            *_python(
                "import torch",
                "from spinalnet import from_pretrained",
                *_using(model=name, head=head["class"]),
                "",
                f"model = from_pretrained({_NAME})",
                f"print(model(torch.zeros(1, {', '.join(map(str, shape))})).shape)  # logits",
            ),
        ]
    return "\n".join(
        [
            *_front(["spinalnet"]),
            f"# {_text(name)}",
            "",
            *said,
            "It says nothing of its data: what its outputs mean, and how inputs are normalised, is "
            "its author's to say.",
            "",
            *_cited(),
        ]
    )


def of_run(run: Path | None, config: Mapping[str, Any]) -> str:
    """Return the card of the model of a run."""
    task, data, head = config.get("task"), _text(config.get("data")), _text(config.get("head"))
    lines = [
        *_front(["spinalnet", f"{'tabular' if config[KIND] == 'table' else 'image'}-{task}"]),
        f"# {head} on {data}",
        "",
        *_what(config),
        "",
        "## Results",
        "",
        *_results(config),
    ]
    summary = None if run is None else _summary_of(run)
    if summary is not None:
        seeds = len(summary.seeds)
        lines += [
            "",
            f"The comparison that it is a run of ({seeds} {'seed' if seeds == 1 else 'seeds'} of "
            "each head) says:",
            "",
            f"> {_text(summary.headline)}",
            *_differences(summary),
        ]
    if protocol := config.get("protocol"):
        lines += ["", "## How it was trained", "", "| | |", "| --- | --- |"]
        lines += [f"| {_text(name)} | {_text(value)} |" for name, value in protocol.items()]
    lines += ["", "## Limits", "", *_limits(config), "", "## Use", ""]
    lines += _used_of_table(config) if config[KIND] == "table" else _used_of_images(config)
    return "\n".join([*lines, *_cited()])


_NAME = '"NAME/OF-THIS-REPOSITORY"'
_WITHOUT = (
    "As one file that needs neither this package nor torch, whose answers are checked when it is "
    f"written ({install_extra('export')}):"
)
_FOLDER = "On the command line, FOLDER being this folder on your disk:"


def _used_of_images(config: Mapping[str, Any]) -> list[str]:
    """Say how a model is loaded, asked, exported, and its file run."""
    by_class = config.get("task") == "classification"
    output, said = (" --output probabilities", "probabilities") if by_class else ("", "values")
    shape = tuple(config.get("input_shape", ()))
    export = f"spinalnet export FOLDER model.onnx{output}"
    if len(shape) != 3:
        return [
            *_python(
                "import torch",
                "from spinalnet import from_pretrained",
                "",
                f"trained = from_pretrained({_NAME})",
                f"print(trained.model(torch.zeros(1, {', '.join(map(str, shape))})))",
            ),
            *(_WITHOUT, "", *_bash(export)),
            *_python(
                "import numpy as np",
                "import onnxruntime",
                "",
                'session = onnxruntime.InferenceSession("model.onnx")',
                f"rows = np.zeros(({', '.join(map(str, (1, *shape)))}), np.float32)",
                f'({said},) = session.run(None, {{"inputs": rows}})',
                f"print({said})",
            ),
        ]
    shown = "found.class_name, found.probability" if by_class else "found.value"
    last = "print(dict(zip(CLASSES, probabilities[0].tolist())))" if by_class else "print(values)"
    names = "CLASSES, preprocess, session" if by_class else "preprocess, session"
    return [
        *_python(
            "from spinalnet import from_pretrained, predict_images",
            "",
            f"model = from_pretrained({_NAME})",
            'for found in predict_images(model, ["PICTURE.png"]):',
            f"    print({shown})",
        ),
        *(_FOLDER, "", *_bash("spinalnet predict FOLDER PICTURE.png")),
        *(_WITHOUT, "", *_bash(export, "python model_preprocess.py PICTURE.png")),
        "The program beside the file makes its input of a photograph, and asks it. In your own:",
        "",
        *_python(
            f"from model_preprocess import {names}",
            "",
            f'({said},) = session().run(None, {{"inputs": preprocess("PICTURE.png")}})',
            last,
        ),
    ]


def _used_of_table(config: Mapping[str, Any]) -> list[str]:
    """Say how a model is loaded, asked, exported, and its file run."""
    lines = [
        *_python(
            "import pandas as pd",
            "from spinalnet import from_pretrained",
            "",
            f"model = from_pretrained({_NAME})",
            'print(model.predict(pd.read_csv("ROWS.csv")))',
        ),
        *(_FOLDER, "", *_bash("spinalnet predict FOLDER ROWS.csv")),
        *(_WITHOUT, "", *_bash("spinalnet export FOLDER model.onnx --data ROWS.csv")),
    ]
    start = ["import onnxruntime", "import pandas as pd"]
    opened = [
        'rows = pd.read_csv("ROWS.csv")',
        'session = onnxruntime.InferenceSession("model.onnx")',
    ]
    end = [
        "names = [one.name for one in session.get_outputs()]",
        "print(dict(zip(names, session.run(None, inputs))))",
    ]
    if parted := config.get("encoded_outside"):
        return [
            *lines,
            f"Of the columns {some([_text(name) for name in parted], 5)} the file takes parts "
            "(year, month, ...; numbers of a text), which this package makes:",
            "",
            *_python(
                *start,
                "from spinalnet.deploy.table_export import onnx_inputs",
                "",
                *opened,
                'inputs = onnx_inputs("FOLDER", rows)',
                *end,
            ),
        ]
    return [
        *lines,
        *_python(
            *start,
            "",
            *opened,
            "inputs = {}",
            "for one in session.get_inputs():  # one for each column, by its name",
            "    column = rows[one.name]",
            '    if one.type == "tensor(string)":',
            '        inputs[one.name] = column.fillna("").astype(str).to_numpy(object)[:, None]',
            "    else:",
            '        inputs[one.name] = column.to_numpy("float64")[:, None]',
            *end,
        ),
    ]


def _front(tags: list[str]) -> list[str]:
    return ["---", "library_name: spinalnet", "tags:", *(f"- {tag}" for tag in tags), "---", ""]


def _what(config: Mapping[str, Any]) -> list[str]:
    lines = []
    if config[KIND] == "table":
        columns = [_text(name) for name in config.get("columns", ())]
        if any(columns):
            lines.append(f"Takes the rows of a table with the columns {some(columns, 12)}.")
        else:  # it was made from numbers alone
            lines.append(
                f"Takes rows of {len(columns)} columns, in the order of the training rows."
            )
        if config.get("targets"):
            lines.append(f"Predicts {', '.join(map(_text, config['targets']))}.")
    else:
        shape = " x ".join(map(str, config.get("input_shape", ())))
        lines.append(
            f"Network `{_text(config.get('model'))}` with the head `{_text(config.get('head'))}`; "
            f"takes inputs of {shape}."
        )
    names = [_text(name) for name in config.get("class_names", ())]
    if names:
        lines.append(f"Classes: {some(names, 20)}.")
    if config.get("head_params"):
        lines.append(
            f"The head has {config['head_params']:,} parameters and takes "
            f"{config.get('head_macs', 0):,} multiplications."
        )
    return lines


def _results(config: Mapping[str, Any]) -> list[str]:
    test = config.get("test") or {}
    rows = [f"| {title_of(key)} | {value:.4g} |" for key, value in test.items() if key != "n"]
    if not rows:
        return ["It has not been tested."]
    on = f"{test['n']:,} test examples" if "n" in test else "test examples"
    how = config.get("selected_on", "validation")
    chosen = f" (the epoch was chosen on {how})" if config[KIND] == "image" else ""
    return [
        f"On {on} that no choice was made on{chosen}; one run, of which",
        "another seed would give another:",
        "",
        "| metric | test |",
        "| --- | ---: |",
        *rows,
    ]


def _limits(config: Mapping[str, Any]) -> list[str]:
    answers = (
        "one of its classes whatever it is given. Its probabilities are those of data like it: "
        "look at their calibration before decisions rest on them."
        if config.get("task") == "classification"
        else "a number whatever it is given, and does not say how sure it is."
    )
    return [
        f"It knows what {_text(config.get('data'))} looked like, and answers with {answers} "
        "Whether its head is what makes it good, a single model cannot say; `spinalnet "
        "compare` can."
    ]


def _differences(summary: Summary) -> list[str]:
    """Return the lines of a table of the differences, with their intervals and answers."""
    rows = []
    for head in summary.heads:
        d = head.difference
        if d is not None and d.mean is not None and d.low is not None and d.high is not None:
            mean, low, high = summary.wording.differences(d.mean, d.low, d.high)
            rows.append(f"| {_text(head.head)} | {mean} | {low} to {high} | {d.code} |")
    if not rows:
        return []
    unit = "points" if summary.wording.in_points else summary.wording.title
    title = f"| {_text(summary.heads[0].head)} minus | {unit} | 95 % interval | answer |"
    return ["", title, "| --- | ---: | ---: | --- |", *rows]


def _python(*lines: str) -> list[str]:
    return ["```python", *lines, "```", ""]


def _bash(*lines: str) -> list[str]:
    return ["```bash", *lines, "```", ""]


def _cited() -> list[str]:
    return [
        f"Made with [spinalnet](https://arxiv.org/abs/2007.03347) {spinalnet.__version__}.",
        "",
        _CITATION,
        "",
    ]


def _summary_of(run: Path) -> Summary | None:
    path = run.resolve().parent.parent / "summary.json"
    return load_summary(path) if path.is_file() else None


def _text(value: Any) -> str:
    """Return a name as text that Markdown leaves alone."""
    said = escape(" ".join(str(value).split()), quote=False)
    for sign in "\\`*_{}[]#|":
        said = said.replace(sign, f"\\{sign}")
    return said
