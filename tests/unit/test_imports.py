"""What imports what: every dependency is declared, floors rest on the floors below, and `import fmlib` stays light."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {path.stem: ast.parse(path.read_text()) for path in (ROOT / "fmlib").glob("*.py") if path.stem != "__init__"}
EVERY_FILE = [ast.parse(path.read_text()) for path in (ROOT / "fmlib").rglob("*.py")]

# Lowest floor first: a module imports only from the lines above its own.
FLOORS = """
    _validate
    devices
    schedules
    paths
    couplings
    losses
    exact
    solvers
    sampling
    models
    batches checkpoints
    training
    metrics
    datasets
    claims
    figures
    widgets
    __main__
"""
FLOOR = {name: number for number, line in enumerate(FLOORS.split("\n")) for name in line.split()}

DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow"}
HEAVY = {"matplotlib", "scipy", "sklearn", "ipywidgets", "IPython", "torchdiffeq", "pooch", "PIL"}


def imported(tree: ast.AST) -> set[str]:
    """The full dotted names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(tree: ast.AST) -> set[str]:
    return {name.split(".")[0] for name in imported(tree)} - sys.stdlib_module_names - {"fmlib"}


def declared(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}


def test_every_third_party_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {DISTRIBUTIONS.get(name, name) for tree in EVERY_FILE for name in packages(tree)}
    always, course = declared(project["dependencies"]), declared(project["optional-dependencies"]["course"])
    assert {"torch", "scikit-learn"} <= needed and needed - always == {"ipywidgets", "traitlets"} <= course
    assert [name for name, tree in MODULES.items() if "ipywidgets" in packages(tree)] == ["widgets"]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_lower_floors(name):
    assert name in FLOOR, f"write {name} into the list of floors"
    below = {full.split(".")[1] for full in imported(MODULES[name]) if full.startswith("fmlib.")}
    assert all(FLOOR[other] < FLOOR[name] for other in below & FLOOR.keys())
    assert below <= FLOOR.keys() | {"__version__"}


def test_mathematics_never_imports_pictures_and_pictures_never_train():
    drawing = {name for name, tree in MODULES.items() if packages(tree) & {"matplotlib", "ipywidgets"}}
    assert {"figures", "widgets"} <= drawing <= {"figures", "widgets", "__main__"}
    for name in ("figures", "widgets"):
        assert not {"fmlib.training", "fmlib.models", "fmlib.checkpoints"} & imported(MODULES[name])


def test_import_fmlib_loads_nothing_heavy():
    code = "import sys, fmlib; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded and not HEAVY & set(loaded)
