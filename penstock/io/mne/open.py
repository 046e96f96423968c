"""Every recording that `mne.io.read_raw` opens, read by region through MNE-Python."""

from __future__ import annotations

import os
import re
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import xarray as xr

from penstock.dataset import Indexer
from penstock.io.arrays.arrays import as_dtype
from penstock.io.labels import apply_channel_types, clean_unit, unique_names
from penstock.io.mne.objects import (
    READ_BYTES,
    check_real,
    described_recording,
    exact_dtype,
    read_scaled,
    units_of,
)
from penstock.io.mne.problems import reading_problem
from penstock.io.parts import check_inside, check_parts
from penstock.messages import warn
from penstock.reading import Reading

OPEN_RECORDINGS = 4
"""Recordings that a process keeps open; MNE-Python parses a header in 10 ms to seconds."""


@dataclass(frozen=True, eq=False)
class MneRegion:
    """Reads regions of a recording: ``read(channels, times)``; opens it again in every process."""

    path: str
    options: tuple[tuple[str, Any], ...]
    scale: np.ndarray
    """From MNE-Python's unit of each channel to that of the dataset."""
    codes: np.ndarray
    """Which channels hold trigger codes."""
    n_times: int
    dtype: np.dtype

    def __call__(self, channels: Indexer, times: Indexer) -> np.ndarray:
        """Physical values of a region, as a new array (channels, times)."""
        return read_scaled(self._get_data, self.scale, self.dtype, channels, times, self.codes)

    def _get_data(self, picks: np.ndarray, start: int, stop: int) -> np.ndarray:
        entry = _opened(self.path, self.options)
        return _get_data(entry, self.path, picks, start, stop)


@dataclass
class _Opened:
    raw: Any
    lock: threading.Lock
    """Raw objects read through one file position and caches: one thread at a time."""
    messages: list[str]


