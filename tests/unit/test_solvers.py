import math

import pytest
import torch
from helpers import F64, Counted, every_schedule, kurtosis, normal, one_sentence, seeded, skew_mixture
from scipy.integrate import solve_ivp
from scipy.stats import kstest

from fmlib import solvers
from fmlib.couplings import Independent
from fmlib.exact import DataPath, MixturePath
from fmlib.laws import GaussianMixture
from fmlib.likelihood import log_likelihood
from fmlib.manifolds import Hyperboloid, Torus
from fmlib.metrics import energy_distance, sliced_wasserstein
from fmlib.paths import TokenMix
from fmlib.sampling import sample
from fmlib.schedules import CondOT, Polynomial
from fmlib.solvers import ancestral, maruyama

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
STEPS, ADAPTIVE = solvers.FIXED, solvers.ADAPTIVE


def test_every_fixed_method_has_its_order_here():
    assert set(ORDERS) == set(solvers.FIXED) == set(solvers.WEIGHTS) == set(solvers.EVALUATIONS)
    assert all(step.__name__ == name for name, step in solvers.FIXED.items())


def bend(x, t):
    """dx/dt = -(1 + 2t) x^2, with the flow x_0 / (1 + x_0 (t + t^2)): nonlinear in x and in t."""
    return -(1 + 2 * t) * x**2


def bent(x_0, t):
    return x_0 / (1 + x_0 * (t + t**2))


