"""Bring the exercises of notebooks up to date with `fmlib.exercises`: `python tests/notebooks/write_exercises.py`.

Each question's Markdown and the cell below it are written anew, without executing; run the notebook afterwards.
"""

import sys
from pathlib import Path

import nbformat

from fmlib import exercises


def main() -> None:
    folder = Path(__file__).parents[2] / "notebooks"
    for path in [Path(name) for name in sys.argv[1:]] or sorted(folder.glob("[0-9]*.ipynb")):
        nbformat.write(exercises.written(nbformat.read(path, as_version=4)), path)


if __name__ == "__main__":
    main()
