"""TODO(paper.records): split from reproduce."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal, get_args

from spinalnet import files as files_module
from spinalnet.comparison import spec as spec_module
from spinalnet.comparison.summary import summarize
from spinalnet.data import readers
from spinalnet.data.catalog import DATASETS
from spinalnet.paper.recipes import RECIPES, Recipe, find_recipes
from spinalnet.training import loop, runs

if TYPE_CHECKING:
    from spinalnet.paper.protocol import RecipeRequest


Protocol = Literal["honest", "paper"]
Budget = Literal["smoke", "short", "full"]


_REGRESSION_STUDY = tuple(r.name for r in find_recipes("regression"))
_NOISE_VARIANCE = 0.2**2 / 12  # of the noise 0.2 U that is added to every target


def _command(job: RecipeRequest) -> str:
    return (
        f"spinalnet reproduce {job.recipe.name} --protocol {job.protocol} --seeds {job.seeds} "
        f"--budget {job.budget}"
    )


class _LastBatches:
    """Keeps what the regression script prints: the training loss of an epoch's last mini-batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sums = (0.0, 0.0)  # of the epoch, before and after the present step

    def __call__(self, spec: spec_module.RunSpec, step: loop.Progress) -> None:
        total = DATASETS[spec.data.name].sizes[0]
        seen = min(step.step * spec.train.batch_size, total)
        if step.phase == "train" and step.loss is not None:
            before = 0.0 if step.step == 1 else self.sums[1]
            self.sums = (before, step.loss * seen)
        elif step.phase == "epoch":
            last = total % spec.train.batch_size or spec.train.batch_size
            losses = self.read(spec.name) | {str(step.epoch): (self.sums[1] - self.sums[0]) / last}
            files_module.write_mapping(self._file(spec.name), losses)

    def _file(self, run: str) -> Path:
        return self.folder / "last_batches" / f"{run}.json"

    def read(self, run: str) -> dict[str, float]:
        """Return the losses of a run so far, by epoch."""
        file = self._file(run)
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _record(job: RecipeRequest, folder: Path) -> dict[str, Any]:
    """Return what is worth keeping of a finished recipe: no weights, no logs, no paths."""
    records = [record for record in runs.load_runs(folder / "runs") if record.result]
    results = [record.result for record in records if record.result]
    extras: dict[str, Any] = {}
    for head in dict.fromkeys(str(result["head"]) for result in results):
        own = [result for result in results if result["head"] == head]
        extras[head] = {"best_epochs": [result["best_epoch"] for result in own]}
        if "train" in own[0]:
            extras[head]["train_mse"] = [result["train"]["mse"] for result in own]
            extras[head]["test_r2"] = [result["test"]["r2"] for result in own]
        losses = [
            _LastBatches(folder).read(record.path.name)
            for record in records
            if record.result and record.result["head"] == head
        ]
        if all(losses):
            extras[head]["last_batch_minimum"] = [min(by_epoch.values()) for by_epoch in losses]
    config = job.config()
    return {
        "recipe": job.recipe.name,
        "protocol": job.protocol,
        "budget": job.budget,
        "epochs": config.epochs,
        "of_epochs": job.recipe.train.epochs,
        "train_size": results[0]["train_size"],
        "of_train_size": DATASETS[job.recipe.data].sizes[0],
        "hours": sum(result["train_seconds"] for result in results) / 3600,
        "heads": extras,
        "summary": summarize(folder).as_dict(),
    }


def load_records(
    folder: str | Path = "results/recipes", files: str = "*.json"
) -> list[dict[str, Any]]:
    """Return the records in a folder, by recipe in the order of `RECIPES`, protocol and budget."""
    order = list(RECIPES)
    paths = sorted(Path(folder).glob(files))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return sorted(
        records, key=lambda r: (order.index(r["recipe"]), r["protocol"] != "paper", r["budget"])
    )


