"""Schedules alpha_t, sigma_t of an affine path X_t = alpha_t X_1 + sigma_t X_0.

All meet alpha_0 = sigma_1 = 0 and alpha_1 = sigma_0 = 1, exactly, so that the path starts at the source and ends at
the target (Lipman et al. 2024, "Flow Matching Guide and Code", section 4.8). Methods map a tensor of times in [0, 1]
to a tensor of the same shape, dtype and device.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from fmlib import _validate


@dataclass(frozen=True)
class Schedule:
    """What the schedules share, derived from the four methods below: log-SNR, sigma_t sigma'_t, the memoryless noise.

    A new schedule is a frozen dataclass with `alpha`, `sigma`, `d_alpha`, `d_sigma` and, if it has one in closed
    form, `inverse_log_snr`.
    """

    def alpha(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def d_alpha(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def d_sigma(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def sigma_d_sigma(self, t: Tensor) -> Tensor:
        """sigma_t sigma'_t: half the rate of change of the noise variance, finite even where sigma' is not."""
        return self.sigma(t) * self.d_sigma(t)

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda_t = log(alpha_t / sigma_t): -inf at t = 0, +inf at t = 1, increasing."""
        return self.alpha(t).log() - self.sigma(t).log()

    def memoryless(self, t: Tensor) -> Tensor:
        """The noise g_t with which a flow from N(0, I) forgets its start, g_t^2 = 2 sigma_t^2 d/dt log_snr.

        With it, as `noise` of `solvers.maruyama`, X_0 and X_1 are independent (Domingo-Enrich et al. 2024, "Adjoint
        Matching", arXiv 2409.08861). It is infinite at t = 0: a ValueError (not on an accelerator, where no value is
        read). `solvers.ancestral` has the same law and no such coefficient. TypeError if t is no tensor.

        >>> CondOT().memoryless(torch.tensor([0.5, 1.0]))  # sqrt(2 (1 - t) / t)
        tensor([1.4142, 0.0000])
        """
        if not isinstance(t, Tensor):
            raise TypeError(f"t must be a torch.Tensor, got {type(t).__name__}")
        sigma, alpha = self.sigma(t), self.alpha(t)
        g = (2 * (self.d_alpha(t) / alpha * sigma**2 - self.sigma_d_sigma(t))).sqrt()
        if t.device.type == "cpu" and (alpha == 0).any():
            raise ValueError(
                f"the memoryless noise is infinite at t = {t[alpha == 0].flatten()[0].item():g}, where alpha_t = 0: "
                "start later, or take solvers.ancestral"
            )
        return g


