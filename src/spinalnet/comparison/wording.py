"""How numbers are printed: means, intervals, p-values, verdicts; Markdown, CSV, the terminal.

A "show" turns one or several numbers into as many strings; see `digits` and `Units`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spinalnet.comparison.statistics import ALPHA, Difference, corrected

if TYPE_CHECKING:
    from rich.table import Table

    from spinalnet.comparison.calibration import ClassScore

Show = Callable[..., list[str]]
NONE = "–"  # where there is no number


@dataclass(frozen=True)
class Units:
    """How values of a metric are compared and printed.

    Attributes:
        metric: "accuracy" (printed in per cent), "R²", or an error such as "mse".
        test_size: Number of test examples, if known: it sets the decimals.
        kind: What is compared.
        repeat: What is repeated.
    """

    metric: str
    test_size: int | None = None
    kind: str = "head"
    repeat: str = "seed"

    @property
    def higher_is_better(self) -> bool:
        """Whether it is no error."""
        return self.metric in ("accuracy", "R²")

    @property
    def decimals(self) -> int:
        """Decimals of a percentage: two from 1,000 test examples on, else one."""
        return 2 if (self.test_size or 0) > 1000 else 1

    def value(self, value: float | None, *, unit: bool = True) -> str:
        """Print a value; accuracies in per cent."""
        if value is None:
            return NONE
        if self.metric != "accuracy":
            return f"{value:.4g}"
        return f"{100 * value:.{self.decimals}f}" + (" %" if unit else "")

    def differences(self, *values: float) -> list[str]:
        """Print differences without unit; enough digits that one off zero does not read as 0."""
        if self.metric != "accuracy":
            return [f"{value:.3g}" for value in values]
        points = [100 * value for value in values]
        smallest = min((abs(p) for p in points if abs(p) > 1e-9), default=1.0)
        decimals = min(self.decimals + 2, max(self.decimals, math.ceil(-math.log10(smallest))))
        return [f"{0.0 if abs(p) <= 1e-9 else p:.{decimals}f}" for p in points]

    def amount(self, value: float) -> str:
        """Print one difference with its unit."""
        (text,) = self.differences(value)
        return f"{text} points" if self.metric == "accuracy" else f"{text} ({self.metric})"

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


def interval(d: Difference | None, show: Show) -> str:
    """Print a difference with its interval."""
    if d is None or d.mean is None:
        return NONE
    if d.low is None or d.high is None:
        return f"{show(d.mean)[0]} (no interval, n={d.n})"
    mean, low, high = show(d.mean, d.low, d.high)
    return f"{mean} ({low} to {high})"


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


def listing(items: Iterable[object]) -> str:
    """Join as in a sentence: "a, b and c"."""
    *head, last = [str(item) for item in items] or [""]
    return f"{', '.join(head)} and {last}" if head else last


def as_markdown(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return rows as GitHub Markdown without a trailing newline, the first `left` columns left."""
    rule = ["---" if i < left else "---:" for i in range(len(header))]
    lines = [[column.replace("\n", " ") for column in header], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_rich(
    header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None
) -> Table:
    """Return rows for the terminal; without rules between columns they fit 80 characters."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=title, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for i, column in enumerate(header):
        table.add_column(escape(column), justify="right" if i else "left", no_wrap=not i)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same keys as comma-separated values with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def class_scores(classes: Mapping[str, ClassScore]) -> Table:
    """Return precision, recall, F1 and support by class, for the terminal."""
    rows = [
        [name, *digits(".4f")(row.precision, row.recall, row.f1), f"{row.support}"]
        for name, row in classes.items()
    ]
    return as_rich(("class", "precision", "recall", "F1", "support"), rows)


def judged(differences: Sequence[Difference], units: Units) -> list[Difference]:
    """Add corrected p-values, outcomes and verdicts to all the differences of one report."""
    found = corrected(differences, higher_is_better=units.higher_is_better)
    return [replace(d, verdict=verdict(d, units)) for d in found]


def verdict(d: Difference, units: Units) -> str:
    """Say in words what one comparison shows."""
    if d.mean is None:
        return f"not comparable: no {units.repeat} that both {units.kind}s finished (n=0)"
    ahead = d.of if (d.mean > 0) == units.higher_is_better else d.minus
    if d.low is None or d.high is None:
        if d.n == 1:
            seen = f"{ahead} ahead by {units.amount(abs(d.mean))}" if d.mean else "no difference"
            return f"no verdict from a single {units.repeat}: {seen} (n=1)"
        if abs(d.mean) < 1e-12:
            return f"identical results in every {units.repeat} (n={d.n})"
        return (
            f"{ahead} is ahead by the same {units.amount(abs(d.mean))} in every {units.repeat}; "
            f"without spread there is no interval and no test (n={d.n})"
        )
    if d.outcome == "none":
        correction = " after the Holm correction" if (d.p_value or 0) < ALPHA else ""
        return f"no evidence of a difference{correction} (n={d.n})"
    near, far = sorted((abs(d.low), abs(d.high)))  # both ends lie on the winner's side of zero
    mean, near, far = units.differences(abs(d.mean), near, far)
    unit = " points" if units.metric == "accuracy" else f" in {units.metric}"
    return f"{ahead} is better by {mean}{unit} (95 % interval {near} to {far}, n={d.n})"
