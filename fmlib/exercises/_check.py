"""The engine of the exercises: it tries an answer safely and says in a sentence what is right or wrong with it.

An exercise never raises: whatever the learner hands in ends as one of the four kinds of `Outcome`.
"""

import copy
import ctypes
import inspect
import re
import signal
import textwrap
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fmlib.exercises import _progress
from fmlib.exercises._blank import Blank, ____, holds_blank, is_tensor

SECONDS = 5.0  # how long a learner's code may run
CORRECT, WRONG, OPEN, ERROR = "correct", "wrong", "not attempted", "error"


@dataclass(frozen=True, repr=False)
class Outcome:
    """What became of an answer; `kind` is one of the four above. It shows nothing: `check` has printed it already."""

    kind: str
    message: str

    def __repr__(self) -> str:
        return ""

    def _ipython_display_(self) -> None:
        pass


class _Stop(Exception):
    """Ends a check early with an outcome."""

    def __init__(self, kind: str, message: str):
        self.outcome = Outcome(kind, message)


class _TooLong(BaseException):
    """Raised inside the learner's code when its time is over; no `except Exception` there catches it."""


@dataclass(kw_only=True)
class Exercise:
    """What all exercises share. `key` is where a notebook finds it, "basics.psi_half"; `number` its place, "1.3".

    question and after: Markdown, before and after the options. given: the code with a blank, up to the definition of
    `answer`; reference: the same, solved. why: the explanation shown with the solution and a right answer.
    rights, wrongs: source of differently written right answers, and of wrong ones with a part of their message, tests.
    """

    key: str
    number: str
    task: str  # predict, complete or break it
    question: str
    after: str = ""
    given: str = "answer = ____"
    reference: str
    why: str
    hints: tuple[str, ...]
    rights: tuple[str, ...] = ()
    wrongs: tuple[tuple[str, str], ...] = ()
    _shown: int = field(default=0, init=False, repr=False)

    def __repr__(self) -> str:
        return f"Exercise {self.number}: q.check(answer), q.hint(), q.solution()"

    @property
    def markdown(self) -> str:
        """The question as it stands in the notebook."""
        parts = (f"**Exercise {self.number} ({self.task}).** {self.question}", self._options(), self.after)
        return "\n\n".join(part for part in parts if part)

    @property
    def start(self) -> str:
        """The notebook's cell as the learner gets it."""
        return self._cell(self.given)

    @property
    def answer_code(self) -> str:
        """The same cell, solved."""
        return self._cell(self.reference)

    def check(self, answer=____, *more) -> Outcome:
        """Print what is right or wrong with `answer`, and remember a right one. Never raises."""
        try:
            outcome = (
                self._judge_safely(answer) if not more else Outcome(WRONG, "Give `check` one answer, not several.")
            )
        except Exception as error:  # something that no check foresaw; the notebook must go on
            outcome = Outcome(ERROR, f"This answer cannot be examined ({_named(error)}). {self._expects()}")
        if outcome.kind == OPEN:
            text = f"Exercise {self.number} is open. {outcome.message}"
        else:
            text = {CORRECT: "Correct. ", WRONG: "Not yet. ", ERROR: ""}[outcome.kind] + outcome.message
        print(_wrap(text))
        if outcome.kind == CORRECT:
            trouble = _progress.record(self.number, self.key)
            if trouble:
                print(_wrap(trouble))
        return outcome

    def hint(self, number: int | None = None) -> None:
        """Print the next hint, or hint `number` (from 1)."""
        count = len(self.hints)
        wanted = self._shown + 1 if number is None else number
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
            print(f"Ask for a hint by its number, q.hint(1) to q.hint({count}), or for the next one with q.hint().")
        elif wanted > count:
            print(f"There is no further hint, {count} is the last. q.solution() shows the answer and why.")
        else:
            self._shown = wanted
            print(_wrap(f"Hint {wanted} of {count}: {self.hints[wanted - 1]}"))

    def solution(self) -> None:
        """Print the answer and the reason."""
        print(f"{self.reference}\n\n{_wrap(self.why)}")

    def _cell(self, code: str) -> str:
        return f"q = exercises.{self.key}\n{code}\nq.check(answer)"

    def _options(self) -> str:
        return ""

    def _expects(self) -> str:
        raise NotImplementedError

    def _judge(self, answer) -> str:
        """The explanation of a right answer; raises _Stop for any other."""
        raise NotImplementedError

    def _judge_safely(self, answer) -> Outcome:
        if holds_blank(answer):
            return Outcome(OPEN, _invitation())
        with torch.random.fork_rng(devices=[]):  # an answer that draws must not change the notebook's later draws
            torch.default_generator.manual_seed(0)
            try:
                return Outcome(CORRECT, _limited(lambda: self._judge(answer), SECONDS))
            except _Stop as stop:
                return stop.outcome
            except _TooLong as error:
                where = _line(error, answer)
                return Outcome(
                    ERROR,
                    f"Your code was still running after {SECONDS:g} seconds and was stopped{where}. "
                    "Is there a loop that never ends?",
                )


