"""Exercises of notebook 12, generator matching."""

from collections.abc import Callable

import torch
from torch import Tensor

from fmlib.exercises._questions import Choice, Function, Wrong


class _Wave:
    """Stands in for a test function: bends up and down, and has no symmetry."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.sin(1.7 * x + 0.4) + 0.3 * x**2 - 0.05 * x**3

    def __repr__(self) -> str:
        return "f"


def _processes(draw: torch.Generator) -> list[tuple]:
    cases = []
    for n, m in [(5, 3), (1, 4), (6, 2)]:
        x, u = torch.randn(2, n, generator=draw, dtype=torch.float64)
        g, rate = 0.3 + 1.5 * torch.rand(2, n, generator=draw, dtype=torch.float64)
        cases.append((_Wave(), x, u, g, rate, torch.randn(n, m, generator=draw, dtype=torch.float64)))
    return cases


def _generator(f: Callable, x: Tensor, u: Tensor, g: Tensor, rate: Tensor, landings: Tensor) -> Tensor:
    """By Taylor's formula in forward mode, row by row."""
    found = []
    for y, v, s, often, places in zip(x, u, g, rate, landings, strict=True):
        one = torch.ones_like(y)
        slope, curve = torch.func.jvp(lambda z, one=one: torch.func.jvp(f, (z,), (one,))[1], (y,), (one,))
        jumps = sum(f(place) - f(y) for place in places) / len(places)
        found.append(v * slope + s * s * curve / 2 + often * jumps)
    return torch.stack(found)


_SUM = """def answer(f, x, u, g, rate, landings):
    x = x.detach().requires_grad_()
    slope, = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    curve, = torch.autograd.grad(slope.sum(), x)
    jumps = f(landings).mean(1) - f(x)
    return u * slope + g**2 / 2 * curve + rate * jumps"""

