"""Exercises of notebook 10, inverse problems."""

import torch
from torch import Tensor

from fmlib.exercises._questions import Choice, Function, Wrong


def _mixtures(draw: torch.Generator) -> list[tuple]:
    """Mixtures, operators and measurements: first one component on the line, seen with noise as wide as itself."""
    one = torch.ones(1, 1, dtype=torch.float64)
    cases = [(one[0], 0 * one, one[None], 2 * one, 4 * one[0], 1.0)]
    for k, d, m, noise in [(3, 2, 1, 0.4), (2, 4, 3, 0.7), (4, 3, 2, 1.6)]:
        means, A, factor = (
            torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in [(k, d), (m, d), (k, d, d)]
        )
        y = torch.randn(m, generator=draw, dtype=torch.float64)
        weights = torch.rand(k, generator=draw, dtype=torch.float64) + 0.2
        cases.append((weights / weights.sum(), means, factor @ factor.mT + 0.1 * torch.eye(d), A, y, noise))
    return cases


def _posterior(weights: Tensor, means: Tensor, covariances: Tensor, A: Tensor, y: Tensor, noise: float) -> Tensor:
    """By precisions: complete the square of each component times the likelihood."""
    rows = []
    for w, mu, sigma in zip(weights, means, covariances, strict=True):
        before = torch.linalg.inv(sigma)
        after = before + A.T @ A / noise**2
        pull = before @ mu + A.T @ y / noise**2
        mean = torch.linalg.solve(after, pull)
        log = w.log() + (pull @ mean - mu @ before @ mu + torch.logdet(before) - torch.logdet(after)) / 2
        rows.append(torch.cat([log[None], mean]))
    rows = torch.stack(rows)
    return torch.cat([rows[:, :1].softmax(0), rows[:, 1:]], 1)


_KALMAN = """def answer(weights, means, covariances, A, y, noise):
    own = noise**2 * torch.eye(len(y), dtype=y.dtype)
    S = {}
    gain = {}
    moved = {}
    evidence = {}
    log_joint = {}
    return torch.cat([log_joint.softmax(0)[:, None], moved], 1)"""
_S, _GAIN = "A @ covariances @ A.T + own", "covariances @ A.T @ S.inverse()"
_MOVED = "means + (gain @ (y - means @ A.T)[:, :, None])[:, :, 0]"
_EVIDENCE = "torch.distributions.MultivariateNormal(means @ A.T, S).log_prob(y)"
_JOINT = "weights.log() + evidence"

