"""The tables of the studies, from their committed results.

Trained universality, the paper's regressions, what the chain is for, heads on the features of a
frozen network, whole networks (the wiring, the precision, the paper's own, its best numbers), and
tables with tuned heads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from math import exp, prod
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from spinalnet.comparison.across import signed_rank
from spinalnet.comparison.wording import as_markdown

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]
HEADS = ("spinal", "unchained", "matched", "mlp", "linear")


def load(path: str) -> Row:
    """Return the content of a file of results."""
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def record(name: str) -> Row:
    """Return what a study has found; an empty one where it was not run."""
    path = f"results/studies/{name}.json"
    return load(path) if (ROOT / path).exists() else {"cells": [], "answers": []}


def _not_yet(name: str) -> str:
    return f"Not measured yet: `python studies/{name}.py`."


def _made(found: Row, *more: str) -> str:
    made = found["environments"]
    used = sorted({row["environment"] for row in found["cells"] if "environment" in row})
    made = [made[number] for number in used] or made
    cpus, versions, commits = (
        listed(dict.fromkeys(values))
        for values in zip(
            *((e["cpu"], e["torch"], (e["commit"] or "unknown")[:7]) for e in made), strict=True
        )
    )
    words = f"`{found['command']}` on {cpus}, 1 thread, torch {versions}"
    return "; ".join((f"{words}, commit {commits}", *more)) + "."


def listed(words: Iterable[str]) -> str:
    """Return words with commas and an "and"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _ends(cells: Iterable[Row], rates: Iterable[float]) -> str:
    """Return how many cells took the lowest and the highest rate that they could."""
    taken, low, high = [cell["rate"] for cell in cells], min(rates), max(rates)
    return (
        f"of {len(taken)} rates chosen {taken.count(low)} are the lowest of those tried "
        f"({low:g}) and {taken.count(high)} the highest ({high:g})"
    )


def _by(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], Row]:
    return {tuple(row[name] for name in names): row for row in rows}


def _times(answer: Row) -> str:
    """Return how many times the error of the other an answer is about, with its interval."""
    middle, low, high = (exp(answer[name]) for name in ("difference", "low", "high"))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def points(answer: Row) -> str:
    """Return a difference of accuracies in points, with its interval."""
    middle, low, high = (100 * answer[name] for name in ("difference", "low", "high"))
    return f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"


# --- trained universality -------------------------------------------------------------------------


def function_name(row: Row) -> str:
    """Return what a function of the study of universality is called."""
    return f"{row['target']}, {row['inputs']} input{'s' * (row['inputs'] > 1)}"


def universality() -> str:
    """Return the median errors by depth."""
    found = record("universality")
    if not found["cells"]:
        return _not_yet("universality")
    names = ("target", "inputs", "net", "width", "layers")
    by, design = _by(found["cells"], *names), found["design"]
    rows = []
    for target, inputs in design["functions"]:
        for net, width in design["nets"]:
            cells = [by.get((target, inputs, net, width, depth)) for depth in design["depths"]]
            if any(cells):
                words = f"{net}, {width} wide" if net in ("spinal", "constructed") else net
                shown = [f"{median(cell['test']):.2g}" if cell else "-" for cell in cells]
                rows.append([function_name({"target": target, "inputs": inputs}), words, *shown])
    header = ("function", "net", *(f"{depth} layers" for depth in design["depths"]))
    planned = prod(len(design[name]) for name in ("functions", "nets", "depths"))
    made = f"{len(found['cells'])} of {planned} cells, -: not run", "medians of seeds 0 to 9"
    return f"{as_markdown(header, rows, left=2)}\n\n{_made(found, *made)}"


