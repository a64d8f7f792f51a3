"""Guided velocities and labelled laws against closed forms, quadrature, counting and differences."""

import functools
import math

import numpy as np
import pytest
import torch
from helpers import F64, every_schedule, law, normal, one_sentence, seeded, skew_mixture
from scipy import integrate

from fmlib import AffinePath, exact, fit, guidance, likelihood, models, sampling
from fmlib import __main__ as cli
from fmlib.batches import Batch
from fmlib.laws import GaussianMixture, LabelledMixture
from fmlib.objectives import LabelDropout, VelocityMatching
from fmlib.paths import reschedule
from fmlib.schedules import CondOT, Cosine

M, S2 = 1.0, 0.5  # the Gaussian problem: X ~ N(0, 1) as a whole, N(M, S2) given the label 0


def gaussian(schedule=CondOT()):
    """u_t(x) under the label 1 and u_t(x | y) under the label 0, in closed form and without fmlib.exact."""

    def velocity(x, t, label):
        time = torch.as_tensor(t).to(x)
        a, b, da, db = (f(time) for f in (schedule.alpha, schedule.sigma, schedule.d_alpha, schedule.d_sigma))
        means, variances = torch.tensor([M, 0.0]).to(x)[label][:, None], torch.tensor([S2, 1.0]).to(x)[label][:, None]
        return da * means + (a * da * variances + b * db) / (a**2 * variances + b**2) * (x - a * means)

    return velocity


def moments(weight: float) -> tuple[float, float]:
    """Mean and variance of the guided Gaussian at t = 1: m w s^w times an integral over r = alpha / sigma, and s^2w."""

    def rate(r):
        return (1 + r**2) ** ((weight - 1) / 2) * (1 + r**2 * S2) ** (-weight / 2 - 1)

    return weight * M * S2 ** (weight / 2) * integrate.quad(rate, 0, math.inf)[0], S2**weight


def labelled(schedule=CondOT()) -> LabelledMixture:
    return LabelledMixture(skew_mixture(), torch.tensor([0, 1, 0]), schedule)


