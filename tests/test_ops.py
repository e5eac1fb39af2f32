from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import paper_reference
from helpers import assert_close
from spinalnet import BackendUnavailable, InputError, SpinalNet, use_backend
from spinalnet.kernels import reference
from spinalnet.nn import backends, functional

ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float | None]] = {
    "relu": (torch.relu, 0.0),
    "leaky_relu": (torch.nn.functional.leaky_relu, 0.01),
    "identity": (lambda z: z, 1.0),
    "tanh": (torch.tanh, None),
}


def servable(call: backends.SpinalCall) -> list[str]:
    return [name for name, backend in backends.BACKENDS.items() if backend.why_not(call) is None]


def problem(
    batch: int,
    in_features: int,
    splits: int,
    layers: int,
    hidden: int,
    dtype: torch.dtype,
    *,
    shared: bool = False,
    bias: bool = True,
) -> tuple[Tensor, list[Tensor], list[Tensor] | None]:
    generator = torch.Generator().manual_seed(batch + 31 * in_features + 7 * layers + hidden)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    sizes = reference.split_sizes(in_features, splits)
    if shared and layers > 1:
        longest = max(sizes[layer % splits] for layer in range(1, layers))
        later = draw(hidden, longest + hidden) / (longest + hidden) ** 0.5
        weights = [draw(hidden, sizes[0]), *[later] * (layers - 1)]
    else:
        weights = [
            draw(hidden, sizes[layer % splits] + (hidden if layer else 0))
            for layer in range(layers)
        ]
        weights = [w / w.shape[1] ** 0.5 for w in weights]
    return draw(batch, in_features), weights, [draw(hidden) for _ in weights] if bias else None


def outputs_and_gradients(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    backend: str,
    **options: object,
) -> dict[str, Tensor]:
    leaves = {id(w): w.detach().clone().requires_grad_() for w in weights}
    x = x.detach().clone().requires_grad_()
    ws = [leaves[id(w)] for w in weights]
    bs = None if biases is None else [b.detach().clone().requires_grad_() for b in biases]
    y = functional.spinal(x, ws, bs, backend=backend, **options)  # type: ignore[arg-type]
    # A loss whose gradient differs per output, so that swapped outputs cannot cancel.
    ramp = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    (y * ramp).sum().backward()
    found = {"output": y.detach(), "grad x": x.grad}
    found |= {f"grad weight {i}": leaf.grad for i, leaf in enumerate(leaves.values())}
    found |= {f"grad bias {i}": b.grad for i, b in enumerate(bs or [])}
    return found  # type: ignore[return-value]


@given(in_features=st.integers(1, 40), num_splits=st.integers(1, 40), data=st.data())
def test_split_sizes_cover_every_feature_once(
    in_features: int, num_splits: int, data: st.DataObject
) -> None:
    if num_splits > in_features:
        with pytest.raises(InputError, match=f"in_features={in_features}, got {num_splits}"):
            reference.split_sizes(in_features, num_splits)
        return
    sizes = reference.split_sizes(in_features, num_splits)
    assert sum(sizes) == in_features
    assert max(sizes) - min(sizes) <= 1
    assert list(sizes) == [len(part) for part in paper_reference.slices(in_features, num_splits)]


@pytest.mark.parametrize(("splits", "layers"), [(1, 1), (2, 5), (3, 4), (4, 9)])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_reference_is_the_papers_equation(splits: int, layers: int, name: str) -> None:
    act, _ = ACTIVATIONS[name]
    x, weights, biases = problem(3, 11, splits, layers, 4, torch.float64)
    assert biases is not None
    longhand = paper_reference.spinal_longhand(
        x.numpy(),
        [w.numpy() for w in weights],
        [b.numpy() for b in biases],
        splits,
        lambda z: act(torch.from_numpy(z)).numpy(),
    )
    y = reference.spinal_reference(x, weights, biases, num_splits=splits, activation=act)
    np.testing.assert_allclose(y.numpy(), longhand, rtol=1e-12, atol=1e-12)


