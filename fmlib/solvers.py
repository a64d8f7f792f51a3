"""Solvers of dx/dt = velocity(x, t): one function each, read from top to bottom.

A step is any function (velocity, x, t, s) -> x that moves x from time t to time s. Times are 0-d tensors, so no step
reads a value back from an accelerator, and s may be smaller than t. One's own step is used like those below:

>>> def lazy(velocity, x, t, s):
...     return x + (s - t) / 2 * velocity(x, t)
>>> follow(lazy, lambda x, t: torch.ones_like(x), torch.zeros(1, 1), torch.tensor([0.0, 0.5, 1.0]))
tensor([[0.5000]])

Orders and tableaux: Hairer, Norsett & Wanner 1993, "Solving Ordinary Differential Equations I", section II.1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fmlib import _validate
from fmlib.paths import AffinePath
from fmlib.schedules import CondOT, Schedule

Velocity = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]


class Field:
    """A velocity with its condition filled in, which counts its calls; a wrong result is an error, never a broadcast.

    This is what `sample` hands to a step: `.condition` holds the keywords, for whatever else has to hear of them.
    """

    def __init__(self, function, shape: torch.Size, condition: dict, name: str = "velocity"):
        if not callable(function):
            raise TypeError(f"{name} must be a callable (x, t), got {type(function).__name__}")
        if any(isinstance(value, Tensor) and value.device.type != "cpu" for value in condition.values()):
            _validate.known(function, condition)  # on the CPU the network itself says so
        self.function, self.shape, self.condition, self.name, self.calls = function, shape, condition, name, 0

    def __call__(self, x: Tensor, t: Tensor, **second) -> Tensor:
        self.calls += 1
        try:
            value = self.function(x, t, **second, **self.condition)
        except RuntimeError as error:
            if "type" in str(error):  # "must have the same dtype", "expected scalar type", "Input type"
                _explain_formats(self.function, x)
            raise
        if not isinstance(value, Tensor) or value.shape != x.shape:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{self.name} must return a tensor of shape {tuple(x.shape)}, got {came}")
        if not value.is_floating_point():
            raise TypeError(f"{self.name} must return a floating tensor, got {value.dtype}")
        if value.device != x.device:
            raise ValueError(f"{self.name} must return a tensor on {x.device}, got {value.device}")
        return value.to(x.dtype)

    def rows(self, start: int, stop: int) -> "Field":
        """The same field for some rows of the batch: a condition that has a value for each is cut alike."""
        n, condition = self.shape[0], dict(self.condition)
        for name, value in condition.items():
            if isinstance(value, Tensor) and value.ndim and len(value) == n:
                condition[name] = value[start:stop]
        return Field(self.function, self.shape, condition, self.name)


def _explain_formats(function, x: Tensor) -> None:
    """Raise a clearer error if the call failed and no weight of a network has the format of x."""
    parameters = function.parameters() if callable(getattr(function, "parameters", None)) else ()
    formats = {p.dtype for p in parameters if p.is_floating_point()}
    if formats and x.dtype not in formats:
        came = " and ".join(sorted(_short(dtype) for dtype in formats))
        raise TypeError(f"x_0 is {_short(x.dtype)} and the network's weights are {came}: convert one of them")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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


def flow_map(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x + (s - t) u(x, t, s), with a network u of average velocities: one evaluation, and no error of its own.

    velocity: called as (x, t, s=s), it returns the mean of the velocity on the way from x at time t to time s (Geng et
    al. 2025, "Mean Flows for One-step Generative Modeling", equation 12), as `models.MLP(..., until=True)` does once it
    is trained with `objectives.MeanFlow` or `Shortcut`. Forward in time only. Raises ValueError for a velocity without
    a second time.

    >>> u = lambda x, t, s: x * torch.expm1(s - t) / (s - t)  # dx/dt = x
    >>> follow(flow_map, u, torch.ones(1, 1), torch.tensor([0.0, 1.0]))  # e
    tensor([[2.7183]])
    """
    return _moved(x, s - t, _validate.average(velocity, x, t, s, {}))


flow_map.rowwise = flow_map.forward_only = True


