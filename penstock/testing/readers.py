"""One conformance test for all readers."""

from __future__ import annotations

import math
import os
import pickle
import shutil
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr

from penstock.attributes import as_plain_attributes
from penstock.dataset import SIGNAL, Region, read_region, sampled_index
from penstock.memory.buffers import release_memory
from penstock.reading import is_told, reading_of

SLACK_BYTES = 256 * 1024
"""Memory that a read may use beside what it declares: interpreter, libraries, their caches."""
REGION_VALUES = 1 << 22
"""Values of a larger dataset that regions are compared with."""
LARGEST_BYTES = 256 * 1024 * 1024
"""Datasets and files above this are neither read whole nor copied."""


def check_reader(path: str | os.PathLike[str], **kwargs: Any) -> xr.Dataset:
    """Check that a reader keeps the contract of `penstock.open_dataset` on one of its files.

    Opening is quick and reads no values; ``attrs["source"]`` is the file; dimension values are
    float64 (or text), with their units as text. Any region, taken by slices and integer arrays
    along every dim, equals the same part of the whole and is a block of its own; no file stays
    open in between; the dataset can be pickled. The type is what was asked for, or the complex
    type of that precision; memory of a read stays within what the reader declares
    (`penstock.reading.Reading`). A truncated copy gives one clear sentence, or a shorter dataset
    with the same values; where a file can only be read front to back (``Reading.sequential``) the
    sentence may come when the values are read.

    Recordings, whose ``signal`` has a dim ``channel`` or channel variables, have the dims
    ``(channel, time)``, a virtual time coordinate from 0 on, a unit, and the variables
    ``channel_type``, ``channel_unit`` and ``bad``; so have their further rates. Other datasets
    have any dims.

    Parameters
    ----------
    path : path-like
        A file whose dataset has two values or more along a dim. Files beside it with the same stem
        belong to it. Memory and opening are tested in earnest with a megabyte or more.
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
    >>> import os, tempfile
    >>> import numpy as np
    >>> from penstock.testing import check_reader
    >>> path = os.path.join(tempfile.mkdtemp(), "spectra.npy")
    >>> np.save(path, np.ones((8, 9, 119)))
    >>> dict(check_reader(path, dims=("y", "x", "frequency")).sizes)
    {'y': 8, 'x': 9, 'frequency': 119}
    """
    path = os.path.abspath(os.fspath(path))
    ds = _check_opening(path, kwargs)
    _check_contents(ds, path)
    part = _leading(ds.variables[SIGNAL], REGION_VALUES)
    values = {}
    for dtype in ("float32", "float64"):
        typed = _open(path, {**kwargs, "dtype": dtype})
        _check_type(typed, dtype)
        _check_memory(typed)  # before other reads: the first one may keep something
        for name in _signals(typed):
            _check_regions(typed, name)
        values[dtype] = read_region(typed, part)
    _check_precision(values["float32"], values["float64"])
    _check_pickling(ds)
    _check_closed(path)
    _check_truncated(Path(path), kwargs, ds)
    return ds


def _open(path: str, kwargs: dict[str, Any]) -> xr.Dataset:
    from penstock.io import open_dataset

    return open_dataset(path, **kwargs)


def _signals(ds: xr.Dataset) -> list[str]:
    return [str(name) for name in ds.data_vars if str(name).startswith(SIGNAL)]


def _whole(variable: xr.Variable) -> Region:
    return {str(dim): slice(0, size) for dim, size in variable.sizes.items()}