def universality_answers() -> str:
    """Return the answers to what was asked of trained nets."""
    found = record("universality")
    if not found["answers"]:
        return "The questions asked beforehand are not answered yet."
    rows = [
        [function_name(one), one["asked"], _times(one), f"**{one['verdict']}**"]
        for one in found["answers"]
    ]
    header = ("function", "asked of a trained spinal net of 32 layers", "other's error / its own")
    return as_markdown((*header, "answer"), rows, left=4) + (
        "\n\nRatios of errors, geometric means over seeds 0 to 9 with 95 % intervals; above 1 the "
        "net asked about is better. Margin a quarter, Holm over the nine; rates chosen on "
        "validation by seeds 1000 and 1001."
    )


# --- the paper's regressions ----------------------------------------------------------------------

FLOOR = 0.2**2 / 12


def regression() -> str:
    """Return the median errors of the paper's functions."""
    found = record("regression")
    cells = [cell for cell in found["cells"] if cell["group"] == "paper"]
    if not cells:
        return _not_yet("regression")
    by = _by(cells, "function", "examples", "net")
    rows = []
    for examples, function in dict.fromkeys((c["examples"], c["function"]) for c in cells):
        own = [by.get((function, examples, head)) for head in HEADS]
        mean = next(median(cell["mean"]) for cell in own if cell)
        shown = [f"{median(cell['test']):.3g}" if cell else "-" for cell in own]
        rows.append([function, f"{examples:,}", f"{mean:.3g}", f"{FLOOR:.3g}", *shown])
    header = ("function", "examples", "mean of the targets", "noise floor", *HEADS)
    table = as_markdown(header, rows, left=1)
    return f"{table}\n\n{_made(found, 'mean squared errors on fresh points, medians of 20 seeds')}"


def regression_answers() -> str:
    """Return the answers to what was asked of the paper's functions."""
    answers = record("regression")["answers"]
    if not answers:
        return "The questions asked beforehand are not answered yet."
    by = _by(answers, "function", "examples", "other")
    others = list(dict.fromkeys(one["other"] for one in answers))
    rows = [
        [
            function,
            f"{examples:,}",
            *(
                f"{_times(by[function, examples, o])}: **{by[function, examples, o]['verdict']}**"
                for o in others
            ),
        ]
        for function, examples in dict.fromkeys((a["function"], a["examples"]) for a in answers)
    ]
    header = ("function", "examples", *(f"{other} / spinal" for other in others))
    return as_markdown(header, rows, left=5) + (
        "\n\nRatios of errors on the same fresh points, geometric means over seeds 0 to 19 with "
        "95 % intervals; above 1 spinal is better. Margin a tenth, Holm over the twelve of one "
        "number of examples; rates chosen on validation by seeds 1000 and 1001. *nothing-learned*: "
        "neither net is below the mean of the targets in 15 of 20 seeds."
    )


def regression_examples() -> str:
    """Return R2 by the number of examples, of the functions that are products."""
    found = record("regression")
    cells = [cell for cell in found["cells"] if cell["group"] == "examples"]
    if not cells:
        return _not_yet("regression")
    by = _by(cells, "function", "net", "examples")
    group = found["design"]["groups"]["examples"]
    rows = []
    for function in group["functions"]:
        for net in group["nets"]:
            own = {n: by[function, net, n] for n in group["examples"] if (function, net, n) in by}
            if not own:
                continue
            middles = {n: median(_r_squared(cell)) for n, cell in own.items()}
            well = next(
                (f"{n:,}" for n, value in middles.items() if value >= 0.5), "none that was run"
            )
            shown = [f"{middles[n]:.2f}" if n in middles else "-" for n in group["examples"]]
            rows.append([function, net, *shown, well])
    header = ("function", "net", *(f"{n:,}" for n in group["examples"]), "learnt well from")
    table = as_markdown(header, rows, left=2)
    return f"{table}\n\nR² on fresh points, medians of seeds 0 to 4; -: not run. {_made(found)}"


def _r_squared(cell: Row) -> list[float]:
    return [1 - error / mean for error, mean in zip(cell["test"], cell["mean"], strict=True)]


# --- what the chain is for ------------------------------------------------------------------------


