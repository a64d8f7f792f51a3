"""Exercises of notebook 2, the marginalization trick."""

import math

import torch

from fmlib.exercises._questions import Choice, Function, Number, Wrong

forgotten_denominator = Number(
    key="marginalization.forgotten_denominator",
    number="2.1",
    task="predict",
    question=(
        "Someone forgets the denominator and follows $u(x)=x_1-x$ from $t=0$ to $t=1$. What fraction of the way from "
        "$x_0$ to $x_1$ is left at the end? Answer with a number between 0 and 1, to two digits."
    ),
    after=(
        "Decide first, then change one line in the first cell of this section and measure, with `steps=1000`: twenty "
        "Euler steps leave a little less. Undo the change."
    ),
    reference="import math\n\nanswer = math.exp(-1)",
    expected=math.exp(-1),
    within=0.006,
    wrongs=(
        Wrong(
            "answer = 0",
            "Nothing is left if you divide by 1 - t: then the speed makes up for the time that runs out. Without the "
            "denominator the field gets slower and slower on its way.",
        ),
        Wrong(
            "answer = 0.632",
            "This is the fraction that is covered, 1 - 1/e. The question is what is left.",
        ),
        Wrong(
            "answer = 36.8",
            "As a percentage this is right. As a number between 0 and 1 it is a hundred times smaller.",
        ),
        Wrong(
            "answer = 37",
            "As a percentage, rounded, this is right. Give it as a number between 0 and 1.",
        ),
        Wrong(
            "answer = 0.5",
            "Half would be left if the speed fell evenly to nothing. It falls with the distance r that is left: "
            "solve dr/dt = -r.",
        ),
        Wrong(
            "answer = 1",
            "The point does move, at first as fast as it should. Solve dr/dt = -r for the distance r that is left.",
        ),
    ),
    otherwise="Call the distance that is left r. It obeys dr/dt = -r.",
    why=(
        "The way that is left, r = x_1 - x, obeys dr/dt = -r, so r(1) = r(0) / e: about 37 % is left. A field that "
        "does not look at the clock slows down as it comes near, and never arrives. Dividing by 1 - t is what brings "
        "everything there in time."
    ),
    hints=(
        "Let r = x_1 - x be the way that is left. What is dr/dt?",
        "dr/dt = -r. Solve it from t = 0 to t = 1.",
    ),
    rights=("answer = 0.37", "answer = torch.tensor(-1.0).exp()"),
)

largest_loss = Choice(
    key="marginalization.largest_loss",
    number="2.2",
    task="predict",
    question=(
        "Redo the right panel in your head for $t=0.05$ and for $t=0.9$, with cells of side $(1-t)/2$: how many "
        "clouds, how wide, and how many points in each? Then decide at which time the loss of a perfect network, the "
        "spread of the velocities in a cell, is the largest."
    ),
    options={
        "a": (
            "at $t=0.05$",
            "At t = 0.05 the target is the least decided: all sixteen clouds have nearly the same weight. But the "
            "velocity is (X_1 - x) / (1 - t), and at t = 0.5 the same doubt about X_1 counts four times as much.",
        ),
        "b": ("at $t=0.5$", ""),
        "c": (
            "at $t=0.9$",
            "The factor 1 / (1 - t)^2 is 100 there, which tempts. But at t = 0.9 the place nearly tells the target: "
            "the largest weight is about 0.7 on average, and the doubt that is left is between close neighbours.",
        ),
        "d": (
            "equally large at all three",
            "The clouds move apart like 1 / (1 - t) while their number falls. The two effects do not cancel: at first "
            "the growth wins, later the weights decide.",
        ),
    },
    after="Check later, with `conditional_variance` of section 2.5.",
    reference='answer = "b"',
    why=(
        "The loss of a perfect network at time t is the variance of X_1 given X_t, over (1 - t)^2. Early the variance "
        "is that of the whole data set but the factor is 1; late the factor is huge but the weights have decided. In "
        "the middle both count: about 1.4, 2.7 and 0.3 at the three times."
    ),
    hints=(
        "The velocity of a cloud is (x_i - x) / (1 - t). So the spread is that of x_i under the weights, over (1 - "
        "t)^2.",
        "At t = 0.05 the spread of x_i is that of the whole data, over 0.9. At t = 0.9 nearly all weight is on one or "
        "two neighbours. In between?",
    ),
)

