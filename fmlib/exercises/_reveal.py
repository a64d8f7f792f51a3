"""`reveal`: what answers a prediction stays closed until the reader opens it, although the code runs as always."""

import base64
import contextlib
import html
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fmlib import _rich
from fmlib.exercises import _wording

WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURE = '<img alt="{}" src="data:image/png;base64,{}" style="max-width:100%">'
BOX = (
    '<details style="border:1px solid #8a8f98;border-radius:4px;padding:4px 10px;margin:4px 0">'
    '<summary style="cursor:pointer"><b>{}</b></summary>{}</details>'
)


class _Recorder(io.TextIOBase):
    """Stands in for standard output and for IPython's display publisher, and keeps the bundles in their order."""

    def __init__(self):
        self.bundles: list[dict] = []
        self.places: dict[str, int] = {}  # of the displays that may be updated

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.bundles and self.bundles[-1].keys() == {"stdout"}:
            self.bundles[-1]["stdout"] += text
        elif text:
            self.bundles.append({"stdout": text})
        return len(text)

    def publish(self, data: dict, metadata: dict | None = None, *, transient=None, update=False, **_) -> None:
        name = (transient or {}).get("display_id")
        if update and name in self.places:
            self.bundles[self.places[name]] = dict(data)
        else:
            self.places[name] = len(self.bundles)
            self.bundles.append(dict(data))

    def clear_output(self, wait: bool = False) -> None:
        self.bundles.clear()
        self.places.clear()


@contextmanager
def reveal(title: str, alt: str = "") -> Iterator[None]:
    """Run the block as always, but show what it prints, displays and draws in one closed box under `title`.

    alt: what its pictures show, for readers who cannot see them; the title if not given. Pictures opened in the block
    are drawn and closed at its end. Where no notebook runs, everything is printed openly. An exception passes through,
    and what was shown before it then stands open. A widget is shown as its picture, without its sliders.

    >>> with reveal("What came out"):
    ...     print(2)
    2
    """
    shell = _rich.shell()
    if shell is None:
        yield
        return
    recorder, publisher = _Recorder(), shell.display_pub
    try:
        shell.display_pub = recorder
        with contextlib.redirect_stdout(recorder), _own_figures() as figures:
            try:
                yield
            finally:
                for figure in figures():
                    recorder.publish({"image/png": _drawn(figure)})
    except BaseException:
        shell.display_pub = publisher
        for bundle in recorder.bundles:
            _replay(bundle, publisher)
        raise
    shell.display_pub = publisher
    body = "".join(_html(bundle, alt or title) for bundle in recorder.bundles)
    plain = "".join(_plain(bundle) for bundle in recorder.bundles)
    text = f"{title} (closed; open it in the notebook)\n{plain}".rstrip("\n")
    publisher.publish({"text/plain": text, "text/html": BOX.format(_wording.marked_up(title), body)})


@contextmanager
def _own_figures() -> Iterator:
    """Put matplotlib's open figures aside; gives a function that lists those opened since, which are closed at the end.

    The notebook would otherwise show them at the end of the cell, outside the box.
    """
    helpers = sys.modules.get("matplotlib._pylab_helpers")  # in a block that draws, it has been imported above
    before = dict(helpers.Gcf.figs) if helpers else {}
    if helpers:
        helpers.Gcf.figs.clear()

    def opened() -> list:
        pylab = sys.modules.get("matplotlib._pylab_helpers")
        return [manager.canvas.figure for manager in pylab.Gcf.get_all_fig_managers()] if pylab else []

    try:
        yield opened
    finally:
        if opened():
            sys.modules["matplotlib.pyplot"].close("all")
        if helpers:
            helpers.Gcf.figs.update(before)


def _html(bundle: dict, alt: str) -> str:
    """A bundle as a piece of HTML: the richest of its forms that a page without a kernel can show."""
    if "text/html" in bundle:
        return bundle["text/html"]
    if "image/png" in bundle:
        return PICTURE.format(html.escape(alt), bundle["image/png"].strip())
    for kind in ("text/latex", "text/markdown"):
        if kind in bundle:
            return f"<p>{_wording.marked_up(bundle[kind])}</p>"
    return _wording.code(_plain(bundle).rstrip("\n")) if _plain(bundle) else ""


def _plain(bundle: dict) -> str:
    """The lines of a bundle; none for a picture or a widget, whose text is only the size or source of it."""
    if "stdout" in bundle:
        return bundle["stdout"]
    return "" if bundle.keys() & {"image/png", WIDGET} else bundle.get("text/plain", "") + "\n"


def _drawn(figure) -> str:
    """The figure as a PNG in base 64, cut to what is on it, with 256 colours: a third of the bytes in the notebook."""
    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def _replay(bundle: dict, publisher) -> None:
    if "stdout" in bundle:
        print(bundle["stdout"], end="")
    else:
        publisher.publish(bundle)
