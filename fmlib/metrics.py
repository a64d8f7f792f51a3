"""Distances between two sets of samples, each to be read next to its floor (two true samples against each other), and
what a flow spends on its way: its kinetic energy, and how far its trajectories are from straight.

Samples may be of any floating dtype; distances are worked out in float32 at least.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fmlib import _validate, sampling, solvers
from fmlib.exact import EXACT


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E||X - Y|| - E||X - X'|| - E||Y - Y'||, over all pairs of the two samples; zero only for equal laws.

    (Szekely & Rizzo 2013, "Energy statistics", equation 5.) x: (n, *dims), y: (m, *dims). With the zero pairs on the
    diagonal included it is never negative; two samples of one law give about (1/n + 1/m) E||X - X'||, so compare with a
    floor.

    >>> energy_distance(torch.tensor([[0.0]]), torch.tensor([[3.0]]))
    6.0
    """
    x, y = _rows(x, y)
    return 2 * _mean_over_pairs(x, y) - _mean_over_pairs(x, x) - _mean_over_pairs(y, y)


@torch.no_grad()
def _mean_over_pairs(x: Tensor, y: Tensor, function: Callable[[Tensor], Tensor] = lambda distance: distance) -> float:
    """The mean of function(||x_i - y_j||) over all pairs; it may work in place."""
    block = max(1, 2**24 // len(y))  # bounds the memory
    parts = (torch.cdist(part, y, compute_mode=EXACT) for part in x.split(block))
    return sum(function(part).sum(dtype=torch.float64) for part in parts).item() / (len(x) * len(y))


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int = 128, generator: torch.Generator | None = None) -> float:
    """sqrt(E_v W_2(v.X, v.Y)^2) over random unit vectors v (Bonneel et al. 2015). x, y: the same shape (n, *dims).

    Each one-dimensional W_2 is between sorted projections. Without a `generator` directions come from a fixed one.

    >>> sliced_wasserstein(torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0], [4.0]]))  # (5 - 1, 4 - 0)
    4.0
    """
    x, y = _rows(x, y)
    _validate.count("projections", projections)
    if len(x) != len(y):
        raise ValueError(f"x and y must have one number of samples, got {len(x)} and {len(y)}")
    generator = _validate.generator(generator) or torch.Generator(x.device).manual_seed(0)
    v = torch.randn(x.shape[1], projections, dtype=x.dtype, device=x.device, generator=generator)
    v = v / v.norm(dim=0)
    return ((x @ v).sort(0).values - (y @ v).sort(0).values).square().mean().sqrt().item()


def mmd(x: Tensor, y: Tensor, bandwidth: float | None = None) -> float:
    """Squared maximum mean discrepancy with the kernel exp(-||x - y||^2 / (2 h^2)), over all pairs.

    (Gretton et al. 2012, "A Kernel Two-Sample Test", equation 5.) h defaults to the median distance within y
    (its first 2,000 rows). Memory does not grow as the number of pairs.

    >>> round(mmd(torch.zeros(1, 1), torch.ones(1, 1), bandwidth=1.0), 4)  # 2 - 2 exp(-1/2)
    0.7869
    """
    x, y = _rows(x, y)
    h = bandwidth if bandwidth is not None else torch.pdist(y[:2000]).median().item()
    if not 0 < h < math.inf:
        raise ValueError(f"bandwidth must be positive and finite, got {h}{'' if bandwidth is not None else ' from y'}")

    def kernel(distance: Tensor) -> Tensor:
        return distance.square_().mul_(-1 / (2 * h**2)).exp_()

    return _mean_over_pairs(x, x, kernel) + _mean_over_pairs(y, y, kernel) - 2 * _mean_over_pairs(x, y, kernel)


