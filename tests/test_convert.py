"""What `convert` reads, what it assumes and says, and what it refuses to guess."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import golden
from spinalnet import InputError, files
from spinalnet.comparison.trained import load_trained
from spinalnet.models import assembly, zoo
from spinalnet.paper.weights import convert_checkpoint, load_original_state_dict


class Longhand(nn.Module):
    """The original's customizable head, layer by layer, with any wiring of its six variants.

    Args:
        features: Width of its input.
        splits: Number that `features` is divided by to get the width of a slice.
        width: Of every layer.
        calls: Which layer runs at every place of the chain, from 1.
        classes: Number of outputs.
        activation: Between the layers.
    """

    def __init__(
        self,
        features: int,
        splits: int,
        width: int,
        calls: Sequence[int],
        classes: int,
        activation: Callable[[Tensor], Tensor] = F.relu,
        allocated: int | None = None,
    ) -> None:
        super().__init__()
        self.slice, self.calls, self.activation = round(features / splits), calls, activation
        for layer in range(1, (allocated or max(calls)) + 1):
            inputs = self.slice + (width if layer > 1 else 0)
            setattr(self, f"fc{layer}", nn.Linear(inputs, width))
        self.fcx = nn.Linear(width * len(calls), classes)

    def forward(self, x: Tensor) -> Tensor:
        tiled = x
        while tiled.shape[1] < self.slice * len(self.calls):
            tiled = torch.cat([tiled, x], 1)
        hidden: list[Tensor] = []
        for place, layer in enumerate(self.calls):
            part = tiled[:, self.slice * place : self.slice * (place + 1)]
            feed = torch.cat([part, *hidden[-1:]], 1)
            hidden.append(self.activation(getattr(self, f"fc{layer}")(feed)))
        return self.fcx(torch.cat(hidden, 1))


SIX, REUSED = (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 3, 4)


def trained(net: nn.Module, features: int) -> nn.Module:
    """Train a net for some steps, as its script would have."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    x = torch.rand(64, features)
    for _ in range(30):
        optimizer.zero_grad()
        F.mse_loss(net(x), x.sum(1, keepdim=True)).backward()
        optimizer.step()
    return net.eval()


def convert(
    state: dict[str, Tensor], model: str, folder: Path, **options: Any
) -> tuple[assembly.ImageModel, dict[str, str]]:
    """Convert and return the model, with what was assumed of which option."""
    torch.save(state, folder / "old.pth")
    said: list[str] = []
    made = convert_checkpoint(
        folder / "old.pth", model, folder / "new.safetensors", on_assumption=said.append, **options
    )
    again = load_trained(folder / "new.safetensors").model  # what was written is what was returned
    for name, value in made.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    parts = [sentence.partition("=") for sentence in said]
    return made, {option: rest for option, _, rest in parts}


# --- wiring and activation ------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [SIX, REUSED], ids=["all six ran", "two ran twice"])
def test_training_tells_whether_layers_ran_twice(calls: Sequence[int], tmp_path: Path) -> None:
    net = trained(Longhand(8, 2, 50, calls, 1, F.leaky_relu, allocated=6), 8)
    x = torch.rand(5, 8)
    options = {"activation": "leaky_relu"} if calls is SIX else {}
    made, said = convert(net.state_dict(), "regression-net", tmp_path, **options)
    torch.testing.assert_close(made(x), net(x))
    if calls is SIX:
        assert said["wiring"].startswith("chain: all six layers ran: fc5 has left ±0.136")
    else:
        assert said["wiring"].startswith("reused: fc5 and fc6 still lie within ±0.136")
        assert said["activation"].startswith("leaky_relu: both scripts that run layers twice")
        assert any(key.startswith("4 weights not used") for key in said)


def six(activation: Callable[[Tensor], Tensor] = F.relu, calls: Sequence[int] = SIX) -> nn.Module:
    """Six layers that say nothing of themselves: as they were initialised."""
    torch.manual_seed(1)
    return Longhand(8, 2, 50, calls, 1, activation, allocated=6).eval()


