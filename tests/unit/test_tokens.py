"""Tokens: exact laws against brute force, SciPy and matrix exponentials; samplers against products of exact kernels."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from helpers import F64, every_schedule, normal, one_sentence, seeded
from scipy.linalg import expm
from scipy.stats import chisquare, entropy

from fmlib import tokens
from fmlib.batches import Batch
from fmlib.exact import TokenPath
from fmlib.losses import generalised_kl, token_rates
from fmlib.models import TokenMLP
from fmlib.objectives import LabelDropout, TokenCrossEntropy, TokenRates
from fmlib.paths import TokenMix
from fmlib.schedules import CondOT, Cosine, Polynomial, Schedule
from fmlib.tokens import sample_tokens, times_of, token_bound
from fmlib.training import fit

K = 3  # tokens besides the mask
KINDS = ("mask", "uniform", "skew")


def table(d: int, seed: int = 0) -> torch.Tensor:
    """A law on words of d tokens, all possible."""
    return (1.5 * normal(K**d, seed=seed)).softmax(0).reshape((K,) * d)


def path_of(kind: str, d: int = 3, schedule: Schedule = CondOT(), seed: int = 0) -> TokenPath:
    q = table(d, seed)
    if kind == "mask":  # a token more, which the law does not have
        law = torch.zeros((K + 1,) * d, dtype=F64)
        law[(slice(K),) * d] = q
        return TokenPath(law, torch.eye(K + 1, dtype=F64)[K], schedule)
    source = {"uniform": [1 / 3, 1 / 3, 1 / 3], "skew": [0.5, 0.3, 0.2]}[kind]
    return TokenPath(q, torch.tensor(source, dtype=F64), schedule)


def mask_of(kind: str) -> int | None:
    return K if kind == "mask" else None


def network(path: TokenPath):
    return lambda x, t: path.posterior(x, t).log()


def start(path: TokenPath, n: int, seed: int = 99) -> torch.Tensor:
    d = path.law.ndim
    return torch.multinomial(path.source, n * d, replacement=True, generator=seeded(seed)).reshape(n, d)


def counts(x: torch.Tensor, size: int) -> torch.Tensor:
    """How often each word comes, in the order of `flatten`."""
    place = size ** torch.arange(x.shape[1] - 1, -1, -1)
    return torch.bincount((x * place).sum(1), minlength=size ** x.shape[1])


def p_value(x: torch.Tensor, law: torch.Tensor) -> float:
    """Of chi-square: the words x against a law on all of them; words that cannot be must not come."""
    seen, expected = counts(x, round(law.numel() ** (1 / x.shape[1]))), law.flatten() * len(x)
    possible = expected > 1e-9
    assert not seen[~possible].any()
    return chisquare(seen[possible], expected[possible] * len(x) / expected[possible].sum()).pvalue


def walked(path: TokenPath, times) -> torch.Tensor:
    """The exact law that parallel steps reach."""
    p = path.probability(float(times[0])).flatten()
    for t, s in itertools.pairwise(times):
        p = path.step(t, s) @ p
    return p


# The exact path


def brute_force(path: TokenPath, x, kappa: float):
    """p_t(x) and the posterior of each position by a sum over all words x_1."""
    q, s, size = path.law.numpy(), path.source.numpy(), len(path.source)
    joint = {}
    for word in itertools.product(range(size), repeat=path.law.ndim):
        each = [kappa * (a == b) + (1 - kappa) * s[a] for a, b in zip(x, word, strict=True)]
        joint[word] = q[word] * math.prod(each)
    total = sum(joint.values())
    posterior = np.zeros((len(x), size))
    for word, p in joint.items():
        for i, token in enumerate(word):
            posterior[i, token] += p
    return total, posterior / total if total else None


@every_schedule
@pytest.mark.parametrize("kind", KINDS)
def test_posterior_and_law_against_bayes_by_brute_force(kind, schedule):
    path = path_of(kind, 2, schedule)
    words = list(itertools.product(range(len(path.source)), repeat=2))
    for t in (0.0, 0.3, 0.8, 1.0):
        kappa = schedule.alpha(torch.tensor(t, dtype=F64)).item()
        found, law = path.posterior(torch.tensor(words), t), path.probability(t)
        for x, posterior in zip(words, found, strict=True):
            total, truth = brute_force(path, x, kappa)
            assert law[x].item() == pytest.approx(total, abs=1e-14)
            if truth is not None:
                np.testing.assert_allclose(posterior, truth, atol=1e-13)


def test_at_the_ends_of_time_a_posterior_is_its_limit():
    path = path_of("mask", 2)
    x = torch.tensor([[0, K], [K, 1], [K, K], [2, 0]])
    for t in (0.0, 0.5, 1.0):  # what a mask hides does not depend on the time
        torch.testing.assert_close(path.posterior(x, t), path.posterior(x, 0.3))
    path = TokenPath(torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=F64), torch.tensor([0.7, 0.3], dtype=F64))
    assert path.posterior(torch.tensor([[0, 1]]), 1.0)[0, 0].tolist() == pytest.approx([0.3, 0.7])  # one is the noise


def test_where_a_word_cannot_be_each_position_is_judged_by_itself():
    law = torch.zeros(4, 4, dtype=F64)
    law[0, 0], law[0, 1], law[1, 1] = 0.2, 0.3, 0.5
    path = TokenPath(law, torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=F64))
    stays = torch.eye(4, dtype=F64)[[1, 0]]
    torch.testing.assert_close(path.posterior(torch.tensor([[1, 0]]), 0.5), stays[None])
    nowhere = path.posterior(torch.tensor([[2, 0]]), 0.5)[0, 0]  # no word has a 2, and no mask becomes one
    torch.testing.assert_close(nowhere, law.sum(1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_its_own_time_and_many_rows_are_looked_up(kind):
    path = path_of(kind)
    x, t = start(path, 200), torch.linspace(0, 0.99, 200, dtype=F64)
    each = torch.cat([path.posterior(x[i : i + 1], t[i]) for i in range(200)])
    torch.testing.assert_close(path.posterior(x, t), each)
    torch.testing.assert_close(path.posterior(x, 0.4), torch.cat([path.posterior(row, 0.4) for row in x.split(1)]))
    assert path.posterior(x, 0.4).shape == (200, 3, len(path.source))


@every_schedule
@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_solves_the_kolmogorov_equation(kind, schedule):
    path, words = path_of(kind, 2, schedule), itertools.product(range(3 + (kind == "mask")), repeat=2)
    one_hot, s = torch.eye(len(path.source), dtype=F64), path.source
    ends = torch.stack([torch.kron(one_hot[a], one_hot[b]) for a, b in words])

    def law(t):  # by one kernel for both positions
        kappa = schedule.alpha(t)
        kernel = kappa * one_hot + (1 - kappa) * s[:, None].expand_as(one_hot)
        return torch.kron(kernel, kernel) @ ends.T @ path.law.flatten()

    for t in (0.1, 0.5, 0.9):
        moment, Q = torch.tensor(t, dtype=F64), path.generator(t)
        slope = torch.autograd.functional.jacobian(law, moment)
        torch.testing.assert_close(Q @ path.probability(t).flatten(), slope, atol=1e-12, rtol=0)
        torch.testing.assert_close(Q.sum(0), torch.zeros_like(slope), atol=1e-12, rtol=0)
        assert (Q - Q.diag().diag() >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_moves_one_position_at_a_time(kind):
    path = path_of(kind, 2)
    words = list(itertools.product(range(len(path.source)), repeat=2))
    Q = path.generator(0.5)
    for (i, x), (j, y) in itertools.product(enumerate(words), repeat=2):
        moved = [k for k in range(2) if x[k] != y[k]]
        if len(moved) == 2:
            assert Q[j, i] == 0
        if len(moved) == 1 and (truth := brute_force(path, x, 0.5)[1]) is not None:
            assert Q[j, i].item() == pytest.approx(2 * truth[moved[0], y[moved[0]]], abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exponential", [torch.linalg.matrix_exp, lambda A: torch.from_numpy(expm(A.numpy()))])
def test_a_product_of_matrix_exponentials_is_the_law(kind, exponential):
    path, apart = path_of(kind, 2), []
    for n in (25, 50, 100):
        left = torch.logspace(0, -2, n + 1, dtype=F64)  # 1 - t
        p = path.probability(0.0).flatten()
        for a, b in itertools.pairwise(left):
            p = exponential((a - b) * path.generator(1 - (a + b) / 2)) @ p
        apart.append((p - path.probability(0.99).flatten()).abs().sum().item() / 2)
    assert apart[2] < 1e-4
    assert [math.log2(a / b) for a, b in itertools.pairwise(apart)] == pytest.approx([2, 2], abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_redraws_each_position_from_its_posterior(kind):
    path = path_of(kind, 2, Polynomial(2.0))
    words, P = list(itertools.product(range(len(path.source)), repeat=2)), path.step(0.3, 0.7)
    share = (0.49 - 0.09) / (1 - 0.09)
    for i, x in enumerate(words):
        posterior = path.posterior(torch.tensor([x]), 0.3)[0]
        for j, y in enumerate(words):
            each = [(1 - share) * (a == b) + share * posterior[k, b] for k, (a, b) in enumerate(zip(x, y, strict=True))]
            assert P[j, i].item() == pytest.approx(math.prod(map(float, each)), abs=1e-14)
    torch.testing.assert_close(path.step(0.0, 1.0) @ path.probability(0.0).flatten(), one_step(path))


def one_step(path: TokenPath) -> torch.Tensor:
    """In one step from the source positions come out independent."""
    a, b = path.law.sum(1), path.law.sum(0)
    return torch.outer(a, b).flatten()


@pytest.mark.parametrize("kind", KINDS)
def test_parallel_steps_are_of_first_order_in_total_variation(kind):
    path = path_of(kind)
    apart = []
    for n in (32, 64):
        reached = walked(path, torch.linspace(0, 1, n + 1, dtype=F64))
        apart.append((reached - path.law.flatten()).abs().sum().item() / 2)
    assert math.log2(apart[0] / apart[1]) == pytest.approx(1, abs=0.1)


def test_two_masked_positions_in_closed_form():
    path = path_of("mask", 2)
    for n in (2, 5, 16):
        mixed = (1 - 1 / n) * path.law.flatten() + one_step(path) / n
        torch.testing.assert_close(walked(path, torch.linspace(0, 1, n + 1, dtype=F64)), mixed, atol=1e-12, rtol=0)


def test_entropy_and_formats():
    path = path_of("mask")
    assert path.entropy().item() == pytest.approx(entropy(path.law.flatten()), abs=1e-14)
    small = TokenPath(path.law.float(), path.source.float())
    x = start(path, 3)
    for value in (small.posterior(x, 0.5), small.probability(0.5), small.generator(0.5), small.step(0.1, 0.2)):
        assert value.dtype == torch.float32
    one = TokenPath(torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(one.probability(0.5), torch.tensor([0.375, 0.625]))
    assert one.posterior(torch.tensor([[0]]), 0.5).tolist() == [[[0.5, 0.5]]]  # 1/4 (1/2 + 1/4) and 3/4 1/4


HALF = torch.tensor([0.5, 0.5])


@pytest.mark.parametrize(
    "make, kind, message",
    [
        (lambda: TokenPath(torch.ones(17, 17, 17) / 17**3, torch.ones(17) / 17), ValueError, "4913"),
        (lambda: TokenPath(torch.ones(2, 3) / 6, HALF), ValueError, "shapes"),
        (lambda: TokenPath(torch.ones(3) / 3, HALF), ValueError, "shapes"),
        (lambda: TokenPath(HALF, HALF.double()), TypeError, "dtype"),
        (lambda: TokenPath(torch.tensor([1, 0]), HALF), TypeError, "law"),
        (lambda: TokenPath(HALF, 0.5), TypeError, "source"),
        (lambda: TokenPath(2 * HALF, HALF), ValueError, "law must"),
        (lambda: TokenPath(HALF, torch.tensor([-0.5, 1.5])), ValueError, "source must be at least 0 .* got -0.5"),
        (lambda: TokenPath(HALF, HALF).step(torch.tensor([0.1, 0.2]), 0.5), ValueError, "t must be one time"),
        (lambda: TokenPath(HALF, HALF, Cosine), TypeError, "schedule must be a schedule"),
        (lambda: TokenPath(HALF, torch.tensor([math.nan, 0.5])), ValueError, "source must"),
        (lambda: TokenPath(HALF, HALF).posterior(torch.tensor([[2]]), 0.5), ValueError, r"\[0, 2\), got 2"),
        (lambda: TokenPath(HALF, HALF).posterior(torch.tensor([[0, 1]]), 0.5), ValueError, "shape"),
        (lambda: TokenPath(HALF, HALF).posterior(torch.tensor([[0.0]]), 0.5), TypeError, "integers"),
        (lambda: TokenPath(HALF, HALF).posterior(torch.tensor([[0]]), 1.5), ValueError, "t must"),
        (lambda: TokenPath(HALF, HALF).generator(1.0), ValueError, "explode"),
        (lambda: TokenPath(HALF, HALF).step(1.0, 1.0), ValueError, "t must be less than 1"),
        (lambda: TokenPath(HALF, HALF).step(0.5, 0.4), ValueError, "s must be at least t"),
    ],
)
def test_bad_input_of_the_exact_path(make, kind, message):
    with pytest.raises(kind, match=message) as error:
        make()
    assert one_sentence(error)


# The mixture path


@every_schedule
def test_kept_shares_by_chi_square(schedule):
    n, d = 4000, 5
    x_0, x_1, t = torch.zeros(n, d, dtype=torch.int64), torch.ones(n, d, dtype=torch.int64), torch.rand(n)
    t = torch.linspace(0.05, 0.95, 4).repeat_interleave(n // 4)
    x_t = TokenMix(schedule).sample(x_0, x_1, t, seeded())
    kappa = schedule.alpha(torch.linspace(0.05, 0.95, 4, dtype=F64))
    for part, p in zip(x_t.split(n // 4), kappa.tolist(), strict=True):
        words = np.array([(1 - p) ** (d - k) * p**k for k in map(sum, itertools.product((0, 1), repeat=d))])
        common = words * n / 4 > 5  # the rest as one
        seen = counts(part, 2).numpy()
        cells = [np.append(v[common], v[~common].sum()) for v in (seen, words / words.sum() * n / 4)]
        few = cells[1] > 0
        assert chisquare(cells[0][few], cells[1][few]).pvalue > 1e-4
    wrong = TokenMix(schedule).sample(x_0, x_1, (t + 0.05).clamp(max=1), seeded())
    share = [part.double().mean().item() for part in wrong.split(n // 4)]
    assert abs(share[1] - kappa[1]) > 4 * (kappa[1] * (1 - kappa[1]) / (n // 4 * d)) ** 0.5 or kappa[1] < 0.05


def test_the_ends_of_the_mixture_and_its_formats():
    x_0, x_1 = torch.zeros(4, 2, dtype=torch.int32), torch.ones(4, 2, dtype=torch.int32)
    assert torch.equal(TokenMix().sample(x_0, x_1, 0), x_0) and torch.equal(TokenMix().sample(x_0, x_1, 1.0), x_1)
    state = torch.get_rng_state()
    x_t = TokenMix().sample(x_0, x_1, torch.tensor(0.5), seeded())
    assert x_t.dtype == torch.int32 and torch.equal(torch.get_rng_state(), state)


INTEGERS = torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    "x_0, x_1, t, kind, message",
    [
        (INTEGERS, INTEGERS.float(), 0.5, TypeError, "x_1 must hold tokens"),
        (INTEGERS.bool(), INTEGERS, 0.5, TypeError, "x_0 must hold tokens"),
        (INTEGERS, INTEGERS[:1], 0.5, ValueError, "one shape"),
        (INTEGERS[0], INTEGERS[0], 0.5, ValueError, "positions"),
        (INTEGERS, INTEGERS, 1.5, ValueError, "t must"),
        (INTEGERS, INTEGERS, torch.full((2, 1), 0.5), ValueError, "t must have shape"),
        (INTEGERS, INTEGERS.int(), 0.5, TypeError, "one dtype"),
    ],
)
def test_bad_input_of_the_mixture(x_0, x_1, t, kind, message):
    with pytest.raises(kind, match=message) as error:
        TokenMix().sample(x_0, x_1, t)
    assert one_sentence(error)


# Losses


def test_token_rates_are_the_generalised_kl_of_explicit_rates():
    logits, generator = normal(6, 4, K), seeded()
    x_1, x_t = (torch.randint(K, (6, 4), generator=generator) for _ in range(2))
    rate, p = torch.linspace(0.5, 3, 6, dtype=F64), logits.softmax(2)
    expected = torch.zeros(6, dtype=F64)
    for b, i in itertools.product(range(6), range(4)):
        others = [k for k in range(K) if k != x_t[b, i]]
        u = torch.tensor([[rate[b] * (k == x_1[b, i]) for k in others]], dtype=F64)
        expected[b] += generalised_kl(u, rate[b] * p[b, i, others][None])
    torch.testing.assert_close(token_rates(x_1, logits, x_t, rate), expected)
    torch.testing.assert_close(token_rates(x_1, logits, x_t, 2.0), expected / rate * 2)


def a_batch(n: int = 8) -> Batch:
    x_0, x_1 = torch.full((n, 3), K), torch.randint(K, (n, 3), generator=seeded())
    return Batch(x_0, x_1, torch.linspace(0.1, 0.9, n), {"label": torch.arange(n)}, seeded())


@pytest.mark.parametrize("schedule", [CondOT(), Cosine()])
def test_losses_see_the_mixture_the_time_and_the_condition(schedule):
    batch = a_batch()
    x_t = TokenMix(schedule).sample(batch.x_0, batch.x_1, batch.t, seeded())
    logits = normal(8, 3, K + 1, dtype=torch.float32)

    def seen(x, t, label):
        assert torch.equal(x, x_t) and torch.equal(t, batch.t) and torch.equal(label, torch.arange(8))
        return logits

    each = -logits.log_softmax(2).gather(2, batch.x_1[..., None])
    torch.testing.assert_close(TokenCrossEntropy(TokenMix(schedule))(seen, batch), each.mean())
    rate = (schedule.d_alpha(batch.t) / (1 - schedule.alpha(batch.t)))[:, None]
    p = logits.softmax(2)
    stay = p.gather(2, x_t[..., None])[..., 0]
    each = rate * ((batch.x_1 != x_t) * (each[..., 0] - 1) + 1 - stay)
    value = TokenRates(TokenMix(schedule))(seen, a_batch())
    torch.testing.assert_close(value, each.sum(1).mean())


@pytest.mark.parametrize("kind", ["mask", "uniform"])
@pytest.mark.parametrize("loss", [TokenCrossEntropy(), TokenRates()], ids=lambda loss: type(loss).__name__)
def test_the_true_posterior_is_where_a_loss_is_least(kind, loss):
    """E over x_1 and X_t by enumeration: its derivative in every direction of the logits is zero there."""
    path, t = path_of(kind, 2), 0.6
    size = len(path.source)
    words = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    kernel = t * torch.eye(size, dtype=F64) + (1 - t) * path.source[:, None]
    joint = torch.kron(kernel, kernel) * path.law.flatten()  # [x_t, x_1]
    logits = path.posterior(words, t).clamp(min=1e-30).log().requires_grad_()
    total = 0
    for x_1, weight in zip(words, joint.T, strict=True):
        ends = x_1.expand(len(words), 2)
        if isinstance(loss, TokenRates):
            each = token_rates(ends, logits, words, 1 / (1 - t))
        else:
            each = torch.nn.functional.cross_entropy(logits.mT, ends, reduction="none").sum(1)
        total = total + weight @ each
    total.backward()
    assert logits.grad.abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["mask", "uniform"])
@pytest.mark.parametrize("loss", [TokenCrossEntropy(), TokenRates()], ids=lambda loss: type(loss).__name__)
def test_fit_trains_a_network_that_draws_the_law(kind, loss):
    path = path_of(kind, 2)
    torch.manual_seed(0)
    words = torch.cartesian_prod(torch.arange(len(path.source)), torch.arange(len(path.source)))
    data = words[torch.multinomial(path.law.flatten(), 4000, replacement=True, generator=seeded())]
    model = TokenMLP(2, len(path.source), width=32)
    fitted = fit(model, data, loss=loss, source=start(path, 999), steps=300, clip=1.0, progress=False, device="cpu")
    x = sample_tokens(fitted.model, start(path, 4000), steps=64, mask=mask_of(kind), generator=seeded())
    apart = (counts(x, len(path.source)) / 4000 - path.law.flatten()).abs().sum() / 2
    alone = (one_step(path) - path.law.flatten()).abs().sum() / 2
    assert apart < 0.06 < alone / 2


def test_labels_are_dropped_in_token_losses_too():
    batch = a_batch()
    seen = []

    def spy(x, t, label):
        seen.append(label)
        return torch.zeros(8, 3, K + 1)

    LabelDropout(rate=0.999, null=9, loss=TokenCrossEntropy())(spy, batch)
    assert (seen[0] == 9).all()


def zeros(*shape):
    return lambda x, t, **condition: torch.zeros(len(x), *shape)


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda: TokenCrossEntropy(path=3), TypeError, "sample"),
        (lambda: TokenRates(path=3), TypeError, "sample"),
        (lambda: TokenCrossEntropy()(zeros(3), a_batch()), ValueError, "logits must have shape"),
        (lambda: TokenCrossEntropy()(lambda x, t, label: 3.0, a_batch()), TypeError, "logits must be a tensor"),
        (lambda: TokenCrossEntropy()(zeros(3, 2), a_batch()), ValueError, "x_1 must hold tokens"),
        (lambda: TokenRates()(zeros(3, 2), a_batch()), ValueError, "x_1 must hold tokens"),
        (lambda: TokenRates()(zeros(3, 4), a_batch()._replace(t=torch.ones(8))), ValueError, "explodes"),
        (lambda: token_rates(INTEGERS, torch.zeros(2, 3, 2), INTEGERS, -1.0), ValueError, "rate must be at least 0"),
        (lambda: token_rates(INTEGERS, torch.zeros(2, 3, 2), INTEGERS, math.inf), ValueError, "rate must be"),
        (lambda: token_rates(INTEGERS, torch.zeros(2, 3, 2), INTEGERS, torch.ones(2, 1)), ValueError, "rate must have"),
        (lambda: token_rates(INTEGERS, torch.zeros(2, 3, 2), INTEGERS + 2, 1.0), ValueError, "x_t must hold tokens"),
        (lambda: token_rates(INTEGERS, torch.zeros(2, 3, 2), [[0]], 1.0), TypeError, "x_t must be a torch.Tensor"),
        (lambda: TokenCrossEntropy(path=TokenMix), TypeError, r"path must be an instance.*write TokenMix\(...\)"),
        (lambda: TokenRates()(zeros(3, 4), a_batch()._replace(t=torch.tensor(0.5))), ValueError, "t must have shape"),
        (lambda: TokenRates()(zeros(3, 4), a_batch()._replace(t=0.5)), TypeError, "t must be a floating tensor"),
        (lambda: token_rates(INTEGERS.float(), torch.zeros(2, 3, 2), INTEGERS, 1.0), TypeError, "integers"),
        (lambda: fit(TokenMLP(3, 4), INTEGERS, loss=TokenCrossEntropy(), progress=False), TypeError, "source="),
    ],
)
def test_bad_input_of_the_losses(call, kind, message):
    with pytest.raises(kind, match=message) as error:
        call()
    assert one_sentence(error)


# Sampling


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", [CondOT(), Cosine()], ids=["linear", "cosine"])
def test_the_sampler_reaches_the_law_of_the_exact_kernel(kind, schedule):
    path, n = path_of(kind, schedule=schedule), 20_000
    times = torch.linspace(0, 1, 5, dtype=F64)
    x = sample_tokens(network(path), start(path, n), steps=4, schedule=schedule, mask=mask_of(kind), generator=seeded())
    assert p_value(x, walked(path, times)) > 1e-4
    assert p_value(x, path.law) < 1e-6  # four steps are not the law yet, and so many words show it


def test_a_grid_of_times_may_stop_early():
    path, times = path_of("uniform"), torch.tensor([0.0, 0.5, 0.6], dtype=F64)
    x = sample_tokens(network(path), start(path, 20_000), steps=times, generator=seeded())
    assert p_value(x, walked(path, times)) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_the_corrector_is_a_step_back_and_forth(kind):
    path, w = path_of(kind), 0.3
    size = len(path.source)
    one = (1 - w) * torch.eye(size, dtype=F64) + w * path.source[:, None]
    noise = torch.kron(torch.kron(one, one), one)
    p = path.probability(0.0).flatten()
    for t, s in itertools.pairwise((0.0, 0.5, 1.0)):
        p = path.step((1 - w) * s, s) @ noise @ path.step(t, s) @ p
    x = sample_tokens(network(path), start(path, 20_000), steps=2, corrector=w, mask=mask_of(kind), generator=seeded(1))
    assert p_value(x, p) > 1e-4 > 1e-6 > p_value(x, walked(path, (0.0, 0.5, 1.0)))


def test_the_corrector_goes_back_in_the_time_of_the_schedule():
    seen = []

    def spy(x, t):
        seen.append(t.item())
        return torch.zeros(len(x), 3, K)

    sample_tokens(spy, INTEGERS, steps=2, corrector=0.5, schedule=Polynomial(2.0), generator=seeded(3))
    kappa = [0.0, 0.25 / 2, 0.25, 1 / 2]
    assert seen == pytest.approx([k**0.5 for k in kappa], abs=1e-6)


@pytest.mark.parametrize("schedule", [CondOT(), Cosine()])
def test_events_are_exact_in_as_many_calls_as_positions(schedule):
    path, calls = path_of("mask", schedule=schedule), []

    def spy(x, t):
        hidden = (x == K).sum(1)
        assert t.shape == (len(x),) and hidden.unique().tolist() == [3 - len(calls)]
        calls.append(t)
        return network(path)(x, t)

    x = sample_tokens(spy, start(path, 20_000), schedule=schedule, mask=K, events=True, generator=seeded())
    assert len(calls) == 3 and (calls[0] < calls[1]).all() and (calls[1] < calls[2]).all()
    assert p_value(x, path.law) > 1e-4


def conditional(path: TokenPath, known) -> torch.Tensor:
    """The law given the known tokens, on all words."""
    law = path.law.clone()
    for i, token in enumerate(known):
        if token >= 0:
            others = [k for k in range(law.shape[i]) if k != token]
            law.index_fill_(i, torch.tensor(others), 0.0)
    return law / law.sum()


def test_infilling_from_a_mask_is_the_conditional_law():
    path, known = path_of("mask"), (-1, 1, -1)
    given = torch.tensor(known).expand(20_000, 3)
    options = {"mask": K, "known": given, "generator": seeded()}
    x = sample_tokens(network(path), start(path, 20_000), events=True, **options)
    assert p_value(x, conditional(path, known)) > 1e-4
    apart = []  # in parallel steps 1/n of the law is that of two free positions, independent given the known one
    for n in (1, 4):
        x = sample_tokens(network(path), start(path, 20_000), steps=n, **options)
        law = conditional(path, known)[:, 1]
        alone = torch.outer(law.sum(1), law.sum(0))
        mixed = torch.zeros_like(path.law)
        mixed[:, 1] = (1 - 1 / n) * law + alone / n
        assert p_value(x, mixed) > 1e-4
        apart.append((mixed - conditional(path, known)).abs().sum())
    assert apart[0] == pytest.approx(4 * apart[1].item())


def test_infilling_from_a_uniform_source_warns_and_does_not_converge():
    path, known = path_of("uniform", 2), torch.tensor([[-1, 1]]).expand(20_000, 2)
    with pytest.warns(UserWarning, match="never converges"):
        x = sample_tokens(network(path), start(path, 20_000), steps=64, known=known, generator=seeded())
    assert (x[:, 1] == 1).all() and p_value(x, conditional(path, (-1, 1))) < 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_tokens(network(path_of("mask", 2)), torch.full((1, 2), K), steps=1, mask=K, known=known[:1])


@pytest.mark.parametrize("corrector", [0.0, 0.3])
def test_what_is_known_stays_with_a_corrector_too(corrector):
    path = path_of("mask")
    known = torch.where(torch.rand(500, 3, generator=seeded()) < 0.5, torch.randint(K, (500, 3)), -1)
    x = sample_tokens(network(path), start(path, 500), steps=5, mask=K, known=known, corrector=corrector)
    assert torch.equal(x[known >= 0], known[known >= 0]) and not (x == K).any()


@pytest.mark.parametrize("kind", ["mask", "uniform"])
def test_only_rows_with_a_redraw_call_the_network_and_conditions_follow_them(kind):
    n, steps = 50, 40
    vocabulary = n + 2
    rows, x_0 = [], torch.full((n, 2), vocabulary - 1)
    tag = torch.arange(n)
    known = torch.stack([tag, torch.full((n,), -1)], 1)  # a row says which one it is

    def spy(x, t, label, scale, table):
        assert torch.equal(x[:, 0], label) and scale == 2.0 and len(table) == 3
        rows.append(len(x))
        return torch.nn.functional.one_hot(label, vocabulary)[:, None].expand(-1, 2, -1) * 100.0

    options = {"steps": steps, "known": known, "mask": vocabulary - 1 if kind == "mask" else None}
    options |= {"label": tag, "scale": 2.0, "table": torch.zeros(3), "generator": seeded()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = sample_tokens(spy, x_0, **options)
    assert torch.equal(x, torch.stack([tag, tag], 1))
    if kind == "mask":
        assert sum(rows) == n  # each leaves the mask once
    else:
        expected = n * sum(1 / k for k in range(1, steps + 1))  # P(redrawn in step k) = 1 / (steps - k)
        assert abs(sum(rows) - expected) < 4 * expected**0.5 and max(rows) == n


def test_a_redraw_from_a_mask_never_gives_the_mask_and_spares_what_is_there():
    x_0 = torch.tensor([[2, 0, 2, 1]]).expand(300, 4)
    x = sample_tokens(lambda x, t: torch.tensor([0.0, 0.0, 9.0]).expand(*x.shape, 3), x_0, steps=3, mask=2)
    assert not (x == 2).any() and (x[:, 1] == 0).all() and (x[:, 3] == 1).all()
    assert torch.equal(x_0, torch.tensor([[2, 0, 2, 1]]).expand(300, 4))


def coarse_uniform(shape, generator, bits=11):
    return torch.randint(2**bits, shape, generator=generator).double() / 2**bits


def test_coarse_random_numbers_spoil_one_draw_for_whether_and_what_but_not_two(monkeypatch):
    """The Gumbel trap: p/n is below the grid of u. All p here are multiples of the grid, so two draws lose nothing."""
    n, steps = 20_000, 64
    p = torch.tensor([2.0**-k for k in (1, 2, 3, 4, 5, 6, 7, 7)], dtype=F64)
    # Wrong: stay and the tokens share one draw, the largest of log probability - log(-log u)
    generator, x = seeded(), torch.full((n,), 8)
    for k in range(steps):
        share = 1 / (steps - k)
        joint = torch.cat([share * p, torch.tensor([1 - share], dtype=F64)])
        gumbel = -(-coarse_uniform((n, 9), generator).log()).log()
        x = torch.where(x == 8, (joint.log() + gumbel).argmax(1), x)
    assert not (x == 8).any()
    assert chisquare(torch.bincount(x, minlength=8), n * p).pvalue < 1e-6

    logits = torch.cat([p.log(), torch.tensor([-math.inf], dtype=F64)])
    monkeypatch.setattr(tokens, "_uniform", lambda like, shape, generator: coarse_uniform(shape, generator))
    x = sample_tokens(
        lambda x, t: logits.expand(*x.shape, 9), torch.full((n, 1), 8), steps=steps, mask=8, generator=seeded()
    )
    assert chisquare(torch.bincount(x[:, 0], minlength=8), n * p).pvalue > 1e-4


def test_tokens_of_a_large_vocabulary_in_float32():
    """Zipf's law on 5,000 tokens in many steps keeps its entropy and its rare half."""
    n, size = 20_000, 5000
    p = 1 / torch.arange(1, size + 1, dtype=F64)
    p /= p.sum()
    logits = torch.cat([p.log(), torch.tensor([0.0], dtype=F64)]).float()
    x = sample_tokens(
        lambda x, t: logits.expand(*x.shape, size + 1), torch.full((n, 1), size), steps=256, mask=size,
        generator=seeded(),
    )[:, 0]  # fmt: skip
    for cut in (10, 100, 1000, 4000):
        share, expected = (x >= cut).double().mean().item(), p[cut:].sum().item()
        assert abs(share - expected) < 4 * (expected * (1 - expected) / n) ** 0.5


