"""Sampling on the sphere and on the flat torus: `fmlib.sample` against `flow_matching`'s RiemannianODESolver."""

from collections.abc import Iterator
from functools import partial

import torch
from flow_matching.solver import RiemannianODESolver
from flow_matching.utils.manifolds import FlatTorus
from flow_matching.utils.manifolds import Sphere as TheirSphere

from benchmarks.coupling import repeated
from benchmarks.sampling import Wrapped, network_alone
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


def rows(quick: bool) -> Iterator[Row]:
    place, sphere, torus = devices.device_of(), Sphere(), Torus()
    torch.manual_seed(0)
    net, circles = MLP(3, 256, 3).to(place), OnCircles().to(place)
    projected = partial(solvers.projected, "midpoint")
    sides = {
        "the sphere, projected": (Tangent(net, sphere), projected(sphere.project), net, sphere, TheirSphere()),
        "the sphere, geodesic": (Tangent(net, sphere), solvers.geodesic(sphere), net, sphere, TheirSphere()),
        # On the torus every vector is a tangent, and the geodesics are those of the plane
        "the flat torus": (circles, projected(torus.project), circles, torus, FlatTorus()),
    }
    for name, (model, step, network, space, theirs) in sides.items():
        peer = RiemannianODESolver(theirs, Wrapped(network))
        for n in (100,) if quick else (100, 5000):
            x_0 = space.uniform(n, generator=torch.Generator().manual_seed(0)).to(place)
            steps, calls = 20, 3 if n == 100 else 1
            mine = repeated(partial(sample, model, steps=steps, method=step), calls, x_0)
            other = repeated(partial(peer.sample, step_size=1 / steps, method="midpoint"), calls, x_0)
            a, b, ratio = compare(mine, other)
            fine = sample(model, x_0[:100], steps=400, method=step)
            errors = [space.distance(space.project(run()[0][:100]), fine).mean().item() for run in (mine, other)]
            quality = f"mean errors {errors[0]:.2e} and {errors[1]:.2e}"
            title = f"sampling on {name}, midpoint steps: {steps}, batch {n}"
            share = compare(mine, partial(network_alone, network, x_0, 2 * steps * calls), repeats=3)[2]
            why = f"the network's {2 * steps} calls, with all rows at once, are {share:.0%} of our time"
            wanted = "for comparison" if "geodesic" in name else ">= 1.5"  # theirs projects, which is less work
            yield Row(title, "flow_matching", a / calls, b / calls, ratio, wanted, quality, why)
