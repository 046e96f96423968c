"""Types of HDF5: those that NumPy does not know concern nothing else of a file, array types."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import penstock as ps
from penstock.testing import check_reader


def three_bytes() -> h5py.h5t.TypeID:
    kind = h5py.h5t.STD_U32LE.copy()
    kind.set_precision(24)
    kind.set_size(3)
    return kind


def compound() -> h5py.h5t.TypeID:
    kind = h5py.h5t.create(h5py.h5t.COMPOUND, 8)
    kind.insert(b"odd", 0, three_bytes())
    kind.insert(b"good", 4, h5py.h5t.STD_I32LE)
    return kind


UNKNOWN = {
    "whole numbers, 3 bytes": three_bytes,
    "times, 4 bytes": lambda: h5py.h5t.UNIX_D32LE,
    "a compound type, 8 bytes": compound,
}


def write_unknown(file: h5py.File, name: str, kind: str, shape: tuple[int, ...]) -> None:
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), UNKNOWN[kind](), space)


@pytest.mark.parametrize("kind", UNKNOWN)
def test_the_others_of_the_file_are_opened(tmp_path: Path, kind: str, run_cli):
    path = tmp_path / "mixed.h5"
    with h5py.File(path, "w") as file:
        write_unknown(file, "odd", kind, (2, 3))
        file["g/good"] = np.arange(12.0).reshape(3, 4)
    for name in (None, "good", "/g/good"):
        assert ps.open_dataset(path, dataset=name).signal.values[2, 3] == 11
    assert ps.open_dataset(path).attrs["unreadable"][0].startswith("/odd of ")
    assert ps.io.list_main_datasets(path) == []
    with pytest.raises(ValueError, match=rf"/odd of .*does not know \({kind}"):
        ps.open_dataset(path, dataset="odd")
    shown = run_cli("info", str(path))
    assert shown.code == 0
    assert "left out  /odd of " in shown.out


def test_a_file_of_nothing_else_says_why(tmp_path: Path, run_cli):
    path = tmp_path / "odd.h5"
    with h5py.File(path, "w") as file:
        write_unknown(file, "odd", "times, 4 bytes", (3,))
    with pytest.raises(ValueError, match=r"no array of numbers; /odd of .*times, 4 bytes"):
        ps.open_dataset(path)
    assert "Traceback" not in run_cli("info", str(path)).err


def test_axes_of_such_types_have_no_values(tmp_path: Path):
    path = tmp_path / "axes.h5"
    with h5py.File(path, "w") as file:
        file["values"] = np.ones((3, 4))
        write_unknown(file, "odd", "whole numbers, 3 bytes", (3,))
        h5py.h5ds.set_scale(file["odd"].id, b"")
        file["values"].dims[0].attach_scale(file["odd"])
        file["entry/y"] = file["values"]
        file["entry/odd"] = file["odd"]
        file["entry"].attrs.update(NX_class="NXdata", signal="y", axes=["odd", "."])
    for name in ("values", "entry/y"):
        assert ps.open_dataset(path, dataset=name).signal.shape == (3, 4)


@pytest.mark.parametrize("letter", [">f4", "i2", "?", "c8"])
@pytest.mark.parametrize("chunks", [None, (2, 3)])
def test_entries_of_an_array_type_have_axes(tmp_path: Path, letter: str, chunks):
    path = tmp_path / "arrays.h5"
    values = np.random.default_rng(0).integers(0, 9, (5, 6, 4, 2)).astype(letter)
    with h5py.File(path, "w") as file:
        kind = np.dtype((letter, (4, 2)))
        file.create_dataset("at", (5, 6), kind, chunks=chunks, compression=chunks and "gzip")
        file["at"][...] = values
    ds = ps.open_dataset(path)
    assert ds.signal.dims == ("dim_0", "dim_1", "dim_2", "dim_3")
    assert ds.signal.dtype == np.dtype(letter).newbyteorder("=")
    assert "stored_as" not in ds.attrs
    assert np.array_equal(ds.signal.values, values)
    check_reader(path)
    named = ps.open_dataset(path, dims="y,x,row,column", dtype="float64").signal
    part = named.isel(y=[0, 3, 4], x=slice(1, 6, 2), row=[1, 3], column=1)
    assert np.array_equal(part, values[[0, 3, 4], 1:6:2][:, :, [1, 3], 1])
    with pytest.raises(ValueError, match=r"5 x 6 x 4 x 2.* has 4 axes"):
        ps.open_dataset(path, dims="y,x")


def test_packed_entries_of_an_array_type(tmp_path: Path):
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        file.create_dataset("at", (3,), np.dtype(("i2", (4,))))[...] = np.arange(12).reshape(3, 4)
        file["at"].attrs["scale_factor"] = 0.5
    found = ps.open_dataset(tmp_path / "packed.h5").signal.values
    assert np.array_equal(found, np.arange(12).reshape(3, 4) / 2)


def test_array_types_without_numbers_are_told(tmp_path: Path):
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file.create_dataset("at", (3,), np.dtype(("S3", (4,))))
    with pytest.raises(ValueError, match="array type whose entries hold"):
        ps.open_dataset(tmp_path / "text.h5", dataset="at")
