"""Densities of flows against closed forms, against autograd's whole Jacobian, and against each other."""

import math

import pytest
import torch
from helpers import F64, one_sentence, seeded
from torch import nn

from fmlib import exact, laws, likelihood, solvers
from fmlib.likelihood import log_likelihood, sample_and_log_prob
from fmlib.models import MLP, ResidualMLP, UNet
from fmlib.sampling import sample

MIXTURE = laws.GaussianMixture.isotropic(torch.tensor([[1.0, 0.5], [-1.2, 0.3]], dtype=F64), 0.5)


def net(dim: int, seed: int = 0, width: int = 16) -> MLP:
    torch.manual_seed(seed)
    return MLP(dim, width, 2).double()


@pytest.mark.parametrize("method, steps, tolerance", [("midpoint", 400, 1e-4), ("rk4", 100, 1e-6), ("heun", 400, 1e-4)])
def test_the_exact_velocity_of_a_mixture_gives_its_density(method, steps, tolerance):
    path = exact.MixturePath(MIXTURE)
    x = MIXTURE.sample(50, seeded(1))
    found = log_likelihood(path.velocity, x, steps=steps, method=method)
    assert (found - MIXTURE.log_density(x)).abs().max() < tolerance


@pytest.mark.parametrize("dims", [(1,), (3,), (2, 2)])
def test_a_linear_flow_in_closed_form(dims):
    """dx/dt = x A^T: x_1 = x_0 e^{A^T}, and the divergence is the trace of A."""
    d = math.prod(dims)
    a = 0.5 * torch.randn(d, d, dtype=F64, generator=seeded(2))
    x = torch.randn(20, *dims, dtype=F64, generator=seeded(3))

    def velocity(x, t):
        return (x.flatten(1) @ a.T).reshape(x.shape)

    x_0 = x.flatten(1) @ torch.linalg.matrix_exp(-a).T
    expected = -0.5 * x_0.square().sum(1) - d / 2 * math.log(2 * math.pi) - a.trace()
    found = log_likelihood(velocity, x, steps=50, method="rk4")
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "rk4"])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_against_an_integral_of_the_whole_jacobian(dim, method):
    """The stages of the method, one by one, each with torch.func's Jacobian."""
    u, x, steps = net(dim), torch.randn(6, dim, dtype=F64, generator=seeded(4)), 7
    weights = {"euler": [1], "midpoint": [0, 1], "heun": [1 / 2, 1 / 2], "rk4": [1 / 6, 1 / 3, 1 / 3, 1 / 6]}[method]
    calls = []

    class Spied(nn.Module):
        rowwise = True  # so that it is not tried at other points

        def forward(self, x, t):
            calls.append((x.detach(), float(t)))
            return u(x, t)

    found = log_likelihood(Spied(), x, steps=steps, method=method)
    assert len(calls) == steps * len(weights)
    total = 0
    for number, (point, t) in enumerate(calls):
        weight = weights[number % len(weights)]
        jacobian = torch.func.vmap(torch.func.jacrev(lambda y, t=t: u(y[None], t)[0]))(point)
        total = total + weight / steps * jacobian.diagonal(dim1=1, dim2=2).sum(1)
    x_0 = sample(u, x, steps=steps, method=method, t=(1, 0))
    expected = likelihood.standard_normal_log_prob(x_0) - total
    torch.testing.assert_close(found, expected.detach(), atol=1e-9, rtol=0)


