import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers import F64, Counted, line_cdf, line_mixture, normal, one_sentence, seeded, skew_mixture
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from fmlib import sampling, solvers
from fmlib.exact import DataPath, MixturePath
from fmlib.models import MLP, ResidualMLP, UNet
from fmlib.sampling import is_rowwise, sample
from fmlib.solvers import maruyama

DETERMINISTIC = [*solvers.FIXED, *solvers.ADAPTIVE]


def swirl(x, t):
    return torch.sin(x) * (1 + t) + x.flip(0) * 0


@pytest.mark.parametrize("kind", ["mixture", "data"])
@pytest.mark.parametrize("t", [0.3, 1.0])
def test_the_exact_velocity_carries_the_source_to_the_marginal(kind, t):
    mixture = line_mixture()
    x_0 = normal(5000, 1)
    if kind == "mixture":
        x = sample(MixturePath(mixture).velocity, x_0, steps=60, method="rk4", t=(0, t))
        assert kstest(x[:, 0].numpy(), line_cdf(mixture, t, 1 - t)).pvalue > 1e-3
        return
    data = torch.tensor([[-2.0], [0.5], [0.9]], dtype=F64)
    x = sample(DataPath(data).velocity, x_0, steps=200, t=(0, t), method="midpoint")
    near = (x - t * data.T).abs().argmin(1)
    if t == 1:  # the flow of a finite data set ends on its rows, each with probability 1/3
        assert (x[:, 0] - data[near, 0]).abs().median() < 1e-3
        assert (near.bincount() - 5000 / 3).abs().max() < 4 * math.sqrt(5000 * 2 / 9)
    else:
        cdf = lambda y: torch.special.ndtr((torch.as_tensor(y)[:, None] - t * data.T) / (1 - t)).mean(1).numpy()  # noqa: E731
        assert kstest(x[:, 0].numpy(), cdf).pvalue > 1e-3


@pytest.mark.parametrize("method", DETERMINISTIC)
def test_there_and_back_again(method):
    path, x_0 = MixturePath(skew_mixture()), normal(10, 2)
    steps = 2000 if method == "euler" else 200
    tolerance = 1e-4 if method == "adaptive_heun" else 1e-6
    solver = solvers.ADAPTIVE[method](tolerance, tolerance) if method in solvers.ADAPTIVE else method
    options = {"steps": steps, "method": solver}
    x_1 = sample(path.velocity, x_0, **options)
    back = sample(path.velocity, x_1, t=(1, 0), **options)
    assert (x_1 - x_0).abs().max() > 0.5
    assert (back - x_0).abs().max() < (0.02 if method in ("euler", "adaptive_heun") else 1e-3)


@pytest.mark.parametrize("method", DETERMINISTIC)
def test_no_graph_by_default_and_one_on_request(method):
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    x_0 = normal(3, 2).requires_grad_()
    assert not sample(lambda x, t: -rate * x, x_0, steps=5, method=method).requires_grad
    with torch.no_grad():  # asked for explicitly, so even here
        x_1 = sample(lambda x, t: -rate * x, x_0, steps=400, method=method, differentiable=True)
    by_rate, by_start = torch.autograd.grad(x_1.sum(), (rate, x_0))
    close = {"rtol": 2e-3, "atol": 1e-4}
    torch.testing.assert_close(by_rate, -x_0.sum() * math.exp(-0.7), **close)
    torch.testing.assert_close(by_start, torch.full_like(x_0, math.exp(-0.7)), **close)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "rk4"])
def test_gradient_through_a_nonlinear_flow(method):
    weight = torch.tensor([[0.3, -0.5], [0.8, 0.1]], dtype=F64, requires_grad=True)

    def run(x_0, w):
        return sample(lambda x, t: torch.tanh(x @ w) * (1 + t), x_0, steps=4, method=method, differentiable=True)

    assert torch.autograd.gradcheck(run, (normal(2, 2).requires_grad_(), weight))


def test_grad_mode_and_module_mode_are_left_as_they_were():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    for training in (True, False):
        net.train(training)
        modes = []

        def velocity(x, t, modes=modes):
            modes.append(net.training)
            return net(x)

        sample(velocity, torch.zeros(2, 2), steps=2)
        assert torch.is_grad_enabled() and net.training == training and set(modes) == {training}


