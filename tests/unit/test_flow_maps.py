"""Flow maps: average velocities against closed forms, the losses that train them against plain versions, and jumps."""

import math

import pytest
import torch
from helpers import F64, Counted, normal, one_sentence, seeded, skew_mixture
from torch import nn

from fmlib import checkpoints, fit, models, sample, solvers
from fmlib.batches import Batch
from fmlib.couplings import Paired
from fmlib.exact import MixturePath
from fmlib.objectives import LabelDropout, MeanFlow, Shortcut, VelocityMatching
from fmlib.paths import AffinePath
from fmlib.runs import Checkpoints
from fmlib.sampling import average_velocity
from fmlib.schedules import Cosine

# The average velocity


def grows(x, t):
    """dx/dt = 2 t x, so X_s = x exp(s^2 - t^2)."""
    return 2 * (t[:, None] if isinstance(t, torch.Tensor) and t.ndim else t) * x


def grown(x, t, s):
    t, s = (torch.as_tensor(v, dtype=x.dtype).reshape(-1, 1) for v in (t, s))
    return x * torch.where(s == t, 2 * t, torch.expm1(s**2 - t**2) / (s - t).clamp(min=1e-300))


TIMES = [(0.0, 1.0), (0.3, 0.8), (0.4, 0.4), (1.0, 1.0)]


@pytest.mark.parametrize("t, s", [*TIMES, (torch.tensor([0.0, 0.2, 0.5]), torch.tensor([1.0, 0.2, 0.7]))], ids=str)
def test_average_velocity_of_a_linear_equation(t, s):
    x = normal(3, 2)
    for start, end in ((t, s), tuple(torch.as_tensor(v, dtype=F64) for v in (t, s))):
        torch.testing.assert_close(average_velocity(grows, x, start, end, 50), grown(x, t, s), atol=1e-7, rtol=1e-7)


def test_average_velocity_of_a_rotation_with_friction_by_the_matrix_exponential():
    a = torch.tensor([[-0.3, 2.0], [-2.0, 0.1]], dtype=F64)
    x, t = normal(3, 2), torch.tensor([0.0, 0.25, 0.6], dtype=F64)
    maps = torch.linalg.matrix_exp((1 - t)[:, None, None] * a)
    expected = ((maps @ x[..., None])[..., 0] - x) / (1 - t)[:, None]
    torch.testing.assert_close(average_velocity(lambda x, t: x @ a.T, x, t, 1.0, 120), expected, atol=1e-8, rtol=0)


def test_its_error_falls_as_the_fourth_power_and_takes_one_mean_of_four_calls_a_step():
    x, counted = normal(3, 2), Counted(grows)
    errors = [(average_velocity(grows, x, 0.0, 1.0, n) - grown(x, 0, 1)).norm() for n in (10, 20)]
    assert 14 < errors[0] / errors[1] < 18
    average_velocity(counted, x, 0.2, 0.6, 3)
    assert len(counted.times) == 12 and counted.times[0] == 0.2 and counted.times[-1] == pytest.approx(0.6)


def test_no_call_lies_beyond_the_end_of_time():
    """t + steps h, with h = (1 - t) / steps, is above 1 in one case of twenty."""
    seen, t = [], (torch.rand(1000, generator=seeded(), dtype=F64) ** 3).float()

    def velocity(x, t):
        seen.append(t)
        return torch.zeros_like(x)

    average_velocity(velocity, torch.zeros(1000, 1), t, 1.0, 7)
    assert torch.equal(seen[-1], torch.ones(1000)) and torch.stack(seen).max() == 1


def test_its_derivatives_in_point_and_times():
    velocity = MixturePath(skew_mixture()).velocity
    x, t, s = normal(4, 2), torch.tensor([0.0, 0.1, 0.3, 0.5], dtype=F64), torch.tensor([0.9, 0.1, 0.6, 0.8], dtype=F64)

    def function(x, t, s):
        return average_velocity(velocity, x, t, s, 3)

    inside = x, t + 0.01, s + 0.03
    assert torch.autograd.gradcheck(function, tuple(v.clone().requires_grad_() for v in inside), atol=1e-6)
    ways = normal(4, 2, seed=1), normal(4, seed=2), normal(4, seed=3)
    h = 1e-6
    ahead, behind = (function(*(v + k * h * w for v, w in zip(inside, ways, strict=True))) for k in (1, -1))
    _, slope = torch.func.jvp(function, inside, ways)
    torch.testing.assert_close(slope, (ahead - behind) / (2 * h), atol=1e-7, rtol=1e-6)


