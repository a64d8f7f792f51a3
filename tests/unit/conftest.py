"""Hypothesis without deadlines (timing in disguise), without stored state, and with the same draws every run."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("course", deadline=None, database=None, derandomize=True, max_examples=25)
settings.load_profile("course")


@pytest.fixture(autouse=True)
def seeded():
    """Each test starts from one global random state, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    """No exercise that a test solves counts as the user's."""
    monkeypatch.setenv("FMLIB_PROGRESS", str(tmp_path / "progress.json"))


@pytest.fixture(autouse=True)
def on_the_cpu(request, monkeypatch):
    """A GPU is for test_cuda.py: the others look at values and bits of the CPU, in the processes they start, too."""
    if request.path.name != "test_cuda.py" and torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
