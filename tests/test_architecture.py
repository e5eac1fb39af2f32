"""The house plan, enforced: who may import whom, what stays light, what is public."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import spinalnet

SOURCE = Path(spinalnet.__file__).parent

# Wings by line. A wing imports wings of the lines below it; wings of one line do not import one
# another. A file beside the wings counts as one.
LINES = [
    {
        *("_checks", "_dist", "_lazy", "files", "locks", "own_code", "panels"),
        *("randomness", "texts", "timing", "wiring"),
    },
    {"kernels"},
    {"nn", "data", "training"},
    {"models", "tabular", "theory"},
    {"comparison"},
    {"paper", "deploy"},
    {"bench"},
    {"cli"},
    {"__main__"},
]
LINE = {wing: line for line, wings in enumerate(LINES) for wing in wings}
# The ground is one corridor: its files may import one another, without a circle.
GROUND = LINES[0]
# What begins with an underscore and may be imported all the same.
PRIVATE_MODULES = {"_checks", "_dist", "_lazy"}
OF_MODULES = {"_buffers", "_modules", "_parameters"}  # torch's own names, which anyone may read
# Beyond the lines: what a wing must not know although it is below.
FORBIDDEN = {
    "training": {"models", "data", "nn"},  # `fit` knows no model and no data set
    "nn": {"_dist", "files"},  # layers neither read nor write
}
# Rebuilt years later, from files alone: these read run folders and know no model.
FROM_FILES_ALONE = (
    "comparison.statistics",
    "comparison.chance",
    "comparison.inference",
    "comparison.times",
    "comparison.wording",
    "comparison.schema",
    "comparison.finished",
    "comparison.findings",
    "comparison.earlier",
    "comparison.answer",
    "comparison.summary",
    "comparison.classes",
    "comparison.outputs",
    "comparison.calibration",
    "comparison.metrics",
    "comparison.baseline",
    "comparison.report.drawing",
    "comparison.report.figures",
    "comparison.report.class_figures",
    "comparison.report.page",
)
MODELS = {"models", "nn", "tabular", "theory"}
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
TRITON = tuple(f"kernels.triton.{name}" for name in ("launching", "programs"))
# Classes of scikit-learn's, kernels of triton's: these are loaded when first used.
HEAVY_AT_THE_TOP = {
    *("tabular.estimators", "tabular.base", "tabular.encoder", *TRITON),
    *("comparison.tables.baselines", "comparison.tables.tabm_net", "comparison.tables.on_columns"),
    "deploy.standalone",  # never imported: a text that export writes beside its files
}


def module_name(path: Path) -> str:
    """Return the dotted name inside the package, "" for the package itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


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
    """Return which modules of the package a file imports, anywhere in it."""
    found = {name.removeprefix("spinalnet.") for name in imports(path)}
    return {name for name in found if name in MODULES and name}


def wing(module: str) -> str:
    return module.split(".")[0]


def typing_only(path: Path) -> set[str]:
    """Return what a file imports for the type checker alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for node in ast.walk(block):
                if isinstance(node, ast.ImportFrom) and node.module:
                    found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return {name.removeprefix("spinalnet.") for name in found}


def circle_among(modules: dict[str, set[str]]) -> list[str] | None:
    """Return the modules of a circle of imports, if there is one."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str] | None:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return None
        for other in sorted(modules.get(module, ())):
            found = visit(other, [*way, module])
            if found:
                return found
        done.add(module)
        return None

    return next((found for module in modules if (found := visit(module, []))), None)


def test_every_wing_has_a_line() -> None:
    assert {wing(module) for module in MODULES if module} == set(LINE)


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_imports_run_downwards_only(module: str) -> None:
    here = wing(module)
    for other in own(MODULES[module]):
        there = wing(other)
        if there == here or (here in GROUND and there in GROUND):
            continue
        assert LINE[there] < LINE[here], f"{module} must not import {other}"
        assert there not in FORBIDDEN.get(here, set()), f"{module} must not import {other}"


