"""The exercises of notebook 3 that ask for code: what their checkers compare with, and other ways to write answers."""

import pytest
import torch
from helpers import answer_of

from fmlib import losses
from fmlib.exercises import bregman

divergence, conditional, twice = bregman.divergence, bregman.conditional_loss, bregman.sigmoid_twice


@pytest.mark.parametrize("phi", bregman.SLOPES, ids=repr)
def test_the_slopes_are_those_of_the_potentials(phi):
    x = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.1
    slope = torch.autograd.functional.jacobian(lambda x: phi(x).sum(), x)
    assert torch.allclose(bregman.SLOPES[phi](x), slope, rtol=1e-13)


def test_the_divergence_of_the_entropy_is_kl():
    u, v = torch.rand(2, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 0.1
    answer = answer_of(divergence.reference)
    assert torch.allclose(
        answer(bregman._entropy, u, v), losses.generalised_kl(u, v, "none").double(), rtol=1e-9, atol=1e-12
    )
    assert answer(bregman._quartic, torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 1.0]])).item() == 14


@pytest.mark.parametrize(
    "q, source, part",
    [
        (divergence, "lambda p, u, v: losses.Bregman(p)(v, u, 'none')", "with the arguments swapped"),
        (divergence, "lambda p, u, v: losses.Bregman(p)(u, v)", "and shape (1,) is expected"),
        (divergence, "lambda p, u, v: losses.Bregman(p)(u, v, 'none').detach()", "cut off from v"),
        (divergence, "lambda p, u, v: p(u).sub(p(v))", "difference of two heights"),
        (conditional, "lambda D, n, a, b, t: D(n(torch.lerp(a, b, t[:, None]), t), b).mean()", "D are swapped"),
        (conditional, "lambda D, n, a, b, t: D(b, n(torch.lerp(b, a, t[:, None]), t)).mean()", "$t$ and $1-t$"),
        (conditional, "lambda D, n, a, b, t: D(b - a, n(torch.lerp(a, b, t[:, None]), t)).mean()", "is the velocity"),
        (
            twice,
            "lambda n, a, b, t: losses.logistic(b / 2 + 0.5, n(torch.lerp(a, b, t[:, None]), t))",
            "On random input you return",
        ),
    ],
)
def test_a_wrong_answer_is_known_however_it_is_written(q, source, part, capsys):
    answer = eval(source, {"torch": torch, "losses": losses})
    outcome = q.check(answer)
    assert outcome.kind == "wrong" and part in outcome.message, outcome.message


def least(loss, low=-6.0, high=6.0) -> float:
    """The minimiser of a convex function of one number, by ternary search."""
    for _ in range(80):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return low


def test_the_loss_is_least_at_the_conditional_mean_and_the_swapped_one_is_not():
    y = torch.tensor([[0.2], [0.3], [1.0], [2.5]], dtype=torch.float64)
    zero, half = torch.zeros_like(y), torch.full((4,), 0.5, dtype=torch.float64)

    def found(answer) -> float:
        D = bregman._exponential_divergence
        return least(lambda v: answer(D, lambda x, t: torch.full_like(x, v), zero, y, half).item())

    assert found(answer_of(conditional.reference)) == pytest.approx(y.mean().item(), abs=1e-6)
    assert found(conditional.wrongs[0].answer) == pytest.approx(y.exp().mean().log().item(), abs=1e-6)


@pytest.mark.parametrize("m, cut", [(0.1, 0.0), (0.55, 0.2006707), (0.9, 1.0)])
def test_two_sigmoids_find_the_logit_cut_to_the_unit_interval(m, cut):
    x_1, zero = torch.tensor([[2 * m - 1]], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    t = torch.zeros(1, dtype=torch.float64)

    def found(source: str) -> float:
        answer = answer_of(source)
        z = least(lambda z: answer(lambda x, t: torch.full_like(x, z), zero, x_1, t).item(), -30, 30)
        return torch.tensor(z).sigmoid().item()

    assert found(twice.given) == pytest.approx(cut, abs=1e-4)
    assert found(twice.reference) == pytest.approx(m, abs=1e-4)
