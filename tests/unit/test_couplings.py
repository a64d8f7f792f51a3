"""Couplings: every source once, targets in place, rows whole; `MinibatchOT` against scipy on squared distances."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from helpers import normal, one_sentence, seeded
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from fmlib import training
from fmlib.couplings import Aligned, Independent, MinibatchOT, Paired

EVERY = pytest.mark.parametrize(
    "coupling", [Independent(), Paired(), MinibatchOT()], ids=["Independent", "Paired", "MinibatchOT"]
)


def numbered(n: int, *dims: int) -> torch.Tensor:
    return torch.arange(float(n)).reshape(n, *[1] * len(dims)).expand(n, *dims).clone()


@given(n=st.integers(1, 20), dims=st.lists(st.integers(1, 3), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_every_source_row_once_and_targets_in_place(n, dims, seed):
    x_0, x_1 = numbered(n, *dims), normal(n, 2).float()
    for coupling in (Independent(), Paired()):
        before = torch.get_rng_state()
        out_0, out_1 = coupling(x_0, x_1, generator=seeded(seed))
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(out_1, x_1) and out_0.shape == x_0.shape and out_0.dtype == x_0.dtype
        assert torch.equal(out_0.flatten(1)[:, 0].sort().values, torch.arange(float(n)))
        assert (out_0 == out_0.flatten(1)[:, 0].reshape(-1, *[1] * len(dims))).all()  # rows stay whole


def test_paired_changes_nothing():
    x_0, x_1 = normal(6, 2), normal(6, 2, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(Paired()(x_0, x_1), (x_0, x_1), strict=True))


def test_independent_breaks_a_perfect_pairing():
    """Of 4000 draws of 5 rows, row i meets row j in one fifth, for all i and j."""
    x, generator = numbered(5, 1), seeded()
    rows = torch.stack([Independent()(x, x, generator=generator)[0][:, 0].long() for _ in range(4000)])
    meetings = torch.nn.functional.one_hot(rows, 5).double().mean(0)
    assert (meetings - 0.2).abs().max() < 4.5 * math.sqrt(0.2 * 0.8 / 4000)


def test_independent_repeats_under_a_generator():
    x_0, x_1 = numbered(50, 2), normal(50, 2).float()
    first, again, other = (Independent()(x_0, x_1, generator=seeded(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(Independent()(x_0, x_1)[0], Independent()(x_0, x_1)[0])


@EVERY
def test_conditions_are_accepted_and_change_nothing(coupling):
    x_0, x_1 = normal(6, 2), normal(6, 2, seed=1)
    condition = {"label": torch.arange(6), "style": normal(6, 4), "mask": torch.ones(6, 2, 3, dtype=torch.bool)}
    plain, told = (coupling(x_0, x_1, generator=seeded(), **c) for c in ({}, condition))
    assert all(torch.equal(a, b) for a, b in zip(plain, told, strict=True))


@EVERY
@pytest.mark.parametrize(
    "condition, kind, message",
    [
        (torch.arange(5), ValueError, r"label must have a row for each of the 6 of x_1, got shape \(5,\)"),
        (torch.tensor(3), ValueError, r"label must have a row .* got shape \(\)"),
        ([0, 1, 2, 3, 4, 5], TypeError, "label must be a torch.Tensor, got list"),
    ],
    ids=["too few", "a number", "a list"],
)
def test_bad_conditions(coupling, condition, kind, message):
    with pytest.raises(kind, match=message) as error:
        coupling(normal(6, 2), normal(6, 2, seed=1), label=condition)
    assert one_sentence(error)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_tokens_are_permuted_and_paired_but_not_transported(dtype):
    x_0, x_1 = torch.arange(12).reshape(6, 2).to(dtype), torch.arange(18).reshape(6, 3).to(dtype)
    out_0, out_1 = Independent()(x_0, x_1, generator=seeded())
    order = torch.randperm(6, generator=seeded())
    assert torch.equal(out_0, x_0[order]) and out_1 is x_1 and out_0.dtype == dtype
    assert Paired()(x_0, x_1) == (x_0, x_1)
    for coupling in (Independent(), Paired()):
        with pytest.raises(ValueError, match=r"x_0 must have shape \(batch, \*dims\)"):
            coupling(x_0[:, 0], x_1)
        with pytest.raises(ValueError, match="x_0 is empty"):
            coupling(x_0[:0], x_1[:0])
        with pytest.raises(TypeError, match="x_0 .*bool"):
            coupling(x_0.bool(), x_1)
    with pytest.raises(TypeError, match=f"x_0 must have a floating dtype, got {dtype}"):
        MinibatchOT()(x_0, x_0)


def test_paired_says_that_the_rows_belong_together():
    assert Paired().paired and Paired.paired and Paired() == Paired()
    assert not any(getattr(coupling, "paired", False) for coupling in (Independent(), MinibatchOT()))
    assert [field.name for field in dataclasses.fields(Paired)] == []  # it is said of the class, not of an instance


X = torch.zeros(3, 2)
BAD = {
    "batches": (X, torch.zeros(4, 2), ValueError, r"got (3 and 4|\(3, 2\) and \(4, 2\))"),
    "dtypes": (X, X.double(), TypeError, "float32 and torch.float64"),
    "devices": (X, X.to("meta"), ValueError, "cpu and meta"),
    "integers": (X.long(), X, TypeError, "x_0 .*int64"),
    "NaN": (X, X * torch.nan, ValueError, "x_1 has 6 NaN"),
    "empty": (X[:0], X[:0], ValueError, "empty"),
}


@EVERY
@pytest.mark.parametrize("x_0, x_1, kind, message", BAD.values(), ids=BAD)
def test_bad_input(coupling, x_0, x_1, kind, message):
    with pytest.raises(kind, match=message) as error:
        coupling(x_0, x_1)
    assert one_sentence(error)


# MinibatchOT


def squared(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """||x_i - y_j||^2 for all pairs, by differences in float64."""
    x, y = (z.double().flatten(1).numpy() for z in (x, y))
    return np.stack([((row - y) ** 2).sum(1) for row in x])


def optimum(x_0: torch.Tensor, x_1: torch.Tensor) -> float:
    cost = squared(x_0, x_1)
    return cost[linear_sum_assignment(cost)].sum()


def clusters(k: int, d: int, spread: float, dtype=torch.float32):
    """Source and target scattered by `spread` around the same few centres of size one."""
    centre = normal(4, d, seed=7)
    x_0, x_1 = (centre[torch.arange(k) % 4] + spread * normal(k, d, seed=seed) for seed in (1, 2))
    return x_0.to(dtype), x_1.to(dtype)


def integers(k: int, d: int, top: int):
    return tuple(torch.randint(top, (k, d), generator=seeded(s)).float() for s in (1, 2))


def pair(k: int, d: int, dtype=torch.float32, scale: float = 1.0, offset: float = 0.0):
    return tuple((offset + scale * normal(k, d, seed=s)).to(dtype) for s in (1, 2))


def mostly_zero(k: int, d: int, seed: int):
    """On such points over-relaxed Sinkhorn sweeps overflow, for about every second seed."""
    kept = torch.rand(2, k, d, generator=seeded(seed)) < 0.01
    return tuple((normal(2, k, d, seed=seed) * kept).float())


SETS = {
    "random plane": pair(300, 2),
    "random, many dimensions": pair(200, 784),
    "random, float64": pair(150, 5, torch.float64),
    "half precision": pair(60, 3, torch.bfloat16),
    "line": pair(257, 1),
    "two pairs": pair(2, 3),
    "integers": integers(200, 3, 10),
    "many duplicates": integers(200, 1, 3),
    "one point": (torch.ones(50, 3), torch.ones(50, 3)),
    "one source point": (torch.ones(50, 3), normal(50, 3).float()),
    "source equals target": (normal(100, 8).float(), normal(100, 8).float().flip(0)),
    "source equals target, many dimensions": (normal(64, 784).float(), normal(64, 784).float().flip(0)),
    "clusters": clusters(200, 2, 0.01),
    "tight clusters": clusters(200, 2, 1e-6),
    "very tight clusters": clusters(120, 6, 1e-9, torch.float64),
    "tiny": pair(150, 2, scale=1e-30),
    "huge": pair(150, 2, scale=1e30),
    "tiny, float64": pair(100, 2, torch.float64, scale=1e-120),
    "huge, float64": pair(100, 2, torch.float64, scale=1e120),
    "huge offset": pair(150, 2, offset=1e4),
    "huge offset, many dimensions": pair(150, 784, offset=1e5),
    "huge offset, float64": pair(150, 2, torch.float64, offset=1e9),
    "far apart": (pair(150, 2)[0], pair(150, 2, offset=1e6)[1]),
    "unequal scales": (pair(150, 3)[0], pair(150, 3, scale=1e-5)[1]),
    "outlier": tuple(torch.cat([x, torch.full((1, 2), 1e6)]) for x in pair(150, 2)),
    **{f"mostly zero, seed {s}": mostly_zero(128, 50, s) for s in range(4)},
    "images": tuple(x.reshape(40, 3, 4, 4) for x in pair(40, 48)),
}


@pytest.mark.parametrize("x_0, x_1", SETS.values(), ids=SETS)
def test_minibatch_ot_reaches_the_optimum(x_0, x_1):
    out_0, out_1 = MinibatchOT()(x_0, x_1)
    assert torch.equal(out_1, x_1) and out_0.shape == x_0.shape and out_0.dtype == x_0.dtype
    best = optimum(x_0, x_1)
    assert (out_0.double() - x_1.double()).square().sum().item() == pytest.approx(best, rel=1e-6, abs=0)


@given(
    k=st.integers(2, 70),
    dims=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    seed=st.integers(0, 999),
    spread=st.sampled_from([1e-7, 1e-3, 1.0]),
    levels=st.sampled_from([0, 2, 5]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_minibatch_ot_is_an_optimal_permutation(k, dims, seed, spread, levels, dtype):
    """Rows of `levels` distinct integers (0: none) blurred by `spread`: ties, clusters, every shape."""
    blur = spread * normal(2, k, *dims, seed=seed)
    grid = torch.randint(levels, (2, k, *dims), generator=seeded(seed)) if levels else 0
    x_0, x_1 = (grid + blur).to(dtype)
    before = torch.get_rng_state()
    out_0, out_1 = MinibatchOT()(x_0, x_1, generator=seeded(seed))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(out_1, x_1)
    assert sorted(map(str, out_0.flatten(1).tolist())) == sorted(map(str, x_0.flatten(1).tolist()))
    matched = (out_0.double() - x_1.double()).square().sum().item()
    assert matched == pytest.approx(optimum(x_0, x_1), rel=1e-6, abs=0)


def test_minibatch_ot_on_the_line_sorts():
    x_0, x_1 = normal(100, 1), 3 * normal(100, 1, seed=1) ** 3
    out = MinibatchOT()(x_0, x_1)[0]
    assert torch.equal(out[x_1[:, 0].argsort()], x_0.sort(0).values)


def test_minibatch_ot_keeps_labels_aligned_is_deterministic_and_differentiable():
    x_0, x_1 = (x.float().requires_grad_() for x in (normal(64, 3), normal(64, 3, seed=1)))
    outs = [MinibatchOT()(x_0, x_1, generator=seeded(s)) for s in (0, 1)]
    assert torch.equal(outs[0][0], outs[1][0]) and all(out[1] is x_1 for out in outs)
    outs[0][0].sum().backward()
    assert torch.equal(x_0.grad, torch.ones_like(x_0))


OT_BAD = {
    "one pair": (X[:1], X[:1], ValueError, "at least 2 pairs .* batch of 1"),
    "shapes": (X, torch.zeros(3, 3), ValueError, "one shape, got .3, 2. and .3, 3."),
    "infinite": (X, X.index_fill(0, torch.tensor(1), torch.inf), ValueError, "x_1 has 2 NaN or infinite"),
    "one NaN": (torch.tensor([[0.0], [torch.nan], [1.0]]), X[:, :1], ValueError, "x_0 has 1 NaN"),
    "overflow": (1e200 * normal(3, 2), -1e200 * normal(3, 2), ValueError, "overflow.*e.200: rescale"),
    "one axis": (X[:, 0], X[:, 0], ValueError, "at least two axes"),
    "list": ([[1.0]], X, TypeError, "torch.Tensor, got list"),
}


@pytest.mark.parametrize("x_0, x_1, kind, message", OT_BAD.values(), ids=OT_BAD)
def test_minibatch_ot_bad_input(x_0, x_1, kind, message):
    with pytest.raises(kind, match=message) as error:
        MinibatchOT()(x_0, x_1)
    assert one_sentence(error)


# MinibatchOT that knows of conditions

LABELS = {
    "two labels": torch.tensor([4, 9, 4, 4, 9, 9]),
    "uneven": torch.tensor([0, 1, 0, 0, 0, 1, 0]),
    "a lone row": torch.tensor([2, 0, 2, 1, 2, 0]),
    "one label": torch.full((6,), 3),
    "every label once": torch.arange(6).flip(0),
    "one row": torch.tensor([5]),
}


def by_permutations(x_0: torch.Tensor, x_1: torch.Tensor, allowed, price) -> torch.Tensor:
    """The best of all k! orders that are `allowed`, by what they cost with `price(order)` added."""
    orders = [order for order in itertools.permutations(range(len(x_0))) if allowed(order)]
    costs = [(x_0[list(o)] - x_1).square().sum().item() + price(o) for o in orders]
    return x_0[list(orders[int(np.argmin(costs))])]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_within_labels_is_the_best_of_all_permutations_that_keep_labels(label, seed):
    x_0, x_1 = normal(len(label), 2, seed=seed), 3 * normal(len(label), 2, seed=seed + 10)
    best = by_permutations(x_0, x_1, lambda order: torch.equal(label[list(order)], label), lambda order: 0)
    out_0, out_1 = MinibatchOT(within_labels=True)(x_0, x_1, label=label)
    assert torch.equal(out_0, best) and out_1 is x_1


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("dims", [(2,), (3, 4), (200,)], ids=["plane", "images", "many dimensions"])
def test_within_labels_against_scipy_with_all_other_pairs_forbidden(dims, kind):
    label = torch.randint(7, (150,), generator=seeded()).to(kind)
    x_0, x_1 = normal(150, *dims, seed=1).float(), normal(150, *dims, seed=2).float()
    price = squared(x_0, x_1)
    forbidden = (label[:, None] != label).numpy()
    rows, columns = linear_sum_assignment(np.where(forbidden, 1e9, price))
    out = MinibatchOT(within_labels=True)(x_0, x_1, label=label)[0]
    reached = (out.double() - x_1.double()).square().sum().item()
    assert reached == pytest.approx(price[rows, columns].sum(), rel=1e-6)
    source = {tuple(row.flatten().tolist()): y for row, y in zip(x_0, label.tolist(), strict=True)}
    assert [source[tuple(row.flatten().tolist())] for row in out] == label.tolist()  # no source row changed its label


def test_within_one_label_is_plain_and_with_every_label_once_nothing_moves():
    x_0, x_1 = normal(40, 3), normal(40, 3, seed=1)
    within = MinibatchOT(within_labels=True)
    assert torch.equal(within(x_0, x_1, label=torch.zeros(40).long())[0], MinibatchOT()(x_0, x_1)[0])
    assert torch.equal(within(x_0, x_1, label=torch.randperm(40, generator=seeded()))[0], x_0)


def test_plain_transport_makes_the_source_depend_on_the_label_and_within_labels_does_not():
    """Classes at +2 and -2 on the line, k = 2: E[X_0 | y = 1] = 1 / (2 sqrt(pi)), as the classes differ every other
    time and then the larger of two normal numbers goes to +2. Within labels: 0."""
    n, generator = 4000, seeded()
    label = torch.randint(2, (n, 2), generator=generator)
    x_0 = torch.randn(n, 2, 1, generator=generator)
    x_1 = 4.0 * label[..., None] - 2
    for coupling, expected in [(MinibatchOT(), 0.5 / math.pi**0.5), (MinibatchOT(within_labels=True), 0.0)]:
        moved = [coupling(a, b, label=y)[0] for a, b, y in zip(x_0, x_1, label, strict=True)]
        found = torch.stack(moved)[..., 0][label == 1]
        assert abs(found.mean() - expected) < 4 * found.std() / len(found) ** 0.5


@pytest.mark.parametrize("weight", [0.3, 5.0])
def test_condition_weight_is_the_best_of_all_permutations(weight):
    x_0, x_1, style, mask = normal(6, 2), normal(6, 2, seed=1), normal(6, 3, seed=2), normal(6, 2, 2, seed=3)

    def price(order):
        moved = list(order)
        return weight * ((style[moved] - style).square().sum() + (mask[moved] - mask).square().sum()).item()

    best = by_permutations(x_0, x_1, lambda order: True, price)
    assert not torch.equal(best, MinibatchOT()(x_0, x_1)[0])
    out = MinibatchOT(condition_weight=weight)(x_0, x_1, style=style, mask=mask, label=torch.arange(6))
    assert torch.equal(out[0], best) and out[1] is x_1


@pytest.mark.parametrize("d", [2, 200])
def test_a_large_condition_weight_is_within_labels_and_none_is_plain(d):
    label = torch.randint(4, (60,), generator=seeded())
    x_0, x_1, c = normal(60, d).float(), normal(60, d, seed=1).float(), torch.eye(4)[label]
    heavy = MinibatchOT(condition_weight=1e6)(x_0, x_1, style=c)[0]
    assert torch.equal(heavy, MinibatchOT(within_labels=True)(x_0, x_1, label=label)[0])
    assert torch.equal(MinibatchOT(condition_weight=0)(x_0, x_1, style=c)[0], MinibatchOT()(x_0, x_1)[0])


def test_the_larger_the_condition_weight_the_dearer_the_transport_and_the_nearer_the_conditions():
    x_0, x_1, c = normal(80, 2), normal(80, 2, seed=1), normal(80, 1, seed=2)
    costs, apart = [], []
    for weight in (0.0, 0.1, 1.0, 10.0):
        numbered_rows = torch.cat([x_0, c], 1)  # the condition that came with a source row travels along
        out = MinibatchOT(condition_weight=weight)(x_0, x_1, c=c)[0]
        rows = (out[:, None] == x_0).all(2).double().argmax(1)
        costs.append((out - x_1).square().sum().item())
        apart.append((numbered_rows[rows, 2:] - c).square().sum().item())
    assert costs == sorted(costs) and apart == sorted(apart, reverse=True) and costs[0] < costs[-1]


def test_both_options_together_weigh_within_each_label():
    x_0, x_1, c, label = normal(6, 2), normal(6, 2, seed=1), normal(6, 1, seed=2), LABELS["two labels"]
    best = by_permutations(
        x_0,
        x_1,
        lambda order: torch.equal(label[list(order)], label),
        lambda order: 2.0 * (c[list(order)] - c).square().sum().item(),
    )
    both = MinibatchOT(within_labels=True, condition_weight=2.0)
    assert torch.equal(both(x_0, x_1, c=c, label=label)[0], best)


@pytest.mark.parametrize("coupling", [MinibatchOT(within_labels=True), MinibatchOT(condition_weight=1e9)])
def test_fit_tells_the_coupling_the_condition(coupling):
    """With a source and a target that tell their labels, no pair that the loss sees joins two of them."""
    label = torch.arange(300) % 3
    data = torch.stack([label.float(), torch.randn(300, generator=seeded())], 1)
    seen = []

    def loss(network, batch):
        seen.append((batch.condition["label"], batch.x_1[:, 0]))
        return network(batch.x_0, batch.t, **batch.condition).square().mean()

    class Told(torch.nn.Linear):
        def forward(self, x, t, label):
            return super().forward(x) + label.float()[:, None].mean()

    class Recording:
        def __call__(self, x_0, x_1, generator=None, **condition):
            out = coupling(x_0, x_1, generator=generator, style=condition["label"].float(), **condition)
            rows = (out[0][:, None] == x_0).all(2).double().argmax(1)
            assert torch.equal(condition["label"][rows], condition["label"])
            assert torch.equal(condition["label"], x_1[:, 0].long())
            return out

    training.fit(Told(2, 2), data, loss=loss, coupling=Recording(), label=label, steps=3, device="cpu", progress=False)
    assert len(seen) == 3 and all(torch.equal(y, x.long()) for y, x in seen)


SIX = normal(6, 2)
CONDITION_BAD = {
    "no label": ({"within_labels": True}, {}, ValueError, "needs label="),
    "labels too short": ({"within_labels": True}, {"label": torch.arange(5)}, ValueError, "for each of the 6 .*5,"),
    "labels too long": ({"within_labels": True}, {"label": torch.arange(7)}, ValueError, "for each of the 6 .*7,"),
    "fractions": ({"within_labels": True}, {"label": torch.rand(6)}, TypeError, "label must hold integers.*float32"),
    "one-hot": ({"within_labels": True}, {"label": torch.eye(6).long()}, TypeError, r"shape \(6, 6\)"),
    "a list": ({"within_labels": True}, {"label": [0] * 6}, TypeError, "label must be a torch.Tensor, got list"),
    "nothing to weigh": ({"condition_weight": 1.0}, {}, ValueError, "floating numbers, got none"),
    "labels to weigh": ({"condition_weight": 1.0}, {"label": torch.arange(6)}, ValueError, "label of torch.int64"),
    "NaN": ({"condition_weight": 1.0}, {"c": torch.full((6,), torch.nan)}, ValueError, "c has 6 NaN"),
}


@pytest.mark.parametrize("options, condition, kind, message", CONDITION_BAD.values(), ids=CONDITION_BAD)
def test_conditions_that_minibatch_ot_cannot_use(options, condition, kind, message):
    with pytest.raises(kind, match=message) as error:
        MinibatchOT(**options)(SIX, SIX, **condition)
    assert one_sentence(error)


@pytest.mark.parametrize(
    "weight, kind, message",
    [(-1.0, ValueError, "condition_weight must be positive and finite, got -1.0"), ("1", TypeError, "got '1'")]
    + [(math.inf, ValueError, "got inf"), (math.nan, ValueError, "got nan")],
)
def test_bad_condition_weight(weight, kind, message):
    with pytest.raises(kind, match=message):
        MinibatchOT(condition_weight=weight)


def test_within_labels_is_yes_or_no():
    with pytest.raises(TypeError, match="within_labels must be True or False, got 'label'") as error:
        MinibatchOT(within_labels="label")
    assert one_sentence(error)


def test_a_lone_row_that_is_not_finite_is_found_too():
    x_1 = SIX.clone()
    x_1[3, 0] = torch.nan
    with pytest.raises(ValueError, match="x_1 has 1 NaN"):
        MinibatchOT(within_labels=True)(SIX, x_1, label=torch.tensor([0, 0, 0, 1, 0, 0]))


# Aligned


def clouds(n: int, m: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    return normal(n, m, 2, seed=seed), normal(n, m, 2, seed=seed + 1)


def rotation(angle: float) -> torch.Tensor:
    return torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)


def cost(x_0: torch.Tensor, x_1: torch.Tensor) -> torch.Tensor:
    return (x_0 - x_1).square().sum((1, 2))


def by_angles(x_0: torch.Tensor, x_1: torch.Tensor, angles: int) -> torch.Tensor:
    """The least cost over all permutations and a grid of angles, (n,)."""
    best = torch.full((len(x_0),), torch.inf, dtype=torch.float64)
    for order in itertools.permutations(range(x_0.shape[1])):
        for k in range(angles):
            best = torch.minimum(best, cost(x_0[:, order] @ rotation(2 * math.pi * k / angles), x_1))
    return best


def by_singular_values(x_0: torch.Tensor, x_1: torch.Tensor) -> torch.Tensor:
    """The least cost over all permutations and proper rotations, by Kabsch's algorithm for each, (n,)."""
    best = torch.full((len(x_0),), torch.inf, dtype=torch.float64)
    for order in itertools.permutations(range(x_0.shape[1])):
        u, _, vh = torch.linalg.svd(x_0[:, order].mT @ x_1)
        u[:, :, 1] *= torch.det(u @ vh)[:, None]
        best = torch.minimum(best, cost(x_0[:, order] @ u @ vh, x_1))
    return best


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_aligned_against_all_permutations_and_a_fine_grid_of_angles(m):
    """The nearest angle of the grid is at most h/2 off, where the cost exceeds its minimum by at most |s| h^2 / 4."""
    x_0, x_1 = clouds(40, m)
    reached, tried = cost(Aligned()(x_0, x_1)[0], x_1), by_angles(x_0, x_1, 720)
    slack = x_0.norm(dim=(1, 2)) * x_1.norm(dim=(1, 2)) * (2 * math.pi / 720) ** 2 / 4
    assert (reached <= tried + 1e-12).all() and (tried <= reached + slack).all()


