"""Exercises of notebook 5, affine and Gaussian paths."""

from collections.abc import Callable

import torch
from torch import Tensor

from fmlib import schedules
from fmlib.exercises._questions import WRONG, Choice, Function, Verdict, Wrong

good_ends = Choice(
    key="gaussian.good_ends",
    number="5.1",
    task="predict",
    question=(
        "The first formula for $u_t(x)$, from $\\hat x_1$, divides by $\\sigma_t$; the second, from $\\hat x_0$, "
        "divides by $\\alpha_t$. Let $\\alpha'$ and $\\sigma'$ be finite, as for cond-OT. At which end of time "
        "does each fail, and what does it need at the *other* end?"
    ),
    options={
        "a": (
            "The first fails at $t=0$, the second at $t=1$",
            "It is the other way round: $\\sigma_t$ is 1 at $t=0$, where all is noise, and 0 at $t=1$. Look at which "
            "coefficient vanishes where.",
        ),
        "b": (
            "The first fails at $t=1$, the second at $t=0$; at its other end each gives the velocity from $x$ and a "
            "constant mean",
            "",
        ),
        "c": (
            "The first fails at $t=1$, the second at $t=0$; at its other end each still needs a network that looks at "
            "$x$",
            "At $t=0$, $X_t$ is $X_0$, which says nothing about $X_1$: the mean of $X_1$ given $X_t=x$ is "
            "$\\mathbb E[X_1]$, the same for all $x$. At $t=1$ the same holds for $X_0$.",
        ),
        "d": (
            "Both fail at $t=1$, where the noise is gone",
            "The second divides by $\\alpha_t$, and that is 1 at $t=1$. It fails at $t=0$, where $\\alpha_t$ is 0.",
        ),
    },
    why=(
        "$\\sigma_1=0$ and $\\alpha_0=0$, so the first formula is singular at $t=1$ and the second at $t=0$. At $t=0$ "
        "the place $X_t=X_0$ is independent of $X_1$, so $\\hat x_1$ is the constant $\\mathbb E[X_1]$ and the first "
        "formula gives $\\sigma'_0x+\\alpha'_0\\mathbb E[X_1]$. At $t=1$ the second gives "
        "$\\alpha'_1x+\\sigma'_1\\mathbb E[X_0]$, for the same reason."
    ),
    hints=(
        "At which $t$ is $\\sigma_t=0$? And $\\alpha_t$?",
        "At $t=0$, $X_t=X_0$. What does $X_0$ tell you about $X_1$?",
    ),
)


def _cases(draw: torch.Generator) -> list[tuple]:
    settings = [((6, 2), 0.3), ((1, 3), 0.8), ((4, 64), 0.0), ((2, 1, 8, 8), 0.55)]
    return [
        (*torch.randn(2, *shape, generator=draw, dtype=torch.float64), t)  # x and u
        for shape, t in settings
    ]


_STEP = "def answer(x, u, t):\n    return x + {}"

