"""Requests: their parts, how they stand in files, and what is said of files that are not right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from helpers import without_digests
from spinalnet import (
    ComparisonSpec,
    DataSpec,
    InputError,
    ModelSpec,
    RunSpec,
    TrainConfig,
    create_model,
    load_trained,
    run_one,
)
from spinalnet.comparison.schema import with_present_heads
from spinalnet.comparison.trained import Description
from spinalnet.comparison.units import Unit
from spinalnet.files import _HEADER_KEY, load_weights, save_weights
from spinalnet.models import MODELS

# The folder of a run, as it was written when all settings of a run lay in one flat mapping.
OLD = Path(__file__).parent / "old_config.yaml"
SPEC = RunSpec.of(
    "digits", head="linear", freeze=True, limit=60, epochs=1, batch_size=256, lr=3e-3, device="cpu"
)


def test_settings_find_the_part_they_belong_to() -> None:
    assert (
        RunSpec(
            DataSpec("digits", limit=60),
            ModelSpec(head="linear", freeze=True),
            TrainConfig(epochs=1, batch_size=256, lr=3e-3, device="cpu"),
        )
        == SPEC
    )
    other = SPEC.having(train=TrainConfig(lr=0.1), seed=3, limit=None, probe_lr=0.5)
    assert (other.train, other.data.limit) == (TrainConfig(lr=0.1, seed=3), None)
    assert (other.probe_lr, other.model) == (0.5, SPEC.model)


def test_settings_come_back_from_yaml() -> None:
    spec = SPEC.having(head="matched", head_options={"match": "mlp"}, in_channels=3, lr=1e-5)
    assert RunSpec.from_dict(yaml.safe_load(yaml.safe_dump(spec.to_dict()))) == spec
    assert RunSpec.from_dict({"data": {"name": "digits"}}) == RunSpec.of("digits")


def test_flat_settings_of_older_folders_are_read() -> None:
    old = yaml.safe_load(OLD.read_text(encoding="utf-8"))
    assert old["trunk"] == "frozen"
    assert RunSpec.from_dict(old) == SPEC
    assert not RunSpec.from_dict(old | {"trunk": None}).model.freeze


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"data": {"nam": "digits"}}, "unknown setting of data 'nam'; did you mean 'name'"),
        (
            {"data": {"name": "digits"}, "trian": {}},
            "unknown setting 'trian'; did you mean 'train'",
        ),
        ({"model": {"name": "vgg5"}}, "the setting 'data' is missing"),
        ({"data": {"limit": 3}}, "the setting of data 'name' is missing"),
        ({"data": {"name": "d", "limit": "3"}}, "limit must be an integer or null, got '3'"),
        ({"data": {"name": "d"}, "model": {"freeze": 1}}, "freeze must be true or false, got 1"),
        ({"data": {"name": "d"}, "model": {"head": "mpl"}}, "unknown head 'mpl'"),
        ({"data": {"name": "d"}, "model": {"head_options": []}}, "head_options must be a mapping"),
        ({"data": {"name": "d"}, "train": {"lrr": 1}}, "unknown setting of train 'lrr'"),
        ({"data": {"name": "d"}, "train": 3}, "belongs in a mapping of names to values, got 3"),
        ({"data": {"name": "d"}, "selected_on": "luck"}, "selected_on must be validation or test"),
        ({"data": "d", "trunk": "thawed"}, "unknown setting 'trunk'"),
        ({"data": "d", "colour": 3}, "unknown setting 'colour'"),
        ([], "belongs in a mapping"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(values: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        RunSpec.from_dict(values)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        run_one(SPEC, folder / "run")
    return folder / "run"


def test_an_older_folder_is_taken_as_it_is(run: Path) -> None:
    new = load_trained(run)
    weights, header = load_weights(run / "model.safetensors")
    config = (run / "config.yaml").read_text(encoding="utf-8")
    try:
        (run / "config.yaml").write_text(OLD.read_text(encoding="utf-8"), encoding="utf-8")
        old = {
            key: value for key, value in header.items() if key not in ("freeze", "converted_from")
        }
        save_weights(run / "model.safetensors", weights, old | {"trunk": "frozen"})
        without_digests(run)
        done = (run / "DONE").stat().st_mtime_ns
        assert run_one(SPEC, run).done
        assert (run / "DONE").stat().st_mtime_ns == done
        with pytest.raises(InputError, match=r"holds a run with data.limit = 60, not 70"):
            run_one(SPEC.having(limit=70), run)
        found = load_trained(run)
        assert (found.spec, found.info) == (new.spec, new.info)
        for name, value in new.model.state_dict().items():
            assert torch.equal(found.model.state_dict()[name], value), name
    finally:
        (run / "config.yaml").write_text(config, encoding="utf-8")
        save_weights(run / "model.safetensors", weights, header)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mean": None}, r"model\.safetensors cannot be used: mean must be a list, got None"),
        ({"flavour": 3}, "unknown field of the checkpoint 'flavour'"),
        ({"class_names": ...}, "the field of the checkpoint 'class_names' is missing"),
        ({"class_names": [1]}, r"class_names must be a list, each entry text, got \[1\]"),
        ({"mean": ["x"]}, r"mean must be a list, each entry a number, got \['x'\]"),
        ({"input_shape": []}, r"safetensors cannot be used: input_shape must be 1 or 3 positive"),
        ({"input_shape": [1, 0, 28]}, r"1 or 3 positive numbers, .* got \[1, 0, 28\]"),
        ({"std": []}, r"safetensors cannot be used: mean and std must be of one length"),
    ],
)
def test_a_header_that_cannot_be_is_one_sentence(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    header: dict[str, Any] = {"model": "mnist-cnn", "head": "linear", "class_names": ["a", "b"]}
    header |= {"input_shape": [1, 28, 28], "mean": [0.5], "std": [0.5]}
    assert Description.read(header).info.num_classes == 2
    wrong = {key: value for key, value in (header | change).items() if value is not ...}
    save_weights(tmp_path / "model.safetensors", {"w": torch.ones(1)}, wrong)
    with pytest.raises(InputError, match=sentence):
        load_trained(tmp_path / "model.safetensors")


@pytest.mark.parametrize("header", [None, [1, 2], "x"])
def test_a_header_that_is_no_mapping_is_one_sentence(tmp_path: Path, header: Any) -> None:
    # The writer puts {} for nothing, so the file is written as others might.
    metadata = {_HEADER_KEY: json.dumps(header)}
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors", metadata=metadata)
    with pytest.raises(InputError, match=r"model\.safetensors cannot be used: .* belongs in a map"):
        load_trained(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights: weights.popitem(), "Missing key"),
        (lambda weights: weights.update(flavour=torch.ones(1)), "Unexpected key"),
        (lambda weights: weights.update({next(iter(weights)): torch.ones(7)}), "size mismatch"),
        (lambda weights: weights.clear(), "Missing key"),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], reason: str
) -> None:
    header = {"model": "mnist-cnn", "head": "linear", "class_names": ["a", "b"]}
    header |= {"input_shape": [1, 20, 20], "mean": [0.1], "std": [0.2]}
    weights = dict(create_model("mnist-cnn", 2, image_size=20, head="linear").state_dict())
    change(weights)
    save_weights(tmp_path / "model.safetensors", weights, header)
    with pytest.raises(InputError, match=rf"model\.safetensors: .*do not fit .*{reason}") as told:
        load_trained(tmp_path / "model.safetensors")
    assert "\n" not in str(told.value)


def test_a_damaged_config_names_its_file(run: Path, tmp_path: Path) -> None:
    mark, *_ = OLD.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "config.yaml").write_text(mark + "data: {name: digits, sise: 3}\n")
    with pytest.raises(InputError, match=r"config\.yaml cannot be used: unknown setting of data"):
        run_one(SPEC, tmp_path)


def test_a_converted_model_says_that_it_knows_no_data(run: Path, tmp_path: Path) -> None:
    weights, header = load_weights(run / "model.safetensors")
    about = header | {"data": None, "freeze": False, "head": "linear"}
    weights |= load_weights(run / "trunk.safetensors")[0]
    save_weights(tmp_path / "model.safetensors", weights, about)
    trained = load_trained(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="does not say which data it belongs to"):
        trained.load_data()
    assert trained.load_data("digits").test.mean == trained.info.mean


def test_a_checkpoint_alone_reads_data_at_its_own_size(tmp_path: Path) -> None:
    model = create_model("mnist-cnn", 10, image_size=20, head="linear")
    header = {"model": "mnist-cnn", "head": "linear", "class_names": list("0123456789")}
    header |= {"input_shape": [1, 20, 20], "mean": [0.1], "std": [0.2], "data": "digits"}
    save_weights(tmp_path / "model.safetensors", model.state_dict(), header)
    test = load_trained(tmp_path / "model.safetensors").load_data().test
    images, _ = next(test.batches(2))
    assert images.shape == (2, 1, 20, 20)
    assert (test.mean, test.std) == ((0.1,), (0.2,))


def test_the_question_is_written_in_parts() -> None:
    asked = ComparisonSpec(SPEC.having(freeze=False), ("mlp", "matched"), 2).to_dict()
    assert (asked["data"], asked["heads"], asked["seeds"]) == ("digits", ["mlp", "matched"], [0, 1])
    assert asked["base"]["data"]["limit"] == 60
    assert "head" not in asked["base"]["model"]


def test_the_controls_of_a_comparison_follow_its_first_head() -> None:
    base = SPEC.having(freeze=False, head_options={"num_layers": 8})
    runs = ComparisonSpec(base).of_unit(Unit(0))
    spinal, unchained, matched, mlp, linear = (run.model for run in runs)
    assert unchained.head_options == {"match": "spinal", "match_options": {"num_layers": 8}}
    assert matched == spinal.control()
    assert not mlp.head_options
    assert not linear.head_options


def test_the_default_heads_are_a_spinal_one_and_its_controls() -> None:
    assert ComparisonSpec(SPEC).heads == ("spinal", "unchained", "matched", "mlp", "linear")
    assert [run.model.head for run in ComparisonSpec(SPEC, ("mlp", "linear"), 1).cells()] == [
        "mlp",
        "linear",
    ]


def test_older_settings_call_the_papers_mlp_by_its_present_name() -> None:
    now = RunSpec.of("digits", head="mlp").to_dict()
    assert RunSpec.from_dict(now).model.head == "mlp"
    old = {key: value for key, value in now.items() if key != "schema"}
    assert RunSpec.from_dict(old).model.head == "mlp-paper"
    control = old | {"model": {"name": "vgg5", "head": "matched", "head_options": {"match": "mlp"}}}
    assert RunSpec.from_dict(control).model.head_options == {"match": "mlp-paper"}
    other = old | {"model": {"name": "cifar-resnet10-half", "head": "mlp"}}
    assert RunSpec.from_dict(other).model.head == "mlp"  # the paper had none there
    header = {"model": "mnist-cnn", "head": "mlp", "class_names": ["a", "b"]}
    header |= {"input_shape": [1, 20, 20], "mean": [0.1], "std": [0.2]}
    assert Description.read(header).head == "mlp-paper"
    assert Description.read(header | {"schema": 3}).head == "mlp"
    with pytest.raises(InputError, match="up to schema 3, got 9"):
        RunSpec.from_dict(now | {"schema": 9})


def test_the_networks_whose_mlp_was_the_papers_are_those_that_have_it_now() -> None:
    record = {"head": "mlp", "say": "spinal beats mlp; see runs/mlp and notebook-mlp"}
    for name, row in MODELS.items():
        renamed = with_present_heads(record, name)["head"]
        assert renamed == ("mlp-paper" if "mlp-paper" in row.heads else "mlp"), name
    said = with_present_heads(record, "vgg5")["say"]
    assert said == "spinal beats mlp-paper; see runs/mlp and notebook-mlp"
    assert with_present_heads(record | {"schema": 3}, "vgg5")["head"] == "mlp"
