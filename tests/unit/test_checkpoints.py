import errno
import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import one_sentence
from safetensors.torch import load_file, save_file

from fmlib import checkpoints
from fmlib.models import MLP, ResidualMLP, TokenMLP, UNet
from fmlib.runs import Checkpoints
from fmlib.training import fit

pytestmark = pytest.mark.slow


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
    write_record(run, {**json.loads((run / "checkpoint.json").read_text()), **changes})


def write_record(run: Path, record: dict) -> None:
    """As somebody who knows the format would: the digest is over the other entries, as JSON."""
    content = {name: value for name, value in record.items() if name != "digest"}
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    (run / "checkpoint.json").write_text(json.dumps({**content, "digest": digest}, indent=1) + "\n")


def foreign_weights(run: Path, content: bytes) -> None:
    weights_of(run).write_bytes(content)
    edit(run, sha256=hashlib.sha256(content).hexdigest())


def rewrite(run: Path, old: str, new: str) -> None:
    text = (run / "checkpoint.json").read_text()
    assert old in text
    (run / "checkpoint.json").write_text(text.replace(old, new))


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
        "unknown network 'Net'; known: MLP, ResidualMLP, UNet, TokenMLP; give model=",
    ),
    "network list": (lambda run: edit(run, network=["MLP"]), "unknown network"),
    "other network": (lambda run: edit(run, network="MLP"), "checkpoint.json: the weights do not fit a MLP"),
    "other width": (lambda run: edit(run, config={**CONFIG, "width": 8}), "json: the weights do not fit"),
    "no such option": (lambda run: edit(run, config={**CONFIG, "heads": 8}), "json: the weights do not fit.*heads"),
    "config of words": (lambda run: edit(run, config={**CONFIG, "dim": "two"}), "json: the weights do not fit"),
    "negative config": (lambda run: edit(run, config={**CONFIG, "width": -4}), "json: the weights do not fit"),
    "no config": (lambda run: edit(run, config=None), "json: the weights do not fit a ResidualMLP: its config is None"),
    "edited": (lambda run: rewrite(run, '"seed": 1', '"seed": 2'), "json is damaged or was edited: its digest is not"),
    "no digest": (lambda run: rewrite(run, '"digest"', '"digests"'), "json is damaged or was edited: its digest is"),
    "nested": (
        lambda run: (run / "checkpoint.json").write_text("[" * 10**5 + "]" * 10**5),
        "json is damaged or truncated: maximum recursion depth",
    ),
    "steps in words": (lambda run: edit(run, about={"steps": "20"}), "json: steps must be a whole number .* got '20'"),
    "half a step": (lambda run: edit(run, about={"steps": 0.5}), "json: steps must be a whole number from 0, got 0.5"),
    "steps back": (lambda run: edit(run, about={"steps": -1}), "json: steps must be a whole number from 0, got -1"),
    "true steps": (lambda run: edit(run, about={"steps": True}), "json: steps must be a whole number .* got True"),
    "training list": (
        lambda run: edit(run, about={"training": []}),
        r"json: training must hold options by name, got \[\]",
    ),
    "weights list": (lambda run: edit(run, weights=["a"]), r"json: weights must be a word, got \['a'\]"),
    "sum of a number": (lambda run: edit(run, sha256=3), "json: sha256 must be a word, got 3"),
    "state of a number": (lambda run: edit(run, state=3, state_sha256="a"), "json: state must be a word, got 3"),
    "long name": (lambda run: edit(run, weights="w" * 5000), "json names w+, which is missing"),
    "two lines": (lambda run: edit(run, weights="a\n\0b"), "json names a .*b, which is missing"),
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


@pytest.mark.parametrize("about", [{"steps": "20"}, {"steps": -3}, {"training": [1]}])
def test_what_could_not_be_read_is_not_written(about, run):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for write in (lambda: checkpoints.save(run, network(2), **about), lambda: checkpoints.annotate(run, **about)):
        with pytest.raises(ValueError, match="must (be|hold)") as error:
            write()
        assert one_sentence(error) and before == {path.name: path.read_bytes() for path in run.iterdir()}


