"""Manifolds and what runs on them, against 50 digits, SciPy's slerp, matrix exponentials, quadrature and autograd."""

import math

import mpmath
import numpy as np
import pytest
import torch
from helpers import F64, normal, one_sentence, seeded
from scipy.integrate import quad
from scipy.linalg import expm
from scipy.spatial import geometric_slerp
from scipy.stats import kstest, vonmises_fisher

from fmlib import exact, fit, likelihood, models, sampling, schedules, solvers
from fmlib.laws import VonMisesFisher
from fmlib.manifolds import Hyperboloid, Sphere, Torus
from fmlib.objectives import VelocityMatching
from fmlib.paths import GeodesicPath

SPHERE, TORUS, HYPERBOLOID = Sphere(), Torus(), Hyperboloid()
every_manifold = pytest.mark.parametrize("manifold", [SPHERE, TORUS, HYPERBOLOID], ids=lambda m: type(m).__name__)


def drawn(manifold, n=50, dim=2, seed=0, dtype=F64) -> torch.Tensor:
    more = {"radius": 2.0} if manifold is HYPERBOLOID else {}
    return manifold.uniform(n, dim, seeded(seed), dtype, **more)


def tangents(manifold, x, seed=9) -> torch.Tensor:
    return manifold.tangent(x, normal(*x.shape, seed=seed).to(x.dtype))


# ---- exp, log and distance in 50 digits ------------------------------------------------------------------------------


def exactly(manifold, x, y) -> tuple[list[float], float]:
    """log_x(y) and the distance of two rows, from their definitions, in 50 digits."""
    with mpmath.workdps(50):
        a, b = ([mpmath.mpf(value) for value in row.tolist()] for row in (x, y))
        if manifold is SPHERE:
            a, b = ([value / mpmath.norm(row) for value in row] for row in (a, b))
            cosine = mpmath.fdot(a, b)
            across = [q - cosine * p for p, q in zip(a, b, strict=True)]
            far = mpmath.acos(cosine)
            return [float(far / mpmath.sin(far) * value) for value in across], float(far)
        if manifold is TORUS:
            way = [q - p - 2 * mpmath.pi * mpmath.nint((q - p) / (2 * mpmath.pi)) for p, q in zip(a, b, strict=True)]
            return [float(value) for value in way], float(mpmath.norm(way))
        a, b = ([mpmath.sqrt(1 + mpmath.norm(row[1:]) ** 2), *row[1:]] for row in (a, b))
        cosh = a[0] * b[0] - mpmath.fdot(a[1:], b[1:])
        far = mpmath.acosh(cosh)
        return [float(far / mpmath.sinh(far) * (q - cosh * p)) for p, q in zip(a, b, strict=True)], float(far)


