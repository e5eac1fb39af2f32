"""What was probably meant: a sentence for what cannot be understood, with the right command.

Nothing here loads torch; names come from `names`.
"""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from spinalnet.cli import names
from spinalnet.cli.help import behind

# Words of other programs for ours.
_COMMANDS = {
    **{"fit": "train", "run": "train", "eval": "evaluate", "test": "evaluate", "score": "evaluate"},
    **{"infer": "predict", "classify": "predict", "inference": "predict", "models": "list"},
    **{"heads": "list", "data": "datasets", "download": "datasets", "benchmark": "bench"},
    **{"serve": "demo", "gui": "demo", "ui": "demo", "experiments": "recipes", "version": "env"},
    **{"html": "report", "onnx": "export", "check": "verify", "interpret": "explain"},
}
_OPTIONS = {
    **{"learning-rate": "lr", "wd": "weight-decay", "bs": "batch-size", "batch": "batch-size"},
    **{"n-epochs": "epochs", "num-epochs": "epochs", "iterations": "epochs", "network": "model"},
    **{"arch": "model", "architecture": "model", "pretrained": "backbone", "frozen": "freeze"},
    **{"output": "out", "output-dir": "out", "out-dir": "out", "folder": "out", "save": "out"},
    **{"gpu": "device", "cuda": "device", "workers": "jobs", "parallel": "jobs", "force": "wait"},
    **{"label": "target", "y": "target", "num-seeds": "seeds", "repetitions": "seeds"},
    **{"size": "image-size", "img-size": "image-size", "augmentation": "augment"},
    **{"trials": "tune", "head-options": "head-option", "tensorboard": "log", "wandb": "log"},
    **{"config-file": "config", "debug": "verbose", "silent": "quiet", "n-samples": "limit"},
}
# What is set by an option of another kind.
_SET_BY = {
    "ensemble-size": ("preset", "--preset quick, standard or thorough sets it"),
    **{
        name: ("head-option", f"--head-option {name.replace('-', '_')}=VALUE sets it")
        for name in ("hidden-features", "num-layers", "num-splits", "activation", "dropout")
    },
}
# Settings that only the paper's own experiments have.
_OF_RECIPES = ("redraw-power", "ties-improve", "restart-from", "divide-by", "phases")


def explain(error: Any, root: Any, words: Sequence[str]) -> str:
    """Say in one sentence what is wrong with a command, and what was probably meant.

    Args:
        error: What the parser said; with its context, where that is known.
        root: The group of all commands.
        words: The command, without the program's name.
    """
    ctx = getattr(error, "ctx", None)
    command = ctx.command if ctx is not None else root
    option = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and option is not None:
        return _no_option(command, root, option, words)
    if hasattr(command, "commands") and type(error).__name__ in ("UsageError", "NoSuchCommand"):
        return _no_command(command, words)
    if ctx is None:  # the parser does not always say where it was
        path, command = _asked(root, words)
    else:
        path = ctx.command_path
    if type(error).__name__ == "MissingParameter":
        missing = error.param
        name = missing.metavar or (missing.name or "").upper()
        if missing.param_type_name != "argument":
            name = missing.opts[0]
        example = _EXAMPLES.get(command.name or "")
        shown = f", such as {example}" if example else f"; {path} --help says what it takes"
        return f"{path} needs {name}{shown}."
    if option is not None:
        params = {flag: one for one in command.params for flag in one.opts}
        kind = behind(params[option]) if option in params else ""
        shown = f", {_KINDS.get(kind, kind)}" if kind else ""
        return f"{option} needs a value behind it{shown}; {path} --help says more."
    param = getattr(error, "param", None)
    if param is not None and (kind := _KINDS.get(behind(param))):
        name = param.opts[0] if param.param_type_name == "option" else behind(param)
        got = next((after for one, after in itertools.pairwise(words) if one == name), "")
        return f"{name} must be {kind}{got and f', got {got!r}'}."
    if extra := re.match(r"Got unexpected extra argument\S* \((.*)\)", error.format_message()):
        return f"{path} takes no '{extra[1]}': leave it out; {path} --help says what it takes."
    said = " ".join(error.format_message().split()).rstrip(".")
    return f"{said[:1].lower()}{said[1:]}; {path} --help says what it takes."


