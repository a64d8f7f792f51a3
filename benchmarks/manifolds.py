"""Sampling on the sphere and on the flat torus: `fmlib.sample` against `flow_matching`'s RiemannianODESolver."""

from functools import partial

import torch
from flow_matching.solver import RiemannianODESolver
from flow_matching.utils.manifolds import FlatTorus
from flow_matching.utils.manifolds import Sphere as TheirSphere

from benchmarks.coupling import repeated
from benchmarks.sampling import Wrapped
from benchmarks.timing import Row, compare
from fmlib import devices, sample, solvers
from fmlib.manifolds import Sphere, Torus
from fmlib.models import MLP, Tangent


class OnCircles(torch.nn.Module):
    """A velocity on the torus that is periodic in its angles."""

    rowwise = True

    def __init__(self):
        super().__init__()
        self.network, self.last = MLP(4, 256, 3), torch.nn.Linear(4, 2)

    def forward(self, x, t):
        return self.last(self.network(torch.cat([x.sin(), x.cos()], 1), t))


def rows(quick: bool) -> list[Row]:
    place, found = devices.device_of(), []
    for name, ours, theirs in [("sphere", Sphere(), TheirSphere()), ("flat torus", Torus(), FlatTorus())]:
        torch.manual_seed(0)
        network = (MLP(3, 256, 3) if name == "sphere" else OnCircles()).to(place)
        peer = RiemannianODESolver(theirs, Wrapped(network))
        model = Tangent(network, ours) if name == "sphere" else network  # on the torus every vector is a tangent
        step = solvers.projected("midpoint", project=ours.project)
        for n in (100, 5000) if quick else (100, 2000, 50_000):
            x_0 = ours.uniform(n, generator=torch.Generator().manual_seed(0)).to(place)
            steps, calls = 20, max(1, 1000 // n)
            options = {"step_size": 1 / steps, "method": "midpoint"}
            mine = repeated(partial(sample, model, steps=steps, method=step), calls, x_0)
            other = repeated(partial(peer.sample, **options), calls, x_0)
            a, b, ratio = compare(mine, other)
            fine = sample(model, x_0[:500], steps=400, method=step)
            errors = [ours.distance(ours.project(run()[0][:500]), fine).mean().item() for run in (mine, other)]
            quality = f"mean errors {errors[0]:.2e} and {errors[1]:.2e}"
            title = f"sampling on the {name}, midpoint steps: {steps}, batch {n}"
            found.append(Row(title, "flow_matching", a / calls, b / calls, ratio, ">= 1.5", quality))
    return found
