"""Execute notebooks on clean kernels and store their outputs: `python -m tests.notebooks.run [NOTEBOOK ...]`.

What would differ from run to run or machine to machine is left out: widget views (the first frame of an explorer stays,
as a PNG), progress bars, times and the kernel's version. Pictures are stored with 256 colours, a third of the bytes,
and with their caption as the alt text; where a notebook would be too large, the largest at half their resolution. The
frames that the site shows of an explorer become one file of images/, one frame below the other.
"""

import base64
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

from fmlib.explorers import FRAMES
from publish import common

LIMIT = 580_000  # bytes of a notebook
QUALITY = 8  # of the frames: of 100; a page with four explorers stays below 1.5 MB
WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(path: Path, timeout: int = 600) -> float:
    """Run the notebook at `path` from top to bottom, write it back, and return the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:  # whose progress is none, whatever the caller has solved
        client.execute(env=os.environ | {"FMLIB_FRAMES": "1", "FMLIB_PROGRESS": f"{folder}/progress.json"})
    seconds = time.perf_counter() - start
    store_frames(notebook, path)
    clean(notebook)
    fit(notebook)
    nbformat.write(notebook, path)
    return seconds


def store_frames(notebook, path: Path) -> None:
    """Put each explorer's frames into a file beside the notebook, and where to find them into its output's metadata."""
    for old in (path.parent / "images").glob(f"{path.stem}-*.webp"):
        old.unlink()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if FRAMES in output.get("data", {}):
                given = output.data.pop(FRAMES)
                del output.data["text/html"]  # the picture once more, with what hides it beside a live widget
                frames = [Image.open(io.BytesIO(base64.b64decode(frame))).convert("RGB") for frame in given["frames"]]
                width, height = frames[0].size
                sheet = Image.new("RGB", (width, height * len(frames)))
                for row, frame in enumerate(frames):
                    sheet.paste(frame, (0, height * row))
                name = f"images/{path.stem}-{cell.id}.webp"
                sheet.save(path.parent / name, "WEBP", quality=QUALITY, method=6)
                output.metadata["fmlib"] = {"frames": name, "size": [width, height], "axes": given["axes"]}


def clean(notebook) -> None:
    """Remove what does not repeat: widget views, and metadata of the kernel that happened to run."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
    }
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if WIDGET in output.get("data", {}):
                del output.data[WIDGET]
                if set(output.data) <= {"text/plain"}:
                    output.data = {}
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _small(output.data["image/png"])
        cell.outputs = [o for o in cell.outputs if "data" not in o or any(o.data.values())]
    for cell_id, caption in common.captions(notebook).items():
        (cell,) = (cell for cell in notebook.cells if cell.id == cell_id)
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.metadata["image/png"] = {**output.metadata.get("image/png", {}), "alt": caption}


def fit(notebook, limit: int = LIMIT) -> None:
    """Store the largest pictures at half their resolution, one by one, until the notebook has at most `limit` bytes.

    They were drawn twice as fine as they are shown. If that is not enough, they get 64 colours in the same order.
    """
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output.data for output in outputs if "image/png" in output.get("data", {})]
    for coarser, colours in ((2, 256), (1, 64)):
        for data in sorted(pictures, key=lambda data: len(data["image/png"]), reverse=True):
            if len(nbformat.writes(notebook).encode()) <= limit:
                return
            data["image/png"] = _small(data["image/png"], coarser, colours)


def _small(png: str, coarser: int = 1, colours: int = 256) -> str:
    picture, buffer = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture = picture.reduce(coarser)
    picture.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> None:
    os.environ.setdefault("PYTHONHASHSEED", "0")
    folder = Path(__file__).parents[2] / "notebooks"
    for path in [Path(name) for name in sys.argv[1:]] or sorted(folder.glob("[0-9]*.ipynb")):
        print(f"{path.name}: {execute(path.resolve()):.1f} s, {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
