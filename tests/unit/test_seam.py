"""The seam of training: `fit` takes any loss (network, batch) -> number. Three losses of other methods, each a plain
function of at most ten lines, train through it; so does a path that is a class of its own.
"""

import math
import shutil

import pytest
import torch
from helpers import one_sentence, seeded
from torch import nn
from torch.nn.functional import cross_entropy

from fmlib import AffinePath, batches, checkpoints, fit, models
from fmlib.devices import Processes
from fmlib.objectives import VelocityMatching
from fmlib.runs import Checkpoints
from fmlib.schedules import Cosine

# torch's own, at the first use of jvp or compile
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The distutils package is deprecated:DeprecationWarning"),
]

MEAN, STD = torch.tensor([1.0, -0.5]), 0.4


def gaussian(n, generator=None):
    return MEAN + STD * torch.randn(n, 2, generator=generator)


class TwoTimes(nn.Module):
    """u(x, t, s), the average velocity on the way from time t to time s."""

    def __init__(self, width: int = 64):
        super().__init__()
        sizes = [4, width, width]
        layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x, t, s):
        return self.layers(torch.cat([x, t[:, None], s[:, None]], 1))


def mean_flow(network, batch):
    """u(x_t, t, s) = v + (s - t) d/dt u(x_t, t, s) along the path (Geng et al. 2025, here with time towards data)."""
    t, v = batch.t, batch.x_1 - batch.x_0
    s = t + (1 - t) * torch.rand(t.shape, generator=batch.generator)
    s = torch.where(torch.rand(t.shape, generator=batch.generator) < 0.5, t, s)
    x_t = batch.x_0 + t[:, None] * v
    u, du = torch.func.jvp(lambda x, t: network(x, t, s), (x_t, t), (v, torch.ones_like(t)))
    return (u - (v + (s - t)[:, None] * du).detach()).square().mean()


def shortcut(network, batch):
    """u(x, t, t + 2d) is the mean of two steps of length d (Frans et al. 2024); at d = 0 it is the velocity."""
    t, v = batch.t, batch.x_1 - batch.x_0
    d = (1 - t) / 2 * torch.rand(t.shape, generator=batch.generator)
    x_t = batch.x_0 + t[:, None] * v
    with torch.no_grad():
        first = network(x_t, t, t + d)
        both = (first + network(x_t + d[:, None] * first, t + d, t + 2 * d)) / 2
    return ((network(x_t, t, t) - v) ** 2).mean() + ((network(x_t, t, t + 2 * d) - both) ** 2).mean()


MASK = 3


def masked_tokens(network, batch):
    """Cross-entropy of the tokens that the path has masked at time t: each is shown with probability t."""
    hidden = torch.rand(batch.x_1.shape, generator=batch.generator) >= batch.t[:, None]
    logits = network(torch.where(hidden, batch.x_0, batch.x_1), batch.t)
    return (cross_entropy(logits.flatten(0, 1), batch.x_1.flatten(), reduction="none") * hidden.flatten()).mean()


