"""Every notebook with the reference solution filled into each exercise: each is called correct, and draws its figure.

The state without answers is the stored one, which nbval runs. Here only the cells run that the exercises need; that no
other cell follows from an answer is read off the code. `states.py` runs both states whole, and compares them.
"""

import nbformat
import pytest

from tests.notebooks import states

NOTEBOOKS = sorted((states.Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.mark.timeout(300)
@each
def test_solved(path, monkeypatch):
    monkeypatch.setenv("FMLIB_PROGRESS", "")  # put back what the run sets
    assert not states.problems(path, ("solved",), quick=True)


@each
def test_no_cell_follows_from_an_answer(path):
    assert not states.followed(nbformat.read(path, as_version=4))


def test_a_cell_that_follows_from_an_answer_is_found():
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    last = next(cell for cell in reversed(notebook.cells) if "def answer" in cell.source)
    assert states.ANSWERED.fullmatch(last.id)
    notebook.cells += [nbformat.v4.new_code_cell("print(answer)", id="late")]
    assert states.followed(notebook) == ["cell late uses answer of an exercise"]
