import dataclasses
import math

import mpmath
import pytest
import torch
from helpers import F64, SCHEDULES, every_schedule, in_60_digits, one_sentence
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from fmlib.exact import DataPath, MixturePath
from fmlib.laws import GaussianMixture
from fmlib.paths import AffinePath
from fmlib.schedules import CondOT, Cosine, Polynomial, Schedule, VariancePreserving

NAMES = ("alpha", "sigma", "d_alpha", "d_sigma", "sigma_d_sigma", "log_snr")


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_ends_are_exact(schedule, dtype):
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    assert schedule.alpha(ends).tolist() == [0, 1]
    assert schedule.sigma(ends).tolist() == [1, 0]
    assert schedule.log_snr(ends).tolist() == [-math.inf, math.inf]


def beta_integral(t):
    return quad(lambda s: 0.1 + 19.9 * s, 0, 1 - t)[0]


def variance_preserving_alpha(t):
    start = math.exp(-beta_integral(0) / 2)
    return (math.exp(-beta_integral(t) / 2) - start) / (1 - start)


@pytest.mark.parametrize(
    "schedule, alpha, sigma",
    [
        (CondOT(), lambda t: t, lambda t: 1 - t),
        (Cosine(), lambda t: math.sin(math.pi * t / 2), lambda t: math.cos(math.pi * t / 2)),
        (Polynomial(2.5), lambda t: t**2.5, lambda t: 1 - t**2.5),
        (
            VariancePreserving(),
            variance_preserving_alpha,
            lambda t: math.sqrt(1 - variance_preserving_alpha(t) ** 2),
        ),
    ],
    ids=["CondOT", "Cosine", "Polynomial", "VariancePreserving"],
)
def test_values_against_the_formula_in_plain_python(schedule, alpha, sigma):
    for t in (0.1, 0.5, 0.9):
        moment = torch.tensor(t, dtype=F64)
        assert schedule.alpha(moment).item() == pytest.approx(alpha(t), rel=1e-12)
        assert schedule.sigma(moment).item() == pytest.approx(sigma(t), rel=1e-12)


@every_schedule
def test_derivatives_against_autograd(schedule):
    t = torch.linspace(0.01, 0.99, 50, dtype=F64, requires_grad=True)
    for value, derivative in [
        (schedule.alpha(t), schedule.d_alpha(t)),
        (schedule.sigma(t), schedule.d_sigma(t)),
        (schedule.sigma(t) ** 2 / 2, schedule.sigma_d_sigma(t)),
    ]:
        (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(derivative, expected, rtol=1e-9, atol=1e-12)


@every_schedule
def test_derivatives_reach_the_ends(schedule):
    ends = torch.tensor([0.0, 1.0], dtype=F64)
    beside = torch.tensor([1e-7, 1 - 1e-7], dtype=F64)
    for name in ("d_alpha", "sigma_d_sigma"):
        torch.testing.assert_close(getattr(schedule, name)(ends), getattr(schedule, name)(beside), rtol=1e-5, atol=1e-5)


@every_schedule
@given(t=st.floats(0.001, 0.999))
def test_log_snr_and_its_inverse(schedule, t):
    moment = torch.tensor(t, dtype=F64)
    log_snr = schedule.log_snr(moment)
    assert log_snr.item() == pytest.approx(math.log(schedule.alpha(moment) / schedule.sigma(moment)), abs=1e-9)
    assert schedule.inverse_log_snr(log_snr).item() == pytest.approx(t, abs=1e-9)


@every_schedule
def test_monotone_and_accurate_in_float32_beside_the_ends(schedule):
    t = torch.cat([torch.logspace(-5, -1, 40), 1 - torch.logspace(-1, -5, 40)])
    assert (schedule.log_snr(t).diff() > 0).all()
    for name in NAMES:
        exact = getattr(schedule, name)(t.double())
        torch.testing.assert_close(getattr(schedule, name)(t).double(), exact, rtol=2e-5, atol=1e-6)


@every_schedule
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (3,), (3, 1, 1)])
def test_shape_and_dtype_follow_the_time(schedule, name, shape):
    for dtype in (torch.float32, F64):
        value = getattr(schedule, name)(torch.full(shape, 0.3, dtype=dtype))
        assert value.shape == shape and value.dtype == dtype


def test_schedules_are_values():
    assert Polynomial(2.0) == Polynomial(2.0) != Polynomial(3.0)
    for schedule in SCHEDULES:
        with pytest.raises(dataclasses.FrozenInstanceError):
            schedule.n = 1


@pytest.mark.parametrize(
    "make, value",
    [
        (lambda: Polynomial(0.5), "0.5"),
        (lambda: Polynomial(math.nan), "nan"),
        (lambda: VariancePreserving(beta_min=0.0), "0.0"),
        (lambda: VariancePreserving(beta_min=3.0, beta_max=2.0), "3.0 and 2.0"),
    ],
)
def test_bad_parameters(make, value):
    with pytest.raises(ValueError, match=value):
        make()


class Unscaled(Schedule):
    """The variance-preserving diffusion without its rescaling: alpha_0 = 0.0066."""

    def alpha(self, t):
        return torch.exp(-19.9 * (1 - t) ** 2 / 4 - 0.1 * (1 - t) / 2)

    def sigma(self, t):
        return (1 - self.alpha(t) ** 2).sqrt()


class NeverClean(CondOT):
    def sigma(self, t):
        return 1 - 0.99 * t


@pytest.mark.parametrize("schedule, came", [(Unscaled(), "alpha_0 = 0.0065"), (NeverClean(), "sigma_1 = 0.01")])
def test_a_schedule_that_misses_its_ends_is_refused_by_every_path(schedule, came):
    mixture = GaussianMixture.isotropic(torch.zeros(1, 2), 1.0)
    for make in (AffinePath, lambda s: MixturePath(mixture, s), lambda s: DataPath(torch.zeros(3, 2), s)):
        with pytest.raises(ValueError, match=came):
            make(schedule)


