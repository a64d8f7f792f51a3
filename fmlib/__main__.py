"""The command line: `python -m fmlib train digits --out runs/digits`, `sample`, `info`."""

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import fmlib
from fmlib import _validate, checkpoints, datasets, devices, evaluation, guidance, models, objectives, paths, training
from fmlib.evaluation import say
from fmlib.runs import Checkpoints
from fmlib.schedules import CondOT, Cosine, Polynomial, VariancePreserving


class Recipe(NamedTuple):
    """How a kind of data is trained on unless the command says otherwise."""

    steps: int
    batch_size: int
    learning_rate: float
    precision: str


DIGITS = Recipe(3500, 128, 4e-3, "float32")
TOKENS = Recipe(1500, 128, 1e-2, "float32")
IMAGES = Recipe(2000, 128, 1e-3, "auto")
# By the names of the command line. What learns to jump has large gradients now and then, which are clipped.
OBJECTIVES = {
    "velocity": (objectives.VelocityMatching(), None),
    "mean-flow": (objectives.MeanFlow(), 1.0),
    "shortcut": (objectives.Shortcut(), 1.0),
}
SCHEDULES = {
    "cond-ot": CondOT(),
    "cosine": Cosine(),
    "polynomial": Polynomial(),
    "variance-preserving": VariancePreserving(),
}


def train(options: argparse.Namespace) -> None:
    """Train a network on `data`, with its classes; write checkpoints and `samples.png` to `out`, print its metrics."""
    recipe, device = _checked(options)
    torch.manual_seed(options.seed)  # the network's first weights
    loaded = evaluation.load(options.data, options.split)
    if options.label_dropout and not loaded.classes:
        raise ValueError(f"--label-dropout is for data with classes, and {options.data} has none")
    if options.objective == "mean-flow" and loaded.train.x.ndim > 2:
        raise ValueError(
            "--objective mean-flow is for digits: torch does not differentiate a U-Net's attention forward"
        )
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    with devices.group(device) as world:
        labels = [*loaded.classes, "no label"] if options.label_dropout else loaded.classes
        until = options.objective != "velocity"
        network = evaluation.network(loaded._replace(classes=labels), until=until, as_tokens=options.tokens)
        if world.rank == 0:
            _introduce(options.data, loaded, models.parameter_count(network), recipe.steps)
        start = time.perf_counter()
        result = _fit(network, loaded, recipe, options)
        seconds = time.perf_counter() - start
        if world.rank == 0:
            with checkpoints.locked(folder):
                evaluation.report(folder, options.data, loaded, result, options.seed, seconds)


def _checked(options: argparse.Namespace) -> tuple[Recipe, torch.device]:
    """What the run is to do, before anything is done; the name of a folder of data gets one form."""
    if not options.out:
        raise ValueError("--out must name a folder, got ''")
    if options.data not in evaluation.NAMED and options.data:
        options.data = os.path.normpath(options.data)  # one name, with a slash or without
        if Path(options.out).resolve().is_relative_to(Path(options.data).resolve()):
            lies = f"--out {options.out} lies in the folder of images {options.data}"
            raise ValueError(f"{lies}, where its pictures would become data")
    if options.tokens and (options.data != "digits" or options.objective != "velocity" or options.label_dropout):
        raise ValueError("--tokens is for digits, without --objective and --label-dropout, which are for velocities")
    usual = TOKENS if options.tokens else DIGITS if options.data == "digits" else IMAGES
    chosen = {name: getattr(options, name) for name in Recipe._fields}
    recipe = usual._replace(**{name: value for name, value in chosen.items() if value is not None})
    counts = {"steps": recipe.steps, "batch_size": recipe.batch_size}
    counts |= {"checkpoint_every": options.checkpoint_every, "keep": options.keep}
    for name, value in counts.items():
        _validate.count(name, value)
    _validate.positive("learning_rate", recipe.learning_rate)
    _validate.seed(options.seed)
    objectives.LabelDropout(options.label_dropout, null=0)
    if options.label_dropout and options.objective != "velocity":
        raise ValueError(f"--label-dropout is for guidance, which flow maps do not know, got {options.objective}")
    device = devices.device_of(options.device)
    devices.precision_of(recipe.precision, device)
    return recipe, device


def _introduce(data: str, loaded: evaluation.Data, count: int, steps: int) -> None:
    say(f"{data}: {len(loaded.train.x)} images, {count} parameters, {steps} steps")
    if data not in evaluation.NAMED and loaded.classes:
        counts = torch.bincount(loaded.train.y, minlength=len(loaded.classes)).tolist()
        rows = (f"{i} {name} ({n})" for i, (name, n) in enumerate(zip(loaded.classes, counts, strict=True)))
        say(f"labels, with their images to train on: {', '.join(rows)}")