deviation_for_variance = Choice(
    key="marginalization.deviation_for_variance",
    number="2.3",
    task="break it",
    question=(
        "In `posterior_weights`, someone writes $(1-t)$ for $(1-t)^2$, the classical confusion of a standard deviation "
        "with a variance. Which claim is the first to stop the notebook?"
    ),
    options={
        "a": (
            "`everything arrives`, section 2.1",
            "That claim follows the field of a single point. It comes before the weights and does not use them.",
        ),
        "b": (
            "`t = 0.0: softmax weights equal Bayes' rule`",
            "At t = 0 the standard deviation and the variance are both 1, so the two formulas agree there.",
        ),
        "c": ("`t = 0.3: softmax weights equal Bayes' rule`", ""),
        "d": (
            "`first and second moments of the carried samples, at four times`, section 2.4",
            "It could notice too, for the law is wrong. But the notebook does not get that far: an earlier claim "
            "compares the weights themselves.",
        ),
    },
    after=(
        "Then make the change, skip the claims, and look at the trajectories of section 2.3: would they have told you? "
        "Undo the change."
    ),
    reference='answer = "c"',
    why=(
        "At t = 0 both formulas divide by 2, so the first line of the check holds. At t = 0.3 one divides by 0.98, the "
        "other by 1.4: the softmax is too soft, and its weights differ from Bayes' rule in the first digits. The "
        "trajectories still fan out to the data, so the eye would hardly notice."
    ),
    hints=(
        "Which claims use posterior_weights at all? Go through them from the top.",
        "The check against Bayes' rule runs at t = 0, 0.3, 0.6 and 0.9. For which t is 1 - t different from (1 - t)^2?",
    ),
)

noisy_target = Number(
    key="marginalization.noisy_target",
    number="2.4",
    task="predict",
    question=(
        "Add independent noise $\\mathcal N(0,I)$ to the target of $L_{\\mathrm{CFM}}$, in the plane. By how much does "
        "the loss rise? (As above, the square is summed over the coordinates.) Answer with a number."
    ),
    after="What happens to the gradient, and to the slope in the right panel? Decide, then see the solution.",
    reference="answer = 2",
    expected=2,
    within=0.02,
    wrongs=(
        Wrong(
            "answer = 0",
            "The noise has mean zero, so it changes no *average* prediction and no expected gradient. But the loss is "
            "a mean of squares, and independent noise adds its variance to that.",
        ),
        Wrong(
            "answer = 1",
            "This is the variance of one coordinate. The square is summed over the coordinates, and the plane has two.",
        ),
        Wrong(
            "answer = math.sqrt(2)",
            "This is the noise's root mean square length. The loss is a mean of squares: do not take a root.",
        ),
        Wrong("answer = 4", "Noise is added to the target once; its variance is 1 in each of the two coordinates."),
    ),
    otherwise="The noise is independent of everything else, so its variance, summed over the coordinates, is added.",
    why=(
        "The cross term has mean zero, so E||u - (v + n)||^2 = E||u - v||^2 + E||n||^2, and E||n||^2 = 2 in the plane. "
        "The network is not in that term: the expected gradient and the minimiser stay. A single batch's gradient gets "
        "noisier, so the curve in the right panel moves up, and its slope remains -1/2."
    ),
    hints=(
        "Write the target as v + n and expand the square. Which term has mean zero?",
        "What is left is E||n||^2 for n ~ N(0, I) in the plane.",
    ),
    rights=("answer = 2.0", "answer = torch.ones(2).sum()"),
)


def _mean(x, data, alpha, sigma):
    return (-(torch.cdist(x, alpha * data) ** 2) / (2 * sigma**2)).softmax(1) @ data


def _path_cases(draw: torch.Generator) -> list[tuple]:
    settings = [((6, 2), 16, 0.5, 0.8, 1.3, -0.9), ((1, 3), 5, 0.9, 0.4, 0.7, -1.6), ((5, 8), 7, 0.3, 0.7, 1.0, -1.0)]
    return [
        (
            torch.randn(shape, generator=draw, dtype=torch.float64),
            torch.randn(count, shape[1], generator=draw, dtype=torch.float64),
            *numbers,
        )
        for shape, count, *numbers in settings
    ]


_GENERAL = """def answer(x, data, alpha, sigma, d_alpha, d_sigma):
    offset = x[:, None] - alpha * data
    logits = -offset.square().sum(-1) / (2 * sigma**2)
    mean = logits.softmax(-1) @ data  # E[X_1 given X_t = x]
    return d_alpha * mean + d_sigma * {}"""

