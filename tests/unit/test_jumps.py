"""Rates of jumps on a grid, and the step that jumps, against matrix exponentials and laws known in closed form."""

import math

import pytest
import torch
from helpers import F64, line_mixture, normal, one_sentence, seeded
from scipy.stats import binom, chisquare, poisson

from fmlib import solvers
from fmlib.exact import DataPath, MixturePath, jump_rates
from fmlib.laws import GaussianMixture
from fmlib.sampling import sample
from fmlib.solvers import jumping, maruyama

GRID = torch.linspace(-5, 5, 101, dtype=F64)[:, None]


def still(x, t):
    return torch.zeros_like(x)


def on_grid(path, t):
    return path.log_density(GRID, t).softmax(0)


# ---- jump_rates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8, 1.0])
def test_the_rates_move_the_law_as_it_moves(t):
    """Q p against differences of p in time, of order 2; columns sum to 0, and off the diagonal none is negative."""
    path = MixturePath(line_mixture())
    Q, h = jump_rates(path.log_density, GRID, t), 1e-5 if t < 0.5 else -1e-5
    first, second, third = (on_grid(path, t + k * h) for k in range(3))
    moves = (4 * second - 3 * first - third) / (2 * h)
    torch.testing.assert_close(Q @ first, moves, rtol=0, atol=1e-8)
    assert moves.abs().max() > 5e-3
    assert Q.sum(0).abs().max() < 1e-12 * Q.abs().max()
    assert (Q - Q.diag().diag()).min() >= 0 and Q.dtype == F64


