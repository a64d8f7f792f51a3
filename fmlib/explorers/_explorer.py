"""The widget that all explorers are, and the controls they are made with.

An explorer is displayed as two outputs: its first frame as a still picture, and the live widget, which hides the still
for as long as a kernel answers it. So a page without a kernel, or a notebook that was saved and opened again, shows the
picture, whatever has become of the widget.
"""

import asyncio
import base64
import gc
import html
import io
import itertools
import os
import sys
import uuid

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from PIL import Image

try:
    import ipywidgets
    import traitlets
except ImportError as error:
    raise ImportError(f"explorers need Jupyter ({error}): pip install 'fmlib[course]'") from None

FRAMES = "application/vnd.fmlib.frames+json"  # for a page without a kernel; displayed only where FMLIB_FRAMES is set
LIGHT, FRAME, SHARP = 80, 100, 160  # dots per inch: while a control moves, on a page without a kernel, at rest
PAUSE = 0.3  # seconds without a change after which the sharp picture is drawn

# Hides the still picture while the widget is there and its kernel answers.
HIDE = """<style>
body:not(:has(.fmlib-{id}.jupyter-widgets-disconnected)) .fmlib-still-{id} {{ display: none; }}
.fmlib-{id}.jupyter-widgets-disconnected {{ display: none; }}
</style>"""
# JupyterLab writes "model not found" for a widget without a kernel: the still picture stands for it.
STILL = """<style>
.jp-OutputArea-child:has(.fmlib-still) + .jp-OutputArea-child:has(> .jupyter-widgets):not(:has(.fmlib-explorer)) {{
  display: none; }}
</style><div class="fmlib-still fmlib-still-{id}"><img style="width: 100%; max-width: 840px" alt="{alt}"
src="data:image/png;base64,{png}"><p>A stored picture: run the cells up to here to move it.</p></div>"""
# What ipywidgets leaves out: names of handles and buttons, and the picture's text, for those who listen to the page.
# An image that has loaded is the one way to a line of script; it waits until the controls stand in the page.
NAMES = """<img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=" onload="
let tries = 0;
const name = (element, text) => { element.setAttribute('aria-label', text); element.title = text; };
const go = () => {
  const box = this.closest('.fmlib-explorer'), picture = box?.querySelector('img.widget-image');
  const sliders = box ? [...box.querySelectorAll('.widget-slider')] : [];
  if (!picture || sliders.some(s => !s.querySelector('[role=slider]')) || sliders.length < SLIDERS)
    return void (++tries < 200 && setTimeout(go, 50));
  picture.alt = picture.title;
  for (const slider of sliders) {
    const label = slider.querySelector('.widget-label').textContent;
    slider.querySelector('[role=slider]').setAttribute('aria-label', label);
    const [play, stop] = slider.parentElement.querySelectorAll('.widget-play button');
    if (play) { name(play, 'play or pause: ' + label); name(stop, 'back to the start: ' + label); }
  }
};
go();">"""


class _Picture(ipywidgets.Image):
    description = traitlets.Unicode("").tag(sync=True)  # without it the page fails to show the tooltip, and the image


class _Sheet(Figure):
    """A figure to be drawn on many times: `subplots` gives the same axes again, emptied. To make them takes long."""

    def __init__(self, **settings):
        super().__init__(**settings)
        FigureCanvasAgg(self)
        self._given = None  # how `subplots` was called, and what it returned
        self._new = None  # how its axes looked before anything was drawn on them
        self._asked = False  # was it called since the last `wipe`?

    def wipe(self) -> None:
        """Begin anew. What else but the axes of `subplots` stands on the figure is removed."""
        self._asked = False
        if self._given and self.axes == list(np.ravel(self._given[1])) and all(map(_plain, self.axes)):
            for artist in [*self.legends, *self.texts, *self.lines, *self.patches, *self.images, *self.artists]:
                artist.remove()
            for ax in self.axes:
                _empty(ax)
            if self._styles() == self._new:
                return
        self.clear()
        self._given = None

    def subplots(self, *args, **kwargs):
        if self._given is None or self._given[0] != (args, kwargs):
            self.clear()
            self._given = (args, kwargs), super().subplots(*args, **kwargs)
            self._new = self._styles()
            for ax in self.axes:
                if type(ax) is Axes:
                    _draw_once(ax.xaxis)
                    _draw_once(ax.yaxis)
        self._asked = True
        return self._given[1]

    def _styles(self) -> list:
        return [_style(axis) for ax in self.axes for axis in (ax.xaxis, ax.yaxis)]

    def finish(self) -> None:
        """Remove the axes that were kept, if this time nobody asked for them."""
        if self._given and not self._asked:
            for ax in np.ravel(self._given[1]):
                ax.remove()
            self._given = None


