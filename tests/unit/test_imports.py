"""What imports what: every dependency is declared, floors rest on the floors below, and `import fmlib` stays light."""

import ast
import importlib
import inspect
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fmlib

ROOT = Path(__file__).parents[2]
# The files of each module: one, or those of its folder.
FILES = {path.stem: [path] for path in (ROOT / "fmlib").glob("*.py") if path.stem != "__init__"}
FILES |= {path.parent.name: sorted(path.parent.glob("*.py")) for path in (ROOT / "fmlib").glob("*/__init__.py")}
MODULES = {name: [ast.parse(path.read_text()) for path in paths] for name, paths in FILES.items()}
EVERY_FILE = [tree for trees in MODULES.values() for tree in trees] + [
    ast.parse((ROOT / "fmlib/__init__.py").read_text())
]

# Lowest floor first: a module imports only from the lines above its own. CONTRIBUTING.md holds the one list.
FLOORS = re.search(r"```\n(_validate\n.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)[1]
FLOOR = {name: number for number, line in enumerate(FLOORS.split("\n")) for name in line.split()}
LATE = {"figures", "explorers", "exercises", "evaluation", "__main__"}  # what `import fmlib` leaves to who needs it

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


def of(what, name: str) -> set[str]:
    """All that the files of a module import."""
    return set().union(*(what(tree) for tree in MODULES[name]))


def packages(tree: ast.AST) -> set[str]:
    return {name.split(".")[0] for name in imported(tree)} - sys.stdlib_module_names - {"fmlib"}


def declared(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}


def test_every_third_party_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {DISTRIBUTIONS.get(name, name) for tree in EVERY_FILE for name in packages(tree)}
    always, course = declared(project["dependencies"]), declared(project["optional-dependencies"]["course"])
    assert {"torch", "scikit-learn"} <= needed and needed - always == {"ipywidgets", "traitlets"} <= course
    assert {name for name in MODULES if "ipywidgets" in of(packages, name)} == {"explorers", "exercises"}


def test_there_is_one_list_of_modules():
    assert MODULES.keys() == FLOOR.keys(), "write a new module into the list in CONTRIBUTING.md"
    public = {name for name in FLOOR.keys() - LATE if name[0] != "_"}
    assert public == {name for name in fmlib.__all__ if inspect.ismodule(getattr(fmlib, name))}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_lower_floors(name):
    below = {full.split(".")[1] for full in of(imported, name) if full.startswith("fmlib.")} - {name}
    assert all(FLOOR[other] < FLOOR[name] for other in below & FLOOR.keys())
    assert below <= FLOOR.keys() | {"__version__"}


def test_mathematics_never_imports_pictures_and_pictures_never_train():
    drawing = {name for name in MODULES if of(packages, name) & {"matplotlib", "ipywidgets"}}
    assert {"figures", "explorers"} <= drawing <= {"figures", "explorers", "exercises", "evaluation", "__main__"}
    for name in ("figures", "explorers"):
        assert not {"fmlib.training", "fmlib.models", "fmlib.checkpoints"} & of(imported, name)


def test_import_fmlib_loads_nothing_heavy():
    code = "import sys, fmlib; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded and not HEAVY & set(loaded)


@pytest.mark.parametrize("missing", ["ipywidgets", "traitlets"])
def test_explorers_without_jupyter_say_what_to_install(monkeypatch, missing):
    for name in ("fmlib.explorers", "fmlib.explorers._explorer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"^explorers need Jupyter \(.*{missing}.*\): pip install 'fmlib\[course\]'"):
        importlib.import_module("fmlib.explorers")


def functions(tree: ast.AST):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def test_functions_are_short_and_take_few_parameters():
    every = [function for tree in EVERY_FILE for function in functions(tree)]
    lengths = {f.name: f.end_lineno - f.body[bool(ast.get_docstring(f)) and len(f.body) > 1].lineno + 1 for f in every}
    assert {name: n for name, n in lengths.items() if n > 60} == {}
    assert statistics.median(f.end_lineno - f.lineno + 1 for f in every) <= 8
    for function, most in [(fmlib.fit, 20), (fmlib.sample, 12)]:
        assert len(inspect.signature(function).parameters) <= most
