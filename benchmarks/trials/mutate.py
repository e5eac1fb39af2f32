"""Damaged and invented files for every reader: each must be read, or refused in one sentence.

Files are changed in their bytes, in what their text says, or made up. Each reader has a limited
time and limited memory, and works in a fork, whose death would be a fault as well.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import random
import resource
import select
import shutil
import signal
import struct
import sys
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load, save

from spinalnet import files, texts
from spinalnet._checks import SpinalnetError
from spinalnet.comparison.outputs import OUTPUTS_FILE
from trials.record import Record

WANTED = 15_000
SECONDS = 10.0  # of the processor, for one file
MEMORY = 2 * 2**30  # bytes that reading one may take at most, beside what is loaded
MARK = "# A spinalnet run: what was asked for. Do not edit.\n"

NAMES = (
    "schema",
    "heads",
    "seeds",
    "data",
    "epoch",
    "test",
    "seed",
    "head",
    "target",
    "y",
    "label",
)
STARTS = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"RIFF\x10\0\0\0WEBP", b"II*\0"),
    *(b"PK\3\4", b"\x1f\x8b", b"PAR1", b"ARROW1", b"\x80\2", b"\x08\0\0\0\0\0\0\0{}", b"\xff\xfe"),
)
CELLS = (
    *("", "1", "-1", "1e999", "nan", "x", '"', "'", "=1", "2024-02-30", "\x00", "\udcff", "ø"),
    *(
        "no",
        "yes",
        "NA",
        "a.png",
        "../../etc/passwd",
        "pictures/a.png",
        "9" * 400,
        "1,5",
        " ",
        "\n",
    ),
    *(
        "y",
        "train",
        "test",
        "True",
        "0x10",
        "1_000",
        "∞",
        "٣",
        "1e-320",
        "-0",
        "99999999999999999999",
    ),
)
WORDS = (
    *("null", "[]", "{}", "-1", "1e999", "99999999999999999999", '"x"', "true", "NaN", "[[[]]]"),
    *("", "\x00", "*a", "&a", "!!set", ": ", "\n- ", "ø", "\ud800", "0", '{"a": 1}'),
)


VALUES: tuple[Any, ...] = (
    *(
        None,
        [],
        {},
        -1,
        0,
        1.5,
        2**70,
        2**62,
        10**4,
        10**6,
        math.nan,
        "",
        "x",
        True,
        [[]],
        [None],
        {"a": None},
    ),
    *([-1], ["x"], [0] * 3, {"accuracy": "x"}, "seed0", "../../x", "=1", "\x1b[31m"),
)


def restructured(values: Any, draw: random.Random) -> Any:
    """Return plain values with one of them, at any depth, exchanged, removed or renamed."""
    made = json.loads(json.dumps(values))
    places: list[tuple[Any, Any]] = []
    layer = [made]
    while layer:
        one = layer.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one))
        places += [(one, key) for key in keys]
        layer += [one[key] for key in keys if isinstance(one[key], dict | list)]
    holder, key = draw.choice(places)
    how = draw.randrange(8)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[draw.choice(("x", "", "schema", "__class__"))] = holder.pop(key)
    else:
        holder[key] = draw.choice(VALUES)
    return made


def mutated_file(name: str, data: bytes, draw: random.Random) -> bytes:
    """Return the content of a file with something changed, in its bytes or in what they say."""
    how = draw.random()
    if how < 0.1:
        return invented(draw)
    if how < 0.5 or name.endswith((".pt", ".jsonl", OUTPUTS_FILE)):
        return mutated(data, draw)
    if name.endswith(".json"):
        return json.dumps(restructured(json.loads(data), draw)).encode()
    if name.endswith(".yaml"):
        first = MARK if data.startswith(MARK.encode()) else ""
        changed = restructured(texts.from_yaml(data.decode()), draw)
        return (first + files.to_yaml(changed)).encode()
    if name.endswith((".csv", ".ppm")):
        return _with_other_cell(data, draw)
    if name.endswith(".gz"):
        return gzip.compress(_with_other_cell(gzip.decompress(data), draw))
    if name.endswith((".zip", ".xlsx")):
        return _repacked(data, draw)
    if name.endswith(".png"):
        return _with_other_chunk(data, draw)
    if name.endswith(".safetensors") and b'"spinalnet"' in data:
        return _with_other_words(data, draw)
    return mutated(data, draw)


def _with_other_words(data: bytes, draw: random.Random) -> bytes:
    """Return weights that say something else of themselves.

    Without a digest, which whoever changes a file on purpose can make too.
    """
    size = int.from_bytes(data[:8], "little")
    about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["spinalnet"])
    about.pop("blake2b", None)
    changed = restructured(about, draw) if about else about
    return save(load(data), metadata={"spinalnet": json.dumps(changed)})


def _with_other_cell(data: bytes, draw: random.Random) -> bytes:
    """Return a table with a cell exchanged, a column or a row doubled, or other separators."""
    rows = [line.split(b",") for line in data.splitlines()]
    how, row = draw.randrange(6), draw.choice(rows)
    if how == 0:
        rows.insert(draw.randrange(len(rows)), list(row))
    elif how == 1:
        rows = [[*cells, cells[0]] for cells in rows]
    elif how == 2:
        return data.replace(b",", draw.choice([b";", b"\t", b"|", b" ", b""]))
    else:
        row[draw.randrange(len(row))] = draw.choice(CELLS).encode("utf-8", "surrogateescape")
    return b"\n".join(b",".join(cells) for cells in rows) + b"\n"


def _repacked(data: bytes, draw: random.Random) -> bytes:
    """Return an archive with one of its parts changed, and its checksums right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    chosen = draw.choice(list(parts))
    parts[chosen] = mutated(parts[chosen], draw)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return made.getvalue()


