"""Scaling channels to their mean and standard deviation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from penstock.dataset import SIGNAL, Region, blank_variable, indexer_length
from penstock.eeg.picks import (
    PASSED,
    PICKED,
    TOLERATED,
    floating_outline,
    loop_dims,
    picked_rows,
    refuse_not_finite,
    row_kinds,
)
from penstock.eeg.stretches import SKIPPED, check_skip, stretches
from penstock.memory.buffers import scratch_buffer
from penstock.processor import Context, Processor

if TYPE_CHECKING:
    import xarray as xr

LENGTH = 1 << 15
"""Samples of a row that are worked on at once."""


@dataclass(frozen=True, repr=False)
class Scale(Processor):
    """Centre each channel and divide it by its standard deviation over the recording.

    Parameters
    ----------
    picks : str or list of str, optional
        Channel types or names. Default: the data channels. The others pass unchanged.
    with_mean : bool, default True
        Subtract the mean over time.
    with_std : bool, default True
        Divide by the standard deviation over time (of the population: ``ddof=0``). Channels that do
        not vary are divided by 1, as in `sklearn.preprocessing.StandardScaler`. The units of
        scaled channels become ``"1"``.
    skip_by_annotation : str or list of str, default ("edge", "bad_acq_skip")
        How the labels of events begin that part the recording (see `Filter`): each stretch is
        scaled by its own mean and standard deviation.

    Raises
    ------
    ValueError
        If a picked channel that is not marked bad holds values that are not finite.

    Notes
    -----
    In a channel marked bad, values that are not finite stay so and count for nothing, as in
    `sklearn.preprocessing.StandardScaler`.

    Moments are accumulated in float64 and merged over blocks of time by Chan's formula [1]_.

    References
    ----------
    .. [1] T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for
       computing sample variances", COMPSTAT 1982.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(np.array([[1.0, 3.0], [5.0, 5.0]]), sampling_frequency=1.0)
    >>> ps.Pipeline([ps.eeg.Scale()])(ds).signal.values.tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """

    core_dims = ("time",)
    reduce_dims: ClassVar[tuple[str, ...]] = ("time",)
    merges: ClassVar[bool] = True
    n_statistics: ClassVar[int] = 3
    scratch: ClassVar[float] = 0.0
    scratch_bytes: ClassVar[int] = 1 << 20
    version: ClassVar[int] = 2

    picks: str | tuple[str, ...] | None = None
    with_mean: bool = True
    with_std: bool = True
    skip_by_annotation: str | tuple[str, ...] = SKIPPED

    def validate(self) -> None:
        check_skip(self.skip_by_annotation)

    def statistics(self, ds: xr.Dataset) -> int:
        return 3 * len(stretches(ds, self.skip_by_annotation))

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        picked = picked_rows(ds, self.picks, "Scale")
        scaled = floating_outline(ds, "Scale")
        if not self.with_std:
            return scaled
        signal = scaled[SIGNAL].variable
        dims = tuple(map(str, signal.dims))
        attrs = {**signal.attrs, "units": "1"} if picked.all() else signal.attrs
        scaled = scaled.assign({SIGNAL: blank_variable(dims, signal.shape, signal.dtype, attrs)})
        if "channel_unit" in ds.variables and "channel" in dims:
            units = np.where(picked, "1", np.asarray(ds["channel_unit"].values).astype(str))
            scaled = scaled.assign_coords(channel_unit=("channel", units, ds["channel_unit"].attrs))
        return scaled

    def kernel_bytes(self, ds: xr.Dataset, region: Region) -> int:
        rows = [region[dim] for dim in loop_dims(ds, ("time",))]
        return 3 * 8 * 2 * self.statistics(ds) * math.prod(map(indexer_length, rows))

    def partial(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        """Count, mean and squared deviations of every stretch and row."""
        parts = stretches(ctx.dataset, self.skip_by_annotation)
        first, stop = ctx.span()
        kinds = row_kinds(ctx.dataset, self.picks, "Scale", ctx)
        result = np.zeros((3, len(parts), *block.shape[:-1]))
        for number, part in enumerate(parts):
            low, high = max(part.start, first) - first, min(part.stop, stop) - first
            if low >= high:
                continue
            for index in np.ndindex(*block.shape[:-1]):
                row, at = block[index][low:high], (slice(None), number, *index)
                result[at] = _moments(row, missing=kinds[index] == TOLERATED)
        return result.reshape(-1, *block.shape[:-1])

    def combine(self, partials: np.ndarray) -> np.ndarray:
        split = partials.reshape(len(partials), 3, -1, *partials.shape[2:])
        count, mean, squares = split[0].copy()
        with np.errstate(invalid="ignore", over="ignore"):
            for n, other, other_squares in split[1:]:
                total = np.maximum(count + n, 1)
                difference = other - mean
                squares = squares + other_squares + difference**2 * count * n / total
                mean = mean + difference * n / total
                count = count + n
        return np.stack([count, mean, squares]).reshape(partials.shape[1:])

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        kinds = row_kinds(ctx.dataset, self.picks, "Scale", ctx)
        parts = stretches(ctx.dataset, self.skip_by_annotation)
        first, stop = ctx.span()
        moments = ctx.reduced.reshape(3, len(parts), *block.shape[:-1])
        dtype = block.dtype if block.dtype in (np.float32, np.float64) else np.dtype(np.float32)
        out = ctx.empty(block.shape, dtype)
        for number, part in enumerate(parts):
            low, high = max(part.start, first) - first, min(part.stop, stop) - first
            if low >= high:
                continue
            count, mean, squares = moments[:, number]
            wrong = (kinds == PICKED) & ~np.isfinite(squares)
            if wrong.any():
                refuse_not_finite(block, wrong, ctx, "Scale")
            shift, deviation = self._applied(kinds != PASSED, count, mean, squares)
            source, target = block[..., low:high], out[..., low:high]
            np.subtract(source, shift[..., np.newaxis], out=target, casting="same_kind")
            if self.with_std:
                np.divide(target, deviation[..., np.newaxis], out=target, casting="same_kind")
        return out

    def _applied(
        self, picked: np.ndarray, count: np.ndarray, mean: np.ndarray, squares: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What is subtracted from each row, and what it is divided by."""
        variance = squares / np.maximum(count, 1)
        # rounding leaves a trace of variance in a channel that does not vary (scikit-learn's bound)
        epsilon = np.finfo(np.float64).eps
        with np.errstate(invalid="ignore", over="ignore"):
            bound = count * epsilon * variance + (count * mean * epsilon) ** 2
            constant = variance <= bound
        deviation = np.where(constant | ~picked, 1.0, np.sqrt(variance))
        shift = np.where(picked, mean, 0.0) if self.with_mean else np.zeros_like(mean)
        return shift, deviation


def _moments(row: np.ndarray, *, missing: bool) -> tuple[float, float, float]:
    """Count, mean and sum of squared deviations; with `missing` of the finite values only."""
    n, total = len(row), 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        if missing:
            finite = [row[at : at + LENGTH] for at in range(0, len(row), LENGTH)]
            n = sum(int(np.count_nonzero(np.isfinite(part))) for part in finite)
            for part in finite:
                total += float(np.add.reduce(part, dtype=np.float64, where=np.isfinite(part)))
        else:
            total = float(np.add.reduce(row, dtype=np.float64))
        mean, squares = total / max(n, 1), 0.0
        for start in range(0, len(row), LENGTH):
            part = row[start : start + LENGTH]
            deviation = scratch_buffer("scale-deviation", part.shape, np.float64)
            np.subtract(part, mean, out=deviation)
            if missing:
                deviation[~np.isfinite(part)] = 0
            squares += float(deviation @ deviation)
    return float(n), mean, squares
