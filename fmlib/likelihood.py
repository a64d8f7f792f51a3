"""Densities of a flow: the source's, and the integral of the velocity's divergence along the way."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fmlib import _validate, sampling, solvers

COARSE = torch.finfo(torch.bfloat16).eps


def log_likelihood(
    velocity,
    x_1: Tensor,
    *,
    steps: int = 50,
    method: str = "midpoint",
    source_log_prob: Callable[[Tensor], Tensor] | None = None,
    divergence: str = "exact",
    probes: int = 1,
    noise: str = "rademacher",
    generator: torch.Generator | None = None,
    differentiable: bool = False,
    chunk: int | str | None = "auto",
    **condition,
) -> Tensor:
    """log p_1(x_1) = log p_0(x_0) - int_0^1 div u_t(x_t) dt along the trajectory that ends at x_1: (batch,), in nats.

    (Chen et al. 2018, "Neural Ordinary Differential Equations", equation 8.) The integral uses the same stages as the
    ODE, and the divergence is computed only at those that count: at one of midpoint's two.
    velocity, x_1, condition: as in `sample`; rows must not depend on each other. steps, method: fixed steps, from t = 1
    back to 0. source_log_prob: maps (batch, *dims) to (batch,), default that of N(0, I).
    divergence: 'exact', one backward pass for each of the d coordinates, or 'hutchinson', its unbiased estimate
    E[e^T (du/dx) e] from `probes` random vectors e of a 'rademacher' (+-1) or 'gaussian' law, drawn once for each
    trajectory (Grathwohl et al. 2018, "FFJORD", section 3.1). differentiable: keep the graph, so that -log_likelihood
    is a loss to train on; a network that changes fast in time learns to cheat a coarse grid, so check such a one with
    other `steps`. chunk: as in `sample`.

    A velocity other than a rowwise network (`sampling.is_rowwise`) is tried first: ValueError if it gives a point two
    values (dropout or batch normalisation in training mode), or if autograd's derivative along a random direction is
    not the quotient of differences, at the first, middle and last step: some of its gradient is then hidden, and its
    divergence not known. Raises TypeError or ValueError for anything else.

    >>> log_likelihood(lambda x, t: 0 * x, torch.zeros(1, 2))  # of N(0, I) at 0: -log(2 pi)
    tensor([-1.8379])
    """
    flow = _Flow(velocity, _validate.state("x_1", x_1), steps, method, condition, differentiable, chunk)
    flow.estimate(divergence, probes, noise, generator)
    x_0, integral = flow.follow(x_1, (1.0, 0.0))  # the integral from 1 to 0, hence minus that from 0 to 1
    with torch.set_grad_enabled(differentiable):
        return _source(source_log_prob, x_0) + integral


def sample_and_log_prob(
    velocity,
    x_0: Tensor,
    *,
    steps: int = 50,
    method: str = "midpoint",
    source_log_prob: Callable[[Tensor], Tensor] | None = None,
    divergence: str = "exact",
    probes: int = 1,
    noise: str = "rademacher",
    generator: torch.Generator | None = None,
    differentiable: bool = False,
    chunk: int | str | None = "auto",
    **condition,
) -> tuple[Tensor, Tensor]:
    """x_1 = psi_1(x_0) and log p_1(x_1), (batch,), in one pass forward. Arguments and errors as in `log_likelihood`.

    >>> x_1, log_prob = sample_and_log_prob(lambda x, t: -x, torch.zeros(1, 1), steps=100)
    >>> log_prob  # x_1 ~ N(0, e^{-2}), so its density at 0 is e / sqrt(2 pi)
    tensor([0.0811])
    """
    flow = _Flow(velocity, _validate.state("x_0", x_0), steps, method, condition, differentiable, chunk)
    flow.estimate(divergence, probes, noise, generator)
    x_1, integral = flow.follow(x_0, (0.0, 1.0))
    with torch.set_grad_enabled(differentiable):
        return x_1, _source(source_log_prob, x_0) - integral


def standard_normal_log_prob(x: Tensor) -> Tensor:
    """log N(x; 0, I), shape (batch,), for x (batch, *dims).

    >>> standard_normal_log_prob(torch.zeros(1, 2))
    tensor([-1.8379])
    """
    return -0.5 * (_validate.shaped("x", x).flatten(1).square() + math.log(2 * math.pi)).sum(1)


def bits_per_dimension(log_prob: Tensor, dims: int, levels: float = 127.5) -> Tensor:
    """-(log_prob / dims - log levels) / log 2: what one number of an image costs, in bits, shape as `log_prob`.

    log_prob: densities in nats of data that was scaled by 1 / levels from whole numbers with uniform noise on [0, 1)
    added; 127.5 for bytes brought to [-1, 1]. The noise makes the density a bound on the probability of the whole
    numbers (Theis et al. 2016, "A note on the evaluation of generative models", section 3.1). dims: numbers an image.

    >>> bits_per_dimension(torch.tensor([784 * math.log(127.5 / 256)]), dims=784)  # uniform over 256 levels
    tensor([8.])
    """
    _validate.count("dims", dims)
    _validate.positive("levels", levels)
    return (math.log(levels) - log_prob / dims) / math.log(2)


def _source(log_prob, x_0: Tensor) -> Tensor:
    value = (log_prob or standard_normal_log_prob)(x_0)
    if not isinstance(value, Tensor) or value.shape != x_0.shape[:1]:
        came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"source_log_prob must return a tensor of shape ({len(x_0)},), got {came}")
    return value


class _Flow:
    """Follows a velocity and integrates its divergence on the way, at the stages of a method that count."""

    def __init__(self, velocity, x, steps, method, condition, differentiable, chunk):
        self.steps = _validate.count("steps", steps)
        self.step = solvers.FIXED[_validate.choice("method", method, solvers.FIXED)]
        self.weights = solvers.WEIGHTS[method]
        self.field = solvers.Field(velocity, x.shape, condition)
        self.differentiable, self.x, self.probes = differentiable, x, None
        self.rows = len(x) if differentiable else sampling.rows_together(chunk, velocity, x)
        self.tried = not sampling.is_rowwise_network(velocity)

    def estimate(self, divergence: str, probes: int, noise: str, generator) -> None:
        """Draw the vectors e that estimate the divergence, (probes, batch, *dims), unless it is to be exact."""
        _validate.choice("divergence", divergence, ("exact", "hutchinson"))
        _validate.choice("noise", noise, ("rademacher", "gaussian"))
        shape, _ = (_validate.count("probes", probes), *self.x.shape), _validate.generator(generator)
        if divergence == "hutchinson":
            e = torch.randn(shape, dtype=self.x.dtype, device=self.x.device, generator=generator)
            self.probes = e.sign() if noise == "rademacher" else e

    def follow(self, x: Tensor, t: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """The end of the trajectory from x, and the integral of the divergence along it, (batch,)."""
        with torch.inference_mode(False):  # derivatives are needed even where nothing is to be recorded
            condition = {name: _ordinary(value) for name, value in self.field.condition.items()}
            self.field = solvers.Field(self.field.function, x.shape, condition)
            self.probes = _ordinary(self.probes)
            return self._parts(_ordinary(x), t)

    def _parts(self, x: Tensor, t: tuple[float, float]) -> tuple[Tensor, Tensor]:
        times = torch.linspace(*t, self.steps + 1, dtype=x.dtype, device=x.device)
        parts = []
        for i in range(0, len(x), self.rows):
            field = self.field.rows(i, i + self.rows)
            probes = None if self.probes is None else self.probes[:, i : i + self.rows]
            parts.append(self._follow(field, probes, x[i : i + self.rows], times, try_it=self.tried and i == 0))
        ends, integrals = zip(*parts, strict=True)
        return torch.cat(ends), torch.cat(integrals)

    def _follow(self, field: solvers.Field, probes: Tensor | None, x: Tensor, times: Tensor, try_it: bool):
        integral, moments = x.new_zeros(len(x)), times.unbind()
        tried_at = {0, self.steps // 2, self.steps - 1} if try_it else ()
        if try_it:
            _check_one_value(field, x, moments[0])
        with torch.set_grad_enabled(self.differentiable):
            for k, (now, then) in enumerate(zip(moments[:-1], moments[1:], strict=True)):
                if k in tried_at:
                    _check_gradient(field, x, now, k)
                weights, seen = iter(self.weights), []

                def stage(x, t, weights=weights, seen=seen):
                    weight = next(weights)
                    if not weight:
                        return field(x, t)
                    u, divergence = _with_divergence(field, x, t, probes, self.differentiable)
                    seen.append(weight * divergence)
                    return u

                x = self.step(stage, x, now, then)
                integral = integral + (then - now) * sum(seen)
        return x, integral


def _ordinary(value):
    """A copy that derivatives may pass, of a tensor made in inference mode; anything else as it is."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _with_divergence(
    field: solvers.Field, x: Tensor, t: Tensor, probes: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor]:
    """u_t(x) and its divergence, or the estimate of it from `probes`, (batch,); with their graphs if `keep`."""
    with torch.enable_grad():
        x = x if keep and x.requires_grad else x.detach().requires_grad_()
        u = field(x, t)
        if not u.requires_grad:  # the same wherever x goes
            return u, u.new_zeros(len(u))
        # One reverse pass for each vector: from the output back to x, the derivatives with respect to the weights are
        # not computed. Measured faster than forward mode and than one pass for all vectors at once, on CPUs.
        last = (u[0].numel() if probes is None else len(probes)) - 1
        total = 0
        for i in range(last + 1):
            e = _basis(u, i) if probes is None else probes[i]
            keeps = {"retain_graph": keep or i < last, "create_graph": keep}
            (product,) = torch.autograd.grad(u, x, e, allow_unused=True, **keeps)
            product = torch.zeros_like(x) if product is None else product  # a graph of weights only
            total = total + (
                product.flatten(1)[:, i] if probes is None else (e * product).flatten(1).sum(1) / len(probes)
            )
    return (u, total) if keep else (u.detach(), total.detach())


