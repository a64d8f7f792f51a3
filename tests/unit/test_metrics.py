import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import F64, normal, one_sentence, seeded
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist
from scipy.stats import energy_distance as scipy_energy_distance

from fmlib import metrics
from fmlib.metrics import energy_distance, mmd, nearest_distance, sliced_wasserstein

sizes = st.integers(1, 12)
seeds = st.integers(0, 999)


def distances(x, y):
    """||x_i - y_j|| for all pairs, one by one."""
    return np.array([[math.dist(a, b) for b in y.tolist()] for a in x.tolist()])


# Energy distance


@given(n=sizes, m=sizes, seed=seeds)
def test_energy_distance_is_the_square_of_scipys_on_the_line(n, m, seed):
    """scipy's is sqrt(2 E|X-Y| - E|X-X'| - E|Y-Y'|), computed as sqrt 2 times the L2 distance of the two cdfs."""
    x, y = normal(n, 1, seed=seed), 1 + 2 * normal(m, 1, seed=seed + 1)
    expected = scipy_energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(n=sizes, m=sizes, d=st.integers(2, 4), seed=seeds)
def test_energy_distance_by_brute_force(n, m, d, seed):
    x, y = normal(n, d, seed=seed), 1 + normal(m, d, seed=seed + 1)
    expected = 2 * distances(x, y).mean() - distances(x, x).mean() - distances(y, y).mean()
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert energy_distance(x, y) >= 0 and energy_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-12)


def test_energy_distance_of_two_gaussians_on_the_line():
    """A centred Gaussian Z has E|Z| = sqrt(2 var(Z) / pi): here X ~ N(0, 1), Y ~ N(0, 4), X - Y ~ N(0, 5)."""
    n, repeats = 600, 50
    values = [energy_distance(normal(n, 1, seed=2 * i), 2 * normal(n, 1, seed=2 * i + 1)) for i in range(repeats)]
    between, within_x, within_y = (math.sqrt(2 * variance / math.pi) for variance in (5, 2, 8))
    expected = 2 * between - (1 - 1 / n) * (within_x + within_y)  # 1/n of the pairs within a sample are zero
    error = np.std(values, ddof=1) / math.sqrt(repeats)
    assert abs(np.mean(values) - expected) < 4 * error and error < 0.05 * expected


def test_energy_distance_of_many_points_goes_in_blocks():
    """Repeating every point changes no average: 5000 x 5000 pairs, more than one block, and still 2 * 3 - 0 - 0."""
    x, y = torch.zeros(5000, 1), torch.full((5000, 1), 3.0)
    assert energy_distance(x, y) == pytest.approx(6.0, rel=1e-12)
    assert torch.equal(nearest_distance(torch.cat([x, y]), y), torch.cat([y, x])[:, 0])


def test_small_distances_far_from_the_origin_survive_in_float32():
    x, shift = 100 + normal(60, 3, dtype=torch.float32), torch.tensor([0.03, 0.0, 0.0])
    y = x + shift
    assert energy_distance(x, y) == pytest.approx(energy_distance(x.double(), y.double()), abs=1e-7)
    torch.testing.assert_close(nearest_distance(x, y).double(), nearest_distance(x.double(), y.double()))
    assert torch.equal(nearest_distance(x, x.flip(0)), torch.zeros(60))
    assert mmd(x, y, 0.05) == pytest.approx(mmd(x.double(), y.double(), 0.05), abs=1e-6)


# Sliced Wasserstein


@given(n=sizes, seed=seeds)
def test_sliced_wasserstein_on_the_line_is_the_best_assignment(n, seed):
    x, y = normal(n, 1, seed=seed), 1 + 2 * normal(n, 1, seed=seed + 1)
    cost = (x - y.T).square().numpy()
    expected = math.sqrt(cost[linear_sum_assignment(cost)].mean())
    assert sliced_wasserstein(x, y) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("d", [2, 5])
def test_sliced_wasserstein_of_a_shift_and_of_a_scaling(d):
    """E (v.c)^2 = |c|^2 / d with variance |c|^4 (3 / (d (d + 2)) - 1 / d^2); scaling by s moves v.x by (1 - s) v.x."""
    x, c, projections = normal(50, d), normal(1, d, seed=1), 20_000
    error = 4 * c.square().sum().item() * math.sqrt((3 / (d * (d + 2)) - 1 / d**2) / projections)
    assert abs(sliced_wasserstein(x, x + c, projections) ** 2 - c.square().sum().item() / d) < error
    expected = 0.25 * x.square().sum(1).mean().item() / d
    assert sliced_wasserstein(x, 1.5 * x, projections) ** 2 == pytest.approx(expected, rel=4 / math.sqrt(projections))


