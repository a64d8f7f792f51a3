"""Bregman divergences: the losses under which conditional flow matching has the gradient of flow matching.

D(u, v) = Phi(u) - Phi(v) - <u - v, grad Phi(v)> for a strictly convex potential Phi (Bregman 1967). In v its gradient
is affine in u, so a random target u may be replaced by its conditional mean, and the minimiser of
E D(Y, g(X)) is g(X) = E[Y given X] (Banerjee et al. 2005, "On the Optimality of Conditional Expectation as a Bregman
Predictor", theorem 1; Lipman et al. 2024, proposition 1). The target comes first, the network second.

| loss(target u, prediction) | D(u, v), a sum over coordinates | targets | predictions |
|---|---|---|---|
| `squared` | (u - v)^2 | real | v, real |
| `mahalanobis(matrix)` | (u - v)^T A (u - v) | real | v, real |
| `generalised_kl` | u log(u / v) - u + v | at least 0 | v, positive |
| `itakura_saito` | u / v - log(u / v) - 1 | positive | v, positive |
| `logistic` | u log(u / v) + (1 - u) log((1 - u) / (1 - v)) | in [0, 1] | logits of v, real |
| `softmax_cross_entropy` | u log(u / v) | sum to 1 along the last axis | logits of v, real |

The last two are cross-entropies minus the entropy of the target, so that D(u, u) = 0; for the targets 0 and 1 and for
one-hot targets they are the cross-entropies themselves. `generalised_kl` is the loss for rates of jumps, (batch,
states): integrated over time the KL divergence of two processes of jumps, in which a conditional rate may stand for its
posterior mean.

>>> u, v = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 1.0]])
>>> squared(u, v), generalised_kl(u, v), itakura_saito(u, v)  # 1, 2 log 2 - 1, 1 - log 2
(tensor(1.), tensor(0.3863), tensor(0.3069))
>>> logistic(torch.tensor([[1.0]]), torch.zeros(1, 1)), softmax_cross_entropy(torch.eye(2), torch.zeros(2, 2))  # log 2
(tensor(0.6931), tensor(0.6931))
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.special import xlogy

from fmlib import _validate


class Domain(NamedTuple):
    """Where a divergence is defined: `contains` maps a tensor to booleans, for each value or row; `text` says it."""

    contains: Callable[[Tensor], Tensor]
    text: str


REALS = Domain(lambda x: torch.ones_like(x, dtype=torch.bool), "be real")
POSITIVE = Domain(lambda x: x > 0, "be positive")
NON_NEGATIVE = Domain(lambda x: x >= 0, "be at least 0")
UNIT = Domain(lambda x: (x >= 0) & (x <= 1), "lie in [0, 1]")
SIMPLEX = Domain(
    lambda x: (x >= 0).all(-1) & ((x.sum(-1) - 1).abs() <= max(1e-5, 10 * torch.finfo(x.dtype).eps)),
    "be at least 0 and sum to 1 along the last axis",
)


@dataclass(frozen=True)
class Bregman:
    """D(u, v) = Phi(u) - Phi(v) - <u - v, grad Phi(v)>, as a loss(target, prediction) with u = target.

    potential: Phi, mapping (batch, *dims) to (batch,), strictly convex, each row on its own. gradient: grad Phi, from
    (batch, *dims) to the same shape; by default autograd. link: the network's output may be another coordinate of the
    point that it predicts, v = link(prediction) (a logit of a probability); by default v = prediction.
    form: the same D(target, link(prediction)), (batch,), in a form that keeps digits which the definition would cancel.
    target_domain, prediction_domain: where Phi is finite, and where it has a gradient.

    >>> fourth_power = Bregman(lambda x: x.pow(4).sum(1))
    >>> fourth_power(torch.tensor([[2.0]]), torch.tensor([[1.0]]))  # 16 - 1 - (2 - 1) * 4
    tensor(11.)
    """

    potential: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor], Tensor] | None = None
    link: Callable[[Tensor], Tensor] | None = None
    form: Callable[[Tensor, Tensor], Tensor] | None = None
    target_domain: Domain = REALS
    prediction_domain: Domain = REALS

    def __post_init__(self):
        for name in ("potential", "gradient", "link", "form"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name == "potential"):
                raise TypeError(f"{name} must be a callable on tensors, got {value!r}")

    def __call__(self, target: Tensor, prediction: Tensor, reduction: str = "mean") -> Tensor:
        """D(target, link(prediction)), summed over dims; gradients flow to the prediction.

        target, prediction: (batch, *dims), one shape, floating dtype and device. reduction: 'mean' or 'sum' over the
        batch, a scalar; 'none', shape (batch,). Raises TypeError or ValueError for anything else and, on the CPU, for
        values outside the domain and for a potential that gives a negative divergence, so is not convex, on the batch.
        """
        _validate.choice("reduction", reduction, ("mean", "sum", "none"))
        _validate.batch("target", target)
        _validate.same("target", target, "prediction", _validate.batch("prediction", prediction))
        _check_domain("target", target, self.target_domain)
        _check_domain("prediction", prediction, self.prediction_domain)
        if self.form is None:
            value = self.definition(target, self.point(prediction))
        else:
            value = _checked("form", self.form(target, prediction), target.shape[:1])
        return {"mean": torch.mean, "sum": torch.sum, "none": lambda x: x}[reduction](value)

    def point(self, prediction: Tensor) -> Tensor:
        """The point v = link(prediction) that a network's output stands for: the estimate of E[target given X]."""
        return prediction if self.link is None else self.link(prediction)

    def definition(self, u: Tensor, v: Tensor) -> Tensor:
        """Phi(u) - Phi(v) - <u - v, grad Phi(v)>, shape (batch,), from Phi alone; ValueError if negative."""
        phi_u, phi_v, slope = self._potential(u), self._potential(v), self._slope(v)
        value = phi_u - phi_v - ((u - v) * slope).flatten(1).sum(1)
        if value.device.type == "cpu":
            # the size of what was added and subtracted, and of the terms inside Phi, which are of the order of x Phi'
            size = phi_u.abs() + phi_v.abs() + ((u.abs() + v.abs()) * slope.abs()).flatten(1).sum(1)
            holds = (value >= -16 * torch.finfo(value.dtype).eps * size).detach()
            if not holds.all():
                worst = value.detach()[~holds].min().item()
                raise ValueError(
                    f"the divergence must be at least 0, got {worst:g}: the potential is not convex, or not finite, on "
                    "these data, or the gradient given is not its gradient"
                )
        return _never_negative(value)

    def _potential(self, x: Tensor) -> Tensor:
        return _checked("potential", self.potential(x), x.shape[:1])

    def _slope(self, v: Tensor) -> Tensor:
        if self.gradient is not None:
            return _checked("gradient", self.gradient(v), v.shape)
        keep = v.requires_grad and torch.is_grad_enabled()  # then the slope is differentiated in its turn
        with torch.enable_grad():
            v = v if keep else v.detach().requires_grad_()
            total = self._potential(v).sum()
            if not total.requires_grad:
                raise ValueError("the potential must be differentiable by autograd, or gradient must be given")
            return torch.autograd.grad(total, v, create_graph=keep)[0]