def _check_one_value(field: solvers.Field, x: Tensor, t: Tensor) -> None:
    """Raise if the first half of the rows has two values: asked twice, and beside other rows in the second half."""
    kept = (len(x) + 1) // 2
    other = torch.cat([x[:kept], x[:1].expand_as(x[kept:])]).detach()
    with torch.no_grad():
        first, second = field(x, t)[:kept], field(other, t)[:kept]
    gap, size = (first - second).abs().max(), first.abs().max()
    if bool(gap > 1e-3 * size):
        raise ValueError(
            f"velocity gives one point two values, {gap.item():.2g} apart (dropout or batch normalisation in training "
            "mode, or rows that depend on each other?), so it has no density"
        )


def _check_gradient(field: solvers.Field, x: Tensor, t: Tensor, seed: int = 0) -> None:
    """Raise if autograd does not see all of du/dx, in float64 where the velocity can be computed in it.

    A row fails only if it does so at three points close by: a right velocity may have a kink at one or two.
    """
    draw, failed = torch.Generator().manual_seed(seed), True
    x, t = _finest(field, x.detach(), t.detach())
    for _ in range(3):
        e, shift = (torch.randn(x.shape, generator=draw).to(x) for _ in range(2))
        hidden, coarse = _hidden(field, x, t, e, shift, torch.finfo(x.dtype).eps)
        if coarse:  # it rounds inside: take steps that are longer than that
            hidden, _ = _hidden(field, x, t, e, shift, COARSE)
        failed = failed & hidden
        if not bool(failed.any()):
            return
    raise ValueError("velocity stops gradients (no_grad or detach inside?), so its divergence is not known")


