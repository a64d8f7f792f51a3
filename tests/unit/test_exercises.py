"""The exercises: each checker against right and wrong answers, the engine against whatever a learner may hand in."""

import ast
import base64
import contextlib
import copy
import gc
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

import fmlib
from fmlib import _rich, exercises
from fmlib.exercises import ____, _limits, _progress, _wording
from fmlib.exercises._blank import Blank, holds_blank
from fmlib.exercises._questions import Choice, Function, Number, Wrong
from fmlib.exercises._training import SmallNetwork, TrainingStep

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
EVERY = exercises.every()
by_key = pytest.mark.parametrize("q", EVERY, ids=lambda q: q.key)

velocity = exercises.basics.velocity_of_linear_path
choice = exercises.basics.three_bumps
number = exercises.basics.half_turn
potential = exercises.bregman.strictly_convex


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(_limits, "SECONDS", 3.0)


def answer_of(source: str):
    """The `answer` that a cell's source defines, and where its lines can be found, as IPython arranges it."""
    names = {"torch": torch, "____": ____, "exercises": exercises}
    exec(compile(source, "<a cell>", "exec"), names)
    return names["answer"]


@pytest.fixture
def shell(monkeypatch):
    """An IPython shell in this process, ended again; `published(shell)` is what a notebook would get to see."""
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.display_pub = CapturingDisplayPublisher()
    yield shell
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()


def published(shell) -> list[dict]:
    """The bundles displayed since the last call."""
    data = [output["data"] for output in shell.display_pub.outputs]
    shell.display_pub.outputs.clear()
    return data


# ---- text and HTML ---------------------------------------------------------------------------------------------------


def test_text_is_printed_where_no_notebook_runs(capsys):
    _rich.show("two", "<b>two</b>")
    assert capsys.readouterr().out == "two\n"


def test_a_notebook_is_given_both_forms(shell, capsys):
    _rich.show("two", "<b>two</b>")
    assert published(shell) == [{"text/plain": "two", "text/html": "<b>two</b>"}] and not capsys.readouterr().out


def first(q) -> str:
    """How the invitation of an open exercise begins."""
    if isinstance(q, Choice):
        return "Run this cell and click the letter of your answer"
    return "Replace ____ by your answer and run" if "____" in q.given else "This is still the code as given"


# ---- each exercise ---------------------------------------------------------------------------------------------------


@by_key
def test_the_reference_solution_passes(q, capsys):
    names = {"torch": torch, "____": ____, "exercises": exercises}
    exec(q.answer_code, names)  # the whole cell, as a solved notebook has it
    assert capsys.readouterr().out.startswith("Correct. ")
    assert names[q.name] is q


@by_key
def test_every_right_answer_passes(q, capsys):
    assert len(set(q.rights)) >= 2
    for source in q.rights:
        outcome = q.check(answer_of(source))
        assert outcome.kind == "correct", (source, outcome.message)


@by_key
def test_every_wrong_answer_gets_its_message(q, capsys):
    assert len({wrong.message for wrong in q.wrongs}) == len(q.wrongs)
    for wrong in q.wrongs:
        outcome = q.check(wrong.answer)
        assert (outcome.kind, outcome.message) == ("wrong", wrong.message), wrong.source
        assert len(wrong.message) > 40


@by_key
def test_every_other_wrong_answer_is_told_what_it_says(q, capsys):
    assert len(set(q.wrongs)) + len(set(q.other_wrongs)) >= 3
    for source, part in q.other_wrongs:
        outcome = q.check(answer_of(source))
        assert outcome.kind in ("wrong", "error"), source
        assert len(part) >= 8 and part in outcome.message, (source, outcome.message)


@pytest.mark.parametrize(
    "key, source, part",
    [
        ("basics.velocity_of_linear_path", "lambda x_0, x_1, t: torch.lerp(x_0, x_1, t[:, None])", "the position X_t"),
        ("basics.velocity_of_linear_path", "lambda a, b, t: (b - a) * t[:, None]", "the way covered so far"),
        ("basics.velocity_of_linear_path", "lambda a, b, t: (1 - t)[:, None] * (b - a)", "the way that is left"),
        ("basics.velocity_of_linear_path", "lambda a, b, t: b.add(a)", "A sign is lost"),
        ("kinetic.gap_as_loss", "torch.nn.functional.mse_loss", "d times too small"),
        ("kinetic.gap_as_loss", "lambda v, u: (v**2 - u**2).sum(1).mean()", "not the difference of the squares"),
        ("kinetic.gap_as_loss", "lambda v, u: (v * v).sum(-1).mean()", "This is the bound"),
        ("kinetic.gap_as_loss", "lambda v, u: (u * u).sum(-1).mean()", "This is the kinetic energy"),
        ("gaussian.one_step_to_data", "lambda x, u, t: x + (t - 1) * u", "the direction is not"),
    ],
)
def test_a_wrong_answer_is_known_however_it_is_written(key, source, part, capsys):
    module, name = key.split(".")
    assert part in getattr(getattr(exercises, module), name).check(eval(source)).message


@by_key
def test_the_start_is_not_attempted(q, capsys):
    names = {"torch": torch, "____": ____, "exercises": exercises}
    exec(q.start, names)
    assert f"Exercise {q.number} is open. {first(q)}" in capsys.readouterr().out.replace("\n", " ")
    assert q.check().kind == q.check(____).kind == q.check(None).kind == "not attempted"


@by_key
def test_texts_are_in_form(q):
    assert getattr(getattr(exercises, q.key.split(".")[0]), q.key.split(".")[1]) is q
    assert q.task in ("predict", "complete", "write", "find the bug", "break it") and len(q.hints) >= 2
    assert 2 <= len(re.findall(r"[.?)](?:\s|$)", q.why)) <= 7
    for text in (q.start, q.answer_code):
        lines = text.split("\n")
        assert len(lines) <= 20 and max(map(len, lines)) <= 88
        assert lines[0] == f"{q.name} = exercises.{q.key}" and "____" not in q.reference
    if isinstance(q, Choice):
        assert [q.start.split("\n")[1:], q.answer_code.split("\n")[1:]] == [
            [f"{q.name}.ask()"],
            [f'{q.name}.check("{q.right}")'],
        ]
    else:
        assert lines[-1] == f"{q.name}.check(answer)" and q.start.endswith("\n" + lines[-1])
        assert ("____" in q.given) == (q.task != "find the bug") and q.given != q.reference
    prose = " ".join(text for text in [q.question, q.after, q.why, *q.hints] if text)
    assert "!" not in prose and "  " not in prose and prose.isascii()


@by_key
def test_options_are_lettered_and_every_wrong_one_says_why(q):
    if not isinstance(q, Choice):
        return
    assert list(q.options) == list("abcd")
    reasons = [reason for _, reason in q.options.values() if reason]
    assert len(set(reasons)) == 3 and all(len(reason) > 60 for reason in reasons)
    assert all(f"- **{letter}**: {text}" in q.markdown for letter, (text, _) in q.options.items())


@by_key
def test_hopeless_answers_get_a_sentence(q, capsys):
    class Strange:
        def __eq__(self, other):
            raise RuntimeError("do not compare me")

        def __bool__(self):
            raise RuntimeError("nor ask me")

        __hash__ = None

    hopeless = [None, "", "x", 3, 1j, True, [], {}, object(), Strange(), Strange, torch.zeros(0), torch.ones(2, 2)]
    hopeless += [float("nan"), float("inf"), np.zeros(3), torch.tensor([1j]), print, int]
    hopeless += [lambda: 1, lambda *a: None]
    for answer in hopeless:
        outcome = q.check(answer)
        out = capsys.readouterr().out.strip()
        assert (
            outcome.kind in ("wrong", "error", "not attempted")
            and len(out) > 30
            and re.search(r"[.?]$|in line \d+:\n", out)
        ), out
        assert "0x" not in out and "Traceback" not in out


def test_the_course_has_three_to_nine_exercises_a_notebook_numbered_in_order():
    assert len({q.number for q in EVERY}) == len({q.key for q in EVERY}) == len(EVERY)
    notebooks = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))
    for path, module in zip(notebooks, exercises.TITLES, strict=True):
        here = [q.number for q in EVERY if q.key.startswith(module + ".")]
        assert 3 <= len(here) <= 9 and here == [f"{int(path.name[:2])}.{k + 1}" for k in range(len(here))]


# ---- what a wrong function is told -----------------------------------------------------------------------------------


