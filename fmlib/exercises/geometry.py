"""Exercises of notebook 8, geometry."""

import torch
from torch import Tensor

from fmlib.exercises._questions import Choice, Function, Wrong
from fmlib.manifolds import Sphere

one_step = Choice(
    key="geometry.one_step",
    number="8.1",
    task="predict",
    question=(
        "The clouds are triangles, in any direction and with their points numbered in any order; noise and data are "
        "drawn independently. Take the *exact* velocity $u$, start from noise, and make a single Euler step from $t=0$ "
        "to $t=1$. What does each cloud become?"
    ),
    options={
        "a": (
            "a blurred triangle, in a direction of its own",
            "A blurred triangle has a direction, which the first velocity would have to know. At $t=0$ it knows "
            "nothing: $u_0(x)=\\mathbb E[X_1]-x$, and every direction is as likely as any other.",
        ),
        "b": (
            "the template, in one direction for all clouds",
            "A velocity that turns with the cloud cannot prefer a direction: for turned noise the result would have "
            "to be the turned template.",
        ),
        "c": ("a single point, the same for all clouds", ""),
        "d": (
            "a circle's worth of points: each point keeps its angle and takes the triangle's distance from the centre",
            "That would be the nearest ring. But the first velocity is a mean over all poses, and the mean of a point "
            "that may be anywhere on a ring is the ring's centre.",
        ),
    },
    after="Then open the box.",
    why=(
        "At $t=0$ source and target are independent, so $u_0(x)=\\mathbb E[X_1]-x$. The mean of the data turns with "
        "every turn and so is zero: one step from $x$ leads to $x+u_0(x)=0$, for all three points of all clouds. "
        "Symmetric data are as hard as data can be for a single step of the independent coupling."
    ),
    hints=(
        "What is the velocity at $t=0$, where $X_0$ is known and nothing about $X_1$?",
        "$u_0(x)=\\mathbb E[X_1]-x$. What is the mean of a cloud over all its turns?",
    ),
)


def _clouds(draw: torch.Generator) -> list[tuple]:
    first = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]], dtype=torch.float64)
    cases = [(first, torch.tensor([[[0.0, 1.0], [-2.0, 0.0]]], dtype=torch.float64))]  # a quarter of a turn
    for shape in [(40, 3, 2), (1, 5, 2), (7, 2, 2)]:
        cases.append(tuple(torch.randn(2, *shape, generator=draw, dtype=torch.float64)))
    return cases


def _turned(x_0: Tensor, x_1: Tensor) -> Tensor:
    """The best rotation from a singular value decomposition (Kabsch 1976), not a reflection."""
    u, _, v = torch.linalg.svd(x_0.mT @ x_1)
    flip = torch.ones(len(x_0), 2, dtype=x_0.dtype)
    flip[:, 1] = torch.linalg.det(u @ v).sign()
    return x_0 @ (u * flip[:, None]) @ v


_TURN = """def answer(x_0, x_1):
    z_0, z_1 = torch.view_as_complex(x_0), torch.view_as_complex(x_1)
    s = {}
    turned = {}
    return torch.view_as_real(turned)"""
_SUM, _BY = "(z_0.conj() * z_1).sum(1, keepdim=True)", "z_0 * s / s.abs()"

