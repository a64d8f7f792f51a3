"""The affine probability path X_t = alpha_t X_1 + sigma_t X_0 and its conditional velocity."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from fmlib import _validate
from fmlib.schedules import CondOT, Schedule, check_ends


class PathSample(NamedTuple):
    """One training batch: the point on the path, the regression target there, and what they were made from."""

    x_t: Tensor
    velocity: Tensor
    x_0: Tensor
    x_1: Tensor
    t: Tensor


@dataclass(frozen=True)
class AffinePath:
    """X_t = alpha_t X_1 + sigma_t X_0 (Lipman et al. 2024, equation 4.56).

    Raises ValueError for a schedule whose ends do not meet alpha_0 = sigma_1 = 0, alpha_1 = sigma_0 = 1.
    """

    schedule: Schedule = CondOT()

    def __post_init__(self):
        check_ends(self.schedule)

    def sample(self, x_0: Tensor, x_1: Tensor, t: float | Tensor) -> PathSample:
        """Return x_t = alpha_t x_1 + sigma_t x_0 and its velocity d/dt x_t = alpha'_t x_1 + sigma'_t x_0.

        x_0, x_1: (batch, *dims), one floating dtype and device, finite. t: a number, () or (batch,), in [0, 1].
        Raises ValueError or TypeError naming the argument otherwise.

        >>> import torch
        >>> x_0, x_1 = torch.zeros(2, 3), torch.ones(2, 3)
        >>> AffinePath().sample(x_0, x_1, 0.25).x_t[0]
        tensor([0.2500, 0.2500, 0.2500])
        """
        _validate.same("x_0", _validate.batch("x_0", x_0), "x_1", _validate.batch("x_1", x_1))
        time = _validate.time(t, x_0)
        schedule = self.schedule
        x_t = schedule.alpha(time) * x_1 + schedule.sigma(time) * x_0
        velocity = schedule.d_alpha(time) * x_1 + schedule.d_sigma(time) * x_0
        return PathSample(x_t, velocity, x_0, x_1, time.reshape(time.shape[:1]))

    def flow(self, x_0: Tensor, x_1: Tensor, t: float | Tensor) -> Tensor:
        """The conditional flow psi_t(x_0 given x_1) = alpha_t x_1 + sigma_t x_0. Shapes as in `sample`."""
        return self.sample(x_0, x_1, t).x_t

    def velocity(self, x: Tensor, x_1: Tensor, t: float | Tensor) -> Tensor:
        """The conditional velocity at any point x, u_t(x given x_1) = alpha'_t x_1 + sigma'_t (x - alpha_t x_1) / sigma_t.

        (Lipman et al. 2024, equation 4.58 solved for X_0.) Shapes as in `sample`. It has no limit at t = 1, where
        every trajectory has arrived at x_1: times with sigma_t = 0 are a ValueError.
        """
        _validate.same("x", _validate.batch("x", x), "x_1", _validate.batch("x_1", x_1))
        time = _validate.time(t, x)
        schedule = self.schedule
        sigma = schedule.sigma(time)
        if sigma.device.type == "cpu" and (sigma == 0).any():
            raise ValueError("t must be less than 1: u_t(x given x_1) has no limit at t = 1")
        x_0 = (x - schedule.alpha(time) * x_1) / sigma
        return schedule.d_alpha(time) * x_1 + schedule.d_sigma(time) * x_0
