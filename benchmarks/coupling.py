"""Exact optimal transport: the assignment alone, and the training step that needs one for each batch."""

import torch
from scipy.optimize import linear_sum_assignment
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher, ExactOptimalTransportConditionalFlowMatcher
from torchcfm.optimal_transport import OTPlanSampler

from benchmarks.timing import Row, compare
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


def rows(quick: bool) -> list[Row]:
    found = []
    for d in (2, 784):
        for k in (128, 512) if quick else (128, 256, 512, 1024):
            x_0, x_1 = (torch.randn(k, d, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
            peer, ours = OTPlanSampler(method="exact"), MinibatchOT()
            calls = max(1, 2048 // k // (4 if quick else 1))
            seconds = compare(repeated(ours, calls, x_0, x_1), repeated(peer.sample_plan, calls, x_0, x_1))
            moved, _ = ours(x_0, x_1)
            cost = torch.cdist(x_0.double(), x_1.double()).square()
            best = cost[linear_sum_assignment(cost.numpy())].sum()
            gap = ((moved.double() - x_1).square().sum() / best - 1).abs()
            quality = f"cost within {gap:.0e} of SciPy's optimum"
            want = ">= 1.3" if d == 2 else ">= 3"
            a, b, ratio = seconds
            found.append(Row(f"assignment, d = {d}, k = {k}", "torchcfm", a / calls, b / calls, ratio, want, quality))
    return [*found, *map(_within_labels, (2, 784)), *_steps(quick)]


def _within_labels(d: int) -> Row:
    """Ten small assignments in place of a large one."""
    x_0, x_1 = (torch.randn(512, d, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    label = torch.randint(10, (512,), generator=torch.Generator().manual_seed(2))
    within, plain = MinibatchOT(within_labels=True), MinibatchOT()
    seconds = compare(lambda: within(x_0, x_1, label=label), lambda: plain(x_0, x_1))
    cost = torch.cdist(x_0.double(), x_1.double()).square() + 1e9 * (label[:, None] != label)
    best = cost[linear_sum_assignment(cost.numpy())].sum()
    gap = ((within(x_0, x_1, label=label)[0].double() - x_1).square().sum() / best - 1).abs()
    quality = f"cost within {gap:.0e} of SciPy's optimum that keeps labels"
    return Row(f"assignment within 10 labels, d = {d}, k = 512", "one of all 512", *seconds, ">= 1", quality)


def _steps(quick: bool) -> list[Row]:
    """The step with exact transport over the step without, on all cores, and with one left to the coupling."""
    data, steps = datasets.moons(20_000, torch.Generator().manual_seed(0)), 20 if quick else 60
    options = {"steps": steps, "learning_rate": 1e-3, "progress": False, "device": "cpu"}
    found = []

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
    cores = torch.get_num_threads()
    for threads in (cores, cores - 1) if cores > 1 else (cores,):
        torch.set_num_threads(threads)
        for name, (with_transport, without) in sides.items():
            slow, fast, ratio = compare(with_transport, without)
            wanted = "<= 1.15" if name == "fmlib" else "for comparison"
            title = f"step with exact transport, batch 256, {name}, {threads} of {cores} cores"
            quality = "the ratio here is the cost: with / without"
            found.append(Row(title, "independent", slow / steps, fast / steps, 1 / ratio, wanted, quality))
    torch.set_num_threads(cores)
    return found
