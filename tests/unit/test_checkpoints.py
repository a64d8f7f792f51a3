import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import one_sentence

from fmlib import checkpoints
from fmlib.models import MLP, ResidualMLP


def network(seed: int, width: int = 4) -> ResidualMLP:
    torch.manual_seed(seed)
    return ResidualMLP(2, width, blocks=1, classes=3)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def names(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in folder.iterdir())


@pytest.mark.parametrize("model", [network(0), MLP(3, 5, 2)], ids=["ResidualMLP", "MLP"])
def test_round_trip_keeps_every_bit(model, tmp_path):
    checkpoints.save(tmp_path / "new" / "run", model.train(), steps=3, metrics={"distance": 0.1})
    loaded, about = checkpoints.load(tmp_path / "new" / "run")
    assert type(loaded) is type(model) and same(loaded, model) and about == {"steps": 3, "metrics": {"distance": 0.1}}
    assert model.training and not loaded.training
    assert names(tmp_path / "new" / "run") == ["checkpoint.json", "weights"]


def test_loading_keeps_the_format_and_draws_nothing(tmp_path):
    model, x = MLP(2, 8, 1).double(), torch.randn(3, 2, dtype=torch.float64)
    checkpoints.save(tmp_path, model)
    before = torch.get_rng_state()
    loaded, _ = checkpoints.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(loaded, model) and torch.equal(loaded(x, 0.3), model(x, 0.3))


def test_a_newer_checkpoint_replaces_the_older_one(tmp_path):
    for seed in (1, 2, 2):
        checkpoints.save(tmp_path, network(seed), seed=seed)
        loaded, about = checkpoints.load(tmp_path)
        assert same(loaded, network(seed)) and about == {"seed": seed}
        assert names(tmp_path) == ["checkpoint.json", "weights"]


def test_files_have_the_usual_permissions(tmp_path):
    checkpoints.save(tmp_path, network(0))
    (tmp_path / "usual").touch()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "usual").stat().st_mode}


# Failures while writing


def failing(function, at: int, error: BaseException):
    """`function`, raising `error` instead of its call number `at`."""
    calls = iter(range(at + 1))

    def wrapper(*args, **kwargs):
        if next(calls, None) == at:
            raise error
        return function(*args, **kwargs)

    return wrapper


FAILURES = {
    "weights written": (Path, "write_bytes", 0),
    "weights synced": (checkpoints.os, "fsync", 0),
    "weights renamed": (Path, "replace", 0),
    "record written": (Path, "write_text", 0),
    "record synced": (checkpoints.os, "fsync", 1),
    "record renamed": (Path, "replace", 1),
}


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()], ids=["disk", "Ctrl-C"])
@pytest.mark.parametrize("owner, name, at", FAILURES.values(), ids=FAILURES)
def test_a_failure_leaves_the_old_checkpoint_and_no_temporary_file(owner, name, at, error, tmp_path, monkeypatch):
    checkpoints.save(tmp_path, network(1), seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing(getattr(owner, name), at, error))
        with pytest.raises(type(error)):
            checkpoints.save(tmp_path, network(2), seed=2)
    loaded, about = checkpoints.load(tmp_path)
    assert same(loaded, network(1)) and about == {"seed": 1}
    assert not list(tmp_path.glob(".*"))
    checkpoints.save(tmp_path, network(3), seed=3)
    assert same(checkpoints.load(tmp_path)[0], network(3)) and names(tmp_path) == ["checkpoint.json", "weights"]


def test_half_written_weights_never_get_their_name(tmp_path, monkeypatch):
    def half(path, content):
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(tmp_path, network(1))
    assert not list(tmp_path.iterdir())


