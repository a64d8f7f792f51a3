"""Exercises of notebook 6, conditioning and guidance."""

from collections.abc import Callable

import torch
from torch import Tensor

from fmlib import schedules
from fmlib.exercises._questions import Choice, Function, Wrong


def _times(draw: torch.Generator) -> list[tuple]:
    settings = [schedules.CondOT(), schedules.Cosine(), schedules.Polynomial(2.0), schedules.VariancePreserving()]
    return [
        (s, 0.1 + 0.8 * torch.rand(n, generator=draw, dtype=torch.float64))
        for s, n in zip(settings, (5, 4, 1, 7), strict=True)
    ]


def _coefficient(s: schedules.Schedule, t: Tensor) -> Tensor:
    alpha, sigma = s.alpha(t), s.sigma(t)
    return sigma * (s.d_alpha(t) * sigma - s.d_sigma(t) * alpha) / alpha


_B = """def answer(s, t):
    alpha, sigma = s.alpha(t), s.sigma(t)
    d_alpha, d_sigma = s.d_alpha(t), s.d_sigma(t)
    return {}"""

coefficient = Function(
    key="guidance.coefficient",
    number="6.1",
    task="complete",
    question=(
        "Find $b_t$ yourself. With $\\hat x_1=\\mathbb E[X_1|X_t=x]$ and $\\hat x_0=\\mathbb E[X_0|X_t=x]$ you have "
        "$x=\\alpha\\hat x_1+\\sigma\\hat x_0$ and $u=\\alpha'\\hat x_1+\\sigma'\\hat x_0$, and the score is "
        "$-\\hat x_0/\\sigma$. Write $u$ as $a_tx+b_t\\cdot$score. `answer(s, t)` gets a schedule and times `t` in "
        "$(0,1)$, of shape `(batch,)`, and returns $b_t$ of the same shape, for *any* schedule."
    ),
    given=_B.format("____"),
    reference=_B.format("sigma**2 * d_alpha / alpha - sigma * d_sigma"),
    why=(
        "From the first equation $\\hat x_1=(x-\\sigma\\hat x_0)/\\alpha$, so "
        "$u=\\frac{\\alpha'}{\\alpha}x+(\\sigma'-\\sigma\\frac{\\alpha'}{\\alpha})\\hat x_0$. Put "
        "$\\hat x_0=-\\sigma\\cdot$score: $b_t=\\sigma^2\\frac{\\alpha'}{\\alpha}-\\sigma\\sigma'$. Both terms "
        "are positive, since $\\alpha$ rises and $\\sigma$ falls. For cond-OT it is $(1-t)/t$."
    ),
    hints=(
        "Solve the first equation for $\\hat x_1$ and put it into the second. What stands in front of $\\hat x_0$?",
        "It is $\\sigma'-\\sigma\\alpha'/\\alpha$. Now $\\hat x_0=-\\sigma\\cdot$score.",
        "$b_t=-\\sigma(\\sigma'-\\sigma\\alpha'/\\alpha)$; multiply out.",
    ),
    arguments=("s", "t"),
    truth=_coefficient,
    cases=_times,
    wrongs=(
        Wrong(
            _B.format("(1 - t) / t"),
            "This is right for cond-OT and for no other schedule. Write it with $\\alpha$, $\\sigma$ and their "
            "derivatives.",
        ),
        Wrong(
            _B.format("sigma**2"),
            "$\\sigma^2$ stands in front of the score in the *denoiser*, $\\alpha\\hat x_1=x+\\sigma^2\\cdot$score. "
            "You need what stands there in the velocity.",
        ),
        Wrong(
            _B.format("d_alpha / alpha"),
            "This is $a_t$, what stands in front of $x$. You need what stands in front of the score.",
        ),
        Wrong(
            _B.format("sigma**2 * d_alpha / alpha"),
            "One of two terms is missing: $\\hat x_0$ stands in $u$ itself too, with $\\sigma'$ in front of it.",
        ),
        Wrong(
            _B.format("-sigma * d_sigma"),
            "One of two terms is missing: $\\hat x_1$ contains $\\hat x_0$ too, as $x=\\alpha\\hat x_1+\\sigma\\hat "
            "x_0$.",
        ),
        Wrong(
            _B.format("sigma**2 * d_alpha / alpha + sigma * d_sigma"),
            "A sign is wrong: $\\sigma'$ is negative, and both terms of $b_t$ are positive.",
        ),
        Wrong(
            _B.format("sigma * d_sigma - sigma**2 * d_alpha / alpha"),
            "The sign of all of it is wrong. The score is *minus* $\\hat x_0/\\sigma$: guidance is to go uphill.",
        ),
        Wrong(
            _B.format("d_sigma - sigma * d_alpha / alpha"),
            "This stands in front of $\\hat x_0$. Put $\\hat x_0=-\\sigma\\cdot$score.",
        ),
        Wrong(
            _B.format("sigma * d_alpha / alpha - d_sigma"),
            "Nearly: the noise is $\\hat x_0=-\\sigma\\cdot$score, so one more factor $\\sigma$ is needed.",
        ),
    ),
    rights=(
        _B.format("sigma * (d_alpha * sigma - d_sigma * alpha) / alpha"),
        "def answer(s, t):\n    from fmlib import AffinePath\n"
        '    return AffinePath(s).coefficients(t, have="score", want="velocity")[1]',
        "answer = lambda s, t: s.sigma(t) * (s.sigma(t) * s.d_alpha(t) / s.alpha(t) - s.d_sigma(t))",
    ),
    other_wrongs=((_B.format("2 * sigma"), "expected is"), (_B.format("sigma[:, None]"), "is expected")),
)