def test_both_directions_agree():
    u, x_0 = net(3), torch.randn(10, 3, dtype=F64, generator=seeded(5))
    x_1, log_prob = sample_and_log_prob(u, x_0, steps=400)
    torch.testing.assert_close(x_1, sample(u, x_0, steps=400), atol=1e-12, rtol=0)
    torch.testing.assert_close(log_prob, log_likelihood(u, x_1, steps=400), atol=1e-4, rtol=0)
    assert not x_1.requires_grad and not log_prob.requires_grad


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_and_its_error_falls_with_the_probes(noise):
    u, x = net(6), torch.randn(4, 6, dtype=F64, generator=seeded(6))
    truth = log_likelihood(u, x, steps=4)
    spread, options = {}, {"steps": 4, "divergence": "hutchinson", "noise": noise}
    for probes in (1, 16):  # each row has probes of its own
        draws = log_likelihood(u, x.repeat(300, 1), probes=probes, generator=seeded(10), **options).view(300, 4)
        error = draws.std(0) / math.sqrt(300)
        assert ((draws.mean(0) - truth).abs() < 4 * error).all()
        spread[probes] = draws.std(0).mean().item()
    assert spread[1] / spread[16] == pytest.approx(4, rel=0.2)


def test_hutchinson_with_signs_is_exact_for_a_diagonal_jacobian():
    x = torch.randn(5, 3, dtype=F64, generator=seeded(7))
    options = {"steps": 10, "method": "rk4"}

    def velocity(x, t):
        return x.sin()

    estimate = log_likelihood(velocity, x, divergence="hutchinson", generator=seeded(1), **options)
    torch.testing.assert_close(estimate, log_likelihood(velocity, x, **options), atol=1e-10, rtol=0)