def interactions(name: str, *groups: str, rates: bool = False) -> str:
    """Return the accuracies of some groups of tasks, by net, and the rates that were chosen."""
    found = record(name)
    if not found["cells"]:
        return _not_yet(name)
    cells = _by(found["cells"], "group", "task", "net")
    nets = (*HEADS, "deep-3", "deep-6")
    shown = [net for net in nets if any(g in groups and n == net for g, _, n in cells)]
    rows = []
    for group, task in dict.fromkeys((g, t) for g, t, _ in cells if g in groups):
        own = [cells.get((group, task, net)) for net in shown]
        scores = (f"{100 * fmean(c['test']):.1f}" if c else "–" for c in own)
        rows.append([task, *scores, *(f"{c['rate']:g}" if c else "–" for c in own if rates)])
    header = ("task", *shown, *(f"rate of {net}" for net in shown if rates))
    return as_markdown(header, rows)


def orders(name: str) -> str:
    """Return by net how products of three and four inputs are learnt, and by how many seeds."""
    found = record(name)
    if not found["cells"]:
        return _not_yet(name)
    rows = []
    for cell in found["cells"]:
        if cell["group"] == "order":
            values = [100 * value for value in cell["test"]]
            failed = sum(value < 60 for value in values)
            shown = (f"{value:.1f}" for value in (fmean(values), median(values)))
            params = f"{cell['params']:,}"
            least = f"{min(values):.1f} to {max(values):.1f}"
            words = f"{failed} of {len(values)}"
            shown = (*shown, least, words, f"{cell['rate']:g}", params)
            rows.append([cell["task"], cell["net"], *shown])
    header = ("task", "net", "mean, %", "median, %", "all seeds, %", "seeds below 60 %")
    header += ("rate", "params")
    return as_markdown(header, rows, left=2)


def interactions_answers(name: str, words: str) -> str:
    """Return the answers to what was asked of the chain beforehand."""
    found = record(name)
    if not found["answers"]:
        return "The questions asked beforehand are not answered yet."
    of = {"images": "Fashion-MNIST, ", "colour": "CIFAR-10, "}
    rows = [
        [
            f"{of.get(one['group'], '')}{one['task']}",
            one["other"],
            points(one),
            f"**{one['verdict']}**",
        ]
        for one in found["answers"]
    ]
    table = as_markdown(("asked beforehand", "spinal minus", "points", "answer"), rows, left=4)
    return f"{table}\n\n{_made(found, words, _ends(found['cells'], found['design']['rates']))}"


# --- heads on features of a frozen network --------------------------------------------------------


def frozen_rates() -> str:
    """Return validation accuracies by rate, of all heads and of every one."""
    found = load("benchmarks/results/default-rate-frozen.json")
    rates = list(found["summary"]["mean"])

    def row(words: str, of: dict[str, float]) -> list[str]:
        best = max(of.values())
        cells = (f"{100 * of[rate]:.1f}" for rate in rates)
        return [
            words,
            *(f"**{c}**" if of[r] == best else c for r, c in zip(rates, cells, strict=True)),
        ]

    rows = [row(head, of) for head, of in found["summary"]["by_head"].items()]
    table = as_markdown(("head", *rates), [*rows, row("mean", found["summary"]["mean"])])
    made = found["environment"]
    return (
        f"{table}\n\n`{found['command']} --data-dir data` on {made['cpu']}, 1 thread, torch "
        f"{made['torch']}, commit {made['commit'][:7]}; validation accuracy in percent, means "
        "over 300, 1,000, 3,000 and 10,000 training images of CIFAR-10 and seeds 1000 to 1002."
    )


def transfer(name: str) -> str:
    """Return the accuracies by the number of images, of few or of many."""
    found = record(name)
    if not found["cells"]:
        return _not_yet(name)
    by = _by(found["cells"], "images", "head")
    rows = []
    for images in sorted({cell["images"] for cell in found["cells"]}):
        cells = [by.get((images, head)) for head in HEADS]
        shown = [f"{100 * fmean(cell['test']):.1f}" if cell else "-" for cell in cells]
        rows.append([f"{images:,}", *shown])
    table = as_markdown(("images of each class", *HEADS), rows, left=0)
    ends = _ends(found["cells"], [rate for rate, _ in found["design"]["settings"]])
    return f"{table}\n\n{_made(found, 'test accuracy in percent, means of 20 seeds', ends)}"


