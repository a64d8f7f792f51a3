"""The workshop is built and opened from the disk, as at a projector without a network."""

import json
import re
import subprocess
import sys

import pytest

from fmlib import exercises
from publish import workshop
from tests.browser.conftest import NOTEBOOKS, ROOT

# Walks through a deck, and names the slides that do not fit.
TOO_LARGE = """() => Reveal.getSlides().filter(slide => {
    const {h, v} = Reveal.getIndices(slide);
    Reveal.slide(h, v);
    return slide.scrollHeight > slide.clientHeight + 2;
}).map(slide => slide.innerText.slice(0, 200))"""


EXERCISE = re.compile(r"exercise-\d+-\d+-check")


@pytest.fixture(scope="module")
def folder():
    built = subprocess.run([sys.executable, "-m", "publish.workshop"], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return ROOT / "build" / "workshop"


@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS])
def test_attendees_get_open_exercises_and_instructors_the_solutions(name, folder):
    given, solved = (json.loads((folder / kind / name).read_text())["cells"] for kind in ("attendee", "instructor"))
    left = [output for cell in given for output in cell.get("outputs", [])]
    stored = json.loads((ROOT / "notebooks" / name).read_text())["cells"]
    pictures = [o for cell in stored for o in cell.get("outputs", []) if "An explorer" in "".join(str(o.get("data")))]
    assert left == pictures != []
    assert not any(cell.get("execution_count") for cell in given)
    assert not any("**Solution.**" in "".join(cell["source"]) for cell in given)
    open_ones = {cell["id"]: "".join(cell["source"]) for cell in given if EXERCISE.fullmatch(cell["id"])}
    assert len(open_ones) >= 3
    sources = {cell["id"]: "".join(cell["source"]) for cell in solved}
    every = {f"exercise-{e.number.replace('.', '-')}-check": e for e in exercises.every()}
    for key, source in open_ones.items():
        assert source == every[key].start and sources[key] == every[key].answer_code != source
        why = sources[key.replace("check", "why")]
        assert why.startswith("**Solution.**") and every[key].why in why
        for wrong in every[key].wrongs:
            assert wrong.source.strip() in why and wrong.message in why


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_a_deck_is_short_fits_and_shows_its_mathematics(name, folder, watched):
    page = watched(f"file://{folder}")
    page.goto(f"file://{folder}/slides/{name}.html")
    page.wait_for_function("window.MathJax?.startup?.promise.then(() => true)")
    assert page.locator("mjx-container").count() > 3
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    assert page.evaluate(TOO_LARGE) == []
    assert "](" not in page.locator(".slides").inner_html()  # half a link, cut at "et al."
    low, high = (15, 20) if name.startswith("01") else (8, 24)
    assert low <= page.locator(".slides section").count() <= high
    kinds = {kind: page.locator(f".slides section.{kind}").count() for kind in workshop.SHOWN}
    assert kinds["code"] <= 1 and kinds["figure"] >= 3 and kinds["claim"] >= 1 and kinds["exercise"] >= 1
    if name.startswith("01"):
        assert page.locator(".slides section:has(.notes)").count() == page.locator(".slides section").count()


def test_a_solution_appears_with_the_second_press(folder, watched):
    page = watched(f"file://{folder}")
    page.goto(f"file://{folder}/slides/01_basics.html")
    page.wait_for_function("window.Reveal?.isReady()")
    page.evaluate("Reveal.slide(Reveal.getSlides().findIndex(slide => slide.classList.contains('exercise')))")
    slide = page.locator("section.exercise.present")
    assert slide.locator("li").count() + slide.locator("p").count() > 1
    assert slide.locator(".fragment.visible").count() == 0
    page.keyboard.press("Space")
    assert slide.locator(".fragment.visible").count() == 1


def test_handout_is_one_sheet(folder, watched):
    page = watched(f"file://{folder}")
    page.goto(f"file://{folder}/handout.html")
    page.wait_for_function("window.MathJax?.startup?.promise.then(() => true)")
    assert page.locator("mjx-container").count() > 20 and page.locator("mjx-merror").count() == 0
    assert page.pdf(prefer_css_page_size=True).count(b"/Type /Page\n") == 2  # both sides
