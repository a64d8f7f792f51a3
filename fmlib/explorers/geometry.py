"""Explorers of notebook 8, geometry."""

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from fmlib import figures
from fmlib.explorers._explorer import Explorer, choice, slider


def obstacle(runs: dict[str, Tensor], distances: Tensor, wall: tuple, extent: float = 1.0) -> Explorer:
    """Choose how to get past a wall, move the time; see where the walkers are, and what the distance to one target is.

    runs: by name, paths (steps + 1, n, 2). distances: of each place of a square grid (rows, columns) to the target of
    the first walker. wall: its two ends, ((x, y), (x, y)). The picture shows the square [-extent, extent]^2.
    """
    levels, box = figures.array(distances), (-extent, extent, -extent, extent)
    side = np.linspace(-extent, extent, len(levels))
    drawn = Figure().subplots().contour(side, side, levels, 14)  # once: it takes longer than all the rest
    rings = [ring for level in drawn.allsegs for ring in level]

    def draw(figure, name, t):
        left, right = figure.subplots(1, 2)
        x = runs[name]
        now = round(t * (len(x) - 1))
        for ax, title in [(left, f"{name}, t = {t:.2f}"), (right, "one walker; distance to its end")]:
            figures.space(ax, extent, title).set(xticks=(-extent, 0, extent), yticks=(-extent, 0, extent))
        right.imshow(levels, origin="lower", extent=box, cmap=figures.DENSITY, alpha=0.5)
        right.add_collection(LineCollection(rings, colors=figures.NEUTRAL, linewidths=0.6))
        figures.trajectories(left, x[: now + 1 if now else 2, ::4], alpha=0.35)
        figures.points(left, x[0], figures.SOURCE, size=8)
        figures.points(left, x[now], figures.VELOCITY, size=10, alpha=0.9)
        figures.trajectories(right, x[:, :1], alpha=1)
        figures.points(right, x[now, :1], figures.VELOCITY, size=40, alpha=1)
        for ax in (left, right):
            ax.plot(*zip(*wall, strict=True), color=figures.ERROR, linewidth=4, solid_capstyle="butt")

    controls = {"name": choice("way", list(runs)), "t": slider("time t", 0.0, 1.0, 0.02, 0.5)}
    alt = "Left: walkers on their way past a wall. Right: level lines of the distance to one target, and its walker."
    return Explorer(draw, controls, alt=alt)