def told(q, source: str) -> str:
    return q.check(answer_of(source)).message


FUNCTION = "def answer(x_0, x_1, t):\n"


@pytest.mark.parametrize(
    "body, part",
    [
        ("    x_0 += x_1\n    return x_1 - x_0", "changes its input x_0 in place"),
        ("    t.mul_(0)\n    return x_1 - x_0", "changes its input t in place"),
        ("    x_1 - x_0", "returns None. Is a `return` missing"),
        ("    return (x_1 - x_0).numpy()", "a NumPy array. It must return a torch tensor"),
        ("    return [x_1 - x_0]", "a list. It must return a torch tensor"),
        ("    return 1.0", "a float. It must return a torch tensor"),
        ("    return (x_1 - x_0)[0]", "returns shape (2,), and shape (6, 2) is expected"),
        ("    return (x_1 - x_0) / 0", "NaN or infinity"),
        ("    return (x_1 - x_0).sqrt()", "NaN or infinity"),
        ("    return (x_1 - x_0).double()", "for float32 input your function returns float64"),
        ("    return (x_1 - x_0).float()", "for float64 input your function returns float32"),
        ("    return (x_1 - x_0).round().int()", "expected is"),
        ("    return (x_1 - x_0) + 1j", "complex numbers"),
        ("    return x_1 - x_2", "NameError: name 'x_2' is not defined"),
        ("    raise SystemExit(3)", "SystemExit: 3"),
        ("    return answer(x_0, x_1, t)", "RecursionError"),
        ("    return (1 - t) * x_0", "Write t[:, None]"),
        ("    return 1.00001 * (x_1 - x_0)", "expected is"),
    ],
)
def test_a_function_that_misbehaves(body, part, capsys):
    assert part in told(velocity, FUNCTION + body)


def test_wrong_arguments_are_named(capsys):
    assert "must take 3 arguments, (x_0, x_1, t); it takes (x_0)" in told(velocity, "answer = lambda x_0: x_0")
    assert "Give the function itself" in velocity.check(torch.ones(3)).message


def test_an_error_is_shown_with_its_line_and_source(capsys):
    def answer(x_0, x_1, t):
        here = x_1 - x_0
        return here / int(0 * 1) if False else here.reshape(7, -1)

    line = answer.__code__.co_firstlineno + 2
    message = velocity.check(answer).message
    assert f"in line {line}:\n    return here / int(0 * 1) if False" in message and "RuntimeError" in message
    out = capsys.readouterr().out
    assert "Traceback" not in out and "0x" not in out and str(ROOT) not in out


def test_an_error_deep_inside_torch_is_blamed_on_the_learners_line(capsys):
    def answer(x_0, x_1, t):
        return torch.nn.functional.cross_entropy(
            x_0,
            x_1,
            t[:, None, None],
        )

    assert f"in line {answer.__code__.co_firstlineno + 1}" in velocity.check(answer).message


def test_shapes_that_do_not_go_together_are_explained_where_there_is_no_time(capsys):
    q = exercises.discrete.by_events
    assert q.reference.count("u[:, j : j + 1]") == 1
    assert "shape (n,), goes with (n, d) as a[:, None]" in told(q, q.reference.replace("u[:, j : j + 1]", "u[:, j]"))


def test_addresses_never_appear(capsys):
    velocity.check(answer_of(FUNCTION + "    raise ValueError(object())"))
    assert "0x" not in capsys.readouterr().out


# ---- whole numbers ---------------------------------------------------------------------------------------------------


def token_cases(draw: torch.Generator) -> list[tuple]:
    """Target tokens (batch, length), a mask token, and times (batch,); the last case is a single long row."""
    shapes = [(6, 5), (3, 1), (1, 40)]
    return [(torch.randint(9, s, generator=draw), 2**53 + 2, torch.rand(s[0], dtype=torch.float64)) for s in shapes]


MASKED = "def answer(x_1, mask, t):\n    return torch.where(x_1 > 8 * t[:, None], mask, {})"
tokens = Function(
    key="tokens.masked",
    number="9.1",
    task="complete",
    question="",
    reference=MASKED.format("x_1"),
    why="",
    hints=(),
    arguments=("x_1", "mask", "t"),
    truth=lambda x_1, mask, t: x_1.masked_fill(x_1 > 8 * t[:, None], mask),
    wrongs=(Wrong(MASKED.format("0"), "Zero is a token too."),),
    cases=token_cases,
)


def test_whole_numbers_stay_whole_and_are_handed_over_as_they_are(capsys, monkeypatch):
    monkeypatch.setattr(_progress, "record", lambda *_: "")
    seen = set()

    def answer(x_1, mask, t):
        seen.add((x_1.dtype, type(mask), t.dtype))
        return torch.tensor([[mask if k > 8 * s else k for k in row] for row, s in zip(x_1.tolist(), t, strict=True)])

    assert tokens.check(answer).kind == "correct"
    assert seen == {(torch.int64, int, torch.float64), (torch.int64, int, torch.float32)}


@pytest.mark.parametrize(
    "body, part",
    [
        ("torch.where(x_1 > 8 * t[:, None], mask, 0)", "Zero is a token too."),
        ("x_1.masked_fill(x_1 > 8 * t[:, None], mask).int()", "expected is"),  # 2^53 + 2 does not fit
        ("x_1.masked_fill(x_1 > 8 * t[:, None], mask).double()", "returns float64, and int64 is expected"),
        ("x_1.masked_fill(x_1 > 8 * t[:, None], mask - 1)", f"{2**53 + 1}"),  # the same in double precision
        ("x_1.masked_fill(x_1 > 8 * t[:, None], mask) + 1e-9", "expected is"),  # near is not equal
        ("x_1.masked_fill(x_1 > 8 * t[:, None], mask)[0]", "returns shape (5,), and shape (6, 5) is expected"),
        ("x_1.masked_fill_(x_1 > 8 * t[:, None], mask)", "changes its input x_1 in place"),
        ("x_1 / 0", "NaN or infinity"),
    ],
)
def test_whole_numbers_that_are_wrong(body, part, capsys):
    outcome = tokens.check(eval(f"lambda x_1, mask, t: {body}"))
    assert outcome.kind == "wrong" and part in outcome.message


WHOLE = torch.arange(12).reshape(4, 3)


@pytest.mark.parametrize(
    "truth, x, answer, part",
    [
        (lambda x: x.float().softmax(1), WHOLE, lambda x: torch.softmax(x * 1.0, 1), "correct"),
        (lambda x: x.float().softmax(1), WHOLE, lambda x: torch.softmax(x * 1.0, 1) * 1.00001, "correct"),
        (lambda x: x.float().mean(1), WHOLE, lambda x: x.double().mean(1), "returns float64, and float32 is expected"),
        (lambda x: x.double().mean(1), WHOLE, lambda x: x.sum(1) / 3, "returns float32, and float64 is expected"),
        (lambda x: x > 4, WHOLE, lambda x: 4 < x, "correct"),
        (lambda x: x > 4, WHOLE, lambda x: (x > 4).long(), "returns int64, and bool is expected"),
        (lambda x: x > 4, WHOLE, lambda x: x > 3, "you return [False, True, True]; expected is [False, False, True]"),
        (lambda x: x.argmax(1), WHOLE.double(), lambda x: x.max(1)[1], "correct"),
        (lambda x: x.argmax(1), WHOLE.double(), lambda x: x.argmin(1), "you return 0; expected is 2"),
        (lambda x: x.argmax(1), WHOLE.double(), lambda x: x.argmax(1).to(x), "returns float64, and int64 is expected"),
        (lambda x: ~x, WHOLE > 4, lambda x: x.logical_not(), "correct"),
        (lambda x: ~x, WHOLE > 4, lambda x: 1 - x.float(), "returns float32, and bool is expected"),
        (lambda x: x + 1, WHOLE.int(), lambda x: 1 + x, "correct"),
        (lambda x: x + 1, WHOLE.int(), lambda x: x.long() + 1, "returns int64, and int32 is expected"),
    ],
)
def test_results_of_other_dtypes_than_the_arguments(truth, x, answer, part, capsys, monkeypatch):
    monkeypatch.setattr(_progress, "record", lambda *_: "")
    texts = {"key": "", "number": "", "task": "", "question": "", "reference": "", "why": "", "hints": ()}
    q = Function(**texts, arguments=("x",), truth=truth, cases=lambda draw: [(x,)])
    outcome = q.check(answer)
    assert outcome.kind == "correct" if part == "correct" else part in outcome.message


