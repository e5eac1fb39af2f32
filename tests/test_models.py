"""Every network of the paper: golden numbers, golden outputs, and what `create_model` promises."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import golden
from spinalnet._checks import InputError
from spinalnet.models import assembly
from spinalnet.models.assembly import ImageModel, ModelSpec, create_model
from spinalnet.models.trunks import PooledPositions
from spinalnet.models.zoo import MODELS, list_models
from spinalnet.nn.counting import count_macs, count_params
from spinalnet.nn.dense import MLPHead
from spinalnet.nn.heads import HEADS, make_head
from spinalnet.nn.layers import SpinalNet
from spinalnet.nn.variants import MultiTapSpinalNet, ReusedSpinalNet, TiledSpinalNet
from spinalnet.paper.weights import load_original_state_dict

COMPATIBILITY = ("spinal-reused", "spinal-tiled")
# "mlp-paper" is no head of a network on which the paper had no MLP.
COUNTERPARTS = [name for name in HEADS if name not in (*COMPATIBILITY, "spinal-taps", "mlp-paper")]
# Models cheap enough to train a step of, at their smallest size: (channels, size).
SMALL = {
    "mnist-cnn": (1, 16),
    "arch2": (1, 16),
    "mnist-pixels": (1, 8),
    "vgg5": (1, 16),
    "cifar-cnn": (3, 8),
    "cifar-resnet10-half": (3, 9),
    "cifar-vgg11-bn": (3, 32),
    "resnet9": (1, 8),
    "regression-net": (8, None),
}


def needs_timm(model: str) -> None:
    if model.startswith("vit_") and importlib.util.find_spec("timm") is None:
        pytest.skip("needs timm")


def build(case: golden.Case) -> tuple[nn.Module, tuple[int, ...]]:
    """Build the network of a golden case in float64, and say what one input looks like."""
    if isinstance(case.model, int):
        head = make_head(case.head, case.model, case.num_classes, **case.options)
        return head.double().eval(), (case.model,)
    model = create_model(case.model, case.num_classes, head=case.head, **case.options)
    return model.double().eval(), MODELS[case.model].input_shape


def buffer_elements(module: nn.Module) -> int:
    return sum(buffer.numel() for buffer in module.buffers())


def assert_golden(
    outputs: Tensor, first: tuple[float, ...], second: tuple[float, ...], abs_sum: float
) -> None:
    """Compare with outputs that are kept to ten significant digits."""
    got = [*outputs[0, : len(first)], *outputs[1, : len(second)], outputs.abs().sum()]
    assert [float(value) for value in got] == pytest.approx([*first, *second, abs_sum], rel=1e-9)


def slow_if(slow: bool) -> Any:
    return pytest.mark.slow if slow else ()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("input", (-0.218287605093792, -0.450548449996859, 0.332295872271061, 0.444170365575701)),
        (
            "fc1.weight",
            (-0.397974321618676, -0.001664150040597, 0.447798355249688, -0.205764371901751),
        ),
        (
            "fc_out.1.bias",
            (0.343453530222178, -0.046746470266953, -0.225627945503220, -0.237595411484199),
        ),
    ],
)
def test_golden_recipe(key: str, expected: tuple[float, ...]) -> None:
    # Neighbouring values are 2.3e-10 apart.
    assert golden.unit_values(key, 4).tolist() == pytest.approx(expected, abs=1e-11)


def is_twin(case: golden.Case) -> bool:
    """Whether a cheaper case of the same family stays in the quick set."""
    large = case.numbers.params > 2e7 and case.table != "VGG11_bn CIFAR-10"
    return large or (case.num_classes == 100 and case.model != "cifar-cnn")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.table, marks=slow_if(is_twin(case))) for case in golden.CASES],
)
def test_golden_numbers_and_outputs(case: golden.Case) -> None:
    model, shape = build(case)
    numbers = case.numbers
    params, macs = count_params(model), count_macs(model, shape)
    assert params.total == numbers.params - case.dead
    assert macs.total == numbers.trunk_macs + numbers.head_macs
    if isinstance(model, ImageModel):
        assert params.head == numbers.head_params - case.dead
        assert (macs.trunk, macs.head) == (numbers.trunk_macs, numbers.head_macs)
    assert buffer_elements(model) == numbers.buffers

    load_original_state_dict(model, golden.state_dict(case.shapes))
    with torch.no_grad():
        outputs = model(golden.tensor("input", (2, *shape)))
    if case.log_softmax:
        outputs = outputs.log_softmax(dim=1)
    assert_golden(outputs, numbers.first, numbers.second, numbers.abs_sum)


def test_every_golden_table_is_tested() -> None:
    assert sorted(case.table for case in golden.CASES) == sorted(golden.NUMBERS)
    tested = {case.model for case in golden.CASES} | {row.backbone for row in golden.RUNS}
    # Not the paper's: the small relative of a smoke run, and the network of our own recipes.
    others = {"vit_tiny_patch16_224", "resnet9"}
    assert tested | set(golden.BACKBONES) | others >= set(MODELS)


def test_regression_net_with_all_six_layers() -> None:
    case = next(case for case in golden.CASES if case.table == "regression spinal (8 inputs)")
    model = create_model("regression-net", 1).double()
    assert count_params(model).total == case.numbers.params  # the same, all of them in use
    assert count_macs(model, (8,)).total == case.numbers.head_macs
    load_original_state_dict(model, golden.state_dict(case.shapes))
    outputs = model(golden.tensor("input", (2, 8)))
    assert outputs.flatten().tolist() == pytest.approx(golden.REGRESSION_CORRECTED, rel=1e-12)


@pytest.mark.parametrize(("classes", "head", "params", "head_params", "macs"), golden.VGG5_CLASSES)
def test_vgg5_with_other_numbers_of_classes(
    classes: int, head: str, params: int, head_params: int, macs: int
) -> None:
    with torch.device("meta"):
        model = create_model("vgg5", classes, head=head)
    assert (count_params(model).total, count_params(model).head) == (params, head_params)
    assert count_macs(model, (1, 28, 28)).head == macs


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row,
            id=f"{row.flavour}-{row.in_features}-{row.width}-{row.num_classes}",
            # One fully connected head of 19 million weights stays in the quick set.
            marks=slow_if(row.params > 7e6 and row.params != 18_923_530),
        )
        for row in golden.HEADS
    ],
)
def test_golden_transfer_heads(row: golden.HeadRow) -> None:
    name, options = golden.flavour(row.flavour, row.width)
    head = make_head(name, row.in_features, row.num_classes, **options).double().eval()
    assert count_params(head).total == row.params - row.dead
    assert buffer_elements(head) == row.buffers
    assert count_macs(head, (row.in_features,)).total == row.macs
    load_original_state_dict(head, golden.state_dict(row.shapes()))
    if row.first:
        with torch.no_grad():
            outputs = head(golden.tensor("input", (2, row.in_features)))
        assert_golden(outputs, row.first, (), row.abs_sum)


@pytest.mark.parametrize("name", golden.BACKBONES)
def test_backbone_counts(name: str) -> None:
    needs_timm(name)
    params, buffers, features, macs = golden.BACKBONES[name]
    with torch.device("meta"):
        model = create_model(name, 3, head="linear")
    assert count_params(model).trunk == params
    assert buffer_elements(model.trunk) == buffers
    assert model.head.in_features == features
    for size, expected in macs.items():
        assert count_macs(model, (3, size, size)).trunk == expected


def first_of_its_kind(row: golden.RunRow) -> bool:
    kind = (row.backbone, row.flavour)
    return row is next(other for other in golden.RUNS if (other.backbone, other.flavour) == kind)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row,
            id=f"{row.backbone}-{row.size}-{row.flavour}-{row.num_classes}-{row.width}",
            marks=slow_if(not first_of_its_kind(row)),
        )
        for row in golden.RUNS
    ],
)
def test_totals_of_what_each_transfer_run_trains(row: golden.RunRow) -> None:
    needs_timm(row.backbone)
    head, options = golden.flavour(row.flavour, row.width)
    with torch.device("meta"):
        model = create_model(row.backbone, row.num_classes, None, row.size, head, **options)
    assert count_params(model).total == row.params - row.dead
    assert count_macs(model, (3, row.size, row.size)).total == row.macs


# What create_model promises.


@pytest.mark.parametrize("name", SMALL)
def test_every_head_trains_on_every_small_model(name: str) -> None:
    channels, size = SMALL[name]
    shape = (channels,) if size is None else (channels, size, size)
    for head in [*COUNTERPARTS, "spinal-tiled"]:
        model = create_model(name, 3, channels, size, head, seed=1)
        logits = model(torch.randn(4, *shape))
        assert logits.shape == (4, 3)
        logits.logsumexp(dim=1).sum().backward()
        silent = [key for key, p in model.named_parameters() if p.grad is None]
        assert not silent, f"{name} with {head}: no gradient for {silent}"


@pytest.mark.parametrize("name", MODELS)
def test_other_sizes_and_every_parameter_gets_a_gradient(name: str) -> None:
    needs_timm(name)
    row = MODELS[name]
    # The heads of the backbones are those of the other models: one shows that the body is used.
    heads = ["spinal"] if row.pretrained else list(row.heads)
    shape = (5,) if len(row.input_shape) == 1 else (4, row.min_size + 7, row.min_size + 7)
    for head in heads:
        with torch.device("meta"):  # shapes and graph without the arithmetic
            model = create_model(name, 7, *shape[:2], head=head)
            logits = model(torch.zeros(3, *shape))
            logits.sum().backward()
        assert logits.shape == (3, 7)
        silent = [key for key, p in model.named_parameters() if p.grad is None]
        assert not silent, f"{name} with {head}: no gradient for {silent}"


@pytest.mark.parametrize("name", SMALL)
def test_same_seed_same_trunk_whatever_the_head(name: str) -> None:
    channels, size = SMALL[name]
    before = torch.random.get_rng_state()
    trunks = [
        create_model(name, 3, channels, size, head, seed=7).trunk.state_dict()
        for head in COUNTERPARTS
    ]
    other = create_model(name, 3, channels, size, seed=8).trunk.state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    for trunk in trunks[1:]:
        assert trunk.keys() == trunks[0].keys()
        assert all(torch.equal(trunk[key], trunks[0][key]) for key in trunk)
    if trunks[0]:
        assert any(not torch.equal(other[key], trunks[0][key]) for key in other)


def test_same_seed_same_model() -> None:
    first, again = (create_model("mnist-cnn", 10, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize("name", [name for name, row in MODELS.items() if not row.pretrained])
def test_smallest_size_and_the_papers(name: str) -> None:
    row = MODELS[name]
    smallest = row.input_shape[:1] if len(row.input_shape) == 1 else (2, row.min_size, row.min_size)
    for shape in (smallest, row.input_shape):
        with torch.device("meta"):
            model = create_model(name, 2, *shape[:2])
            assert model(torch.zeros(3, *shape)).shape == (3, 2)


def test_too_small_images_are_refused_in_one_sentence() -> None:
    for name, row in MODELS.items():
        if len(row.input_shape) == 3 and row.min_size > 1:
            with pytest.raises(InputError, match=f"'{name}' needs images of at least"):
                create_model(name, 3, image_size=row.min_size - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg6"}, "unknown model 'vgg6'; did you mean 'vgg5'"),
        ({"head": "spinl"}, "unknown head 'spinl'; did you mean 'spinal'"),
        ({"num_classes": 0}, "num_classes must be an integer >= 1"),
        ({"in_channels": 0}, "in_channels must be an integer >= 1"),
        ({"pretrained": True}, "model 'mnist-cnn' starts neither from published"),
        ({"neck": "vector"}, "unknown neck of model 'mnist-cnn' 'vector'"),
        ({"hiden_features": 3}, "did you mean 'hidden_features'"),
        ({"name": "regression-net", "image_size": 8}, "takes rows of numbers, not images"),
        ({"name": "cifar-resnet18-half", "neck": "vectr"}, "did you mean 'vector'"),
        (
            {"name": "resnet18", "pretrained": True, "in_channels": 2},
            r"weights of model 'resnet18' are for images in colour \(in_channels=3\) or in grey",
        ),
    ],
)
def test_create_model_names_what_is_wrong(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model(**{"name": "mnist-cnn", "num_classes": 10} | arguments)


def test_list_models_is_the_registry() -> None:
    assert list_models() == sorted(MODELS)


def test_batch_of_one_trains_unless_a_batch_norm_follows_a_vector() -> None:
    # A batch norm of vectors has no variance to divide by: the loader must not make such a batch.
    image = torch.randn(1, 3, 32, 32)
    bare = create_model("cifar-vgg11-bn", 3, head="spinal", norm=None)
    assert bare(image).shape == (1, 3)
    normed = create_model("cifar-vgg11-bn", 3, head="spinal", norm="batch")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        normed(image)
    assert normed.eval()(image).shape == (1, 3)


def test_matched_has_the_parameters_of_the_spinal_head() -> None:
    for name in SMALL:
        with torch.device("meta"):
            spinal = count_params(create_model(name, 10)).head
            matched = create_model(name, 10, head="matched")
        width = matched.head.hidden_features[0]
        per_neuron = count_params(matched).head / width
        assert abs(count_params(matched).head - spinal) <= per_neuron


def dropout_rates(module: nn.Module) -> list[float]:
    """Rates of the dropouts that are on, in order; a spinal layer's rate counts once per layer."""
    rates: list[float] = []
    for part in module.modules():
        if isinstance(part, nn.Dropout | nn.Dropout2d):
            rates.append(part.p)
        elif type(part).__name__ == "SpinalLayer":
            rates += [part.dropout] * part.num_layers
    return [rate for rate in rates if rate > 0]


