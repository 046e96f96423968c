"""What a Penstock dataset is: names, dims, lazy arrays, the virtual sampling coordinate.

A dataset is an ordinary `xarray.Dataset` whose main variable is called ``signal``. Everything else
(events, channel types, bad channels, units, triggers) rides along as coordinates, small variables
and attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from penstock.attributes import as_plain_attributes
from penstock.damage import is_own_reader, readable, source_of
from penstock.reading import Reading, reading_of
from penstock.sampled import SampledIndex as SampledIndex
from penstock.sampled import sampled_coordinate
from penstock.sampled import sampled_index as sampled_index
from penstock.sampled import sampling_frequency as sampling_frequency
from penstock.voxels import AFFINE, voxel_positions

if TYPE_CHECKING:
    import pandas as pd

SIGNAL = "signal"
"""Name of the main variable of every dataset."""

Indexer: TypeAlias = "slice | np.ndarray"
"""A stretch of one dim (slice with step 1), or the positions picked along it (int array)."""

Region: TypeAlias = dict[str, Indexer]
"""What is read or written: one indexer for every dim."""


def indexer_length(indexer: Indexer) -> int:
    """How many positions an indexer takes."""
    return indexer.stop - indexer.start if isinstance(indexer, slice) else len(indexer)


class LazyArray(BackendArray):
    """A readable array for xarray: shape, dtype and a function that reads a region.

    Parameters
    ----------
    read : callable
        ``read(*indexers) -> numpy.ndarray``: one slice (step 1) or sorted integer array a dim;
        returns a new array of that region. Must be picklable for use on other processes.
    shape : tuple of int
    dtype : numpy dtype
    """

    def __init__(self, read: Callable[..., np.ndarray], shape: tuple[int, ...], dtype: Any):
        self.read = read
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        if isinstance(key, indexing.VectorizedIndexer):
            return indexing.explicit_indexing_adapter(
                key, self.shape, indexing.IndexingSupport.OUTER, self._getitem
            )
        # (the adapter takes backward slices apart, and raises where one of them is empty)
        return self._getitem(key.tuple)

    def _getitem(self, key: tuple[Any, ...]) -> np.ndarray:
        """Reduce every kind of indexer to increasing slices and positions, then read."""
        wanted: list[Indexer] = []
        after: list[Any] = []
        for indexer, size in zip(key, self.shape, strict=True):
            if isinstance(indexer, slice):
                positions = range(size)[indexer]
                if positions.step == 1:
                    wanted.append(slice(positions.start, max(positions.start, positions.stop)))
                    after.append(slice(None))
                elif not len(positions):
                    wanted.append(slice(0, 0))
                    after.append(slice(None))
                else:
                    low, high = sorted((positions[0], positions[-1]))
                    wanted.append(slice(low, high + 1))
                    after.append(slice(None, None, positions.step))
            elif np.ndim(indexer) == 0:
                position = int(indexer) % size if size else int(indexer)
                wanted.append(slice(position, position + 1))
                after.append(0)
            else:
                positions_array = np.asarray(indexer)
                if positions_array.dtype == bool:
                    positions_array = np.flatnonzero(positions_array)
                positions_array = np.where(
                    positions_array < 0, positions_array + size, positions_array
                )
                unique, inverse = np.unique(positions_array, return_inverse=True)
                if len(unique) and unique[-1] - unique[0] + 1 == len(unique):
                    wanted.append(slice(int(unique[0]), int(unique[-1]) + 1))
                else:
                    wanted.append(unique)
                in_order = len(unique) == len(inverse) and bool((np.diff(inverse) == 1).all())
                after.append(slice(None) if in_order else inverse)
        if is_own_reader(self.read):
            with readable(source_of(self.read), OSError):
                block = self.read(*wanted)
        else:
            block = self.read(*wanted)
        # one axis at a time, from the last: integer indexers drop their axis
        for axis in reversed(range(len(after))):
            if not (isinstance(after[axis], slice) and after[axis] == slice(None)):
                block = block[(slice(None),) * axis + (after[axis],)]
        return block


def lazy_variable(
    dims: tuple[str, ...],
    read: Callable[..., np.ndarray],
    shape: tuple[int, ...],
    dtype: Any,
    attrs: Mapping[str, Any] | None = None,
    encoding: Mapping[str, Any] | None = None,
    *,
    reading: Reading | None = None,
) -> xr.Variable:
    """An xarray variable whose regions are read on demand by `read` (see `LazyArray`).

    `reading` says what that takes, and which order suits the file: plans are made of it.
    """
    array = LazyArray(read, shape, dtype)
    if reading is not None:
        encoding = {**(encoding or {}), **reading.in_encoding()}
    return xr.Variable(dims, indexing.LazilyIndexedArray(array), attrs, encoding)


def blank_variable(
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: Any,
    attrs: Mapping[str, Any] | None = None,
) -> xr.Variable:
    """A variable of that shape without data, for outlines: reading it is an error."""
    return lazy_variable(dims, _no_data, shape, dtype, attrs)


def _no_data(*indexers: Indexer) -> np.ndarray:
    raise RuntimeError("an outline describes a dataset and holds no data: use the dataset itself")


def outline_of(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with its signal emptied of data, and without variables sampled like it.

    Other data variables along the signal's last dim (simulated truth, a quality index) cannot
    follow a processor that resamples or crops; coordinates and channel variables can.
    """
    signal = ds[SIGNAL]
    along = signal.dims[-1] if signal.ndim else None
    siblings = [
        name for name, other in ds.data_vars.items() if name != SIGNAL and along in other.dims
    ]
    blank = blank_variable(tuple(map(str, signal.dims)), signal.shape, signal.dtype, signal.attrs)
    return ds.drop_vars(siblings).assign({SIGNAL: blank})


