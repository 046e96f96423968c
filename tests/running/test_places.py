"""Foreign files, selections, notes and options give the same in threads, processes and clusters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import penstock as ps
from penstock.eeg import HighPassFilter, Rereference, Resample
from penstock.fmri import CleanSignals, ExtractLabels, SpatialImage
from penstock.spectra import Fit

Job = Callable[[Path], tuple[Any, ps.Pipeline, dict[str, Any]]]


def recording(folder: Path, *, seconds: int = 40) -> xr.Dataset:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((6, 200 * seconds)) * 20).astype("float32")
    values[5] = np.nan
    events = pd.DataFrame(
        {
            "onset": [10.0, 20.0],
            "duration": [0.0, 2.5],
            "label": ["EDGE boundary", "BAD_ACQ_SKIP"],
        }
    )
    return ps.make_dataset(
        values,
        sampling_frequency=200.0,
        units="uV",
        coords={"channel": list("abcdef"), "bad": ("channel", [False] * 5 + [True])},
        events=events,
        attrs={"measurement_date": "2024-02-29T23:59:50+00:00"},
    )


def of_a_stretch(folder: Path) -> tuple[Any, ps.Pipeline, dict[str, Any]]:
    """A selection of a recording with joins, a pause and a dead channel."""
    ds = recording(folder).isel(time=slice(1000, None, 2))
    return ds, ps.Pipeline([HighPassFilter(1.0), Rereference(), Resample(60.0)]), {}


def of_an_interrupted_file(folder: Path) -> tuple[Any, ps.Pipeline, dict[str, Any]]:
    """A file that opens only with an option of its reader, and has a channel to be marked bad."""
    whole = recording(folder).isel(channel=slice(0, 5))
    path = folder / "night.edf"
    ps.export(whole, path)
    options = {"open_options": {"bads": ["e"], "channel_types": {"d": "eog"}}}
    return str(path), ps.Pipeline([HighPassFilter(1.0), Rereference()]), options


def of_an_object(folder: Path) -> tuple[Any, ps.Pipeline, dict[str, Any]]:
    """A Raw object of MNE-Python, with a trigger channel and projections off."""
    mne = pytest.importorskip("mne")
    info = mne.create_info(["Fz", "Cz", "STI"], 200.0, ["eeg", "eeg", "stim"])
    values = np.random.default_rng(1).normal(0, 1e-5, (3, 6000))
    values[2] = 0
    values[2, 1000:1010] = 255
    raw = mne.io.RawArray(values, info, verbose="error")
    return {"raw": raw}, ps.Pipeline([HighPassFilter(1.0)]), {}


def of_a_part_of_an_image(folder: Path) -> tuple[Any, ps.Pipeline, dict[str, Any]]:
    """Regions of an image that was cropped and flipped, cleaned of a strategy's confounds."""
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(2)
    affine = np.diag([3.0, 3, 3, 1])
    image = nibabel.Nifti1Image(rng.normal(1000, 20, (9, 8, 7, 60)).astype("f4"), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((3, 3, 3, 2.0))
    path = folder / "sub-01_task-rest_desc-preproc_bold.nii.gz"
    nibabel.save(image, path)
    names = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
    table = pd.DataFrame(rng.normal(size=(60, 6)), columns=names)
    table["framewise_displacement"] = np.r_[np.nan, rng.uniform(0, 0.52, 59)]
    table["std_dvars"] = np.r_[np.nan, np.ones(59)]
    name = "sub-01_task-rest_desc-confounds_timeseries.tsv"
    table.to_csv(folder / name, sep="\t", index=False, na_rep="n/a")
    labels = np.zeros((9, 8, 7), "i2")
    labels[3:5, 2:6, 2:5], labels[6:8, 2:6, 2:5] = 1, 2
    part = ps.open_dataset(path).isel(x=slice(8, 1, -1), y=slice(1, None))
    cleaning = CleanSignals(confounds="auto", strategy=("motion=basic", "scrub=2"), detrend=True)
    return part, ps.Pipeline([ExtractLabels(SpatialImage(labels, affine)), cleaning]), {}


def of_spectra(folder: Path) -> tuple[Any, ps.Pipeline, dict[str, Any]]:
    """Fits with a fixed parameter and gaps, of packed values."""
    h5py = pytest.importorskip("h5py")
    x = np.linspace(-3, 3, 60)
    centre = np.linspace(-1, 1, 200)[:, None]
    packed = np.round(np.exp(-((x - centre) ** 2)) * 1000).astype("int16")
    packed[3, 5:9] = -999
    with h5py.File(folder / "scan.h5", "w") as file:
        data = file.create_dataset("counts", data=packed)
        data.attrs.update(scale_factor=0.001, add_offset=0.0, _FillValue=np.int16(-999))
    ds = ps.open_dataset(folder / "scan.h5", dims=("position", "frequency"))
    ds = ds.assign_coords(frequency=("frequency", x, {"units": "Hz"}))
    return ds, ps.Pipeline([Fit("gaussian", fixed={"offset": 0.0})]), {}


JOBS = (of_a_stretch, of_an_interrupted_file, of_an_object, of_a_part_of_an_image, of_spectra)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__)
def test_the_same_everywhere(job: Job, place: dict[str, Any], tmp_path: Path) -> None:
    source, pipeline, options = job(tmp_path)
    expected = pipeline(_opened(source, options)).compute(scheduler="synchronous")
    report = pipeline.run(
        source, tmp_path / "out", memory="3 GiB", workers=2, progress=False, **options, **place
    )
    assert report.ok, report.failed
    assert report.predicted_memory <= 3 * 2**30
    assert report.peak_memory <= report.predicted_memory
    assert not report.overruns
    (made,) = report.outputs.values()
    result = ps.open_dataset(made)
    for name in expected.data_vars:
        np.testing.assert_allclose(
            result[name].values, expected[name].values, rtol=2e-5, atol=1e-5, err_msg=str(name)
        )
    for name in expected.coords:
        found, wanted = result[name].values, expected[name].values
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(found, wanted, err_msg=str(name))
        else:
            assert found.astype(str).tolist() == wanted.astype(str).tolist(), name


def _opened(source: Any, options: dict[str, Any]) -> xr.Dataset:
    if isinstance(source, dict):
        (source,) = source.values()
    if isinstance(source, xr.Dataset):
        return source
    return ps.open_dataset(source, **options.get("open_options", {}))
