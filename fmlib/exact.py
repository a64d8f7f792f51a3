"""Marginal paths known in closed form: Gaussian-mixture targets and finite data sets, source N(0, I).

Both classes answer the same questions at a point x and time t: `velocity` u_t(x), `score` grad log p_t(x),
`log_density` log p_t(x), the posterior means `x_1` = E[X_1 given X_t = x] and `x_0`, and `sample` X_t ~ p_t. Bound
methods are velocities like any other: `sampling.sample(path.velocity, x_0, steps=100)`.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fmlib import _validate
from fmlib.laws import LOG_2PI, GaussianMixture
from fmlib.schedules import CondOT, Schedule, check_ends


@dataclass(frozen=True, eq=False)
class MixturePath:
    """The marginal path from N(0, I) to a Gaussian mixture, X_t = alpha_t X_1 + sigma_t X_0.

    Given component k, X_t ~ N(alpha mu_k, C_k) with C_k = alpha^2 Sigma_k + sigma^2 I, so every quantity is an average
    over k under the posterior probabilities w_k(x, t). All are finite for every t in [0, 1].

    >>> mixture = GaussianMixture.isotropic(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), std=0.5)
    >>> MixturePath(mixture).velocity(torch.zeros(1, 2), 0.5)
    tensor([[0., 0.]])
    """

    target: GaussianMixture
    schedule: Schedule = CondOT()

    def __post_init__(self):
        check_ends(self.schedule)

    def _components(self, x: Tensor, t):
        """Return t, C_k's eigenvalues, x in each component's axes, and log w_k p_t(x given k): all (batch, K, ...)."""
        target = self.target
        _validate.batch("x", x)
        if x.shape[1:] != target.means.shape[1:]:
            raise ValueError(f"x must have shape (batch, {target.means.shape[1]}), got {tuple(x.shape)}")
        if x.device != target.means.device:
            raise ValueError(f"x is on {x.device} but the mixture is on {target.means.device}")
        time = _validate.time(t, x)[..., None]
        alpha, sigma = self.schedule.alpha(time), self.schedule.sigma(time)
        variance = alpha**2 * target.variances.to(x.dtype) + sigma**2
        return time, variance, *target.log_joint(x, alpha * target.means.to(x.dtype), variance)

    def _average(self, x: Tensor, t, gain, shift) -> Tensor:
        """sum_k w_k(x, t) [shift_t mu_k + gain_t(Sigma_k) C_k^{-1} (x - alpha_t mu_k)]."""
        time, variance, offset, log_joint = self._components(x, t)
        gained = gain(time, self.target.variances.to(x.dtype)) / variance * offset
        each = shift(time) * self.target.means.to(x.dtype)
        each = each + torch.einsum("kij,bkj->bki", self.target.axes.to(x.dtype), gained)
        return (log_joint.softmax(-1)[..., None] * each).sum(1)

    def log_density(self, x: Tensor, t: float | Tensor) -> Tensor:
        """log p_t(x), shape (batch,)."""
        return self._components(x, t)[3].logsumexp(-1)

    def posterior(self, x: Tensor, t: float | Tensor) -> Tensor:
        """w_k(x, t), the probability of component k given X_t = x, shape (batch, K)."""
        return self._components(x, t)[3].softmax(-1)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """u_t(x) = sum_k w_k [alpha' mu_k + (alpha alpha' Sigma_k + sigma sigma' I) C_k^{-1} (x - alpha mu_k)]."""
        s = self.schedule
        return self._average(
            x, t, lambda time, var: s.alpha(time) * s.d_alpha(time) * var + s.sigma_d_sigma(time), s.d_alpha
        )

    def x_1(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[X_1 given X_t = x] = sum_k w_k [mu_k + alpha Sigma_k C_k^{-1} (x - alpha mu_k)]."""
        return self._average(x, t, lambda time, var: self.schedule.alpha(time) * var, torch.ones_like)

    def x_0(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[X_0 given X_t = x] = sum_k w_k sigma C_k^{-1} (x - alpha mu_k)."""
        return self._average(x, t, lambda time, var: self.schedule.sigma(time), torch.zeros_like)

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """grad log p_t(x) = -sum_k w_k C_k^{-1} (x - alpha mu_k)."""
        return self._average(x, t, lambda time, var: -torch.ones_like(time), torch.zeros_like)

    def sample(self, n: int, t: float, generator: torch.Generator | None = None) -> Tensor:
        """Draw n exact samples of X_t ~ p_t, shape (n, d)."""
        x_1 = self.target.sample(n, generator)
        return _noised(self.schedule, x_1, t, generator)


@dataclass(frozen=True, eq=False)
class DataPath:
    """The marginal path from N(0, I) to a finite data set (mass 1/N on each row), X_t = alpha_t X_1 + sigma_t X_0.

    Given X_t = x, row i has posterior probability w_i = softmax_i(-||x - alpha x_i||^2 / (2 sigma^2)), so
    E[X_1 given X_t = x] = sum_i w_i x_i is one attention read-out over the data: query alpha x / sigma^2, keys and
    values x_i, and a bias -alpha^2 ||x_i||^2 / (2 sigma^2), which is folded into one more coordinate.

    data: (N, *dims). Memory does not grow as queries times data. Logits reach |x|^2 / sigma^2, where float32 would lose
    the small differences that decide between neighbours, so they are formed in float64 (except on a device without it).

    >>> path = DataPath(torch.tensor([[-1.0], [1.0]]))
    >>> path.x_1(torch.tensor([[0.0], [0.9]]), 0.9)
    tensor([[0.],
            [1.]])
    """

    data: Tensor
    schedule: Schedule = CondOT()

    def __post_init__(self):
        _validate.batch("data", self.data)
        check_ends(self.schedule)

    @cached_property
    def _keys(self) -> Tensor:
        with torch.inference_mode(False):  # kept for later calls, which may need derivatives
            rows = self.data.flatten(1)
            rows = rows if rows.device.type == "mps" else rows.double()
            return torch.cat([rows, rows.square().sum(1, keepdim=True)], 1)

    def _flat(self, x: Tensor, t) -> tuple[Tensor, Tensor]:
        _validate.batch("x", x)
        if x.shape[1:] != self.data.shape[1:]:
            raise ValueError(f"x must have shape (batch, *{tuple(self.data.shape[1:])}), got {tuple(x.shape)}")
        if x.device != self.data.device:
            raise ValueError(f"x is on {x.device} but the data is on {self.data.device}")
        rows = x.flatten(1).to(self._keys.dtype)
        return rows, _validate.time(t, rows)

    def _query(self, rows: Tensor, time: Tensor) -> Tensor:
        alpha = self.schedule.alpha(time)
        # sigma = 0 at t = 1, where the softmax becomes the nearest row: a tiny sigma gives just that.
        variance = self.schedule.sigma(time).square().clamp(min=1e-12)
        bias = (-(alpha**2) / (2 * variance)).expand(len(rows), 1)
        return torch.cat([alpha / variance * rows, bias], 1)

    def x_1(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[X_1 given X_t = x], shape of x; the data's mean at t = 0, the nearest row at t = 1."""
        query = self._query(*self._flat(x, t))
        # On CUDA, float64 attention is computed through the whole matrix of logits, so queries go in blocks.
        block = len(query) if query.device.type == "cpu" else max(1, 2**24 // len(self._keys))
        keys = self._keys[None, None]
        means = [
            scaled_dot_product_attention(part[None, None], keys, keys, scale=1.0)[0, 0] for part in query.split(block)
        ]
        return torch.cat(means)[:, :-1].reshape(x.shape).to(x.dtype)

    def x_0(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[X_0 given X_t = x] = (x - alpha E[X_1 given X_t = x]) / sigma; zero, the mean of the source, at t = 1."""
        time, mean = _validate.time(t, x), self.x_1(x, t)
        sigma = self.schedule.sigma(time)
        noise = (x - self.schedule.alpha(time) * mean) / torch.where(sigma == 0, torch.ones_like(sigma), sigma)
        return torch.where(sigma == 0, torch.zeros_like(noise), noise)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """u_t(x) = alpha' E[X_1 given X_t = x] + sigma' E[X_0 given X_t = x].

        At t = 1 p_1 is the data itself, X_0 is independent of X_1 = x, and u_1(x) = alpha'_1 x_i at the nearest row.
        """
        time, mean = _validate.time(t, x), self.x_1(x, t)
        schedule, sigma = self.schedule, self.schedule.sigma(time)
        safe = torch.where(sigma == 0, torch.ones_like(sigma), sigma)
        towards = schedule.sigma_d_sigma(time) * (x - schedule.alpha(time) * mean) / safe**2
        return schedule.d_alpha(time) * mean + torch.where(sigma == 0, torch.zeros_like(towards), towards)

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """grad log p_t(x) = -E[X_0 given X_t = x] / sigma_t; ValueError at t = 1, where p_t has no density."""
        time = self._smooth(x, t)
        return -self.x_0(x, t) / self.schedule.sigma(time)

    def _smooth(self, x: Tensor, t) -> Tensor:
        time = _validate.time(t, x)
        if time.device.type == "cpu" and (self.schedule.sigma(time) == 0).any():
            raise ValueError("t must be less than 1: a finite data set has no density at t = 1")
        return time

    def _log_weights(self, x: Tensor, t) -> Tensor:
        """log of N(x; alpha x_i, sigma^2 I) for every row i, shape (batch, N)."""
        self._smooth(x, t)
        rows, time = self._flat(x, t)
        variance = self.schedule.sigma(time) ** 2
        keys = self._keys[:, :-1]
        alpha = self.schedule.alpha(time)
        squared = rows.square().sum(1, keepdim=True) - 2 * alpha * rows @ keys.T + alpha**2 * self._keys[:, -1]
        return -squared / (2 * variance) - keys.shape[1] / 2 * (variance.log() + LOG_2PI)

    def posterior(self, x: Tensor, t: float | Tensor) -> Tensor:
        """w_i(x, t), the probability of row i given X_t = x, shape (batch, N). For t < 1."""
        return self._log_weights(x, t).softmax(-1).to(x.dtype)

    def log_density(self, x: Tensor, t: float | Tensor) -> Tensor:
        """log p_t(x) = log mean_i N(x; alpha_t x_i, sigma_t^2 I), shape (batch,). For t < 1."""
        self._flat(x, t)  # errors name the whole batch, not a block
        block = max(1, 2**24 // len(self._keys))
        times = t.split(block) if isinstance(t, Tensor) and t.ndim == 1 else [t] * math.ceil(len(x) / block)
        parts = [self._log_weights(part, s).logsumexp(-1) for part, s in zip(x.split(block), times, strict=True)]
        return (torch.cat(parts) - math.log(len(self.data))).to(x.dtype)

    def sample(self, n: int, t: float, generator: torch.Generator | None = None) -> Tensor:
        """Draw n exact samples of X_t ~ p_t, shape (n, *dims)."""
        _validate.count("n", n)
        rows = torch.randint(len(self.data), (n,), generator=generator, device=self.data.device)
        return _noised(self.schedule, self.data[rows], t, generator)


def _noised(schedule: Schedule, x_1: Tensor, t: float, generator) -> Tensor:
    time = _validate.time(t, x_1)
    noise = torch.randn(x_1.shape, dtype=x_1.dtype, device=x_1.device, generator=generator)
    return schedule.alpha(time) * x_1 + schedule.sigma(time) * noise
