"""On a GPU everything gives what it gives on the CPU, and a stopped run goes on bit for bit. Skipped without one."""

import os
import subprocess
import sys

import pytest
import torch
from helpers import F64, normal, skew_mixture

from fmlib import (
    AffinePath,
    Checkpoints,
    couplings,
    exact,
    fit,
    guidance,
    likelihood,
    manifolds,
    metrics,
    models,
    objectives,
    paths,
    sample,
    sampling,
    schedules,
    solvers,
    tokens,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
X, Y, T = normal(64, 2), normal(64, 2, seed=1), torch.linspace(0.05, 0.95, 64, dtype=F64)
LABEL = torch.arange(64) % 3


def moved(value):
    """`value` on the GPU: a tensor, a network, or a frozen dataclass of tensors."""
    if isinstance(value, (torch.Tensor, torch.nn.Module)):
        return value.cuda()
    fields = getattr(value, "__dataclass_fields__", None)
    return type(value)(**{name: moved(getattr(value, name)) for name in fields}) if fields else value


def alike(function, *arguments, tolerance=1e-10):
    """function(*arguments) is the same on both devices, and stays where its arguments are."""
    torch.manual_seed(0)
    here = function(*arguments)
    torch.manual_seed(0)
    there = function(*map(moved, arguments))
    for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (here, there)), strict=True):
        if isinstance(a, torch.Tensor):
            assert b.is_cuda and a.dtype == b.dtype
            a, b = a.detach(), b.detach().cpu()
        assert torch.as_tensor(b).double().allclose(torch.as_tensor(a).double(), atol=tolerance, rtol=tolerance)


def network(**options):
    torch.manual_seed(0)
    made = models.MLP(2, width=32, depth=2, **options).double()
    return made.requires_grad_(False)


def labelled():
    torch.manual_seed(0)
    made = models.ResidualMLP(2, width=32, blocks=2, classes=4).double().requires_grad_(False)
    for weight in made.parameters():  # its last layer starts at zero
        weight.add_(0.1 * torch.randn_like(weight))
    return made


@pytest.mark.parametrize("name", ["log_density", "posterior", "velocity", "x_0", "x_1", "score", "covariance"])
def test_the_exact_path_of_a_mixture(name):
    law = skew_mixture()
    alike(lambda law, x, t: getattr(exact.MixturePath(law), name)(x, t), law, X, T)
    alike(lambda law, x: law.tilt(quadratic=torch.eye(2, dtype=F64, device=x.device))[1], law, X)
    assert law.sample(5).shape == moved(law).sample(5).shape and moved(law).sample(5).is_cuda


@pytest.mark.parametrize("name", ["log_density", "posterior", "velocity", "x_0", "x_1", "score"])
def test_the_exact_path_of_data(name):
    alike(lambda data, x, t: getattr(exact.DataPath(data), name)(x, t), Y, X, T, tolerance=1e-8)


def test_paths_and_rescheduling():
    alike(lambda a, b, t: tuple(AffinePath(schedules.Cosine()).sample(a, b, t)), X, Y, T)
    velocity = exact.MixturePath(moved(skew_mixture())).velocity
    other = paths.reschedule(velocity, schedules.CondOT(), schedules.Cosine())
    truth = exact.MixturePath(moved(skew_mixture()), schedules.Cosine()).velocity
    torch.testing.assert_close(other(X.cuda(), T.cuda()), truth(X.cuda(), T.cuda()))


@pytest.mark.parametrize("coupling", [couplings.MinibatchOT(), couplings.Aligned()])
def test_couplings(coupling):
    clouds = normal(16, 5, 2), normal(16, 5, 2, seed=1)
    alike(lambda a, b: coupling(a, b), *(clouds if isinstance(coupling, couplings.Aligned) else (X, Y)))


def test_couplings_within_labels():
    alike(lambda a, b, label: couplings.MinibatchOT(within_labels=True)(a, b, label=label), X, Y, LABEL)
    alike(lambda a, b, c: couplings.MinibatchOT(condition_weight=2.0)(a, b, c=c), X, Y, T[:, None])


