"""Mistakes about the kinetic energy, its bound, and straightness."""

from tests.notebooks.mutants import Cell, Library

MUTANTS = [
    Library(
        "schedules.Cosine.d_alpha",
        "math.pi / 2 *",
        "1.1 * math.pi / 2 *",
        "V_t is no velocity: the cosine's alpha' is a tenth too large",
        at="sides-table",
    ),
    Library(
        "schedules.Polynomial.d_sigma",
        "-self.d_alpha(t)",
        "-1.05 * self.d_alpha(t)",
        "sigma' of t^n is 5 % too large",
        at="sides-table",
    ),
    Library(
        "schedules.Cosine.d_alpha",
        "math.pi / 2 *",
        "1.1 * math.pi / 2 *",
        "V_t is no velocity, seen by the flow alone",
        at="flow-follow",
    ),
    Cell("closed-code", ".softmax(1)", ".softmax(1) * 0 + 1 / mean.shape[-2]", "prior weights for the posterior"),
    Cell("closed-code", "(2 * s**2 * spread[..., 0])", "(2 * s * spread[..., 0])", "standard deviation for variance"),
    Cell(
        "closed-code",
        "means = rate + (a * da + b * db) / spread * offset",
        "means = rate + 0 * offset",
        "no regression within a pair",
    ),
    Cell("closed-code", "(da * b - db * a) ** 2", "(da * b + db * a) ** 2", "a sign in the variance within a pair"),
    Cell("sides-code", "return within + ", "return ", "the variance within a pair is left out"),
    Cell(
        "sides-code",
        "y[i] + s * torch.randn_like(y[i])",
        "y[i] + 1.1 * s * torch.randn_like(y[i])",
        "targets with a blur that is a tenth too large",
    ),
    Cell("flow-follow", "x_0 + seen.mean(0)", "1.1 * (x_0 + seen.mean(0))", "samples a tenth too long"),
    Cell("flow-follow", "velocities(u, x_0, steps=60)", "velocities(u, x_0, steps=3)", "three steps"),
    Cell("flow-code", "u(middle, t + h / 2)", "u(x, t)", "Euler steps of the left end taken for midpoint steps"),
    Cell(
        "flow-follow",
        "x_0 + seen.mean(0)",
        "torch.randn_like(x_0) * (y.square().sum(1).mean() / 2 + s**2).sqrt()",
        "one Gaussian with the target's moments in place of the flow",
    ),
    Cell(
        "free-code",
        "modes * (modes * t).cos()",
        "(modes * t).cos()",
        "a curve whose rate lacks the chain rule's factor",
    ),
    Cell(
        "free-energy",
        "v = rate[rows, i] + s * (eta - xi)",
        "v = rate[rows, i] + s * (eta + xi)",
        "a sign of the noise's velocity",
    ),
    Cell(
        "reduce-code",
        'sample(u, x_0, steps=40, method="rk4")',
        'sample(u, x_0, steps=3, method="euler")',
        "three Euler steps",
    ),
    Library(
        "metrics.straightness",
        "(x_1 - x_0).flatten(1), steps",
        "1.02 * (x_1 - x_0).flatten(1), steps",
        "straightness about a displacement 2 % too long",
    ),
    Library("metrics.kinetic_energy", "0.0, steps", "0.1, steps", "an energy about a velocity that is not zero"),
    Cell("singular-code", "u = x_1 - t / sigma * x_0", "u = x_1", "the marginal velocity without its singular part"),
    Cell(
        "singular-code",
        "density, x_0 = mass / (2 * t), (phi(b) - phi(a)) / mass",
        "density, x_0 = mass / (2 * t), phi(b)",
        "E[X_0 | X_t] that does not fall within the support",
    ),
    Library(
        "exact.DataPath.velocity",
        "mean = self._mean(query)",
        "mean = 0.97 * self._mean(query)",
        "a posterior mean 3 % too short",
        at="point-code",
    ),
    Library(
        "exact.DataPath._by_attention",
        "/ query.variance",
        "/ (1.15 * query.variance)",
        "a posterior of temperature 1.15",
        at="dimension-code",
    ),
    Cell(
        "point-found",
        "points[1] + points[0]",
        "points[1] + points[0] + torch.randn(5, 2).to(points)",
        "five points that are not on one line",
    ),
    Cell("dimension-code", "2 * t - 1", "1.8 * t - 0.9", "a Gaussian target's velocity a tenth too small"),
    Cell("euler-turns", "(z.roll(turn, 0), y), schedules", "(z.roll(0 * turn, 0), y), schedules", "no turn at all"),
    Cell("spread-code", "* (1 - t)) ** 2", "* (1 - t))", "standard deviation for variance in the weights"),
    Cell("spread-code", "t * y + (1 - t) * z", "t * y + z", "a source point that does not fade"),
    Cell("spread-code", "(logits.softmax(1) @ y - x)", "(1.05 * logits.softmax(1) @ y - x)", "targets 5 % too far"),
    Cell("spread-loop", "setting(name, d)", "setting(name, 2)", "the same two dimensions throughout"),
    Cell("spread-code", 'if name == "OT pairs":', 'if name == "never":', "random pairs called OT pairs"),
    Cell(
        "spread-code", 's = 1.0 if name == "independent" else 0.25', "s = 1.0", "the independent coupling called pairs"
    ),
]
