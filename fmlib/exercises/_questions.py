"""The kinds of question, and what each makes of an answer: a sentence that says what is right or wrong with it.

An exercise never raises: whatever the learner hands in ends as one of the four kinds of `Outcome`.
"""

import ast
import copy
import inspect
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fmlib import _rich
from fmlib.exercises import _buttons, _limits, _progress, _wording
from fmlib.exercises._blank import Blank, ____, holds_blank, is_tensor

CORRECT, WRONG, OPEN, ERROR = "correct", "wrong", "not attempted", "error"
LOOKS = {
    CORRECT: ("Correct", _wording.GREEN),
    WRONG: ("Not yet", _wording.AMBER),
    OPEN: ("Open", _wording.GREY),
    ERROR: ("Error", _wording.RED),
}


@dataclass(frozen=True, repr=False)
class Outcome:
    """What became of an answer; `kind` is one of the four above. It shows nothing: `check` has printed it already."""

    kind: str
    message: str

    def __repr__(self) -> str:
        return ""

    def _ipython_display_(self) -> None:
        pass


class Verdict(Exception):
    """Ends a check early with an outcome."""

    def __init__(self, kind: str, message: str):
        self.outcome = Outcome(kind, message)


@dataclass(frozen=True)
class Wrong:
    """A wrong answer that tempts: `source`, code that defines `answer`, and `message`, what is said of it."""

    source: str
    message: str

    @cached_property
    def answer(self):
        """What the source defines; it is compiled when it is first asked for."""
        names = {"torch": torch, "math": math}
        exec(compile(self.source, "<a wrong answer>", "exec"), names)
        return names["answer"]


