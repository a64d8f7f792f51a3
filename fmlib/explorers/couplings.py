"""Explorers of notebook 7, data couplings."""

import torch

from fmlib import figures
from fmlib.explorers._explorer import Explorer, slider


def source_noise(tau: float, count: int = 300) -> Explorer:
    """Move the noise sigma of the source X_0 = Y + sigma N(0, 1); see what becomes of the pairs (Y, X_1).

    X_1 ~ N(0, 1) and Y = X_1 + tau N(0, 1) on the line, where the flow is the increasing map between two Gaussians,
    X_1 = X_0 / sqrt(1 + tau^2 + sigma^2). tau: positive. Beside the samples stand as many true pairs, and the variance
    that is left when Y is known: sigma^2 / (1 + tau^2 + sigma^2), and truly tau^2 / (1 + tau^2).
    """
    x_1, eta, epsilon = torch.randn(3, count, generator=torch.Generator().manual_seed(0))
    y, wide = x_1 + tau * eta, 1 + tau**2
    sigmas = torch.linspace(0, 2, 201)

    def left_over(sigma):
        return sigma**2 / (wide + sigma**2)

    def draw(figure, sigma):
        left, right = figure.subplots(1, 2)
        made = (y + sigma * epsilon) / (wide + sigma**2) ** 0.5
        figures.points(left, torch.stack([y, x_1], 1), figures.NEUTRAL, "true pairs", size=9, alpha=0.6)
        figures.points(left, torch.stack([y, made], 1), figures.PATH, "samples", size=9, alpha=0.8)
        left.set(xlim=(-3.6, 3.6), ylim=(-3.3, 4.3), title=f"sigma = {sigma:.2f}")
        left.set(xlabel="Y", ylabel="X, true or sampled")
        left.legend(loc="upper left", ncols=2, fontsize=10, handletextpad=0.2, columnspacing=1)
        right.plot(sigmas, left_over(sigmas), color=figures.PATH, label="not told Y")
        right.axhline(tau**2 / wide, color="black", ls=":", label="true")
        right.plot(sigma, left_over(sigma), "o", color=figures.ERROR, markersize=10)
        right.set(xlabel="noise sigma on the source", ylim=(0, 1), title="variance left when Y is known")
        right.legend(loc="upper left", fontsize=10)

    alt = "Left: samples over true pairs (Y, X_1). Right: the variance that is left when Y is known, against sigma."
    return Explorer(draw, {"sigma": slider("noise sigma", 0.0, 2.0, 0.05, 0.3)}, alt=alt)
