"""The time of a recording as EDF counts it: from the first sample, and the same for all signals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from penstock.dataset import SIGNAL, sampled_coordinate, sampled_index, sampling_frequency
from penstock.dates import ATTRIBUTE, moved_date, read_date

if TYPE_CHECKING:
    import xarray as xr


def same_time(ds: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    """The dataset with its other signals cut to the stretch of ``signal``, and what that changes.

    EDF has one beginning and one end for all signals. A stretch selected of the recording
    (``ds.sel(time=slice(10, 20))``) leaves the others whole.

    Returns
    -------
    tuple of xarray.Dataset, list of str
        The times of the other signals begin where those of ``signal`` do; by up to half a sample
        they then lie elsewhere, which a sentence says.
    """
    notes: list[str] = []
    if "time" not in ds.coords or not ds.sizes["time"]:
        return ds, notes
    start = float(ds["time"][0])
    length = ds.sizes["time"] / sampling_frequency(ds)
    for name in [str(name) for name in ds.data_vars if str(name).startswith(f"{SIGNAL}_")]:
        dim = f"time{name.removeprefix(SIGNAL)}"
        if dim not in ds[name].dims or dim not in ds.coords or not ds.sizes[dim]:
            continue
        rate, began, size = sampling_frequency(ds, dim), float(ds[dim][0]), ds.sizes[dim]
        low = min(max(round((start - began) * rate), 0), size)
        # a sample that lasts beyond the end belongs to it
        count = max(1, math.ceil(length * rate - 1e-6))
        high = min(low + count, size)
        first = began + low / rate
        if (low, high) != (0, size) or first != start:
            attrs = ds[dim].attrs
            ds = ds.isel({dim: slice(low, high)}).drop_vars(dim)
            ds = ds.assign_coords(sampled_coordinate(dim, high - low, rate, start, attrs))
        if high > low and abs(first - start) > 1e-6 / rate:
            notes.append(
                f"{name} begins {first - start:+.6g} s from the recording, which EDF cannot say: "
                "it is written as if it began with it"
            )
    return ds, notes


def from_zero(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with time counted from its first sample, as EDF counts it.

    A selected stretch (``ds.sel(time=slice(10, 20))``) keeps the recording's own times: its events
    move with it, those outside are left out (one that began before is cut), and it was measured so
    much later.
    """
    index = sampled_index(ds)
    if index is not None:
        start = index.start
    else:
        start = float(ds["time"].values[0]) if "time" in ds.coords and ds.sizes["time"] else 0.0
    if not start:
        return ds
    rate = sampling_frequency(ds)
    moved = ds.drop_vars("time").assign_coords(
        sampled_coordinate("time", ds.sizes["time"], rate, 0.0, ds["time"].attrs)
    )
    if "event_onset" in ds.variables:
        moved = _events_from(moved, start, ds.sizes["time"] / rate, 0.5 / rate)
    date = read_date(ds.attrs.get(ATTRIBUTE))
    if date is not None:
        moved.attrs[ATTRIBUTE] = moved_date(date, start).isoformat()
    return moved


def _events_from(ds: xr.Dataset, start: float, length: float, slack: float) -> xr.Dataset:
    """Events counted from `start`, those within `length` seconds, cut where they reach over it."""
    onset = ds["event_onset"].values - start
    duration = np.nan_to_num(ds["event_duration"].values, nan=0.0)
    kept = np.flatnonzero((onset + duration >= -slack) & (onset < length))
    ds = ds.isel(event=kept)
    early = np.minimum(onset[kept], 0.0)
    left = np.maximum(ds["event_duration"].values + early, 0.0)
    return ds.assign_coords(
        event_onset=("event", onset[kept] - early, ds["event_onset"].attrs),
        event_duration=("event", left, ds["event_duration"].attrs),
    )
