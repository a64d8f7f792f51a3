"""Gaussian mixtures against torch.distributions, moments and a spectral decomposition in float64."""

import math

import pytest
import torch
from helpers import F64, law, normal, one_sentence, seeded, skew_mixture

from fmlib.laws import GaussianMixture


def test_mixture_log_density_is_that_of_the_target():
    mixture, x = skew_mixture(), 2 * normal(50, 2)
    torch.testing.assert_close(mixture.log_density(x), law(mixture).log_prob(x))


def test_mixture_samples_have_the_right_covariance():
    mixture, n = skew_mixture(), 100_000
    truth, x = law(mixture), skew_mixture().sample(n, seeded())
    centred = x - truth.mean
    products = (centred[:, :, None] * centred[:, None, :]).flatten(1)
    second = mixture.covariances + mixture.means[:, :, None] * mixture.means[:, None, :]
    expected = (mixture.weights[:, None, None] * second).sum(0) - truth.mean[:, None] * truth.mean
    for measured, mean in [(x, truth.mean), (products, expected.flatten())]:
        assert ((measured.mean(0) - mean).abs() < 4 * measured.std(0) / math.sqrt(n)).all()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_components_are_those_of_the_blurred_mixture(dtype):
    """alpha X + sigma Z of component k is N(alpha mu_k, alpha^2 Sigma_k + sigma^2 I); each row has its own."""
    mixture, x = skew_mixture(dtype), 2 * normal(6, 2, dtype=dtype)
    alpha, sigma = (normal(6, 1, seed=seed).sigmoid() for seed in (1, 2))
    offset, variance, log_joint = mixture.components(x, alpha, sigma)
    assert offset.dtype == variance.dtype == log_joint.dtype == dtype and offset.shape == (6, 3, 2)
    for i in range(6):
        components = law(skew_mixture(), alpha[i].item(), sigma[i].item())
        joint = components.component_distribution.log_prob(x[i].double()) + skew_mixture().weights.log()
        torch.testing.assert_close(log_joint[i].double(), joint, rtol=1e-5, atol=1e-5)
        turned = torch.einsum("kij,kj->ki", mixture.axes, offset[i]) + alpha[i].to(dtype) * mixture.means
        torch.testing.assert_close(turned, x[i].expand(3, 2), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            (mixture.axes * variance[i][:, None]) @ mixture.axes.mT,
            alpha[i].to(dtype) ** 2 * mixture.covariances + sigma[i].to(dtype) ** 2 * torch.eye(2, dtype=dtype),
            rtol=1e-5,
            atol=1e-5,
        )


def test_a_long_thin_covariance_in_float32_keeps_its_narrow_axis():
    """Eigenvalues 1000 and about 1e-4: float32 would find the second to 1e-4 at best, so none of its digits."""
    covariance = torch.tensor([[500.0, 499.9999], [499.9999, 500.0]])
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 2), covariance[None])
    a, b = covariance[0].double()  # of [[a, b], [b, a]] they are a - b and a + b
    torch.testing.assert_close(mixture.variances[0].double(), torch.stack([a - b, a + b]), rtol=1e-6, atol=0)
    x = torch.tensor([[3.0, 3.01]])
    exact = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=F64), covariance.double())
    torch.testing.assert_close(mixture.log_density(x).double(), exact.log_prob(x.double()), rtol=1e-5, atol=0)


def test_weights_that_sum_to_one_but_for_rounding_are_normalised():
    third = torch.full((3,), 0.333332)
    mixture = GaussianMixture.isotropic(torch.zeros(3, 1), 1.0, third)
    expected = -math.log(2 * math.pi) / 2
    assert mixture.log_density(torch.zeros(1, 1)).item() == pytest.approx(expected, abs=2e-7)


