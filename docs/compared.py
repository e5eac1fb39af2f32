"""The comparisons of heads, each once: what was asked beforehand, and what was only seen.

The table of the front page, the figure below it and the claims of higher accuracy are made from
this list, so that none of them leaves out what another counts. **Asked** is a comparison whose
question stood in a commit before the first run of it that was kept, as the docstring of its study
says; its answer is corrected for the number of questions asked with it. What was only **seen** gets
no answer. What is not here: functions that are made up (interactions, regression, universality),
and the nets of `gradients.py`, which are deeper than anybody would use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from study_blocks import ROOT, load, record

from spinalnet.comparison.wording import as_markdown
from spinalnet.texts import from_yaml

RIVALS = ("unchained", "matched", "mlp", "linear")
ASKED = {  # the others that are asked about
    "unchained": "the same without its chain",
    "mlp": "the paper's own layer",
    "linear": "a linear map",
}
ANSWERS = ("better", "equal", "worse", "undecided")


@dataclass(frozen=True)
class Difference:
    """The spinal head minus another: accuracies as parts of 1, and the answer if it was asked for.

    `mean` and the ends of the interval are None of several data sets, which have a `chance`
    instead: the probability of the answer.
    """

    mean: float | None
    low: float | None
    high: float | None
    code: str | None = None
    chance: float | None = None

    def points(self, digits: int = 2, middle: bool = True) -> str:
        """Return it in points, with its interval."""
        if self.mean is None or self.low is None or self.high is None:
            return f"probability {self.chance:.2f}" if self.chance is not None else "no probability"
        low, high = (f"{100 * end:+.{digits}f}" for end in (self.low, self.high))
        return f"{100 * self.mean:+.{digits}f} ({low} to {high})" if middle else f"{low} to {high}"


@dataclass(frozen=True)
class Compared:
    """A comparison: of which data and network, how it was made, and the difference to each head.

    Attributes:
        data: Data, network and budget in words.
        claim: "accuracy" of trained networks, or "transfer": heads on a frozen one.
        margin: Within which two heads are equal, as a part of 1.
        asked: Whether it was asked in a commit before the first run that was kept.
        runs: Seeds, or folds.
        tested: On how many images.
        mean: Test accuracy of the spinal head.
        minus: By the other head.
        larger: How many times the parameters of the spinal head *mlp* has, if that is known.
    """

    data: str
    claim: str
    margin: float
    asked: bool
    runs: str
    tested: str
    mean: float | None
    minus: dict[str, Difference]
    larger: float | None = None

    def words(self) -> str:
        """Return the data and network, and the margin where it is not half a point."""
        if self.margin == 0.005 or self.mean is None:  # several data sets have their own words
            return self.data
        points = f"{100 * self.margin:g} point{'s' * (self.margin != 0.01)}"
        return f"{self.data} (margin {points})"


def comparisons() -> tuple[Compared, ...]:
    """Return all comparisons whose runs are all there, asked ones first."""
    return (
        *_small_cnn(),
        *_tuned(),
        *_paper_networks(),
        *_pixels_and_convolutions(),
        *_features(),
        *_folds(),
        *_tables(),
        *_seen(),
    )


def of(claim: str, others: Iterable[str], *, asked: bool = True) -> list[tuple[Compared, str]]:
    """Return the comparisons that a claim is judged by, each with the head it is minus of."""
    return [
        (one, other)
        for one in comparisons()
        for other in others
        if one.claim == claim and one.asked == asked and other in one.minus
        if one.minus[other].code or not asked
    ]


# --- asked ----------------------------------------------------------------------------------------


def _minus(answers: Iterable[dict[str, Any]]) -> dict[str, Difference]:
    return {
        one["other"]: Difference(one["difference"], one["low"], one["high"], one["verdict"])
        for one in answers
        if one["other"] in RIVALS
    }


NAMES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10-32px": "CIFAR-10, 32 pixels"}


def _of_runs(name: str, keys: dict[str, str], words: str) -> Iterable[Compared]:
    """A study whose cells are runs of whole networks: of those with these values."""
    found = record(name)
    answers = [one for one in found["answers"] if keys.items() <= one.items()]
    if not answers:
        return
    cells = [cell for cell in found["cells"] if keys.items() <= cell.items()]
    own, mlp = ([c for c in cells if c["head"] == head] for head in ("spinal", "mlp"))
    yield Compared(
        words,
        "accuracy",
        found["design"].get("margin") or found["design"]["tasks"][keys["data"]]["margin"],
        True,
        f"{len(own)}",
        f"{own[0]['examples']:,}",
        fmean(cell["test"][0] for cell in own),
        _minus(answers),
        mlp[0]["head_params"] / own[0]["head_params"] if mlp else None,
    )


def _small_cnn() -> Iterable[Compared]:
    for data, words in NAMES.items():
        yield from _of_runs("wiring", {"data": data}, f"{words}, small CNN")


def _paper_networks() -> Iterable[Compared]:
    for model, data in (("arch2", "mnist"), ("arch2", "fashion-mnist"), ("vgg5", "fashion-mnist")):
        words = f"{NAMES[data]}, {model.replace('arch', 'Arch').replace('vgg', 'VGG-')}"
        yield from _of_runs("paper_networks", {"data": data, "model": model}, words)
    for data in ("mnist", "fashion-mnist"):
        yield from _of_runs("accuracy", {"data": data}, f"{NAMES[data]}, ResNet-9")


def _pixels_and_convolutions() -> Iterable[Compared]:
    groups = {"images": "Fashion-MNIST, 10,000 images", "colour": "CIFAR-10, 10,000 images"}
    times = {"interactions_again": "", "interactions_rates": ", rates anew"}
    for name in ("interactions", *times):
        found = record(name)
        asked = [(a["group"], a["task"]) for a in found["answers"] if a["group"] in groups]
        for group, task in dict.fromkeys(asked):
            (own,) = (
                c["test"]
                for c in found["cells"]
                if (c["group"], c["task"], c["net"]) == (group, task, "spinal")
            )
            yield Compared(
                f"{groups[group]}, {task}{times.get(name, '')}",
                # The trunk of a small CNN, which was trained on other images and stays as it is.
                "transfer" if "convolution" in task else "accuracy",
                found["design"]["margin"],
                True,
                f"{len(own)}",
                "10,000",
                fmean(own),
                _minus(a for a in found["answers"] if (a["group"], a["task"]) == (group, task)),
            )


def tuned_pairs() -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Return the comparisons of the study of tuned heads, and its pairs over both data sets."""
    from spinalnet.comparison.study import together
    from spinalnet.comparison.summary import load_summary

    names = "tuned-mnist", "tuned-fashion-mnist"
    summaries = {name: load_summary(ROOT / f"results/{name}.json") for name in names}
    asked = from_yaml((ROOT / "studies/tuned.yaml").read_text(encoding="utf-8"))["confirmatory"]
    return summaries, together(summaries, asked).pairs


