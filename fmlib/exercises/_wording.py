"""How an exercise puts things to the learner: short sentences, the same every time, wrapped."""

import inspect
import re
import textwrap
import traceback

import torch
from torch import Tensor

from fmlib.exercises._blank import is_tensor

INVITATION = (
    "Replace ____ by your answer and run this cell again. q.hint() gives a hint, q.solution() shows the answer and why."
)


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
