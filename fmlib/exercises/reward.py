"""Exercises of notebook 11, reward fine-tuning."""

from collections.abc import Callable

import torch
from torch import Tensor

from fmlib.exercises._questions import Choice, Function, Wrong


def _mixtures(draw: torch.Generator) -> list[tuple]:
    cases = []
    for k, d in [(3, 2), (2, 1), (5, 3)]:
        weights = torch.rand(k, generator=draw, dtype=torch.float64) + 0.1
        root = 0.6 * torch.randn(k, d, d, generator=draw, dtype=torch.float64)
        means = torch.randn(k, d, generator=draw, dtype=torch.float64)
        slope = torch.randn(d, generator=draw, dtype=torch.float64)
        cases.append((weights / weights.sum(), means, root @ root.mT + 0.2 * torch.eye(d), slope))
    return cases


def _tilted(weights: Tensor, means: Tensor, covariances: Tensor, slope: Tensor) -> Tensor:
    logs = [
        w.log() + slope @ mean + slope @ covariance @ slope / 2
        for w, mean, covariance in zip(weights, means, covariances, strict=True)
    ]
    return torch.stack(logs).softmax(0)


_WEIGHTS = """def answer(weights, means, covariances, slope):
    at_mean = means @ slope
    spread = torch.einsum("i,kij,j->k", slope, covariances, slope)
    raised = {}
    return raised / raised.sum()"""
_TILTED = _WEIGHTS.format("weights * torch.exp(at_mean + spread / 2)")

tilted_weights = Function(
    key="reward.tilted_weights",
    number="11.1",
    task="write",
    question=(
        "Find the new weights. Of component $k$ the tilt makes $w_k\\,N(x;\\mu_k,\\Sigma_k)\\,e^{\\ell\\cdot x}$, "
        "whose mass is $w_k\\,\\mathbb E\\,e^{\\ell\\cdot X}$ for $X\\sim N(\\mu_k,\\Sigma_k)$: the mean of $e^Y$ for "
        "a Gaussian $Y=\\ell\\cdot X$, and for $Y\\sim N(a,v)$ this is $e^{a+v/2}$. `answer(weights, means, "
        "covariances, slope)` gets shapes `(K,)`, `(K, d)`, `(K, d, d)` and `(d,)`, and returns the weights of the "
        "tilted law, `(K,)`, which sum to 1."
    ),
    given="""def answer(weights, means, covariances, slope):
    at_mean = ____
    spread = ____
    raised = ____
    return ____""",
    reference=_TILTED,
    why=(
        "$Y=\\ell\\cdot X$ has the mean $\\ell\\cdot\\mu_k$ and the variance $\\ell^\\top\\Sigma_k\\ell$, so the mass "
        "is $w_k\\,e^{\\ell\\cdot\\mu_k+\\ell^\\top\\Sigma_k\\ell/2}$, and their sum is $Z$. A wide component gains "
        "more than a narrow one at the same place: it has more samples far up the slope."
    ),
    hints=(
        "What are the mean and the variance of $\\ell\\cdot X$ for $X\\sim N(\\mu_k,\\Sigma_k)$?",
        "`means @ slope` has all $\\ell\\cdot\\mu_k$, and `slope @ covariances @ slope` all "
        "$\\ell^\\top\\Sigma_k\\ell$.",
        "Multiply each weight by $e^{\\ell\\cdot\\mu_k+\\ell^\\top\\Sigma_k\\ell/2}$, and divide by the sum.",
    ),
    arguments=("weights", "means", "covariances", "slope"),
    truth=_tilted,
    cases=_mixtures,
    wrongs=(
        Wrong(
            _WEIGHTS.format("weights * torch.exp(at_mean)"),
            "This is the reward at the mean of each component. It forgets the spread: the mean of $e^Y$ is more than "
            "$e$ to the mean of $Y$.",
        ),
        Wrong(
            _WEIGHTS.format("weights * torch.exp(at_mean + spread)"),
            "This is $e$ to the reward at the *moved* mean. The mean of $e^Y$ has half the variance in the exponent.",
        ),
        Wrong(
            _WEIGHTS.format("torch.exp(at_mean + spread / 2)"),
            "The old weights are lost: a component starts with the share $w_k$.",
        ),
        Wrong(
            _WEIGHTS.format("weights"),
            "The weights do not change here. The tilt does not only move the components: it favours those that are "
            "rewarded.",
        ),
        Wrong(
            _WEIGHTS.format("weights * torch.exp(-at_mean + spread / 2)"),
            "A sign is wrong: the components with the larger reward must gain.",
        ),
        Wrong(
            _WEIGHTS.format("weights * torch.exp(at_mean - spread / 2)"),
            "A sign is wrong: spread helps, since the exponential gains more uphill than it loses downhill.",
        ),
        Wrong(
            _WEIGHTS.format("weights * torch.exp(spread / 2)"),
            "Only the spread counts here. Where is the reward at the mean?",
        ),
        Wrong(
            _TILTED.replace("raised / raised.sum()", "raised"),
            "These are $w_kZ_k$, the masses. Weights sum to 1: divide by the sum, which is $Z$.",
        ),
        Wrong(
            _WEIGHTS.format("weights * torch.exp(at_mean + spread.sqrt() / 2)"),
            "You took the standard deviation of $\\ell\\cdot X$. The exponent has half its *variance*.",
        ),
        Wrong(
            _WEIGHTS.format("weights * (1 + at_mean + spread / 2)"),
            "This is the beginning of the series of $e^Y$. The reward here is not small: take the exponential.",
        ),
    ),
    rights=(
        "def answer(weights, means, covariances, slope):\n"
        "    gain = means @ slope + 0.5 * (covariances @ slope) @ slope\n"
        "    return torch.softmax(weights.log() + gain, 0)",
        "def answer(w, m, c, l):\n    z = []\n    for k in range(len(w)):\n"
        "        z.append(w[k] * (l @ m[k] + l @ c[k] @ l / 2).exp())\n    return torch.stack(z) / sum(z)",
        "def answer(weights, means, covariances, slope):\n"
        "    moved = means + covariances @ slope\n"
        "    masses = weights * (((means + moved) / 2) @ slope).exp()\n    return masses / masses.sum()",
    ),
    other_wrongs=(
        (_WEIGHTS.format("weights * torch.exp(at_mean + 3 * spread)"), "expected is"),
        (_TILTED.replace("return raised / raised.sum()", "return raised.sum()"), "is expected"),
    ),
)

