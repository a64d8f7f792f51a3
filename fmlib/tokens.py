"""Flows on tokens: draw integers from a network of logits, `sample_tokens`, and bound their log-probability.

X_t is the mixture path of `paths.TokenMix`: each position is that of X_1 with probability kappa_t = alpha_t, and else
that of the source. A network is a callable logits(x, t, **condition) -> (batch, positions, vocabulary) on tokens x,
integers (batch, positions); its softmax stands for the posteriors P(X_1^i = k given X_t = x), which `exact.TokenPath`
knows.
"""

import math
import warnings

import torch
from torch import Tensor

from fmlib import _validate, losses, sampling
from fmlib.devices import in_float64
from fmlib.schedules import CondOT, Schedule, check_ends, check_schedule


def sample_tokens(
    logits,
    x_0: Tensor,
    *,
    steps: int | Tensor | None = None,
    schedule: Schedule = CondOT(),
    mask: int | None = None,
    known: Tensor | None = None,
    corrector: float = 0.0,
    events: bool = False,
    generator: torch.Generator | None = None,
    **condition,
) -> Tensor:
    """Draw X_1 from X_0 = x_0: in a step from t to s each position is redrawn, with a probability, from its posterior.

        P(redrawn) = (kappa_s - kappa_t) / (1 - kappa_t),  then  X_s^i ~ softmax(logits(X_t, t))_i,  else X_s^i = X_t^i.

    All positions of a step are drawn at once and independently, which costs an error of first order in the step (Gat et
    al. 2024, "Discrete Flow Matching", arXiv 2407.15595, where it is h kappa' / (1 - kappa), the same to first order).
    `exact.TokenPath.step` is its kernel. Whether is decided before what: only rows with a redraw call the network, only
    redrawn positions are drawn, and no token shares its draw with "stays as it is", next to which it would be too rare
    for coarse random numbers (the fault that Zheng et al. 2024, "Masked Diffusion Models are Secretly Time-Agnostic
    Masked Models and Exploit Inaccurate Categorical Sampling", arXiv 2409.02908, found).

    logits: any callable (x, t, **condition) -> (batch, positions, vocabulary), given as many rows as have a redraw, and
    t as a 0-d tensor, or (batch,) with `events`. x_0: tokens of the source, (batch, positions); the result is like it.
    steps: equal time steps, or a floating tensor of rising times in [0, 1], (steps + 1,); not used by `events`.
    mask: the token that x_0 holds where the source is a mask. Only masked positions are redrawn, and never to the mask.
    known: like x_0, tokens that the result must have, and -1 where it is free. They are put in place at the start and
    stay. With a mask the error falls with the steps, as a network then knows that what it sees is true. With another
    source it takes them for noise, in part, and never converges: a UserWarning says so.
    corrector: w in [0, 1). After each step to s, every position becomes a token of the source with probability w, which
    leads back to the time r with kappa_r = (1 - w) kappa_s, and is redrawn as in a step from r to s: this forgets
    errors of the past, at the cost of a second call a step. (Without a mask the tokens come from x_0, at random.)
    events: True draws the masked positions one at a time, at the ordered times at which they leave the mask, in every
    row at once: exact, in at most as many calls as there are positions. It needs a mask.
    condition: keywords for the network; a tensor with a row for each row of the batch is cut like x.

    Raises TypeError or ValueError for anything else: tokens, or a mask, outside the network's vocabulary, logits of
    another shape, that are NaN, or leave a position no token (values are looked at on the CPU only).

    >>> network = lambda x, t: torch.tensor([99.0, 0.0, 0.0]).expand(*x.shape, 3)
    >>> sample_tokens(network, torch.full((1, 4), 2), steps=3, mask=2, known=torch.tensor([[-1, 1, 1, -1]]))
    tensor([[0, 1, 1, 0]])
    """
    check_ends(schedule), _validate.generator(generator)
    field = _Logits(logits, mask, condition, x_0=x_0)
    x, free = _start(x_0, mask, known)
    field.tokens["known"] = x
    if isinstance(corrector, bool) or not isinstance(corrector, int | float) or not 0 <= corrector < 1:
        raise ValueError(f"corrector must be a number in [0, 1), got {corrector!r}")
    if events and mask is None:
        raise ValueError("events=True needs a mask=: from another source a position jumps any number of times")
    if events and corrector:
        raise ValueError(f"events=True is exact, so there is nothing to correct, got corrector={corrector}")
    if steps is None and not events:
        raise ValueError("steps must be a number of steps or a tensor of times, unless events=True")
    with torch.inference_mode() if sampling.is_rowwise_network(logits) else torch.no_grad():
        if events:
            x = _by_events(field, x, free, schedule, generator)
        else:
            times = sampling.grid(steps, (0.0, 1.0), torch.zeros(1, 1, dtype=torch.float64))
            x = _by_steps(field, x, free, schedule, times, corrector, generator)
    return x.clone()  # an ordinary tensor again, and never x_0 itself


