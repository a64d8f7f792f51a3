import asyncio
import base64
import gc
import io
import re
import weakref
from types import SimpleNamespace

import ipywidgets
import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from helpers import F64, line_cdf, line_mixture, normal, seeded, skew_mixture
from matplotlib.figure import Figure
from nbformat import v4
from PIL import Image
from scipy.stats import kstest

from fmlib import exercises, explorers, figures
from fmlib.exact import DataPath, MixturePath
from fmlib.laws import GaussianMixture, LabelledMixture

pytestmark = pytest.mark.slow


class Drawing:
    """A `draw` that remembers what it was called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, figure, **values):
        assert not any(ax.lines for ax in figure.axes), "the figure was not cleared"
        self.calls.append(values)
        figure.subplots().plot([0, values["height"]])
        if values["height"] == 3:
            raise ValueError("height < 3, not <b>3</b>")


@pytest.fixture
def explorer():
    controls = {"height": explorers.slider("height", 0, 5, 1, 1), "kind": explorers.choice("kind", ["a", "b"])}
    return explorers.Explorer(Drawing(), controls, size=(2, 1), alt="a line")


SHARP, LIGHT = (320, 160), (160, 80)


def picture(explorer) -> bytes:
    return bytes(explorer.picture.value)


def size(explorer) -> tuple[int, int]:
    return Image.open(io.BytesIO(picture(explorer))).size


def test_an_explorer_holds_its_controls_its_picture_and_its_first_frame(explorer):
    row, kind, image, problem, _ = explorer.children
    button, height = row.children
    assert explorer._draw.calls == [{"height": 1, "kind": "a"}]
    assert height.description == "height" and kind.options == ("a", "b") and problem.value == ""
    assert isinstance(button, ipywidgets.Play) and image.tooltip == "a line" and size(explorer) == SHARP


def test_a_moved_control_redraws(explorer):
    height, kind = explorer._controls.values()
    first = picture(explorer)
    height.value = 2
    second = picture(explorer)
    assert explorer._draw.calls[1:] == [{"height": 2, "kind": "a"}] and second != first
    kind.value = "b"
    assert explorer._draw.calls[2:] == [{"height": 2, "kind": "b"}]
    height.value = 1
    assert picture(explorer) == first and size(explorer) == SHARP  # at once: no loop would come back to it


def test_the_picture_is_light_while_a_control_moves_and_sharp_after_it(explorer):
    async def move():
        shown = []
        for value in (2, 4, 5):
            explorer._controls["height"].value = value
            shown.append((picture(explorer), size(explorer)))
            await asyncio.sleep(0)
            shown.append((picture(explorer), size(explorer)))  # it is not yet time for the sharp picture
        async with asyncio.timeout(60):
            while size(explorer) != SHARP:
                await asyncio.sleep(0.05)
        return shown

    shown = asyncio.run(move())
    assert [s for _, s in shown] == 6 * [LIGHT] and len({p for p, _ in shown}) == 3
    assert picture(explorer) == explorer.render()
    heights = [call["height"] for call in explorer._draw.calls]
    assert heights == [1, 2, 4, 5, 5, 5]  # one sharp picture for three changes; the last was drawn by `render` above


def test_an_exception_takes_the_place_of_a_sharp_picture_that_waits(explorer, monkeypatch):
    monkeypatch.setattr("fmlib.explorers._explorer.PAUSE", 0.01)

    async def move():
        explorer._controls["height"].value = 2
        light = picture(explorer)
        explorer._controls["height"].value = 3
        await asyncio.sleep(0.2)
        return light

    assert asyncio.run(move()) == picture(explorer) and "ValueError" in explorer.problem.value


def varied(figure, k):
    """Leaves something else behind at each k: a legend, an image, logarithmic axes, other panels, its own axes."""
    if k == 4:
        figure.add_axes([0.1, 0.1, 0.3, 0.3]).plot([1, 2])
        return
    axes = figure.subplots(1, 3 if k == 3 else 2, sharey=k == 6)
    axes[0].plot([1, 10], [1, 10 * k + 1], label="line")
    if k == 0:
        axes[0].set(title="first", xlabel="x", xscale="log", yscale="log")
        axes[0].legend()
        figure.legend()
        figure.text(0.5, 0.5, "over all")
    if k == 1:
        axes[0].imshow([[0, 1], [1, 0]])
        axes[0].axis("off")
        axes[1].bar(["a", "b"], [1, 2], label="bars")
        axes[1].errorbar([0, 1], [1, 2], [0.1, 0.2], label="errors")
        axes[1].legend()
    if k == 2:
        axes[1].set(xlim=(0, 5), ylim=(0, 3), xticks=[0, 5], aspect="equal")
        axes[1].twinx().plot([3, 4])
        axes[1].annotate("here", (1, 1))
        axes[1].inset_axes([0.5, 0.5, 0.4, 0.4]).plot([1, 2])


def test_a_light_picture_is_the_one_that_new_axes_would_give():
    explorer = explorers.Explorer(varied, {"k": explorers.slider("k", 0, 7, 1, 0)}, size=(4, 2))

    def pixels(explorer):
        return Image.open(io.BytesIO(explorer.light())).convert("RGB").tobytes()

    one_each = [explorers.Explorer(varied, {"k": explorers.slider("k", 0, 7, 1, k)}, size=(4, 2)) for k in range(8)]
    fresh = [pixels(one) for one in one_each]
    for k in [0, 1, 2, 5, 1, 0, 5, 3, 5, 4, 5, 6, 7, 2, 0]:
        explorer._controls["k"].value = k
        assert pixels(explorer) == fresh[k], k


def test_axes_that_are_pasted_look_as_if_drawn():
    """Up to the rounding of a transparent edge to 8 bits, twice."""

    def draw(figure, k):
        ax = figure.subplots(1, 2)[0]
        ax.plot([0, 10], [3, 7])
        if k in (1, 2):
            ax.set(xlabel="time t", ylabel="position", xlim=(0, 5 * k))
        if k == 3:
            ax.set(xticks=[0, 3], xticklabels=["none", "three"], ylabel="position")
            ax.xaxis.set_visible(True)
            ax.yaxis.label.set_color("red")
        if k == 4:
            ax.set(xticks=[], yscale="log")
            ax.yaxis.set_visible(False)

    explorer = explorers.Explorer(draw, {"k": explorers.slider("k", 0, 4, 1, 0)}, size=(4, 2))
    for k in [0, 1, 1, 2, 3, 3, 4, 0, 1]:
        explorer._controls["k"].value = k
        pasted = np.asarray(Image.open(io.BytesIO(explorer.light())).convert("RGB")).astype(int)
        with matplotlib.rc_context({"axes.titley": 1.0, "figure.constrained_layout.use": False}):
            figure = Figure(figsize=(4, 2))
            draw(figure, k)
            figure.subplots_adjust(left=0.1, right=0.98, bottom=0.16, top=0.9, wspace=0.3, hspace=0.4)
            buffer = io.BytesIO()
            figure.savefig(buffer, dpi=80)
        drawn = np.asarray(Image.open(buffer).convert("RGB")).astype(int)
        assert abs(pasted - drawn).max() <= 2, k


@pytest.mark.parametrize(
    ("bounds", "place", "value", "ticks"),
    [((0.0, 1.0, 0.01, 0.7), 70, 0.29, 29), ((1, 64, 1, 8), 7, 33, 32), ((0.005, 0.995, 0.005, 0.9), 179, 0.05, 9)],
)
def test_a_play_button_counts_the_steps_of_its_slider(bounds, place, value, ticks):
    moving = explorers.slider("time t", *bounds)
    explorer = explorers.Explorer(lambda figure, t: None, {"t": moving}, size=(1, 1))
    button = explorer.children[0].children[0]
    assert button.min == 0 and button.value == place and 60 <= button.interval <= 500
    button.value = ticks
    assert moving.value == value
    moving.value = bounds[1]
    assert button.value == button.max
    button.value = 0
    assert moving.value == bounds[0]


def test_a_slider_moved_to_a_rounding_error_draws_once():
    moving, calls = explorers.slider("time t", 0.0, 1.0, 0.1, 0.0), []
    explorer = explorers.Explorer(lambda figure, t: calls.append(t), {"t": moving}, size=(1, 1))
    moving.value = 0.1 + 0.2
    assert calls == [0, 0.1 + 0.2] and explorer.children[0].children[0].value == 3


def test_a_coordinate_has_no_play_button():
    still = explorers.slider("x", -1.0, 1.0, 0.1, 0.0, play=False)
    assert explorers.Explorer(lambda figure, x: None, {"x": still}, size=(1, 1)).children[0] is still


def test_an_exception_is_shown_and_goes_away(explorer):
    before, height = picture(explorer), explorer._controls["height"]
    height.value = 3
    assert explorer.problem.value == "<b>ValueError</b>: height &lt; 3, not &lt;b&gt;3&lt;/b&gt;"
    assert picture(explorer) == before
    height.value = 2
    assert explorer.problem.value == "" and picture(explorer) != before


def test_moved_controls_leave_no_figures_behind():
    figures = []

    def draw(figure, height):
        figures.append(weakref.ref(figure))
        figure.subplots().plot([0, height])

    explorer = explorers.Explorer(draw, {"height": explorers.slider("height", 0, 50, 1, 0)}, size=(2, 1))
    for height in range(1, 21):
        explorer._controls["height"].value = height
    assert len(figures) == 21 and sum(figure() is not None for figure in figures[1:]) == 0 and gc.isenabled()

    async def move():
        for height in range(21, 41):
            explorer._controls["height"].value = height

    asyncio.run(move())
    assert len(figures) == 41 and len({figure() for figure in figures[1:]} - {None}) == 1  # it is used again


def test_an_exception_of_the_first_frame_is_raised():
    with pytest.raises(ValueError, match="height < 3"):
        explorers.Explorer(Drawing(), {"height": explorers.slider("height", 0, 5, 1, 3)})


@pytest.fixture
def displayed(monkeypatch):
    """What was handed to the notebook: data and metadata."""
    shown = []
    publisher = SimpleNamespace(publish=lambda data, metadata=None: shown.append((data, metadata)))
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(display_pub=publisher))
    return shown


def test_an_explorer_is_displayed_as_a_still_picture_and_the_live_widget_that_hides_it(explorer, displayed):
    explorer._controls["height"].value = 2
    explorer._ipython_display_()
    (still, metadata), (live, _) = displayed
    assert base64.b64decode(still["image/png"]) == picture(explorer) and picture(explorer)[1:4] == b"PNG"
    assert 'alt="a line"' in still["text/html"] and still["image/png"] in still["text/html"]
    assert metadata == {"image/png": {"alt": "a line"}}
    assert still.keys() == {"text/plain", "text/html", "image/png"}  # no frames, which are for the site
    assert "application/vnd.jupyter.widget-view+json" in live and "image/png" not in live
    (name,) = re.findall(r'class="fmlib-still (fmlib-still-\w+)"', still["text/html"])
    assert f".{name} {{ display: none; }}" in explorer.children[-1].value


def test_frames_run_over_the_lists_and_the_sliders_that_play(monkeypatch, displayed):
    controls = {
        "x": explorers.slider("x", 0, 9, 1, 4, play=False),
        "t": explorers.slider("time t", 0.0, 1.0, 0.01, 0.32),
        "kind": explorers.choice("kind", {"one": 1, "two": 2, "three": 3}),
    }
    calls = []
    explorer = explorers.Explorer(lambda figure, **values: calls.append(values), controls, size=(2, 1))
    calls.clear()
    monkeypatch.setenv("FMLIB_FRAMES", "1")
    explorer._ipython_display_()
    found = displayed[0][0][explorers.FRAMES]
    texts = ["0", "0.14", "0.29", "0.43", "0.57", "0.71", "0.86", "1"]
    assert found["axes"] == [
        {"label": "kind", "values": ["one", "two", "three"], "start": 0, "list": True},
        {"label": "time t", "values": texts, "start": 2, "list": False},
    ]
    assert calls == [{"x": 4, "t": float(t), "kind": kind} for kind in (1, 2, 3) for t in texts]
    assert len(found["frames"]) == 24 and base64.b64decode(found["frames"][0])[1:4] == b"PNG"
    assert (controls["t"].value, controls["kind"].value) == (0.32, 1)


def test_frames_become_one_file_and_the_picture_keeps_its_caption(explorer, displayed, monkeypatch, tmp_path):
    run = pytest.importorskip("tests.notebooks.run")
    monkeypatch.setenv("FMLIB_FRAMES", "1")
    explorer._draw = lambda figure, height, kind: figure.subplots().plot([0, height])
    explorer._ipython_display_()
    outputs = [v4.new_output("display_data", data, metadata=metadata or {}) for data, metadata in displayed]
    caption = v4.new_markdown_cell("*Figure: a line that rises.*")
    notebook = v4.new_notebook(cells=[caption, v4.new_code_cell(outputs=outputs, id="line")])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "09_test-gone.webp").touch()
    run.store_frames(notebook, tmp_path / "09_test.ipynb")
    run.clean(notebook)
    (output,) = notebook.cells[1].outputs
    assert set(output.data) == {"image/png", "text/plain"} and output.metadata["image/png"].alt == "a line that rises."
    (path,) = (tmp_path / "images").iterdir()
    stored = output.metadata["fmlib"]
    assert stored["frames"] == f"images/{path.name}" and path.name == "09_test-line.webp"
    assert [axis["values"] for axis in stored["axes"]] == [["a", "b"], ["0", "1", "2", "3", "4", "5"]]
    width, height = stored["size"]
    with Image.open(path) as sheet:
        assert sheet.size == (width, 12 * height)


@pytest.mark.slow
def test_stored_outputs_do_not_show_what_the_caller_has_solved(monkeypatch, tmp_path):
    run = pytest.importorskip("tests.notebooks.run")
    solved = tmp_path / "progress.json"
    monkeypatch.setenv("FMLIB_PROGRESS", str(solved))
    exercises.basics.three_bumps.check(exercises.basics.three_bumps.right)
    assert solved.exists()
    cells = [v4.new_code_cell("from fmlib import exercises\nexercises.basics.three_bumps.ask()")]
    nbformat.write(v4.new_notebook(cells=cells), tmp_path / "09_test.ipynb")
    before = solved.read_bytes()
    run.execute(tmp_path / "09_test.ipynb")
    stored = (tmp_path / "09_test.ipynb").read_text()
    assert "three_bumps" in stored and "is open" in stored and "You have solved it before" not in stored
    assert solved.read_bytes() == before


def test_the_largest_pictures_become_coarser_until_a_notebook_fits():
    run = pytest.importorskip("tests.notebooks.run")
    outputs = []
    for side in (100, 400, 300):
        buffer = io.BytesIO()
        Image.effect_noise((side, side), 50).convert("RGB").save(buffer, "PNG")
        data = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
        outputs.append(v4.new_output("display_data", data))
    notebook = v4.new_notebook(cells=[v4.new_code_cell(outputs=outputs)])
    full = len(nbformat.writes(notebook))
    run.fit(notebook, full)
    assert len(nbformat.writes(notebook)) == full
    run.fit(notebook, full - 1000)
    sizes = [Image.open(io.BytesIO(base64.b64decode(o.data["image/png"]))).size[0] for o in notebook.cells[0].outputs]
    assert sizes == [100, 200, 300]


def test_sliders_over_integers_and_numbers():
    whole, real = explorers.slider("n", 1, 9, 2, 3), explorers.slider("t", 0.0, 1.0, 0.1, 0.5)
    assert isinstance(whole, ipywidgets.IntSlider) and isinstance(real, ipywidgets.FloatSlider)
    for control, expected in [(whole, (1, 9, 2, 3)), (real, (0.0, 1.0, 0.1, 0.5))]:
        assert (control.min, control.max, control.step, control.value) == expected


DATA = normal(30, 2, dtype=torch.float32)
RUNS = {name: 0.3 * normal(11, 12, 2, seed=k) for k, name in enumerate(["premetric", "straight"])}
GRIDS = {"even": lambda n: torch.linspace(0, 1, n + 1), "late": lambda n: torch.linspace(0, 1, n + 1).sqrt()}


def turning(x, t):
    return torch.stack([-x[:, 1], x[:, 0]], 1)


def half(x, t):
    return turning(x, t) / 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: explorers.basics.path(MixturePath(skew_mixture(torch.float32)), samples=50),
        lambda: explorers.marginalization.posterior(DataPath(DATA)),
        lambda: explorers.marginalization.posterior(DataPath(DATA[:3])),
        lambda: explorers.marginalization.target(),
        lambda: explorers.kinetic.coupling(lambda n: torch.randn(n, 2), lambda n: 2 + torch.randn(n, 2)),
        lambda: explorers.guidance.weight(LabelledMixture(skew_mixture(), torch.tensor([0, 1, 0])), y=1),
        lambda: explorers.couplings.source_noise(0.6),
        lambda: explorers.geometry.obstacle(RUNS, normal(20, 20).abs(), ((0.0, -1.0), (0.0, 0.3))),
        lambda: explorers.faster.few_steps({"u": turning, "slow": half}, GRIDS, DATA, 2 * DATA, most=3),
        lambda: explorers.inverse.observation(skew_mixture(), torch.tensor([[0.3, 1.0]]).double(), 0.3),
        lambda: explorers.reward.tilted(skew_mixture(), torch.tensor([0.7, 0.7], dtype=torch.float64)),
        lambda: explorers.generators.processes(MixturePath(line_mixture()), samples=50, steps=10),
        lambda: explorers.discrete.film(torch.randint(17, (20, 64), generator=seeded()), many=16),
        lambda: explorers.discrete.steps(torch.arange(1, 9, dtype=torch.float64).reshape(2, 2, 2) / 36, most=4),
        lambda: explorers.codebase.training(list(torch.rand(3, 4, 1, 8, 8)), torch.rand(30)),
        lambda: explorers.codebase.evaluations(lambda x, t: -x, normal(4, 64), SCORES, most=6),
    ],
    ids=["path", "posterior", "posterior of three", "target", "coupling", "weight", "noise of the source", "obstacle"]
    + [
        "few steps",
        "observation",
        "tilted",
        "processes",
        "film of tokens",
        "parallel steps",
        "training",
        "evaluations",
    ],
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


SCORES = {"euler": ([2, 4, 6], [3.0, 2.0, 1.5]), "midpoint": ([2, 4], [2.0, 1.0])}


def test_evaluations_are_counted_and_the_images_are_those_of_so_many():
    """On dx/dt = -x, n steps of Euler leave (1 - 1/n)^n of the noise, n / 2 of midpoint (1 - h + h^2 / 2)^(n / 2)."""
    x_0, shown = normal(4, 64), []
    explorer = explorers.codebase.evaluations(lambda x, t: -x, x_0, SCORES, most=6)
    slider = explorer._controls["n"]
    assert (slider.min, slider.max, slider.step) == (2, 6, 2)
    for method, left in (("euler", (1 - 1 / 6) ** 6), ("midpoint", (1 - 1 / 3 + 1 / 18) ** 3)):
        figure = Figure()
        explorer._draw(figure, method=method, n=6)
        shown.append(figure.axes[0].images[0].get_array())
        expected = Figure()
        figures.images(expected.subplots(), left * x_0, columns=5)
        np.testing.assert_allclose(shown[-1], expected.axes[0].images[0].get_array(), atol=1e-6)
        assert figure.axes[1].lines[2].get_xdata()[0] == 6
    assert not np.allclose(*shown)


def test_the_film_of_a_training_shows_the_picture_of_the_step():
    film, figure = list(torch.rand(3, 4, 1, 8, 8)), Figure()
    explorers.codebase.training(film, torch.rand(30))._draw(figure, done=20)
    expected = Figure()
    figures.images(expected.subplots(), film[1], columns=5)
    shown, right = figure.axes[0].images[0].get_array(), expected.axes[0].images[0].get_array()
    assert np.array_equal(shown, right) and figure.axes[1].lines[-1].get_xdata()[0] == 20


@pytest.mark.parametrize("sigma", [0.0, 0.7, 2.0])
def test_the_noise_of_the_source_against_a_regression_of_what_is_drawn(sigma):
    """The samples are N(0, 1), and what a regression on Y leaves of their variance is where the dot stands."""
    figure, n = Figure(), 20_000
    explorers.couplings.source_noise(0.6, count=n)._draw(figure, sigma=sigma)
    left, right = figure.axes
    pairs = {dots.get_label(): np.asarray(dots.get_offsets()) for dots in left.collections}
    dot = right.lines[-1].get_ydata()[0]
    for name, expected in [("samples", dot), ("true pairs", right.lines[1].get_ydata()[0])]:
        y, x = pairs[name].T
        r = np.corrcoef(x, y)[0, 1]
        assert abs(x.std() - 1) < 4 / (2 * n) ** 0.5
        assert abs(1 - r**2 - expected) < 4 * 2 * r * (1 - r**2) / n**0.5 + 1e-6


def test_few_steps_show_the_error_of_the_midpoint_method():
    """dx/dt = i x, where a midpoint step multiplies by 1 + i h - h^2 / 2, so that the error is that power less e^i."""
    end = complex(np.cos(1), np.sin(1))
    z = DATA[:, 0].numpy() + 1j * DATA[:, 1].numpy()
    x_1 = torch.as_tensor(np.stack([(z * end).real, (z * end).imag], 1)).float()
    figure = Figure()
    shown = explorers.faster.few_steps({"u": turning}, {"even": GRIDS["even"]}, DATA, x_1, most=4)
    shown._draw(figure, field="u", grid="even", n=3)
    left, right = figure.axes
    expected = [abs((1 + 1j / n - 0.5 / n**2) ** n - end) * np.sqrt((abs(z) ** 2).mean()) for n in range(1, 5)]
    np.testing.assert_allclose(right.lines[0].get_ydata(), expected, rtol=1e-3)
    np.testing.assert_allclose(right.lines[-1].get_ydata(), expected[2], rtol=1e-3)
    reached = np.asarray(left.collections[1].get_offsets()) @ [1, 1j]
    np.testing.assert_allclose(reached, z * (1 + 1j / 3 - 0.5 / 9) ** 3, atol=1e-5)


def test_pigdm_is_exact_for_a_gaussian_prior_of_unit_width_and_dps_is_not():
    """Given X_t = x, X_1 of N(0, I) has the covariance sigma^2 / (alpha^2 + sigma^2) I, which is PiGDM's guess."""
    law = GaussianMixture.isotropic(torch.zeros(1, 2, dtype=F64), 1.0)
    A, y, noise, path = torch.tensor([[0.3, 1.0]], dtype=F64), torch.tensor([0.7], dtype=F64), 0.4, MixturePath(law)
    width = torch.linalg.inv(torch.eye(2, dtype=F64) + A.T @ A / noise**2)  # of the posterior, by precisions
    told = GaussianMixture(torch.ones(1, dtype=F64), (width @ A.T @ y / noise**2)[None], width[None])
    for t in torch.tensor([0.1, 0.5, 0.9], dtype=F64):
        x, exact = normal(20, 2), MixturePath(told).velocity
        right, narrow = (explorers.inverse._guided(path, A, y, noise, wide=wide)(x, t) for wide in (True, False))
        torch.testing.assert_close(right, exact(x, t), rtol=1e-9, atol=1e-9)
        assert (narrow - exact(x, t)).abs().max() > 0.1


