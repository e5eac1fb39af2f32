"""What YAML makes of a file that people write: the value that was meant, or one sentence."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from helpers import command
from spinalnet import InputError
from spinalnet.nn import make_head
from spinalnet.texts import from_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x10", 16),
        ("0b11", 3),
        ("1_000", 1000),
        ("0", 0),
        ("-12", -12),
        ("0.5", 0.5),
        ("1.0e-3", 0.001),
        ("1e-3", "1e-3"),  # text to YAML 1.1, which whoever wants a number makes one
        ("0o10", "0o10"),
        (".inf", float("inf")),
        ("yes", True),
        ("OFF", False),
        ("'no'", "no"),
        ("'010'", "010"),
        ("'1:30'", "1:30"),
        ("!!str 010", "010"),
        ("~", None),
        ("&a 1", 1),
        ("\t1", 1),
        ("1\r\n", 1),
    ],
)
def test_values_are_what_yaml_1_1_says(text: str, value: Any) -> None:
    assert from_yaml(f"a: {text}") == {"a": value}
    assert type(from_yaml(f"a: {text}")["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 010", "010 in line 1 is another number to some"),
        ("a: -017", "another number to some"),
        ("a: 1:30", "another number to some"),
        ("b: 1\na: 1:30:00.5", "1:30:00.5 in line 2 is another number to some"),
        ("a: !!int '010'", "another number to some"),
        ("a: 2020-01-01", "a date is no plain value"),
        ("a: 2001-12-14t21:59:43.10-05:00", "a datetime is no plain value"),
        ("2020-01-01: 1", "names must be text"),
        ("yes: 1", "names must be text, got True"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: !!set {b}", "a set is no plain value"),
        ("a: &x 1\nb: *x", "aliases"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "aliases"),
        ("<<: 3", "expected a mapping"),
        ("a: 1\n---\na: 2", "found another document"),
        ("a:\n\tb: 1", "cannot start any token"),
        ("a: 1\0", "control characters"),
        ("a: =", "could not determine a constructor"),
        ("a: 99999999999999999999999", "more than 64 bits"),
    ],
)
def test_what_is_no_plain_value_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        from_yaml(text)
    assert "\n" not in str(error.value)


def asked(path: Path, content: bytes) -> tuple[int, str]:
    """Give a file to a command that says what it would do."""
    path.write_bytes(content)
    words = ("compare", "digits", "--heads", "spinal,linear", "--dry-run", "--config", path)
    done = command(*words, "--out", path.with_name("out"), "--limit", "40")
    assert not path.with_name("out").exists()
    return done.returncode, " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"augment: off", "augment is no switch, and YAML reads yes, no, on and off as"),
        (b"batch-size: 8\nbatch_size: 16", "has the setting --batch-size twice"),
        (b"lr: .nan", "lr must be a positive number, got nan"),
        (b"epochs: 1e1", "--epochs must be a whole number"),
        (b"epochs: 010", "another number to some"),
        (b"", "must hold names and values"),
        (b"# nothing", "must hold names and values"),
        (b"hello", "must hold names and values"),
        ("epochs: 1".encode("utf-16"), "it is text in UTF-16; save it as UTF-8"),
        ("data: \u00e9".encode("latin1"), "cannot be read: it is damaged"),
        (b"head_options: {bias: 'no'}", "bias of head 'spinal' must be true or false, got 'no'"),
    ],
)
def test_a_config_that_says_something_else_is_one_sentence(
    tmp_path: Path, content: bytes, said: str
) -> None:
    code, told = asked(tmp_path / "c.yaml", content)
    assert code == 2
    assert said in told
    assert "Traceback" not in told


def test_a_config_is_read_as_it_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    content = b"lr: 1e-3\r\nepochs: 0x2\r\n<<: {batch-size: 1_6}\r\nkeep_statistics: yes\r\n"
    path.write_bytes(codecs.BOM_UTF8 + content)
    words = ("train", "digits", "--limit", "40", "--config", path, "--device", "cpu")
    done = command(*words, "--json", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["epochs_run"] == 2
    kept = from_yaml((tmp_path / "run" / "config.yaml").read_text())["train"]
    assert (kept["lr"], kept["batch_size"], kept["keep_statistics"]) == (1e-3, 16, True)


@pytest.mark.parametrize("text", ['!!int ""', '!!bool "q"', '!!float "x"', "!!timestamp 1"])
def test_a_value_that_is_not_what_its_tag_says_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"epochs: {text}\n")
    done = command("train", "digits", "--config", tmp_path / "c.yaml", "--out", tmp_path / "run")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error")
    assert "Traceback" not in done.stderr


LONG = "n" * 300


@pytest.mark.parametrize(
    "words",
    [
        *(["verify", LONG], ["train", LONG], ["compare", LONG], ["report", LONG], ["study", LONG]),
        *(["evaluate", LONG], ["predict", LONG, "x"]),
        ["train", "digits", "--limit", "50", "--epochs", "1", "--out", LONG],
    ],
    ids=lambda words: words[0],
)
def test_a_name_that_no_system_has_room_for_is_one_sentence(words, tmp_path: Path) -> None:
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1500
    assert not list(tmp_path.iterdir())


def test_text_is_no_switch_of_a_head() -> None:
    """Any text but the empty one counts as true."""
    with pytest.raises(InputError, match="bias of head 'spinal' must be true or false"):
        make_head("spinal", 8, 2, bias="no")
    with pytest.raises(InputError, match="dropout of head 'spinal' must be a number"):
        make_head("spinal", 8, 2, dropout="1e-1")
