"""The site is built and read in a browser, as a phone, a tablet and a desktop would, in light and dark."""

import functools
import http.server
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser.conftest import NOTEBOOKS, ROOT

pytestmark = pytest.mark.timeout(480)
SIZES = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1280, 900)}
PAGES = ["index.html", "api/exact.html", *(f"{path.stem}.html" for path in NOTEBOOKS)]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def folder():
    built = subprocess.run([sys.executable, "-m", "publish.build_site"], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return ROOT / "build" / "site"


@pytest.fixture(scope="module")
def site(folder):
    """The site's address."""
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


# The formulas that stick out of the page and cannot be scrolled to: those within a line, which never break.
CUT_OFF = """() => [...document.querySelectorAll('article mjx-container:not([display="true"])')]
    .filter(formula => formula.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .filter(formula => !['.toc-drawer', 'table', 'details:not([open])'].some(place => formula.closest(place)))
    .map(formula => formula.parentElement.innerText.slice(0, 80))"""


class Links(HTMLParser):
    """Everything a page links to or loads, its anchors, and its images without a text."""

    def __init__(self, text: str):
        super().__init__()
        self.targets, self.anchors, self.mute = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.targets += [attrs[name] for name in ("href", "src") if attrs.get(name)]
        self.anchors.add(attrs.get("id"))
        if tag == "img" and not attrs.get("alt"):
            self.mute.append(attrs.get("src"))


def test_no_link_is_broken_and_no_picture_is_mute(folder):
    pages = {path.resolve(): Links(path.read_text()) for path in folder.rglob("*.html")}
    assert len(pages) > 10
    for path, page in pages.items():
        assert not page.mute, f"{path.name}: no alt text"
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https", "data", "mailto"):
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert there.exists(), f"{path.name}: {target}"
            if parts.fragment and there in pages:
                assert unquote(parts.fragment) in pages[there].anchors, f"{path.name}: {target}"


@pytest.mark.parametrize("name", ["index", *(path.stem for path in NOTEBOOKS)])
def test_explorers_move_without_a_kernel(name, site, watched):
    """Every page has one; the keyboard moves its slider or list, and another part of its image is seen."""
    page, bytes_ = watched(site), []
    page.on("response", lambda response: bytes_.append(int(response.headers.get("content-length", 0))))
    page.goto(f"{site}/{name}.html", wait_until="networkidle")
    explorers = page.locator(".explorer")
    assert explorers.count() >= 1, f"{name}: no frames are stored in the notebook; `make run` writes them"
    for explorer in explorers.all():
        image, frames = explorer.locator("img"), explorer.locator(".frames")
        assert image.get_attribute("alt") and image.evaluate("image => image.naturalWidth") > 600
        count = int(frames.evaluate("e => getComputedStyle(e).getPropertyValue('--count')"))
        shown = image.evaluate("image => image.naturalHeight / image.naturalWidth") / count
        assert frames.evaluate("e => e.clientHeight / e.clientWidth") == pytest.approx(shown, rel=0.01)
        for control in explorer.locator("input, select").all():
            assert explorer.locator(f"label[for='{control.get_attribute('id')}']").inner_text()
            before, top = frames.screenshot(), image.bounding_box()["y"]
            control.focus()
            ended = control.evaluate("control => control.value === control.max")  # no list has a `max`
            page.keyboard.press(
                ("Home" if ended else "End") if control.get_attribute("type") == "range" else "ArrowDown"
            )
            assert image.bounding_box()["y"] != top and frames.screenshot() != before
    own = [size for size in bytes_ if size < 2_000_000]  # MathJax, once for all pages, is larger
    assert sum(own) < 1_500_000, f"{name}: {sum(own)} bytes"
    button = explorers.first.get_by_role("button", name="Play")
    if button.count():
        slider = explorers.first.locator("input").first
        page.keyboard.press("Home")
        before = slider.input_value()
        button.click()
        page.wait_for_function("([slider, before]) => slider.value !== before", arg=[slider.element_handle(), before])


def test_pages_fit_and_show_their_mathematics(site, watched):
    page = watched(site)
    for name in PAGES:
        page.goto(f"{site}/{name}")
        page.wait_for_function("!window.MathJax?.startup || window.MathJax.startup.promise.then(() => true)")
        formulas = page.locator("mjx-container svg").count()
        if name[0].isdigit():
            assert formulas > 20, f"{name} shows {formulas} formulas"
        assert page.locator("mjx-merror, [data-mjx-error]").count() == 0, f"{name}: a formula does not parse"
        raw = page.locator("article").inner_text()
        assert not re.search(r"\\(mathbb|frac|big)\b|\$\$", raw), f"{name}: raw TeX in the text"
        for device, (width, height) in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{name} is {wide} px too wide on a {device}"
            assert page.evaluate(CUT_OFF) == [], f"{name}: formulas cut off on a {device}"
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 384) == (scheme == "dark"), background


def test_search_finds_a_word(site, watched):
    page = watched(site)
    page.goto(f"{site}/index.html")
    page.get_by_role("textbox", name="Search").fill("Itakura")
    page.keyboard.press("Enter")
    page.locator("#search-results li a").first.wait_for()
    assert "Bregman" in page.locator("#search-results").inner_text()


def test_the_map_leads_to_every_notebook_and_can_be_read_on_a_phone(site, watched):
    page = watched(site, 390, 844)
    page.goto(f"{site}/map.html")
    links = page.locator("svg.map a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert sorted(links) == [f"{path.stem}.html" for path in NOTEBOOKS]
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    scale = page.locator("svg.map").evaluate("map => map.clientWidth / map.viewBox.baseVal.width")
    assert (
        float(page.locator("svg.map text").first.evaluate("e => parseFloat(getComputedStyle(e).fontSize)")) * scale >= 9
    )
