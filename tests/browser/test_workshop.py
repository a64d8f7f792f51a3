"""The workshop is built and opened from the disk, as at a projector without a network."""

import json
import subprocess
import sys

import pytest

from tests.browser.conftest import NOTEBOOKS, ROOT

# Walks through a deck, and names the slides that do not fit.
TOO_LARGE = """() => Reveal.getSlides().filter(slide => {
    const {h, v} = Reveal.getIndices(slide);
    Reveal.slide(h, v);
    return slide.scrollHeight > slide.clientHeight + 2;
}).map(slide => slide.innerText.slice(0, 200))"""


@pytest.fixture(scope="module")
def folder():
    built = subprocess.run([sys.executable, "-m", "publish.workshop"], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return ROOT / "build" / "workshop"


@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS])
def test_attendees_get_open_exercises_and_instructors_the_solutions(name, folder):
    given, solved = (json.loads((folder / kind / name).read_text())["cells"] for kind in ("attendee", "instructor"))
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in given)
    assert not any("**Solution.**" in "".join(cell["source"]) for cell in given)
    open_ones = {cell["id"]: cell["source"] for cell in given if "exercise" in cell["metadata"].get("tags", [])}
    assert len(open_ones) >= 3
    sources = {cell["id"]: cell["source"] for cell in solved}
    for key, source in open_ones.items():
        assert any("____" in line for line in source), key
        assert not any("____" in line for line in sources[key]), key
    assert sum("**Solution.**" in "".join(cell["source"]) for cell in solved) == len(open_ones)


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_slides_fit_and_show_their_mathematics(name, folder, watched):
    page = watched(f"file://{folder}")
    page.goto(f"file://{folder}/slides/{name}.html")
    page.wait_for_function("window.MathJax?.startup?.promise.then(() => true)")
    assert page.locator("mjx-container").count() > 20
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    assert page.evaluate(TOO_LARGE) == []


def test_handout_is_one_page(folder, watched):
    page = watched(f"file://{folder}")
    page.goto(f"file://{folder}/handout.html")
    page.wait_for_function("window.MathJax?.startup?.promise.then(() => true)")
    assert page.locator("mjx-container").count() > 20 and page.locator("mjx-merror").count() == 0
    assert page.pdf(prefer_css_page_size=True).count(b"/Type /Page\n") == 1
