"""What makes a training run the one that it is: its options, its identity on the disk, and its state between steps."""

import dataclasses
import functools
import hashlib
import json
import random
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fmlib import _validate, checkpoints, devices

RESERVED = {"folder", "model", "state", "keep", "steps", "training"}  # what a checkpoint says of itself


@dataclass(frozen=True)
class Checkpoints:
    """Where a run is kept on the disk, how often, and whether it goes on from there.

    folder: the run's own. every: steps between two checkpoints; there is one at the end as well. keep: how many of the
    newest stay. resume: go on from the newest one there, if any. about: JSON values to store beside the weights.
    Raises TypeError or ValueError for anything else.

    >>> Checkpoints("runs/moons", every=500).keep
    2
    """

    folder: str | Path
    every: int = 1000
    keep: int = 2
    resume: bool = False
    about: dict | None = None

    def __post_init__(self):
        if not isinstance(self.folder, str | Path) or not str(self.folder):
            raise TypeError(f"checkpoint must be a folder's path or Checkpoints, got {self.folder!r}"[:200])
        for name in ("every", "keep"):  # NumPy's integers become Python's, which JSON holds
            object.__setattr__(self, name, _validate.count(name, getattr(self, name)))
        about = self.about or {}
        if taken := RESERVED & about.keys():
            raise ValueError(
                f"about cannot hold the names {', '.join(sorted(taken))}, which checkpoints use themselves"
            )
        try:
            about = json.loads(json.dumps(about, allow_nan=False))  # as it will come back from the disk
        except (TypeError, ValueError) as error:
            raise TypeError(f"about must hold JSON values only: {error}") from None
        object.__setattr__(self, "about", about)


@dataclass(frozen=True)
class Options:
    """The numbers that decide what a step computes; two runs that agree in them, and in what they train, are one."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int
    clip: float | None
    accumulate: int
    ema: float
    precision: str
    seed: int

    def __post_init__(self):
        least = {"steps": 1, "batch_size": 1, "accumulate": 1, "warmup": 0, "seed": -(2**63)}
        for name, minimum in least.items():  # NumPy's integers become Python's, which JSON holds
            object.__setattr__(self, name, _validate.count(name, getattr(self, name), minimum))
        _validate.positive("learning_rate", self.learning_rate)
        if self.clip is not None:
            _validate.positive("clip", self.clip)
        if isinstance(self.ema, bool) or not isinstance(self.ema, int | float) or not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}")

    def settled(self, device: torch.device, world: devices.Processes, disk: Checkpoints | None) -> "Options":
        """The same with 'auto' decided once for all processes; a run that goes on keeps what it began with."""
        if self.batch_size % (world.size * self.accumulate):
            parts = f"{world.size} processes x {self.accumulate} parts"
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of {parts}")
        if self.precision != "auto":
            return self
        if disk and disk.resume and (Path(disk.folder) / checkpoints.LATEST).exists():
            return dataclasses.replace(self, precision=_training(disk.folder).get("precision", "float32"))
        chosen = ["bf16" if devices.precision_of("auto", device) else "float32"]
        if world.size > 1:
            dist.broadcast_object_list(chosen, device=device)
        return dataclasses.replace(self, precision=chosen[0])


def _training(folder: str | Path) -> dict:
    """What the newest checkpoint in `folder` says of its run."""
    return checkpoints.read(folder).record["about"].get("training", {})


@dataclass(frozen=True)
class Run:
    """What a run needs to go on after an interruption, and where it keeps that."""

    model: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.Optimizer
    losses: Tensor
    identity: dict
    disk: Checkpoints | None
    writes: bool

    @contextmanager
    def begun(self) -> Iterator[int]:
        """Hold the folder, put everything back as it was in the newest checkpoint, and yield the steps done."""
        with checkpoints.locked(self.disk.folder) if self.writes else nullcontext():
            if self.disk is None or not checkpoints.any_in(self.disk.folder):
                yield 0
            else:
                yield self._restore() if self.disk.resume else self._check_replaceable()

    def due(self, done: int) -> bool:
        """Whether a checkpoint belongs after `done` steps."""
        return self.disk is not None and (done % self.disk.every == 0 or done == len(self.losses))

    def save(self, done: int, first: bool) -> None:
        """Write a checkpoint, if this process does; the first of a new run replaces what an old one left."""
        if not self.writes:
            return
        state = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        state |= checkpoints.flatten_optimizer(self.optimizer)
        state |= {"losses": self.losses[:done]} | _random_states(self.losses.device)
        about = self.disk.about | {"steps": done, "training": self.identity}
        keep = 1 if first else self.disk.keep
        checkpoints.save(self.disk.folder, self.averaged, state=state, keep=keep, **about)

    def _check_replaceable(self) -> int:
        """Refuse to begin again, at step 0, where a run would lose what it has done so far."""
        about = checkpoints.read(self.disk.folder).record["about"]  # a damaged one may have whole ones beside it
        done, wanted = about.get("steps", 0), _training(self.disk.folder).get("steps", 0)
        if done < wanted:
            raise ValueError(
                f"{self.disk.folder} holds an unfinished run, {done} of {wanted} steps: "
                "go on with resume=True (--resume), or delete it to begin again"
            )
        return 0

    def _restore(self) -> int:
        """Put everything back as it was in the newest checkpoint; return the steps done."""
        folder = self.disk.folder
        weights, state, record = checkpoints.read(folder)
        if "training" not in record["about"] or "losses" not in state or "random" not in state:
            raise ValueError(f"{folder} holds a checkpoint without training state: it cannot be resumed")
        there, done = _training(folder), len(state["losses"])
        if done != record["about"].get("steps"):
            raise ValueError(f"{folder} holds {done} losses after {record['about'].get('steps')} steps")
        if done == there.get("steps") and self.identity["steps"] > done:
            there = there | {"steps": self.identity["steps"]}  # a finished run goes on to more steps
        differing = {}  # by name, each once: a caller may note an option's value
        for then, now in ((there, self.identity), (record["about"], self.disk.about)):
            for name, value in now.items():
                if then.get(name) != value:
                    differing.setdefault(name, f"{name} was {then.get(name)!r}, is {value!r}")
        if differing:
            raise ValueError(f"{folder} holds a run of other options: {'; '.join(differing.values())}")
        kept = {name: value for name, value in record["about"].items() if name not in RESERVED}
        self.disk.about.update(kept)  # what was noted meanwhile stays
        mine = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
        try:
            self.averaged.load_state_dict(weights)
            self.model.load_state_dict(mine)
            checkpoints.unflatten_optimizer(self.optimizer, state)
            self.losses[:done] = state["losses"].to(self.losses)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{folder} holds a state of another network: {reason}") from None
        try:
            _set_random_states(state, self.losses.device)
        except (KeyError, RuntimeError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{folder} holds a damaged random state: {error}") from None
        return done


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of all global generators, as tensors: PyTorch's, Python's and, where it is loaded, NumPy's."""
    version, words, gauss = random.getstate()
    states = {"random": torch.get_rng_state(), "random.python": torch.tensor(words, dtype=torch.int64)}
    states["random.python.gauss"] = torch.tensor([] if gauss is None else [gauss], dtype=torch.float64)
    if device.type == "cuda":
        states["random.cuda"] = torch.cuda.get_rng_state(device)
    if "numpy" in sys.modules:
        import numpy as np

        _, key, position, has_gauss, cached = np.random.get_state()  # of MT19937, the legacy generator's only kind
        states["random.numpy"] = torch.tensor([*key.tolist(), position, has_gauss], dtype=torch.int64)
        states["random.numpy.gauss"] = torch.tensor([cached], dtype=torch.float64)
    return states


