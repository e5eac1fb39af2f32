"""Every example runs on its own, in an empty folder, with a tiny budget."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import spinalnet
from helpers import Started, write_images

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.xdist_group("examples")

# Options that make an example small, and what it must say.
CASES = {
    "mnist": ("--data digits --epochs 2", r"epoch \d is best; test 0\.\d+"),
    "pretrained_backbone": ("PHOTOS --weights none --image-size 32 --epochs 1", "SpinalNet"),
    "vgg5": ("--data digits --limit 40 --epochs 1", "unchained: test accuracy"),
    "table": ("", r"test: 0\.9\d+ right"),
    "regression": ("", "R2: spinal 0"),
    "conversion": ("", r"largest difference on 10,000 inputs: \d\.\de-1[4-7]"),
    "own_head": ("--seeds 2 --epochs 1 --out runs", r"GatedHead: \d+\.\d % in 2 runs"),
    "own_data": ("", r"arrays: test accuracy 0\.[89]"),
    "serve_onnx": ("model.onnx PHOTOS/a/000.png PHOTOS/b/001.png", r"001\.png: [ab] \(\d\.\d+\)"),
    "distributed": ("--epochs 1 --out runs", "test accuracy"),
}
# A plain `pip install` brings none of these; serving needs no torch either.
NO_EXTRAS = {"pandas", "pyarrow", "polars", "onnx", "onnxscript"}
SERVED_WITHOUT = NO_EXTRAS | {"torch", "torchvision", "spinalnet", "sklearn", "scipy"}
WITHOUT = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        gone = name.split(".")[0] in {names!r}
        return None if gone else self.finder.find_spec(name, path, target)
for name in [name for name in sys.modules if name.split(".")[0] in {names!r}]:
    del sys.modules[name]
sys.meta_path[:] = map(Without, sys.meta_path)
"""
SLOW = {"own_data", "table", "regression", "vgg5"}  # some ten seconds each


def test_every_example_is_run_and_listed():
    found = {path.stem for path in EXAMPLES.glob("*.py")}
    assert found == set(CASES)
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 80
        assert f"]({path.name})" in listed
        assert f"{path.name}" in text[: text.index('"""', 3)]  # how it is started


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES]
)
def test_an_example_runs_alone(tmp_path, name):
    options, expected = CASES[name]
    if "PHOTOS" in options:
        write_images(tmp_path / "PHOTOS", {"a": 12, "b": 12}, size=(40, 30))
    if name == "serve_onnx":
        pytest.importorskip("onnxruntime")
        spec = spinalnet.RunSpec.of(
            str(tmp_path / "PHOTOS"), train=spinalnet.TrainConfig(epochs=1), image_size=28
        )
        spinalnet.run_one(spec, tmp_path / "run")
        spinalnet.export_onnx(tmp_path / "run", tmp_path / "model.onnx", output="probabilities")
    script = str(EXAMPLES / f"{name}.py")
    if name == "distributed":
        start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
        done = subprocess.run(
            [*start, "--standalone", script, *options.split()],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    elif name == "serve_onnx":
        code = WITHOUT.format(names=SERVED_WITHOUT)
        code += f"import runpy; runpy.run_path({script!r}, run_name='__main__')"
        done = subprocess.run(
            [sys.executable, "-c", code, *options.split()],
            cwd=tmp_path,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    else:
        code = WITHOUT.format(names=NO_EXTRAS)
        code += f"import runpy, sys\nsys.path.insert(0, {str(EXAMPLES)!r})\n"
        code += f"runpy.run_path({script!r}, run_name='__main__')"
        done = Started(*options.split(), code=code, cwd=tmp_path).ended()
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(expected, done.stdout), done.stdout