@pytest.mark.parametrize("method", [*DETERMINISTIC, "maruyama"])
def test_condition_reaches_every_call(method):
    label, seen = torch.tensor([3, 1]), []

    def velocity(x, t, label, scale):
        seen.append((label, scale))
        return scale * x

    def score(x, t, label, scale):
        return -velocity(x, t, label, scale)

    solver = maruyama(score) if method == "maruyama" else method
    sample(velocity, normal(2, 2), steps=3, method=solver, label=label, scale=2.0)
    assert seen and all(came is label and scale == 2.0 for came, scale in seen)
    assert len(seen) == 6 or method != "maruyama"  # the score, too, at each of 3 steps


def twice(velocity, x, t, s):
    """A step of one's own: two of Euler's."""
    middle = (t + s) / 2
    return solvers.euler(velocity, solvers.euler(velocity, x, t, middle), middle, s)


@pytest.mark.parametrize("method", [*DETERMINISTIC, "maruyama", twice, solvers.rk4, solvers.bosh3(rtol=1e-3)])
def test_trajectory(method):
    def solver():
        return maruyama(lambda x, t: -x, generator=seeded(5)) if method == "maruyama" else method

    velocity, x_0 = Counted(swirl), normal(3, 2)
    path = sample(velocity, x_0, steps=4, method=solver(), t=(0.2, 1), return_path=True)
    assert path.x.shape == (5, 3, 2) and torch.equal(path.x[0], x_0)
    torch.testing.assert_close(path.t, torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0], dtype=F64))
    assert path.nfe == len(velocity.times)
    end = sample(swirl, x_0, steps=4, method=solver(), t=(0.2, 1))
    assert torch.equal(end, path.x[-1])


@given(
    shape=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    dtype=st.sampled_from([torch.float32, F64]),
    method=st.sampled_from([*solvers.FIXED, "dopri5"]),
    seed=st.integers(0, 99),
)
def test_shape_dtype_and_batch_order(shape, dtype, method, seed):
    x_0 = normal(*shape, seed=seed, dtype=dtype)
    before, path = x_0.clone(), MixturePath(line_mixture())

    def velocity(x, t):
        return path.velocity(x.reshape(-1, 1), t).reshape(x.shape)

    x_1 = sample(velocity, x_0, steps=3, method=method)
    assert x_1.shape == x_0.shape and x_1.dtype == dtype and torch.equal(x_0, before)
    torch.testing.assert_close(sample(velocity, x_0.flip(0), steps=3, method=method).flip(0), x_1)


def test_randomness_comes_from_the_generator_alone():
    def run(method):
        return sample(swirl, torch.zeros(5, 2), steps=4, method=method)

    one, same, other = (maruyama(lambda x, t: -x, generator=seeded(seed)) for seed in (1, 1, 2))
    before, first = torch.get_rng_state(), run(one)
    assert torch.equal(first, run(same)) and not torch.equal(first, run(other))
    run("midpoint")
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_passed_on():
    score = lambda x, t: torch.zeros_like(x)  # noqa: E731
    x_0 = torch.zeros(20_000, 1, dtype=F64)
    for noise, std in [(0.5, 0.5), (lambda t: 3 * t, math.sqrt(9 * sum((i / 50) ** 2 for i in range(50)) / 50))]:
        x = sample(lambda x, t: 0 * x, x_0, method=maruyama(score, noise, seeded()))
        assert abs(x.std().item() / std - 1) < 4 / math.sqrt(2 * 20_000)


def test_tolerances_reach_the_adaptive_solver():
    coarse, fine = (
        sample(swirl, normal(3, 2), method=solvers.dopri5(error, error), return_path=True, steps=1)
        for error in (1e-2, 1e-9)
    )
    assert fine.nfe > coarse.nfe
    with pytest.raises(ValueError, match="max_nfe=20"):
        sample(lambda x, t: -1e6 * x, normal(3, 2), method=solvers.dopri5(max_nfe=20))


