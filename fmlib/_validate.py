"""Checks of shape, dtype, device and range, with one-sentence errors.

Every check names the argument, what came and what was expected. Shapes, dtypes and devices are always checked.
*Values* (finite data, 0 <= t <= 1) are checked on the CPU only: on an accelerator, reading a value would make the
host wait for the device in the middle of a training or sampling loop. A compiled function does not check them either:
it would fall into pieces there.
"""

import math
import operator

import torch
from torch import Tensor

UNHANDLED = (torch.uint16, torch.uint32, torch.uint64)  # formats that hardly any operation of torch knows


def batch(name: str, x: Tensor) -> Tensor:
    """Return `x` if it is a non-empty, finite, floating tensor of shape (batch, *dims)."""
    shaped(name, x)
    # A sum is one cheap pass that any NaN or infinity survives; only if it trips do we look at each entry.
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and not math.isfinite(x.detach().sum().item()):
        bad = int((~torch.isfinite(x)).sum())
        if bad:
            raise ValueError(f"{name} has {bad} NaN or infinite values among {x.numel()}")
    return x


def state(name: str, x: Tensor) -> Tensor:
    """Return `x` if it is a batch in a format that can add up small steps: in bfloat16, 1 + 1/1000 is 1."""
    if batch(name, x).dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, got {x.dtype}; precision='bf16' is for the velocity alone")
    return x


def points(name: str, x: Tensor) -> Tensor:
    """Return `x` if it is a batch, or one of integers (tokens) in its place."""
    whole = isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
    return axes(name, x) if whole else batch(name, x)


def tokens(name: str, x: Tensor, vocabulary: int | None = None) -> Tensor:
    """Return `x` if it is a non-empty integer tensor of shape (batch, positions), with values in [0, vocabulary)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"{name} must hold tokens, which are integers, got {x.dtype}")
    if x.dtype in UNHANDLED:
        raise TypeError(f"{name} must hold tokens in a dtype that torch can compare, got {x.dtype}: take {name}.long()")
    if x.ndim != 2 or not x.numel():
        raise ValueError(f"{name} must have shape (batch, positions), and be not empty, got {tuple(x.shape)}")
    if vocabulary is not None and x.device.type == "cpu" and not torch.compiler.is_compiling():
        for value in (int(x.min()), int(x.max())):
            if not 0 <= value < vocabulary:
                raise ValueError(f"{name} must hold tokens in [0, {vocabulary}), got {value}")
    return x


def logits(value: Tensor, x: Tensor) -> Tensor:
    """Return `value` if it is what a network says of the tokens `x`: logits (batch, positions, vocabulary)."""
    if not isinstance(value, Tensor):
        raise TypeError(f"logits must be a tensor, got {type(value).__name__}")
    if value.ndim != 3 or value.shape[:2] != x.shape:
        expected = f"({', '.join(map(str, x.shape))}, vocabulary)"
        raise ValueError(f"logits must have shape {expected} for tokens {tuple(x.shape)}, got {tuple(value.shape)}")
    if not value.is_floating_point():
        raise TypeError(f"logits must have a floating dtype, got {value.dtype}")
    return value


def law(name: str, table: Tensor) -> Tensor:
    """Return `table` if it is a law on finitely many things: a floating tensor, at least 0, with a sum of 1."""
    if not isinstance(table, Tensor) or not table.is_floating_point():
        came = table.dtype if isinstance(table, Tensor) else type(table).__name__
        raise TypeError(f"{name} must be a floating torch.Tensor, got {came}")
    total = table.sum().item()
    if (table < 0).any():
        raise ValueError(f"{name} must be at least 0 and sum to 1, got {table.min().item():g}")
    if not table.numel() or not abs(total - 1) <= 1e-5:
        raise ValueError(f"{name} must be at least 0 and sum to 1, got a sum of {total:g}")
    return table


def shaped(name: str, x: Tensor) -> Tensor:
    """Return `x` if it is a non-empty, floating tensor of shape (batch, *dims), whatever its values."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must have a floating dtype, got {x.dtype}; convert it with {name}.float()")
    return axes(name, x)


