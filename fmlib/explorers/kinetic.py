"""Explorers of notebook 4, kinetic energy."""

import torch

from fmlib import figures
from fmlib.explorers._explorer import Explorer, choice, slider


def coupling(source, target, extent: float = 3.2) -> Explorer:
    """Choose a coupling and a batch size k; see its pairs, and the cost E||X_1 - X_0||^2 against k.

    source, target: samplers (n) -> (n, 2).
    """
    from fmlib.couplings import Independent, MinibatchOT

    kinds, most = {"independent": Independent(), "minibatch OT": MinibatchOT()}, 256
    x_0, x_1 = source(4 * most).cpu(), target(4 * most).cpu()
    order = torch.Generator().manual_seed(0)
    sizes, costs, pairs = [2**power for power in range(1, 9)], {}, {}
    for name, coupling in kinds.items():
        for k in sizes:
            batches = [coupling(a, b, generator=order) for a, b in zip(x_0.split(k), x_1.split(k), strict=True)]
            costs[name, k] = sum((b - a).square().sum().item() for a, b in batches) / len(x_0)
            pairs[name, k] = torch.stack(batches[0])

    def draw(figure, name, power):
        k = 2**power
        left, right = figure.subplots(1, 2)
        figures.space(left, extent, f"the pairs of one batch, k = {k}")
        figures.trajectories(left, pairs[name, k])
        for kind, marker in [("independent", "s-"), ("minibatch OT", "o-")]:
            color = figures.VELOCITY if kind == name else figures.NEUTRAL
            right.plot(sizes, [costs[kind, size] for size in sizes], marker, color=color, label=kind)
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
