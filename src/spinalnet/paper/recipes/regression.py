"""The regression study: four targets, with six layers and in the script's own wiring."""

from __future__ import annotations

from dataclasses import replace

from spinalnet.paper.recipes.row import LAST_BATCH, Printed, Recipe
from spinalnet.paper.recipes.settings import ADAM

_SOURCE = "Regression/Regression_NN_and_SpinalNet.py"


def _target(name: str, **minima: tuple[float, float]) -> tuple[Recipe, Recipe]:
    """Return both rows of a target, from each head's minimum loss in 100 and in 200 epochs."""
    row = Recipe(
        name=f"regression-{name}",
        sources=(_SOURCE,),
        data=f"regression-{name}",
        model="regression-net",
        train=replace(ADAM, lr=0.01, batch_size=64, epochs=200),
        selection=LAST_BATCH,
        original_seeds="torch 0",
        printed=tuple(
            Printed(
                f"{head.replace('_', '-')}: minimum loss of a last mini-batch in {epochs} epochs",
                value,
                f"{_SOURCE} (docstring); paper, Table I",
            )
            for head, values in minima.items()
            for epochs, value in zip((100, 200), values, strict=True)
        ),
        defects=("A1", "A3", "A4", "A24"),
        notes=(
            "The printed number is the training loss of a batch of 40, not an error on data "
            "that was not trained on; the mean squared error on 20,000 fresh points is.",
        ),
    )
    wiring = "The script's wiring: layers 3 and 4 also run as layers 5 and 6."
    return row, replace(
        row,
        name=f"{row.name}-reused",
        heads=("spinal-reused", "mlp-paper"),
        notes=(*row.notes, wiring),
    )


ROWS = (
    *_target("product", spinal=(0.003966, 0.002217), mlp_paper=(0.003875, 0.003875)),
    *_target("sin-product", spinal=(0.000910, 0.000910), mlp_paper=(0.003403, 0.001554)),
    *_target("sum", spinal=(0.001007, 0.000855), mlp_paper=(0.001178, 0.000887)),
    *_target("sin-sum", spinal=(0.001912, 0.001219), mlp_paper=(0.001918, 0.001086)),
)

STUDY = tuple(row.name for row in ROWS if "spinal" in row.heads)
"""The recipes whose honest records make the figure of the study."""
