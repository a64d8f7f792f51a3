"""What holds for every exercise that asks for code. What is particular to a notebook's stands in its own file."""

import pytest
import torch
from helpers import answer_of

from fmlib import exercises
from fmlib.exercises import _limits
from fmlib.exercises._questions import Code

CODING = [q for q in exercises.every() if isinstance(q, Code)]
every_one = pytest.mark.parametrize("q", CODING, ids=lambda q: q.key)
NOTEBOOKS = sorted({q.number.split(".")[0] for q in exercises.every()})


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_asks_for_code_and_for_a_bug(notebook):
    here = [q for q in CODING if q.number.split(".")[0] == notebook]
    assert len(here) >= 3 and [q.task for q in here].count("find the bug") == 1


@every_one
def test_seven_wrong_answers_and_three_right_ones(q):
    assert len({wrong.message for wrong in q.wrongs} | {part for _, part in q.other_wrongs}) >= 7
    assert len(set(q.rights)) >= 3


@every_one
def test_a_loop_without_end_is_stopped(q, capsys, monkeypatch):
    monkeypatch.setattr(_limits, "SECONDS", 0.3)
    answer = answer_of(f"def answer({', '.join(q.arguments)}):\n    while True:\n        pass")
    assert "never ends" in q.check(answer).message


@every_one
def test_only_a_right_answer_is_kept_for_drawing_and_the_last_one(q, capsys, monkeypatch):
    monkeypatch.setattr(q, "yours", None)
    wrong = answer_of([*(wrong.source for wrong in q.wrongs), *(source for source, _ in q.other_wrongs)][0])
    q.check(wrong)
    assert q.yours is None
    for source in q.rights:
        right = answer_of(source)
        assert q.check(right).kind == "correct" and q.yours is right
        q.check(wrong)
        assert q.yours is right


@every_one
def test_no_random_number_of_the_notebook_is_used_up(q, capsys):
    before = torch.get_rng_state()
    q.check(answer_of(q.reference))
    assert torch.equal(before, torch.get_rng_state())
