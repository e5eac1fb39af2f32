from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import write_images
from spinalnet import (
    ComparisonSpec,
    InputError,
    RunSpec,
    TrainConfig,
    load_dataset,
    load_runs,
    load_trained,
    predict_logits,
    run_one,
    summarize,
)
from spinalnet.comparison import building
from spinalnet.comparison.calibration import quality
from spinalnet.comparison.comparing import Effort, run_comparison
from spinalnet.comparison.metrics import METRICS
from spinalnet.comparison.outputs import OUTPUTS_FILE, Outputs
from spinalnet.data.images import fit_to
from spinalnet.training import runs

QUICK = TrainConfig(epochs=2, lr=3e-3, device="cpu")


def spec(**options: Any) -> RunSpec:
    return RunSpec.of("digits", **({"train": QUICK, "limit": 300} | options))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparison") / "c"
    return run_comparison(ComparisonSpec(spec(), ("spinal", "matched"), seeds=2), out)


def test_run_folder_holds_everything_and_is_taken_as_it_is(tmp_path: Path) -> None:
    record = run_one(spec(), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "model.safetensors",
        "test-outputs.safetensors",
        "samples.png",
        "result.json",
        "DONE",
    }
    assert record.result is not None
    assert record.result["params"] == 13_818
    assert record.result["head_macs"] == 8_480
    assert record.result["test"]["n"] == 359
    assert record.result["selected_on"] == "validation"
    before = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    again = run_one(spec(), tmp_path / "run")
    assert again.result == record.result
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"train\.epochs = 2, not 3"):
        run_one(spec(train=TrainConfig(epochs=3, lr=3e-3, device="cpu")), tmp_path / "run")


def test_a_run_keeps_a_few_training_images_plain_and_augmented(tmp_path: Path) -> None:
    plain = run_one(spec(), tmp_path / "plain")
    turned = run_one(spec(train=replace(QUICK, augment="rotation:40")), tmp_path / "turned")
    assert plain.result is not None
    assert turned.result is not None
    about = turned.result["samples"]
    assert (about["file"], about["side"], about["augment"]) == ("samples.png", 28, "rotation:40")
    assert plain.result["samples"]["labels"] == about["labels"]
    one, two = (
        torch.from_numpy(np.array(Image.open(tmp_path / name / "samples.png")))
        for name in ("plain", "turned")
    )
    assert one.shape == (28, 6 * 29 - 1)  # a column of grey between two
    assert two.shape == (57, 6 * 29 - 1)
    assert torch.equal(one, two[:28])
    assert torch.equal(two[28], torch.full_like(two[28], 128))
    train = building.load_splits(spec()).train
    seen, changed = fit_to(train.inputs, 28), 0
    for column, label in enumerate(about["labels"]):
        above, below = (strip[:, 29 * column : 29 * column + 28] for strip in (one, two[29:]))
        rows = [i for i, pixels in enumerate(seen) if torch.equal(pixels[0], above)]
        assert label in {str(int(train.targets[row])) for row in rows}
        changed += not torch.equal(above, below)
    assert changed >= 4  # an angle may be next to none


@pytest.mark.parametrize("freeze", [False, True])
def test_what_layers_add_to_the_logits_of_mistakes_is_all_but_the_bias(
    tmp_path: Path, freeze: bool
) -> None:
    run_one(spec(freeze=freeze), tmp_path / "run")
    said = Outputs.load(tmp_path / "run" / OUTPUTS_FILE)
    trained = load_trained(tmp_path / "run")
    assert said.shown is not None
    assert said.explained is not None
    assert said.shares is not None
    # Far more than are shown: a report shows what several runs together got most wrong.
    assert torch.equal(said.explained, said.worst(256))
    assert len(said.explained) > len(said.shown)
    assert said.shares.shape == (len(said.explained), 6, 2)
    images, targets = next(iter(trained.load_data().test.batches(359)))
    with torch.no_grad():
        logits = trained.model(images)[said.explained]
    bias = trained.model.head.output.bias.detach()
    for place, of in enumerate((said.predicted[said.explained], targets[said.explained])):
        wanted = logits.gather(1, of[:, None])[:, 0]
        assert torch.allclose(said.shares[..., place].sum(1) + bias[of], wanted, atol=1e-4)