one_step_to_data = Function(
    key="gaussian.one_step_to_data",
    number="5.2",
    task="complete",
    question=(
        "With cond-OT, $\\alpha_t=t$ and $\\sigma_t=1-t$, the points $x$, $\\hat x_1$ and $\\hat x_0$ lie on one "
        "line. Solve $x=\\alpha\\hat x_1+\\sigma\\hat x_0$, $u=\\alpha'\\hat x_1+\\sigma'\\hat x_0$ for $\\hat x_1$, "
        "and read the answer as one Euler step: from $x$, with velocity $u$, of which length? Complete it. `x` and "
        "`u` have the same shape, `t` is a number."
    ),
    given=_STEP.format("____"),
    reference=_STEP.format("(1 - t) * u"),
    why=(
        "With $\\alpha'=1$ and $\\sigma'=-1$ the velocity is $u=\\hat x_1-\\hat x_0$. Put $\\hat x_0=\\hat x_1-u$ into "
        "$x=t\\hat x_1+(1-t)\\hat x_0$, and $\\hat x_1=x+(1-t)u$: one Euler step over all the time that is left. A "
        "denoiser is what a flow would reach if its velocity stayed as it is."
    ),
    hints=(
        "For cond-OT $u=\\hat x_1-\\hat x_0$. So $\\hat x_0=\\hat x_1-u$.",
        "Put that into $x=t\\hat x_1+(1-t)\\hat x_0$ and solve for $\\hat x_1$.",
        "How much time is left at time $t$?",
    ),
    arguments=("x", "u", "t"),
    truth=lambda x, u, t: x + (1 - t) * u,
    wrongs=(
        Wrong(
            _STEP.format("u"),
            "This step has length 1, as if you were at $t=0$. At time $t$ only part of the time is left.",
        ),
        Wrong(
            _STEP.format("t * u"),
            "This step has the length of the time that is over. Take the time that is left.",
        ),
        Wrong(
            _STEP.format("-t * u"),
            "This is $\\hat x_0$: a step back to $t=0$. The step to $\\hat x_1$ goes forward.",
        ),
        Wrong(
            _STEP.format("-(1 - t) * u"),
            "The length is right, the direction is not: with $t=0$ for the source, $u$ points towards the data.",
        ),
        Wrong(
            _STEP.format("u / (1 - t)"),
            "You divided by the time that is left. The velocity is the way over the time, so the way is the velocity "
            "*times* the time.",
        ),
        Wrong(
            _STEP.format("0"),
            "This is where you are, with no step at all.",
        ),
    ),
    cases=_cases,
    rights=(
        "def answer(x, u, t):\n    x_0 = x - t * u\n    return x_0 + u",
        _STEP.format("u - t * u"),
        "def answer(x, u, t):\n    return torch.lerp(x, x + u, 1 - t)",
    ),
    other_wrongs=((_STEP.format("(1 - t) ** 2 * u"), "expected is"),),
)


class _DenoiserAndScore(Function):
    """A function that stacks the two. What is said of one of them says which; t = 0 has a sentence of its own."""

    def _compare(self, case: tuple, value: Tensor, right: Tensor, tolerance: float) -> None:
        if value.shape != right.shape:
            return super()._compare(case, value, right, tolerance)
        late = case[-1] > 0
        for name, mine, true in zip(("denoiser", "score"), value, right, strict=True):
            if not mine[~late].isfinite().all() and mine[late].isfinite().all():
                raise Verdict(
                    WRONG,
                    f"At $t=0$ your {name} is NaN or infinite: something is divided by $\\alpha_t$, which is 0 there. "
                    "Eliminate it in another way, so that only $w_t=\\alpha'_t\\sigma_t-\\sigma'_t\\alpha_t$ divides.",
                )
            try:
                super()._compare(case, mine, true, tolerance)
            except Verdict as verdict:
                raise Verdict(WRONG, f"The {name} is not right. {verdict.outcome.message}") from None


def _for_conversion(draw: torch.Generator) -> list[tuple]:
    """u, x, s, t: for two schedules with t = 0 among the times."""

    def case(s, rows: int, d: int, start: bool) -> tuple:
        u, x = torch.randn(2, rows, d, generator=draw, dtype=torch.float64)
        t = 0.1 + 0.8 * torch.rand(rows, generator=draw, dtype=torch.float64)
        t[0] = 0.0 if start else t[0]
        return u, x, s, t

    return [
        case(schedules.CondOT(), 6, 2, True),
        case(schedules.Cosine(), 5, 64, True),
        case(schedules.Polynomial(3.0), 1, 3, False),
        case(schedules.VariancePreserving(), 4, 2, False),
    ]


_CONVERT = """def answer(u, x, s, t):
    alpha, sigma = s.alpha(t)[:, None], s.sigma(t)[:, None]
    d_alpha, d_sigma = s.d_alpha(t)[:, None], s.d_sigma(t)[:, None]
    {}
    {}
    {}
    {}
    return torch.stack([x_1, score])"""
_W = "w = d_alpha * sigma - d_sigma * alpha"
_X_1 = "x_1 = (sigma * u - d_sigma * x) / w"
_X_0 = "x_0 = (d_alpha * x - alpha * u) / w"
_SCORE = "score = -x_0 / sigma"
_CONVERTED = _CONVERT.format(_W, _X_1, _X_0, _SCORE)


def _denoiser_and_score(u: Tensor, x: Tensor, s: schedules.Schedule, t: Tensor) -> Tensor:
    alpha, sigma, d_alpha, d_sigma = (f(t)[:, None] for f in (s.alpha, s.sigma, s.d_alpha, s.d_sigma))
    w = d_alpha * sigma - d_sigma * alpha
    return torch.stack([(sigma * u - d_sigma * x) / w, -(d_alpha * x - alpha * u) / (w * sigma)])


