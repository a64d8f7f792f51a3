"""Mutants of notebook 1, flow matching basics."""

from tests.notebooks.mutants import Cell, Library

_LABELLED = "              label=asked.to(device)).cpu()"
_OF_CLASS = "torch.multinomial((digits.y == asked[:, None]).double(), 64, replacement=True)"

MUTANTS = [
    Cell("floor-code", "steps=25)", "steps=3)", "the exact map followed in three midpoint steps"),
    Cell(
        "floor-code",
        "noises[name], steps=25)",
        "noises[name], steps=25) + 0.2 * torch.randn_like(x_1)",
        "the map's points blurred by N(0, 0.2^2)",
    ),
    Cell(
        "floor-code",
        "made = sample(exact.DataPath(x_1).velocity, noises[name], steps=25)",
        "made = x_1.mean(0) + torch.randn_like(x_1) @ torch.linalg.cholesky(x_1.T.cov() + 1e-4 * torch.eye("
        "x_1.shape[1])).T",
        "one Gaussian with the data's mean and covariance for the map",
    ),
    Cell("path-claims-code", "x_t = (1 - t) * x_0", "x_t = (1 - 0.9 * t) * x_0", "X_t keeps a tenth of its noise"),
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
        "simplest-claims-code",
        "made, true, real = generate(4000)",
        "made, true, real = datasets.moons(4000) + 0.2 * torch.randn(4000, 2)",
        "true moons blurred by N(0, 0.2^2) for the network's",
    ),
    Cell(
        "simplest-claims-code",
        "generate(4000)",
        "1.1 * generate(4000)",
        "the network's moons 1.1 times too large",
    ),
    Cell(
        "digits-code",
        "torch.randn(600, 64, device=device), steps=25).cpu()",
        "torch.randn(600, 64, device=device), steps=25).cpu()\n"
        "made = torch.stack([draw_digits(600)[:, j] for j in range(64)], 1)",
        "pixels drawn independently for the network's digits",
    ),
    Cell(
        "arbitrary-code",
        "fit(models.MLP(dim=2, width=64), target, source=source,",
        "fit(models.MLP(dim=2, width=64), 1.1 * target, source=source,",
        "the flows trained on targets 1.1 times too large",
    ),
    Cell("arbitrary-code", "(board, turned, paired)", "(board, turned, independent)", "the pairing thrown away"),
    Cell(
        "conditional-code",
        _LABELLED,
        f"{_LABELLED}\nrows = {_OF_CLASS}\nmade = torch.stack([digits.x[rows[:, j], j] for j in range(64)], 1)",
        "pixels drawn independently within each class for the network's digits",
    ),
    Cell(
        "conditional-code",
        _LABELLED,
        f"{_LABELLED}\nmade = digits.x[{_OF_CLASS}[:, 0]] + 0.25 * torch.randn(1400, 64)",
        "training images with noise for the network's digits",
    ),
    Cell("conditional-code", _LABELLED, f"{_LABELLED} * 1.1", "the network's digits 1.1 times too large"),
    Cell("conditional-code", "label=asked.to(device)", "label=asked.roll(140).to(device)", "the wrong labels"),
]