generator_of_sum = Function(
    key="generators.generator_of_sum",
    number="12.1",
    task="write",
    question=(
        "Write all rows of the table as one function, for processes on the line that drift, diffuse and jump at once: "
        "generators add. `f` is a test function that takes tensors of any shape. `x`, `u`, `g` and `rate` have the "
        "shape `(n,)`: the points, and at each of them the velocity, the noise and the rate of jumps. `landings` has "
        "the shape `(n, m)`: $m$ places, equally likely, where a jump from each point lands. Return $\\mathcal Lf(x)$, "
        "shape `(n,)`. The derivatives of `f` come from autograd. Below, the order of your generator is measured."
    ),
    given="""def answer(f, x, u, g, rate, landings):
    x = x.detach().requires_grad_()
    slope, = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    curve, = ____
    jumps = ____
    return ____""",
    reference=_SUM,
    why=(
        "$\\mathcal Lf=u\\,f'+\\frac{g^2}2f''+\\lambda\\big(\\mathbb E\\,f(Y)-f(x)\\big)$: in a short time at most one "
        "of the three happens to first order, so what they add to the mean of $f$ adds up. `create_graph=True` lets "
        "the slope be differentiated once more."
    ),
    hints=(
        "The second derivative: differentiate `slope.sum()` as `f(x).sum()` was.",
        "A jump from $x$ changes $f$ by $f(Y)-f(x)$. What is its mean over the `m` landing places?",
        "`u * slope + g**2 / 2 * curve + rate * (f(landings).mean(1) - f(x))`.",
    ),
    arguments=("f", "x", "u", "g", "rate", "landings"),
    truth=_generator,
    cases=_processes,
    wrongs=(
        Wrong(
            _SUM.replace("g**2 / 2 * curve", "g * curve"),
            "The noise enters by its variance, $g^2h$, and by the factor $\\frac12$ of Taylor's formula.",
        ),
        Wrong(
            _SUM.replace("g**2 / 2 * curve", "g**2 * curve"),
            "Half of the second derivative: in Taylor's formula it stands with $\\frac12\\delta^2$, and "
            "$\\delta^2$ has the mean $g^2h$.",
        ),
        Wrong(
            _SUM.replace("g**2 / 2 * curve", "g / 2 * curve"),
            "$g$ is not squared: the mean of $(g\\sqrt h\\,\\xi)^2$ is $g^2h$.",
        ),
        Wrong(
            _SUM.replace(" + g**2 / 2 * curve", ""),
            "The diffusion is missing. Noise has the mean zero, but its square has not, and $f$ bends.",
        ),
        Wrong(
            _SUM.replace(" + rate * jumps", ""),
            "The jumps are missing: with probability $h\\lambda$ the value $f(x)$ is replaced by $f(Y)$.",
        ),
        Wrong(
            _SUM.replace("rate * jumps", "jumps"),
            "The change by a jump counts as often as points jump: multiply it by the rate.",
        ),
        Wrong(
            _SUM.replace(".mean(1) - f(x)", ".mean(1)"),
            "A point that jumps is no longer at $x$: $f(Y)$ comes and $f(x)$ goes.",
        ),
        Wrong(
            _SUM.replace("f(landings).mean(1) - f(x)", "f(x) - f(landings).mean(1)"),
            "A sign is wrong: $f(x)$ goes, $f(Y)$ comes.",
        ),
        Wrong(
            _SUM.replace("f(landings).mean(1)", "f(landings.mean(1))"),
            "This is $f$ at the mean place. A point lands at one of the places: take the mean of $f$ over them.",
        ),
        Wrong(
            _SUM.replace("f(landings).mean(1) - f(x)", "(f(landings) - f(x)[:, None]).sum(1)"),
            "You add up the landing places. They share the jumps: each has the probability $1/m$.",
        ),
        Wrong(
            _SUM.replace("f(landings).mean(1) - f(x)", "(landings.mean(1) - x) * slope"),
            "A jump is not short: $f(Y)-f(x)$ is more than its linear part $(Y-x)f'(x)$.",
        ),
        Wrong(
            _SUM.replace("return u * slope", "return f(x) + u * slope"),
            "This has $f(x)$ in it. The generator is what a short time *adds*, per unit of time.",
        ),
    ),
    rights=(
        """def answer(f, x, u, g, rate, landings):
    one = torch.ones_like(x)
    d = lambda y: torch.func.jvp(f, (y,), (one,))[1]
    slope, curve = torch.func.jvp(d, (x,), (one,))
    return u * slope + 0.5 * g * g * curve + rate * (f(landings) - f(x)[:, None]).mean(1)""",
        """def answer(f, x, u, g, rate, landings):
    rows = []
    for k in range(len(x)):
        first = torch.func.grad(f)
        second = torch.func.grad(first)
        jump = sum(f(y) for y in landings[k]) / landings.shape[1] - f(x[k])
        rows.append(u[k] * first(x[k]) + g[k] ** 2 * second(x[k]) / 2 + rate[k] * jump)
    return torch.stack(rows)""",
        """def answer(F, y, v, s, q, places):
    y = y.clone().requires_grad_(True)
    (first,) = torch.autograd.grad(F(y).sum(), y, create_graph=True)
    drift = v * first.detach()
    spread = torch.autograd.grad((s**2 * first).sum(), y)[0] / 2
    return drift + spread - q * (F(y.detach()) - F(places).mean(dim=-1))""",
    ),
    other_wrongs=(
        (_SUM.replace("rate * jumps", "2 * rate * jumps"), "expected is"),
        (_SUM.replace(".mean(1) - f(x)", " - f(x)"), "must match the size"),
    ),
)

small_steps = Choice(
    key="generators.small_steps",
    number="12.2",
    task="predict",
    question=(
        "You estimate $\\mathcal Lf(x)$ for the diffusion above at one $x$, from $N=2000$ simulated steps of length "
        "$h$, by the mean of $\\big(f(X_h)-f(x)\\big)/h$. Of these, which $h$ gives the smallest error?"
    ),
    options={
        "a": (
            "$h=0.0001$: the remainder is of the order $h$, so smaller is better",
            "The remainder is, but it is not the only error: $f(X_h)-f(x)$ has the standard deviation $g|f'|\\sqrt h$, "
            "and you divide by $h$.",
        ),
        "b": ("$h=0.01$", ""),
        "c": (
            "$h=1$: the noise is smallest there",
            "The noise is, but after a time of 1 the point is far from $x$, and what it sees there is another $f'$.",
        ),
        "d": (
            "it does not matter: the mean of the noise is zero",
            "The mean is zero, but you have 2,000 steps, not infinitely many. How does the spread of the quotient "
            "depend on $h$?",
        ),
    },
    after="Then run the cell below, and open the box.",
    why=(
        "The quotient has the standard error $g|f'|/\\sqrt{hN}$, which grows as $h$ shrinks, and a remainder of the "
        "order $h$. They meet at an $h$ that falls like $N^{-1/3}$, here between one and two hundredths. That is why "
        "the orders above were measured with exact means."
    ),
    hints=(
        "How large is $f(X_h)-f(x)$, typically, for a small $h$?",
        "About $g|f'(x)|\\sqrt h$. Divide by $h$ and by $\\sqrt N$.",
    ),
)


