"""Exercises of notebook 14, the codebase demo."""

import math

import torch
from torch import Tensor

from fmlib.exercises._questions import Choice, Function, Wrong

must_hold = Choice(
    key="codebase.must_hold",
    number="14.1",
    task="predict",
    question=(
        "The run is killed, and started again in a new process with the same command and `--resume`. What must a "
        "checkpoint hold at least, so that the averaged weights end with the same bits?"
    ),
    options={
        "a": (
            "the weights",
            "Adam divides by a running size of the gradients. Without it the first steps after the restart are others.",
        ),
        "b": (
            "the weights and Adam's moments",
            "The learning rate follows a cosine of the number of steps done, and the batch of a step depends on that "
            "number too. And where would the average of the weights come from?",
        ),
        "c": ("the weights, their average, Adam's moments and the number of steps done", ""),
        "d": (
            "all of c, and the state of the random generator, or the batches would be others",
            "For most code that is true. Here the batch of step $k$ is drawn by a generator seeded from $k$ and the "
            "seed, which the command gives, alone.",
        ),
    },
    after="Then run the cells below, and open the box.",
    why=(
        "A step is a function of the weights, Adam's moments, the batch and the learning rate. The last two follow "
        "from the seed and the number of steps. (`fit` saves the states of the global generators as well, for networks "
        "that draw, such as those with dropout.)"
    ),
    hints=(
        "List everything that a step of the loop in 14.2 reads.",
        "Which of these could a new process work out from the command line and the number of steps?",
    ),
)

bits_of_two = Choice(
    key="codebase.bits_of_two",
    number="14.2",
    task="predict",
    question=(
        "Two processes share each batch, 16 rows each, and average their gradients. After 60 steps, how far are their "
        "weights from those of the one process that had all 32 rows?"
    ),
    options={
        "a": (
            "not at all: the batch is the same, and so is the sum over its rows",
            "The sum is the same for real numbers. In float32 $(a+b)+c$ and $a+(b+c)$ differ in the last digit, and "
            "two processes add the rows in another order.",
        ),
        "b": ("by much less than a thousandth, but not by zero", ""),
        "c": (
            "about as far as two runs with different seeds",
            "Each process draws the whole batch of the step from the same seed, and keeps its share. They see the same "
            "rows as one process.",
        ),
        "d": (
            "they have moved half as far, as each saw half of the rows",
            "The loss is a mean over rows, and the gradients of both halves are averaged: together that is the mean "
            "over all rows.",
        ),
    },
    after="Then run the cells below, and open the box.",
    why=(
        "The mean of two half means is the mean, up to rounding. Rounding errors are fed back through the training and "
        "grow with the number of steps, so a tolerance is for a number of steps."
    ),
    hints=(
        "What does each process see: rows of its own, or a share of common ones?",
        "Is a sum of numbers in float32 the same in any order?",
    ),
)


def _walks(draw: torch.Generator) -> list[tuple]:
    sizes = [(12, 3, 0.9), (40, 1, 0.8), (5, 4, 0.3)]
    return [(torch.randn(n, d, generator=draw, dtype=torch.float64).cumsum(0) + 1, decay) for n, d, decay in sizes]


def _averages(weights: Tensor, decay: float) -> Tensor:
    """Each average as a sum over all weights so far: what was put in at step k, times what later steps kept of it."""
    kept = [0.0, *(min(decay, n / (9 + n)) for n in range(1, len(weights)))]
    rows = [
        sum((1 - kept[k]) * math.prod(kept[k + 1 : n + 1]) * weights[k] for k in range(n + 1))
        for n in range(len(weights))
    ]
    return torch.stack(rows)


_EMA = """def answer(weights, decay):
    average = weights[0]
    found = [average]
    for n in range(1, len(weights)):
        d = min(decay, n / (9 + n))
        average = d * average + (1 - d) * weights[n]
        found.append(average)
    return torch.stack(found)"""
_WARM, _MOVE = "min(decay, n / (9 + n))", "d * average + (1 - d) * weights[n]"

