"""Exact log-likelihood: `fmlib.likelihood` against `flow_matching`'s compute_likelihood; time, then peak memory."""

import subprocess
import sys
from collections.abc import Iterator

import torch
from flow_matching.solver import ODESolver

from benchmarks.sampling import Wrapped
from benchmarks.timing import Row, compare
from fmlib import devices, likelihood
from fmlib.models import MLP

STEPS = 4


def sides(d: int, n: int):
    place = devices.device_of()
    torch.manual_seed(0)
    model = MLP(d, 512, 4).to(place)
    x_1 = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).to(place)
    peer = ODESolver(velocity_model=Wrapped(model))
    normal = torch.distributions.Independent(
        torch.distributions.Normal(torch.zeros(d, device=place), torch.ones(d, device=place)), 1
    )

    def ours():
        return likelihood.log_likelihood(model, x_1, steps=STEPS)

    def theirs():
        options = {"step_size": 1 / STEPS, "method": "midpoint", "exact_divergence": True}
        return peer.compute_likelihood(x_1=x_1, log_p0=normal.log_prob, **options)[1].detach()

    return ours, theirs


def rows(quick: bool) -> Iterator[Row]:
    for d, n in [(2, 500)] if quick else [(2, 500), (2, 2000), (2, 10_000), (64, 64)]:
        want = "3" if d == 2 else "2.3"
        ours, theirs = sides(d, n)
        a, b, ratio = compare(ours, theirs)
        quality = f"apart by at most {(ours() - theirs()).abs().max():.0e} nats"
        # A midpoint step asks for the divergence at both stages, or at the one that counts: a pass forward, d back
        mine, other = 2 + d, 2 * (1 + d)
        why = f"a step passes the network {mine} times, theirs {other}: {other / mine:.2f} if that were all"
        yield Row(f"log-likelihood, d = {d}, {n} points", "flow_matching", a, b, ratio, f">= {want}", quality, why)
    if quick:
        return
    a, b = (_peak(side) for side in ("ours", "theirs"))
    quality = f"peak memory above the start: {a:.0f} MB and {b:.0f} MB"
    nan = float("nan")
    yield Row("log-likelihood, d = 2, memory", "flow_matching", nan, nan, b / max(a, 1.0), ">= 1", quality)


def _peak(side: str) -> float:
    """The peak of the resident memory over that before, in MB, in a process of its own."""
    n = 5000
    code = f"""if True:
        import threading, time
        from pathlib import Path
        from benchmarks import likelihood
        small, large = likelihood.sides(2, 16), likelihood.sides(2, {n})
        number = {("ours", "theirs").index(side)}
        small[number]()

        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

        before, seen, done = resident(), [], threading.Event()

        def watch():
            while not done.wait(0.001):
                seen.append(resident())

        watcher = threading.Thread(target=watch)
        watcher.start()
        large[number]()
        done.set()
        watcher.join()
        print(max(seen) - before)
    """
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