def _by_steps(field: "_Logits", x: Tensor, free: Tensor, schedule: Schedule, times: Tensor, corrector, generator):
    """Move from each time to the next one, each followed by a way back and forth if there is a corrector."""
    kappas, x_0 = schedule.alpha(times), field.tokens["x_0"]
    if not (kappas.diff() >= 0).all():
        raise ValueError(f"{schedule} falls somewhere on the way: a rate kappa' / (1 - kappa) would be negative")
    earlier = (1 - corrector) * kappas
    back = times_of(schedule, earlier) if corrector else times
    for k in range(len(times) - 1):
        x = _step(field, x, free, times[k], kappas[k], kappas[k + 1], generator)
        if corrector:
            noise = field.mask if field.mask is not None else _any_of(x_0, generator)
            x = torch.where(free & _happens(x, corrector, generator), noise, x)
            x = _step(field, x, free, back[k + 1], earlier[k + 1], kappas[k + 1], generator)
    return x


def _step(field: "_Logits", x: Tensor, free: Tensor, t: Tensor, now: Tensor, then: Tensor, generator) -> Tensor:
    """Redraw each free position with probability (then - now) / (1 - now), those of `kappa`."""
    if then == now:
        return x
    chosen = free & _happens(x, ((then - now) / (1 - now)).item(), generator)
    return field.redrawn(x, t, chosen if field.mask is None else chosen & (x == field.mask), generator)


def _by_events(field: "_Logits", x: Tensor, free: Tensor, schedule: Schedule, generator) -> Tensor:
    """Reveal the masked positions of each row in the order of their times, kappa_t ~ U[0, 1], one a call."""
    hidden = free & (x == field.mask)
    kappa = _uniform(x, x.shape, generator)
    order = torch.where(hidden, kappa, 2).argsort(1)
    latest = 1 - torch.finfo(torch.get_default_dtype()).eps  # at t = 1 nothing is masked
    times = times_of(schedule, kappa).clamp(max=latest)
    for k in range(int(hidden.sum(1).max())):
        following = order[:, k : k + 1]
        chosen = torch.zeros_like(hidden).scatter_(1, following, hidden.gather(1, following))
        x = field.redrawn(x, times.gather(1, following)[:, 0], chosen, generator)
    return x


