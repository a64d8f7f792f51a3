"""Another schedule after training: against the exact path of that schedule, in all twelve pairs of four."""

import itertools

import mpmath
import pytest
import torch
from helpers import F64, SCHEDULES, Counted, in_60_digits, normal, one_sentence, skew_mixture
from torch import nn

from fmlib import likelihood, models, sample, sampling, solvers
from fmlib.exact import MixturePath
from fmlib.paths import reschedule
from fmlib.schedules import CondOT, Cosine, Polynomial, Schedule, VariancePreserving, change

PAIRS = list(itertools.permutations(SCHEDULES, 2))
every_pair = pytest.mark.parametrize(
    "old, new", PAIRS, ids=[f"{type(a).__name__}-{type(b).__name__}" for a, b in PAIRS]
)
INSIDE = [0.001, 0.03, 0.2, 0.5, 0.8, 0.97, 0.999]


@every_pair
def test_it_is_the_velocity_of_the_new_path(old, new):
    mixture, x = skew_mixture(), 1.5 * normal(7, 2)
    velocity, truth = reschedule(MixturePath(mixture, old).velocity, old, new), MixturePath(mixture, new).velocity
    for r in INSIDE:
        for time in (r, torch.tensor(r, dtype=F64), torch.full((7,), r, dtype=F64)):
            torch.testing.assert_close(velocity(x, time), truth(x, time), atol=1e-9, rtol=1e-9)
    rows = torch.tensor(INSIDE, dtype=F64)
    torch.testing.assert_close(velocity(x, rows), truth(x, rows), atol=1e-9, rtol=1e-9)


@every_pair
def test_at_the_ends_it_is_exact_or_says_that_it_has_no_limit(old, new):
    mixture, x = skew_mixture(), normal(5, 2)
    velocity, truth = reschedule(MixturePath(mixture, old).velocity, old, new), MixturePath(mixture, new).velocity
    # alpha'_0 = 0 in the old one stops the clock there, an infinite sigma'_1 in the new one lets it race
    for end, lost in [(0.0, isinstance(old, Polynomial)), (1.0, isinstance(new, VariancePreserving))]:
        if lost:
            with pytest.raises(
                ValueError, match=rf"no finite limit from {type(old).__name__}.* at t = {end:g}"
            ) as error:
                velocity(x, end)
            assert one_sentence(error)
        else:
            torch.testing.assert_close(velocity(x, end), truth(x, end), atol=1e-9, rtol=1e-9)
            both = torch.tensor([end, 0.5, 0.5, 0.5, end], dtype=F64)
            torch.testing.assert_close(velocity(x, both), truth(x, both), atol=1e-9, rtol=1e-9)


@every_pair
def test_time_and_scale_are_those_of_60_digits(old, new):
    r = torch.tensor([0.0, *INSIDE, 1.0], dtype=F64)
    t, s = change(old, new, r)
    assert t[0] == 0 and t[-1] == 1 and s[0] == 1 and s[-1] == 1 and (t.diff() > 0).all()
    (alpha, sigma), (new_alpha, new_sigma) = in_60_digits(old), in_60_digits(new)
    with mpmath.workdps(60):
        for here, time, scale in zip(r[1:-1].tolist(), t[1:-1].tolist(), s[1:-1].tolist(), strict=True):
            for ours, theirs in ((alpha, new_alpha), (sigma, new_sigma)):
                assert (
                    abs(scale * ours(mpmath.mpf(time)) / theirs(mpmath.mpf(here)) - 1) < 1e-10
                )  # t is rounded, and 1 - t small


def test_both_flows_have_one_end_and_a_scaled_way():
    exact, x_0 = MixturePath(skew_mixture()).velocity, normal(20, 2)
    changed = reschedule(exact, CondOT(), Cosine())
    ends = [sample(u, x_0, steps=200, method="rk4") for u in (exact, changed)]
    torch.testing.assert_close(*ends, atol=1e-7, rtol=0)
    t, s = change(CondOT(), Cosine(), torch.tensor(0.6, dtype=F64))
    middle = sample(changed, x_0, steps=100, method="rk4", t=(0.0, 0.6))
    there = sample(exact, x_0, steps=100, method="rk4", t=(0.0, t.item()))
    torch.testing.assert_close(middle, s * there, atol=1e-7, rtol=0)
    assert (middle - there).abs().max() > 0.1  # without s
    few = [sample(u, x_0, steps=4, method="euler") for u in (exact, changed)]
    assert (few[0] - few[1]).abs().max() > 0.05  # other errors on the way


def test_the_density_is_the_same():
    mixture = skew_mixture()
    changed = reschedule(MixturePath(mixture).velocity, CondOT(), Cosine())
    x = mixture.sample(6)
    found = likelihood.log_likelihood(changed, x, steps=200, method="midpoint")
    torch.testing.assert_close(found, mixture.log_density(x), atol=1e-3, rtol=0)


def label_network(dtype=torch.float32):
    torch.manual_seed(0)
    network = models.ResidualMLP(3, width=16, blocks=2, classes=4).to(dtype).eval()
    for p in network.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    return network


@every_pair
def test_a_network_by_derivatives_of_time_and_scale_that_autograd_takes(old, new):
    network, x, label = label_network(F64), normal(5, 3), torch.tensor([0, 3, 1, 1, 2])
    changed = reschedule(network, old, new)
    assert isinstance(changed, nn.Module) and sampling.is_rowwise_network(changed) and not changed.training
    for r in (0.05, 0.5, 0.9):
        r = torch.tensor(r, dtype=F64)
        (t, s), (d_t, d_s) = torch.func.jvp(lambda r: change(old, new, r), (r,), (torch.ones_like(r),))
        expected = d_s / s * x + s * d_t * network(x / s, t, label=label)
        torch.testing.assert_close(changed(x, r, label=label), expected, atol=1e-9, rtol=1e-9)
        assert not torch.allclose(changed(x, r, label=label.flip(0)), expected, atol=1e-3)


