"""Makes `tests/frozen_run`, a finished run as this version writes it, for later ones to read.

`python tests/make_frozen_run.py` makes it anew: for a new version of the files beside the old one,
never in its place.
"""

from __future__ import annotations

import shutil
from pathlib import Path

FROZEN = Path(__file__).parent / "frozen_run"
TEST_ACCURACY = 0.4958217270194986  # of `result.json`


def main() -> None:
    """Train the smallest network for two epochs."""
    from spinalnet import RunSpec, run_one

    shutil.rmtree(FROZEN, ignore_errors=True)
    spec = RunSpec.of(
        "digits", "mnist-pixels", head="linear", limit=120, epochs=2, lr=0.01, device="cpu", seed=3
    )
    record = run_one(spec, FROZEN)
    assert record.result is not None
    print(record.result["test"]["accuracy"])  # noqa: T201
    for path in sorted(FROZEN.iterdir()):
        print(path.name, path.stat().st_size)  # noqa: T201


if __name__ == "__main__":
    main()