posterior = Function(
    key="inverse.posterior",
    number="10.1",
    task="write",
    question=(
        "Write the posterior of a mixture. `answer(weights, means, covariances, A, y, noise)` gets the components "
        "$w_k$ `(K,)`, $\\mu_k$ `(K, d)`, $\\Sigma_k$ `(K, d, d)`, the operator $A$ `(m, d)`, the measurement $y$ "
        "`(m,)` and the standard deviation $s$ of its noise. Component $k$ predicts $y$ with mean $A\\mu_k$ and "
        "covariance $S_k=A\\Sigma_kA^\\top+s^2I$. Seeing $y$ moves its mean to "
        "$\\mu_k+\\Sigma_kA^\\top S_k^{-1}(y-A\\mu_k)$ and multiplies its weight by $N(y;A\\mu_k,S_k)$. Fill in "
        "$S$, the gain $\\Sigma_kA^\\top S_k^{-1}$, the moved means, "
        "$\\log N(y;A\\mu_k,S_k)$ (`torch.distributions.MultivariateNormal(mean, covariance).log_prob` knows it) and "
        "the log weights up to a constant. Matrices stack: `A @ covariances` has shape `(K, m, d)`. Below, your "
        "function draws a figure."
    ),
    given=_KALMAN.format("____", "____", "____", "____", "____"),
    reference=_KALMAN.format(_S, _GAIN, _MOVED, _EVIDENCE, _JOINT),
    why=(
        "$X_1$ and $Y$ are jointly Gaussian given the component, so $X_1$ given $Y=y$ is Gaussian with the mean "
        "$\\mu_k+\\mathrm{Cov}(X_1,Y)\\,\\mathrm{Var}(Y)^{-1}(y-A\\mu_k)$, which is one step of a Kalman filter. "
        "Bayes' rule on the component multiplies $w_k$ by how well it predicted $y$, with *all* of its spread: "
        "$S_k$, not $s^2$."
    ),
    hints=(
        "`S = A @ covariances @ A.T + own` has shape `(K, m, m)`: one matrix a component.",
        "The gain is `covariances @ A.T @ S.inverse()`, `(K, d, m)`; it multiplies `y - means @ A.T`, `(K, m)`, to "
        "which you give a last axis of length 1 and take it away afterwards.",
        "`log_joint` is the log of $w_kN(y;A\\mu_k,S_k)$; the softmax in the last line divides by the sum.",
    ),
    arguments=("weights", "means", "covariances", "A", "y", "noise"),
    truth=_posterior,
    wrongs=(
        Wrong(
            _KALMAN.format(_S, _GAIN, _MOVED, _EVIDENCE, "weights.log()"),
            "The means are right, but the weights are still the prior's. A component that predicted $y$ badly must "
            "lose weight: multiply $w_k$ by $N(y;A\\mu_k,S_k)$.",
        ),
        Wrong(
            _KALMAN.format(_S, _GAIN, _MOVED, _EVIDENCE, "evidence"),
            "You forget the prior weights $w_k$: this treats all components as equally likely before $y$ came.",
        ),
        Wrong(
            _KALMAN.format(
                _S,
                _GAIN,
                _MOVED,
                "torch.distributions.MultivariateNormal(means @ A.T, own).log_prob(y)",
                _JOINT,
            ),
            "Your weights ask how well the component's *mean* explains $y$, with noise $s$ alone. Its points are "
            "spread by $A\\Sigma_kA^\\top$ as well: use $S_k$.",
        ),
        Wrong(
            _KALMAN.format(
                _S,
                _GAIN,
                _MOVED,
                "torch.distributions.MultivariateNormal(moved @ A.T, S).log_prob(y)",
                _JOINT,
            ),
            "You ask how well the *moved* mean explains $y$. It has seen $y$ already; the weight is about what the "
            "component said before: $A\\mu_k$.",
        ),
        Wrong(
            _KALMAN.format(_S, _GAIN, "means", _EVIDENCE, _JOINT),
            "The weights are right, but the means have not moved.",
        ),
        Wrong(
            _KALMAN.format("A @ covariances @ A.T", _GAIN, _MOVED, _EVIDENCE, _JOINT),
            "The noise of the measurement is missing from $S$: as it stands $y$ is exact, and every mean moves onto "
            "$Ax=y$.",
        ),
        Wrong(
            _KALMAN.format("A @ covariances @ A.T + own / noise", _GAIN, _MOVED, _EVIDENCE, _JOINT),
            "You add $s$ where the variance $s^2$ belongs.",
        ),
        Wrong(
            _KALMAN.format(_S, "covariances @ A.T", _MOVED, _EVIDENCE, _JOINT),
            "The gain lacks $S_k^{-1}$: it must weigh the component's spread against all that blurs $y$.",
        ),
        Wrong(
            _KALMAN.format(_S, "A.T @ S.inverse()", _MOVED, _EVIDENCE, _JOINT),
            "The gain lacks $\\Sigma_k$: a component that is narrow in some direction must not move along it.",
        ),
        Wrong(
            _KALMAN.format(_S, _GAIN, _MOVED.replace("means + ", "means - "), _EVIDENCE, _JOINT),
            "You move the means away from the measurement: a sign.",
        ),
        Wrong(
            _KALMAN.format(_S, _GAIN, _MOVED.replace("means + ", ""), _EVIDENCE, _JOINT),
            "This is by how much the means move. Add it to where they were.",
        ),
        Wrong(
            _KALMAN.format(
                _S, _GAIN, _MOVED.replace("(y - means @ A.T)", "y.expand(len(means), -1)"), _EVIDENCE, _JOINT
            ),
            "You let the means move by the whole of $y$. What is new in it is $y-A\\mu_k$.",
        ),
        Wrong(
            _KALMAN.format(_S, _GAIN, _MOVED, _EVIDENCE + ".exp()", _JOINT),
            "You add a density to a log weight. Keep the log: `log_prob` gives it.",
        ),
    ),
    cases=_mixtures,
    rights=(
        "def answer(w, mu, C, A, y, s):\n    S = torch.einsum('mi,kij,nj->kmn', A, C, A) + s * s * torch.eye(len(y), "
        "dtype=y.dtype)\n    off = y - mu @ A.T\n    z = torch.linalg.solve(S, off)\n    log = w.log() - 0.5 * (off * "
        "z).sum(1) - 0.5 * torch.logdet(S)\n    p = (log - log.max()).exp()\n    mean = mu + torch.einsum("
        "'kij,mj,km->ki', C, A, z)\n    return torch.cat([(p / p.sum())[:, None], mean], 1)",
        "def answer(weights, means, covariances, A, y, noise):\n    P = covariances.inverse()\n    Q = P + A.T @ A / "
        "noise**2\n    mean = torch.linalg.solve(Q, (P @ means[:, :, None])[:, :, 0] + A.T @ y / noise**2)\n    "
        "N = torch.distributions.MultivariateNormal\n    S = A @ covariances @ A.T + noise**2 * torch.eye(len(y))\n    "
        "p = weights * N(means @ A.T, S).log_prob(y).exp()\n    return torch.cat([p[:, None] / p.sum(), mean], 1)",
        "def answer(weights, means, covariances, A, y, noise):\n    rows = []\n    for w, m, C in zip(weights, means, "
        "covariances):\n        S = A @ C @ A.T + noise**2 * torch.eye(len(A), dtype=A.dtype)\n        N = "
        "torch.distributions.MultivariateNormal(A @ m, S)\n        rows.append(torch.cat([w[None] * "
        "N.log_prob(y).exp(), m + C @ A.T @ torch.linalg.solve(S, y - A @ m)]))\n    out = torch.stack(rows)\n    "
        "out[:, 0] /= out[:, 0].sum()\n    return out",
    ),
    other_wrongs=(
        (_KALMAN.format(_S, _GAIN, _MOVED, _EVIDENCE, _JOINT).replace(".softmax(0)", ""), "expected is"),
        ("def answer(weights, means, covariances, A, y, noise):\n    return means", "is expected"),
    ),
)

