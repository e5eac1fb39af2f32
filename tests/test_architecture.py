"""The house plan, enforced: who may import whom, what stays light, what is public."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import spinalnet

SOURCE = Path(spinalnet.__file__).parent

# Rooms by level; a room may import rooms of lower levels only (and `_checks`).
LEVELS = [
    {"_checks"},
    {"_dist", "config", "timing", "_kernels", "_triton"},
    {"runs", "ops", "augment", "catalog", "images"},
    {"nn", "data", "recipes", "scores"},
    {"train", "gradients", "surgery", "summary"},
    {"backbones", "lrfind", "transfer", "classification"},
    {"models", "estimators", "theory", "sensitivity", "diagrams", "figures"},
    {"original", "experiment", "tables", "narrowing", "report"},
    {"reproduce", "export", "predict"},
    {"bench"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
FORBIDDEN = {
    "train": {"models", "data", "nn", "ops"},  # fit knows no model and no data set
    # Rebuilt years later, from files alone.
    **{
        room: {"models", "data", "nn", "ops", "train"}
        for room in ("summary", "classification", "figures", "report")
    },
}
HEAVY = {
    "torchvision",
    "sklearn",
    "scipy",
    "matplotlib",
    "jinja2",
    "yaml",
    "PIL",
    "safetensors",
    "timm",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "triton",
}


def rooms() -> dict[str, Path]:
    found = {path.stem: path for path in SOURCE.glob("*.py") if path.stem != "__init__"}
    packages = {path.parent.name: path for path in SOURCE.glob("*/__init__.py")}
    return found | packages


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.iter_child_nodes(tree)) if top_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def own(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("spinalnet.")} & set(
        rooms()
    )


def test_every_room_has_a_level() -> None:
    assert set(rooms()) <= set(LEVEL), set(rooms()) - set(LEVEL)


def test_rooms_import_lower_rooms_only() -> None:
    for room, path in rooms().items():
        for other in own(path) - {room}:
            assert LEVEL[other] < LEVEL[room], f"{room} must not import {other}"
            assert other not in FORBIDDEN.get(room, set()), f"{room} must not import {other}"


def test_nobody_imports_the_command_line() -> None:
    importers = {room for room, path in rooms().items() if "cli" in own(path)}
    assert importers == {"__main__"}


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    for room, path in rooms().items():
        if room in ("estimators", "_triton"):
            continue  # classes of scikit-learn's, kernels of triton's: the rooms are loaded lazily
        heavy = {name.split(".")[0] for name in imports(path, top_level=True)} & HEAVY
        assert not heavy, f"{room} imports {heavy} at the top"


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def test_import_and_help_do_not_load_torch() -> None:
    loaded = run_python(
        "import sys, spinalnet, spinalnet.cli\n"
        "from typer.main import get_command\n"
        "command = get_command(spinalnet.cli.app)\n"
        "ctx = command.make_context('spinalnet', [], resilient_parsing=True)\n"
        "[sub.get_help(ctx) for sub in command.commands.values()]\n"
        "print(sorted(sys.modules.keys() & {'torch', 'numpy', 'matplotlib', 'sklearn'}))"
    )
    assert loaded.splitlines()[-1] == "[]"


def test_layers_need_torch_alone() -> None:
    blocked = sorted(HEAVY - {"triton"})
    run_python(
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "import torch, spinalnet\n"
        "net = spinalnet.SpinalNet(9, 2, 4)\n"
        "net(torch.randn(3, 9)).sum().backward()\n"
        "model = spinalnet.create_model('mnist-cnn', 10)\n"
        "config = spinalnet.TrainConfig(epochs=1, device='cpu')\n"
        "batch = [(torch.randn(4, 1, 28, 28), torch.tensor([0, 1, 2, 3]))]\n"
        "assert spinalnet.fit(model, batch, batch, config).epochs_run == 1\n"
    )


def test_public_names_resolve_and_match_the_type_checkers_view() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {name: f"spinalnet.{room}" for name, room in spinalnet._HOME.items()} == seen
    for name in spinalnet.__all__:
        assert getattr(spinalnet, name) is not None


def test_version_is_said_once() -> None:
    import tomllib

    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    declared = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["version"]
    assert declared == spinalnet.__version__