def test_probes_follow_the_generator():
    u, x = net(4), torch.randn(4, 4, dtype=F64, generator=seeded(8))
    runs = [log_likelihood(u, x, steps=2, divergence="hutchinson", generator=seeded(s)) for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_in_chunks_as_in_one(divergence):
    torch.manual_seed(0)
    u = ResidualMLP(2, 16, 1, classes=3).double()
    x, y = torch.randn(50, 2, dtype=F64, generator=seeded(9)), torch.arange(50) % 3
    whole, parts = (
        log_likelihood(u, x, steps=3, label=y, divergence=divergence, generator=seeded(1), chunk=rows)
        for rows in (None, 7)
    )
    torch.testing.assert_close(whole, parts, atol=1e-12, rtol=0)


def test_gradients_for_weights_and_points_against_differences():
    u, x = net(2, width=6), torch.randn(3, 2, dtype=F64, generator=seeded(10))
    options = {"steps": 3, "differentiable": True}
    weight = u.layers[0].weight

    def value():
        return log_likelihood(u, x, **options).sum()

    (gradient,) = torch.autograd.grad(value(), weight)
    step = torch.randn(weight.shape, dtype=F64, generator=seeded(11))
    with torch.no_grad():
        weight += 1e-5 * step
        above = value()
        weight -= 2e-5 * step
        below = value()
        weight += 1e-5 * step
    assert (gradient * step).sum().item() == pytest.approx(((above - below) / 2e-5).item(), rel=1e-6)
    assert torch.autograd.gradcheck(lambda x: log_likelihood(u, x, **options), x.clone().requires_grad_())


class Smooth(nn.Module):
    """A network that cannot change fast in time, so that no coarse grid hides what it does between its points."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x, t):
        return self.layers(torch.cat([x, t.expand(len(x), 1)], 1))


def test_a_flow_learns_a_density_by_maximum_likelihood():
    """Target N(m, s^2): the cross entropy on new samples comes to the entropy, which no law can beat."""
    torch.manual_seed(0)
    u, draw = Smooth(), seeded(12)
    optimizer = torch.optim.Adam(u.parameters(), 3e-2)
    for _ in range(150):
        optimizer.zero_grad()
        x = 1.5 + 0.5 * torch.randn(500, 1, generator=draw)
        (-log_likelihood(u, x, steps=8, differentiable=True).mean()).backward()
        optimizer.step()
    new = 1.5 + 0.5 * torch.randn(20_000, 1, generator=draw)
    truth = torch.distributions.Normal(1.5, 0.5).log_prob(new[:, 0])
    gap = truth - log_likelihood(u, new, steps=50)  # its mean is the Kullback-Leibler divergence
    assert -4 * gap.std() / math.sqrt(len(gap)) < gap.mean() < 0.02
    assert (truth - likelihood.standard_normal_log_prob(new)).mean() > 1  # where it began


def test_another_source_and_images():
    x = torch.randn(4, 1, 8, 8, generator=seeded(13))
    torch.manual_seed(0)
    u = UNet((1, 8, 8), 8)
    wide = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1, 8, 8), 2.0), 3)
    x_0 = sample(u, x, steps=2, t=(1, 0))
    options = {"steps": 2, "divergence": "hutchinson"}
    there, here = (
        log_likelihood(u, x, generator=seeded(1), source_log_prob=law, **options) for law in (wide.log_prob, None)
    )
    normal = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1, 8, 8), 1.0), 3)
    torch.testing.assert_close(there - here, wide.log_prob(x_0) - normal.log_prob(x_0), atol=1e-3, rtol=0)


def test_no_graph_is_kept_unless_it_is_asked_for():
    u = net(2)
    x = torch.randn(3, 2, dtype=F64, requires_grad=True)
    assert not log_likelihood(u, x, steps=2).requires_grad
    assert all(p.grad is None for p in u.parameters())


def test_inference_mode_outside_changes_nothing():
    path, x = exact.MixturePath(MIXTURE), MIXTURE.sample(5, seeded(1))
    expected = log_likelihood(path.velocity, x, steps=20)
    with torch.inference_mode():
        torch.testing.assert_close(log_likelihood(path.velocity, x + 0, steps=20), expected, atol=1e-12, rtol=0)
        there = sample_and_log_prob(path.velocity, x, steps=20)[1]
        scaled = log_likelihood(lambda x, t, scale: scale * x, x + 0, scale=torch.full((5, 1), 0.5, dtype=x.dtype))
    torch.testing.assert_close(there, sample_and_log_prob(path.velocity, x, steps=20)[1], atol=1e-12, rtol=0)
    torch.testing.assert_close(scaled, log_likelihood(lambda x, t: 0.5 * x, x), atol=1e-12, rtol=0)


def test_a_velocity_that_stops_gradients_is_refused_and_a_constant_one_is_not():
    x = torch.randn(4, 2, generator=seeded(1)).round()  # so that differences have no rounding
    with pytest.raises(ValueError, match="velocity stops gradients") as error:
        log_likelihood(lambda x, t: -x.detach(), x)
    assert one_sentence(error)

    def centred(x, t):  # moves nowhere as x moves along (1, 1), and yet depends on it
        with torch.no_grad():
            return x - x.mean(1, keepdim=True)

    weights = nn.Linear(2, 2)
    for hidden in (centred, lambda x, t: weights(x.detach())):
        for divergence in ("exact", "hutchinson"):
            with pytest.raises(ValueError, match="velocity stops gradients"):
                log_likelihood(hidden, x, divergence=divergence, steps=1)
    shift = nn.Parameter(torch.tensor([1.0, -2.0]))
    for velocity in (lambda x, t: shift.expand_as(x), lambda x, t: shift.detach().expand_as(x)):
        expected = likelihood.standard_normal_log_prob(x - shift.detach())
        torch.testing.assert_close(log_likelihood(velocity, x, steps=4), expected, atol=1e-5, rtol=0)


def hidden_force(x, t):
    """-3 x, of which autograd sees -x."""
    y = x.detach().requires_grad_()
    with torch.enable_grad():
        (g,) = torch.autograd.grad(-y.square().sum(), y)
    return -x + g


HIDDEN = {
    "force": hidden_force,
    "product": lambda x, t: x * x.detach(),
    "a tenth": lambda x, t: x.sin() - 0.1 * x.detach(),
    "later": lambda x, t: -x - (t - 0.4).clamp(0) * x.detach(),
    "at first": lambda x, t: -x - (0.6 - t).clamp(0) * x.detach(),
    "in the middle": lambda x, t: -x - t * (1 - t) * x.detach(),
    "one coordinate": lambda x, t: torch.cat([-x[:, :1].detach(), -x[:, 1:]], 1),
    "one row": lambda x, t: torch.cat([-x[:1].detach(), -x[1:]]) if len(x) > 1 else -x.detach(),
    "invented": lambda x, t: x - x.detach(),
}


@pytest.mark.parametrize("call", [log_likelihood, sample_and_log_prob])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("velocity", HIDDEN.values(), ids=HIDDEN)
def test_a_velocity_that_hides_a_part_of_its_gradient_is_refused(velocity, dtype, call):
    for seed, n in [(0, 1), (1, 30), (2, 300)]:
        x = torch.randn(n, 3, dtype=dtype, generator=seeded(seed))
        with pytest.raises(ValueError, match="velocity stops gradients") as error:
            call(velocity, x, steps=5, divergence=["exact", "hutchinson"][seed % 2])
        assert one_sentence(error)


def test_a_hidden_part_beside_a_network_in_float32_is_refused():
    """Where nothing can be computed in float64."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 2))
    x = torch.randn(50, 2, generator=seeded(1))
    log_likelihood(lambda x, t: network(x), x, steps=2)
    for velocity in (lambda x, t: network(x) - x.detach(), lambda x, t: network(x.detach())):
        with pytest.raises(ValueError, match="velocity stops gradients"):
            log_likelihood(velocity, x, steps=2)


def kinked(d: int, seed: int, bias: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, 64, bias), nn.ReLU(), nn.Linear(64, 64, bias), nn.ReLU(), nn.Linear(64, d, bias))