better_width = Choice(
    key="inverse.better_width",
    number="10.2",
    task="predict",
    question=(
        "All three stand-ins take $p(x_1|x_t)$ for a Gaussian about the right mean $\\hat x_1$. DPS gives it no width, "
        "PiGDM a guessed one, $r_t^2I$; the third is given the *exact* covariance of $X_1$ given $X_t=x$. Follow the "
        "three guided flows, and measure how far the samples are from the true posterior. What comes out?"
    ),
    options={
        "a": (
            "the better the second moment, the nearer: the exact covariance is nearly right, PiGDM in between, DPS "
            "last",
            "That is what a Taylor expansion would promise. But between the modes the law of $X_1$ given $X_t=x$ has "
            "two humps: the right width does not make a Gaussian of it.",
        ),
        "b": ("DPS is last, but the exact covariance is hardly better than the guess", ""),
        "c": (
            "all three are right: they agree with the exact velocity near $t=1$, and that is where samples end",
            "Near $t=1$ they do agree. By then each sample has chosen its mode, and the choice was made in the middle.",
        ),
        "d": (
            "DPS is first: without a width it follows the measurement most closely",
            "It does follow it closely, far more closely than noise $s$ warrants. A sample of the posterior must miss "
            "$y$ by about $s$.",
        ),
    },
    after="Then open the boxes below.",
    why=(
        "Where it matters, between the modes, the law of $X_1$ given $X_t=x$ has several humps. A Gaussian of the "
        "right mean and width says that $y$ is likely *between* them, where nothing is. The guidance then pulls to "
        "the wrong side, or not hard enough, for a good width as for a bad one. What fails is the shape."
    ),
    hints=(
        "Where on the way does a sample choose its mode? What does the law of $X_1$ given $X_t=x$ look like there?",
        "A Gaussian with the right mean and the right covariance: which is wrong for a law with two humps?",
    ),
)


