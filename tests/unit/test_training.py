"""The problem with a known answer: target N(m, s^2 I), source N(0, I), alpha_t = t, sigma_t = 1 - t.

Given X_t, the velocity X_1 - X_0 has variance s^2 / (t^2 s^2 + (1 - t)^2) in each coordinate; its integral over t in
[0, 1] is s pi / 2 (substitute w = t s / (1 - t)). That is the loss of the exact velocity, and no network's is lower.
"""

import copy
import math
import sys

import pytest
import torch
from helpers import F64, normal, one_sentence
from torch import nn

from fmlib import checkpoints, devices
from fmlib.couplings import Paired
from fmlib.exact import MixturePath
from fmlib.laws import GaussianMixture
from fmlib.models import MLP, ResidualMLP
from fmlib.objectives import VelocityMatching
from fmlib.paths import AffinePath
from fmlib.runs import Checkpoints
from fmlib.schedules import Cosine
from fmlib.training import fit

MEAN, STD = torch.tensor([1.0, -0.5]), 0.4
CONDITIONAL_VARIANCE = STD * math.pi / 2


def gaussian(n, generator=None):
    return MEAN + STD * torch.randn(n, 2, generator=generator)


class Exact(nn.Module):
    """The exact velocity m + c_t (x - t m), c_t = (t s^2 - (1 - t)) / (t^2 s^2 + (1 - t)^2), plus a learned shift."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, x, t):
        t = t[:, None]
        slope = (t * STD**2 - (1 - t)) / (t**2 * STD**2 + (1 - t) ** 2)
        return MEAN + slope * (x - t * MEAN) + self.shift


class Weight(nn.Module):
    """One parameter for every coordinate: the velocity w, whatever the point and the time."""

    def __init__(self, dim: int = 1):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(dim))

    def forward(self, x, t):
        return self.w.expand_as(x)


class Spy(Weight):
    """A network that keeps what it was called with."""

    def __init__(self, dim: int = 1):
        super().__init__(dim)
        self.calls = []

    def forward(self, x, t, label=None):
        self.calls.append((x.detach().clone(), t.clone(), label))
        return super().forward(x, t)


def standard_error(values):
    return values.double().std().item() / math.sqrt(len(values))


def test_the_loss_of_the_exact_velocity_is_the_conditional_variance():
    losses = fit(Exact(), gaussian, steps=400, batch_size=512, learning_rate=1e-9).losses
    assert abs(losses.double().mean().item() - CONDITIONAL_VARIANCE) < 4 * standard_error(losses)
    assert standard_error(losses) < 0.01 * CONDITIONAL_VARIANCE


def test_a_network_learns_the_exact_velocity_and_its_loss_stops_at_the_conditional_variance():
    exact = MixturePath(GaussianMixture.isotropic(MEAN[None], STD))
    model, losses = fit(MLP(2, width=64, depth=2), gaussian, steps=600, batch_size=512, learning_rate=1e-2, ema=0.99)
    t = torch.rand(5000)
    x = AffinePath().flow(torch.randn(5000, 2), gaussian(5000), t)
    with torch.no_grad():
        excess = (model(x, t) - exact.velocity(x, t)).square().mean()
    assert excess < 0.01 * exact.velocity(x, t).square().mean()  # off by less than a tenth
    last = losses[-200:]
    assert -4 * standard_error(last) < last.mean() - CONDITIONAL_VARIANCE < 4 * standard_error(last) + 0.01
    assert losses[:10].mean() > 1.5 * CONDITIONAL_VARIANCE


def test_the_loss_is_the_mean_over_coordinates_of_the_batch_that_the_network_saw():
    spy = Spy(3)
    data, path = normal(1, 3, dtype=torch.float32), AffinePath(Cosine())
    losses = fit(spy, data, loss=VelocityMatching(path), steps=4, batch_size=8, learning_rate=1e-9).losses
    for (x, t, _), loss in zip(spy.calls, losses, strict=True):  # one row of data, so x_1 and hence x_0 are known
        velocity = path.velocity(x, data.expand(8, 3), t)
        assert loss.item() == pytest.approx(velocity.square().sum().item() / 24, rel=1e-3)


def test_seed_decides_every_draw_and_the_global_generator_none():
    data, runs = gaussian(50), []
    for seed, elsewhere in [(7, 1), (7, 2), (8, 1)]:
        torch.manual_seed(0)
        model = MLP(2, width=8, depth=1)
        torch.manual_seed(elsewhere)
        before = torch.get_rng_state()
        runs.append(fit(model, data, steps=20, batch_size=16, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
    first, again, other = runs
    assert torch.equal(first.losses, again.losses) and not torch.equal(first.losses, other.losses)
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("ema", [0.0, 0.5, 0.999])
def test_the_average_of_the_weights_by_hand(ema):
    model, seen = MLP(2, width=4, depth=1).double(), []
    weights = [model.layers[0].weight.detach().clone()]
    result = fit(
        model,
        gaussian(50).double(),
        steps=30,
        ema=ema,
        on_step=lambda step, averaged: (
            weights.append(model.layers[0].weight.detach().clone()),
            seen.append(averaged.layers[0].weight.detach().clone()),
        ),
    )
    expected = weights[0]
    for k, (weight, average) in enumerate(zip(weights[1:], seen, strict=True)):
        decay = min(ema, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * weight
        torch.testing.assert_close(average, expected)
    assert torch.equal(result.model.layers[0].weight, seen[-1])
    assert torch.equal(seen[-1], weights[-1]) == (ema == 0) and not torch.equal(weights[0], weights[-1])


def test_the_average_of_a_weight_that_is_freed_on_the_way_begins_there():
    model, own, seen = MLP(2, width=4, depth=1).double(), [], []
    weight = model.layers[0].weight.requires_grad_(False)
    start = weight.clone()

    def watch(done, averaged):
        own.append(weight.detach().clone()), seen.append(averaged.layers[0].weight.clone())
        weight.requires_grad_(done >= 3)

    fit(model, gaussian(50).double(), steps=6, ema=0.5, on_step=watch)
    expected = start
    for k in range(6):
        decay = min(0.5, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * own[k]
        torch.testing.assert_close(seen[k], expected)
    assert torch.equal(own[2], start) and not torch.equal(seen[5], start)


def test_the_average_has_the_buffers_of_the_network_wherever_it_is_seen(tmp_path):
    class Counting(MLP):
        def __init__(self):
            super().__init__(2, width=4, depth=1)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x, t):
            self.calls = self.calls + 1  # another tensor each time
            return super().forward(x, t)

    calls = []
    fit(Counting(), gaussian, steps=3, on_step=lambda done, averaged: calls.append(averaged.calls.item()))
    assert calls == [1, 2, 3]
    assert fit(Counting(), gaussian, steps=5, checkpoint=Checkpoints(tmp_path, every=2)).model.calls == 5
    assert checkpoints.read(tmp_path, 4)[0]["calls"] == 4


def test_the_model_is_trained_in_place_and_the_average_is_a_copy_for_evaluation():
    model = MLP(2, width=4, depth=1)
    averaged = fit(model, gaussian, steps=3).model
    assert averaged is not model and not averaged.training and model.training
    assert not any(p.requires_grad for p in averaged.parameters()) and all(p.requires_grad for p in model.parameters())


def test_without_an_average_the_returned_copy_and_every_checkpoint_hold_the_weights_themselves(tmp_path):
    model = MLP(2, width=4, depth=1)
    options = {"ema": 0.0, "steps": 4, "checkpoint": Checkpoints(tmp_path, every=2)}
    averaged = fit(model, gaussian, **options).model
    for mine, theirs in zip(averaged.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine is not theirs
    for steps in (2, 4):
        weights, state, _ = checkpoints.read(tmp_path, steps)
        assert all(torch.equal(weights[name], state[f"model.{name}"]) for name in weights)


def test_learning_rate_decays_to_zero_along_a_half_cosine():
    """Under a constant gradient each step of Adam is as long as its learning rate."""
    model, w, steps = Weight().double(), [0.0], 20
    far = torch.full((4, 1), 1e8, dtype=F64)
    fit(model, far, steps=steps, learning_rate=0.1, on_step=lambda *_: w.append(model.w.item()))
    rates = [0.1 * (1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps)]
    assert torch.tensor(w, dtype=F64).diff().tolist() == pytest.approx(rates, rel=1e-6)


def test_on_step_sees_every_step_and_the_network_that_is_returned():
    calls = []
    model = fit(Weight(2), gaussian, steps=5, on_step=lambda step, averaged: calls.append((step, averaged))).model
    assert [step for step, _ in calls] == [1, 2, 3, 4, 5] and all(averaged is model for _, averaged in calls)


@pytest.mark.parametrize("coupling", [None, Paired()], ids=["Independent", "Paired"])
def test_labels_stay_with_their_rows_and_paired_keeps_source_and_target_together(coupling):
    """Rows that name themselves: target i, source 1000 + i, label i, so t = 1/2 would give (1000 + 2 i) / 2."""
    numbers, spy = torch.arange(100.0), Spy(1)
    options = {"source": 1000 + numbers[:, None], "label": numbers.long()}
    if coupling is None:
        fit(spy, numbers[:, None], label=options["label"], source=torch.zeros(100, 1), steps=5)
    else:
        fit(spy, numbers[:, None], coupling=coupling, steps=5, **options)
    for x, t, label in spy.calls:
        x_0 = 0 if coupling is None else 1000 + label
        torch.testing.assert_close(x[:, 0], t * label + (1 - t) * x_0)
    assert len(torch.cat([label for *_, label in spy.calls]).unique()) == 100


def test_independent_draws_rows_of_source_and_target_apart():
    numbers, spy = torch.arange(100.0), Spy(2)
    data = torch.stack([numbers, numbers], 1)
    fit(spy, data * torch.tensor([1.0, 0.0]), source=data * torch.tensor([0.0, 1.0]), steps=40, batch_size=250)
    rows = [(x / torch.stack([t, 1 - t], 1)).round() for x, t, _ in spy.calls]  # target row, source row
    target, source = torch.cat(rows).T
    meetings = (target == source).double().mean().item()
    assert abs(meetings - 0.01) < 4 * math.sqrt(0.01 * 0.99 / 10_000)


def test_source_and_target_may_be_samplers():
    spy = Spy(1)

    def draw(n, generator):
        return torch.randint(2, (n, 1), generator=generator).float()

    fit(spy, lambda n, generator: 10 + draw(n, generator), source=lambda n, generator: 3 + draw(n, generator), steps=2)
    for x, t, _ in spy.calls:
        assert ((x[:, 0] - (10 * t + 3 * (1 - t))) <= 1.001).all() and (x[:, 0] >= 10 * t + 3 * (1 - t) - 1e-3).all()


@pytest.mark.parametrize("first", [0, 7, 112])
def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_step(first):
    class Diverging(Spy):
        def forward(self, x, t):
            return super().forward(x, t) + (math.inf if len(self.calls) > first else 0)

    model = Diverging(2)
    with pytest.raises(FloatingPointError, match=f"inf at step {first}, near learning rate") as error:
        fit(model, gaussian, steps=1000)
    assert one_sentence(error) and len(model.calls) <= first + 100


@pytest.mark.parametrize("notebook", [False, True])
@pytest.mark.parametrize("progress", [False, True])
def test_quiet_unless_there_is_someone_to_watch(notebook, progress, monkeypatch, capfd):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", None)
    fit(Weight(2), gaussian, steps=3, progress=progress)
    out, err = capfd.readouterr()
    assert out == "" and ("fit" in err) == (notebook and progress)


def test_auto_takes_the_accelerator_that_there_is(monkeypatch):
    for cuda, mps, expected in [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert devices.device_of() == torch.device(expected)
    assert devices.device_of("cpu") == torch.device("cpu")
    data = gaussian(9)
    auto, cpu = (fit(Weight(2), data, steps=3, device=name).losses for name in ("auto", "cpu"))
    assert torch.equal(auto, cpu)


@pytest.mark.parametrize("name", ["nonsense", "meta:x", "xla"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used here") as error:
        fit(Weight(2), gaussian, device=name)
    assert one_sentence(error)


X = torch.zeros(4, 2)
NUMBERS = torch.arange(4)
BAD = {
    "integers": (X.long(), {}, TypeError, "data .*int64"),
    "NaN": (X * torch.nan, {}, ValueError, "data has 8 NaN"),
    "one axis": (X[0], {}, ValueError, r"data .*\(2,\)"),
    "empty": (X[:0], {}, ValueError, "data is empty"),
    "list": ([[0.0]], {}, TypeError, "data .*list"),
    "sampler of NaN": (lambda n, generator: torch.full((n, 2), torch.nan), {}, ValueError, "x_1 has"),
    "NaN source": (X, {"source": X * torch.nan}, ValueError, "source has 8 NaN"),
    "other dimension": (X, {"source": torch.zeros(4, 3)}, ValueError, r"\(256, 3\) and \(256, 2\)"),
    "other dtype": (X, {"source": X.double()}, TypeError, "float64 and torch.float32"),
    "no steps": (X, {"steps": 0}, ValueError, "steps must be at least 1, got 0"),
    "half a step": (X, {"steps": 1.5}, TypeError, "steps must be an integer, got 1.5"),
    "no batch": (X, {"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    "negative rate": (X, {"learning_rate": -1.0}, ValueError, "learning_rate .* -1.0"),
    "no rate": (X, {"learning_rate": 0.0}, ValueError, "learning_rate .* 0.0"),
    "NaN rate": (X, {"learning_rate": math.nan}, ValueError, "learning_rate .* nan"),
    "infinite rate": (X, {"learning_rate": math.inf}, ValueError, "learning_rate .* inf"),
    "frozen average": (X, {"ema": 1.0}, ValueError, r"ema must lie in \[0, 1\), got 1.0"),
    "negative average": (X, {"ema": -0.1}, ValueError, "ema .* -0.1"),
    "NaN average": (X, {"ema": math.nan}, ValueError, "ema .* nan"),
    "few labels": (X, {"label": NUMBERS[:3]}, ValueError, "label .* got 3 and 4"),
    "negative labels": (X, {"label": NUMBERS - 1}, ValueError, "label .*-1"),
    "labels of a sampler": (gaussian, {"label": NUMBERS}, ValueError, "label needs data"),
    "pairs without a source": (X, {"coupling": Paired()}, ValueError, "Paired"),
    "pairs of samplers": (X, {"coupling": Paired(), "source": gaussian}, ValueError, "Paired"),
    "uneven pairs": (X, {"coupling": Paired(), "source": X[:3]}, ValueError, "Paired"),
}


@pytest.mark.parametrize("target, options, kind, message", BAD.values(), ids=BAD)
def test_bad_input(target, options, kind, message):
    with pytest.raises(kind, match=message) as error:
        fit(Spy(2), target, **{"steps": 2, **options})
    assert one_sentence(error)


def test_a_network_of_another_shape_is_never_broadcast():
    with pytest.raises(ValueError, match=r"model must return a tensor of shape \(256, 2\), got \(256, 1\)") as error:
        fit(Narrow(), X)
    assert one_sentence(error)


class Narrow(Weight):
    def forward(self, x, t):
        return self.w.expand(len(x), 1)


@pytest.mark.parametrize("label, kind", [(torch.zeros(4), TypeError), (NUMBERS, ValueError)])
def test_labels_that_the_network_does_not_know(label, kind):
    """Numbers that are no integers, and a class above the last."""
    with pytest.raises(kind, match="label must") as error:
        fit(ResidualMLP(2, width=16, blocks=1, classes=3), X, label=label, steps=2)
    assert one_sentence(error)


def test_one_bad_label_among_many_is_found_before_the_first_step():
    label = torch.zeros(100_000, dtype=torch.int64)
    label[77] = 3
    model = ResidualMLP(2, width=16, blocks=1, classes=3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"label must lie in \[0, 3\), got values from 0 to 3"):
        fit(model, torch.zeros(100_000, 2), label=label, steps=2, batch_size=4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_labels_reach_a_network_that_needs_them():
    y = torch.arange(50) % 2
    data = torch.where(y[:, None] == 0, -2.0, 2.0).expand(50, 2) + 0.1 * normal(50, 2, dtype=torch.float32)
    model = fit(ResidualMLP(2, width=16, blocks=1, classes=2), data, label=y, steps=150, learning_rate=1e-2).model
    at_origin = model(torch.zeros(2, 2), 0.05, label=torch.tensor([0, 1]))
    assert (at_origin[0] < -1).all() and (at_origin[1] > 1).all()
