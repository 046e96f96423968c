"""A dataset as an `mne.io.Raw` that reads by region, or as `mne.Epochs`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mne
import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, Indexer, read_region, sampling_frequency
from penstock.dates import moved_date
from penstock.io.arrays.arrays import exact_type
from penstock.io.bids.electrodes import FRAME, LANDMARKS, POSITION
from penstock.io.edf.identity import says_more
from penstock.io.mne import BATCH_BYTES
from penstock.io.mne.annotations import CHANNELS, EXTRAS, annotations_of
from penstock.io.mne.info import CHANNEL_INFO, INFO, info_of, si_divisors
from penstock.messages import warn


class _Source:
    """What a `DatasetRaw` reads from; copies of the Raw share it."""

    def __init__(self, ds: xr.Dataset, first_samp: int):
        self.ds = xr.Dataset({SIGNAL: ds.variables[SIGNAL]})
        self.divisors = si_divisors(ds)
        self.first_samp = first_samp
        self.n_times = ds.sizes["time"]
        self.progress: Callable[[float], None] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Source:
        return self

    def parts(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Channels and times to read one after the other: blocks of a lazy dataset once each."""
        variable = self.ds.variables[SIGNAL]
        n_channels = variable.sizes["channel"]
        if variable.chunks is not None:
            chunks = dict(zip(map(str, variable.dims), variable.chunks, strict=True))
            for channels in _spans(chunks["channel"]):
                for times in _spans(chunks["time"]):
                    low, high = max(start, times.start), min(stop, times.stop)
                    if low < high:
                        yield channels, slice(low, high)
            return
        step = max(1, BATCH_BYTES // (max(1, n_channels) * variable.dtype.itemsize))
        for at in range(start, stop, step):
            yield slice(0, n_channels), slice(at, min(at + step, stop))

    def read(self, rows: np.ndarray, times: slice) -> np.ndarray:
        """Values of some channels in SI units, float64."""
        wanted: Indexer = rows
        if len(rows) and (np.diff(rows) == 1).all():
            wanted = slice(int(rows[0]), int(rows[-1]) + 1)
        block = read_region(self.ds, {"channel": wanted, "time": times})
        block = block if self.ds[SIGNAL].dims[0] == "channel" else block.T
        return np.divide(block, self.divisors[rows, np.newaxis], dtype=np.float64)


def _spans(sizes: tuple[int, ...]) -> Iterator[slice]:
    at = 0
    for size in sizes:
        yield slice(at, at + size)
        at += size


class DatasetRaw(mne.io.BaseRaw):
    """A dataset seen through MNE-Python: samples are read, or computed, when they are asked for."""

    def __init__(self, source: _Source, info: mne.Info, orig_format: str):
        super().__init__(
            info,
            preload=False,
            first_samps=(source.first_samp,),
            last_samps=(source.first_samp + source.n_times - 1,),
            filenames=(None,),
            raw_extras=[{"source": source}],
            orig_format=orig_format,
            verbose="error",
        )

    def _read_segment_file(
        self, data: np.ndarray, idx: Any, fi: int, start: int, stop: int, cals: Any, mult: Any
    ) -> None:
        source: _Source = self._raw_extras[fi]["source"]
        # samples are counted from that of the file, also after cropping
        start, stop = start - source.first_samp, stop - source.first_samp
        picked = np.arange(len(source.divisors))[idx]
        if mult is not None:  # (projections and compensation mix channels)
            data[...] = 0
        for channels, times in source.parts(start, stop):
            here = np.flatnonzero((picked >= channels.start) & (picked < channels.stop))
            if not len(here):
                continue
            block = source.read(picked[here], times)
            out = data[:, times.start - start : times.stop - start]
            if mult is not None:
                out += mult[:, here] @ block
            else:
                out[here if len(here) < len(out) else slice(None)] = block
            if source.progress is not None:
                source.progress(min(1.0, times.stop / source.n_times))


class PlainRaw(mne.io.RawArray):
    """Samples in memory whose times are computed by NumPy.

    MNE-Python compiles a function for that with numba, which takes 75 MiB once it is loaded.
    """

    @property
    def times(self) -> np.ndarray:
        """Time points [s], the same."""
        times = np.arange(self.n_times, dtype=np.float64)
        times /= float(self.info["sfreq"])
        times.flags["WRITEABLE"] = False
        return times


class CountedRaw(DatasetRaw):
    """A recording that is only written.

    MNE-Python's writer asks for all times just to count them: an array as long as the recording,
    made by numba, which takes 100 MiB once it is loaded.
    """

    @property
    def times(self) -> range:  # type: ignore[override]
        """As many as there are samples."""
        return range(self.n_times)


def to_mne(
    ds: xr.Dataset, *, preload: bool = False, notes: list[str] | None = None
) -> mne.io.BaseRaw | mne.EpochsArray:
    """A dataset as an object of MNE-Python, with all that it knows of the recording.

    Parameters
    ----------
    ds : xarray.Dataset
        ``signal`` (channel, time), lazy or not, or (epoch, channel, time).
    preload : bool, default False
        Whether a Raw reads everything at once. Otherwise it reads, or computes, what is asked for;
        `load_data` does it later. Epochs are always in memory.
    notes : list of str, optional
        A list to which sentences are added on what MNE-Python cannot hold. Without it they are
        given as a warning.

    Returns
    -------
    mne.io.BaseRaw or mne.EpochsArray
        In SI units (volts, tesla), trigger codes as they are. Montage, digitisation, projections,
        filters, subject, device, bad channels and annotations are those of the recording; dates,
        positions and names are those of the dataset. Calibration factors are 1.

    Raises
    ------
    ValueError
        If the dataset has other dims, or values that MNE-Python cannot hold.

    Notes
    -----
    A Raw of a pipeline's lazy result computes whole blocks of channels, however short the stretch
    that is asked for: load it, or let the pipeline run into a store first.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(
    ...     np.ones((2, 500), "float32"),
    ...     sampling_frequency=100.0,
    ...     units="uV",
    ...     coords={"channel": ["Cz", "Pz"]},
    ... )
    >>> raw = ps.to_mne(ds)
    >>> raw.ch_names, float(raw.get_data(tmax=1.0).max())
    (['Cz', 'Pz'], 1e-06)
    """
    from penstock.dataset import check_dataset

    told: list[str] = [] if notes is None else notes
    dims = set(map(str, check_dataset(ds)[SIGNAL].dims))
    if dims not in ({"channel", "time"}, {"epoch", "channel", "time"}) or 0 in ds[SIGNAL].shape:
        raise ValueError(
            "MNE-Python holds signals of channels and times, or of epochs, channels and times, "
            f"not of {dict(ds[SIGNAL].sizes)}: select or stack dims first"
        )
    if ds[SIGNAL].dtype.kind not in "fiub":
        raise ValueError(
            f"MNE-Python holds real values, but the signal is {ds[SIGNAL].dtype}: take its real "
            "part or its magnitude first"
        )
    if "epoch" in dims:
        from penstock.io.mne.epochs import epochs_of

        epochs = epochs_of(ds, told)
        if notes is None and told:
            warn(f"not everything goes with it: {'; '.join(told)}", stacklevel=2)
        return epochs
    told += _left_out(ds)
    info = info_of(ds, told)
    rate = sampling_frequency(ds)
    start = float(ds["time"][0])
    first_samp = round((float(ds.attrs.get("first_time", 0.0)) + start) * rate)
    early = min(0, first_samp)
    if early and info["meas_date"] is not None:
        # MNE-Python counts samples from 0
        info = mne.Info({**info, "meas_date": moved_date(info["meas_date"], early / rate)})
    source = _Source(ds, first_samp - early)
    single = exact_type(ds[SIGNAL].dtype) == np.float32
    raw = DatasetRaw(source, info, "single" if single else "double")
    length = ds.sizes["time"] / rate
    if notes is None and told:
        warn(f"not everything goes with it: {'; '.join(told)}", stacklevel=2)
    # (that a part of a recording has not all of its events is no news)
    raw.set_annotations(annotations_of(ds, start, length, told), verbose="error")
    return raw.load_data(verbose="error") if preload else raw


_VARIABLES = frozenset(
    (SIGNAL, "channel", "time", "channel_type", "channel_unit", "bad", CHANNEL_INFO, *POSITION,
     "event_onset", "event_duration", "event_label", CHANNELS, EXTRAS)
)  # fmt: skip
_ATTRIBUTES = frozenset(
    (INFO, "measurement_date", "first_time", "highpass", "lowpass", "line_frequency",
     "custom_reference", FRAME, LANDMARKS, "edf_type", "edf_record_duration", "edf_patient",
     "edf_recording", "edf_start_time", "source", "store", "penstock", "sidecars", "sidecar_notes")
)  # fmt: skip
"""Attributes that MNE-Python has a place for, or that say where and how the dataset was made."""


def _left_out(ds: xr.Dataset) -> list[str]:
    """Variables and attributes that MNE-Python has no place for."""
    rates = sorted(str(name) for name in ds.data_vars if str(name).startswith(f"{SIGNAL}_"))
    notes = [f"MNE-Python holds one sampling frequency: {name} is left out" for name in rates]
    dims = {dim for name in rates for dim in ds[name].dims} - set(ds[SIGNAL].dims)
    rest = ds.drop_vars(rates).drop_dims(dims, errors="ignore")
    variables = set(map(str, rest.variables)) - _VARIABLES
    if "label" in variables and rest["label"].dims == ("channel",):
        variables.remove("label")  # (the names, as an EDF file spells them)
    attributes = sorted(
        str(name)
        for name, value in ds.attrs.items()
        if str(name) not in _ATTRIBUTES and value is not None and value is not False
    )
    if says_more(str(ds.attrs.get("edf_recording", ""))):
        notes.append("MNE-Python has no place for what EDF says of technician and equipment")
    for what, names in (("variables", sorted(variables)), ("attributes", attributes)):
        if names:
            notes.append(f"MNE-Python has no place for the {what} {', '.join(names)}")
    return notes
