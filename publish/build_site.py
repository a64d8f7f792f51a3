"""Build the site into build/site: `python -m publish.build_site`.

The notebooks are not run: the pages show their stored outputs. Nothing is asked of another host, now or by a reader.
"""

import ast
import html
import math
import re
import shutil
import sys
from pathlib import Path
from string import Template

import nbformat
from sphinx.cmd.build import main as sphinx

from publish import common, diagram

HERE = Path(__file__).parent / "site"
OUT = common.BUILD / "site"
SOURCE = common.BUILD / "site-source"


def main() -> int:
    shutil.rmtree(OUT, ignore_errors=True)
    prepare()
    # every warning is an error: a broken link, a missing page, a docstring that does not parse
    code = sphinx(["-q", "-W", "--keep-going", "-E", "-d", str(SOURCE / ".doctrees"), str(SOURCE), str(OUT)])
    if code == 0:
        print(f"The site is in {OUT.relative_to(common.ROOT)}: open index.html")
    return code


def prepare() -> None:
    """The sources: the notebooks with alt texts, the pages around them, and MathJax."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    (SOURCE / "_static").mkdir(parents=True)
    shutil.copyfile(common.mathjax(), SOURCE / "_static/mathjax.js")
    for name in ("course.css", "explorer.js", "favicon.svg"):
        shutil.copyfile(HERE / name, SOURCE / "_static" / name)
    shutil.copyfile(HERE / "conf.py", SOURCE / "conf.py")
    shutil.copytree(common.ROOT / "notebooks/images", SOURCE / "_static/images")
    for path in common.notebooks():
        nbformat.write(described(common.read(path)), SOURCE / path.name)
    (SOURCE / "index.md").write_text(start_page())
    (SOURCE / "map.md").write_text(map_page())
    (SOURCE / "api").mkdir()
    names = modules()
    for name in names:
        page = f"fmlib.{name}\n{'=' * (6 + len(name))}\n\n.. automodule:: fmlib.{name}\n"
        (SOURCE / "api" / f"{name}.rst").write_text(page)
    listing = "\n".join(f"   api/{name}" for name in names)
    (SOURCE / "api.rst").write_text(f"The library\n===========\n\n.. toctree::\n   :maxdepth: 1\n\n{listing}\n")


def start_page() -> str:
    """An explorer that moves, and a line about each notebook."""
    paths, table = common.notebooks(), common.table()
    first = common.read(paths[0])
    moving = [explorer(found, common.captions(first)[cell]) for cell, found in common.explorers(first).items()]
    still = '<img src="_static/images/explorer.png" alt="A probability path at t = 0.7, with arrows of its velocity.">'
    lines = []
    for path in paths:
        minutes, _, shown = table[path.name]
        lines.append(f"- [{common.title(common.read(path))}]({path.name}), {minutes} minutes: {shown}")
    values = {"notebooks": "\n".join(path.stem for path in paths), "list": "\n".join(lines)}
    values |= {"start": f"{paths[0].stem}.html", "picture": (moving or [still])[0]}
    return Template((HERE / "index.md").read_text()).substitute(values)


def map_page() -> str:
    """What needs what, as a picture, and the ways through."""
    pages, shown = {path.name[:2]: path for path in common.notebooks()}, {}
    for number, path in pages.items():
        (minutes, needs, _), title = common.table()[path.name], common.title(common.read(path)).split(". ", 1)[1]
        shown[number] = title, f"{path.stem}.html", minutes, needs
    rows = ["| | notebooks | minutes to read |", "|---|---|---|"]
    for who, which, minutes in common.ways():
        linked = re.sub(r"\d\d", lambda number: f"[{number[0]}]({pages[number[0]].name})", which)
        rows.append(f"| {who} | {linked} | {minutes} |")
    return Template((HERE / "map.md").read_text()).substitute(diagram=diagram.svg(shown), ways="\n".join(rows))


def described(notebook):
    """The notebook with each picture's caption as the alt text of its image, and with explorers that move."""
    texts, moving = common.captions(notebook), common.explorers(notebook)
    for cell in notebook.cells:
        if cell.id in texts:
            cell.metadata["mystnb"] = {"image": {"alt": texts[cell.id]}}
        for output in cell.get("outputs", []):
            if cell.id in moving and "image/png" in output.get("data", {}):
                output.data = {"text/html": explorer(moving[cell.id], texts[cell.id])}
    return notebook


def explorer(found: dict, alt: str) -> str:
    """Stored frames above a list or a slider for each of their axes; `explorer.js` moves them."""
    place, controls = 0, []
    for number, axis in enumerate(found["axes"]):
        values, start = [html.escape(value, quote=True) for value in axis["values"]], axis["start"]
        place, name = place * len(values) + start, f"{Path(found['frames']).stem}-{number}"
        if axis["list"]:
            options = (f"<option{' selected' * (k == start)}>{value}</option>" for k, value in enumerate(values))
            control = f'<select id="{name}">{"".join(options)}</select>'
        else:
            given = f'max="{len(values) - 1}" value="{start}" data-values="{"|".join(values)}"'
            control = f'<input type="range" id="{name}" {given}><output for="{name}">{values[start]}</output>'
            control += '<button type="button">Play</button>'
        label = f'<label for="{name}">{html.escape(axis["label"])}</label>'
        controls.append(f'<div class="control">{label}{control}</div>')
    count = math.prod(len(axis["values"]) for axis in found["axes"])
    width, height = found["size"]
    image = f'<img src="_static/{found["frames"]}" alt="{html.escape(alt, quote=True)}">'
    style = f"aspect-ratio: {width} / {height}; --count: {count}; --place: {place}"
    return f'<div class="explorer"><div class="frames" style="{style}">{image}</div>{"".join(controls)}</div>'


def modules() -> list[str]:
    """The public modules of fmlib that have a docstring."""
    found = sorted(path for path in (common.ROOT / "fmlib").glob("*.py") if not path.name.startswith("_"))
    return [path.stem for path in found if ast.get_docstring(ast.parse(path.read_text()))]


if __name__ == "__main__":
    sys.exit(main())
