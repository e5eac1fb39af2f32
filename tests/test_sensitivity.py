"""Summaries of the Jacobian, exact shares of the layers, and the drawings of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spinalnet import spine_diagram
from spinalnet._checks import InputError
from spinalnet.comparison import RunSpec, explaining, run_one
from spinalnet.data import frames
from spinalnet.nn.dense import MLPHead
from spinalnet.nn.gradients import jacobian
from spinalnet.nn.layers import SpinalNet
from spinalnet.nn.variants import TiledSpinalNet
from spinalnet.theory import approximation, drawings
from spinalnet.theory.drawings import draw_explanations, draw_sensitivities
from spinalnet.theory.sensitivity import explain, sensitivities
from spinalnet.timing import interleave


def test_summaries_of_a_linear_map_are_its_weights() -> None:
    net = SpinalNet(4, 2, 3, 4, activation="identity", dtype=torch.float64)
    x = torch.randn(50, 4).double()
    found = sensitivities(net, x, batch_size=7, inputs="abcd", outputs=["p", "q"])
    weights = jacobian(net, x[:1])[0]
    assert torch.allclose(found.mean, weights)
    assert torch.allclose(found.mean_absolute, weights.abs())
    assert float(found.std.max()) < 1e-12
    assert found.rows == 50
    first = found.records()[0]
    top = int(found.importance().argmax())
    assert first["input"] == "abcd"[top]
    assert first["mean"] == pytest.approx(float(weights[0, top]))
    assert len(found.records()) == 8


def test_summaries_of_other_modules_are_differentiated_automatically() -> None:
    # A dense net with one hidden layer is a spinal net of one layer.
    dense = MLPHead(5, 3, 4, activation="tanh", dtype=torch.float64)
    spinal = SpinalNet(5, 3, 4, 1, num_splits=1, activation="tanh", dtype=torch.float64)
    spinal.load_state_dict(dict(zip(spinal.state_dict(), dense.state_dict().values(), strict=True)))
    x = torch.randn(20, 5).double()
    ours, theirs = sensitivities(spinal, x), sensitivities(dense, x)
    for name in ("mean", "std", "mean_absolute"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-12)
    with pytest.raises(InputError, match="names must fit 5 inputs"):
        sensitivities(spinal, x, inputs=["a"])
    with pytest.raises(InputError, match="N >= 1"):
        sensitivities(spinal, x[:0])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_shares_of_the_layers_sum_to_the_logits(shared: bool, norm: str | None) -> None:
    net = SpinalNet(9, 4, 3, 5, num_splits=3, share_weights=shared, norm=norm, dropout=0.5)
    net.double()
    x = torch.randn(6, 9).double()
    shares = explain(net, x)
    assert shares.shape == (6, 5, 4)
    assert net.training  # as it was
    logits = net.eval()(x).detach()
    assert float((shares.sum(1) + net.output.bias.detach() - logits).abs().max()) < 1e-12
    # A layer's share is what goes when its output weights go.
    with torch.no_grad():
        net.output.weight[:, 3:6] = 0
    assert torch.allclose(logits - net(x).detach(), shares[:, 1], atol=1e-12)


def test_shares_in_the_compatibility_wiring() -> None:
    net = TiledSpinalNet(7, 3, 4, 5, num_splits=2, dtype=torch.float64).eval()
    x = torch.randn(4, 7).double()
    shares = explain(net, x)
    assert float((shares.sum(1) + net.output.bias - net(x)).abs().max().detach()) < 1e-12
    with pytest.raises(InputError, match="SpinalNet"):
        explain(MLPHead(7, 3, 4), x)  # type: ignore[arg-type]


def pixels(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_drawings_show_what_they_are_given() -> None:
    net = SpinalNet(64, 3, 4, 4)
    x = torch.rand(2, 64)
    figure = draw_explanations(
        net, x, ["ant", "bee", "cat"], images=x.view(2, 1, 8, 8), targets=[0, 1]
    ).figure
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    logits = net(x).detach()
    assert [t for t in texts if t.lstrip("-")[0].isdigit()] == [
        f"{value:.1f}" for value in logits.flatten().tolist()
    ]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    best = logits.argmax(1).tolist()
    names = ["ant", "bee", "cat"]
    for row in range(2):
        end = "right" if best[row] == row else f"is {names[row]}"
        assert f"says {names[best[row]]}, {end}" in titles
    assert pixels(figure).std() > 0

    summary = sensitivities(net, x, outputs=names)
    bars = draw_sensitivities(summary, top=5).figure.axes[1]
    assert len(bars.patches) == 15
    longest = max(patch.get_width() for patch in bars.patches)
    top = summary.importance().argsort(descending=True)[:5]
    assert longest == pytest.approx(float(summary.mean_absolute[:, top].max()))


def test_diagrams_are_drawn_from_numbers() -> None:
    proof = drawings.draw_proof()
    assert [axes.get_title()[:3] for axes in proof.figure.axes[1:]] == ["(a)", "(b)", "(c)", "(d)"]
    errors = approximation.approximation_errors(
        approximation.TARGETS["sum"], 2, groups=(1, 2), widths=(2, 4), seeds=2
    )
    _, left, right = drawings.draw_errors(errors, "sum").figure.axes
    assert [list(line.get_xdata()) for line in left.lines] == [[2, 4], [2, 4]]
    assert [list(line.get_xdata()) for line in right.lines] == [[4, 8], [8, 16]]
    axes = drawings.draw_trade_off({"tuned": [(10, [0.5, 0.7])]}, (20, 0.9))
    assert axes.lines[0].get_ydata() == pytest.approx([0.6])


def test_the_closed_jacobian_is_faster_than_jacrev() -> None:
    net = SpinalNet(64, 10, 16, 6, dtype=torch.float64).eval()
    x = torch.randn(1, 64).double()
    reverse = torch.func.jacrev(lambda row: net(row[None])[0])
    times = interleave(
        {"closed": lambda: jacobian(net, x), "jacrev": lambda: reverse(x[0])}, seconds=0.3
    )
    assert torch.allclose(jacobian(net, x)[0], reverse(x[0]).detach(), atol=1e-12)
    # Minima: the median of a busy machine says what else it did. About four times.
    assert times["closed"].minimum < times["jacrev"].minimum


def test_a_net_that_is_more_than_matrices_is_differentiated_automatically() -> None:
    net = SpinalNet(6, 2, 3, 4, dtype=torch.float64)
    x = torch.randn(5, 6).double()
    expected = sensitivities(net, x)
    net.spine.layers[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    with torch.no_grad():
        net.spine.layers[1].weight.div_(2)
        net.spine.layers[1].bias.div_(2)
    found = sensitivities(net, x)
    torch.testing.assert_close(found.mean, expected.mean)
    shares = explain(net, x)
    torch.testing.assert_close(shares.sum(1) + net.output.bias, net(x))
    net.output.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(InputError, match="matrix of the output row does not say"):
        explain(net, x)


# --- on trained runs ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short run of a spinal head and one of a dense head."""
    folder = tmp_path_factory.mktemp("runs")
    for head, options in (("spinal", {"hidden_features": 4}), ("mlp", {"hidden_features": 6})):
        spec = RunSpec.of(
            "digits", head=head, head_options=options, limit=200, epochs=1, device="cpu"
        )
        run_one(spec, folder / head)
    return folder


