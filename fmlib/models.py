"""Small networks with one call signature, velocity(x, t, **condition): x (batch, dim); t a number, () or (batch,)."""

import math

import torch
from torch import Tensor, nn

from fmlib import _validate


class TimeFeatures(nn.Module):
    """t -> (sin(f_i t), cos(f_i t)) for `count` frequencies f_i spaced geometrically from pi/2 to 64 pi.

    A network that sees only the number t learns sharp changes in time slowly; these features give it several scales
    (Vaswani et al. 2017, "Attention Is All You Need", section 3.5).
    """

    def __init__(self, count: int = 16):
        super().__init__()
        self.register_buffer("frequencies", math.pi / 2 * 128 ** torch.linspace(0, 1, count), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angle = t * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], -1)


class MLP(nn.Module):
    """A plain network: x and its time features, `depth` hidden layers of `width` SiLU units, a velocity.

    >>> MLP(dim=2)(torch.zeros(5, 2), 0.5).shape
    torch.Size([5, 2])
    """

    def __init__(self, dim: int, width: int = 128, depth: int = 3):
        super().__init__()
        self.config = {"dim": dim, "width": width, "depth": depth}
        self.time = TimeFeatures()
        sizes = [dim + 2 * len(self.time.frequencies)] + depth * [width]
        layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, dim))

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        _check_input(x, self.config["dim"])
        features = self.time(_validate.time(t, x)).expand(len(x), -1)
        return self.layers(torch.cat([x, features], 1))


class ResidualMLP(nn.Module):
    """Residual blocks whose normalised input is scaled and shifted by an embedding of the time and, if given, a label.

    Block: h <- h + W_2 silu(W_1 (norm(h) (1 + a) + b)), with a, b linear in the embedding and W_2 = 0 at the start, so
    that depth costs nothing to begin with (the conditioning of Perez et al. 2018, "FiLM"). The output adds g x, with a
    gain g for each coordinate, linear in the embedding too: near t = 1 a velocity falls steeply in x, like
    (x_1 - x) / (1 - t), which normalised layers resolve badly (compare the skip connection of Karras et al. 2022,
    "Elucidating the Design Space", table 1). With `classes`, calls need `label`: integers of shape (batch,).

    >>> ResidualMLP(dim=64, classes=10)(torch.zeros(3, 64), 0.5, label=torch.tensor([0, 1, 2])).shape
    torch.Size([3, 64])
    """

    def __init__(self, dim: int, width: int = 192, blocks: int = 4, classes: int | None = None):
        super().__init__()
        self.config = {"dim": dim, "width": width, "blocks": blocks, "classes": classes}
        self.time = TimeFeatures()
        self.embed_time = nn.Sequential(nn.Linear(2 * len(self.time.frequencies), width), nn.SiLU())
        self.embed_label = nn.Embedding(classes, width) if classes else None
        self.enter = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))
        self.gain = nn.Linear(width, dim)
        _zero(self.gain)

    def forward(self, x: Tensor, t: float | Tensor, label: Tensor | None = None) -> Tensor:
        _check_input(x, self.config["dim"])
        context = self.embed_time(self.time(_validate.time(t, x))).expand(len(x), -1)
        context = context + self._label_context(x, label)
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, context)
        return self.leave(h) + self.gain(context) * x

    def _label_context(self, x: Tensor, label: Tensor | None):
        if (label is None) != (self.embed_label is None):
            need = "needs" if self.embed_label else "takes no"
            raise ValueError(f"this network has classes={self.config['classes']}, so a call {need} label=")
        if label is None:
            return 0.0
        _validate.labels("label", label, self.config["classes"])
        if len(label) != len(x):
            raise ValueError(f"label must have shape ({len(x)},), got {tuple(label.shape)}")
        return self.embed_label(label)


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.enter, self.leave = nn.Linear(width, width), nn.Linear(width, width)
        _zero(self.leave)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.modulate(context).chunk(2, -1)
        inner = self.norm(h) * (1 + scale) + shift
        return h + self.leave(nn.functional.silu(self.enter(inner)))


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _check_input(x: Tensor, dim: int) -> None:
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(f"x must have shape (batch, {dim}), got {tuple(x.shape)}")


def parameter_count(model: nn.Module) -> int:
    """The number of trained parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