EYE = torch.eye(2).expand(2, 2, 2)
HALF = torch.tensor([0.5, 0.5])
BAD_MIXTURES = {
    "weights": (torch.tensor([0.5, 0.6]), torch.zeros(2, 2), EYE, r"sum to 1, got \[0.5, 0.60"),
    "negative": (torch.tensor([1.5, -0.5]), torch.zeros(2, 2), EYE, r"\[1.5, -0.5\]"),
    "shapes": (HALF, torch.zeros(3, 2), EYE, r"got \(2,\) and \(2, 2, 2\)"),
    "indefinite": (HALF, torch.zeros(2, 2), -EYE, "positive definite"),
    "skew": (HALF, torch.zeros(2, 2), EYE + torch.tensor([[0.0, 0.5], [0.0, 0.0]]), "symmetric"),
    "skew and small": (HALF, torch.zeros(2, 2), 1e-6 * (EYE + torch.tensor([[0.0, 0.9], [0.0, 0.0]])), "symmetric"),
    "NaN": (HALF, torch.full((2, 2), torch.nan), EYE, "means has 4 NaN"),
    "NaN covariance": (HALF, torch.zeros(2, 2), EYE * torch.nan, "symmetric and positive definite"),
    "infinite covariance": (HALF, torch.zeros(2, 2), EYE * torch.inf, "symmetric and positive definite"),
    "NaN weight": (HALF * torch.nan, torch.zeros(2, 2), EYE, r"sum to 1, got \[nan, nan\]"),
    "means of three axes": (HALF, torch.zeros(2, 2, 2), EYE, r"means must have shape \(K, d\), got \(2, 2, 2\)"),
}


@pytest.mark.parametrize("angle", range(0, 180, 10))
def test_a_large_covariance_may_be_rounded(angle):
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = torch.tensor([[c, -s], [s, c]])
    covariance = turn @ torch.diag(torch.tensor([900.0, 4.0])) @ turn.T
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 2), covariance[None])
    torch.testing.assert_close(mixture.sample(200_000, seeded()).T.cov(), covariance, rtol=0.02, atol=2.0)


@pytest.mark.parametrize("weights, means, covariances, message", BAD_MIXTURES.values(), ids=BAD_MIXTURES)
def test_bad_mixtures(weights, means, covariances, message):
    with pytest.raises(ValueError, match=message) as error:
        GaussianMixture(weights, means, covariances)
    assert one_sentence(error)


def test_isotropic_takes_a_standard_deviation_per_component():
    mixture = GaussianMixture.isotropic(torch.zeros(2, 3), torch.tensor([0.5, 2.0]))
    assert torch.equal(mixture.covariances, torch.tensor([0.25, 4.0])[:, None, None] * torch.eye(3))
    assert mixture.weights.tolist() == [0.5, 0.5]


X = torch.zeros(2, 2)
MIXED = {
    "weights as a list": ([0.5, 0.5], X, EYE, TypeError, "weights must be a torch.Tensor, got list"),
    "another dtype": (HALF, X, EYE.double(), TypeError, "means and covariances .*float32 and torch.float64"),
    "another device": (HALF.to("meta"), X, EYE, ValueError, "means and weights .*cpu and meta"),
}


@pytest.mark.parametrize("weights, means, covariances, kind, message", MIXED.values(), ids=MIXED)
def test_parts_of_a_mixture_are_tensors_of_one_kind(weights, means, covariances, kind, message):
    with pytest.raises(kind, match=message) as error:
        GaussianMixture(weights, means, covariances)
    assert one_sentence(error)


BAD_POINTS = {
    "dimension": (torch.zeros(3, 3), ValueError, r"x must have shape \(batch, 2\), got \(3, 3\)"),
    "integers": (X.long(), TypeError, "x must have a floating dtype"),
    "NaN": (X * torch.nan, ValueError, "x has 4 NaN"),
    "device": (X.to("meta"), ValueError, "x is on meta but the mixture is on cpu"),
    "a list": ([[0.0, 0.0]], TypeError, "x must be a torch.Tensor, got list"),
}


@pytest.mark.parametrize("x, kind, message", BAD_POINTS.values(), ids=BAD_POINTS)
def test_bad_points(x, kind, message):
    with pytest.raises(kind, match=message) as error:
        skew_mixture().log_density(x)
    assert one_sentence(error)