@dataclass(kw_only=True)
class Exercise:
    """What all exercises share. `key` is where a notebook finds it, "basics.psi_half"; `number` its place, "1.3".

    question and after: Markdown, before and after the options. given: the code with a blank, up to the definition of
    `answer`, or without one: the code in which a bug is to be found; reference: the same, solved. why: the explanation
    shown with the solution and a right answer. wrongs: the wrong answers that tempt; the first that agrees with the
    learner's says what is wrong with it. Messages, hints and `why` may hold `code` and $LaTeX$.
    rights, other_wrongs: for tests, source of differently written right answers, and of further wrong ones, each with
    a part of what is said of it.
    """

    key: str
    number: str
    task: str  # predict, complete, write, find the bug or break it
    question: str
    after: str = ""
    given: str = "answer = ____"
    reference: str
    why: str
    hints: tuple[str, ...]
    rights: tuple[str, ...] = ()
    wrongs: tuple[Wrong, ...] = ()
    other_wrongs: tuple[tuple[str, str], ...] = ()
    _shown: int = field(default=0, init=False, repr=False)

    def __repr__(self) -> str:
        return f"Exercise {self.number}: {self._how()}, {self.name}.hint(), {self.name}.solution()"

    @property
    def name(self) -> str:
        """What the notebook calls it: "q1_3"."""
        return "q" + self.number.replace(".", "_")

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
        """Show what is right or wrong with `answer`, and remember a right one. Never raises."""
        outcome, text, html = self._response(answer, *more)
        _rich.show(text, html)
        return outcome

    def hint(self, number: int | None = None) -> None:
        """Show the next hint, or hint `number` (from 1)."""
        count, call = len(self.hints), f"{self.name}.hint"
        wanted = self._shown + 1 if number is None else number
        label = ""
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
            text = f"Ask for a hint by its number, {call}(1) to {call}({count}), or for the next one with {call}()."
        elif wanted > count:
            text = f"There is no further hint, {count} is the last. {self.name}.solution() shows the answer and why."
        else:
            self._shown = wanted
            label, text = f"Hint {wanted} of {count}", self.hints[wanted - 1]
        html = _wording.boxed(label or "Hints", _wording.BLUE, _wording.marked_up(text))
        _rich.show(_wording.wrapped(f"{label}: {text}" if label else text), html)

    def solution(self) -> None:
        """Show the answer and the reason."""
        html = self._solved_html() + _wording.marked_up(self.why)
        _rich.show(f"{self._solved()}\n\n{_wording.wrapped(self.why)}", _wording.boxed("Solution", _wording.BLUE, html))

    def _response(self, answer, *more) -> tuple[Outcome, str, str]:
        """What becomes of an answer, as text and as HTML; a right one is remembered."""
        try:
            outcome = (
                self._judge_safely(answer) if not more else Outcome(WRONG, "Give `check` one answer, not several.")
            )
        except KeyboardInterrupt:  # the notebook's stop button
            raise
        except BaseException as error:  # something that no check foresaw; the notebook must go on
            reason = _wording.error_text(error)
            outcome = Outcome(ERROR, f"This answer cannot be examined ({reason}). {self._expects()}")
        opening = f"Exercise {self.number} is open. " if outcome.kind == OPEN else ""
        verdict = {CORRECT: "Correct. ", WRONG: "Not yet. ", ERROR: "", OPEN: opening}[outcome.kind]
        kept = {CORRECT: _progress.record, OPEN: _progress.recall}.get(outcome.kind, lambda *_: "")
        remarks = [r for r in (self._remark(answer) if not more else "", kept(self.number, self.key)) if r]
        text = "\n".join(map(_wording.wrapped, [verdict + outcome.message, *remarks]))
        label, colour = LOOKS[outcome.kind]
        html = _wording.marked_up("\n".join([opening + outcome.message, *remarks]))
        return outcome, text, _wording.boxed(label, colour, html)

    def _cell(self, code: str) -> str:
        return f"{self.name} = exercises.{self.key}\n{code}\n{self.name}.check(answer)"

    def _how(self) -> str:
        return f"{self.name}.check(answer)"

    def _invitation(self) -> str:
        first = (
            "Replace ____ by your answer and run this cell again."
            if "____" in self.given
            else "This is still the code as given, and something in it is wrong. Change it and run this cell again."
        )
        return f"{first} {self._helps()}"

    def _helps(self) -> str:
        return f"{self.name}.hint() gives a hint, {self.name}.solution() shows the answer and why."

    def _remark(self, answer) -> str:
        """A line below the verdict, or ""."""
        return ""

    def _solved(self) -> str:
        return self.reference

    def _solved_html(self) -> str:
        return _wording.code(self.reference)

    def _options(self) -> str:
        return ""

    def _expects(self) -> str:
        raise NotImplementedError

    def _judge(self, answer) -> str:
        """The explanation of a right answer; raises Verdict for any other."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """What must not count as the learner's time."""

    def _judge_safely(self, answer) -> Outcome:
        def judged() -> str:
            if answer is None or holds_blank(answer):
                raise Verdict(OPEN, self._invitation())
            return self._judge(answer)

        try:
            with _limits.undisturbed():
                self._prepare()
                return Outcome(CORRECT, _limits.within(_limits.SECONDS, judged))
        except Verdict as verdict:
            return verdict.outcome
        except _limits.TooLong as error:
            where = _wording.error_line(error, answer)
            return Outcome(
                ERROR,
                f"Your code was still running after {_limits.SECONDS:g} seconds and was stopped{where}. "
                "Is there a loop that never ends?",
            )