best_turn = Function(
    key="geometry.best_turn",
    number="8.2",
    task="write",
    question=(
        "Turn each source cloud to its target cloud. `x_0` and `x_1` have shape `(n, m, 2)`: `n` pairs of clouds with "
        "`m` points each. Return `x_0` with cloud `i` turned about the origin by its own angle $\\theta_i$, the one "
        "that makes $\\sum_k\\|x_{0,ik}-x_{1,ik}\\|^2$ smallest. With the points as complex numbers a turn multiplies "
        "by $e^{i\\theta}$, and the angle of $s=\\sum_k\\overline{z_{0,k}}\\,z_{1,k}$ is the best one. Below, your "
        "function draws a figure."
    ),
    given=_TURN.format("____", "____"),
    reference=_TURN.format(_SUM, _BY),
    why=(
        "The cost is $\\sum_k|e^{i\\theta}z_{0,k}-z_{1,k}|^2 = "
        "\\sum|z_0|^2+\\sum|z_1|^2-2\\,\\mathrm{Re}(e^{-i\\theta}s)$, which is smallest where $e^{-i\\theta}s$ "
        "is real and positive: $e^{i\\theta}=s/|s|$. One number a cloud, no singular "
        "value decomposition, and a mirror image cannot slip in."
    ),
    hints=(
        "`z_0.conj() * z_1` has shape `(n, m)`. Over which of the two axes does the sum of $s$ run?",
        "Keep that axis, `keepdim=True`, so that `s` has shape `(n, 1)` and goes with `z_0`.",
        "$e^{i\\theta}=s/|s|$, and `s.abs()` is $|s|$. Multiply `z_0` by it.",
    ),
    arguments=("x_0", "x_1"),
    truth=_turned,
    wrongs=(
        Wrong(
            _TURN.format("(z_0 * z_1.conj()).sum(1, keepdim=True)", _BY),
            "You turn the other way: the conjugate stands on the wrong cloud. In $s=\\sum\\overline{z_0}z_1$ the angle "
            "of the source is taken away from that of the target.",
        ),
        Wrong(
            _TURN.format(_SUM, "z_0 * s"),
            "You turn rightly, and stretch as well: $s$ has a length. A turn multiplies by a number of length one, "
            "$s/|s|$.",
        ),
        Wrong(
            _TURN.format("(z_0 * z_1).sum(1, keepdim=True)", _BY),
            "A conjugate is missing. $z_0z_1$ adds the two angles; you need their difference, $\\overline{z_0}z_1$.",
        ),
        Wrong(
            _TURN.format("(z_0.conj() * z_1).sum()", _BY),
            "You take one angle for all clouds: the sum runs over the whole batch. Each cloud has its own, so sum "
            "over its points only.",
        ),
        Wrong(
            _TURN.format("(z_0.conj() * z_1)[:, :1]", _BY),
            "You turn the first point into the direction of its partner, and leave the others to chance. Sum over all "
            "points.",
        ),
        Wrong(
            _TURN.format("z_0.conj() * z_1", _BY),
            "You turn every point by an angle of its own, so the cloud is bent. One angle a cloud: sum over its points "
            "first.",
        ),
        Wrong(
            _TURN.format("(z_0.conj() * z_1).sgn().sum(1, keepdim=True)", _BY),
            "You average the directions of the points, near and far alike. In the cost a point counts by its distance "
            "from the origin: sum $\\overline{z_0}z_1$ as it is.",
        ),
        Wrong(
            _TURN.format(
                "(z_0.conj() * z_1).angle().mean(1, keepdim=True)", "z_0 * torch.polar(torch.ones_like(s), s)"
            ),
            "You average angles. They jump by a full turn from one side to the other, so their mean means nothing: add "
            "the complex numbers, and take the angle of the sum.",
        ),
        Wrong(
            _TURN.format(_SUM, "z_1 * s.conj() / s.abs()"),
            "You turn the target to the source. The target stays where it is: conditions belong to it.",
        ),
        Wrong(
            "def answer(x_0, x_1):\n    u, _, v = torch.linalg.svd(x_0.mT @ x_1)\n    return x_0 @ u @ v",
            "This is the singular value decomposition without its sign: where it helps, it takes a *mirror image*. A "
            "left hand is no right hand, so the determinant must be one.",
        ),
    ),
    cases=_clouds,
    rights=(
        _TURN.format("torch.einsum('nk,nk->n', z_0.conj(), z_1)", "z_0 * s.sgn()[:, None]"),
        "def answer(x_0, x_1):\n    dot = (x_0 * x_1).sum((1, 2))\n    cross = (x_0[..., 0] * x_1[..., 1] - x_0[..., "
        "1] * x_1[..., 0]).sum(1)\n    a = torch.atan2(cross, dot)[:, None]\n    x, y = x_0.unbind(2)\n    return "
        "torch.stack([a.cos() * x - a.sin() * y, a.sin() * x + a.cos() * y], 2)",
        "def answer(a, b):\n    u, _, v = torch.linalg.svd(a.mT @ b)\n    d = torch.linalg.det(u @ v)\n    "
        "s = torch.stack([torch.ones_like(d), d], 1)\n    return a @ (u * s[:, None]) @ v",
    ),
    other_wrongs=(
        (_TURN.format("(z_0.conj() * z_1).sum(1)", _BY), "must match the size"),
        (_TURN.format(_SUM, _BY).replace("torch.view_as_real(turned)", "turned"), "complex numbers"),
        ("def answer(x_0, x_1):\n    return x_0", "expected is"),
    ),
)


