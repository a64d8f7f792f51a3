"""Training that goes on, in parts, in another precision, or not at all: what `fit` promises beyond the plain loop."""

import math
import random
import shutil

import numpy as np
import pytest
import torch
from helpers import one_sentence
from torch import nn

from fmlib import batches, checkpoints, devices, training
from fmlib.couplings import MinibatchOT
from fmlib.devices import Processes
from fmlib.laws import GaussianMixture
from fmlib.models import MLP, UNet
from fmlib.objectives import VelocityMatching
from fmlib.runs import Checkpoints
from fmlib.schedules import CondOT


def data(n: int = 64) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.3, 1.0]) + 1


def network(seed: int = 3) -> MLP:
    torch.manual_seed(seed)
    return MLP(2, 16, 2)


def fit(model, data, *, checkpoint=None, checkpoint_every=1000, keep=2, resume=False, about=None, **options):
    """`training.fit` with what belongs to the disk as options of its own."""
    disk = None if checkpoint is None else Checkpoints(checkpoint, checkpoint_every, keep, resume, about)
    return training.fit(model, data, checkpoint=disk, **options)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Stopped(Exception):
    pass


def stop_at(step: int):
    def look(done, averaged):
        if done == step:
            raise Stopped

    return look


OPTIONS = {
    "plain": {},
    "clipped, warmed up": {"clip": 0.1, "warmup": 7},
    "in parts": {"accumulate": 4},
    "optimal transport": {"coupling": MinibatchOT()},
    "no average": {"ema": 0.0},
    "bfloat16": {"precision": "bf16"},
}


class Dropping(MLP):
    """A network that draws from the global generator."""

    def forward(self, x, t):
        return nn.functional.dropout(super().forward(x, t), 0.2, self.training)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", [MLP, Dropping])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(kind, options, tmp_path):
    common = {"steps": 40, "batch_size": 16, "checkpoint_every": 10, **options}
    models, runs = [], []
    for interruptions in ([], [14, 31]):
        folder = tmp_path / str(len(interruptions))
        torch.manual_seed(3)
        model = kind(2, 16, 2)
        for step in interruptions:
            with pytest.raises(Stopped):
                fit(model, data(), checkpoint=folder, resume=True, on_step=stop_at(step), **common)
            torch.manual_seed(99)
            model = kind(2, 16, 2)  # another process knows nothing of the weights
        if not interruptions:
            torch.manual_seed(3)
            model = kind(2, 16, 2)
        runs.append(fit(model, data(), checkpoint=folder, resume=True, **common))
        models.append(model)
    assert same(*models) and same(runs[0].model, runs[1].model)
    assert torch.equal(runs[0].losses, runs[1].losses)


def test_a_finished_run_is_returned_as_it_is(tmp_path):
    first = fit(network(), data(), steps=10, checkpoint=tmp_path)
    again = fit(network(5), data(), steps=10, checkpoint=tmp_path, resume=True)
    assert same(first.model, again.model) and torch.equal(first.losses, again.losses)


def test_numpys_integers_are_integers(tmp_path):
    counts = {"steps": np.int64(4), "batch_size": np.int32(8), "seed": np.int64(1), "warmup": np.int64(1)}
    first = fit(network(), data(), checkpoint=tmp_path, checkpoint_every=np.int64(2), **counts)
    counts = {name: int(value) for name, value in counts.items()}
    again = fit(network(), data(), checkpoint=tmp_path, checkpoint_every=2, resume=True, **counts)
    assert torch.equal(first.losses, again.losses)


def test_the_newest_checkpoints_stay_and_a_new_run_replaces_an_old_one(tmp_path):
    fit(network(), data(), steps=50, checkpoint=tmp_path, checkpoint_every=10, keep=3, about={"mark": 1})
    records = sorted(path.name for path in tmp_path.glob("*.json"))
    assert records == ["checkpoint-00000030.json", "checkpoint-00000040.json", "checkpoint.json"]
    assert checkpoints.load(tmp_path, steps=30)[1]["steps"] == 30
    assert checkpoints.load(tmp_path)[1]["mark"] == 1
    fit(network(), data(), steps=4, checkpoint=tmp_path, checkpoint_every=2, keep=3)
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["checkpoint-00000002.json", "checkpoint.json"]