@dataclass(kw_only=True, repr=False)
class Choice(Exercise):
    """One of several options. options: letter -> (text, why it tempts and is wrong; "" for the right one)."""

    options: dict[str, tuple[str, str]]

    def __post_init__(self):
        self.right = next(letter for letter, (_, wrong) in self.options.items() if not wrong)
        self.rights = (f'answer = "{self.right}"', f'answer = " ({self.right.upper()}) "')
        self.wrongs = tuple((f'answer = "{c}"', wrong) for c, (_, wrong) in self.options.items() if wrong)

    def _options(self) -> str:
        return "\n".join(f"- **{letter}**: {text}" for letter, (text, _) in self.options.items())

    def _expects(self) -> str:
        return f'Answer with one of the letters {", ".join(self.options)} in quotes, such as answer = "a".'

    def _judge(self, answer) -> str:
        if answer is None:
            raise _Stop(OPEN, _invitation())
        if not isinstance(answer, str):
            raise _Stop(WRONG, f"You gave {_kind(answer)}. {self._expects()}")
        letter = answer.strip().strip("().").lower()
        if letter not in self.options:
            raise _Stop(WRONG, f"There is no option {_cut(repr(answer), 20)}. {self._expects()}")
        wrong = self.options[letter][1]
        if wrong:
            raise _Stop(WRONG, wrong)
        return self.why


@dataclass(kw_only=True, repr=False)
class Number(Exercise):
    """A number. mistakes: (value, message) for wrong values that tempt; otherwise: what to say of any other value."""

    expected: float
    within: float
    mistakes: tuple[tuple[float, str], ...]
    otherwise: str

    def __post_init__(self):
        self.wrongs = tuple((f"answer = {value}", message) for value, message in self.mistakes)

    def _expects(self) -> str:
        return "This exercise asks for a number, such as answer = 0.25."

    def _judge(self, answer) -> str:
        if answer is None:
            raise _Stop(OPEN, _invitation())
        value = self._number(answer)
        if abs(value - self.expected) <= self.within:
            return self.why
        for mistaken, message in self.mistakes:
            if abs(value - mistaken) <= self.within:
                raise _Stop(WRONG, message)
        size = "too large" if value > self.expected else "too small"
        if abs(value - self.expected) <= 3 * self.within:
            raise _Stop(WRONG, f"Close, but {value:.4g} is a little {size}: give one more digit, or a fraction.")
        raise _Stop(WRONG, f"{value:.4g} is {size}. {self.otherwise}")

    def _number(self, answer) -> float:
        if is_tensor(answer) and answer.numel() != 1:
            raise _Stop(WRONG, f"You gave a tensor of shape {tuple(answer.shape)}. {self._expects()}")
        if isinstance(answer, (bool, str, complex)) or (callable(answer) and not is_tensor(answer)):
            raise _Stop(WRONG, f"You gave {_kind(answer)}. {self._expects()}")
        try:
            value = float(answer)
        except Exception:
            raise _Stop(WRONG, f"You gave {_kind(answer)}. {self._expects()}") from None
        if value != value or abs(value) == float("inf"):
            raise _Stop(WRONG, f"Your answer is {value}. Was there a division by zero, or a ____ left in it?")
        return value


