"""Recordings bring no other files of this machine into a result."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hostile import write_brainvision

import penstock as ps

pytest.importorskip("mne")


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.eeg"
    path.write_bytes(bytes(range(256)) * 40)
    (tmp_path / "secret.fdt").write_bytes(bytes(256) * 40)
    return path


@pytest.mark.parametrize("line", [
    "DataFile=../secret.eeg", "datafile=../secret.eeg", "DataFile = ../secret.eeg",
    "  DATAFILE : ../secret.eeg", "DataFile={absolute}", "DataFile=./../secret.eeg",
    "MarkerFile=../secret.eeg", "DataFile=..\\secret.eeg",
])  # fmt: skip
def test_brainvision_headers_that_lead_elsewhere(tmp_path, secret, line):
    folder = tmp_path / "rec"
    folder.mkdir()
    header = write_brainvision(folder)[0]
    key = line.strip().partition("=")[0].partition(":")[0].strip().lower()
    lines = [
        line.replace("{absolute}", str(secret)) if text.lower().startswith(key) else text
        for text in header.read_text().splitlines()
    ]
    padding = ["; " + "x" * 70] * 1500  # (further on than a header usually goes)
    for more in ([], padding):
        at = lines.index("[Common Infos]") + 1
        header.write_text("\n".join([*lines[:at], *more, *lines[at:]]))
        with pytest.raises(ValueError, match=r"outside of its folder|cannot open"):
            ps.open_dataset(header)


def test_eeglab_files_that_lead_elsewhere(tmp_path, secret):
    import scipy.io

    folder = tmp_path / "rec"
    folder.mkdir()
    for name in ("../secret.fdt", str(secret.with_suffix(".fdt"))):
        eeg = {
            "nbchan": 2, "pnts": 100, "trials": 1, "srate": 100.0, "xmin": 0.0, "xmax": 0.99,
            "data": name, "chanlocs": [], "event": [], "setname": "x", "filename": "x.set",
        }  # fmt: skip
        scipy.io.savemat(folder / "x.set", {"EEG": eeg}, appendmat=False)
        with pytest.raises(ValueError, match=r"outside of its folder|cannot open"):
            ps.open_dataset(folder / "x.set")


@pytest.mark.parametrize("how", ["external storage", "external link", "virtual"])
def test_hdf5_of_other_formats_that_leads_elsewhere(tmp_path, secret, how):
    folder = tmp_path / "rec"
    folder.mkdir()
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["a"] = np.arange(100.0)
    for name in ("x.snirf", "x.set"):
        with h5py.File(folder / name, "w") as file:
            if how == "external storage":
                file.create_dataset(
                    "nirs/data1/time", (100,), "f8", external=[(str(secret), 0, 800)]
                )
            elif how == "external link":
                file["nirs"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/a")
            else:
                layout = h5py.VirtualLayout((100,), "f8")
                layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "a", (100,))
                file.create_virtual_dataset("nirs/data1/time", layout)
        with pytest.raises(ValueError, match=r"outside of the folder|not read|not followed"):
            ps.open_dataset(folder / name, engine="mne")


@pytest.mark.parametrize("place", ["x", "frequency"])
def test_hdf5_values_along_axes_that_lie_elsewhere_are_not_read(tmp_path, secret, place):
    folder = tmp_path / "rec"
    folder.mkdir()
    with h5py.File(folder / "a.h5", "w") as file:
        data = file.create_dataset("scan", data=np.zeros((4, 100)))
        scale = file.create_dataset(place, (100,), "f8", external=[(str(secret), 0, 800)])
        scale.make_scale(place)
        data.dims[1].attach_scale(scale)
        title = file.create_dataset("title", (), "S64", external=[(str(secret), 0, 64)])
        assert title is not None
        file.attrs["NX_class"] = "NXdata"
        file.attrs["signal"] = "scan"
        file.attrs["axes"] = [".", place]
    held = np.frombuffer(secret.read_bytes()[:800], "f8")
    try:
        ds = ps.open_dataset(folder / "a.h5", dataset="scan")
    except (OSError, ValueError) as error:
        assert "outside of the folder" in str(error)  # noqa: PT017
        return
    assert not any(
        np.array_equal(np.asarray(v.values), held, equal_nan=True)
        for v in ds.variables.values()
        if v.ndim == 1 and v.dtype.kind == "f"
    )
