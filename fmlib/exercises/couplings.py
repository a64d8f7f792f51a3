"""Exercises of notebook 7, data couplings."""

import itertools

import torch
from torch import Tensor

from fmlib.couplings import MinibatchOT
from fmlib.exercises._questions import Choice, Function, Wrong


def _twos(draw: torch.Generator) -> list[tuple]:
    crossed = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [3.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    target = torch.tensor([[-2.0, 1.0], [2.0, 1.0], [4.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    cases = [(crossed, target)]  # the first two should exchange their partners, the others not
    return cases + [
        tuple(torch.randn(2, *shape, generator=draw, dtype=torch.float64)) for shape in [(40, 2), (24, 1), (30, 5)]
    ]


def _best_of_two(x_0: Tensor, x_1: Tensor) -> Tensor:
    rows = []
    for i in range(0, len(x_0), 2):
        orders = [(i, i + 1), (i + 1, i)]
        costs = [
            sum(((x_0[a] - x_1[b]) ** 2).sum() for a, b in zip(order, (i, i + 1), strict=True)) for order in orders
        ]
        rows += orders[0] if costs[0] <= costs[1] else orders[1]
    return x_0[rows]


_TWO = """def answer(x_0, x_1):
    a, b = x_0[::2], x_0[1::2]
    to_a, to_b = x_1[::2], x_1[1::2]
    stay = {}
    swap = {}
    better = {}
    return {}"""
_STAY, _SWAP = (f"(a - to_{x}).square().sum(1) + (b - to_{y}).square().sum(1)" for x, y in ("ab", "ba"))
_BETTER = "(swap < stay)[:, None]"
_BOTH = "[torch.where(better, b, a), torch.where(better, a, b)]"
_INTO = f"torch.stack(\n        {_BOTH}, 1).flatten(0, 1)"

pairs_of_two = Function(
    key="couplings.pairs_of_two",
    number="7.1",
    task="write",
    question=(
        "The smallest batch in which there is something to choose has $k=2$. Let rows 0 and 1 be one batch, rows 2 and "
        "3 the next, and so on. `answer(x_0, x_1)`, given an even number of rows, both of shape `(batch, d)`, returns "
        "`x_0` with the two sources of a batch exchanged wherever that lowers the batch's cost. It takes no solver and "
        "no loop: compare two costs. Below, your function draws a figure."
    ),
    given="""def answer(x_0, x_1):
    a, b = x_0[::2], x_0[1::2]
    to_a, to_b = x_1[::2], x_1[1::2]
    stay = ____
    swap = ____
    better = ____
    return ____""",
    reference=_TWO.format(_STAY, _SWAP, _BETTER, _INTO),
    why=(
        "Of the two orders the cheaper one is the best. Written out, the squares of the single points cancel, and "
        "what is left is $\\langle a-b,\\ x_1^a-x_1^b\\rangle<0$: exchange if the way from one source to the other "
        "points against the way from one target to the other. On the line that means: sort."
    ),
    hints=(
        "`a` and `b` are the two sources of all batches, `to_a` and `to_b` their targets. What does a batch cost if "
        "both stay, and what if they exchange their targets?",
        "`stay` is `(a - to_a).square().sum(1) + (b - to_b).square().sum(1)`, one number for each batch.",
        "`torch.where(better, b, a)` takes rows of `b` where `better`, of shape `(batches, 1)`, is true. "
        "`torch.stack([first, second], 1).flatten(0, 1)` puts two rows of each batch below each other again.",
    ),
    arguments=("x_0", "x_1"),
    truth=_best_of_two,
    wrongs=(
        Wrong(
            _TWO.format(_STAY, _SWAP, "(swap > stay)[:, None]", _INTO),
            "You exchange the two where that is *dearer*: turn the comparison round.",
        ),
        Wrong(
            _TWO.format(
                "(a - to_a).norm(dim=1) + (b - to_b).norm(dim=1)",
                "(b - to_a).norm(dim=1) + (a - to_b).norm(dim=1)",
                _BETTER,
                _INTO,
            ),
            "You compare sums of distances. The cost is the sum of *squared* distances, and its best order can be "
            "another.",
        ),
        Wrong(
            _TWO.format("(a - to_a).square().sum(1)", "(b - to_a).square().sum(1)", _BETTER, _INTO),
            "You give the first target the source that is nearer to it. Then the second has to take what is left, "
            "which may cost more than it saved: compare the costs of both pairs together.",
        ),
        Wrong(
            _TWO.format("0", "0", "0", "torch.stack([b, a], 1).flatten(0, 1)"),
            "You exchange the two in every batch. Do it only where the cost becomes lower.",
        ),
        Wrong(_TWO.format("0", "0", "0", "x_0"), "Nothing has been exchanged: this is `x_0` as it came."),
        Wrong(
            _TWO.format(
                "(a - to_a).square() + (b - to_b).square()",
                "(b - to_a).square() + (a - to_b).square()",
                "swap < stay",
                _INTO,
            ),
            "You decide for each coordinate by itself, which puts together new points from pieces of two. Sum the "
            "squares over the coordinates first, and exchange whole rows.",
        ),
        Wrong(
            _TWO.format(_STAY, _SWAP, _BETTER, f"torch.cat({_BOTH})"),
            "The right pairs, in the wrong rows: first come all first rows of the batches, then all second ones, and "
            "row i of x_0 no longer belongs to row i of x_1. Put the two rows of each batch below each other again, "
            "with `torch.stack(..., 1).flatten(0, 1)`.",
        ),
        Wrong(
            _TWO.format(_STAY, _SWAP, _BETTER, "torch.stack([torch.where(better, b, a), b], 1).flatten(0, 1)"),
            "Where you exchange, one source is used twice and the other is lost. Both targets must change partners.",
        ),
        Wrong(
            _TWO.format(_STAY, _SWAP, "(swap.sum() < stay.sum())[None, None]", _INTO),
            "You compare the sums over all batches, and exchange everywhere or nowhere. Decide for each batch.",
        ),
        Wrong(
            _TWO.format(_STAY, _SWAP, _BETTER, _INTO)
            .replace("x_0[::2], x_0[1::2]", "x_0[: len(x_0) // 2], x_0[len(x_0) // 2 :]")
            .replace("x_1[::2], x_1[1::2]", "x_1[: len(x_1) // 2], x_1[len(x_1) // 2 :]")
            .replace("torch.stack(\n        ", "torch.cat(")
            .replace(", 1).flatten(0, 1)", ")"),
            "Your batches are row i and row i + n/2. A batch here is two neighbours, rows 0 and 1, rows 2 and 3: "
            "`x_0[::2]` and `x_0[1::2]`.",
        ),
        Wrong(
            _TWO.format(
                _STAY,
                _SWAP,
                _BETTER,
                "torch.stack([torch.where(better, to_b, to_a), torch.where(better, to_a, to_b)], 1).flatten(0, 1)",
            ),
            "This is the target, reordered. Return the source: the target has to stay where its labels are.",
        ),
    ),
    cases=_twos,
    rights=(
        "def answer(x_0, x_1):\n    way, wanted = x_0[::2] - x_0[1::2], x_1[::2] - x_1[1::2]\n"
        "    against = ((way * wanted).sum(1) < 0).long()\n"
        "    return x_0[torch.arange(len(x_0)) + torch.stack([against, -against], 1).flatten()]",
        "def answer(x_0, x_1):\n    out = x_0.clone()\n    for i in range(0, len(x_0), 2):\n"
        "        other = x_0[[i + 1, i]]\n"
        "        if (other - x_1[i:i + 2]).pow(2).sum() < (x_0[i:i + 2] - x_1[i:i + 2]).pow(2).sum():\n"
        "            out[i:i + 2] = other\n    return out",
        "def answer(x_0, x_1):\n    x, y = x_0.reshape(-1, 2, x_0.shape[1]), x_1.reshape(-1, 2, x_1.shape[1])\n"
        "    cost = torch.stack([(x - y).square().sum((1, 2)), (x.flip(1) - y).square().sum((1, 2))])\n"
        "    return torch.where(cost.argmin(0).bool()[:, None, None], x.flip(1), x).flatten(0, 1)",
    ),
    other_wrongs=(
        (_TWO.format(_STAY, _SWAP, "swap < stay", _INTO), "must match the size"),
        (_TWO.format(_STAY, _SWAP, _BETTER, "torch.where(better, b, a)"), "is expected"),
        (_TWO.format(_STAY, _SWAP, _BETTER, "torch.stack([torch.where(better, b, a), a], 1)"), "is expected"),
    ),
)

high_dimension = Choice(
    key="couplings.high_dimension",
    number="7.2",
    task="predict",
    question=(
        "In the plane, batches of $k=512$ reach about 96 % of the possible saving. Which share do they reach in "
        "$d=64$ dimensions?"
    ),
    options={
        "a": (
            "about 96 % as well: each coordinate is transported as in the plane",
            "One permutation has to serve all coordinates at once. In the plane 512 points fill the place well; in 64 "
            "dimensions even the nearest of 512 is nearly as far as all others.",
        ),
        "b": (
            "about 80 %",
            "Less. To fill 64 dimensions as 512 points fill the plane would take $512^{32}$ points.",
        ),
        "c": ("about 40 %", ""),
        "d": (
            "less than 1 %: in high dimension all points are equally far from each other",
            "Distances do become alike, but their differences do not vanish, and there are very many permutations to "
            "choose from.",
        ),
    },
    after="Then open the box below.",
    why=(
        "With $k$ points in $d$ dimensions the nearest is only about $k^{1/d}$ times nearer than any, and "
        "$512^{1/64}=1.10$. A permutation adds up many small preferences, and so reaches somewhat more than a third "
        "of what there is to save. What the batch cannot see is the exact place of each point, only the rough "
        "direction."
    ),
    hints=(
        "How much nearer than any other is the best of 512 partners, in 2 and in 64 dimensions?",
        "The two ends can be excluded: neither does everything go on as in the plane, nor is nothing left.",
    ),
)

limit_of_bias = Choice(
    key="couplings.limit_of_bias",
    number="7.3",
    task="predict",
    question=(
        "The batches grow, $k\\to\\infty$, and plain optimal transport sorts. Two classes, equally likely, lie at "
        "$\\pm2$ and hardly overlap. What is the mean of the *sources* $X_0$ that go to the upper class?"
    ),
    options={
        "a": (
            "0: the permutation keeps the law of the source, which is $N(0,1)$",
            "It keeps the law of all sources together. But which half of them goes to the upper class is no accident: "
            "it is the upper half.",
        ),
        "b": (
            "0.5",
            "A good guess at the size, but it can be worked out. Which sources go to the upper class, if everything "
            "is sorted?",
        ),
        "c": ("$\\sqrt{2/\\pi}=0.80$, the mean of the positive half of $N(0,1)$", ""),
        "d": (
            "2, the place of the class",
            "That is where they go. The question is where they come from: sources are from $N(0,1)$, whoever they are "
            "paired with.",
        ),
    },
    after="Then open the boxes below.",
    why=(
        "Sorted, the upper half of the sources goes to the upper half of the targets, which is the upper class. The "
        "positive half of $N(0,1)$ has the mean $\\sqrt{2/\\pi}$ and the standard deviation $\\sqrt{1-2/\\pi}=0.60$. "
        "With $k=2$ the two targets are of different classes every other time, and then the larger of two normal "
        "numbers, of mean $1/\\sqrt\\pi$, goes up: $\\frac12\\cdot1/\\sqrt\\pi=0.28$."
    ),
    hints=(
        "Optimal transport on the line sorts both sides. Which sources meet the upper half of the targets?",
        "What is the mean of a normal number that is known to be positive?",
    ),
)


def _labelled(draw: torch.Generator) -> list[tuple]:
    crossed, target = torch.tensor([[[1.0], [-1.0], [0.5], [2.0]], [[-3.0], [3.0], [1.0], [4.0]]], dtype=torch.float64)
    cases = [(crossed, target, torch.tensor([2, 2, 6, 6]), MinibatchOT())]  # only the first two should be exchanged
    for labels, d in [([0, 1, 0, 1, 1, 0], 2), ([2, 0, 2, 5, 2, 0, 0, 2, 0], 3), ([1, 1, 4, 1], 1), ([3, 3, 3, 3], 2)]:
        x_0, x_1 = torch.randn(2, len(labels), d, generator=draw, dtype=torch.float64)
        label = torch.tensor(labels)
        cases.append((x_0, x_1 + 3 * label[:, None] - 3, label, MinibatchOT()))
    return cases


def _best_within(x_0: Tensor, x_1: Tensor, label: Tensor, ot) -> Tensor:
    best = list(range(len(x_0)))
    for y in set(label.tolist()):
        rows = [i for i, other in enumerate(label.tolist()) if other == y]
        orders = itertools.permutations(rows)
        order = min(orders, key=lambda o: ((x_0[list(o)] - x_1[rows]) ** 2).sum().item())
        for i, j in zip(rows, order, strict=True):
            best[i] = j
    return x_0[best]


_LABEL = """def answer(x_0, x_1, label, ot):
    out = {}
    for y in {}:
        rows = {}
        if {}:
            out[rows] = {}
    return out"""
_OUT, _EACH, _ROWS, _SEVERAL = "x_0.clone()", "label.unique()", "label == y", "rows.sum() > 1"
_SOLVED = "ot(x_0[rows], x_1[rows])[0]"

per_label = Function(
    key="couplings.per_label",
    number="7.4",
    task="write",
    question=(
        "Write the coupling that mends it. `answer(x_0, x_1, label, ot)` gets points of shape `(batch, d)`, integer "
        "labels of shape `(batch,)`, and `ot`, which is `couplings.MinibatchOT()`: `ot(a, b)` returns `a` reordered "
        "and `b`, and refuses a batch of 1. Return `x_0` reordered *within each label*: rows of one label exchange "
        "sources among themselves at the least cost, and a label's only row keeps its own. Below, your function draws "
        "a figure."
    ),
    given=_LABEL.format(_OUT, "____", "____", "____", "____"),
    reference=_LABEL.format(_OUT, _EACH, _ROWS, _SEVERAL, _SOLVED),
    why=(
        "Which rows carry the label $y$ says nothing about their sources, and a permutation among them does not "
        "change which sources they have together. So the sources of each label are a sample of all of $p$, as they "
        "will be when you sample. The price: what could be saved between labels is not."
    ),
    hints=(
        "`label.unique()` has each label once, and `label == y` is true for its rows. Both can index rows: "
        "`x_0[label == y]`.",
        "For each label solve the small problem `ot(x_0[rows], x_1[rows])`, and write what comes out into the same "
        "rows of `out`.",
        "`ot` returns two tensors; the first is the reordered source. A label with one row: leave it as it is.",
    ),
    arguments=("x_0", "x_1", "label", "ot"),
    truth=_best_within,
    wrongs=(
        Wrong(
            "def answer(x_0, x_1, label, ot):\n    return ot(x_0, x_1)[0]",
            "This is plain transport over the whole batch: the label decides which part of the noise a row gets. "
            "Solve for each label alone.",
        ),
        Wrong(
            "def answer(x_0, x_1, label, ot):\n    groups = [label == y for y in label.unique()]\n"
            "    return torch.cat([ot(x_0[r], x_1[r])[0] if r.sum() > 1 else x_0[r] for r in groups])",
            "The pairs are right, but the rows now come sorted by label, and row i no longer belongs to row i of x_1. "
            "Write each result into the rows that it came from: `out[rows] = ...`.",
        ),
        Wrong(
            "def answer(x_0, x_1, label, ot):\n    return x_0[label.argsort(stable=True)]",
            "You sort the source by its row's label. That moves sources from one label to another, and solves nothing.",
        ),
        Wrong(
            _LABEL.format(_OUT, _EACH, _ROWS, _SEVERAL, "ot(x_1[rows], x_0[rows])[0]"),
            "You reorder the target and return it as the source. Give `ot` the source first.",
        ),
        Wrong(
            _LABEL.format(_OUT, _EACH, _ROWS, _SEVERAL, "ot(x_0[rows], x_1[rows])[1]"),
            "`ot` returns two tensors, and the second is the target. The reordered source is the first.",
        ),
        Wrong(
            _LABEL.format(_OUT, "range(int(label.max()))", _ROWS, _SEVERAL, _SOLVED),
            "The last label is left as it came: `range(n)` ends before n. Labels need not be 0, 1, 2, ... either; "
            "`label.unique()` has those that occur.",
        ),
        Wrong(
            _LABEL.format(_OUT, "(0, 1)", _ROWS, _SEVERAL, _SOLVED),
            "You couple the labels 0 and 1 only. Others occur too: `label.unique()` lists them.",
        ),
        Wrong(
            _LABEL.format("torch.zeros_like(x_0)", _EACH, _ROWS, _SEVERAL, _SOLVED),
            "A label's only row has lost its source: zeros stand there. Begin with a copy of `x_0`.",
        ),
        Wrong(
            _LABEL.format(_OUT, _EACH, _ROWS, _SEVERAL, "ot(x_0[:rows.sum()], x_1[rows])[0]"),
            "You take the first rows of the source for every label, so some sources are used twice and others never. "
            "Take the rows that carry the label.",
        ),
        Wrong(
            _LABEL.format(_OUT, _EACH, "label != y", _SEVERAL, _SOLVED),
            "`label != y` picks the rows of all *other* labels. Pick those that carry y.",
        ),
        Wrong(
            "def answer(x_0, x_1, label, ot):\n    return x_0", "Nothing has been coupled: this is `x_0` as it came."
        ),
        Wrong(
            _LABEL.format(_OUT, _EACH, _ROWS, "rows.sum() > 2", _SOLVED),
            "Two rows of one label have something to choose as well. Leave alone a *lone* row only.",
        ),
        Wrong(
            _LABEL.format(_OUT, _EACH, _ROWS, _SEVERAL, "ot(x_0[rows], x_1[rows].mean(0).expand_as(x_1[rows]))[0]"),
            "You transport to the mean of the label's targets. From there all sources are alike to each target: "
            "give `ot` the targets themselves.",
        ),
    ),
    cases=_labelled,
    rights=(
        "def answer(x_0, x_1, label, ot):\n    far = 1e4 * label[:, None].to(x_0)\n"
        "    return ot(torch.cat([x_0, far], 1), torch.cat([x_1, far], 1))[0][:, :x_0.shape[1]]",
        "def answer(x_0, x_1, label, ot):\n    out = torch.empty_like(x_0)\n    for y in set(label.tolist()):\n"
        "        rows = (label == y).nonzero().squeeze(1)\n        found = x_0.index_select(0, rows)\n"
        "        out[rows] = found if len(rows) == 1 else ot(found, x_1[rows])[0]\n    return out",
        "def answer(x_0, x_1, label, ot):\n    order = label.argsort()\n    sizes = label.bincount()\n"
        "    done = [ot(x_0[r], x_1[r])[0] if len(r) > 1 else x_0[r] for r in order.split(sizes.tolist()) if len(r)]\n"
        "    return torch.cat(done)[order.argsort()]",
    ),
    other_wrongs=(
        (_LABEL.format(_OUT, _EACH, _ROWS, "True", _SOLVED), "at least 2 pairs"),
        (_LABEL.format("x_0", _EACH, _ROWS, _SEVERAL, _SOLVED), "changes its input x_0 in place"),
        (_LABEL.format(_OUT, _EACH, _ROWS, _SEVERAL, "ot(x_0[rows], x_1[rows])"), "stopped with"),
    ),
)

more_steps = Choice(
    key="couplings.more_steps",
    number="7.5",
    task="predict",
    question=(
        "Sample each class from the network that was trained with *plain* minibatch optimal transport, with one Euler "
        "step and with so many that nothing changes any more. What does the distance to the right law do?"
    ),
    options={
        "a": (
            "it falls to the floor: one step was too coarse",
            "That is what happens where the velocity is right and only the solver is crude, as with independent "
            "pairs. Here the velocity itself is wrong.",
        ),
        "b": (
            "it is at the floor already after one step, because this flow is straight",
            "It is straight. But straight to where? The network was trained on one part of the noise for each label, "
            "and is now asked about all of it.",
        ),
        "c": ("it does not fall: it stays far above the floor", ""),
        "d": (
            "it falls to about half, and the other half is bias",
            "That would be a fair guess for a flow that bends. This one is nearly straight, so the solver's part is "
            "next to nothing.",
        ),
    },
    after="Then open the boxes below.",
    why=(
        "The error is in the velocity, not in how it is followed. For a label the network has seen the sources of one "
        "sector only; noise from elsewhere it never saw with this label, and it carries it, quite straight, to other "
        "clusters or between them. More steps follow the wrong velocity more faithfully, and that is all."
    ),
    hints=(
        "There are two kinds of error, of the solver and of the velocity. Which of them do more steps reduce?",
        "What has the network been shown for a label, and what is it asked when you sample?",
    ),
)


def _degraded(draw: torch.Generator) -> list[tuple]:
    cases = []
    for shape, sigma in [((1, 1), 0.5), ((6, 2), 0.3), ((4, 5), 2.0)]:
        x_1, y, noise = torch.randn(3, *shape, generator=draw, dtype=torch.float64)
        cases.append((x_1, y, noise, sigma, torch.rand(shape[0], generator=draw, dtype=torch.float64)))
    return cases


def _at_rest(x_1: Tensor, y: Tensor, noise: Tensor, sigma: float, t: Tensor) -> Tensor:
    moving = torch.stack([(1 - s) * (b + sigma * e) + s * a for a, b, e, s in zip(x_1, y, noise, t, strict=True)])
    return torch.hstack([moving, y])


_STILL = """def answer(x_1, y, noise, sigma, t):
    x_0 = y + sigma * noise
    start = {}
    end = {}
    return (1 - t[:, None]) * start + t[:, None] * end"""
_END = "torch.cat([x_1, y], 1)"

still_condition = Function(
    key="couplings.still_condition",
    number="7.6",
    task="find the bug",
    question=(
        "Somebody trains a network to be told the degraded picture `y` as coordinates that do not move. The code "
        "makes what the network sees at time `t`: the point on the way from $(X_0,Y)$ to $(X_1,Y)$. All tensors but "
        "`t` have shape `(batch, d)`, and the result has `(batch, 2 d)`. The network trains without complaint, and is "
        "no better than one that is told nothing. One line is wrong. Put it right, and change nothing else."
    ),
    given=_STILL.format("torch.cat([x_0, x_0], 1)", _END),
    reference=_STILL.format("torch.cat([x_0, y], 1)", _END),
    why=(
        "The second half began at the noised $X_0$ and moved to $Y$. At $t=0$, where the flow has to decide, the "
        "network was told nothing that it did not see anyway, and it had a second velocity to learn. A condition has "
        "one value for all $t$: start and end hold the same `y`, and its velocity is 0. When you sample, start at "
        "`torch.cat([x_0, y], 1)` too."
    ),
    hints=(
        "Follow the second half of the columns from t = 0 to t = 1. Does it stand still?",
        "What has to stand in the second half of `start`, so that it is the same as in `end`?",
    ),
    arguments=("x_1", "y", "noise", "sigma", "t"),
    truth=_at_rest,
    wrongs=(
        Wrong(
            _STILL.format("torch.cat([x_0, x_0], 1)", "torch.cat([x_1, x_0], 1)"),
            "Now it stands still, but what stands there is the noised source, which the network sees anyway at t = 0. "
            "It is to be told `y` itself.",
        ),
        Wrong(
            _STILL.format("torch.cat([y, y], 1)", _END),
            "The condition is right now, but the first half starts at `y` without noise: one start, one answer. Only "
            "the second half was wrong.",
        ),
        Wrong(
            _STILL.format("torch.cat([y, x_0], 1)", _END),
            "The two halves have changed places: first comes what moves, from `x_0` to `x_1`, then what stands still.",
        ),
        Wrong(
            _STILL.format("torch.cat([x_0, x_0], 1)", "torch.cat([x_1, x_1], 1)"),
            "The second half still moves, and to the answer itself. It has to hold `y` at all times.",
        ),
        Wrong(
            _STILL.format("torch.cat([x_0, y], 1)", "torch.cat([x_1, x_1], 1)"),
            "`start` is right, but now the second half moves on to `x_1`. `end` was right as it was.",
        ),
        Wrong(
            _STILL.format("torch.cat([x_0, 0 * y], 1)", _END),
            "The second half starts at 0 and grows to `y`: at t = 0 the network is told nothing. It has to hold `y` at "
            "all times.",
        ),
        Wrong(
            _STILL.format("torch.cat([x_0, noise], 1)", _END),
            "The second half is a flow of its own now, from noise to `y`. It has to hold `y` at all times.",
        ),
        Wrong(
            _STILL.format("torch.cat([x_0, x_1], 1)", "torch.cat([x_1, x_1], 1)"),
            "The network is told `x_1`, the very picture that it has to find, which nobody has when sampling.",
        ),
    ),
    cases=_degraded,
    rights=(
        _STILL.format("torch.hstack([x_0, y])", _END),
        "def answer(x_1, y, noise, sigma, t):\n    s = t.unsqueeze(1)\n"
        "    return torch.cat([torch.lerp(y + sigma * noise, x_1, s.expand_as(y)), y], dim=1)",
        "def answer(x_1, y, e, sigma, time):\n    z = torch.empty(len(y), 2 * y.shape[1], dtype=y.dtype)\n"
        "    d = y.shape[1]\n    z[:, :d] = y + sigma * e + time[:, None] * (x_1 - y - sigma * e)\n    z[:, d:] = y\n"
        "    return z",
    ),
    other_wrongs=(
        (_STILL.format("x_0", "x_1"), "is expected"),
        (_STILL.format("torch.cat([x_0, y])", _END), "must match the size"),
    ),
)