@pytest.mark.parametrize(
    ("name", "head", "trunk_rates", "head_rates"),
    [
        ("mnist-cnn", "spinal", [0.5], []),
        ("mnist-cnn", "mlp-paper", [0.5], [0.5]),
        ("arch2", "spinal", [0.5], []),
        ("vgg5", "spinal", [], [0.5] * 5),
        ("vgg5", "mlp-paper", [], [0.5, 0.5]),
        ("vgg5", "progressive", [], [0.2]),
        ("mnist-pixels", "progressive", [], [0.2]),
        ("cifar-cnn", "spinal", [0.05], [0.1] * 5),
        ("cifar-cnn", "mlp-paper", [0.05], [0.1, 0.1]),
        ("cifar-resnet18-half", "spinal", [0.02], []),
        ("cifar-resnet18-half", "linear", [0.02], []),
        ("cifar-vgg19-bn", "spinal", [], [0.5] * 5),
        ("cifar-vgg19-bn", "mlp-paper", [], [0.5, 0.5]),
        ("regression-net", "spinal", [], []),
        ("regression-net", "mlp-paper", [], []),
    ],
)
def test_dropout_is_the_papers(
    name: str, head: str, trunk_rates: list[float], head_rates: list[float]
) -> None:
    with torch.device("meta"):
        model = create_model(name, 10, head=head)
    assert dropout_rates(model.trunk) == trunk_rates
    assert dropout_rates(model.head) == head_rates


