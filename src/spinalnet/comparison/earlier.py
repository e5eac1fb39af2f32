"""Summaries of earlier versions, read again: their numbers, and what may be concluded of them."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from spinalnet.comparison.findings import common_code, headline
from spinalnet.comparison.statistics import ALPHA, holm, paired_difference
from spinalnet.comparison.wording import verdict

if TYPE_CHECKING:
    from spinalnet.comparison.answer import Difference, Summary


def said_anew(summary: Summary, overlap: float, difference: type[Difference]) -> Summary:
    """Return a summary of an earlier version in the words of this one.

    Its intervals knew no margin, and those of images only the seeds: a difference may have been
    seen, equality was never asked.

    Args:
        summary: As `upgraded` reads it.
        overlap: Test over training examples where the units are splits of one table; else 0.
        difference: The dataclass of one.
    """
    first, *others = summary.heads
    found = []
    for head in others:
        kept = [dict(zip(summary.units, one.values, strict=True)) for one in (first, head)]
        paired = paired_difference(first.head, head.head, *kept, overlap=overlap)
        found.append(head.difference or difference(**asdict(paired)))
    corrected = holm([d.p_value for d in found])
    differences = []
    for d, p in zip(found, corrected, strict=True):
        code, reason = "undecided", "no-margin"
        if d.mean is None or p is None:
            reason = "no-pairs" if d.mean is None else "single" if d.n == 1 else "no-spread"
        elif p < ALPHA:
            wins = (d.mean > 0) == summary.wording.higher_is_better
            code, reason = "better" if wins else "worse", None
        method = "splits" if overlap else "seeds"
        d = replace(d, p_holm=p, code=code, reason=reason, method=method)
        differences.append(replace(d, verdict=verdict(d, summary.wording)))
    heads = [replace(h, difference=d) for h, d in zip(others, differences, strict=True)]
    made = replace(summary, heads=(first, *heads), code=common_code(differences))
    told = "from an earlier version" + ("" if overlap else ": seeds only")
    answer = headline(made).removesuffix(").") + f"; {told})."
    verdicts = [f"Against {d.minus}: {d.verdict}." for d in differences]
    return replace(made, headline=answer, verdict=" ".join([answer, *verdicts]))