class _Velocity:
    """Stands in for a network without labels."""

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        return torch.sin(2 * x) - x.flip(1)

    def __repr__(self) -> str:
        return "u"


class _LogProb:
    """Stands in for a classifier: log-probabilities (batch,), each of its own row."""

    def __call__(self, x: Tensor, t: float | Tensor, y: Tensor) -> Tensor:
        return -((x - y[:, None]).square() * (1 + torch.as_tensor(t).to(x).reshape(-1, 1))).sum(1).add(1).log()

    def __repr__(self) -> str:
        return "log_prob"


def _classified(draw: torch.Generator) -> list[tuple]:
    cases = []
    for n, d in [(6, 2), (1, 3), (20, 5)]:
        b, t = torch.rand(2, n, generator=draw, dtype=torch.float64) + 0.1
        x = torch.randn(n, d, generator=draw, dtype=torch.float64)
        y = torch.randint(3, (n,), generator=draw)
        cases.append((_Velocity(), _LogProb(), b, x, t / 1.1, y))
    return cases


def _row_by_row(u: Callable, log_prob: Callable, b: Tensor, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    slopes = []
    for i in range(len(x)):
        with torch.enable_grad():
            point = x[i : i + 1].detach().requires_grad_()
            slopes.append(torch.autograd.grad(log_prob(point, t[i : i + 1], y[i : i + 1]), point)[0])
    return u(x, t) + b[:, None] * torch.cat(slopes)


_MEAN = """def answer(u, log_prob, b, x, t, y):
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        total = {}
        slope, = torch.autograd.grad(total, point)
    return u(x, t) + b[:, None] * slope"""
_SUM = _MEAN.format("log_prob(point, t, y).sum()")

gradient_of_mean = Function(
    key="guidance.gradient_of_mean",
    number="6.2",
    task="find the bug",
    question=(
        "Somebody guides by a classifier. `b` holds the $b_t$ of each row, and `log_prob(x, t, y)` the "
        "log-probabilities, both of shape `(batch,)`. Drawn one by one, the samples are right; drawn a thousand at a "
        "time, they look as if there were no guidance at all. One line is wrong. Put it right, and change nothing else."
    ),
    given=_MEAN.format("log_prob(point, t, y).mean()"),
    reference=_SUM,
    why=(
        "Row $i$ of the gradient of $\\sum_j\\log p(y_j|x_j)$ is $\\nabla\\log p(y_i|x_i)$, since the other terms do "
        "not contain $x_i$. The mean divides it by the size of the batch, so guidance fades as the batch grows. In a "
        "loss a mean is harmless, as the learning rate makes up for it. Here the gradient itself is what you need."
    ),
    hints=(
        "What depends on the number of rows here, and should not?",
        "`torch.autograd.grad` needs one number. Which one has, for each row, just that row's own gradient?",
    ),
    arguments=("u", "log_prob", "b", "x", "t", "y"),
    truth=_row_by_row,
    cases=_classified,
    wrongs=(
        Wrong(
            _MEAN.format("log_prob(point, t, y).mean(0)"),
            "This is still the mean over the batch: each row's gradient is divided by the number of rows.",
        ),
        Wrong(
            _MEAN.format("log_prob(point, t, y).exp().sum()"),
            "Now you differentiate the probabilities. Bayes' rule needs the gradient of their *logarithm*.",
        ),
        Wrong(
            _MEAN.format("log_prob(point, t, y).exp().mean()"),
            "This is the mean of the probabilities. It needs neither the mean nor the probabilities themselves, but "
            "the logarithms.",
        ),
        Wrong(
            _MEAN.format("log_prob(point, t, y).exp().sum().log()"),
            "The logarithm of a sum mixes the rows: each one's gradient then depends on all others. Take the sum of "
            "the logarithms.",
        ),
        Wrong(
            _MEAN.format("-log_prob(point, t, y).sum()"),
            "This goes downhill, away from the label. A loss has this minus sign; a guide has not.",
        ),
        Wrong(
            _MEAN.format("log_prob(point, t, y).max()"),
            "Only the row with the largest log-probability is guided like this. Every row needs its own gradient.",
        ),
        Wrong(
            _MEAN.format("log_prob(point, t, y).square().sum()"),
            "The square multiplies each gradient by twice its log-probability. The sum of the logarithms is enough.",
        ),
        Wrong(
            _SUM.replace("b[:, None] * slope", "slope"),
            "The sum is right. But now b is lost: undo that.",
        ),
        Wrong(
            _SUM.replace("u(x, t) + ", ""),
            "The sum is right. But the velocity without a label is lost: undo that.",
        ),
    ),
    rights=(
        _MEAN.format("log_prob(point, t, y).mean() * len(x)"),
        _MEAN.format("torch.sum(log_prob(point, t, y))"),
        """def answer(u, log_prob, b, x, t, y):
    with torch.enable_grad():
        point = x.clone().requires_grad_()
        value = log_prob(point, t, y)
        slope = torch.autograd.grad(value, point, torch.ones_like(value))[0]
    return u(x, t) + slope * b.unsqueeze(1)""",
    ),
    other_wrongs=(
        (_MEAN.format("log_prob(point, t, y)"), "grad can be implicitly created only for scalar outputs"),
        (_MEAN.format("log_prob(x, t, y).sum()"), "does not require grad"),
    ),
)


class _Labelled:
    """Stands in for a network with labels: every one of x, t and the label of the row counts."""

    def __call__(self, x: Tensor, t: float | Tensor, label: Tensor) -> Tensor:
        if not isinstance(label, Tensor) or label.is_floating_point() or label.shape != x.shape[:1]:
            came = f"{tuple(label.shape)}, {label.dtype}" if isinstance(label, Tensor) else type(label).__name__
            raise ValueError(f"u needs a label for each of {len(x)} rows, integers of shape ({len(x)},), got {came}")
        if isinstance(t, Tensor) and t.shape not in ((), x.shape[:1]):
            raise ValueError(f"u needs t as a number or of shape ({len(x)},), got {tuple(t.shape)}")
        time, y = torch.as_tensor(t).to(x).reshape(-1, 1), label[:, None].to(x)
        return torch.sin((1 + y) * x) + time * torch.cos(y + 1) - y / 3

    def __repr__(self) -> str:
        return "u"


def _asked(draw: torch.Generator) -> list[tuple]:
    cases = []
    for (n, d), null, w in [((6, 2), 4, 3.0), ((1, 3), 10, 1.5), ((9, 5), 3, 0.25), ((4, 2), 7, 5.0)]:
        x = torch.randn(n, d, generator=draw, dtype=torch.float64)
        cases.append((_Labelled(), x, 0.3 + 0.1 * d, torch.randint(1, 3, (n,), generator=draw), null, w))
    return cases


def _guided(u: Callable, x: Tensor, t: float, label: Tensor, null: int, w: float) -> Tensor:
    free, told = u(x, t, torch.full_like(label, null)), u(x, t, label)
    return free + w * (told - free)


_HALVES = """def answer(u, x, t, label, null, w):
    nulls = torch.full_like(label, null)
    both = u(torch.cat([x, x]), t, torch.cat([nulls, label]))
    free, told = both.chunk(2)
    return {}"""
_RIGHT = _HALVES.format("(1 - w) * free + w * told")

guided_velocity = Function(
    key="guidance.guided_velocity",
    number="6.3",
    task="write",
    question=(
        "Write $u^w_t(x|y)$ for a batch, with **one** call of the network: put the points in twice, once with the null "
        "label and once with their own, and mix the two halves of what comes out. `u(x, t, label)` takes `x` of shape "
        "`(batch, d)`, a number `t` and integer labels of shape `(batch,)`; `null` is the null label, a number, and "
        "`w` the weight. The answer has the shape of `x`. (`torch.full_like` and `torch.cat` help.) Below, your "
        "function draws a figure."
    ),
    given="""def answer(u, x, t, label, null, w):
    nulls = ____
    both = ____
    ____
    return ____""",
    reference=_RIGHT,
    why=(
        "The label enters through the second half only, and the weights sum to 1, so $w=1$ gives $u_t(x|y)$ and $w=0$ "
        "gives $u_t(x|\\varnothing)$. One call with twice the rows costs less than two calls: the network's weights "
        "are read once, and Python waits once. Rows must not depend on each other, as they would in batch "
        "normalisation."
    ),
    hints=(
        "`torch.full_like(label, null)` is a null label for each row.",
        "`u(torch.cat([x, x]), t, torch.cat([nulls, label]))` has twice the rows: first without, then with the label.",
        "`both.chunk(2)` gives the two halves. Mix them with $1-w$ and $w$.",
    ),
    arguments=("u", "x", "t", "label", "null", "w"),
    truth=_guided,
    cases=_asked,
    wrongs=(
        Wrong(
            _HALVES.format("w * free + (1 - w) * told"),
            "The halves or their weights are the wrong way round: at $w=1$ it must be the velocity *with* the label.",
        ),
        Wrong(
            _HALVES.format("(1 + w) * told - w * free"),
            "This is the other convention, with $1+w$ in front of $u_t(x|y)$: at $w=1$ it guides already. Here "
            "$w=1$ is the velocity with the label itself.",
        ),
        Wrong(
            _HALVES.format("free + w * told"),
            "The weights sum to $1+w$: the velocity without the label is counted in full. Stretch the *difference*, "
            "$u(x|\\varnothing)+w\\,(u(x|y)-u(x|\\varnothing))$.",
        ),
        Wrong(
            _HALVES.format("w * (told - free)"),
            "This is the stretched difference alone. Add it to the velocity without the label.",
        ),
        Wrong(
            _HALVES.format("told"),
            "This is the velocity with the label, whatever $w$ is. Where do the other half and the weight come in?",
        ),
        Wrong(
            _HALVES.format("free"),
            "This is the velocity without the label, whatever $w$ is. Where do the other half and the weight come in?",
        ),
        Wrong(
            _HALVES.format("w * told"),
            "You scale the velocity with the label: this changes how fast the samples go, not where. Mix it with the "
            "velocity without the label.",
        ),
        Wrong(
            _HALVES.format("(free + told) / 2"),
            "This is the mean of the halves: the weight $w$ does not occur.",
        ),
        Wrong(
            _RIGHT.replace("torch.full_like(label, null)", "torch.zeros_like(label)"),
            "Your null label is 0, and this is the first class. Use `null`.",
        ),
        Wrong(
            _RIGHT.replace("torch.cat([x, x])", "x.repeat_interleave(2, 0)"),
            "Points and labels are out of step: `repeat_interleave` puts the two copies of a row beside each other, "
            "and `torch.cat` of the labels puts them a whole batch apart.",
        ),
        Wrong(
            _RIGHT.replace("(torch.cat([x, x])", "(torch.cat([0 * x, x])"),
            "You hide the point from the first half. It is the *label* that is hidden there; the points are the same.",
        ),
    ),
    rights=(
        """def answer(u, x, t, label, null, w):
    free = u(x, t, torch.full_like(label, null))
    return torch.lerp(free, u(x, t, label), w)""",
        """def answer(u, x, t, label, null, w):
    labels = torch.stack([label, 0 * label + null]).flatten()
    told, free = u(x.repeat(2, 1), t, labels).split(len(x))
    return free + w * (told - free)""",
        """def answer(u, x, t, label, null, w):
    labels = torch.stack([torch.full_like(label, null), label], 1).flatten()
    both = u(x.repeat_interleave(2, 0), t, labels).unflatten(0, (len(x), 2))
    return both[:, 0] + w * (both[:, 1] - both[:, 0])""",
    ),
    other_wrongs=(
        (_HALVES.format("both"), "is expected"),
        (_RIGHT.replace("torch.cat([x, x])", "x"), "u needs a label for each of"),
        (_RIGHT.replace("torch.full_like(label, null)", "null"), "TypeError"),
    ),
)

narrow_variance = Choice(
    key="guidance.narrow_variance",
    number="6.4",
    task="predict",
    question=(
        "All points follow $N(0,1)$, those with the label $N(1,\\tfrac12)$. You guide with $w=3$ and exact velocities. "
        "What is the variance of the samples? Answer before you look."
    ),
    options={
        "a": (
            "$\\tfrac12$: guidance moves the samples, and does not narrow them",
            "Then both velocities would have to have the same slope in $x$. The one towards the narrow class has the "
            "smaller slope, and $w=3$ makes it smaller still.",
        ),
        "b": (
            "$\\tfrac14$: that of the tilted law, $1/(w/s^2+1-w)$",
            "The tilt mixes precisions, and this is what most people expect. But the flow's variance obeys the "
            "equation above, in which logarithms of variances are mixed.",
        ),
        "c": (
            "$\\tfrac16$: the variance of the label over $w$, like a temperature",
            "A temperature of $1/3$ would do this to $q(x|y)$ alone. Here the velocity of all points is taken away as "
            "well, and neither acts at $t=1$ only.",
        ),
        "d": ("$\\tfrac18$: $s^{2w}$", ""),
    },
    after="Then open the two boxes below.",
    why=(
        "Integrate the equation above from 0 to 1. Both variances begin at 1, so "
        "$\\log\\mathrm{Var}_1=(1-w)\\log1+w\\log s^2$, and $\\mathrm{Var}_1=s^{2w}=(\\tfrac12)^3$. The schedule does "
        "not occur. The tilted law has $\\tfrac14$, twice as much."
    ),
    hints=(
        "Integrate both sides of the last equation from $t=0$ to $t=1$. What are the variances at the two ends?",
        "$\\log\\mathrm{Var}_1=(1-w)\\log1+w\\log\\tfrac12$.",
    ),
)

wide_class = Choice(
    key="guidance.wide_class",
    number="6.5",
    task="predict",
    question=(
        '"Guidance lowers diversity." Take two classes on the line with one centre: half of the points follow '
        "$N(0,1.2^2)$, label 0, and half $N(0,0.3^2)$, label 1. Guide towards the *wide* one with $w=3$. Compared "
        "with $w=1$, the variance of the samples"
    ),
    options={
        "a": (
            "falls: guidance concentrates the samples where the label is surest",
            "The label 0 is surest far out, where the narrow class has no points. Concentrating the samples there "
            "spreads them.",
        ),
        "b": (
            "stays: both classes have the same centre, so there is nothing to move away from",
            "The difference of the velocities is not zero: one leads into a narrow bump, one into a wide one. It "
            "points outwards.",
        ),
        "c": ("rises: guidance leads away from the narrow class, which lies in the middle", ""),
        "d": (
            "falls to that of the narrow class",
            "This is where a *negative* weight would lead. The weight 3 leads away from what the average knows of the "
            "narrow class.",
        ),
    },
    after="Then open the box below.",
    why=(
        "Guidance leads away from the average of all points, towards what tells the label. For a class narrower than "
        "the average this means narrower, as in 6.4; for a wide one it means wider. The middle, where the narrow class "
        "lies, is emptied. So guidance lowers diversity only where the label is a matter of being near something."
    ),
    hints=(
        "Where on the line is a point surely of label 0?",
        "The guided velocity is $u(x|0)+(w-1)(u(x|0)-u(x))$. In which direction does the difference point at $x=0.3$?",
    ),
)


def _hidden(draw: torch.Generator) -> list[tuple]:
    cases = []
    for (n, d), null in [((6, 2), 4), ((3, 3), 10), ((12, 5), 3)]:
        x_0, x_1 = torch.randn(2, n, d, generator=draw, dtype=torch.float64)
        t = torch.rand(n, generator=draw, dtype=torch.float64)
        hide = torch.arange(n) % 3 == 1
        cases.append((_Labelled(), x_0, x_1, t, torch.randint(1, 3, (n,), generator=draw), hide, null))
    return cases


def _loss(u: Callable, x_0: Tensor, x_1: Tensor, t: Tensor, label: Tensor, hide: Tensor, null: int) -> Tensor:
    shown = torch.tensor([null if hidden else y for y, hidden in zip(label.tolist(), hide.tolist(), strict=True)])
    x_t = x_0 + t[:, None] * (x_1 - x_0)
    return (u(x_t, t, shown) - (x_1 - x_0)).pow(2).sum() / x_0.numel()


_LOSS = """def answer(u, x_0, x_1, t, label, hide, null):
    shown = {}
    x_t = (1 - t[:, None]) * x_0 + t[:, None] * x_1
    error = {} - (x_1 - x_0)
    return error.square().mean()"""
_SHOWN, _CALL = "torch.where(hide, null, label)", "u(x_t, t, shown)"
_DROPPED = _LOSS.format(_SHOWN, _CALL)

hidden_labels = Function(
    key="guidance.hidden_labels",
    number="6.6",
    task="write",
    question=(
        "Write this loss on given draws: `answer(u, x_0, x_1, t, label, hide, null)`. The straight walk and the mean "
        "square of the error are those of notebook 1; new is that `u(x, t, label)` sees the label `null` in the rows "
        "where `hide` is true. `x_0`, `x_1` have shape `(batch, d)`; `t`, the integers `label` and the booleans `hide` "
        "have shape `(batch,)`; `null` is a number. Return one number, a tensor of shape `()`. Below, your function "
        "trains a network."
    ),
    given="""def answer(u, x_0, x_1, t, label, hide, null):
    shown = ____
    x_t = ____
    error = ____
    return ____""",
    reference=_DROPPED,
    why=(
        "Only the label that the network sees changes; point, target and loss stay. In the rows with the null label "
        "the network can but predict the mean over all labels that are possible at this point, which is $u_t(x)$. In "
        "the other rows it learns $u_t(x|y)$. So one network and one loss give both halves of guidance."
    ),
    hints=(
        "First the labels that the network is shown: `null` where `hide` is true, `label` elsewhere.",
        "`torch.where(hide, null, label)` or `label.masked_fill(hide, null)` does this without changing `label`.",
        "Then as in notebook 1: $X_t$ with `t[:, None]`, the target $X_1-X_0$, and the mean of the squares.",
    ),
    arguments=("u", "x_0", "x_1", "t", "label", "hide", "null"),
    truth=_loss,
    cases=_hidden,
    wrongs=(
        Wrong(
            _LOSS.format("label", _CALL),
            "No label is hidden: the network would never learn what the null label means. Use `hide` and `null`.",
        ),
        Wrong(
            _LOSS.format("torch.where(hide, label, null)", _CALL),
            "You hide the labels that are to be shown, and show those that are to be hidden.",
        ),
        Wrong(
            _LOSS.format("torch.full_like(label, null)", _CALL),
            "All labels are hidden: the network would learn $u_t(x)$ only. Hide them where `hide` is true.",
        ),
        Wrong(
            _LOSS.format("label * ~hide", _CALL),
            "The hidden labels become 0, and this is the first class: it would learn from all points. Use `null`.",
        ),
        Wrong(
            _DROPPED.replace("error.square().mean()", "error[~hide].square().mean()"),
            "The rows with a hidden label are left out of the loss: nothing is learned about the null label. They "
            "count like all others.",
        ),
        Wrong(
            _DROPPED.replace("error.square().mean()", "error[hide].square().mean()"),
            "Only the rows with a hidden label count here. All rows do.",
        ),
        Wrong(
            _DROPPED.replace("- (x_1 - x_0)", "- (x_0 - x_1)"),
            "The target has the wrong sign: the walk goes from $x_0$ to $x_1$.",
        ),
        Wrong(
            _DROPPED.replace("- (x_1 - x_0)", "- x_1"),
            "Your target is the end point. The velocity of the walk is $x_1-x_0$.",
        ),
        Wrong(
            _DROPPED.replace("(1 - t[:, None]) * x_0 + t[:, None] * x_1", "t[:, None] * x_0 + (1 - t[:, None]) * x_1"),
            "Your walk runs backwards: at $t=0$ it must be at $x_0$.",
        ),
        Wrong(
            _DROPPED.replace(".mean()", ".sum()"),
            "This is the sum over rows and coordinates. The loss is their mean.",
        ),
        Wrong(
            _DROPPED.replace("error.square().mean()", "error.square().sum(1).mean()"),
            "You sum over the coordinates. The loss of notebook 1 is the mean over all entries of all rows.",
        ),
        Wrong(
            _DROPPED.replace("error.square()", "error.abs()"),
            "This is the mean of the absolute errors, whose minimum is a median. The mean of the *squares* makes the "
            "network predict a mean.",
        ),
    ),
    rights=(
        _LOSS.format("label.masked_fill(hide, null)", _CALL),
        """def answer(u, x_0, x_1, t, label, hide, null):
    shown = label.clone()
    shown[hide] = null
    x_t = torch.lerp(x_0, x_1, t[:, None])
    return torch.nn.functional.mse_loss(u(x_t, t, shown), x_1 - x_0)""",
        """def answer(net, start, end, time, y, hidden, null):
    way = end - start
    seen = y * ~hidden + null * hidden
    return ((net(start + time.unsqueeze(1) * way, time, seen) - way) ** 2).mean()""",
    ),
    other_wrongs=(
        (_DROPPED.replace("shown = torch.where(hide, null, label)", "label[hide] = null; shown = label"), "in place"),
        (_DROPPED.replace("t[:, None]", "t"), "must match the size"),
        (_DROPPED.replace("error.square().mean()", "error.square().mean(1)"), "is expected"),
        (_DROPPED.replace("error.square().mean()", "error.square().mean().item()"), "must return a torch tensor"),
    ),
)