class Table(nn.Module):
    """Logits (batch, 2, 3) of both tokens, free for every state of the pair; the time does not matter."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Embedding((MASK + 1) ** 2, 6)

    def forward(self, x, t):
        return self.logits(x[:, 0] * (MASK + 1) + x[:, 1]).unflatten(1, (2, 3))


@pytest.mark.parametrize("loss", [mean_flow, shortcut])
def test_a_flow_map_trained_through_fit_draws_the_target_in_one_step(loss):
    model = fit(TwoTimes(), gaussian, loss=loss, steps=1500, batch_size=512, learning_rate=5e-3, ema=0.99).model
    x_0, n = torch.randn(20_000, 2, generator=seeded(1)), 20_000
    with torch.no_grad():
        x_1 = x_0 + model(x_0, torch.zeros(n), torch.ones(n))
        one_euler_step = x_0 + model(x_0, torch.zeros(n), torch.zeros(n))  # of the velocity: all at the mean
    assert (x_1.mean(0) - MEAN).abs().max() < 0.06 and (x_1.std(0) - STD).abs().max() < 0.04
    assert (one_euler_step.std(0) - STD).abs().min() > 0.2  # the bound can tell


def test_masked_tokens_train_through_fit_to_the_posterior_of_the_data():
    share = torch.tensor([[0.30, 0.05, 0.05], [0.02, 0.20, 0.08], [0.10, 0.05, 0.15]])  # of the nine pairs
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3)).repeat_interleave((100 * share).long().flatten(), 0)
    masks = torch.full((1, 2), MASK)
    options = {"steps": 3000, "batch_size": 512, "learning_rate": 3e-2, "ema": 0.998}
    model = fit(Table(), pairs, loss=masked_tokens, source=masks, **options).model
    states = torch.tensor([[MASK, MASK], [MASK, 0], [MASK, 1], [MASK, 2]])
    with torch.no_grad():
        first = model(states, torch.zeros(4))[:, 0].softmax(-1)
    expected = torch.cat([share.sum(1)[None], (share / share.sum(0)).T])
    assert (first - expected).abs().max() < 0.01
    assert (first[1:] - expected[0]).abs().max() > 0.1  # the marginal would not pass


class Circle:
    """The shortest way on the circle, by angles (batch, 1): a path of one's own, as a class with `.sample`."""

    class Point:
        def __init__(self, x_t, velocity):
            self.x_t, self.velocity = x_t, velocity

    def sample(self, x_0, x_1, t):
        way = torch.remainder(x_1 - x_0 + math.pi, 2 * math.pi) - math.pi
        return self.Point(x_0 + t[:, None] * way, way)


