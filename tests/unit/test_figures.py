import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import normal
from matplotlib.colors import to_rgba

from fmlib import figures, manifolds


@pytest.fixture(autouse=True)
def closed():
    """Every figure is closed after its test, and the style is the one from before."""
    with matplotlib.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def ax():
    return figures.panels()[1][0]


def test_panels_are_a_flat_list_of_the_asked_size():
    figure, axes = figures.panels(3, 2, width=2, height=1)
    assert len(axes) == 6 and tuple(figure.get_size_inches()) == (6, 2)
    assert tuple(figures.panels(2)[0].get_size_inches()) == (6.4, 3.2)
    assert tuple(figures.panels(5)[0].get_size_inches()) == pytest.approx(
        (10.8, 2.16)
    )  # or its text would be too small on a page


def test_style_and_palette():
    figures.use_style()
    assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"] == list(figures.CYCLE)
    meanings = [figures.SOURCE, figures.TARGET, figures.PATH, figures.VELOCITY, figures.ERROR, figures.NEUTRAL]
    assert len(set(meanings)) == 6 and figures.DENSITY(0.0) == (1, 1, 1, 1)


def test_array_takes_any_tensor_without_its_graph():
    x = torch.ones(2, requires_grad=True) * 2
    assert isinstance(figures.array(x), np.ndarray) and figures.array(x).tolist() == [2, 2]


def test_space_is_square_and_labelled(ax):
    assert figures.space(ax, 2.0, "where") is ax
    assert ax.get_xlim() == ax.get_ylim() == (-2, 2) and ax.get_aspect() == 1
    assert ax.get_xlabel() and ax.get_ylabel() and ax.get_title() == "where"
    assert all(abs(tick) <= 2 for tick in [*ax.get_xticks(), *ax.get_yticks()])


def test_points(ax):
    x = normal(20, 2)
    figures.points(ax, x, figures.TARGET, label="target")
    (scatter,) = ax.collections
    np.testing.assert_array_equal(scatter.get_offsets(), x)
    assert tuple(scatter.get_facecolor()[0]) == to_rgba(figures.TARGET, 0.5) and scatter.get_label() == "target"


def test_plane_counts_along_the_first_coordinate_first():
    x = figures.plane(1.0, 3, like=normal(1, 2))
    assert x.dtype == torch.float64
    assert x.tolist() == [[a, b] for b in (-1, 0, 1) for a in (-1, 0, 1)]


def test_density_puts_each_value_at_its_place(ax):
    figures.density(ax, lambda x: x[:, 0] - 2 * x[:, 1], extent=1.5, count=5)
    (image,) = ax.images
    side = np.linspace(-1.5, 1.5, 5)
    np.testing.assert_allclose(image.get_array(), np.exp(side[None, :] - 2 * side[:, None]), rtol=1e-6)
    assert image.get_extent() == [-1.5, 1.5, -1.5, 1.5] and image.origin == "lower"


def test_field_draws_the_velocity_and_scales_its_longest_arrow(ax):
    figures.field(ax, lambda x: torch.stack([-x[:, 1], x[:, 0]], 1), extent=2.0, count=5)
    (arrows,) = ax.collections
    offsets = np.asarray(arrows.get_offsets())
    assert len(offsets) == 25 and np.abs(offsets).max() == pytest.approx(1.9)
    np.testing.assert_allclose(arrows.U, -offsets[:, 1], atol=1e-6)
    np.testing.assert_allclose(arrows.V, offsets[:, 0], atol=1e-6)
    assert np.hypot(arrows.U, arrows.V).max() / arrows.scale == pytest.approx(1.5 * 4 / 5)
    figures.field(ax, torch.zeros_like)  # a field of zeros has no longest arrow
    ax.figure.canvas.draw()


