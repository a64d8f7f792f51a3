"""Run notebooks against their mutants: `python -m tests.notebooks.mutate [NOTEBOOK ...]`, or with other seeds.

A notebook's code runs once, in this process, on one thread, without drawing. At a cell that is mutated a forked copy
goes on with the mutation until a claim fails: the mutant is killed. One that reaches the end has survived, and one that
stops with any other error has missed its point; either makes the exit status 1.

`--seeds 1 2 3` runs the notebooks as they are, once for each seed, and prints how near each came to a failing claim.
`--minutes 15` begins with the notebooks that changed last, and after so many minutes begins no other.
"""

import argparse
import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with threads of its own cannot be forked
os.environ.setdefault("MPLBACKEND", "Agg")

import torch

from fmlib import claims, explorers
from tests.notebooks.mutants import Cell, Library

ROOT = Path(__file__).parents[2]
PATIENCE = 600  # seconds for what is left of a notebook, on a machine that is busy with other things too


def code_cells(path: Path) -> list[tuple[str, str]]:
    """The ids and sources of the code cells at `path`."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(cell["id"], "".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]


def mutants_of(path: Path) -> list:
    """The list in the file of mutants that has the notebook's number."""
    found = list((ROOT / "tests/notebooks/mutants").glob(f"nb{path.name[:2]}_*.py"))
    return importlib.import_module(f"tests.notebooks.mutants.{found[0].stem}").MUTANTS if found else []


def replaced(text: str, old: str, new: str, where: str) -> str:
    """`text` with `new` for `old`, which must stand there once."""
    if text.count(old) != 1:
        raise ValueError(f"{where} has {old!r} {text.count(old)} times, not once")
    return text.replace(old, new)


def spoiled(mutant: Library) -> tuple:
    """The module, the function of `fmlib` in it and the function's mutated source."""
    module, *path = mutant.name.split(".")
    module = importlib.import_module(f"fmlib.{module}")
    owner = module
    for name in path[:-1]:
        owner = getattr(owner, name)
    function = inspect.unwrap(vars(owner)[path[-1]])
    function = getattr(function, "func", getattr(function, "__func__", getattr(function, "fget", function)))
    source = textwrap.dedent(inspect.getsource(function))
    return module, function, replaced(source, mutant.old, mutant.new, mutant.name)


def spoil(mutant: Library) -> None:
    """Give a function of `fmlib` its mutated code, wherever it is already known by name."""
    module, function, source = spoiled(mutant)
    namespace = {}
    exec(compile(source, f"<{mutant.name}>", "exec"), vars(module), namespace)
    made = inspect.unwrap(namespace[mutant.name.split(".")[-1]])
    function.__code__ = getattr(made, "func", getattr(made, "__func__", getattr(made, "fget", made))).__code__


def quiet() -> None:
    """Nothing is drawn: explorers keep no picture, and progress of the exercises goes to a file of this run."""
    explorers.Explorer.render = lambda self, *arguments, **options: b""
    os.environ["FMLIB_PROGRESS"] = str(Path(tempfile.mkdtemp()) / "progress.json")
    torch.set_num_threads(1)


def execute(source: str, name: str, namespace: dict) -> None:
    """Run one cell."""
    exec(compile(source, f"<{name}>", "exec"), namespace)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def to_the_end(cells: list[tuple[str, str]], namespace: dict) -> str:
    """Run `cells` and say how it ended: "killed ...", "survived", or "error ..."."""
    for name, source in cells:
        try:
            execute(source, name, namespace)
        except claims.ClaimError as error:
            return f"killed in {name}: {str(error).removeprefix('FAILS: ')}"
        except Exception as error:
            return f"error in {name}: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return "survived"


class Children:
    """Forked copies, as many at a time as there are cores; each is printed as it ends."""

    def __init__(self):
        self.running, self.killed, self.report = {}, 0, sys.stdout

    def fork(self, mutant, cells: list[tuple[str, str]], namespace: dict) -> None:
        while len(self.running) >= (os.cpu_count() or 1):
            self.wait()
        answer, out = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(PATIENCE)
            sys.stdout = open(os.devnull, "w")
            try:
                if isinstance(mutant, Library):
                    spoil(mutant)
                else:
                    name, source = cells[0]
                    cells = [(name, replaced(source, mutant.old, mutant.new, f"cell {name}")), *cells[1:]]
                end = to_the_end(cells, namespace)
            except BaseException as error:
                end = f"error before it began: {error}"
            os.write(out, end.encode()[:4000])
            os._exit(0)
        os.close(out)
        self.running[child] = (mutant, answer, time.perf_counter())

    def wait(self) -> None:
        child, status = os.wait()
        mutant, answer, start = self.running.pop(child)
        with os.fdopen(answer) as pipe:
            end = pipe.read() or f"error: it ran longer than {PATIENCE} s, or died with status {status}"
        self.killed += end.startswith("killed")
        where = mutant.id if isinstance(mutant, Cell) else mutant.name
        seconds = time.perf_counter() - start
        print(f"  {seconds:5.1f} s  {where}: {mutant.what}\n           {end[:200]}", file=self.report, flush=True)


