"""Closed forms against torch.distributions, quadrature, autograd and brute force, none of which goes through fmlib."""

import math
import subprocess
import sys

import mpmath
import pytest
import torch
from helpers import (
    F64,
    SCHEDULES,
    every_schedule,
    in_60_digits,
    kurtosis,
    law,
    line_cdf,
    line_mixture,
    normal,
    one_sentence,
    seeded,
    skew_mixture,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from fmlib.exact import DataPath, MixturePath
from fmlib.laws import GaussianMixture
from fmlib.schedules import CondOT, Polynomial, VariancePreserving

TIMES = (0.0, 0.2, 0.5, 0.8, 1.0)


def at(schedule, t):
    """(alpha, sigma, alpha', sigma') at the number t."""
    moment = torch.tensor(t, dtype=F64)
    return [getattr(schedule, name)(moment).item() for name in ("alpha", "sigma", "d_alpha", "d_sigma")]


# Gaussian mixtures


@every_schedule
@pytest.mark.parametrize("t", TIMES)
def test_mixture_density_and_weights_against_torch_distributions(schedule, t):
    mixture, x = skew_mixture(), 2 * normal(50, 2)
    alpha, sigma, *_ = at(schedule, t)
    truth = law(mixture, alpha, sigma)
    torch.testing.assert_close(MixturePath(mixture, schedule).log_density(x, t), truth.log_prob(x))
    joint = truth.component_distribution.log_prob(x[:, None]).exp() * mixture.weights
    weights = joint / joint.sum(1, keepdim=True)
    torch.testing.assert_close(MixturePath(mixture, schedule).posterior(x, t), weights)


def quadrature(mixture, schedule, x, t):
    """E[X_1 given X_t = x] and E[X_0 given X_t = x] as integrals over x_1 on a grid, for one point x of the plane."""
    alpha, sigma, *_ = at(schedule, t)
    side = torch.linspace(-7, 7, 701, dtype=F64)
    x_1 = torch.cartesian_prod(side, side)
    x_0 = (x - alpha * x_1) / sigma
    log_weight = law(mixture).log_prob(x_1) - x_0.square().sum(1) / 2
    weight = log_weight.softmax(0)[:, None]
    return (weight * x_1).sum(0), (weight * x_0).sum(0)


@every_schedule
@pytest.mark.parametrize("t", [0.3, 0.7])
def test_mixture_posterior_means_and_velocity_against_quadrature(schedule, t):
    mixture, x = skew_mixture(), torch.tensor([[0.3, -0.4]], dtype=F64)
    path = MixturePath(mixture, schedule)
    x_1, x_0 = quadrature(mixture, schedule, x[0], t)
    *_, d_alpha, d_sigma = at(schedule, t)
    torch.testing.assert_close(path.x_1(x, t)[0], x_1, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(path.x_0(x, t)[0], x_0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(path.velocity(x, t)[0], d_alpha * x_1 + d_sigma * x_0, rtol=1e-8, atol=1e-8)


@every_schedule
@pytest.mark.parametrize("t", TIMES)
def test_mixture_posterior_means_add_up_to_the_point(schedule, t):
    path, x = MixturePath(skew_mixture(), schedule), 2 * normal(50, 2)
    alpha, sigma, *_ = at(schedule, t)
    torch.testing.assert_close(alpha * path.x_1(x, t) + sigma * path.x_0(x, t), x)


def test_mixture_velocity_at_the_ends_of_cond_ot():
    """X_0 is independent of X_1, so u_0(x) = E X_1 - x, and u_1(x) = x - E X_0 = x."""
    mixture, x = skew_mixture(), normal(10, 2)
    path = MixturePath(mixture)
    torch.testing.assert_close(path.velocity(x, 0.0), law(mixture).mean - x)
    torch.testing.assert_close(path.velocity(x, 1.0), x)


@every_schedule
def test_mixture_is_finite_and_continuous_at_both_ends(schedule):
    path, x = MixturePath(skew_mixture(), schedule), normal(10, 2)
    for end, beside in [(0.0, 1e-9), (1.0, 1 - 1e-9)]:
        for name in ("velocity", "score", "x_1", "x_0", "log_density", "posterior"):
            ask = getattr(path, name)
            torch.testing.assert_close(ask(x, end), ask(x, beside), rtol=1e-3, atol=1e-3)


# Both paths: the continuity equation and the score, by autograd


def paths(schedule):
    data = torch.tensor([[-1.0, 0.5], [0.8, 0.9], [0.7, -1.2], [0.6, -1.2]], dtype=F64)
    return [MixturePath(skew_mixture(), schedule), DataPath(data, schedule)]


@every_schedule
@pytest.mark.parametrize("kind", [0, 1], ids=["MixturePath", "DataPath"])
def test_continuity_equation_and_score(schedule, kind):
    """d_t p + div(p u) = 0; divided by p: d_t log p + div u + u . grad log p = 0."""
    path = paths(schedule)[kind]
    x = normal(60, 2).requires_grad_()
    t = torch.linspace(0.05, 0.9, 60, dtype=F64).requires_grad_()
    score, rate = torch.autograd.grad(path.log_density(x, t).sum(), (x, t))
    u = path.velocity(x, t)
    divergence = sum(torch.autograd.grad(u[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
    residual = rate + divergence + (u * score).sum(1)
    assert residual.abs().max() < 1e-9 * (rate.abs().max() + divergence.abs().max())
    assert rate.abs().max() > 0.1
    torch.testing.assert_close(path.score(x, t), score, rtol=1e-9, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("kind", [0, 1], ids=["MixturePath", "DataPath"])
def test_score_is_minus_noise_over_sigma_and_velocity_is_the_mean_of_the_conditional(schedule, kind):
    path, x, t = paths(schedule)[kind], normal(20, 2), 0.6
    _, sigma, d_alpha, d_sigma = at(schedule, t)
    torch.testing.assert_close(path.score(x, t), -path.x_0(x, t) / sigma)
    torch.testing.assert_close(path.velocity(x, t), d_alpha * path.x_1(x, t) + d_sigma * path.x_0(x, t))


# What an observation says


def space_mixture() -> GaussianMixture:
    """Two components in space, whose axes are not their own transposes, as they may be in the plane."""
    factors = 0.5 * normal(2, 3, 3, seed=5) + 0.5 * torch.eye(3, dtype=F64)
    return GaussianMixture(torch.tensor([0.4, 0.6], dtype=F64), normal(2, 3, seed=6), factors @ factors.mT)


SEEN = torch.tensor([[0.6, -1.1], [0.2, 0.9]], dtype=F64)  # rows of an operator
Y = torch.tensor([0.3, -0.8], dtype=F64)


def posterior_on_a_grid(mixture, schedule, x, t):
    """Points x_1 of the plane and their probabilities given X_t = x."""
    alpha, sigma, *_ = at(schedule, t)
    side = torch.linspace(-7, 7, 351, dtype=F64)
    x_1 = torch.cartesian_prod(side, side)
    return x_1, (law(mixture).log_prob(x_1) - ((x - alpha * x_1) / sigma).square().sum(1) / 2).softmax(0)


@every_schedule
@pytest.mark.parametrize("t", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("m", [1, 2])
def test_likelihood_of_an_observation_against_quadrature(schedule, t, m):
    x, A, y, noise = torch.tensor([[0.3, -0.4]], dtype=F64), SEEN[:m], Y[:m], 0.3
    x_1, weight = posterior_on_a_grid(skew_mixture(), schedule, x[0], t)
    normal_density = (2 * math.pi * noise**2) ** (-m / 2) * (-(y - x_1 @ A.T).square().sum(1) / 2 / noise**2).exp()
    value = MixturePath(skew_mixture(), schedule).log_likelihood(x, t, A, y, noise)
    torch.testing.assert_close(value[0], (weight @ normal_density).log(), rtol=1e-8, atol=1e-8)


@every_schedule
@pytest.mark.parametrize("t", [0.2, 0.6])
def test_likelihood_of_an_observation_against_monte_carlo(schedule, t):
    """E p(y given X_1) over X_1 given X_t = x, by weighing samples of X_1 itself with p(x given X_1)."""
    (alpha, sigma, *_), n, noise = at(schedule, t), 400_000, 0.5
    x, x_1 = torch.tensor([[0.4, 0.1]], dtype=F64), skew_mixture().sample(n, seeded())
    weight = (-((x - alpha * x_1) / sigma).square().sum(1) / 2).exp()
    density = (-(Y - x_1 @ SEEN.T).square().sum(1) / 2 / noise**2).exp() / (2 * math.pi * noise**2)
    value = MixturePath(skew_mixture(), schedule).log_likelihood(x, t, SEEN, Y, noise).exp()
    off = weight * (density - value)
    assert abs(off.mean()) < 4 * off.std() / math.sqrt(n)
    assert 4 * off.std() / math.sqrt(n) < 0.05 * value * weight.mean()


@every_schedule
@pytest.mark.parametrize("t", [0.3, 0.7])
def test_covariance_of_x_1_against_quadrature(schedule, t):
    x = torch.tensor([[0.3, -0.4]], dtype=F64)
    x_1, weight = posterior_on_a_grid(skew_mixture(), schedule, x[0], t)
    apart = x_1 - weight @ x_1
    expected = torch.einsum("n,ni,nj->ij", weight, apart, apart)
    value = MixturePath(skew_mixture(), schedule).covariance(x, t)
    torch.testing.assert_close(value[0], expected, rtol=1e-8, atol=1e-8)


@every_schedule
def test_covariance_is_the_derivative_of_the_mean(schedule):
    """Cov(X_1 given X_t = x) = sigma^2 / alpha d E[X_1 given X_t = x] / dx, row by row, each at its own time."""
    path, x, t = MixturePath(space_mixture(), schedule), normal(20, 3), torch.linspace(0.05, 0.95, 20, dtype=F64)
    x.requires_grad_()
    mean = path.x_1(x, t)
    rows = [torch.autograd.grad(mean[:, i].sum(), x, retain_graph=True)[0] for i in range(3)]
    alpha, sigma = (f(t)[:, None, None] for f in (schedule.alpha, schedule.sigma))
    torch.testing.assert_close(path.covariance(x, t), sigma**2 / alpha * torch.stack(rows, 1), rtol=1e-9, atol=1e-9)


@every_schedule
def test_likelihood_is_the_ratio_of_the_posterior_to_the_law(schedule):
    """log p_t(y given x) = log p_t(x given y) - log p_t(x) + log p(y), with Kalman's q(x given y) by components."""
    mixture, noise, A = space_mixture(), 0.3, normal(2, 3, seed=7)
    total = A @ mixture.covariances @ A.T + noise**2 * torch.eye(2, dtype=F64)
    gain = mixture.covariances @ A.T @ total.inverse()
    evidence = torch.distributions.MultivariateNormal(mixture.means @ A.T, total).log_prob(Y)
    joint = mixture.weights.log() + evidence
    means = mixture.means + torch.einsum("kij,kj->ki", gain, Y - mixture.means @ A.T)
    posterior = GaussianMixture(joint.softmax(0), means, mixture.covariances - gain @ A @ mixture.covariances)
    x, t = normal(30, 3), torch.linspace(0, 1, 30, dtype=F64)
    path, of_posterior = MixturePath(mixture, schedule), MixturePath(posterior, schedule)
    expected = of_posterior.log_density(x, t) - path.log_density(x, t) + joint.logsumexp(0)
    torch.testing.assert_close(path.log_likelihood(x, t, A, Y, noise), expected, rtol=1e-9, atol=1e-9)


@every_schedule
def test_likelihood_keeps_its_gradient_in_float32(schedule):
    single, x = skew_mixture(torch.float32), normal(20, 2, dtype=torch.float32)
    double = GaussianMixture(
        single.weights.double() / single.weights.double().sum(), single.means.double(), single.covariances.double()
    )
    early = schedule.inverse_log_snr(torch.tensor(1e-5, dtype=F64).log()).item()  # there b_t is about 1e5
    for t in (early, 0.5):
        slopes = []
        for law_, dtype in ((single, torch.float32), (double, F64)):
            point, path = x.to(dtype).requires_grad_(), MixturePath(law_, schedule)
            value = path.log_likelihood(point, t, SEEN.to(dtype), Y.to(dtype), 0.3)
            assert value.dtype == path.covariance(x.to(dtype), t).dtype == dtype
            slopes.append(torch.autograd.grad(value.sum(), point)[0])
        torch.testing.assert_close(slopes[0].double(), slopes[1], rtol=2e-5, atol=2e-6 * slopes[1].abs().max().item())


def test_covariance_and_likelihood_take_rows_one_by_one():
    path, x, t = MixturePath(skew_mixture()), normal(5, 2), torch.linspace(0, 1, 5, dtype=F64)
    for ask in (path.covariance, lambda x, t: path.log_likelihood(x, t, SEEN, Y, 0.3)):
        alone = torch.cat([ask(x[i : i + 1], t[i].item()) for i in range(5)])
        torch.testing.assert_close(ask(x, t), alone)
    zero = path.covariance(x, 1.0)
    torch.testing.assert_close(zero, torch.zeros(5, 2, 2, dtype=F64))


# Sampling


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_mixture_samples_follow_the_law_on_the_line(t):
    mixture = line_mixture()
    alpha, sigma, *_ = at(Polynomial(2.0), t)
    x = MixturePath(mixture, Polynomial(2.0)).sample(20_000, t, seeded())
    assert kstest(x[:, 0].numpy(), line_cdf(mixture, alpha, sigma)).pvalue > 1e-3


@pytest.mark.parametrize("t, variance", [(0.0, 1.0), (0.5, 0.25 * 0.09 + 0.25), (1.0, 0.09)])
def test_noise_enters_once_and_as_a_standard_deviation(t, variance):
    """A product of two Gaussians has kurtosis 9; variance taken for standard deviation gives 0.0081 at t = 1."""
    n = 100_000
    x = MixturePath(GaussianMixture.isotropic(torch.zeros(1, 2, dtype=F64), 0.3)).sample(n, t, seeded())
    assert abs(x.var().item() - variance) < 4 * variance * math.sqrt(2 / (2 * n))
    assert abs(kurtosis(x) - 3) < 4 * math.sqrt(24 / (2 * n))
    noise = DataPath(torch.zeros(1, 2, dtype=F64)).sample(n, 0.5, seeded())
    assert abs(noise.var().item() - 0.25) < 4 * 0.25 * math.sqrt(2 / (2 * n))
    assert abs(kurtosis(noise) - 3) < 4 * math.sqrt(24 / (2 * n))


def test_data_samples_are_every_row_at_the_end_and_follow_the_law_before():
    data = torch.tensor([[-2.0], [0.5], [0.9]], dtype=F64)
    x = DataPath(data).sample(3000, 1.0, seeded())
    values, counts = x.unique(return_counts=True)
    assert torch.equal(values, data[:, 0]) and (counts - 1000).abs().max() < 4 * math.sqrt(3000 * 2 / 9)
    x = DataPath(data).sample(20_000, 0.7, seeded())
    points = GaussianMixture(torch.full((3,), 1 / 3, dtype=F64), data, torch.full((3, 1, 1), 1e-12, dtype=F64))
    assert kstest(x[:, 0].numpy(), line_cdf(points, 0.7, 0.3)).pvalue > 1e-3


def test_samples_repeat_under_a_generator_and_leave_the_global_one_alone():
    before = torch.get_rng_state()
    for draw in (MixturePath(skew_mixture()).sample, DataPath(normal(5, 2)).sample):
        assert torch.equal(draw(8, 0.5, seeded(3)), draw(8, 0.5, seeded(3)))
        assert not torch.equal(draw(8, 0.5, seeded(3)), draw(8, 0.5, seeded(4)))
    assert torch.equal(torch.get_rng_state(), before)


# Finite data sets


def neighbours(n: int, d: int) -> torch.Tensor:
    """n float32 rows in pairs 1e-3 apart, away from the origin: differences that float32 logits would lose."""
    base = 2 + normal(n // 2, d, dtype=torch.float32)
    return torch.cat([base, base + 1e-3 * normal(n // 2, d, seed=1, dtype=torch.float32)])


def brute_weights(data, x, alpha, sigma):
    squared = (x.double()[:, None] - alpha * data.double()).square().sum(-1)
    return (-squared / (2 * sigma**2)).softmax(1)


@every_schedule
@pytest.mark.parametrize("d, n", [(2, 3000), (64, 1000)])
def test_data_posterior_mean_in_float32_against_brute_force(schedule, d, n):
    data = neighbours(n, d)
    path = DataPath(data, schedule)
    for t in (0.0, 0.1, 0.5, 0.9, 0.99):
        x = path.sample(30, t, seeded(7))
        alpha, sigma, d_alpha, d_sigma = at(schedule, t)
        mean = brute_weights(data, x, alpha, sigma) @ data.double()
        error = (path.x_1(x, t).double() - mean).norm(dim=1) / mean.norm(dim=1)
        assert path.x_1(x, t).dtype == torch.float32 and error.max() < 1e-5
        velocity = d_alpha * mean + d_sigma * (x.double() - alpha * mean) / sigma
        error = (path.velocity(x, t).double() - velocity).norm(dim=1)
        assert (error < 1e-4 * velocity.norm(dim=1) + 1e-6).all()


@pytest.mark.parametrize("t", [0.0, 0.5, 0.99])
def test_data_weights_and_density_against_brute_force(t):
    data, x = neighbours(40, 2).double(), 2 + normal(25, 2)
    path, alpha, sigma = DataPath(data), t, 1 - t
    torch.testing.assert_close(path.posterior(x, t), brute_weights(data, x, alpha, sigma), rtol=1e-7, atol=1e-12)
    normals = torch.distributions.Normal(alpha * data, sigma).log_prob(x[:, None]).sum(-1)
    torch.testing.assert_close(path.log_density(x, t), normals.logsumexp(1) - math.log(40))


def test_data_average_is_weighted_by_the_posterior_and_not_by_the_data():
    """x = 0, t = 1/2: squared distances 1/4 and 9/4, so log odds 4; the plain average would be 1."""
    data, x = torch.tensor([[-1.0], [3.0]], dtype=F64), torch.zeros(1, 1, dtype=F64)
    expected = -1 + 4 / (1 + math.exp(4))
    assert DataPath(data).x_1(x, 0.5).item() == pytest.approx(expected, rel=1e-12)
    assert DataPath(data).velocity(x, 0.5).item() == pytest.approx(2 * expected, rel=1e-12)


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_data_path_at_both_ends(schedule, dtype):
    data, x = neighbours(200, 3).to(dtype), 2 + normal(30, 3, dtype=dtype)
    path, start, end = DataPath(data, schedule), at(schedule, 0.0), at(schedule, 1.0)
    mean = data.double().mean(0).to(dtype).expand(30, 3)
    nearest = data[(x[:, None].double() - data.double()).square().sum(-1).argmin(1)]
    torch.testing.assert_close(path.x_1(x, 0.0), mean)
    torch.testing.assert_close(path.x_0(x, 0.0), x)
    torch.testing.assert_close(path.velocity(x, 0.0), start[2] * mean + start[3] * x)
    torch.testing.assert_close(path.score(x, 0.0), -x)
    torch.testing.assert_close(path.x_1(x, 1.0), nearest)
    assert torch.equal(path.x_0(x, 1.0), torch.zeros_like(x))
    torch.testing.assert_close(path.velocity(x, 1.0), end[2] * nearest)
    torch.testing.assert_close(path.x_1(data, 1.0), data)


def test_data_path_at_the_end_shares_ties_and_takes_far_points():
    data = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    x = torch.tensor([[0.0, 5.0], [1e4, 3.0], [-1e4, 3.0]])
    expected = torch.tensor([[1 / 3, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    torch.testing.assert_close(DataPath(data).x_1(x, 1.0), expected)


def test_large_data_sets_are_taken_in_blocks():
    """50,000 rows: the density goes block by block; three queries checked by hand, each with its own time."""
    data, x = normal(50_000, 2), normal(700, 2, seed=1)
    t = torch.linspace(0, 0.99, 700, dtype=F64)
    log_density, mean = DataPath(data).log_density(x, t), DataPath(data).x_1(x, t)
    for i in (0, 400, 699):
        alpha, sigma = t[i].item(), 1 - t[i].item()
        logs = -(x[i] - alpha * data).square().sum(1) / (2 * sigma**2) - math.log(2 * math.pi * sigma**2)
        assert log_density[i].item() == pytest.approx(logs.logsumexp(0).item() - math.log(50_000), rel=1e-9)
        torch.testing.assert_close(mean[i], (logs.softmax(0)[:, None] * data).sum(0), rtol=1e-6, atol=1e-9)


def test_memory_does_not_grow_as_queries_times_data():
    """3,000 x 50,000 logits would take 1.2 GB in float64 (0.6 in float32); all that may be held is the inputs' size."""
    code = """if True:
        import resource, torch
        from fmlib.exact import DataPath
        torch.set_num_threads(1)
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        path, x = DataPath(torch.randn(50_000, 2)), torch.randn(3_000, 2)
        path.x_1(x[:10], 0.5), path.velocity(x[:10], 0.5)
        before = peak()
        path.x_1(x, 0.5)
        print(peak() - before)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 100, f"{result.stdout} MB"


def crowd(n: int, offset: float, dtype=F64) -> torch.Tensor:
    """Rows of which some are copies of others 2e-6 away, and all lie `offset` from the origin."""
    base = offset + normal(n // 2, 3)
    return torch.cat([base, base + 2e-6 * normal(n // 2, 3, seed=1)]).to(dtype)


def in_high_precision(data, schedule, x, t):
    """Every answer of `DataPath` for one point, in 60 digits, from the definition of the marginal."""
    with mpmath.workdps(60):
        rows, point = [[mpmath.mpf(v) for v in row] for row in data.tolist()], [mpmath.mpf(v) for v in x.tolist()]
        alpha, sigma = (function(mpmath.mpf(t)) for function in in_60_digits(schedule))
        logs = [-sum((p - alpha * v) ** 2 for p, v in zip(point, row, strict=True)) / (2 * sigma**2) for row in rows]
        weights = [mpmath.exp(value - max(logs)) for value in logs]
        total = sum(weights)
        weights = [w / total for w in weights]
        log_density = max(logs) + mpmath.log(total / len(rows)) - len(point) * mpmath.log(2 * mpmath.pi * sigma**2) / 2
        x_1 = [sum(w * row[j] for w, row in zip(weights, rows, strict=True)) for j in range(len(point))]
        x_0 = [(p - alpha * mean) / sigma for p, mean in zip(point, x_1, strict=True)]
        rates = [mpmath.diff(function, mpmath.mpf(t)) for function in in_60_digits(schedule)]
        velocity = [rates[0] * a + rates[1] * b for a, b in zip(x_1, x_0, strict=True)]
        answers = {"log_density": [log_density], "posterior": weights, "x_1": x_1, "x_0": x_0, "velocity": velocity}
        answers["score"] = [-value / sigma for value in x_0]
        return {name: torch.tensor([float(v) for v in value], dtype=F64) for name, value in answers.items()}


@pytest.mark.parametrize("schedule", [CondOT(), VariancePreserving()], ids=["CondOT", "VariancePreserving"])
@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("left", [0.3, 1e-2, 1e-4, 1e-6, 1e-8])
def test_every_answer_keeps_its_digits_near_the_end(schedule, offset, left):
    """What may be lost is what rounding x and alpha x_i costs: a shift of eps (offset + 4), felt in units of sigma."""
    data, t = crowd(20, offset), 1 - left
    path = DataPath(data, schedule)
    x = path.sample(6, t, seeded(3))
    sigma = schedule.sigma(torch.tensor(t, dtype=F64)).item()
    slack = max(16 * 2.3e-16 * (offset + 4) / sigma, 1e-7)  # the rest: how exactly weights are wanted
    for i in range(len(x)):
        for name, expected in in_high_precision(data, schedule, x[i], t).items():
            got = getattr(path, name)(x[i : i + 1], t)[0]
            size = 1 + expected.abs().max()
            assert ((got - expected).abs() < slack * size).all(), (name, (got - expected).abs().max() / size)


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("t", [0.5, 0.9999, 1 - 2**-20])
def test_float32_answers_are_rounded_once(offset, t):
    """The float32 numbers that came in are exact: answers are right to float32, whatever cancels on the way."""
    data = crowd(20, offset, torch.float32)
    path = DataPath(data)
    x = path.sample(4, t, seeded(3))
    for i in range(len(x)):
        for name, expected in in_high_precision(data, CondOT(), x[i], t).items():
            got = getattr(path, name)(x[i : i + 1], t)[0]
            assert got.dtype == torch.float32
            got = got.double().reshape(expected.shape)
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7 * expected.abs().max().item())


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("t", [0.5, 0.9999, 1 - 2**-20])
def test_a_mixture_far_from_the_origin_keeps_its_digits_in_float32(offset, t):
    """Against the same mixture in float64 about the origin: far away x - alpha mu all but cancels."""
    narrow = skew_mixture()
    narrow = GaussianMixture(narrow.weights, narrow.means + offset, 1e-4 * narrow.covariances)
    single = GaussianMixture(*(value.float() for value in (narrow.weights, narrow.means, narrow.covariances)))
    x = MixturePath(single).sample(30, t, seeded())
    means = single.means.double() - offset
    shifted = GaussianMixture(
        single.weights.double() / single.weights.double().sum(), means, single.covariances.double()
    )
    moved, path = x.double() - t * offset, MixturePath(shifted)
    for name, shift in [("x_1", offset), ("velocity", offset), ("x_0", 0), ("score", 0), ("log_density", 0)]:
        got, expected = getattr(MixturePath(single), name)(x, t).double(), getattr(path, name)(moved, t) + shift
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-6 * expected.abs().max().item())


def test_points_near_the_end_and_others_may_come_together():
    """Each row is answered by the method that its own time asks for, and gradients pass through both."""
    path, x = DataPath(crowd(20, 5.0)), 5 + normal(5, 3)
    t = torch.tensor([0.0, 0.5, 1 - 1e-6, 0.9, 1 - 1e-9], dtype=F64)
    x.requires_grad_()
    for name in ("velocity", "x_1", "x_0", "score", "log_density"):
        ask = getattr(path, name)
        alone = torch.cat([ask(x[i : i + 1], t[i].item()) for i in range(5)])
        torch.testing.assert_close(ask(x, t), alone, rtol=1e-9, atol=1e-9)
    (slope,) = torch.autograd.grad(path.log_density(x, t).sum(), x)
    torch.testing.assert_close(slope, path.score(x, t), rtol=1e-7, atol=1e-7)


def test_images_keep_their_shape():
    data, x, t = normal(10, 1, 4, 4), normal(3, 1, 4, 4, seed=1), torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    image, flat = DataPath(data), DataPath(data.flatten(1))
    for name in ("x_1", "x_0", "velocity", "score"):
        torch.testing.assert_close(getattr(image, name)(x, t).flatten(1), getattr(flat, name)(x.flatten(1), t))
        assert getattr(image, name)(x, t).shape == x.shape
    assert image.sample(5, 0.5).shape == (5, 1, 4, 4)


# Invariances and bad input

NAMES = ("velocity", "x_1", "x_0", "score", "posterior", "log_density")


@given(
    batch=st.integers(1, 5),
    schedule=st.sampled_from(SCHEDULES),
    kind=st.integers(0, 1),
    dtype=st.sampled_from([torch.float32, F64]),
    seed=st.integers(0, 99),
)
def test_shape_dtype_time_and_batch_order(batch, schedule, kind, dtype, seed):
    path = paths(schedule)[kind]
    x, t = normal(batch, 2, seed=seed, dtype=dtype), normal(batch, seed=seed + 1, dtype=dtype).sigmoid()
    for name in NAMES:
        ask = getattr(path, name)
        value = ask(x, t)
        assert value.dtype == dtype and len(value) == batch
        assert value.shape == x.shape or name in ("posterior", "log_density")
        torch.testing.assert_close(ask(x.flip(0), t.flip(0)).flip(0), value)
        torch.testing.assert_close(ask(x[:1], t[0]), value[:1])
        torch.testing.assert_close(ask(x[:1], t[0].item()), value[:1])


X = torch.zeros(3, 2, dtype=F64)
BAD_QUESTIONS = {
    "column time": (X, torch.zeros(3, 1, dtype=F64), ValueError, r"\(3, 1\)"),
    "late": (X, 1.01, ValueError, "1.01"),
    "one early": (X, torch.tensor([0, -0.5, 0], dtype=F64), ValueError, "-0.5"),
    "other dimension": (torch.zeros(3, 3), 0.5, ValueError, r"\(batch, .*2.*\(3, 3\)"),
    "integers": (X.long(), 0.5, TypeError, "int64"),
    "NaN": (X * torch.nan, 0.5, ValueError, "6 NaN"),
    "empty": (X[:0], 0.5, ValueError, r"empty: shape \(0, 2\)"),
    "device": (X.to("meta"), 0.5, ValueError, "meta .* cpu"),
}


@pytest.mark.parametrize("kind", [0, 1], ids=["MixturePath", "DataPath"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x, t, error_type, message", BAD_QUESTIONS.values(), ids=BAD_QUESTIONS)
def test_bad_questions(kind, name, x, t, error_type, message):
    with pytest.raises(error_type, match=message) as error:
        getattr(paths(CondOT())[kind], name)(x, t)
    assert one_sentence(error)


@pytest.mark.parametrize("x, t, error_type, message", BAD_QUESTIONS.values(), ids=BAD_QUESTIONS)
def test_bad_questions_about_an_observation(x, t, error_type, message):
    path = MixturePath(skew_mixture())
    for ask in (path.covariance, lambda x, t: path.log_likelihood(x, t, SEEN, Y, 0.3)):
        with pytest.raises(error_type, match=message) as error:
            ask(x, t)
        assert one_sentence(error)


BAD_OBSERVATIONS = {
    "another dimension": (
        torch.ones(2, 3),
        torch.zeros(2),
        0.3,
        ValueError,
        r"A must have shape \(m, 2\), got \(2, 3\)",
    ),
    "a vector": (torch.ones(2), torch.zeros(1), 0.3, ValueError, r"A must have shape .*, got \(2,\)"),
    "too long": (SEEN, torch.zeros(3, dtype=F64), 0.3, ValueError, r"y must have shape \(2,\) .*, got \(3,\)"),
    "a row each": (SEEN, torch.zeros(3, 2, dtype=F64), 0.3, ValueError, r"y must have shape \(2,\) .*got \(3, 2\)"),
    "a number": (SEEN[:1], torch.zeros((), dtype=F64), 0.3, ValueError, r"y must have shape \(1,\) .*got \(\)"),
    "a list": (SEEN, [0.0, 0.0], 0.3, TypeError, "y must be a torch.Tensor, got list"),
    "A as a list": ([[1.0, 0.0]], torch.zeros(1), 0.3, TypeError, "A must be a torch.Tensor, got list"),
    "two dtypes": (SEEN, torch.zeros(2), 0.3, TypeError, "A and y .*float64 and torch.float32"),
    "NaN": (SEEN, Y * torch.nan, 0.3, ValueError, "y has 2 NaN"),
    "device": (SEEN.to("meta"), Y.to("meta"), 0.3, ValueError, "A is on meta but the mixture is on cpu"),
    "no noise": (SEEN, Y, 0, ValueError, "noise must be positive and finite, got 0"),
    "negative noise": (SEEN, Y, -0.1, ValueError, "noise must be positive and finite, got -0.1"),
    "noise as a tensor": (SEEN, Y, torch.tensor(0.3), TypeError, "noise must be a number"),
}


@pytest.mark.parametrize("A, y, noise, error_type, message", BAD_OBSERVATIONS.values(), ids=BAD_OBSERVATIONS)
def test_bad_observations(A, y, noise, error_type, message):
    with pytest.raises(error_type, match=message) as error:
        MixturePath(skew_mixture()).log_likelihood(X, 0.5, A, y, noise)
    assert one_sentence(error)


@pytest.mark.parametrize("name", ["score", "posterior", "log_density"])
def test_a_data_set_has_no_density_at_the_end(name):
    for t in (1.0, torch.tensor([0.0, 0.5, 1.0], dtype=F64)):
        with pytest.raises(ValueError, match="t must be less than 1"):
            getattr(DataPath(X), name)(X, t)


def test_bad_data_and_counts():
    with pytest.raises(ValueError, match="data has 1 NaN"):
        DataPath(torch.tensor([[1.0], [torch.nan]]))
    with pytest.raises(TypeError, match="data .*int64"):
        DataPath(torch.zeros(3, 2, dtype=torch.int64))
    for path in paths(VariancePreserving()):
        with pytest.raises(ValueError, match="n must be at least 1, got 0"):
            path.sample(0, 0.5)
        with pytest.raises(ValueError, match="got 2"):
            path.sample(3, 2.0)
