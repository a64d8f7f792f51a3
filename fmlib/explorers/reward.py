"""Explorers of notebook 11, reward fine-tuning."""

import torch
from torch import Tensor

from fmlib import figures
from fmlib.explorers._explorer import Explorer, choice, slider
from fmlib.laws import GaussianMixture

CELLS = 50  # to a side of the grid on which the tilted law is drawn


def tilted(law: GaussianMixture, slope: Tensor, extent: float = 3.2, samples: int = 250, seed: int = 0) -> Explorer:
    """Move the strength of the reward slope.x; see the law wanted, and what keeping the best of N samples draws.

    law: in the plane. slope: (2,). Left, the best of N samples of `law` over the density of the tilted law
    q(x) exp(strength slope.x) / Z; right, the share of each component in the law, in the tilted law and in the samples.
    """
    grid, count = figures.plane(extent, CELLS, law.means), len(law.weights)
    generator = torch.Generator(law.means.device).manual_seed(seed)
    drawn = law.sample(64 * samples, generator).reshape(samples, 64, 2)

    def draw(figure, n, strength):
        left, right = figure.subplots(1, 2)
        wanted, _ = law.tilt(strength * slope)
        best = (drawn[:, :n] @ slope).argmax(1)
        x = drawn[torch.arange(samples), best]
        figures.space(left, extent, f"best of {n}: mean reward {x.mean(0) @ slope:.2f}")
        figures.density(left, lambda _: wanted.log_density(grid), extent, CELLS)
        figures.points(left, x, figures.TARGET, size=9, alpha=0.9)
        one = torch.ones((), device=x.device)
        shares = law.components(x, one, 0 * one).log_joint.softmax(1).mean(0)
        rows = [("law", law.weights, figures.NEUTRAL), ("tilted law", wanted.weights, figures.PATH)]
        rows += [(f"best of {n}", shares, figures.TARGET)]
        for i, (name, share, color) in enumerate(rows):
            place = [k + 0.27 * (i - 1) for k in range(count)]
            right.bar(place, figures.array(share), 0.25, color=color, label=name)
        reward = wanted.weights @ (wanted.means @ slope)
        right.set(title=f"wanted: mean reward {reward:.2f}", ylabel="share", ylim=(0, 1.25), yticks=(0, 0.5, 1))
        right.set(xlabel="component", xticks=range(count), xticklabels=[str(k + 1) for k in range(count)])
        right.legend(loc="upper left", fontsize=10, ncols=3, columnspacing=0.8, handlelength=1, handletextpad=0.4)

    keep = choice("keep the best of", [1, 2, 4, 16, 64])
    keep.value = 4
    controls = {"n": keep, "strength": slider("strength of the reward", 0.0, 1.5, 0.1, 1.0)}
    alt = "Left: the best of N samples over the tilted law. Right: the share of each component in three laws."
    return Explorer(draw, controls, alt=alt)
