"""The course's exercises: in a notebook `q1_3 = exercises.basics.euler`, then `q1_3.check(answer)`, `q1_3.hint()`,
`q1_3.solution()`, and `exercises.progress()` for what is done so far. A prediction is asked with `q1_2.ask()`.

>>> from fmlib import exercises
>>> exercises.basics.half_turn.hint(2)
Hint 2 of 2: The factor is $1-1.7t$. When is it zero?
"""

import copy
import re

from fmlib.exercises import (
    _progress,
    basics,
    bregman,
    codebase,
    couplings,
    discrete,
    faster,
    gaussian,
    generators,
    geometry,
    guidance,
    inverse,
    kinetic,
    marginalization,
    reward,
)
from fmlib.exercises._blank import ____
from fmlib.exercises._questions import Exercise, Outcome
from fmlib.exercises._reveal import reveal

TITLES = {
    "basics": "Flow matching basics",
    "marginalization": "The marginalization trick",
    "bregman": "Bregman losses",
    "kinetic": "Kinetic energy",
    "gaussian": "Affine and Gaussian paths",
    "guidance": "Conditioning and guidance",
    "couplings": "Data couplings",
    "geometry": "Geometry",
    "faster": "Faster sampling",
    "inverse": "Inverse problems",
    "reward": "Reward fine-tuning",
    "generators": "Generator matching",
    "discrete": "Discrete flows",
    "codebase": "The codebase demo",
}
__all__ = ["____", "Exercise", "Outcome", "basics", "bregman", "codebase", "couplings", "discrete", "faster"]
__all__ += ["gaussian", "generators", "geometry", "guidance", "inverse", "kinetic", "marginalization"]
__all__ += ["reward"]
__all__ += ["every", "progress", "progress_line", "reveal", "solved", "written"]


def every() -> list[Exercise]:
    """All exercises, in the order of the course."""
    found = [e for name in TITLES for e in vars(globals()[name]).values() if isinstance(e, Exercise)]
    return sorted(found, key=lambda e: [int(part) for part in e.number.split(".")])


def progress() -> None:
    """Print which exercises are done, in each notebook and in the course. `check` remembers a right answer."""
    print(_progress.table(every(), TITLES))


def progress_line() -> str:
    """The same in one line, to be posted in a chat: "fmlib: 12 of 31 exercises done (1: 4/8, ...)"."""
    return _progress.line(every(), TITLES)


def solved(notebook):
    """A copy of a notebook (an nbformat node) with the reference solution in every exercise's cell."""
    notebook = copy.deepcopy(notebook)
    for _, cell, exercise in _places(notebook):
        cell.source = exercise.answer_code
    return notebook


def written(notebook):
    """A copy of a notebook (an nbformat node) with every exercise as this package has it: its question and its cell.

    An exercise's code cell has the id "exercise-1-3-check", and the Markdown cell above it is its question. A cell that
    changes loses its outputs. KeyError for an id without an exercise, ValueError if no Markdown cell stands above.
    """
    notebook = copy.deepcopy(notebook)
    for question, cell, exercise in _places(notebook):
        if question is None or question.cell_type != "markdown":
            raise ValueError(f"above the cell {cell.id} there must be a Markdown cell for its question")
        question.source = exercise.markdown
        if cell.source != exercise.start:
            cell.source, cell.outputs, cell.execution_count = exercise.start, [], None
    return notebook


def _places(notebook) -> list[tuple]:
    """The cell above, the cell, and the exercise, for each of the notebook's cells that holds one."""
    cells = {f"exercise-{e.number.replace('.', '-')}-check": e for e in every()}
    pairs = zip([None, *notebook.cells], notebook.cells, strict=False)
    found = [(above, cell) for above, cell in pairs if re.fullmatch(r"exercise-\d+-\d+-check", cell.get("id", ""))]
    return [(above, cell, cells[cell.id]) for above, cell in found]