def test_an_unfinished_run_is_not_begun_again(tmp_path):
    with pytest.raises(Stopped):
        fit(network(), data(), steps=20, checkpoint=tmp_path, checkpoint_every=10, on_step=stop_at(15))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="holds an unfinished run, 10 of 20 steps: go on with resume=True") as error:
        fit(network(), data(), steps=3, checkpoint=tmp_path)
    assert one_sentence(error)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "checkpoint.json").write_text("{")
    for resume in (False, True):
        with pytest.raises(ValueError, match="checkpoint.json is damaged or truncated"):
            fit(network(), data(), steps=3, checkpoint=tmp_path, resume=resume)
    (tmp_path / "checkpoint.json").unlink()
    assert len(fit(network(), data(), steps=3, checkpoint=tmp_path).losses) == 3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 19}, "steps was 20, is 19"),
        ({"learning_rate": 1e-3, "seed": 4}, "learning_rate was 0.002, is 0.001; seed was 0, is 4"),
        ({"batch_size": 8, "clip": 1.0}, "batch_size was 16, is 8; clip was None, is 1.0"),
        ({"coupling": MinibatchOT()}, r"coupling was 'none', is 'MinibatchOT\(\)'"),
        ({"about": {"note": "b"}}, "note was 'a', is 'b'"),
    ],
)
def test_another_configuration_is_refused_by_name(changes, message, tmp_path):
    common = {"steps": 20, "batch_size": 16, "checkpoint": tmp_path, "about": {"note": "a"}}
    fit(network(), data(), **common)
    with pytest.raises(ValueError, match=f"holds a run of other options: {message}$") as error:
        fit(network(), data(), resume=True, **(common | changes))
    assert one_sentence(error)


def test_a_finished_run_goes_on_to_more_steps_and_an_unfinished_one_keeps_its_number(tmp_path):
    """As the loop by hand: the same weights, moments and averages, the rate along the longer decay from there."""
    first = fit(network(), data(), steps=10, checkpoint=tmp_path)
    more = fit(network(5), data(), steps=30, checkpoint=tmp_path, checkpoint_every=10, resume=True)
    assert torch.equal(more.losses[:10], first.losses) and not more.losses[10:].eq(0).any()
    assert checkpoints.load(tmp_path)[1]["training"]["steps"] == 30 and not same(more.model, first.model)
    again = fit(network(5), data(), steps=30, checkpoint=tmp_path, checkpoint_every=10, resume=True)
    assert torch.equal(again.losses, more.losses)
    with pytest.raises(Stopped):
        fit(network(), data(), steps=40, checkpoint=tmp_path, checkpoint_every=10, resume=True, on_step=stop_at(35))
    with pytest.raises(Stopped):  # 30 of now 40 steps are done: unfinished
        fit(network(), data(), steps=40, checkpoint=tmp_path, checkpoint_every=1, resume=True, on_step=stop_at(35))
    with pytest.raises(ValueError, match="other options: steps was 40, is 50"):
        fit(network(), data(), steps=50, checkpoint=tmp_path, checkpoint_every=10, resume=True)


class Dicing(MLP):
    """A network that draws from Python's and NumPy's generators."""

    def forward(self, x, t):
        return super().forward(x, t) * random.uniform(0.5, 1.5) + random.gauss(0, 0.1) + np.random.randn()


