"""Couplings pi_{0,1}: which source sample is paired with which target sample.

A coupling is a callable `coupling(x_0, x_1, generator=None, **condition) -> (x_0, x_1)`. It may reorder the source,
never the target, so that conditions of the target stay in place, and every sample that came in goes out exactly once;
`Aligned` keeps all rows in place and turns the source within each.
condition: what the network is told, tensors with a row for each row of x_1; only `MinibatchOT` can be asked to look.
Randomness comes from `generator`. A coupling with the attribute `paired = True` wants row i of the source to belong to
row i of the target, so `fit` draws them together.
"""

import itertools
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from fmlib import _assignment, _validate


def _check_pair(x_0: Tensor, x_1: Tensor, condition: dict[str, Tensor]) -> None:
    _validate.alike("x_0", _validate.points("x_0", x_0), "x_1", _validate.points("x_1", x_1))
    if len(x_0) != len(x_1):
        raise ValueError(f"x_0 and x_1 must have one batch size, got {len(x_0)} and {len(x_1)}")
    _check_condition(x_1, condition)


def _check_condition(x_1: Tensor, condition: dict[str, Tensor]) -> None:
    for name, value in condition.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        if value.shape[:1] != x_1.shape[:1]:
            raise ValueError(
                f"{name} must have a row for each of the {len(x_1)} of x_1, got shape {tuple(value.shape)}"
            )


@dataclass(frozen=True)
class Independent:
    """pi_{0,1}(x_0, x_1) = p(x_0) q(x_1): a random permutation of the source batch breaks any pairing that came in.

    x_0, x_1: (batch, *dims) each, floating or integers (tokens), of one dtype and device. ValueError or TypeError
    otherwise.

    >>> x_0, x_1 = torch.randn(4, 2), torch.randn(4, 2)
    >>> bool((Independent()(x_0, x_1)[1] == x_1).all())
    True
    """

    def __call__(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator | None = None, **condition: Tensor):
        _check_pair(x_0, x_1, condition)
        _validate.generator(generator)
        order_device = x_0.device if generator is None else generator.device
        order = torch.randperm(len(x_0), generator=generator, device=order_device)
        return x_0[order.to(x_0.device)], x_1


@dataclass(frozen=True)
class Paired:
    """pi_{0,1} as the data came: row i of the source belongs to row i of the target. Input as for `Independent`.

    >>> Paired()(torch.tensor([[1, 2]]), torch.tensor([[3, 4]]))
    (tensor([[1, 2]]), tensor([[3, 4]]))
    """

    paired: ClassVar[bool] = True  # row i of the source belongs to row i of the target, so `fit` draws them together

    def __call__(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator | None = None, **condition: Tensor):
        _check_pair(x_0, x_1, condition)
        return x_0, x_1


@dataclass(frozen=True)
class MinibatchOT:
    """Optimal transport within the batch: the permutation of the source that minimises sum_i ||x_0[i] - x_1[i]||^2.

    Between two sets of k points, each of mass 1/k, an optimal plan is a permutation (Birkhoff's theorem), so no plan is
    sampled: every source and every target is used exactly once (Pooladian et al. 2023, "Multisample Flow Matching",
    section 3). The minimum is that of exact arithmetic to 1e-6 relative. x_0, x_1: one shape (k, *dims), k >= 2, one
    floating dtype and device. Deterministic: `generator` is accepted, as by every coupling, and not used. The
    assignment is solved on the CPU, for which data on another device is copied once.

    Where the network is told something about x_1, this permutation makes the source depend on it: each class then gets
    its own part of the source, the sampler draws from all of it, and the law learned is wrong. Two ways out:

    within_labels: solve for the rows of each label alone, which stand in the keyword `label`, integers (k,). A label's
        only row stays where it is, and k = 1 is allowed.
    condition_weight: for conditions that are floating numbers, a weight lambda >= 0: sigma minimises
        sum_i ||x_0[sigma(i)] - x_1[i]||^2 + lambda ||c[sigma(i)] - c[i]||^2, where c[i], the conditions of row i, side
        by side, came with x_0[i] too (after Cheng & Schwing 2025, "The Curse of Conditions"). The larger lambda, the
        nearer are the conditions of a pair, and the more the transport costs.

    Raises ValueError for k = 1 without within_labels, unequal shapes, values that are not finite, distances that
    overflow float64, a negative weight, or where the condition that an option needs is missing; TypeError for labels
    that are not integers.

    >>> x_0, x_1 = torch.tensor([[0.0], [5.0], [9.0]]), torch.tensor([[8.0], [1.0], [4.0]])
    >>> MinibatchOT()(x_0, x_1)[0].flatten()
    tensor([9., 0., 5.])
    >>> MinibatchOT(within_labels=True)(x_0, x_1, label=torch.tensor([7, 7, 3]))[0].flatten()
    tensor([5., 0., 9.])
    """

    within_labels: bool = False
    condition_weight: float = 0.0

    def __post_init__(self):
        if not isinstance(self.within_labels, bool):
            raise TypeError(f"within_labels must be True or False, got {self.within_labels!r}")
        if self.condition_weight != 0:
            _validate.positive("condition_weight", self.condition_weight)

    def __repr__(self) -> str:  # with the options that are in use: it names a run's coupling in its checkpoints
        used = [f"{f.name}={value!r}" for f in fields(self) if (value := getattr(self, f.name)) != f.default]
        return f"{type(self).__name__}({', '.join(used)})"

    def __call__(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator | None = None, **condition: Tensor):
        _validate.same("x_0", _validate.shaped("x_0", x_0), "x_1", _validate.shaped("x_1", x_1))
        _check_condition(x_1, condition)
        a, b = (x.detach().cpu().flatten(1) for x in (x_0, x_1))
        if self.condition_weight:
            c = self.condition_weight**0.5 * _numbers(condition, a)
            a, b = torch.cat([a, c], 1), torch.cat([b, c], 1)
        if self.within_labels:
            order = _order_within(a, b, _labels(condition))
        elif len(x_0) < 2:
            raise ValueError("MinibatchOT needs at least 2 pairs to choose from, got a batch of 1: use Independent()")
        else:
            order = torch.from_numpy(_assignment.best_order(a, b))
        return x_0.index_select(0, order.to(x_0.device)), x_1


