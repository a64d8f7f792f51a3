"""The exercises of notebook 12 that ask for code: what is said of a wrong answer, and what the truths are."""

import pytest
import torch
from helpers import answer_of, line_mixture, normal, seeded

from fmlib import losses
from fmlib.exact import MixturePath, jump_rates
from fmlib.exercises import generators as asked


@pytest.mark.parametrize(
    "q, source, part",
    [
        (
            asked.generator_of_sum,
            "lambda f, x, u, g, r, y: u * torch.func.vmap(torch.func.grad(f))(x) + r * (f(y).mean(1) - f(x))",
            "The diffusion is missing",
        ),
        (
            asked.generator_of_sum,
            "lambda f, x, u, g, r, y: (u * torch.func.vmap(torch.func.grad(f))(x) + g**2 / 2 * "
            "torch.func.vmap(torch.func.grad(torch.func.grad(f)))(x) + r * f(y).mean(1))",
            "$f(x)$ goes",
        ),
        (asked.generator_of_sum, "lambda f, x, u, g, r, y: f(x)", "expected is"),
        (
            asked.smallest_rates,
            "lambda p, dp: torch.outer(dp.relu() / dp.relu().sum(), (-dp).relu() / p)",
            "The diagonal is missing",
        ),
        (
            asked.smallest_rates,
            "lambda p, dp: (lambda Q: Q - Q.sum(0).diag())(torch.outer(dp.relu(), (-dp).relu() / p))",
            "expected is",
        ),
        (asked.smallest_rates, "lambda p, dp: torch.outer(p, dp / p)", "expected is"),
        (
            asked.marginal_noise,
            "lambda w, u, s, g: torch.stack([(w * (u + g**2 / 2 * s)).sum(1), w @ g**2])",
            "is its root",
        ),
        (
            asked.marginal_noise,
            "lambda w, u, s, g: torch.stack([(w * u).sum(1), (w @ g**2) ** 0.5])",
            "lost the scores",
        ),
        (
            asked.loss_of_rates,
            "lambda q, a, b: a.exp() - (q * (a[:, None] + b)).sum(1)",
            "it trains as well",
        ),
        (
            asked.loss_of_rates,
            "lambda q, a, b: torch.nan_to_num(q * (q.log() - a[:, None] - b)).sum(1)",
            "infinite rate",
        ),
        (asked.loss_of_rates, "lambda q, a, b: a * 0", "expected is"),
    ],
)
def test_a_wrong_answer_is_known_however_it_is_written(q, source, part, capsys):
    assert part in q.check(eval(source)).message


# ---- the truths, against what is known in another way ----------------------------------------------------------------


def test_the_generator_is_the_slope_of_the_mean_of_a_short_time():
    """By Gauss-Hermite-like sums over the kernel of one short step, and a difference in h of order 2."""
    f, x, u, g, rate, landings = asked._processes(seeded())[0]
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    weights = (-(z**2) / 2).softmax(0)

    def mean(h):
        moved = f(x[:, None] + h * u[:, None] + h**0.5 * g[:, None] * z) @ weights
        return (1 - h * rate) * moved + h * rate * f(landings).mean(1)

    h = 1e-4
    slope = (4 * mean(h) - mean(2 * h) - 3 * f(x)) / (2 * h)
    torch.testing.assert_close(asked.generator_of_sum.truth(f, x, u, g, rate, landings), slope, rtol=0, atol=1e-5)


def test_the_smallest_rates_are_those_of_the_library():
    path, grid = MixturePath(line_mixture()), torch.linspace(-3, 3, 25, dtype=torch.float64)[:, None]

    def p(t):
        return path.log_density(grid, t).softmax(0)

    dp = torch.func.jvp(p, (torch.tensor(0.4, dtype=torch.float64),), (torch.ones((), dtype=torch.float64),))[1]
    Q = answer_of(asked.smallest_rates.reference)(p(0.4), dp)
    torch.testing.assert_close(Q, jump_rates(path.log_density, grid, 0.4), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(Q @ p(0.4), dp)


def test_the_marginal_noise_by_simulation():
    """One data point is drawn with the posterior, then one short step of its diffusion: mean and variance over h."""
    weights, u, score, g = asked._mixtures(seeded())[0]
    n, h = 200_000, 1e-3
    for k in range(2):
        i = torch.multinomial(weights[k], n, replacement=True, generator=seeded(k))
        step = h**0.5 * g[i] * normal(n, seed=k + 10)  # the drift's part of the variance is of the order h^2
        drift, noise = asked.marginal_noise.truth(weights, u, score, g)[:, k]
        assert abs(step.square().mean() / h - noise**2) < 4 * step.square().std() / h / n**0.5
        assert abs((weights[k] @ g) ** 2 - noise**2) > 8 * step.square().std() / h / n**0.5
        each = u[k, i] + g[i] ** 2 / 2 * score[k, i]
        assert abs(each.mean() - drift) < 4 * each.std() / n**0.5


def test_the_bug_is_not_seen_where_all_noises_are_equal():
    weights, u, score, g = asked._mixtures(seeded())[1]
    given, right = (answer_of(source) for source in (asked.marginal_noise.given, asked.marginal_noise.reference))
    torch.testing.assert_close(given(weights, u, score, 0 * g + 1.3), right(weights, u, score, 0 * g + 1.3))
    assert (given(weights, u, score, g) - right(weights, u, score, g))[1].max() < -0.01  # too narrow


def test_the_loss_is_the_generalised_divergence_of_the_library():
    for rate, log_rate, log_land in asked._rates(seeded(3)):
        made = (log_rate[:, None] + log_land).exp()
        expected = losses.generalised_kl(rate, made, reduction="none")
        torch.testing.assert_close(answer_of(asked.loss_of_rates.reference)(rate, log_rate, log_land), expected)


def test_the_code_as_given_is_open(capsys):
    assert asked.marginal_noise.check(answer_of(asked.marginal_noise.given)).kind == "not attempted"


def test_the_options_of_the_predictions():
    assert asked.small_steps.right == "b" and asked.absolute_error.right == "c"
    a, g, n = 1.5, 0.8, 2000  # dX = -a X dt + g dW at 1, f = sin 2x + 0.3 x^2: the mean squared error by its two parts
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    weights, one = (-(z**2) / 2).softmax(0), torch.ones((), dtype=torch.float64)

    def f(x):
        return (2 * x).sin() + 0.3 * x**2

    slope, curve = torch.func.jvp(lambda y: torch.func.jvp(f, (y,), (one,))[1], (one,), (one,))
    errors = []
    for h in torch.tensor([1e-4, 1e-2, 1.0], dtype=torch.float64):
        change = (f((-a * h).exp() + (g**2 * -torch.expm1(-2 * a * h) / (2 * a)).sqrt() * z) - f(one)) / h
        mean = change @ weights
        errors.append((mean + a * slope - g**2 / 2 * curve) ** 2 + ((change - mean) ** 2 @ weights) / n)
    assert errors[1] < errors[0] / 4 and errors[1] < errors[2] / 4
