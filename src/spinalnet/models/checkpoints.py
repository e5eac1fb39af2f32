"""Anybody's file of weights: told by its bytes, read without running code, its names made to fit.

Training scripts save the same numbers in many ways: within a record of the training, under the
names of what was wrapped around the network, compiled, averaged or spread over processes. What the
network itself calls its parts decides what is taken; nothing is taken that does not fit.
"""

from __future__ import annotations

import itertools
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from spinalnet import files
from spinalnet._checks import InputError, some

if TYPE_CHECKING:
    import os

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "ema", "model_ema", "state_dict_ema")
"""Under which names training scripts keep the weights in a record of the training."""

PREFIXES = ("_orig_mod", "module", "model", "backbone", "net")
"""What the names of all weights begin with where the network was a part of something."""

COUNTER = "num_batches_tracked"  # of a batch norm; torch wrote none before 0.4.1

# What torch puts around parts of a network, wherever in it, when it compiles or shards them.
_AROUND = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})

# Files that people have called weights, by their first bytes, and what to do about each.
_NO_WEIGHTS = {
    b"\x89HDF": "is an HDF5 file, which Keras writes: export the weights from there by name",
    b"GGUF": "is a GGUF file of a language model",
    b"\x93NUMPY": "is an array of NumPy: save the weights by name",
    b"\x1f\x8b": "is compressed: unpack it with gunzip",
    b"version https://git-lfs": "is a placeholder of Git LFS: fetch the file with 'git lfs pull'",
    b"<": "is a web page or XML, not the file that was to be downloaded: download it again",
    b"{": "is JSON text, such as an index of files or a server's answer: give the file of weights",
}


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return named tensors of anybody's file, on the CPU; no code in it is run.

    Args:
        path: A safetensors file or one of `torch.save`, whatever its ending. The weights may stand
            in it under one of `WRAPPERS`, or alone under any name; `PREFIXES` that all their names
            share are taken off, in any combination.

    Raises:
        InputError: If the file is missing, damaged, holds anything but tensors by name, or several
            sets of them. Where it holds a pickled object, its type is named, with the two lines
            that convert it where it came from.
    """
    path = files.expanded(path)
    if not path.is_file():
        raise InputError(f"there is no file of weights {path}.")
    with path.open("rb") as file:
        start = file.read(64)
    is_safetensors = start[8:9] == b"{"
    for magic, reason in _NO_WEIGHTS.items():
        if start.lstrip().startswith(magic) and not is_safetensors:
            raise InputError(f"{path} cannot be read as weights: it {reason}.")
    try:
        held = _safetensors(path) if is_safetensors else _torch_save(path, start)
    except InputError:
        raise
    except Exception as error:  # torch and safetensors raise many kinds for a damaged file
        raise InputError(
            f"{path} cannot be read as weights ({type(error).__name__}): it is damaged, or neither "
            "a .safetensors file nor one saved by torch.save(model.state_dict())."
        ) from error
    return without_prefixes(_unwrapped(held, path))


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)


def _torch_save(path: Path, start: bytes) -> Any:
    """Return what a file of `torch.save` holds, if that consists of tensors and plain values."""
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
            lines = _converting(path, f"torch.jit.load({path.name!r})", "held.state_dict()")
            raise InputError(
                f"{path} cannot be read as weights: it holds a TorchScript program, which is not "
                f"opened because it is code. Where it was made, run\n{lines}"
            )
        if any(name.endswith(".npy") for name in names):
            raise InputError(
                f"{path} cannot be read as weights: it holds arrays of NumPy. Save tensors by name."
            )
        files.check_archive(path)  # which programs may be, and weights are not
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own ways of reading
            # Of a path torch would believe the ending.
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = _scan(path)
        if found is None or not (found.types or found.by_pickle):
            raise
        load = f"torch.load({path.name!r}, map_location='cpu', weights_only=False)"
        if found.by_pickle:
            load = f"pickle.loads(pathlib.Path({path.name!r}).read_bytes())"
        raise InputError(
            f"{path} cannot be read as weights: it holds {found.words()}, and pickled objects are "
            "not opened because they can run code. Where it was made, or where you trust it, run\n"
            f"{_converting(path, load, found.expression())}"
        ) from error


def _converting(path: Path, load: str, expression: str) -> str:
    return (
        f"    import {'pathlib, pickle, ' * load.startswith('pickle')}torch; held = {load}\n"
        f"    torch.save({expression}, {path.stem + '-weights.pth'!r})"
    )


# --- what a pickle holds, without opening it ------------------------------------------------------

# What `torch.save(model.state_dict())` consists of.
_PLAIN = ("collections.OrderedDict", "torch._utils.", "torch._tensor.", "torch.storage.", "_codecs")
_PLAIN_ENDS = ("Storage", "torch.Size", "torch.nn.parameter.Parameter", "torch.device")

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first of four pickles in files before torch 1.6


@dataclass(frozen=True)
class _Pickled:
    """What a pickle says of itself: types by their dotted names, in order."""

    outer: str  # type of the object itself; "" for a mapping
    by_pickle: bool  # whether Python's pickle wrote the file, which torch cannot read in any way
    types: tuple[str, ...]  # all that are not part of plain weights
    entries: Mapping[str, str]  # of `WRAPPERS` that are there: the type, "" for a mapping

    def words(self) -> str:
        """Say what it holds."""
        if self.outer:
            return f"a pickled {self.outer}"
        if not self.types:
            return "what Python's pickle has written"
        return f"objects of the type {some(self.types, 3)} beside its tensors"

    def expression(self) -> str:
        """Return the Python that gets the weights out of it, called `held`."""
        if self.outer:
            return "held.state_dict()"
        first = next(iter(self.entries), None)
        inner = "held" if first is None else f"held[{first!r}]"
        if first is not None and self.entries[first]:
            return f"{inner}.state_dict()"
        if "numpy.ndarray" in self.types:
            return f"{{k: torch.as_tensor(v) for k, v in {inner}.items() if hasattr(v, 'shape')}}"
        if first is not None:
            return inner
        return "{k: v for k, v in held.items() if isinstance(v, torch.Tensor)}"


def _scan(path: Path) -> _Pickled | None:
    """Read the names of types in a file of `torch.save` or of pickle; None if it is damaged."""
    by_pickle = False
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                with archive.open(name) as file:
                    events = list(_events(file))
        else:
            with path.open("rb") as file:
                events = list(_events(file))
                if any(kind == "number" and text == str(_TORCH_MAGIC) for kind, text in events):
                    for _ in range(3):  # its protocol, the machine, and then the object
                        events = list(_events(file))
                else:
                    by_pickle = True
    except (ValueError, StopIteration, OSError, IndexError, zipfile.BadZipFile):
        return None
    outer = next((text for kind, text in events if kind in ("type", "mapping")), "")
    # Files before torch 1.6 say "module" before the type of one.
    pairs = itertools.pairwise(event for event in events if event != ("text", "module"))
    entries: dict[str, str] = {}
    for (kind, name), (inner, of_type) in pairs:
        if kind == "text" and name in WRAPPERS and inner in ("type", "mapping"):
            entries.setdefault(name, "" if of_type == _PLAIN[0] else of_type)
    types = [text for kind, text in events if kind == "type" and not _is_plain(text)]
    outer = "" if outer == _PLAIN[0] else outer
    return _Pickled(outer, by_pickle, tuple(dict.fromkeys(types)), entries)


def _is_plain(kind: str) -> bool:
    of_torch = kind.startswith("torch.") and kind.count(".") == 1 and kind[6:].islower()
    return kind.startswith(_PLAIN) or kind.endswith(_PLAIN_ENDS) or of_torch


def _events(file: BinaryIO | Any) -> Iterator[tuple[str, str]]:
    """Yield the texts, types, mappings and numbers of one pickle, in order, opening nothing."""
    memo: dict[int, tuple[str, str]] = {}
    last, texts = ("", ""), ["", ""]
    for opcode, value, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("PROTO", "FRAME", "MARK"):
            continue
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else value] = last  # type: ignore[index]
            continue
        if name in ("GET", "BINGET", "LONG_BINGET"):
            last = memo.get(value, ("", ""))  # type: ignore[arg-type]
        elif name in ("GLOBAL", "INST"):
            last = ("type", str(value).replace(" ", "."))
        elif name == "STACK_GLOBAL":
            last = ("type", ".".join(texts[-2:]))
        elif name in ("EMPTY_DICT", "DICT"):
            last = ("mapping", "")
        elif isinstance(value, str):
            last = ("text", value)
        elif isinstance(value, int):
            last = ("number", str(value))
        else:
            last = (name, "")
        if last[0] == "text":
            texts.append(last[1])
        yield last


# --- the weights among what a file holds ----------------------------------------------------------


def _unwrapped(held: Any, path: Path) -> dict[str, Tensor]:
    """Return the one mapping of names to tensors in a record of a training."""
    if not _has_weights(held):
        raise InputError(f"{path} holds no weights by name: save model.state_dict().")
    whole, taken = held, ""
    while not _is_weights(held):
        sets = {str(name): inner for name, inner in held.items() if _has_weights(inner)}
        known = [name for name in WRAPPERS if name in sets] or list(sets)
        first = known[0]
        others = [name for name in known[1:] if not _equal(sets[first], sets[name])]
        if others:
            raise _several(path, taken + _at(first), [taken + _at(name) for name in others])
        held, taken = sets[first], taken + _at(first)
    # An average, a teacher, the best so far: the same network once more, under any name.
    own = without_prefixes(held)
    others = [
        place
        for place, inner in _all_sets(whole)
        if place != taken and _rivals(own, without_prefixes(inner))
    ]
    if others:
        raise _several(path, taken, others)
    return {str(name): value for name, value in held.items()}


def _at(name: str) -> str:
    return f"[{name!r}]"


def _several(path: Path, first: str, others: Sequence[str]) -> InputError:
    """Return the error of a file with several sets of weights, given where in it they stand."""
    named = [place[2:-2].replace("']['", ".") for place in (first, *others)]
    out = f"{path.stem}-{named[-1].rpartition('.')[2]}.pth"
    return InputError(
        f"{path} holds several sets of weights, which differ: {some(named, 5)}. Keep the one you "
        f"mean, such as torch.save(torch.load({path.name!r}){others[-1]}, {out!r})."
    )


def _all_sets(held: Any, place: str = "") -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield every set of weights in a record, with where it stands."""
    if _is_weights(held):
        yield place, held
    elif _has_weights(held):
        for name, inner in held.items():
            yield from _all_sets(inner, place + _at(name))


