"""The plots of the course: one palette with one meaning each, labelled axes, equal aspect where space is meant.

Functions draw on an Axes that they are given and take tensors on any device.
"""

import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from fmlib import manifolds

# Colours of Okabe & Ito 2008, told apart under the common colour-vision deficiencies
SOURCE = "#0072B2"
TARGET = "#D55E00"
PATH = "#009E73"
VELOCITY = "#222222"
ERROR = "#CC79A7"
NEUTRAL = "#888888"
CYCLE = (SOURCE, TARGET, PATH, ERROR, "#E69F00", "#56B4E9", VELOCITY)
DENSITY = LinearSegmentedColormap.from_list("density", ["#FFFFFF", "#9AD6C3", PATH, "#004D39"])


WIDEST = 10.8  # inches: beside the file browser of a page of 1024 px, the text of a wider figure is lower than 9 px


def use_style() -> None:
    """Set the course's matplotlib style: once, in a notebook's setup cell, whose pictures are then twice as fine."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.run_line_magic("config", "InlineBackend.figure_formats = ['retina']")
    matplotlib.rcParams.update(
        {
            "figure.dpi": 80,
            "figure.figsize": (7, 3.2),
            "figure.constrained_layout.use": True,
            "font.size": 12,
            "axes.titlesize": 12,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
            "legend.frameon": False,
            "image.cmap": "gray",
        }
    )


def panels(
    columns: int = 1, rows: int = 1, width: float = 3.2, height: float | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure with rows x columns axes of `width` x `height` inches each, as a flat list.

    They are narrower where the figure would be wider than 10.8 inches.
    """
    width = min(width, WIDEST / columns)
    size = (width * columns, (height or width) * rows)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    return fig, list(axes.flat)


def array(x: Tensor) -> np.ndarray:
    """`x` as a numpy array on the CPU, without its graph."""
    return torch.as_tensor(x).detach().cpu().numpy()


def space(ax: Axes, extent: float | None = 3.0, title: str = "") -> Axes:
    """Prepare axes that show the plane: equal aspect, labelled coordinates, the square [-extent, extent]^2."""
    ax.set(xlabel="first coordinate", ylabel="second coordinate", title=title, aspect="equal")
    if extent is not None:
        ticks = np.array([-1, 0, 1]) * max(1, round(2 * extent / 3))  # few ticks: drawing them is most of a redraw
        ax.set(xlim=(-extent, extent), ylim=(-extent, extent), xticks=ticks, yticks=ticks)
    return ax


def points(ax: Axes, x: Tensor, color: str, label: str | None = None, size: float = 4, alpha: float = 0.5) -> None:
    """Scatter samples x (n, 2)."""
    x = array(x)
    ax.scatter(x[:, 0], x[:, 1], s=size, c=color, alpha=alpha, linewidths=0, label=label, rasterized=True)


