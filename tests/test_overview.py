"""`summary`: a model layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spinalnet import InputError, count_macs, count_params, create_model, summary
from spinalnet.nn import SpinalNet


def test_rows_add_up_and_have_the_shapes_that_come_out():
    model = create_model("mnist-cnn", 10, head="spinal", seed=0)
    found = summary(model, (1, 28, 28))
    assert sum(row.params for row in found.rows) == found.params == count_params(model).total
    assert sum(row.macs for row in found.rows) == found.macs
    assert found.macs == count_macs(model, (1, 28, 28)).total
    rows = {row.name: row for row in found.rows}
    assert rows["trunk.0"].shape == (10, 24, 24)
    assert rows["head.output"].shape == (10,)
    assert (rows["head.spine"].kind, rows["head.spine"].shape) == ("SpinalLayer", (48,))
    text = str(found)
    assert "head.spine" in text
    assert f"{found.macs:,}" in text
    assert len(found.to_frame()) == len(found.rows)
    assert "<td>head.spine</td>" in found._repr_html_()


def test_the_path_is_the_one_a_call_takes():
    net = SpinalNet(12, 3, hidden_features=4, num_layers=4).double()
    found = summary(net, (12,))
    choice = net.spine.backend_choice(torch.zeros(1, 12, dtype=torch.float64))
    assert found.rows[0].path == choice.name
    assert found.reasons == {"spine": choice.reason}
    net.spine.layers[1].register_forward_hook(lambda module, inputs, output: None)
    assert summary(net, (12,)).rows[0].path == "reference"


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), SpinalNet(6, 2, 2, 2))
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    summary(model, (4,))
    assert [module.training for module in model] == [True, False, True]
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("shared", [False, True])
def test_a_layer_that_is_called_twice_counts_twice(shared):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(3, 3)

        def forward(self, x):
            return self.one(self.one(x)) if shared else self.one(x)

    assert summary(Twice(), (3,)).rows[0].macs == (18 if shared else 9)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        return self.inner(x) @ torch.zeros(2, 2)


@pytest.mark.parametrize("ask", [summary, count_macs])
@pytest.mark.parametrize(
    ("make", "shape", "said"),
    [
        (
            lambda: create_model("mnist-cnn", 10),
            (3, 28, 28),
            r"ImageModel takes no input of shape \(3, 28, 28\): its layer 'trunk.0', a Conv2d, "
            r"gets a tensor of shape \(1, 3, 28, 28\), with the batch first, and takes 1 channels",
        ),
        (
            lambda: create_model("mnist-cnn", 10),
            (1, 64, 64),
            r"'head.spine', a SpinalLayer, gets a tensor of shape \(1, 3380\).* takes 320 features",
        ),
        (lambda: create_model("mnist-cnn", 10), (1, 2, 2), r"trunk.*says: .*\(2 x 2\)"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (5,), "layer '1', a Linear, gets"),
        (Odd, (4,), r"Odd takes no input of shape \(4,\): it gets .*says: .*multiplied"),
        (lambda: SpinalNet(8, 2, 3, 2), 28, "sizes of one input without the batch.*got 28"),
        (lambda: SpinalNet(8, 2, 3, 2), (8.0,), r"sizes of one input.*got \(8.0,\)"),
        (lambda: "net", (8,), "must be a torch.nn.Module, got a str"),
    ],
)
def test_an_input_that_does_not_fit_is_told_by_layer_and_shape(ask, make, shape, said):
    model = make()
    with pytest.raises(InputError, match=said) as told:
        ask(model, shape)
    assert "\n" not in str(told.value)
    if isinstance(model, nn.Module):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert model.training
