"""Checkpoints that are safe to interrupt: weights as safetensors, everything else as JSON, never pickle.

A folder holds `checkpoint.json` and the weights file that it names. Saving writes new weights under a new name, then
replaces `checkpoint.json` in one rename, then removes the old weights: whenever the process dies, the folder holds a
whole checkpoint, the old one or the new one.
"""

import hashlib
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from fmlib import models

FORMAT = "fmlib checkpoint 1"
NETWORKS = {"MLP": models.MLP, "ResidualMLP": models.ResidualMLP}


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


def save(folder: str | Path, model: nn.Module, **about) -> None:
    """Write a checkpoint of `model` into `folder`; `about` (JSON values) is stored beside it.

    Raises TypeError, before anything is written, if `model` is not one of `NETWORKS`: it could not be loaded again.
    """
    from safetensors.torch import save as to_bytes

    if type(model) not in NETWORKS.values():
        raise TypeError(f"model must be one of {', '.join(NETWORKS)}, got {type(model).__name__}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = to_bytes({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()})
    digest = hashlib.sha256(content).hexdigest()
    weights = folder / f"weights-{digest[:12]}.safetensors"
    with replacing(weights) as temporary:
        temporary.write_bytes(content)
    record = {"format": FORMAT, "network": type(model).__name__, "config": model.config}
    record |= {"weights": weights.name, "sha256": digest, "about": about}
    with replacing(folder / "checkpoint.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    for old in folder.glob("weights-*.safetensors"):
        if old != weights:
            old.unlink()


def load(folder: str | Path) -> tuple[nn.Module, dict]:
    """Return the network, in evaluation mode on the CPU, and what was stored about it.

    Raises ValueError, naming the file, if it is not an fmlib checkpoint, is damaged or truncated, or names a network
    whose weights do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    file = Path(folder) / "checkpoint.json"
    record = _read(file)
    weights = Path(folder) / Path(str(record["weights"])).name
    if not weights.is_file():
        raise ValueError(f"{file} names {weights.name}, which is missing")
    content = weights.read_bytes()
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise ValueError(f"{weights} is damaged or truncated: its sha256 is not the one in checkpoint.json")
    try:
        model = NETWORKS[record["network"]](**record["config"])
        model.load_state_dict(from_bytes(content))
    except (TypeError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(f"{file}: the weights do not fit a {record['network']}: {first_line}") from None
    return model.eval(), record["about"]


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
    if record["network"] not in list(NETWORKS):
        raise ValueError(f"{file} is of an unknown network {record['network']!r}; known: {', '.join(NETWORKS)}")
    return record
