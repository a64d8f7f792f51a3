"""Build the workshop into build/workshop: `python -m publish.workshop`.

attendee/    notebooks without outputs, every exercise open
instructor/  notebooks with outputs and solutions
slides/      one reveal.js deck a notebook, made from its cells; opens from the disk, without a network
handout.html the notation on one page, to print
WORKSHOP.md  the plan
"""

import copy
import html
import shutil
from dataclasses import dataclass
from pathlib import Path
from string import Template

import nbformat
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from fmlib import exercises
from publish import common

HERE = Path(__file__).parent
OUT = common.BUILD / "workshop"
LINES = 14.7  # of text that fit on a slide
CODE = HtmlFormatter(style="default", cssclass="code")


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    for folder in ("attendee", "instructor", "slides/assets"):
        (OUT / folder).mkdir(parents=True)
    shutil.copyfile(common.mathjax(), OUT / "slides/assets/mathjax.js")
    for name in ("reveal.js", "reveal.css", "reset.css", "theme"):
        source, target = common.reveal() / name, OUT / "slides/assets" / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
    style = (HERE / "slides.css").read_text() + CODE.get_style_defs()
    (OUT / "slides/assets/slides.css").write_text(style)
    for path in common.notebooks():
        notebook = common.read(path)
        nbformat.write(attendee(notebook), OUT / "attendee" / path.name)
        nbformat.write(instructor(notebook), OUT / "instructor" / path.name)
        (OUT / "slides" / f"{path.stem}.html").write_text(slides(notebook))
    (OUT / "handout.html").write_text(handout())
    shutil.copyfile(HERE / "WORKSHOP.md", OUT / "WORKSHOP.md")
    print(f"The workshop is in {OUT.relative_to(common.ROOT)}: start with WORKSHOP.md")


def attendee(notebook):
    """A copy without outputs. Its exercises are open, since the notebooks of the course are."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def instructor(notebook):
    """A copy with the reference solution in every exercise's cell, and the reason below it."""
    notebook = exercises.solved(notebook)
    why = {f"exercise-{e.number.replace('.', '-')}-check": e.why for e in exercises.every()}
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.id in why:
            cell.outputs, cell.execution_count = [], None  # they belonged to the open exercise
            reason = nbformat.v4.new_markdown_cell(f"**Solution.** {why[cell.id]}")
            reason.id = cell.id.replace("check", "why")
            cells.append(reason)
    notebook.cells = cells
    return notebook


# --- slides ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """What stays together on a slide, and about how many lines of text it is high."""

    html: str
    height: float
    opens: bool = False  # a section of the deck
    leads_in: bool = False  # the beginning of a sentence that the next part ends


def slides(notebook) -> str:
    """A deck: a column of slides for each section, and on them the cells in their order."""
    described, columns = common.captions(notebook), []
    for cell in notebook.cells:
        for part in text_parts(cell.source) if cell.cell_type == "markdown" else code_parts(cell, described):
            if part.opens or not columns:
                columns.append([[]])
            slide = columns[-1][-1]
            if slide and _sum(slide) + part.height > LINES:
                kept = []
                while len(slide) > 1 and slide[-1].leads_in and _sum([slide[-1], *kept, part]) <= LINES:
                    kept.insert(0, slide.pop())
                columns[-1].append(kept)
            columns[-1][-1].append(part)
    sections = []
    for column in columns:
        inner = "\n".join("<section>" + "".join(part.html for part in slide) + "</section>" for slide in column)
        sections.append(f"<section>\n{inner}\n</section>")
    return _fill("slides.html", title=html.escape(common.title(notebook)), body="\n".join(sections))


def _sum(parts: list[Part]) -> float:
    return sum(part.height for part in parts)


def text_parts(source: str) -> list[Part]:
    """The blocks of Markdown: paragraphs, lists, formulas, tables. Captions are left to their pictures."""
    found = []
    for block in _blocks(source):
        first, text = block[0], block[1].content.rstrip() if len(block) > 1 else ""
        paragraph = first.type == "paragraph_open"
        if not (paragraph and common.caption(text)):
            leads_in = first.type == "heading_open" or paragraph and not text.endswith((".", "?", "*", ")"))
            shown = MARKDOWN.renderer.render(block, MARKDOWN.options, {})
            found.append(Part(shown, _height(block), first.tag in ("h1", "h2"), leads_in))
    return found


def code_parts(cell, described: dict[str, str]) -> list[Part]:
    """The code, then what it printed, then each of its pictures with its caption, on slides of their own."""
    code = highlight(cell.source, PythonLexer(), CODE)
    found = [Part(code, 1 + 0.68 * (1 + cell.source.count("\n")))]
    printed = "".join(output.text for output in cell.outputs if output.output_type == "stream").strip()
    if printed:
        lines = _shortened(printed)
        height = 0.5 + 0.66 * sum(1 + len(line) // 96 for line in lines)
        found.append(Part(f"<pre class='printed'>{html.escape(chr(10).join(lines))}</pre>", height))
    caption = described.get(cell.id, "")
    caption = caption[:1].upper() + caption[1:]
    for picture in common.pictures(cell):
        alt, text = html.escape(caption, quote=True), MARKDOWN.renderInline(caption)
        image = f'<img alt="{alt}" src="data:image/png;base64,{picture.strip()}">'
        found.append(Part(f"<figure>{image}<figcaption>{text}</figcaption></figure>", LINES))
    return found


def _shortened(printed: str, most: int = 12) -> list[str]:
    lines = printed.splitlines()
    return lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most} lines more"]


def _mathematics(content: str, options: dict) -> str:
    opening, closing = (r"\[", r"\]") if options["display_mode"] else (r"\(", r"\)")
    return html.escape(f"{opening}{content}{closing}")


MARKDOWN = MarkdownIt("commonmark").enable("table")
MARKDOWN.use(dollarmath_plugin, renderer=_mathematics)


def _blocks(source: str) -> list[list[Token]]:
    """The top-level blocks of Markdown, each as its tokens."""
    found, depth = [[]], 0
    for token in MARKDOWN.parse(source):
        found[-1].append(token)
        depth += token.nesting
        if depth == 0:
            found.append([])
    return [block for block in found if block]


def _height(block: list[Token]) -> float:
    """About how many lines of a slide a block takes."""
    height = 0.7
    for token in block:
        height += {"heading_open": 1.0, "tr_open": 0.5, "math_block": 2.6}.get(token.type, 0)
        if token.type == "inline":
            share = 3 if any(t.type == "td_open" for t in block) else 1  # cells stand side by side
            height += max(1, len(token.content) / 88 + 1.6 * token.content.count("$$") / 2) / share
    return height


def handout() -> str:
    """The notation on one page."""
    source = (HERE / "handout.md").read_text()
    return _fill("handout.html", body=MARKDOWN.render(source), mathjax="slides/assets/mathjax.js")


def _fill(template: str, **values: str) -> str:
    return Template((HERE / template).read_text()).substitute(values)


if __name__ == "__main__":
    main()
