"""Exported files answer as the models they came from, and need nothing else."""

from __future__ import annotations

import builtins
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import spinalnet
from helpers import assert_close
from spinalnet import (
    InputError,
    MLPHead,
    RunSpec,
    SpinalNet,
    SpinalnetError,
    TrainConfig,
    bench,
    create_model,
    export_onnx,
    export_program,
    run_one,
)
from spinalnet.cli import root
from spinalnet.comparison import trained as trained_module
from spinalnet.data import batches, images
from spinalnet.data.depths import Depths
from spinalnet.deploy import export
from spinalnet.deploy.predict import predict_images

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


slow = pytest.mark.slow  # an export takes a second or two; one of each kind is fast enough


def onnx_answers(path: Path, inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return torch.from_numpy(answers)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the bundled digits, with class names and a normalisation."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    config = TrainConfig(epochs=1, batch_size=256, device="cpu")
    run_one(RunSpec.of("digits", head="spinal", limit=300, train=config), folder)
    return folder


def nudged(model: nn.Module) -> nn.Module:
    """Norms that have seen data, so that folding them wrongly is noticed."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


@pytest.mark.parametrize(
    ("name", "head", "options", "shape"),
    [
        ("mnist-cnn", "spinal", {}, (1, 28, 28)),
        pytest.param("mnist-cnn", "mlp", {}, (1, 28, 28), marks=slow),
        pytest.param("mnist-cnn", "linear", {}, (1, 28, 28), marks=slow),
        pytest.param("mnist-cnn", "progressive", {}, (1, 28, 28), marks=slow),
        ("mnist-pixels", "spinal", {"dropout": 0.5}, (1, 28, 28)),
        pytest.param("arch2", "spinal", {}, (1, 16, 16), marks=slow),
        pytest.param("cifar-resnet10-half", "spinal", {}, (3, 9, 9), marks=slow),
        pytest.param("regression-net", "spinal-reused", {}, (8,), marks=slow),
    ],
)
def test_every_head_answers_the_same_for_any_batch(
    tmp_path: Path, name: str, head: str, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    side = shape[1] if len(shape) == 3 else None
    model = create_model(name, 4, in_channels=shape[0], image_size=side, head=head, **options)
    nudged(model)
    done = export_onnx(model, tmp_path / "model.onnx", input_shape=shape)
    for batch in (1, 3, 20):
        x = torch.rand(batch, *shape)
        with torch.no_grad():
            truth = model.eval()(x)
        assert_close(f"batch {batch}", onnx_answers(done.path, x), truth, torch.float32)
    # Nothing but what the model computes: norms after a product are in it, dropout is gone.
    assert not done.nodes.keys() & {"BatchNormalization", "Dropout", "Identity", "Cast", "Slice"}


@pytest.mark.parametrize(
    "head",
    [
        SpinalNet(9, 2, 4, 6, share_weights=True, norm="batch", dropout=0.5),
        pytest.param(SpinalNet(10, 2, 4, 5, num_splits=3, activation="leaky_relu"), marks=slow),
        SpinalNet(2048, 3, 20, 5, share_weights=True, num_splits=3, activation="tanh"),
        SpinalNet(20, 2, 4, 5).flatten_parameters(),
        pytest.param(SpinalNet(12, 3, 5, norm="layer").double(), marks=slow),
        pytest.param(MLPHead(12, 3, (7, 6), norm="batch"), marks=slow),
    ],
    ids=["shared", "splits", "shared-unequal", "flat", "double", "mlp"],
)
def test_heads_of_all_kinds_export_and_stay_as_they_are(tmp_path: Path, head: nn.Module) -> None:
    nudged(head).train()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    done = export_onnx(head, tmp_path / "head.onnx")
    assert head.training
    for name, value in head.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    x = torch.randn(11, done.inputs[1])  # type: ignore[arg-type]
    with torch.no_grad():
        truth = head.float().eval()(x)
    assert_close("logits", onnx_answers(done.path, x), truth, torch.float32)
    assert done.nodes.keys().isdisjoint({"Dropout", "Slice"})


def test_a_spinal_chain_is_three_operations_a_layer(tmp_path: Path) -> None:
    done = export_onnx(SpinalNet(320, 10, 8, 6), tmp_path / "head.onnx")
    assert done.nodes == {"Split": 1, "Gemm": 7, "Relu": 6, "Concat": 6}


@pytest.mark.parametrize(
    ("inputs", "suffix"),
    [
        ("uint8-hwc", ".onnx"),
        ("uint8-chw", ".pt2"),
        pytest.param("float", ".onnx", marks=slow),
        pytest.param("uint8-chw", ".onnx", marks=slow),
        pytest.param("uint8-hwc", ".pt2", marks=slow),
        pytest.param("float", ".pt2", marks=slow),
    ],
)
def test_a_file_takes_raw_images_and_knows_its_classes(
    tmp_path: Path, run: Path, inputs: Any, suffix: str
) -> None:
    trained = trained_module.load_trained(run)
    path = tmp_path / f"model{suffix}"
    write = export_onnx if suffix == ".onnx" else export_program
    done = write(run, path, inputs=inputs, output="probabilities")
    images = torch.randint(0, 256, (5, *trained.info.input_shape), dtype=torch.uint8)
    with torch.no_grad():
        x = batches.normalize(images, trained.info.mean, trained.info.std)
        truth = trained.model(x).softmax(1)
    raw = images / 255 if inputs == "float" else images
    raw = raw.permute(0, 2, 3, 1).contiguous() if inputs == "uint8-hwc" else raw
    assert tuple(raw.shape[1:]) == done.inputs[1:]
    if suffix == ".onnx":
        answers = onnx_answers(path, raw)
        kept = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    else:
        extra = {"spinalnet.json": ""}
        with torch.no_grad():
            answers = torch.export.load(path, extra_files=extra).module()(raw)
        kept = json.loads(extra["spinalnet.json"])
    assert_close("probabilities", answers, truth, torch.float32)
    assert kept["inputs"] == inputs
    assert kept["output"] == "probabilities"
    assert kept["spinalnet"] == spinalnet.__version__
    assert kept["data"] == "digits"
    assert json.loads(kept["class_names"]) == list(trained.info.class_names)
    assert json.loads(kept["mean"]) == list(trained.info.mean)
    assert json.loads(kept["std"]) == list(trained.info.std)
    assert json.loads(kept["input_shape"]) == list(done.inputs[1:])


@slow
def test_without_normalisation_the_caller_does_it(tmp_path: Path, run: Path) -> None:
    trained = trained_module.load_trained(run)
    path = tmp_path / "model.onnx"
    export_onnx(run, path, inputs="float", normalize=False)
    x = torch.randn(3, *trained.info.input_shape)
    with torch.no_grad():
        assert_close("logits", onnx_answers(path, x), trained.model(x), torch.float32)


@slow
def test_a_checkpoint_file_and_other_opsets_do_too(tmp_path: Path, run: Path) -> None:
    done = export_onnx(run / "model.safetensors", tmp_path / "model.onnx", opset=export.OPSETS[-1])
    assert onnx.load(done.path).opset_import[0].version == export.OPSETS[-1]


def test_a_run_with_a_frozen_trunk_is_whole_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = TrainConfig(epochs=1, batch_size=256, device="cpu")
    spec = RunSpec.of("digits", limit=60, train=config, freeze=True)
    run_one(spec, tmp_path / "run")
    assert (tmp_path / "run" / "trunk.safetensors").exists()
    done = export_onnx(tmp_path / "run", tmp_path / "model.onnx")
    trained = trained_module.load_trained(tmp_path / "run")
    images = torch.randint(0, 256, (3, *done.inputs[1:]), dtype=torch.uint8)  # type: ignore[arg-type]
    x = batches.normalize(images.permute(0, 3, 1, 2), trained.info.mean, trained.info.std)
    with torch.no_grad():
        assert_close("logits", onnx_answers(done.path, images), trained.model(x), torch.float32)


# --- photographs ----------------------------------------------------------------------------------


def photographs(folder: Path, count: int) -> list[Path]:
    """Photographs of a flower and of a temple, 16:9, most from a camera held on its side."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    draw = np.random.default_rng(0)
    paths = []
    for number in range(count):
        name = ("flower", "china")[number % 2]
        whole = Image.fromarray(load_sample_image(f"{name}.jpg"))
        width = int(draw.integers(160, 400))
        left, top = (int(draw.integers(0, size)) for size in (640 - width, 427 - width * 9 // 16))
        photo = whole.crop((left, top, left + width, top + width * 9 // 16))
        photo = photo.resize((960, 540) if number % 3 else (320, 180), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[0x0112] = 6
        options: dict[str, Any] = {"exif": exif} if number % 4 else {}
        (folder / name).mkdir(parents=True, exist_ok=True)
        path = folder / name / f"{number:02}.{'png' if number % 5 == 4 else 'jpg'}"
        photo.save(path, **options | ({"quality": 92} if path.suffix == ".jpg" else {}))
        paths.append(path)
    return paths


@pytest.fixture(scope="module", params=[3, 1], ids=["colour", "grey"])
def photo_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    photographs(folder / "data", 40)
    config = TrainConfig(epochs=12, batch_size=8, lr=0.003, device="cpu")
    data = {"image_size": 44, "in_channels": request.param, "train": config}
    run_one(RunSpec.of(str(folder / "data"), **data), folder / "run")
    return folder / "run"


@pytest.mark.parametrize(
    ("inputs", "output", "normalize"),
    [
        ("uint8-hwc", "probabilities", True),
        pytest.param("uint8-chw", "logits", True, marks=slow),
        pytest.param("float", "logits", False, marks=slow),
    ],
)
def test_the_program_beside_a_file_makes_of_photographs_what_predict_makes(
    tmp_path: Path, photo_run: Path, inputs: Any, output: Any, normalize: bool
) -> None:
    """With Pillow, NumPy and ONNX Runtime alone; orientation 6 and sides of 16:9."""
    options = {"inputs": inputs, "output": output, "normalize": normalize}
    done = export_onnx(photo_run, tmp_path / "photos.onnx", **options)
    assert done.preprocessing == tmp_path / "photos_preprocess.py"
    text = done.preprocessing.read_text()
    assert "python photos_preprocess.py photo.jpg" in text
    assert "spinalnet." not in text.replace("spinalnet predict", "")
    paths = photographs(tmp_path / "new", 30)
    alone = subprocess.run(
        [
            sys.executable,
            "-c",
            "import runpy, sys\n"
            "sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'spinalnet', 'scipy')))\n"
            "sys.argv = sys.argv[1:]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')",
            *map(str, [done.preprocessing, *paths]),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    said = list(predict_images(photo_run, paths))
    equal = 0
    for path, line, truth in zip(paths, alone, said, strict=True):
        name, probability = line.removeprefix(f"{path}: ").rstrip(")").split(" (")
        equal += name == truth.class_name
        assert abs(float(probability) - truth.probability) < 0.02
    assert equal == 30
    assert len({truth.class_name for truth in said}) == 2
    assert len({round(truth.probability, 3) for truth in said}) > 5, "nothing was told apart"


def test_the_program_asks_no_network_but_its_own(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten of 120 flips of a bit changed its answers, unseen."""
    done = export_onnx(run, tmp_path / "photos.onnx")
    assert done.preprocessing is not None
    (picture,) = photographs(tmp_path / "new", 1)
    whole = done.path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1

    def said(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", [str(done.preprocessing), *map(str, words)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(done.preprocessing), run_name="__main__")
        found = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, found.out, found.err

    for content in (bytes(flipped), whole[:-100], b"", b"another network"):
        done.path.write_bytes(content)
        code, out, err = said(picture)
        assert (code, out) == (2, "")
        assert "photos.onnx is damaged, or not the file that this program was written with" in err
    done.path.unlink()
    assert said(picture)[:2] == (2, "")
    if hasattr(os, "mkfifo"):  # which would be waited for
        os.mkfifo(done.path)
        assert said(picture)[:2] == (2, "")
        done.path.unlink()
    done.path.write_bytes(whole)
    (tmp_path / "none.jpg").write_bytes(b"no picture")
    code, out, err = said(tmp_path / "none.jpg", tmp_path / "missing.jpg", picture)
    assert code == 2
    assert out.startswith(f"{picture}: ")
    assert [line.split(" cannot be read")[0] for line in err.splitlines()] == [
        str(tmp_path / name) for name in ("none.jpg", "missing.jpg")
    ]
    assert said()[0] == 2
    assert said(picture)[0] == 0


def test_the_program_scales_deep_files_as_the_training_images_were(tmp_path: Path) -> None:
    from PIL import Image

    draw = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "data" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        values = draw.integers(0, 4096 // (1 + number % 2), (30, 40), dtype=np.uint16)
        Image.fromarray(values).save(folder / f"{number}.png")
    config = TrainConfig(epochs=1, device="cpu")
    data = {"image_size": 28, "in_channels": 1, "pixel_range": (0, 4095), "train": config}
    run_one(RunSpec.of(str(tmp_path / "data"), **data), tmp_path / "run")
    done = export_onnx(tmp_path / "run", tmp_path / "deep.onnx")
    assert done.preprocessing is not None
    program = runpy.run_path(str(done.preprocessing))
    assert program["PIXEL_RANGE"] == (0, 4095)
    for path in (tmp_path / "data").rglob("*.png"):
        truth = images.read_pixels(str(path), 1, 28, Depths((0, 4095)))
        found = torch.from_numpy(program["preprocess"](path)[0].copy())
        assert (found.int() - truth.int()).abs().max() <= 1


def test_a_file_of_a_module_or_of_rows_has_no_program_beside_it(tmp_path: Path) -> None:
    done = export_onnx(SpinalNet(9, 2, 4), tmp_path / "head.onnx")
    assert done.preprocessing is None
    assert [path.name for path in tmp_path.iterdir()] == ["head.onnx"]


def test_nothing_about_the_machine_is_in_the_file(tmp_path: Path) -> None:
    head = SpinalNet(9, 2, 4)
    export_onnx(head, tmp_path / "head.onnx")
    export_program(head, tmp_path / "head.pt2")
    here = str(Path(spinalnet.__file__).parent).encode()
    for path in (tmp_path / "head.onnx", tmp_path / "head.pt2"):
        assert here not in path.read_bytes()
        assert b"site-packages" not in path.read_bytes()


def test_a_file_that_answers_differently_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, path = SpinalNet(9, 2, 4), tmp_path / "head.onnx"
    path.write_text("the file before")
    monkeypatch.setattr(export._Deployed, "forward", lambda self, inputs: self.model(inputs) + 1e-3)
    for write in (export_onnx, export_program):
        with pytest.raises(SpinalnetError, match="nothing was written"):
            write(head, path)
    assert path.read_text() == "the file before"


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    find = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ImportError(f"No module named {name!r}")
        return find(name, *rest)

    monkeypatch.setattr(export.importlib, "import_module", lambda name: refuse(name))
    with pytest.raises(InputError, match=rf"needs the package {missing}: .*'\.\[export\]'"):
        export_onnx(SpinalNet(9, 2, 4), tmp_path / "head.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 9}, "opset must be in 18 to 23"),
        ({"inputs": "uint8-hwc"}, "inputs must be 'float' for samples of shape"),
        ({"inputs": "bytes"}, "unknown kind of inputs 'bytes'"),
        ({"output": "classes"}, "unknown output 'classes'"),
        ({"mean": (0.5,)}, "mean and std must have one value per channel"),
        ({"class_names": ("a", "b", "c")}, "class_names must name the 2 outputs"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export_onnx(SpinalNet(9, 2, 4), tmp_path / "head.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_wrong_combinations_with_a_run_are_refused(tmp_path: Path, run: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(InputError, match="belong to a run"):
        export_onnx(run, path, mean=(0.5,), std=(0.5,))
    with pytest.raises(InputError, match="inputs must be 'float'"):
        export_onnx(run, path, normalize=False)
    with pytest.raises(InputError, match="input_shape must say"):
        export_onnx(create_model("mnist-cnn", 10), path)
    with pytest.raises(InputError, match="is not the folder of a run"):
        export_onnx(tmp_path / "nowhere", path)
    with pytest.raises(InputError, match=r"must return \(N, outputs\)"):
        export_onnx(nn.Conv2d(1, 2, 3), path, input_shape=(1, 8, 8))


def test_the_command_writes_both_kinds_and_explains_itself(tmp_path: Path, run: Path) -> None:
    def command(*words: object) -> str:
        result = CliRunner().invoke(root.app, ["export", *map(str, words)], catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    path = tmp_path / "model.onnx"
    done = command(run, path, "--output", "probabilities")
    side = trained_module.load_trained(run).info.input_shape[1]
    assert f"uint8 (N, {side}, {side}, 1)" in done
    assert f"{tmp_path / 'model_preprocess.py'}: makes its inputs of photographs" in done
    answers = onnx_answers(path, torch.zeros(2, side, side, 1, dtype=torch.uint8))
    torch.testing.assert_close(answers.sum(1), torch.ones(2))
    for words in (["model.txt"], ["model.pt2", "--opset", "18"]):
        with pytest.raises(InputError, match=r"must end in \.onnx"):
            command(run, *words)


@slow
def test_the_benchmark_times_every_way() -> None:
    rows = bench.bench_export([3], seconds=0.0)
    assert len(rows) == 8
    assert {row.baseline for row in rows} == {"torch", "torch, ours"}
    assert all(row.ours > 0 and row.theirs > 0 for row in rows)