def test_sliced_wasserstein_ignores_order_and_repeats():
    x, y, before = normal(30, 3), normal(30, 3, seed=1), torch.get_rng_state()
    value = sliced_wasserstein(x, y)
    assert sliced_wasserstein(x, x.flip(0)) < 1e-15 and sliced_wasserstein(x.flip(0), y) == pytest.approx(value)
    assert sliced_wasserstein(x, y) == value == sliced_wasserstein(x, y, generator=seeded(0))
    assert sliced_wasserstein(x, y, generator=seeded(1)) != value
    assert torch.equal(torch.get_rng_state(), before)


# Maximum mean discrepancy, nearest neighbours, floors


@given(n=sizes, m=sizes, d=st.integers(1, 4), h=st.floats(0.3, 3), seed=seeds)
def test_mmd_by_brute_force(n, m, d, h, seed):
    x, y = normal(n, d, seed=seed), 1 + normal(m, d, seed=seed + 1)

    def kernel(a, b):
        return np.exp(-(distances(a, b) ** 2) / (2 * h**2)).mean()

    expected = kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
    assert mmd(x, y, h) == pytest.approx(expected, abs=1e-12) and mmd(x, y, h) > -1e-12
    assert mmd(x, x.flip(0), h) == pytest.approx(0, abs=1e-12)


def test_mmd_takes_the_median_distance_within_y():
    x, y = normal(9, 2), normal(7, 2, seed=1)  # 21 pairs: one is in the middle
    assert mmd(x, y) == pytest.approx(mmd(x, y, float(np.median(pdist(y.numpy())))), rel=1e-12)


@given(n=sizes, m=sizes, d=st.integers(1, 4), seed=seeds)
def test_nearest_distance_against_a_tree(n, m, d, seed):
    x, data = normal(n, d, seed=seed), normal(m, d, seed=seed + 1)
    expected = cKDTree(data.numpy()).query(x.numpy())[0]
    np.testing.assert_allclose(nearest_distance(x, data), expected, rtol=1e-12)


def test_images_are_points():
    x, y = normal(6, 1, 4, 4), normal(6, 1, 4, 4, seed=1)
    for metric in (energy_distance, sliced_wasserstein, mmd):
        assert metric(x, y) == metric(x.flatten(1), y.flatten(1))
    assert torch.equal(nearest_distance(x, y), nearest_distance(x.flatten(1), y.flatten(1)))


def test_floor_is_the_median_and_the_central_band():
    pairs = [(torch.full((1, 1), float(i)), torch.zeros(1, 1)) for i in range(41)]
    left = iter(pairs)
    floor = metrics.floor(lambda x, y: (x - y).item() ** 2, lambda: next(left), repeats=41)
    assert floor == pytest.approx((20.0**2, 1.0**2, 39.0**2)) and next(left, None) is None
    assert floor.median == 400


def test_floor_holds_true_samples_and_excludes_false_ones():
    generator = seeded()

    def draw():
        return torch.randn(2, 200, 2, generator=generator).unbind()

    for metric in (energy_distance, sliced_wasserstein, mmd):
        floor = metrics.floor(metric, draw)
        assert 0 < floor.low < floor.median < floor.high
        inside = sum(floor.low <= metric(*draw()) <= floor.high for _ in range(40))
        assert inside >= 22  # of 40; about 36, as the band of 40 repeats covers 90 % on average; fewer than 22: 6e-5
        x, y = draw()
        assert metric(x, y + 0.7) > floor.high


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_samples_are_measured_as_the_numbers_that_they_are(dtype):
    x, y = normal(40, 3).to(dtype), (2 * normal(40, 3, seed=1)).to(dtype)
    for metric in (energy_distance, sliced_wasserstein):
        assert metric(x, y) == metric(x.float(), y.float())
    assert energy_distance(x, y) == pytest.approx(energy_distance(x.double(), y.double()), rel=1e-5)
    assert mmd(x, y, 1.5) == pytest.approx(mmd(x.double(), y.double(), 1.5), rel=1e-5)
    assert mmd(x, y) == pytest.approx(mmd(x.double(), y.double()), rel=1e-4)
    nearest = nearest_distance(x, y)
    assert nearest.dtype == torch.float32
    torch.testing.assert_close(nearest.double(), nearest_distance(x.double(), y.double()))


