"""Explorers of notebook 9, faster sampling."""

from collections.abc import Callable

import torch
from torch import Tensor

from fmlib import figures
from fmlib.explorers._explorer import Explorer, choice, slider
from fmlib.sampling import sample

STYLES = ("-", "--", ":", "-.")


def few_steps(
    fields: dict[str, Callable], grids: dict[str, Callable[[int], Tensor]], x_0: Tensor, x_1: Tensor, most: int = 12
) -> Explorer:
    """Choose a schedule, a grid and a number of midpoint steps; see where the samples end, and the error by steps.

    fields: by name, velocities (x, t) that lead from `x_0` to the same ends `x_1`, both (n, 2). grids: by name, a
    function from n to the n + 1 times of n steps, from 0 to 1. The error is the root mean square distance to `x_1`.
    """
    counts, ends, errors = range(1, most + 1), {}, {}
    for name, field in fields.items():
        for grid, times in grids.items():
            reached = torch.stack([sample(field, x_0, steps=times(n).to(x_0)) for n in counts])
            ends[name, grid] = reached
            errors[name, grid] = (reached - x_1).square().sum(2).mean(1).sqrt()
    all_errors = torch.stack(list(errors.values()))
    low, high = all_errors.min().item(), all_errors.max().item()

    def draw(figure, field, grid, n):
        left, right = figure.subplots(1, 2)
        extent = 1.3 * x_1.abs().max().item()
        figures.space(left, extent, f"{n} midpoint step{'s' if n > 1 else ''}, NFE {2 * n}")
        figures.points(left, x_1, figures.TARGET, "exact ends", size=12)
        figures.points(left, ends[field, grid][n - 1], figures.PATH, "ends of the steps", size=12, alpha=0.8)
        left.legend(loc="upper left", fontsize=9, ncols=2, handletextpad=0.1, columnspacing=0.8)
        for k, name in enumerate(grids):
            color = figures.CYCLE[(3 + k) % len(figures.CYCLE)]
            right.plot(counts, errors[field, name], STYLES[k % len(STYLES)], color=color, label=name)
        right.plot(n, errors[field, grid][n - 1], "o", color=figures.VELOCITY, markersize=9)
        right.set(yscale="log", ylim=(low / 1.5, high * 1.5), xlabel="midpoint steps", title=f"RMS error on {field}")
        right.legend(loc="upper right", fontsize=10)

    controls = {
        "field": choice("schedule", list(fields)),
        "grid": choice("grid", list(grids)),
        "n": slider("midpoint steps", 1, most, 1, 2),
    }
    alt = "Left: where few steps end, over the exact ends. Right: the error against the number of steps, by grid."
    return Explorer(draw, controls, alt=alt)