@pytest.mark.parametrize("kind, size", [(torch.uint8, 256), (torch.int8, 128), (torch.int16, 300)])
def test_a_vocabulary_that_just_fits_in_the_format_is_drawn(kind, size):
    """The last token comes out as itself, and not as what is left of it in fewer bits."""
    last = lambda x, t: torch.nn.functional.one_hot(torch.full(x.shape, size - 1), size) * 99.0  # noqa: E731
    assert sample_tokens(last, torch.zeros(1, 3, dtype=kind), steps=1).tolist() == [[size - 1] * 3]


def test_draws_come_from_the_generator_alone():
    path = path_of("mask")
    state = torch.get_rng_state()
    draw = [sample_tokens(network(path), start(path, 50), steps=5, mask=K, generator=seeded(s)) for s in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])


def test_formats_follow_the_tokens_and_no_graph_is_kept():
    model = TokenMLP(3, K + 1)
    x = sample_tokens(model, torch.full((4, 3), K, dtype=torch.int32), steps=3, mask=K)
    assert x.dtype == torch.int32 and x.shape == (4, 3) and not x.is_inference()
    none_left = sample_tokens(model, x, steps=3, mask=K)
    assert torch.equal(none_left, x) and none_left is not x
    assert not token_bound(model, x, mask=K).requires_grad