def _denoised(draw: torch.Generator) -> list[tuple]:
    """Means, Jacobians that are not symmetric, operators: first two points in one dimension."""
    column = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    cases = [(column, torch.stack([one, 2 * one]), 2 * one, 4 * one[0], 1.0, 0.5)]
    for n, d, m, noise, r2 in [(20, 2, 1, 0.3, 0.4), (1, 4, 3, 0.5, 2.0), (5, 3, 2, 1.5, 0.1)]:
        mean, jacobian, A = (
            torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in [(n, d), (n, d, d), (m, d)]
        )
        cases.append((mean, jacobian, A, torch.randn(m, generator=draw, dtype=torch.float64), noise, r2))
    return cases


def _gradient(mean: Tensor, jacobian: Tensor, A: Tensor, y: Tensor, noise: float, r2: float) -> Tensor:
    """The gradient of the log density at x = 0 of mean + jacobian x, by autograd."""
    x = torch.zeros_like(mean, requires_grad=True)
    moved = mean + (jacobian @ x[:, :, None])[:, :, 0]
    spread = r2 * A @ A.T + noise**2 * torch.eye(len(y), dtype=y.dtype)
    log = torch.distributions.MultivariateNormal(moved @ A.T, spread).log_prob(y)
    return torch.autograd.grad(log.sum(), x)[0]


_PULL = """def answer(mean, jacobian, A, y, noise, r2):
    spread = {}
    off = {}
    pull = {}
    return {}"""
_SPREAD, _OFF = "r2 * A @ A.T + noise**2 * torch.eye(len(y), dtype=y.dtype)", "y - mean @ A.T"
_SOLVED, _BACK = "off @ spread.inverse() @ A", "torch.einsum('bij,bi->bj', jacobian, pull)"