def _order_within(x_0: Tensor, x_1: Tensor, label: Tensor) -> Tensor:
    """The order, (k,), that is best among those that move no source row to another label."""
    _validate.batch("x_0", x_0), _validate.batch("x_1", x_1)
    order, sizes = torch.arange(len(x_0)), label.unique(return_counts=True)[1].tolist()
    for rows in label.argsort().split(sizes):
        if len(rows) > 1:  # a lone row stays
            order[rows] = rows[torch.from_numpy(_assignment.best_order(x_0[rows], x_1[rows]))]
    return order


def _labels(condition: dict[str, Tensor]) -> Tensor:
    label = condition.get("label")
    if label is None:
        raise ValueError("MinibatchOT(within_labels=True) needs label=, an integer for each row, and got none")
    if label.is_floating_point() or label.is_complex() or label.ndim != 1:
        raise TypeError(f"label must hold integers, one for each row, got {label.dtype} of shape {tuple(label.shape)}")
    return label.cpu()


def _numbers(condition: dict[str, Tensor], like: Tensor) -> Tensor:
    """The conditions that are floating numbers, side by side, (k, sum of their sizes)."""
    found = {name: value for name, value in condition.items() if value.is_floating_point()}
    if not found:
        came = ", ".join(f"{name} of {value.dtype}" for name, value in condition.items()) or "none"
        raise ValueError(f"condition_weight needs a condition of floating numbers, got {came}")
    columns = [_validate.batch(name, value.detach().reshape(len(like), -1)) for name, value in found.items()]
    return torch.cat([column.cpu().to(like.dtype) for column in columns], 1)


@dataclass(frozen=True)
class Aligned:
    """Each source cloud is renumbered and turned to lie as close as it can to its own target cloud in the plane.

    A cloud is m points with no numbers of their own, in no direction of its own, seen from the origin. Row i of x_0
    becomes g x_0[i] with the permutation sigma and the rotation by theta, g = (sigma, theta), that minimise
    ||g x_0[i] - x_1[i]||^2. With the points of the two clouds as complex numbers z_0 and z_1, a turned source costs

        ||z_0||^2 + ||z_1||^2 - 2 Re(exp(-i theta) s),    s = sum_k conj(z_0[sigma(k)]) z_1[k],

    so theta = arg s is best, and sigma is the one of the m! permutations with the largest |s|: the exact optimum, which
    alternating between sigma and theta often misses. A mirror image is another cloud: nothing is reflected. Nor is
    anything shifted: subtract the clouds' means first where the place of a cloud means nothing.

    x_0, x_1: one shape (n, m, 2), m <= 5, one dtype, float32 or float64, one device. Rows stay where they are, and the
    target is not touched. It changes the law of the source unless that law is the same from every side, as N(0, I) is,
    *and* so is the data's or the network treats all sides alike (Klein, Kraemer & Noe 2023, "Equivariant Flow
    Matching"). Deterministic: `generator` is accepted, as by every coupling, and not used.

    Raises ValueError for another shape, more than 5 points, or values that are not finite, TypeError for another dtype.

    >>> x_1 = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    >>> quarter_turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    >>> bool((Aligned()((x_1 @ quarter_turn).flip(1), x_1)[0] - x_1).abs().max() < 1e-6)
    True
    """

    def __call__(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator | None = None, **condition: Tensor):
        _validate.same("x_0", _validate.state("x_0", x_0), "x_1", _validate.state("x_1", x_1))
        _check_condition(x_1, condition)
        if x_0.ndim != 3 or x_0.shape[2] != 2 or x_0.shape[1] > 5:
            raise ValueError(f"Aligned needs clouds in the plane, (n, m, 2) with m <= 5, got {tuple(x_0.shape)}")
        z_0, z_1 = (_complex_of_size_one(x.detach()) for x in (x_0, x_1))
        orders = torch.tensor(list(itertools.permutations(range(x_0.shape[1]))), device=x_0.device)
        s = (z_0.conj()[:, orders] * z_1[:, None]).sum(2)  # (n, m!)
        best = s.abs().argmax(1)
        turn = s.gather(1, best[:, None]).angle()
        x, y = x_0.gather(1, orders[best][..., None].expand_as(x_0)).unbind(2)
        cos, sin = turn.cos(), turn.sin()
        return torch.stack([cos * x - sin * y, sin * x + cos * y], 2), x_1


def _complex_of_size_one(x: Tensor) -> Tensor:
    """The points as complex numbers, each cloud scaled to size one, which changes neither its order nor its angle."""
    size = x.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return torch.view_as_complex((x / size).contiguous())