# ---- time ------------------------------------------------------------------------------------------------------------

FOREVER = """def answer(x_0, x_1, t):
    while True:
        try:
            pass
        except Exception:
            pass"""


def test_an_endless_loop_is_stopped(monkeypatch, capsys):
    monkeypatch.setattr(_limits, "SECONDS", 0.2)
    outcome = velocity.check(answer_of(FOREVER))
    assert outcome.kind == "error" and "still running after 0.2 seconds" in outcome.message
    assert "in line" in outcome.message and "a loop that never ends" in outcome.message


def test_an_endless_loop_is_stopped_off_the_main_thread(monkeypatch, capsys):
    monkeypatch.setattr(_limits, "SECONDS", 0.2)
    outcomes = []
    before = set(threading.enumerate())  # other tests may have left some, such as a progress bar's
    worker = threading.Thread(target=lambda: outcomes.append(velocity.check(answer_of(FOREVER))))
    worker.start()
    worker.join(30)
    assert not worker.is_alive() and "still running after 0.2 seconds" in outcomes[0].message
    deadline = time.monotonic() + 30  # the loop itself ends too, and does not eat a core for ever
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


SWALLOWS = """def answer(x_0, x_1, t):
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        try:
            sum(range(100))
        except BaseException:
            pass
    return x_1 - x_0"""
NESTED = """def answer(x_0, x_1, t):
    while True:
        try:
            again()
        except BaseException:
            pass

def again():
    while True:
        try:
            sum(range(100))
        except BaseException:
            continue"""


@pytest.mark.parametrize("seconds", [0.0001, 0.2])  # the shorter one ends before the answer begins, or soon after
@pytest.mark.parametrize("source", [SWALLOWS, NESTED, SWALLOWS.replace("return x_1 - x_0", "raise ValueError")])
def test_an_answer_that_swallows_its_end_is_stopped_all_the_same(source, seconds, monkeypatch, capsys):
    monkeypatch.setattr(_limits, "SECONDS", seconds)
    outcome = velocity.check(answer_of("import time\n" + source))
    assert outcome.kind == "error" and "still running after" in outcome.message
    assert seconds < 0.1 or "in line" in outcome.message


ALARMED = """import gc, time
class Noisy:
    def __del__(self):
        DESTRUCTOR

def answer(x_0, x_1, t):
    while True:
        Noisy()
        gc.collect(0)
        sum(range(100_000))"""


@pytest.mark.parametrize("destructor", ["pass", "time.sleep(0.01)", "while True: pass"])
def test_an_alarm_where_python_can_only_report_it_is_not_told_and_rings_again(destructor, monkeypatch, capsys):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    monkeypatch.setattr(_limits, "SECONDS", 0.2)
    slow = lambda *_: time.sleep(0.01)  # noqa: E731
    gc.callbacks.append(slow)
    try:
        outcome = velocity.check(answer_of(ALARMED.replace("DESTRUCTOR", destructor)))
    finally:
        gc.callbacks.remove(slow)
    assert outcome.kind == "error" and "still running after" in outcome.message
    assert "in line" in outcome.message and reported == []


def test_what_comes_after_the_end_does_not_count_off_the_main_thread(monkeypatch, capsys):
    monkeypatch.setattr(_limits, "SECONDS", 0.1)
    outcomes = []
    before = set(threading.enumerate())
    work = lambda: outcomes.append(velocity.check(answer_of("import time\n" + SWALLOWS)))  # noqa: E731
    worker = threading.Thread(target=work)
    worker.start()
    worker.join(30)
    assert outcomes[0].kind == "error" and "still running after" in outcomes[0].message
    for thread in set(threading.enumerate()) - before:
        thread.join(30)


@pytest.mark.parametrize("then", ["return 7", "while True: pass"])
def test_loading_a_module_takes_nobodys_time_and_is_not_cut_off(then, tmp_path, monkeypatch):
    """A module that an alarm leaves half loaded would be broken for the rest of the session."""
    (tmp_path / "slowly_loaded.py").write_text("import time\ntime.sleep(0.8)\nwhole = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    work = answer_of(f"def answer():\n    import slowly_loaded\n    {then}")
    if "return" in then:
        assert _limits.within(0.3, work) == 7
    else:
        with pytest.raises(_limits.TooLong):
            _limits.within(0.3, work)
    assert sys.modules.pop("slowly_loaded").whole


def test_a_right_answer_that_swallows_much_is_right(capsys):
    assert velocity.check(answer_of("import time\n" + SWALLOWS.replace("0.5", "0.001"))).kind == "correct"


def test_off_the_main_thread_answers_are_judged_alike(capsys):
    outcomes = []
    sources = [velocity.reference, velocity.wrongs[0].source, FUNCTION + "    return 1 / 0"]
    work = lambda: outcomes.extend(velocity.check(answer_of(source)) for source in sources)  # noqa: E731
    worker = threading.Thread(target=work)
    worker.start()
    worker.join(30)
    assert [outcome.kind for outcome in outcomes] == ["correct", "wrong", "error"]


@pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="this system has no alarms")
def test_somebody_elses_alarm_survives(capsys):
    import signal

    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    rang = []
    try:
        signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
        signal.setitimer(signal.ITIMER_REAL, 1000)
        velocity.check(answer_of(velocity.reference))
        assert 900 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000 and not rang
    finally:
        signal.signal(signal.SIGALRM, before[0])
        signal.setitimer(signal.ITIMER_REAL, *before[1])


def test_whatever_an_answer_raises_is_reported(capsys):
    class Mine(BaseException):
        pass

    class Mute(Exception):
        def __str__(self):
            raise Mute

    class Quits:
        def __float__(self):
            raise SystemExit(2)

    for error in (Mine, Mute, GeneratorExit, SystemExit):

        def answer(x_0, x_1, t):
            raise error  # noqa: B023

        assert f"Your code stopped with {error.__name__}, in line" in velocity.check(answer).message
    assert number.check(Quits()).kind == "error"


def test_an_endless_list_is_stopped_as_well(monkeypatch, capsys):
    class Endless(list):
        def __iter__(self):
            while True:
                yield 1

    monkeypatch.setattr(_limits, "SECONDS", 0.1)
    assert "still running" in number.check(Endless()).message


def test_stop_in_the_notebook_still_stops(capsys):
    def answer(x_0, x_1, t):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        velocity.check(answer)


# ---- what a check leaves behind --------------------------------------------------------------------------------------


def test_a_check_does_not_move_the_random_state(capsys):
    torch.rand(5)  # away from the state that the engine begins with
    before = torch.get_rng_state()
    for body in ("    torch.manual_seed(3)\n    return torch.randn(6, 2)", "    return x_1 - x_0"):
        velocity.check(answer_of(FUNCTION + body))
    potential.check(answer_of(potential.reference))
    assert torch.equal(torch.get_rng_state(), before)


def use_a_seed_of_ones_own():
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()


HELD = []  # or the mode ends as its context is collected
CHANGES = {  # what an answer changes, and how to see it
    "default dtype": (lambda: torch.set_default_dtype(torch.float16), torch.get_default_dtype),
    "default device": (lambda: torch.set_default_device("meta"), lambda: torch.empty(0).device),
    "grad mode": (lambda: torch.set_grad_enabled(not torch.is_grad_enabled()), torch.is_grad_enabled),
    "inference mode": (
        lambda: HELD.append(contextlib.ExitStack()) or HELD[-1].enter_context(torch.inference_mode()),
        lambda: (torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.ones(1).is_inference()),
    ),
    "determinism": (
        lambda: torch.set_deterministic_debug_mode("warn"),
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
    ),
    "threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), torch.get_num_threads),
    "recursion limit": (lambda: sys.setrecursionlimit(4321), sys.getrecursionlimit),
    "folder": (lambda: os.chdir("/"), os.getcwd),
    "environment": (
        lambda: (os.environ.pop("FMLIB_PROGRESS"), os.environ.update(FMLIB_MADE_UP="1")),
        lambda: (os.environ.get("FMLIB_PROGRESS"), os.environ.get("FMLIB_MADE_UP")),
    ),
    "warning filters": (lambda: warnings.simplefilter("ignore"), lambda: list(warnings.filters)),
    "output": (lambda: setattr(sys, "stdout", sys.stderr), lambda: (sys.stdout, sys.stderr)),
    "random state": (
        use_a_seed_of_ones_own,
        lambda: [hash(str(s)) for s in (torch.get_rng_state().tolist(), np.random.get_state(), random.getstate())],
    ),
}


