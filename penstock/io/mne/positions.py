"""Positions of electrodes that a dataset keeps as coordinates, as a montage of MNE-Python."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from penstock.io.bids.electrodes import FRAME, LANDMARKS, POSITION

if TYPE_CHECKING:
    import mne
    import xarray as xr

_HEAD = ("ElektaNeuromag", "ChietiItab", "CapTrak")
_CTF = ("CTF", "4DBti", "KitYokogawa", "EEGLAB", "EEGLAB-HJ")
_RAS = ("ACPC", "ScanRAS")


def set_positions(info: mne.Info, ds: xr.Dataset) -> None:
    """Set the positions that the dataset has as coordinates; without them nothing is changed.

    The coordinate systems of BIDS become those that MNE-BIDS makes of them. Systems of the CTF kind
    without landmarks are turned (they point to the nose with x, not with y), not moved.
    """
    import mne

    if any(name not in ds.variables for name in POSITION):
        return
    places = np.stack([np.asarray(ds[name].values, dtype=np.float64) for name in POSITION], axis=1)
    found = {
        name: place
        for name, place in zip(info["ch_names"], places, strict=True)
        if np.isfinite(place).all()
    }
    if not found:
        return
    system = str(ds.attrs.get(FRAME, "n/a"))
    marks = json.loads(str(ds.attrs.get(LANDMARKS, "{}")))
    fiducials = {
        wanted: np.array(marks[name])
        for wanted, name in (("nasion", "NAS"), ("lpa", "LPA"), ("rpa", "RPA"))
        if name in marks
    }
    frame = "unknown"
    if system in _HEAD:
        frame = "head"
    elif system in _CTF:
        frame = "ctf_head" if fiducials else "head"
        if not fiducials:
            found = {name: np.array([-y, x, z]) for name, (x, y, z) in found.items()}
    elif system in _RAS:
        frame = "ras"
    elif system.startswith(("MNI", "ICBM", "fsaverage", "IXI549Space")):
        frame = "mni_tal"
    montage = mne.channels.make_dig_montage(found, **fiducials, coord_frame=frame)
    info.set_montage(montage, on_missing="ignore", verbose="error")
