"""The card of a model that is passed on: what it is, how good it is, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import spinalnet
from spinalnet._checks import some
from spinalnet.comparison import Summary, load_summary
from spinalnet.comparison.metrics import METRICS
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


def facts(run: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the configuration says of a model: what it takes, gives, and reached."""
    result = runs.read_result(run) or {}
    test = {
        key: value
        for key, value in (result.get("test") or {}).items()
        if isinstance(value, int | float)
    }
    known = ("task", "head", "model", "data", "class_names", "input_shape", "targets")
    found = {key: header[key] for key in known if header.get(key) not in (None, (), [])}
    if header.get("columns"):
        found["columns"] = [column["name"] for column in header["columns"]]
    numbers = ("head_params", "head_macs", "train_size", "epochs_run", "best_epoch", "selected_on")
    found |= {key: result[key] for key in numbers if result.get(key) is not None}
    return {"version": spinalnet.__version__, **found, "test": test}


def of_head(config: Mapping[str, Any]) -> str:
    """Return the card of a head alone."""
    arguments = ", ".join(f"{key}={value!r}" for key, value in config.items() if key != "spinalnet")
    return "\n".join(
        [
            *_front(["spinalnet"]),
            "# A SpinalNet head",
            "",
            f"`SpinalNet({arguments})`",
            "",
            *_loading("net = from_pretrained({name})  # maps (B, in_features) to logits"),
            "A layer of a network: it says nothing without the trunk that it was trained on.",
            "",
            *_cited(),
        ]
    )


def of_run(run: Path, config: Mapping[str, Any]) -> str:
    """Return the card of the model of a run."""
    task, data, head = config.get("task"), _text(config.get("data")), _text(config.get("head"))
    lines = [
        *_front(
            ["spinalnet", f"{'tabular' if config['spinalnet'] == 'table' else 'image'}-{task}"]
        ),
        f"# {head} on {data}",
        "",
        *_what(config),
        "",
        "## Results",
        "",
        *_results(config),
    ]
    summary = _summary_of(run)
    if summary is not None:
        lines += [
            "",
            "The comparison that it is a run of says:",
            "",
            f"> {_text(summary.headline)}",
            *_differences(summary),
        ]
    lines += ["", "## Limits", "", *_limits(config), "", "## Use", ""]
    lines += _loading("model = from_pretrained({name})")
    asked, options = "PICTURE.png", " --output probabilities" if task == "classification" else ""
    if config["spinalnet"] == "table":
        asked, options = "ROWS.csv", " --data ROWS.csv"
    lines += [
        "On the command line, and as one file that needs neither this package nor torch, with the "
        "checked answers:",
        "",
        "```bash",
        f"spinalnet predict FOLDER/model.safetensors {asked}",
        f"spinalnet export FOLDER/model.safetensors model.onnx{options}",
        "```",
        "",
        *_cited(),
    ]
    return "\n".join(lines)


def _front(tags: list[str]) -> list[str]:
    return ["---", "library_name: spinalnet", "tags:", *(f"- {tag}" for tag in tags), "---", ""]


def _what(config: Mapping[str, Any]) -> list[str]:
    lines = []
    if config["spinalnet"] == "table":
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
    rows = [
        f"| {METRICS[key].title if key in METRICS else key} | {value:.4g} |"
        for key, value in test.items()
        if key != "n"
    ]
    if not rows:
        return ["It has not been tested."]
    on = f"{test['n']:,} test examples" if "n" in test else "test examples"
    how = config.get("selected_on", "validation")
    chosen = f" (the epoch was chosen on {how})" if config["spinalnet"] == "image" else ""
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
        "Whether the spinal head is what makes it good, a single model cannot say; `spinalnet "
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


def _loading(line: str) -> list[str]:
    return [
        "```python",
        "from spinalnet import from_pretrained",
        "",
        line.format(name='"NAME/OF-THIS-REPOSITORY"'),
        "```",
        "",
    ]


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
