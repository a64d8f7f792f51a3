"""Is this machine ready for the workshop? `make check-room` prints one line, and exits with 1 if it is not.

The first checks must run, and speak, on a Python too old or too bare for the rest: only the standard library is
imported at the top, and nothing here needs a newer syntax than Python 3.6.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NOTEBOOKS = os.path.join(ROOT, "notebooks")
FREE = 1e9  # bytes: the course itself writes little
PATIENCE = 90  # seconds for JupyterLab to answer: a cold disk and a virus scanner take many
START = time.time()


class NotReady(Exception):
    """Says what is missing and what to do about it."""


def check_python():
    if sys.version_info < (3, 11):  # noqa: UP036, an older one may well run this file
        found = ".".join(map(str, sys.version_info[:3]))
        raise NotReady(f"Python 3.11 or newer is needed, found {found}: install it and run `make install`")
    return f"Python {sys.version_info[0]}.{sys.version_info[1]}"


def check_packages():
    """Everything the course declares is installed, at the major version that was tested."""
    import re
    import tomllib
    from importlib import metadata

    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        project = tomllib.load(file)["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["course"]
    with open(os.path.join(ROOT, "constraints.txt")) as file:
        pinned = dict(line.strip().split("==") for line in file if "==" in line)
    pinned = {normal(name): version for name, version in pinned.items()}
    for name in ["fmlib"] + [re.split(r"[\[>=<]", line)[0] for line in declared]:
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise NotReady(f"the package {name} is not installed: run `make install`") from None
        wanted = pinned.get(normal(name), found)
        if found.split(".")[0] != wanted.split(".")[0]:
            raise NotReady(f"{name} {found} is installed, {wanted} was tested: run `make install`")
    return f"{len(declared) + 1} packages"


def normal(name):
    return name.lower().replace("_", "-")


def check_disk():
    free = shutil.disk_usage(ROOT).free
    if free < FREE:
        raise NotReady(f"only {free / 1e9:.1f} GB of disk are free: free 1 GB")
    return f"{free / 1e9:.0f} GB free"


def check_home():
    """Jupyter has where to write, as `make lab` asks too."""
    home = os.environ.get("HOME")
    if home and not os.access(home, os.W_OK) and not os.environ.get("JUPYTER_RUNTIME_DIR"):
        raise NotReady(f"nothing can be written into the home {home}: say `HOME=/another/folder make lab`")
    return "a home"


def check_jupyter():
    """A JupyterLab server starts on a free port and answers, and the course's kernel is known to it."""
    import json
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # the user's own settings stay out of it, and nothing is left behind
    with tempfile.TemporaryDirectory() as folder:
        names = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
        environment = dict(os.environ, **{name: folder for name in names})
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.port_retries=0"]
        command += ["--IdentityProvider.token=room", "--ServerApp.root_dir=" + folder, "--allow-root"]
        server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        began = time.time()  # not START: the checks before this one take long on a machine that reads slowly
        try:
            while True:
                try:
                    url = f"http://127.0.0.1:{port}/api/kernelspecs?token=room"
                    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                    with direct.open(url, timeout=5) as answer:
                        kernels = json.load(answer)["kernelspecs"]
                    break
                except OSError:
                    if server.poll() is not None:
                        raise NotReady("JupyterLab does not start: run `make lab` and read what it says") from None
                    if time.time() - began > PATIENCE:
                        late = f"JupyterLab did not answer within {PATIENCE} s"
                        raise NotReady(f"{late}: close other programs and run this again") from None
                    time.sleep(0.3)
        finally:
            server.terminate()
            server.wait(15)
    if "python3" not in kernels:
        raise NotReady("JupyterLab knows no kernel `python3`: run `make install`")
    return "JupyterLab answers"


def check_training():
    """A small network learns: its loss falls, so PyTorch computes and differentiates on this machine."""
    from fmlib import datasets, fit, models

    losses = fit(models.MLP(dim=2), datasets.moons, steps=100, device="cpu", progress=False).losses
    first, last = float(sum(losses[:20])) / 20, float(sum(losses[-20:])) / 20
    if not last < first:
        raise NotReady(f"training does not learn, the loss went from {first:.2f} to {last:.2f}: run `make install`")
    return "training learns"


def check_data():
    """The digits are on the disk: no network is needed for them."""
    from fmlib import datasets

    def refuse(*_):
        raise OSError("the network was asked for")

    connect, socket.socket.connect = socket.socket.connect, refuse
    try:
        datasets.digits()
    finally:
        socket.socket.connect = connect
    return "data loads offline"


def check_notebooks(folder=NOTEBOOKS):
    """Every notebook that has exercises is there and can be read, and everything that it imports is installed."""
    import ast
    import importlib
    import json

    from fmlib import exercises

    known = sorted({int(exercise.number.split(".")[0]) for exercise in exercises.every()})
    names = {int(name[:2]): name for name in os.listdir(folder) if name[:2].isdigit() and name.endswith(".ipynb")}
    missing = ", ".join(f"{number:02d}" for number in known if number not in names)
    if missing:
        raise NotReady(f"of {len(known)} notebooks {missing} is missing in {folder}: run `git restore notebooks`")
    for number in known:
        try:
            with open(os.path.join(folder, names[number]), encoding="utf-8") as file:
                cells = json.load(file)["cells"]
        except (ValueError, KeyError):
            raise NotReady(f"{names[number]} is damaged: run `git restore notebooks`") from None
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        for node in (node for source in sources for node in ast.walk(ast.parse(source))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module]
            for module in modules:
                try:
                    importlib.import_module(module)
                except ImportError as error:
                    reason = f"notebook {number:02d} needs {module}: {error}"
                    raise NotReady(f"{reason}; run `make install`") from None
    return f"{len(known)} notebooks"


CHECKS = (
    check_python,
    check_packages,
    check_disk,
    check_home,
    check_data,
    check_notebooks,
    check_training,
    check_jupyter,
)


def main():
    found = []
    for check in CHECKS:
        try:
            found.append(check())
        except NotReady as problem:
            print(f"not ready: {problem}")
            return 1
        except Exception as error:
            name, reason = check.__name__.replace("_", " "), str(error).splitlines()[:1]
            print(f"not ready: {name} failed with {type(error).__name__} {reason}; run `make install`")
            return 1
    print(f"ready: {', '.join(found)} ({time.time() - START:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
