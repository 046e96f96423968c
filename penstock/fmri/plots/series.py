"""Time series of regions as plots need them: regions by time, read by tiles of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, check_dataset, sampling_frequency
from penstock.reading import reading_of

TILE_BYTES = 16 << 20
"""What is read at once."""


@dataclass(frozen=True)
class RegionSeries:
    """Signals (region, time) that are read when they are asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.plots.series import RegionSeries
    >>> series = RegionSeries.of(np.zeros((200, 3)), t_r=2.0)
    >>> series.n_regions, series.n_times, float(series.times[1])
    (3, 200, 2.0)
    """

    variable: xr.Variable
    """(region, time), lazy or in memory."""
    dim: str
    """What the regions' dim is called."""
    names: tuple[str, ...]
    times: np.ndarray
    """Start of each volume [s], or its number."""
    t_r: float | None
    """Time from volume to volume [s], where it is known and the same everywhere."""
    has_times: bool
    """Whether the times are those of a coordinate."""

    @classmethod
    def of(cls, signals: Any, *, t_r: float | None = None, name: str = "signals") -> RegionSeries:
        """The series of a dataset or array with dims region and time, or an array (time, region).

        Raises
        ------
        TypeError, ValueError
            If the values are no such series.
        """
        if t_r is not None and not t_r > 0:
            raise ValueError(f"t_r must be positive [s], got {t_r!r}")
        if isinstance(signals, xr.Dataset):
            signals = check_dataset(signals)[SIGNAL]
        if not isinstance(signals, xr.DataArray):
            signals = _from_array(signals, name)
        dims = tuple(map(str, signals.dims))
        if len(dims) != 2 or "time" not in dims:
            raise ValueError(
                f"{name} must have the dims time and region, got ({', '.join(dims)}): select one "
                "entry of every other dim, or average over it"
            )
        if 0 in signals.shape or signals.dtype.kind not in "biuf":
            raise ValueError(f"{name} must be real numbers and not empty, got {signals.dtype}")
        dim = dims[1 - dims.index("time")]
        if t_r is None:
            t_r = _repetition_time(signals)
        times = np.arange(signals.sizes["time"], dtype=np.float64)
        has_times = "time" in signals.coords and signals["time"].dtype.kind in "iuf"
        if has_times:
            times = signals["time"].values.astype(np.float64)
        elif t_r is not None:
            times *= t_r
        names = tuple(map(str, signals[dim].values))
        variable = signals.variable.transpose(dim, "time")
        return cls(variable, dim, names, times, t_r, has_times)

    @property
    def n_regions(self) -> int:
        """How many regions."""
        return int(self.variable.shape[0])

    @property
    def n_times(self) -> int:
        """How many volumes."""
        return int(self.variable.shape[1])

    def read(self, regions: Any = slice(None), times: Any = slice(None)) -> np.ndarray:
        """Values of some regions and volumes, float64, always a copy."""
        part = self.variable.isel({self.dim: regions, "time": times})
        return np.array(part.values, dtype=np.float64)

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Stretches of regions and of time that cover all, along the chunks of the source."""
        rows, columns = self._tile_shape()
        for row in range(0, self.n_regions, rows):
            for column in range(0, self.n_times, columns):
                yield (
                    slice(row, min(row + rows, self.n_regions)),
                    slice(column, min(column + columns, self.n_times)),
                )

    def _tile_shape(self) -> tuple[int, int]:
        """Whole chunks; as long in time as fits, so that few reads touch one region."""
        chunks = self.variable.chunksizes or {}
        known: dict[Any, Any] = {dim: max(sizes) for dim, sizes in chunks.items()}
        known = known or dict(self.variable.encoding.get("preferred_chunks") or {})
        if reading_of(self.variable).interleaved:  # (regions vary fastest in the file)
            known.setdefault(self.dim, self.n_regions)
        most = TILE_BYTES // 8  # (tiles are worked on in float64)
        row, column = (int(known.get(dim, 1)) for dim in (self.dim, "time"))
        row, column = min(row, self.n_regions), min(column, self.n_times)
        columns = min(self.n_times, max(1, most // (row * column)) * column)
        return min(self.n_regions, max(1, most // (row * columns)) * row), columns

    def pick(self, regions: Any, most: int) -> np.ndarray:
        """Numbers of regions: those asked for by name or number, or up to `most` evenly spread.

        Raises
        ------
        ValueError, IndexError
            If there is no such region.
        """
        if regions is None:
            return np.unique(np.linspace(0, self.n_regions - 1, most).round().astype(int))
        if isinstance(regions, str | int | np.integer):
            regions = [regions]
        return np.array([self._number(region) for region in regions], dtype=int)

    def _number(self, region: Any) -> int:
        if not isinstance(region, int | np.integer):
            if str(region) in self.names:
                return self.names.index(str(region))
            some = ", ".join(self.names[:6]) + (", ..." if self.n_regions > 6 else "")
            raise ValueError(f"there is no region {region!r}, they are {some}")
        if not -self.n_regions <= region < self.n_regions:
            raise IndexError(
                f"there is no region number {region}: they go from 0 to {self.n_regions - 1}"
            )
        return int(region) % self.n_regions


def _from_array(values: Any, name: str) -> xr.DataArray:
    columns = getattr(values, "columns", None)
    array = np.asarray(values)
    if array.ndim != 2:
        raise ValueError(
            f"{name} must be an array (time, region) or a dataset with the dims region and time, "
            f"got {type(values).__name__} of shape {array.shape}"
        )
    if columns is None:
        return xr.DataArray(array, dims=("time", "region"))
    return xr.DataArray(array, {"region": list(map(str, columns))}, ("time", "region"))


def _repetition_time(signals: xr.DataArray) -> float | None:
    try:
        return 1 / sampling_frequency(signals)
    except ValueError:
        return None


def confound_table(confounds: Any, n_times: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Confounds as an array (time, confound), float64, and their names.

    Raises
    ------
    ValueError
        If they are not as long as the signals.
    """
    if isinstance(confounds, xr.DataArray):
        confounds = confounds.transpose("time", ...).to_pandas()
    columns: Sequence[Any] | None = getattr(confounds, "columns", None)
    table = np.asarray(confounds, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != n_times:
        raise ValueError(
            f"the confounds have the shape {table.shape}, but there are {n_times} volumes: one row "
            "a volume is needed"
        )
    names = range(table.shape[1]) if columns is None else columns
    return table, tuple(map(str, names))
