"""Exercises of notebook 9, faster sampling."""

from collections.abc import Callable

import torch
from torch import Tensor

from fmlib.exercises._questions import Choice, Function, Wrong


class _Current:
    """A velocity in which both the place and the time count. x: (n, d); t: a number or a 0-d tensor."""

    def __call__(self, x: Tensor, t) -> Tensor:
        return torch.sin(2 * x) + 2 * t * x.flip(1) + 1

    def __repr__(self) -> str:
        return "u"


_current = _Current()


def _changes(draw: torch.Generator) -> list[tuple]:
    cases = [(_current, torch.ones(1, 2, dtype=torch.float64), *torch.tensor([0.25, 1.5, 2.0, -0.5]).double())]
    for shape in [(6, 2), (1, 3), (20, 4)]:
        x = torch.randn(shape, generator=draw, dtype=torch.float64)
        t, dt, scale, dscale = torch.rand(4, generator=draw, dtype=torch.float64)
        cases.append((_current, x, t, 0.5 + dt, 1.2 + scale, dscale - 1.5))
    return cases


def _on_new_schedule(u: Callable, x: Tensor, t: Tensor, dt: Tensor, scale: Tensor, dscale: Tensor) -> Tensor:
    """The derivative in r of scale(r) X(t(r)) with X' = u, by the rule for products and then the chain rule."""
    there = x / scale
    return there * dscale + scale * (u(there, t) * dt)


_CHANGE = """def answer(u, x, t, dt, scale, dscale):
    there = {}
    moving = {}
    growing = {}
    return moving + growing"""
_THERE, _MOVING, _GROWING = "x / scale", "scale * dt * u(there, t)", "dscale * there"

rescheduled = Function(
    key="faster.rescheduled",
    number="9.1",
    task="write",
    question=(
        "Write the velocity of the new path, $\\tilde u_r(x)=\\frac{d}{dr}\\,s_rX_{t_r}$ for the trajectory with "
        "$s_rX_{t_r}=x$. `u(x, t)` is the velocity of the old path; `t`, `dt`, `scale`, `dscale` are $t_r$, $t_r'$, "
        "$s_r$, $s_r'$. `there` is where the old trajectory is, `moving` the part that comes from its motion, "
        "`growing` the part that comes from the scale. Below, your function draws a figure."
    ),
    given=_CHANGE.format("____", "____", "____"),
    reference=_CHANGE.format(_THERE, _MOVING, _GROWING),
    why=(
        "By the product and the chain rule $\\frac{d}{dr}s_rX_{t_r}=s_r'X_{t_r}+s_r\\,t_r'\\,u_{t_r}(X_{t_r})$, and "
        "$X_{t_r}=x/s_r$. One evaluation of the old network is one of the new velocity: the change costs nothing."
    ),
    hints=(
        "The old trajectory is at $X_{t_r}$, and $s_rX_{t_r}=x$.",
        "Differentiate the product $s_r\\cdot X_{t_r}$ by $r$. $X$ itself changes at the rate $u$ per unit of *its* "
        "time $t$, and $t$ runs at the rate $t_r'$.",
        "`growing` is $s_r'X_{t_r}$, `moving` is $s_r\\,t_r'\\,u_{t_r}(X_{t_r})$.",
    ),
    arguments=("u", "x", "t", "dt", "scale", "dscale"),
    truth=_on_new_schedule,
    wrongs=(
        Wrong(
            _CHANGE.format("x", _MOVING, "dscale * x / scale"),
            "You ask the old network at $x$. It has never seen the new path: ask it where the *old* trajectory is, at "
            "$x/s_r$.",
        ),
        Wrong(
            _CHANGE.format("x", _MOVING, _GROWING),
            "The old trajectory is not at $x$, which is the place on the new path. Divide by the scale.",
        ),
        Wrong(
            _CHANGE.format("x * scale", _MOVING, _GROWING),
            "You multiply by the scale where you should divide: $s_rX_{t_r}=x$, so $X_{t_r}=x/s_r$.",
        ),
        Wrong(
            _CHANGE.format(_THERE, "scale * u(there, t)", _GROWING),
            "The chain rule is missing: the old clock runs at the rate $t_r'$, so the old motion counts $t_r'$ times.",
        ),
        Wrong(
            _CHANGE.format(_THERE, "dt * u(there, t)", _GROWING),
            "The old motion is magnified too: in $s_rX_{t_r}$ it is multiplied by $s_r$.",
        ),
        Wrong(
            _CHANGE.format(_THERE, _MOVING, "0 * there"),
            "The growth of the scale is missing. Even a sample that does not move on the old path moves on the new "
            "one, at the rate $s_r'X_{t_r}$.",
        ),
        Wrong(
            _CHANGE.format(_THERE, _MOVING, "dscale * x"),
            "The scale grows what it is applied to: the rate is $s_r'X_{t_r}$, not $s_r'x$. A factor $1/s_r$ is "
            "missing.",
        ),
        Wrong(
            _CHANGE.format(_THERE, "u(there, t)", _GROWING),
            "Both factors of the motion are missing: the rate of the clock, $t_r'$, and the scale, $s_r$.",
        ),
        Wrong(
            _CHANGE.format(_THERE, "scale / dt * u(there, t)", _GROWING),
            "You divide by the rate of the clock. If the clock runs twice as fast, the motion is twice as fast.",
        ),
        Wrong(
            _CHANGE.format(_THERE, "u(there, t) * dt / scale", _GROWING),
            "You divide the motion by the scale. On the new path everything is $s_r$ times as large, its motion too.",
        ),
        Wrong(
            _CHANGE.format(_THERE, _MOVING, "-dscale * there"),
            "The sign of the growth is wrong: with $s_r'>0$ the samples move away from the origin.",
        ),
    ),
    cases=_changes,
    rights=(
        "def answer(u, x, t, dt, scale, dscale):\n    return dscale / scale * x + scale * dt * u(x / scale, t)",
        "def answer(u, x, t, dt, scale, dscale):\n    old = x.div(scale)\n    rate = u(old, t).mul(dt)\n"
        "    return torch.addcmul(dscale * old, scale, rate)",
        _CHANGE.format("x * (1 / scale)", "u(there, t) * (scale * dt)", "x * dscale / scale"),
    ),
    other_wrongs=(
        (
            _CHANGE.format(_THERE, _MOVING, _GROWING).replace("moving + growing", "moving - growing"),
            "sign of the growth",
        ),
        ("def answer(u, x, t, dt, scale, dscale):\n    return x", "expected is"),
    ),
)

