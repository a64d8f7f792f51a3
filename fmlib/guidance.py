"""Guidance: from a velocity to a velocity that leans towards a condition, by a network's own labels or a classifier's.

What is returned is a velocity like any other, to be called with label=: `sample(classifier_free(net, 2.0, null=10),
x_0, label=y)`. At weight 1 both have the law of the data with that label; at any other weight neither has the tilted
law q(x)^(1-w) q(x|y)^w, although their velocities are made of its parts (Bradley & Nakkiran 2024, "Classifier-Free
Guidance is a Predictor-Corrector").
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fmlib import _validate, sampling
from fmlib.paths import AffinePath


def classifier_free(velocity, weight: float, null: int, interval: tuple[float, float] = (0.0, 1.0)):
    """The velocity (1 - w) u_t(x) + w u_t(x | y), with w = weight for t in the interval, ends included, else 1.

    (Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", equation 6, whose strength is w - 1; the interval:
    Kynkaanniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality".)
    velocity: a callable (x, t, label=) that was trained to know y by its label and u_t(x) by the label `null`; rows
    must not depend on each other. weight: any finite number; 0 is u_t(x), 1 is u_t(x | y), and both hold for any source
    and coupling. interval: two times 0 <= a < b <= 1.

    Returns a velocity (x, t, label), label being integers of shape (batch,). It calls `velocity` once: with x where the
    weight is 0 or 1 or t lies outside the interval, else with x twice, one half for each label. On an accelerator,
    where no value of t is read, that is so at all times. A network (nn.Module) becomes one, rowwise if it is.
    Raises TypeError or ValueError for anything else, and for a `null` that a network with `config["classes"]` does not
    know.

    >>> u = lambda x, t, label: label[:, None].to(x)  # the label as a velocity
    >>> guided = classifier_free(u, weight=3.0, null=0)
    >>> guided(torch.zeros(2, 1), 0.5, torch.tensor([1, 2]))
    tensor([[3.],
            [6.]])
    """
    if not callable(velocity):
        raise TypeError(f"velocity must be a callable (x, t, label), got {type(velocity).__name__}")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise TypeError(f"weight must be a number, got {weight!r}")
    if not math.isfinite(weight):
        raise ValueError(f"weight must be finite, got {weight}")
    _validate.null_label(velocity, _validate.count("null", null, 0))
    settings = (weight, null, _interval(interval))
    if isinstance(velocity, nn.Module):
        return _ClassifierFree(velocity, *settings)

    def guided(x: Tensor, t: float | Tensor, label: Tensor) -> Tensor:
        return _classifier_free(velocity, *settings, x, t, label)

    guided.rowwise = sampling.is_rowwise(velocity)
    return guided


def classifier(velocity, log_prob: Callable[..., Tensor], path: AffinePath = AffinePath()):
    """The velocity u_t(x) + b_t grad_x log p_t(y | x), which is u_t(x | y) if both are exact.

    (Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", for scores; Lipman et al. 2024, section
    4.10.) b_t = sigma^2 alpha'/alpha - sigma sigma' turns a score into a velocity: `AffinePath.coefficients`. It does
    so for the source N(0, I), independent of the target, and for no other.
    velocity: u_t(x), a callable (x, t). log_prob: a callable (x, t, label) -> (batch,), the log-probability of the
    label at the *noisy* point x, differentiable in x; rows must not depend on each other. w times it guides by the
    weight w. path: of `velocity`.

    Returns a velocity (x, t, label), with a label for each row of x. b_t is infinite at t = 0, a ValueError: start a
    little later, as in `sample(guided, x_0, t=(1e-3, 1.0), label=y)`. The graph is kept where autograd records, so
    `likelihood.log_likelihood` knows the density. Raises TypeError or ValueError for a `log_prob` that returns another
    shape or has no gradient in x, and for anything else.

    >>> step = lambda x, t, label: (2 * label - 1) * x[:, 0]  # its gradient is 1 or -1, and b_t = 1 at t = 1/2
    >>> guided = classifier(lambda x, t: 0 * x, step)
    >>> guided(torch.zeros(2, 1), 0.5, torch.tensor([0, 1])).detach()
    tensor([[-1.],
            [ 1.]])
    """
    for name, function in (("velocity", velocity), ("log_prob", log_prob)):
        if not callable(function):
            raise TypeError(f"{name} must be a callable, got {type(function).__name__}")
    if not isinstance(path, AffinePath):
        raise TypeError(f"path must be an AffinePath, got {type(path).__name__}")

    def guided(x: Tensor, t: float | Tensor, label: Tensor) -> Tensor:
        time = _validate.time(t, _validate.shaped("x", x))
        if isinstance(label, Tensor) and label.shape[:1] != x.shape[:1]:  # would be broadcast silently
            raise ValueError(f"label must have a row for each of the {len(x)} of x, got shape {tuple(label.shape)}")
        if time.device.type == "cpu" and not torch.compiler.is_compiling() and (time == 0).any():
            raise ValueError("t must be above 0, where b_t is infinite: start a little later, as with t=(1e-3, 1.0)")
        b = path.coefficients(time, have="score", want="velocity")[1]
        return _result(velocity(x, t), x) + b * _slope(log_prob, x, t, label)

    guided.rowwise = sampling.is_rowwise(velocity) and sampling.is_rowwise(log_prob)
    return guided


class _ClassifierFree(nn.Module):
    """A guided network. What it promises of its rows, its network promises."""

    def __init__(self, network: nn.Module, weight: float, null: int, interval: tuple[float, float]):
        super().__init__()
        self.network, self.settings = network, (weight, null, interval)
        self.rowwise, self.training = sampling.is_rowwise(network), network.training

    def forward(self, x: Tensor, t: float | Tensor, label: Tensor) -> Tensor:
        return _classifier_free(self.network, *self.settings, x, t, label)


def _classifier_free(velocity, weight, null, interval, x: Tensor, t: float | Tensor, label: Tensor) -> Tensor:
    _validate.time(t, _validate.shaped("x", x))
    label = _validate.row_labels(label, x).long()  # `null` is a number of this format, whatever it came in
    inside = _inside(t, interval)
    if weight == 1 or inside is False:
        return _result(velocity(x, t, label=label), x)
    nulls = torch.full_like(label, null)
    if weight == 0:
        return _result(velocity(x, t, label=nulls if inside is True else torch.where(inside, nulls, label)), x)
    both, moment = torch.cat([x, x]), torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
    u = _result(velocity(both, moment, label=torch.cat([nulls, label])), both)
    without, given = u.chunk(2)
    if inside is True:
        return torch.lerp(without, given, weight)
    of_row = torch.where(inside, weight, 1.0).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return torch.lerp(without, given, of_row)


def _inside(t: float | Tensor, interval: tuple[float, float]) -> bool | Tensor:
    """Whether t lies in the interval: one answer for all rows if it is known, else booleans of the shape of t."""
    start, end = interval
    if interval == (0.0, 1.0):
        return True
    inside = (t >= start) & (t <= end)  # of a tensor in its own format: a float32 0.3 is the 0.3 of the interval
    if not isinstance(inside, Tensor):
        return bool(inside)
    if inside.device.type == "cpu" and not torch.compiler.is_compiling() and (inside.all() or not inside.any()):
        return bool(inside.all())
    return inside


def _slope(log_prob, x: Tensor, t: float | Tensor, label: Tensor) -> Tensor:
    """grad_x log_prob(x, t, label), row by row, with its graph where autograd records."""
    recording = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        point = x if recording and x.requires_grad else x.clone().detach().requires_grad_()
        # What was made in inference mode, as by `sample`, could not be kept for the derivative
        t, label = (v.clone() if isinstance(v, Tensor) and v.is_inference() else v for v in (t, label))
        value = log_prob(point, t, label)
        if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
            came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"log_prob must return a tensor of shape ({len(x)},), one number for each row, got {came}")
        slope = None
        if value.requires_grad:
            (slope,) = torch.autograd.grad(value.sum(), point, create_graph=recording, allow_unused=True)
    if slope is None:
        raise ValueError("log_prob has no gradient in x: does it detach x, or work in no_grad?")
    return slope


def _result(u, x: Tensor) -> Tensor:
    """What a velocity returned, in the format of x; anything but a tensor like x is an error, never broadcast."""
    if not isinstance(u, Tensor) or u.shape != x.shape:
        came = tuple(u.shape) if isinstance(u, Tensor) else type(u).__name__
        raise ValueError(f"velocity must return a tensor of shape {tuple(x.shape)}, got {came}")
    return u.to(x.dtype)


def _interval(interval) -> tuple[float, float]:
    try:
        start, end = (float(time) for time in interval)
    except (TypeError, ValueError):
        raise TypeError(f"interval must be a pair (start, end) of times, got {interval!r}") from None
    if not 0 <= start < end <= 1:
        raise ValueError(f"interval must be two times with 0 <= start < end <= 1, got ({start:g}, {end:g})")
    return start, end
