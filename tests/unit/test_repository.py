"""What the repository promises about itself: one list of dependencies, one list of checksums, well-formed notebooks."""

import ast
import importlib
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from fmlib import datasets
from publish import common, diagram
from tests.notebooks import mutate

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_registry_is_the_one_in_the_code():
    lines = (ROOT / "datasets" / "registry.txt").read_text().split("\n")
    assert dict(line.split(" sha256:") for line in lines if line) == datasets.REGISTRY


def test_conda_environment_installs_from_pyproject_under_the_constraints():
    lines = [line.strip() for line in (ROOT / "environment.yml").read_text().splitlines() if not line.startswith("#")]
    wanted = ["- python>=3.11,<3.15", "- pip", "- pip:", "- -c constraints.txt", "- -e .[course]"]
    assert lines[lines.index("dependencies:") + 1 :] == wanted


def test_every_dependency_is_pinned():
    extras = project()["optional-dependencies"]
    declared = [*project()["dependencies"], *extras["course"], *extras["dev"]]
    names = {re.split(r"[\[>=<]", line)[0].lower().replace("_", "-") for line in declared} - {"fmlib"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert names <= {name.lower().replace("_", "-") for name in pinned}
    assert pinned["torch"] == "2.13.0"


def test_readme_and_notebooks_name_each_other():
    readme = (ROOT / "README.md").read_text()
    assert NOTEBOOKS
    for link in re.findall(r"\]\((?!https://)([^)#]+)\)", readme):
        assert (ROOT / link).exists(), link
    for path in NOTEBOOKS:
        assert f"(notebooks/{path.name})" in readme


def test_a_notebook_says_what_it_needs_and_what_comes_next():
    """The first cell by links, as the README's table does without what follows from others; the last cell by a link."""
    first, last = ([json.loads(path.read_text())["cells"][k]["source"] for path in NOTEBOOKS] for k in (0, -1))
    needs = {}
    for path, source, following in zip(NOTEBOOKS, map("".join, first), [*NOTEBOOKS[1:], None], strict=True):
        number, name = path.name[:2], path.name
        minutes, stated, _ = common.table()[name]
        assert f"*About {minutes} minutes to read" in source, name
        assumed = re.search(r"Assumes (.*?)(?:\.[ *]|;)", source)[1]
        needs[number] = {link[:2] for link in re.findall(r"\((\d\d_\w+)\.ipynb\)", assumed)}
        assert needs[number] <= needs.keys() - {number}, f"{name} needs a later one"
        behind = set().union(*(needs[other] for other in needs[number]))
        needs[number] |= behind
        assert set(stated) == needs[number] - behind, name
        assert number == "01" or stated, name
        assert following is None or re.search(
            rf"\*\*Next:\*\* \[[^]]+\]\({following.name}\)", "".join(last[int(number) - 1])
        )
    for who, which, minutes in common.ways():
        row = re.findall(r"\d\d", which) or [*needs]
        assert all(needs[number] <= set(row) for number in row), who
        time = {path.name[:2]: int(common.table()[path.name][0]) for path in NOTEBOOKS}
        assert not minutes.isdigit() or int(minutes) == sum(time[number] for number in row), who


def test_the_map_shows_what_is_needed_above():
    assert {path.name[:2] for path in NOTEBOOKS} == diagram.PLACE.keys()
    assert len(set(diagram.PLACE.values())) == len(NOTEBOOKS)
    for name, (_, needs, _) in common.table().items():
        column, row = diagram.PLACE[name[:2]]
        for above in needs:
            there = diagram.PLACE[above]
            assert there[1] < row or (there[1] == row and there[0] < column), f"{name} needs {above}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_well_made(path):
    notebook = json.loads(path.read_text())
    assert path.stat().st_size < 600_000
    assert str(ROOT) not in path.read_text() and "/home/" not in path.read_text()
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    identities = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identities)) == len(identities)
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    code = [index for index, cell in enumerate(notebook["cells"]) if cell["cell_type"] == "code"]
    assert any("claim(" in sources[index] for index in code)
    assert any("explorers." in sources[index] for index in code)
    assert sum("**Exercise" in source for source in sources) >= 3
    assert len(sources[code[0]].splitlines()) <= 6  # the setup
    described = -1  # the last cell with a picture
    for index in code:
        cell, lines = notebook["cells"][index], sources[index].splitlines()
        where = f"{path.name}, cell {cell['id']}"
        assert len([line for line in lines if line.strip()]) <= 20, where
        assert max(map(len, lines)) <= 88, where
        assert cell["execution_count"], f"{where} was not executed"
        assert "execution" not in cell["metadata"], f"{where} holds times"
        kinds = {output["output_type"] for output in cell["outputs"]}
        assert not kinds & {"error", "execute_result"}, where  # a result is the repr of what a last line left
        assert all(output.get("name") != "stderr" for output in cell["outputs"]), where
        assert "You have solved it before" not in json.dumps(cell["outputs"]), f"{where} shows somebody's progress"
        if "claim" in cell["metadata"].get("tags", []):  # a slide shows the first one
            assert "holds: " in json.dumps(cell["outputs"]), where
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            above = [source for i, source in enumerate(sources) if described < i < index and i not in code]
            assert any("*Figure" in source for source in above), f"{where}: no alt text in the Markdown above"
            described = index


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_that_stays_on_the_cpu_trains_there(path):
    """On a machine with a GPU `fit` would take it, and the next cell would meet tensors of two devices."""
    cells = [cell.source for cell in common.read(path).cells if cell.cell_type == "code"]
    if not any('device = "cpu"' in source for source in cells):
        return
    for source in cells:
        for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
            if getattr(call.func, "id", "") == "fit":
                assert "device" in [keyword.arg for keyword in call.keywords], ast.unparse(call)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_between_notebooks_lead_somewhere(path):
    linked = re.findall(r"\]\(([^)#:]+\.ipynb)\)", path.read_text())
    for name in linked:
        assert (path.parent / name).exists(), name  # the site refuses it; one to come is named without a link


