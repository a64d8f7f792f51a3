"""Build the workshop into build/workshop: `python -m publish.workshop`.

attendee/    notebooks without outputs, every exercise open; explorers keep their first picture
instructor/  notebooks with outputs, solutions, and the wrong answers to expect
slides/      one reveal.js deck a notebook, made from its tagged cells; opens from the disk, without a network
handout.html the notation and the terms on one sheet, to print
WORKSHOP.md  the plan
"""

import copy
import html
import itertools
import re
import shutil
from pathlib import Path
from string import Template

import nbformat
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from fmlib import exercises
from publish import common

HERE = Path(__file__).parent
OUT = common.BUILD / "workshop"
CODE = HtmlFormatter(style="default", cssclass="code")
SENTENCE = re.compile(r"(?<=[.?:])(?<! al\.) ")  # the end of one; "Gat et al. 2024" is none
CAPTION = 360  # letters of a caption that fit below a picture


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    for folder in ("attendee", "instructor", "slides/assets"):
        (OUT / folder).mkdir(parents=True)
    shutil.copyfile(common.mathjax(), OUT / "slides/assets/mathjax.js")
    for name in ("reveal.js", "reveal.css", "reset.css", "theme"):
        source, target = common.reveal() / name, OUT / "slides/assets" / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
    shutil.copyfile(common.reveal().parent / "plugin/notes/notes.js", OUT / "slides/assets/notes.js")
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
    """A copy without outputs but the explorers' first pictures. Its exercises are open, since the course's are."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [o for o in cell.outputs if common.is_explorer(o)], None
    return notebook


def instructor(notebook):
    """A copy with the reference solution in every exercise's cell; below it the reason, and wrong answers to expect."""
    notebook = exercises.solved(notebook)
    every = {f"exercise-{e.number.replace('.', '-')}-check": e for e in exercises.every()}
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.id in every:
            cell.outputs, cell.execution_count = [], None  # they belonged to the open exercise
            text = f"**Solution.** {every[cell.id].why}\n\n{wrong_answers(every[cell.id])}"
            reason = nbformat.v4.new_markdown_cell(text.rstrip())
            reason.id = cell.id.replace("check", "why")
            cells.append(reason)
    notebook.cells = cells
    return notebook


def wrong_answers(exercise) -> str:
    """The wrong answers that tempt, each with what `check` says of it, in Markdown."""
    if not exercise.wrongs:
        return ""
    items = [f"```python\n{wrong.source.strip()}\n```\n{wrong.message}" for wrong in exercise.wrongs]
    return "**Wrong answers to expect**\n\n" + "\n\n".join(items)


# --- slides ---------------------------------------------------------------------------------------------------------

SHOWN = ("figure", "formula", "claim", "code", "exercise")  # tags of the cells that have a slide


def slides(notebook) -> str:
    """A deck: one slide for each cell with a tag in `SHOWN`, unless it is tagged `skip` too, after a title.

    Its notes are what the plan in WORKSHOP.md says of the cell's section, with the minutes.
    """
    described, plan = common.captions(notebook), minutes((HERE / "WORKSHOP.md").read_text())
    every = {f"exercise-{e.number.replace('.', '-')}-check": e for e in exercises.every()}
    title, promise = (notebook.cells[0].source.split("\n\n") + [""])[:2]
    opening = f"{title.removeprefix('# ').split('.')[0]}. title"
    found = [_slide(MARKDOWN.render(f"{title}\n\n{promise}"), plan.get(opening, ""), "title")]
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            heading = cell.source.splitlines()[0]
        tags = cell.metadata.get("tags", [])
        kind = next((tag for tag in SHOWN if tag in tags), None)
        if kind is None or "skip" in tags:
            continue
        body = _exercise(every[cell.id]) if kind == "exercise" else BODIES[kind](cell, described.get(cell.id, ""))
        number = heading.removeprefix("## ").split(" ")[0] or opening
        notes = plan.get(f"exercise {every[cell.id].number}" if kind == "exercise" else number, plan.get(number, ""))
        found.append(_slide(MARKDOWN.render(heading) + body, notes, kind))
    return _fill("slides.html", title=html.escape(common.title(notebook)), body="\n".join(found))