def test_six_layers_that_say_nothing_are_refused_with_both_options(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"give wiring=chain or wiring=reused, the first with act"):
        convert(six().state_dict(), "regression-net", tmp_path)
    with pytest.raises(InputError, match=r"which activation .* give activation=relu"):
        convert(six().state_dict(), "regression-net", tmp_path, wiring="chain")
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize(
    ("activation", "function"),
    [("relu", F.relu), ("leaky_relu", F.leaky_relu), ("tanh", torch.tanh), ("elu", F.elu)],
)
@pytest.mark.parametrize(("wiring", "calls"), [("chain", SIX), ("reused", REUSED)])
def test_every_wiring_and_activation_can_be_given(
    wiring: str,
    calls: Sequence[int],
    activation: str,
    function: Callable[[Tensor], Tensor],
    tmp_path: Path,
) -> None:
    net, x = six(function, calls), torch.rand(5, 8)
    options = {"wiring": wiring, "activation": activation}
    made, said = convert(net.state_dict(), "regression-net", tmp_path, **options)
    torch.testing.assert_close(made(x), net(x))
    assert "wiring" not in said
    assert "activation" not in said


def test_six_layers_on_a_backbone_are_not_taken_for_the_originals_reuse(tmp_path: Path) -> None:
    import torchvision

    net = torchvision.models.resnet18(weights=None)
    net.fc = Longhand(512, 2, 5, SIX, 2)
    net.eval()
    with pytest.raises(InputError, match="give wiring=chain or wiring=reused"):
        convert(net.state_dict(), "resnet18", tmp_path)
    images = torch.rand(2, 3, 64, 64)
    for wiring, calls in (("chain", SIX), ("reused", REUSED)):
        net.fc.calls = calls
        options = {"wiring": wiring, "activation": "relu"}
        made, _ = convert(net.state_dict(), "resnet18", tmp_path, image_size=64, **options)
        with torch.no_grad():
            torch.testing.assert_close(made(images), net(images))


def test_a_head_is_a_wiring_and_they_must_agree(tmp_path: Path) -> None:
    state = six().state_dict()
    convert(state, "regression-net", tmp_path, head="spinal", activation="relu")
    convert(state, "regression-net", tmp_path, head="spinal-reused")
    with pytest.raises(InputError, match="wiring=reused belongs to the head 'spinal-reused'"):
        convert(state, "regression-net", tmp_path, head="spinal", wiring="reused")
    with pytest.raises(InputError, match="unknown wiring 'chian'; did you mean 'chain'"):
        convert(state, "regression-net", tmp_path, wiring="chian")


def test_an_activation_that_the_names_tell_can_be_overridden(tmp_path: Path) -> None:
    state = {key: v.float() for key, v in golden.state_dict(MNIST).items()}
    made, said = convert(state, "mnist-cnn", tmp_path)
    assert said["activation"] == "relu: every script with these names uses it"
    assert said["dropout"].startswith("0.0: the scripts with these names have none")
    assert said["mean"].startswith("0, std=1: the file does not say how images were normalised")
    other, _ = convert(state, "mnist-cnn", tmp_path, activation="tanh")
    assert isinstance(other.head.spine.activation, nn.Tanh)
    images = torch.rand(2, 1, 28, 28)
    assert not torch.allclose(other(images), made(images))


MNIST = golden.MNIST_TRUNK | golden.chain(golden.suffixed("fc1", 6), "fc2", 160, 8, 10)


# --- slices ---------------------------------------------------------------------------------------

SLICED = [
    # features, splits, layers, activation given; head and splits that must come out
    (12, 2, 4, "spinal", 2),
    (12, 3, 4, "spinal", 3),
    (12, 4, 8, "spinal", 4),
    (12, 6, 7, "spinal", 6),
    (12, 12, 12, "spinal", 12),
    (12, 4, 3, "spinal-tiled", 4),
    (11, 4, 4, "spinal-tiled", 4),
    (10, 4, 6, "spinal", 5),  # slices of two: 10 / 4 is rounded to the even number
    (7, 2, 4, "spinal-tiled", 2),
]