class Recording:
    """A velocity that is the label, and remembers how many rows and which labels it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, label):
        self.calls.append((len(x), label.tolist()))
        return label.to(x)[:, None] + 0 * x


class Watched(models.ResidualMLP):
    """A network that remembers its batches, and whether inference mode was on."""

    rowwise = True
    seen: list

    def forward(self, x, t, label=None):
        self.seen.append((len(x), torch.is_inference_mode_enabled()))
        return super().forward(x, t, label)


def network(kind=models.ResidualMLP, dim: int = 2, classes: int = 3):
    torch.manual_seed(0)
    net = kind(dim, 16, 2, classes=classes).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    net.seen = []
    return net.eval()


# ---- classifier-free: the sum, and what it costs ---------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.5, torch.tensor(0.5), torch.full((3,), 0.5)])
@pytest.mark.parametrize("weight", [-1.5, 0.0, 0.25, 1.0, 2, 7.5])
def test_the_guided_velocity_is_the_weighted_sum(weight, t):
    guided = guidance.classifier_free(Recording(), weight, null=5)
    found = guided(torch.zeros(3, 2), t, torch.tensor([0, 1, 9]))
    expected = torch.tensor([(1 - weight) * 5 + weight * y for y in (0, 1, 9)], dtype=torch.float32)
    torch.testing.assert_close(found, expected[:, None].expand(3, 2))


@pytest.mark.parametrize(
    "weight, interval, t, calls",
    [
        (1.0, (0.0, 1.0), 0.5, [(2, [3, 4])]),
        (0.0, (0.0, 1.0), 0.5, [(2, [7, 7])]),
        (2.0, (0.0, 1.0), 0.5, [(4, [7, 7, 3, 4])]),
        (2.0, (0.2, 0.7), 0.1, [(2, [3, 4])]),
        (2.0, (0.2, 0.7), torch.tensor(0.71), [(2, [3, 4])]),
        (2.0, (0.2, 0.7), torch.tensor([0.1, 0.9]), [(2, [3, 4])]),
        (2.0, (0.2, 0.7), torch.tensor([0.1, 0.5]), [(4, [7, 7, 3, 4])]),
        (0.0, (0.2, 0.7), torch.tensor([0.1, 0.5]), [(2, [3, 7])]),
        (1.0, (0.2, 0.7), torch.tensor([0.1, 0.5]), [(2, [3, 4])]),
    ],
)
def test_the_network_is_called_once_and_with_no_more_rows_than_needed(weight, interval, t, calls):
    recording = Recording()
    guidance.classifier_free(recording, weight, 7, interval)(torch.zeros(2, 1), t, torch.tensor([3, 4]))
    assert recording.calls == calls


def test_each_row_is_guided_in_its_own_time_and_both_ends_belong_to_the_interval():
    guided = guidance.classifier_free(Recording(), 3.0, 0, interval=(0.3, 0.7))
    t = torch.tensor([0.0, 0.29, 0.3, 0.5, 0.7, 0.71, 1.0])
    found = guided(torch.zeros(7, 1), t, torch.ones(7, dtype=torch.int64))
    assert found[:, 0].tolist() == [1, 1, 3, 3, 3, 1, 1]
    for one, value in zip(t, found, strict=True):  # a 0-d float32 0.3 is the 0.3 of the interval
        assert guided(torch.zeros(1, 1), one, torch.tensor([1])) == value
        assert guided(torch.zeros(1, 1), round(one.item(), 2), torch.tensor([1])) == value


def test_weights_one_and_zero_are_the_networks_own_velocities_bit_by_bit():
    net, x, t, y = network(), normal(5, 2), normal(5, 1)[:, 0].sigmoid(), torch.tensor([0, 1, 0, 1, 1])
    assert torch.equal(guidance.classifier_free(net, 1.0, 2)(x, t, y), net(x, t, y))
    assert torch.equal(guidance.classifier_free(net, 0.0, 2)(x, t, y), net(x, t, torch.full((5,), 2)))
    outside = guidance.classifier_free(net, 4.0, 2, interval=(0.0, 1e-9))
    assert torch.equal(outside(x, t, y), net(x, t, y))


@pytest.mark.parametrize("t", [0.4, torch.tensor(0.4), torch.tensor([0.1, 0.9, 0.5, 0.3])])
@pytest.mark.parametrize("make", [lambda: network(dim=2), lambda: network_of_images()])
def test_one_batch_of_both_halves_is_two_calls(make, t):
    net = make()
    x = normal(4, *(net.config.get("shape") or [2])).to(next(net.parameters()).dtype)
    y, nulls = torch.tensor([0, 1, 1, 0]), torch.full((4,), 2)
    expected = -1.5 * net(x, t, label=nulls) + 2.5 * net(x, t, label=y)
    torch.testing.assert_close(guidance.classifier_free(net, 2.5, 2)(x, t, label=y), expected)


def network_of_images():
    torch.manual_seed(0)
    return models.UNet((1, 8, 8), 8, classes=3).eval()


def test_a_compiled_or_captured_velocity_reads_no_time(monkeypatch):
    """There the interval is a mask: the same numbers, with both halves at all times."""
    recording = Recording()
    guided = guidance.classifier_free(recording, 3.0, 0, interval=(0.3, 0.7))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    values = [guided(torch.zeros(2, 1), torch.tensor(t), torch.tensor([1, 1]))[0].item() for t in (0.1, 0.5, 0.9)]
    assert values == [1, 3, 1] and [rows for rows, _ in recording.calls] == [4, 4, 4]


# ---- what the guided flow does ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [CondOT(), Cosine()], ids=["CondOT", "Cosine"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 1.5, 2.0, 3.0, 5.0])
def test_a_guided_gaussian_has_variance_s_to_the_two_w(weight, schedule):
    """The flow is affine: -1 and 1 tell mean and variance. The tilted law has another one, 1 / (w / s^2 + 1 - w)."""
    guided = guidance.classifier_free(gaussian(schedule), weight, null=1)
    ends = sampling.sample(
        guided, torch.tensor([[-1.0], [1.0]], dtype=F64), steps=400, method="rk4", label=torch.tensor([0, 0])
    )
    mean, variance = moments(weight)
    assert ((ends[1] - ends[0]) / 2).item() ** 2 == pytest.approx(variance, abs=1e-5)
    assert ends.mean().item() == pytest.approx(mean, abs=1e-5)
    if weight > 1:
        assert variance < 0.9 / (weight / S2 + 1 - weight)


def test_the_interval_guides_while_the_time_is_inside():
    """Guided up to 1/2 and then left alone: the moments of two runs, one after the other."""
    x, y = normal(4, 1), torch.zeros(4, dtype=torch.int64)
    options = {"method": "rk4", "label": y}
    guided = guidance.classifier_free(gaussian(), 3.0, null=1)
    middle = sampling.sample(guided, x, steps=200, t=(0.0, 0.5), **options)
    expected = sampling.sample(gaussian(), middle, steps=200, t=(0.5, 1.0), **options)
    partly = guidance.classifier_free(gaussian(), 3.0, null=1, interval=(0.0, 0.5))
    found = sampling.sample(partly, x, steps=400, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)  # one stage sees t = 1/2 from the other side
    whole = sampling.sample(guided, x, steps=400, **options)
    assert (found - whole).abs().max() > 0.05


def test_a_guided_network_keeps_the_fast_path():
    net, y = network(Watched), torch.zeros(300, dtype=torch.int64)
    guided = guidance.classifier_free(net, 2.0, null=2)
    assert sampling.is_rowwise_network(guided) and not guided.training
    whole = sampling.sample(guided, normal(300, 2), steps=2, chunk=None, label=y)
    assert net.seen == 4 * [(600, True)]
    net.seen.clear()
    parts = sampling.sample(guided, normal(300, 2), steps=2, chunk=100, label=y)
    assert net.seen == 12 * [(200, True)]
    torch.testing.assert_close(parts, whole)


def test_only_a_rowwise_velocity_makes_a_rowwise_one():
    class Other(models.ResidualMLP):  # a subclass must say so anew
        pass

    def u(x, t, label=None):
        return x

    assert not sampling.is_rowwise(guidance.classifier_free(network(Other), 2.0, null=2))
    assert not sampling.is_rowwise(guidance.classifier_free(u, 2.0, null=2))
    assert not sampling.is_rowwise(guidance.classifier(u, lambda x, t, label: x[:, 0]))
    u.rowwise = True
    assert sampling.is_rowwise(guidance.classifier_free(u, 2.0, null=2))
    assert not sampling.is_rowwise_network(guidance.classifier_free(u, 2.0, null=2))
    assert not sampling.is_rowwise(guidance.classifier(u, lambda x, t, label: x[:, 0]))


def test_the_density_of_a_guided_gaussian_is_right():
    mean, variance = moments(2.0)
    x = normal(6, 1)
    guided = guidance.classifier_free(gaussian(), 2.0, null=1)
    found = likelihood.log_likelihood(guided, x, steps=400, label=torch.zeros(6, dtype=torch.int64))
    expected = torch.distributions.Normal(mean, math.sqrt(variance)).log_prob(x[:, 0])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.25, 0.75)])
def test_the_density_of_a_guided_network_is_that_of_its_map(interval):
    """log p_1(psi(x)) = log p_0(x) - log |det d psi / dx|, the determinant by autograd through the solver."""
    guided, x, y = guidance.classifier_free(network(), 2.5, 2, interval), normal(4, 2), torch.tensor([0, 1, 1, 0])
    options = {"steps": 400, "label": y}

    def flow(x):
        return sampling.sample(guided, x, differentiable=True, **options)

    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x).sum(0), x).movedim(1, 0)
    expected = likelihood.standard_normal_log_prob(x) - torch.linalg.det(jacobian).abs().log()
    found = likelihood.log_likelihood(guided, flow(x).detach(), **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


# ---- a classifier's gradient -----------------------------------------------------------------------------------------


@every_schedule
def test_with_the_exact_classifier_it_is_the_velocity_of_the_label(schedule):
    both, y = labelled(schedule), torch.tensor([0, 1]).repeat(50)
    guided = guidance.classifier(
        exact.MixturePath(both.mixture, schedule).velocity, both.label_log_posterior, AffinePath(schedule)
    )
    given = [exact.MixturePath(both.given(label), schedule).velocity for label in (0, 1)]
    x, times = 1.5 * normal(100, 2), torch.rand(100, generator=seeded(1), dtype=F64) * 0.96 + 0.02
    for t in (1e-6, 0.02, 0.5, torch.tensor(0.98, dtype=F64), times):  # beside t = 0 too: the posterior cancels nothing
        expected = torch.where(y[:, None] == 0, given[0](x, t), given[1](x, t))
        gap = (guided(x, t, y) - expected).norm(dim=1) / expected.norm(dim=1)
        assert gap.max() < 1e-12


def test_its_samples_have_the_law_of_the_label():
    """From t = 1e-3 on, where x_0 is as good as X_t; against the same flow by the velocity of the label."""
    both, x = labelled(), normal(20, 2)
    guided = guidance.classifier(exact.MixturePath(both.mixture).velocity, both.label_log_posterior)
    options = {"steps": 20, "method": "rk4", "t": (1e-3, 1.0)}
    found = sampling.sample(guided, x, label=torch.ones(20, dtype=torch.int64), **options)
    assert not found.requires_grad
    expected = sampling.sample(exact.MixturePath(both.given(1)).velocity, x, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_its_density_is_right():
    both, x = labelled(), normal(5, 2)
    guided = guidance.classifier(exact.MixturePath(both.mixture).velocity, both.label_log_posterior)
    found = likelihood.log_likelihood(guided, x, steps=400, label=torch.ones(5, dtype=torch.int64))
    torch.testing.assert_close(found, law(both.given(1)).log_prob(x), rtol=0, atol=2e-3)


def test_a_density_that_hangs_on_a_hidden_gradient_is_refused():
    def half_hidden(x, t, label):  # its gradient depends on x, and says that it does not
        return (x * x.detach()).sum(1)

    guided = guidance.classifier(lambda x, t: -x, half_hidden)
    with pytest.raises(ValueError, match="stops gradients") as error:
        likelihood.log_likelihood(guided, normal(4, 2), label=torch.zeros(4, dtype=torch.int64))
    assert one_sentence(error)


@pytest.mark.parametrize("what", ["x_0", "classifier"])
def test_gradients_through_the_solver(what):
    """Of a number made of the samples, to the start and to the classifier's weight, against central differences."""
    direction = normal(3, 2, seed=3)

    def end(x, scale):
        guided = guidance.classifier(lambda x, t: -x, lambda x, t, label: scale * torch.sin(2 * x).sum(1))
        label = torch.zeros(3, dtype=torch.int64)
        return sampling.sample(guided, x, steps=3, t=(0.4, 1.0), differentiable=True, label=label).pow(2).sum()

    x, scale = normal(3, 2), torch.tensor(0.3, dtype=F64)
    leaf = (x if what == "x_0" else scale).clone().requires_grad_()
    (slope,) = torch.autograd.grad(end(leaf, scale) if what == "x_0" else end(x, leaf), leaf)
    with torch.no_grad():
        if what == "x_0":
            expected = (end(x + 1e-5 * direction, scale) - end(x - 1e-5 * direction, scale)) / 2e-5
            slope = (slope * direction).sum()
        else:
            expected = (end(x, scale + 1e-5) - end(x, scale - 1e-5)) / 2e-5
    torch.testing.assert_close(slope, expected, rtol=1e-7, atol=1e-9)


