"""The budget holds: real pipelines in fresh processes, measured from outside.

Measured is the PSS of the whole process tree, every 10 ms; it must stay below what was predicted,
the prediction below the budget, and for large blocks the prediction close to the truth.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import TESTS

import penstock as ps
from penstock.memory.accounting import MIB, format_bytes, parse_bytes, resident, tree_pss

FMRI = {"n_channels": 16, "duration": 120.0, "sampling_frequency": 5000.0, "fmri": True}
VIRTUAL = {"shape": [16, 4_000_000], "dims": ["channel", "time"], "allow": ["generic"]}
GRID = {"shape": [200, 300, 256], "dims": ["y", "x", "frequency"], "rate": None}
VOLUMES = {"shape": [48, 56, 44, 600], "dims": ["x", "y", "z", "time"], "rate": 0.5}
CASES: dict[str, dict[str, Any]] = {
    "rows": {**VIRTUAL, "memory": "400MiB", "workers": 2, "pipeline": [{"generic.Demean": {}}]},
    "one worker": {
        **VIRTUAL, "memory": "400MiB", "workers": 1,
        "pipeline": [{"generic.MovingAverage": {}}, {"generic.SubtractMean": {}}],
    },
    "transpose": {
        **VIRTUAL, "memory": "350MiB", "workers": 2,
        "pipeline": [{"generic.Demean": {}}, {"generic.SortChannels": {}}],
    },
    # (all partial sums together would take 146 MiB in each of two threads)
    "reduction": {
        **VIRTUAL, "memory": "330MiB", "workers": 2, "shape": [64, 1_200_000],
        "pipeline": [{"HighPassFilter": {"freq": 0.5, "method": "iir"}}, {"Rereference": {}}],
    },
    "filters": {
        **VIRTUAL, "memory": "500MiB", "workers": 2,
        "pipeline": [{"BandPassFilter": [1.0, 40.0]}, {"NotchFilter": 50.0}, "Scale"],
    },
    "iir": {
        **VIRTUAL, "memory": "400MiB", "workers": 2,
        "pipeline": [{"HighPassFilter": {"freq": 0.5, "method": "iir"}}],
    },
    "upsampled": {
        **VIRTUAL, "memory": "900MiB", "workers": 2, "shape": [8, 1_500_000],
        "pipeline": [{"UpSample": 10}, {"LowPassFilter": 70.0}, {"DownSample": 10}],
    },
    "correction": {
        "simulate": FMRI, "memory": "350MiB", "workers": 2,
        "pipeline": [
            {"TriggerDetector": "^1$"}, {"HighPassFilter": 1.0}, "AASCorrection",
            {"LowPassFilter": 70.0}, {"Resample": 250.0},
        ],
    },
    "four times the budget": {
        **VIRTUAL, "shape": [4, 110_000_000], "memory": "400MiB", "workers": 2,
        "pipeline": [{"BandPassFilter": [1.0, 40.0]}, {"Resample": 250.0}],
    },
    "to edf": {
        "simulate": {**FMRI, "fmri": False}, "memory": "400MiB", "workers": 2, "format": "edf",
        "pipeline": [{"BandPassFilter": [1.0, 40.0]}],
    },
    "peaks": {
        **GRID, "memory": "350MiB", "workers": 2,
        "pipeline": [{"FindPeaksCWT": {"widths": [4.0, 8.0]}}],
    },
    "fit": {
        **GRID, "shape": [80, 100, 256], "memory": "350MiB", "workers": 2,
        "pipeline": [{"Fit": {"model": "gaussian", "gil": "released"}}],
    },
    "function": {
        **GRID, "memory": "1GiB", "workers": 2,
        "pipeline": [{"PerPosition": {"function": "numpy:argmax"}}],
    },
    "to fif": {
        "simulate": {**FMRI, "fmri": False}, "memory": "500MiB", "workers": 2, "format": "fif",
        "pipeline": [{"BandPassFilter": [1.0, 40.0]}],
    },
    "voxels": {
        **VOLUMES, "memory": "400MiB", "workers": 2,
        "pipeline": [
            {"ExtractVoxels": "{images}/mask.nii"},
            {"CleanSignals": {"detrend": True, "standardize": "psc", "low_pass": 0.1}},
        ],
    },
    "regions of a compressed image": {
        "source": "{images}/bold.nii.gz", "memory": "330MiB", "workers": 2, "format": "csv",
        "pipeline": [
            {"SmoothVolumes": 6.0}, {"ExtractLabels": "{images}/atlas.nii"},
            {"CleanSignals": {"detrend": True, "high_pass": 0.01}},
        ],
    },
    "several atlases": {
        **VOLUMES, "memory": "400MiB", "workers": 2,
        "pipeline": [
            {"ExtractTogether": [[
                [{"SmoothVolumes": 6.0}, {"ExtractLabels": "{images}/atlas.nii"}],
                [{"SmoothVolumes": 6.0}, {"ExtractLabels": ["{images}/atlas.nii"]}],
                {"ExtractSpheres": {"seeds": [[60, 60, 60]], "radius": 20.0}},
            ]]},
            {"CleanSignals": {"standardize": "zscore_sample"}},
        ],
    },
    "processes": {
        **VIRTUAL, "shape": [16, 1_000_000], "memory": "1GiB", "workers": 2,
        "executor": "processes", "pipeline": [{"generic.Demean": {}}],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a mask, an atlas, and a compressed series of 113 MiB of volumes."""
    folder = tmp_path_factory.mktemp("images")
    shape = VOLUMES["shape"][:3]
    labels = np.arange(np.prod(shape)).reshape(shape) // 1200
    volumes = np.broadcast_to(labels[..., np.newaxis] % 97, (*shape, 500))
    affine = (("affine_row", "affine_column"), np.diag([3.0, 3.0, 3.0, 1.0]))
    for name, values in (
        ("mask.nii", labels % 3 > 0), ("atlas.nii", labels), ("bold.nii.gz", volumes),
    ):  # fmt: skip
        dims = ("x", "y", "z", "time")[: values.ndim]
        rate = 0.5 if values.ndim == 4 else None
        ds = ps.make_dataset(
            values.astype("int16"), dims, sampling_frequency=rate, coords={"affine": affine}
        )
        ps.export(ds, folder / name)
    return folder