@pytest.mark.parametrize("m", [2, 3, 5])
def test_aligned_against_kabsch_for_every_permutation(m):
    x_0, x_1 = clouds(60, m, seed=3)
    torch.testing.assert_close(cost(Aligned()(x_0, x_1)[0], x_1), by_singular_values(x_0, x_1), rtol=1e-12, atol=1e-12)


@given(n=st.integers(1, 6), m=st.integers(1, 5), seed=st.integers(0, 999), angle=st.floats(-7, 7))
def test_aligned_finds_a_turned_and_renumbered_cloud(n, m, seed, angle):
    """And leaves rows, targets and the global generator alone."""
    x_1 = normal(n, m, 2, seed=seed)
    x_0 = torch.stack([row[torch.randperm(m, generator=seeded(seed))] for row in x_1]) @ rotation(angle)
    before = torch.get_rng_state()
    out_0, out_1 = Aligned()(x_0, x_1, generator=seeded(seed))
    assert torch.equal(torch.get_rng_state(), before) and out_1 is x_1
    assert (out_0 - x_1).abs().max() < 1e-12


@pytest.mark.parametrize("m", [1, 3, 5])
def test_aligned_renumbers_and_turns_and_does_nothing_else(m):
    """Each row that comes out is its own x_0, renumbered and turned by one angle: no mirror, no stretch, no shift."""
    x_0, x_1 = clouds(30, m, seed=5)
    for before, after in zip(x_0, Aligned()(x_0, x_1)[0], strict=True):
        misses = []
        for order in itertools.permutations(range(m)):
            a, b = before[list(order)], after
            turn = math.atan2(*(a[0, 0] * b[0, 1] - a[0, 1] * b[0, 0], (a[0] * b[0]).sum()))
            misses.append((a @ rotation(turn) - b).abs().max())
        assert min(misses) < 1e-12


