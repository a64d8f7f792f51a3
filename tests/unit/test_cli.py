"""`python -m fmlib`, mostly inside this process; one child process is interrupted as by Ctrl-C."""

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
from helpers import SHARED_DATA
from PIL import Image

import fmlib
from fmlib import __main__ as cli
from fmlib import checkpoints, datasets, evaluation
from fmlib.models import MLP, ResidualMLP


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
    return sorted(path.name.partition("-")[0] for path in folder.iterdir() if path.name != ".lock")


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
    assert printed == pytest.approx(stored, abs=1e-4) and len(stored) == 4
    assert stored["held out images recognised"] > 0.95 and stored["energy distance over its floor"] > 2
    assert out.startswith("digits: 1437 images") and "4 steps" in out and str(tmp_path / "samples.png") in out
    assert size(tmp_path / "samples.png") == (900, 480) and err == ""
    assert cli.main(["sample", str(tmp_path), "--n", "2", "--steps", "1", "--out", str(tmp_path / "x.npz")]) == 0


def test_perfect_samples_would_score_as_real_digits():
    real, held_out = datasets.digits("train"), datasets.digits("test")
    scores = evaluation.score(real.x, real.y, real, held_out)
    assert scores["recognised_as_asked"] > 0.98 and scores["energy_distance_over_its_floor"] == 1
    assert scores["distance_to_nearest_training_image_over_held_out"] == 0
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


def test_resume_goes_on_where_the_run_was_killed(cheap, tmp_path):
    """SIGKILL cannot be caught: whatever is on the disk then must do."""
    command = ["train", "digits", "--steps", "60", "--device", "cpu", "--checkpoint-every", "10", "--resume"]
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
    assert not set(tmp_path.glob(".*")) - {tmp_path / ".lock"}


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


def test_images_are_held_out_but_never_the_only_one_of_a_class():
    labels = torch.tensor([0] * 19 + [1] + [2] * 10)
    train, held_out = evaluation._divided(datasets.Labelled(torch.arange(30.0)[:, None], labels))
    assert held_out.x.flatten().tolist() == [9, 29] and train.y.unique().tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 20 images are needed .*, got 20 of 2 classes"):
        evaluation._divided(datasets.Labelled(torch.arange(20.0)[:, None], labels[:20]))


def test_a_folder_goes_by_one_name_and_has_no_split(small_images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i in range(20):
        Path("data", "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(f"data/{'ab'[i % 2]}/{i:02d}.png")
    command = ["--out", "run", "--steps", "2", "--batch-size", "4", "--resume"]
    assert cli.main(["train", "data", *command]) == 0
    out = capsys.readouterr().out
    assert "labels, with their images to train on: 0 a (9), 1 b (9)" in out
    assert out.index("trained in") < out.index("energy distance")
    assert cli.main(["train", "./data/", *command]) == 0
    capsys.readouterr()
    assert refused(["train", "data", "--split", "test", *command], "split 'test' is for named data sets", capsys)


def test_train_mnist(small_images, tmp_path, monkeypatch, capsys):
    if not (SHARED_DATA / "t10k-images-idx3-ubyte.gz").exists():
        pytest.skip("no ../shared/data with MNIST beside the checkout")
    monkeypatch.setenv("FMLIB_DATA_DIR", str(SHARED_DATA))
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
    "seed": (["digits", "--seed", str(2**70)], "Overflow"),
}
SAMPLE = {
    "no samples": ("good", ["--n", "0"], "n must be at least 1, got 0"),
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
    def fail():
        raise TimeoutError

    monkeypatch.setattr(cli, "info", fail)
    assert refused(["info"], "TimeoutError", capsys)


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
