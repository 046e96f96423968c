"""Events of a dataset and `mne.Annotations`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from penstock.dataset import events_table, with_events

if TYPE_CHECKING:
    import mne
    import xarray as xr

CHANNELS, EXTRAS = "event_channels", "event_extras"
"""Coordinates of events of single channels, and of what else is noted with events, as JSON."""


def with_annotations(ds: xr.Dataset, annotations: mne.Annotations, first_time: float) -> xr.Dataset:
    """The dataset with annotations as its events, in seconds after its first sample.

    Onsets of annotations count from the measurement date, of which the first sample is
    `first_time` away.
    """
    table = pd.DataFrame(
        {
            "onset": np.asarray(annotations.onset, dtype=np.float64) - first_time,
            "duration": np.asarray(annotations.duration, dtype=np.float64),
            "label": pd.Series([str(text) for text in annotations.description], dtype=object),
        }
    )
    ds = with_events(ds, table)
    channels = [list(map(str, names)) for names in annotations.ch_names]
    extras = [dict(extra or {}) for extra in getattr(annotations, "extras", None) or []]
    for name, values in ((CHANNELS, channels), (EXTRAS, extras)):
        if any(values):
            texts = np.array([json.dumps(value, default=str) for value in values], dtype=object)
            ds = ds.assign_coords({name: ("event", texts)})
    return ds


def annotations_of(ds: xr.Dataset, start: float, length: float, notes: list[str]) -> Any:
    """Annotations for the events of a dataset, counted from its first sample.

    `start` is the time of that sample in the dataset, `length` how long the recording goes on [s].
    Those that lie outside are left out, as in MNE-Python.
    """
    import mne

    table = events_table(ds)
    onset = table["onset"].to_numpy() - start
    duration = table["duration"].fillna(0).to_numpy()
    inside = (onset + duration >= -1e-9) & (onset <= length + 1e-9)
    if not inside.all():
        notes.append(
            f"MNE-Python keeps no events outside the recording: {(~inside).sum()} left out"
        )
    names = set(map(str, ds["channel"].values)) if "channel" in ds.coords else set()
    meant = _parsed(ds, CHANNELS, list)
    channels = [tuple(n for n in told if n in names) for told in meant]
    # events of channels that are gone are no events of all the others
    gone = [bool(told) and not left for left, told in zip(channels, meant, strict=True)]
    inside &= ~np.array(gone, dtype=bool)
    more: dict[str, Any] = {}
    extras = _parsed(ds, EXTRAS, dict)
    if any(extras):
        more["extras"] = [extra for extra, kept in zip(extras, inside, strict=True) if kept]
    if any(channels):
        more["ch_names"] = [told for told, kept in zip(channels, inside, strict=True) if kept]
    labels = [label for label, kept in zip(table["label"], inside, strict=True) if kept]
    return mne.Annotations(
        np.clip(onset[inside], 0, None),
        np.where(onset < 0, np.clip(duration + onset, 0, None), duration)[inside],
        labels,
        **more,
    )


def _parsed(ds: xr.Dataset, name: str, kind: type) -> list[Any]:
    """Values of a coordinate of the events from their JSON text; empty ones where there is none."""
    count = ds.sizes.get("event", 0)
    texts = ds[name].values.tolist() if name in ds.variables else [""] * count
    values = [json.loads(str(text)) if str(text)[:1] in ("[", "{") else kind() for text in texts]
    return [value if isinstance(value, kind) else kind() for value in values]
