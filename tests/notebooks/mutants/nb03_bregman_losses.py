"""What goes wrong with Bregman losses, and with samplers that look right."""

from tests.notebooks.mutants import Cell, Library

RIGHT_FLOW = 'follow(conditional["square"], noise, every=10)'
GENERATED = 'generated[name] = sample(field, x_0, steps=40, method="euler").cpu()'
SHAPELESS = "digits.gather(0, torch.randint(len(digits), (2000, 64)))"
COPIES = "digits[torch.randint(len(digits), (2000,))]"

MUTANTS = [
    Library(
        "losses._generalised_kl",
        "r - r.log1p()",
        "r - 1.02 * r.log1p()",
        "two hundredths too much logarithm in KL",
    ),
    Library("losses._softmax", "xlogy(u, u) - u", "xlogy(u, u) - 1.02 * u", "a cross-entropy 1.02 times too large"),
    Cell("potential-definition", "((u - v) * slope)", "((v - u) * slope)", "the tangent runs backwards"),
    Cell(
        "theorem-data",
        "to_y(path.x_1(x_t, t))",
        "to_y(path.data.mean(0).expand_as(x_t))",
        "a plain average of the data in place of the posterior mean",
    ),
    Cell("theorem-data", "to_y(path.x_1(x_t, t))", "to_y(path.x_1(x_t, 0.98 * t))", "the posterior at a time 2 % less"),
    Cell(
        "theorem-data",
        "x_1 + (1 - t[:, None]) * x_0",
        "x_1 + (1 - t[:, None] ** 2) * x_0",
        "noise of another schedule than the posterior's",
    ),
    Cell("proof-affine", "D(u, at).sum()", "D(at, u).sum()", "slopes in the target, not in the prediction"),
    Cell("minimiser-code", "return w @ scalar", "return w.roll(1) @ scalar", "each weight at its neighbour's place"),
    Cell(
        "minimiser-huber-code", ".clip(-delta, delta)", ".clip(-delta, 2 * delta)", "Huber that pulls up twice as hard"
    ),
    Cell(
        "velocities-code",
        "u, w = (path.data - x[:, None]) / (1 - t), path.posterior(x, t)",
        "u, w = (path.data - x[:, None]) / (1 - t), path.posterior(x, 0.95 * t)",
        "conditional velocities weighed with the posterior of another time",
    ),
    Cell(
        "velocities-code",
        '"Bregman, log cosh": bregman(lambda u: u.cosh().log().sum(-1))',
        '"Bregman, log cosh": lambda u, v: bregman(lambda u: u.cosh().log().sum(-1))(v, u)',
        "a divergence of velocities with its arguments swapped",
    ),
    Library(
        "exact.DataPath._by_attention",
        "scale=1.0",
        "scale=1 / 1.15",
        "posterior weights at temperature 1.15",
        at="flow-exact-code",
    ),
    Cell(
        "flow-exact-code",
        RIGHT_FLOW,
        RIGHT_FLOW.replace('conditional["square"]', "lambda x, t: x + 0.99 * (path.x_1(x, t) - x)"),
        "a velocity 0.99 times too small",
    ),
    Cell("opening-points", "below < 0.5", "below < 0.45", "a quantile at 0.45 for the median"),
    Cell("opening-points", "(path.data).log()", "(path.data).sqrt()", "a mean of roots for one of logarithms"),
    Cell("flow-exact-code", RIGHT_FLOW, RIGHT_FLOW.replace("noise", "0.9 * noise"), "the flow starts from less noise"),
    Cell("majority-code", "median_of(other)", "other.x_1", "the mean for the median, at other weights"),
    Cell(
        "twice-code", "F.softplus(z) - m", "F.softplus(z) - 1.02 * m", "one sigmoid, towards 1.02 times the intensity"
    ),
    Cell("one-hot-code", ".abs().pow(power)", ".abs().pow(3 - power)", "the two losses exchanged"),
    Cell(
        "flow-train-sample",
        "z[k : k + 1].sigmoid()",
        "y[k : k + 1]",
        "a softmax for the output trained with a sigmoid",
    ),
    Cell("digits-sample", GENERATED, f"generated[name] = {SHAPELESS}", "pixels drawn independently"),
    Cell("digits-sample", GENERATED, f"generated[name] = {COPIES}", "copies of training digits"),
    Cell(
        "digits-sample",
        GENERATED,
        f"generated[name] = {COPIES} + 0.25 * torch.randn(2000, 64)",
        "training digits plus noise",
    ),
    Cell(
        "digits-sample",
        GENERATED,
        f"generated[name] = torch.cat([{COPIES}[:1000], {SHAPELESS}[1000:]])",
        "half copies, half shapeless",
    ),
    Cell(
        "digits-sample",
        GENERATED,
        "generated[name] = torch.distributions.MultivariateNormal(\n"
        "        digits.mean(0), digits.T.cov() + 1e-3 * torch.eye(64)).sample((2000,)).clamp(-1, 1)",
        "one Gaussian with the digits' mean and covariance, kept in range",
    ),
    Cell(
        "bridge-code", "images.posterior(part, t)", "images.posterior(part, 0.9 * t)", "a posterior of an earlier time"
    ),
]
