"""What a release holds: one version wherever it stands, and a package that is the library and nothing else."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import fmlib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_same_wherever_it_stands():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == fmlib.__version__ == PROJECT["version"]
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert newest == f"## {fmlib.__version__} ({cited['date-released']})"
    assert cited["cff-version"] == "1.2.0" and cited["license"] == PROJECT["license"]
    assert cited["message"] and cited["title"] and all(author["name"] for author in cited["authors"])


@pytest.mark.slow
def test_the_package_holds_the_library_and_nothing_else(tmp_path):
    """Built as pip builds it, without the network, from a copy: a build leaves files beside the source."""
    source, out = tmp_path / "source", tmp_path / "wheel"
    ignored = shutil.ignore_patterns(*(ROOT / ".gitignore").read_text().replace("/\n", "\n").split(), ".git")
    shutil.copytree(ROOT, source, ignore=ignored)
    out.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    assert wheel.name == f"fmlib-{fmlib.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        about = f"fmlib-{fmlib.__version__}.dist-info"
        held = {name for name in archive.namelist() if not name.startswith(about)}
        assert held == {str(path.relative_to(ROOT)) for path in (ROOT / "fmlib").rglob("*.py")}
        assert archive.read(f"{about}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        metadata = Parser().parsestr(archive.read(f"{about}/METADATA").decode())
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    needed = {line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    assert needed == set(PROJECT["dependencies"])
    assert "](" not in metadata.get_payload()  # a link to a file that is not in it
