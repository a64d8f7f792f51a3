"""Kinetic energy and straightness against integrals done by hand or by scipy's quadrature."""

import math

import pytest
import torch
from helpers import F64, every_schedule, normal, one_sentence, skew_mixture
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from fmlib.exact import MixturePath
from fmlib.laws import GaussianMixture
from fmlib.metrics import kinetic_energy, straightness
from fmlib.sampling import sample
from fmlib.schedules import CondOT, VariancePreserving
from fmlib.solvers import dopri5, maruyama, rk4

numbers = st.floats(-3, 3)


@given(shift=st.lists(numbers, min_size=1, max_size=4), n=st.integers(1, 5))
def test_translation(shift, n):
    c = torch.tensor(shift, dtype=F64)
    velocity = lambda x, t: c.expand_as(x)  # noqa: E731
    x_0 = normal(n, len(c))
    torch.testing.assert_close(kinetic_energy(velocity, x_0, steps=3), c.square().sum().expand(n))
    assert straightness(velocity, x_0, steps=3).abs().max() < 1e-24


@given(rate=numbers)
def test_scaling(rate):
    """u = c x: X_t = e^{ct} x, so the energy is x^2 c (e^{2c} - 1) / 2; straight but not at constant speed."""
    x_0 = normal(4, 2)
    size = x_0.square().sum(1)
    energy = size * rate * math.expm1(2 * rate) / 2
    torch.testing.assert_close(kinetic_energy(lambda x, t: rate * x, x_0, steps=100), energy, rtol=1e-6, atol=1e-12)
    bend = energy - size * math.expm1(rate) ** 2
    torch.testing.assert_close(straightness(lambda x, t: rate * x, x_0, steps=100), bend, rtol=1e-6, atol=1e-9)