@pytest.mark.parametrize("end", ["return x_1 - x_0", "return None", "raise ValueError", "while True: pass"])
@pytest.mark.parametrize("name", CHANGES)
def test_what_an_answer_changes_is_put_back(name, end, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_limits, "SECONDS", 0.2)
    monkeypatch.chdir(tmp_path)
    change, look = CHANGES[name]
    seen = []
    source = FUNCTION + f"    change()\n    seen.append(look())\n    {end}"
    names = {"change": change, "look": look, "seen": seen}
    exec(source, names)
    torch.rand(3), np.random.rand(3), random.random()  # away from the seeds that a check begins with
    before = look()
    velocity.check(names["answer"])
    assert seen and seen[0] != before, "the answer did change it"
    assert look() == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_check_works_in_any_grad_mode_and_leaves_it(mode, capsys):
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert potential.check(answer_of(potential.reference)).kind == "correct"
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_a_folder_that_is_gone_stops_nothing(tmp_path, capsys, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert velocity.check(answer_of(velocity.reference)).kind == "correct"


def test_two_checks_print_the_same(capsys):
    draws = ("torch.rand(6, 2)", "torch.tensor(np.random.rand(6, 2))", "x_1 * random.random()")
    for body in ("x_1 - 1.1 * x_0", *draws):
        source = f"import random\nimport numpy as np\n{FUNCTION}    return {body}"
        first = told(velocity, source)
        assert "you return" in first
        torch.rand(5), np.random.rand(5), random.random()
        assert told(velocity, source) == first


def test_an_outcome_shows_nothing_itself(capsys):
    from IPython.core.formatters import DisplayFormatter

    outcome = number.check(0.5)
    assert repr(outcome) == "" and DisplayFormatter().format(outcome) == ({}, {})
    with pytest.raises(AttributeError):
        outcome.kind = "correct"


def test_output_is_wrapped_but_code_is_not(capsys):
    for q in EVERY:
        for answer in [wrong.answer for wrong in q.wrongs] + [answer_of(source) for source, _ in q.other_wrongs]:
            q.check(answer)
        q.solution()
        for _ in q.hints:
            q.hint()
        assert max(map(len, capsys.readouterr().out.split("\n"))) <= 88


# ---- a choice by its buttons -----------------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch):
    """The choice, not answered yet."""
    monkeypatch.setattr(choice, "_answers", [])
    return choice


def asked(q, shell):
    """The buttons by letter, and what `ask` says below them."""
    from ipywidgets.widgets.widget import _instances

    q.ask()
    row, said = published(shell)
    box = _instances[row["application/vnd.jupyter.widget-view+json"]["model_id"]]
    assert row["text/plain"] == ""
    return {button.description: button for button in box.children}, said


def said_on_click(button, shell) -> str:
    """What a click puts in the place of what was said before."""
    before = shell.display_pub.outputs.copy()
    button.click()
    (output,) = shell.display_pub.outputs[len(before) :]
    (bundle,) = published(shell)
    assert output["update"] and "fmlib-feedback" in bundle["text/html"]
    return bundle["text/html"]


def test_a_click_is_answered_like_a_letter(fresh, shell):
    buttons, said = asked(fresh, shell)
    assert list(buttons) == list("abcd") and buttons["a"].tooltip == "a: before t=0.25"
    reason = fresh.options["a"][1]
    for text in said.values():
        assert "Exercise 1.2 is open. " in text and 'q1_2.check("a")' in text and reason[:20] not in text
    told = said_on_click(buttons["a"], shell)
    assert "Not yet" in told and reason[:60] in told and buttons["a"].button_style
    assert "Your answer is a. It is kept as your first." in told
    told = said_on_click(buttons["c"], shell)
    assert "Correct" in told and "Your answer is now c, and your first was a." in told
    assert [letter for letter, button in buttons.items() if button.button_style] == ["c"]
    told = said_on_click(buttons["a"], shell)
    assert "now a, as at first. You have found the right one, c, before." in told
    assert json.loads(_progress.path().read_text())["done"] == {"1.2": "basics.three_bumps"}


def test_what_is_said_has_one_place_for_each_time_the_cell_runs(fresh, shell):
    fresh.ask()
    fresh.ask()
    places = [output["transient"]["display_id"] for output in shell.display_pub.outputs if output["transient"]]
    assert len(set(places)) == 2
    published(shell)
    buttons, _ = asked(fresh, shell)
    buttons["b"].click()
    buttons["b"].click()
    assert len({output["transient"]["display_id"] for output in shell.display_pub.outputs}) == 1


def test_the_first_answer_is_kept_when_the_cell_runs_again(fresh, shell):
    said_on_click(asked(fresh, shell)[0]["b"], shell)
    buttons, said = asked(fresh, shell)
    assert " is open. " in said["text/plain"]
    assert "Your answer is now b, as at first." in said_on_click(buttons["b"], shell)


def test_check_answers_in_a_cell_as_a_click_does(fresh, capsys):
    fresh.check("(B)")
    assert capsys.readouterr().out.endswith("Your answer is b. It is kept as your first.\n")
    for other in ("x", "e", 3, ____, None):
        fresh.check(other)
        assert "Your answer" not in capsys.readouterr().out
    fresh.check("c")
    assert "now c, and your first was b.\n" in capsys.readouterr().out


def test_a_click_that_fails_says_so(fresh, shell, monkeypatch):
    buttons, _ = asked(fresh, shell)
    with monkeypatch.context() as patch:
        patch.setattr(_progress, "record", lambda *_: 1 / 0)
        told = said_on_click(buttons["c"], shell)
    assert "could not be answered (ZeroDivisionError" in told and "Traceback" not in told
    assert "Correct" in said_on_click(buttons["c"], shell)


@pytest.mark.parametrize("missing", [True, False])
def test_without_widgets_the_text_says_how_to_answer(missing, fresh, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None) if missing else None
    fresh.ask()
    out = capsys.readouterr().out.replace("\n", " ")
    assert "Exercise 1.2 is open. " in out and 'write q1_2.check("a")' in out


# ---- choices and numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["c", "C", " c ", "(c)", "c)", "c.", "c: ", "option c", "Option (c)", "**c**"])
def test_a_letter_may_be_written_in_several_ways(answer, capsys):
    assert choice.check(answer).kind == "correct"


def test_a_choice_that_is_none(capsys):
    assert 'such as q1_2.check("a")' in choice.check(3).message
    assert "There is no option 'e'" in choice.check("e").message
    for answer in ("", "cc", "b or c", "optionc", "not c", "option", "c d"):
        assert "There is no option" in choice.check(answer).message, answer
    assert choice.check("____").kind == "not attempted"
    assert "one answer" in choice.check("a", "b").message


@pytest.mark.parametrize(
    "answer",
    [1 / 1.7, np.float64(0.588), torch.tensor(0.588), torch.tensor([[0.59]]), np.array(0.59)]
    + ["0.59", " .588 ", "10/17", "+20 / (2 * 17)", "5.88e-1", "-(1/1.7 - 1) + 6/17 - 3/17"],
)
def test_a_number_may_come_in_several_types(answer, capsys):
    assert number.check(answer).kind == "correct"


def test_numbers_that_are_wrong(capsys):
    assert "a little too small: give one more digit" in number.check(0.575).message
    assert number.check(0.2).message.startswith("0.2 is too small. Write X_t")
    assert number.check(30).message.startswith("30 is too large.")
    assert number.check("1/e").message.startswith("0.3679 is too small.")
    for text in ("", "half", "1/", "1/0", "9**9**9", "__import__('os')", "True", "e.real", "0,59", "[0.59]"):
        assert "a string in quotes" in number.check(text).message, text
    assert "division by zero" in number.check(float("nan")).message
    assert "shape (2,)" in number.check(torch.ones(2)).message


def test_no_mistake_is_near_the_truth_or_another_mistake():
    for q in EVERY:
        if isinstance(q, Number):
            values = [q.expected, *(wrong.answer for wrong in q.wrongs)]
            assert all(abs(a - b) > 2 * q.within for i, a in enumerate(values) for b in values[:i]), q.key


# ---- hints and solutions ---------------------------------------------------------------------------------------------


def test_hints_go_step_by_step(capsys, monkeypatch):
    q = potential
    monkeypatch.setattr(q, "_shown", 0)
    count = len(q.hints)
    for k in range(count):
        q.hint()
        assert capsys.readouterr().out.startswith(f"Hint {k + 1} of {count}: {q.hints[k][:20]}")
    q.hint()
    assert f"no further hint, {count} is the last" in capsys.readouterr().out
    q.hint(2)
    assert capsys.readouterr().out.startswith(f"Hint 2 of {count}")
    q.hint()
    assert capsys.readouterr().out.startswith(f"Hint 3 of {count}")
    for bad in (0, -1, "2", 1.5, True):
        q.hint(bad)
        assert f"by its number, {q.name}.hint(1) to {q.name}.hint({count})" in capsys.readouterr().out
    q.hint(99)
    assert "no further hint" in capsys.readouterr().out


def test_solution_shows_code_and_why(capsys):
    velocity.solution()
    out = capsys.readouterr().out
    assert out.startswith("def answer(x_0, x_1, t):\n    return x_1 - x_0\n\nThe derivative of")
    assert repr(velocity) == "Exercise 1.1: q1_1.check(answer), q1_1.hint(), q1_1.solution()"
    assert repr(choice) == "Exercise 1.2: q1_2.ask(), q1_2.hint(), q1_2.solution()"
    choice.solution()
    assert capsys.readouterr().out.startswith("c: between $t=0.5$ and $t=0.75$\n\nGiven its component")


# ---- training steps --------------------------------------------------------------------------------------------------

STEP = """def answer(network, optimizer, x_0, x_1, t):
    optimizer.zero_grad()
    x_t = (1 - t[:, None]) * x_0 + t[:, None] * x_1
    loss = (network(x_t, t) - (x_1 - x_0)).square().sum(1).mean()
    loss.backward()
    optimizer.step()
    return loss.item()"""
LINES = STEP.split("\n")


def step_case(draw: torch.Generator) -> tuple:
    """A small network, plain gradient descent for it, and a batch of pairs and times."""
    network = SmallNetwork(2, draw)
    x_0, x_1 = (torch.randn(5, 2, generator=draw, dtype=torch.float64) for _ in range(2))
    t = torch.rand(5, generator=draw, dtype=torch.float64)
    return network, torch.optim.SGD(network.parameters(), lr=0.1), x_0, x_1, t


def training_step(**changes) -> TrainingStep:
    texts = {"key": "a.step", "number": "9.3", "task": "write", "question": "", "why": "So it is.", "hints": ()}
    arguments = ("network", "optimizer", "x_0", "x_1", "t")
    given = LINES[0] + "\n    loss = ____\n    return loss"
    truth = Wrong(STEP, "").answer
    known = (Wrong(STEP.replace("(x_1 - x_0)", "x_1"), "This learns the target point."),)
    settings = {"given": given, "reference": STEP, "arguments": arguments, "make": step_case, "truth": truth}
    return TrainingStep(**{**texts, **settings, "wrongs": known, **changes})


@pytest.mark.parametrize(
    "source",
    [
        STEP,
        STEP.replace("return loss.item()", "return loss"),
        STEP.replace("    optimizer.zero_grad()\n", "").replace("return", "optimizer.zero_grad()\n    return"),
        STEP.replace("optimizer.zero_grad", "network.zero_grad"),
        STEP.replace(".square().sum(1).mean()", ".pow(2).sum() / len(x_0)"),
        STEP.replace("network(x_t, t)", "network(t=t, x=x_t)"),
        STEP.replace("x_t = ", "x_t = torch.rand(3).sum() * 0 + "),  # it draws, and uses nothing of it
        "import torch\n"
        + STEP.replace(
            "optimizer.step()",
            "with torch.no_grad():\n        for p in network.parameters():\n            p -= 0.1 * p.grad",
        ),
    ],
)
def test_a_right_step_is_right_however_it_is_written(source, capsys, monkeypatch):
    monkeypatch.setattr(_progress, "record", lambda *_: "")
    assert training_step().check(answer_of(source)).message == "So it is."


@pytest.mark.parametrize(
    "old, new, kind, part",
    [
        (LINES[1], "    torch.manual_seed(0)\n" + LINES[1], "wrong", "sets the seed of the global random numbers"),
        (LINES[-1], "    pass", "wrong", "returns None. Return the loss"),
        (LINES[-1], "    return 'done'", "wrong", "a string in quotes. It must return the loss"),
        (LINES[-1], "    return x_t", "wrong", "a tensor of shape (5, 2). A loss is one number"),
        (LINES[-1], "    return 2 * loss", "wrong", "the wrong number is returned: your loss is"),
        (LINES[1], "    pass", "wrong", "Is zero_grad() missing"),
        (LINES[4], LINES[1] + "\n" + LINES[4] + "\n" + LINES[1], "wrong", "does zero_grad() stand after it"),
        (LINES[4], "    pass", "wrong", "Is loss.backward() missing"),
        (LINES[5], "    pass", "wrong", "Is optimizer.step() missing"),
        ("network(x_t, t)", "network(x_t, t).detach()", "error", "The loss is cut off from the network"),
        ("sum(1).mean()", "sum(1)", "error", "take the mean over the batch"),
        (LINES[4], LINES[4] + "\n" + LINES[4], "error", "Compute the loss anew"),
        ("\n".join(LINES[1:6]), "\n".join([*LINES[2:4], LINES[5], LINES[4]]), "error", "loss.backward() before it"),
        ("loss.backward()", "(loss + network.out.sum()).backward()", "wrong", "its gradient is not. Is a part of it"),
        (".sum(1).mean()", ".mean()", "wrong", "0.5 times as long"),
        (".sum(1).mean()", ".sum()", "wrong", "5 times as long"),
        (".sum(1).mean()", ".sum(1).mean().neg()", "wrong", "exactly the wrong way"),
        ("(x_1 - x_0)", "x_1", "wrong", "This learns the target point."),
        ("(x_1 - x_0)", "(x_0 - x_1)", "wrong", "Look at the target of the loss. q9_3.hint() helps."),
        ("t[:, None] * x_1", "t * x_1", "error", "Write t[:, None]"),
        (
            "network(x_t, t)",
            "network(x_t[:1], t[:1])",
            "wrong",
            "input x of shape (1, 2), and shape (5, 2)",
        ),
        ("network(x_t, t)", "network(x_t, 1 - t)", "wrong", "calls the network at another t: in the first row it is"),
        ("network(x_t, t)", "network(x_0, t)", "wrong", "calls the network at another x"),
        ("network(x_t, t)", "network(x_t, torch.rand(5).double())", "wrong", "all that it needs is given"),
        ("network(x_t, t)", "network(network(x_t, t), t)", "wrong", "calls the network 2 times; once is expected"),
        ("network(x_t, t)", "(network.out.sum() * x_t)", "wrong", "never calls the network that it is given"),
        (LINES[4], "    network.hidden.requires_grad_(False)\n" + LINES[4], "wrong", "Only a part of the weights"),
        ("square()", "mul(network(x_t, t).detach() - x_1 + x_0)", "wrong", "calls the network 2 times"),
        (".sum(1)", ".mul(float('nan')).sum(1)", "wrong", "NaN or infinity"),
        (LINES[3], LINES[3] + "\n    x_0 += 1", "wrong", "changes its input x_0 in place"),
        (LINES[4], "    while True: pass", "error", "a loop that never ends"),
    ],
)
def test_a_wrong_step_is_told_what_is_wrong(old, new, kind, part, capsys, monkeypatch):
    monkeypatch.setattr(_limits, "SECONDS", 1.0)
    assert STEP.count(old) == 1
    outcome = training_step().check(answer_of("import torch\n" + STEP.replace(old, new)))
    assert outcome.kind == kind and part in outcome.message, outcome.message


def test_a_step_that_draws_may_draw_in_any_order(capsys, monkeypatch):
    monkeypatch.setattr(_progress, "record", lambda *_: "")
    head = "import torch\ndef answer(network, optimizer, x_1):\n"
    noise, time = "    x_0 = torch.randn_like(x_1)\n", "    t = torch.rand(len(x_1)).double()\n"
    rest = "\n".join(LINES[1:])
    sources = [head + noise + time + rest, head + time + noise + rest]
    q = training_step(
        arguments=("network", "optimizer", "x_1"),
        make=lambda draw: step_case(draw)[:3],
        truth=answer_of(sources[0]),
        also=(answer_of(sources[1]),),
        wrongs=(),
    )
    assert [q.check(answer_of(source)).kind for source in sources] == ["correct", "correct"]
    seeded = sources[0].replace("    x_0 =", "    torch.manual_seed(10)\n    x_0 =")
    assert "sets the seed" in q.check(answer_of(seeded)).message
    assert "another x" in q.check(answer_of(sources[0].replace("x_0 = torch", "x_0 = 2 * torch"))).message


def test_a_gradient_may_be_asked_for_instead_of_a_step(capsys, monkeypatch):
    monkeypatch.setattr(_progress, "record", lambda *_: "")
    gradient = "\n".join([LINES[0].replace("optimizer, ", ""), "    network.zero_grad()", *LINES[2:5]])
    arguments = ("network", "x_0", "x_1", "t")
    make = lambda draw: [a for k, a in enumerate(step_case(draw)) if k != 1]  # noqa: E731
    q = training_step(arguments=arguments, make=make, truth=answer_of(gradient), wrongs=())
    assert q.check(answer_of(gradient)).kind == q.check(answer_of(gradient + "\n    return loss")).kind == "correct"
    assert "Is zero_grad() missing" in q.check(answer_of(gradient.replace("network.zero_grad()", "pass"))).message
    assert "5 times as long" in q.check(answer_of(gradient.replace("sum(1).mean()", "sum()"))).message
    assert "The loss is" not in q.check(answer_of(gradient.replace("x_1 - x_0)", "x_0)"))).message


def test_the_code_with_the_bug_is_open_until_it_is_changed(capsys, monkeypatch):
    monkeypatch.setattr(_progress, "record", lambda *_: "")
    given = STEP.replace("    optimizer.zero_grad()\n", "")
    q = training_step(task="find the bug", given=given)
    for untouched in (given, given.replace("loss = ", "# a comment\n    loss = ")):
        outcome = q.check(answer_of("x = 1\n" + untouched))
        assert outcome.kind == "not attempted" and outcome.message.startswith("This is still the code as given")
    assert "Exercise 9.3 is open. This is still the code as given" in capsys.readouterr().out
    changed = q.check(answer_of(given.replace("square()", "square().clone()")))
    assert changed.kind == "wrong" and "Is zero_grad() missing" in changed.message
    for other in (given.replace("x_1 - x_0", "x_1 - 2 * x_0"), given.replace("square", "abs")):
        assert q.check(answer_of(other)).kind == "wrong"
    assert q.check(answer_of(STEP)).kind == "correct"
    halved = replace(velocity, given="def answer(x_0, x_1, t):\n    return 0.5 * (x_1 - x_0)", task="find the bug")
    assert halved.check(answer_of(halved.given)).kind == "not attempted"
    assert halved.check(answer_of(halved.given.replace("0.5", "2"))).kind == "wrong"  # another constant, another bug


def test_an_unwritten_step_is_open(capsys):
    q = training_step()
    assert q.check(answer_of(q.given)).message.startswith("Replace ____ by your answer")


# ---- feedback as HTML ------------------------------------------------------------------------------------------------


def test_feedback_is_marked_by_a_word_and_a_colour_of_its_own(shell):
    velocity.check(answer_of(velocity.reference))
    velocity.check(velocity.wrongs[0].answer)
    velocity.check(answer_of(FUNCTION + "    raise ValueError('a < b & c')"))
    velocity.check()
    velocity.hint(1)
    velocity.solution()
    shown = published(shell)
    badge = r'<b style="background-color:(#\w+);color:#ffffff[^>]*>(.*?)</b>'
    heads = [re.search(badge, bundle["text/html"]) for bundle in shown]
    assert [head[2] for head in heads] == ["Correct", "Not yet", "Error", "Open", "Hint 1 of 2", "Solution"]
    assert len({head[1] for head in heads}) == 5  # a hint and a solution look alike
    assert "ValueError: a &lt; b &amp; c" in shown[2]["text/html"] and "a < b & c" in shown[2]["text/plain"]
    assert shown[0]["text/plain"].startswith("Correct. The derivative") and "<" not in shown[1]["text/plain"]
    assert "def answer(x_0, x_1, t):\n    return x_1 - x_0</pre>" in shown[5]["text/html"]


@pytest.mark.parametrize(
    "text, html",
    [
        ("a < b & c", "a &lt; b &amp; c"),
        ("so $x_0 < *y*$ and `a*b*c <`", "so $x_0 &lt; *y*$ and <code>a*b*c &lt;</code>"),
        ("*behind* the 2 * a * b", "<em>behind</em> the 2 * a * b"),
        ('q1_2.check("a") or q1_2', '<code>q1_2.check("a")</code> or q1_2'),
        ("one\ntwo", "one<br>two"),
        ("one:\n    x = 1\ntwo", 'one:\n<pre style="margin:6px 0;padding:0">x = 1</pre>\ntwo'),
    ],
)
def test_prose_becomes_html(text, html):
    assert _wording.marked_up(text) == html


def test_the_colours_can_be_read():
    def light(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in (_wording.GREEN, _wording.AMBER, _wording.RED, _wording.GREY, _wording.BLUE):
        assert 1.05 / (light(colour) + 0.05) >= 4.5, colour  # white on it, as WCAG 2 asks


# ---- reveal ----------------------------------------------------------------------------------------------------------


def pictures(bundle: dict) -> list[Image.Image]:
    """The pictures inside a box."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', bundle["text/html"])
    return [Image.open(io.BytesIO(base64.b64decode(png))) for png in found]


def test_reveal_keeps_everything_closed_and_in_its_order(shell, capsys):
    from IPython.display import HTML, Latex, Markdown, display

    with exercises.reveal("What *appears* at $t<1$", alt='two "lines"'):
        print("first & last")
        _rich.show("a row", "<b>a row</b>")
        plt.plot([0, 1])
        display(Markdown("some `code`"), Latex("$x$"), HTML("<i>html</i>"), [1, "<"])
        print("end", end="")
    (bundle,) = published(shell)
    assert capsys.readouterr().out == "" and not plt.get_fignums()
    box = bundle["text/html"]
    assert re.match(r"<details style=[^>]*><summary[^>]*><b>What <em>appears</em> at \$t&lt;1\$</b></summary>", box)
    assert box.endswith("</details>") and [picture.mode for picture in pictures(bundle)] == ["P"]
    order = ["first &amp; last", "<b>a row</b>", "<code>code</code>", "$x$", "<i>html</i>", "[1, '&lt;']", ">end<"]
    places = [box.index(part) for part in [*order, '<img alt="two &quot;lines&quot;" src=']]
    assert places == sorted(places)
    lines = bundle["text/plain"].split("\n")
    assert lines[0].endswith(" (closed; open it in the notebook)") and lines[1:3] == ["first & last", "a row"]
    assert not any("Figure" in line for line in lines)


def test_reveal_takes_the_figures_made_in_it_and_no_others(shell):
    plt.figure(figsize=(1, 1))
    outside = plt.gcf()
    with exercises.reveal("boxed"):
        assert not plt.get_fignums()
        for _ in range(2):
            plt.figure(figsize=(3, 2), dpi=50).subplots()
    assert len(pictures(published(shell)[0])) == 2
    assert plt.get_fignums() == [1] and plt.gcf() is outside
    plt.close("all")


def test_reveal_takes_what_is_shown_inside_it(shell):
    import matplotlib_inline.backend_inline as inline
    from IPython.core.pylabtools import select_figure_formats

    select_figure_formats(shell, {"png"})  # as a notebook's backend does
    plt.figure(figsize=(1, 1)).subplots()
    with exercises.reveal("boxed"):
        plt.figure(figsize=(3, 2), dpi=50).subplots()
        inline.show()  # what plt.show() is in a notebook
    (bundle,) = published(shell)
    assert len(pictures(bundle)) == 1 and "Figure" not in bundle["text/plain"] and plt.get_fignums() == [1]
    inline.show()  # as at the end of the cell: the figure from outside is still to come
    assert [set(b) for b in published(shell)] == [{"text/plain", "image/png"}] and not plt.get_fignums()


def test_an_update_replaces_what_was_displayed(shell):
    from IPython.display import HTML, clear_output, display

    with exercises.reveal("boxed"):
        print("gone")
        clear_output()
        handle = display(HTML("old"), display_id=True)
        display(HTML("after"))
        handle.update(HTML("new"))
    (bundle,) = published(shell)
    assert "<summary" in bundle["text/html"] and bundle["text/html"].endswith("</b></summary>newafter</details>")


def test_a_widget_is_shown_as_its_picture_or_not_at_all(shell):
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "Explorer(children=..."}
    with exercises.reveal("boxed"):
        shell.display_pub.publish(widget)
        shell.display_pub.publish({**widget, "image/png": "aGFsbG8=\n"})
    (bundle,) = published(shell)
    assert 'src="data:image/png;base64,aGFsbG8="' in bundle["text/html"] and bundle["text/html"].count("<img") == 1
    assert "Explorer" not in "".join(bundle.values()) and "<pre" not in bundle["text/html"]


def test_an_exception_passes_and_leaves_open_what_came_before(shell, capsys):
    publisher, out = shell.display_pub, sys.stdout
    with pytest.raises(ZeroDivisionError), exercises.reveal("boxed"):
        print("before")
        _rich.show("row", "<b>row</b>")
        plt.plot([0, 1])
        1 / 0  # noqa: B018
    assert capsys.readouterr().out == "before\n" and shell.display_pub is publisher and sys.stdout is out
    row, figure = published(shell)
    assert row == {"text/plain": "row", "text/html": "<b>row</b>"} and list(figure) == ["image/png"]
    assert not plt.get_fignums()


def test_reveal_prints_openly_where_no_notebook_runs(capsys):
    with exercises.reveal("boxed"):
        print("open")
    assert capsys.readouterr().out == "open\n"


def test_a_claim_in_a_reveal_counts(shell):
    with exercises.reveal("boxed"):
        fmlib.claim("one and one", 2, 2, within=0)
    (bundle,) = published(shell)
    assert "one and one" in bundle["text/html"] and "one and one" in bundle["text/plain"]
    with pytest.raises(fmlib.claims.ClaimError), exercises.reveal("boxed"):
        fmlib.claim("one and two", 2, 3, within=0)


# ---- the blank -------------------------------------------------------------------------------------------------------


USES = """
____ + 1 | 1 - ____ | 2 * ____ / 3 | -____ | abs(____) | ____ ** 2 | 2 ** ____ | ____ @ x | x @ ____ | x + ____
____ - x | x / ____ | ____ < 3 | ____ == 3 | x > ____ | ____(1, a=2) | ____[0, :] | ____.mean(0) | ____.shape
____ % 2 | ~____ | ____ & ____ | round(____) | torch.exp(____) | torch.add(x, ____) | torch.where(x > 0, x, ____)
torch.softmax(____, 1) | torch.stack([x, ____]) | torch.cat([____, x]) | torch.nn.functional.mse_loss(x, ____)
x.lerp(x, ____) | np.ones(3) * ____ | np.exp(____) | ____.a.b(3)[0] | x.where(x > 0, ____) | ____ != x | x ** ____
"""


@pytest.mark.parametrize("use", [use.strip() for line in USES.split("\n") for use in line.split(" | ") if use])
def test_a_blank_survives(use):
    assert isinstance(eval(use, {"____": ____, "torch": torch, "np": np, "x": torch.ones(3, 2)}), Blank)


def test_a_blank_is_seen_inside_and_shown_as_written():
    assert holds_blank([1, (____, 2)]) and holds_blank({"a": ____}) and not holds_blank([1, "b"])
    assert f"{____} {____!r}" == "____ ____" and {____: 1}[____] == 1 and float(____) != float(____)
    assert list(____) == [] and list(range(____)) == [] and bool(____) and 3 not in ____ and complex(____) != 0
    with pytest.raises(AttributeError):
        getattr(____, "_ipython_display_")  # noqa: B009


@pytest.mark.parametrize(
    "body",
    [
        "    return ____",
        "    return x_0 + ____",
        "    if ____ > 0:\n        return x_1\n    return x_0",
        "    return x_0 * float(____)",
        "    for k in range(____):\n        x_0 = x_0 + k\n    return x_0",
        "    a, b = ____\n    return a - b",
        "    return torch.tensor(____)",
        "    return x_0[____] / 0",
        "    return {'answer': ____}",
        "    ____[0] = 1\n    return x_0",
        "    x_0[0] = ____\n    return x_0",
    ],
)
def test_a_half_filled_function_is_not_attempted(body, capsys):
    assert velocity.check(answer_of(FUNCTION + body)).kind == "not attempted"


def test_arithmetic_on_a_blank_is_not_attempted(capsys):
    assert number.check(1 / ____).kind == number.check([____]).kind == "not attempted"


# ---- notebooks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_holds_its_exercises_as_they_start(path):
    notebook = nbformat.read(path, as_version=4)
    here = [q for q in EVERY if q.number.startswith(f"{int(path.name[:2])}.")]
    places = {cell.id: k for k, cell in enumerate(notebook.cells)}
    checks = [cell.id for cell in notebook.cells if cell.id.startswith("exercise-") and cell.id.endswith("-check")]
    assert checks == [f"exercise-{q.number.replace('.', '-')}-check" for q in here]
    for q, name in zip(here, checks, strict=True):
        cell = notebook.cells[places[name]]
        assert cell.source == q.start and cell.metadata["tags"] in (["exercise"], ["exercise", "skip"])
        assert notebook.cells[places[name] - 1].source == q.markdown
        shown = "".join(output.data["text/html"] for output in cell.outputs)
        assert f"Exercise {q.number} is open. " in shown or cell.execution_count is None  # not run yet, as handed out
    sources = "\n".join(cell.source for cell in notebook.cells)
    assert sources.count("**Exercise ") == len(here)
    setup = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "from fmlib.exercises import ____" in setup and "exercises" in setup.replace("fmlib.exercises", "")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_other_cell_reads_what_an_exercise_cell_defines(path):
    defined = {"answer", "math", *(q.name for q in EVERY)}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code" or "exercise" in cell.metadata.get("tags", []):
            continue
        names = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)]
        read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
        written = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        assert not (read - written) & defined, cell.id


def test_solved_fills_in_every_reference_and_leaves_the_rest():
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    before = [cell.source for cell in notebook.cells]
    solved = exercises.solved(notebook)
    assert [cell.source for cell in notebook.cells] == before
    changed = {new.id: new.source for old, new in zip(notebook.cells, solved.cells, strict=True) if old != new}
    assert set(changed.values()) == {q.answer_code for q in EVERY if q.number.startswith("1.")}


def test_written_brings_an_old_notebook_up_to_date():
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    old = copy.deepcopy(notebook)
    places = {cell.id: k for k, cell in enumerate(old.cells)}
    k = places["exercise-1-1-check"]
    stale = nbformat.v4.new_output("stream", name="stdout", text="old")
    old.cells[k - 1].source, old.cells[k].source, old.cells[k].outputs = "old", "q = old", [stale]
    new = exercises.written(old)
    assert [cell.source for cell in new.cells] == [cell.source for cell in notebook.cells]
    assert not new.cells[k].outputs and old.cells[k].source == "q = old"
    del old.cells[k - 1]
    with pytest.raises(ValueError, match="above the cell exercise-1-1-check"):
        old.cells[k - 2].cell_type = "code"
        exercises.written(old)
    old.cells[k - 1].id = "exercise-1-99-check"
    with pytest.raises(KeyError):
        exercises.written(old)


# ---- imports ---------------------------------------------------------------------------------------------------------


def test_exercises_are_light_and_fmlib_does_not_load_them():
    code = (
        "import sys, fmlib; assert 'fmlib.exercises' not in sys.modules; from fmlib import exercises;"
        "assert not any('answer' in vars(wrong) for q in exercises.every() for wrong in q.wrongs);"  # not yet compiled
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"matplotlib", "scipy", "sklearn", "ipywidgets", "IPython", "torchdiffeq", "pooch", "nbformat"}
    assert not heavy & set(done.stdout.split())


def test_a_wrong_answer_is_compiled_once():
    wrong = Wrong("answer = torch.ones(2)", "no")
    assert "answer" not in vars(wrong) and wrong.answer is wrong.answer and wrong.answer.tolist() == [1, 1]


def test_references_do_not_come_from_what_the_learner_could_call():
    for path in (ROOT / "fmlib" / "exercises").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("fmlib"):
                module = [f"fmlib.{alias.name}" for alias in node.names] if node.module == "fmlib" else [node.module]
                # a schedule, a coupling or a manifold is what some answers are handed, as an argument
                handed = ("fmlib.schedules", "fmlib.couplings", "fmlib.manifolds")
                allowed = ("fmlib.exercises", "fmlib._rich", *handed)
                assert all(m.startswith(allowed) for m in module), path.name


# ---- progress --------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(_progress, "_said", set())
    return tmp_path / "progress.json"


def test_a_right_answer_is_remembered_and_a_wrong_one_does_not_undo_it(file, capsys):
    number.check(0.5)
    assert not file.exists()
    number.check(0.588)
    choice.check("c")
    number.check(0.5)
    assert json.loads(file.read_text())["done"] == {"1.2": "basics.three_bumps", number.number: number.key}
    assert file.read_text().startswith('{\n  "about"') and [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("keys", [["\u00b2", "\u0663.1", "1.x", "", "..", "\ud800", "9" * 5000, "1.\u00bd"]])
def test_any_key_in_the_file_is_borne(keys, file, capsys):
    file.write_text(json.dumps({"done": dict.fromkeys(keys, "somebody's")}))
    assert choice.check("c").kind == "correct"
    exercises.progress()
    done = json.loads(file.read_text())["done"]
    assert done == {**dict.fromkeys(keys, "somebody's"), "1.2": "basics.three_bumps"}
    assert "[x] 1.2" in capsys.readouterr().out


def test_exercises_are_kept_in_the_order_of_the_course(file):
    for number in ("1.10", "2.1", "1.9", "10.1", "9.1", "1.1"):
        _progress.record(number, "a.b")
    assert list(json.loads(file.read_text())["done"]) == ["1.1", "1.9", "1.10", "2.1", "9.1", "10.1"]


def test_a_byte_order_mark_is_no_damage(file, capsys):
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"done": {number.number: number.key}}).encode())
    choice.check("c")
    assert json.loads(file.read_text())["done"] == {"1.2": "basics.three_bumps", number.number: number.key}
    assert [p.name for p in file.parent.iterdir()] == [file.name]


NOTES = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("progress", sys.argv[1])
progress = importlib.util.module_from_spec(spec)
spec.loader.exec_module(progress)  # the file alone, without torch, so that the two run at the same time
progress.LOCK_SECONDS = 60
sys.stdin.readline()
for k in range(40):
    trouble = progress.record(f"{sys.argv[2]}.{k}", "a.b")
    assert not trouble, trouble
"""


def test_two_kernels_at_once_lose_nothing(file):
    command = [sys.executable, "-c", NOTES, _progress.__file__]
    kernels = [subprocess.Popen([*command, name], stdin=subprocess.PIPE, text=True) for name in ("1", "2")]
    for kernel in kernels:  # both wait for this line
        kernel.stdin.write("\n")
        kernel.stdin.close()
    assert [kernel.wait() for kernel in kernels] == [0, 0]
    assert list(json.loads(file.read_text())["done"]) == [f"{name}.{k}" for name in "12" for k in range(40)]


@pytest.mark.parametrize("trouble", ["held", "no folder", "not a file", "read-only"])
def test_without_a_lock_progress_is_kept_all_the_same(trouble, file, tmp_path_factory, capsys, monkeypatch):
    from filelock import FileLock

    folder = tmp_path_factory.mktemp("locks")
    lock = folder / f"fmlib-progress-{os.getuid()}.lock"
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(_progress, "LOCK_SECONDS", 0.01)
    held = FileLock(lock)
    if trouble == "held":
        held.acquire()
    elif trouble == "no folder":
        monkeypatch.setattr(tempfile, "gettempdir", lambda: (_ for _ in ()).throw(FileNotFoundError("no folder")))
    elif trouble == "not a file":
        lock.mkdir()
    else:
        refuse = lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only file system"))  # noqa: E731
        monkeypatch.setattr(FileLock, "_acquire", refuse)
    assert choice.check("c").kind == "correct"
    assert capsys.readouterr().out.count("\n") < 8 and json.loads(file.read_text())["done"]["1.2"]
    held.release()


def test_an_open_exercise_says_that_it_was_solved_before(file, capsys):
    again = exercises.basics.three_bumps
    again.check()
    assert "solved it before" not in capsys.readouterr().out
    again.check(again.right)
    capsys.readouterr()
    again.check()
    assert "is open" in (out := capsys.readouterr().out) and "You have solved it before" in out
    exercises.basics.euler.check()
    assert "solved it before" not in capsys.readouterr().out


def test_progress_table(file, capsys):
    choice.check("c")
    capsys.readouterr()
    exercises.progress()
    lines = capsys.readouterr().out.split("\n")
    assert re.fullmatch(r"1\. Flow matching basics +1 of +9   \[ \] 1\.1  \[x\] 1\.2  \[ \] 1\.3 .*", lines[0])
    assert re.fullmatch(rf"The course +1 of {len(EVERY)}", lines[len(exercises.TITLES)])
    assert lines[len(exercises.TITLES) + 1] == f"Kept in {file}; delete that file to start again."
    assert lines[len(exercises.TITLES) + 2 :] == ["One line for a chat:", exercises.progress_line(), ""]


def test_progress_in_one_line(file, capsys):
    def line(done: dict) -> str:
        counts = Counter(int(q.number.split(".")[0]) for q in EVERY)
        parts = ", ".join(f"{n}: {done.get(n, 0)}/{count}" for n, count in counts.items())
        return f"fmlib: {sum(done.values())} of {len(EVERY)} exercises done ({parts})"

    assert exercises.progress_line() == line({})
    choice.check("c")
    number.check(0.588)
    potential.check(answer_of(potential.reference))
    assert exercises.progress_line() == line({1: 2, 3: 1})
    file.unlink()
    file.mkdir()  # unreadable: nothing is known, and nothing raised
    assert exercises.progress_line() == line({})


def test_deleting_the_file_starts_again(file, capsys):
    choice.check("c")
    file.unlink()
    exercises.progress()
    assert re.search(r"The course +0 of", capsys.readouterr().out)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"done": 3}', '{"done": {"1.1": 2}}', '{"done": null}', "[" * 100000]
)
def test_a_damaged_file_is_set_aside(text, file, capsys):
    file.write_text(text)
    choice.check("c")
    assert "It is now called progress.json.bad" in capsys.readouterr().out
    assert file.with_name("progress.json.bad").read_text() == text
    assert json.loads(file.read_text())["done"] == {"1.2": "basics.three_bumps"}


