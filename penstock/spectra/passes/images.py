"""Reductions over the positions: sums, means, statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from penstock.memory.accounting import MIB
from penstock.memory.buffers import scratch_buffer
from penstock.records import Field
from penstock.spectra.passes.contract import ImageReduction, NanPolicy, check_policy, units_of
from penstock.spectra.passes.layout import Layout, Piece

BATCH_BYTES = MIB
"""Deviations from a mean that are worked on at once: they stay in a core's own cache."""
BATCH_ROWS = 16
"""At least so many positions at once, so that merging costs little beside them."""


@dataclass(frozen=True, eq=False)
class _OverPositions(ImageReduction):
    """Base of reductions over all positions, or those of a region of interest."""

    roi: Any = None
    nan_policy: NanPolicy = "omit"

    def check(self, layout: Layout) -> None:
        check_policy(self.nan_policy)
        rows = self._rows(layout)
        if rows is not None and not rows.any():
            raise ValueError("the roi selects no position: mark some with True")

    def _rows(self, layout: Layout) -> np.ndarray | None:
        if self.roi is None:
            return None
        roi = layout.over(self.roi, layout.loop_dims, "roi")
        if roi.dtype != bool:
            raise ValueError(f"the roi must be boolean, one a position, got {roi.dtype}")
        return roi.reshape(-1)

    def _chosen(self, piece: Piece, rows: np.ndarray | None) -> Piece | None:
        """The part of a piece inside the region of interest; None if there is none."""
        if rows is None:
            return piece
        inside = rows[piece.positions]
        if inside.all():
            return piece
        return piece.only(inside) if inside.any() else None

    def _image(self, layout: Layout, dtype: Any, **attrs: Any) -> Field:
        return Field(dtype, layout.core_dims, layout.core_shape, attrs)