@given(
    batch=st.integers(0, 9),
    in_features=st.integers(1, 33),
    splits=st.integers(1, 5),
    layers=st.integers(1, 9),
    hidden=st.integers(1, 19),
    name=st.sampled_from(sorted(ACTIVATIONS)),
    shared=st.booleans(),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_backends_agree_in_outputs_and_every_gradient(
    batch: int,
    in_features: int,
    splits: int,
    layers: int,
    hidden: int,
    name: str,
    shared: bool,
    bias: bool,
    dtype: torch.dtype,
) -> None:
    splits = min(splits, in_features)
    act, slope = ACTIVATIONS[name]
    x, weights, biases = problem(
        batch, in_features, splits, layers, hidden, dtype, shared=shared, bias=bias
    )
    upcast = {id(w): w.double() for w in weights}
    truth = outputs_and_gradients(
        x.double(),
        [upcast[id(w)] for w in weights],
        None if biases is None else [b.double() for b in biases],
        "reference",
        num_splits=splits,
        activation=act,
    )
    call = backends.SpinalCall(
        batch, in_features, hidden, layers, splits, slope, False, False, dtype, "cpu"
    )
    for backend in servable(call):
        found = outputs_and_gradients(
            x, weights, biases, backend, num_splits=splits, activation=act, negative_slope=slope
        )
        assert found.keys() == truth.keys()
        for key, expected in truth.items():
            assert_close(f"{backend}: {key}", found[key], expected, dtype)


@pytest.mark.parametrize("normed", [False, True])
def test_backends_agree_with_dropout_masks_and_norms(normed: bool) -> None:
    x, weights, biases = problem(6, 13, 3, 7, 5, torch.float64)
    masks = [torch.rand(6, w.shape[1], dtype=x.dtype).lt(0.7) / 0.7 for w in weights]
    norms = [torch.nn.LayerNorm(5, dtype=x.dtype) for _ in weights] if normed else None
    options = {"num_splits": 3, "activation": torch.relu, "negative_slope": 0.0}
    results = {
        backend: outputs_and_gradients(
            x, weights, biases, backend, norms=norms, dropout_masks=masks, **options
        )
        for backend in ("reference", "packed")
    }
    for key, expected in results["reference"].items():
        assert_close(key, results["packed"][key], expected, torch.float64)
    unmasked = outputs_and_gradients(x, weights, biases, "packed", norms=norms, **options)
    assert not torch.allclose(unmasked["output"], results["packed"]["output"])


def test_double_backward_of_the_plain_torch_paths() -> None:
    x, weights, biases = problem(2, 5, 2, 3, 3, torch.float64)
    for backend in ("reference", "packed"):
        assert torch.autograd.gradgradcheck(
            lambda x, *ws, backend=backend: functional.spinal(
                x, ws, biases, num_splits=2, activation=torch.tanh, backend=backend
            ),
            (x.requires_grad_(), *[w.requires_grad_() for w in weights]),
        )


def test_requested_backend_wins_and_unknown_ones_are_named() -> None:
    call = backends.SpinalCall(4, 8, 3, 6, 2, 0.0, False, False, torch.float32, "cpu")
    assert backends.choose_backend(call, "reference").name == "reference"
    with use_backend("reference"):
        assert backends.choose_backend(call).name == "reference"
        assert backends.choose_backend(call, "packed").name == "packed"
        with use_backend("auto"):
            assert backends.choose_backend(call).reason != "asked for by name"
    assert backends.choose_backend(call).reason
    with pytest.raises(InputError, match="did you mean 'packed'"):
        backends.choose_backend(call, "pakced")
    with pytest.raises(InputError, match="did you mean 'packed'"), use_backend("pakced"):
        pass


def test_a_backend_that_cannot_serve_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    lame = backends.Backend(reference.spinal_packed, lambda call: "it rains.")
    monkeypatch.setitem(backends.BACKENDS, "lame", lame)
    call = backends.SpinalCall(4, 8, 3, 6, 2, 0.0, False, False, torch.float32, "cpu")
    with pytest.raises(BackendUnavailable, match="'lame' cannot serve this call: it rains"):
        backends.choose_backend(call, "lame")


def test_macs_formula_equals_the_papers_heads() -> None:
    assert reference.spinal_macs(320, 8, 6, 2, 10) == 8_480
    assert reference.spinal_macs(256, 128, 4, 2, 10) == 119_808
    assert reference.spinal_macs(2048, 512, 10, 2, 10) == 7_653_376


def test_x_must_be_a_matrix() -> None:
    with pytest.raises(InputError, match=r"shape \(batch, features\), got \(3,\)"):
        functional.spinal(torch.zeros(3), [torch.zeros(2, 3)], None, num_splits=1)


def fitting(call: backends.SpinalCall) -> list[str]:
    """Every backend that can serve it, and the free choice."""
    return ["auto", *servable(call)]


CALL = backends.SpinalCall(3, 8, 5, 4, 2, 0.0, False, False, torch.float32, "cpu")


@pytest.mark.parametrize("slope", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("backend", fitting(CALL))
def test_a_slope_without_activation_is_the_activation(slope: float | None, backend: str) -> None:
    x, weights, biases = problem(3, 8, 2, 4, 5, torch.float64)

    def act(z: Tensor) -> Tensor:
        return torch.where(z > 0, z, (slope or 0.0) * z)

    expected = reference.spinal_reference(x, weights, biases, num_splits=2, activation=act)
    found = functional.spinal(
        x, weights, biases, num_splits=2, negative_slope=slope, backend=backend
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", fitting(CALL))
def test_a_slope_that_contradicts_the_activation_is_refused(backend: str) -> None:
    x, weights, biases = problem(3, 8, 2, 4, 5, torch.float32)
    for act, own in (
        (torch.relu, 0.0),
        (torch.nn.functional.relu, 0.0),
        (torch.nn.ReLU(), 0.0),
        (torch.nn.LeakyReLU(0.2), 0.2),
        (torch.nn.Identity(), 1.0),
    ):
        options = {"num_splits": 2, "activation": act, "backend": backend}
        with pytest.raises(InputError, match=f"slope of the activation, which is {own}, got 0.3"):
            functional.spinal(x, weights, biases, negative_slope=0.3, **options)
        agreed = functional.spinal(x, weights, biases, negative_slope=own, **options)
        torch.testing.assert_close(functional.spinal(x, weights, biases, **options), agreed)


def misfits() -> dict[str, tuple[dict[str, object], str]]:
    """Arguments that do not fit, and what the sentence must name."""
    x, weights, biases = problem(3, 8, 2, 4, 5, torch.float32)
    assert biases is not None
    row, masks = torch.randn(2, 20), [torch.ones(3, w.shape[1]) for w in weights]
    norms = [torch.nn.LayerNorm(5) for _ in weights]
    meta = [*biases[:3], biases[3].to("meta")]
    return {
        "no layer": ({"weights": [], "biases": None}, "weights must be"),
        "a vector": ({"weights": [weights[0][0], *weights[1:]]}, "weights must be"),
        "columns": ({"weights": [*weights[:3], weights[3][:, :-1]]}, r"weights\[3\].*\(5, 9\)"),
        "too wide": ({"weights": [*weights[:3], weights[3].repeat(1, 2)]}, r"weights\[3\].*18"),
        "rows": ({"weights": [*weights[:3], weights[3][:-1]]}, r"weights\[3\].*\(4, 9\)"),
        "first rows": ({"weights": [weights[0][:-1], *weights[1:]]}, r"weights\[1\]"),
        "features": ({"x": x[:, :6]}, r"weights\[0\].*\(5, 3\).*6 features"),
        "splits": ({"num_splits": 9}, "num_splits must be between 1 and"),
        "no split": ({"num_splits": 0}, "num_splits must be an integer >= 1"),
        "half a split": ({"num_splits": 2.0}, "num_splits must be an integer >= 1, got 2.0"),
        "None splits": ({"num_splits": None}, "num_splits must be an integer"),
        "splits in words": ({"num_splits": "2"}, "num_splits must be an integer"),
        "slope": ({"negative_slope": float("nan")}, "slope must be a finite number.*nan"),
        "slope in words": ({"negative_slope": "0.1"}, "slope must be a finite number"),
        "empty row": ({"output": ()}, "output must be the matrix.*got 0 entries"),
        "long row": ({"output": (row, None, None)}, "output must be the matrix.*got 3 entries"),
        "no matrix": ({"output": (None, torch.ones(2))}, "output must be the matrix.*no matrix"),
        "mask of no row": ({"output_mask": [torch.ones(3, 20)]}, "output_mask needs an output row"),
        "few biases": ({"biases": biases[:3]}, "biases must be one.*4 weights, got 3"),
        "bias": ({"biases": [*biases[:3], biases[3][:-1]]}, r"biases\[3\].*\(5,\).*\(4,\)"),
        "bias rank": ({"biases": [*biases[:3], biases[3][None]]}, r"biases\[3\].*\(1, 5\)"),
        "row": ({"output": (row[:, :-1], None)}, r"output row.*\(outputs, 20\).*\(2, 19\)"),
        "row rank": ({"output": (row[0], None)}, "output row"),
        "row bias": ({"output": (row, torch.ones(3))}, r"bias of the output row.*\(2,\).*\(3,\)"),
        "x dtype": ({"x": x.double()}, "one dtype: x is torch.float64, weights.0. torch.float32"),
        "dtype": ({"weights": [*weights[:3], weights[3].double()]}, r"weights\[3\] torch.float64"),
        "row dtype": ({"output": (row.double(), None)}, r"output\[0\] torch.float64"),
        "device": ({"biases": meta}, r"one device: x is on cpu, biases\[3\] on meta"),
        "few norms": ({"norms": norms[:3]}, "norms must be one.*4 weights, got 3"),
        "few masks": ({"dropout_masks": masks[:3]}, "dropout_masks must be one.*got 3"),
        "mask": ({"dropout_masks": [*masks[:3], masks[0]]}, r"dropout_masks\[3\].*\(3, 9\)"),
        "mask rows": ({"dropout_masks": [m[:1] for m in masks]}, r"dropout_masks\[0\].*\(3, 4\)"),
        "mask dtype": ({"dropout_masks": [m.double() for m in masks]}, "dtype of x"),
        "row mask": (
            {"output": (row, None), "output_mask": [torch.ones(3, 19)]},
            r"output_mask\[0\].*\(3, 20\)",
        ),
    }


@pytest.mark.parametrize("backend", fitting(CALL))
@pytest.mark.parametrize("kind", misfits())
def test_what_does_not_fit_is_named_whatever_the_backend(kind: str, backend: str) -> None:
    x, weights, biases = problem(3, 8, 2, 4, 5, torch.float32)
    wrong, message = misfits()[kind]
    arguments = {"x": x, "weights": weights, "biases": biases, "num_splits": 2, **wrong}
    kinds = InputError
    if backend == "cpp" and {"norms", "dropout_masks", "output_mask"} & wrong.keys():
        kinds = (InputError, BackendUnavailable)  # whichever is noticed first
        message = f"{message}|cannot serve"
    with pytest.raises(kinds, match=message):
        functional.spinal(**arguments, backend=backend)  # type: ignore[arg-type]


def test_masks_of_bits_must_be_drawn_for_the_call() -> None:
    x, weights, biases = problem(3, 8, 2, 4, 5, torch.float32)
    if not functional.draws_bits(x):
        pytest.skip("masks are tensors here")
    segments = [(4,), (4, 5), (4, 5), (4, 5)]
    fits = functional.draw_masks(x, segments, 0.5)
    assert functional.spinal(x, weights, biases, num_splits=2, dropout_masks=fits).shape == (3, 20)
    for masks in (
        functional.draw_masks(x[:2], segments, 0.5),
        functional.draw_masks(x, [(4,), (9,), (9,), (9,)], 0.5),
    ):
        for backend in ("cpp", "reference", "packed"):
            with pytest.raises(InputError, match="dropout_masks must be drawn for 3 rows"):
                functional.spinal(
                    x, weights, biases, num_splits=2, dropout_masks=masks, backend=backend
                )


def test_autocast_takes_parameters_of_another_dtype() -> None:
    x, weights, biases = problem(3, 8, 2, 4, 5, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for backend in ("reference", "packed"):
            y = functional.spinal(x.bfloat16(), weights, biases, num_splits=2, backend=backend)
            assert y.isfinite().all()


@pytest.mark.parametrize("backend", fitting(CALL))
@pytest.mark.parametrize("missing", [0, 1])
def test_a_bias_that_is_none_is_refused(backend: str, missing: int) -> None:
    weights = [torch.randn(4, 3), torch.randn(4, 7)]
    biases: list[Tensor | None] = [torch.randn(4), torch.randn(4)]
    biases[missing] = None
    with pytest.raises(InputError, match=f"None for layer {missing}"):
        functional.spinal(torch.randn(5, 6), weights, biases, num_splits=2, backend=backend)  # type: ignore[arg-type]


def test_a_negated_view_has_its_own_sign() -> None:
    x, weights, biases = problem(3, 8, 2, 4, 5, torch.float32)
    assert biases is not None
    wanted = functional.spinal(-x, weights, biases, num_splits=2)
    found = functional.spinal(torch._neg_view(x), weights, biases, num_splits=2)
    torch.testing.assert_close(found, wanted)
    negated = [torch._neg_view(weight) for weight in weights]
    wanted = functional.spinal(x, [-weight for weight in weights], biases, num_splits=2)
    torch.testing.assert_close(functional.spinal(x, negated, biases, num_splits=2), wanted)
    hidden = functional.spinal(x.requires_grad_(), weights, biases, num_splits=2)
    up = torch.ones_like(hidden)
    (seen,) = torch.autograd.grad(hidden, x, torch._neg_view(up), retain_graph=True)
    torch.testing.assert_close(seen, -torch.autograd.grad(hidden, x, up)[0])


@pytest.mark.parametrize("backend", fitting(CALL))
def test_no_biases_may_be_an_empty_list(backend: str) -> None:
    x, weights, _ = problem(3, 8, 2, 4, 5, torch.float32)
    options = {"num_splits": 2, "backend": backend}
    torch.testing.assert_close(
        functional.spinal(x, weights, [], **options), functional.spinal(x, weights, None, **options)
    )


def test_the_slope_of_torchs_functions_is_known() -> None:
    assert backends.slope_of(torch.nn.functional.leaky_relu) == 0.01
    assert backends.slope_of(Tensor.relu) == 0.0


def test_a_net_refuses_a_single_number() -> None:
    with pytest.raises(InputError, match="last dimension of x"):
        SpinalNet(8, 3, hidden_features=4)(torch.tensor(1.0))