share_of_shift = Choice(
    key="reward.share_of_shift",
    number="11.2",
    task="predict",
    question=(
        "Under the base, start and end have the correlation $\\rho=\\tfrac12$. With the best control, what share of "
        "the wanted shift is reached?"
    ),
    options={
        "a": (
            "25 %",
            "This is $\\rho^2$, the share of the variance of $X_1$ that the start explains. The control can tilt "
            "what is *left* when the start is known.",
        ),
        "b": (
            "50 %",
            "This is $1-\\rho$. Variances, not standard deviations, stand in the exponent of a tilt: "
            "$s^2(1-\\rho^2)$ is left when the start is known.",
        ),
        "c": ("75 %", ""),
        "d": (
            "100 %: the best control of a KL penalty draws the tilted law",
            "It would, if it could choose the start as well. It tilts the end for each start by itself.",
        ),
    },
    after="Then run the cells below, and open the box.",
    why=(
        "Given $X_0$, the end has the variance $s^2(1-\\rho^2)=\\tfrac34s^2$, and a tilt moves a mean by $\\lambda$ "
        "times the variance. A correlation that looks like a half costs a quarter of the shift."
    ),
    hints=(
        "By how much does the tilt $e^{\\lambda x}$ move the mean of a Gaussian of variance $v$?",
        "By $\\lambda v$. What is the variance of $X_1$ when $X_0$ is known?",
    ),
)