X = torch.zeros(3, 2)
BAD = {
    "no steps": ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
    "negative steps": ({"steps": -3}, ValueError, "got -3"),
    "half a step": ({"steps": 2.5}, TypeError, "steps must be an integer, got 2.5"),
    "true steps": ({"steps": True}, TypeError, "got True"),
    "method": ({"method": "magic"}, ValueError, "unknown method 'magic'; known: euler, .*dopri5, .*adaptive_heun"),
    "late": ({"t": (0, 1.5)}, ValueError, r"\(0, 1.5\)"),
    "early": ({"t": (-0.5, 1)}, ValueError, r"\(-0.5, 1\)"),
    "no interval": ({"t": (0.5, 0.5)}, ValueError, r"\(0.5, 0.5\)"),
    "NaN": ({"t": (0, float("nan"))}, ValueError, "nan"),
    "number": ({"t": 1.0}, TypeError, "t must be a pair .* got 1.0"),
    "triple": ({"t": (0, 0.5, 1)}, TypeError, r"got \(0, 0.5, 1\)"),
    "old noise": ({"method": "euler_maruyama"}, ValueError, r"write method=solvers.maruyama\(score\)"),
    "equal in float32": ({"t": (0.5, 0.5 + 1e-9)}, ValueError, r"differ in torch.float32, got \(0.5, 0.500000001\)"),
    "steps of nothing": ({"t": (0.5, 0.500001)}, ValueError, "steps must be few enough for times that differ"),
    "chunk of nothing": ({"method": "dopri5", "chunk": 0}, ValueError, "chunk must be at least 1, got 0"),
    "chunk in words": ({"differentiable": True, "chunk": "some"}, TypeError, "chunk must be an integer, got 'some'"),
    "NaN velocity": ({"method": "dopri5", "velocity": lambda x, t: x * math.nan}, ValueError, "found no step that"),
    "backward noise": ({"method": maruyama(swirl), "t": (1, 0)}, ValueError, "times must increase .* got 1 to 0"),
    "flat score": ({"method": maruyama(lambda x, t: x[:, :1])}, ValueError, r"score .*\(3, 1\)"),
    "flat step": ({"method": lambda u, x, t, s: x[:, :1]}, ValueError, r"a step must return .*\(3, 1\)"),
}


@pytest.mark.parametrize("options, kind, message", BAD.values(), ids=BAD)
def test_bad_options(options, kind, message):
    with pytest.raises(kind, match=message) as error:
        sample(**({"velocity": swirl, "x_0": X} | options))
    assert one_sentence(error)


BAD_STARTS = {
    "integers": (X.long(), TypeError, "x_0 .*int64"),
    "empty": (X[:0], ValueError, "empty"),
    "NaN": (X * torch.nan, ValueError, "x_0 has 6 NaN"),
    "infinite": (X + torch.inf, ValueError, "x_0 has 6 NaN or infinite"),
    "one axis": (X[0], ValueError, r"\(2,\)"),
    "bfloat16": (X.bfloat16(), TypeError, "x_0 must be float32 or float64, got torch.bfloat16"),
    "float16": (X.half(), TypeError, "x_0 must be float32 or float64, got torch.float16"),
}


@pytest.mark.parametrize("x_0, kind, message", BAD_STARTS.values(), ids=BAD_STARTS)
def test_bad_starts(x_0, kind, message):
    with pytest.raises(kind, match=message) as error:
        sample(swirl, x_0)
    assert one_sentence(error)


@pytest.mark.parametrize("method", ["euler", "dopri5"])
@pytest.mark.parametrize(
    "velocity, kind, message",
    [
        (lambda x, t: x[:, :1], ValueError, r"shape \(3, 2\), got \(3, 1\)"),
        (lambda x, t: x[0], ValueError, r"shape \(3, 2\), got \(2,\)"),
        (lambda x, t: 0.0, ValueError, "got float"),
        (lambda x, t: 2j * x, TypeError, "velocity must return a floating tensor, got torch.complex64"),
        (lambda x, t: x.long(), TypeError, "velocity must return a floating tensor, got torch.int64"),
        (lambda x, t: x.to("meta"), ValueError, "velocity must return a tensor on cpu, got meta"),
        (None, TypeError, "velocity must be a callable .* NoneType"),
    ],
)
def test_a_velocity_is_never_broadcast(method, velocity, kind, message):
    with pytest.raises(kind, match=message) as error:
        sample(velocity, X, method=method)
    assert one_sentence(error)