from_velocity = _DenoiserAndScore(
    key="gaussian.from_velocity",
    number="5.3",
    task="write",
    question=(
        "A network has learned the velocity. Write what makes its denoiser $\\hat x_1$ and its score of it, for "
        "*any* schedule: `answer(u, x, s, t)` gets the velocity `u` and the points `x`, of shape `(batch, d)`, the "
        "schedule `s`, and times `t` in $[0,1)$, of shape `(batch,)`. The time 0 is among them. Solve "
        "$x=\\alpha\\hat x_1+\\sigma\\hat x_0$, $u=\\alpha'\\hat x_1+\\sigma'\\hat x_0$; write as many lines as you "
        "like. Below, your function draws a figure."
    ),
    given="""def answer(u, x, s, t):
    alpha, sigma = s.alpha(t)[:, None], s.sigma(t)[:, None]
    d_alpha, d_sigma = s.d_alpha(t)[:, None], s.d_sigma(t)[:, None]
    x_1 = ____
    score = ____
    return torch.stack([x_1, score])""",
    reference=_CONVERTED,
    why=(
        "Multiply the first equation by $\\sigma'$ and the second by $\\sigma$, subtract, and $\\hat x_0$ is gone: "
        "$\\hat x_1=(\\sigma u-\\sigma'x)/w$ with $w=\\alpha'\\sigma-\\sigma'\\alpha$. In the same way "
        "$\\hat x_0=(\\alpha'x-\\alpha u)/w$, and the score is $-\\hat x_0/\\sigma$. Since $\\alpha$ rises and "
        "$\\sigma$ falls, $w$ is positive, also at $t=0$ if $\\alpha'_0>0$. Only the score has no limit at $t=1$."
    ),
    hints=(
        "Two linear equations with two unknowns. To get $\\hat x_1$, multiply them so that $\\hat x_0$ drops out.",
        "$\\sigma u-\\sigma'x=(\\alpha'\\sigma-\\sigma'\\alpha)\\,\\hat x_1$. What is $\\alpha'x-\\alpha u$?",
        "The score is $-\\hat x_0/\\sigma$. Do not take $\\hat x_1$ from $\\hat x_0$ by a division by $\\alpha$.",
    ),
    arguments=("u", "x", "s", "t"),
    truth=_denoiser_and_score,
    cases=_for_conversion,
    wrongs=(
        Wrong(
            _CONVERT.format("t = t[:, None]", "x_1 = x + (1 - t) * u", "x_0 = x - t * u", "score = -x_0 / (1 - t)"),
            "This is right for cond-OT and for no other schedule. Use $\\alpha$, $\\sigma$ and their derivatives "
            "in place of $t$, $1-t$, 1 and $-1$.",
        ),
        Wrong(
            _CONVERT.format("t = t[:, None]", "x_1 = x + (1 - t) * u", "x_0 = x - t * u", _SCORE),
            "Your score belongs to $\\hat x_0$ as it should, but $\\hat x_1$ and $\\hat x_0$ are those of cond-OT. For "
            "any schedule they follow from the two equations.",
        ),
        Wrong(
            _CONVERTED.replace("score = -x_0", "score = x_0"),
            "The denoiser is right; the score has the wrong sign. It points away from the noise: it is "
            "$-\\hat x_0/\\sigma$.",
        ),
        Wrong(
            _CONVERTED.replace("-x_0 / sigma", "-x_0 / sigma**2"),
            "The denoiser is right; in the score you divide $\\hat x_0$ by the variance $\\sigma^2$. The noise "
            "$\\hat x_0$ has been divided by $\\sigma$ once already.",
        ),
        Wrong(
            _CONVERTED.replace("-x_0 / sigma", "-x_0"),
            "The denoiser is right; your score is $-\\hat x_0$. One division by $\\sigma$ is missing.",
        ),
        Wrong(
            _CONVERTED.replace("sigma - d_sigma * alpha", "sigma + d_sigma * alpha"),
            "A sign is wrong in your divisor: it is $\\alpha'\\sigma-\\sigma'\\alpha$, a sum of two positive terms.",
        ),
        Wrong(
            _CONVERT.format(_W, "x_0 = (sigma * u - d_sigma * x) / w", "x_1 = (d_alpha * x - alpha * u) / w", _SCORE),
            "You have the denoiser and the noise the other way round: at $t=0$ it is $\\hat x_0$ that must be $x$.",
        ),
        Wrong(
            _CONVERTED.replace("score = -x_0 / sigma", "score = -x_1 / sigma"),
            "The denoiser is right; the score belongs to the noise $\\hat x_0$, and you put $\\hat x_1$ in its place.",
        ),
        Wrong(
            _CONVERTED.replace(_X_1, "x_1 = sigma * u - d_sigma * x").replace(_X_0, "x_0 = d_alpha * x - alpha * u"),
            "The elimination is right, the divisor $w=\\alpha'\\sigma-\\sigma'\\alpha$ is missing. For cond-OT it is "
            "1.",
        ),
    ),
    rights=(
        """def answer(u, x, s, t):
    a, b, da, db = (f(t)[:, None] for f in (s.alpha, s.sigma, s.d_alpha, s.d_sigma))
    x_0 = (da * x - a * u) / (da * b - db * a)
    return torch.stack([(u - db * x_0) / da, x_0 / -b])""",
        """def answer(u, x, s, t):
    from fmlib import AffinePath
    want = lambda name: AffinePath(s).convert(u, x, t, have="velocity", want=name)
    return torch.stack([want("x_1"), want("score")])""",
        """def answer(velocity, points, schedule, times):
    top = torch.stack([schedule.alpha(times), schedule.sigma(times)], -1)
    low = torch.stack([schedule.d_alpha(times), schedule.d_sigma(times)], -1)
    both = torch.linalg.solve(torch.stack([top, low], 1), torch.stack([points, velocity], 1))
    return torch.stack([both[:, 0], -both[:, 1] / top[:, 1:]])""",
    ),
    other_wrongs=(
        (_CONVERTED.replace(_X_1, "x_1 = 0").replace(_X_0, _X_0 + "\n    x_1 = (x - sigma * x_0) / alpha"), "At $t=0$"),
        (_CONVERTED.replace("x_1 = (sigma", "x_1 = 1.1 * (sigma"), "The denoiser is not right"),
        (_CONVERTED.replace("-x_0 / sigma", "-2 * x_0 / sigma"), "The score is not right"),
        (_CONVERTED.replace("[x_1, score]", "[score, x_1]"), "The denoiser is not right"),
        (_CONVERTED.replace("torch.stack([x_1, score])", "x_1, score"), "a tuple. It must return a torch tensor"),
        (_CONVERTED.replace("torch.stack([x_1, score])", "score"), "shape (2, 6, 2) is expected"),
    ),
)