@dataclass(kw_only=True, repr=False)
class Code(Exercise):
    """A function of `arguments`. A subclass decides in `_examine`, which calls the answer through `_call` only."""

    arguments: tuple[str, ...]

    def _expects(self) -> str:
        return f"This exercise asks for a function answer({', '.join(self.arguments)})."

    def _judge(self, answer) -> str:
        if answer is None:
            raise _Stop(OPEN, _invitation())
        if not callable(answer):
            advice = " Give the function itself, q.check(answer), and do not call it." if is_tensor(answer) else ""
            raise _Stop(WRONG, f"You gave {_kind(answer)}. {self._expects()}{advice}")
        try:
            signature = inspect.signature(answer)
        except (TypeError, ValueError):
            signature = None  # some built-in functions have none
        if signature:
            try:
                signature.bind(*self.arguments)
            except TypeError:
                raise _Stop(
                    WRONG,
                    f"Your function must take {len(self.arguments)} arguments, ({', '.join(self.arguments)}); "
                    f"it takes {_cut(str(signature), 80)}.",
                ) from None
        self._examine(answer)
        return self.why

    def _examine(self, answer: Callable) -> None:
        raise NotImplementedError

    def _call(self, answer: Callable, arguments: tuple) -> Tensor:
        """The tensor that `answer` returns; raises _Stop if it is none, or if it raises or changes its input."""
        given = tuple(a.clone() if is_tensor(a) else copy.copy(a) for a in arguments)
        uses = Blank.uses
        try:
            value = answer(*given)
        except (Exception, SystemExit) as error:
            if Blank.uses > uses:
                raise _Stop(OPEN, _invitation()) from None
            raise _Stop(ERROR, self._explain(error, answer, arguments)) from None
        if Blank.uses > uses or holds_blank(value):
            raise _Stop(OPEN, _invitation())
        for name, before, after in zip(self.arguments, arguments, given, strict=True):
            if is_tensor(before) and not torch.equal(before, after):
                raise _Stop(
                    WRONG,
                    f"Your function changes its input {name} in place, as `{name} += ...` does. The caller still needs "
                    f"it: write {name} = {name} + ... or use a new name.",
                )
        if value is None:
            raise _Stop(WRONG, "Your function returns None. Is a `return` missing?")
        if not is_tensor(value):
            raise _Stop(WRONG, f"Your function returns {_kind(value)}. It must return a torch tensor.")
        if value.is_complex():
            raise _Stop(WRONG, "Your function returns complex numbers. Is there a root of a negative number?")
        return value.cpu()

    def _explain(self, error: BaseException, answer: Callable, arguments: tuple) -> str:
        text = f"Your code stopped with {_named(error)}{_line(error, answer) or '.'}"
        t = dict(zip(self.arguments, arguments, strict=True)).get("t")
        if "must match the size of tensor" in str(error) and is_tensor(t) and t.ndim == 1:
            text += "\nHere t has shape (batch,). Write t[:, None] to make it a column, which goes with (batch, d)."
        return text


@dataclass(kw_only=True, repr=False)
class Function(Code):
    """A function that must agree with `truth` on every case.

    cases(generator): argument tuples whose tensors are float64; each is tried in float64 and in float32.
    mistakes: (function, message) for wrong formulas that tempt; an answer that agrees with one gets its message.
    """

    truth: Callable
    mistakes: tuple[tuple[Callable, str], ...]
    cases: Callable[[torch.Generator], list[tuple]]

    def _examine(self, answer: Callable) -> None:
        cases = self.cases(torch.Generator().manual_seed(1))
        for dtype in (torch.float64, torch.float32):
            inputs = [_cast(case, dtype) for case in cases]
            wide = [_cast(case, torch.float64) for case in inputs]  # the truth for just these inputs
            got = [self._call(answer, case) for case in inputs]
            expected = [self.truth(*case) for case in wide]
            tolerance = 1e-7 if dtype == torch.float64 else 1e-3
            if not _agree(got, expected, tolerance):
                for mistake, message in self.mistakes:
                    if _agree(got, [mistake(*case) for case in wide], tolerance):
                        raise _Stop(WRONG, message)
                for case, value, right in zip(wide, got, expected, strict=True):
                    self._compare(case, value, right, tolerance)
            for value in got:
                if value.dtype != dtype:
                    raise _Stop(
                        WRONG,
                        f"The numbers are right, but for {_short(dtype)} input your function returns "
                        f"{_short(value.dtype)}. Keep the dtype of the input: no .float(), .double() or float64 "
                        "constants.",
                    )

    def _compare(self, case: tuple, value: Tensor, right: Tensor, tolerance: float) -> None:
        if value.shape != right.shape:
            first = next((n, a) for n, a in zip(self.arguments, case, strict=True) if is_tensor(a))
            raise _Stop(
                WRONG,
                f"For {first[0]} of shape {tuple(first[1].shape)} your function returns shape {tuple(value.shape)}, "
                f"and shape {tuple(right.shape)} is expected.",
            )
        value = value.detach().double()
        if not torch.isfinite(value).all():
            raise _Stop(
                WRONG,
                "Your function returns NaN or infinity. Is there a division by zero, or a root or logarithm of a "
                "negative number?",
            )
        if not _agree([value], [right], tolerance):
            gap = (value - right).abs()
            row = int(gap.flatten(1).amax(1).argmax()) if gap.ndim > 1 else 0
            shown = [f"{n} = {_numbers(a, row, len(right) if right.ndim else 0)}" for n, a in self._shown_inputs(case)]
            at = f"For {', '.join(shown)} you return" if right.ndim else "On random input you return"
            raise _Stop(
                WRONG,
                f"{at} {_numbers(value, row, len(right) if right.ndim else 0)}; expected is "
                f"{_numbers(right, row, len(right) if right.ndim else 0)}. q.hint() helps.",
            )

    def _shown_inputs(self, case: tuple) -> list[tuple]:
        """The arguments that can be printed: numbers, and tensors with one row for each point."""
        batch = len(case[0])
        pairs = zip(self.arguments, case, strict=True)
        return [(n, a) for n, a in pairs if not is_tensor(a) or a.ndim == 0 or len(a) == batch]