def test_a_steep_variance_preserving_schedule_is_finite_in_float32():
    schedule, t = VariancePreserving(0.1, 400.0), torch.linspace(0, 1, 101)
    torch.testing.assert_close(schedule.alpha(t), schedule.alpha(t.double()).float(), rtol=2e-5, atol=1e-40)


TO_THE_ENDS = [*SCHEDULES, Polynomial(1.0), Polynomial(3.5), Polynomial(40.0), VariancePreserving(1.0, 1.0)]


@pytest.mark.parametrize("schedule", TO_THE_ENDS, ids=str)
@pytest.mark.parametrize("dtype, bits", [(torch.float32, 24), (F64, 53)], ids=["float32", "float64"])
def test_every_digit_holds_up_to_both_ends(schedule, dtype, bits):
    """Relative to the value in 60 digits, at t = 2^-k, at 1 - 2^-k, down to the last, and between."""
    powers = 2.0 ** -torch.arange(1, bits + 1, dtype=F64)
    t = torch.cat([powers, 1 - powers, torch.linspace(0.02, 0.98, 25, dtype=F64)]).to(dtype)
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    alpha, sigma, log_snr = schedule.alpha(t), schedule.sigma(t), schedule.log_snr(t)
    there_and_back = schedule.inverse_log_snr(log_snr.double())
    with mpmath.workdps(60):
        exact_alpha, exact_sigma = in_60_digits(schedule)
        for i, moment in enumerate(map(mpmath.mpf, t.tolist())):
            a, b = exact_alpha(moment), exact_sigma(moment)
            assert abs(alpha[i].item() - a) < 21 * eps * a + tiny, (moment, alpha[i])
            assert abs(sigma[i].item() - b) < 21 * eps * b, (moment, sigma[i])
            ratio = mpmath.log(a / b)
            assert abs(log_snr[i].item() - ratio) < 4 * eps * (1 + abs(ratio)), (moment, log_snr[i])
            # an error of eps |log SNR| in the logarithm is one of that size in t, relative to t, at the most
            assert abs(there_and_back[i].item() - moment) < 8 * eps * (1 + abs(ratio)) * moment, moment


@pytest.mark.parametrize("n", [1.0, 1.5, 2.0, 3.5])
def test_the_slope_of_a_polynomial_sigma_by_autograd_reaches_both_ends(n):
    """sigma' = -n t^(n - 1), by hand, at both ends and on either side of where the formula changes."""
    t = torch.tensor([0.0, 1e-300, 0.25, 0.5, math.nextafter(0.5, 1), 0.75, 1 - 2**-53, 1.0], dtype=F64)
    t.requires_grad_()
    (slope,) = torch.autograd.grad(Polynomial(n).sigma(t).sum(), t)
    expected = [-n * moment ** (n - 1) for moment in t.tolist()]
    torch.testing.assert_close(slope, torch.tensor(expected, dtype=F64), rtol=1e-14, atol=0)


def test_log_snr_goes_on_where_alpha_is_too_small_to_be_a_number():
    """t^40 at t = 0.05 is 9e-53, and e_t of a steep diffusion 4e-44: float32 ends at 1e-45."""
    for schedule, t in [(Polynomial(40.0), 0.05), (VariancePreserving(0.1, 400.0), 1e-6)]:
        moment = torch.tensor(t)
        alpha, sigma = in_60_digits(schedule)
        expected = mpmath.log(alpha(mpmath.mpf(moment.item())) / sigma(mpmath.mpf(moment.item())))
        assert schedule.log_snr(moment).item() == pytest.approx(float(expected), rel=1e-6)
        back = schedule.inverse_log_snr(torch.tensor(float(expected), dtype=F64))
        assert back.item() == pytest.approx(moment.item(), rel=1e-12)


@every_schedule
def test_the_memoryless_noise_by_autograd_of_the_log_snr(schedule):
    """g^2 = 2 sigma^2 d/dt log(alpha / sigma), the derivative not by hand."""
    t = torch.linspace(0.01, 0.99, 50, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.log_snr(t).sum(), t)
    torch.testing.assert_close(schedule.memoryless(t.detach()) ** 2, 2 * schedule.sigma(t.detach()) ** 2 * slope)


@every_schedule
def test_the_memoryless_noise_is_twice_what_stands_before_the_score(schedule):
    """At t = 1 both are 0, but for the variance-preserving schedule, whose sigma' is infinite there."""
    t = torch.linspace(0.1, 1.0, 10, dtype=F64)
    before = AffinePath(schedule).coefficients(t, have="score", want="velocity")[1]
    torch.testing.assert_close(schedule.memoryless(t) ** 2 / 2, before, rtol=1e-12, atol=1e-15)
    assert (schedule.memoryless(t[-1]) > 0).item() == isinstance(schedule, VariancePreserving)


def test_the_memoryless_noise_follows_the_format_of_its_time():
    g = CondOT().memoryless(torch.tensor([[0.5, 1.0]]))
    assert g.dtype == torch.float32 and g.shape == (1, 2)


@every_schedule
def test_the_memoryless_noise_has_no_value_at_the_start(schedule):
    for t in (torch.tensor(0.0), torch.tensor([0.5, 0.0, 1.0], dtype=F64)):
        with pytest.raises(ValueError, match="the memoryless noise is infinite at t = 0, where alpha_t = 0") as error:
            schedule.memoryless(t)
        assert one_sentence(error)
    with pytest.raises(TypeError, match="t must be a torch.Tensor, got float") as error:
        schedule.memoryless(0.5)
    assert one_sentence(error)
