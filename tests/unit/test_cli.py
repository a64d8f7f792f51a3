"""`python -m fmlib`, mostly inside this process; one child process is interrupted as by Ctrl-C."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SHARED_DATA, one_sentence
from PIL import Image

import fmlib
from fmlib import __main__ as cli
from fmlib import checkpoints, datasets, evaluation, metrics
from fmlib.models import MLP, ResidualMLP, TokenMLP

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def outside_a_notebook(monkeypatch):
    """As on the command line, where no kernel is loaded: the progress bar is quiet."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with the checkpoint of a small network of the kind that `train` makes."""
    return digits_run(tmp_path_factory.mktemp("cli") / "runs" / "digits", ResidualMLP(64, 16, 1, classes=10))


@pytest.fixture
def cheap(monkeypatch):
    """Training without its picture and its scores, which take most of a short run."""
    monkeypatch.setattr(evaluation, "compare", lambda path, *_: path.touch())
    monkeypatch.setattr(evaluation, "score", lambda *_: {"recognised_as_asked": 0.5})
    monkeypatch.setattr(evaluation, "draw", lambda model, labels, seed: torch.zeros(len(labels), 64))


def digits_run(folder: Path, model: torch.nn.Module) -> Path:
    """A checkpoint like those of `train digits`."""
    checkpoints.save(folder, model, data="digits", classes=[str(label) for label in range(10)])
    return folder


def weights_sha(folder: Path) -> str:
    return checkpoints.read(folder).record["sha256"]