def _laws(draw: torch.Generator) -> list[tuple]:
    cases = []
    for n in (4, 7, 2):
        p = torch.rand(n, generator=draw, dtype=torch.float64) + 0.1
        dp = torch.randn(n, generator=draw, dtype=torch.float64)
        cases.append((p / p.sum(), dp - dp.mean()))
    return cases


def _smallest(p: Tensor, dp: Tensor) -> Tensor:
    """Entry by entry: the mass that goes from x to y in a unit of time, over the mass at x."""
    n, moved = len(p), dp.abs().sum() / 2
    rows = [[0 * moved for _ in range(n)] for _ in range(n)]
    for x in range(n):
        for y in range(n):
            if dp[x] < 0 < dp[y]:
                rows[y][x] = -dp[x] * dp[y] / moved / p[x]
                rows[x][x] = rows[x][x] - rows[y][x]
    return torch.stack([torch.stack(row) for row in rows])


_SMALLEST = """def answer(p, dp):
    leave = (-dp).clamp(min=0) / p
    land = dp.clamp(min=0) / dp.clamp(min=0).sum()
    Q = land[:, None] * leave
    return Q - torch.diag(leave)"""

smallest_rates = Function(
    key="generators.smallest_rates",
    number="12.3",
    task="write",
    question=(
        "Write the rates of jumps that carry a law on a grid and jump as rarely as possible, from the list above. `p` "
        "of shape `(n,)` holds the probabilities of the $n$ points now, and `dp` of shape `(n,)` what they gain per "
        "unit of time; it sums to 0. Points leave where `dp` is negative, and land where it is positive. Return $Q$ of "
        "shape `(n, n)`, with the rate *from x to y* in row y and column x, and on the diagonal what makes every "
        "column sum to 0. Then `Q @ p` is `dp`. Below, your matrices carry a law from $t=0$ to $t=0.9$."
    ),
    given="""def answer(p, dp):
    leave = ____
    land = ____
    Q = ____
    return ____""",
    reference=_SMALLEST,
    why=(
        "Where $p$ falls, the mass $[dp]_-$ has to go in a unit of time, and the mass there is $p$: each point leaves "
        "at the rate $[dp]_-/p$. It lands with the probabilities $[dp]_+/\\sum[dp]_+$. The column of $x$ has the rates "
        "out of $x$, and on the diagonal minus their sum."
    ),
    hints=(
        "`(-dp).clamp(min=0)` is $[dp]_-$, the mass that leaves. At which rate does *each* point leave?",
        "Divide by `p`. The landing law is `dp.clamp(min=0)`, divided by its sum.",
        "Row y and column x: `land[:, None] * leave`. A diagonal matrix is `torch.diag(leave)`.",
    ),
    arguments=("p", "dp"),
    truth=_smallest,
    cases=_laws,
    wrongs=(
        Wrong(
            _SMALLEST.replace("return Q - torch.diag(leave)", "return (Q - torch.diag(leave)).T"),
            "This is transposed: the rate from x to y stands in row y, column x, so that `Q @ p` is `dp`.",
        ),
        Wrong(
            _SMALLEST.replace("return Q - torch.diag(leave)", "return Q"),
            "The diagonal is missing. Who leaves x is no longer there: columns must sum to 0.",
        ),
        Wrong(
            _SMALLEST.replace("return Q - torch.diag(leave)", "return Q + torch.diag(leave)"),
            "The sign of the diagonal is wrong: who leaves x is missing there.",
        ),
        Wrong(
            _SMALLEST.replace("(-dp).clamp(min=0) / p", "(-dp).clamp(min=0)"),
            "$[dp]_-$ is the *mass* that leaves. A rate is per point: divide by the mass that is there.",
        ),
        Wrong(
            _SMALLEST.replace("dp.clamp(min=0) / dp.clamp(min=0).sum()", "dp.clamp(min=0)"),
            "The landing law does not sum to 1: divide $[dp]_+$ by its sum.",
        ),
        Wrong(
            _SMALLEST.replace("dp.clamp(min=0) / dp.clamp(min=0).sum()", "p"),
            "This lands like `p`. Mass has to come where `dp` is positive, and nowhere else.",
        ),
        Wrong(
            _SMALLEST.replace("(-dp).clamp(min=0) / p", "dp.clamp(min=0) / p").replace(
                "dp.clamp(min=0) / dp.clamp(min=0).sum()", "(-dp).clamp(min=0) / (-dp).clamp(min=0).sum()"
            ),
            "The wrong way round: points leave where `dp` is *negative*.",
        ),
        Wrong(
            _SMALLEST.replace("(-dp).clamp(min=0) / p", "dp.abs() / p"),
            "Here points leave where $p$ rises as well. Nobody has to leave there.",
        ),
        Wrong(
            _SMALLEST.replace("(-dp).clamp(min=0) / p", "-dp / p"),
            "Where $p$ rises this rate is negative. A rate is at least 0: take the part $[dp]_-$.",
        ),
        Wrong(
            _SMALLEST.replace(
                "dp.clamp(min=0) / dp.clamp(min=0).sum()", "(dp / p).clamp(min=0) / (dp / p).clamp(min=0).sum()"
            ),
            "The landing law is proportional to the mass that is gained, $[dp]_+$, not to the relative gain.",
        ),
        Wrong(
            _SMALLEST.replace("dp.clamp(min=0) / dp.clamp(min=0).sum()", "(dp > 0) / (dp > 0).sum()"),
            "All places that gain mass count alike here. They gain different amounts: land in proportion to $[dp]_+$.",
        ),
    ),
    rights=(
        """def answer(p, dp):
    up, down = torch.relu(dp), torch.relu(-dp)
    Q = torch.outer(up / up.sum(), down / p)
    return Q - torch.diag_embed(Q.sum(0))""",
        """def answer(p, dp):
    n = len(p)
    Q = torch.zeros(n, n, dtype=p.dtype)
    total = dp[dp > 0].sum()
    for x in range(n):
        if dp[x] < 0:
            for y in range(n):
                if dp[y] > 0:
                    Q[y, x] = -dp[x] / p[x] * dp[y] / total
            Q[x, x] = dp[x] / p[x]
    return Q""",
        """def answer(mass, change):
    rate = torch.where(change < 0, -change, torch.zeros_like(change)) / mass
    gain = torch.where(change > 0, change, torch.zeros_like(change))
    return torch.einsum("y,x->yx", gain / gain.sum(), rate) - torch.eye(len(mass), dtype=mass.dtype) * rate""",
    ),
    other_wrongs=(
        (_SMALLEST.replace("return Q - torch.diag(leave)", "return 2 * Q"), "expected is"),
        (_SMALLEST.replace("return Q - torch.diag(leave)", "return leave"), "is expected"),
    ),
)