def _hidden(field: solvers.Field, x: Tensor, t: Tensor, e: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, bool]:
    """For which rows e^T (du/dx) e by autograd is not what differences say, near x: booleans, (batch,).

    One step of differences tells the derivative, and a second of twice the length how far to trust it: what curvature,
    kinks and rounding change moves the one against the other, and a hidden gradient does not. eps: the relative
    rounding error of u. The second value says that some of u stood still where it should have moved.
    """
    size = x.abs().mean() + (x == 0).all()  # of x, or 1 if x is zero
    h = eps ** (1 / 3) * size
    with torch.enable_grad():
        point = (x + 10 * h * shift).requires_grad_()
        u = field(point, t)
        slope = torch.autograd.grad(u, point, e, allow_unused=True)[0] if u.requires_grad else None
    with torch.no_grad():
        once, twice = ((field(point + k * h * e, t) - u) / (k * h) for k in (1, 2))
        noise = 20 * eps / h * u.abs()
        if slope is None:  # no way from u back to x: then u must be constant
            return (once.abs() > noise).flatten(1).any(1), False
        still = (once == 0) & (twice == 0) & (slope != 0)
        apart = (once - twice).abs()
        noise = noise + 10 * (apart + apart.nanmedian()) + 0.005 * torch.maximum(once.abs(), slope.abs())
        gap = (e * (slope - once)).flatten(1).sum(1).abs()
        return gap > (e.abs() * noise).flatten(1).sum(1), bool(still.double().mean() > 0.01)


def _finest(field: solvers.Field, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x and t in float64 if the velocity can be computed in it, else as they are."""
    try:
        with torch.no_grad():
            able = field.function(x.double(), t.double(), **field.condition).dtype == torch.float64
    except Exception:  # whatever it was: what is wrong with x itself is said by the next call
        able = False
    return (x.double(), t.double()) if able else (x, t)


def _basis(u: Tensor, i: int) -> Tensor:
    """The i-th unit vector for every row, of the shape of u."""
    e = torch.zeros_like(u[:1]).flatten(1)
    e[0, i] = 1
    return e.reshape(1, *u.shape[1:]).expand_as(u)
