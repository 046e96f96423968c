"""Events of a dataset as the time-stamped annotation lists of EDF+."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from penstock.dataset import events_table
from penstock.io.edf_plan import RecordLayout, annotation_records

if TYPE_CHECKING:
    import xarray as xr

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""Control characters that the specification keeps for its own use; tabs and line ends may stand."""


def event_records(
    ds: xr.Dataset, layout: RecordLayout, first: Decimal
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
    kept = np.flatnonzero(placed & named)
    records, reserved = annotation_records(
        onsets[kept].tolist(),
        np.where(lasting, durations, 0.0)[kept].tolist(),
        [clean[i] for i in kept],
        layout,
        first,
    )
    return records, reserved, notes


def _written(label: str) -> str:
    return _FORBIDDEN.sub(" ", label).encode("utf-8", "replace").decode("utf-8")
