"""Explorers of notebook 14, the codebase demo."""

from collections.abc import Callable

from torch import Tensor

from fmlib import figures
from fmlib.explorers._explorer import Explorer, choice, slider
from fmlib.sampling import sample
from fmlib.solvers import EVALUATIONS


def training(film: list[Tensor], losses: Tensor, columns: int = 5) -> Explorer:
    """Let a training play: what the network draws from the same noise, beside the loss of its steps.

    film: images of equal shape, drawn at even distances; the last of them after the last step. losses: (steps,).
    """
    every = len(losses) // len(film)

    def draw(figure, done):
        left, right = figure.subplots(1, 2)
        figures.images(left, film[done // every - 1], columns=columns, title=f"after {done} steps")
        figures.loss(right, losses, window=20)
        right.axvline(done, color=figures.PATH, linewidth=3, alpha=0.5)
        right.set(title="the loss levels off early")

    controls = {"done": slider("steps of training", every, every * len(film), every, every * len(film))}
    return Explorer(draw, controls, alt="Left: images drawn from one noise. Right: the loss, and the step shown.")


def evaluations(
    velocity: Callable, x_0: Tensor, scores: dict[str, tuple[list, list]], most: int = 20, **condition: Tensor
) -> Explorer:
    """Choose a method and a number of evaluations of the network; see what it draws from `x_0`, and how far off it is.

    x_0: noise, (n, *dims). scores: by the name of a method, numbers of evaluations and the distances measured there.
    condition: keywords of the velocity, as in `sample`.
    """
    counts = [n for n in range(2, most + 1, 2) if all(n % EVALUATIONS[name] == 0 for name in scores)]
    drawn = {
        (name, n): sample(velocity, x_0, steps=n // EVALUATIONS[name], method=name, **condition).cpu()
        for name in scores
        for n in counts
    }
    styles = {name: ("o-", "s--", "^:")[k % 3] for k, name in enumerate(scores)}

    def draw(figure, method, n):
        left, right = figure.subplots(1, 2)
        figures.images(left, drawn[method, n], columns=5, title=f"{method}, {n} evaluations")
        for name, (at, distances) in scores.items():
            color = figures.VELOCITY if name == method else figures.NEUTRAL
            right.plot(at, distances, styles[name], color=color, label=name)
        right.axvline(n, color=figures.PATH, linewidth=3, alpha=0.5)
        right.axhline(1, color="black", linestyle=":", linewidth=1, label="floor")
        right.set(xlabel="evaluations of the network", title="distance, in floors", ylim=(0, None))
        right.legend()

    controls = {"method": choice("method", list(scores)), "n": slider("evaluations", counts[0], counts[-1], 2, 4)}
    return Explorer(draw, controls, alt="Left: images drawn with so many evaluations. Right: distance against them.")
