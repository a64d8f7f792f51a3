"""Exercises on a training step: the learner's function must leave a small network as the reference leaves it."""

import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fmlib.exercises import _wording
from fmlib.exercises._blank import is_tensor
from fmlib.exercises._questions import WRONG, Code, Verdict

TOLERANCE = 1e-4  # of a step's length, and of the loss
SEEDS = (1, 2)


@dataclass
class Trial:
    """What two steps in a row did, one entry for each in every list.

    moved: the change of all weights, or, without an optimizer, their gradient after the step. arrived: has a gradient
    reached any weight? calls: the tensors that the network was given, by name, for each time that it was called.
    random: the state of the global random numbers after the step.
    """

    moved: list[Tensor] = field(default_factory=list)
    arrived: list[bool] = field(default_factory=list)
    losses: list = field(default_factory=list)
    calls: list[list[dict]] = field(default_factory=list)
    random: list[Tensor] = field(default_factory=list)


@dataclass(kw_only=True, repr=False)
class TrainingStep(Code):
    """A function that trains a network by one step, in place, or that leaves it with a gradient.

    make(generator): the arguments, one of them a network, and perhaps its optimizer; of equal generators equal ones.
    Weights in float64 are best. truth(*arguments): the step. It returns the loss, or None if nothing is to be returned.
    also: further right steps, which draw their random numbers in another order.

    Two steps in a row are compared, on two batches: with an optimizer among the arguments the change of the weights,
    else the gradients; and the loss that is returned. A source in `wrongs` is a whole step too, with its return.
    """

    make: Callable[[torch.Generator], tuple]
    truth: Callable
    also: tuple[Callable, ...] = ()

    def _prepare(self) -> None:
        self._trial(self.truth, SEEDS[0])  # torch loads what its optimizers need when the first one is made

    def _examine(self, answer: Callable) -> None:
        trials = [self._trial(answer, seed) for seed in SEEDS]
        if torch.equal(trials[0].random[0], trials[1].random[0]):  # they began with different ones
            raise Verdict(
                WRONG,
                "Your step sets the seed of the global random numbers, as torch.manual_seed does. Then every step "
                "draws the same noise, and whatever runs afterwards is changed too. Leave that line out.",
            )
        for seed, trial in zip(SEEDS, trials, strict=True):
            rights = [self._trial(step, seed) for step in (self.truth, *self.also)]
            if any(_same(trial, right) for right in rights):
                continue
            known = (wrong.message for wrong in self.wrongs if _same(trial, self._trial(wrong.answer, seed)))
            raise Verdict(WRONG, next(known, "") or self._diagnosis(trial, rights[0], seed))

    def _trial(self, step: Callable, seed: int) -> Trial:
        """Two steps from the network of this seed. Raises Verdict if the step raises or returns no loss."""
        arguments, trial = self._made(seed), Trial()
        network = next(a for a in arguments if isinstance(a, nn.Module))
        optimized = any(isinstance(a, torch.optim.Optimizer) for a in arguments)
        calls = _listening(network)
        for k in range(2):
            kept = (nn.Module, torch.optim.Optimizer)
            new = self._made(seed + 100 * k)  # the second step goes on with the same network, on another batch
            now = tuple(old if isinstance(old, kept) else batch for old, batch in zip(arguments, new, strict=True))
            before = _flat(network, lambda p: p.detach())
            torch.manual_seed(10 * seed + k)
            trial.losses.append(self._loss(self._run(step, now)))
            gradient = _flat(network, lambda p: torch.zeros_like(p) if p.grad is None else p.grad)
            trial.moved.append(_flat(network, lambda p: p.detach()) - before if optimized else gradient)
            trial.arrived.append(any(p.grad is not None for p in network.parameters()))
            trial.calls.append(list(calls))
            trial.random.append(torch.get_rng_state())
            calls.clear()
        return trial

    def _made(self, seed: int) -> tuple:
        return tuple(self.make(torch.Generator().manual_seed(seed)))

    def _loss(self, value) -> float | None:
        if value is None:
            return None
        if not isinstance(value, (int, float)) and not is_tensor(value):
            raise Verdict(WRONG, f"Your step returns {_wording.described(value)}. It must return the loss, a number.")
        if is_tensor(value) and value.numel() != 1:
            raise Verdict(
                WRONG,
                f"Your step returns a tensor of shape {tuple(value.shape)}. A loss is one number: take the mean over "
                "the batch.",
            )
        return float(value.detach() if is_tensor(value) else value)

    def _diagnosis(self, trial: Trial, right: Trial, seed: int) -> str:
        """What is wrong with a step that does not leave what it should."""
        k = next(k for k in range(2) if not _same(trial, right, k))  # the first step that goes wrong
        return (
            self._of_the_return(trial, right, k)
            or self._of_the_movement(trial, right, k)
            or self._of_the_calls(trial.calls[k], right.calls[k])
            or self._of_the_draws(trial, right, k, seed)
            or self._of_the_gradient(trial, right, k)
        )

    def _of_the_return(self, trial: Trial, right: Trial, k: int) -> str:
        if trial.losses[k] is None and right.losses[k] is not None:
            return "Your step returns None. Return the loss, so that the loop can print it. Is a `return` missing?"
        if not torch.isfinite(trial.moved[k]).all():
            return "After your step the network holds NaN or infinity. Is there a division by zero, or a root of 0?"
        if k == 1 and _close(trial.moved[0], right.moved[0]):
            return (
                "The first step is right, and the second is not: it begins with the gradient that the first has left, "
                "and backward() adds to it. Is zero_grad() missing, or does it stand after backward()?"
            )
        return ""

    def _of_the_movement(self, trial: Trial, right: Trial, k: int) -> str:
        if not trial.calls[k] and right.calls[k]:
            return (
                "Your step never calls the network that it is given. Does it use one that is defined elsewhere in the "
                "notebook?"
            )
        if not trial.moved[k].any() and right.moved[k].any():
            if not trial.arrived[k]:
                return (
                    "No gradient has reached the network. Is loss.backward() missing, or does zero_grad() stand after "
                    "it? Or is the gradient one of another network?"
                )
            return (
                "The gradient is there, but no weight has moved. Is optimizer.step() missing, or does it stand before "
                "backward()?"
            )
        if (trial.moved[k] == 0).sum() > (right.moved[k] == 0).sum():
            return "Only a part of the weights has moved. Is a part of the network cut off by detach() or no_grad()?"
        return ""

    def _of_the_calls(self, calls: list[dict], rights: list[dict]) -> str:
        if len(calls) != len(rights):
            return f"Your step calls the network {_times(len(calls))}; {_times(len(rights))} is expected."
        for call, right in zip(calls, rights, strict=True):
            for name, expected in right.items():
                got = call.get(name, expected)
                if got.shape != expected.shape:
                    return (
                        f"Your step gives the network an input {name} of shape {tuple(got.shape)}, and shape "
                        f"{tuple(expected.shape)} is expected. A t of shape (batch,) is made a column, which goes with "
                        "(batch, d), by t[:, None]."
                    )
        return ""

    def _of_the_draws(self, trial: Trial, right: Trial, k: int, seed: int) -> str:
        torch.manual_seed(10 * seed + k)
        start = torch.get_rng_state()
        if torch.equal(right.random[k], start) and not torch.equal(trial.random[k], start):
            return "Your step draws random numbers, although all that it needs is given to it as arguments."
        for call, expected in zip(trial.calls[k], right.calls[k], strict=True):
            for name, value in expected.items():
                got = call.get(name, value)
                if not _close(got, value):
                    shown = [_wording.numbers(v, 0, len(v) if v.ndim else 0) for v in (got, value)]
                    return (
                        f"Your step calls the network at another {name}: in the first row it is {shown[0]}, and "
                        f"{shown[1]} is expected."
                    )
        return ""

    def _of_the_gradient(self, trial: Trial, right: Trial, k: int) -> str:
        moved, expected = trial.moved[k], right.moved[k]
        loss, due = trial.losses[k], right.losses[k]
        losses = f"your loss is {loss:.4g}, expected is {due:.4g}" if due is not None else ""
        if _close(moved, expected):
            return f"The network is trained rightly, but the wrong number is returned: {losses}."
        factor = float(moved @ expected / (expected @ expected))
        if factor and _close(moved, factor * expected):
            if factor < 0:
                return "Your step goes exactly the wrong way: it makes the loss larger. Look at its sign."
            return (
                f"Your step goes the right way, but is {factor:.3g} times as long as it should be. Is a mean taken "
                "where a sum is meant, or a sum where a mean is? Or has the learning rate changed?"
            )
        if losses and _near(loss, due):
            return "The loss is right, but its gradient is not. Is a part of it cut off by detach() or no_grad()?"
        told = f": {losses}" if losses else ""
        return (
            f"After your step the network is not what it should be{told}. Look at the target of the loss. "
            f"{self.name}.hint() helps."
        )

    def _explain(self, error: BaseException, answer: Callable, arguments: tuple) -> str:
        text = super()._explain(error, answer, arguments)
        advice = {
            "does not require grad": "The loss is cut off from the network. Is there a detach(), an item(), a "
            "torch.tensor(...) or a torch.no_grad() between the two?",
            "implicitly created only for scalar": "backward() starts from one number: take the mean over the batch.",
            "through the graph a second time": "Compute the loss anew in each step, and call backward() on it once.",
        }
        return text + "".join(f"\n{sentence}" for part, sentence in advice.items() if part in str(error))