def _asked(root: Any, words: Sequence[str]) -> tuple[str, Any]:
    """Return the command that words begin with: how it is called, and it."""
    path, command = "spinalnet", root
    for word in words:
        if word not in getattr(command, "commands", {}):
            break
        path, command = f"{path} {word}", command.commands[word]
    return path, command


_KINDS = {"N": "a whole number", "X": "a number"}
_EXAMPLES = {
    "compare": "spinalnet compare digits",
    "train": "spinalnet train digits",
    "lr-find": "spinalnet lr-find digits",
    "predict": "spinalnet predict runs/a ./new-photos",
    "evaluate": "spinalnet evaluate runs/a",
    "report": "spinalnet report runs/compare-digits-mnist-cnn",
    "reproduce": "spinalnet reproduce mnist-cnn",
    "export": "spinalnet export runs/a a.onnx",
    "demo": "spinalnet demo runs/a",
    "bench": "spinalnet bench heads",
}


def _no_command(group: Any, words: Sequence[str]) -> str:
    """Say what comes first instead of a word that is no command."""
    path = "spinalnet" if not group.name or group.name == "spinalnet" else f"spinalnet {group.name}"
    words = list(words)[1:] if path != "spinalnet" else list(words)
    place = next((i for i, word in enumerate(words) if not word.startswith("-")), 0)
    if not words:
        return f"{path} needs a command: {', '.join(group.commands)}."
    word, others = words[place], words[:place] + words[place + 1 :]
    for other in others:
        if other in group.commands:
            rest = [_in_full(one) for one in words if one != other]
            return f"the command comes first: {_shown(path, other, *rest)}."
    near = _COMMANDS.get(word.lower())
    if path == "spinalnet" and near is None and (meant := _of_file(word, words, others)):
        return meant
    near = near or _near(word.lower(), group.commands)
    if near is not None and near in group.commands:
        return f"there is no command '{word}'; did you mean {_shown(path, near, *others)}?"
    if path == "spinalnet" and (data := _in_full(word)) in names.known()["datasets"]:
        return f"a command comes before the data: {_shown(path, 'compare', data, *others)}."
    if path == "spinalnet" and word in names.known()["recipes"]:
        return f"a command comes before the recipe: {_shown(path, 'reproduce', word, *others)}."
    return f"there is no command '{word}'; {path} --help names those there are."


def _of_file(word: str, words: Sequence[str], others: Sequence[str]) -> str:
    """Say which command is for a folder or file that stands in its place; empty if it is none."""
    if _is_run(Path(word)):
        return f"a command comes before the folder: {_shown('spinalnet', 'report', word, *others)}."
    if not Path(word).exists():
        return ""
    if Path(word).suffix.lower() in _PICTURES:
        meant = _shown("spinalnet predict RUN", *words)
        return f"a command and a run come before the images: {meant}."
    return f"a command comes before the data: {_shown('spinalnet', 'compare', word, *others)}."


