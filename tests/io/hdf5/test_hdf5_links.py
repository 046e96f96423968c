"""Paths inside HDF5 files: followed in the file's folder, never out of it, and told when broken."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import penstock as ps

VALUES = np.arange(24.0).reshape(2, 3, 4)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's file; ``theirs`` beside it holds what must not be read."""
    for folder in ("mine", "theirs", "elsewhere"):
        (tmp_path / folder).mkdir()
    with h5py.File(tmp_path / "theirs/secret.h5", "w") as file:
        file["d"] = VALUES
    VALUES.tofile(tmp_path / "theirs/secret.bin")
    # (the HDF5 library also looks into the working directory)
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "mine"


def write_external(path: Path, target: str, name: str = "/d") -> None:
    with h5py.File(path, "w") as file:
        file["entry/d"] = h5py.ExternalLink(target, name)


def write_virtual(path: Path, target: str, name: str = "d", shape=VALUES.shape) -> None:
    layout = h5py.VirtualLayout(shape, "f8")
    layout[:] = h5py.VirtualSource(target, name, shape=shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("entry/d", layout)


def write_raw(path: Path, target: str, name: str = "") -> None:
    with h5py.File(path, "w") as file:
        kind = h5py.h5t.py_create(VALUES.dtype)
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_external(target.encode(), 0, VALUES.nbytes)
        space = h5py.h5s.create_simple(VALUES.shape)
        group = file.create_group("entry")
        h5py.h5d.create(group.id, b"d", kind, space, creation)


WRITERS = {"external": write_external, "virtual": write_virtual, "raw": write_raw}


def secret(kind: str) -> str:
    return "secret.bin" if kind == "raw" else "secret.h5"


def put_beside(mine: Path, kind: str, folder: str = "") -> str:
    """A copy of what a path may lead to, in the folder of the file."""
    target = mine / folder / secret(kind)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes((mine.parent / "theirs" / secret(kind)).read_bytes())
    return os.path.join(folder, secret(kind))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("way", ["..", "absolute", "symlink", "working directory"])
def test_paths_out_of_the_folder_are_not_followed(mine: Path, kind: str, way: str):
    theirs = mine.parent / "theirs" / secret(kind)
    target = {
        "..": f"../theirs/{secret(kind)}",
        "absolute": str(theirs),
        "symlink": "inside",
        "working directory": secret(kind),
    }[way]
    if way == "symlink":
        (mine / "inside").symlink_to(theirs)
    if way == "working directory":
        Path(secret(kind)).write_bytes(theirs.read_bytes())
    WRITERS[kind](mine / "scan.h5", target)
    for dataset in (None, "entry/d", "d"):
        with pytest.raises((ValueError, OSError), match=r"outside|not there") as caught:
            ps.open_dataset(mine / "scan.h5", dataset=dataset).load()
        assert "scan.h5" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", WRITERS)
def test_paths_in_the_folder_are_followed(mine: Path, kind: str):
    for folder in ("", "frames"):
        target = put_beside(mine, kind, folder)
        for name in (target, str(mine / target)):
            WRITERS[kind](mine / "scan.h5", name)
            ds = ps.open_dataset(mine / "scan.h5")
            assert ds.attrs["source_dataset"] == "/entry/d"
            assert np.array_equal(ds.signal.values, VALUES)
            again = pickle.loads(pickle.dumps(ds.signal.isel(dim_2=[0, 3])))
            assert np.array_equal(again.values, VALUES[..., [0, 3]])
    # the file by a link of the user's own
    (mine.parent / "elsewhere/link.h5").symlink_to(mine / "scan.h5")
    linked = ps.open_dataset(mine.parent / "elsewhere/link.h5")
    assert np.array_equal(linked.signal.values, VALUES)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_around_both_may_be_named(mine: Path, kind: str):
    WRITERS[kind](mine / "scan.h5", str(mine.parent / "theirs" / secret(kind)))
    ds = ps.open_dataset(mine / "scan.h5", links_within=mine.parent)
    assert np.array_equal(ds.signal.values, VALUES)
    with pytest.raises(ValueError, match="outside"):
        ps.open_dataset(mine / "scan.h5", links_within=mine.parent / "elsewhere")


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_missing_is_an_error_and_not_zeros(mine: Path, kind: str):
    WRITERS[kind](mine / "scan.h5", secret(kind))
    for dataset in (None, "entry/d"):
        with pytest.raises(ValueError, match=f"{re.escape(secret(kind))}, which is not there"):
            ps.open_dataset(mine / "scan.h5", dataset=dataset)
    # gone, or cut short, after the file has been opened
    put_beside(mine, kind)
    ds = ps.open_dataset(mine / "scan.h5", dataset="entry/d")
    if kind == "external":
        (mine / secret(kind)).unlink()
        with pytest.raises(OSError, match="secret"):
            ds.load()
        return
    whole = (mine / secret(kind)).read_bytes()
    (mine / secret(kind)).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match="gone or cut short"):
        ds.load()
    with pytest.raises(ValueError, match="cut short"):
        ps.open_dataset(mine / "scan.h5", dataset="entry/d")


