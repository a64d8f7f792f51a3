"""Drawing samples: follow a velocity from the source to the target, or back."""

from typing import NamedTuple

import torch
from torch import Tensor

from fmlib import _validate, solvers


class Trajectory(NamedTuple):
    """The times (steps + 1,), the points (steps + 1, batch, *dims) and the velocity evaluations that they cost."""

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
    differentiable: bool = False,
    score=None,
    noise=1.0,
    generator: torch.Generator | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    **condition,
) -> Tensor | Trajectory:
    """Solve dx/dt = velocity(x, t) from x(t[0]) = x_0 to t[1] and return x(t[1]), of the shape of `x_0`.

    velocity: any callable (x, t, **condition) -> tensor of the shape of x: a network, a closed form, a sum of both.
    x_0: (batch, *dims), floating. steps: equal time steps (for an adaptive method, the number of saved intervals).
    method: a fixed-step method ('euler', 'midpoint', 'heun', 'rk4'), an adaptive one ('dopri5', ..., with `rtol` and
    `atol`), or 'euler_maruyama', which adds noise g_t = `noise` and needs the `score` and, if runs are to repeat, a
    `generator`. t: two different times in [0, 1]; t=(1, 0) runs back to the source.
    return_path: return a `Trajectory` with every point. differentiable: keep the graph, for gradients through the
    solver; otherwise none is built, and a module is not switched between training and evaluation mode.
    Raises TypeError or ValueError for anything else; nothing is broadcast.

    >>> sample(lambda x, t: -x, torch.ones(1, 1), steps=100, method="rk4")  # e^{-1}
    tensor([[0.3679]])
    """
    _validate.batch("x_0", x_0)
    _validate.count("steps", steps)
    start, end = _validate.times(t)
    _validate.choice("method", method, [*solvers.FIXED, *solvers.ADAPTIVE, "euler_maruyama"])
    if (method == "euler_maruyama") != (score is not None):
        raise ValueError(f"score is for method 'euler_maruyama', which needs it; got {method!r} and score={score!r}")
    if score is not None and end < start:
        raise ValueError(f"method 'euler_maruyama' runs forward in time only, got t=({start:g}, {end:g})")

    times = torch.linspace(start, end, steps + 1, dtype=x_0.dtype, device=x_0.device)
    field = _checked("velocity", velocity, x_0, condition)
    with torch.set_grad_enabled(differentiable):
        if method in solvers.ADAPTIVE:
            moments = times if return_path else times[[0, -1]]
            points, nfe = solvers.solve_adaptive(field, x_0, moments, method, rtol, atol)
            points = points if return_path else points[-1]
        elif method == "euler_maruyama":
            drift = _checked("score", score, x_0, {})
            points, nfe = solvers.euler_maruyama(field, drift, x_0, times, noise, generator, save=return_path), steps
        else:
            points = solvers.solve(field, x_0, times, method, save=return_path)
            nfe = steps * solvers.EVALUATIONS[method]
    if return_path:
        return Trajectory(times, points, nfe)
    return points


def _checked(name: str, function, x_0: Tensor, condition: dict):
    """The `function` with its condition filled in; a result of another shape is an error, never a broadcast."""
    if not callable(function):
        raise TypeError(f"{name} must be a callable (x, t), got {type(function).__name__}")

    def field(x: Tensor, t: Tensor) -> Tensor:
        value = function(x, t, **condition)
        if not isinstance(value, Tensor) or value.shape != x_0.shape:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must return a tensor of shape {tuple(x_0.shape)}, got {came}")
        return value

    return field