@pytest.mark.parametrize(("features", "splits", "layers", "head", "read"), SLICED)
def test_slices_are_read_from_the_shapes(
    features: int, splits: int, layers: int, head: str, read: int, tmp_path: Path
) -> None:
    net = Longhand(features, splits, 5, range(1, layers + 1), 3).eval()
    x = torch.rand(4, features)
    options = {"activation": "relu", "in_channels": features}
    if layers == 6:
        options["wiring"] = "chain"
    made, said = convert(net.state_dict(), "regression-net", tmp_path, **options)
    torch.testing.assert_close(made(x), net(x))
    assert said["num_splits"].startswith(f"{read}: the first layer reads")
    _, about = files.load_weights(tmp_path / "new.safetensors")
    assert about["head"] == head
    if "wiring" not in options:
        assert said["wiring"].startswith("tiled: " if head == "spinal-tiled" else "chain: the scr")


SHARED = [
    ("vit_tiny_patch16_224", "head", 192, 4, 4),
    ("vit_tiny_patch16_224", "head", 192, 8, 8),
    ("vit_tiny_patch16_224", "head", 192, 8, 16),
    ("resnet18", "fc", 512, 4, 4),
    ("resnet18", "fc", 512, 2, 6),
    ("alexnet", "classifier", 9216, 8, 8),
]