class SmallNetwork(nn.Module):
    """A velocity(x, t), x of shape (batch, d) and t of shape (batch,): one hidden layer, in float64."""

    def __init__(self, d: int, generator: torch.Generator):
        super().__init__()
        options = {"generator": generator, "dtype": torch.float64}
        self.hidden = nn.Parameter(0.5 * torch.randn(d + 1, 8, **options))
        self.out = nn.Parameter(0.5 * torch.randn(8, d, **options))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(torch.cat([x, t[:, None]], 1) @ self.hidden) @ self.out


def _listening(network: nn.Module) -> list[dict]:
    """A list to which each call of the network adds its tensors, by the names of the network's parameters."""
    calls, signature = [], inspect.signature(network.forward)

    def hear(module, arguments, options):
        with suppress(TypeError):  # the call itself will raise it
            bound = signature.bind(*arguments, **options).arguments
            calls.append({name: value.detach().clone() for name, value in bound.items() if is_tensor(value)})

    network.register_forward_pre_hook(hear, with_kwargs=True)
    return calls


def _flat(network: nn.Module, value: Callable[[nn.Parameter], Tensor]) -> Tensor:
    return torch.cat([value(p).detach().double().flatten() for p in network.parameters()])


def _same(a: Trial, b: Trial, k: int | None = None) -> bool:
    """Did both leave the same, in step k or in both, and return the same loss? What is not to be returned may be."""
    steps = range(2) if k is None else [k]
    return all(
        _close(a.moved[k], b.moved[k])
        and (b.losses[k] is None or (a.losses[k] is not None and _near(a.losses[k], b.losses[k])))
        for k in steps
    )


def _near(a: float, b: float) -> bool:
    return _close(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))


def _close(a: Tensor, b: Tensor) -> bool:
    size = float(b.double().abs().max()) if b.numel() else 0.0
    return a.shape == b.shape and bool(((a - b).double().abs() <= TOLERANCE * size).all())


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
