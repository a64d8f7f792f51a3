"""Every notebook is run in JupyterLab, and every slider and list of its explorers is moved with the keyboard."""

import time

import pytest

from tests.browser.conftest import NOTEBOOKS, ROOT

EXPLORER = ".jp-OutputArea-output .widget-vbox:has(> .widget-image)"
# What JupyterLab writes to the console by itself, whatever the notebook.
HARMLESS = ()
SHOT = ROOT / "build" / "test-browser.png"  # what the page looked like when a test gave up
ERRORS = ".jp-OutputArea :is([data-mime-type$='.stderr'], [data-mime-type$='.error'])"
# All cells have their number, or one has failed and the others will never run.
FINISHED = """errors => {
    if (document.querySelector(errors)) return true;
    const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')].map(p => p.textContent);
    return prompts.length > 0 && prompts.every(p => /\\d/.test(p));
}"""
DIGEST = """async image => {
    const bytes = await (await fetch(image.src)).arrayBuffer();
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    return [...digest].map(byte => byte.toString(16).padStart(2, '0')).join('');
}"""


@pytest.mark.timeout(240)  # a notebook may take 60 s on two cores, and more on a busy machine
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_control_of_every_explorer(path, lab, watched, kernels):
    page = watched(lab, harmless=HARMLESS)
    page.set_default_timeout(30_000)
    page.goto(f"{lab}/lab/tree/{path.name}?reset")
    run_all(page)
    errors = page.locator(ERRORS)
    assert errors.count() == 0, errors.first.inner_text()
    explorers = page.locator(EXPLORER)
    assert explorers.count() >= 1
    for explorer in explorers.all():
        picture = explorer.locator("img.widget-image")
        controls = explorer.locator(":scope > .widget-inline-hbox:not(.widget-html)")
        assert controls.count() >= 1
        assert picture.get_attribute("title"), "the picture has no text for those who cannot see it"
        for control in controls.all():
            label = control.locator(".widget-label").inner_text().strip()
            assert label, "a control without a label"
            move(page, control, picture, label)
            assert explorer.locator(".widget-html b").count() == 0, explorer.locator(".widget-html").inner_text()


def run_all(page, seconds: float = 200) -> None:
    page.locator(".jp-Notebook").wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # asked to run before that, it asks for a kernel
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    deadline = time.monotonic() + seconds
    while not page.evaluate(FINISHED, ERRORS):
        if time.monotonic() > deadline:
            page.screenshot(path=SHOT)
            prompts = page.locator(".jp-CodeCell .jp-InputArea-prompt").all_inner_texts()
            pytest.fail(f"not all cells ran within {seconds:.0f} s: {prompts}; picture: {SHOT}")
        page.wait_for_timeout(500)


def move(page, control, picture, label: str) -> None:
    """Go forward with the keyboard alone, and see another picture."""
    before = picture.evaluate(DIGEST)
    handle = control.locator("select, [role=slider]")
    handle.focus()
    if handle.evaluate("element => element.tagName") == "SELECT":
        # JupyterLab takes an arrow key at a closed list for a step to the next cell: so open it, choose, close
        keys = ["Space", "ArrowDown", "Enter"]
    else:
        keys = 5 * ["ArrowRight"]  # a picture may show steps coarser than the slider's
    for key in keys:
        page.keyboard.press(key)
        page.wait_for_timeout(100)
    deadline = time.monotonic() + 20
    while picture.evaluate(DIGEST) == before:
        if time.monotonic() > deadline:
            page.screenshot(path=SHOT)
            pytest.fail(f"moving '{label}' did not change the picture; screenshot: {SHOT}")
        page.wait_for_timeout(50)
