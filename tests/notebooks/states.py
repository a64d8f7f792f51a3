"""Run notebooks in two states: with no exercise answered, and with all of them solved.

`python tests/notebooks/states.py [NOTEBOOK ...]` fails on any cell that raises, on an unanswered exercise that does not
invite an answer, on a reference solution that is not called correct, and on any other cell whose printed text depends
on the answers, but for those that draw with the learner's own function, `.yours`. Nothing is written to the notebooks,
nor to the progress file of whoever runs it.
"""

import dis
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from fmlib import exercises
from tests.notebooks.needed import names, needed

ANSWERED = re.compile(r"exercise-\d+-\d+-check")


def run(notebook, folder: Path, timeout: int = 300) -> None:
    """Execute a notebook in memory, on a clean kernel."""
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=resources).execute()


def printed(cell) -> str:
    """What a cell shows as text: what it prints, and the plain form of what it shows as HTML."""
    parts = [o.text if o.output_type == "stream" else o.get("data", {}).get("text/plain", "") for o in shown(cell)]
    return "\n".join(part.rstrip("\n") for part in parts)


def shown(cell) -> list:
    """The outputs of a cell that are texts: streams, and bundles that hold HTML."""
    return [o for o in cell.outputs if o.output_type == "stream" or "text/html" in o.get("data", {})]


def answers(notebook):
    """The notebook with its exercises' cells, those that draw with the answers, and what these need: a quick run."""
    ids = {cell.id for cell in notebook.cells if ANSWERED.fullmatch(cell.id)}
    notebook.cells = needed(notebook.cells, lambda cell: cell.id in ids or ".yours" in cell.source)
    return notebook


def followed(notebook) -> list[str]:
    """The cells, but for those with `.yours`, that use a name of an exercise's cell, whose value an answer decides."""
    solved, found, given = exercises.solved(notebook), [], set()
    for cell, filled in zip(notebook.cells, solved.cells, strict=True):
        if cell.cell_type != "code":
            continue
        code = dis.get_instructions(compile(filled.source, cell.id, "exec"))
        made = {step.argval for step in code if step.opname == "STORE_NAME"}
        if ANSWERED.fullmatch(cell.id):
            given |= {name for name in made if not re.fullmatch(r"q\d+_\d+", name)}
        elif ".yours" not in cell.source:
            used = names(filled.source)[2] & given
            found += [f"cell {cell.id} uses {name} of an exercise" for name in sorted(used)]
            given -= made
    return found


def problems(path: Path, states: tuple[str, ...] = ("empty", "solved"), quick: bool = False) -> list[str]:
    """What is wrong with the notebook at `path` in these states; `quick` runs only what the exercises need."""
    found, texts = [], {}
    for state in states:
        notebook = nbformat.read(path, as_version=4)
        notebook = exercises.solved(notebook) if state == "solved" else notebook
        notebook = answers(notebook) if quick else notebook
        with tempfile.TemporaryDirectory() as folder:
            progress = Path(folder) / "progress.json"
            os.environ["FMLIB_PROGRESS"] = str(progress)  # the kernel inherits it
            try:
                run(notebook, path.parent)
            except CellExecutionError as error:
                found.append(f"{state}: {error.ename}: {error.evalue}")
                continue
            done = json.loads(progress.read_text())["done"] if progress.exists() else {}
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        answered = [cell for cell in cells if ANSWERED.fullmatch(cell.id)]
        others = [cell for cell in cells if not ANSWERED.fullmatch(cell.id) and ".yours" not in cell.source]
        texts[state] = {cell.id: printed(cell) for cell in others}
        if len(answered) < 3 or len(done) != (len(answered) if state == "solved" else 0):
            found.append(f"{state}: {len(answered)} exercises, and {len(done)} of them recorded as done")
        for cell in answered:
            text = printed(cell)
            if not (text.startswith("Correct.") if state == "solved" else " is open. " in text):
                found.append(f"{state}, cell {cell.id}: {text!r}")
    if len(texts) == 2:
        found += [f"cell {cell}: its text depends on the answers" for cell in differing(*texts.values())]
    return found


def differing(empty: dict[str, str], solved: dict[str, str]) -> list[str]:
    return [cell for cell, text in empty.items() if solved[cell] != text]


def main() -> None:
    os.environ.setdefault("PYTHONHASHSEED", "0")
    folder, failed = Path(__file__).parents[2] / "notebooks", False
    for path in [Path(name) for name in sys.argv[1:]] or sorted(folder.glob("[0-9]*.ipynb")):
        start = time.perf_counter()
        found = problems(path.resolve())
        failed = failed or bool(found)
        print(f"{path.name}: {'; '.join(found) or 'both states are fine'} ({time.perf_counter() - start:.0f} s)")
    sys.exit(failed)


if __name__ == "__main__":
    main()
