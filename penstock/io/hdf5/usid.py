"""h5USID files: spectra and images of scanning probes, with the dims that their tables describe.

A main dataset is a table of positions (rows) by spectroscopic steps (columns); four ancillary
tables say where each row and column lies along the dimensions of the measurement. Where they count
through a full grid, as they mostly do, the dataset gets these dims; where not (an aborted scan, a
spiral, sparse points), the rows stay one dim ``position``.

Definition: the USID model, https://pycroscopy.github.io/USID, as pyUSID 0.0.12 reads it.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import xarray as xr

from penstock.io.arrays.arrays import COMPONENT
from penstock.io.hdf5.contents import (
    MainDataset,
    attribute,
    choose,
    datasets,
    listed,
    metadata,
    text,
    texts,
    unique_dims,
)
from penstock.io.hdf5.dataset import hdf5_dataset
from penstock.io.hdf5.links import Tree, open_tree, read_all
from penstock.io.hdf5.stored_types import unknown_type
from penstock.io.hdf5.usid_tables import (
    INCOMPLETE,
    POSITION,
    SPECTROSCOPIC,
    Side,
    side_from_tables,
)

TABLES = ("Position_Indices", "Position_Values", "Spectroscopic_Indices", "Spectroscopic_Values")


def open_usid(path: str, *, dtype: Any = None, dataset: str | None = None) -> xr.Dataset:
    """Open a main dataset of an h5USID file; its values stay in the file until a region is read.

    Parameters
    ----------
    path : str
        The file.
    dtype : {"float32", "float64"}, optional
        Type of the values; complex values keep both parts, each of this type. Default: the type
        that they are stored in.
    dataset : str, optional
        Name of the main dataset, or an end of it that only one has, such as
        ``"Channel_001/Raw_Data"``. Default: the only one, leaving aside results of tools
        (in groups ``{Main}-{Tool}_{NNN}``).

    Returns
    -------
    xarray.Dataset
        ``signal`` with the dims of the measurement, positions first, each side from the slowest to
        the fastest: derived from the indices, whichever way around the file lists them. Names are
        the labels in the file (``X_1`` for a second ``X``), values are float64 coordinates with
        units. A dimension whose values depend on another one (a frequency band that follows the
        bias) has them in ``{label}_values``, over all dims they depend on. Indices that form no
        full grid, or are in another order than the grid's (a meander), leave one dim ``position``
        (or ``spectroscopic``) with the values of every dimension along it. Fields of a compound
        type are a last dim ``component``.

        ``attrs`` hold ``source``, ``source_dataset``, ``position_dims``, and in ``metadata`` the
        attributes of the groups on the way to the dataset.

    Raises
    ------
    OSError, ValueError
        If the file is unusable, holds no such main dataset, or several.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, penstock as ps
    >>> path = os.path.join(tempfile.mkdtemp(), "scan.h5")
    >>> scan = ps.make_dataset(np.ones((8, 9, 119)), ("y", "x", "frequency"), units="pm")
    >>> _ = ps.io.write_usid(scan, path, position_dims=("y", "x"))
    >>> ds = ps.open_dataset(path, dataset="Channel_000/Raw_Data")
    >>> dict(ds.sizes), ds.attrs["position_dims"]
    ({'y': 8, 'x': 9, 'frequency': 119}, ['y', 'x'])
    """
    with open_tree(path) as tree:
        name, main = find_main(tree, dataset, path)
        return usid_dataset(tree, main, dtype=dtype, name=name)


def usid_dataset(tree: Tree, dataset: h5py.Dataset, **options: Any) -> xr.Dataset:
    """The Penstock dataset of a main dataset in an open file (options as of `hdf5_dataset`)."""
    positions, spectra = sides(tree, dataset)
    return hdf5_dataset(
        tree,
        dataset,
        (*positions.dims, *spectra.dims),
        {**positions.coords, **spectra.coords},
        shape=(*positions.shape, *spectra.shape),
        splits=(len(positions.dims), len(spectra.dims)),
        data_model="h5USID",
        position_dims=list(positions.dims),
        metadata=metadata(dataset),
        **options,
    )


def main_datasets(tree: Tree) -> list[MainDataset]:
    """Main datasets of an open file, in the order of their names."""
    return datasets(tree, lambda dataset: why_not_main(dataset) is None)


def why_not_main(dataset: h5py.Dataset) -> str | None:
    """Why a dataset is no USID main dataset; None if it is one.

    The criteria of ``sidpy.hdf.hdf_utils`` and ``pyUSID.io.hdf_utils.check_if_main``, except that
    text may be stored as str, bytes, or an array of one.
    """
    if dataset.shape is None or dataset.ndim != 2:
        return f"it has {len(dataset.shape or ())} axes instead of 2"
    tables = {}
    for name in TABLES:
        table = _table(dataset, name)
        if table is None:
            return f"its attribute {name} refers to no dataset"
        tables[name] = table
    for name in ("quantity", "units"):
        if text(attribute(dataset, name)) is None:
            return f"it has no attribute {name}"
    for axis, side in enumerate(("Position", "Spectroscopic")):
        indices, values = tables[f"{side}_Indices"], tables[f"{side}_Values"]
        size = dataset.shape[axis]
        if indices.ndim != 2 or indices.shape != values.shape or indices.shape[axis] != size:
            return (
                f"{side}_Indices and {side}_Values have the shapes {indices.shape} and "
                f"{values.shape} for {size} {'rows' if axis == 0 else 'columns'}"
            )
        for table in (indices, values):
            for name in ("labels", "units"):
                entries = texts(attribute(table, name))
                if entries is None or len(entries) != indices.shape[1 - axis]:
                    return f"{table.name} has not one of the {name} for every dimension"
        if texts(attribute(indices, "labels")) != texts(attribute(values, "labels")):
            return f"the labels of {indices.name} and {values.name} differ"
    return None


def _table(dataset: h5py.Dataset, name: str) -> h5py.Dataset | None:
    reference = attribute(dataset, name)
    if isinstance(reference, np.ndarray) and reference.size == 1:
        reference = reference.reshape(-1)[0]
    # (a region reference is one too, but stands for a part of a dataset)
    if type(reference) is not h5py.Reference or not reference:
        return None
    try:
        table = dataset.file[reference]
    except (OSError, RuntimeError, KeyError, ValueError):
        return None  # what it referred to has been deleted
    # (one without a name is deleted: its place in the file is free for others)
    usable = isinstance(table, h5py.Dataset) and table.name and unknown_type(table) is None
    return table if usable else None


def find_main(tree: Tree, wanted: str | None, path: str) -> tuple[str, h5py.Dataset]:
    """The main dataset of that name, or the only one, with its full name.

    Raises
    ------
    ValueError
        If there is none, with the reason, or several.
    """
    found = main_datasets(tree)
    main = choose(found, wanted, path)
    if main is not None:
        return main.name, tree.dataset(main.name)
    item = None if wanted is None else tree.dataset(wanted)
    if item is not None:
        raise ValueError(not_main(item, path))
    if wanted is not None:
        there = f"it holds {listed(found)}" if found else "it holds no main dataset at all"
        raise ValueError(f"{path} has no USID main dataset {wanted}: {there}")
    for almost in datasets(tree, refers_to_tables):
        raise ValueError(not_main(tree.dataset(almost.name), path))
    raise ValueError(
        f"{path} holds no USID main dataset: none of its datasets refers to tables of positions; "
        "open one as an array with dataset=... and dims=(...)"
    )


def refers_to_tables(dataset: h5py.Dataset) -> bool:
    """Whether a dataset has an attribute that USID main datasets have."""
    return any(name in dataset.attrs for name in TABLES)


def not_main(dataset: h5py.Dataset, path: str) -> str:
    """A sentence about a dataset that is no main dataset."""
    return (
        f"{dataset.name} of {path} is no USID main dataset ({why_not_main(dataset)}): open it as "
        f"an array with dataset={dataset.name!r} and dims=(...)"
    )


def sides(tree: Tree, dataset: h5py.Dataset) -> tuple[Side, Side]:
    """Dims of the rows and of the columns of a main dataset."""
    names = [POSITION, SPECTROSCOPIC, *([COMPONENT] if dataset.dtype.names else [])]
    found = []
    for axis, side in enumerate(("Position", "Spectroscopic")):
        names.remove((POSITION, SPECTROSCOPIC)[axis])
        indices, values = (_table(dataset, f"{side}_{what}") for what in ("Indices", "Values"))
        assert indices is not None
        assert values is not None
        labels = unique_dims(texts(attribute(indices, "labels")) or (), names)
        names += labels
        units = texts(attribute(values, "units")) or []
        marked = attribute(indices, "type")
        read = [read_all(tree, table) for table in (indices, values)]
        tables = read if axis == 0 else [table.T for table in read]
        found.append(
            side_from_tables(
                tables[0],
                tables[1],
                labels,
                units,
                fallback=(POSITION, SPECTROSCOPIC)[axis],
                incomplete=marked is not None and INCOMPLETE in np.atleast_1d(marked),
                texts_of={name: texts(attribute(values, f"{name}_names")) for name in labels},
            )
        )
    return found[0], found[1]