def keep_record(folder: str | Path, results: str | Path) -> Path:
    """Copy the record of a recipe's folder to the folder of results; return the new file."""
    target = Path(results) / f"{Path(folder).name}.json"
    files_module.write_text(target, (Path(folder) / "recipe.json").read_text(encoding="utf-8"))
    return target


def draw_regression_study(records: Iterable[Mapping[str, Any]], path: str | Path) -> Path | None:
    """Draw the honest records of the regression recipes side by side, as a PNG file.

    Returns:
        The file, or None if no such record is there.
    """
    from io import BytesIO

    from spinalnet.theory.drawings import draw_regression

    panels = {
        str(record["recipe"]).removeprefix("regression-"): {
            head["head"]: head["mse_values"] for head in record["summary"]["heads"]
        }
        for record in records
        if record["protocol"] == "honest"
        and record["budget"] != "smoke"
        and record["recipe"] in _REGRESSION_STUDY
    }
    if not panels:
        return None
    image = BytesIO()
    draw_regression(panels, _NOISE_VARIANCE).savefig(image, format="png", dpi=110)
    files_module.write_bytes(path, image.getvalue())
    return Path(path)


def status(recipe: Recipe, records: Iterable[Mapping[str, Any]], data_dir: str | None) -> str:
    """Say in a few words whether a recipe has been run, can be run, or what it needs."""
    done = [r for r in records if r["recipe"] == recipe.name and r["budget"] != "smoke"]
    if done:
        return "done: " + ", ".join(f"{r['protocol']} ({r['budget']})" for r in done)
    if recipe.is_demonstration:
        return "demonstration: smoke only"
    if not readers.is_present(DATASETS[recipe.data], data_dir):
        return f"missing data: {recipe.data}"
    if recipe.gpu_hours >= 0.1:
        return f"ready; needs about {recipe.gpu_hours:.1f} GPU-hours a run"
    return "ready"


def describe_recipes(
    results: str | Path = "results/recipes", data_dir: str | None = None
) -> list[dict[str, Any]]:
    """Return one row per recipe: what it is, where it comes from, its status."""
    records = load_records(results)
    return [
        {
            "name": recipe.name,
            "data": recipe.data,
            "model": recipe.model,
            "heads": list(recipe.heads),
            "original_heads": list(recipe.original_heads or recipe.heads),
            "epochs": recipe.train.epochs,
            "batch_size": recipe.train.batch_size,
            "protocol": recipe.protocol,
            "sources": list(recipe.sources),
            "printed": [
                {"what": p.what, "value": p.value, "where": p.where} for p in recipe.printed
            ],
            "defects": list(recipe.defects),
            "gpu_hours": round(recipe.gpu_hours, 2),
            "status": status(recipe, records, data_dir),
        }
        for recipe in RECIPES.values()
    ]


