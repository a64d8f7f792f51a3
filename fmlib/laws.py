"""Laws with exact samples and densities: what the closed forms start from."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fmlib import _validate

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """q(x) = sum_k w_k N(x; mu_k, Sigma_k).

    weights: (K,), positive, summing to one. means: (K, d). covariances: (K, d, d), symmetric positive definite.
    Raises ValueError for anything else. Results follow the dtype of their argument.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __post_init__(self):
        _validate.batch("means", self.means)
        k, d = self.means.shape
        if self.weights.shape != (k,) or self.covariances.shape != (k, d, d):
            came = f"{tuple(self.weights.shape)} and {tuple(self.covariances.shape)}"
            raise ValueError(f"weights and covariances must have shapes ({k},) and ({k}, {d}, {d}), got {came}")
        total = self.weights.sum().item()
        if not (self.weights > 0).all() or abs(total - 1) > 1e-5:
            raise ValueError(f"weights must be positive and sum to 1, got {self.weights.tolist()}")
        asymmetry = (self.covariances - self.covariances.mT).abs().amax((1, 2))
        if (asymmetry > 1e-5 * self.covariances.abs().amax((1, 2))).any() or not self.variances.min() > 0:
            raise ValueError("covariances must be symmetric and positive definite")

    @classmethod
    def isotropic(cls, means: Tensor, std: float | Tensor, weights: Tensor | None = None) -> "GaussianMixture":
        """The mixture with Sigma_k = std_k^2 I and, unless given, equal weights. std: a number or (K,)."""
        k, d = _validate.batch("means", means).shape
        std = torch.as_tensor(std, dtype=means.dtype, device=means.device).expand(k)
        covariances = std[:, None, None] ** 2 * torch.eye(d, dtype=means.dtype, device=means.device)
        return cls(means.new_full((k,), 1 / k) if weights is None else weights, means, covariances)

    @cached_property
    def _eigen(self):
        return torch.linalg.eigh(self.covariances)

    @property
    def variances(self) -> Tensor:
        """Eigenvalues of each covariance, shape (K, d)."""
        return self._eigen[0]

    @property
    def axes(self) -> Tensor:
        """Eigenvectors of each covariance, in columns, shape (K, d, d)."""
        return self._eigen[1]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n exact samples, shape (n, d)."""
        _validate.count("n", n)
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(
            n, self.means.shape[1], dtype=self.means.dtype, device=self.means.device, generator=generator
        )
        scaled = self.variances[component].sqrt() * noise
        return self.means[component] + torch.einsum("nij,nj->ni", self.axes[component], scaled)

    def log_density(self, x: Tensor) -> Tensor:
        """log q(x), shape (batch,), for x (batch, d). Raises ValueError or TypeError for anything else."""
        _validate.batch("x", x)
        if x.shape[1:] != self.means.shape[1:]:
            raise ValueError(f"x must have shape (batch, {self.means.shape[1]}), got {tuple(x.shape)}")
        if x.device != self.means.device:
            raise ValueError(f"x is on {x.device} but the mixture is on {self.means.device}")
        return self.log_joint(x, self.means.to(x.dtype), self.variances.to(x.dtype))[1].logsumexp(-1)

    def log_joint(self, x: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        """x - means in each component's axes, (batch, K, d), and log w_k N(x; means_k, variances_k), (batch, K).

        means and variances broadcast against (batch, K, d): those of the components, or of what they become on a path,
        where the axes stay. dtype of x.
        """
        offset = torch.einsum("kij,bki->bkj", self.axes.to(x.dtype), x[:, None] - means)
        log_normal = -0.5 * (offset**2 / variances + variances.log() + LOG_2PI).sum(-1)
        return offset, self.weights.to(x.dtype).log() + log_normal
