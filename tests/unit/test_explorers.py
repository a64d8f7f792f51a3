import base64
import gc
import io
import weakref

import ipywidgets
import pytest
import torch
from helpers import normal, skew_mixture
from PIL import Image

from fmlib import explorers
from fmlib.exact import DataPath, MixturePath


class Drawing:
    """A `draw` that remembers what it was called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, figure, **values):
        assert not figure.axes, "the figure was not cleared"
        self.calls.append(values)
        figure.subplots().plot([0, values["height"]])
        if values["height"] == 3:
            raise ValueError("height < 3, not <b>3</b>")


@pytest.fixture
def explorer():
    controls = {"height": explorers.slider("height", 0, 5, 1, 1), "kind": explorers.choice("kind", ["a", "b"])}
    return explorers.Explorer(Drawing(), controls, size=(2, 1), alt="a line")


def picture(explorer) -> bytes:
    return bytes(explorer.picture.value)


def test_an_explorer_holds_its_controls_its_picture_and_its_first_frame(explorer):
    height, kind, image, problem = explorer.children
    assert explorer._draw.calls == [{"height": 1, "kind": "a"}]
    assert height.description == "height" and kind.options == ("a", "b") and problem.value == ""
    assert image.tooltip == "a line" and Image.open(io.BytesIO(picture(explorer))).size == (160, 80)


def test_a_moved_control_redraws(explorer):
    first = picture(explorer)
    explorer.children[0].value = 2
    second = picture(explorer)
    assert explorer._draw.calls[1:] == [{"height": 2, "kind": "a"}] and second != first
    explorer.children[1].value = "b"
    assert explorer._draw.calls[2:] == [{"height": 2, "kind": "b"}]
    explorer.children[0].value = 1
    assert picture(explorer) == first


def test_an_exception_is_shown_and_goes_away(explorer):
    before = picture(explorer)
    explorer.children[0].value = 3
    assert explorer.problem.value == "<b>ValueError</b>: height &lt; 3, not &lt;b&gt;3&lt;/b&gt;"
    assert picture(explorer) == before
    explorer.children[0].value = 2
    assert explorer.problem.value == "" and picture(explorer) != before


def test_moved_controls_leave_no_figures_behind():
    figures = []

    def draw(figure, height):
        figures.append(weakref.ref(figure))
        figure.subplots().plot([0, height])

    explorer = explorers.Explorer(draw, {"height": explorers.slider("height", 0, 50, 1, 0)}, size=(2, 1))
    for height in range(1, 21):
        explorer.children[0].value = height
    assert len(figures) == 21 and sum(figure() is not None for figure in figures[1:]) == 0 and gc.isenabled()


def test_an_exception_of_the_first_frame_is_raised():
    with pytest.raises(ValueError, match="height < 3"):
        explorers.Explorer(Drawing(), {"height": explorers.slider("height", 0, 5, 1, 3)})


def test_a_page_without_a_kernel_has_the_present_frame_as_a_png(explorer):
    explorer.children[0].value = 2
    data, _ = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert base64.b64decode(data["image/png"]) == picture(explorer) and picture(explorer)[1:4] == b"PNG"


def test_sliders_over_integers_and_numbers():
    whole, real = explorers.slider("n", 1, 9, 2, 3), explorers.slider("t", 0.0, 1.0, 0.1, 0.5)
    assert isinstance(whole, ipywidgets.IntSlider) and isinstance(real, ipywidgets.FloatSlider)
    for control, expected in [(whole, (1, 9, 2, 3)), (real, (0.0, 1.0, 0.1, 0.5))]:
        assert (control.min, control.max, control.step, control.value) == expected


DATA = normal(30, 2, dtype=torch.float32)


@pytest.mark.parametrize(
    "make",
    [
        lambda: explorers.basics.path(MixturePath(skew_mixture(torch.float32)), samples=50),
        lambda: explorers.marginalization.posterior(DataPath(DATA)),
        lambda: explorers.marginalization.posterior(DataPath(DATA[:3])),
        lambda: explorers.marginalization.target(),
        lambda: explorers.kinetic.coupling(lambda n: torch.randn(n, 2), lambda n: 2 + torch.randn(n, 2)),
    ],
    ids=["path", "posterior", "posterior of three", "target", "coupling"],
)
def test_the_explorers_draw_at_both_ends_of_every_slider(make):
    explorer = make()
    assert explorer.picture.tooltip
    for control in explorer._controls.values():
        middle, frames = control.value, set()
        ends = control.options if hasattr(control, "options") else (control.min, control.max)
        for value in ends:
            control.value = value
            assert explorer.problem.value == ""
            frames.add(picture(explorer))
        assert len(frames) == len(ends)
        control.value = middle