average = Function(
    key="codebase.average",
    number="14.3",
    task="write",
    question=(
        "Write the average with its warm-up. `weights` has shape `(steps + 1, d)`: row $n$ holds the weights "
        "$\\theta_n$ after $n$ steps, row 0 the first ones. Return the averages $a_0,a_1,\\dots$ in the same shape. "
        "`decay` is $d$. Below, your function follows a weight of the network."
    ),
    given="""def answer(weights, decay):
    average = ____
    found = [average]
    for n in range(1, len(weights)):
        d = ____
        average = ____
        found.append(average)
    return torch.stack(found)""",
    reference=_EMA,
    why=(
        "At $n=1$ the warm-up gives $d_1=\\frac1{10}$: nine tenths of the untrained weights are forgotten at once. It "
        "reaches 0.99 at $n=891$: in a run of 400 steps the average spans about the last ninth of them, "
        "$1/(1-d_n)=(9+n)/9$ steps."
    ),
    hints=(
        "$a_0$ is row 0. Every later one is made of the one before and of row $n$.",
        "`min(decay, n / (9 + n))` is the decay of step $n$.",
        "`average = d * average + (1 - d) * weights[n]`.",
    ),
    arguments=("weights", "decay"),
    truth=_averages,
    cases=_walks,
    wrongs=(
        Wrong(
            _EMA.replace(_WARM, "decay"),
            "There is no warm-up: the first, untrained weights stay in the average for $1/(1-d)$ steps.",
        ),
        Wrong(
            _EMA.replace("min(", "max("),
            "The maximum keeps the full decay early and forgets nothing later. The warm-up is to forget *more*: take "
            "the smaller of both.",
        ),
        Wrong(
            _EMA.replace(_MOVE, "(1 - d) * average + d * weights[n]"),
            "The two shares have changed places. With $d$ near 1 most of the old average stays.",
        ),
        Wrong(
            _EMA.replace("average = weights[0]", "average = 0 * weights[0]"),
            "The average begins at zero, where no weights have ever been. It begins at row 0.",
        ),
        Wrong(
            _EMA.replace("n / (9 + n)", "(1 + n) / (10 + n)"),
            "The warm-up is one step ahead: $d_1=\\frac1{10}$, not $\\frac2{11}$.",
        ),
        Wrong(
            _EMA.replace(_WARM, "n / (1 + n)"),
            "This is the plain mean of all weights so far. It never forgets the first ones, and `decay` is not used.",
        ),
        Wrong(
            _EMA.replace("weights[n]", "weights[n - 1]"),
            "The average of step $n$ takes the weights of the step before.",
        ),
        Wrong(
            _EMA.replace("(1 - d) * weights[n]", "weights[n]"),
            "The shares do not sum to 1: the average grows without end. The new weights count $1-d$.",
        ),
        Wrong(
            _EMA.replace("d * average + ", "average + "),
            "Nothing is forgotten: the old average must count $d$ times.",
        ),
        Wrong(
            _EMA.replace(
                "torch.stack(found)",
                "torch.stack(found) / (1 - decay ** torch.arange(1, len(weights) + 1))[:, None].to(weights)",
            ),
            "You divide by $1-d^n$, as Adam does for averages that begin at zero. This one begins at row 0.",
        ),
        Wrong(
            _EMA.replace(_WARM, "n / (9 + n)"),
            "The decay never stops to rise: from some step on it is to be `decay`.",
        ),
    ),
    rights=(
        """def answer(weights, decay):
    found = weights.clone()
    for n in range(1, len(found)):
        found[n] = torch.lerp(found[n - 1], weights[n], 1 - min(decay, n / (n + 9)))
    return found""",
        """def answer(w, decay):
    if len(w) == 1:
        return w.clone()
    before = answer(w[:-1], decay)
    n = len(w) - 1
    new = 9 / (9 + n) if n / (9 + n) < decay else 1 - decay
    return torch.cat([before, (before[-1] + new * (w[-1] - before[-1]))[None]])""",
        """def answer(weights, decay):
    n = len(weights)
    rows = torch.zeros(n, n, dtype=weights.dtype)
    rows[0, 0] = 1
    for k in range(1, n):
        d = min(decay, k / (9 + k))
        rows[k] = d * rows[k - 1]
        rows[k, k] = 1 - d
    return rows @ weights""",
    ),
    other_wrongs=(
        (_EMA.replace("torch.stack(found)", "average"), "is expected"),
        (_EMA.replace("torch.stack(found)", "found"), "must return a torch tensor"),
        (_EMA.replace(_WARM, "0.5"), "expected is"),
    ),
)