def test_it_solves_the_identities_of_mean_flow_and_of_shortcuts():
    velocity, x, t, s = MixturePath(skew_mixture()).velocity, normal(6, 2), 0.1, 0.5
    time = torch.full((6,), t, dtype=F64)

    def average(x, t, s=s):
        return average_velocity(velocity, x, t, s, 10)

    u, v = average(x, time), velocity(x, t)
    _, rate = torch.func.jvp(average, (x, time), (v, torch.ones_like(time)))
    torch.testing.assert_close(u, v + (s - t) * rate, atol=1e-4, rtol=0)
    assert (u - v + (s - t) * rate).abs().max() > 0.1  # the paper's sign, with time towards the noise
    first = average(x, time, 0.3)
    second = average(x + 0.2 * first, 0.3, s)
    torch.testing.assert_close(u, (first + second) / 2, atol=1e-4, rtol=0)
    assert (u - (first + average(x, 0.3, s)) / 2).abs().max() > 0.01  # from the same x


def test_a_condition_reaches_the_velocity():
    speed = torch.tensor([1.0, -2.0, 3.0])[:, None]
    value = average_velocity(lambda x, t, speed: speed.expand_as(x), torch.zeros(3, 2), 0.2, 0.9, 2, speed=speed)
    torch.testing.assert_close(value, speed.expand(3, 2))


# Jumps


def exact_jump(x, t, s, rate=1.0):
    """The average velocity of dx/dt = rate x; the times are numbers or have a value for each row."""
    h = (s - t)[:, None] if s.ndim else s - t
    return x * torch.expm1(rate * h) / h


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_jumps_of_an_exact_map_have_no_error_of_their_own(steps):
    x_0 = normal(5, 2)
    points = sample(exact_jump, x_0, steps=steps, method=solvers.flow_map, return_path=True)
    assert points.nfe == steps and len(points.x) == steps + 1
    torch.testing.assert_close(points.x, x_0 * points.t.exp()[:, None, None])
    assert (sample(lambda x, t: x, x_0, steps=steps, method="euler") - points.x[-1]).abs().max() > 0.1


def awake(network):
    for i, p in enumerate(network.parameters()):
        p.data.copy_(0.3 * normal(*p.shape, seed=i, dtype=p.dtype))
    return network.eval()


def test_jumps_of_a_network_take_rows_in_parts_a_grid_and_labels():
    network = awake(models.ResidualMLP(3, width=16, blocks=1, classes=4, until=True))
    x_0, label, grid = normal(200, 3, dtype=torch.float32), torch.arange(200) % 4, torch.tensor([0.0, 0.7, 1.0])
    x = x_0
    for t, s in ((0.0, 0.7), (0.7, 1.0)):
        x = x + (s - t) * network(x, t, label=label, s=s)
    for chunk in (None, 70, "auto"):
        jumped = sample(network, x_0, steps=grid, method=solvers.flow_map, chunk=chunk, label=label)
        torch.testing.assert_close(jumped, x, atol=1e-5, rtol=1e-5)
    start = x_0.clone().requires_grad_()
    sample(network, start, steps=1, method=solvers.flow_map, differentiable=True, label=label).sum().backward()
    assert start.grad.abs().max() > 0


def test_without_a_second_time_a_flow_map_is_the_velocity():
    network, x = awake(models.MLP(2, 16, 1, until=True)), normal(5, 2, dtype=torch.float32)
    t = torch.linspace(0, 1, 5)
    assert torch.equal(network(x, t), network(x, t, s=t)) and torch.equal(network(x, 0.5), network(x, 0.5, s=0.5))
    assert (network(x, t, s=1.0) - network(x, t)).abs().max() > 0.01
    assert sample(network, x, steps=3).isfinite().all()


