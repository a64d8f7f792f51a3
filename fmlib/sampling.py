"""Drawing samples: follow a velocity from the source to the target, or back."""

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmlib import _validate, devices, solvers

RECORDED = 2**19  # numbers in a network's widest layer, below which a GPU waits for Python to launch the next kernel
WORTH = 8  # steps from which a recording pays: it costs about as much as five (measured on an H200)
NEVER_CUT = 64  # rows that are never cut
PART = 2**21  # bytes a core of what the widest layer puts out: a quarter, or four times as many, are slower (measured)


class Trajectory(NamedTuple):
    """Times (k + 1,), the points there (k + 1, batch, *dims) and the velocity evaluations that the whole way cost."""

    t: Tensor
    x: Tensor
    nfe: int


def sample(
    velocity,
    x_0: Tensor,
    *,
    steps: int | Tensor = 50,
    method="midpoint",
    t: tuple[float, float] = (0.0, 1.0),
    return_path: bool = False,
    every: int = 1,
    differentiable: bool = False,
    chunk: int | str | None = "auto",
    precision: str = "float32",
    compile: bool = False,
    **condition,
) -> Tensor | Trajectory:
    """Solve dx/dt = velocity(x, t) from x(t[0]) = x_0 to t[1] and return x(t[1]), of the shape of `x_0`.

    velocity: any callable (x, t, **condition) -> tensor of the shape of x: a network, a closed form, a sum of both.
    x_0: (batch, *dims), float32 or float64. steps: equal time steps (adaptive: saved intervals), or a floating tensor
    of strictly rising times in [0, 1], (steps + 1,), which then say where the way starts and ends.
    method: one of
    - a fixed-step method: 'euler', 'midpoint', 'heun', 'rk4';
    - an adaptive one: 'dopri5', 'dopri8', 'bosh3', 'adaptive_heun', or with options `solvers.dopri5(rtol=1e-8)`;
    - `solvers.maruyama(score, noise, generator)`, which adds noise; the score is given the same condition;
    - `solvers.jumping(rate, land, method)`, in which some points jump, and the others go where `method` takes them;
    - `solvers.flow_map`, for a network of average velocities, network(x, t, s=s, **condition): one call a step;
    - `solvers.ancestral(schedule, generator)`, which adds so much that the start is forgotten, and needs no score;
    - on a manifold, `solvers.projected("midpoint", project=Sphere().project)` or `solvers.geodesic(Sphere())`;
    - your own step, a function (velocity, x, t, s) -> x that moves x from time t to time s, both 0-d tensors.
    t: two different times in [0, 1]; t=(1, 0) runs back to the source.
    return_path: return a `Trajectory` with every `every`-th point (a divisor of `steps`), and no others in memory.
    differentiable: keep the graph, for gradients through the solver, to `x_0`, weights and a grid of times; otherwise
    none is built, and a module is not switched between training and evaluation mode.

    chunk: rows that go through all steps together, so that what they need stays in the cache; 'auto' chooses on the CPU
    for a fixed-step method and a velocity with the attribute `rowwise = True` (see `is_rowwise`), and None takes all. A
    number is for any velocity that treats rows one by one, and any step. A condition is cut alike if it is a tensor
    with as many rows as the batch. Adaptive methods and `differentiable` take all rows at once. precision: of the
    velocity's matrix products, 'float32', 'bf16' or 'auto' (`devices.precision_of`). compile: let torch.compile rewrite
    the velocity. Many steps with a small batch of a rowwise network on a GPU run as a CUDA graph.
    Raises TypeError or ValueError for anything else; nothing is broadcast.

    >>> sample(lambda x, t: -x, torch.ones(1, 1), steps=100, method="rk4")  # e^{-1}
    tensor([[0.3679]])

    A step of one's own: Euler's, and then back to the unit circle.

    >>> def on_circle(velocity, x, t, s):
    ...     return torch.nn.functional.normalize(x + (s - t) * velocity(x, t))
    >>> turn = lambda x, t: torch.stack([-x[:, 1], x[:, 0]], 1)  # by an angle of 1
    >>> sample(turn, torch.tensor([[1.0, 0.0]]), method=on_circle, steps=1000)
    tensor([[0.5403, 0.8415]])
    """
    solver = solvers.solver_of(method)
    if chunk not in (None, "auto"):
        _validate.count("chunk", chunk)
    times = grid(steps, t, _validate.state("x_0", x_0), differentiable)
    every = _validate.count("every", every)
    if (len(times) - 1) % every:
        raise ValueError(f"every must divide the number of steps, got {every} and {len(times) - 1}")

    kept = every if return_path else None
    field = solvers.Field(torch.compile(velocity) if compile else velocity, x_0.shape, condition)
    adaptive, named = isinstance(solver, solvers.Adaptive), solver in solvers.FIXED.values()
    fixed = named or is_rowwise(solver)
    fast = is_rowwise_network(velocity) and not differentiable and (adaptive or fixed)
    on_device = torch.cuda.device(x_0.device) if x_0.is_cuda else nullcontext()
    # Without a graph autograd still works inside a velocity or a step. In a network that says so none does: inference
    # mode, which would forbid it, saves a tenth of the time.
    recording = torch.inference_mode() if fast else torch.set_grad_enabled(differentiable)
    with on_device, recording, autocast(x_0, precision):
        if adaptive:
            moments = times[::every] if return_path else times[[0, -1]]
            points, nfe = solvers.solve_adaptive(solver, field, x_0, moments)
            points = points if return_path else points[-1]
        elif fast and named and _is_recorded(velocity, x_0, len(times) - 1):
            points = solvers.solve_graphed(solver, field, x_0, times, kept)
            nfe = (len(times) - 1) * solvers.EVALUATIONS[solver.__name__]
        else:
            chunk = None if differentiable or (chunk == "auto" and not fixed) else chunk
            rows = rows_together(chunk, velocity, x_0)
            points, nfe = _in_chunks(solver, field, x_0, times, kept, rows)
    if points.is_inference():
        points = points.clone()  # an ordinary tensor again, which may be trained on
    return Trajectory(times[::every], points, nfe) if return_path else points


