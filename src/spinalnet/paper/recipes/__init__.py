"""Every experiment of the original repository as one row of `RECIPES`, and some of our own.

A row stands for one script, notebook or target: the data, the network, the heads, how it was
trained, what decided its result, what it printed, and which of its defects are known
(docs/paper-vs-code.md). A recipe of our own (`Recipe.is_ours`) has no sources, and so nothing that
was printed and no defects. Nothing is read or trained here; `paper.protocol` runs a row.
"""

from __future__ import annotations

import difflib
import fnmatch

from spinalnet._checks import InputError
from spinalnet.paper.recipes import cifar, mnist, notebooks, ours, progressive, regression, transfer
from spinalnet.paper.recipes.row import CONSTANTS, SELECTION, Printed, Recipe

RECIPES: dict[str, Recipe] = {
    row.name: row
    for family in (regression, mnist, cifar, transfer, notebooks, progressive, ours)
    for row in family.ROWS
}


def list_recipes() -> list[str]:
    """Return the names that `run_recipe` knows."""
    return list(RECIPES)


def find_recipes(pattern: str, *, of_original: bool = False) -> list[Recipe]:
    """Return the recipes that a name or a pattern such as `mnist-*` stands for.

    The first word of several names, such as `regression`, stands for all of them but the
    compatibility variants (`...-reused`), which a pattern includes.

    Args:
        pattern: A name of `list_recipes()`, or what stands for several.
        of_original: Of several, leave out those of our own.

    Raises:
        InputError: If there is none; the nearest names are in the sentence.
    """
    found = [recipe for name, recipe in RECIPES.items() if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        found = [
            recipe
            for name, recipe in RECIPES.items()
            if name.startswith(f"{pattern}-") and not name.endswith("-reused")
        ]
    if found:
        originals = [recipe for recipe in found if not recipe.is_ours]
        return originals if of_original and originals else found
    near = difflib.get_close_matches(pattern, RECIPES, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"unknown recipe '{pattern}'; {hint}See 'spinalnet recipes'.")
