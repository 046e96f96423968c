"""Regular coordinates that are computed and never held: times of samples, of volumes.

xarray treats a `SampledIndex` as any index of pandas, so that every operation on a dataset gives
what it would give with the same numbers written out: it *is* a `pandas.Index` of float64, as
`pandas.RangeIndex` is one of int64. What keeps the samples regular (slices, steps, joining
neighbouring stretches) stays computed; everything else falls back to plain numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from dask.base import normalize_token
from xarray.indexes import PandasIndex

PIECE = 1 << 20
"""Positions that are looked at at once where a coordinate is checked from end to end."""


class SampledIndex(pd.Index):
    """Regular samples as a pandas index: ``origin + (first + step * i) / sampling_frequency``.

    Dividing by the frequency, instead of adding up a rounded step, keeps the values exact at any
    position (160 Hz has no exact step in binary), and counting from one origin keeps those of a
    stretch the same numbers that they are in the whole.

    Parameters
    ----------
    size : int
        Number of samples.
    sampling_frequency : float
        Samples per unit of the coordinate before `step` (Hz for time).
    origin : float, default 0
        Value of position 0.
    first : int, default 0
        Position of the first sample.
    step : int, default 1
        Positions from one sample to the next.
    name : str, optional

    Notes
    -----
    Like `pandas.RangeIndex` it makes its values where somebody asks for all of them, and unlike it
    never keeps them: a day at 1 kHz is 691 MB.

    Examples
    --------
    >>> from penstock.sampled import SampledIndex
    >>> index = SampledIndex(1000, 160.0)
    >>> index[480:483].values.tolist()
    [3.0, 3.00625, 3.0125]
    """

    _name: Any
    _reset_identity: Any
    _cache: dict[str, Any]
    _origin: float
    _rate: float
    _first: int
    _step: int
    _size: int

    def __new__(
        cls,
        size: int,
        sampling_frequency: float,
        origin: float = 0.0,
        first: int = 0,
        step: int = 1,
        name: Any = None,
    ) -> SampledIndex:
        index: SampledIndex = object.__new__(cls)
        index._origin, index._rate = float(origin), float(sampling_frequency)
        index._first, index._step, index._size = int(first), int(step), int(size)
        index._name = name
        index._cache = {}
        index._reset_identity()
        return index

    # ------------------------------------------------------------------ what it is

    @property
    def frequency(self) -> float:
        """Samples per unit of the coordinate (per second for time)."""
        return self._rate / self._step

    @property
    def start(self) -> float:
        """Value of the first sample, were there one."""
        return float(self._at(0))

    @property
    def raster(self) -> dict[str, Any]:
        """What makes the same index again: origin, samples per unit, first position, step, size."""
        return {
            "start": self._origin,
            "frequency": self._rate,
            "first": self._first,
            "step": self._step,
            "size": self._size,
        }

    def _at(self, positions: Any) -> Any:
        return self._origin + (self._first + self._step * positions) / self._rate

    @property
    def _data(self) -> np.ndarray:  # type: ignore[override]
        values = np.arange(
            self._first, self._first + self._step * self._size, self._step, dtype=np.float64
        )
        values /= self._rate
        values += self._origin
        return values

    def _with(self, first: int, step: int, size: int) -> SampledIndex:
        return SampledIndex(size, self._rate, self._origin, first, step, self._name)

    def __reduce__(self) -> tuple[Any, ...]:
        about = (self._size, self._rate, self._origin, self._first, self._step, self._name)
        return SampledIndex, about

    def __len__(self) -> int:
        return self._size

    @property
    def size(self) -> int:  # type: ignore[override]
        """Number of samples."""
        return self._size

    @property
    def shape(self) -> tuple[int]:  # type: ignore[override]
        """``(size,)``."""
        return (self._size,)

    @property
    def dtype(self) -> np.dtype:  # type: ignore[override]
        """float64."""
        return np.dtype(np.float64)

    @property
    def inferred_type(self) -> str:
        """As of every index of floats."""
        return "floating"

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        """Bytes held: those of five numbers."""
        return 40

    def memory_usage(self, deep: bool = False) -> int:
        """Bytes held: those of five numbers."""
        return self.nbytes

    @property
    def hasnans(self) -> bool:  # type: ignore[override]
        """No sample is missing."""
        return False

    @property
    def is_monotonic_increasing(self) -> bool:  # type: ignore[override]
        """Always: samples follow one another."""
        return True

    @property
    def is_monotonic_decreasing(self) -> bool:  # type: ignore[override]
        """Only where there is no second value."""
        return self._size < 2 or bool(self._at(0) == self._at(self._size - 1))

    @property
    def is_unique(self) -> bool:  # type: ignore[override]
        """Whether float64 tells all samples apart, as it does unless they are very far from 0."""
        if self._size < 2:
            return True
        largest = max(abs(self._origin), abs(self._at(0)), abs(self._at(self._size - 1)))
        if self._step / self._rate > 4 * np.spacing(largest):
            return True
        return bool((np.diff(self._data) > 0).all())

    def __repr__(self) -> str:
        return (
            f"SampledIndex(start={self.start:g}, frequency={self.frequency:g}, "
            f"size={self._size}, name={self._name!r})"
        )

    # ------------------------------------------------------------------ what pandas makes of it

    @classmethod
    def _simple_new(cls, values: Any, name: Any = None, refs: Any = None) -> pd.Index:  # type: ignore[override]
        return pd.Index._simple_new(values, name, refs)  # type: ignore[attr-defined]

    @property
    def _constructor(self) -> type[pd.Index]:  # type: ignore[override]
        return pd.Index

    def _view(self) -> SampledIndex:
        return self._with(self._first, self._step, self._size)

    def copy(self, name: Any = None, deep: bool = False) -> SampledIndex:  # type: ignore[override]
        """Another index of the same samples."""
        index = self._view()
        return index if name is None else index.rename(name)  # type: ignore[return-value]

    def _getitem_slice(self, slobj: slice) -> pd.Index:  # type: ignore[override]
        positions = range(self._size)[slobj]
        if positions.step < 0:
            return pd.Index(self._at(np.asarray(positions)), name=self._name)
        step = positions.step if len(positions) > 1 else 1
        return self._with(
            self._first + self._step * positions.start, self._step * step, len(positions)
        )

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return self._getitem_slice(key)
        positions = np.asarray(key)
        if positions.dtype == bool or positions.ndim > 1 or positions.dtype.kind not in "iu":
            return pd.Index(self._data, name=self._name)[key]
        wrong = (positions < -self._size) | (positions >= self._size)
        if wrong.any():
            raise IndexError(
                f"index {np.atleast_1d(positions)[np.atleast_1d(wrong)][0]} is out of bounds for "
                f"axis 0 with size {self._size}"
            )
        values = self._at(np.where(positions < 0, positions + self._size, positions))
        return pd.Index(values, name=self._name) if positions.ndim else np.float64(values)

    def take(self, indices: Any, *args: Any, **kwargs: Any) -> pd.Index:  # type: ignore[override]
        """The samples at some positions, as plain numbers."""
        if args or kwargs:
            return pd.Index(self._data, name=self._name).take(indices, *args, **kwargs)
        return self[np.asarray(indices, dtype=np.intp)]  # type: ignore[no-any-return]

    def _concat(self, to_concat: list[pd.Index], name: Any) -> pd.Index:
        joined = self._with(self._first, self._step, 0)
        for part in to_concat:
            offset = joined._offset_of(part)
            if joined._size and (offset is None or offset != joined._size):
                break
            if not joined._size and isinstance(part, SampledIndex):
                joined = part
            elif len(part):
                if offset is None:
                    break
                joined = joined._with(joined._first, joined._step, joined._size + len(part))
        else:
            return joined.rename(name)
        return pd.Index(np.concatenate([np.asarray(part) for part in to_concat]), name=name)

    def _offset_of(self, other: pd.Index) -> int | None:
        """Position here at which another index of the same raster begins; None: of another one."""
        if not isinstance(other, SampledIndex):
            return None
        if (self._origin, self._rate, self._step) != (other._origin, other._rate, other._step):
            return None
        offset, between = divmod(other._first - self._first, self._step)
        return None if between else offset

    def equals(self, other: Any) -> bool:
        """Whether both hold the same values."""
        if isinstance(other, SampledIndex) and len(other) == self._size:
            if not self._size or self._offset_of(other) == 0:
                return True
        elif isinstance(other, SampledIndex) or len(other) != self._size:
            return False
        return bool(super().equals(other))

    def _intersection(self, other: pd.Index, sort: Any = False) -> Any:
        offset = self._offset_of(other)
        if offset is None:
            return super()._intersection(other, sort=sort)  # type: ignore[misc]
        low, high = max(0, offset), min(self._size, offset + len(other))
        return self[low : max(low, high)]

    def _union(self, other: pd.Index, sort: Any) -> Any:
        offset = self._offset_of(other)
        if offset is None or not self._size or not len(other) or not self.is_unique:
            return super()._union(other, sort)  # type: ignore[misc]
        if offset > self._size or offset + len(other) < 0:  # (samples lie between them)
            return super()._union(other, sort)  # type: ignore[misc]
        low, high = min(0, offset), max(self._size, offset + len(other))
        return self._with(self._first + self._step * low, self._step, high - low)

    # ------------------------------------------------------------------ where a value lies

    def searchsorted(  # type: ignore[override]
        self, value: Any, side: Literal["left", "right"] = "left", sorter: Any = None
    ) -> Any:
        """Position before which (``"left"``) or behind which a value would have to be put."""
        values = np.asarray(value, dtype=np.float64)
        positions = np.where(
            np.isnan(values), self._size, (values - self._origin) * self._rate - self._first
        )
        found = np.clip(np.ceil(positions / self._step), 0, self._size).astype(np.intp)
        # what rounding did to the estimate is set right by comparing with the samples themselves
        before = np.less if side == "left" else np.less_equal
        while True:
            up = (found < self._size) & before(self._at(found), values)
            down = (found > 0) & ~before(self._at(found - 1), values) & ~np.isnan(values)
            if not (up.any() or down.any()):
                return found if found.ndim else np.intp(found)
            found = found + up - down

    def get_loc(self, key: Any) -> int:  # type: ignore[override]
        """Position of a value; KeyError where no sample lies there."""
        number = isinstance(key, int | float | np.integer | np.floating) and key is not True
        if not number or isinstance(key, bool) or not self.is_unique:
            return pd.Index(self._data, name=self._name).get_loc(key)  # type: ignore[return-value]
        found = int(self.searchsorted(key))
        if found == self._size or self._at(found) != key:
            raise KeyError(key)
        return found

    def __contains__(self, key: Any) -> bool:
        try:
            self.get_loc(key)
        except (KeyError, TypeError, ValueError):
            return False
        return True

    def _searchsorted_monotonic(self, label: Any, side: Literal["left", "right"] = "left") -> Any:
        return self.searchsorted(label, side=side)

    def _get_indexer(  # type: ignore[override]
        self, target: pd.Index, method: Any = None, limit: Any = None, tolerance: Any = None
    ) -> np.ndarray:
        if limit is not None or target.dtype.kind not in "iuf" or not self._size:
            plain = pd.Index(self._data, name=self._name)
            return plain._get_indexer(target, method, limit, tolerance)  # type: ignore[attr-defined, no-any-return]
        values = np.asarray(target, dtype=np.float64)
        left = self.searchsorted(values, side="right") - 1  # the last sample that is not later
        right = self.searchsorted(values, side="left")  # the first one that is not earlier
        right = np.where(right == self._size, -1, right)
        if method in ("pad", "ffill"):
            found = left
        elif method in ("backfill", "bfill"):
            found = right
        elif method == "nearest":
            # (of two that are as near pandas takes the larger one)
            nearer = np.abs(values - self._at(left)) < np.abs(self._at(right) - values)
            found = np.where((left >= 0) & (nearer | (right < 0)), left, right)
        else:
            found = np.where((right >= 0) & (self._at(right) == values), right, -1)
        found = np.where(np.isnan(values), -1, found)
        if tolerance is not None:
            far = ~(np.abs(values - self._at(found)) <= np.asarray(tolerance))
            found = np.where(far, -1, found)
        return found.astype(np.intp)


@normalize_token.register(SampledIndex)
def _token(index: SampledIndex) -> tuple[Any, ...]:
    return index.__reduce__()[1]


def sampled_coordinate(
    dim: str,
    size: int,
    frequency: float,
    start: float = 0.0,
    attrs: Mapping[str, Any] | None = None,
    *,
    first: int = 0,
    step: int = 1,
) -> xr.Coordinates:
    """Virtual coordinate of `size` samples at `frequency` (samples per unit, Hz for time).

    Parameters
    ----------
    dim : str
        Dim of the samples and name of the coordinate.
    size : int
        Number of samples.
    frequency : float
        Samples per unit.
    start : float, default 0
        Value of position 0.
    attrs : mapping, optional
        Attributes of the coordinate; ``{"units": "s"}`` if not given.
    first, step : int, default 0 and 1
        Which of the positions are there: `first`, ``first + step``, ...

    Returns
    -------
    xarray.Coordinates

    Raises
    ------
    ValueError
        If `frequency` is not positive.
    """
    if not frequency > 0:
        raise ValueError(f"sampling frequency of {dim!r} must be positive, got {frequency!r}")
    values = SampledIndex(size, frequency, start, first, step, dim)
    coordinates = xr.Coordinates.from_xindex(PandasIndex(values, dim))
    coordinates[dim].attrs.update(attrs if attrs is not None else {"units": "s"})
    return coordinates


def sampled_index(ds: xr.Dataset | xr.DataArray, dim: str = "time") -> SampledIndex | None:
    """The computed coordinate of a dim, or None where it holds plain numbers or has none."""
    index = getattr(ds.xindexes.get(dim), "index", None)
    return index if isinstance(index, SampledIndex) else None


def sampling_frequency(ds: xr.Dataset | xr.DataArray, dim: str = "time") -> float:
    """Samples per unit of `dim` (Hz for time).

    Raises
    ------
    ValueError
        If `dim` has no regular coordinate.
    """
    index = sampled_index(ds, dim)
    if index is not None:
        return index.frequency
    if dim in ds.coords and ds[dim].ndim == 1 and ds.sizes[dim] > 1 and ds[dim].dtype.kind in "iuf":
        values = ds[dim].values
        if _is_regular(values):
            return (len(values) - 1) / float(values[-1] - values[0])
    raise ValueError(
        f"dim {dim!r} has no regular sampling: give it one with "
        f"penstock.make_dataset(..., sampling_frequency=...)"
    )


def _is_regular(values: np.ndarray) -> bool:
    """Whether values rise in equal steps, as far as their own precision tells."""
    step = (float(values[-1]) - float(values[0])) / (len(values) - 1)
    if not step > 0:  # (NaN as well)
        return False
    precision = np.spacing(np.abs(values[[0, -1]]).max()) if values.dtype.kind == "f" else 0
    slack = max(1e-6 * step, 4 * float(precision))
    for start in range(0, len(values) - 1, PIECE):
        steps = np.diff(values[start : start + PIECE + 1].astype(np.float64))
        if not (np.abs(steps - step) <= slack).all():
            return False
    return True


def regular_samples(
    read: Callable[[slice], np.ndarray], size: int, dtype: np.dtype
) -> tuple[float, float] | None:
    """Frequency and start of a coordinate that is regular to its own precision; None for others.

    Parameters
    ----------
    read : callable
        Gives the values of a slice of positions. They are read in pieces of 8 MiB.
    size : int
        Number of samples.
    dtype : numpy.dtype
        Type of the values; only those of floats are regular samples.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.sampled import regular_samples
    >>> times = 2 + np.arange(1000) / 160
    >>> regular_samples(times.__getitem__, 1000, times.dtype)
    (160.0, 2.0)
    """
    if np.dtype(dtype).kind != "f" or size < 3:
        return None
    ends = [float(read(slice(at, at + 1))[0]) for at in (0, size - 1)]
    length = ends[1] - ends[0]
    if not (np.isfinite(length) and length > 0):
        return None
    slack = 4 * float(np.spacing(np.abs(np.asarray(ends, dtype)).max()))
    rate = (size - 1) / length
    if slack * rate > 0.01:
        return None  # (too coarse to tell)
    for digits in (4, 8, 12, 17):
        frequency = float(f"{rate:.{digits}g}")
        pieces = range(0, size, PIECE)
        if all(
            _is_near(read, at, min(size, at + PIECE), frequency, ends[0], slack) for at in pieces
        ):
            return frequency, ends[0]
    return None


def _is_near(
    read: Callable[[slice], np.ndarray],
    start: int,
    stop: int,
    frequency: float,
    origin: float,
    slack: float,
) -> bool:
    off = np.arange(start, stop) / frequency
    off += origin
    off -= read(slice(start, stop))
    return bool(np.abs(off, out=off).max() <= slack)  # (NaN is not near)


LONG = 1 << 17
"""Values from which on a coordinate is worth being computed instead of held."""


def with_virtual_time(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with a long regular time coordinate computed, where it is held as numbers."""
    if "time" not in ds.coords or ds.sizes.get("time", 0) < LONG:
        return ds
    held = ds.variables["time"]
    if sampled_index(ds) is not None or held.dims != ("time",):
        return ds
    values = held.values
    found = regular_samples(values.__getitem__, len(values), values.dtype)
    if found is None:
        return ds
    return ds.assign_coords(sampled_coordinate("time", len(values), *found, held.attrs))