def run(path: Path, chosen: str = "") -> tuple[int, int]:
    """Run the notebook at `path` with its mutants, return their number and that of the killed."""
    mutants = [m for m in mutants_of(path) if re.search(chosen, m.what)]
    cells, namespace, children, begin = code_cells(path), {"__name__": "__main__"}, Children(), time.perf_counter()
    unknown = {m.id for m in mutants if isinstance(m, Cell)} - {name for name, _ in cells}
    if unknown:
        raise ValueError(f"{path.name} has no cells {', '.join(sorted(unknown))}")
    sys.stdout, stdout = open(os.devnull, "w"), sys.stdout
    try:
        for index, (name, source) in enumerate(cells):
            for mutant in mutants:
                at = mutant.id if isinstance(mutant, Cell) else mutant.at or cells[0][0]
                if at == name:
                    children.fork(mutant, cells[index:], namespace)
            execute(source, name, namespace)
        while children.running:
            children.wait()
    finally:
        sys.stdout = stdout
    print(f"{path.name}: {children.killed} of {len(mutants)} killed, {time.perf_counter() - begin:.0f} s", flush=True)
    return len(mutants), children.killed


def margins(path: Path, seed: int) -> None:
    """Run the notebook as it is from another seed, and print its claims that fail, and the largest z of all."""
    worst, failed = (0.0, ""), []

    def recording(statement, measured, expected=None, **options):
        nonlocal worst
        error = options.get("standard_error")
        if error is not None and expected is not None:
            gap = (torch.as_tensor(measured).double() - torch.as_tensor(expected).double()).abs()
            z = float((gap / torch.as_tensor(error).double()).detach().max())
            worst = max(worst, (z, statement))
        try:
            claims.claim(statement, measured, expected, **options)
        except claims.ClaimError as error:
            failed.append(str(error))

    namespace, begin = {"__name__": "__main__"}, time.perf_counter()
    sys.stdout, stdout = open(os.devnull, "w"), sys.stdout
    try:
        for name, source in code_cells(path):
            execute(source.replace("torch.manual_seed(0)", f"torch.manual_seed({seed})"), name, namespace)
            if "claim" in namespace:
                namespace["claim"] = recording
    finally:
        sys.stdout = stdout
    seconds = time.perf_counter() - begin
    print(f"{path.name}, seed {seed}: {len(failed)} fail, largest z {worst[0]:.2f} ({worst[1]}), {seconds:.0f} s")
    for line in failed:
        print(f"  {line}", flush=True)


def last_changed_first(paths: list[Path], day: int) -> list[Path]:
    """By the time of the last commit of each, or of its mutants. Where all are alike, each day begins with another."""

    def changed(path: Path) -> int:
        files = [str(path), *map(str, (ROOT / "tests/notebooks/mutants").glob(f"nb{path.name[:2]}_*.py"))]
        command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct", "--", *files]
        try:
            return int(subprocess.run(command, capture_output=True, text=True).stdout or 0)
        except OSError:  # no git
            return 0

    first = day % len(paths)
    return sorted([*paths[first:], *paths[:first]], key=changed, reverse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, help="run the notebooks as they are from these seeds")
    parser.add_argument("--only", default="", help="the mutants whose description has this regular expression")
    parser.add_argument("--minutes", type=float, help="begin no notebook after so many, the last changed ones first")
    options = parser.parse_args()
    quiet()
    paths, results, begin = options.notebooks or sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), [], time.monotonic()
    if options.minutes is not None:
        paths = last_changed_first(paths, int(time.time()) // 86_400)
    for done, path in enumerate(paths):
        if options.minutes is not None and time.monotonic() - begin > 60 * options.minutes:
            left = ", ".join(path.name for path in paths[done:])
            print(f"{options.minutes:g} minutes are over; not run: {left}", flush=True)
            break
        os.chdir(ROOT / "notebooks")
        path = path if path.is_absolute() else ROOT / path
        child = os.fork()  # each notebook in a process of its own, as each has a kernel of its own
        if child == 0:
            try:
                for seed in options.seeds or []:
                    margins(path, seed)
                total, killed = (0, 0) if options.seeds else run(path, options.only)
                os._exit(total != killed)
            except BaseException:
                traceback.print_exc()
                os._exit(2)
        results.append(os.wait()[1])
    sys.exit(any(results))


if __name__ == "__main__":
    main()