def nearest_distance(x: Tensor, data: Tensor) -> Tensor:
    """The Euclidean distance from each row of `x` to its nearest row of `data`, shape (len(x),).

    >>> nearest_distance(torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [9.0]]))
    tensor([1., 3.])
    """
    x, data = _rows(x, data)
    parts = x.split(max(1, 2**24 // len(data)))
    return torch.cat([torch.cdist(part, data, compute_mode=EXACT).amin(1) for part in parts])


def kinetic_energy(velocity, x_0: Tensor, *, steps=100, method="rk4", **condition) -> Tensor:
    """int_0^1 ||u_t(X_t)||^2 dt along the trajectory of each source sample, shape (batch,); KE(u) is its mean.

    (Shaul et al. 2023, "On Kinetic Optimal Probability Paths", section 2.) velocity: a callable (x, t, **condition).
    x_0: samples of the source, (batch, *dims). steps, method: as in `sampling.sample`, but not a step that adds noise.
    The integral is one more coordinate of the ODE: of the order of `method`, at no further evaluation of the velocity.
    Errors as in `sampling.sample`. The spread over the batch tells
    the Monte Carlo error.

    >>> kinetic_energy(lambda x, t: torch.full_like(x, 3.0), torch.zeros(1, 2), steps=1)
    tensor([18.])
    """
    return _energy(velocity, x_0, 0.0, steps, method, condition)


def straightness(velocity, x_0: Tensor, *, steps=100, method="rk4", **condition) -> Tensor:
    """int_0^1 ||(X_1 - X_0) - u_t(X_t)||^2 dt along each trajectory, shape (batch,); S is its mean.

    (Liu et al. 2022, "Flow Straight and Fast", section 2.) Never negative, and zero exactly where the trajectory is a
    straight line run at constant speed, which one Euler step follows. Since the velocity integrates to X_1 - X_0, it
    equals the kinetic energy less ||X_1 - X_0||^2. Arguments and errors as in `kinetic_energy`; twice the evaluations.

    >>> straightness(lambda x, t: torch.full_like(x, 3.0), torch.zeros(1, 2), steps=1)
    tensor([0.])
    """
    x_1 = sampling.sample(velocity, x_0, steps=steps, method=method, **condition)
    return _energy(velocity, x_0, (x_1 - x_0).flatten(1), steps, method, condition)


def _energy(velocity, x_0: Tensor, mean, steps, method, condition: dict) -> Tensor:
    """int_0^1 ||u_t(X_t) - mean||^2 dt along each trajectory, by a coordinate that grows at this rate."""
    if method is solvers.maruyama or getattr(method, "forward_only", False):
        raise ValueError("method must follow the velocity alone: the energy is one more coordinate of the ODE")
    field = solvers.Field(velocity, _validate.batch("x_0", x_0).shape, condition)

    def grown(state: Tensor, t: Tensor) -> Tensor:
        u = field(state[:, :-1].reshape(x_0.shape), t).flatten(1)
        return torch.cat([u, (u - mean).square().sum(1, keepdim=True)], 1)

    start = torch.cat([x_0.flatten(1), x_0.new_zeros(len(x_0), 1)], 1)
    return sampling.sample(grown, start, steps=steps, method=method)[:, -1]


class Floor(NamedTuple):
    """What a distance reads when both samples are true: its median and its central 95 % band."""

    median: float
    low: float
    high: float


def floor(metric: Callable[[Tensor, Tensor], float], draw: Callable[[], tuple[Tensor, Tensor]], repeats: int = 40):
    """The `Floor` of `metric` over `repeats` pairs of true samples from `draw()`.

    >>> generator = torch.Generator().manual_seed(0)
    >>> draw = lambda: torch.randn(2, 100, 2, generator=generator).unbind()
    >>> floor(energy_distance, draw).high < energy_distance(torch.zeros(100, 2), draw()[0])
    True
    """
    _validate.count("repeats", repeats, 2)
    values = torch.tensor([metric(*draw()) for _ in range(repeats)], dtype=torch.float64)
    low, median, high = values.quantile(torch.tensor([0.025, 0.5, 0.975], dtype=torch.float64)).tolist()
    return Floor(median, low, high)


def _rows(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    _validate.alike("x", _validate.batch("x", x), "y", _validate.batch("y", y))
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"x and y must hold points of one shape, got {tuple(x.shape[1:])} and {tuple(y.shape[1:])}")
    # Distances have no half precision, nor would they be of use in it; the values themselves are exact in float32
    half = x.dtype in (torch.float16, torch.bfloat16)
    return tuple((v.float() if half else v).flatten(1) for v in (x, y))
