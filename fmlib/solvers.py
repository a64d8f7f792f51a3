"""Solvers of dx/dt = velocity(x, t): one function each, read from top to bottom.

A fixed-step method is a function (velocity, x, t, s) -> x that moves x from time t to time s in one step. Times are 0-d
tensors, so no step reads a value back from an accelerator, and s may be smaller than t.
Orders and tableaux: Hairer, Norsett & Wanner 1993, "Solving Ordinary Differential Equations I", section II.1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fmlib import _validate

Velocity = Callable[[Tensor, Tensor], Tensor]


def euler(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x + h u_t(x), h = s - t. Order 1, one evaluation."""
    return x + (s - t) * velocity(x, t)


def midpoint(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x + h u(x + h/2 u_t(x), t + h/2). Order 2, two evaluations."""
    h = s - t
    middle = x + h / 2 * velocity(x, t)
    return x + h * velocity(middle, (t + s) / 2)


def heun(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x + h/2 (u_t(x) + u_s(x + h u_t(x))). Order 2, two evaluations, the last at s."""
    h = s - t
    first = velocity(x, t)
    return x + h / 2 * (first + velocity(x + h * first, s))


def rk4(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The classical Runge-Kutta method. Order 4, four evaluations, the last at s."""
    h, half = s - t, (t + s) / 2
    k_1 = velocity(x, t)
    k_2 = velocity(x + h / 2 * k_1, half)
    k_3 = velocity(x + h / 2 * k_2, half)
    k_4 = velocity(x + h * k_3, s)
    return x + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)


FIXED = {"euler": euler, "midpoint": midpoint, "heun": heun, "rk4": rk4}
EVALUATIONS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")


def solve(velocity: Velocity, x_0: Tensor, times: Tensor, method: str = "midpoint", save: bool = False) -> Tensor:
    """Follow dx/dt = velocity(x, t) from times[0] to times[-1], one step between neighbours.

    times: (steps + 1,). Returns the end point, or with save=True all points, shape (steps + 1, *x_0.shape).
    """
    step = FIXED[_validate.choice("method", method, FIXED)]
    x, points = x_0, [x_0]
    moments = times.unbind()
    for t, s in zip(moments[:-1], moments[1:], strict=True):
        x = step(velocity, x, t, s)
        if save:
            points.append(x)
    return torch.stack(points) if save else x


def solve_adaptive(
    velocity: Velocity,
    x_0: Tensor,
    times: Tensor,
    method: str = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> tuple[Tensor, int]:
    """Solve with error control (torchdiffeq); return the points at `times`, (len(times), *x_0.shape), and the NFE.

    method: one of `ADAPTIVE`. rtol, atol: tolerances on the local error, over the whole batch at once. Points between
    the ends are read off a quartic through each step: less accurate where an eighth-order method takes long ones.
    """
    from torchdiffeq import odeint

    _validate.choice("method", method, ADAPTIVE)
    nfe = 0

    def counted(t, x):
        nonlocal nfe
        nfe += 1
        return velocity(x, t.clamp(0, 1))  # the guess of the first step may probe beyond the end

    # Without step_t the last step overshoots the end, into time without a flow, and the end point is interpolated.
    points = odeint(counted, x_0, times, method=method, rtol=rtol, atol=atol, options={"step_t": times[-1:]})
    return points, nfe


def euler_maruyama(
    velocity: Velocity,
    score: Velocity,
    x_0: Tensor,
    times: Tensor,
    noise: float | Callable[[Tensor], Tensor] = 1.0,
    generator: torch.Generator | None = None,
    save: bool = False,
) -> Tensor:
    """Follow dX = (u_t(X) + g_t^2 / 2 grad log p_t(X)) dt + g_t dW, which has the marginals p_t of the flow u_t.

    noise: g_t, a number or a function of the 0-d tensor t. The score term exactly balances the spreading of the noise
    (Song et al. 2021, "Score-Based Generative Modeling through SDEs", section 4.3, read backwards). `times` must
    increase. Returns as `solve`. Strong and weak order 1, as g does not depend on x.
    """
    if not bool((times.diff() > 0).all()):
        raise ValueError("times must increase: the score correction holds for time running forward")
    x, points = x_0, [x_0]
    moments = times.unbind()
    for t, s in zip(moments[:-1], moments[1:], strict=True):
        g, h = (noise(t) if callable(noise) else noise), s - t
        kick = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        x = x + h * (velocity(x, t) + g**2 / 2 * score(x, t)) + g * h.sqrt() * kick
        if save:
            points.append(x)
    return torch.stack(points) if save else x
