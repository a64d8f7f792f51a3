"""Mutants of notebook 2, the marginalization trick."""

from tests.notebooks.mutants import Cell, Library

CARRY = "sample(velocity, x_0, steps=95, t=(0, 0.95), return_path=True).x\n    carried"
MADE = "made = sample(result.model, noise, steps=50)"

MUTANTS = [
    Cell("one-point-code", "/ (1 - column(t, x))", "", "the time that is left is forgotten"),
    Cell("many-code", "(2 * (1 - t) ** 2)", "(2 * (1 - t))", "a standard deviation for a variance in the weights"),
    Cell("many-code", "logits.softmax(-1) ", "(logits / 1.1).softmax(-1) ", "a posterior at temperature 1.1"),
    Cell("many-code", "posterior_weights(x, data, t) @ data", "data.mean(0)", "the prior for the posterior"),
    Cell("attention-check", "bias = -t**2", "bias = -t", "the attention's bias with t for t^2"),
    Cell(
        "cells-code",
        "u = cell_mean(x_t), cell_mean(x_1 - x_0), marginal_velocity(x_t, t)",
        "u = cell_mean(x_t), cell_mean(x_1 - x_0), 1.05 * marginal_velocity(x_t, t)",
        "a conditional mean 1.05 times too long",
    ),
    Cell(
        "push-code",
        CARRY,
        "sample(lambda x, t: velocity(x, t) + 0.2 * x @ x.new_tensor([[0, 1], [-1, 0]]), x_0, steps=95, t=(0, 0.95), "
        "return_path=True).x\n    carried",
        "the carried samples turn round the origin",
    ),
    Cell(
        "push-code",
        CARRY,
        "sample(lambda x, t: 1.1 * velocity(x, t), x_0, steps=95, t=(0, 0.95), return_path=True).x\n    carried",
        "the samples are carried 1.1 times too fast",
    ),
    Cell(
        "push-code",
        CARRY,
        "1.1 * sample(velocity, x_0, steps=95, t=(0, 0.95), return_path=True).x\n    carried",
        "carried samples times 1.1",
    ),
    Cell(
        "push-code",
        CARRY,
        "sample(velocity, x_0, steps=19, method='euler', t=(0, 0.95), return_path=True).x"
        ".repeat_interleave(5, 0)\n    carried",
        "too few Euler steps",
    ),
    Cell(
        "push-heights-check",
        'carried["weighted by the posterior"]',
        "[moment_twin(t) for t in moments]",
        "one Gaussian with the right moments in place of the carried samples",
    ),
    Cell(
        "continuity-code",
        "density(x, t)[:, None] * velocity",
        "velocity",
        "the divergence of the velocity for that of the flux",
    ),
    Cell(
        "likelihood-check",
        "[marginal_velocity, too_fast, warm_velocity]:\n    found = log_likelihood(slowed(u)",
        "[marginal_velocity, too_fast, warm_velocity]:\n    found = log_likelihood(slowed(lambda x, t: u(x, t) * 1.02)",
        "a velocity 1.02 times too fast on the way back",
    ),
    Cell(
        "likelihood-check",
        "[marginal_velocity, too_fast, warm_velocity]:\n    found = log_likelihood(slowed(u)",
        "[marginal_velocity, too_fast, warm_velocity]:\n"
        "    found = log_likelihood(slowed(lambda x, t: u(x, t) + 0.05 * x @ x.new_tensor([[0, 1], [-1, 0]]))",
        "a rotation is added to the velocity on the way back",
    ),
    Library(
        "likelihood._Flow.estimate",
        'e.sign() if noise == "rademacher" else e',
        'e.sign() if noise == "rademacher" else 1.05 * e',
        "Gaussian probes with a standard deviation of 1.05",
        at="hutchinson-code",
    ),
    Library(
        "likelihood._Flow.estimate",
        'e.sign() if noise == "rademacher" else e',
        "e",
        "Gaussian probes where signs are asked for",
        at="hutchinson-code",
    ),
    Library(
        "likelihood._Flow.estimate",
        'e.sign() if noise == "rademacher" else e',
        "e.abs().sign() if noise == 'rademacher' else e",
        "the same signs every time: a biased trace",
        at="hutchinson-code",
    ),
    Cell("losses-code", "/ (1 - t) ** 2", "/ (1 - t)", "the conditional variance over 1 - t, not its square"),
    Cell(
        "losses-compare", "cfm = torch.stack([(v - u_given)", "cfm = torch.stack([(v - 1.02 * u_given)", "biased pairs"
    ),
    Cell(
        "gradients-code",
        "u_given, plain_velocity(x_t, t)]",
        "1.05 * u_given, plain_velocity(x_t, t)]",
        "biased targets",
    ),
    Cell(
        "memory-train",
        MADE,
        "made = train[torch.randint(len(train), (1440,))] + 0.25 * torch.randn(1440, 64)",
        "copies with noise on top in place of the network's samples",
    ),
    Cell(
        "memory-train",
        MADE,
        "made = train.mean(0) + torch.randn(1440, len(train)) @ (train - train.mean(0)) / len(train) ** 0.5",
        "one Gaussian with the mean and covariance of the digits",
    ),
    Cell(
        "memory-train",
        MADE,
        "made = torch.stack([train[torch.randint(len(train), (1440,)), k] for k in range(64)], 1)",
        "pixels drawn independently of each other",
    ),
    Cell("memory-train", MADE, "made = 1.1 * sample(result.model, noise, steps=50)", "samples times 1.1"),
    Cell(
        "memory-train",
        "copier = exact.DataPath(train.double())",
        "copier = exact.DataPath(train.double() * 0.98)",
        "the exact velocity of shrunken images",
    ),
    Cell("generalise-check", "learned, perfect = cfm_losses", "perfect, learned = cfm_losses", "the losses swapped"),
]
