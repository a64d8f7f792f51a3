"""The command line: `python -m fmlib train digits --out runs/digits`, `sample`, `info`."""

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import fmlib
from fmlib import _validate, checkpoints, datasets, devices, evaluation, models, training


class Recipe(NamedTuple):
    """How a kind of data is trained on unless the command says otherwise."""

    steps: int
    batch_size: int
    learning_rate: float
    precision: str


DIGITS = Recipe(3500, 128, 4e-3, "float32")
IMAGES = Recipe(2000, 128, 1e-3, "auto")


def train(
    data: str,
    out: str,
    split: str,
    steps: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    precision: str | None,
    compile: bool,
    seed: int,
    device: str,
    checkpoint_every: int,
    keep: int,
    resume: bool,
) -> None:
    """Train a network on `data`, with its classes; write checkpoints and `samples.png` to `out`, print its metrics."""
    data = (
        data if data in evaluation.NAMED else os.path.normpath(data) if data else data
    )  # one name, with a slash or without
    recipe = DIGITS if data == "digits" else IMAGES
    chosen = Recipe(steps, batch_size, learning_rate, precision)
    recipe = Recipe(*(mine if mine is not None else usual for mine, usual in zip(chosen, recipe, strict=True)))
    counts = {"steps": recipe.steps, "batch_size": recipe.batch_size}
    for name, value in (counts | {"checkpoint_every": checkpoint_every, "keep": keep}).items():
        _validate.count(name, value)
    _validate.positive("learning_rate", recipe.learning_rate)
    place = devices.device_of(device)
    devices.precision_of(recipe.precision, place)
    torch.manual_seed(seed)  # the network's first weights
    folder = Path(out)
    if data not in evaluation.NAMED and folder.resolve().is_relative_to(Path(data).resolve()):
        raise ValueError(f"--out {out} lies in the folder of images {data}, where its pictures would become data")
    loaded = evaluation.load(data, split)
    with devices.group(place) as world:
        folder.mkdir(parents=True, exist_ok=True)
        network = evaluation.network(loaded)
        if world.rank == 0:
            count = models.parameter_count(network)
            print(f"{data}: {len(loaded.train.x)} images, {count} parameters, {recipe.steps} steps", flush=True)
            if data not in evaluation.NAMED and loaded.classes:
                counts = torch.bincount(loaded.train.y).tolist()
                rows = (f"{i} {name} ({n})" for i, (name, n) in enumerate(zip(loaded.classes, counts, strict=True)))
                print(f"labels, with their images to train on: {', '.join(rows)}", flush=True)
        start = time.perf_counter()
        result = training.fit(
            network,
            loaded.train.x,
            labels=loaded.train.y if loaded.classes else None,
            **recipe._asdict(),
            compile=compile,
            seed=seed,
            device=device,
            checkpoint=folder,
            checkpoint_every=checkpoint_every,
            keep=keep,
            resume=resume,
            about={"data": data, "split": split, "seed": seed, "classes": loaded.classes},
        )
        seconds = time.perf_counter() - start
        if world.rank == 0:
            with checkpoints.locked(folder):
                evaluation.report(folder, data, loaded, result, seed, seconds)


