"""The command line: `python -m fmlib train digits --out runs/digits`, `sample`, `info`."""

import argparse
import platform
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import fmlib
from fmlib import _validate, checkpoints, datasets, metrics, models, sampling, training

DATA = {"digits": datasets.digits}
CLASSES, DIM = 10, 64
EVERY = 500  # steps between checkpoints
DRAWS = 4  # images scored for each training label: with one, chance alone moves the energy distance by a tenth


def train(data: str, out: str, steps: int, seed: int, device: str) -> None:
    """Train a class-conditional network on `data`; write checkpoint and `samples.png` to `out`, print its metrics."""
    _validate.choice("data set", data, DATA)
    _validate.count("steps", steps)
    training.device_of(device)
    torch.manual_seed(seed)  # the network's first weights
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    real, held_out = DATA[data]("train"), DATA[data]("test")
    network = models.ResidualMLP(DIM, classes=CLASSES)
    print(f"{data}: {len(real.x)} images, {models.parameter_count(network)} parameters, {steps} steps", flush=True)

    def keep(step: int, averaged: nn.Module) -> None:
        if step % EVERY == 0 and step < steps:
            checkpoints.save(folder, averaged, data=data, steps=step, seed=seed)

    start = time.perf_counter()
    result = training.fit(
        network,
        real.x,
        labels=real.y,
        steps=steps,
        batch_size=128,
        learning_rate=4e-3,
        seed=seed,
        device=device,
        on_step=keep,
    )
    seconds = time.perf_counter() - start
    asked = real.y.repeat(DRAWS)
    scores = score(draw(result.model, asked, seed), asked, real, held_out)
    checkpoints.save(folder, result.model, data=data, steps=steps, seed=seed, metrics=scores)
    compare(folder / "samples.png", result.model, held_out, seed)
    print(f"trained in {seconds:.1f} s; final loss {result.losses[-100:].mean():.4f} (its floor is not zero)")
    for name, value in scores.items():
        print(f"{name.replace('_', ' ')}: {value:.4f}")
    print(f"wrote {folder / 'checkpoint.json'} and {folder / 'samples.png'}")


def draw(model: nn.Module, labels: Tensor, seed: int, steps: int = 25) -> Tensor:
    """Draw one image for each of `labels` with the midpoint method; returned on the CPU, (len(labels), 64)."""
    place = next(model.parameters()).device
    noise = torch.randn(len(labels), DIM, generator=torch.Generator().manual_seed(seed))
    return sampling.sample(model, noise.to(place), steps=steps, label=labels.to(place)).cpu()


def score(drawn: Tensor, asked: Tensor, real: datasets.Labelled, held_out: datasets.Labelled) -> dict[str, float]:
    """Are the digits the ones asked for, do they follow the law of the real ones, and are they new?

    `drawn` answers the labels `asked`, row by row. Each score stands next to its value for held-out real digits.
    """
    from sklearn.neighbors import KNeighborsClassifier

    judge = KNeighborsClassifier(3).fit(real.x.numpy(), real.y.numpy())
    return {
        "recognised_as_asked": judge.score(drawn.numpy(), asked.numpy()),
        "held_out_digits_recognised": judge.score(held_out.x.numpy(), held_out.y.numpy()),
        "energy_distance_over_its_floor": metrics.energy_distance(drawn, held_out.x)
        / metrics.energy_distance(real.x, held_out.x),
        "distance_to_nearest_training_image_over_held_out": float(
            metrics.nearest_distance(drawn, real.x).mean() / metrics.nearest_distance(held_out.x, real.x).mean()
        ),
    }


def compare(path: Path, model: nn.Module, held_out: datasets.Labelled, seed: int) -> None:
    """Write a picture to `path`: ten generated digits of each class on the left, real held-out ones on the right."""
    from matplotlib.figure import Figure

    from fmlib import figures

    labels = torch.arange(CLASSES).repeat_interleave(10)
    real = torch.cat([held_out.x[held_out.y == label][:10] for label in range(CLASSES)])
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    figures.images(left, draw(model, labels, seed), title="generated, one label a row")
    figures.images(right, real, title="real, held out")
    with checkpoints.replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)


