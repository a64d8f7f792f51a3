"""What `make` does to install: with a stand-in for Python and pip, and once with pip itself and tiny wheels."""

import base64
import hashlib
import inspect
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from publish import room

ROOT = Path(__file__).parents[2]
VERSION = "2.13.0"

# Stands in for Python: `-m venv` copies it, `-m pip` notes its arguments and keeps empty folders for packages.
PYTHON = """#!/bin/bash
said=$* version=$(sed -n 's/^torch==//p' constraints.txt) site=.venv/lib/python3.11/site-packages
case "$*" in
    *"-m venv"*) mkdir -p .venv/bin $site; cp "$0" .venv/bin/python ;;
    *"pip index"*)
        echo "$* [${PIP_EXTRA_INDEX_URL-unset} ${PIP_FIND_LINKS-unset}]" >> calls
        cat answer; exit "$(cat status)" ;;
    *"pip uninstall"*) echo "$*" >> calls; shift 4; for name; do rm -r $site/$name-*; done ;;
    *"pip install"*torch==*)
        echo "$*" >> calls
        [ ! -e broken ] || { cat broken; exit 1; }
        rm -rf $site/torch-*; mkdir "$site/torch-${said##*==}.dist-info" ;;
    *"pip install"*)
        echo "$*" >> calls
        [ ! -e broken ] || { cat broken; exit 1; }
        ls -d $site/torch-$version*.dist-info &> /dev/null || {
            rm -rf $site/torch-*
            mkdir $site/{torch-$version,nvidia_cublas-13,cuda_bindings-13,triton-3}.dist-info; } ;;
esac
"""
# as pip prints it, between the lines of its -vv
FOUND = f"torch (2.14.0+cpu)\nAvailable versions: 2.14.0+cpu, {VERSION}+cpu, 2.12.0+cpu\n"
UNREACHABLE = (
    "Could not fetch URL https://index/torch/: connection error: refused\nERROR: No matching distribution found\n"
)


class Project:
    def __init__(self, folder: Path, python: str):
        self.folder, self.python = folder, python
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder / name)

    def make(self, *arguments: str, without=(), **environment: str) -> list[str]:
        """The lines printed, those of make's own left out; the outer make's variables do not reach this one."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        command = [*without, "make", f"PYTHON={self.python}", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=kept | environment, capture_output=True, text=True, timeout=100
        )
        self.status, text = done.returncode, done.stdout + done.stderr
        return [line for line in text.splitlines() if not line.startswith(("make:", "make["))]

    def torch(self) -> list[str]:
        names = (path.name for path in self.folder.glob(".venv/lib/python3*/site-packages/*.dist-info"))
        return sorted(name.removesuffix(".dist-info") for name in names if not name.startswith(("fmlib", "pip")))

    def answer(self, text: str, status: int = 0) -> None:
        """What the index says from now on."""
        (self.folder / "answer").write_text(text)
        (self.folder / "status").write_text(str(status))

    def calls(self) -> list[str]:
        """What pip was asked since the last look."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        return lines


@pytest.fixture
def project(tmp_path):
    (tmp_path / "fake").write_text(PYTHON)
    (tmp_path / "fake").chmod(0o755)
    made = Project(tmp_path, "./fake")
    made.answer(FOUND)
    return made


linux = pytest.mark.skipif(sys.platform != "linux", reason="TORCH=cpu acts on Linux only")
CPU, DEFAULT = [f"torch-{VERSION}+cpu"], ["cuda_bindings-13", "nvidia_cublas-13", f"torch-{VERSION}", "triton-3"]


@linux
def test_cpu_build_comes_alone_from_the_index_and_before_the_rest(project):
    lines = project.make("install", "TORCH=cpu")
    assert project.status == 0 and project.torch() == CPU
    assert len(lines) == 2 and "CPU build" in lines[0] and lines[1].startswith("Installing into .venv")
    asked, torch, rest = project.calls()
    index = "https://download.pytorch.org/whl/cpu"
    assert f"--index-url {index}" in asked and asked.endswith(f"[{index} .venv]")
    assert f"--index-url {index}" in torch and "--no-deps" in torch and torch.endswith(f" torch=={VERSION}+cpu")
    assert index not in rest and rest.endswith("-c constraints.txt -e .[course]")
    assert project.make("install", "TORCH=cpu") == [] and project.calls() == []  # a second run starts at once


@linux
@pytest.mark.parametrize("target", ["lab", "test-unit", "lint", "site", "run", "workshop"])
def test_every_target_that_installs_takes_the_cpu_build(project, target):
    project.make(target, "TORCH=cpu")
    assert project.torch() == CPU


@linux
def test_bench_passes_the_build_on(project):
    lines = project.make("-n", "bench", "TORCH=cpu")
    assert any(".venv-bench/bin/python -m pip install --no-deps" in line for line in lines)


