"""Raw and Epochs objects of MNE-Python as datasets."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, Indexer, lazy_variable, sampled_coordinate
from penstock.io.arrays.arrays import as_dtype
from penstock.io.edf.records import stretches
from penstock.io.labels import clean_unit, volts
from penstock.io.mne import BATCH_BYTES
from penstock.io.mne.annotations import with_annotations
from penstock.io.mne.info import with_info
from penstock.io.mne.units import VOLT, from_fif
from penstock.memory.buffers import new_array
from penstock.reading import Reading

if TYPE_CHECKING:
    import mne

READ_BYTES = 4 * BATCH_BYTES
"""What reading a region takes inside MNE-Python: float64 of all channels, about three times."""


def read_scaled(
    get_data: Callable[[np.ndarray, int, int], np.ndarray],
    scale: np.ndarray,
    dtype: np.dtype,
    channels: Indexer,
    times: Indexer,
    codes: np.ndarray,
) -> np.ndarray:
    """A region in the units of the dataset, as a new array, asked for in stretches of all channels.

    `get_data` gives values of some channels from one sample to another, in SI units. `codes` says
    which channels hold trigger codes: scaled back, they must be whole again.
    """
    picks = np.arange(len(scale))[channels]
    # MNE-Python reads all channels, as float64, whichever are asked for
    batch = max(1, BATCH_BYTES // (8 * len(scale)))
    ranges: list[tuple[int, int, np.ndarray | None]]
    if isinstance(times, slice):
        count = max(0, times.stop - times.start)
        starts = range(times.start, times.stop, batch)
        ranges = [(at, min(at + batch, times.stop), None) for at in starts]
    else:
        count, ranges = len(times), list(stretches(times, batch))
    out = new_array((len(picks), count), dtype)
    if not out.size:
        return out
    factors = scale[picks, np.newaxis]
    whole = np.flatnonzero(codes[picks] & (scale[picks] != 1))
    done = 0
    for start, stop, picked in ranges:
        block = get_data(picks, start, stop)
        block = block if picked is None else block[:, picked]
        part = out[:, done : done + block.shape[1]]
        np.multiply(block, factors, out=part, casting="same_kind")
        if len(whole):
            part[whole] = np.round(part[whole], 6)
        done += block.shape[1]
    return out


def exact_dtype(raw: Any) -> np.dtype:
    """The smaller of float32 and float64 that holds what a Raw stores exactly."""
    if raw.preload:
        return np.dtype(np.float64)
    # (MNE-Python says "double" of all of EEGLAB's files; those of samples are of single precision)
    names = [str(name).lower() for name in raw.filenames if name is not None]
    if names and all(name.endswith(".fdt") for name in names):
        return np.dtype(np.float32)
    return np.dtype(np.float32 if raw.orig_format in ("single", "short") else np.float64)


def check_real(raw: Any, what: str) -> None:
    """Raise a ValueError if a Raw holds complex values, whether they are loaded or not."""
    if raw.preload:
        dtype = np.asarray(raw._data).dtype
    else:
        # (what MNE-Python loads the samples as: only its own formats hold others than float64)
        dtype = np.dtype(getattr(raw, "_dtype", np.float64))
    if dtype.kind == "c":
        raise ValueError(
            f"{what} holds complex values (a Hilbert transform): take its magnitude first, "
            "raw.load_data().apply_function(abs)"
        )


def described_recording(
    raw: mne.io.BaseRaw, read: Callable[..., np.ndarray], dtype: np.dtype, encoding: dict[str, Any]
) -> xr.Dataset:
    """The dataset of a Raw whose values `read` gives, in the units of `units_of`."""
    units, _ = units_of(raw)
    n_times = int(raw.n_times)
    shape = len(units), n_times
    attrs = {"units": "uV" if "uV" in units else units[0]}
    variable = lazy_variable(("channel", "time"), read, shape, dtype, attrs, encoding)
    ds = with_info(xr.Dataset({SIGNAL: variable}), raw.info, first_time=float(raw.first_time))
    ds = ds.assign_coords(channel_unit=("channel", np.array(units)))
    ds = ds.assign_coords(sampled_coordinate("time", n_times, float(raw.info["sfreq"])))
    return with_annotations(ds, raw.annotations, float(raw.first_time))


def units_of(
    recording: mne.io.BaseRaw | mne.BaseEpochs,
    kinds: list[str] | None = None,
    known: dict[str, str] | None = None,
) -> tuple[list[str], np.ndarray]:
    """Units of the channels in a dataset, and the factors from MNE-Python's values to them.

    `known` are units of the file that MNE-Python does not tell.
    """
    info = recording.info
    kinds = info.get_channel_types() if kinds is None else kinds
    original = {name: str(unit) for name, unit in getattr(recording, "_orig_units", {}).items()}
    original |= known or {}
    if type(recording).__name__ == "RawBrainVision":
        # (of units without a FIFF code this is the one that the reader converts)
        original = {n: "S" if clean_unit(unit) == "uS" else unit for n, unit in original.items()}
    pairs = [
        from_fif(int(channel["unit"]), kind, original.get(channel["ch_name"], ""))
        for channel, kind in zip(info["chs"], kinds, strict=True)
    ]
    factors = np.array([factor for _, factor in pairs])
    in_microvolts = "EEGLAB" in type(recording).__name__
    for i, (channel, kind) in enumerate(zip(info["chs"], kinds, strict=True)):
        if kind == "stim" and int(channel["unit"]) == VOLT:
            # codes are the numbers of the file, also where a reader takes them for voltages
            read_as = volts(original.get(channel["ch_name"], "uV" if in_microvolts else "V"))
            factors[i] = 1e6 / read_as if read_as is not None else 1.0
    return [unit for unit, _ in pairs], factors


@dataclass(eq=False)
class RawRegion:
    """Reads regions of a Raw: ``read(channels, times)``."""

    raw: Any
    """Not loaded: a copy of its own, read through one file position: one thread at a time."""
    values: np.ndarray | None
    """Loaded: its values, shared with it."""
    scale: np.ndarray
    codes: np.ndarray
    """Which channels hold trigger codes."""
    dtype: np.dtype
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.Lock())

    def __call__(self, channels: Indexer, times: Indexer) -> np.ndarray:
        """Values of a region in the units of the dataset, as a new array."""
        return read_scaled(self._get_data, self.scale, self.dtype, channels, times, self.codes)

    def _get_data(self, picks: np.ndarray, start: int, stop: int) -> np.ndarray:
        if self.values is not None:
            found: np.ndarray = self.values[picks, start:stop]
            return found
        with self.lock:
            data: np.ndarray = self.raw.get_data(picks, start, stop, verbose="error")
            return data

    def identity(self) -> bytes:
        """Digest of what is read: of the values in memory, or of the files and how they are read.

        Pickling them for that would take a second copy of the values.
        """
        digest = hashlib.sha256(repr((self.scale.tolist(), str(self.dtype))).encode())
        if self.values is not None:
            for row in self.values:
                digest.update(np.ascontiguousarray(row).view(np.uint8).data)
            return digest.digest()
        raw = self.raw
        for name in filter(None, raw.filenames):
            stat = os.stat(name)
            digest.update(repr((str(name), stat.st_size, stat.st_mtime_ns)).encode())
        ends = [list(map(int, part)) for part in (raw._first_samps, raw._last_samps)]
        picks = [list(map(int, part)) for part in raw._read_picks]
        digest.update(repr((type(raw).__name__, ends, picks, raw.proj)).encode())
        for matrix in (raw._projector, raw._comp):
            if matrix is not None:
                digest.update(np.ascontiguousarray(matrix).view(np.uint8).data)
        return digest.digest()


def from_mne(recording: mne.io.BaseRaw | mne.BaseEpochs, *, dtype: Any = None) -> xr.Dataset:
    """A Raw or Epochs object of MNE-Python as a dataset; nothing is read or copied.

    Parameters
    ----------
    recording : mne.io.BaseRaw or mne.BaseEpochs
        Loaded: the dataset shares its memory, so later changes of values in place show. Not loaded:
        regions are read from its files when they are asked for. Epochs that are not loaded are read
        once to find out which are dropped.
    dtype : {"float32", "float64"}, optional
        Type of the samples. Default: the smaller one that holds them exactly: float64 once they are
        loaded, otherwise as the file stores them.

    Returns
    -------
    xarray.Dataset
        ``signal`` (channel, time) or (epoch, channel, time): voltages in uV, other quantities in SI
        units, trigger codes as they are. Time begins with the first sample (of epochs: with their
        ``tmin``), and events count from there. The whole `mne.Info` is carried along, and `to_mne`
        gives it back.

    Examples
    --------
    >>> import mne, numpy as np, penstock as ps
    >>> info = mne.create_info(["Cz", "Pz"], 100.0, "eeg")
    >>> raw = mne.io.RawArray(np.full((2, 500), 1e-6), info, verbose="error")
    >>> ds = ps.from_mne(raw)
    >>> float(ds.signal.max()), ds.channel_unit.values.tolist()
    (1.0, ['uV', 'uV'])
    """
    import mne

    if isinstance(recording, mne.BaseEpochs):
        return _from_epochs(recording, dtype)
    if not isinstance(recording, mne.io.BaseRaw):
        raise TypeError(
            f"expected a Raw or Epochs object of MNE-Python, got {type(recording).__name__}"
        )
    raw = recording
    check_real(raw, "the Raw object")
    resolved = exact_dtype(raw) if dtype is None else as_dtype(dtype)
    _, scale = units_of(raw)
    values = np.asarray(raw._data) if raw.preload else None
    # (what happens to a Raw object later must not change what is read)
    codes = np.array(raw.get_channel_types()) == "stim"
    read = RawRegion(None if raw.preload else raw.copy(), values, scale, codes, resolved)
    reading = Reading(scratch_bytes=READ_BYTES, interleaved=not raw.preload)
    encoding: dict[str, Any] = reading.in_encoding()
    files = [str(name) for name in raw.filenames if name is not None]
    if files and not raw.preload:
        encoding["source"] = files[0]
    ds = described_recording(raw, read, resolved, encoding)
    if files:
        ds.attrs["source"] = os.path.abspath(files[0])
    return ds


def _from_epochs(epochs: mne.BaseEpochs, dtype: Any) -> xr.Dataset:
    from penstock.io.mne.epochs import EpochsRegion, describe_epochs

    if not epochs.preload:
        epochs = epochs.copy()
        epochs.drop_bad(verbose="error")
    resolved = np.dtype(np.float64) if dtype is None else as_dtype(dtype)
    units, scale = units_of(epochs)
    shape = len(epochs), len(units), len(epochs.times)
    attrs = {"units": "uV" if "uV" in units else units[0]}
    variable = lazy_variable(
        ("epoch", "channel", "time"),
        EpochsRegion(epochs, scale, resolved),
        shape,
        resolved,
        attrs,
        reading=Reading(scratch_bytes=READ_BYTES),
    )
    ds = with_info(xr.Dataset({SIGNAL: variable}), epochs.info, first_time=0.0)
    ds = ds.assign_coords(channel_unit=("channel", np.array(units)))
    rate = float(epochs.info["sfreq"])
    start = round(float(epochs.times[0]) * rate) / rate
    ds = ds.assign_coords(sampled_coordinate("time", shape[2], rate, start))
    return describe_epochs(ds, epochs)