def _with_other_chunk(data: bytes, draw: random.Random) -> bytes:
    """Return a PNG with one of its chunks changed, and its checksum right."""
    chunks, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += size + 12
    one = draw.choice(chunks)
    one[1] = mutated(one[1], draw)
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def invented(draw: random.Random) -> bytes:
    """Return what nobody has written: noise, or a text that is nearly one of ours."""
    how = draw.randrange(7)
    if how == 0:
        return draw.randbytes(draw.randrange(300))
    if how == 1:
        return draw.choice(["[", '{"a":', "- ", "a: [", "((", "\n", ","]).encode() * 50_000
    if how == 2:
        return draw.choice(STARTS) + draw.randbytes(draw.randrange(200))
    if how == 3:
        return json.dumps({word: draw.choice(VALUES) for word in NAMES}).encode()
    if how == 4:
        return (MARK + files.to_yaml(dict.fromkeys(NAMES))).encode()
    lines = [
        ",".join(draw.choice(CELLS) for _ in range(draw.randrange(6)))
        for _ in range(draw.randrange(12))
    ]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return a file with something changed: bits, bytes, pieces, or whole values."""
    how = draw.randrange(6)
    if how == 0 or len(data) < 4:
        changed = bytearray(data or b"x")
        for _ in range(draw.randrange(1, 4)):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    a, b = sorted(draw.randrange(len(data)) for _ in range(2))
    if how == 1:
        return data[:a]
    if how == 2:
        return data[:a] + data[b:]
    if how == 3:
        return data[:b] + data[a:b] + data[b:]
    word = draw.choice(WORDS).encode("utf-8", "surrogatepass")
    if how == 4:
        return data[:a] + word + data[min(b, a + 8) :]
    # A value in a text: what stands between a colon and the end of the line.
    lines = data.split(b"\n")
    place = draw.randrange(len(lines))
    head, colon, _ = lines[place].partition(b":")
    comma = b"," if lines[place].rstrip().endswith(b",") else b""
    lines[place] = head + colon + b" " + word + comma
    return b"\n".join(lines)


# --- one file -------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What became of one file.

    Its reader's sentence (None: it was read), what was wrong, processor time, memory.
    """

    sentence: str | None
    fault: str
    seconds: float
    memory: int  # bytes by which the process grew at most


