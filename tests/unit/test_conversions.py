"""Conversions between velocity, x_1, x_0 and score against the closed forms of a mixture, autograd and each other.

How an error is measured. A conversion adds a_t x and b_t value, so rounding of its inputs alone is felt as
eps (|a_t| ||x|| + |b_t| ||value||), however it is computed: that sum, row by row, is the `size` that errors are
relative to. Where its two terms do not cancel it is the size of the result.
"""

import math

import pytest
import torch
from helpers import F64, SCHEDULES, every_schedule, law, normal, one_sentence, skew_mixture
from hypothesis import given
from hypothesis import strategies as st

from fmlib.exact import DataPath, MixturePath
from fmlib.paths import QUANTITIES, AffinePath
from fmlib.sampling import sample
from fmlib.schedules import CondOT, Cosine, Polynomial, VariancePreserving

TIMES = [1e-9, 1e-6, 1e-3, 0.1, 0.5, 0.9, 1 - 1e-3, 1 - 1e-6, 1 - 1e-9]
ALL = [(have, want) for have in QUANTITIES for want in QUANTITIES if have != want]
every_pair = pytest.mark.parametrize("have, want", ALL, ids=lambda name: name)

# The ends at which no finite limit exists: worked out by hand from alpha, sigma and their derivatives
AT_0 = {("x_0", "velocity"), ("x_0", "x_1"), ("score", "velocity"), ("score", "x_1")}
AT_1 = {("x_1", "velocity"), ("x_1", "x_0"), ("x_1", "score"), ("x_0", "score")}
SINGULAR = {
    CondOT(): (AT_0, AT_1 | {("velocity", "score")}),
    Cosine(): (AT_0, AT_1 | {("velocity", "score")}),
    Polynomial(3.0): (AT_0 | {("velocity", "x_1")}, AT_1 | {("velocity", "score")}),
    VariancePreserving(): (AT_0, AT_1 | {("x_0", "velocity")}),
}


def errors(schedule, have, want, t, x):
    """||converted - closed form||, the size of the terms, and ||closed form||, for each row."""
    path, exact = AffinePath(schedule), MixturePath(skew_mixture(), schedule)
    value, expected = getattr(exact, have)(x, t), getattr(exact, want)(x, t)
    a, b = path.coefficients(torch.as_tensor(t, dtype=F64), have=have, want=want)
    size = a.abs() * x.norm(dim=1) + b.abs() * value.norm(dim=1)
    return (path.convert(value, x, t, have=have, want=want) - expected).norm(dim=1), size, expected.norm(dim=1)


@every_schedule
@every_pair
def test_every_entry_of_the_table_on_a_mixture(schedule, have, want):
    x = 1.5 * normal(100, 2)
    checked = 0
    for t in TIMES:
        error, size, expected = errors(schedule, have, want, t, x)
        assert (error <= 1e-13 * size).all()
        plain = size < 1e4 * expected  # nothing much cancels: then the error is small relative to the result, too
        assert (error[plain] <= 1e-9 * expected[plain]).all()
        checked += int(plain.sum())
    assert checked >= 300


@every_schedule
@every_pair
@pytest.mark.parametrize("end", [0, 1])
def test_ends_are_the_limits_or_an_error(schedule, have, want, end):
    path, x, beside = AffinePath(schedule), 1.5 * normal(20, 2), torch.tensor([1e-12, 1 - 1e-12], dtype=F64)[end]
    near = torch.stack(path.coefficients(beside, have=have, want=want))
    if (have, want) in SINGULAR[schedule][end]:
        assert near.abs().max() > 1e4
        for t in (float(end), torch.tensor([0.5, end, 0.5], dtype=F64)):
            with pytest.raises(ValueError, match=f"{want} has no finite limit from {have} at t = {end}") as error:
                path.convert(x[:3], x[:3], t, have=have, want=want)
            assert one_sentence(error)
        return
    at = torch.stack(path.coefficients(torch.tensor(float(end), dtype=F64), have=have, want=want))
    torch.testing.assert_close(at, near, rtol=1e-5, atol=1e-5)
    error, size, _ = errors(schedule, have, want, float(end), x)
    assert (error <= 1e-13 * size + 1e-15).all()


