"""Training: one loop that regresses a network on the velocity of a path."""

import copy
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm

from fmlib import _validate, batches, checkpoints, devices
from fmlib.batches import Law
from fmlib.couplings import Independent
from fmlib.paths import AffinePath

OWN = {"folder", "model", "state", "keep", "steps", "training"}  # what a checkpoint says of itself
CHECKED = 100  # steps between two looks at the loss: each look waits for the device


class Fit(NamedTuple):
    """The averaged network, in evaluation mode, and the loss of every step, (steps,), on the CPU."""

    model: nn.Module
    losses: Tensor


def fit(
    model: nn.Module,
    target: Law,
    *,
    source: Law | None = None,
    labels: Tensor | None = None,
    coupling=Independent(),
    path: AffinePath = AffinePath(),
    steps: int = 1000,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    warmup: int = 0,
    clip: float | None = None,
    accumulate: int = 1,
    ema: float = 0.999,
    precision: str = "float32",
    compile: bool = False,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
    on_step: Callable[[int, nn.Module], None] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    keep: int = 2,
    resume: bool = False,
    about: dict | None = None,
) -> Fit:
    """Minimise the conditional flow matching loss E ||u_theta(X_t, t) - d/dt X_t||^2, t ~ U[0, 1].

    (Lipman et al. 2024, equation 4.53.) The loss is a mean over coordinates; it converges to the conditional variance
    of the velocity, not to zero. `model` itself is trained in place; the returned copy has exponentially averaged
    weights, which do not require gradients (`requires_grad_()` lets it be trained on).

    target: data (N, *dims), or a sampler (n, generator=) -> (n, *dims). source: likewise; default N(0, I).
    labels: integers (N,), passed to the network as label=. coupling: pairs each batch (`Paired` draws the same rows of
    source and target data); any but these two is computed ahead, in a thread of its own. path: an `AffinePath`.
    learning_rate: of Adam, rising linearly over the first `warmup` steps and decaying to zero along a half cosine.
    clip: largest norm of the gradient. accumulate: parts in which a batch passes the network, to save memory.
    ema: decay of the weight average in [0, 1), reached gradually; with 0 there is none. precision: 'float32', 'bf16' or
    'auto' (`devices.precision_of`). compile: let torch.compile rewrite the network.
    seed: of every draw made here; the draws of a step depend on the seed and the step alone. The network's initial
    weights are the caller's. on_step: called with the steps done and the averaged network.

    checkpoint: a folder for checkpoints, every `checkpoint_every` steps and at the end; the newest `keep` stay. With
    `resume`, training goes on from the newest one there, if any, and ends with the weights that it would have had
    without the interruption, bit for bit on a CPU; the global generator is put back to its state there. about: JSON
    values to store with it. Without `resume`, a finished run in the folder is replaced, and an unfinished one is an
    error. Under torchrun every process takes its share of each batch and the first one writes the checkpoints;
    `coupling` pairs each share on its own.

    Raises TypeError or ValueError for bad data or options, for a checkpoint of other options (naming them), and for a
    folder that a live run holds; FloatingPointError if the loss is not finite; OSError if the disk is full. In all of
    these cases the last checkpoint stays whole.

    >>> from fmlib import datasets, models
    >>> fit(models.MLP(dim=2), datasets.moons, steps=3, device="cpu").losses.shape
    torch.Size([3])
    """
    place, world = devices.device_of(device), devices.processes()
    counts = {"steps": steps, "batch_size": batch_size, "accumulate": accumulate}
    for name, value in (counts | {"checkpoint_every": checkpoint_every, "keep": keep}).items():
        _validate.count(name, value)
    _check_rates(learning_rate, warmup, clip, ema)
    _validate.count("seed", seed, -(2**63))
    if resume and checkpoint is None:
        raise ValueError("resume=True needs the folder to go on from: checkpoint=")
    if not callable(getattr(path, "sample", None)):
        raise TypeError(f"path must be an AffinePath, got {type(path).__name__}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "no parameter of model requires gradients, so there is nothing to train: model.requires_grad_()"
        )
    about = _checked_about(about)
    if batch_size % (world.size * accumulate):
        raise ValueError(f"batch_size {batch_size} must be a multiple of {world.size} processes x {accumulate} parts")
    precision = _precision(precision, place, checkpoint if resume else None, world)
    dtype = devices.precision_of(precision, place)
    draw = batches.drawing(target, source, labels, coupling, batch_size, seed, place, world)
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if isinstance(target, Tensor) and dtypes and target.dtype not in dtypes:
        raise TypeError(f"target has dtype {target.dtype} and the model {dtypes.pop()}: convert one of them")
    rates = {"learning_rate": learning_rate, "warmup": warmup, "clip": clip, "ema": ema}
    things = {
        "coupling": coupling,
        "path": path,
        "network": model,
        "target": target,
        "source": source,
        "labels": labels,
    }
    options = counts | rates | {"precision": precision, "seed": seed}
    options |= {name: _named(thing, checkpoint is not None) for name, thing in things.items()}
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    options["frozen"] = frozen or None

    model = model.to(place).train()
    network = _wrapped(model, place, world, compile)  # which gives all processes the weights of the first
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
    losses = torch.zeros(steps, device=place)
    writes = checkpoint is not None and world.rank == 0
    run = _Run(model, averaged, optimizer, losses, options, about, checkpoint)
    with checkpoints.locked(checkpoint) if writes else nullcontext():
        start = 0 if checkpoint is None else run.restore() if resume else run.check_replaceable()
        checked, kept = start, keep if start else 1  # a new run replaces what an old one left
        with _bar(start, steps, batch_size, progress and world.rank == 0) as bar:
            for step, batch in enumerate(batches.ahead(draw, start, steps, coupling, place), start):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * _decay(step, steps, warmup)
                optimizer.zero_grad()
                parts = [batch] if accumulate == 1 else batch.parts(accumulate)
                for part in parts:
                    with network.no_sync() if world.size > 1 and part is not parts[-1] else nullcontext():
                        loss = _loss(network, path, part, dtype) / accumulate
                        loss.backward()
                    losses[step] += loss.detach()
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                done = step + 1
                due = checkpoint is not None and (done % checkpoint_every == 0 or done == steps)
                if ema or due or done == steps or on_step is not None:  # a mere copy is made where it is looked at
                    _average(averaged, model, min(ema, (1 + step) / (10 + step)))
                bar.update()
                if due or done % CHECKED == 0 or done == steps:
                    _stop_unless_finite(losses[checked:done], checked, model, optimizer, world)
                    checked = done
                    bar.set_postfix(loss=f"{losses[max(0, done - CHECKED) : done].mean():.3f}", refresh=False)
                if on_step is not None:
                    on_step(done, averaged)  # before the checkpoint, which then knows what it drew
                if due and writes:
                    run.save(done, kept)
                    kept = keep
    return Fit(averaged, losses.cpu())