@dataclass(kw_only=True, repr=False)
class Property(Code):
    """A function with many right answers. examine(call) asks `call(*arguments)` and returns what is wrong, or ""."""

    examine: Callable[[Callable[..., Tensor]], str]

    def _examine(self, answer: Callable) -> None:
        problem = self.examine(lambda *arguments: self._call(answer, arguments))
        if problem:
            raise _Stop(WRONG, problem)


def _invitation() -> str:
    return (
        "Replace ____ by your answer and run this cell again. q.hint() gives a hint, q.solution() shows the answer "
        "and why."
    )


def _limited(work: Callable, seconds: float):
    """work(), ended by _TooLong after `seconds`: by an alarm on the main thread, elsewhere in a thread that is left."""
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        with _alarm(seconds):
            return work()
    box = {}

    def run():
        try:
            box["value"] = work()
        except BaseException as error:  # handed on to the caller, below
            box["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():  # ask it to stop; a loop in Python does, at its next step
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_TooLong))
        thread.join(1)
        raise box.get("error") or _TooLong()
    if "error" in box:
        raise box["error"]
    return box["value"]


@contextmanager
def _alarm(seconds: float):
    def ring(number, frame):
        raise _TooLong

    handler = signal.signal(signal.SIGALRM, ring)
    begin = time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # somebody else's alarm, such as a test runner's: let it go on
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begin), 0.001), interval)


def _line(error: BaseException, answer) -> str:
    """ ", in line 3:" and that line, the deepest one that lies in the file (or cell) of `answer`."""
    code = getattr(inspect.unwrap(answer), "__code__", None) if callable(answer) else None
    frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    if not frames:
        return ""
    source = (frames[-1].line or "").strip()
    return f", in line {frames[-1].lineno}" + (f":\n    {_cut(source, 84)}" if source else "")


def _named(error: BaseException) -> str:
    """The error in one line that is the same every time: without addresses."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", str(error)).strip().split("\n")[0]
    return type(error).__name__ + (f": {_cut(text, 200)}" if text else "")


def _kind(value) -> str:
    name = type(value).__name__
    if is_tensor(value):
        return f"a tensor of shape {tuple(value.shape)}"
    if callable(value):
        return "a function"
    known = {"str": "a string in quotes", "bool": "True or False", "ndarray": "a NumPy array"}
    known["complex"] = "a complex number"
    return known.get(name) or f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _cast(case: tuple, dtype: torch.dtype) -> tuple:
    return tuple(a.to(dtype) if is_tensor(a) else a for a in case)


def _agree(got: list[Tensor], expected: list[Tensor], tolerance: float) -> bool:
    return all(
        a.shape == b.shape and torch.allclose(a.detach().double(), b, rtol=tolerance, atol=tolerance)
        for a, b in zip(got, expected, strict=True)
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _numbers(value, row: int, batch: int) -> str:
    """A number, or row `row` of a tensor with `batch` rows, to three digits; of a long row the first few."""
    if not is_tensor(value):
        return f"{value:.3g}"
    if value.ndim and len(value) == batch:
        value = value[row]
    flat = [f"{v + 0.0:.3g}" for v in value.flatten().tolist()]
    if len(flat) == 1:
        return flat[0]
    return f"[{', '.join(flat[:4])}{', ...' if len(flat) > 4 else ''}]"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _wrap(text: str) -> str:
    """Lines of at most 88 columns; a line that begins with spaces is code and stays."""
    return "\n".join(
        line if line.startswith(" ") else textwrap.fill(line, 88, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )
