"""Laws with exact samples and densities: what the closed forms start from."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fmlib import _validate
from fmlib.devices import in_float64
from fmlib.manifolds import Sphere, on_manifold
from fmlib.schedules import CondOT, Schedule

LOG_2PI = math.log(2 * math.pi)


class Components(NamedTuple):
    """Points as each component of a mixture sees them.

    offset: x - mean_k along the axes of component k, (batch, K, d). variance: its variances there, (batch or 1, K, d).
    log_joint: log w_k N(x; mean_k, covariance_k), (batch, K).
    """

    offset: Tensor
    variance: Tensor
    log_joint: Tensor


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """q(x) = sum_k w_k N(x; mu_k, Sigma_k).

    weights: (K,), positive, summing to one. means: (K, d). covariances: (K, d, d), symmetric positive definite. One
    dtype and device. Raises ValueError or TypeError for anything else. Densities follow
    the dtype of their argument, samples that of the mixture.

    >>> mixture = GaussianMixture.isotropic(torch.tensor([[-1.0], [1.0]]), std=0.5)
    >>> mixture.log_density(torch.zeros(1, 1)).exp()  # N(0; 1, 0.5^2), as both components are equally far
    tensor([0.1080])
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __post_init__(self):
        if _validate.batch("means", self.means).ndim != 2:
            raise ValueError(f"means must have shape (K, d), got {tuple(self.means.shape)}")
        k, d = self.means.shape
        for name, value in [("weights", self.weights), ("covariances", self.covariances)]:
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
            _validate.alike("means", self.means, name, value)
        if self.weights.shape != (k,) or self.covariances.shape != (k, d, d):
            came = f"{tuple(self.weights.shape)} and {tuple(self.covariances.shape)}"
            raise ValueError(f"weights and covariances must have shapes ({k},) and ({k}, {d}, {d}), got {came}")
        total = self.weights.sum().item()
        if not (self.weights > 0).all() or not abs(total - 1) <= 1e-5:
            raise ValueError(f"weights must be positive and sum to 1, got {self.weights.tolist()}")
        asymmetry = (self.covariances - self.covariances.mT).abs().amax((1, 2))
        symmetric = asymmetry <= 1e-5 * self.covariances.abs().amax((1, 2))  # false for NaN and infinity too
        if not symmetric.all() or not self._eigen[0].min() > 0:
            raise ValueError("covariances must be symmetric and positive definite")

    @classmethod
    def isotropic(cls, means: Tensor, std: float | Tensor, weights: Tensor | None = None) -> "GaussianMixture":
        """The mixture with Sigma_k = std_k^2 I and, unless given, equal weights. std: a number or (K,)."""
        k, d = _validate.batch("means", means).shape
        std = torch.as_tensor(std, dtype=means.dtype, device=means.device).expand(k)
        covariances = std[:, None, None] ** 2 * torch.eye(d, dtype=means.dtype, device=means.device)
        return cls(means.new_full((k,), 1 / k) if weights is None else weights, means, covariances)

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        """`variances` and `axes`, in float64."""
        return torch.linalg.eigh(in_float64(self.covariances))

    @property
    def variances(self) -> Tensor:
        """Eigenvalues of each covariance, shape (K, d)."""
        return self._eigen[0].to(self.means.dtype)

    @property
    def axes(self) -> Tensor:
        """Eigenvectors of each covariance, in columns, shape (K, d, d)."""
        return self._eigen[1].to(self.means.dtype)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n exact samples, shape (n, d)."""
        _validate.count("n", n), _validate.generator(generator)
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(
            n, self.means.shape[1], dtype=self.means.dtype, device=self.means.device, generator=generator
        )
        scaled = self.variances[component].sqrt() * noise
        return self.means[component] + torch.einsum("nij,nj->ni", self.axes[component], scaled)

    def log_density(self, x: Tensor) -> Tensor:
        """log q(x), shape (batch,), for x (batch, d). Raises ValueError or TypeError for anything else."""
        one = torch.ones((), device=self.means.device)
        return self.components(self.checked(x), one, 0 * one).log_joint.logsumexp(-1)

    def tilt(self, linear: Tensor | None = None, quadratic: Tensor | None = None) -> tuple["GaussianMixture", Tensor]:
        """The law q(x) exp(l.x - x^T Q x / 2) / Z, which is again a mixture, and log Z, shape ().

        linear: l, (d,). quadratic: Q, (d, d), symmetric, for which Z is finite. Both in the mixture's dtype,
        None for zero. Observing y = A x + N(0, s^2 I) tilts by Q = A^T A / s^2 and l = A^T y / s^2; a reward r(x) by r
        itself. About its mean a component is tilted by g = l - Q mu, so

            Sigma' = (Sigma^-1 + Q)^-1,    mu' = mu + Sigma' g,
            log Z_k = l.mu - mu^T Q mu / 2 + g^T Sigma' g / 2 - log det(I + Sigma Q) / 2,    w' ~ w Z_k

        (complete the square; Bishop 2006, "Pattern Recognition and Machine Learning", 2.3.3). A weight too small for
        the dtype becomes its smallest normal number. ValueError if a component of the result could not be normalised.

        >>> law, log_z = GaussianMixture.isotropic(torch.zeros(1, 1), 1.0).tilt(linear=torch.tensor([2.0]))
        >>> law.means, log_z  # N(2, 1), as E exp(2 X) = exp(2)
        (tensor([[2.]]), tensor(2.))
        """
        mean, dtype = in_float64(self.means), self.means.dtype
        slope, bend = self._exponent(linear, quadratic)
        variances, axes = self._eigen
        root = axes * variances.sqrt()[:, None]  # Sigma = root root^T
        excess = root.mT @ bend @ root  # I + excess is the new precision, in units of the old one
        self._normalisable(excess, root)
        factor = torch.linalg.cholesky(torch.eye(len(slope)).to(excess) + excess)
        half = torch.linalg.solve_triangular(factor, root.mT, upper=False)
        pull = slope - mean @ bend
        moved = (half @ pull[..., None])[..., 0]  # of the length sqrt(g^T Sigma' g)
        at_mean = mean @ slope - ((mean @ bend) * mean).sum(1) / 2
        log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
        joint = (in_float64(self.weights) / in_float64(self.weights).sum()).log()
        joint = joint + at_mean + (moved.square().sum(1) - log_det) / 2
        weights = joint.softmax(0).to(dtype).clamp(min=torch.finfo(dtype).tiny)
        covariances = (half.mT @ half).to(dtype)
        if not torch.linalg.eigvalsh(in_float64(covariances.detach())).min() > 0:
            raise ValueError(f"a tilted covariance is too thin for {dtype}: tilt a mixture in float64")
        means = mean + (half.mT @ moved[..., None])[..., 0]
        return GaussianMixture(weights, means.to(dtype), covariances), joint.logsumexp(0).to(dtype)

    def _exponent(self, linear: Tensor | None, quadratic: Tensor | None) -> tuple[Tensor, Tensor]:
        """l and Q of `tilt`, checked, in float64."""
        d = self.means.shape[1]
        for name, value, shape in [("linear", linear, (d,)), ("quadratic", quadratic, (d, d))]:
            if value is None:
                continue
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
            _validate.alike("means", self.means, name, value)
            if value.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
            if not value.isfinite().all():
                raise ValueError(f"{name} must be finite, got {int((~value.isfinite()).sum())} values that are not")
        slope = in_float64(self.means.new_zeros(d) if linear is None else linear)
        bend = in_float64(self.means.new_zeros(d, d) if quadratic is None else quadratic)
        if (asymmetry := (bend - bend.mT).abs().max()) > 1e-5 * bend.abs().max():
            raise ValueError(f"quadratic must be symmetric, got entries that differ by {asymmetry.item():.3g}")
        return slope, bend

    @staticmethod
    def _normalisable(excess: Tensor, root: Tensor) -> None:
        """Raise unless Sigma^-1 + Q is positive definite for every component, that is I + excess."""
        values, vectors = torch.linalg.eigh(excess.detach())
        smallest = 1 + values[:, 0]
        rounding = 1e-14 * excess.shape[1] * (1 + values.abs().amax(1))
        if not (bad := ~(smallest > rounding)).any():
            return
        if rounding.max() >= 0.1:
            most = values.abs().max().item()
            raise ValueError(f"quadratic is {most:.3g} times a component's precision: too much for float64")
        k = int(bad.nonzero()[0])
        along = root[k] @ vectors[k, :, 0]
        curvature = (smallest[k] / along.square().sum()).item()
        direction = ", ".join(f"{value:.3g}" for value in along / along.norm())
        raise ValueError(
            f"the tilted law cannot be normalised: component {k} has the precision {curvature:.3g} "
            f"along [{direction}], and needs a positive one"
        )

    def checked(self, x: Tensor) -> Tensor:
        """`x` if it is a batch of points of this law, (batch, d) on its device; ValueError or TypeError otherwise."""
        _validate.batch("x", x)
        if x.shape[1:] != self.means.shape[1:]:
            raise ValueError(f"x must have shape (batch, {self.means.shape[1]}), got {tuple(x.shape)}")
        if x.device != self.means.device:
            raise ValueError(f"x is on {x.device} but the mixture is on {self.means.device}")
        return x

    def components(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Components:
        """The components at `x` of the law of alpha X + sigma Z, for X from this mixture and Z ~ N(0, I).

        It is the mixture of N(alpha mu_k, alpha^2 Sigma_k + sigma^2 I), on the same axes. x: `checked`. alpha, sigma:
        shape () or (batch, 1), best in float64: x - alpha mu_k is taken there, as its terms may all but cancel.
        """
        alpha, sigma = alpha[..., None], sigma[..., None]
        variances, axes = self._eigen
        k, d = variances.shape
        # Along the axes of every component at once: a single product of matrices
        along = (in_float64(x) @ axes.movedim(0, 1).reshape(d, k * d)).unflatten(1, (k, d))
        means = (in_float64(self.means)[:, None] @ axes)[:, 0]
        offset = (along - alpha * means).to(x.dtype)
        variance = (alpha**2).to(x.dtype) * variances.to(x.dtype) + (sigma**2).to(x.dtype)
        log_weights = (self.weights / self.weights.sum()).log().to(x.dtype)
        log_scale = variance.log().sum(-1) + d * LOG_2PI
        return Components(offset, variance, log_weights - 0.5 * ((offset**2 / variance).sum(-1) + log_scale))


@dataclass(frozen=True, eq=False)
class LabelledMixture:
    """A Gaussian mixture whose components carry labels: q(x | y) is the mixture of those with the label y.

    mixture: of K components. labels: integers (K,) from 0, each used at least once. schedule: of the path
    X_t = alpha_t X_1 + sigma_t X_0 on which `label_log_posterior` sees a point. Raises TypeError or ValueError
    for anything else.

    >>> law = LabelledMixture(GaussianMixture.isotropic(torch.tensor([[-1.0], [1.0], [3.0]]), 0.5), [0, 0, 1])
    >>> law.probabilities, law.given(1).means
    (tensor([0.6667, 0.3333]), tensor([[3.]]))
    """

    mixture: GaussianMixture
    labels: Tensor
    schedule: Schedule = CondOT()

    def __post_init__(self):
        if not isinstance(self.mixture, GaussianMixture):
            raise TypeError(f"mixture must be a GaussianMixture, got {type(self.mixture).__name__}")
        labels = torch.as_tensor(self.labels, device=self.mixture.means.device)
        count = len(self.mixture.weights)
        if len(labels) != count:
            raise ValueError(f"labels must hold one for each of {count} components, got {len(labels)}")
        _validate.labels("labels", labels, count)
        if unused := set(range(int(labels.max()))) - set(labels.tolist()):
            raise ValueError(f"labels must use each number from 0 to their largest, got none that is {min(unused)}")
        object.__setattr__(self, "labels", labels.long())

    @property
    def classes(self) -> int:
        """The number of labels."""
        return int(self.labels.max()) + 1

    @property
    def probabilities(self) -> Tensor:
        """P(y), shape (classes,)."""
        weights = self.mixture.weights
        return weights.new_zeros(self.classes).index_add(0, self.labels, weights / weights.sum())

    def given(self, y: int) -> GaussianMixture:
        """The law of the points with the label y: q(x | y)."""
        own = self.labels == self._label(y)
        weights = self.mixture.weights[own]
        return GaussianMixture(weights / weights.sum(), self.mixture.means[own], self.mixture.covariances[own])

    def label_log_posterior(self, x: Tensor, t: float | Tensor, y: int | Tensor) -> Tensor:
        """log p_t(y | x), the exact classifier of noisy points: (batch,), for x (batch, d) and y a label or (batch,).

        t: a number, () or (batch,), in [0, 1]; at t = 1 it classifies points of the law itself.
        """
        ratios = self._log_ratios(in_float64(self.mixture.checked(x)), t)
        if isinstance(y, Tensor) and y.ndim:
            if _validate.labels("y", y, self.classes).shape != x.shape[:1]:
                raise ValueError(f"y must have shape ({len(x)},), got {tuple(y.shape)}")
        else:
            y = torch.full(x.shape[:1], self._label(y), device=x.device)
        own = ratios.masked_fill(self.labels != y[:, None], -math.inf)
        return (own.logsumexp(1) - ratios.logsumexp(1)).to(x.dtype)

    def _log_ratios(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The log of each component's joint density at x over N(x; 0, (alpha^2 + sigma^2) I), (batch, K), in float64.

        All terms are of order alpha. The densities themselves all but cancel in a posterior near t = 0, where guidance
        multiplies what is left of its gradient by 1 / alpha.
        """
        time = _validate.time(t, x)
        alpha, sigma = (f(time)[..., None] for f in (self.schedule.alpha, self.schedule.sigma))
        variances, axes = self.mixture._eigen
        point = torch.einsum("bd,kde->bke", x, axes)
        means = torch.einsum("kd,kde->ke", in_float64(self.mixture.means), axes)
        total = alpha**2 + sigma**2
        excess = alpha**2 * (variances - 1) / total  # C_k = total (1 + excess) is the variance of component k
        squares = alpha * (means * (alpha * means - 2 * point)) / total - excess * point**2 / total
        logs = -0.5 * (squares / (1 + excess) + excess.log1p()).sum(-1)
        return in_float64(self.mixture.weights).log() + logs

    def tilted_log_density(self, x: Tensor, y: int, weight: float) -> Tensor:
        """log q(x | y)^w q(x)^(1 - w), shape (batch,): the tilted law up to a constant, for w = weight.

        It is q(x) for w = 0, q(x | y) for w = 1, and can be normalised for every w >= 0, since q(x | y) <= q(x) / P(y).
        """
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ValueError(f"weight must be a finite number, got {weight!r}")
        return weight * self.given(y).log_density(x) + (1 - weight) * self.mixture.log_density(x)

    def _label(self, y) -> int:
        y = _validate.count("y", y.item() if isinstance(y, Tensor) and y.ndim == 0 else y, 0)
        if y >= self.classes:
            raise ValueError(f"y must be a label in [0, {self.classes}), got {y}")
        return y


@dataclass(frozen=True, eq=False)
class VonMisesFisher:
    """q(x) = sum_k w_k kappa_k / (4 pi sinh kappa_k) exp(kappa_k <mu_k, x>) on the unit sphere S^2, per area.

    The sphere's Gaussians: mu_k is where bump k stands, and its width is about 1 / sqrt(kappa_k) (Fisher 1953,
    "Dispersion on a Sphere"). means: (K, 3), of any length but zero. concentrations: (K,), positive. weights: (K,),
    positive, summing to one; None for equal ones. One dtype and device. Raises ValueError or TypeError for anything
    else. Densities follow the dtype of their argument, samples that of the law.

    >>> law = VonMisesFisher(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([1e-4]))
    >>> law.log_density(torch.tensor([[1.0, 0.0, 0.0]]))  # all but uniform: -log(4 pi)
    tensor([-2.5310])
    """

    means: Tensor
    concentrations: Tensor
    weights: Tensor | None = None

    def __post_init__(self):
        if _validate.batch("means", self.means).shape[1:] != (3,):
            raise ValueError(f"means must have shape (K, 3), got {tuple(self.means.shape)}")
        for name in ("concentrations", "weights"):
            value = getattr(self, name)
            if value is None and name == "weights":
                continue
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
            _validate.alike("means", self.means, name, value)
            if value.shape != self.means.shape[:1] or not ((value > 0) & value.isfinite()).all():
                raise ValueError(f"{name} must be {len(self.means)} positive numbers, got {value.tolist()}")
        if self.weights is not None and not abs(self.weights.sum().item() - 1) <= 1e-5:
            raise ValueError(f"weights must sum to 1, got {self.weights.tolist()}")
        if not bool((self.means != 0).any(1).all()):
            raise ValueError("means must not be zero: they are directions")

    @property
    def _shares(self) -> Tensor:
        """The weights, which may be equal, with the sum 1."""
        weights = torch.ones_like(self.concentrations) if self.weights is None else self.weights
        return weights / weights.sum()

    @property
    def _directions(self) -> Tensor:
        return self.means / self.means.norm(dim=1, keepdim=True)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n exact samples, shape (n, 3): the height <mu, x> by its inverse distribution function, then a turn.

        1 - <mu, x> = -log(s + (1 - s) exp(-2 kappa)) / kappa for s ~ U[0, 1] (Wenzel Jakob 2012, "Numerically stable
        sampling of the von Mises-Fisher distribution on S^2").
        """
        _validate.count("n", n), _validate.generator(generator)
        like = {"dtype": self.means.dtype, "device": self.means.device}
        k = torch.multinomial(self._shares, n, replacement=True, generator=generator)
        share = torch.rand(n, 1, generator=generator, **like)
        kappa, mu = self.concentrations[k, None], self._directions[k]
        below = -torch.log(share + (1 - share) * torch.exp(-2 * kappa)) / kappa  # 1 - height
        below = below.clamp(0, 2)
        around = torch.randn(n, 3, generator=generator, **like)
        around = around - (around * mu).sum(1, keepdim=True) * mu
        x = (1 - below) * mu + (below * (2 - below)).sqrt() * around / around.norm(dim=1, keepdim=True)
        return x / x.norm(dim=1, keepdim=True)

    def log_density(self, x: Tensor) -> Tensor:
        """log q(x), shape (batch,), for x (batch, 3) on the sphere; ValueError or TypeError otherwise."""
        if _validate.batch("x", x).shape[1:] != (3,):
            raise ValueError(f"x must have shape (batch, 3), got {tuple(x.shape)}")
        if x.device != self.means.device:
            raise ValueError(f"x is on {x.device} but the law is on {self.means.device}")
        on_manifold(Sphere(), x=x)
        kappa, mu = self.concentrations.to(x.dtype), self._directions.to(x.dtype)
        far = (x[:, None] - mu).square().sum(2) / 2  # 1 - <mu, x>, without the difference
        scale = kappa.log() - LOG_2PI - torch.log(-torch.expm1(-2 * kappa))
        return (self._shares.to(x.dtype).log() + scale - kappa * far).logsumexp(1)
