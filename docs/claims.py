"""The claims of the paper and of the original's README, each beside what the results say.

`tables.py` puts what is made here into `docs/claims.md`. A verdict follows from the numbers of the
committed result files by the rule beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import exp, sqrt
from statistics import fmean, median

import compared
import study_blocks
from study_blocks import load
from torch import nn

from spinalnet.bench.heads import HEAD_CASES
from spinalnet.comparison.wording import as_markdown
from spinalnet.nn import SpinalNet
from spinalnet.paper.recipes import RECIPES, Recipe

CONFIRMED, NOT_CONFIRMED, NOT_TESTABLE = "confirmed", "not confirmed", "not testable here"


def _higher(claim: str, others: Sequence[str]) -> tuple[str, str]:
    """Answer a claim of higher accuracy, and count what the comparisons say that were asked.

    The abstract claims it of most networks: it is confirmed if the spinal head is better in more
    than half of the comparisons and worse in none.
    """
    found = compared.of(claim, others)
    codes = [one.minus[other].code for one, other in found]
    holds = 2 * codes.count("better") > len(codes) and "worse" not in codes
    counts = []
    for other in others:
        ours = [one for one, of in found if of == other]
        counts.append(f"minus {other}, in {len(ours)} comparisons: {compared.counted(ours, other)}")
    seen = len(compared.of(claim, others, asked=False))
    numbers = f"{'; '.join(counts)} ([one by one](#comparison-by-comparison), beside {seen} more "
    return CONFIRMED if holds else NOT_CONFIRMED, f"{numbers}that were not asked beforehand)"


def comparisons() -> str:
    """Return what the two claims of higher accuracy are judged by, and what was only seen."""
    rows = []
    for asked in (True, False):
        for claim, others in HIGHER.items():
            for one, other in compared.of(claim, others, asked=asked):
                found = one.minus[other]
                said = f"**{found.code}**" if asked else "not asked"
                rows.append([claim, one.words(), other, found.points(), said])
    header = ("claim", "data and network", "spinal minus", "points", "answer")
    return as_markdown(header, rows, left=5)


HIGHER = {  # claim: what the spinal head is compared with
    "accuracy": ("mlp",),  # the fully connected layers that it replaces
    "transfer": ("linear", "mlp"),  # what pre-trained networks end with, and the same
}


def accuracy() -> tuple[str, str]:
    """Higher accuracy than the fully connected layers it replaces."""
    return _higher("accuracy", HIGHER["accuracy"])


def transfer() -> tuple[str, str]:
    """Better on the features of a pre-trained network than what such a network ends with."""
    return _higher("transfer", HIGHER["transfer"])


def size() -> tuple[str, str]:
    """Fewer parameters and multiplications."""
    rows = load("benchmarks/results/heads.json")["rows"]
    ratios = {row["head"]: row["mac_ratio"] for row in rows}
    hidden = {head: ratio for head, ratio in ratios.items() if "one Linear" not in head}
    alone = [ratio for head, ratio in ratios.items() if "one Linear" in head]
    params = {
        case.name: _params(case.spinal()) / _params(case.fully_connected()) for case in HEAD_CASES
    }
    fewer = [head for head, ratio in hidden.items() if ratio < 1 and params[head] < 1]
    parts = ", ".join(f"{head} {macs:.2f} and {params[head]:.2f}" for head, macs in hidden.items())
    numbers = (
        f"multiplications and parameters, as parts of those of the layers replaced: {parts}; of a "
        f"single linear layer, with which most pre-trained networks end: {max(alone):.1f} and "
        f"{max(params[head] for head in ratios.keys() - hidden.keys()):.1f}"
    )
    if len(fewer) == len(ratios):
        return CONFIRMED, numbers
    return f"confirmed of {len(fewer)} of {len(ratios)} of its pairs, not as a rule", numbers


def _params(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def time_() -> tuple[str, str]:
    """Less time, of the heads that have fewer multiplications."""
    rows = [
        row
        for row in load("benchmarks/results/heads.json")["rows"]
        if row["batch"] == 64 and row["mac_ratio"] < 1
    ]
    fits, unlike = (  # an MLP of two hidden layers has no compiled steps
        [
            row["of_mlp"]
            for row in load("benchmarks/results/heads-fit.json")["rows"]
            if row["batch"] == 64 and row["mac_ratio"] < 1 and len(set(row["ways"])) == ways
        ]
        for ways in (1, 2)
    )
    loop = [
        row["microseconds"]["naive"] / row["microseconds"]["mlp"]
        for row in rows
        if row["mode"] == "inference"
    ]
    ours, plain = (
        [row["over_mlp"] for row in rows if row["mode"] == mode]
        for mode in ("inference", "training")
    )
    numbers = (
        f"of the {len(ours)} heads with fewer multiplications, at batch 64 on one thread, as parts "
        f"of the time of the layers replaced: the paper's loop {_range(loop)}, our compiled head "
        f"{_range(ours)}, its training by `fit` {_range(fits)} where both are trained in the same "
        f"way ({_range(unlike)} where the MLP is trained batch by batch), in a loop of one's own "
        f"{_range(plain)}"
    )

    def said(ratios: list[float]) -> str:
        return CONFIRMED if max(ratios) < 1 else NOT_CONFIRMED

    verdict = (
        f"{said(loop)} of the published form; of ours {said(ours)} in inference, {said(fits)} in "
        f"training by `fit`, {said(plain)} in a loop of one's own"
    )
    return verdict, numbers


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def gradients() -> tuple[str, str]:
    """No vanishing gradient."""
    found = load("results/studies/gradients.json")["answers"]
    worst = min(found["smallest_at_start"].values())
    flat = next(
        p for p in found["pairs"] if p["second"][0] == "unchained" and p["first"][0] == "spinal"
    )
    numbers = (
        f"smallest gradient of a layer of 100 at the start: {worst:.2f} of the largest; but a net "
        f"without the chain has the same, and at 50 layers spinal minus unchained is "
        f"{100 * flat['difference']:+.1f} points: {flat['verdict']}"
    )
    return (CONFIRMED if worst >= 0.1 else NOT_CONFIRMED) + " as printed", numbers


def universal() -> tuple[str, str]:
    """A spinal net of large depth approximates any continuous function."""
    found = load("results/theory/errors.json")
    rows = [e for e in found["errors"] if e["width"] == 16]
    middle = {row["layers"]: median(row["rms_errors"]) for row in rows}
    depths = sorted(middle)
    falls = all(middle[b] < middle[a] for a, b in itertools.pairwise(depths))
    numbers = (
        "proven by conversion of nets with one hidden layer ([theory.md](theory.md)); by "
        f"construction: RMS error on `{found['target']}` {middle[depths[0]]:.2f} with "
        f"{depths[0]} layers of 16, {middle[depths[-1]]:.3f} with {depths[-1]}"
    )
    found = study_blocks.record("interactions")["cells"]
    cells = {(row["group"], row["task"], row["net"]): row for row in found}
    if cells:
        chance = cells["kind", "2 across", "unchained"]["test"]
        spinal = cells["kind", "2 across", "spinal"]["test"]
        numbers += (
            f"; it needs the chain: a product across slices is learnt to "
            f"{100 * fmean(spinal):.1f} % with it and to {100 * fmean(chance):.1f} % (chance) "
            "without"
        )
    return (CONFIRMED if falls else NOT_CONFIRMED), numbers + _trained()


def _trained() -> str:
    """Return what was asked of trained nets: error as a part of another's, by function."""
    found = study_blocks.record("universality")["answers"]
    if not found:
        return ""
    deep, flat = (_params(SpinalNet(2, 1, 8, layers)) for layers in (32, 4))
    words = {
        "32 layers against 4": f"4 layers (a {deep / flat:.0f}th of the parameters)",
        "trained against constructed": "the constructed ones",
        "spinal against one hidden layer": "one hidden layer of as many parameters",
    }
    told = []
    for asked, other in words.items():
        each = ", ".join(
            f"{study_blocks.function_name(a)} {exp(-a['difference']):.2f} ({a['verdict']})"
            for a in found
            if a["asked"] == asked
        )
        told.append(f"of {other}: {each}")
    return f"; by training: error of 32 layers of 8 as a part of that {'; '.join(told)}"


