"""Paired timing: both sides in one process, in turn, so that whatever else the machine does meets both alike."""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch


class Row(NamedTuple):
    """One line of the table: seconds of ours and of the other side, their median ratio, and what both computed."""

    workload: str
    against: str
    ours: float
    theirs: float
    ratio: float
    wanted: str
    quality: str


def compare(ours: Callable, theirs: Callable, repeats: int = 7) -> tuple[float, float, float]:
    """Median seconds of each, and the median over the pairs of theirs / ours, after one unmeasured run of both."""
    pairs = []
    for i in range(repeats + 1):
        order = (ours, theirs) if i % 2 else (theirs, ours)
        seconds = {side: _seconds(side) for side in order}
        pairs.append((seconds[ours], seconds[theirs]))
    pairs = pairs[1:]
    return median(a for a, _ in pairs), median(b for _, b in pairs), median(b / a for a, b in pairs)


def _seconds(run: Callable) -> float:
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
