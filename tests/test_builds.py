"""What is built from this tree: the wheel, with and without a compiler, and the stress program."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import spinalnet
from spinalnet.kernels import native

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake"),
    pytest.mark.timeout(1200),
]
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")

CHECK = """
import torch
import spinalnet
from spinalnet.data import warps
from spinalnet.kernels import native, warp
from spinalnet.nn import use_backend

assert spinalnet.__file__.startswith({place!r}), spinalnet.__file__
assert native.UNAVAILABLE is None, native.UNAVAILABLE
torch.manual_seed(0)
net = spinalnet.SpinalNet(33, 5, 7, 6)
x = torch.randn(20, 33)
assert net.spine.backend_choice(x).name == "cpp"
with use_backend("reference"):
    truth = net.double()(x.double())
torch.testing.assert_close(net.float()(x).double(), truth, rtol=1e-5, atol=1e-5)
images = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
warped = warp.warp(images, [warps.Map(torch.eye(3).expand(5, 3, 3))])
torch.testing.assert_close(warped, images / 255, rtol=0, atol=1e-5)
print("parity")
"""


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        cwd=Path(sys.prefix),  # not where an import would find the source tree
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def build(out: Path, **environment: str) -> Path:
    """Make a source archive, and a wheel from that archive alone."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, **environment)
    (archive,) = out.glob("*.tar.gz")
    assert archive.stat().st_size < 2e6
    (wheel,) = out.glob("*.whl")
    return wheel


def install(wheel: Path, place: Path) -> Path:
    """Return the interpreter of a fresh environment with the wheel, and the libraries from here."""
    venv.create(place)
    python = place / "bin" / "python"
    (site,) = place.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    return python


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


@needs_compiler
def test_source_archive_to_wheel_to_fresh_environment_to_parity(
    compiled: Path, tmp_path: Path
) -> None:
    assert "cp311-abi3" in compiled.name
    place = tmp_path / "a place with spaces"
    python = install(compiled, place)
    found = run(python, "-c", CHECK.format(place=str(tmp_path)), PYTHONPATH="")
    assert found == "parity\n"
    told = run(place / "bin" / "spinalnet", "--version", PYTHONPATH="")
    assert told == f"{spinalnet.__version__}\n"


def other_pythons() -> list[Any]:
    """Interpreters of other versions that the extension is for, here or of pyenv's."""
    own = f"3.{sys.version_info.minor}"
    found = {}
    for minor in range(11, 30):
        folders = sorted(Path("~/.pyenv/versions").expanduser().glob(f"3.{minor}.*/bin"))
        place = shutil.which(f"python3.{minor}", path=os.pathsep.join(map(str, folders)))
        found[f"3.{minor}"] = place or shutil.which(f"python3.{minor}")
    works = [
        place
        for version, place in found.items()
        if version != own
        and place is not None
        and subprocess.run([place, "-c", ""], capture_output=True, check=False).returncode == 0
    ]
    return works or [pytest.param("", marks=pytest.mark.skip(reason="no other Python is here"))]


ALONE = """
import importlib.machinery, importlib.util, sys
name, place = "_native", sys.argv[1]
loader = importlib.machinery.ExtensionFileLoader(name, place)
native = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
loader.exec_module(native)
assert native.exercise_tile(10) > 0
print(native.instruction_set())
"""


@needs_compiler
@pytest.mark.parametrize("python", other_pythons())
def test_the_extension_of_one_python_runs_in_every_later_one(
    compiled: Path, tmp_path: Path, python: str
) -> None:
    """Without torch, which would have to be installed in each of them."""
    with zipfile.ZipFile(compiled) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(".abi3.so")]
        archive.extract(name, tmp_path)
    told = run(python, "-c", ALONE, tmp_path / name, PYTHONPATH="")
    assert told.strip() == native.instruction_set()


@pytest.mark.skipif(
    sys.platform != "linux"
    or not all(map(find_spec, ("ziglang", "auditwheel")))
    or shutil.which("patchelf") is None,
    reason="needs Linux, ziglang, auditwheel and patchelf (make wheel)",
)
def test_a_wheel_for_older_systems_asks_for_no_more_than_its_name_says(tmp_path: Path) -> None:
    script = ROOT / "release" / "linux_wheel.py"
    run(sys.executable, script, "--no-isolation", "--out", tmp_path / "dist")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert "cp311-abi3" in wheel.name
    assert "manylinux_2_28" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(".abi3.so")]
        content = archive.read(name)
    asked = [tuple(map(int, one.split(b"."))) for one in re.findall(rb"GLIBC_(\d+\.\d+)", content)]
    assert asked
    assert max(asked) <= (2, 28)
    assert b"libstdc++" not in content
    python = install(wheel, tmp_path / "fresh")
    found = run(python, "-c", CHECK.format(place=str(tmp_path)), PYTHONPATH="")
    assert found == "parity\n"


@pytest.mark.skipif(find_spec("twine") is None, reason="needs twine (make dist)")
def test_what_is_published_for_all_systems_passes_the_checks_of_an_index(tmp_path: Path) -> None:
    script = ROOT / "release" / "release.py"
    told = run(sys.executable, script, "dist", "--no-isolation", "--out", tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    version = spinalnet.__version__
    assert names == {f"spinalnet-{version}.tar.gz", f"spinalnet-{version}-py3-none-any.whl"}
    assert told.count("PASSED") == 2
    assert "SPINALNET_REPOSITORY is not set" in told


def test_without_a_compiler_the_package_installs_in_pure_python_and_says_so(tmp_path: Path) -> None:
    wheel = build(tmp_path / "dist", CXX="/bin/false")
    assert wheel.name.endswith("py3-none-any.whl")
    python = install(wheel, tmp_path / "fresh")
    told = json.loads(run(python, "-m", "spinalnet", "env", PYTHONPATH="", COLUMNS="1000"))
    assert "compiled kernels are not installed" in json.dumps(told)
    code = (
        "import torch, spinalnet\n"
        "from spinalnet.data.augment import build_augment\n"
        "net = spinalnet.SpinalNet(9, 2, 4)\n"
        "net(torch.randn(3, 9)).sum().backward()\n"
        "images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)\n"
        "draws = torch.Generator().manual_seed(0)\n"
        "print(build_augment('perspective+rotation:9')(images, draws).shape)\n"
        "print(net.spine.backend_choice(torch.randn(3, 9)).reason)\n"
    )
    assert "compiled kernels are not installed" in run(python, "-c", code, PYTHONPATH="")


@needs_compiler
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_the_kernels_pass_the_sanitizers(tmp_path: Path, sanitizer: str) -> None:
    source = ROOT / "src" / "spinalnet" / "kernels" / "csrc"
    options = ("-DSPINALNET_STRESS=ON", f"-DSPINALNET_SANITIZE={sanitizer}")
    run("cmake", "-S", source, "-B", tmp_path, *options, f"-DPython_EXECUTABLE={sys.executable}")
    run("cmake", "--build", tmp_path, "--target", "kernels_stress")
    told = run(
        tmp_path / "kernels_stress", TSAN_OPTIONS="halt_on_error=1", UBSAN_OPTIONS="halt_on_error=1"
    )
    assert told.count(" 0 wrong") == len(told.splitlines())
