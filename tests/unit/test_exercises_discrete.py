"""The exercises of notebook 13 that ask for code: what is said of a wrong answer, and what the truths are."""

import itertools
import math

import pytest
import torch
from helpers import answer_of, seeded

from fmlib.exact import TokenPath
from fmlib.exercises import discrete as asked


@pytest.mark.parametrize(
    "q, source, part",
    [
        (
            asked.posterior,
            "lambda x, data, K, t: torch.nn.functional.one_hot(data, K).to(t).mean(0).expand(len(x), -1, -1)",
            "This is the prior",
        ),
        (
            asked.posterior,
            "lambda x, data, K, t: torch.nn.functional.one_hot(data[(x[:, None] == data).sum(2).argmax(1)], K).to(t)",
            "the best row alone",
        ),
        (asked.posterior, "lambda x, data, K, t: torch.nn.functional.one_hot(x, K).to(t)", "expected is"),
        (
            asked.by_events,
            "lambda f, x, order, u: (f(x).cumsum(2) <= u.gather(1, order.argsort(1))[..., None]).sum(2)",
            "one parallel step",
        ),
        (asked.by_events, "lambda f, x, order, u: 1 * x", "expected is"),
        (
            asked.surest,
            "lambda p, x, mask, u: torch.where(x == mask, torch.searchsorted(p.cumsum(2), u[..., None], "
            "right=True)[..., 0], x)",
            "the parallel step",
        ),
        (asked.surest, "lambda p, x, mask, u: 1 * x", "expected is"),
    ],
)
def test_a_wrong_answer_is_known_however_it_is_written(q, source, part, capsys):
    assert part in q.check(eval(source)).message


# ---- the truths, against what is known in another way ----------------------------------------------------------------


def test_the_posterior_is_that_of_the_exact_path_of_the_data():
    """A data set with repeated words, as a table of their shares."""
    draw = seeded(3)
    data, K = torch.randint(3, (7, 3), generator=draw), 3
    data[1] = data[0]
    law = torch.zeros(3, 3, 3, dtype=torch.float64)
    law.index_put_(tuple(data.T), torch.full((7,), 1 / 7, dtype=torch.float64), accumulate=True)
    x = torch.cartesian_prod(*[torch.arange(3)] * 3)
    path = TokenPath(law, torch.full((3,), 1 / 3, dtype=torch.float64))
    for t in (0.2, 0.7):
        times = torch.full((len(x),), t, dtype=torch.float64)
        made = answer_of(asked.posterior.reference)(x, data, K, times)
        torch.testing.assert_close(made, path.posterior(x, t), rtol=0, atol=1e-12)
        torch.testing.assert_close(asked.posterior.truth(x, data, K, times), made, rtol=0, atol=1e-12)