def transfer_answers(name: str, words: str) -> str:
    """Return the answers to what was asked of the numbers of images."""
    found = record(name)
    answers = found["answers"]
    if not answers:
        return "The questions asked beforehand are not answered yet."
    rows = [[f"{one['images']:,}", one["other"], points(one), _answer(one)] for one in answers]
    header = ("images of each class", "spinal minus", "points", "answer")
    design = found["design"]
    seeds, chosen = design["seeds"], design["tuning_seeds"]
    by = f"{chosen[0]} {'and' if len(chosen) == 2 else 'to'} {chosen[-1]}"
    return as_markdown(header, rows, left=4) + (
        f"\n\n95 % intervals over seeds {seeds[0]} to {seeds[-1]} and {design['test']:,} test "
        f"images; {words} settings of all heads chosen of the same {len(design['settings'])} on "
        f"validation by seeds {by}; without an answer: told, not asked."
    )


def _answer(one: Row) -> str:
    return f"**{one['verdict']}**" if one["verdict"] else ""  # else it was not asked


def transfer_folds() -> str:
    """Return the accuracies in repeated folds, and the answers."""
    found = record("transfer_folds")
    if not found["cells"]:
        return _not_yet("transfer_folds")
    by = {one["other"]: one for one in found["answers"]}
    rows = []
    for head in found["design"]["heads"]:
        own = [cell for cell in found["cells"] if cell["head"] == head]
        mean = f"{100 * fmean(value for cell in own for value in cell['test']):.2f}"
        one = by.get(head)
        rows.append([head, mean, points(one) if one else "", _answer(one) if one else ""])
    header = ("head", "accuracy, %", "spinal minus this, points", "answer")
    planned = len(found["design"]["heads"]) * len(found["design"]["repeats"])
    made = _made(
        found,
        f"{len(found['cells'])} of {planned} cells of five folds",
        "95 % intervals by the corrected resampled t over fifty folds, margin 1 point, Holm over "
        "the three",
    )
    return f"{as_markdown(header, rows, left=1)}\n\n{made}"


# --- whole networks -------------------------------------------------------------------------------


def _spread(cells: Iterable[Row], of: str = "test") -> str:
    """Return the mean accuracy of runs in percent, with its deviation."""
    values = [100 * cell[of][0] for cell in cells]
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _accuracies(
    cells: Iterable[Row], names: tuple[str, ...], costs: tuple[str, ...]
) -> list[list[str]]:
    """Return a row for each kind of run: names, mean and deviation, number of seeds, costs."""
    by: dict[tuple[Any, ...], list[Row]] = {}
    for cell in cells:
        by.setdefault(tuple(cell[name] for name in names), []).append(cell)
    rows = []
    for key, own in by.items():
        shown = [f"{own[0][name]:,}" for name in costs]
        rows.append([*map(str, key), _spread(own), f"{len(own)}", *shown])
    return rows


def _networks(name: str, names: tuple[str, ...], planned: Callable[[Row], int]) -> str:
    """Return the accuracies of a study of whole networks, and how many of its runs are made."""
    found = record(name)
    if not found["cells"]:
        return _not_yet(name)
    rows = _accuracies(found["cells"], names, ("head_params", "head_macs"))
    header = (*names, "accuracy, % (mean ± std)", "seeds", "params, head", "MACs, head")
    made = _made(found, f"{len(found['cells'])} of {planned(found['design'])} runs")
    return f"{as_markdown(header, rows, left=len(names))}\n\n{made}"


def wiring() -> str:
    """Return the accuracies of the heads on a small CNN."""
    return _networks(
        "wiring",
        ("data", "head"),
        lambda design: prod(len(design[name]) for name in ("data", "heads", "seeds")),
    )


