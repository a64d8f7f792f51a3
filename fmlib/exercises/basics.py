"""Exercises of notebook 1, flow matching basics."""

import torch

from fmlib.exercises._questions import Choice, Function, Number, Wrong


def _pairs(draw: torch.Generator) -> list[tuple]:
    cases = []
    for shape in [(6, 2), (1, 3), (5, 64)]:
        x_0, x_1 = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))
        cases.append((x_0, x_1, 0.1 + 0.8 * torch.rand(shape[0], generator=draw, dtype=torch.float64)))
    return cases


_VELOCITY = "def answer(x_0, x_1, t):\n    return {}"

velocity_of_linear_path = Function(
    key="basics.velocity_of_linear_path",
    number="1.1",
    task="complete",
    question=(
        "Hold one pair $(x_0,x_1)$ fixed and let it walk, $X_t=(1-t)\\,x_0+t\\,x_1$. With which velocity does it move "
        "at time $t$? In the cell below replace `____` by your answer, run the cell, and read what it says. `x_0` and "
        "`x_1` have shape `(batch, d)`, `t` has shape `(batch,)`, and the velocity has the shape of `x_0`."
    ),
    given=_VELOCITY.format("____"),
    reference=_VELOCITY.format("x_1 - x_0"),
    why=(
        "The derivative of (1 - t) x_0 + t x_1 in t is x_1 - x_0. It does not depend on t: each pair walks straight, "
        "at constant speed, and has covered the whole way from x_0 to x_1 at t = 1."
    ),
    hints=(
        "A velocity is the derivative of the position in t. Which position?",
        "Differentiate (1 - t) x_0 + t x_1 in t, with x_0 and x_1 constant: what is the derivative of 1 - t, and of t?",
    ),
    arguments=("x_0", "x_1", "t"),
    truth=lambda x_0, x_1, t: x_1 - x_0,
    wrongs=(
        Wrong(
            _VELOCITY.format("x_0 - x_1"),
            "This is X_0 - X_1: the sign of time is reversed. Here t = 0 is the source and t = 1 the target, so the "
            "walk leaves x_0 and arrives at x_1.",
        ),
        Wrong(
            _VELOCITY.format("(1 - t[:, None]) * x_0 + t[:, None] * x_1"),
            "This is the position X_t, where the pair is. Its velocity is the derivative of X_t in t.",
        ),
        Wrong(
            _VELOCITY.format("t[:, None] * (x_1 - x_0)"),
            "This is the way covered so far, X_t - x_0. The velocity is the way covered per unit of time: "
            "differentiate once more in t.",
        ),
        Wrong(
            _VELOCITY.format("(1 - t[:, None]) * (x_1 - x_0)"),
            "This is the way that is left, x_1 - X_t. Divide it by the time that is left, 1 - t.",
        ),
        Wrong(
            _VELOCITY.format("x_0 + x_1"),
            "A sign is lost: the derivative of 1 - t is -1, not 1.",
        ),
        Wrong(
            _VELOCITY.format("x_1"),
            "This is where the walk ends. The term (1 - t) x_0 depends on t as well: what is its derivative?",
        ),
    ),
    cases=_pairs,
    rights=(
        _VELOCITY.format("-x_0 + x_1"),
        "def answer(x_0, x_1, t):\n    t = t[:, None]\n    x_t = (1 - t) * x_0 + t * x_1\n    return (x_1 - x_t) / (1 "
        "- t)",
        "answer = lambda start, end, time: end.sub(start)",
    ),
    other_wrongs=(
        (_VELOCITY.format("t * (x_1 - x_0)"), "t[:, None]"),
        (_VELOCITY.format("2 * (x_1 - x_0)"), "expected is"),
        (_VELOCITY.format("(x_1 - x_0).mean(0)"), "shape (2,), and shape (6, 2) is expected"),
    ),
)

