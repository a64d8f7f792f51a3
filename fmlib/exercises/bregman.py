"""Exercises of notebook 3, Bregman losses."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fmlib.exercises._questions import WRONG, Choice, Function, Property, Verdict, Wrong, _cast


@dataclass(kw_only=True, repr=False)
class _Differentiable(Function):
    """A function whose value must also have the right gradient.

    slopes(call): what is wrong with the gradient, or "", where `call(*arguments)` is the answer that keeps its graph.
    """

    slopes: Callable[[Callable[..., Tensor]], str]

    def _examine(self, answer: Callable) -> None:
        super()._examine(answer)
        problem = self.slopes(lambda *arguments: self._call(answer, arguments))
        if problem:
            raise Verdict(WRONG, problem)


class _Named:
    """A function that shows its name alone: what a learner prints of it is the same every time.

    >>> _Named(_by_hand)
    by_hand
    """

    def __init__(self, function: Callable[..., Tensor]):
        self.function = function

    def __call__(self, *arguments) -> Tensor:
        return self.function(*arguments)

    def __repr__(self) -> str:
        return self.function.__name__.strip("_")


@_Named
def _quartic(x: Tensor) -> Tensor:
    return (x.square().sum(-1) + 0.5) ** 2


@_Named
def _exponential(x: Tensor) -> Tensor:
    return x.exp().sum(-1)


@_Named
def _entropy(x: Tensor) -> Tensor:
    return (x * x.log() - x).sum(-1)


SLOPES = {  # the gradients of the potentials, by hand
    _quartic: lambda x: 4 * (x.square().sum(-1, keepdim=True) + 0.5) * x,
    _exponential: torch.exp,
    _entropy: torch.log,
}


def _by_hand(phi: Callable[[Tensor], Tensor], u: Tensor, v: Tensor) -> Tensor:
    return phi(u) - phi(v) - ((u - v) * SLOPES[phi](v)).sum(-1)


def _two_points(draw: torch.Generator) -> list[tuple]:
    cases = [(_quartic, torch.tensor([[2.0, 1.0]]).double(), torch.tensor([[1.0, 1.0]]).double())]
    for phi, shape in [(_exponential, (6, 2)), (_quartic, (5, 3)), (_entropy, (4, 1)), (_entropy, (3, 7))]:
        u, v = torch.randn(2, *shape, generator=draw, dtype=torch.float64)
        cases.append((phi, u.exp(), v.exp()) if phi is _entropy else (phi, u, v))
    return cases


def _moves_with_v(call: Callable[..., Tensor]) -> str:
    u, v = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    v.requires_grad_()
    value = call(_exponential, u, v).sum()
    slope = torch.autograd.grad(value, v, allow_unused=True)[0] if value.requires_grad else None
    if slope is None:
        return (
            "The values are right, but they are cut off from v: a network that gave v would get no gradient. Leave out "
            "`.detach()` where v requires gradients already."
        )
    if not slope.abs().max() > 1e-9:
        return (
            "The values are right, but their gradient in v is zero, so a network trained with them would never move. "
            "The slope of the tangent depends on v as well: ask for it with `create_graph=True`."
        )
    if not torch.allclose(slope, -(v.exp() * (u - v)).detach(), rtol=1e-7, atol=1e-9):
        return (
            "The values are right, but their gradient in v is not. It must be minus the second derivatives of the "
            "potential at v, times u - v."
        )
    return ""


_DIVERGENCE = """def answer(phi, u, v):
    v = v if v.requires_grad else v.detach().requires_grad_()
    slope = torch.autograd.grad(phi({0}).sum(), {0}, create_graph=True)[0]
    tangent = {1}
    return {2}"""
_TANGENT = "phi(v) + ((u - v) * slope).sum(-1)"


def _divergence_of(at: str = "v", tangent: str = _TANGENT, value: str = "phi(u) - tangent") -> str:
    return _DIVERGENCE.format(at, tangent, value)


class _Divergence(_Differentiable):
    def _prepare(self) -> None:
        one = torch.ones(1, requires_grad=True)
        torch.autograd.grad(one * one, one, torch.ones(1))  # with an outer gradient torch first loads much, in seconds

    def _explain(self, error: BaseException, answer: Callable, arguments: tuple) -> str:
        text = super()._explain(error, answer, arguments)
        if "does not require grad" in text:
            text += "\nThe slope is that of phi at v: the first line prepares v for it, and v only."
        return text


divergence = _Divergence(
    key="bregman.divergence",
    number="3.1",
    task="complete",
    question=(
        "Write it, for any potential. `phi` is a function: it takes points of shape `(batch, d)` and returns $\\Phi$ "
        "of each row, of shape `(batch,)`. `u` and `v` have shape `(batch, d)`; return $D(u,v)$ for each row, of shape "
        "`(batch,)`. Autograd finds the slope: `torch.autograd.grad(phi(v).sum(), v, create_graph=True)[0]` is "
        "$\\nabla\\Phi$ at every row of `v`. (The sum over the rows mixes nothing, as each $\\Phi$ knows only its own "
        "row. The first line makes sure that `v` can be differentiated in, and `create_graph` that the slope can, too: "
        "later a network will be behind `v`.)"
    ),
    given="""def answer(phi, u, v):
    v = v if v.requires_grad else v.detach().requires_grad_()
    slope = ____    # the gradient of phi at v: (batch, d)
    tangent = ____  # the height of the tangent of v above u: (batch,)
    return ____""",
    reference=_divergence_of(),
    why=(
        "The tangent at $v$ has at $u$ the height $\\Phi(v)+\\langle u-v,\\nabla\\Phi(v)\\rangle$, and the "
        "divergence is what $\\Phi(u)$ has above that. The inner product is a sum over the coordinates, one for each "
        "row. In $v$ the gradient is $-\\nabla^2\\Phi(v)\\,(u-v)$, and it needs the slope to be differentiated in its "
        "turn."
    ),
    hints=(
        "The slope is the call of `torch.autograd.grad` in the question.",
        "A tangent begins at height $\\Phi(v)$ and rises by $\\langle u-v,\\nabla\\Phi(v)\\rangle$ on the way to $u$.",
        "The inner product of each row is `((u - v) * slope).sum(-1)`.",
    ),
    arguments=("phi", "u", "v"),
    truth=_by_hand,
    slopes=_moves_with_v,
    cases=_two_points,
    wrongs=(
        Wrong(
            _divergence_of("u").replace("(phi, u, v):", "(phi, u, v):\n    u = u.detach().requires_grad_()"),
            "You take the slope at u, and the tangent touches the potential at v. What you return is minus $D(v,u)$.",
        ),
        Wrong(
            "def answer(phi, u, v):\n    u = u.detach().requires_grad_()\n"
            "    slope = torch.autograd.grad(phi(u).sum(), u)[0]\n"
            "    return phi(v) - phi(u) - ((v - u) * slope).sum(-1)",
            "This is $D(v,u)$, with the arguments swapped. The tangent touches at v, and the gap is measured at u.",
        ),
        Wrong(
            _divergence_of(tangent="phi(v) - ((u - v) * slope).sum(-1)"),
            "A sign is wrong: your tangent runs backwards. On the way from v to u it rises by "
            "$\\langle u-v,\\nabla\\Phi(v)\\rangle$.",
        ),
        Wrong(
            _divergence_of(value="tangent - phi(u)"),
            "This is minus the divergence. A convex function lies above its tangents: subtract the height of the "
            "tangent from $\\Phi(u)$.",
        ),
        Wrong(
            _divergence_of(tangent="((u - v) * slope).sum(-1)"),
            "Your tangent begins at height 0. It touches the potential at v, so it begins at $\\Phi(v)$.",
        ),
        Wrong(
            _divergence_of(tangent="phi(v) + (u * slope).sum(-1)"),
            "From v the tangent goes the way $u-v$, not $u$: multiply the slope by the difference.",
        ),
        Wrong(
            _divergence_of(tangent="phi(v)"),
            "This is the difference of two heights, $\\Phi(u)-\\Phi(v)$. Subtract what the tangent at v rises by.",
        ),
        Wrong(
            _divergence_of(tangent="phi(v) + ((u - v) * slope).mean(-1)"),
            "The inner product is the *sum* over the coordinates. You took their mean, which is d times too small.",
        ),
        Wrong(
            _divergence_of(tangent="phi(v) + ((u - v) * slope).sum()"),
            "You sum the inner products of all rows. Each row has a tangent of its own: sum over the last dimension.",
        ),
        Wrong(
            _divergence_of(value="(phi(u) - tangent).sum()"),
            "You return one number for the whole batch. Each row is a pair of points with a divergence of its own.",
        ),
    ),
    rights=(
        """def answer(phi, u, v):
    v = v if v.requires_grad else v.clone().requires_grad_()
    here = phi(v)
    slope, = torch.autograd.grad(here, v, torch.ones_like(here), create_graph=True)
    return torch.einsum("bi,bi->b", slope, v - u) - (here - phi(u))""",
        """def answer(phi, u, v):
    s = torch.zeros(len(v), dtype=v.dtype, requires_grad=True)
    along = phi(v + s[:, None] * (u - v))
    (rise,) = torch.autograd.grad(along.sum(), s, create_graph=True)
    return phi(u) - along - rise""",
        """def answer(potential, target, point):
    gaps = []
    for a, b in zip(target, point):
        b = b if b.requires_grad else b.clone().requires_grad_()
        height = potential(b[None])[0]
        (slope,) = torch.autograd.grad(height, b, create_graph=True)
        gaps.append(potential(a[None])[0] - height + slope @ (b - a))
    return torch.stack(gaps)""",
    ),
    other_wrongs=(
        (_divergence_of("u"), "the first line prepares v for it"),
        (_divergence_of().replace(", create_graph=True", ""), "gradient in v is zero"),
        (_divergence_of().replace("v = v if v.requires_grad else ", "v = "), "cut off from v"),
        (_divergence_of(value="(phi(u) - tangent).detach()"), "cut off from v"),
        (_divergence_of(tangent="phi(v) + (u - v) * slope"), "must match the size of tensor"),
        (_divergence_of(value="2 * (phi(u) - tangent)"), "expected is"),
        (_divergence_of(value="(phi(u) - tangent)[:, None]"), "and shape (1,) is expected"),
    ),
)

symmetric_pair = Choice(
    key="bregman.symmetric_pair",
    number="3.2",
    task="predict",
    question=(
        "Two of the six divergences are symmetric, $D(u,v)=D(v,u)$. Which? Ask yourself what $\\nabla^2\\Phi$ must be "
        "like."
    ),
    options={
        "a": ("squared and Mahalanobis", ""),
        "b": (
            "squared and generalised KL",
            "The squared error is one of them. KL is not: the control above has $D(3,1)=1.30$ and $D(1,3)=0.90$.",
        ),
        "c": (
            "binary and softmax cross-entropy",
            "They treat the classes alike, which is another symmetry. Target and prediction play different parts: a "
            "confident wrong prediction costs without limit, an undecided one does not.",
        ),
        "d": (
            "squared and Itakura-Saito",
            "The squared error is one of them. Itakura-Saito depends on the ratio $r=u/v$ only, but not in a symmetric "
            "way: $D=r-\\log r-1$ is 0.31 for $r=2$ and 0.19 for $r=1/2$.",
        ),
    },
    after="Decide first, then open what the next cell shows.",
    why=(
        "Near the diagonal $D(u,v)$ is half the square of $u-v$ measured with the curvature of the potential, and a "
        "divergence that is symmetric everywhere needs a constant Hessian $\\nabla^2\\Phi$. So the potential is "
        "quadratic up to linear terms, which cancel: $x^\\top Ax$, with the squared error for $A=I$."
    ),
    hints=(
        "$D(u,v)$ measures with the second derivatives of the potential between $u$ and $v$. If they change from place "
        "to place, the two directions differ.",
        "Which two of the potentials in the table have constant second derivatives?",
    ),
)


def _divergence(call: Callable[..., Tensor], u: Tensor, v: Tensor) -> Tensor:
    v = v.clone().requires_grad_()
    phi = call(v)
    (slope,) = torch.autograd.grad(phi.sum(), v)
    return (call(u) - phi - ((u - v) * slope).sum(1)).detach()


def _strictly_convex(call: Callable[..., Tensor]) -> str:
    """What is wrong with the potential `call`, or "". Its divergence must be positive between any two points."""
    draw = torch.Generator().manual_seed(1)
    for d in (2, 3, 5):
        u, v = torch.randn(2, 200, d, generator=draw, dtype=torch.float64)
        for dtype in (torch.float32, torch.float64):
            phi = call(u.to(dtype))
            if phi.shape != (200,):
                return (
                    f"For x of shape (200, {d}) your potential has shape {tuple(phi.shape)}, and (200,) is expected: "
                    "one number for each row. Sum your term over dimension 1, as in .sum(1)."
                )
            if not torch.isfinite(phi).all():
                return "Your potential is NaN or infinite at some points. It must be finite for every real x."
            if phi.dtype != dtype:
                return f"For {str(dtype)[6:]} input your potential returns {str(phi.dtype)[6:]}. Keep the dtype."
        if not torch.allclose(call(u[:7]), phi[:7]):
            return (
                "Your potential mixes the rows: each is a point of its own. Sum over dimension 1, not over the batch."
            )
        if not call(v.clone().requires_grad_()).requires_grad:
            return "PyTorch cannot differentiate your potential. Use torch functions only, no .item() or .detach()."
        # Log-sum-exp is flat along (1, ..., 1), so look there on purpose; all points once far out, once near.
        steps = torch.tensor([1.0, -1.0, 7.0, -7.0]).double().repeat(50)[:, None]
        diagonal = 1 + v[:, :1].abs().expand_as(v)
        pairs = [(a, a + steps.abs(), "shift") for a in (v + 3, diagonal)] + [(v, v + steps, "shift"), (u, v, "pair")]
        for a, b, kind in pairs:
            value = _divergence(call, b, a)
            rounding = 64 * torch.finfo(torch.float64).eps * (call(a).abs() + call(b).abs() + 1)
            if (value < -rounding).any():
                return (
                    "For some u and v the divergence is negative: your term bends downwards, so the sum is not convex. "
                    "Add a term that bends upwards in every direction."
                )
            if (value <= rounding).any():
                return (
                    "D(u, u + c) is still 0 for some shift c of all coordinates: your term has no curvature in that "
                    "direction, in which log-sum-exp is a straight line. A constant or a linear term cancels in the "
                    "definition, and an absolute value is straight on each side of 0."
                    if kind == "shift"
                    else "D(u, v) is 0 for some u that differs from v: the potential is not strictly convex."
                )
    return _straight(call)


def _straight(call: Callable[..., Tensor]) -> str:
    """Where the potential `call` is straight, or "".

    In one dimension log-sum-exp is x itself, so the second derivative is that of the added term alone, down to rounding
    at 1: below -30 that would hide even exp. Strict convexity forbids that it vanishes on an interval.
    """
    for low in range(-30, 300, 5):
        x = (low + torch.linspace(0, 5, 21).double())[:, None].requires_grad_()
        (slope,) = torch.autograd.grad(call(x).sum(), x, create_graph=True)
        bend = torch.autograd.grad(slope.sum(), x, allow_unused=True)[0] if slope.requires_grad else None
        if bend is None or bend.max() < 1e-14:
            return (
                f"For single numbers x from {low} to {low + 5} your term is a straight line, at least to the digits of "
                "float64, so D(u, v) is 0 for different u and v there. Strictly convex means curved everywhere, far "
                "from 0 too: choose a term whose curvature does not end."
            )
        if bend.min() < -1e-12:
            return f"For single numbers x from {low} to {low + 5} your term bends downwards, so it is not convex."
    return ""


_POTENTIAL = "def answer(x):\n    return x.logsumexp(1) + {}"

strictly_convex = Property(
    key="bregman.strictly_convex",
    number="3.3",
    task="complete",
    question=(
        "Log-sum-exp is convex. Its divergence, `losses.Bregman(lambda x: x.logsumexp(1))`, passes `bend`, and yet "
        "$D(u,u+7)=0$: it cannot tell $u$ from $u$ with the same number added to every coordinate, so it is no "
        "legitimate loss. Convex is less than *strictly* convex. Add a term to the potential that mends it. `x` has "
        "shape `(batch, d)`, the potential has shape `(batch,)`, and there are many right answers."
    ),
    after=(
        "Last, try `losses.Bregman(lambda x: x.sin().sum(1))` on points of your choice: what does `fmlib` say, and is "
        "there a pair of points on which it keeps silent? *Hint: where is the sine convex?*"
    ),
    given=_POTENTIAL.format("____"),
    reference=_POTENTIAL.format("0.1 * x.square().sum(1)"),
    why=(
        "Log-sum-exp grows by exactly $c$ when $c$ is added to every coordinate: along $(1,\\dots,1)$ it is a straight "
        "line, and a straight line has no gap above its tangent. Any term that is convex, and strictly so in that "
        "direction, gives $D(u,v)>0$ for all $u$ other than $v$. (The sine is convex where it is negative: with both "
        "points there `fmlib` has nothing to object to.)"
    ),
    hints=(
        "Along which direction is log-sum-exp a straight line? Compare its value at `x` with that at `x + 7`.",
        "Your term must bend upwards in that direction. Constants and linear terms do not bend at all.",
        "The simplest potential that bends upwards in every direction is the square, summed over dimension 1.",
    ),
    arguments=("x",),
    examine=_strictly_convex,
    rights=(
        _POTENTIAL.format("x.pow(2).sum(1)"),
        _POTENTIAL.format("1e-9 * x.square().sum(1)"),
        _POTENTIAL.format("(1 + x.square()).sqrt().sum(1)"),
        _POTENTIAL.format("x.pow(4).sum(1)"),
        _POTENTIAL.format("x.mean(1) ** 2"),
        _POTENTIAL.format("x.exp().sum(1)"),
        "def answer(x):\n    return torch.log(torch.exp(x).sum(dim=1)) + torch.einsum('bi,bi->b', x, x)",
    ),
    other_wrongs=(
        (_POTENTIAL.format("1"), "no curvature in that direction"),
        (_POTENTIAL.format("x.sum(1)"), "no curvature in that direction"),
        (_POTENTIAL.format("torch.relu(x + 12).square().sum(1)"), "from -30 to -25"),
        (_POTENTIAL.format("torch.relu(100 - x).square().sum(1)"), "from 100 to 105"),
        (
            _POTENTIAL.format("torch.nn.functional.huber_loss(x, 0 * x, 'none', 30.0).sum(1)"),
            "from 30 to 35 your term is a straight line",
        ),
        (_POTENTIAL.format("(x - x.mean(1, keepdim=True)).square().sum(1)"), "no curvature in that direction"),
        (_POTENTIAL.format("x.abs().sum(1)"), "an absolute value is straight"),
        (_POTENTIAL.format("x.norm(dim=1)"), "no curvature in that direction"),
        (_POTENTIAL.format("-x.square().sum(1)"), "bends downwards"),
        (_POTENTIAL.format("x.square().sum()"), "mixes the rows"),
        (_POTENTIAL.format("x.square().sum(1, keepdim=True)"), "one number for each row"),
        (
            "def answer(x):\n    return torch.tensor([r.square().sum().item() for r in x], dtype=x.dtype)",
            "differentiate",
        ),
        (_POTENTIAL.format("x.log().sum(1)"), "NaN or infinite"),
    ),
)


@_Named
def _asked(x: Tensor, t: Tensor) -> Tensor:
    """A network in which both the place and the time count."""
    if not isinstance(t, Tensor) or t.shape != x.shape[:1]:
        came = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
        raise ValueError(f"network takes t of shape ({len(x)},), and got {came}")
    return torch.cos(2 * x) + t[:, None] * x - t[:, None]


@_Named
def _quartic_divergence(u: Tensor, v: Tensor) -> Tensor:
    return _by_hand(_quartic, u, v)


@_Named
def _exponential_divergence(u: Tensor, v: Tensor) -> Tensor:
    return _by_hand(_exponential, u, v)


def _pairs(draw: torch.Generator, *before: Callable) -> list[tuple]:
    cases = []
    for shape in [(6, 2), (1, 1), (5, 3)]:
        x_0, x_1 = torch.randn(2, *shape, generator=draw, dtype=torch.float64)
        t = 0.1 + 0.8 * torch.rand(shape[0], generator=draw, dtype=torch.float64)
        cases.append((*before, _asked, x_0, x_1.tanh(), t))
    return cases


def _reaches_the_weights(call: Callable[..., Tensor], case: tuple) -> str:
    """case: the arguments, of which `_asked` is the network."""
    weight = torch.ones((), requires_grad=True)
    case = _cast(case, torch.float32)
    value = call(*((lambda x, t: weight * _asked(x, t)) if a is _asked else a for a in case))
    if not value.requires_grad:
        return (
            "The number is right, but it is cut off from the weights of the network: `backward` would find nothing to "
            "differentiate. Leave out `.detach()`, `.item()` and `torch.no_grad()`."
        )
    return ""


_CONDITIONAL = """def answer(D, network, x_0, x_1, t):
    x_t = {}
    prediction = {}
    return {}"""
_X_T = "(1 - t[:, None]) * x_0 + t[:, None] * x_1"


def _conditional(x_t: str = _X_T, prediction: str = "network(x_t, t)", value: str = "D(x_1, prediction).mean()") -> str:
    return _CONDITIONAL.format(x_t, prediction, value)


def _mean_divergence(D: Callable, network: Callable, x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    return D(x_1, network(torch.lerp(x_0, x_1, t[:, None]), t)).mean()


conditional_loss = _Differentiable(
    key="bregman.conditional_loss",
    number="3.4",
    task="complete",
    question=(
        "Write the loss whose minimiser is the conditional mean $\\mathbb E[X_1\\mid X_t]$, whichever divergence "
        "you are given. `D(u, v)` returns a number for each row, `network(x, t)` a prediction of $X_1$ for each row. "
        "Walk from `x_0` to `x_1`, ask the network on the way, and return the mean of the divergences, one number. "
        "`x_0` and `x_1` have shape `(batch, d)`, `t` has shape `(batch,)`. Which argument of $D$ is the target?"
    ),
    given="""def answer(D, network, x_0, x_1, t):
    x_t = ____
    prediction = ____
    return ____""",
    reference=_conditional(),
    why=(
        "The target $X_1$ is drawn, so it must be the argument in which the slope is affine: the first. Then the mean "
        "over all $X_1$ that lead through the same $X_t$ passes to the inside, and the least loss is at "
        "$\\mathbb E[X_1\\mid X_t]$ for every Bregman divergence."
    ),
    hints=(
        "The walk is $X_t=(1-t)X_0+tX_1$; `t[:, None]` makes the times a column.",
        "The network is asked at `x_t` and `t`, and what it returns stands for $X_1$ itself, not for a velocity.",
        "The drawn target comes first in $D$, the network's output second. Then take the mean over the rows.",
    ),
    arguments=("D", "network", "x_0", "x_1", "t"),
    truth=_mean_divergence,
    slopes=lambda call: _reaches_the_weights(
        call, _pairs(torch.Generator().manual_seed(1), _exponential_divergence)[0]
    ),
    cases=lambda draw: [*_pairs(draw, _quartic_divergence), *_pairs(draw, _exponential_divergence)],
    wrongs=(
        Wrong(
            _conditional(value="D(prediction, x_1).mean()"),
            "The arguments of D are swapped. With the network first the slope is not affine in the target, and the "
            "minimiser is another kind of mean: for KL the geometric one.",
        ),
        Wrong(
            _conditional(value="D(x_1 - x_0, prediction).mean()"),
            "Your target is the velocity $X_1-X_0$. Here the network predicts $X_1$ itself.",
        ),
        Wrong(
            _conditional("t[:, None] * x_0 + (1 - t[:, None]) * x_1"),
            "In your $X_t$ the times $t$ and $1-t$ are swapped: at $t=0$ it must be $X_0$.",
        ),
        Wrong(
            _conditional(prediction="network(x_1, t)"),
            "You ask the network at $X_1$, which it is to predict. It must be asked at $X_t$.",
        ),
        Wrong(
            _conditional(prediction="network(x_0, t)"),
            "You ask the network at $X_0$. It must be asked at $X_t$, where it will be when it generates.",
        ),
        Wrong(
            _conditional(prediction="network(x_t, 1 - t)"),
            "You tell the network the time $1-t$. The point $X_t$ belongs to the time $t$.",
        ),
        Wrong(
            _conditional(value="D(x_1, prediction).sum()"),
            "This is the sum over the batch, and it grows with the batch. Take the mean.",
        ),
        Wrong(
            _conditional(value="(x_1 - prediction).square().sum(1).mean()"),
            "This is the squared error, one divergence of many. Use the `D` that you are given.",
        ),
        Wrong(
            _conditional(value="D(x_t, prediction).mean()"),
            "Your target is $X_t$, which the network is told already. It is to predict where the walk ends, $X_1$.",
        ),
        Wrong(
            _conditional(value="D(x_1.mean(0).expand_as(x_1), prediction).mean()"),
            "You put the mean of the batch in the place of the targets. The mean that is wanted is the one *given* "
            "$X_t$, and nobody needs to compute it: each row has its own drawn target.",
        ),
    ),
    rights=(
        """def answer(D, network, x_0, x_1, t):
    return D(x_1, network(torch.lerp(x_0, x_1, t[:, None]), t)).mean()""",
        """def answer(divergence, model, noise, data, time):
    column = time.unsqueeze(-1)
    each = divergence(data, model(noise + column * (data - noise), time))
    return each.sum() / len(each)""",
        """def answer(D, network, x_0, x_1, t):
    rows = [D(b[None], network(((1 - s) * a + s * b)[None], s[None])) for a, b, s in zip(x_0, x_1, t)]
    return torch.cat(rows).mean()""",
    ),
    other_wrongs=(
        (_conditional(value="D(x_1, prediction).mean().detach()"), "cut off from the weights"),
        (_conditional(value="D(x_1, prediction)"), "returns shape (6,), and shape () is expected"),
        (_conditional(prediction="network(x_t, t[:, None])"), "got (6, 1)"),
        (_conditional("(1 - t) * x_0 + t * x_1"), "Write t[:, None]"),
        (_conditional(value="D(x_1, prediction).square().mean()"), "expected is"),
    ),
)

smaller_majority = Choice(
    key="bregman.smaller_majority",
    number="3.5",
    task="predict",
    question=(
        "Give the blobs weights 0.4, 0.3 and 0.3 in place of 0.55, 0.30 and 0.15. What does the L1 flow do to the "
        "share of the largest blob? (Recall that the median is taken in each coordinate separately. What is it at "
        "$t=0$?)"
    ),
    options={
        "a": (
            "it is right now, since no blob holds more than half of the mass",
            "In the plane that would be a good argument, if a median saw blobs. It sees one coordinate at a time, and "
            "in each the first blob shares its low value with another: together they hold 0.7.",
        ),
        "b": ("it is still too large, by about 0.2 as before", ""),
        "c": (
            "it is too large, and all mass ends up there",
            "At $t=0$ every median does point to the first blob. But as $t$ grows the place tells more and more, and "
            "points near the other blobs still turn to them.",
        ),
        "d": (
            "it is too small now: the two others win, with 0.6 together",
            "They do not act together. In the first coordinate one of them sides with the largest blob, in the second "
            "the other does.",
        ),
    },
    after="Decide first, then open what the next cell shows.",
    why=(
        "At $t=0$ the conditional law is the whole target. Its first coordinate is low for the blobs of weight 0.4 and "
        "0.3, the second too, so both medians are low with 0.7 against 0.3, and the median points to the largest blob "
        "although that holds only 0.4. Following the exact median gives it about 0.2 more than its share, as it did at "
        "the weights before."
    ),
    hints=(
        "At $t=0$ the conditional law is the target itself. In $y$ the blobs sit at $(0.17,0.17)$, $(0.17,0.53)$ and "
        "$(0.53,0.17)$.",
        "How much probability has a first coordinate near 0.17? And a second one? So where is the median?",
    ),
)


_TWICE = """def answer(network, x_0, x_1, t):
    y = {y}
    x_t = {x_t}
    p = network(x_t, t){link}
    return torch.nn.functional.{loss}"""
_LOGITS, _PROBABILITIES = "binary_cross_entropy_with_logits(p, y)", "binary_cross_entropy(p, y)"


def _binary(link: str = ".sigmoid()", loss: str = _PROBABILITIES, y: str = "(x_1 + 1) / 2", x_t: str = _X_T) -> str:
    return _TWICE.format(link=link, loss=loss, y=y, x_t=x_t)


def _cross_entropy(network: Callable, x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    z, y = network(torch.lerp(x_0, x_1, t[:, None]), t), (x_1 + 1) / 2
    return (torch.nn.functional.softplus(z) - y * z).mean()


sigmoid_twice = _Differentiable(
    key="bregman.sigmoid_twice",
    number="3.6",
    task="find the bug",
    question=(
        "The pixels `x_1` lie in $[-1,1]$, the network's outputs are logits, and the sampler takes their sigmoid for "
        "$\\hat y$. The loss below runs and falls. But $\\hat y$ comes out nearly black or nearly white, where the "
        "conditional mean is grey. Put it right, and change nothing else."
    ),
    given=_binary(loss=_LOGITS),
    reference=_binary("", _LOGITS),
    why=(
        "The function with logits in its name takes a sigmoid itself, so this code takes it twice. What is least at "
        "the mean $m$ is the sigmoid of *what it is given*, so $p$ goes for the logit of $m$, cut to $[0,1]$: black "
        "for every $m$ below $1/2$, white from 0.73 on. Give it the logits, or take the version for "
        "probabilities."
    ),
    hints=(
        "Follow one number: what does the network return, and what does each of the next two steps make of it?",
        "`binary_cross_entropy_with_logits(z, y)` is `binary_cross_entropy(z.sigmoid(), y)`.",
        "How many sigmoids lie between the network and the loss, and how many does the sampler take?",
    ),
    arguments=("network", "x_0", "x_1", "t"),
    truth=_cross_entropy,
    slopes=lambda call: _reaches_the_weights(call, _pairs(torch.Generator().manual_seed(1))[0]),
    cases=_pairs,
    wrongs=(
        Wrong(
            _binary(".sigmoid().sigmoid()"),
            "There are still two sigmoids between the network and the target, whichever function takes the second one. "
            "The sampler takes one: so must the loss.",
        ),
        Wrong(
            _binary("", "binary_cross_entropy_with_logits(y, p)"),
            "One sigmoid is right, but target and prediction have changed places. In PyTorch the prediction comes "
            "first, as it did.",
        ),
        Wrong(
            _binary("", _LOGITS, y="x_1"),
            "One sigmoid is right, but your target is now `x_1`, which is negative where the pixel is dark. "
            "Cross-entropy needs the intensity `y` in $[0,1]$.",
        ),
        Wrong(
            _binary("", "mse_loss(p.sigmoid(), y)"),
            "This is the squared error. It has the right minimiser, but the loss was to stay cross-entropy: only the "
            "second sigmoid is wrong.",
        ),
        Wrong(
            _binary("", _LOGITS, x_t="t[:, None] * x_0 + (1 - t[:, None]) * x_1"),
            "One sigmoid is right, but $X_t$ has changed: at $t=0$ it must be $X_0$.",
        ),
        Wrong(
            _binary("", "binary_cross_entropy_with_logits(p, y, reduction='sum')"),
            "One sigmoid is right, but the mean has become a sum. Change nothing else.",
        ),
    ),
    rights=(
        _binary(),
        """def answer(network, x_0, x_1, t):
    y = 0.5 * x_1 + 0.5
    z = network(torch.lerp(x_0, x_1, t[:, None]), t)
    return -(y * torch.nn.functional.logsigmoid(z) + (1 - y) * torch.nn.functional.logsigmoid(-z)).mean()""",
        """def answer(model, noise, data, time):
    x = noise + time.unsqueeze(1) * (data - noise)
    two = torch.stack([model(x, time), torch.zeros_like(x)]).log_softmax(0)
    return -(two[0] * (1 + data) / 2 + two[1] * (1 - data) / 2).mean()""",
    ),
    other_wrongs=(
        (_binary("", _LOGITS).replace("(p, y)", "(p, y).detach()"), "cut off from the weights"),
        (_binary("", _PROBABILITIES), "between 0 and 1"),
        (_binary(".logit()", _LOGITS), "NaN or infinity"),
        (_binary("", _LOGITS).replace("    p =", "    q ="), "name 'p' is not defined"),
    ),
)

one_hot_targets = Choice(
    key="bregman.one_hot_targets",
    number="3.7",
    task="predict",
    question=(
        "A colleague trains a classifier $p(\\text{class}\\mid x_t)$ with the squared error between the softmax output "
        "and the one-hot vector; another one with the absolute error. Suppose no class has more than half of the "
        "probability. What do the two find?"
    ),
    options={
        "a": (
            "both the posterior: on one-hot vectors the two losses are the same",
            "They agree at the corners of the simplex, but a prediction lies inside. There the slope of the absolute "
            "error does not depend on how far the prediction is off, so its minimiser is not the mean.",
        ),
        "b": ("the squared error the posterior, the absolute error the one-hot vector of the most probable class", ""),
        "c": (
            "the squared error the posterior, the absolute error the zero vector",
            "Zero is the median of each entry, and without the softmax it would be found. But a softmax output sums to "
            "1, and under that constraint the mass goes where it costs least.",
        ),
        "d": (
            "neither the posterior: only cross-entropy finds it",
            "Cross-entropy is one Bregman divergence on the simplex, the squared error is another. Each has the "
            "conditional mean of the one-hot vector as its minimiser, and that is the posterior.",
        ),
    },
    why=(
        "The conditional mean of the one-hot vector is the posterior $p$, and the squared error, a Bregman divergence, "
        "finds it. The expected absolute error of a prediction $v$ is $\\sum_kp_k+v_k(1-2p_k)$, linear in $v$; with "
        "the $v_k$ summing to 1 it is least when all mass is on the largest $p_k$. So it answers with a class, not "
        "with probabilities."
    ),
    hints=(
        "Which vector is the conditional mean of a one-hot vector? And is the squared error a Bregman divergence?",
        "For entry $k$ the expected absolute error is $p_k(1-v_k)+(1-p_k)v_k$. Sum it over $k$, with the $v_k$ summing "
        "to 1.",
    ),
)
