"""Small networks with one call signature, velocity(x, t, **condition), t a number, () or (batch,).

`MLP` and `ResidualMLP` take points x (batch, dim), `UNet` images x (batch, channels, height, width), `Equivariant`
clouds x (batch, points, dim), and `Tangent` makes of a network for points one for a manifold. `TokenMLP` is the one
that returns no velocity: it takes tokens x (batch, positions), integers, to logits. All say `rowwise = True`,
so that `sampling.sample` may take rows in parts (`sampling.is_rowwise`).

With `until=True` the first three are flow maps as well: network(x, t, s=s) is the average velocity on the way from t to
s, and network(x, t) the velocity at t.
"""

import math

import torch
from torch import Tensor, nn

from fmlib import _validate, sampling


class TimeFeatures(nn.Module):
    """t -> (sin(f_i t), cos(f_i t)) for `count` frequencies f_i spaced geometrically from pi/2 to `highest` pi.

    A network that sees only the number t learns sharp changes in time slowly; these features give it several scales
    (Vaswani et al. 2017, "Attention Is All You Need", section 3.5). d/dt multiplies each by its frequency, so a loss
    that differentiates in t needs a low `highest`. With `until`, (t, s) -> the features of t and those of s - t.
    """

    def __init__(self, count: int = 16, highest: float | None = None, until: bool = False):
        super().__init__()
        self.highest = _validate.positive("highest", (4.0 if until else 64.0) if highest is None else highest)
        self.until, self.size = until, 2 * _validate.count("count", count) * (1 + until)
        steps = torch.linspace(0, 1, count)
        self.register_buffer("frequencies", math.pi / 2 * (2 * self.highest) ** steps, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angle = t * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], -1)

    def of(self, x: Tensor, t: float | Tensor, s: float | Tensor | None) -> Tensor:
        """The features (batch, size) of the time of a call, or of both its times; s = t if it names none."""
        if not self.until:
            if s is not None:
                raise ValueError("this network has one time (until=False), so a call takes no s=")
            return self(_validate.time(t, x)).expand(len(x), -1)
        start, end = _validate.span(t, t if s is None else s, x)
        return torch.cat([self(start), self(end - start)], -1).expand(len(x), -1)


class MLP(nn.Module):
    """A plain network: x and its time features, `depth` hidden layers of `width` SiLU units, a velocity.

    until: whether calls may name a second time s in [t, 1] (see above). highest: of the time features' frequencies, in
    units of pi; by default 64, and 4 with `until`, as `objectives.MeanFlow` diverges under high ones.

    >>> MLP(dim=2)(torch.zeros(5, 2), 0.5).shape
    torch.Size([5, 2])
    """

    rowwise = True

    def __init__(self, dim: int, width: int = 128, depth: int = 3, until: bool = False, highest: float | None = None):
        super().__init__()
        dim, width, depth = _counts(dim=dim, width=width, depth=depth)
        self.config = {"dim": dim, "width": width, "depth": depth} | _times(until, highest)
        self.time = TimeFeatures(highest=highest, until=until)
        sizes = [dim + self.time.size] + depth * [width]
        layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, dim))

    def forward(self, x: Tensor, t: float | Tensor, s: float | Tensor | None = None) -> Tensor:
        _check_input(x, (self.config["dim"],), self.layers[0].weight)
        return self.layers(torch.cat([x, self.time.of(x, t, s)], 1))


class ResidualMLP(nn.Module):
    """Residual blocks whose normalised input is scaled and shifted by an embedding of the time and, if given, a label.

    Block: h <- h + W_2 silu(W_1 (norm(h) (1 + a) + b)), with a, b linear in the embedding and W_2 = 0 at the start, so
    that depth costs nothing to begin with (the conditioning of Perez et al. 2018, "FiLM"). The output adds g x, with a
    gain g for each coordinate, linear in the embedding too: near t = 1 a velocity falls steeply in x, like
    (x_1 - x) / (1 - t), which normalised layers resolve badly (compare the skip connection of Karras et al. 2022,
    "Elucidating the Design Space", table 1). With `classes`, calls need `label`: integers of shape (batch,). until,
    highest: as of `MLP`.

    >>> ResidualMLP(dim=64, classes=10)(torch.zeros(3, 64), 0.5, label=torch.tensor([0, 1, 2])).shape
    torch.Size([3, 64])
    """

    rowwise = True

    def __init__(
        self,
        dim: int,
        width: int = 192,
        blocks: int = 4,
        classes: int | None = None,
        until: bool = False,
        highest: float | None = None,
    ):
        super().__init__()
        (dim, width), blocks, classes = _counts(dim=dim, width=width), *_blocks_and_classes(blocks, classes)
        self.config = {"dim": dim, "width": width, "blocks": blocks, "classes": classes} | _times(until, highest)
        self.embed = _Embedding(width, classes, until, highest)
        self.enter = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))
        self.gain = nn.Linear(width, dim)
        _zero(self.gain)

    def forward(
        self, x: Tensor, t: float | Tensor, label: Tensor | None = None, s: float | Tensor | None = None
    ) -> Tensor:
        _check_input(x, (self.config["dim"],), self.enter.weight)
        context = self.embed(x, t, label, s)
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, context)
        return self.leave(h) + self.gain(context) * x


