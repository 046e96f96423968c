"""Opening loses nothing: the type of the values in memory holds what is stored."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import penstock as ps
from penstock.eeg import Crop, HighPassFilter
from penstock.spectra import Fit, Process, reduce
from penstock.spectra.passes.reductions import Sum

NUMBERS = "?bBhHiIlLefdFD"
"""Types of numbers by their letters in NumPy."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("types")


@settings(deadline=None)
@given(data=st.data(), letter=st.sampled_from(NUMBERS), order=st.sampled_from("<>"))
def test_values_are_what_is_stored(folder: Path, data: st.DataObject, letter: str, order: str):
    dtype = np.dtype(letter).newbyteorder(order)
    shape = hnp.array_shapes(min_dims=1, max_dims=3, max_side=4)
    values = data.draw(hnp.arrays(dtype, shape))
    np.save(folder / "values.npy", values)
    with h5py.File(folder / "values.h5", "w") as file:
        file["values"] = values
        file.create_dataset("chunks", data=values, chunks=True)
    opened = [
        ps.open_dataset(folder / "values.npy"),
        ps.open_dataset(folder / "values.h5", dataset="values"),
        ps.open_dataset(folder / "values.h5", dataset="chunks"),
    ]
    for ds in opened:
        found = ds.signal.values
        assert found.dtype.isnative
        assert found.dtype.kind == dtype.kind
        assert found.dtype != np.float16
        assert np.array_equal(found, values, equal_nan=dtype.kind in "fc")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ([("n", "<i8"), ("height", ">f4")], "n int64, height float32"),
        ([("n", "u8"), ("m", "i8")], "n uint64, m int64"),
        ([("real", "i8"), ("imag", "i8")], "real int64, imag int64"),
        ([("n", "i4"), ("height", "f4")], None),
        ([("n", "i8"), ("flag", "i1")], None),
        ([("real", "f4"), ("imag", "f4")], None),
    ],
)
def test_fields_that_their_common_type_rounds_are_told(tmp_path, fields, told, run_cli):
    table = np.ones(3, fields)
    np.save(tmp_path / "table.npy", table)
    with h5py.File(tmp_path / "table.h5", "w") as file:
        file["table"] = table
    pair = fields[0][0] == "real"
    for name in ("table.h5",) if pair else ("table.h5", "table.npy"):
        assert ps.open_dataset(tmp_path / name).attrs.get("stored_as") == told
        shown = run_cli("info", str(tmp_path / name))
        assert (f"(stored as {told})" in shown.out) == (told is not None)


def test_a_type_that_is_asked_for_is_given(tmp_path):
    np.save(tmp_path / "counts.npy", np.array([[1, 2**24 + 1]]))
    assert ps.open_dataset(tmp_path / "counts.npy").signal.values.tolist() == [[1, 2**24 + 1]]
    for dtype in ("float32", "float64"):
        assert ps.open_dataset(tmp_path / "counts.npy", dtype=dtype).signal.dtype == dtype


def test_kernels_get_whole_numbers_as_floats_that_hold_them(tmp_path):
    counts = np.random.default_rng(0).integers(-(2**31), 2**31, (3, 400)).astype("i4")
    np.save(tmp_path / "counts.npy", counts)
    options = {"dims": ("channel", "time"), "sampling_frequency": 100.0}
    ds = ps.open_dataset(tmp_path / "counts.npy", **options)
    floats = ps.open_dataset(tmp_path / "counts.npy", **options, dtype="float64")
    steps = [Crop(0.5, 3.5)]
    for last in (HighPassFilter(2.0), ps.Apply(lambda block: block / 2)):
        found = ps.Pipeline([*steps, last])(ds)
        assert found.signal.dtype == np.float64
        xr.testing.assert_equal(found.compute(), ps.Pipeline([*steps, last])(floats).compute())
        chunked = ds.assign(signal=ds.signal.chunk(time=150))
        xr.testing.assert_allclose(ps.Pipeline([*steps, last])(chunked).compute(), found.compute())
    # a selection keeps them, and so does a function that says that it makes some
    assert ps.Pipeline(steps)(ds).signal.dtype == np.int32
    odd = ps.Apply(lambda block: block & 1, core_dims=(), dtype="int32")
    assert np.array_equal(ps.Pipeline([odd])(ds).signal.values, counts & 1)


def test_runs_keep_what_files_hold(tmp_path):
    counts = np.array([[2**31 - 1, 7], [2**24 + 1, 9]], "i4")
    np.save(tmp_path / "counts.npy", counts)
    path = tmp_path / "counts.npy"
    out = ps.Pipeline([]).run(path, tmp_path / "same", workers=1, progress=False)
    assert not out.failed
    assert np.array_equal(ps.open_dataset(tmp_path / "same/counts.zarr").signal.values, counts)
    single = ps.Pipeline([]).run(path, tmp_path / "f4", workers=1, progress=False, dtype="float32")
    assert not single.failed
    assert ps.open_dataset(tmp_path / "f4/counts.zarr").signal.dtype == np.float32
    top = Process(path, np.max, name="top", out=tmp_path / "top")
    assert top.test((0,)).result == 2**31 - 1
    total = reduce(ps.open_dataset(path), {"total": Sum()}, workers=1).total
    assert total.values.tolist() == [2**31 + 2**24, 16]


def test_fits_of_counts_are_those_of_floats(tmp_path):
    x = np.linspace(-3, 3, 40)
    counts = np.rint(200 * np.exp(-((x - [[0.5], [1]]) ** 2))).astype("u1")
    found = [
        ps.Pipeline([Fit("gaussian")])(
            ps.make_dataset(counts.astype(kind), ("y", "frequency"), coords={"frequency": x})
        ).compute()
        for kind in ("u1", "i4", "f8")
    ]
    xr.testing.assert_allclose(found[0], found[2], rtol=1e-5)
    xr.testing.assert_equal(found[1], found[2])


def test_info_says_the_types_what_is_left_out_and_what_is_missing(tmp_path, run_cli):
    np.save(tmp_path / "single.npy", np.array(3.0))
    table = np.array([("a", 1.0, (1, 2))], [("name", "S1"), ("height", "f4"), ("pair", "i4", 2)])
    with h5py.File(tmp_path / "table.h5", "w") as file:
        file["peaks"] = table
        file["gone"] = h5py.ExternalLink("frames.h5", "/data")
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        file["t"] = np.zeros((2, 3), "i2")
        file["t"].attrs["scale_factor"] = 0.1
    shown = run_cli("info", *(str(tmp_path / n) for n in ("table.h5", "packed.h5", "single.npy")))
    assert shown.code == 1
    assert "left out  pair (not numbers)" in shown.out
    assert "frames.h5, which is not there" in shown.out
    assert "as float64 (stored as packed int16)" in shown.out
    assert "single.npy holds a single value" in shown.err