def _points(draw: torch.Generator) -> list[tuple]:
    """Pairs apart by anything between a hundredth and three quarters of a turn's half."""
    cases = []
    for n, d in [(30, 3), (1, 2), (6, 5)]:
        x, v = torch.randn(2, n, d, generator=draw, dtype=torch.float64)
        x = x / x.norm(dim=1, keepdim=True)
        v = v - (x * v).sum(1, keepdim=True) * x
        far = 0.01 + 2.9 * torch.rand(n, 1, generator=draw, dtype=torch.float64)
        cases.append((x, far.cos() * x + far.sin() * v / v.norm(dim=1, keepdim=True)))
    return cases


_LOG = """def answer(x, y):
    cosine = (x * y).sum(1, keepdim=True)
    across = {}
    sine = across.norm(dim=1, keepdim=True)
    angle = {}
    return {}"""
_ACROSS, _ANGLE, _RESULT = "y - cosine * x", "torch.atan2(sine, cosine)", "angle * across / sine"

log_on_sphere = Function(
    key="geometry.log_on_sphere",
    number="8.3",
    task="write",
    question=(
        "Write the logarithm on the sphere: `answer(x, y)` takes points of shape `(n, d + 1)` with "
        "$\\|x\\|=\\|y\\|=1$, no two of them antipodes, and returns $\\log_x(y)$: the vector that is tangent at $x$, "
        "points along the shortest way to $y$, and is as long as that way, the angle $\\theta$ between them. `cosine` "
        "is $\\langle x,y\\rangle$. Below, your function draws a figure."
    ),
    given=_LOG.format("____", "____", "____"),
    reference=_LOG.format(_ACROSS, _ANGLE, _RESULT),
    why=(
        "$P_xy=y-\\langle x,y\\rangle x$ is tangent and has the length $\\sin\\theta$, so "
        "$\\log_x(y)=\\theta\\,P_xy/\\sin\\theta$. The angle from sine *and* cosine is right for every $\\theta$; "
        "the arc cosine alone would do here, and loses all digits near $x$ (see below)."
    ),
    hints=(
        "The part of $y$ that is tangent at $x$: take the part along $x$ away.",
        "`across` has length $\\sin\\theta$. `torch.atan2(sine, cosine)` gives the angle.",
        "Make `across` a unit vector, and multiply it by the angle.",
    ),
    arguments=("x", "y"),
    truth=lambda x, y: _log(x, y),
    wrongs=(
        Wrong(
            _LOG.format(_ACROSS, _ANGLE, "across"),
            "This is $P_xy$: tangent, and in the right direction, but its length is $\\sin\\theta$. A quarter of a "
            "turn and three quarters of half a turn would be nearly as far. Scale it to the length $\\theta$.",
        ),
        Wrong(
            _LOG.format(_ACROSS, _ANGLE, "across / sine"),
            "This is the direction alone, a vector of length 1. Its length must be the way to $y$, $\\theta$.",
        ),
        Wrong(
            _LOG.format(_ACROSS, _ANGLE, "y - x"),
            "This is the chord, the straight way through the sphere: not tangent, and too short.",
        ),
        Wrong(
            _LOG.format(_ACROSS, _ANGLE, "angle * (y - x) / (y - x).norm(dim=1, keepdim=True)"),
            "The length is right, the direction is that of the chord, which leaves the sphere. Use the tangent part of "
            "$y$.",
        ),
        Wrong(
            _LOG.format(_ACROSS, _ANGLE, "angle * across"),
            "You multiply by $\\theta$ and forget that `across` has length $\\sin\\theta$ already: divide by it.",
        ),
        Wrong(
            _LOG.format(_ACROSS, "torch.asin(sine.clamp(max=1))", _RESULT),
            "The arc sine gives at most a quarter of a turn: points further away would come nearer again. The cosine "
            "tells the two sides apart.",
        ),
        Wrong(
            _LOG.format(_ACROSS, "torch.atan2(cosine, sine)", _RESULT),
            "`torch.atan2` takes the sine first. As it stands you have $\\pi/2-\\theta$: zero for a quarter of a turn.",
        ),
        Wrong(
            _LOG.format("x - cosine * y", _ANGLE, _RESULT),
            "This is $\\log_y(x)$: tangent at $y$, and pointing to $x$. Exchange the two.",
        ),
        Wrong(
            _LOG.format("cosine * x - y", _ANGLE, _RESULT),
            "A sign is lost: this leads away from $y$, the same distance in the opposite direction.",
        ),
        Wrong(
            _LOG.format(_ACROSS, "(y - x).norm(dim=1, keepdim=True)", _RESULT),
            "The direction is right, but the length is that of the chord, $2\\sin(\\theta/2)$: shorter than the way "
            "along the sphere.",
        ),
        Wrong(
            _LOG.format(_ACROSS, "torch.atan(sine / cosine)", _RESULT),
            "$\\theta=\\arctan(\\sin/\\cos)$ holds up to a quarter of a turn; beyond, the cosine is negative and the "
            "angle comes out negative. `torch.atan2(sine, cosine)` knows the signs.",
        ),
        Wrong(
            _LOG.format(_ACROSS, _ANGLE, "angle * y"),
            "A tangent at $x$ has no part along $x$, and $\\theta y$ has. Use `across`.",
        ),
    ),
    cases=_points,
    rights=(
        _LOG.format(_ACROSS, "torch.acos(cosine.clamp(-1, 1))", _RESULT),
        "def answer(x, y):\n    angle = 2 * torch.atan2((y - x).norm(dim=1), (y + x).norm(dim=1))[:, None]\n"
        "    return angle / angle.sin() * (y - angle.cos() * x)",
        "def answer(p, q):\n    tangent = torch.stack([b - (a @ b) * a for a, b in zip(p, q)])\n"
        "    unit = torch.nn.functional.normalize(tangent)\n"
        "    return torch.arccos((p * q).sum(1)).unsqueeze(1) * unit",
    ),
    other_wrongs=(
        (_LOG.format(_ACROSS, _ANGLE, "angle"), "is expected"),
        (_LOG.format("y - x * (x * y)", _ANGLE, _RESULT), "expected is"),
    ),
)