NETWORKS = {
    "MLP": lambda: models.MLP(3, 16, 2, until=True),
    "ResidualMLP": lambda: models.ResidualMLP(3, 16, 2, until=True),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_derivatives_of_a_network_in_point_and_times(make):
    network, x = awake(make().double()), normal(4, 3)
    t, s = torch.tensor([0.1, 0.2, 0.5, 0.6], dtype=F64), torch.tensor([0.9, 0.3, 0.8, 0.7], dtype=F64)
    ways, h = (normal(4, 3, seed=1), normal(4, seed=2), normal(4, seed=3)), 1e-6

    def function(x, t, s):
        return network(x, t, s=s)

    ahead, behind = (function(*(v + k * h * w for v, w in zip((x, t, s), ways, strict=True))) for k in (1, -1))
    _, slope = torch.func.jvp(function, (x, t, s), ways)
    torch.testing.assert_close(slope, (ahead - behind) / (2 * h), atol=1e-6, rtol=1e-6)
    assert slope.abs().min() > 1e-4


def test_frequencies_stop_at_the_highest():
    for options, highest in [
        ({}, 64),
        ({"until": True}, 4),
        ({"highest": 7.5}, 7.5),
        ({"until": True, "highest": 9}, 9),
    ]:
        frequencies = models.TimeFeatures(16, **options).frequencies
        torch.testing.assert_close(frequencies[[0, -1]], math.pi * torch.tensor([0.5, highest]))
    assert models.MLP(2).config == {"dim": 2, "width": 128, "depth": 3}  # as runs stored before the second time say


# The losses


class Spy(nn.Module):
    """A small flow map in float64 that remembers what it is asked."""

    def __init__(self):
        super().__init__()
        self.network = awake(models.ResidualMLP(2, 8, 1, classes=3, until=True)).double()
        self.calls = []

    def forward(self, x, t, *, label, s):
        self.calls.append((t, s, label))
        return self.network(x, t, label=label, s=s)


def batch_of(n: int, dtype=F64, seed: int = 0) -> Batch:
    t = torch.rand(n, generator=seeded(seed), dtype=dtype)
    label = {"label": torch.arange(n) % 3}
    return Batch(normal(n, 2, seed=1, dtype=dtype), normal(n, 2, seed=2, dtype=dtype), t, label, seeded(7))


def cosine_point(batch, t):
    """x_t and its velocity on the cosine path, written out."""
    angle = math.pi / 2 * t[:, None]
    x_t = angle.sin() * batch.x_1 + angle.cos() * batch.x_0
    return x_t, math.pi / 2 * (angle.cos() * batch.x_1 - angle.sin() * batch.x_0)


def gradients(loss, network):
    names, weights = zip(*network.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, weights), strict=True))


def mean_flow_row(network, x, t, s, v, label):
    """One row, its derivative by a central difference along the path; with s = t that does not count."""
    if t == s:
        return (network(x, t, label=label, s=s) - v).square().sum()
    h = 1e-5
    with torch.no_grad():
        ahead, behind = (network(x + k * h * v, t + k * h, label=label, s=s) for k in (1, -1))
    target = v + (s - t)[:, None] * (ahead - behind) / (2 * h)
    return (network(x, t, label=label, s=s) - target).square().sum()


def shortcut_row(network, x, t, s, v, label):
    """One row: two half jumps if there are any, else the velocity."""
    if t == s:
        return (network(x, t, label=label, s=s) - v).square().sum()
    half = (s - t) / 2
    with torch.no_grad():
        middle = x + half[:, None] * network(x, t, label=label, s=t + half)
        end = middle + half[:, None] * network(middle, t + half, label=label, s=s)
    return (network(x, t, label=label, s=s) - (end - x) / (s - t)[:, None]).square().sum()


LOSSES = {"mean flow": (MeanFlow, mean_flow_row), "shortcut": (Shortcut, shortcut_row)}
every_loss = pytest.mark.parametrize("kind, row", LOSSES.values(), ids=LOSSES)


@every_loss
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_loss_and_its_gradient_row_by_row(kind, row, share):
    spy, batch = Spy(), batch_of(10)
    loss = kind(AffinePath(Cosine()), share=share)(spy, batch)
    # The last calls on the jumping rows and on the others; a jump's first call may be of another length
    jumps = next(call for call in reversed(spy.calls) if len(call[0]) == 10 * share and (call[1] > call[0]).all())
    rest = next((call for call in spy.calls if len(call[0]) == 10 - 10 * share), jumps)
    parts = [jumps] if share == 1.0 else [jumps, rest]
    t, s, label = (torch.cat([p[i] for p in parts]) for i in range(3))
    assert torch.equal(label, batch.condition["label"]) and (s <= 1).all()
    assert (s > t).sum() == 10 * share and torch.equal(t[s == t], batch.t[int(10 * share) :])
    x_t, v = cosine_point(batch, t)
    expected = sum(row(spy.network, *(a[i : i + 1] for a in (x_t, t, s, v, label))) for i in range(10)) / 20
    torch.testing.assert_close(loss, expected, atol=1e-8, rtol=1e-8)
    found, wanted = gradients(loss, spy.network), gradients(expected, spy.network)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-7, rtol=1e-6)