def _leading(variable: xr.Variable, n_values: int) -> Region:
    """As much of the beginning as has `n_values`: the longest dims are cut first."""
    sizes = {str(dim): size for dim, size in variable.sizes.items()}
    while math.prod(sizes.values()) > n_values:
        longest = max(sizes, key=lambda dim: sizes[dim])
        others = math.prod(sizes.values()) // sizes[longest]
        sizes[longest] = max(1, n_values // others)
    return {dim: slice(0, size) for dim, size in sizes.items()}


# ---------------------------------------------------------------------- opening


def _check_opening(path: str, kwargs: dict[str, Any]) -> xr.Dataset:
    _open(path, kwargs)  # imports and caches are not what is measured
    process = psutil.Process()
    before, start = process.io_counters().read_chars, time.perf_counter()
    ds = _open(path, kwargs)
    seconds = time.perf_counter() - start
    read = process.io_counters().read_chars - before
    assert seconds < 5, f"opening {path} took {seconds:.1f} s: it must not read values"
    size = sum(part.stat().st_size for part in _parts(Path(path)))
    assert read < 0.25 * size + SLACK_BYTES, f"opening {path} read {read} of {size} bytes"
    for name in _signals(ds):
        assert not ds.variables[name]._in_memory, f"opening must not load {name}"
    return ds


def _check_contents(ds: xr.Dataset, path: str) -> None:
    for name in _signals(ds):
        suffix = name.removeprefix(SIGNAL)
        if f"channel{suffix}" in ds[name].dims or f"channel_type{suffix}" in ds.variables:
            _check_recording(ds, name, suffix)
        for dim in ds[name].dims:
            _check_dimension_values(ds, str(dim))
        assert is_told(ds[name]), (
            f"{name} does not say what reading takes: give lazy_variable(reading=)"
        )
    assert os.path.isabs(ds.attrs["source"]), "attrs['source'] is not absolute"
    assert os.path.samefile(ds.attrs["source"], path), "attrs['source'] is another file"
    for attrs in (ds.attrs, *(variable.attrs for variable in ds.variables.values())):
        for key, value in attrs.items():
            plain = as_plain_attributes({key: value})
            assert plain.get(key) is value, f"attrs[{key!r}] is nested: NetCDF cannot hold it"
    if "event_onset" in ds.variables:
        assert (np.diff(ds["event_onset"].values) >= 0).all(), "events are not in order"


def _check_recording(ds: xr.Dataset, name: str, suffix: str) -> None:
    channel, times = f"channel{suffix}", f"time{suffix}"
    assert ds[name].dims == (channel, times), f"dims of {name} are {ds[name].dims}"
    assert ds[name].attrs.get("units") is not None, f"{name} has no units"
    assert sampled_index(ds, times) is not None, f"{times} is not virtual"
    assert float(ds[times][0]) == 0.0, f"{times} does not begin at 0"
    names = [str(value) for value in ds[channel].values]
    assert len(set(names)) == len(names), f"channel names repeat: {names}"
    assert all(names), "a channel has no name"
    for coordinate, kind in (("channel_type", "U"), ("channel_unit", "U"), ("bad", "b")):
        values = ds[coordinate + suffix]
        assert values.dims == (channel,), f"{coordinate}{suffix} is not one value a channel"
        assert values.dtype.kind == kind, f"{coordinate}{suffix} has dtype {values.dtype}"


def _check_dimension_values(ds: xr.Dataset, dim: str) -> None:
    for name, values in ds.coords.items():
        # what has a unit is a quantity: the position of points along another dim, for one
        if dim in values.dims and (name == dim or "units" in values.attrs):
            found = values.dtype
            assert found == np.float64 or found.kind in "UT", f"{name} has dtype {found}"
            units = values.attrs.get("units", "")
            assert isinstance(units, str), f"units of {name} are no text: {units!r}"


# ---------------------------------------------------------------------- reading


def _check_regions(ds: xr.Dataset, name: str) -> None:
    rng = np.random.default_rng(0)
    variable = ds.variables[name]
    dims = [str(dim) for dim in variable.dims]
    part = _leading(variable, REGION_VALUES)
    whole = read_region(ds, part, name)
    compared = variable if whole.shape == variable.shape else variable.isel(part)
    assert whole.dtype == variable.dtype, f"{name} is read as {whole.dtype}"
    for picks in _regions(whole.shape, rng):
        found = compared.isel(dict(zip(dims, picks, strict=True))).values
        expected = whole
        # one axis at a time, from the last: positions drop their axis
        for axis in reversed(range(whole.ndim)):
            expected = expected[(slice(None),) * axis + (picks[axis],)]
        assert found.shape == expected.shape, f"{name}{picks} has the shape {found.shape}"
        assert np.array_equal(found, expected, equal_nan=True), f"{name}{picks} is not as in whole"
    for dim, size in variable.sizes.items():
        end: Region = {**_leading(variable, 1), str(dim): slice(max(0, size - 3), size)}
        picked: Region = {**end, str(dim): np.arange(size)[-3:]}
        found, expected = read_region(ds, end, name), read_region(ds, picked, name)
        assert found.size == min(3, size), f"the end of {name} along {dim}"
        assert np.array_equal(found, expected, equal_nan=True), f"the end of {name} along {dim}"
    small = _leading(variable, 1000)
    block = read_region(ds, small, name)
    kept = block.copy()
    block[...] = 0
    again = read_region(ds, small, name)
    assert np.array_equal(again, kept, equal_nan=True), f"a block of {name} is not its own memory"


def _regions(shape: tuple[int, ...], rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    """Every kind of indexer along every dim with the others whole, then any together."""
    kinds = [_indexers(size, rng) for size in shape]
    for axis, indexers in enumerate(kinds):
        for indexer in indexers:
            yield (*[slice(None)] * axis, indexer, *[slice(None)] * (len(shape) - axis - 1))
    for _ in range(24):
        yield tuple(indexers[rng.integers(len(indexers))] for indexers in kinds)


def _indexers(size: int, rng: np.random.Generator) -> list[Any]:
    return [
        slice(size // 3, size // 2 + 1),
        slice(1, max(1, size - 1)),
        slice(size // 2, size // 2),
        slice(size // 4, None, 7),
        slice(None, None, -3),
        size - 1,
        -size,
        np.arange(0, size, 2),
        np.delete(np.arange(size), size // 2),
        np.sort(rng.choice(size, min(size, 20), replace=False)),
        rng.integers(-size, size, 20),
        np.arange(0),
    ]


def _check_pickling(ds: xr.Dataset) -> None:
    stored = pickle.dumps(ds)
    again = pickle.loads(stored)
    coordinates = sum(ds.variables[name].nbytes for name in ds.coords if _is_held(ds, str(name)))
    limit = coordinates + SLACK_BYTES
    assert len(stored) < limit, f"the pickle of {len(stored)} bytes holds values"
    assert list(again.coords) == list(ds.coords), "pickling changes the coordinates"
    for name in _signals(ds):
        assert not again.variables[name]._in_memory, f"pickling loads {name}"
        region = _leading(ds.variables[name], 1000)
        found, expected = read_region(again, region, name), read_region(ds, region, name)
        assert np.array_equal(found, expected, equal_nan=True), f"pickling changes {name}"


def _is_held(ds: xr.Dataset, name: str) -> bool:
    """Whether a coordinate is an array, and not computed from a rate."""
    return sampled_index(ds, name) is None


def _check_type(ds: xr.Dataset, dtype: str) -> None:
    complex_type = np.result_type(dtype, np.complex64)
    for name in _signals(ds):
        found = ds[name].dtype
        assert found in (np.dtype(dtype), complex_type), f"{name} is {found}, not {dtype}"


def _check_precision(single: np.ndarray, double: np.ndarray) -> None:
    assert single.dtype.kind == double.dtype.kind, f"{single.dtype} and {double.dtype}"
    assert np.array_equal(np.isfinite(single), np.isfinite(double)), "float32 loses values"
    finite = np.isfinite(double)
    scale = np.abs(double[finite]).max(initial=0.0)
    off = np.abs(single[finite] - double[finite]).max(initial=0.0)
    assert off <= 1e-6 * scale, f"float32 is off by {off} of {scale}"


def _check_memory(ds: xr.Dataset) -> None:
    variable = ds.variables[SIGNAL]
    if variable.size * variable.dtype.itemsize > LARGEST_BYTES:
        return
    reading = reading_of(variable)
    fixed = reading.scratch_bytes + reading.resident_bytes
    whole = _whole(variable)
    picked: Region = {str(dim): _spread(size) for dim, size in variable.sizes.items()}
    regions = [_leading(variable, 1), whole, picked]
    for dim in whole:
        regions += [{**whole, dim: slice(0, 1)}, {**whole, dim: picked[dim]}]
    read_region(ds, {dim: np.arange(0) for dim in whole})  # xarray imports what it needs for these
    for region in regions:
        release_memory()  # what is kept for the next read counts as well
        tracemalloc.start()
        try:
            size = read_region(ds, region).nbytes
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        declared = size * (1 + reading.scratch) + fixed
        assert peak <= declared + SLACK_BYTES, (
            f"reading {size} bytes took {peak} bytes, declared are {declared:.0f}"
        )


def _spread(size: int) -> np.ndarray:
    """Positions over a dim, not next to each other, and so few that they take no memory."""
    return np.arange(0, size, max(2, size // 2048))


def _check_closed(path: str) -> None:
    parts = set(map(os.path.realpath, _parts(Path(path))))
    still = [file.path for file in psutil.Process().open_files() if file.path in parts]
    assert not still, f"{still[0]} stays open after reading"


# ---------------------------------------------------------------------- truncated files


def _check_truncated(path: Path, kwargs: dict[str, Any], whole: xr.Dataset) -> None:
    parts = _parts(path)
    if not parts or sum(part.stat().st_size for part in parts) > LARGEST_BYTES:
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
                    if reading_of(ds[SIGNAL]).sequential:
                        read_region(ds, _whole(ds.variables[SIGNAL]))
                except (OSError, ValueError) as error:
                    message = str(error)
                    assert "\n" not in message, f"more than one sentence: {message}"
                    assert folder in message, f"does not name the file: {message}"
                    continue
                _check_shorter(ds, whole)


def _check_shorter(ds: xr.Dataset, whole: xr.Dataset) -> None:
    region = _whole(ds.variables[SIGNAL])
    assert ds[SIGNAL].size < whole[SIGNAL].size, "a truncated file has as many values as the whole"
    found, expected = read_region(ds, region), read_region(whole, region)
    assert np.array_equal(found, expected, equal_nan=True), "a truncated file has other values"


def _parts(path: Path) -> list[Path]:
    """The file and those that belong to it: same folder, same stem."""
    if path.is_dir():
        return []
    return [part for part in path.parent.iterdir() if part.is_file() and part.stem == path.stem]