def test_a_classifier_trained_elsewhere_works_within_inference_mode():
    guided = guidance.classifier(lambda x, t: 0 * x, lambda x, t, label: (x * label[:, None]).sum(1))
    with torch.inference_mode():
        found = guided(torch.zeros(2, 3), 0.5, torch.tensor([1, 2]))
    assert found.tolist() == [[1.0] * 3, [2.0] * 3]


# ---- bad input -------------------------------------------------------------------------------------------------------


def u(x, t, label=None):
    return -x


@pytest.mark.parametrize(
    "arguments, error, part",
    [
        ((u, math.nan, 3), ValueError, "weight must be finite, got nan"),
        ((u, math.inf, 3), ValueError, "weight must be finite"),
        ((u, "2", 3), TypeError, "weight must be a number"),
        ((u, True, 3), TypeError, "weight must be a number"),
        ((u, 2.0, -1), ValueError, "null must be at least 0"),
        ((u, 2.0, None), TypeError, "null must be an integer"),
        ((3, 2.0, 3), TypeError, "velocity must be a callable"),
        ((u, 2.0, 3, (0.5, 1.5)), ValueError, r"interval must be two times .* got \(0.5, 1.5\)"),
        ((u, 2.0, 3, (-0.1, 0.5)), ValueError, "interval must be two times"),
        ((u, 2.0, 3, (0.7, 0.2)), ValueError, "interval must be two times"),
        ((u, 2.0, 3, (0.2, math.nan)), ValueError, "interval must be two times"),
        ((u, 2.0, 3, 0.5), TypeError, "interval must be a pair"),
        ((models.ResidualMLP(2, 8, 1, classes=3), 2.0, 3), ValueError, r"in \[0, 3\), got 3"),
        ((models.UNet((1, 8, 8), 8, classes=3), 2.0, 10), ValueError, r"in \[0, 3\), got 10"),
        ((models.ResidualMLP(2, 8, 1), 2.0, 3), ValueError, "without classes"),
        ((reschedule(models.ResidualMLP(2, 8, 1, classes=3), CondOT(), Cosine()), 2.0, 3), ValueError, "got 3"),
    ],
)
def test_classifier_free_refuses(arguments, error, part):
    with pytest.raises(error, match=part) as raised:
        guidance.classifier_free(*arguments)
    assert one_sentence(raised)


