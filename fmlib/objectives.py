"""Training objectives. A loss is a function (network, batch) -> a number to minimise; `fit` takes any such function.

batch: a `batches.Batch` with x_0, x_1, t, condition, and a generator for what the loss draws itself. The network is
called like any velocity, network(x, t, **batch.condition), as often as the loss needs it.
"""

from dataclasses import dataclass

from torch import Tensor

from fmlib.batches import Batch
from fmlib.paths import AffinePath


@dataclass(frozen=True)
class VelocityMatching:
    """E ||u_theta(X_t, t) - d/dt X_t||^2, t ~ U[0, 1]: the conditional flow matching loss.

    (Lipman et al. 2024, equation 4.53.) A mean over rows and coordinates; it converges to the conditional variance of
    the velocity, not to zero. path: whatever has `.sample(x_0, x_1, t)` with an `x_t` and a `velocity`.
    Raises TypeError for a path without it, or a network that returns no tensor; ValueError for one of another shape.

    >>> import torch
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
