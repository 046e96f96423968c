"""The repetition time of an image: what is asked for, its sidecars, its header, in this order."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock.fmri import NiftiLabelsMasker, as_volumes, signal_clean
from penstock.fmri.images.volumes import repetition_time
from penstock.io.nifti.open import close_streams

nib = pytest.importorskip("nibabel")

SHAPE = (5, 4, 3, 40)
NAME = "sub-01_task-rest_space-MNI152NLin6Asym_desc-preproc_bold"


@pytest.fixture(autouse=True)
def no_streams() -> None:
    close_streams()


def image(t_r: float = 1.0, unit: str = "sec", shape: tuple[int, ...] = SHAPE) -> Any:
    values = np.random.default_rng(0).normal(1000, 20, shape).astype("f4")
    made = nib.Nifti1Image(values, np.diag([3.0, 3, 3, 1]))
    made.header["pixdim"][4] = t_r
    made.header.set_xyzt_units("mm", unit)
    return made


def told(path: Path) -> tuple[float | None, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = repetition_time(ps.open_dataset(path))
    return found, [str(warning.message) for warning in caught]


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_sidecar_comes_before_the_header(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"{NAME}{suffix}"
    nib.save(image(1.0), path)
    assert told(path) == (1.0, [])
    write(tmp_path / f"{NAME}.json", {"RepetitionTime": 2.0})
    seconds, messages = told(path)
    assert seconds == 2.0
    assert len(messages) == 1
    assert "1 s in its header" in messages[0]
    assert f"2 s in {NAME}.json" in messages[0]
    assert repetition_time(ps.open_dataset(path, t_r=1.5)) == 1.5
    with pytest.warns(UserWarning, match="2 s in"):
        assert ps.open_dataset(path).attrs["repetition_time_note"] == f"from {NAME}.json"


@pytest.mark.parametrize(
    ("stored", "unit"),
    [(2.0, "sec"), (2.0, 0), (2000.0, "msec"), (2e6, "usec"), (0.0, "sec"), (-1, 0), (2000.0, 0),
     (2.0005, "sec")],
)  # fmt: skip
def test_headers_in_other_units_or_without_a_time_agree(
    tmp_path: Path, stored: float, unit: Any
) -> None:
    path = tmp_path / "dcm2niix.nii.gz"  # (a name that is not of BIDS)
    nib.save(image(stored, unit), path)
    write(tmp_path / "dcm2niix.json", {"RepetitionTime": 2, "Manufacturer": "Siemens"})
    assert told(path) == (2.0, [])


def test_sidecars_are_inherited(tmp_path: Path) -> None:
    folder = tmp_path / "sub-01" / "ses-1" / "func"
    write(tmp_path / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.9.0"})
    write(tmp_path / "task-rest_bold.json", {"RepetitionTime": 0.8})
    write(tmp_path / "task-other_bold.json", {"RepetitionTime": 3.0})
    write(tmp_path / "sub-01" / "sub-01_task-rest_run-2_bold.json", {"RepetitionTime": 1.2})
    folder.mkdir(parents=True)
    for run in (1, 2):
        nib.save(image(0.0), folder / f"sub-01_ses-1_task-rest_run-{run}_bold.nii.gz")
    assert told(folder / "sub-01_ses-1_task-rest_run-1_bold.nii.gz") == (0.8, [])
    assert told(folder / "sub-01_ses-1_task-rest_run-2_bold.nii.gz") == (1.2, [])


@pytest.mark.parametrize("content", ["{not json", "[1, 2]", {"RepetitionTime": "two"},
                                     {"RepetitionTime": 0}, {"RepetitionTime": True},
                                     {"VolumeTiming": [0, 1, 2]}])  # fmt: skip
def test_useless_sidecars_leave_the_header(tmp_path: Path, content: Any) -> None:
    path = tmp_path / f"{NAME}.nii"
    nib.save(image(2.5), path)
    write(tmp_path / f"{NAME}.json", content)
    seconds, messages = told(path)
    assert seconds == 2.5
    assert len(messages) == 1
    assert f"{NAME}.json" in messages[0]


def test_milliseconds_in_a_sidecar_are_told(tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.nii"
    nib.save(image(2.0), path)
    write(tmp_path / f"{NAME}.json", {"RepetitionTime": 2000})
    seconds, messages = told(path)
    assert seconds == 2.0
    assert "taken as milliseconds" in messages[0]


def test_times_of_volumes(tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.nii"
    nib.save(image(2.0), path)
    write(tmp_path / f"{NAME}.json", {"VolumeTiming": (1 + 0.5 * np.arange(40)).tolist()})
    with pytest.warns(UserWarning, match="0.5 s in"):
        ds = ps.open_dataset(path)
    assert repetition_time(ds) == 0.5
    assert np.allclose(ds["time"].values, 1 + 0.5 * np.arange(40))
    sparse = np.cumsum(1.0 + np.arange(40) % 3)
    write(tmp_path / f"{NAME}.json", {"VolumeTiming": sparse.tolist()})
    ds = ps.open_dataset(path)
    assert np.array_equal(ds["time"].values, sparse)
    assert repetition_time(ds) is None
    assert ds.sel(time=slice(10, 20)).sizes["time"] == ((sparse >= 10) & (sparse <= 20)).sum()


def test_vectors_and_single_volumes_ask_no_sidecar(tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.nii"
    write(tmp_path / f"{NAME}.json", {"RepetitionTime": 2.0})
    nib.save(image(1.0, "hz"), path)
    assert told(path) == (None, [])
    nib.save(image(shape=SHAPE[:3]), path)
    assert told(path) == (None, [])


def test_filters_use_it(tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.nii.gz"
    made = image(1.0, shape=(5, 4, 3, 120))
    nib.save(made, path)
    write(tmp_path / f"{NAME}.json", {"RepetitionTime": 2.0})
    labels = nib.Nifti1Image(np.ones(SHAPE[:3], "u1"), made.affine)
    means = np.asarray(made.dataobj, "f8").mean(axis=(0, 1, 2))[:, np.newaxis]
    options: dict[str, Any] = {"detrend": True, "low_pass": 0.1, "high_pass": 0.01}
    expected = signal_clean(means, t_r=2.0, standardize=None, **options)
    for source in (path, nib.load(path)):
        with pytest.warns(UserWarning, match="2 s in"):
            found = NiftiLabelsMasker(labels, standardize=False, **options).fit_transform(source)
        assert np.allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_lists_with_two_repetition_times_are_refused() -> None:
    labels = nib.Nifti1Image(np.ones(SHAPE[:3], "u1"), np.diag([3.0, 3, 3, 1]))
    runs = [image(2.0), image(2.0), image(1.0)]
    with pytest.raises(ValueError, match=r"image 3 .* 1 s, image 1 one of 2 s"):
        NiftiLabelsMasker(labels, low_pass=0.1).fit_transform(runs)
    with pytest.raises(ValueError, match="t_r="):
        NiftiLabelsMasker(labels).fit_transform(runs)
    assert NiftiLabelsMasker(labels, t_r=2.0).fit_transform(runs).shape == (120, 1)
    assert NiftiLabelsMasker(labels, low_pass=0.1).fit_transform(runs[:2]).shape == (80, 1)
    unknown = image(0.0)
    assert repetition_time(as_volumes(unknown)) is None
    with pytest.raises(ValueError, match="t_r"):
        NiftiLabelsMasker(labels, low_pass=0.1).fit_transform([image(2.0), unknown])