def flavour_of(module: nn.Module) -> tuple[set[float], set[str], set[str]]:
    """Rates of dropouts that are on, kinds of norms and of activations."""
    kinds = {type(part).__name__ for part in module.modules()}
    norms = {kind for kind in kinds if "Norm" in kind and kind != "Normed"}
    activations = {
        type(part).__name__
        for part in module.modules()
        if type(part).__module__ == "torch.nn.modules.activation"
    }
    return set(dropout_rates(module)), norms, activations


LARGE = pytest.mark.slow  # a third of a gigabyte of weights, drawn twice


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=LARGE if "vit_large" in name else ()) for name in MODELS]
)
def test_mlp_has_the_flavour_of_the_spinal_head_and_the_papers_widths(name: str) -> None:
    needs_timm(name)
    with torch.device("meta"):
        spinal = create_model(name, 10).head
        mlp = create_model(name, 10, head="mlp").head
    assert isinstance(mlp, MLPHead)
    assert flavour_of(mlp) == flavour_of(spinal)
    if "mlp-paper" not in MODELS[name].heads:
        assert mlp.hidden_features == (512,)
        with pytest.raises(InputError, match=r"the paper has no MLP on this network.*take 'mlp'"):
            create_model(name, 10, head="mlp-paper")
        assert isinstance(create_model(name, 10, head="mlp-paper", hidden_features=3).head, MLPHead)
        return
    with torch.device("meta"):
        paper = create_model(name, 10, head="mlp-paper").head
    assert mlp.hidden_features == paper.hidden_features


