from __future__ import annotations

import json
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from spinalnet import create_model, replace_head_
from spinalnet._checks import InputError
from spinalnet.nn import SpinalNet, as_html, count_macs, make_head, spine_diagram, wiring_in
from spinalnet.wiring import Wiring, common_scale, draw_wiring

HEADS = {
    "spinal": {"hidden_features": 8, "num_layers": 6},
    "spinal-shared": {"hidden_features": 8, "num_layers": 5, "num_splits": 3},
    "unchained": {"hidden_features": (3, 5, 7), "num_layers": 3},
    "progressive": {"hidden_features": 4, "num_layers": 3},
    "mlp": {"hidden_features": (9, 5)},
    "linear": {},
}


def test_a_layer_sees_the_slice_that_is_drawn_and_what_the_one_before_saw():
    torch.manual_seed(0)
    spine = SpinalNet(7, 2, hidden_features=3, num_layers=3, activation="tanh").double().spine
    wiring = wiring_in(SpinalNet(7, 2, hidden_features=3, num_layers=3))
    assert [(layer.start, layer.stop, layer.earlier) for layer in wiring.layers] == [
        (0, 4, ()),
        (4, 7, (0,)),
        (0, 4, (1,)),
    ]
    x = torch.rand(1, 7, dtype=torch.float64)
    slopes = torch.autograd.functional.jacobian(spine, x)[0, :, 0]  # (9, 7)
    seen = slopes.reshape(3, 3, 7).abs().sum(1) > 0
    assert seen[0].tolist() == [True] * 4 + [False] * 3
    assert seen[1:].all()


@pytest.mark.parametrize("name", HEADS)
def test_what_is_kept_is_what_is_read_and_drawn(name):
    head = make_head(name, 20, 4, **HEADS[name])
    wiring = wiring_in(head)
    assert Wiring.from_dict(json.loads(json.dumps(wiring.to_dict()))) == wiring
    assert wiring_in(nn.Sequential(nn.Identity(), head)) == wiring
    assert wiring.params == sum(p.numel() for p in head.parameters())
    drawing = draw_wiring(wiring, "<b>&")
    root = ET.fromstring(drawing)
    tips = [node.text for node in root.iter("{http://www.w3.org/2000/svg}title")]
    assert sum(tip.startswith("layer ") or " wide" in tip for tip in tips) >= len(wiring.layers)
    assert "&lt;b&gt;&amp;" in drawing


@pytest.mark.parametrize("name", HEADS)
def test_the_multiplications_of_a_drawing_are_those_of_the_head(name):
    head = make_head(name, 20, 4, **HEADS[name])
    assert wiring_in(head).macs == count_macs(head, (20,)).total


def test_a_hundred_layers_are_not_all_drawn():
    drawing = spine_diagram(SpinalNet(64, 3, hidden_features=2, num_layers=100))
    assert "92 more" in drawing
    assert len(drawing) < 20_000


def test_a_notebook_shows_the_net():
    net = SpinalNet(6, 2, hidden_features=2, num_layers=2)
    shown = net._repr_html_()
    assert shown.startswith("<svg")
    assert "SpinalNet(" in shown
    assert net.spine_diagram() in shown


def test_a_notebook_shows_any_head_and_the_network_around_it():
    model = create_model("mnist-cnn", 10, head="spinal")
    assert model.spine_diagram() == spine_diagram(model)
    assert model._repr_html_().startswith("<svg")
    assert "ImageModel(" in model._repr_html_()
    assert spine_diagram(model)._repr_html_() == spine_diagram(model)  # a picture, not its text
    counts = "8,538 of 13,818 parameters, 8,480 of 472,480 multiplications"
    for drawn in (model.spine_diagram(), model._repr_html_()):  # not the head's under its name
        assert ">head of ImageModel mnist-cnn</text>" in drawn
        assert f">{counts}</text>" in drawn
        assert ">trunk: 5,280 parameters</text>" in drawn
    assert "trunk" not in spine_diagram(model.head)
    axes = spine_diagram(model, ax=Figure().add_subplot())
    assert counts in axes.get_title(loc="left")
    assert "trunk: 5,280 parameters" in [text.get_text() for text in axes.texts]
    network = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    surgical = replace_head_(network, "spinal", num_classes=4)
    assert "8 inputs" in spine_diagram(surgical)
    assert "head of Sequential" in spine_diagram(surgical)
    assert "multiplications of the head" in spine_diagram(surgical)  # its input is not known
    for name, options in HEADS.items():
        head = make_head(name, 20, 4, **options)
        assert head._repr_html_().startswith("<svg")
    of_taps = {"tap_features": [4, 2], "layers_per_tap": [2, 2]}
    taps = make_head("spinal-taps", 6, 2, hidden_features=2, **of_taps)
    assert wiring_in(taps) is None  # what lies on top of its chains is not the whole
    assert as_html(taps).startswith("<pre>MultiTapSpinalNet(")