three_bumps = Choice(
    key="basics.three_bumps",
    number="1.2",
    task="predict",
    question=(
        "Let $q$ be a mixture of three Gaussians, with means about 1.7 away from the origin and standard deviations of "
        "0.3 to 0.45. Before you look at the next figure: when does the density $p_t$ first show three separate bumps, "
        "although every sample sets out at once and walks at constant speed? Answer before you look: "
        "click a letter."
    ),
    options={
        "a": (
            "before $t=0.25$",
            "It tempts, since all samples set out at once. But at t = 0.25 the three means have covered only a "
            "quarter of the way, while the noise still has standard deviation 0.75: the three bumps overlap and show "
            "as one.",
        ),
        "b": (
            "between $t=0.25$ and $t=0.5$",
            "You may expect the shape to be half-way when the time is. Each bump has its mean at t mu_k but is at "
            "least 1 - t wide: at t = 0.4 that is 0.6, about as much as the means are away from the middle.",
        ),
        "c": ("between $t=0.5$ and $t=0.75$", ""),
        "d": (
            "after $t=0.75$",
            "Late is right, but not that late. At t = 0.75 the bumps have widths of about 0.35 to 0.4, and their means "
            "are more than 2 apart: they have been separate for a while.",
        ),
    },
    after="Then go on to the figure, and to the explorer below it, and look.",
    reference='answer = "c"',
    why=(
        "Given its component, X_t has mean t mu_k and variance t^2 s_k^2 + (1 - t)^2. The distances between the means "
        "grow like t while the widths shrink from 1, so their ratio is small for long and then rises fast. For this "
        "mixture the third bump appears at about t = 0.53."
    ),
    hints=(
        "Two bumps show as one while their width is about as large as the distance between their means.",
        "The mean of component k is t mu_k, its standard deviation about 1 - t. The means mu_k lie some 1.7 from the "
        "origin. Compare the two at t = 0.25, 0.5 and 0.75.",
    ),
)


def _points(draw: torch.Generator) -> list[tuple]:
    settings = [((6, 1), 0.2, 1.5, 0.4), ((1, 1), 0.8, -0.7, 2.0), ((5, 3), 0.5, 1.0, 0.5), ((4, 1), 0.0, 1.5, 0.4)]
    return [(torch.randn(shape, generator=draw, dtype=torch.float64), *numbers) for shape, *numbers in settings]


def _scale(t: float, s: float) -> float:
    return ((1 - t) ** 2 + t**2 * s**2) ** 0.5


_PSI_HALF = """def answer(y, t, m, s):
    c_t = ((1 - t) ** 2 + t**2 * s**2) ** 0.5
    c_half = (0.5**2 + 0.5**2 * s**2) ** 0.5
    x = {}  # where y was at time 0
    return {}"""

