"""The assignment problem of optimal transport between two sets of points: exact, and warmed up by Sinkhorn sweeps."""

import math

import numpy as np
import torch
from torch import Tensor

from fmlib import _validate


def best_order(x_0: Tensor, x_1: Tensor) -> np.ndarray:
    """The order, (k,), of least sum_i ||x_1[i] - x_0[order[i]]||^2, from the cheapest cost that is exact enough."""
    from scipy.optimize import linear_sum_assignment

    # In few dimensions neighbours are so close that single precision would only be tried in vain
    order = _by_products(x_0.float(), x_1.float()) if x_0.shape[1] >= 128 else None
    if order is None:
        x_0, x_1 = x_0.double(), x_1.double()
        order = _by_products(x_0 - x_0.mean(0), x_1 - x_1.mean(0))
    if order is not None:
        return order
    # Pairs all but coincide, or the data is not finite: take differences one by one, which lose no digits
    _validate.batch("x_0", x_0), _validate.batch("x_1", x_1)
    cost = torch.cdist(x_1, x_0, compute_mode="donot_use_mm_for_euclid_dist").square()
    if not cost.isfinite().all():
        largest = max(x_0.abs().max(), x_1.abs().max()).item()
        raise ValueError(f"squared distances of x_0 and x_1 overflow, with values up to {largest:.3g}: rescale them")
    return linear_sum_assignment(cost.numpy())[1]


def _by_products(x_0: Tensor, x_1: Tensor) -> np.ndarray | None:
    """The best permutation by the cost -<x_1, x_0>, or None where rounding might cost more than 1e-6 of the optimum.

    ||x_1 - x_0||^2 = ||x_1||^2 + ||x_0||^2 - 2 <x_1, x_0>, and a permutation meets every row and every column once: a
    constant added to a row or a column moves the total of every permutation alike. So the norms may be left out, and
    any potential may be subtracted from the columns. Neither changes which permutation is best; both save work.
    """
    from scipy.optimize import linear_sum_assignment

    cost = (x_1 @ x_0.T).neg_().numpy()
    scale = float(np.abs(cost).mean())
    if not 0 < scale < math.inf:
        return None
    rows, order = linear_sum_assignment(cost - scale * _potentials(cost / scale))
    square_0, square_1 = (float(np.vdot(x, x)) for x in (x_0.numpy(), x_1.numpy()))
    reached = square_0 + square_1 + 2 * float(cost[rows, order].sum())
    # The rounding of any permutation's total, by Cauchy and Schwarz
    rounding = 8 * torch.finfo(x_0.dtype).eps * math.sqrt(square_0) * math.sqrt(square_1)
    return order if rounding < 1e-6 * reached < math.inf else None


def _potentials(cost: np.ndarray) -> np.ndarray:
    """Nearly optimal dual potentials of the columns, (k,), by a few Sinkhorn sweeps at a falling temperature.

    cost: (k, k), of size one.
    With K_ij = exp((g_j - cost_ij) / epsilon), a sweep scales rows and columns in turn to sum to one; the columns'
    scales v move their potentials by epsilon log v (Cuturi 2013, "Sinkhorn Distances", algorithm 1; absorbed into g as
    in Schmitzer 2019, "Stabilized Sparse Scaling Algorithms"). Each scaling goes further than to a sum of one, which
    takes fewer sweeps (Thibault et al. 2021, "Overrelaxed Sinkhorn-Knopp Algorithm for Regularized Optimal
    Transport"), but may diverge. They only speed the solver up: float32 will do, and so will none.
    """
    cost = cost.astype(np.float32, copy=False)
    potential = np.zeros(len(cost), np.float32)
    with np.errstate(all="ignore"):
        # A small problem is solved so soon that a second temperature, or any, would not pay
        for epsilon, sweeps in ((0.1, 6), (0.02, 10))[: (len(cost) >= 48) + (len(cost) >= 160)]:
            kernel = potential - cost
            kernel -= kernel.max(1, keepdims=True)
            kernel /= epsilon
            np.exp(np.maximum(kernel, -60, out=kernel), out=kernel)  # nothing underflows, so every sum is positive
            v = np.ones(len(cost), np.float32)
            u = 1 / (kernel @ v)
            for _ in range(sweeps):
                v *= (v * (u @ kernel)) ** -1.5
                u *= (u * (kernel @ v)) ** -1.5
            potential += epsilon * np.log(v)
    return np.where(np.isfinite(potential), potential, 0).astype(np.float64)
