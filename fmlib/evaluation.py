"""What the command line computes: data by name, a network for them, pictures drawn from it, and their scores."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmlib import checkpoints, datasets, metrics, models, sampling, training

NAMED = {"digits": datasets.digits, "mnist": datasets.mnist, "fashion-mnist": datasets.fashion_mnist}
DRAWS = 4  # digits scored for each training label: with one, chance alone moves the energy distance by a tenth
SCORED = 500  # images scored, of larger sets
COMPARED = 5000  # real images that they are compared with


class Data(NamedTuple):
    """Images to train on, images held out, and the names of the classes, if there are any."""

    train: datasets.Labelled
    held_out: datasets.Labelled
    classes: list[str]


def load(data: str, split: str) -> Data:
    """The data set called `data`, or the images in the folder of that name, where every tenth one is held out."""
    if data in NAMED:
        classes = [str(label) for label in range(10)]
        if split == "train":
            return Data(_pictures(data, "train"), _pictures(data, "test"), classes)
        return Data(*_divided(_pictures(data, split)), classes)
    if not Path(data).is_dir():
        known = ", ".join(NAMED)
        raise ValueError(f"unknown data set {data!r}; known: {known}, or a folder of images")
    if split != "train":
        raise ValueError(f"split {split!r} is for named data sets; a folder of images is divided here")
    x, y, classes = datasets.folder(data)
    return Data(*_divided(datasets.Labelled(x, y)), classes)


def _pictures(data: str, split: str) -> datasets.Labelled:
    x, y = NAMED[data](split)
    return datasets.Labelled(x if data == "digits" else x.reshape(-1, 1, 28, 28), y)


def _divided(all: datasets.Labelled) -> tuple[datasets.Labelled, datasets.Labelled]:
    """Every tenth image is held out, unless it is the first of its class, which then has one to learn from."""
    held_out = torch.arange(len(all.x)) % 10 == 9
    for label in all.y.unique():
        held_out[(all.y == label).nonzero()[0]] = False
    if held_out.sum() < 2:
        came = f"{len(all.x)} of {len(all.y.unique())} classes"
        raise ValueError(f"at least 20 images are needed to train on some and hold out others, got {came}")
    return datasets.Labelled(all.x[~held_out], all.y[~held_out]), datasets.Labelled(all.x[held_out], all.y[held_out])


def network(data: Data) -> nn.Module:
    shape, classes = data.train.x.shape[1:], len(data.classes) or None
    if len(shape) == 1:
        return models.ResidualMLP(*shape, classes=classes)
    return models.UNet(tuple(shape), classes=classes)


def report(folder: Path, data: str, loaded: Data, result: training.Fit, seed: int, seconds: float) -> None:
    """Score the trained network, add the scores to its checkpoint, draw `samples.png` and print what came out."""
    print(
        f"trained in {seconds:.1f} s; final loss {result.losses[-100:].mean():.4f} (its floor is not zero)", flush=True
    )
    real, held_out = (datasets.Labelled(x[:COMPARED], y[:COMPARED]) for x, y in (loaded.train, loaded.held_out))
    asked = real.y.repeat(DRAWS) if data == "digits" else real.y[:SCORED]
    drawn = draw(result.model, asked if loaded.classes else len(asked), seed)
    scores = score(drawn, asked if loaded.classes else None, real, held_out)
    checkpoints.annotate(folder, metrics=scores)
    compare(folder / "samples.png", result.model, loaded, seed)
    for name, value in scores.items():
        print(f"{name.replace('_', ' ')}: {value:.4f}")
    print(f"wrote {folder / 'checkpoint.json'} and {folder / 'samples.png'}")


def draw(model: nn.Module, labels: Tensor | int, seed: int, steps: int = 25) -> Tensor:
    """Draw one image for each of `labels`, or that many without labels, with the midpoint method; on the CPU."""
    place = next(model.parameters()).device
    n = labels if isinstance(labels, int) else len(labels)
    condition = {} if isinstance(labels, int) else {"label": labels.to(place)}
    noise = torch.randn(n, *shape_of(model), generator=torch.Generator().manual_seed(seed))
    precision = "auto" if isinstance(model, models.UNet) else "float32"
    return sampling.sample(model, noise.to(place), steps=steps, precision=precision, **condition).cpu()


def shape_of(model: nn.Module) -> tuple[int, ...]:
    return tuple(model.config["shape"]) if "shape" in model.config else (model.config["dim"],)


def score(
    drawn: Tensor, asked: Tensor | None, real: datasets.Labelled, held_out: datasets.Labelled
) -> dict[str, float]:
    """Are the images the ones asked for, do they follow the law of the real ones, and are they new?

    `drawn` answers the labels `asked`, row by row. Each score stands next to its value for held-out real images.
    """
    from sklearn.neighbors import KNeighborsClassifier

    drawn, seen, new = (x.flatten(1) for x in (drawn, real.x, held_out.x))
    scores = {}
    if asked is not None:
        judge = KNeighborsClassifier(3).fit(seen.numpy(), real.y.numpy())
        scores["recognised_as_asked"] = judge.score(drawn.numpy(), asked.numpy())
        scores["held_out_images_recognised"] = judge.score(new.numpy(), held_out.y.numpy())
    floor = metrics.energy_distance(seen, new)
    scores["energy_distance_over_its_floor"] = metrics.energy_distance(drawn, new) / floor if floor else math.nan
    near, usual = metrics.nearest_distance(drawn, seen).mean(), metrics.nearest_distance(new, seen).mean()
    scores["distance_to_nearest_training_image_over_held_out"] = float(near / usual)
    return scores


def compare(path: Path, model: nn.Module, data: Data, seed: int) -> None:
    """Write a picture to `path`: generated images on the left, one class a row, real held-out ones on the right."""
    from matplotlib.figure import Figure

    from fmlib import figures

    x, y = data.held_out
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
