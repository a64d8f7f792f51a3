"""Paired timing: both sides in one process, in turn, so that whatever else the machine does meets both alike."""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch


class Row(NamedTuple):
    """One line of the table: seconds of ours and of the other side, their median ratio, and what both computed.

    why: what a profile says of the time, for the list below the table, if the ratio is not the wanted one.
    """

    workload: str
    against: str
    ours: float
    theirs: float
    ratio: float
    wanted: str
    quality: str
    why: str = ""

    def missed(self) -> bool:
        """Whether the ratio, as it is printed, is not the one that is wanted; not all rows want one."""
        sign, _, bound = self.wanted.partition(" ")
        ratio = round(self.ratio, 2)
        return (sign == ">=" and not ratio >= float(bound)) or (sign == "<=" and not ratio <= float(bound))


def compare(ours: Callable, theirs: Callable, repeats: int = 7, seconds: float = 8.0) -> tuple[float, float, float]:
    """Median seconds of each, and the median over the pairs of theirs / ours, after one unmeasured run of both.

    seconds: what the pairs may take, judged by the unmeasured one; but three are run in any case.
    """
    pairs, wanted = [], repeats + 1
    while len(pairs) < wanted:
        order = (ours, theirs) if len(pairs) % 2 else (theirs, ours)
        times = {side: time_of(side) for side in order}
        pairs.append((times[ours], times[theirs]))
        if len(pairs) == 1:
            wanted = 1 + min(repeats, max(3, int(seconds / sum(pairs[0]))))
    pairs = pairs[1:]
    return median(a for a, _ in pairs), median(b for _, b in pairs), median(b / a for a, b in pairs)


def time_of(run: Callable) -> float:
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