@dataclass(frozen=True)
class CondOT(Schedule):
    """alpha_t = t, sigma_t = 1 - t: straight conditional paths (Lipman et al. 2022, section 4.1).

    >>> CondOT().alpha(torch.tensor(0.25))
    tensor(0.2500)
    """

    def alpha(self, t):
        return t

    def sigma(self, t):
        return 1 - t

    def d_alpha(self, t):
        return torch.ones_like(t)

    def d_sigma(self, t):
        return -torch.ones_like(t)

    def inverse_log_snr(self, log_snr: Tensor) -> Tensor:
        """The time at which log(alpha_t / sigma_t) = log_snr."""
        return torch.sigmoid(log_snr)


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha_t = sin(pi t / 2), sigma_t = cos(pi t / 2) (Albergo & Vanden-Eijnden 2022, the trigonometric interpolant).

    >>> Cosine().sigma(torch.tensor(1.0))
    tensor(0.)
    """

    def alpha(self, t):
        return torch.sin(math.pi / 2 * t)

    def sigma(self, t):
        return torch.sin(math.pi / 2 * (1 - t))  # cos(pi/2) would round to -4e-8: this form is exactly 0 at t = 1

    def d_alpha(self, t):
        return math.pi / 2 * self.sigma(t)

    def d_sigma(self, t):
        return -math.pi / 2 * self.alpha(t)

    def inverse_log_snr(self, log_snr: Tensor) -> Tensor:
        """The time at which log(alpha_t / sigma_t) = log_snr."""
        return 2 / math.pi * torch.atan(log_snr.exp())


@dataclass(frozen=True)
class Polynomial(Schedule):
    """alpha_t = t^n, sigma_t = 1 - t^n, for n >= 1; n = 1 is `CondOT` (Lipman et al. 2024, section 4.8).

    >>> Polynomial(3).alpha(torch.tensor(0.5))
    tensor(0.1250)
    """

    n: float = 2.0

    def __post_init__(self):
        if not self.n >= 1:
            raise ValueError(f"n must be at least 1, got {self.n}")

    def alpha(self, t):
        return t**self.n

    def sigma(self, t):
        late = t > 0.5  # where 1 - t^n would cancel; before, it does not, and its slope at t = 0 is right
        return torch.where(late, -torch.expm1(self.n * torch.where(late, t, 1).log()), 1 - t**self.n)

    def d_alpha(self, t):
        return self.n * t ** (self.n - 1)

    def d_sigma(self, t):
        return -self.d_alpha(t)

    def inverse_log_snr(self, log_snr: Tensor) -> Tensor:
        """The time at which log(alpha_t / sigma_t) = log_snr."""
        return torch.exp(logsigmoid(log_snr) / self.n)

    def log_snr(self, t):
        return self.n * t.log() - self.sigma(t).log()  # t^n may be too small to be a number


@dataclass(frozen=True)
class VariancePreserving(Schedule):
    """The variance-preserving diffusion in flow time, rescaled to reach pure noise: alpha_t^2 + sigma_t^2 = 1.

    With s = 1 - t and e_t = exp(-(beta_max - beta_min) s^2 / 4 - beta_min s / 2) (Song et al. 2021, "Score-Based
    Generative Modeling through SDEs", equation 33), alpha_t = (e_t - e_0) / (1 - e_0). Without that rescaling
    alpha_0 = e_0 = 0.0066, so the path would not start at the source (Lin et al. 2023, "Common Diffusion Noise
    Schedules and Sample Steps are Flawed").

    sigma'_t goes to -infinity at t = 1 (like (1 - t)^{-1/2}); `sigma_d_sigma` = -alpha alpha' stays finite.

    >>> VariancePreserving().alpha(torch.tensor([0.0, 1.0]))
    tensor([0., 1.])
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self):
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(f"need 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}")

    def _log_e(self, t):
        s = 1 - t
        return -(self.beta_max - self.beta_min) * s**2 / 4 - self.beta_min * s / 2

    def _gain(self, t):
        """log e_t - log e_0, without the difference."""
        return (self.beta_max - self.beta_min) * t * (2 - t) / 4 + self.beta_min * t / 2

    @property
    def _log_e_0(self) -> float:
        return -(self.beta_max - self.beta_min) / 4 - self.beta_min / 2

    def alpha(self, t):
        # e_t - e_0 = e_t (1 - exp(log e_0 - log e_t)): exactly 0 at t = 0, accurate beside it; exactly 1 at t = 1 below
        rise = self._log_e(t).exp() * -torch.expm1(-self._gain(t))
        return torch.where(t == 1, torch.ones_like(t), rise / (1 - math.exp(self._log_e_0)))

    def sigma(self, t):
        # 1 - alpha without cancellation: (1 - e_t) / (1 - e_0), through expm1
        one_minus_alpha = -torch.expm1(self._log_e(t)) / (1 - math.exp(self._log_e_0))
        return torch.where(t == 0, torch.ones_like(t), (one_minus_alpha * (1 + self.alpha(t))).sqrt())

    def d_alpha(self, t):
        rate = (self.beta_max - self.beta_min) * (1 - t) / 2 + self.beta_min / 2
        return rate * self._log_e(t).exp() / (1 - math.exp(self._log_e_0))

    def d_sigma(self, t):
        return self.sigma_d_sigma(t) / self.sigma(t)

    def sigma_d_sigma(self, t):
        return -self.alpha(t) * self.d_alpha(t)

    def log_snr(self, t):
        # log alpha from the logs of its factors: alpha itself may be too small to be a number
        log_rise = self._log_e(t) + torch.log(-torch.expm1(-self._gain(t)))
        return log_rise - math.log1p(-math.exp(self._log_e_0)) - self.sigma(t).log()

    def inverse_log_snr(self, log_snr: Tensor) -> Tensor:
        """The time at which log(alpha_t / sigma_t) = log_snr: solves the quadratic gain = log e_t - log e_0 for t."""
        e_0 = math.exp(self._log_e_0)
        b, a = self.beta_min / 2, (self.beta_max - self.beta_min) / 4
        alpha = torch.sigmoid(2 * log_snr).sqrt()
        # e_t is e_0 + alpha (1 - e_0), which keeps the digits of the gain, and 1 - (1 - alpha) (1 - e_0), which late
        # keeps those of -log e_t, what is left to gain
        gain = softplus(logsigmoid(2 * log_snr) / 2 + math.log1p(-e_0) - self._log_e_0, threshold=50)
        late = -torch.log1p(-torch.sigmoid(-2 * log_snr) / (1 + alpha) * (1 - e_0))
        left = torch.where(log_snr > 0, late, -self._log_e_0 - gain)
        return 2 * gain / (2 * a + b + (b**2 + 4 * a * left).sqrt())


def check_schedule(name: str, schedule) -> None:
    """Raise TypeError unless it is a `Schedule`; the class of one is none."""
    if not isinstance(schedule, Schedule):
        raise TypeError(f"{name} must be a schedule, such as CondOT(), got {schedule!r}"[:200])


def check_ends(schedule: Schedule) -> None:
    """Raise ValueError unless alpha_0 = sigma_1 = 0 and alpha_1 = sigma_0 = 1, and TypeError for no schedule."""
    check_schedule("schedule", schedule)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    alpha, sigma = schedule.alpha(ends).tolist(), schedule.sigma(ends).tolist()
    for name, value, expected in [
        ("alpha_0", alpha[0], 0),
        ("alpha_1", alpha[1], 1),
        ("sigma_0", sigma[0], 1),
        ("sigma_1", sigma[1], 0),
    ]:
        if not abs(value - expected) <= 1e-12:
            raise ValueError(f"{schedule} has {name} = {value:g}, but a schedule needs {name} = {expected}")


def change(old: Schedule, new: Schedule, r: Tensor) -> tuple[Tensor, Tensor]:
    """The time t and the scale s with which the path of `new` at time r is s times the path of `old` at time t.

    With alpha~, sigma~ of `new`: alpha~_r = s alpha_t and sigma~_r = s sigma_t, so both have one signal-to-noise ratio,
    and s = |(alpha~_r, sigma~_r)| / |(alpha_t, sigma_t)|, which is 0/0 nowhere (the scale-time transformations of Shaul
    et al. 2023, "Bespoke Solvers for Generative Flow Models"). `paths.reschedule` samples with it.

    r: a floating tensor of times in [0, 1]; t and s have its shape and dtype. Raises TypeError or ValueError for any
    other, for a schedule whose ends do not meet, and for an `old` without `inverse_log_snr`.

    >>> change(CondOT(), Cosine(), torch.tensor([0.0, 0.5, 1.0]))
    (tensor([0.0000, 0.5000, 1.0000]), tensor([1.0000, 1.4142, 1.0000]))
    """
    check_change(old, new)
    if not isinstance(r, Tensor):
        raise TypeError(f"r must be a torch.Tensor, got {type(r).__name__}")
    _validate.time(r.flatten(), r.reshape(-1, 1), "r")
    t = torch.where((r == 0) | (r == 1), r, old.inverse_log_snr(new.log_snr(r)).clamp(0, 1))  # the ends meet exactly
    return t, torch.hypot(new.alpha(r), new.sigma(r)) / torch.hypot(old.alpha(t), old.sigma(t))


def check_change(old: Schedule, new: Schedule) -> None:
    """Raise TypeError or ValueError unless the path of `old` can be run on the schedule `new`."""
    for name, schedule in (("old", old), ("new", new)):
        check_schedule(name, schedule)
        check_ends(schedule)
    if not callable(getattr(old, "inverse_log_snr", None)):
        raise ValueError(f"old must have inverse_log_snr, by which a time is found for its ratio, and {old} has none")
