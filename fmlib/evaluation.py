"""What the command line computes: data by name, a network for them, pictures drawn from it, and their scores.

`score(drawn, asked, real, held_out)` compares any images with real ones; `report` does what `train` does at its end.
"""

import hashlib
import math
import os
import sys
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmlib import _validate, checkpoints, datasets, metrics, models, sampling, solvers, tokens, training

NAMED = {"digits": datasets.digits, "mnist": datasets.mnist, "fashion-mnist": datasets.fashion_mnist}
DRAWS = 4  # digits scored for each training label: with one, chance alone moves the energy distance by a tenth
MIDPOINTS, JUMPS = 25, 4  # steps from noise to image, of a velocity and of a flow map
LEVELS, REDRAWS = 17, 64  # grey levels of a digit as tokens, after which comes the mask; steps from all masks to image
SCORED = 500  # images drawn to be scored, for larger sets
COMPARED = 5000  # real images that teach the judge of labels
APART = 1000  # held-out images in an energy distance, whose cost grows with the square


class Data(NamedTuple):
    """Images to train on, images held out, and the names of the classes, if there are any."""

    train: datasets.Labelled
    held_out: datasets.Labelled
    classes: list[str]


def load(data: str, split: str = "train") -> Data:
    """The data set called `data`, or the images in the folder of that name.

    The split 'train' of a named set is held against its split 'test'. Of another split, and of a folder, a tenth of the
    images, drawn at random, the same on every call, is held out. Raises ValueError for an unknown name or split, and
    for fewer than about 20 images; OSError and ValueError as `datasets.mnist` and `datasets.folder` do.

    >>> [len(part.x) for part in load("digits")[:2]], [len(part.x) for part in load("digits", "test")[:2]]
    ([1437, 360], [324, 36])
    """
    if data in NAMED:
        classes = [str(label) for label in range(10)]
        if split == "train":
            return Data(_pictures(data, "train"), _pictures(data, "test"), classes)
        return Data(*_divided(_pictures(data, split)), classes)
    if not data or not Path(data).is_dir():
        known = ", ".join(NAMED)
        raise ValueError(f"unknown data set {data!r}; known: {known}, or a folder of images")
    if split != "train":
        raise ValueError(f"split {split!r} is for named data sets; a folder of images is divided here")
    x, y, classes = datasets.folder(data)
    return Data(*_divided(datasets.Labelled(x, y)), classes)


def _pictures(data: str, split: str) -> datasets.Labelled:
    x, y = NAMED[data](split)
    return datasets.Labelled(x if data == "digits" else x.reshape(-1, 1, 28, 28), y)


def shuffled(data: datasets.Labelled) -> datasets.Labelled:
    """The same rows in an order drawn at random, the same on every call: its first n rows are a fair part.

    Many sets are ordered, by writer, by class or by difficulty: the first rows of them are not.

    >>> shuffled(datasets.Labelled(torch.arange(5.0)[:, None], torch.arange(5))).y
    tensor([4, 0, 1, 3, 2])
    """
    if len(data.x) != len(data.y):
        raise ValueError(f"data must hold one label for each image, got {len(data.y)} for {len(data.x)}")
    order = _order(len(data.x))
    return datasets.Labelled(data.x[order], data.y[order])


def _order(n: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))


