"""Checkpoints that are safe to interrupt: weights as safetensors, everything else as JSON, never pickle.

A folder holds `checkpoint.json`, which names its files of weights and, for a run that may go on, of training state.
Saving writes new files under new names, then replaces `checkpoint.json` in one rename, then removes what no record
names any more: whenever the process dies, the folder holds a whole checkpoint, the old one or the new one.
"""

import contextlib
import errno
import getpass
import hashlib
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmlib import models

FORMAT = "fmlib checkpoint 1"
NETWORKS = {"MLP": models.MLP, "ResidualMLP": models.ResidualMLP, "UNet": models.UNet}
LATEST = "checkpoint.json"
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replacing(path: str | Path):
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`, on failure removed."""
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; a result has the usual permissions
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save(
    folder: str | Path, model: nn.Module, *, state: dict[str, Tensor] | None = None, keep: int = 1, **about
) -> None:
    """Write a checkpoint of `model` into `folder`; `about` (JSON values) is stored beside it.

    state: tensors that training needs to go on. keep: how many checkpoints stay, this one included; the older ones are
    `checkpoint-<steps>.json`, by `about`'s steps. A network of a class outside `NETWORKS` can be loaded only into one
    like it. Raises OSError if the disk is full, saying what to free; the checkpoint that was there is then untouched.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"format": FORMAT, "network": _class(model), "config": getattr(model, "config", None)}
    files = {"weights": model.state_dict()} | ({"state": state} if state else {})
    try:
        for kind, tensors in files.items():
            record |= _write(folder, kind, tensors)
        earlier = _read(folder / LATEST) if keep > 1 and (folder / LATEST).exists() else None
        if earlier and earlier["about"].get("steps", 0) < about.get("steps", math.inf):
            with replacing(folder / f"checkpoint-{earlier['about'].get('steps', 0):08d}.json") as temporary:
                temporary.write_text((folder / LATEST).read_text())
        with replacing(folder / LATEST) as temporary:
            temporary.write_text(json.dumps(record | {"about": about}, indent=1) + "\n")
        for path in folder.glob("checkpoint-*.json"):
            if "steps" in about and _steps(path) >= about["steps"]:
                path.unlink()  # of another run, which got further
        _prune(folder, keep)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        need = sum(t.numel() * t.element_size() for tensors in files.values() for t in tensors.values()) / 1e6
        kept = "the checkpoint before it is whole" if (folder / LATEST).exists() else "none was saved before"
        raise OSError(f"disk full while saving to {folder}: free at least {need:.0f} MB; {kept}") from None
    finally:
        _sweep(folder)


def _class(model: nn.Module) -> str:
    """The name of the model's class, in full if it is not the one that `NETWORKS` has under it."""
    kind = type(model)
    return kind.__name__ if NETWORKS.get(kind.__name__, kind) is kind else f"{kind.__module__}.{kind.__qualname__}"


def annotate(folder: str | Path, **about) -> None:
    """Add JSON values to what is stored about the newest checkpoint in `folder`, in one rename as well."""
    file = Path(folder) / LATEST
    record = _read(file)
    record["about"] |= about
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


def _write(folder: Path, kind: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Write one safetensors file, named after its content, and return what a record says of it."""
    from safetensors.torch import save as to_bytes

    content = to_bytes({name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{kind}-{digest[:12]}.safetensors"
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return {kind: path.name, "sha256" if kind == "weights" else f"{kind}_sha256": digest}


def _prune(folder: Path, keep: int) -> None:
    """Remove all but the `keep` newest records."""
    older = sorted(folder.glob("checkpoint-*.json"))
    for path in older[: max(0, len(older) - keep + 1)]:
        path.unlink()


def _sweep(folder: Path) -> None:
    """Remove every file of tensors that no record names."""
    named = set()
    for path in folder.glob("checkpoint*.json"):
        try:
            record = json.loads(path.read_text())
            named |= {record.get("weights"), record.get("state")}
        except (ValueError, AttributeError):
            return  # a damaged record may still name something that its owner wants back
    for path in [*folder.glob("weights-*.safetensors"), *folder.glob("state-*.safetensors")]:
        if path.name not in named:
            path.unlink()


class Saved(NamedTuple):
    """A checkpoint as it lies on the disk: the network's weights, the training state ({} if none), and the rest."""

    weights: dict[str, Tensor]
    state: dict[str, Tensor]
    record: dict


def read(folder: str | Path, steps: int | None = None) -> Saved:
    """Read the newest checkpoint in `folder`, or the one after `steps` steps, and check its sums.

    Raises ValueError, naming the file, if there is none, if it is not an fmlib checkpoint, or is damaged or truncated;
    the message names the newest older checkpoint that is whole, if any.
    """
    folder = Path(folder)
    try:
        record = _read(_file(folder, steps))
        weights = _tensors(folder, record["weights"], record["sha256"])
        state = _tensors(folder, record["state"], record["state_sha256"]) if "state" in record else {}
    except ValueError as error:
        raise ValueError(f"{error}{_way_back(folder) if steps is None else ''}") from None
    return Saved(weights, state, record)


def _way_back(folder: Path) -> str:
    """How to go on from the newest older checkpoint that is whole."""
    for path in sorted(folder.glob("checkpoint-*.json"), reverse=True):
        with contextlib.suppress(ValueError):
            read(folder, _steps(path))
            return f"; to go back to step {_steps(path)}, copy {path.name} over {LATEST}"
    return ""


def _file(folder: Path, steps: int | None) -> Path:
    older = folder / f"checkpoint-{steps or 0:08d}.json"
    newest = steps is None or (not older.exists() and _read(folder / LATEST)["about"].get("steps") == steps)
    return folder / LATEST if newest else older


def _steps(path: Path) -> int:
    number = path.stem.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def load(folder: str | Path, steps: int | None = None, model: nn.Module | None = None) -> tuple[nn.Module, dict]:
    """Return the network, in evaluation mode on the CPU, and what was stored about it.

    steps: an older checkpoint, if several were kept. model: a network to fill, for a class outside `NETWORKS`.
    Raises ValueError as `read` does, and if the weights do not fit the network.
    """
    saved = read(folder, steps)
    name = saved.record["network"]
    file = Path(folder) / LATEST
    if model is None and (not isinstance(name, str) or name not in NETWORKS):
        raise ValueError(f"{file} is of an unknown network {name!r}; known: {', '.join(NETWORKS)}; give model=")
    try:
        if model is None:
            with torch.random.fork_rng(devices=[]):  # the first weights, which are not kept, draw numbers
                model = NETWORKS[name](**saved.record["config"])
            for value in saved.weights.values():
                model = model.to(value.dtype) if value.is_floating_point() else model
        model.load_state_dict(saved.weights)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{file}: the weights do not fit a {type(model).__name__ if model else name}: {reason}"
        ) from None
    return model.eval(), saved.record["about"]


def _tensors(folder: Path, name: str, sha256: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    path = folder / Path(str(name)).name
    if not path.is_file():
        raise ValueError(f"{folder / LATEST} names {path.name}, which is missing")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path} is damaged or truncated: its sha256 is not the one in {LATEST}")
    try:
        return from_bytes(content)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from None


def _read(file: Path) -> dict:
    if not file.is_file():
        raise ValueError(f"{file.parent} holds no checkpoint: {file.name} is missing")
    try:
        record = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged or truncated: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{file} is not an fmlib checkpoint of a known format")
    missing = {"network", "config", "weights", "sha256", "about"} - record.keys()
    if missing:
        raise ValueError(f"{file} lacks {', '.join(sorted(missing))}")
    if not isinstance(record["about"], dict) or ("state" in record) != ("state_sha256" in record):
        raise ValueError(f"{file} is damaged: its entries do not fit together")
    return record


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold `folder` for this run; ValueError, with owner and start time, if another live run holds it.

    The system lets the lock go when its process dies, however it dies.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / ".owner.json"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            who = "{user} on {host}, process {pid}, since {started}".format(**json.loads(owner.read_text()))
        except (OSError, ValueError, KeyError):
            who = "its owner is not known"
        raise ValueError(f"{folder} is in use by a live run ({who}): stop it, or choose another folder") from None
    try:
        for name in (".weights-*", ".state-*", ".checkpoint*", ".samples-*"):
            for path in folder.glob(name):  # left by a run that was killed while it wrote
                path.unlink()
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        user = "user"
        with contextlib.suppress(OSError, KeyError):  # no such user, as in some containers
            user = getpass.getuser()
        facts = {"user": user, "host": platform.node(), "pid": os.getpid(), "started": started}
        with contextlib.suppress(OSError):  # a full disk is reported where it matters
            owner.write_text(json.dumps(facts))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: `optimizer.<parameter>.<what>`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"optimizer.{i}.{name}": torch.as_tensor(value)
        for i, parameter in enumerate(parameters)
        for name, value in optimizer.state.get(parameter, {}).items()
    }


def unflatten_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Put back what `flatten_optimizer` took out."""
    for i, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        prefix = f"optimizer.{i}."
        mine = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        optimizer.state[parameter] = {name: value.to(parameter.device) for name, value in mine.items()}