def _mixtures(draw: torch.Generator) -> list[tuple]:
    cases = []
    for n, k in [(5, 3), (1, 4), (7, 2)]:
        weights = torch.rand(n, k, generator=draw, dtype=torch.float64) + 0.05
        u, score = torch.randn(2, n, k, generator=draw, dtype=torch.float64)
        g = 0.2 + 2 * torch.rand(k, generator=draw, dtype=torch.float64)
        cases.append((weights / weights.sum(1, keepdim=True), u, score, g))
    return cases


def _marginal(weights: Tensor, u: Tensor, score: Tensor, g: Tensor) -> Tensor:
    drift = sum(weights[:, i] * (u[:, i] + g[i].square() * score[:, i] / 2) for i in range(len(g)))
    return torch.stack([drift, sum(weights[:, i] * g[i].square() for i in range(len(g))).sqrt()])


_NOISE = """def answer(weights, u, score, g):
    drift = (weights * (u + g**2 / 2 * score)).sum(1)
    noise = {}
    return torch.stack([drift, noise])"""
_ROOT = _NOISE.format("(weights @ g**2).sqrt()")

marginal_noise = Function(
    key="generators.marginal_noise",
    number="12.4",
    task="find the bug",
    question=(
        "Each data point $i$ has a diffusion of its own, with velocity $u_i$, noise $g_i$ and the score of its "
        "conditional law. Somebody averages them: `weights` of shape `(n, K)` are the posterior probabilities of the "
        "$K$ data points at $n$ places, `u` and `score` of shape `(n, K)` the conditional velocities and scores, `g` "
        "of shape `(K,)` the noises. The function returns drift and noise of the marginal diffusion, shape `(2, n)`. "
        "If all $g_i$ are equal its samples are right; else the law is too narrow. Put it right."
    ),
    given=_NOISE.format("weights @ g"),
    reference=_ROOT,
    why=(
        "The generator is averaged, and in it stands $\\frac{g^2}2f''$: the marginal variance per unit of time is "
        "$\\mathbb E[g^2\\mid x]$. The mean of $g$, squared, is less, by the variance of $g$. The drift needs no "
        "change: the average of $\\frac{g_i^2}2$ times the conditional scores is what belongs to it, and it is not "
        "$\\frac{\\mathbb E g^2}2$ times the marginal score."
    ),
    hints=(
        "What enters the generator linearly, $g$ or something else?",
        "$g^2$. What noise has the variance $\\mathbb E[g^2\\mid x]$?",
    ),
    arguments=("weights", "u", "score", "g"),
    truth=_marginal,
    cases=_mixtures,
    wrongs=(
        Wrong(
            _NOISE.format("weights @ g**2"),
            "This is the right variance, $\\mathbb E[g^2\\mid x]$. The noise $g$ is its root.",
        ),
        Wrong(
            _NOISE.format("(weights @ g) ** 2"),
            "This is the square of the mean of $g$. Which mean does the generator take, and is it a variance that is "
            "asked for?",
        ),
        Wrong(
            _NOISE.format("(weights @ g).sqrt()"),
            "This is the root of the mean of $g$. Square before you average, take the root afterwards.",
        ),
        Wrong(
            _NOISE.format("(weights**2 @ g**2).sqrt()"),
            "The weights are squared: that is the noise of a *weighted sum* of diffusions. Here one of them is at "
            "work at a time, with its probability.",
        ),
        Wrong(
            _NOISE.format("g.square().mean().sqrt().expand(len(u))"),
            "All data points count alike here, wherever $x$ is. Average with the posterior.",
        ),
        Wrong(
            _NOISE.format("weights @ g.sqrt()"),
            "It is the square of the noise that is averaged, not the root.",
        ),
        Wrong(
            _NOISE.format("(weights * g).amax(1)"),
            "This takes the one data point with the largest share of the noise. It is a mean that is asked for.",
        ),
        Wrong(
            _ROOT.replace("(u + g**2 / 2 * score)", "u"),
            "The noise is right now, but the drift has lost the scores that balance it.",
        ),
        Wrong(
            _ROOT.replace("(weights * (u + g**2 / 2 * score)).sum(1)", "(weights * (u + g / 2 * score)).sum(1)"),
            "The noise is right now, but in the drift $g^2$ has become $g$.",
        ),
        Wrong(
            _ROOT.replace(
                "(weights * (u + g**2 / 2 * score)).sum(1)",
                "(weights * u).sum(1) + weights @ g**2 / 2 * (weights * score).sum(1)",
            ),
            "The noise is right now, but the drift was right before: average the *products* $g_i^2$ times score, the "
            "mean of a product is not the product of the means.",
        ),
        Wrong(
            _ROOT.replace(
                "(weights * (u + g**2 / 2 * score)).sum(1)",
                "(weights * u).sum(1) + (weights @ g) ** 2 / 2 * (weights * score).sum(1)",
            ),
            "The drift was right as it stood. Only the noise has to change.",
        ),
    ),
    rights=(
        _NOISE.format("torch.sqrt((weights * g.square()).sum(dim=1))"),
        _NOISE.format("torch.linalg.vector_norm(weights.sqrt() * g, dim=1)"),
        """def answer(w, u, s, g):
    rows = []
    for k in range(len(w)):
        b = sum(w[k, i] * (u[k, i] + g[i] ** 2 / 2 * s[k, i]) for i in range(len(g)))
        rows.append(torch.stack([b, (w[k] @ (g * g)) ** 0.5]))
    return torch.stack(rows, 1)""",
    ),
    other_wrongs=(
        (_NOISE.format("3 * weights @ g"), "expected is"),
        (_ROOT.replace("torch.stack([drift, noise])", "noise"), "is expected"),
    ),
)

