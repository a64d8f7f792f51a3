"""Exercises of notebook 4, kinetic energy."""

import math

import torch

from fmlib.exercises._questions import Choice, Function, Number, Wrong

slow_gap = Choice(
    key="kinetic.slow_gap",
    number="4.1",
    task="predict",
    question=(
        "Make the blur `s` ten times smaller. All three gaps shrink, two of them like $s^2$, a hundred times. Which "
        "one shrinks more slowly, and why?"
    ),
    options={
        "a": ("that of the independent coupling", ""),
        "b": (
            "that of the rotation",
            "Its lines cross in the picture, but not at the same time: at each t the eight centres lie on a ring, well "
            "apart. A place and a time together tell the pair.",
        ),
        "c": (
            "that of minibatch OT",
            "It is the smallest, but it shrinks like the others that never meet: all that is left of it is the blur "
            "within a pair, which is of order s^2.",
        ),
        "d": (
            "none: the variance within a pair is of order $s^2$ for all three",
            "That part is, see the formula of 4.2. But the gap has a second part, the variance between pairs, wherever "
            "several pairs are at one place at one time.",
        ),
    },
    after="Then try it. One claim will stop you. Which one, and is it wrong? Undo the change.",
    reference='answer = "a"',
    why=(
        "Within a pair the variance is of order s^2. Under the independent coupling eight pairs leave from each "
        "source point and eight arrive at each target point. Near the ends they lie within the blur of one another, "
        "for a time of order s, and disagree there by a velocity of order 1: that part of the gap falls like s, not "
        "like s^2. (The claim that stops you asks for four standard errors, and the gap of 0.002 is smaller than the "
        "noise. The inequality is not wrong, the sample is too small to show it.)"
    ),
    hints=(
        "The gap is variance within a pair plus variance between pairs. Which of the two is of order s^2 in any case?",
        "For which coupling are several pairs at one place at one time, however small the blur? Look at the ends.",
    ),
)


def _velocities(draw: torch.Generator) -> list[tuple]:
    return [tuple(torch.randn(2, *shape, generator=draw, dtype=torch.float64)) for shape in [(50, 2), (1, 3), (20, 7)]]


_GAP = "def answer(v, u):\n    return {}"

gap_as_loss = Function(
    key="kinetic.gap_as_loss",
    number="4.2",
    task="complete",
    question=(
        "The gap is also $\\mathbb E\\|V_t-u_t(X_t)\\|^2$, the loss that conditional flow matching converges to. "
        "Complete its estimate from samples: `v` holds the $V_t$ and `u` the $u_t(X_t)$, both of shape `(batch, d)`; "
        "the answer is one number, a tensor of shape `()`."
    ),
    after=(
        "Then use it. With `x, t, v = draw(coupling, schedule)` and `velocity_of(coupling, schedule)(x, t)` for `u`, "
        'compare it with the table, for example for `pairs["rotation"]` and `kinds["cosine"]`.'
    ),
    given=_GAP.format("____"),
    reference=_GAP.format("(v - u).square().sum(1).mean()"),
    why=(
        "||V - u||^2 is a sum over the coordinates, and E a mean over the samples. As u_t(X_t) is the conditional "
        "mean of V_t, what this loss measures is the conditional variance of V_t: the gap. So a perfect network's "
        "loss is not zero, it is the difference of the bound and the kinetic energy."
    ),
    hints=(
        "Which operation stands for the norm squared, over dimension 1? Which for the expectation, over dimension 0?",
        "Square the difference, sum over dimension 1, then take the mean.",
    ),
    arguments=("v", "u"),
    truth=lambda v, u: ((v - u) ** 2).sum() / len(v),
    wrongs=(
        Wrong(
            _GAP.format("(v - u).square().mean()"),
            "This averages over the coordinates as well, so it is d times too small. A norm squared is a *sum* over "
            "the coordinates.",
        ),
        Wrong(
            _GAP.format("v.square().sum(1).mean() - u.square().sum(1).mean()"),
            "This is the bound less the kinetic energy. It has the same expectation, because V - u is orthogonal to u "
            "on average, but it is not the loss: write the square of the difference, not the difference of the "
            "squares.",
        ),
        Wrong(
            _GAP.format("(v - u).norm(dim=1).mean()"),
            "This is the mean distance. The gap is the mean of the distance *squared*.",
        ),
        Wrong(
            _GAP.format("(v - u).square().sum()"),
            "This is the sum over all samples. An expectation is estimated by their mean.",
        ),
        Wrong(
            _GAP.format("(v - u).square().sum(1)"),
            "This is ||V - u||^2 for each sample. The expectation is still to be taken.",
        ),
        Wrong(
            _GAP.format("(v - u).mean(0).square().sum()"),
            "You averaged first and squared afterwards. The average of V - u is 0: square first.",
        ),
        Wrong(
            _GAP.format("v.square().sum(1).mean()"),
            "This is the bound, E||V||^2. Subtract u from v before you square.",
        ),
        Wrong(
            _GAP.format("u.square().sum(1).mean()"),
            "This is the kinetic energy, E||u||^2. Subtract it from v, and square.",
        ),
    ),
    cases=_velocities,
    rights=(
        _GAP.format("((u - v) ** 2).sum() / len(v)"),
        _GAP.format("torch.nn.functional.mse_loss(u, v) * v.shape[1]"),
        _GAP.format("(v - u).norm(dim=1).pow(2).mean()"),
    ),
    other_wrongs=((_GAP.format("(v - u).square().sum(1).mean().item()"), "must return a torch tensor"),),
)

