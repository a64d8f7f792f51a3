"""The exercises of notebook 8 that ask for code: what is said of a wrong answer does not hang on how it is written."""

import math

import numpy as np
import pytest
import torch
from helpers import answer_of
from scipy.spatial import geometric_slerp
from scipy.spatial.transform import Rotation

from fmlib.exercises import geometry

_PULL = "y - x * (x * y).sum(1)[:, None]"
_Z = "torch.view_as_complex(x)"
_S = "(torch.view_as_complex(x).conj() * torch.view_as_complex(y)).sum(1)[:, None]"
_AT = "s.exp(a, t[:, None] * s.log(a, b))"


@pytest.mark.parametrize(
    "q, source, part",
    [
        (geometry.best_turn, f"lambda x, y: torch.view_as_real({_Z} * {_S})", "stretch as well"),
        (geometry.best_turn, "lambda x, y: x * 1", "expected is"),
        (geometry.best_turn, "lambda x, y: y", "expected is"),
        (geometry.log_on_sphere, f"lambda x, y: {_PULL}", "its length is $\\sin\\theta$"),
        (geometry.log_on_sphere, f"lambda x, y: torch.nn.functional.normalize({_PULL})", "the direction alone"),
        (geometry.log_on_sphere, "lambda x, y: -(x - y)", "the chord"),
        (
            geometry.log_on_sphere,
            "lambda x, y: torch.acos((x * y).sum(1))[:, None] * torch.nn.functional.normalize(y - x)",
            "direction is that of the chord",
        ),
        (geometry.log_on_sphere, "lambda x, y: torch.acos((x * y).sum(1))", "is expected"),
        (
            geometry.target_at_start,
            f"lambda s, a, b, t: torch.cat([{_AT}, s.log({_AT}, b)], 1)",
            "only $1-t$ of the time",
        ),
        (
            geometry.target_at_start,
            f"lambda s, a, b, t: torch.cat([{_AT}, s.log(a, b).mul(1.0)], 1)",
            "still the velocity at the start",
        ),
    ],
)
def test_a_wrong_answer_is_known_however_it_is_written(q, source, part, capsys):
    assert part in q.check(eval(source)).message


# ---- the truths, against what is known in another way ----------------------------------------------------------------


def test_the_best_turn_is_scipys():
    x_0, x_1 = torch.randn(2, 6, 4, 2, dtype=torch.float64)
    turned = geometry.best_turn.truth(x_0, x_1)
    for a, b, made in zip(x_0.numpy(), x_1.numpy(), turned.numpy(), strict=True):
        flat = [np.c_[points, np.zeros(4)] for points in (a, b)]
        up, weights = [[0.0, 0.0, 1.0]], [1, 1, 1, 1, np.inf]  # the axis stays
        turn, _ = Rotation.align_vectors(np.r_[flat[1], up], np.r_[flat[0], up], weights)
        np.testing.assert_allclose(made, turn.apply(flat[0])[:, :2], atol=1e-6)


def test_no_angle_of_a_fine_grid_is_better():
    x_0, x_1 = torch.randn(2, 6, 4, 2, dtype=torch.float64)
    best = (geometry.best_turn.truth(x_0, x_1) - x_1).square().sum((1, 2))
    for k in range(720):
        a = 2 * math.pi * k / 720
        turn = torch.tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]], dtype=torch.float64)
        assert ((x_0 @ turn - x_1).square().sum((1, 2)) >= best - 1e-12).all()


def test_the_logarithm_leads_there():
    """A short part of SciPy's slerp, divided by the share of the way that it is."""
    (x, y), *_ = geometry._points(torch.Generator().manual_seed(3))
    log = geometry.log_on_sphere.truth(x, y)
    for a, b, v in zip(x.numpy(), y.numpy(), log.numpy(), strict=True):
        h = 1e-6
        slope = (geometric_slerp(a, b, h, tol=1e-12) - a) / h
        np.testing.assert_allclose(v, slope, atol=1e-5)


def test_the_walk_is_scipys_slerp_and_its_velocity_the_slope():
    (sphere, x_0, x_1, t), *_ = geometry._walks(torch.Generator().manual_seed(3))
    made = geometry.target_at_start.truth(sphere, x_0, x_1, t).numpy()
    for a, b, time, row in zip(x_0.numpy(), x_1.numpy(), t.tolist(), made, strict=True):
        before, at, after = (geometric_slerp(a, b, time + s) for s in (-1e-5, 0, 1e-5))
        np.testing.assert_allclose(row[:3], at, atol=1e-9)
        np.testing.assert_allclose(row[3:], (after - before) / 2e-5, atol=1e-6)


# ---- the code with a bug ---------------------------------------------------------------------------------------------


def test_the_bug_is_not_seen_at_the_start():
    (sphere, x_0, x_1, t), *_ = geometry._walks(torch.Generator().manual_seed(3))
    given, right = (
        answer_of(source) for source in (geometry.target_at_start.given, geometry.target_at_start.reference)
    )
    torch.testing.assert_close(given(sphere, x_0, x_1, 0 * t), right(sphere, x_0, x_1, 0 * t))
    assert (given(sphere, x_0, x_1, t) - right(sphere, x_0, x_1, t)).abs().max() > 0.5


def test_the_code_as_given_is_open(capsys):
    assert geometry.target_at_start.check(answer_of(geometry.target_at_start.given)).kind == "not attempted"