@pytest.mark.parametrize("back", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("method", ORDERS)
def test_measured_order(method, back):
    x_0, steps = torch.tensor([[0.5], [1.0], [2.0]], dtype=F64), [32, 64, 128, 256]
    start, end = (bent(x_0, 1.0), x_0) if back else (x_0, bent(x_0, 1.0))
    errors = []
    for n in steps:
        times = torch.linspace(float(back), float(not back), n + 1, dtype=F64)
        errors.append((solvers.follow(STEPS[method], bend, start, times) - end).norm().log2().item())
    slope = (errors[0] - errors[-1]) / 3
    assert abs(slope - ORDERS[method]) < 0.1


@pytest.mark.parametrize("method, value", [("euler", 0.0), ("midpoint", 1 / 8), ("heun", 1 / 2), ("rk4", 1 / 4)])
def test_one_step_is_its_quadrature_rule(method, value):
    """For dx/dt = t^3 one step is the left, midpoint, trapezium and Simpson rule."""
    x_0, times = torch.zeros(1, 1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    assert solvers.follow(STEPS[method], lambda x, t: t**3 + 0 * x, x_0, times).item() == pytest.approx(
        value, abs=1e-15
    )


@pytest.mark.parametrize("method", ORDERS)
def test_one_step_is_the_taylor_polynomial_of_its_order(method):
    """For dx/dt = x a step h multiplies by the exponential series up to the order."""
    x_0, times = torch.ones(1, 1, dtype=F64), torch.tensor([0.0, 0.5], dtype=F64)
    series = sum(0.5**k / math.factorial(k) for k in range(ORDERS[method] + 1))
    assert solvers.follow(STEPS[method], lambda x, t: x, x_0, times).item() == pytest.approx(series, rel=1e-15)


@pytest.mark.parametrize("method", ORDERS)
def test_evaluations_and_times(method):
    velocity = Counted(bend)
    solvers.follow(STEPS[method], velocity, torch.ones(2, 1, dtype=F64), torch.linspace(0, 1, 11, dtype=F64))
    assert len(velocity.times) == 10 * solvers.EVALUATIONS[method]
    assert min(velocity.times) == 0 and max(velocity.times) <= 1
    assert (max(velocity.times) == 1) == (method in ("heun", "rk4"))


def reference(path, x_0, t):
    """The flow by scipy, to 1e-11."""

    def slope(moment, x):
        return path.velocity(torch.from_numpy(x).reshape(-1, 2), float(min(max(moment, 0), 1))).flatten().numpy()

    solution = solve_ivp(slope, (t[0], t[-1]), x_0.flatten().numpy(), "DOP853", t_eval=t, rtol=1e-11, atol=1e-11)
    return torch.from_numpy(solution.y.T.copy()).reshape(len(t), -1, 2)


@pytest.mark.parametrize(
    "method, accuracy",
    [("euler", 0.05), ("midpoint", 1e-3), ("heun", 1e-3), ("rk4", 1e-6)]
    + [("dopri5", 1e-6), ("dopri8", 1e-6), ("bosh3", 1e-3), ("adaptive_heun", 0.05)],
)
def test_mixture_flow_against_scipy(method, accuracy):
    path, x_0 = MixturePath(skew_mixture()), normal(6, 2)
    truth = reference(path, x_0, [0.0, 0.5, 1.0])
    if method in ORDERS:
        points = solvers.follow(STEPS[method], path.velocity, x_0, torch.linspace(0, 1, 101, dtype=F64), every=1)[::50]
    else:
        times, tolerance = torch.tensor([0.0, 0.5, 1.0], dtype=F64), accuracy / 100
        solver = solvers.ADAPTIVE[method](tolerance, tolerance)
        points, _ = solvers.solve_adaptive(solver, path.velocity, x_0, times)
    assert (points[-1] - truth[-1]).abs().max() < accuracy
    between = 1e-5 if method == "dopri8" else accuracy  # its long steps are interpolated by a quartic
    assert (points - truth).abs().max() < between
    assert (truth[-1] - truth[0]).abs().max() > 0.5


@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_counts_every_call_and_stays_within_time(method):
    for times in (torch.tensor([0.0, 0.3, 1.0], dtype=F64), torch.tensor([1.0, 0.0], dtype=F64)):
        velocity, x_0 = Counted(bend), torch.full((2, 1), 0.3, dtype=F64)  # backward, more than 1/2 blows up
        points, nfe = solvers.solve_adaptive(solvers.ADAPTIVE[method](), velocity, x_0, times)
        assert nfe == len(velocity.times) > 1 and points.shape == (len(times), 2, 1)
        assert min(velocity.times) >= 0 and max(velocity.times) <= 1
        assert torch.equal(points[0], x_0)
    tighter = 1e-9 if method == "dopri8" else 1e-6
    assert solvers.solve_adaptive(solvers.ADAPTIVE[method](tighter, tighter), bend, x_0, times)[1] > nfe


def test_saved_points_start_at_the_start_and_end_at_the_end():
    x_0, times = torch.ones(2, 1, dtype=F64), torch.linspace(0, 1, 5, dtype=F64)
    points = solvers.follow(solvers.midpoint, bend, x_0, times, every=1)
    assert points.shape == (5, 2, 1) and torch.equal(points[0], x_0)
    assert torch.equal(points[-1], solvers.follow(solvers.midpoint, bend, x_0, times))
    assert torch.equal(points[2], solvers.follow(solvers.midpoint, bend, x_0, times[:3]))


def test_a_step_may_write_into_its_x():
    def in_place(velocity, x, t, s):
        x += (s - t) * velocity(x, t)
        return x

    x_0, times = torch.ones(2, 1, dtype=F64), torch.linspace(0, 1, 5, dtype=F64)
    found = solvers.follow(in_place, bend, x_0, times, every=1)
    torch.testing.assert_close(found, solvers.follow(solvers.euler, bend, x_0, times, every=1), rtol=1e-15, atol=0)
    assert torch.equal(x_0, torch.ones(2, 1, dtype=F64))


@pytest.mark.parametrize(
    "step, kind, message",
    [
        (lambda u, x, t, s: x[:1], ValueError, r"like x \(\(2, 1\), float64, on cpu\), got \(1, 1\), float64, on cpu"),
        (lambda u, x, t, s: x.float(), ValueError, r"got \(2, 1\), float32"),
        (lambda u, x, t, s: x.to("meta"), ValueError, "on meta"),
        (lambda u, x, t, s: x if t == 0 else x.float(), ValueError, "float32"),
        (lambda u, x, t, s: None, TypeError, "a step must return a tensor, got NoneType"),
    ],
)
def test_a_step_keeps_shape_format_and_device(step, kind, message):
    with pytest.raises(kind, match=message) as error:
        solvers.follow(step, bend, torch.ones(2, 1, dtype=F64), torch.linspace(0, 1, 3, dtype=F64))
    assert one_sentence(error)


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("times", [[0.0, 1.0], [1.0, 0.0]])
def test_an_adaptive_method_gives_up_at_its_limit(method, times):
    velocity = Counted(lambda x, t: -1e6 * (x - torch.cos(t)) * (times[1] - times[0]))
    with pytest.raises(ValueError, match=rf"{method}' spent max_nfe=50 evaluations and came to t=0?\.?\d") as error:
        solver = solvers.ADAPTIVE[method](max_nfe=50)
        solvers.solve_adaptive(solver, velocity, torch.ones(2, 1, dtype=F64), torch.tensor(times, dtype=F64))
    assert one_sentence(error) and len(velocity.times) == 50
    reached = float(str(error.value).split("t=")[1].split(":")[0])
    assert abs(reached - velocity.times[-1]) < 0.01


def test_the_limit_may_be_spent_in_full():
    x_0, times = torch.ones(2, 1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    found, nfe = solvers.solve_adaptive(solvers.dopri5(), bend, x_0, times)
    assert torch.equal(solvers.solve_adaptive(solvers.dopri5(max_nfe=nfe), bend, x_0, times)[0], found)
    with pytest.raises(ValueError, match="max_nfe"):
        solvers.solve_adaptive(solvers.dopri5(max_nfe=nfe - 1), bend, x_0, times)


def test_an_assertion_of_the_velocity_is_its_own():
    def velocity(x, t):
        assert t < 0, "mine"
        return x

    with pytest.raises(AssertionError, match="mine"):
        solvers.solve_adaptive(solvers.dopri5(), velocity, torch.ones(1, 1), torch.tensor([0.0, 1.0]))


BAD_METHODS = {
    "name": ("magic", ValueError, "unknown method 'magic'; known: euler, midpoint, heun, rk4, dopri5, dopri8"),
    "old name": ("euler_maruyama", ValueError, r"write method=solvers.maruyama\(score\)"),
    "no score": (solvers.maruyama, ValueError, r"write method=solvers.maruyama\(score\)"),
    "number": (3, TypeError, r"method must be a name, a step \(velocity, x, t, s\) -> x or an Adaptive, got 3"),
    "nothing": (None, TypeError, "got None"),
    "a maker": (solvers.jumping, TypeError, r"got what makes one: write solvers.jumping\(...\)"),
    "of manifolds": (solvers.geodesic, TypeError, r"write solvers.geodesic\(...\)"),
    "without noise": (solvers.ancestral, TypeError, r"write solvers.ancestral\(...\)"),
    "without projection": (solvers.projected, TypeError, r"write solvers.projected\(...\)"),
    "a class": (solvers.Adaptive, TypeError, r"write solvers.Adaptive\(...\)"),
}


@pytest.mark.parametrize("method, kind, message", BAD_METHODS.values(), ids=BAD_METHODS)
def test_bad_methods(method, kind, message):
    with pytest.raises(kind, match=message) as error:
        solvers.solver_of(method)
    assert one_sentence(error)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_an_adaptive_method_is_its_name_its_constructor_and_what_that_makes(name):
    make = getattr(solvers, name)
    assert solvers.solver_of(name) == solvers.solver_of(make) == solvers.solver_of(make()) == make(1e-5, 1e-5, 20_000)
    assert make(rtol=1e-3, atol=1e-4, max_nfe=7) == solvers.Adaptive(name, 1e-3, 1e-4, 7)


@pytest.mark.parametrize(
    "options, kind, message",
    [
        ({"rtol": 0.0}, ValueError, "rtol must be positive and finite, got 0.0"),
        ({"atol": math.nan}, ValueError, "atol must be positive and finite, got nan"),
        ({"rtol": "fine"}, TypeError, "rtol must be a number, got 'fine'"),
        ({"max_nfe": 0}, ValueError, "max_nfe must be at least 1, got 0"),
        ({"max_nfe": 1e4}, TypeError, "max_nfe must be an integer, got 10000.0"),
    ],
)
def test_bad_tolerances(options, kind, message):
    with pytest.raises(kind, match=message) as error:
        solvers.dopri5(**options)
    assert one_sentence(error)


SEEDED = {
    "ancestral": lambda seed: ancestral(generator=seed),
    "maruyama": lambda seed: maruyama(bend, generator=seed),
    "jumping": lambda seed: solvers.jumping(bend, bend, generator=seed),
    "a mixture": lambda seed: skew_mixture().sample(3, seed),
    "its path": lambda seed: MixturePath(skew_mixture()).sample(3, 0.5, seed),
    "data": lambda seed: DataPath(torch.zeros(2, 2)).sample(3, 0.5, seed),
    "a torus": lambda seed: Torus().uniform(3, generator=seed),
    "a hyperboloid": lambda seed: Hyperboloid().uniform(3, generator=seed),
    "tokens": lambda seed: TokenMix().sample(torch.zeros(1, 1).long(), torch.zeros(1, 1).long(), 0.5, seed),
    "a coupling": lambda seed: Independent()(torch.zeros(2, 1), torch.zeros(2, 1), generator=seed),
    "projections": lambda seed: sliced_wasserstein(torch.zeros(2, 1), torch.zeros(2, 1), generator=seed),
    "probes": lambda seed: log_likelihood(bend, torch.zeros(2, 1), divergence="hutchinson", generator=seed),
}


@pytest.mark.parametrize("call", SEEDED.values(), ids=SEEDED)
def test_a_seed_is_no_generator(call):
    with pytest.raises(TypeError, match="generator must be a torch.Generator or None, got 0") as error:
        call(0)
    assert one_sentence(error)


# Euler-Maruyama


def zero(x, t):
    return torch.zeros_like(x)


def gaussian_path(std):
    """Velocity and score of the path from N(0, 1) to N(0, std^2) with alpha = t, sigma = 1 - t: both linear in x."""

    def variance(t):
        return std**2 * t**2 + (1 - t) ** 2

    return variance, lambda x, t: (std**2 * t - (1 - t)) / variance(t) * x, lambda x, t: -x / variance(t)


@pytest.mark.parametrize("noise", [0.7, lambda t: 1.5 * (1 - t)], ids=["constant", "function"])
def test_euler_maruyama_variance_is_that_of_its_recursion(noise):
    """Each step maps N(0, v) to N(0, (1 + h (u + g^2 s / 2))^2 v + g^2 h), so the law after any number is known."""
    steps, n, std = 20, 100_000, 0.5
    variance, velocity, score = gaussian_path(std)
    x = solvers.follow(
        maruyama(score, noise, seeded(1)), velocity, normal(n, 1), torch.linspace(0, 1, steps + 1, dtype=F64), every=1
    )
    v, h = 1.0, 1 / steps
    for i in range(steps):
        t = i * h
        g = noise(t) if callable(noise) else noise
        v = (1 + h * ((std**2 * t - (1 - t)) - g**2 / 2) / variance(t)) ** 2 * v + g**2 * h
        assert abs(x[i + 1].var().item() - v) < 4 * v * math.sqrt(2 / n)
    assert abs(kurtosis(x[-1]) - 3) < 4 * math.sqrt(24 / n)


def test_euler_maruyama_keeps_the_marginals_of_the_flow():
    """With 400 steps the variance's bias, known from halving the step, is below 1 %; the rest is Monte Carlo."""
    n, times = 40_000, torch.linspace(0, 1, 401, dtype=F64)
    variance, velocity, score = gaussian_path(0.5)
    x = solvers.follow(maruyama(score, 1.0, seeded(1)), velocity, normal(n, 1), times, every=1)
    for i in (100, 200, 300, 400):
        truth = variance(i / 400)
        assert abs(x[i].var().item() - truth) < 0.01 * truth + 4 * truth * math.sqrt(2 / n)
        assert kstest(x[i, :, 0].numpy() / math.sqrt(truth), "norm").statistic < 2.3 / math.sqrt(n)


def test_euler_maruyama_noise_is_one_gaussian_of_variance_h():
    x_0 = torch.zeros(50_000, 1, dtype=F64)
    x = solvers.follow(maruyama(zero, 2.0, seeded()), zero, x_0, torch.tensor([0.0, 0.25], dtype=F64))
    assert kstest(x[:, 0].numpy(), "norm").pvalue > 1e-3  # g sqrt(h) = 1


def test_euler_maruyama_without_noise_is_euler():
    x_0, times = torch.ones(3, 1, dtype=F64), torch.linspace(0, 1, 8, dtype=F64)
    quiet, plain = (solvers.follow(step, bend, x_0, times) for step in (maruyama(zero, 0.0), solvers.euler))
    assert torch.equal(quiet, plain)


def test_euler_maruyama_steps_are_independent():
    x = solvers.follow(
        maruyama(zero, 1.0, seeded()), zero, torch.zeros(20_000, 1, dtype=F64), torch.linspace(0, 1, 3, dtype=F64), 1
    )
    first, second = (x[1] - x[0])[:, 0], (x[2] - x[1])[:, 0]
    assert abs((first * second).mean().item() / 0.5) < 4 / math.sqrt(20_000)


def test_euler_maruyama_refuses_time_running_backwards():
    with pytest.raises(ValueError, match="times must increase for this step, got 1 to 0") as error:
        solvers.follow(maruyama(zero), zero, torch.zeros(2, 1), torch.tensor([1.0, 0.0]))
    assert one_sentence(error)


def test_euler_maruyama_needs_a_score_like_x():
    with pytest.raises(TypeError, match="score must be a callable .* NoneType"):
        maruyama(None)
    wrong = [(lambda x, t: x[:1], ValueError, r"score must return a tensor of shape \(2, 1\), got \(1, 1\)")]
    wrong += [(lambda x, t: x * 1j, TypeError, "score must return a floating tensor, got torch.complex64")]
    for score, kind, message in wrong:
        with pytest.raises(kind, match=message) as error:
            solvers.follow(maruyama(score), zero, torch.zeros(2, 1), torch.tensor([0.0, 1.0]))
        assert one_sentence(error)


def to_a_point(schedule, x_1):
    """The velocity of the flow to the single point x_1, all of whose means are known."""
    return MixturePath(GaussianMixture.isotropic(x_1, 1e-9), schedule).velocity


@every_schedule
@pytest.mark.parametrize("t, s", [(0.1, 0.3), (0.5, 0.55), (0.4, 0.95), (0.7, 1.0)])
def test_an_ancestral_step_is_the_conditional_law_of_the_memoryless_process(schedule, t, s):
    """Noise is added from s back to t: given X_1, Cov(X_t, X_s) = alpha_t / alpha_s Var X_s. Condition on X_t."""
    n, x_1, t, s = 40_000, torch.tensor([[1.5]], dtype=F64), *torch.tensor([t, s], dtype=F64)
    mean = torch.stack([schedule.alpha(t), schedule.alpha(s)]) * x_1[0]
    v_t, v_s = schedule.sigma(t) ** 2, schedule.sigma(s) ** 2
    cross = schedule.alpha(t) / schedule.alpha(s) * v_s
    for x in (-0.4, 0.7):
        moved = ancestral(schedule, seeded(1))(to_a_point(schedule, x_1), torch.full((n, 1), x, dtype=F64), t, s)
        expected = mean[1] + cross / v_t * (x - mean[0])
        variance = v_s - cross**2 / v_t
        assert abs(moved.mean() - expected) <= 4 * (variance / n).sqrt() + 1e-8
        assert abs(moved.var() - variance) <= 4 * variance * math.sqrt(2 / n) + 1e-8


@every_schedule
def test_ancestral_moments_of_a_gaussian_after_every_step(schedule):
    """Its denoiser is m + k (x - alpha m), so each step maps a Gaussian to one whose moments a hand can follow."""
    n, m, var, times = 60_000, 0.8, 0.3, torch.linspace(0.02, 1, 9, dtype=F64)
    velocity = MixturePath(GaussianMixture.isotropic(torch.tensor([[m]], dtype=F64), var**0.5), schedule).velocity
    x_0 = normal(n, 1)
    x = solvers.follow(ancestral(schedule, seeded(1)), velocity, x_0, times, every=1)
    mean, variance = x_0.mean().item(), x_0.var().item()
    for i, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True), 1):
        (a, b), (a_s, b_s) = ((schedule.alpha(r).item(), schedule.sigma(r).item()) for r in (t, s))
        q = (a * b_s / (a_s * b)) ** 2
        k = a * var / (a**2 * var + b**2)
        slope = a_s * (1 - q) * k + a * b_s**2 / (a_s * b**2)
        mean = a_s * (1 - q) * m * (1 - k * a) + slope * mean
        variance = slope**2 * variance + b_s**2 * (1 - q)
        assert abs(x[i].mean().item() - mean) < 4 * math.sqrt(variance / n)
        assert abs(x[i].var().item() - variance) < 4 * variance * math.sqrt(2 / n)
    assert abs(kurtosis(x[-1]) - 3) < 4 * math.sqrt(24 / n)


def test_the_first_ancestral_step_forgets_where_it_came_from():
    path = MixturePath(skew_mixture())
    t, s = torch.tensor([0.0, 0.05], dtype=F64)
    one, other = (
        ancestral(generator=seeded(1))(path.velocity, x, t, s) for x in (normal(9, 2), 5 + 3 * normal(9, 2, seed=1))
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-14)
    moved = ancestral(generator=seeded(1))(path.velocity, normal(9, 2), s, 2 * s)
    assert (moved - ancestral(generator=seeded(1))(path.velocity, 1 + normal(9, 2), s, 2 * s)).abs().min() > 0.1


def test_the_last_ancestral_step_is_the_denoiser():
    path, x = MixturePath(skew_mixture()), normal(9, 2)
    moved = ancestral(generator=seeded(1))(path.velocity, x, *torch.tensor([0.7, 1.0], dtype=F64))
    torch.testing.assert_close(moved, path.x_1(x, 0.7))


def test_many_ancestral_steps_draw_the_mixture():
    """As near to true samples as others are, which a flow that starts at one point is not; few steps are near."""
    path, n = MixturePath(skew_mixture()), 3000
    true = path.target.sample(n, seeded())
    floor = max(energy_distance(path.target.sample(n, seeded(seed)), true) for seed in range(1, 6))
    many, few = (
        sample(path.velocity, normal(n, 2), steps=steps, method=ancestral(generator=seeded(7))) for steps in (200, 20)
    )
    assert energy_distance(many, true) < floor < energy_distance(few, true) < 0.012
    assert energy_distance(sample(path.velocity, torch.zeros(n, 2, dtype=F64), steps=20), true) > 0.1


def test_small_ancestral_steps_are_maruyama_with_the_memoryless_noise():
    """Both moments of X_s given X_t = x, one step of h = 1e-4 from t = 0.4, apart by O(h^2)."""
    path, x, (t, h) = MixturePath(skew_mixture()), normal(1, 2), torch.tensor([0.4, 1e-4], dtype=F64)
    x = x.expand(40_000, 2)
    steps = ancestral(generator=seeded(1)), maruyama(path.score, CondOT().memoryless, seeded(1))
    one, other = (step(path.velocity, x, t, t + h) - x for step in steps)
    torch.testing.assert_close(one.mean(0), other.mean(0), rtol=0, atol=20 * h.item() ** 1.5)
    torch.testing.assert_close(one.var(0), other.var(0), rtol=1e-3, atol=0)


def test_ancestral_follows_the_format_and_the_generator():
    velocity = MixturePath(skew_mixture(torch.float32)).velocity
    x = torch.ones(3, 2)
    one, same, other = (sample(velocity, x, steps=5, method=ancestral(generator=seeded(k))) for k in (1, 1, 2))
    assert one.dtype == torch.float32 and torch.equal(one, same) and not torch.equal(one, other)


def test_ancestral_runs_forward_and_needs_to_know_the_end_point():
    velocity, x = MixturePath(skew_mixture(), Polynomial(2.0)).velocity, normal(3, 2)
    cases = [((1.0, 0.0), CondOT(), "times must increase for this step, got 1 to 0")]
    cases += [((0.0, 1.0), Polynomial(2.0), "x_1 has no finite limit from velocity at t = 0: keep t away from it")]
    for times, schedule, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            sample(velocity, x, t=times, method=ancestral(schedule))
        assert one_sentence(error)
    assert sample(velocity, x, t=(0.05, 1.0), method=ancestral(Polynomial(2.0))).isfinite().all()
    with pytest.raises(ValueError, match="the memoryless noise is infinite at t = 0"):
        sample(velocity, x, method=maruyama(velocity, CondOT().memoryless))