class _Score:
    """Stands in for the score: a function in which both the place and the time count."""

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        return torch.sin(3 * x) - (1 + t) * x

    def __repr__(self) -> str:
        return "score"


def _for_sampler(draw: torch.Generator) -> list[tuple]:
    settings = [(schedules.CondOT(), 6, 2, 4), (schedules.Cosine(), 1, 3, 2), (schedules.VariancePreserving(), 5, 8, 3)]
    return [
        (
            _Score(),
            s,
            torch.randn(rows, d, generator=draw, dtype=torch.float64),
            torch.linspace(0.1, 1, n + 1, dtype=torch.float64),
        )
        for s, rows, d, n in settings
    ]


_NO_SQUARE = """def answer(score, s, x, times):
    for t, r in zip(times[:-1], times[1:]):
        x_1 = (x + s.sigma(t) * score(x, t)) / s.alpha(t)
        x_0 = -s.sigma(t) * score(x, t)
        u = s.d_alpha(t) * x_1 + s.d_sigma(t) * x_0
        x = x + (r - t) * u
    return x"""
_SQUARED = _NO_SQUARE.replace("(x + s.sigma(t) *", "(x + s.sigma(t) ** 2 *")


def _by_score(score: Callable, s: schedules.Schedule, x: Tensor, times: Tensor) -> Tensor:
    for t, r in zip(times[:-1], times[1:], strict=True):
        x_0 = -s.sigma(t) * score(x, t)
        x_1 = (x - s.sigma(t) * x_0) / s.alpha(t)
        x = x + (r - t) * (s.d_alpha(t) * x_1 + s.d_sigma(t) * x_0)
    return x


