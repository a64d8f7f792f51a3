"""Sampling with the midpoint method: `fmlib.sample` against `flow_matching`'s ODESolver."""

from functools import partial

import torch
from flow_matching.solver import ODESolver
from flow_matching.utils import ModelWrapper

from benchmarks.coupling import repeated
from benchmarks.timing import Row, compare
from benchmarks.training_step import network
from fmlib import devices, sample


class Wrapped(ModelWrapper):
    """The network with the signature that their solver calls."""

    def forward(self, x, t, **extras):
        return self.model(x, t)


def rows(quick: bool) -> list[Row]:
    place, found = devices.device_of(), []
    model = network(place)
    peer = ODESolver(velocity_model=Wrapped(model))
    few, steps = "1.2" if place.type == "cpu" else "3", 1 if quick else 10
    large = 5000 if quick else 50_000  # on a CPU that emulates bf16 the large batch alone takes minutes
    sizes = [(16, 10, "float32", few), (large, steps, "float32", "1.5"), (large, steps, "bf16", "2.5")]
    for n, steps, precision, want in sizes:
        x_0 = torch.randn(n, 2, generator=torch.Generator().manual_seed(0)).to(place)
        calls = 20 if n == 16 else 1
        mine = repeated(partial(sample, model, steps=steps, precision=precision), calls, x_0)
        theirs = repeated(partial(peer.sample, step_size=1 / steps, method="midpoint"), calls, x_0)
        a, b, ratio = compare(mine, theirs)
        apart = (mine()[0] - theirs()[0]).abs().max().item()
        name = f"sampling, midpoint steps: {steps}, batch {n}, {precision}"
        quality = f"end points apart by at most {apart:.0e}"
        found.append(Row(name, "flow_matching", a / calls, b / calls, ratio, f">= {want}", quality))
    return found
