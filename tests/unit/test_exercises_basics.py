"""The exercises of notebook 1 that ask for code: what is said of a wrong answer does not hang on how it is written."""

import pytest
import torch  # noqa: F401 - what the answers are made of
from helpers import answer_of

from fmlib.exercises import basics


@pytest.mark.parametrize(
    "q, source, part",
    [
        (basics.euler, "lambda u, x, n: torch.stack([x] * (n + 1))", "expected is"),
        (basics.euler, "lambda u, x, n: [x] * (n + 1)", "a list. It must return a torch tensor"),
        (basics.point_and_target, "lambda a, b, t: (torch.lerp(b, a, t[:, None]), b - a)", "are swapped"),
        (basics.point_and_target, "lambda a, b, t: (torch.lerp(a, b, t[:, None]), a - b)", "has the wrong sign"),
        (basics.point_and_target, "lambda a, b, t: (torch.lerp(b, a, t[:, None]), a - b)", "runs backwards"),
        (basics.point_and_target, "lambda a, b, t: [torch.lerp(a, b, t[:, None]), b]", "where the walk ends"),
        (basics.point_and_target, "lambda a, b, t: (b - a, torch.lerp(a, b, t[:, None]))", "in the other order"),
        (basics.point_and_target, "lambda a, b, t: (a, b - a)", "Of the two tensors the first is not right"),
        (basics.point_and_target, "lambda a, b, t: (torch.lerp(a, b, t[:, None]), 0 * a)", "the second is not right"),
        (basics.point_and_target, "lambda a, b, t: (a, b, t)", "must return two tensors"),
        (basics.point_and_target, "lambda a, b, t: (a, None)", "must return two tensors"),
        (basics.point_and_target, "lambda a, b, t: (a.float(), b - a)", "are unlike"),
        (basics.point_and_target, "lambda a, b, t: a.add_(b)", "changes its input x_0 in place"),
        (
            basics.flow_matching_loss,
            "lambda u, a, b, t: (u(a + t[:, None] * (b - a), t) - b + a).pow(2).sum() / len(t)",
            "sum over the coordinates",
        ),
        (
            basics.flow_matching_loss,
            "lambda u, a, b, t: torch.nn.functional.l1_loss(u(a + t[:, None] * (b - a), t), b - a)",
            "a median",
        ),
        (
            basics.flow_matching_loss,
            "lambda u, a, b, t: torch.nn.functional.mse_loss(u(a + t[:, None] * (b - a), t).detach(), b - a)",
            "cut off from the weights",
        ),
        (
            basics.flow_matching_loss,
            "lambda u, a, b, t: torch.no_grad()(torch.nn.functional.mse_loss)(u(a + t[:, None] * (b - a), t), b - a)",
            "cut off from the weights",
        ),
        (
            basics.flow_matching_loss,
            "lambda u, a, b, t: torch.nn.functional.mse_loss(u(a + t * (b - a), t), b - a)",
            "Write t[:, None]",
        ),
    ],
)
def test_a_wrong_answer_is_known_however_it_is_written(q, source, part, capsys):
    assert part in q.check(eval(source)).message


def test_the_first_of_two_tensors_may_need_no_column_by_chance(capsys):
    """With as many rows as coordinates t broadcasts along the wrong axis: another shape tells."""
    message = basics.point_and_target.check(lambda a, b, t: ((1 - t) * a + t * b, b - a)).message
    assert "Write t[:, None]" in message


# ---- the loop with a bug ---------------------------------------------------------------------------------------------

FRESH = basics.stale_noise.reference


def told(source: str) -> str:
    return basics.stale_noise.check(answer_of(source)).message


def changed(old: str, new: str, source: str = FRESH) -> str:
    assert source.count(old) == 1
    return source.replace(old, new)


def test_the_code_as_given_is_open_and_differently_stale_code_is_wrong(capsys):
    given = basics.stale_noise.given
    assert basics.stale_noise.check(answer_of(given)).kind == "not attempted"
    assert "still uses the same noise" in told(changed("x_0 = torch.randn_like(x_1)", "x_0 = -1.0 * x_1", given))
    assert "still uses the same noise" in told(changed("(1 - t[:, None])", "(-t[:, None] + 1)", given))


@pytest.mark.parametrize(
    "old, new, part",
    [
        ("(1 - t[:, None]) * x_0 + t[:, None] * x_1", "t[:, None] * x_0 + (1 - t[:, None]) * x_1", "not those that"),
        ("(x_1 - x_0)", "x_1", "not those that"),
        (".mean()", ".sum()", "not those that"),
        ("optimizer.zero_grad()", "u.zero_grad()", "correct"),
        ("x_1 - x_0", "-x_0 + x_1", "correct"),
        ("u(x_t, t)", "u(x_t, t[:, None])", "u takes t of shape (8,)"),
        ("u(x_t, t)", "u(x_t[:4], t[:4])", "must match"),
        ("    return loss.detach()", "    return loss.item()", "a float. It must return a torch tensor"),
        ("        loss.backward()\n", "", "leaves the weights as they were"),
    ],
)
def test_other_changes_to_the_loop(old, new, part, capsys):
    outcome = basics.stale_noise.check(answer_of(changed(old, new)))
    assert part == outcome.kind or part in outcome.message
