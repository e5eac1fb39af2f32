"""Every sentence of the README that claims a number carries the one of a committed result."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import compared
import pytest

from spinalnet.bench.heads import TRAINING_SLACK, keeps_promise

ROOT = Path(__file__).parents[1]
WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WORDS += ("eleven", "twelve")
NUMBER = re.compile(rf"\b(?:\d[\d,.]*\d|\d|{'|'.join(WORDS[2:])})\b", re.IGNORECASE)

# Numbers that nobody measured: of the interface, of the text itself, of what is usual.
DEFINED = (
    "Python 3.11 or later",
    "The answer is one of five",
    "95 % intervals",
    "Three ways in",
    "Input in two slices, six narrow layers",
    "estimators that average eight nets",
    "Ten programs to copy",
    "JPEG copies of CIFAR-10's images",  # a name
    "320 / 8x6 vs 50 is a chain of six layers of 8 on 320 features in place of a hidden layer "
    "of 50",
    "less than 1 means fewer",
    "*l − 1*",
)


def load(name: str) -> dict[str, Any]:
    """Return a committed file of results."""
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def first_comparison() -> str:
    """How long the first command takes."""
    found = load("benchmarks/results/whole.json")
    minutes = found["medians"]["25 runs, as by default"]["this"]["whole"] / 60
    cores = found["environment"]["cores"]
    assert minutes < 2
    return f"compares on handwritten digits (under two minutes on {WORDS[cores]} cores)"


def times_the_parameters() -> str:
    """Of how many times the parameters of the spinal head the paper's layer is."""
    ratios = [one.larger for one in compared.on_images() if one.larger]
    least, most = (WORDS[round(value)] for value in (min(ratios), max(ratios)))
    return f"*mlp* the paper's own layer, of {least} to {most} times as many"


def asked_of_images() -> str:
    """What the margin of *equal* is, and how far the choice of a rate has moved a difference."""
    named = {one.margin: "(margin" in one.words() for one in compared.on_images()}
    assert [margin for margin, said in named.items() if not said] == [0.005]
    first, second = (
        row["difference"]
        for name in ("interactions_again", "interactions_rates")
        for row in load(f"results/studies/{name}.json")["answers"]
        if (row["group"], row["task"], row["other"]) == ("colour", "pixels", "unchained")
    )
    assert first - second > 0.01
    return (
        "*Equal* is within half a point, or the margin named. Answers are corrected for the number "
        "of questions, intervals are not; where a setting was chosen once for all seeds, none "
        "counts that choice, which [once] moved a difference by more than a point"
    )


def what_the_chain_is_for() -> str:
    """Interactions across slices, with and without the chain; and images."""
    found = load("results/studies/interactions.json")
    with_chain, without = (
        fmean(
            value
            for cell in found["cells"]
            if (cell["task"], cell["net"]) == ("2 across", net)
            for value in cell["test"]
        )
        for net in ("spinal", "unchained")
    )
    assert abs(without - 0.5) < 0.005
    hidden, three = (
        {
            cell["net"]: fmean(cell["test"])
            for cell in found["cells"]
            if (cell["group"], cell["task"]) == ("kind", task)
        }
        for task in ("2 across", "three of 2 across")
    )
    assert f"{100 * hidden['matched']:.0f}" == f"{100 * with_chain:.0f}"
    rates = load("results/studies/interactions_rates.json")
    verdicts = {}
    for study, group in ((found, "images"), (rates, "colour")):
        assert study["design"]["margin"] == 0.01
        for row in study["answers"]:
            if (row["group"], row["other"]) == (group, "unchained"):
                verdicts[group, row["task"]] = row["verdict"]
    assert set(verdicts.values()) == {"equal"}
    assert {task for _, task in verdicts} == {
        *("pixels", "second convolution", "pixels in random order")
    }
    task = "4 across, 16,000 examples"
    four = {
        cell["net"]: f"{100 * fmean(cell['test']):.0f} %"
        for cell in rates["cells"]
        if cell["task"] == task
    }
    answers = {row["other"]: row for row in rates["answers"] if row["task"] == task}
    assert {other: row["verdict"] for other, row in answers.items()} == {
        "matched": "better",
        "deep-3": "undecided",
        "deep-6": "better",
    }
    assert four["deep-3"] == four["spinal"]
    most = 100 * max(abs(answers["deep-3"][end]) for end in ("low", "high"))
    (first,) = (
        row
        for row in load("results/studies/interactions_again.json")["answers"]
        if (row["group"], row["task"], row["other"]) == ("colour", "pixels", "unchained")
    )
    assert first["verdict"] == "better"
    return (
        "Where the class is the product of two raw inputs from two slices, the net with a chain "
        f"gets {100 * with_chain:.0f} % right, as one hidden layer of as many parameters does, and "
        "the one without a chain is at chance; on a sum of three such products that layer is ahead "
        f"by {100 * (three['matched'] - three['spinal']):.1f} points (not asked). Of a product "
        f"of four inputs a spinal net gets {four['spinal']} right after 16,000 examples, "
        f"and three plain hidden layers too (undecided, within {most + 0.05:.1f} points); one gets "
        f"{four['matched']}, six "
        f"{four['deep-6']}. On pixels of Fashion-MNIST, and in the second of two studies of "
        "CIFAR-10, a chain or none is equal within a point ([the first]: ahead by "
        f"{100 * first['difference']:.1f})"
    )