pull = Function(
    key="inverse.pull",
    number="10.3",
    task="write",
    question=(
        "Write PiGDM's pull without autograd. Given $X_t=x$, take $X_1\\sim N(\\hat x_1,r^2I)$, so that "
        "$Y\\sim N(A\\hat x_1,\\;r^2AA^\\top+s^2I)$. `answer(mean, jacobian, A, y, noise, r2)` gets $\\hat x_1$ "
        "`(batch, d)`, its derivatives $\\partial\\hat x_{1,i}/\\partial x_j$ as `jacobian[:, i, j]`, $A$ `(m, d)`, "
        "$y$ `(m,)`, $s$ and $r^2$, and returns $\\nabla_x\\log N(y;A\\hat x_1(x),r^2AA^\\top+s^2I)$, `(batch, d)`: "
        "first the covariance of $Y$, then the residual, then the gradient in $\\hat x_1$, and last the chain rule. "
        "Below, your function draws a figure."
    ),
    given=_PULL.format("____", "____", "____", "____"),
    reference=_PULL.format(_SPREAD, _OFF, _SOLVED, _BACK),
    why=(
        "The log density is $-\\frac12\\rho^\\top S^{-1}\\rho$ with $\\rho=y-A\\hat x_1$ and "
        "$S=r^2AA^\\top+s^2I$, up to a constant in $x$. Its gradient in $\\hat x_1$ is $A^\\top S^{-1}\\rho$, and the "
        "chain rule multiplies by the transposed Jacobian of $\\hat x_1$. With $r=0$ it is DPS."
    ),
    hints=(
        "`spread` has shape `(m, m)`: $r^2AA^\\top+s^2I$.",
        "The gradient in $\\hat x_1$ is $A^\\top S^{-1}(y-A\\hat x_1)$. With the points as rows: "
        "`off @ spread.inverse() @ A`.",
        "$\\partial/\\partial x_j=\\sum_i(\\partial\\hat x_{1,i}/\\partial x_j)\\,\\partial/\\partial\\hat x_{1,i}$: "
        "sum over the *first* index of the Jacobian.",
    ),
    arguments=("mean", "jacobian", "A", "y", "noise", "r2"),
    truth=_gradient,
    wrongs=(
        Wrong(
            _PULL.format("noise**2 * torch.eye(len(y), dtype=y.dtype)", _OFF, _SOLVED, _BACK),
            "You leave out $r^2AA^\\top$. That is DPS: it takes $\\hat x_1$ for certain.",
        ),
        Wrong(
            _PULL.format("r2 * A @ A.T", _OFF, _SOLVED, _BACK),
            "You leave out the noise $s^2I$. Where $r\\to0$, at the end of the way, the pull then grows without bound.",
        ),
        Wrong(
            _PULL.format("r2**0.5 * A @ A.T + noise**2 * torch.eye(len(y), dtype=y.dtype)", _OFF, _SOLVED, _BACK),
            "`r2` is the variance $r^2$ already: no root of it.",
        ),
        Wrong(
            _PULL.format("r2**2 * A @ A.T + noise**2 * torch.eye(len(y), dtype=y.dtype)", _OFF, _SOLVED, _BACK),
            "`r2` is the variance $r^2$ already: do not square it again.",
        ),
        Wrong(
            _PULL.format("r2 * A @ A.T + noise * torch.eye(len(y), dtype=y.dtype)", _OFF, _SOLVED, _BACK),
            "You add $s$ where the variance $s^2$ belongs.",
        ),
        Wrong(
            _PULL.format("(r2 + noise**2) * torch.eye(len(y), dtype=y.dtype)", _OFF, _SOLVED, _BACK),
            "The width $r^2I$ is that of $X_1$. Seen through $A$ it becomes $r^2AA^\\top$.",
        ),
        Wrong(
            _PULL.format(_SPREAD, "mean @ A.T - y", _SOLVED, _BACK),
            "A sign: this pushes away from the measurement. The residual is $y-A\\hat x_1$.",
        ),
        Wrong(
            _PULL.format(_SPREAD, _OFF, "off @ A", _BACK),
            "You forget to divide by the covariance of $Y$. The residual counts in units of what blurs it: "
            "$S^{-1}(y-A\\hat x_1)$.",
        ),
        Wrong(
            _PULL.format(_SPREAD, _OFF, "off @ spread @ A", _BACK),
            "You multiply by the covariance of $Y$ where you must divide: $S^{-1}$.",
        ),
        Wrong(
            _PULL.format(_SPREAD, _OFF, _SOLVED, "pull"),
            "This is the gradient in $\\hat x_1$. You were asked for the one in $x$: the chain rule is missing.",
        ),
        Wrong(
            _PULL.format(_SPREAD, _OFF, _SOLVED, "torch.einsum('bij,bj->bi', jacobian, pull)"),
            "The Jacobian must be transposed: sum over its first index, that of $\\hat x_1$. "
            "(Of the exact $\\hat x_1$ it is symmetric, and you would not notice; a network's is not.)",
        ),
        Wrong(
            _PULL.format(_SPREAD, _OFF, "off @ torch.linalg.cholesky(spread).inverse() @ A", _BACK),
            "You divide by a root of the covariance only, as if you wanted to whiten. The gradient needs $S^{-1}$.",
        ),
        Wrong(
            _PULL.format(_SPREAD, _OFF, "2 * off @ spread.inverse() @ A", _BACK),
            "Twice too strong: the log density has a factor $\\frac12$, which the square's derivative uses up.",
        ),
    ),
    cases=_denoised,
    rights=(
        _PULL.format(_SPREAD, _OFF, "torch.linalg.solve(spread, off.T).T @ A", "(pull[:, None] @ jacobian)[:, 0]"),
        "def answer(mean, jacobian, A, y, noise, r2):\n    S = noise**2 * torch.eye(len(A)) + r2 * A @ A.T\n    "
        "x = torch.zeros_like(mean, requires_grad=True)\n    m = mean + torch.einsum('bij,bj->bi', jacobian, x)\n    "
        "rho = y - m @ A.T\n    log = -((rho @ torch.inverse(S)) * rho).sum() / 2\n    "
        "return torch.autograd.grad(log, x)[0]",
        "def answer(mean, jacobian, A, y, s, r2):\n    out = []\n    S = r2 * A.mm(A.T) + s * s * torch.eye(len(y), "
        "dtype=y.dtype)\n    for m, J in zip(mean, jacobian):\n        out.append(J.T @ A.T @ torch.linalg.solve(S, y "
        "- A @ m))\n    return torch.stack(out)",
    ),
    other_wrongs=(
        (_PULL.format(_SPREAD, _OFF, "off", "pull"), "expected"),
        (_PULL.format(_SPREAD, "0 * y + 1 - mean @ A.T", _SOLVED, _BACK), "expected is"),
    ),
)


