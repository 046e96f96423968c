"""FIF through MNE-Python's own writer, which pulls the samples from the dataset as it goes."""

from __future__ import annotations

import datetime
import importlib.util
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.dataset import SIGNAL, events_table, read_region, sampling_frequency
from penstock.io.export import ExportReport
from penstock.io.registry import MissingExtraError

if TYPE_CHECKING:
    import xarray as xr

_SECOND_RATE = (
    "FIF holds one sampling frequency: {names} are left out (export as .edf or .zarr to keep them)"
)


def write_fif(
    ds: xr.Dataset,
    path: str,
    *,
    progress: Callable[[float], None] | None,
    buffer_bytes: int,
) -> ExportReport:
    """Write `ds` as FIF in float32 and volts; see `penstock.io.export`.

    Above 2 GB the recording goes on in ``<name>-1.fif`` and so on, as MNE-Python reads it.
    """
    if importlib.util.find_spec("mne") is None:
        raise MissingExtraError(f'writing {path} needs mne: pip install "penstock[eeg]"')
    notes = []
    others = [str(n) for n in ds.data_vars if str(n).startswith(f"{SIGNAL}_")]
    if others:
        notes.append(_SECOND_RATE.format(names=", ".join(others)))
        warnings.warn(notes[0], stacklevel=4)
    raw = _raw(ds, notes, progress)
    folder, name = os.path.split(path)
    # MNE-Python holds a buffer about three times in float64; split files name each other, so they
    # are written under their final names, in a folder of their own
    seconds = buffer_bytes / (32 * len(raw.ch_names) * raw.info["sfreq"])
    work = tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*naming conventions.*")
            raw.save(
                os.path.join(work, name),
                buffer_size_sec=min(max(seconds, 1 / raw.info["sfreq"]), raw.times[-1] + 1),
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
    return ExportReport(path, "fif", notes=tuple(notes))


def _raw(ds: xr.Dataset, notes: list[str], progress: Callable[[float], None] | None) -> Any:
    """The dataset as an `mne.io.Raw` that reads a region when it is asked for one."""
    import mne

    class DatasetRaw(mne.io.BaseRaw):
        """A Penstock dataset seen through MNE-Python."""

        def _read_segment_file(
            self, data: np.ndarray, idx: Any, fi: int, start: int, stop: int, cals: Any, mult: Any
        ) -> None:
            block = read_region(ds, {"channel": _slice(idx, ds), "time": slice(start, stop)})
            block = block if ds[SIGNAL].dims[0] == "channel" else block.T
            np.multiply(block, scale[idx, None], out=data)
            data *= cals
            if progress is not None:
                progress(min(1.0, stop / n_times))

    n_channels, n_times = ds.sizes["channel"], ds.sizes["time"]
    names = [str(name) for name in ds["channel"].values] if "channel" in ds.coords else []
    names = names or [str(i + 1) for i in range(n_channels)]
    kinds = _texts(ds, "channel_type", n_channels, "eeg")
    units = _texts(ds, "channel_unit", n_channels, str(ds[SIGNAL].attrs.get("units", "")))
    scale = np.array([1e-6 if unit == "uV" else 1.0 for unit in units])
    known = set(mne.io.get_channel_type_constants())
    for name, kind in zip(names, kinds, strict=True):
        if kind not in known:
            notes.append(f"FIF knows no channel type {kind!r}: {name!r} is written as 'misc'")
    kinds = [kind if kind in known else "misc" for kind in kinds]
    info = mne.create_info(names, sampling_frequency(ds), kinds, verbose="error")
    if "bad" in ds.coords:
        info["bads"] = [n for n, bad in zip(names, ds["bad"].values, strict=True) if bad]
    text = ds.attrs.get("measurement_date")
    start = datetime.datetime.fromisoformat(str(text)) if text else None
    if start is not None and start.tzinfo is None:
        start = start.replace(tzinfo=datetime.UTC)
    raw = DatasetRaw(
        info, preload=False, last_samps=[n_times - 1], filenames=[None], verbose="error"
    )
    raw.set_meas_date(start)
    table = events_table(ds)
    inside = (table["onset"] >= 0) & (table["onset"] <= n_times / info["sfreq"])
    if not inside.all():
        notes.append(f"FIF holds no events outside the recording: {(~inside).sum()} left out")
    table = table[inside]
    end = float(table["onset"].max()) if len(table) else 0.0
    if np.spacing(np.float32(end)) * info["sfreq"] > 1:
        notes.append(
            f"FIF keeps event times in float32: after {end:.0f} s they are off by up to "
            f"{np.spacing(np.float32(end)) / 2 * 1000:.2g} ms"
        )
    raw.set_annotations(
        mne.Annotations(
            table["onset"].to_numpy(),
            table["duration"].fillna(0).to_numpy(),
            table["label"].tolist(),
        ),
        verbose="error",
    )
    return raw


def _slice(idx: Any, ds: xr.Dataset) -> Any:
    return slice(*idx.indices(ds.sizes["channel"])[:2]) if isinstance(idx, slice) else idx


def _texts(ds: xr.Dataset, name: str, n: int, default: str) -> list[str]:
    return [str(v) for v in ds[name].values] if name in ds.variables else [default] * n
