"""How numbers are printed: means, intervals, p-values, verdicts; Markdown, CSV, the terminal.

A "show" turns one or several numbers into as many strings; see `digits` and `Units`.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spinalnet.comparison.metrics import METRICS
from spinalnet.texts import spreadsheet_cell

if TYPE_CHECKING:
    from rich.table import Table

    from spinalnet.comparison.answer import Difference
    from spinalnet.comparison.calibration import ClassScore
    from spinalnet.comparison.statistics import PairedDifference

Show = Callable[..., list[str]]
NONE = "–"  # where there is no number


@dataclass(frozen=True)
class Units:
    """How values of a metric are compared and printed.

    Attributes:
        metric: Row of `METRICS`.
        test_size: Number of test examples, if known: it sets the decimals.
        kind: What is compared.
        repeat: What is repeated: "seed", "fold" or "split".
    """

    metric: str
    test_size: int | None = None
    kind: str = "head"
    repeat: str = "seed"

    @property
    def higher_is_better(self) -> bool:
        """Whether it is no loss."""
        return METRICS[self.metric].higher_is_better

    @property
    def in_points(self) -> bool:
        """Whether it is a share, printed in per cent."""
        return METRICS[self.metric].in_points

    @property
    def title(self) -> str:
        """The metric as a table says it."""
        return METRICS[self.metric].title

    @property
    def decimals(self) -> int:
        """Decimals of a percentage: two from 1,000 test examples on, else one."""
        return 2 if (self.test_size or 0) > 1000 else 1

    def value(self, value: float | None, *, unit: bool = True) -> str:
        """Print a value; shares in per cent."""
        if value is None:
            return NONE
        if not self.in_points:
            return f"{value:.3f}" if self.metric == "r2" else plain_number(value)
        return f"{100 * value:.{self.decimals}f}" + (" %" if unit else "")

    def differences(self, *values: float) -> list[str]:
        """Print differences without unit; enough digits that one off zero does not read as 0."""
        if not self.in_points:
            return [plain_number(value, 3) for value in values]
        points = [100 * value for value in values]
        smallest = min((abs(p) for p in points if abs(p) > 1e-9), default=1.0)
        decimals = min(self.decimals + 2, max(self.decimals, math.ceil(-math.log10(smallest))))
        return [f"{0.0 if abs(p) <= 1e-9 else p:.{decimals}f}" for p in points]

    def amount(self, value: float) -> str:
        """Print one difference with its unit."""
        if self.in_points:
            return f"{float(f'{100 * value:.3g}'):g} points"
        return f"{plain_number(value, 3)} in {self.title}"

    def mean(self, mean: float | None, std: float | None) -> str:
        """Print a mean with its deviation, without unit."""
        return plus_minus(mean, std, lambda v: [self.value(v, unit=False)], self.differences)


def digits(spec: str, scale: float = 1.0) -> Show:
    """Return a show that prints every number, times `scale`, by the format `spec`."""
    return lambda *values: [f"{scale * value:{spec}}" for value in values]


def plus_minus(
    mean: float | None, std: float | None, show: Show, show_std: Show | None = None
) -> str:
    """Print a mean with its deviation, if there is one."""
    if mean is None:
        return NONE
    return show(mean)[0] + ("" if std is None else f" ± {(show_std or show)(std)[0]}")


def interval(d: Difference | PairedDifference | None, show: Show) -> str:
    """Print a difference with its interval."""
    if d is None or d.mean is None:
        return NONE
    if d.low is None or d.high is None:
        return f"{show(d.mean)[0]} (no interval, n={d.n})"
    mean, low, high = show(d.mean, d.low, d.high)
    return f"{mean} ({low} to {high})"


def time_ratio(found: Mapping[str, Any] | None) -> str:
    """Print a ratio of times with its interval, as `HeadSummary.cost` holds it."""
    if not found or found.get("low") is None:
        return NONE
    return f"{found['ratio']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def per_cent(share: float, spec: str = ".6g") -> str:
    """Print a share."""
    return f"{100 * share:{spec}} %"


def p_value(p: float | None) -> str:
    """Print a p-value."""
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def three_digits(value: float | None) -> str:
    """Print a time with about three digits."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def plain_number(value: float, count: int = 4) -> str:
    """Print a number in somebody's units with `count` digits; large ones as people write them."""
    if value and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.{count}g}"
    return f"{value:,.0f}" if abs(value) >= 10 ** (count - 1) else f"{value:.{count}g}"