@dataclass(kw_only=True, repr=False)
class Choice(Exercise):
    """One of several options. options: letter -> (text, why it tempts and is wrong; "" for the right one).

    A notebook asks it with buttons, `ask()`. The first answer is the prediction: it is remembered.
    """

    options: dict[str, tuple[str, str]]
    reference: str = ""  # follows from the options
    _answers: list[str] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self):
        self.right = next(letter for letter, (_, wrong) in self.options.items() if not wrong)
        self.reference = f'answer = "{self.right}"'
        self.rights = (self.reference, f'answer = " ({self.right.upper()}) "')
        self.wrongs = tuple(Wrong(f'answer = "{c}"', wrong) for c, (_, wrong) in self.options.items() if wrong)

    @property
    def start(self) -> str:
        """The notebook's cell as the learner gets it."""
        return f"{self.name} = exercises.{self.key}\n{self.name}.ask()"

    @property
    def answer_code(self) -> str:
        """The same cell, solved."""
        return f'{self.name} = exercises.{self.key}\n{self.name}.check("{self.right}")'

    def ask(self) -> None:
        """Show a button for each option; what `check` says of the one that is clicked appears below them."""
        _, text, html = self._response(____)
        options = {letter: text for letter, (text, _) in self.options.items()}
        _buttons.show(options, lambda letter: self._response(letter)[1:], text, html)

    def _options(self) -> str:
        return "\n".join(f"- **{letter}**: {text}" for letter, (text, _) in self.options.items())

    def _how(self) -> str:
        return f"{self.name}.ask()"

    def _expects(self) -> str:
        return f'Answer with one of the letters {", ".join(self.options)} in quotes, such as {self.name}.check("a").'

    def _invitation(self) -> str:
        return f'Run this cell and click the letter of your answer, or write {self.name}.check("a"). {self._helps()}'

    def _letter(self, answer) -> str:
        """The option that is meant, or ""."""
        lone = re.fullmatch(r"\W*(?:option\b)?\W*(\w)\W*", answer.lower()) if isinstance(answer, str) else None
        return lone[1] if lone and lone[1] in self.options else ""

    def _judge(self, answer) -> str:
        if not isinstance(answer, str):
            raise Verdict(WRONG, f"You gave {_wording.described(answer)}. {self._expects()}")
        letter = self._letter(answer)
        if not letter:
            raise Verdict(WRONG, f"There is no option {_wording.shortened(repr(answer), 20)}. {self._expects()}")
        wrong = self.options[letter][1]
        if wrong:
            raise Verdict(WRONG, wrong)
        return self.why

    def _remark(self, answer) -> str:
        letter = self._letter(answer)
        if not letter:
            return ""
        earlier = list(self._answers)
        self._answers.append(letter)
        if not earlier:
            return f"Your answer is {letter}. It is kept as your first."
        first = "as at first" if letter == earlier[0] else f"and your first was {earlier[0]}"
        found = f" You have found the right one, {self.right}, before." if self.right in earlier else ""
        return f"Your answer is now {letter}, {first}.{found if letter != self.right else ''}"

    def _solved(self) -> str:
        return _wording.wrapped(f"{self.right}: {self.options[self.right][0]}")

    def _solved_html(self) -> str:
        return f"<p>{_wording.marked_up(f'{self.right}: {self.options[self.right][0]}')}</p>"


@dataclass(kw_only=True, repr=False)
class Number(Exercise):
    """A number, right if no more than `within` from `expected`. otherwise: what to say of a value not foreseen."""

    expected: float
    within: float
    otherwise: str

    def _expects(self) -> str:
        return "This exercise asks for a number, such as answer = 0.25."

    def _judge(self, answer) -> str:
        value = self._number(answer)
        if abs(value - self.expected) <= self.within:
            return self.why
        for wrong in self.wrongs:
            if abs(value - wrong.answer) <= self.within:
                raise Verdict(WRONG, wrong.message)
        size = "too large" if value > self.expected else "too small"
        if abs(value - self.expected) <= 3 * self.within:
            raise Verdict(WRONG, f"Close, but {value:.4g} is a little {size}: give one more digit, or a fraction.")
        raise Verdict(WRONG, f"{value:.4g} is {size}. {self.otherwise}")

    def _number(self, answer) -> float:
        if is_tensor(answer) and answer.numel() != 1:
            raise Verdict(WRONG, f"You gave a tensor of shape {tuple(answer.shape)}. {self._expects()}")
        if isinstance(answer, (bool, complex)) or (callable(answer) and not is_tensor(answer)):
            raise Verdict(WRONG, f"You gave {_wording.described(answer)}. {self._expects()}")
        try:
            value = _arithmetic(answer) if isinstance(answer, str) else float(answer)
        except Exception:
            raise Verdict(WRONG, f"You gave {_wording.described(answer)}. {self._expects()}") from None
        if value != value or abs(value) == float("inf"):
            raise Verdict(WRONG, f"Your answer is {value}. Was there a division by zero, or a ____ left in it?")
        return value