def _draw_once(axis: Axis) -> None:
    """Let an axis keep the picture of its ticks and texts for as long as they are the same: half the time of a tick."""
    draw, kept = axis.draw, [None, None]

    def draw_or_paste(renderer):
        look = renderer.dpi, *_look(axis)
        if look != kept[0]:
            alone = RendererAgg(renderer.width, renderer.height, renderer.dpi)
            draw(alone)
            pixels = np.asarray(alone.buffer_rgba())
            rows, columns = np.nonzero(pixels[..., 3])
            kept[:] = look, None
            if len(rows):
                box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
                corner = columns.min(), int(renderer.height) - rows.max() - 1
                kept[1] = *corner, np.ascontiguousarray(pixels[box][::-1])
        if kept[1]:
            renderer.draw_image(renderer.new_gc(), *kept[1])

    axis.draw = draw_or_paste


def _look(axis: Axis) -> tuple:
    """What the picture of an axis depends on."""
    ticks = []
    for group in (axis.major, axis.minor):
        places = group.locator()
        ticks += [*places, *group.formatter.format_ticks(places)]
    return axis.axes.bbox.bounds, *axis.get_view_interval(), axis.label.get_text(), *ticks, *_style(axis)


def _style(axis: Axis) -> list:
    """What `_empty` does not set anew."""
    label = [getattr(axis.label, f"get_{name}")() for name in ("color", "fontsize", "rotation", "visible")]
    return [axis.get_visible(), axis.get_scale(), *label, *(axis.get_tick_params(w) for w in ("major", "minor"))]


def _plain(ax: Axes) -> bool:
    """Has `ax` nothing that `_empty` would leave: names or dates for coordinates, axes of its own?"""
    return not (ax.child_axes or ax.xaxis.have_units() or ax.yaxis.have_units())


def _empty(ax: Axes) -> None:
    """Leave of `ax` its frame and its ticks, which are what takes long to make."""
    for artist in [*ax.lines, *ax.collections, *ax.images, *ax.patches, *ax.texts, *ax.artists]:
        artist.remove()
    if ax.get_legend():
        ax.get_legend().remove()
    ax.containers.clear()
    ax.set_prop_cycle(None)
    ax.set(title="", xlabel="", ylabel="", aspect="auto", xscale="linear", yscale="linear")
    ax.axis("on")
    ax.relim()
    ax.set_xlim(0, 1, auto=True)
    ax.set_ylim(0, 1, auto=True)


