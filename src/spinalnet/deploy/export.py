"""Export of trained models to files that run without this package: ONNX, and torch's own programs.

The file holds everything between raw inputs and answers: images as bytes go in, the normalisation
of the training data, trunk, head and, if wanted, the softmax are inside, class names beside them.
Nothing is kept that has not been run and compared with the model it came from.
"""

from __future__ import annotations

import collections
import copy
import importlib
import io
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import spinalnet
from spinalnet import files
from spinalnet._checks import InputError, SpinalnetError, install_extra, unknown_name
from spinalnet.comparison import TrainedModel, load_trained
from spinalnet.data import DatasetInfo, batches
from spinalnet.deploy.preprocessing import write_preprocessing
from spinalnet.nn import use_backend

Inputs = Literal["uint8-hwc", "uint8-chw", "float"]
Output = Literal["logits", "probabilities"]

OPSET = 18  # what torch's exporter writes without a conversion; onnxruntime >= 1.14 reads it
OPSETS = range(18, 24)

# An exported model and its original, both in float32, add in different orders. Their answers may
# differ by this much of the largest one (of 1, if that is larger).
TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 2, 7)
_TRACED_BATCH = 2  # 0 and 1 would be taken for constants


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        nodes: Number of operations by kind.
        inputs: Shape of the input; "N" is the batch.
        dtype: Type of the input, "uint8" or "float32".
        output: "logits", "probabilities", or "values" for a regression.
        largest_difference: Of any answer from the original's, over the checked batches, as a part
            of the largest answer (of 1, if that is larger).
        preprocessing: The program beside it that makes its inputs of photographs; None if it was
            not made of a run on images.
    """

    path: Path
    nodes: dict[str, int]
    inputs: tuple[int | str, ...]
    dtype: str
    output: str
    largest_difference: float
    preprocessing: Path | None = None


@dataclass(frozen=True)
class _Request:
    """A model with all that its file will say about it."""

    model: nn.Module
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    inputs: Inputs
    output: str
    about: dict[str, str]  # which run it came from
    info: DatasetInfo | None = None  # what that run was on

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample as the file takes it."""
        channels, *sides = self.input_shape
        return (*sides, channels) if self.inputs == "uint8-hwc" else self.input_shape

    def metadata(self) -> dict[str, str]:
        """Return what the file says about itself; values other than names are JSON."""
        scale = self.info and self.info.pixel_range
        deep = {"pixel_range": json.dumps(list(scale))} if scale else {}
        return {
            **self.about,
            **deep,
            "spinalnet": spinalnet.__version__,
            "torch": torch.__version__,
            "class_names": json.dumps(list(self.class_names), ensure_ascii=False),
            "input_shape": json.dumps(list(self.shape)),
            "inputs": self.inputs,
            "mean": json.dumps(list(self.mean)),
            "std": json.dumps(list(self.std)),
            "output": self.output,
        }

    def samples(self, batch: int) -> Tensor:
        """Return random inputs, the same at every call."""
        generator = torch.Generator().manual_seed(batch)
        if self.inputs == "float":
            return torch.rand(batch, *self.shape, generator=generator)
        return torch.randint(0, 256, (batch, *self.shape), dtype=torch.uint8, generator=generator)

    def answers(self, samples: Tensor) -> Tensor:
        """Return what this package says, by its usual ways of computing."""
        if self.inputs == "uint8-hwc":
            samples = samples.permute(0, 3, 1, 2)
        with torch.no_grad():
            answers = self.model(batches.normalize(samples, self.mean, self.std))
        return answers.softmax(1) if self.output == "probabilities" else answers


