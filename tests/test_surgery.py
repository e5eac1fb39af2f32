"""Surgery: the classifier of any network is found and replaced, and nothing else is touched."""

from __future__ import annotations

import copy
import importlib.util
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from helpers import needs_whole_graphs
from spinalnet import SurgeryError, count_params, create_model
from spinalnet.models.finding import find_classifier
from spinalnet.models.surgery import (
    freeze_except_head_,
    remove_classifier_,
    replace_head_,
    replace_hidden_,
)
from spinalnet.models.wrappers import PooledHead, PositionHead
from spinalnet.nn.dense import LinearHead
from spinalnet.nn.heads import make_head
from spinalnet.nn.layers import SpinalLayer, SpinalNet

HAS_TIMM = importlib.util.find_spec("timm") is not None
needs_timm = pytest.mark.skipif(not HAS_TIMM, reason="timm is not installed")


def mlp(**options: object) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, 16, **options),  # type: ignore[arg-type]
        nn.ReLU(),
        nn.Linear(16, 5, **options),  # type: ignore[arg-type]
    )


def build_torchvision(name: str) -> nn.Module:
    from torchvision import models

    untold = name in ("googlenet", "inception_v3")
    return models.get_model(name, weights=None, **({"init_weights": False} if untold else {}))


def build_timm(name: str) -> nn.Module:
    import timm

    return timm.create_model(name)


def check_surgery(model: nn.Module, head: str, *, side: int | None = None) -> tuple[str, ...]:
    """Replace the head and check everything that is promised; with `side`, with real numbers."""
    paths = find_classifier(model)
    old = {path: model.get_submodule(path) for path in paths}
    gone = {id(p) for module in old.values() for p in module.parameters()}
    gone |= {
        id(p)
        for name in ("aux1", "aux2", "AuxLogits")
        if getattr(model, "aux_logits", False) and isinstance(getattr(model, name, None), nn.Module)
        for p in getattr(model, name).parameters()
    }
    trunk = {n: p for n, p in model.named_parameters() if id(p) not in gone}
    versions = {n: p._version for n, p in trunk.items()}
    numbers = {n: p.detach().clone() for n, p in trunk.items()} if side else {}
    modes = {n: m.training for n, m in model.named_modules()}

    assert replace_head_(model, head, num_classes=7) is model

    heads = [model.get_submodule(path) for path in paths]
    new = {id(p) for module in heads for p in module.parameters()}
    after = dict(model.named_parameters())
    assert gone.isdisjoint(id(p) for p in after.values())
    assert {n for n, p in after.items() if id(p) not in new} == set(trunk)
    for name, parameter in trunk.items():
        assert after[name] is parameter, name
        assert parameter._version == versions[name], name  # never written to
        assert not numbers or torch.equal(parameter, numbers[name]), name
    for name, module in model.named_modules():
        assert module.training == modes.get(name, True), name

    shape = (3, side, side) if side else tuple(getattr(model, "pretrained_cfg", {})["input_size"])
    anchor = next(iter(after.values()))
    images = torch.randn(2, *shape, device=anchor.device)
    model.eval()
    logits = model(images)
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    for module in heads:
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            # Rectifiers may let through nothing of a row, but not of a whole tensor.
            assert not side or parameter.grad.abs().sum() > 0, name
    return paths


# --- plain modules --------------------------------------------------------------------------------


def test_a_plain_network_gets_the_head_and_keeps_the_rest() -> None:
    model = mlp()
    first = model[0]
    before = first.weight.detach().clone()  # type: ignore[union-attr, operator]
    assert find_classifier(model) == ("2",)
    replace_head_(model, "spinal", num_classes=3, hidden_features=4, num_layers=6)
    assert model[0] is first
    assert torch.equal(first.weight, before)  # type: ignore[arg-type]
    head = model[2]
    assert isinstance(head, SpinalNet)
    assert (head.in_features, head.spine.hidden_features, head.spine.num_layers) == (16, 4, 6)
    assert model(torch.randn(2, 8)).shape == (2, 3)