# Chunks, precision, recorded steps, thinned paths


def small(dim: int = 2) -> MLP:
    torch.manual_seed(0)
    return MLP(dim, 16, 2)


@pytest.mark.parametrize("return_path", [False, True])
def test_in_chunks_as_in_one_with_conditions_cut_alike(return_path):
    torch.manual_seed(0)
    model, x_0, y = ResidualMLP(2, 16, 1, classes=5), torch.randn(103, 2), torch.arange(103) % 5
    whole, parts = (sample(model, x_0, steps=4, chunk=rows, label=y, return_path=return_path) for rows in (None, 10))
    if return_path:
        assert torch.equal(whole.t, parts.t) and whole.nfe == parts.nfe == 8
        whole, parts = whole.x, parts.x
    torch.testing.assert_close(whole, parts, atol=1e-6, rtol=0)


def test_auto_chunks_fit_the_cache_and_are_for_networks_on_the_cpu_alone(monkeypatch):
    monkeypatch.setattr(sampling, "PART", 2**20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    sizes = []

    forward = MLP.forward
    monkeypatch.setattr(MLP, "forward", lambda self, x, t: sizes.append(len(x)) or forward(self, x, t))
    x_0 = torch.randn(3000, 2)
    sample(MLP(2, 512, 1), x_0, steps=1, method="euler")
    assert sizes == [1024, 1024, 952]  # 2 MB of 512 numbers of 4 bytes
    sizes.clear()
    sample(lambda x, t: sizes.append(len(x)) or x, x_0, steps=1, method="euler")

    class Other(MLP):
        """Its rows may depend on each other."""

    sample(Other(2, 512, 1), x_0, steps=1, method="euler")
    assert sizes == [3000, 3000]


@pytest.mark.parametrize("noise", [lambda t: torch.ones(5, 1), math.nan, "much", lambda t: None])
def test_noise_is_a_number(noise):
    with pytest.raises(ValueError, match="noise must be, or return, a finite number or a 0-d tensor, got") as error:
        sample(lambda x, t: x, torch.zeros(1, 2), method=maruyama(lambda x, t: x, noise))
    assert one_sentence(error)


def test_a_thinned_path_holds_every_second_point():
    model, x_0 = small(), torch.randn(5, 2)
    full, thin = (sample(model, x_0, steps=6, return_path=True, every=every) for every in (1, 2))
    assert torch.equal(full.x[::2], thin.x) and torch.equal(full.t[::2], thin.t) and full.nfe == thin.nfe == 12
    with pytest.raises(ValueError, match="every must divide the number of steps, got 4 and 6"):
        sample(model, x_0, steps=6, return_path=True, every=4)


def test_bfloat16_is_for_float32():
    with pytest.raises(ValueError, match="precision 'bf16' is for products of float32 numbers, got float64"):
        sample(MLP(2, 8, 1).double(), X.double(), precision="bf16")


def test_a_score_may_use_autograd_beside_a_network_of_ours():
    """And leaves nothing behind in a path that keeps what it has computed."""

    def score(x, t):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(-0.5 * x.square().sum(), x)[0]

    torch.manual_seed(0)
    network, x_0 = MLP(2, 8, 1), normal(4, 2).float()
    there, here = (
        sample(network, x_0, method=maruyama(s, generator=seeded()), steps=5) for s in (score, lambda x, t: -x)
    )
    torch.testing.assert_close(there, here)
    path = DataPath(normal(5, 2).float())
    with torch.inference_mode():
        path.x_1(x_0, 0.5)
    x = x_0.clone().requires_grad_()
    path.x_1(x, 0.5).sum().backward()
    assert x.grad.isfinite().all()


def test_bfloat16_is_close_and_the_state_keeps_its_format():
    model, x_0 = small(), torch.randn(200, 2)
    exact, rough = (sample(model, x_0, steps=10, precision=name) for name in ("float32", "bf16"))
    assert rough.dtype == torch.float32 and not torch.equal(rough, exact)
    assert (rough - exact).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "rk4"])