general_path = Function(
    key="marginalization.general_path",
    number="2.5",
    task="complete",
    question=(
        "For a general path $X_t=\\alpha_tX_1+\\sigma_tX_0$ the logits are "
        "$-\\|x-\\alpha_t\\,x_i\\|^2/(2\\sigma_t^2)$. Complete the velocity $u_t(x)=\\alpha_t'\\,\\mathbb E[X_1\\mid "
        "X_t=x]+\\sigma_t'\\;$`____`. `x` has shape `(batch, d)`, `data` has shape `(N, d)`, and the other four "
        "arguments are numbers: $\\alpha_t$, $\\sigma_t$ and their derivatives in $t$."
    ),
    after=(
        "Then `from fmlib import schedules`, and compare with `exact.DataPath(data, schedules.Cosine()).velocity(x, "
        "t)`."
    ),
    given=_GENERAL.format("____"),
    reference=_GENERAL.format("(x - alpha * mean) / sigma"),
    why=(
        "The velocity of a pair is alpha' X_1 + sigma' X_0, so the blank is E[X_0 | X_t = x]. Given X_t = x the noise "
        "is X_0 = (x - alpha X_1) / sigma, and the mean of that is (x - alpha mean) / sigma. So one posterior mean is "
        "enough, whatever the schedule."
    ),
    hints=(
        "The velocity of one pair is alpha' X_1 + sigma' X_0. Average it given X_t = x: which mean is missing?",
        "It is E[X_0 | X_t = x]. Solve x = alpha X_1 + sigma X_0 for X_0, then take the mean.",
    ),
    arguments=("x", "data", "alpha", "sigma", "d_alpha", "d_sigma"),
    truth=lambda x, data, a, s, da, ds: da * _mean(x, data, a, s) + ds * (x - a * _mean(x, data, a, s)) / s,
    wrongs=(
        Wrong(
            _GENERAL.format("x"),
            "You put x, which is X_t, where the mean of X_0 belongs. Take the part of X_1 out of x first.",
        ),
        Wrong(
            _GENERAL.format("(x - alpha * mean)"),
            "x - alpha E[X_1 | x] is sigma times the mean of X_0. Divide by sigma.",
        ),
        Wrong(
            _GENERAL.format("(x - mean) / sigma"),
            "X_1 enters X_t with the factor alpha: X_0 = (X_t - alpha X_1) / sigma. The alpha is missing.",
        ),
        Wrong(
            _GENERAL.format("(x - alpha * data.mean(0)) / sigma"),
            "You used the plain mean of the data. Given X_t = x the mean of X_1 is the weighted one, `mean`.",
        ),
        Wrong(
            _GENERAL.format("(alpha * mean - x) / sigma"),
            "The sign is turned round: X_0 = (X_t - alpha X_1) / sigma.",
        ),
        Wrong(
            _GENERAL.format("0"),
            "You took the mean of X_0 to be 0. It is 0 before you look; given X_t = x it is not.",
        ),
    ),
    cases=_path_cases,
    rights=(
        _GENERAL.format("(x / sigma - alpha / sigma * mean)"),
        "def answer(x, data, alpha, sigma, d_alpha, d_sigma):\n"
        "    noise = (x[:, None] - alpha * data) / sigma\n"
        "    w = torch.softmax(-noise.pow(2).sum(2) / 2, 1)[..., None]\n"
        "    return (w * (d_alpha * data + d_sigma * noise)).sum(1)",
    ),
)

twenty_digits = Choice(
    key="marginalization.twenty_digits",
    number="2.6",
    task="break it",
    question=(
        "Train on the first 20 digits only (`train = train[:20]`, after `train` is made), with the same settings; one "
        "claim will stop you. Where does the network's histogram of distances to the nearest training image go?"
    ),
    options={
        "a": (
            "nowhere: it stays where that of new digits is",
            "That the network was smooth enough to invent new digits depended on how many it had to fit. Twenty images "
            "are few enough to be followed one by one.",
        ),
        "b": (
            "to larger distances, since fewer images are there to be near to",
            "This is what happens to *new* digits: from about 2 to about 4. The network, however, was trained on just "
            "these twenty.",
        ),
        "c": ("close to zero: it copies", ""),
        "d": (
            "to the distances of noise, since twenty images are too few to learn from",
            "Too few to learn the law of digits, but not too few to learn the twenty. The loss has an exact minimiser "
            "on any data set, and the fewer the points the easier it is to fit.",
        ),
    },
    after="Try it. How many images does it take until the histogram sits where that of held-out digits does?",
    reference='answer = "c"',
    why=(
        "With twenty images the exact velocity is simple enough for this network to come close to it, and the exact "
        "velocity copies. The median distance falls from about 2.5 to about 0.4; it is not quite zero, since training "
        "is short. What kept the network from copying before was the number of images, not the loss."
    ),
    hints=(
        "What does the exact minimiser of the loss generate, for any finite data set?",
        "Is a velocity with 20 attractors harder or easier to fit than one with 1,437?",
    ),
)
