"""FIF through MNE-Python's own writer, which pulls the samples from the dataset as it goes."""

from __future__ import annotations

import datetime
import importlib.util
import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.dataset import SIGNAL
from penstock.formats import ExportReport, WriteOptions, check_recording
from penstock.io.edf.labels import ascii_text
from penstock.io.registry import MissingExtraError
from penstock.messages import warn

if TYPE_CHECKING:
    import xarray as xr

SPLIT_SIZE = "2GB"
"""Largest file, as MNE-Python writes and reads them."""
_SECOND_RATE = (
    "FIF holds one sampling frequency; left out: {names} (export as .edf or .zarr to keep them)"
)
_DATES = (
    datetime.datetime.fromtimestamp(-(2**31), datetime.UTC),
    datetime.datetime.fromtimestamp(2**31 - 1, datetime.UTC),
)


def export_fif(ds: xr.Dataset, path: str, options: WriteOptions) -> ExportReport:
    """Write a recording as FIF; see `penstock.export`."""
    check_recording(ds)
    return write_fif(ds, path, progress=options.progress, buffer_bytes=options.buffer_bytes)


def write_fif(
    ds: xr.Dataset,
    path: str,
    *,
    progress: Callable[[float], None] | None,
    buffer_bytes: int,
) -> ExportReport:
    """Write `ds` as FIF in SI units; see `penstock.io.export`.

    float32 as single precision, float64 as double. Above 2 GB the recording goes on in
    ``<name>-1.fif`` and so on, as MNE-Python reads it.
    """
    if importlib.util.find_spec("mne") is None:
        raise MissingExtraError(f'writing {path} needs mne: pip install "penstock[eeg]"')
    from penstock.io.mne.raw import CountedRaw, to_mne

    notes: list[str] = []
    others = [str(n) for n in ds.data_vars if str(n).startswith(f"{SIGNAL}_")]
    if others:
        notes.append(_SECOND_RATE.format(names=", ".join(others)))
        warn(notes[0])
    dims = {dim for name in others for dim in ds[name].dims} - set(ds[SIGNAL].dims)
    raw: Any = to_mne(ds.drop_vars(others).drop_dims(dims, errors="ignore"), notes=notes)
    raw.__class__ = CountedRaw
    renamed = _ascii_names(raw)
    _check_contents(raw, notes)
    raw._raw_extras[0]["source"].progress = progress
    folder, name = os.path.split(path)
    # MNE-Python holds a buffer about three times in float64; split files name each other, so they
    # are written under their final names, in a folder of their own
    most = max(1, min(buffer_bytes // (32 * len(raw.ch_names)), raw.n_times))
    buffer = _buffer_that_keeps_all(raw, most)
    work = tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*naming conventions.*")
            raw.save(
                os.path.join(work, name),
                fmt=raw.orig_format,
                # (MNE-Python rounds up)
                buffer_size_sec=(buffer - 0.5) / raw.info["sfreq"],
                split_size=SPLIT_SIZE,
                verbose="error",
            )
        parts = sorted(os.listdir(work), key=lambda part: part == name)
        for part in parts:
            fd = os.open(os.path.join(work, part), os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        for part in parts:
            os.replace(os.path.join(work, part), os.path.join(folder, part))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return ExportReport(path, "fif", renamed=renamed, notes=tuple(notes))


def _ascii_names(raw: Any) -> dict[str, str]:
    """Give channels names that FIF holds; return those that were changed."""
    taken = {name for name in raw.ch_names if name.isascii()}
    renamed: dict[str, str] = {}
    for name in raw.ch_names:
        if name.isascii():
            continue
        plain = unique = ascii_text(name)
        number = 0
        while unique in taken:
            unique, number = f"{plain}-{number}", number + 1
        taken.add(unique)
        renamed[name] = unique
    if renamed:
        raw.rename_channels(renamed, verbose="error")
    return renamed


def _buffer_that_keeps_all(raw: Any, most: int) -> int:
    """Samples of a buffer, about `most`, with which MNE-Python's writer leaves none out.

    It leaves out what is marked BAD_ACQ_SKIP if all such stretches begin and end where a buffer
    does; what is left out is read as 0, or makes the recording shorter.
    """
    annotations = raw.annotations
    marked = [text.upper().startswith("BAD_ACQ_SKIP") for text in annotations.description]
    length = raw.n_times
    begun = annotations.onset[marked] - raw.first_time
    starts = raw.time_as_index(begun, use_rounding=True)
    ends = raw.time_as_index(begun + annotations.duration[marked], use_rounding=True)
    if np.any((starts == 0) & (ends == length)):
        raise ValueError(
            "the whole recording is marked BAD_ACQ_SKIP, and MNE-Python writes no such samples to "
            "FIF: rename that event, or export as .edf or .zarr"
        )
    bounds = {*map(int, starts), *map(int, ends)} - {0, length}
    if not bounds:
        return most
    sizes = itertools.chain(range(most, 0, -1), range(most, length + 1))
    return next(size for size in sizes if any(at % size for at in bounds))


def _check_contents(raw: Any, notes: list[str]) -> None:
    """Note what FIF cannot hold, and take out what MNE-Python's writer would refuse."""
    annotations = raw.annotations
    end = float(annotations.onset.max()) if len(annotations) else 0.0
    if np.spacing(np.float32(end)) * raw.info["sfreq"] > 1:
        notes.append(
            f"FIF keeps event times in float32: after {end:.0f} s they are off by up to "
            f"{np.spacing(np.float32(end)) / 2 * 1000:.2g} ms"
        )
    foreign = sorted({text for text in annotations.description if not _is_latin(text)})
    if foreign:
        notes.append(
            f"FIF holds text in Latin-1: other letters in {len(foreign)} event labels (the first: "
            f"{foreign[0]!r}) are written as numbers (&#...;), which Penstock reads back"
        )
    date = raw.info["meas_date"]
    if date is not None and not _DATES[0] <= date <= _DATES[1]:
        notes.append(
            f"FIF holds no dates like {date.isoformat()}: the measurement date is left out"
        )
        raw.set_meas_date(None)


def _is_latin(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True