lost_square = Function(
    key="gaussian.lost_square",
    number="5.4",
    task="find the bug",
    question=(
        "Somebody has the score of a diffusion model and follows the flow that it stands for, by Euler steps along "
        "`times`. The code runs, all numbers are finite, and the samples are wrong. One line is to blame. Put it "
        "right, and change nothing else. (`score(x, t)` is the exact score at a time `t`, `s` the schedule.)"
    ),
    given=_NO_SQUARE,
    reference=_SQUARED,
    why=(
        "Tweedie's formula has the *variance*: $\\hat x_1=(x+\\sigma^2s_t(x))/\\alpha$. The noise relation has the "
        "standard deviation, $\\hat x_0=-\\sigma s_t(x)$. You can tell which of the two lines is wrong without a "
        "reference: the estimates must put the point together again, $\\alpha\\hat x_1+\\sigma\\hat x_0=x$, and with "
        "$\\sigma$ in both they do not."
    ),
    hints=(
        "There is a check that needs no reference: put $\\hat x_1$ and $\\hat x_0$ into $x=\\alpha\\hat "
        "x_1+\\sigma\\hat x_0$. Does it hold?",
        "It does not. Compare each of the two lines with the formulas of section 5.5.",
        "Standard deviation or variance? The noise relation has one of them, Tweedie's formula the other.",
    ),
    arguments=("score", "s", "x", "times"),
    truth=_by_score,
    cases=_for_sampler,
    wrongs=(
        Wrong(
            _NO_SQUARE.replace("        x_0 = -s.sigma(t)", "        x_0 = -1 * s.sigma(t)"),
            "This still computes what the code as given computes. Which line does not agree with section 5.5?",
        ),
        Wrong(
            _NO_SQUARE.replace("x_0 = -s.sigma(t) *", "x_0 = -"),
            "Now $\\alpha\\hat x_1+\\sigma\\hat x_0=x$ does hold, but you changed the right line: the noise is "
            "$-\\sigma s_t(x)$, and it is $\\hat x_1$ that must follow.",
        ),
        Wrong(
            _SQUARED.replace("x_0 = -s.sigma(t) *", "x_0 = -s.sigma(t) ** 2 *"),
            "The line of $\\hat x_1$ is right now. But the noise had the right factor: the standard deviation, "
            "$\\hat x_0=-\\sigma s_t(x)$.",
        ),
        Wrong(
            _NO_SQUARE.replace("(x + s.sigma(t)", "(x - s.sigma(t)"),
            "The sign was right: the score points uphill in density, towards the data. Look at the factor before it.",
        ),
        Wrong(
            _SQUARED.replace("(x + s.sigma(t)", "(x - s.sigma(t)"),
            "The factor is right now, but you have changed the sign too: Tweedie's formula adds $\\sigma^2s_t(x)$.",
        ),
        Wrong(
            _NO_SQUARE.replace("s.d_sigma(t) * x_0", "-s.d_sigma(t) * x_0").replace("+ -", "- "),
            "The velocity was right: $u=\\alpha'\\hat x_1+\\sigma'\\hat x_0$, where $\\sigma'$ is negative itself.",
        ),
        Wrong(
            _SQUARED.replace(" / s.alpha(t)", ""),
            "The factor is right now, but the division by $\\alpha_t$ is gone: without noise, $x$ is "
            "$\\alpha_t\\hat x_1$.",
        ),
        Wrong(
            _NO_SQUARE.replace("(x + s.sigma(t)", "(x + s.sigma(t) ** 0.5"),
            "The root goes the wrong way: $\\sigma$ is the standard deviation already. Is it that, or the variance?",
        ),
    ),
    rights=(
        """def answer(score, s, x, times):
    for t, r in zip(times[:-1], times[1:]):
        x_0 = -s.sigma(t) * score(x, t)
        x_1 = (x - s.sigma(t) * x_0) / s.alpha(t)
        x = x + (r - t) * (s.d_alpha(t) * x_1 + s.d_sigma(t) * x_0)
    return x""",
        """def answer(score, s, x, times):
    for i in range(len(times) - 1):
        t, h = times[i], times[i + 1] - times[i]
        slope, variance = score(x, t), s.sigma(t) * s.sigma(t)
        x = x + h * (s.d_alpha(t) * (x + variance * slope) / s.alpha(t) - s.sigma_d_sigma(t) * slope)
    return x""",
        """def answer(score, s, x, times):
    from fmlib import AffinePath
    for t, h in zip(times, times.diff()):
        x = x + h * AffinePath(s).convert(score(x, t), x, t, have="score", want="velocity")
    return x""",
    ),
    other_wrongs=(
        (_SQUARED.replace("(r - t) * u", "r * u"), "expected is"),
        (_SQUARED.replace("        x = x + (r - t) * u\n    return x", "    return u"), "expected is"),
        (_SQUARED.replace("x = x + (r", "x += (r"), "changes its input x in place"),
    ),
)