def test_sources_of_virtual_datasets_hold_all_that_is_taken_from_them(mine: Path):
    put_beside(mine, "virtual")
    write_virtual(mine / "a.h5", "secret.h5", "no/such/dataset")
    with pytest.raises(ValueError, match=r"no/such/dataset of .*secret\.h5, which is not there"):
        ps.open_dataset(mine / "a.h5", dataset="entry/d")
    write_virtual(mine / "b.h5", "secret.h5", "d", (3, 3, 4))
    with pytest.raises(ValueError, match=r"has the shape \(2, 3, 4\) and not all of them"):
        ps.open_dataset(mine / "b.h5", dataset="entry/d")
    # a source that itself has its values elsewhere
    write_virtual(mine / "inner.h5", "../theirs/secret.h5")
    write_virtual(mine / "outer.h5", "inner.h5", "entry/d")
    with pytest.raises(ValueError, match="outside"):
        ps.open_dataset(mine / "outer.h5", dataset="entry/d")
    write_external(mine / "inner.h5", "../theirs/secret.h5")
    with pytest.raises(ValueError, match="outside"):
        ps.open_dataset(mine / "outer.h5", dataset="entry/d")


def test_chunks_never_written_hold_the_fill_value(mine: Path):
    with h5py.File(mine / "scan.h5", "w") as file:
        made = file.create_dataset("d", (4, 6), "f4", chunks=(2, 3), fillvalue=7.0)
        made[:2, :3] = 1.0
        layout = h5py.VirtualLayout((6, 6), "f4")
        layout[:4] = h5py.VirtualSource(file["d"])  # (the rest is mapped to nothing)
        file.create_virtual_dataset("v", layout, fillvalue=9.0)
    expected = np.full((4, 6), 7.0)
    expected[:2, :3] = 1.0
    found = ps.open_dataset(mine / "scan.h5", dataset="d").signal.values
    assert np.array_equal(found, expected)
    found = ps.open_dataset(mine / "scan.h5", dataset="v").signal.values
    assert np.array_equal(found, np.concatenate([expected, np.full((2, 6), 9.0)]))


def test_links_in_a_circle_and_to_nothing_are_told(mine: Path):
    with h5py.File(mine / "scan.h5", "w") as file:
        file["good"] = VALUES
        file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")
        file["gone"] = h5py.SoftLink("/nowhere")
        file["group/up"] = h5py.SoftLink("/group")
        file["group/self"] = file["group"]  # (a hard link to the group it lies in)
        file["alias"] = h5py.SoftLink("/good")
        file["me"] = h5py.ExternalLink("scan.h5", "/me")
        file["relative/to"] = h5py.SoftLink("../good")
    ds = ps.open_dataset(mine / "scan.h5")
    assert ds.attrs["source_dataset"] == "/good"
    assert len(ds.attrs["broken_links"]) == 5  # (HDF5 knows no ".." in names)
    assert np.array_equal(ps.open_dataset(mine / "scan.h5", dataset="alias").signal.values, VALUES)
    for name, message in (
        ("a", "circle"),
        ("me", "circle"),
        ("gone", "/nowhere, which is not there"),
    ):
        with pytest.raises(ValueError, match=message):
            ps.open_dataset(mine / "scan.h5", dataset=name)


