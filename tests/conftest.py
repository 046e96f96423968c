"""Shared fixtures: where real recordings are, and small simulated ones."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import xarray as xr
from command_line import run_cli as run_cli
from places import _clients as _clients
from places import place as place

import penstock as ps

pytest.register_assert_rewrite("penstock.testing")

# (a busy machine is no reason to fail: no test asserts a wall clock; what is drawn differs from run
# to run where somebody looks at it, and not in CI)
in_ci = bool(os.environ.get("CI"))
hypothesis.settings.register_profile("penstock", deadline=None, derandomize=in_ci)
hypothesis.settings.load_profile("penstock")


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the real recordings."""
    folder = os.environ.get("PENSTOCK_DATA")
    if not folder:
        pytest.skip("PENSTOCK_DATA is not set: it names the folder of the real recordings")
    path = Path(folder)
    if not path.is_dir():
        pytest.skip(f"PENSTOCK_DATA={folder} is not a folder")
    return path


@pytest.fixture(scope="session")
def motor_runs(data: Path) -> Path:
    """Six runs of one subject: 64 channels, 160 Hz, EDF+."""
    return data / "eeg" / "eegmmidb_S001"


@pytest.fixture
def small() -> xr.Dataset:
    """Eight channels of noise, 2,000 samples at 200 Hz, float64."""
    rng = np.random.default_rng(5)
    return ps.make_dataset(
        rng.standard_normal((8, 2000)) * 20,
        sampling_frequency=200.0,
        units="uV",
        coords={"channel": [f"C{i}" for i in range(8)]},
    )