twice_the_noise = Choice(
    key="reward.twice_the_noise",
    number="11.3",
    task="predict",
    question=(
        "Take $c=2$, twice the variance of the memoryless noise, and fine-tune. Does the SDE forget its start? And "
        "does the algebra above, with $c$ in it, $u^*=(b^*+\\frac ctx)/(1+c)$, turn it into the right ODE?"
    ),
    options={
        "a": (
            "no, and no: it is not the memoryless noise",
            "The first is wrong: more noise forgets no less. The correlation $y_{t_0}^c$ goes to 0 for every $c>0$.",
        ),
        "b": ("it forgets, but the ODE is wrong", ""),
        "c": (
            "it forgets, and the ODE is right: $c$ is in the formula",
            "The formula takes velocity and score to be tied as in the base, $u=\\frac1tx+\\eta\\nabla\\log p$. After "
            "fine-tuning with $c\\ne1$ the law of $X_t$ given $X_1$ is another, and they are not.",
        ),
        "d": (
            "it does not forget, but the ODE is right",
            "It is the other way round: compare the two formulas, $y^c$ and the tie of velocity and score.",
        ),
    },
    after="Then run the cells below, and open the box.",
    why=(
        "Any $c>0$ forgets, so the SDE's own result is $q^*$ for each of them. But only for $c=1$ is the path, seen "
        "from its end, plain noising of $X_1$, which fine-tuning does not change. For $c=2$ the ODE moves the mean by "
        "$\\tfrac2{1+c}=\\tfrac23$ of what is wanted."
    ),
    hints=(
        "Is there a $c>0$ for which $(st_0)^c$ does not go to 0 with $t_0$?",
        "Before fine-tuning the formula returns the base's velocity for every $c$. What changes for $X_t$ given $X_1$ "
        "when the drift changes?",
    ),
)


def _drifts(draw: torch.Generator) -> list[tuple]:
    cases = []
    for n, d in [(5, 2), (1, 3), (8, 4)]:
        drift, score, x = torch.randn(3, n, d, generator=draw, dtype=torch.float64)
        cases.append((drift, score, x, 0.1 + 0.8 * torch.rand(n, generator=draw, dtype=torch.float64)))
    return cases


_ODE = """def answer(drift, score, x, t):
    t = t[:, None]
    return {}"""

drift_to_velocity = Function(
    key="reward.drift_to_velocity",
    number="11.4",
    task="find the bug",
    question=(
        "Somebody has fine-tuned an SDE with memoryless noise on the straight walk and wants the ODE with the same "
        "marginals. `drift` is the tuned drift $b^*_t(x)$ and `score` the score of the *base* at the same points, both "
        "of shape `(batch, d)` as `x`; `t` has shape `(batch,)`. Before fine-tuning the ODE is right. After it the "
        "samples go much too far. Put it right; not all arguments need be used."
    ),
    given=_ODE.format("drift - (1 - t) / t * score"),
    reference=_ODE.format("(drift + x / t) / 2"),
    why=(
        "$u^*=b^*-\\eta\\nabla\\log p^*_t$ is right with the score of the *tuned* law, and this is not the base's. "
        "With $c=1$ velocity and score stay tied by $u^*=\\frac1tx+\\eta\\nabla\\log p_t^*$, so $b^*=2u^*-\\frac1tx$. "
        "Solve for $u^*$: half of the change of the drift goes into the velocity, half into the score. With the "
        "base's score all of it goes into the velocity, twice too much."
    ),
    hints=(
        "Whose score would be needed to take the noise away?",
        "The score of the tuned law is unknown, but for memoryless noise $\\eta\\nabla\\log p^*_t=u^*-\\frac1tx$.",
        "Then $b^*=u^*+\\eta\\nabla\\log p_t^*=2u^*-\\frac1tx$.",
    ),
    arguments=("drift", "score", "x", "t"),
    truth=lambda drift, score, x, t: torch.stack([(b + y / s) / 2 for b, y, s in zip(drift, x, t, strict=True)]),
    cases=_drifts,
    wrongs=(
        Wrong(
            _ODE.format("drift + (1 - t) / t * score"),
            "This adds the base's score where it was taken away. The trouble is not the sign: it is the wrong law's "
            "score.",
        ),
        Wrong(
            _ODE.format("drift - (1 - t) / t / 2 * score"),
            "Half of the base's score is still the base's. You need the score of the tuned law, which the drift itself "
            "tells.",
        ),
        Wrong(
            _ODE.format("drift - 2 * (1 - t) / t * score"),
            "$g^2=2\\eta$ stands before the score in a *reverse* SDE. And the base's score is the wrong law's.",
        ),
        Wrong(
            _ODE.format("drift + x / t"),
            "This is $2u^*$, twice the velocity. Divide by 2.",
        ),
        Wrong(
            _ODE.format("drift / 2"),
            "Half of the change is right, but not half of everything: $b^*=2u^*-\\frac1tx$. Where is $\\frac1tx$?",
        ),
        Wrong(
            _ODE.format("(drift - x / t) / 2"),
            "A sign is wrong: solve $b^*=2u^*-\\frac1tx$ for $u^*$ once more. (This is $\\eta\\nabla\\log p_t^*$.)",
        ),
        Wrong(
            _ODE.format("2 * drift - x / t"),
            "This takes $b^*$ for $u^*$, and makes a drift of it. You need the way back.",
        ),
        Wrong(
            _ODE.format("drift"),
            "The drift of the SDE includes the score that balances its noise. Without the noise this goes too far.",
        ),
        Wrong(
            _ODE.format("drift - x / t"),
            "Solve $b^*=2u^*-\\frac1tx$ for $u^*$: the sign of $\\frac1tx$, and a factor.",
        ),
        Wrong(
            _ODE.format("(drift + x) / 2"),
            "Nearly: it is $\\frac{\\alpha'}{\\alpha}x=\\frac1tx$ that is added.",
        ),
        Wrong(
            _ODE.format("(drift + x / (1 - t)) / 2"),
            "Nearly: it is $\\frac{\\alpha'}{\\alpha}x$ that is added, with $\\alpha=t$.",
        ),
    ),
    rights=(
        _ODE.format("0.5 * drift + x / (2 * t)"),
        _ODE.format("drift - (drift - x / t) / 2"),
        "answer = lambda b, s, y, time: (b * time.unsqueeze(1) + y) / (2 * time.unsqueeze(1))",
    ),
    other_wrongs=(
        ("def answer(drift, score, x, t):\n    return (drift + x / t) / 2", "must match the size"),
        (_ODE.format("((drift + x / t) / 2).sum(1)"), "is expected"),
        (_ODE.format("3 * drift"), "expected is"),
    ),
)