def conversion() -> tuple[str, str]:
    """Any hidden layer can be turned into a spinal one."""
    found = load("results/theory/trade-off.json")
    difference = found["largest_difference"]
    holds = difference < 1e-4 and found["dense"] == found["converted"]
    return f"{CONFIRMED if holds else NOT_CONFIRMED} on a box", (
        f"a trained net of {found['dense_macs']:,} multiplications, converted: logits differ by "
        f"{difference:.1e} at most, accuracy {100 * found['converted']:.2f} % before and after, "
        f"{found['converted_macs']:,} multiplications. Exact to rounding for relu and its kind, to "
        "second order in a small number for sigmoid and tanh, with a bound that random nets are "
        "held to (`tests/test_conversion.py`); outside the box the function differs "
        "([theory.md](theory.md))"
    )


def regression() -> tuple[str, str]:
    """Table I: a lower error than the dense net on four functions, with 1,000 examples."""
    answers = study_blocks.record("regression")["answers"]
    asked = [one for one in answers if one["examples"] == 1_000]
    found = [one for one in asked if one["other"] == "mlp"]
    simpler = [
        f"{one['other']} ({one['function']})"
        for one in asked
        if one["other"] != "mlp" and one["verdict"] == "worse"
    ]
    lower = sum(one["verdict"] == "better" for one in found)
    said = "; ".join(
        f"{one['function']} {exp(-one['difference']):.2f} ({one['verdict']})" for one in found
    )
    numbers = (
        f"error on fresh points with the paper's 1,000 examples, spinal / mlp: {said}"
        f"{'; better than spinal: ' * bool(simpler)}{', '.join(simpler)}. The table "
        "has the smallest loss of a last mini-batch of 40 training examples (A4)"
    )
    if lower == len(found):
        return CONFIRMED, numbers
    # The paper's claim is of all four, and so was the rule before there were these numbers.
    return f"{NOT_CONFIRMED} of all four; better on {lower} of them", numbers