def _fit(network: nn.Module, loaded: evaluation.Data, recipe: Recipe, options: argparse.Namespace) -> training.Fit:
    about = {"data": options.data, "split": options.split, "seed": options.seed, "classes": loaded.classes}
    if options.resume and options.data not in evaluation.NAMED and checkpoints.any_in(options.out):
        before = checkpoints.read(options.out).record["about"].get("data")
        if before not in evaluation.NAMED:  # a folder may have moved: the images themselves are compared
            about["data"] = before
    loss, clip = OBJECTIVES[options.objective]
    if options.objective != "velocity":
        about["objective"] = options.objective
    if options.label_dropout:
        about["label_dropout"] = options.label_dropout
        loss = objectives.LabelDropout(options.label_dropout, null=len(loaded.classes))
    data, source = loaded.train.x, None
    if options.tokens:
        about["tokens"], loss, data = True, objectives.TokenCrossEntropy(), evaluation.to_tokens(data)
        source = torch.full_like(data[:1], evaluation.LEVELS)
    return training.fit(
        network,
        data,
        loss=loss,
        source=source,
        **recipe._asdict(),
        clip=clip,
        compile=options.compile,
        seed=options.seed,
        device=options.device,
        checkpoint=Checkpoints(options.out, options.checkpoint_every, options.keep, options.resume, about),
        **({"label": loaded.train.y} if loaded.classes else {}),
    )