two_steps = Choice(
    key="codebase.two_steps",
    number="14.4",
    task="predict",
    question=(
        "Draw 360 digits with two, four, eight and twenty steps of Euler. Two steps leave them visibly blurred. Where "
        "is the recognised rate, the share of samples that the judge takes for the digit asked for?"
    ),
    options={
        "a": (
            "lowest for two steps, and it rises with every step more",
            "That is what the energy distance does, and what one expects of a score. But what is a blurred digit like?",
        ),
        "b": (
            "the same for all, as the label steers the network from the first step on",
            "The label does steer all of them. The images still differ in how much of an odd hand they show.",
        ),
        "c": ("highest for two steps, even above that of real digits", ""),
        "d": (
            "high for two steps, but never above that of real digits",
            "Real digits are no upper bound: some people write a 9 that looks like a 4. What does a mean look like?",
        ),
    },
    after="Then run the cells below, and open the boxes.",
    why=(
        "From noise, one long step leads to the mean of the digits with that label, and the second one corrects it "
        "only in part. A mean has no odd strokes: nothing is easier to recognise. The rate falls *because* the samples "
        "become as various as real ones."
    ),
    hints=(
        "At $t=0$ the velocity is $\\mathbb E[X_1]-x$. Where does a step from there lead?",
        "Would you recognise the mean of all sevens?",
    ),
)


class _LogDensity:
    """A smooth function of rows that stands for a log-density: no quantity of it is zero by symmetry."""

    def __init__(self, slope: float):
        self.slope = slope

    def __repr__(self) -> str:
        return "log_prob"

    def __call__(self, x: Tensor) -> Tensor:
        return -1.3 * x.square().sum(1) + self.slope * x.sum(1) + torch.sin(3 * x).sum(1) - 2


def _levels(draw: torch.Generator) -> list[tuple]:
    cases = []
    for n, d, slope in [(5, 6, 0.4), (1, 3, -0.2), (4, 64, 0.1)]:
        levels = torch.randint(17, (n, d), generator=draw)
        cases.append((levels, torch.rand(n, d, generator=draw, dtype=torch.float64), _LogDensity(slope)))
    return cases


def _bits(levels: Tensor, noise: Tensor, log_prob) -> Tensor:
    log_2 = log_prob((levels + noise - 8) / 8) / math.log(2)
    return 3 - log_2 / levels.shape[1]  # a level is 2^-3 wide


_BITS = """import math
def answer(levels, noise, log_prob):
    d = levels.shape[1]
    x = (levels + noise) / 8 - 1
    nats = log_prob(x) - d * math.log(8)
    return -nats / (d * math.log(2))"""
_X = "(levels + noise) / 8 - 1"

