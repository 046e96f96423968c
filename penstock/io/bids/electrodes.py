"""Positions of electrodes, from ``electrodes.tsv`` and ``coordsystem.json`` of BIDS."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from penstock.io.bids.names import find_sidecars, parse_name, read_json, read_tsv

POSITION = ("electrode_x", "electrode_y", "electrode_z")
"""Coordinates along the channels [m]."""
FRAME, LANDMARKS = "electrode_frame", "electrode_landmarks"
"""Attributes: the coordinate system as BIDS names it, and landmarks in it [m] as JSON."""
_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}
_DATA_TYPES = {"eeg": "EEG", "ieeg": "iEEG", "meg": "EEG", "nirs": "NIRS", "emg": "EMG"}


def electrodes_of(path: str | os.PathLike[str]) -> list[Path]:
    """The table of positions that is used for a recording, and its coordinate system."""
    tables = find_sidecars(path, ".tsv", suffix="electrodes", free=("space",))
    if not tables:
        return []
    # of several spaces the one of the head first: what comes from an image needs that image
    tables.sort(key=lambda table: _space(table) in ("", "CapTrak"))
    systems = find_sidecars(path, ".json", suffix="coordsystem", free=("space",))
    fitting = [system for system in systems if _space(system) == _space(tables[-1])]
    return [tables[-1], *(fitting or [s for s in systems if not _space(s)])[-1:]]


def with_electrodes(ds: xr.Dataset, path: str, notes: list[str]) -> xr.Dataset:
    """The dataset with the positions of its channels, where there is a table of them.

    Sentences on what was used, and why not, are added to `notes`.
    """
    files = electrodes_of(path)
    if not files:
        return ds
    table_file = files[0]
    if len(files) < 2:
        notes.append(f"{table_file.name} has no coordsystem.json beside it and is not used")
        return ds
    about = read_json(files[1])
    name = parse_name(path)
    prefix = _DATA_TYPES.get(name.suffix if name is not None else "", "EEG")
    frame = str(about.get(f"{prefix}CoordinateSystem", "n/a"))
    scale = _METRES.get(str(about.get(f"{prefix}CoordinateUnits", "n/a")))
    if scale is None:
        notes.append(f"{files[1].name} has no {prefix}CoordinateUnits: positions are not used")
        return ds
    table = read_tsv(table_file)
    lacking = [column for column in ("name", "x", "y", "z") if column not in table]
    if lacking:
        notes.append(f"{table_file.name} has no column {lacking[0]!r} and is not used")
        return ds
    places = {
        str(row["name"]): [_number(row[axis], table_file) * scale for axis in "xyz"]
        for row in table.to_dict("records")
    }
    names = [str(channel) for channel in ds["channel"].values]
    known = [channel for channel in names if channel in places]
    if not known:
        notes.append(f"{table_file.name} names no channel of the recording and is not used")
        return ds
    values = np.array([places.get(channel, [np.nan] * 3) for channel in names])
    for axis, column in zip(POSITION, values.T, strict=True):
        ds = ds.assign_coords({axis: ("channel", column, {"units": "m"})})
    ds.attrs = {**ds.attrs, FRAME: frame}
    landmarks = _landmarks(about)
    if landmarks:
        ds.attrs[LANDMARKS] = json.dumps(landmarks)
    notes.append(f"{table_file.name}: positions of {len(known)} channels ({frame})")
    return ds


def _landmarks(about: dict[str, Any]) -> dict[str, list[float]]:
    """Nasion and the points before the ears [m], where all three are told."""
    scale = _METRES.get(str(about.get("AnatomicalLandmarkCoordinateUnits", "n/a")))
    told = about.get("AnatomicalLandmarkCoordinates")
    if scale is None or not isinstance(told, dict):
        return {}
    found = {}
    for name in ("NAS", "LPA", "RPA"):
        place = told.get(name)
        if not isinstance(place, list) or len(place) != 3:
            return {}
        if not all(isinstance(x, int | float) and np.isfinite(x) for x in place):
            return {}
        found[name] = [float(x) * scale for x in place]
    return found


def _number(text: Any, file: Path) -> float:
    try:
        return float("nan") if text is None else float(text)
    except ValueError:
        raise ValueError(f"{file}: a position is no number ({text!r}): mend it") from None


def _space(path: Path) -> str:
    name = parse_name(path)
    return "" if name is None else name.entities.get("space", "")