def minutes(plan: str) -> dict[str, str]:
    """What every plan says of a section where it first names it: "1.2" -> "**40 minutes**, 6-11: The path. ...".

    An exercise is found under "exercise 1.1", a notebook's opening under "1. title". The last column says what to leave
    out.
    """
    found, heading = {}, ""
    for line in plan.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ").split(":")[0]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 4 or not re.fullmatch(r"\d+-\d+", cells[0]):
            continue
        time, what, where, late = cells
        text = f"**{heading}**, {time}: {what}" + ("" if late == "-" else f" When late: {late}.")
        named = re.findall(r"[Ee]xercises? (\d+\.\d+)(?: and (\d+\.\d+))?", what)
        for key in [*(f"exercise {number}" for pair in named for number in pair if number), *_places(where)]:
            found.setdefault(key, {}).setdefault(heading, text)
    return {key: "\n\n".join(texts.values()) for key, texts in found.items()}


def _places(where: str) -> list[str]:
    """ "1. title" and sections: "2.1, 5.8 to 5.10" -> ["2.1", "5.8", "5.9", "5.10"]."""
    found = re.findall(r"\d+\. title", where)
    for notebook, first, last in re.findall(r"(\d+)\.(\d+)(?: to \d+\.(\d+))?", where):
        found += [f"{notebook}.{k}" for k in range(int(first), int(last or first) + 1)]
    return found


def _slide(body: str, notes: str, kind: str) -> str:
    aside = f"<aside class='notes'>{MARKDOWN.render(notes)}</aside>" if notes else ""
    return f"<section class='{kind}'>{body}{aside}</section>"


def _figure(cell, caption: str) -> str:
    """The cell's last picture, as large as it fits, over the first sentences of its caption; all of it is the alt."""
    caption = caption[:1].upper() + caption[1:]
    first, *rest = SENTENCE.split(caption)
    for sentence in rest:
        if len(first) + len(sentence) < CAPTION:
            first += f" {sentence}"
        else:
            break
    *_, picture = common.pictures(cell)
    image = f'<img alt="{html.escape(caption, quote=True)}" src="data:image/png;base64,{picture.strip()}">'
    return f"<figure>{image}<figcaption>{MARKDOWN.renderInline(first)}</figcaption></figure>"


def _formula(cell, _caption: str) -> str:
    """The cell's first two displayed formulas, each after the sentence before it; without any, its first paragraph."""
    blocks = [block for block in re.split(r"\n\s*\n", cell.source) if not block.startswith("#")]
    found = []
    for lead, block in itertools.pairwise(["", *blocks]):
        if block.strip().startswith("$$"):
            found += [SENTENCE.split(lead)[-1], block]
    return MARKDOWN.render("\n\n".join(found[:4] or blocks[:1]))


def _claim(cell, _caption: str) -> str:
    """The first claim that the cell made, in large letters."""
    statement, _, numbers = common.claims(cell)[0].partition(" | ")
    measured, _, expected = numbers.partition(", ")
    rows = "".join(f"<p class='number'>{html.escape(side)}</p>" for side in (measured, expected))
    return f"<p class='statement'>{html.escape(statement)}</p>{rows}"


def _code(cell, _caption: str) -> str:
    return highlight(cell.source, PythonLexer(), CODE)


BODIES = {"figure": _figure, "formula": _formula, "claim": _claim, "code": _code}


def _exercise(exercise) -> str:
    """The question and its options, and the code of a bug to find; the solution and why come with the next step."""
    answer = highlight(exercise.reference, PythonLexer(), CODE) + MARKDOWN.render(exercise.why)
    body = f"<div class='fragment' data-fragment-index='0'>{answer}</div>"
    if exercise.task == "find the bug":  # the right code takes the place of the wrong one
        given = highlight(exercise.given, PythonLexer(), CODE)
        body = f"<div class='r-stack'><div class='fragment fade-out' data-fragment-index='0'>{given}</div>{body}</div>"
    return MARKDOWN.render(exercise.markdown) + body


def _mathematics(content: str, options: dict) -> str:
    opening, closing = (r"\[", r"\]") if options["display_mode"] else (r"\(", r"\)")
    return html.escape(f"{opening}{content}{closing}")


MARKDOWN = MarkdownIt("commonmark").enable("table")
MARKDOWN.use(dollarmath_plugin, renderer=_mathematics)


def handout() -> str:
    """The notation and the terms on one sheet."""
    source = (HERE / "handout.md").read_text()
    return _fill("handout.html", body=MARKDOWN.render(source), mathjax="slides/assets/mathjax.js")


def _fill(template: str, **values: str) -> str:
    return Template((HERE / template).read_text()).substitute(values)


if __name__ == "__main__":
    main()
