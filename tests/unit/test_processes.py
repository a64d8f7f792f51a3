"""Several processes, started by torchrun as a user would, talking over gloo on this machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from fmlib import checkpoints, devices

pytestmark = pytest.mark.slow

TRAIN = ["train", "digits", "--device", "cpu", "--batch-size", "32"]


def torchrun(count: int, *arguments, restarts: int = 0, program=("-m", "fmlib"), **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += [f"--max-restarts={restarts}", "--monitor-interval=0.2", *program, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def losses(folder: Path) -> torch.Tensor:
    return checkpoints.read(folder).state["losses"]


# `fmlib` with the pictures and scores left out, which have nothing to do with processes
SHORT = """
import sys
from fmlib import __main__ as cli
cli.evaluation.report = lambda *a: None
sys.exit(cli.main())
"""


@pytest.fixture
def short(tmp_path) -> tuple[str]:
    (tmp_path / "short.py").write_text(SHORT)
    return (str(tmp_path / "short.py"),)


def test_two_processes_give_the_losses_of_one_with_the_summed_batch(short, tmp_path):
    for count in (1, 2):
        run = torchrun(count, *TRAIN, "--steps", 12, "--out", tmp_path / str(count), program=short)
        out, _ = run.communicate(timeout=100)
        assert run.returncode == 0, out
        assert out.count("1437 images") == 1  # one process speaks
        assert {p.name.partition("-")[0] for p in (tmp_path / str(count)).iterdir() if p.name[0] != "."} == {
            "checkpoint.json",
            "weights",
            "state",
        }
    one, two = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert len(one) == 12
    torch.testing.assert_close(two, one, rtol=2e-4, atol=1e-5)
    torch.testing.assert_close(
        checkpoints.load(tmp_path / "2")[0].state_dict(),
        checkpoints.load(tmp_path / "1")[0].state_dict(),
        rtol=1e-3,
        atol=1e-4,
    )


MEAN_FLOW = """
import os, sys
sys.path.insert(0, sys.argv[2])
import torch
from safetensors.torch import save_file
from test_seam import TwoTimes, gaussian, mean_flow, weights
from fmlib import devices, fit, objectives

def remembering(loss, drawn):
    def recorded(network, batch):
        drawn.append(torch.rand(1, generator=batch.generator))
        return loss(network, batch)
    return recorded

losses = {"own": (mean_flow, "float32"), "MeanFlow": (objectives.MeanFlow(), "bf16")}
losses |= {"Shortcut": (objectives.Shortcut(), "float32")}
with devices.group(torch.device("cpu")) as world:
    for name, (loss, precision) in losses.items():
        torch.manual_seed(world.rank)  # weights of its own, which the first one's replace
        model, drawn = TwoTimes(16), []
        start = weights(model).detach().clone()
        options = {"accumulate": 2, "precision": precision, "progress": False}
        result = fit(model, gaussian, loss=remembering(loss, drawn), steps=20, batch_size=64, **options)
        saved = {"start": start, "end": weights(model).detach(), "average": weights(result.model)}
        saved |= {"drawn": torch.cat(drawn), "losses": result.losses}
        save_file(saved, f"{sys.argv[1]}/{name}-{world.rank}.safetensors")
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder into which two processes put what they trained by each loss."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "mean_flow.py").write_text(MEAN_FLOW)
    run = torchrun(2, folder, Path(__file__).parent, program=(str(folder / "mean_flow.py"),))
    out, _ = run.communicate(timeout=100)
    assert run.returncode == 0, out
    return folder


@pytest.mark.parametrize("loss", ["own", "MeanFlow", "Shortcut"])
def test_a_loss_of_two_times_trains_two_processes_to_equal_weights(loss, trained):
    first, second = (load_file(trained / f"{loss}-{rank}.safetensors") for rank in (0, 1))
    for name in ("end", "average", "losses"):
        assert torch.equal(first[name], second[name])
    assert (first["end"] - first["start"]).abs().max() > 1e-3 and not torch.equal(first["start"], second["start"])
    assert len(first["drawn"]) == 40 and not (first["drawn"] == second["drawn"]).any()