def test_the_states_of_pythons_and_numpys_generators_are_part_of_the_run(tmp_path):
    runs = []
    for interruptions in ([], [13]):
        folder = tmp_path / str(len(interruptions))
        for step in [*interruptions, -1]:
            torch.manual_seed(3), random.seed(step), np.random.seed(abs(step))
            if not interruptions or step > 0:
                random.seed(0), np.random.seed(0)
            options = {"steps": 20, "batch_size": 16, "checkpoint": folder, "checkpoint_every": 5, "resume": True}
            model = Dicing(2, 16, 2)
            if step > 0:
                with pytest.raises(Stopped):
                    fit(model, data(), on_step=stop_at(step), **options)
            else:
                runs.append(fit(model, data(), **options))
    assert torch.equal(runs[0].losses, runs[1].losses) and same(runs[0].model, runs[1].model)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda state: state.pop("random"), "without training state"),
        (lambda state: state.pop("optimizer.0.exp_avg"), "lacks exp_avg of parameter 0"),
        (
            lambda state: [state.pop(key) for key in list(state) if key.startswith("optimizer.1.")],
            "lacks .* parameter 1",
        ),
        (lambda state: state.update({"optimizer.2.exp_avg_sq": torch.zeros(3)}), "exp_avg_sq must have shape"),
        (lambda state: state.pop("model.layers.0.bias"), "another network"),
        (lambda state: state.update({"losses": torch.zeros(99)}), "99 losses"),
        (lambda state: state.update({"random": torch.zeros(3)}), "random state"),
    ],
)
def test_a_state_that_lacks_something_is_refused(damage, message, tmp_path):
    """Written anew, with sums that are right: as by another program."""
    fit(network(), data(), steps=4, checkpoint=tmp_path)
    weights, state, record = checkpoints.read(tmp_path)
    model = network()
    model.load_state_dict(weights)
    damage(state)
    checkpoints.save(tmp_path, model, state=state, **record["about"])
    with pytest.raises(ValueError, match=message) as error:
        fit(network(), data(), steps=4, checkpoint=tmp_path, resume=True)
    assert one_sentence(error)


@pytest.mark.parametrize("training_record", [[], "steps", 3, None])
def test_a_record_of_another_kind_is_refused(training_record, tmp_path):
    fit(network(), data(), steps=4, checkpoint=tmp_path)
    record = checkpoints.read(tmp_path).record
    record["about"]["training"] = training_record
    (tmp_path / checkpoints.LATEST).write_text(checkpoints._text(record))
    for options in ({"resume": True}, {}):
        with pytest.raises(ValueError) as error:
            fit(network(), data(), steps=4, checkpoint=tmp_path, precision="auto", **options)
        assert one_sentence(error)


def test_another_network_or_other_data_is_refused_by_name(tmp_path):
    fit(network(), data(), steps=2, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="network was .*'width': 16.*, is .*'width': 8"):
        fit(MLP(2, 8, 2), data(), steps=2, checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"data was '\(64, 2\) float32, digest \w{8}', is '\(65, 2\)"):
        fit(network(), data(65), steps=2, checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"data was '\(64, 2\) float32, digest (\w{8})', is .* digest (?!\1)"):
        fit(network(), data() + 1, steps=2, checkpoint=tmp_path, resume=True)


def test_a_newest_checkpoint_that_is_missing_is_no_reason_to_begin_again(tmp_path):
    fit(network(), data(), steps=6, checkpoint=tmp_path, checkpoint_every=2, keep=3)
    (tmp_path / "checkpoint.json").unlink()
    for resume in (False, True):
        with pytest.raises(ValueError, match="to go back to step 4, copy checkpoint-00000004.json"):
            fit(network(), data(), steps=6, checkpoint=tmp_path, checkpoint_every=2, keep=3, resume=resume)


def test_the_same_method_of_another_object_is_another_law(tmp_path):
    laws = [GaussianMixture.isotropic(torch.full((1, 2), mean), 1.0) for mean in (0.0, 0.0, 50.0)]
    fit(network(), laws[0].sample, steps=2, checkpoint=tmp_path)
    fit(network(), laws[1].sample, steps=2, checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match="data was 'GaussianMixture.sample, .*means .*', is '"):
        fit(network(), laws[2].sample, steps=2, checkpoint=tmp_path, resume=True)


def test_what_is_noted_about_a_run_stays_with_it(tmp_path):
    options = {"steps": 6, "checkpoint": tmp_path, "checkpoint_every": 2, "seed": 1}
    with pytest.raises(Stopped):
        fit(network(), data(), about={"seed": "one", "author": "a"}, on_step=stop_at(3), **options)
    checkpoints.annotate(tmp_path, note="half way")
    with pytest.raises(ValueError, match="other options: seed was 'one', is 'two'$"):
        fit(network(), data(), about={"seed": "two"}, resume=True, **options)
    fit(network(), data(), about={"seed": "one"}, resume=True, **options)
    about = checkpoints.load(tmp_path)[1]
    assert {"seed": "one", "author": "a", "note": "half way", "steps": 6}.items() <= about.items()
    with pytest.raises(TypeError, match="about must hold JSON values only"):
        fit(network(), data(), about={"loss": math.nan}, steps=2, checkpoint=tmp_path)