def _for_ddim(draw: torch.Generator) -> list[tuple]:
    """u, x, s, t, r: a start at t = 0 and an end at r = 1 among them."""
    settings = [
        ((6, 2), schedules.CondOT(), 0.3, 0.6),
        ((1, 3), schedules.Cosine(), 0.0, 0.25),
        ((4, 64), schedules.Polynomial(3.0), 0.5, 0.75),
        ((2, 1, 8, 8), schedules.VariancePreserving(), 0.2, 1.0),
    ]
    return [
        (
            *torch.randn(2, *shape, generator=draw, dtype=torch.float64),
            s,
            *torch.tensor([t, r], dtype=torch.float64),
        )
        for shape, s, t, r in settings
    ]


_DDIM = """def answer(u, x, s, t, r):
    w = s.d_alpha(t) * s.sigma(t) - s.d_sigma(t) * s.alpha(t)
    x_1 = (s.sigma(t) * u - s.d_sigma(t) * x) / w
    x_0 = (s.d_alpha(t) * x - s.alpha(t) * u) / w
    return s.alpha(r) * x_1 + s.sigma(r) * x_0"""
_LAST = "s.alpha(r) * x_1 + s.sigma(r) * x_0"


def _ddim(u: Tensor, x: Tensor, s: schedules.Schedule, t: Tensor, r: Tensor) -> Tensor:
    w = s.d_alpha(t) * s.sigma(t) - s.d_sigma(t) * s.alpha(t)
    clean, noise = (s.sigma(t) * u - s.d_sigma(t) * x) / w, (s.d_alpha(t) * x - s.alpha(t) * u) / w
    return s.alpha(r) * clean + s.sigma(r) * noise


