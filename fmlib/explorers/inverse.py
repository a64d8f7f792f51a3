"""Explorers of notebook 10, inverse problems."""

import torch
from torch import Tensor

from fmlib import figures
from fmlib.exact import MixturePath
from fmlib.explorers._explorer import Explorer, choice, slider
from fmlib.laws import GaussianMixture
from fmlib.paths import AffinePath
from fmlib.sampling import sample

STEPS = 16  # Euler steps of the guided samples: light while a control moves, and near enough for the eye
WAYS = ("exact", "DPS", "PiGDM")


def observation(law: GaussianMixture, A: Tensor, noise: float, extent: float = 3.2, samples: int = 200) -> Explorer:
    """Move the observation y = A x_1 + N(0, noise^2), choose a guidance; see its samples on the exact posterior.

    law: in the plane, in the dtype of A, (1, 2). Left, the posterior's density, the line A x = y and samples of the
    guided flow; right, the weights of the posterior's components, and the samples' shares of them.
    """
    path = MixturePath(law)
    x_0 = torch.randn(samples, 2, generator=torch.Generator().manual_seed(0), dtype=A.dtype)

    def draw(figure, way, y):
        left, right = figure.subplots(1, 2)
        seen = torch.tensor([y], dtype=A.dtype)
        posterior, _ = law.tilt(A.T @ seen / noise**2, A.T @ A / noise**2)
        exact = MixturePath(posterior)
        velocity = exact.velocity if way == "exact" else _guided(path, A, seen, noise, wide=way == "PiGDM")
        x = sample(velocity, x_0, steps=STEPS, method="euler").nan_to_num().clamp(-9, 9)
        shares = exact.posterior(x, 1.0).mean(0)
        figures.space(left, extent, f"{way}, {samples} samples")
        figures.density(left, posterior.log_density, extent, count=50)
        line = torch.tensor([-extent, extent], dtype=A.dtype)
        left.plot(line, (y - A[0, 0] * line) / A[0, 1], color=figures.NEUTRAL, linewidth=1)
        figures.points(left, x, figures.CYCLE[4], size=9, alpha=0.9)
        places = range(len(shares))
        for side, height, color, name in [
            (-0.2, posterior.weights, figures.PATH, "posterior"),
            (0.2, shares, figures.CYCLE[4], "samples"),
        ]:
            right.bar([place + side for place in places], figures.array(height), 0.4, color=color, label=name)
        right.set(
            ylim=(0, 1.15),
            xticks=places,
            xticklabels=[place + 1 for place in places],
            xlabel="component",
            ylabel="share",
        )
        right.set_yticks((0, 0.5, 1))
        right.legend(loc="upper center", ncols=2, fontsize=10)

    controls = {"way": choice("guidance", WAYS), "y": slider("observation y", -2.5, 2.5, 0.25, -0.25)}
    alt = "Left: samples of a guided flow on the posterior's density. Right: weights of its components, and shares."
    return Explorer(draw, controls, alt=alt)


def _guided(path: MixturePath, A: Tensor, y: Tensor, noise: float, wide: bool):
    """u + b_t grad log N(y; A x_1, r^2 A A^T + s^2 I) with r = 0, or PiGDM's r^2 = sigma^2 / (alpha^2 + sigma^2)."""
    affine = AffinePath(path.schedule)

    def velocity(x, t):
        t = t.clamp(min=1e-3)  # at t = 0 the gain is infinite, and the slope zero
        alpha, sigma = path.schedule.alpha(t), path.schedule.sigma(t)
        r2 = sigma**2 / (alpha**2 + sigma**2) if wide else 0 * t
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            off = y - path.x_1(x, t) @ A.T
            log = -off.square().sum() / (2 * (r2 * A.square().sum() + noise**2))
            (slope,) = torch.autograd.grad(log, x)
        _, gain = affine.coefficients(t, have="score", want="velocity")
        return path.velocity(x.detach(), t) + gain * slope

    return velocity