def test_other_frozen_weights_are_another_run(tmp_path):
    model = network()
    model.layers[0].requires_grad_(False)
    fit(model, data(), steps=2, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="holds a run of other options: frozen was"):
        fit(network(), data(), steps=2, checkpoint=tmp_path, resume=True)


def test_what_cannot_be_resumed(tmp_path):
    checkpoints.save(tmp_path / "weights only", network())
    with pytest.raises(ValueError, match="without training state: it cannot be resumed"):
        fit(network(), data(), steps=2, checkpoint=tmp_path / "weights only", resume=True)
    fit(network(), data(), steps=2, checkpoint=tmp_path / "damaged")
    state = next((tmp_path / "damaged").glob("state-*"))
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(ValueError, match="state-.* is damaged or truncated"):
        fit(network(), data(), steps=2, checkpoint=tmp_path / "damaged", resume=True)


def test_a_folder_in_use_is_refused(tmp_path):
    with checkpoints.locked(tmp_path):
        with pytest.raises(ValueError, match="in use by a live run"):
            fit(network(), data(), steps=2, checkpoint=tmp_path)
    fit(network(), data(), steps=2, checkpoint=tmp_path)


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(tmp_path):
    class Diverging(MLP):
        calls = 0

        def forward(self, x, t):
            self.calls += 1
            return super().forward(x, t) * (math.nan if self.calls > 33 else 1)

    with pytest.raises(FloatingPointError, match="nan at step 33, near learning rate 0.0") as error:
        fit(Diverging(2, 8, 1), data(), steps=100, checkpoint=tmp_path, checkpoint_every=10)
    assert one_sentence(error)
    model, about = checkpoints.load(tmp_path, model=MLP(2, 8, 1))
    assert about["steps"] == 30 and all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("step", [9, 19])
def test_weights_that_are_not_finite_are_never_saved_nor_returned(step, tmp_path):
    """The gradient of a root at zero is not finite while the loss is; at the last step nothing else would notice."""

    class Rooted(MLP):
        calls = 0

        def forward(self, x, t):
            self.calls += 1
            value = super().forward(x, t)
            return value + (value * 0).sqrt() if self.calls > step else value

    with pytest.raises(FloatingPointError, match="weights became too large or NaN by step .*, near") as error:
        fit(Rooted(2, 8, 1), data(), steps=20, checkpoint=tmp_path, checkpoint_every=5)
    assert one_sentence(error)
    model, about = checkpoints.load(tmp_path, model=MLP(2, 8, 1))
    assert about["steps"] == 5 * (step // 5) and all(p.isfinite().all() for p in model.parameters())


def test_what_on_step_draws_is_part_of_the_run(tmp_path):
    def noisy(step, averaged):
        torch.randn(3)
        if step == stop:
            raise Stopped

    results = []
    for stop, folder in [(-1, "whole"), (14, "cut"), (-1, "cut")]:
        torch.manual_seed(3)
        model = Dropping(2, 16, 2)
        options = {"steps": 20, "batch_size": 16, "checkpoint": tmp_path / folder, "checkpoint_every": 10}
        if stop > 0:
            with pytest.raises(Stopped):
                fit(model, data(), on_step=noisy, **options)
        else:
            results.append(fit(model, data(), on_step=noisy, resume=True, **options))
    assert same(results[0].model, results[1].model)


# The loop's options


def test_a_batch_in_parts_takes_the_same_steps():
    whole, parts = (fit(network(), data(), steps=20, batch_size=32, accumulate=n) for n in (1, 4))
    torch.testing.assert_close(parts.losses, whole.losses)
    for a, b in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_warm_up_and_cosine():
    """Under a constant gradient each step of Adam is as long as its learning rate."""

    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, x, t):
            return self.w.expand_as(x)

    model, w, steps = Shift(), [0.0], 20
    far = torch.full((4, 1), 1e8, dtype=torch.float64)
    fit(model, far, steps=steps, learning_rate=0.1, warmup=4, on_step=lambda *_: w.append(model.w.item()))
    rises = [0.2, 0.4, 0.6, 0.8] + 16 * [1.0]
    rates = [0.1 * rise * (1 + math.cos(math.pi * k / steps)) / 2 for k, rise in enumerate(rises)]
    assert torch.tensor(w, dtype=torch.float64).diff().tolist() == pytest.approx(rates, rel=1e-6)


