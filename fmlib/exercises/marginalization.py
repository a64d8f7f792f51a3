"""Exercises of notebook 2, the marginalization trick."""

import math

import torch

from fmlib.exercises._questions import WRONG, Choice, Function, Number, Verdict, Wrong

forgotten_denominator = Number(
    key="marginalization.forgotten_denominator",
    number="2.1",
    task="predict",
    question=(
        "Someone forgets the denominator and follows $u(x)=x_1-x$ from $t=0$ to $t=1$. What fraction of the way from "
        "$x_0$ to $x_1$ is left at the end? Answer with a number between 0 and 1, to two digits. The cell below "
        "measures it; decide before you open it."
    ),
    reference="import math\n\nanswer = math.exp(-1)",
    expected=math.exp(-1),
    within=0.006,
    wrongs=(
        Wrong(
            "answer = 0",
            "Nothing is left if you divide by $1-t$: then the speed makes up for the time that runs out. Without the "
            "denominator the field gets slower and slower on its way.",
        ),
        Wrong(
            "answer = 0.632",
            "This is the fraction that is covered, $1-1/e$. The question is what is left.",
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
            "Half would be left if the speed fell evenly to nothing. It falls with the distance $r$ that is left: "
            "solve $dr/dt=-r$.",
        ),
        Wrong(
            "answer = 1",
            "The point does move, at first as fast as it should. Solve $dr/dt=-r$ for the distance $r$ that is left.",
        ),
    ),
    otherwise="Call the distance that is left $r$. It obeys $dr/dt=-r$.",
    why=(
        "The way that is left, $r=x_1-x$, obeys $dr/dt=-r$, so $r(1)=r(0)/e$: about 37 % is left. A field that does "
        "not look at the clock slows down as it comes near, and never arrives. Dividing by $1-t$ is what brings "
        "everything there in time."
    ),
    hints=(
        "Let $r=x_1-x$ be the way that is left. What is $dr/dt$?",
        "$dr/dt=-r$. Solve it from $t=0$ to $t=1$.",
    ),
    rights=("answer = 0.37", "answer = torch.tensor(-1.0).exp()"),
)


class _Weights(Function):
    """A function whose exponentials may all vanish: it says so, where others speak of NaN."""

    def _compare(self, case, value, right, tolerance):
        if value.shape == right.shape and not torch.isfinite(value.double()).all():
            raise Verdict(
                WRONG,
                "Near $t=1$ your weights are NaN: the logits go to minus infinity, all exponentials vanish, and 0/0 "
                "remains. Subtract the largest logit of each row first, which changes no weight; `softmax` does it.",
            )
        super()._compare(case, value, right, tolerance)


def _logits(x, data, t):
    t = t[:, None, None]
    return -(x[:, None] - t * data).square().sum(-1) / (2 * (1 - t[..., 0]) ** 2)


def _weights_cases(draw: torch.Generator) -> list[tuple]:
    fixed = (torch.tensor([[0.2], [0.4]]), torch.tensor([[-1.0], [1.0], [2.0]]), torch.tensor([0.0, 0.5]))
    cases = [tuple(a.double() for a in fixed)]
    for batch, count, d in [(6, 16, 2), (1, 3, 5), (7, 7, 3)]:
        x, data = (torch.randn(n, d, generator=draw, dtype=torch.float64) for n in (batch, count))
        cases.append((x, data, 0.9 * torch.rand(batch, generator=draw, dtype=torch.float64)))
    return [*cases, (*cases[1][:2], torch.full((6,), 0.99, dtype=torch.float64))]  # off the path and near the end


_WEIGHTS = """def answer(x, data, t):
    t = t[:, None, None]
    offset = {}
    logits = {}
    return {}"""
_OFFSET, _LOGITS = "x[:, None] - t * data", "-offset.square().sum(-1) / (2 * (1 - t[..., 0]) ** 2)"

