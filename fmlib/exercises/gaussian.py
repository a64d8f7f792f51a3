"""Exercises of notebook 5, affine and Gaussian paths."""

import torch

from fmlib.exercises._questions import Choice, Function, Wrong

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
            "It is the other way round: sigma_t is 1 at t = 0, where all is noise, and 0 at t = 1. Look at which "
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
            "At t = 0, X_t is X_0, which says nothing about X_1: the mean of X_1 given X_t = x is E[X_1], the same for "
            "all x. At t = 1 the same holds for X_0.",
        ),
        "d": (
            "Both fail at $t=1$, where the noise is gone",
            "The second divides by alpha_t, and that is 1 at t = 1. It fails at t = 0, where alpha_t is 0.",
        ),
    },
    reference='answer = "b"',
    why=(
        "sigma_1 = 0 and alpha_0 = 0, so the first formula is singular at t = 1 and the second at t = 0. At t = 0 the "
        "place X_t = X_0 is independent of X_1, so x_1-hat is the constant E[X_1] and the first formula gives "
        "sigma'_0 x + alpha'_0 E[X_1]. At t = 1 the second gives alpha'_1 x + sigma'_1 E[X_0], for the same reason."
    ),
    hints=(
        "At which t is sigma_t = 0? And alpha_t?",
        "At t = 0, X_t = X_0. What does X_0 tell you about X_1?",
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
        "With alpha' = 1 and sigma' = -1 the velocity is u = x_1-hat - x_0-hat. Put x_0-hat = x_1-hat - u into x = t "
        "x_1-hat + (1 - t) x_0-hat, and x_1-hat = x + (1 - t) u: one Euler step over all the time that is left. A "
        "denoiser is what a flow would reach if its velocity stayed as it is."
    ),
    hints=(
        "For cond-OT u = x_1-hat - x_0-hat. So x_0-hat = x_1-hat - u.",
        "Put that into x = t x_1-hat + (1 - t) x_0-hat and solve for x_1-hat.",
        "How much time is left at time t?",
    ),
    arguments=("x", "u", "t"),
    truth=lambda x, u, t: x + (1 - t) * u,
    wrongs=(
        Wrong(
            _STEP.format("u"),
            "This step has length 1, as if you were at t = 0. At time t only part of the time is left.",
        ),
        Wrong(
            _STEP.format("t * u"),
            "This step has the length of the time that is over. Take the time that is left.",
        ),
        Wrong(
            _STEP.format("-t * u"),
            "This is x_0-hat: a step back to t = 0. The step to x_1-hat goes forward.",
        ),
        Wrong(
            _STEP.format("-(1 - t) * u"),
            "The length is right, the direction is not: with t = 0 for the source, u points towards the data.",
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

euler_ends = Choice(
    key="gaussian.euler_ends",
    number="5.3",
    task="break it",
    question=(
        "In `euler_over_sigma` start the grid at $t=0$, then let it end at $t=1$. Which of the two fails, and which "
        "other form works there?"
    ),
    options={
        "a": (
            "The start at $t=0$ fails; `euler_over_alpha` works there",
            "At t = 0, sigma is 1 and alpha / sigma is 0: nothing is wrong. It is euler_over_alpha that divides by "
            "alpha_0 = 0.",
        ),
        "b": ("The end at $t=1$ fails; `euler_over_alpha` works there", ""),
        "c": (
            "Both fail; only DDIM works at the ends",
            "sigma_0 is 1, so the start is harmless. Only sigma_1 = 0 is divided by.",
        ),
        "d": (
            "Neither fails: the factor $\\sigma_r$ in front cancels the division",
            "On paper it does: sigma_r times alpha_r / sigma_r is alpha_r. But the code computes 1 / 0 first, and "
            "0 times infinity is NaN.",
        ),
    },
    after=(
        "Try both, each on times that stop short of the other end, such as `torch.linspace(0, 0.99, 11, "
        "dtype=torch.float64)` in place of `ten`. How does DDIM itself manage both ends, with an $\\hat x_1$ from a "
        "network?"
    ),
    reference='answer = "b"',
    why=(
        "The step contains alpha_r / sigma_r, which is 1 / 0 at r = 1, and multiplying by sigma_1 = 0 gives NaN. Over "
        "alpha the end is harmless, and the start is not. DDIM has done the cancelling on paper, alpha_r x_1-hat + "
        "sigma_r x_0-hat: it divides only by sigma at the *start* of a step, which is never t = 1, and its last step "
        "returns x_1-hat itself."
    ),
    hints=(
        "Write down sigma and alpha at t = 0 and at t = 1. Where does each of the two functions divide by zero?",
        "euler_over_sigma divides by sigma at both ends of a step. Which grid point has sigma = 0?",
    ),
)

heavy_batches = Choice(
    key="gaussian.heavy_batches",
    number="5.4",
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
            "Near t = 0 the score is nearly -x, as harmless as can be. It is at the other end that sigma_t is small.",
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
        "Train again, keep the `.losses` that `fit` returns beside `.model`, and compare the largest with their median."
    ),
    reference='answer = "c"',
    why=(
        "E[1 / sigma_t^2] is infinite for uniform t under cond-OT, so the largest 1 / sigma_t^2 of a batch dominates "
        "its loss, and now and then a t very near 1 dominates everything: over 400 steps the largest loss is 10^4 to "
        "10^7 times the median. Adam divides a running mean of gradients (decay 0.9) by the root of one of their "
        "squares (decay 0.999). A gradient G times the usual, G large, raises that root to about G / 32: so its own "
        "step has length 0.1 G / (G / 32), 3 times the usual at most, and the mean carries it on for ten more. "
        "Ordinary gradients then make steps 32 / G of the usual, until the root has forgotten, in some 1000 steps. "
        "Other large batches come meanwhile, so you see kicks first, and small steps only later. The weight sigma_t "
        "makes the target -x_0, of size 1 at all times."
    ),
    hints=(
        "How large is -x_0 / sigma_t for t = 0.5? And for t = 0.999?",
        "Adam divides a running mean of gradients, with decay 0.9, by the root of one of their squares, with decay "
        "0.999. How long does one huge gradient stay in each?",
    ),
)