def sample(run: str, n: int, label: int | None, out: str, seed: int, steps: int) -> None:
    """Draw n images from the checkpoint in `run` into `out`: `.npz` with x and labels y, if any, or a `.png` grid."""
    _validate.count("n", n)
    _validate.count("steps", steps)
    path = Path(out)
    _validate.choice("kind of output file", path.suffix, (".npz", ".png"))
    model, about = checkpoints.load(run)
    if "data" not in about:
        raise ValueError(f"{run} holds another model than those that `train` makes: {model.config}")
    classes = model.config["classes"]
    if label is not None and not classes:
        raise ValueError(f"{run} holds a model without classes: it takes no label, got {label}")
    if label is not None and not 0 <= label < classes:
        raise ValueError(f"label must lie in [0, {classes}), got {label}")
    y = n
    if classes:
        y = torch.arange(n) % classes if label is None else torch.full((n,), label)
    x = evaluation.draw(model, y, seed, steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    with checkpoints.replacing(path) as temporary:
        if path.suffix == ".npz":
            _write_arrays(temporary, {"x": x, "y": y} if classes else {"x": x})
        else:
            _write_grid(temporary, x)
    print(f"wrote {n} samples to {path}")


def _write_arrays(path: Path, arrays: dict[str, Tensor]) -> None:
    import numpy as np

    np.savez(path, **{name: value.numpy() for name, value in arrays.items()})


def _write_grid(path: Path, x: Tensor) -> None:
    from matplotlib.figure import Figure

    from fmlib import figures

    rows = -(-len(x) // 10)
    figure = Figure(figsize=(5, max(1.0, 0.5 * rows)), layout="constrained")
    figures.images(figure.subplots(), x)
    figure.savefig(path, dpi=100 if x.ndim == 2 else 200)


def info() -> None:
    """Print the device that `auto` takes, its precision, the versions, the number of threads and the data cache."""
    place = devices.device_of()
    name = torch.cuda.get_device_name() if place.type == "cuda" else platform.processor() or platform.machine()
    native = "faster than float32" if devices.multiplies_bf16(place) else "not faster, so `auto` leaves it alone"
    print(f"device      {place} ({name}), {torch.get_num_threads()} CPU threads, bf16 {native}")
    print(f"versions    fmlib {fmlib.__version__}, torch {torch.__version__}, python {platform.python_version()}")
    print(f"data cache  {datasets.cache()}")


def parser() -> argparse.ArgumentParser:
    """The options of the three commands."""
    top = argparse.ArgumentParser(prog="python -m fmlib", description="Train and sample flow matching models.")
    commands = top.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train", help="train on a data set, save a checkpoint, a picture and print metrics")
    one.add_argument("data", help=f"{', '.join(evaluation.NAMED)}, or a folder of images, one subfolder a class")
    one.add_argument("--out", required=True, help="folder of the checkpoints and samples.png")
    one.add_argument("--split", default="train", help="the part to train on (default %(default)s)")
    both = "default {} for digits, {} for other images".format
    for field, usual in zip(Recipe._fields, zip(DIGITS, IMAGES, strict=True), strict=True):
        option = "--" + field.replace("_", "-")
        one.add_argument(option, type=type(usual[0]), help=both(*usual))
    one.add_argument("--compile", action="store_true", help="let torch.compile rewrite the network")
    one.add_argument("--seed", type=int, default=0, help="of weights, batches and samples (default %(default)s)")
    one.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default %(default)s)")
    every = "steps between two checkpoints (default %(default)s)"
    one.add_argument("--checkpoint-every", type=int, default=500, metavar="N", help=every)
    one.add_argument("--keep", type=int, default=2, metavar="N", help="checkpoints kept (default %(default)s)")
    one.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, if there is one")
    two = commands.add_parser("sample", help="draw samples from a checkpoint")
    two.add_argument("run", help="folder of the checkpoint")
    two.add_argument("--n", type=int, default=100, help="number of samples (default %(default)s)")
    two.add_argument("--label", type=int, help="the class to draw (default: all in turn)")
    two.add_argument("--out", required=True, help="x.npz with arrays x and y, or x.png with a grid")
    two.add_argument("--seed", type=int, default=0, help="of the noise (default %(default)s)")
    two.add_argument("--steps", type=int, default=25, help="midpoint steps (default %(default)s)")
    commands.add_parser("info", help="print device, versions and data cache")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, 2 for bad input (one line on stderr), or 130 if it was interrupted."""
    options = vars(parser().parse_args(arguments))
    name = options.pop("command")
    command = {"train": train, "sample": sample, "info": info}[name]
    try:
        command(**options)
    except KeyboardInterrupt:
        saved = "; the last checkpoint, if one was saved, is whole: go on with --resume" if name == "train" else ""
        print(f"interrupted{saved}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"fmlib: {(str(error) or type(error).__name__).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