def paper_networks() -> str:
    """Return the accuracies of the paper's networks for small grey images."""
    return _networks(
        "paper_networks",
        ("model", "data", "head"),
        lambda design: (
            len(design["seeds"])
            * len(design["heads"])
            * sum(len(task["data"]) for task in design["tasks"].values())
        ),
    )


def paper_networks_answers() -> str:
    """Return the answers to what was asked of the paper's networks."""
    answers = record("paper_networks")["answers"]
    if not answers:
        return "The questions asked beforehand are not answered yet: too few runs are made."
    rows = [
        [one["model"], one["data"], one["other"], points(one), f"**{one['verdict']}**"]
        for one in answers
    ]
    header = ("network", "data", "spinal minus", "points", "answer")
    return as_markdown(header, rows, left=5) + (
        "\n\n95 % intervals over seeds 400 to 402 and the test images; margin half a point, Holm "
        "over those of a network."
    )


def half_features() -> str:
    """Return the accuracies of heads on features in bf16 and in float32, and the answers."""
    found = record("half_features")
    if not found["answers"]:
        return _not_yet("half_features")
    by, engines = _by(found["cells"], "head", "engine"), found["design"]["engines"]
    rows = [
        [
            one["head"],
            *(f"{100 * fmean(by[one['head'], engine]['test']):.2f}" for engine in engines),
            points(one),
            f"**{one['verdict']}**",
        ]
        for one in found["answers"]
    ]
    header = ("head", "bf16, %", "float32, %", "bf16 minus float32, points", "answer")
    made = _made(
        found,
        f"{len(found['design']['seeds'])} seeds, 5,000 test images; 95 % intervals over both; "
        "margin half a point, Holm over the heads",
    )
    return f"{as_markdown(header, rows, left=1)}\n\n{made}"


def precision() -> str:
    """Return the accuracies of networks trained in bf16 and in float32, and the answers."""
    found = record("precision")
    if not found["cells"]:
        return _not_yet("precision")
    of = {(one["model"], one["data"]): one for one in found["answers"]}
    by: dict[tuple[str, str], dict[str, dict[int, Row]]] = {}
    for cell in found["cells"]:
        pairs = by.setdefault((cell["model"], cell["data"]), {})
        pairs.setdefault(cell["amp"], {})[cell["seed"]] = cell
    rows = []
    for (model, data), own in by.items():
        low, full = own.get("bf16", {}), own.get("off", {})
        seeds = sorted(low.keys() & full.keys())
        if not seeds:
            continue
        means = [fmean(100 * some[seed]["test"][0] for seed in seeds) for some in (low, full)]
        speed = median(full[s]["train_seconds"] / low[s]["train_seconds"] for s in seeds)
        answer = of.get((model, data))
        said = [points(answer), f"**{answer['verdict']}**"] if answer else ["", "not all runs made"]
        shown = [f"{mean:.2f}" for mean in means]
        rows.append([model, data, f"{len(seeds)}", *shown, *said, f"{speed:.2f}x"])
    planned = 2 * prod(len(found["design"][name]) for name in ("data", "models", "seeds"))
    header = (
        *("network", "data", "pairs", "bf16, %", "float32, %"),
        *("bf16 minus float32, points", "answer", "float32 takes"),
    )
    made = _made(
        found,
        f"{len(found['cells'])} of {planned} runs",
        "95 % intervals over seeds 300 to 304 and the test images; margin half a point, Holm over "
        "the data sets of a network",
    )
    return f"{as_markdown(header, rows, left=2)}\n\n{made}"


def wiring_answers() -> str:
    """Return the answers to what was asked of the wiring."""
    answers = record("wiring")["answers"]
    if not answers:
        return "The questions asked beforehand are not answered yet: too few runs are made."
    rows = [
        [one["data"], one["other"], points(one), f"**{one['verdict']}**" if one["verdict"] else ""]
        for one in answers
    ]
    return as_markdown(("data", "spinal minus", "points", "answer"), rows, left=4) + (
        "\n\n95 % intervals over seeds 100 to 109 and the test images; margin half a point, Holm "
        "over the three of a data set; without an answer: told, not asked."
    )