@pytest.mark.parametrize("head", ["linear", "mlp", "matched", "spinal-shared", "progressive"])
def test_every_head_fits_without_options(head: str) -> None:
    model = replace_head_(mlp(), head, num_classes=3)
    assert model(torch.randn(2, 8)).shape == (2, 3)


def test_the_default_width_is_the_number_of_classes_and_at_least_twenty() -> None:
    for classes, width in ((2, 20), (20, 20), (102, 102)):
        head = replace_head_(mlp(), "spinal", num_classes=classes).get_submodule("2")
        assert isinstance(head, SpinalNet)
        assert (head.spine.hidden_features, head.spine.num_layers) == (width, 4)


def test_matched_has_the_size_of_the_default_spinal_head() -> None:
    sizes = [
        count_params(replace_head_(mlp(), head, num_classes=3).get_submodule("2")).total
        for head in ("spinal", "matched")
    ]
    assert abs(sizes[0] - sizes[1]) < 20  # one neuron of the MLP has 20 parameters


def test_dtype_and_training_flag_are_those_of_the_old_classifier() -> None:
    model = mlp(dtype=torch.float64).eval()
    model[0].train()
    replace_head_(model, "spinal", num_classes=3)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model[0].training
    assert not any(m.training for m in model[2].modules())


def test_device_is_that_of_the_old_classifier() -> None:
    with torch.device("meta"):
        model = mlp()
    replace_head_(model, "spinal", num_classes=3)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_a_second_head_replaces_the_first() -> None:
    model = replace_head_(mlp(), "spinal", num_classes=3)
    assert find_classifier(model) == ("2",)
    assert isinstance(replace_head_(model, "linear", num_classes=4).get_submodule("2"), LinearHead)
    assert model(torch.randn(2, 8)).shape == (2, 4)


def test_a_pointwise_convolution_is_replaced_position_by_position() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 6, 3)
            self.score = nn.Conv2d(6, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.score(self.body(x)).mean((2, 3))

    model = Net()
    images = torch.randn(2, 3, 9, 9)
    replace_head_(model, "linear", num_classes=4)
    assert isinstance(model.score, PositionHead)
    head = model.score.head
    assert isinstance(head, LinearHead)
    weight = head.output.weight[:, :, None, None]
    expected = nn.functional.conv2d(model.body(images), weight, head.output.bias).mean((2, 3))
    torch.testing.assert_close(model(images), expected)


def test_a_named_container_may_pool_a_map() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    )
    replace_head_(model, "spinal", num_classes=4, where="1")
    assert isinstance(model[1], PooledHead)
    assert model(torch.randn(2, 3, 9, 9)).shape == (2, 4)


def test_where_takes_a_path_or_a_function() -> None:
    for where in ("2", lambda m: m[2], ["2"], lambda m: [m[2]]):
        assert isinstance(replace_head_(mlp(), num_classes=3, where=where)[2], SpinalNet)  # type: ignore[index]


def test_a_module_used_under_two_names_is_replaced_under_both() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 5)
            self.alias = self.fc

        def forward(self, x: Tensor) -> Tensor:
            return self.alias(x)

    model = replace_head_(Net(), num_classes=3)
    assert model.fc is model.alias
    assert model(torch.randn(2, 8)).shape == (2, 3)


def test_integer_and_frozen_parameters_do_not_hide_the_classifier() -> None:
    model = mlp().requires_grad_(False)
    assert find_classifier(model) == ("2",)
    assert not any(p.requires_grad for p in model.parameters())


# --- refusals -------------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.left, self.right = nn.Linear(8, 16), nn.Linear(16, 5), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(self.body(x)) + self.right(self.body(x))


def test_two_classifiers_are_refused_by_name_and_where_decides() -> None:
    with pytest.raises(SurgeryError, match=r"2 possible classifiers in TwoHeads: .*left.*right"):
        replace_head_(TwoHeads(), num_classes=3)
    model = TwoHeads()
    replace_head_(model, num_classes=3, where=lambda m: (m.left, m.right))
    assert model(torch.randn(2, 8)).shape == (2, 3)


