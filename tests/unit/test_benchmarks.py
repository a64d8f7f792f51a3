"""The arithmetic of the benchmark, on a clock that only the two sides move."""

import math

from benchmarks import timing


def test_ratio_is_the_median_over_pairs_and_the_first_pair_does_not_count(monkeypatch):
    now, seconds = [0.0], {"ours": iter([99, 1, 2, 4]), "theirs": iter([1, 3, 2, 20])}
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    order = []

    def side(name):
        def run():
            order.append(name)
            now[0] += next(seconds[name])

        return run

    ours, theirs, ratio = timing.compare(side("ours"), side("theirs"), repeats=3)
    assert (ours, theirs, ratio) == (2, 3, 3)  # ratios 3, 1, 5
    assert order[:4] == ["theirs", "ours", "ours", "theirs"]  # in turn, each first every other time
    assert not math.isnan(ratio)