@pytest.mark.parametrize(
    "velocity, t, label, error, part",
    [
        (u, 0.5, torch.zeros(3, dtype=torch.int64), TypeError, r"shape \(2,\), got torch.int64 of shape \(3,\)"),
        (u, 0.5, torch.zeros(2), TypeError, "label must be integers"),
        (u, 0.5, 1, TypeError, "got int"),
        (u, 0.5, torch.tensor([True, False]), TypeError, "label must be integers .* got torch.bool"),
        (u, 0.5, torch.zeros(2, dtype=torch.complex64), TypeError, "label must be integers .* got torch.complex64"),
        (u, 1.5, torch.zeros(2, dtype=torch.int64), ValueError, r"t must lie in \[0, 1\], got 1.5"),
        (u, math.nan, torch.zeros(2, dtype=torch.int64), ValueError, r"t must lie in \[0, 1\], got nan"),
        (u, None, torch.zeros(2, dtype=torch.int64), TypeError, "t must be a number or a tensor, got NoneType"),
        (u, torch.rand(2, 1), torch.zeros(2, dtype=torch.int64), ValueError, r"t must have shape \(\) or \(2,\)"),
        (lambda x, t, label: x[:, :1], 0.5, torch.zeros(2, dtype=torch.int64), ValueError, r"shape \(4, 2\), got"),
        (lambda x, t, label: 0.0, 0.5, torch.zeros(2, dtype=torch.int64), ValueError, "got float"),
    ],
)
def test_a_guided_velocity_refuses(velocity, t, label, error, part):
    with pytest.raises(error, match=part) as raised:
        guidance.classifier_free(velocity, 2.0, 1)(torch.zeros(2, 2), t, label)
    assert one_sentence(raised)


