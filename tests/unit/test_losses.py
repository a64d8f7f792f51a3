"""`losses`: against scipy, torch.nn.functional, closed-form gradients, high precision and brute force."""

import math

import pytest
import scipy.special
import torch
from helpers import F64, normal, one_sentence, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from fmlib import losses
from fmlib.losses import Bregman

A = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.7]], dtype=F64)
INSTANCES = {
    "squared": losses.squared,
    "mahalanobis": losses.mahalanobis(A),
    "generalised_kl": losses.generalised_kl,
    "itakura_saito": losses.itakura_saito,
    "logistic": losses.logistic,
    "softmax": losses.softmax_cross_entropy,
}
every = pytest.mark.parametrize("name, loss", INSTANCES.items(), ids=INSTANCES)


def targets(name: str, n: int, seed: int = 0) -> torch.Tensor:
    """Random targets inside the domain of each divergence, (n, 3)."""
    z = normal(n, 3, seed=seed)
    return {"squared": z, "mahalanobis": z, "softmax": z.softmax(1), "logistic": z.sigmoid()}.get(name, z.exp())


def predictions(name: str, n: int, seed: int = 1) -> torch.Tensor:
    z = normal(n, 3, seed=seed)
    return z.exp() if name in ("generalised_kl", "itakura_saito") else z


def as_prediction(name: str, point: torch.Tensor) -> torch.Tensor:
    """The prediction that stands for the point v: a logit for the two cross-entropies, v itself otherwise."""
    return {"logistic": torch.logit, "softmax": torch.log}.get(name, lambda v: v)(point)