def test_by_events_draws_the_law_whatever_the_order():
    """The law of two positions, by going through u on a fine grid: the product rule holds in both orders."""
    q = torch.zeros(3, 3, dtype=torch.float64)
    q[:2, :2] = torch.tensor([[0.1, 0.3], [0.2, 0.4]])
    path = TokenPath(q, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    fine = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    u = torch.cartesian_prod(fine, fine)
    for order in ([0, 1], [1, 0]):
        made = answer_of(asked.by_events.reference)(
            lambda x: path.posterior(x, 0.5),
            torch.full_like(u, 2, dtype=torch.int64),
            torch.tensor(order).expand(len(u), 2),
            u,
        )
        share = torch.bincount(2 * made[:, 0] + made[:, 1], minlength=4).reshape(2, 2) / len(u)
        torch.testing.assert_close(share.double(), q[:2, :2], rtol=0, atol=0.011)


def test_the_surest_position_does_not_depend_on_the_draw_and_the_bug_does():
    p, x, mask, u = asked._half_revealed(seeded())[0]
    mended, given = answer_of(asked.surest.reference), answer_of(asked.surest.given)
    places, guessed = set(), set()
    for seed in range(30):
        u = torch.rand(u.shape, generator=seeded(seed), dtype=torch.float64)
        places.add(tuple((mended(p, x, mask, u) != x).int().argmax(1).tolist()))
        guessed.add(tuple((given(p, x, mask, u) != x).int().argmax(1).tolist()))
    assert len(places) == 1 and len(guessed) > 1
    expected = torch.where(x == mask, p.amax(2), -1).argmax(1).tolist()
    assert places == {tuple(expected)}


def test_the_bug_is_a_wrong_law():
    """Two masked positions, independent coins of 0.9 and 0.6: which first tokens come out, by summing over draws."""
    p = torch.tensor([[[0.9, 0.1], [0.6, 0.4]]], dtype=torch.float64)
    x, given = torch.full((1, 2), 2), answer_of(asked.surest.given)
    revealed = {}
    for tokens in itertools.product(range(2), repeat=2):
        u = torch.tensor([[0.95 if tokens[0] else 0.5, 0.9 if tokens[1] else 0.3]], dtype=torch.float64)
        word = tuple(given(p, x, 2, u)[0].tolist())
        weight = math.prod(p[0, i, token].item() for i, token in enumerate(tokens))
        revealed[word] = revealed.get(word, 0) + weight
    # the first position shows its rare token with 0.1 when it is drawn; the bug reveals it only when both are rare
    first = {word: share for word, share in revealed.items() if word[0] < 2}
    assert first[(0, 2)] == pytest.approx(0.9) and (1, 2) not in first
    assert revealed[(2, 0)] == pytest.approx(0.06) and revealed[(2, 1)] == pytest.approx(0.04)


def test_the_code_as_given_is_open(capsys):
    assert asked.surest.check(answer_of(asked.surest.given)).kind == "not attempted"


def drawn(law, source, n):
    """What n even steps draw, by the kernels of the exact path."""
    path = TokenPath(law, source)
    p = path.probability(0.0).flatten()
    for k in range(n):
        p = path.step(k / n, (k + 1) / n) @ p
    return p


@pytest.mark.parametrize("n, differ", [(1, 1 / 2), (4, 1 / 8)])
def test_how_often_two_equal_letters_differ(n, differ):
    """By enumerating in which steps the two positions are revealed."""
    apart = sum(1 / n**2 * (0.5 if a == b else 0.0) for a in range(n) for b in range(n))
    assert apart == pytest.approx(differ)
    assert asked.equal_pair.options[asked.equal_pair.right][0] == "1/2, and 1/8"


def test_a_corrector_is_no_better_use_of_a_call_with_masks():
    """Sixteen calls, by kernels of the exact path: a corrector of strength w goes back to kappa = 1 - w."""
    assert asked.corrector.right == "b"
    law = torch.zeros(3, 3, 3, dtype=torch.float64)
    law[:2, :2, :2] = torch.randn(8, generator=seeded(), dtype=torch.float64).mul(1.5).softmax(0).reshape(2, 2, 2)
    mask = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    path, error = TokenPath(law, mask), lambda p: (p - law.flatten()).abs().sum().item() / 2
    steps = error(drawn(law, mask, 16))
    for w in (0.02, 0.05, 0.1, 0.2, 0.5):
        one = torch.eye(3, dtype=torch.float64) * (1 - w) + w * mask[:, None]
        back = torch.kron(torch.kron(one, one), one)
        p = drawn(law, mask, 8)
        for _ in range(8):
            p = path.step(1 - w, 1.0) @ (back @ p)
        assert error(p) > steps


def test_a_letter_that_is_held_is_taken_for_noise_under_a_uniform_source_only():
    """Of the posterior of the second letter at kappa = 0.1, given that the first one stands there."""
    assert asked.clamped.right == "b"
    equal = torch.eye(2, dtype=torch.float64) / 2
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    doubts = TokenPath(equal, half).posterior(torch.tensor([[0, 1]]), 0.1)[0, 1, 0].item()
    assert doubts == pytest.approx(0.5)  # it believes the noise of the second letter as much as the held first one
    more = torch.zeros(3, 3, dtype=torch.float64)
    more[:2, :2] = equal
    sure = TokenPath(more, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)).posterior(torch.tensor([[0, 2]]), 0.1)
    assert sure[0, 1, 0].item() == pytest.approx(1.0)
