"""One conformance test for all readers."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import time
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr

from penstock.dataset import SIGNAL, Region, SampledIndex, read_region

SLACK_BYTES = 2 * 1024 * 1024
"""Memory that a read may use beside what it declares: interpreter, libraries, their caches."""


def check_reader(path: str | os.PathLike[str], **kwargs: Any) -> xr.Dataset:
    """Check that a reader keeps the contract of `penstock.open_dataset` on one of its files.

    Opening is quick and reads no samples; dims, coordinates and units are complete and time is
    virtual; any region equals the same part of the whole; the dataset can be pickled; the type is
    what was asked for; memory of a read stays within what the reader declares
    (``read_scratch``, a multiple of the region, and ``read_scratch_bytes``, both in the encoding of
    ``signal``); a truncated copy gives one clear sentence or a shorter dataset that can be read.

    Parameters
    ----------
    path : path-like
        A file of at least a hundred samples. Files beside it with the same stem belong to it.
    **kwargs
        Options for `penstock.open_dataset`.

    Returns
    -------
    xarray.Dataset
        The opened dataset, for further checks.

    Raises
    ------
    AssertionError
        With the rule that is broken.

    Examples
    --------
    >>> from penstock.testing import check_reader
    >>> ds = check_reader("recording.edf")  # doctest: +SKIP
    """
    path = os.path.abspath(os.fspath(path))
    ds = _check_opening(path, kwargs)
    _check_contents(ds, path)
    _check_regions(ds)
    _check_pickling(ds)
    _check_types(path, kwargs)
    _check_memory(ds)
    _check_truncated(Path(path), kwargs)
    return ds


def _open(path: str, kwargs: dict[str, Any]) -> xr.Dataset:
    from penstock.io import open_dataset

    return open_dataset(path, **kwargs)


def _check_opening(path: str, kwargs: dict[str, Any]) -> xr.Dataset:
    _open(path, kwargs)  # imports and caches are not what is measured
    process = psutil.Process()
    before, start = process.io_counters().read_chars, time.perf_counter()
    ds = _open(path, kwargs)
    seconds = time.perf_counter() - start
    read = process.io_counters().read_chars - before
    assert seconds < 5, f"opening {path} took {seconds:.1f} s: it must not read samples"
    size = sum(part.stat().st_size for part in _parts(Path(path)))
    assert read < 0.25 * size + (1 << 20), f"opening {path} read {read} of {size} bytes"
    assert not ds.variables[SIGNAL]._in_memory, "opening must not load the signal"
    return ds


def _check_contents(ds: xr.Dataset, path: str) -> None:
    for name in _signals(ds):
        suffix = name.removeprefix(SIGNAL)
        channel, times = f"channel{suffix}", f"time{suffix}"
        assert ds[name].dims == (channel, times), f"dims of {name} are {ds[name].dims}"
        assert ds[name].attrs.get("units") is not None, f"{name} has no units"
        assert isinstance(ds.xindexes[times], SampledIndex), f"{times} is not virtual"
        assert float(ds[times][0]) == 0.0, f"{times} does not begin at 0"
        names = [str(value) for value in ds[channel].values]
        assert len(set(names)) == len(names), f"channel names repeat: {names}"
        assert all(names), "a channel has no name"
        for coordinate, kind in (("channel_type", "U"), ("channel_unit", "U"), ("bad", "b")):
            values = ds[coordinate + suffix]
            assert values.dims == (channel,), f"{coordinate}{suffix} is not one value a channel"
            assert values.dtype.kind == kind, f"{coordinate}{suffix} has dtype {values.dtype}"
        encoding = ds[name].encoding
        assert "read_scratch" in encoding, f"{name} does not declare read_scratch"
        assert isinstance(encoding.get("interleaved"), bool), f"{name} does not declare interleaved"
    assert os.path.isabs(ds.attrs["source"]), "attrs['source'] is not absolute"
    assert os.path.samefile(ds.attrs["source"], path), "attrs['source'] is another file"
    if "event_onset" in ds.variables:
        assert (np.diff(ds["event_onset"].values) >= 0).all(), "events are not in order"


def _signals(ds: xr.Dataset) -> list[str]:
    return [str(name) for name in ds.data_vars if str(name).startswith(SIGNAL)]


def _check_regions(ds: xr.Dataset) -> None:
    rng = np.random.default_rng(0)
    for name in _signals(ds):
        channel, times = ds[name].dims
        n_channels, n_times = ds[name].shape
        whole = ds.variables[name].isel({times: slice(0, min(n_times, 200_000))}).values
        n_times = whole.shape[1]
        variable = ds.variables[name]
        picks: list[tuple[Any, Any]] = [
            (slice(None), slice(n_times // 3, n_times // 2)),
            (slice(n_channels // 2, None), slice(1, n_times - 1)),
            (n_channels - 1, slice(0, n_times)),
            (slice(None), n_times - 1),
            (-1, slice(0, 1)),
            (slice(None), slice(3, n_times, 7)),
            (slice(None, None, -1), slice(n_times // 2, n_times // 4, -3)),
            (list(range(n_channels))[::2], slice(0, n_times)),
            (rng.permutation(n_channels), rng.integers(0, n_times, 50)),
            (slice(None), np.array([n_times - 1, 0, n_times // 2, 0])),
            (np.arange(n_channels)[:0], slice(0, 5)),
            (slice(None), slice(5, 5)),
        ]
        for rows, columns in picks:
            found = variable.isel({channel: rows, times: columns}).values
            first = whole[rows]
            expected = first[..., columns]
            assert found.shape == expected.shape, f"{name}[{rows}, {columns}]: {found.shape}"
            assert np.array_equal(found, expected, equal_nan=True), f"{name}[{rows}, {columns}]"
        last = variable.isel({times: slice(-3, None)}).values
        assert last.shape == (n_channels, min(3, variable.shape[1])), f"the end of {name}"


def _check_pickling(ds: xr.Dataset) -> None:
    again = pickle.loads(pickle.dumps(ds))
    assert not again.variables[SIGNAL]._in_memory, "pickling loads the signal"
    assert len(pickle.dumps(ds)) < ds[SIGNAL].nbytes + (1 << 16), "the pickle holds samples"
    region: Region = {"channel": slice(0, 1), "time": slice(0, min(100, ds.sizes["time"]))}
    assert np.array_equal(read_region(again, region), read_region(ds, region), equal_nan=True)
    assert list(again.coords) == list(ds.coords)


def _check_types(path: str, kwargs: dict[str, Any]) -> None:
    part = {"time": slice(0, 1000)}
    values = {}
    for dtype in ("float32", "float64"):
        ds = _open(path, {**kwargs, "dtype": dtype})
        values[dtype] = ds.variables[SIGNAL].isel(part).values
        assert ds[SIGNAL].dtype == values[dtype].dtype == dtype, f"dtype is not {dtype}"
    scale = np.abs(values["float64"]).max() or 1.0
    assert np.abs(values["float32"] - values["float64"]).max() <= 1e-6 * scale, "float32 is off"


def _check_memory(ds: xr.Dataset) -> None:
    n_channels, n_times = ds.sizes["channel"], ds.sizes["time"]
    encoding = ds[SIGNAL].encoding
    for channels in (slice(0, 1), slice(0, n_channels)):
        region: Region = {"channel": channels, "time": slice(0, n_times)}
        size = (channels.stop - channels.start) * n_times * ds[SIGNAL].dtype.itemsize
        if size > 256 * 1024 * 1024:
            continue
        tracemalloc.start()
        try:
            read_region(ds, region)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        declared = size * (1 + encoding["read_scratch"]) + encoding.get("read_scratch_bytes", 0)
        assert peak <= declared + SLACK_BYTES, (
            f"reading {size} bytes took {peak} bytes, declared are {declared:.0f}"
        )


def _check_truncated(path: Path, kwargs: dict[str, Any]) -> None:
    parts = _parts(path)
    if not parts or sum(part.stat().st_size for part in parts) > 256 * 1024 * 1024:
        return
    largest = max(parts, key=lambda part: part.stat().st_size)
    for fraction in (0.6, 0.001):
        with tempfile.TemporaryDirectory() as folder:
            for part in parts:
                shutil.copyfile(part, Path(folder, part.name))
            keep = int(largest.stat().st_size * fraction)
            os.truncate(Path(folder, largest.name), keep)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    ds = _open(str(Path(folder, path.name)), kwargs)
                except (OSError, ValueError) as error:
                    message = str(error)
                    assert "\n" not in message, f"more than one sentence: {message}"
                    assert folder in message, f"does not name the file: {message}"
                    continue
                read_region(ds, {"channel": slice(0, 1), "time": slice(0, ds.sizes["time"])})


def _parts(path: Path) -> list[Path]:
    """The file and those that belong to it: same folder, same stem."""
    if path.is_dir():
        return []
    return [part for part in path.parent.iterdir() if part.is_file() and part.stem == path.stem]