def test_a_label_of_few_bits_is_guided_as_any_other():
    """`null` need not fit in the format of the labels."""
    seen = []
    guided = guidance.classifier_free(lambda x, t, label: seen.append(label.tolist()) or x, 2.0, null=300)
    for kind in (torch.uint8, torch.int8, torch.int64):
        guided(torch.zeros(2, 1), 0.5, torch.tensor([1, 2], dtype=kind))
    assert seen == [[300, 300, 1, 2]] * 3


@pytest.mark.parametrize("x", [[[0.0]], None, np.zeros((2, 1)), torch.zeros(2, 1, dtype=torch.int64)])
def test_a_guided_velocity_is_for_floating_tensors(x):
    label = torch.tensor([0, 1])
    for guided in (guidance.classifier_free(u, 2.0, 1), guidance.classifier(u, lambda x, t, label: x.sum(1))):
        with pytest.raises(TypeError, match="x must ") as raised:
            guided(x, 0.5, label)
        assert one_sentence(raised)


def test_a_classifier_is_told_a_label_for_each_row():
    guided = guidance.classifier(u, lambda x, t, label: (x * label[:, None]).sum(1))
    for label in (torch.tensor([1]), torch.ones(3), torch.tensor(1)):
        with pytest.raises(ValueError, match=r"label must have a row for each of the 2 of x, got shape \(") as raised:
            guided(torch.zeros(2, 2), 0.5, label)
        assert one_sentence(raised)


@pytest.mark.parametrize(
    "log_prob, error, part",
    [
        (lambda x, t, label: x, ValueError, r"log_prob must return a tensor of shape \(2,\).*got shape \(2, 2\)"),
        (lambda x, t, label: x.sum(), ValueError, r"got shape \(\)"),
        (lambda x, t, label: 0.0, ValueError, "got float"),
        (lambda x, t, label: x.detach().sum(1), ValueError, "no gradient in x"),
        (lambda x, t, label: 0 * torch.ones(2, requires_grad=True), ValueError, "no gradient in x"),
        (torch.no_grad()(lambda x, t, label: x.sum(1)), ValueError, "no gradient in x"),
    ],
)
def test_a_classifier_that_is_none(log_prob, error, part):
    guided = guidance.classifier(u, log_prob)
    with pytest.raises(error, match=part) as raised:
        guided(torch.zeros(2, 2), 0.5, torch.tensor([0, 1]))
    assert one_sentence(raised)


