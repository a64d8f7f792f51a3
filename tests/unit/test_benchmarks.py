"""The arithmetic of the benchmark, on a clock that only the two sides move."""

import math

import pytest

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


@pytest.mark.parametrize(("pair", "pairs"), [(0.1, 7), (2.0, 4), (60.0, 3)])
def test_slow_pairs_are_fewer_and_never_fewer_than_three(pair, pairs, monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def side():
        calls.append(now.__setitem__(0, now[0] + pair / 2))

    timing.compare(side, lambda: side(), seconds=8.0)
    assert len(calls) == 2 * (1 + pairs)


@pytest.mark.parametrize(
    ("wanted", "ratio", "missed"),
    [
        (">= 1.2", 1.19, True),
        (">= 1.2", 1.196, False),  # it is printed as 1.20
        ("<= 1.15", 1.16, True),
        ("<= 1.15", 1.15, False),
        (">= 1", math.nan, True),
        ("for comparison", 0.1, False),
        ("inside", math.nan, False),
    ],
)
def test_a_miss_is_one_of_the_ratio_as_printed(wanted, ratio, missed):
    assert timing.Row("", "", 1.0, 1.0, ratio, wanted, "").missed() == missed
