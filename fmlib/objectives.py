"""Training objectives. A loss is a function (network, batch) -> a number to minimise; `fit` takes any such function.

`VelocityMatching` trains velocities; `MeanFlow` and `Shortcut` train flow maps, which `solvers.flow_map` samples in few
steps: networks with a second time, network(x, t, s=s, **condition), as `models.MLP(..., until=True)`.
`TokenCrossEntropy` and `TokenRates` train logits on integers, for which `fit` needs a source: see `tokens`.

batch: a `batches.Batch` with x_0, x_1, t, condition, and a generator for what the loss draws itself. The network is
called like any velocity, network(x, t, **batch.condition), as often as the loss needs it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fmlib import _validate, losses
from fmlib.batches import Batch
from fmlib.devices import in_float64
from fmlib.models import TimeFeatures
from fmlib.paths import AffinePath, TokenMix
from fmlib.schedules import Schedule


@dataclass(frozen=True)
class VelocityMatching:
    """E ||u_theta(X_t, t) - d/dt X_t||^2, t ~ U[0, 1]: the conditional flow matching loss.

    (Lipman et al. 2024, equation 4.53.) A mean over rows and coordinates; it converges to the conditional variance of
    the velocity, not to zero. path: whatever has `.sample(x_0, x_1, t)` with an `x_t` and a `velocity`.
    Raises TypeError for a path without it, or a network that returns no tensor; ValueError for one of another shape.

    >>> x_0, x_1 = torch.zeros(4, 2), torch.ones(4, 2)
    >>> batch = Batch(x_0, x_1, torch.rand(4), {}, torch.Generator())
    >>> VelocityMatching()(lambda x, t: torch.ones_like(x), batch)  # the velocity of every pair is x_1 - x_0 = 1
    tensor(0.)
    """

    path: AffinePath = AffinePath()

    def __post_init__(self):
        _check_path(self.path, "x_0, x_1, t")

    def __call__(self, network, batch: Batch) -> Tensor:
        point = self.path.sample(batch.x_0, batch.x_1, batch.t)
        prediction = network(point.x_t, batch.t, **batch.condition)
        if not isinstance(prediction, Tensor):
            raise TypeError(f"model must return a tensor, got {type(prediction).__name__}")
        if prediction.shape != point.velocity.shape:  # would be broadcast silently
            expected = tuple(point.velocity.shape)
            raise ValueError(f"model must return a tensor of shape {expected}, got {tuple(prediction.shape)}")
        return (prediction.to(point.velocity.dtype) - point.velocity).square().mean()


@dataclass(frozen=True)
class MeanFlow:
    """E ||u_theta(X_t, t, s) - sg(v + (s - t) d/dt u_theta(X_t, t, s))||^2, with v the velocity of the pair: mean flow.

    (Geng et al. 2025, "Mean Flows for One-step Generative Modeling", equations 9 to 11, with time running towards the
    data.) The average velocity u(x, t, s) of `sampling.average_velocity` solves (s - t) u = int_t^s v, whose derivative
    along the path is the equation above: d/dt = v . grad_x + partial_t, by `torch.func.jvp`. The target is linear in v,
    so that of the pair may stand for the marginal one. sg: no gradient passes.

    path: affine. share: of the rows, which draw s uniformly from [t, 1] and learn a jump; the others have s = t, where
    this is `VelocityMatching`, at a fourth of the cost. highest: ValueError for `models.TimeFeatures` with frequencies
    above this many pi, since d/dt multiplies by them, and training diverges. Gradients still jump: `fit(..., clip=1)`.
    Raises TypeError or ValueError for anything else, and ValueError for a network without a second time.

    >>> x_0, x_1 = torch.zeros(4, 2), torch.ones(4, 2)
    >>> batch = Batch(x_0, x_1, torch.rand(4), {}, torch.Generator())
    >>> MeanFlow()(lambda x, t, s: torch.ones_like(x), batch)  # the velocity is 1 everywhere, and so is its mean
    tensor(0.)
    """

    path: AffinePath = AffinePath()
    share: float = 0.5
    highest: float = 8.0

    def __post_init__(self):
        _check_jumps(self.path, self.share)
        _validate.positive("highest", self.highest)

    def __call__(self, network, batch: Batch) -> Tensor:
        _check_features(network, self.highest)
        t, drawn = _drawn(batch, self.share)
        (x, t, s, v, condition), rest = _split(self.path, batch, t, t + (1 - t) * drawn)

        def u(x: Tensor, t: Tensor) -> Tensor:
            return _average(network, x, t, s, condition)

        jump, rate = torch.func.jvp(u, (x, t), (v, torch.ones_like(t)))
        target = v + _validate.time(s - t, x) * rate.detach()
        return _mean_square(len(batch.t), (jump, target), *_at_one_time(network, rest))


@dataclass(frozen=True)
class Shortcut:
    """E ||u_theta(X_t, t, s) - sg(a + b)/2||^2, with a and b the average velocities of its two halves: shortcut models.

    (Frans et al. 2024, "One Step Diffusion via Shortcut Models", equation 5, with s - t free instead of a power of two,
    and the network itself in place of its average.) a = u_theta(X_t, t, m) and b = u_theta(X_t + (m - t) a, m, s), with
    m = (t + s)/2, so that one jump does what two of half its length do. sg: no gradient passes.

    path: affine. share: of the rows, which learn a jump from t to s, of uniform length; the others have s = t, where
    this is `VelocityMatching`. Raises TypeError or ValueError for anything else, and ValueError for a network without a
    second time.

    >>> x_0, x_1 = torch.zeros(4, 2), torch.ones(4, 2)
    >>> batch = Batch(x_0, x_1, torch.rand(4), {}, torch.Generator())
    >>> Shortcut()(lambda x, t, s: torch.ones_like(x), batch)  # the velocity is 1 everywhere, and so is its mean
    tensor(0.)
    """

    path: AffinePath = AffinePath()
    share: float = 0.5

    def __post_init__(self):
        _check_jumps(self.path, self.share)

    def __call__(self, network, batch: Batch) -> Tensor:
        t, length = _drawn(batch, self.share)
        (x, t, s, _, condition), rest = _split(self.path, batch, (1 - length) * t, (1 - length) * t + length)
        with torch.no_grad():
            m = torch.lerp(t, s, 0.5)
            first = _average(network, x, t, m, condition)
            second = _average(network, x + _validate.time(m - t, x) * first, m, s, condition)
        jump = _average(network, x, t, s, condition)
        target = (first + second) / 2
        return _mean_square(len(batch.t), (jump, target), *_at_one_time(network, rest))


class _Rows(NamedTuple):
    """Rows of a batch on their path: points, both times, the pairs' velocities and the condition."""

    x: Tensor
    t: Tensor
    s: Tensor
    velocity: Tensor
    condition: dict[str, Tensor]


