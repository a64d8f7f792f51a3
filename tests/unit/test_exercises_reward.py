"""The exercises of notebook 11 that ask for code: what is said of a wrong answer, and what the truths are."""

import pytest
import torch
from helpers import answer_of, normal, seeded, skew_mixture

from fmlib.exact import MixturePath
from fmlib.exercises import reward as asked
from fmlib.laws import GaussianMixture


@pytest.mark.parametrize(
    "q, source, part",
    [
        (asked.tilted_weights, "lambda w, m, c, l: (w.log() + m @ l).softmax(0)", "forgets the spread"),
        (asked.tilted_weights, "lambda w, m, c, l: (w.log() + (m + c @ l) @ l).softmax(0)", "half the variance"),
        (asked.tilted_weights, "lambda w, m, c, l: w * 1", "do not change here"),
        (asked.tilted_weights, "lambda w, m, c, l: torch.ones_like(w) / len(w)", "expected is"),
        (asked.drift_to_velocity, "lambda b, s, x, t: b + x / t[:, None]", "Divide by 2"),
        (asked.drift_to_velocity, "lambda b, s, x, t: b * 1", "Without the noise this goes too far"),
        (asked.drift_to_velocity, "lambda b, s, x, t: (b - x / t[:, None]) / 2", "A sign is wrong"),
        (
            asked.adjoint_sweep,
            "lambda mean, points, a: torch.stack([torch.autograd.functional.vjp(lambda y: mean(y, k), x, a)[1] "
            "for k, x in enumerate(points[:-1])])",
            "It must be carried on",
        ),
        (asked.adjoint_sweep, "lambda mean, points, a: 0 * points[:-1]", "expected is"),
        (
            asked.policy_loss,
            "lambda x, m, o, s, r, e: (((x - o) ** 2 - (x - m) ** 2).sum(2) / 2 / s[..., 0] ** 2).exp()"
            ".mul((r.mean() - r) / r.std()).mean()",
            "Nothing is clipped",
        ),
        (asked.policy_loss, "lambda x, m, o, s, r, e: r.mean()", "expected is"),
    ],
)
def test_a_wrong_answer_is_known_however_it_is_written(q, source, part, capsys):
    assert part in q.check(eval(source)).message


# ---- the truths, against what is known in another way ----------------------------------------------------------------


def test_the_tilted_weights_are_shares_of_resampled_points():
    """Points of the mixture, each counted e^r times: which component did they come from?"""
    law, slope, n = skew_mixture(), torch.tensor([0.5, -0.4], dtype=torch.float64), 200_000
    scale = torch.tensor([3.0, 1.0, 0.3], dtype=torch.float64)[:, None, None]
    law = GaussianMixture(law.weights, law.means, scale * law.covariances)
    component = torch.multinomial(law.weights, n, replacement=True, generator=seeded())
    root = torch.linalg.cholesky(law.covariances)[component]
    x = law.means[component] + (root @ normal(n, 2)[..., None])[..., 0]
    counted = (x @ slope).exp()
    shares = torch.stack([counted[component == k].sum() for k in range(len(law.weights))]) / counted.sum()
    expected = asked.tilted_weights.truth(law.weights, law.means, law.covariances, slope)
    torch.testing.assert_close(shares, expected, rtol=0, atol=4 * 1.5 / n**0.5)
    naive = asked.tilted_weights.wrongs[0].answer(law.weights, law.means, law.covariances, slope)
    assert (naive - expected).abs().max() > 8 / n**0.5