def test_the_explorer_of_processes_draws_the_law_of_the_path_for_each():
    """Kolmogorov's test at two times, which another time fails; only jumps leave points where they are, and leap."""
    films = explorers.generators._films(MixturePath(line_mixture()), 4000, 200, 1.0, seed=0)
    assert list(films) == list(explorers.generators.SHARES)
    for name, film in films.items():
        for k, t in ((100, 0.5), (200, 1.0)):
            assert kstest(film[k], line_cdf(line_mixture(), t, 1 - t)).pvalue > 1e-4, (name, t)
        assert kstest(film[100], line_cdf(line_mixture(), 0.75, 0.25)).pvalue < 1e-9
        moved = film.diff(dim=0).abs()
        assert (moved.max() > 1) == (name not in ("flow", "diffusion"))
        assert ((moved == 0).double().mean() > 0.5) == (name == "jumps")
    rough = {name: films[name].diff(dim=0).square().sum(0).mean() for name in ("flow", "diffusion")}
    assert rough["flow"] < 0.05 and abs(rough["diffusion"] - 1) < 0.1


def test_the_explorer_of_the_reward_shows_the_best_and_the_tilted_law():
    """The shares of the tilted law by resampling; the mean reward of the best of four Gaussians, which is known."""
    law = GaussianMixture.isotropic(torch.zeros(1, 2, dtype=torch.float64), 1.0)
    figure, slope = Figure(), torch.tensor([1.0, 0.0], dtype=torch.float64)
    explorers.reward.tilted(law, slope, samples=2000)._draw(figure, n=4, strength=1.0)
    best = float(figure.axes[0].get_title().split()[-1])
    assert abs(best - 1.0294) < 4 * 0.70 / 2000**0.5  # E max of four N(0, 1), and its standard deviation
    assert figure.axes[1].get_title() == "wanted: mean reward 1.00"

    figure, mixture, slope = Figure(), skew_mixture(), torch.tensor([0.8, -0.5], dtype=torch.float64)
    explorers.reward.tilted(mixture, slope)._draw(figure, n=1, strength=0.5)
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    x = mixture.sample(100_000, seeded())
    one = torch.ones((), dtype=torch.float64)
    parts = mixture.components(x, one, 0 * one).log_joint.softmax(1)
    shares = ((0.5 * x @ slope).softmax(0)[:, None] * parts).sum(0)
    assert np.allclose(heights[3:6], shares, atol=0.02) and np.allclose(heights[:3], mixture.weights)
    assert abs(sum(heights[6:9]) - 1) < 1e-9


