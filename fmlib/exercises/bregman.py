"""Exercises of notebook 3, Bregman losses."""

from collections.abc import Callable

import torch
from torch import Tensor

from fmlib.exercises._questions import Choice, Property

symmetric_pair = Choice(
    key="bregman.symmetric_pair",
    number="3.1",
    task="predict",
    question=(
        "Two of the six divergences are symmetric, $D(u,v)=D(v,u)$. Which? Ask yourself what $\\nabla^2\\Phi$ must be "
        "like."
    ),
    options={
        "a": ("squared and Mahalanobis", ""),
        "b": (
            "squared and generalised KL",
            "The squared error is one of them. KL is not: the control above has KL(1, 3) = 0.90 and KL(3, 1) = 1.30.",
        ),
        "c": (
            "binary and softmax cross-entropy",
            "They treat the classes alike, which is another symmetry. Target and prediction play different parts: a "
            "confident wrong prediction costs without limit, an undecided one does not.",
        ),
        "d": (
            "squared and Itakura-Saito",
            "The squared error is one of them. Itakura-Saito depends on the ratio u / v only, but not in a symmetric "
            "way: D = r - log r - 1 is 0.31 for r = 2 and 0.19 for r = 1/2.",
        ),
    },
    after="Check with `loss(u, v) - loss(v, u)` on random points.",
    reference='answer = "a"',
    why=(
        "Near the diagonal D(u, v) is half the square of u - v measured with the curvature of the potential, and a "
        "divergence that is symmetric everywhere needs a constant Hessian. So the potential is quadratic up to linear "
        "terms, which cancel: x^T A x, with the squared error for A = I."
    ),
    hints=(
        "D(u, v) measures with the Hessian of the potential between u and v. If the Hessian changes from place to "
        "place, the two directions differ.",
        "Which two of the potentials in the table have a constant Hessian?",
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
    number="3.2",
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
        "Log-sum-exp grows by exactly c when c is added to every coordinate: along (1, ..., 1) it is a straight line, "
        "and a straight line has no gap above its tangent. Any term that is convex, and strictly so in that direction, "
        "gives D(u, v) > 0 for all u other than v. (The sine is convex where it is negative: with both points there "
        "fmlib has nothing to object to.)"
    ),
    hints=(
        "Along which direction is log-sum-exp a straight line? Compare logsumexp(x) with logsumexp(x + 7).",
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

huge_delta = Choice(
    key="bregman.huge_delta",
    number="3.3",
    task="break it",
    question=(
        "Huber with `delta=0.1` fails, as it should. Make `delta` larger than any possible residual, here 1, and run "
        "sections 3.2 and 3.3 again. Which claim is the first to stop you?"
    ),
    options={
        "a": (
            "`squared: the two gradients agree`",
            "Only Huber's loss was changed. The squared error is computed by its own line and agrees as before.",
        ),
        "b": ("`control, Huber: they differ`", ""),
        "c": (
            "`control, Huber: slope bends`",
            "It fails as well, but it stands in section 3.3. Section 3.2 has a control of Huber's gradient that comes "
            "first.",
        ),
        "d": (
            "none: Huber's loss is not Bregman, whatever `delta` is",
            "The name is the same, but on residuals below delta the loss is half the square, and it is tested on no "
            "others.",
        ),
    },
    after="Try it. Why is that good news, and was it still Huber's loss? Undo the change.",
    reference='answer = "b"',
    why=(
        "Targets and predictions lie in the triangle, so no residual is larger than 1, and Huber's loss with delta = "
        "1 is half the squared error there: a Bregman divergence. Its gradients agree, so the control that expects "
        "them to differ fails. That is good news: the test answers to what the loss does, not to its name."
    ),
    hints=(
        "What is Huber's loss for a residual smaller than delta?",
        "So it is now a Bregman loss in disguise. Which claim expects it to fail, and comes first?",
    ),
)

smaller_majority = Choice(
    key="bregman.smaller_majority",
    number="3.4",
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
            "At t = 0 every median does point to the first blob. But as t grows the place tells more and more, and "
            "points near the other blobs still turn to them.",
        ),
        "d": (
            "it is too small now: the two others win, with 0.6 together",
            "They do not act together. In the first coordinate one of them sides with the largest blob, in the second "
            "the other does.",
        ),
    },
    after=(
        "Then change `weights`, run from section 3.2, and compare each flow's share of the largest blob with the true "
        "one. (The claims about 0.55 may stop you.)"
    ),
    reference='answer = "b"',
    why=(
        "At t = 0 the conditional law is the whole target. Its first coordinate is low for the blobs of weight 0.4 and "
        "0.3, the second too, so both medians are low with 0.7 against 0.3, and the median points to the largest blob "
        "although that holds only 0.4. Following the exact median gives it about 0.6 of the mass, where it gave 0.8 "
        "instead of 0.55 before."
    ),
    hints=(
        "At t = 0 the conditional law is the target itself. The blobs sit at (0.17, 0.17), (0.17, 0.53), (0.53, 0.17).",
        "How much probability has a first coordinate near 0.17? And a second one? So where is the median?",
    ),
)

one_hot_targets = Choice(
    key="bregman.one_hot_targets",
    number="3.5",
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
    reference='answer = "b"',
    why=(
        "The conditional mean of the one-hot vector is the posterior p, and the squared error, a Bregman divergence, "
        "finds it. The expected absolute error of a prediction v is the sum of p_k + v_k (1 - 2 p_k), linear in v; "
        "with the v_k summing to 1 it is least when all mass is on the largest p_k. So it answers with a class, not "
        "with probabilities."
    ),
    hints=(
        "Which vector is the conditional mean of a one-hot vector? And is the squared error a Bregman divergence?",
        "For entry k the expected absolute error is p_k (1 - v_k) + (1 - p_k) v_k. Sum it over k, with the v_k summing "
        "to 1.",
    ),
)