class _InUnits(nn.Module):
    """A regression that answers in the units of its labels."""

    def __init__(self, model: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.model, self.mean, self.std = model, mean, std

    def forward(self, inputs: Tensor) -> Tensor:
        """Return values, `(N, 1)`."""
        return self.model(inputs) * self.std + self.mean


class _Deployed(nn.Module):
    """Raw inputs to answers, in operations that any runtime has."""

    centre: Tensor | None
    scale: Tensor | None

    def __init__(self, request: _Request) -> None:
        super().__init__()
        self.model = request.model
        self.channels_last = request.inputs == "uint8-hwc"
        self.probabilities = request.output == "probabilities"
        self.unit = 1.0 if request.inputs == "float" else 255.0
        centre, scale = None, None
        if request.mean:
            shape = (-1,) + (1,) * (len(request.input_shape) - 1)
            mean, std = torch.tensor([request.mean, request.std], dtype=torch.float64) * self.unit
            centre, scale = mean.float().view(shape), std.reciprocal().float().view(shape)
        self.register_buffer("centre", centre)
        self.register_buffer("scale", scale)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, probabilities or values, `(N, outputs)`."""
        if self.channels_last:
            inputs = inputs.permute(0, 3, 1, 2)
        inputs = inputs.float()
        if self.centre is not None and self.scale is not None:
            inputs = (inputs - self.centre) * self.scale
        elif self.unit != 1:
            inputs = inputs / self.unit
        answers = self.model(inputs)
        return answers.softmax(1) if self.probabilities else answers


def export_onnx(
    model: nn.Module | TrainedModel | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    inputs: Inputs | None = None,
    output: Output = "logits",
    normalize: bool = True,
    input_shape: Sequence[int] | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    class_names: Sequence[str] = (),
    opset: int = OPSET,
) -> Exported:
    """Write a model as an ONNX file, and compare it with the model in ONNX Runtime.

    The batch is dynamic. The file is written only if, for batches of 1, 2 and 7 random inputs, no
    answer differs from the model's by more than `TOLERANCE` of the largest one. Beside the network
    of a run on images a program is written, `NAME_preprocess.py`, that needs Pillow and NumPy alone
    to make its inputs of image files, and asks no other network (see `deploy.standalone`).

    Args:
        model: The folder of a run, a checkpoint file, what `load_trained` returns, or any module;
            exported in float32 and evaluation mode, itself left as it is.
        path: File to write, usually `*.onnx`.
        inputs: "uint8-hwc", images as most libraries load them, `(N, H, W, C)`; "uint8-chw",
            `(N, C, H, W)`; "float", `(N, C, H, W)` on the 0..1 scale, or rows `(N, F)`. Without it:
            "uint8-hwc" for a run on images, "float" for everything else.
        output: "logits", or "probabilities".
        normalize: Whether the file normalises its inputs; if not, who runs it must.
        input_shape: Of a module: shape of one sample, `(C, H, W)` or `(F,)`; not needed for a head.
        mean: Of a module: mean per channel on the 0..1 scale, empty for no normalisation.
        std: Of a module: standard deviation per channel.
        class_names: Of a module: names of the outputs.
        opset: Version of the ONNX operators, 18 to 23.

    Raises:
        InputError: If a package is missing, an argument does not fit, or the file cannot be
            written.
        SpinalnetError: If the exported model answers differently; nothing is written then.
    """
    request = _request(model, inputs, output, normalize, input_shape, mean, std, class_names)
    if opset not in OPSETS:
        raise InputError(f"opset must be in {OPSETS[0]} to {OPSETS[-1]}, got {opset}.")
    onnx, onnxruntime = import_for_export("onnx"), import_for_export("onnxruntime")
    optimizer = import_for_export("onnxscript.optimizer")
    with exporting():
        program = torch.onnx.export(
            _Deployed(request),
            (request.samples(_TRACED_BATCH),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("N")},),
            input_names=["inputs"],
            output_names=[request.output],
            opset_version=opset,
            verbose=False,
        )
        assert program is not None
        # Weights cut from larger ones are cut once and for all, however large.
        optimizer.fold_constants(program.model, input_size_limit=2**40, output_size_limit=2**40)
        optimizer.remove_unused_nodes(program.model)
    graph = program.model_proto
    _tidy(graph)
    graph.producer_name, graph.producer_version = "spinalnet", spinalnet.__version__
    onnx.helper.set_model_props(graph, request.metadata())
    onnx.checker.check_model(graph)
    content = graph.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(samples: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"inputs": samples.numpy()})[0])

    difference = _check(request, run)
    files.write_bytes(path, content)
    done = _exported(path, request, (node.op_type for node in graph.graph.node), difference)
    info = request.info
    if info is None or len(info.input_shape) != 3:
        return done
    beside = write_preprocessing(
        path, content, info, request.inputs, request.output, normalized=normalize
    )
    return replace(done, preprocessing=beside)


def export_program(
    model: nn.Module | TrainedModel | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    inputs: Inputs | None = None,
    output: Output = "logits",
    normalize: bool = True,
    input_shape: Sequence[int] | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    class_names: Sequence[str] = (),
) -> Exported:
    """Write a model as a program of `torch.export`, and compare it with the model.

    `torch.export.load(path).module()` runs it without this package; what `export_onnx` writes as
    metadata is the file's extra file "spinalnet.json". Arguments are those of `export_onnx`; the
    file is usually `*.pt2`.

    Raises:
        InputError: If an argument does not fit, or the file cannot be written.
        SpinalnetError: If the exported model answers differently; nothing is written then.
    """
    request = _request(model, inputs, output, normalize, input_shape, mean, std, class_names)
    with exporting():
        program = torch.export.export(
            _Deployed(request),
            (request.samples(_TRACED_BATCH),),
            dynamic_shapes=({0: torch.export.Dim("N")},),
            strict=False,
        )
        for node in program.graph.nodes:  # where it was traced is nobody's business
            node.meta.pop("stack_trace", None)
        buffer = io.BytesIO()
        torch.export.save(
            program, buffer, extra_files={"spinalnet.json": json.dumps(request.metadata())}
        )
        loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    with torch.no_grad():
        difference = _check(request, loaded)
    files.write_bytes(path, buffer.getvalue())
    calls = (node.target for node in program.graph.nodes if node.op == "call_function")
    return _exported(path, request, (str(target) for target in calls), difference)


def _request(
    source: nn.Module | TrainedModel | str | os.PathLike[str],
    inputs: Inputs | None,
    output: str,
    normalize: bool,
    input_shape: Sequence[int] | None,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
) -> _Request:
    """Gather and check everything that the export depends on."""
    if output not in ("logits", "probabilities"):
        raise unknown_name("output", output, ("logits", "probabilities"))
    about: dict[str, str] = {}
    units = None
    info = None
    if isinstance(source, nn.Module):
        model = source
        shape = tuple(input_shape or ())
        width = getattr(model, "in_features", None)
        if not shape and isinstance(width, int):
            shape = (width,)
        if not shape:
            raise InputError(
                "input_shape must say the shape of one sample, such as (1, 28, 28), for a module "
                "that is not a head."
            )
        whole = tuple(mean), tuple(std), tuple(class_names)
    else:
        if input_shape is not None or mean or std or class_names:
            raise InputError(
                "input_shape, mean, std and class_names belong to a run; give them for a module "
                "only."
            )
        trained = source if isinstance(source, TrainedModel) else load_trained(Path(source))
        model, info = trained.model, trained.info
        shape, whole = tuple(info.input_shape), (info.mean, info.std, info.class_names)
        if info.task == "regression":
            if output == "probabilities":
                raise InputError("a regression has no probabilities; export its values ('logits').")
            output, units = "values", info.units
        if len(shape) == 3 and inputs is None:
            inputs = "uint8-hwc"
        about = {
            "data": info.name,
            "model": trained.spec.model.name,
            "head": trained.spec.model.head,
        }
    known = ("uint8-hwc", "uint8-chw", "float")
    inputs = inputs or "float"
    if inputs not in known:
        raise unknown_name("kind of inputs", inputs, known)
    if inputs != "float" and len(shape) != 3:
        raise InputError(f"inputs must be 'float' for samples of shape {shape}, got '{inputs}'.")
    if not normalize and inputs != "float":
        raise InputError("without normalisation inputs must be 'float': bytes are not normalised.")
    mean, std, class_names = whole if normalize else ((), (), whole[2])
    if len(mean) != len(std) or (mean and len(mean) not in (1, shape[0])):
        raise InputError(
            f"mean and std must have one value per channel ({shape[0]}), got {len(mean)} and "
            f"{len(std)}."
        )
    model = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    if units is not None:
        model = _InUnits(model, *units).eval()
    request = _Request(model, shape, mean, std, class_names, inputs, output, about, info)
    answers = request.answers(request.samples(_TRACED_BATCH))
    if answers.ndim != 2:
        raise InputError(f"the model must return (N, outputs), got {tuple(answers.shape)}.")
    if class_names and len(class_names) != answers.shape[1]:
        raise InputError(
            f"class_names must name the {answers.shape[1]} outputs, got {len(class_names)} names."
        )
    return request


def import_for_export(name: str) -> Any:
    """Import a package of the extra "export".

    Raises:
        InputError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"the export to ONNX needs the package {name.split('.')[0]}: install it with "
            f"{install_extra('export')}."
        ) from error


