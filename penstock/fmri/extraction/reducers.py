"""Kernels that turn volumes into region signals: NumPy in, NumPy out, float64 sums.

Volumes come as (volumes, voxels) in the order of the file: x varies fastest, voxel (x, y, z) has
the index ``x + nx * (y + ny * z)``. A kernel works through them in pieces that stay in the cache,
so its memory does not depend on the number of regions or volumes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from penstock.fmri.extraction.weights import BATCH, PIECE, Weights
from penstock.memory.buffers import scratch_buffer

NanPolicy: TypeAlias = Literal["omit", "zero", "propagate"]
"""What becomes of values that are NaN or infinite: left out, taken as 0, or passed on."""

Statistic: TypeAlias = Literal[
    "mean", "median", "sum", "minimum", "maximum", "standard_deviation", "variance"
]
"""What a region is reduced to."""

COPY_BYTES = 4 << 20
"""Volumes brought into the order of the file at once, where they are in another."""

SIGNAL_BYTES = 1 << 19
"""Signals computed at once."""

SCRATCH_BYTES = COPY_BYTES + 4 * PIECE * 8 + 4 * SIGNAL_BYTES
"""What the kernels take beside their result: a copy of some volumes, arrays of a piece, signals."""

ROW_SCRATCH = 1.5
"""And of one volume: a copy of it, where it exceeds `COPY_BYTES`, and which values it has."""

MEDIAN_ROW_SCRATCH = ROW_SCRATCH + 2.0
"""The median holds the values of a whole region, twice where some are missing."""


# ---------------------------------------------------------------------- volumes


def flat_volumes(block: np.ndarray, n_signals: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Volumes of a block in the order of the file, some at a time.

    Parameters
    ----------
    block : numpy.ndarray
        Volumes, (..., x, y, z).
    n_signals : int
        Signals that each is turned into: they stay below `SIGNAL_BYTES`.

    Yields
    ------
    rows : slice
        Which volumes these are, loop dims taken as one.
    volumes : numpy.ndarray
        The volumes, (rows, z * y * x). A view where the block has the order of the file; otherwise
        a copy that lasts until the next.

    Examples
    --------
    >>> import numpy as np
    >>> block = np.arange(8).reshape(1, 2, 2, 2)
    >>> [volumes.tolist() for _, volumes in flat_volumes(block, 1)]
    [[[0, 4, 2, 6, 1, 5, 3, 7]]]
    """
    n_loops = block.ndim - 3
    n_voxels = math.prod(block.shape[-3:])
    ordered = block.transpose(*range(n_loops), -1, -2, -3)
    if not n_loops:
        ordered = ordered[np.newaxis]
    most = max(1, min(4 * BATCH, SIGNAL_BYTES // (8 * max(1, n_signals))))
    copied = max(1, COPY_BYTES // max(1, n_voxels * block.itemsize))
    first = 0
    for index in np.ndindex(*ordered.shape[:-4]):
        series = ordered[index]
        in_order = len(series) == 0 or series[0].flags.c_contiguous
        at_once = most if in_order else min(most, copied)
        for at in range(0, len(series), at_once):
            volumes = series[at : at + at_once]
            if not in_order:
                copy = scratch_buffer("flat-volumes", volumes.shape, volumes.dtype)
                np.copyto(copy, volumes)
                volumes = copy
            rows = slice(first + at, first + at + len(volumes))
            yield rows, volumes.reshape(len(volumes), n_voxels)
        first += len(series)


def file_order(data: np.ndarray) -> np.ndarray:
    """An image (x, y, z) as one row of voxels in the order of the file, (z * y * x,)."""
    return data.transpose(2, 1, 0).reshape(-1)


def pick_voxels(
    volumes: np.ndarray, voxels: np.ndarray, out: np.ndarray, nan_policy: NanPolicy = "omit"
) -> None:
    """Values of some voxels as they are, into `out` (volumes, len(voxels)); missing ones become 0
    under the policy ``"zero"``."""
    for volume, row in zip(volumes, out, strict=True):
        volume.take(voxels, out=row, mode="clip")
        if nan_policy == "zero" and not _all_finite(row):
            row[~np.isfinite(row)] = 0


def _all_finite(values: np.ndarray) -> bool:
    """Whether no value is missing; finite values whose sum overflows may be denied it."""
    if values.dtype.kind != "f":
        return True
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isfinite(np.add.reduce(values)))


# ---------------------------------------------------------------------- segments


@dataclass(frozen=True, eq=False)
class Segments:
    """Regions as lists of voxels, one after the other. They may overlap, and may be empty.

    Parameters
    ----------
    voxels : numpy.ndarray
        Indices of the voxels of all regions, in ascending order in each, int.
    offsets : numpy.ndarray
        Where each region begins in `voxels`, and where the last one ends, int (regions + 1,).

    Examples
    --------
    >>> import numpy as np
    >>> regions = Segments.from_lists([[0, 1], [1, 2, 3]])
    >>> reduce_segments(np.array([[1.0, 2.0, 3.0, 7.0]]), regions, "mean").tolist()
    [[1.5, 4.0]]
    """

    voxels: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_lists(cls, lists: Sequence[Any]) -> Segments:
        """Of the voxels of every region."""
        arrays = [np.sort(np.asarray(voxels, np.intp)) for voxels in lists]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.intp)
        return cls(np.concatenate([np.zeros(0, np.intp), *arrays]), offsets)

    @classmethod
    def joined(cls, parts: Sequence[Segments]) -> Segments:
        """The regions of several, one after the other."""
        starts = np.cumsum([0, *(len(part.voxels) for part in parts)], dtype=np.intp)
        offsets = [part.offsets[:-1] + at for part, at in zip(parts, starts, strict=False)]
        voxels = np.concatenate([part.voxels for part in parts])
        return cls(voxels, np.concatenate([*offsets, starts[-1:]]))

    @classmethod
    def from_labels(cls, labels: np.ndarray, values: np.ndarray) -> Segments:
        """Of an image of labels in the order of the file: where it has each of `values`.

        `values` must be in ascending order.
        """
        order = np.argsort(labels, kind="stable").astype(np.intp, copy=False)
        ordered = labels[order]
        start, stop = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
        parts = [order[low:high] for low, high in zip(start, stop, strict=True)]
        offsets = np.cumsum([0, *(stop - start)], dtype=np.intp)
        return cls(np.concatenate([np.zeros(0, np.intp), *parts]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def scattered(self) -> bool:
        """Whether few of the voxels between the first and the last belong to a region.

        Picking those is then quicker than looking at all (measured: from about a quarter on).
        """
        if not len(self.voxels):
            return True
        span = int(self.voxels.max()) - int(self.voxels.min()) + 1
        return 4 * len(self.voxels) < span

    @property
    def nbytes(self) -> int:
        """Memory of the lists, and of the weights that sums are made with."""
        return self.voxels.nbytes + self.offsets.nbytes + 12 * len(self.voxels)

    @property
    def sizes(self) -> np.ndarray:
        """Voxels of every region."""
        return np.diff(self.offsets)

    @cached_property
    def weights(self) -> Weights:
        """The regions as weights of 1."""
        from scipy.sparse import csr_array

        n_voxels = int(self.voxels.max(initial=-1)) + 1
        ones = np.ones(len(self.voxels))
        shape = (len(self), n_voxels)
        return Weights.from_sparse(csr_array((ones, self.voxels, self.offsets), shape=shape))

    def paint(self, signals: np.ndarray, n_voxels: int) -> np.ndarray:
        """Volumes (volumes, voxels) with the signal of its region in every voxel.

        Where regions overlap the signals are averaged; voxels in no region are 0.
        """
        volumes = np.zeros((len(signals), n_voxels), signals.dtype)
        covered, place = np.unique(self.voxels, return_inverse=True)
        counts = np.bincount(place)
        for volume, row in zip(volumes, signals, strict=True):
            volume[covered] = np.bincount(place, np.repeat(row, self.sizes)) / counts
        return volumes


def reduce_segments(
    volumes: np.ndarray,
    segments: Segments,
    statistic: Statistic = "mean",
    nan_policy: NanPolicy = "omit",
) -> np.ndarray:
    """Reduce every region of every volume to one number.

    Parameters
    ----------
    volumes : numpy.ndarray
        (volumes, voxels), numbers.
    segments : Segments
        The regions.
    statistic : str, default "mean"
        ``"mean"``, ``"median"``, ``"sum"``, ``"minimum"``, ``"maximum"``, or
        ``"standard_deviation"`` and ``"variance"`` of the population (``ddof=0``).
    nan_policy : {"omit", "zero", "propagate"}, default "omit"
        Whether values that are not finite are left out, taken as 0, or passed on.

    Returns
    -------
    numpy.ndarray
        Float64 (volumes, regions). NaN for a region without voxels, or without any value in them.

    Notes
    -----
    Sums are accumulated in float64, the variance as the mean square deviation from the mean.
    """
    if volumes.dtype.kind != "f":
        nan_policy = "propagate"
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if statistic == "median":
            return _medians(volumes, segments, nan_policy)
        if statistic == "minimum":
            return _extremes(volumes, segments, nan_policy, np.minimum, math.inf)
        if statistic == "maximum":
            return _extremes(volumes, segments, nan_policy, np.maximum, -math.inf)
        sums, counts, incomplete = _sums(volumes, segments, nan_policy)
        if statistic == "sum":
            result = sums
        elif statistic == "mean":
            result = sums / counts
        else:
            squares = _squares(volumes, segments, nan_policy, sums / counts, incomplete)
            result = squares / counts
            if statistic == "standard_deviation":
                np.sqrt(result, out=result)
    result[counts == 0] = np.nan
    return result


def _sums(
    volumes: np.ndarray, segments: Segments, nan_policy: NanPolicy
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums, how many values each has (volumes, regions), and which volumes have missing values."""
    sums = _gathered(volumes, segments) if segments.scattered else segments.weights.sums(volumes)
    counts = np.broadcast_to(segments.sizes, sums.shape)
    incomplete = np.zeros(len(volumes), bool)
    if nan_policy == "propagate":
        return sums, counts, incomplete
    incomplete = ~np.isfinite(sums).all(axis=1)
    if nan_policy == "omit" and incomplete.any():
        counts = counts.copy()
    for row in np.flatnonzero(incomplete):
        sums[row] = 0
        n_missing = np.zeros(len(segments))
        for start, stop, _, matrix in segments.weights.pieces:
            values = scratch_buffer("piece", (stop - start,), np.float64)
            np.copyto(values, volumes[row, start:stop])
            missing = ~np.isfinite(values)
            values[missing] = 0
            sums[row] += matrix @ values
            np.copyto(values, missing)
            n_missing += matrix @ values
        if nan_policy == "omit":
            counts[row] -= n_missing.astype(counts.dtype)
    return sums, counts, incomplete


def _gathered(volumes: np.ndarray, segments: Segments) -> np.ndarray:
    """Sums of regions of few voxels: these are picked, of several volumes at once."""
    sums = np.zeros((len(volumes), len(segments)))
    for voxels, regions, starts in _stretches(segments):
        step = max(1, PIECE // len(voxels))
        for at in range(0, len(volumes), step):
            batch = volumes[at : at + step]
            picked = scratch_buffer("piece-picked", (len(batch), len(voxels)), volumes.dtype)
            values = scratch_buffer("piece", picked.shape, np.float64)
            batch.take(voxels, axis=1, out=picked, mode="clip")
            np.copyto(values, picked)
            sums[at : at + step, regions] += np.add.reduceat(values, starts, axis=1)
    return sums


class _Stretch(NamedTuple):
    """A part of the concatenated voxels of all regions."""

    voxels: np.ndarray
    regions: np.ndarray
    """Regions that lie in it, at least in part."""
    starts: np.ndarray
    """Where they begin in it."""


def _stretches(segments: Segments) -> Iterator[_Stretch]:
    filled = np.flatnonzero(segments.sizes)
    starts = segments.offsets[filled]
    for at in range(0, len(segments.voxels), PIECE):
        voxels = segments.voxels[at : at + PIECE]
        low = int(np.searchsorted(starts, at, "right")) - 1
        high = int(np.searchsorted(starts, at + len(voxels), "left"))
        yield _Stretch(voxels, filled[low:high], np.maximum(starts[low:high] - at, 0))


def _squares(
    volumes: np.ndarray,
    segments: Segments,
    nan_policy: NanPolicy,
    means: np.ndarray,
    incomplete: np.ndarray,
) -> np.ndarray:
    """Sums of squared deviations from the means, (volumes, regions)."""
    squares = np.zeros(means.shape)
    stretches = list(_stretches(segments))
    for row, volume in enumerate(volumes):
        for voxels, regions, starts in stretches:
            values = scratch_buffer("piece-picked", voxels.shape, volumes.dtype)
            volume.take(voxels, out=values, mode="clip")
            if incomplete[row] and nan_policy == "zero":
                values[~np.isfinite(values)] = 0
            lengths = np.diff(starts, append=len(voxels))
            deviations = scratch_buffer("piece", voxels.shape, np.float64)
            np.subtract(values, np.repeat(means[row, regions], lengths), out=deviations)
            if incomplete[row] and nan_policy == "omit":
                deviations[~np.isfinite(values)] = 0
            np.multiply(deviations, deviations, out=deviations)
            squares[row, regions] += np.add.reduceat(deviations, starts)
    return squares


def _extremes(
    volumes: np.ndarray,
    segments: Segments,
    nan_policy: NanPolicy,
    extreme: np.ufunc,
    neutral: float,
) -> np.ndarray:
    result = np.full((len(volumes), len(segments)), neutral)
    stretches = list(_stretches(segments))
    for volume, row in zip(volumes, result, strict=True):
        for voxels, regions, starts in stretches:
            values = scratch_buffer("piece-picked", voxels.shape, volumes.dtype)
            volume.take(voxels, out=values, mode="clip")
            if nan_policy != "propagate" and not _all_finite(values):
                values[~np.isfinite(values)] = neutral if nan_policy == "omit" else 0
            row[regions] = extreme(row[regions], extreme.reduceat(values, starts))
    if nan_policy == "omit":
        result[result == neutral] = np.nan
    result[:, segments.sizes == 0] = np.nan
    return result


def _medians(volumes: np.ndarray, segments: Segments, nan_policy: NanPolicy) -> np.ndarray:
    result = np.full((len(volumes), len(segments)), np.nan)
    for region in np.flatnonzero(segments.sizes):
        voxels = segments.voxels[segments.offsets[region] : segments.offsets[region + 1]]
        at_once = max(1, PIECE // len(voxels))
        for at in range(0, len(volumes), at_once):
            batch = volumes[at : at + at_once]
            values = scratch_buffer("piece-picked", (len(batch), len(voxels)), volumes.dtype)
            batch.take(voxels, axis=1, out=values, mode="clip")
            incomplete = [row for row in range(len(batch)) if not _all_finite(values[row])]
            medians = {row: _median_of_some(values[row], nan_policy) for row in incomplete}
            found = result[at : at + at_once, region]
            found[:] = _middle(values)
            for row, median in medians.items():
                found[row] = median
    return result


def _middle(values: np.ndarray) -> np.ndarray:
    """Medians along the last axis, float64; changes the order of the values."""
    size = values.shape[-1]
    middle = sorted({(size - 1) // 2, size // 2})
    values.partition(middle, axis=-1)
    picked: np.ndarray = values[..., middle].mean(axis=-1, dtype=np.float64)
    return picked


def _median_of_some(values: np.ndarray, nan_policy: NanPolicy) -> float:
    """The median where some values are missing."""
    if nan_policy == "propagate":
        return math.nan if np.isnan(values).any() else float(_middle(values))
    missing = ~np.isfinite(values)
    if nan_policy == "zero":
        values[missing] = 0
        return float(_middle(values))
    present = values[~missing]
    return float(_middle(present)) if len(present) else math.nan