absolute_error = Choice(
    key="generators.absolute_error",
    number="12.5",
    task="predict",
    question=(
        "A network learns the rates from every bin to every other by the *absolute* error to the conditional rates, "
        "which is less sensitive to outliers than a square. What will it have learned, if it learns perfectly?"
    ),
    options={
        "a": (
            "the mean rates, as the average error is zero on both sides",
            "The absolute error is smallest at the median: half of the targets above, half below. The mean is found by "
            "a Bregman divergence.",
        ),
        "b": (
            "somewhat smaller rates, as outliers count less; the law is nearly right",
            "They are smaller, yes. By how much? Think of how often the conditional rate from *this* bin to *that* "
            "one is zero.",
        ),
        "c": ("no jumps at all", ""),
        "d": (
            "larger rates, as most data points ask for some jump",
            "It is the other way round: from one bin to another most data points ask for none.",
        ),
    },
    after="Then run the cells below, and open the box.",
    why=(
        "The absolute error finds the median. Given $x_1$ a point leaves only where $p_t(\\cdot|x_1)$ falls and lands "
        "only where it rises, so from one bin to another most data points have the rate 0, and 0 is the median."
    ),
    hints=(
        "Which number is closest, in the mean absolute error, to a set of numbers?",
        "The median. For how many data points is the rate from a given bin to another given bin zero?",
    ),
)