def _divided(all: datasets.Labelled) -> tuple[datasets.Labelled, datasets.Labelled]:
    """A tenth of the images is held out, drawn at random; never the first of its class, which has one to learn from."""
    free = torch.ones(len(all.x), dtype=torch.bool)
    for label in all.y.unique():
        free[(all.y == label).nonzero()[0]] = False
    order = _order(len(all.x))
    chosen = order[free[order]][: len(all.x) // 10]
    if len(chosen) < 2:
        came = f"{len(all.x)} of {len(all.y.unique())} classes"
        raise ValueError(f"at least 20 images are needed to train on some and hold out others, got {came}")
    held_out = torch.zeros_like(free)
    held_out[chosen] = True
    return datasets.Labelled(all.x[~held_out], all.y[~held_out]), datasets.Labelled(all.x[held_out], all.y[held_out])


def network(data: Data, until: bool = False, as_tokens: bool = False) -> nn.Module:
    """A network for such images, with their classes, if any: `ResidualMLP` for rows (N, d), `UNet` for pictures.

    until: for a flow map, which is called with a second time. as_tokens: `TokenMLP` for rows, each value one of
    `LEVELS` tokens, or the mask.

    >>> type(network(load("digits"))).__name__
    'ResidualMLP'
    """
    shape, classes = data.train.x.shape[1:], len(data.classes) or None
    if as_tokens:
        return models.TokenMLP(*shape, LEVELS + 1, classes=classes)
    if len(shape) == 1:
        return models.ResidualMLP(*shape, classes=classes, until=until)
    return models.UNet(tuple(shape), classes=classes, until=until)


def is_flow_map(model: nn.Module) -> bool:
    """Whether the network has a second time, so that `draw` makes it jump.

    >>> is_flow_map(models.MLP(dim=2)), is_flow_map(models.MLP(dim=2, until=True))
    (False, True)
    """
    return bool(model.config.get("until"))


def say(line: str, stream=None) -> None:
    """Print a line at once; a reader who has gone, as after `| head -1`, stops nothing."""
    stream = stream or sys.stdout
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:  # the rest, and what Python flushes as it ends, goes nowhere
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def report(folder: Path, data: str, loaded: Data, result: training.Fit, seed: int, seconds: float) -> None:
    """Score the trained network, add the scores to its checkpoint, draw `samples.png` and print what came out.

    data: the name of the set `loaded`. result: of `training.fit`, which took that many seconds and wrote to `folder`.
    """
    say(f"trained in {seconds:.1f} s; final loss {result.losses[-100:].mean():.4f} (its floor is not zero)")
    labels = shuffled(loaded.train).y
    asked = labels.repeat(DRAWS) if data == "digits" else labels[:SCORED]
    drawn = draw(result.model, asked if loaded.classes else len(asked), seed)
    scores = score(drawn, asked if loaded.classes else None, loaded.train, loaded.held_out)
    checkpoints.annotate(folder, metrics=scores)
    compare(folder / "samples.png", result.model, loaded, seed)
    for name, value in scores.items():
        say(f"{name.replace('_', ' ')}: {value:.4f}")
    say(f"wrote {folder / checkpoints.LATEST} and {folder / 'samples.png'}")


def to_tokens(x: Tensor) -> Tensor:
    """Values from -1 to 1 as tokens, the nearest of 17 grey levels: 0 is -1, and 16 is 1.

    Raises TypeError unless they are floating numbers, ValueError where the nearest level is none of these.

    >>> to_tokens(torch.tensor([[-1.0, 0.0, 1.0]]))
    tensor([[ 0,  8, 16]])
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        came = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating torch.Tensor, got {came}")
    level = ((x + 1) * (LEVELS - 1) / 2).round()
    if not (inside := (level >= 0) & (level < LEVELS)).all():  # NaN is in no range
        raise ValueError(f"x must hold values from -1 to 1, got {x[~inside][0].item():g}")
    return level.long()


def from_tokens(x: Tensor) -> Tensor:
    """The values of tokens (batch, positions), from -1 to 1. TypeError or ValueError for what is none of the levels.

    >>> from_tokens(torch.tensor([[0, 8, 16]]))
    tensor([[-1.,  0.,  1.]])
    """
    return _validate.tokens("x", x, LEVELS).float() * 2 / (LEVELS - 1) - 1


def known_tokens(path: str | Path) -> Tensor:
    """The tokens (64,) of a picture of 8 x 8 pixels, ink dark on white, and -1 where it is transparent: unknown.

    Raises ValueError for another size or more than 8 bits a pixel, and OSError for a file that is no picture.
    """
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        if image.size != (8, 8):
            raise ValueError(f"{path} must have 8 x 8 pixels, got {image.width} x {image.height}")
        if image.mode[0] in "IF":  # which `convert` would clip
            raise ValueError(f"{path} must have at most 8 bits a pixel and colour, got the mode {image.mode}")
        grey, opaque = np.asarray(image.convert("RGBA").convert("LA"), dtype=np.float32).reshape(64, 2).T / 255
    return torch.where(torch.from_numpy(opaque) < 0.5, -1, to_tokens(torch.from_numpy(1 - 2 * grey)))


def draw(
    model: nn.Module,
    labels: Tensor | int,
    seed: int,
    steps: int | None = None,
    velocity=None,
    known: Tensor | None = None,
) -> Tensor:
    """Draw one image for each of `labels`, or that many without labels; on the CPU.

    steps: of the midpoint method, by default 25, jumps of a flow map, by default 4, or steps of tokens, by default 64.
    velocity: what is followed in place of the model, such as the model guided. known: of `known_tokens`, for a model of
    tokens: what every image is to have. The noise depends on the seed and the number alone: images of one seed,
    whatever their labels, begin alike. TypeError or ValueError for what a model of its kind does not take.

    >>> draw(models.MLP(dim=2), 5, seed=0, steps=1).shape
    torch.Size([5, 2])
    """
    _check_asked(model, labels, seed, velocity, known)
    device = next(model.parameters()).device
    n = labels if isinstance(labels, int) else len(labels)
    condition = {} if isinstance(labels, int) else {"label": labels.to(device)}
    if isinstance(model, models.TokenMLP):
        condition |= {} if known is None else {"known": known.to(device).expand(n, -1)}
        condition |= {"steps": REDRAWS if steps is None else steps, "mask": LEVELS}
        masks, generator = torch.full((n, *shape_of(model)), LEVELS), torch.Generator(device).manual_seed(seed)
        return from_tokens(tokens.sample_tokens(model, masks.to(device), generator=generator, **condition)).cpu()
    noise = torch.randn(n, *shape_of(model), generator=torch.Generator().manual_seed(seed))
    precision = "auto" if isinstance(model, models.UNet) else "float32"
    jumps = is_flow_map(model) and velocity is None
    options = {"method": solvers.flow_map if jumps else "midpoint", "precision": precision}
    options["steps"] = steps if steps is not None else JUMPS if jumps else MIDPOINTS
    return sampling.sample(model if velocity is None else velocity, noise.to(device), **options, **condition).cpu()


def _check_asked(model: nn.Module, labels: Tensor | int, seed: int, velocity, known: Tensor | None) -> None:
    _validate.seed(seed)
    if isinstance(labels, Tensor):
        if labels.ndim != 1 or not len(labels):
            raise ValueError(f"labels must have shape (images,), and be not empty, got {tuple(labels.shape)}")
        _validate.row_labels(labels, labels)
    else:
        _validate.count("labels", labels)
    if isinstance(model, models.TokenMLP):
        if velocity is not None:
            raise ValueError("velocity is for models of velocities, and a TokenMLP draws tokens")
    elif known is not None:
        raise ValueError(f"known is for models of tokens, and a {type(model).__name__} is none")


def seed_of(seed: int, label: int) -> int:
    """A seed for the noise of one label: sets drawn label by label with one seed are as good as of several seeds.

    >>> seed_of(0, 1) == seed_of(0, 1), seed_of(0, 1) == seed_of(0, 2), seed_of(0, 1) == seed_of(1, 0)
    (True, False, False)
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {label}".encode()).digest()[:7], "big")


def shape_of(model: nn.Module) -> tuple[int, ...]:
    """The shape of one image of the model: that of its config.

    >>> shape_of(models.MLP(dim=2))
    (2,)
    """
    if "shape" in model.config:
        return tuple(model.config["shape"])
    return (model.config["length" if isinstance(model, models.TokenMLP) else "dim"],)


def score(
    drawn: Tensor, asked: Tensor | None, real: datasets.Labelled, held_out: datasets.Labelled
) -> dict[str, float]:
    """Are the images the ones asked for, do they follow the law of the real ones, and are they new?

    drawn: (n, *dims); asked: the labels that they answer, row by row, (n,), if any; real: what was trained on.
    Everything is compared with random parts, the same on every call, of sets in any order. The scores:

    - recognised_as_asked: the share whose three nearest training images have the label asked for, by majority; next to
      it held_out_images_recognised.
    - energy_distance_over_its_floor: from the drawn images to held-out ones, over that from as many training images:
      about 1 for perfect samples. energy_distance_as_pictures_over_its_floor: the same of what a file of pictures
      holds (`as_pictures`), which is what one looks at.
    - nearer_to_training_images: `nearer`, of the pictures: 0.5 for new ones, 1 for copies; next to it that of other
      held-out images, held_out_images_nearer_to_training_images.

    Raises ValueError or TypeError for images of different shapes or formats, for labels that are not one for each, and
    for fewer than two held-out images.

    >>> real, held_out, _ = load("digits")
    >>> score(real.x, real.y, real, held_out)["nearer_to_training_images"]
    1.0
    """
    _check_images(drawn, asked, real, held_out)
    drawn = drawn.detach()
    real, held_out = shuffled(real), shuffled(held_out)
    pictures = as_pictures(drawn, real.x)
    scores = {}
    if asked is not None:
        scores |= _recognised(drawn, asked, real, held_out)
    n = min(len(drawn), len(real.x))
    floor = _apart(real.x, held_out.x, n) or math.nan  # zero only for two equal sets
    scores["energy_distance_over_its_floor"] = _apart(drawn, held_out.x, n) / floor
    scores["energy_distance_as_pictures_over_its_floor"] = _apart(pictures, held_out.x, n) / floor
    half = len(held_out.x) // 2
    a, b = held_out.x[:half], held_out.x[half:]
    scores["nearer_to_training_images"] = fmean(nearer(pictures, real.x, part) for part in (a, b))
    others = ((a, b), (b, a))
    scores["held_out_images_nearer_to_training_images"] = fmean(nearer(x[:APART], real.x, y) for x, y in others)
    return scores


def _check_images(drawn: Tensor, asked: Tensor | None, real: datasets.Labelled, held_out: datasets.Labelled) -> None:
    _check_alike(**{"real.x": real.x, "drawn": drawn, "held_out.x": held_out.x})
    if asked is not None and not isinstance(asked, Tensor):
        raise TypeError(f"asked must be a torch.Tensor, got {type(asked).__name__}")
    if asked is not None and asked.shape != (len(drawn),):
        raise ValueError(f"asked must hold one label for each of {len(drawn)} images, got {tuple(asked.shape)}")
    if len(held_out.x) < 2:
        raise ValueError("held_out must hold at least two images, got 1")


def _check_alike(**images: Tensor) -> None:
    """Raise unless all are finite images of the shape, dtype and device of the first."""
    (first, like), *_ = images.items()
    for name, x in images.items():
        _validate.batch(name, x)
        _validate.alike(name, x, first, like)
        if x.shape[1:] != like.shape[1:]:
            raise ValueError(f"{name} must hold images of shape {tuple(like.shape[1:])}, got {tuple(x.shape[1:])}")


def as_pictures(x: Tensor, real: Tensor) -> Tensor:
    """Each value of x replaced by the nearest one that occurs in `real`: rounded to its levels, clipped to its range.

    >>> as_pictures(torch.tensor([[-3.0, 0.4, 0.6]]), torch.tensor([[0.0, 1.0]]))
    tensor([[0., 0., 1.]])
    """
    levels = _validate.batch("real", real).unique()
    _validate.batch("x", x)
    return levels[torch.bucketize(x.contiguous(), (levels[1:] + levels[:-1]) / 2)]


def _recognised(drawn: Tensor, asked: Tensor, real: datasets.Labelled, held_out: datasets.Labelled) -> dict[str, float]:
    from sklearn.neighbors import KNeighborsClassifier

    judge = KNeighborsClassifier(3).fit(real.x[:COMPARED].flatten(1).numpy(), real.y[:COMPARED].numpy())
    return {
        "recognised_as_asked": judge.score(drawn.flatten(1).numpy(), asked.numpy()),
        "held_out_images_recognised": judge.score(
            held_out.x[:COMPARED].flatten(1).numpy(), held_out.y[:COMPARED].numpy()
        ),
    }


def _apart(x: Tensor, held_out: Tensor, n: int, repeats: int = 4) -> float:
    """The energy distance of n of the images to held-out ones, a mean over up to `repeats` such parts.

    With one n for drawn and for real images both have the same floor, which falls with the number of images.
    """
    parts = x[_order(len(x))].split(n)[: min(repeats, len(x) // n)]
    return fmean(metrics.energy_distance(part, held_out[:APART]) for part in parts)


def nearer(x: Tensor, seen: Tensor, unseen: Tensor) -> float:
    """Is the nearest image one that was seen in training? 0.5 where x knows neither set better; 1 for copies of `seen`.

    With s the share of rows of x whose nearest image is among the N seen, not among the m unseen ones (a tie counts
    half), it is (s / N) / (s / N + (1 - s) / m): for images alike in law, each of the N + m is the nearest one equally
    often, so s = N / (N + m), and this is 1/2 whatever N and m. As many images of each set would give 1/2 as well, but
    a subset of those seen lacks most of those that were copied: copies of N would look like copies of m. Distances in
    pixels see copies, not images merely like one another.

    >>> seen, unseen = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[5.0]])
    >>> nearer(torch.tensor([[0.1], [1.1], [4.0], [6.0]]), seen, unseen), nearer(seen, seen, unseen)
    (0.25, 1.0)
    """
    _check_alike(x=x, seen=seen, unseen=unseen)
    to_seen, to_unseen = _nearest(x, seen), _nearest(x, unseen)
    share = ((to_seen < to_unseen).sum() + (to_seen == to_unseen).sum() / 2).item() / len(x)
    for_seen, for_unseen = share / len(seen), (1 - share) / len(unseen)
    return for_seen / (for_seen + for_unseen)


def _nearest(x: Tensor, data: Tensor) -> Tensor:
    """The distance to the nearest row, by a product of matrices: as sharp as this needs, and fast for all of a set."""
    x, data = x.flatten(1), data.flatten(1)
    return torch.cat([torch.cdist(part, data).amin(1) for part in x.split(max(1, 2**24 // len(data)))])


def compare(path: Path, model: nn.Module, data: Data, seed: int) -> None:
    """Write a picture to `path`: generated images on the left, one class a row, real held-out ones on the right.

    Of more than ten classes the first ten; the real ones are a random part, the same on every call.
    """
    from matplotlib.figure import Figure

    from fmlib import figures

    x, y = shuffled(data.held_out)
    if data.classes:
        rows = range(min(10, len(data.classes)))
        labels, title = torch.tensor([label for label in rows for _ in range(10)]), "generated, one label a row"
        white = torch.full_like(x[:1], 1 if x.ndim == 4 and x.shape[1] == 3 else -1).expand(10, *x.shape[1:])
        real = torch.cat([torch.cat([x[y == label], white])[:10] for label in rows])
    else:
        labels, title, real = 100, "generated", x[:100]
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    figures.images(left, draw(model, labels, seed), title=title)
    figures.images(right, real, title="real, held out")
    with checkpoints.replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)