line_reflow = Choice(
    key="faster.line_reflow",
    number="9.2",
    task="predict",
    question=(
        "Take data on the *line*, a mixture of two Gaussians, and the exact flow to them from $N(0,1)$; it bends. "
        "Reflow once, with a perfect network. How many Euler steps does the new flow need to be exact?"
    ),
    options={
        "a": ("one", ""),
        "b": (
            "two, and fewer with each further reflow",
            "In general a reflow does leave something to do. Look at when that happens: where two of the new straight "
            "lines meet, the network has to average. Do they meet here?",
        ),
        "c": (
            "it depends on the number of modes",
            "The number of modes decides how far the first flow bends. The second sees only straight lines between its "
            "ends; what counts is whether they cross.",
        ),
        "d": (
            "as many as before: the law of the data has not changed",
            "The law has not, but the pairs have: now a start tells its end. Straightness is a matter of pairs.",
        ),
    },
    after="Then open the box.",
    why=(
        "Trajectories of a flow do not cross, so on the line they keep their order: $\\psi_1$ is an increasing map. "
        "Then $(1-t)x+t\\psi_1(x)$ is increasing in $x$ as well, for every $t$: the straight lines do not cross, each "
        "place has one line through it, and the marginal velocity is that line's. One step is exact. In the plane "
        "lines can cross, and the flow after a reflow may bend."
    ),
    hints=(
        "The marginal velocity averages over the lines that pass through one place at one time. How many are there?",
        "Can trajectories of a flow cross? What does that mean on the line, for the order of the ends?",
    ),
)

below_optimum = Choice(
    key="faster.below_optimum",
    number="9.3",
    task="predict",
    question=(
        "The mean transport cost $\\mathbb E\\|X_1-X_0\\|^2$ of the exact flow's pairs is 0.83, and they happen to be "
        "the cheapest pairs of these two laws (as you will see). After the reflow the new network carries fresh noise "
        "to its ends at a cost of less than 0.8. What does that say?"
    ),
    options={
        "a": (
            "the reflow has found a better coupling of the two laws",
            "There is none: 0.83 is the optimum over *all* couplings of these two laws.",
        ),
        "b": (
            "nothing, costs are noisy",
            "They are, but both costs are measured from the same noise, and their difference is many standard errors "
            "away from zero.",
        ),
        "c": ("the new network's samples no longer follow the data's law", ""),
        "d": (
            "that its trajectories are straighter than the optimal ones",
            "How a sample travels does not enter: the cost is the squared distance between its two ends.",
        ),
    },
    after="Then open the box.",
    why=(
        "Whoever pays less than the least cost between $p$ and $q$ delivers somewhere else. By the triangle inequality "
        "for the Wasserstein distance the new law is at least $\\sqrt{0.83}-\\sqrt{0.8}$ away from $q$. A regression "
        "shrinks what it cannot resolve towards its mean, and every generation of reflow adds such an error; a cost "
        "below the optimum is its symptom."
    ),
    hints=(
        "What is the optimum taken over? Which two laws have to be its ends?",
        "If the start's law is right and the cost is below the optimum, what must be wrong?",
    ),
)