def _split(path: AffinePath, batch: Batch, t: Tensor, s: Tensor) -> tuple[_Rows, _Rows]:
    """The first rows of the batch, with the times t and s, and the others, with their own time as both."""
    n, condition = len(t), batch.condition
    t, s = torch.cat([t, batch.t[n:]]), torch.cat([s, batch.t[n:]])
    point = path.sample(batch.x_0, batch.x_1, t)
    return tuple(
        _Rows(point.x_t[i], t[i], s[i], point.velocity[i], {name: value[i] for name, value in condition.items()})
        for i in (slice(n), slice(n, None))
    )


def _drawn(batch: Batch, share: float) -> tuple[Tensor, Tensor]:
    """The times of the first `share` of the rows, at least one, and as many numbers from [0, 1]."""
    _check_times(batch)
    t = batch.t[: max(1, round(share * len(batch.t)))]
    return t, torch.rand(t.shape, generator=batch.generator, device=t.device, dtype=t.dtype)


def _check_times(batch: Batch) -> None:
    """Raise TypeError or ValueError unless every row of the batch has its own time."""
    t, n = batch.t, len(batch.x_1)
    if not isinstance(t, Tensor) or not t.is_floating_point():
        raise TypeError(f"t must be a floating tensor, got {t.dtype if isinstance(t, Tensor) else type(t).__name__}")
    if t.shape != (n,):
        raise ValueError(f"t must have shape ({n},), got {tuple(t.shape)}")


def _average(network, x: Tensor, t: Tensor, s: Tensor, condition: dict[str, Tensor]) -> Tensor:
    """The network's average velocity, in the format of x."""
    value = _validate.average(network, x, t, s, condition)
    if not isinstance(value, Tensor) or value.shape != x.shape:  # would be broadcast silently
        came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"model must return a tensor of shape {tuple(x.shape)}, got {came}")
    return value.to(x.dtype)


def _at_one_time(network, rows: _Rows) -> list[tuple[Tensor, Tensor]]:
    """The network's velocities and those of the pairs, if there are rows: a network need not take none."""
    return [(_average(network, *rows[:3], rows.condition), rows.velocity)] if len(rows.t) else []


def _mean_square(rows: int, *pairs: tuple[Tensor, Tensor]) -> Tensor:
    """The mean of (prediction - target)^2 over all pairs of tensors, which have so many rows together."""
    total = sum((prediction - target).square().sum() for prediction, target in pairs)
    return total / (rows * pairs[0][0][0].numel())


def _check_jumps(path: AffinePath, share: float) -> None:
    if not isinstance(path, AffinePath):
        raise TypeError(f"path must be an AffinePath, got {type(path).__name__}")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"share must be a number in (0, 1], got {share!r}")


def _check_features(network, highest: float) -> None:
    parts = network.modules() if isinstance(network, torch.nn.Module) else ()
    found = max((part.highest for part in parts if isinstance(part, TimeFeatures)), default=0)
    if found > highest:
        raise ValueError(
            f"mean flow diverges under time features of high frequency, got {found:g} pi, allowed are {highest:g} pi: "
            "take a network with highest=4, or allow more with MeanFlow(highest=)"
        )


