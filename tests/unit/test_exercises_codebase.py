"""The exercises of notebook 14 that ask for code: what is said of a wrong answer, and what the truths are."""

import copy

import pytest
import torch
from helpers import F64, answer_of, normal, seeded
from torch.utils.flop_counter import FlopCounterMode

from fmlib import exact, fit, laws, likelihood, models
from fmlib.exercises import codebase as asked


@pytest.mark.parametrize(
    "q, source, part",
    [
        (asked.average, "lambda w, d: w.cumsum(0) / torch.arange(1, len(w) + 1)[:, None].to(w)", "plain mean"),
        (asked.average, "lambda w, d: w * 1", "expected is"),
        (asked.average, "lambda w, d: w[1:]", "is expected"),
        (asked.bits, "lambda k, u, p: -p((k + u) / 8 - 1) / k.shape[1] / 0.6931471805599453", "One level is"),
        (asked.bits, "lambda k, u, p: 3 - p(k / 8 - 1 + 0 * u) / k.shape[1] / 0.6931471805599453", "noise is missing"),
        (asked.bits, "lambda k, u, p: p((k + u) / 8 - 1)", "expected is"),
        (asked.hours, "lambda f, n, e, s, a, g: 2 * f * n * e / (s * a * g) / 3600", "still to be paid"),
        (asked.hours, "lambda f, n, e, s, a, g: f / f", "expected is"),
    ],
)
def test_a_wrong_answer_is_known_however_it_is_written(q, source, part, capsys):
    assert part in q.check(eval(source)).message


# ---- the truths, against what is known in another way ----------------------------------------------------------------


def test_the_average_is_that_of_fit():
    """The weights of every step of a real training, averaged, are those that `fit` returns."""
    network, trace = models.MLP(dim=2, width=8), []
    start = network.enter.weight if hasattr(network, "enter") else next(network.parameters())
    trace.append(start.detach().flatten().clone())
    watch = lambda done, averaged: trace.append(start.detach().flatten().clone())  # noqa: E731
    model = fit(network, normal(50, 2).float(), steps=40, ema=0.7, on_step=watch, progress=False).model
    found = asked.average.truth(torch.stack(trace), 0.7)
    assert found.shape == (41, start.numel()) and torch.equal(found[0], trace[0])
    torch.testing.assert_close(found[-1], next(model.parameters()).flatten())
    assert (found[-1] - trace[-1]).abs().max() > 1e-4
    plain = answer_of(asked.average.wrongs[0].source)(torch.stack(trace), 0.7)
    assert (plain[1] - found[1]).abs().max() > 1e-4


def test_the_bits_of_a_law_that_is_known():
    """A uniform density on [-1, 9/8] is 17 equal levels: log2 17 bits. And a Gaussian's entropy, by its formula."""
    flat = lambda x: torch.full((len(x),), -6 * torch.tensor(17 / 8).log().item(), dtype=F64)  # noqa: E731
    levels, noise = torch.randint(17, (5, 6), generator=seeded()), torch.rand(5, 6, generator=seeded(), dtype=F64)
    expected = torch.full((5,), 17.0, dtype=F64).log2()
    torch.testing.assert_close(asked.bits.truth(levels, noise, flat), expected)
    flow = exact.MixturePath(laws.GaussianMixture.isotropic(torch.zeros(1, 6, dtype=F64), 0.5))
    density = lambda x: flow.log_density(x, 1.0)  # noqa: E731
    x = (levels + noise) / 8 - 1
    torch.testing.assert_close(
        asked.bits.truth(levels, noise, density), likelihood.bits_per_dimension(density(x), 6, levels=8)
    )


def test_a_step_is_three_forward_passes():
    """Counted by torch on a network of two wide layers, whose input needs no gradient: a little less than three."""
    network, x = models.ResidualMLP(32, 256, 4), torch.randn(8, 32)
    counts = []
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter:
            value = copy.deepcopy(network)(x, torch.rand(8)).square().mean()
            if backward:
                value.backward()
        counts.append(counter.get_total_flops())
    assert counts[1] / counts[0] == pytest.approx(3, abs=0.1)
    hours = asked.hours.truth(torch.tensor([3.6e12 / 3], dtype=F64), 100, 10, 1e12, 0.5, torch.tensor([2.0]))
    assert hours.item() == pytest.approx(1.0)  # 3.6e15 operations at 1e12 a second


def test_the_code_as_given_is_open(capsys):
    assert asked.hours.check(answer_of(asked.hours.given)).kind == "not attempted"


def test_the_answers_of_the_predictions():
    assert (asked.must_hold.right, asked.bits_of_two.right, asked.two_steps.right) == ("c", "b", "c")
