"""Explorers of notebook 6, conditioning and guidance."""

import torch

from fmlib import figures
from fmlib.exact import MixturePath
from fmlib.explorers._explorer import Explorer, slider
from fmlib.laws import LabelledMixture
from fmlib.sampling import sample

STEPS = 8  # midpoint steps of the guided samples: light while the weight moves, and near enough for the eye
CELLS = 50  # to a side of the grid on which the tilted law is drawn


def weight(law: LabelledMixture, y: int = 0, extent: float = 3.6, samples: int = 200, seed: int = 0) -> Explorer:
    """Move the weight w; see what the guided flow draws for the label y, beside the law that its formula promises.

    law: in the plane. Left, samples of the flow of (1 - w) u_t(x) + w u_t(x | y), exact velocities from N(0, I); right,
    as many of the tilted law q(x)^(1 - w) q(x | y)^w, whose density lies behind both.
    """
    free, told = MixturePath(law.mixture, law.schedule).velocity, MixturePath(law.given(y), law.schedule).velocity
    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.randn(samples, 2, generator=generator)
    grid = figures.plane(extent, CELLS)
    inside, drawn = torch.rand(samples, 2, generator=generator), torch.rand(samples, generator=generator)

    def draw(figure, w):
        left, right = figure.subplots(1, 2)
        guided = sample(lambda x, t: (1 - w) * free(x, t) + w * told(x, t), x_0, steps=STEPS)
        log_density = law.tilted_log_density(grid, y, w)
        total = log_density.double().softmax(0).cumsum(0)
        cells = torch.searchsorted(total, drawn * total[-1]).clamp(max=len(grid) - 1)
        tilted = grid[cells] + (inside - 0.5) * (2 * extent / (CELLS - 1))
        for ax, x, color, name in [
            (left, guided, figures.CYCLE[4], "guided flow"),
            (right, tilted, figures.CYCLE[5], "tilted law"),
        ]:
            figures.space(ax, extent, f"{name}, w = {w:.2g}")
            figures.density(ax, lambda _: log_density - log_density.max(), extent, count=CELLS)
            figures.points(ax, x, color, size=9, alpha=0.9)

    controls = {"w": slider("weight w", 0.0, 6.0, 0.25, 3.0)}
    alt = "Left: samples of the guided flow. Right: samples of the tilted law, whose density lies behind both."
    return Explorer(draw, controls, alt=alt)
