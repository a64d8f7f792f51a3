"""A claim is an experiment: it prints what was measured next to what was expected, and raises if they disagree."""

import math

import torch

_made: list[str] = []


class ClaimError(AssertionError):
    """A claim that does not hold."""


def claim(
    statement: str,
    measured,
    expected=None,
    *,
    within: float | None = None,
    standard_error=None,
    at_most: float | None = None,
    at_least: float | None = None,
    differs_from=None,
) -> None:
    """Print one line of evidence for `statement`, and raise `ClaimError` if it does not hold.

    The measured value (a number, or a tensor, whose worst entry counts) must, as given,
    - equal `expected` to an absolute tolerance `within`, or to four times its `standard_error`;
    - be `at_most` or `at_least` a bound;
    - differ from `differs_from` by more than four times its `standard_error`, or more than `within` (a control that
      must fail). NaN never holds. Numbers are printed to four significant digits.

    >>> claim("two and two make four", 2 + 2, 4, within=0)
    holds: two and two make four | measured 4, expected 4
    """
    tests = [expected is not None, at_most is not None, at_least is not None, differs_from is not None]
    if sum(tests) != 1:
        raise TypeError("a claim needs one of: expected, at_most, at_least, differs_from")
    comparing = expected is not None or differs_from is not None
    if comparing == (within is None and standard_error is None) or None not in (within, standard_error):
        raise TypeError("to compare two values a claim needs within= or standard_error=, one of them; a bound neither")

    value, error = _tensor(measured), None if standard_error is None else _tensor(standard_error)
    if not value.numel():
        raise ValueError("measured is empty: nothing was measured")
    if at_most is not None:
        holds, expectation = bool((value <= at_most).all()), f"at most {_show(at_most)}"
        worst = value.max()
    elif at_least is not None:
        holds, expectation = bool((value >= at_least).all()), f"at least {_show(at_least)}"
        worst = value.min()
    else:
        reference = _tensor(expected if differs_from is None else differs_from)
        tolerance = 4 * error if error is not None else _tensor(within)
        gap = (value - reference).abs() - tolerance
        index = gap.flatten().argmax() if differs_from is None else gap.flatten().argmin()
        holds = bool((gap <= 0).all()) if differs_from is None else bool((gap > 0).all())
        worst, other = (v.expand(gap.shape).flatten()[index] for v in (value, reference))
        error = None if error is None else error.expand(gap.shape).flatten()[index]
        expectation = f"{'expected' if differs_from is None else 'must differ from'} {_show(other)}"
        if within:
            expectation += f" within {_show(within)}, apart by {float((worst - other).abs()):.0e}"
    shown = _show(worst) + ("" if error is None else f" ± {_show(error)}")
    if value.numel() > 1:
        shown += f" (the worst of {value.numel()})"
    line = f"{statement} | measured {shown}, {expectation}"
    if not holds:
        raise ClaimError(f"FAILS: {line}")
    print(f"holds: {line}")
    _made.append(line)


def recap() -> None:
    """Print every claim made so far in this session, numbered: the notebook's evidence in one table."""
    for number, line in enumerate(dict.fromkeys(_made), start=1):
        print(f"{number:2d}. {line}")


def _tensor(value) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().double()
    return torch.as_tensor(value, dtype=torch.float64)  # by default a Python float would lose half of its digits


def _show(value) -> str:
    number = float(value)
    return (
        f"{int(number)}" if math.isfinite(number) and number == int(number) and abs(number) < 1e6 else f"{number:.4g}"
    )