def _checked(name: str, value, shape: torch.Size) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != shape:
        came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must return a tensor of shape {tuple(shape)}, got {came}")
    return value


def _check_domain(name: str, x: Tensor, domain: Domain) -> None:
    if domain is REALS or x.device.type != "cpu":
        return
    x = x.detach()
    inside = domain.contains(x)
    if not inside.all():
        bad = x[~inside][0]
        came = f"{bad.item():g}" if bad.ndim == 0 else f"a row from {bad.min():g} to {bad.max():g} of sum {bad.sum():g}"
        raise ValueError(f"{name} must {domain.text}, got {came}")


def token_rates(x_1: Tensor, logits: Tensor, x_t: Tensor, rate: float | Tensor) -> Tensor:
    """Generalised KL from the jump rates of one word x_1 to those that the logits predict, in nats, (batch,).

    Position i jumps from x_t^i to k at the rates u = rate 1(k = x_1^i) and v = rate p_i(k), p = softmax(logits), and

        sum_i sum_{k != x_t^i} u log(u / v) - u + v
            = rate sum_i 1(x_1^i != x_t^i) (-log p_i(x_1^i) - 1) + 1 - p_i(x_t^i).

    With rate = kappa' / (1 - kappa), integrated over time, it bounds -log q(x_1) (`tokens.token_bound`; Shaul et al.
    2024, "Flow Matching with General Discrete Paths", arXiv 2412.03487).

    x_1, x_t: tokens, (batch, positions). logits: (batch, positions, vocabulary). rate: a number or (batch,), at least
    0. TypeError or ValueError otherwise (its value is looked at on the CPU only).

    >>> x_1, x_t = torch.tensor([[0]]), torch.tensor([[1]])
    >>> token_rates(x_1, torch.zeros(1, 1, 2), x_t, 3.0)  # 3 (log 2 - 1 + 1/2)
    tensor([0.5794])
    """
    _validate.same("x_1", _validate.tokens("x_1", x_1), "x_t", _validate.tokens("x_t", x_t))
    vocabulary = _validate.logits(logits, x_1).shape[2]
    for name, x in (("x_1", x_1), ("x_t", x_t)):
        _validate.tokens(name, x, vocabulary)
    rate = torch.as_tensor(rate, dtype=logits.dtype, device=logits.device)
    if rate.ndim > 1 or (rate.ndim and len(rate) != len(x_1)):
        raise ValueError(f"rate must have shape () or ({len(x_1)},), got {tuple(rate.shape)}")
    if rate.device.type == "cpu" and not (fine := (rate >= 0) & rate.isfinite()).all():
        raise ValueError(f"rate must be at least 0 and finite, got {rate[~fine].flatten()[0]:g}")
    log_p = logits.log_softmax(-1)
    arrive, stay = (log_p.gather(2, x.long()[..., None])[..., 0] for x in (x_1, x_t))
    return rate * (torch.where(x_1 != x_t, -arrive - 1, 0) - stay.expm1()).sum(1)