def test_what_json_cannot_hold_leaves_the_old_checkpoint(tmp_path):
    checkpoints.save(tmp_path, network(1), seed=1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoints.save(tmp_path, network(2), value=torch.zeros(3))
    assert same(checkpoints.load(tmp_path)[0], network(1)) and not list(tmp_path.glob(".*"))


def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path):
    """A child process is killed just before and just after every call that touches the disk."""
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        import torch
        from fmlib import checkpoints
        from fmlib.models import MLP

        def network(seed):
            torch.manual_seed(seed)
            return MLP(2, 4, 1)

        def dying(function, at, after):
            calls = iter(range(at + 1))
            def wrapper(*args, **kwargs):
                mine = next(calls, None) == at
                if mine and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = function(*args, **kwargs)
                if mine:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result
            return wrapper

        spots = [(Path, "write_bytes", 0), (os, "fsync", 0), (Path, "replace", 0), (Path, "write_text", 0)]
        spots += [(os, "fsync", 1), (Path, "replace", 1), (Path, "unlink", 2)]
        for number, (owner, name, at) in enumerate(spots):
            for after in (False, True):
                folder = Path(sys.argv[1]) / f"{number}-{after}"
                checkpoints.save(folder, network(1), seed=1)
                child = os.fork()
                if not child:
                    setattr(owner, name, dying(getattr(owner, name), at, after))
                    checkpoints.save(folder, network(2), seed=2)
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == signal.SIGKILL, (name, at, after)
                model, about = checkpoints.load(folder)
                twin = network(about["seed"])
                assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
                checkpoints.save(folder, network(3), seed=3)
                assert checkpoints.load(folder)[1] == {"seed": 3}
                print(about["seed"], end=" ")
    """
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == 11 * ["1"] + 3 * ["2"]  # the rename of the record is the moment of change


# Bad checkpoints


@pytest.fixture
def run(tmp_path) -> Path:
    checkpoints.save(tmp_path, network(1), seed=1)
    return tmp_path


def weights_of(run: Path) -> Path:
    return next(run.glob("weights-*"))


def edit(run: Path, **changes) -> None:
    file = run / "checkpoint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def foreign_weights(run: Path, content: bytes) -> None:
    weights_of(run).write_bytes(content)
    edit(run, sha256=hashlib.sha256(content).hexdigest())


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


CONFIG = {"dim": 2, "width": 4, "blocks": 1, "classes": 3}
DAMAGE = {
    "cut weights": (lambda run: cut(weights_of(run), 0.9), "weights-.* is damaged or truncated"),
    "empty weights": (lambda run: cut(weights_of(run), 0), "weights-.* is damaged or truncated"),
    "one bit": (lambda run: flip(weights_of(run)), "weights-.* is damaged or truncated"),
    "no weights": (lambda run: weights_of(run).unlink(), "checkpoint.json names weights-.*, which is missing"),
    "cut record": (lambda run: cut(run / "checkpoint.json", 0.7), "checkpoint.json is damaged or truncated"),
    "empty record": (lambda run: cut(run / "checkpoint.json", 0), "checkpoint.json is damaged or truncated"),
    "bytes": (lambda run: (run / "checkpoint.json").write_bytes(b"\xff\xfe\x00"), "checkpoint.json is damaged"),
    "no record": (lambda run: (run / "checkpoint.json").unlink(), "holds no checkpoint: checkpoint.json is missing"),
    "list": (lambda run: (run / "checkpoint.json").write_text("[1, 2]"), "checkpoint.json is not an fmlib checkpoint"),
    "stranger": (lambda run: (run / "checkpoint.json").write_text('{"a": 1}'), "is not an fmlib checkpoint"),
    "other format": (lambda run: edit(run, format="fmlib checkpoint 9"), "checkpoint.json is not an fmlib checkpoint"),
    "gap": (
        lambda run: (run / "checkpoint.json").write_text('{"format": "fmlib checkpoint 1", "network": "MLP"}'),
        "checkpoint.json lacks about, config, sha256, weights",
    ),
    "unknown network": (
        lambda run: edit(run, network="Net"),
        "unknown network 'Net'; known: MLP, ResidualMLP, UNet; give model=",
    ),
    "network list": (lambda run: edit(run, network=["MLP"]), "unknown network"),
    "other network": (lambda run: edit(run, network="MLP"), "checkpoint.json: the weights do not fit a MLP"),
    "other width": (lambda run: edit(run, config={**CONFIG, "width": 8}), "json: the weights do not fit"),
    "no such option": (lambda run: edit(run, config={**CONFIG, "heads": 8}), "json: the weights do not fit.*heads"),
    "config of words": (lambda run: edit(run, config={**CONFIG, "dim": "two"}), "json: the weights do not fit"),
    "negative config": (lambda run: edit(run, config={**CONFIG, "width": -4}), "json: the weights do not fit"),
    "no config": (lambda run: edit(run, config=None), "json: the weights do not fit"),
    "about of a number": (lambda run: edit(run, about=3), "json is damaged: its entries do not fit together"),
    "state without sum": (lambda run: edit(run, state="state-0.safetensors"), "json is damaged: its entries"),
    "foreign weights": (lambda run: foreign_weights(run, b"not safetensors"), "weights-.* is no safetensors file"),
}


@pytest.mark.parametrize("damage, message", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_named_and_not_loaded(damage, message, run):
    damage(run)
    with pytest.raises(ValueError, match=message) as error:
        checkpoints.load(run)
    assert one_sentence(error) and str(run) in str(error.value)


def test_weights_are_looked_for_in_the_folder_alone(run):
    edit(run, weights="../../" + weights_of(run).name)
    assert same(checkpoints.load(run)[0], network(1))
    edit(run, weights="/etc/passwd")
    with pytest.raises(ValueError, match="names passwd, which is missing"):
        checkpoints.load(run)


@pytest.mark.parametrize("folder", ["nowhere", "a file"])
def test_no_folder(folder, tmp_path):
    (tmp_path / "a file").touch()
    with pytest.raises(ValueError, match=f"{folder} holds no checkpoint"):
        checkpoints.load(tmp_path / folder)


class Own(MLP):
    """A network of somebody else's."""


