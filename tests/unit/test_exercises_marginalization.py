"""The coding exercises of notebook 2: their truths against brute force, and what other answers are told."""

import pytest
import torch
from helpers import answer_of
from torch.distributions import MultivariateNormal

from fmlib.exercises import marginalization

weights, velocity, bug = (
    getattr(marginalization, name) for name in ("posterior_weights", "marginal_velocity", "other_points")
)
CODING = (weights, velocity, bug)


def cases(q) -> list[tuple]:
    return q.cases(torch.Generator().manual_seed(7))


def bayes(x, data, t):
    """Prior times likelihood over evidence, one point after the other."""
    rows = []
    for point, time in zip(x, t, strict=True):
        eye = torch.eye(len(point), dtype=x.dtype)
        joint = MultivariateNormal(time * data, (1 - time) ** 2 * eye).log_prob(point)
        rows.append((joint - joint.logsumexp(0)).exp())
    return torch.stack(rows)


# ---- the truths ------------------------------------------------------------------------------------------------------


def test_the_weights_are_those_of_bayes():
    for case in cases(weights):
        assert torch.allclose(weights.truth(*case), bayes(*case), rtol=1e-9, atol=1e-12)


def test_the_velocity_is_the_mean_of_the_conditional_ones():
    for x, data, t, w in cases(velocity):
        assert torch.allclose(w.sum(1), torch.ones(len(x)).double())
        for row, point in enumerate(x):
            mean = sum(w[row, i] * (data[i] - point) / (1 - t[row]) for i in range(len(data)))
            assert torch.allclose(velocity.truth(x, data, t, w)[row], mean)


def test_the_mended_code_is_both_together():
    for x, data, t in cases(bug):
        assert torch.allclose(bug.truth(x, data, t), velocity.truth(x, data, t, bayes(x, data, t)))


def test_the_bug_does_what_the_question_says():
    buggy, (x, data, t) = answer_of(bug.given), cases(bug)[1]
    assert buggy(x, data, t).shape == x.shape
    assert not torch.allclose(buggy(x, data, t)[:2], buggy(x[:2], data, t[:2]))
    mended = answer_of(bug.reference)
    assert torch.allclose(mended(x, data, t)[:2], mended(x[:2], data, t[:2]))


@pytest.mark.parametrize("q", CODING, ids=lambda q: q.key)
def test_cases_are_fixed_and_random_and_of_several_shapes(q):
    first, second = q.cases(torch.Generator().manual_seed(1)), cases(q)
    assert len({tuple(case[0].shape) for case in first}) >= 4
    assert torch.equal(first[0][0], second[0][0]) and not torch.equal(first[1][0], second[1][0])
    assert any(len(case[0]) == 1 for case in first)


def test_near_the_end_the_plain_exponentials_vanish_in_a_case():
    x, data, t = cases(weights)[-1]
    squared = (x[:, None] - t[:, None, None] * data).square().sum(-1)
    assert (torch.exp(-squared / (2 * (1 - t[:, None]) ** 2)).sum(1) == 0).any()


# ---- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "q, source, part",
    [
        (weights, "w = torch.cdist(x, data).square() / (2 * (1 - t[:, None]) ** 2)\n"
                  "    return (-w).softmax(1)", "lie around"),
        (weights, "w = [(a - s * data).norm(dim=1) ** 2 / (1 - s) for a, s in zip(x, t)]\n"
                  "    return (-torch.stack(w) / 2).softmax(-1)", "standard deviation"),
        (weights, "s = (1 - t)[:, None]\n    z = (x[:, None] - t[:, None, None] * data).norm(dim=-1) / s\n"
                  "    w = (-z**2 / 2).exp()\n    return w / w.sum(1, keepdim=True)", "all exponentials vanish"),
        (weights, "return torch.ones(len(x), len(data), dtype=x.dtype) / len(data)", "before you look"),
        (velocity, "return (data.mean(0) - x) / (1 - t)[:, None]", "same weight"),
        (velocity, "return weights @ data - x", "time that is left"),
        (velocity, "return (x - weights @ data) / (1 - t)[:, None]", "leads away from the data"),
        (velocity, "return weights @ data", "place where the velocity aims"),
        (velocity, "return (weights @ data) / (1 - t)[:, None]", "forget where you are"),
        (velocity, "return (weights @ data - t[:, None] * x) / (1 - t)[:, None]", "a t at the x"),
        (velocity, "return (data[weights.argmax(1)] - x) / (1 - t)[:, None]", "likeliest data point alone"),
        (bug, "w = torch.stack([-(a - s * data).square().sum(1) / (2 * (1 - s) ** 2) for a, s in zip(x, t)])\n"
              "    return (w.softmax(dim=0) @ data - x) / (1 - t)[:, None]", "still depends on the other points"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_known_however_it_is_written(q, source, part):
    outcome = q.check(answer_of(f"def answer({', '.join(q.arguments)}):\n    {source}"))
    assert outcome.kind == "wrong" and part in outcome.message, outcome.message


def test_a_right_idea_without_a_column_is_told_about_the_shape():
    source = "def answer(x, data, t, weights):\n    return (weights @ data - x) / (1 - t)"
    assert "t[:, None]" in velocity.check(answer_of(source)).message