psi_half = Function(
    key="basics.psi_half",
    number="1.3",
    task="complete",
    question=(
        "The Gaussian flow of this section is $\\psi_t(x)=tm+c_tx$. Complete the map $\\psi_{1/2\\mid t}$ that takes "
        "a point from `y` at time `t` to where the flow has it at time $1/2$. There are two blanks: first go back to "
        "time 0, then forward. `y` is a tensor of shape `(batch, 1)`; `t`, `m` and `s` are numbers."
    ),
    after=(
        "When it is right, compare `answer(y, 0.2, m, s)` with `sample(u, y, t=(0.2, 0.5))` for "
        "`y = torch.randn(5, 1, dtype=torch.float64)`."
    ),
    given=_PSI_HALF.format("____", "____"),
    reference=_PSI_HALF.format("(y - t * m) / c_t", "0.5 * m + c_half * x"),
    why=(
        "A flow is Markov: to go on from time t you need only y. Undo psi_t, subtracting t m and dividing by c_t, "
        "which gives the point's place at time 0; then apply psi_{1/2}. Any psi_{s|t} is made in this way from psi_s "
        "and the inverse of psi_t."
    ),
    hints=(
        "Solve y = t m + c_t x for x. That is psi_t^{-1}(y), the first blank.",
        "Then put this x into psi_{1/2}(x) = m / 2 + c_half x, the second blank.",
    ),
    arguments=("y", "t", "m", "s"),
    truth=lambda y, t, m, s: 0.5 * m + _scale(0.5, s) * (y - t * m) / _scale(t, s),
    wrongs=(
        Wrong(
            _PSI_HALF.format("y", "0.5 * m + c_half * x"),
            "This is psi_{1/2}(y): it takes y for a point at time 0, but y is a point at time t. Go back to "
            "x = psi_t^{-1}(y) first.",
        ),
        Wrong(
            _PSI_HALF.format("y / c_t - t * m", "0.5 * m + c_half * x"),
            "You divided by c_t before subtracting t m. Undo the steps of psi_t in the reverse order: it multiplies "
            "first and adds last, so subtract first and divide last.",
        ),
        Wrong(
            _PSI_HALF.format("(y - t * m) / c_t", "x"),
            "This is psi_t^{-1}(y), the point's place at time 0. Now go forward to time 1/2.",
        ),
        Wrong(
            _PSI_HALF.format("(y - t * m) / c_t", "c_half * x"),
            "The spread is right, but the mean is missing: at time 1/2 the flow has moved the middle to m / 2.",
        ),
        Wrong(
            _PSI_HALF.format("(y - t * m) / c_t", "m + s * x"),
            "This goes on to time 1, where the mean is m and the spread s. Stop at time 1/2.",
        ),
        Wrong(
            _PSI_HALF.format("(y + t * m) / c_t", "0.5 * m + c_half * x"),
            "You added t m. Solving y = t m + c_t x for x subtracts it.",
        ),
        Wrong(
            _PSI_HALF.format("y", "y + (0.5 - t) * m"),
            "You moved the mean but kept the spread: c_t changes as well, from c_t to c_{1/2}.",
        ),
    ),
    cases=_points,
    rights=(
        "def answer(y, t, m, s):\n    from math import hypot\n"
        "    return m / 2 + hypot(0.5, 0.5 * s) / hypot(1 - t, t * s) * (y - t * m)",
        "def answer(y, t, m, s):\n    psi = lambda x, t: t * m + ((1 - t) ** 2 + (t * s) ** 2) ** 0.5 * x\n"
        "    slope = psi(1.0, t) - psi(0.0, t)\n    return psi((y - psi(0.0, t)) / slope, 0.5)",
    ),
    other_wrongs=((_PSI_HALF.format("y - t * m", "m / 2 + c_half * x"), "expected is"),),
)

score_counted_twice = Choice(
    key="basics.score_counted_twice",
    number="1.4",
    task="break it",
    question=(
        "*Optional, as this section is.* In the diffusion, replace the factor $g^2/2$ of the score by $g^2$. How will "
        "the histogram at $t=1$ be wrong?"
    ),
    options={
        "a": (
            "its bumps are too wide",
            "A larger drift sounds like more motion, hence more spread. But the score points uphill in density: it "
            "pulls points together. Only the noise spreads them, and that is as before.",
        ),
        "b": ("its bumps are too narrow", ""),
        "c": (
            "not at all: any multiple of the score keeps the law",
            "It tempts, because any amount of noise g keeps the law. But each amount needs its own pull back, g^2/2 "
            "times the score. With g^2 half of the pull has no noise to balance it.",
        ),
        "d": (
            "its bumps are moved to one side",
            "The score has no preferred direction. It points to the nearest bump from both sides, so the bumps stay "
            "where they are.",
        ),
    },
    after=(
        "Then look: in the cell that makes `runs`, write `with_noise = solvers.maruyama(lambda x, t: 2 * line.score(x, "
        "t), noise=g)` (the step itself multiplies the score by $g^2/2$), and run it and the figure's cell. Undo the "
        "change: the next claims would stop you."
    ),
    reference='answer = "b"',
    why=(
        "Noise of variance g^2 dt spreads the law, and the drift g^2/2 times the score gathers it again, just as "
        "much. Twice the score gathers more than the noise spreads, so the bumps get narrower: here their standard "
        "deviations fall from 0.3 and 0.5 to about 0.21 and 0.36."
    ),
    hints=(
        "Which of the two terms spreads the points, the noise or the score? Which one gathers them?",
        "The score is the gradient of log p_t. It points from the flanks of a bump to its top.",
    ),
)