def test_every_flipped_bit_of_a_record_is_seen(tmp_path):
    """Among them one that changes no value: the case of an exponent."""
    about = {"rate": 1e-05, "name": "\u732b", "metrics": {"distance": 0.1 + 0.2}, "steps": 3}
    checkpoints.save(tmp_path, network(1), **about)
    file = tmp_path / "checkpoint.json"
    content = file.read_bytes()
    assert checkpoints.load(tmp_path)[1] == about
    case = 8 * content.index(b"1e-05") + 8 + 5
    for bit in [case, *random.Random(0).sample(range(8 * len(content)), 500)]:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"checkpoint\.json"):
            checkpoints.load(tmp_path)
    file.write_bytes(content)
    checkpoints.annotate(tmp_path, note="a")
    assert checkpoints.load(tmp_path)[1] == about | {"note": "a"}
    rewrite(tmp_path, '"note": "a"', '"note": "b"')
    with pytest.raises(ValueError, match="damaged or was edited"):
        checkpoints.load(tmp_path)


def test_values_that_json_writes_in_its_own_way_come_back(tmp_path):
    checkpoints.save(
        tmp_path, network(1), table={2: "b", 10: "a"}, pair=(1, 2), none=None, far=1e400, twice={1: 2, "1": 3}
    )
    about = checkpoints.load(tmp_path)[1]
    assert about["table"] == {"2": "b", "10": "a"} and about["pair"] == [1, 2] and about["far"] == math.inf


@pytest.fixture
def earlier(run) -> Path:
    """A record as the first format had it: no digest."""
    record = json.loads((run / "checkpoint.json").read_text())
    del record["digest"]
    assert record["format"] == "fmlib checkpoint 2"
    record["format"] = "fmlib checkpoint 1"
    (run / "checkpoint.json").write_text(json.dumps(record, indent=1) + "\n")
    return run


def test_the_first_format_is_still_read(earlier):
    loaded, about = checkpoints.load(earlier)
    assert same(loaded, network(1)) and about == {"seed": 1}
    checkpoints.annotate(earlier, note="a")  # which brings it up to date
    assert checkpoints.load(earlier)[1] == {"seed": 1, "note": "a"}
    rewrite(earlier, '"note": "a"', '"note": "b"')
    with pytest.raises(ValueError, match="damaged or was edited"):
        checkpoints.load(earlier)


