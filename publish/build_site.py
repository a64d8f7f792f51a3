"""Build the site into build/site: `python -m publish.build_site`.

The notebooks are not run: the pages show their stored outputs. Nothing is asked of another host, now or by a reader.
"""

import ast
import shutil
import sys
from pathlib import Path
from string import Template

import nbformat
from sphinx.cmd.build import main as sphinx

from publish import common

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
    for name in ("course.css", "favicon.svg"):
        shutil.copyfile(HERE / name, SOURCE / "_static" / name)
    shutil.copyfile(HERE / "conf.py", SOURCE / "conf.py")
    for path in common.notebooks():
        nbformat.write(described(common.read(path)), SOURCE / path.name)
    pages = "\n".join(path.stem for path in common.notebooks())
    (SOURCE / "index.md").write_text(Template((HERE / "index.md").read_text()).substitute(notebooks=pages))
    (SOURCE / "api").mkdir()
    names = modules()
    for name in names:
        page = f"fmlib.{name}\n{'=' * (6 + len(name))}\n\n.. automodule:: fmlib.{name}\n"
        (SOURCE / "api" / f"{name}.rst").write_text(page)
    listing = "\n".join(f"   api/{name}" for name in names)
    (SOURCE / "api.rst").write_text(f"The library\n===========\n\n.. toctree::\n   :maxdepth: 1\n\n{listing}\n")


def described(notebook):
    """The notebook with each picture's caption as the alt text of its image."""
    texts = common.captions(notebook)
    for cell in notebook.cells:
        if cell.id in texts:
            cell.metadata["mystnb"] = {"image": {"alt": texts[cell.id]}}
    return notebook


def modules() -> list[str]:
    """The public modules of fmlib that have a docstring."""
    found = sorted(path for path in (common.ROOT / "fmlib").glob("*.py") if not path.name.startswith("_"))
    return [path.stem for path in found if ast.get_docstring(ast.parse(path.read_text()))]


if __name__ == "__main__":
    sys.exit(main())
