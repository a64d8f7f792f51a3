"""Explorers of notebook 1, flow matching basics."""

import torch

from fmlib import figures
from fmlib.exact import MixturePath
from fmlib.explorers._explorer import Explorer, slider
from fmlib.sampling import sample

STEPS = 100  # of the samples from t = 0 to 1: one for each position of the slider


def path(path: MixturePath, extent: float = 3.0, samples: int = 400, seed: int = 0) -> Explorer:
    """Move t over the density p_t and velocity u_t of a path in the plane; on the right, samples that follow the flow.

    path: anything with `velocity(x, t)` and `log_density(x, t)` for x of shape (n, 2). extent: the pictures show the
    square [-extent, extent]^2.
    """
    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.randn(samples, 2, generator=generator)
    flow = sample(path.velocity, x_0, steps=STEPS, return_path=True).x

    def draw(figure, t):
        left, right = figure.subplots(1, 2)
        figures.space(left, extent, f"density and velocity, t = {t:.2f}")
        figures.density(left, lambda x: path.log_density(x, t), extent, count=60)
        figures.field(left, lambda x: path.velocity(x, t), extent)
        figures.space(right, extent, f"{samples} samples, carried by the flow")
        figures.density(right, lambda x: path.log_density(x, t), extent, count=60)
        figures.points(right, flow[round(STEPS * t)], figures.VELOCITY)

    alt = "Left: the density of the path at time t with arrows of the marginal velocity. Right: samples over it."
    return Explorer(draw, {"t": slider("time t", 0.0, 1.0, 1 / STEPS, 0.7)}, alt=alt)
