"""Curved spaces with closed geodesics: the sphere, the flat torus and hyperbolic space.

All three answer the same questions about points x, y and tangents u, v, each a row of a tensor (batch, coordinates):
`exp(x, v)` walks the geodesic that leaves x with velocity v for a unit of time; `log(x, y)` is the v with
exp(x, v) = y and the least length; `distance(x, y)` is that length, (batch,); `inner(x, u, v)` the metric, (batch,);
`project(x)` brings a point to the manifold and `tangent(x, v)` a vector to the tangent space at x; `uniform(n, dim)`
draws points. Near points and near antipodes keep their digits: nothing goes through acos (Kahan 2006, "How Futile are
Mindless Assessments of Roundoff", section 12, on angles).

All raise ValueError or TypeError for other shapes, dtypes or devices. Values are checked on the CPU: a point that is
off the manifold by more than 1e-6 (in float32 3e-4), or a vector that leaves its tangent space by more than that share
of itself, is a ValueError that says by how much. Formulas: Nickel & Kiela 2018,
"Learning Continuous Hierarchies in the Lorentz Model", section 3; do Carmo 1992, "Riemannian Geometry", chapter 3.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fmlib import _validate

TURN = 2 * math.pi


@dataclass(frozen=True)
class Sphere:
    """The unit sphere S^d: points (batch, d + 1) with |x| = 1, tangents with <x, v> = 0.

    exp_x(v) = cos|v| x + sin|v| v/|v|, and log_x(y) = theta P_x y / |P_x y|, with P_x y = y - <x, y> x and the angle
    theta = atan2(|P_x y|, <x, y>). At the antipode y = -x every direction is as short: ValueError.

    >>> sphere, x, y = Sphere(), torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    >>> sphere.log(x, y), sphere.distance(x, y)  # a quarter of a turn
    (tensor([[0.0000, 1.5708, 0.0000]]), tensor([1.5708]))
    """

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """The point cos|v| x + sin|v| v/|v|, of the shape of x."""
        _tangents(self, x, v=v)
        length = v.norm(dim=1, keepdim=True)
        return _unit(length.cos() * x + torch.sinc(length / math.pi) * v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The shortest v with exp(x, v) = y, of the shape of x; ValueError for antipodes."""
        on_manifold(self, x=x, y=y)
        across, sine, cosine = self._across(x, y)
        opposite = (cosine < 0) & (sine <= 8 * torch.finfo(x.dtype).eps)
        if _looked_at(x) and opposite.any():
            row = int(opposite.flatten().nonzero()[0])
            raise ValueError(f"log is undefined between antipodes, where all directions are as short: row {row} of y")
        zero = sine == 0
        return across * torch.where(zero, 1, torch.atan2(sine, cosine) / torch.where(zero, 1, sine))

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """The angle between x and y, (batch,), in [0, pi]."""
        on_manifold(self, x=x, y=y)
        _, sine, cosine = self._across(x, y)
        return torch.atan2(sine, cosine)[:, 0]

    def _across(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """P_x y, its length and <x, y>. It is taken of y - x or y + x, whichever is short: these lose no digits."""
        cosine = (x * y).sum(1, keepdim=True)
        short = torch.where(cosine > 0, y - x, y + x)
        across = short - (x * short).sum(1, keepdim=True) * x
        return across, across.norm(dim=1, keepdim=True), cosine

    def project(self, x: Tensor) -> Tensor:
        """x / |x|, the nearest point of the sphere; ValueError for x = 0, and where |x| is no number of the format."""
        length = _rows(x=x).norm(dim=1, keepdim=True)
        if _looked_at(x):
            shortest, longest = (bound.item() for bound in length.detach().aminmax())
            if not 0 < shortest <= longest < math.inf:  # or NaN
                _validate.batch("x", x)
                if shortest > 0:
                    raise ValueError(f"x holds a vector whose length is no number in {x.dtype}: make it shorter")
                raise ValueError("x holds a zero vector, which has no nearest point on the sphere")
        return x / length

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """P_x v = v - <x, v> x."""
        _vectors(self, x, v=v)
        return self._tangent(x, v)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """<u, v>, the metric of the surrounding space, (batch,)."""
        _tangents(self, x, u=u, v=v)
        return (u * v).sum(1)

    def uniform(self, n: int, dim: int = 2, generator: torch.Generator | None = None, dtype=torch.float32) -> Tensor:
        """n points of the uniform law on S^dim, (n, dim + 1); its density is one over the area, 1 / (4 pi) on S^2."""
        return _unit(_gaussian(n, _validate.count("dim", dim) + 1, generator, dtype))

    def _tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v - (x * v).sum(1, keepdim=True) * x

    def _off(self, x: Tensor) -> Tensor:
        return (x.norm(dim=1) - 1).abs()

    def _normal(self, x: Tensor, v: Tensor) -> Tensor:
        return (x * v).sum(1).abs() / v.norm(dim=1).clamp_min(1)


@dataclass(frozen=True)
class Torus:
    """The flat torus: points (batch, d) are angles, brought to [-pi, pi), and any vector (batch, d) is a tangent.

    exp_x(v) = x + v and log_x(y) = y - x, both modulo 2 pi: the shorter way round in each coordinate. At half a turn
    both ways are as short, and log takes one of them (in float32 random pairs meet that case in practice).

    >>> Torus().log(torch.tensor([[3.0]]), torch.tensor([[-3.0]]))  # 2 pi - 6, over the edge
    tensor([[0.2832]])
    """

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """x + v modulo 2 pi, in [-pi, pi)."""
        _tangents(self, x, v=v)
        return _wrapped(x + v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """y - x modulo 2 pi, in [-pi, pi)."""
        on_manifold(self, x=x, y=y)
        return _wrapped(y - x)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """|log_x(y)|, (batch,)."""
        return self.log(x, y).norm(dim=1)

    def project(self, x: Tensor) -> Tensor:
        """x modulo 2 pi, in [-pi, pi)."""
        return _wrapped(_validate.batch("x", _rows(x=x)))

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """v itself: every vector is a tangent."""
        _vectors(self, x, v=v)
        return self._tangent(x, v)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """<u, v>, (batch,)."""
        _tangents(self, x, u=u, v=v)
        return (u * v).sum(1)

    def uniform(self, n: int, dim: int = 2, generator: torch.Generator | None = None, dtype=torch.float32) -> Tensor:
        """n points of the uniform law, (n, dim), of density (2 pi)^-dim."""
        shape, _ = (_validate.count("n", n), _validate.count("dim", dim)), _validate.generator(generator)
        return _wrapped(2 * math.pi * torch.rand(shape, generator=generator, dtype=dtype))

    def _tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def _off(self, x: Tensor) -> Tensor:
        return 0 * x.sum(1)  # any number is an angle modulo 2 pi; NaN stays

    def _normal(self, x: Tensor, v: Tensor) -> Tensor:
        return 0 * v.sum(1)


@dataclass(frozen=True)
class Hyperboloid:
    """Hyperbolic space H^d as the sheet <x, x>_L = -1, x_0 > 0 of R^{d+1}, with <u, v>_L = -u_0 v_0 + sum_i u_i v_i.

    exp_x(v) = cosh|v| x + sinh|v| v/|v| with |v|^2 = <v, v>_L, and the distance is 2 asinh(|y - x|_L / 2). Rounding
    grows fast with the distance r from the apex (1, 0, ..., 0), where x_0 = cosh r: exp(x, log(x, y)) is y to 3e-13 for
    r <= 2, and to 4e-12 for r <= 2.5. There are no antipodes. The volume is infinite, so `uniform` draws within a ball.

    >>> hyperboloid, apex = Hyperboloid(), torch.tensor([[1.0, 0.0, 0.0]])
    >>> hyperboloid.exp(apex, torch.tensor([[0.0, 1.0, 0.0]]))  # cosh 1, sinh 1
    tensor([[1.5431, 1.1752, 0.0000]])
    """

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """The point cosh|v| x + sinh|v| v/|v|, of the shape of x."""
        _tangents(self, x, v=v)
        length = _root(_lorentz(v, v))
        zero = length == 0
        return _lifted(length.cosh() * x + torch.where(zero, 1, length.sinh() / torch.where(zero, 1, length)) * v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The v with exp(x, v) = y, of the shape of x."""
        on_manifold(self, x=x, y=y)
        way, d = self._apart(x, y)
        across = _level(x, way)
        zero = d == 0
        return across * torch.where(zero, 1, d / torch.where(zero, 1, d.sinh()))

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """arcosh(-<x, y>_L), (batch,), from the difference of both."""
        on_manifold(self, x=x, y=y)
        return self._apart(x, y)[1][:, 0]

    def _apart(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """y - x and the distance, (batch, 1), by that of its two forms in which less cancels."""
        way, total = (y - x)[:, 1:], x + y
        rise = (way * total[:, 1:]).sum(1, keepdim=True) / total[:, :1]  # y_0 - x_0 without the difference
        square, cosh = way.square().sum(1, keepdim=True), -_lorentz(x, y)
        apart = (cosh > 2) & (square > 2 * x[:, :1] * y[:, :1])  # as from the apex to a point far from it
        by_product = torch.acosh(torch.where(apart, cosh, 2))
        by_difference = 2 * torch.asinh(_root(torch.where(apart, 0, square - rise.square())) / 2)
        return torch.cat([rise, way], 1), torch.where(apart, by_product, by_difference)

    def project(self, x: Tensor) -> Tensor:
        """The point above the same x_1, ..., x_d."""
        return _lifted(_validate.batch("x", _rows(x=x)))

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """v + <x, v>_L x."""
        _vectors(self, x, v=v)
        return self._tangent(x, v)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """<u, v>_L, (batch,); positive for tangents u = v."""
        _tangents(self, x, u=u, v=v)
        return _lorentz(u, v)[:, 0]

    def uniform(
        self,
        n: int,
        dim: int = 2,
        generator: torch.Generator | None = None,
        dtype=torch.float32,
        radius: float = 1.0,
    ) -> Tensor:
        """n points, (n, dim + 1), uniform on the ball of that radius about the apex: r has the density sinh(r)^(dim-1).

        Proposals of the density exp((dim - 1) r) are kept with probability (1 - exp(-2 r))^(dim - 1), up to a factor.
        ValueError for a radius so large that the volume, of the order of exp((dim - 1) radius), or the square of a
        coordinate is no number of the format.
        """
        _validate.positive("radius", radius)
        n, k = _validate.count("n", n), _validate.count("dim", dim) - 1
        _validate.generator(generator)
        largest = math.log(torch.finfo(dtype).max) / max(k, 2)
        if radius > largest:
            raise ValueError(f"radius must be at most {largest:.3g} in {k + 1} dimensions and {dtype}, got {radius:g}")
        found = torch.empty(0, dtype=dtype)
        while len(found) < n:
            share, kept = torch.rand(2, 2 * n, generator=generator, dtype=dtype)
            r = torch.log1p(share * math.expm1(k * radius)) / k if k else share * radius
            found = torch.cat([found, r[kept < (torch.expm1(-2 * r) / math.expm1(-2 * radius)) ** k]])
        direction = _unit(_gaussian(n, k + 1, generator, dtype))
        return _lifted(torch.cat([torch.ones(n, 1, dtype=dtype), found[:n, None].sinh() * direction], 1))

    def _tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return _level(x, v)

    def _off(self, x: Tensor) -> Tensor:
        return (x[:, 0] - _lifted(x)[:, 0]).abs() / x[:, 0].abs().clamp_min(1)

    def _normal(self, x: Tensor, v: Tensor) -> Tensor:
        return _lorentz(x, v)[:, 0].abs() / (x[:, 0].abs() * v.norm(dim=1)).clamp_min(1)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def _gaussian(n: int, dim: int, generator, dtype) -> Tensor:
    return torch.randn(_validate.count("n", n), dim, generator=_validate.generator(generator), dtype=dtype)


def _wrapped(x: Tensor) -> Tensor:
    """x modulo 2 pi, in [-pi, pi); small values stay as they are."""
    turns = (x / TURN).add_(0.5).floor_()
    below = torch.finfo(x.dtype).eps * math.pi / 2  # pi less this is at most the number before pi
    return torch.add(x, turns, alpha=-TURN).clamp(-math.pi, math.pi - below)  # where x / 2 pi was rounded


def _lorentz(u: Tensor, v: Tensor) -> Tensor:
    """<u, v>_L, (batch, 1)."""
    return (u[:, 1:] * v[:, 1:]).sum(1, keepdim=True) - u[:, :1] * v[:, :1]


def _level(x: Tensor, v: Tensor) -> Tensor:
    """The part of v that is tangent to the hyperboloid at x."""
    return v + _lorentz(x, v) * x


def _lifted(x: Tensor) -> Tensor:
    """The point of the hyperboloid above x_1, ..., x_d."""
    flat = x[:, 1:]
    return torch.cat([(1 + flat.square().sum(1, keepdim=True)).sqrt(), flat], 1)


def _root(square: Tensor) -> Tensor:
    """The root of what is not negative but for rounding, with the gradient zero where it is none."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)


def _looked_at(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _rows(**rows: Tensor) -> Tensor:
    """The first of the tensors, if all are floating, of one shape (batch, coordinates), dtype and device."""
    (first, x), *others = rows.items()
    if _validate.shaped(first, x).ndim != 2:
        raise ValueError(f"{first} must have shape (batch, coordinates), got {tuple(x.shape)}")
    for name, value in others:
        _validate.same(first, x, name, _validate.shaped(name, value))
    return x


def on_manifold(manifold, **points: Tensor) -> None:
    """Raise ValueError or TypeError unless all are points of the manifold, to about half of their digits.

    >>> on_manifold(Sphere(), x=torch.tensor([[0.6, 0.8]]))
    """
    if isinstance(manifold, type):
        _validate.methods("manifold", manifold)
    if _looked_at(_rows(**points)):
        for name, value in points.items():
            off = manifold._off(value.detach()).max().item()
            if not off <= _tolerance(value):  # or NaN
                _validate.batch(name, value)
                raise ValueError(f"{name} is off the {_name(manifold)} by {off:.2g}: bring it there with project")


def _vectors(manifold, x: Tensor, **vectors: Tensor) -> None:
    """Raise unless x are points of the manifold and the vectors are finite and have its shape."""
    on_manifold(manifold, x=x)
    for name, v in vectors.items():
        _validate.same("x", x, name, _validate.batch(name, v))


def _tangents(manifold, x: Tensor, **vectors: Tensor) -> None:
    """Raise unless x are points of the manifold and the vectors are tangent there, to about half of their digits."""
    on_manifold(manifold, x=x)
    _rows(x=x, **vectors)
    if _looked_at(x):
        for name, v in vectors.items():
            off = manifold._normal(x.detach(), v.detach()).max().item()
            if not off <= _tolerance(x):  # or NaN
                _validate.batch(name, v)
                where = f"the {_name(manifold)} at x"
                raise ValueError(f"{name} is not tangent to {where}, by {off:.2g}: take its tangent(x, {name})")


def _tolerance(x: Tensor) -> float:
    """Half of the digits of the format; in float64 points may have been float32 before."""
    return max(torch.finfo(x.dtype).eps ** 0.5, 1e-6)


def _name(manifold) -> str:
    return type(manifold).__name__.lower()