class _StepMean:
    """Stands in for the mean of step k of a chain: no symmetric Jacobian, and each k has its own."""

    def __call__(self, x: Tensor, k: int) -> Tensor:
        turned = x.roll(1, 1)
        return (0.8 + 0.1 * k) * x + 0.5 * torch.sin(turned + k) + 0.2 * x * turned

    def __repr__(self) -> str:
        return "mean"


def _chains(draw: torch.Generator) -> list[tuple]:
    cases = []
    for k, n, d in [(3, 5, 2), (1, 4, 3), (6, 3, 4)]:
        points = torch.randn(k + 1, n, d, generator=draw, dtype=torch.float64)
        cases.append((_StepMean(), points, torch.randn(n, d, generator=draw, dtype=torch.float64)))
    return cases


def _by_jacobians(mean: Callable, points: Tensor, a: Tensor) -> Tensor:
    """Row by row, with the whole matrix of derivatives."""
    found = []
    for k in range(len(points) - 2, -1, -1):
        rows = []
        for x, row in zip(points[k], a, strict=True):
            jacobian = torch.autograd.functional.jacobian(lambda y, k=k: mean(y[None], k)[0], x)
            rows.append(jacobian.T @ row)
        a = torch.stack(rows)
        found.insert(0, a)
    return torch.stack(found)


_SWEEP = """def answer(mean, points, a):
    found = []
    for k in reversed(range(len(points) - 1)):
        x = points[k].detach().requires_grad_()
        a, = torch.autograd.grad((mean(x, k) * a).sum(), x)
        found.append(a)
    return torch.stack(found[::-1])"""
_GRAD = "a, = torch.autograd.grad((mean(x, k) * a).sum(), x)"

