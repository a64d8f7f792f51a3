"""Execute notebooks on clean kernels and store their outputs: `python tests/notebooks/run.py [NOTEBOOK ...]`.

What would differ from run to run or machine to machine is left out: widget views (the first frame of an explorer stays,
as a PNG), progress bars, times and the kernel's version. Pictures are stored with 256 colours, a third of the bytes.
"""

import base64
import io
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(path: Path, timeout: int = 120) -> float:
    """Run the notebook at `path` from top to bottom, write it back, and return the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    seconds = time.perf_counter() - start
    clean(notebook)
    nbformat.write(notebook, path)
    return seconds


def clean(notebook) -> None:
    """Remove what does not repeat: widget views, and metadata of the kernel that happened to run."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if WIDGET in output.get("data", {}):
                del output.data[WIDGET]
                explorer = "image/png" in output.data
                output.data["text/plain"] = "An explorer: run this cell to move its sliders." if explorer else ""
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _small(output.data["image/png"])
        cell.outputs = [o for o in cell.outputs if "data" not in o or any(o.data.values())]


def _small(png: str) -> str:
    picture, buffer = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> None:
    os.environ.setdefault("PYTHONHASHSEED", "0")
    folder = Path(__file__).parents[2] / "notebooks"
    for path in [Path(name) for name in sys.argv[1:]] or sorted(folder.glob("[0-9]*.ipynb")):
        print(f"{path.name}: {execute(path.resolve()):.1f} s, {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
