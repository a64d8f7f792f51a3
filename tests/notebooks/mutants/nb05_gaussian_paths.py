"""Mutants of notebook 5, affine and Gaussian paths."""

from tests.notebooks.mutants import Cell, Library

MUTANTS = [
    Library(
        "schedules.VariancePreserving.d_alpha",
        "self.beta_min / 2",
        "self.beta_min",
        "the rate of the schedule twice as large at the data's end",
    ),
    Library(
        "exact.MixturePath.velocity",
        "+ s.sigma_d_sigma(time)",
        "+ 1.02 * s.sigma_d_sigma(time)",
        "the exact velocity with a noise term 1.02 times too large",
    ),
    Library(
        "exact.MixturePath._average",
        "weights = log_joint.softmax(-1)",
        "weights = self.target.weights.to(x.dtype).expand_as(log_joint)",
        "prior for posterior weights of the components",
    ),
    Cell(
        "predictions-code",
        "w = d_alpha * sigma - d_sigma * alpha",
        "w = d_alpha * sigma + d_sigma * alpha",
        "the determinant with the wrong sign",
    ),
    Cell(
        "blowup-code",
        's.sigma(t) if have == "x_1" else s.alpha(t)',
        's.sigma(t) ** 2 if have == "x_1" else s.alpha(t)',
        "variance for standard deviation in the amplification",
    ),
    Cell("gaussian-code", "/ (2 * sigma**2)", "/ (2 * sigma)", "posterior weights with sigma for sigma squared"),
    Cell(
        "gaussian-code",
        "denoised = (w * draws).sum(1)",
        "denoised = draws.mean(0).expand(8, 2)",
        "a plain mean for the posterior mean",
    ),
    Cell(
        "not-gaussian-code", "2 * point - 3**0.5", "2 * point - 1.02 * 3**0.5", "the uniform source 1.02 times as wide"
    ),
    Cell("diffusion-code", "f * state[:, 0], 2 * f", "f * state[:, 0], f", "the variance shrinks like the mean"),
    Cell("diffusion-paths-code", "f * x - g2 / 2 *", "f * x - g2 *", "the score counted twice in the ODE"),
    Cell("diffusion-noise-code", "kick = (", "kick = 1e-6 * (", "no noise: the ODE for the stochastic equation"),
    Cell("diffusion-noise-code", "kick = (", "kick = 1.03 * (", "noise 1.03 times too large"),
    Cell("diffusion-noise-code", "noisy = stochastic(1)", "noisy = stochastic(1.1)", "a score 1.1 times too large"),
    Cell("diffusion-noise-code", "factor * rate(t) / 2", "factor * rate(t)", "the drift takes g^2 for g^2 / 2"),
    Cell(
        "diffusion-law-code",
        "x_t, moment = path.x[k], path.t[k].double()",
        "moment = path.t[k].double(); x_t = vp.alpha(moment) * gauss.sample(4000) + vp.sigma(moment) * many",
        "one Gaussian with the moments of the path at every time",
    ),
    Cell("ddim-code", "x_0 = (x - s.alpha(t) * x_1) / s.sigma(t)", "x_0 = x - s.alpha(t) * x_1", "noise not divided"),
    Cell(
        "ddim-code",
        "return x + (r - t) * truth.velocity(x, t)",
        "return x + (r - t) * truth.velocity(x + (r - t) / 2 * truth.velocity(x, t), (t + r) / 2)",
        "midpoint where Euler is meant",
    ),
    Cell("steps-code", "keep * x_0 +", "x_0 +", "fresh noise on top of all of the old"),
    Library(
        "solvers.maruyama",
        "g**2 / 2 * drift(x, t)",
        "g**2 * drift(x, t)",
        "Euler-Maruyama with the score counted twice",
    ),
    Library("solvers.maruyama", "g * h.sqrt()", "g * h", "noise that grows with the step, not its root"),
    Cell(
        "change-code",
        "d_c[i] / c_r[i] * x +",
        "1.02 * d_c[i] / c_r[i] * x +",
        "the change of scale 1.02 times too fast",
    ),
    Cell("networks-train", "sigma**0, sigma**0, sigma**0, sigma", "sigma, sigma, sigma, sigma", "all outputs scaled"),
    Cell("networks-sample", "x + (1 - begin) / nfe", "x - (1 - begin) / nfe", "the samples run away from the data"),
    Cell(
        "networks-structure-code",
        "last = generate(32, 0.03)",
        "last = law.sample(16 * 3 * 800).reshape(4, 4, 3, 800, 2)",
        "true samples for the networks', with eight clusters",
    ),
    Cell("losses-code", "b**2 * plain", "b.abs() * plain", "the weight of the loss not squared"),
]