def test_no_other_rates_make_fewer_jumps():
    """Half the summed change is the least that jumps can do; the average of the rates of two components does more."""
    path = MixturePath(line_mixture())
    p, Q = on_grid(path, 0.5), jump_rates(path.log_density, GRID, 0.5)
    least = (on_grid(path, 0.5 + 1e-6) - on_grid(path, 0.5 - 1e-6)).abs().sum() / 2e-6 / 2
    assert (-Q.diagonal() @ p).item() == pytest.approx(least.item(), rel=1e-6)
    means, stds = line_mixture().means, line_mixture().covariances[:, 0, 0].sqrt()
    parts = [MixturePath(GaussianMixture.isotropic(means[[k]], stds[k].item())) for k in (0, 1)]
    weights = path.posterior(GRID, 0.5).T
    average = sum(w * jump_rates(part.log_density, GRID, 0.5) for w, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(average @ p, Q @ p, rtol=0, atol=1e-6)  # it moves p alike
    assert -average.diagonal() @ p > 1.02 * least


def test_the_rates_carry_the_law_through_time():
    """A product of matrix exponentials at the middles of 200 short times, from p at 0.1 to p at 0.9."""
    path, p, h = MixturePath(line_mixture()), on_grid(MixturePath(line_mixture()), 0.1), 0.8 / 200
    for k in range(200):
        p = torch.linalg.matrix_exp(h * jump_rates(path.log_density, GRID, 0.1 + (k + 0.5) * h)) @ p
    assert (p - on_grid(path, 0.9)).abs().sum() < 1e-3
    assert (on_grid(path, 0.1) - on_grid(path, 0.9)).abs().sum() > 0.5


def test_rates_of_two_and_of_three_states_by_hand():
    """p = (1 - t, t) / 1: the first leaves at 1 / (1 - t). Three states: the middle one falls, the others share."""
    two = jump_rates(lambda x, t: torch.stack([1 - t, t]).log(), torch.zeros(2, 1, dtype=F64), 0.75)
    torch.testing.assert_close(two, torch.tensor([[-4.0, 0], [4, 0]], dtype=F64))

    def three(x, t):
        return torch.stack([1 + t, 7 - 4 * t, 2 + 3 * t]).log()  # sums to 10: rises by 1 and 3, falls by 4

    wanted = torch.tensor([[0, 1.0, 0], [0, -4, 0], [0, 3, 0]], dtype=F64) / 5
    torch.testing.assert_close(jump_rates(three, torch.zeros(3, 2, dtype=F64), torch.tensor(0.5)), wanted)
    shifted = jump_rates(lambda x, t: three(x, t) + 5 * t, torch.zeros(3, 2, dtype=F64), 0.5)  # a factor e^{5t}
    torch.testing.assert_close(shifted, wanted)


def test_rates_far_out_are_those_of_the_logarithm():
    """At x = 30 p underflows; the rate of N(0, 1) -> N(0, s^2) is still -d/dt log p, by hand."""
    grid = torch.tensor([[-30.0], [-1], [0], [1], [30]], dtype=F64)
    Q = jump_rates(lambda x, t: -(x[:, 0] ** 2) / 2 / (1 - t / 2) ** 2, grid, 0.0)
    p = (-(grid[:, 0] ** 2) / 2).exp()
    mean = (p @ (-(grid[:, 0] ** 2) / 2)) / p.sum()  # of d/dt log p up to a constant, -x^2/2
    assert p[0] < 1e-190
    torch.testing.assert_close(-Q.diagonal()[0], 450 + mean)


def test_a_law_that_stays_has_no_jumps():
    Q = jump_rates(lambda x, t: -(x[:, 0] ** 2) + 0 * t, GRID.float(), 0.5)
    assert Q.abs().max() < 1e-12 and Q.dtype == torch.float32


BAD_RATES = {
    "no tensor": (lambda x, t: 0.0, torch.zeros(2, 1), 0.5, ValueError, r"must return shape \(2,\), got float"),
    "not finite": (lambda x, t: torch.where(x[:, 0] > 0, -math.inf, 0.0) + 0 * t, GRID, 0.5, ValueError, "50 of 101"),
    "explodes at t = 1": (lambda x, t: (1 - t).log() * x[:, 0] ** 2, GRID, 1.0, ValueError, "101 that are not, at t=1"),
    "a slope that explodes": (lambda x, t: (1 - t).sqrt() * x[:, 0], GRID, 1.0, ValueError, "at t=1"),
    "no density at t = 1": (DataPath(torch.ones(1, 1, dtype=F64)).log_density, GRID, 1.0, ValueError, "less than 1"),
    "wrong shape": (lambda x, t: x + 0 * t, GRID, 0.5, ValueError, r"shape \(101,\), got \(101, 1\)"),
    "two times": (lambda x, t: x[:, 0] * t, GRID, torch.full((101,), 0.5), ValueError, "one time for all points"),
    "late": (lambda x, t: x[:, 0] * t, GRID, 1.5, ValueError, r"in \[0, 1\], got 1.5"),
    "flat points": (lambda x, t: x * t, GRID[:, 0], 0.5, ValueError, "at least two axes"),
    "too many": (lambda x, t: x[:, 0] * t, torch.zeros(4097, 1), 0.5, ValueError, "at most 4096 .*, got 4097"),
}


@pytest.mark.parametrize("log_density, points, t, error, message", BAD_RATES.values(), ids=BAD_RATES)
def test_rates_refuse(log_density, points, t, error, message):
    with pytest.raises(error, match=message) as caught:
        jump_rates(log_density, points, t)
    assert one_sentence(caught)


# ---- jumping ---------------------------------------------------------------------------------------------------------


def test_a_chain_of_two_states_is_the_matrix_exponential():
    """Rates 3 from 0 to 1 and 1 back, all starting in 0; for two starts, at two times."""
    n, Q = 30_000, torch.tensor([[-3.0, 1], [3, -1]], dtype=F64)
    step = jumping(lambda x, t: torch.where(x[:, 0] == 0, 3.0, 1.0), lambda x, t: 1 - x, generator=seeded())
    times = torch.linspace(0, 0.5, 501, dtype=F64)
    for start in (0.0, 1.0):
        x = solvers.follow(step, still, torch.full((n, 1), start, dtype=F64), times, every=250)
        for k, t in ((1, 0.25), (2, 0.5)):
            expected = torch.linalg.matrix_exp(t * Q)[1, int(start)].item()
            error = (expected * (1 - expected) / n) ** 0.5
            assert abs(x[k].mean().item() - expected) < 4 * error + 1e-3  # and Euler's error, h times 1 at the most
            assert set(x[k].unique().tolist()) == {0.0, 1.0}


def test_one_long_step_jumps_with_the_probability_of_an_exponential_waiting_time():
    n, h = 400_000, 0.5
    step = jumping(lambda x, t: 3 + 0 * x[:, 0], lambda x, t: x + 1, generator=seeded(1))
    x = solvers.follow(step, still, torch.zeros(n, 1), torch.tensor([0.0, h]))
    assert abs(x.mean().item() - (1 - math.exp(-3 * h))) < 4 * 0.5 / n**0.5


def test_counts_of_pure_jumps_are_those_of_poisson():
    """lambda_t = 8 t adds up to 4: a chi-square against Poisson's law, and another rate that fails it."""
    n, times = 20_000, torch.linspace(0, 1, 801, dtype=F64)

    def p_value(factor):
        step = jumping(lambda x, t: factor * 8 * t + 0 * x[:, 0], lambda x, t: x + 1, generator=seeded(2))
        counts = solvers.follow(step, still, torch.zeros(n, 1, dtype=F64), times)[:, 0].long().clamp(max=10)
        law = torch.tensor([*poisson.pmf(range(10), 4), poisson.sf(9, 4)], dtype=F64)
        return chisquare(torch.bincount(counts, minlength=11).numpy(), n * law.numpy()).pvalue

    assert p_value(1.0) > 1e-3 > 1e-9 > p_value(1.1)


def test_few_long_steps_jump_at_most_once_each():
    n = 40_000
    step = jumping(lambda x, t: 2 + 0 * x[:, 0], lambda x, t: x + 1, generator=seeded(3))
    counts = solvers.follow(step, still, torch.zeros(n, 1), torch.linspace(0, 1, 4))[:, 0].long()
    law = binom.pmf(range(4), 3, 1 - math.exp(-2 / 3))
    assert chisquare(torch.bincount(counts, minlength=4).numpy(), n * law).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_sum_of_three_generators_has_the_moments_of_its_equation(share):
    """dX = -a X dt + g dW and jumps back to 3 at the rate r: d/dt E X = -a E X + r (3 - E X), and for E X^2 alike."""
    n, a, g, r, drift = 30_000, 1.5, 0.8, 2 * share, 1 - share
    move = maruyama(still, drift**0.5 * g, seeded(4))  # its score term vanishes: plain noise
    step = jumping(lambda x, t: r + 0 * x[:, 0], lambda x, t: 3 + 0 * x, move, seeded(5))
    x = sample(lambda x, t: -drift * a * x, torch.ones(n, 1, dtype=F64), steps=300, method=step)[:, 0]
    A = torch.tensor([[0, 0, 0], [3 * r, -drift * a - r, 0], [9 * r + drift * g**2, 0, -2 * drift * a - r]], dtype=F64)
    _, first, second = (torch.linalg.matrix_exp(A) @ torch.ones(3, dtype=F64)).tolist()  # d/dt (1, E X, E X^2)
    for value, expected in ((x, first), (x**2, second)):
        assert abs(value.mean().item() - expected) < 4 * value.std().item() / n**0.5 + 8e-3 * (1 + abs(expected))


def test_only_who_jumps_is_asked_to_land_and_conditions_go_along():
    """Rows with a label of 1 jump for sure, the others never; `land` sees their labels and no others."""
    seen = []

    def land(x, t, label, offset):
        seen.append((len(x), label.tolist()))
        return x + offset

    x, label = torch.arange(6.0)[:, None], torch.tensor([0, 1, 0, 1, 1, 0])
    step = jumping(lambda x, t, label, offset: 1e9 * label, land, generator=seeded())
    y = sample(
        lambda x, t, label, offset: 7 + 0 * x,
        x,
        steps=1,
        method=step,
        label=label,
        offset=100.0,
    )
    assert seen == [(3, [1, 1, 1])]
    torch.testing.assert_close(y - x, torch.where(label[:, None] == 1, 100.0, 7.0))


def test_without_jumps_it_is_the_method_and_generators_repeat():
    velocity, x, times = (lambda x, t: torch.sin(x) + t), normal(50, 2), torch.linspace(0, 1, 11, dtype=F64)
    for method in ("euler", "heun", solvers.midpoint):
        quiet = jumping(lambda x, t: 0 * x[:, 0], still, method)
        torch.testing.assert_close(
            solvers.follow(quiet, velocity, x, times), solvers.follow(solvers.solver_of(method), velocity, x, times)
        )
    one, two, other = (
        solvers.follow(jumping(lambda x, t: 5 + 0 * x[:, 0], still, generator=seeded(k)), velocity, x, times)
        for k in (0, 0, 1)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)
    with pytest.raises(ValueError, match="increase"):
        solvers.follow(jumping(lambda x, t: x[:, 0], still), velocity, x, times.flip(0))


def with_rate(value):
    return lambda x, t: torch.full((len(x),), value, dtype=x.dtype)


BAD_STEPS = {
    "negative": (with_rate(-0.5), still, ValueError, "at least 0 and finite, got -0.5 at t=0"),
    "NaN": (with_rate(math.nan), still, ValueError, "got nan"),
    "explodes": (lambda x, t: 1 / (t + 0 * x[:, 0]), still, ValueError, "got inf at t=0"),
    "rate (batch, 1)": (lambda x, t: 1 + 0 * x[:, :1], still, ValueError, r"shape \(4,\), got \(4, 1\)"),
    "rate of one number": (lambda x, t: 3.0, still, ValueError, "got float"),
    "landing of another shape": (with_rate(1e9), lambda x, t: x[:, :1], ValueError, "land must return a tensor like x"),
    "landing of all rows": (with_rate(1e9), lambda x, t: torch.zeros(5, 2, dtype=F64), ValueError, "like x"),
    "landing in float32": (with_rate(1e9), lambda x, t: x.float(), ValueError, "float64"),
    "landing of no tensor": (with_rate(1e9), lambda x, t: 0.0, TypeError, "land must return a tensor, got float"),
}


@pytest.mark.parametrize("rate, land, error, message", BAD_STEPS.values(), ids=BAD_STEPS)
def test_jumping_refuses(rate, land, error, message):
    with pytest.raises(error, match=message) as caught:
        sample(still, normal(4, 2), steps=2, method=jumping(rate, land))
    assert one_sentence(caught)


def test_jumping_refuses_what_is_no_function_or_no_fixed_step():
    with pytest.raises(TypeError, match="rate must be a callable"):
        jumping(1.0, still)
    with pytest.raises(TypeError, match="land must be a callable"):
        jumping(still, None)
    with pytest.raises(ValueError, match="fixed steps, got 'dopri5'"):
        jumping(still, still, "dopri5")
    with pytest.raises(ValueError, match="unknown method"):
        jumping(still, still, "leap")


def test_rates_that_explode_at_the_end_are_refused_there_and_fine_before():
    """Jumps of a bridge to a point, lambda = 1 / (1 - t): steps that begin at 1 have no rate, those before have."""
    step = jumping(lambda x, t: 1 / (1 - t) + 0 * x[:, 0], lambda x, t: torch.ones_like(x), generator=seeded())
    x = solvers.follow(step, still, torch.zeros(20_000, 1, dtype=F64), torch.linspace(0, 0.98, 1001, dtype=F64))
    assert abs(x.mean().item() - 0.98) < 4 * (0.02 * 0.98 / 20_000) ** 0.5 + 1e-3
    with pytest.raises(ValueError, match="got inf at t=1"):
        step(still, torch.zeros(2, 1), torch.tensor(1.0), torch.tensor(1.1))
