"""The course's exercises: in a notebook `q = exercises.basics.psi_half`, then `q.check(answer)`, `q.hint()`,
`q.solution()`, and `exercises.progress()` for what is done so far.

>>> from fmlib import exercises
>>> exercises.basics.half_turn.hint(2)
Hint 2 of 2: The factor is 1 - 1.7 t. When is it zero?
"""

import copy
import re

from fmlib.exercises import _progress, basics, bregman, gaussian, kinetic, marginalization
from fmlib.exercises._blank import ____
from fmlib.exercises._questions import Exercise, Outcome

TITLES = {
    "basics": "Flow matching basics",
    "marginalization": "The marginalization trick",
    "bregman": "Bregman losses",
    "kinetic": "Kinetic energy",
    "gaussian": "Affine and Gaussian paths",
}
__all__ = ["____", "Exercise", "Outcome", "basics", "bregman", "gaussian", "kinetic", "marginalization", "every"]
__all__ += ["progress", "solved"]


def every() -> list[Exercise]:
    """All exercises, in the order of the course."""
    found = [e for name in TITLES for e in vars(globals()[name]).values() if isinstance(e, Exercise)]
    return sorted(found, key=lambda e: [int(part) for part in e.number.split(".")])


def progress() -> None:
    """Print which exercises are done, in each notebook and in the course. `check` remembers a right answer."""
    print(_progress.table(every(), TITLES))


def solved(notebook):
    """A copy of a notebook (an nbformat node) with the reference solution in every exercise's cell."""
    cells = {f"exercise-{e.number.replace('.', '-')}-check": e for e in every()}
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if re.fullmatch(r"exercise-\d+-\d+-check", cell.get("id", "")):
            cell.source = cells[cell.id].answer_code
    return notebook