def plane(extent: float, count: int, like: Tensor | None = None) -> Tensor:
    """A regular grid over [-extent, extent]^2 as points (count^2, 2), rows of constant second coordinate."""
    side = torch.linspace(-extent, extent, count) if like is None else torch.linspace(-extent, extent, count).to(like)
    y, x = torch.meshgrid(side, side, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def density(ax: Axes, log_density, extent: float = 3.0, count: int = 80) -> None:
    """Shade exp(log_density(x)) over the square; `log_density` maps (n, 2) to (n,)."""
    value = array(log_density(plane(extent, count)).exp()).reshape(count, count)
    box = (-extent, extent, -extent, extent)
    ax.imshow(value, origin="lower", extent=box, cmap=DENSITY, aspect="equal", interpolation="bilinear")


def field(ax: Axes, velocity, extent: float = 3.0, count: int = 16, color: str = VELOCITY) -> None:
    """Draw the arrows of `velocity`, a map from (n, 2) to (n, 2); the longest spans one and a half grid cells."""
    grid = plane(0.95 * extent, count)
    value, grid = array(velocity(grid)), array(grid)
    longest = max(float(np.linalg.norm(value, axis=1).max()), 1e-9)
    scale = longest / (1.5 * 2 * extent / count)
    ax.quiver(*grid.T, *value.T, color=color, angles="xy", scale_units="xy", scale=scale, width=0.005, alpha=0.8)


def trajectories(ax: Axes, x: Tensor, color: str = PATH, alpha: float = 0.5) -> None:
    """Draw paths x (steps + 1, n, 2), with their starts in the source's colour and their ends in the target's."""
    x = array(x)
    lines = LineCollection(x.transpose(1, 0, 2), colors=color, alpha=alpha, linewidths=0.8)  # one object draws faster
    ax.add_collection(lines)
    points(ax, x[0], SOURCE, size=9, alpha=0.9)
    points(ax, x[-1], TARGET, size=9, alpha=0.9)


def loss(ax: Axes, losses: Tensor, window: int = 50) -> None:
    """The running mean of `losses` (steps,) over `window` steps, on an axis from zero: it levels off above it."""
    values = array(losses)
    window = max(1, min(window, len(values) // 4))
    mean = np.convolve(values, np.ones(window) / window, mode="valid")
    ax.plot(np.arange(window - 1, len(values)) + 1, mean, color=ERROR)
    ax.set(xlabel="training step", ylabel=f"loss (mean of {window})", ylim=(0, None))


def images(ax: Axes, x: Tensor, shape: tuple[int, int] = (8, 8), columns: int = 10, title: str = "") -> None:
    """Tile images with values in [-1, 1] row by row, `columns` to a row; missing tiles stay white.

    x: grey rows (n, h*w) of `shape` (h, w), or (n, channels, h, w) with one channel (ink on white) or three (colour).
    """
    x = array(x)
    if x.ndim == 2:
        x = x.reshape(-1, 1, *shape)
    x = (x.transpose(0, 2, 3, 1).clip(-1, 1) + 1) / 2
    n, h, w, channels = x.shape
    if channels == 1:
        x = 1 - x.repeat(3, 3)
    sheet = np.ones((-(-n // columns) * (h + 1), columns * (w + 1), 3))
    for i, image in enumerate(x):
        top, left = i // columns * (h + 1), i % columns * (w + 1)
        sheet[top : top + h, left : left + w] = image
    ax.imshow(sheet, interpolation="nearest")
    ax.set(title=title)
    ax.axis("off")


VIEW = np.array([[-0.6, 0.8, 0.0], [-0.4, -0.3, 0.866], [0.693, 0.52, 0.5]])  # right, up, and towards whoever looks
BEHIND = 0.25  # how much fainter the far side of a globe is


def chart(ax: Axes, manifold, title: str = "") -> Axes:
    """Prepare axes that show a surface of `manifolds`: the sphere as a globe, the torus as a square whose opposite
    edges are one, the hyperbolic plane as the disk of Poincare, whose rim is infinitely far away."""
    ax.set(title=title, aspect="equal")
    if isinstance(manifold, manifolds.Torus):
        ticks = [-np.pi, 0, np.pi], ["$-\\pi$", "0", "$\\pi$"]
        ax.set(xlim=(-np.pi, np.pi), ylim=(-np.pi, np.pi), xlabel="first angle", ylabel="second angle")
        ax.set_xticks(*ticks)
        ax.set_yticks(*ticks)
        return ax
    angle = np.linspace(0, 2 * np.pi, 100)
    ax.fill(np.cos(angle), np.sin(angle), facecolor="#F4F4F4", edgecolor=NEUTRAL, linewidth=1, zorder=0)
    ax.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08))
    ax.axis("off")
    return ax


def _charted(manifold, x) -> tuple[np.ndarray, np.ndarray]:
    """Places of x (..., coordinates) on the chart, (..., 2), and which of them are in front."""
    x = array(x)
    if isinstance(manifold, manifolds.Sphere):
        seen = x @ VIEW.T
        return seen[..., :2], seen[..., 2] >= 0
    flat = x if isinstance(manifold, manifolds.Torus) else x[..., 1:] / (1 + x[..., :1])
    return flat, np.ones(x.shape[:-1], dtype=bool)


def chart_points(ax: Axes, manifold, x: Tensor, color: str, label: str | None = None, size=6, alpha=0.8) -> None:
    """Scatter points x (n, coordinates) on the chart of a surface; those behind are faint."""
    place, front = _charted(manifold, x)
    points(ax, place[front], color, label, size, alpha)
    points(ax, place[~front], color, None, size, BEHIND * alpha)


def chart_lines(ax: Axes, manifold, x: Tensor, color: str = PATH, width=0.8, alpha=0.5, label=None) -> None:
    """Draw paths x (steps + 1, n, coordinates) on the chart of a surface, broken at the edges of a torus."""
    place, front = _charted(manifold, x)
    pieces = np.stack([place[:-1], place[1:]], 2).reshape(-1, 2, 2)
    whole = np.abs(pieces[:, 1] - pieces[:, 0]).max(1) < 2  # a longer one has gone over an edge
    near = front[1:].reshape(-1)
    for chosen, strength in [(whole & near, alpha), (whole & ~near, BEHIND * alpha)]:
        ax.add_collection(LineCollection(pieces[chosen], colors=color, alpha=strength, linewidths=width, label=label))
        label = None