def experiments_page(results: str | Path = "results/recipes") -> str:
    """Return the Markdown page of all recipes, from the records in `results` alone."""
    kept = load_records(results)
    records = [record for record in kept if record["budget"] != "smoke"]
    tried = [record for record in kept if record["budget"] == "smoke"]
    run = [name for name in RECIPES if any(r["recipe"] == name for r in records)]
    lines = [
        "# Experiments",
        "",
        "Generated by `spinalnet recipes --page docs/experiments.md` from the records in "
        "`results/recipes/`; do not edit. What each recipe is stands in `spinalnet recipes`; what "
        "we do otherwise than the original, and why, in [paper-vs-code.md](paper-vs-code.md).",
        "",
        '"Paper protocol" is the original\'s procedure: where it let the test data choose, the '
        'column says so ("selected on test"), and the number is optimistic. "Honest" chooses on '
        "validation data and tests once. Values are mean ± standard deviation over seeds; "
        "accuracies in per cent. A short budget is a stated part of the original's length and "
        "not its result.",
        "",
        f"{len(run)} of {len(RECIPES)} recipes have been run.",
        "",
        "| recipe | head | printed | paper protocol | honest |",
        "|---|---|---|---|---|",
        *(row for name in run for row in _overview(RECIPES[name], records)),
        "",
    ]
    for name in run:
        lines += _section(RECIPES[name], [r for r in records if r["recipe"] == name])
    if (Path(results) / "regression.png").exists():
        lines += [
            "## The regression study in one figure",
            "",
            "`spinalnet reproduce regression --seeds 10 --keep results/recipes` draws it from the "
            "honest runs.",
            "",
            "![mean squared error of each head on four targets](../results/recipes/regression.png)",
            "",
        ]
    if tried:
        lines += _tried_out(tried)
    lines += [
        "## Not run yet",
        "",
        "GPU-hours are those of one head and one seed at 10 TFLOP/s, from the number of MACs.",
        "",
        "| recipe | data | GPU-hours a run, about | printed |",
        "|---|---|---:|---|",
    ]
    for recipe in RECIPES.values():
        if recipe.name not in run:
            printed = "; ".join(_number(p.value) for p in recipe.printed) or "–"
            hours = "below 0.01" if recipe.gpu_hours < 0.01 else f"{recipe.gpu_hours:.2g}"
            lines.append(f"| {recipe.name} | {recipe.data} | {hours} | {printed} |")
    return "\n".join(lines) + "\n"