def _tuned() -> Iterable[Compared]:
    summaries, pairs = tuned_pairs()
    codes = {pair.minus: pair.answers if pair.confirmatory else {} for pair in pairs}
    for name in summaries:
        words = f"{NAMES[name.removeprefix('tuned-')]}, 12,000 images, small CNN, tuned"
        # Corrected over both data sets, as it was asked, not over those of each file.
        yield _of_comparison(name, words, {other: own.get(name) for other, own in codes.items()})


def _features() -> Iterable[Compared]:
    for name, more in (("transfer", ""), ("transfer_large", ""), ("transfer_settings", " anew")):
        found = record(name)
        for images in dict.fromkeys(one["images"] for one in found["answers"]):
            answers = [one for one in found["answers"] if one["images"] == images]
            cells = {c["head"]: c for c in found["cells"] if c["images"] == images}
            yield Compared(
                f"CIFAR-10, {images:,} images a class, frozen network, tuned{more}",
                "transfer",
                found["design"]["margin"],
                True,
                f"{len(cells['spinal']['test'])}",
                f"{found['design']['test']:,}",
                fmean(cells["spinal"]["test"]),
                _minus(answers),
                cells["mlp"]["params"] / cells["spinal"]["params"],
            )


def _folds() -> Iterable[Compared]:
    found = record("transfer_folds")
    own = [cell for cell in found["cells"] if cell["head"] == "spinal"]
    if found["answers"]:
        yield Compared(
            "ants and bees, frozen network, tuned",
            "transfer",
            found["design"]["margin"],
            True,
            f"{len(own) * found['design']['folds']} folds",
            f"{own[0]['examples']}",
            fmean(value for cell in own for value in cell["test"]),
            _minus(found["answers"]),
        )


