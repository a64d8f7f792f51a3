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


# Tilting


def oblique(dtype=F64):
    """l and a Q with one negative eigenvalue, under which each component of the skew mixture stays a law."""
    return torch.tensor([0.7, -0.4], dtype=dtype), torch.tensor([[1.5, 0.9], [0.9, -0.2]], dtype=dtype)


def test_the_ratio_of_the_densities_is_the_tilt():
    mixture, (linear, quadratic), x = skew_mixture(), oblique(), 2 * normal(50, 2)
    tilted, log_z = mixture.tilt(linear, quadratic)
    exponent = x @ linear - torch.einsum("bi,ij,bj->b", x, quadratic, x) / 2
    torch.testing.assert_close(law(tilted).log_prob(x) - law(mixture).log_prob(x), exponent - log_z)


def test_z_and_the_mean_of_a_tilt_against_monte_carlo():
    n, (linear, quadratic) = 200_000, oblique()
    x = skew_mixture().sample(n, seeded())
    exponent = (x @ linear - torch.einsum("bi,ij,bj->b", x, quadratic, x) / 2).exp()
    tilted, log_z = skew_mixture().tilt(linear, quadratic)
    z = exponent.mean()
    assert abs(z - log_z.exp()) < 4 * exponent.std() / math.sqrt(n)
    off = exponent[:, None] * (x - law(tilted).mean) / z
    assert (off.mean(0).abs() < 4 * off.std(0) / math.sqrt(n)).all()
    assert 4 * exponent.std() / math.sqrt(n) < 0.03 * z  # of some use


def test_half_a_tilt_and_none():
    mixture, (linear, quadratic), x = skew_mixture(), oblique(), normal(20, 2)
    same, log_z = mixture.tilt()
    torch.testing.assert_close(same.log_density(x), mixture.log_density(x))
    assert abs(log_z) < 1e-14
    twice, first = mixture.tilt(linear=linear)
    twice, second = twice.tilt(quadratic=quadratic)
    once, both = mixture.tilt(linear, quadratic)
    torch.testing.assert_close(twice.log_density(x), once.log_density(x))
    torch.testing.assert_close(first + second, both)


@pytest.mark.parametrize("y, noise", [(0.3, 0.5), (-2.0, 0.05), (40.0, 0.01)])
def test_an_observation_is_a_tilt(y, noise):
    """Component k of q(x given y) has the weight w_k N(y; a.mu_k, a^T Sigma_k a + s^2), and Kalman's mean and width."""
    mixture, a = skew_mixture(), torch.tensor([0.6, -1.1], dtype=F64)
    tilted, log_z = mixture.tilt(a * y / noise**2, torch.outer(a, a) / noise**2)
    spread = mixture.covariances @ a
    total = spread @ a + noise**2
    evidence = torch.distributions.Normal(mixture.means @ a, total.sqrt()).log_prob(torch.tensor(y, dtype=F64))
    joint = mixture.weights.log() + evidence
    own = torch.distributions.Normal(*torch.tensor([0.0, noise], dtype=F64)).log_prob(torch.tensor(y, dtype=F64))
    torch.testing.assert_close(log_z + own, joint.logsumexp(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(tilted.weights, joint.softmax(0).clamp(min=torch.finfo(F64).tiny), rtol=1e-9, atol=0)
    gain = spread / total[:, None]
    torch.testing.assert_close(tilted.means, mixture.means + gain * (y - mixture.means @ a)[:, None])
    torch.testing.assert_close(
        tilted.covariances, mixture.covariances - gain[:, :, None] * spread[:, None], rtol=0, atol=1e-10
    )


def test_a_tilt_in_float32_and_its_derivative():
    exact, exact_z = skew_mixture().tilt(*oblique())
    single, log_z = skew_mixture(torch.float32).tilt(*oblique(torch.float32))
    assert single.means.dtype == log_z.dtype == torch.float32
    torch.testing.assert_close(single.means.double(), exact.means, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_z.double(), exact_z, rtol=1e-5, atol=1e-5)
    linear = oblique()[0].requires_grad_()
    (slope,) = torch.autograd.grad(skew_mixture().tilt(linear, oblique()[1])[1], linear)
    torch.testing.assert_close(slope, law(exact).mean)  # d log Z / d l = E X


ONE = torch.ones(2)
BAD_TILTS = {
    "a list": ({"linear": [0.0, 1.0]}, TypeError, "linear must be a torch.Tensor, got list"),
    "one number": ({"linear": torch.ones(())}, ValueError, r"linear must have shape \(2,\), got \(\)"),
    "a row each": ({"linear": torch.ones(3, 2)}, ValueError, r"linear must have shape \(2,\), got \(3, 2\)"),
    "a diagonal": ({"quadratic": ONE}, ValueError, r"quadratic must have shape \(2, 2\), got \(2,\)"),
    "NaN": ({"linear": torch.nan * ONE}, ValueError, "linear must be finite, got 2 values"),
    "another dtype": ({"linear": ONE.double()}, TypeError, "means and linear .*float32 and torch.float64"),
    "another device": ({"linear": ONE.to("meta")}, ValueError, "means and linear .*cpu and meta"),
    "skew": ({"quadratic": torch.tensor([[1.0, 0.5], [0.0, 1.0]])}, ValueError, "symmetric, .*differ by 0.5"),
    "too thin": (
        {"quadratic": torch.tensor([[1.0, 0.7], [0.7, 0.49]]) * 1e9},
        ValueError,
        "too thin for torch.float32: tilt a mixture in float64",
    ),
}


@pytest.mark.parametrize("options, kind, message", BAD_TILTS.values(), ids=BAD_TILTS)
def test_bad_tilts(options, kind, message):
    with pytest.raises(kind, match=message) as error:
        skew_mixture(torch.float32).tilt(**options)
    assert one_sentence(error)


@pytest.mark.parametrize("angle", range(0, 180, 20))
@pytest.mark.parametrize("excess", [1.0, 1.5])
def test_a_tilt_that_no_normalisation_saves_names_component_and_direction(excess, angle):
    """Component 1 is the wider: Q = -c u u^T turns its precision along u to 4 - c, and leaves 16 - c to the other."""
    mixture = GaussianMixture.isotropic(torch.zeros(2, 2, dtype=F64), torch.tensor([0.25, 0.5], dtype=F64))
    u = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))], dtype=F64)
    with pytest.raises(ValueError, match=r"component 1 has the precision .* along \[") as error:
        mixture.tilt(quadratic=-4 * excess * torch.outer(u, u))
    assert one_sentence(error)
    named = torch.tensor([float(part) for part in str(error.value).split("[")[1].split("]")[0].split(",")], dtype=F64)
    assert abs(abs(named @ u) - 1) < 2e-3  # either way round, in three digits
    assert excess == 1 or "precision -2 along" in str(error.value)
    mixture.tilt(quadratic=-3.99 * torch.outer(u, u))


def test_a_tilt_beyond_float64_says_so():
    mixture = GaussianMixture.isotropic(torch.zeros(1, 2, dtype=F64), 1.0)
    with pytest.raises(ValueError, match=r"quadratic is 2e\+18 times a component's precision") as error:
        mixture.tilt(quadratic=torch.full((2, 2), 1e18, dtype=F64))
    assert one_sentence(error)
