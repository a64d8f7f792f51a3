"""Drawing samples, and measuring their density: follow a velocity from the source to the target, or back."""

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from fmlib import _validate, devices, solvers

GRAPHED = 2**16  # numbers in a batch below which a GPU waits for Python rather than the other way round
FEW = 64  # rows that are never cut


class Trajectory(NamedTuple):
    """Times (k + 1,), the points there (k + 1, batch, *dims) and the velocity evaluations that the whole way cost."""

    t: Tensor
    x: Tensor
    nfe: int


def sample(
    velocity,
    x_0: Tensor,
    *,
    steps: int = 50,
    method: str = "midpoint",
    t: tuple[float, float] = (0.0, 1.0),
    return_path: bool = False,
    every: int = 1,
    differentiable: bool = False,
    score=None,
    noise=1.0,
    generator: torch.Generator | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    chunk: int | str | None = "auto",
    precision: str = "float32",
    compile: bool = False,
    **condition,
) -> Tensor | Trajectory:
    """Solve dx/dt = velocity(x, t) from x(t[0]) = x_0 to t[1] and return x(t[1]), of the shape of `x_0`.

    velocity: any callable (x, t, **condition) -> tensor of the shape of x: a network, a closed form, a sum of both.
    x_0: (batch, *dims), float32 or float64. steps: equal time steps (adaptive: saved intervals).
    method: a fixed-step method ('euler', 'midpoint', 'heun', 'rk4'), an adaptive one ('dopri5', ..., with `rtol` and
    `atol`), or 'euler_maruyama', which adds noise g_t = `noise` and needs the `score`, a callable like `velocity`, and,
    if runs are to repeat, a `generator`. t: two different times in [0, 1]; t=(1, 0) runs back to the source.
    return_path: return a `Trajectory` with every `every`-th point (a divisor of `steps`), and no others in memory.
    differentiable: keep the graph, for gradients through the solver; otherwise none is built, and a module is not
    switched between training and evaluation mode.

    chunk: rows that go through all steps together, so that what they need stays in the cache; 'auto' chooses for a
    network of `fmlib.models` on the CPU, None takes all. A number is for a velocity that treats rows one by one;
    a condition is cut alike if it is a tensor with as many rows as the batch. Adaptive methods, 'euler_maruyama' and
    `differentiable` take all rows at once. precision: of the velocity's matrix products, 'float32', 'bf16' or 'auto'
    (`devices.precision_of`). compile: let torch.compile rewrite the velocity. Small batches of such a network on a GPU
    run as a CUDA graph.
    Raises TypeError or ValueError for anything else; nothing is broadcast.

    >>> sample(lambda x, t: -x, torch.ones(1, 1), steps=100, method="rk4")  # e^{-1}
    tensor([[0.3679]])
    """
    _validate.state("x_0", x_0)
    if chunk not in (None, "auto"):
        _validate.count("chunk", chunk)
    for name, value in [("steps", steps), ("every", every)]:
        _validate.count(name, value)
    if steps % every:
        raise ValueError(f"every must divide the number of steps, got {every} and {steps}")
    start, end = _validate.times(t)
    _validate.choice("method", method, [*solvers.FIXED, *solvers.ADAPTIVE, "euler_maruyama"])
    if (method == "euler_maruyama") != (score is not None):
        raise ValueError(f"score is for method 'euler_maruyama', which needs it; got {method!r} and score={score!r}")
    if score is None and (callable(noise) or noise != 1):
        raise ValueError(f"noise is for method 'euler_maruyama', got it with {method!r}")
    if score is not None and end < start:
        raise ValueError(f"method 'euler_maruyama' runs forward in time only, got t=({start:g}, {end:g})")

    times = torch.linspace(start, end, steps + 1, dtype=x_0.dtype, device=x_0.device)
    kept = every if return_path else None
    field = Field(torch.compile(velocity) if compile else velocity, x_0.shape, condition)
    on_device = torch.cuda.device(x_0.device) if x_0.is_cuda else nullcontext()
    with on_device, _recording(differentiable, velocity, score), autocast(x_0, precision):
        if method in solvers.ADAPTIVE:
            moments = times[::every] if return_path else times[[0, -1]]
            points, nfe = solvers.solve_adaptive(field, x_0, moments, method, rtol, atol)
            points = points if return_path else points[-1]
        elif method == "euler_maruyama":
            drift = Field(score, x_0.shape, condition, "score")
            points, nfe = solvers.euler_maruyama(field, drift, x_0, times, noise, generator, kept), steps
        else:
            nfe = steps * solvers.EVALUATIONS[method]
            solve = solvers.solve
            if _ours(velocity) and x_0.is_cuda and x_0.numel() < GRAPHED and not differentiable:
                solve = solvers.solve_graphed
            rows = len(x_0) if differentiable else rows_together(chunk, velocity, x_0)
            points = _in_chunks(lambda field, x: solve(field, x, times, method, kept), field, x_0, rows, return_path)
    if points.is_inference():
        points = points.clone()  # an ordinary tensor again, which may be trained on
    return Trajectory(times[::every], points, nfe) if return_path else points