@pytest.mark.parametrize("limit", [0.05, 1e6])
def test_clipping_bounds_the_norm_of_the_gradient(limit):
    model, norms = network(), []

    def look(*_):
        norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())

    fit(model, data(), steps=10, clip=limit, on_step=look)
    assert max(norms) <= limit * 1.0001 and (max(norms) > 0.049)


def test_bfloat16_is_used_in_products_alone_and_learns_the_same():
    formats = []

    class Looking(MLP):
        def forward(self, x, t):
            value = super().forward(x, t)
            formats.append(value.dtype)
            return value

    torch.manual_seed(3)
    rough = fit(Looking(2, 64, 2), data(), steps=300, precision="bf16")
    torch.manual_seed(3)
    exact = fit(MLP(2, 64, 2), data(), steps=300)
    assert set(formats) == {torch.bfloat16} and all(p.dtype == torch.float32 for p in rough.model.parameters())
    last = exact.losses[-100:]
    error = last.std().item() / 10
    assert abs(rough.losses[-100:].mean() - last.mean()) < 4 * error
    assert not torch.equal(rough.losses, exact.losses)


@pytest.mark.parametrize(
    "features, capability, expected",
    [({"avx512_bf16": True}, (8, 0), True), ({"amx_bf16": False, "avx2": True}, (7, 5), False), ({}, (9, 0), True)],
)
def test_auto_precision_follows_the_hardware(features, capability, expected, monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    monkeypatch.setattr(devices, "_bf16_is_faster", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: capability)
    on_cpu, on_gpu = (devices.precision_of("auto", place) for place in (cpu, gpu))
    assert (on_cpu is torch.bfloat16) == any(features.get(name) for name in ("avx512_bf16", "amx_bf16"))
    assert (on_gpu is torch.bfloat16) == (capability >= (8, 0)) == expected
    for place in (cpu, gpu):
        assert devices.precision_of("float32", place) is None and devices.precision_of("bf16", place) is torch.bfloat16


def test_auto_leaves_a_format_alone_that_the_hardware_has_and_is_slow_at(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    for faster, expected in [(True, torch.bfloat16), (False, None)]:
        monkeypatch.setattr(devices, "_bf16_is_faster", lambda faster=faster: faster)
        assert devices.precision_of("auto", torch.device("cpu")) is expected
    monkeypatch.undo()
    assert devices._bf16_is_faster() in (True, False)


def test_a_run_that_goes_on_keeps_the_precision_it_began_with(tmp_path, monkeypatch):
    """Even where 'auto' would now decide otherwise, as on another machine."""
    options = {"steps": 20, "batch_size": 16, "checkpoint_every": 10}
    whole = fit(network(), data(), precision="bf16", **options)
    monkeypatch.setattr(training.devices, "multiplies_bf16", lambda place: True)
    with pytest.raises(Stopped):
        fit(network(), data(), precision="auto", checkpoint=tmp_path, on_step=stop_at(12), **options)
    monkeypatch.setattr(training.devices, "multiplies_bf16", lambda place: False)
    resumed = fit(network(), data(), precision="auto", checkpoint=tmp_path, resume=True, **options)
    assert same(whole.model, resumed.model)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own
@pytest.mark.filterwarnings("ignore:The distutils package is deprecated:DeprecationWarning")
def test_a_compiled_network_trains_as_the_other():
    plain, compiled = (fit(network(), data(), steps=5, compile=flag) for flag in (False, True))
    torch.testing.assert_close(plain.losses, compiled.losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cores", [1, 64])
def test_a_coupling_computed_ahead_changes_nothing(cores, monkeypatch):
    """The batches that threads bring, with cores to spare or without, are those that the function draws."""
    monkeypatch.setattr(batches.os, "cpu_count", lambda: cores)
    place, world = torch.device("cpu"), Processes(0, 1)
    draw, again = (batches.drawing(data(), None, {}, MinibatchOT(), 16, 5, place, world) for _ in range(2))
    for step, batch in enumerate(batches.ahead(draw, 3, 9, MinibatchOT(), place), 3):
        for a, b in zip(batch[:3], again(step)[:3], strict=True):
            assert torch.equal(a, b)
    assert step == 8


@pytest.mark.parametrize("cores", [1, 64])
def test_an_error_in_the_coupling_stops_the_training(cores, monkeypatch):
    monkeypatch.setattr(batches.os, "cpu_count", lambda: cores)

    def broken(x_0, x_1, generator=None):
        raise ZeroDivisionError("coupled badly")

    with pytest.raises(ZeroDivisionError, match="coupled badly"):
        fit(network(), data(), steps=5, coupling=broken)


def test_every_process_takes_its_share_of_one_batch():
    place = torch.device("cpu")
    labels = {"label": torch.arange(64)}
    whole = batches.drawing(data(), None, labels, None, 12, 0, place, Processes(0, 1))(7)
    shares = [batches.drawing(data(), None, labels, None, 12, 0, place, Processes(rank, 3))(7) for rank in range(3)]
    for name in ("x_0", "x_1", "t"):
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(whole, name))
    assert torch.equal(torch.cat([share.condition["label"] for share in shares]), whole.condition["label"])
    noise = [share.x_0 for share in shares]
    assert not torch.equal(noise[0], noise[1]) and not torch.equal(noise[1], noise[2])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": 1.5}, "seed must be an integer, got 1.5"),
        ({"about": {"x": torch.zeros(2)}}, "about must hold JSON values only: .*Tensor is not JSON serializable"),
    ],
)
def test_options_of_another_type(options, message, tmp_path):
    with pytest.raises(TypeError, match=message) as error:
        fit(network(), data(), steps=2, checkpoint=tmp_path / "run", **options)
    assert one_sentence(error) and not (tmp_path / "run").exists()