@pytest.mark.parametrize("far", [None, 1e-3, 1e-8, -1e-3, -1e-8], ids=lambda far: f"{far}")
@every_manifold
def test_log_and_distance_are_those_of_50_digits(manifold, far):
    """For random pairs, for pairs apart by `far`, and by half a turn less |far|."""
    x, y = drawn(manifold), drawn(manifold, seed=1)
    if far is not None:
        if far < 0 and manifold is HYPERBOLOID:
            pytest.skip("hyperbolic space has no antipodes")
        v = tangents(manifold, x)
        length = far if far > 0 else math.pi + far
        if manifold is TORUS and far < 0:
            v = torch.cat([v[:, :1].sign(), 0 * v[:, 1:]], 1)
        y = manifold.exp(x, length / manifold.inner(x, v, v).sqrt()[:, None] * v)
    log, distance = manifold.log(x, y), manifold.distance(x, y)
    logs, distances = zip(*(exactly(manifold, a, b) for a, b in zip(x, y, strict=True)), strict=True)
    scale = min(1.0, abs(far)) if far is not None and far > 0 else 1.0  # small ones to 11 digits of their own
    torch.testing.assert_close(log, torch.tensor(logs, dtype=F64), rtol=0, atol=1e-11 * scale)
    torch.testing.assert_close(distance, torch.tensor(distances, dtype=F64), rtol=0, atol=1e-11 * scale)
    torch.testing.assert_close(manifold.exp(x, log), y, rtol=0, atol=1e-11)
    torch.testing.assert_close(manifold.inner(x, log, log).sqrt(), distance, rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize("near, far", [(0.0, 5.0), (0.0, 30.0), (2.0, 8.0), (-3.0, 12.0)])
def test_far_points_of_a_line_through_the_apex_are_as_far_as_they_are(near, far):
    """At sinh r from the apex on one line, distances are differences of r; in float32, to 1e-5."""
    x, y = (torch.tensor([[math.cosh(r), math.sinh(r), 0.0]]) for r in (-near, far))
    assert HYPERBOLOID.distance(x, y).item() == pytest.approx(far + near, rel=1e-5)
    assert HYPERBOLOID.distance(y, x).item() == pytest.approx(far + near, rel=1e-5)
    if near == 0:
        torch.testing.assert_close(HYPERBOLOID.log(x, y), torch.tensor([[0.0, far, 0.0]]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dim", [1, 2, 4])
@every_manifold
def test_exp_is_a_matrix_exponential(manifold, dim):
    """A turn, or a boost, in the plane of x and v; on the torus a turn of each coordinate's circle."""
    x = drawn(manifold, dim=dim)
    v = tangents(manifold, x)
    v[0] = 0
    v[1] *= 1e-8
    made = manifold.exp(x, v)
    for a, b, end in zip(x.numpy(), v.numpy(), made.numpy(), strict=True):
        if manifold is TORUS:
            for start, turn, stop in zip(a, b, end, strict=True):
                at = expm(turn * np.array([[0.0, -1.0], [1.0, 0.0]])) @ [np.cos(start), np.sin(start)]
                np.testing.assert_allclose([np.cos(stop), np.sin(stop)], at, atol=1e-13)
                assert -np.pi <= stop < np.pi
            continue
        sign = np.diag([-1.0] + [1.0] * dim) if manifold is HYPERBOLOID else np.eye(dim + 1)
        turn = np.outer(b, sign @ a) - np.outer(a, sign @ b)
        turn = -turn if manifold is HYPERBOLOID else turn
        np.testing.assert_allclose(end, expm(turn) @ a, rtol=1e-11, atol=1e-12)


@every_manifold
def test_tangents_and_projections(manifold):
    """A derivative of a curve on the manifold is tangent; projecting twice changes nothing more."""
    x = drawn(manifold)
    v = tangents(manifold, x)
    h = 1e-5
    slope = (manifold.exp(x, h * v) - manifold.exp(x, -h * v)) / (2 * h)
    assert ((slope - v).abs().amax(1) < 1e-9 * (1 + v.norm(dim=1) ** 3)).all()
    torch.testing.assert_close(manifold.tangent(x, v), v, rtol=1e-12, atol=1e-12)
    moved = manifold.project(x + 0.1 * normal(*x.shape, seed=3))
    torch.testing.assert_close(manifold.project(moved), moved, rtol=0, atol=1e-15)
    manifold.distance(moved, x)  # no error: it lies on the manifold


def test_the_torus_is_a_circle_in_each_coordinate():
    x, y = 10 * normal(200, 3), 10 * normal(200, 3, seed=1)
    shifts = 2 * math.pi * torch.arange(-20, 21, dtype=F64)
    nearest = (y - x)[..., None].add(shifts).abs().amin(-1)
    torch.testing.assert_close(TORUS.distance(x, y), nearest.square().sum(1).sqrt(), rtol=0, atol=1e-13)
    edges = math.pi * torch.tensor([[-1.0, 1.0, 3.0, -3.0, 1.0 - 1e-16]], dtype=F64)
    assert ((TORUS.project(edges) >= -math.pi) & (TORUS.project(edges) < math.pi)).all()
    assert TORUS.log(torch.zeros(1, 1), torch.full((1, 1), math.pi)).abs().item() == pytest.approx(math.pi)


@pytest.mark.parametrize("make", [lambda x: x, lambda x: -x], ids=["the same", "next to the antipode"])
def test_gradients_are_finite_where_acos_has_none(make):
    x = SPHERE.uniform(5, 2, seeded(), F64)
    y = SPHERE.project(make(x) + (1e-6 if make(x)[0, 0] != x[0, 0] else 0)).requires_grad_()
    for value in (SPHERE.distance(x, y), SPHERE.log(x, y)):
        (slope,) = torch.autograd.grad(value.sum(), y)
        assert slope.isfinite().all()
    apex = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64, requires_grad=True)
    for value in (HYPERBOLOID.log(apex.detach(), apex), HYPERBOLOID.exp(apex.detach(), 0 * apex)):
        (slope,) = torch.autograd.grad(value.sum(), apex)
        assert slope.isfinite().all()


@every_manifold
def test_float32_stays_float32_and_close(manifold):
    x, y = drawn(manifold), drawn(manifold, seed=1)
    single = manifold.project(x.float()), manifold.project(y.float())
    log = manifold.log(*single)
    assert log.dtype == torch.float32
    torch.testing.assert_close(log.double(), manifold.log(x, y), rtol=1e-4, atol=1e-4)
    assert manifold.exp(single[0], log).dtype == manifold.distance(*single).dtype == torch.float32


# ---- uniform laws ----------------------------------------------------------------------------------------------------


def test_uniform_on_the_sphere_and_on_the_torus():
    """Archimedes: each coordinate of the uniform law on S^2 is uniform; on S^1 the angle is."""
    x = SPHERE.uniform(20_000, generator=seeded())
    assert all(kstest(column, "uniform", (-1, 2)).pvalue > 1e-4 for column in x.T.numpy())
    circle = SPHERE.uniform(20_000, 1, seeded(1))
    assert kstest(torch.atan2(circle[:, 1], circle[:, 0]).numpy(), "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-4
    angles = TORUS.uniform(20_000, 2, seeded(2))
    assert all(kstest(column, "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-4 for column in angles.T.numpy())


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_uniform_in_a_hyperbolic_ball(dim):
    """The volume within r grows as the integral of sinh^(dim-1), here by quadrature."""
    x = HYPERBOLOID.uniform(5000, dim, seeded(), F64, radius=2.0)
    apex = torch.eye(dim + 1, dtype=F64)[:1].expand_as(x)
    r = HYPERBOLOID.distance(apex, x).numpy()
    grid = np.linspace(0, 2, 400)
    volume = np.array([quad(lambda s: np.sinh(s) ** (dim - 1), 0, end)[0] for end in grid])
    assert kstest(r, lambda s: np.interp(s, grid, volume / volume[-1])).pvalue > 1e-4
    assert (x[:, 1:].mean(0).abs() < 4 * x[:, 1:].std(0) / 5000**0.5).all()


# ---- von Mises and Fisher --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [0.01, 3.0, 500.0])
def test_density_and_sampler_are_scipys(kappa):
    mu = np.array([0.6, 0.0, -0.8])
    law, truth = VonMisesFisher(torch.tensor(mu)[None], torch.tensor([kappa], dtype=F64)), vonmises_fisher(mu, kappa)
    x = law.sample(20_000, seeded())
    np.testing.assert_allclose(law.log_density(x).numpy(), truth.logpdf(x.numpy()), atol=1e-9)
    theirs = truth.rvs(20_000, random_state=np.random.default_rng(0))
    height = x.numpy() @ mu
    assert kstest(height, theirs @ mu).pvalue > 1e-4
    assert (
        kstest(height, lambda w: (np.exp(kappa * (w - 1)) - np.exp(-2 * kappa)) / -np.expm1(-2 * kappa)).pvalue > 1e-4
    )
    around = np.arctan2(x[:, 1].numpy(), x.numpy() @ np.array([0.8, 0.0, 0.6]))
    assert kstest(around, "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-4


def test_a_mixture_weighs_its_bumps():
    means = torch.tensor([[0.0, 0.0, 2.0], [1.0, 0.0, 0.0]], dtype=F64)
    kappa, weights = torch.tensor([5.0, 50.0], dtype=F64), torch.tensor([0.3, 0.7], dtype=F64)
    law, x = VonMisesFisher(means, kappa, weights), SPHERE.uniform(40, 2, seeded(), F64)
    parts = [
        w * vonmises_fisher(m / np.linalg.norm(m), k).pdf(x.numpy())
        for w, m, k in zip(weights.numpy(), means.numpy(), kappa.numpy(), strict=True)
    ]
    np.testing.assert_allclose(law.log_density(x).exp().numpy(), sum(parts), rtol=1e-10)
    share = (law.sample(20_000, seeded())[:, 0] > 0.7).double()
    cap = quad(
        lambda a: 2 * np.pi * np.sin(a) * vonmises_fisher([1, 0, 0], 50).pdf([np.cos(a), np.sin(a), 0.0]),
        0,
        np.arccos(0.7),
    )[0]
    assert abs(share.mean() - 0.7 * cap) < 0.02
    equal = VonMisesFisher(means, kappa).log_density(x)
    torch.testing.assert_close(equal, VonMisesFisher(means, kappa, torch.full_like(weights, 0.5)).log_density(x))


# ---- the geodesic path -----------------------------------------------------------------------------------------------


def slerp(manifold, x_0, x_1, t):
    """The geodesic from x_0 to x_1 by the formula for its ends, which knows no log."""
    if manifold is TORUS:
        way = torch.atan2((x_1 - x_0).sin(), (x_1 - x_0).cos())
        return x_0 + t * way
    form = torch.ones(x_0.shape[1], dtype=F64)
    form[0] = 1 if manifold is SPHERE else -1
    product = (x_0 * form * x_1).sum(1, keepdim=True)
    far = product.acos() if manifold is SPHERE else (-product).acosh()
    sine = torch.sin if manifold is SPHERE else torch.sinh
    return (sine((1 - t) * far) * x_0 + sine(t * far) * x_1) / sine(far)


@pytest.mark.parametrize(
    "schedule", [schedules.CondOT(), schedules.Cosine(), schedules.Polynomial(3.0)], ids=lambda s: type(s).__name__
)
@every_manifold
def test_the_path_is_the_slerp_and_its_velocity_the_derivative(manifold, schedule):
    x_0, x_1 = drawn(manifold), drawn(manifold, seed=1)
    t = torch.rand(50, generator=seeded(2), dtype=F64)
    t[:3] = torch.tensor([0.0, 1.0, 0.5])
    point = GeodesicPath(manifold, schedule).sample(x_0, x_1, t)
    time = t.clone().requires_grad_()
    curve = slerp(manifold, x_0, x_1, schedule.alpha(time)[:, None])
    slope = torch.stack([torch.autograd.grad(c.sum(), time, retain_graph=True)[0] for c in curve.T], 1)
    torch.testing.assert_close(point.x_t, manifold.project(curve.detach()), rtol=0, atol=1e-9)
    torch.testing.assert_close(point.velocity, slope, rtol=0, atol=1e-9)
    assert torch.equal(point.t, t) and point.x_0 is x_0 and point.x_1 is x_1


def test_the_path_on_the_sphere_is_scipys_geometric_slerp():
    x_0, x_1 = drawn(SPHERE, 5, dim=3), drawn(SPHERE, 5, dim=3, seed=1)
    for t in (0.0, 0.2, 0.9, 1.0):
        made = GeodesicPath(SPHERE).sample(x_0, x_1, t)
        expected = [geometric_slerp(a, b, t) for a, b in zip(x_0.numpy(), x_1.numpy(), strict=True)]
        np.testing.assert_allclose(made.x_t.numpy(), expected, atol=1e-12)
        far = SPHERE.distance(made.x_t, x_1)
        torch.testing.assert_close(far, (1 - t) * SPHERE.distance(x_0, x_1), rtol=0, atol=1e-12)


def test_fit_takes_the_path_and_the_samples_stay_on_the_sphere_in_float32():
    law = VonMisesFisher(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([10.0]))
    network, loss = models.Tangent(models.MLP(3, 32, 2), SPHERE), VelocityMatching(GeodesicPath(SPHERE))
    options = {"steps": 150, "learning_rate": 1e-2, "device": "cpu", "progress": False}
    model = fit(network, law.sample, source=SPHERE.uniform, loss=loss, **options).model
    x_0 = SPHERE.uniform(500, generator=seeded())
    for method in (solvers.projected("midpoint", project=SPHERE.project), solvers.geodesic(SPHERE)):
        x_1 = sampling.sample(model, x_0, steps=20, method=method)
        assert (x_1.double().norm(dim=1) - 1).abs().max() < 1e-6
        assert x_1[:, 2].mean() > 0.8  # of the law: coth(10) - 1 / 10 = 0.9
    off = sampling.sample(model, x_0, steps=20, method="euler").double().norm(dim=1)
    assert (off - 1).abs().max() > 1e-3


# ---- steps on a manifold ---------------------------------------------------------------------------------------------

A = torch.tensor([[0.9, -1.3, 0.2], [0.4, -0.5, 1.1], [-0.8, 0.3, 0.1]], dtype=F64)


def spun(x, t):
    """P_x A x at x / |x|: its flow is e^(tA) x, brought to the sphere."""
    x = x / x.norm(dim=1, keepdim=True)
    return x @ A.T - (x * (x @ A.T)).sum(1, keepdim=True) * x


BOOST = torch.tensor([[0.0, 0.6, -0.3], [0.6, 0.0, 1.2], [-0.3, -1.2, 0.0]], dtype=F64)  # keeps <x, x>_L


@pytest.mark.parametrize(
    "step, order",
    [
        (solvers.projected(name, SPHERE.project), k)
        for name, k in [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)]
    ]
    + [(solvers.geodesic(SPHERE), 2), (solvers.geodesic(HYPERBOLOID), 2)],
    ids=["euler", "midpoint", "heun", "rk4", "geodesic", "geodesic, hyperbolic"],
)
def test_orders_on_the_manifold(step, order, request):
    hyperbolic = "hyperbolic" in request.node.callspec.id
    x_0, matrix = (HYPERBOLOID if hyperbolic else SPHERE).uniform(50, 2, seeded(), F64), BOOST if hyperbolic else A
    end = x_0 @ torch.linalg.matrix_exp(matrix).T
    end = end if hyperbolic else SPHERE.project(end)
    velocity = (lambda x, t: x @ BOOST.T) if hyperbolic else spun
    errors = []
    for steps in (64, 128, 256):
        x_1 = sampling.sample(velocity, x_0, steps=steps, method=step)
        (HYPERBOLOID if hyperbolic else SPHERE).distance(x_1, end)  # no error: it lies on the manifold
        errors.append((x_1 - end).norm().log2().item())
    assert errors[0] - errors[2] == pytest.approx(2 * order, abs=0.2)


def test_a_projected_step_in_parts_and_with_a_trajectory_gives_the_same():
    network, x_0 = models.Tangent(models.MLP(3, 16, 1), SPHERE), SPHERE.uniform(300, generator=seeded())
    assert network.rowwise
    step = solvers.projected("midpoint", project=SPHERE.project)
    whole = sampling.sample(network, x_0, steps=4, method=step, chunk=None)
    torch.testing.assert_close(sampling.sample(network, x_0, steps=4, method=step, chunk=7), whole)
    torch.testing.assert_close(sampling.sample(network, x_0, steps=4, method=step), whole)
    way = sampling.sample(network, x_0, steps=4, method=step, return_path=True)
    assert way.nfe == 8 and torch.allclose(way.x[-1], whole)


# ---- the exact marginal path -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("t", [0.0, 0.4, 0.9])
def test_one_point_by_quadrature(dim, t):
    """The angle to x_1 shrinks by 1 - t, so P(angle < a) is that of the uniform law at a / (1 - t)."""
    pole = torch.eye(dim + 1, dtype=F64)[:1]
    path, area = exact.SpherePath(pole), [2.0, 2 * math.pi, 4 * math.pi][dim - 1]

    def ring(a):
        x = torch.zeros(1, dim + 1, dtype=F64)
        x[0, 0], x[0, 1] = math.cos(a), math.sin(a)
        return area * math.sin(a) ** (dim - 1) * path.log_density(x, t).exp().item()

    edge = math.pi * (1 - t)
    total = quad(lambda a: math.sin(a) ** (dim - 1), 0, math.pi)[0]
    for share in (0.3, 0.7, 1.0):
        measured = quad(ring, 0, share * edge * (1 - 1e-9), limit=200)[0]
        expected = quad(lambda a: math.sin(a) ** (dim - 1), 0, share * math.pi)[0] / total
        assert measured == pytest.approx(expected, abs=1e-7)
    outside = torch.zeros(1, dim + 1, dtype=F64)
    outside[0, 0], outside[0, 1] = math.cos(edge + 0.05), math.sin(edge + 0.05)
    assert t == 0.0 or path.log_density(outside, t).item() == -math.inf


def lattice(n):
    """n points spread evenly over the sphere along a spiral."""
    k = torch.arange(n, dtype=F64) + 0.5
    height, angle = 1 - 2 * k / n, math.pi * (1 + 5**0.5) * k
    side = (1 - height**2).sqrt()
    return SPHERE.project(torch.stack([side * angle.cos(), side * angle.sin(), height], 1))


@pytest.mark.parametrize("t", [0.0, 0.3, 0.6])
def test_total_mass_and_samples_of_the_marginal(t):
    path = exact.SpherePath(drawn(SPHERE, 7, seed=5))
    grid = lattice(20_000)
    density = path.log_density(grid, t).exp()
    assert 4 * math.pi * density.mean().item() == pytest.approx(1, abs=1e-3)
    x = path.sample(20_000, t, seeded(1))
    moments = [(x, grid), (x[:, :1] * x, grid[:, :1] * grid)]
    for drawn_, at in moments:
        expected = 4 * math.pi * (density[:, None] * at).mean(0)
        assert ((drawn_.mean(0) - expected).abs() < 4 * drawn_.std(0) / 20_000**0.5 + 1e-3).all()


def test_the_velocity_and_the_density_meet_the_continuity_equation():
    path, x, t, h = exact.SpherePath(drawn(SPHERE, 40, seed=5)), drawn(SPHERE, 30, seed=6), 0.35, 1e-5
    rate = (path.log_density(x, t + h).exp() - path.log_density(x, t - h).exp()) / (2 * h)
    point = x.clone().requires_grad_()
    unit = point / point.norm(dim=1, keepdim=True)
    flux = path.log_density(unit, t).exp()[:, None] * path.velocity(unit, t)
    flow = sum(torch.autograd.grad(flux[:, i].sum(), point, retain_graph=True)[0][:, i] for i in range(3))
    torch.testing.assert_close(rate, -flow.detach(), rtol=1e-5, atol=1e-7)


def test_posterior_weights_by_counting():
    """Of many pairs that pass near x at t, the share that goes to each data point."""
    data, x, t = drawn(SPHERE, 4, seed=5), drawn(SPHERE, 1, seed=7), 0.3
    n = 400_000
    rows = torch.randint(4, (n,), generator=seeded(1))
    x_0 = SPHERE.uniform(n, 2, seeded(2), F64)
    x_t = GeodesicPath(SPHERE).sample(x_0, data[rows], t).x_t
    near = (x_t - x).norm(dim=1) < 0.15
    share = torch.bincount(rows[near], minlength=4) / near.sum()
    expected = exact.SpherePath(data).posterior(x, t)[0]
    assert (share - expected).abs().max() < 0.03 and expected.max() < 0.9


def test_in_a_hole_of_the_support_the_nearest_point_leads():
    data = torch.eye(3, dtype=F64)
    x = SPHERE.project(torch.tensor([[-1.0, -1.2, -1.1]], dtype=F64))
    path, t = exact.SpherePath(data), 0.9
    assert path.log_density(x, t).item() == -math.inf
    nearest = int(SPHERE.distance(x.expand(3, 3), data).argmin())
    torch.testing.assert_close(path.velocity(x, t), SPHERE.log(x, data[nearest : nearest + 1]) / (1 - t))
    assert path.posterior(x, t)[0, nearest].item() == 1


@pytest.mark.parametrize("dtype, short", [(torch.float32, 1e-3), (F64, 1e-5)])
def test_short_of_the_antipode_the_velocity_is_still_tangent_and_of_the_length_of_the_way(dtype, short):
    """Toward the one data point, in the plane of both: (pi - short) / (1 - t) along the great circle."""
    data = SPHERE.project(torch.tensor([[1.0, 2.0, 3.0]], dtype=F64))
    side = torch.linalg.cross(data, torch.tensor([[0.0, 0.0, 1.0]], dtype=F64))
    side = side / side.norm()
    x = -math.cos(short) * data + math.sin(short) * side
    expected = (math.pi - short) / 0.75 * (math.cos(short) * side + math.sin(short) * data)
    value = exact.SpherePath(data.to(dtype)).velocity(x.to(dtype), 0.25).double()
    allowed = 10 * torch.finfo(dtype).eps / short  # what the rounding of x and data turns the great circle by
    assert (value - expected).norm() < allowed
    worked_out = 10 * torch.finfo(F64).eps / short
    assert (value * x).sum().abs() < 20 * torch.finfo(dtype).eps + worked_out


# ---- likelihood on the sphere ----------------------------------------------------------------------------------------


class Linear(torch.nn.Module):
    """x -> A x, whose flow on the sphere turns the uniform law into an angular central Gaussian."""

    rowwise = True

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(A.clone())

    def forward(self, x, t):
        return x @ self.weight.T


def uniform_log_prob(x):
    return torch.full((len(x),), -math.log(4 * math.pi), dtype=x.dtype)


def test_likelihood_of_a_linear_flow_is_the_angular_central_gaussian():
    """p(x) = (x^T (M M^T)^-1 x)^(-3/2) / (4 pi det M), M = e^A (Tyler 1987)."""
    velocity, x = models.Tangent(Linear(), SPHERE), drawn(SPHERE)
    m = torch.linalg.matrix_exp(A)
    form = (x @ torch.linalg.inv(m @ m.T) * x).sum(1)
    expected = -1.5 * form.log() - math.log(4 * math.pi) - torch.logdet(m)
    found = likelihood.log_likelihood(velocity, x, steps=50, method="rk4", source_log_prob=uniform_log_prob)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_tangent_network_is_tangent_everywhere_and_its_divergence_is_the_spheres():
    """The divergence of P_x A x is tr A - 3 x^T A x."""
    velocity, x = models.Tangent(Linear(), SPHERE), drawn(SPHERE)
    assert (velocity(3 * x, 0.2) * x).sum(1).abs().max() < 1e-14
    torch.testing.assert_close(velocity(3 * x, 0.2), velocity(x, 0.2))
    point = x.clone().requires_grad_()
    u = velocity(point, 0.2)
    trace = sum(torch.autograd.grad(u[:, i].sum(), point, retain_graph=True)[0][:, i] for i in range(3))
    torch.testing.assert_close(trace, A.trace() - 3 * (x @ A * x).sum(1), rtol=0, atol=1e-12)


def test_likelihood_along_the_exact_flow_is_the_exact_density():
    path, x = exact.SpherePath(drawn(SPHERE, 150, seed=5)), drawn(SPHERE, 40, seed=6)

    def slowed(x, t):  # to t = 0.5 in a unit of time
        return 0.5 * path.velocity(SPHERE.project(x), 0.5 * t)

    found = likelihood.log_likelihood(slowed, x, steps=40, method="rk4", source_log_prob=uniform_log_prob)
    assert (found - path.log_density(x, 0.5)).abs().mean() < 5e-3


# ---- clouds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points, dim", [(3, 2), (5, 3)])
def test_the_equivariant_network_turns_mirrors_renumbers_and_does_not_see_shifts(points, dim):
    network, x = models.Equivariant(points, dim).double(), normal(20, points, dim)
    turn = torch.linalg.qr(normal(dim, dim, seed=1)).Q  # a rotation or a reflection
    order, t = torch.randperm(points), torch.rand(20, dtype=F64)
    value = network(x, t)
    for q in (turn, torch.cat([-turn[:, :1], turn[:, 1:]], 1)):
        moved = (x @ q.T)[:, order] + 3.0
        torch.testing.assert_close(network(moved, t), (value @ q.T)[:, order], rtol=1e-10, atol=1e-12)
    assert value.norm() > 1e-2 and (network(x, 0.1) - network(x, 0.9)).norm() > 1e-3
    other = x.clone()
    other[:, 0] *= 2
    assert (network(other, t)[:, 1] - value[:, 1]).norm() > 1e-3  # the points see one another
    torch.testing.assert_close(network(x[:4], t[:4]), value[:4])


# ---- what is refused -------------------------------------------------------------------------------------------------

X, V = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
BAD = {
    "off the sphere": (lambda: SPHERE.log(1.01 * X, V), ValueError, "x is off the sphere by 0.01"),
    "off the sphere, y": (lambda: SPHERE.distance(X, 2 * V), ValueError, "y is off the sphere by 1:"),
    "off the hyperboloid": (lambda: HYPERBOLOID.log(X, V), ValueError, r"y is off the hyperboloid by 1.4"),
    "the lower sheet": (lambda: HYPERBOLOID.distance(X, -X), ValueError, "y is off the hyperboloid by 2"),
    "antipodes": (lambda: SPHERE.log(X.expand(2, 3), torch.cat([V, -X])), ValueError, "antipodes, .* row 1 of y"),
    "no tangent": (lambda: SPHERE.exp(X, V + 0.3 * X), ValueError, "v is not tangent to the sphere at x, by 0.29"),
    "no tangent, inner": (lambda: HYPERBOLOID.inner(X, V, X), ValueError, "v is not tangent to the hyperboloid"),
    "the origin": (lambda: SPHERE.project(0 * X), ValueError, "zero vector"),
    "shapes": (lambda: SPHERE.exp(X, V[:, :2]), ValueError, r"one shape, got \(1, 3\) and \(1, 2\)"),
    "broadcasting": (lambda: TORUS.log(X, V.expand(2, 3)), ValueError, "one shape"),
    "three axes": (lambda: TORUS.project(X[None]), ValueError, r"\(batch, coordinates\), got \(1, 1, 3\)"),
    "dtypes": (lambda: SPHERE.log(X, V.double()), TypeError, "one dtype"),
    "integers": (lambda: TORUS.project(torch.ones(2, 2, dtype=torch.int64)), TypeError, "floating"),
    "NaN": (lambda: SPHERE.project(X * torch.nan), ValueError, "3 NaN"),
    "no points": (lambda: SPHERE.uniform(0), ValueError, "n must be at least 1"),
    "no dimension": (lambda: TORUS.uniform(3, 0), ValueError, "dim must be at least 1"),
    "no radius": (lambda: HYPERBOLOID.uniform(3, radius=0), ValueError, "radius must be positive"),
    "a large radius": (lambda: HYPERBOLOID.uniform(3, radius=50.0), ValueError, "radius must be at most 44.4 in 2 dim"),
    "many dimensions": (lambda: HYPERBOLOID.uniform(3, 50, radius=5.0), ValueError, "must be at most 1.81 in 50 dim"),
    "a seed": (lambda: SPHERE.uniform(3, 2, 0), TypeError, "generator must be a torch.Generator or None, got 0"),
    "too long": (lambda: SPHERE.project(1e30 * X), ValueError, "length is no number in torch.float32"),
    "infinite": (lambda: SPHERE.project(X / 0), ValueError, "x has 3 NaN or infinite"),
    "a class": (lambda: GeodesicPath(Sphere), TypeError, r"got the class itself: write Sphere\(...\)"),
    "step, class": (lambda: solvers.geodesic(Sphere), TypeError, r"got the class itself: write Sphere\(...\)"),
    "network, class": (lambda: models.Tangent(models.MLP(3), Torus), TypeError, r"write Torus\(...\)"),
    "network, flow map": (
        lambda: sampling.sample(models.Tangent(models.MLP(3, until=True), SPHERE), X, method=solvers.flow_map, steps=1),
        ValueError,
        "Tangent is for velocities, and takes no s=",
    ),
    "marginal, two points": (lambda: exact.SpherePath(X[:, :1]), ValueError, "two or more coordinates, .* got 1"),
    "marginal, antipode": (lambda: exact.SpherePath(X).velocity(-X, 0.3), ValueError, "antipode .* in row 0"),
    "path, no manifold": (lambda: GeodesicPath("sphere"), TypeError, "methods exp"),
    "path, schedule": (lambda: GeodesicPath(SPHERE, Backwards()), ValueError, "needs alpha_0 = 0"),
    "path, off": (lambda: GeodesicPath(SPHERE).sample(X, 2 * V, 0.5), ValueError, "y is off the sphere by 1"),
    "path, time": (lambda: GeodesicPath(SPHERE).sample(X, V, 1.5), ValueError, "t must lie"),
    "path, antipodes": (lambda: GeodesicPath(SPHERE).sample(X, -X, 0.5), ValueError, "antipodes"),
    "marginal, data": (lambda: exact.SpherePath(2 * X), ValueError, "data is off the sphere by 1"),
    "marginal, x": (lambda: exact.SpherePath(X).velocity(2 * V, 0.5), ValueError, "x is off the sphere by 1"),
    "marginal, end": (lambda: exact.SpherePath(X).velocity(V, 1.0), ValueError, "t must be less than 1"),
    "marginal, shape": (lambda: exact.SpherePath(X).velocity(V[:, :2], 0.5), ValueError, r"shape \(batch, 3\)"),
    "law, means": (lambda: VonMisesFisher(X[:, :2], torch.ones(1)), ValueError, r"\(K, 3\), got \(1, 2\)"),
    "law, zero": (lambda: VonMisesFisher(0 * X, torch.ones(1)), ValueError, "must not be zero"),
    "law, kappa": (lambda: VonMisesFisher(X, -torch.ones(1)), ValueError, r"1 positive numbers, got \[-1.0\]"),
    "law, number": (lambda: VonMisesFisher(X, 5.0), TypeError, "concentrations must be a torch.Tensor, got float"),
    "law, weights": (
        lambda: VonMisesFisher(X, torch.ones(1), 0.5 * torch.ones(1)),
        ValueError,
        r"sum to 1, got \[0.5\]",
    ),
    "law, x": (lambda: VonMisesFisher(X, torch.ones(1)).log_density(2 * V), ValueError, "x is off the sphere by 1"),
    "step, adaptive": (lambda: solvers.projected("dopri5", SPHERE.project), ValueError, "fixed steps, got 'dopri5'"),
    "step, project": (lambda: solvers.projected("euler", None), TypeError, "project must be a function"),
    "step, shape": (
        lambda: sampling.sample(spun, X.double(), method=solvers.projected("euler", lambda x: x[:, :2])),
        ValueError,
        "project must return a tensor like x",
    ),
    "step, manifold": (lambda: solvers.geodesic("sphere"), TypeError, "methods exp"),
    "network, manifold": (lambda: models.Tangent(models.MLP(3), "sphere"), TypeError, "methods project"),
    "cloud of one": (lambda: models.Equivariant(1, 2), ValueError, "points must be at least 2"),
    "cloud, shape": (lambda: models.Equivariant(3, 2)(torch.zeros(4, 6), 0.5), ValueError, r"\(batch, 3, 2\)"),
}


class Backwards(schedules.CondOT):
    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t


@pytest.mark.parametrize("call, kind, message", BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence(call, kind, message):
    with pytest.raises(kind, match=message) as error:
        call()
    assert one_sentence(error)


def test_values_are_not_looked_at_where_that_would_stop_an_accelerator():
    """On the meta device there are no values: the same operations, and no check that reads one."""
    x = X.to("meta")
    assert SPHERE.exp(x, x).shape == SPHERE.log(x, x).shape == HYPERBOLOID.log(x, x).shape == (1, 3)
