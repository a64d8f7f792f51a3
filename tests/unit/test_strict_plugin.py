"""The pytest plugin of the notebooks, on notebooks made here: what must pass passes, what must fail fails, and soon."""

import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import nbformat.v4
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()

NOTEBOOKS = {
    "good": ["x = 1", "print(x)", "x"],
    "false": ["x = 1", "assert x == 2, 'x is not 2'", "import fmlib\nfmlib.claim('one', 2, 1, within=0)", "x"],
    "loud": ["import warnings\nwarnings.warn('beware')", "import sys\nprint('a line', file=sys.stderr)", "print(1)"],
    "killed": ["x = 1", "import os\nos.kill(os.getpid(), 9)", "x"],
    "endless": ["x = 1", "import time\nwhile True:\n    time.sleep(0.01)", "x"],
}


def recipe() -> list[str]:
    """The flags of the Makefile's target `test-notebooks`, but for the workers and the list of notebooks."""
    command = re.search(r"^test-notebooks:.*?pytest (.*?)\$\(NOTEBOOKS\)", MAKEFILE, re.MULTILINE | re.DOTALL)[1]
    return re.sub(r"-n \$\(WORKERS\) --dist loadscope|\\\n", "", command).split()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> tuple[float, dict]:
    """Run every notebook at once; return the seconds, and (name, cell) -> the message of its failure, or None."""
    folder = tmp_path_factory.mktemp("notebooks")
    for name, cells in NOTEBOOKS.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, folder / f"{name}.ipynb")
    flags = [flag for flag in recipe() if "timeout" not in flag]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, "--nbval-cell-timeout=20", "-p", "no:cacheprovider"]
        + [f"--junitxml={folder}/report.xml", "-o", "junit_family=xunit1", "-c", "pyproject.toml"]
        + sorted(folder.glob("*.ipynb")),
        cwd=ROOT,
        env={**clean, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    seconds = time.monotonic() - start
    assert result.returncode == 1, result.stdout + result.stderr
    cells = {}
    for case in ElementTree.parse(folder / "report.xml").iter("testcase"):
        failure = next((part for part in case if part.tag in ("failure", "error")), None)
        cells[Path(case.get("file")).stem, case.get("name")] = None if failure is None else failure.text
    return seconds, cells


def test_every_cell_is_a_test(outcomes):
    expected = {(name, f"Cell {i}") for name, cells in NOTEBOOKS.items() for i in range(len(cells))}
    assert set(outcomes[1]) == expected


FAILING = {
    ("false", "Cell 1"): "x is not 2",
    ("false", "Cell 2"): "FAILS: one | measured 2, expected 1",
    ("loud", "Cell 0"): "UserWarning: beware",
    ("loud", "Cell 1"): "The cell wrote to stderr",
    ("killed", "Cell 1"): "the kernel died while running this cell",
    ("killed", "Cell 2"): "Kernel dead",
    ("endless", "Cell 1"): "Timeout of 20 seconds exceeded",
}


@pytest.mark.parametrize("cell", FAILING, ids=" ".join)
def test_it_fails(cell, outcomes):
    assert outcomes[1][cell] and FAILING[cell] in re.sub(r"\x1b\[[\d;]*m", "", outcomes[1][cell])


def test_nothing_else_fails(outcomes):
    assert {cell for cell, failure in outcomes[1].items() if failure} == set(FAILING)


def test_a_dead_kernel_and_an_endless_loop_cost_seconds(outcomes):
    assert outcomes[0] < 60


def test_a_cell_reaches_its_own_timeout_before_that_of_pytest():
    """pytest-timeout would end the test, but only nbval interrupts the cell and says which it was."""
    of_cells = int(re.search(r"--nbval-cell-timeout=(\d+)", MAKEFILE)[1])
    of_tests = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["timeout"]
    assert of_cells < of_tests