@every_schedule
@pytest.mark.parametrize("have", ["velocity", "x_1", "x_0"])
@pytest.mark.parametrize("t", [1e-6, 0.3, 0.97])
def test_score_against_autograd_of_the_log_density(schedule, have, t):
    x, moment = normal(40, 2).requires_grad_(), torch.tensor(t, dtype=F64)
    marginal = law(skew_mixture(), schedule.alpha(moment).item(), schedule.sigma(moment).item())
    (expected,) = torch.autograd.grad(marginal.log_prob(x).sum(), x)
    x = x.detach()
    value = getattr(MixturePath(skew_mixture(), schedule), have)(x, t)
    score = AffinePath(schedule).convert(value, x, t, have=have, want="score")
    torch.testing.assert_close(score, expected, rtol=1e-9, atol=1e-9)


@every_schedule
def test_one_pair_of_samples_by_hand(schedule):
    """x_0, x_1 are known, so all that a conversion must return is what the point was made from."""
    x_0, x_1, t = normal(5, 2, 3), normal(5, 2, 3, seed=1), torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=F64)
    path = AffinePath(schedule)
    point = path.sample(x_0, x_1, t)
    truth = {"velocity": point.velocity, "x_1": x_1, "x_0": x_0, "score": -x_0 / schedule.sigma(t)[:, None, None]}
    for have, want in ALL:
        converted = path.convert(truth[have], point.x_t, t, have=have, want=want)
        torch.testing.assert_close(converted, truth[want], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("have", QUANTITIES)
def test_an_identity_is_the_value_itself(have):
    x = normal(3, 2)
    for t in (0.0, 0.5, 1.0):
        assert torch.equal(AffinePath().convert(x, 2 * x, t, have=have, want=have), x)


@given(
    schedule=st.sampled_from(SCHEDULES),
    pair=st.sampled_from(ALL),
    t=st.floats(1e-6, 1 - 1e-6),
    seed=st.integers(0, 99),
)
def test_there_and_back(schedule, pair, t, seed):
    (have, want), path = pair, AffinePath(schedule)
    value, x, moment = normal(6, 3, seed=seed), normal(6, 3, seed=seed + 1), torch.tensor(t, dtype=F64)
    there = path.convert(value, x, t, have=have, want=want)
    back = path.convert(there, x, t, have=want, want=have)
    a, b = path.coefficients(moment, have=have, want=want)
    size = (a / b).abs() * x.norm(dim=1) + value.norm(dim=1)  # rounding on the way there, divided by b on the way back
    assert ((back - value).norm(dim=1) <= 1e-14 * size).all()


@given(
    schedule=st.sampled_from(SCHEDULES),
    order=st.permutations(QUANTITIES),
    t=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_a_detour_changes_nothing(schedule, order, t, seed):
    path, value, x = AffinePath(schedule), normal(4, 2, seed=seed), normal(4, 2, seed=seed + 1)
    first, second, third, _ = order
    direct = path.convert(value, x, t, have=first, want=third)
    detour = path.convert(path.convert(value, x, t, have=first, want=second), x, t, have=second, want=third)
    scale = 1 + max(c.abs().item() for c in path.coefficients(torch.tensor(t, dtype=F64), have=second, want=third))
    torch.testing.assert_close(detour, direct, rtol=1e-9, atol=1e-10 * scale)


def test_each_row_has_its_own_time_even_where_batch_equals_dimension():
    x, value, t = normal(3, 3), normal(3, 3, seed=1), torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    whole = AffinePath().convert(value, x, t, have="x_1", want="velocity")
    for i in range(3):
        torch.testing.assert_close(whole[i], (value[i] - x[i]) / (1 - t[i]), rtol=1e-12, atol=1e-12)


@every_schedule
@pytest.mark.parametrize("have", ["x_1", "x_0", "score"])
def test_sampling_with_any_prediction_is_sampling_with_the_velocity(schedule, have):
    exact, path, x = MixturePath(skew_mixture(), schedule), AffinePath(schedule), normal(20, 2)

    def velocity(x, t):
        return path.convert(getattr(exact, have)(x, t), x, t, have=have, want="velocity")

    inside = (0.01, 0.99)
    converted = sample(velocity, x, steps=30, t=inside)
    torch.testing.assert_close(converted, sample(exact.velocity, x, steps=30, t=inside), rtol=1e-9, atol=1e-9)


def test_another_source_converts_all_but_the_score():
    """The velocity, x_1 and x_0 need no Gaussian; the score does."""
    x_0 = torch.rand(200_000, 1, dtype=F64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x_1 = normal(200_000, 1, seed=1)
    x_t, velocity, *_ = AffinePath().sample(x_0, x_1, 0.5)
    near = (x_t - 0.4).abs()[:, 0] < 0.02
    mean_1, mean_u = x_1[near].mean(0, keepdim=True), velocity[near].mean(0, keepdim=True)
    x = x_t[near].mean(0, keepdim=True)
    torch.testing.assert_close(AffinePath().convert(mean_1, x, 0.5, have="x_1", want="velocity"), mean_u)
    u = torch.tensor([0.38, 0.42], dtype=F64)  # p_t is the law of (X_1 + U)/2: its density through the error function
    density = torch.erf((2 * u + 1) / math.sqrt(2)) - torch.erf((2 * u - 1) / math.sqrt(2))
    score = (density.log().diff() / u.diff()).item()
    assert abs(AffinePath().convert(mean_1, x, 0.5, have="x_1", want="score").item() - score) > 0.1


def ddim(path, denoiser, x, times):
    """x_s = alpha_s E[X_1] + sigma_s E[X_0], both given X_t (Song et al. 2020, equation 12 without noise)."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        x_1 = denoiser(x, t)
        x_0 = path.convert(x_1, x, t, have="x_1", want="x_0")
        x = path.flow(x_0, x_1, s)
    return x


@every_schedule
def test_ddim_is_euler_for_x_over_sigma_in_the_variable_alpha_over_sigma(schedule):
    path, exact, x = AffinePath(schedule), MixturePath(skew_mixture(), schedule), normal(30, 2)
    times = torch.linspace(0, 0.99, 12, dtype=F64)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    y = x / sigma[0]
    for i in range(len(times) - 1):
        y = y + (alpha[i + 1] / sigma[i + 1] - alpha[i] / sigma[i]) * exact.x_1(sigma[i] * y, times[i])
    torch.testing.assert_close(ddim(path, exact.x_1, x, times), sigma[-1] * y, rtol=1e-13, atol=1e-13)


@every_schedule
def test_ddim_is_exact_in_one_step_where_the_denoiser_is_constant(schedule):
    point = DataPath(normal(1, 2), schedule)  # one data point: E[X_1 given X_t] is that point
    x, times = normal(10, 2, seed=1), torch.tensor([0.1, 0.8], dtype=F64)
    x_t = AffinePath(schedule).flow(x, point.data.expand(10, 2), 0.1)
    expected = AffinePath(schedule).flow(x, point.data.expand(10, 2), 0.8)
    torch.testing.assert_close(ddim(AffinePath(schedule), point.x_1, x_t, times), expected, rtol=1e-12, atol=1e-12)


def test_ddim_of_cond_ot_is_euler():
    exact, x = MixturePath(skew_mixture()), normal(30, 2)
    times = torch.linspace(0, 0.9, 10, dtype=F64)
    expected = sample(exact.velocity, x, steps=9, t=(0, 0.9), method="euler")
    torch.testing.assert_close(ddim(AffinePath(), exact.x_1, x, times), expected, rtol=1e-12, atol=1e-12)


@every_schedule
def test_log_snr_and_its_inverse_round_trip_to_the_ends(schedule):
    t = torch.cat([torch.logspace(-6, -0.5, 50, dtype=F64), 1 - torch.logspace(-0.5, -6, 50, dtype=F64)])
    torch.testing.assert_close(schedule.inverse_log_snr(schedule.log_snr(t)), t, rtol=1e-9, atol=1e-12)
    log_snr = torch.linspace(-6, 6, 61, dtype=F64)
    torch.testing.assert_close(schedule.log_snr(schedule.inverse_log_snr(log_snr)), log_snr, rtol=1e-8, atol=1e-8)


def test_gradients_pass_and_inputs_are_left_alone():
    value, x = normal(2, 2).requires_grad_(), normal(2, 2, seed=1)
    before = x.clone()
    AffinePath().convert(value, x, 0.75, have="x_1", want="velocity").sum().backward()
    assert torch.equal(value.grad, torch.full((2, 2), 4.0, dtype=F64)) and torch.equal(x, before)


@every_pair
def test_dtype_and_shape_follow_the_input(have, want):
    for dtype in (torch.float32, F64):
        x, t = normal(3, 2, 2, dtype=dtype), torch.tensor([0.2, 0.5, 0.9])
        converted = AffinePath(VariancePreserving()).convert(x, x, t, have=have, want=want)
        assert converted.dtype == dtype and converted.shape == x.shape


def test_an_accelerator_reads_no_value():
    x = torch.zeros(3, 2, device="meta")  # a device without values: reading one is an error
    converted = AffinePath().convert(x, x, torch.ones(3, device="meta"), have="x_1", want="velocity")
    assert converted.shape == (3, 2) and converted.device.type == "meta"


X = torch.zeros(3, 2)
BAD = {
    "unknown have": (X, X, 0.5, "noise", "x_1", ValueError, "unknown have 'noise'; known: velocity, x_1, x_0, score"),
    "unknown want": (X, X, 0.5, "x_1", "drift", ValueError, "unknown want 'drift'; known: velocity, x_1, x_0, score"),
    "shapes": (X, torch.zeros(3, 3), 0.5, "x_1", "x_0", ValueError, r"x_1 and x .*\(3, 2\) and \(3, 3\)"),
    "batches": (X[:1], X, 0.5, "score", "x_0", ValueError, r"score and x .*\(1, 2\) and \(3, 2\)"),
    "dtypes": (X.double(), X, 0.5, "velocity", "x_0", TypeError, "velocity and x .*float64 and torch.float32"),
    "integers": (X.long(), X, 0.5, "x_0", "x_1", TypeError, "x_0 .*torch.int64"),
    "list": ([[0.0]], X, 0.5, "x_0", "x_1", TypeError, "x_0 .*list"),
    "NaN value": (X + torch.nan, X, 0.5, "x_0", "x_1", ValueError, "x_0 has 6 NaN"),
    "infinite x": (X, X + torch.inf, 0.5, "x_0", "x_1", ValueError, "x has 6 NaN or infinite"),
    "column of times": (X, X, torch.zeros(3, 1), "x_1", "x_0", ValueError, r"t .*\(3, 1\)"),
    "too few times": (X, X, torch.zeros(2), "x_1", "x_0", ValueError, r"t .*\(2,\)"),
    "time beyond": (X, X, 1.5, "x_1", "x_0", ValueError, "1.5"),
    "time NaN": (X, X, torch.tensor([0.5, torch.nan, 0.5]), "x_1", "x_0", ValueError, "nan"),
    "time as text": (X, X, "0.5", "x_1", "x_0", TypeError, "t .*str"),
    "one time at an end": (X, X, torch.tensor([0.5, 1.0, 0.5]), "x_1", "x_0", ValueError, "x_0 .* x_1 at t = 1"),
}


@pytest.mark.parametrize("value, x, t, have, want, kind, message", BAD.values(), ids=BAD)
def test_bad_input(value, x, t, have, want, kind, message):
    with pytest.raises(kind, match=message) as error:
        AffinePath().convert(value, x, t, have=have, want=want)
    assert one_sentence(error)


@pytest.mark.parametrize("t, kind", [(0.5, TypeError), (torch.tensor(1.5), ValueError), (torch.tensor([1]), TypeError)])
def test_bad_times_of_coefficients(t, kind):
    with pytest.raises(kind, match="t must"):
        AffinePath().coefficients(t, have="x_1", want="x_0")
