"""Reading weights of the paper's scripts: every spelling, and every way a file can be wrong."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import golden
from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.models import assembly, zoo
from spinalnet.models.checkpoints import read_weights
from spinalnet.nn.heads import make_head
from spinalnet.paper.weights import convert_checkpoint, load_original_state_dict

# One case of every kind of network, each small enough to write to a file.
CONVERTIBLE = [
    case
    for case in golden.CASES
    if isinstance(case.model, str) and case.num_classes != 100 and case.numbers.params < 4e6
]
MNIST = next(case for case in golden.CASES if case.table == "MNIST CNN spinal, w=8")


def original(case: golden.Case) -> dict[str, Tensor]:
    """Golden weights of a case as its script would save them: float32."""
    return {
        key: value if value.dtype == torch.int64 else value.float()
        for key, value in golden.state_dict(case.shapes).items()
    }


def build(case: golden.Case) -> nn.Module:
    assert isinstance(case.model, str)
    model = assembly.create_model(case.model, case.num_classes, head=case.head, **case.options)
    return model.eval()


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def with_key(key: str, value: Any) -> dict[str, Any]:
    return {**original(MNIST), key: value}


def without_key(key: str) -> dict[str, Any]:
    return {name: value for name, value in original(MNIST).items() if name != key}


@pytest.mark.parametrize(
    ("state_dict", "message"),
    [
        (without_key("fc1_3.bias"), r"1 missing \(fc1_3.bias\)"),
        (with_key("fc9.weight", torch.zeros(2)), r"1 additional \(fc9.weight\)"),
        (
            with_key("fc1_2.weight", torch.zeros(8, 169)),
            r"1 of another shape \(fc1_2.weight \(8, 169\) instead of \(8, 168\)",
        ),
        (with_key("epoch", 3), "epoch is not a tensor"),
        ({}, "it is empty"),
        ([torch.zeros(2)], "must map names to tensors, got list"),
        (golden.state_dict(golden.mlp(["0", "2", "4"], 8, 200, 100, 1)), "and 15 more"),
    ],
)
def test_wrong_weights_are_named_and_nothing_is_loaded(state_dict: Any, message: str) -> None:
    model = build(MNIST)
    before = weights_of(model)
    with pytest.raises(InputError, match=message) as caught:
        load_original_state_dict(model, state_dict)
    assert "\n" not in str(caught.value)
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_a_head_of_another_kind_or_norm_is_refused() -> None:
    with pytest.raises(InputError, match="do not fit model 'mnist-cnn' with head MLPHead"):
        load_original_state_dict(
            assembly.create_model("mnist-cnn", 10, head="mlp"), original(MNIST)
        )
    normed = assembly.create_model("mnist-cnn", 10, norm="layer")
    with pytest.raises(InputError, match="missing"):
        load_original_state_dict(normed, original(MNIST))
    deep = make_head("mlp", 8, 2, hidden_features=(4, 4, 4, 4))
    with pytest.raises(InputError, match="the original scripts have no head MLPHead"):
        load_original_state_dict(deep, {"0.weight": torch.zeros(4, 8)})


def test_activation_must_be_the_one_of_training() -> None:
    weights = golden.state_dict(golden.affine(8, 4, 2))
    with pytest.raises(InputError, match="activation='identity', but the head has ReLU"):
        load_original_state_dict(make_head("spinal", 8, 2, hidden_features=4), weights)
    load_original_state_dict(
        make_head("spinal", 8, 2, hidden_features=4, activation="identity"), weights
    )
    bare = golden.state_dict(golden.bare(8, 4, 2))
    with pytest.raises(InputError, match="activation='relu', but the head has Identity"):
        load_original_state_dict(
            make_head("spinal", 8, 2, hidden_features=4, activation="identity"), bare
        )


def test_shared_slope_of_a_parametric_activation() -> None:
    head = make_head("spinal", 8, 2, hidden_features=4, num_layers=3, activation="prelu")
    weights = golden.state_dict(golden.custom(8, 2, 4, 3, 2))
    with pytest.raises(InputError, match=r"missing \(lru\.weight"):
        load_original_state_dict(head, weights)
    load_original_state_dict(head, {**weights, "lru.weight": torch.tensor([0.125])})
    assert head.spine.activation.weight.item() == 0.125


def test_counters_of_batch_norms_may_be_missing() -> None:
    head = make_head("spinal", 8, 2, hidden_features=4, norm="batch")
    weights = golden.state_dict(golden.dropout_norm(8, 4, 2))
    counted = {
        key: value + 5 if value.dtype == torch.int64 else value for key, value in weights.items()
    }
    load_original_state_dict(head, counted)
    assert head.spine.norms[0].num_batches_tracked == 5
    load_original_state_dict(
        head, {key: value for key, value in weights.items() if "tracked" not in key}
    )
    assert head.spine.norms[0].num_batches_tracked == 5
    with pytest.raises(InputError, match=r"missing \(fc_spinal_layer2\.2\.running_var"):
        load_original_state_dict(
            head, {key: value for key, value in weights.items() if "2.2.running_var" not in key}
        )


def test_layers_that_never_ran_are_left_out_only_where_layers_run_twice() -> None:
    weights = golden.state_dict(golden.custom(8, 2, 50, 6, 1))
    reused = assembly.create_model("regression-net", 1, head="spinal-reused")
    load_original_state_dict(reused, weights)
    alive = {key: value for key, value in weights.items() if key[:3] not in ("fc5", "fc6")}
    load_original_state_dict(reused, alive)  # without the dead ones the same
    six = assembly.create_model("regression-net", 1)
    load_original_state_dict(six, weights)
    assert torch.equal(six.head.spine.layers[5].weight, weights["fc6.weight"].float())
    four = assembly.create_model("regression-net", 1, num_layers=4)
    with pytest.raises(InputError, match=r"4 additional \(fc5\.weight, fc5\.bias, .* and 1 more"):
        load_original_state_dict(four, weights)


@pytest.mark.parametrize("attribute", ["fc", "classifier", "head"])
@pytest.mark.parametrize(
    ("flavour", "shapes"),
    [
        ("bare", golden.bare(16, 3, 2)),
        ("dropout+norm", golden.dropout_norm(16, 3, 2)),
        ("affine", golden.affine(16, 3, 2)),
        ("ten-layer", golden.custom(16, 2, 3, 10, 2)),
        ("shared", golden.shared(16, 3, 2)),
        ("hymenoptera", golden.custom(16, 2, 3, 6, 2)),
        ("linear", {"weight": (2, 16), "bias": (2,)}),
    ],
)
def test_heads_below_the_attribute_of_a_backbone(
    attribute: str, flavour: str, shapes: golden.Shapes
) -> None:
    name, options = golden.flavour(flavour, 3)
    alone, below = (make_head(name, 16, 2, **options).double().eval() for _ in range(2))
    weights = golden.state_dict(shapes)
    load_original_state_dict(alone, weights)
    load_original_state_dict(below, {f"{attribute}.{key}": v for key, v in weights.items()})
    x = torch.randn(3, 16, dtype=torch.float64)
    assert torch.equal(below(x), alone(x))


class HymenopteraHead(nn.Module):
    """The original's head on ResNet-18, longhand: layers 3 and 4 run again as 5 and 6."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(256, 5)
        for index in range(2, 7):
            setattr(self, f"fc{index}", nn.Linear(261, 5))
        self.fcx = nn.Linear(30, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = [nn.functional.leaky_relu(self.fc1(x[:, :256]))]
        layers = (self.fc2, self.fc3, self.fc4, self.fc3, self.fc4)
        for part, layer in zip((1, 0, 1, 0, 1), layers, strict=True):
            feed = torch.cat([x[:, 256 * part : 256 * (part + 1)], hidden[-1]], dim=1)
            hidden.append(nn.functional.leaky_relu(layer(feed)))
        return self.fcx(torch.cat(hidden, dim=1))


def test_whole_backbone_checkpoint(tmp_path: Path) -> None:
    import torchvision

    theirs = torchvision.models.resnet18(weights=None)
    theirs.fc = HymenopteraHead()
    theirs.eval()
    images = torch.randn(2, 3, 64, 64)
    ours = assembly.create_model("resnet18", 2, image_size=64, head="spinal-reused").eval()
    load_original_state_dict(ours, theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))
    # The file says nothing about layers that run twice.
    torch.save(theirs.state_dict(), tmp_path / "ants.pth")
    converted = convert_checkpoint(
        tmp_path / "ants.pth", "resnet18", tmp_path / "ants.safetensors", wiring="reused"
    )
    with torch.no_grad():
        torch.testing.assert_close(converted(images), theirs(images))


