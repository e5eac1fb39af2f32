"""Networks of the user's own: used where a person names them, as heads of their own are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import spinalnet
from spinalnet import count_macs, count_params
from spinalnet._checks import InputError
from spinalnet.cli import app
from spinalnet.cli.root import as_options
from spinalnet.deploy import from_pretrained, save_pretrained
from spinalnet.models import MODELS, ModelSpec, find_backbone, use_model
from spinalnet.models.assembly import build

MODULE = '''
import pathlib
import random
import numpy as np
import torch
from torch import nn

with pathlib.Path("imported.txt").open("a") as file:
    file.write("once more\\n")


class Trunk(nn.Module):
    """One convolution, which starts from draws of three generators."""

    def __init__(self, in_channels, *, width=4):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3)
        with torch.no_grad():
            self.conv.bias[0] = random.random()
            self.conv.bias[1] = np.random.rand()

    def forward(self, images):
        return torch.relu(self.conv(images))


def lazy(in_channels):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(6))


generator = np.random.default_rng(0)


def restless(in_channels):
    conv = nn.Conv2d(in_channels, 4, 3)
    nn.init.constant_(conv.bias, generator.random())
    return conv


def rows(in_channels):
    return nn.Linear(in_channels, 5)


def needs_width(in_channels, width):
    return nn.Conv2d(in_channels, width, 3)


def other_words(channels):
    return nn.Conv2d(channels, 4, 3)


def fails(in_channels):
    return {}["weights"]


def no_module(in_channels):
    return lambda x: x


class Output(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, images):
        return self.make(images)


def two(in_channels):
    return Output(lambda x: (x, x))


def whole(in_channels):
    return Output(lambda x: x.flatten(1).long())


def scalar(in_channels):
    return Output(lambda x: x.mean())


def one_row(in_channels):
    return Output(lambda x: x.flatten(1).mean(0, keepdim=True))


def batch_long(in_channels):
    return Output(lambda x: x.flatten(1)[:, : len(x)])


def of_colour(in_channels):
    return nn.Conv2d(3, 4, 3)


def raises(in_channels):
    return Output(lambda x: {}["features"])


constant = 7
'''
NAME = "nets_of_mine:Trunk"


@pytest.fixture(autouse=True)
def _networks_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A current folder with a module of networks, and no trace of them afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_of_mine.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "broken_net.py").write_text("width = 1 / 0\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    _forget()


def _forget() -> None:
    sys.modules.pop("nets_of_mine", None)
    for name in [name for name in MODELS if name.startswith("nets_of_mine:")]:
        del MODELS[name]


def _times_imported() -> int:
    file = Path("imported.txt")
    return len(file.read_text(encoding="utf-8").splitlines()) if file.exists() else 0


def test_a_network_is_used_by_the_place_where_it_is_written():
    use_model(NAME)
    use_model(NAME)
    assert _times_imported() == 1
    assert MODELS[NAME].summary == "One convolution, which starts from draws of three generators."
    model = spinalnet.create_model(NAME, 3, 1, 8, head="linear", seed=0)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert model.training
    assert model.input_shape == (1, 8, 8)
    features = 4 * 6 * 6
    assert count_params(model).total == (9 + 1) * 4 + (features + 1) * 3
    assert count_macs(model, (1, 8, 8)).total == 9 * features + features * 3
    chain = spinalnet.create_model(NAME, 30, 1, 8).head
    assert chain.spine.hidden_features == 30  # the size that `replace_head_` gives it


def test_all_heads_of_a_seed_start_from_one_trunk():
    use_model(NAME)

    def trunk(head: str, seed: int) -> torch.Tensor:
        made = build(ModelSpec(NAME, head), 10, 1, 8, seed=seed).trunk
        return torch.cat([weight.flatten() for weight in made.state_dict().values()])

    heads = ("spinal", "unchained", "matched", "mlp", "linear")
    first = [trunk(head, 5) for head in heads]
    assert all(torch.equal(one, first[0]) for one in first)
    other = trunk("linear", 6)
    assert not torch.isclose(other, first[0]).any()  # of the three generators


def test_a_network_that_starts_anew_each_time_is_refused():
    use_model("nets_of_mine:restless")
    spinalnet.create_model("nets_of_mine:restless", 3, 1, 8)  # nobody has asked for a seed
    with pytest.raises(InputError, match=r"starts from other weights each time.*\(see bias\)"):
        spinalnet.create_model("nets_of_mine:restless", 3, 1, 8, seed=0)


def test_lazy_layers_and_rows_of_numbers():
    use_model("nets_of_mine:lazy")
    use_model("nets_of_mine:rows")
    one, two = (spinalnet.create_model("nets_of_mine:lazy", 3, 1, 8, seed=1) for _ in range(2))
    assert torch.equal(one(torch.ones(1, 1, 8, 8)), two(torch.ones(1, 1, 8, 8)))
    assert spinalnet.create_model("nets_of_mine:rows", 3, 7)(torch.zeros(2, 7)).shape == (2, 3)


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("no_such_module:Net", "model .* there is no module 'no_such_module'"),
        ("broken_net:Net", "importing module 'broken_net' fails .ZeroDivisionError: division"),
        ("nets_of_mine:Trnk", "module 'nets_of_mine' has no class or function 'Trnk'"),
        ("nets_of_mine:constant", "has no class or function 'constant'"),
        ("nets_of_mine:other_words", "must take in_channels first"),
        ("nets_of_mine:needs_width", "its argument width has no default"),
        ("nets_of_mine", "a model of your own is named as mymodule:MyNet"),
    ],
)
def test_what_is_no_network_is_told_before_anything_runs(place: str, sentence: str):
    with pytest.raises(InputError, match=sentence):
        use_model(place)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fails", "cannot be made for in_channels=1 .KeyError: 'weights'"),
        ("no_module", "must make a torch.nn.Module, got function"),
        ("two", r"one tensor of features.*of inputs \(B, 1, 8, 8\) it makes a tuple"),
        ("whole", r"it makes int64 of shape \(2, 64\)"),
        ("scalar", r"it makes float32 of shape \(\)"),
        ("one_row", r"of 2 inputs it makes \(1, 64\), of 3 inputs \(1, 64\)"),
        ("batch_long", r"of 2 inputs it makes \(2, 2\), of 3 inputs \(3, 3\)"),
        ("of_colour", r"does not take inputs of shape \(B, 1, 8, 8\): .*3 channels"),
        ("raises", r"does not take inputs of shape \(B, 1, 8, 8\): KeyError: 'features'"),
    ],
)
def test_a_network_that_makes_no_features_is_told_when_it_is_built(name: str, sentence: str):
    use_model(f"nets_of_mine:{name}")
    with pytest.raises(InputError, match=sentence):
        spinalnet.create_model(f"nets_of_mine:{name}", 3, 1, 8)


def test_other_mistakes_are_told():
    with pytest.raises(InputError, match=r"never run because a file.*models\.use_model"):
        spinalnet.create_model(NAME, 3, 1, 8)
    assert _times_imported() == 0
    with pytest.raises(InputError, match="is a network of your own and no library's") as refused:
        find_backbone(NAME)
    assert f"--model {NAME}" in as_options(str(refused.value))
    use_model(NAME)
    with pytest.raises(InputError, match="give in_channels, and for images image_size"):
        spinalnet.create_model(NAME, 3)
    with pytest.raises(InputError, match="neither from published weights nor"):
        spinalnet.create_model(NAME, 3, 1, 8, pretrained=True)


def test_a_run_is_used_again_by_who_names_its_network_again():
    few = ("--epochs", "1", "--limit", "60", "--out", "run")
    runner = CliRunner()
    trained = runner.invoke(app, ["train", "digits", "--model", NAME, *few])
    assert trained.exit_code == 0, trained.output
    assert f"name: {NAME}" in Path("run/config.yaml").read_text(encoding="utf-8")
    _forget()
    refused = runner.invoke(app, ["evaluate", "run"])
    assert isinstance(refused.exception, InputError)
    assert f"--own-model {NAME}" in str(refused.exception)
    assert _times_imported() == 1
    again = runner.invoke(app, ["--own-model", NAME, "evaluate", "run"])
    assert again.exit_code == 0, again.output
    assert _times_imported() == 2
    _forget()
    changed = MODULE.replace("width=4", "width=16")  # of another size: else its bytecode is kept
    Path("nets_of_mine.py").write_text(changed, encoding="utf-8")
    other = runner.invoke(app, ["--own-model", NAME, "evaluate", "run"])
    assert isinstance(other.exception, InputError)
    assert "its weights do not fit the network it names" in str(other.exception)


def test_worker_processes_use_the_network_too():
    found = spinalnet.compare(
        "digits", "spinal,linear", 1, model=NAME, epochs=1, limit=60, out="both", jobs=2
    )
    first = found.summary.heads[0]
    assert first.n == 1
    assert first.macs > 9 * 4  # of the convolution
    _forget()
    again = spinalnet.Comparison.load("both")  # a report needs no code of a network
    assert again.summary.heads[0].mean == first.mean
    assert "nets_of_mine" not in sys.modules


def test_a_network_is_passed_on_to_who_uses_it_too():
    use_model(NAME)
    model = spinalnet.create_model(NAME, 3, 1, 8).eval()
    folder = save_pretrained(model, "passed")
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(from_pretrained(folder)(images), model(images))
    card = (Path(folder) / "README.md").read_text(encoding="utf-8")
    assert f'from spinalnet.models import use_model\n\nuse_model("{NAME}")' in card
    _forget()
    with pytest.raises(InputError, match="never run because a file names it"):
        from_pretrained(folder)