class _Logits:
    """A network with its condition filled in, which is asked for some rows of the batch only, and checked."""

    def __init__(self, function, mask: int | None, condition: dict, **tokens: Tensor):
        if not callable(function):
            raise TypeError(f"logits must be a callable (x, t), got {type(function).__name__}")
        self.function, self.condition, self.vocabulary = function, condition, None
        self.mask = None if mask is None else _validate.count("mask", mask, 0)
        self.tokens = tokens  # what is to lie in the vocabulary, which the first call tells
        for name, x in tokens.items():
            self.batch = len(_validate.tokens(name, x))
            _holds(name, x, self.mask or 0)

    def __call__(self, x: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        """The logits of some rows of the batch, or of all."""
        condition = self.condition
        if rows is not None:
            x, t = x[rows], t[rows] if t.ndim else t
            cut = {k: v[rows] for k, v in condition.items() if isinstance(v, Tensor) and v.shape[:1] == (self.batch,)}
            condition = condition | cut
        value = _validate.logits(self.function(x, t.to(x.device, torch.get_default_dtype()), **condition), x)
        if self.vocabulary != value.shape[2]:
            self._check_vocabulary(value.shape[2])
        return value

    def _check_vocabulary(self, vocabulary: int) -> None:
        if self.vocabulary is not None:
            raise ValueError(f"logits had a vocabulary of {self.vocabulary} before, and now of {vocabulary}")
        if self.mask is not None and self.mask >= vocabulary:
            raise ValueError(f"mask must be a token of the vocabulary, in [0, {vocabulary}), got {self.mask}")
        for name, x in self.tokens.items():
            _validate.tokens(name, x, vocabulary)
            _holds(name, x, vocabulary - 1)
        self.vocabulary = vocabulary

    def redrawn(self, x: Tensor, t: Tensor, chosen: Tensor, generator) -> Tensor:
        """`x` with the chosen positions drawn anew; rows without one are not asked for."""
        rows = chosen.any(1).nonzero()[:, 0]
        if not len(rows):
            return x
        value = self(x, t) if len(rows) == len(x) else self(x, t, rows)
        asked = in_float64(value[chosen if len(rows) == len(x) else chosen[rows]])
        if self.mask is not None:
            asked[:, self.mask] = -math.inf
        return x.masked_scatter(chosen, _drawn(asked, generator).to(x.dtype))


def _holds(name: str, x: Tensor, token: int) -> None:
    """TypeError where the format of x, which the result has too, does not hold a token that may be drawn."""
    if token > torch.iinfo(x.dtype).max:
        raise TypeError(f"{name} must have a dtype that holds the token {token}, got {x.dtype}: take {name}.long()")


def _drawn(logits: Tensor, generator) -> Tensor:
    """A token for each row of the logits, (n, vocabulary), by inversion: the first whose sum of p passes u ~ U[0, 1).

    In float64 u is a multiple of 2^-53, so no token that a posterior gives is too rare to be drawn.
    """
    sums = logits.softmax(1).cumsum(1)
    total = sums[:, -1:]
    if logits.device.type == "cpu" and not (fine := total.isfinite()).all():
        bad = logits[~fine[:, 0]][0]
        came = "-inf for every token that could be drawn" if (bad == -math.inf).all() else "NaN or +inf"
        raise ValueError(f"logits must leave each position a token to draw, got {came}")
    return (sums <= total * _uniform(logits, total.shape, generator)).sum(1)


def _uniform(like: Tensor, shape, generator) -> Tensor:
    """Numbers from [0, 1), in float64 where the device has it."""
    dtype = torch.float32 if like.device.type == "mps" else torch.float64
    return torch.rand(shape, generator=generator, dtype=dtype, device=like.device)


def _happens(x: Tensor, probability: float, generator) -> Tensor:
    return _uniform(x, x.shape, generator) < probability


def _any_of(x_0: Tensor, generator) -> Tensor:
    """A draw from the source for each position: any token that x_0 holds, wherever."""
    return x_0.flatten()[torch.randint(x_0.numel(), x_0.shape, generator=generator, device=x_0.device)]


def _start(x_0: Tensor, mask: int | None, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """x_0 with what is known in its place, and which positions are free."""
    if known is None:
        return x_0, torch.ones_like(x_0, dtype=torch.bool)
    _validate.same("known", _validate.tokens("known", known), "x_0", x_0)
    if not known.dtype.is_signed:
        raise TypeError(f"known must have a dtype that holds -1, where a token is free, got {known.dtype}")
    if known.device.type == "cpu":
        if int(known.min()) < -1:
            raise ValueError(f"known must hold tokens, and -1 where there is none, got {int(known.min())}")
        if mask is not None and (known == mask).any():
            raise ValueError(f"known must be -1 where a token is to be drawn, not the mask, got {mask}")
    if mask is None:
        warnings.warn(
            "known tokens are clamped, but from a source that is no mask a network takes each for noise, at first for "
            "sure, so the law never converges to the one given them, however many steps: use a mask",
            stacklevel=3,
        )
    return torch.where(known >= 0, known, x_0), known < 0


def times_of(schedule: Schedule, kappa: Tensor) -> Tensor:
    """The times t at which alpha_t = kappa, in [0, 1], by bisection; of a rising schedule.

    kappa: a floating tensor with values in [0, 1], of any shape. TypeError or ValueError for anything else.

    >>> from fmlib.schedules import Polynomial
    >>> times_of(Polynomial(2.0), torch.tensor([0.25, 1.0]))
    tensor([0.5000, 1.0000])
    """
    check_schedule("schedule", schedule)
    if not isinstance(kappa, Tensor):
        raise TypeError(f"kappa must be a torch.Tensor, got {type(kappa).__name__}")
    _validate.time(kappa.flatten(), kappa.reshape(-1, 1), "kappa")
    low, high = torch.zeros_like(kappa), torch.ones_like(kappa)
    for _ in range(60):
        middle = (low + high) / 2
        below = schedule.alpha(middle) < kappa
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


@torch.no_grad()
def token_bound(
    logits,
    x_1: Tensor,
    *,
    source: Tensor | None = None,
    mask: int | None = None,
    schedule: Schedule = CondOT(),
    times: int = 32,
    generator: torch.Generator | None = None,
    **condition,
) -> Tensor:
    """An upper bound on -log q(x_1) in nats, for the law q of `sample_tokens` in the limit of many steps, (batch,).

    It is the expected `losses.token_rates` on the way to x_1, which is the KL divergence between two jump processes
    (Shaul et al. 2024, "Flow Matching with General Discrete Paths", arXiv 2412.03487):

        -log q(x_1) <= int_0^1 1 / (1 - kappa) E sum_i [1(x_1^i != X_t^i) (-log p_i(x_1^i) - 1) + 1 - p_i(X_t^i)] dkappa

    With a mask only masked positions count, each by -log p_i(x_1^i), and with the true posteriors the mean over x_1 is
    the entropy of the law. From a uniform source it lies above it by up to (K - 1 - log K) / K a position.

    logits: as of `sample_tokens`. x_1: tokens, (batch, positions). source: the law (vocabulary,) of one position's
    token at t = 0, or mask: the token that they all are; one of both. times: nodes of Gauss and Legendre in kappa, each
    with one X_t a row: for a mask, (positions + 1) / 2 of them leave no bias. Its mean over rows has the standard error
    of the rows. condition: as of `sample_tokens`. Raises TypeError or ValueError for anything else, as there.

    >>> fair = lambda x, t: torch.tensor([0.0, 0.0, -torch.inf]).expand(*x.shape, 3)
    >>> token_bound(fair, torch.tensor([[0, 1, 1]]).expand(9999, 3), mask=2).mean()  # 3 log 2 = 2.0794, and noise
    tensor(2.0...)
    """
    check_ends(schedule), _validate.generator(generator)
    if (source is None) == (mask is None):
        raise ValueError("give either source=, a law on the vocabulary, or mask=, a token")
    field = _Logits(logits, mask, condition, x_1=x_1)
    if source is not None and _validate.law("source", source).ndim != 1:
        raise ValueError(f"source must have shape (vocabulary,), got {tuple(source.shape)}")
    if mask is not None and x_1.device.type == "cpu" and (x_1 == mask).any():
        raise ValueError(f"x_1 must hold no mask, got {mask}")
    nodes, weights = _gauss(_validate.count("times", times))
    total = _uniform(x_1, x_1.shape[:1], generator) * 0
    for kappa, t, weight in zip(nodes, times_of(schedule, nodes), weights, strict=True):
        x_0 = mask if mask is not None else _of_source(source, x_1, generator)
        x_t = torch.where(_happens(x_1, kappa.item(), generator), x_1, x_0)
        value = in_float64(field(x_t, t))
        if source is not None and len(source) != value.shape[2]:
            raise ValueError(f"source must have shape ({value.shape[2]},) as the logits do, got {tuple(source.shape)}")
        if mask is None:
            nats = losses.token_rates(x_1, value, x_t, 1.0)
        else:
            value = value.index_fill(2, torch.tensor(mask, device=value.device), -math.inf)
            nats = -value.log_softmax(2).gather(2, x_1.long()[..., None])[..., 0]
            nats = torch.where(x_t == mask, nats, 0).sum(1)
        total += (weight / (1 - kappa)).item() * nats
    if total.device.type == "cpu" and total.isnan().any():
        raise ValueError("logits must leave each position a token, got NaN, +inf, or -inf for all of them")
    return total.to(torch.get_default_dtype())


def _of_source(source: Tensor, x: Tensor, generator) -> Tensor:
    """Tokens like x from the law of one position's token."""
    return torch.multinomial(source, x.numel(), replacement=True, generator=generator).reshape(x.shape).to(x.dtype)


def _gauss(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss and Legendre on [0, 1], exact for polynomials of degree 2 n - 1, in float64."""
    from numpy.polynomial.legendre import leggauss

    nodes, weights = map(torch.from_numpy, leggauss(n))
    return (1 + nodes) / 2, weights / 2
