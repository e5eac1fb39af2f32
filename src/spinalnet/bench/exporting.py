"""Exported models in ONNX Runtime against torch."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from spinalnet import timing
from spinalnet.bench.heads import HEAD_CASES
from spinalnet.bench.longhand import LonghandCNN, LonghandHead
from spinalnet.bench.rows import Row, compare
from spinalnet.deploy import export_onnx
from spinalnet.models import create_model


def _exported(model: nn.Module, shape: tuple[int, ...]) -> Callable[[Tensor], object]:
    """Return what runs an exported model in ONNX Runtime, with as many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        # Compares its answers with torch's and refuses wrong ones.
        exported = export_onnx(model, Path(folder) / "model.onnx", input_shape=shape)
        session = onnxruntime.InferenceSession(
            exported.path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    return lambda inputs: session.run(None, {"inputs": inputs.numpy()})


def bench_export(batches: Sequence[int] = (1, 64), *, seconds: float = 10.0) -> list[Row]:
    """Time ONNX Runtime against torch: the MNIST CNN and its head alone, spinal and MLP.

    "torch" is the plainest module, "torch, ours" the one of this package with its kernels.

    Raises:
        SpinalnetError: If an exported model answers differently (checked first).
    """
    spinal = create_model("mnist-cnn", 10, head="spinal").eval()
    mlp = create_model("mnist-cnn", 10, head="mlp").eval()
    case = HEAD_CASES[0]
    head = case.spinal().eval()
    # name, shape of a sample, ours, the plainest
    models: list[tuple[str, tuple[int, ...], nn.Module, nn.Module]] = [
        ("mnist-cnn, spinal", (1, 28, 28), spinal, LonghandCNN()),
        ("mnist-cnn, mlp", (1, 28, 28), mlp, nn.Sequential(mlp.trunk, case.fully_connected())),
        ("head alone, spinal", (case.in_features,), head, LonghandHead(head)),
        ("head alone, mlp", (case.in_features,), mlp.head, case.fully_connected()),
    ]
    rows: list[Row] = []
    for (name, shape, ours, plain), batch in itertools.product(models, batches):
        inputs = torch.rand(batch, *shape)
        ways = {"ours": _exported(ours, shape), "torch": plain.eval(), "torch, ours": ours}
        timed = {way: functools.partial(run, inputs) for way, run in ways.items()}
        with torch.no_grad():
            timings = timing.interleave(timed, seconds=seconds)
        rows += [
            compare(f"{name}, batch {batch}", baseline, "rows/s", batch, timings, shortest=True)
            for baseline in ("torch", "torch, ours")
        ]
    return rows