adjoint_sweep = Function(
    key="reward.adjoint_sweep",
    number="11.5",
    task="write",
    question=(
        "Scroll so that you do not see `lean`, and write its heart from memory, for any chain. `mean(x, k)` is the "
        "mean of the point $k+1$ given the point $k$ under the base; `points`, of shape `(K + 1, n, d)`, holds $n$ "
        "paths with $K$ steps; `a`, of shape `(n, d)`, is the adjoint at their ends. Return the adjoints at the "
        "points $0,\\dots,K-1$, in this order, of shape `(K, n, d)`. Below, your function draws a figure."
    ),
    given="""def answer(mean, points, a):
    found = []
    for k in ____:
        x = ____
        a = ____
        found.append(a)
    return ____""",
    reference=_SWEEP,
    why=(
        "$a_k=\\big(\\frac{\\partial m_k}{\\partial x}\\big)^{\\top}a_{k+1}$ is the gradient of $m_k(x)\\cdot "
        "a_{k+1}$ with $a_{k+1}$ held fixed, so one call of `autograd.grad` does it, without any matrix. The points "
        "are where the path was; no gradient flows through *them*. Rows do not mix, as the sum has one term for each."
    ),
    hints=(
        "Go from the last step to the first: `reversed(range(len(points) - 1))`.",
        "`points[k].detach().requires_grad_()` is a place at which you can differentiate.",
        "Which number has the gradient $(\\partial m/\\partial x)^\\top a$? The sum of `mean(x, k) * a`.",
        "`torch.stack(found[::-1])` puts them in the order of time.",
    ),
    arguments=("mean", "points", "a"),
    truth=_by_jacobians,
    cases=_chains,
    wrongs=(
        Wrong(
            _SWEEP.replace(_GRAD + "\n        found.append(a)", "found.append(a)\n        " + _GRAD),
            "These are $a_1,\\dots,a_K$: each is kept before the step back is made. This is the adjoint of the next "
            "time, whose regression ends in a weaker tilt.",
        ),
        Wrong(
            _SWEEP.replace("found[::-1]", "found"),
            "The values are right and their order is that of the sweep, from the end to the start. Turn it round.",
        ),
        Wrong(
            _SWEEP.replace("reversed(range(len(points) - 1))", "range(len(points) - 1)").replace("[::-1]", ""),
            "You go forward. The adjoint is known at the end, and is carried *back*.",
        ),
        Wrong(
            _SWEEP.replace("points[k].", "points[k + 1]."),
            "You differentiate at the point that the step leads to. The mean of step $k$ is a function of the point "
            "$k$.",
        ),
        Wrong(
            _SWEEP.replace("mean(x, k) * a", "mean(x, k)"),
            "`a` is lost: this is the gradient of the sum of all means. Multiply by the adjoint that comes from "
            "behind.",
        ),
        Wrong(
            _SWEEP.replace("a, = torch", "b, = torch").replace("append(a)", "append(b)"),
            "Every step starts from the adjoint at the end. It must be carried on: the new one takes its place.",
        ),
        Wrong(
            _SWEEP.replace("* a).sum()", "* a).mean()"),
            "The mean divides by the number of entries at each step. It is the *sum* that has each row's own gradient.",
        ),
        Wrong(
            _SWEEP.replace(_GRAD, "a = torch.autograd.functional.jvp(lambda y: mean(y, k), points[k], a)[1]"),
            "This multiplies by the matrix of derivatives, and not by its *transpose*: that is how a change of the "
            "start is carried forward.",
        ),
        Wrong(
            _SWEEP.replace("append(a)", "append(-a)"),
            "The sign is wrong at every point. `a` at the end has its sign already.",
        ),
        Wrong(
            _SWEEP.replace(_GRAD, _GRAD + "\n        a = -a"),
            "The sign changes at every step. In $\\frac{d}{dt}a=-(\\ldots)a$ the minus is there because time runs "
            "forward.",
        ),
        Wrong(
            _SWEEP.replace(_GRAD, _GRAD.replace("a, =", "more, =") + "\n        a = a + more"),
            "You add $a$ once more. `mean` is where the whole step leads, not the change that it makes.",
        ),
        Wrong(
            _SWEEP.replace("mean(x, k) * a", "mean(x, k + 1) * a"),
            "You take the mean of the next step: step $k$ leads from the point $k$ to the point $k+1$.",
        ),
    ),
    rights=(
        """def answer(mean, points, a):
    result = torch.empty_like(points[:-1])
    for k in range(len(points) - 2, -1, -1):
        result[k] = a = torch.autograd.functional.vjp(lambda y: mean(y, k), points[k], a)[1]
    return result""",
        """def answer(mean, points, a):
    found = []
    for k in range(len(points) - 1)[::-1]:
        x = points[k].clone().requires_grad_(True)
        a = torch.autograd.grad(mean(x, k), x, grad_outputs=a)[0]
        found.insert(0, a)
    return torch.stack(found)""",
        """def answer(f, path, last):
    k = len(path) - 2
    x = path[k].detach().requires_grad_()
    here = torch.autograd.grad((f(x, k) * last).sum(), x)[0]
    return here[None] if k == 0 else torch.cat([answer(f, path[:-1], here), here[None]])""",
    ),
    other_wrongs=(
        (_SWEEP.replace("points[k].detach().requires_grad_()", "points[k]"), "does not require grad"),
        (_SWEEP.replace("torch.stack(found[::-1])", "a"), "is expected"),
        (_SWEEP.replace("torch.stack(found[::-1])", "found"), "must return a torch tensor"),
    ),
)