@dataclass(kw_only=True, repr=False)
class Code(Exercise):
    """A function of `arguments`. A subclass decides in `_examine`, which calls the answer through `_call` only.

    yours: the last right answer of this session, or None: a cell of the notebook may draw with it.
    """

    arguments: tuple[str, ...]
    yours: Callable | None = field(default=None, init=False)

    def _expects(self) -> str:
        return f"This exercise asks for a function answer({', '.join(self.arguments)})."

    def _judge(self, answer) -> str:
        if not callable(answer):
            advice = f" Give the function itself, {self.name}.check(answer), and do not call it."
            asked = self._expects() + (advice if is_tensor(answer) else "")
            raise Verdict(WRONG, f"You gave {_wording.described(answer)}. {asked}")
        try:
            signature = inspect.signature(answer)
        except (TypeError, ValueError):
            signature = None  # some built-in functions have none
        if signature:
            try:
                signature.bind(*self.arguments)
            except TypeError:
                raise Verdict(
                    WRONG,
                    f"Your function must take {len(self.arguments)} arguments, ({', '.join(self.arguments)}); "
                    f"it takes {_wording.shortened(str(signature), 80)}.",
                ) from None
        if "____" not in self.given and _same_code(answer, self._given_answer()):
            raise Verdict(OPEN, self._invitation())
        self._examine(answer)
        self.yours = answer
        return self.why

    def _given_answer(self) -> Callable:
        return Wrong(self.given, "").answer

    def _examine(self, answer: Callable) -> None:
        raise NotImplementedError

    def _run(self, answer: Callable, arguments: tuple):
        """What `answer` returns; raises Verdict if it raises, holds a blank, or changes a tensor that it is given."""
        trained = (torch.nn.Module, torch.optim.Optimizer)  # these are there to be changed
        given = tuple(a.clone() if is_tensor(a) else a if isinstance(a, trained) else copy.copy(a) for a in arguments)
        uses = Blank.uses
        try:
            value = answer(*given)
        except (KeyboardInterrupt, _limits.TooLong):
            raise
        except BaseException as error:
            if Blank.uses > uses:
                raise Verdict(OPEN, self._invitation()) from None
            raise Verdict(ERROR, self._explain(error, answer, arguments)) from None
        if Blank.uses > uses or holds_blank(value):
            raise Verdict(OPEN, self._invitation())
        for name, before, after in zip(self.arguments, arguments, given, strict=True):
            if is_tensor(before) and not torch.equal(before, after):
                raise Verdict(
                    WRONG,
                    f"Your function changes its input {name} in place, as `{name} += ...` does. The caller still needs "
                    f"it: write {name} = {name} + ... or use a new name.",
                )
        return value

    def _call(self, answer: Callable, arguments: tuple) -> Tensor:
        """The tensor that `answer` returns; raises Verdict if it is none, and wherever `_run` does."""
        value = self._run(answer, arguments)
        if value is None:
            raise Verdict(WRONG, "Your function returns None. Is a `return` missing?")
        if not is_tensor(value):
            raise Verdict(WRONG, f"Your function returns {_wording.described(value)}. It must return a torch tensor.")
        if value.is_complex():
            raise Verdict(WRONG, "Your function returns complex numbers. Is there a root of a negative number?")
        return value.cpu()

    def _explain(self, error: BaseException, answer: Callable, arguments: tuple) -> str:
        text = f"Your code stopped with {_wording.error_text(error)}{_wording.error_line(error, answer) or '.'}"
        t = dict(zip(self.arguments, arguments, strict=True)).get("t")
        if "must match the size of tensor" in text and is_tensor(t) and t.ndim == 1:
            text += "\nHere t has shape (batch,). Write t[:, None] to make it a column, which goes with (batch, d)."
        elif "must match the size of tensor" in text:
            text += "\nShapes are matched from the right: a number per row, shape (n,), goes with (n, d) as a[:, None]."
        if "modified by an inplace operation" in text:
            text += "\nA step of the optimiser changes the weights in place: call loss.backward() before it."
        return text