@linux
def test_a_folder_may_be_the_index(project):
    (project.folder / "my wheels").mkdir()
    project.make("install", "TORCH=cpu", "TORCH_INDEX=my wheels")
    for call in project.calls()[:2]:
        assert "--no-index --find-links my wheels --find-links my wheels/torch" in call and "https" not in call


@linux
@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        (UNREACHABLE, 1, "cannot be reached"),
        ("", 124, "cannot be reached"),  # stopped: it did not answer
        ("ERROR: No matching distribution found for torch\n", 1, f"has no torch {VERSION}+cpu"),
        (FOUND.replace(f"{VERSION}+cpu", f"{VERSION}"), 0, f"has no torch {VERSION}+cpu"),
        (FOUND.replace(f"{VERSION}+cpu", f"{VERSION}+cpu.cxx11"), 0, f"has no torch {VERSION}+cpu"),
    ],
)
def test_an_index_that_does_not_help_is_said_in_one_line(project, text, status, reason):
    project.answer(text, status)
    lines = project.make("install", "TORCH=cpu", TORCH_INDEX="https://example.org/cpu")
    assert project.status == 0 and project.torch() == DEFAULT
    assert len(lines) == 2 and lines[0].startswith(f"TORCH=cpu: https://example.org/cpu {reason}")
    assert lines[0].endswith("going on with PyTorch's default build")
    project.calls()
    again = project.make("install", "TORCH=cpu")  # asked again, as it may answer now; what stands needs no network
    assert project.status == 0 and len(again) == 1 and reason in again[0]
    assert len(project.calls()) == 1


@linux
def test_cpu_build_takes_the_place_of_the_default_one(project):
    project.make("install")
    assert project.torch() == DEFAULT
    lines = project.make("install", "TORCH=cpu")
    assert project.torch() == CPU  # the packages of CUDA are gone
    assert len(lines) == 1 and "in place of any other" in lines[0]


@linux
def test_cpu_build_once_installed_stays(project):
    project.make("install", "TORCH=cpu")
    lines = project.make("install")
    assert project.torch() == CPU
    assert len(lines) == 1 and "stays the CPU build" in lines[0] and "make clean" in lines[0]
    path = project.folder / "constraints.txt"
    path.write_text(path.read_text().replace(f"torch=={VERSION}", "torch==2.14.0"))
    project.make("install")  # another version of PyTorch, and nobody says TORCH=cpu again
    assert project.calls()[-1].endswith("-e .[course]")
    assert "torch-2.14.0+cpu" in project.torch() and not any("nvidia" in name for name in project.torch())


def test_without_a_word_the_default_build_comes_as_before(project):
    assert project.make("install") == ["Installing into .venv (a few minutes the first time; log: .venv/install.log)"]
    assert project.calls() == ["-m pip install --retries 2 -c constraints.txt -e .[course]"]
    assert project.torch() == DEFAULT


def test_torch_is_cpu_or_nothing(project):
    assert project.make("install", "TORCH=cuda") == ["TORCH is cpu or nothing, not 'cuda'"]
    assert project.status == 2 and project.calls() == []


@pytest.mark.parametrize("build", ["", "cpu"])
@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "No space left on the disk while installing"),
        ("OSError: [Errno 122] Disk quota exceeded", "No space left on the disk while installing"),
        ("WARNING: Retrying after connection broken", "No network while installing"),
        ("ERROR: something else", "Installing failed: ERROR: something else"),
    ],
)
def test_what_stops_an_installation_is_one_sentence(project, build, said, sentence):
    (project.folder / "broken").write_text(said)
    lines = project.make("install", f"TORCH={build}")
    assert project.status == 2 and len(lines) == 2 and lines[1].startswith(sentence)
    (project.folder / "broken").unlink()
    project.make("install", f"TORCH={build}")
    assert project.status == 0  # nothing half done was taken for done


@pytest.mark.parametrize("stopped", ["-m venv", "pip install"])
def test_a_disk_too_full_for_the_log_is_said_all_the_same(project, stopped):
    fails = PYTHON.replace(f'*"{stopped}"*)', f'*"{stopped}"*) echo cut off >&2; exit 1 ;;\n    *unused*)', 1)
    (project.folder / "fake").write_text(fails)
    (project.folder / "df").write_text("#!/bin/sh\necho Filesystem\necho tmpfs 200000 199990 10 100% /\n")
    (project.folder / "df").chmod(0o755)
    full = {"PATH": f"{project.folder}:{os.environ['PATH']}"}
    lines = project.make("install", **full)
    assert project.status == 2 and lines[-1].startswith("No space left on the disk while installing")
    assert all(line.startswith("Installing into") for line in lines[:-1]) and len(lines) <= 2
    (project.folder / "df").unlink()
    reason = project.make("install")[-1]
    assert reason.startswith("Could not create .venv" if stopped == "-m venv" else "Installing failed")


# Root may write everywhere, but for this.
NO_ROOT = ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []


