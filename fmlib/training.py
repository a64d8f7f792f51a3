"""Training: one loop that regresses a network on the velocity of a path."""

import copy
import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from fmlib import _validate
from fmlib.couplings import Independent, Paired
from fmlib.paths import AffinePath

Law = Tensor | Callable[..., Tensor]


class Fit(NamedTuple):
    """The averaged network, in evaluation mode, and the loss of every step, (steps,), on the CPU."""

    model: nn.Module
    losses: Tensor


def device_of(name: str = "auto") -> torch.device:
    """The device called `name`; 'auto' takes a GPU (CUDA, then Apple's) where there is one, else the CPU."""
    if name != "auto":
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError, ImportError) as error:
            raise ValueError(f"device {name!r} cannot be used here: {str(error).splitlines()[0][:160]}") from None
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def fit(
    model: nn.Module,
    target: Law,
    *,
    source: Law | None = None,
    labels: Tensor | None = None,
    coupling=Independent(),
    path: AffinePath = AffinePath(),
    steps: int = 1000,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    ema: float = 0.999,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
    on_step: Callable[[int, nn.Module], None] | None = None,
) -> Fit:
    """Minimise the conditional flow matching loss E ||u_theta(X_t, t) - d/dt X_t||^2, t ~ U[0, 1].

    (Lipman et al. 2024, equation 4.53.) The loss is a mean over coordinates; it converges to the conditional variance
    of the velocity, not to zero. `model` itself is trained in place; the returned copy has exponentially averaged
    weights.

    target: data (N, *dims), or a sampler (n, generator=) -> (n, *dims). source: likewise; default N(0, I).
    labels: integers (N,), passed to the network as label=. coupling: pairs each batch (`Paired` draws the same rows of
    source and target data). path: an `AffinePath`. learning_rate: of Adam, decaying to zero along a half cosine.
    ema: decay of the weight average in [0, 1), reached gradually. seed: of every draw made here; the network's
    initial weights are the caller's. on_step: called with the steps done and the averaged network.
    Raises TypeError or ValueError for bad data or options, and FloatingPointError if the loss is not finite.
    """
    for name, value in [("steps", steps), ("batch_size", batch_size)]:
        _validate.count(name, value)
    if not 0 <= ema < 1:
        raise ValueError(f"ema must lie in [0, 1), got {ema}")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    place = device_of(device)
    generator = torch.Generator(place).manual_seed(seed)
    draw = _batches(target, source, labels, coupling, batch_size, generator, place)

    model = model.to(place).train()
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = torch.zeros(steps, device=place)
    bar = tqdm(range(steps), disable=_silent(progress), leave=False, desc="fit", mininterval=0.5)
    for step in bar:
        x_0, x_1, condition = draw()
        t = torch.rand(len(x_1), generator=generator, device=place, dtype=x_1.dtype)
        point = path.sample(x_0, x_1, t)
        prediction = model(point.x_t, t, **condition)
        if prediction.shape != point.velocity.shape:  # would be broadcast silently
            expected = tuple(point.velocity.shape)
            raise ValueError(f"model must return a tensor of shape {expected}, got {tuple(prediction.shape)}")
        loss = (prediction - point.velocity).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses[step] = loss.detach()
        _average(averaged, model, min(ema, (1 + step) / (10 + step)))
        if (step + 1) % 100 == 0 or step + 1 == steps:
            _stop_unless_finite(losses[: step + 1], step, bar)
        if on_step is not None:
            on_step(step + 1, averaged)
    return Fit(averaged, losses.cpu())


def _silent(progress: bool) -> bool | None:
    """What tqdm calls `disable`: in a notebook show the bar; elsewhere only if the output is a terminal (None)."""
    return not progress if "ipykernel" in sys.modules else (None if progress else True)


def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)


def _stop_unless_finite(losses: Tensor, step: int, bar) -> None:
    recent = losses[-100:].mean().item()
    if not math.isfinite(recent):
        first = int((~losses.isfinite()).nonzero()[0])
        raise FloatingPointError(f"the loss became {losses[first].item()} at step {first}; try a lower learning_rate")
    bar.set_postfix(loss=f"{recent:.3f}")


def _batches(target, source, labels, coupling, batch_size, generator, place):
    """Check the data, put it on the device, and return a function that draws one coupled batch."""
    target = _on_device("target", target, place)
    source = _on_device("source", source, place)
    if labels is not None:
        if not isinstance(target, Tensor):
            raise ValueError("labels need target data, not a sampler")
        if len(_validate.labels("labels", labels, 2**31)) != len(target):
            raise ValueError(f"labels and target must have one length, got {len(labels)} and {len(target)}")
        labels = labels.to(place)
    if isinstance(coupling, Paired):
        if not (isinstance(source, Tensor) and isinstance(target, Tensor) and len(source) == len(target)):
            raise ValueError("Paired() needs source and target data of one length")

    def rows(law, picked):
        return law[picked] if isinstance(law, Tensor) else law(batch_size, generator=generator).to(place)

    def pick(law):
        n = len(law) if isinstance(law, Tensor) else 1
        return torch.randint(n, (batch_size,), generator=generator, device=place)

    def draw():
        picked = pick(target)
        x_1 = rows(target, picked)
        if source is None:
            x_0 = torch.randn(x_1.shape, generator=generator, device=place, dtype=x_1.dtype)
        else:
            x_0 = rows(source, picked if isinstance(coupling, Paired) else pick(source))
        x_0, x_1 = coupling(x_0, x_1, generator=generator)
        return x_0, x_1, {} if labels is None else {"label": labels[picked]}

    return draw


def _on_device(name: str, law: Law | None, place: torch.device):
    if law is None or (callable(law) and not isinstance(law, Tensor)):
        return law
    return _validate.batch(name, law).to(place)