def _tried_out(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the part of the page on smoke runs, without their numbers, which mean nothing."""
    lines = [
        "## Tried out on random data",
        "",
        "`spinalnet reproduce NAME --budget smoke`: every head of the recipe, two steps on random "
        "data of the right shape (with small stand-ins for networks too large for that), through "
        "training, validation and test. It shows that the recipe runs; what came out means nothing "
        "and is not shown. The test suite does the same for every recipe.",
        "",
        "| recipe | protocol | heads (parameters) | torch | commit |",
        "|---|---|---|---|---|",
    ]
    for record in records:
        summary = record["summary"]
        heads = ", ".join(f"{row['head']} ({row['params']:,})" for row in summary["heads"])
        environment = summary["environment"]
        lines.append(
            f"| {record['recipe']} | {record['protocol']} | {heads} | {environment.get('torch')} "
            f"| {_short_commit(environment.get('commit'))} |"
        )
    return [*lines, ""]


def _overview(recipe: Recipe, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one row per head: what was printed, and the longest run of each protocol."""
    best = {
        protocol: next(
            (
                r
                for budget in ("full", "short")
                for r in records
                if (r["recipe"], r["protocol"], r["budget"]) == (recipe.name, protocol, budget)
            ),
            None,
        )
        for protocol in get_args(Protocol)
    }
    heads = dict.fromkeys(
        head["head"] for record in best.values() if record for head in record["summary"]["heads"]
    )
    rows = []
    for head in heads:
        printed = "; ".join(
            _number(p.value) for p in recipe.printed if p.what.startswith(f"{head}:")
        )
        cells = [recipe.name, head, printed or "–"]
        cells += [_cell(best[protocol], head) for protocol in ("paper", "honest")]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _cell(record: Mapping[str, Any] | None, head: str) -> str:
    """Return one head's result in a record, with whatever qualifies it."""
    if record is None:
        return "–"
    summary = record["summary"]
    own = next((row for row in summary["heads"] if row["head"] == head), None)
    if own is None:
        return "–"
    if minima := record["heads"].get(head, {}).get("last_batch_minimum"):
        return f"{_spread(minima)} (last mini-batch of training, n={len(minima)})"
    values = [value for value in own[_values(summary)] if value is not None]
    text = f"{_spread(values, summary['metric'])} (n={len(values)}"
    if summary["selected_on"] != "validation":
        text += f", selected on {summary['selected_on']}"
    if record["budget"] != "full":
        text += f", {record['budget']}"
    return text + ")"


def _values(summary: Mapping[str, Any]) -> str:
    return "accuracies" if summary["metric"] == "accuracy" else f"{summary['metric']}_values"


def _spread(values: Sequence[float], metric: str = "mse") -> str:
    scale, digits = (100, ".2f") if metric == "accuracy" else (1, ".3g")
    spread = f" ± {scale * stdev(values):{digits}}" if len(values) > 1 else ""
    return f"{scale * fmean(values):{digits}}{spread}"


def _number(value: float) -> str:
    """Print what the original printed; its accuracies, as ours, in per cent."""
    return f"{100 * value:.2f}" if 0.5 < value < 1 else f"{value:g}"


def _section(recipe: Recipe, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the part of the page on one recipe."""
    lines = [f"## {recipe.name}", ""]
    lines += [f"{recipe.data}, {recipe.model}. From: {', '.join(recipe.sources)}.", ""]
    lines += [f"- printed: {p.what}: {_number(p.value)} ({p.where})" for p in recipe.printed]
    if recipe.defects:
        lines.append(f"- see {', '.join(recipe.defects)} in paper-vs-code.md")
    for record in records:
        lines += ["", *_result(recipe, record)]
    return [*lines, ""]


def _result(recipe: Recipe, record: Mapping[str, Any]) -> list[str]:
    summary = record["summary"]
    environment = summary["environment"]
    selected = summary["selected_on"]
    words = "selected on test" if selected == "test" else f"selected on {selected} data"
    title = f"{record['protocol']} protocol, {words}"
    if record["budget"] != "full":
        title += f", {record['budget']} budget"
    metric = "test accuracy, %" if summary["metric"] == "accuracy" else "test mse"
    has_train = any("train_mse" in extra for extra in record["heads"].values())
    has_last = any("last_batch_minimum" in extra for extra in record["heads"].values())
    columns = ["head", "params", "head MACs", metric]
    columns += ["test R²", "train mse"] * has_train
    columns += ["minimum of last mini-batches"] * has_last
    columns += [f"{summary['heads'][0]['head']} minus this (95 % interval)"]
    lines = [
        f"### {title.capitalize()}",
        "",
        f"{record['epochs']} of {record['of_epochs']} epochs, {record['train_size']:,} of "
        f"{record['of_train_size']:,} training examples, {len(summary['seeds'])} seeds, "
        f"{record['hours']:.2g} hours of training on "
        f"{environment.get('cuda_device') or environment.get('cpu')}, "
        f"{environment.get('threads')} thread(s), torch {environment.get('torch')}, commit "
        f"{_short_commit(environment.get('commit'))}.",
        "",
        f"`{summary['command']}`",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]
    for head in summary["heads"]:
        extra = record["heads"].get(head["head"], {})
        values = [value for value in head[_values(summary)] if value is not None]
        cells = [head["head"], f"{head['params']:,}", f"{head['head_macs']:,}"]
        cells.append(_spread(values, summary["metric"]))
        if has_train:
            cells += [_spread(extra["test_r2"]), _spread(extra["train_mse"])]
        minima = extra.get("last_batch_minimum")
        cells += [_spread(minima) if minima else "–"] * has_last
        cells.append(_interval(head["difference"], summary["metric"]))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {note}" for note in summary["notes"])]
    return lines


def _short_commit(commit: str | Sequence[str] | None) -> str:
    if commit is None:
        return "unknown"
    return commit[:10] if isinstance(commit, str) else " and ".join(one[:10] for one in commit)


def _interval(difference: Mapping[str, Any] | None, metric: str) -> str:
    if difference is None or difference["mean"] is None:
        return "–"
    scale, digits = (100, ".2f") if metric == "accuracy" else (1, ".2g")
    mean, low, high = (difference[key] for key in ("mean", "low", "high"))
    if low is None:
        return f"{scale * mean:{digits}} (no interval)"
    return (
        f"{scale * mean:{digits}} ({scale * low:{digits}} to {scale * high:{digits}}): "
        f"{difference['verdict']}"
    )
