"""Training objectives. A loss is a function (network, batch) -> a number to minimise; `fit` takes any such function.

batch: a `batches.Batch` with x_0, x_1, t, condition, and a generator for what the loss draws itself. The network is
called like any velocity, network(x, t, **batch.condition), as often as the loss needs it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fmlib import _validate
from fmlib.batches import Batch
from fmlib.paths import AffinePath


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
        if not callable(getattr(self.path, "sample", None)):
            raise TypeError(f"path must have a method sample(x_0, x_1, t), got {type(self.path).__name__}")

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
        if not callable(self.loss):
            raise TypeError(f"loss must be a function (network, batch), got {type(self.loss).__name__}")

    def __call__(self, network, batch: Batch) -> Tensor:
        if "label" not in batch.condition:
            raise ValueError("a dropout of labels needs labels: fit(..., label=y)")
        label = batch.condition["label"]
        dropped = torch.rand(label.shape, generator=batch.generator, device=label.device) < self.rate
        condition = batch.condition | {"label": label.masked_fill(dropped, self.null)}
        return self.loss(network, batch._replace(condition=condition))
