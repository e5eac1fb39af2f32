"""Heads of the user's own: used where a person names them, never because a file does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import spinalnet
from spinalnet._checks import InputError
from spinalnet.cli import app
from spinalnet.comparison.question import read_heads
from spinalnet.models import ModelSpec
from spinalnet.nn import HEADS, head_arguments, make_head, use_head

MODULE = '''
import pathlib
import torch
from torch import nn

with pathlib.Path("imported.txt").open("a") as file:
    file.write("once more\\n")


class Gated(nn.Module):
    """A narrow hidden layer with gates."""

    def __init__(self, in_features, out_features, *, width=6, dropout=0.0):
        super().__init__()
        self.hidden = nn.Linear(in_features, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, out_features)

    def forward(self, x):
        return self.output(self.dropout(nn.functional.glu(self.hidden(x))))


def plain(in_features, out_features):
    return nn.Linear(in_features, out_features)


def too_few(in_features, out_features):
    return nn.Linear(in_features, out_features - 1)


def of_images(in_features, out_features):
    return nn.Conv2d(in_features, out_features, 1)


def no_module(in_features, out_features):
    return lambda x: x


def other_words(inputs, outputs, width=3):
    return nn.Linear(inputs, outputs)


def anything(in_features, out_features, *sizes):
    return nn.Linear(in_features, out_features)


constant = 7
'''


@pytest.fixture(autouse=True)
def _heads_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A current folder with a module of heads, and no trace of them afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "heads_of_mine.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    _forget()


def _forget() -> None:
    sys.modules.pop("heads_of_mine", None)
    for name in [name for name in HEADS if name.startswith("heads_of_mine:")]:
        del HEADS[name]


def _times_imported() -> int:
    file = Path("imported.txt")
    return len(file.read_text(encoding="utf-8").splitlines()) if file.exists() else 0


def test_a_head_is_used_by_the_place_where_it_is_written():
    use_head("heads_of_mine:Gated")
    use_head("heads_of_mine:Gated")
    use_head("heads_of_mine:plain")
    assert _times_imported() == 1
    assert list(head_arguments("heads_of_mine:Gated")) == ["width", "dropout"]
    assert HEADS["heads_of_mine:Gated"].summary == "A narrow hidden layer with gates."
    torch.manual_seed(3)
    made = make_head("heads_of_mine:Gated", 12, 4, width=5)
    after = torch.rand(1)
    torch.manual_seed(3)
    like = sys.modules["heads_of_mine"].Gated(12, 4, width=5)
    assert torch.equal(torch.rand(1), after)  # the look at it has drawn nothing
    assert made.training
    for name, tensor in like.state_dict().items():
        assert torch.equal(tensor, made.state_dict()[name])


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("no_such_module:Head", "there is no module 'no_such_module'"),
        ("heads_of_mine:Gatd", "module 'heads_of_mine' has no class or function 'Gatd'"),
        ("heads_of_mine:constant", "has no class or function 'constant'"),
        ("heads_of_mine:other_words", "must take in_features and out_features first"),
        ("heads_of_mine:anything", "must take in_features and out_features first"),
        ("heads_of_mine", "is named as mymodule:MyHead"),
        ("heads of mine:Head", "is named as mymodule:MyHead"),
    ],
)
def test_what_is_no_head_is_told_before_anything_runs(place: str, sentence: str):
    with pytest.raises(InputError, match=sentence):
        use_head(place)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("too_few", r"of shape \(2, 8\) it makes \(2, 2\) instead of \(2, 3\)"),
        ("of_images", r"of \(2, 8\) it says: "),
        ("no_module", "must make a torch.nn.Module, got function"),
    ],
)
def test_a_head_of_another_shape_is_told_when_it_is_built(name: str, sentence: str):
    use_head(f"heads_of_mine:{name}")
    with pytest.raises(InputError, match=sentence):
        make_head(f"heads_of_mine:{name}", 8, 3)


def test_rows_name_heads_and_their_options():
    rows = read_heads("a.b:Mine,a.b:Mine:width=8,rate=0.5,spinal:num_layers=8,mlp")
    assert [row.head for row in rows] == ["a.b:Mine", "a.b:Mine", "spinal", "mlp"]
    assert rows[1].options == {"width": 8, "rate": 0.5}
    with pytest.raises(InputError, match="looks like spinal:num_layers=8"):
        read_heads("spinal:layers")
    assert _times_imported() == 0


def test_nothing_is_imported_because_a_setting_names_it():
    spec = ModelSpec("mnist-cnn", "heads_of_mine:Gated")
    with pytest.raises(InputError, match="never run because a file names it"):
        spinalnet.create_model("mnist-cnn", 10, head=spec.head)
    assert _times_imported() == 0


def test_a_run_is_used_again_by_who_names_its_head_again():
    word = "heads_of_mine:Gated"
    few = ("--epochs", "1", "--limit", "60", "--out", "run")
    runner = CliRunner()
    trained = runner.invoke(app, ["train", "digits", "--head", word, *few])
    assert trained.exit_code == 0, trained.output
    assert word in Path("run/config.yaml").read_text(encoding="utf-8")
    _forget()
    ask = ["evaluate", "run"]
    refused = runner.invoke(app, ask)
    assert isinstance(refused.exception, InputError)
    assert f"--own-head {word}" in str(refused.exception)
    assert _times_imported() == 1
    scored = runner.invoke(app, ["--own-head", word, *ask])
    assert scored.exit_code == 0, scored.output
    assert _times_imported() == 2


def test_worker_processes_use_the_head_too():
    found = spinalnet.compare(
        "digits", "heads_of_mine:Gated:width=4,linear", 1, epochs=1, limit=60, out="both", jobs=2
    )
    first = found.summary.heads[0]
    assert first.head == "heads_of_mine:Gated:width=4"
    assert first.n == 1
    _forget()
    again = spinalnet.Comparison.load("both")  # a report needs no code of a head
    assert again.summary.heads[0].mean == first.mean
    kept = json.loads(next(Path("both").rglob("result.json")).read_text(encoding="utf-8"))
    assert kept
    assert "heads_of_mine" not in sys.modules
