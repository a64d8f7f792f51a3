"""Every notebook runs to its end with the reference solution filled into each exercise, and each is called correct.

The state without answers is the stored one, which nbval runs. `states.py` runs both, and compares them.
"""

import pytest

from tests.notebooks import states

NOTEBOOKS = sorted((states.Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_solved(path, monkeypatch):
    monkeypatch.setenv("FMLIB_PROGRESS", "")  # put back what the run sets
    assert not states.problems(path, ("solved",))