@dataclass(kw_only=True, repr=False)
class Function(Code):
    """A function that must agree with `truth` on every case, in values, shape and dtype.

    cases(generator): argument tuples. Their floating tensors are float64, and each case is tried in float64 and in
    float32; all else, such as tokens and labels, is handed over as it is. An integer or boolean truth is met exactly.
    """

    truth: Callable
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
                for wrong in self.wrongs:
                    if _agree(got, [wrong.answer(*case) for case in wide], tolerance):
                        raise Verdict(WRONG, wrong.message)
                for case, value, right in zip(wide, got, expected, strict=True):
                    self._compare(case, value, right, tolerance)
            for case, value, right in zip(inputs, got, expected, strict=True):
                self._compare_dtypes(case, value, right, dtype)

    def _compare(self, case: tuple, value: Tensor, right: Tensor, tolerance: float) -> None:
        value = value.detach()
        if value.shape != right.shape:
            first = next((n, a) for n, a in zip(self.arguments, case, strict=True) if is_tensor(a))
            raise Verdict(
                WRONG,
                f"For {first[0]} of shape {tuple(first[1].shape)} your function returns shape {tuple(value.shape)}, "
                f"and shape {tuple(right.shape)} is expected.",
            )
        if not torch.isfinite(value.double()).all():
            raise Verdict(
                WRONG,
                "Your function returns NaN or infinity. Is there a division by zero, or a root or logarithm of a "
                "negative number?",
            )
        if not _agree([value], [right], tolerance):
            gap = (value.double() - right.double()).abs()
            row, batch = int(gap.flatten(1).amax(1).argmax()) if gap.ndim > 1 else 0, len(right) if right.ndim else 0
            shown = [f"{n} = {_wording.numbers(a, row, batch)}" for n, a in self._shown_inputs(case)]
            at = f"For {', '.join(shown)} you return" if right.ndim else "On random input you return"
            raise Verdict(
                WRONG,
                f"{at} {_wording.numbers(value, row, batch)}; expected is {_wording.numbers(right, row, batch)}. "
                f"{self.name}.hint() helps.",
            )

    def _compare_dtypes(self, case: tuple, value: Tensor, right: Tensor, dtype: torch.dtype) -> None:
        follows = _floating(right) and any(_floating(a) for a in case)  # the result's dtype is to be the input's
        if follows and value.dtype != dtype:
            raise Verdict(
                WRONG,
                f"The numbers are right, but for {_wording.dtype_name(dtype)} input your function returns "
                f"{_wording.dtype_name(value.dtype)}. Keep the dtype of the input: no .float(), .double() or float64 "
                "constants.",
            )
        if not follows and value.dtype != right.dtype:
            raise Verdict(
                WRONG,
                f"The numbers are right, but your function returns {_wording.dtype_name(value.dtype)}, and "
                f"{_wording.dtype_name(right.dtype)} is expected.",
            )

    def _shown_inputs(self, case: tuple) -> list[tuple]:
        """The arguments that can be printed: numbers, and tensors with one row for each point."""
        batch = next(len(a) for a in case if is_tensor(a) and a.ndim)

        def printable(a) -> bool:
            return a.ndim == 0 or len(a) == batch if is_tensor(a) else isinstance(a, (int, float))

        return [(n, a) for n, a in zip(self.arguments, case, strict=True) if printable(a)]


@dataclass(kw_only=True, repr=False)
class Property(Code):
    """A function with many right answers. examine(call) asks `call(*arguments)` and returns what is wrong, or ""."""

    examine: Callable[[Callable[..., Tensor]], str]

    def _examine(self, answer: Callable) -> None:
        problem = self.examine(lambda *arguments: self._call(answer, arguments))
        if problem:
            raise Verdict(WRONG, problem)


def _arithmetic(text: str) -> float:
    """The value of "0.59", "10/17" or "1/e": numbers, e and pi, with + - * / and brackets; any error for other text."""
    operators = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
    signs = {ast.UAdd: operator.pos, ast.USub: operator.neg}

    def value(node) -> float:
        if isinstance(node, ast.BinOp):
            return operators[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp):
            return signs[type(node.op)](value(node.operand))
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return float(node.value)
        return {"e": math.e, "pi": math.pi}[node.id]

    return value(ast.parse(text.strip(), mode="eval").body)


def _same_code(a: Callable, b: Callable) -> bool:
    """Do two functions run the same instructions? Names of files, line numbers and comments do not matter."""

    def parts(code) -> tuple:
        constants = tuple(parts(c) if hasattr(c, "co_code") else (type(c), c) for c in code.co_consts)
        return code.co_code, code.co_names, code.co_varnames, constants

    codes = [getattr(function, "__code__", None) for function in (a, b)]
    return None not in codes and parts(codes[0]) == parts(codes[1])


def _floating(value) -> bool:
    return is_tensor(value) and value.is_floating_point()


def _cast(case: tuple, dtype: torch.dtype) -> tuple:
    return tuple(a.to(dtype) if _floating(a) else a for a in case)


def _agree(got: list[Tensor], expected: list[Tensor], tolerance: float) -> bool:
    """Have both the same shapes and values? Whole numbers must be equal, others within the tolerance."""
    return all(_close(a.detach(), b.detach(), tolerance) for a, b in zip(got, expected, strict=True))


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.shape != b.shape:
        return False
    if _floating(b):
        tolerance = tolerance if b.dtype == torch.float64 else 1e-3
        return torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance)
    return bool((a == b).all())