def guided(x, t):
    with torch.enable_grad():
        y = x if x.requires_grad else x.detach().requires_grad_()
        (force,) = torch.autograd.grad(-3 * y.sin().sum() + (y**4).sum(), y, create_graph=True)
    return -x + force


def right_velocities(d: int, seed: int, dtype: torch.dtype):
    """Velocities that hide nothing, and what may look like it: kinks, jumps, rounding, steep and flat slopes."""
    network, zero = kinked(d, seed).to(dtype), kinked(d, seed, bias=False).to(dtype)
    single, rough = kinked(d, seed), kinked(d, seed).bfloat16()
    data = torch.randn(20, d, dtype=dtype, generator=seeded(seed))
    mixture = laws.GaussianMixture.isotropic(3 * data[:3], 0.1)
    return {
        "relu": lambda x, t: network(x),
        "wild": lambda x, t: 30 * network(10 * x),
        "relu in float32": lambda x, t: single(x.float()),
        "all kinks at zero": lambda x, t: zero(x),
        "bfloat16": lambda x, t: rough(x.bfloat16()),
        "bfloat16 in disguise": lambda x, t: rough(x.bfloat16()).to(x.dtype),
        "mixture": exact.MixturePath(mixture).velocity,
        "data": exact.DataPath(data).velocity,
        "guided": guided,
        "steep": lambda x, t: -1e6 * x,
        "steep and bent": lambda x, t: torch.sin(1e3 * x),
        "offset": lambda x, t: 1e4 + 0.1 * x,
        "constant": lambda x, t: torch.ones_like(x),
        "clamped": lambda x, t: x.clamp(-1, 1),
        "infinite at one": lambda x, t: (1 - x) / (1 - t),
    }


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", right_velocities(1, 0, F64))
def test_a_right_velocity_is_never_refused(name, dtype):
    for seed, d in enumerate((1, 2, 5, 1, 2, 5, 1, 2)):
        velocity = right_velocities(d, seed, dtype)[name]
        for size, n in [(1.0, 1), (1.0, 300), (0.0, 4), (1e-3, 20)]:
            x = size * torch.randn(n, d, dtype=dtype, generator=seeded(seed))
            for t in (0.0, 0.5, 0.99, 1 - 1e-6, 1.0):
                field, moment = solvers.Field(velocity, x.shape, {}), torch.tensor(t, dtype=dtype)
                likelihood._check_one_value(field, x, moment)
                likelihood._check_gradient(field, x, moment, seed)