def test_a_network_of_an_unknown_class_is_loaded_into_one_like_it(tmp_path):
    saved = Own(2, 4, 1)
    checkpoints.save(tmp_path, saved, steps=3)
    with pytest.raises(ValueError, match="unknown network 'Own'; known: .*; give model=") as error:
        checkpoints.load(tmp_path)
    assert one_sentence(error)
    loaded, about = checkpoints.load(tmp_path, model=Own(2, 4, 1))
    assert same(loaded, saved) and isinstance(loaded, Own) and about == {"steps": 3}
    with pytest.raises(ValueError, match="the weights do not fit a Linear"):
        checkpoints.load(tmp_path, model=torch.nn.Linear(2, 2))


def test_a_class_that_takes_a_known_name_is_not_the_known_one(tmp_path):
    kind = type("MLP", (MLP,), {"forward": lambda self, x, t: 10 * MLP.forward(self, x, t)})
    checkpoints.save(tmp_path, kind(2, 4, 1))
    with pytest.raises(ValueError, match="unknown network '.*[.]MLP'; known: .*; give model="):
        checkpoints.load(tmp_path)
    assert isinstance(checkpoints.load(tmp_path, model=kind(2, 4, 1))[0], kind)


# Several checkpoints in one folder


def test_the_newest_stay_and_each_can_be_loaded(tmp_path):
    for number in range(1, 6):
        checkpoints.save(tmp_path, network(number), keep=3, steps=100 * number)
    assert same(checkpoints.load(tmp_path)[0], network(5))
    assert [p.name for p in sorted(tmp_path.glob("*.json"))] == [
        "checkpoint-00000300.json",
        "checkpoint-00000400.json",
        "checkpoint.json",
    ]
    for number in (3, 4):
        loaded, about = checkpoints.load(tmp_path, steps=100 * number)
        assert same(loaded, network(number)) and about == {"steps": 100 * number}
    with pytest.raises(ValueError, match="checkpoint-00000100.json is missing"):
        checkpoints.load(tmp_path, steps=100)
    assert len(list(tmp_path.glob("weights-*"))) == 3
    checkpoints.save(tmp_path, network(6), keep=1, steps=600)
    assert names(tmp_path) == ["checkpoint.json", "weights"]


def test_the_newest_can_be_asked_for_by_its_steps_and_a_new_run_drops_what_went_further(tmp_path):
    for number in (10, 20, 30):
        checkpoints.save(tmp_path, network(number), keep=3, steps=number)
    assert same(checkpoints.load(tmp_path, steps=30)[0], network(30))
    for number in (5, 15):  # another run
        checkpoints.save(tmp_path, network(number), keep=3, steps=number)
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["checkpoint-00000005.json", "checkpoint.json"]


def test_what_a_killed_run_left_half_written_goes_when_the_next_one_begins(tmp_path):
    left = [".weights-abc_x.safetensors", ".state-1.safetensors", ".checkpoint-q.json", ".samples-z.png"]
    for name in [*left, "notes.txt"]:
        (tmp_path / name).touch()
    with checkpoints.locked(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".owner.json", "notes.txt"]