def test_a_choice_that_does_not_fit_leaves_the_model_as_it_was() -> None:
    model = TwoHeads()
    parts = dict(model.named_modules())
    with pytest.raises(SurgeryError, match="does not fit TwoHeads"):
        replace_head_(model, num_classes=3, where="left")
    assert dict(model.named_modules()) == parts


def test_refusals_say_what_to_do() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(SurgeryError, match=r"does not end in a linear map.*Pass where="):
        find_classifier(conv)
    with pytest.raises(SurgeryError, match=r"must name a module inside Sequential.*'0'"):
        replace_head_(mlp(), num_classes=3, where="fc")
    with pytest.raises(SurgeryError, match="Pass input_shape="):
        find_classifier(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 5)))
    with pytest.raises(ValueError, match="unknown head 'spnal'; did you mean 'spinal'"):
        replace_head_(mlp(), "spnal", num_classes=3)
    with pytest.raises(ValueError, match="num_classes must be an integer >= 1"):
        replace_head_(mlp(), num_classes=0)


@pytest.mark.parametrize("name", ["mnist-cnn", "mnist-pixels", "cifar-cnn", "regression-net"])
def test_a_network_of_ours_knows_what_it_was_built_for(name: str) -> None:
    model = create_model(name, 10, head="mlp", seed=0)
    shape = model.input_shape
    assert shape is not None
    trunk = {key: value.clone() for key, value in model.trunk.state_dict().items()}
    assert replace_head_(model, "spinal", 3) is model
    assert all(torch.equal(value, trunk[key]) for key, value in model.trunk.state_dict().items())
    assert model(torch.zeros(2, *shape)).shape == (2, 3)
    assert find_classifier(model) == ("head",)
    replace_head_(model, "linear", 4)
    assert model(torch.zeros(1, *shape)).shape == (1, 4)


def test_an_input_shape_that_is_none_is_not_believed() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))
    for said in ((None, 8), (2, 8, 8), "8", 8, (0,), ()):
        model.input_shape = said  # type: ignore[assignment]
        assert replace_head_(model, num_classes=3)(torch.zeros(2, 8)).shape == (2, 3)


def test_a_given_input_shape_is_used() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 5))
    replace_head_(model, num_classes=3, input_shape=(1, 28, 28))
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 3)


class Net(nn.Module):
    """A body and a classifier that is used in some way."""

    def __init__(self, use: str, classes: int = 5) -> None:
        super().__init__()
        self.use, self.body, self.fc = use, nn.Linear(8, 16), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x).relu()
        if self.use == "on its own output":
            return self.fc(self.fc(hidden))
        if self.use == "on two halves":
            return torch.cat([self.fc(hidden), self.fc(-hidden)], 1)
        if self.use == "twice, added":
            return self.fc(hidden) + self.fc(-hidden)
        squash = {"log_softmax": torch.log_softmax, "softmax": torch.softmax}.get(self.use)
        return torch.sigmoid(self.fc(hidden)) if squash is None else squash(self.fc(hidden), 1)


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return mlp()


def scripted() -> nn.Module:
    return torch.jit.script(mlp())


def traced() -> nn.Module:
    return torch.jit.trace(mlp(), torch.zeros(1, 8))  # type: ignore[return-value]


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear})


