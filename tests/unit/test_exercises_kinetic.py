"""The exercises of notebook 4 that ask for code: what is said of a wrong answer does not hang on how it is written."""

import pytest
import torch
from helpers import answer_of

from fmlib import metrics, sampling
from fmlib.exercises import kinetic


@pytest.mark.parametrize(
    "q, source, part",
    [
        (kinetic.energy_of_path, "lambda x, t: torch.diff(x, dim=0).pow(2).sum((0, 2))", "never divide by a time"),
        (kinetic.energy_of_path, "lambda x, t: ((x[1:] - x[:-1]) ** 2).sum((0, 2)) * (len(x) - 1)", "equal length"),
        (
            kinetic.energy_of_path,
            "lambda x, t: (x.diff(dim=0) / t.diff()[:, None, None]).pow(2).sum(2).mean(0)",
            "short and long steps count alike",
        ),
        (kinetic.energy_of_path, "lambda x, t: x.diff(dim=0).pow(2).sum(2).sqrt().sum(0)", "the length of the path"),
        (kinetic.energy_of_path, "lambda x, t: (x[0] - x[-1]).norm(dim=1) ** 2", "squared displacement"),
        (
            kinetic.energy_of_path,
            "lambda x, t: torch.einsum('knd,knd,k->', x.diff(dim=0), x.diff(dim=0), 1 / t.diff()) / x.shape[1]",
            "the mean over all paths",
        ),
        (kinetic.energy_of_path, "lambda x, t: x[:, :, 0]", "is expected"),
        (kinetic.energy_of_path, "lambda x, t: x.diff(dim=0).square().sum(2) / t.diff()", "must match the size"),
        (kinetic.cost_of_plan, "lambda a, b, pi: torch.cdist(a, b).square().mean()", "the independent coupling"),
        (kinetic.cost_of_plan, "lambda a, b, pi: (pi * (a[:, None] - b).norm(dim=2)).sum()", "mean *squared*"),
        (kinetic.cost_of_plan, "lambda a, b, pi: (a[:, None] - b).square().sum()", "leave out $\\pi$"),
        (
            kinetic.cost_of_plan,
            "lambda a, b, pi: (pi * torch.cdist(a, b) ** 2).sum() / pi.numel()",
            "sum to 1 already",
        ),
        (kinetic.cost_of_plan, "lambda a, b, pi: (a - b).square().sum(1).mean()", "must match the size"),
        (
            kinetic.gap_as_loss,
            "lambda v, u: torch.nn.functional.mse_loss(u, v)",
            "d times too small",
        ),
    ],
)
def test_a_wrong_answer_is_known_however_it_is_written(q, source, part, capsys):
    assert part in q.check(eval(source)).message


# ---- the truths, against what is known in another way ----------------------------------------------------------------


def test_the_energy_of_a_path_worked_out_by_hand():
    """A step of 3 in a quarter of the time, and one of 4 in three quarters."""
    corner = torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]], [[3.0, 4.0]]])
    assert kinetic.energy_of_path.truth(corner, torch.tensor([0.0, 0.25, 1.0])).item() == pytest.approx(36 + 64 / 3)


def test_the_energy_of_a_fine_path_is_the_librarys():
    x_0 = torch.randn(5, 2, dtype=torch.float64)
    run = sampling.sample(kinetic._current, x_0, steps=1000, method="rk4", return_path=True)
    energy = kinetic.energy_of_path.truth(run.x, torch.as_tensor(run.t))
    expected = metrics.kinetic_energy(kinetic._current, x_0, steps=200)
    torch.testing.assert_close(energy, expected, rtol=1e-4, atol=0)


def test_the_straightness_is_the_librarys():
    x_0, x_1 = torch.randn(2, 5, 3, dtype=torch.float64)
    expected = metrics.straightness(kinetic._current, x_0, steps=9, method="euler")
    torch.testing.assert_close(kinetic.partner_for_end.truth(kinetic._current, x_0, x_1, 9), expected)


def test_the_cost_of_a_permutation_is_that_of_its_pairs():
    x_0, x_1 = torch.randn(2, 6, 3, dtype=torch.float64)
    order = torch.randperm(6)
    pi = torch.zeros(6, 6, dtype=torch.float64)
    pi[order, torch.arange(6)] = 1 / 6
    expected = (x_1 - x_0[order]).square().sum(1).mean()
    torch.testing.assert_close(kinetic.cost_of_plan.truth(x_0, x_1, pi), expected)


# ---- the code with a bug ---------------------------------------------------------------------------------------------

RIGHT = kinetic.partner_for_end.reference


def told(source: str):
    return kinetic.partner_for_end.check(answer_of(source))


def changed(old: str, new: str, source: str = RIGHT) -> str:
    assert source.count(old) == 1
    return source.replace(old, new)


def test_the_bug_is_not_seen_with_a_single_data_point():
    """As the question says: with the velocity (x_1 - x) / (1 - t) both displacements are the same."""
    x_0, point = torch.randn(4, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    given = answer_of(kinetic.partner_for_end.given)
    found = given(lambda x, t: (point - x) / (1 - t), x_0, point.expand(4, 2), 8)
    assert found.abs().max() < 1e-24


def test_the_code_as_given_is_open_and_the_same_bug_written_differently_is_wrong(capsys):
    given = kinetic.partner_for_end.given
    assert told(given).kind == "not attempted"
    assert "the partner that the coupling drew" in told(changed("x_1 - x_0", "x_1.sub(x_0)", given)).message


@pytest.mark.parametrize(
    "old, new, part",
    [
        ("moved = x - x_0", "moved = 0 * x", "this is the kinetic energy"),
        ("moved = x - x_0", "moved = x_0 - x", "A sign is lost"),
        ("moved = x - x_0", "moved = sum(seen) / steps", "correct"),
        ("moved = x - x_0", "moved = -x_0 + x", "correct"),
        ("x = x + seen[-1] / steps", "x = x_0 + (x_1 - x_0) * ((k + 1) / steps)", "the gap"),
        ("x = x + seen[-1] / steps", "x += seen[-1] / steps", "changes its input x_0 in place"),
        (".mean(0)", ".sum(0)", "expected is"),
        (".sum(2)", "", "is expected"),
        ("torch.stack(seen)", "seen", "unsupported operand"),
    ],
)
def test_other_changes_to_the_code(old, new, part, capsys):
    outcome = told(changed(old, new))
    assert part == outcome.kind or part in outcome.message
