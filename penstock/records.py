"""Several results at every position: one record each on the way, a variable each at the end.

A fit gives parameters, errors and a status; a peak finder gives indices and their count. A kernel
returns them as one structured array over the loop dims, so that a block stays one array with a
known number of bytes; stores and lazy datasets hold every field as a variable of its own.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, blank_variable

STATUS_DONE, STATUS_FAILED = 1, 2
STATUS_ATTRS = {"flag_values": [STATUS_DONE, STATUS_FAILED], "flag_meanings": "done failed"}
"""Attributes of a ``status`` variable, after the CF conventions."""


@dataclass(frozen=True)
class Field:
    """One result at every position.

    Parameters
    ----------
    dtype : numpy dtype, default "float64"
    dims : tuple of str, default ()
        Dims of the result beside the loop dims (``("parameter",)``).
    shape : tuple of int, default ()
        Their sizes.
    attrs : mapping, optional
        Attributes of the variable: ``units``, ``long_name``.
    """

    dtype: Any = "float64"
    dims: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.shape):
            raise ValueError(f"dims {self.dims} and shape {self.shape} must be of one length")


@dataclass(frozen=True)
class OutputArray:
    """A variable of a result: what a store makes room for."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    attrs: Mapping[str, Any]
    extra: dict[str, int]
    """Dims beside those that blocks are cut along, with their sizes."""
    is_field: bool = False

    def values(self, block: np.ndarray) -> np.ndarray:
        """What a computed block holds of it."""
        return block[self.name] if self.is_field else block


def failures_text(n_failed: int, first: tuple[Mapping[str, int], str]) -> str:
    """How many positions failed, and the first of them with its reason."""
    where, reason = first
    place = ", ".join(f"{dim} {i}" for dim, i in where.items())
    n = f"{n_failed} position{'s' if n_failed > 1 else ''}"
    return f"{n} failed (the first, {place}: {reason})"


def remarks_texts(remarks: Mapping[str, int]) -> list[str]:
    """What was lost on the way, one sentence each (see `penstock.processor.Context.remark`)."""
    return [text.replace("{count}", str(n)) for text, n in remarks.items() if n > 0]


def record_dtype(fields: Mapping[str, Field]) -> np.dtype:
    """Structured type of one position: a field for every result.

    Examples
    --------
    >>> from penstock.records import Field, record_dtype
    >>> record_dtype({"height": Field(), "peak": Field("int32", ("slot",), (4,))}).names
    ('height', 'peak')
    """
    return np.dtype([(name, f.dtype, f.shape) for name, f in fields.items()])


def results_outline(
    ds: xr.Dataset,
    core_dims: tuple[str, ...],
    fields: Mapping[str, Field],
    coords: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """What `Processor.outline` returns for several results at every position.

    Parameters
    ----------
    ds : xarray.Dataset
        Outline of the processor's input.
    core_dims : tuple of str
        Dims of the input that the results no longer have.
    fields : mapping of str to Field
        The results by name.
    coords : mapping, optional
        Coordinates of the results' own dims, as for `xarray.Dataset.assign_coords`.

    Returns
    -------
    xarray.Dataset
        With a ``signal`` of type `record_dtype` over the loop dims. It can be read from no more:
        such a processor is the last of its pipeline.
    """
    # (coordinates along the core dims are not in the result)
    kept = {str(name) for name, c in ds.coords.items() if not set(core_dims) & set(c.dims)}
    taken = set(map(str, ds.dims)) | kept
    for name, one in fields.items():
        clash = [label for label in (name, *one.dims) if label in taken - set(core_dims)]
        if clash or name == SIGNAL:
            raise ValueError(
                f"a result cannot be called {(clash or [name])[0]!r}: the data have that name"
            )
    signal = ds[SIGNAL]
    loops = tuple(str(dim) for dim in signal.dims if dim not in core_dims)
    shape = tuple(ds.sizes[dim] for dim in loops)
    records = blank_variable(loops, shape, record_dtype(fields))
    records.encoding["fields"] = dict(fields)
    rest = ds.drop_vars([n for n, v in ds.variables.items() if set(core_dims) & set(v.dims)])
    out = rest.drop_dims([dim for dim in core_dims if dim in rest.dims])
    return out.assign({SIGNAL: records}).assign_coords(dict(coords or {}))


def fields_of(outline: xr.Dataset) -> dict[str, Field] | None:
    """The results that an outline announces; None where it is a signal as usual."""
    found: dict[str, Field] | None = outline.variables[SIGNAL].encoding.get("fields")
    return found


def output_arrays(outline: xr.Dataset) -> list[OutputArray]:
    """The variables that the main part of a result is written to."""
    signal = outline.variables[SIGNAL]
    dims, shape = tuple(map(str, signal.dims)), tuple(signal.shape)
    fields = fields_of(outline)
    if fields is None:
        return [OutputArray(SIGNAL, dims, shape, np.dtype(signal.dtype), signal.attrs, {})]
    return [
        OutputArray(
            name,
            (*dims, *f.dims),
            (*shape, *f.shape),
            np.dtype(f.dtype),
            f.attrs,
            dict(zip(f.dims, f.shape, strict=True)),
            is_field=True,
        )
        for name, f in fields.items()
    ]


def unpacked(outline: xr.Dataset, records: Any) -> xr.Dataset:
    """Dataset of the results from an array of records (NumPy or Dask)."""
    variables = {}
    for a in output_arrays(outline):
        if isinstance(records, np.ndarray):
            values = np.ascontiguousarray(records[a.name])
        else:
            values = records.map_blocks(
                operator.itemgetter(a.name),
                dtype=a.dtype,
                chunks=(*records.chunks, *((n,) for n in a.extra.values())),
                new_axis=list(range(records.ndim, records.ndim + len(a.extra))) or None,
                meta=np.empty((0,) * len(a.shape), a.dtype),
            )
        variables[a.name] = xr.Variable(a.dims, values, a.attrs)
    return outline.drop_vars(SIGNAL).assign(variables)
