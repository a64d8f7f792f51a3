"""Predictions in JupyterLab: no answer before the commitment, one after it, and it is still there when reopened."""

import json

import pytest

from tests.browser.conftest import ask
from tests.browser.test_explorers import HARMLESS, run_all, save, shown

CELLS = {
    "setup": "from fmlib import exercises\nfrom fmlib.exercises import reveal\nimport matplotlib.pyplot as plt",
    "question": "q1_2 = exercises.basics.three_bumps\nq1_2.ask()",
    "answer": "with reveal('What the densities do'):\n    plt.plot([1, 2])\n    print(6 * 7000)",
}


@pytest.fixture
def asked(root):
    """A notebook with one prediction, and what answers it."""
    cells = [
        {"cell_type": "code", "id": name, "metadata": {}, "outputs": [], "execution_count": None, "source": source}
        for name, source in CELLS.items()
    ]
    kernel = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}
    path = root / "asked.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    yield path
    path.unlink()


@pytest.mark.timeout(180)
def test_the_answer_of_a_prediction_comes_after_the_commitment(lab, watched, kernels, asked):
    page = watched(lab, harmless=(*HARMLESS, "widget model not found"))
    shown(page, lab, asked)
    run_all(page)
    feedback, box = page.locator(".fmlib-feedback"), page.locator("details")
    buttons = page.locator(".fmlib-buttons button")
    buttons.first.wait_for()
    assert buttons.count() == 4 and "is open" in feedback.inner_text()
    assert all(button.get_attribute("title") for button in buttons.all())
    for word in ("Correct", "Not yet", "42000"):
        assert word not in page.locator("body").inner_text()
    picture = box.locator("img")
    assert not picture.is_visible() and picture.get_attribute("alt") == "What the densities do"

    right = ["a", "b", "c", "d"].index(exercises_right())
    wrong = (right + 1) % 4
    buttons.nth(wrong).click()
    page.wait_for_function("document.querySelector('.fmlib-feedback').innerText.includes('Not yet')")
    first = feedback.inner_text()
    buttons.nth(wrong).click()  # twice
    page.wait_for_function("before => document.querySelector('.fmlib-feedback').innerText != before", arg=first)
    assert "Not yet" in feedback.inner_text()
    buttons.nth(right).focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.fmlib-feedback').innerText.includes('Correct')")
    box.locator("summary").click()
    assert picture.is_visible() and "42000" in box.inner_text()

    save(page, asked)
    for kernel in json.loads(ask(f"{lab}/api/kernels")):
        ask(f"{lab}/api/kernels/{kernel['id']}", "DELETE")
    shown(page, lab, asked)
    page.wait_for_timeout(2000)  # until a widget would have said that it is lost
    assert "Correct" in page.locator(".fmlib-feedback").inner_text()
    assert page.get_by_text("Error displaying widget").filter(visible=True).count() == 0


def exercises_right() -> str:
    from fmlib import exercises

    return exercises.basics.three_bumps.right