def listing(items: Iterable[object], word: str = "and") -> str:
    """Join as in a sentence: "a, b and c"."""
    *head, last = [str(item) for item in items] or [""]
    return f"{', '.join(head)} {word} {last}" if head else last


def as_markdown(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return rows as GitHub Markdown without a trailing newline, the first `left` columns left."""
    rule = ["---" if i < left else "---:" for i in range(len(header))]
    lines = [[_in_table(cell) for cell in line] for line in (header, rule, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _in_table(cell: str) -> str:
    """Return a cell that ends neither its column nor its row."""
    return re.sub(r"(?<!\\)\|", r"\|", " ".join(cell.splitlines()))


def as_plain_markdown(text: str) -> str:
    """Return a name that somebody has chosen so that Markdown shows it, and does not read it."""
    return re.sub(r"([\\`*\[\]<>|&])", r"\\\1", " ".join(text.splitlines()))


_NARROW = 72  # columns of a terminal below which rows become lines
_LABEL_WIDTH = 20  # the longest name of a head with an option stays on one line


def as_rich(
    header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None
) -> Table:
    """Return rows for the terminal; without rules between columns they fit 80 characters.

    Where columns would be a word wide, each row is shown as lines, a name and a value in each.
    """
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)

    class Rows(Table):
        def __rich_console__(self, console: Any, options: Any) -> Any:
            if options.max_width >= _NARROW or len(header) <= 3:
                yield from super().__rich_console__(console, options)
                return
            if title is not None:
                yield Text(title, "italic")
            for name, *cells in rows:
                yield Text(name, "bold")
                for label, cell in zip(header[1:], cells, strict=True):
                    if cell:
                        yield Text(f"  {' '.join(label.split())}: {cell}")

    table = Rows(
        title=None if title is None else escape(title),
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    longest = max((len(row[0]) for row in rows), default=0)
    for i, column in enumerate(header):
        table.add_column(
            escape(column),
            justify="right" if i else "left",
            overflow="fold",
            min_width=None if i else min(longest, _LABEL_WIDTH),
            max_width=None if i else _LABEL_WIDTH,  # a head with many options takes several lines
        )
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same keys as comma-separated values with a header.

    Text that a spreadsheet would run as a formula is quoted; see `texts.spreadsheet_cell`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(rows[0])
    for cells in (names, *([row[name] for name in names] for row in rows)):
        writer.writerow(map(spreadsheet_cell, cells))
    return text.getvalue()


def class_scores(classes: Mapping[str, ClassScore]) -> Table:
    """Return precision, recall, F1 and support by class, for the terminal."""
    rows = [
        [name, *digits(".4f")(row.precision, row.recall, row.f1), f"{row.support}"]
        for name, row in classes.items()
    ]
    return as_rich(("class", "precision", "recall", "F1", "support"), rows)


@dataclass(frozen=True)
class Verdict:
    """One of the five answers: as a chip says it, and its colour in the style of the page."""

    word: str
    colour: str


VERDICTS: dict[str, Verdict] = {
    "better": Verdict("better", "better"),
    "worse": Verdict("worse", "worse"),
    "equal": Verdict("equal", "equal"),
    "undecided": Verdict("undecided", "undecided"),
    "nothing-learned": Verdict("nothing learned", "undecided"),
}
"""The five answers by their code; the sentence of each is made by `verdict`."""


def verdict(d: Difference, units: Units) -> str:
    """Say in one sentence what one comparison shows, with its numbers."""
    if d.mean is None or d.low is None or d.high is None:
        why = _why_undecided(d, units)
        if d.code == "nothing-learned":
            return f"{_NOTHING_LEARNED} ({why}, n={d.n})"
        return f"undecided: {why} (n={d.n})"
    mean, low, high = units.differences(d.mean, d.low, d.high)
    seen = f"difference {mean}, 95 % interval {low} to {high}, n={d.n}"
    if d.code == "nothing-learned":
        return f"{_NOTHING_LEARNED} ({seen})"
    if d.code == "equal":
        return f"{d.of} equals {d.minus} {_within(d, units)} ({seen})"
    if d.code in ("better", "worse"):
        near, far = sorted((abs(d.low), abs(d.high)))  # both ends lie on the winner's side of zero
        size, near, far = units.differences(abs(d.mean), near, far)
        unit = " points" if units.in_points else f" in {units.title}"
        winner, loser = (d.of, d.minus) if d.code == "better" else (d.minus, d.of)
        span = f"95 % interval {near} to {far}, n={d.n}"
        return f"{winner} is better than {loser} by {size}{unit} ({span})"
    return f"undecided: {_why_undecided(d, units)} ({seen})"


_NOTHING_LEARNED = "nothing learned: neither is shown to beat the baseline"


def short_verdict(d: Difference, units: Units) -> str:
    """Say the same where the numbers stand beside it, beginning with the one it is about."""
    if d.code in ("better", "worse") and d.mean is not None:
        winner = d.of if d.code == "better" else d.minus
        return f"{d.minus}: {winner} is better by {units.amount(abs(d.mean))}"
    if d.code == "equal":
        return f"{d.minus}: equal {_within(d, units)}"
    if d.code == "nothing-learned":
        return f"{d.minus}: nothing learned"
    return f"{d.minus}: undecided, {_why_undecided(d, units)}"


def _within(d: Difference, units: Units) -> str:
    below = "; a difference is seen, below that margin" if d.seen else ""
    return f"within {units.amount(d.margin or 0.0)}{below}"


def _why_undecided(d: Difference, units: Units) -> str:
    """Say why, and what would decide it."""
    if d.mean is None:
        return f"no {units.repeat} that both {units.kind}s finished"
    if d.n == 1 or d.reason == "single":
        told = "" if d.p_value is None else f"; between those, p {p_value(d.p_value)}"
        return f"one {units.repeat} compares two trained models, not two {units.kind}s{told}"
    if d.low is None or d.high is None:
        return _without_spread(d, units)
    if d.reason == "test-set-too-small":
        return (
            f"the test set is too small to show equality (it resolves "
            f"{units.amount(d.resolution or 0.0)}, the margin is {units.amount(d.margin or 0.0)})"
        )
    if d.reason in ("more-seeds", "more-splits") and d.more:
        # Where the test set cannot show equality, what they would decide for is a difference.
        alone = d.resolution is not None and d.margin is not None and d.resolution >= d.margin
        return _further(d, units, "show a difference" if alone else "decide")
    if d.reason == "correction":
        return "alone it would be decided, but not after the correction for several comparisons"
    if d.reason == "no-margin":
        return "no difference is shown (an earlier version wrote this, which knew no margin)"
    return f"no affordable number of further {units.repeat}s would probably decide"


def _further(d: Difference, units: Units, what: str) -> str:
    """Say how many further units would probably do, and what the smallest number is that can."""
    found = (
        f"about {d.more:,} further {units.repeat}{'s' if d.more != 1 else ''} would probably {what}"
    )
    if d.fewest is not None and d.fewest > d.n:
        found += f" (below {d.fewest} in all none can)"
    return found


def _without_spread(d: Difference, units: Units) -> str:
    assert d.mean is not None
    if abs(d.mean) < 1e-12:
        return f"identical results in every {units.repeat}"
    ahead = d.of if (d.mean > 0) == units.higher_is_better else d.minus
    return (
        f"{ahead} is ahead by the same {units.amount(abs(d.mean))} in every {units.repeat}, and "
        "without spread there is no test"
    )
