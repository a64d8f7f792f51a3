"""Checkpoints that are safe to interrupt: weights as safetensors, everything else as JSON, never pickle.

A folder holds `checkpoint.json`, which names its files of weights and, for a run that may go on, of training state.
Saving writes new files under new names, then replaces `checkpoint.json` in one rename, then removes what no record
names any more: whenever the process dies, the folder holds a whole checkpoint, the old one or the new one. Only files
whose whole names are of the forms below are ever removed: the folder may hold others, of whatever name.

A record says what its files hold and carries a digest over itself. Nothing that it says is trusted before it is
compared with the tensors that are there.
"""

import contextlib
import errno
import getpass
import hashlib
import json
import math
import os
import platform
import re
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmlib import _validate, models

FORMAT = "fmlib checkpoint 2"
WITHOUT_DIGEST = "fmlib checkpoint 1"  # still read
OLD_NAMES = {  # of fmlib 0.1, in a ResidualMLP
    "embed_time.0.weight": "embed.layers.0.weight",
    "embed_time.0.bias": "embed.layers.0.bias",
    "embed_label.weight": "embed.label.weight",
}
NETWORKS = {cls.__name__: cls for cls in (models.MLP, models.ResidualMLP, models.UNet, models.TokenMLP)}
COUNTS_OF_LAYERS = {"depth", "blocks"}  # in a network's config
LATEST, LOCK, OWNER = "checkpoint.json", ".fmlib-lock", ".fmlib-owner.json"
TENSORS = re.compile(r"(weights|state)-[0-9a-f]{12}\.safetensors")
OLDER = re.compile(r"checkpoint-([0-9]{8}|[1-9][0-9]{8,})\.json")
WRITING = ".fmlib-writing-"
HALF_WRITTEN = re.compile(
    rf"{re.escape(WRITING)}[a-z0-9_]{{8}}-({TENSORS.pattern}|{OLDER.pattern}|checkpoint\.json|samples\.png|{re.escape(OWNER)})"
)
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replacing(path: str | Path):
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`, on failure removed."""
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=WRITING, suffix=f"-{path.stem[:40]}{path.suffix}")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
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


def any_in(folder: str | Path) -> bool:
    """Whether `folder` holds a checkpoint, the newest or an older one, whole or damaged.

    >>> any_in("no such folder")
    False
    """
    return (Path(folder) / LATEST).is_file() or bool(_files(Path(folder), OLDER))


def _files(folder: Path, form: re.Pattern) -> list[Path]:
    """The files, not folders, whose whole names have this form."""
    return [path for path in folder.glob("*") if form.fullmatch(path.name) and path.is_file()]


def _older(folder: Path) -> list[Path]:
    """The records of older checkpoints, by their steps."""
    return sorted(_files(folder, OLDER), key=_steps)


def _steps(path: Path) -> int:
    return int(OLDER.fullmatch(path.name)[1])


def check_savable(model: nn.Module) -> None:
    """Raise TypeError, naming the entry, if a checkpoint cannot hold all of the model's state: to be asked before work.

    It holds plain tensors of real numbers: not what `get_extra_state` returns, nor the parameters of a lazy layer that
    was never called, nor complex, sparse or quantised ones.

    >>> check_savable(nn.Linear(2, 2))
    >>> check_savable(nn.LazyLinear(2))
    Traceback (most recent call last):
    TypeError: LazyLinear cannot be saved: weight has no shape before the model is called once
    """
    for name, value in model.state_dict().items():
        reason = _unsavable(value)
        if reason:
            raise TypeError(f"{type(model).__name__} cannot be saved: {name} {reason}")


def _unsavable(value) -> str | None:
    from safetensors.torch import save as to_bytes

    if not isinstance(value, Tensor):
        return f"is of type {type(value).__name__}, not a tensor"
    if nn.parameter.is_lazy(value):
        return "has no shape before the model is called once"
    if value.is_meta:
        return "has no values on the device meta"
    if value.layout != torch.strided or value.is_quantized:
        return f"is no plain tensor but {value.layout} of {value.dtype}"
    if value.is_complex():
        return f"is of {value.dtype}: keep its real view, torch.view_as_real"
    try:
        to_bytes({"": torch.empty(0, dtype=value.dtype)})
    except (KeyError, ValueError):
        return f"is of {value.dtype}, for which safetensors has no name"
    return None


def save(
    folder: str | Path, model: nn.Module, *, state: dict[str, Tensor] | None = None, keep: int = 1, **about
) -> None:
    """Write a checkpoint of `model` into `folder`; `about` (JSON values) is stored beside it.

    state: tensors that training needs to go on. keep: how many checkpoints stay, this one included; the older ones are
    `checkpoint-<steps>.json`, by `about`'s steps. A network of a class outside `NETWORKS` can be loaded only into one
    like it. Raises TypeError for a network that cannot be saved (`check_savable`), and OSError if the folder cannot be
    written, or the disk is full, saying what to free; the checkpoint that was there is then untouched.
    """
    folder = Path(folder)
    check_savable(model)
    files = {"weights": model.state_dict()} | ({"state": state} if state else {})
    record = {"format": FORMAT, "network": _class(model), "config": _config(model)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, tensors in files.items():
            record |= _write(folder, kind, tensors)
        text = _text(record | {"about": about})
        _check(folder / LATEST, json.loads(text))
        earlier = _read(folder / LATEST) if keep > 1 and (folder / LATEST).exists() else None
        if earlier and earlier["about"].get("steps", 0) < about.get("steps", math.inf):
            with replacing(folder / f"checkpoint-{earlier['about'].get('steps', 0):08d}.json") as temporary:
                temporary.write_text((folder / LATEST).read_text())
        with replacing(folder / LATEST) as temporary:
            temporary.write_text(text)
        for path in _older(folder):
            if "steps" in about and _steps(path) >= about["steps"]:
                path.unlink()  # of another run, which got further
        older = _older(folder)
        for path in older[: max(0, len(older) - keep + 1)]:
            path.unlink()
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise _unwritable(folder, error) from None
        need = sum(t.numel() * t.element_size() for tensors in files.values() for t in tensors.values())
        kept = "the checkpoint before it is whole" if (folder / LATEST).exists() else "none was saved before"
        raise OSError(f"disk full while saving to {folder}: free at least {_size(need)}; {kept}") from None
    finally:
        _sweep(folder)


def _unwritable(folder: Path, error: OSError) -> OSError:
    """The same error, saying what could not be written: not which of the files in it, which are no concern of users."""
    return type(error)(f"cannot write to {folder}: {error.strerror or error}")


def _size(count: int) -> str:
    """A number of bytes, rounded up."""
    return f"{math.ceil(count / 1e6)} MB" if count >= 1e6 else f"{math.ceil(count / 1e3)} KB"


def _class(model: nn.Module) -> str:
    """The name of the model's class, in full if it is not the one that `NETWORKS` has under it."""
    kind = type(model)
    return kind.__name__ if NETWORKS.get(kind.__name__, kind) is kind else f"{kind.__module__}.{kind.__qualname__}"


def _config(model: nn.Module) -> dict | None:
    """What the network is built from; None where the attribute of that name is something else, of another library."""
    config = getattr(model, "config", None)
    try:
        return json.loads(json.dumps(config))
    except (TypeError, ValueError):
        return None


def annotate(folder: str | Path, **about) -> None:
    """Add JSON values to what is stored about the newest checkpoint in `folder`, in one rename as well."""
    file = Path(folder) / LATEST
    record = _read(file)
    text = _text(record | {"format": FORMAT, "about": record["about"] | about})
    _check(file, json.loads(text))
    try:
        with replacing(file) as temporary:
            temporary.write_text(text)
    except OSError as error:
        raise _unwritable(file.parent, error) from None


def _text(record: dict) -> str:
    """The record as it stands in its file: with a digest over all its other entries, as JSON."""
    record = json.loads(json.dumps({name: value for name, value in record.items() if name != "digest"}))
    digest = hashlib.sha256(json.dumps(record).encode()).hexdigest()
    return json.dumps(record | {"digest": digest}, indent=1) + "\n"


def _write(folder: Path, kind: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Write one safetensors file, named after its content, and return what a record says of it."""
    from safetensors.torch import save as to_bytes

    content = to_bytes({name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{kind}-{digest[:12]}.safetensors"
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return {kind: path.name, "sha256" if kind == "weights" else f"{kind}_sha256": digest}


def _sweep(folder: Path) -> None:
    """Remove every file of tensors that no record names."""
    named = set()
    for path in filter(Path.is_file, folder.glob("checkpoint*.json")):  # a user's copy keeps its tensors as well
        try:
            record = json.loads(path.read_text())
            named |= {Path(str(record.get(kind))).name for kind in ("weights", "state")}
        except (OSError, ValueError, AttributeError, RecursionError):
            if path.name == LATEST or OLDER.fullmatch(path.name):
                return  # a damaged record may still name something that its owner wants back
    for path in _files(folder, TENSORS):
        if path.name not in named:
            with contextlib.suppress(OSError):  # it may go next time
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
    if steps is not None:
        _validate.count("steps", steps, 0)
    try:
        record = _read(_file(folder, steps))
        weights = _tensors(folder, record["weights"], record["sha256"])
        state = _tensors(folder, record["state"], record["state_sha256"]) if "state" in record else {}
    except ValueError as error:
        raise ValueError(f"{error}{_way_back(folder) if steps is None else ''}") from None
    return Saved(weights, state, record)


def _way_back(folder: Path) -> str:
    """How to go on from the newest older checkpoint that is whole."""
    for path in reversed(_older(folder)):
        with contextlib.suppress(ValueError):
            read(folder, _steps(path))
            return f"; to go back to step {_steps(path)}, copy {path.name} over {LATEST}"
    return ""


def _file(folder: Path, steps: int | None) -> Path:
    older = folder / f"checkpoint-{steps or 0:08d}.json"
    newest = steps is None or (not older.exists() and _read(folder / LATEST)["about"].get("steps") == steps)
    return folder / LATEST if newest else older


def load(folder: str | Path, steps: int | None = None, model: nn.Module | None = None) -> tuple[nn.Module, dict]:
    """Return the network, in evaluation mode on the CPU, and what was stored about it.

    steps: an older checkpoint, if several were kept. model: a network to fill, for a class outside `NETWORKS`.
    Raises ValueError as `read` does, and if the weights do not fit the network: then nothing large was allocated, and
    `model` is as it was.
    """
    saved = read(folder, steps)
    name = saved.record["network"]
    file = Path(folder) / LATEST
    if model is None and (not isinstance(name, str) or name not in NETWORKS):
        raise ValueError(f"{file} is of an unknown network {_short(name)!r}; known: {', '.join(NETWORKS)}; give model=")
    try:
        if model is None:
            weights = {OLD_NAMES.get(key, key): value for key, value in saved.weights.items()}
            model = _built(NETWORKS[name], saved.record["config"], weights)
        else:
            weights = saved.weights
            _check_fit(model, weights)
        model.load_state_dict(weights)
    except Exception as error:  # a foreign config may raise anything
        kind = type(model).__name__ if model is not None else name
        raise ValueError(f"{file}: the weights do not fit a {kind}: {_short(error)}") from None
    return model.eval(), saved.record["about"]


def _built(kind: type[nn.Module], config: dict, weights: dict[str, Tensor]) -> nn.Module:
    """A network of this config, if the weights fit it: it is tried first without memory for its own."""
    if not isinstance(config, dict):
        raise ValueError(f"its config is {config!r}")
    for name in COUNTS_OF_LAYERS & config.keys():  # each layer has a tensor, and takes time even without memory
        if config[name] > len(weights):
            raise ValueError(f"{name} is {config[name]}, with {len(weights)} tensors in the file")
    formats = {value.dtype for value in weights.values() if value.is_floating_point()}
    if len(formats) != 1:
        raise ValueError(f"its numbers must have one format, got {sorted(map(str, formats))}")
    (dtype,) = formats
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # the first weights draw numbers in vain
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            _check_fit(kind(**config).to(dtype), weights)
        return kind(**config).to(dtype)


def _check_fit(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """ValueError unless the model's state has the names, shapes and formats of the weights."""
    state = model.state_dict()
    for name in [*state, *weights]:
        here, there = (f"{tuple(x[name].shape)} {x[name].dtype}" if name in x else "none" for x in (state, weights))
        if here != there:
            raise ValueError(f"{name} is {here} in the network, {there} in the file")


def _short(thing) -> str:
    return " ".join(str(thing).split())[:200]


def _tensors(folder: Path, name: str, sha256: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    path = folder / Path(name).name
    if not TENSORS.fullmatch(path.name) or not path.is_file():
        raise ValueError(f"{folder / LATEST} names {_short(path.name)}, which is missing")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path} is damaged or truncated: its sha256 is not the one in {LATEST}")
    try:
        return from_bytes(content)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is no safetensors file: {_short(error)}") from None


def _read(file: Path) -> dict:
    if not file.is_file():
        raise ValueError(f"{file.parent} holds no checkpoint: {file.name} is missing")
    try:
        text = file.read_text(encoding="utf-8")
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged or truncated: {error}") from None
    kind = record.get("format") if isinstance(record, dict) else None
    if kind not in (FORMAT, WITHOUT_DIGEST):
        raise ValueError(f"{file} is not an fmlib checkpoint of a known format")
    if kind == FORMAT and text != _text(record):
        raise ValueError(f"{file} is damaged or was edited: its digest is not that of its text")
    _check(file, record)
    return record


def _check(file: Path, record: dict) -> None:
    """ValueError unless the record has its entries, each of its type, and they fit together."""
    missing = {"network", "config", "weights", "sha256", "about"} - record.keys()
    if missing:
        raise ValueError(f"{file} lacks {', '.join(sorted(missing))}")
    about = record["about"]
    if not isinstance(about, dict) or ("state" in record) != ("state_sha256" in record):
        raise ValueError(f"{file} is damaged: its entries do not fit together")
    for name in {"weights", "sha256", "state", "state_sha256"} & record.keys():
        if not isinstance(record[name], str):
            raise ValueError(f"{file}: {name} must be a word, got {_short(repr(record[name]))}")
    steps = about.get("steps", 0)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"{file}: steps must be a whole number from 0, got {_short(repr(steps))}")
    if not isinstance(about.get("training", {}), dict):
        raise ValueError(f"{file}: training must hold options by name, got {_short(repr(about['training']))}")


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold `folder` for this run; ValueError, with owner and start time, if another live run holds it.

    The system lets the lock go when its process dies, however it dies. Raises OSError if the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{folder} is in use by a live run ({_owner(folder)}): stop it, or choose another folder"
        ) from None
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        _take(folder)
        yield
    finally:
        with contextlib.suppress(OSError):  # which would hide what went wrong before
            (folder / OWNER).unlink()
        lock.release()


def _take(folder: Path) -> None:
    """Clear away what a run left that was killed while it wrote, and say who holds the folder now."""
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    user = "user"
    with contextlib.suppress(OSError, KeyError):  # no such user, as in some containers
        user = getpass.getuser()
    facts = {"user": user, "host": platform.node(), "pid": os.getpid(), "started": started}
    try:
        for path in _files(folder, HALF_WRITTEN):
            path.unlink()
        with replacing(folder / OWNER) as temporary:  # a new file, as checkpoints will be: if it cannot be, say so now
            temporary.write_text(json.dumps(facts))
    except OSError as error:
        if error.errno not in DISK_FULL:  # a full disk is reported where it matters
            raise _unwritable(folder, error) from None


def _owner(folder: Path) -> str:
    try:
        facts = json.loads((folder / OWNER).read_text())
        return "{user} on {host}, process {pid}, since {started}".format(**facts)
    except (OSError, ValueError, KeyError, TypeError):
        return "its owner is not known"


WITH_STATE = "optimizer.parameters"  # the numbers of the parameters that have a state


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: `optimizer.<parameter>.<what>`, and which parameters have one."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    flat = {
        f"optimizer.{i}.{name}": torch.as_tensor(value)
        for i, parameter in enumerate(parameters)
        for name, value in optimizer.state.get(parameter, {}).items()
    }
    owners = [i for i, parameter in enumerate(parameters) if optimizer.state.get(parameter)]
    return flat | {WITH_STATE: torch.tensor(owners, dtype=torch.int64)}


def unflatten_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Put back what `flatten_optimizer` took out of Adam or its like; entries of other names are passed over.

    Raises ValueError, and leaves the optimiser as it was, if a moment has not the shape of its parameter, if one has
    moments that another lacks, or if parameters of which a state was taken have none.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if not key.startswith("optimizer.") or key == WITH_STATE:
            continue
        entry = re.fullmatch(r"optimizer\.([0-9]{1,9})\.(\w+)", key)
        if not entry or int(entry[1]) >= len(parameters):
            raise ValueError(f"the training state holds {_short(key)}, of no parameter among {len(parameters)}")
        i, name = int(entry[1]), entry[2]
        expected = () if name == "step" else tuple(parameters[i].shape)
        if tuple(value.shape) != expected or not value.is_floating_point():
            came = f"{tuple(value.shape)} of {value.dtype}"
            raise ValueError(f"the training state's {key} must have shape {expected} and a floating dtype, got {came}")
        found.setdefault(i, {})[name] = value
    every = {name for mine in found.values() for name in mine}
    listed = state.get(WITH_STATE, torch.tensor([], dtype=torch.int64))  # no list in the first format
    if listed.dtype != torch.int64 or listed.ndim != 1:
        raise ValueError(f"the training state's {WITH_STATE} must be a list of integers, got {listed.dtype}")
    for i in sorted({*found, *listed.tolist()}):
        lacking = every - found.get(i, {}).keys()
        if lacking or i not in found:
            raise ValueError(f"the training state lacks {', '.join(sorted(lacking)) or 'all'} of parameter {i}")
    for i, mine in found.items():
        optimizer.state[parameters[i]] = {name: value.to(parameters[i].device) for name, value in mine.items()}