def _set_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Put back what `_random_states` took."""
    torch.set_rng_state(states["random"])
    if "random.python" in states:
        gauss = states["random.python.gauss"].tolist()
        random.setstate((3, tuple(states["random.python"].tolist()), gauss[0] if gauss else None))
    if "random.cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["random.cuda"], device)
    if "random.numpy" in states:
        import numpy as np

        *key, position, has_gauss = states["random.numpy"].tolist()
        cached = states["random.numpy.gauss"].item()
        np.random.set_state(("MT19937", np.array(key, dtype=np.uint32), position, has_gauss, cached))


def described(thing, exactly: bool) -> str:
    """A description that is the same in another process: no addresses. Of data, `exactly` adds a digest."""
    if thing is None:
        return "none"
    if isinstance(thing, Tensor):
        content = thing.detach().cpu().contiguous().view(torch.uint8).numpy() if exactly else b""
        digest = f", digest {hashlib.blake2b(content, digest_size=4).hexdigest()}" if exactly else ""
        return f"{tuple(thing.shape)} {thing.dtype}{digest}".replace("torch.", "")
    if isinstance(thing, nn.Module):
        return f"{type(thing).__name__} {getattr(thing, 'config', '')}".strip()
    if isinstance(thing, functools.partial):
        return (
            f"partial {described(thing.func, exactly)} {[described(a, exactly) for a in thing.args]} {thing.keywords}"
        )
    name = re.sub(r" at 0x\w+", "", getattr(thing, "__qualname__", repr(thing)))
    # Of a method, as of a mixture's `sample`, another owner is another law; of a closure, so is another value in it
    owner = getattr(thing, "__self__", None)
    code, cells = getattr(thing, "__code__", None), getattr(thing, "__closure__", None) or ()
    fields = {key: value for key, value in getattr(owner, "__dict__", {}).items() if isinstance(value, Tensor)}
    for key, cell in zip(code.co_freevars if code else (), cells, strict=False):
        value = cell.cell_contents if cell != type(cell)() else None
        if isinstance(value, Tensor | int | float | str):
            fields[key] = value
    return ", ".join([name, *(f"{key} {described(value, exactly)}" for key, value in sorted(fields.items()))])