@every_loss
def test_draws_come_from_the_generator_of_the_batch(kind, row):
    values = [kind()(Spy(), batch_of(8)) for _ in range(2)]
    other = kind()(Spy(), batch_of(8)._replace(generator=seeded(8)))
    assert torch.equal(*values) and values[0] != other


def test_lengths_of_jumps():
    """s is uniform in [t, 1] for mean flow; for shortcuts the length is uniform, and so is the start where it fits."""
    n, seen = 40_000, {}

    class Listener(nn.Module):
        def forward(self, x, t, s):
            seen[len(t)] = t, s
            return 0 * x

    for kind in (MeanFlow, Shortcut):
        batch = Batch(torch.zeros(n, 1), torch.ones(n, 1), torch.rand(n, generator=seeded(1)), {}, seeded(2))
        kind(share=0.75)(Listener(), batch)
        t, s = (v.detach() for v in seen[30_000])
        part = ((s - t) / (1 - t), t) if kind is MeanFlow else (s - t, t / (1 - (s - t)))
        for uniform in part:
            assert abs(uniform.mean() - 0.5) < 4 * 0.2887 / 30_000**0.5 and abs(uniform.std() - 0.2887) < 0.005
        assert abs(torch.corrcoef(torch.stack(part))[0, 1]) < 4 / 30_000**0.5


MEAN, STD = torch.tensor([1.0, -0.5]), 0.4


def gaussian(n, generator=None):
    return MEAN + STD * torch.randn(n, 2, generator=generator)


def exact_map(x, t, s):
    """The flow map to N(m, std^2 I) along straight paths: m s + (x - m t) sqrt(var_s / var_t)."""
    deviation = [math.hypot(r * STD, 1 - r) for r in (t, s)]
    return MEAN * s + (x - MEAN * t) * deviation[1] / deviation[0]


@pytest.mark.parametrize("loss, bound", [(MeanFlow(), 0.24), (Shortcut(), 0.12)], ids=["mean flow", "shortcut"])
def test_training_finds_the_flow_map_of_a_gaussian(loss, bound):
    torch.manual_seed(0)
    network = models.MLP(2, 64, 2, until=True, highest=1.0)
    model = fit(network, gaussian, loss=loss, steps=600, learning_rate=5e-3, ema=0.99, clip=1.0).model
    x_0 = normal(2000, 2, dtype=torch.float32)
    for t, s in ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0)):
        x = exact_map(x_0, 0.0, t)
        jump = sample(model, x, steps=torch.tensor([t, s]), method=solvers.flow_map)
        assert (jump - exact_map(x, t, s)).square().mean().sqrt() < bound  # halfway from 0.14 and 0.04 to Euler's 0.42
    euler = sample(model, x_0, steps=1, method="euler")  # all at the mean
    assert (euler - exact_map(x_0, 0.0, 1.0)).square().mean().sqrt() > 0.35


# In fit


def small():
    torch.manual_seed(0)
    return models.ResidualMLP(2, 8, 1, classes=3, until=True)


ROWS, LABEL = normal(50, 2, dtype=torch.float32), torch.arange(50) % 3


def weights(model):
    return torch.cat([p.flatten() for p in model.parameters()])


@every_loss
def test_a_run_resumes_to_the_same_bits(kind, row, tmp_path):
    options = {"steps": 12, "loss": kind(), "label": LABEL, "batch_size": 16}
    whole = fit(small(), ROWS, **options)

    def stop(done, model):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(small(), ROWS, **options, checkpoint=Checkpoints(tmp_path, every=5), on_step=stop)
    again = fit(small(), ROWS, **options, checkpoint=Checkpoints(tmp_path, every=5, resume=True))
    assert torch.equal(whole.losses, again.losses) and torch.equal(weights(whole.model), weights(again.model))
    stored = checkpoints.load(tmp_path)[0]
    assert torch.equal(weights(stored), weights(again.model)) and stored.config["until"] is True
    with pytest.raises(ValueError, match=f"loss was '{kind.__name__}.*share=0.5.*, is '{kind.__name__}.*share=0.25"):
        other = options | {"loss": kind(share=0.25)}
        fit(small(), ROWS, **other, checkpoint=Checkpoints(tmp_path, resume=True))


