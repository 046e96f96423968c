"""The command line on spectra: h5USID and NumPy files, fits, peaks, functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Penstock

import penstock as ps

X = np.linspace(-3.0, 3.0, 41)


@pytest.fixture
def centers(run_cli: Penstock) -> np.ndarray:
    """Gaussians at these centres (y, x), in ``scan.h5`` and ``scan.npy`` of the current folder."""
    centers = np.random.default_rng(0).uniform(-1, 1, (5, 6))
    values = 2 * np.exp(-((X - centers[..., None]) ** 2) / (2 * 0.5**2)) + 0.1
    coords = {
        "y": np.arange(5.0),
        "x": np.arange(6.0),
        "frequency": ("frequency", X, {"units": "Hz"}),
    }
    scan = ps.make_dataset(values, ("y", "x", "frequency"), coords=coords, units="V")
    ps.io.write_usid(scan, "scan.h5", position_dims=("y", "x"))
    np.save("scan.npy", values)
    Path("fit.yaml").write_text("pipeline:\n  - Fit: {model: gaussian, gil: released}\n")
    return centers


def test_info_plan_and_run_a_fit(run_cli: Penstock, centers: np.ndarray) -> None:
    shown = run_cli("info", "scan.h5")
    assert "5 y × 6 x × 41 frequency" in shown.out
    assert "-3 to 3 Hz" in shown.out
    planned = run_cli("plan", "fit.yaml", "scan.h5", "-m", "4GiB")
    assert planned.code == 0
    assert "Fit" in planned.out
    done = run_cli("run", "fit.yaml", "scan.h5", "-o", "out", "-m", "4GiB", "--dtype", "float64")
    assert done.code == 0, done.err
    results = ps.open_dataset("out/scan.zarr")
    np.testing.assert_allclose(results.center.values, centers, atol=1e-6)
    assert results.center.attrs["units"] == "Hz"
    assert "center" in run_cli("info", "out/scan.zarr").out


def test_numpy_files_take_the_names_of_their_dims(run_cli: Penstock, centers: np.ndarray) -> None:
    Path("largest.yaml").write_text("pipeline:\n  - PerPosition: {function: 'numpy:argmax'}\n")
    common = ["largest.yaml", "scan.npy", "--dims", "y,x,frequency", "-m", "4GiB"]
    assert run_cli("plan", *common).code == 0
    assert run_cli("run", *common, "-o", "out", "--executor", "threads").code == 0
    found = ps.open_dataset("out/scan.zarr").result.values
    np.testing.assert_array_equal(found, np.load("scan.npy").argmax(axis=-1))
    again = run_cli("run", *common, "-o", "out", "--executor", "threads")
    assert "1 there already" in again.out
    # (without names the last axis is the spectrum)
    unnamed = run_cli("plan", "largest.yaml", "scan.npy", "-m", "4GiB")
    assert unnamed.code == 0


def test_info_lists_several_datasets(run_cli: Penstock, centers: np.ndarray) -> None:
    np.savez("several.npz", first=np.zeros((2, 3)), second=np.ones((4, 5)))
    shown = run_cli("info", "several.npz")
    assert shown.code == 0
    assert "first of " in shown.out
    assert "4 dim_0 × 5 dim_1" in shown.out


def test_which_of_several_datasets(run_cli: Penstock, centers: np.ndarray) -> None:
    results = ps.make_dataset(np.zeros((5, 6)), ("y", "x"))
    results = results.rename(signal="height").assign_coords(y=np.arange(5.0), x=np.arange(6.0))
    ps.io.write_usid_results("scan.h5", "Raw_Data", "Heights", results)
    assert run_cli("info", "scan.h5").code == 0  # results do not stand in the way of raw data
    shown = run_cli("info", "scan.h5", "--dataset", "Raw_Data-Heights_000/height")
    assert "5 y × 6 x" in shown.out
    wrong = run_cli("info", "scan.h5", "--dataset", "Channel_007/Raw_Data")
    assert wrong.code == 1
    assert "Raw_Data" in wrong.sentence


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Fit: {model: gausian}", "gaussian"),
        ("Fit: {model: gaussian, boundss: 3}", "bounds"),
        ("FindPeaksCWT: {widths: []}", "widths"),
        ("FindPeaksCWT: {widths: [0.0, 2.0]}", "width"),
        ("PerPosition: {function: 'os:getcwd'}", "os"),
        ("PerPosition: {}", "function"),
    ],
)
def test_wrong_pipelines_are_told_in_one_sentence(
    run_cli, centers, text: str, message: str
) -> None:
    Path("wrong.yaml").write_text(f"pipeline:\n  - {text}\n")
    outcome = run_cli("plan", "wrong.yaml", "scan.h5")
    assert outcome.code == 2
    assert message in outcome.sentence