# --- the best numbers of the paper ----------------------------------------------------------------


def accuracy() -> str:
    """Return the accuracies of our own recipes."""
    found = record("accuracy")
    if not found["cells"]:
        return _not_yet("accuracy")
    rows = []
    for data, head in dict.fromkeys((cell["data"], cell["head"]) for cell in found["cells"]):
        own = [c for c in found["cells"] if (c["data"], c["head"]) == (data, head)]
        alone = _spread(own, "alone") if "alone" in own[0] else "-"
        seeds = ", ".join(f"{cell['seed']}" for cell in own)
        rows.append([data, head, _spread(own), alone, _spread(own, "val"), seeds])
    header = ("data", "head", "test, % (mean ± std)", "without the mirror image", "validation, %")
    table = as_markdown((*header, "seeds"), rows, left=2)
    design = found["design"]
    planned = prod(len(design[name]) for name in ("tasks", "heads", "seeds"))
    made = _made(found, f"{len(found['cells'])} of {planned} runs")
    figure = "![Accuracy of every run by head](../results/studies/accuracy.png)"
    return f"{table}\n\n{made}\n\n{figure}"


def accuracy_answers() -> str:
    """Return which best numbers of the paper are reached, and what the head has to do with it."""
    answers = record("accuracy")["answers"]
    if not answers:
        return "The questions asked beforehand are not answered yet: too few runs are made."
    rows = [
        [
            one["data"],
            f"{100 * one['best']:.2f}",
            f"{100 * one['means']['spinal']:.2f}: **{'' if one['reached'] else 'not '}reached**",
            f"{points(one)}: **{one['verdict']}**",
            *(f"{100 * one['together'][head]:.2f}" for head in ("spinal", "linear")),
        ]
        for one in answers
    ]
    header = ("data", "the paper's best, %", "spinal, %", "spinal minus linear, points")
    together = ("three spinal together, %", "three linear together, %")
    return as_markdown((*header, *together), rows, left=4) + (
        "\n\nMeans over seeds 500 to 502; 95 % intervals over seeds and test images; margin 0.1 "
        "points on MNIST, 0.25 on Fashion-MNIST. Networks together are told without a verdict."
    )


# --- tables, tuned --------------------------------------------------------------------------------


def tuned_tables() -> str:
    """Return the scores of tuned heads on every table."""
    found = record("tables")
    if not found["cells"]:
        return _not_yet("tables")
    by = _by(found["cells"], "table", "head")
    heads = [head for head in found["design"]["heads"] if any(h == head for _, h in by)]
    rows = []
    for table in found["design"]["tables"]:
        own = [by.get((table, head)) for head in heads]
        if any(own):
            rows.append(
                [table, *(f"{fmean(c['test']):.3f}" if c and c["test"] else "-" for c in own)]
            )
    planned = len(found["design"]["tables"]) * len(found["design"]["heads"])
    made = _made(
        found,
        f"{len(found['cells'])} of {planned} cells",
        "accuracy or R2 on test rows, means of five splits; -: not run, or it failed",
    )
    return f"{as_markdown(('table', *heads), rows, left=1)}\n\n{made}"


