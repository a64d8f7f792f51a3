"""`Independent` and `Paired`; `MinibatchOT` has a file of its own."""

import math

import pytest
import torch
from helpers import normal, one_sentence, seeded
from hypothesis import given
from hypothesis import strategies as st

from fmlib.couplings import Independent, Paired

BOTH = pytest.mark.parametrize("coupling", [Independent(), Paired()], ids=["Independent", "Paired"])


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


X = torch.zeros(3, 2)
BAD = {
    "batches": (X, torch.zeros(4, 2), ValueError, "got 3 and 4"),
    "dtypes": (X, X.double(), TypeError, "float32 and torch.float64"),
    "devices": (X, X.to("meta"), ValueError, "cpu and meta"),
    "integers": (X.long(), X, TypeError, "x_0 .*int64"),
    "NaN": (X, X * torch.nan, ValueError, "x_1 has 6 NaN"),
    "empty": (X[:0], X[:0], ValueError, "empty"),
}


@BOTH
@pytest.mark.parametrize("x_0, x_1, kind, message", BAD.values(), ids=BAD)
def test_bad_input(coupling, x_0, x_1, kind, message):
    with pytest.raises(kind, match=message) as error:
        coupling(x_0, x_1)
    assert one_sentence(error)