def flat(*shape):
    """A network of equal logits."""
    return lambda x, t, **condition: torch.zeros(*x.shape, *shape)


def spoilt(value):
    return lambda x, t: torch.tensor([0.0, 0.0, value]).expand(*x.shape, 3)


class Falling(Schedule):
    """alpha overshoots, and falls back to 1."""

    def alpha(self, t):
        return t + torch.sin(math.pi * t)

    def sigma(self, t):
        return 1 - t


MASKED = torch.full((2, 3), 2)
BYTES = torch.zeros(2, 3, dtype=torch.uint8)
ONCE = {"steps": 2, "mask": 2}


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda: sample_tokens(flat(3), MASKED.float(), **ONCE), TypeError, "x_0 must hold tokens"),
        (lambda: sample_tokens(flat(3), MASKED[0], **ONCE), ValueError, "positions"),
        (lambda: sample_tokens(flat(3), [[2]], **ONCE), TypeError, "torch.Tensor"),
        (lambda: sample_tokens(flat(3), MASKED + 1, steps=2), ValueError, r"x_0 must hold tokens in \[0, 3\), got 3"),
        (lambda: sample_tokens(flat(3), -MASKED, steps=2), ValueError, "x_0 must hold tokens"),
        (lambda: sample_tokens(flat(300), BYTES, steps=1), TypeError, "x_0 must have a dtype that holds the token 299"),
        (lambda: sample_tokens(flat(200), BYTES.char(), steps=1), TypeError, "holds the token 199, got torch.int8"),
        (lambda: sample_tokens(flat(301), BYTES, steps=1, mask=300), TypeError, "holds the token 300"),
        (
            lambda: sample_tokens(flat(3), BYTES, known=BYTES, **ONCE),
            TypeError,
            "known must have a dtype that holds -1",
        ),
        (lambda: sample_tokens(flat(3), BYTES.to(torch.uint16), steps=1), TypeError, "got torch.uint16: take x_0.long"),
        (lambda: sample_tokens(flat(3), MASKED, schedule=Cosine, **ONCE), TypeError, "schedule must be a schedule"),
        (lambda: sample_tokens(flat(3), MASKED, schedule="cosine", **ONCE), TypeError, "schedule must be a schedule"),
        (lambda: sample_tokens(flat(3), MASKED, generator=0, **ONCE), TypeError, "generator must be a torch.Generator"),
        (lambda: token_bound(flat(300), BYTES, source=torch.ones(300) / 300), TypeError, "x_1 must have a dtype"),
        (lambda: token_bound(flat(301), BYTES, mask=300), TypeError, "x_1 must have a dtype that holds the token 300"),
        (lambda: times_of(CondOT(), torch.tensor([math.nan])), ValueError, r"kappa must lie in \[0, 1\], got nan"),
        (lambda: times_of(CondOT(), torch.tensor([0.5, 1.5])), ValueError, r"kappa must lie in \[0, 1\], got 1.5"),
        (lambda: times_of(CondOT(), torch.tensor([1])), TypeError, "kappa must have a floating dtype"),
        (lambda: times_of(CondOT(), 0.5), TypeError, "kappa must be a torch.Tensor, got float"),
        (lambda: times_of("cosine", torch.tensor([0.5])), TypeError, "schedule must be a schedule"),
        (lambda: sample_tokens(flat(2), MASKED, **ONCE), ValueError, r"mask must be a token .* \[0, 2\), got 2"),
        (lambda: sample_tokens(flat(3), MASKED, steps=2, mask=-1), ValueError, "mask"),
        (lambda: sample_tokens(flat(3), MASKED, steps=2, mask=2.0), TypeError, "mask"),
        (lambda: sample_tokens(None, MASKED, **ONCE), TypeError, "callable"),
        (lambda: sample_tokens(lambda x, t: None, MASKED, **ONCE), TypeError, "logits must be a tensor"),
        (lambda: sample_tokens(lambda x, t: x[..., None], MASKED, **ONCE), TypeError, "floating"),
        (lambda: sample_tokens(lambda x, t: torch.zeros(2, 3), MASKED, **ONCE), ValueError, "vocabulary"),
        (lambda: sample_tokens(lambda x, t: torch.zeros(1, 3, 3), MASKED, steps=1, mask=2), ValueError, "vocabulary"),
        (lambda: sample_tokens(spoilt(math.nan), INTEGERS, steps=1), ValueError, "NaN or"),
        (lambda: sample_tokens(spoilt(math.inf), INTEGERS, steps=1), ValueError, "NaN or"),
        (lambda: sample_tokens(lambda x, t: flat(3)(x, t) - math.inf, INTEGERS, steps=1), ValueError, "-inf for every"),
        (lambda: sample_tokens(flat(1), INTEGERS, steps=1, mask=0), ValueError, "-inf for every"),
        (lambda: sample_tokens(flat(3), MASKED, mask=2), ValueError, "steps"),
        (lambda: sample_tokens(flat(3), MASKED, steps=0, mask=2), ValueError, "steps"),
        (lambda: sample_tokens(flat(3), MASKED, steps=torch.tensor([0.0, 2.0]), mask=2), ValueError, "steps"),
        (lambda: sample_tokens(flat(3), MASKED, corrector=1.0, **ONCE), ValueError, "corrector"),
        (lambda: sample_tokens(flat(3), MASKED, corrector=True, **ONCE), ValueError, "corrector"),
        (lambda: sample_tokens(flat(3), MASKED, events=True), ValueError, "events=True needs a mask"),
        (lambda: sample_tokens(flat(3), MASKED, events=True, mask=2, corrector=0.1), ValueError, "corrector"),
        (lambda: sample_tokens(flat(3), MASKED, known=MASKED, **ONCE), ValueError, "known must be -1"),
        (lambda: sample_tokens(flat(3), MASKED, known=-MASKED, **ONCE), ValueError, "known must hold tokens, and -1"),
        (lambda: sample_tokens(flat(3), MASKED, known=MASKED.float(), **ONCE), TypeError, "known must hold tokens"),
        (lambda: sample_tokens(flat(3), MASKED, known=MASKED[:1], **ONCE), ValueError, "one shape"),
        (
            lambda: sample_tokens(flat(3), MASKED, known=torch.tensor([[-1, -1, 7]] * 2), **ONCE),
            ValueError,
            "known must hold tokens in",
        ),
        (lambda: sample_tokens(flat(3), MASKED, schedule=Falling(), **ONCE), ValueError, "negative"),
        (lambda: token_bound(flat(3), INTEGERS), ValueError, "either"),
        (lambda: token_bound(flat(3), INTEGERS, mask=2, source=torch.ones(3) / 3), ValueError, "either"),
        (lambda: token_bound(flat(3), MASKED, mask=2), ValueError, "no mask"),
        (lambda: token_bound(flat(2), INTEGERS, mask=2), ValueError, "mask must be a token"),
        (lambda: token_bound(flat(3), INTEGERS + 3, mask=2), ValueError, "x_1 must hold tokens"),
        (lambda: token_bound(flat(3), INTEGERS.float(), mask=2), TypeError, "x_1 must hold tokens"),
        (lambda: token_bound(flat(3), INTEGERS, source=torch.ones(2) / 2), ValueError, "source"),
        (lambda: token_bound(flat(3), INTEGERS, source=torch.ones(3)), ValueError, "source"),
        (lambda: token_bound(flat(3), INTEGERS, mask=2, times=0), ValueError, "times"),
        (lambda: token_bound(spoilt(math.nan), INTEGERS, source=torch.ones(3) / 3), ValueError, "NaN"),
        (lambda: token_bound(lambda x, t: flat(3)(x, t) - math.inf, INTEGERS, mask=2), ValueError, "NaN"),
        (lambda: TokenMLP(3, 4)(torch.full((1, 3), 4), 0.5), ValueError, "x must hold tokens"),
        (lambda: TokenMLP(3, 4)(torch.zeros(1, 3), 0.5), TypeError, "x must hold tokens"),
        (lambda: TokenMLP(3, 4)(torch.zeros(1, 2, dtype=torch.int64), 0.5), ValueError, "shape"),
        (lambda: TokenMLP(3, 4)(INTEGERS, 0.5, label=torch.zeros(2, dtype=torch.int64)), ValueError, "label"),
        (lambda: TokenMLP(3, 1), ValueError, "vocabulary"),
        (lambda: TokenMLP(0, 3), ValueError, "length"),
    ],
)
def test_bad_input_of_sampling_and_networks(call, kind, message):
    with pytest.raises(kind, match=message) as error:
        call()
    assert one_sentence(error)


