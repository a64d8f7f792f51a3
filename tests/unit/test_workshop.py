"""The plan's minutes find their slides, and a room knows whether every notebook is there."""

import html
import json
import re

import pytest

from fmlib import exercises
from publish import room, workshop

PLAN = """## 40 minutes: what it is
| minute | what happens | where | when late |
| 0-3 | Open it. | 1. title | - |
| 3-9 | The path. | 1.2 | one sentence |
| 9-12 | Exercise 1.2. | 1.2 | skip |
## Half a day: the loss
| 10-18 | Two laws, one path. | 1.1, 1.2 | - |
| 18-26 | Exercises 1.1 and 1.2. | 1.2 | 1.1 only |
| 60-68 | Digits. | 1.9 to 1.11 | - |
## One hour more: pairs
| 0-5 | The opening. | 7. title | - |
"""


def test_notes_come_from_every_plan_and_name_it():
    found = workshop.minutes(PLAN)
    path = "**40 minutes**, 3-9: The path. When late: one sentence.\n\n**Half a day**, 10-18: Two laws, one path."
    assert found["1.2"] == path
    assert found["exercise 1.2"].count("\n\n") == 1 and "9-12" in found["exercise 1.2"]
    assert found["exercise 1.1"] == "**Half a day**, 18-26: Exercises 1.1 and 1.2. When late: 1.1 only."
    assert found["1.9"] == found["1.10"] == found["1.11"] == "**Half a day**, 60-68: Digits."
    assert found["1. title"] == "**40 minutes**, 0-3: Open it." and found["7. title"].startswith("**One hour more**")
    assert set(found) == {"1. title", "1.1", "1.2", "1.9", "1.10", "1.11", "7. title", "exercise 1.1", "exercise 1.2"}


def test_minutes_of_every_plan_follow_each_other():
    """A row begins when the one before it ends, and none is named by a section that no notebook has."""
    plans, sections = (workshop.HERE / "WORKSHOP.md").read_text().split("\n## ")[1:], set()
    for path in (workshop.HERE.parent / "notebooks").glob("[0-9]*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            lines = "".join(cell["source"]).splitlines() if cell["cell_type"] == "markdown" else []
            sections |= {line.split()[1] for line in lines if line.startswith("## ")}
    for plan in plans:
        times = [line.split("|")[1].strip().split("-") for line in plan.splitlines() if line[2:3].isdigit()]
        times = [pair for pair in times if len(pair) == 2]
        assert [a for _, a in times[:-1]] == [b for b, _ in times[1:]], plan.splitlines()[0]
    named = {key for key in workshop.minutes("## " + "\n## ".join(plans)) if key[0].isdigit() and "title" not in key}
    assert named <= sections, named - sections


def test_the_slide_of_a_bug_shows_the_wrong_code_before_the_right_one():
    bugs = [exercise for exercise in exercises.every() if exercise.task == "find the bug"]
    assert len(bugs) > 5
    for exercise in bugs:
        shown = workshop._exercise(exercise).split("<div class='fragment' ")
        given, solution = (html.unescape(re.sub(r"<.*?>", "", part)) for part in shown)
        assert exercise.given.strip() in given and exercise.given.strip() not in solution, exercise.number
        assert exercise.reference.strip() in solution and exercise.reference.strip() not in given, exercise.number


def test_a_room_knows_every_notebook(tmp_path):
    notebooks = sorted((workshop.HERE.parent / "notebooks").glob("[0-9]*.ipynb"))
    assert room.check_notebooks() == f"{len(notebooks)} notebooks" and room.check_notebooks in room.CHECKS
    for path in notebooks[:-1]:
        (tmp_path / path.name).write_text('{"cells": []}')
    last = tmp_path / notebooks[-1].name
    with pytest.raises(room.NotReady, match=f"of {len(notebooks)} notebooks {last.name[:2]} is missing"):
        room.check_notebooks(tmp_path)
    last.write_text('{"cells": [')
    with pytest.raises(room.NotReady, match=f"{last.name} is damaged"):
        room.check_notebooks(tmp_path)
    last.write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["from nowhere_at_all import x"]}]}))
    with pytest.raises(room.NotReady, match=f"notebook {last.name[:2]} needs nowhere_at_all"):
        room.check_notebooks(tmp_path)