@given(angle=numbers)
def test_rotation(angle):
    """A circle run at constant speed: energy angle^2 r^2, of which the chord (2 r sin(angle / 2))^2 is not waste."""
    x_0 = normal(4, 2)
    size = x_0.square().sum(1)
    velocity = lambda x, t: angle * torch.stack([-x[:, 1], x[:, 0]], 1)  # noqa: E731
    torch.testing.assert_close(kinetic_energy(velocity, x_0), size * angle**2, rtol=1e-7, atol=1e-12)
    bend = size * (angle**2 - 4 * math.sin(angle / 2) ** 2)
    torch.testing.assert_close(straightness(velocity, x_0), bend, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("a, b, m", [(1.0, 0.2, 2.0), (0.5, 3.0, -1.0)])
def test_optimal_flow_between_two_gaussians(a, b, m):
    """N(0, a^2) to N(m, b^2) along straight lines: the energy is the squared Wasserstein distance m^2 + (b - a)^2."""
    velocity = lambda x, t: m + (b - a) / (a + (b - a) * t) * (x - t * m)  # noqa: E731
    nodes = torch.special.ndtri((torch.arange(4000, dtype=F64) + 0.5) / 4000)[:, None]
    assert kinetic_energy(velocity, a * nodes).mean().item() == pytest.approx(m**2 + (b - a) ** 2, rel=1e-3)
    displacement = (m + (b - a) / a * (a * nodes[:, 0])).square()
    torch.testing.assert_close(kinetic_energy(velocity, a * nodes), displacement, rtol=1e-7, atol=1e-9)
    assert straightness(velocity, a * nodes).max() < 1e-9


@every_schedule
def test_marginal_flow_to_one_gaussian(schedule):
    """N(0, 1) to N(0, b^2): the marginal flow is X_t = s_t x, s_t^2 = alpha_t^2 b^2 + sigma_t^2, of energy int s'^2."""
    b, x_0 = 0.3, normal(5, 1)
    path = MixturePath(GaussianMixture.isotropic(torch.zeros(1, 1, dtype=F64), b), schedule)

    def speed(t):
        t = torch.tensor(t, dtype=F64)
        s = (schedule.alpha(t) ** 2 * b**2 + schedule.sigma(t) ** 2).sqrt()
        return ((schedule.alpha(t) * schedule.d_alpha(t) * b**2 + schedule.sigma_d_sigma(t)) / s).item()

    spent = quad(lambda t: speed(t) ** 2, 0, 1, epsabs=1e-12, limit=200)[0]
    size = x_0[:, 0].square()
    torch.testing.assert_close(kinetic_energy(path.velocity, x_0, steps=400), size * spent, rtol=1e-5, atol=0)
    bend = size * (spent - (1 - b) ** 2)
    torch.testing.assert_close(straightness(path.velocity, x_0, steps=400), bend, rtol=1e-4, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_straightness_is_the_energy_less_the_squared_displacement(schedule, method):
    path, x_0 = MixturePath(skew_mixture(), schedule), normal(20, 2)
    moved = (sample(path.velocity, x_0, steps=60, method=method) - x_0).square().sum(1)
    energy = kinetic_energy(path.velocity, x_0, steps=60, method=method)
    bend = straightness(path.velocity, x_0, steps=60, method=method)
    assert (bend >= 0).all() and bend.max() > 1e-3
    torch.testing.assert_close(bend, energy - moved, rtol=1e-4, atol=1e-10)


def test_adaptive_steps():
    x_0 = normal(4, 2)
    energy = x_0.square().sum(1) * math.expm1(2) / 2
    torch.testing.assert_close(kinetic_energy(lambda x, t: x, x_0, method="dopri5"), energy, rtol=1e-4, atol=0)


def test_methods_as_of_sample():
    x_0, velocity = normal(4, 2), lambda x, t: x * (1 + t)
    assert torch.equal(kinetic_energy(velocity, x_0, method=rk4), kinetic_energy(velocity, x_0))
    fine = kinetic_energy(velocity, x_0, method=dopri5(1e-10, 1e-10))
    torch.testing.assert_close(fine, kinetic_energy(velocity, x_0, steps=400), rtol=1e-7, atol=0)


def test_shapes_dtypes_conditions_and_the_graph():
    x_0 = normal(3, 1, 4, 4).float().requires_grad_()
    for metric, expected in [(kinetic_energy, 16 * 4.0), (straightness, 0.0)]:
        value = metric(lambda x, t, speed: torch.full_like(x, speed), x_0, steps=2, speed=2.0)
        assert value.shape == (3,) and value.dtype == torch.float32 and not value.requires_grad
        torch.testing.assert_close(value, torch.full((3,), expected), atol=1e-10, rtol=1e-6)
    assert kinetic_energy(lambda x, t: x, normal(2, 2)).dtype == F64


def test_the_path_that_bends_more_is_less_straight():
    x_0 = normal(200, 2)
    mixture = GaussianMixture.isotropic(torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=F64), 0.3)
    paths = (MixturePath(mixture, schedule) for schedule in (CondOT(), VariancePreserving()))
    straight, bent = (straightness(path.velocity, x_0).mean() for path in paths)
    assert 2 * straight < bent


@pytest.mark.parametrize("metric", [kinetic_energy, straightness])
def test_bad_input(metric):
    x_0, still = torch.zeros(3, 2), lambda x, t: torch.zeros_like(x)
    bad = [
        ((still, x_0[0]), {}, ValueError, "x_0 must have shape"),
        ((still, x_0 * torch.nan), {}, ValueError, "x_0 has 6 NaN"),
        ((lambda x, t: x[:, :1], x_0), {}, ValueError, r"velocity must return a tensor of shape \(3, 2\)"),
        ((still, x_0), {"steps": 0}, ValueError, "steps must be at least 1"),
        ((still, x_0), {"method": "magic"}, ValueError, "unknown method 'magic'"),
        ((still, x_0), {"method": "euler_maruyama"}, ValueError, "needs the score"),
        ((still, x_0), {"method": maruyama(still)}, ValueError, "method must follow the velocity alone"),
        ((lambda x, t: x * 1j, x_0), {}, TypeError, "velocity must return a floating tensor"),
        ((None, x_0), {}, TypeError, "velocity must be a callable"),
    ]
    for arguments, options, kind, message in bad:
        with pytest.raises(kind, match=message) as error:
            metric(*arguments, **options)
        assert one_sentence(error)