# The bound


@every_schedule
def test_times_of_inverts_the_schedule(schedule):
    t = torch.linspace(0, 1, 9, dtype=F64)
    torch.testing.assert_close(times_of(schedule, schedule.alpha(t)), t, atol=1e-7, rtol=0)


def mean_of(bound: torch.Tensor) -> tuple[float, float]:
    """The mean over rows and its standard error."""
    return bound.double().mean().item(), bound.double().std().item() / len(bound) ** 0.5


@pytest.mark.parametrize("schedule", [CondOT(), Cosine()])
def test_with_a_mask_the_bound_is_tight(schedule):
    path = path_of("mask", schedule=schedule)
    words = torch.cartesian_prod(*[torch.arange(K)] * 3)
    x_1 = words[torch.multinomial(table(3).flatten(), 20_000, replacement=True, generator=seeded())]
    found, error = mean_of(token_bound(network(path), x_1, mask=K, schedule=schedule, times=3, generator=seeded()))
    assert abs(found - path.entropy().item()) < 4 * error < 0.2
    word = words[5:6].expand(20_000, 3)  # row by row, too: the chain rule holds in every order
    found, error = mean_of(token_bound(network(path), word, mask=K, schedule=schedule, times=3, generator=seeded()))
    assert abs(found + table(3).flatten()[5].log().item()) < 4 * error < 0.2
    tempered = token_bound(lambda x, t: 0.5 * network(path)(x, t), x_1, mask=K, schedule=schedule, times=3)
    assert mean_of(tempered)[0] > path.entropy().item() + 4 * error  # of another law it lies above


