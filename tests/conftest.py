"""Shared by every test: under xdist each worker computes on one thread, or the workers would fight over the cores."""

import os
import sys

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # read by torch as it is imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)

try:  # before anything imports distutils: setuptools, which torch.compile loads, wants to be the first
    import setuptools  # noqa: F401
except ImportError:
    pass