def test_recorded_steps_are_the_steps(method, every):
    """Without a GPU the recorder is the function itself: tensors are reused, times fed in, results the same."""
    model, x_0, times = small(), torch.randn(5, 2), torch.linspace(1, 0, 7)
    with torch.no_grad():
        plain = solvers.follow(solvers.FIXED[method], model, x_0, times, every)
        step, record = solvers.FIXED[method], lambda advance: advance
        recorded = solvers.solve_graphed(step, model, x_0, times, every, record)
    torch.testing.assert_close(recorded, plain, atol=1e-7, rtol=0)


def test_samples_of_a_network_may_be_trained_on():
    x = sample(small(), torch.randn(4, 2), steps=2)
    assert not x.is_inference() and not x.requires_grad
    (x.requires_grad_() ** 2).sum().backward()


@pytest.mark.parametrize("method", solvers.ADAPTIVE)
def test_adaptive_on_a_grid_against_scipy(method):
    from scipy.integrate import solve_ivp

    x_0 = torch.randn(3, 2, dtype=torch.float64)
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)

    def velocity(x, t):
        return torch.stack([x[:, 1], -(4 + t) * x[:, 0]], 1)

    rtol = {"bosh3": 1e-7, "adaptive_heun": 1e-6}.get(method, 1e-8)  # of a low order, thousands of steps otherwise
    solver = solvers.ADAPTIVE[method](rtol, rtol / 10)
    found = sample(velocity, x_0, method=solver, steps=times, return_path=True)
    for i, start in enumerate(x_0.numpy()):
        truth = solve_ivp(
            lambda t, x: [x[1], -(4 + t) * x[0]], (0, 1), start, t_eval=times.numpy(), rtol=1e-10, atol=1e-12
        )
        torch.testing.assert_close(found.x[:, i], torch.from_numpy(truth.y.T), atol=3e-5, rtol=0)
    assert found.nfe > 10 and torch.equal(found.t, times)


def test_adaptive_there_and_back():
    x_0, tight = torch.randn(4, 2, dtype=torch.float64), solvers.dopri5(1e-9, 1e-9)
    there = sample(lambda x, t: -x, x_0, method=tight)
    torch.testing.assert_close(there, x_0 * math.exp(-1), atol=1e-8, rtol=0)
    back = sample(lambda x, t: -x, there, method=tight, t=(1.0, 0.0))
    torch.testing.assert_close(back, x_0, atol=1e-7, rtol=0)


# A grid of times, a step of one's own, whole numbers of NumPy's


@pytest.mark.parametrize("method", ["euler", "midpoint", twice])
def test_a_grid_of_times_by_hand(method):
    """For dx/dt = x each step multiplies by a polynomial of its own length."""
    grid = torch.tensor([0.1, 0.15, 0.5, 0.9], dtype=F64)
    growth = {"euler": lambda h: 1 + h, "midpoint": lambda h: 1 + h + h**2 / 2, twice: lambda h: (1 + h / 2) ** 2}
    points = torch.cat([torch.ones(1, dtype=F64), growth[method](grid.diff())]).cumprod(0)
    path = sample(lambda x, t: x, torch.ones(1, 1, dtype=F64), steps=grid, method=method, return_path=True)
    torch.testing.assert_close(path.x[:, 0, 0], points, rtol=1e-14, atol=0)
    assert torch.equal(path.t, grid) and path.nfe == 3 * (1 if method == "euler" else 2)
    thin = sample(lambda x, t: x, torch.ones(1, 1), steps=grid, method=method, return_path=True, every=3)
    torch.testing.assert_close(thin.x[:, 0, 0], points[[0, -1]].float())
    assert thin.t.dtype == thin.x.dtype == torch.float32
    equal = sample(swirl, normal(3, 2), steps=torch.linspace(0, 1, 6, dtype=F64), method=method)
    assert torch.equal(equal, sample(swirl, normal(3, 2), steps=5, method=method))


def test_a_grid_may_be_learned():
    """x -> (1 + a)(1 + b)(1 + c): the derivative with respect to the inner times, by hand."""
    grid = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=F64, requires_grad=True)
    x = sample(lambda x, t: x, torch.ones(1, 1, dtype=F64), steps=grid, method="euler", differentiable=True)
    (found,) = torch.autograd.grad(x.sum(), grid)
    a, b, c = grid.detach().diff() + 1
    torch.testing.assert_close(found, torch.stack([-b * c, b * c - a * c, a * c - a * b, a * b]))
    assert not sample(lambda x, t: x, X, steps=grid, return_path=True).t.requires_grad