CLAIMS = (
    ("higher accuracy in trained networks", "abstract", accuracy, "[results.md](results.md)"),
    ("fewer parameters and multiplications", "abstract", size, "`python benchmarks/heads.py`"),
    (
        "less computation, so less time",
        "abstract",
        time_,
        "`python benchmarks/heads.py` (heads.json, heads-fit.json); all rows: [speed.md](speed.md)",
    ),
    (
        "the vanishing gradient problem does not exist",
        "abstract, section II",
        gradients,
        "`python studies/gradients.py`",
    ),
    (
        "universal approximation",
        "section II, README",
        universal,
        "`spinalnet theory approximate`, `python studies/interactions.py`, "
        "`python studies/universality.py`",
    ),
    (
        "any hidden layer becomes a spinal one",
        "README",
        conversion,
        "`spinalnet theory convert RUN`",
    ),
    (
        "lower regression error",
        "Table I, README",
        regression,
        "`python studies/regression.py`; all: [results.md](results.md)",
    ),
    (
        "better in transfer learning",
        "abstract",
        transfer,
        "[results.md](results.md), [transfer.md](transfer.md), `python studies/transfer.py`, "
        "`transfer_large.py`, `transfer_folds.py`",
    ),
)

RECORDS = {  # data of the README's line "SOTA": the recipe that the number belongs to
    "KMNIST": "kmnist-vgg5",
    "QMNIST": "qmnist-vgg5",
    "EMNIST digits": "emnist-digits-vgg5",
    "EMNIST letters": "emnist-letters-vgg5",
    "EMNIST balanced": "emnist-balanced-vgg5",
    "STL-10": "notebook-stl10",
    "Bird-225": "transfer-bird225",
    "Caltech-101": "notebook-caltech101",
    "Fruits-360": "transfer-fruits360",
}


def claims() -> str:
    """Return all claims with their verdicts; none is without one."""
    rows = []
    for claim, where, answer, shown in CLAIMS:
        verdict, numbers = answer()
        rows.append([claim, where, f"**{verdict}**", numbers, shown])
    return as_markdown(("claim", "where", "verdict", "numbers", "by"), rows, left=5)


def records() -> str:
    """Return the lines of the README that call a result the best known."""
    rows = []
    for words, name in RECORDS.items():
        recipe = RECIPES[name]
        printed = [f"{100 * p.value:.2f}" for p in recipe.printed if _of_spinal(p.what)]
        command = f"`spinalnet reproduce {name} --protocol paper`"
        shown = " / ".join(printed) or "no number in the code"
        rows.append(
            [words, f"**{NOT_TESTABLE}**", shown, recipe.selection, command, _hours(recipe)]
        )
    header = ("best known on", "verdict", "printed, %", "chosen by", "command", "GPU hours")
    return as_markdown(header, rows, left=6)


def _of_spinal(what: str) -> bool:
    return what.startswith(("spinal:", "VGG19_bn, spinal:"))


def _hours(recipe: Recipe) -> str:
    return f"{recipe.gpu_hours:.1f}"


