"""The map of the course as a picture: a box for each notebook, below what it needs; a link to its page."""

import html
import textwrap

PLACE = {  # column and row of each box
    "01": (0, 0), "14": (2, 0),
    "02": (0, 1),
    "03": (0, 2), "04": (1, 2), "05": (2, 2),
    "12": (0, 3), "07": (1, 3), "06": (2, 3),
    "13": (0, 4), "08": (1, 4), "10": (2, 4),
    "09": (1, 5), "11": (2, 5),
}  # fmt: skip
WIDE = {"01", "02"}  # two columns
ROWS = max(row for _, row in PLACE.values()) + 1
STEP, LINE, WIDTH, HEIGHT = (117, 62), 13, 105, 50  # in units of a picture 360 wide: text is as large on a phone


def svg(notebooks: dict[str, tuple[str, str, str, list[str]]]) -> str:
    """notebooks: title, page, minutes and needs by number. On one line, as Markdown wants it."""
    lines = [_line(parent, child) for child, (*_, needs) in notebooks.items() for parent in needs]
    boxes = [_box(number, *shown) for number, (*shown, _) in notebooks.items()]
    words = "; ".join(f"{child} needs {' and '.join(needs)}" for child, (*_, needs) in notebooks.items() if needs)
    size = f"0 0 360 {ROWS * STEP[1] + 2}"
    return f'<svg class="map" viewBox="{size}" role="group" aria-label="{words}">{"".join(lines + boxes)}</svg>'


def _corner(number: str) -> tuple[int, int, int]:
    """Left, top and width of a box."""
    column, row = PLACE[number]
    return 10 + column * STEP[0], 4 + row * STEP[1], WIDTH + STEP[0] * (number in WIDE)


def _line(parent: str, child: str) -> str:
    """From a box to one that needs it: beside it, right below it, or along the gap between the columns."""
    (x, y, width), (left, top, wide) = _corner(parent), _corner(child)
    if y == top:
        path = f"M{x + width},{y + HEIGHT // 2}H{left}"
    elif parent in WIDE:
        path = f"M{x + width // 2},{y + HEIGHT}V{top - 6}H{left + wide // 2}V{top}"
    else:
        edge = left if left == x else left + wide
        path = f"M{x},{y + HEIGHT // 2}h-6V{top + HEIGHT // 2}H{edge}"
    return f'<path d="{path}"/>'


def _box(number: str, title: str, page: str, minutes: str) -> str:
    x, y, width = _corner(number)
    text = [f"{number} · {minutes} min", *textwrap.wrap(title, 38 if number in WIDE else 16, break_on_hyphens=False)]
    first = y + (HEIGHT - LINE * len(text)) // 2 + 10
    spans = "".join(f'<tspan x="{x + width // 2}" y="{first + LINE * k}">{html.escape(line)}</tspan>'
                    for k, line in enumerate(text))  # fmt: skip
    box = f'<rect x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="5"/>'
    return f'<a href="{page}">{box}<text>{spans}</text></a>'