@pytest.mark.parametrize(("model", "attribute", "features", "splits", "layers"), SHARED)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.model."])
def test_a_shared_matrix_with_any_number_of_slices(
    model: str,
    attribute: str,
    features: int,
    splits: int,
    layers: int,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = zoo.MODELS[model]
    body = nn.Sequential(nn.Conv2d(3, features, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    small = zoo.ModelRow(lambda _: body, (3, 8, 8), 1, row.heads, pretrained=True)
    monkeypatch.setitem(zoo.MODELS, model, small)
    head = Longhand(features, splits, 10, [1, *[2] * (layers - 1)], 3).eval()
    state = body.state_dict() | {f"{attribute}.{k}": v for k, v in head.state_dict().items()}
    state = {prefix + key: value for key, value in state.items()}
    made, said = convert(state, model, tmp_path)
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(made(images), head(body(images)))
    assert said["num_splits"].startswith(f"{splits}: the first layer reads")
    assert said["wiring"].startswith("shared: two layers in the file")
    assert said["activation"].startswith("relu: every script that shares a matrix")


def test_a_real_vision_transformer_is_converted(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    net.head = Longhand(192, 8, 10, [1, *[2] * 7], 10)
    net.eval()
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    made, _ = convert(state, "vit_tiny_patch16_224", tmp_path)
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(made(images), net(images))


def test_rows_whose_length_is_not_said_are_refused_with_the_options(tmp_path: Path) -> None:
    net = Longhand(12, 4, 5, range(1, 9), 1).eval()
    with pytest.raises(InputError, match=r"reads 3 numbers, .* give num_splits, or .* in_channels"):
        convert(net.state_dict(), "regression-net", tmp_path, activation="relu")
    x = torch.rand(3, 12)
    for options in ({"in_channels": 12}, {"num_splits": 4}):
        made, _ = convert(
            net.state_dict(), "regression-net", tmp_path, activation="relu", **options
        )
        torch.testing.assert_close(made(x), net(x))


def test_slices_that_are_no_part_of_the_features_are_refused(tmp_path: Path) -> None:
    state = golden.state_dict(
        golden.MNIST_TRUNK | golden.chain(golden.suffixed("fc1", 6), "fc2", 150, 8, 10)
    )
    with pytest.raises(InputError, match=r"slices of 150 .* 320 features .* image_size"):
        convert({key: v.float() for key, v in state.items()}, "mnist-cnn", tmp_path)


def test_dense_and_progressive_rows_are_as_long_as_their_first_matrix(tmp_path: Path) -> None:
    state = golden.state_dict(golden.mlp(["0", "2", "4"], 13, 20, 10, 1))
    made, said = convert({k: v.float() for k, v in state.items()}, "regression-net", tmp_path)
    assert made(torch.rand(2, 13)).shape == (2, 1)
    assert said["activation"].startswith("leaky_relu: the original's script for regression-net")


# --- what else a file may be ----------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module.model.", "net._orig_mod."])
def test_prefixes_are_taken_off_in_python_too(prefix: str) -> None:
    state = golden.state_dict(MNIST)
    models = [assembly.create_model("mnist-cnn", 10).double().eval() for _ in range(2)]
    load_original_state_dict(models[0], state)
    load_original_state_dict(models[1], {prefix + key: value for key, value in state.items()})
    images = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    assert torch.equal(models[0](images), models[1](images))


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    state = {key: v.float() for key, v in golden.state_dict(MNIST).items()}
    state["fc1_3.bias"][2] = float("nan")
    with pytest.raises(InputError, match=r"fc1_3\.bias hold numbers that are not finite"):
        convert(state, "mnist-cnn", tmp_path)
    with pytest.raises(InputError, match=r"fc1_3\.bias hold numbers that are not finite"):
        load_original_state_dict(assembly.create_model("mnist-cnn", 10), state)


def test_the_slope_in_a_file_is_its_activation(tmp_path: Path) -> None:
    net = Longhand(8, 2, 5, range(1, 5), 1, nn.PReLU(init=0.1))
    state = {k.replace("activation.", "lru."): v for k, v in net.state_dict().items()}
    made, said = convert(state, "regression-net", tmp_path)
    x = torch.rand(3, 8) - 0.5
    torch.testing.assert_close(made(x), net(x))
    assert said["activation"].startswith("prelu: the file holds its slope, lru.weight")


def test_a_linear_head_on_one_position_can_be_used_again(tmp_path: Path) -> None:
    """Its neck is another than the usual one, and has to be in the file."""
    trunk = golden.resnet_trunk(1, 1, 1, 1)
    state = golden.state_dict(trunk | golden.linear("fc_layer", 10, 256))
    made, _ = convert(
        {k: v.float() if v.is_floating_point() else v for k, v in state.items()},
        "cifar-resnet10-half",
        tmp_path,
    )
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_trained(tmp_path / "new.safetensors").model(images), made(images))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"std": [0.0]}, "std must be a positive number per channel"),
        ({"std": [-0.3]}, "std must be a positive number per channel"),
        ({"std": [float("inf")]}, "std must be a positive number per channel"),
        ({"mean": [float("nan")]}, "mean must be a number per channel"),
        ({"mean": [33.3]}, "divide what is on that of 0 to 255 by 255"),
        ({"std": [78.6]}, "divide what is on that of 0 to 255 by 255"),
        ({"class_names": ["a"] * 10}, "class_names must differ"),
        ({"class_names": [*"abcdefghi", ""]}, "none be empty"),
    ],
)
def test_constants_and_classes_that_cannot_be_are_refused(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        convert(
            {key: v.float() for key, v in golden.state_dict(MNIST).items()},
            "mnist-cnn",
            tmp_path,
            **options,
        )
    assert not (tmp_path / "new.safetensors").exists()


def test_the_file_to_convert_is_not_overwritten(tmp_path: Path) -> None:
    torch.save(
        {key: v.float() for key, v in golden.state_dict(MNIST).items()}, tmp_path / "old.pth"
    )
    before = (tmp_path / "old.pth").read_bytes()
    (tmp_path / "link.pth").symlink_to("old.pth")
    for out in ("old.pth", "link.pth"):
        with pytest.raises(InputError, match="would be lost: give another name"):
            convert_checkpoint(tmp_path / "old.pth", "mnist-cnn", tmp_path / out)
    assert (tmp_path / "old.pth").read_bytes() == before


def test_constants_are_kept_and_counted(tmp_path: Path) -> None:
    state = {key: v.float() for key, v in golden.state_dict(MNIST).items()}
    _, said = convert(state, "mnist-cnn", tmp_path, mean=[0.13], std=[0.3])
    assert "mean" not in said
    with pytest.raises(InputError, match=r"mean must have one number per channel \(1\), got 2"):
        convert(state, "mnist-cnn", tmp_path, mean=[0.1, 0.2])