def make_dataset(
    signal: Any,
    dims: tuple[str, ...] = ("channel", "time"),
    *,
    sampling_frequency: float | None = None,
    start_time: float = 0.0,
    units: str | None = None,
    coords: Mapping[str, Any] | None = None,
    events: pd.DataFrame | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Build a Penstock dataset around an array.

    Parameters
    ----------
    signal : array_like or xarray.Variable
        NumPy, Dask or lazily read array (`lazy_variable`).
    dims : tuple of str, default ("channel", "time")
        Name of every dim of `signal`.
    sampling_frequency : float, optional
        Samples per second along ``time`` [Hz]. Gives the dataset its virtual time coordinate.
    start_time : float, default 0
        Time of the first sample [s].
    units : str, optional
        Physical unit of the values, e.g. ``"uV"``.
    coords : mapping, optional
        Further coordinates, as for `xarray.Dataset`.
    events : pandas.DataFrame, optional
        Columns ``onset`` [s], ``duration`` [s] and ``label``.
    attrs : mapping, optional
        Attributes of the dataset.

    Returns
    -------
    xarray.Dataset
        With the main variable ``signal``.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(np.zeros((2, 1000), "float32"), sampling_frequency=100.0, units="uV")
    >>> ds.signal.sel(time=slice(1, 2)).shape
    (2, 101)
    """
    variable = signal if isinstance(signal, xr.Variable) else xr.Variable(dims, signal)
    if units is not None:
        variable.attrs["units"] = units
    ds = xr.Dataset({SIGNAL: variable}, attrs=as_plain_attributes(attrs or {}))
    if sampling_frequency is not None:
        ds = ds.assign_coords(
            sampled_coordinate("time", ds.sizes["time"], sampling_frequency, start_time)
        )
    if coords:
        ds = ds.assign_coords(dict(coords))
    if AFFINE in ds.coords:
        positions = voxel_positions(ds.sizes)
        ds = ds.assign_coords({k: v for k, v in positions.items() if k not in ds.coords})
    if events is not None:
        ds = with_events(ds, events)
    return check_dataset(ds)


def with_events(ds: xr.Dataset, events: pd.DataFrame) -> xr.Dataset:
    """The dataset with its events replaced by the rows of a table (onset, duration, label)."""
    ds = ds.drop_dims("event", errors="ignore")
    return ds.assign_coords(
        event_onset=("event", np.asarray(events["onset"], dtype=np.float64), {"units": "s"}),
        event_duration=("event", np.asarray(events["duration"], dtype=np.float64), {"units": "s"}),
        event_label=("event", np.asarray(events["label"], dtype=object).astype(str)),
    )


def events_table(ds: xr.Dataset) -> pd.DataFrame:
    """Events of a dataset as a table: ``onset`` [s], ``duration`` [s], ``label``."""
    import pandas as pd

    if "event_onset" not in ds.variables:
        return pd.DataFrame(
            {
                "onset": np.zeros(0),
                "duration": np.zeros(0),
                "label": pd.Series(np.zeros(0, dtype=object), dtype=str),
            }
        )
    return pd.DataFrame(
        {
            "onset": ds["event_onset"].values,
            "duration": ds["event_duration"].values,
            "label": ds["event_label"].values.astype(str),
        }
    )


def check_dataset(ds: Any) -> xr.Dataset:
    """Return `ds` if it is a Penstock dataset.

    Raises
    ------
    TypeError, ValueError
        With what is missing, and how to supply it.
    """
    if not isinstance(ds, xr.Dataset):
        raise TypeError(
            f"expected an xarray.Dataset, got {type(ds).__name__}: open a file with "
            "penstock.open_dataset(path) or wrap an array with penstock.make_dataset(array, dims)"
        )
    if SIGNAL not in ds.data_vars:
        found = ", ".join(map(str, ds.data_vars)) or "none"
        raise ValueError(
            f"the dataset has no variable {SIGNAL!r} (found: {found}): "
            f"rename yours with ds.rename(name={SIGNAL!r})"
        )
    return ds


def reads_fresh(variable: xr.Variable) -> bool:
    """Whether reading a region gives a new array, and not a view of data kept in memory."""
    return isinstance(variable._data, indexing.LazilyIndexedArray)


def floating_type(dtype: np.dtype) -> np.dtype:
    """float32 or float64, the smaller that holds every value of a type of numbers exactly.

    (Of 64 bits, those beyond 2**53 are rounded.)
    """
    if dtype.kind in "biu":
        return np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)
    return dtype


@dataclass(frozen=True, eq=False)
class _Floats:
    """Reads regions of a variable in another type."""

    variable: xr.Variable
    dtype: np.dtype

    def __call__(self, *indexers: Indexer) -> np.ndarray:
        part = self.variable.isel(dict(zip(self.variable.dims, indexers, strict=True)))
        return part.values.astype(self.dtype)


def in_floats(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with whole numbers and truth values of its signal as floats, read lazily."""
    variable = ds.variables[SIGNAL]
    dtype = floating_type(variable.dtype)
    if dtype == variable.dtype:
        return ds
    if variable.chunks is not None:
        return ds.assign({SIGNAL: variable.astype(dtype)})
    reading = reading_of(variable)
    ratio = variable.dtype.itemsize / dtype.itemsize  # (of what is read to what becomes of it)
    floats = lazy_variable(
        tuple(map(str, variable.dims)),
        _Floats(variable, dtype),
        variable.shape,
        dtype,
        variable.attrs,
        variable.encoding,
        reading=replace(reading, scratch=(1 + reading.scratch) * ratio),
    )
    return ds.assign({SIGNAL: floats})


def read_region(ds: xr.Dataset, region: Region, name: str = SIGNAL) -> np.ndarray:
    """Values of a region of a variable, as NumPy, read in this thread.

    A dask-backed variable is computed in this thread as well: a block never starts further work
    on a scheduler.
    """
    variable = ds.variables[name]
    whole = all(
        isinstance(indexer, slice) and indexer == slice(0, variable.sizes[dim])
        for dim, indexer in region.items()
    )
    part = variable if whole else variable.isel(region)
    if variable.chunks is not None:
        return np.asarray(part.data.compute(scheduler="synchronous"))
    return part.values
