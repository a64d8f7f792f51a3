"""Drawing tokens: `sample_tokens` against `flow_matching`'s MixtureDiscreteEulerSolver, with the same logits."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from flow_matching.path import MixtureDiscreteProbPath
from flow_matching.path.scheduler import PolynomialConvexScheduler
from flow_matching.solver import MixtureDiscreteEulerSolver
from flow_matching.utils import ModelWrapper
from torch import nn

from benchmarks.timing import Row, compare
from fmlib import devices
from fmlib.exact import TokenPath
from fmlib.models import TokenMLP
from fmlib.tokens import sample_tokens

BATCH, POSITIONS, VOCABULARY = 64, 64, 65


class Transformer(nn.Module):
    """Two layers of attention over the positions; the time is one more number at each."""

    rowwise = True

    def __init__(self, width: int = 64):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
        self.token, self.place = nn.Embedding(VOCABULARY, width), nn.Embedding(POSITIONS, width)
        self.time, self.layers = nn.Linear(1, width), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.leave = nn.Linear(width, VOCABULARY)

    def forward(self, x, t):
        time = self.time(t.reshape(-1, 1, 1).expand(len(x), 1, 1))
        return self.leave(self.layers(self.token(x) + self.place.weight + time))


class Probabilities(ModelWrapper):
    """The network with the signature, and in the form, that their solver calls."""

    def forward(self, x, t, **extras):
        return self.model(x, t).softmax(-1)


class Exact(nn.Module):
    """The logits of the true posterior."""

    def __init__(self, path: TokenPath):
        super().__init__()
        self.path = path

    def forward(self, x, t):
        return self.path.posterior(x, t if t.ndim == 0 else t[0]).log()


def solver(network, vocabulary: int) -> MixtureDiscreteEulerSolver:
    path = MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
    return MixtureDiscreteEulerSolver(Probabilities(network), path, vocabulary)


def start(source: str, batch: int, positions: int, vocabulary: int, place) -> torch.Tensor:
    if source == "mask":
        return torch.full((batch, positions), vocabulary - 1, device=place)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (batch, positions), generator=generator).to(place)


class Counted:
    """A network that counts the rows it is asked for."""

    def __init__(self, network):
        self.network, self.rows = network, 0

    def __call__(self, x, t):
        self.rows += len(x)
        return self.network(x, t)


def rows(quick: bool) -> Iterator[Row]:
    torch.manual_seed(0)
    networks = {"MLP": TokenMLP(POSITIONS, VOCABULARY), "two-layer transformer of width 64": Transformer()}
    wanted = {("mask", "MLP"): ">= 2.5"}
    for name, network in networks.items():
        for source in ("mask", "uniform"):
            want = wanted.get((source, name), ">= 1.8" if source == "mask" else ">= 1.3")
            yield _timed(name, network, source, BATCH, 32, want)
            if name == "MLP" and source == "mask" and not quick:
                yield _timed(name, network, source, BATCH, 128, want)  # more steps than positions
            if not quick:
                yield _timed(name, network, source, 1, 32, ">= 1")
    if not quick:  # the larger the network, the less is won beside it
        yield _timed("two-layer transformer of width 128", Transformer(128), "mask", BATCH, 32, ">= 1")
    for source in ("mask", "uniform"):
        for n in (4,) if quick else (4, 16):
            yield _apart(source, n)


def _timed(name: str, network: nn.Module, source: str, batch: int, steps: int, wanted: str) -> Row:
    place = devices.device_of()
    network, x_0 = network.to(place).eval(), start(source, batch, POSITIONS, VOCABULARY, place)
    mine = partial(sample_tokens, x_0=x_0, steps=steps, mask=VOCABULARY - 1 if source == "mask" else None)
    theirs = partial(solver(network, VOCABULARY).sample, x_init=x_0, step_size=1 / steps)
    a, b, ratio = compare(partial(mine, network), theirs)
    counted = Counted(network)
    mine(counted)
    asked = f"a row asks the network {counted.rows / batch:.0f} times, theirs {steps}"
    title = f"tokens, {source} source, {name}, batch {batch}, {steps} steps"
    return Row(title, "flow_matching", a, b, ratio, wanted, asked)


def _apart(source: str, steps: int) -> Row:
    """Total variation to the exact law of three tokens at three positions; the ratio is theirs / ours."""
    n = 100_000
    q = (1.5 * torch.randn(27, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).softmax(0)
    if source == "mask":
        law = nn.functional.pad(q.reshape(3, 3, 3), (0, 1) * 3)
        path = TokenPath(law, torch.eye(4, dtype=torch.float64)[3])
    else:
        path = TokenPath(q.reshape(3, 3, 3), torch.full((3,), 1 / 3, dtype=torch.float64))
    K, law = len(path.source), path.law.flatten()
    x_0, place = start(source, n, 3, K, "cpu"), K ** torch.arange(2, -1, -1)
    mine = sample_tokens(Exact(path), x_0, steps=steps, mask=3 if source == "mask" else None)
    theirs = solver(Exact(path), K).sample(x_init=x_0, step_size=1 / steps)
    shares = [torch.bincount((x * place).sum(1), minlength=len(law)) / n for x in (mine, theirs)]
    a, b = ((share - law).abs().sum().item() / 2 for share in shares)
    noise = (law * (1 - law) * 2 / (math.pi * n)).sqrt().sum().item() / 2  # of a perfect sampler
    text = f"total variation to the exact law {a:.4f} and {b:.4f} (noise {noise:.4f})"
    return Row(f"tokens, {source} source, {steps} steps", "flow_matching", math.nan, math.nan, b / a, ">= 1", text)
