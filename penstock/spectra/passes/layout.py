"""Positions and what lies at each of them: how reductions and decompositions see a dataset."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, check_dataset
from penstock.memory.buffers import scratch_buffer

Positions: TypeAlias = "slice | np.ndarray"
"""Numbers of positions, counted over the loop dims in C order."""


def spectral_dims(ds: xr.Dataset) -> tuple[str, ...]:
    """Dims of what lies at one position: those that are none of positions, where a file tells.

    Otherwise ``frequency`` (in any spelling), or the last dim.
    """
    dims = tuple(map(str, ds.variables[SIGNAL].dims))
    known = ds.attrs.get("position_dims")
    if known is not None:
        positions = {str(dim) for dim in np.atleast_1d(np.asarray(known, dtype=object))}
        rest = tuple(dim for dim in dims if dim not in positions)
        if rest:
            return rest
    return tuple(dim for dim in dims if dim.casefold() == "frequency") or dims[-1:]


def spectral_dim(ds: xr.Dataset) -> str:
    """The one dim that curves go along: ``frequency`` if it is there, or the last spectral one."""
    found = spectral_dims(ds)
    if not found:
        raise ValueError("the data have no dim, but a single value: there is no curve in them")
    of_curve = [dim for dim in found if dim != "component"] or list(found)
    named = [dim for dim in of_curve if dim.casefold() == "frequency"]
    return named[0] if named else of_curve[-1]


@dataclass(frozen=True)
class Layout:
    """A dataset as positions (loop dims) and what lies at each of them (core dims).

    Parameters
    ----------
    dataset : xarray.Dataset
        The data, lazy.
    core_dims : tuple of str
        Dims of the values at one position, in the order in which they are flattened.
    """

    dataset: xr.Dataset
    core_dims: tuple[str, ...]

    @classmethod
    def of(cls, ds: Any, core_dims: str | Sequence[str] | None) -> Layout:
        """Check the dims of a dataset; without `core_dims` the spectral ones are taken.

        Raises
        ------
        TypeError, ValueError
            If the data have no such dims, no values, or no dim is left for positions.
        """
        signal = check_dataset(ds).variables[SIGNAL]
        dims = tuple(map(str, signal.dims))
        if core_dims is None:
            core = spectral_dims(ds)
            core = core if len(core) < len(dims) else dims[-1:]
        else:
            core = (core_dims,) if isinstance(core_dims, str) else tuple(core_dims)
        unknown = [dim for dim in core if dim not in dims]
        if unknown:
            raise ValueError(
                f"the data have no dim {unknown[0]!r} (they have {', '.join(dims)}): name others "
                "in core_dims"
            )
        if len(set(core)) < len(core) or not core or len(core) == len(dims):
            raise ValueError(
                f"core_dims={core} must be some, but not all, of the dims {', '.join(dims)}, each "
                "named once"
            )
        if not signal.size:
            raise ValueError(f"the data are empty: {dict(zip(dims, signal.shape, strict=True))}")
        if signal.dtype.kind not in "biufc":
            raise ValueError(
                f"values of type {signal.dtype} cannot be computed with: convert them to numbers"
            )
        return cls(ds, core)

    @functools.cached_property
    def loop_dims(self) -> tuple[str, ...]:
        """Dims of the positions."""
        dims = map(str, self.dataset.variables[SIGNAL].dims)
        return tuple(dim for dim in dims if dim not in self.core_dims)

    @functools.cached_property
    def loop_shape(self) -> tuple[int, ...]:
        """Sizes of the loop dims."""
        return tuple(self.dataset.sizes[dim] for dim in self.loop_dims)

    @functools.cached_property
    def core_shape(self) -> tuple[int, ...]:
        """Sizes of the core dims."""
        return tuple(self.dataset.sizes[dim] for dim in self.core_dims)

    @property
    def n_positions(self) -> int:
        """How many positions there are."""
        return math.prod(self.loop_shape)

    @property
    def n_core(self) -> int:
        """How many values lie at a position."""
        return math.prod(self.core_shape)

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return np.dtype(self.dataset.variables[SIGNAL].dtype)

    @property
    def wide_dtype(self) -> np.dtype:
        """Double precision of the same kind: float64 or complex128."""
        return np.dtype(np.complex128 if self.dtype.kind == "c" else np.float64)

    @property
    def float_dtype(self) -> np.dtype:
        """Floating type that results at every position are kept in: float32 stays float32."""
        return np.dtype(np.result_type(self.dtype, np.float32))

    @property
    def units(self) -> str | None:
        """Physical unit of the values."""
        return self.dataset.variables[SIGNAL].attrs.get("units")

    def describe(self, position: int) -> str:
        """One position for people: ``y 3, x 17``."""
        index = np.unravel_index(position, self.loop_shape)
        return ", ".join(f"{dim} {int(i)}" for dim, i in zip(self.loop_dims, index, strict=True))

    def over(
        self, values: Any, dims: tuple[str, ...], name: str, *, leading: str | None = None
    ) -> np.ndarray:
        """An array given by the user over `dims` (and a leading one), in their order.

        Raises
        ------
        ValueError
            If its dims or shape are others.
        """
        sizes = self.dataset.sizes
        if isinstance(values, xr.DataArray | xr.Variable):
            extra = [dim for dim in values.dims if dim not in dims]
            lacking = [dim for dim in dims if dim not in values.dims]
            if lacking or len(extra) > (leading is not None):
                raise ValueError(
                    f"{name} must have the dims {', '.join(dims)}"
                    f"{f' (and one for the {leading}s)' if leading else ''}, got "
                    f"{', '.join(map(str, values.dims)) or 'none'}"
                )
            values = values.transpose(*extra, *dims).values
        array = np.asarray(values)
        wanted = tuple(sizes[dim] for dim in dims)
        if leading is not None and array.ndim == len(dims):
            array = array[np.newaxis]
        if array.shape[leading is not None :] != wanted or array.ndim != len(dims) + bool(leading):
            raise ValueError(
                f"{name} must have the shape {wanted} of the dims {', '.join(dims)}"
                f"{f', with the {leading}s along a first axis' if leading else ''}, "
                f"got {np.shape(values)}"
            )
        return array

    def refuse_dim(self, dim: str) -> None:
        """Raise ValueError if the data have a dim that the result will have of its own."""
        if dim in self.dataset.variables[SIGNAL].dims:
            raise ValueError(
                f"the result will have a dim {dim!r} of its own: rename that of the data, "
                f"for example ds.rename({dim}='{dim}_of_data')"
            )

    def template(self, dims: set[str]) -> xr.Dataset:
        """The coordinates of a result that has only some of the dims."""
        coords = xr.Dataset(coords=self.dataset.coords, attrs=self.dataset.attrs)
        other = [name for name, coord in coords.coords.items() if not set(coord.dims) <= dims]
        return coords.drop_vars(other)


class Piece:
    """Some positions with their values. Valid until the thread goes on to the next piece.

    Attributes
    ----------
    values : numpy.ndarray
        (positions, core values), core dims flattened. Must not be written to.
    positions : slice or numpy.ndarray
        Which positions they are.
    """

    __slots__ = ("_double", "_finite", "_scratch", "positions", "values")

    def __init__(self, values: np.ndarray, positions: Positions, scratch: str = "piece-double"):
        self.values = values
        self.positions = positions
        self._scratch = scratch
        self._double: np.ndarray | None = None
        self._finite: bool | None = None

    @property
    def double(self) -> np.ndarray:
        """The values in double precision, converted once for all that ask. Not to be written to."""
        if self._double is None:
            wide = np.complex128 if self.values.dtype.kind == "c" else np.float64
            if self.values.dtype == wide:
                self._double = self.values
            else:
                self._double = scratch_buffer(self._scratch, self.values.shape, wide)
                np.copyto(self._double, self.values)
        return self._double

    def only(self, rows: np.ndarray) -> Piece:
        """Some of the positions, chosen by a boolean array over those of the piece."""
        numbers = self.positions
        if isinstance(numbers, slice):
            numbers = np.arange(numbers.start, numbers.stop)
        return Piece(self.values[rows], numbers[rows], "piece-only-double")

    @property
    def finite(self) -> bool:
        """Whether all values are finite. Quick: one product, which NaN and infinities spoil."""
        if self._finite is None:
            if self.values.dtype.kind in "biu":
                self._finite = True
            else:
                flat = self.values.reshape(-1)
                with np.errstate(all="ignore"):
                    squares = np.vdot(flat, flat)
                # (squares of finite float16 or float32 values may overflow)
                self._finite = bool(np.isfinite(squares) or np.isfinite(flat).all())
        return self._finite