def test_there_is_no_circle() -> None:
    # A face re-exports its wing: who asks it for a name asks the module that has it.
    graph = {
        module: {
            other
            for other in own(path) - typing_only(path) - {module}
            if not (other in PACKAGES and wing(other) == wing(module))
        }
        for module, path in MODULES.items()
        if module not in PACKAGES
    }
    assert circle_among(graph) is None
    assert circle_among({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def private_names(tree: ast.Module) -> set[str]:
    """Return the private names of other files of the package that a file takes."""
    found: set[str] = set()
    others: set[str] = set()  # names of what is imported from the package: modules, classes
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "spinalnet":
            found |= {alias.name for alias in node.names if alias.name.startswith("_")}
            others |= {alias.asname or alias.name for alias in node.names}
    reached = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in others
    }
    return (found | {name for name in reached if re.match("_[^_]", name)}) - PRIVATE_MODULES


def attributes(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Return the private attributes that a file's own classes set, and those it asks others for."""
    own_names: set[str] = set()
    asked: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            own_names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own_names.add(node.id)
        elif isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            of_itself = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not of_itself:
                asked.add(node.attr)
            elif isinstance(node.ctx, ast.Store):
                own_names.add(node.attr)
    return own_names, asked - own_names - OF_MODULES


def test_what_is_private_to_a_file_stays_there() -> None:
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
    seen = {name: attributes(tree) for name, tree in trees.items()}
    for module, tree in trees.items():
        taken = private_names(tree)
        assert not taken, f"{module} takes {taken} from another file: make it public, or move it"
        for other, (theirs, _) in seen.items():
            reached = seen[module][1] & theirs if other != module else set()
            assert not reached, f"{module} reaches for {reached} of {other}"
    sample = "from spinalnet.nn import flat\nfrom spinalnet.files import _a\nflat._b, flat.c, x._d"
    assert private_names(ast.parse(sample)) == {"_a", "_b"}


def test_every_wing_has_a_face() -> None:
    for package in PACKAGES - {""}:
        face = importlib.import_module(f"spinalnet.{package}")
        assert face.__doc__ is not None
        assert len(face.__doc__.strip().splitlines()) <= 8, package
        for name in getattr(face, "__all__", ()):
            assert getattr(face, name) is not None, f"{package}.{name}"


@pytest.mark.parametrize("module", FROM_FILES_ALONE)
def test_a_report_is_rebuilt_from_files_alone(module: str) -> None:
    assert not {wing(other) for other in own(MODULES[module])} & MODELS


def test_nobody_imports_the_command_line() -> None:
    outside = [module for module in MODULES if wing(module) not in ("cli", "__main__")]
    assert not [module for module in outside if "cli" in map(wing, own(MODULES[module]))]


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    for module, path in MODULES.items():
        if module in HEAVY_AT_THE_TOP:
            continue
        heavy = {name.split(".")[0] for name in imports(path, top_level=True)} & HEAVY
        assert not heavy, f"{module} imports {heavy} at the top"


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


def test_layers_and_training_need_torch_alone_and_not_its_compiler() -> None:
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
        "assert 'torch._dynamo' not in sys.modules, 'as slow to load as torch, and not needed'\n"
    )


@pytest.mark.parametrize(
    "package",
    [name for name in sorted(PACKAGES) if "attach(" in MODULES[name].read_text(encoding="utf-8")],
)
def test_lazy_names_resolve_and_match_the_type_checkers_view(package: str) -> None:
    face = importlib.import_module(f"spinalnet.{package}".rstrip("."))
    tree = ast.parse(MODULES[package].read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    call = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
    )
    places: dict[str, str] = ast.literal_eval(call.args[1])
    named = {
        name: f"{face.__name__}.{module}"
        for module, names in places.items()
        for name in names.split()
    }
    assert named == seen
    for name in face.__all__:
        assert getattr(face, name) is not None


def test_version_is_said_once() -> None:
    import tomllib

    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    declared = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    assert "version" in declared["project"]["dynamic"]
    source = (
        Path(__file__).parents[1] / declared["tool"]["scikit-build"]["metadata"]["version"]["input"]
    )
    assert f'__version__ = "{spinalnet.__version__}"' in source.read_text(encoding="utf-8")
