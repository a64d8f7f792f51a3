"""The exercises of notebook 7 that ask for code: what is said of a wrong answer does not hang on how it is written."""

import pytest
import torch
from helpers import answer_of
from scipy.optimize import linear_sum_assignment

from fmlib.couplings import MinibatchOT
from fmlib.exercises import couplings


@pytest.mark.parametrize(
    "q, source, part",
    [
        (couplings.pairs_of_two, "lambda a, b: a.reshape(-1, 2, a.shape[1]).flip(1).flatten(0, 1)", "in every batch"),
        (couplings.pairs_of_two, "lambda a, b: a.clone()", "Nothing has been exchanged"),
        (
            couplings.pairs_of_two,
            "lambda a, b: torch.cat([torch.minimum(a[::2], a[1::2]), torch.maximum(a[::2], a[1::2])])",
            "expected is",
        ),
        (
            couplings.pairs_of_two,
            "lambda a, b: torch.stack([torch.where(((a[::2] - a[1::2]) * (b[::2] - b[1::2]) < 0).reshape(a[::2].shape),"
            " a[i::2], a[1 - i::2]) for i in (1, 0)], 1).flatten(0, 1)",
            "for each coordinate",
        ),
        (
            couplings.pairs_of_two,
            "lambda a, b: torch.stack([torch.where(((a[::2] - a[1::2]) * (b[::2] - b[1::2])).sum(1, True) > 0, a[i::2],"
            " a[1 - i::2]) for i in (1, 0)], 1).flatten(0, 1)",
            "where that is *dearer*",
        ),
        (couplings.pairs_of_two, "lambda a, b: a[::2]", "is expected"),
        (couplings.per_label, "lambda a, b, y, ot: ot(a, b)[0]", "plain transport"),
        (couplings.per_label, "lambda a, b, y, ot: torch.index_select(a, 0, torch.arange(len(a)))", "Nothing has been"),
        (
            couplings.per_label,
            "lambda a, b, y, ot: torch.where((y[:, None] == y).sum(1, True) > 1, b, a)",
            "is the target",
        ),
        (couplings.per_label, "lambda a, b, y, ot: a[torch.sort(y, stable=True).indices]", "sort the source"),
        (couplings.per_label, "lambda a, b, y, ot: ot(a, b)", "torch tensor"),
    ],
)
def test_a_wrong_answer_is_known_however_it_is_written(q, source, part, capsys):
    assert part in q.check(eval(source)).message


def test_plain_transport_with_its_labels_carried_along_is_still_the_bias(capsys):
    """Transport over all, written into the rows of each label: the sources have crossed labels all the same."""
    source = (
        "def answer(x_0, x_1, label, ot):\n    moved = torch.zeros_like(x_0)\n    for y in label.unique():\n"
        "        moved[label == y] = ot(x_0, x_1)[0][label == y]\n    return moved"
    )
    assert "plain transport" in couplings.per_label.check(answer_of(source)).message


@pytest.mark.parametrize("q", [couplings.pairs_of_two, couplings.per_label, couplings.still_condition])
def test_seven_wrong_answers_have_a_message_of_their_own(q):
    assert len({wrong.message for wrong in q.wrongs}) == len(q.wrongs) >= 7


# ---- the truths, against what is known in another way ----------------------------------------------------------------


def test_the_better_of_two_orders_is_the_assignments():
    x_0, x_1 = torch.randn(2, 40, 3, dtype=torch.float64)
    found = couplings.pairs_of_two.truth(x_0, x_1)
    expected = torch.cat([MinibatchOT()(a, b)[0] for a, b in zip(x_0.split(2), x_1.split(2), strict=True)])
    assert torch.equal(found, expected)


def test_the_best_within_labels_is_the_assignment_with_other_pairs_forbidden():
    for x_0, x_1, label, ot in couplings.per_label.cases(torch.Generator().manual_seed(5)):
        cost = torch.cdist(x_1, x_0).square() + 1e6 * (label[:, None] != label)
        expected = x_0[linear_sum_assignment(cost.numpy())[1]]
        assert torch.equal(couplings.per_label.truth(x_0, x_1, label, ot), expected)


def test_the_library_solves_the_exercise(capsys):
    """Its coupling within labels, and on batches of two."""
    within = MinibatchOT(within_labels=True)
    assert couplings.per_label.check(lambda a, b, y, ot: within(a, b, label=y)[0]).kind == "correct"
    two = lambda a, b: within(a, b, label=torch.arange(len(a)) // 2)[0]  # noqa: E731
    assert couplings.pairs_of_two.check(two).kind == "correct"


def test_a_lone_row_is_among_the_cases_and_so_is_a_batch_of_one_label():
    counts = [label.bincount() for _, _, label, _ in couplings.per_label.cases(torch.Generator())]
    assert any((count == 1).any() for count in counts) and any((count > 0).sum() == 1 for count in counts)


def test_the_limit_of_the_bias_by_simulation():
    x = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert abs(x[0].sort().values[25_000:].mean() - (2 / torch.pi) ** 0.5) < 4 * 0.603 / 25_000**0.5
    assert couplings.limit_of_bias.right == "c"


# ---- the code with a bug ---------------------------------------------------------------------------------------------

RIGHT = couplings.still_condition.reference


def told(source: str):
    return couplings.still_condition.check(answer_of(source))


def changed(old: str, new: str, source: str = RIGHT) -> str:
    assert source.count(old) == 1
    return source.replace(old, new)


def test_the_condition_stands_still():
    """The second half of the truth is y at every t, and the first goes from the noised y to x_1."""
    x_1, y, noise = torch.randn(3, 5, 2, dtype=torch.float64)
    for t in (0.0, 0.4, 1.0):
        z = couplings.still_condition.truth(x_1, y, noise, 0.5, torch.full((5,), t, dtype=torch.float64))
        assert torch.equal(z[:, 2:], y)
        torch.testing.assert_close(z[:, :2], y + 0.5 * noise + t * (x_1 - y - 0.5 * noise))


def test_the_code_as_given_is_open_and_the_same_bug_written_differently_is_wrong(capsys):
    given = couplings.still_condition.given
    assert told(given).kind == "not attempted"
    assert "expected is" in told(changed("[x_0, x_0]", "2 * [x_0]", given)).message


@pytest.mark.parametrize(
    "old, new, part",
    [
        ("torch.cat([x_0, y], 1)", "torch.cat((x_0, y), dim=-1)", "correct"),
        ("torch.cat([x_0, y], 1)", "torch.cat([y, y], 1)", "without noise"),
        ("torch.cat([x_0, y], 1)", "torch.cat([x_0, noise], 1)", "a flow of its own"),
        ("torch.cat([x_1, y], 1)", "torch.cat([x_1, x_1], 1)", "moves on to"),
        ("x_0 = y + sigma * noise", "x_0 = y", "without noise"),
        ("torch.cat([x_0, y], 1)", "torch.cat([x_0, y])", "must match the size"),
        ("torch.cat([x_0, y], 1)", "x_0", "must match the size"),
        ("t[:, None] * end", "t * end", "must match"),
    ],
)
def test_other_changes_to_the_code(old, new, part, capsys):
    outcome = told(changed(old, new))
    assert part == outcome.kind or part in outcome.message