def test_aligned_does_not_reflect():
    """A scalene triangle and its mirror image: the least cost of a proper motion is not zero."""
    x_0 = torch.tensor([[[2.0, 0.0], [-1.0, 1.0], [-1.0, -0.2]]], dtype=torch.float64)
    x_1 = x_0 * torch.tensor([1.0, -1.0], dtype=torch.float64)
    reached = cost(Aligned()(x_0, x_1)[0], x_1)
    assert reached > 0.01
    torch.testing.assert_close(reached, by_singular_values(x_0, x_1), rtol=1e-10, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_aligned_at_any_scale_in_the_dtype_that_came(scale, kind):
    x_1 = normal(20, 3, 2, seed=2)
    x_0 = (x_1.flip(1) @ rotation(2.0)).to(kind) * scale
    out = Aligned()(x_0, x_1.to(kind) * scale)[0]
    assert out.dtype == kind
    torch.testing.assert_close(out / scale, x_1.to(kind), rtol=0, atol=20 * torch.finfo(kind).eps)


def test_aligned_with_a_cloud_at_the_origin_keeps_it():
    x_0, x_1 = clouds(3, 3)
    nothing = torch.zeros_like(x_1)
    assert torch.equal(Aligned()(nothing, x_1)[0], nothing)
    torch.testing.assert_close(cost(Aligned()(x_0, nothing)[0], nothing), cost(x_0, nothing))


CLOUD = torch.zeros(4, 3, 2)
ALIGNED_BAD = {
    "six points": (torch.zeros(2, 6, 2), torch.zeros(2, 6, 2), ValueError, r"m <= 5, got \(2, 6, 2\)"),
    "in space": (torch.zeros(2, 3, 3), torch.zeros(2, 3, 3), ValueError, r"in the plane.*got \(2, 3, 3\)"),
    "flat": (torch.zeros(4, 2), torch.zeros(4, 2), ValueError, r"got \(4, 2\)"),
    "other numbers": (CLOUD, torch.zeros(4, 4, 2), ValueError, "one shape"),
    "other batches": (CLOUD, CLOUD[:3], ValueError, "one shape"),
    "half": (CLOUD.half(), CLOUD.half(), TypeError, "float32 or float64"),
    "integers": (CLOUD.long(), CLOUD.long(), TypeError, "x_0 .*int64"),
    "NaN": (CLOUD, CLOUD * torch.nan, ValueError, "x_1 has 24 NaN"),
    "dtypes": (CLOUD, CLOUD.double(), TypeError, "float32 and torch.float64"),
}


@pytest.mark.parametrize("x_0, x_1, kind, message", ALIGNED_BAD.values(), ids=ALIGNED_BAD)
def test_aligned_bad_input(x_0, x_1, kind, message):
    with pytest.raises(kind, match=message) as error:
        Aligned()(x_0, x_1)
    assert one_sentence(error)


def test_aligned_checks_conditions():
    x_0, x_1 = clouds(4, 3)
    assert torch.equal(Aligned()(x_0, x_1)[0], Aligned()(x_0, x_1, label=torch.arange(4))[0])
    with pytest.raises(ValueError, match="a row for each of the 4"):
        Aligned()(x_0, x_1, label=torch.arange(3))
