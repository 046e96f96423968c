"""Packed values stand for others, as the CF conventions say; xarray's decoding is the witness."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import penstock as ps
from penstock.testing import check_reader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packed")


def write(path: Path, values: np.ndarray, attrs: dict[str, Any], **options: Any) -> None:
    with h5py.File(path, "w") as file:
        made = file.create_dataset("t", data=values, **options)
        made.attrs.update(attrs)


def decoded(values: np.ndarray, attrs: dict[str, Any]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # (in the order of this machine: xarray misses fill values of the other sign otherwise)
        native = values.astype(values.dtype.newbyteorder("="))
        variable = xr.Variable(("a", "b"), native, dict(attrs))
        return xr.conventions.decode_cf_variable("t", variable).values


@st.composite
def packed(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    dtype = np.dtype(draw(st.sampled_from(["i1", "u1", "<i2", ">i2", "<i4", ">u2", "<f4", "<f8"])))
    values = draw(hnp.arrays(dtype, (3, 5)))
    attrs: dict[str, Any] = {}
    # (xarray compares long numbers with fill values in the single precision of a scale)
    long = dtype.itemsize > 2 and dtype != "f4"
    kind = np.float64 if long else draw(st.sampled_from([np.float32, np.float64]))
    if draw(st.booleans()):
        attrs["scale_factor"] = kind(draw(st.sampled_from([0.1, 0.01, 2.0, 1e-4])))
    if draw(st.booleans()):
        attrs["add_offset"] = kind(draw(st.sampled_from([5.0, 273.15, -1.5])))
    if draw(st.booleans()):
        attrs["_FillValue"] = values.flat[draw(st.integers(0, 14))].astype(dtype.newbyteorder("="))
    if draw(st.booleans()):
        attrs["missing_value"] = attrs.get("_FillValue", dtype.type(1))
    if dtype.kind in "iu" and draw(st.booleans()):
        attrs["_Unsigned"] = "true" if dtype.kind == "i" else "false"
    return values, attrs


@settings(deadline=None)
@given(case=packed(), chunked=st.booleans())
def test_values_are_unpacked_as_xarray_does(
    folder: Path, case: tuple[np.ndarray, dict[str, Any]], chunked: bool
):
    values, attrs = case
    write(folder / "t.h5", values, attrs, chunks=(2, 3) if chunked else None)
    expected = decoded(values, attrs)
    signal = ps.open_dataset(folder / "t.h5").signal
    unpacks = any(key in attrs for key in ("scale_factor", "add_offset", "_FillValue"))
    if unpacks:
        # (xarray keeps some long whole numbers in single precision; here they keep their digits)
        assert signal.dtype.itemsize >= expected.dtype.itemsize or signal.dtype == np.float32
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(signal.values, expected, rtol=2e-6 if unpacks else 0)
    part = signal.isel(dim_0=[0, 2], dim_1=slice(1, 4)).values
    assert np.array_equal(part, signal.values[[0, 2], 1:4], equal_nan=True)
    raw = ps.open_dataset(folder / "t.h5", mask_and_scale=False).signal
    assert np.array_equal(raw.values, values, equal_nan=True)


def test_the_type_is_that_of_what_values_stand_for(tmp_path):
    counts = np.array([[100, 200, -999]], "i2")
    scale = {"scale_factor": 0.1, "add_offset": 5.0, "_FillValue": np.int16(-999)}
    write(tmp_path / "t.h5", counts, scale)
    found = ps.open_dataset(tmp_path / "t.h5").signal
    assert found.dtype == np.float64
    assert np.array_equal(found.values, [[15.0, 25.0, np.nan]], equal_nan=True)
    assert ps.open_dataset(tmp_path / "t.h5").attrs["stored_as"] == "packed int16"
    for values, fill, dtype in (
        (counts, np.int16(-999), np.float32),
        (counts.astype("i4"), np.int32(-999), np.float64),
        (counts.astype("f4"), np.float32("nan"), np.float32),
        (counts.astype("f8"), -999.0, np.float64),
    ):
        write(tmp_path / "t.h5", values, {"_FillValue": fill})
        found = ps.open_dataset(tmp_path / "t.h5").signal
        assert found.dtype == dtype
        expected = np.where(values == fill, np.nan, values)
        assert np.array_equal(found.values, expected, equal_nan=True)
    single = ps.open_dataset(tmp_path / "t.h5", dtype="float32").signal
    assert single.dtype == np.float32


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({"valid_range": np.array([0, 150], "i2")}, [0, 100, np.nan, np.nan]),
        ({"valid_min": np.int16(50)}, [np.nan, 100, 200, np.nan]),
        ({"valid_max": np.int16(150), "scale_factor": 2.0}, [0, 200, np.nan, -6]),
        ({"missing_value": np.array([0, -3], "i2")}, [np.nan, 100, 200, np.nan]),
        ({"_FillValue": np.array([-3], "i2"), "add_offset": np.array([1])}, [1, 101, 201, np.nan]),
        ({"_FillValue": np.int32(70000)}, [0, 100, 200, -3]),
        ({"scale_factor": "2"}, [0, 200, 400, -6]),
        ({"add_offset": np.float32(1)}, [1, 101, 201, -2]),
    ],
)  # fmt: skip
def test_what_attributes_say_in_the_type_of_the_file(tmp_path, attrs, expected):
    write(tmp_path / "t.h5", np.array([0, 100, 200, -3], "i2"), attrs)
    found = ps.open_dataset(tmp_path / "t.h5").signal.values
    assert np.array_equal(found, np.array(expected, float), equal_nan=True)


def test_attributes_that_are_no_numbers_are_told(tmp_path):
    for attrs in ({"scale_factor": "two"}, {"scale_factor": [1.0, 2.0]}):
        write(tmp_path / "t.h5", np.zeros((2, 3), "i2"), attrs)
        with pytest.raises(ValueError, match=r"scale_factor.*mask_and_scale=False"):
            ps.open_dataset(tmp_path / "t.h5")
        ps.open_dataset(tmp_path / "t.h5", mask_and_scale=False)


@pytest.mark.parametrize("storage", [{}, {"chunks": (8, 1500), "compression": "gzip"}])
def test_reading_packed_values_keeps_the_contract_of_readers(tmp_path, storage):
    values = np.random.default_rng(0).integers(0, 255, (300, 6000)).astype("u1")
    attrs = {"scale_factor": 0.5, "_FillValue": np.uint8(7)}
    write(tmp_path / "t.h5", values, attrs, **storage)
    check_reader(tmp_path / "t.h5")


def test_dimension_scales_are_unpacked(tmp_path):
    with h5py.File(tmp_path / "t.nc", "w") as file:
        file["t"] = np.zeros((2, 3))
        file["y"] = np.array([10, 20], "i2")
        file["y"].attrs.update(scale_factor=0.5, add_offset=1.0, units="mm")
        file["y"].make_scale("y")
        file["t"].dims[0].attach_scale(file["y"])
    ds = ps.open_dataset(tmp_path / "t.nc")
    assert ds.y.values.tolist() == [6.0, 11.0]
    assert ds.y.attrs["units"] == "mm"