def size(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


def names(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in folder.iterdir() if path.name != ".fmlib-lock")


# Train


def test_train_writes_a_checkpoint_and_a_picture_and_prints_its_scores(tmp_path, capsys):
    run = ["train", "digits", "--out", str(tmp_path), "--steps", "4", "--seed", "5", "--device", "cpu"]
    assert cli.main(run) == 0
    out, err = capsys.readouterr()
    assert names(tmp_path) == ["checkpoint.json", "samples.png", "state", "weights"]
    model, about = checkpoints.load(tmp_path)
    assert isinstance(model, ResidualMLP) and (about["data"], about["steps"], about["seed"]) == ("digits", 4, 5)
    printed = {name: float(value) for name, value in re.findall(r"^([a-z ]+): (\d+\.\d+)$", out, re.MULTILINE)}
    stored = {name.replace("_", " "): value for name, value in about["metrics"].items()}
    assert printed == pytest.approx(stored, abs=1e-4) and len(stored) == 6
    assert stored["held out images recognised"] > 0.95 and stored["energy distance over its floor"] > 2
    assert 0.3 < stored["held out images nearer to training images"] < 0.7
    assert out.startswith("digits: 1437 images") and "4 steps" in out and str(tmp_path / "samples.png") in out
    assert size(tmp_path / "samples.png") == (900, 480) and err == ""
    assert cli.main(["sample", str(tmp_path), "--n", "2", "--steps", "1", "--out", str(tmp_path / "x.npz")]) == 0


@pytest.mark.parametrize("objective", ["mean-flow", "shortcut"])
def test_train_a_flow_map_and_sample_it_in_one_step(objective, tmp_path, capsys, monkeypatch):
    command = ["train", "digits", "--objective", objective, "--out", str(tmp_path), "--steps", "3", "--device", "cpu"]
    assert cli.main(command) == 0
    model, about = checkpoints.load(tmp_path)
    assert evaluation.is_flow_map(model) and about["objective"] == objective and about["training"]["clip"] == 1.0
    assert about["metrics"]["held_out_images_recognised"] > 0.95 and size(tmp_path / "samples.png") == (900, 480)
    calls, forward = [], ResidualMLP.forward

    def counted(self, x, t, label=None, s=None):
        calls.append((float(t), float(s)))
        return forward(self, x, t, label, s)

    monkeypatch.setattr(ResidualMLP, "forward", counted)
    out = tmp_path / "x.npz"
    for steps, expected in ([], [0, 0.25, 0.5, 0.75, 1]), (["--steps", "1"], [0, 1]), (["--steps", "2"], [0, 0.5, 1]):
        assert cli.main(["sample", str(tmp_path), "--n", "20", *steps, "--out", str(out)]) == 0
        assert calls == list(zip(expected, expected[1:], strict=False))
        calls.clear()
    assert np.load(out)["x"].shape == (20, 64) and np.load(out)["y"].tolist() == 2 * list(range(10))
    capsys.readouterr()
    assert cli.main([*command[:-4], "--steps", "5", "--objective", "velocity", "--resume"]) == 2
    assert "holds a run of other options: clip was 1.0, is None" in capsys.readouterr().err
    assert cli.main(["sample", str(tmp_path), "--schedule", "cosine", "--out", str(out)]) == 2
    assert "--schedule is for velocities, and" in capsys.readouterr().err


@pytest.fixture
def of_tokens(tmp_path) -> Path:
    """A folder with the checkpoint of a network of tokens, of fresh weights."""
    return digits_run(tmp_path / "tokens", TokenMLP(64, 18, 8, 1, classes=10))


def test_train_tokens_scores_them_and_samples_them(tmp_path, capsys):
    run = ["train", "digits", "--tokens", "--out", str(tmp_path / "run"), "--steps", "30", "--device", "cpu"]
    assert cli.main(run) == 0
    out = capsys.readouterr().out
    assert "energy distance over its floor" in out and "recognised as asked" in out
    model, about = checkpoints.load(tmp_path / "run")
    assert isinstance(model, TokenMLP) and about["tokens"] and about["metrics"]["recognised_as_asked"] > 0.2
    assert cli.main(["sample", str(tmp_path / "run"), "--n", "12", "--out", str(tmp_path / "x.npz")]) == 0
    arrays = np.load(tmp_path / "x.npz")
    assert set(np.unique(arrays["x"])) <= set(np.arange(17) / 8 - 1) and arrays["x"].shape == (12, 64)
    assert arrays["y"].tolist() == [*range(10), 0, 1]
    without = ["train", "digits", "--out", str(tmp_path / "run"), "--steps", "30", "--resume", "--device", "cpu"]
    assert refused_late(without, "holds a run of other options: .*", capsys)


def refused_late(arguments, message, capsys) -> bool:
    code, err = cli.main(arguments), capsys.readouterr().err
    return code == 2 and bool(re.match(f"fmlib: .*{message}", err))


def test_tokens_are_the_levels_of_the_digits():
    x = datasets.digits("test").x
    words = evaluation.to_tokens(x)
    assert words.unique().tolist() == list(range(17)) and torch.equal(evaluation.from_tokens(words), x)


@pytest.fixture
def half(tmp_path) -> Path:
    """A picture: a grey ramp on the upper half, transparent below, and one faint pixel."""
    pixels = np.zeros((8, 8, 2), np.uint8)
    pixels[:4, :, 1] = 255
    pixels[:4, :, 0] = np.linspace(255, 0, 32).reshape(4, 8).round()
    pixels[7, 7] = 0, 128
    Image.fromarray(pixels, "LA").save(tmp_path / "half.png")
    return tmp_path / "half.png"


def test_transparent_pixels_are_unknown_and_the_others_stay(of_tokens, half, tmp_path):
    known = evaluation.known_tokens(half)
    assert known[:32].tolist() == [round(i / 31 * 16) for i in range(32)]
    assert known[63] == 16 and (known[32:63] == -1).all()
    command = ["sample", str(of_tokens), "--known", str(half), "--steps", "3", "--n", "5", "--out"]
    assert cli.main([*command, str(tmp_path / "x.npz")]) == 0
    x = evaluation.to_tokens(torch.from_numpy(np.load(tmp_path / "x.npz")["x"]))
    assert (x[:, known >= 0] == known[known >= 0]).all() and len(x[:, 32:63].unique()) > 10
    opaque = Image.open(half).convert("L")
    opaque.save(tmp_path / "opaque.png")
    assert (evaluation.known_tokens(tmp_path / "opaque.png") >= 0).all()


def test_what_tokens_cannot_do(of_tokens, half, trained, tmp_path, capsys):
    run, out = str(of_tokens), ["--out", str(tmp_path / "x.npz")]
    Image.new("L", (28, 28)).save(tmp_path / "large.png")
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray((1000 * np.arange(64)).astype(np.uint16).reshape(8, 8)).save(tmp_path / "deep.png")
    for options, message in (
        ([str(trained), "--known", str(half)], "--known is for runs of train --tokens, and .* holds a ResidualMLP"),
        ([run, "--known", str(tmp_path / "large.png")], "large.png must have 8 x 8 pixels, got 28 x 28"),
        ([run, "--known", str(tmp_path / "deep.png")], ".*deep.png must have at most 8 bits .* the mode I"),
        ([run, "--known", str(tmp_path / "text.png")], "cannot identify image file"),
        ([run, "--known", str(tmp_path / "none.png")], ".*none.png"),
        ([run, "--schedule", "cosine"], "--schedule is for velocities, and .* holds a network of tokens"),
        ([run, "--guidance", "2"], ".* was trained without --label-dropout"),
    ):
        assert refused(["sample", *options, *out], message, capsys)
    for options in (["mnist"], ["digits", "--objective", "shortcut"], ["digits", "--label-dropout", "0.1"]):
        assert refused(["train", *options, "--tokens", "--out", str(tmp_path / "r")], "--tokens is for digits", capsys)


def test_sample_on_another_schedule(tmp_path):
    """As the formula does it with the derivatives of sine and cosine."""
    model = ResidualMLP(64, 16, 1, classes=10).eval()
    for p in model.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    command, drawn = (
        ["sample", str(digits_run(tmp_path / "run", model)), "--n", "20", "--out", str(tmp_path / "x.npz"), "--steps"],
        {},
    )
    for name, options in {"none": [], "same": ["--schedule", "cond-ot"], "cosine": ["--schedule", "cosine"]}.items():
        assert cli.main([*command, "3", *options]) == 0
        drawn[name] = torch.from_numpy(np.load(tmp_path / "x.npz")["x"])

    def cosine(x, r):
        angle = torch.pi / 2 * r
        scale = angle.sin() + angle.cos()
        t = angle.sin() / scale
        rate = torch.pi / 2 * (angle.cos() - angle.sin()) / scale
        return rate * x + scale * torch.pi / 2 / scale**2 * model(x / scale, t, label=torch.arange(20) % 10)

    noise = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = fmlib.sample(cosine, noise, steps=3)
    torch.testing.assert_close(drawn["cosine"], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(drawn["none"], drawn["same"]) and (drawn["none"] - expected).abs().max() > 1e-3
    for name in ("polynomial", "variance-preserving"):
        assert (
            cli.main([*command, "2", "--schedule", name]) == 0 and np.isfinite(np.load(tmp_path / "x.npz")["x"]).all()
        )


def test_mean_flow_is_not_for_pictures(tmp_path, capsys, monkeypatch):
    mnist_test(monkeypatch)
    pictures = ["train", "mnist", "--split", "test", "--objective", "mean-flow", "--out", str(tmp_path)]
    assert cli.main(pictures) == 2
    assert "does not differentiate a U-Net's attention forward" in capsys.readouterr().err


def test_what_a_flow_map_of_the_command_line_cannot_do(tmp_path, capsys):
    guided = ["train", "digits", "--out", str(tmp_path), "--objective", "shortcut", "--label-dropout", "0.1"]
    assert cli.main(guided) == 2
    assert "--label-dropout is for guidance, which flow maps do not know, got shortcut" in capsys.readouterr().err
    for command in (["train", "digits", "--objective", "one-step"], ["sample", "runs", "--schedule", "linear"]):
        with pytest.raises(SystemExit):
            cli.main([*command, "--out", str(tmp_path / "x.png")])
        assert "invalid choice" in capsys.readouterr().err


def test_perfect_samples_would_score_as_real_digits():
    real, held_out = datasets.digits("train"), datasets.digits("test")
    scores = evaluation.score(real.x, real.y, real, held_out)
    assert scores["recognised_as_asked"] > 0.98 and scores["energy_distance_over_its_floor"] == 1
    assert scores["energy_distance_as_pictures_over_its_floor"] == 1 and scores["nearer_to_training_images"] == 1
    assert evaluation.score(held_out.x, held_out.y, real, held_out)["nearer_to_training_images"] < 0.2
    noise = evaluation.score(torch.randn(len(real.x), 64), real.y, real, held_out)
    assert noise["recognised_as_asked"] < 0.25 and noise["energy_distance_over_its_floor"] > 10


def test_seed_decides_the_weights(cheap, tmp_path):
    def train(folder, seed):
        torch.manual_seed(len(folder))  # whatever the state before
        assert cli.main(["train", "digits", "--out", str(tmp_path / folder), "--steps", "3", "--seed", seed]) == 0
        return weights_sha(tmp_path / folder)

    assert train("a", "1") == train("bb", "1") != train("ccc", "2")


def test_train_into_a_folder_that_holds_a_run_replaces_it(cheap, tmp_path):
    shas = []
    for steps in ("2", "3"):
        assert cli.main(["train", "digits", "--out", str(tmp_path), "--steps", steps]) == 0
        assert checkpoints.load(tmp_path)[1]["steps"] == int(steps)
        assert names(tmp_path) == ["checkpoint.json", "samples.png", "state", "weights"]
        shas.append(weights_sha(tmp_path))
    assert shas[0] != shas[1]


def test_train_saves_on_the_way_and_keeps_what_it_is_asked_to(cheap, tmp_path):
    command = ["train", "digits", "--out", str(tmp_path), "--steps", "7", "--checkpoint-every", "2", "--keep", "3"]
    assert cli.main(command) == 0
    assert checkpoints.load(tmp_path)[1]["steps"] == 7
    assert [p.name for p in sorted(tmp_path.glob("checkpoint-*"))] == [
        "checkpoint-00000004.json",
        "checkpoint-00000006.json",
    ]


@pytest.mark.parametrize("kind", [[], ["--tokens"]], ids=["velocity", "tokens"])
def test_resume_goes_on_where_the_run_was_killed(kind, cheap, tmp_path):
    """SIGKILL cannot be caught: whatever is on the disk then must do."""
    command = ["train", "digits", *kind, "--steps", "60", "--device", "cpu", "--checkpoint-every", "10", "--resume"]
    assert cli.main([*command, "--out", str(tmp_path / "whole")]) == 0
    slow = "import time; from fmlib import __main__ as cli, training; old = training._average; "
    slow += "training._average = lambda *a: (time.sleep(0.05), old(*a)); cli.main()"
    child = subprocess.Popen([sys.executable, "-c", slow, *command, "--out", tmp_path / "killed"])
    wait_for(tmp_path / "killed" / "checkpoint-00000010.json", child)
    child.kill()
    child.wait()
    assert 10 <= checkpoints.load(tmp_path / "killed")[1]["steps"] < 60
    assert cli.main([*command, "--out", str(tmp_path / "killed")]) == 0
    assert weights_sha(tmp_path / "whole") == weights_sha(tmp_path / "killed")


def test_resume_of_another_configuration_names_what_differs(cheap, tmp_path, capsys):
    command = ["train", "digits", "--out", str(tmp_path), "--steps", "4"]
    assert cli.main(command) == 0
    capsys.readouterr()
    assert cli.main([*command, "--seed", "3", "--batch-size", "64", "--resume"]) == 2
    message = "holds a run of other options: batch_size was 128, is 64; seed was 0, is 3"
    assert message in capsys.readouterr().err
    assert checkpoints.load(tmp_path)[1]["seed"] == 0


def wait_for(path: Path, child: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert child.poll() is None and time.monotonic() < deadline, f"{path.name} did not come"
        time.sleep(0.02)


def test_interrupted_by_ctrl_c_the_last_checkpoint_is_whole(tmp_path):
    code = "import sys; from fmlib import __main__ as cli; sys.exit(cli.main())"
    often = ["--steps", "100000", "--checkpoint-every", "20", "--keep", "1"]
    child = subprocess.Popen(
        [sys.executable, "-c", code, "train", "digits", "--out", tmp_path, *often],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )
    try:
        wait_for(tmp_path / "checkpoint.json", child)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == 130
    assert err.splitlines() == ["interrupted; the last checkpoint, if one was saved, is whole: go on with --resume"]
    model, about = checkpoints.load(tmp_path)
    assert about["steps"] % 20 == 0 and set(names(tmp_path)) == {"checkpoint.json", "state", "weights"}
    assert not set(tmp_path.glob(".*")) - {tmp_path / ".fmlib-lock"}


# Images


@pytest.fixture
def small_images(monkeypatch):
    """A narrow network, few steps of sampling and few images scored: the same way through in a fraction of the time."""
    monkeypatch.setattr(evaluation, "SCORED", 10)
    monkeypatch.setattr(evaluation.models.UNet, "__init__", partialmethod(evaluation.models.UNet.__init__, width=8))
    monkeypatch.setattr(evaluation, "COMPARED", 900)
    draw = evaluation.draw
    monkeypatch.setattr(evaluation, "draw", lambda model, labels, seed, steps=1: draw(model, labels, seed, 1))


@pytest.mark.parametrize("classes", [True, False])
def test_train_and_sample_a_folder_of_images(classes, small_images, tmp_path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    for i in range(40):
        folder = data / ("light" if i % 2 else "dark") if classes else data
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 36), (200 * (i % 2), 3 * i, 50)).save(folder / f"{i:02d}.png")
    assert cli.main(["train", str(data), "--out", str(run), "--steps", "2", "--batch-size", "4"]) == 0
    out = capsys.readouterr().out
    assert "36 images" in out and ("recognised as asked" in out) == classes and "energy distance" in out
    assert checkpoints.load(run)[1]["classes"] == (["dark", "light"] if classes else [])
    assert cli.main(["sample", str(run), "--n", "3", "--steps", "1", "--out", str(tmp_path / "x.npz")]) == 0
    arrays = np.load(tmp_path / "x.npz")
    assert arrays["x"].shape == (3, 3, 32, 32) and sorted(arrays) == (["x", "y"] if classes else ["x"])
    assert cli.main(["sample", str(run), "--n", "3", "--steps", "1", "--out", str(tmp_path / "x.png")]) == 0
    assert cli.main(["sample", str(run), "--label", "2", "--out", str(tmp_path / "y.png")]) == 2
    assert not (tmp_path / "y.png").exists()


def test_a_folder_that_moved_is_the_same_data_and_other_images_are_not(small_images, tmp_path, monkeypatch, capsys):
    """However it is spelt, and wherever it lies; a finished run goes on to more steps."""
    for i in range(40):
        folder = tmp_path / "data" / ("light" if i % 2 else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (200 * (i % 2), 3 * i, 50)).save(folder / f"{i:02d}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluation, "report", lambda *_: None)
    command = ["--out", "run", "--batch-size", "4", "--resume", "--steps"]
    spellings = ["data", "./data/", str(tmp_path / "data"), "other/../data"]
    (tmp_path / "other").mkdir()
    for steps, spelling in enumerate(spellings, 1):
        assert cli.main(["train", spelling, *command, str(steps)]) == 0, capsys.readouterr().err
        assert checkpoints.load("run")[1]["steps"] == steps
    (tmp_path / "data").rename("moved")
    assert cli.main(["train", "moved", *command, "5"]) == 0 and checkpoints.load("run")[1]["steps"] == 5
    Image.new("RGB", (8, 8), "white").save("moved/dark/00.png")
    assert cli.main(["train", "moved", *command, "6"]) == 2
    assert "other options: data was" in capsys.readouterr().err


def test_images_are_held_out_but_never_the_only_one_of_a_class():
    labels = torch.tensor([0] * 19 + [1] + [2] * 10)
    train, held_out = evaluation._divided(datasets.Labelled(torch.arange(30.0)[:, None], labels))
    assert len(held_out.x) == 3 and train.y.unique().tolist() == [0, 1, 2]
    assert sorted([*train.x.flatten().tolist(), *held_out.x.flatten().tolist()]) == list(range(30))
    for n, classes in [(19, 1), (22, 21), (40, 40)]:
        y = torch.arange(n).clamp(max=classes - 1)
        with pytest.raises(ValueError, match=f"at least 20 images are needed .*, got {n} of {classes} classes"):
            evaluation._divided(datasets.Labelled(torch.arange(float(n))[:, None], y))


def test_the_first_image_of_a_class_is_never_held_out():
    for n in range(20, 120):
        y = torch.randint(6, (n,), generator=torch.Generator().manual_seed(n))
        rows = datasets.Labelled(torch.arange(float(n))[:, None], y)
        train, held_out = evaluation._divided(rows)
        firsts = {y.tolist().index(label) for label in y.tolist()}
        assert firsts <= set(train.x.flatten().tolist()) and len(held_out.x) == n // 10
        for part in (train, held_out):
            assert torch.equal(part.y, y[part.x.flatten().long()])


def test_the_rows_held_out_are_spread_over_ordered_data():
    """Of 5,000 rows, 500 at random: their mean place is 2,500 within four standard errors, and no period shows."""
    rows = datasets.Labelled(torch.arange(5000.0)[:, None], torch.zeros(5000, dtype=torch.long))
    for part in (evaluation._divided(rows)[1].x, evaluation.shuffled(rows).x[:500]):
        place = part.flatten()
        assert abs(place.mean() - 2500) < 4 * 5000 / 12**0.5 / 500**0.5
        last = torch.bincount(place.long() % 10, minlength=10)
        assert len(last) == 10 and ((last - 50).abs() < 4 * 45**0.5).all()
    assert torch.equal(evaluation.shuffled(rows).x.sort(0).values, rows.x)


def test_the_halves_of_mnist_are_as_far_apart_as_samples_of_one_law(monkeypatch):
    """In the order of the files they are not: the second half is of other writers."""
    ordered = mnist_test(monkeypatch)
    held_out = evaluation.shuffled(evaluation.load("mnist", "test").held_out).x.flatten(1)
    assert len(held_out) == 1000
    x = evaluation.shuffled(ordered).x

    def over_law(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The distances of parts of 250 over (1/n + 1/m) E|X - X'|, their mean for one law."""
        law = 2 / 250 * torch.cdist(a[:1000], b[:1000]).mean()
        pairs = zip(a[:1000].split(250), b[:1000].split(250), strict=True)
        return torch.tensor([metrics.energy_distance(*pair) for pair in pairs]) / law

    for mine in (over_law(x[:5000], x[5000:]), over_law(held_out, x[5000:])):
        assert abs(mine.mean() - 1) < 4 * mine.std() / 2 and mine.max() < 2
    in_order = over_law(ordered.x[:5000], ordered.x[5000:])
    assert in_order.min() > 2 and in_order.mean() > 3


def mnist_test(monkeypatch) -> datasets.Labelled:
    if not (SHARED_DATA / "t10k-images-idx3-ubyte.gz").exists():
        pytest.skip("no ../shared/data with MNIST beside the checkout")
    monkeypatch.setenv("FMLIB_DATA_DIR", str(SHARED_DATA))
    return datasets.mnist("test")


# Scores


def normal_set(n: int, seed: int, dim: int = 4) -> datasets.Labelled:
    x = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))
    return datasets.Labelled(x, torch.zeros(n, dtype=torch.long))


@pytest.mark.parametrize("seen, unseen", [(400, 400), (2000, 200), (200, 2000)])
def test_new_images_are_nearer_to_neither_set_whatever_their_sizes(seen, unseen):
    """Means over forty worlds, within four standard errors of 1/2."""
    sets = [[normal_set(n, 3 * world + i).x for i, n in enumerate((300, seen, unseen))] for world in range(40)]
    values = torch.tensor([evaluation.nearer(*world) for world in sets])
    assert abs(values.mean() - 0.5) < 4 * values.std() / 40**0.5 and values.std() < 0.1


@pytest.mark.parametrize("copied", [0.0, 0.25, 0.5, 1.0])
def test_the_share_of_copies_shows_as_theory_has_it(copied):
    """With a share c of copies, s = c + (1 - c) N / (N + m); one training image in the place of m N would be hidden."""
    seen, unseen, n = normal_set(1500, 1).x, normal_set(500, 2).x, 4000
    new = normal_set(n, 3).x
    drawn = torch.cat([seen[torch.arange(int(copied * n)) % 1500] + 1e-3, new[int(copied * n) :]])
    share = copied + (1 - copied) * 1500 / 2000
    expected = share / 1500 / (share / 1500 + (1 - share) / 500)
    assert evaluation.nearer(drawn, seen, unseen) == pytest.approx(expected, abs=0.05)


def test_a_tie_counts_half():
    points = torch.tensor([[0.0], [10.0]])
    assert evaluation.nearer(torch.tensor([[5.0]]), points[:1], points[1:]) == 0.5
    assert evaluation.nearer(points, points, points) == 0.5


def test_perfect_samples_stand_at_one_floor_whatever_their_number():
    """Forty worlds: sets of one law, more drawn than real and fewer; the mean difference lies within four errors."""
    for n in (60, 700):
        apart, floors = [], []
        for world in range(40):
            drawn, real, held_out = (normal_set(k, 3 * world + i).x for i, k in enumerate((n, 200, 100)))
            apart.append(evaluation._apart(drawn, held_out, min(n, 200)))
            floors.append(evaluation._apart(real, held_out, min(n, 200)))
        difference = torch.tensor(apart) - torch.tensor(floors)
        assert (
            abs(difference.mean()) < 4 * difference.std() / 40**0.5 and difference.std() < torch.tensor(floors).mean()
        )


def test_the_order_of_the_rows_does_not_move_the_scores_of_ordered_sets():
    """Real and held-out sets of two clusters, sorted: their first rows alone would show one cluster."""
    sets = []
    for n, seed in ((6000, 1), (1500, 2), (600, 3)):
        x, _ = normal_set(n, seed)
        y = (torch.arange(n) >= n // 2).long()
        sets.append(datasets.Labelled(x + 20 * y[:, None], y))
    real, held_out, drawn = sets
    scores = evaluation.score(drawn.x, drawn.y, real, held_out)
    assert scores["recognised_as_asked"] == scores["held_out_images_recognised"] == 1
    assert 0.4 < scores["energy_distance_over_its_floor"] < 2.5  # a part of one cluster is thousands of floors away


@pytest.mark.parametrize("classes", [[], ["a", "b"]])
def test_the_real_images_that_are_shown_come_from_everywhere_in_an_ordered_set(classes, tmp_path, monkeypatch):
    """Of 4,000 rows, each holding its place in the set: within four standard errors of the middle of those shown."""
    from fmlib import figures

    place, y = torch.arange(4000.0), torch.arange(4000) % 2
    held_out = datasets.Labelled((place / 2000 - 1)[:, None].expand(-1, 4), y)
    shown = []
    monkeypatch.setattr(figures, "images", lambda ax, x, **options: shown.append(x))
    monkeypatch.setattr(evaluation, "draw", lambda model, labels, seed: None)
    evaluation.compare(tmp_path / "real.png", None, evaluation.Data(held_out, held_out, classes), seed=0)
    value = shown[1][:, 0]
    assert len(value) == (20 if classes else 100)
    assert abs(value.mean()) < 4 / 3**0.5 / len(value) ** 0.5


def test_as_pictures_rounds_to_the_levels_of_the_data_and_clips():
    x = torch.tensor([[-1.7, -0.94, -0.93, 0.06, 0.07, 0.99, 1.4]])
    assert evaluation.as_pictures(x, datasets.digits().x).tolist() == [[-1, -1, -0.875, 0, 0.125, 1, 1]]
    real = datasets.digits("test").x
    assert torch.equal(evaluation.as_pictures(real, datasets.digits().x), real)
    bytes = torch.arange(256.0)[:, None] / 127.5 - 1
    values = 3 * torch.rand(1000, 1) - 1.5
    expected = ((values + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
    torch.testing.assert_close(evaluation.as_pictures(values, bytes), expected)


def test_noise_that_pictures_do_not_show_moves_only_the_raw_score():
    real, held_out = datasets.digits("train"), datasets.digits("test")
    shaken = real.x + 0.06 * (2 * torch.rand(real.x.shape) - 1)  # less than half a level
    scores = evaluation.score(shaken, real.y, real, held_out)
    assert scores["energy_distance_as_pictures_over_its_floor"] == 1 < scores["energy_distance_over_its_floor"]


WORDS, FLAT = TokenMLP(4, 18, 4, 1), torch.zeros(3, 4)
BAD_PICTURES = {
    "beyond white": (lambda: evaluation.to_tokens(torch.tensor([[0.0, 1.1]])), ValueError, "from -1 to 1, got 1.1"),
    "no number": (lambda: evaluation.to_tokens(FLAT * torch.nan), ValueError, "from -1 to 1, got nan"),
    "whole numbers": (lambda: evaluation.to_tokens(FLAT.long()), TypeError, "x must be a floating .* got torch.int64"),
    "the mask": (
        lambda: evaluation.from_tokens(FLAT.long() + 17),
        ValueError,
        r"x must hold tokens in \[0, 17\), got 17",
    ),
    "grey": (lambda: evaluation.from_tokens(FLAT), TypeError, "x must hold tokens, which are integers"),
    "NaN nearby": (lambda: evaluation.nearer(FLAT * torch.nan, FLAT, FLAT), ValueError, "x has 12 NaN"),
    "broadcast": (
        lambda: evaluation.nearer(FLAT, FLAT[:, :1], FLAT),
        ValueError,
        r"seen must hold .* \(4,\), got \(1,\)",
    ),
    "none seen": (lambda: evaluation.nearer(FLAT, FLAT[:0], FLAT), ValueError, "seen is empty"),
    "NaN as a picture": (lambda: evaluation.as_pictures(FLAT * torch.nan, FLAT), ValueError, "x has 12 NaN"),
    "no levels": (lambda: evaluation.as_pictures(FLAT, FLAT[:0]), ValueError, "real is empty"),
    "labels too many": (
        lambda: evaluation.shuffled(datasets.Labelled(FLAT, torch.arange(4))),
        ValueError,
        "one label for each image, got 4 for 3",
    ),
    "known to a velocity": (
        lambda: evaluation.draw(MLP(2, 4, 1), 2, 0, 1, known=torch.zeros(2).long()),
        ValueError,
        "known is for models of tokens, and a MLP is none",
    ),
    "velocity of tokens": (
        lambda: evaluation.draw(WORDS, 2, 0, 1, velocity=lambda x, t: x),
        ValueError,
        "velocity is for models of velocities, and a TokenMLP draws tokens",
    ),
    "labels in a list": (lambda: evaluation.draw(WORDS, [1, 2], 0, 1), TypeError, "labels must be an integer"),
    "a label alone": (lambda: evaluation.draw(WORDS, torch.tensor(1), 0, 1), ValueError, r"labels must .* got \(\)"),
    "a seed of a half": (lambda: evaluation.draw(WORDS, 2, 0.5, 1), TypeError, "seed must be an integer, got 0.5"),
}


@pytest.mark.parametrize("call, kind, message", BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_what_is_no_picture_and_no_request(call, kind, message):
    with pytest.raises(kind, match=message) as error:
        call()
    assert one_sentence(error)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"drawn": torch.zeros(3, 5)}, r"drawn must hold images of shape \(4,\), got \(5,\)"),
        ({"asked": torch.zeros(2)}, r"asked must hold one label for each of 3 images, got \(2,\)"),
        ({"held_out": normal_set(1, 0)}, "held_out must hold at least two images, got 1"),
        ({"drawn": torch.full((3, 4), torch.nan)}, "drawn has 12 NaN or infinite values"),
    ],
)
def test_what_cannot_be_scored(change, message):
    usual = {"drawn": torch.zeros(3, 4), "asked": None, "real": normal_set(9, 0), "held_out": normal_set(9, 1)}
    with pytest.raises(ValueError, match=message) as error:
        evaluation.score(**(usual | change))
    assert one_sentence(error)


def test_a_folder_goes_by_one_name_and_has_no_split(small_images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i in range(20):
        Path("data", "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(f"data/{'ab'[i % 2]}/{i:02d}.png")
    command = ["--out", "run", "--steps", "2", "--batch-size", "4", "--resume"]
    assert cli.main(["train", "data", *command]) == 0
    out = capsys.readouterr().out
    assert "labels, with their images to train on: 0 a (8), 1 b (10)" in out
    assert out.index("trained in") < out.index("energy distance")
    assert cli.main(["train", "./data/", *command]) == 0
    capsys.readouterr()
    assert refused(["train", "data", "--split", "test", *command], "split 'test' is for named data sets", capsys)


def test_train_mnist(small_images, tmp_path, monkeypatch, capsys):
    mnist_test(monkeypatch)
    command = ["train", "mnist", "--split", "test", "--steps", "2", "--batch-size", "8", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "mnist: 9000 images" in out and "held out images recognised: 0." in out
    model, about = checkpoints.load(tmp_path)
    assert model.config == {"shape": [1, 28, 28], "width": 8, "classes": 10} and about["split"] == "test"


def test_results_do_not_go_among_the_images(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert refused(["train", str(tmp_path), "--out", out], "--out .* lies in the folder of images", capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count, message", [(0, "holds no images"), (5, "at least 20 images are needed .*, got 5")])
def test_a_folder_that_is_no_data_set(count, message, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for i in range(count):
        Image.new("L", (8, 8)).save(tmp_path / "data" / f"{i}.png")
    assert refused(["train", str(tmp_path / "data"), "--out", str(tmp_path / "run")], message, capsys)
    assert not (tmp_path / "run").exists()


# Sample


def test_sample_writes_arrays(trained, tmp_path, capsys):
    for name, seed in [("a", "0"), ("b", "0"), ("c", "1")]:
        out = str(tmp_path / "new" / f"{name}.npz")
        assert cli.main(["sample", str(trained), "--n", "13", "--steps", "2", "--seed", seed, "--out", out]) == 0
        assert f"wrote 13 samples to {out}" in capsys.readouterr().out
    a, b, c = (np.load(tmp_path / "new" / f"{name}.npz") for name in "abc")
    assert sorted(a) == ["x", "y"] and a["x"].shape == (13, 64) and a["x"].dtype == np.float32
    assert a["y"].tolist() == [*range(10), 0, 1, 2] and np.isfinite(a["x"]).all()
    assert (a["x"] == b["x"]).all() and not (a["x"] == c["x"]).any()


def test_sample_of_one_label(trained, tmp_path):
    out = tmp_path / "seven.npz"
    assert cli.main(["sample", str(trained), "--n", "3", "--label", "7", "--steps", "2", "--out", str(out)]) == 0
    assert np.load(out)["y"].tolist() == [7, 7, 7]


class Still(ResidualMLP):
    """A network that leaves the noise as it is."""

    def forward(self, x, t, label=None):
        return torch.zeros_like(x)


def test_ten_commands_of_a_label_each_draw_as_good_a_set_as_ten_seeds(trained, tmp_path, monkeypatch):
    """Seen on the noise itself, which must be like independent normal numbers, and the same in the same command."""
    monkeypatch.setattr(checkpoints, "load", lambda run: (Still(64, 4, 1, classes=10).eval(), {"data": "digits"}))

    def drawn(*options: str) -> torch.Tensor:
        out = str(tmp_path / "x.npz")
        assert cli.main(["sample", str(trained), "--n", "40", "--steps", "1", "--out", out, *options]) == 0
        return torch.from_numpy(np.load(out)["x"])

    sets = [drawn("--label", str(label)) for label in range(10)] + [drawn(), drawn("--label", "0", "--seed", "1")]
    assert torch.equal(sets[3], drawn("--label", "3"))
    numbers = torch.stack([x.flatten() for x in sets]).double()
    correlation = numbers.corrcoef() - torch.eye(12)
    assert correlation.abs().max() < 4.5 / (40 * 64) ** 0.5
    generator = torch.Generator().manual_seed(9)
    mine, (other, third) = torch.cat(sets[:10]), torch.randn(2, 400, 64, generator=generator)
    floor = metrics.energy_distance(other, third)
    assert metrics.energy_distance(mine, third) < 1.1 * floor
    assert metrics.energy_distance(sets[0].repeat(10, 1), third) > 1.5 * floor  # one noise for all labels


@pytest.mark.parametrize("n", ["1", "25"])
def test_sample_draws_a_grid(n, trained, tmp_path):
    out = tmp_path / "grid.png"
    assert cli.main(["sample", str(trained), "--n", n, "--steps", "2", "--out", str(out)]) == 0
    assert size(out) == (500, 50 * max(2, -(-int(n) // 10))) and names(tmp_path) == ["grid.png"]


def test_draw_follows_the_labels_row_by_row():
    class Label(MLP):
        def forward(self, x, t, label):
            return (label[:, None].to(x) - x) / (1 - t)  # ends at the label

    drawn = evaluation.draw(Label(64, 4, 1), torch.tensor([3, 1, 4]), seed=0)
    torch.testing.assert_close(drawn, torch.tensor([3.0, 1.0, 4.0])[:, None].expand(3, 64), atol=1e-3, rtol=0)


def test_info(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FMLIB_DATA_DIR", str(tmp_path))
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    for fact in (str(fmlib.devices.device_of()), fmlib.__version__, torch.__version__, str(tmp_path)):
        assert fact in out


# Bad input


@pytest.fixture(scope="module")
def others(trained, tmp_path_factory) -> Path:
    """Folders that hold no digits model, one for each way."""
    folder = tmp_path_factory.mktemp("others")
    (folder / "empty").mkdir()
    (folder / "foreign").mkdir()
    (folder / "foreign" / "checkpoint.json").write_text('{"weights": "model.bin"}')
    shutil.copytree(trained, folder / "truncated")
    weights = next((folder / "truncated").glob("weights-*"))
    weights.write_bytes(weights.read_bytes()[:1000])
    checkpoints.save(folder / "plane", MLP(2, 4, 1))
    digits_run(folder / "unlabelled", ResidualMLP(64, 4, 1))
    return folder


TRAIN = {
    "data": (["imagenet"], "unknown data set 'imagenet'; known: digits, mnist, fashion-mnist, or a folder of images"),
    "no batch": (["digits", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
    "no rate": (["digits", "--learning-rate", "0"], "learning_rate must be positive and finite, got 0.0"),
    "precision": (["digits", "--precision", "half"], "unknown precision 'half'; known: auto, float32, bf16"),
    "never saved": (["digits", "--checkpoint-every", "0"], "checkpoint_every must be at least 1, got 0"),
    "none kept": (["digits", "--keep", "0"], "keep must be at least 1, got 0"),
    "split": (["mnist", "--split", "half"], "unknown split 'half'"),
    "no steps": (["digits", "--steps", "0"], "steps must be at least 1, got 0"),
    "negative steps": (["digits", "--steps", "-4"], "steps must be at least 1, got -4"),
    "device": (["digits", "--device", "abacus"], "device 'abacus' cannot be used here"),
    "seed": (["digits", "--seed", str(2**70)], r"seed must be less than 2\^64, got 1180591620717411303424"),
    "nothing": ([""], "unknown data set ''; known: digits"),
}
SAMPLE = {
    "no samples": ("good", ["--n", "0"], "n must be at least 1, got 0"),
    "seed": ("good", ["--seed", str(2**64)], r"seed must be less than 2\^64, got 18446744073709551616"),
    "late label": ("good", ["--label", "10"], r"label must lie in \[0, 10\), got 10"),
    "negative label": ("good", ["--label", "-1"], "got -1"),
    "no steps": ("good", ["--steps", "0"], "steps must be at least 1, got 0"),
    "nowhere": ("nowhere", [], "nowhere holds no checkpoint"),
    "empty": ("empty", [], "empty holds no checkpoint"),
    "foreign": ("foreign", [], "foreign/checkpoint.json is not an fmlib checkpoint"),
    "truncated": ("truncated", [], "truncated/weights-.* is damaged or truncated"),
    "plane": ("plane", [], "plane holds another model"),
    "unlabelled": (
        "unlabelled",
        ["--label", "1"],
        "unlabelled holds a model without classes: it takes no label, got 1",
    ),
}


def refused(arguments, message, capsys) -> bool:
    code, (out, err) = cli.main(arguments), capsys.readouterr()
    return code == 2 and out == "" and err.count("\n") == 1 and bool(re.match(f"fmlib: .*{message}", err))


@pytest.mark.parametrize("options, message", TRAIN.values(), ids=TRAIN)
def test_bad_training(options, message, tmp_path, capsys):
    assert refused(["train", *options, "--out", str(tmp_path / "run")], message, capsys)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("suffix", [".npz", ".png"])
@pytest.mark.parametrize("run, options, message", SAMPLE.values(), ids=SAMPLE)
def test_bad_sampling(run, options, message, suffix, trained, others, tmp_path, capsys):
    folder = trained if run == "good" else others / run
    assert refused(["sample", str(folder), *options, "--out", str(tmp_path / f"x{suffix}")], message, capsys)
    assert not list(tmp_path.iterdir())


def test_no_name_is_not_the_current_folder(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "here"))
    assert refused(["train", "digits", "--out", ""], "--out must name a folder, got ''", capsys)
    assert refused(["sample", "", "--out", "x.npz"], "run must name the folder of a checkpoint, got ''", capsys)
    assert sorted(os.listdir()) == sorted(path.name for path in trained.iterdir())


@pytest.mark.parametrize("name", ["x.jpg", "x", "npz"])
def test_a_file_of_another_kind(name, trained, tmp_path, capsys):
    message = "unknown kind of output file '.*'; known: .npz, .png"
    assert refused(["sample", str(trained), "--out", str(tmp_path / name)], message, capsys)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(trained, tmp_path, capsys):
    (tmp_path / "taken").touch()
    assert refused(["train", "digits", "--steps", "1", "--out", str(tmp_path / "taken")], "File exists", capsys)
    inside = str(tmp_path / "taken" / "x.npz")
    assert refused(["sample", str(trained), "--out", inside], "(File exists|Not a directory)", capsys)


def test_a_disk_that_fails_while_writing_leaves_no_file(trained, tmp_path, capsys, monkeypatch):
    def full(path, *_):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(cli, "_write_arrays", full)
    out = str(tmp_path / "x.npz")
    assert refused(["sample", str(trained), "--n", "1", "--steps", "1", "--out", out], "No space left", capsys)
    assert not list(tmp_path.iterdir())


def test_an_error_without_words_is_named(monkeypatch, capsys):
    def fail(options):
        raise TimeoutError

    monkeypatch.setattr(cli, "info", fail)
    assert refused(["info"], "TimeoutError", capsys)


# Terminals, pipes and several processes


def command(*arguments, **options) -> subprocess.Popen:
    """The command line as a child process, quick: one small network, a picture of nothing, one step of sampling."""
    code = """if True:
        import sys
        from fmlib import __main__ as cli, evaluation
        evaluation.network = lambda data, **_: evaluation.models.UNet((3, 32, 32), 8, classes=len(data.classes))
        evaluation.compare = lambda path, *_: path.touch()
        draw = evaluation.draw
        evaluation.draw = lambda model, labels, seed, steps=1: draw(model, labels, seed, 1)
        sys.exit(cli.main())
    """
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def two_classes(data: Path, names: tuple) -> None:
    for i in range(24):
        folder = os.path.join(os.fsencode(data), os.fsencode(names[i % 2]))
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, b"%02d.png" % i), "wb") as file:
            Image.new("RGB", (8, 8), (9 * i, 200 * (i % 2), 50)).save(file, "png")


SHORT = ["--steps", "2", "--batch-size", "4", "--device", "cpu"]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_a_name_that_the_terminal_cannot_show_stops_nothing(encoding, tmp_path):
    two_classes(tmp_path / "data", ("\u732b", b"caf\xe9"))
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    child = command("train", tmp_path / "data", "--out", tmp_path / "run", *SHORT, env=environment)
    out, err = child.communicate(timeout=100)
    assert child.returncode == 0 and err == b"", err
    shown = "\u732b".encode(encoding, "backslashreplace")
    assert b"1 " + shown + b" (" in out and b"0 caf\\udce9 (" in out and b"wrote " in out
    assert checkpoints.load(tmp_path / "run")[1]["classes"] == ["caf\udce9", "\u732b"]


def test_a_reader_who_leaves_takes_nothing_along(tmp_path):
    """As with `| head -1`: the end that is read is closed after the first line."""
    two_classes(tmp_path / "data", ("a", "b"))
    child = command("train", tmp_path / "data", "--out", tmp_path / "run", *SHORT)
    with child:
        assert child.stdout.readline().startswith(str(tmp_path / "data").encode())
        child.stdout.close()
        err = child.stderr.read()
    assert child.returncode == 0 and err == b"", err
    assert (tmp_path / "run" / "samples.png").exists()
    assert "energy_distance_over_its_floor" in checkpoints.load(tmp_path / "run")[1]["metrics"]


def test_several_processes_say_once_what_is_wrong(tmp_path):
    """The report of torchrun below it cannot be helped: it is of the process that started these."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "fmlib", "train"]
    wrong = ["digits", "--batch-size", "33", "--steps", "2", "--device", "cpu", "--out", tmp_path / "run"]
    result = subprocess.run([*run, *wrong], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    said = [line for line in result.stderr.splitlines() if line.startswith("fmlib: ")]
    assert said == ["fmlib: batch_size 33 must be a multiple of 2 processes x 1 parts"] and result.returncode


def test_the_first_process_of_an_attempt_speaks_for_all(tmp_path, monkeypatch, capsys):
    for attempt in (0, 1):
        for process in (1, 0, 2):
            (tmp_path / f"attempt_{attempt}" / str(process)).mkdir(parents=True)
            error_file = tmp_path / f"attempt_{attempt}" / str(process) / "error.json"
            monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(error_file))
            cli.complain(f"fmlib: {attempt} {process}")
    assert capsys.readouterr().err == "fmlib: 0 1\nfmlib: 1 1\n"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "no" / "such" / "folder"))
    cli.complain("fmlib: all the same")
    assert capsys.readouterr().err == "fmlib: all the same\n"


@pytest.mark.parametrize("line", ["", "paint", "train digits", "sample run --out x.npz --n many"])
def test_words_that_are_no_command(line, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(line.split())
    assert stop.value.code == 2 and "usage: python -m fmlib" in capsys.readouterr().err


def test_python_dash_m_fmlib():
    result = subprocess.run([sys.executable, "-m", "fmlib", "sample", "nowhere", "--out", "x.npz"], capture_output=True)
    assert result.returncode == 2 and result.stderr.splitlines() == [
        b"fmlib: nowhere holds no checkpoint: checkpoint.json is missing"
    ]
