"""Ancillary tables of h5USID: where every row and column of a main dataset lies.

Reading them gives dims and coordinates, writing them turns dims and coordinates into tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import h5py
import numpy as np
import xarray as xr

from penstock.io.hdf5.contents import attributes, byte_strings

POSITION, SPECTROSCOPIC = "position", "spectroscopic"
"""Names of the dims of rows and columns that form no full grid."""

INCOMPLETE = 1
"""Entry of the attribute ``type`` for dimensions that form no full grid."""

SINGLE_POSITION, SINGLE_STEP, ARBITRARY = "Single_Position", "Single_Step", "a. u."
"""The one position of a spectrum, the one step of an image (as pyUSID names it), their unit."""

TABLE_ROWS = 1 << 18
"""Entries written at once."""


# ---------------------------------------------------------------------- dims from tables


@dataclass(frozen=True)
class Side:
    """The dims of the rows, or of the columns, of a main dataset, from slowest to fastest."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    coords: dict[str, xr.Variable] = field(default_factory=dict)


def side_from_tables(
    indices: np.ndarray,
    values: np.ndarray,
    labels: Sequence[str],
    units: Sequence[str],
    *,
    fallback: str,
    incomplete: bool = False,
    texts_of: dict[str, list[str] | None] | None = None,
) -> Side:
    """Dims and coordinates from the ancillary tables of one side.

    Parameters
    ----------
    indices, values : numpy.ndarray
        (entries, dimensions): where every entry lies along every dimension.
    labels, units : sequence of str
        Of the dimensions.
    fallback : str
        Name of the dim where the indices form no full grid in its order.
    incomplete : bool
        Whether the file says that they form none.
    texts_of : dict, optional
        Label to texts that stand for the values of a dimension.

    Returns
    -------
    Side
        See `open_usid`.
    """
    columns = [np.ascontiguousarray(indices[:, k]) for k in range(len(labels))]
    grid = None if incomplete else grid_order(columns)
    attrs = [{"units": unit} for unit in units]
    coords: dict[str, xr.Variable] = {}
    if grid is None:
        # (a dimension of the name of the dim has its values as the dim's own)
        for k, label in enumerate(labels):
            coords[label] = xr.Variable((fallback,), values[:, k].astype(np.float64), attrs[k])
        return Side((fallback,), (len(indices),), coords)
    order, shape = grid
    dims = tuple(labels[k] for k in order)
    for axis, k in enumerate(order):
        names = (texts_of or {}).get(labels[k])
        along = np.ascontiguousarray(values[:, k]).reshape(shape)
        needed = [a for a in range(len(shape)) if a == axis or _varies(along, a)]
        corner = tuple(slice(None) if a in needed else 0 for a in range(len(shape)))
        data = along[corner].astype(np.float64)
        if names is not None and len(names) == shape[axis]:
            coords[labels[k]] = xr.Variable((labels[k],), np.array(names), attrs[k])
        elif len(needed) == 1:
            coords[labels[k]] = xr.Variable((labels[k],), data, attrs[k])
        else:
            over = tuple(dims[a] for a in needed)
            coords[f"{labels[k]}_values"] = xr.Variable(over, data, attrs[k])
    return Side(dims, shape, coords)


def grid_order(columns: Sequence[np.ndarray]) -> tuple[list[int], tuple[int, ...]] | None:
    """Dimensions from slowest to fastest and their sizes, if indices count through a full grid.

    Parameters
    ----------
    columns : sequence of numpy.ndarray
        Index of every entry along each dimension.

    Returns
    -------
    (order, shape) or None
        The slower a dimension, the less often its index changes from one entry to the next (as in
        pyUSID's ``get_sort_order``). Dimensions of one entry keep the place that the file gives
        them, which lists all from slowest to fastest or the other way around; where fewer than two
        others tell which, they are slowest. None if the entries are not all combinations in C
        order, each once.
    """
    if not columns or not len(columns[0]):
        return None
    changes = [np.count_nonzero(column[1:] != column[:-1]) for column in columns]
    order = sorted(range(len(columns)), key=lambda k: (changes[k], k))
    longer = [k for k in order if changes[k]]
    if len(longer) > 1 and longer in (sorted(longer), sorted(longer, reverse=True)):
        order = sorted(order, reverse=longer[0] > longer[1])
    sizes = [_n_distinct(columns[k]) for k in order]
    if math.prod(sizes) != len(columns[0]):
        return None
    for axis, k in enumerate(order):
        index = columns[k].reshape(sizes)
        line = index[(0,) * axis + (slice(None),) + (0,) * (len(sizes) - axis - 1)]
        spread = line.reshape((-1,) + (1,) * (len(sizes) - axis - 1))
        if len(np.unique(line)) != sizes[axis] or not (index == spread).all():
            return None
    return order, tuple(sizes)


def _n_distinct(column: np.ndarray) -> int:
    if column.dtype.kind in "ui":
        low, high = int(column.min()), int(column.max())
        if high - low <= 4 * len(column):
            seen = np.zeros(high - low + 1, bool)
            seen[column - column.dtype.type(low)] = True
            return int(np.count_nonzero(seen))
    return len(np.unique(column))


