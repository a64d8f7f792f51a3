"""Explorers of notebook 12, generator matching."""

import torch
from matplotlib.collections import LineCollection
from torch import Tensor

from fmlib import figures, solvers
from fmlib.exact import MixturePath
from fmlib.explorers._explorer import Explorer, choice, slider
from fmlib.sampling import sample

EXTENT, DRAWN = 3.5, 16  # of the line that is shown, and the paths on it
SHARES = {
    "flow": (1.0, 0.0, 0.0),
    "diffusion": (0.0, 1.0, 0.0),
    "jumps": (0.0, 0.0, 1.0),
    "half flow, half jumps": (0.5, 0.0, 0.5),
    "a third of each": (1 / 3, 1 / 3, 1 / 3),
}


def _films(path: MixturePath, samples: int, steps: int, noise: float, seed: int) -> dict[str, Tensor]:
    """Points (steps + 1, samples) of each process of `SHARES`: so much of the flow, of a diffusion and of jumps."""
    generator = torch.Generator(path.target.means.device).manual_seed(seed)
    like = {"dtype": path.target.means.dtype, "device": path.target.means.device}
    grid = torch.linspace(-5, 5, 1001, **like)[:, None]
    times = torch.linspace(0, 1, steps + 1, **like).repeat_interleave(len(grid))
    everywhere = grid.repeat(steps + 1, 1)
    log_p, rise = torch.func.jvp(lambda t: path.log_density(everywhere, t), (times,), (torch.ones_like(times),))
    tables = {"velocity": path.velocity(everywhere, times), "score": path.score(everywhere, times)}
    tables |= {"rate": (-rise).clamp(min=0)[:, None], "landing": (log_p.exp() * rise.clamp(min=0))[:, None]}
    tables = {name: table.reshape(steps + 1, len(grid)) for name, table in tables.items()}

    def field(name, share):  # share times the value at the nearest point of the grid
        return lambda x, t: share * tables[name][round(float(t) * steps), (100 * (x + 5)).round().long().clamp(0, 1000)]

    def land(x, t):
        weights = tables["landing"][round(float(t) * steps)]
        return grid[torch.multinomial(weights, len(x), replacement=True, generator=generator)]

    films, start = {}, torch.randn(samples, 1, generator=generator, **like)
    for name, (flow, diffusion, jumps) in SHARES.items():
        rate, move = field("rate", jumps), solvers.maruyama(field("score", 1.0), diffusion**0.5 * noise, generator)
        step = solvers.jumping(lambda x, t, rate=rate: rate(x, t)[:, 0], land, move, generator)
        velocity = field("velocity", flow + diffusion)
        films[name] = sample(velocity, start, steps=steps, method=step, return_path=True).x[..., 0]
    return films


def processes(path: MixturePath, samples: int = 1200, steps: int = 120, noise: float = 1.0, seed: int = 0) -> Explorer:
    """Choose a process that follows p_t on the line, and let the time play: its paths, and its law against p_t.

    path: of a mixture on the line. Left, `DRAWN` paths until the time t; right, the histogram of all samples over p_t.
    """
    films = {name: figures.array(film) for name, film in _films(path, samples, steps, noise, seed).items()}
    like = {"dtype": path.target.means.dtype, "device": path.target.means.device}
    places, times = torch.linspace(-EXTENT, EXTENT, 141, **like), torch.linspace(0, 1, steps + 1).numpy()
    densities = [figures.array(path.log_density(places[:, None], float(t)).exp()) for t in times]
    highest = 1.15 * max(density.max() for density in densities)

    def draw(figure, process, t):
        (left, right), now, film = figure.subplots(1, 2), round(t * steps), films[process]
        lines = [list(zip(times[: now + 1], film[: now + 1, i], strict=True)) for i in range(DRAWN)]
        left.add_collection(LineCollection(lines, colors=figures.PATH, linewidths=0.8, alpha=0.7))
        left.plot([t] * DRAWN, film[now, :DRAWN], "o", color=figures.VELOCITY, markersize=3)
        left.set(xlim=(0, 1), ylim=(-EXTENT, EXTENT), xlabel="time t", ylabel="position", title=process)
        color = figures.SOURCE if now == 0 else figures.TARGET if now == steps else figures.PATH
        right.hist(film[now], 50, range=(-EXTENT, EXTENT), density=True, histtype="stepfilled", color=color, alpha=0.35)
        right.plot(figures.array(places), densities[now], color="black", linewidth=1.2, label="$p_t$")
        right.set(xlim=(-EXTENT, EXTENT), ylim=(0, highest), xlabel="position", ylabel="density")
        right.set(title=f"law at t = {t:.2f}")
        right.legend(loc="upper left")

    controls = {"process": choice("process", list(SHARES)), "t": slider("time t", 0.0, 1.0, 0.02, 0.6)}
    controls["process"].value = "half flow, half jumps"
    return Explorer(draw, controls, alt="Left: paths of a process until t. Right: its histogram over the density p_t.")
