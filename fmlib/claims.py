"""A claim is an experiment: it shows what was measured next to what was expected, and raises if they disagree."""

import html
import math
import re
from typing import NamedTuple

import torch

from fmlib import _rich


class Row(NamedTuple):
    """A claim: where it was made, what it says, both sides, the share of the margin that was used, and whether it held.

    cell, run: which cell of a notebook made it, "" where that is not known, and in which of its executions.
    """

    section: str
    statement: str
    measured: str
    expectation: str
    used: float  # NaN where there is no margin to speak of
    held: bool = True
    cell: str = ""
    run: int = 0

    @property
    def line(self) -> str:
        """The row as text."""
        return f"{self.statement} | measured {self.measured}, {self.expectation}"


# Pieces of the HTML, styled where they stand: a page that shows them may know no style sheet of ours
TICK = "<b style='color:var(--jp-success-color1,#00804f)' title='holds'>&#10003;</b>"
CROSS = "<b style='color:var(--jp-error-color1,#b00020)'>&#10007; FAILS:</b>"
LEFT = "style='text-align:left'"
LINE = "border-bottom:1px solid rgba(128,128,128,0.3)"

_made: list[Row] = []
_section = ""


class ClaimError(AssertionError):
    """A claim that does not hold."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: one red line, as the way here through `claim` says nothing."""
        return [f"\x1b[31m{type(self).__name__}: {self}\x1b[0m"]


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
    """Show one line of evidence for `statement`, and raise `ClaimError` if it does not hold.

    The measured value (a number, or a tensor, whose worst entry counts) must, as given,
    - equal `expected` to an absolute tolerance `within`, or to four times its `standard_error`;
    - be `at_most` or `at_least` a bound;
    - differ from `differs_from` by more than four times its `standard_error`, or more than `within` (a control that
      must fail). NaN never holds. Numbers are printed to four significant digits.

    What it is compared with, and tolerances, are numbers, or have the shape of what was measured or of its last axes.
    The line shows the entry that is the most tolerances away from holding. A notebook shows it as HTML, with the share
    of the margin that this entry used: of the tolerance, or of the bound. TypeError or ValueError for anything else,
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
        gap = apart.flatten()[index]
        used = _share(gap, limit) if differs_from is None else _share(limit, gap)
        if within is not None and limit != 0:
            expectation += f" within {_show(limit)}, apart by {float(gap):.0e}"
    else:
        name, given = ("at_most", at_most) if at_least is None else ("at_least", at_least)
        value, reference = _alike(value, name, given)
        holds = value <= reference if at_least is None else value >= reference
        over = value - reference if at_least is None else reference - value
        index = over.flatten().argmax()
        bound, worst = reference.flatten()[index], value.flatten()[index]
        expectation = f"{name.replace('_', ' ')} {_show(bound)}"
        used = _share(worst, bound) if at_least is None else _share(bound, worst)
    shown = _show(value.flatten()[index])
    if error is not None:
        shown += f" ± {_show(error.flatten()[index])}"
    if value.numel() > 1:
        shown += f" (the worst of {value.numel()})"
    held = bool(holds.all())
    if error is not None and not held:
        expectation += f", {_show(gap / error.flatten()[index])} standard errors apart"
    row = _noted(Row(_section, statement, shown, expectation, used if held else math.nan, held, *_place()))
    if not held:
        raise ClaimError(f"FAILS: {row.line}")
    _rich.show(f"holds: {row.line}", _as_html(row))


def _place() -> tuple[str, int]:
    """The cell that runs and the number of its execution, as far as the notebook's page tells the kernel."""
    shell = _rich.shell()
    request = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return request.get("metadata", {}).get("cellId", ""), getattr(shell, "execution_count", 0)


def _noted(row: Row) -> Row:
    """Put the row among those made: last, or in the place and section of what an earlier run of its cell said."""
    for i, made in enumerate(_made):
        if made.cell == row.cell != "" and made.statement == row.statement and made.run != row.run:
            row = row._replace(section=made.section)
            _made[i] = row
            return row
    _made.append(row)
    return row


def section(title: str) -> None:
    """Claims from here on belong to the section `title`, under which `recap` lists them."""
    global _section
    _section = title


def recap() -> None:
    """Show every claim made so far in this session, by section: the notebook's evidence in one table.

    Of a cell that was run again only the latest counts. A claim that fell is listed as such.
    """
    rows = list(dict.fromkeys(_made))
    lines, table, section = [], [], ""
    for number, row in enumerate(rows, start=1):
        if row.section != section:
            section = row.section
            lines.append(section)
            table.append(f"<tr><th colspan='4' {LEFT}>{html.escape(section)}</th></tr>")
        lines.append(f"{number:2d}. {'' if row.held else 'FAILS: '}{row.line}")
        cells = (
            f"{TICK if row.held else CROSS} {html.escape(row.statement)}",
            html.escape(row.measured),
            html.escape(row.expectation),
        )
        table.append("<tr>" + "".join(f"<td {LEFT}>{cell}</td>" for cell in (*cells, _margin(row))) + "</tr>")
    if rows:
        fell = sum(not row.held for row in rows)
        caption = f"{len(rows) - fell} claims held" + (f", {fell} fell." if fell else ".")
        titles = ("claim", "measured", "expected", "of the margin used")
        head = "".join(f"<th {LEFT}>{title}</th>" for title in titles)
        body = "".join(table)
        _rich.show(
            "\n".join(lines),
            f"<div style='overflow-x:auto'><table style='min-width:38em'><caption {LEFT}>{caption}</caption>"
            f"<tr>{head}</tr>{body}</table></div>",
        )


def _share(part, whole) -> float:
    """part / whole, or NaN where that is no share."""
    part, whole = float(part), float(whole)
    return part / whole if 0 <= part <= whole and whole > 0 else math.nan


def _margin(row: Row) -> str:
    return "" if math.isnan(row.used) else f"{100 * row.used:.0f} %"


def _as_html(row: Row) -> str:
    """What is claimed, and beside it the numbers in columns; on a narrow page below it, and no number is broken."""
    measured, worst, of = row.measured.partition(" (the worst")
    worst = f" {_unbroken('(the worst' + of)}" if worst else ""
    numbers = [
        ("flex:1 1 24em", f"measured <b>{_unbroken(measured)}</b>{worst}"),
        ("flex:1 1 24em", _unbroken(row.expectation)),
        ("flex:0 0 6em;white-space:nowrap;opacity:0.75", f"{_margin(row)} used" if _margin(row) else ""),
    ]
    inner = "".join(f"<span style='{style}'>{text}</span>" for style, text in numbers)
    wrap = "display:flex;flex-wrap:wrap;column-gap:1em"
    return (
        f"<div style='{wrap};padding:1px 0;{LINE}'>"
        f"<span style='flex:1 1 18em'>{TICK} {html.escape(row.statement)}</span>"
        f"<span style='{wrap};flex:0 1 57em'>{inner}</span></div>"
    )


def _unbroken(text: str) -> str:
    """The text as HTML that wraps between its parts only: a browser would break a number at its hyphen."""
    parts = re.split(r" (?=within |apart by )", text)
    return " ".join(f"<span style='white-space:nowrap'>{html.escape(part)}</span>" for part in parts)


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