def test_test_images_of_a_run_are_explained(trained: Path, tmp_path: Path) -> None:
    for wrong in (False, True):
        figure = explaining.explain_run(trained / "spinal", tmp_path, examples=2, wrong=wrong)
        assert figure == tmp_path / "explanations.png"
        assert figure.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="needs a run with a spinal head"):
        explaining.explain_run(trained / "mlp", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_dense_head_of_a_run_is_converted_and_shrunk(trained: Path, tmp_path: Path) -> None:
    found = explaining.shrink_run(
        trained / "mlp", tmp_path, num_splits=3, hidden_features=2, epochs=1, seeds=2
    )
    result = json.loads((trained / "mlp" / "result.json").read_text())
    assert found.dense == found.converted == pytest.approx(result["test"]["accuracy"])
    assert [(row.width, len(row.tuned), len(row.scratch)) for row in found.rows] == [
        (2, 2, 2),
        (1, 2, 2),
    ]
    numbers = json.loads((tmp_path / "trade-off.json").read_text())
    assert numbers["dense_macs"] == found.dense_macs
    assert numbers["rows"][1]["scratch"] == list(found.rows[1].scratch)
    assert (tmp_path / "trade-off.png").stat().st_size > 1000
    with pytest.raises(InputError, match=r"SpinalNet.* cannot be converted"):
        explaining.shrink_run(trained / "spinal", tmp_path / "none")


def test_the_inputs_of_a_table_are_ranked(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 3))
    table = frames.Table("made", x, 5 * x[:, 1] + 0.1 * x[:, 0], "regression")
    found = explaining.explain_table(table, tmp_path)
    assert found.inputs[int(found.importance().argmax())] == "x2"
    lines = (tmp_path / "sensitivity.csv").read_text().splitlines()
    assert lines[0] == "output,input,mean,std,mean_absolute"
    assert [line.split(",")[1] for line in lines[1:]] == ["x2", "x1", "x3"]
    assert (tmp_path / "sensitivity.png").stat().st_size > 1000