def test_classifier_refuses():
    for arguments, part in [
        ((3, u), "velocity must be"),
        ((u, 3), "log_prob must be"),
        ((u, u, CondOT()), "path must"),
    ]:
        with pytest.raises(TypeError, match=part) as raised:
            guidance.classifier(*arguments)
        assert one_sentence(raised)
    guided = guidance.classifier(u, lambda x, t, label: x.sum(1))
    with pytest.raises(ValueError, match="t must be above 0") as raised:
        sampling.sample(guided, torch.zeros(2, 2), label=torch.tensor([0, 1]))
    assert one_sentence(raised)
    short = guidance.classifier(lambda x, t: x[:, :1], lambda x, t, label: x.sum(1))
    with pytest.raises(ValueError, match="velocity must return"):
        short(torch.zeros(2, 2), 0.5, torch.tensor([0, 1]))


# ---- the labelled mixture --------------------------------------------------------------------------------------------


def test_the_law_of_a_label_is_that_of_its_components():
    both, x = labelled(), 1.5 * normal(30, 2)
    mixture = both.mixture
    torch.testing.assert_close(both.probabilities, torch.tensor([0.7, 0.3], dtype=F64))
    parts = [
        torch.distributions.MultivariateNormal(m, c) for m, c in zip(mixture.means, mixture.covariances, strict=True)
    ]
    densities = torch.stack([part.log_prob(x).exp() for part in parts])
    expected = (0.5 * densities[0] + 0.2 * densities[2]) / 0.7
    torch.testing.assert_close(both.given(0).log_density(x).exp(), expected)
    torch.testing.assert_close(both.given(torch.tensor(1)).log_density(x).exp(), densities[1])


@every_schedule
def test_the_posterior_of_a_label_is_bayes_rule(schedule):
    both, x, t = labelled(schedule), 1.5 * normal(40, 2), torch.tensor(0.6, dtype=F64)
    alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
    joint = [p * law(both.given(y), alpha, sigma).log_prob(x).exp() for y, p in ((0, 0.7), (1, 0.3))]
    for y in (0, 1):
        torch.testing.assert_close(both.label_log_posterior(x, 0.6, y).exp(), joint[y] / (joint[0] + joint[1]))
    of_row = torch.tensor([0, 1]).repeat(20)
    expected = torch.stack(joint, 1)[torch.arange(40), of_row] / (joint[0] + joint[1])
    torch.testing.assert_close(both.label_log_posterior(x, t.expand(40), of_row).exp(), expected)
    prior = both.label_log_posterior(x, 0.0, 0).exp()
    torch.testing.assert_close(prior, torch.full_like(prior, 0.7))


def test_a_tilted_gaussian_is_gaussian():
    """N(0, 1)^(1-w) N(m, s^2)^w has precision w / s^2 + 1 - w, for the law with both halves as one Gaussian each."""
    wide, narrow = torch.tensor([[0.0], [1.0]], dtype=F64), torch.tensor([1.0, math.sqrt(S2)], dtype=F64)
    both = LabelledMixture(GaussianMixture.isotropic(wide, narrow), torch.tensor([0, 1]))
    for weight in (0.0, 1.0, 2.0, 3.5):

        def density(x, weight=weight):
            return both.tilted_log_density(torch.tensor([[x]], dtype=F64), 1, weight).exp().item()

        def expected(x, weight=weight):
            given = math.exp(-((x - 1) ** 2) / (2 * S2)) / math.sqrt(2 * math.pi * S2)
            whole = (given + math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)) / 2
            return given**weight * whole ** (1 - weight)

        for x in (-2.0, 0.1, 1.7):
            assert density(x) == pytest.approx(expected(x), rel=1e-10)
        total = integrate.quad(density, -12, 12)[0]
        assert total == pytest.approx(1 if weight in (0.0, 1.0) else integrate.quad(expected, -12, 12)[0], rel=1e-7)


