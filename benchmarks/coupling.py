"""Exact optimal transport: the assignment alone, and the training step that needs one for each batch."""

from collections.abc import Iterator
from functools import partial
from statistics import median

import torch
from scipy.optimize import linear_sum_assignment
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher, ExactOptimalTransportConditionalFlowMatcher
from torchcfm.optimal_transport import OTPlanSampler

from benchmarks.timing import Row, compare, time_of
from benchmarks.training_step import network
from fmlib import datasets, fit
from fmlib.couplings import Independent, MinibatchOT


def repeated(function, calls: int, *arguments):
    """Call `function` so often that the clock's own error does not count."""
    return lambda: [function(*arguments) for _ in range(calls)]


def torchcfm_loop(matcher, model, data, steps: int, batch_size: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        x_1 = data[torch.randint(len(data), (batch_size,))]
        t, x_t, velocity = matcher.sample_location_and_conditional_flow(torch.randn_like(x_1), x_1)
        (model(x_t, t) - velocity).square().mean().backward()
        optimizer.step()


def rows(quick: bool) -> Iterator[Row]:
    for d in (2, 784):
        for k in (128, 512) if quick else (128, 256, 512, 1024):
            x_0, x_1 = (torch.randn(k, d, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
            peer, ours = OTPlanSampler(method="exact"), MinibatchOT()
            calls = max(1, 2048 // k // (4 if quick else 1))
            a, b, ratio = compare(repeated(ours, calls, x_0, x_1), repeated(peer.sample_plan, calls, x_0, x_1))
            quality = f"cost within {_gap(ours(x_0, x_1)[0], x_1):.0e} of SciPy's optimum"
            want = ">= 1.3" if d == 2 else ">= 3"
            yield Row(f"assignment, d = {d}, k = {k}", "torchcfm", a / calls, b / calls, ratio, want, quality)
    for d in (2, 784):
        yield from _within_labels(d)
    yield from _steps(quick)


def _gap(moved: torch.Tensor, x_1: torch.Tensor, forbidden: torch.Tensor | None = None) -> float:
    """The cost of a permutation of the source over SciPy's optimum, less one; `forbidden` pairs cost 1e9 more."""
    cost = torch.cdist(moved.double(), x_1.double()).square()
    if forbidden is not None:
        cost = cost + 1e9 * forbidden
    return abs(cost.trace() / cost[linear_sum_assignment(cost.numpy())].sum() - 1)


def _within_labels(d: int) -> Iterator[Row]:
    """Ten small assignments in place of a large one; by torchcfm in a loop, as it knows no labels here."""
    x_0, x_1 = (torch.randn(512, d, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    label = torch.randint(10, (512,), generator=torch.Generator().manual_seed(2))
    within, plain, peer = MinibatchOT(within_labels=True), MinibatchOT(), OTPlanSampler(method="exact")

    def loop():
        for y in range(10):
            rows = label == y
            peer.sample_plan(x_0[rows], x_1[rows])

    name, apart = f"assignment within 10 labels, d = {d}, k = 512", label[:, None] != label
    quality = (
        f"cost within {_gap(within(x_0, x_1, label=label)[0], x_1, apart):.0e} of SciPy's optimum that keeps labels"
    )
    sides = {"torchcfm, label by label": (loop, ">= 1.3"), "one of all 512": (partial(plain, x_0, x_1), ">= 1")}
    for against, (theirs, wanted) in sides.items():
        a, b, ratio = compare(repeated(partial(within, x_0, x_1, label=label), 4), repeated(theirs, 4))
        yield Row(name, against, a / 4, b / 4, ratio, wanted, quality)


def _steps(quick: bool) -> Iterator[Row]:
    """The step with exact transport over the step without, on all cores, and with one left to the coupling."""
    data, steps = datasets.moons(20_000, torch.Generator().manual_seed(0)), 10 if quick else 30
    options = {"steps": steps, "learning_rate": 1e-3, "progress": False, "device": "cpu"}

    def mine(coupling):
        model = network("cpu")
        return lambda: fit(model, data, coupling=coupling, **options)

    def theirs(matcher):
        model = network("cpu")
        return lambda: torchcfm_loop(matcher(sigma=0.0), model, data, steps, 256)

    sides = {
        "fmlib": (mine(MinibatchOT()), mine(Independent())),
        "torchcfm": (theirs(ExactOptimalTransportConditionalFlowMatcher), theirs(ConditionalFlowMatcher)),
    }
    x_0, x_1 = torch.randn(256, 2, generator=torch.Generator().manual_seed(1)), data[:256]
    cores = torch.get_num_threads()
    for threads in (cores, cores - 1) if cores > 1 else (cores,):
        torch.set_num_threads(threads)
        alone = median(time_of(partial(MinibatchOT(), x_0, x_1)) for _ in range(9))
        for name, (with_transport, without) in sides.items():
            slow, fast, ratio = compare(with_transport, without)
            wanted = "<= 1.15" if name == "fmlib" else "for comparison"
            title = f"step with exact transport, batch 256, {name}, {threads} of {cores} cores"
            quality = "the ratio here is the cost: with / without"
            step = 1000 * fast / steps
            why = f"the assignment alone takes {1000 * alone:.2g} ms of one core, a step without it {step:.2g} ms"
            if threads == cores:  # in turn with the network
                more = alone * steps / fast
                why += f": {1 + more:.2f} in turn, {1 + more / cores:.2f} if all cores shared it and none ever waited"
            yield Row(title, "independent", slow / steps, fast / steps, 1 / ratio, wanted, quality, why)
    torch.set_num_threads(cores)