def _tables() -> Iterable[Compared]:
    found = record("tables")
    minus = {
        one["other"]: Difference(None, None, None, one["verdict"], one.get(one["verdict"]))
        for one in found["answers"]
        if one["other"] in RIVALS
    }
    if minus:
        tables = found["answers"][0]["tables"]
        words = f"{tables} tables, accuracy or R2 within {found['design']['rope']:g}, tuned"
        yield Compared(words, "accuracy", found["design"]["rope"], True, "", "", None, minus)


# --- only seen ------------------------------------------------------------------------------------

SEEN = {  # comparisons of the command, whose questions stood in no commit before
    "digits": ("accuracy", "digits, small CNN"),
    "fashion-mnist": ("accuracy", "Fashion-MNIST, small CNN, an earlier comparison"),
    "hymenoptera": (
        "accuracy",
        "ants and bees, small CNN (its rate chosen on some of these photographs)",
    ),
    "cifar10-features": (
        "transfer",
        "CIFAR-10, all images, frozen network, rate 1e-2 (extended after a look)",
    ),
    "cifar10-features-again": (
        "transfer",
        "CIFAR-10, all images, frozen network, rate 1e-2, fresh seeds",
    ),
    "transfer-hymenoptera": ("transfer", "ants and bees, frozen network"),
    "transfer-hymenoptera-160": (
        "transfer",
        "ants and bees, frozen network, 160 pixels (interval of seeds alone)",
    ),
    "transfer-hymenoptera-dropout": (
        "transfer",
        "ants and bees, frozen network, dropout (interval of seeds alone)",
    ),
    "transfer-hymenoptera-tuned": (
        "transfer",
        "ants and bees, everything fine-tuned (interval of seeds alone)",
    ),
}


def _seen() -> Iterable[Compared]:
    for name, (claim, words) in SEEN.items():
        yield _of_comparison(name, words, None, claim)


def _of_comparison(
    name: str, words: str, codes: dict[str, str | None] | None, claim: str = "accuracy"
) -> Compared:
    """A comparison of the command, asked if there are answers `codes`."""
    found = load(f"results/{name}.json")
    heads = {head["head"]: head for head in found["heads"]}
    minus = {}
    for other in RIVALS:
        if other in heads:
            d = heads[other]["difference"]
            minus[other] = Difference(d["mean"], d["low"], d["high"], (codes or {}).get(other))
    params = {head: heads[head].get("head_params") for head in ("spinal", "mlp") if head in heads}
    folds = len(found.get("units", ())) // len(found["seeds"])
    return Compared(
        words,
        claim,
        found.get("margin") or 0.005,
        codes is not None,
        f"{len(found['seeds'])}",
        f"{found['test_size']:,}" + (f" in each of {folds} folds" if folds > 1 else ""),
        heads["spinal"].get("mean", heads["spinal"].get("accuracy_mean")),  # of an earlier version
        minus,
        params["mlp"] / params["spinal"] if all(params.values()) and "mlp" in params else None,
    )