def test_with_a_mask_a_network_that_knows_nothing_of_it_is_bounded_as_it_is_sampled():
    """It looks at no token, not at what is revealed either, and would draw the mask: neither enters."""
    logits = torch.tensor([0.5, -1.0, 0.0, 4.0], dtype=F64)
    x_1 = torch.tensor([[0, 1, 1]]).expand(20_000, 3)
    found, error = mean_of(token_bound(lambda x, t: logits.expand(*x.shape, 4), x_1, mask=3, times=4))
    p = logits[:3].softmax(0)
    assert abs(found + (p[0] * p[1] * p[1]).log().item()) < 4 * error < 0.1


@pytest.mark.parametrize("size", [2, 3, 10])
def test_from_a_uniform_source_the_gap_has_a_closed_form(size):
    law = torch.full((size,), 1 / size, dtype=F64)
    path, x_1 = TokenPath(law, law), torch.randint(size, (20_000, 1), generator=seeded())
    found, error = mean_of(token_bound(network(path), x_1, source=law, times=40, generator=seeded()))
    gap = (size - 1 - math.log(size)) / size
    assert abs(found - math.log(size) - gap) < 4 * error < gap / 2


# The network


def test_a_token_network_looks_at_place_token_time_and_label_row_by_row():
    model = TokenMLP(3, 4, width=8, blocks=2, classes=5).double()
    for i, p in enumerate(model.parameters()):
        p.data.copy_(0.3 * normal(*p.shape, seed=i))
    x, label = torch.tensor([[0, 1, 2], [1, 0, 2], [3, 3, 3]]), torch.tensor([0, 4, 1])
    value = model(x, torch.tensor([0.1, 0.5, 0.9], dtype=F64), label=label)
    assert value.shape == (3, 3, 4) and value.dtype == F64
    torch.testing.assert_close(model(x[1:2], 0.5, label=label[1:2]), value[1:2])
    for other in (
        model(x[:, [1, 0, 2]], 0.5, label=label),
        model(x, 0.6, label=label),
        model(x, 0.5, label=(label + 1) % 5),
    ):
        assert not torch.allclose(other[0], model(x, 0.5, label=label)[0])
    held = TokenMLP(3, 4)
    before = held(x, 0.5)
    held.gain.bias.data += torch.tensor([1.0, 2.0, 3.0, 4.0])  # of the token that is there, and of no other
    torch.testing.assert_close(held(x, 0.5) - before, torch.nn.functional.one_hot(x, 4) * (x + 1.0)[..., None])


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_two_letters_that_always_agree_differ_in_a_share_of_one_over_2n(n):
    """The law of n parallel steps from masks is (1 - 1/n) q + (1/n) q_1 x q_2, also where q has zeros: a word that
    cannot be, once revealed, stays."""
    law = torch.zeros(3, 3, dtype=F64)
    law[0, 0] = law[1, 1] = 0.5
    path, p = TokenPath(law, torch.eye(3, dtype=F64)[2]), torch.eye(9, dtype=F64)[8]
    for k in range(n):
        p = path.step(k / n, (k + 1) / n) @ p
    expected = (1 - 1 / n) * law + torch.outer(law.sum(1), law.sum(0)) / n
    torch.testing.assert_close(p.reshape(3, 3), expected, atol=1e-12, rtol=0)
    x = sample_tokens(
        lambda x, t: path.posterior(x, t).log(), torch.full((40_000, 2), 2), steps=n, mask=2, generator=seeded()
    )
    differ = (x[:, 0] != x[:, 1]).double().mean().item()
    assert abs(differ - 1 / (2 * n)) < 4 * (1 / (2 * n) / 40_000) ** 0.5