def test_the_velocity_of_a_tilted_law_comes_out_of_its_drift():
    """With memoryless noise its drift is u + (1 - t) / t score, of the tilted law, both in closed form."""
    law = skew_mixture()
    base, tuned = (MixturePath(p) for p in (law, law.tilt(torch.tensor([0.7, 0.3], dtype=torch.float64))[0]))
    x, t = normal(8, 2), torch.linspace(0.2, 0.9, 8, dtype=torch.float64)
    eta = ((1 - t) / t)[:, None]
    drift = tuned.velocity(x, t) + eta * tuned.score(x, t)
    made = answer_of(asked.drift_to_velocity.reference)(drift, base.score(x, t), x, t)
    torch.testing.assert_close(made, tuned.velocity(x, t))
    given = answer_of(asked.drift_to_velocity.given)
    before = base.velocity(x, t) + eta * base.score(x, t)  # the bug is not seen before fine-tuning
    torch.testing.assert_close(given(before, base.score(x, t), x, t), base.velocity(x, t))
    twice = given(drift, base.score(x, t), x, t) - base.velocity(x, t)
    torch.testing.assert_close(twice, 2 * (tuned.velocity(x, t) - base.velocity(x, t)))


def test_the_adjoints_are_slopes_of_what_becomes_of_the_end():
    """Without noise the points follow the means: the adjoint at k is the slope of a.x_K in x_k, by differences."""
    mean, x, a = asked._StepMean(), normal(4, 3), normal(4, 3, seed=1)

    def run(x, start):
        points = [x]
        for k in range(start, 4):
            points.append(mean(points[-1], k))
        return torch.stack(points)

    points = run(x, 0)
    made = answer_of(asked.adjoint_sweep.reference)(mean, points, a)
    assert made.shape == (4, 4, 3)
    for k in range(4):
        for i in range(3):
            step = 1e-6 * torch.eye(3, dtype=torch.float64)[i]
            ends = [run(points[k] + sign * step, k)[-1] for sign in (1, -1)]
            slope = ((ends[0] - ends[1]) * a).sum(1) / 2e-6
            torch.testing.assert_close(made[k, :, i], slope, rtol=1e-6, atol=1e-7)


def test_the_loss_is_the_policy_gradient_where_both_policies_are_one():
    """There its gradient in the mean is that of -advantage * log pi; and far away nothing is left to gain."""
    after, _, old, std, reward, clip = asked._groups(seeded())[2]
    new = old.clone().requires_grad_()
    loss = asked.policy_loss.truth(after, new, old, std, reward, clip)
    (made,) = torch.autograd.grad(loss, new)
    advantage = (reward - reward.mean()) / reward.std()
    plain = -advantage[:, None] * (after - old) / std**2 / (len(old) * len(reward))
    torch.testing.assert_close(made, plain)
    assert abs(loss.item()) < 1e-12  # the advantages sum to zero
    far = torch.where(advantage[:, None] > 0, after, 2 * old - after).requires_grad_()
    (left,) = torch.autograd.grad(asked.policy_loss.truth(after, far, old, std, reward, clip), far)
    outside = ((after - old) / std).square().sum(2) > 1  # ratios above exp(1/2), or below exp(-3/2)
    assert outside.float().mean() > 0.5 and left[outside].abs().max() < 1e-12


def test_the_code_as_given_is_open(capsys):
    assert asked.drift_to_velocity.check(answer_of(asked.drift_to_velocity.given)).kind == "not attempted"


@pytest.mark.parametrize("c, share", [(0.5, 4 / 3), (1.0, 1.0), (2.0, 2 / 3)])
def test_the_options_of_the_predictions_against_integrals(c, share):
    """2 c / (1 + c) times the integral of y^(c - 1), and what a tilt does to a Gaussian given its start."""
    y = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    assert (2 * c / (1 + c) * y.pow(c - 1).mean()).item() == pytest.approx(share, rel=2e-3)
    assert asked.twice_the_noise.right == "b" and asked.share_of_shift.right == "c"


def test_the_share_of_the_shift_by_resampling_each_start():
    """Pairs with correlation a half: given the start, ends are drawn again with weights e^(lambda x)."""
    n, rho = 4000, 0.5
    start = normal(n, 1)
    ends = rho * start + (1 - rho**2) ** 0.5 * normal(n, 256, seed=1)
    kept = ends.gather(1, torch.multinomial((0.5 * ends).softmax(1), 1, generator=seeded(2)))
    shift = (kept.mean() - rho * start.mean()) / 0.5
    assert abs(shift.item() - 0.75) < 4 * (0.75 / n) ** 0.5 / 0.5 + 0.01
