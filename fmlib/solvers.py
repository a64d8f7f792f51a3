"""Solvers of dx/dt = velocity(x, t): one function each, read from top to bottom.

A fixed-step method is a function (velocity, x, t, s) -> x that moves x from time t to time s in one step. Times are 0-d
tensors, so no step reads a value back from an accelerator, and s may be smaller than t.
Orders and tableaux: Hairer, Norsett & Wanner 1993, "Solving Ordinary Differential Equations I", section II.1.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fmlib import _validate

Velocity = Callable[[Tensor, Tensor], Tensor]


def euler(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x + h u_t(x), h = s - t. Order 1, one evaluation."""
    return _moved(x, s - t, velocity(x, t))


def midpoint(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x + h u(x + h/2 u_t(x), t + h/2). Order 2, two evaluations."""
    h = s - t
    half = h / 2
    middle = _moved(x, half, velocity(x, t))
    return _moved(x, h, velocity(middle, t + half))


def heun(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x + h/2 (u_t(x) + u_s(x + h u_t(x))). Order 2, two evaluations, the last at s."""
    h = s - t
    first = velocity(x, t)
    return _moved(x, h / 2, first + velocity(_moved(x, h, first), s))


def rk4(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The classical Runge-Kutta method. Order 4, four evaluations, the last at s."""
    h = s - t
    half = h / 2
    k_1 = velocity(x, t)
    k_2 = velocity(_moved(x, half, k_1), t + half)
    k_3 = velocity(_moved(x, half, k_2), t + half)
    k_4 = velocity(_moved(x, h, k_3), s)
    return _moved(x, h / 6, k_1 + 2 * k_2 + 2 * k_3 + k_4)


def _moved(x: Tensor, h: Tensor, u: Tensor) -> Tensor:
    """x + h u, in one pass."""
    return torch.addcmul(x, h, u)


FIXED = {"euler": euler, "midpoint": midpoint, "heun": heun, "rk4": rk4}
# What each evaluation within a step contributes to the step: x <- x + h sum_j w_j u_j
WEIGHTS = {"euler": (1.0,), "midpoint": (0.0, 1.0), "heun": (0.5, 0.5), "rk4": (1 / 6, 1 / 3, 1 / 3, 1 / 6)}
EVALUATIONS = {name: len(weights) for name, weights in WEIGHTS.items()}
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")


def solve(velocity: Velocity, x_0: Tensor, times: Tensor, method: str = "midpoint", every: int | None = None) -> Tensor:
    """Follow dx/dt = velocity(x, t) from times[0] to times[-1], one step between neighbours.

    times: (steps + 1,). Returns the end point, or every `every`-th point from x_0 on, (steps // every + 1, *x_0.shape).
    """
    step = FIXED[_validate.choice("method", method, FIXED)]
    x, points, moments = x_0, [x_0], times.unbind()
    for k, (t, s) in enumerate(zip(moments[:-1], moments[1:], strict=True), 1):
        x = step(velocity, x, t, s)
        if every and k % every == 0:
            points.append(x)
    return torch.stack(points) if every else x


def solve_graphed(
    velocity: Velocity, x_0: Tensor, times: Tensor, method: str = "midpoint", every: int | None = None, record=None
) -> Tensor:
    """`solve`, with one step recorded as a CUDA graph and replayed: no Python and no launch between its kernels.

    The step reads and writes the same tensors each time. record: (advance) -> a function that repeats it; by default
    `cuda_graph`. Only for a velocity that does the same work at every time.
    """
    step = FIXED[_validate.choice("method", method, FIXED)]
    x, t, s = x_0.clone(), times[0].clone(), times[1].clone()

    def advance():
        x.copy_(step(velocity, x, t, s))

    replay = (record or cuda_graph)(advance)
    x.copy_(x_0)  # recording may have moved it
    points = [x_0]
    for k in range(1, len(times)):
        t.copy_(times[k - 1])
        s.copy_(times[k])
        replay()
        if every and k % every == 0:
            points.append(x.clone())
    return torch.stack(points) if every else x


def cuda_graph(advance: Callable[[], None]) -> Callable[[], None]:
    """Record the kernels of `advance`, on the current device, and return a function that launches them all at once."""
    side = torch.cuda.Stream()  # kernels are chosen and buffers made on the first calls, which no graph may hold
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            advance()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):  # other threads may use the GPU
        advance()
    return graph.replay


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
    for name, value in [("rtol", rtol), ("atol", atol)]:
        _validate.positive(name, value)
    nfe = 0

    def counted(t, x):
        nonlocal nfe
        nfe += 1
        return velocity(x, t.clamp(0, 1))  # the guess of the first step may probe beyond the end

    # Without step_t the last step overshoots the end, into time without a flow, and the end point is interpolated.
    try:
        points = odeint(counted, x_0, times, method=method, rtol=rtol, atol=atol, options={"step_t": times[-1:]})
    except AssertionError as error:  # its way to say that no step is small enough
        raise ValueError(
            f"method {method!r} found no step that meets rtol={rtol:g}, atol={atol:g} ({error}): "
            "is the velocity finite and smooth? Otherwise allow more error"
        ) from None
    return points, nfe


def euler_maruyama(
    velocity: Velocity,
    score: Velocity,
    x_0: Tensor,
    times: Tensor,
    noise: float | Callable[[Tensor], Tensor] = 1.0,
    generator: torch.Generator | None = None,
    every: int | None = None,
) -> Tensor:
    """Follow dX = (u_t(X) + g_t^2 / 2 grad log p_t(X)) dt + g_t dW, which has the marginals p_t of the flow u_t.

    noise: g_t, a number or a function of the 0-d tensor t. The score term exactly balances the spreading of the noise
    (Song et al. 2021, "Score-Based Generative Modeling through SDEs", section 4.3, read backwards). `times` must
    increase. Returns as `solve`. Strong and weak order 1, as g does not depend on x.
    """
    if not bool((times.diff() > 0).all()):
        raise ValueError("times must increase: the score correction holds for time running forward")
    x, points, moments = x_0, [x_0], times.unbind()
    for k, (t, s) in enumerate(zip(moments[:-1], moments[1:], strict=True), 1):
        g, h = _amount(noise, t), s - t
        kick = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        x = x + h * (velocity(x, t) + g**2 / 2 * score(x, t)) + g * h.sqrt() * kick
        if every and k % every == 0:
            points.append(x)
    return torch.stack(points) if every else x


def _amount(noise, t: Tensor):
    g = noise(t) if callable(noise) else noise
    number = isinstance(g, int | float) and math.isfinite(g)
    if not number and not (isinstance(g, Tensor) and g.ndim == 0):
        came = f"a tensor of shape {tuple(g.shape)}" if isinstance(g, Tensor) else repr(g)
        raise ValueError(f"noise must be, or return, a finite number or a 0-d tensor, got {came}")
    return g