def truth(name: str, u: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Each divergence per row, from scipy and torch.nn.functional or plain loops."""
    v = prediction.numpy()
    if name == "squared":
        return F.mse_loss(prediction, u, reduction="none").sum(1)
    if name == "mahalanobis":
        return torch.stack([(a - b) @ A @ (a - b) for a, b in zip(u, prediction, strict=True)])
    if name == "generalised_kl":
        return torch.from_numpy(scipy.special.kl_div(u.numpy(), v).sum(1))
    if name == "itakura_saito":
        terms = [[a / b - math.log(a / b) - 1 for a, b in zip(r, s, strict=True)]
                 for r, s in zip(u.tolist(), prediction.tolist(), strict=True)]  # fmt: skip
        return torch.tensor(terms, dtype=F64).sum(1)
    if name == "logistic":
        entropy = (scipy.special.entr(u.numpy()) + scipy.special.entr(1 - u.numpy())).sum(1)
        return F.binary_cross_entropy_with_logits(prediction, u, reduction="none").sum(1) - torch.from_numpy(entropy)
    return F.cross_entropy(prediction, u, reduction="none") - torch.from_numpy(scipy.special.entr(u.numpy()).sum(1))


@every
def test_value_against_an_independent_formula(name, loss):
    u, z = targets(name, 200), predictions(name, 200)
    torch.testing.assert_close(loss(u, z, reduction="none"), truth(name, u, z), rtol=1e-12, atol=1e-13)


@every
def test_the_stable_form_is_the_definition_by_autograd(name, loss):
    """Phi(u) - Phi(v) - <u - v, grad Phi(v)> from the potential and autograd alone, at v = link(prediction)."""
    u, z = targets(name, 200), predictions(name, 200)
    bare = Bregman(loss.potential)
    torch.testing.assert_close(loss(u, z, reduction="none"), bare.definition(u, loss.point(z)), rtol=1e-11, atol=1e-12)
    v = loss.point(z)
    torch.testing.assert_close(loss._slope(v), bare._slope(v), rtol=1e-11, atol=1e-12)


@every
def test_gradient_in_closed_form(name, loss):
    u, z = targets(name, 50), predictions(name, 50).requires_grad_()
    expected = {
        "squared": lambda: 2 * (z - u),
        "mahalanobis": lambda: 2 * (z - u) @ A,
        "generalised_kl": lambda: 1 - u / z,
        "itakura_saito": lambda: (z - u) / z**2,
        "logistic": lambda: z.sigmoid() - u,
        "softmax": lambda: z.softmax(1) - u,
    }[name]().detach()
    got = torch.autograd.grad(loss(u, z, reduction="sum"), z)[0]
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    if loss.link is None:  # without gradient and form: autograd through the definition, twice through the potential
        bare = Bregman(loss.potential)
        got = torch.autograd.grad(bare(u, z, reduction="sum"), z)[0]
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


@every
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 3))
def test_never_negative_and_zero_only_at_the_target(name, loss, seed, scale):
    u = targets(name, 20, seed)
    z = predictions(name, 20, seed + 1)
    z = z**scale if name in ("generalised_kl", "itakura_saito") else z * scale
    value = loss(u, z, reduction="none")
    assert (value > 0).all()  # two continuous draws are never equal
    at_target = loss(u, as_prediction(name, u), reduction="none")
    assert at_target.abs().max() < 1e-14


@every
@given(seed=st.integers(0, 10**6), weight=st.floats(0, 1))
def test_convex_in_the_target(name, loss, seed, weight):
    a, b, z = targets(name, 20, seed), targets(name, 20, seed + 1), predictions(name, 20, seed + 2)
    mixed = loss(weight * a + (1 - weight) * b, z, reduction="none")
    bound = weight * loss(a, z, reduction="none") + (1 - weight) * loss(b, z, reduction="none")
    assert (mixed <= bound + 1e-12 * (1 + bound)).all()


@every
@given(seed=st.integers(0, 10**6), weight=st.floats(0, 1))
def test_gradient_is_affine_in_the_target(name, loss, seed, weight):
    """The property behind the theorem; it is false for |u - v|, for Huber and for swapped arguments."""
    a, b, z = targets(name, 20, seed), targets(name, 20, seed + 1), predictions(name, 20, seed + 2).requires_grad_()

    def slope(u):
        return torch.autograd.grad(loss(u, z, reduction="sum"), z)[0]

    expected = weight * slope(a) + (1 - weight) * slope(b)
    torch.testing.assert_close(slope(weight * a + (1 - weight) * b), expected, rtol=1e-9, atol=1e-10)


@every
def test_the_mean_minimises_the_average(name, loss):
    """Against every other of many constants, and by the gap E D(Y, v) - E D(Y, mean) = D(mean, v)."""
    u = targets(name, 60)
    mean = u.mean(0, keepdim=True)
    at_mean = loss(u, as_prediction(name, mean).expand_as(u))
    for z in predictions(name, 50):
        gap = loss(u, z.expand_as(u)) - at_mean
        assert gap > 0
        torch.testing.assert_close(gap, loss(mean, z[None]), rtol=1e-9, atol=1e-11)


def test_swapped_arguments_are_minimised_elsewhere():
    """E D(v, Y) of the generalised KL is least at the geometric mean, so the order of the arguments matters."""
    u = targets("generalised_kl", 400)
    geometric, mean = u.log().mean(0).exp(), u.mean(0)

    def swapped(v):
        return losses.generalised_kl(v.expand_as(u), u)

    assert swapped(geometric) < swapped(mean) - 0.1
    assert all(swapped(geometric * c) > swapped(geometric) for c in (0.9, 1.1))


@every
@given(dims=st.lists(st.integers(1, 3), min_size=1, max_size=3), n=st.integers(1, 4))
def test_shapes_and_reductions(name, loss, dims, n):
    if name == "mahalanobis":
        d = math.prod(dims)
        loss = losses.mahalanobis(torch.eye(d, dtype=F64) * 2)
    z = normal(n, *dims)
    u = {"softmax": z.softmax(-1), "logistic": z.sigmoid()}.get(name, z.exp())
    z = normal(n, *dims, seed=1).exp()
    each = loss(u, z, reduction="none")
    assert each.shape == (n,)
    assert loss(u, z).shape == loss(u, z, reduction="sum").shape == ()
    torch.testing.assert_close(loss(u, z, reduction="sum"), each.sum())
    torch.testing.assert_close(loss(u, z), each.sum() / n)
    torch.testing.assert_close(loss(u[:1], z[:1]), each[0])  # a row's loss is its own


@every
def test_dtype_follows_the_input(name, loss):
    u, z = targets(name, 30), predictions(name, 30)
    assert loss(u, z).dtype == F64
    single = loss(u.float(), z.float(), reduction="none")
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), loss(u, z, reduction="none"), rtol=1e-5, atol=1e-5)


@every
def test_gradients_flow_to_the_prediction_only_where_asked(name, loss):
    u, z = targets(name, 5), predictions(name, 5)
    assert not loss(u, z).requires_grad
    parameter = z.clone().requires_grad_()
    with torch.no_grad():
        assert not loss(u, parameter).requires_grad
        assert not Bregman(losses.squared.potential)(u, parameter).requires_grad
    loss(u, parameter).backward()
    assert parameter.grad.isfinite().all() and u.grad is None


def test_gradient_reaches_a_network_through_a_bare_potential():
    x, u = normal(8, 3), normal(8, 2, seed=1)
    net = torch.nn.Linear(3, 2, dtype=F64)
    bare = torch.autograd.grad(Bregman(losses.squared.potential)(u, net(x)), net.weight)[0]
    plain = torch.autograd.grad((net(x) - u).square().sum(1).mean(), net.weight)[0]
    torch.testing.assert_close(bare, plain)


@every
def test_rounding_never_makes_it_negative_and_never_takes_the_gradient(name, loss):
    """float32, next to the target, where D is far below the terms that make it; gradients against float64."""
    u = targets(name, 3000).float()
    if name == "softmax":
        u = u / u.sum(1, keepdim=True)
    bare = Bregman(loss.potential, loss.gradient, loss.link)
    for scale in (0.0, 1e-7, 1e-5, 1e-3):
        z = as_prediction(name, u.double()).float() * (1 + scale * normal(3000, 3, seed=3).float())
        z.requires_grad_()
        value = loss(u, z, reduction="none")
        assert (value >= 0).all()
        slope, wide = torch.autograd.grad(value.sum(), z)[0], z.detach().double().requires_grad_()
        expected = torch.autograd.grad(truth_with_gradient(name, u.double(), wide), wide)[0]
        torch.testing.assert_close(slope.double(), expected, rtol=1e-4, atol=2e-6 * max(1, expected.abs().max().item()))
        assert (bare(u, z.detach(), reduction="none") >= 0).all()


def truth_with_gradient(name: str, u: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """The sum over a batch of each divergence, up to a constant in the prediction, by plain autograd in float64."""
    return {
        "squared": lambda: (u - z).square(),
        "mahalanobis": lambda: (u - z) @ A * (u - z),
        "generalised_kl": lambda: z - u * z.log(),
        "itakura_saito": lambda: u / z + z.log(),
        "logistic": lambda: F.binary_cross_entropy_with_logits(z, u, reduction="none"),
        "softmax": lambda: -u * z.log_softmax(1),
    }[name]().sum()


# Ends of the domains and digits


def test_boundary_targets_are_fine():
    zero, one, z = torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64), torch.tensor([[2.0]], dtype=F64)
    assert losses.generalised_kl(zero, z).item() == 2
    assert losses.logistic(one, z).item() == pytest.approx(math.log1p(math.exp(-2)), rel=1e-14)
    assert losses.logistic(zero, z).item() == pytest.approx(math.log1p(math.exp(2)), rel=1e-14)
    onehot = torch.eye(3, dtype=F64)
    logits = normal(3, 3)
    torch.testing.assert_close(losses.softmax_cross_entropy(onehot, logits), F.cross_entropy(logits, torch.arange(3)))
    for loss, u, start in [
        (losses.generalised_kl, zero, 2.0),
        (losses.logistic, one, 0.3),
        (losses.logistic, zero, 0.3),
    ]:
        p = torch.tensor([[start]], dtype=F64, requires_grad=True)
        assert torch.autograd.grad(loss(u, p), p)[0].isfinite().all()


def test_large_logits_keep_their_digits():
    """At a logit of +-60 probabilities round to 0 and 1; the loss and its gradient must not."""
    u, z = torch.tensor([[1.0], [0.0], [1.0]], dtype=F64), torch.tensor([[60.0], [-60.0], [-500.0]], dtype=F64)
    z.requires_grad_()
    value = losses.logistic(u, z, reduction="none")
    slope = torch.autograd.grad(value.sum(), z)[0].flatten()
    tiny = math.exp(-60)
    torch.testing.assert_close(value, torch.tensor([tiny, tiny, 500.0], dtype=F64), rtol=1e-12, atol=0)
    torch.testing.assert_close(slope, torch.tensor([-tiny, tiny, -1.0], dtype=F64), rtol=1e-12, atol=0)
    u, logits = torch.tensor([[1.0, 0.0]], dtype=F64), torch.tensor([[-800.0, 0.0]], dtype=F64, requires_grad=True)
    value = losses.softmax_cross_entropy(u, logits)
    slope = torch.autograd.grad(value, logits)[0]
    assert value.item() == 800 and slope.tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("loss, curvature", [(losses.generalised_kl, 1), (losses.itakura_saito, 2)])
@pytest.mark.parametrize("gap", [1e-2, 1e-3, 1e-4])
def test_predictions_close_to_the_target_keep_their_digits(loss, curvature, gap):
    """float32 against 50 digits: near the target D is (u - v)^2 / (2 v^curvature), far below the terms that make it."""
    import decimal

    decimal.getcontext().prec = 50
    u = torch.tensor([[0.7]])
    v = u * (1 + gap)
    a, b = decimal.Decimal(u.item()), decimal.Decimal(v.item())
    exact = a * (a / b).ln() - a + b if curvature == 1 else a / b - (a / b).ln() - 1
    assert loss(u, v).item() == pytest.approx(float(exact), rel=2e-6 / gap)


@pytest.mark.parametrize("loss", [losses.generalised_kl, losses.itakura_saito])
def test_extreme_ratios(loss):
    for u, v in [(1e-20, 1.0), (1.0, 1e-20), (1e-20, 1e20)]:
        a, b = torch.tensor([[u]], dtype=F64), torch.tensor([[v]], dtype=F64, requires_grad=True)
        value = loss(a, b)
        kl = u * (math.log(u) - math.log(v)) - u + v
        expected = kl if loss is losses.generalised_kl else u / v - (math.log(u) - math.log(v)) - 1
        assert value.item() == pytest.approx(expected, rel=1e-12)
        assert torch.autograd.grad(value, b)[0].isfinite().all()


def test_itakura_saito_sees_ratios_only():
    u, v = targets("itakura_saito", 20), predictions("itakura_saito", 20)
    torch.testing.assert_close(losses.itakura_saito(1e3 * u, 1e3 * v), losses.itakura_saito(u, v))


# Potentials of one's own


def test_any_convex_potential_is_a_loss():
    """log-sum-exp, with the gradient from autograd: D is the KL of softmaxes, arguments reversed."""
    u, v = normal(40, 4), normal(40, 4, seed=1)
    loss = Bregman(lambda x: x.logsumexp(1))
    expected = scipy.special.rel_entr(v.softmax(1).numpy(), u.softmax(1).numpy()).sum(1)
    torch.testing.assert_close(loss(u, v, reduction="none"), torch.from_numpy(expected), rtol=1e-10, atol=1e-12)
    given_slope = Bregman(lambda x: x.logsumexp(1), gradient=lambda x: x.softmax(1))
    torch.testing.assert_close(given_slope(u, v, reduction="none"), torch.from_numpy(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e4])
def test_rounding_is_no_alarm(dtype, offset):
    """Nearly equal points give divergences that round below zero; only a real loss of convexity may be reported."""
    u = normal(2000, 5).to(dtype).abs() + offset + 0.1
    for eps in (0.0, 1e-7, 1e-4):
        v = u * (1 + eps * normal(2000, 5, seed=2).to(dtype))
        for potential in (losses.squared.potential, losses.generalised_kl.potential, losses.itakura_saito.potential):
            assert Bregman(potential)(u, v).isfinite()


@pytest.mark.parametrize(
    "potential",
    [
        lambda x: -x.square().sum(1),
        lambda x: x.sin().sum(1),
        lambda x: x.pow(3).sum(1),
        lambda x: -x.abs().sqrt().sum(1),
    ],
    ids=["concave", "sine", "cubic", "cusp"],
)
def test_a_potential_that_is_not_convex_is_an_error(potential):
    u, v = normal(50, 2) - 1, normal(50, 2, seed=1) - 1
    with pytest.raises(ValueError, match="at least 0, got -.*not convex") as error:
        Bregman(potential)(u, v)
    assert one_sentence(error)


def test_a_cubic_is_convex_where_it_is():
    u, v = normal(50, 2).abs(), normal(50, 2, seed=1).abs()
    torch.testing.assert_close(
        Bregman(lambda x: x.pow(3).sum(1))(u, v),
        (u**3 - v**3 - 3 * (u - v) * v**2).sum(1).mean(),
        rtol=1e-10,
        atol=1e-12,
    )


def test_a_wrong_gradient_is_an_error():
    with pytest.raises(ValueError, match="gradient given is not its gradient") as error:
        Bregman(lambda x: x.square().sum(1), gradient=lambda x: x)(normal(50, 2), normal(50, 2, seed=1))
    assert one_sentence(error)


# Bad input

HALF = torch.full((4, 2), 0.5)
BAD_CALLS = {
    "target below 0, KL": (losses.generalised_kl, -HALF, HALF, ValueError, "target must be at least 0, got -0.5"),
    "prediction 0, KL": (losses.generalised_kl, HALF, 0 * HALF, ValueError, "prediction must be positive, got 0"),
    "target 0, IS": (losses.itakura_saito, 0 * HALF, HALF, ValueError, "target must be positive, got 0"),
    "prediction below 0, IS": (losses.itakura_saito, HALF, -HALF, ValueError, "prediction must be positive, got -0.5"),
    "target above 1": (losses.logistic, 3 * HALF, HALF, ValueError, r"target must lie in \[0, 1\], got 1.5"),
    "target below 0": (losses.logistic, -HALF, HALF, ValueError, r"target must lie in \[0, 1\], got -0.5"),
    "rows of sum 1.5": (losses.softmax_cross_entropy, 1.5 * HALF, HALF, ValueError, "sum to 1 .*of sum 1.5"),
    "a negative row": (losses.softmax_cross_entropy, HALF + torch.tensor([1.0, -1.0]), HALF, ValueError, "from -0.5"),
    "shapes": (losses.squared, HALF, HALF[:1], ValueError, r"target and prediction .*\(4, 2\) and \(1, 2\)"),
    "a vector": (losses.squared, HALF[0], HALF[0], ValueError, r"target must have shape \(batch, \*dims\)"),
    "dtypes": (losses.squared, HALF, HALF.double(), TypeError, "float32 and torch.float64"),
    "devices": (losses.squared, HALF, HALF.to("meta"), ValueError, "cpu and meta"),
    "labels": (losses.softmax_cross_entropy, torch.ones(4, 2).long(), HALF, TypeError, "target .*int64"),
    "a list": (losses.squared, [[1.0]], HALF, TypeError, "target must be a torch.Tensor, got list"),
    "NaN": (losses.squared, HALF, HALF * math.nan, ValueError, "prediction has 8 NaN"),
    "empty": (losses.squared, HALF[:0], HALF[:0], ValueError, "target is empty"),
    "matrix size": (losses.mahalanobis(torch.eye(3)), HALF, HALF, ValueError, "3 coordinates on cpu, got 2"),
    "undeclared domain": (Bregman(lambda x: -x.log().sum(1)), -HALF, HALF, ValueError, "not finite"),
    "potential's shape": (Bregman(lambda x: x**2), HALF, HALF, ValueError, r"potential .*shape \(4,\), got \(4, 2\)"),
    "gradient's shape": (Bregman(lambda x: x.square().sum(1), lambda x: x.sum(1)), HALF, HALF, ValueError, "gradient "),
    "form's shape": (Bregman(lambda x: x.sum(1), form=lambda u, v: u), HALF, HALF, ValueError, "form must return"),
    "a number": (Bregman(lambda x: 1.0), HALF, HALF, ValueError, "potential must return a tensor .*got float"),
    "no graph": (Bregman(lambda x: x.detach().sum(1)), HALF, HALF, ValueError, "differentiable by autograd"),
}


@pytest.mark.parametrize("loss, target, prediction, kind, message", BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls(loss, target, prediction, kind, message):
    with pytest.raises(kind, match=message) as error:
        loss(target, prediction)
    assert one_sentence(error)


def test_bad_reduction_is_an_error():
    with pytest.raises(ValueError, match="unknown reduction 'avg'; known: mean, sum, none") as error:
        losses.squared(HALF, HALF, reduction="avg")
    assert one_sentence(error)


MATRICES = {
    "not square": (torch.ones(2, 3), ValueError, r"shape \(d, d\), got \(2, 3\)"),
    "not symmetric": (torch.tensor([[2.0, 1.0], [0.0, 2.0]]), ValueError, "symmetric and positive definite"),
    "indefinite": (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), ValueError, "symmetric and positive definite"),
    "zero": (torch.zeros(2, 2), ValueError, "symmetric and positive definite"),
    "integers": (torch.eye(2).long(), TypeError, "matrix must have a floating dtype"),
    "a list": ([[1.0]], TypeError, "matrix must be a torch.Tensor"),
    "infinite": (torch.tensor([[math.inf]]), ValueError, "matrix has 1 NaN or infinite"),
}


@pytest.mark.parametrize("matrix, kind, message", MATRICES.values(), ids=MATRICES)
def test_bad_matrices(matrix, kind, message):
    with pytest.raises(kind, match=message) as error:
        losses.mahalanobis(matrix)
    assert one_sentence(error)


@pytest.mark.parametrize("name", ["potential", "gradient", "link", "form"])
def test_parts_must_be_callables(name):
    parts = {"potential": lambda x: x.sum(1), name: 3.0}
    with pytest.raises(TypeError, match=f"{name} must be a callable") as error:
        Bregman(**parts)
    assert one_sentence(error)


def test_random_state_is_left_alone():
    before = torch.get_rng_state()
    losses.squared(normal(3, 2), torch.randn(3, 2, generator=seeded(3), dtype=F64))
    assert torch.equal(before, torch.get_rng_state())