def _steps(draw: torch.Generator) -> list[tuple]:
    """Logs of old weights, of the twist before and after a step, and of the step under both walks."""
    first = torch.zeros(3, dtype=torch.float64)
    cases = [(first, first + 1, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), first, first)]
    for n in (50, 2, 7):
        cases.append(tuple(torch.randn(5, n, generator=draw, dtype=torch.float64).unbind()))
    return cases


_WEIGH = """def answer(log_w, before, after, log_p, log_r):
    log_w = {}
    w = (log_w - log_w.max()).exp()
    return {}"""
_SHARE = "w / w.sum()"

one_twist = Function(
    key="inverse.one_twist",
    number="10.4",
    task="find the bug",
    question=(
        "This is the weight of each particle after one step. `log_w` holds the logs of the weights so far, all of "
        "shape `(n,)`; `before` and `after` are $\\log h_t(x_t)$ and $\\log h_{t'}(x_{t'})$, the twist at both ends of "
        "the step; `log_p` and `log_r` are the log-densities of the step under the free walk and under the guided "
        "one. The code is right for the first step, as long as the twist is the same for all particles at $t=0$. After "
        "fifty steps, only a few percent of the particles have any weight to speak of. Mend it."
    ),
    given=_WEIGH.format("log_w + after + log_p - log_r", _SHARE),
    reference=_WEIGH.format("log_w + after - before + log_p - log_r", _SHARE),
    why=(
        "After $k$ steps the weight must be $h_{t_k}(x_{t_k})\\prod p/r$: one twist, the latest. As written it is the "
        "product of *all* twists on the way, so the same measurement counts $k$ times, as if its noise were "
        "$\\sqrt k$ times smaller. Divide by the twist that came in a step before: the product telescopes."
    ),
    hints=(
        "Which weight should a particle have after two steps, if guided and free walk were the same? Which has it?",
        "How often has the measurement been counted after $k$ steps?",
        "`before` is an argument that nobody uses.",
    ),
    arguments=("log_w", "before", "after", "log_p", "log_r"),
    truth=lambda log_w, before, after, log_p, log_r: torch.softmax(log_w + (after - before) + (log_p - log_r), 0),
    wrongs=(
        Wrong(
            _WEIGH.format("log_w + after + before + log_p - log_r", _SHARE),
            "Now the old twist counts twice. It has come in a step before: take it out again.",
        ),
        Wrong(
            _WEIGH.format("log_w + before - after + log_p - log_r", _SHARE),
            "The two twists are exchanged: you divide by the new one.",
        ),
        Wrong(
            _WEIGH.format("log_w + after - before + log_r - log_p", _SHARE),
            "The twists are right now, but you have exchanged the walks. A step that the guided walk makes too often "
            "must lose weight: $p/r$.",
        ),
        Wrong(
            _WEIGH.format("after - before + log_p - log_r", _SHARE),
            "Now you forget the weights so far. Between two resamplings they multiply.",
        ),
        Wrong(
            _WEIGH.format("after + log_p - log_r", _SHARE),
            "This forgets the old twist by forgetting all that came before, $p/r$ of the earlier steps too. Keep "
            "`log_w`, and divide by the old twist.",
        ),
        Wrong(
            _WEIGH.format("log_w + after - before", _SHARE),
            "The twists are right now, but the particle came by the guided walk: without $p/r$ the push that it got is "
            "never paid for.",
        ),
        Wrong(
            _WEIGH.format("log_w + log_p - log_r", _SHARE),
            "Without any twist nothing is left of the measurement but the push, and $p/r$ undoes that: these particles "
            "follow the prior.",
        ),
        Wrong(
            _WEIGH.format("log_w - before + log_p - log_r", _SHARE),
            "You take out the old twist and put in no new one.",
        ),
        Wrong(
            _WEIGH.format("log_w + after - before + log_p - log_r", "w"),
            "The twist is right now. But you took away the normalisation: weights must sum to one.",
        ),
    ),
    cases=_steps,
    rights=(
        "def answer(log_w, before, after, log_p, log_r):\n    return torch.softmax(log_w + after - before + log_p - "
        "log_r, 0)",
        "def answer(log_w, before, after, log_p, log_r):\n    log_w = log_w - before + log_p\n    log_w = log_w + "
        "after - log_r\n    return (log_w - log_w.logsumexp(0)).exp()",
        "def answer(a, b, c, d, e):\n    w = a.exp() * c.exp() / b.exp() * (d - e).exp()\n    return w / sum(w)",
    ),
    other_wrongs=(
        (_WEIGH.format("log_w + after - before + log_p - log_r", "w.sum()"), "is expected"),
        (_WEIGH.format("(log_w + after - before + log_p - log_r) / 2", _SHARE), "expected is"),
    ),
)

