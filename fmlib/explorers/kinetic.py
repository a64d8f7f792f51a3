"""Explorers of notebook 4, kinetic energy."""

import torch

from fmlib import figures
from fmlib.couplings import Independent, MinibatchOT
from fmlib.explorers._explorer import Explorer, choice, slider


def coupling(source, target, extent: float = 3.2) -> Explorer:
    """Choose a coupling and a batch size k; see its pairs, and the cost E||X_1 - X_0||^2 against k.

    source, target: samplers that map a number n to points (n, 2). The cost is a mean over four of the largest batches.
    """
    couplings = {"independent": Independent(), "minibatch OT": MinibatchOT()}
    sizes = [2**power for power in range(1, 9)]
    x_0, x_1 = source(4 * sizes[-1]).cpu(), target(4 * sizes[-1]).cpu()
    generator = torch.Generator().manual_seed(0)
    costs, pairs = {}, {}
    for name, couple in couplings.items():
        for k in sizes:
            batches = [couple(a, b, generator=generator) for a, b in zip(x_0.split(k), x_1.split(k), strict=True)]
            costs[name, k] = sum((b - a).square().sum().item() for a, b in batches) / len(x_0)
            pairs[name, k] = torch.stack(batches[0])

    def draw(figure, name, power):
        k = 2**power
        left, right = figure.subplots(1, 2)
        figures.space(left, extent, f"the pairs of one batch, k = {k}")
        figures.trajectories(left, pairs[name, k])
        for other, marker in [("independent", "s-"), ("minibatch OT", "o-")]:
            color = figures.VELOCITY if other == name else figures.NEUTRAL
            right.plot(sizes, [costs[other, size] for size in sizes], marker, color=color, label=other)
        right.plot(k, costs[name, k], "o", color=figures.ERROR, markersize=11)
        right.set_xscale("log", base=2)
        right.set(xlabel="batch size k", title=f"cost of the coupling: {costs[name, k]:.2f}", ylim=(0, None))
        right.set_xticks((2, 16, 128), ("2", "16", "128"))
        right.legend()

    controls = {
        "name": choice("coupling", ["minibatch OT", "independent"]),
        "power": slider("batch size, as a power of two", 1, 8, 1, 3),
    }
    alt = "Left: lines between paired source and target samples. Right: the cost of both couplings against k."
    return Explorer(draw, controls, alt=alt)
