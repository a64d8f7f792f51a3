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
    within=None,
    standard_error=None,
    at_most=None,
    at_least=None,
    differs_from=None,
) -> None:
    """Print one line of evidence for `statement`, and raise `ClaimError` if it does not hold.

    The measured value (a number, or a tensor, whose worst entry counts) must, as given,
    - equal `expected` to an absolute tolerance `within`, or to four times its `standard_error`;
    - be `at_most` or `at_least` a bound;
    - differ from `differs_from` by more than four times its `standard_error`, or more than `within` (a control that
      must fail). NaN never holds. Numbers are printed to four significant digits.

    What it is compared with, and tolerances, are numbers, or have the shape of what was measured or of its last axes.
    The line shows the entry that is the most tolerances away from holding. TypeError or ValueError for anything else,
    and for integers above 2^53, which float64 does not tell apart.

    >>> claim("two and two make four", 2 + 2, 4, within=0)
    holds: two and two make four | measured 4, expected 4
    """
    tests = [expected is not None, at_most is not None, at_least is not None, differs_from is not None]
    if sum(tests) != 1:
        raise TypeError("a claim needs one of: expected, at_most, at_least, differs_from")
    comparing = expected is not None or differs_from is not None
    if comparing == (within is None and standard_error is None) or None not in (within, standard_error):
        raise TypeError("to compare two values a claim needs within= or standard_error=, one of them; a bound neither")

    value, error = _numbers("measured", measured), None
    if comparing:
        name, given = ("expected", expected) if differs_from is None else ("differs_from", differs_from)
        value, reference = _alike(value, name, given)
        name, given = ("within", within) if standard_error is None else ("standard_error", standard_error)
        _, tolerance = _alike(value, name, given)
        if (bad := tolerance[(tolerance < 0) | tolerance.isinf()]).numel():  # NaN may pass: nothing holds within it
            raise ValueError(f"{name} must be at least 0 and finite, got {bad[0]:g}")
        value, reference, tolerance = torch.broadcast_tensors(value, reference, tolerance)
        if standard_error is not None:
            error, tolerance = tolerance, 4 * tolerance
        apart = (value - reference).abs()
        holds = apart <= tolerance if differs_from is None else apart > tolerance
        away = (apart / tolerance.clamp(min=1e-200)).flatten()  # in tolerances; without any, the largest is the worst
        index = away.argmax() if differs_from is None else away.argmin()  # of both NaN is the first choice
        expectation = (
            f"{'expected' if differs_from is None else 'must differ from'} {_show(reference.flatten()[index])}"
        )
        limit = tolerance.flatten()[index]
        if within is not None and limit != 0:
            expectation += f" within {_show(limit)}, apart by {float(apart.flatten()[index]):.0e}"
    else:
        name, given = ("at_most", at_most) if at_least is None else ("at_least", at_least)
        value, reference = _alike(value, name, given)
        holds = value <= reference if at_least is None else value >= reference
        over = value - reference if at_least is None else reference - value
        index = over.flatten().argmax()
        expectation = f"{name.replace('_', ' ')} {_show(reference.flatten()[index])}"
    shown = _show(value.flatten()[index])
    if error is not None:
        shown += f" ± {_show(error.flatten()[index])}"
    if value.numel() > 1:
        shown += f" (the worst of {value.numel()})"
    line = f"{statement} | measured {shown}, {expectation}"
    if not holds.all():
        raise ClaimError(f"FAILS: {line}")
    print(f"holds: {line}")
    _made.append(line)


def recap() -> None:
    """Print every claim made so far in this session, numbered: the notebook's evidence in one table."""
    for number, line in enumerate(dict.fromkeys(_made), start=1):
        print(f"{number:2d}. {line}")


def _numbers(name: str, value) -> torch.Tensor:
    """`value`, a real number or an array or list of them, in float64, or TypeError or ValueError."""
    if isinstance(value, list | tuple) and value:
        parts = [_numbers(name, part) for part in value]
        if any(part.shape != parts[0].shape for part in parts):
            raise ValueError(f"{name} must be a number or a tensor, got rows of unequal shapes")
        return torch.stack(parts)
    if not isinstance(value, torch.Tensor):
        try:
            # Python's numbers one by one: by default a float would lose half of its digits
            kind = None if hasattr(value, "dtype") or isinstance(value, complex | int) else torch.float64
            value = torch.as_tensor(value, dtype=kind)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise TypeError(f"{name} must be a number or a tensor of at most 64 bits, got {value!r}"[:300]) from None
    if value.is_complex():
        raise TypeError(f"{name} must be real, got {value.dtype}")
    value = value.detach().cpu()
    if not value.numel():
        raise ValueError(f"{name} is empty: shape {tuple(value.shape)}")
    if not value.is_floating_point() and value.dtype != torch.bool:
        largest = max(int(value.max()), -int(value.min()))
        if largest > 2**53:
            raise ValueError(f"{name} must not exceed 2**53 in size, where float64 tells integers apart, got {largest}")
    return value.double()


def _alike(value: torch.Tensor, name: str, other) -> tuple[torch.Tensor, torch.Tensor]:
    """`value` and `other` as numbers in one shape: that of `value`, or of `other` where `value` is a single number."""
    other = _numbers(name, other)
    fits = other.shape == value.shape[max(0, value.ndim - other.ndim) :]  # as a whole, or row by row
    if not fits and 1 not in (other.numel(), value.numel()):
        raise ValueError(f"{name} must be a number or of shape {tuple(value.shape)}, got {tuple(other.shape)}")
    shape = other.shape if value.numel() == 1 else value.shape
    return tuple(v.expand(shape) if v.numel() > 1 else v.reshape(()).expand(shape) for v in (value, other))


def _show(value) -> str:
    number = float(value)
    return (
        f"{int(number)}" if math.isfinite(number) and number == int(number) and abs(number) < 1e6 else f"{number:.4g}"
    )
