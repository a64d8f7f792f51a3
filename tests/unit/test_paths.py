import pytest
import torch
from helpers import F64, SCHEDULES, every_schedule, normal, one_sentence
from hypothesis import given
from hypothesis import strategies as st

from fmlib.paths import AffinePath


@every_schedule
def test_point_entry_by_entry(schedule):
    x_0, x_1, t = normal(3, 2, 2), normal(3, 2, 2, seed=1), torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    point = AffinePath(schedule).sample(x_0, x_1, t)
    for i in range(3):
        alpha, sigma = schedule.alpha(t[i]).item(), schedule.sigma(t[i]).item()
        torch.testing.assert_close(point.x_t[i], alpha * x_1[i] + sigma * x_0[i], rtol=1e-14, atol=1e-14)
    assert point.x_0 is x_0 and point.x_1 is x_1 and torch.equal(point.t, t)


@every_schedule
def test_velocity_is_the_time_derivative_of_the_flow(schedule):
    path, x_0, x_1 = AffinePath(schedule), normal(40, 2, 3), normal(40, 2, 3, seed=1)
    t = torch.linspace(0.01, 0.99, 40, dtype=F64)
    x_t = path.flow(x_0, x_1, t.requires_grad_()).flatten(1)  # row i depends on t[i] alone, so sums separate the rows
    columns = [torch.autograd.grad(column.sum(), t, retain_graph=True)[0] for column in x_t.unbind(1)]
    expected = torch.stack(columns, 1).reshape(x_0.shape)
    torch.testing.assert_close(path.sample(x_0, x_1, t.detach()).velocity, expected, rtol=1e-9, atol=1e-12)


@every_schedule
def test_conditional_velocity_is_the_same_along_the_flow(schedule):
    path, x_0, x_1 = AffinePath(schedule), normal(40, 3), normal(40, 3, seed=1)
    t = torch.linspace(0, 0.99, 40, dtype=F64)
    point = path.sample(x_0, x_1, t)
    torch.testing.assert_close(path.velocity(point.x_t, x_1, t), point.velocity, rtol=1e-9, atol=1e-9)


def test_conditional_velocity_of_cond_ot_points_at_the_target():
    x, x_1, t = normal(5, 2), normal(5, 2, seed=1), torch.linspace(0, 0.9, 5, dtype=F64)
    torch.testing.assert_close(AffinePath().velocity(x, x_1, t), (x_1 - x) / (1 - t[:, None]))


@every_schedule
def test_ends_are_the_samples_themselves(schedule):
    path, x_0, x_1 = AffinePath(schedule), normal(4, 2, dtype=torch.float32), normal(4, 2, seed=1, dtype=torch.float32)
    assert torch.equal(path.flow(x_0, x_1, 0.0), x_0)
    assert torch.equal(path.flow(x_0, x_1, 1.0), x_1)


def test_cond_ot_target_is_the_difference_at_every_time():
    x_0, x_1 = normal(4, 2), normal(4, 2, seed=1)
    for t in (0.0, 0.3, 1.0):
        assert torch.equal(AffinePath().sample(x_0, x_1, t).velocity, x_1 - x_0)


@every_schedule
def test_a_number_a_scalar_and_a_vector_are_one_time(schedule):
    path, x_0, x_1 = AffinePath(schedule), normal(4, 2, 3), normal(4, 2, 3, seed=1)
    expected = path.sample(x_0, x_1, torch.full((4,), 0.3, dtype=F64))
    for t in (0.3, torch.tensor(0.3, dtype=F64)):
        point = path.sample(x_0, x_1, t)
        assert torch.equal(point.x_t, expected.x_t) and torch.equal(point.velocity, expected.velocity)
        assert point.t.shape == ()


def test_time_scales_rows_even_where_batch_equals_dimension():
    x_1, t = torch.ones(3, 3), torch.tensor([0.0, 0.5, 1.0])
    assert torch.equal(AffinePath().flow(torch.zeros(3, 3), x_1, t), t[:, None].expand(3, 3))


shapes = st.lists(st.integers(1, 4), min_size=2, max_size=4)


dtypes = st.sampled_from([torch.float32, F64])


@given(shape=shapes, schedule=st.sampled_from(SCHEDULES), dtype=dtypes, seed=st.integers(0, 99))
def test_shape_dtype_and_batch_order(shape, schedule, dtype, seed):
    x_0, x_1 = normal(*shape, seed=seed, dtype=dtype), normal(*shape, seed=seed + 1, dtype=dtype)
    t = normal(shape[0], seed=seed + 2, dtype=dtype).sigmoid()
    point = AffinePath(schedule).sample(x_0, x_1, t)
    assert point.x_t.shape == point.velocity.shape == tuple(shape) and point.t.shape == (shape[0],)
    assert point.x_t.dtype == point.velocity.dtype == dtype
    flipped = AffinePath(schedule).sample(x_0.flip(0), x_1.flip(0), t.flip(0))
    torch.testing.assert_close(flipped.x_t.flip(0), point.x_t)
    torch.testing.assert_close(flipped.velocity.flip(0), point.velocity)


