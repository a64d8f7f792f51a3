"""The widget that all explorers are, and the controls they are made with.

An explorer is displayed as one output that holds both the live widget and its first frame as a PNG, so that a page
without a kernel still shows a picture.
"""

import base64
import gc
import html
import io

import ipywidgets
import matplotlib
import traitlets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class _Picture(ipywidgets.Image):
    description = traitlets.Unicode("").tag(sync=True)  # without it the page fails to show the tooltip, and the image


class Explorer(ipywidgets.VBox):
    """Controls above a picture that `draw(figure, **values)` draws anew whenever a control moves.

    draw: called with an empty matplotlib Figure and one keyword for each control, named as in `controls`. controls:
    ipywidgets with a description and a value, by name. size: width and height in inches. alt: what the picture shows,
    for readers who cannot see it. An exception of the first frame is raised, a later one is shown below the picture.

    >>> def draw(figure, power):
    ...     figure.subplots().plot(range(5), [x**power for x in range(5)])
    >>> Explorer(draw, {"power": slider("power", 1, 3, 1, 2)}).render()[1:4]
    b'PNG'
    """

    def __init__(self, draw, controls: dict, size: tuple[float, float] = (7, 3.4), alt: str = ""):
        self._draw, self._controls, self._size = draw, controls, size
        self.picture = _Picture(format="png", tooltip=alt)
        self.problem = ipywidgets.HTML()
        for control in controls.values():
            control.style.description_width = "initial"
            control.layout.width = "95%"
            control.tooltip = control.description
            control.observe(self._redraw, "value")
        super().__init__([*controls.values(), self.picture, self.problem])
        self.picture.value = self.render()

    def render(self) -> bytes:
        """The picture for the present values of the controls, as PNG bytes."""
        # For speed: a new figure (clearing the old one takes longer), titles at a set height (else all labels are
        # measured for it), a fixed layout.
        settings = {"axes.titley": 1.0, "figure.constrained_layout.use": False}
        buffer = io.BytesIO()
        with matplotlib.rc_context(settings):
            figure = Figure(figsize=self._size, dpi=80)
            FigureCanvasAgg(figure)
            self._draw(figure, **{name: control.value for name, control in self._controls.items()})
            figure.subplots_adjust(left=0.1, right=0.98, bottom=0.16, top=0.9, wspace=0.3, hspace=0.4)
            figure.savefig(buffer, format="png", pil_kwargs={"compress_level": 1})
        return buffer.getvalue()

    def _redraw(self, _change) -> None:
        # A collection amid the drawing would keep the figure among the old objects, until a collection of everything
        # halts the slider for a third of a second: collect once, when the figure is gone.
        collecting = gc.isenabled()
        gc.disable()
        try:
            self.picture.value = self.render()
            self.problem.value = ""
        except Exception as error:  # an exception in a callback would vanish: show it to the learner instead
            self.problem.value = f"<b>{type(error).__name__}</b>: {html.escape(str(error))}"
        finally:
            if collecting:
                gc.enable()
                gc.collect(1)

    def _repr_mimebundle_(self, **kwargs):
        """The live widget, and its present frame for a page without a kernel."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "image/png": base64.b64encode(bytes(self.picture.value)).decode()}, metadata


def slider(label: str, start: float, stop: float, step: float, value: float) -> ipywidgets.Widget:
    """A labelled slider from `start` to `stop`, both included, over whole numbers if all four are integers."""
    whole = all(isinstance(v, int) for v in (start, stop, step, value))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(description=label, min=start, max=stop, step=step, value=value)


def choice(label: str, options) -> ipywidgets.Widget:
    """A labelled drop-down list; `options` is a list of names or a dict from names to values."""
    return ipywidgets.Dropdown(description=label, options=options)
