"""Explorers: sliders that redraw a figure from the real, closed-form quantities.

An explorer is displayed as one output that holds both the live widget and its first frame as a PNG, so that a page
without a kernel still shows a picture.
"""

import base64
import gc
import html
import io

import ipywidgets
import matplotlib
import torch
import traitlets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from fmlib import figures


class _Picture(ipywidgets.Image):
    description = traitlets.Unicode("").tag(sync=True)  # without it the page fails to show the tooltip, and the image


class Explorer(ipywidgets.VBox):
    """Controls above a picture that `draw(figure, **values)` draws anew whenever a control moves.

    draw: called with a matplotlib Figure and one keyword for each control. controls: ipywidgets with a description and
    a value. size: inches. alt: what the picture shows, for readers who cannot see it.
    """

    def __init__(self, draw, controls: dict, size: tuple[float, float] = (7, 3.4), alt: str = ""):
        self._draw, self._controls = draw, controls
        self._size = size
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
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "image/png": base64.b64encode(bytes(self.picture.value)).decode()}, metadata


def slider(label: str, start: float, stop: float, step: float, value: float) -> ipywidgets.Widget:
    """A labelled slider over numbers, whole ones if all four are integers."""
    whole = all(isinstance(v, int) for v in (start, stop, step, value))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(description=label, min=start, max=stop, step=step, value=value)


def choice(label: str, options) -> ipywidgets.Widget:
    """A labelled drop-down list; `options` is a list of names or a dict from names to values."""
    return ipywidgets.Dropdown(description=label, options=options)


def path_explorer(path, extent: float = 3.0, samples: int = 400, seed: int = 0) -> Explorer:
    """Move t over the density p_t and velocity u_t of a `MixturePath`; on the right, samples that follow the flow."""
    from fmlib.sampling import sample

    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.randn(samples, 2, generator=generator)
    flow = sample(path.velocity, x_0, steps=100, return_path=True).x

    def draw(figure, t):
        left, right = figure.subplots(1, 2)
        figures.space(left, extent, f"density and velocity, t = {t:.2f}")
        figures.density(left, lambda x: path.log_density(x, t), extent, count=60)
        figures.field(left, lambda x: path.velocity(x, t), extent)
        figures.space(right, extent, f"{samples} samples, carried by the flow")
        figures.density(right, lambda x: path.log_density(x, t), extent, count=60)
        figures.points(right, flow[round(100 * t)], figures.VELOCITY)

    alt = "Left: the density of the path at time t with arrows of the marginal velocity. Right: samples over it."
    return Explorer(draw, {"t": slider("time t", 0.0, 1.0, 0.01, 0.7)}, alt=alt)


def posterior_explorer(path, extent: float = 3.0) -> Explorer:
    """Move a query point x and the time t; see each data point's weight and the posterior mean u_t(x) aims at."""

    def draw(figure, x, y, t):
        left, right = figure.subplots(1, 2)
        query = path.data.new_tensor([[x, y]])
        weights = path.posterior(query, t)[0]
        mean = path.x_1(query, t)[0]
        figures.space(left, extent, f"weights of the data, t = {t:.2f}")
        _weighted_points(left, path.data, weights)
        left.plot(x, y, "o", color=figures.PATH)
        left.annotate(
            "",
            (float(mean[0]), float(mean[1])),
            (x, y),
            arrowprops={"arrowstyle": "->", "color": figures.VELOCITY, "lw": 2},
        )
        order = weights.sort(descending=True).values[:20]
        right.bar(range(1, len(order) + 1), figures.array(order), color=figures.TARGET)
        right.set(xlabel="data point, heaviest first", ylabel="posterior weight", title="softmax over the data")
        right.set(ylim=(0, 1.05), xticks=(1, 10, 20), yticks=(0, 0.5, 1))

    controls = {
        "x": slider("first coordinate of x", -extent, extent, 0.1, 0.5),
        "y": slider("second coordinate of x", -extent, extent, 0.1, 0.5),
        "t": slider("time t", 0.0, 0.98, 0.02, 0.4),
    }
    alt = "Left: data points sized by posterior weight, the query point, an arrow to their mean. Right: the largest."
    return Explorer(draw, controls, alt=alt)


