"""A headless Chromium and a JupyterLab of the tests' own: nothing of the user's settings is read or written."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.notebooks.needed import needed

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
QUIET = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-sync", *QUIET]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One worker builds the site and tests it, another the workshop; every other test goes to whoever is free.

    xdist's own marks for this are ignored, without a word, under pytest 9.2 (pytest-xdist #1386).
    """
    from xdist.scheduler import LoadScopeScheduling

    class Builders(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return file if file.endswith(("test_site.py", "test_workshop.py")) else nodeid

    return Builders(config, log)


def unavailable(reason: str) -> None:
    """Skip on a contributor's machine; on the machine that guards the project a missing browser is a failure."""
    demanded = os.environ.get("CI_BROWSER") == "1" or os.environ.get("CI") == "true"
    (pytest.fail if demanded else pytest.skip)(reason)


@pytest.fixture(scope="session")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        unavailable("no Chromium found: install your system's package `chromium`")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("playwright is not installed: run `make test-browser`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def watched(browser):
    """A function that opens a page of the given size and scheme, and fails the test if anything went wrong in it."""
    contexts, problems = [], []

    def open_page(home: str, width: int = 1280, height: int = 900, scheme: str = "light", harmless=()):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(f"uncaught: {error}"))
        page.on("console", lambda message: note(message))
        page.on("request", lambda request: outside(request.url))

        def note(message):
            if message.type == "error" and not any(known in message.text for known in harmless):
                problems.append(f"console: {message.text} ({message.location.get('url')})")

        def outside(url):
            if not url.startswith((home, home.replace("http", "ws", 1), "data:", "blob:", "about:")):
                problems.append(f"requested from elsewhere: {url}")

        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems, "\n".join(problems)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """The folder that JupyterLab shows."""
    return tmp_path_factory.mktemp("lab") / "notebooks"


@pytest.fixture(scope="session")
def lab(root):
    """The address of a JupyterLab over a copy of the notebooks."""
    home = root.parent
    for path in NOTEBOOKS:
        _copy_for_explorers(path, root / path.name)
    settings = home / "config" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        json.dumps(
            {
                # every cell is in the page, not only those near the viewport, so that a test can find them
                "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
                "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
            }
        )
    )
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    environment = {**os.environ, **{name: str(home / folder) for name, folder in places.items()}}
    options = [f"--port={port}", "--ServerApp.port_retries=0", "--no-browser", "--allow-root"]
    options += [f"--ServerApp.root_dir={root}", "--IdentityProvider.token="]
    options += [f"--LabApp.app_settings_dir={ROOT / 'notebooks' / 'lab'}"]  # as `make lab` says
    options += ["--ServerApp.disable_check_xsrf=True"]  # without a token, `ask` could not end a kernel otherwise
    command = [sys.executable, "-m", "jupyterlab", *options]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _await(f"{address}/api", server, home / "log")
        yield address
    finally:
        server.terminate()
        server.wait(20)


def ask(url: str, method: str = "GET") -> bytes:
    """The server's answer, past any proxy."""
    request = urllib.request.Request(url, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        return answer.read()


@pytest.fixture
def kernels(lab):
    """Afterwards, no kernel of a notebook that was opened goes on running beside the next test."""
    yield
    for kernel in json.loads(ask(f"{lab}/api/kernels")):
        ask(f"{lab}/api/kernels/{kernel['id']}", "DELETE")


def _copy_for_explorers(path: Path, target: Path) -> None:
    """Without outputs, or a stored output, or a stored cell number, would pass for one of this run.

    Of the code, only the explorers' cells and those that make what they use: `make test-notebooks` runs every cell.
    """
    notebook = json.loads(path.read_text())
    notebook["cells"] = needed(notebook["cells"], lambda cell: "explorers." in "".join(cell["source"]))
    for cell in notebook["cells"]:
        if is_code(cell):
            cell |= {"outputs": [], "execution_count": None}
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(notebook))


def is_code(cell: dict) -> bool:
    return cell["cell_type"] == "code"


def _await(url: str, server: subprocess.Popen, log: Path, seconds: float = 40) -> bytes:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            return ask(url)
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")