@contextmanager
def exporting() -> Iterator[None]:
    """Trace the plain chain, which makes the leanest graph, without torch's talk about itself.

    The paper's loop is a concatenation, a product and an activation per layer. Grouped products,
    which are faster in torch, become more and smaller operations, slower in ONNX Runtime.
    """
    with warnings.catch_warnings(), use_backend("reference"):
        warnings.simplefilter("ignore")
        yield


def _tidy(graph: Any) -> None:
    """Remove what the exporter notes about Python code and paths on the machine."""
    parts = [graph.graph, *graph.graph.node, *graph.graph.value_info]
    for part in itertools.chain(parts, graph.graph.input, graph.graph.output, graph.functions):
        del part.metadata_props[:]
    for node in graph.graph.node:
        node.doc_string = ""


def _check(request: _Request, run: Callable[[Tensor], Tensor]) -> float:
    """Compare the exported model with the original; return the largest difference."""
    largest = 0.0
    for batch in CHECKED_BATCHES:
        samples = request.samples(batch)
        truth = request.answers(samples)
        scale = max(1.0, float(truth.abs().max()))
        found = run(samples)
        difference = float((found - truth).abs().max()) / scale
        if found.shape != truth.shape or not difference <= TOLERANCE:
            raise SpinalnetError(
                f"the exported model differs from the original by {difference:.1e} of its largest "
                f"answer for {batch} inputs, {TOLERANCE:.0e} is allowed: nothing was written."
            )
        largest = max(largest, difference)
    return largest


def _exported(
    path: str | os.PathLike[str], request: _Request, operations: Iterator[str], difference: float
) -> Exported:
    return Exported(
        files.expanded(path),
        dict(collections.Counter(operations)),
        ("N", *request.shape),
        "float32" if request.inputs == "float" else "uint8",
        request.output,
        difference,
    )
