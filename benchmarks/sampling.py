"""Sampling, with the midpoint method and with error control: `fmlib.sample` against `flow_matching`'s ODESolver."""

import copy
from collections.abc import Iterator
from functools import partial

import torch
from flow_matching.solver import ODESolver
from flow_matching.utils import ModelWrapper

from benchmarks.coupling import repeated
from benchmarks.timing import Row, compare
from benchmarks.training_step import network
from fmlib import datasets, devices, fit, sample, solvers
from fmlib.models import MLP


class Counted(torch.nn.Module):
    """A network that counts its calls; their last step looks beyond the end, where there is no time."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, x, t):
        self.calls += 1
        return self.model(x, t.clamp(0, 1))


class Wrapped(ModelWrapper):
    """The network with the signature that their solver calls."""

    def forward(self, x, t, **extras):
        return self.model(x, t)


def rows(quick: bool) -> Iterator[Row]:
    place = devices.device_of()
    model = network(place)
    peer = ODESolver(velocity_model=Wrapped(model))
    few, steps, large = "1.2" if place.type == "cpu" else "3", 1 if quick else 2, 5000 if quick else 20_000
    sizes = [(16, 10, "float32", few), (large, steps, "float32", "1.5"), (large, steps, "auto", "2.5")]
    for n, steps, precision, want in sizes:
        if precision == "auto" and not devices.multiplies_bf16(place):
            continue
        x_0 = torch.randn(n, 2, generator=torch.Generator().manual_seed(0)).to(place)
        calls = 20 if n == 16 else 1
        mine = repeated(partial(sample, model, steps=steps, precision=precision), calls, x_0)
        theirs = repeated(partial(peer.sample, step_size=1 / steps, method="midpoint"), calls, x_0)
        a, b, ratio = compare(mine, theirs)
        apart = (mine()[0] - theirs()[0]).abs().max().item()
        name = f"sampling, midpoint steps: {steps}, batch {n}, {precision}"
        share = compare(mine, partial(network_alone, model, x_0, 2 * steps * calls), repeats=3)[2]
        why = f"the network's {2 * steps} calls, with all rows at once, are {share:.0%} of our time"
        quality = f"end points apart by at most {apart:.0e}"
        yield Row(name, "flow_matching", a / calls, b / calls, ratio, f">= {want}", quality, why)
    yield from _adaptive(place, quick)


@torch.inference_mode()
def network_alone(model, x: torch.Tensor, count: int) -> None:
    t = torch.tensor(0.5, device=x.device)
    for _ in range(count):
        model(x, t)


def _adaptive(place, quick: bool) -> Iterator[Row]:
    """Both with error control, for a network that has learned something; errors from fixed steps in float64."""
    data = datasets.moons(20_000, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = fit(MLP(2), data, steps=300, progress=False, device=place.type).model
    for n, tolerance in ((16, 1e-5),) if quick else ((16, 1e-3), (16, 1e-5), (2000, 1e-3)):
        x_0 = torch.randn(n, 2, generator=torch.Generator().manual_seed(0)).to(place)
        end = sample(copy.deepcopy(model).double(), x_0.double(), steps=100 if quick else 200, method="rk4")
        options, counted = {"atol": tolerance, "rtol": tolerance}, Counted(model)
        method = solvers.dopri5(**options)
        peer = ODESolver(velocity_model=Wrapped(counted))
        theirs = partial(peer.sample, x_0, step_size=None, method="dopri5", **options)
        a, b, ratio = compare(partial(sample, model, x_0, method=method), theirs)
        ours, counted.calls = sample(model, x_0, method=method, return_path=True, steps=1), 0
        errors = [(x - end).norm(dim=1).mean().item() for x in (ours.x[-1], theirs())]
        quality = f"evaluations {ours.nfe} and {counted.calls}, mean errors {errors[0]:.1e} and {errors[1]:.1e}"
        name = f"adaptive sampling, dopri5 at tolerance {tolerance:.0e}, batch {n}"
        share = compare(partial(sample, model, x_0, method=method), partial(network_alone, model, x_0, ours.nfe), 3)[2]
        why = f"the network's {ours.nfe} calls are {share:.0%} of our time, and torchdiffeq chooses the steps of both"
        yield Row(name, "flow_matching", a, b, ratio, ">= 1", quality, why)