def test_data_and_network_of_two_formats(tmp_path):
    with pytest.raises(TypeError, match="data has dtype torch.float64 and the model torch.float32: convert one"):
        fit(network(), data().double(), steps=2, checkpoint=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_train_with_labels():
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(16) % 2
    torch.manual_seed(0)
    result = fit(UNet((1, 8, 8), 8, classes=2), x, label=y, steps=30, batch_size=16, learning_rate=3e-3)
    assert result.losses[-5:].mean() < 0.9 * result.losses[:5].mean()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 10, "accumulate": 4}, "batch_size 10 must be a multiple of 1 processes x 4 parts"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"warmup": -1}, "warmup must be at least 0, got -1"),
        ({"clip": 0.0}, "clip must be positive and finite, got 0.0"),
        ({"precision": "fp8"}, "unknown precision 'fp8'; known: auto, float32, bf16"),
        ({"checkpoint_every": 0}, "every must be at least 1, got 0"),
        ({"keep": 0}, "keep must be at least 1, got 0"),
        ({"about": {"model": "a", "keep": 1}}, "about cannot hold the names keep, model"),
    ],
)
def test_bad_options(options, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        fit(network(), data(), checkpoint=tmp_path / "run", **{"steps": 2, **options})
    assert one_sentence(error) and not (tmp_path / "run").exists()


def test_what_cannot_be_trained_on():
    with pytest.raises(ValueError, match="no parameter of model requires gradients"):
        fit(network().requires_grad_(False), data(), steps=2)
    with pytest.raises(ValueError, match="a sampler must return as many rows as it is asked for, 256, got 257"):
        fit(network(), lambda n, generator: data(n + 1), steps=2)
    with pytest.raises(TypeError, match="path must have a method sample.*got CondOT"):
        fit(network(), data(), loss=VelocityMatching(CondOT()), steps=2)


def test_data_that_requires_gradients_is_data():
    x = data().requires_grad_()
    expected = fit(network(), data(), source=2 * data(), steps=4).losses
    assert torch.equal(fit(network(), x, source=2 * x, steps=4).losses, expected) and x.grad is None


def test_a_frozen_parameter_stays_as_it_is_whatever_it_holds():
    """A mask of -inf is no weight that became too large, and whole numbers have no average."""
    model = network()
    model.mask = nn.Parameter(torch.tensor([0.0, -math.inf]), requires_grad=False)
    model.count = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    averaged = fit(model, data(), steps=4).model
    assert averaged.mask.tolist() == [0.0, -math.inf] and averaged.count.tolist() == [1, 2]