def test_other_heads_have_no_shares(tmp_path: Path) -> None:
    run_one(spec(head="mlp"), tmp_path / "run")
    assert Outputs.load(tmp_path / "run" / OUTPUTS_FILE).shares is None


def test_pairs_share_split_order_augmentation_and_trunk() -> None:
    question = ComparisonSpec(spec(), ("spinal", "mlp", "matched", "linear"), seeds=2)
    specs = list(question.cells())
    assert [s.name for s in specs[:5]] == [
        "spinal-seed0",
        "mlp-seed0",
        "matched-seed0",
        "linear-seed0",
        "spinal-seed1",
    ]
    splits = [building.load_splits(s) for s in specs[:5]]
    trunks = [
        building.build_model(s, split.info).trunk.state_dict()
        for s, split in zip(specs, splits, strict=False)
    ]
    for trunk in trunks[1:4]:
        assert all(torch.equal(trunk[name], trunks[0][name]) for name in trunks[0])
    assert not all(torch.equal(trunks[4][name], trunks[0][name]) for name in trunks[0])
    augment = {"shuffle": True, "seed": 0, "epoch": 1, "augment": "rotation:10"}
    first = [next(split.train.batches(32, **augment))[0] for split in splits[:2]]
    torch.testing.assert_close(first[0], first[1], rtol=0, atol=0)
    assert torch.equal(splits[0].test.inputs, splits[4].test.inputs)


def test_matched_control_follows_the_first_heads_options() -> None:
    base = spec(head_options={"hidden_features": 40})
    spinal, matched = list(ComparisonSpec(base, ("spinal", "matched"), seeds=1).cells())
    info = building.load_splits(spinal).info
    sizes = [
        sum(p.numel() for p in building.build_model(s, info).head.parameters())
        for s in (spinal, matched)
    ]
    assert sizes[0] > 30_000
    assert abs(sizes[1] - sizes[0]) < 200


def test_matched_control_has_the_norm_and_dropout_of_the_first_head() -> None:
    base = spec(head_options={"norm": "batch", "dropout": 0.5, "hidden_features": 16})
    spinal, matched = list(ComparisonSpec(base, ("spinal", "matched"), seeds=1).cells())
    info = building.load_splits(spinal).info
    heads = [building.build_model(s, info).head for s in (spinal, matched)]
    for head in heads:
        assert any(isinstance(m, torch.nn.BatchNorm1d) for m in head.modules())
        assert {m.p for m in head.modules() if isinstance(m, torch.nn.Dropout)} == {0.5}
    sizes = [sum(p.numel() for p in head.parameters()) for head in heads]
    assert abs(sizes[1] - sizes[0]) < 200


def test_comparison_folder_can_be_read_extended_and_repeated(done: Path) -> None:
    summary = summarize(done).to_dict()
    assert [head["head"] for head in summary["heads"]] == ["spinal", "matched"]
    assert summary["heads"][0]["n"] == 2
    assert summary["heads"][1]["difference"]["n"] == 2
    assert summary["heads"][0]["inference_us"] > 0
    stamps = {r.path.name: (r.path / "DONE").stat().st_mtime_ns for r in load_runs(done)}
    seen: list[str] = []
    run_comparison(
        ComparisonSpec(spec(), ("spinal", "matched"), seeds=3),
        done,
        Effort(on_event=lambda event: seen.append(event.cell.spec.name)),
    )
    assert set(seen) >= {"spinal-seed2", "matched-seed2"}
    records = load_runs(done)
    assert len(records) == 6
    for record in records:
        if record.path.name in stamps:
            assert (record.path / "DONE").stat().st_mtime_ns == stamps[record.path.name]


