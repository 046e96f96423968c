"""MATLAB files up to version 7; SciPy's own reading is the witness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

import penstock as ps
from penstock.io.arrays.arrays import SeveralDatasetsError
from penstock.testing import check_reader

VALUES: dict[str, Any] = {
    "cube": np.random.default_rng(0).random((3, 4, 5)),
    "single": np.random.default_rng(1).random((3, 4)).astype("f4"),
    "wave": np.random.default_rng(2).random((3, 4)) + 1j,
    "mask": np.array([[True, False, True]]),
    "counts": np.arange(6, dtype="i2").reshape(2, 3),
    "long": np.array([[2**63 + 1]], "u8"),
    "name": "a scan",
    "none": np.zeros((0, 3)),
    "scan": {"data": np.arange(5.0), "more": {"image": np.ones((2, 2))}},
    "cells": np.array([np.arange(3), "text", np.ones((2, 3))], dtype=object),
}
ARRAYS = ("cube", "single", "wave", "mask", "counts", "long")


@pytest.mark.parametrize("compressed", [False, True])
def test_variables_are_what_scipy_reads(tmp_path: Path, compressed: bool):
    path = tmp_path / "all.mat"
    scipy.io.savemat(path, VALUES, do_compression=compressed)
    expected = scipy.io.loadmat(path)
    for name in ARRAYS:
        signal = ps.open_dataset(path, dataset=name).signal
        assert np.array_equal(signal.values, expected[name])
        assert signal.dtype == np.atleast_2d(VALUES[name]).dtype
        assert np.array_equal(signal.isel(dim_1=[0]).values, expected[name][:, [0]])
    for name, values in (
        ("scan/data", [[0, 1, 2, 3, 4]]),
        ("scan/more/image", [[1, 1], [1, 1]]),
        ("cells{1}", [[0, 1, 2]]),
        ("cells{3}", [[1, 1, 1], [1, 1, 1]]),
    ):
        assert ps.open_dataset(path, dataset=name).signal.values.tolist() == values
    with pytest.raises(SeveralDatasetsError, match=r"choose one.*cube \(3 x 4 x 5\)") as caught:
        ps.open_dataset(path)
    assert set(caught.value.names) == set(ARRAYS)
    for name in ("name", "scan", "cells{2}", "cells{4}", "scan/none"):
        with pytest.raises(ValueError, match=r"has no array '.*: it holds cube"):
            ps.open_dataset(path, dataset=name)


@pytest.mark.parametrize("compressed", [False, True])
def test_reading_keeps_the_contract(tmp_path: Path, compressed: bool):
    path = tmp_path / "large.mat"
    large = np.random.default_rng(0).random((60, 50, 80))
    scipy.io.savemat(path, {"large": large}, do_compression=compressed)
    ds = check_reader(path, dims="y,x,frequency", units="pm")
    assert ds.signal.dims == ("y", "x", "frequency")
    assert ds.signal.attrs["units"] == "pm"
    assert np.array_equal(ds.signal.values, large)


def test_the_only_array_inside_of_a_structure(tmp_path: Path):
    path = tmp_path / "scan.mat"
    scipy.io.savemat(path, {"scan": {"data": np.arange(6.0).reshape(2, 3), "by": "me"}})
    ds = ps.open_dataset(path)
    assert ds.attrs["source_dataset"] == "scan/data"
    assert ds.signal.values.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_version_4_and_what_is_none(tmp_path: Path):
    scipy.io.savemat(tmp_path / "old.mat", {"a": np.ones((2, 3))}, format="4")
    assert ps.open_dataset(tmp_path / "old.mat").signal.shape == (2, 3)
    for content in (b"hello, this is no such file", b"MATLAB 5.0 MAT-file".ljust(124)):
        (tmp_path / "bad.mat").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.mat.*MATLAB") as caught:
            ps.open_dataset(tmp_path / "bad.mat")
        assert "\n" not in str(caught.value)
    scipy.io.savemat(tmp_path / "text.mat", {"name": "only text"})
    with pytest.raises(ValueError, match=r"no array of numbers: it holds name \(char\)"):
        ps.open_dataset(tmp_path / "text.mat")


def test_a_real_map(spm: Path):
    path = spm / "raman_THP1_40x40x500.mat"
    with pytest.raises(SeveralDatasetsError, match=r"BG/data \(1600 x 500\)"):
        ps.open_dataset(path)
    ds = ps.open_dataset(path, dataset="Struct_3DTHP1map001L5BRSubBG/data")
    assert ds.signal.dtype == np.float32
    assert np.isfinite(ds.signal.values).all()