def attempt(read: Callable[[Path], Any], folder: Path) -> Outcome:
    """Let a reader read; whatever it raises but a sentence of ours is a fault."""
    before = _peak(afresh=True)
    began, fault = time.process_time(), ""
    sentence = None
    try:
        read(folder)
    except SpinalnetError as error:
        sentence = str(error)
        if len(sentence) > 4000:
            fault = f"a sentence of {len(sentence)} characters"
    except Exception:
        fault = traceback.format_exc()
    seconds = time.process_time() - began
    if seconds > SECONDS:
        fault = fault or f"it took {seconds:.1f} s"
    return Outcome(sentence, fault, seconds, max(0, _peak() - before))


def _peak(*, afresh: bool = False) -> int:
    """Return the most memory that this process has had, in bytes, since it was asked afresh."""
    with suppress(OSError):
        if afresh:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def hunt(
    folder: Path, readers: Mapping[str, Callable[[Path], Any]], count: int, seed: int
) -> Iterator[tuple[int, str, bytes, Outcome]]:
    """Read `count` damaged files in turns; yield number, name, content, and what became of each.

    Args:
        folder: As `samples.make` has made it; files are changed there and put back.
        readers: What reads which file of it.
        count: Of files.
        seed: Of what is drawn.
    """
    draw, names = random.Random(seed), sorted(readers)
    for number in range(count):
        name = names[number % len(names)]
        path = folder / name
        whole = path.read_bytes()
        data = mutated_file(name, whole, draw)
        path.write_bytes(data)
        yield number, name, data, attempt(readers[name], folder)
        path.write_bytes(whole)


# --- many -----------------------------------------------------------------------------------------


def run(record: Record, folder: Path, *, quick: bool = False) -> None:
    """Read damaged files until enough were read or the time is up."""
    from trials import samples

    pid = os.fork()  # what training starts must not be in this process
    if not pid:
        code = 1
        with suppress(BaseException):
            samples.make(folder / "samples")
            code = 0
        os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the samples could not be made.")
    block, done = (len(samples.READERS), 0) if quick else (400, record.total("files"))
    wanted = block if quick else WANTED
    while done < wanted and not record.is_over:
        done += _block(folder, block, record.seed(), record)
        record.save(now=False)
    record.save()


def _block(folder: Path, count: int, seed: int, record: Record) -> int:
    """Read some files in a fork that is watched; return how many it came to."""
    from trials import samples

    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / "samples", copy)
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(ours)
        _read_all(copy, samples.READERS, count, seed, theirs)
    os.close(theirs)
    said, number, last = b"", 0, ""
    with os.fdopen(ours, "rb", buffering=0) as pipe:
        while True:
            if not select.select([pipe], [], [], 30 * SECONDS)[0]:
                os.kill(pid, signal.SIGKILL)
            piece = pipe.read(1 << 16)
            if not piece:
                break
            said += piece
            *lines, said = said.split(b"\n")
            for line in lines:
                told = json.loads(line)
                last = told["name"]
                number += 1
                _enter(told, seed, record)
    if status := os.waitpid(pid, 0)[1]:
        names = sorted(samples.READERS)
        record.add(names[number % len(names)], files=1, died=1)
        record.tell(f"seed {seed}, file {number}: the reader died of {status}, after {last}")
        number += 1
    return number


def _read_all(
    folder: Path, readers: Mapping[str, Callable[[Path], Any]], count: int, seed: int, pipe: int
) -> None:
    """Be the fork: read, and tell of every file."""
    code = 1
    with suppress(BaseException):
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
        with open(os.devnull, "w") as nothing:  # noqa: PTH123
            sys.stdout = sys.stderr = nothing
            for _, name, data, found in hunt(folder, readers, count, seed):
                told: dict[str, Any] = {"name": name, "refused": found.sentence is not None}
                told |= {"seconds": found.seconds, "memory": found.memory, "fault": found.fault}
                if found.fault:
                    told["data"] = repr(data[:300])
                os.write(pipe, json.dumps(told).encode() + b"\n")
        code = 0
    os._exit(code)


def _enter(told: Mapping[str, Any], seed: int, record: Record) -> None:
    name = told["name"]
    record.add(name, files=1, **{"refused" if told["refused"] else "read": 1})
    record.worst(name, seconds=told["seconds"], megabytes=told["memory"] / 2**20)
    if told["fault"]:
        record.add(name, faults=1)
        record.tell(f"{name}, seed {seed}: {told['fault'][-700:]} of {told['data'][:250]}")