class OnCircle(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = models.MLP(3, width=64, depth=2)

    def forward(self, x, t):
        around = torch.cat([x.cos(), x.sin(), torch.zeros_like(x)], 1)
        return self.inner(around, t)[:, :1]


def test_a_geodesic_path_on_the_circle_trains_through_fit():
    """From the uniform law to one peak at pi, across the cut: half of all ways pass it."""
    peak, spread = math.pi, 0.3

    def around(n, generator):
        return peak + spread * torch.randn(n, 1, generator=generator)

    def uniform(n, generator):
        return 2 * math.pi * torch.rand(n, 1, generator=generator)

    loss = VelocityMatching(Circle())
    model = fit(OnCircle(), around, loss=loss, source=uniform, steps=1000, learning_rate=1e-2, ema=0.99).model
    x = uniform(4000, seeded(3))
    with torch.no_grad():
        for k in range(50):
            x = x + model(x, k / 50) / 50
    off = torch.remainder(x - peak + math.pi, 2 * math.pi) - math.pi
    assert abs(off.mean()) < 0.05 and abs(off.std() - spread) < 0.05


def noisy(network, batch):
    """A loss that draws: with its own generator."""
    x = batch.x_1 + torch.randn(batch.x_1.shape, generator=batch.generator)
    return (network(x, batch.t) - batch.x_0).square().mean()


def weights(model):
    return torch.cat([p.flatten() for p in model.parameters()])


def network():
    torch.manual_seed(0)
    return models.MLP(2, width=8, depth=1)


def test_a_loss_that_draws_resumes_to_the_same_bits(tmp_path):
    whole = fit(network(), gaussian, loss=noisy, steps=12)

    def dying(network, batch, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) > 7:
            raise KeyboardInterrupt
        return noisy(network, batch)

    dying.__qualname__ = noisy.__qualname__  # the same loss, but for its death
    with pytest.raises(KeyboardInterrupt):
        fit(network(), gaussian, loss=dying, steps=12, checkpoint=Checkpoints(tmp_path, every=5))
    again = fit(network(), gaussian, loss=noisy, steps=12, checkpoint=Checkpoints(tmp_path, every=5, resume=True))
    assert torch.equal(whole.losses, again.losses) and torch.equal(weights(whole.model), weights(again.model))


def test_the_generator_of_a_batch_depends_on_seed_step_and_process_alone():
    place, data = torch.device("cpu"), torch.randn(100, 2)

    def first(seed, step, rank):
        draw = batches.drawing(data, None, {}, None, 8, seed, place, Processes(rank, 2))
        batch = draw(step)
        return torch.rand(3, generator=batch.generator), batch.t

    runs = {key: first(*key) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert torch.equal(first(0, 0, 0)[0], runs[0, 0, 0][0])
    draws = torch.stack([values for values, _ in runs.values()] + [t[:3] for _, t in runs.values()])
    assert len({tuple(row) for row in draws.tolist()}) == 8  # all differ, from the batch's own draws too


def test_parts_of_a_batch_keep_their_rows_and_draw_on():
    condition = {"label": torch.arange(6), "size": torch.arange(6.0)[:, None]}
    batch = batches.Batch(torch.zeros(6, 1), torch.arange(6.0)[:, None], torch.arange(6.0), condition, seeded(0))
    parts = batch.parts(3)
    assert [part.condition["label"].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    for part in parts:
        assert torch.equal(part.x_1[:, 0], part.t) and torch.equal(part.condition["size"], part.x_1)
    draws = torch.stack([torch.rand(4, generator=part.generator) for part in parts])
    assert len(draws.unique()) == 12


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"accumulate": 2}, {"clip": 0.1}], ids=str)
def test_a_loss_by_jvp_trains_with_every_option(options):
    losses = fit(TwoTimes(8), gaussian, loss=mean_flow, steps=60, batch_size=64, learning_rate=2e-2, **options).losses
    assert losses[-20:].mean() < 0.8 * losses[:5].mean()


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.parametrize("loss", [shortcut, mean_flow])
def test_a_compiled_network_trains_with_a_loss_of_ones_own(loss):
    runs = []
    for compile in (False, True):
        torch.manual_seed(0)
        runs.append(fit(TwoTimes(8), gaussian, loss=loss, steps=3, batch_size=8, compile=compile))
    torch.testing.assert_close(runs[0].losses, runs[1].losses, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(weights(runs[0].model), weights(runs[1].model), atol=1e-4, rtol=1e-3)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(2, 2)

    def forward(self, x, t, s):
        return self.layer(x)[0]


def by_jvp(network, batch):
    rest = (batch.t,) if isinstance(network, Recurrent) else ()
    return torch.func.jvp(lambda x: network(x, batch.t, *rest), (batch.x_1,), (batch.x_0,))[1].square().mean()


def test_a_network_that_jvp_does_not_pass_is_named_in_a_sentence():
    for make, data in [(Recurrent, X), (lambda: models.UNet((1, 8, 8), 8), torch.zeros(4, 1, 8, 8))]:
        with pytest.raises(ValueError, match="torch.func.jvp, which this network did not pass") as error:
            fit(make(), data, loss=by_jvp, steps=1, batch_size=4)
        assert one_sentence(error)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):  # any other error stays what it is
        fit(models.UNet((1, 8, 8), 8), torch.zeros(4, 1, 8, 8), loss=lambda net, b: net.embed.layers(b.x_1), steps=1)


def test_the_network_of_a_loss_gets_its_products_in_bf16_and_gives_float32(monkeypatch):
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x, t):
            seen.append(self.layer(x).dtype)
            return self.layer(x)

    def loss(network, batch):
        value = network(batch.x_1, batch.t)
        seen.append((value.dtype, (batch.x_1 @ batch.x_1.T).dtype))  # the loss's own products keep their format
        return value.square().mean()

    fit(Spy(), gaussian, loss=loss, steps=1, precision="bf16")
    assert seen == [torch.bfloat16, (torch.float32, torch.float32)]


def test_conditions_reach_the_network_and_the_coupling_row_by_row():
    seen = []
    numbers = torch.arange(50.0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))

        def forward(self, x, t, label, angle):
            seen.append((label.clone(), angle.clone()))
            return self.w * x

    def coupling(x_0, x_1, generator=None, *, label, angle):
        assert torch.equal(x_1[:, 0], label.float()) and torch.equal(angle, x_1 / 10)
        return x_0, x_1

    fit(Net(), numbers[:, None], label=numbers.long(), angle=numbers[:, None] / 10, coupling=coupling, steps=2)
    assert all(torch.equal(label[:, None] / 10, angle) for label, angle in seen) and len(seen) == 2