def test_an_estimator_or_a_list_is_refused_with_what_is_taken() -> None:
    from spinalnet.tabular import SpinalRegressor

    x = np.linspace(0.0, 1.0, 60)[:, None]
    model = SpinalRegressor(epochs=2, random_state=0, embedding=None).fit(x, 1000.0 * x[:, 0])
    wrong: Any = model
    with pytest.raises(InputError, match=r"torch module, got SpinalRegressor: .*prepare\(X\)"):
        sensitivities(wrong, torch.from_numpy(x))
    rows: Any = [1, 2]
    array: Any = x
    with pytest.raises(InputError, match=r"x must be a tensor of rows .* got list"):
        explain(SpinalNet(2, 2, 3, 2), rows)
    with pytest.raises(InputError, match=r"x must be a tensor of rows .* got ndarray"):
        sensitivities(model.module_, array)
    # What the docstring says of units: a slope of the predictions, by the standardised input.
    prepared = model.prepare(x)
    scale = torch.from_numpy(np.asarray(model.target_scaler_.scale_))
    found = sensitivities(model.module_, prepared, scale=scale)
    step = 1e-6 * x.std()
    slope = (model.predict(x + step) - model.predict(x - step)) / (2 * step) * x.std()
    assert float(found.mean[0, 0]) == pytest.approx(slope.mean(), rel=1e-4)


@pytest.mark.parametrize("free", [False, True])
def test_all_that_is_drawn_is_drawn_on_given_axes_in_their_place(free: bool) -> None:
    from matplotlib.figure import Figure

    from spinalnet.training.lrfind import RangeTest, draw_range_tests

    net, x = SpinalNet(64, 3, 4, 4), torch.rand(2, 64)
    tests = {"spinal": RangeTest((0.1, 0.2), (1.0, 0.5), (1.0, 0.5), False)}
    errors = {2: [(2, [0.5, 0.6]), (4, [0.2, 0.3])]}
    drawn: list[Callable[[Any], Any]] = [
        lambda ax: spine_diagram(net, ax=ax),
        lambda ax: net.spine_diagram(ax=ax),
        lambda ax: drawings.draw_proof(ax=ax),
        lambda ax: drawings.draw_errors(errors, "sum", ax=ax),
        lambda ax: drawings.draw_trade_off({"a": [(10, [0.5])]}, (20, 0.9), ax=ax),
        lambda ax: draw_sensitivities(sensitivities(net, x), ax=ax),
        lambda ax: draw_explanations(net, x, list("abc"), ax=ax),
        lambda ax: draw_range_tests(tests, "rates", ax=ax),
    ]
    for draw in drawn:
        figure = Figure(figsize=(8, 8), layout=None if free else "constrained")
        place = (0.5, 0.5, 0.45, 0.45)
        ax = figure.add_axes(place) if free else figure.subplots(2, 2)[0][1]
        assert draw(ax) is ax
        shown = pixels(figure)
        assert shown[:380, 420:].std() > 0
        assert shown[600:, :200].std() == 0 or not free  # what lies elsewhere is left alone
    with pytest.raises(InputError, match=r"ax must be axes of matplotlib.*got a Figure"):
        drawings.draw_proof(ax=Figure())  # type: ignore[arg-type]
