"""Reductions of every position: masks, sums, centres of mass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr

from penstock.memory.buffers import scratch_buffer
from penstock.records import Field
from penstock.spectra.passes.contract import MapReduction, NanPolicy, check_policy, units_of
from penstock.spectra.passes.layout import Layout, Piece

BATCH_VALUES = 1 << 15
"""Values that are converted to double precision at once: they stay in a core's own cache."""
WEIGHTS_SCRATCH = 2.5
"""Pieces in double precision where values that are not finite must be left out."""


@dataclass(frozen=True)
class _Weights:
    """Columns of weights over the core values, and how they are applied to a piece."""

    matrix: np.ndarray
    """(core values, columns), in the type of the computation."""
    omit: bool

    def apply(self, values: np.ndarray, out: np.ndarray) -> None:
        """Sums of weights times values. A value of weight 0 does not count, not even NaN.

        Whatever the type of the values, products and sums are in double precision.
        """
        wide = np.dtype(np.complex128 if values.dtype.kind == "c" else np.float64)
        if values.dtype == wide:
            np.matmul(values, self.matrix, out=out)
        else:
            self._converted(values, wide, out)
        # (what spoils a sum is rare, and shows in it: only such rows are looked at)
        spoiled = ~np.isfinite(out).all(axis=1)
        if spoiled.any():
            out[spoiled] = self._careful(values[spoiled])

    def _converted(self, values: np.ndarray, wide: np.dtype, out: np.ndarray) -> None:
        """The same of values that are converted on the way, a little at a time: in the cache."""
        n_rows, n = values.shape
        across = min(n, BATCH_VALUES)
        at_once = max(1, BATCH_VALUES // across)
        scratch = scratch_buffer("masks-double", (at_once * across,), wide)
        for row in range(0, n_rows, at_once):
            rows = slice(row, min(n_rows, row + at_once))
            for start in range(0, n, across):
                stop = min(n, start + across)
                shape = (rows.stop - rows.start, stop - start)
                part = scratch[: shape[0] * shape[1]].reshape(shape)
                np.copyto(part, values[rows, start:stop], casting="unsafe")
                if start:
                    out[rows] += part @ self.matrix[start:stop]
                else:
                    np.matmul(part, self.matrix[:stop], out=out[rows])

    def _careful(self, values: np.ndarray) -> np.ndarray:
        wide = np.result_type(self.matrix.dtype, np.float64)
        finite = np.isfinite(values)
        sums = np.where(finite, values, wide.type(0)) @ self.matrix
        for column, weights in enumerate(self.matrix.T):
            counted = finite[:, weights != 0]
            enough = counted.any(axis=1) if self.omit else counted.all(axis=1)
            sums[~enough & bool(counted.shape[1]), column] = np.nan
        return sums


@dataclass(frozen=True, eq=False)
class ApplyMasks(MapReduction):
    """Sum of every position's values under masks: detectors, bands, any linear combination.

    Parameters
    ----------
    masks : array_like or xarray.DataArray
        ``(masks, *core dims)`` or, for a single mask, ``(*core dims)`` of a DataArray or together
        with `core_dims`: weights, or True where values count. A DataArray may have its dims in any
        order; its other dim and coordinate are kept in the result.
    nan_policy : {"omit", "propagate"}, default "omit"
        Whether values that are not finite are left out, or make the sum NaN. Values of weight 0
        never count; where no finite value is left the sum is NaN.

    Notes
    -----
    Products and sums are in double precision whatever the type of data and masks: a sum of a
    million float32 values would lose three digits. Results are float32 for float32 data and masks,
    float64 where either is, or the data are integers.

    Raises
    ------
    ValueError
        If the masks have another shape than the core dims, or are not finite.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra.passes.reductions import ApplyMasks, reduce
    >>> ds = ps.make_dataset(np.ones((5, 4, 4)), ("position", "v", "u"))
    >>> halves = np.stack([np.tri(4), 1 - np.tri(4)])
    >>> reduce(ds, {"half": ApplyMasks(halves)}).half.values[0].tolist()
    [10.0, 6.0]
    """

    scratch: ClassVar[float] = WEIGHTS_SCRATCH

    masks: Any
    nan_policy: NanPolicy = "omit"

    def implied_core_dims(self, dims: tuple[str, ...]) -> tuple[str, ...] | None:
        if isinstance(self.masks, xr.DataArray):
            return tuple(dim for dim in dims if dim in self.masks.dims)
        return dims[len(dims) - max(0, np.ndim(self.masks) - 1) :]

    def check(self, layout: Layout) -> None:
        check_policy(self.nan_policy)
        masks = self._array(layout)
        if masks.dtype.kind not in "biufc" or not np.isfinite(masks).all():
            raise ValueError("masks must be finite numbers or booleans: replace NaN by 0")
        if not self._is_single(layout):
            layout.refuse_dim(self._mask_dim(layout))

    def _array(self, layout: Layout) -> np.ndarray:
        return layout.over(self.masks, layout.core_dims, "masks", leading="mask")

    def _is_single(self, layout: Layout) -> bool:
        return np.ndim(self.masks) == len(layout.core_dims)

    def _mask_dim(self, layout: Layout) -> str:
        if isinstance(self.masks, xr.DataArray):
            return next(str(dim) for dim in self.masks.dims if dim not in layout.core_dims)
        return "mask"

    def _dtype(self, layout: Layout, masks: np.ndarray) -> np.dtype:
        """Type of the results."""
        data = layout.dtype if layout.dtype.kind in "fc" else np.dtype(np.float64)
        types = [data, np.dtype(np.float32), *([masks.dtype] if masks.dtype.kind in "fc" else [])]
        return np.result_type(*types)

    def fields(self, layout: Layout) -> dict[str, Field]:
        masks = self._array(layout)
        dtype, attrs = self._dtype(layout, masks), units_of(layout)
        if self._is_single(layout):
            return {"": Field(dtype, attrs=attrs)}
        return {"": Field(dtype, (self._mask_dim(layout),), (len(masks),), attrs)}

    def coords(self, layout: Layout) -> dict[str, Any]:
        if not isinstance(self.masks, xr.DataArray) or self._is_single(layout):
            return {}
        dim = self._mask_dim(layout)
        return {str(name): c for name, c in self.masks.coords.items() if c.dims == (dim,)}

    def prepare(self, layout: Layout) -> _Weights:
        masks = self._array(layout)
        matrix = masks.reshape(len(masks), -1).T
        wide = np.result_type(layout.wide_dtype, self._dtype(layout, masks))
        return _Weights(np.ascontiguousarray(matrix, wide), self.nan_policy == "omit")

    def kernel(self, piece: Piece, prepared: _Weights, out: Mapping[str, np.ndarray]) -> None:
        sums = np.empty((len(piece.values), prepared.matrix.shape[1]), prepared.matrix.dtype)
        prepared.apply(piece.values, sums)
        np.copyto(out[""].reshape(sums.shape), sums, casting="same_kind")


@dataclass(frozen=True, eq=False)
class PositionSum(MapReduction):
    """Sum of all values at every position, in float64 (complex128).

    Parameters
    ----------
    nan_policy : {"omit", "propagate"}, default "omit"
        Whether values that are not finite are left out, or make the sum NaN. Where no value is
        finite the sum is NaN.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra.passes.reductions import PositionSum, reduce
    >>> ds = ps.make_dataset(np.array([[1.0, 2.0], [3.0, np.nan]]), ("position", "frequency"))
    >>> reduce(ds, {"sum": PositionSum()})["sum"].values.tolist()
    [3.0, 3.0]
    """

    scratch: ClassVar[float] = WEIGHTS_SCRATCH

    nan_policy: NanPolicy = "omit"

    def check(self, layout: Layout) -> None:
        check_policy(self.nan_policy)

    def fields(self, layout: Layout) -> dict[str, Field]:
        return {"": Field(layout.wide_dtype, attrs=units_of(layout))}

    def prepare(self, layout: Layout) -> _Weights:
        return _Weights(np.ones((layout.n_core, 1), layout.wide_dtype), self.nan_policy == "omit")

    def kernel(self, piece: Piece, prepared: _Weights, out: Mapping[str, np.ndarray]) -> None:
        prepared.apply(piece.double, out[""][:, np.newaxis])


@dataclass(frozen=True, eq=False)
class CentreOfMass(MapReduction):
    """Centre of mass of the values at every position, along each core dim, in float64.

    Parameters
    ----------
    mask : array_like or xarray.DataArray, optional
        ``(*core dims)``: weights of the values, or True where they count. Default: all.
    units : {"coordinate", "index"}, default "coordinate"
        Along a dim with a coordinate: whether to give its values or positions counted from 0.
    nan_policy : {"omit", "propagate"}, default "omit"
        Whether values that are not finite are left out, or make the centre NaN.

    Notes
    -----
    ``sum(mask * values * coordinate) / sum(mask * values)``; NaN where that sum is 0. One variable
    for every core dim, ``<name>_<dim>``.

    Raises
    ------
    ValueError
        For complex data, a mask of another shape, or a coordinate that is not numeric.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra.passes.reductions import CentreOfMass, reduce
    >>> ds = ps.make_dataset(
    ...     np.array([[0.0, 1.0, 3.0]]), ("position", "frequency"), coords={"frequency": [4, 6, 8]}
    ... )
    >>> reduce(ds, {"centre": CentreOfMass()}).centre_frequency.values.tolist()
    [7.5]
    """

    scratch: ClassVar[float] = WEIGHTS_SCRATCH

    mask: Any = None
    units: Literal["coordinate", "index"] = "coordinate"
    nan_policy: NanPolicy = "omit"

    def implied_core_dims(self, dims: tuple[str, ...]) -> tuple[str, ...] | None:
        if self.mask is None:
            return None
        if isinstance(self.mask, xr.DataArray):
            return tuple(dim for dim in dims if dim in self.mask.dims)
        return dims[len(dims) - np.ndim(self.mask) :]

    def check(self, layout: Layout) -> None:
        check_policy(self.nan_policy)
        if self.units not in ("coordinate", "index"):
            raise ValueError(f"units must be 'coordinate' or 'index', got {self.units!r}")
        if layout.dtype.kind == "c":
            raise ValueError("complex values have no centre of mass: take their magnitude first")
        if not np.isfinite(self._mask(layout)).all():
            raise ValueError("the mask must be finite: replace NaN by 0")
        for dim in layout.core_dims:
            axis = self._axis(layout, dim)
            if axis.dtype.kind not in "iuf" or not np.isfinite(axis).all():
                raise ValueError(
                    f"the coordinate of {dim!r} has values that are no finite numbers: use "
                    "units='index'"
                )

    def _mask(self, layout: Layout) -> np.ndarray:
        if self.mask is None:
            return np.ones(layout.core_shape)
        return layout.over(self.mask, layout.core_dims, "mask").astype(np.float64)

    def _axis(self, layout: Layout, dim: str) -> np.ndarray:
        if self.units == "coordinate" and dim in layout.dataset.coords:
            return np.asarray(layout.dataset[dim].values)
        return np.arange(float(layout.dataset.sizes[dim]))

    def fields(self, layout: Layout) -> dict[str, Field]:
        attrs = {}
        for dim in layout.core_dims:
            known = self.units == "coordinate" and dim in layout.dataset.coords
            units = layout.dataset[dim].attrs.get("units") if known else "1"
            attrs[dim] = {"long_name": f"centre of mass along {dim}"}
            attrs[dim] |= {} if units is None else {"units": units}
        return {dim: Field(np.float64, attrs=attrs[dim]) for dim in layout.core_dims}

    def prepare(self, layout: Layout) -> tuple[_Weights, dict[str, float]]:
        mask = self._mask(layout)
        columns, middles = [mask], {}
        for axis, dim in enumerate(layout.core_dims):
            along = self._axis(layout, dim).astype(np.float64)
            # weights around 0 keep all digits where a coordinate lies far from it
            middles[dim] = float(along[len(along) // 2])
            shape = [-1 if i == axis else 1 for i in range(len(layout.core_dims))]
            columns.append(mask * (along - middles[dim]).reshape(shape))
        matrix = np.stack([column.reshape(-1) for column in columns], axis=1)
        return _Weights(matrix, self.nan_policy == "omit"), middles

    def kernel(
        self,
        piece: Piece,
        prepared: tuple[_Weights, dict[str, float]],
        out: Mapping[str, np.ndarray],
    ) -> None:
        weights, middles = prepared
        sums = np.empty((len(piece.values), 1 + len(middles)))
        weights.apply(piece.double, sums)
        sums[sums[:, 0] == 0, 0] = np.nan
        for column, (dim, middle) in enumerate(middles.items(), 1):
            out[dim][:] = middle + sums[:, column] / sums[:, 0]
