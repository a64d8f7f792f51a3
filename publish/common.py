"""What the workshop and the site share: the notebooks with their captions, and the assets that replace a CDN."""

import re
from importlib import metadata
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def read(path: Path):
    return nbformat.read(path, as_version=4)


def title(notebook) -> str:
    """The first heading of a notebook."""
    return notebook.cells[0].source.splitlines()[0].lstrip("# ")


def mathjax() -> Path:
    """All of MathJax in one file that asks for no other: the fonts are drawn as SVG."""
    return _packaged("sphinx-mathjax-offline", "tex-svg-full.js")


def reveal() -> Path:
    """The folder with reveal.js, its style sheets and fonts."""
    return _packaged("sphinx-revealjs", "revealjs/dist/reveal.js").parent


def _packaged(distribution: str, ending: str) -> Path:
    found = [file for file in metadata.files(distribution) or [] if str(file).replace("\\", "/").endswith(ending)]
    if not found:
        raise FileNotFoundError(f"the package {distribution} holds no file {ending}")
    return Path(found[0].locate())


def captions(notebook) -> dict[str, str]:
    """What each picture shows, by the id of its cell: the paragraph "*Figure: ...*" nearest above it."""
    found, latest = {}, ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            paragraphs = re.split(r"\n\s*\n", cell.source)
            latest = next((caption(p) for p in reversed(paragraphs) if caption(p)), latest)
        elif cell.cell_type == "code" and pictures(cell):
            found[cell.id] = latest
    return found


def caption(paragraph: str) -> str:
    """The text of a paragraph that describes a figure, else nothing."""
    match = re.fullmatch(r"\*Figure[^:.]*[:.]\s*(.*?)\*?", paragraph.strip(), re.DOTALL)
    return " ".join(match[1].split()) if match else ""


def pictures(cell) -> list[str]:
    """The pictures among the outputs of a code cell, those in a closed box too, as base64 of a PNG."""
    found = []
    for output in cell.outputs:
        data = output.get("data", {})
        shown = re.findall(r'src="data:image/png;base64,([^"]+)"', data.get("text/html", ""))
        found += [data["image/png"]] if "image/png" in data else shown
    return found


def table() -> dict[str, tuple[str, list[str], str]]:
    """From the README, by file name: the minutes to read a notebook, the numbers of those it needs, what one sees."""
    rows = re.findall(r"^\| \[[^]]*\]\(notebooks/(\S+)\) \| (\d+) \|([ \d,]*)\| (.*) \|$", readme(), re.M)
    return {name: (minutes, re.findall(r"\d+", needs), text) for name, minutes, needs, text in rows}


def ways() -> list[list[str]]:
    """The ways through the course, from the README: for whom, which notebooks, and the minutes to read them."""
    rows = re.search(r"Ways through:\n\n.*\n.*\n((?:\|.*\n)+)", readme())[1]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]


def readme() -> str:
    return (ROOT / "README.md").read_text()


def explorers(notebook) -> dict[str, dict]:
    """Where the frames of each explorer are and what moves them, as `tests/notebooks/run.py` stored it, by cell."""
    outputs = ((cell.id, output) for cell in notebook.cells for output in cell.get("outputs", []))
    return {cell: output.metadata["fmlib"] for cell, output in outputs if "fmlib" in output.get("metadata", {})}


def is_explorer(output) -> bool:
    """Is this output of a cell the stored first picture of an explorer?"""
    return output.get("data", {}).get("text/plain", "").startswith("An explorer")


def claims(cell) -> list[str]:
    """The claims that held in a code cell, without the word `holds`."""
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    lines = [line for text in texts for line in text.splitlines()]
    return [line.removeprefix("holds: ") for line in lines if line.startswith("holds: ")]
