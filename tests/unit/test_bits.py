"""The default `fit` gives the bits that it gave before it took any loss: those of the plain loop below, and those that
were recorded then, on a machine that computes alike.
"""

import copy
import hashlib
import json
import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from fmlib import AffinePath, datasets, fit, models
from fmlib.couplings import MinibatchOT, Paired

pytestmark = pytest.mark.slow

RECORDED = json.loads((Path(__file__).parent / "digests.json").read_text())


def mixed(seed: int, step: int) -> int:
    """SplitMix64's mixer, which seeds a step."""
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + 1) % 2**64
    for shift, factor in [(30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)]:
        z = (z ^ z >> shift) * factor % 2**64
    return (z ^ z >> 31) >> 1


def plain_loop(model, data, label=None, source=None, coupling=None, precision="float32", accumulate=1, clip=None):
    """200 steps at batch 64 of conditional flow matching on straight paths, with nothing of fmlib but its path."""
    averaged, optimizer, losses = copy.deepcopy(model), torch.optim.Adam(model.parameters(), 2e-3, fused=True), []
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 + math.cos(math.pi * step / 200)) / 2
        draw = torch.Generator().manual_seed(mixed(0, step))

        def pick(law, draw=draw):
            return torch.randint(len(law) if isinstance(law, torch.Tensor) else 1, (64,), generator=draw)

        rows = pick(data)
        x_1 = data[rows] if isinstance(data, torch.Tensor) else data(64, generator=draw)
        if source is None:
            x_0 = torch.randn(x_1.shape, generator=draw)
        else:
            x_0 = source[rows if isinstance(coupling, Paired) else pick(source)]
        t = torch.rand(64, generator=draw)
        if coupling:
            x_0, x_1 = coupling(x_0, x_1)
        total = torch.zeros(())
        optimizer.zero_grad()
        y = None if label is None else label[rows]
        for part in torch.arange(64).chunk(accumulate):
            point = AffinePath().sample(x_0[part], x_1[part], t[part])
            known = {} if y is None else {"label": y[part]}
            with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
                u = model(point.x_t, t[part], **known)
            loss = (u.float() - point.velocity).square().mean() / accumulate
            loss.backward()
            total += loss.detach()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        with torch.no_grad():
            for mine, theirs in zip(averaged.parameters(), model.parameters(), strict=True):
                mine.lerp_(theirs, 1 - min(0.999, (1 + step) / (10 + step)))
        losses.append(total)
    return averaged, torch.stack(losses)


def digest(*tensors: torch.Tensor) -> str:
    content = b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(content).hexdigest()[:16]


def arithmetic() -> str:
    """A digest of products, functions and gradients, float32 and bfloat16: equal where two machines compute alike."""
    torch.manual_seed(0)
    model, x = models.MLP(dim=2, width=32, depth=2), torch.randn(64, 2)
    value = model(x, torch.rand(64))
    value.square().mean().backward()
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(x, 0.3).float()
    one = models.ResidualMLP(64, width=32, blocks=1)(torch.randn(64, 64), 0.7)
    return digest(value, rough, one, *(p.grad for p in model.parameters()))


def small():
    return models.MLP(dim=2, width=32, depth=2)


def cases() -> dict:
    draw = torch.Generator().manual_seed(5)
    source, moons, digits = torch.randn(500, 2, generator=draw), datasets.moons(500, draw), datasets.digits()
    return {
        "default": (small, datasets.moons, {}),
        "bf16": (small, datasets.moons, {"precision": "bf16"}),
        "accumulate": (small, datasets.moons, {"accumulate": 4}),
        "clip": (small, datasets.moons, {"clip": 0.5}),
        "label": (lambda: models.ResidualMLP(64, width=32, blocks=1, classes=10), digits.x, {"label": digits.y}),
        "paired": (small, moons, {"source": source, "coupling": Paired()}),
        "transport": (small, moons, {"source": source, "coupling": MinibatchOT()}),
    }


@pytest.mark.parametrize("name", RECORDED["runs"])
def test_the_default_loss_gives_the_bits_of_the_plain_loop_and_those_recorded(name):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        make, data, options = cases()[name]
        torch.manual_seed(0)
        model = make()
        plain = copy.deepcopy(model)
        result = fit(model, data, steps=200, batch_size=64, device="cpu", **options)
        averaged, losses = plain_loop(plain, data, **options)
        found = [digest(result.losses), digest(*model.parameters()), digest(*result.model.parameters())]
        assert found == [digest(losses), digest(*plain.parameters()), digest(*averaged.parameters())]
        if arithmetic() == RECORDED["arithmetic"]:
            assert found == RECORDED["runs"][name]
    finally:
        torch.set_num_threads(threads)