def _rivals(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two sets are of one network, and differ."""
    counted = [{name for name in one if not name.endswith(COUNTER)} for one in (own, other)]
    if counted[0] != counted[1] or any(own[n].shape != other[n].shape for n in counted[0]):
        return False
    return not all(torch.equal(own[name], other[name]) for name in counted[0])


def _is_weights(held: Any) -> bool:
    return (
        isinstance(held, Mapping)
        and bool(held)
        and all(isinstance(value, Tensor) for value in held.values())
        and all(isinstance(name, str) for name in held)
    )


def _has_weights(held: Any, depth: int = 4) -> bool:
    """Return whether weights by name are in it; what an optimizer remembers has no names."""
    if _is_weights(held):
        return True
    if not isinstance(held, Mapping) or "param_groups" in held or not depth:
        return False
    return any(_has_weights(value, depth - 1) for value in held.values())


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if not (_is_weights(one) and _is_weights(other)) or one.keys() != other.keys():
        return False
    return all(torch.equal(value, other[name]) for name, value in one.items())


# --- names ----------------------------------------------------------------------------------------


def without_prefixes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off the names what torch puts around parts, and `PREFIXES` that all of them share."""
    named = {
        ".".join(part for part in name.split(".") if part not in _AROUND): value
        for name, value in weights.items()
    }
    if "n_averaged" in named and all(n.startswith("module.") for n in named if n != "n_averaged"):
        del named["n_averaged"]  # how many models torch's AveragedModel is the mean of
    while True:
        first = {name.partition(".")[0] for name in named}
        if len(first) != 1 or not first <= set(PREFIXES) or not all("." in name for name in named):
            return named
        named = {name.partition(".")[2]: value for name, value in named.items()}


@dataclass(frozen=True)
class Fitted:
    """Weights under the names of a network, and the names in the file that are not part of it."""

    weights: dict[str, Tensor]
    unused: tuple[str, ...] = ()


def fitted(
    weights: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    *,
    free: tuple[str, ...] = (),
    what: str,
) -> Fitted:
    """Return the weights of a network, found below whatever prefix their names have.

    Args:
        weights: By the names of the file.
        wanted: The network's own, by its names.
        free: What names begin with that need not be in the file, or may be others there, or of
            another shape: those of the classifier. Counters of batch norms may always be missing.
        what: File and network, for the sentence of an error: "net.pth does not fit ResNet".

    Raises:
        InputError: If a name is missing, additional, or its shape differs, each told by itself;
            if there are several such networks in the file; or if a weight is not a number.
    """
    prefix = _find_prefix(weights, wanted, what)
    inside = {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}
    asked = {name: value for name, value in wanted.items() if not (free and name.startswith(free))}
    missing = [n for n in asked if n not in inside and not n.endswith(COUNTER)]
    additional = [n for n in inside if n not in wanted and not (free and n.startswith(free))]
    shapes = [
        f"{name} {tuple(inside[name].shape)} instead of {tuple(value.shape)}"
        for name, value in asked.items()
        if name in inside and inside[name].shape != value.shape
    ]
    if problems := differences(missing, additional, shapes):
        raise InputError(f"{what}: {problems}. Give the weights of this network.")
    taken = {
        name: inside[name]
        for name, value in wanted.items()
        if name in inside and inside[name].shape == value.shape
    }
    check_numbers(taken, wanted, what)
    return Fitted(taken, tuple(name for name in weights if not name.startswith(prefix)))


def differences(missing: Sequence[str], additional: Sequence[str], shapes: Sequence[str]) -> str:
    """Say which names of weights are missing, additional or of another shape, if any are."""
    return "; ".join(
        f"{len(names)} {words} ({some(names, 3)})"
        for names, words in (
            (missing, "missing"),
            (additional, "additional"),
            (shapes, "of another shape"),
        )
        if names
    )


def check_numbers(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str) -> None:
    """Raise `InputError` for weights of another kind than the network's, or no numbers at all."""
    for kind, is_so in _OTHER_KINDS.items():
        named = [name for name, value in weights.items() if is_so(value, own.get(name))]
        if named:
            raise InputError(
                f"{what}: {some(named, 3)} are {kind}. Give the weights from before that."
            )
    wrong = [
        name
        for name, value in weights.items()
        if value.is_floating_point()
        and not value.is_meta
        and not bool(value.float().isfinite().all())
        # Masks of attention are infinite where nothing shall be seen, in the network too.
        and (name not in own or own[name].is_meta or bool(own[name].isfinite().all()))
    ]
    if wrong:
        raise InputError(
            f"{what}: {some(wrong, 3)} hold numbers that are not finite (NaN or infinite), so "
            "their training had failed. Give weights from before that."
        )


_OTHER_KINDS: dict[str, Callable[[Tensor, Tensor | None], bool]] = {
    "quantised": lambda value, _: value.is_quantized,
    "sparse": lambda value, _: value.layout != torch.strided,
    "without numbers (saved from the meta device)": lambda value, own: (
        value.is_meta and own is not None and not own.is_meta
    ),
    "complex": lambda value, own: value.is_complex() and (own is None or not own.is_complex()),
    "whole numbers where the network has fractions": lambda value, own: (
        own is not None and own.is_floating_point() and not value.is_floating_point()
    ),
}


def _find_prefix(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> str:
    """Return what stands before the network's names in the names of the file."""
    counts: dict[str, int] = {}
    for name in weights:
        parts = name.split(".")
        for place in range(len(parts)):
            if ".".join(parts[place:]) in wanted:
                prefix = ".".join([*parts[:place], ""]) if place else ""
                counts[prefix] = counts.get(prefix, 0) + 1
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    if "" in best or 2 * most < sum(not name.endswith(COUNTER) for name in wanted):
        return ""
    first, *others = (
        {n.removeprefix(p): v for n, v in weights.items() if n.startswith(p)} for p in best
    )
    if not all(_equal(first, other) for other in others):
        raise InputError(
            f"{what}: it holds several such networks, below {some(best, 4)}. Save the one you mean "
            "by itself."
        )
    return best[0]