sign_of_target = Choice(
    key="basics.sign_of_target",
    number="1.5",
    task="break it",
    question=(
        "Swap the sign of the regression target to $X_0-X_1$, train, and sample as before: start from noise at $t=0$ "
        "and follow the network to $t=1$. What do the samples look like?"
    ),
    options={
        "a": (
            "the two moons, as before",
            "The square in the loss forgets the sign of the *error*, but not that of the target. The network now "
            "learns -u_t, every arrow turned round.",
        ),
        "b": (
            "the two moons, turned by half a turn",
            "Turning every arrow round does not turn the place they lead to. The arrows of u_t lead onto the moons; "
            "those of -u_t lead away from them, in all directions.",
        ),
        "c": ("a cloud flung outwards, far away from the moons", ""),
        "d": (
            "the Gaussian noise from which they started",
            "The turned velocity is as fast as the right one, so the points do not stay. Noise is what the network "
            "makes of *moons*, if its clock is turned round as well.",
        ),
    },
    after=(
        "Then try it: write `x_0 - x_1` in `train`, run that cell and the next two. A claim stops you, and many "
        "samples lie outside the picture. For which clock is this network right? Look at `sample(lambda x, t: "
        "moons_velocity(x, 1 - t), datasets.moons(1000).to(device))`. Undo the change and run both cells again."
    ),
    reference='answer = "c"',
    why=(
        "The best network is the conditional mean of the target, now E[X_0 - X_1 | X_t] = -u_t. Followed from noise it "
        "carries points away from the data, fastest near t = 1. In a clock that runs from data to noise the same "
        "network is right: the velocity network(x, 1 - t) carries the moons to the Gaussian."
    ),
    hints=(
        "The network finds the mean of its target given X_t. What is that mean now, in terms of u_t?",
        "It is -u_t. Where does u_t point at a place near the moons, at t close to 1? And -u_t?",
    ),
)

half_turn = Number(
    key="basics.half_turn",
    number="1.6",
    task="predict",
    question=(
        "Make it a half turn, $X_1=-0.7X_0$, still paired. At which time $t$ do all pairs meet in one point? Answer "
        "with a number between 0 and 1, rounded to two decimals, or with a fraction such as `1 / 3`."
    ),
    after=(
        "What can a velocity do there, where one point stands for all pairs? Change the matrix in the cell "
        "that defines `turned`, at the start of 1.10, to `[[-1.0, 0.0], [0.0, -1.0]]`, run it and the cell of the "
        "figure, and see what the trained flow does. (In the claims after it, one of the paired ones stops you: the "
        "samples come out too narrow, or at the wrong partners. The map is lost either way. Undo the change.)"
    ),
    reference="answer = 1 / 1.7",
    expected=1 / 1.7,
    within=0.006,
    wrongs=(
        Wrong(
            "answer = 0.5",
            "Half-way would be right for X_1 = -X_0, with both ends equally far from the origin. Here the start is "
            "farther away than the end, so reaching the origin takes more than half of the time.",
        ),
        Wrong(
            "answer = 0.7",
            "At t = 0.7 the factor of X_0 is 0.3 - 0.49: it has changed its sign already. Find the t at which it is 0.",
        ),
        Wrong(
            "answer = 0.41",
            "This is 0.7 / 1.7, the share of the way *behind* the origin. The walk begins on the other side, with 1 of "
            "1.7 to go.",
        ),
        Wrong("answer = 1", "At t = 1 the pairs are at X_1 = -0.7 X_0, spread out again. They meet before that."),
        Wrong("answer = 1.7", "A time lies between 0 and 1. You have the factor 1 - 1.7 t; at which t is it zero?"),
        Wrong("answer = 0", "At t = 0 each pair is at its own X_0. They meet later."),
    ),
    otherwise="Write X_t as a factor times X_0, and ask when that factor is zero.",
    why=(
        "X_t = (1 - t) X_0 - 0.7 t X_0 = (1 - 1.7 t) X_0, which is zero for every pair at t = 1 / 1.7 = 0.588. There "
        "the place tells nothing about the pair, and one velocity cannot serve all of them: the velocity can only be "
        "the average over all pairs. A smooth network cannot send different points through one point and out again."
    ),
    hints=(
        "Put X_1 = -0.7 X_0 into X_t = (1 - t) X_0 + t X_1 and collect the factor of X_0.",
        "The factor is 1 - 1.7 t. When is it zero?",
    ),
    rights=("answer = 0.59", "answer = torch.tensor(10 / 17)"),
)
