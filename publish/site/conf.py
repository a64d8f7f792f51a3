"""Sphinx's settings. `python -m publish.build_site` prepares the sources and calls it."""

import re

project = "Flow matching, by experiment"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = project
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_js_files = ["explorer.js"]
html_show_sourcelink = html_copy_source = html_show_copyright = html_show_sphinx = False

nb_execution_mode = "off"  # the outputs are those stored in the notebooks
nb_ipywidgets_js = {}  # an explorer's stored picture stands for it, and no script is asked for
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
mathjax_path = "mathjax.js"  # all in one file, put there by the builder

default_role = "code"  # the docstrings write `x` for code
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # what PyTorch says of nn.Module is not about this library
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 88


def kind(line: str, before: str) -> str:
    """What a line of a docstring is, given the kind of the line before it."""
    if not line.strip():
        return "blank"
    if line.startswith(">>>") or before == "example":
        return "example"
    if line.startswith("- ") or before == "list" and line.startswith(" "):
        return "list"
    return "verbatim" if line.startswith(("|", " ")) else "text"


def escaped(line: str) -> str:
    """The docstrings are plain text with `code` in backticks: nothing else in them is markup."""
    parts = re.split(r"`([^`]+)`", line.replace("\\", "\\\\"))
    return "".join(f"``{part}``" if i % 2 else re.sub(r"([*|_])", r"\\\1", part) for i, part in enumerate(parts))


def as_markup(app, what, name, obj, options, lines: list[str]) -> None:
    """Turn a plain docstring into reStructuredText, in place: tables and indented formulas stay as they are written."""
    found, before = [], "blank"
    for line in lines:
        now = kind(line, before)
        if now != before:
            found += ["", "::", ""] if now == "verbatim" else [""]
        found.append({"verbatim": f"    {line}", "text": escaped(line), "list": escaped(line)}.get(now, line))
        before = now
    lines[:] = found


def setup(app) -> None:
    app.connect("autodoc-process-docstring", as_markup)