def test_a_network_in_bfloat16_by_autocast_is_not_refused():
    network, x = kinked(2, 0), torch.randn(300, 2, generator=seeded(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert log_likelihood(lambda x, t: network(x), x, steps=2).isfinite().all()


class Noisy(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), layer, nn.Tanh(), nn.Linear(16, 2))

    def forward(self, x, t):
        return self.layers(x)


@pytest.mark.parametrize("call", [log_likelihood, sample_and_log_prob])
@pytest.mark.parametrize("layer", [nn.Dropout, lambda: nn.BatchNorm1d(16)], ids=["dropout", "batch norm"])
def test_a_network_left_in_training_mode_is_refused(layer, call):
    network, x = Noisy(layer()), torch.randn(20, 2, generator=seeded(1))
    for velocity in (network, lambda x, t: network(x, t)):
        with pytest.raises(ValueError, match="velocity gives one point two values, .* in training mode") as error:
            call(velocity, x, steps=2)
        assert one_sentence(error)
    network.eval()
    values = [call(network, x, steps=2) for _ in range(2)]
    torch.testing.assert_close(*values, atol=0, rtol=0)
    call(Noisy(nn.Identity()), x, steps=2)  # in training mode, and nothing in it minds


def test_one_noisy_row_is_seen_too():
    with pytest.raises(ValueError, match="two values"):
        log_likelihood(lambda x, t: x + torch.rand_like(x), torch.zeros(1, 2))


def test_a_velocity_that_holds_labels_of_its_own_is_asked_about_all_rows():
    own = torch.arange(7.0)[:, None]
    found = log_likelihood(lambda x, t: own * x, torch.ones(7, 1), steps=400)
    expected = likelihood.standard_normal_log_prob(torch.exp(-own)) - own[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_a_complex_velocity_is_refused():
    for call in (log_likelihood, sample_and_log_prob):
        with pytest.raises(TypeError, match="velocity must return a floating tensor, got torch.complex64"):
            call(lambda x, t: 2j * x, torch.ones(2, 2))


def test_a_start_of_another_format_than_the_weights_is_refused():
    with pytest.raises(TypeError, match="x is float64 and the network's weights are float32: convert one"):
        log_likelihood(MLP(2, 8, 1), torch.ones(2, 2, dtype=F64))


class Wrong(nn.Module):
    def forward(self, x, t):
        return x[:, :1]


BAD = {
    "method": ({"method": "dopri5"}, "unknown method 'dopri5'; known: euler, midpoint, heun, rk4"),
    "steps": ({"steps": 0}, "steps must be at least 1, got 0"),
    "divergence": ({"divergence": "none"}, "unknown divergence 'none'; known: exact, hutchinson"),
    "noise": ({"noise": "uniform"}, "unknown noise 'uniform'; known: rademacher, gaussian"),
    "probes": ({"probes": 0}, "probes must be at least 1, got 0"),
    "source": (
        {"source_log_prob": lambda x: x.sum()},
        r"source_log_prob must return a tensor of shape \(4,\), got \(\)",
    ),
    "chunk": ({"chunk": 0}, "chunk must be at least 1, got 0"),
}


@pytest.mark.parametrize("options, message", BAD.values(), ids=BAD)
def test_bad_options(options, message):
    x = torch.zeros(4, 2)
    for call in (log_likelihood, sample_and_log_prob):
        with pytest.raises(ValueError, match=message) as error:
            call(lambda x, t: -x, x, **options)
        assert one_sentence(error)


def test_bad_points_and_velocities():
    with pytest.raises(ValueError, match=r"velocity must return a tensor of shape \(4, 2\), got \(4, 1\)"):
        log_likelihood(Wrong(), torch.zeros(4, 2))
    with pytest.raises(TypeError, match="velocity must be a callable"):
        log_likelihood(3, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="has 1 NaN"):
        log_likelihood(lambda x, t: x, torch.tensor([[math.nan]]))
