"""Explorers of notebook 2, the marginalization trick."""

import torch
from torch import Tensor

from fmlib import figures
from fmlib.exact import DataPath
from fmlib.explorers._explorer import Explorer, slider


def posterior(path: DataPath, extent: float = 3.0) -> Explorer:
    """Move a query point x and the time t; see each data point's weight and the posterior mean u_t(x) aims at.

    path: a `DataPath` over data (n, 2). extent: the picture shows the square [-extent, extent]^2.
    """

    def draw(figure, x, y, t):
        left, right = figure.subplots(1, 2)
        query = path.data.new_tensor([[x, y]])
        weights = path.posterior(query, t)[0]
        mean = path.x_1(query, t)[0]
        figures.space(left, extent, f"weights of the data, t = {t:.2f}")
        _weighted_points(left, path.data, weights)
        left.plot(x, y, "o", color=figures.PATH)
        left.annotate(
            "",
            (float(mean[0]), float(mean[1])),
            (x, y),
            arrowprops={"arrowstyle": "->", "color": figures.VELOCITY, "lw": 2},
        )
        heaviest = weights.sort(descending=True).values[:20]
        right.bar(range(1, len(heaviest) + 1), figures.array(heaviest), color=figures.TARGET)
        right.set(xlabel="data point, heaviest first", ylabel="posterior weight", title="softmax over the data")
        right.set(ylim=(0, 1.05), xticks=(1, 10, 20), yticks=(0, 0.5, 1))

    controls = {
        "x": slider("first coordinate of x", -extent, extent, 0.1, 0.5, play=False),
        "y": slider("second coordinate of x", -extent, extent, 0.1, 0.5, play=False),
        "t": slider("time t", 0.0, 0.98, 0.02, 0.4),
    }
    alt = "Left: data points sized by posterior weight, the query point, an arrow to their mean. Right: the largest."
    return Explorer(draw, controls, alt=alt)


def target(extent: float = 3.0) -> Explorer:
    """Place one of three target points, move the time, and see the density and the marginal velocity follow."""
    fixed = torch.tensor([[-1.5, 1.0], [-0.5, -1.5]])

    def draw(figure, x, y, t):
        data = torch.cat([fixed, torch.tensor([[x, y]])])
        path = DataPath(data)
        left, right = figure.subplots(1, 2)
        for ax, title in [(left, f"density, t = {t:.2f}"), (right, "marginal velocity")]:
            figures.space(ax, extent, title)
            figures.density(ax, lambda x: path.log_density(x, t), extent, count=60)
            figures.points(ax, data, figures.TARGET, size=25, alpha=1)
        figures.field(right, lambda x: path.velocity(x, t), extent)

    controls = {
        "x": slider("first coordinate of the third target point", -2.5, 2.5, 0.1, 1.5, play=False),
        "y": slider("second coordinate of the third target point", -2.5, 2.5, 0.1, 0.5, play=False),
        "t": slider("time t", 0.0, 0.9, 0.02, 0.5),
    }
    alt = "Left: the density of the path to three target points at time t. Right: arrows of the marginal velocity."
    return Explorer(draw, controls, alt=alt)


def _weighted_points(ax, data: Tensor, weights: Tensor) -> None:
    data, weights = figures.array(data), figures.array(weights)
    ax.scatter(*data.T, s=8, c=figures.NEUTRAL, alpha=0.5, linewidths=0)
    ax.scatter(*data.T, s=400 * weights, c=figures.TARGET, alpha=0.7, linewidths=0)
