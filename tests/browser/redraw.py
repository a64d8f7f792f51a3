"""Print how long each explorer takes to redraw after a tick of each control: `python tests/browser/redraw.py`.

It runs the notebooks on kernels of their own, without a browser, and times what a tick costs the kernel, which is the
light picture, and what the sharp one costs that follows when the controls rest. Not a test: a time depends on the
machine. The course's aim is 100 ms at the median on two cores.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))

# Runs in the kernel before the notebook: remembers every explorer that is made.
REMEMBER = """
from fmlib import explorers as _explorers
_made, _init = [], _explorers.Explorer.__init__
def _remembering(self, *args, **kwargs):
    _init(self, *args, **kwargs)
    _made.append(self)
_explorers.Explorer.__init__ = _remembering
"""

# Runs after it: walks each control through its range, and times each redraw.
MEASURE = """
import statistics as _statistics, time as _time
for _number, _explorer in enumerate(_made, 1):
    _start = _time.perf_counter()
    _explorer.render()
    print(f"explorer {_number}, sharp: {1000 * (_time.perf_counter() - _start):.0f} ms")
    for _name, _control in _explorer._controls.items():
        if hasattr(_control, "options"):
            _values = list(_control.options.values() if isinstance(_control.options, dict) else _control.options)
            _values = [v[1] if isinstance(v, tuple) else v for v in _values]
        else:
            _count = min(20, round((_control.max - _control.min) / _control.step))
            _values = [_control.min + round(k * (_control.max - _control.min) / _control.step / _count) * _control.step
                       for k in range(_count + 1)]
        _before, _times = _control.value, []
        for _value in [*_values, *_values][:40]:
            if _value == _control.value:
                continue
            _start = _time.perf_counter()
            _control.value = _value
            _times.append(1000 * (_time.perf_counter() - _start))
        _control.value = _before
        assert not _explorer.problem.value, _explorer.problem.value
        print(f"explorer {_number}, {_control.description}: median {_statistics.median(_times):.0f} ms, "
              f"slowest {max(_times):.0f} ms, {len(_times)} ticks")
"""


def main() -> None:
    os.environ["IPYTHONDIR"] = tempfile.mkdtemp()
    for path in [Path(name) for name in sys.argv[1:]] or NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = []
        first, last = nbformat.v4.new_code_cell(REMEMBER), nbformat.v4.new_code_cell(MEASURE)
        notebook.cells = [first, *notebook.cells, last]
        resources = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, timeout=200, kernel_name="python3", resources=resources).execute()
        print(path.stem)
        for line in "".join(o.text for o in last.outputs if o.get("name") == "stdout").splitlines():
            print(f"  {line}")


if __name__ == "__main__":
    main()