# --- shown ----------------------------------------------------------------------------------------


def on_images() -> list[Compared]:
    """Return what was asked of images, the rows of the front page."""
    return [one for one in comparisons() if one.asked and one.mean is not None]


def table() -> str:
    """Return a row for each comparison on images that was asked, and what they say together."""
    rows, ours = [], on_images()
    for one in ours:
        cells = []
        for other in RIVALS:
            found = one.minus.get(other)
            said = f": **{found.code}**" if found and found.code else ""
            cells.append(found.points(1, middle=False) + said if found else "–")
        assert one.mean is not None
        rows.append([one.words(), one.runs, one.tested, f"{100 * one.mean:.1f}", *cells])
    header = ("data and network", "seeds", "test images", "spinal, %")
    header = (*header, *(f"minus {other}" for other in RIVALS))
    return f"{as_markdown(header, rows)}\n\n{together()}"


def together() -> str:
    """Return how often each answer was given in these rows."""
    ours = on_images()
    told = "; ".join(f"against {words} {counted(ours, other)}" for other, words in ASKED.items())
    return f"**Together**, of {len(ours)} comparisons: {told}."


def counted(ours: Sequence[Compared], other: str) -> str:
    """Return how often each answer was given; of *equal* also what lies off 0 within the margin."""
    found = [one.minus[other] for one in ours if other in one.minus and one.minus[other].code]
    words = []
    for code in ANSWERS:
        own = [d for d in found if d.code == code]
        off = {
            "ahead": sum(d.low is not None and d.low > 0 for d in own),
            "behind": sum(d.high is not None and d.high < 0 for d in own),
        }
        sides = [f"{n} {side}" for side, n in off.items() if n and code == "equal"]
        inside = f" ({' and '.join(sides)} by less than the margin)" if sides else ""
        words.append(f"{code} in {len(own)}{inside}")
    return ", ".join(words)


def draw(path: Path) -> None:
    """Draw the rows of the front page: differences, their intervals, the margin as a band."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    ours = on_images()
    figure = Figure(figsize=(9.6, 1.5 + 0.3 * len(ours)), layout="constrained")
    panels = figure.subplots(1, len(ASKED), sharey=True)
    colour = {"better": "tab:blue", "worse": "tab:red", "equal": "0.25", "undecided": "0.6"}
    for axes, other, words in zip(panels, ASKED, ASKED.values(), strict=True):
        axes.axvline(0, color="0.4", lw=0.8)
        widest = 0.0
        for place, one in enumerate(ours):
            axes.fill_betweenx(
                (place - 0.5, place + 0.5), -100 * one.margin, 100 * one.margin, color="0.93", lw=0
            )
            found = one.minus.get(other)
            if found is None or found.code is None:
                continue
            assert found.mean is not None
            assert found.low is not None
            assert found.high is not None
            widest = max(widest, -105 * found.low, 105 * found.high)
            ends = [[100 * (found.mean - found.low)], [100 * (found.high - found.mean)]]
            look: Any = {"color": colour[found.code], "ms": 5, "capsize": 2}
            axes.errorbar([100 * found.mean], [place], xerr=ends, fmt="o", **look)
        axes.set_ylim(len(ours) - 0.5, -0.5)
        axes.set_xlim(-widest, widest)
        axes.set_title(f"minus {other}\n({words})", fontsize=9)
        axes.set_xlabel("spinal minus this, points", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    marks: list[Any] = [
        Line2D([], [], marker="o", ls="", ms=5, color=c, label=code) for code, c in colour.items()
    ]
    marks.append(Patch(color="0.93", label="the margin of equal"))
    figure.legend(handles=marks, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    panels[0].set_yticks(range(len(ours)), [one.data for one in ours])
    with matplotlib.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
