"""Couplings pi_{0,1}: which source sample is paired with which target sample.

A coupling is a callable (x_0, x_1, generator=None) -> (x_0, x_1). It may reorder the source, never the target, so that
labels of the target stay in place, and every sample that came in goes out exactly once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fmlib import _validate


def _check_pair(x_0: Tensor, x_1: Tensor) -> None:
    _validate.alike("x_0", _validate.batch("x_0", x_0), "x_1", _validate.batch("x_1", x_1))
    if len(x_0) != len(x_1):
        raise ValueError(f"x_0 and x_1 must have one batch size, got {len(x_0)} and {len(x_1)}")


@dataclass(frozen=True)
class Independent:
    """pi_{0,1}(x_0, x_1) = p(x_0) q(x_1): a random permutation of the source batch breaks any pairing that came in.

    >>> x_0, x_1 = torch.randn(4, 2), torch.randn(4, 2)
    >>> bool((Independent()(x_0, x_1)[1] == x_1).all())
    True
    """

    def __call__(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator | None = None):
        _check_pair(x_0, x_1)
        order_device = x_0.device if generator is None else generator.device
        order = torch.randperm(len(x_0), generator=generator, device=order_device)
        return x_0[order.to(x_0.device)], x_1


@dataclass(frozen=True)
class Paired:
    """pi_{0,1} as the data came: row i of the source belongs to row i of the target."""

    def __call__(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator | None = None):
        _check_pair(x_0, x_1)
        return x_0, x_1