def test_a_damaged_newest_checkpoint_points_to_an_older_one(tmp_path):
    for number in (1, 2, 3):
        checkpoints.save(tmp_path, network(number), keep=3, steps=number)
    cut(tmp_path / json.loads((tmp_path / "checkpoint.json").read_text())["weights"], 0.5)
    hint = "; to go back to step 2, copy checkpoint-00000002.json over checkpoint.json"
    with pytest.raises(ValueError, match=f"damaged or truncated.*{hint}$") as error:
        checkpoints.load(tmp_path)
    assert one_sentence(error) and same(checkpoints.load(tmp_path, steps=1)[0], network(1))
    shutil.copy(tmp_path / "checkpoint-00000002.json", tmp_path / "checkpoint.json")
    assert same(checkpoints.load(tmp_path)[0], network(2))
    cut(tmp_path / json.loads((tmp_path / "checkpoint.json").read_text())["weights"], 0.5)
    with pytest.raises(ValueError, match="to go back to step 1, copy checkpoint-00000001.json"):
        checkpoints.load(tmp_path)


def test_state_travels_with_the_weights_and_its_damage_is_seen(tmp_path):
    state = {"a.b": torch.arange(5), "random": torch.get_rng_state(), "scalar": torch.tensor(2.5)}
    checkpoints.save(tmp_path, network(1), state=state)
    back = checkpoints.read(tmp_path).state
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    flip(next(tmp_path.glob("state-*")))
    with pytest.raises(ValueError, match="state-.* is damaged or truncated") as error:
        checkpoints.read(tmp_path)
    assert one_sentence(error)


def test_annotate_adds_and_keeps_the_rest(run):
    checkpoints.annotate(run, metrics={"distance": 0.5})
    loaded, about = checkpoints.load(run)
    assert same(loaded, network(1)) and about == {"seed": 1, "metrics": {"distance": 0.5}}


def test_the_state_of_an_optimizer_survives_the_disk(tmp_path):
    """Two steps, a round trip, a third step: as three steps without the trip."""
    results = []
    for trip in (False, True):
        model = network(1)
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
        for step in range(3):
            if trip and step == 2:
                checkpoints.save(tmp_path, model, state=checkpoints.flatten_optimizer(optimizer))
                model = checkpoints.load(tmp_path)[0]
                optimizer = torch.optim.Adam(model.parameters(), 0.1)
                checkpoints.unflatten_optimizer(optimizer, checkpoints.read(tmp_path).state)
            optimizer.zero_grad()
            model(torch.ones(3, 2), 0.5, label=torch.arange(3)).square().sum().backward()
            optimizer.step()
        results.append(model)
    assert same(*results)


# Locks and full disks


def test_a_folder_in_use_is_refused_with_owner_and_time(tmp_path):
    code = "import sys, fmlib\nwith fmlib.checkpoints.locked(sys.argv[1]): print(1, flush=True), input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "1\n"
    with pytest.raises(
        ValueError, match=rf"in use by a live run \(.+ on .+, process {child.pid}, since 20\d\d-"
    ) as error:
        with checkpoints.locked(tmp_path):
            pass
    assert one_sentence(error)
    child.kill()  # by SIGKILL: the system lets go
    child.communicate()
    with checkpoints.locked(tmp_path):
        assert json.loads((tmp_path / ".owner.json").read_text())["pid"] != child.pid
    assert not (tmp_path / ".owner.json").exists()


def test_a_full_disk_leaves_older_checkpoints_too(tmp_path, monkeypatch):
    for number in (1, 2, 3):
        checkpoints.save(tmp_path, network(number), keep=3, steps=number)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(checkpoints.os, "fsync", failing(os.fsync, 0, full))
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(tmp_path, network(4), keep=1, steps=1)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_full_disk_leaves_the_old_checkpoint_and_says_what_to_free(tmp_path):
    """The system itself refuses to write more than 64 kB to a file, in a child process."""
    checkpoints.save(tmp_path, network(1), seed=1)
    code = """if True:
        import resource, signal, sys
        from fmlib import checkpoints
        from fmlib.models import MLP
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        try:
            checkpoints.save(sys.argv[1], MLP(2, 512, 4))
        except OSError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    size = sum(p.numel() * 4 for p in MLP(2, 512, 4).parameters()) / 1e6
    expected = f"disk full while saving to {tmp_path}: free at least {size:.0f} MB; the checkpoint before it is whole"
    assert run.stdout.strip() == expected, run.stderr
    assert same(checkpoints.load(tmp_path)[0], network(1)) and names(tmp_path) == ["checkpoint.json", "weights"]