@pytest.mark.parametrize("manifold", [manifolds.Sphere(), manifolds.Torus(), manifolds.Hyperboloid()])
def test_manifolds(manifold):
    generator = torch.Generator().manual_seed(0)
    if isinstance(manifold, manifolds.Hyperboloid):
        x, y = (manifold.project(normal(20, 3, seed=seed)) for seed in (0, 1))
    else:
        x, y = (manifold.uniform(20, 2, generator=generator, dtype=F64) for _ in range(2))
    alike(lambda x, y: manifold.exp(x, 0.5 * manifold.log(x, y)), x, y)
    alike(lambda x, y, t: tuple(paths.GeodesicPath(manifold).sample(x, y, t)), x, y, T[:20])
    alike(lambda x, y: manifold.distance(x, y), x, y)


@pytest.mark.parametrize("metric", [metrics.energy_distance, metrics.mmd, metrics.nearest_distance])
def test_metrics(metric):
    alike(metric, X, Y)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("method", [*solvers.FIXED, *solvers.ADAPTIVE])
def test_sampling(method, dtype):
    tolerance = 1e-4 if dtype == torch.float32 else 1e-6 if method in solvers.ADAPTIVE else 1e-10
    alike(lambda net, x: sample(net, x, steps=8, method=method), network().to(dtype), X.to(dtype), tolerance=tolerance)


def test_sampling_keeps_the_way_and_the_condition():
    alike(lambda net, x, y: sample(net, x, steps=8, label=y), labelled(), X, LABEL)
    alike(lambda net, x, y: sample(net, x, steps=8, label=y, return_path=True, every=2).x, labelled(), X, LABEL)
    alike(lambda net, x: sample(net, x, steps=8, t=(1.0, 0.0)), network(), X)
    alike(lambda net, x: sample(net, x, steps=torch.linspace(0, 1, 6, dtype=F64, device=x.device) ** 2), network(), X)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.2, 0.7)])
def test_guided_sampling(interval):
    """An interval makes steps do different work at different times, which one recorded step could not."""
    alike(
        lambda net, x, y: sample(guidance.classifier_free(net, 2.0, 3, interval), x, steps=10, label=y),
        labelled(),
        X,
        LABEL,
    )
    alike(
        lambda net, x, y: sample(
            guidance.classifier(network().to(x.device), lambda x, t, label: -(x**2).sum(1) * (1 + label)),
            x,
            steps=6,
            t=(0.1, 1.0),
            label=y,
        ),
        labelled(),
        X,
        LABEL,
    )


@pytest.mark.parametrize("rows, steps, recorded", [(16, 20, True), (16, 4, False), (30_000, 20, False)])
def test_many_steps_of_a_small_batch_are_recorded(monkeypatch, rows, steps, recorded):
    net, seen = network().cuda(), []
    monkeypatch.setattr(solvers, "cuda_graph", lambda advance: seen.append(1) or advance)
    x = torch.randn(rows, 2, dtype=F64, device="cuda")
    found = sample(net, x, steps=steps)
    assert bool(seen) is recorded
    torch.testing.assert_close(found, sample(lambda x, t: net(x, t), x, steps=steps))


def test_a_second_call_of_the_graph_sees_new_weights():
    net, x = network().cuda(), X.cuda()
    first = sample(net, x, steps=10)
    net.requires_grad_(False)
    for weight in net.parameters():
        weight.mul_(0.5)
    again = sample(net, x, steps=10)
    assert not torch.equal(first, again)
    torch.testing.assert_close(again, sample(lambda x, t: net(x, t), x, steps=10))


def test_a_rowwise_network_that_looks_at_time_is_not_recorded_with_one_answer():
    class Switch(models.MLP):  # rowwise by inheritance, and yet the work depends on t
        def forward(self, x, t):
            return x if float(torch.as_tensor(t).max()) < 0.5 else -x

    plain = sample(lambda x, t: x if float(t.max()) < 0.5 else -x, X, steps=10)
    try:
        found = sample(Switch(2).double().cuda(), X.cuda(), steps=10)
    except (ValueError, RuntimeError) as error:
        assert "rowwise" in str(error) or "captur" in str(error)
    else:
        torch.testing.assert_close(found.cpu(), plain)