@dataclass(frozen=True)
class TokenCrossEntropy:
    """E -log p_theta(X_1^i given X_t), a mean over rows and positions i: its minimiser is the posterior of X_1^i.

    (Gat et al. 2024, "Discrete Flow Matching", arXiv 2407.15595.) path: whatever has
    .sample(x_0, x_1, t, generator) -> x_t, tokens (batch, positions). The network returns logits (batch, positions,
    vocabulary), p_theta = softmax. Raises TypeError or ValueError for another path or network, and for tokens of x_1
    outside the vocabulary.

    >>> x_0, x_1 = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64)
    >>> batch = Batch(x_0, x_1, torch.rand(2), {}, torch.Generator())
    >>> TokenCrossEntropy()(lambda x, t: torch.zeros(2, 3, 4), batch)  # log 4
    tensor(1.3863)
    """

    path: TokenMix = TokenMix()

    def __post_init__(self):
        _check_path(self.path, "x_0, x_1, t, generator")

    def __call__(self, network, batch: Batch) -> Tensor:
        x_t = self.path.sample(batch.x_0, batch.x_1, batch.t, batch.generator)
        logits = _validate.logits(network(x_t, batch.t, **batch.condition), x_t)
        _validate.tokens("x_1", batch.x_1, logits.shape[2])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.x_1.long().flatten())


@dataclass(frozen=True)
class TokenRates:
    """E of the generalised KL between jump rates, `losses.token_rates` with the rate kappa' / (1 - kappa) at t.

    (Holderrieth et al. 2024, "Generator Matching", arXiv 2410.20587, on losses that are Bregman divergences.) It is a
    sum over positions, a mean over rows. At the minimum, again the posterior, it bounds the entropy of the data from
    above, and -log q(x_1) row by row (`tokens.token_bound`). Its rate grows like 1 / (1 - t), so it is noisier than
    `TokenCrossEntropy`. path, network and errors: as there, and a path needs a schedule. ValueError at t = 1.

    >>> x_0, x_1 = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64)
    >>> batch = Batch(x_0, x_1, torch.full((2,), 0.5), {}, torch.Generator())
    >>> TokenRates()(lambda x, t: torch.zeros(2, 3, 4), batch)  # three positions jump away at 2 (1 - 1/4)
    tensor(4.5000)
    """

    path: TokenMix = TokenMix()

    def __post_init__(self):
        _check_path(self.path, "x_0, x_1, t, generator")
        if not isinstance(getattr(self.path, "schedule", None), Schedule):
            raise TypeError(f"path must have a schedule, got {type(self.path).__name__}")

    def __call__(self, network, batch: Batch) -> Tensor:
        _check_times(batch)
        t, schedule = in_float64(batch.t), self.path.schedule
        rate = schedule.d_alpha(t) / (1 - schedule.alpha(t))
        if t.device.type == "cpu" and not rate.isfinite().all():
            raise ValueError(f"t must be less than 1, as the rate kappa' / (1 - kappa) explodes there, got {t.max():g}")
        x_t = self.path.sample(batch.x_0, batch.x_1, batch.t, batch.generator)
        return losses.token_rates(batch.x_1, network(x_t, batch.t, **batch.condition), x_t, rate).mean()


def _check_path(path, arguments: str) -> None:
    _validate.methods("path", path, f"sample({arguments})")


@dataclass(frozen=True)
class LabelDropout:
    """A loss in which each row's label becomes `null` with probability `rate`, anew in each step.

    (Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", algorithm 1.) So one network learns u_t(x | y) by the
    labels y and u_t(x) by the label `null`, one more than its data has: what `guidance.classifier_free` mixes.
    rate: in [0, 1). loss: what is minimised. The draws come from the batch's generator, so a run resumes bit for bit.
    Raises ValueError or TypeError for anything else, and ValueError for a batch without labels.

    >>> x, condition = torch.zeros(4, 1), {"label": torch.arange(4)}
    >>> batch = Batch(x, x, torch.rand(4), condition, torch.Generator())
    >>> seen = lambda network, batch: (batch.condition["label"] == 9).double().mean()
    >>> LabelDropout(rate=0.999, null=9, loss=seen)(None, batch)
    tensor(1., dtype=torch.float64)
    """

    rate: float
    null: int
    loss: Callable = VelocityMatching()

    def __post_init__(self):
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float) or not 0 <= self.rate < 1:
            raise ValueError(f"rate must be a number in [0, 1), got {self.rate!r}")
        _validate.count("null", self.null, 0)
        _validate.function("loss", self.loss, "(network, batch)")

    def __call__(self, network, batch: Batch) -> Tensor:
        if "label" not in batch.condition:
            raise ValueError("a dropout of labels needs labels: fit(..., label=y)")
        label = _validate.row_labels(batch.condition["label"], batch.x_1).long()
        dropped = torch.rand(label.shape, generator=batch.generator, device=label.device) < self.rate
        condition = batch.condition | {"label": label.masked_fill(dropped, self.null)}
        return self.loss(network, batch._replace(condition=condition))
