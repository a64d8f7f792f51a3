"""A training step of an MLP 4x512 in the plane: `fmlib.fit` against the loop that `flow_matching` teaches."""

from collections.abc import Iterator
from functools import partial
from statistics import median

import torch
from flow_matching.path import AffineProbPath
from flow_matching.path.scheduler import CondOTScheduler

from benchmarks.timing import Row, compare, time_of
from fmlib import datasets, devices, fit, metrics, sample
from fmlib.models import MLP

# Batch size, precision ("auto" only where it is not float32), decay of the weight average, and the ratio wanted
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


def rows(quick: bool) -> Iterator[Row]:
    place = devices.device_of()
    data = datasets.moons(20_000, torch.Generator().manual_seed(0)).to(place)
    lengths, longer = {256: 10 if quick else 40, 4096: 2 if quick else 4}, 10 if quick else 5
    if place.type == "cuda":  # a step takes 2 ms, and what a run does once must not count as a step's
        lengths, longer = {256: 300, 4096: 300}, 2
    for batch_size, precision, ema, wanted in SETTINGS:
        if precision == "auto" and not devices.multiplies_bf16(place):
            continue
        steps, mine, peer = lengths[batch_size], network(place), network(place)
        options = {"batch_size": batch_size, "precision": precision, "ema": ema, "learning_rate": 1e-3}
        options |= {"progress": False, "device": place.type}
        ours, theirs, ratio = compare(
            partial(fit, mine, data, steps=steps, **options), partial(their_loop, peer, data, steps, batch_size)
        )
        a = fit(network(place), data, steps=longer * steps, **options).losses[-2 * steps :]
        b = their_loop(network(place), data, longer * steps, batch_size)[-2 * steps :].cpu()
        quality = f"loss {a.mean():.3f} and {b.mean():.3f} (standard error {b.std() / len(b) ** 0.5:.3f})"
        name = f"training step, batch {batch_size}, {precision}" + (", with an average of the weights" if ema else "")
        x, t, bare = data[:batch_size], torch.rand(batch_size, device=place), network(place)
        sides = partial(fit, mine, data, steps=steps, **options), partial(bare_loop, bare, x, t, x, steps)
        share = compare(*sides, repeats=3)[2]
        why = f"the bare network is {share:.0%} of our step, so {ratio / share:.2f} is the most there is"
        yield Row(name, "flow_matching", ours / steps, theirs / steps, ratio, wanted, quality, why)
    yield _outside(place, data, quick)
    yield _average(place, data, quick)
    if not quick:
        yield _same_law(place, data)


def _outside(place, data, quick: bool) -> Row:
    model, steps = network(place), 300 if place.type == "cuda" else 2 if quick else 4
    x, t = torch.randn(4096, 2, device=place), torch.rand(4096, device=place)
    options = {"batch_size": 4096, "progress": False, "device": place.type}
    ours, theirs, ratio = compare(
        lambda: fit(model, data, steps=steps, **options), lambda: bare_loop(model, x, t, x, steps)
    )
    quality = "the same network, batch and optimiser"
    why = "the rest draws the batch, checks it, and averages the weights"
    name = "training step, batch 4096, float32"
    return Row(name, "the bare network", ours / steps, theirs / steps, ratio, ">= 0.95", quality, why)


def _average(place, data, quick: bool) -> Row:
    """What the weight average that `fit` makes by default costs a small network."""
    steps, options = 100 if quick else 300, {"progress": False, "device": place.type}

    def run(ema: float):
        torch.manual_seed(0)
        return partial(fit, MLP(2).to(place), data, steps=steps, ema=ema, **options)

    averaged, plain = run(0.999), run(0.0)
    ours, theirs, ratio = compare(averaged, plain)
    a, b = (_distance(side().model, data[:2000]) for side in (averaged, plain))
    quality = f"the ratio here is the cost: with / without; energy distance {a:.4f} and {b:.4f}"
    name = "training step of an MLP 3x128, batch 256, with an average of the weights"
    mine, other = ([p.detach() for p in MLP(2).to(place).parameters()] for _ in range(2))
    alone = median(time_of(lambda: [torch._foreach_lerp_(mine, other, 0.001) for _ in range(100)]) for _ in range(5))
    why = (
        f"to move {len(mine)} averages in one call takes {1e4 * alone:.0f} us of a step's {1e6 * theirs / steps:.0f} us"
    )
    return Row(name, "without average", ours / steps, theirs / steps, 1 / ratio, "<= 1.05", quality, why)


def _distance(model, truth) -> float:
    """Of samples to the data."""
    noise = torch.randn(len(truth), 2, generator=torch.Generator().manual_seed(2)).to(truth.device)
    return metrics.energy_distance(sample(model, noise, steps=10).cpu(), truth.cpu())


def _same_law(place, data) -> Row:
    """The two-sample distance after training in bf16 within the spread of float32 over five seeds."""

    def distance(seed: int, precision: str) -> float:
        options = {"steps": 400, "ema": 0.99, "progress": False, "device": place.type}
        torch.manual_seed(seed)
        return _distance(fit(MLP(2), data, seed=seed, precision=precision, **options).model, data[:4000])

    exact, rough = [distance(seed, "float32") for seed in range(5)], distance(0, "bf16")
    quality = f"energy distance bf16 {rough:.5f}, float32 over five seeds {min(exact):.5f} to {max(exact):.5f}"
    nan = float("nan")
    return Row("400 steps of an MLP 3x128, batch 256, bf16", "float32", nan, nan, nan, "inside", quality)