posterior_weights = _Weights(
    key="marginalization.posterior_weights",
    number="2.2",
    task="complete",
    question=(
        "Write the weights, before you read on: the next cells hold one version. `x` has shape `(batch, d)`, "
        "`data` has shape `(N, d)`, and `t` has shape `(batch,)`, all below 1. Return $w_i(x,t)$, shape `(batch, N)`, "
        "for every point of the batch at its own time. They have to stay finite close to $t=1$, where each single "
        "likelihood may be too small for a floating-point number."
    ),
    given=(
        "def answer(x, data, t):\n"
        "    offset = ____   # x - t x_i: (batch, N, d)\n"
        "    logits = ____   # the logarithm of each likelihood: (batch, N)\n"
        "    return ____     # the weights: (batch, N)"
    ),
    reference=(
        "def answer(x, data, t):\n"
        "    offset = x[:, None] - t[:, None, None] * data  # x - t x_i\n"
        "    logits = -offset.square().sum(-1) / (2 * (1 - t[:, None]) ** 2)\n"
        "    return logits.softmax(-1)"
    ),
    why=(
        "Bayes: the weight of $x_i$ is the likelihood $N(x;t\\,x_i,(1-t)^2I)$ over the sum of them all, and "
        "what does not depend on $i$ cancels. `softmax` takes the exponentials of the logits less their largest, so "
        "that one of them is 1, and the sum is never zero. Each row sums to one, since the sum goes over the data and "
        "not over the batch."
    ),
    hints=(
        "Give x one more axis, `x[:, None]` of shape (batch, 1, d), and t two, `t[:, None, None]`: then $x-t\\,x_i$ is "
        "one difference.",
        "The logit is minus the squared length of the offset over $2(1-t)^2$. Sum over the last axis.",
        "Over which axis do the weights of one point sum to one? Over the last, the data: `.softmax(-1)`.",
    ),
    arguments=("x", "data", "t"),
    truth=lambda x, data, t: _logits(x, data, t).softmax(-1),
    cases=_weights_cases,
    wrongs=(
        Wrong(
            _WEIGHTS.format(_OFFSET, "-offset.square().sum(-1) / (2 * (1 - t[..., 0]))", "logits.softmax(-1)"),
            "You divide by $2(1-t)$. The logits hold the variance of $X_t$ given $X_1$, which is $(1-t)^2$; $1-t$ is "
            "its standard deviation.",
        ),
        Wrong(
            _WEIGHTS.format("x[:, None] - data", _LOGITS, "logits.softmax(-1)"),
            "You measure from $x_i$ itself. At time t the points that are on their way to $x_i$ lie around $t\\,x_i$.",
        ),
        Wrong(
            _WEIGHTS.format(_OFFSET, "-" + _LOGITS, "logits.softmax(-1)"),
            "A sign is turned round: the farthest data point gets the largest weight. The exponent of a Gaussian "
            "density is negative.",
        ),
        Wrong(
            _WEIGHTS.format(_OFFSET, "-offset.square().sum(-1) / (1 - t[..., 0]) ** 2", "logits.softmax(-1)"),
            "A factor 2 is missing: the exponent of a Gaussian density is $-r^2/(2\\sigma^2)$. Your weights decide too "
            "early.",
        ),
        Wrong(
            _WEIGHTS.format(_OFFSET, "-offset.norm(dim=-1) / (2 * (1 - t[..., 0]) ** 2)", "logits.softmax(-1)"),
            "You use the distance itself. The exponent of a Gaussian density holds its square.",
        ),
        Wrong(
            _WEIGHTS.format(_OFFSET, _LOGITS, "logits.softmax(0)"),
            "Your softmax runs over the batch. The weights of one point, over all the data, sum to one: take the last "
            "axis.",
        ),
        Wrong(
            _WEIGHTS.format(_OFFSET, _LOGITS, "logits.exp()"),
            "These are likelihoods, not yet probabilities: their sum over the data is not one. Divide by the sum, as "
            "`softmax` does without ever forming it.",
        ),
        Wrong(
            _WEIGHTS.format(_OFFSET, _LOGITS, "logits.log_softmax(-1)"),
            "These are the logarithms of the weights. Use `softmax` instead of `log_softmax`.",
        ),
        Wrong(
            _WEIGHTS.format(_OFFSET, _LOGITS, "torch.full_like(logits, 1 / logits.shape[-1])"),
            "These are the weights before you look, $1/N$ each. The place x and the time t tell which target is the "
            "likely one.",
        ),
    ),
    other_wrongs=(
        (_WEIGHTS.format(_OFFSET, _LOGITS, "logits.exp() / logits.exp().sum(-1, keepdim=True)"), "Near $t=1$ your"),
        ("def answer(x, data, t):\n    return (x[:, None] - t * data).sum(-1).softmax(-1)", "Your code stopped with"),
    ),
    rights=(
        _WEIGHTS.format(_OFFSET, _LOGITS, "(logits - logits.logsumexp(-1, keepdim=True)).exp()"),
        "def answer(x, data, t):\n"
        "    rows = []\n"
        "    for point, time in zip(x, t):\n"
        "        squared = ((point - time * data) ** 2).sum(1)\n"
        "        rows.append(torch.softmax(-squared / (2 * (1 - time) ** 2), 0))\n"
        "    return torch.stack(rows)",
        "def answer(x, data, t):\n"
        "    z = (x / (1 - t)[:, None])[:, None] - (t / (1 - t))[:, None, None] * data\n"
        "    logits = -(z * z).sum(2) / 2\n"
        "    likelihood = (logits - logits.max(1, keepdim=True).values).exp()\n"
        "    return likelihood / likelihood.sum(1, keepdim=True)",
    ),
)


