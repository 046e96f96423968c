"""NSID files: N-dimensional datasets whose dims have dimension scales.

Definition: pyNSID 0.0.7 and sidpy 0.12 (``sidpy.Dataset``), https://pycroscopy.github.io/pyNSID.
"""

from __future__ import annotations

from typing import Any

import h5py
import xarray as xr

from penstock.io.hdf5.contents import (
    MainDataset,
    attribute,
    choose,
    datasets,
    listed,
    metadata,
    scaled_dims,
    text,
)
from penstock.io.hdf5.dataset import hdf5_dataset
from penstock.io.hdf5.links import Tree, open_tree

_BESIDE = ("metadata", "original_metadata", "provenance")
"""Groups beside a main dataset that describe it."""


def open_nsid(path: str, *, dtype: Any = None, dataset: str | None = None) -> xr.Dataset:
    """Open a main dataset of an NSID file; its values stay in the file until a region is read.

    Parameters
    ----------
    path : str
        The file.
    dtype : {"float32", "float64"}, optional
        Type of the values; complex values keep both parts, each of this type. Default: the type
        that they are stored in.
    dataset : str, optional
        Name of the main dataset, or an end of it that only one has. Default: the only one.

    Returns
    -------
    xarray.Dataset
        ``signal`` with dims named as in the file, in its order, and float64 coordinates with
        ``units``, ``long_name`` (the quantity) and ``dimension_type``. ``attrs`` hold ``source``,
        ``source_dataset``, ``data_type``, ``position_dims`` (those of type SPATIAL), and in
        ``metadata`` the attributes of the groups on the way to the dataset and of its groups of
        metadata and provenance: text and numbers, of which nothing is evaluated.

    Raises
    ------
    OSError, ValueError
        If the file is unusable, holds no such main dataset, or several.

    Examples
    --------
    >>> import os, tempfile
    >>> import h5py, penstock as ps
    >>> path = os.path.join(tempfile.mkdtemp(), "curve.h5")
    >>> with h5py.File(path, "w") as file:
    ...     curve = file.create_dataset("Channel_000/curve", data=[1.0, 4.0, 9.0])
    ...     curve.attrs.update(quantity="Current", units="nA", data_type="SPECTRUM")
    ...     file["Channel_000/bias"] = [-1.0, 0.0, 1.0]
    ...     file["Channel_000/bias"].make_scale()
    ...     curve.dims[0].attach_scale(file["Channel_000/bias"])
    >>> ps.open_dataset(path).bias.values.tolist()
    [-1.0, 0.0, 1.0]
    """
    with open_tree(path) as tree:
        found = nsid_datasets(tree)
        main = choose(found, dataset, path)
        if main is None:
            there = f"it holds {listed(found)}" if found else "it holds none at all"
            raise ValueError(
                f"{path} has no NSID main dataset{f' {dataset}' if dataset else ''}: {there}; "
                "open another dataset as an array with dataset=... and dims=(...)"
            )
        return nsid_dataset(tree, tree.dataset(main.name), dtype=dtype, name=main.name)


def nsid_datasets(tree: Tree) -> list[MainDataset]:
    """Main datasets of an open file, in the order of their names."""
    return datasets(tree, is_nsid)


def is_nsid(dataset: h5py.Dataset) -> bool:
    """Whether a dataset has what sidpy needs: quantity, units, type of data, and scaled dims."""
    required = ("quantity", "units", "data_type")
    return (
        bool(dataset.shape)
        and all(text(attribute(dataset, name)) is not None for name in required)
        and all(len(dimension) for dimension in dataset.dims)
    )


def nsid_dataset(tree: Tree, dataset: h5py.Dataset, **options: Any) -> xr.Dataset:
    """The Penstock dataset of a main dataset in an open file (options as of `hdf5_dataset`)."""
    dims, coords = scaled_dims(tree, dataset)
    spatial = [
        d for d in dims if d in coords and coords[d].attrs.get("dimension_type") == "SPATIAL"
    ]
    return hdf5_dataset(
        tree,
        dataset,
        dims,
        coords,
        data_model="NSID",
        data_type=text(attribute(dataset, "data_type")),
        position_dims=spatial,
        metadata=metadata(dataset, _BESIDE),
        **options,
    )