def _check_rates(learning_rate: float, warmup: int, clip: float | None, ema: float) -> None:
    _validate.count("warmup", warmup, 0)
    if not 0 <= ema < 1:
        raise ValueError(f"ema must lie in [0, 1), got {ema}")
    _validate.positive("learning_rate", learning_rate)
    if clip is not None:
        _validate.positive("clip", clip)


def _checked_about(about: dict | None) -> dict:
    """`about` as it will come back from the disk."""
    about = about or {}
    taken = OWN & about.keys()
    if taken:
        raise ValueError(f"about cannot hold the names {', '.join(sorted(taken))}, which checkpoints use themselves")
    try:
        return json.loads(json.dumps(about, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"about must hold JSON values only: {error}") from None


def _precision(name: str, place: torch.device, folder: str | Path | None, world: devices.Processes) -> str:
    """'auto' decided once for all processes; a run that goes on keeps what it began with."""
    if name != "auto":
        return name
    if folder is not None and (Path(folder) / checkpoints.LATEST).exists():
        return checkpoints.read(folder).record["about"].get("training", {}).get("precision", "float32")
    chosen = ["bf16" if devices.precision_of("auto", place) else "float32"]
    if world.size > 1:
        dist.broadcast_object_list(chosen, device=place)
    return chosen[0]


def _decay(step: int, steps: int, warmup: int) -> float:
    """What the learning rate is multiplied with: a linear rise, then a half cosine to zero."""
    return min(1.0, (step + 1) / (warmup + 1)) * (1 + math.cos(math.pi * step / steps)) / 2


def _loss(network, path: AffinePath, batch: batches.Batch, dtype: torch.dtype | None) -> Tensor:
    """The mean over rows and coordinates of (u_theta(x_t, t) - velocity)^2."""
    point = path.sample(batch.x_0, batch.x_1, batch.t)
    with torch.autocast(point.x_t.device.type, dtype) if dtype else nullcontext():
        prediction = network(point.x_t, batch.t, **batch.condition)
    if prediction.shape != point.velocity.shape:  # would be broadcast silently
        expected = tuple(point.velocity.shape)
        raise ValueError(f"model must return a tensor of shape {expected}, got {tuple(prediction.shape)}")
    return (prediction.to(point.velocity.dtype) - point.velocity).square().mean()


def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    with torch.no_grad():
        pairs = zip(averaged.parameters(), model.parameters(), strict=True)
        mine, theirs = zip(*(pair for pair in pairs if pair[1].requires_grad), strict=True)  # the others never move
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for mine, theirs in zip(averaged.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)


def _stop_unless_finite(new: Tensor, start: int, model: nn.Module, optimizer, world: devices.Processes) -> None:
    """Make `new`, the losses since step `start`, those of all processes.

    FloatingPointError if one is not finite, or a weight is not, or so large that its square is not.
    """
    if world.size > 1:
        dist.all_reduce(new)
        new /= world.size
    rate = optimizer.param_groups[0]["lr"]
    advice = f"near learning rate {rate:.3g}: try a lower one; the last checkpoint, if any, is from before"
    if not new.isfinite().all():
        first = int((~new.isfinite()).nonzero()[0])
        raise FloatingPointError(f"the loss became {new[first].item()} at step {start + first}, {advice}")
    norms = torch._foreach_norm([p.detach() for p in model.parameters() if p.requires_grad])
    if not all(norm.isfinite() for norm in norms):
        raise FloatingPointError(f"weights became too large or NaN by step {start + len(new)}, {advice}")


def _bar(start: int, steps: int, batch_size: int, wanted: bool) -> tqdm:
    """A progress bar over samples: in a notebook if wanted; elsewhere only if the output is a terminal, too."""
    quiet = not wanted if "ipykernel" in sys.modules else (None if wanted else True)
    scale = {"unit": "sample", "unit_scale": batch_size}
    return tqdm(desc="fit", initial=start, total=steps, disable=quiet, leave=False, mininterval=0.5, **scale)


def _wrapped(model: nn.Module, place: torch.device, world: devices.Processes, compiled: bool) -> nn.Module:
    network = model
    if world.size > 1:
        network = nn.parallel.DistributedDataParallel(model, [place] if place.type == "cuda" else None)
    return torch.compile(network) if compiled else network


@dataclass(frozen=True)
class _Run:
    """What a run needs to go on after an interruption."""

    model: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.Optimizer
    losses: Tensor
    options: dict
    about: dict
    folder: str | Path | None

    def save(self, done: int, keep: int) -> None:
        state = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        state |= checkpoints.flatten_optimizer(self.optimizer)
        state |= {"losses": self.losses[:done], "random": torch.get_rng_state()}
        if self.losses.is_cuda:
            state["random.cuda"] = torch.cuda.get_rng_state(self.losses.device)
        about = self.about | {"steps": done, "training": self.options}
        checkpoints.save(self.folder, self.averaged, state=state, keep=keep, **about)

    def check_replaceable(self) -> int:
        """Refuse to begin again, at step 0, where a run would lose what it has done so far."""
        if not any(Path(self.folder).glob("checkpoint*.json")):
            return 0
        about = checkpoints.read(self.folder).record["about"]  # a damaged one may have whole ones beside it
        done, wanted = (a.get("steps", 0) for a in (about, about.get("training", {})))
        if done < wanted:
            raise ValueError(
                f"{self.folder} holds an unfinished run, {done} of {wanted} steps: "
                "go on with resume=True (--resume), or delete it to begin again"
            )
        return 0

    def restore(self) -> int:
        """Put everything back as it was in the newest checkpoint, if there is one; return the steps done."""
        if not any(Path(self.folder).glob("checkpoint*.json")):
            return 0
        weights, state, record = checkpoints.read(self.folder)
        if "training" not in record["about"] or "losses" not in state:
            raise ValueError(f"{self.folder} holds a checkpoint without training state: it cannot be resumed")
        differing = {}  # by name, each once: a caller may note an option's value
        for there, here in ((record["about"]["training"], self.options), (record["about"], self.about)):
            for name, value in here.items():
                if there.get(name) != value:
                    differing.setdefault(name, f"{name} was {there.get(name)!r}, is {value!r}")
        if differing:
            raise ValueError(f"{self.folder} holds a run of other options: {'; '.join(differing.values())}")
        self.about.update({name: value for name, value in record["about"].items() if name not in OWN})
        prefix = "model."
        mine = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        try:
            self.averaged.load_state_dict(weights)
            self.model.load_state_dict(mine)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{self.folder} holds weights of another network: {reason}") from None
        checkpoints.unflatten_optimizer(self.optimizer, state)
        self.losses[: len(state["losses"])] = state["losses"].to(self.losses)
        torch.set_rng_state(state["random"])
        if "random.cuda" in state and self.losses.is_cuda:
            torch.cuda.set_rng_state(state["random.cuda"], self.losses.device)
        return len(state["losses"])


def _named(thing, exactly: bool) -> str:
    """A description that is the same in another process: no addresses. Of data, `exactly` adds a digest."""
    if thing is None:
        return "none"
    if isinstance(thing, Tensor):
        content = thing.detach().cpu().contiguous().view(torch.uint8).numpy() if exactly else b""
        digest = f", digest {hashlib.blake2b(content, digest_size=4).hexdigest()}" if exactly else ""
        return f"{tuple(thing.shape)} {thing.dtype}{digest}".replace("torch.", "")
    if isinstance(thing, nn.Module):
        return f"{type(thing).__name__} {getattr(thing, 'config', '')}".strip()
    name = re.sub(r" at 0x\w+", "", getattr(thing, "__qualname__", repr(thing)))
    owner = getattr(thing, "__self__", None)  # of a method, as of a mixture's `sample`: another mixture, another law
    fields = {key: value for key, value in getattr(owner, "__dict__", {}).items() if isinstance(value, Tensor)}
    return ", ".join([name, *(f"{key} {_named(value, exactly)}" for key, value in sorted(fields.items()))])