def sample(run: str, n: int, label: int | None, out: str, seed: int, steps: int) -> None:
    """Draw n images from the checkpoint in `run` into `out`: `.npz` with x (n, 64) and y (n,), or a `.png` grid."""
    _validate.count("n", n)
    _validate.count("steps", steps)
    path = Path(out)
    _validate.choice("kind of output file", path.suffix, (".npz", ".png"))
    model, _ = checkpoints.load(run)
    if model.config["dim"] != DIM or model.config.get("classes") != CLASSES:
        raise ValueError(f"{run} holds another model than a class-conditional one of digits: {model.config}")
    if label is not None and not 0 <= label < CLASSES:
        raise ValueError(f"label must lie in [0, {CLASSES}), got {label}")
    y = torch.arange(n) % CLASSES if label is None else torch.full((n,), label)
    x = draw(model, y, seed, steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    with checkpoints.replacing(path) as temporary:
        (_write_arrays if path.suffix == ".npz" else _write_grid)(temporary, x, y)
    print(f"wrote {n} samples to {path}")


def _write_arrays(path: Path, x: Tensor, y: Tensor) -> None:
    import numpy as np

    np.savez(path, x=x.numpy(), y=y.numpy())


def _write_grid(path: Path, x: Tensor, y: Tensor) -> None:
    from matplotlib.figure import Figure

    from fmlib import figures

    rows = -(-len(x) // 10)
    figure = Figure(figsize=(5, max(1.0, 0.5 * rows)), layout="constrained")
    figures.images(figure.subplots(), x)
    figure.savefig(path, dpi=100)


def info() -> None:
    """Print the device that `auto` takes, the versions, the number of threads and the data cache."""
    place = training.device_of()
    name = torch.cuda.get_device_name() if place.type == "cuda" else platform.processor() or platform.machine()
    print(f"device      {place} ({name}), {torch.get_num_threads()} CPU threads")
    print(f"versions    fmlib {fmlib.__version__}, torch {torch.__version__}, python {platform.python_version()}")
    print(f"data cache  {datasets.cache()}")


def parser() -> argparse.ArgumentParser:
    """The options of the three commands."""
    top = argparse.ArgumentParser(prog="python -m fmlib", description="Train and sample flow matching models.")
    commands = top.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train", help="train on a data set, save a checkpoint, a picture and print metrics")
    one.add_argument("data", help=f"one of: {', '.join(DATA)}")
    one.add_argument("--out", required=True, help="folder of the checkpoint and samples.png")
    one.add_argument("--steps", type=int, default=3500, help="training steps (default %(default)s)")
    one.add_argument("--seed", type=int, default=0, help="of weights, batches and samples (default %(default)s)")
    one.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default %(default)s)")
    two = commands.add_parser("sample", help="draw samples from a checkpoint")
    two.add_argument("run", help="folder of the checkpoint")
    two.add_argument("--n", type=int, default=100, help="number of samples (default %(default)s)")
    two.add_argument("--label", type=int, help="the digit to draw (default: all in turn)")
    two.add_argument("--out", required=True, help="x.npz with arrays x and y, or x.png with a grid")
    two.add_argument("--seed", type=int, default=0, help="of the noise (default %(default)s)")
    two.add_argument("--steps", type=int, default=25, help="midpoint steps (default %(default)s)")
    commands.add_parser("info", help="print device, versions and data cache")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, 2 for bad input (one line on stderr), or 130 if it was interrupted."""
    options = vars(parser().parse_args(arguments))
    command = {"train": train, "sample": sample, "info": info}[options.pop("command")]
    try:
        command(**options)
    except KeyboardInterrupt:
        print("interrupted; the last checkpoint, if one was saved, is whole", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"fmlib: {(str(error) or type(error).__name__).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
