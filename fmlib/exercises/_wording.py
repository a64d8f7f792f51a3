"""How an exercise puts things to the learner: short sentences, the same every time, as wrapped text and as HTML."""

import html
import inspect
import re
import textwrap
import traceback

import torch
from torch import Tensor

from fmlib.exercises._blank import is_tensor

# White on these reads well, and they show on a light page and on a dark one
GREEN, AMBER, RED, GREY, BLUE = "#1a7f37", "#9a5b00", "#b3261e", "#5f6670", "#0b62b5"

CODE = r"`[^`]+`|q\d+_\d+\.\w+\([^()]*\)"  # what stands between backticks, and such as q1_2.check("a")
PHRASES = rf"({CODE}|\$[^$]+\$)"


def described(value) -> str:
    """What sort of thing `value` is: "a tensor of shape (2,)", "a string in quotes", "a list"."""
    name = type(value).__name__
    if is_tensor(value):
        return f"a tensor of shape {tuple(value.shape)}"
    if callable(value):
        return "a function"
    known = {"str": "a string in quotes", "bool": "True or False", "ndarray": "a NumPy array"}
    known["complex"] = "a complex number"
    return known.get(name) or f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def error_text(error: BaseException) -> str:
    """The error in one line that is the same every time: without addresses."""
    try:
        text = str(error)
    except Exception:  # an error of the learner's own may fail even at that
        text = ""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", text).strip().split("\n")[0]
    return type(error).__name__ + (f": {shortened(text, 200)}" if text else "")


def error_line(error: BaseException, answer) -> str:
    """ ", in line 3:" and that line, the deepest one that lies in the file (or cell) of `answer`."""
    code = getattr(inspect.unwrap(answer), "__code__", None) if callable(answer) else None
    frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    if not frames:
        return ""
    source = (frames[-1].line or "").strip()
    return f", in line {frames[-1].lineno}" + (f":\n    {shortened(source, 84)}" if source else "")


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def numbers(value: Tensor | float, row: int, batch: int) -> str:
    """A number, or row `row` of a tensor with `batch` rows: whole, or to three digits; of a long row the first few."""
    if not is_tensor(value):
        return _digits(value)
    if value.ndim and len(value) == batch:
        value = value[row]
    flat = [_digits(v) for v in value.flatten().tolist()]
    if len(flat) == 1:
        return flat[0]
    return f"[{', '.join(flat[:4])}{', ...' if len(flat) > 4 else ''}]"


def _digits(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value + 0.0:.3g}"


def shortened(text: str, length: int) -> str:
    """`text`, cut to `length` characters with dots at its end."""
    return text if len(text) <= length else text[: length - 3] + "..."


def wrapped(text: str) -> str:
    """Lines of at most 88 columns; a line that begins with spaces is code and stays."""
    return "\n".join(
        line if line.startswith(" ") else textwrap.fill(line, 88, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


def boxed(label: str, colour: str, body: str) -> str:
    """HTML: a bar of the colour at the left, the label on it, and the body, which is HTML."""
    badge = f'<b style="background-color:{colour};color:#ffffff;padding:1px 7px;border-radius:3px">{label}</b>'
    style = f"border-left:4px solid {colour};padding:2px 10px;margin:4px 0;max-width:50em;line-height:1.5"
    return f'<div style="{style}">{badge} {body}</div>'


def marked_up(text: str) -> str:
    """Prose as HTML: `code`, *emphasis*, $LaTeX$ for the page to typeset; a line that begins with spaces is code."""
    lines = []
    for line in text.split("\n"):
        if line.startswith(" "):
            lines.append(code(line.strip()))
        elif line:
            lines.append("".join(_phrase(part) for part in re.split(PHRASES, line)))
    return re.sub(r"(?<!</pre>)\n(?!<pre)", "<br>", "\n".join(lines))


def code(text: str) -> str:
    """HTML of a block of code."""
    return f'<pre style="margin:6px 0;padding:0">{html.escape(text, quote=False)}</pre>'


def _phrase(text: str) -> str:
    escaped = html.escape(text, quote=False)
    if re.fullmatch(CODE, text):
        return f"<code>{escaped.strip('`')}</code>"
    if text.startswith("$"):
        return escaped
    return re.sub(r"(?<![\w*])\*([A-Za-z](?:[\w -]*\w)?)\*(?![\w*])", r"<em>\1</em>", escaped)
