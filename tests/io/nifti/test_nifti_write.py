"""Writing volumes as NIfTI."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import penstock as ps
from penstock.io.nifti.write import write_nifti
from penstock.testing import raise_if_computes, virtual_dataset

nib = pytest.importorskip("nibabel")

AFFINE = np.array([[-3.0, 0, 0, 60], [0, 3.0, 0, -40], [0, 0, 3.5, -20], [0, 0, 0, 1]])
DIMS = ("x", "y", "z", "time")


def dataset(values: np.ndarray, dims: tuple[str, ...] = DIMS, tr: float | None = 2.5) -> xr.Dataset:
    return ps.make_dataset(
        values,
        dims,
        sampling_frequency=None if tr is None or "time" not in dims else 1 / tr,
        coords={"affine": (("affine_row", "affine_column"), AFFINE)},
    )


def noise(dtype: Any = "float32", shape: tuple[int, ...] = (9, 8, 7, 12)) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape) * 100).astype(dtype)


@pytest.mark.parametrize("name", ["bold.nii", "bold.nii.gz", "BOLD.NII.GZ"])
@pytest.mark.parametrize("block_bytes", [1, 3000, 1 << 25])
def test_what_is_written_is_read_back(tmp_path: Path, name: str, block_bytes: int) -> None:
    values = noise()
    path = write_nifti(dataset(values), tmp_path / name, block_bytes=block_bytes)
    assert path == tmp_path / name
    image = nib.load(path)
    assert np.array_equal(np.asanyarray(image.dataobj), values)
    assert image.get_data_dtype() == np.float32
    assert np.array_equal(image.affine, AFFINE)
    assert image.header.get_zooms() == (3.0, 3.0, 3.5, 2.5)
    assert image.header.get_xyzt_units() == ("mm", "sec")
    again = ps.open_dataset(path)
    assert np.array_equal(again.signal.values, values)
    assert np.allclose(again["time"].values, 2.5 * np.arange(12))


@pytest.mark.parametrize(
    "dims", [("time", "z", "y", "x"), ("z", "time", "x", "y"), ("y", "x", "z")]
)
def test_dims_in_any_order(tmp_path: Path, dims: tuple[str, ...]) -> None:
    shape = {"x": 5, "y": 6, "z": 7, "time": 8}
    values = noise(shape=tuple(shape[dim] for dim in dims))
    ds = dataset(values, dims)
    for block_bytes in (200, 1 << 25):
        path = write_nifti(ds, tmp_path / "a.nii", block_bytes=block_bytes, overwrite=True)
        expected = ds.signal.transpose(*(dim for dim in DIMS if dim in dims)).values
        assert np.array_equal(np.asanyarray(nib.load(path).dataobj), expected)


@pytest.mark.parametrize(
    ("signal", "dtype", "stored"),
    [
        ("float32", None, "float32"),
        ("float64", None, "float64"),
        ("float64", "float32", "float32"),
        ("float16", None, "float32"),
        ("bool", None, "uint8"),
        ("int16", None, "int16"),
        ("int64", "int8", "int8"),
        ("int16", "float32", "float32"),
        (">i4", None, "int32"),
        ("uint64", None, "uint64"),
        ("complex64", None, "complex64"),
        ("float32", "complex128", "complex128"),
    ],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_types(tmp_path: Path, signal: str, dtype: str | None, stored: str, name: str) -> None:
    values = np.abs(noise()).clip(0, 100).astype(signal)
    path = write_nifti(dataset(values), tmp_path / name, dtype=dtype)
    image = nib.load(path)
    assert image.get_data_dtype() == np.dtype(stored)
    assert np.array_equal(np.asanyarray(image.dataobj), values.astype(stored))


@pytest.mark.parametrize(
    ("value", "signal", "dtype"),
    [
        (1.5, "float32", "int16"),
        (np.nan, "float32", "int16"),
        (40000.0, "float64", "int16"),
        (-1, "int64", "uint64"),
        (300, "int16", "uint8"),
        (2**24 + 1, "int32", "float32"),
        (2**53 + 1, "int64", "float64"),
        (1e300, "float64", "float32"),
    ],
)
def test_values_that_a_type_does_not_hold_are_refused(
    tmp_path: Path, value: float, signal: str, dtype: str
) -> None:
    values = np.zeros((4, 5, 6, 7), signal)
    values[2, 3, 4, 5] = value
    with pytest.raises(ValueError, match=f"{dtype} cannot hold the value"):
        write_nifti(dataset(values), tmp_path / "a.nii.gz", dtype=dtype, block_bytes=500)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["longdouble", "str", "datetime64[s]"])
def test_types_that_nifti_does_not_know(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(ValueError, match="NIfTI files cannot hold"):
        write_nifti(dataset(noise()), tmp_path / "a.nii", dtype=dtype)
    with pytest.raises(ValueError, match="complex type"):
        write_nifti(dataset(noise("complex64")), tmp_path / "a.nii", dtype="float32")


def test_existing_files_stay_unless_told_otherwise(tmp_path: Path) -> None:
    path = write_nifti(dataset(noise()), tmp_path / "a.nii")
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_nifti(dataset(2 * noise()), path)
    with pytest.raises(ValueError, match="is the file this dataset is read from"):
        write_nifti(ps.open_dataset(path), path, overwrite=True)
    assert path.read_bytes() == before
    write_nifti(dataset(2 * noise()), path, overwrite=True)
    assert np.array_equal(ps.open_dataset(path).signal.values, 2 * noise())


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = write_nifti(dataset(noise()), tmp_path / "a.nii.gz")
    before = path.read_bytes()
    broken = virtual_dataset((4, 5, 6, 7), DIMS, readable=False)
    with pytest.raises(OSError, match="cannot be read"):
        write_nifti(broken.assign_coords(affine=dataset(noise())["affine"]), path, overwrite=True)
    assert path.read_bytes() == before
    assert [part.name for part in tmp_path.iterdir()] == ["a.nii.gz"]


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_nifti(dataset(noise()), tmp_path / "a.nii.gz").read_bytes()
    assert write_nifti(dataset(noise()), tmp_path / "b.nii.gz").read_bytes() == first


@pytest.mark.parametrize("level", [1, 3, 6, 9])
def test_levels_of_compression(tmp_path: Path, level: int) -> None:
    path = write_nifti(dataset(noise("int16")), tmp_path / "a.nii.gz", level=level)
    assert np.array_equal(ps.open_dataset(path).signal.values, noise("int16"))


@pytest.mark.parametrize("level", [0, 10, "fast"])
def test_impossible_levels_are_refused(tmp_path: Path, level: Any) -> None:
    with pytest.raises(ValueError, match="level"):
        write_nifti(dataset(noise()), tmp_path / "a.nii.gz", level=level)


def test_long_axes_need_nifti_2(tmp_path: Path) -> None:
    values = noise("int16", (2, 1, 1, 40_000))
    path = write_nifti(dataset(values), tmp_path / "a.nii.gz")
    assert isinstance(nib.load(path), nib.Nifti2Image)
    assert np.array_equal(ps.open_dataset(path).signal.values, values)


def test_repetition_times_that_are_not_known(tmp_path: Path) -> None:
    ds = ps.open_dataset(write_nifti(dataset(noise(), tr=None), tmp_path / "a.nii"))
    assert "time" not in ds.coords
    # after volumes were left out there is no common step
    scrubbed = dataset(noise()).isel(time=[0, 1, 2, 7, 9])
    ds = ps.open_dataset(write_nifti(scrubbed, tmp_path / "b.nii"))
    assert "time" not in ds.coords
    assert np.array_equal(ds.signal.values, noise()[..., [0, 1, 2, 7, 9]])


@pytest.mark.parametrize("codes", [(0, 0), (0, 1), (4, 0), (2, 3)])
def test_codes_of_the_affine(tmp_path: Path, codes: tuple[int, int]) -> None:
    sform, qform = codes
    ds = dataset(noise()).assign_attrs(sform_code=sform, qform_code=qform)
    header = nib.load(write_nifti(ds, tmp_path / "a.nii")).header
    assert int(header["qform_code"]) == qform
    assert int(header["sform_code"]) == (sform or (0 if qform else 2))
    assert np.allclose(header.get_qform(), AFFINE)


def test_shears_are_not_said_by_a_quaternion(tmp_path: Path) -> None:
    sheared = AFFINE + np.array([[0, 1.0, 0, 0], [0] * 4, [0] * 4, [0] * 4])
    ds = dataset(noise()).assign_attrs(qform_code=1)
    ds = ds.assign_coords(affine=(("affine_row", "affine_column"), sheared))
    image = nib.load(write_nifti(ds, tmp_path / "a.nii"))
    assert np.allclose(image.affine, sheared)
    assert int(image.header["qform_code"]) == 0


def test_what_cannot_be_written(tmp_path: Path) -> None:
    good, path = dataset(noise()), tmp_path / "a.nii"
    for ds, message in (
        (good.isel(z=0), "only volumes over x, y, z and time"),
        (good.isel(x=slice(0, 0)), "only volumes over x, y, z and time"),
        (good.drop_vars("affine"), "has no affine"),
        (good.assign_coords(affine=good["affine"] * 0), "cannot be inverted"),
    ):
        with pytest.raises(ValueError, match=message):
            write_nifti(ds, path)
    with pytest.raises(ValueError, match=r"end its name in \.nii or \.nii\.gz"):
        write_nifti(good, tmp_path / "a.img")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write_nifti(good, tmp_path / "absent" / "a.nii")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_memory_is_bounded_and_progress_told(tmp_path: Path, name: str) -> None:
    ds = virtual_dataset((32, 32, 16, 400), DIMS, sampling_frequency=None)
    ds = ds.assign_coords(affine=dataset(noise())["affine"])
    fractions: list[float] = []
    write_nifti(ds.isel(time=slice(0, 2)), tmp_path / f"b{name}")  # (imports)
    tracemalloc.start()
    try:
        with raise_if_computes():
            path = write_nifti(ds, tmp_path / name, block_bytes=1 << 20, progress=fractions.append)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20 < ds.signal.nbytes / 3
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(fractions) == 25
    assert np.array_equal(ps.open_dataset(path).signal[..., -3:].values, ds.signal[..., -3:].values)


def test_lazy_pipelines_are_written(tmp_path: Path) -> None:
    path = write_nifti(dataset(noise()), tmp_path / "a.nii.gz")
    lazy = ps.Pipeline([np.abs])(ps.open_dataset(path))
    out = write_nifti(lazy, tmp_path / "b.nii.gz", block_bytes=4000)
    assert np.array_equal(ps.open_dataset(out).signal.values, np.abs(noise()))
