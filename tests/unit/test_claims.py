import math

import numpy as np
import pytest
import torch

from fmlib import claims
from fmlib.claims import ClaimError, claim

NAN, INF = math.nan, math.inf


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No claim has been made yet."""
    monkeypatch.setattr(claims, "_made", [])


HOLDS = {
    "equal": (4, {"expected": 4, "within": 0}),
    "edge of within": (4.5, {"expected": 4, "within": 0.5}),
    "four errors above": (5.0, {"expected": 1, "standard_error": 1}),
    "four errors below": (-3.0, {"expected": 1, "standard_error": 1}),
    "at most, edge": (2, {"at_most": 2}),
    "at least, edge": (2, {"at_least": 2}),
    "all below": ([1.0, -INF], {"at_most": 2}),
    "differs by more than four errors": (5.01, {"differs_from": 1, "standard_error": 1}),
    "differs": (2, {"differs_from": 1, "within": 0.5}),
    "every entry": ([1.0, 2.0], {"expected": [1.1, 1.9], "within": 0.11}),
    "an error for each entry": ([1.0, 20.0], {"expected": 0, "standard_error": [0.25, 5]}),
    "a zero error": (3, {"expected": 3, "standard_error": 0}),
}
FAILS = {
    "unequal": (4, {"expected": 5, "within": 0}),
    "outside within": (4.5001, {"expected": 4, "within": 0.5}),
    "more than four errors above": (5.001, {"expected": 1, "standard_error": 1}),
    "more than four errors below": (-3.001, {"expected": 1, "standard_error": 1}),
    "too much": (2.001, {"at_most": 2}),
    "too little": (1.999, {"at_least": 2}),
    "one too much": ([1.0, 3.0], {"at_most": 2}),
    "one too little": ([1.0, 3.0], {"at_least": 2}),
    "differs by four errors only": (5.0, {"differs_from": 1, "standard_error": 1}),
    "does not differ": (1.4, {"differs_from": 1, "within": 0.5}),
    "one does not differ": ([9.0, 1.0], {"differs_from": 1, "within": 0.5}),
    "one entry": ([1.0, 2.0], {"expected": [1.0, 3.0], "within": 0.5}),
    "one entry with a small error": ([1.0, 20.0], {"expected": 0, "standard_error": [0.2, 5]}),
    "NaN": (NAN, {"expected": NAN, "within": 1}),
    "NaN expected": (1, {"expected": NAN, "within": 1}),
    "NaN error": (1, {"expected": 1, "standard_error": NAN}),
    "NaN tolerance": (1, {"expected": 1, "within": NAN}),
    "NaN at most": (NAN, {"at_most": 2}),
    "NaN at least": (NAN, {"at_least": 2}),
    "NaN bound": (1, {"at_most": NAN}),
    "NaN differs": (NAN, {"differs_from": 1, "within": 0.5}),
    "NaN among numbers": ([1.0, NAN], {"expected": 1, "within": 0.5}),
    "NaN among bounded": ([1.0, NAN], {"at_most": 2}),
    "both infinite": (INF, {"expected": INF, "within": 1}),
}


@pytest.mark.parametrize("measured, options", HOLDS.values(), ids=HOLDS)
def test_holds(measured, options, capsys):
    claim("so it is", torch.tensor(measured) if isinstance(measured, list) else measured, **options)
    assert capsys.readouterr().out.startswith("holds: so it is | measured ")
    assert len(claims._made) == 1


@pytest.mark.parametrize("measured, options", FAILS.values(), ids=FAILS)
def test_fails(measured, options, capsys):
    with pytest.raises(ClaimError, match=r"^FAILS: so it is \| measured "):
        claim("so it is", torch.tensor(measured) if isinstance(measured, list) else measured, **options)
    assert capsys.readouterr().out == "" and claims._made == []


MISUSE = {
    "nothing to compare with": {},
    "no tolerance": {"expected": 1},
    "no tolerance for a difference": {"differs_from": 1},
    "two tolerances": {"expected": 1, "within": 1, "standard_error": 1},
    "two expectations": {"expected": 1, "at_most": 1, "within": 1},
    "a bound with a tolerance": {"at_most": 1, "within": 1},
    "a bound with an error": {"at_least": 1, "standard_error": 1},
    "both bounds": {"at_least": 1, "at_most": 2},
    "a tolerance alone": {"within": 1},
}


@pytest.mark.parametrize("options", MISUSE.values(), ids=MISUSE)
def test_misuse(options):
    with pytest.raises(TypeError, match="a claim needs"):
        claim("so it is", 1, **options)


def test_nothing_measured_is_no_evidence():
    for options in ({"at_most": 1}, {"expected": 0, "within": 1}):
        with pytest.raises(ValueError, match="measured is empty"):
            claim("all of none", torch.zeros(0), **options)


LINES = {
    "measured 4, expected 4": (4, {"expected": 4, "within": 0}),
    "measured 3.142 ± 0.01, expected 3.142": (math.pi, {"expected": 3.14159, "standard_error": 0.01}),
    "measured 0.5, at most 0.75": (0.5, {"at_most": 0.75}),
    "measured 1.5, at least 1": (np.float64(1.5), {"at_least": 1}),
    "measured 3 ± 0.1, must differ from 2": (3.0, {"differs_from": 2, "standard_error": 0.1}),
    "measured 3 (the worst of 3), at most 4": (torch.tensor([1, 3, 2]), {"at_most": 4}),
    "measured 1 (the worst of 3), at least 0": (torch.tensor([1, 3, 2]), {"at_least": 0}),
    "measured 7 ± 2 (the worst of 2), expected 2": (
        torch.tensor([[1.0], [7.0]], requires_grad=True),
        {"expected": torch.tensor([[1.0], [2.0]]), "standard_error": torch.tensor([[1.0], [2.0]])},
    ),
    "measured 1.235e+06, at least 0": (1234567, {"at_least": 0}),
    "measured 1.5, expected 1 within 0.5, apart by 5e-01": (1.5, {"expected": 1, "within": 0.5}),
}


@pytest.mark.parametrize("line, case", LINES.items(), ids=LINES)
def test_the_printed_line_shows_the_worst_entry_beside_its_expectation(line, case, capsys):
    measured, options = case
    claim("so it is", measured, **options)
    assert capsys.readouterr().out == f"holds: so it is | {line}\n"


def test_a_control_shows_the_entry_that_differs_least(capsys):
    claim("apart", torch.tensor([9.0, 5.0]), differs_from=1, within=0.5)
    assert "measured 5 (the worst of 2), must differ from 1" in capsys.readouterr().out


def test_recap_lists_what_held_in_order_and_once(capsys):
    claim("second thought first", 1, 1, within=0)
    for value in (2, 3):
        claim("then", value, at_least=2)
    with pytest.raises(ClaimError):
        claim("false", 1, at_least=2)
    claim("second thought first", 1, 1, within=0)  # a cell run twice
    capsys.readouterr()
    claims.recap()
    assert capsys.readouterr().out.splitlines() == [
        " 1. second thought first | measured 1, expected 1",
        " 2. then | measured 2, at least 2",
        " 3. then | measured 3, at least 2",
    ]