def test_the_explorer_of_parallel_steps_shows_the_law_they_draw():
    """Two positions and masks: (1 - 1/n) q + (1/n) q_1 q_2 for an even grid, the sum of squared steps for any."""
    q = torch.tensor([[0.4, 0.1], [0.2, 0.3]], dtype=torch.float64)
    product = q.sum(1, keepdim=True) * q.sum(0)
    explorer = explorers.discrete.steps(q, most=4)
    for grid, together in (("even", 1 / 3), ("many first", 0.25 + (0.75**0.5 - 0.5) ** 2 + (1 - 0.75**0.5) ** 2)):
        figure = Figure()
        explorer._draw(figure, source="masks", grid=grid, n=3)
        wanted, reached = [[line[1, 1] for line in bars.get_segments()] for bars in figure.axes[0].collections]
        assert np.allclose(wanted, q.flatten()) and np.allclose(reached, q.lerp(product, together).flatten())
        error = together * (product - q).abs().sum().item() / 2
        assert figure.axes[1].get_title() == f"total variation {error:.3f}"
    uniform = Figure()
    explorer._draw(uniform, source="uniform", grid="even", n=3)
    assert float(uniform.axes[1].get_title().split()[-1]) > error


def test_the_film_of_tokens_ends_at_real_pictures_only_in_many_steps():
    """Three pictures far apart: 64 steps end on one of them, pixel by pixel; a single step mixes them."""
    pictures = torch.stack([torch.full((64,), level) for level in (0, 8, 16)])
    for source in ("masks", "uniform"):
        frames = explorers.discrete._frames(pictures, 17, source, 64, 5, seeded(1))
        ends = frames[-1]
        assert len(frames) == 65 and ((ends[:, None] == pictures).double().mean(2).amax(1) > 0.9).all()
        at_once = explorers.discrete._frames(pictures, 17, source, 1, 5, seeded(1))[-1]
        assert ((at_once[:, None] == pictures).double().mean(2).amax(1) < 0.6).all()
    ink = explorers.discrete.ink(torch.tensor([[0, 16, 17, 8] * 16]))
    assert ink.shape == (1, 3, 8, 8)
    assert ink[0, :, 0, 0].tolist() == [1, 1, 1] and ink[0, :, 0, 1].tolist() == [-1, -1, -1]
    assert ink[0, 0, 0, 2] < ink[0, 2, 0, 2] and ink[0, :, 0, 3].tolist() == [0, 0, 0]
