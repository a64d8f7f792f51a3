"""Where the work is done: the device, the number format of matrix products, and the processes that share the work."""

import functools
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

from fmlib import _validate

CONNECT = timedelta(seconds=10)  # what an attempt to find the other processes may take


def device_of(name: str = "auto") -> torch.device:
    """The device called `name`; 'auto' takes a GPU (CUDA, then Apple's) where there is one, else the CPU.

    Under torchrun with several GPUs, 'cuda' and 'auto' are the GPU of this process. ValueError if it cannot be used.

    >>> device_of("cpu")
    device(type='cpu')
    """
    found = name == "auto"
    if found:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        if not found:
            torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(f"device {name!r} cannot be used here: {str(error).splitlines()[0][:160]}") from None


def precision_of(name: str, device: torch.device) -> torch.dtype | None:
    """The format of matrix products in training and sampling: torch.bfloat16, or None, which leaves them alone.

    name: 'float32' (leave alone), 'bf16', or 'auto', which is 'bf16' where the hardware multiplies it natively and
    faster (`multiplies_bf16`).
    Weights, sums and states keep their own format either way (autocast). ValueError for another name.

    >>> precision_of("float32", torch.device("cpu")) is None
    True
    """
    _validate.choice("precision", name, ("auto", "float32", "bf16"))
    return torch.bfloat16 if name == "bf16" or (name == "auto" and multiplies_bf16(device)) else None


def multiplies_bf16(device: torch.device) -> bool:
    """Whether `device` has instructions for products of bfloat16, and they are faster than those of float32.

    On a CPU that has them, one small product of each format is timed, once a process: some run them at half the speed.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) and _bf16_is_faster()


@functools.cache
def _bf16_is_faster() -> bool:
    exact = torch.ones(512, 512)
    rough, best = exact.bfloat16(), {}
    with torch.inference_mode():
        for _ in range(10):  # in turn; the best of each, as whatever else runs here only adds to a time
            for x in (exact, rough):
                start = time.perf_counter()
                x @ x
                best[x] = min(best.get(x, math.inf), time.perf_counter() - start)
    return best[rough] < best[exact]


def in_float64(x: torch.Tensor) -> torch.Tensor:
    """`x` in float64, or as it is on a device that has no such numbers (Apple's GPU).

    >>> in_float64(torch.ones(1)).dtype
    torch.float64
    """
    return x if x.device.type == "mps" else x.double()


class Processes(NamedTuple):
    """This process's number, from 0, and how many there are."""

    rank: int
    size: int


def processes() -> Processes:
    """Who shares the work: the default process group of torch.distributed, or this process alone.

    >>> processes()
    Processes(rank=0, size=1)
    """
    if dist.is_available() and dist.is_initialized():
        return Processes(dist.get_rank(), dist.get_world_size())
    return Processes(0, 1)


@contextmanager
def group(device: torch.device, timeout: float = 300.0) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did: NCCL on GPUs, gloo on CPUs.

    timeout: seconds to wait for a process that has died before giving up; torchrun itself notices sooner. An exception
    passes at once, without waiting for the others: torchrun stops them.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # what torchrun sets
        yield processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", timeout=timedelta(seconds=timeout))
    else:
        _join_by_gloo(timedelta(seconds=timeout))
    yield processes()
    dist.destroy_process_group()


def _join_by_gloo(timeout: timedelta, attempts: int = 4) -> None:
    """Connect the processes by gloo, and try again where they miss each other.

    On a busy machine one side of gloo is sometimes refused while the other waits (seen with PyTorch 2.13). Each attempt
    meets under a name of its own in the store that torchrun keeps, and lasts as long on all sides, so that they meet.
    """
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, rank, size = next(dist.rendezvous("env://"))
    for attempt in range(attempts):
        meeting, start = dist.PrefixStore(f"{restart}/{attempt}", store), time.monotonic()
        try:
            dist.init_process_group("gloo", store=meeting, rank=rank, world_size=size, timeout=CONNECT)
            break
        except RuntimeError:
            if attempt == attempts - 1:
                raise
            time.sleep(max(0.0, CONNECT.total_seconds() - (time.monotonic() - start)))
    dist.distributed_c10d._set_pg_timeout(timeout)  # from now on a wait may be for another's work
