"""Mutants of notebook 13, discrete flows."""

from tests.notebooks.mutants import Cell, Library

MUTANTS = [
    Cell("path-code", "+ (1 - k) * source[:, None]", "+ (1 - k) * source", "the source's column for its row"),
    Cell("path-code", "coin = k * torch.eye", "coin = k**2 * torch.eye", "another schedule"),
    Cell("path-code", "x_0.shape) < k", "x_0.shape) < 1.03 * k", "a coin that shows X_1 three per cent too often"),
    Cell("path-code", '"xz,zdk->xdk"', '"zx,zdk->xdk"', "the joint law transposed in Bayes' rule"),
    Cell("velocity-code", "Q += rate *", "Q += 1.02 * rate *", "rates 1.02 times too large"),
    Cell("velocity-code", "return kernel.T", "return kernel", "rows for columns"),
    Library(
        "exact.TokenPath.generator", "self.schedule.d_alpha(time) / left", "1 / left**2", "a rate that rises too fast"
    ),
    Cell("sampling-code", "(s - t) / (1 - t)", "(s - t)", "jumps as if none had jumped before"),
    Cell("sampling-code", "(s - t) / (1 - t)", "(s - t) / (1 - t) ** 2", "divided twice by what is left"),
    Cell("sampling-law", "(m - k) / (1 - k)", "(m - k)", "steps that leave something unchanged"),
    Library("tokens._step", "((then - now) / (1 - now))", "((then - now))", "sample_tokens jumps too rarely"),
    Library("tokens._drawn", "sums <= total *", "sums <= 0.9 * total *", "small numbers for the inversion"),
    Library("tokens._by_steps", "times[k], kappas[k], kappas[k + 1]", "times[k], kappas[0], kappas[1]", "one jump"),
    Cell("sampling-order", '"frozen": frozen', '"frozen": None', "the control is the right step"),
    Cell("gumbel-code", "(1 - odds) / odds", "1.02 / odds", "odds against staying, two per cent off"),
    Cell("gumbel-code", "c / c.expm1()", "(-c).exp()", "a formula that looks alike"),
    Cell("cost-claims", "(1 - 1 / n) * pair + apart / n", "(1 - 1 / n**2) * pair + apart / n**2", "met in 1 / n^2"),
    Cell("grids-claims", "two.diff().square()", "two.diff().abs()", "the steps not squared"),
    Cell("grids-code", '"many first": right', '"many first": 1 - right', "a grid from its end"),
    Cell("order-code", 'if how == "drawn"', 'if how != "drawn"', "the two rules change places"),
    Cell("order-code", "p.prod()", "p.mean()", "a mean for the probability of a draw"),
    Library("tokens._by_events", "chosen, generator)", "hidden & (x == field.mask), generator)", "all events at once"),
    Cell("order-random", "state / 6", "state / 6.05", "orders that do not sum to one"),
    Cell(
        "losses-code", "- torch.special.xlogy(u, v) - u + v", "- torch.special.xlogy(v, u) - u + v", "KL the other way"
    ),
    Cell("losses-code", "- u + v", "- u + v.sqrt()", "a loss that is no Bregman divergence"),
    Cell("bound-code", "(-arrive - 1)", "-arrive", "the bound without the -u of the generalised KL"),
    Cell("bound-code", "weight / (1 - k)", "weight", "the bound without the rate"),
    Cell("bound-code", "leave[:, None]", "0.98 * leave[:, None]", "rates of leaving, two per cent too small"),
    Library(
        "tokens.token_bound", "weight / (1 - kappa)", "1.1 * weight / (1 - kappa)", "a bound ten per cent too high"
    ),
    Cell("correct-code", "step(then, 1.0)", "step(then, 0.9)", "correctors that leave masks"),
    Cell("correct-code", "if k >= 0.4 else ignorant", "if k >= 0.0 else ignorant", "a network that is right early"),
    Cell("correct-code", "even(calls // 2)", "even(calls)", "correctors on top of all steps"),
    Cell("infill-code", "table[:, 0] = fixed", "pass", "nothing is clamped"),
    Cell("infill-code", "law, fixed)", "law, torch.ones_like(fixed))", "compared with the law of all words"),
    Cell("steer-code", "given**w * plain ** (1 - w)", "given**w * plain ** (-w)", "exponents that do not sum to 1"),
    Cell("steer-code", "masks(r**w)[0]", "masks(r)[0]", "h with r for r^w"),
    Cell("steer-code", "rates(plain * hidden", "rates(given * hidden", "Doob's ratio on rates that have it already"),
    Cell("edit-code", "ways(x, z[1:]) +", "2 * ways(x, z[1:]) +", "ways counted twice"),
    Cell("edit-code", "(1 - k) ** (length", "(1 + k) ** (length", "tokens that are missing, with a wrong sign"),
    Cell("digits-code", "x_t == MASK", "x_t != MASK", "a loss on what is seen already"),
    Cell("digits-code", "learning_rate=5e-3", "learning_rate=5e-5", "a network that has hardly learned"),
    Cell("digits-code", "label=digits.y", "label=digits.y.flip(0)", "labels in another order"),
    Cell("digits-draw", "steps=steps", "steps=1", "all digits drawn in one step"),
    Library("models.TokenMLP.forward", "x + self.place", "x", "one embedding for all positions", at="digits-code"),
    Cell("infill-digits", "known.to(device)", "known.flip(1).to(device)", "the known half in the wrong place"),
    Cell("infill-digits", "known.to(device), held_out.y", "None, held_out.y", "nothing is known"),
    Cell("velocity-code", "= posterior[:, i]", "= posterior[:, i - 1]", "the posterior of another position"),
    Cell("sampling-code", "posterior(x, t)", "posterior(x, (t + s) / 2)", "the posterior in the middle of the step"),
    Cell("sampling-law", ".abs().sum() / 2", ".abs().sum()", "the sum of |p - q| without its half"),
    Cell("sampling-law", "every(source[:, None], law.ndim)[:, 0]", "law.flatten()", "steps that start at the law"),
    Library(
        "tokens._by_steps",
        "times[k], kappas[k], kappas[k + 1]",
        "times[k + 1].clamp(max=0.999), kappas[k], kappas[k + 1]",
        "the network is told the end of the step",
        at="sampling-claims",
    ),
    Cell("sampling-order", "torch.exp(-(m - k) / (1 - k))", "torch.exp(-(m - k))", "a control that hardly jumps"),
    Cell("grids-code", "0.95**agree * 0.05 ** (4 - agree)", "0.5**4 * agree**0", "a chain that has no memory"),
    Cell("order-code", "= token[sure.argmax()]", "= token[sure.argmin()]", "another position's token"),
    Cell(
        "losses-code", "away = 1 - one_hot(K, d)", "away = 1 + 0 * one_hot(K, d)", "the present token counts as a jump"
    ),
    Cell("losses-code", "logits.softmax(2)", "logits.softmax(1)", "a softmax over positions"),
    Library(
        "losses.token_rates", "- stay.expm1())", "+ stay.expm1())", "what leaves, with a wrong sign", at="losses-code"
    ),
    Library("losses.token_rates", "-arrive - 1, 0)", "-arrive, 0)", "token_rates without its -u", at="losses-code"),
    Library("tokens.token_bound", "x_t, 1.0)", "x_t, 0.9)", "a bound ten per cent too low", at="losses-code"),
    Cell("bound-code", "(1 + places) / 2, weights / 2", "(1 + places) / 2, weights", "quadrature weights of [-1, 1]"),
    Cell("correct-code", "torch.tensor(1 - w, ", "torch.tensor(1 - w / 2, ", "a corrector that asks at a later time"),
    Cell("correct-code", "law.ndim, -1), w)", "law.ndim, -1), w / 2)", "a corrector with half of its noise"),
    Cell("infill-code", "k.clamp(min=1e-12)", "k", "a first step that does not know the letter"),
    Cell("infill-code", "product(clamp(start)) @", "product(start) @", "the letter is not put in place at the start"),
    Cell("steer-code", "ratio[:, None] / ratio *", "ratio / ratio[:, None] *", "Doob's ratio upside down"),
    Cell("edit-claims", "A(k)[:, None] / A(k)", "A(k) / A(k)[:, None]", "rates of insertion upside down"),
]