def average_velocity(velocity, x: Tensor, t: float | Tensor, s: float | Tensor, steps: int = 20, **condition) -> Tensor:
    """(X_s - x) / (s - t) for the solution X of dx/dt = velocity(x, t) with X_t = x: what a flow map's network learns.

    (Geng et al. 2025, "Mean Flows for One-step Generative Modeling", equation 3.) A mean over `steps` equal steps of
    the classical Runge-Kutta method, so nothing is divided by s - t and at s = t it is the velocity itself.
    Differentiable in x, t and s, and in whatever the velocity depends on, by backward and forward mode; the error falls
    as steps^-4.

    velocity: a callable (x, t, **condition). x: (batch, *dims), float32 or float64. t, s: numbers, () or (batch,), with
    0 <= t <= s <= 1. Returns a tensor like x. Raises TypeError or ValueError for anything else.

    >>> average_velocity(lambda x, t: x, torch.ones(1, 1), 0.0, 1.0)  # (e - 1) / 1
    tensor([[1.7183]])
    """
    start, end = _validate.span(t, s, _validate.state("x", x))
    steps = _validate.count("steps", steps)
    field, h, total = solvers.Field(velocity, x.shape, condition), (end - start) / steps, torch.zeros_like(x)

    def u(y: Tensor, k: float) -> Tensor:
        moment = torch.lerp(start, end, k / steps)
        return field(y, moment.reshape(moment.shape[:1]))

    for k in range(steps):
        first = u(x, k)
        second = u(x + h / 2 * first, k + 0.5)
        third = u(x + h / 2 * second, k + 0.5)
        mean = (first + 2 * second + 2 * third + u(x + h * third, k + 1)) / 6
        x, total = x + h * mean, total + mean
    return total / steps


