"""A wheel for Linux that older systems can load, made on this one: `make wheel`.

    python release/linux_wheel.py            # dist/spinalnet-*-manylinux_2_28_x86_64.whl

What is compiled here asks for the C library of this machine. zig (the package `ziglang`) compiles
against the symbols of an older one, and links the C++ library in. auditwheel then looks at what the
file asks for, names the wheel after it, and fails where that is more than was promised. The
workflow *release* makes its wheels in the images of manylinux, with GCC; this one is for a machine
that has none of these.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
GLIBC = "2.28"
NEEDED = {"ziglang": "ziglang", "auditwheel": "auditwheel", "build": "build"}


def build(out: Path, glibc: str = GLIBC, *, isolated: bool = True) -> Path:
    """Make the wheel of this tree for this processor, and return it.

    Args:
        out: Folder for the wheel.
        glibc: The oldest version of the C library that is to load it.
        isolated: Whether what builds is fetched afresh, or is that of this environment.

    Raises:
        SystemExit: If a tool is missing, or a step fails.
    """
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing or sys.platform != "linux":
        raise SystemExit(f"needs Linux, and {', '.join(missing) or 'its tools'}: see make wheel.")
    machine = platform.machine()
    with tempfile.TemporaryDirectory() as scratch:
        compiler = Path(scratch) / "c++"
        target = f"{machine}-linux-gnu.{glibc}"
        command = [sys.executable, "-m", "ziglang", "c++", "-target", target]
        compiler.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
        compiler.chmod(0o755)
        made = Path(scratch) / "made"
        alone = [] if isolated else ["--no-isolation"]
        _run(["build", "--wheel", *alone, "--outdir", str(made), str(ROOT)], CXX=str(compiler))
        (wheel,) = made.glob("*.whl")
        if wheel.name.endswith("none-any.whl"):
            raise SystemExit("the kernels could not be compiled: see above.")
        tag = f"manylinux_{glibc.replace('.', '_')}_{machine}"
        fit = Path(scratch) / "fit"
        _run(["auditwheel", "repair", "--plat", tag, "--wheel-dir", str(fit), str(wheel)])
        (wheel,) = fit.glob(f"*{tag}*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, out / wheel.name))


def _run(words: list[str], **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *words], env={**os.environ, **environment}, check=False
    )
    if done.returncode:
        raise SystemExit(f"{words[0]} failed: see above.")


def main() -> None:
    """Build, and say what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--glibc", default=GLIBC)
    parser.add_argument("--no-isolation", action="store_true", help="build with what is here")
    asked = parser.parse_args()
    print(build(asked.out, asked.glibc, isolated=not asked.no_isolation))


if __name__ == "__main__":
    main()
