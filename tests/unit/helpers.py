"""What the unit tests share: seeded tensors, the four schedules, a skew mixture, and truths computed without fmlib."""

import inspect
import math
from pathlib import Path

import mpmath
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from fmlib.exercises._questions import Wrong
from fmlib.laws import GaussianMixture
from fmlib.schedules import CondOT, Cosine, Polynomial, VariancePreserving

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
SCHEDULES = [CondOT(), Cosine(), Polynomial(3.0), VariancePreserving()]
F64 = torch.float64

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


def in_60_digits(schedule):
    """alpha and sigma as functions of an mpmath number, from their definitions."""
    if isinstance(schedule, CondOT):
        return lambda t: t, lambda t: 1 - t
    if isinstance(schedule, Cosine):
        return lambda t: mpmath.sin(mpmath.pi * t / 2), lambda t: mpmath.cos(mpmath.pi * t / 2)
    if isinstance(schedule, Polynomial):
        return lambda t: t ** mpmath.mpf(schedule.n), lambda t: 1 - t ** mpmath.mpf(schedule.n)
    low, high = mpmath.mpf(schedule.beta_min), mpmath.mpf(schedule.beta_max)

    def e(t):
        return mpmath.exp(-(high - low) * (1 - t) ** 2 / 4 - low * (1 - t) / 2)

    def alpha(t):
        return (e(t) - e(0)) / (1 - e(0))

    return alpha, lambda t: mpmath.sqrt(1 - alpha(t) ** 2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype=F64) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def skew_mixture(dtype=F64) -> GaussianMixture:
    """Three components in the plane with unequal weights and correlated, unequal covariances."""
    means = torch.tensor([[-1.5, 0.3], [1.0, 1.2], [0.4, -1.4]], dtype=dtype)
    factors = torch.tensor([[[0.7, 0.0], [0.3, 0.4]], [[0.5, 0.0], [-0.4, 0.6]], [[0.9, 0.0], [0.1, 0.3]]], dtype=dtype)
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2], dtype=dtype), means, factors @ factors.mT)


def line_mixture() -> GaussianMixture:
    """Two unequal components on the line, where a law can be tested by its distribution function."""
    means, stds = torch.tensor([[-1.5], [1.0]], dtype=F64), torch.tensor([0.3, 0.6], dtype=F64)
    return GaussianMixture.isotropic(means, stds, torch.tensor([0.3, 0.7], dtype=F64))


def law(mixture: GaussianMixture, alpha: float = 1.0, sigma: float = 0.0) -> MixtureSameFamily:
    """The law of alpha X_1 + sigma X_0 by torch.distributions, for X_1 from the mixture and X_0 ~ N(0, I)."""
    eye = torch.eye(mixture.means.shape[1], dtype=mixture.means.dtype)
    components = MultivariateNormal(alpha * mixture.means, alpha**2 * mixture.covariances + sigma**2 * eye)
    return MixtureSameFamily(Categorical(mixture.weights), components)


def line_cdf(mixture: GaussianMixture, alpha: float = 1.0, sigma: float = 0.0):
    """The distribution function of alpha X_1 + sigma X_0 for a mixture on the line, as scipy wants it."""
    scale = (alpha**2 * mixture.covariances[:, 0, 0] + sigma**2).sqrt()

    def cdf(x):
        z = (torch.as_tensor(x)[:, None] - alpha * mixture.means[:, 0]) / scale
        return (mixture.weights * (1 + torch.erf(z / math.sqrt(2))) / 2).sum(1).numpy()

    return cdf


def kurtosis(x: torch.Tensor) -> float:
    """E (X - mean)^4 / variance^2 over all entries: 3 for a Gaussian, 9 for a product of two."""
    x = (x - x.mean()).double()
    return (x.pow(4).mean() / x.square().mean() ** 2).item()


class Counted:
    """A velocity that remembers the times at which it was called."""

    def __init__(self, velocity):
        self.velocity, self.times = velocity, []

    def __call__(self, x, t):
        self.times.append(float(t))
        return self.velocity(x, t)


def one_sentence(error) -> bool:
    """Whether the message of a raised error is a single, non-empty line of moderate length."""
    return 10 < len(str(error.value)) < 400 and "\n" not in inspect.cleandoc(str(error.value))


def answer_of(source: str):
    """The `answer` that the source of an exercise's cell defines."""
    return Wrong(source, "").answer