class Scripted(nn.Module):
    """A program as the trunk, a classifier of Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.fc = torch.jit.script(nn.Linear(8, 16)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.trunk(x))


REFUSED: list[tuple[str, Callable[[], nn.Module], str]] = [
    ("a linear map", lambda: nn.Linear(8, 3), "Linear is the classifier itself"),
    ("a convolution", lambda: nn.Conv2d(8, 3, 1), "Conv2d is the classifier itself"),
    ("a head", lambda: make_head("spinal", 8, 3, hidden_features=4), "SpinalNet is the classifier"),
    ("a dense head", lambda: make_head("mlp", 8, 3), "MLPHead is the classifier itself"),
    ("softmax", lambda: nn.Sequential(*mlp(), nn.Softmax(1)), "its part '3' applies a Softmax"),
    ("logsoftmax", lambda: nn.Sequential(*mlp(), nn.LogSoftmax(1)), "part '3' applies a LogSoft"),
    ("sigmoid", lambda: nn.Sequential(*mlp(), nn.Sigmoid()), "its part '3' applies a Sigmoid"),
    ("softmax in forward", lambda: Net("softmax"), "its forward applies a Softmax to what"),
    ("log softmax there", lambda: Net("log_softmax"), "its forward applies a LogSoftmax to what"),
    ("sigmoid there", lambda: Net("sigmoid"), "its forward applies a Sigmoid to what"),
    ("scripted", scripted, "Sequential is a scripted or traced program"),
    ("traced", traced, "Sequential is a scripted or traced program"),
    ("scripted inside", lambda: nn.Sequential(scripted()), "'0' in .* program, .* input_shape="),
    ("quantised", quantised, r"is quantised \('0' is a torch.*Linear\).* from before that"),
    ("inference", made_in_inference_mode, r"4 tensors of Sequential .* made in inference mode"),
    ("twice", lambda: Net("on its own output", 16), "'fc' is called 2 times in one pass"),
    ("halves", lambda: Net("on two halves"), "'fc' is called 2 times in one pass"),
]


@pytest.mark.filterwarnings("ignore:.*(torch.jit|quantiz)")
@pytest.mark.parametrize(("make", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_model_that_cannot_be_changed_is_told_why(
    make: Callable[[], nn.Module], message: str
) -> None:
    model = make()
    parts = dict(model.named_modules())
    with pytest.raises(SurgeryError, match=message):
        replace_head_(model, num_classes=3)
    assert dict(model.named_modules()) == parts


@pytest.mark.filterwarnings("ignore:.*(torch.jit|quantiz)")
def test_other_surgery_refuses_them_too() -> None:
    for change in (freeze_except_head_, remove_classifier_, replace_hidden_, find_classifier):
        for model, message in (
            (nn.Linear(8, 3), "is the classifier itself"),
            (scripted(), "scripted or traced program"),
        ):
            with pytest.raises(SurgeryError, match=message):
                change(model)
    with pytest.raises(SurgeryError, match="made in inference mode"):
        freeze_except_head_(made_in_inference_mode())
    with pytest.raises(SurgeryError, match="Sequential is a scripted or traced program"):
        replace_head_(nn.Sequential(scripted()), num_classes=3, input_shape=(8,))
    with torch.inference_mode(), pytest.raises(SurgeryError, match="could never learn"):
        replace_head_(mlp(), num_classes=3)


class Weighted(nn.Module):
    """Logits with a weight that is learnt, such as those of several classifiers in EfficientViM."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 5)
        self.weights = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.weights.softmax(-1)[0] * self.fc(self.body(x).relu())


def test_a_softmax_of_weights_squashes_no_logits() -> None:
    model = replace_head_(Weighted(), "spinal", num_classes=3)
    assert model(torch.randn(4, 8)).shape == (4, 3)
    assert not isinstance(model.fc, nn.Linear)


@pytest.mark.parametrize("use", ["softmax", "log_softmax", "sigmoid"])
def test_features_are_not_squashed(use: str) -> None:
    model = Net(use)
    with pytest.raises(SurgeryError, match="would not make features: its forward applies a"):
        remove_classifier_(model)
    assert isinstance(model.fc, nn.Linear)


def test_the_number_of_classes_must_be_given() -> None:
    with pytest.raises(ValueError, match="num_classes must be given"):
        replace_head_(mlp(), "spinal")


