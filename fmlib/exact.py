"""Marginal paths known in closed form: Gaussian-mixture targets and finite data sets, source N(0, I); and finite data
sets on the sphere, source uniform (`SpherePath`); and tokens, whose law is a table (`TokenPath`). And for any law that
moves on a grid, its rates of jumps (`jump_rates`).

The first two answer the same questions at a point x and time t: `velocity` u_t(x), `score` grad log p_t(x),
`log_density` log p_t(x), the posterior means `x_1` = E[X_1 given X_t = x] and `x_0`, and `sample` X_t ~ p_t. Bound
methods are velocities like any other: `sampling.sample(path.velocity, x_0, steps=100)`.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fmlib import _validate
from fmlib.devices import in_float64
from fmlib.laws import LOG_2PI, Components, GaussianMixture
from fmlib.manifolds import Sphere, on_manifold
from fmlib.schedules import CondOT, Schedule, check_ends

# For torch.cdist: from the differences x - y, not as |x|^2 + |y|^2 - 2 x.y, which loses the small distances
EXACT = "donot_use_mm_for_euclid_dist"
STATES = 4096  # of a matrix of rates, which then takes 128 MiB


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

    def _components(self, x: Tensor, t) -> tuple[Tensor, Components]:
        """The time in float64, () or (batch, 1), and the components of p_t at x."""
        time = _validate.time(t, in_float64(self.target.checked(x)))
        return time, self.target.components(x, self.schedule.alpha(time), self.schedule.sigma(time))

    def _average(self, x: Tensor, t, gain, shift) -> Tensor:
        """sum_k w_k(x, t) [shift_t mu_k + gain_t(Sigma_k) C_k^{-1} (x - alpha_t mu_k)]."""
        time, (offset, variance, log_joint) = self._components(x, t)
        weights = log_joint.softmax(-1)
        gained = (gain(time[..., None], self.target._eigen[0]).to(x.dtype) / variance) * weights[..., None] * offset
        turned_back = gained.flatten(1) @ self.target.axes.to(x.dtype).mT.flatten(0, 1)  # sum_k axes_k gained_k at once
        return shift(time).to(x.dtype) * (weights @ self.target.means.to(x.dtype)) + turned_back

    def log_density(self, x: Tensor, t: float | Tensor) -> Tensor:
        """log p_t(x), shape (batch,)."""
        return self._components(x, t)[1].log_joint.logsumexp(-1)

    def posterior(self, x: Tensor, t: float | Tensor) -> Tensor:
        """w_k(x, t), the probability of component k given X_t = x, shape (batch, K)."""
        return self._components(x, t)[1].log_joint.softmax(-1)

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

    def covariance(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Cov(X_1 given X_t = x) = sum_k w_k [S_k + (m_k - m) (m_k - m)^T], shape (batch, d, d).

        m_k and S_k = sigma^2 Sigma_k C_k^{-1} are the mean and covariance of X_1 given X_t = x and component k, and m
        is `x_1`. It is sigma^2 / alpha times the derivative of `x_1` in x (Meng et al. 2021, "Estimating High Order
        Gradients of the Data Distribution by Denoising").

        >>> path = MixturePath(GaussianMixture.isotropic(torch.zeros(1, 1), 1.0))
        >>> path.covariance(torch.ones(1, 1), 0.5)  # X_1 and X_0 share X_t equally
        tensor([[[0.5000]]])
        """
        log_weights, means, widths = self._given(x, t)
        weights, axes = log_weights.exp(), self.target._eigen[1]
        apart = means - (weights[..., None] * means).sum(1, keepdim=True)
        within = torch.einsum("bke,kde,kfe->bdf", weights[..., None] * widths, axes, axes)
        return (within + torch.einsum("bk,bkd,bkf->bdf", weights, apart, apart)).to(x.dtype)

    def log_likelihood(self, x: Tensor, t: float | Tensor, A: Tensor, y: Tensor, noise: float) -> Tensor:
        """log p_t(y given X_t = x) for the observation y = A X_1 + N(0, noise^2 I), shape (batch,).

        It is log sum_k w_k(x, t) N(y; A m_k, A S_k A^T + noise^2 I), with m_k and S_k as in `covariance`, is finite for
        every t in [0, 1], and can be differentiated: u_t(x) + b_t grad log p_t(y given x) is the velocity whose flow
        ends in q(x given y), with b_t from `coefficients(t, have="score", want="velocity")` of `paths.AffinePath`
        (Dhariwal & Nichol 2021, "Diffusion Models Beat GANs", section 4, for scores).

        A: (m, d). y: (m,). Both in one dtype, on the device of the mixture. noise: a positive number. TypeError or
        ValueError otherwise.

        >>> path = MixturePath(GaussianMixture.isotropic(torch.zeros(1, 1), 1.0))
        >>> path.log_likelihood(torch.zeros(1, 1), 0.0, torch.ones(1, 1), torch.zeros(1), 1.0)  # log N(0; 0, 1 + 1)
        tensor([-1.2655])
        """
        _validate.positive("noise", noise)
        A, y = self._observation(A, y)
        log_weights, means, widths = self._given(x, t)
        seen = A @ self.target._eigen[1]
        spread = torch.einsum("kme,bke,kne->bkmn", seen, widths, seen) + noise**2 * torch.eye(len(y)).to(A)
        factor = torch.linalg.cholesky(spread)
        apart = torch.linalg.solve_triangular(factor, (y - means @ A.mT)[..., None], upper=False)
        log_det = 2 * factor.diagonal(dim1=2, dim2=3).log().sum(-1)
        log_normal = -0.5 * (apart.square().sum((2, 3)) + log_det + len(y) * LOG_2PI)
        return (log_weights + log_normal).logsumexp(-1).to(x.dtype)

    def _given(self, x: Tensor, t) -> tuple[Tensor, Tensor, Tensor]:
        """X_1 given X_t = x, by component: log weights (batch, K), means (batch, K, d), variances (batch or 1, K, d)
        along its axes; in float64, as `log_likelihood` is differentiated and then multiplied by up to 1 / alpha."""
        time, (offset, variance, log_joint) = self._components(in_float64(self.target.checked(x)), t)
        alpha, sigma = (f(time)[..., None] for f in (self.schedule.alpha, self.schedule.sigma))
        variances, axes = self.target._eigen
        moved = torch.einsum("kde,bke->bkd", axes, alpha * variances / variance * offset)
        widths = (sigma**2 * variances / variance).reshape(-1, *variances.shape)
        return log_joint.log_softmax(-1), in_float64(self.target.means) + moved, widths

    def _observation(self, A: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The operator and what it showed, checked, in float64."""
        d = self.target.means.shape[1]
        if _validate.batch("A", A).ndim != 2 or A.shape[1] != d:
            raise ValueError(f"A must have shape (m, {d}), got {tuple(A.shape)}")
        if not isinstance(y, Tensor):
            raise TypeError(f"y must be a torch.Tensor, got {type(y).__name__}")
        if y.shape != A.shape[:1]:
            raise ValueError(f"y must have shape ({len(A)},) for A of shape {tuple(A.shape)}, got {tuple(y.shape)}")
        _validate.alike("A", A, "y", y)
        if A.device != self.target.means.device:
            raise ValueError(f"A is on {A.device} but the mixture is on {self.target.means.device}")
        _validate.batch("y", y[None])
        return in_float64(A), in_float64(y)

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

    data: (N, *dims). Memory does not grow as queries times data, with or without dims. All is worked out in float64
    (where the device has it) until the result, as logits reach |x|^2 / sigma^2, and about a centre of the data: an
    offset of all rows would cost digits. Where products of matrices still lose those that tell neighbours apart, beside
    t = 1, distances are taken from differences; there a result can be differentiated once.

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
    def _centred(self) -> tuple[Tensor, Tensor, Tensor]:
        """A centre of the rows, (d,), the rows less it with their squared norms appended, (N, d + 1), and their radius.

        The centre is the mean in steps of the data's spread: coarse, so that the rows less it are exact, and those near
        the origin stay as they are.
        """
        with torch.inference_mode(False):  # kept for later calls, which may need derivatives
            rows = in_float64(self.data.flatten(1))
            mean = rows.mean(0)
            step = math.ldexp(1, math.frexp((rows - mean).abs().max())[1])  # a power of two, above the spread
            centre = (mean / step).round() * step if len(rows) > 1 else rows[0]
            rows = rows - centre
            squares = rows.square().sum(1, keepdim=True)
            return centre, torch.cat([rows, squares], 1), squares.detach().max().sqrt()

    def _at(self, x: Tensor, t, smooth: bool = False) -> "_Query":
        """`x` less alpha_t times the centre, flat, and what the schedule says there; errors for a bad x or t.

        smooth: t = 1, where p_t has no density, is an error.
        """
        _validate.batch("x", x)
        if x.shape[1:] != self.data.shape[1:]:
            raise ValueError(f"x must have shape (batch, *{tuple(self.data.shape[1:])}), got {tuple(x.shape)}")
        if x.device != self.data.device:
            raise ValueError(f"x is on {x.device} but the data is on {self.data.device}")
        rows = in_float64(x.flatten(1))
        time = _validate.time(t, rows).expand(len(rows), 1)
        alpha, sigma = self.schedule.alpha(time), self.schedule.sigma(time)
        if smooth and sigma.device.type == "cpu" and (sigma == 0).any():
            raise ValueError("t must be less than 1: a finite data set has no density at t = 1")
        # sigma = 0 at t = 1, where the softmax becomes the nearest row: a tiny sigma gives just that
        return _Query(rows - alpha * self._centred[0], time, alpha, sigma, sigma.square().clamp(min=1e-32))

    def _rough(self, query: "_Query") -> Tensor:
        """For which points products may be wrong by sqrt(eps) in the log of a weight, (batch,): 1.5e-8 in float64.

        What is done about it depends on the answer, which is read on an accelerator too: that costs less than the rest.
        """
        with torch.no_grad():
            reach = query.alpha * self._centred[2]
            size = reach * (query.rows.norm(dim=1, keepdim=True) + reach)
            return (size > torch.finfo(size.dtype).eps ** -0.5 * query.variance)[:, 0]

    def _by_differences(self, query: "_Query") -> Tensor:
        """-||x - alpha x_i||^2 / (2 sigma^2) for every row i, (batch, N)."""
        apart = torch.cdist(query.rows / query.alpha, self._centred[1][:, :-1], compute_mode=EXACT)
        return -(apart * (query.alpha / (2 * query.variance).sqrt())).square()

    def _log_weights(self, query: "_Query") -> Tensor:
        """-||x - alpha x_i||^2 / (2 sigma^2) for every row i, (batch, N), by products where these are exact enough."""
        rows, alpha, keys = query.rows, query.alpha, self._centred[1]
        squared = rows.square().sum(1, keepdim=True) - 2 * alpha * rows @ keys[:, :-1].T + alpha**2 * keys[:, -1]
        logs, rough = -squared / (2 * query.variance), self._rough(query)
        return logs.index_put((rough,), self._by_differences(query.take(rough))) if rough.any() else logs

    def _mean(self, query: "_Query") -> Tensor:
        """E[X_1 given X_t = x] less the centre, (batch, d)."""
        rough = self._rough(query)
        if not rough.any():
            return self._by_attention(query)
        if rough.all():
            keys, blocks = self._centred[1], query.split(max(1, 2**18 // len(self.data)))
            return torch.cat([self._by_differences(block).softmax(-1) @ keys[:, :-1] for block in blocks])
        mean = torch.zeros_like(query.rows)
        for which in (rough, ~rough):
            mean = mean.index_put((which,), self._mean(query.take(which)))
        return mean

    def _by_attention(self, query: "_Query") -> Tensor:
        ask = torch.cat([query.alpha * query.rows, -(query.alpha**2) / 2], 1) / query.variance
        # On CUDA, float64 attention is computed through the whole matrix of logits, so queries go in blocks.
        block = len(ask) if ask.device.type == "cpu" else max(1, 2**24 // len(self.data))
        keys = self._centred[1][None, None]
        means = [
            scaled_dot_product_attention(part[None, None], keys, keys, scale=1.0)[0, 0] for part in ask.split(block)
        ]
        return torch.cat(means)[:, :-1]

    def x_1(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[X_1 given X_t = x], shape of x; the data's mean at t = 0, the nearest row at t = 1."""
        return (self._mean(self._at(x, t)) + self._centred[0]).reshape(x.shape).to(x.dtype)

    def x_0(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[X_0 given X_t = x] = (x - alpha E[X_1 given X_t = x]) / sigma; zero, the mean of the source, at t = 1."""
        query = self._at(x, t)
        return _over(query.rows - query.alpha * self._mean(query), query.sigma).reshape(x.shape).to(x.dtype)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """u_t(x) = alpha' E[X_1 given X_t = x] + sigma' E[X_0 given X_t = x].

        At t = 1 p_1 is the data itself, X_0 is independent of X_1 = x, and u_1(x) = alpha'_1 x_i at the nearest row.
        """
        query = self._at(x, t)
        mean = self._mean(query)
        towards = self.schedule.sigma_d_sigma(query.time) * _over(query.rows - query.alpha * mean, query.sigma**2)
        value = self.schedule.d_alpha(query.time) * (mean + self._centred[0]) + towards
        return value.reshape(x.shape).to(x.dtype)

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """grad log p_t(x) = -E[X_0 given X_t = x] / sigma_t; ValueError at t = 1, where p_t has no density."""
        query = self._at(x, t, smooth=True)
        return ((query.alpha * self._mean(query) - query.rows) / query.sigma**2).reshape(x.shape).to(x.dtype)

    def posterior(self, x: Tensor, t: float | Tensor) -> Tensor:
        """w_i(x, t), the probability of row i given X_t = x, shape (batch, N). For t < 1."""
        return self._log_weights(self._at(x, t, smooth=True)).softmax(-1).to(x.dtype)

    def log_density(self, x: Tensor, t: float | Tensor) -> Tensor:
        """log p_t(x) = log mean_i N(x; alpha_t x_i, sigma_t^2 I), shape (batch,). For t < 1."""
        query = self._at(x, t, smooth=True)
        blocks = query.split(max(1, 2**24 // len(self.data)))
        log_sum = torch.cat([self._log_weights(block).logsumexp(-1) for block in blocks])
        scale = query.rows.shape[1] / 2 * (query.sigma.square().log() + LOG_2PI).flatten()
        return (log_sum - scale - math.log(len(self.data))).to(x.dtype)

    def sample(self, n: int, t: float, generator: torch.Generator | None = None) -> Tensor:
        """Draw n exact samples of X_t ~ p_t, shape (n, *dims)."""
        _validate.count("n", n), _validate.generator(generator)
        rows = torch.randint(len(self.data), (n,), generator=generator, device=self.data.device)
        return _noised(self.schedule, self.data[rows], t, generator)


@dataclass(frozen=True, eq=False)
class SpherePath:
    """The marginal of geodesics on the sphere S^d from the uniform law to a finite data set (mass 1/N on each row).

    Given X_1 = x_i, X_t has come 1 - sigma of its way to x_i, so at the angle theta from x_i its density per area is

        p_t(x given x_i) = (sin(theta / sigma) / sin theta)^(d-1) / (sigma area)   for theta < pi sigma, else 0,

    with sigma = 1 - alpha_t and the area of the sphere, 4 pi for S^2. With w_i = p_t(x given x_i) / sum_j the marginal
    velocity is u_t(x) = alpha'_t / sigma sum_i w_i log_x(x_i). The support is compact: where no data point is within
    pi sigma, p_t is zero, log_density -infinity, and velocity and posterior are those of the nearest row alone.

    data: (N, d + 1), on the sphere. t must be less than 1: there p_t has no density. Memory grows as queries times
    data. Worked out in float64 (where the device has it). Raises ValueError or TypeError for anything else.

    >>> path = SpherePath(torch.tensor([[0.0, 0.0, 1.0]]))
    >>> path.velocity(torch.tensor([[1.0, 0.0, 0.0]]), 0.5)  # a quarter of a turn in what is left, half of the time
    tensor([[0.0000, 0.0000, 3.1416]])
    """

    data: Tensor
    schedule: Schedule = CondOT()

    def __post_init__(self):
        on_manifold(Sphere(), data=self.data)
        if self.data.shape[1] < 2:
            raise ValueError(f"data must have two or more coordinates, as a sphere has, got {self.data.shape[1]}")
        check_ends(self.schedule)

    def log_density(self, x: Tensor, t: float | Tensor) -> Tensor:
        """log p_t(x) per area of the sphere, shape (batch,); -infinity outside of the support."""
        _, log_p, sigma, _ = self._at(x, t)
        k = x.shape[1]  # the area of S^d is 2 pi^(k/2) / Gamma(k/2)
        log_area = math.log(2) + k / 2 * math.log(math.pi) - math.lgamma(k / 2)
        return (log_p.logsumexp(1) - math.log(len(self.data)) - sigma[:, 0].log() - log_area).to(x.dtype)

    def posterior(self, x: Tensor, t: float | Tensor) -> Tensor:
        """w_i(x, t), the probability of row i given X_t = x, shape (batch, N)."""
        angle, log_p, *_ = self._at(x, t)
        return self._weights(angle, log_p).to(x.dtype)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """u_t(x) = alpha'_t / sigma_t sum_i w_i log_x(x_i), tangent at x, shape (batch, d + 1).

        ValueError at the antipode of a row with a weight, where all directions are as short.
        """
        angle, log_p, sigma, rate = self._at(x, t)
        point, rows = _on_sphere(x), _on_sphere(self.data)
        weights = self._weights(angle, log_p)
        if angle.device.type == "cpu":
            opposite = (angle > math.pi - 8 * torch.finfo(x.dtype).eps) & (weights > 0)
            if opposite.any():
                row = int(opposite.any(1).nonzero()[0])
                raise ValueError(f"x must not be the antipode of the one row that leads it, got that in row {row}")
        gain = weights / torch.sinc(angle / math.pi)  # log_x(y) = theta / sin theta P_x y
        mean = gain @ rows
        mean = mean - (point * mean).sum(1, keepdim=True) * point
        return (rate / sigma * mean).to(x.dtype)

    def sample(self, n: int, t: float, generator: torch.Generator | None = None) -> Tensor:
        """Draw n exact samples of X_t ~ p_t, shape (n, d + 1)."""
        dim = self.data.shape[1] - 1
        x_0 = Sphere().uniform(n, dim, generator, self.data.dtype).to(self.data.device)
        x_1 = self.data[torch.randint(len(self.data), (n,), generator=generator, device=self.data.device)]
        return Sphere().exp(x_1, self.schedule.sigma(_validate.time(t, x_1)) * Sphere().log(x_1, x_0))

    def _at(self, x: Tensor, t) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Angles to all rows, (batch, N), log p_t given each up to a constant, and sigma and alpha', (batch, 1)."""
        if _validate.batch("x", x).shape[1:] != self.data.shape[1:]:
            raise ValueError(f"x must have shape (batch, {self.data.shape[1]}), got {tuple(x.shape)}")
        if x.device != self.data.device:
            raise ValueError(f"x is on {x.device} but the data is on {self.data.device}")
        on_manifold(Sphere(), x=x)
        point, rows = _on_sphere(x), _on_sphere(self.data)
        time = _validate.time(t, point).expand(len(point), 1)
        sigma = 1 - self.schedule.alpha(time)
        if sigma.device.type == "cpu" and (sigma == 0).any():
            raise ValueError("t must be less than 1: a finite data set has no density at t = 1")
        chords = (torch.cdist(point, sign * rows, compute_mode=EXACT) for sign in (1, -1))
        angle = 2 * torch.atan2(*chords)
        inside = angle < math.pi * sigma
        wide, narrow = (torch.sinc(torch.where(inside, a, 0) / math.pi) for a in (angle / sigma, angle))
        log_p = (x.shape[1] - 2) * (wide.log() - narrow.log() - sigma.log())
        return angle, torch.where(inside, log_p, -math.inf), sigma, self.schedule.d_alpha(time)

    def _weights(self, angle: Tensor, log_p: Tensor) -> Tensor:
        """The posterior, and in the holes of the support the nearest row."""
        nearest = torch.zeros_like(log_p).scatter(1, angle.argmin(1, keepdim=True), 1.0)
        hole = log_p.isinf().all(1, keepdim=True)
        return torch.where(hole, nearest, torch.where(hole, 0, log_p).softmax(1))


@dataclass(frozen=True, eq=False)
class TokenPath:
    """The mixture path on tokens, from independent draws of one source to a law that is a table: all of it exactly.

    Each position of X_t is that of X_1 ~ q with probability kappa = alpha_t, and else that of X_0, a draw from the
    source s (Gat et al. 2024, "Discrete Flow Matching", arXiv 2407.15595). Given x_1 a position's law is
    kappa delta(x_1^i) + (1 - kappa) s, and a sum over all K^d words x_1 gives the rest, by Bayes' rule.

    law: q, a table of shape (K,) * d for words of d positions and K tokens. source: s, (K,), one dtype and device with
    it; a mask is a source with all its mass on one token, which the law gives none. Words are numbered as `flatten`
    numbers the table, the last position fastest, and matrices act on columns: Q[y, x] leads from x to y. Worked out in
    float64 (where the device has it); results have the law's dtype. Raises ValueError or TypeError for anything else,
    and for more than 4096 words.

    >>> pair = torch.tensor([[0.5, 0.0], [0.0, 0.5]])  # two positions that always agree
    >>> TokenPath(pair, torch.tensor([0.5, 0.5])).posterior(torch.tensor([[0, 1]]), 0.5)  # which one is the noise?
    tensor([[[0.5000, 0.5000],
             [0.5000, 0.5000]]])
    """

    law: Tensor
    source: Tensor
    schedule: Schedule = CondOT()

    def __post_init__(self):
        for name, table in (("law", self.law), ("source", self.source)):
            _validate.law(name, table)
        shape, tokens = tuple(self.law.shape), tuple(self.source.shape)
        if len(tokens) != 1 or not shape or shape != tokens * len(shape):
            raise ValueError(f"law and source must have shapes (K,) * positions and (K,), got {shape} and {tokens}")
        if self.law.numel() > STATES:
            raise ValueError(f"law must have at most {STATES} states to be exact, got {self.law.numel()}")
        _validate.alike("law", self.law, "source", self.source)
        check_ends(self.schedule)

    def posterior(self, x: Tensor, t: float | Tensor) -> Tensor:
        """P(X_1^i = k given X_t = x), shape (batch, d, K).

        x: tokens, (batch, d). t: a number, () or (batch,), in [0, 1]. At both ends it is the limit, so that a word of
        which a part is given and the rest masked has the same posterior at every t, at t = 0 too. Where X_t cannot be x
        at any time Bayes' rule says 0/0: there each position is judged by itself, P(X_1^i = k given X_t^i = x^i), so
        that what is revealed stays; and where this is 0/0 too it is the law of the position, P(X_1^i = k).
        """
        d, K = self.law.ndim, len(self.source)
        if _validate.tokens("x", x, K).shape[1] != d:
            raise ValueError(f"x must have shape (batch, {d}), got {tuple(x.shape)}")
        if x.device != self.law.device:
            raise ValueError(f"x is on {x.device} but the law is on {self.law.device}")
        kappa = self.schedule.alpha(_validate.time(t, in_float64(x[:, :1].float())))
        if not kappa.ndim and len(x) > self.law.numel():  # each word once
            return self.posterior(self._words(), t)[self._number(x)]
        x, (kept, noise) = x.long(), (share.clamp(min=1e-20).expand(len(x), 1) for share in (kappa, 1 - kappa))
        likelihood = (noise * in_float64(self.source)[x])[..., None].expand(-1, -1, K)
        likelihood = likelihood.scatter_add(2, x[..., None], kept[..., None].expand(-1, d, 1))
        parts = [self._given(part) for part in likelihood.split(max(1, 2**22 // self.law.numel()))]
        return torch.cat(parts).to(self.law.dtype)

    def _given(self, likelihood: Tensor) -> Tensor:
        """The posterior where position i is seen with the likelihood L_i(k) of each token k, (batch, d, K)."""
        law, d = in_float64(self.law), self.law.ndim
        joint = law.expand(len(likelihood), *law.shape)
        for i in range(d):
            joint = joint * likelihood[:, i].reshape(-1, *(len(self.source) if j == i else 1 for j in range(d)))
        others = [[j + 1 for j in range(d) if j != i] for i in range(d)]
        sums = torch.stack([joint.sum(dim) if dim else joint for dim in others], 1)
        alone = torch.stack([law.sum([j - 1 for j in dim]) if dim else law for dim in others])
        total = sums.sum(2, keepdim=True)
        alone = alone / alone.sum(1, keepdim=True)
        each = alone * likelihood
        mass = each.sum(2, keepdim=True)
        return torch.where(total > 0, sums / total, torch.where(mass > 0, each / mass, alone))

    def probability(self, t: float | Tensor) -> Tensor:
        """The law of X_t, shape (K,) * d. t: a number or a 0-d tensor in [0, 1]."""
        kappa, table = self.schedule.alpha(self._moment(t)), in_float64(self.law)
        source = in_float64(self.source)
        for i in range(table.ndim):
            noise = source.reshape(-1, *[1] * (table.ndim - 1 - i)) * table.sum(i, keepdim=True)
            table = kappa * table + (1 - kappa) * noise
        return table.to(self.law.dtype)

    def generator(self, t: float | Tensor) -> Tensor:
        """Q of d/dt p_t = Q p_t, shape (K^d, K^d): rates kappa' / (1 - kappa) P(X_1^i = k given X_t = x) to token k.

        One position jumps at a time; columns sum to 0. t: a number or a 0-d tensor in
        [0, 1). ValueError at t = 1, where the rates explode.
        """
        time = self._moment(t)
        left = 1 - self.schedule.alpha(time)
        if left == 0:
            raise ValueError(f"t must be less than 1, as the rates kappa' / (1 - kappa) explode there, got {time:g}")
        words, rate = self._words(), self.schedule.d_alpha(time) / left
        start = self._number(words)[:, None, None]
        place = len(self.source) ** torch.arange(self.law.ndim - 1, -1, -1, device=words.device)
        token = torch.arange(len(self.source), device=words.device)
        end = start + (token - words[..., None]) * place[:, None]
        rates = rate * in_float64(self.posterior(words, time))
        Q = torch.zeros(len(words), len(words), dtype=rates.dtype, device=rates.device)
        Q.index_put_((end, start.expand_as(end)), rates, accumulate=True)
        return (Q - Q.sum(0).diag()).to(self.law.dtype)

    def step(self, t: float | Tensor, s: float | Tensor) -> Tensor:
        """P(y given x) of one step of `tokens.sample_tokens` from t to s, shape (K^d, K^d), y the row.

        Every position is drawn anew from its posterior at t with probability (kappa_s - kappa_t) / (1 - kappa_t), all
        at once and independently. t, s: numbers or 0-d tensors in [0, 1], t < 1, s >= t. ValueError otherwise.
        """
        moments = _validate.span(self._moment(t), self._moment(s), self._blank())
        now, then = (self.schedule.alpha(moment) for moment in moments)
        if now == 1:
            raise ValueError(f"t must be less than 1, where nothing is left to be drawn, got {moments[0]:g}")
        words, share = self._words(), (then - now) / (1 - now)
        posterior = in_float64(self.posterior(words, moments[0]))
        stay = torch.nn.functional.one_hot(words, len(self.source))
        each = torch.lerp(stay.to(posterior), posterior, share)
        kernel = each[:, 0]
        for i in range(1, each.shape[1]):
            kernel = (kernel[:, :, None] * each[:, i, None]).flatten(1)
        return kernel.T.to(self.law.dtype)

    def entropy(self) -> Tensor:
        """-sum q log q of the law, in nats, a 0-d tensor."""
        law = in_float64(self.law)
        return -torch.special.xlogy(law, law).sum().to(self.law.dtype)

    def _blank(self) -> Tensor:
        return in_float64(self.source[:1, None])

    def _moment(self, t) -> Tensor:
        """One time, in float64."""
        if isinstance(t, Tensor) and t.ndim:
            raise ValueError(f"t must be one time for all words, got shape {tuple(t.shape)}")
        return _validate.time(t, self._blank())

    def _words(self) -> Tensor:
        """All words in their order, (K^d, d)."""
        return torch.cartesian_prod(*[torch.arange(len(self.source), device=self.law.device)] * self.law.ndim).reshape(
            -1, self.law.ndim
        )

    def _number(self, x: Tensor) -> Tensor:
        """The number of each word, (batch,)."""
        number = torch.zeros_like(x[:, 0], dtype=torch.int64)
        for column in x.unbind(1):
            number = number * len(self.source) + column
        return number


def jump_rates(log_density, points: Tensor, t: float | Tensor) -> Tensor:
    """The smallest rates of jumps between `points` whose law is p_t: Q, (n, n), with d/dt p = Q p.

    A point leaves where p_t falls and lands where it rises: for y != x

        Q[y, x] = [dp_t(x)/dt]_- / p_t(x) . [dp_t(y)/dt]_+ / sum_z [dp_t(z)/dt]_+,

    the rate from x to y, and columns sum to 0 (the jump model of Holderrieth et al. 2024, "Generator Matching"). No
    point both loses and gains, so no other Q makes fewer jumps in all. d/dt log p_t comes from `torch.func.jvp`, and a
    rate is exact however small p_t is there.

    log_density: (points, t) -> (n,), up to a constant, such as `MixturePath(...).log_density`; p_t is its softmax over
    the points. points: (n, *dims), equally spaced for a density, at most 4096. t: a number or a 0-d tensor in [0, 1].
    Worked out in float64 (where the device has it). Raises TypeError or ValueError for anything else, and ValueError
    where log p_t or its slope in t is not finite, as at t = 1 for a law that shrinks to points there.

    >>> rising = lambda x, t: torch.cat([(1 - t).reshape(1), (1 + t).reshape(1)]).log()  # 1/2 leaves the first for good
    >>> jump_rates(rising, torch.tensor([[0.0], [1.0]]), 0.5)  # at the rate 1 / (1 - t)
    tensor([[-2.,  0.],
            [ 2.,  0.]])
    """
    n = len(_validate.batch("points", points))
    if n > STATES:
        raise ValueError(f"points must be at most {STATES} for a matrix of their rates, got {n}")
    x = in_float64(points)
    time = _validate.time(t, x)
    if time.ndim:
        raise ValueError(f"t must be one time for all points, got shape {tuple(t.shape)}")

    def checked(s: Tensor) -> Tensor:
        value = log_density(x, s)
        if not isinstance(value, Tensor) or value.shape != (n,):
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"log_density must return shape ({n},), got {came}")
        return value

    log_p, slope = torch.func.jvp(checked, (time,), (torch.ones_like(time),))
    if bad := int((~(log_p.isfinite() & slope.isfinite())).sum()):
        raise ValueError(f"log_density and its slope in t must be finite, got {bad} of {n} that are not, at t={time:g}")
    p = log_p.softmax(0)
    rise = slope - p @ slope  # d/dt log p, of the normalised p
    gain = p * rise.clamp(min=0)
    landing = gain / gain.sum().clamp(min=torch.finfo(p.dtype).tiny)
    rate = (-rise).clamp(min=0) * landing.sum()  # nobody leaves where nowhere is to land
    return (torch.outer(landing, rate) - torch.diag(rate)).to(points.dtype)


def _on_sphere(x: Tensor) -> Tensor:
    """The points in float64, and on the sphere to its digits: near an antipode, rounding is multiplied."""
    x = in_float64(x)
    return x / x.norm(dim=1, keepdim=True)


class _Query(NamedTuple):
    """Points about the data's centre, (batch, d), and time, alpha, sigma and sigma^2, each (batch, 1)."""

    rows: Tensor
    time: Tensor
    alpha: Tensor
    sigma: Tensor
    variance: Tensor

    def take(self, which: Tensor) -> "_Query":
        return _Query(*(value[which] for value in self))

    def split(self, size: int) -> list["_Query"]:
        return [_Query(*part) for part in zip(*(value.split(size) for value in self), strict=True)]


def _over(value: Tensor, divisor: Tensor) -> Tensor:
    """value / divisor, and zero where the divisor is."""
    zero = divisor == 0
    return torch.where(zero, 0, value / torch.where(zero, 1, divisor))


def _noised(schedule: Schedule, x_1: Tensor, t: float, generator) -> Tensor:
    time = _validate.time(t, x_1)
    noise = torch.randn(x_1.shape, dtype=x_1.dtype, device=x_1.device, generator=generator)
    return schedule.alpha(time) * x_1 + schedule.sigma(time) * noise