def sample_ode(
    velocity,
    x_0: Tensor,
    *,
    method: str = "dopri5",
    times: Tensor | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    differentiable: bool = False,
    **condition,
) -> Trajectory:
    """Solve dx/dt = velocity(x, t) with error control, and return the points at `times` with the NFE spent.

    times: (k + 1,), two or more, in [0, 1], rising or falling; default 0 and 1. method: one of `solvers.ADAPTIVE`. The
    rest as in `sample`; rtol and atol bound the error of each step over the whole batch.

    >>> sample_ode(lambda x, t: -x, torch.ones(1, 1), rtol=1e-6, atol=1e-6).x[-1]
    tensor([[0.3679]])
    """
    _validate.state("x_0", x_0)
    times = torch.tensor([0.0, 1.0]) if times is None else times
    if not isinstance(times, Tensor) or times.ndim != 1 or len(times) < 2 or not times.is_floating_point():
        raise TypeError(f"times must be a floating tensor of shape (k + 1,) with k >= 1, got {times!r}")
    gaps = times.diff()
    if not ((gaps > 0).all() or (gaps < 0).all()) or not ((times >= 0) & (times <= 1)).all():
        raise ValueError(f"times must rise or fall strictly within [0, 1], got {times.tolist()}"[:200])
    times = times.to(x_0)
    field = Field(velocity, x_0.shape, condition)
    with torch.set_grad_enabled(differentiable):
        points, nfe = solvers.solve_adaptive(field, x_0, times, method, rtol, atol)
    return Trajectory(times, points, nfe)


class Field:
    """A velocity with its condition filled in; a result of another shape is an error, never a broadcast."""

    def __init__(self, function, shape: torch.Size, condition: dict, name: str = "velocity"):
        if not callable(function):
            raise TypeError(f"{name} must be a callable (x, t), got {type(function).__name__}")
        self.function, self.shape, self.condition, self.name = function, shape, condition, name

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        value = self.function(x, t, **self.condition)
        if not isinstance(value, Tensor) or value.shape != x.shape:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{self.name} must return a tensor of shape {tuple(x.shape)}, got {came}")
        return value.to(x.dtype)

    def rows(self, start: int, stop: int) -> "Field":
        """The same field for some rows of the batch: a condition that has a value for each is cut alike."""
        n, condition = self.shape[0], dict(self.condition)
        for name, value in condition.items():
            if isinstance(value, Tensor) and value.ndim and len(value) == n:
                condition[name] = value[start:stop]
        return Field(self.function, self.shape, condition, self.name)


def _recording(differentiable: bool, velocity, score):
    """Whether autograd records. Off, it still works inside the velocity (a guided one may use it), unless the velocity
    is a network of this package, none of which does: inference mode is a little faster. A score may use it too."""
    if not differentiable and _ours(velocity) and score is None:
        return torch.inference_mode()
    return torch.set_grad_enabled(differentiable)


def _ours(velocity) -> bool:
    """Whether it is a network of this package: those treat rows one by one and do the same work at every time."""
    return type(velocity).__module__ == "fmlib.models"


def autocast(x: Tensor, precision: str):
    """A context in which matrix products have the format `precision`, weights being converted once within it."""
    dtype = devices.precision_of(precision, x.device)
    if precision == "bf16" and x.dtype == torch.float64:
        raise ValueError("precision 'bf16' is for products of float32 numbers, got float64")
    return torch.autocast(x.device.type, dtype) if dtype else nullcontext()


def rows_together(chunk: int | str | None, velocity, x_0: Tensor) -> int:
    """How many rows go through the solver together."""
    if chunk is None:
        return len(x_0)
    if chunk != "auto":
        return _validate.count("chunk", chunk)
    if not _ours(velocity) or x_0.device.type != "cpu" or len(x_0) <= FEW:
        return len(x_0)
    # What the widest layer puts out should fit the second-level cache of the cores that share the work
    width = max([p.shape[0] for p in velocity.parameters() if p.ndim > 1], default=1)
    pixels = x_0[0, 0].numel() if x_0.ndim > 2 else 1
    cache = torch.cpu.get_capabilities().get("l2_cache_size") or 2**20
    size = 2 if torch.is_autocast_enabled("cpu") else x_0.element_size()
    return max(FEW, cache * torch.get_num_threads() // (width * pixels * size))


def _in_chunks(solve, field: Field, x_0: Tensor, rows: int, return_path: bool) -> Tensor:
    if rows >= len(x_0):
        return solve(field, x_0)
    starts = range(0, len(x_0), rows)
    parts = [solve(field.rows(i, i + rows), x_0[i : i + rows]) for i in starts]
    return torch.cat(parts, 1 if return_path else 0)