def test_trajectories_run_from_the_sources_colour_to_the_targets(ax):
    x = normal(4, 3, 2)
    figures.trajectories(ax, x)
    lines, starts, ends = ax.collections
    assert len(lines.get_segments()) == 3
    for i, line in enumerate(lines.get_segments()):
        np.testing.assert_array_equal(line, x[:, i])
    np.testing.assert_array_equal(starts.get_offsets(), x[0])
    np.testing.assert_array_equal(ends.get_offsets(), x[-1])
    assert tuple(starts.get_facecolor()[0][:3]) == to_rgba(figures.SOURCE)[:3]
    assert tuple(ends.get_facecolor()[0][:3]) == to_rgba(figures.TARGET)[:3]


@pytest.mark.parametrize("steps, window", [(12, 3), (8, 2), (1, 1)])
def test_loss_is_a_running_mean_at_the_last_step_of_its_window(ax, steps, window):
    losses = normal(steps).abs()
    figures.loss(ax, losses, window=3)
    x, y = ax.lines[0].get_data()
    assert x.tolist() == list(range(window, steps + 1))
    np.testing.assert_allclose(y, [losses[i - window : i].mean() for i in x])
    assert ax.get_xlabel() and f"mean of {window}" in ax.get_ylabel() and ax.get_ylim()[0] == 0


def test_images_tile_row_by_row_in_black_ink_on_white(ax):
    x = torch.linspace(-1, 1, 5)[:, None].expand(5, 6)
    figures.images(ax, x, shape=(2, 3), columns=3, title="tiles")
    (image,) = ax.images
    sheet = image.get_array()
    assert sheet.shape == (6, 12, 3) and ax.get_title() == "tiles"
    for i, value in enumerate(x[:, 0].tolist()):
        row, column = divmod(i, 3)
        tile = sheet[3 * row : 3 * row + 2, 4 * column : 4 * column + 3]
        np.testing.assert_allclose(tile, (1 - value) / 2, atol=1e-6)
    assert (sheet[3:5, 8:11] == 1).all() and (sheet[2] == 1).all()  # the missing tile, and the gap between rows


def test_images_in_colour_keep_their_colours(ax):
    red_green = torch.full((2, 3, 4, 4), -1.0)
    red_green[0, 0] = red_green[1, 1] = 1
    figures.images(ax, red_green, columns=2)
    sheet = ax.images[0].get_array()
    assert (sheet[:4, :4] == [1, 0, 0]).all() and (sheet[:4, 5:9] == [0, 1, 0]).all()


def test_a_globe_shows_the_front_and_fades_the_back(ax):
    """Seen along the third row of VIEW: its own direction lies in the middle, in front; the opposite one behind."""
    sphere, towards = manifolds.Sphere(), torch.tensor(figures.VIEW[2])
    x = sphere.project(torch.stack([towards, -towards]))
    assert figures.chart(ax, sphere, "globe") is ax and ax.get_title() == "globe"
    figures.chart_points(ax, sphere, x, figures.TARGET, "target")
    front, back = ax.collections
    np.testing.assert_allclose(front.get_offsets(), [[0, 0]], atol=1e-2)
    assert front.get_facecolor()[0, 3] > 3 * back.get_facecolor()[0, 3] and len(back.get_offsets()) == 1
    np.testing.assert_allclose(figures.VIEW @ figures.VIEW.T, np.eye(3), atol=2e-3)


def test_lines_on_a_torus_break_at_its_edges_and_the_disk_is_poincares(ax):
    torus, path = manifolds.Torus(), torch.tensor([[[2.5, 0.0]], [[3.0, 0.0]], [[-3.0, 0.0]], [[-2.5, 0.0]]])
    figures.chart(ax, torus)
    figures.chart_lines(ax, torus, path)
    assert [len(lines.get_segments()) for lines in ax.collections] == [2, 0] and ax.get_xlabel()
    other, hyperboloid = figures.panels()[1][0], manifolds.Hyperboloid()
    figures.chart(other, hyperboloid)
    x = hyperboloid.exp(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.5, 0.0]]))
    figures.chart_points(other, hyperboloid, x, figures.PATH)
    np.testing.assert_allclose(other.collections[0].get_offsets(), [[np.tanh(0.75), 0]], atol=1e-6)  # half the angle
