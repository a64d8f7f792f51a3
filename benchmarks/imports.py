"""The time that an import takes in a new process, PyTorch's included."""

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.timing import Row, compare


def rows(quick: bool) -> Iterator[Row]:
    def run(line: str):
        return lambda: subprocess.run([sys.executable, "-c", line], check=True)

    a, b, ratio = compare(run("import fmlib"), run("from flow_matching.solver import ODESolver"), repeats=3)
    yield Row("import fmlib", "flow_matching.solver", a, b, ratio, ">= 1", "new processes")