def test_inputs_are_left_alone_and_gradients_pass():
    x_0, x_1 = normal(2, 2).requires_grad_(), normal(2, 2, seed=1)
    before = x_0.detach().clone()
    AffinePath().sample(x_0, x_1, 0.25).x_t.sum().backward()
    assert torch.equal(x_0.detach(), before)
    assert torch.equal(x_0.grad, torch.full((2, 2), 0.75, dtype=F64))


X = torch.zeros(3, 2)
BAD_PAIRS = {
    "shapes": (X, torch.zeros(3, 3), ValueError, r"x_0 and x_1 .*\(3, 2\) and \(3, 3\)"),
    "batches": (X, torch.zeros(1, 2), ValueError, r"\(3, 2\) and \(1, 2\)"),
    "dtypes": (X, X.double(), TypeError, "float32 and torch.float64"),
    "devices": (X, X.to("meta"), ValueError, "cpu and meta"),
    "integers": (X, X.long(), TypeError, "x_1 .*torch.int64"),
    "booleans": (X.bool(), X, TypeError, "x_0 .*torch.bool"),
    "complex": (X.cfloat(), X, TypeError, "x_0 .*complex64"),
    "list": ([[0.0, 0.0]], X, TypeError, "x_0 .*list"),
    "NaN": (torch.full((3, 2), torch.nan), X, ValueError, "x_0 has 6 NaN or infinite values among 6"),
    "infinite": (X, torch.tensor([[0, 0], [torch.inf, 0], [0, 0]]), ValueError, "x_1 has 1 NaN"),
    "both infinities": (X, torch.tensor([[0, -torch.inf], [torch.inf, 0], [0, 0]]), ValueError, "x_1 has 2 NaN"),
    "empty batch": (torch.zeros(0, 2), torch.zeros(0, 2), ValueError, r"x_0 is empty: shape \(0, 2\)"),
    "empty points": (torch.zeros(3, 0), torch.zeros(3, 0), ValueError, r"x_0 is empty: shape \(3, 0\)"),
    "no batch": (torch.zeros(3), torch.zeros(3), ValueError, r"x_0 .*\(3,\)"),
}
BAD_TIMES = {
    "below": (-0.1, ValueError, "-0.1"),
    "above": (1.5, ValueError, "1.5"),
    "NaN": (float("nan"), ValueError, "nan"),
    "one of many": (torch.tensor([0.0, 1.25, 1.0]), ValueError, "1.25"),
    "one NaN of many": (torch.tensor([0.0, torch.nan, 1.0]), ValueError, "nan"),
    "column": (torch.zeros(3, 1), ValueError, r"t .*\(3, 1\)"),
    "row": (torch.zeros(1, 3), ValueError, r"t .*\(1, 3\)"),
    "too few": (torch.zeros(2), ValueError, r"t .*\(2,\)"),
    "length one": (torch.zeros(1), ValueError, r"t .*\(1,\)"),
    "integers": (torch.tensor([0, 1, 1]), TypeError, "t .*torch.int64"),
    "device": (torch.zeros(3, device="meta"), ValueError, "meta and cpu"),
    "text": ("0.5", TypeError, "t .*str"),
    "boolean": (True, TypeError, "t .*bool"),
    "None": (None, TypeError, "t .*NoneType"),
}


@pytest.mark.parametrize("method", ["sample", "flow"])
@pytest.mark.parametrize("x_0, x_1, kind, message", BAD_PAIRS.values(), ids=BAD_PAIRS)
def test_bad_pairs(method, x_0, x_1, kind, message):
    with pytest.raises(kind, match=message) as error:
        getattr(AffinePath(), method)(x_0, x_1, 0.5)
    assert one_sentence(error)


@pytest.mark.parametrize("method", ["sample", "flow", "velocity"])
@pytest.mark.parametrize("t, kind, message", BAD_TIMES.values(), ids=BAD_TIMES)
def test_bad_times(method, t, kind, message):
    with pytest.raises(kind, match=message) as error:
        getattr(AffinePath(), method)(X, X, t)
    assert one_sentence(error)


def test_conditional_velocity_has_no_limit_at_the_end():
    for t in (1.0, torch.tensor([0.0, 0.5, 1.0])):
        with pytest.raises(ValueError, match="t must be less than 1"):
            AffinePath().velocity(X, X, t)


def test_large_finite_values_are_not_called_infinite():
    huge = torch.full((3, 2), 3e38)
    assert torch.equal(AffinePath().flow(X, huge, 1.0), huge)