def _varies(values: np.ndarray, axis: int) -> bool:
    first = values[(slice(None),) * axis + (slice(0, 1),)]
    same = values == first
    if values.dtype.kind == "f" and not same.all():
        same |= np.isnan(values) & np.isnan(first)
    return not same.all()


# ---------------------------------------------------------------------- tables from dims


@dataclass(frozen=True)
class Dimension:
    """One dimension of a table."""

    label: str
    units: str
    values: np.ndarray
    """float64, of a shape that broadcasts to that of the table's dims."""
    names: tuple[str, ...] = ()
    """Texts that the values stand for."""


@dataclass(frozen=True)
class Table:
    """Where the rows, or the columns, of a main dataset lie."""

    dims: tuple[str, ...]
    """Dims of the dataset that they are, from slowest to fastest."""
    shape: tuple[int, ...]
    dimensions: tuple[Dimension, ...]
    incomplete: bool = False
    """Whether the dimensions are no grid: one index counts them all."""


def equal_tables(one: Table | None, other: Table) -> bool:
    """Whether two main datasets can share a table."""
    return (
        one is not None
        and (one.dims, one.shape) == (other.dims, other.shape)
        and all(
            (a.units, a.names) == (b.units, b.names) and np.array_equal(a.values, b.values)
            for a, b in zip(one.dimensions, other.dimensions, strict=True)
        )
    )


def table_of(ds: xr.Dataset, dims: Sequence[str], single: str) -> Table:
    """The table of some dims of a dataset, slowest first; of one entry `single` if there are none.

    A dim ``position`` (or ``spectroscopic``) with other coordinates along it has these as its
    dimensions: no grid, in the order of the dim.
    """
    if not dims:
        return Table((), (), (Dimension(single, ARBITRARY, np.zeros(())),))
    shape = tuple(ds.sizes[dim] for dim in dims)
    along = [
        str(name)
        for name, coordinate in ds.coords.items()
        if coordinate.dims == (dims[0],) and coordinate.dtype.kind in "biuf" and name != dims[0]
    ]
    if list(dims) in ([POSITION], [SPECTROSCOPIC]) and along:
        names = [*along, *(name for name in dims if name in ds.coords)]
        return Table(tuple(dims), shape, tuple(_dimension(ds, n, dims) for n in names), True)
    return Table(tuple(dims), shape, tuple(_dimension(ds, dim, dims) for dim in dims))


def _dimension(ds: xr.Dataset, label: str, dims: Sequence[str]) -> Dimension:
    # (xarray counts along a dim without coordinate)
    coordinate, dependent = ds[label], f"{label}_values"
    if label in dims and dependent in ds.coords and set(ds[dependent].dims) <= set(dims):
        coordinate = ds[dependent]
    units = str(coordinate.attrs.get("units", ""))
    names: tuple[str, ...] = ()
    if coordinate.dtype.kind in "OSUT":
        names = tuple(map(str, coordinate.values.tolist()))
        coordinate = xr.DataArray(np.arange(len(names)), dims=coordinate.dims)
    elif coordinate.dtype.kind not in "biuf":
        raise ValueError(
            f"the coordinate {label!r} holds {coordinate.dtype}, not numbers or text: replace it "
            "by numbers with ds.assign_coords"
        )
    over = [dim for dim in dims if dim in coordinate.dims]
    values = coordinate.transpose(*over).values.astype(np.float64)
    spread = tuple(ds.sizes[dim] if dim in over else 1 for dim in dims)
    return Dimension(label, units, values.reshape(spread), names)


def write_tables(group: h5py.Group, prefix: str, table: Table, *, axis: int) -> None:
    """Indices and values of the rows (axis 0) or the columns (axis 1)."""
    side = ("Position", "Spectroscopic")[axis]
    n, n_dimensions = math.prod(table.shape), len(table.dimensions)
    shape = (n, n_dimensions) if axis == 0 else (n_dimensions, n)
    indices = group.create_dataset(f"{prefix}{side}_Indices", shape, np.uint32)
    values = group.create_dataset(f"{prefix}{side}_Values", shape, np.float64)
    spread = [np.broadcast_to(d.values, table.shape) for d in table.dimensions]
    for start in range(0, n, TABLE_ROWS):
        rows = np.arange(start, min(n, start + TABLE_ROWS))
        where = np.unravel_index(rows, table.shape) if table.shape else (rows,)
        index = [rows] * n_dimensions if table.incomplete else list(where)
        value = [along[where] if table.shape else np.zeros(1) for along in spread]
        part = np.s_[rows[0] : rows[-1] + 1]
        for target, columns in ((indices, index), (values, value)):
            stacked = np.stack(columns, axis=1 - axis)
            target[(part, slice(None)) if axis == 0 else (slice(None), part)] = stacked
    for target in (indices, values):
        target.attrs["labels"] = byte_strings(d.label for d in table.dimensions)
        target.attrs["units"] = byte_strings(d.units for d in table.dimensions)
        target.attrs["type"] = np.full(n_dimensions, INCOMPLETE if table.incomplete else 0)
    for dimension in table.dimensions:
        if dimension.names:
            key = f"{dimension.label}_names"
            values.attrs.update(attributes({key: list(dimension.names)}))
