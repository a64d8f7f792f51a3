import math
import re

import jupyter_client
import numpy as np
import pytest
import torch
from helpers import one_sentence

from fmlib import claims
from fmlib.claims import ClaimError, claim

NAN, INF = math.nan, math.inf


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No claim has been made yet."""
    monkeypatch.setattr(claims, "_made", [])
    monkeypatch.setattr(claims, "_section", "")


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
    "a bound for each entry": ([1.0, 20.0], {"at_most": torch.tensor([1.0, 30.0])}),
    "a lower bound for each entry": ([1.0, 20.0], {"at_least": [0.0, 20.0]}),
    "a tolerance for each entry": ([1.0, 20.0], {"expected": 0, "within": torch.tensor([1.0, 20.0])}),
    "one number against two": (1.5, {"expected": [1.0, 2.0], "within": 0.5}),
    "one number, a tolerance for each reference": (1.5, {"differs_from": [1.0, 3.0], "within": [0.4, 1.4]}),
    "the last integer that counts": (2**53, {"expected": 2**53, "within": 0}),
    "each row": ([[1.0, 2.0], [1.5, 2.0], [1.0, 2.5]], {"expected": [1.0, 2.0], "within": [0.5, 0.6]}),
    "truth": (True, {"expected": 1, "within": 0}),
    "tensors in a list": ([torch.tensor(1.0), 2], {"at_most": 2}),
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
    "one above its own bound": ([1.0, 20.0], {"at_most": torch.tensor([0.5, 30.0])}),
    "one below its own bound": ([1.0, 20.0], {"at_least": [0.0, 20.5]}),
    "one outside its own tolerance": ([1.0, 20.0], {"expected": 0, "within": torch.tensor([0.9, 30.0])}),
    "one of the rows": ([[1.0, 2.0], [1.5, 2.0], [1.0, 2.5]], {"expected": [1.0, 2.0], "within": [0.6, 0.4]}),
    "one number, two references": (1.5, {"expected": [1.0, 2.5], "within": 0.5}),
    "neighbouring integers": (2**53, {"expected": 2**53 - 1, "within": 0}),
    "NaN among bounds": ([1.0, 1.0], {"at_most": [2.0, NAN]}),
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


def as_tensor(measured):
    plain = isinstance(measured, list) and not isinstance(measured[0], torch.Tensor)
    return torch.tensor(measured) if plain else measured


@pytest.mark.parametrize("measured, options", HOLDS.values(), ids=HOLDS)
def test_holds(measured, options, capsys):
    claim("so it is", as_tensor(measured), **options)
    assert capsys.readouterr().out.startswith("holds: so it is | measured ")
    assert len(claims._made) == 1


@pytest.mark.parametrize("measured, options", FAILS.values(), ids=FAILS)
def test_fails(measured, options, capsys):
    with pytest.raises(ClaimError, match=r"^FAILS: so it is \| measured "):
        claim("so it is", as_tensor(measured), **options)
    assert capsys.readouterr().out == "" and [row.held for row in claims._made] == [False]


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


PAIR = torch.tensor([1.0, 2.0])
BIG = 2**53 + 1
REFUSED = {
    "complex": (
        torch.tensor(1 + 5j),
        {"expected": 1, "within": 0},
        TypeError,
        "measured must be real, got .*complex64",
    ),
    "a complex number": (1 + 5j, {"expected": 1, "within": 0}, TypeError, "measured must be real"),
    "complex NumPy": (np.array([1j]), {"at_most": 1}, TypeError, "measured must be real"),
    "complex expected": (1, {"expected": 1j, "within": 0}, TypeError, "expected must be real"),
    "complex error": (1, {"expected": 1, "standard_error": 1j}, TypeError, "standard_error must be real"),
    "negative tolerance": (1, {"expected": 1, "within": -1}, ValueError, "within must be at least 0 .* got -1"),
    "negative control": (1, {"differs_from": 1, "within": -1}, ValueError, "within must be at least 0 .* got -1"),
    "negative error": (PAIR, {"expected": 1, "standard_error": [1, -0.5]}, ValueError, "standard_error .* got -0.5"),
    "infinite tolerance": (1, {"expected": 9, "within": INF}, ValueError, "within must be .* finite, got inf"),
    "infinite error": (1, {"expected": 9, "standard_error": INF}, ValueError, "standard_error must .* got inf"),
    "an integer too large": (BIG, {"expected": BIG - 1, "within": 0}, ValueError, "measured .* got 9007199254740993"),
    "expected too large": (BIG - 1, {"expected": BIG, "within": 0}, ValueError, "expected must not exceed"),
    "a tensor too large": (torch.tensor([1, -BIG]), {"at_most": 1}, ValueError, "measured must not exceed"),
    "a list too large": ([1, BIG], {"at_most": 1}, ValueError, "measured must not exceed"),
    "NumPy too large": (np.int64(BIG), {"at_most": 1}, ValueError, "measured must not exceed"),
    "beyond 64 bits": (2**70, {"at_most": 1}, TypeError, "measured must be .*64 bits"),
    "text": ("3", {"expected": 3, "within": 0}, TypeError, "measured must be a number or a tensor"),
    "nothing": (None, {"expected": 3, "within": 0}, TypeError, "measured must be .* got None"),
    "empty expected": (1, {"expected": torch.zeros(0), "within": 1}, ValueError, "expected is empty"),
    "empty bound": (1, {"at_most": []}, ValueError, "at_most is empty"),
    "empty tolerance": (
        1,
        {"expected": 1, "within": torch.zeros(0, 2)},
        ValueError,
        r"within is empty: shape \(0, 2\)",
    ),
    "shapes": (PAIR, {"expected": torch.ones(3), "within": 1}, ValueError, r"expected .*shape \(2,\), got \(3,\)"),
    "outer product": (PAIR, {"expected": PAIR[:, None], "within": 9}, ValueError, r"got \(2, 1\)"),
    "columns": (torch.ones(2, 3), {"expected": PAIR, "within": 9}, ValueError, r"of shape \(2, 3\), got \(2,\)"),
    "tolerance": (PAIR, {"expected": 1, "within": torch.ones(3)}, ValueError, r"within .*shape \(2,\), got \(3,\)"),
    "error": (PAIR, {"expected": 1, "standard_error": torch.ones(3)}, ValueError, r"standard_error .*got \(3,\)"),
    "bound": (PAIR, {"at_least": torch.ones(2, 2)}, ValueError, r"at_least .*shape \(2,\), got \(2, 2\)"),
    "ragged": ([[1.0], [1.0, 2.0]], {"at_most": 3}, ValueError, "measured .* unequal shapes"),
}


@pytest.mark.parametrize("measured, options, kind, message", REFUSED.values(), ids=REFUSED)
def test_arguments_that_cannot_be_judged(measured, options, kind, message, capsys):
    with pytest.raises(kind, match=message) as error:
        claim("so it is", measured, **options)
    assert one_sentence(error) and not isinstance(error.value, ClaimError)
    assert capsys.readouterr().out == "" and claims._made == []


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


def test_the_worst_entry_is_the_most_standard_errors_away(capsys):
    """Room in absolute terms says something else: 3 errors of 1 leave 1, and 3.9 of 0.51 leave 0.04."""
    claim("near", torch.tensor([3.0, 2.0]), 0, standard_error=torch.tensor([1.0, 0.51]))
    assert "measured 2 ± 0.51 (the worst of 2)" in capsys.readouterr().out
    with pytest.raises(ClaimError, match=r"measured 5 ± 1 \(the worst of 2\), expected 0, 5 standard errors apart$"):
        claim("far", torch.tensor([5.0, 400.0]), 0, standard_error=torch.tensor([1.0, 90.0]))
    claim("control", torch.tensor([5.0, 400.0]), differs_from=0, standard_error=torch.tensor([1.0, 90.0]))
    assert "measured 400 ± 90 (the worst of 2)" in capsys.readouterr().out
    claim("tolerances", torch.tensor([0.9, 5.0]), 0, within=torch.tensor([1.0, 10.0]))
    assert "measured 0.9 (the worst of 2), expected 0 within 1, apart by 9e-01" in capsys.readouterr().out
    with pytest.raises(ClaimError, match=r"measured 7 \(the worst of 3\), expected 0"):
        claim("no tolerance", torch.tensor([0.0, 7.0, 1.0]), 0, within=0)
    claim("bounds", torch.tensor([1.0, 20.0]), at_most=torch.tensor([1.5, 30.0]))
    assert "measured 1 (the worst of 2), at most 1.5" in capsys.readouterr().out


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
        " 4. FAILS: false | measured 1, at least 2",
    ]


def test_recap_stands_by_section(capsys):
    claims.section("1.1 Sums")
    claim("two and two", 4, 4, within=0)
    claims.section("1.2 Bounds")
    claim("five is large", 5, at_least=2)
    capsys.readouterr()
    claims.recap()
    assert capsys.readouterr().out.splitlines() == [
        "1.1 Sums",
        " 1. two and two | measured 4, expected 4",
        "1.2 Bounds",
        " 2. five is large | measured 5, at least 2",
    ]


@pytest.fixture
def shown(monkeypatch):
    """Pairs of text and HTML, as a notebook gets them."""
    pairs = []
    monkeypatch.setattr(claims._rich, "show", lambda text, html: pairs.append((text, html)))
    return pairs


def words(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html).split())


def test_a_notebook_shows_a_row_with_the_same_words(shown):
    claim("a < b", torch.tensor([0.1, 0.3]), 0, within=0.5)
    ((text, html),) = shown
    assert text == "holds: a < b | measured 0.3 (the worst of 2), expected 0 within 0.5, apart by 3e-01"
    assert "a &lt; b" in html and "<b" in html
    expected = "a &lt; b measured 0.3 (the worst of 2) expected 0 within 0.5, apart by 3e-01 60 % used"
    assert words(html) == f"&#10003; {expected}"


@pytest.mark.parametrize(
    "measured, options, share",
    [
        (1.0, {"expected": 0, "standard_error": 1}, "25 %"),  # of four standard errors
        (5, {"differs_from": 1, "standard_error": 0.5}, "50 %"),  # two of the four that lie between are needed
        (3, {"at_most": 4}, "75 %"),
        (8, {"at_least": 2}, "25 %"),
        (0, {"at_most": 4}, "0 %"),
        (-1, {"at_most": 4}, ""),  # no share of anything
        (1, {"expected": 1, "within": 0}, ""),
        (2, {"at_least": -4}, ""),
    ],
)
def test_the_share_of_the_margin(measured, options, share, shown):
    claim("so it is", measured, **options)
    assert words(shown[0][1]).partition(" used")[0].endswith(share)
    assert (" used" in shown[0][1]) == bool(share)
    claims.recap()
    assert share in shown[1][1]


def test_the_recap_in_a_notebook_is_a_table_by_section(shown):
    for title in ("<1>", "2"):
        claims.section(title)
        claim(f"in {title}", 1, at_most=2)
    claims.recap()
    html = shown[-1][1]
    assert html.count("<table") == 1 and html.count("<tr>") == 1 + 2 * 2 and "&lt;1&gt;" in html
    assert html.index("&lt;1&gt;</th>") < html.index("in &lt;1&gt;") < html.index("2</th>") < html.index("in 2")
    assert "2 claims held" in html


def test_nothing_to_recap_shows_nothing(shown):
    claims.recap()
    assert shown == []


def test_a_false_claim_is_one_line_in_a_notebook(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell("from fmlib import claim\ndef inner():\n    claim('two', 1, 2, within=0)\ninner()")
    out = capsys.readouterr().out.strip()
    assert "\n" not in out and out == "\x1b[31mClaimError: FAILS: two | measured 1, expected 2\x1b[0m"


CELLS = {
    "one": "from fmlib.claims import claim, recap, section; section('1.1')\nclaim('two', 2, at_least=2)",
    "two": "section('1.2')\nfor value in (MEASURED, 3):\n    claim('two', value, at_least=2)",
    "last": "recap()",
}


@pytest.fixture
def notebook():
    """A function that runs a cell of CELLS on a kernel, as JupyterLab does, and returns the HTML that it shows."""
    manager, client = jupyter_client.manager.start_new_kernel()

    def run(cell, source):
        content = {"code": source, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}
        message = client.session.msg("execute_request", content, metadata={"cellId": cell})
        client.shell_channel.send(message)
        shown = ""
        while True:
            answer = client.get_iopub_msg(timeout=60)
            if answer["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                shown += answer["content"].get("data", {}).get("text/html", "")
                if answer["content"].get("execution_state") == "idle":
                    return shown

    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_a_cell_run_again_replaces_what_it_said(notebook):
    """Broken, then put right: the recap says how it stands, in the section where it belongs, and keeps other cells'."""

    def told():
        rows = re.findall("<tr>(.*?)</tr>", notebook("last", CELLS["last"]))[1:]
        return [words(row).removeprefix("&#10003; ") for row in rows]

    notebook("one", CELLS["one"])
    notebook("two", CELLS["two"].replace("MEASURED", "4"))
    whole = ["1.1", "two 2 at least 2 100 %", "1.2", "two 4 at least 2 50 %", "two 3 at least 2 67 %"]
    assert told() == whole
    notebook("two", CELLS["two"].replace("MEASURED", "1").removeprefix("section('1.2')\n"))
    assert told() == [*whole[:3], "&#10007; FAILS: two 1 at least 2", whole[4]]
    notebook("one", "claim('two', 5, at_least=2)")  # without its section, after another one
    notebook("two", CELLS["two"].replace("MEASURED", "4"))
    assert told() == ["1.1", "two 5 at least 2 40 %", *whole[2:]]


def test_a_recap_counts_what_fell(shown):
    claim("two", 2, at_least=2)
    with pytest.raises(ClaimError):
        claim("one", 1, at_least=2)
    claims.recap()
    assert "1 claims held, 1 fell." in shown[-1][1]