def measured(case: dict[str, Any], out: Path, images: Path) -> tuple[dict[str, Any], int, int]:
    """Run a case in a fresh process: what it says, the highest PSS of its tree, and what that were
    if its first process shared no libraries with others on this machine."""
    case = {**case, "out": str(out), "pipeline": {"pipeline": case["pipeline"]}}
    text = json.dumps(case).replace("{images}", str(images))
    paths = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, str(TESTS / "memory_case.py"), text],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    peak = alone = 0
    while process.poll() is None:
        now = tree_pss(process.pid)
        peak, alone = max(peak, now), max(alone, now, resident(process.pid))
        time.sleep(0.01)
    assert process.stdout is not None
    return json.loads(process.stdout.read()), peak, alone


@pytest.mark.parametrize("name", CASES)
def test_measured_is_below_predicted_is_below_budget(
    name: str, tmp_path: Path, images: Path
) -> None:
    highest = 0
    # (blocks of a few milliseconds: a busy machine may look away whenever two threads are at their
    # highest, so that a low reading is taken again, a high one never)
    for attempt in range(3):
        said, peak, alone = measured(CASES[name], tmp_path / str(attempt), images)
        assert not said["failed"]
        highest = max(highest, alone)
        shown = {key: format_bytes(said[key]) for key in ("predicted", "base", "budget")}
        text = f"measured {format_bytes(highest)}, {shown}"
        assert peak <= said["predicted"] <= said["budget"], text
        assert said["measured_inside"] >= 0.85 * peak, text
        assert not said["overruns"]
        blocks = said["predicted"] - said["base"]
        if blocks <= 100 * MIB or name == "processes" or said["predicted"] <= 1.5 * highest:
            return
    pytest.fail(f"the prediction is worth little: {text}")


def test_a_recording_of_200_gib_is_planned_in_little_memory(tmp_path: Path) -> None:
    code = (
        "import time; began = time.perf_counter()\n"
        "import penstock as ps; from penstock.testing import virtual_dataset\n"
        "n = 200 * 1024**3 // 4 // 256\n"
        "ds = virtual_dataset((256, n), readable=False, sampling_frequency=5000.0)\n"
        "from penstock.eeg import HighPassFilter, Resample\n"
        "plan = ps.Pipeline([HighPassFilter(1.0), Resample(250.0)]).plan(ds, memory='2 GiB')\n"
        "import psutil; print(psutil.Process().memory_info().rss, plan.n_blocks)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    resident, n_blocks = map(int, done.stdout.split())
    assert resident < 300 * MIB
    assert n_blocks > 1000


@pytest.mark.parametrize(
    ("text", "amount"),
    [("512 MiB", 512 << 20), ("1GB", 10**9), ("1.5gib", 3 << 29), (1000, 1000), ("2e9", 2 * 10**9)],
)
def test_amounts_of_memory(text: str | int, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["", "much", "12 parsecs", "-1 GiB", 0])
def test_what_is_no_amount_of_memory(text: str | int) -> None:
    with pytest.raises(ValueError, match="memory"):
        parse_bytes(text)


def test_importing_penstock_is_cheap() -> None:
    code = "import sys, penstock; print(len([m for m in sys.modules if m in ('numpy', 'xarray')]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
    assert ps.__version__
