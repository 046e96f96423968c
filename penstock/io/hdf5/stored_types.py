"""Types of HDF5 datasets: those that h5py gives to NumPy, and what the others are called."""

from __future__ import annotations

import h5py
import numpy as np

_KINDS = {
    h5py.h5t.INTEGER: "whole numbers",
    h5py.h5t.FLOAT: "floating point numbers",
    h5py.h5t.TIME: "times",
    h5py.h5t.STRING: "text",
    h5py.h5t.BITFIELD: "bit fields",
    h5py.h5t.OPAQUE: "opaque bytes",
    h5py.h5t.COMPOUND: "a compound type",
    h5py.h5t.REFERENCE: "references",
    h5py.h5t.ENUM: "an enumeration",
    h5py.h5t.VLEN: "sequences of any length",
    h5py.h5t.ARRAY: "an array type",
}


def entry_type(stored: np.dtype) -> tuple[np.dtype, tuple[int, ...]]:
    """Type of the numbers and shape of every entry: those of an array type have axes of their own.

    They follow those of the dataset. Entries of every other type have none.
    """
    if stored.subdtype is None:
        return stored, ()
    return stored.subdtype


def unknown_type(dataset: h5py.Dataset) -> str | None:
    """A sentence about a dataset of a type that h5py has no type of NumPy for; None for others."""
    try:
        known = dataset.dtype is not None
    except Exception:  # whatever h5py raises concerns this dataset and nothing else of the file
        known = False
    if known:
        return None
    return (
        f"{dataset.name} of {dataset.file.filename} has a type that NumPy does not know"
        f"{_called(dataset)}: convert it to numbers of 1, 2, 4 or 8 bytes, or choose another "
        "dataset"
    )


def _called(dataset: h5py.Dataset) -> str:
    try:
        stored = dataset.id.get_type()
        kind, n_bytes = _KINDS.get(stored.get_class(), "another kind"), stored.get_size()
    except Exception:  # (the name of a type is no reason to fail)
        return ""
    return f" ({kind}, {n_bytes} bytes each)"