class _Embedding(nn.Module):
    """What a network is told besides x: the times and, if it knows `classes`, a label, as a vector (batch, width)."""

    def __init__(self, width: int, classes: int | None, until: bool, highest: float | None):
        super().__init__()
        self.time = TimeFeatures(highest=highest, until=until)
        self.layers = nn.Sequential(nn.Linear(self.time.size, width), nn.SiLU())
        self.label = nn.Embedding(classes, width) if classes else None

    def forward(self, x: Tensor, t: float | Tensor, label: Tensor | None, s: float | Tensor | None) -> Tensor:
        context = self.layers(self.time.of(x.flatten(1), t, s))
        if (label is None) != (self.label is None):
            classes = self.label.num_embeddings if self.label else None
            raise ValueError(
                f"this network has classes={classes}, so a call {'needs' if classes else 'takes no'} label="
            )
        if label is None:
            return context
        _validate.labels("label", label, self.label.num_embeddings)
        if len(label) != len(x):
            raise ValueError(f"label must have shape ({len(x)},), got {tuple(label.shape)}")
        return context + self.label(label.long())


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


class Equivariant(nn.Module):
    """A velocity for clouds x (batch, points, dim) that turns, mirrors, shifts and renumbers with them.

    v_i = sum_j (x_j - x_i) phi(h_i, h_j, m_ij), with the messages m_ij = f(|x_j - x_i|, t) and h_i = sum_j m_ij. Only
    distances enter f and phi, so v(g x) = g v(x) for every rotation, reflection and permutation g, trained or not, and
    a shift of the cloud changes nothing (the idea of Satorras et al. 2021, "E(n) Equivariant Graph Neural Networks").
    The cloud's mean is not seen: subtract it from source and data. The work grows as points squared.

    points: the number in a cloud, at least 2. dim: of each point. width: of the messages. TypeError or ValueError for
    anything else.

    >>> Equivariant(points=3, dim=2)(torch.zeros(5, 3, 2), 0.5).shape
    torch.Size([5, 3, 2])
    """

    rowwise = True

    def __init__(self, points: int, dim: int, width: int = 32):
        super().__init__()
        points, (dim, width) = _validate.count("points", points, 2), _counts(dim=dim, width=width)
        self.config = {"points": points, "dim": dim, "width": width}
        self.shape, self.time = (points, dim), TimeFeatures(8)
        self.message = nn.Sequential(nn.Linear(1 + 16, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.phi = nn.Sequential(nn.Linear(3 * width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        _check_input(x, self.shape, self.phi[0].weight)
        way = x[:, None] - x[:, :, None]  # x_j - x_i, (batch, i, j, dim)
        far = way.norm(dim=3, keepdim=True)
        time = self.time(_validate.time(t, far)).expand(*far.shape[:3], -1)
        m = self.message(torch.cat([far, time], 3))
        h = m.sum(2)
        both = h[:, :, None].expand_as(m), h[:, None].expand_as(m)
        return (way * self.phi(torch.cat([*both, m], 3))).sum(2)


class Tangent(nn.Module):
    """A network as a velocity on a manifold: v(x, t) = P_x network(project(x), t), tangent wherever it is asked.

    Off the sphere it continues the velocity of the nearest point, v(x) = v(x / |x|), so there and on the torus its
    divergence in the surrounding space is that of the manifold: `likelihood.log_likelihood` takes it as it is, with the
    source's density per area as `source_log_prob` (Rozen et al. 2021, "Moser Flow", section 3, on such extensions).
    Not so on the hyperboloid. network: any velocity (x, t, **condition) on the coordinates; a flow map is none, as its
    steps are straight: s= is a ValueError. manifold: of `manifolds`.

    >>> from fmlib.manifolds import Sphere
    >>> x = Sphere().uniform(4)
    >>> bool(((x * Tangent(MLP(dim=3), Sphere())(x, 0.5)).sum(1).abs() < 1e-6).all())
    True
    """

    def __init__(self, network: nn.Module, manifold):
        super().__init__()
        _validate.methods("manifold", manifold, "project(x)", "tangent(x, v)")
        self.network, self.manifold, self.rowwise = network, manifold, sampling.is_rowwise(network)

    def forward(self, x: Tensor, t: float | Tensor, **condition) -> Tensor:
        if "s" in condition:
            raise ValueError("a flow map steps straight, off the manifold: Tangent is for velocities, and takes no s=")
        x = self.manifold.project(x)
        v = self.network(x, t, **condition)
        _validate.same("x", x, "network(x, t)", v)
        # ours need not be told again that x is a point
        return getattr(self.manifold, "_tangent", self.manifold.tangent)(x, v)


class UNet(nn.Module):
    """A small network for images: convolutions at three scales, with shortcuts between equal ones.

    (Ronneberger et al. 2015, "U-Net".) Each block is scaled and shifted by an embedding of the time and, if given, a
    label; attention joins the pixels of the coarsest scale; the output adds a gain times x, as in `ResidualMLP`.
    shape: (channels, height, width), height and width multiples of 4. width: channels at the finest scale, a multiple
    of 8. With `classes`, calls need `label`: integers of shape (batch,). until, highest: as of `MLP`.

    >>> UNet(shape=(1, 28, 28), width=8, classes=10)(torch.zeros(2, 1, 28, 28), 0.5, label=torch.tensor([3, 4])).shape
    torch.Size([2, 1, 28, 28])
    """

    rowwise = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int = 32,
        classes: int | None = None,
        until: bool = False,
        highest: float | None = None,
    ):
        super().__init__()
        channels, *sides = shape = tuple(_validate.count("shape", size, 0) for size in shape)
        width, (_, classes) = _validate.count("width", width, 0), _blocks_and_classes(0, classes)
        if len(sides) != 2 or any(side % 4 or side < 4 for side in sides) or width % 8 or width < 8:
            raise ValueError(f"need shape (channels, 4 m, 4 n) and a width of 8 k, got {shape} and {width}")
        self.config = {"shape": list(shape), "width": width, "classes": classes} | _times(until, highest)
        self.embed = _Embedding(4 * width, classes, until, highest)
        fine, middle, coarse = width, 2 * width, 4 * width
        self.enter = nn.Conv2d(channels, fine, 3, padding=1)
        self.down_1 = _ImageBlock(fine, fine, coarse)
        self.shrink_1 = nn.Conv2d(fine, fine, 3, stride=2, padding=1)
        self.down_2 = _ImageBlock(fine, middle, coarse)
        self.shrink_2 = nn.Conv2d(middle, middle, 3, stride=2, padding=1)
        self.bottom_1 = _ImageBlock(middle, coarse, coarse)
        self.attention = _Attention(coarse)
        self.bottom_2 = _ImageBlock(coarse, coarse, coarse)
        self.grow_2 = nn.Conv2d(coarse, middle, 3, padding=1)
        self.up_2 = _ImageBlock(2 * middle, middle, coarse)
        self.grow_1 = nn.Conv2d(middle, fine, 3, padding=1)
        self.up_1 = _ImageBlock(2 * fine, fine, coarse)
        self.leave = nn.Sequential(nn.GroupNorm(8, fine), nn.SiLU(), nn.Conv2d(fine, channels, 3, padding=1))
        self.gain = nn.Linear(coarse, channels)
        _zero(self.gain)

    def forward(
        self, x: Tensor, t: float | Tensor, label: Tensor | None = None, s: float | Tensor | None = None
    ) -> Tensor:
        _check_input(x, tuple(self.config["shape"]), self.enter.weight)
        context = self.embed(x, t, label, s)
        h = self.enter(x).contiguous(memory_format=torch.channels_last)  # the layout in which convolutions are fast
        fine = self.down_1(h, context)
        middle = self.down_2(self.shrink_1(fine), context)
        h = self.bottom_1(self.shrink_2(middle), context)
        h = self.bottom_2(self.attention(h), context)
        h = self.up_2(torch.cat([self.grow_2(_doubled(h)), middle], 1), context)
        h = self.up_1(torch.cat([self.grow_1(_doubled(h)), fine], 1), context)
        return self.leave(h).contiguous() + self.gain(context)[:, :, None, None] * x


class _ImageBlock(nn.Module):
    """h <- s(h) + conv(silu(norm(conv(silu(norm(h)))) (1 + a) + b)), with a 1x1 shortcut s where channels differ."""

    def __init__(self, channels: int, out: int, context: int):
        super().__init__()
        self.norm_1, self.norm_2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, out)
        self.conv_1, self.conv_2 = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.modulate = nn.Linear(context, 2 * out)
        self.shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)
        _zero(self.conv_2)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.modulate(context)[:, :, None, None].chunk(2, 1)
        inner = self.conv_1(nn.functional.silu(self.norm_1(h)))
        inner = self.norm_2(inner) * (1 + scale) + shift
        return self.shortcut(h) + self.conv_2(nn.functional.silu(inner))


class _Attention(nn.Module):
    """h <- h + W softmax(q k^T / sqrt(d)) v over the pixels, in heads of d = 32 channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.enter, self.leave = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        _zero(self.leave)

    def forward(self, h: Tensor) -> Tensor:
        heads = h.shape[1] // 32
        q, k, v = self.enter(self.norm(h)).flatten(2).unflatten(1, (3, heads, 32)).transpose(-1, -2).unbind(1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return h + self.leave(mixed.transpose(-1, -2).flatten(1, 2).reshape(h.shape))


class TokenMLP(nn.Module):
    """Tokens to logits of the posterior, (batch, length) -> (batch, length, vocabulary): blocks as of `ResidualMLP`.

    h = sum_i E[i, x_i], with an embedding of its own for each token at each position, then blocks scaled and shifted by
    the time and, if given, a label, then logits for all positions at once. Each position's logit of the token k that it
    holds gets a gain g_k, linear in that embedding: what is there already need not pass the blocks to come out again.

    length, vocabulary: counts, the mask, if any, being one of the vocabulary. With `classes`, calls need `label`:
    integers of shape (batch,). TypeError or ValueError for tokens that are not integers in [0, vocabulary).

    >>> TokenMLP(length=5, vocabulary=7)(torch.zeros(2, 5, dtype=torch.int64), 0.5).shape
    torch.Size([2, 5, 7])
    """

    rowwise = True

    def __init__(self, length: int, vocabulary: int, width: int = 96, blocks: int = 2, classes: int | None = None):
        super().__init__()
        length, width = _counts(length=length, width=width)
        vocabulary = _validate.count("vocabulary", vocabulary, 2)
        blocks, classes = _blocks_and_classes(blocks, classes)
        self.config = {"length": length, "vocabulary": vocabulary, "width": width, "blocks": blocks, "classes": classes}
        self.shape, self.embed = (length, vocabulary), _Embedding(width, classes, False, None)
        self.enter = nn.EmbeddingBag(length * vocabulary, width, mode="sum")
        nn.init.normal_(self.enter.weight, std=length**-0.5)
        self.register_buffer("place", vocabulary * torch.arange(length), persistent=False)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, length * vocabulary))
        self.gain = nn.Linear(width, vocabulary)
        _zero(self.gain)

    def forward(self, x: Tensor, t: float | Tensor, label: Tensor | None = None) -> Tensor:
        length, vocabulary = self.shape
        if _validate.tokens("x", x, vocabulary).shape[1] != length:
            raise ValueError(f"x must have shape (batch, {length}), got {tuple(x.shape)}")
        x = x.long()
        h = self.enter(x + self.place)
        context = self.embed(h, t, label, None)
        for block in self.blocks:
            h = block(h, context)
        gain = self.gain(context).gather(1, x)
        return self.leave(h).unflatten(1, self.shape).scatter_add(2, x[..., None], gain[..., None])


def _doubled(h: Tensor) -> Tensor:
    return nn.functional.interpolate(h, scale_factor=2.0, mode="nearest")


def _zero(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _counts(**numbers: int) -> list[int]:
    """The numbers as Python's own, NumPy's too, if all are whole and at least 1."""
    return [_validate.count(name, number) for name, number in numbers.items()]


def _blocks_and_classes(blocks: int, classes: int | None) -> tuple[int, int | None]:
    """Both checked; there may be no blocks, and no classes."""
    return _validate.count("blocks", blocks, 0), None if classes is None else _validate.count("classes", classes, 0)


def _check_input(x: Tensor, shape: tuple[int, ...], weight: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if x.shape[1:] != shape:
        raise ValueError(f"x must have shape (batch, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        came, own = (str(dtype).removeprefix("torch.") for dtype in (x.dtype, weight.dtype))
        raise TypeError(f"x is {came} and the network's weights are {own}: convert one of them")


def _times(until: bool, highest: float | None) -> dict:
    """What a config says of the times where that is not the usual: runs stored before there were two go on."""
    if not isinstance(until, bool):
        raise TypeError(f"until must be True or False, got {until!r}")
    return {"until": until, "highest": highest} if until or highest is not None else {}


def parameter_count(model: nn.Module) -> int:
    """The number of trained parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