@linux
@pytest.mark.parametrize("place", [".", ".venv"])
def test_a_folder_that_cannot_be_written_is_one_sentence(project, place):
    folder = project.folder / place
    folder.mkdir(exist_ok=True)
    folder.chmod(0o500)
    (line,) = project.make("install", without=NO_ROOT)
    folder.chmod(0o700)
    assert project.status == 2 and line.startswith(f"Nothing can be written into {folder.resolve()}: copy the course")


def test_a_home_that_cannot_be_written_is_one_sentence(project):
    project.make("install")
    (line,) = project.make("lab", HOME="/nonexistent")
    assert project.status == 2 and "nothing can be written into '/nonexistent'" in line
    for elsewhere in ({"HOME": str(project.folder)}, {"HOME": "/nonexistent", "JUPYTER_RUNTIME_DIR": "/tmp"}):
        (line,) = project.make("lab", **elsewhere)
        assert project.status == 0 and line.startswith(".venv/bin/python -m jupyter lab")


def test_a_room_without_such_a_home_is_not_ready(tmp_path, monkeypatch):
    monkeypatch.delenv("JUPYTER_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(room.NotReady, match="nothing can be written into the home /nonexistent"):
        room.check_home()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert room.check_home()


@pytest.mark.parametrize("build", ["", "cpu"])
def test_a_missing_or_old_python_is_one_sentence(project, build):
    (line,) = project.make("install", f"TORCH={build}", "PYTHON=./none")
    assert project.status == 2 and line.startswith("Python not found")
    (project.folder / "old").write_text('#!/bin/bash\n[ "$1" != --version ] || echo Python 3.9.1\nexit 1\n')
    (project.folder / "old").chmod(0o755)
    (line,) = project.make("install", f"TORCH={build}", "PYTHON=./old")
    assert project.status == 2 and line.startswith("Python 3.11 or newer is needed, found Python 3.9.1")


def test_help_names_every_target_and_installs_nothing(project):
    text = "\n".join(project.make("help"))
    (phony,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:")]
    for target in set(phony.split()[1:]) - {"help", "cpu-torch"}:
        assert f"make {target} " in text
    assert "TORCH=cpu" in text and not (project.folder / ".venv").exists()


def wheel(folder, name: str, version: str, requires=()) -> Path:
    """An empty package, whole enough for pip."""
    path = Path(folder) / f"{name}-{version}-py3-none-any.whl"
    metadata = "".join(f"Requires-Dist: {line}\n" for line in requires)
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}Provides-Extra: course\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: fmlib\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{name}-{version}.dist-info/{file},sha256={digest},{len(text)}\n"
            archive.writestr(f"{name}-{version}.dist-info/{file}", text)
        archive.writestr(f"{name}-{version}.dist-info/RECORD", record)
    return path


# Builds the tiny project without setuptools, which pip would fetch.
BACKEND = f"""
import base64, hashlib, zipfile
from pathlib import Path
{inspect.getsource(wheel)}
def build_editable(folder, *_):
    return wheel(folder, "fmlib", "0.1", ["torch>=2.6"]).name
"""


@linux
def test_pip_itself_takes_the_cpu_build_and_leaves_it_in_place(tmp_path):
    """pip's own index and a folder of its settings offer other builds of the same version; neither is taken."""
    pip = pytest.importorskip("pip")
    script = '#!/bin/bash\n[ "$2" = venv ] || exec PYTHON "$@"\nPYTHON -m venv --without-pip .venv\n'
    script += f"ln -s {Path(pip.__file__).parent} .venv/lib/python3*/site-packages/\n"  # a copy takes seconds
    script = script.replace("PYTHON", sys.executable)
    (tmp_path / "python").write_text(script)
    (tmp_path / "python").chmod(0o755)
    project = Project(tmp_path, "./python")
    (tmp_path / "backend.py").write_text(BACKEND)
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n[project]\nname = "fmlib"\n'
    )
    for folder in ("cpu/torch", "settings", "index/torch"):
        (tmp_path / folder).mkdir(parents=True)
    wheel(tmp_path / "cpu/torch", "torch", f"{VERSION}+cpu")
    wheel(tmp_path / "settings", "torch", f"{VERSION}+cu130")
    name = wheel(tmp_path / "index/torch", "torch", f"{VERSION}+rocm").name
    (tmp_path / "index/torch/index.html").write_text(f'<a href="{name}">{name}</a>')
    settings = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": (tmp_path / "index").as_uri(),
        "PIP_FIND_LINKS": str(tmp_path / "settings"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    (line,) = project.make("cpu-torch", "TORCH=cpu", "TORCH_INDEX=http://127.0.0.1:9", **settings)  # nobody listens
    assert project.status == 0 and "http://127.0.0.1:9 cannot be reached" in line and project.torch() == []
    lines = project.make("install", "TORCH=cpu", "TORCH_INDEX=cpu", **settings)
    assert project.status == 0 and project.torch() == CPU, lines