def tuned_tables() -> str:
    """What tables say of a spinal net when all heads are tuned equally."""
    found = load("results/studies/tables.json")
    of = {one["other"]: one for one in found["answers"]}
    assert of["unchained"]["verdict"] == of["mlp"]["verdict"] == "equal"
    assert of["linear"]["verdict"] == "better"
    wired = min(of[head]["equal"] for head in ("unchained", "mlp"))
    trees = of["trees"]["worse"]
    # With defaults: the block that docs/tables.md has.
    page = (ROOT / "docs" / "tables.md").read_text("utf-8").split("<!-- table:table-study -->")[1]
    block = page.split("<!-- /table -->")[0]
    (row,) = (line for line in block.splitlines() if line.startswith("| trees |"))
    return (
        f"Over {of['mlp']['tables']} tables together, heads tuned equally, a spinal net is equal "
        f"to the same without its chain and to an MLP within {found['design']['rope']:g} "
        f"(probability {wired:.2f} and more; not on every [table]), better than a linear map, and "
        f"more probably behind boosted trees ({trees:.2f}); with defaults, eight nets are more "
        f"probably ahead of them ({float(row.split('|')[2]):.2f})"
    )


def training_in_a_loop() -> str:
    """How often training in a loop of one's own keeps what multiplications promise."""
    rows = [
        row for row in load("benchmarks/results/heads.json")["rows"] if row["mode"] == "training"
    ]
    built, flat = (
        sum(keeps_promise("training", row[key], row["mac_ratio"]) for row in rows)
        for key in ("over_mlp", "flat_over_mlp")
    )
    return (
        f"In a loop of your own, training stays within {TRAINING_SLACK:g} times the promise in "
        f"{built} of {len(rows)} cases, with in {flat}"
    )


CLAIMS = (
    training_in_a_loop,
    first_comparison,
    times_the_parameters,
    asked_of_images,
    what_the_chain_is_for,
    tuned_tables,
)


def prose(text: str) -> str:
    """Return what a page says outside of code, addresses, and tables made from results."""
    for pattern in (
        r"```.*?```",
        r"<!-- table:.*?<!-- /table -->",  # tests/test_evidence.py looks after these
        r"`[^`]*`",
        r"(?<=\])\([^)]*\)",
        r"\[docs/[^\]]*\]",
    ):
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    return " ".join(text.split())


def unpaired(text: str, claims: tuple[str, ...]) -> list[str]:
    """Return the numbers of a page that no claim and no definition has, each with its words."""
    for known in (*claims, *DEFINED):
        text = text.replace(known, "")
    return [text[max(0, m.start() - 40) : m.end() + 20] for m in NUMBER.finditer(text)]


README = prose((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_sentence_carries_the_number_of_its_file(claim: Callable[[], str]):
    assert claim() in README


def test_no_other_sentence_claims_a_number():
    assert unpaired(README, tuple(claim() for claim in CLAIMS)) == []


def test_the_first_page_of_the_site_says_the_same_of_the_size_of_the_layer():
    times = times_the_parameters().partition("own layer, of ")[2]
    page = " ".join((ROOT / "docs" / "index.md").read_text("utf-8").split())
    assert f"(*mlp*, with {times.removesuffix(' as many')} as many parameters)" in page


def test_a_number_that_nobody_measured_is_found():
    text = prose(
        "It is `3` times [fast](docs/7.md), and 1.7 times as good:\n```\n5\n```\nin ten tries"
    )
    assert [NUMBER.findall(one) for one in unpaired(text, ())] == [["1.7"], ["1.7", "ten"]]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160