def sample(options: argparse.Namespace) -> None:
    """Draw n images from the checkpoint in `run` into `out`: `.npz` with x and labels y, if any, or a `.png` grid."""
    n, label, path = options.n, options.label, Path(options.out)
    _validate.count("n", n)
    _validate.seed(options.seed)
    if options.steps is not None:
        _validate.count("steps", options.steps)
    _validate.choice("kind of output file", path.suffix, (".npz", ".png"))
    if not options.run:
        raise ValueError("run must name the folder of a checkpoint, got ''")
    model, about = checkpoints.load(options.run)
    if "data" not in about:
        raise ValueError(f"{options.run} holds another model than those that `train` makes: {model.config}")
    classes, seed, followed = model.config["classes"], options.seed, _followed(model, about, options)
    if about.get("label_dropout"):
        classes -= 1  # the last label says that there is none
    if label is not None:
        if not classes:
            raise ValueError(f"{options.run} holds a model without classes: it takes no label, got {label}")
        if not 0 <= label < classes:
            raise ValueError(f"label must lie in [0, {classes}), got {label}")
        seed = evaluation.seed_of(seed, label)
    y = n
    if classes:
        y = torch.arange(n) % classes if label is None else torch.full((n,), label)
    if options.known is not None:
        if not isinstance(model, models.TokenMLP):
            raise ValueError(f"--known is for runs of train --tokens, and {options.run} holds a {type(model).__name__}")
        followed["known"] = evaluation.known_tokens(options.known)
    x = evaluation.draw(model, y, seed, options.steps, **followed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with checkpoints.replacing(path) as temporary:
        if path.suffix == ".npz":
            _write_arrays(temporary, {"x": x, "y": y} if classes else {"x": x})
        else:
            _write_grid(temporary, x)
    say(f"wrote {n} samples to {path}")


def _followed(model: nn.Module, about: dict, options: argparse.Namespace) -> dict:
    """What `evaluation.draw` is to follow in place of the model: it guided, on another schedule, both, or neither."""
    velocity = model
    if options.guidance is not None:
        if not about.get("label_dropout"):
            raise ValueError(
                f"{options.run} was trained without --label-dropout, so it knows no velocity without a label"
            )
        interval = tuple(options.guidance_interval or (0.0, 1.0))
        velocity = guidance.classifier_free(model, options.guidance, model.config["classes"] - 1, interval)
    elif options.guidance_interval is not None:
        raise ValueError("--guidance-interval needs a weight: --guidance W")
    if options.schedule is not None:
        if evaluation.is_flow_map(model) or isinstance(model, models.TokenMLP):
            kind = "a flow map" if evaluation.is_flow_map(model) else "a network of tokens"
            raise ValueError(f"--schedule is for velocities, and {options.run} holds {kind}, which jumps")
        velocity = paths.reschedule(velocity, CondOT(), SCHEDULES[options.schedule])
    return {} if velocity is model else {"velocity": velocity}


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


def info(_: argparse.Namespace) -> None:
    """Print the device that `auto` takes, its precision, the versions, the number of threads and the data cache."""
    device = devices.device_of()
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    native = "faster than float32" if devices.multiplies_bf16(device) else "not faster, so `auto` leaves it alone"
    say(f"device      {device} ({name}), {torch.get_num_threads()} CPU threads, bf16 {native}")
    say(f"versions    fmlib {fmlib.__version__}, torch {torch.__version__}, python {platform.python_version()}")
    say(f"data cache  {datasets.cache()}")


def parser() -> argparse.ArgumentParser:
    """The options of the three commands."""
    top = argparse.ArgumentParser(prog="python -m fmlib", description="Train and sample flow matching models.")
    commands = top.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train", help="train on a data set, save a checkpoint, a picture and print metrics")
    one.add_argument("data", help=f"{', '.join(evaluation.NAMED)}, or a folder of images, one subfolder a class")
    one.add_argument("--out", required=True, help="folder of the checkpoints and samples.png")
    one.add_argument("--split", default="train", help="the part to train on (default %(default)s)")
    each = "default {} for digits, {} for digits as tokens, {} for other images".format
    for field, usual in zip(Recipe._fields, zip(DIGITS, TOKENS, IMAGES, strict=True), strict=True):
        option = "--" + field.replace("_", "-")
        one.add_argument(option, type=type(usual[0]), help=each(*usual))
    learned = "what the network learns: a velocity, or a flow map, which samples in 1 to 4 steps (default %(default)s)"
    one.add_argument("--objective", choices=OBJECTIVES, default="velocity", help=learned)
    words = "take each digit as 64 tokens of 17 grey levels, drawn from a mask"
    one.add_argument("--tokens", action="store_true", help=words)
    dropped = "probability of hiding a row's label, so that `sample --guidance` works (default %(default)s)"
    one.add_argument("--label-dropout", type=float, default=0.0, metavar="P", help=dropped)
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
    alone = "the class to draw (default: all in turn); each class has noise of its own, so that sets of single classes"
    two.add_argument("--label", type=int, help=f"{alone} drawn with one seed can be joined")
    two.add_argument("--out", required=True, help="x.npz with arrays x and y, or x.png with a grid")
    two.add_argument("--seed", type=int, default=0, help="of the noise, together with --label (default %(default)s)")
    steps = "midpoint steps (default {}), jumps of a flow map (default {}), or steps of tokens (default {})"
    steps = steps.format(evaluation.MIDPOINTS, evaluation.JUMPS, evaluation.REDRAWS)
    two.add_argument("--steps", type=int, help=steps)
    given = "fill in a picture of 8 x 8 pixels, ink on white: its transparent pixels are drawn (of train --tokens)"
    two.add_argument("--known", metavar="IMAGE", help=given)
    changed = "follow the path of another schedule than the one that was trained on, cond-ot"
    two.add_argument("--schedule", choices=SCHEDULES, help=changed)
    weight = "classifier-free guidance by the weight W: 1 is none, more leans towards the label"
    two.add_argument("--guidance", type=float, metavar="W", help=weight)
    times = "guide from time A to time B only (default: 0 1)"
    two.add_argument("--guidance-interval", type=float, nargs=2, metavar=("A", "B"), help=times)
    commands.add_parser("info", help="print device, versions and data cache")
    return top


def complain(message: str) -> None:
    """Print one line on stderr; of several processes on a machine the first one that fails speaks for all.

    What follows there, with torch's own traceback, is the report of torchrun on the processes that it has lost.
    """
    if "TORCHELASTIC_ERROR_FILE" in os.environ:  # <folder>/<process>/error.json, the folder being one attempt's
        attempt = Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parent.parent
        try:
            os.close(os.open(attempt / "fmlib-has-spoken", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        except OSError:  # no such folder: then once for each process
            pass
    say(message, sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, 2 for bad input (one line on stderr), or 130 if it was interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show stops nothing
    options = parser().parse_args(arguments)
    command = {"train": train, "sample": sample, "info": info}[options.command]
    try:
        command(options)
    except KeyboardInterrupt:
        saved = "; the last checkpoint, if one was saved, is whole: go on with --resume"
        complain(f"interrupted{saved if options.command == 'train' else ''}")
        return 130
    except (ValueError, TypeError, OSError, RuntimeError, FloatingPointError) as error:
        complain(f"fmlib: {(str(error) or type(error).__name__).splitlines()[0]}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