TEST_IMAGES = {  # of the part that the number is of
    "emnist-letters": 20_800,
    "emnist-balanced": 18_800,
    "bird-225": 1_125,
    "cifar10": 10_000,
    "svhn": 26_032,
    "cifar100": 10_000,
    "cinic-10": 90_000,
    "caltech-101": 1_695,
    "flowers-102": 818,
    "stl10": 8_000,
    "stanford-cars": 8_041,
    "monkeys": 272,
    "fashion-mnist": 10_000,
    "mnist": 10_000,
}


def fits(value: float, examples: int) -> int | None:
    """Return how many right examples print as `value`, None if no number of them does."""
    digits = len(f"{value:.10f}".rstrip("0").split(".")[1])
    right = round(value * examples)
    # A hair more than half a digit: 0.98225 may be printed as 0.9822 or 0.9823.
    return right if abs(right / examples - value) <= 0.5001 * 10.0**-digits else None


def printed_numbers() -> str:
    """Return whether printed accuracies can come of their test parts, and pairs in images."""
    rows = []
    for recipe in RECIPES.values():
        examples = TEST_IMAGES.get(recipe.data)
        # Of another data set than the recipe's, and of sizes, nothing can be counted.
        own = [p for p in recipe.printed if 0.5 < p.value <= 1 and not p.what.startswith("CIFAR")]
        if examples is None or not own:
            continue
        counts = [(p, fits(p.value, examples)) for p in own]
        cells = "; ".join(
            f"{p.what.split(': ')[0]} {100 * p.value:.6g} "
            + (f"({n:,} right)" if n is not None else "(**no such number**)")
            for p, n in counts
        )
        rows.append([recipe.name, f"{examples:,}", cells])
    return as_markdown(("recipe", "images", "printed, %, and how many right that is"), rows, left=3)


CHART = {  # the supplement's bars, %: SpinalNet's best, the best known in June 2020; test images
    "KMNIST": (99.15, 99.05, 10_000),
    "QMNIST": (99.7, 99.7, 60_000),
    "EMNIST digits": (99.8, 97.75, 40_000),
    "EMNIST letters": (95.9, 95.4, 20_800),
    "EMNIST balanced": (91.05, 90.5, 18_800),
    "STL-10": (98.7, 97.9, 8_000),
    "Bird-225": (99.6, 99.1, 1_125),
    "Caltech-101": (97.3, 91.0, 1_695),
    "Fruits-360": (100.0, 100.0, None),  # how many it had then is not known
    "MNIST": (99.7, 99.8, 10_000),
    "Fashion-MNIST": (94.7, 96.4, 10_000),
    "CIFAR-10": (98.1, 99.0, 10_000),
    "CIFAR-100": (88.3, 93.5, 10_000),
    "SVHN": (97.9, 99.0, 26_032),
    "CINIC-10": (93.6, 94.8, 90_000),
    "Oxford Flowers-102": (99.3, 99.6, 818),
    "Stanford Cars": (93.35, 96.2, 8_041),
}
READING = 0.1  # points by which a bar may have been misread


def chance_of_images(accuracies: Sequence[float], examples: int) -> float:
    """Return the standard error of a difference of two accuracies by their test images alone.

    Args:
        accuracies: Of two networks, as parts of 1, as if measured on images of their own: of the
            same images it would take the answers of both to tell.
        examples: Of either test part.
    """
    return sqrt(sum(a * (1 - a) for a in accuracies) / examples)


def chart_says(best: float, known: float, examples: int | None) -> tuple[str, float | None]:
    """Return what a pair of bars says of a lead, and its standard error in points."""
    error = examples and 100 * chance_of_images((best / 100, known / 100), examples)
    sure = abs(best - known) - 2 * READING  # whatever the reader's eye did to both bars
    if sure < 1e-9:
        return "no difference to be read", error
    if error is not None and sure <= 1.96 * error:
        return "within reading and chance", error
    return ("ahead" if best > known else "behind"), error


def chart() -> str:
    """Return the supplement's own bars, and which of their leads are more than chance."""
    rows = []
    for words, (best, known, examples) in CHART.items():
        answer, error = chart_says(best, known, examples)
        rows.append(
            [
                words,
                "yes" if words in RECORDS else "no",
                f"{best:g}",
                f"{known:g}",
                f"{best - known:+.2f}",
                "not known" if error is None else f"{error:.2f}",
                answer,
            ]
        )
    header = ("data", "called the best known", "SpinalNet, %", "others, %", "lead, points")
    return as_markdown((*header, "standard error, points", "what the bars say"), rows, left=2)


BLOCKS = {
    "claims": claims,
    "claims-comparisons": comparisons,
    "claims-records": records,
    "claims-printed": printed_numbers,
    "claims-chart": chart,
}