_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def _no_option(command: Any, root: Any, option: str, words: Sequence[str]) -> str:
    """Say which option was probably meant."""
    bare = option.lstrip("-").replace("_", "-")
    flags = _flags(command)
    if bare in _OF_RECIPES:
        return f"{option} is a setting of the paper's experiments: spinalnet reproduce runs those."
    other, how = _SET_BY.get(bare, ("", ""))
    if bare not in flags and other in flags:
        if other == "head-option" and command.name == "compare" and _are_of_table(words):
            value = next((after for one, after in itertools.pairwise(words) if one == option), "")
            value = value if value and not value.startswith("-") else "VALUE"
            how = f"--heads spinal:{bare.replace('-', '_')}={value},mlp sets it on tables"
        return f"there is no option {option}: {how}."
    near = next(
        (one for one in (bare, _OPTIONS.get(bare), _near_option(bare, flags)) if one in flags), None
    )
    if near is not None:
        meant = [_replaced(word, option, f"--{near}") for word in words]
        return f"there is no option {option}; did you mean --{near}? {_shown('spinalnet', *meant)}"
    owners = [name for name, one in getattr(root, "commands", {}).items() if bare in _flags(one)]
    path = f"spinalnet {command.name or ''}".rstrip()
    if owners:
        return f"{option} is an option of {' and '.join(owners[:3])}, not of {path}: leave it out."
    return f"there is no option {option}; {path} --help-all names those there are."


def _flags(command: Any) -> set[str]:
    """Return the long options of a command, without their hyphens."""
    spelled = (flag for one in command.params for flag in (*one.opts, *one.secondary_opts))
    return {flag[2:] for flag in spelled if flag.startswith("--")}


def _near(word: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)), None)


def _near_option(word: str, flags: Iterable[str]) -> str | None:
    """Return an option that is alike in more than the words that both of them end in."""
    near = _near(word, flags)
    if near is None or near == word:
        return near
    ours, theirs = word.split("-"), near.split("-")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return near if _near("-".join(ours), ["-".join(theirs)]) is not None else None


def _replaced(word: str, wrong: str, right: str) -> str:
    name, equals, value = word.partition("=")
    return f"{right}{equals}{value}" if name == wrong else word


def _shown(*words: str) -> str:
    first, *rest = words
    return f"{first} {shlex.join(rest)}".rstrip()


def is_bundled(word: str) -> bool:
    """Return whether a word is a table of scikit-learn, whose name begins with "sklearn:"."""
    data = names.known()["datasets"]
    return word not in data and f"sklearn:{word}" in data and not Path(word).exists()


def _in_full(word: str) -> str:
    return f"sklearn:{word}" if is_bundled(word) else word


def in_full(name: str, words: Sequence[str], command: str = "") -> str:
    """Say how a table of scikit-learn is called, with the command that was probably meant.

    Args:
        name: The table without its "sklearn:".
        words: The command, without the program's name.
        command: What takes tables, in the place of one that does not.
    """
    words = [command, *words[1:]] if command else list(words)
    alone = [i for i, word in enumerate(words) if word in (name, f"--data={name}")]
    # What stands behind another option is not the data; behind a flag it may be.
    own = (i for i in alone if not words[i - 1].startswith("-") or words[i - 1] == "--data")
    place = next(own, alone[0] if alone else None)
    if place is not None:
        words[place] = words[place].replace(name, f"sklearn:{name}")
    return f"'{name}' is a table that comes with scikit-learn: {_shown('spinalnet', *words)}."


def _are_of_table(words: Sequence[str]) -> bool:
    """Return whether a command is about a table, as far as its words tell."""
    endings = tuple(names.known()["table_endings"])
    named = [after for one, after in itertools.pairwise(words) if one != "--labels"]
    return any(
        word.startswith("sklearn:") or word.lower().endswith(endings) or is_bundled(word)
        for word in named
    )


def runs_first(command: str, run: Path, others: Sequence[str]) -> str:
    """Say that the run comes before what it is asked about; empty if that is not what is wrong.

    Args:
        command: Name of the command.
        run: What stands in the place of the run.
        others: What stands behind it.
    """
    found = next((one for one in others if _is_run(Path(one))), None)
    if found is None or _is_run(run):
        return ""
    rest = [str(run), *(one for one in others if one != found)]
    return f"the run comes first: {_shown('spinalnet', command, found, *rest)}."


def _is_run(path: Path) -> bool:
    marks = ("config.yaml", "comparison.yaml")
    return path.suffix == ".safetensors" or any((path / mark).is_file() for mark in marks)