singular_speed = Choice(
    key="kinetic.singular_speed",
    number="4.3",
    task="predict",
    question=(
        "The variance-preserving schedule of notebook 5 has $\\sigma_t'\\to-\\infty$ as $t\\to1$, like "
        "$-(1-t)^{-1/2}$. Let the target have a bounded density. What are its bound and the kinetic energy of its "
        "marginal velocity?"
    ),
    options={
        "a": (
            "both are finite, since $(1-t)^{-1/2}$ is integrable",
            "The speed is integrable, so every path has a finite length. But an energy integrates the *square* of the "
            "speed, which is of order 1 / (1 - t).",
        ),
        "b": (
            "both are infinite",
            "The bound is. But the marginal velocity contains sigma' only times E[X_0 | X_t], and near t = 1 the place "
            "says next to nothing about the noise: that mean is of the order of sigma_t.",
        ),
        "c": ("the bound is infinite, the kinetic energy is finite", ""),
        "d": (
            "the bound is finite, the kinetic energy is infinite",
            "That cannot be: the bound is an upper bound of the kinetic energy.",
        ),
    },
    reference='answer = "c"',
    why=(
        "The bound contains the integral of sigma'^2 times E||X_0||^2, and 1 / (1 - t) has an infinite integral. In "
        "the marginal velocity sigma' is multiplied by E[X_0 | X_t] = -sigma_t times the score, and sigma' sigma "
        "stays finite. A bounded density is enough: that mean is of order 1 only within about sigma_t of an edge. "
        "(For a finite data set the energy is infinite too: near a data point the place does tell X_0.) An infinite "
        "bound says nothing about the flow."
    ),
    hints=(
        "The bound is E of the integral of ||alpha' X_1 + sigma' X_0||^2. Is the integral of sigma'^2 finite?",
        "In the marginal velocity stands sigma' E[X_0 | X_t]. How large is it near t = 1, if the density is bounded?",
    ),
)

more_points = Number(
    key="kinetic.more_points",
    number="4.4",
    task="predict",
    question=(
        "With 2000 points instead of 200, by which factor does the green line rise in high dimension? Use "
        "$t\\sim\\sqrt{\\log n/d}$ for the time until which the target is undecided, and take the gap to be "
        "proportional to it. Answer with a number, to two digits."
    ),
    after="Then change 200 to 2000 in the cell that draws the data, and see how good the heuristic is.",
    reference="import math\n\nanswer = math.sqrt(math.log(2000) / math.log(200))",
    expected=math.sqrt(math.log(2000) / math.log(200)),
    within=0.02,
    wrongs=(
        Wrong(
            "answer = 10",
            "The gap is not proportional to the number of points. What counts is how far X_t must go to single out one "
            "of n, and that grows with the root of log n.",
        ),
        Wrong(
            "answer = math.sqrt(10)", "You took the root of n. In the formula stands the root of the *logarithm* of n."
        ),
        Wrong(
            "answer = math.log(2000) / math.log(200)",
            "This is the ratio of the logarithms. The time goes like their root.",
        ),
        Wrong(
            "answer = 1",
            "A little more than that: log n changes slowly, but it does change. Put both values of n into the formula.",
        ),
        Wrong(
            "answer = math.sqrt(math.log(200) / math.log(2000))",
            "You divided the other way round: with more points the target is undecided for longer.",
        ),
    ),
    otherwise="Divide sqrt(log 2000 / d) by sqrt(log 200 / d); the dimension cancels.",
    why=(
        "The dimension cancels, and sqrt(log 2000 / log 200) = sqrt(7.60 / 5.30) = 1.20. Ten times as many points "
        "raise the line by about a fifth: the number of points counts little, the dimension much more. (Measured at "
        "d = 784 it is a little more than that: the heuristic keeps the leading term only, and underestimates.)"
    ),
    hints=(
        "Divide the time for n = 2000 by the time for n = 200. What happens to d?",
        "It is the root of log 2000 / log 200, with the natural logarithm (any base gives the same).",
    ),
    rights=("answer = 1.2", "answer = (torch.tensor(2000.0).log() / torch.tensor(200.0).log()).sqrt()"),
)

equal_weights = Choice(
    key="kinetic.equal_weights",
    number="4.5",
    task="break it",
    question=(
        "In `given_pair`, replace the softmax by equal weights for all pairs, restart and run all. The first claim, "
        "`bound less KE(u) is the conditional variance`, stops you. It compares two numbers: the bound less the "
        "kinetic energy, and the gap. What is wrong with them?"
    ),
    options={
        "a": (
            "only the gap is wrong: the weights stand in `variance`",
            "They stand in `velocity_of` as well, by way of given_pair. So u is wrong, and with it the kinetic energy: "
            "for the independent coupling and the cosine schedule it falls from 4.05 to 0.00.",
        ),
        "b": (
            "only the bound less the kinetic energy is wrong: the gap is an average over the posterior",
            "The gap is computed from the same weights, which are no posterior any more.",
        ),
        "c": ("both are wrong, since the kinetic energy and the gap use the same weights", ""),
        "d": (
            "neither is wrong: for equal weights the identity does not hold",
            "The identity is about u_t(x) = E[V_t | X_t = x] and the variance around it. With equal weights neither "
            "number is what its name says.",
        ),
    },
    after="Try it, and see which of the three columns of the table keep their values. Undo the change.",
    reference='answer = "c"',
    why=(
        "velocity_of and variance both take their weights from given_pair. With equal weights u is no conditional "
        "mean, so the kinetic energy is that of another field, and the gap is a variance around it under the prior. "
        "Only the bound is right: it uses V_t itself. Two wrong numbers need not agree, and here they do not for most "
        "rows."
    ),
    hints=(
        "Which functions call given_pair? Which columns of the table come from them?",
        "The bound is computed from v, which `draw` makes without any weights. What of the other two columns?",
    ),
)