def test_another_question_in_the_same_folder_is_refused(done: Path) -> None:
    other = spec(train=TrainConfig(epochs=1, lr=3e-3, device="cpu"))
    with pytest.raises(InputError, match="epochs"):
        run_comparison(ComparisonSpec(other, ("spinal", "matched"), seeds=2), done)
    for heads in (("matched", "spinal"), ("spinal", "linear"), ("linear", "mlp")):
        with pytest.raises(InputError, match="holds a comparison of spinal, matched: name them"):
            run_comparison(ComparisonSpec(spec(), heads, seeds=2), done)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ComparisonSpec(spec(), ("spinal", "mpl")), "did you mean 'mlp'"),
        (lambda: spec(head="spinl"), "did you mean 'spinal'"),
        (lambda: spec(image_sise=9), "unknown setting of a run 'image_sise'; did you mean 'image"),
        (
            lambda: ComparisonSpec(spec(), other={"mlp": {"limit": 3}}),
            "unknown field of head 'mlp'",
        ),
        (lambda: ComparisonSpec(spec(), ()), "at least two heads"),
        (lambda: ComparisonSpec(spec(), ("mlp", "mlp")), "heads must differ"),
        (lambda: ComparisonSpec(spec(), seeds=0), "seeds must be an integer >= 1"),
    ],
)
def test_impossible_questions(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "mnist-cn"}, "did you mean 'mnist-cnn'"),
        ({"head_options": {"hidden": 3}}, "did you mean 'hidden_features'"),
        ({"head_options": {"num_splits": 9999, "num_layers": 9999}}, "num_splits must be"),
        ({"image_size": 9}, "at least 16 x 16"),
    ],
)
def test_a_refused_run_leaves_nothing_behind(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_one(spec(**options), tmp_path / "run")
    with pytest.raises(InputError, match=message):
        run_comparison(ComparisonSpec(spec(**options), ("spinal",)), tmp_path / "cmp")
    assert list(tmp_path.iterdir()) == []


def test_a_network_for_images_refuses_rows_of_numbers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes images, and regression-sum has rows of 8 numbers"):
        run_one(RunSpec.of("regression-sum", limit=60), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_comparison_goes_on(tmp_path: Path) -> None:
    question = ComparisonSpec(spec(), ("spinal",), seeds=2)

    def stop(event: Any) -> None:
        if event.cell.spec.train.seed == 1 and event.progress and event.progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_comparison(question, tmp_path / "a", Effort(jobs=1, on_event=stop))
    assert runs.is_done(tmp_path / "a/runs/spinal-seed0")
    assert not runs.is_done(tmp_path / "a/runs/spinal-seed1")
    run_comparison(question, tmp_path / "a")
    run_comparison(question, tmp_path / "b")
    for seed in (0, 1):
        (a, about), (b, _) = (
            runs.RunFolder(tmp_path / side / f"runs/spinal-seed{seed}").load_model()
            for side in "ab"
        )
        assert about["class_names"] == list("0123456789")
        assert all(torch.equal(a[name], b[name]) for name in b)


def test_load_trained_wants_one_run(done: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not the folder of a run"):
        load_trained(done)
    with pytest.raises(InputError, match="is not the folder of a run"):
        load_trained(tmp_path / "nothing")


def test_timing_compares_all_heads_in_one_run(done: Path) -> None:
    timing = json.loads((done / "timing.json").read_text())
    assert timing["batch_size"] == 64
    assert set(timing["heads"]) == {"spinal", "matched"}
    for head in timing["heads"].values():
        assert 0 < head["inference"] < head["training"]


@pytest.mark.parametrize("head", ["spinal", "mlp"])
def test_it_learns_real_digits(head: str) -> None:
    from spinalnet import evaluate, fit

    question = RunSpec.of("digits", head=head, epochs=12, device="cpu")
    splits = building.load_splits(question)
    model = building.build_model(question, splits.info)
    fit(model, splits.train, splits.val, question.train)
    assert (evaluate(model, splits.test).accuracy or 0) > 0.93


def test_files_left_out_are_told_kept_and_part_of_what_a_run_is(tmp_path: Path) -> None:
    write_images(tmp_path / "set", {"a": 8, "b": 8})
    broken = [tmp_path / "set" / "a" / f"{k:03}.png" for k in range(4)]
    contents = [path.read_bytes() for path in broken]
    for path in broken:
        path.write_bytes(b"")
    base = RunSpec.of(
        str(tmp_path / "set"), train=QUICK, image_size=28, in_channels=1, on_bad_image="skip"
    )
    with pytest.raises(InputError, match="4 image files cannot be used; remove or replace them"):
        run_comparison(
            ComparisonSpec(base.having(on_bad_image="error"), ("linear",), 1), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()
    run_comparison(ComparisonSpec(base, ("linear",), 1), tmp_path / "out", timed=False)
    listed = "".join(f"'{path}' is empty\n" for path in broken)
    run = tmp_path / "out" / "runs" / "linear-seed0"
    for folder in (tmp_path / "out", run):
        assert (folder / "bad-images.txt").read_text() == listed
    note = "4 of 16 image files cannot be used and are left out"
    assert any(note in line for line in json.loads((run / "result.json").read_text())["notes"])
    assert any(note in line for line in summarize(tmp_path / "out").notes)
    # With a file mended it is other data: neither the comparison nor a begun run goes on with it.
    broken[0].write_bytes(contents[0])
    with pytest.raises(InputError, match="begun with other image files left out"):
        run_comparison(ComparisonSpec(base, ("linear",), 2), tmp_path / "out", timed=False)
    (run / "DONE").unlink()
    with pytest.raises(InputError, match="begun with other image files left out"):
        run_one(base.having(head="linear"), run)


def test_what_was_said_of_every_test_image_is_kept(done: Path) -> None:
    run = done / "runs/spinal-seed0"
    outputs = Outputs.load(run / OUTPUTS_FILE)
    result = load_runs(run)[0].result
    assert result is not None
    splits, trained = building.load_splits(spec()), load_trained(run)
    logits = predict_logits(trained.model, splits.test)
    assert torch.equal(outputs.targets, splits.test.targets)
    assert torch.equal(outputs.predicted, logits.argmax(1))
    torch.testing.assert_close(outputs.probabilities, logits.softmax(1).topk(10).values)
    scores = quality(outputs)
    assert scores.accuracy == pytest.approx(result["test"]["accuracy"])
    assert scores.nll == pytest.approx(result["test"]["loss"], rel=1e-5)
    assert scores.brier == pytest.approx(result["test"]["brier"])
    assert scores.ece == pytest.approx(result["test"]["ece"])
    assert result["baseline"] == {"class_counts": splits.train.targets.bincount().tolist()}
    for name, metric in METRICS.items():
        if metric.task == "classification":
            assert metric.value(outputs) == pytest.approx(result["test"][metric.key], rel=1e-5), (
                name
            )
    assert outputs.shown is not None
    assert outputs.shown.tolist() == outputs.worst(16).tolist()
    assert torch.equal(outputs.thumbnails, splits.test.inputs[outputs.shown])


@pytest.mark.parametrize("budget", [0, 2**30])
def test_mistakes_on_photographs_keep_names_and_pictures(tmp_path: Path, budget: int) -> None:
    write_images(tmp_path / "set", {"a": 12, "b": 12}, size=(200, 150))
    question = RunSpec.of(str(tmp_path / "set"), head="linear", train=QUICK, image_size=28)
    splits = load_dataset(tmp_path / "set", image_size=28, memory_budget=budget)
    splits.test.targets = 1 - splits.test.targets  # so that there are mistakes, whatever is learned
    run_one(question, tmp_path / "run", splits=splits)
    outputs = Outputs.load(tmp_path / "run" / OUTPUTS_FILE)
    assert outputs.paths == tuple(splits.test.paths)
    assert outputs.shown is not None
    assert outputs.thumbnails is not None
    assert len(outputs.shown)
    assert outputs.thumbnails.shape[1:] == (3, 96, 96)
    for row, pixels in zip(outputs.shown.tolist(), outputs.thumbnails, strict=True):
        with Image.open(outputs.paths[row]) as image:
            assert pixels[:, 0, 0].tolist() == list(image.getpixel((30, 0)))  # type: ignore[call-overload]