def grid(steps: int | Tensor, t: tuple[float, float], x_0: Tensor, differentiable: bool = False) -> Tensor:
    """The times between the steps, in the format and on the device of `x_0`: an equal grid, or the one that came."""
    start, end = _validate.times(t, x_0.dtype)
    if not isinstance(steps, Tensor):
        steps = _validate.count("steps", steps)
        if abs(end - start) / steps < 1e-6:  # equal times, perhaps
            gaps = torch.linspace(start, end, steps + 1, dtype=x_0.dtype).diff()
            if (gaps == 0).any():
                raise ValueError(f"steps must be few enough for times that differ in {x_0.dtype}, got {steps} in t={t}")
        return torch.linspace(start, end, steps + 1, dtype=x_0.dtype, device=x_0.device)
    if not steps.is_floating_point() or steps.ndim != 1 or len(steps) < 2:
        came = f"{steps.dtype} of shape {tuple(steps.shape)}"
        raise TypeError(f"steps must be an integer or a floating tensor of two or more times, got {came}")
    if (start, end) != (0.0, 1.0):
        raise ValueError(f"t is for a number of steps, which has no times of its own, got t={t} with a grid of times")
    times = steps.to(x_0) if differentiable else steps.detach().to(x_0)
    values = times.detach().cpu()
    rises = torch.cat([values.diff() > 0, torch.tensor([True])])
    bad = ~rises | ~((values >= 0) & (values <= 1))
    if bad.any():
        first = int(bad.nonzero()[0])
        came = " then ".join(f"{value:.9g}" for value in values[first : first + 2].tolist())
        raise ValueError(f"steps must be times that rise strictly within [0, 1], in {x_0.dtype}, got {came}")
    return times


def is_rowwise(velocity) -> bool:
    """Whether a velocity or a step, or its class, has the attribute `rowwise = True`.

    It promises that a row of the result depends on that row of x, t and the condition alone, and that the same work is
    done at every time; `parameters()` then tells its width. A subclass, whose `forward` may do anything, must say so
    anew. An nn.Module promises besides that it keeps the graph from x to its result, and differentiates nothing itself.
    """
    return _validate.is_rowwise(velocity)


def is_rowwise_network(velocity) -> bool:
    """Whether it is an nn.Module that promises to be rowwise, as those of `fmlib.models` do."""
    return isinstance(velocity, nn.Module) and is_rowwise(velocity)


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
    if not is_rowwise(velocity) or x_0.device.type != "cpu" or len(x_0) <= NEVER_CUT:
        return len(x_0)
    size = 2 if torch.is_autocast_enabled("cpu") else x_0.element_size()
    return max(NEVER_CUT, PART * torch.get_num_threads() // (_widest(velocity, x_0) * size))


def _widest(velocity, x_0: Tensor) -> int:
    """The numbers that a network's widest layer puts out for one row, as far as its weights tell."""
    parameters = velocity.parameters() if callable(getattr(velocity, "parameters", None)) else ()
    width = max([p.shape[0] for p in parameters if p.ndim > 1], default=1)
    return width * math.prod(x_0.shape[2:])


def _is_recorded(velocity, x_0: Tensor, steps: int) -> bool:
    """Whether one step, recorded and replayed as a CUDA graph, takes less time than launching each kernel anew."""
    return x_0.is_cuda and steps >= WORTH and 0 < len(x_0) * _widest(velocity, x_0) < RECORDED


def _in_chunks(step, field: solvers.Field, x_0: Tensor, times: Tensor, kept: int | None, rows: int):
    """The points of all rows, `rows` of them at a time, and the evaluations that a row has cost."""
    if rows >= len(x_0):
        return solvers.follow(step, field, x_0, times, kept), field.calls
    starts = range(0, len(x_0), rows)
    fields = [field.rows(i, i + rows) for i in starts]
    parts = [solvers.follow(step, part, x_0[i : i + rows], times, kept) for i, part in zip(starts, fields, strict=True)]
    return torch.cat(parts, 1 if kept else 0), max(part.calls for part in fields)