def maruyama(score, noise: float | Callable[[Tensor], Tensor] = 1.0, generator: torch.Generator | None = None) -> Step:
    """The Euler-Maruyama step for dX = (u_t(X) + g_t^2 / 2 grad log p_t(X)) dt + g_t dW, of the flow's marginals p_t.

    score: grad log p_t, a callable (x, t, **condition) that is given the same condition as the velocity. noise: g_t, a
    number or a function of the 0-d tensor t. generator: for runs that repeat. The score term exactly balances the
    spreading of the noise (Song et al. 2021, "Score-Based Generative Modeling through SDEs", section 4.3, read
    backwards). Forward in time only. Strong and weak order 1, as g does not depend on x. Raises TypeError or ValueError
    for a score that returns anything but a tensor like x, and for a noise that is no number.

    >>> step = maruyama(lambda x, t: -x, noise=0.5, generator=torch.Generator().manual_seed(0))
    >>> follow(step, lambda x, t: 0 * x, torch.zeros(3, 1), torch.tensor([0.0, 0.5, 1.0])).shape
    torch.Size([3, 1])
    """
    if not callable(score):
        raise TypeError(f"score must be a callable (x, t), got {type(score).__name__}")
    _validate.generator(generator)

    def step(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        drift = Field(score, x.shape, getattr(velocity, "condition", {}), "score")
        g, h = _amount(noise, t), s - t
        kick = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        return x + h * (velocity(x, t) + g**2 / 2 * drift(x, t)) + g * h.sqrt() * kick

    step.forward_only = True
    return step


def _amount(noise, t: Tensor):
    g = noise(t) if callable(noise) else noise
    number = isinstance(g, int | float) and math.isfinite(g)
    if not number and not (isinstance(g, Tensor) and g.ndim == 0):
        came = f"a tensor of shape {tuple(g.shape)}" if isinstance(g, Tensor) else repr(g)
        raise ValueError(f"noise must be, or return, a finite number or a 0-d tensor, got {came}")
    return g


def ancestral(schedule: Schedule | None = None, generator: torch.Generator | None = None) -> Step:
    """The memoryless step of a flow from N(0, I): X_s given X_t, if X_1 were what is expected of it at X_t.

    With x_1 = E[X_1 given X_t = x], which the velocity tells, and q = alpha_t^2 sigma_s^2 / (alpha_s^2 sigma_t^2),
    X_s ~ N(alpha_s (1 - q) x_1 + alpha_t sigma_s^2 / (alpha_s sigma_t^2) x, sigma_s^2 (1 - q)) (Ho et al. 2020,
    "Denoising Diffusion Probabilistic Models", equations 6 and 7, in our time). For small steps it is `maruyama` with
    the noise `schedule.memoryless`, which is infinite at t = 0; here the first step has q = 0 and forgets x altogether.
    The last, to s = 1, adds no noise. schedule: of the flow, cond-OT unless given. generator: for runs that repeat.
    Forward in time only. Raises ValueError at t = 0 if alpha'_0 = 0: there no velocity tells x_1.

    >>> step = ancestral(generator=torch.Generator().manual_seed(0))
    >>> follow(step, lambda x, t: (3 - x) / (1 - t), torch.zeros(1, 1), torch.tensor([0.0, 0.5, 1.0]))  # to 3
    tensor([[3.]])
    """
    schedule = CondOT() if schedule is None else schedule
    path = AffinePath(schedule)
    _validate.generator(generator)

    def step(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        a, b = path.coefficients(t, have="velocity", want="x_1")
        x_1 = a * x + b * velocity(x, t)
        fresh = -torch.expm1(2 * (schedule.log_snr(t) - schedule.log_snr(s)))  # 1 - q, also where q = 0
        kept = schedule.alpha(t) / schedule.alpha(s) * (schedule.sigma(s) / schedule.sigma(t)) ** 2
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        return schedule.alpha(s) * fresh * x_1 + kept * x + schedule.sigma(s) * fresh.sqrt() * noise

    step.forward_only = True
    return step


def jumping(rate, land, method="euler", generator: torch.Generator | None = None) -> Step:
    """One Euler step of a sum of generators: `method` moves every point, and some jump instead.

    In the time h from t a point x jumps with probability 1 - exp(-h lambda_t(x)), and lands where `land` says; else it
    goes where `method` takes it: "euler" for a flow, `maruyama(score, noise)` for a diffusion. All is evaluated at x, t
    and so the step is of order 1 for the sum, u.grad f + g^2/2 lap f + lambda E[f(Y) - f] (Holderrieth et al. 2024,
    "Generator Matching"). For a share a of jumps, multiply lambda by a, and u and g^2 by 1 - a.

    rate: lambda, (x, t, **condition) -> (batch,), at least 0; it may be large where hardly a point is, and is then
    followed by a jump for sure. land: (x, t, **condition) -> like x, called with only those rows that jump, and drawing
    one Y for each. Both get what `sample` gives the velocity as condition. method: a name of a fixed-step method, or a
    step. generator: decides who jumps; `land` has its own. Forward in time only. Raises TypeError or ValueError for
    anything else, and ValueError for a rate that is negative, NaN or infinite, as many are at t = 1: stop before.

    >>> one_more = jumping(lambda x, t: 3 + 0 * x[:, 0], lambda x, t: x + 1, generator=torch.Generator().manual_seed(0))
    >>> x = follow(one_more, lambda x, t: 0 * x, torch.zeros(10_000, 1), torch.linspace(0, 1, 101))
    >>> round(x.mean().item(), 1)  # a Poisson process
    3.0
    """
    inner = solver_of(method)
    if isinstance(inner, Adaptive):
        raise ValueError(f"jumping needs a method of fixed steps, got {inner.method!r}")
    for name, function in (("rate", rate), ("land", land)):
        if not callable(function):
            raise TypeError(f"{name} must be a callable (x, t), got {type(function).__name__}")
    _validate.generator(generator)

    def step(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        condition, n = getattr(velocity, "condition", {}), len(x)
        leaves = -torch.expm1(-(s - t) * _checked_rate(rate(x, t, **condition), x, t))
        who = torch.rand(n, dtype=x.dtype, device=x.device, generator=generator) < leaves
        moved = inner(velocity, x, t, s)
        if not who.any():
            return moved
        theirs = {k: v[who] if isinstance(v, Tensor) and v.ndim and len(v) == n else v for k, v in condition.items()}
        return moved.index_put((who,), _alike(land(x[who], t, **theirs), x[who], "land"))

    step.forward_only = True
    return step


def _checked_rate(value, x: Tensor, t: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
        came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"rate must return a tensor of shape ({len(x)},), got {came}")
    if value.device.type == "cpu" and not bool(((value >= 0) & value.isfinite()).all()):
        worst = value[~((value >= 0) & value.isfinite())][0].item()
        raise ValueError(f"rate must be at least 0 and finite, got {worst:g} at t={t.item():g}")
    return value.to(x.dtype)


def projected(method, project: Callable[[Tensor], Tensor]) -> Step:
    """A fixed-step method whose every stage is brought back to a manifold: step(x -> u(project(x))), then project.

    method: a name of a fixed-step method, or a step. project: maps points to points, row by row, such as
    `manifolds.Sphere().project`; the way must begin on its image. Where u is tangent, the solution of the projected
    velocity stays on the manifold by itself, so the method keeps its order (Hairer, Lubich & Wanner 2006, "Geometric
    Numerical Integration", section IV.4). Raises ValueError for an adaptive method, and for a project that changes the
    shape.

    >>> turn = lambda x, t: torch.stack([-x[:, 1], x[:, 0]], 1)  # by an angle of 1
    >>> on_circle = projected("midpoint", project=torch.nn.functional.normalize)
    >>> follow(on_circle, turn, torch.tensor([[1.0, 0.0]]), torch.linspace(0, 1, 101))
    tensor([[0.5403, 0.8415]])
    """
    inner = solver_of(method)
    if isinstance(inner, Adaptive):
        raise ValueError(f"projected needs a method of fixed steps, got {inner.method!r}")
    if not callable(project):
        raise TypeError(f"project must be a function of x, got {project!r}")

    def back(x: Tensor) -> Tensor:
        return _alike(project(x), x, "project")

    def step(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return back(inner(lambda y, r: velocity(y if y is x else back(y), r), x, t, s))

    step.forward_only = getattr(inner, "forward_only", False)
    step.rowwise = inner in FIXED.values()
    return step


def geodesic(manifold) -> Step:
    """The midpoint method along geodesics: exp_x(h P_x u(m, t + h/2)), with the middle m = exp_x(h/2 P_x u_t(x)).

    manifold: one of `manifolds`, or whatever has `exp` and `tangent`, P_x. Order 2, two evaluations: P_x of the
    velocity at m differs from its parallel transport to x by O(h^2). Only the tangential part of the velocity counts.

    >>> from fmlib.manifolds import Torus
    >>> follow(geodesic(Torus()), lambda x, t: 3 + 0 * x, torch.tensor([[1.0]]), torch.linspace(0, 1, 9))  # 4 - 2 pi
    tensor([[-2.2832]])
    """
    _validate.methods("manifold", manifold, "exp(x, v)", "tangent(x, v)")

    def step(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h = s - t
        middle = manifold.exp(x, h / 2 * manifold.tangent(x, velocity(x, t)))
        return manifold.exp(x, h * manifold.tangent(x, velocity(middle, t + h / 2)))

    step.rowwise = True
    return step


@dataclass(frozen=True)
class Adaptive:
    """A method with error control (torchdiffeq's), which chooses its own steps; write `dopri5(rtol=1e-8)`.

    rtol, atol: the local error may be atol + rtol |x|, over the whole batch at once. max_nfe: evaluations of the
    velocity after which it gives up, with an error.
    """

    method: str
    rtol: float = 1e-5
    atol: float = 1e-5
    max_nfe: int = 20_000

    def __post_init__(self):
        _validate.choice("method", self.method, ADAPTIVE)
        _validate.positive("rtol", self.rtol)
        _validate.positive("atol", self.atol)
        _validate.count("max_nfe", self.max_nfe)


def dopri5(rtol: float = 1e-5, atol: float = 1e-5, max_nfe: int = 20_000) -> Adaptive:
    """Dormand & Prince's method of order 5, the usual choice. Options as of `Adaptive`."""
    return Adaptive("dopri5", rtol, atol, max_nfe)


def dopri8(rtol: float = 1e-5, atol: float = 1e-5, max_nfe: int = 20_000) -> Adaptive:
    """Dormand & Prince's method of order 8, for tolerances near rounding. Options as of `Adaptive`."""
    return Adaptive("dopri8", rtol, atol, max_nfe)


def bosh3(rtol: float = 1e-5, atol: float = 1e-5, max_nfe: int = 20_000) -> Adaptive:
    """Bogacki & Shampine's method of order 3, for coarse tolerances. Options as of `Adaptive`."""
    return Adaptive("bosh3", rtol, atol, max_nfe)


def adaptive_heun(rtol: float = 1e-5, atol: float = 1e-5, max_nfe: int = 20_000) -> Adaptive:
    """Heun's method with Euler's inside for the error, order 2. Options as of `Adaptive`."""
    return Adaptive("adaptive_heun", rtol, atol, max_nfe)


ADAPTIVE = {"dopri5": dopri5, "dopri8": dopri8, "bosh3": bosh3, "adaptive_heun": adaptive_heun}


def solver_of(method) -> Step | Adaptive:
    """The step or the adaptive method that `method` says: a name of one, or itself. TypeError or ValueError otherwise.

    >>> solver_of("rk4") is rk4, solver_of("dopri5") == dopri5()
    (True, True)
    """
    if method == "euler_maruyama" or method is maruyama:
        raise ValueError("method 'euler_maruyama' needs the score: write method=solvers.maruyama(score)")
    if method is Adaptive or any(method is maker for maker in (ancestral, jumping, projected, geodesic)):
        raise TypeError(f"method must be a step, got what makes one: write solvers.{method.__name__}(...)")
    if isinstance(method, str):
        _validate.choice("method", method, [*FIXED, *ADAPTIVE])
        return FIXED[method] if method in FIXED else ADAPTIVE[method]()
    if any(method is known for known in ADAPTIVE.values()):
        return method()
    if not isinstance(method, Adaptive) and not callable(method):
        raise TypeError(f"method must be a name, a step (velocity, x, t, s) -> x or an Adaptive, got {method!r}")
    return method


def follow(step: Step, velocity: Velocity, x_0: Tensor, times: Tensor, every: int | None = None) -> Tensor:
    """Move x_0 from times[0] to times[-1] by one step between neighbours; for `euler` and the like, dx/dt = velocity.

    times: (steps + 1,). Returns the end point, or every `every`-th point from x_0 on, (steps // every + 1, *x_0.shape).
    Raises TypeError or ValueError for a step that changes the shape, dtype or device of x, and for falling times where
    a step runs forward only.
    """
    if getattr(step, "forward_only", False) and not bool((times.diff() > 0).all()):
        raise ValueError(f"times must increase for this step, got {times[0].item():g} to {times[-1].item():g}")
    x, points, moments = x_0.clone(), [x_0], times.unbind()  # a step may write into its x
    for k, (t, s) in enumerate(zip(moments[:-1], moments[1:], strict=True), 1):
        x = _alike(step(velocity, x, t, s), x, "a step")
        if every and k % every == 0:
            points.append(x.clone())
    return torch.stack(points) if every else x


def _alike(moved, x: Tensor, name: str) -> Tensor:
    if not isinstance(moved, Tensor):
        raise TypeError(f"{name} must return a tensor, got {type(moved).__name__}")
    if moved.shape != x.shape or moved.dtype != x.dtype or moved.device != x.device:
        wanted, came = (f"{tuple(y.shape)}, {_short(y.dtype)}, on {y.device}" for y in (x, moved))
        raise ValueError(f"{name} must return a tensor like x ({wanted}), got {came}")
    return moved


def solve_graphed(
    step: Step, velocity: Velocity, x_0: Tensor, times: Tensor, every: int | None = None, record=None
) -> Tensor:
    """`follow`, with one step recorded as a CUDA graph and replayed: no Python and no launch between its kernels.

    The step reads and writes the same tensors each time. record: (advance) -> a function that repeats it; by default
    `cuda_graph`. Only for a step and a velocity that do the same work at every time.
    """
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


def solve_adaptive(method: Adaptive, velocity: Velocity, x_0: Tensor, times: Tensor) -> tuple[Tensor, int]:
    """Solve with error control; return the points at `times`, (len(times), *x_0.shape), and the NFE.

    times: strictly rising or falling. Points between the ends are read off a quartic through each step: less accurate
    where an eighth-order method takes long ones. ValueError if no step meets the tolerances, or not within `max_nfe`.
    """
    from torchdiffeq import odeint

    nfe, name, tolerances = 0, method.method, {"rtol": method.rtol, "atol": method.atol}
    wanted = f"rtol={method.rtol:g}, atol={method.atol:g}"

    def counted(t, x):
        nonlocal nfe
        if nfe == method.max_nfe:
            raise ValueError(
                f"method {name!r} spent max_nfe={nfe} evaluations and came to t={t.item():g}: "
                f"allow more, or more error than {wanted}, or take a fixed-step method"
            )
        nfe += 1
        return velocity(x, t.clamp(0, 1))  # the guess of the first step may probe beyond the end

    def norm(error):  # a sum in float32 would depend on the order of the rows, and so would the steps
        return error.double().square().mean().sqrt().to(error.dtype)

    # Without step_t the last step overshoots the end, into time without a flow, and the end point is interpolated.
    options = {"step_t": times[-1:], "norm": norm}
    try:
        points = odeint(counted, x_0, times, method=name, **tolerances, options=options)
    except AssertionError as error:
        if "underflow" not in str(error) and "non-finite" not in str(error):  # not torchdiffeq's
            raise
        raise ValueError(
            f"method {name!r} found no step that meets {wanted} ({str(error).splitlines()[0][:60]}): "
            "is the velocity finite and smooth? Otherwise allow more error"
        ) from None
    return points, nfe