def test_mlp_of_the_mnist_network_has_no_dropout() -> None:
    head = create_model("mnist-cnn", 10, head="mlp").head
    assert (head.hidden_features, dropout_rates(head)) == ((50,), [])


def test_unchained_matched_has_the_parameters_of_the_spinal_head() -> None:
    for name in MODELS:
        needs_timm(name)
        with torch.device("meta"):
            spinal = count_params(create_model(name, 10)).head
            model = create_model(name, 10, head="unchained-matched")
        head, params = model.head, count_params(model).head
        largest = max(head.split_sizes) + 10 + 1 + (2 if len(head.norms) else 0)
        assert 2 * abs(params - spinal) <= largest, name
        assert abs(params - spinal) < 0.05 * spinal, name
        assert max(head.widths) - min(head.widths) <= 1


def test_controls_follow_the_options_of_the_head_they_are_made_for() -> None:
    spec = ModelSpec(
        "mnist-cnn", "spinal", {"num_layers": 8, "norm": "batch", "hidden_features": 5}
    )
    spinal = assembly.build(spec, 10).head
    unchained = assembly.build(spec.control("unchained"), 10).head
    assert (unchained.num_layers, unchained.widths) == (8, (5,) * 8)
    assert flavour_of(unchained) == flavour_of(spinal)
    assert unchained.split_sizes == spinal.spine.split_sizes
    wanted = sum(p.numel() for p in spinal.parameters())
    for name in ("matched", "unchained-matched"):
        control = assembly.build(spec.control(name), 10).head
        assert sum(p.numel() for p in control.parameters()) == pytest.approx(wanted, rel=0.03)
        assert flavour_of(control) == flavour_of(spinal)
    assert spec.control("mlp") == ModelSpec("mnist-cnn", "mlp")
    assert spec.control("spinal") is spec
    assert assembly.build(spec.control("mlp").control("unchained"), 10).head.num_layers == 6
    with pytest.raises(InputError, match="did you mean 'unchained'"):
        spec.control("unchaned")