def test_a_network_of_version_0_1_is_still_read(earlier):
    """Its embeddings had other names."""
    record = json.loads((earlier / "checkpoint.json").read_text())
    file = earlier / record["weights"]
    tensors = load_file(file)
    for new, old in {"embed.layers.0.": "embed_time.0.", "embed.label.": "embed_label."}.items():
        tensors = {name.replace(new, old): value for name, value in tensors.items()}
    assert {"embed_time.0.weight", "embed_time.0.bias", "embed_label.weight"} < tensors.keys()
    record["config"] = {"dim": 2, "width": 4, "blocks": 1, "classes": 3}  # until and highest were not known
    save_file(tensors, file)
    record["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (earlier / "checkpoint.json").write_text(json.dumps(record, indent=1))
    assert same(checkpoints.load(earlier)[0], network(1))


def test_the_first_format_may_stand_beside_the_second(earlier):
    checkpoints.save(earlier, network(2), keep=2, steps=5)
    assert same(checkpoints.load(earlier, steps=0)[0], network(1)) and same(checkpoints.load(earlier)[0], network(2))


HUGE = [30_000, 10**6, 10**12, 10**30, -1, 0, 2.5, 1e300, math.nan, "20", None, [], {}, [10**9] * 3, True]
KINDS = {"MLP": MLP(2, 4, 1), "ResidualMLP": network(0), "UNet": UNet((1, 4, 4), 8, classes=2)}
KINDS |= {"TokenMLP": TokenMLP(3, 4, 8, 2, classes=2)}


def test_a_config_that_lies_is_refused_before_anything_large_is_built(tmp_path):
    """In a child process that may hold 2 GB more than it has at the start, and for 100 seconds at most."""
    assert KINDS.keys() == checkpoints.NETWORKS.keys()
    for name, model in KINDS.items():
        checkpoints.save(tmp_path / name, model)
    code = """if True:
        import json, resource, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_checkpoints import HUGE, edit
        from fmlib import checkpoints
        folders = sorted(Path(sys.argv[1]).iterdir())
        configs = [checkpoints.load(folder)[0].config for folder in folders]
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2 * 2**30, size + 2 * 2**30))
        resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
        for folder, config in zip(folders, configs, strict=True):
            for name in config:
                for value in HUGE:
                    edit(folder, config={**config, name: value})
                    try:
                        checkpoints.load(folder)
                        print(name, value)
                    except ValueError as error:
                        assert "the weights do not fit" in str(error) and len(str(error)) < 500, error
                        assert "allocate" not in str(error), error  # it was compared, not tried
    """
    run = subprocess.run([sys.executable, "-c", code, tmp_path, Path(__file__).parent], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""  # nothing was loaded


def test_weights_of_another_format_are_not_converted_in_silence(tmp_path):
    checkpoints.save(tmp_path, MLP(2, 4, 1).double())
    model = MLP(2, 4, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"layers.0.weight is \(4, 34\) torch.float32 in the network, .* torch.float64"
    ):
        checkpoints.load(tmp_path, model=model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    mixed = MLP(2, 4, 1)
    mixed.layers[0].half()
    checkpoints.save(tmp_path, mixed)
    with pytest.raises(ValueError, match="its numbers must have one format, got .*float16.*float32"):
        checkpoints.load(tmp_path)


def mutated(value, draw: random.Random):
    """`value` with one of its parts, at random, replaced, doubled or left out."""
    strange = [
        None,
        True,
        -1,
        0,
        3.5,
        1e400,
        10**40,
        "",
        "../x",
        "\0",
        "\ud800",
        [],
        {},
        [[]],
        {"steps": "20"},
        "a" * 5000,
    ]
    if isinstance(value, dict) and value and draw.random() < 0.8:
        name = draw.choice(list(value))
        action = draw.random()
        rest = {key: part for key, part in value.items() if key != name}
        if action < 0.2:
            return rest
        if action < 0.3:
            return value | {draw.choice(["extra", "steps", "training", "state"]): draw.choice(strange)}
        return value | {name: mutated(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        i = draw.randrange(len(value))
        return [*value[:i], mutated(value[i], draw), *value[i + draw.randrange(2) :]]
    if isinstance(value, int) and draw.random() < 0.5:
        return value + draw.choice([-1, 1, 10**3, 10**9])
    return draw.choice(strange)


@pytest.mark.parametrize("digest", [True, False], ids=["second format", "first format"])
@pytest.mark.parametrize("model", KINDS.values(), ids=KINDS)
def test_of_mutated_records_only_a_clear_error_escapes(model, digest, tmp_path):
    checkpoints.save(tmp_path, model, state={"losses": torch.zeros(3)}, steps=3, training={"seed": 0}, classes=["a"])
    record, draw, refused = json.loads((tmp_path / "checkpoint.json").read_text()), random.Random(0), 0
    for _ in range(300):
        strange = mutated(record, draw)
        if digest and isinstance(strange, dict):
            write_record(tmp_path, strange)
        else:
            strange = {**strange, "format": "fmlib checkpoint 1"} if isinstance(strange, dict) else strange
            (tmp_path / "checkpoint.json").write_text(json.dumps(strange))
        for look in (checkpoints.load, checkpoints.read):
            try:
                look(tmp_path)
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 600
    assert refused > 150


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
    """The names are seen while something is written, in the place of a kill."""
    written = ["weights-0123456789ab.safetensors", "state-ba9876543210.safetensors", "samples.png"]
    written += [checkpoints.OWNER, "checkpoint.json", "checkpoint-00000012.json", "checkpoint-123456789.json"]
    left = []
    for name in written:
        with checkpoints.replacing(tmp_path / name) as temporary:
            left.append(temporary.name)
    assert len(set(left)) == len(written) and all(name.startswith(".fmlib-writing-") for name in left)
    for path in [*tmp_path.iterdir()]:
        path.unlink()
    with checkpoints.replacing(tmp_path / "x.npz") as live:  # by `sample`, which holds no lock
        for name in [*left, "notes.txt"]:
            (tmp_path / name).touch()
        with checkpoints.locked(tmp_path):
            there = sorted(path.name for path in tmp_path.iterdir())
            assert there == [".fmlib-lock", ".fmlib-owner.json", live.name, "notes.txt"]


# The user's own files

MINE = [
    "weights-mine.safetensors",
    "weights-0123456789ab.safetensors.bak",
    "weights-0123456789AB.safetensors",
    "weights-0123456789abc.safetensors",
    "my-weights-0123456789ab.safetensors",
    "state-of-the-art.safetensors",
    ".checkpoint-notes",
    ".weights-abc.safetensors",
    ".state-mine",
    ".samples-z.png",
    ".lock",
    ".owner.json",
    ".fmlib-writing-notes",
    ".fmlib-writing-01234567-mine.json",
    "checkpoint-mine.json",
    "checkpoint-99.json",
    "checkpoint-00000099.json.txt",
    "checkpoint-\N{ARABIC-INDIC DIGIT ONE}0000000.json",
    "samples-mine.png",
]
FOLDERS = [".checkpoints", ".weights-dir", "checkpoint-00000098.json", "weights-0123456789ac.safetensors"]
FOLDERS += ["checkpoints.json", ".fmlib-writing-01234567-checkpoint.json"]


def own_files(folder: Path) -> None:
    for name in MINE:
        (folder / name).write_text(f"my {name}")
    for name in FOLDERS:
        (folder / name).mkdir()
        (folder / name / "inside").write_text(name)


def assert_untouched(folder: Path) -> None:
    assert all((folder / name).read_text() == f"my {name}" for name in MINE)
    assert all((folder / name / "inside").read_text() == name for name in FOLDERS)


def test_the_users_own_files_stay_and_block_nothing(tmp_path):
    own_files(tmp_path)
    assert not checkpoints.any_in(tmp_path)
    for steps in (10, 20, 30, 5):  # the last one by another run, which drops what went further
        with checkpoints.locked(tmp_path):
            checkpoints.save(tmp_path, network(steps), keep=2, steps=steps)
        assert same(checkpoints.load(tmp_path)[0], network(steps)) and checkpoints.any_in(tmp_path)
        assert_untouched(tmp_path)
    assert len(list(tmp_path.iterdir())) == len(MINE + FOLDERS) + 3  # the record, its weights and the lock


def test_a_run_in_a_folder_with_the_users_files_resumes(tmp_path):
    x = torch.randn(16, 2)
    own_files(tmp_path)
    for resume in (True, True, False):
        fit(MLP(2, 4, 1), x, steps=2, batch_size=4, checkpoint=Checkpoints(tmp_path, resume=resume))
        assert_untouched(tmp_path)


def test_weights_that_a_users_copy_of_a_record_names_stay(tmp_path):
    checkpoints.save(tmp_path, network(1), steps=1)
    shutil.copy(tmp_path / "checkpoint.json", tmp_path / "checkpoint-best.json")
    checkpoints.save(tmp_path, network(2), steps=2)
    shutil.copy(tmp_path / "checkpoint-best.json", tmp_path / "checkpoint.json")
    assert same(checkpoints.load(tmp_path)[0], network(1))


def test_where_a_checkpoint_is(tmp_path):
    assert not checkpoints.any_in(tmp_path) and not checkpoints.any_in(tmp_path / "nowhere")
    for steps in (1, 2):
        checkpoints.save(tmp_path, network(steps), keep=2, steps=steps)
        assert checkpoints.any_in(tmp_path)
    (tmp_path / "checkpoint.json").unlink()
    assert checkpoints.any_in(str(tmp_path))
    (tmp_path / "checkpoint-00000001.json").unlink()
    assert not checkpoints.any_in(tmp_path)


def test_more_steps_than_eight_digits_have(tmp_path):
    for steps in (99_999_999, 100_000_000, 1_000_000_000):
        checkpoints.save(tmp_path, network(steps % 7), keep=2, steps=steps)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-100000000.json"]
    assert same(checkpoints.load(tmp_path, steps=100_000_000)[0], network(100_000_000 % 7))


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


def test_a_parameter_that_is_not_used_has_no_state_and_stays_so(tmp_path):
    model = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    optimizer = torch.optim.Adam(model.parameters())
    model[1](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = checkpoints.flatten_optimizer(optimizer)
    again = torch.optim.Adam(model.parameters())
    checkpoints.unflatten_optimizer(again, state)
    assert [bool(again.state.get(p)) for p in model.parameters()] == [False, False, True, True]


WRONG_STATE = {
    "no moments of one": (lambda s: remove(s, "optimizer.1."), "lacks exp_avg, exp_avg_sq, step of parameter 1"),
    "no second moment": (lambda s: remove(s, "optimizer.1.exp_avg_sq"), "lacks exp_avg_sq of parameter 1"),
    "no count": (lambda s: remove(s, "optimizer.0.step"), "lacks step of parameter 0"),
    "no moments": (lambda s: remove(s, "optimizer.0", "optimizer.1"), "lacks all of parameter 0"),
    "shape": (
        lambda s: s | {"optimizer.0.exp_avg": torch.zeros(2, 3)},
        r"optimizer.0.exp_avg must have shape \(3, 2\) and a floating dtype, got \(2, 3\) of torch.float32",
    ),
    "one number": (lambda s: s | {"optimizer.1.exp_avg": torch.zeros(())}, r"must have shape \(3,\) .*, got \(\)"),
    "counts": (lambda s: s | {"optimizer.1.step": torch.zeros(3)}, r"step must have shape \(\) .*, got \(3,\)"),
    "integers": (lambda s: s | {"optimizer.1.step": torch.tensor(3)}, "a floating dtype, got .* of torch.int64"),
    "one too many": (lambda s: s | {"optimizer.2.step": torch.zeros(())}, "optimizer.2.step, of no parameter among 2"),
    "no number": (lambda s: s | {"optimizer.a": torch.zeros(())}, "holds optimizer.a, of no parameter among 2"),
    "list": (lambda s: s | {"optimizer.parameters": torch.zeros(2)}, "must be a list of integers, got torch.float32"),
}


def remove(state: dict, *starts: str) -> dict:
    kept = {name: value for name, value in state.items() if not name.startswith(starts)}
    assert len(kept) < len(state)
    return kept


@pytest.mark.parametrize("change, message", WRONG_STATE.values(), ids=WRONG_STATE)
def test_a_state_that_does_not_fit_the_optimizer_is_refused(change, message):
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = checkpoints.flatten_optimizer(optimizer) | {"losses": torch.zeros(3)}
    again = torch.optim.Adam(model.parameters())
    with pytest.raises(ValueError, match=message) as error:
        checkpoints.unflatten_optimizer(again, change(state))
    assert one_sentence(error) and not again.state
    checkpoints.unflatten_optimizer(again, state)
    assert all(torch.equal(again.state[p]["exp_avg"], optimizer.state[p]["exp_avg"]) for p in model.parameters())


# What cannot be saved


class WithExtra(MLP):
    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        pass


def with_buffer(value: torch.Tensor) -> MLP:
    model = MLP(2, 4, 1)
    model.register_buffer("extra", value)
    return model


UNSAVABLE = {
    "extra state": (WithExtra(2, 4, 1), "WithExtra cannot be saved: _extra_state is of type dict, not a tensor"),
    "lazy": (torch.nn.LazyLinear(3), "LazyLinear cannot be saved: weight has no shape before the model is called once"),
    "complex": (with_buffer(torch.zeros(2, dtype=torch.complex64)), "extra is of torch.complex64: keep its real view"),
    "double": (torch.nn.Linear(1, 1, dtype=torch.complex128), "weight is of torch.complex128: keep its real view"),
    "meta": (torch.nn.Linear(2, 2, device="meta"), "Linear cannot be saved: weight has no values on the device meta"),
    "sparse": (with_buffer(torch.eye(2).to_sparse()), "extra is no plain tensor but torch.sparse_coo of torch.float32"),
}


@pytest.mark.parametrize("model, message", UNSAVABLE.values(), ids=UNSAVABLE)
def test_what_cannot_be_saved_is_said_before_anything_is_written(model, message, tmp_path):
    for ask in (checkpoints.check_savable, lambda model: checkpoints.save(tmp_path / "run", model)):
        with pytest.raises(TypeError, match=message) as error:
            ask(model)
        assert one_sentence(error)
    assert not (tmp_path / "run").exists()


def test_what_can_be_saved_comes_back(tmp_path):
    formats = [torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.bool, torch.int64, torch.float64]
    for dtype in formats:
        model = with_buffer(torch.tensor([1, 0], dtype=dtype))
        checkpoints.check_savable(model)
        checkpoints.save(tmp_path, model)
        assert checkpoints.load(tmp_path, model=with_buffer(torch.zeros(2, dtype=dtype)))[0].extra.tolist() == [1, 0]
    for kind in KINDS.values():
        checkpoints.check_savable(kind)


def test_an_attribute_config_of_another_kind_is_no_obstacle(tmp_path):
    model = torch.nn.Linear(2, 2)
    model.config = {"activation": torch.nn.SiLU()}
    checkpoints.save(tmp_path, model, steps=1)
    assert same(checkpoints.load(tmp_path, model=torch.nn.Linear(2, 2))[0], model)


# Locks, full disks and folders that cannot be written


def test_a_folder_that_cannot_be_written_is_named_with_the_reason(tmp_path):
    """By a user who may not, in a child process, as the system has it: with nothing there, and with an earlier run."""
    code = """if True:
        import os, sys
        from pathlib import Path
        import torch
        from fmlib import checkpoints
        from fmlib.models import MLP
        from fmlib.training import fit
        from torch import _dynamo  # which training loads
        from safetensors import torch as _
        import filelock

        def stop(done, averaged):
            assert False, "it was found out too late"

        folder, missing = Path(sys.argv[1]), Path(sys.argv[1], "new")
        checkpoints.save(folder, MLP(2, 4, 1), steps=1)
        for name in (checkpoints.LOCK, checkpoints.OWNER):
            (folder / name).touch(0o666)
            (folder / name).chmod(0o666)
        folder.chmod(0o555)
        os.chdir(folder)
        if not os.getuid():
            os.setuid(65534)
        x = torch.zeros(8, 2)
        for run in (".", "new"):
            try:
                fit(MLP(2, 4, 1), x, steps=2, batch_size=4, checkpoint=run, on_step=stop)
            except OSError as error:
                print(error)
        for ask in (lambda: checkpoints.save(".", MLP(2, 4, 1)), lambda: checkpoints.annotate(".", a=1)):
            try:
                ask()
            except PermissionError as error:
                print(error)
        try:
            with checkpoints.replacing("x.npz"):
                pass
        except PermissionError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    tmp_path.chmod(0o755)
    assert run.returncode == 0, run.stderr
    cause = "cannot write to {}: Permission denied".format
    expected = [cause("."), cause("new"), cause("."), cause("."), "[Errno 13] Permission denied: 'x.npz'"]
    assert run.stdout.splitlines() == expected


def test_little_is_not_called_nothing():
    sizes = [checkpoints._size(n) for n in (1, 999, 1000, 1001, 999_999, 1_000_000, 1_000_001, 3_800_000)]
    assert sizes == ["1 KB", "1 KB", "1 KB", "2 KB", "1000 KB", "1 MB", "2 MB", "4 MB"]


def test_a_small_network_on_a_full_disk_needs_little(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(checkpoints.os, "fsync", failing(os.fsync, 0, full))
    with pytest.raises(OSError, match="free at least 1 KB; none was saved before"):
        checkpoints.save(tmp_path, MLP(2, 4, 1))


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
        assert json.loads((tmp_path / ".fmlib-owner.json").read_text())["pid"] != child.pid
    assert not (tmp_path / ".fmlib-owner.json").exists()


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
    size = math.ceil(sum(p.numel() * 4 for p in MLP(2, 512, 4).parameters()) / 1e6)
    expected = f"disk full while saving to {tmp_path}: free at least {size} MB; the checkpoint before it is whole"
    assert run.stdout.strip() == expected, run.stderr
    assert same(checkpoints.load(tmp_path)[0], network(1)) and names(tmp_path) == ["checkpoint.json", "weights"]