ddim_step = Function(
    key="gaussian.ddim_step",
    number="5.5",
    task="write",
    question=(
        "Write the DDIM step for a network that predicts the *velocity*: `answer(u, x, s, t, r)` returns the point at "
        "time `r` that one step from the point `x` at time `t` leads to, where `u` is the velocity at `x` and `t`, "
        "`s` is the schedule, and `t` and `r` are numbers (tensors without a shape, as `s.alpha(t)` wants). It must "
        "also work from $t=0$ and to $r=1$. Below, your step draws digits."
    ),
    given="""def answer(u, x, s, t, r):
    x_1 = ____
    x_0 = ____
    return ____""",
    reference=_DDIM,
    why=(
        "The velocity at $(x,t)$ stands for an estimate of the data and one of the noise, exercise 5.3: "
        "$\\hat x_1=(\\sigma u-\\sigma'x)/w$ and $\\hat x_0=(\\alpha'x-\\alpha u)/w$ with "
        "$w=\\alpha'\\sigma-\\sigma'\\alpha$, all at time $t$. DDIM keeps both and mixes them as the schedule mixes at "
        "time $r$. For cond-OT this is $x+(r-t)u$, Euler's step."
    ),
    hints=(
        "First estimate the data and the noise at time $t$, from $x=\\alpha\\hat x_1+\\sigma\\hat x_0$ and "
        "$u=\\alpha'\\hat x_1+\\sigma'\\hat x_0$. You did that in exercise 5.3.",
        "Then put them together again with the schedule of the *next* time: $\\alpha_r\\hat x_1+\\sigma_r\\hat x_0$.",
        "To test it: for cond-OT your step must be $x+(r-t)u$, and for $r=t$ it must return $x$.",
    ),
    arguments=("u", "x", "s", "t", "r"),
    truth=_ddim,
    cases=_for_ddim,
    wrongs=(
        Wrong(
            "def answer(u, x, s, t, r):\n    return x + (r - t) * u",
            "This is Euler's step in $t$. It is the DDIM step for cond-OT only: DDIM keeps the estimates of data and "
            "noise, and Euler keeps the velocity.",
        ),
        Wrong(
            _DDIM.replace(_LAST, "s.alpha(t) * x_1 + s.sigma(t) * x_0"),
            "You put the estimates together at the old time $t$, and that gives $x$ again. Take the schedule at $r$.",
        ),
        Wrong(
            _DDIM.replace(_LAST, "s.alpha(r) * x_0 + s.sigma(r) * x_1"),
            "Data and noise are the other way round: $\\alpha_r$ belongs to $\\hat x_1$, $\\sigma_r$ to $\\hat x_0$.",
        ),
        Wrong(
            _DDIM.replace(_LAST, "x_1"),
            "This is the denoiser $\\hat x_1$: a jump to the end of time. At $r<1$ noise of size $\\sigma_r$ remains.",
        ),
        Wrong(
            _DDIM.replace(_LAST, "s.alpha(r) * x_1 + s.sigma(t) * x_0"),
            "The data has its share at the new time, but the noise still has the one of the old time. Take "
            "$\\sigma_r$.",
        ),
        Wrong(
            f"def answer(u, x, s, t, r):\n    x_1 = x + (1 - t) * u\n    x_0 = x - t * u\n    return {_LAST}",
            "The mixing at time $r$ is right, but your estimates are those of cond-OT. For any schedule they follow "
            "from $\\alpha$, $\\sigma$ and their derivatives, as in exercise 5.3.",
        ),
        Wrong(
            _DDIM.replace("s.sigma(t) - s.d_sigma(t)", "s.sigma(t) + s.d_sigma(t)"),
            "A sign is wrong in the divisor of your estimates: it is $\\alpha'\\sigma-\\sigma'\\alpha$.",
        ),
        Wrong(
            _DDIM.replace(_LAST, "x + s.alpha(r) * x_1 + s.sigma(r) * x_0"),
            "Nothing is added to $x$: the two estimates hold all of it, and the new point is their new mixture.",
        ),
    ),
    rights=(
        """def answer(u, x, s, t, r):
    from fmlib import AffinePath
    estimate = lambda name: AffinePath(s).convert(u, x, t, have="velocity", want=name)
    return s.alpha(r) * estimate("x_1") + s.sigma(r) * estimate("x_0")""",
        """def answer(velocity, point, schedule, now, then):
    a, b, da, db = (f(now) for f in (schedule.alpha, schedule.sigma, schedule.d_alpha, schedule.d_sigma))
    noise = (da * point - a * velocity) / (da * b - db * a)
    clean = (velocity - db * noise) / da
    return schedule.alpha(then) * clean + schedule.sigma(then) * noise""",
        """def answer(u, x, s, t, r):
    row = lambda f, g, t: torch.stack([f(t), g(t)])
    system = torch.stack([row(s.alpha, s.sigma, t), row(s.d_alpha, s.d_sigma, t)])
    a, b = torch.linalg.solve(system.T, row(s.alpha, s.sigma, r))
    return a * x + b * u""",
    ),
    other_wrongs=(
        (_DDIM.replace(_LAST, "s.alpha(r) * x_1 + s.sigma(r) * torch.ones_like(x)"), "expected is"),
        (
            _DDIM.replace("    return", "    x_1 = (x - s.sigma(t) * x_0) / s.alpha(t)\n    return"),
            "Is there a division by zero",
        ),
        (_DDIM.replace("    return", "    x_1 +="), "returns None. Is a `return` missing"),
        (_DDIM.replace("s.sigma(t) * u", "s.sigma(t) * u[:, None]"), "and shape (6, 2) is expected"),
    ),
)