def _groups(draw: torch.Generator) -> list[tuple]:
    cases = []
    for k, n, d, clip in [(3, 6, 2, 0.2), (1, 4, 3, 0.1), (5, 8, 4, 0.3)]:
        std = 0.5 + torch.rand(k, 1, 1, generator=draw, dtype=torch.float64)
        old, noise, change = torch.randn(3, k, n, d, generator=draw, dtype=torch.float64)
        reward = 3 + 2 * torch.randn(n, generator=draw, dtype=torch.float64)
        cases.append((old + std * noise, old + 0.3 * change, old, std, reward, clip))
    return cases


def _grpo(after: Tensor, new: Tensor, old: Tensor, std: Tensor, reward: Tensor, clip: float) -> Tensor:
    advantage = (reward - reward.mean()) / reward.var().sqrt()
    logs = [torch.distributions.Normal(mean, std.expand_as(mean)).log_prob(after).sum(2) for mean in (new, old)]
    ratio = (logs[0] - logs[1]).exp()
    worse = torch.where(advantage > 0, ratio.clamp(max=1 + clip), ratio.clamp(min=1 - clip))
    return -(worse * advantage).sum() / ratio.numel()


_LOSS = """def answer(after, new, old, std, reward, clip):
    advantage = (reward - reward.mean()) / reward.std()
    closer = (after - old).square() - (after - new).square()
    ratio = (closer.sum(2) / (2 * std[..., 0] ** 2)).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantage, clipped * advantage).mean()"""

