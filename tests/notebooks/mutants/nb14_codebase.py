"""Mutants of notebook 14, the codebase demo."""

from tests.notebooks.mutants import Cell, Library

MUTANTS = [
    Cell("opening-code", '"learning_rate": 4e-3', '"learning_rate": 4e-5', "a training that has hardly begun"),
    Cell("data-samplers", "torch.randn(n, 64) @", "2 * torch.randn(n, 64) @", "Gaussians of twice the spread"),
    Cell("data-samplers", "(n, 64))", "(n, 1))", "the pixels drawn one by one are whole images"),
    Cell("path-code", "(1 - t) * x_0 + t * x_1", "t * x_0 + (1 - t) * x_1", "a path from the image to the noise"),
    Cell("path-code", "x_1 - x_0", "x_1 - 1.02 * x_0", "a velocity that takes 1.02 times the noise away"),
    Cell("loop-code", "        decay.step()\n", "", "a learning rate that stays"),
    Cell("loop-code", "64, seed, device", "64, seed + 1, device", "the batches of another seed"),
    Cell("loop-code", "u).square()", "u).abs()", "absolute differences for squares"),
    Cell("loop-code", "        optimizer.zero_grad()\n", "", "gradients that add up over the steps"),
    Library("training._decay", "step / steps", "step / (steps + 1)", "a cosine that does not reach zero", "loop-run"),
    Cell("loop-run", "seed=1", "seed=0", "the control is the same run"),
    Cell("dies-code", "seed=seed, progress", "seed=seed + 1, progress", "the run in the notebook has other batches"),
    Cell("dies-code", "learning_rate=4e-3", "learning_rate=4.01e-3", "or another learning rate"),
    Cell("dies-code", "run_until(20, folder", "run_until(120, folder", "killed when it has finished"),
    Cell(
        "dies-claims", "alone = one_run(120 - done, weights=mine)", "alone = whole", "the control is never interrupted"
    ),
    Cell("two-code", "nproc-per-node=2", "nproc-per-node=1", "one process for two"),
    Cell("two-code", "one_run(60, seed=1)", "one_run(60)", "the other seed is the same"),
    Cell("two-code", "one, other = one_run(60)", "one, other = one_run(40)", "the single process takes other steps"),
    Cell("ema-code", "distance(draw(model))", 'distance(draw(half["ema"]))', "always the averaged weights"),
    Cell("ema-code", '"raw": network.eval()', '"raw": half["raw"]', "the raw weights of half-way for those of the end"),
    Cell("precision-code", 'precision="bf16"', 'precision="float32"', "float32 for bf16"),
    Cell("precision-code", "dtype=torch.bfloat16", "dtype=torch.float32", "a weight with seven digits"),
    Library(
        "solvers.midpoint",
        "half = h / 2",
        "half = 0 * h",
        "the midpoint method looks at the start of the step",
        "steps-code",
    ),
    Cell("steps-code", "[recognised(x) for", "[recognised(x, held_out.y.roll(1)) for", "a judge with shifted labels"),
    Cell("steps-code", "draw(trained.model, n, method)", "draw(trained.model, 20, method)", "always twenty steps"),
    Library("likelihood.bits_per_dimension", "- log_prob", "+ log_prob", "bits with a wrong sign", "bits-code"),
    Library("likelihood.log_likelihood", "+ integral", "- integral", "the divergence with a wrong sign", "bits-code"),
    Cell("bits-code", "torch.rand(64, 1, 8, 8) / 8", "torch.rand(64, 1, 8, 8)", "noise eight levels wide"),
    Cell("bits-claims", "torch.tensor(127.5 / 8)", "torch.tensor(255 / 8)", "bytes with twice the levels"),
    Cell("gpu-code", "        if backward:", "        if not backward:", "forward and backward change places"),
    Cell("since-x1", "return (out - x) / (1", "return out / (1", "x_1 predicted, and the noise left alone"),
    Cell("since-x1", "return out + self.gain", "return out + 0 * self.gain", "no gain"),
    Cell("since-x1-run", "d - 2 - width", "d - 2", "a bound without the rank"),
    Cell("since-x1-run", "steps=400, batch", "steps=4, batch", "a velocity that has learnt nothing"),
    Cell("times-code", "0.2 + 0.8 *", "0.0 + 1.0 *", "no uniform times in the mixture"),
    Cell("latent-code", "return centre + z", "return z", "codes decoded without the mean"),
    Cell("latent-code", "@ root.T", "@ (2 * root).T", "twice the residual"),
    Cell(
        "latent-code", "lost = digits.x - decoded(z)", "lost = 0.1 * (digits.x - decoded(z))", "a tenth of the residual"
    ),
]
