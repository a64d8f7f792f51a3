"""Mistakes about one step, schedules, learned solvers, reflow, flow maps, their training, and drifting."""

from tests.notebooks.mutants import Cell, Library

MUTANTS = [
    Library(
        "exact.MixturePath.velocity",
        "s.d_alpha\n",
        "lambda time: 0.9 * s.d_alpha(time)\n",
        "a velocity whose targets are a tenth too short",
        at="one-code",
    ),
    Library("laws.GaussianMixture.sample", "+ torch.einsum", "+ 4 * torch.einsum", "data four times too wide"),
    Cell(
        "one-code",
        'sample(way.velocity, x_0, steps=n, method="euler")',
        "sample(way.velocity, x_0, steps=n)",
        "midpoint",
    ),
    Cell(
        "change-code",
        "t = old.inverse_log_snr(new.log_snr(r))",
        "t = old.inverse_log_snr(1.1 * new.log_snr(r))",
        "clock",
    ),
    Cell(
        "change-code", "return t, length / torch.hypot(old.alpha(t), old.sigma(t))", "return t, length", "half a scale"
    ),
    Library(
        "paths._rescheduled",
        "(s * speed).to(x.dtype) * u",
        "speed.to(x.dtype) * u",
        "motion that is not magnified",
        at="change-claims-code",
    ),
    Library(
        "paths._rescheduled",
        "velocity(x / s.to(x.dtype)",
        "velocity(x",
        "the old network asked at the new place",
        at="change-claims-code",
    ),
    Library(
        "paths._rescheduled",
        "growth_new / rise_new - speed * growth / rise",
        "growth_new / rise_new",
        "a scale that grows with the new path alone",
        at="change-claims-code",
    ),
    Library(
        "schedules.change",
        "old.inverse_log_snr(new.log_snr(r))",
        "old.inverse_log_snr(0.9 * new.log_snr(r))",
        "another ratio of signal to noise",
        at="change-claims-code",
    ),
    Cell("change-claims-code", "scale * old, within", "scale**2 * old, within", "the scale twice"),
    Cell("grids-code", '{"uniform": even,', '{"uniform": edm,', "EDM called uniform"),
    Library(
        "schedules.Cosine.d_alpha",
        "math.pi / 2 * self.sigma(t)",
        "math.pi / 2 * self.sigma(t) * 1.05",
        "a cosine path that is too fast",
        at="change-claims-code",
    ),
    Library(
        "solvers.midpoint",
        "velocity(middle, t + half)",
        "velocity(x, t)",
        "Euler's method called midpoint",
        at="grids-code",
    ),
    Cell("bespoke-code", "(inside - begin) * u(x, begin)", "(end - begin) * u(x, begin)", "a middle that is the end"),
    Cell("bespoke-code", "x = x + (end - begin) * u(middle, inside)", "x = x + (end - begin) * u(x, begin)", "Euler"),
    Cell("bespoke-train", "rounds=100", "rounds=2", "hardly trained"),
    Cell("bespoke-train", "(solver(u, x) - to)", "(solver(u, x) - x)", "a solver that stands still"),
    Cell(
        "line-code", "chords = (1 - times) * way[0]", "chords = (1 - times) * way[0].flip(0)", "chords of other pairs"
    ),
    Cell("reflow-code", "coupling=couplings.Paired(), ", "", "pairs that were torn apart"),
    Cell(
        "reflow-code",
        "pair_1 = sample(u, pair_0, steps=25)",
        "pair_1 = sample(u, pair_0, steps=2)",
        "pairs of two steps",
    ),
    Cell(
        "below-code",
        "again = sample(u, x, steps=40), sample(second",
        "again = sample(u, x, steps=40), sample(u",
        "no reflow",
    ),
    Cell(
        "below-code",
        "sample(u, pair_0[:1000].double(), steps=60)",
        "sample(u, -pair_0[:1000].double(), steps=60)",
        "pairs",
    ),
    Library(
        "couplings.MinibatchOT.__call__",
        "x_0.index_select(0, order.to(x_0.device))",
        "x_0.index_select(0, order.to(x_0.device).flip(0))",
        "pairs in the wrong order",
        at="below-code",
    ),
    Cell("turn-code", "(turn - torch.eye(2, dtype=F64)).T", "(turn - torch.eye(2, dtype=F64))", "the other quarter"),
    Library(
        "sampling.average_velocity",
        "total + mean",
        "total + first",
        "an average over the starts of the steps",
        at="identities-code",
    ),
    Cell("identities-code", "a(x + h * first, t + h, t + 2 * h)", "a(x, t + h, t + 2 * h)", "both halves from x"),
    Cell("identities-code", "gaps[s] = value - v - (s - t) * total", "gaps[s] = value - v + (s - t) * total", "sign"),
    Cell(
        "identities-code", "jvp_of_a(x, t, s, v, ", "jvp_of_a(x, t, s, 0.9 * v, ", "a tangent that is a tenth too short"
    ),
    Cell(
        "train-losses", "target = torch.where((length > 0)[:, None], (first + second) / 2, v)", "target = v", "no jumps"
    ),
    Cell("train-losses", "net(x + (m - t)[:, None] * first, m, s=s)", "net(x, m, s=s)", "the second half from x"),
    Cell("train-mean-flow", "(v + (s - t)[:, None]", "(v - (s - t)[:, None]", "the sign of the paper's time"),
    Cell("train-mean-flow", "change.detach()", "change", "no stop-gradient"),
    Cell("train-mean-flow", "tangents = v,", "tangents = torch.zeros_like(v),", "the partial derivative"),
    Library(
        "objectives.MeanFlow.__call__",
        "target = v + ",
        "target = v - ",
        "the sign of the paper's time in fmlib",
        at="train-code",
    ),
    Library(
        "objectives.MeanFlow.__call__",
        "(v, torch.ones_like(t))",
        "(torch.zeros_like(v), torch.ones_like(t))",
        "fmlib takes the partial derivative",
        at="train-equal",
    ),
    Library(
        "objectives.Shortcut.__call__",
        "target = (first + second) / 2",
        "target = first",
        "the first half for the whole",
        at="train-code",
    ),
    Library(
        "solvers.flow_map",
        "_moved(x, s - t, ",
        "_moved(x, 0.8 * (s - t), ",
        "jumps that are a fifth too short",
        at="train-code",
    ),
    Cell("train-code", "highest=1.0", "highest=8.0", "fast time features"),
    Cell("spikes-code", "highest=f)", "highest=1.0)", "slow features called fast"),
    Cell("drift-code", "(2 * h**2)", "h**2", "a kernel that is too narrow"),
    Cell("drift-exact", "- pull(x, own_samples, h)\n", "\n", "no push away from the own samples"),
    Cell("drift-train", "- pull(x, x, h, own=True)", "", "no push away in training"),
    Cell("drift-train", "steps=600", "steps=20", "hardly trained"),
    Cell("drift-train", "- pull(x, x, h, own=True)", "- x", "drawn to the data only"),
    Cell("wells-code", "[0.9, 0.1]", "[0.5, 0.5]", "equal weights"),
    Cell("wells-code", "blurred(q, h).score(x, 1.0))", "blurred(q, 1.1 * h).score(x, 1.0))", "two widths"),
]
