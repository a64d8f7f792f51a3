"""Training: one loop that minimises a loss of a network, by default the one that makes it the velocity of a path."""

import copy
import math
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm

from fmlib import _validate, batches, checkpoints, devices
from fmlib.batches import Batch, Law
from fmlib.objectives import LabelDropout, MeanFlow, Shortcut, TokenCrossEntropy, TokenRates, VelocityMatching
from fmlib.runs import Checkpoints, Options, Run, described

OURS = (VelocityMatching, MeanFlow, Shortcut, TokenCrossEntropy, TokenRates)
BETWEEN_CHECKS = 100  # steps between two looks at the loss: each look waits for the device

Loss = Callable[[nn.Module, Batch], Tensor]


class Fit(NamedTuple):
    """The averaged network, in evaluation mode, and the loss of every step, (steps,), on the CPU."""

    model: nn.Module
    losses: Tensor


def fit(
    model: nn.Module,
    data: Law,
    *,
    loss: Loss = VelocityMatching(),
    source: Law | None = None,
    coupling=None,
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
    checkpoint: Checkpoints | str | Path | None = None,
    **condition: Tensor,
) -> Fit:
    """Minimise E loss(model, batch) over the weights of `model`, with Adam.

    `model` itself is trained in place; the returned copy has exponentially averaged weights, which do not require
    gradients (`requires_grad_()` lets it be trained on).

    data: of the target, (N, *dims), or a sampler (n, generator=) -> (n, *dims) that draws on the CPU. source: likewise;
    default N(0, I).
    Integers (tokens) are data where a source is given. loss: a function (network, batch) -> a 0-d tensor, where batch
    has x_0, x_1, t ~ U[0, 1], condition, and a generator for what the loss draws itself; the default regresses on the
    velocity of a path, and `VelocityMatching(AffinePath(Cosine()))` on another's.
    condition: keywords that the loss passes to the network, as in `sample`: tensors with a row for each row of the
    data, such as label=. Integers are labels, from 0.
    coupling: (x_0, x_1, generator=, **condition) -> (x_0, x_1) pairs each batch; None draws both sides independently;
    one with `paired = True` gets the same rows of source and target. It works ahead, in a thread, where a core is free.
    learning_rate: of Adam, rising linearly over the first `warmup` steps and decaying to zero along a half cosine.
    clip: largest norm of the gradient. accumulate: parts in which a batch passes the network, to save memory.
    ema: decay of the weight average in [0, 1), reached gradually; with 0 there is none. precision: of the network's
    products, 'float32', 'bf16' or 'auto' (`devices.precision_of`). compile: let torch.compile rewrite the network.
    seed: of every draw made here; the draws of a step depend on the seed and the step alone. The network's initial
    weights are the caller's. on_step: called with the steps done and the averaged network.

    checkpoint: a folder, or `Checkpoints(folder, every=, keep=, resume=, about=)`. With `resume`, training goes on from
    the newest one there, if any, and ends with the weights that it would have had without the interruption, bit for bit
    on a CPU; the global generators of PyTorch, Python and NumPy are put back to their states there. A finished run goes
    on to more `steps`, its learning rate along their longer decay. Without `resume`, a finished run in the folder is
    replaced, and an unfinished one is an error. Under torchrun every process takes its share of each batch and the
    first one writes the checkpoints; `coupling` pairs each share on its own.

    Raises TypeError or ValueError for bad data or options, for a checkpoint of other options (naming them), and for a
    folder that a live run holds; FloatingPointError if the loss is not finite; OSError if the disk is full. In all of
    these cases the last checkpoint stays whole.

    >>> from fmlib import datasets, models
    >>> fit(models.MLP(dim=2), datasets.moons, steps=3, device="cpu").losses.shape
    torch.Size([3])
    """
    _check_condition(condition)
    device, world = devices.device_of(device), devices.processes()
    disk = Checkpoints(checkpoint) if checkpoint is not None and not isinstance(checkpoint, Checkpoints) else checkpoint
    options = Options(steps, batch_size, learning_rate, warmup, clip, accumulate, ema, precision, seed)
    options = options.settled(device, world, disk)
    steps, batch_size, accumulate, seed = options.steps, options.batch_size, options.accumulate, options.seed
    dtype = devices.precision_of(options.precision, device)
    _check_model(model, data, loss, disk)
    draw = batches.drawing(data, source, condition, coupling, batch_size, seed, device, world)
    _check_labels(model, loss, condition)
    things = {"loss": loss, "coupling": coupling, "network": model, "data": data, "source": source} | condition
    identity = vars(options) | {name: described(thing, disk is not None) for name, thing in things.items()}
    identity["frozen"] = [name for name, p in model.named_parameters() if not p.requires_grad] or None

    model = model.to(device).train()
    step = _Step(torch.compile(model) if compile else model, loss, dtype)
    if world.size > 1:  # gives all processes the weights of the first
        step = nn.parallel.DistributedDataParallel(step, [device] if device.type == "cuda" else None)
    averaged = _copied(model)
    weights = list(zip(averaged.parameters(), model.parameters(), strict=True))  # found once, not at every step
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
    losses = torch.zeros(steps, device=device)
    run = Run(model, averaged, optimizer, losses, identity, disk, disk is not None and world.rank == 0)
    with run.begun() as start, _bar(start, steps, batch_size, progress and world.rank == 0) as bar:
        checked, first = start, not start
        for done, batch in enumerate(batches.ahead(draw, start, steps, coupling, device), start + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _decay(done - 1, steps, warmup)
            optimizer.zero_grad()
            parts = [batch] if accumulate == 1 else batch.parts(accumulate)
            for part in parts:
                with step.no_sync() if world.size > 1 and part is not parts[-1] else nullcontext():
                    value = step(part) if accumulate == 1 else step(part) / accumulate
                    value.backward()
                losses[done - 1].add_(value.detach())
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            due = run.due(done)
            seen = due or done == steps or on_step is not None
            if ema or seen:  # a mere copy is made where it is looked at
                _average(weights, min(ema, done / (9 + done)))
            if seen:
                _copy_buffers(averaged, model)
            bar.update()
            if due or done % BETWEEN_CHECKS == 0 or done == steps:
                _stop_unless_finite(losses[checked:done], checked, model, optimizer, world)
                checked = done
                bar.set_postfix(loss=f"{losses[max(0, done - BETWEEN_CHECKS) : done].mean():.3f}", refresh=False)
            if on_step is not None:
                on_step(done, averaged)  # before the checkpoint, which then knows what it drew
            if due:
                run.save(done, first)
                first = False
    return Fit(averaged, losses.cpu())


class _Step(nn.Module):
    """Network and loss as one module. DistributedDataParallel wraps this one, as torch.func.jvp does not pass it."""

    def __init__(self, network: nn.Module, loss: Loss, dtype: torch.dtype | None):
        super().__init__()
        self.network, self.loss = _InFormat(network, dtype) if dtype else network, loss

    def forward(self, batch: Batch) -> Tensor:
        try:
            value = self.loss(self.network, batch)
        except RuntimeError as error:  # NotImplementedError, too
            if not any(frame.name == "jvp" for frame in traceback.extract_tb(error.__traceback__)):
                raise
            reason = str(error).split("\n")[0][:200]
            raise ValueError(f"loss uses torch.func.jvp, which this network did not pass: {reason}") from error
        if not isinstance(value, Tensor):
            raise TypeError(f"loss must return a tensor of one number, got {value!r}"[:200])
        if value.shape != ():
            raise ValueError(f"loss must return one number, got a tensor of shape {tuple(value.shape)}: take its mean")
        if not value.requires_grad:
            raise ValueError("loss has no gradient: does it detach what the network returns, or call it in no_grad?")
        return value


class _InFormat(nn.Module):
    """A network whose matrix products have another format; its results come back in float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor, *arguments, **condition):
        with torch.autocast(x.device.type, self.dtype):
            value = self.network(x, *arguments, **condition)
        return value.float() if isinstance(value, Tensor) and value.dtype == self.dtype else value


def _check_condition(condition: dict) -> None:
    for name, value in condition.items():
        if not isinstance(value, Tensor):
            options = ", ".join(option for option in fit.__kwdefaults__)
            raise TypeError(
                f"fit has no option {name}, and a condition of the network must be a tensor, "
                f"got {name}={value!r}; options: {options}"
            )


def _check_labels(model: nn.Module, loss: Loss, condition: dict) -> None:
    """ValueError for labels that the network does not know; a loss that is not ours may tell it what it likes."""
    inner = loss.loss if isinstance(loss, LabelDropout) else loss
    if isinstance(inner, OURS):
        _validate.known(model, condition)
        if inner is not loss:
            _validate.null_label(model, loss.null)


def _check_model(model: nn.Module, data: Law, loss: Loss, disk: Checkpoints | None) -> None:
    """Raise TypeError or ValueError for what cannot be trained, averaged or saved, before a step is lost to it."""
    _validate.function("loss", loss, "(network, batch)")
    for name, p in model.named_parameters():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise ValueError(f"model's {name} has no shape yet: call the network once before it is trained")
        if p.requires_grad and p.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"model's {name} must be float32 or float64 to be trained, got {p.dtype}: "
                "small steps vanish in it; precision='bf16' is for the products alone"
            )
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "no parameter of model requires gradients, so there is nothing to train: model.requires_grad_()"
        )
    if disk is not None:
        checkpoints.check_savable(model)
    if isinstance(data, Tensor) and data.is_floating_point() and dtypes and data.dtype not in dtypes:
        raise TypeError(f"data has dtype {data.dtype} and the model {dtypes.pop()}: convert one of them")


def _copied(model: nn.Module) -> nn.Module:
    """A copy for the averaged weights."""
    try:
        return copy.deepcopy(model).eval().requires_grad_(False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"model cannot be copied for its average, as with torch.nn.utils.weight_norm (use "
            f"torch.nn.utils.parametrizations.weight_norm): {reason}"
        ) from None


def _decay(step: int, steps: int, warmup: int) -> float:
    """What the learning rate is multiplied with: a linear rise, then a half cosine to zero."""
    return min(1.0, (step + 1) / (warmup + 1)) * (1 + math.cos(math.pi * step / steps)) / 2


@torch.no_grad()
def _average(weights: list[tuple[Tensor, Tensor]], decay: float) -> None:
    """Move each average towards its weight. Those that are frozen never move, and may be integers."""
    mine, theirs = zip(*(pair for pair in weights if pair[1].requires_grad), strict=True)
    torch._foreach_lerp_(mine, theirs, 1 - decay)


def _copy_buffers(averaged: nn.Module, model: nn.Module) -> None:
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