def test_the_table_of_mutants_says_how_many_there_are():
    """And every notebook has at least eight. `make mutants` runs them."""
    stated = dict(re.findall(r"^  \| (\d\d) \| (\d+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M))
    files = {path.name[2:4]: path for path in (ROOT / "tests/notebooks/mutants").glob("nb*.py")}
    found = {}
    for number, path in files.items():
        module = importlib.import_module(f"tests.notebooks.mutants.{path.stem}")
        found[number] = str(len(module.MUTANTS))
    assert stated == found and found.keys() == {path.name[:2] for path in NOTEBOOKS}
    assert all(int(count) >= 8 for count in found.values())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_mutant_finds_what_it_replaces(path):
    """`make mutants` would say so too, but nobody runs it after each change of `fmlib`."""
    cells = dict(mutate.code_cells(path))
    for mutant in mutate.mutants_of(path):
        if isinstance(mutant, mutate.Library):
            assert mutate.spoiled(mutant)
            assert not mutant.at or mutant.at in cells, mutant.at
        else:
            assert mutate.replaced(cells[mutant.id], mutant.old, mutant.new, f"cell {mutant.id}")


@pytest.mark.parametrize("git", [True, False])
def test_mutants_in_a_few_minutes_begin_with_what_changed_last(git, monkeypatch):
    def log(command, **_):
        if not git:
            raise FileNotFoundError("git")
        seconds = 9 if any("03_" in part for part in command) else 5 if any("nb02_" in part for part in command) else 2
        return subprocess.CompletedProcess(command, 0, f"{seconds}\n")

    monkeypatch.setattr(mutate.subprocess, "run", log)
    order = [path.name[:2] for path in mutate.last_changed_first(NOTEBOOKS, day=len(NOTEBOOKS) + 4)]
    assert order[:2] == (["03", "02"] if git else ["05", "06"]) and sorted(order) == [p.name[:2] for p in NOTEBOOKS]
