"""The exercises of notebook 9 that ask for code: what is said of a wrong answer does not hang on how it is written."""

import numpy as np
import pytest
import torch
from helpers import answer_of, skew_mixture
from scipy.integrate import solve_ivp

from fmlib.exact import MixturePath
from fmlib.exercises import faster
from fmlib.schedules import CondOT, Cosine


@pytest.mark.parametrize(
    "q, source, part",
    [
        (faster.rescheduled, "lambda u, x, t, dt, s, ds: ds * x / s + s * u(x / s, t)", "chain rule"),
        (faster.rescheduled, "lambda u, x, t, dt, s, ds: s * dt * u(x / s, t)", "growth of the scale is missing"),
        (faster.rescheduled, "lambda u, x, t, dt, s, ds: ds * x / s + s * dt * u(x, t)", "never seen the new path"),
        (faster.rescheduled, "lambda u, x, t, dt, s, ds: ds * x + s * dt * u(x / s, t)", "factor $1/s_r$"),
        (faster.two_parts, "lambda a, x, t, m, s: 0.5 * a(x, t, m) + 0.5 * a(x + (m - t)[:, None] * a(x, t, m), m, s)",
         "weigh each by its time"),
        (faster.two_parts, "lambda a, x, t, m, s: a(x, t, s)", "expected is"),
        (faster.wrong_average, "lambda a, x, n: x + a(x, 0.0, 1.0)", "expected is"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_known_however_it_is_written(q, source, part, capsys):
    assert part in q.check(eval(source)).message


# ---- the truths, against what is known in another way ----------------------------------------------------------------


def test_the_rescheduled_velocity_is_that_of_the_other_path():
    """From cond-OT to cosine by hand: t = sin / (sin + cos), s = sin + cos of pi r / 2; against the exact path."""
    mixture, r = skew_mixture(torch.float64), torch.tensor(0.37, dtype=torch.float64)
    angle, rate = torch.pi / 2 * r, torch.pi / 2
    scale, dscale = angle.sin() + angle.cos(), rate * (angle.cos() - angle.sin())
    t, dt = angle.sin() / scale, rate / scale**2
    x = torch.randn(30, 2, dtype=torch.float64)
    made = faster.rescheduled.truth(MixturePath(mixture, CondOT()).velocity, x, t, dt, scale, dscale)
    torch.testing.assert_close(made, MixturePath(mixture, Cosine()).velocity(x, r))


def test_joined_parts_are_scipys_average_velocity():
    """Of dx/dt = x + t, whose averages the exercise knows in closed form."""
    a = faster._Average()
    x, times = torch.randn(3, 2, dtype=torch.float64), torch.tensor([[0.1, 0.3, 0.9]], dtype=torch.float64)
    t, m, s = times.expand(3, 3).T
    made = faster.two_parts.truth(a, x, t, m, s).numpy()
    for row, start in zip(made, x.numpy(), strict=True):
        end = solve_ivp(lambda r, y: y + r, (0.1, 0.9), start, rtol=1e-10, atol=1e-12).y[:, -1]
        np.testing.assert_allclose(row, (end - start) / 0.8, atol=1e-8)


def test_many_jumps_of_exact_averages_are_one():
    a, x = faster._Average(), torch.randn(5, 2, dtype=torch.float64)
    for n in (1, 4):
        torch.testing.assert_close(faster.wrong_average.truth(a, x, n), x + a(x, 0.0, 1.0))


# ---- the code with a bug ---------------------------------------------------------------------------------------------


def test_one_step_does_not_show_the_bug_and_two_do():
    given, right = (answer_of(source) for source in (faster.wrong_average.given, faster.wrong_average.reference))
    a, x = faster._Average(), torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(given(a, x, 1), right(a, x, 1))
    assert (given(a, x, 2) - right(a, x, 2)).abs().max() > 0.1


def test_the_code_as_given_is_open(capsys):
    assert faster.wrong_average.check(answer_of(faster.wrong_average.given)).kind == "not attempted"