bits = Function(
    key="codebase.bits",
    number="14.5",
    task="write",
    question=(
        "Write it, for each image. `levels` are whole numbers from 0 to 16, shape `(n, d)`, and `noise` is uniform on "
        "$[0,1)$, of the same shape. `log_prob(x)` is the model's log-density of rows `x`, in nats, shape `(n,)`. "
        "Return the bits per dimension, `(n,)`. `math.log` is the natural logarithm."
    ),
    given="""import math
def answer(levels, noise, log_prob):
    d = levels.shape[1]
    x = ____
    nats = ____
    return ____""",
    reference=_BITS,
    why=(
        "$x$ is $k+U$ squeezed by 8, so the density of $k+U$ is that of $x$ divided by $8^d$. Its logarithm, less "
        "than zero as a rule, is a bound on $\\log P(k)$; minus it, over $d\\log2$, is the price of a pixel in bits. "
        "In short: $b=3-\\log_2p(x)/d$."
    ),
    hints=(
        "First put the noise on the levels, then scale both as the images were scaled.",
        "A density changes when its variable is scaled: $\\log p_{k+U}=\\log p_x-d\\log8$.",
        "Minus, over $d$ for each dimension, and over `math.log(2)` for bits.",
    ),
    arguments=("levels", "noise", "log_prob"),
    truth=_bits,
    cases=_levels,
    wrongs=(
        Wrong(
            _BITS.replace(_X, "(levels + 0 * noise) / 8 - 1"),
            "The noise is missing. A density at the bare levels bounds nothing: a model with spikes there would get "
            "any value it likes.",
        ),
        Wrong(
            _BITS.replace(_X, "levels / 8 - 1 + noise"),
            "The noise is eight times too wide: it is added to the *level*, and scaled with it.",
        ),
        Wrong(
            _BITS.replace(_X, "(levels + noise - 0.5) / 8 - 1"),
            "You have centred the noise. The model then sees values below -1, and all of them half a level lower than "
            "the formula has it.",
        ),
        Wrong(
            _BITS.replace(_X, "levels + noise"),
            "The model was trained on images between -1 and 1. Scale the levels before you ask it.",
        ),
        Wrong(
            _BITS.replace("- d * math.log(8)", "+ d * math.log(8)"),
            "The change of variables has a wrong sign. Squeezing space makes a density larger; undoing it must make it "
            "smaller.",
        ),
        Wrong(
            _BITS.replace(" - d * math.log(8)", ""),
            "This is the density of $x$, not of the levels. One level is $1/8$ wide: where is $d\\log8$?",
        ),
        Wrong(
            _BITS.replace("- d * math.log(8)", "- math.log(8)"),
            "Every one of the $d$ pixels is squeezed by 8, so $\\log8$ counts $d$ times.",
        ),
        Wrong(
            _BITS.replace("math.log(8)", "math.log(127.5)"),
            "127.5 is for bytes, 256 levels brought to $[-1,1]$. Here 16 steps go from -1 to 1: eight a unit.",
        ),
        Wrong(
            _BITS.replace("(d * math.log(2))", "d"),
            "These are nats per dimension. A bit is $\\log2$ nats.",
        ),
        Wrong(
            _BITS.replace("(d * math.log(2))", "math.log(2)"),
            "These are the bits of the whole image. Divide by the number of pixels.",
        ),
        Wrong(
            _BITS.replace("-nats", "nats"),
            "The sign is wrong: a likely image costs *few* bits.",
        ),
    ),
    rights=(
        """import math
def answer(k, u, log_prob):
    return 3 - log_prob((k + u - 8) / 8) / k.shape[1] / math.log(2)""",
        """import math
def answer(levels, noise, log_prob):
    density = log_prob(torch.add(levels, noise) * 0.125 - 1)
    per_pixel = density / levels.size(1) - math.log(8)
    return -per_pixel / math.log(2)""",
        """import math
def answer(levels, noise, log_prob):
    d = levels.shape[1]
    log_2 = log_prob((levels + noise) / 8 - 1) * math.log2(math.e)
    return (3 * d - log_2) / d""",
    ),
    other_wrongs=(
        (_BITS.replace("math.log(2))", "math.log(2))).mean()").replace("-nats", "(-nats"), "is expected"),
        (_BITS.replace("-nats / (d * math.log(2))", "None"), "returns None"),
        (_BITS.replace("math.log(2)", "math.log(10)"), "expected is"),
    ),
)