class _Average:
    """The average velocity of dx/dt = x + t, in closed form: exact, so that identities hold. t, s: (n,)."""

    def __call__(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        t, s = (v.reshape(-1, 1) if isinstance(v, Tensor) else torch.full_like(x[:, :1], v) for v in (t, s))
        end = (x + t + 1) * torch.exp(s - t) - s - 1
        return torch.where(s == t, x + t, (end - x) / torch.where(s == t, torch.ones_like(s), s - t))

    def __repr__(self) -> str:
        return "a"


class _Untrained:
    """Some function of two times and a place, which satisfies no identity. t, s: (n,), or numbers."""

    def __call__(self, x: Tensor, t, s) -> Tensor:
        t, s = (v.reshape(-1, 1) if isinstance(v, Tensor) else torch.full_like(x[:, :1], v) for v in (t, s))
        return torch.sin(2 * x) * (1 + s) + t * x.flip(1) + s**2

    def __repr__(self) -> str:
        return "a"


def _parts(draw: torch.Generator) -> list[tuple]:
    cases = []
    for a, shape in [(_Untrained(), (6, 2)), (_Untrained(), (1, 3)), (_Average(), (20, 4))]:
        x = torch.randn(shape, generator=draw, dtype=torch.float64)
        gaps = 0.05 + torch.rand(4, shape[0], generator=draw, dtype=torch.float64)
        t, m, s = (gaps[:3].cumsum(0) / gaps.sum(0)).unbind()
        cases.append((a, x, t, m, s))
    return cases


def _joined(a: Callable, x: Tensor, t: Tensor, m: Tensor, s: Tensor) -> Tensor:
    """Where two jumps lead, less where they began, over the time that they took."""
    middle = x + (m - t)[:, None] * a(x, t, m)
    end = middle + (s - m)[:, None] * a(middle, m, s)
    return (end - x) / (s - t)[:, None]


_PARTS = """def answer(a, x, t, m, s):
    t_, m_, s_ = t[:, None], m[:, None], s[:, None]
    first = {}
    middle = {}
    second = {}
    return {}"""
_FIRST, _MIDDLE, _SECOND = "a(x, t, m)", "x + (m_ - t_) * first", "a(middle, m, s)"
_JOINED = "((m_ - t_) * first + (s_ - m_) * second) / (s_ - t_)"

two_parts = Function(
    key="faster.two_parts",
    number="9.4",
    task="write",
    question=(
        "A way from $t$ to $s$ is cut at some time $m$ between them, not necessarily in the middle. Write the average "
        "velocity on the whole way from those on its two parts. `a(x, t, s)` is an average velocity, with `x` of shape "
        "`(n, d)` and times of shape `(n,)`; as columns they are `t_`, `m_`, `s_`. `first` is the average velocity on "
        "the first part, `middle` where it leads, `second` the average velocity on the second part. Below, your "
        "function draws a figure."
    ),
    given=_PARTS.format("____", "____", "____", "____"),
    reference=_PARTS.format(_FIRST, _MIDDLE, _SECOND, _JOINED),
    why=(
        "The whole way is $(m-t)\\,a(x,t,m)+(s-m)\\,a(x_m,m,s)$ with $x_m=x+(m-t)\\,a(x,t,m)$, and the average is that "
        "over the time $s-t$. With $m$ in the middle both parts weigh one half: the identity of the shortcut models. "
        "No velocity and no derivative occurs in it, only jumps."
    ),
    hints=(
        "Each part is a jump: from $x$ at time $t$ to time $m$, then from where that leads to time $s$.",
        "`middle` is $\\psi_{m|t}(x)=x+(m-t)\\,a(x,t,m)$, and the second part starts there, at time $m$.",
        "An average over time weighs each part by how long it lasts: $m-t$ and $s-m$, over $s-t$.",
    ),
    arguments=("a", "x", "t", "m", "s"),
    truth=_joined,
    wrongs=(
        Wrong(
            _PARTS.format(_FIRST, _MIDDLE, _SECOND, "(first + second) / 2"),
            "The plain mean is right where $m$ is halfway. Here the parts last differently long: weigh each by its "
            "time.",
        ),
        Wrong(
            _PARTS.format(_FIRST, "x", _SECOND, _JOINED),
            "The second part starts where the first one has led, not at $x$ again. The trajectory has moved on.",
        ),
        Wrong(
            _PARTS.format(_FIRST, "x + first", _SECOND, _JOINED),
            "The first part lasts $m-t$, not a whole unit of time: it leads to $x+(m-t)\\,a(x,t,m)$.",
        ),
        Wrong(
            _PARTS.format(_FIRST, "x + (s_ - t_) * first", _SECOND, _JOINED),
            "You walk on the first average until $s$. It ends at $m$.",
        ),
        Wrong(
            _PARTS.format("a(x, t, s)", _MIDDLE, _SECOND, _JOINED),
            "Your first average is the one over the whole way, from $t$ to $s$. The first part ends at $m$.",
        ),
        Wrong(
            _PARTS.format(_FIRST, _MIDDLE, "a(middle, t, m)", _JOINED),
            "Your second part runs from $t$ to $m$ once more. It runs from $m$ to $s$.",
        ),
        Wrong(
            _PARTS.format(_FIRST, _MIDDLE, "a(middle, m, m)", _JOINED),
            "With equal times you get the velocity *at* $m$. The second part needs the average from $m$ to $s$.",
        ),
        Wrong(
            _PARTS.format("a(x, t, t)", _MIDDLE, _SECOND, _JOINED),
            "With equal times you get the velocity at $t$: an Euler step. The first part needs the average from $t$ to "
            "$m$.",
        ),
        Wrong(
            _PARTS.format(_FIRST, _MIDDLE, _SECOND, "(m_ - t_) * first + (s_ - m_) * second"),
            "This is the whole way. The average is that over the time it took, $s-t$.",
        ),
        Wrong(
            _PARTS.format(_FIRST, _MIDDLE, _SECOND, "((s_ - m_) * first + (m_ - t_) * second) / (s_ - t_)"),
            "The weights are exchanged: the first part lasts $m-t$, the second $s-m$.",
        ),
        Wrong(
            _PARTS.format(_FIRST, _MIDDLE, _SECOND, "middle + (s_ - m_) * second"),
            "This is where the two parts lead, $\\psi_{s|t}(x)$. The average velocity is the way there, less $x$, over "
            "the time $s-t$.",
        ),
    ),
    cases=_parts,
    rights=(
        "def answer(a, x, t, m, s):\n    y = x + (m - t)[:, None] * a(x, t, m)\n    z = y + (s - m)[:, None] * "
        "a(y, m, s)\n    return (z - x) / (s - t)[:, None]",
        _PARTS.format(
            _FIRST, "torch.addcmul(x, m_ - t_, first)", _SECOND, "torch.lerp(first, second, (s_ - m_) / (s_ - t_))"
        ),
        "def answer(a, x, t, m, s):\n    w = ((m - t) / (s - t)).unsqueeze(1)\n    early = a(x, t, m)\n"
        "    late = a(x + early * (m - t).unsqueeze(1), m, s)\n    return w * early + (1 - w) * late",
    ),
    other_wrongs=(
        (_PARTS.format(_FIRST, "x + (m - t) * first", _SECOND, _JOINED), "must match the size"),
        ("def answer(a, x, t, m, s):\n    return a(x, t, s)", "expected is"),
    ),
)


def _jumps(draw: torch.Generator) -> list[tuple]:
    shapes = [((6, 2), 2), ((1, 1), 3), ((5, 3), 7)]
    return [(_Untrained(), torch.randn(shape, generator=draw, dtype=torch.float64), n) for shape, n in shapes]


def _sampled(a: Callable, x: Tensor, n: int) -> Tensor:
    times = [k / n for k in range(n + 1)]
    for t, s in zip(times, times[1:], strict=False):
        x = x + (s - t) * a(x, t, s)
    return x


_JUMPS = """def answer(a, x, n):
    for k in range(n):
        t, s = k / n, (k + 1) / n
        x = x + {}
    return x"""

wrong_average = Function(
    key="faster.wrong_average",
    number="9.5",
    task="find the bug",
    question=(
        "Somebody samples from a network `a(x, t, s)` of average velocities in `n` steps. With one step the samples "
        "are as good as they should be; with two or more they are worse, although each step is shorter. One line is "
        "wrong. Put it right, and change nothing else."
    ),
    given=_JUMPS.format("(s - t) * a(x, t, 1.0)"),
    reference=_JUMPS.format("(s - t) * a(x, t, s)"),
    why=(
        "$a(x,t,1)$ is the average velocity over all the time that is *left*. To move until $s$ you need the average "
        "until $s$. For a single step $s=1$, which hid the mistake. On curved trajectories the average over the rest "
        "is not the average over the next step, so the code follows no flow at all."
    ),
    hints=(
        "Write down, for n = 2, at which two times each call of `a` begins and ends.",
        "The step leads from $t$ to $s$. Which average velocity is it that leads there?",
    ),
    arguments=("a", "x", "n"),
    truth=_sampled,
    wrongs=(
        Wrong(
            _JUMPS.format("(s - t) * a(x, t, 1)"),
            "You still take the average over all the time that is left, until 1. This step ends at $s$.",
        ),
        Wrong(
            _JUMPS.format("(s - t) * a(x, t, t)"),
            "With equal times `a` is the velocity at $t$, and this is Euler's method: right for many steps, and what "
            "you wanted to get away from.",
        ),
        Wrong(
            _JUMPS.format("(s - t) * a(x, s, s)"),
            "This is the velocity at the end of the step, asked at a place where the sample has not arrived yet.",
        ),
        Wrong(
            _JUMPS.format("(1 - t) * a(x, t, 1.0)"),
            "Now every step jumps to time 1 at once; the next one takes the result for a sample at its own, earlier "
            "time. The step leads from $t$ to $s$.",
        ),
        Wrong(
            _JUMPS.format("a(x, t, s)"),
            "This is the velocity, not the way: the step lasts $s-t$.",
        ),
        Wrong(
            _JUMPS.format("(s - t) * a(x, 0.0, s)"),
            "You average from time 0 on, but the sample is at time $t$ already.",
        ),
        Wrong(
            _JUMPS.format("(s - t) * a(x, s, t)"),
            "The times are exchanged: the network is asked for a way back from $s$ to $t$.",
        ),
        Wrong(
            _JUMPS.format("s * a(x, t, s)"),
            "The step begins at $t$, so it lasts $s-t$, not $s$.",
        ),
        Wrong(
            _JUMPS.format("(s - t) * a(x, t, s - t)"),
            "The third argument is the time at which the way ends, not how long it lasts.",
        ),
    ),
    cases=_jumps,
    rights=(
        "def answer(a, x, n):\n    for k in range(n):\n        x = x + a(x, k / n, (k + 1) / n) / n\n    return x",
        "def answer(a, x, n):\n    t = 0.0\n    for s in torch.linspace(0, 1, n + 1, dtype=x.dtype)[1:].tolist():\n"
        "        x, t = x + (s - t) * a(x, t, s), s\n    return x",
        "def answer(a, x, n):\n    h = 1 / n\n    return x if n == 0 else __import__('functools').reduce(\n"
        "        lambda y, k: y + h * a(y, h * k, h * k + h), range(n), x)",
    ),
    other_wrongs=(("def answer(a, x, n):\n    return x + a(x, 0.0, 1.0)", "expected is"),),
)

smaller_loss = Choice(
    key="faster.smaller_loss",
    number="9.6",
    task="predict",
    question=(
        "Two runs of the next cell both begin at one cluster, and differ in the width of their kernel alone. At the "
        "end of training one has a loss of 0.0025, the other one of 0.018. Which of them makes the better samples?"
    ),
    options={
        "a": (
            "the one with 0.0025: its field is nearly zero, so the two laws are nearly equal",
            "The field has to vanish *everywhere* for that. The loss looks only where the generator's own samples are.",
        ),
        "b": (
            "both are equally good: the rest is noise of the batch",
            "A batch of 256 does leave a noise of the order 1/256 in the loss. But the two samples differ visibly.",
        ),
        "c": ("it may be the one with 0.018, the loss cannot tell", ""),
        "d": (
            "the one with 0.018, always: a small loss of this kind means that clusters were lost",
            "A perfect generator has a small loss too, smaller still for larger batches. The loss ranks neither way.",
        ),
    },
    after="Then open the box.",
    why=(
        "The loss is $\\mathbb E_q\\|V\\|^2$ over the generator's own law $q$. A generator that has given up most "
        "clusters and fits the rest well has a small field where it is, and nobody looks where it is not. What remains "
        "of the loss of a good run is mostly the noise of a batch that is spread over eight clusters. A loss that does "
        "not see the whole data says nothing about the whole law."
    ),
    hints=(
        "Over which law is the loss an average?",
        "Where is the field of a generator that makes one cluster only, and makes it well?",
    ),
)