@pytest.mark.parametrize(
    "make, error, part",
    [
        (lambda: LabelledMixture(skew_mixture(), torch.tensor([0, 1])), ValueError, "one for each of 3 components"),
        (lambda: LabelledMixture(skew_mixture(), torch.tensor([0, 2, 2])), ValueError, "got none that is 1"),
        (lambda: LabelledMixture(skew_mixture(), torch.tensor([0, -1, 1])), ValueError, "labels must lie in"),
        (lambda: LabelledMixture(skew_mixture(), torch.rand(3)), TypeError, "labels must be an integer tensor"),
        (lambda: LabelledMixture(skew_mixture().means, torch.tensor([0, 1, 1])), TypeError, "mixture must be"),
        (lambda: labelled().given(2), ValueError, r"y must be a label in \[0, 2\), got 2"),
        (lambda: labelled().given("a"), TypeError, "y must be an integer"),
        (lambda: labelled().given(-1), ValueError, "y must be at least 0"),
        (lambda: labelled().tilted_log_density(normal(2, 2), 0, math.nan), ValueError, "weight must be a finite"),
        (lambda: labelled().label_log_posterior(normal(2, 3), 0.5, 0), ValueError, "x must have shape"),
        (lambda: labelled().label_log_posterior(normal(2, 2), 0.5, torch.zeros(3).long()), ValueError, "y must have"),
        (lambda: labelled().label_log_posterior(normal(2, 2), 0.5, torch.tensor([0, 5])), ValueError, "y must lie in"),
        (lambda: labelled().label_log_posterior(normal(2, 2), 1.5, 0), ValueError, "t must lie in"),
    ],
)
def test_a_labelled_mixture_refuses(make, error, part):
    with pytest.raises(error, match=part) as raised:
        make()
    assert one_sentence(raised)


# ---- label dropout ---------------------------------------------------------------------------------------------------


def batch_of(labels, seed: int = 0) -> Batch:
    x = torch.zeros(len(labels), 2)
    return Batch(x, x, torch.rand(len(labels)), {"label": labels, "size": x}, seeded(seed))


def test_labels_are_dropped_at_the_rate_and_nothing_else_changes():
    labels, seen = torch.arange(10).repeat(2000), []

    def loss(network, batch):
        seen.append(batch)
        return torch.zeros(())

    batch = batch_of(labels)
    LabelDropout(0.2, null=10, loss=loss)(None, batch)
    new = seen[0].condition["label"]
    share = (new == 10).double().mean().item()
    assert abs(share - 0.2) < 4 * math.sqrt(0.16 / 20_000)
    assert torch.equal(new[new != 10], labels[new != 10]) and torch.equal(batch.condition["label"], labels)
    assert seen[0].x_1 is batch.x_1 and seen[0].condition["size"] is batch.condition["size"]
    LabelDropout(0.2, null=10, loss=loss)(None, batch_of(labels, seed=0))
    LabelDropout(0.2, null=10, loss=loss)(None, batch_of(labels, seed=1))
    again, other = (b.condition["label"] for b in seen[1:])
    assert torch.equal(again, new) and not torch.equal(other, new)


class Means(torch.nn.Module):
    """A constant for each label: what minimises the loss is the mean velocity of the label's rows."""

    def __init__(self, classes: int):
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(classes, 1))

    def forward(self, x, t, label):
        return self.value[label]


def test_one_network_learns_the_mean_of_each_label_and_of_all():
    y = torch.arange(2).repeat_interleave(torch.tensor([300, 100]))
    x = torch.where(y == 0, -1.0, 3.0)[:, None]
    losses = LabelDropout(0.25, null=2)
    made = fit(Means(3), x, label=y, loss=losses, steps=600, learning_rate=0.05, device="cpu", progress=False)
    torch.testing.assert_close(made.model.value[:, 0], torch.tensor([-1.0, 3.0, 0.0]), rtol=0, atol=0.15)


def test_without_dropout_it_is_the_loss_itself():
    batch = batch_of(torch.arange(3))
    del batch.condition["size"]
    net = models.ResidualMLP(2, 8, 1, classes=3)
    assert torch.equal(LabelDropout(0.0, null=3)(net, batch), VelocityMatching()(net, batch))


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan, "0.1", True])
def test_a_rate_is_a_number_below_one(rate):
    with pytest.raises(ValueError, match=r"rate must be a number in \[0, 1\)") as raised:
        LabelDropout(rate, null=3)
    assert one_sentence(raised)


def test_a_network_that_does_not_know_the_null_is_not_trained():
    """However seldom it comes: at this rate the first steps would pass."""
    network, y = models.ResidualMLP(2, 8, 1, classes=3), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match=r"null must be a label that the network knows, in \[0, 3\), got 3") as raised:
        fit(network, torch.zeros(3, 2), label=y, loss=LabelDropout(1e-9, null=3), steps=2, progress=False)
    assert one_sentence(raised)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0])