@pytest.mark.parametrize("step", ["maruyama", "ancestral"])
def test_noisy_steps(step):
    path = exact.MixturePath(moved(skew_mixture()))
    generator = torch.Generator("cuda").manual_seed(0)
    method = (
        solvers.maruyama(path.score, 0.5, generator)
        if step == "maruyama"
        else solvers.ancestral(schedules.CondOT(), generator)
    )
    x_0 = torch.randn(4000, 2, dtype=F64, device="cuda", generator=generator)
    x = sample(path.velocity, x_0, method=method, steps=100)
    truth = moved(skew_mixture()).sample(4000)
    assert x.is_cuda and metrics.energy_distance(x, truth) < 0.03


def test_flow_maps():
    def net():
        torch.manual_seed(0)
        return models.MLP(2, width=32, depth=2, until=True, highest=1).double().requires_grad_(False)

    alike(lambda net, x: sample(net, x, steps=3, method=solvers.flow_map), net(), X)
    alike(lambda net, x: sampling.average_velocity(net, x, 0.1, 0.7), network(), X)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_likelihood(divergence):
    if divergence == "exact":
        alike(lambda net, x: likelihood.log_likelihood(net, x, steps=10), network(), X, tolerance=1e-8)
        return
    found = likelihood.log_likelihood(network().cuda(), X.cuda(), steps=10, divergence="hutchinson")
    assert found.is_cuda and found.isfinite().all()


LOSSES = {
    "velocity": (objectives.VelocityMatching(), {}),
    "mean flow": (objectives.MeanFlow(), {"until": True, "highest": 1}),
    "shortcut": (objectives.Shortcut(), {"until": True, "highest": 1}),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_training_falls_as_on_the_cpu(loss):
    objective, options = LOSSES[loss]
    data, means = normal(2000, 2).float() * 0.3 + 1, {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        net = models.MLP(2, width=64, depth=2, **options)
        found = fit(net, data, loss=objective, steps=400, device=device, progress=False)
        means[device] = found.losses[-100:].mean().item()
    assert next(found.model.parameters()).is_cuda
    assert abs(means["cuda"] / means["cpu"] - 1) < 0.1


@pytest.mark.parametrize("coupling", [None, couplings.MinibatchOT()])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, coupling, precision):
    data = normal(500, 2).float()

    def run(folder, stop=None, resume=False):
        def on_step(step, model):
            if step == stop:
                raise KeyboardInterrupt

        torch.manual_seed(0)
        disk = Checkpoints(folder, every=10, resume=resume)
        options = {"steps": 40, "batch_size": 64, "coupling": coupling, "precision": precision, "progress": False}
        return fit(models.MLP(2, width=32, depth=2), data, checkpoint=disk, device="cuda", on_step=on_step, **options)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", stop=25)
    part = run(tmp_path / "part", resume=True)
    for a, b in zip(whole.model.parameters(), part.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.losses, part.losses)


def test_a_label_that_the_network_does_not_know_is_an_error_and_the_gpu_goes_on():
    net, x, label = labelled().cuda(), X.cuda(), (LABEL + 2).cuda()
    for call in (
        lambda: sample(net, x, steps=2, label=label),
        lambda: sample(guidance.classifier_free(net, 2.0, 3), x, steps=2, label=label),
        lambda: likelihood.log_likelihood(net, x, steps=2, label=label),
        lambda: fit(models.ResidualMLP(2, width=16, blocks=1, classes=4), X.float(), label=label, steps=2),
    ):
        with pytest.raises(ValueError, match=r"label must lie in \[0, 4\), got values from 2 to 4"):
            call()
    assert sample(net, x, steps=2, label=LABEL.cuda()).isfinite().all()


def test_data_too_large_for_the_gpu_travel_batch_by_batch(monkeypatch):
    data, label = normal(5000, 2).float(), torch.arange(5000) % 3
    options = {"steps": 30, "device": "cuda", "progress": False, "label": label}

    def run():
        torch.manual_seed(0)
        return fit(models.ResidualMLP(2, width=32, blocks=1, classes=3), data, **options).losses

    there = run()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (1000, 1000))
    torch.testing.assert_close(run(), there, atol=1e-6, rtol=1e-5)