def _sum(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


def _never_negative(value: Tensor) -> Tensor:
    """`value`, with zero where rounding took it below; the gradient is that of `value` everywhere."""
    return torch.where(value < 0, value - value.detach(), value)


squared = Bregman(lambda x: _sum(x**2), lambda x: 2 * x, form=lambda u, v: _sum((u - v) ** 2))


def mahalanobis(matrix: Tensor) -> Bregman:
    """(u - v)^T A (u - v), from Phi(x) = x^T A x, for points with d coordinates in all.

    matrix: A, (d, d), symmetric positive definite; ValueError otherwise. It follows the dtype of the points.

    >>> mahalanobis(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))(torch.ones(1, 2), torch.zeros(1, 2))
    tensor(3.)
    """
    _validate.batch("matrix", matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix must have shape (d, d), got {tuple(matrix.shape)}")
    matrix = matrix.detach()
    factor, failed = torch.linalg.cholesky_ex(matrix)
    asymmetry = (matrix - matrix.mT).abs().max() / matrix.abs().max()
    if failed or asymmetry > 10 * torch.finfo(matrix.dtype).eps:
        raise ValueError(f"matrix must be symmetric and positive definite, got {matrix.tolist()}"[:300])

    def rows(x: Tensor) -> Tensor:
        x = x.flatten(1)
        if x.shape[1] != len(matrix) or x.device != matrix.device:
            came = f"{x.shape[1]} coordinates on {x.device}"
            raise ValueError(f"target must have the matrix's {len(matrix)} coordinates on {matrix.device}, got {came}")
        return x

    def potential(x: Tensor) -> Tensor:
        return (rows(x) @ factor.to(x.dtype)).square().sum(1)  # A = L L^T, so x^T A x = ||L^T x||^2: never negative

    def gradient(x: Tensor) -> Tensor:
        return (2 * rows(x) @ matrix.to(x.dtype)).reshape(x.shape)

    return Bregman(potential, gradient, form=lambda u, v: potential(u - v))


def _generalised_kl(u: Tensor, v: Tensor) -> Tensor:
    # Near u the sum would cancel: there u (r - log(1 + r)) with r = (v - u) / u. A target of 0 is always far.
    near = (v - u).abs() < 0.5 * u
    r = torch.where(near, v - u, 0) / torch.where(near, u, 1)
    far = torch.where(near, 1, v)
    return _sum(torch.where(near, u * (r - r.log1p()), xlogy(u, u) - xlogy(u, far) - u + far))


generalised_kl = Bregman(
    lambda x: _sum(xlogy(x, x) - x),
    lambda x: x.log(),
    form=_generalised_kl,
    target_domain=NON_NEGATIVE,
    prediction_domain=POSITIVE,
)


def _itakura_saito(u: Tensor, v: Tensor) -> Tensor:
    r = (u - v) / v
    near = r.abs() < 0.5
    return _sum(r - torch.where(near, torch.where(near, r, 0).log1p(), u.log() - v.log()))


itakura_saito = Bregman(
    lambda x: -_sum(x.log()),
    lambda x: -1 / x,
    form=_itakura_saito,
    target_domain=POSITIVE,
    prediction_domain=POSITIVE,
)


def _logistic(u: Tensor, logit: Tensor) -> Tensor:
    entropy = xlogy(u, u) + xlogy(1 - u, 1 - u)
    return _never_negative(_sum(entropy - u * logsigmoid(logit) - (1 - u) * logsigmoid(-logit)))


logistic = Bregman(
    lambda x: _sum(xlogy(x, x) + xlogy(1 - x, 1 - x)),
    torch.logit,
    torch.sigmoid,
    form=_logistic,
    target_domain=UNIT,
)


def _softmax(u: Tensor, logits: Tensor) -> Tensor:
    return _never_negative(_sum(xlogy(u, u) - u * logits.log_softmax(-1)))


softmax_cross_entropy = Bregman(
    lambda x: _sum(xlogy(x, x)),
    lambda x: 1 + x.log(),
    lambda logits: logits.softmax(-1),
    form=_softmax,
    target_domain=SIMPLEX,
)