policy_loss = Function(
    key="reward.policy_loss",
    number="11.6",
    task="write",
    question=(
        "Write the loss of Flow-GRPO as it is published. The advantage is the reward less the group's mean, over its "
        "standard deviation (`reward.std()`). The ratio $\\rho$ of new and old policy is taken for each step and "
        "path, and the loss is minus the mean, over steps and paths, of $\\min\\big(\\rho A,\\ "
        "\\mathrm{clip}(\\rho,1-\\epsilon,1+\\epsilon)\\,A\\big)$. `after`, of shape `(K, n, d)`, holds the points "
        "that the steps led to, `new` and `old` the means of the steps under both policies, `std` of shape `(K, 1, "
        "1)` their standard deviations, `reward` of shape `(n,)` the rewards, and `clip` is $\\epsilon$. Return one "
        "number, a tensor of shape `()`. Below, your function trains a flow."
    ),
    given="""def answer(after, new, old, std, reward, clip):
    advantage = ____
    closer = ____
    ratio = ____
    clipped = ____
    return ____""",
    reference=_LOSS,
    why=(
        "The log-density of a Gaussian step is $-\\|x-\\text{mean}\\|^2/(2\\,\\mathrm{std}^2)$ up to what both "
        "policies share, so the log of the ratio is the difference of two squares over $2\\,\\mathrm{std}^2$. The "
        "minimum takes away the reward for moving a ratio further than $\\epsilon$ in the direction that pays, and "
        "never the penalty. At `new = old` all ratios are 1 and the gradient is that of the plain policy gradient."
    ),
    hints=(
        "The advantage first: subtract the mean, divide by the standard deviation.",
        "For each step and path, $\\log\\rho=\\big(\\|x-m_{old}\\|^2-\\|x-m_{new}\\|^2\\big)/(2\\,\\mathrm{std}^2)$, "
        "summed over the coordinates.",
        "`std[..., 0]` has the shape `(K, 1)`, which goes with the sum over coordinates, `(K, n)`.",
        "`-torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()`.",
    ),
    arguments=("after", "new", "old", "std", "reward", "clip"),
    truth=_grpo,
    cases=_groups,
    wrongs=(
        Wrong(
            _LOSS.replace(" / (2 * std[..., 0] ** 2)", ""),
            "The variance of the steps is missing: the same distance says much where the noise is small, and little "
            "where it is large. Divide by $2\\,\\mathrm{std}^2$.",
        ),
        Wrong(
            _LOSS.replace("(2 * std[..., 0] ** 2)", "(2 * std[..., 0])"),
            "You divide by the standard deviation. A Gaussian has its *variance* in the exponent.",
        ),
        Wrong(
            _LOSS.replace("(2 * std[..., 0] ** 2)", "std[..., 0] ** 2"),
            "The factor 2 in $\\|x-\\text{mean}\\|^2/(2\\,\\mathrm{std}^2)$ is missing.",
        ),
        Wrong(
            _LOSS.replace(
                "(after - old).square() - (after - new).square()", "(after - new).square() - (after - old).square()"
            ),
            "This is the ratio of old and new. A point *closer* to the new mean is more likely under the new policy.",
        ),
        Wrong(
            _LOSS.replace("(reward - reward.mean())", "reward"),
            "The advantage is not centred: with rewards that are all positive every path would be made more likely.",
        ),
        Wrong(
            _LOSS.replace(" / reward.std()", ""),
            "The advantage is not divided by the standard deviation of the group.",
        ),
        Wrong(
            _LOSS.replace("-torch.minimum", "torch.minimum"),
            "The sign is wrong: an optimiser makes a loss small, and the advantage is to become large.",
        ),
        Wrong(
            _LOSS.replace("torch.minimum", "torch.maximum"),
            "The maximum takes away the penalty and keeps the reward. It is the minimum that is careful.",
        ),
        Wrong(
            _LOSS.replace("torch.minimum(ratio * advantage, clipped * advantage)", "(clipped * advantage)"),
            "This clips always. A ratio that has gone too far the wrong way would have no gradient to come back: take "
            "the minimum with the unclipped one.",
        ),
        Wrong(
            _LOSS.replace("torch.minimum(ratio * advantage, clipped * advantage)", "(ratio * advantage)"),
            "Nothing is clipped here: take the minimum with what has the clipped ratio.",
        ),
        Wrong(
            _LOSS.replace(".exp()", ".sum(0).exp()"),
            "This is the ratio for whole paths, which after many steps is huge or tiny. Take one for each step.",
        ),
        Wrong(
            _LOSS.replace("closer.sum(2)", "closer.mean(2)"),
            "You average over the coordinates. The log-density is a *sum* over them.",
        ),
        Wrong(
            _LOSS.replace(").mean()\n", ").mean()\n").replace(
                "clipped * advantage).mean()", "clipped * advantage).sum()"
            ),
            "This is the sum over steps and paths. The loss is their mean.",
        ),
    ),
    rights=(
        """def answer(after, new, old, std, reward, clip):
    normal = torch.distributions.Normal
    logs = normal(new, std).log_prob(after).sum(-1) - normal(old, std).log_prob(after).sum(-1)
    ratio, scores = logs.exp(), (reward - reward.mean()) / reward.std()
    return torch.max(-scores * ratio, -scores * torch.clamp(ratio, 1 - clip, 1 + clip)).mean()""",
        """def answer(x, m, m_old, s, r, eps):
    A = (r - r.mean()) / r.std()
    rho = torch.exp((((x - m_old) / s) ** 2 - ((x - m) / s) ** 2).sum(2) / 2)
    return -torch.stack([rho * A, rho.clip(1 - eps, 1 + eps) * A]).min(0).values.mean()""",
        """def answer(after, new, old, std, reward, clip):
    A = (reward - reward.mean()) / reward.std()
    z, shift = (after - old) / std, (new - old) / std
    rho = (z * shift - shift**2 / 2).sum(2).exp()
    return -torch.where(A > 0, rho.clamp(max=1 + clip), rho.clamp(min=1 - clip)).mul(A).mean()""",
    ),
    other_wrongs=(
        (_LOSS.replace("std[..., 0]", "std"), "expected is"),
        (_LOSS.replace("advantage).mean()", "advantage).mean(1)"), "is expected"),
        (_LOSS.replace("advantage).mean()", "advantage).mean().item()"), "must return a torch tensor"),
    ),
)
