"""The closed-form Jacobian in turns with `torch.func.jacrev`.

OMP_NUM_THREADS=1 python benchmarks/jacobian.py
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from command_line import new_parser

from spinalnet import files, timing
from spinalnet.nn.gradients import jacobian
from spinalnet.nn.layers import SpinalNet
from spinalnet.training import environment

OUT = Path(__file__).parents[1] / "results" / "theory" / "jacobian.json"


def main() -> None:
    """Measure inputs × outputs × rows and write the rows."""
    new_parser(__doc__).parse_args()
    torch.set_num_threads(1)
    rows = []
    for features, outputs in ((64, 10), (320, 10), (64, 47), (320, 100), (13, 3)):
        net = SpinalNet(features, outputs, 16, 6, dtype=torch.float64).eval()
        for batch in (1, 32, 256):
            x = torch.randn(batch, features, dtype=torch.float64)
            reverse = torch.func.vmap(torch.func.jacrev(lambda row, net=net: net(row[None])[0]))
            difference = float((jacobian(net, x) - reverse(x).detach()).abs().max())
            times = timing.interleave(
                {"ours": lambda net=net, x=x: jacobian(net, x),
                 "jacrev": lambda reverse=reverse, x=x: reverse(x)},
                seconds=2.0, min_rounds=15,
            )  # fmt: skip
            row = {
                "inputs": features,
                "outputs": outputs,
                "rows": batch,
                "ours_us": 1e6 * times["ours"].median,
                "jacrev_us": 1e6 * times["jacrev"].median,
                "ratio": times["jacrev"].median / times["ours"].median,
                "largest_difference": difference,
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    result = {
        "protocol": "6 layers of 16, 2 slices, relu, float64, one thread; medians, cases in turns.",
        "rows": rows,
        **environment.describe_origin(),
    }
    files.write_text(OUT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