def _velocity_cases(draw: torch.Generator) -> list[tuple]:
    x, data = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    fixed = (x, data, torch.tensor([0.5, 0.75]), torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    cases = [tuple(a.double() for a in fixed)]
    for batch, count, d in [(6, 16, 2), (1, 3, 5), (7, 7, 3)]:
        x, data = (torch.randn(n, d, generator=draw, dtype=torch.float64) for n in (batch, count))
        t = 0.9 * torch.rand(batch, generator=draw, dtype=torch.float64)
        weights = (2 * torch.randn(batch, count, generator=draw, dtype=torch.float64)).softmax(-1)
        cases.append((x, data, t, weights))
    return cases


_VELOCITY = """def answer(x, data, t, weights):
    left = (1 - t)[:, None]
    each = {}
    return {}"""
_EACH, _WEIGHTED = "(data - x[:, None]) / left[..., None]", "(weights[..., None] * each).sum(1)"

marginal_velocity = Function(
    key="marginalization.marginal_velocity",
    number="2.3",
    task="complete",
    question=(
        "Now the average. `weights`, shape `(batch, N)`, are those of the points `x`, as you just wrote them; `data` "
        "and `t` are as before. Return $u_t(x)=\\sum_i w_i\\,u_t(x\\mid x_i)$, shape `(batch, d)`."
    ),
    given=(
        "def answer(x, data, t, weights):\n"
        "    left = ____     # the time that is left\n"
        "    each = ____     # the velocity towards each data point: (batch, N, d)\n"
        "    return ____     # their average under the weights: (batch, d)"
    ),
    reference=_VELOCITY.format(_EACH, _WEIGHTED),
    why=(
        "Each data point asks for $(x_i-x)/(1-t)$, and the weights say how likely it is the one. Since they sum to "
        "one, x and $1-t$ come out of the sum: $u_t(x)=(\\sum_i w_i\\,x_i-x)/(1-t)$. So it is enough to average the "
        "data points, and a product of two matrices does that."
    ),
    hints=(
        "The conditional velocity of section 2.1 is $(x_i-x)/(1-t)$. With `x[:, None]` it is one difference for all "
        "data points.",
        "`t` has shape (batch,). For shape (batch, N, d) it needs two more axes, for (batch, d) one.",
        "Multiply each velocity by its weight, `weights[..., None]`, and sum over the data.",
    ),
    arguments=("x", "data", "t", "weights"),
    truth=lambda x, data, t, weights: (weights @ data - x) / (1 - t)[:, None],
    cases=_velocity_cases,
    wrongs=(
        Wrong(
            _VELOCITY.format(_EACH, "each.mean(1)"),
            "You gave every data point the same weight. Those that are the likely targets here count more: use "
            "`weights`.",
        ),
        Wrong(
            _VELOCITY.format(_EACH, "(weights[..., None] * each).mean(1)"),
            "This is N times too small. The weights sum to one already, so take the sum over the data, not the mean.",
        ),
        Wrong(
            _VELOCITY.format("data - x[:, None]", _WEIGHTED),
            "This is the way that is left. Divide it by the time that is left, $1-t$.",
        ),
        Wrong(
            _VELOCITY.format("(data - x[:, None]) / left[..., None] ** 2", _WEIGHTED),
            "You divide by $(1-t)^2$, which belongs to the weights. A velocity is a way over a time: $1-t$.",
        ),
        Wrong(
            _VELOCITY.format("(x[:, None] - data) / left[..., None]", _WEIGHTED),
            "The sign is turned round: this leads away from the data. The way that is left is $x_i-x$.",
        ),
        Wrong(
            _VELOCITY.format("data / left[..., None]", _WEIGHTED),
            "You average the data points and forget where you are: subtract x.",
        ),
        Wrong(
            _VELOCITY.format("data.expand(len(x), -1, -1)", _WEIGHTED),
            "This is the mean of the data points under the weights, the place where the velocity aims. The velocity is "
            "the way there over the time that is left.",
        ),
        Wrong(
            _VELOCITY.format("(data - x[:, None]) / (1 - left)[..., None].clamp(min=1e-9)", _WEIGHTED),
            "You divide by the time that has passed, t. What counts is the time that is left, $1-t$.",
        ),
        Wrong(
            _VELOCITY.format("(data - t[:, None, None] * x[:, None]) / left[..., None]", _WEIGHTED),
            "There is a t at the x. The velocity towards $x_i$ starts from where you are, $(x_i-x)/(1-t)$; it is the "
            "weights that hold $t\\,x_i$.",
        ),
        Wrong(
            _VELOCITY.format(_EACH, "each[torch.arange(len(x)), weights.argmax(1)]"),
            "You follow the likeliest data point alone. All of them count, each with its weight.",
        ),
    ),
    rights=(
        "def answer(x, data, t, weights):\n    return (weights @ data - x) / (1 - t)[:, None]",
        "def answer(x, data, t, weights):\n"
        "    mean = torch.einsum('bn,nd->bd', weights, data)\n"
        "    return (mean - x).div(1 - t.reshape(-1, 1))",
        "def answer(x, data, t, weights):\n"
        "    u = torch.zeros_like(x)\n"
        "    for i in range(len(data)):\n"
        "        u = u + weights[:, i, None] * (data[i] - x) / (1 - t[:, None])\n"
        "    return u",
    ),
)


_BUGGY = """def answer(x, data, t):
    left = (1 - t)[:, None]
    offset = x[:, None] - t[:, None, None] * data
    logits = -offset.square().sum(-1) / (2 * left**2)
    weights = {}
    return (weights @ data - x) / left"""

other_points = Function(
    key="marginalization.other_points",
    number="2.4",
    task="find the bug",
    question=(
        "This marginal velocity runs without complaint, and the shape of its result is right. Yet something is odd: "
        "*the velocity at a point changes when other points join the batch.* Find the mistake and mend it."
    ),
    given=_BUGGY.format("logits.softmax(0)"),
    reference=_BUGGY.format("logits.softmax(1)"),
    why=(
        "`softmax(0)` runs down the batch, so each data point shares itself out among the points, and what one of them "
        "gets depends on the others. The weights of one point have to sum to one over the *data*, the last axis. No "
        "shape tells you, for both axes give `(batch, N)`; two lines would: that `weights.sum(1)` is 1, and that a row "
        "of the result is what the same row gives alone."
    ),
    hints=(
        "Call it with a single point. What are the weights then, and what do they sum to?",
        "Each line but one treats the points of the batch one by one. Which line mixes them?",
        "The sum in a softmax goes over the axis that you name. Which axis are the data points?",
    ),
    arguments=("x", "data", "t"),
    truth=lambda x, data, t: (_logits(x, data, t).softmax(1) @ data - x) / (1 - t)[:, None],
    cases=lambda draw: _weights_cases(draw)[:-1],
    wrongs=(
        Wrong(
            _BUGGY.format("torch.softmax(logits, dim=0)"),
            "The result for a point still depends on the other points of the batch. Try it with a single point, and "
            "look at the weights.",
        ),
        Wrong(
            _BUGGY.format("logits.softmax(0) / logits.softmax(0).sum(1, keepdim=True)"),
            "Now the rows sum to one, but each weight was first divided by a sum over the batch, and that is still in "
            "there. Take one softmax, over the data.",
        ),
        Wrong(
            _BUGGY.format("logits.exp()"),
            "The points no longer disturb each other, but their weights do not sum to one over the data. What has to "
            "be divided by what?",
        ),
        Wrong(
            _BUGGY.format("logits.flatten().softmax(0).reshape(logits.shape)"),
            "Now all weights of the whole batch together sum to one. It should be those of each single point.",
        ),
        Wrong(
            _BUGGY.format("torch.full_like(logits, 1 / len(data))"),
            "With equal weights the points do not disturb each other, but neither do the weights know where x is.",
        ),
        Wrong(
            _BUGGY.replace("2 * left**2", "2 * left").format("logits.softmax(1)"),
            "The softmax is mended. But you changed the variance $(1-t)^2$ too, and that was right.",
        ),
        Wrong(
            _BUGGY.replace("2 * left**2", "2 * left").format("logits.softmax(0)"),
            "The variance $(1-t)^2$ was right, put the square back. The mistake is in a line that mixes the points of "
            "the batch.",
        ),
    ),
    rights=(
        _BUGGY.format("logits.softmax(-1)"),
        _BUGGY.format("(logits - logits.logsumexp(1, keepdim=True)).exp()"),
        "def answer(x, data, t):\n"
        "    rows = []\n"
        "    for a, s in zip(x, t):\n"
        "        w = (-(a - s * data).pow(2).sum(1) / (2 * (1 - s) ** 2)).softmax(0)\n"
        "        rows.append((w @ data - a) / (1 - s))\n"
        "    return torch.stack(rows)",
    ),
)

equal_weights = Choice(
    key="marginalization.equal_weights",
    number="2.5",
    task="predict",
    question=(
        "Leave the posterior out: average the sixteen conditional velocities with the weight $1/16$ each, the same at "
        "every place and time. Where does this field carry a round cloud of points?"
    ),
    options={
        "a": (
            "to the sixteen data points, with some detours",
            "To split the cloud, the field has to send neighbours to different targets. With equal weights every "
            "place gets the same average of targets, so nothing splits.",
        ),
        "b": ("all of it to one place, the mean of the data", ""),
        "c": (
            "nowhere, since sixteen directions cancel",
            "They cancel at one place only. Elsewhere something is left: the mean of $x_i-x$ is the mean of the data "
            "less x, and that is not zero.",
        ),
        "d": (
            "each point to the data point nearest to it",
            "This is what happens if the nearest data point gets the whole weight. Equal weights do not know which one "
            "is near.",
        ),
    },
    why=(
        "The mean of $(x_i-x)/(1-t)$ over all i is $(\\bar x-x)/(1-t)$: the conditional velocity of one point, the "
        "mean $\\bar x$ of the data. Section 2.1 told you where it leads. What splits the cloud are weights that "
        "depend on the place."
    ),
    hints=(
        "Write the average down: $\\frac1{16}\\sum_i(x_i-x)/(1-t)$. What comes out of the sum?",
        "Compare it with the conditional velocity of one target point.",
    ),
)

largest_loss = Choice(
    key="marginalization.largest_loss",
    number="2.6",
    task="predict",
    question=(
        "The loss of a perfect network at the time t is the spread of $u_t(X_t\\mid X_1)$ among those who are at one "
        "place. At which of these times is it the largest, for the sixteen points?"
    ),
    options={
        "a": (
            "at $t=0.05$",
            "At $t=0.05$ the target is the least decided: all sixteen have nearly the same weight. But the velocity is "
            "$(X_1-x)/(1-t)$, and at $t=0.5$ the same doubt about $X_1$ counts four times as much.",
        ),
        "b": ("at $t=0.5$", ""),
        "c": (
            "at $t=0.9$",
            "The factor $1/(1-t)^2$ is 100 there, which tempts. But at $t=0.9$ the place nearly tells the target, and "
            "the doubt that is left is between close neighbours.",
        ),
        "d": (
            "equally large at all three",
            "The velocities move apart like $1/(1-t)$ while the number of likely targets falls. The two effects do not "
            "cancel: at first the growth wins, later the weights decide.",
        ),
    },
    why=(
        "The loss of a perfect network at time t is the variance of $X_1$ given $X_t$, over $(1-t)^2$. Early the "
        "variance is that of the whole data set but the factor is 1; late the factor is huge but the weights have "
        "decided. In the middle both count."
    ),
    hints=(
        "Towards $x_i$ the velocity is $(x_i-x)/(1-t)$. So the spread is that of $x_i$ under the weights, over "
        "$(1-t)^2$.",
        "At $t=0.05$ the spread of $x_i$ is that of the whole data, over 0.9. At $t=0.9$ nearly all weight is on one "
        "or two neighbours. In between?",
    ),
)

noisy_target = Number(
    key="marginalization.noisy_target",
    number="2.7",
    task="predict",
    question=(
        "Add independent noise $N(0,I)$ to the target of $L_{\\mathrm{CFM}}$, in the plane. By how much does "
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
        "Call the noise n. The cross term has mean zero, so "
        "$\\mathbb E\\|u-(v+n)\\|^2=\\mathbb E\\|u-v\\|^2+\\mathbb E\\|n\\|^2$, and $\\mathbb E\\|n\\|^2=2$ in the "
        "plane. The network is not in that term: the expected gradient and the minimiser stay. A single batch's "
        "gradient gets noisier, so the curve in the right panel moves up, and its slope remains $-1/2$."
    ),
    hints=(
        "Write the target as $v+n$ and expand the square. Which term has mean zero?",
        "What is left is $\\mathbb E\\|n\\|^2$ for $n\\sim N(0,I)$ in the plane.",
    ),
    rights=("answer = 2.0", "answer = torch.ones(2).sum()"),
)

twenty_digits = Choice(
    key="marginalization.twenty_digits",
    number="2.8",
    task="predict",
    question=(
        "Train the same network on the first 20 digits only. Where does its histogram of distances to the nearest "
        "training image go?"
    ),
    options={
        "a": (
            "nowhere: it stays where it was with 1,437 digits",
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
    why=(
        "With twenty images the exact velocity is simple enough for this network to come close to it, and the exact "
        "velocity copies. The distances fall to a fraction of what they were, not quite to zero, since training is "
        "short. What kept the network from copying before was the number of images, not the loss."
    ),
    hints=(
        "What does the exact minimiser of the loss generate, for any finite data set?",
        "Is a velocity with 20 attractors harder or easier to fit than one with 1,437?",
    ),
)
