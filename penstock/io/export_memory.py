"""What writing a result in a format takes, from the outline of what is to be written.

The libraries that a format needs are no part of it: they are loaded before anything is planned, and
counted with the process (`penstock.formats.Format.modules`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import xarray as xr

from penstock.dataset import SIGNAL
from penstock.formats import check_format
from penstock.io.tables import PARQUET_CHUNK_BYTES, parquet_rows, text_rows
from penstock.memory.accounting import MIB
from penstock.storage.store import CHUNK_BYTES

EXPORT_BUFFER_BYTES = 16 * MIB
"""Memory that the finished result of a run is exported in."""
READ_BYTES = 4 * CHUNK_BYTES
"""Of reading a region of a store: a chunk, encoded and decoded, and pages of code."""

# Bytes measured, with some room, as the rise over what the process had before.
_EDF_EVENT, _EDF_CHARACTER = 700, 24
_FIF_EVENT, _FIF_CHARACTER = 1300, 40
_RECORD = 400
"""Of an EDF data record: its time, and where events go."""
_EDF_CHANNEL, _FIF_CHANNEL = 6_000, 30_000
_TEXT_COLUMN, _TEXT_VALUES = 1_400, 18 * MIB
"""Of a column of a table of text, and of the values that are turned into text at once."""
_PARQUET_COLUMN, _PARQUET_PAGES = 2_600, 26 * MIB
"""Of a column of a Parquet table beside its groups, and of the pages that are being encoded."""


def export_bytes(ds: xr.Dataset, format: str, buffer_bytes: int = EXPORT_BUFFER_BYTES) -> int:
    """Memory of exporting a result, beside what the process had before [bytes].

    Parameters
    ----------
    ds : xarray.Dataset
        Outline of the result; no values are read.
    format : str
        Name of the format.
    buffer_bytes : int, default 16 MiB
        What the writer is given to work in.

    Examples
    --------
    >>> from penstock.io.export_memory import export_bytes
    >>> from penstock.testing import virtual_dataset
    >>> few, many = (virtual_dataset((n, 100)) for n in (10, 100_000))
    >>> export_bytes(few, "zarr"), export_bytes(few, "parquet") < export_bytes(many, "parquet")
    (0, True)
    """
    kind = check_format(format)
    work = _WORK.get(kind.name)
    return 0 if work is None else READ_BYTES + work(ds, buffer_bytes)


def _edf(ds: xr.Dataset, buffer_bytes: int) -> int:
    signals = [v for name, v in ds.variables.items() if str(name).startswith(SIGNAL) and v.ndim]
    rows = sum(v.size // max(1, v.shape[-1]) for v in signals)
    # values, their digits, and a channel of them in float64
    n_bytes = sum(v.size * (2 * v.dtype.itemsize + 2) + 40 * v.shape[-1] for v in signals)
    # (records of about a second, or of 60 KiB where that is shorter; never below 10 ms)
    records = _seconds(ds) + sum(2 * v.size for v in signals) / 30_000
    records = min(records, 100 * _seconds(ds))
    return int(
        min(buffer_bytes, n_bytes)
        + _EDF_CHANNEL * rows
        + _RECORD * records
        + _of_events(ds, _EDF_EVENT, _EDF_CHARACTER)
    )


def _fif(ds: xr.Dataset, buffer_bytes: int) -> int:
    signal = ds.variables[SIGNAL]
    n_channels = ds.sizes["channel"]
    # a buffer in float64 about three times, and what is read of the source for it
    batch = min(4 * MIB, signal.size * signal.dtype.itemsize)
    return int(
        min(buffer_bytes, 32 * signal.size)
        + 5 * batch
        + _FIF_CHANNEL * n_channels
        + _of_events(ds, _FIF_EVENT, _FIF_CHARACTER)
    )


def _nifti(ds: xr.Dataset, buffer_bytes: int) -> int:
    signal = ds.variables[SIGNAL]
    # (of a volume that is larger than the buffer, slices)
    plane = signal.dtype.itemsize * ds.sizes["x"] * ds.sizes["y"]
    values = min(signal.size * signal.dtype.itemsize, max(buffer_bytes, plane))
    return values + min(8 * MIB, 2 * MIB + signal.size * signal.dtype.itemsize)


def _text(ds: xr.Dataset, buffer_bytes: int) -> int:
    columns, rows, itemsize = _table(ds)
    at_once = min(rows, text_rows(columns, itemsize, buffer_bytes)) * columns
    some = min(columns * rows * 120, _TEXT_VALUES)
    return 2 * at_once * itemsize + _TEXT_COLUMN * columns + some


def _parquet(ds: xr.Dataset, buffer_bytes: int) -> int:
    columns, rows, itemsize = _table(ds)
    at_once = min(rows, parquet_rows(columns, rows, itemsize, buffer_bytes))
    groups = -(-rows // max(1, at_once))
    return (
        at_once * columns * itemsize
        + (_PARQUET_COLUMN + groups * PARQUET_CHUNK_BYTES) * columns
        + min(_PARQUET_PAGES, 8 * MIB + 3 * columns * rows * itemsize)
    )


def _table(ds: xr.Dataset) -> tuple[int, int, int]:
    """Columns, rows, bytes of a value."""
    signal = ds.variables[SIGNAL]
    rows = signal.shape[-1] if signal.ndim == 2 else 1
    return math.prod(signal.shape) // max(1, rows), rows, signal.dtype.itemsize


def _seconds(ds: xr.Dataset) -> float:
    from penstock.dataset import sampling_frequency

    try:
        return float(ds.sizes["time"] / sampling_frequency(ds))
    except (ValueError, ZeroDivisionError):
        return 0.0


def _of_events(ds: xr.Dataset, each: int, character: int) -> int:
    labels = ds.variables.get("event_label")
    if labels is None:
        return 0
    width = labels.dtype.itemsize // 4 if labels.dtype.kind == "U" else 40
    return int(labels.size * (each + character * width))


_WORK: dict[str, Callable[[xr.Dataset, int], int]] = {
    "edf": _edf,
    "fif": _fif,
    "nifti": _nifti,
    "nii": _nifti,
    "csv": _text,
    "tsv": _text,
    "parquet": _parquet,
}