def test_sampling_a_changed_network_takes_rows_in_parts_and_keeps_labels():
    network, x_0, label = label_network(), normal(300, 3, dtype=torch.float32), torch.arange(300) % 4
    changed = reschedule(network, CondOT(), Cosine())
    whole, parts = (sample(changed, x_0, steps=3, chunk=chunk, label=label) for chunk in (None, 70))
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)
    assert whole.dtype == torch.float32 and not whole.is_inference()
    assert (whole - sample(network, x_0, steps=3, label=label)).abs().max() > 1e-3
    start = x_0.clone().requires_grad_()
    sample(changed, start, steps=2, differentiable=True, label=label).sum().backward()
    assert start.grad.abs().min() > 0


def test_one_call_of_the_network_and_none_at_the_end_for_midpoint():
    counted = Counted(MixturePath(skew_mixture()).velocity)
    sample(reschedule(counted, CondOT(), VariancePreserving()), normal(3, 2), steps=5)
    assert len(counted.times) == 10 and counted.times[0] == 0 and max(counted.times) < 1


def test_the_same_schedule_changes_nothing():
    network = label_network()
    assert reschedule(network, Cosine(), Cosine()) is network
    function = MixturePath(skew_mixture(), Polynomial(2.0)).velocity
    assert reschedule(function, Polynomial(2.0), Polynomial(2)) is function


def test_two_schedules_of_one_kind_at_the_end_where_both_race():
    a, b, x = VariancePreserving(), VariancePreserving(0.2, 5.0), normal(5, 2)
    changed, truth = reschedule(MixturePath(skew_mixture(), a).velocity, a, b), MixturePath(skew_mixture(), b).velocity
    for r in (0.0, 0.3, 1 - 1e-9, 1.0):
        torch.testing.assert_close(changed(x, r), truth(x, r), atol=1e-7, rtol=1e-7)


class Half(Schedule):
    def alpha(self, t):
        return t / 2

    def sigma(self, t):
        return 1 - t


class NoInverse(Schedule):
    def alpha(self, t):
        return t

    def sigma(self, t):
        return 1 - t


def zero(x, t):
    return torch.zeros_like(x)


def exact_map(x, t, s=None):
    """The average velocity of dx/dt = x, which jumps to e in one step; on another schedule it would jump elsewhere."""
    return x if s is None else x * torch.expm1(s - t) / (s - t)


R = torch.tensor([0.5])
BAD = {
    "ends": (lambda: reschedule(zero, CondOT(), Half()), ValueError, "alpha_1 = 0.5, but a schedule needs alpha_1 = 1"),
    "old ends": (lambda: change(Half(), CondOT(), R), ValueError, "alpha_1 = 0.5"),
    "no inverse": (lambda: reschedule(zero, NoInverse(), CondOT()), ValueError, "old must have inverse_log_snr"),
    "no schedule": (lambda: reschedule(zero, "cosine", CondOT()), TypeError, "old must be a schedule.*got 'cosine'"),
    "a class": (lambda: reschedule(zero, CondOT(), Cosine), TypeError, "new must be a schedule, .* got <class"),
    "whole numbers": (
        lambda: reschedule(lambda x, t: -x, CondOT(), Cosine())(torch.ones(3, 2, dtype=torch.int64), 0.5),
        TypeError,
        "x must have a floating dtype, got torch.int64",
    ),
    "a flow map": (
        lambda: sample(reschedule(exact_map, CondOT(), Cosine()), torch.ones(1, 2), method=solvers.flow_map, steps=1),
        ValueError,
        "not for flow maps, which have s= too",
    ),
    "no velocity": (lambda: reschedule(3, CondOT(), Cosine()), TypeError, "velocity must be a callable.*got int"),
    "late": (lambda: change(CondOT(), Cosine(), 3 * R), ValueError, r"r must lie in \[0, 1\], got 1.5"),
    "a number": (lambda: change(CondOT(), Cosine(), 0.5), TypeError, "r must be a torch.Tensor, got float"),
    "integers": (lambda: change(CondOT(), Cosine(), torch.tensor([1])), TypeError, "int64"),
    "column": (
        lambda: reschedule(zero, CondOT(), Cosine())(normal(3, 2), torch.zeros(3, 1)),
        ValueError,
        r"t must have shape \(\) or \(3,\)",
    ),
    "another shape": (
        lambda: reschedule(lambda x, t: x[:, :1], CondOT(), Cosine())(normal(3, 2), 0.5),
        ValueError,
        r"velocity must return a tensor of shape \(3, 2\), got \(3, 1\)",
    ),
}


@pytest.mark.parametrize("call, kind, message", BAD.values(), ids=BAD)
def test_bad_input(call, kind, message):
    with pytest.raises(kind, match=message) as error:
        call()
    assert one_sentence(error)


def test_the_sentence_reaches_who_samples_from_an_end_without_a_limit():
    changed = reschedule(MixturePath(skew_mixture(), Polynomial(3.0)).velocity, Polynomial(3.0), CondOT())
    with pytest.raises(ValueError, match="at t = 0: keep t away from it"):
        sample(changed, normal(3, 2), steps=4)
    assert sample(changed, normal(3, 2), steps=4, t=(1e-3, 1.0)).isfinite().all()