@pytest.mark.filterwarnings("ignore:.*(torch.jit|quantiz|weight_norm)")
def test_what_can_be_changed_is() -> None:
    """A copy outside inference mode, a part beside a program, a place in a quantised model."""
    model = replace_head_(copy.deepcopy(made_in_inference_mode()), num_classes=3)
    model(torch.zeros(2, 8)).sum().backward()
    for other, place in (
        (Scripted(), None),
        (quantised(), "2"),
        (Net("twice, added"), None),
        (nn.DataParallel(mlp()), None),
    ):
        replace_head_(other, num_classes=3, where=place, input_shape=(8,))
        assert other(torch.zeros(2, 8)).shape == (2, 3)


NORMED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": nn.utils.parametrizations.weight_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "old weight norm": nn.utils.weight_norm,
    "old spectral norm": nn.utils.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("normed", NORMED)
def test_a_normed_classifier_is_found_and_what_is_normed_stays(normed: str) -> None:
    model = build_torchvision("resnet18")
    model.fc = NORMED[normed](model.fc)  # type: ignore[arg-type]
    model.conv1 = NORMED[normed](model.conv1)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 64, 64)
    features = remove_classifier_(copy.deepcopy(model.eval())) if "old" not in normed else None
    assert find_classifier(model) == ("fc",)
    replace_head_(model, "linear", num_classes=3)
    with torch.no_grad():
        made = model(x)
        assert made.shape == (2, 3)
        if features is not None:  # the norm of the first convolution computes what it did
            torch.testing.assert_close(made, model.fc(features(x)))


def test_a_compiled_model_is_changed_where_it_is() -> None:
    inner = mlp()
    compiled = torch.compile(inner, backend="eager")
    assert find_classifier(compiled) == ("_orig_mod.2",)  # type: ignore[arg-type]
    assert replace_head_(compiled, num_classes=3) is compiled  # type: ignore[arg-type]
    assert isinstance(inner[2], SpinalNet)
    assert compiled(torch.zeros(2, 8)).shape == (2, 3)


# --- frozen statistics ----------------------------------------------------------------------------


def frozen() -> nn.Module:
    """A network with norms of several kinds in its trunk and one in its head."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(4, affine=False),
        nn.Linear(4, 5),
    )
    replace_head_(model, "spinal", num_classes=2, norm="batch", hidden_features=4)
    return freeze_except_head_(model)


def epoch_of_theirs(model: nn.Module) -> None:
    """A training loop of somebody's own, which wakes everything."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 3, 9, 9)).square().sum().backward()
        optimizer.step()


def kept_and_moved(model: nn.Module, before: dict[str, Tensor]) -> tuple[set[str], set[str]]:
    after = model.state_dict()
    assert after.keys() == before.keys()
    moved = {name for name, value in before.items() if not torch.equal(after[name], value)}
    return {n for n in before if n not in moved}, moved