@every_loss
@pytest.mark.parametrize("options", [{"accumulate": 4}, {"precision": "bf16"}], ids=str)
def test_a_run_with_options(kind, row, options):
    losses = fit(small(), ROWS, loss=kind(), label=LABEL, steps=24, learning_rate=3e-2, batch_size=64, **options).losses
    assert losses[-8:].mean() < 0.95 * losses[:4].mean()


def test_a_dropout_of_labels_goes_around_a_flow_map():
    loss = LabelDropout(0.5, null=2, loss=MeanFlow())
    assert fit(small(), ROWS, loss=loss, label=LABEL % 2, steps=2, batch_size=8).losses.isfinite().all()


# Bad input

X = torch.zeros(3, 2)
FLOW_MAP = models.MLP(2, 4, 1, until=True)
PLAIN = models.MLP(2, 4, 1)
FAST = models.MLP(2, 4, 1, until=True, highest=64)


def a_batch(t=None, **condition):
    return Batch(X, X + 1, torch.rand(3) if t is None else t, condition, seeded())


JUMP = {"method": solvers.flow_map, "steps": 1}
BAD = {
    "s before t": (lambda: FLOW_MAP(X, 0.5, s=0.25), ValueError, "s must be at least t, got s and t 0.25 and 0.5"),
    "s before t in a row": (
        lambda: FLOW_MAP(X, torch.tensor([0.1, 0.9, 0.2]), s=0.5),
        ValueError,
        "s must be at least t, got s and t 0.5 and 0.9",
    ),
    "s beyond": (lambda: FLOW_MAP(X, 0.5, s=1.5), ValueError, r"s must lie in \[0, 1\], got 1.5"),
    "s of another length": (
        lambda: FLOW_MAP(X, 0.5, s=torch.ones(2)),
        ValueError,
        r"s must have shape \(\) or \(3,\) .*\(2,\)",
    ),
    "s in a column": (lambda: FLOW_MAP(X, 0.5, s=torch.ones(3, 1)), ValueError, r"got \(3, 1\)"),
    "integer s": (lambda: FLOW_MAP(X, 0.5, s=torch.ones(3).long()), TypeError, "s must have a floating dtype"),
    "one time": (lambda: PLAIN(X, 0.5, s=0.7), ValueError, r"one time \(until=False\), so a call takes no s="),
    "until as a number": (lambda: models.MLP(2, until=1), TypeError, "until must be True or False, got 1"),
    "no frequency": (lambda: models.MLP(2, highest=0), ValueError, "highest must be positive"),
    "average back": (lambda: average_velocity(grows, X, 0.5, 0.2), ValueError, "s must be at least t"),
    "average beyond": (lambda: average_velocity(grows, X, -0.1, 0.2), ValueError, r"t must lie in \[0, 1\], got -0.1"),
    "average of no steps": (lambda: average_velocity(grows, X, 0.0, 0.2, 0), ValueError, "steps must be at least 1"),
    "average of no points": (lambda: average_velocity(grows, X[0], 0.0, 0.2), ValueError, "x must have shape"),
    "average broadcast": (
        lambda: average_velocity(lambda x, t: x[:, :1], X, 0.0, 0.2),
        ValueError,
        r"velocity must return a tensor of shape \(3, 2\), got \(3, 1\)",
    ),
    "jumps back": (lambda: sample(FLOW_MAP, X, t=(1, 0), **JUMP), ValueError, "times must increase for this step"),
    "jumps of a velocity": (
        lambda: sample(lambda x, t: x, X, **JUMP),
        ValueError,
        "a flow map needs a network with a second time.*unexpected keyword argument 's'",
    ),
    "jumps of a plain network": (lambda: sample(PLAIN, X, **JUMP), ValueError, "takes no s="),
    "a grid that falls": (
        lambda: sample(FLOW_MAP, X, method=solvers.flow_map, steps=torch.tensor([0.0, 0.9, 0.5])),
        ValueError,
        "rise strictly",
    ),
    "a label too short": (
        lambda: sample(small(), X, label=torch.tensor([0, 1]), **JUMP),
        ValueError,
        r"label must have shape \(3,\), got \(2,\)",
    ),
    "mean flow of one time": (lambda: fit(PLAIN, X, loss=MeanFlow(highest=99)), ValueError, "takes no s="),
    "mean flow of a layer": (
        lambda: fit(nn.Linear(2, 2), X, loss=MeanFlow()),
        ValueError,
        "needs a network with a sec",
    ),
    "shortcut of one time": (lambda: fit(PLAIN, X, loss=Shortcut()), ValueError, "takes no s="),
    "high frequencies": (
        lambda: fit(FAST, X, loss=MeanFlow()),
        ValueError,
        "mean flow diverges under time features of high frequency, got 64 pi, allowed are 8 pi",
    ),
    "no rows jump": (lambda: MeanFlow(share=0), ValueError, r"share must be a number in \(0, 1\], got 0"),
    "all rows and more": (lambda: Shortcut(share=1.5), ValueError, "got 1.5"),
    "the class of a path": (
        lambda: VelocityMatching(AffinePath),
        TypeError,
        r"path must be an inst.*AffinePath\(...\)",
    ),
    "the class of a loss": (lambda: fit(FLOW_MAP, X, loss=MeanFlow), TypeError, r"loss must be a .*MeanFlow\(...\)"),
    "a class that drops": (lambda: LabelDropout(0.1, 3, MeanFlow), TypeError, r"loss must be a .*MeanFlow\(...\)"),
    "the class of a coupling": (lambda: fit(PLAIN, X, coupling=Paired), TypeError, r"coupling must .*Paired\(...\)"),
    "a coupling's name": (lambda: fit(PLAIN, X, coupling="ot"), TypeError, "coupling must be a function .* 'ot'"),
    "one time for all": (lambda: MeanFlow()(FLOW_MAP, a_batch(t=torch.tensor(0.5))), ValueError, r"t must .* got \(\)"),
    "a time as a number": (lambda: Shortcut()(FLOW_MAP, a_batch(t=0.5)), TypeError, "t must be a floating tensor, got"),
    "labels that are none": (
        lambda: LabelDropout(0.1, 3)(PLAIN, a_batch(label=torch.tensor([True, False, True]))),
        TypeError,
        r"label must be integers of shape \(3,\), got torch.bool",
    ),
    "a label too few": (
        lambda: LabelDropout(0.1, 3)(PLAIN, a_batch(label=torch.tensor([1, 2]))),
        TypeError,
        r"label must be integers of shape \(3,\), got torch.int64 of shape \(2,\)",
    ),
    "no path": (lambda: Shortcut(path=Cosine()), TypeError, "path must be an AffinePath, got Cosine"),
}


