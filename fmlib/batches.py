"""What a step of training sees: rows drawn by seed and step, coupled, ahead of time where coupling takes time."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from fmlib import _validate, devices

Law = Tensor | Callable[..., Tensor]


class Batch(NamedTuple):
    """What a loss sees: coupled rows of source and target, (share, *dims) each, their times (share,), the network's
    condition, and a generator of its own, seeded by the run's seed, the step and the process."""

    x_0: Tensor
    x_1: Tensor
    t: Tensor
    condition: dict[str, Tensor]
    generator: torch.Generator

    def parts(self, count: int) -> list["Batch"]:
        """The batch in `count` equal parts, which share its generator."""
        names, n = list(self.condition), len(self.t) // count
        rows = zip(*(value.split(n) for value in (*self[:3], *self.condition.values())), strict=True)
        return [Batch(*part[:3], dict(zip(names, part[3:], strict=True)), self.generator) for part in rows]


def drawing(
    data: Law,
    source: Law | None,
    condition: dict[str, Tensor],
    coupling,
    batch_size: int,
    seed: int,
    device: torch.device,
    world: devices.Processes,
) -> Callable[[int], Batch]:
    """Check the data, put it on the device if it fits, and return the function step -> this process's `Batch`.

    A batch depends on the seed and the step alone, so training can go on anywhere; every process draws the whole of it
    and takes its own share, so together they see what one process would. Arguments and errors as in `training.fit`.
    """
    if coupling is not None:
        _validate.function("coupling", coupling, "(x_0, x_1, generator)")
    data = _on_device("data", data, device, integers=source is not None)
    source = _on_device("source", source, device, integers=True)
    condition = {name: _condition(name, value, data, device) for name, value in condition.items()}
    paired = bool(getattr(coupling, "paired", False))
    if paired and not (isinstance(source, Tensor) and isinstance(data, Tensor) and len(source) == len(data)):
        raise ValueError(f"{type(coupling).__name__}() needs source and target data of one length")
    share = batch_size // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)  # of the whole batch, which every process draws

    def rows(law, picked, on_cpu):
        if isinstance(law, Tensor):
            return law[picked.to(law.device)].to(device, non_blocking=True)
        drawn = law(batch_size, generator=on_cpu)
        if not isinstance(drawn, Tensor):
            raise TypeError(f"a sampler must return a torch.Tensor, got {type(drawn).__name__}")
        if len(drawn) != batch_size:
            raise ValueError(f"a sampler must return as many rows as it is asked for, {batch_size}, got {len(drawn)}")
        return drawn.to(device)[mine]

    def pick(law, generator):
        n = len(law) if isinstance(law, Tensor) else 1
        return torch.randint(n, (batch_size,), generator=generator, device=device)[mine]

    @torch.no_grad()  # data that requires gradients, or a sampler with weights, is not what is trained
    def draw(step: int) -> Batch:
        generator = torch.Generator(device).manual_seed(_mixed(seed, step))
        # Samplers draw on the CPU, wherever the network is
        on_cpu = generator if device.type == "cpu" else torch.Generator().manual_seed(_mixed(seed, step))
        picked = pick(data, generator)
        x_1 = rows(data, picked, on_cpu)
        dtype = x_1.dtype if x_1.is_floating_point() else torch.get_default_dtype()
        if source is None:
            if x_1.dtype != dtype:
                raise TypeError(f"a sampler of {x_1.dtype} needs a source=, or let it return floating numbers")
            shape = (batch_size, *x_1.shape[1:])
            x_0 = torch.randn(shape, generator=generator, device=device, dtype=dtype)[mine]
        else:
            x_0 = rows(source, picked if paired else pick(source, generator), on_cpu)
        t = torch.rand(batch_size, generator=generator, device=device, dtype=dtype)[mine]
        given = {name: value[picked.to(value.device)].to(device) for name, value in condition.items()}
        if coupling is not None:
            x_0, x_1 = coupling(x_0, x_1, generator=generator, **given)
        own = torch.Generator(device).manual_seed(_mixed(_mixed(seed, step), 1 + world.rank))
        return Batch(x_0, x_1, t, given, own)

    return draw


def _mixed(seed: int, step: int) -> int:
    """A number of 63 bits that looks random in both arguments.

    (The mixer of SplitMix64: Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number Generators", figure 14.)
    """
    mask = 2**64 - 1
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + 1) & mask
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
    return (z ^ z >> 31) >> 1


def ahead(draw: Callable[[int], Batch], start: int, steps: int, coupling, device: torch.device) -> Iterator[Batch]:
    """draw(start), ..., draw(steps - 1). A coupling that takes time works in a thread, one batch ahead.

    That takes a core that the network leaves free. Where its steps keep every core busy, a thread beside them costs
    more than it hides (measured: every product waits for the core that the thread is using), so there is none.
    """
    busy = device.type == "cpu" and torch.get_num_threads() >= (os.cpu_count() or 1)
    if busy or coupling is None or start == steps:
        yield from map(draw, range(start, steps))
        return
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def drawn(step):
        with torch.cuda.stream(stream) if stream else nullcontext():  # beside the network's own work
            return draw(step)

    if stream:
        stream.wait_stream(torch.cuda.current_stream(device))  # the data may still be on its way
    with ThreadPoolExecutor(1, "coupling") as pool:
        following = pool.submit(drawn, start)
        for step in range(start + 1, steps + 1):
            batch = following.result()
            if stream:
                torch.cuda.current_stream(device).wait_stream(stream)
                for tensor in [*batch[:3], *batch.condition.values()]:
                    tensor.record_stream(torch.cuda.current_stream(device))
            if step < steps:
                following = pool.submit(drawn, step)
            yield batch


def _on_device(name: str, law: Law | None, device: torch.device, integers: bool) -> Law | None:
    """Data, checked and moved to the device if it fits there; a sampler as it is."""
    if law is None or (callable(law) and not isinstance(law, Tensor)):
        return law
    if not isinstance(law, Tensor) or law.is_floating_point() or law.is_complex():
        return _moved(_validate.batch(name, law), device)
    if not integers:
        raise TypeError(f"{name} of dtype {law.dtype} needs a source=, or convert it with {name}.float()")
    if law.ndim < 2 or not law.numel():
        raise ValueError(f"{name} must have shape (batch, *dims), and be not empty, got {tuple(law.shape)}")
    return _moved(law, device)


def _condition(name: str, value, data: Law, device: torch.device) -> Tensor:
    """A condition of the network: a tensor with a row for each row of the data; integers are labels, from 0."""
    if not isinstance(data, Tensor):
        raise ValueError(f"the condition {name} needs data with a row for each of its rows, not a sampler")
    if value.ndim == 0 or len(value) != len(data):
        came = f"{len(value)} and {len(data)}" if value.ndim else f"a single number and {len(data)}"
        raise ValueError(f"the condition {name} and the data must have one length, got {came}")
    if value.is_floating_point():
        bad = int((~value.isfinite()).sum())
        if bad:
            raise ValueError(f"the condition {name} has {bad} NaN or infinite values among {value.numel()}")
        return _moved(value, device)
    if int(value.min()) < 0:
        raise ValueError(f"the condition {name} holds integers, which are labels from 0, got {int(value.min())}")
    return value.to(device, torch.int64)


def _moved(rows: Tensor, device: torch.device) -> Tensor:
    size = rows.numel() * rows.element_size()
    if device.type == "cuda" and rows.device.type == "cpu" and size > torch.cuda.mem_get_info(device)[0] / 2:
        return rows.pin_memory()  # too large for the device: its rows travel batch by batch
    return rows.to(device)
