"""Explorers of notebook 13, discrete flows."""

import math

import torch
from torch import Tensor

from fmlib import exact, figures
from fmlib.explorers._explorer import Explorer, choice, slider

MASK_COLOR = (0.2, 0.6, 1.0)
MASKS, UNIFORM = "masks", "uniform"
SOURCES = {MASKS: figures.CYCLE[5], UNIFORM: figures.CYCLE[4]}
GRIDS = {
    "even": lambda k: k,
    "few first": lambda k: 1 - math.cos(k * math.pi / 2) if k < 1 else 1.0,
    "many first": lambda k: math.sin(k * math.pi / 2),
}


def film(pixels: Tensor, levels: int = 17, few: int = 4, many: int = 64, count: int = 12, seed: int = 3) -> Explorer:
    """Noise becomes pictures of tokens, in many steps and in few; choose the source, and let the time play.

    pixels: real pictures as tokens (N, 64) in [0, levels); the mask is the token `levels`. Each step redraws pixels
    from their posteriors given the whole picture, if the law is that of `pixels`: the level that a real picture has
    there, drawn with the weights of the posterior. (With masks no picture may agree; those that agree best are taken.)
    """
    made = {
        (source, steps): _frames(pixels, levels, source, steps, count, torch.Generator().manual_seed(seed))
        for source in SOURCES
        for steps in (many, few)
    }

    def draw(figure, source, t):
        for ax, steps in zip(figure.subplots(1, 2), (many, few), strict=True):
            x = made[source, steps][math.floor(t * steps + 1e-9)]
            figures.images(ax, ink(x, levels), columns=4, title=f"{steps} steps, t = {t:g}")

    controls = {"source": choice("source", list(SOURCES)), "t": slider("time t", 0.0, 1.0, 1 / 16, 0.875)}
    alt = "Pictures of tokens on the way from noise to digits: left in many steps, right in few."
    return Explorer(draw, controls, alt=alt)


def ink(x: Tensor, levels: int = 17) -> Tensor:
    """Tokens (n, 64) as pictures (n, 3, 8, 8) in [-1, 1]: grey levels on white, and masks in light blue."""
    grey = (1 - 2 * x / (levels - 1)).to(torch.float32)[:, None].expand(-1, 3, -1)
    blue = torch.tensor(MASK_COLOR)[:, None]
    return torch.where(x[:, None] == levels, blue, grey).unflatten(2, (8, 8))


def _frames(pixels: Tensor, levels: int, source: str, steps: int, count: int, own: torch.Generator) -> list[Tensor]:
    shape = count, pixels.shape[1]
    x = torch.full(shape, levels) if source == MASKS else torch.randint(levels, shape, generator=own)
    frames = [x]
    for j in range(steps):
        t = j / steps
        weight = 20.0 if source == MASKS else math.log1p(levels * t / (1 - t))
        agree = (x[:, None] == pixels).double().sum(2)
        chosen = torch.multinomial((weight * agree).softmax(1), shape[1], replacement=True, generator=own)
        redrawn = torch.rand(shape, generator=own) < 1 / (steps - j)
        if source == MASKS:
            redrawn &= x == levels
        x = torch.where(redrawn, pixels[chosen, torch.arange(shape[1])], x)
        frames.append(x)
    return frames


def steps(law: Tensor, most: int = 32) -> Explorer:
    """Choose a source, a grid and a number of steps; see the law that they draw, and its error against the steps.

    law: a table (K,) * d, float64. The posterior is exact: the only error is that a step draws all positions at once.
    """
    K, d = len(law), law.ndim
    more = law.new_zeros((K + 1,) * d)
    inside = (slice(K),) * d
    more[inside] = law
    paths = {
        MASKS: exact.TokenPath(more, torch.eye(K + 1, dtype=law.dtype)[K]),
        UNIFORM: exact.TokenPath(law, torch.full((K,), 1 / K, dtype=law.dtype)),
    }
    counts = sorted({*(2**k for k in range(1 + int(math.log2(most)))), most})

    def reached(source: str, grid: str, n: int) -> Tensor:
        path, times = paths[source], [GRIDS[grid](k / n) for k in range(n + 1)]
        p = path.probability(0.0).flatten()
        for t, s in zip(times[:-1], times[1:], strict=True):
            p = path.step(t, s) @ p
        return p.reshape(path.law.shape)[inside]

    def error(p: Tensor) -> float:
        return (p - law).abs().sum().item() / 2

    curves = {(s, g): [error(reached(s, g, n)) for n in counts] for s in SOURCES for g in GRIDS}
    low, high = min(map(min, curves.values())), max(map(max, curves.values()))

    def draw(figure, source, grid, n):
        left, right = figure.subplots(1, 2)
        p = reached(source, grid, n)
        place = torch.arange(law.numel())
        thick = 90 / len(place)  # one artist for all bars draws faster
        bars = {"linewidth": thick, "capstyle": "butt"}
        left.vlines(place - 0.22, 0, figures.array(law.flatten()), figures.VELOCITY, label="q", **bars)
        left.vlines(place + 0.22, 0, figures.array(p.flatten()), SOURCES[source], label="reached", **bars)
        left.set(xlabel=f"{law.numel()} words", ylabel="probability", title=f"{n} step{'s' if n > 1 else ''}, {source}")
        left.set(ylim=(0, 1.25 * law.max().item()), xticks=[], yticks=[0, round(law.max().item(), 1) or 0.05])
        left.legend(loc="upper right", fontsize=10, ncols=2)
        for name, color in SOURCES.items():
            right.plot(counts, curves[name, grid], "-", color=color, label=name)
        right.plot(n, error(p), "o", color=figures.ERROR, markersize=9)
        right.set(xscale="log", yscale="log", ylim=(low / 1.5, high * 1.5), xlabel="steps")
        right.set(title=f"total variation {error(p):.3f}", xticks=counts, xticklabels=counts)
        right.minorticks_off()
        right.legend(loc="lower left", fontsize=10)

    controls = {
        "source": choice("source", list(SOURCES)),
        "grid": choice("grid", list(GRIDS)),
        "n": slider("steps", 1, most, 1, 3),
    }
    alt = "Left: the law of the words and the law that the steps reach. Right: total variation against the steps."
    return Explorer(draw, controls, alt=alt)