def _get_data(
    entry: _Opened, path: str, picks: np.ndarray | list[int], start: int, stop: int
) -> np.ndarray:
    try:
        with entry.lock:
            return entry.raw.get_data(picks, start, stop, verbose="error")
    except Exception as error:
        raise OSError(
            f"MNE-Python cannot read samples {start} to {stop} of {path} ({_one_line(error)}): "
            "the file may be cut short; copy or export it again"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


_cache: OrderedDict[tuple[Any, ...], _Opened] = OrderedDict()
_cache_lock = threading.Lock()


def _opened(path: str, options: tuple[tuple[str, Any], ...]) -> _Opened:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is gone since it was opened") from None
    # the process id keeps a forked child from sharing its parent's file positions
    key = (path, stat.st_mtime_ns, stat.st_size, repr(options), os.getpid())
    with _cache_lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
        entry = _cache[key] = _read_raw(path, dict(options))
        while len(_cache) > OPEN_RECORDINGS:
            _cache.popitem(last=False)
        return entry


def _read_raw(path: str, options: dict[str, Any]) -> _Opened:
    import mne

    # names without "_raw.fif" are none of the user's concern
    dull = ("does not conform to MNE naming conventions",)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            raw = mne.io.read_raw(path, preload=False, verbose="warning", **options)
        except Exception as error:
            raise reading_problem(path, error, options) from error
    check_inside(path, [file for file in raw.filenames if file is not None])
    told = [str(warning.message) for warning in caught]
    told = [text for text in told if not any(phrase in text for phrase in dull)]
    return _Opened(raw, threading.Lock(), told)


def _check_hdf5(path: str) -> None:
    """Raise a ValueError for files in HDF5 (``.snirf``, ``.set``) whose values lie in others.

    MNE-Python would read them, wherever they lie.
    """
    if os.path.isdir(path) or not h5py.is_hdf5(path):
        return
    from penstock.io.hdf5.links import LinkError, open_tree

    with open_tree(path) as tree:
        for _, dataset in tree.datasets():
            try:
                others = [dataset.file.filename, *tree.check_storage(dataset)]
            except LinkError as error:
                raise ValueError(str(error)) from error
            for other in others:
                if os.path.abspath(other) != os.path.abspath(path):
                    raise ValueError(
                        f"{path} has values of {dataset.name} in {other}, which is not followed: "
                        "copy them into the file"
                    )
        if tree.broken:
            raise ValueError(f"{path} leads to what is not read: {tree.broken[0]}")


def open_mne(
    path: str,
    *,
    dtype: Any = None,
    channel_types: Mapping[str, str] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Open a recording through `mne.io.read_raw`; samples stay in the file until asked for.

    Parameters
    ----------
    path : str
        FIF, BrainVision, EEGLAB, GDF, CNT, EGI, ...: what MNE-Python reads.
    dtype : {"float32", "float64"}, optional
        Type of the samples. Default: the smaller one that holds the stored values exactly: float32
        for 16 bits and single precision, float64 for others and where MNE-Python does not say.
    channel_types : mapping of str to str, optional
        Channel name to type, over what the file says.
    **options
        Passed to MNE-Python's reader of the format.

    Returns
    -------
    xarray.Dataset
        Voltages in uV. Time begins at 0 with the first sample, ``measurement_date`` is the
        time of the first sample, and events count from it (also where MNE-Python's ``first_samp``
        is not 0).
    """
    check_parts(path)
    _check_hdf5(path)
    own = [name for name in ("preload", "verbose", "fname") if name in options]
    if own:
        raise ValueError(f"{path} cannot be opened with {own[0]!r}: samples are read by region")
    frozen = tuple(sorted(options.items()))
    entry = _opened(path, frozen)
    for message in entry.messages:
        warn(f"{path}: {' '.join(message.split())}", stacklevel=4)
    raw = entry.raw
    check_real(raw, path)
    resolved = exact_dtype(raw) if dtype is None else as_dtype(dtype)
    kinds = apply_channel_types(
        unique_names(raw.ch_names), raw.get_channel_types(), channel_types, path
    )
    units, scale = units_of(raw, kinds, _brainvision_units(path, raw.ch_names))
    n_times = int(raw.n_times)
    if n_times == 0:
        raise ValueError(f"{path} holds no samples: copy or export it again")
    if not raw.preload and not path.lower().endswith(".gz"):
        # a file cut short announces samples that it does not hold
        _get_data(entry, path, [0], n_times - 1, n_times)
    read = MneRegion(path, frozen, scale, np.array(kinds) == "stim", n_times, resolved)
    reading = Reading(
        scratch_bytes=READ_BYTES,
        # EEGLAB files with the samples inside, some older formats: MNE-Python holds all of them
        resident_bytes=8 * len(units) * n_times if raw.preload else 0,
        interleaved=not raw.preload,
    )
    ds = described_recording(raw, read, resolved, {"source": path, **reading.in_encoding()})
    ds.attrs = {"source": path, **ds.attrs}
    if path.lower().endswith((".fif", ".fif.gz")) and ds.sizes["event"]:
        texts = np.array([_plain_text(str(text)) for text in ds["event_label"].values])
        ds = ds.assign_coords(event_label=("event", texts))
    return ds.assign_coords(
        channel_type=("channel", np.array(kinds)), channel_unit=("channel", np.array(units))
    )


def _brainvision_units(path: str, names: list[str]) -> dict[str, str]:
    """Units of the channels of a BrainVision file, of which MNE-Python tells only some."""
    if not path.lower().endswith((".vhdr", ".ahdr")):
        return {}
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        _, _, rest = file.read().partition("[Channel Infos]")
    lines = re.findall(r"^Ch\d+=(.*)$", re.split(r"^\[", rest, flags=re.MULTILINE)[0], re.MULTILINE)
    fields = [line.split(",") for line in lines]
    if len(fields) != len(names):
        return {}
    units = {n: parts[3] for n, parts in zip(names, fields, strict=True) if len(parts) > 3}
    # (older files are in Latin-1)
    plain = {
        n: unit.encode("utf-8", "surrogateescape").decode("latin-1") for n, unit in units.items()
    }
    return {n: clean_unit(unit) for n, unit in plain.items() if clean_unit(unit)}


def _plain_text(text: str) -> str:
    """Text with the letters that MNE-Python wrote as numbers, because FIF is in Latin-1."""

    def letter(match: re.Match[str]) -> str:
        code = int(match[1])
        return chr(code) if 255 < code <= sys.maxunicode else match[0]

    return re.sub(r"&#(\d{3,7});", letter, text)