def test_dead_head_of_the_vgg19_scripts_is_left_out() -> None:
    with torch.device("meta"):
        ours = assembly.create_model("vgg19_bn", 1000, head="mlp-paper")
        body = ours.trunk.state_dict()
        classifier = golden.mlp(["0", "3", "6"], 25088, 4096, 4096, 1000)
        dead = golden.dropout_norm(25088, 20, 10)
        weights = body | {
            f"{prefix}.{key}": torch.empty(shape)
            for prefix, shapes in (("classifier", classifier), ("fc", dead))
            for key, shape in shapes.items()
        }
        load_original_state_dict(ours, weights)
        # Our spinal head on this backbone is not what those scripts trained.
        spinal = assembly.create_model("vgg19_bn", 10, hidden_features=20)
        with pytest.raises(InputError, match=r"missing \(classifier\.fc_spinal_layer1"):
            load_original_state_dict(spinal, weights)


@pytest.mark.parametrize("case", CONVERTIBLE, ids=lambda case: case.table)
def test_convert_reads_head_and_sizes_from_the_file(case: golden.Case, tmp_path: Path) -> None:
    torch.save(OrderedDict(original(case)), tmp_path / "old.pth")
    out = tmp_path / "new.safetensors"
    # Of untrained layers nothing can tell which ones ran.
    wiring = "reused" if case.head == "spinal-reused" else None
    convert_checkpoint(tmp_path / "old.pth", str(case.model), out, wiring=wiring)
    weights, about = files.load_weights(out)
    shape = about["input_shape"]
    model = assembly.create_model(
        about["model"],
        len(about["class_names"]),
        *shape[:2],
        head=about["head"],
        neck=about["neck"],
        **about["head_options"],
    )
    model.load_state_dict(weights)
    expected = load_original_state_dict(build(case), original(case))
    images = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), expected(images))
    assert about["head"] == case.head
    assert len(about["mean"]) == len(about["std"]) == shape[0]


