"""The steps of a cleaning, applied to columns in batches that stay in the cache."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from penstock.memory.buffers import scratch_buffer

BATCH_BYTES = 1 << 20
"""Series (float64) that go through all steps together: they stay in the cache."""
LEAST_BATCH = 16
"""Series in a batch at least, however long they are; batches are multiples of it."""
FLAT = 1e-10
"""What is left of a series below this fraction of its magnitude is rounding error, not signal."""
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Cleaning:
    """A planned cleaning: small, picklable, and applicable to any columns.

    Made by `plan_cleaning`.
    """

    n_times: int
    """Time points of a series before cleaning."""
    kept: np.ndarray
    """Which of them the result has, ascending, (n_kept,)."""
    ensure_finite: bool
    runs: tuple[RunCleaning, ...]

    @property
    def n_kept(self) -> int:
        """Time points of a series after cleaning."""
        return len(self.kept)

    @property
    def batch(self) -> int:
        """Series that are cleaned together: a multiple of it is a good size for a block."""
        fitting = BATCH_BYTES // (8 * self.n_kept)
        return max(LEAST_BATCH, fitting - fitting % LEAST_BATCH)

    def apply(self, block: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Clean the columns of a block.

        Parameters
        ----------
        block : numpy.ndarray
            Series as columns, (n_times, columns), of any memory order. Left as it is.
        out : numpy.ndarray, optional
            Array for the result; it may be `block` itself where no volume is left out.

        Returns
        -------
        numpy.ndarray
            Cleaned series, (n_kept, columns): float32 for float32 (and float16), else float64. A
            column with a value that is not finite among the kept volumes is NaN throughout.
        """
        if out is None:
            out = np.empty((self.n_kept, block.shape[1]), result_type(block.dtype))
        self.apply_rows(block.T, out.T)
        return out

    def apply_rows(self, block: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Clean series that lie along the last axis: (..., n_times) to (..., n_kept).

        Leading axes may lie in memory in any order: batches follow that order. For the rest see
        `apply`.
        """
        if block.shape[-1] != self.n_times:
            raise ValueError(
                f"this cleaning was planned for {self.n_times} time points, the block has "
                f"{block.shape[-1]}"
            )
        if out is None:
            out = np.empty((*block.shape[:-1], self.n_kept), result_type(block.dtype))
        if block.ndim == 1:
            self.apply_rows(block[np.newaxis], out[np.newaxis])
            return out
        # series that lie side by side go together
        order = sorted(range(block.ndim - 1), key=lambda axis: -abs(block.strides[axis]))
        source, target = (array.transpose(*order, block.ndim - 1) for array in (block, out))
        loops = source.shape[:-1]
        n_series, at = math.prod(loops), as_slice(self.kept)
        buffer = scratch_buffer("cleaning-series", (self.batch, self.n_kept), np.float64)
        for start in range(0, n_series, self.batch):
            stop = min(start + self.batch, n_series)
            rows, strips = buffer[: stop - start], list(_strips(start, stop, loops))
            _gather(source, strips, at, rows)
            self._clean(buffer, rows)
            _scatter(rows, strips, target)
        return out

    def _clean(self, buffer: np.ndarray, rows: np.ndarray) -> None:
        """Clean series in place; `rows` are the first of `buffer`, which has a fixed size."""
        if all(run.is_empty for run in self.runs) and not self.ensure_finite:
            return
        finite = scratch_buffer("cleaning-finite", rows.shape, np.bool_)
        np.isfinite(rows, out=finite)
        spoilt = np.zeros(0, np.intp)
        if not finite.all():
            if self.ensure_finite:
                rows[~finite] = 0
            else:
                spoilt = np.flatnonzero(~finite.all(axis=-1))
                rows[spoilt] = 0
        # sums over time must not depend on how many series there are: always of the same shape
        buffer[len(rows) :] = 0
        for run in self.runs:
            if isinstance(run.place, slice):
                run.clean(buffer[:, run.place], len(rows))
            else:
                part = buffer[:, run.place]
                run.clean(part, len(rows))
                buffer[:, run.place] = part
        rows[spoilt] = np.nan


@dataclass(frozen=True, eq=False)
class RunCleaning:
    """The plan of one run. Series are rows of float64, cleaned in place."""

    place: slice | np.ndarray
    """Its volumes among those kept of all runs."""
    n_kept: int
    n_filtered: int
    """Volumes that pass the filter: the kept ones and those interpolated between them."""
    between: np.ndarray | None
    """Places of the kept volumes among them, where some are interpolated."""
    detrend: bool
    sos: np.ndarray | None
    """Second-order sections of the Butterworth filter."""
    padtype: str | None
    padlen: int | None
    standardize: str | None
    basis: np.ndarray | None = None
    """Orthonormal basis of the confounds, (rank, n_kept)."""
    restore_mean: bool = False
    """Whether percent signal change refers to the mean before cleaning, as nothing of it is left
    afterwards."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is done to a series."""
        return (
            not self.detrend
            and self.sos is None
            and self.basis is None
            and self.standardize is None
        )

    def clean(self, buffer: np.ndarray, n: int) -> None:
        rows = buffer[:n]
        magnitude = root_mean_square(rows)
        mean = self.filter(rows)
        if self.basis is not None:
            self.project(buffer)
        if self.standardize is not None:
            self.scale(rows, magnitude, mean)

    def filter(self, rows: np.ndarray) -> np.ndarray:
        """Detrend and filter; the mean before."""
        values = rows
        if self.between is not None:
            values = self.interpolated(rows)
        mean = values.mean(axis=-1)
        if self.detrend:
            values -= mean[:, np.newaxis]
            ramp = np.arange(self.n_filtered) - (self.n_filtered - 1) / 2
            ramp /= np.linalg.norm(ramp)
            trend = scratch_buffer("cleaning-product", values.shape, np.float64)
            values -= np.multiply(np.vecdot(values, ramp)[:, np.newaxis], ramp, out=trend)
        if self.sos is not None:
            from scipy.signal import sosfiltfilt

            values = sosfiltfilt(
                self.sos, values, axis=-1, padtype=self.padtype, padlen=self.padlen
            )
        if values is not rows:
            rows[...] = values if self.between is None else values[:, self.between]
        return mean

    def interpolated(self, rows: np.ndarray) -> np.ndarray:
        """All volumes, those left out from a cubic spline through the kept ones."""
        from scipy.interpolate import CubicSpline

        assert self.between is not None
        values = scratch_buffer("cleaning-filtered", (len(rows), self.n_filtered), np.float64)
        missing = np.setdiff1d(np.arange(self.n_filtered), self.between)
        values[:, self.between] = rows
        values[:, missing] = CubicSpline(self.between, rows, axis=-1)(missing)
        return values

    def project(self, buffer: np.ndarray) -> None:
        """Take out what the confounds explain."""
        assert self.basis is not None
        weights = scratch_buffer("cleaning-weights", (len(buffer), len(self.basis)), np.float64)
        explained = scratch_buffer("cleaning-product", buffer.shape, np.float64)
        np.matmul(buffer, self.basis.T, out=weights)
        np.matmul(weights, self.basis, out=explained)
        buffer -= explained

    def scale(self, rows: np.ndarray, magnitude: np.ndarray, mean_before: np.ndarray) -> None:
        """Z-scores or percent signal change; what does not vary becomes 0."""
        mean = rows.mean(axis=-1)
        rows -= mean[:, np.newaxis]
        deviation = root_mean_square(rows)
        nothing = deviation <= FLAT * magnitude
        if self.standardize == "zscore_sample":
            unit = deviation * np.sqrt(self.n_kept / (self.n_kept - 1))
        else:
            if self.restore_mean:
                mean = mean + mean_before
            unit = np.abs(mean) / 100
            without_mean = (np.abs(mean) < _EPSILON) | (np.abs(mean) <= FLAT * magnitude)
            if (without_mean & ~nothing).any():
                warnings.warn(
                    "percent signal change has no meaning for series whose mean is 0: they are "
                    "set to 0; use standardize='zscore_sample', or give the series with their mean",
                    stacklevel=2,
                )
            nothing |= without_mean
        unit[nothing] = 1
        rows /= unit[:, np.newaxis]
        rows[nothing] = 0


Strip: TypeAlias = tuple[tuple[Any, ...], slice]
"""Where a few series lie in a block, and where among the rows of a batch."""


def _strips(start: int, stop: int, loops: tuple[int, ...]) -> Iterator[Strip]:
    """The series from `start` to `stop` of a block, in stretches along the last of its `loops`."""
    at, length = start, loops[-1]
    while at < stop:
        outer, first = divmod(at, length)
        n = min(length - first, stop - at)
        index = tuple(map(int, np.unravel_index(outer, loops[:-1]))) if len(loops) > 1 else ()
        yield (*index, slice(first, first + n)), slice(at - start, at - start + n)
        at += n


def _gather(source: np.ndarray, strips: list[Strip], at: Any, rows: np.ndarray) -> None:
    """Copy series of a block, at the kept volumes, into rows."""
    if _time_is_fastest(source):
        for index, place in strips:
            rows[place] = source[index][:, at]
        return
    # Volume after volume, then transposed in the cache: series whose values lie far apart, often
    # by powers of two, would each time miss it.
    picked = scratch_buffer("cleaning-picked", (source.shape[-1], len(rows)), source.dtype)
    for index, place in strips:
        picked[:, place] = source[index].T
    rows[...] = picked[at].T


def _scatter(rows: np.ndarray, strips: list[Strip], target: np.ndarray) -> None:
    """Copy rows to where they belong."""
    if _time_is_fastest(target):
        for index, place in strips:
            target[index] = rows[place]
        return
    picked = scratch_buffer("cleaning-picked", (target.shape[-1], len(rows)), target.dtype)
    picked[...] = rows.T
    for index, place in strips:
        target[index] = picked[:, place].T


def _time_is_fastest(block: np.ndarray) -> bool:
    return abs(block.strides[-1]) <= abs(block.strides[-2])


def result_type(dtype: Any) -> np.dtype:
    """Type of cleaned series: float32 for float32 and float16, else float64."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "fiub":
        raise TypeError(f"signals must be real numbers, got an array of {dtype}")
    return np.dtype(np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else np.float64)


def root_mean_square(rows: np.ndarray) -> np.ndarray:
    """Root mean square of each row."""
    return np.asarray(np.sqrt(np.vecdot(rows, rows) / rows.shape[-1]))


def as_slice(positions: np.ndarray) -> slice | np.ndarray:
    """Ascending positions, as a slice where they follow each other."""
    first, last = int(positions[0]), int(positions[-1])
    return slice(first, last + 1) if last - first + 1 == len(positions) else positions