def _runs(draw: torch.Generator) -> list[tuple]:
    cases = []
    for n, images, epochs, speed, share in [
        (3, 50_000, 200, 1e14, 0.3),
        (1, 1437, 18, 2e10, 0.5),
        (4, 10**6, 9, 1e15, 0.4),
    ]:
        forward = 1e9 * (1 + torch.rand(n, generator=draw, dtype=torch.float64))
        gpus = torch.randint(1, 9, (n,), generator=draw).double()
        cases.append((forward, images, epochs, speed, share, gpus))
    return cases


def _hours(forward: Tensor, images: int, epochs: int, speed: float, share: float, gpus: Tensor) -> Tensor:
    seconds = [images * epochs * (f + 2 * f) / speed / share / g for f, g in zip(forward, gpus, strict=True)]
    return torch.stack(seconds) / 60 / 60


_HOURS = """def answer(forward, images, epochs, speed, share, gpus):
    operations = {}forward * images * epochs
    seconds = operations / (speed * share * gpus)
    return seconds / 3600"""
_RIGHT = _HOURS.format("3 * ")

hours = Function(
    key="codebase.hours",
    number="14.6",
    task="find the bug",
    question=(
        "Somebody estimates the hours of a training. `forward` holds floating-point operations of a forward pass for "
        "one image, for several networks, `gpus` the number of GPUs for each, `speed` the advertised operations a "
        "second of one GPU, and `share` how much of it is reached. The run takes far longer than this says. Put it "
        "right."
    ),
    given=_HOURS.format(""),
    reference=_RIGHT,
    why=(
        "The gradient with respect to each layer's input costs as much as the forward pass, and that with respect to "
        "its weights as much again: a step is three forward passes, as counted above. (With activations recomputed to "
        "save memory it is four.)"
    ),
    hints=(
        "The units are right: operations over operations a second, and 3,600 seconds an hour.",
        "What else does a step of training do with the network, besides the forward pass?",
        "Backward costs twice as much as forward.",
    ),
    arguments=("forward", "images", "epochs", "speed", "share", "gpus"),
    truth=_hours,
    cases=_runs,
    wrongs=(
        Wrong(
            _HOURS.format("2 * "),
            "Backward alone costs two forward passes. The forward pass is still to be paid.",
        ),
        Wrong(
            _HOURS.format("4 * "),
            "Four is right when activations are computed again to save memory. Here it is one pass forward and two "
            "for backward.",
        ),
        Wrong(
            _RIGHT.replace("seconds / 3600", "seconds"),
            "These are seconds, and hours were asked for: 3,600 of them make one.",
        ),
        Wrong(
            _RIGHT.replace("share * gpus", "share / gpus"),
            "More GPUs must make it shorter: they share the images.",
        ),
        Wrong(
            _RIGHT.replace(" * share", ""),
            "No GPU reaches its advertised speed: `share` belongs to it.",
        ),
        Wrong(
            _RIGHT.replace("(speed * share * gpus)", "(speed * gpus) * share"),
            "The smaller the share that is reached, the *longer* it takes: divide by it.",
        ),
        Wrong(
            _RIGHT.replace(" * epochs", ""),
            "This is one epoch: every image is seen `epochs` times.",
        ),
        Wrong(
            _RIGHT.replace(" * gpus", ""),
            "Where are the GPUs? Each takes its share of the images.",
        ),
        Wrong(
            _RIGHT.replace("3600", "60"),
            "These are minutes: an hour has 3,600 seconds, and minutes only 60.",
        ),
    ),
    rights=(
        """def answer(forward, images, epochs, speed, share, gpus):
    backward = 2 * forward
    return (forward + backward) * (images * epochs) / (3600 * speed * share) / gpus""",
        """def answer(f, n, e, s, a, g):
    rate = s * a * g / (3 * f)  # images a second
    return n * e / rate / 3600""",
        """def answer(forward, images, epochs, speed, share, gpus):
    one = forward * 3 / (speed * share)
    return torch.div(one * images * epochs / 3600, gpus)""",
    ),
    other_wrongs=(
        (_RIGHT.replace("seconds / 3600", "(seconds / 3600).sum()"), "is expected"),
        (_HOURS.format("6 * "), "expected is"),
    ),
)
