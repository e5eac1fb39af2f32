"""The baselines of the benchmarks are the paper's equations, and the commands print their rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from paper_reference import spinal_longhand
from spinalnet import SpinalNet, bench, create_model
from spinalnet.bench import images, longhand, rows
from spinalnet.cli import app
from spinalnet.timing import Timing


@pytest.mark.parametrize(("features", "layers"), [(6, 2), (6, 4), (9, 5)])
def test_the_longhand_chain_is_the_papers(features: int, layers: int) -> None:
    net = SpinalNet(features, 3, 4, layers, dtype=torch.float64)
    head = longhand.LonghandHead(net)
    x = torch.randn(7, features, dtype=torch.float64)
    weights = [layer.weight.detach().numpy() for layer in head.chain.layers]
    biases = [layer.bias.detach().numpy() for layer in head.chain.layers]
    expected = spinal_longhand(x.numpy(), weights, biases, 2, lambda z: np.maximum(z, 0))
    found = head.chain(x).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    row = expected @ net.output.weight.detach().numpy().T + net.output.bias.detach().numpy()
    np.testing.assert_allclose(head(x).detach().numpy(), row, rtol=1e-12, atol=1e-14)


def test_fresh_maps_fit_a_chain() -> None:
    chain = longhand.LonghandChain(longhand.linear_maps(5, 3, 4))
    assert chain(torch.randn(2, 10)).shape == (2, chain.out_features) == (2, 12)


def test_the_longhand_chain_normalises_before_the_activation_and_drops_inputs() -> None:
    net = SpinalNet(8, 3, 4, norm="batch", dtype=torch.float64)
    head = longhand.LonghandHead(net, norm=True).double()
    x = torch.randn(16, 8, dtype=torch.float64)
    torch.testing.assert_close(head(x), net(x))  # both with the statistics of the batch
    dropped = longhand.LonghandHead(net, dropout=0.5).double()
    assert not torch.equal(dropped(x), dropped(x))
    torch.testing.assert_close(dropped.eval()(x), longhand.LonghandHead(net)(x))


def test_the_longhand_cnn_is_the_model_of_that_name() -> None:
    net, twin = create_model("mnist-cnn", 10, head="spinal"), longhand.LonghandCNN()
    with torch.no_grad():
        for mine, theirs in zip(twin.parameters(), net.parameters(), strict=True):
            mine.copy_(theirs)
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(twin.eval()(x), net.eval()(x))


def test_a_row_tells_how_many_times_faster_ours_is() -> None:
    timings = {
        "ours": Timing(median=0.5, quartiles=(0.4, 0.8), minimum=0.25, rounds=9, calls_per_round=1),
        "slow": Timing(median=2.0, quartiles=(1.6, 2.4), minimum=1.5, rounds=9, calls_per_round=1),
    }
    row = rows.compare("case", "slow", "images/s", 10, timings)
    assert (row.ours, row.theirs, row.ratio, row.rounds) == (20.0, 5.0, 4.0, 9)
    assert row.ratio_quartiles == pytest.approx((1.6 / 0.8, 2.4 / 0.4))
    assert rows.compare("case", "slow", "images/s", 10, timings, shortest=True).ratio == 6.0
    assert rows.compare("case", "ours", "images/s", 10, timings, ours="slow").ratio == 0.25
    assert "| case | slow | 20 images/s | 5 images/s | 4.0x (2.0 to 6.0) |" in rows.rows_table(
        [row]
    )


@pytest.mark.slow
def test_augmentation_and_epochs_are_timed_against_what_scripts_do() -> None:
    for found, baselines in (
        (images.bench_augment(count=8, seconds=0.0), {"torchvision per sample"}),
        (images.bench_epoch(count=8, seconds=0.0), {"classic script", "plain tensor loop"}),
    ):
        assert {row.baseline for row in found} == baselines
        assert all(row.ours > 0 and row.theirs > 0 for row in found)
        assert "none" in found[0].case


def test_the_protocol_of_epochs_says_how_many_images_each_case_has() -> None:
    counts = {(name, amp): images._IMAGES // share for name, _, amp, _, share in images._EPOCHS}
    assert counts == {("mnist-cnn", "off"): 6400, ("vgg5", "off"): 640, ("vgg5", "bf16"): 320}
    assert "6,400 images, of VGG-5 640, in bf16 320" in bench.BENCHMARKS["epoch"].protocol


def test_short_epochs_are_timed_in_many_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    fewest = []

    def interleave(cases: dict[str, object], **options: float) -> dict[str, Timing]:
        fewest.append(options["min_rounds"])
        return dict.fromkeys(cases, Timing(1.0, (1.0, 1.0), 1.0, 1, 1))

    monkeypatch.setattr(images.timing, "interleave", interleave)
    images.bench_epoch(count=8)
    assert fewest == [30, 30, 30, 7, 7, 7, 7]


def test_the_plain_loop_goes_through_every_image_once_as_the_classic_script_sees_them() -> None:
    source = images._digits(7)
    found = list(images._Tensors(source, 3))
    assert [len(x) for x, _ in found] == [3, 3, 1]
    script = images._PerSample(source, [])
    given = [script[i] for i in range(7)]
    seen = sorted(
        (x.sum().item(), y) for xs, ys in found for x, y in zip(xs, ys.tolist(), strict=True)
    )
    for mine, theirs in zip(seen, sorted((x.sum().item(), y) for x, y in given), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_the_longhand_vgg_is_the_model_of_that_name() -> None:
    net, twin = create_model("vgg5", 10, head="spinal"), images._longhand("vgg5")
    with torch.no_grad():
        for mine, theirs in zip(twin.parameters(), net.parameters(), strict=True):
            mine.copy_(theirs)
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(twin.eval()(x), net.eval()(x))


def test_the_command_prints_and_writes_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = rows.Row("case", "slow", "images/s", 20.0, 5.0, 4.0, (2.0, 6.0), 9)
    monkeypatch.setitem(bench.BENCHMARKS, "epoch", bench.Benchmark("in turns", lambda: [row]))
    done = CliRunner().invoke(app, ["bench", "epoch", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert rows.rows_table([row]) in done.output
    written = json.loads((tmp_path / "epoch.json").read_text(encoding="utf-8"))
    assert written["benchmark"] == "epoch"
    assert written["protocol"] == "in turns"
    assert written["rows"][0]["ratio"] == 4.0
    assert "torch" in written["environment"]


def test_an_unknown_benchmark_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "epochs"])
    assert done.exit_code != 0
    assert "unknown benchmark 'epochs'" in str(done.exception)
