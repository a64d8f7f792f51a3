"""The exercises of notebook 5 that ask for code: what is said of a wrong answer does not hang on how it is written."""

import pytest
import torch
from helpers import answer_of

from fmlib import exact, laws, schedules
from fmlib.exercises import gaussian


def changed(q, old: str, new: str) -> str:
    assert q.reference.count(old) == 1
    return q.reference.replace(old, new)


MIXTURE = laws.GaussianMixture.isotropic(
    torch.tensor([[-1.6, -0.6], [0.9, 1.4]]).double(), 0.5, torch.tensor([0.4, 0.6]).double()
)
SCHEDULES = [schedules.CondOT(), schedules.Cosine(), schedules.Polynomial(2.0), schedules.VariancePreserving()]


@pytest.mark.parametrize("s", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_conversion_asked_for_is_that_of_a_mixture_known_in_closed_form(s):
    truth, t = exact.MixturePath(MIXTURE, s), torch.linspace(0.05, 0.95, 20).double()
    x = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    made = answer_of(gaussian.from_velocity.reference)(truth.velocity(x, t), x, s, t)
    torch.testing.assert_close(made[0], truth.x_1(x, t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(made[1], truth.score(x, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("s", SCHEDULES, ids=lambda s: type(s).__name__)
def test_a_ddim_step_onto_one_point_is_exact_however_long(s):
    truth = exact.DataPath(torch.tensor([[1.0, -0.5]]).double(), s)
    x = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t, r = torch.tensor([0.3, 1.0], dtype=torch.float64)
    made = answer_of(gaussian.ddim_step.reference)(truth.velocity(x, 0.3), x, s, t, r)
    torch.testing.assert_close(made, truth.data.expand(20, -1), rtol=1e-9, atol=1e-9)


def test_the_sampler_put_right_follows_the_flow_and_the_one_given_does_not():
    s, times = SCHEDULES[0], torch.linspace(0.02, 1, 400).double()
    truth = exact.MixturePath(MIXTURE, s)
    x = truth.sample(2000, 0.02, torch.Generator().manual_seed(1))
    right, wrong = (
        answer_of(source)(truth.score, s, x, times) for source in (gaussian.lost_square.reference, gaussian._NO_SQUARE)
    )
    means = MIXTURE.weights @ MIXTURE.means
    second = (MIXTURE.weights @ MIXTURE.means.square()) + 0.25
    assert (right.mean(0) - means).abs().max() < 0.15 and (right.square().mean(0) - second).abs().max() < 0.25
    assert (wrong.square().mean(0) - second).abs().max() > 0.5


@pytest.mark.parametrize(
    "q, source, part",
    [
        (
            gaussian.from_velocity,
            "lambda u, x, s, t: torch.stack([x + (1 - t)[:, None] * u, (t[:, None] * u - x) / (1 - t)[:, None]])",
            "for no other schedule",
        ),
        (gaussian.from_velocity, "lambda u, x, s, t: torch.stack([x, u])", "The denoiser is not right"),
        (gaussian.from_velocity, "lambda u, x, s, t: torch.cat([x, u])", "shape (2, 6, 2) is expected"),
        (gaussian.from_velocity, "lambda u, x, s, t: x * s.alpha(t)", "Write t[:, None]"),
        (gaussian.lost_square, "lambda score, s, x, times: x", "expected is"),
        (gaussian.ddim_step, "lambda u, x, s, t, r: torch.lerp(x, x + u, r - t)", "for cond-OT only"),
        (gaussian.ddim_step, "lambda u, x, s, t, r: x * 1", "gives $x$ again"),
        (
            gaussian.ddim_step,
            "lambda u, x, s, t, r: s.sigma(r) * (x - t * u) + s.alpha(r) * (u + x - t * u)",
            "estimates are those of cond-OT",
        ),
    ],
)
def test_a_wrong_answer_is_known_however_it_is_written(q, source, part, capsys):
    assert part in q.check(eval(source)).message


@pytest.mark.parametrize(
    "old, new, part",
    [
        ("[x_1, score]", "[x_1.float(), score.float()]", "returns float32. Keep the dtype"),
        ("x_0 = (d_alpha", "x_0 = (x - alpha * x_1) / sigma + 0 * (d_alpha", ""),
        ("score = -x_0 / sigma", "score = (alpha * x_1 - x) / sigma**2", ""),
        ("score = -x_0 / sigma", "score = (x_1 - x / alpha) * alpha / sigma**2", "At $t=0$ your score is NaN"),
        ("score = -x_0 / sigma", "score = x_0 * float('nan')", "Your function returns NaN or infinity"),
    ],
)
def test_other_ways_to_convert(old, new, part, capsys):
    outcome = gaussian.from_velocity.check(answer_of(changed(gaussian.from_velocity, old, new)))
    assert part in outcome.message if part else outcome.kind == "correct"