@pytest.mark.parametrize("call, kind, message", BAD.values(), ids=BAD)
def test_bad_input(call, kind, message):
    with pytest.raises(kind, match=message) as error:
        call()
    assert one_sentence(error)


@every_loss
def test_a_network_that_answers_in_another_shape(kind, row):
    batch = Batch(X, X + 1, torch.rand(3), {}, seeded())
    with pytest.raises(ValueError, match=r"model must return a tensor of shape \(\d, 2\), got \(\d, 1\)") as error:
        kind()(lambda x, t, s: x[:, :1], batch)
    assert one_sentence(error)


@pytest.mark.parametrize("loss", [MeanFlow(share=1.0), Shortcut(share=1.0)], ids=["mean flow", "shortcut"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_network_is_never_asked_about_no_rows(loss, rows):
    """Batch normalisation, for one, would make of none a mean that is no number."""
    asked = []

    def u(x, t, s):
        asked.append(len(x))
        return x * (1 + s - t)[:, None]

    assert loss(u, Batch(X[:rows], X[:rows] + 1, torch.rand(rows), {}, seeded())).isfinite()
    assert set(asked) == {rows}


def test_high_frequencies_are_allowed_where_they_are_asked_for():
    batch = Batch(X, X + 1, torch.rand(3), {}, seeded())
    assert MeanFlow(highest=64.0)(FAST, batch).isfinite()
    assert Shortcut()(FAST, batch).isfinite() and VelocityMatching()(FAST, batch).isfinite()