euler_ends = Choice(
    key="gaussian.euler_ends",
    number="5.6",
    task="break it",
    question=(
        "In `euler_over_sigma` start the grid at $t=0$, then let it end at $t=1$. Which of the two fails, and which "
        "other form works there?"
    ),
    options={
        "a": (
            "The start at $t=0$ fails; `euler_over_alpha` works there",
            "At $t=0$, $\\sigma$ is 1 and $\\alpha/\\sigma$ is 0: nothing is wrong. It is `euler_over_alpha` that "
            "divides by $\\alpha_0=0$.",
        ),
        "b": ("The end at $t=1$ fails; `euler_over_alpha` works there", ""),
        "c": (
            "Both fail; only DDIM works at the ends",
            "$\\sigma_0$ is 1, so the start is harmless. Only $\\sigma_1=0$ is divided by.",
        ),
        "d": (
            "Neither fails: the factor $\\sigma_r$ in front cancels the division",
            "On paper it does: $\\sigma_r$ times $\\alpha_r/\\sigma_r$ is $\\alpha_r$. But the code computes 1 / 0 "
            "first, and 0 times infinity is NaN.",
        ),
    },
    after=(
        "Below, each takes one step from $t=0$ and one to $t=1$. How does DDIM itself manage both ends, with an "
        "$\\hat x_1$ from a network?"
    ),
    why=(
        "The step contains $\\alpha_r/\\sigma_r$, which is 1 / 0 at $r=1$, and multiplying by $\\sigma_1=0$ gives NaN. "
        "Over $\\alpha$ the end is harmless, and the start is not. DDIM has done the cancelling on paper, "
        "$\\alpha_r\\hat x_1+\\sigma_r\\hat x_0$: it divides only by $\\sigma$ at the *start* of a step, which is "
        "never $t=1$, and its last step returns $\\hat x_1$ itself."
    ),
    hints=(
        "Write down $\\sigma$ and $\\alpha$ at $t=0$ and at $t=1$. Where does each of the two functions divide by "
        "zero?",
        "`euler_over_sigma` divides by $\\sigma$ at both ends of a step. Which grid point has $\\sigma=0$?",
    ),
)

heavy_batches = Choice(
    key="gaussian.heavy_batches",
    number="5.7",
    task="break it",
    question=(
        "In `forty_eight` give the score the weight 1 in place of $\\sigma_t$: scale `sigma**0` and target `-p.x_0 / "
        "sigma`. Under cond-OT one batch in a while has a loss that dwarfs all others. Why, and what does Adam make "
        "of it?"
    ),
    options={
        "a": (
            "The learning rate is too high for the score; Adam diverges",
            "The networks are the same and so is the rate. A smaller rate would not change the size of the targets.",
        ),
        "b": (
            "A score cannot be represented near $t=0$; Adam never finds it",
            "Near $t=0$ the score is nearly $-x$, as harmless as can be. It is at the other end that $\\sigma_t$ is "
            "small.",
        ),
        "c": (
            "The target is of size $1/\\sigma_t$, so a time near 1 makes a huge loss; Adam follows that one batch for "
            "some ten steps, and then makes smaller ones for long",
            "",
        ),
        "d": (
            "The same times near 1, but Adam does not care: it divides by the size of the gradient",
            "It divides by a *running* mean of squares. A huge gradient stays in that mean for about 1000 steps, while "
            "the ordinary ones that follow count for less.",
        ),
    },
    after=(
        "What follows draws the size of such losses, and what Adam does with one gradient that is 1,000 times too "
        "large."
    ),
    why=(
        "$\\mathbb E[1/\\sigma_t^2]$ is infinite for uniform $t$ under cond-OT: now and then a $t$ very near 1 "
        "dominates everything, and over 400 steps the largest loss is $10^4$ to $10^7$ times the median. Adam divides "
        "a running mean of gradients (decay 0.9) by the root of one of their squares (decay 0.999). A gradient $G$ "
        "times the usual, $G$ large, raises that root to about $G/32$: so its own step has length $0.1\\,G/(G/32)$, "
        "some 3 times the usual, and the mean carries it on for ten more. Ordinary gradients then make steps $32/G$ of "
        "the usual, until the root has forgotten, in thousands of steps. Other large batches come meanwhile, so in "
        "training you see kicks first, and small steps only later. The weight $\\sigma_t$ makes the target $-x_0$, of "
        "size 1 at all times."
    ),
    hints=(
        "How large is $-x_0/\\sigma_t$ for $t=0.5$? And for $t=0.999$?",
        "Adam divides a running mean of gradients, with decay 0.9, by the root of one of their squares, with decay "
        "0.999. How long does one huge gradient stay in each?",
    ),
)
