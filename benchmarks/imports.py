"""The time that an import takes in a new process, PyTorch's included."""

import subprocess
import sys

from benchmarks.timing import Row, compare


def rows(quick: bool) -> list[Row]:
    def run(line: str):
        return lambda: subprocess.run([sys.executable, "-c", line], check=True)

    a, b, ratio = compare(run("import fmlib"), run("from flow_matching.solver import ODESolver"))
    return [Row("import fmlib", "flow_matching.solver", a, b, ratio, ">= 1", "new processes")]
