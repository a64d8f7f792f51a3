"""Mutants of notebook 11, reward fine-tuning."""

from tests.notebooks.mutants import Cell, Library

MUTANTS = [
    Library(
        "laws.GaussianMixture.tilt",
        "(moved.square().sum(1) - log_det) / 2",
        "moved.square().sum(1) - log_det / 2",
        "tilted weights with the whole variance in the exponent",
    ),
    Library("laws.GaussianMixture.tilt", "pull = slope -", "pull = 1.02 * slope -", "means moved 1.02 times too far"),
    Cell("wanted-code", "(means @ slope).exp()", "((means + wanted.means) @ slope / 2).exp()", "the control is right"),
    Cell("wanted-code", "reward(x) - (p.log", "reward(x) - 0.9 * (p.log", "a KL that counts 0.9 times"),
    Cell(
        "measure-code", "law.tilt(kappa * slope)", "law.tilt(2 * kappa * slope)", "half of the kappa that is asked for"
    ),
    Cell("direct-code", "loss = -(slope_of", "loss = (slope_of", "the reward is made small"),
    Cell("choose-code", "score - torch.empty_like", "score + torch.empty_like", "Gumbel noise with a wrong sign"),
    Cell("choose-code", 'if how == "drawn"', 'if how == "best"', "best and drawn change places"),
    Cell("choose-code", "- (n - 1) / n", "", "the KL of the best of n without its second term"),
    Cell(
        "bias-code", "g**2 * lam * value_slope", "g * lam * value_slope", "the control is not multiplied by g once more"
    ),
    Cell("bias-code", "-(g**2) / 2 * left", "-(g**2) * left", "a value that forgets twice as fast"),
    Cell("bias-code", "maruyama(score, g, noise)", "maruyama(score, 0.8 * g, noise)", "less noise than is said"),
    Library(
        "solvers.maruyama",
        "g**2 / 2 * drift",
        "g**2 * drift",
        "the score counted twice in the noisy flow",
        at="bias-run",
    ),
    Library(
        "schedules.Schedule.memoryless", "(2 * (self", "((self", "half of the memoryless variance", at="forget-code"
    ),
    Cell("forget-code", "c**0.5 * memoryless", "c * memoryless", "c times the noise for c times its variance"),
    Cell("forget-back", "return (1 - t) / t", "return 1 / t", "eta of another schedule"),
    Cell("forget-back", "2 * c * eta(t)", "c * eta(t)", "half of the control"),
    Cell("forget-back", "1 / (1 + several)", "0.5", "the conversion of c = 1 for every c"),
    Cell("chain-code", "(1 - ratio) ** 0.5", "(1 - ratio)", "a variance for a standard deviation"),
    Cell("chain-code", "(s * (1 - t))) ** 2", "(s * (1 - t)))", "the root of the ratio"),
    Cell("chain-code", "+ b * x + kicks[-1]", "+ b * x + 1.3 * kicks[-1]", "a chain with too much noise"),
    Library(
        "solvers.ancestral",
        "schedule.sigma(s) * fresh.sqrt()",
        "schedule.sigma(t) * fresh.sqrt()",
        "sigma of t",
        at="chain-claims",
    ),
    Library(
        "exact.MixturePath.x_1",
        "self.schedule.alpha(time) * var",
        "var",
        "a denoiser of another covariance",
        at="chain-code",
    ),
    Cell("fixed-code", "2 * one.velocity(x, t) - x / t", "one.velocity(x, t)", "the adjoint carried through the ODE"),
    Cell("lean-code", "+ keep_x * x", "", "the adjoint carried through the denoiser alone"),
    Cell("lean-code", "a, found = -slope_of", "a, found = slope_of", "the adjoint with a wrong sign"),
    Cell("net-code", "return (1 - t) / (t**2", "return (1 - t) ** 2 / (t**2", "the denoiser's gate on the velocity"),
    Cell("adjoint-code", "target = -((t**2", "target = -2 * ((t**2", "g squared for eta in the target"),
    Cell("adjoint-code", "+ (1 - t) ** 2) / t)", "+ (1 - t) ** 2))", "a target without 1 / t"),
    Cell("policy-dimension", "(advantage * x).mean(1)", "(x[..., :1] * x).mean(1) * 1.05", "a scaled estimate"),
    Cell("adjoint-code", "lean(points, ts)[1:]", "lean(points, ts)[:-1]", "adjoints of the times before"),
    Cell("policy-train", "beta * (old - base_log)", "beta * (base_log - old)", "a price for staying"),
    Cell("policy-train", "loss = -(ratio", "loss = (ratio", "a policy that is trained downhill"),
    Cell("policy-code", "return gain * change", "return change", "densities of another policy"),
    Cell("policy-run", "reward(ends_of_base).softmax(0)", "(2 * reward(ends_of_base)).softmax(0)", "a reward of twice"),
    Cell("policy-run", "beta=kappa", "beta=3.0", "a price of 3 for leaving the base"),
    Cell("click-code", "return 3.0 *", "return 1.0 *", "a click that is worth a third"),
    Cell(
        "measure-code", "damage = distance(x, closest(r)[0])", "damage = distance(x, wanted)", "q* for the closest law"
    ),
    Cell("direct-code", "x + tuned(net)(x", "x + tuned(lambda *a: 0 * net(*a))(x", "the network is not trained"),
    Cell("choose-code", "exponential_().log()", "exponential_().log() / 2", "Gumbel noise of half the size"),
    Cell("choose-claims", "kappa * best_of[n][0] - law", "best_of[n][0] - law", "the least KL without its kappa"),
    Cell("bias-code", "+ push(t), x_0", "+ push(t) / 2, x_0", "half of the best control"),
    Cell("bias-code", "-(x - t * m) / var(t)", "-(x - m) / var(t)", "a score about another mean"),
    Cell("forget-code", "/ (2 * s)", "/ 2", "a gap that is not counted in standard deviations"),
    Cell("forget-back", "share * control", "share * control / c", "a control without its c"),
    Cell("chain-code", "t * (1 - s) ** 2 / (s * (1 - t) ** 2)", "t * (1 - s) / (s * (1 - t))", "squares are forgotten"),
    Cell("chain-spread-code", "(weights @ means).square()", "means.square()", "another sum of variances"),
    Cell("lean-code", "reversed(list(zip(points, ts", "reversed(list(zip(points[1:], ts", "slopes at the next point"),
    Cell("lean-code", "-(1 - s) ** 2 / s", "-(1 - s) / s", "a target with one factor too few"),
    Cell("adjoint-code", "(1 - t) * gate(t) * net", "gate(t) * net", "a velocity's correction on the denoiser"),
    Cell("policy-code", "(2 * std[..., 0] ** 2)", "std[..., 0] ** 2", "densities of half the variance"),
    Cell("policy-train", "free = kick + moved", "free = kick - moved", "the base's kick with a wrong sign"),
    Cell("policy-train", "(R - R.mean())", "(R.mean() - R)", "an advantage with a wrong sign"),
    Cell("click-code", "(often * p + 1 - p)", "(often * p + 1)", "a share that is normalised wrongly"),
    Cell("click-code", "- 3).exp() > torch", "- 3).exp() < torch", "those are kept that were to be refused"),
]
