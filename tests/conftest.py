"""What every test shares: Hypothesis profiles, and what this machine cannot run."""

from __future__ import annotations

import importlib.util
import os

import pytest
from hypothesis import settings

# Timings on a shared machine say nothing, so no deadline; in CI the same examples every time.
settings.register_profile("local", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# Tiny models are slower on two threads than on one, and far slower beside a busy core. Torch reads
# this when it is loaded, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A bug that a command tells in one line is to fail a test with all of its traceback.
os.environ.setdefault("PEARL_TRACEBACK", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("ray") and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    if item.get_closest_marker("gpu") and not _cuda_device_present():
        pytest.skip("no CUDA device")


def _cuda_device_present() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch  # noqa: PLC0415 - slow to import, and only tests marked gpu ask

    return torch.cuda.is_available()
