"""What a step of training sees: rows drawn by seed and step, coupled, ahead of time where coupling takes time."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from fmlib import _validate, devices
from fmlib.couplings import Independent, Paired

Law = Tensor | Callable[..., Tensor]


class Batch(NamedTuple):
    """Coupled rows of source and target, (share, *dims) each, their times (share,), and the network's condition."""

    x_0: Tensor
    x_1: Tensor
    t: Tensor
    condition: dict[str, Tensor]

    def parts(self, count: int) -> list["Batch"]:
        """The batch in `count` equal parts."""
        labels = self.condition["label"].chunk(count) if self.condition else [None] * count
        rows = zip(self.x_0.chunk(count), self.x_1.chunk(count), self.t.chunk(count), labels, strict=True)
        return [Batch(x_0, x_1, t, {} if y is None else {"label": y}) for x_0, x_1, t, y in rows]


def drawing(
    target: Law,
    source: Law | None,
    labels: Tensor | None,
    coupling,
    batch_size: int,
    seed: int,
    place: torch.device,
    world: devices.Processes,
) -> Callable[[int], Batch]:
    """Check the data, put it on the device if it fits, and return the function step -> this process's `Batch`.

    A batch depends on the seed and the step alone, so training can go on anywhere; every process draws the whole of it
    and takes its own share, so together they see what one process would. Arguments and errors as in `training.fit`.
    """
    target = _on_device("target", target, place)
    source = _on_device("source", source, place)
    if labels is not None:
        if not isinstance(target, Tensor):
            raise ValueError("labels need target data, not a sampler")
        if len(_validate.labels("labels", labels, 2**31)) != len(target):
            raise ValueError(f"labels and target must have one length, got {len(labels)} and {len(target)}")
        labels = labels.to(place, torch.int64)
    paired = isinstance(coupling, Paired)
    if paired and not (isinstance(source, Tensor) and isinstance(target, Tensor) and len(source) == len(target)):
        raise ValueError("Paired() needs source and target data of one length")
    share = batch_size // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)  # of the whole batch, which every process draws

    def rows(law, picked, generator):
        if isinstance(law, Tensor):
            return law[picked.to(law.device)].to(place, non_blocking=True)
        drawn = law(batch_size, generator=generator)
        if len(drawn) != batch_size:
            raise ValueError(f"a sampler must return as many rows as it is asked for, {batch_size}, got {len(drawn)}")
        return drawn.to(place)[mine]

    def pick(law, generator):
        n = len(law) if isinstance(law, Tensor) else 1
        return torch.randint(n, (batch_size,), generator=generator, device=place)[mine]

    @torch.no_grad()  # data that requires gradients, or a sampler with weights, is not what is trained
    def draw(step: int) -> Batch:
        generator = torch.Generator(place).manual_seed(_mixed(seed, step))
        picked = pick(target, generator)
        x_1 = rows(target, picked, generator)
        if source is None:
            shape = (batch_size, *x_1.shape[1:])
            x_0 = torch.randn(shape, generator=generator, device=place, dtype=x_1.dtype)[mine]
        else:
            x_0 = rows(source, picked if paired else pick(source, generator), generator)
        t = torch.rand(batch_size, generator=generator, device=place, dtype=x_1.dtype)[mine]
        if not isinstance(coupling, Independent):  # which is what the rows are already
            x_0, x_1 = coupling(x_0, x_1, generator=generator)
        return Batch(x_0, x_1, t, {} if labels is None else {"label": labels[picked]})

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


def ahead(draw: Callable[[int], Batch], start: int, steps: int, coupling, place: torch.device) -> Iterator[Batch]:
    """draw(start), ..., draw(steps - 1). A coupling that takes time works in a thread, one batch ahead.

    That takes a core that the network leaves free. Where its steps keep every core busy, a thread beside them costs
    more than it hides (measured: every product waits for the core that the thread is using), so there is none.
    """
    busy = place.type == "cpu" and torch.get_num_threads() >= (os.cpu_count() or 1)
    if busy or isinstance(coupling, Independent | Paired) or start == steps:
        yield from map(draw, range(start, steps))
        return
    stream = torch.cuda.Stream(place) if place.type == "cuda" else None

    def drawn(step):
        with torch.cuda.stream(stream) if stream else nullcontext():  # beside the network's own work
            return draw(step)

    if stream:
        stream.wait_stream(torch.cuda.current_stream(place))  # the data may still be on its way
    with ThreadPoolExecutor(1, "coupling") as pool:
        following = pool.submit(drawn, start)
        for step in range(start + 1, steps + 1):
            batch = following.result()
            if stream:
                torch.cuda.current_stream(place).wait_stream(stream)
                for tensor in [*batch[:3], *batch.condition.values()]:
                    tensor.record_stream(torch.cuda.current_stream(place))
            if step < steps:
                following = pool.submit(drawn, step)
            yield batch


def _on_device(name: str, law: Law | None, place: torch.device) -> Law | None:
    if law is None or (callable(law) and not isinstance(law, Tensor)):
        return law
    _validate.batch(name, law)
    size = law.numel() * law.element_size()
    if place.type == "cuda" and law.device.type == "cpu" and size > torch.cuda.mem_get_info(place)[0] / 2:
        return law.pin_memory()  # too large for the device: its rows travel batch by batch
    return law.to(place)
