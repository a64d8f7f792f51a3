"""Probability paths: the affine one, X_t = alpha_t X_1 + sigma_t X_0, with what a prediction converts into; the
geodesic one, which runs on a manifold; the mixture of tokens, `TokenMix`; and a velocity on another schedule than its
own, `reschedule`."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmlib import _validate
from fmlib.devices import in_float64
from fmlib.schedules import CondOT, Schedule, change, check_change, check_ends

QUANTITIES = ("velocity", "x_1", "x_0", "score")


class PathSample(NamedTuple):
    """One training batch: the point on the path, the regression target there, and what they were made from."""

    x_t: Tensor
    velocity: Tensor
    x_0: Tensor
    x_1: Tensor
    t: Tensor


@dataclass(frozen=True)
class AffinePath:
    """X_t = alpha_t X_1 + sigma_t X_0 (Lipman et al. 2024, equation 4.50).

    Raises ValueError for a schedule whose ends do not meet alpha_0 = sigma_1 = 0, alpha_1 = sigma_0 = 1.
    """

    schedule: Schedule = CondOT()

    def __post_init__(self):
        check_ends(self.schedule)

    def sample(self, x_0: Tensor, x_1: Tensor, t: float | Tensor) -> PathSample:
        """Return x_t = alpha_t x_1 + sigma_t x_0 and its velocity d/dt x_t = alpha'_t x_1 + sigma'_t x_0.

        x_0, x_1: (batch, *dims), one floating dtype and device, finite. t: a number, () or (batch,), in [0, 1].
        Raises ValueError or TypeError naming the argument otherwise.

        >>> import torch
        >>> x_0, x_1 = torch.zeros(2, 3), torch.ones(2, 3)
        >>> AffinePath().sample(x_0, x_1, 0.25).x_t[0]
        tensor([0.2500, 0.2500, 0.2500])
        """
        _validate.same("x_0", _validate.batch("x_0", x_0), "x_1", _validate.batch("x_1", x_1))
        time = _validate.time(t, x_0)
        schedule = self.schedule
        x_t = schedule.alpha(time) * x_1 + schedule.sigma(time) * x_0
        velocity = schedule.d_alpha(time) * x_1 + schedule.d_sigma(time) * x_0
        return PathSample(x_t, velocity, x_0, x_1, time.reshape(time.shape[:1]))

    def flow(self, x_0: Tensor, x_1: Tensor, t: float | Tensor) -> Tensor:
        """The conditional flow psi_t(x_0 given x_1) = alpha_t x_1 + sigma_t x_0. Shapes as in `sample`."""
        return self.sample(x_0, x_1, t).x_t

    def velocity(self, x: Tensor, x_1: Tensor, t: float | Tensor) -> Tensor:
        """The conditional velocity at any x, u_t(x given x_1) = alpha'_t x_1 + sigma'_t (x - alpha_t x_1) / sigma_t.

        (Lipman et al. 2024, equation 4.54.) Shapes as in `sample`. It has no limit at t = 1, where
        every trajectory has arrived at x_1: times with sigma_t = 0 are a ValueError.
        """
        _validate.same("x", _validate.batch("x", x), "x_1", _validate.batch("x_1", x_1))
        time = _validate.time(t, x)
        schedule = self.schedule
        sigma = schedule.sigma(time)
        if sigma.device.type == "cpu" and (sigma == 0).any():
            raise ValueError("t must be less than 1: u_t(x given x_1) has no limit at t = 1")
        x_0 = (x - schedule.alpha(time) * x_1) / sigma
        return schedule.d_alpha(time) * x_1 + schedule.d_sigma(time) * x_0

    def convert(self, value: Tensor, x: Tensor, t: float | Tensor, *, have: str, want: str) -> Tensor:
        """What a prediction `have` at the point x says about `want`: a_t x + b_t value, with `coefficients` a_t, b_t.

        value, x: (batch, *dims), one dtype and device. t: a number, () or (batch,), in [0, 1]. have, want: 'velocity'
        u_t(x), 'x_1' = E[X_1 given X_t = x] (the denoiser), 'x_0' = E[X_0 given X_t = x] (the noise) or 'score' =
        grad log p_t(x); the score is tied to the others only if the source is N(0, I) and independent of the target.
        Raises ValueError or TypeError naming the argument, and ValueError at a t where there is no finite limit.

        >>> path, x = AffinePath(), torch.tensor([[1.0, 2.0]])
        >>> path.convert(torch.tensor([[3.0, 2.0]]), x, 0.5, have="x_1", want="velocity")  # (x_1 - x) / (1 - t)
        tensor([[4., 0.]])
        """
        _validate.choice("have", have, QUANTITIES)
        _validate.same(have, _validate.batch(have, value), "x", _validate.batch("x", x))
        a, b = self.coefficients(_validate.time(t, x), have=have, want=want)
        return a * x + b * value

    def coefficients(self, t: Tensor, *, have: str, want: str) -> tuple[Tensor, Tensor]:
        """The a_t and b_t, of the shape of `t`, with which want = a_t x + b_t have.

        All follow from x = alpha x_1 + sigma x_0, u = alpha' x_1 + sigma' x_0 and score = -x_0 / sigma (Lipman et al.
        2024, section 4.8 and its table 1). With w = alpha' sigma - sigma' alpha and v = sigma w, (a_t, b_t) is

        want, have   velocity             x_1                         x_0                      score
        velocity     0, 1                 sigma'/sigma, w/sigma       alpha'/alpha, -w/alpha   alpha'/alpha, v/alpha
        x_1          -sigma'/w, sigma/w   0, 1                        1/alpha, -sigma/alpha    1/alpha, sigma^2/alpha
        x_0          alpha'/w, -alpha/w   1/sigma, -alpha/sigma       0, 1                     0, -sigma
        score        -alpha'/v, alpha/v   -1/sigma^2, alpha/sigma^2   0, -1/sigma              0, 1

        and its limit at t = 0 and t = 1. Without a finite limit a ValueError names t (not on an accelerator, where no
        value is read: the result is then infinite or NaN). That is so at t = 0 from x_0 or the score to the velocity or
        x_1, and from the velocity to x_1 if alpha'_0 = 0; at t = 1 from x_1 to any other, from x_0 to the score, from
        x_0 to the velocity if sigma'_1 is infinite, and from the velocity to the score if it is not.

        t: a floating tensor in [0, 1]. Raises TypeError or ValueError for any other, and for unknown names.

        >>> AffinePath().coefficients(torch.tensor(0.75), have="x_1", want="velocity")
        (tensor(-4.), tensor(4.))
        """
        _validate.choice("have", have, QUANTITIES)
        _validate.choice("want", want, QUANTITIES)
        if not isinstance(t, Tensor):
            raise TypeError(f"t must be a torch.Tensor, got {type(t).__name__}")
        _validate.time(t.flatten(), t.reshape(-1, 1))
        if have == want:
            return torch.zeros_like(t), torch.ones_like(t)
        a, b, divisor = _table(self.schedule, t)[want, have]
        a, b = a / divisor, b / divisor
        if have == "velocity":  # may be 0/0 at the end where x itself is the x_1, the x_0 or minus the score wanted
            known = (self.schedule.sigma(t) if want == "x_1" else self.schedule.alpha(t)) == 0
            a, b = a.masked_fill(known, -1.0 if want == "score" else 1.0), b.masked_fill(known, 0.0)
        if t.device.type == "cpu" and not (finite := a.isfinite() & b.isfinite()).all():
            where = t.detach()[~finite].flatten()[0].item()
            raise ValueError(f"{want} has no finite limit from {have} at t = {where:g}: keep t away from it")
        return a, b


@dataclass(frozen=True)
class GeodesicPath:
    """X_t = exp_{X_0}(alpha_t log_{X_0}(X_1)) on a manifold: along the shortest geodesic (Chen & Lipman 2023, "Flow
    Matching on General Geometries", section 3.2, with the distance to X_1 falling like 1 - alpha_t).

    manifold: one of `manifolds`, or whatever has `exp` and `log`. `fit(..., loss=VelocityMatching(GeodesicPath(...)))`
    trains on it; the squared loss is the metric's on the sphere and the torus, and has the same minimiser on any.
    Raises TypeError for a manifold without them, ValueError for a schedule with other ends than alpha_0 = 0,
    alpha_1 = 1.
    """

    manifold: object
    schedule: Schedule = CondOT()

    def __post_init__(self):
        check_ends(self.schedule)
        _validate.methods("manifold", self.manifold, "exp(x, v)", "log(x, y)")

    def sample(self, x_0: Tensor, x_1: Tensor, t: float | Tensor) -> PathSample:
        """Return x_t and its velocity, which is tangent there and constant in length but for the schedule.

        The velocity is alpha'_t log_{x_t}(x_1) / (1 - alpha_t), and in the second half, where this becomes 0/0,
        -alpha'_t log_{x_t}(x_0) / alpha_t. x_0, x_1: points of the manifold, (batch, coordinates), one dtype and
        device. t: a number, () or (batch,), in [0, 1]. Raises ValueError or TypeError otherwise, and what the
        manifold's `log` raises: on the sphere, for antipodes.

        >>> import torch
        >>> from fmlib.manifolds import Sphere
        >>> x_0, x_1 = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> GeodesicPath(Sphere()).sample(x_0, x_1, 0.5).x_t  # an eighth of a turn
        tensor([[0.7071, 0.7071]])
        """
        _validate.same("x_0", _validate.batch("x_0", x_0), "x_1", _validate.batch("x_1", x_1))
        time = _validate.time(t, x_0)
        alpha, rate = self.schedule.alpha(time), self.schedule.d_alpha(time)
        x_t = self.manifold.exp(x_0, alpha * self.manifold.log(x_0, x_1))
        early = alpha < 0.5
        to_end = self.manifold.log(x_t, torch.where(early, x_1, x_0))
        left = torch.where(early, 1 - alpha, -alpha)  # what is left of the way, or behind
        return PathSample(x_t, rate / left * to_end, x_0, x_1, time.reshape(time.shape[:1]))


@dataclass(frozen=True)
class TokenMix:
    """Each position of X_t is that of X_1 with probability kappa = alpha_t, else that of X_0, independently.

    (Gat et al. 2024, "Discrete Flow Matching", arXiv 2407.15595, with the convex interpolant.) Tokens are integers.
    Raises ValueError for a schedule with other ends than alpha_0 = 0, alpha_1 = 1.
    """

    schedule: Schedule = CondOT()

    def __post_init__(self):
        check_ends(self.schedule)

    def sample(self, x_0: Tensor, x_1: Tensor, t: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw X_t given both ends, like x_0.

        x_0, x_1: tokens, (batch, positions), of one dtype and device. t: a number, () or (batch,), in [0, 1]. Raises
        ValueError or TypeError naming the argument otherwise.

        >>> TokenMix().sample(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[4, 2, 7]]), 1.0)
        tensor([[4, 2, 7]])
        """
        _validate.same("x_0", _validate.tokens("x_0", x_0), "x_1", _validate.tokens("x_1", x_1))
        kappa = self.schedule.alpha(_validate.time(t, in_float64(x_0[:, :1].float())))
        _validate.generator(generator)
        drawn = torch.rand(x_0.shape, generator=generator, dtype=kappa.dtype, device=x_0.device)
        return torch.where(drawn < kappa, x_1, x_0)


def reschedule(velocity, old: Schedule, new: Schedule):
    """The velocity of the path with schedule `new` from one learned on `old`: u~_r(x) = s'/s x + s t' u_t(x/s).

    t and s, at time r, are those of `schedules.change`, and t', s' their derivatives in r (Shaul et al. 2023, "Bespoke
    Solvers for Generative Flow Models", on scale-time transformations). Both flows lead from the same noise to the same
    data; what few steps of a solver make of them differs. Exact for every marginal velocity u of an `AffinePath`.

    velocity: a callable (x, t, **condition), and not a flow map. old, new: schedules, `old` with `inverse_log_snr`.
    Returns a velocity (x, r, **condition), which calls it once. A network (nn.Module) becomes one, rowwise if it is.
    Raises TypeError or ValueError for anything else, for a second time s=, and ValueError at a time r where t' is
    infinite, as there u alone does not say what u~ is: r = 0 if alpha'_0 = 0 in `old`, as with `Polynomial(3)`, and
    alpha~'_0 > 0; r = 1 if sigma~'_1 is infinite, as with `VariancePreserving`, and sigma'_1 is not. (On an
    accelerator, where no value is read, the result is then NaN.) 'euler' and 'midpoint' do not look at the end r = 1;
    `sample(..., t=(1e-3, 1.0))` begins after r = 0.

    >>> from fmlib.schedules import Cosine
    >>> u = lambda x, t: -x / (1 - t)  # all data at 0, on the straight path
    >>> reschedule(u, CondOT(), Cosine())(torch.ones(1, 1), 0.5)  # -pi/2 x tan(pi/4)
    tensor([[-1.5708]])
    """
    if not callable(velocity):
        raise TypeError(f"velocity must be a callable (x, t), got {type(velocity).__name__}")
    check_change(old, new)
    if isinstance(velocity, nn.Module):
        return velocity if old == new else _Rescheduled(velocity, old, new)

    def rescheduled(x: Tensor, t: float | Tensor, **condition) -> Tensor:
        return _rescheduled(velocity, old, new, x, t, condition)

    rescheduled.rowwise = _validate.is_rowwise(velocity)
    return velocity if old == new else rescheduled


class _Rescheduled(nn.Module):
    """A network on another schedule. What it promises of its rows, its network promises."""

    def __init__(self, network: nn.Module, old: Schedule, new: Schedule):
        super().__init__()
        self.network, self.settings = network, (old, new)
        self.rowwise, self.training = _validate.is_rowwise(network), network.training

    def forward(self, x: Tensor, t: float | Tensor, **condition) -> Tensor:
        return _rescheduled(self.network, *self.settings, x, t, condition)


def _rescheduled(velocity, old: Schedule, new: Schedule, x: Tensor, r: float | Tensor, condition: dict) -> Tensor:
    if "s" in condition:
        raise ValueError("reschedule is for velocities, which have one time, and not for flow maps, which have s= too")
    _validate.shaped("x", x)
    r = _validate.time(r, in_float64(x))
    t, s = change(old, new, r)
    w, v, rise, growth = _rates(old, t)
    w_new, v_new, rise_new, growth_new = _rates(new, r)
    # w is the rate of the log-ratio times alpha sigma; v = sigma w is finite where w is not
    speed = torch.where(w.isinf(), v_new / (s**3 * v), w_new / (s**2 * w))
    if r.device.type == "cpu" and not torch.compiler.is_compiling() and not (finite := speed.isfinite()).all():
        where = r.detach()[~finite].flatten()[0].item()
        raise ValueError(f"the velocity on {new} has no finite limit from {old} at t = {where:g}: keep t away from it")
    scale = growth_new / rise_new - speed * growth / rise  # s'/s
    u = velocity(x / s.to(x.dtype), t.to(x.dtype).reshape(t.shape[:1]), **condition)
    if not isinstance(u, Tensor) or u.shape != x.shape:
        came = tuple(u.shape) if isinstance(u, Tensor) else type(u).__name__
        raise ValueError(f"velocity must return a tensor of shape {tuple(x.shape)}, got {came}")
    return scale.to(x.dtype) * x + (s * speed).to(x.dtype) * u.to(x.dtype)


def _rates(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """w = alpha' sigma - sigma' alpha and v = sigma w, as in `_table`; |(alpha, sigma)|^2, and half its derivative."""
    alpha, sigma, d_alpha, product = (
        schedule.alpha(t),
        schedule.sigma(t),
        schedule.d_alpha(t),
        schedule.sigma_d_sigma(t),
    )
    w = d_alpha * sigma - schedule.d_sigma(t) * alpha
    return w, d_alpha * sigma**2 - product * alpha, alpha**2 + sigma**2, alpha * d_alpha + product


def _table(schedule: Schedule, t: Tensor) -> dict[tuple[str, str], tuple]:
    """Table of `AffinePath.coefficients`: (want, have) -> (a_t, b_t) times a divisor, and the divisor."""
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    alpha, sigma, d_alpha, d_sigma = schedule.alpha(t), schedule.sigma(t), schedule.d_alpha(t), schedule.d_sigma(t)
    w = d_alpha * sigma - d_sigma * alpha  # alpha rises and sigma falls, so both terms are positive: nothing cancels
    v = d_alpha * sigma**2 - schedule.sigma_d_sigma(t) * alpha  # finite at t = 1 even where sigma' and w are not
    return {
        ("velocity", "x_1"): (d_sigma, w, sigma),
        ("velocity", "x_0"): (d_alpha, -w, alpha),
        ("velocity", "score"): (d_alpha, v, alpha),
        ("x_1", "velocity"): (-d_sigma, sigma, w),
        ("x_1", "x_0"): (one, -sigma, alpha),
        ("x_1", "score"): (one, sigma**2, alpha),
        ("x_0", "velocity"): (d_alpha, -alpha, w),
        ("x_0", "x_1"): (one, -alpha, sigma),
        ("x_0", "score"): (zero, -sigma, one),
        ("score", "velocity"): (-d_alpha, alpha, v),
        ("score", "x_1"): (-one, alpha, sigma**2),
        ("score", "x_0"): (zero, -one, sigma),
    }