source_law = Choice(
    key="inverse.source_law",
    number="10.5",
    task="predict",
    question=(
        "Draw 600 starts $x_0\\sim N(0,I)$. Optimise each of them for itself: 100 steps of Adam on "
        "$\\|y-A\\,\\psi_1(x_0)\\|^2/(2s^2)$, with the exact flow $\\psi_1$ of the prior. Which law do the 600 end "
        "points $\\psi_1(x_0)$ have?"
    ),
    options={
        "a": (
            "the posterior: the flow keeps the samples plausible, the loss makes them fit",
            "Both are true, and neither is Bayes' rule. Nothing weighs how plausible against how fitting, nor lets a "
            "start change sides because the other mode explains $y$ better.",
        ),
        "b": (
            "nearly all are at one point, the most likely one",
            "There is no pull to the most likely point: every $x$ with $Ax=y$ has the loss zero, and a start stops at "
            "the first such $x$ on its way.",
        ),
        "c": ("none of these: a line-up on $Ax=y$, spread along it, with too little weight on the main mode", ""),
        "d": (
            "the prior: an optimiser that starts at random forgets nothing",
            "It would be, without any step. Afterwards all points fit the measurement, which few samples of the prior "
            "do.",
        ),
    },
    after="Then open the box.",
    why=(
        "An optimiser has no noise to balance against: it drives the residual to zero, where the posterior keeps it at "
        "about $s$. And each start goes to a nearby solution, so the modes get shares by where the starts lay, which "
        "nobody weighed with how well each mode explains $y$."
    ),
    hints=(
        "What does the optimiser do with a residual of the size $s$ that noise explains perfectly well?",
        "Which mode does a start end in, and does that depend on the evidence for the mode?",
    ),
)
