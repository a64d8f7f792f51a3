"""What the explorers of every notebook need is run in JupyterLab, and every control is moved with the keyboard."""

import json
import re
import time

import pytest

from tests.browser.conftest import NOTEBOOKS, ROOT, ask

EXPLORER = ".fmlib-explorer"
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
        controls = explorer.locator(".widget-slider, .widget-dropdown")
        assert controls.count() >= 1
        page.wait_for_function("image => image.alt", arg=picture.element_handle())  # for those who cannot see it
        for control in controls.all():
            label = control.locator(".widget-label").inner_text().strip()
            assert label, "a control without a label"
            handle = control.locator("[role=slider]")
            assert handle.count() == 0 or handle.get_attribute("aria-label") == label
            move(page, control, picture, label)
            assert explorer.locator(".widget-html b").count() == 0, explorer.locator(".widget-html").inner_text()
        for button in explorer.locator("button:visible").all():
            assert button.get_attribute("aria-label"), "a button without a name"
    assert page.locator(".fmlib-still:visible").count() == 0  # the live explorers have taken their place


SMALL = """from fmlib import explorers
def draw(figure, t):
    figure.subplots().plot([0, 1], [0, t])
explorers.Explorer(draw, {"t": explorers.slider("time t", 0.0, 1.0, 0.05, 0.2)}, alt="a line")"""


@pytest.fixture
def small(lab, root):
    """A notebook with one explorer, and the function that opens it in a page and runs it."""
    cell = {"cell_type": "code", "id": "one", "metadata": {}, "outputs": [], "execution_count": None, "source": SMALL}
    kernel = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}
    path = root / "small.ipynb"
    path.write_text(json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    yield path
    path.unlink()


def shown(page, lab, path) -> None:
    page.goto(f"{lab}/lab/tree/{path.name}?reset")
    page.locator(".jp-Notebook").wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()


def save(page, path) -> None:
    """Save by the menu, and wait until the file is new."""
    before = path.stat().st_mtime_ns
    page.get_by_role("menuitem", name="File", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Save Notebook(?! As)")).click()
    while path.stat().st_mtime_ns == before:
        page.wait_for_timeout(50)


def size(image) -> list[int]:
    return image.evaluate("image => [image.naturalWidth, image.naturalHeight]")


@pytest.mark.timeout(120)
def test_the_play_button_moves_the_time_and_the_picture(lab, watched, kernels, small):
    page = watched(lab, harmless=HARMLESS)
    shown(page, lab, small)
    run_all(page)
    explorer = page.locator(EXPLORER)
    picture, handle = explorer.locator("img.widget-image"), explorer.locator("[role=slider]")
    picture.wait_for()
    page.wait_for_function("image => image.alt", arg=picture.element_handle())
    before, sharp = picture.evaluate(DIGEST), size(picture)
    assert handle.get_attribute("aria-valuenow") == "0.2" and picture.get_attribute("alt") == "a line"
    explorer.get_by_role("button", name="play or pause: time t").click()
    seen, sizes, deadline = set(), set(), time.monotonic() + 60
    while handle.get_attribute("aria-valuenow") != "1.0" and time.monotonic() < deadline:
        seen.add(picture.evaluate(DIGEST))
        sizes.add(tuple(size(picture)))
        page.wait_for_timeout(50)
    assert handle.get_attribute("aria-valuenow") == "1.0" and len(seen | {before}) > 3
    assert (sharp[0] // 2, sharp[1] // 2) in sizes  # light while it moves
    page.wait_for_timeout(2000)
    assert size(picture) == sharp
    explorer.get_by_role("button", name="back to the start: time t").click()
    page.wait_for_function("handle => handle.ariaValueNow === '0.0'", arg=handle.element_handle())


@pytest.mark.timeout(180)
def test_an_explorer_outlives_its_kernel(lab, watched, kernels, small):
    """Run, save, end the kernel, open again, save again, open once more: the picture is there, and no message."""
    page = watched(lab, harmless=(*HARMLESS, "widget model not found"))
    shown(page, lab, small)
    run_all(page)
    page.locator(EXPLORER).locator("img.widget-image").wait_for()
    assert page.locator(".fmlib-still:visible").count() == 0
    for _ in range(2):
        save(page, small)
        assert small.stat().st_size < 250_000
        for kernel in json.loads(ask(f"{lab}/api/kernels")):
            ask(f"{lab}/api/kernels/{kernel['id']}", "DELETE")
        shown(page, lab, small)
        page.wait_for_timeout(2000)  # until a widget would have said that it is lost
        still = page.locator(".fmlib-still img")
        assert still.is_visible() and still.get_attribute("alt") == "a line" and size(still)[0] > 1000
        assert page.get_by_text("Error displaying widget").filter(visible=True).count() == 0
        assert page.locator(EXPLORER).filter(visible=True).count() == 0
        assert page.get_by_text("A stored picture: run the cells up to here to move it.").is_visible()
    run_all(page)
    page.locator(EXPLORER).locator("img.widget-image").wait_for()
    assert page.locator(".fmlib-still:visible").count() == 0


@pytest.mark.timeout(120)
def test_an_explorer_that_an_older_version_saved_is_replaced_when_it_is_run(lab, watched, kernels, small):
    """It left a picture of its own and a widget that no kernel knows; nothing of either is seen after a run."""
    notebook = json.loads(small.read_text())
    widget = {"model_id": "0123456789abcdef", "version_major": 2, "version_minor": 0}
    notebook["cells"][0] |= {
        "execution_count": 7,
        "outputs": [
            {
                "output_type": "display_data",
                "metadata": {},
                "data": {"application/vnd.jupyter.widget-view+json": widget, "text/plain": "Explorer(children=())"},
            },
            {
                "output_type": "display_data",
                "metadata": {},
                "data": {"text/html": "<p class='old-still'>a picture</p>"},
            },
        ],
    }
    small.write_text(json.dumps(notebook))
    page = watched(lab, harmless=(*HARMLESS, "widget model not found"))
    shown(page, lab, small)
    page.wait_for_timeout(2000)
    assert page.locator(".old-still").count() == 1  # what it left is still there
    run_all(page)
    page.locator(EXPLORER).locator("img.widget-image").wait_for()
    assert page.locator(".old-still").count() == 0
    assert page.get_by_text("Error displaying widget").filter(visible=True).count() == 0


def test_the_courses_settings_are_installed_beside_it(lab):
    answer = json.loads(ask(f"{lab}/lab/api/settings/@jupyterlab/apputils-extension:notification"))
    found = {name: answer["schema"]["properties"][name]["default"] for name in ("fetchNews", "checkForUpdates")}
    assert found == {"fetchNews": "false", "checkForUpdates": False}


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
    """Go forward with the keyboard alone, or back from the end, and see another picture."""
    before = picture.evaluate(DIGEST)
    handle = control.locator("select, [role=slider]")
    handle.focus()
    if handle.evaluate("element => element.tagName") == "SELECT":
        # JupyterLab takes an arrow key at a closed list for a step to the next cell: so open it, choose, close
        keys = ["Space", "ArrowDown", "Enter"]
    else:
        ended = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
        keys = 5 * ["ArrowLeft" if ended else "ArrowRight"]  # a picture may show steps coarser than the slider's
    for key in keys:
        page.keyboard.press(key)
        page.wait_for_timeout(100)
    deadline = time.monotonic() + 20
    while picture.evaluate(DIGEST) == before:
        if time.monotonic() > deadline:
            page.screenshot(path=SHOT)
            pytest.fail(f"moving '{label}' did not change the picture; screenshot: {SHOT}")
        page.wait_for_timeout(50)
