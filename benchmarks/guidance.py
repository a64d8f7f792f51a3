"""Guided sampling of digits: `guidance.classifier_free`, one batch of both halves, against two calls of the network."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.timing import Row, compare
from fmlib import devices, guidance, sample
from fmlib.models import ResidualMLP

NULL, WEIGHT = 10, 2.0


def rows(quick: bool) -> Iterator[Row]:
    place = devices.device_of()
    torch.manual_seed(0)
    network = ResidualMLP(64, classes=11).to(place).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.02 * torch.randn_like(p))  # fresh weights pay no attention to the label
    guided = guidance.classifier_free(network, WEIGHT, NULL)

    def two_calls(x, t, label):
        without = network(x, t, label=torch.full_like(label, NULL))
        return without + WEIGHT * (network(x, t, label=label) - without)

    for n, wanted in ((10, ">= 1.3"), (100, ">= 1.3"), (1000, "for comparison")):
        x_0 = torch.randn(n, 64, generator=torch.Generator().manual_seed(0)).to(place)
        options = {"steps": 5 if quick or n == 1000 else 25, "label": torch.arange(n, device=place) % 10}
        sides = [lambda v=v, x=x_0, o=options: sample(v, x, **o) for v in (guided, two_calls)]
        a, b, ratio = compare(*sides)
        apart = (sides[0]() - sides[1]()).abs().max().item()
        name = f"guided digits, midpoint steps: {options['steps']}, batch {n}"
        more = compare(partial(_calls, network, n), partial(_calls, network, 2 * n), repeats=3)[2]
        why = f"the network takes {more:.2f} times as long for twice the rows, so {2 / more:.2f} is the most there is"
        yield Row(name, "two calls", a, b, ratio, wanted, f"images apart by at most {apart:.0e}", why)


@torch.inference_mode()
def _calls(network, n: int) -> None:
    place = next(network.parameters()).device
    x, t = torch.zeros(n, 64, device=place), torch.tensor(0.5, device=place)
    label = torch.zeros(n, dtype=torch.int64, device=place)
    for _ in range(10):
        network(x, t, label=label)