def test_a_file_that_is_no_text_is_set_aside(file, capsys):
    file.write_bytes(b"\xff\xfe\x00{")
    exercises.progress()
    assert "damaged" in capsys.readouterr().out and not file.exists()


def test_a_folder_in_its_place_is_left_alone(file, capsys):
    file.mkdir()
    assert choice.check("c").kind == "correct"
    out = capsys.readouterr().out.replace("\n", " ")
    assert "is not a file" in out and "FMLIB_PROGRESS" in out and file.is_dir() and not list(file.iterdir())
    choice.check("c")
    assert "is not a file" not in capsys.readouterr().out  # said once is enough
    exercises.progress()
    assert "not a file" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_costs_one_sentence(file, capsys, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_progress.os, "replace", refuse)
    assert choice.check("c").kind == "correct"
    out = capsys.readouterr().out.replace("\n", " ")
    assert "could not be saved (permission denied)" in out and not list(file.parent.iterdir())


def test_a_read_only_file_is_not_replaced(file, capsys, monkeypatch):
    file.write_text('{"done": {}}')
    monkeypatch.setattr(_progress.os, "access", lambda *_: False)
    choice.check("c")
    assert "read-only" in capsys.readouterr().out and file.read_text() == '{"done": {}}'
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_without_a_home_the_notebook_goes_on(file, capsys, monkeypatch):
    monkeypatch.delenv("FMLIB_PROGRESS")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert choice.check("c").kind == "correct"
    exercises.progress()
    assert "could not determine home directory" in capsys.readouterr().out


def test_by_default_progress_is_kept_in_the_home(file, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("FMLIB_PROGRESS")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    choice.check("c")
    exercises.progress()
    assert "Kept in ~/.fmlib/progress.json" in capsys.readouterr().out
    assert (tmp_path / ".fmlib" / "progress.json").exists()


def test_a_write_that_is_cut_off_leaves_the_old_file(file, capsys, monkeypatch):
    choice.check("c")
    old = file.read_text()
    monkeypatch.setattr(_progress.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    number.check(0.588)
    assert "no space left" in capsys.readouterr().out and file.read_text() == old
    assert [p.name for p in file.parent.iterdir()] == [file.name]