def test_papers_initialisation() -> None:
    # 3x3 convolutions of VGG-5 and the half ResNets: deviation sqrt(2 / (9 * channels out)).
    for name in ("vgg5", "cifar-resnet18-half"):
        model = create_model(name, 10, seed=0)
        for module in model.trunk.modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 30_000:
                expected = (2 / (9 * module.out_channels)) ** 0.5
                assert module.weight.std().item() == pytest.approx(expected, rel=0.03)
    biases = [p for key, p in model.head.named_parameters() if key.endswith("bias")]
    assert len(biases) == 5
    assert all(not bias.any() for bias in biases)
    assert all(p.any() for key, p in model.head.named_parameters() if key.endswith("weight"))


@pytest.mark.parametrize(
    "name", [name for name, row in MODELS.items() if row.pretrained and not name.startswith("vit_")]
)
def test_pretrained_asks_for_weights_that_are_published(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    published = torchvision.models.get_model_weights(name).__members__
    get_model = torchvision.models.get_model
    asked: list[str | None] = []

    def untrained(name: str, weights: str | None) -> nn.Module:
        asked.append(weights)
        return get_model(name, weights=None)

    monkeypatch.setattr(torchvision.models, "get_model", untrained)
    with torch.device("meta"):
        create_model(name, 3, pretrained=True)
        create_model(name, 3)
    assert asked[0] in published
    assert asked[1] is None


# Necks: how a map becomes features.


def test_positions_are_the_slices_and_necks_change_features_only() -> None:
    maps = torch.randn(2, 5, 4, 4)
    features = PooledPositions(2)(maps)
    corners = [(0, 0), (0, 2), (2, 0), (2, 2)]
    for index, (row, column) in enumerate(corners):
        window = maps[:, :, row : row + 2, column : column + 2].amax(dim=(2, 3))
        torch.testing.assert_close(features[:, 5 * index : 5 * (index + 1)], window)
    torch.testing.assert_close(PooledPositions(1)(maps), maps.amax(dim=(2, 3)))

    with torch.device("meta"):
        honest = create_model("cifar-resnet18-half", 10, head="linear")
        paper = create_model("cifar-resnet18-half", 10, head="linear", neck="vector")
    assert honest.head.in_features == 1024
    assert paper.head.in_features == 256
    assert count_params(honest).trunk == count_params(paper).trunk


@pytest.mark.parametrize("side", [2, 3, 5, 7, 8])
def test_pooled_positions_look_at_every_pixel(side: int) -> None:
    for positions in (1, 2):
        neck = PooledPositions(positions)
        for pixel in range(side * side):
            maps = torch.zeros(1, 1, side, side)
            maps.view(-1)[pixel] = 1.0
            features = neck(maps)
            assert features.shape == (1, positions * positions)
            assert features.sum() >= 1


def test_half_resnet_has_no_activation_after_the_addition() -> None:
    model = create_model("cifar-resnet10-half", 10, seed=0).eval()
    maps = model.trunk[0](torch.randn(1, 3, 32, 32))
    assert maps.shape == (1, 256, 4, 4)
    assert maps.min() < 0


# Several taps.


def test_multi_tap_chains_see_their_own_tap_in_order() -> None:
    model = create_model("arch2", 10, seed=0).eval()
    head = model.head
    assert isinstance(head, MultiTapSpinalNet)
    assert head.tap_features == (784, 1440, 320)
    assert [chain.num_layers for chain in head.chains] == [10, 8, 8]
    images = torch.randn(2, 1, 28, 28)
    features = model.trunk(images)
    torch.testing.assert_close(features[:, :784], images.flatten(1))
    hidden = torch.cat(
        [
            head.chains[0](features[:, :784]),
            head.chains[1](features[:, 784:2224]),
            head.chains[2](features[:, 2224:]),
        ],
        dim=1,
    )
    torch.testing.assert_close(model(images), head.top(hidden))


def test_multi_tap_names_what_is_wrong() -> None:
    options: dict[str, Any] = {"hidden_features": 2, "layers_per_tap": (1, 1)}
    with pytest.raises(InputError, match=r"add up to in_features=9, got \[4, 4\]"):
        make_head("spinal-taps", 9, 2, tap_features=(4, 4), **options)
    with pytest.raises(InputError, match="one number for each of the 3 taps"):
        make_head("spinal-taps", 9, 2, tap_features=(4, 4, 1), **options)
    head = make_head("spinal-taps", 9, 2, tap_features=(4, 5), **options)
    with pytest.raises(InputError, match="in_features=9, got shape"):
        head(torch.zeros(2, 8))


# Compatibility: slices of the original's customizable module.


def slices_of(head: TiledSpinalNet) -> list[list[int]]:
    """Return the features that each layer of a width-1 chain sees, in the order of its columns."""
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    nn.init.eye_(head.output.weight)
    seen = []
    for layer in head.spine.layers:
        width = head.spine.split_sizes[0]
        with torch.no_grad():
            layer.weight[0, :width] = torch.arange(1.0, width + 1)
        x = torch.zeros(head.in_features, requires_grad=True)
        head(x).sum().backward()
        marks = x.grad.int().tolist()
        seen.append([marks.index(column + 1) for column in range(width)])
        nn.init.zeros_(layer.weight)
    return seen


@pytest.mark.parametrize(
    ("features", "splits", "layers", "expected"),
    [
        (8, 2, 6, [[0, 1, 2, 3], [4, 5, 6, 7]] * 3),
        (8, 4, 3, [[0, 1], [2, 3], [4, 5]]),
        (10, 4, 4, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (10, 4, 5, [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]),
        (10, 4, 6, [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [0, 1]]),
        (11, 4, 4, [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 0]]),
        (7, 2, 4, [[0, 1, 2, 3], [4, 5, 6, 0], [1, 2, 3, 4], [5, 6, 0, 1]]),
        (6, 4, 4, [[0, 1], [2, 3], [4, 5], [0, 1]]),
        (20, 8, 8, [[2 * i, 2 * i + 1] for i in range(8)]),
        (9, 2, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ],
)
def test_tiled_slices_are_the_originals(
    features: int, splits: int, layers: int, expected: list[list[int]]
) -> None:
    head = TiledSpinalNet(features, layers, 1, layers, num_splits=splits, activation="identity")
    assert slices_of(head) == expected


def test_tiled_refuses_empty_slices_and_other_widths() -> None:
    # The original builds this net; its output does not depend on its input.
    with pytest.raises(InputError, match="num_splits=7 leaves slices of no features"):
        TiledSpinalNet(3, 2, 4, 3, num_splits=7)
    # The original tiles or cuts a batch of another width without a word.
    with pytest.raises(InputError, match=r"in_features=10, got shape \(2, 3\)"):
        TiledSpinalNet(10, 2, 4, 3, num_splits=4)(torch.zeros(2, 3))


def test_tiled_is_the_ordinary_net_where_everything_divides() -> None:
    for features, splits, layers in [(12, 4, 10), (8, 2, 2), (6, 3, 5)]:
        ordinary = SpinalNet(features, 3, 5, layers, num_splits=splits)
        tiled = TiledSpinalNet(features, 3, 5, layers, num_splits=splits)
        tiled.load_state_dict(ordinary.state_dict())
        x = torch.randn(2, 3, features)
        torch.testing.assert_close(tiled(x), ordinary(x))


def test_ordinary_net_sees_every_feature_where_the_original_loses_some() -> None:
    for features, splits, layers in [(8, 4, 3), (10, 4, 4), (20, 8, 8), (9, 2, 2)]:
        x = torch.randn(4, features, requires_grad=True)
        SpinalNet(features, 3, 16, layers, num_splits=splits, activation="tanh")(x).sum().backward()
        assert x.grad.abs().sum(dim=0).min() > 0
        x.grad = None
        TiledSpinalNet(features, 3, 16, layers, num_splits=splits)(x).sum().backward()
        assert x.grad.abs().sum(dim=0).min() == 0


# Compatibility: layers that run twice.


def test_reused_layers_are_the_same_net_with_copied_weights() -> None:
    reused = ReusedSpinalNet(9, 2, 4, reuse=[(4, 2), (5, 3)], activation="tanh").double()
    assert len(reused.spine.layers) == 4
    full = SpinalNet(9, 2, 4, 6, activation="tanh").double()
    state = reused.state_dict()
    for part in ("weight", "bias"):
        state[f"spine.layers.4.{part}"] = state[f"spine.layers.2.{part}"]
        state[f"spine.layers.5.{part}"] = state[f"spine.layers.3.{part}"]
    full.load_state_dict(state)
    x = torch.randn(3, 9, dtype=torch.float64)
    torch.testing.assert_close(reused(x), full(x))
    # A weight that runs twice collects both gradients.
    reused(x).square().sum().backward()
    full(x).square().sum().backward()
    both = full.spine.layers[2].weight.grad + full.spine.layers[4].weight.grad
    torch.testing.assert_close(reused.spine.layers[2].weight.grad, both)


def test_reuse_names_what_is_wrong() -> None:
    with pytest.raises(InputError, match=r"pair a layer below 6 with an earlier one, got \(2, 4\)"):
        ReusedSpinalNet(8, 2, 4, reuse=[(2, 4)])
    with pytest.raises(InputError, match="layer 2 cannot reuse layer 0"):
        ReusedSpinalNet(8, 2, 4, reuse=[(2, 0)])
    with pytest.raises(InputError, match="needs the option reuse"):
        make_head("spinal-reused", 8, 2, hidden_features=4)


def test_activation_free_head_is_one_affine_map() -> None:
    head = make_head("spinal", 20, 10, hidden_features=7, activation="identity").double()
    a, b = torch.randn(2, 20, dtype=torch.float64)
    zero = head(torch.zeros(20, dtype=torch.float64))
    torch.testing.assert_close(head(a + b) - zero, head(a) - zero + head(b) - zero)
