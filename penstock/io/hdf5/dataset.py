"""A Penstock dataset over a dataset of an HDF5 file: types, packing, what reading costs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import xarray as xr

from penstock.attributes import as_plain_attributes
from penstock.dataset import SIGNAL, check_dataset, lazy_variable
from penstock.io.arrays.arrays import (
    COMPONENT,
    as_dtype,
    in_memory,
    number_fields,
    result_type,
    stored_as,
)
from penstock.io.arrays.positioned import SCRATCH_BYTES
from penstock.io.hdf5.chunks import check_chunks
from penstock.io.hdf5.contents import attribute, text, with_entry_dims
from penstock.io.hdf5.files import CHUNK_CACHE_BYTES, check_filters
from penstock.io.hdf5.links import Tree
from penstock.io.hdf5.region import Hdf5Region, Reversed, box_shape, offset_of
from penstock.io.hdf5.stored_types import entry_type
from penstock.io.packing import PIECE_VALUES, Decoding, Packing, complex_pair, packing
from penstock.reading import Reading

TEXT_ENTRIES = 1 << 16
"""Entries up to which text beside numbers becomes a coordinate."""


def hdf5_dataset(
    tree: Tree,
    dataset: h5py.Dataset,
    dims: tuple[str, ...],
    coords: Mapping[str, xr.Variable],
    *,
    dtype: Any,
    name: str | None = None,
    shape: tuple[int, ...] | None = None,
    splits: tuple[int, ...] | None = None,
    backwards: bool = False,
    mask_and_scale: bool = True,
    packed: Packing | None = None,
    about: Mapping[str, Any] | None = None,
    **attrs: Any,
) -> xr.Dataset:
    """A Penstock dataset over an HDF5 dataset; values stay in the file until a region is read.

    Parameters
    ----------
    tree : Tree
        The file that the user has opened.
    dataset : h5py.Dataset
        Of numbers, or of a compound type: fields that are numbers become a last dim ``component``
        (a real and an imaginary part complex numbers), text of a table a coordinate.
    dims : tuple of str
        Names of the dims, without ``component``; those of the entries of an array type may be left
        out.
    coords : mapping of str to xarray.Variable
        Coordinates over them.
    dtype : {"float32", "float64"} or None
        Type of the values; complex values keep both parts, each of this type. None: the type that
        they are stored in; of packed values that of what they stand for.
    name : str, optional
        Name by which the user knows the dataset. Default: its own.
    shape : tuple of int, optional
        Sizes of the dims, where axes of the dataset are split into several.
    splits : tuple of int, optional
        Into how many dims each axis of the dataset is split.
    backwards : bool, default False
        Whether the axes lie in the file from the last to the first.
    mask_and_scale : bool, default True
        Whether packed values become what they stand for.
    packed : Packing, optional
        How values are packed, where attributes of the dataset do not say.
    about : mapping, optional
        Attributes of ``signal`` beside ``units`` and ``long_name``, and over them.
    **attrs
        Attributes of the result beside ``source``, ``source_dataset``.

    Returns
    -------
    xarray.Dataset
        With what a read costs in the encoding of ``signal`` (see `penstock.testing.check_reader`).

    Raises
    ------
    ValueError
        If the values are no numbers, or lie where they may not be read.
    """
    # (through an external link it may be in another file)
    home = os.path.abspath(dataset.file.filename)
    what = f"{dataset.name} of {home}"
    beside = [(path, os.stat(path)) for path in tree.check_storage(dataset)]
    sources = tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in beside)
    check_filters(dataset)
    target, fields, decoding = _types(dataset, dtype, what, mask_and_scale, packed)
    shape = dataset.shape if shape is None else shape
    splits = (1,) * dataset.ndim if splits is None else splits
    stored, entry = entry_type(dataset.dtype)
    if entry:
        if len(dims) == len(shape):
            dims = with_entry_dims(dims, dataset, coords)
        shape, splits = (*shape, *entry), (*splits, *(1 for _ in entry))
    region = Hdf5Region(
        home,
        dataset.name,
        dataset.shape,
        shape,
        splits,
        _read_type(stored, fields),
        target,
        fields,
        str(dataset.dtype),
        decoding,
        sources,
    )
    found = {
        "long_name": text(attribute(dataset, "quantity")) or text(attribute(dataset, "long_name")),
        "units": text(attribute(dataset, "units")),
        **(about or {}),
    }
    coords, left_out = _with_texts(dataset, dims, coords)
    read: Any = region
    if backwards:
        read, shape = Reversed(region), shape[::-1]
    if fields:
        dims, shape = (*dims, COMPONENT), (*shape, len(fields))
        coords[COMPONENT] = xr.Variable((COMPONENT,), np.array(fields))
    reading = _reading(dataset, splits, target.itemsize * max(1, len(fields)), decoding)
    if backwards and dataset.ndim > 1:
        # (one row lies scattered over the whole array)
        reading = replace(reading, interleaved=True)
    kept = {key: value for key, value in found.items() if value is not None}
    signal = lazy_variable(dims, read, shape, target, kept, {"source": home}, reading=reading)
    everything = {
        "source": os.path.abspath(tree.path), "source_dataset": name or dataset.name, **attrs
    }  # fmt: skip
    if left_out:
        everything["left_out"] = left_out
    if isinstance(decoding, Packing):
        told: str | None = f"packed {stored.newbyteorder('=')}"
    else:
        told = stored_as(stored, target, fields or stored.names or ())
    if told is not None:
        everything["stored_as"] = told
    return check_dataset(xr.Dataset({SIGNAL: signal}, coords, as_plain_attributes(everything)))


def _types(
    dataset: h5py.Dataset, dtype: Any, what: str, mask_and_scale: bool, packed: Packing | None
) -> tuple[np.dtype, tuple[str, ...], Decoding | None]:
    """Type in memory, fields that become a dim, and how stored values are understood."""
    stored, entry = entry_type(dataset.dtype)
    if entry and (stored.names or stored.kind not in "biufc"):
        raise ValueError(
            f"{what} has an array type whose entries hold {stored}, not numbers: choose another "
            "array"
        )
    pair = complex_pair(stored)
    if pair is not None:
        part = np.result_type(*(in_memory(stored[name]) for name in stored.names or ()))
        part = part if dtype is None else as_dtype(dtype)
        return np.result_type(part, np.complex64), (), pair
    target, fields = result_type(stored, dtype, what)
    if stored.names:
        return target, fields, None
    if text(attribute(dataset, "MATLAB_class")) == "logical" and dtype is None:
        return np.dtype(bool), (), None
    if not mask_and_scale:
        return target, (), None
    kinds: tuple[np.dtype, ...] = (np.dtype(np.float64),)
    if packed is None:
        packed, kinds = packing(stored, lambda name: attribute(dataset, name), what)
    if packed is None:
        return target, (), None
    if dtype is None:
        target = packed.type_in_memory(stored, kinds)
    return target, (), packed


def _read_type(stored: np.dtype, fields: tuple[str, ...]) -> np.dtype:
    """Type of what is read, without what HDF5 knows beside it (names of an enumeration, text)."""
    if not stored.names:
        return np.dtype(stored.str)
    names: tuple[str, ...] = fields or stored.names
    places: Any = stored.fields
    return np.dtype({
        "names": list(names),
        "formats": [np.dtype(stored[name].str) for name in names],
        "offsets": [places[name][1] for name in names],
        "itemsize": stored.itemsize,
    })  # fmt: skip


def _with_texts(
    dataset: h5py.Dataset, dims: tuple[str, ...], coords: Mapping[str, xr.Variable]
) -> tuple[dict[str, xr.Variable], list[str]]:
    """Coordinates with the text of a table, and what of a compound type is left out."""
    result = dict(coords)
    stored = dataset.dtype
    if not stored.names or complex_pair(stored) is not None:
        return result, []
    left_out = []
    for name in stored.names:
        if name in number_fields(stored):
            continue
        is_text = stored[name].kind == "S" or h5py.check_string_dtype(stored[name]) is not None
        free = name not in (*result, *dims, SIGNAL, COMPONENT)
        if is_text and free and dataset.ndim == 1 and dataset.size <= TEXT_ENTRIES:
            check_chunks(dataset, (slice(0, dataset.size),))
            values = [text(value) or "" for value in dataset.fields(name)[...].tolist()]
            result[name] = xr.Variable(dims, np.array(values, dtype=str))
        else:
            left_out.append(name)
    return result, left_out


def _reading(
    dataset: h5py.Dataset, splits: tuple[int, ...], itemsize: int, decoding: Decoding | None
) -> Reading:
    more = 0 if decoding is None else decoding.value_bytes * PIECE_VALUES
    stored_itemsize = dataset.dtype.itemsize
    if offset_of(dataset) is not None:
        return Reading(scratch_bytes=SCRATCH_BYTES + more)
    chunks, shape = dataset.chunks or (0,), dataset.shape
    values = math.prod(box_shape(dataset))
    box, chunk = (n * stored_itemsize for n in (values, math.prod(chunks)))
    # the positions of a region that is no single stretch of an axis
    positions = 8.0 / max(1, itemsize * math.prod(shape[1:])) if max(splits, default=1) > 1 else 0.0
    return Reading(
        positions,
        # what is picked of a box, chunks as stored and as decoded
        2 * box + more + 2 * chunk + CHUNK_CACHE_BYTES,
        interleaved=bool(len(shape) > 1 and chunks[0] >= shape[0] > 1),
    )