def test_mmd_goes_in_blocks():
    """5000 x 5000 pairs, more than one block: repeating points changes no average, so two points have the same mmd."""
    x, y = torch.zeros(5000, 1), torch.full((5000, 1), 3.0)
    y[:1000] = 1
    expected = 1 + (0.64 + 0.04 + 0.32 * math.exp(-2)) - 2 * (0.8 * math.exp(-4.5) + 0.2 * math.exp(-0.5))
    assert mmd(x, y, 1.0) == pytest.approx(expected, rel=1e-6)
    code = """if True:
        import resource, torch
        from fmlib.metrics import mmd
        torch.set_num_threads(1)
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        x, y = torch.randn(2, 9_000, 1)
        mmd(x[:2_000], y[:2_000])
        before = peak()
        mmd(x, y)
        print(peak() - before)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 200, f"{result.stdout} MB"  # one matrix of all pairs takes 324


def test_distances_of_what_has_a_gradient():
    x, y = normal(5, 2).requires_grad_(), normal(5, 2, seed=1)
    assert mmd(x, y, 1.0) == mmd(x.detach(), y, 1.0) and energy_distance(x, y) == energy_distance(x.detach(), y)
    (slope,) = torch.autograd.grad(nearest_distance(x, y).sum(), x)
    torch.testing.assert_close(slope.norm(dim=1), torch.ones(5, dtype=F64))


X = torch.zeros(3, 2)
ALL = {"energy": energy_distance, "sliced": sliced_wasserstein, "mmd": mmd, "nearest": nearest_distance}
BAD = {
    "integers": (X.long(), X, TypeError, "x must have a floating dtype, got torch.int64"),
    "NaN": (X, X * torch.nan, ValueError, " has 6 NaN"),
    "empty": (X[:0], X, ValueError, r"x is empty: shape \(0, 2\)"),
    "one axis": (X, X[0], ValueError, r"\(2,\)"),
    "dimensions": (X, torch.zeros(3, 3), ValueError, r"points of one shape, got \(2,\) and \(3,\)"),
    "dtypes": (X, X.double(), TypeError, "float32 and torch.float64"),
    "devices": (X, X.to("meta"), ValueError, "cpu and meta"),
    "arrays": (X.numpy(), X, TypeError, "ndarray"),
}


@pytest.mark.parametrize("metric", ALL.values(), ids=ALL)
@pytest.mark.parametrize("x, y, kind, message", BAD.values(), ids=BAD)
def test_bad_input(metric, x, y, kind, message):
    with pytest.raises(kind, match=message) as error:
        metric(x, y)
    assert one_sentence(error)


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda: sliced_wasserstein(X, X[:2]), "one number of samples, got 3 and 2"),
        (lambda: sliced_wasserstein(X, X, projections=0), "projections must be at least 1, got 0"),
        (lambda: mmd(X, X + 1, 0.0), "bandwidth must be positive and finite, got 0.0"),
        (lambda: mmd(X, X + 1, math.nan), "bandwidth must be positive and finite, got nan"),
        (lambda: mmd(X, X + 1, math.inf), "bandwidth must be positive and finite, got inf"),
        (lambda: mmd(X, X + 1), "bandwidth must be positive and finite, got 0.0 from y"),
        (lambda: metrics.floor(mmd, lambda: (X, X), repeats=1), "repeats must be at least 2, got 1"),
    ],
    ids=[
        "uneven",
        "no projections",
        "no bandwidth",
        "NaN bandwidth",
        "infinite bandwidth",
        "one point repeated",
        "one repeat",
    ],
)
def test_bad_options(ask, message):
    with pytest.raises(ValueError, match=message) as error:
        ask()
    assert one_sentence(error)


def test_float64_is_used_where_it_comes():
    assert nearest_distance(normal(3, 2), normal(4, 2)).dtype == F64
    assert nearest_distance(normal(3, 2).float(), normal(4, 2).float()).dtype == torch.float32
