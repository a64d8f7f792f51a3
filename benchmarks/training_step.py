"""A training step of an MLP 4x512 in the plane: `fmlib.fit` against the loop that `flow_matching` teaches."""

from functools import partial

import torch
from flow_matching.path import AffineProbPath
from flow_matching.path.scheduler import CondOTScheduler

from benchmarks.timing import Row, compare
from fmlib import datasets, devices, fit, metrics, sample
from fmlib.models import MLP

# Batch size, precision, decay of the weight average (their loop has none), and the ratio wanted
SETTINGS = [
    (256, "float32", 0.0, ">= 1.1"),
    (256, "auto", 0.0, ">= 1.6"),
    (256, "float32", 0.999, "for comparison"),
    (4096, "float32", 0.0, ">= 1.0"),
    (4096, "auto", 0.0, ">= 2.0"),
]


def network(place) -> MLP:
    torch.manual_seed(0)
    return MLP(2, 512, 4).to(place)


def their_loop(model, data, steps: int, batch_size: int, rate: float = 1e-3) -> torch.Tensor:
    """Draw a pair and a time, ask the path for the point and its velocity, regress, step: their loop, without EMA."""
    path, optimizer = AffineProbPath(scheduler=CondOTScheduler()), torch.optim.Adam(model.parameters(), rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        x_1 = data[torch.randint(len(data), (batch_size,), device=data.device)]
        x_0, t = torch.randn_like(x_1), torch.rand(batch_size, device=data.device)
        point = path.sample(t=t, x_0=x_0, x_1=x_1)
        loss = (model(point.x_t, point.t) - point.dx_t).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def bare_loop(model, x, t, velocity, steps: int) -> None:
    """Only the network's own forward, backward and optimiser, on one and the same batch."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x, t) - velocity).square().mean().backward()
        optimizer.step()


def rows(quick: bool) -> list[Row]:
    place = devices.device_of()
    data = datasets.moons(20_000, torch.Generator().manual_seed(0)).to(place)
    found = []
    lengths = {256: 20 if quick else 100, 4096: 4 if quick else 8}
    for batch_size, precision, ema, wanted in SETTINGS:
        steps, mine, peer = lengths[batch_size], network(place), network(place)
        options = {"batch_size": batch_size, "precision": precision, "ema": ema, "learning_rate": 1e-3}
        options |= {"progress": False, "device": place.type}
        ours, theirs, ratio = compare(
            partial(fit, mine, data, steps=steps, **options), partial(their_loop, peer, data, steps, batch_size)
        )
        long = 200 if batch_size == 256 else 20
        a = fit(network(place), data, steps=long, **options).losses[-long // 2 :]
        b = their_loop(network(place), data, long, batch_size)[-long // 2 :].cpu()
        quality = f"loss {a.mean():.3f} and {b.mean():.3f} (standard error {b.std() / len(b) ** 0.5:.3f})"
        name = f"training step, batch {batch_size}, {precision}" + (", with an average of the weights" if ema else "")
        found.append(Row(name, "flow_matching", ours / steps, theirs / steps, ratio, wanted, quality))
    found.append(_outside(place, data, quick))
    return found if quick else [*found, _same_law(place, data)]


def _outside(place, data, quick: bool) -> Row:
    model, steps = network(place), 4 if quick else 8
    x, t = torch.randn(4096, 2, device=place), torch.rand(4096, device=place)
    options = {"batch_size": 4096, "progress": False, "device": place.type}
    ours, theirs, ratio = compare(
        lambda: fit(model, data, steps=steps, **options), lambda: bare_loop(model, x, t, x, steps)
    )
    quality = "the same network, batch and optimiser"
    name = "training step, batch 4096, float32"
    return Row(name, "the bare network", ours / steps, theirs / steps, ratio, ">= 0.95", quality)


def _same_law(place, data) -> Row:
    """The two-sample distance after training in bf16 within the spread of float32 over five seeds."""
    truth = datasets.moons(4000, torch.Generator().manual_seed(1))
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(2)).to(place)

    def distance(seed: int, precision: str) -> float:
        options = {"steps": 800, "learning_rate": 1e-3, "progress": False, "device": place.type}
        torch.manual_seed(seed)
        model = fit(MLP(2, 512, 4), data, seed=seed, precision=precision, **options).model
        return metrics.energy_distance(sample(model, noise, steps=20).cpu(), truth)

    exact, rough = [distance(seed, "float32") for seed in range(5)], distance(0, "bf16")
    quality = f"energy distance bf16 {rough:.5f}, float32 over five seeds {min(exact):.5f} to {max(exact):.5f}"
    return Row("800 steps, batch 256, bf16", "float32", float("nan"), float("nan"), float("nan"), "inside", quality)
