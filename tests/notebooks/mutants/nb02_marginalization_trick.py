"""Mutants of notebook 2, the marginalization trick."""

from tests.notebooks.mutants import Cell, Library

CARRY = "sample(velocity, x_0,"
MADE = "made = sample(result.model, noise, steps=50)"

MUTANTS = [
    Cell("one-point-code", "/ (1 - column(t, x))", "", "the time that is left is forgotten"),
    Cell("weights-code", "(2 * (1 - t) ** 2)", "(2 * (1 - t))", "a standard deviation for a variance in the weights"),
    Cell("weights-code", "logits.softmax(-1) ", "(logits / 1.1).softmax(-1) ", "a posterior at temperature 1.1"),
    Cell("many-code", "posterior_weights(x, data, t) @ data", "data.mean(0)", "the prior for the posterior"),
    Cell("forgotten-check", "x_1 - x,", "1.02 * (x_1 - x),", "a field 1.02 times too fast, without the denominator"),
    Cell("attention-check", "bias = -t**2", "bias = -t", "the attention's bias with t for t^2"),
    Cell(
        "cells-code",
        "u = cell_mean(x_t), cell_mean(x_1 - x_0), marginal_velocity(x_t, t)",
        "u = cell_mean(x_t), cell_mean(x_1 - x_0), 1.05 * marginal_velocity(x_t, t)",
        "a conditional mean 1.05 times too long",
    ),
    Cell("plain-code", "each.mean(1) ", "each[:, 0] ", "one data point for the mean of them all"),
    Cell(
        "plain-plot",
        'torch.cdist(runs["weighted by the posterior"][-1], data)',
        "torch.cdist(1.1 * x_0, data)",
        "a Gaussian cloud that was not carried at all",
    ),
    Cell(
        "push-code",
        CARRY,
        "sample(lambda x, t: velocity(x, t) + 0.2 * x @ x.new_tensor([[0, 1], [-1, 0]]), x_0,",
        "the carried samples turn round the origin",
    ),
    Cell(
        "push-code",
        CARRY,
        "sample(lambda x, t: 1.1 * velocity(x, t), x_0,",
        "the samples are carried 1.1 times too fast",
    ),
    Cell(
        "push-code",
        CARRY,
        "1.1 * sample(velocity, x_0,",
        "carried samples times 1.1",
    ),
    Cell(
        "push-code",
        'method="rk4"',
        'method="euler"',
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
    Cell("hutchinson-code", "* covariance - eye) / (1 - t)", "* covariance - eye)", "a Jacobian not divided by 1 - t"),
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
        "spread-plot",
        "conditional_variance(path.sample(20_000, t), t))",
        "conditional_variance(path.sample(20_000, t), t) * (1 - t) ** 2)",
        "the spread of the targets for that of the velocities",
    ),
    Cell("noisy-check", "- torch.randn_like(out))", "- 1.05 * torch.randn_like(out))", "noise 1.05 times too large"),
    Cell(
        "memory-sample",
        MADE,
        "made = train[torch.randint(len(train), (1440,))] + 0.25 * torch.randn(1440, 64)",
        "copies with noise on top in place of the network's samples",
    ),
    Cell(
        "memory-sample",
        MADE,
        "made = train.mean(0) + torch.randn(1440, len(train)) @ (train - train.mean(0)) / len(train) ** 0.5",
        "one Gaussian with the mean and covariance of the digits",
    ),
    Cell(
        "memory-sample",
        MADE,
        "made = torch.stack([train[torch.randint(len(train), (1440,)), k] for k in range(64)], 1)",
        "pixels drawn independently of each other",
    ),
    Cell("memory-sample", MADE, "made = 1.1 * sample(result.model, noise, steps=50)", "samples times 1.1"),
    Cell(
        "memory-sample",
        "copier = exact.DataPath(train.double())",
        "copier = exact.DataPath(train.double() * 0.98)",
        "the exact velocity of shrunken images",
    ),
    Cell("memory-check", "hits[:len(train)]", "hits[-len(train):]", "the share at other images than the training ones"),
    Cell("memory-check", "argmin(1)", "topk(2, largest=False).indices[:, 1]", "the second nearest for the nearest"),
    Cell("memory-check", "made)", "noised(train))", "noised copies where the share of the network is asked for"),
    Cell("memory-floor-check", "1.1 * train", "train", "a control that is not wrong"),
    Cell("few-plot", "train[:20], steps=400", "train, steps=400", "twenty digits asked for, all digits trained on"),
    Cell("generalise-check", "learned, perfect = cfm_losses", "perfect, learned = cfm_losses", "the losses swapped"),
]
