"""Every recording that `mne.io.read_raw` opens, read by region through MNE-Python."""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from penstock.buffers import new_array
from penstock.dataset import SIGNAL, Indexer, lazy_variable, sampled_coordinate, with_events
from penstock.io.arrays import as_dtype
from penstock.io.edf_records import stretches
from penstock.io.labels import apply_channel_types, unique_names

if TYPE_CHECKING:
    import pandas as pd

BATCH_BYTES = 4 * 1024 * 1024
"""float64 samples of all channels that MNE-Python is asked for at once."""
OPEN_RECORDINGS = 4
"""Recordings that a process keeps open; MNE-Python parses a header in 10 ms to seconds."""

# FIFF unit codes: https://github.com/mne-tools/fiff-constants
_UNITS = {107: "uV", 112: "T", 201: "T/m", 1: "m", 2: "kg", 3: "s", 101: "Hz", 106: "C", 109: "Ohm",
          114: "degC", 110: "S"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class MneRegion:
    """Reads regions of a recording: ``read(channels, times)``; opens it again in every process."""

    path: str
    options: tuple[tuple[str, Any], ...]
    scale: np.ndarray
    """From MNE-Python's unit of each channel to that of the dataset."""
    n_times: int
    dtype: np.dtype

    def __call__(self, channels: Indexer, times: Indexer) -> np.ndarray:
        """Physical values of a region, as a new array (channels, times)."""
        picks = np.arange(len(self.scale))[channels]
        # MNE-Python reads all channels, as float64, whichever are asked for
        batch = max(1, BATCH_BYTES // (8 * len(self.scale)))
        ranges: Iterable[tuple[int, int, np.ndarray | None]]
        if isinstance(times, slice):
            count = max(0, times.stop - times.start)
            starts = range(times.start, times.stop, batch)
            ranges = ((at, min(at + batch, times.stop), None) for at in starts)
        else:
            count, ranges = len(times), stretches(times, batch)
        out = new_array((len(picks), count), self.dtype)
        if not out.size:
            return out
        scale = self.scale[picks, None]
        entry = _opened(self.path, self.options)
        done = 0
        for start, stop, picked in ranges:
            block = _get_data(entry, self.path, picks, start, stop)
            block = block if picked is None else block[:, picked]
            np.multiply(block, scale, out=out[:, done : done + block.shape[1]], casting="same_kind")
            done += block.shape[1]
        return out


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
            raise ValueError(
                f"MNE-Python cannot open {path} ({_one_line(error)}): check that the file and "
                "those that belong to it are complete"
            ) from error
    messages = [str(warning.message) for warning in caught]
    messages = [text for text in messages if not any(phrase in text for phrase in dull)]
    return _Opened(raw, threading.Lock(), messages)


def open_mne(
    path: str,
    *,
    dtype: Any = "float32",
    channel_types: Mapping[str, str] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Open a recording through `mne.io.read_raw`; samples stay in the file until asked for.

    Parameters
    ----------
    path : str
        FIF, BrainVision, EEGLAB, GDF, CNT, EGI, ...: what MNE-Python reads.
    dtype : {"float32", "float64"}
        Type of the samples.
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
    resolved = as_dtype(dtype)
    frozen = tuple(sorted(options.items()))
    entry = _opened(path, frozen)
    for message in entry.messages:
        warnings.warn(f"{path}: {' '.join(message.split())}", stacklevel=4)
    raw = entry.raw
    info = raw.info
    names = unique_names(raw.ch_names)
    kinds = apply_channel_types(names, raw.get_channel_types(), channel_types, path)
    units = [_UNITS.get(int(channel["unit"]), "") for channel in info["chs"]]
    scale = np.array([1e6 if unit == "uV" else 1.0 for unit in units])
    n_times = int(raw.n_times)
    if n_times == 0:
        raise ValueError(f"{path} holds no samples: copy or export it again")
    if not raw.preload and not path.lower().endswith(".gz"):
        # a file cut short announces samples that it does not hold
        _get_data(entry, path, [0], n_times - 1, n_times)
    read = MneRegion(path, frozen, scale, n_times, resolved)
    attrs = {"units": "uV" if "uV" in units else units[0]}
    encoding = {
        "source": path,
        "read_scratch": 0.0,
        # float64 of all channels inside MNE-Python, about three times
        "read_scratch_bytes": 4 * BATCH_BYTES,
        "interleaved": not raw.preload,
    }
    if raw.preload:
        # EEGLAB files with the samples inside, some older formats: MNE-Python holds all of them
        encoding["resident"] = 8 * len(names) * n_times
    shape = len(names), n_times
    variable = lazy_variable(("channel", "time"), read, shape, resolved, attrs, encoding)
    ds = xr.Dataset({SIGNAL: variable}, attrs={"source": path})
    if info["meas_date"] is not None:
        import datetime

        first = info["meas_date"] + datetime.timedelta(seconds=float(raw.first_time))
        ds.attrs["measurement_date"] = first.isoformat()
    ds = ds.assign_coords(
        channel=np.array(names),
        channel_type=("channel", np.array(kinds)),
        channel_unit=("channel", np.array(units)),
        bad=("channel", np.isin(raw.ch_names, info["bads"])),
    )
    ds = ds.assign_coords(sampled_coordinate("time", n_times, float(info["sfreq"])))
    return with_events(ds, _events(raw))


def _events(raw: Any) -> pd.DataFrame:
    import pandas as pd

    annotations = raw.annotations
    # onsets count from meas_date, of which the first sample is first_time away
    return pd.DataFrame(
        {
            "onset": np.asarray(annotations.onset, dtype=np.float64) - float(raw.first_time),
            "duration": np.asarray(annotations.duration, dtype=np.float64),
            "label": pd.Series([str(text) for text in annotations.description], dtype=object),
        }
    )
