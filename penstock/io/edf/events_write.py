"""Events of a dataset as the time-stamped annotation lists of EDF+."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from penstock.dataset import events_table
from penstock.io.edf.plan import RecordLayout, annotation_records

if TYPE_CHECKING:
    import xarray as xr

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""Control characters that the specification keeps for its own use; tabs and line ends may stand."""


def event_records(
    ds: xr.Dataset, layout: RecordLayout, first: Decimal, names: Mapping[str, str]
) -> tuple[list[bytes], int, list[str]]:
    """Annotation bytes of every data record, the bytes reserved for them, and what is lost.

    Parameters
    ----------
    ds : xarray.Dataset
        The recording, with its events.
    layout : RecordLayout
        The data records.
    first : Decimal
        Fraction of a second by which the first sample is later than the header's start.
    names : mapping of str to str
        Label in the file of every channel. An event of single channels is written once for each,
        with ``@@`` and the label after its own, as MNE-Python reads it.
    """
    table = events_table(ds)
    onsets = table["onset"].to_numpy(np.float64)
    durations = table["duration"].to_numpy(np.float64)
    labels = [str(label) for label in table["label"]]
    notes = []
    placed = np.isfinite(onsets)
    if not placed.all():
        notes.append(f"{np.count_nonzero(~placed)} events without a time are left out")
    named = np.array([label != "" for label in labels], dtype=bool)
    if (placed & ~named).any():
        notes.append(
            f"{np.count_nonzero(placed & ~named)} events without a label are left out: EDF+ takes "
            "them for time stamps"
        )
    lasting = np.isfinite(durations) & (durations >= 0)
    if not lasting.all():
        notes.append(f"the duration of {np.count_nonzero(~lasting)} events is not known: 0 s")
    clean = [_written(label) for label in labels]
    changed = sum(before != after for before, after in zip(labels, clean, strict=True))
    if changed:
        notes.append(
            f"the labels of {changed} events hold characters that EDF+ cannot: they are replaced"
        )
    channels = _channels(ds, len(labels))
    rows = [
        (onsets[i], durations[i] if lasting[i] else 0.0, text)
        for i in np.flatnonzero(placed & named)
        for text in _texts(clean[i], [names[name] for name in channels[i] if name in names])
    ]
    records, reserved = annotation_records(
        [float(onset) for onset, _, _ in rows],
        [float(duration) for _, duration, _ in rows],
        [text for _, _, text in rows],
        layout,
        first,
    )
    return records, reserved, notes


def _channels(ds: xr.Dataset, count: int) -> list[list[str]]:
    """Names of the channels that each event is of; none where it is of all."""
    if "event_channels" not in ds.variables:
        return [[]] * count
    texts = [str(text) for text in ds["event_channels"].values]
    return [list(map(str, json.loads(text))) if text[:1] == "[" else [] for text in texts]


def _texts(label: str, channels: list[str]) -> list[str]:
    return [f"{label}@@{name}" for name in channels] or [label]


def _written(label: str) -> str:
    return _FORBIDDEN.sub(" ", label).encode("utf-8", "replace").decode("utf-8")