def tuned_tables_answers() -> str:
    """Return what tuned heads come to over all tables."""
    found = record("tables")
    answers, rope = found["answers"], found["design"]["rope"]
    if not answers:
        return "The questions asked beforehand are not answered yet: too few cells are made."
    by = {
        key: fmean(cell["test"])
        for key, cell in _by(found["cells"], "table", "head").items()
        if cell["test"]
    }
    # Where no head explains anything, all are equal, which says nothing of them. An accuracy is
    # never so low, and it needs the most common class beside it.
    empty = [
        table
        for table in found["design"]["tables"]
        if max(score for (own, _), score in by.items() if own == table) < 0.05
    ]
    rows = []
    for one in answers:
        gaps = {t: by[t, "spinal"] - by[t, head] for t, head in by if head == one["other"]}
        ahead, behind = (sum(sign * gap > rope for gap in gaps.values()) for sign in (1, -1))
        without = signed_rank([gap for table, gap in gaps.items() if table not in empty], rope)
        rows.append(
            [
                one["other"],
                f"{one['difference']:+.4f}",
                *(f"{one[name]:.3f}" for name in ("better", "equal", "worse")),
                f"**{one['verdict']}**" if one["verdict"] else "",
                f"{ahead} / {behind}",
                f"{without.better:.2f}, {without.equal:.2f}, {without.worse:.2f}",
            ]
        )
    header = ("spinal minus", "mean", "P(better)", f"P(within {rope:g})", "P(worse)", "answer")
    header = (*header, f"tables above {rope:g} / below", f"the three P without {len(empty)} tables")
    return as_markdown(header, rows, left=1) + (
        "\n\nBayesian signed-rank test over the 28 tables; an answer needs a probability of 0.95; "
        f"without an answer: told, not asked. On {len(empty)} of those with a number to predict, "
        f"{listed(empty)}, R2 of every head is below 0.05; without these the "
        "probabilities are those of the last column."
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "universality": universality,
    "universality-answers": universality_answers,
    "regression-errors": regression,
    "regression-answers": regression_answers,
    "regression-examples": regression_examples,
    "interactions-answers": partial(
        interactions_answers,
        "interactions",
        "seeds 0 to 19 (functions) and 0 to 9 (images), rates by seeds 1000 and 1001 on "
        "validation; Holm over the eight, margin 1 point",
    ),
    "interactions-kind": partial(interactions, "interactions", "kind"),
    "interactions-strength": partial(interactions, "interactions", "strength"),
    "interactions-shape": partial(interactions, "interactions", "slices", "depth"),
    "interactions-examples": partial(interactions, "interactions", "examples"),
    "interactions-images": partial(interactions, "interactions", "images"),
    "again-answers": partial(
        interactions_answers,
        "interactions_again",
        "seeds 100 to 119 (functions) and 100 to 109 (images), rates by seeds 1100 and 1101 on "
        "validation; Holm over the twelve, margin 1 point",
    ),
    "again-order": partial(orders, "interactions_again"),
    "again-overlap": partial(interactions, "interactions_again", "overlap", "links"),
    "again-colour": partial(interactions, "interactions_again", "colour", rates=True),
    "rates-answers": partial(
        interactions_answers,
        "interactions_rates",
        "seeds 200 to 219 (functions) and 200 to 209 (images), rates by seeds 1200 to 1209 "
        "(functions) and 1200 to 1204 (images) on validation; Holm over the five, margin 1 point",
    ),
    "rates-order": partial(orders, "interactions_rates"),
    "rates-colour": partial(interactions, "interactions_rates", "colour", rates=True),
    "frozen-rates": frozen_rates,
    "few-images": partial(transfer, "transfer"),
    "few-images-answers": partial(
        transfer_answers, "transfer", "margin 1 point, Holm over the nine;"
    ),
    "many-images": partial(transfer, "transfer_large"),
    "many-images-answers": partial(
        transfer_answers, "transfer_large", "margin half a point, Holm over the six;"
    ),
    "settings-anew": partial(transfer, "transfer_settings"),
    "settings-anew-answers": partial(
        transfer_answers, "transfer_settings", "margin half a point, Holm over the three;"
    ),
    "transfer-folds": transfer_folds,
    "wiring": wiring,
    "wiring-answers": wiring_answers,
    "paper-networks": paper_networks,
    "paper-networks-answers": paper_networks_answers,
    "half-features": half_features,
    "precision": precision,
    "tuned-tables": tuned_tables,
    "tuned-tables-answers": tuned_tables_answers,
    "accuracy": accuracy,
    "accuracy-answers": accuracy_answers,
}