def test_another_shape_is_refused_at_every_weight(weight):
    guided = guidance.classifier_free(lambda x, t, label: x[:, :1], weight, 1)
    with pytest.raises(ValueError, match=r"velocity must return a tensor of shape \(\d, 2\), got \(\d, 1\)") as raised:
        guided(torch.zeros(2, 2), 0.5, torch.tensor([0, 1]))
    assert one_sentence(raised)


def test_a_dropout_needs_labels():
    bare = Batch(torch.zeros(1, 2), torch.zeros(1, 2), torch.rand(1), {}, seeded())
    with pytest.raises(ValueError, match="needs labels") as raised:
        LabelDropout(0.1, null=3)(None, bare)
    assert one_sentence(raised)
    with pytest.raises(TypeError, match="loss must be a function"):
        LabelDropout(0.1, null=3, loss=4)


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of `train digits --label-dropout 0.2`, without its picture and its scores."""
    folder, patch = tmp_path_factory.mktemp("guidance") / "digits", pytest.MonkeyPatch()
    patch.setattr(cli.evaluation, "report", lambda *_: None)
    train = ["train", "digits", "--steps", "5", "--device", "cpu", "--out", str(folder), "--label-dropout", "0.2"]
    assert cli.main(train) == 0 and cli.main([*train, "--resume"]) == 0
    patch.undo()
    return folder


def drawn(path) -> torch.Tensor:
    return torch.from_numpy(np.load(path)["x"])


def test_a_run_with_dropout_knows_one_label_more(run):
    model, about = cli.checkpoints.load(run)
    assert model.config["classes"] == 11 and about["label_dropout"] == 0.2 and len(about["classes"]) == 10
    assert "LabelDropout(rate=0.2, null=10" in about["training"]["loss"]


def test_sample_is_guided_by_the_weight_within_the_interval(run, tmp_path):
    model, _ = cli.checkpoints.load(run)
    draw = ["sample", str(run), "--n", "12", "--steps", "4", "--out", str(tmp_path / "x.npz")]
    x_0, y = torch.randn(12, 64, generator=seeded()), torch.arange(12) % 10
    nulls, options = torch.full((12,), 10), {"steps": 4}

    def guided(x, t, weight, interval):
        inside = interval[0] <= float(t) <= interval[1]
        w = weight if inside else 1
        return (1 - w) * model(x, t, nulls) + w * model(x, t, y)

    for flags, weight, interval in [
        ([], 1.0, (0.0, 1.0)),
        (["--guidance", "2.5"], 2.5, (0.0, 1.0)),
        (["--guidance", "2.5", "--guidance-interval", "0.2", "0.6"], 2.5, (0.2, 0.6)),
    ]:
        assert cli.main([*draw, *flags]) == 0
        expected = sampling.sample(functools.partial(guided, weight=weight, interval=interval), x_0, **options)
        torch.testing.assert_close(drawn(tmp_path / "x.npz"), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "flags, part",
    [
        (["--guidance", "nan"], "weight must be finite"),
        (["--guidance", "2", "--guidance-interval", "0", "1.2"], "interval must be two times"),
        (["--guidance-interval", "0", "1"], "needs a weight"),
        (["--label", "10"], "label must lie in [0, 10), got 10"),
    ],
)
def test_sample_refuses(flags, part, run, tmp_path, capsys):
    assert cli.main(["sample", str(run), "--out", str(tmp_path / "x.npz"), *flags]) == 2
    err = capsys.readouterr().err
    assert part in err and err.count("\n") == 1 and not (tmp_path / "x.npz").exists()


def test_a_run_without_dropout_cannot_be_guided(tmp_path, capsys):
    net = models.ResidualMLP(64, 8, 1, classes=10)
    cli.checkpoints.save(tmp_path / "run", net, data="digits", classes=[str(label) for label in range(10)])
    assert cli.main(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "x.npz"), "--guidance", "2"]) == 2
    assert "was trained without --label-dropout" in capsys.readouterr().err


@pytest.mark.parametrize("rate", ["1", "-0.5", "nan"])
def test_train_refuses_a_rate(rate, tmp_path, capsys):
    assert cli.main(["train", "digits", "--out", str(tmp_path / "run"), "--label-dropout", rate]) == 2
    assert "rate must be a number in [0, 1)" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_run_goes_on_with_its_own_dropout_only(run, capsys):
    again = ["train", "digits", "--steps", "5", "--device", "cpu", "--out", str(run), "--resume"]
    for flags in ([], ["--label-dropout", "0.3"]):
        assert cli.main([*again, *flags]) == 2
        assert "holds a run of other options" in capsys.readouterr().err