def _log(x: Tensor, y: Tensor) -> Tensor:
    """The tangent at x that leads to y, as long as the angle between them, which is twice that of y - x and y + x."""
    far = 2 * torch.atan2((y - x).norm(dim=1, keepdim=True), (y + x).norm(dim=1, keepdim=True))
    return far / far.sin() * (y - far.cos() * x)


class _Sphere(Sphere):
    def __repr__(self) -> str:
        return "sphere"


def _walks(draw: torch.Generator) -> list[tuple]:
    cases = []
    for x_0, x_1 in _points(draw):
        t = 0.05 + 0.9 * torch.rand(len(x_0), generator=draw, dtype=torch.float64)
        cases.append((_Sphere(), x_0, x_1, t))
    return cases


def _walked(sphere: Sphere, x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    """The geodesic by the sines of its angles, and its derivative."""
    far, t = torch.acos((x_0 * x_1).sum(1, keepdim=True)), t[:, None]
    x_t = (((1 - t) * far).sin() * x_0 + (t * far).sin() * x_1) / far.sin()
    velocity = far * ((t * far).cos() * x_1 - ((1 - t) * far).cos() * x_0) / far.sin()
    return torch.cat([x_t, velocity], 1)


_TARGET = """def answer(sphere, x_0, x_1, t):
    t = t[:, None]
    x_t = sphere.exp(x_0, t * sphere.log(x_0, x_1))
    velocity = {}
    return torch.cat([x_t, velocity], 1)"""

target_at_start = Function(
    key="geometry.target_at_start",
    number="8.4",
    task="find the bug",
    question=(
        "This is the training batch of a flow on the sphere: the point $x_t$ on the geodesic, and the velocity that a "
        "network shall learn there, side by side. The loss falls, at $t=0$ everything is right, and yet the samples "
        "are not. One line is wrong. Put it right, and change nothing else. (`t` has shape `(n,)`, between 0 and 1.)"
    ),
    given=_TARGET.format("sphere.log(x_0, x_1)"),
    reference=_TARGET.format("sphere.log(x_t, x_1) / (1 - t)"),
    why=(
        "The velocity of the geodesic at $x_0$ is tangent at $x_0$. The network is asked at $x_t$, where that vector "
        "sticks out of the sphere: on a curved space a vector belongs to a place. From $x_t$ the rest of the way is "
        "$\\log_{x_t}(x_1)$, to be walked in the time $1-t$ that is left. In flat space both are $x_1-x_0$, which "
        "hides the mistake."
    ),
    hints=(
        "At which point is each of the two vectors of the batch meant to be tangent?",
        "The network is asked at `x_t`. Which way is still to go from there, and in which time?",
    ),
    arguments=("sphere", "x_0", "x_1", "t"),
    truth=_walked,
    wrongs=(
        Wrong(
            _TARGET.format("1 * sphere.log(x_0, x_1)"),
            "This is still the velocity at the start, $\\log_{x_0}(x_1)$, tangent at $x_0$ and not at $x_t$.",
        ),
        Wrong(
            _TARGET.format("sphere.log(x_t, x_1)"),
            "The direction is right now. But this is the way that is left, and only $1-t$ of the time is left for it.",
        ),
        Wrong(
            _TARGET.format("sphere.tangent(x_t, sphere.log(x_0, x_1))"),
            "Projected to the tangent space at $x_t$ it points the right way, but has lost length: the factor is "
            "$\\cos t\\theta$. The speed along a geodesic is constant.",
        ),
        Wrong(
            _TARGET.format("sphere.log(x_t, x_1) / t"),
            "You divide by the time that has gone. The way to $x_1$ is to be walked in the time that is left, $1-t$.",
        ),
        Wrong(
            _TARGET.format("sphere.log(x_0, x_1) / (1 - t)"),
            "You still start from $x_0$, and run faster and faster besides. From $x_t$ the way left is "
            "$\\log_{x_t}(x_1)$.",
        ),
        Wrong(
            _TARGET.format("(x_1 - x_t) / (1 - t)"),
            "This is the velocity of the straight line through the sphere. It is not tangent at $x_t$.",
        ),
        Wrong(
            _TARGET.format("sphere.tangent(x_t, x_1 - x_t) / (1 - t)"),
            "The chord, projected: tangent, and in the right direction, but its length is $\\sin$ of the angle that is "
            "left, not the angle.",
        ),
        Wrong(
            _TARGET.format("sphere.log(x_t, x_0) / t"),
            "This points back to the source. With a minus it would be right.",
        ),
        Wrong(
            _TARGET.format("-sphere.log(x_t, x_0)"),
            "The direction is right: away from the source. But this is the way that has been gone in the time $t$, so "
            "divide by $t$.",
        ),
        Wrong(
            _TARGET.format("sphere.log(x_1, x_t) / (1 - t)"),
            "This is tangent at $x_1$, where the walk ends, and points back. The first argument of the logarithm is "
            "the place where you stand.",
        ),
        Wrong(
            _TARGET.format("sphere.log(x_t, x_1) * (1 - t)"),
            "You multiply where you should divide: near the end little way and little time are left, and the speed "
            "stays.",
        ),
    ),
    cases=_walks,
    rights=(
        _TARGET.format("-sphere.log(x_t, x_0) / t"),
        _TARGET.format(
            "(lambda v: v * (sphere.distance(x_0, x_1) / v.norm(dim=1))[:, None])(sphere.tangent(x_t, x_1))"
        ),
        "def answer(sphere, x_0, x_1, t):\n    far, t = sphere.distance(x_0, x_1)[:, None], t[:, None]\n"
        "    e = sphere.log(x_0, x_1) / far\n    a = t * far\n"
        "    return torch.cat([a.cos() * x_0 + a.sin() * e, far * (a.cos() * e - a.sin() * x_0)], 1)",
    ),
    other_wrongs=(
        (_TARGET.format("sphere.log(x_t, x_1) / (1 - t)").replace("t * sphere", "t**2 * sphere"), "expected is"),
    ),
)

half_the_step = Choice(
    key="geometry.half_the_step",
    number="8.5",
    task="predict",
    question=(
        "Follow the exact velocity on the sphere with steps $x\\leftarrow\\exp_x(h\\,u_t(x))$. Every step runs along a "
        "geodesic and ends on the sphere to the last digit. Now halve $h$. What becomes of the error at the end?"
    ),
    options={
        "a": (
            "there is no error to speak of: the exponential map is exact",
            "It is exact for a velocity that stays the same along the geodesic. The velocity of a flow turns and "
            "changes with time within a step, and the step does not look.",
        ),
        "b": ("it is halved", ""),
        "c": (
            "it becomes a quarter",
            "That is order 2, which takes a look at the middle of the step. This step evaluates $u$ once, at its "
            "start.",
        ),
        "d": (
            "it stays: all that is left comes from the network",
            "There is no network here, and no step of a finite length follows a curve exactly.",
        ),
    },
    after="Then open the box, and compare with a step that leaves the sphere and is brought back.",
    why=(
        "It is Euler's method: the velocity at the start is kept for the whole step, which is wrong by $O(h)$ at its "
        "end, curved space or not. The exponential map removes the error *normal* to the sphere, which a projection "
        "removes as well, and nothing of the error along it."
    ),
    hints=(
        "How often does a step evaluate the velocity, and where?",
        "What does Euler's method do in flat space, where $\\exp_x(v)=x+v$ is exact too?",
    ),
)

jump = Choice(
    key="geometry.jump",
    number="8.6",
    task="predict",
    question=(
        "Walk along a line on the torus at a fixed time, past a few dozen data points, and note the exact marginal "
        "velocity at 500, 5000, 50000 places. What becomes of the largest difference between neighbours?"
    ),
    options={
        "a": (
            "it falls by ten each time: the velocity is smooth",
            "That is what it does on the sphere. There a geodesic's end is never lost at once: the density of the "
            "walkers to a data point goes to zero at the edge of where they can be.",
        ),
        "b": (
            "it falls, like the root of the spacing",
            "So it would be for a rough path. The velocity here is a mean over the data points whose walkers can be at "
            "$x$: what happens when one of them drops out?",
        ),
        "c": ("it stays: the velocity jumps", ""),
        "d": (
            "it grows: the velocity is unbounded at this time",
            "Each data point pulls with at most $\\pi\\sqrt2$ in the time that is left. A mean of bounded vectors is "
            "bounded.",
        ),
    },
    after="Then open the box.",
    why=(
        "Walkers to $x_1$ leave from everywhere, go the shorter way round, and at time $t$ fill a *box* about $x_1$ of "
        "half the width $\\pi(1-t)$, evenly up to its edge. Cross that edge and $x_1$ drops out of the mean at full "
        "weight: a jump, however fine you look. On the sphere the walkers thin out towards the edge."
    ),
    hints=(
        "At time $t$ the walkers to $x_1$ are at $x_1+(1-t)w$ with $w$ uniform on $[-\\pi,\\pi)^2$. What does their "
        "density look like?",
        "Along the line, which data points does the mean run over, and with which weights?",
    ),
)