def test_axes_show_what_the_picture_shows():
    axes = spine_diagram(SpinalNet(7, 2, 3, 30), "<net> $a", ax=Figure().add_subplot())
    assert axes.get_title(loc="left").startswith("<net> $a\n")
    assert [text.get_text() for text in axes.texts if text.get_text()] == [
        *("… 22 more", "7 inputs", "30 layers of 3", "2 outputs")
    ]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # downwards, as in the picture


def test_another_module_is_refused_by_name():
    with pytest.raises(InputError, match="a ReLU is not one chain of layers"):
        spine_diagram(nn.ReLU())
    with pytest.raises(InputError, match=r"must be a torch\.nn\.Module, got a str"):
        spine_diagram("net")


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 3},
        {"seen": [7]},
        {"params": -1},
        {"in_features": "20"},
        {"more": 1},
        {"layers": [{"width": 1, "start": 0, "stop": 1, "earlier": [5]}]},
        {"layers": [{"width": 1}]},
    ],
)
def test_a_damaged_description_is_refused(change):
    kept = wiring_in(make_head("spinal", 20, 4, **HEADS["spinal"])).to_dict()
    with pytest.raises(InputError, match="no description"):
        Wiring.from_dict({**kept, **change})


@pytest.mark.parametrize("sizes", [(8, 64, 3), (512, 8, 10), (60, 16, 900)])
def test_layers_stand_apart_whatever_is_largest(sizes):
    in_features, width, outputs = sizes
    net = SpinalNet(in_features, outputs, hidden_features=width, num_layers=4)
    drawn = ET.fromstring(str(spine_diagram(net)))
    bars = [
        (float(one.get("x")), float(one.get("y")), float(one.get("height")))
        for one in drawn.iter("{http://www.w3.org/2000/svg}rect")
    ]
    high = float(drawn.get("viewBox").split()[3])
    assert all(top >= 46 and top + tall <= high - 26 + 0.1 for _, top, tall in bars)
    layers = sorted((top, tall) for x, top, tall in bars if x == 200)
    assert len(layers) == 4
    for (top, tall), (below, _) in pairwise(layers):
        assert below - (top + tall) >= 8  # the arrow of the chain is there


def _bars(drawing: str) -> dict[str, float]:
    """Return the heights of the parts of a drawing by what they say they are."""
    namespace = "{http://www.w3.org/2000/svg}"
    return {
        (bar.findtext(f"{namespace}title") or ""): float(bar.get("height"))
        for bar in ET.fromstring(drawing).iter(f"{namespace}rect")
    }


def test_heads_side_by_side_have_one_scale():
    heads = {
        "spinal": {"hidden_features": 8, "num_layers": 6},
        "mlp": {"hidden_features": 960},
        "linear": {},
    }
    wirings = [wiring_in(make_head(head, 320, 10, **of)) for head, of in heads.items()]
    scale = common_scale(wirings)
    tall = []
    for wiring in wirings:
        bars = _bars(draw_wiring(wiring, "head", scale=scale))
        inputs = {
            name: high for name, high in bars.items() if "input" in name and "see" not in name
        }
        tall.append(sum(inputs.values()) + (len(inputs) if len(inputs) > 1 else 0))  # with gaps
    assert tall == pytest.approx([320 * scale] * 3, abs=0.2)
    assert (
        _bars(draw_wiring(wirings[1], "mlp", scale=scale))["960 wide"] > 100
    )  # it fits, and fills


def test_heads_of_very_different_size_have_no_common_scale():
    heads = [make_head("linear", 1, 1), make_head("linear", 10_000, 1)]
    assert common_scale([wiring_in(head) for head in heads]) is None
    assert common_scale([]) == 1