def test_many_frames_in_files_of_their_own(mine: Path):
    for i in range(5):
        with h5py.File(mine / f"frames_{i}.h5", "w") as file:
            file["d"] = VALUES + i
    with h5py.File(mine / "master.h5", "w") as file:
        for i in range(6):
            file[f"entry/data_{i}"] = h5py.ExternalLink(f"frames_{i}.h5", "/d")
        layout = h5py.VirtualLayout((5, *VALUES.shape), "f8")
        for i in range(5):
            layout[i] = h5py.VirtualSource(f"frames_{i}.h5", "d", shape=VALUES.shape)
        file.create_virtual_dataset("entry/all", layout)
    found = ps.open_dataset(mine / "master.h5", dataset="entry/all")
    assert np.array_equal(found.signal.values, VALUES + np.arange(5)[:, None, None, None])
    assert np.array_equal(ps.open_dataset(mine / "master.h5", dataset="data_3").signal, VALUES + 3)
    with pytest.raises(ValueError, match=r"choose one.*entry/data_4.*frames_5\.h5, which is not"):
        ps.open_dataset(mine / "master.h5")
    with pytest.raises(ValueError, match=r"frames_5\.h5, which is not there"):
        ps.open_dataset(mine / "master.h5", dataset="entry/data_5")


def test_tables_and_scales_are_read_from_the_folder_only(mine: Path):
    write_raw(mine / "scan.h5", "../theirs/secret.bin")
    with h5py.File(mine / "scan.h5", "a") as file:
        file["map"] = np.zeros((24, 2))
        kind = h5py.h5t.py_create(VALUES.dtype)
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_external(b"../theirs/secret.bin", 0, VALUES.nbytes)
        h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((24,)), creation)
    with h5py.File(mine / "scan.h5", "a") as file:
        file["x"].make_scale("x")
        file["map"].dims[0].attach_scale(file["x"])
    with pytest.raises(ValueError, match="outside"):
        ps.open_dataset(mine / "scan.h5", dataset="map")


def test_a_filter_that_is_not_installed_is_named(mine: Path):
    path = mine / "scan.h5"
    with h5py.File(path, "w") as file:
        made = file.create_dataset("d", (4, 6), "f4", chunks=(2, 3), compression="gzip")
        made[...] = 1.0
    # (the number of the filter in its message of the file is made one that nobody has)
    raw = path.read_bytes()
    at = raw.index(b"deflate\0") - 8
    assert raw[at : at + 2] == b"\x01\x00"
    path.write_bytes(raw[:at] + b"\xf0\x7e" + raw[at + 2 :])
    with pytest.raises(ValueError, match=r"filter 32496.*not installed: pip install hdf5plugin"):
        ps.open_dataset(path).load()


def test_a_result_is_not_that_of_a_file_that_has_changed_behind_a_link(mine: Path):
    with h5py.File(mine / "frames.h5", "w") as file:
        file["d"] = VALUES
    write_external(mine / "linked.h5", "frames.h5")
    write_virtual(mine / "virtual.h5", "frames.h5")
    for name in ("linked.h5", "virtual.h5"):
        out = mine.parent / "out"
        report = ps.Pipeline([]).run(mine / name, out, workers=1, progress=False)
        assert not report.failed
    with h5py.File(mine / "frames.h5", "a") as file:
        file["d"][...] = VALUES + 1
    os.utime(mine / "frames.h5", (1, 1))
    for name in ("linked", "virtual"):
        stale = ps.Pipeline([]).run(mine / f"{name}.h5", out, workers=1, progress=False)
        assert "overwrite" in stale.failed[name]  # (a result of other data is not taken for it)
        ps.Pipeline([]).run(mine / f"{name}.h5", out, workers=1, progress=False, overwrite=True)
        assert np.array_equal(ps.open_dataset(out / f"{name}.zarr").signal.values, VALUES + 1)