def axes(name: str, x: Tensor) -> Tensor:
    """Return the tensor `x` if it has shape (batch, *dims) and is not empty."""
    if x.ndim < 2:
        raise ValueError(f"{name} must have shape (batch, *dims) with at least two axes, got {tuple(x.shape)}")
    if x.numel() == 0:
        raise ValueError(f"{name} is empty: shape {tuple(x.shape)}")
    return x


def same(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Raise unless `a` and `b` agree in shape, dtype and device (so nothing is broadcast silently)."""
    if a.shape != b.shape:
        raise ValueError(f"{name_a} and {name_b} must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    alike(name_a, a, name_b, b)


def alike(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Raise unless `a` and `b` agree in dtype and device."""
    if a.dtype != b.dtype:
        raise TypeError(f"{name_a} and {name_b} must have one dtype, got {a.dtype} and {b.dtype}")
    if a.device != b.device:
        raise ValueError(f"{name_a} and {name_b} must be on one device, got {a.device} and {b.device}")


def time(t: float | Tensor, x: Tensor, name: str = "t") -> Tensor:
    """Return the time `t` as a tensor that broadcasts against `x`; the only place where that happens.

    `t` is a number, a 0-d tensor, or a tensor of shape (batch,), in [0, 1]. The result has the dtype and device of
    `x` and shape () or (batch, 1, ..., 1). Anything else, (batch, 1) too, is a ValueError or TypeError.
    """
    if isinstance(t, Tensor):
        if not t.is_floating_point():
            raise TypeError(f"{name} must have a floating dtype, got {t.dtype}")
        if t.device != x.device:
            raise ValueError(f"{name} and x must be on one device, got {t.device} and {x.device}")
        if t.ndim > 1 or (t.ndim == 1 and len(t) != len(x)):
            expected = f"() or ({len(x)},)"
            raise ValueError(f"{name} must have shape {expected} for x of shape {tuple(x.shape)}, got {tuple(t.shape)}")
        if t.device.type == "cpu" and t.numel() and not torch.compiler.is_compiling():
            low, high = (b.item() for b in (t.detach().aminmax() if t.ndim else (t, t)))  # both NaN if there is one
            if not 0 <= low <= high <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {high if 0 <= low else low:g}")
        t = t.to(x.dtype)
        return t.reshape(-1, *[1] * (x.ndim - 1)) if t.ndim else t
    if isinstance(t, bool) or not isinstance(t, int | float):
        raise TypeError(f"{name} must be a number or a tensor, got {type(t).__name__}")
    if not 0 <= t <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {t:g}")
    return torch.full((), float(t), dtype=x.dtype, device=x.device)


def span(t: float | Tensor, s: float | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return both times as `time` does, in one shape, if t <= s in every row."""
    start, end = torch.broadcast_tensors(time(t, x), time(s, x, "s"))
    if start.device.type == "cpu" and not torch.compiler.is_compiling() and (late := end < start).any():
        came = " and ".join(f"{v.detach()[late].flatten()[0].item():g}" for v in (end, start))
        raise ValueError(f"s must be at least t, got s and t {came}")
    return start, end


def average(network, x: Tensor, t: Tensor, s: Tensor, condition: dict) -> Tensor:
    """Return network(x, t, s=s, **condition), the average velocity from t to s, if the network has a second time."""
    try:
        value = network(x, t, s=s, **condition)
    except TypeError as error:
        if "keyword argument 's'" not in str(error):
            raise
        raise ValueError(f"a flow map needs a network with a second time, network(x, t, s=s), but {error}") from None
    return value


def is_rowwise(velocity) -> bool:
    """Whether a velocity or a step, or its class, has the attribute `rowwise = True`: see `sampling.is_rowwise`."""
    said = "rowwise" in vars(type(velocity)) or "rowwise" in getattr(velocity, "__dict__", {})
    return said and velocity.rowwise is True


def times(t: tuple[float, float], dtype: torch.dtype = torch.float64) -> tuple[float, float]:
    """Return the interval `t` = (start, end) as floats if both lie in [0, 1] and they differ, in `dtype` too."""
    try:
        start, end = (float(value) for value in t)
    except (TypeError, ValueError):
        raise TypeError(f"t must be a pair (start, end) of numbers, got {t!r}") from None
    if not (0 <= start <= 1 and 0 <= end <= 1) or start == end:
        raise ValueError(f"t must be two different times in [0, 1], got ({start:g}, {end:g})")
    if abs(end - start) < 1e-6 and torch.tensor(start, dtype=dtype) == torch.tensor(end, dtype=dtype):
        raise ValueError(f"t must be two times that differ in {dtype}, got ({start!r}, {end!r})")
    return start, end


def count(name: str, value: int, minimum: int = 1) -> int:
    """Return `value` as an int if it is an integer, NumPy's too, of at least `minimum`."""
    try:
        if isinstance(value, bool | Tensor):
            raise TypeError
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return value


def seed(value: int) -> int:
    """Return `value` if torch takes it as a seed: an integer from -2^63 to 2^64 - 1."""
    if count("seed", value, -(2**63)) >= 2**64:
        raise ValueError(f"seed must be less than 2^64, got {value}")
    return value


def positive(name: str, value: float) -> float:
    """Return `value` if it is a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return value


def choice(name: str, value: str, known) -> str:
    """Return `value` if it is one of `known`; the error lists them."""
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
    return value


def methods(name: str, thing, *wanted: str) -> None:
    """Raise TypeError unless `thing` has the methods of `wanted`, such as 'exp(x, v)'; a class only makes what has."""
    if isinstance(thing, type):
        raise TypeError(f"{name} must be an instance, got the class itself: write {thing.__name__}(...)")
    if not all(callable(getattr(thing, method.partition("(")[0], None)) for method in wanted):
        several, came = "methods" if len(wanted) > 1 else "a method", f"{type(thing).__name__} {thing!r}"[:80]
        raise TypeError(f"{name} must have {several} {' and '.join(wanted)}, got {came}")


def function(name: str, value, arguments: str) -> None:
    """Raise TypeError unless `value` can be called with these arguments; a class, which would be made, is none."""
    if isinstance(value, type):
        raise TypeError(f"{name} must be a function {arguments}, got the class itself: write {value.__name__}(...)")
    if not callable(value):
        raise TypeError(f"{name} must be a function {arguments}, got {type(value).__name__} {value!r}"[:200])


def generator(value) -> torch.Generator | None:
    """Return `value` if it is a generator, or None for the global one; a seed is not."""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {value!r}: see torch.Generator.manual_seed")
    return value


def row_labels(y: Tensor, x: Tensor) -> Tensor:
    """Return `y` if it is one integer label for each row of `x`, (batch,), whatever its values."""
    whole = isinstance(y, Tensor) and not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    if not whole or y.shape != x.shape[:1]:
        came = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"label must be integers of shape ({len(x)},), got {came}")
    return y


def labels(name: str, y: Tensor, classes: int) -> Tensor:
    """Return `y` if it is an integer tensor of shape (batch,) with values in [0, classes)."""
    whole = isinstance(y, Tensor) and not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    if not whole or y.ndim != 1:
        came = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{name} must be an integer tensor of shape (batch,), got {came}")
    looked_at = y.device.type == "cpu" and len(y) and not torch.compiler.is_compiling()
    if looked_at and not (0 <= int(y.min()) and int(y.max()) < classes):
        raise ValueError(f"{name} must lie in [0, {classes}), got values from {int(y.min())} to {int(y.max())}")
    return y


def known(network, condition: dict) -> None:
    """ValueError for a `label` that the network, or the one in it, does not know, on whatever device it lies.

    A GPU that is asked for a row beyond a table stops, and the process must be started anew: look before, once a call.
    """
    classes, label = _config(network).get("classes"), condition.get("label")
    if classes and isinstance(label, Tensor) and label.numel() and not torch.compiler.is_compiling():
        labels("label", label.flatten().cpu(), classes)


def null_label(network, null: int) -> None:
    """ValueError for a label without a meaning that the network, or the one in it, does not know."""
    config = _config(network)
    if "classes" not in config:
        return
    if not config["classes"]:
        raise ValueError("velocity is a network without classes: it cannot be guided by its labels")
    if null >= config["classes"]:
        raise ValueError(f"null must be a label that the network knows, in [0, {config['classes']}), got {null}")


def _config(network) -> dict:
    """What one of our networks says of itself, or the one inside of a network that is guided or changed."""
    while not isinstance(getattr(network, "config", None), dict) and hasattr(network, "network"):
        network = network.network
    config = getattr(network, "config", None)
    return config if isinstance(config, dict) else {}
