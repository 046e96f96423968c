from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import penstock as ps
from penstock.io import Reader, extensions, readers, register_reader, registry


def test_importing_penstock_io_loads_no_format_library():
    code = "import sys, penstock.io; print([m for m in ('mne', 'edfio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_file_holds_counts_not_its_name(make_edf, tmp_path):
    path, _ = make_edf("some.bdf")
    for name in ("renamed.edf", "without_extension", "odd.xyz"):
        other = tmp_path / name
        other.write_bytes(path.read_bytes())
        assert ps.open_dataset(other).attrs["edf_type"] == "BDF"


def test_errors_say_what_is_wrong_and_what_to_do(make_edf, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*nowhere\.edf"):
        ps.open_dataset(tmp_path / "nowhere.edf")
    text = tmp_path / "notes.xyz"
    text.write_text("hello there, this is text")
    with pytest.raises(ValueError, match=r"cannot tell the format.*\.bdf, .*\.vhdr.*engine="):
        ps.open_dataset(text)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        ps.open_dataset(tmp_path)
    path, _ = make_edf()
    with pytest.raises(ValueError, match="engine 'nope' is not known: use one of edf"):
        ps.open_dataset(path, engine="nope")
    with pytest.raises(ValueError, match=r"edf reader cannot open.*'color'.*knows dtype"):
        ps.open_dataset(path, color="red")
    with pytest.raises(ValueError, match="dtype must be 'float32' or 'float64', got 'int16'"):
        ps.open_dataset(path, dtype="int16")


def test_parts_of_a_recording_point_to_its_header(recordings):
    for name in ("test.eeg", "test.vmrk"):
        with pytest.raises(ValueError, match=r"part of the recording test\.vhdr: open test\.vhdr"):
            ps.open_dataset(recordings / "brainvision" / name)


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    path = tmp_path / "some.gdf"
    path.write_bytes(b"GDF 2.20" + bytes(500))
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'needs mne.*pip install "penstock\[eeg\]"'):
        ps.open_dataset(path)


def test_readers_can_be_added(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_readers", dict(registry._readers))

    def open_npy(path, *, dtype="float32"):
        return ps.make_dataset(np.load(path).astype(dtype), sampling_frequency=10.0)

    register_reader(Reader("npy", (".npy",), open_npy, lambda head: head[:6] == b"\x93NUMPY"))
    assert "npy" in readers()
    assert ".npy" in extensions()
    np.save(tmp_path / "x.npy", np.ones((2, 5)))
    assert ps.open_dataset(tmp_path / "x.npy", dtype="float64").signal.shape == (2, 5)


def test_folders_are_not_searched_for_ambiguous_names():
    assert {".edf", ".bdf", ".fif", ".vhdr", ".set", ".zarr"} <= set(extensions())
    assert not {".txt", ".mat", ".dat", ".bin", ".eeg"} & set(extensions())


def test_xarray_opens_recordings(make_edf):
    path, _ = make_edf()
    expected = ps.open_dataset(path)
    for ds in (xr.open_dataset(path, engine="penstock"), xr.open_dataset(path)):
        xr.testing.assert_identical(ds.load(), expected)
    double = xr.open_dataset(path, engine="penstock", dtype="float64", drop_variables="bad")
    assert double.signal.dtype == "float64"
    assert "bad" not in double
    lazy = xr.open_dataset(path, engine="penstock", chunks={"channel": 1})
    assert np.array_equal(lazy.signal.values, expected.signal.values)