BAD_GRIDS = {
    "falls": ([0.0, 0.5, 0.2, 1.0], {}, ValueError, "rise strictly within .* got 0.5 then 0.2"),
    "falls all the way": ([1.0, 0.0], {}, ValueError, "got 1 then 0"),
    "repeats": ([0.0, 0.25, 0.25], {}, ValueError, "got 0.25 then 0.25"),
    "repeats in float32": ([0.0, 0.25, 0.25 + 1e-10], {}, ValueError, "in torch.float32, got 0.25 then 0.25"),
    "late": ([0.0, 0.5, 1.2], {}, ValueError, r"within \[0, 1\], in torch.float32, got 1.2"),
    "early": ([-0.5, 0.5], {}, ValueError, "got -0.5"),
    "NaN": ([0.0, math.nan, 1.0], {}, ValueError, "nan"),
    "one": ([0.5], {}, TypeError, r"two or more times, got torch.float64 of shape \(1,\)"),
    "table": ([[0.0, 1.0]], {}, TypeError, r"of shape \(1, 2\)"),
    "beside t": ([0.0, 1.0], {"t": (0.0, 0.5)}, ValueError, r"got t=\(0.0, 0.5\) with a grid"),
    "every": ([0.0, 0.5, 1.0], {"return_path": True, "every": 3}, ValueError, "got 3 and 2"),
}


@pytest.mark.parametrize("method", ["euler", "dopri5"])
@pytest.mark.parametrize("grid, options, kind, message", BAD_GRIDS.values(), ids=BAD_GRIDS)
def test_bad_grids(grid, options, kind, message, method):
    with pytest.raises(kind, match=message) as error:
        sample(swirl, X, steps=torch.tensor(grid, dtype=F64), method=method, **options)
    assert one_sentence(error)


@pytest.mark.parametrize("steps", [torch.tensor([0, 1]), torch.tensor(5), [0.0, 1.0]])
def test_a_grid_is_a_floating_tensor(steps):
    with pytest.raises(TypeError, match="steps must be an integer") as error:
        sample(swirl, X, steps=steps)
    assert one_sentence(error)


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint32])
def test_whole_numbers_of_numpy_are_whole_numbers(kind):
    x_0 = normal(7, 2)
    plain = sample(swirl, x_0, steps=4, every=2, chunk=3, return_path=True)
    found = sample(swirl, x_0, steps=kind(4), every=kind(2), chunk=kind(3), return_path=True)
    assert torch.equal(found.x, plain.x) and found.nfe == plain.nfe == 8


def test_a_step_of_ones_own_takes_all_rows_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(sampling, "PART", 2**10)
    sizes, x_0, label = [], normal(200, 2).float(), torch.arange(200) % 5

    def step(velocity, x, t, s):
        sizes.append((len(x), len(velocity.condition["label"])))
        return solvers.midpoint(velocity, x, t, s)

    torch.manual_seed(0)
    model = ResidualMLP(2, 16, 1, classes=5)
    whole = sample(model, x_0, steps=1, method=step, label=label, return_path=True)
    assert sizes == [(200, 200)] and whole.nfe == 2
    parts = sample(model, x_0, steps=1, method=step, label=label, return_path=True, chunk=150)
    assert sizes[1:] == [(150, 150), (50, 50)] and parts.nfe == 2
    torch.testing.assert_close(parts.x, whole.x, atol=1e-6, rtol=0)
    torch.testing.assert_close(sample(model, x_0, steps=1, label=label), whole.x[-1], atol=1e-6, rtol=0)


def test_a_step_of_ones_own_may_use_autograd_with_a_network_of_ours():
    def restoring(velocity, x, t, s):
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            (pull,) = torch.autograd.grad(-0.5 * y.square().sum(), y)
        return x + (s - t) * (velocity(x, t) + pull)

    model, x_0 = small(), normal(4, 2).float()
    by_hand = x_0
    for i in range(4):
        by_hand = by_hand + 0.25 * (model(by_hand, i / 4) - by_hand)
    torch.testing.assert_close(sample(model, x_0, method=restoring, steps=4), by_hand.detach())