@dataclass(frozen=True, eq=False)
class Sum(_OverPositions):
    """Sum over the positions, in float64 (complex128).

    Parameters
    ----------
    roi : array_like of bool or xarray.DataArray, optional
        ``(*loop dims)``: positions that count. Default: all.
    nan_policy : {"omit", "propagate"}, default "omit"
        Whether values that are not finite are left out, or show in the result. Where no value is
        finite the sum is NaN.

    Raises
    ------
    ValueError
        If `roi` has another shape than the loop dims, or selects nothing.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra.passes.reductions import Sum, reduce
    >>> ds = ps.make_dataset(np.ones((3, 2, 4)), ("y", "x", "frequency"))
    >>> reduce(ds, {"sum": Sum()})["sum"].values.tolist()
    [6.0, 6.0, 6.0, 6.0]
    """

    n_statistics: ClassVar[int] = 2

    def fields(self, layout: Layout) -> dict[str, Field]:
        return {"": self._image(layout, layout.wide_dtype, **units_of(layout))}

    def start(self, layout: Layout) -> dict[str, Any]:
        return {
            "total": np.zeros(layout.n_core, layout.wide_dtype),
            "count": np.zeros(layout.n_core, np.int64),
            "rows": self._rows(layout),
        }

    def accumulate(self, piece: Piece, state: dict[str, Any]) -> None:
        chosen = self._chosen(piece, state["rows"])
        if chosen is None:
            return
        values, wide = chosen.values, state["total"].dtype
        if self.nan_policy == "propagate" or chosen.finite:
            state["total"] += values.sum(axis=0, dtype=wide)
            state["count"] += len(values)
        else:
            finite = np.isfinite(values)
            state["total"] += values.sum(axis=0, dtype=wide, where=finite)
            state["count"] += finite.sum(axis=0)

    def merge(self, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        first["total"] += second["total"]
        first["count"] += second["count"]
        return first

    def finish(self, state: dict[str, Any], layout: Layout) -> dict[str, np.ndarray]:
        state["total"][state["count"] == 0] = np.nan
        return {"": state["total"]}


@dataclass(frozen=True, eq=False)
class Mean(Sum):
    """Mean over the positions, in float64 (complex128).

    Parameters
    ----------
    roi : array_like of bool or xarray.DataArray, optional
        ``(*loop dims)``: positions that count. Default: all.
    nan_policy : {"omit", "propagate"}, default "omit"
        Whether values that are not finite are left out, or show in the result. Where no value is
        finite the mean is NaN.

    Raises
    ------
    ValueError
        If `roi` has another shape than the loop dims, or selects nothing.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra.passes.reductions import Mean, reduce
    >>> ds = ps.make_dataset(np.array([[1.0, 2.0], [3.0, np.nan]]), ("position", "frequency"))
    >>> reduce(ds, {"mean": Mean()})["mean"].values.tolist()
    [2.0, 2.0]
    """

    def finish(self, state: dict[str, Any], layout: Layout) -> dict[str, np.ndarray]:
        return {"": state["total"] / state["count"]}


@dataclass(frozen=True, eq=False)
class Statistics(_OverPositions):
    """Mean, standard deviation, minimum, maximum and number of values over the positions.

    Parameters
    ----------
    roi : array_like of bool or xarray.DataArray, optional
        ``(*loop dims)``: positions that count. Default: all.
    nan_policy : {"omit", "propagate"}, default "omit"
        Whether values that are not finite are left out, or show in the results.
    ddof : int, default 0
        The standard deviation divides by the number of values less this.

    Notes
    -----
    ``<name>_mean``, ``_standard_deviation``, ``_minimum``, ``_maximum``, ``_count``. Sums of
    squares are taken around the mean of each piece and merged pairwise (Chan, Golub and LeVeque
    1983), so that values far from 0 lose no digits. ``_count`` is how many values went in; NaN
    where they are too few.

    Raises
    ------
    ValueError
        For complex data, or if `roi` has another shape than the loop dims or selects nothing.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra.passes.reductions import Statistics, reduce
    >>> ds = ps.make_dataset(np.array([[1.0, 2.0], [3.0, 6.0]]), ("position", "frequency"))
    >>> out = reduce(ds, {"all": Statistics()})
    >>> out.all_mean.values.tolist(), out.all_standard_deviation.values.tolist()
    ([2.0, 4.0], [1.0, 2.0])
    """

    n_statistics: ClassVar[int] = 6

    ddof: int = 0

    def check(self, layout: Layout) -> None:
        super().check(layout)
        if layout.dtype.kind == "c":
            raise ValueError(
                "complex values have no minimum and maximum: take their magnitude first, or use "
                "Mean"
            )

    def fields(self, layout: Layout) -> dict[str, Field]:
        units = units_of(layout)
        return {
            "mean": self._image(layout, np.float64, **units),
            "standard_deviation": self._image(layout, np.float64, **units),
            "minimum": self._image(layout, layout.dtype, **units),
            "maximum": self._image(layout, layout.dtype, **units),
            "count": self._image(layout, np.int64, units="1"),
        }

    def start(self, layout: Layout) -> dict[str, Any]:
        if layout.dtype.kind == "f":
            low, high = np.array([np.inf, -np.inf], layout.dtype)
        elif layout.dtype.kind == "b":
            low, high = np.array([True, False])
        else:
            info = np.iinfo(layout.dtype)
            low, high = np.array([info.max, info.min], layout.dtype)
        return {
            "count": np.zeros(layout.n_core, np.int64),
            "origin": np.zeros(layout.n_core),
            "offset": np.zeros(layout.n_core),
            "squares": np.zeros(layout.n_core),
            "minimum": np.full(layout.n_core, low),
            "maximum": np.full(layout.n_core, high),
            "rows": self._rows(layout),
        }

    def accumulate(self, piece: Piece, state: dict[str, Any]) -> None:
        chosen = self._chosen(piece, state["rows"])
        if chosen is None:
            return
        complete = self.nan_policy == "propagate" or chosen.finite
        n_rows = max(BATCH_ROWS, BATCH_BYTES // (8 * chosen.values.shape[1]))
        for at in range(0, len(chosen.values), n_rows):
            self.merge(state, self._batch(chosen.values[at : at + n_rows], complete))

    def _batch(self, values: np.ndarray, complete: bool) -> dict[str, Any]:
        deviation = scratch_buffer("statistics", values.shape, np.float64)
        if complete:
            count = np.full(values.shape[1], len(values))
            origin = values.sum(axis=0, dtype=np.float64) / len(values)
            np.subtract(values, origin, out=deviation)
            low, high = values.min(axis=0), values.max(axis=0)
        else:
            finite = np.isfinite(values)
            count = finite.sum(axis=0)
            total = values.sum(axis=0, dtype=np.float64, where=finite)
            origin = total / np.maximum(count, 1)
            np.subtract(values, origin, out=deviation)
            deviation[~finite] = 0
            low = values.min(axis=0, where=finite, initial=np.inf)
            high = values.max(axis=0, where=finite, initial=-np.inf)
        # the mean less its rounded value: what far from 0 would be lost
        offset = deviation.sum(axis=0) / np.maximum(count, 1)
        squares = np.einsum("ij,ij->j", deviation, deviation) - count * offset * offset
        return {
            "count": count,
            "origin": origin,
            "offset": offset,
            "squares": squares,
            "minimum": low,
            "maximum": high,
        }

    def merge(self, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        before = first["count"]
        np.copyto(first["origin"], second["origin"], where=before == 0)
        count = before + second["count"]
        share = second["count"] / np.maximum(count, 1)
        apart = (second["origin"] - first["origin"]) + (second["offset"] - first["offset"])
        first["squares"] += second["squares"] + apart * apart * before * share
        first["offset"] += apart * share
        first["count"] = count
        np.minimum(first["minimum"], second["minimum"], out=first["minimum"])
        np.maximum(first["maximum"], second["maximum"], out=first["maximum"])
        return first

    def finish(self, state: dict[str, Any], layout: Layout) -> dict[str, np.ndarray]:
        count = state["count"]
        degrees = np.where(count > self.ddof, count - self.ddof, 0).astype(np.float64)
        mean = state["origin"] + state["offset"]
        mean[count == 0] = np.nan
        if layout.dtype.kind == "f":
            state["minimum"][count == 0] = np.nan
            state["maximum"][count == 0] = np.nan
        return {
            "mean": mean,
            "standard_deviation": np.sqrt(
                np.maximum(state["squares"], 0) / np.where(degrees, degrees, np.nan)
            ),
            "minimum": state["minimum"],
            "maximum": state["maximum"],
            "count": count,
        }
