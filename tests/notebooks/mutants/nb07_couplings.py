"""Mistakes about couplings: what a permutation keeps, what it saves, labels, and sources that are not noise."""

from tests.notebooks.mutants import Cell, Library

MUTANTS = [
    Cell(
        "keeps-code", "torch.cdist(x_1, x_0).square()", "torch.cdist(x_1, x_0)", "distances in place of their squares"
    ),
    Cell("keeps-code", "torch.cdist(x_1, x_0)", "torch.cdist(x_0, x_1)", "the inverse of the best permutation"),
    Cell("keeps-claims", "couplings.MinibatchOT()", "couplings.Independent()", "a random permutation called transport"),
    Cell(
        "keeps-claims",
        "len(row.unique()) / 64",
        "len(row[:60].unique()) / 64",
        "sixty draws with replacement called sixty-four",
    ),
    Library(
        "_assignment._by_products",
        "(x_1 @ x_0.T).neg_()",
        "(x_1 @ x_0.T)",
        "the dearest permutation in place of the cheapest",
        at="keeps-claims",
    ),
    Cell("saves-code", "couple(*pair)[0]", "couple(*pair[::-1])[0]", "the reordered target returned as the source"),
    Cell("saves-code", "D * torch.randn(n, d)", "D**2 * torch.randn(n, d)", "a target whose optimal cost is another"),
    Cell("saves-code", "/ (2 * D.sum())", "/ D.sum()", "half of the possible saving called all of it"),
    Cell(
        "saves-claims", "batches_of(x_0, x_1, 2)", "batches_of(x_0, x_1, 3)", "batches of three called batches of two"
    ),
    Cell("saves-digits-code", "x_1 - digits.x.mean(0)", "x_1 + digits.x.mean(0)", "the mean added, not subtracted"),
    Cell("buys-code", "batches_of(x_0, x_1, k)", "x_0", "independent pairs for every k"),
    Cell("buys-code", "couplings.Paired()", "couplings.Independent()", "pairs that are torn apart again"),
    Cell(
        "buys-code",
        'sample(flows[k], start, steps=40, method="midpoint")',
        'sample(flows[k], start, steps=3, method="euler")',
        "three Euler steps called converged",
    ),
    Cell(
        "buys-code",
        'steps=40, method="midpoint").cpu()',
        'steps=40, method="midpoint").cpu() * 1.1',
        "a tenth too long",
    ),
    Library(
        "metrics.straightness",
        "(x_1 - x_0).flatten(1), steps",
        "1.02 * (x_1 - x_0).flatten(1), steps",
        "straightness about a displacement 2 % too long",
        at="buys-code",
    ),
    Cell("bias-code", "return 2 * normal", "return normal", "a density without its factor"),
    Cell(
        "bias-code", "Binomial(k - 1, (1 - normal", "Binomial(k - 1, (normal", "sources below counted as sources above"
    ),
    Cell("bias-code", "- 2 + 0.5 * torch", "- 2 + 2.0 * torch", "classes that overlap"),
    Cell("bias-measure", "coupling(a, b, label=y)", "coupling(a, b, label=y.flip(0))", "labels of other rows"),
    Library(
        "couplings.MinibatchOT.__call__", "if self.within_labels:", "if False:", "labels ignored", at="bias-measure"
    ),
    Library(
        "couplings._order_within",
        "label.argsort().split(sizes)",
        "torch.arange(len(label)).split(sizes)",
        "groups of neighbours in place of groups of one label",
        at="bias-measure",
    ),
    Cell("law-code", "mode // 2", "mode % 4", "labels that join opposite places"),
    Cell("law-code", "**kinds", "**dict(zip(kinds, [*kinds.values()][::-1]))", "the two couplings exchanged"),
    Cell("law-code", "label=label, coupling", "label=label.flip(0), coupling", "labels of other rows in training"),
    Cell(
        "law-table", '{"label": asked.to(device)}', '{"label": asked.flip(0).to(device)}', "the wrong label asked for"
    ),
    Cell(
        "law-table",
        'steps=20, method="midpoint"',
        'steps=2, method="euler"',
        "two Euler steps called converged",
    ),
    Library(
        "couplings.MinibatchOT.__call__",
        "self.condition_weight**0.5",
        "self.condition_weight",
        "the weight in place of its root",
        at="numbers-measure",
    ),
    Cell("numbers-code", "[2 * r, weight]]", "[1.8 * r, weight]]", "a covariance a tenth too small"),
    Cell("numbers-code", "(seen, x_1 - x_0)", "(seen, x_1)", "regression on the target in place of the velocity"),
    Cell("numbers-code", "(1 - t) * x_0 + t * x_1", "t * x_0 + (1 - t) * x_1", "time runs backwards"),
    Cell("source-code", "x_1 + tau * torch", "x_1 + 1.1 * tau * torch", "a blur a tenth too strong"),
    Cell("source-code", "torch.cat([begin, y], 1)", "torch.cat([begin, begin], 1)", "the noised source told for Y"),
    Cell("pictures-code", "torch.cat([noised(y), y], 1)", "torch.cat([noised(y), 0 * y], 1)", "told nothing"),
    Cell(
        "pictures-code",
        "torch.where(known, y, torch",
        "torch.where(known, noised(y), torch",
        "noise over the half that is called kept",
    ),
    Cell("pictures-table", "near - apart / 2", "near - apart", "a score that rewards chance"),
    Cell("pictures-table", "return near - apart / 2", "return near", "a score that rewards being too sure"),
    Cell("pictures-table", "/ (m * (m - 1))", "/ m**2", "distances to oneself counted"),
    Cell("saves-code", "expected = d + D.square().sum()", "expected = d + D.sum()", "a cost without squares"),
    Cell("bias-code", ".exp().cumsum(0)", ".exp().cumsum(0).roll(1)", "ties counted as room"),
    Cell(
        "law-table",
        "sum(metrics.energy_distance(a, b) for a, b in parts) / 4",
        "metrics.energy_distance(x, y)",
        "the law of all classes for that of each",
    ),
    Cell("numbers-code", "5.25 - 2 * joint", "5.25 - joint", "a cost with half of its mixed term"),
    Cell("numbers-code", "r = weight**0.5", "r = weight", "the weight in place of its root, in the limit"),
    Cell("numbers-code", "0 * c[:len(z)]", "u[:, :c.shape[1]]", "a condition that moves along"),
    Cell("numbers-measure", "(x_1 - x_0).square().mean().item()", "(x_1 - x_0).square().mean().item() / 2", "half"),
    Library(
        "couplings.MinibatchOT.__call__",
        "torch.cat([b, c], 1)",
        "torch.cat([b, c.flip(0)], 1)",
        "conditions of other rows",
        at="numbers-measure",
    ),
    Cell("source-code", "begin = y + sigma * torch.randn_like(y)", "begin = 1 * y", "started without the noise"),
    Cell("pictures-code", ".repeat_interleave(2, 1).repeat_interleave(2, 2)", ".repeat(1, 2, 2)", "blocks elsewhere"),
    Cell("pictures-train", "torch.cat([x_1, y], 1)", "torch.cat([x_1, 0 * y], 1)", "a condition that fades"),
    Cell("pictures-repair", "steps=10, ", "steps=1, ", "one step called converged"),
    Cell("pictures-table", "norm(dim=2).mean(0)", "norm(dim=2).amin(0)", "the best of three repairs counted"),
]