def _rates(draw: torch.Generator) -> list[tuple]:
    cases = []
    for batch, n in [(4, 5), (1, 3), (6, 8)]:
        rate = torch.rand(batch, n, generator=draw, dtype=torch.float64) * 2
        rate = rate * (torch.rand(batch, n, generator=draw, dtype=torch.float64) > 0.4)  # many are zero
        log_rate = torch.randn(batch, generator=draw, dtype=torch.float64)
        log_land = torch.randn(batch, n, generator=draw, dtype=torch.float64).log_softmax(1)
        cases.append((rate, log_rate, log_land))
    return cases


def _divergence(rate: Tensor, log_rate: Tensor, log_land: Tensor) -> Tensor:
    """From the definition, entry by entry."""
    rows = []
    for q, a, b in zip(rate, log_rate, log_land, strict=True):
        terms = []
        for u, log_v in zip(q, a + b, strict=True):
            v = log_v.exp()
            terms.append(v if u == 0 else u * (u / v).log() - u + v)
        rows.append(sum(terms))
    return torch.stack(rows)


_KL = """def answer(rate, log_rate, log_land):
    log_made = log_rate[:, None] + log_land
    told = torch.xlogy(rate, rate) - rate * log_made
    mass = log_rate.exp() - rate.sum(1)
    return told.sum(1) + mass"""