X = torch.zeros(4, 2)
BAD = {
    "a vector": (lambda net, b: net(b.x_1, b.t).mean(0), ValueError, r"one number, got a tensor of shape \(2,\)"),
    "a Python number": (lambda net, b: 0.5, TypeError, "must return a tensor of one number, got 0.5"),
    "nothing": (lambda net, b: None, TypeError, "got None"),
    "no gradient": (lambda net, b: net(b.x_1, b.t).detach().mean(), ValueError, "loss has no gradient"),
    "NaN": (lambda net, b: net(b.x_1, b.t).mean() * math.nan, FloatingPointError, "nan at step 0"),
    "no function": (3, TypeError, r"loss must be a function \(network, batch\), got int 3"),
}


@pytest.mark.parametrize("loss, kind, message", BAD.values(), ids=BAD)
def test_a_bad_loss(loss, kind, message):
    with pytest.raises(kind, match=message) as error:
        fit(network(), X, loss=loss, steps=2)
    assert one_sentence(error)


class Tuple(models.MLP):
    def forward(self, x, t):
        return super().forward(x, t), None


class Old(nn.Module):
    """With the old weight_norm, whose weight is computed and cannot be copied."""

    def __init__(self):
        super().__init__()
        with pytest.warns(FutureWarning):
            self.layer = nn.utils.weight_norm(nn.Linear(2, 2))
        self.layer(X)

    def forward(self, x, t):
        return self.layer(x)


BAD_CALLS = {
    "a tuple": (lambda: Tuple(2, 8, 1), {}, TypeError, "model must return a tensor, got tuple"),
    "a condition too short": (network, {"label": torch.zeros(3).long()}, ValueError, "condition label .* got 3 and 4"),
    "a number as condition": (network, {"label": torch.tensor(3)}, ValueError, "a single number and 4"),
    "a misspelt option": (network, {"step": 5}, TypeError, "no option step.*got step=5; options: loss, source"),
    "a NaN condition": (network, {"angle": torch.full((4,), math.nan)}, ValueError, "angle has 4 NaN"),
    "a lazy layer": (lambda: nn.LazyLinear(2), {}, ValueError, "no shape yet"),
    "half precision": (lambda: network().bfloat16(), {}, TypeError, "float32 or float64 to be trained, got .*bfloat16"),
    "complex weights": (lambda: nn.Linear(2, 2, dtype=torch.complex64), {}, TypeError, "complex64"),
    "old weight_norm": (Old, {}, ValueError, "cannot be copied"),
    "no checkpoint": (network, {"checkpoint": 3}, TypeError, "got 3"),
}


@pytest.mark.parametrize("make, options, kind, message", BAD_CALLS.values(), ids=BAD_CALLS)
def test_a_bad_call(make, options, kind, message):
    with pytest.raises(kind, match=message) as error:
        fit(make(), X, **{"steps": 2} | options)
    assert one_sentence(error) or "options:" in str(error.value)


def test_integers_need_a_source():
    tokens = torch.zeros(4, 2).long()
    for data in (tokens, lambda n, generator: torch.zeros(n, 2).long()):
        with pytest.raises(TypeError, match="int64 needs a source=") as error:
            fit(Table(), data, loss=masked_tokens, steps=1)
        assert one_sentence(error)


def test_another_path_is_another_loss():
    assert VelocityMatching() == VelocityMatching(AffinePath()) != VelocityMatching(AffinePath(Cosine()))
    with pytest.raises(TypeError, match="path must have a method sample.*got int"):
        VelocityMatching(3)


def test_a_network_of_another_loss_is_not_resumed(tmp_path):
    fit(network(), X, steps=2, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="loss was .*CondOT.*, is .*Cosine"):
        loss = VelocityMatching(AffinePath(Cosine()))
        fit(network(), X, loss=loss, steps=2, checkpoint=Checkpoints(tmp_path, resume=True))
    assert checkpoints.load(tmp_path)[1]["steps"] == 2