def by_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def by_torch(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("through", [lambda model: model, copy.deepcopy, by_pickle, by_torch])
def test_statistics_of_a_frozen_trunk_stay_in_a_loop_of_ones_own(
    through: Callable[[nn.Module], nn.Module],
) -> None:
    model = through(frozen())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(4, 3, 9, 9)
    features = model[:7].eval()(x)  # type: ignore[index]
    epoch_of_theirs(model)
    kept, moved = kept_and_moved(model, before)
    assert all(name.startswith("7.") for name in moved)
    assert "7.spine.norms.0.running_mean" in moved
    assert "1.running_mean" in kept
    model.train()
    torch.testing.assert_close(model[:7](x), features)  # type: ignore[index]


def test_names_classes_and_prints_of_a_frozen_trunk_stay() -> None:
    plain, model = nn.BatchNorm2d(4), frozen()
    norm = model.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert repr(norm) == repr(plain)
    assert norm.state_dict().keys() == plain.state_dict().keys()
    assert isinstance(model.get_submodule("7.spine.norms.0"), nn.BatchNorm1d)
    assert type(plain).__name__ == type(norm).__name__
    plain.train()
    assert plain.training  # no other norm is changed


def test_a_trunk_that_is_released_learns_again() -> None:
    model = frozen().requires_grad_(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    epoch_of_theirs(model)
    _, moved = kept_and_moved(model, before)
    assert "1.running_mean" in moved
    freeze_except_head_(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    epoch_of_theirs(model)
    assert "1.running_mean" in kept_and_moved(model, before)[0]


@needs_whole_graphs
def test_a_frozen_trunk_is_compiled_and_exported() -> None:
    model = frozen()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(4, 3, 9, 9)
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        compiled.train()
        compiled(x).sum().backward()
    assert "1.running_mean" in kept_and_moved(model, before)[0]
    program = torch.export.export(model.eval(), (x,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x))


@needs_timm
def test_the_norms_of_timm_rest_too() -> None:
    model = freeze_except_head_(replace_head_(build_timm("mobilenetv3_small_050"), num_classes=2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert not kept_and_moved(model, before)[1]
    assert kept_and_moved(by_pickle(model), before)[1] == set()


# --- a trial leaves no trace ----------------------------------------------------------------------


def test_a_trial_moves_no_state() -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc = nn.BatchNorm1d(8), nn.Linear(8, 5)
            self.cache: dict[str, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(x)
            self.cache["x"] = x
            return self.fc(x)

    model = Remembering()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    find_classifier(model, input_shape=(8,))
    assert model.cache == {}
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(p.grad is None for p in model.parameters())


def test_a_network_that_needs_numbers_is_tried_with_numbers() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if x.sum().item() == 0 else self.fc(-x)

    assert find_classifier(Asking()) == ("fc",)
    assert replace_head_(Asking(), num_classes=3)(torch.zeros(2, 8)).shape == (2, 3)


# --- freezing, removing, hidden layers ------------------------------------------------------------


def test_only_the_head_learns_after_freezing() -> None:
    model = freeze_except_head_(replace_head_(mlp(), num_classes=3))
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {n for n, _ in model.named_parameters() if n.startswith("2.")}
    plain = freeze_except_head_(mlp())
    assert {n for n, p in plain.named_parameters() if p.requires_grad} == {"2.weight", "2.bias"}


def test_without_its_classifier_a_model_makes_features() -> None:
    model = mlp()
    features = nn.Sequential(*list(model)[:2])
    x = torch.randn(2, 8)
    torch.testing.assert_close(remove_classifier_(model)(x), features(x))


@pytest.mark.parametrize(("name", "hidden"), [("alexnet", 2), ("mobilenet_v3_small", 1)])
def test_hidden_layers_become_spinal(name: str, hidden: int) -> None:
    with torch.device("meta" if name == "alexnet" else "cpu"):
        model = build_torchvision(name)
    stack = model.classifier
    assert isinstance(stack, nn.Sequential)
    old = [m for m in stack if isinstance(m, nn.Linear)]
    trunk = {n: p for n, p in model.named_parameters() if "classifier" not in n}
    replace_hidden_(model, num_layers=4)
    chains = [m for m in stack if isinstance(m, SpinalLayer)]
    assert [c.out_features for c in chains] == [m.out_features for m in old[:-1]]
    assert len(chains) == hidden
    assert next(m for m in reversed(list(stack)) if isinstance(m, nn.Linear)) is old[-1]
    assert all(model.get_parameter(n) is p for n, p in trunk.items())
    images = torch.randn(2, 3, 64, 64, device=old[0].weight.device)
    model.eval()(images).sum().backward()
    assert all(p.grad is not None for c in chains for p in c.parameters())


def test_hidden_layers_keep_their_activation_once() -> None:
    model = nn.Sequential(nn.Linear(8, 12), nn.Hardswish(inplace=True), nn.Linear(12, 5))
    replace_hidden_(model, num_layers=3, num_splits=2)
    chain = model[0]
    assert isinstance(chain, SpinalLayer)
    assert isinstance(chain.activation, nn.Hardswish)
    assert isinstance(model[1], nn.Identity)
    x = torch.randn(4, 8)
    weights, biases = chain.chain()
    assert biases is not None
    outputs: list[Tensor] = []
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        part = x.split([4, 4], 1)[layer % 2]
        inputs = torch.cat([part, *outputs[-1:]], 1)
        outputs.append(nn.functional.hardswish(inputs @ weight.T + bias))
    torch.testing.assert_close(model(x), model[2](torch.cat(outputs, 1)))


def test_hidden_layers_that_cannot_become_spinal_are_refused() -> None:
    with pytest.raises(SurgeryError, match="16 wide, which does not divide by num_layers=3"):
        replace_hidden_(mlp(), num_layers=3)
    with pytest.raises(SurgeryError, match="has no hidden layers"):
        replace_hidden_(nn.Sequential(nn.Linear(8, 5)))
    with pytest.raises(SurgeryError, match="must be followed by one activation, found 0"):
        replace_hidden_(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 5)))


# --- torchvision ----------------------------------------------------------------------------------

TORCHVISION = {
    "resnet18": ("fc",),
    "squeezenet1_1": ("classifier.1",),
    "mobilenet_v3_small": ("classifier.3",),
    "googlenet": ("fc",),
    "shufflenet_v2_x0_5": ("fc",),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    assert check_surgery(build_torchvision(name), "spinal", side=64) == TORCHVISION[name]


def test_the_whole_classifier_of_vgg_may_be_replaced() -> None:
    with torch.device("meta"):
        model = build_torchvision("vgg11")
    assert find_classifier(model) == ("classifier.6",)
    replace_head_(model, "spinal", num_classes=3, where=lambda m: m.classifier)
    head = model.classifier
    assert isinstance(head, SpinalNet)
    assert head.in_features == 25088


def test_auxiliary_classifiers_go() -> None:
    model = replace_head_(build_torchvision("googlenet"), "linear", num_classes=3)
    assert model.train()(torch.randn(2, 3, 64, 64)).shape == (2, 3)
    assert not any("aux" in name for name, _ in model.named_parameters())


def all_torchvision() -> list[str]:
    from torchvision import models

    return models.list_models(module=models)


@pytest.mark.slow
@pytest.mark.parametrize("name", all_torchvision())
def test_every_torchvision_builder(name: str) -> None:
    if name == "regnet_y_128gf":
        pytest.skip("644 million parameters; the nine smaller ones of its family are tried")
    big = ("vit_h", "vit_l", "convnext_large", "vgg", "regnet_y_32", "regnet_x_32", "swin_b")
    side = 299 if name == "inception_v3" else 224 if name.startswith(("vit", "maxvit")) else 64
    if name.startswith(big) and "regnet" not in name:
        with torch.device("meta"):
            model = build_torchvision(name)
        model.pretrained_cfg = {"input_size": (3, 224, 224)}  # type: ignore[assignment]
        check_surgery(model, "spinal")
    else:
        check_surgery(build_torchvision(name), "spinal", side=side)


# --- timm -----------------------------------------------------------------------------------------

TIMM = {
    "resnet10t": ("fc",),
    "dla46_c": ("fc",),  # a 1x1 convolution on the pooled map
    "mobilenetv3_small_050": ("classifier",),
    "levit_128s": ("head.linear", "head_dist.linear"),
    "deit_tiny_distilled_patch16_224": ("head", "head_dist"),
    "convnext_atto": ("head.fc",),
    "ghostnet_050": ("classifier",),
    "lcnet_035": ("classifier",),
    "efficientvit_b0": ("head.classifier.4",),
}


@needs_timm
@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about themselves
        fixed = name in ("levit_128s", "deit_tiny_distilled_patch16_224")
        assert check_surgery(build_timm(name), "spinal", side=224 if fixed else 64) == TIMM[name]


@needs_timm
def test_timm_with_two_classifiers_by_design() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            model = build_timm("volo_d1_224")
        assert check_surgery(model, "spinal") == ("head", "aux_head")


@needs_timm
def test_timm_without_a_classifier_gets_one() -> None:
    import timm

    model = timm.create_model("mobilenetv3_small_050", num_classes=0)
    replace_head_(model, "spinal", num_classes=3)
    head = model.get_classifier()
    assert isinstance(head, SpinalNet)
    assert head.in_features == 1024  # not num_features, which is 288
    assert model.eval()(torch.randn(2, 3, 64, 64)).shape == (2, 3)


# Encoders and models of text and images: they have no classes.
NOT_CLASSIFIERS = {"mobilenetv5", "qwen3_vit"}


def sample_of_timm() -> list[str]:
    """Return for every family the alphabetically first name and the one in the middle."""
    if not HAS_TIMM:
        return []
    import timm

    names: list[str] = []
    for family in timm.list_modules():
        members = timm.list_models(module=family)
        if family not in NOT_CLASSIFIERS:
            names += [*members[:1], *members[len(members) // 2 :][:1]]
    return list(dict.fromkeys(names))


@pytest.mark.slow
@needs_timm
def test_the_sample_is_broad() -> None:
    assert len(sample_of_timm()) >= 150


@pytest.mark.slow
@needs_timm
@pytest.mark.parametrize("name", sample_of_timm())
def test_every_family_of_timm(name: str) -> None:
    """On the meta device: shapes, gradients and identity of the parameters, not their numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            model = build_timm(name)
        check_surgery(model, "spinal")


def heads_of_ours() -> Iterator[nn.Module]:
    for name in ("spinal", "mlp", "linear"):
        options = {"hidden_features": 4} if name != "linear" else {}
        yield make_head(name, 6, 3, **options)


def test_heads_on_maps_are_heads_at_every_position() -> None:
    maps = torch.randn(2, 6, 4, 5)
    for head in heads_of_ours():
        everywhere = PositionHead(head)(maps)
        torch.testing.assert_close(everywhere[:, :, 1, 3], head(maps[:, :, 1, 3]))
        torch.testing.assert_close(PooledHead(head)(maps), head(maps.mean((2, 3))))


# --- Hugging Face ---------------------------------------------------------------------------------


class Record(NamedTuple):
    """What a Hugging Face model returns, as far as surgery is concerned."""

    logits: Tensor


class ReturnsRecord(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(image_size=16, num_labels=5)
        self.num_labels = 5
        self.embed = nn.Conv2d(3, 6, kernel_size=8, stride=8)
        self.classifier = nn.Linear(4 * 6, 5)  # 224 pixels would not fit

    def forward(self, images: Tensor) -> Record:
        return Record(self.classifier(self.embed(images).relu().flatten(1)))


def test_a_network_that_returns_a_record_with_logits_gets_the_head() -> None:
    model = replace_head_(ReturnsRecord(), "spinal", num_classes=3)
    assert isinstance(model.classifier, SpinalNet)
    assert model(torch.randn(2, 3, 16, 16)).logits.shape == (2, 3)
    assert (model.num_labels, model.config.num_labels) == (3, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "options", "path"),
    [
        ("ViT", {"image_size": 32, "patch_size": 8}, "classifier"),
        ("Beit", {"image_size": 32, "patch_size": 8}, "classifier"),
        (
            "ResNet",
            {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
            "classifier.1",
        ),
        ("ConvNext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, "classifier"),
        ("MobileNetV2", {"depth_multiplier": 0.35}, "classifier"),
        (
            "RegNet",
            {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
            "classifier.1",
        ),
    ],
)
def test_hugging_face(family: str, options: dict[str, Any], path: str) -> None:
    transformers = pytest.importorskip("transformers")
    if "patch_size" in options:
        options = {
            **options,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        }
    config = getattr(transformers, f"{family}Config")(**options)
    model = getattr(transformers, f"{family}ForImageClassification")(config)
    assert find_classifier(model) == (path,)
    replace_head_(model, "spinal", num_classes=3)
    side = options.get("image_size", 64)
    output = model(torch.randn(2, 3, side, side), labels=torch.tensor([0, 2]))
    assert output.logits.shape == (2, 3)
    output.loss.backward()
    assert all(p.grad is not None for p in model.get_submodule(path).parameters())
    assert len(model.config.id2label) == 3
