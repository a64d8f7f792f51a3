"""Flow maps: a training step of `MeanFlow` against mean flow written plainly; one jump against 25 midpoint steps."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.coupling import repeated
from benchmarks.timing import Row, compare
from benchmarks.training_step import network
from fmlib import datasets, devices, fit, sample, solvers
from fmlib.models import MLP
from fmlib.objectives import MeanFlow


def flow_map(place) -> MLP:
    torch.manual_seed(0)
    return MLP(2, 512, 4, until=True).to(place)


def plain_loop(model, data, steps: int, batch_size: int, share: float, rate: float = 1e-3) -> torch.Tensor:
    """The equations of the paper for the whole batch at once, in a loop like the one that `flow_matching` teaches."""
    optimizer, losses = torch.optim.Adam(model.parameters(), rate), []
    for _ in range(steps):
        optimizer.zero_grad()
        x_1 = data[torch.randint(len(data), (batch_size,), device=data.device)]
        x_0, (t, u, jumps) = torch.randn_like(x_1), torch.rand(3, batch_size, device=data.device)
        s = torch.where(jumps < share, t + (1 - t) * u, t)
        x_t, v = (1 - t)[:, None] * x_0 + t[:, None] * x_1, x_1 - x_0
        average, slope = torch.func.jvp(lambda x, t, s=s: model(x, t, s=s), (x_t, t), (v, torch.ones_like(t)))
        loss = (average - (v + (s - t)[:, None] * slope).detach()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def rows(quick: bool) -> Iterator[Row]:
    place = devices.device_of()
    data = datasets.moons(20_000, torch.Generator().manual_seed(0)).to(place)
    for batch_size, steps, long in ((256, 4, 20),) if quick else ((256, 8, 60), (1024, 2, 20)):
        options = {"loss": MeanFlow(), "batch_size": batch_size, "ema": 0.0, "learning_rate": 1e-3}
        options |= {"progress": False, "device": place.type}
        mine, peer, share = flow_map(place), flow_map(place), MeanFlow().share
        ours, theirs, ratio = compare(
            partial(fit, mine, data, steps=steps, **options), partial(plain_loop, peer, data, steps, batch_size, share)
        )
        a = fit(flow_map(place), data, steps=long, **options).losses[-long // 2 :]
        b = plain_loop(flow_map(place), data, long, batch_size, share)[-long // 2 :].cpu()
        quality = f"loss {a.mean():.3f} and {b.mean():.3f} (standard error {b.std() / len(b) ** 0.5:.3f})"
        name = f"training step of mean flow, batch {batch_size}, float32"
        why = "rows with s = t skip the derivative, but all pass forward and back, and two batches cost more than one"
        yield Row(name, "torch.func.jvp", ours / steps, theirs / steps, ratio, ">= 1.2", quality, why)
    jumps, velocity = flow_map(place).eval(), network(place).eval()
    for n in (16,) if quick else (16, 2000):
        x_0, calls = torch.randn(n, 2, generator=torch.Generator().manual_seed(0)).to(place), 4 if n == 16 else 1
        one = repeated(partial(sample, jumps, steps=1, method=solvers.flow_map), calls, x_0)
        many = repeated(partial(sample, velocity, steps=25), calls, x_0)
        a, b, ratio = compare(one, many)
        quality = "1 and 50 evaluations of networks of one width and depth"
        name = f"sampling in one jump, batch {n}"
        yield Row(name, "25 midpoint steps", a / calls, b / calls, ratio, "for comparison", quality)
