"""Exercises of notebook 1, flow matching basics."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fmlib.exercises._blank import holds_blank, is_tensor
from fmlib.exercises._questions import WRONG, Choice, Function, Number, Property, Verdict, Wrong, _cast
from fmlib.exercises._training import SmallNetwork, TrainingStep


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
        "The derivative of $(1-t)x_0+tx_1$ in $t$ is $x_1-x_0$. It does not depend on $t$: each pair walks straight, "
        "at constant speed, and has covered the whole way from $x_0$ to $x_1$ at $t=1$."
    ),
    hints=(
        "A velocity is the derivative of the position in t. Which position?",
        "Differentiate $(1-t)x_0+tx_1$ in $t$, with $x_0$ and $x_1$ constant: what is the derivative of $1-t$, and of "
        "$t$?",
    ),
    arguments=("x_0", "x_1", "t"),
    truth=lambda x_0, x_1, t: x_1 - x_0,
    wrongs=(
        Wrong(
            _VELOCITY.format("x_0 - x_1"),
            "This is $x_0-x_1$: the sign of time is reversed. Here $t=0$ is the source and $t=1$ the target, so the "
            "walk leaves $x_0$ and arrives at $x_1$.",
        ),
        Wrong(
            _VELOCITY.format("(1 - t[:, None]) * x_0 + t[:, None] * x_1"),
            "This is the position X_t, where the pair is. Its velocity is the derivative of X_t in t.",
        ),
        Wrong(
            _VELOCITY.format("t[:, None] * (x_1 - x_0)"),
            "This is the way covered so far, $X_t-x_0$. The velocity is the way covered per unit of time: its "
            "derivative in $t$.",
        ),
        Wrong(
            _VELOCITY.format("(1 - t[:, None]) * (x_1 - x_0)"),
            "This is the way that is left, x_1 - X_t. Divide it by the time that is left, 1 - t.",
        ),
        Wrong(
            _VELOCITY.format("x_0 + x_1"),
            "A sign is lost: the derivative of $1-t$ is $-1$, not 1.",
        ),
        Wrong(
            _VELOCITY.format("x_1"),
            "This is where the walk ends. The term $(1-t)x_0$ depends on $t$ as well: what is its derivative?",
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
        "Every sample sets out at once and walks at constant speed. When does the density $p_t$ first show three "
        "separate bumps? Answer before you look: click a letter."
    ),
    options={
        "a": (
            "before $t=0.25$",
            "It tempts, since all samples set out at once. But at $t=0.25$ the three means have covered only a "
            "quarter of the way, while the noise still has standard deviation 0.75: the three bumps overlap and show "
            "as one.",
        ),
        "b": (
            "between $t=0.25$ and $t=0.5$",
            "You may expect the shape to be half-way when the time is. Each bump has its mean at $t\\mu_k$ but is at "
            "least $1-t$ wide: at $t=0.4$ that is 0.6, about as much as the means are away from the middle.",
        ),
        "c": ("between $t=0.5$ and $t=0.75$", ""),
        "d": (
            "after $t=0.75$",
            "Late is right, but not that late. At $t=0.75$ the bumps have widths of about 0.35 to 0.4, and their means "
            "are more than 2 apart: they have been separate for a while.",
        ),
    },
    after="Then open the figure, and move the time in the explorer below it.",
    why=(
        "Given its component, $X_t$ has mean $t\\mu_k$ and variance $t^2s_k^2+(1-t)^2$. The distances between the "
        "means grow like $t$ while the widths shrink from 1, so their ratio is small for long and then rises fast. For "
        "this mixture the third bump appears at about $t=0.53$."
    ),
    hints=(
        "Two bumps show as one while their width is about as large as the distance between their means.",
        "The mean of component $k$ is $t\\mu_k$, its standard deviation about $1-t$. The means $\\mu_k$ lie some 1.7 "
        "from the origin. Compare the two at $t=0.25$, 0.5 and 0.75.",
    ),
)


class _Waves:
    """A velocity in which both the place and the time count; t is a number or has shape (batch,)."""

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        if isinstance(t, Tensor) and t.ndim:
            if t.shape != x.shape[:1]:
                raise ValueError(f"u takes t as a number or of shape ({len(x)},), and got shape {tuple(t.shape)}")
            t = t[:, None]
        return torch.cos(2 * x) + 3 * t * x - t

    def __repr__(self) -> str:
        return "u"


_waves = _Waves()


def _starts(draw: torch.Generator) -> list[tuple]:
    shapes = [((6, 2), 3), ((1, 1), 1), ((5, 3), 7)]
    return [(_waves, torch.randn(shape, generator=draw, dtype=torch.float64), steps) for shape, steps in shapes]


_EULER = """def answer(u, x, steps):
    points = [x]
    for i in range({}):
        {}
        points.append(x)
    return torch.stack(points)"""

euler = Function(
    key="basics.euler",
    number="1.3",
    task="complete",
    question=(
        "Write Euler's method: `answer(u, x, steps)` starts from the points `x` at $t=0$, takes `steps` equal steps to "
        "$t=1$, and returns all points on the way, start and end included, as one tensor of shape `(steps + 1, batch, "
        "d)`. `u(x, t)` is the velocity, and `t` may be a plain number. Below, your method draws a figure."
    ),
    given="""def answer(u, x, steps):
    points = [x]
    for i in range(____):
        ____
    return torch.stack(points)""",
    reference=_EULER.format("steps", "x = x + u(x, i / steps) / steps"),
    why=(
        "A step of length $h=1/n$ goes along the velocity where it starts: $x_{i+1}=x_i+h\\,u_{ih}(x_i)$. The time of "
        "step $i$ is $ih$, and each step sets out from where the last one ended."
    ),
    hints=(
        "With n steps each has length $h=1/n$, and step $i$ (counted from 0) begins at time $ih$.",
        "Move $x$ by $h$ times the velocity at $x$ and that time, and call the new point $x$ again.",
        "Append each new point to the list: n steps make n + 1 points.",
    ),
    arguments=("u", "x", "steps"),
    truth=lambda u, x, steps: _by_euler(u, x, steps),
    wrongs=(
        Wrong(
            _EULER.format("steps", "x = x + u(x, i / steps)"),
            "Each of your steps has length 1. All steps together must cover the time from 0 to 1, so the velocity is "
            "multiplied by $h=1/n$.",
        ),
        Wrong(
            _EULER.format("steps", "x = x + u(x, i) / steps"),
            "You ask for the velocity at time $i$, the number of the step. Step $i$ begins at time $ih=i/n$.",
        ),
        Wrong(
            _EULER.format("steps", "x = x + u(x, (i + 1) / steps) / steps"),
            "You take the velocity at the time where the step ends. Euler's step takes it where it begins, at $t=ih$.",
        ),
        Wrong(
            _EULER.format("steps", "x = x + u(x, 0) / steps"),
            "You ask for the velocity at $t=0$ in every step. The velocity changes with time: step $i$ begins at "
            "$t=ih$.",
        ),
        Wrong(
            _EULER.format("steps", "x = x - u(x, i / steps) / steps"),
            "You step against the velocity. From $t=0$ to $t=1$ the step is $+h\\,u_t(x)$.",
        ),
        Wrong(
            _EULER.format("steps", "x = x + u(x, 1 - i / steps) / steps"),
            "Your clock runs backwards: the first step is taken at $t=1$. Start at $t=0$.",
        ),
        Wrong(
            _EULER.replace("        points.append(x)\n", "").format("steps", "x = x + u(x, i / steps) / steps"),
            "Your list holds the start and nothing else: append each new point to it.",
        ),
        Wrong(
            _EULER.replace("        points.append(x)\n", "").format(
                "steps", "points.append(x)\n        x = x + u(x, i / steps) / steps"
            ),
            "You append the point before it has moved, so the start stands twice in your list and the end is missing. "
            "Append it after the step.",
        ),
        Wrong(
            "def answer(u, x, steps):\n    points = [x + u(x, i / steps) / steps for i in range(steps)]\n"
            "    return torch.stack([x, *points])",
            "Each of your steps sets out from the start. Step $i$ must set out from where step $i-1$ ended: keep the "
            "new point as $x$.",
        ),
    ),
    cases=_starts,
    rights=(
        """def answer(u, x, steps):
    from itertools import accumulate
    step = lambda y, i: y + u(y, i / steps) / steps
    return torch.stack(list(accumulate(range(steps), step, initial=x)))""",
        """def answer(u, x, steps):
    path = x.new_empty(steps + 1, *x.shape)
    path[0] = x
    for i, t in enumerate(torch.linspace(0, 1, steps + 1, dtype=x.dtype)[:-1]):
        path[i + 1] = path[i] + u(path[i], t) / steps
    return path""",
        """def answer(velocity, start, count):
    points, t, h = [start], 0.0, 1 / count
    while len(points) <= count:
        points += [points[-1].add(velocity(points[-1], t), alpha=h)]
        t += h
    return torch.stack(points)""",
    ),
    other_wrongs=(
        (_EULER.format("steps - 1", "x = x + u(x, i / steps) / steps"), "and shape (4, 6, 2) is expected"),
        ("def answer(u, x, steps):\n    return x + u(x, 0)", "returns shape (6, 2), and shape (4, 6, 2) is expected"),
        (_EULER.format("steps", "x += u(x, i / steps) / steps"), "changes its input x in place"),
        (_EULER.format("steps", "x = x + u(x) / steps"), "missing 1 required positional argument"),
    ),
)


def _by_euler(u: Callable, x: Tensor, steps: int) -> Tensor:
    points = [x]
    for i in range(steps):
        points.append(points[-1] + u(points[-1], i / steps) / steps)
    return torch.stack(points)


@dataclass(kw_only=True, repr=False)
class _Pair(Function):
    """A function that returns two tensors of one shape; they are compared as one, stacked."""

    def _call(self, answer: Callable, arguments: tuple) -> Tensor:
        problem = ""

        @functools.wraps(answer)
        def stacked(*given):
            nonlocal problem
            value = answer(*given)
            if holds_blank(value) or value is None:
                return value
            if is_tensor(value) and value.shape[:1] == (2,) and value.ndim == given[0].ndim + 1:
                return value  # stacked already: it can be taken apart like a pair
            if not isinstance(value, tuple | list) or len(value) != 2 or not all(map(is_tensor, value)):
                problem = "Your function must return two tensors, as `return x_t, target` does."
            elif value[0].shape != value[1].shape or value[0].dtype != value[1].dtype:
                first, second = (tuple(v.shape) for v in value)
                problem = (
                    f"The two tensors that you return are unlike, of shapes {first} and {second}. Each must have "
                    "the shape and dtype of x_0."
                )
            return given[0] if problem else torch.stack(tuple(value))

        result = super()._call(stacked, arguments)
        if problem:
            raise Verdict(WRONG, problem)
        return result

    def _compare(self, case: tuple, value: Tensor, right: Tensor, tolerance: float) -> None:
        for name, mine, true in zip(("the first", "the second"), value, right, strict=True):
            try:
                super()._compare(case, mine, true, tolerance)
            except Verdict as verdict:
                message = f"Of the two tensors {name} is not right. {verdict.outcome.message}"
                raise Verdict(verdict.outcome.kind, message) from None


_BOTH = """def answer(x_0, x_1, t):
    t = t[:, None]
    x_t = {}
    target = {}
    return x_t, target"""
_STACKED = _BOTH.replace("return x_t, target", "return torch.stack([x_t, target])")

point_and_target = _Pair(
    key="basics.point_and_target",
    number="1.4",
    task="complete",
    question=(
        "Begin with what the regression is given. `answer(x_0, x_1, t)` returns two tensors: the points $X_t$ on the "
        "straight walks, and the target that the network is to predict there. `x_0` and `x_1` have shape `(batch, d)`, "
        "and every row has a time of its own: `t` has shape `(batch,)`."
    ),
    given="""def answer(x_0, x_1, t):
    x_t = ____
    target = ____
    return x_t, target""",
    reference=_BOTH.format("(1 - t) * x_0 + t * x_1", "x_1 - x_0"),
    why=(
        "$X_t=(1-t)X_0+tX_1$ is the input of the network, its derivative $X_1-X_0$ the target. `t[:, None]` makes the "
        "times a column, so that row $i$ of a `(batch, d)` tensor gets time $i$."
    ),
    hints=(
        "The input is the walk of section 1.2, the target its velocity.",
        "`t` must become a column to go with `(batch, d)`: `t[:, None]` has shape `(batch, 1)`.",
    ),
    arguments=("x_0", "x_1", "t"),
    truth=lambda x_0, x_1, t: torch.stack([(1 - t[:, None]) * x_0 + t[:, None] * x_1, x_1 - x_0]),
    wrongs=(
        Wrong(
            _STACKED.format("t * x_0 + (1 - t) * x_1", "x_1 - x_0"),
            "In your $X_t$ the times $t$ and $1-t$ are swapped: at $t=0$ it must be $X_0$.",
        ),
        Wrong(
            _STACKED.format("(1 - t) * x_0 + t * x_1", "x_0 - x_1"),
            "Your target has the wrong sign: $X_t$ walks from $X_0$ to $X_1$, so its velocity is $X_1-X_0$.",
        ),
        Wrong(
            _STACKED.format("t * x_0 + (1 - t) * x_1", "x_0 - x_1"),
            "Your time runs backwards, in the point and in the target. Here $t=0$ is the source $X_0$ and $t=1$ the "
            "target $X_1$.",
        ),
        Wrong(
            _STACKED.format("(1 - t) * x_0 + t * x_1", "x_1"),
            "Your target is $X_1$, where the walk ends. The network is to predict the velocity of the walk.",
        ),
        Wrong(
            _STACKED.format("(1 - t) * x_0 + t * x_1", "x_1 - x_t"),
            "Your target is the way that is left, $X_1-X_t$, which shrinks to nothing as $t\\to1$. The velocity is "
            "this way over the time that is left.",
        ),
        Wrong(
            _STACKED.format("x_1 - x_0", "(1 - t) * x_0 + t * x_1"),
            "Both are right, but in the other order: return the point first, then the target.",
        ),
        Wrong(
            _STACKED.format("(1 - t) ** 0.5 * x_0 + t**0.5 * x_1", "x_1 - x_0"),
            "Your walk has square roots of the times in it and is not straight. The straight one has $1-t$ and $t$.",
        ),
        Wrong(
            _STACKED.format("x_0 + t * x_1", "x_1 - x_0"),
            "Your walk keeps all of its noise: the factor $1-t$ of $X_0$ is missing.",
        ),
    ),
    cases=_pairs,
    rights=(
        "def answer(x_0, x_1, t):\n    target = x_1 - x_0\n    return x_0 + t[:, None] * target, target",
        "def answer(a, b, t):\n    return torch.lerp(a, b, t.unsqueeze(1)), b.sub(a)",
        "def answer(x_0, x_1, t):\n    x_t = torch.einsum('n,nd->nd', 1 - t, x_0) + (t * x_1.T).T\n"
        "    return [x_t, (x_1 - x_t) / (1 - t).view(-1, 1)]",
    ),
    other_wrongs=(
        ("def answer(x_0, x_1, t):\n    return (1 - t) * x_0 + t * x_1, x_1 - x_0", "Write t[:, None]"),
        ("def answer(x_0, x_1, t):\n    return x_1 - x_0", "must return two tensors"),
        ("def answer(x_0, x_1, t):\n    x_t = x_0", "returns None. Is a `return` missing"),
        (_BOTH.format("x_0[0]", "x_1 - x_0"), "are unlike, of shapes (2,) and (6, 2)"),
        (_BOTH.format("2 * x_0", "x_1 - x_0"), "expected is"),
    ),
)


@dataclass(kw_only=True, repr=False)
class _Loss(Function):
    """A loss: besides its value it must keep the graph to the weights of the network."""

    def _examine(self, answer: Callable) -> None:
        super()._examine(answer)
        weight = torch.ones((), requires_grad=True)
        _, x_0, x_1, t = _cast(self.cases(torch.Generator().manual_seed(1))[0], torch.float32)
        value = self._call(answer, (lambda x, t: weight * _waves(x, t), x_0, x_1, t))
        if not value.requires_grad:
            raise Verdict(
                WRONG,
                "The number is right, but it is cut off from the weights of the network: `backward` would find "
                "nothing to differentiate. Leave out `.detach()`, `.data` and `torch.no_grad()`.",
            )


_LOSS = """def answer(u, x_0, x_1, t):
    x_t = (1 - t[:, None]) * x_0 + t[:, None] * x_1
    error = {}
    return {}"""
_ERROR = "u(x_t, t) - (x_1 - x_0)"

flow_matching_loss = _Loss(
    key="basics.flow_matching_loss",
    number="1.5",
    task="complete",
    question=(
        "Now the loss on given draws: `answer(u, x_0, x_1, t)` asks the network `u(x, t)` for its velocity at $X_t$ "
        "and returns the mean square of its error, one number, over all entries of all rows. The shapes are those of "
        "exercise 1.4, and `u` takes `t` of shape `(batch,)`."
    ),
    given="""def answer(u, x_0, x_1, t):
    x_t = ____
    error = ____
    return ____""",
    reference=_LOSS.format(_ERROR, "error.square().mean()"),
    why=(
        "The loss is the mean of $(u_t(X_t)-(X_1-X_0))^2$ over the rows and coordinates of the batch, an estimate of "
        "$\\mathbb E\\|u_t(X_t)-(X_1-X_0)\\|^2$ divided by $d$. A constant factor changes no minimum, and the mean "
        "makes losses of different batch sizes and dimensions comparable."
    ),
    hints=(
        "The network is asked at the point $X_t$ and the time `t`, once for the whole batch.",
        "Its error is what it says less the target $X_1-X_0$.",
        "Square each entry, then take the mean of all: `.square().mean()`.",
    ),
    arguments=("u", "x_0", "x_1", "t"),
    truth=lambda u, x_0, x_1, t: _squared_error(u, x_0, x_1, t),
    wrongs=(
        Wrong(
            _LOSS.format(_ERROR, "error.square().sum()"),
            "This is the sum of the squares. It grows with the batch and with $d$, and the step of the optimiser with "
            "it: take the mean.",
        ),
        Wrong(
            _LOSS.format(_ERROR, "error.square().sum(1).mean()"),
            "You sum over the coordinates and take the mean over the rows: that is $d$ times what is asked for. It has "
            "the same minimum, and is the formula of the text, but here the mean is over all entries.",
        ),
        Wrong(
            _LOSS.format(_ERROR, "error.norm(dim=1).mean()"),
            "`norm` takes the root of each row's sum of squares. The loss is the mean of the squares, without a root.",
        ),
        Wrong(
            _LOSS.format(_ERROR, "error.norm()"),
            "`norm` takes the root of the sum of all squares. The loss is their mean, without a root.",
        ),
        Wrong(
            _LOSS.format(_ERROR, "error.square().mean().sqrt()"),
            "You took a root at the end. The loss is the mean square itself.",
        ),
        Wrong(
            _LOSS.format(_ERROR, "error.abs().mean()"),
            "You took the absolute value where the square belongs. Its minimum is a median, not the mean velocity.",
        ),
        Wrong(
            _LOSS.format(_ERROR, "error.mean()"),
            "The square is missing: errors of opposite signs cancel, and the smallest loss would be minus infinity.",
        ),
        Wrong(
            _LOSS.format(_ERROR, "error.mean().square()"),
            "You took the mean first and squared then, so errors of opposite signs cancel. Square first.",
        ),
        Wrong(
            _LOSS.format("u(x_t, t) - (x_0 - x_1)", "error.square().mean()"),
            "The sign of the target is swapped: the walk goes from $X_0$ to $X_1$, so its velocity is $X_1-X_0$.",
        ),
        Wrong(
            _LOSS.format("u(t[:, None] * x_0 + (1 - t[:, None]) * x_1, t) - (x_1 - x_0)", "error.square().mean()"),
            "In your $X_t$ the times $t$ and $1-t$ are swapped: at $t=0$ it must be $X_0$.",
        ),
        Wrong(
            _LOSS.format("u(x_t, 1 - t) - (x_1 - x_0)", "error.square().mean()"),
            "You tell the network the time $1-t$. The point $X_t$ belongs to the time $t$.",
        ),
        Wrong(
            _LOSS.format("u(x_1, t) - (x_1 - x_0)", "error.square().mean()"),
            "You ask the network at $X_1$. It must be asked at $X_t$, where it will be when it generates.",
        ),
        Wrong(
            _LOSS.format("u(x_0, t) - (x_1 - x_0)", "error.square().mean()"),
            "You ask the network at $X_0$. It must be asked at $X_t$, where it will be when it generates.",
        ),
        Wrong(
            _LOSS.format("u(x_t, t) - x_1", "error.square().mean()"),
            "Your target is $X_1$, where the walk ends. The network is to predict the velocity $X_1-X_0$.",
        ),
    ),
    cases=lambda draw: [(_waves, *case) for case in _pairs(draw)],
    rights=(
        "def answer(u, x_0, x_1, t):\n    column = t.unsqueeze(-1)\n    return torch.nn.functional.mse_loss("
        "u(x_0 + column * (x_1 - x_0), t), x_1 - x_0)",
        "def answer(u, x_0, x_1, t):\n    total = 0\n    for a, b, s in zip(x_0, x_1, t):\n        a, b, s = a[None], "
        "b[None], s[None]\n        total = total + ((b - a) - u((1 - s) * a + s * b, s)).pow(2).mean() / len(t)\n"
        "    return total",
        "def answer(net, x, y, t):\n    z = torch.lerp(x, y, t[:, None])\n    gap = (net(z, t) - y + x).flatten()\n"
        "    return gap @ gap / gap.numel()",
    ),
    other_wrongs=(
        (_LOSS.format(_ERROR, "error.square().mean().detach()"), "cut off from the weights"),
        (_LOSS.format(_ERROR, "error.square().mean().item()"), "a float. It must return a torch tensor"),
        (_LOSS.format(_ERROR, "error.square().mean(1)"), "returns shape (6,), and shape () is expected"),
        (_LOSS.format("u(x_t, t[:, None]) - (x_1 - x_0)", "error.square().mean()"), "and got shape (6, 1)"),
        ("def answer(u, x_0, x_1, t):\n    x_t = (1 - t) * x_0 + t * x_1\n    return x_t", "Write t[:, None]"),
    ),
)


def _squared_error(u: Callable, x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    x_t = (1 - t[:, None]) * x_0 + t[:, None] * x_1
    return (u(x_t, t) - (x_1 - x_0)).square().mean()


def _made(draw: torch.Generator) -> tuple:
    u = SmallNetwork(2, draw)
    x_0, x_1 = (torch.randn(6, 2, generator=draw, dtype=torch.float64) for _ in range(2))
    t = 0.1 + 0.8 * torch.rand(6, generator=draw, dtype=torch.float64)
    return u, torch.optim.SGD(u.parameters(), 0.1), x_0, x_1, t


def _one_step(u: nn.Module, optimizer: torch.optim.Optimizer, x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    loss = _squared_error(u, x_0, x_1, t)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


_STEP = """def answer(u, optimizer, x_0, x_1, t):
    x_t = (1 - t[:, None]) * x_0 + t[:, None] * x_1
    loss = (u(x_t, t) - (x_1 - x_0)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()"""
_BACKWARD = "    loss.backward()\n"

training_step = TrainingStep(
    key="basics.training_step",
    number="1.6",
    task="write",
    question=(
        "One whole training step. `answer(u, optimizer, x_0, x_1, t)` is given a network, its optimiser and one batch "
        "of draws. It computes the loss of exercise 1.5, moves the weights by one step of the optimiser, and returns "
        "the loss. Nothing is drawn inside."
    ),
    given="""def answer(u, optimizer, x_0, x_1, t):
    x_t = ____
    loss = ____
    ____
    return loss.detach()""",
    reference=_STEP,
    why=(
        "The point, the loss, and three lines that are the same in any training: clear the old gradients, compute the "
        "new ones, step. Around it stands only the loop that draws $X_0$, $X_1$ and $t$, so this is all of flow "
        "matching."
    ),
    hints=(
        "Begin as in exercise 1.5: the point $X_t$, then the mean square of `u(x_t, t) - (x_1 - x_0)`.",
        "Gradients add up in PyTorch: clear them with `optimizer.zero_grad()` before `loss.backward()`.",
        "`loss.backward()` computes the gradients, and `optimizer.step()`, after it, moves the weights.",
    ),
    arguments=("u", "optimizer", "x_0", "x_1", "t"),
    make=_made,
    truth=_one_step,
    wrongs=(
        Wrong(
            _STEP.replace("(x_1 - x_0)", "(x_0 - x_1)"),
            "The sign of the target is swapped: the walk goes from $X_0$ to $X_1$, so its velocity is $X_1-X_0$. "
            "A network trained in this way flings its samples outwards.",
        ),
        Wrong(
            _STEP.replace("(1 - t[:, None]) * x_0 + t[:, None] * x_1", "t[:, None] * x_0 + (1 - t[:, None]) * x_1"),
            "In your $X_t$ the times $t$ and $1-t$ are swapped: at $t=0$ it must be $X_0$.",
        ),
        Wrong(
            _STEP.replace("u(x_t, t)", "u(x_t, 1 - t)"),
            "You tell the network the time $1-t$. The point $X_t$ belongs to the time $t$.",
        ),
        Wrong(
            _STEP.replace("(x_1 - x_0)", "x_1"),
            "Your target is $X_1$, where the walk ends. The network is to predict the velocity $X_1-X_0$.",
        ),
        Wrong(
            _STEP.replace(".mean()", ".sum()"),
            "You take the sum of the squares. It grows with the batch and with $d$, and so does the step: take the "
            "mean.",
        ),
        Wrong(
            _STEP.replace(".mean()", ".sum(1).mean()"),
            "You sum over the coordinates, so your step is $d$ times too long. Take the mean over all entries, as in "
            "exercise 1.5.",
        ),
        Wrong(
            _STEP.replace(_BACKWARD, "    (-loss).backward()\n"),
            "You step uphill: the optimiser makes small what you call `backward` on, and that is the loss itself.",
        ),
    ),
    rights=(
        """def answer(u, optimizer, x_0, x_1, t):
    optimizer.zero_grad()
    target = x_1 - x_0
    loss = torch.nn.functional.mse_loss(u(x_0 + t[:, None] * target, t), target)
    loss.backward()
    optimizer.step()
    return loss.item()""",
        """def answer(network, optimizer, start, end, time):
    def closure():
        network.zero_grad()
        gap = network(torch.lerp(start, end, time.unsqueeze(1)), time) + start - end
        value = gap.pow(2).sum() / gap.numel()
        value.backward()
        return value
    return optimizer.step(closure)""",
        """def answer(u, optimizer, x_0, x_1, t):
    x_t = torch.stack([(1 - s) * a + s * b for a, b, s in zip(x_0, x_1, t)])
    loss = sum((row ** 2).mean() for row in u(x_t, t) - (x_1 - x_0)) / len(t)
    weights = list(u.parameters())
    for weight, slope in zip(weights, torch.autograd.grad(loss, weights)):
        weight.grad = slope
    optimizer.step()
    return loss""",
    ),
    other_wrongs=(
        (_STEP.replace("    optimizer.zero_grad()\n", ""), "it begins with the gradient that the first has left"),
        (_STEP.replace(_BACKWARD, ""), "Is loss.backward() missing"),
        (_STEP.replace(_BACKWARD, "").replace("    return", _BACKWARD + "    return"), "no weight has moved"),
        (
            _STEP.replace(_BACKWARD, "").replace("    optimizer.zero", _BACKWARD + "    optimizer.zero"),
            "does zero_grad() stand after it",
        ),
        (_STEP.replace("    optimizer.step()\n", ""), "Is optimizer.step() missing"),
        (_STEP.replace("    return loss.detach()", "    loss.detach()"), "Your step returns None"),
        (_STEP.replace("u(x_t, t)", "u(x_t, t).detach()"), "The loss is cut off from the network"),
        (
            _STEP.replace("    x_t =", "    torch.manual_seed(0)\n    x_t ="),
            "sets the seed of the global random numbers",
        ),
        (_STEP.replace("    x_t =", "    x_0 = torch.randn_like(x_1)\n    x_t ="), "Your step draws random numbers"),
        (_STEP.replace("t[:, None]", "t"), "Write t[:, None]"),
        (_STEP.replace(".square().mean()", ".mean().square()"), "the network is not what it should be"),
    ),
)


sign_of_target = Choice(
    key="basics.sign_of_target",
    number="1.7",
    task="predict",
    question=(
        "Suppose that somebody swaps the sign of the regression target to $X_0-X_1$, trains, and samples as before: "
        "from noise at $t=0$, following the network to $t=1$. What do the samples look like?"
    ),
    options={
        "a": (
            "the two moons, as before",
            "The square in the loss forgets the sign of the *error*, but not that of the target. The network now "
            "learns $-u_t$, every arrow turned round.",
        ),
        "b": (
            "the two moons, turned by half a turn",
            "Turning every arrow round does not turn the place they lead to. The arrows of $u_t$ lead onto the moons; "
            "those of $-u_t$ lead away from them, in all directions.",
        ),
        "c": ("a cloud flung outwards, far away from the moons", ""),
        "d": (
            "the Gaussian noise from which they started",
            "The turned velocity is as fast as the right one, so the points do not stay. Noise is what the network "
            "makes of *moons*, if its clock is turned round as well.",
        ),
    },
    why=(
        "The best network is the mean of the target given $X_t$, which is now $-u_t(X_t)$. Followed from noise it "
        "carries points away from the data, fastest near $t=1$. In a clock that runs from data to noise the same "
        "network is right: the velocity `network(x, 1 - t)` carries the moons to the Gaussian."
    ),
    hints=(
        "The network finds the mean of its target given $X_t$. What is that mean now, in terms of $u_t$?",
        "It is $-u_t$. Where does $u_t$ point at a place near the moons, at $t$ close to 1? And $-u_t$?",
    ),
)


class _Witness(nn.Module):
    """A small network that keeps what it is asked, in `seen`."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.seen = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if not isinstance(t, Tensor) or t.shape != x.shape[:1]:
            raise ValueError(f"u takes t of shape ({len(x)},)")
        self.seen.append((x.detach().clone(), t.detach().clone()))
        return x @ self.matrix + t[:, None] * self.shift


def _replayed(seen: list, x_1: Tensor, rate: float, sign: int = 1, clear: bool = True) -> list[Tensor]:
    """The weights of a witness that was trained on what another one has seen, by the right loop or one of two others.

    sign: of the target. clear: whether gradients are cleared before each step.
    """
    u = _Witness()
    optimizer = torch.optim.SGD(u.parameters(), rate)
    for x_t, t in seen:
        x_0 = _noise_of(x_t, t, x_1)
        loss = (u(x_t, t) - sign * (x_1 - x_0)).square().mean()
        if clear:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [weight.detach() for weight in u.parameters()]


def _noise_of(x_t: Tensor, t: Tensor, x_1: Tensor) -> Tensor:
    return (x_t - t[:, None] * x_1) / (1 - t[:, None])


def _alike(tensors: list[Tensor]) -> bool:
    return all(torch.allclose(a, tensors[0], atol=1e-9) for a in tensors[1:])


def _is_stale(call: Callable) -> str:
    """What is wrong with a training loop, told from what its network was asked and from the weights that it left."""
    steps, rate = 4, 0.1
    x_1 = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u = _Witness()
    call(u, torch.optim.SGD(u.parameters(), rate), x_1, steps)
    seen, weights = list(u.seen), [weight.detach() for weight in u.parameters()]
    if len(seen) != steps:
        times = f"{len(seen)} time{'s' * (len(seen) != 1)}"
        return f"With steps = {steps} your loop asks the network {times}. Each step asks it once."
    if any(x.shape != x_1.shape for x, _ in seen):
        return f"The network is given points of shape {tuple(seen[0][0].shape)}, and x_1 has {tuple(x_1.shape)}."
    if all(not weight.any() for weight in weights):
        return "The loop leaves the weights as they were. Every step needs `backward`, and after it `optimizer.step`."
    noises, same_t = [_noise_of(x, t, x_1) for x, t in seen], _alike([t for _, t in seen])
    if not same_t and _alike(noises):
        return (
            "Every step still uses the same noise: each data point meets one and the same partner for ever. Which line "
            "must run in each step, and stands before the loop?"
        )
    if same_t:
        return "Now every step uses the same times. Each step draws a $t$ of its own, inside the loop."
    right, turned, uncleared = (
        _replayed(seen, x_1, rate, **mistake) for mistake in ({}, {"sign": -1}, {"clear": False})
    )
    if _alike_weights(weights, right):
        return ""
    if _alike_weights(weights, turned):
        return "Fresh noise in each step is right, but the sign of the target has changed: it is $X_1-X_0$."
    if _alike_weights(weights, uncleared):
        return "The gradients of earlier steps are still there: `optimizer.zero_grad()` belongs into each step."
    return (
        "The noise is fresh in each step, but the weights are not those that this noise gives. The point "
        "$X_t=(1-t)X_0+tX_1$ and the target $X_1-X_0$ must use the same draw, and nothing else was wrong: undo what "
        "you changed besides."
    )


def _alike_weights(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in zip(ours, theirs, strict=True))


_DRAW = "    x_0 = torch.randn_like(x_1)\n"
_STALE = """def answer(u, optimizer, x_1, steps):
    x_0 = torch.randn_like(x_1)
    for _ in range(steps):
        t = torch.rand(len(x_1))
        x_t = (1 - t[:, None]) * x_0 + t[:, None] * x_1
        loss = (u(x_t, t) - (x_1 - x_0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.detach()"""
_FRESH = _STALE.replace(_DRAW, "").replace("        t = ", "    " + _DRAW + "        t = ")

stale_noise = Property(
    key="basics.stale_noise",
    number="1.8",
    task="find the bug",
    question=(
        "Somebody trains on a fixed data set `x_1`, all of it in every step. The loop runs, and nothing looks odd. But "
        "one line stands in the wrong place. Put it right, and change nothing else."
    ),
    given=_STALE,
    reference=_FRESH,
    why=(
        "With the noise drawn once, before the loop, each data point has one partner for ever. The network is fitted "
        "to those few pairs, not to the law of all pairs. The loss does not tell: it comes out lower, since this task "
        "is easier. Every step needs fresh $X_0$ and fresh $t$."
    ),
    hints=(
        "Compare with `train` above, line by line: what does it do anew in each step?",
        "Three things enter the loss besides the network: $X_0$, $X_1$ and $t$. Which of them are drawn in each step?",
    ),
    arguments=("u", "optimizer", "x_1", "steps"),
    examine=_is_stale,
    rights=(
        """def answer(u, optimizer, x_1, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        x_0, t = torch.randn(x_1.shape, dtype=x_1.dtype), torch.rand(x_1.shape[0], dtype=x_1.dtype)
        x_t = torch.lerp(x_0, x_1, t[:, None])
        loss = torch.nn.functional.mse_loss(u(x_t, t), x_1 - x_0)
        loss.backward()
        optimizer.step()
    return loss.detach()""",
        """def answer(u, optimizer, data, steps):
    column = torch.rand(steps, len(data), dtype=data.dtype)
    for t, noise in zip(column, torch.randn(steps, *data.shape, dtype=data.dtype)):
        error = u(noise + t[:, None] * (data - noise), t) + noise - data
        loss = error.pow(2).sum() / error.numel()
        for weight, slope in zip(u.parameters(), torch.autograd.grad(loss, list(u.parameters()))):
            weight.grad = slope
        optimizer.step()
    return loss.detach()""",
        """def answer(u, optimizer, x_1, steps):
    def draws():
        for _ in range(steps):
            yield torch.empty_like(x_1).normal_(), torch.empty(len(x_1)).uniform_()
    for x_0, t in draws():
        target = x_1 - x_0
        loss = (u(x_0 + t[:, None] * target, t) - target).square().mean()
        u.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.detach()""",
    ),
    other_wrongs=(
        (_STALE.replace("        t = ", "        t = 1.0 * "), "Every step still uses the same noise"),
        (
            _FRESH.replace("        t = torch.rand(len(x_1))\n", "").replace(
                "    for", "    t = torch.rand(len(x_1))\n    for"
            ),
            "Now every step uses the same times",
        ),
        (_FRESH.replace("(x_1 - x_0)", "(x_0 - x_1)"), "the sign of the target has changed"),
        (_FRESH.replace("        optimizer.zero_grad()\n", ""), "belongs into each step"),
        (_FRESH.replace("        optimizer.step()\n", ""), "leaves the weights as they were"),
        (_FRESH.replace("(1 - t[:, None]) * x_0 + t[:, None] * x_1", "t[:, None] * x_0"), "not those that this noise"),
        (_FRESH.replace("    return loss.detach()", "    loss.detach()"), "returns None. Is a `return` missing"),
        (_FRESH.replace("range(steps)", "range(steps + 1)"), "asks the network 5 times"),
    ),
)

half_turn = Number(
    key="basics.half_turn",
    number="1.9",
    task="predict",
    question=(
        "Make the paired data a half turn, $X_1=-0.7X_0$. At which time $t$ do all pairs meet in one point? Answer "
        "with a number between 0 and 1, rounded to two decimals, or with a fraction such as `1 / 3`."
    ),
    reference="answer = 1 / 1.7",
    expected=1 / 1.7,
    within=0.006,
    wrongs=(
        Wrong(
            "answer = 0.5",
            "Half-way would be right for $X_1=-X_0$, with both ends equally far from the origin. Here the start is "
            "farther away than the end, so reaching the origin takes more than half of the time.",
        ),
        Wrong(
            "answer = 0.7",
            "At $t=0.7$ the factor of $X_0$ is $0.3-0.49$: it has changed its sign already. Find the $t$ where it is "
            "0.",
        ),
        Wrong(
            "answer = 0.41",
            "This is 0.7 / 1.7, the share of the way *behind* the origin. The walk begins on the other side, with 1 of "
            "1.7 to go.",
        ),
        Wrong("answer = 1", "At $t=1$ the pairs are at $X_1=-0.7X_0$, spread out again. They meet before that."),
        Wrong("answer = 1.7", "A time lies between 0 and 1. You have the factor $1-1.7t$; at which $t$ is it zero?"),
        Wrong("answer = 0", "At $t=0$ each pair is at its own $X_0$. They meet later."),
    ),
    otherwise="Write X_t as a factor times X_0, and ask when that factor is zero.",
    why=(
        "$X_t=(1-t)X_0-0.7tX_0=(1-1.7t)X_0$, which is zero for every pair at $t=1/1.7=0.588$. There the "
        "place tells nothing about the pair, and one velocity cannot serve all of them: the velocity can only be "
        "the average over all pairs. A smooth network cannot send different points through one point and out again."
    ),
    hints=(
        "Put $X_1=-0.7X_0$ into $X_t=(1-t)X_0+tX_1$ and collect the factor of $X_0$.",
        "The factor is $1-1.7t$. When is it zero?",
    ),
    rights=("answer = 0.59", "answer = torch.tensor(10 / 17)"),
)