@pytest.mark.timeout(300)  # four starts of Python, on a machine that may be busy
def test_a_killed_worker_is_restarted_and_the_run_goes_on(short, tmp_path):
    """One of two processes gets SIGKILL after the first checkpoint; the end is that of a run left in peace."""
    common = [*TRAIN, "--steps", 30, "--checkpoint-every", 10, "--resume"]
    peace = torchrun(2, *common, "--out", tmp_path / "peace", program=short)
    out, _ = peace.communicate(timeout=100)
    assert peace.returncode == 0, out
    slow = SHORT.replace(
        "sys.exit(",
        "import os, time, pathlib\nfrom fmlib import training\nold = training._average\n"
        "training._average = lambda *a: (time.sleep(0.05), old(*a))\n"
        f"pathlib.Path({str(tmp_path)!r}, 'rank-' + os.environ['RANK']).write_text(str(os.getpid()))\nsys.exit(",
    )
    (tmp_path / "slow.py").write_text(slow)
    folder = tmp_path / "killed"
    run = torchrun(2, *common, "--out", folder, restarts=2, program=(str(tmp_path / "slow.py"),))
    try:
        deadline = time.monotonic() + 90
        while not (folder / checkpoints.LATEST).exists():
            assert run.poll() is None and time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.05)
        first = int((tmp_path / "rank-1").read_text())
        os.kill(first, signal.SIGKILL)
        out, _ = run.communicate(timeout=180)
    finally:
        run.kill()
    assert run.returncode == 0, out
    assert int((tmp_path / "rank-1").read_text()) != first  # it was started again
    assert torch.equal(losses(folder), losses(tmp_path / "peace"))


def test_no_process_waits_for_ever_for_one_that_failed(tmp_path):
    (tmp_path / "fail.py").write_text(
        "import os, sys\n"
        "from fmlib import __main__ as cli, training\n"
        "def fail(*a):\n"
        "    raise RuntimeError('rank 1 has a problem')\n"
        "if os.environ['RANK'] == '1': training._average = fail\n"
        "sys.exit(cli.main())\n"
    )
    run = torchrun(2, *TRAIN, "--steps", 1000, "--out", tmp_path / "run", program=(str(tmp_path / "fail.py"),))
    try:
        out, _ = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode != 0 and "fmlib: rank 1 has a problem" in out


def test_a_number_of_processes_that_does_not_divide_the_batch(short, tmp_path):
    run = torchrun(2, *TRAIN, "--batch-size", 33, "--steps", 5, "--out", tmp_path / "run", program=short)
    out, _ = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "fmlib: batch_size 33 must be a multiple of 2 processes x 1 parts" in out
    assert not (tmp_path / "run" / checkpoints.LATEST).exists()


def test_the_sharded_loop_of_the_readme_runs(tmp_path):
    """As it stands there but for the device, the width and the number of steps."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(# torchrun.*?)```", readme, re.DOTALL)
    join = "from fmlib import devices\ndevices._join_by_gloo(devices.timedelta(seconds=60))"
    for old, new in [
        ('dist.init_process_group("nccl")', join),
        (".cuda()", ""),
        ('"cuda"', '"cpu"'),
        ("8192", "32"),
        ("1000", "3"),
    ]:
        assert old in code
        code = code.replace(old, new)
    code = re.sub("torch.cuda.set_device.*\n", "", code)
    # in one piece, or the lines of two processes mix
    code += "print(f'loss {loss.item()}\\n', end='')\ndist.destroy_process_group()\n"
    (tmp_path / "sharded.py").write_text(code)
    run = torchrun(2, program=(str(tmp_path / "sharded.py"),))
    out, _ = run.communicate(timeout=80)
    assert run.returncode == 0, out
    values = re.findall(r"loss (\d+\.\d+)", out)
    assert len(values) == 2 and values[0] != values[1], out  # two processes, each with its own noise


def test_processes_that_miss_each_other_try_again_under_another_name(monkeypatch):
    join, names = dist.init_process_group, []

    def first_in_vain(backend, store, **options):
        names.append(store)
        if len(names) == 1:
            raise RuntimeError("timed out")
        join(backend, store=store, **options)

    monkeypatch.setattr(devices, "CONNECT", devices.timedelta(seconds=0.5))
    monkeypatch.setattr(dist, "rendezvous", lambda url: iter([(dist.HashStore(), 0, 1)]))
    monkeypatch.setattr(dist, "init_process_group", first_in_vain)
    devices._join_by_gloo(devices.timedelta(seconds=60))
    try:
        assert devices.processes() == (0, 1) and len(names) == 2 and dist.get_backend() == "gloo"
        value = torch.ones(2)
        dist.all_reduce(value)
        assert value.tolist() == [1, 1]
    finally:
        dist.destroy_process_group()


def test_alone_without_torchrun():
    with devices.group(torch.device("cpu")) as world:
        assert world == devices.processes() == (0, 1)


def test_the_gpu_of_this_process(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.device_of() == torch.device("cuda:3")
    monkeypatch.delenv("LOCAL_RANK")
    assert devices.device_of() == torch.device("cuda")
    assert json.dumps(devices.processes()) == "[0, 1]"
