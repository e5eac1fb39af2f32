"""What others build on changes on purpose only."""

from __future__ import annotations

import difflib

import public_api


def test_the_public_names_and_the_command_are_those_that_were_agreed_on():
    agreed = public_api.FILE.read_text(encoding="utf-8").splitlines()
    changed = list(
        difflib.unified_diff(agreed, public_api.describe().splitlines(), "agreed", "now")
    )
    assert not changed, "\n".join(
        [*changed, "If that is meant: python tests/public_api.py, and a line in CHANGELOG.md."]
    )


def test_a_change_of_a_default_an_argument_or_an_option_is_seen():
    text = public_api.describe()
    assert (
        "SpinalNet(in_features, out_features, hidden_features, num_layers=4, *, num_splits=2"
        in text
    )
    assert "Comparison.verdict: property" in text
    assert "spinalnet compare --until-decided" in text
    assert "0x" not in text
