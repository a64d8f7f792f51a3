"""Mutants of notebook 1, flow matching basics."""

from tests.notebooks.mutants import Cell, Library

_LABELLED = "              label=asked.to(device)).cpu()"
_OF_CLASS = "torch.multinomial((digits.y == asked[:, None]).double(), 64, replacement=True)"
_DRAWN = "torch.randn(600, 64, device=device), steps=15).cpu()"
_BOX = 'sample(moons_box, noises["moons"], steps=25)'
_GAUSSIAN = "torch.linalg.cholesky({0}.T.cov() + 1e-4 * torch.eye({0}.shape[1])).T"

MUTANTS = [
    Cell("path-claims-code", "-far / 2)", "-far / 2.04)", "the exponent of the Gaussian density 2 % too small"),
    Library(
        "laws.GaussianMixture.isotropic",
        "std[:, None, None] ** 2",
        "1.02 * std[:, None, None] ** 2",
        "the mixture's variances 2 % too large",
    ),
    Cell("path-moments-code", "x_t = (1 - t) * x_0", "x_t = (1 - 0.9 * t) * x_0", "X_t keeps a tenth of its noise"),
    Cell("path-moments-code", "t**2 * products", "t * products", "the second moment grows like t, not t^2"),
    Cell("path-moments-code", "t * weights @ means", "t * means.mean(0)", "the means without the weights"),
    Cell("flow-claims-code", "- determinant.log()", "+ determinant.log()", "log p rises where the flow stretches"),
    Library(
        "exact.MixturePath.velocity",
        "return self._average(",
        "return 1.02 * self._average(",
        "the marginal velocity 2 % too large",
    ),
    Cell("velocity-code", "t**2 * s**2) ** 0.5 * x", "t**2 * s**2) * x", "the variance for the spread in psi"),
    Cell("continuity-code", "(leaving - entering)", "(entering - leaving)", "inflow counted as outflow"),
    Cell(
        "processes-code",
        "solvers.maruyama(line.score, noise=g)",
        "solvers.maruyama(lambda x, t: 1.3 * line.score(x, t), noise=g)",
        "the score of the diffusion 1.3 times too large",
    ),
    Cell("processes-code", "(now - new).clamp(min=0) / now", "0.8 * (now - new).clamp(min=0) / now", "too few jumps"),
    Library("solvers.maruyama", "g**2 / 2", "g**2", "the drift of the score counted twice"),
    Cell("solver-code", "u(half, (i + 0.5) * h)", "u(half, i * h)", "midpoint takes the velocity at the old time"),
    Cell("simplest-code", "(x_1 - x_0)).square", "(x_0 - x_1)).square", "the regression target with the wrong sign"),
    Cell("simplest-code", "(1 - t[:, None]) * x_0", "(1 - t[:, None]) ** 0.5 * x_0", "a wrong walk in the training"),
    Cell(
        "simplest-figure-code",
        "torch.randn(n, 2, device=device), steps=50)",
        "torch.randn(n, 2, device=device), steps=2)",
        "the moons in two steps",
    ),
    Cell(
        "floor-code",
        'sample(black_box, noises["digits"], steps=25)',
        'sample(black_box, noises["digits"], steps=3)',
        "the black box followed in three midpoint steps",
    ),
    Cell("floor-code", _BOX, f"{_BOX} + 0.2 * torch.randn(1000, 2)", "the black box's moons blurred by N(0, 0.2^2)"),
    Cell(
        "floor-code",
        _BOX,
        f"moons.mean(0) + torch.randn(1000, 2) @ {_GAUSSIAN.format('moons')}",
        "one Gaussian with the moons' mean and covariance for the black box",
    ),
    Cell(
        "floor-code",
        'sample(black_box, noises["digits"], steps=25)',
        f"digits.x.mean(0) + torch.randn(1437, 64) @ {_GAUSSIAN.format('digits.x')}",
        "one Gaussian with the digits' mean and covariance for the black box",
    ),
    Cell(
        "simplest-claims-code",
        "made, true, real = generate(4000)",
        "made, true, real = datasets.moons(4000) + 0.2 * torch.randn(4000, 2)",
        "true moons blurred by N(0, 0.2^2) for the network's",
    ),
    Cell(
        "simplest-claims-code",
        "generate(4000)",
        "torch.randn(4000, 2) @ torch.linalg.cholesky(moons.T.cov()).T",
        "one Gaussian for the network's moons",
    ),
    Cell(
        "simplest-claims-code",
        "generate(4000)",
        "1.1 * generate(4000)",
        "the network's moons 1.1 times too large",
    ),
    Cell("sign-code", "return -moons_velocity(x, t)", "return moons_velocity(x, t)", "the arrows are not turned"),
    Cell("sign-code", "turned_arrows(x, 1 - t)", "turned_arrows(x, t)", "the clock is not turned"),
    Cell(
        "digits-code",
        _DRAWN,
        f"{_DRAWN}\nmade = torch.stack([draw_digits(600)[:, j] for j in range(64)], 1)",
        "pixels drawn independently for the network's digits",
    ),
    Cell(
        "digits-code",
        _DRAWN,
        f"{_DRAWN}\nmade = digits.x.mean(0) + torch.randn(600, 64) @ {_GAUSSIAN.format('digits.x')}",
        "one Gaussian for the network's digits",
    ),
    Cell("digits-code", _DRAWN, f"{_DRAWN} * 1.1", "the network's digits of 1.9 1.1 times too large"),
    Cell(
        "arbitrary-code",
        "fit(models.MLP(dim=2, width=64), target, source=source,",
        "fit(models.MLP(dim=2, width=64), 1.1 * target, source=source,",
        "the flows trained on targets 1.1 times too large",
    ),
    Cell("arbitrary-code", "(board, turned, paired)", "(board, turned, independent)", "the pairing thrown away"),
    Cell(
        "arbitrary-figure-code",
        "ends[name] = run[-1]",
        "ends[name] = torch.randn_like(target) * target.std(0)",
        "one Gaussian where the three flows end",
    ),
    Cell("half-turn-code", "* -0.7 * board[:12]", "* -0.8 * board[:12]", "pairs of a half turn that shrink less"),
    Cell(
        "half-turn-code",
        "(run[-1] + 0.7 * board)",
        "(-0.7 * board + 0.7 * board)",
        "the half turn itself where the trained flow ends",
    ),
    Cell(
        "conditional-code",
        _LABELLED,
        f"{_LABELLED}\nrows = {_OF_CLASS}\nmade = torch.stack([digits.x[rows[:, j], j] for j in range(64)], 1)",
        "pixels drawn independently within each class for the network's digits",
    ),
    Cell(
        "conditional-code",
        _LABELLED,
        f"{_LABELLED}\nmade = digits.x[{_OF_CLASS}[:, 0]] + 0.25 * torch.randn(2800, 64)",
        "training images with noise for the network's digits",
    ),
    Cell(
        "conditional-code",
        _LABELLED,
        f"{_LABELLED}\nmade = made + 0.8 * (digits.x[torch.cdist(made, digits.x).argmin(1)] - made)",
        "the network's digits drawn most of the way to their nearest training image",
    ),
    Cell(
        "conditional-code",
        _LABELLED,
        f"{_LABELLED}\nmade = made + 0.5 * (held_out.x[torch.cdist(made, held_out.x).argmin(1)] - made)",
        "the network's digits drawn half of the way to their nearest held-out image",
    ),
    Cell("conditional-code", _LABELLED, f"{_LABELLED} * 1.1", "the network's digits 1.1 times too large"),
    Cell("conditional-code", "label=asked.to(device)", "label=asked.roll(280).to(device)", "the wrong labels"),
]