def test_the_condition_of_a_noisy_step_is_cut_alike():
    """A drift of its own for each row, and the score's balance: without the right condition the law is another."""
    n, target = 40_000, torch.tensor([-1.0, 1.0], dtype=F64).repeat(20_000)[:, None]

    def velocity(x, t, mean):
        return mean + 0 * x

    def score(x, t, mean):
        return -(x - t * mean)

    step = maruyama(score, 1.0, seeded(3))
    x = sample(velocity, normal(n, 1), method=step, steps=50, mean=target, chunk=15_000)
    for mean, rows in [(-1.0, x[::2]), (1.0, x[1::2])]:
        assert abs(rows.mean().item() - mean) < 4 / math.sqrt(n / 2)
        assert abs(rows.std().item() - 1) < 0.02


# rowwise


@dataclasses.dataclass
class Half:
    """A velocity made of another, as guidance is: not a module, and it passes the promise on."""

    network: object
    rowwise = True

    def __call__(self, x, t):
        self.sizes.append(len(x))
        return self.network(x, t) / 2

    def parameters(self):
        return self.network.parameters()


def test_a_wrapper_that_says_so_goes_in_parts(monkeypatch):
    monkeypatch.setattr(sampling, "PART", 2**20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    x_0, wrapper = torch.randn(3000, 2), Half(MLP(2, 512, 1))
    for method in ("euler", solvers.euler):
        wrapper.sizes = []
        parts = sample(wrapper, x_0, steps=1, method=method)
        assert wrapper.sizes == [1024, 1024, 952]  # as its network alone
    for options in ({"chunk": None}, {"method": "bosh3"}, {"differentiable": True}, {"method": twice}):
        wrapper.sizes = []
        whole = sample(wrapper, x_0, **({"steps": 1, "method": "euler"} | options))
        assert set(wrapper.sizes) == {3000}
        if "chunk" in options:
            torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)


def test_who_promises_to_be_rowwise():
    def function(x, t):
        return x

    class Other(MLP):
        """Its rows may depend on each other: a promise is not inherited."""

    assert not any(is_rowwise(v) for v in (function, Other(2, 8, 1), torch.nn.Linear(2, 2), math.sin))
    assert all(is_rowwise(v) for v in (MLP(2, 8, 1), ResidualMLP(2, 8, 1), UNet((1, 4, 4), 8), Half(None)))
    function.rowwise = True
    assert is_rowwise(function)
    function.rowwise = False
    assert not is_rowwise(function)


def test_a_rowwise_wrapper_may_use_autograd_inside():
    """Inference mode is for modules alone."""

    def guided(x, t):
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            return torch.autograd.grad(-0.5 * y.square().sum(), y)[0]

    wrapper = Half(guided)
    wrapper.parameters, wrapper.sizes = list, []
    torch.testing.assert_close(sample(wrapper, X + 1, steps=100), (X + 1) * math.exp(-0.5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("make", [lambda: MLP(2, 8, 1), lambda: torch.nn.Linear(2, 2), lambda: UNet((1, 4, 4), 8)])
@pytest.mark.parametrize("wide", [True, False])
def test_a_start_and_weights_of_two_formats_are_one_clear_error(make, wide):
    network = make()
    velocity = network if not isinstance(network, torch.nn.Linear) else Plain(network)
    x_0 = torch.zeros(3, 1, 4, 4) if isinstance(network, UNet) else X
    x_0, velocity = (x_0.double(), velocity) if wide else (x_0, velocity.double())
    formats = ("float64", "float32") if wide else ("float32", "float64")
    message = "x(_0)? is {} and the network's weights are {}: convert one of them".format(*formats)
    with pytest.raises(TypeError, match=message) as error:
        sample(velocity, x_0)
    assert one_sentence(error)
    assert sample(velocity, x_0.to(next(network.parameters()).dtype), steps=1).dtype == getattr(torch, formats[1])


class Plain(torch.nn.Module):
    """A network of somebody else's."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, t):
        return self.layer(x)


@pytest.mark.parametrize("x_0", [X, X.double()])
def test_an_error_of_the_network_itself_passes(x_0):
    class Broken(Plain):
        def forward(self, x, t):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="^mine$"):
        sample(Broken(torch.nn.Linear(2, 2)), x_0)