def test_every_kind_of_own_network_is_converted() -> None:
    own = {name for name, row in zoo.MODELS.items() if not row.pretrained}
    heavy = {name for name in own if name.startswith("cifar-vgg")} | {"cifar-resnet34-half"}
    ours = {"resnet9"}  # of which there are no weights of the original
    assert {case.model for case in CONVERTIBLE} == own - heavy - ours


@pytest.mark.parametrize(
    ("flavour", "attribute_shapes", "options"),
    [
        ("bare", golden.bare(2048, 20, 3), {"activation": "relu", "dropout": 0.0, "norm": None}),
        ("dropout+norm", golden.dropout_norm(2048, 20, 3), {"norm": "batch", "dropout": 0.5}),
        ("affine", golden.affine(2048, 20, 3), {"activation": "identity"}),
        ("shared", golden.shared(2048, 20, 3), {"num_layers": 8}),
        ("two-layer", golden.mlp(["0", "2", "4"], 2048, 204, 204, 3), {"dropout": 0.0}),
        ("linear", {"weight": (3, 2048), "bias": (3,)}, {"dropout": 0.0}),
    ],
)
def test_convert_reads_the_head_of_a_backbone(
    flavour: str,
    attribute_shapes: golden.Shapes,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A stand-in body as wide as the real one keeps the file small.
    row = zoo.MODELS["wide_resnet101_2"]
    body = nn.Sequential(nn.Conv2d(3, 2048, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    small = zoo.ModelRow(lambda _: body, (3, 8, 8), 1, row.heads, pretrained=True)
    monkeypatch.setitem(zoo.MODELS, "wide_resnet101_2", small)
    head = {f"fc.{key}": v.float() for key, v in golden.state_dict(attribute_shapes).items()}
    torch.save({**body.state_dict(), **head}, tmp_path / "old.pth")
    out = tmp_path / "new.safetensors"
    converted = convert_checkpoint(tmp_path / "old.pth", "wide_resnet101_2", out)
    _, about = files.load_weights(out)
    name, _ = golden.flavour(flavour, 20)
    assert about["head"] == name
    assert about["head_options"].items() >= options.items()
    assert converted(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


def test_convert_takes_what_the_file_cannot_tell(tmp_path: Path) -> None:
    torch.save(original(MNIST), tmp_path / "old.pth")
    names = [f"digit {i}" for i in range(10)]
    model = convert_checkpoint(
        tmp_path / "old.pth",
        "mnist-cnn",
        tmp_path / "new.safetensors",
        class_names=names,
        mean=[0.1307],
        std=[0.3081],
        dropout=0.25,
    )
    assert not model.training
    assert model.head.spine.dropout == 0.25
    _, about = files.load_weights(tmp_path / "new.safetensors")
    assert about["class_names"] == names
    assert (about["mean"], about["std"]) == ([0.1307], [0.3081])
    assert about["input_shape"] == [1, 28, 28]
    assert about["converted_from"] == "old.pth"
    # All six layers of the regression net, if asked for.
    regression = next(case for case in golden.CASES if case.head == "spinal-reused")
    torch.save(original(regression), tmp_path / "net.pth")
    six = convert_checkpoint(
        tmp_path / "net.pth",
        "regression-net",
        tmp_path / "six.safetensors",
        head="spinal",
        activation="leaky_relu",
    )
    assert len(six.head.spine.layers) == 6


def test_convert_refuses_and_writes_nothing(tmp_path: Path) -> None:
    old, out = tmp_path / "old.pth", tmp_path / "new.safetensors"
    torch.save(original(MNIST), old)
    for arguments, message in [
        ({"model_name": "mnist-cn"}, "unknown model 'mnist-cn'; did you mean 'mnist-cnn'"),
        ({"model_name": "resnet18"}, "holds no head that the original scripts use"),
        ({"class_names": ["a"]}, "class_names must have 10 names"),
        ({"image_size": 64}, "slices of 160 for 6 layers do not fall evenly on the 3380 features"),
        ({"head": "mlp"}, "do not fit model 'mnist-cnn' with head MLPHead"),
        ({"head": "mpl"}, "unknown head 'mpl'; did you mean 'mlp'"),
        ({"hiden_features": 3}, "did you mean 'hidden_features'"),
    ]:
        with pytest.raises(InputError, match=message):
            convert_checkpoint(**{"path": old, "model_name": "mnist-cnn", "out": out} | arguments)
    assert not out.exists()


def test_safetensors_files_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(original(MNIST), tmp_path / "old.safetensors")
    read = read_weights(tmp_path / "old.safetensors")
    assert all(torch.equal(read[key], value) for key, value in original(MNIST).items())


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(
        InputError, match=r"a pickled torch\.nn\.modules\.linear\.Linear, .* can run code"
    ):
        read_weights(tmp_path / "module.pth")
    torch.save({"weight": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    for name in ("trap.pth", "bare.pth"):
        with pytest.raises(InputError):
            read_weights(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["old.pth", "old.safetensors"])
def test_damaged_and_missing_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(InputError, match="there is no file"):
        read_weights(path)
    for content in (b"", b"not weights at all"):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_weights(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    torch.save(original(MNIST), tmp_path / "whole.pth")
    path.write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"damaged|pickled"):
        read_weights(path)


def test_a_file_without_tensors_by_name(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state": [1, 2]}, tmp_path / "old.pth")
    with pytest.raises(InputError, match="holds no weights by name"):
        read_weights(tmp_path / "old.pth")