loss_of_rates = Function(
    key="generators.loss_of_rates",
    number="12.6",
    task="write",
    question=(
        "Write the generalised KL divergence of rates without `losses`, as one would in a real code: in logarithms, so "
        "that no rate underflows. `rate` of shape `(batch, n)` holds the conditional rates $Q$ to each of $n$ places, "
        "many of them 0. The network says $Q^\\theta=\\lambda J$ by `log_rate`, $\\log\\lambda$ of shape `(batch,)`, "
        "and `log_land`, $\\log J$ of shape `(batch, n)`, whose exponentials sum to 1. Return "
        "$\\sum_y Q\\log\\frac Q{Q^\\theta}-Q+Q^\\theta$, shape `(batch,)`; with $0\\log0=0$, which is what "
        "`torch.xlogy(rate, rate)` takes for $Q\\log Q$. Below, a network is trained with your loss."
    ),
    given="""def answer(rate, log_rate, log_land):
    log_made = ____
    told = ____
    mass = ____
    return ____""",
    reference=_KL,
    why=(
        "$\\log Q^\\theta=\\log\\lambda+\\log J$, and since $J$ sums to 1, $\\sum_yQ^\\theta=\\lambda$: no product has "
        "to be formed. Take the part that depends on the network, $\\lambda-\\sum_yQ\\,(\\log\\lambda+\\log J)$: each "
        "landing place is weighted by its *rate*, which training the landing law apart forgets."
    ),
    hints=(
        "The log of a product is a sum: `log_rate[:, None] + log_land`.",
        "$Q\\log\\frac Q{Q^\\theta}=Q\\log Q-Q\\log Q^\\theta$: `torch.xlogy(rate, rate) - rate * log_made`.",
        "$\\sum_yQ^\\theta=\\lambda$ is `log_rate.exp()`.",
    ),
    arguments=("rate", "log_rate", "log_land"),
    truth=_divergence,
    cases=_rates,
    wrongs=(
        Wrong(
            _KL.replace("log_rate[:, None] + log_land", "log_land"),
            "The rate is missing in the logarithm: $\\log Q^\\theta=\\log\\lambda+\\log J$.",
        ),
        Wrong(
            _KL.replace("return told.sum(1) + mass", "return told.sum(1)"),
            "The terms $-Q+Q^\\theta$ are missing. Rates do not sum to 1, so without them the loss is smallest for an "
            "infinite rate.",
        ),
        Wrong(
            _KL.replace("log_rate.exp() - rate.sum(1)", "rate.sum(1) - log_rate.exp()"),
            "The signs of the last two terms are swapped: it is $-Q+Q^\\theta$.",
        ),
        Wrong(
            _KL.replace("log_rate.exp() - rate.sum(1)", "log_rate - rate.sum(1)"),
            "$\\sum_yQ^\\theta$ is $\\lambda$, not its logarithm.",
        ),
        Wrong(
            _KL.replace("torch.xlogy(rate, rate) - rate * log_made", "-rate * log_made").replace(
                "log_rate.exp() - rate.sum(1)", "log_rate.exp()"
            ),
            "This differs from the divergence by what does not depend on the network, so it trains as well. But it is "
            "not 0 where the rates agree: $Q\\log Q-Q$ is missing.",
        ),
        Wrong(
            _KL.replace("torch.xlogy(rate, rate) - rate * log_made", "-rate * log_made"),
            "$Q\\log Q$ is missing: the divergence must be 0 where the rates agree.",
        ),
        Wrong(
            _KL.replace("torch.xlogy(rate, rate) - rate * log_made", "rate * log_made - torch.xlogy(rate, rate)"),
            "A sign is wrong: $Q\\log\\frac Q{Q^\\theta}=Q\\log Q-Q\\log Q^\\theta$.",
        ),
        Wrong(
            _KL.replace("told.sum(1)", "told.mean(1)"),
            "You average over the places. The divergence is their *sum*.",
        ),
        Wrong(
            _KL.replace("torch.xlogy(rate, rate) - rate * log_made", "torch.xlogy(rate, rate) - rate * log_made.exp()"),
            "$Q$ is multiplied by the *logarithm* of $Q^\\theta$, which you have already: do not exponentiate it.",
        ),
        Wrong(
            _KL.replace("    told = ", "    rate = rate / rate.sum(1, keepdim=True).clamp(min=1e-300)\n    told = "),
            "You normalise the conditional rates. Then each landing law counts alike, however often its points jump.",
        ),
        Wrong(
            _KL.replace("told.sum(1) + mass", "(log_made.exp() - rate).square().sum(1)"),
            "This is the square, a Bregman divergence too, but not the KL: it weighs large rates too much.",
        ),
    ),
    rights=(
        """def answer(rate, log_rate, log_land):
    made = (log_rate[:, None] + log_land).exp()
    part = torch.where(rate > 0, rate * (rate.clamp(min=1e-30) / made).log(), 0)
    return (part - rate + made).sum(1)""",
        """def answer(Q, a, b):
    kl = torch.nn.functional.kl_div(a.unsqueeze(1) + b, Q, reduction="none").sum(1)
    return kl - Q.sum(1) + torch.exp(a)""",
        """def answer(rate, log_rate, log_land):
    total = rate.sum(1)
    entropy = torch.special.entr(rate).sum(1)
    return torch.exp(log_rate) - total - entropy - total * log_rate - (rate * log_land).sum(1)""",
    ),
    other_wrongs=(
        (_KL.replace("torch.xlogy(rate, rate)", "rate * rate.log()"), "NaN or infinity"),
        (_KL.replace("told.sum(1) + mass", "(told.sum(1) + mass).mean()"), "is expected"),
        (_KL.replace("log_rate[:, None] + log_land", "log_rate + log_land"), "must match the size"),
    ),
)