class Explorer(ipywidgets.VBox):
    """Controls above a picture that `draw(figure, **values)` draws anew whenever a control moves.

    draw: called with a matplotlib Figure, to which it adds axes, and one keyword for each control, named as in
    `controls`. controls: ipywidgets with a description and a value, by name. size: width and height in inches. alt:
    what the picture shows, for readers who cannot see it. While a control moves the picture is light; when it rests,
    `draw` is called again for a sharp one. An exception of the first frame is raised, a later one is shown below the
    picture.

    >>> def draw(figure, power):
    ...     figure.subplots().plot(range(5), [x**power for x in range(5)])
    >>> Explorer(draw, {"power": slider("power", 1, 3, 1, 2)}).render()[1:4]
    b'PNG'
    """

    def __init__(self, draw, controls: dict, size: tuple[float, float] = (7, 3.4), alt: str = ""):
        self._draw, self._controls, self._size, self._alt = draw, controls, size, alt
        self._id, self._later, self._sheet = uuid.uuid4().hex[:12], None, None
        self.picture = _Picture(format="png", tooltip=alt, layout={"width": "100%", "max_width": "840px"})
        self.problem = ipywidgets.HTML()
        for control in controls.values():
            control.style.description_width = "initial"
            control.layout.width = "95%"
            control.tooltip = control.description
            control.observe(self._redraw, "value")
        sliders = sum(not _is_list(control) for control in controls.values())
        page = HIDE.format(id=self._id) + NAMES.replace("SLIDERS", str(sliders))
        page = ipywidgets.HTML(page, layout={"display": "none"})
        rows = [_with_button(control) if _plays(control) else control for control in controls.values()]
        super().__init__([*rows, self.picture, self.problem, page])
        self.add_class("fmlib-explorer").add_class(f"fmlib-{self._id}")
        self.picture.value = self.render()

    def render(self) -> bytes:
        """The sharp picture for the present values of the controls, as PNG bytes."""
        return _sharp(self._drawn({}))

    def light(self) -> bytes:
        """The picture that is shown while a control moves: half the resolution, and axes that are used again."""
        self._sheet = self._drawn({}, self._sheet)
        return _png(self._sheet, LIGHT)

    def frames(self, most: int = 24) -> dict:
        """Pictures along the last two controls that are lists or have a play button; the others stay as they are.

        most: about how many. Returns {"axes": [{"label", "values", "start", "list"}, ...], "frames": [PNG in base64,
        ...]}, the last axis running fastest: `values` are texts, `start` is the place nearest to the present value,
        `list` says whether it is a list or a slider.
        """
        names = [name for name, control in self._controls.items() if _is_list(control) or _plays(control)][-2:]
        names.sort(key=lambda name: _plays(self._controls[name]))  # lists first: they take all their values
        axes, ticks = [], []
        for name in names:
            axis, values = _axis(self._controls[name], max(3, most // len(ticks[0])) if ticks else most)
            axes.append(axis)
            ticks.append(values)
        pictures = []
        for values in itertools.product(*ticks):
            picture = _png(self._drawn(dict(zip(names, values, strict=True))), FRAME)
            pictures.append(base64.b64encode(picture).decode())
        return {"axes": axes, "frames": pictures}

    def _drawn(self, values: dict, sheet: _Sheet | None = None) -> _Sheet:
        # For speed: titles at a set height (else all labels are measured for it), a fixed layout.
        settings = {"axes.titley": 1.0, "figure.constrained_layout.use": False}
        with matplotlib.rc_context(settings):
            figure = sheet or _Sheet(figsize=self._size)
            figure.set_layout_engine(None)  # to be saved leaves it another one
            figure.wipe()
            self._draw(figure, **{name: control.value for name, control in self._controls.items()} | values)
            figure.finish()
            figure.subplots_adjust(left=0.1, right=0.98, bottom=0.16, top=0.9, wspace=0.3, hspace=0.4)
        return figure

    def _redraw(self, _change) -> None:
        """Show a light picture at once, and the sharp one when the controls rest."""
        if self._later:
            self._later.cancel()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a plain script, where nobody would come back to it
            self._show(self.render)
        else:
            self._show(self.light)
            self._later = loop.call_later(PAUSE, self._show, self.render)

    def _show(self, picture) -> None:
        # A collection amid the drawing would keep the figure among the old objects, until a collection of everything
        # halts the slider for a third of a second: collect once, when the figure is gone.
        collecting = gc.isenabled()
        gc.disable()
        try:
            self.picture.value = picture()
            self.problem.value = ""
        except Exception as error:  # an exception in a callback would vanish: show it to the learner instead
            self.problem.value = f"<b>{type(error).__name__}</b>: {html.escape(str(error))}"
        finally:
            if collecting:
                gc.enable()
                gc.collect(1)

    def _ipython_display_(self, **kwargs) -> None:
        """The still picture, then the live widget."""
        publish = sys.modules["IPython"].get_ipython().display_pub.publish  # loaded, or nobody would call this
        png = base64.b64encode(bytes(self.picture.value)).decode()
        still = STILL.format(id=self._id, alt=html.escape(self._alt, quote=True), png=png)
        data = {"text/plain": "An explorer: run this cell to move its controls.", "text/html": still, "image/png": png}
        if "FMLIB_FRAMES" in os.environ:
            data[FRAMES] = self.frames()
        publish(data, {"image/png": {"alt": self._alt}})
        publish(self._repr_mimebundle_())


def slider(label: str, start: float, stop: float, step: float, value: float, play: bool = True) -> ipywidgets.Widget:
    """A labelled slider from `start` to `stop`, both included, over whole numbers if all four are integers.

    play: whether an explorer shows a play button beside it, for a time or a count.
    """
    whole = all(isinstance(v, int) for v in (start, stop, step, value))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    made = kind(description=label, min=start, max=stop, step=step, value=value)
    made.play = play
    return made


def choice(label: str, options) -> ipywidgets.Widget:
    """A labelled drop-down list; `options` is a list of names or a dict from names to values."""
    return ipywidgets.Dropdown(description=label, options=options)


def _is_list(control) -> bool:
    return isinstance(control, ipywidgets.Dropdown)


def _plays(control) -> bool:
    return getattr(control, "play", False)


def _axis(control, most: int) -> tuple[dict, list]:
    """How a page without a kernel shows a control, and the values it takes there: at most so many of a slider's."""
    if _is_list(control):
        texts, values = zip(*control._options_full, strict=True)
        start = control.index
    else:
        last = _last(control)
        values = [_value(control, place) for place in sorted({round(k * last / (most - 1)) for k in range(most)})]
        texts = [f"{value:g}" for value in values]
        start = min(range(len(values)), key=lambda k: abs(values[k] - control.value))
    return {"label": control.description, "values": list(texts), "start": start, "list": _is_list(control)}, values


def _last(control) -> int:
    """The number of steps from the beginning of a slider to its end."""
    return round((control.max - control.min) / control.step)


def _value(control, place: int) -> float:
    """The value of a slider after so many steps."""
    value = min(control.min + place * control.step, control.max)
    return value if isinstance(value, int) else round(value, 10)


def _with_button(control) -> ipywidgets.Widget:
    """A slider with a play button, which counts its steps: about six seconds from one end to the other."""
    last = _last(control)
    button = ipywidgets.Play(min=0, max=last, value=0, interval=min(500, max(60, 6000 // last)), show_repeat=False)
    button.layout.width, button.layout.flex = "72px", "0 0 auto"

    def place() -> int:
        return round((control.value - control.min) / control.step)

    def press(change) -> None:
        if change["new"] != place():  # else the slider is what moved, maybe by a rounding error, and stays as it is
            control.value = _value(control, change["new"])

    button.value = place()
    button.observe(press, "value")
    control.observe(lambda _: setattr(button, "value", place()), "value")
    return ipywidgets.HBox([button, control])


def _png(figure: Figure, dpi: int) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def _sharp(figure: Figure) -> bytes:
    """At twice the resolution, in 256 colours: about the bytes of a light picture."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(_png(figure, SHARP))).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG")
    return buffer.getvalue()