def test_the_command_line_uses_the_gpu(tmp_path):
    environment = os.environ | {"FMLIB_PROGRESS": str(tmp_path / "progress.json")}

    def command(*words):
        call = [sys.executable, "-m", "fmlib", *words]
        done = subprocess.run(call, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "cuda" in command("info").lower() or "nvidia" in command("info").lower()
    run = str(tmp_path / "run")
    for objective in ("velocity", "mean-flow"):
        place = f"{run}-{objective}"
        command("train", "digits", "--steps", "60", "--out", place, "--objective", objective)
        command("sample", place, "--out", str(tmp_path / f"{objective}.png"))
        assert (tmp_path / f"{objective}.png").stat().st_size > 1000


WORDS = torch.cartesian_prod(*[torch.arange(3)] * 3)
LAW = normal(27, seed=3).softmax(0).reshape(3, 3, 3)
UNIFORM = torch.full((3,), 1 / 3, dtype=F64)


def masked():
    """The law with a fourth token, which it never has, and the source that has nothing else."""
    law = torch.zeros(4, 4, 4, dtype=F64)
    law[:3, :3, :3] = LAW
    return law, torch.eye(4, dtype=F64)[3]


@pytest.mark.parametrize("name", ["posterior", "generator", "step", "probability", "entropy"])
def test_the_exact_path_of_tokens(name):
    arguments = {"posterior": (0.4,), "generator": (0.4,), "step": (0.2, 0.6), "probability": (0.4,)}.get(name, ())
    alike(
        lambda law, source, x: getattr(exact.TokenPath(law, source), name)(*[x] * (name == "posterior"), *arguments),
        LAW,
        UNIFORM,
        WORDS,
    )


@pytest.mark.parametrize("source, events", [("mask", False), ("mask", True), ("uniform", False)])
def test_tokens_drawn_on_the_gpu_have_the_law_of_the_steps(source, events):
    law, noise = (moved(v) for v in (masked() if source == "mask" else (LAW, UNIFORM)))
    path, n, generator = exact.TokenPath(law, noise), 40_000, torch.Generator("cuda").manual_seed(0)
    mask = 3 if source == "mask" else None
    x_0 = torch.multinomial(noise, 3 * n, replacement=True, generator=generator).reshape(n, 3)
    options = {"events": True} if events else {"steps": 4}
    x = tokens.sample_tokens(lambda x, t: path.posterior(x, t).log(), x_0, mask=mask, generator=generator, **options)
    p = path.probability(0.0).flatten()
    for k in range(4):
        p = path.step(k / 4, (k + 1) / 4) @ p
    truth = law.flatten() if events else p
    K = len(noise)
    count = torch.bincount((x * torch.tensor([K * K, K, 1], device="cuda")).sum(1), minlength=K**3)
    possible = truth > 1e-12
    chi_square = ((count - n * truth).square() / (n * truth))[possible].sum().item()
    freedom = int(possible.sum()) - 1
    assert x.is_cuda and count[~possible].sum() == 0 and abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


def test_the_bound_of_tokens_is_the_entropy_with_masks():
    path = exact.TokenPath(*(moved(v) for v in masked()))
    x = WORDS[torch.multinomial(LAW.flatten(), 4000, replacement=True)].cuda()
    value = tokens.token_bound(lambda x, t: path.posterior(x, t).log(), x, mask=3)
    assert value.is_cuda and abs(value.mean() - path.entropy()) < 5 * value.std() / 4000**0.5


def test_tokens_train_on_the_gpu():
    data = WORDS[torch.multinomial(LAW.flatten(), 5000, replacement=True)]
    net = models.TokenMLP(3, 4, width=32, blocks=1)
    source = torch.full((1, 3), 3)
    losses = fit(net, data, loss=objectives.TokenCrossEntropy(), source=source, steps=300, device="cuda").losses
    assert losses[-50:].mean() < 0.9 * losses[:10].mean()


def test_jumps():
    path = lambda law: exact.MixturePath(law)  # noqa: E731
    points = torch.linspace(-2, 2, 9, dtype=F64)[:, None].repeat(1, 2)
    alike(lambda law, points: exact.jump_rates(path(law).log_density, points, 0.4), skew_mixture(), points)
    generator = torch.Generator("cuda").manual_seed(0)
    counting = solvers.jumping(lambda x, t: 3 + 0 * x[:, 0], lambda x, t: x + 1, generator=generator)
    x = sample(lambda x, t: 0 * x, torch.zeros(20_000, 1, device="cuda"), method=counting, steps=200)
    assert x.is_cuda and abs(x.mean() - 3) < 0.1 and abs(x.var() - 3) < 0.2