def target_explorer(extent: float = 3.0) -> Explorer:
    """Place one of three target points, move the time, and see the density and the marginal velocity follow."""
    from fmlib.exact import DataPath

    fixed = torch.tensor([[-1.5, 1.0], [-0.5, -1.5]])

    def draw(figure, x, y, t):
        data = torch.cat([fixed, torch.tensor([[x, y]])])
        path = DataPath(data)
        left, right = figure.subplots(1, 2)
        for ax, title in [(left, f"density, t = {t:.2f}"), (right, "marginal velocity")]:
            figures.space(ax, extent, title)
            figures.density(ax, lambda x: path.log_density(x, t), extent, count=60)
            figures.points(ax, data, figures.TARGET, size=25, alpha=1)
        figures.field(right, lambda x: path.velocity(x, t), extent)

    controls = {
        "x": slider("first coordinate of the third target point", -2.5, 2.5, 0.1, 1.5),
        "y": slider("second coordinate of the third target point", -2.5, 2.5, 0.1, 0.5),
        "t": slider("time t", 0.0, 0.9, 0.02, 0.5),
    }
    alt = "Left: the density of the path to three target points at time t. Right: arrows of the marginal velocity."
    return Explorer(draw, controls, alt=alt)


def coupling_explorer(source, target, extent: float = 3.2) -> Explorer:
    """Choose a coupling and a batch size k; see its pairs, and the cost E||X_1 - X_0||^2 against k.

    source, target: samplers (n) -> (n, 2).
    """
    from fmlib.couplings import Independent, MinibatchOT

    kinds, most = {"independent": Independent(), "minibatch OT": MinibatchOT()}, 256
    x_0, x_1 = source(4 * most).cpu(), target(4 * most).cpu()
    order = torch.Generator().manual_seed(0)
    sizes, costs, pairs = [2**power for power in range(1, 9)], {}, {}
    for name, coupling in kinds.items():
        for k in sizes:
            batches = [coupling(a, b, generator=order) for a, b in zip(x_0.split(k), x_1.split(k), strict=True)]
            costs[name, k] = sum((b - a).square().sum().item() for a, b in batches) / len(x_0)
            pairs[name, k] = torch.stack(batches[0])

    def draw(figure, name, power):
        k = 2**power
        left, right = figure.subplots(1, 2)
        figures.space(left, extent, f"the pairs of one batch, k = {k}")
        figures.trajectories(left, pairs[name, k])
        for kind, marker in [("independent", "s-"), ("minibatch OT", "o-")]:
            color = figures.VELOCITY if kind == name else figures.NEUTRAL
            right.plot(sizes, [costs[kind, size] for size in sizes], marker, color=color, label=kind)
        right.plot(k, costs[name, k], "o", color=figures.ERROR, markersize=11)
        right.set_xscale("log", base=2)
        right.set(xlabel="batch size k", title=f"cost of the coupling: {costs[name, k]:.2f}", ylim=(0, None))
        right.set_xticks((2, 16, 128), ("2", "16", "128"))
        right.legend()

    controls = {
        "name": choice("coupling", ["minibatch OT", "independent"]),
        "power": slider("batch size, as a power of two", 1, 8, 1, 3),
    }
    alt = "Left: lines between paired source and target samples. Right: the cost of both couplings against k."
    return Explorer(draw, controls, alt=alt)


def _weighted_points(ax, data: Tensor, weights: Tensor) -> None:
    data, weights = figures.array(data), figures.array(weights)
    ax.scatter(*data.T, s=8, c=figures.NEUTRAL, alpha=0.5, linewidths=0)
    ax.scatter(*data.T, s=400 * weights, c=figures.TARGET, alpha=0.7, linewidths=0)
