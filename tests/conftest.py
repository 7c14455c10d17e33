"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# On shared cores one example in a thousand is slow for no reason of ours.
settings.register_profile("cxrstore", parent=settings.default, deadline=None)
settings.load_profile("cxrstore")

# Threads that wait must not spin on one of two cores; OpenMP reads this when torch or scikit-learn is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray reads these while it is imported.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real radiographs beside the checkout; skip where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real radiographs are not on this machine (looked for ../shared/data beside the checkout)")
    return folder
