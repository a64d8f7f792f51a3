"""The exercises of notebook 10 that ask for code: what is said of a wrong answer does not hang on how it is written."""

import numpy as np
import pytest
import torch
from helpers import answer_of
from scipy.stats import multivariate_normal

from fmlib.exercises import inverse

_J = "torch.einsum('bij,bi->bj', J, {})"
_S = "(A @ c @ A.T + s**2 * torch.eye(len(y)))"
_MEANS = f"m + torch.stack([c @ A.T @ torch.linalg.solve({_S}, y - A @ a) for a, c in zip(m, C)])"


@pytest.mark.parametrize(
    "q, source, part",
    [
        (
            inverse.posterior,
            f"lambda w, m, C, A, y, s: torch.cat([w[:, None] / 1.0, {_MEANS}], 1)",
            "weights are still the prior's",
        ),
        (inverse.posterior, "lambda w, m, C, A, y, s: w", "is expected"),
        (
            inverse.pull,
            f"lambda m, J, A, y, s, r2: {_J.format('(y - m @ A.T) / s**2 @ A')}",
            "That is DPS",
        ),
        (
            inverse.pull,
            "lambda m, J, A, y, s, r2: (y - m @ A.T) @ (r2 * A @ A.T + s**2 * torch.eye(len(y))).inverse() @ A",
            "chain rule is missing",
        ),
        (inverse.pull, f"lambda m, J, A, y, s, r2: {_J.format('(y - m @ A.T) @ A * 1.0')}", "divide by the covariance"),
        (inverse.one_twist, "lambda w, b, a, p, q: torch.softmax(w + (a - b) - (p - q), 0)", "exchanged the walks"),
        (inverse.one_twist, "lambda w, b, a, p, q: torch.softmax(a - b + p - q, 0)", "forget the weights so far"),
        (inverse.one_twist, "lambda w, b, a, p, q: w * 1", "expected is"),
    ],
)
def test_a_wrong_answer_is_known_however_it_is_written(q, source, part, capsys):
    assert part in q.check(eval(source)).message


# ---- the truths, against what is known in another way ----------------------------------------------------------------


def test_the_posterior_is_bayes_rule_on_a_grid():
    """In the plane: prior times likelihood on a grid, component by component."""
    weights, means, covariances, A, y, noise = inverse._mixtures(torch.Generator().manual_seed(3))[1]
    side = np.linspace(-12, 12, 961)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    seen = np.exp(-((y.numpy() - grid @ A.numpy().T) ** 2).sum(1) / (2 * noise**2))
    mass, mean = [], []
    for w, mu, sigma in zip(weights.numpy(), means.numpy(), covariances.numpy(), strict=True):
        joint = w * multivariate_normal(mu, sigma).pdf(grid) * seen
        mass.append(joint.sum()), mean.append(joint @ grid / joint.sum())
    made = inverse.posterior.truth(weights, means, covariances, A, y, noise).numpy()
    np.testing.assert_allclose(made[:, 0], np.array(mass) / sum(mass), rtol=1e-4)
    np.testing.assert_allclose(made[:, 1:], np.array(mean), atol=1e-3)


def test_the_pull_is_the_slope_of_scipys_density():
    mean, jacobian, A, y, noise, r2 = inverse._denoised(torch.Generator().manual_seed(3))[2]
    made = inverse.pull.truth(mean, jacobian, A, y, noise, r2)[0].numpy()
    spread = (r2 * A @ A.T).numpy() + noise**2 * np.eye(len(y))

    def log(x):
        return multivariate_normal((A @ (mean[0] + jacobian[0] @ torch.from_numpy(x))).numpy(), spread).logpdf(y)

    for i, unit in enumerate(np.eye(len(made))):
        assert abs(made[i] - (log(1e-5 * unit) - log(-1e-5 * unit)) / 2e-5) < 1e-6 * (1 + abs(made[i]))


# ---- the code with a bug ---------------------------------------------------------------------------------------------


def test_the_bug_is_not_seen_where_the_first_twist_is_one_for_all():
    (log_w, before, *rest), *others = inverse._steps(torch.Generator().manual_seed(3))
    given, right = (answer_of(source) for source in (inverse.one_twist.given, inverse.one_twist.reference))
    torch.testing.assert_close(given(log_w, before, *rest), right(log_w, before, *rest))
    assert (given(*others[0]) - right(*others[0])).abs().max() > 0.01


def test_the_code_as_given_is_open(capsys):
    assert inverse.one_twist.check(answer_of(inverse.one_twist.given)).kind == "not attempted"
