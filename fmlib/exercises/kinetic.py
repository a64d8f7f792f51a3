"""Exercises of notebook 4, kinetic energy."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fmlib.exercises._questions import Choice, Function, Number, Wrong

slow_gap = Choice(
    key="kinetic.slow_gap",
    number="4.1",
    task="predict",
    question=(
        "Make the blur `s` smaller and smaller. All three gaps vanish, two of them in the end like $s^2$. Which one "
        "vanishes more slowly, and why?"
    ),
    options={
        "a": ("that of the independent coupling", ""),
        "b": (
            "that of the rotation",
            "Its lines cross in the picture, but not at the same time: at each $t$ the eight centres lie on a ring, "
            "well apart. A place and a time together tell the pair.",
        ),
        "c": (
            "that of minibatch OT",
            "It is the smallest, but its lines never meet, and all that is left of it is the blur within a pair, which "
            "is of order $s^2$.",
        ),
        "d": (
            "none: the variance within a pair is of order $s^2$ for all three",
            "That part is, see the formula of 4.2. But the gap has a second part, the variance between pairs, wherever "
            "several pairs are at one place at one time.",
        ),
    },
    after="Then open the figure.",
    why=(
        "Within a pair the variance is of order $s^2$. Under the independent coupling eight pairs leave from each "
        "source point and eight arrive at each target point. Near the ends they lie within the blur of one another, "
        "for a time of order $s$, and disagree there by a velocity of order 1: that part of the gap falls like $s$, "
        "not like $s^2$."
    ),
    hints=(
        "The gap is variance within a pair plus variance between pairs. Which of the two is of order $s^2$ in any "
        "case?",
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
        "$\\|V_t-u_t\\|^2$ is a sum over the coordinates, and $\\mathbb E$ a mean over the samples. As $u_t(X_t)$ is "
        "the conditional mean of $V_t$, what this loss measures is the conditional variance of $V_t$: the gap. So a "
        "perfect network's loss is not zero, it is the difference of the bound and the kinetic energy."
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


def _paths(draw: torch.Generator) -> list[tuple]:
    corner = torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]], [[3.0, 4.0]]], dtype=torch.float64)
    cases = [(corner, torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))]  # 9 / 0.25 + 16 / 0.75
    for shape in [(7, 5, 2), (2, 3, 4), (12, 4, 3)]:
        x = torch.randn(shape, generator=draw, dtype=torch.float64)
        lasts = 0.2 + torch.rand(shape[0] - 1, generator=draw, dtype=torch.float64)
        cases.append((x, torch.cat([torch.zeros(1), (lasts / lasts.sum()).cumsum(0)])))
    return cases


def _energies(x: Tensor, t: Tensor) -> Tensor:
    parts = [(b - a).square().sum(1) / (s - r) for a, b, r, s in zip(x, x[1:], t, t[1:], strict=False)]
    return torch.stack(parts).sum(0)


_ENERGY = """def answer(x, times):
    step = x.diff(dim=0)
    lasts = times.diff()[:, None]
    return {}"""

energy_of_path = Function(
    key="kinetic.energy_of_path",
    number="4.3",
    task="write",
    question=(
        "You may know a flow by its samples only. Then take each trajectory to be straight, at constant speed, from "
        "one known point to the next: a step $\\Delta x$ that lasts $\\Delta t$ has speed $\\|\\Delta x\\|/\\Delta t$. "
        "`answer(x, times)` is given `n` trajectories, `x` of shape `(steps + 1, n, d)`, at `times` of shape "
        "`(steps + 1,)`, which rise from 0 to 1 in *unequal* steps. It returns the energy $\\int_0^1\\|\\dot x\\|^2dt$ "
        "of each of these paths, shape `(n,)`. Below, your function draws a figure."
    ),
    given="""def answer(x, times):
    step = ____
    lasts = ____
    return ____""",
    reference=_ENERGY.format("(step.square().sum(2) / lasts).sum(0)"),
    why=(
        "On one step the square of the speed is $\\|\\Delta x\\|^2/\\Delta t^2$, and it lasts for $\\Delta t$, so it "
        "adds $\\|\\Delta x\\|^2/\\Delta t$. With finer steps the sum rises, and never above the energy of the true "
        "path: by Jensen, a straight line at constant speed is the cheapest way from one point to the next."
    ),
    hints=(
        "`x.diff(dim=0)` has the steps $\\Delta x$ of all paths, shape `(steps, n, d)`, and `times.diff()` what each "
        "lasts.",
        "What does one step add to the integral? The square of its speed, times the time it lasts.",
        "$\\|\\Delta x\\|^2/\\Delta t$: sum the squares over the coordinates, divide by the times as a column, "
        "`times.diff()[:, None]`, and sum over the steps.",
    ),
    arguments=("x", "times"),
    truth=_energies,
    wrongs=(
        Wrong(
            _ENERGY.format("step.square().sum(2).sum(0)"),
            "You add up the squared steps and never divide by a time. Such a sum goes to zero as the steps become "
            "finer. What is the speed on a step that lasts $\\Delta t$?",
        ),
        Wrong(
            _ENERGY.format("(step / lasts[:, None]).square().sum(2).mean(0)"),
            "You take the plain mean of the squared speeds: short and long steps count alike. In an integral over time "
            "each counts by what it lasts.",
        ),
        Wrong(
            _ENERGY.format("(step / lasts[:, None]).square().sum(2).sum(0)"),
            "You add up the squared speeds. An integral adds up squared speed *times* the time it lasts.",
        ),
        Wrong(
            _ENERGY.format("step.square().sum(2).sum(0) * len(lasts)"),
            "This is right for steps of equal length, $\\Delta t=1/n$ for n of them. Here they are unequal: use "
            "`times`.",
        ),
        Wrong(
            _ENERGY.format("(step.square().sum(2) * lasts).sum(0)"),
            "You multiply by the times where you should divide: with $\\|\\Delta x\\|^2$, a step of half the time is "
            "twice as dear.",
        ),
        Wrong(
            _ENERGY.format("step.norm(dim=2).sum(0)"),
            "This is the length of the path, the integral of the speed. The energy integrates the *square* of the "
            "speed, and so depends on when the path is where.",
        ),
        Wrong(
            _ENERGY.format("(step.norm(dim=2) / lasts).sum(0)"),
            "You add up the speeds. Square each, and multiply it by the time it lasts.",
        ),
        Wrong(
            _ENERGY.format("step.norm(dim=2).sum(0).square()"),
            "This is the square of the length. It is the energy only if the whole path is run at one speed.",
        ),
        Wrong(
            _ENERGY.format("(x[-1] - x[0]).square().sum(1)"),
            "This is the squared displacement: the energy of the straight line from the first to the last point, "
            "which is the least that any path with these ends can spend. Add up all steps.",
        ),
        Wrong(
            _ENERGY.format("(step.square().mean(2) / lasts).sum(0)"),
            "You average over the coordinates, so this is $d$ times too small. A squared norm is a *sum* over them.",
        ),
        Wrong(
            _ENERGY.format("(step.square().sum(2) / lasts).sum(0).mean()"),
            "This is the mean over all paths, which estimates $\\mathrm{KE}(u)$. Leave that to the caller: return one "
            "energy for each path.",
        ),
        Wrong(
            _ENERGY.format("(step.square().sum(2) / lasts).mean(0)"),
            "You take the mean over the steps of what each adds. An integral is the sum of what its pieces add.",
        ),
        Wrong(
            _ENERGY.format("(step.square() / lasts[..., None]).sum(0)"),
            "This is the energy of each coordinate. Sum over the coordinates as well.",
        ),
    ),
    cases=_paths,
    rights=(
        "def answer(x, times):\n    speed = (x[1:] - x[:-1]).norm(dim=2) / (times[1:] - times[:-1])[:, None]\n"
        "    return (speed**2 * (times[1:] - times[:-1])[:, None]).sum(0)",
        "def answer(x, times):\n    total = torch.zeros_like(x[0, :, 0])\n    for k in range(len(times) - 1):\n"
        "        total = total + (x[k + 1] - x[k]).pow(2).sum(-1) / (times[k + 1] - times[k])\n    return total",
        "answer = lambda path, time: torch.einsum('knd,knd,k->n', path.diff(dim=0), path.diff(dim=0), 1 / time.diff())",
    ),
    other_wrongs=(
        (_ENERGY.format("(x.square().sum(2)[1:] / lasts).sum(0)"), "expected is"),
        (_ENERGY.replace("[:, None]", "").format("(step.square().sum(2) / lasts).sum(0)"), "must match the size"),
    ),
)


class _Current:
    """A velocity in which both the place and the time, a number, count."""

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        return torch.sin(2 * x) + 2 * t * x.flip(1) + 1

    def __repr__(self) -> str:
        return "u"


_current = _Current()


def _along(draw: torch.Generator) -> list[tuple]:
    shapes = [((6, 2), 4), ((1, 1), 2), ((5, 3), 7)]
    return [(_current, *torch.randn(2, *shape, generator=draw, dtype=torch.float64), n) for shape, n in shapes]


def _bend(u: Callable, x_0: Tensor, x_1: Tensor, steps: int) -> Tensor:
    x, energy = x_0, torch.zeros_like(x_0[:, 0])
    for k in range(steps):
        velocity = u(x, k / steps)
        energy = energy + velocity.square().sum(1) / steps
        x = x + velocity / steps
    return energy - (x - x_0).square().sum(1)  # the mean of squares less the square of the mean


_BEND = """def answer(u, x_0, x_1, steps):
    x, seen = x_0, []
    for k in range(steps):
        seen.append(u(x, k / steps))
        x = x + seen[-1] / steps
    moved = {}
    return (torch.stack(seen) - moved).square().sum(2).mean(0)"""

partner_for_end = Function(
    key="kinetic.partner_for_end",
    number="4.4",
    task="find the bug",
    question=(
        "Somebody measures the straightness of a flow along its Euler trajectories, one number for each source sample. "
        "`u(x, t)` is the velocity, and `x_0`, `x_1` are pairs that the coupling drew. For a single data point the "
        "code gives zero, as it should; for several it gives far too much. One line is wrong. Put it right, and change "
        "nothing else."
    ),
    given=_BEND.format("x_1 - x_0"),
    reference=_BEND.format("x - x_0"),
    why=(
        "The code compared the velocity with the way to $X_1$, the partner that the coupling drew. The flow knows "
        "nothing of it: after the loop the trajectory has arrived at `x`, at its own $\\psi_1(X_0)$, and straightness "
        "compares with $\\psi_1(X_0)-X_0$. For a single data point both ends are the same, which hid the mistake. "
        "It takes straight *pairs* for straight *trajectories*, and cannot be small where the coupling is random."
    ),
    hints=(
        "Read the formula of $S$ above, symbol by symbol. Which line of the code is which part of it?",
        "In $S$ stands the displacement of the *trajectory*, $\\psi_1(X_0)-X_0$. Where does the code hold "
        "$\\psi_1(X_0)$?",
    ),
    arguments=("u", "x_0", "x_1", "steps"),
    truth=_bend,
    wrongs=(
        Wrong(
            _BEND.format("-x_0 + x_1"),
            "You still compare with the way to $X_1$, the partner that the coupling drew. Where does the trajectory "
            "itself end?",
        ),
        Wrong(
            _BEND.format("0"),
            "Without a displacement this is the kinetic energy of each trajectory. Straightness is what is left of it "
            "when the squared displacement is taken away.",
        ),
        Wrong(
            _BEND.format("x_1 - x"),
            "This is the way from the trajectory's end to the partner. Straightness needs the way from the "
            "trajectory's *start* to its end.",
        ),
        Wrong(
            _BEND.format("x_0 - x"),
            "A sign is lost: the displacement leads from the start, x_0, to the end, x.",
        ),
        Wrong(
            _BEND.format("x"),
            "This is the place where the trajectory ends. A displacement is end less start.",
        ),
        Wrong(
            _BEND.format("seen[0]"),
            "You compare with the first velocity. That is the change since the start, of which straightness is a part "
            "only (section 4.8).",
        ),
        Wrong(
            _BEND.format("seen[-1]"),
            "You compare with the last velocity. Straightness compares with the mean velocity, the displacement.",
        ),
        Wrong(
            _BEND.replace("x = x + seen[-1] / steps", "x = x_0 + (k + 1) / steps * (x_1 - x_0)").format("x - x_0"),
            "Now you move along the straight line of the pair instead of the flow. What you measure then is the gap, "
            "$\\mathbb E\\|V_t-u_t\\|^2$. The loop was right: undo that.",
        ),
        Wrong(
            _BEND.replace("sum(2)", "mean(2)").format("x - x_0"),
            "The displacement is right now. But you also average over the coordinates: a squared norm is a sum over "
            "them. Undo that.",
        ),
    ),
    cases=_along,
    rights=(
        _BEND.format("torch.stack(seen).mean(0)"),
        "def answer(u, x_0, x_1, steps):\n    x, seen = x_0, []\n    for k in range(steps):\n"
        "        seen += [u(x, k / steps)]\n        x = x.add(seen[-1], alpha=1 / steps)\n"
        "    seen = torch.stack(seen)\n    return (seen**2).sum((0, 2)) / steps - ((x - x_0) ** 2).sum(1)",
        "def answer(u, start, partner, steps):\n    path = [start]\n    for k in range(steps):\n        "
        "path.append(path[-1] + u(path[-1], k / steps) / steps)\n    velocity = steps * "
        "torch.stack(path).diff(dim=0)\n    return (velocity - (path[-1] - path[0])).norm(dim=2).pow(2).mean(dim=0)",
    ),
    other_wrongs=((_BEND.replace("k / steps", "(k + 1) / steps").format("x - x_0"), "expected is"),),
)

singular_speed = Choice(
    key="kinetic.singular_speed",
    number="4.5",
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
            "speed, which is of order $1/(1-t)$.",
        ),
        "b": (
            "both are infinite",
            "The bound is. But the marginal velocity contains $\\sigma_t'$ only times $\\mathbb E[X_0|X_t]$, and near "
            "$t=1$ the place says next to nothing about the noise: that mean is of the order of $\\sigma_t$.",
        ),
        "c": ("the bound is infinite, the kinetic energy is finite", ""),
        "d": (
            "the bound is finite, the kinetic energy is infinite",
            "That cannot be: the bound is an upper bound of the kinetic energy.",
        ),
    },
    after="Then read on: the experiment below decides, and its result is in a box.",
    why=(
        "The bound contains $\\int\\sigma_t'^2dt\\;\\mathbb E\\|X_0\\|^2$, and $1/(1-t)$ has an infinite integral. In "
        "the marginal velocity $\\sigma_t'$ is multiplied by $\\mathbb E[X_0|X_t]$, which for a bounded density is of "
        "order 1 only within about $\\sigma_t$ of an edge, where few samples are. So what each further factor of ten "
        "of $1-t$ adds to the energy falls geometrically. (For a finite data set the energy is infinite too: near a "
        "data point the place does tell $X_0$.) An infinite bound says nothing about the flow."
    ),
    hints=(
        "The bound is $\\mathbb E\\int\\|\\alpha_t'X_1+\\sigma_t'X_0\\|^2dt$. Is the integral of $\\sigma_t'^2$ "
        "finite?",
        "In the marginal velocity stands $\\sigma_t'\\,\\mathbb E[X_0|X_t]$. How large is it near $t=1$, if the "
        "density is bounded?",
    ),
)


def _plans(draw: torch.Generator) -> list[tuple]:
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    cases = [(square, square + torch.tensor([0.0, 2.0]), torch.eye(2, dtype=torch.float64) / 2)]  # both go up by 2
    for n, m, d in [(4, 4, 2), (3, 6, 2), (5, 2, 7), (1, 3, 1)]:
        pi = torch.rand(n, m, generator=draw, dtype=torch.float64)
        x_0, x_1 = (torch.randn(k, d, generator=draw, dtype=torch.float64) for k in (n, m))
        cases.append((x_0, x_1, pi / pi.sum()))
    return cases


def _plan_cost(x_0: Tensor, x_1: Tensor, pi: Tensor) -> Tensor:
    return sum(pi[i, j] * (x_1[j] - x_0[i]).square().sum() for i in range(len(x_0)) for j in range(len(x_1)))


_COST = """def answer(x_0, x_1, pi):
    way = {}
    cost = {}
    return {}"""
_WAY, _SQUARE, _TOTAL = "x_1[None] - x_0[:, None]", "way.square().sum(2)", "(pi * cost).sum()"

cost_of_plan = Function(
    key="kinetic.cost_of_plan",
    number="4.6",
    task="write",
    question=(
        "A coupling of `n` source and `m` target points need not be a list of pairs. In general it is a matrix "
        "$\\pi$ of shape `(n, m)` with sum 1: $\\pi_{ij}$ is the probability of going from $x_{0,i}$ to $x_{1,j}$. "
        "Write its cost $\\mathbb E\\|X_1-X_0\\|^2$, which is the straight path's bound: `answer(x_0, x_1, pi)` takes "
        "points of shape `(n, d)` and `(m, d)`, and returns one number, a tensor of shape `()`. Below, your function "
        "draws a figure."
    ),
    given="""def answer(x_0, x_1, pi):
    way = ____
    cost = ____
    return ____""",
    reference=_COST.format(_WAY, _SQUARE, _TOTAL),
    why=(
        "$\\mathbb E\\|X_1-X_0\\|^2=\\sum_{ij}\\pi_{ij}\\|x_{1,j}-x_{0,i}\\|^2$. The two `None` make a table of all "
        "ways, of shape `(n, m, d)`. The cost is linear in $\\pi$. The kinetic energy of the flow is not: it lies "
        "below, by the gap."
    ),
    hints=(
        "You need the way from every source point to every target point: a tensor of shape `(n, m, d)`.",
        "`x_0[:, None]` has shape `(n, 1, d)` and `x_1[None]` has `(1, m, d)`; their difference has all ways.",
        "Square, sum over the coordinates, multiply by `pi`, sum over everything.",
    ),
    arguments=("x_0", "x_1", "pi"),
    truth=_plan_cost,
    wrongs=(
        Wrong(
            _COST.format(_WAY, _SQUARE, "cost.mean()"),
            "Every way counts alike here: this is the cost of the independent coupling, whatever $\\pi$ is. Weigh each "
            "way by its probability.",
        ),
        Wrong(
            _COST.format(_WAY, _SQUARE, "(pi * cost).mean()"),
            "The probabilities in $\\pi$ sum to 1 already, so the expectation is the *sum* of `pi * cost`. A mean "
            "divides once more, by the number of ways.",
        ),
        Wrong(
            _COST.format(_WAY, "way.norm(dim=2)", _TOTAL),
            "This is the mean distance. The cost is the mean *squared* distance.",
        ),
        Wrong(
            _COST.format(_WAY, "way.square().mean(2)", _TOTAL),
            "You average over the coordinates, so this is $d$ times too small. A squared norm is a *sum* over them.",
        ),
        Wrong(
            _COST.format(_WAY, _SQUARE, "cost.sum()"),
            "You add up all ways and leave out $\\pi$. Weigh each way by its probability.",
        ),
        Wrong(
            _COST.format(_WAY, _SQUARE, "(pi * cost).sum(1)"),
            "This is what each source point adds to the cost. Sum over the source points too.",
        ),
        Wrong(
            _COST.format("x_1 - pi.T @ x_0 / pi.sum(0)[:, None]", "way.square().sum(1)", "(pi.sum(0) * cost).sum()"),
            "You average the source points that go to one target first, and square afterwards. The cost squares "
            "every single way: square first.",
        ),
        Wrong(
            _COST.format("pi @ x_1 / pi.sum(1)[:, None] - x_0", "way.square().sum(1)", "(pi.sum(1) * cost).sum()"),
            "You average the target points that one source goes to first, and square afterwards. The cost squares "
            "every single way: square first.",
        ),
        Wrong(
            _COST.format(_WAY, _SQUARE, "(pi * cost).sum() / len(x_0)"),
            "You divide by the number of source points, but $\\pi$ sums to 1 over the whole matrix, not over each row.",
        ),
    ),
    cases=_plans,
    rights=(
        _COST.format("x_0.unsqueeze(1) - x_1", "(way**2).sum(-1)", "torch.sum(cost * pi)"),
        "def answer(x_0, x_1, pi):\n    squares = x_0.pow(2).sum(1, True) + x_1.pow(2).sum(1) - 2 * x_0 @ x_1.T\n"
        "    return torch.einsum('ij,ij->', pi, squares)",
        "def answer(a, b, plan):\n    total = a.new_zeros(())\n    for point, row in zip(a, plan):\n"
        "        total = total + row @ (b - point).square().sum(1)\n    return total",
    ),
    other_wrongs=(
        (_COST.format("x_1 - x_0", "way.square().sum(1)", "cost.mean()"), "must match the size"),
        (_COST.format(_WAY, _SQUARE, "(pi.T * cost).sum()"), "must match the size"),
        (_COST.format("x_1[:, None] - x_0[None]", _SQUARE, _TOTAL), "must match the size"),
        (_COST.format(_WAY, _SQUARE, "(pi * cost).sum().item()"), "must return a torch tensor"),
    ),
)

more_points = Number(
    key="kinetic.more_points",
    number="4.7",
    task="predict",
    question=(
        "With 2000 points instead of 200, by which factor does their line rise in high dimension? Use "
        "$t\\sim\\sqrt{\\log n/d}$ for the time until which the target is undecided, and take the gap to be "
        "proportional to it. Answer with a number, to two digits."
    ),
    after="Then open the box below, and see how good the heuristic is.",
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
            "A little more than that: $\\log n$ changes slowly, but it does change. Put both values of $n$ into the "
            "formula.",
        ),
        Wrong(
            "answer = math.sqrt(math.log(200) / math.log(2000))",
            "You divided the other way round: with more points the target is undecided for longer.",
        ),
    ),
    otherwise="Divide $\\sqrt{\\log2000/d}$ by $\\sqrt{\\log200/d}$; the dimension cancels.",
    why=(
        "The dimension cancels, and $\\sqrt{\\log2000/\\log200}=\\sqrt{7.60/5.30}=1.20$. Ten times as many points "
        "raise the line by about a fifth: the number of points counts little, the dimension much more. (Measured it "
        "is about that, or a little more: the heuristic keeps the leading term only.)"
    ),
    hints=(
        "Divide the time for $n=2000$ by the time for $n=200$. What happens to $d$?",
        "It is the root of $\\log2000/\\log200$, with the natural logarithm (any base gives the same).",
    ),
    rights=("answer = 1.2", "answer = (torch.tensor(2000.0).log() / torch.tensor(200.0).log()).sqrt()"),
)
