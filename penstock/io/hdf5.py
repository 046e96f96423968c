"""HDF5 files: which model a file follows (h5USID, NSID or none), and arrays without a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import xarray as xr

from penstock.io.arrays import described
from penstock.io.hdf5_contents import (
    MainDataset,
    attribute,
    choose,
    datasets,
    describe,
    listed,
    metadata,
    scaled_dims,
    text,
)
from penstock.io.hdf5_region import hdf5_dataset, open_file
from penstock.io.nsid import is_nsid, nsid_dataset, nsid_datasets
from penstock.io.usid import (
    find_main,
    main_datasets,
    not_main,
    refers_to_tables,
    usid_dataset,
    why_not_main,
)


def list_main_datasets(path: str | os.PathLike[str]) -> list[MainDataset]:
    """The measurements and results in an HDF5 file of the h5USID or NSID kind.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    list of MainDataset
        ``name`` (what `penstock.open_dataset` takes as ``dataset=``), ``shape``, ``dtype``,
        ``quantity`` and ``units`` of each, in the order of their names; empty for other files.

    Raises
    ------
    OSError, ValueError
        If the file is unusable.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, penstock as ps
    >>> path = os.path.join(tempfile.mkdtemp(), "scan.h5")
    >>> scan = ps.make_dataset(np.ones((8, 9, 119)), ("y", "x", "frequency"), units="pm")
    >>> _ = ps.io.write_usid(scan, path)
    >>> print(ps.io.list_main_datasets(path)[0])
    Measurement_000/Channel_000/Raw_Data (signal [pm], 72 x 119)
    """
    path = os.path.abspath(os.path.expanduser(os.fspath(path)))
    with open_file(path) as file:
        return main_datasets(file) + nsid_datasets(file)


def open_hdf5(
    path: str,
    *,
    dtype: Any = "float32",
    dataset: str | None = None,
    dims: Sequence[str] | None = None,
    coords: Mapping[str, Any] | None = None,
    units: str | None = None,
    sampling_frequency: float | None = None,
) -> xr.Dataset:
    """Open a dataset of an HDF5 file; its values stay in the file until a region is read.

    Main datasets of h5USID and NSID files are opened as such, others as arrays.

    Parameters
    ----------
    path : str
        The file.
    dtype : {"float32", "float64"}, default "float32"
        Type of the values; complex values keep both parts, each of this type.
    dataset : str, optional
        Name of the dataset, or an end of it that only one has. Default: the only main dataset, or
        the only array of numbers.
    dims : sequence of str, optional
        Names for the axes of the dataset as it is stored: it is then opened as an array, whatever
        it is. Default: labels and dimension scales in the file, otherwise ``dim_0``, ``dim_1``, ...
    coords : mapping, optional
        Dim to values along it, or coordinates as for `xarray.Dataset`, over those in the file.
    units : str, optional
        Physical unit of the values, over that in the file.
    sampling_frequency : float, optional
        Samples per second along ``time`` [Hz].

    Returns
    -------
    xarray.Dataset
        As `penstock.io.usid.open_usid` and `penstock.io.nsid.open_nsid` describe. For arrays,
        fields of a compound type are a last dim ``component``; ``attrs`` hold ``source``,
        ``source_dataset`` and ``metadata``.

    Raises
    ------
    OSError, ValueError
        If the file is unusable, holds no such dataset, or several.

    Examples
    --------
    >>> import os, tempfile
    >>> import h5py, numpy as np, penstock as ps
    >>> path = os.path.join(tempfile.mkdtemp(), "spectra.h5")
    >>> with h5py.File(path, "w") as file:
    ...     file["spectra"] = np.zeros((8, 9, 100))
    >>> dict(ps.open_dataset(path, dims=("y", "x", "frequency")).sizes)
    {'y': 8, 'x': 9, 'frequency': 100}
    """
    with open_file(path) as file:
        item = _chosen(file, dataset, path, as_array=dims is not None)
        if dims is None and why_not_main(item) is None:
            ds = usid_dataset(item, dtype=dtype, path=path)
        elif dims is None and refers_to_tables(item):
            raise ValueError(not_main(item, path))
        elif dims is None and is_nsid(item):
            ds = nsid_dataset(item, dtype=dtype, path=path)
        else:
            ds = _array(item, dims, dtype, path)
    return described(ds, coords, units, sampling_frequency)


def _chosen(file: h5py.File, wanted: str | None, path: str, *, as_array: bool) -> h5py.Dataset:
    if wanted is not None and isinstance(file.get(wanted), h5py.Dataset):
        return file[wanted]
    mains = main_datasets(file) + nsid_datasets(file)
    main = None
    if wanted is not None or not as_array:
        main = choose(mains, wanted, path)
    if main is None and wanted is None and not as_array and datasets(file, refers_to_tables):
        return find_main(file, None, path)  # (says why there is none)
    if main is None:
        arrays = datasets(file, _is_array)
        main = choose(arrays, wanted, path)
        if main is None:
            found = mains or arrays
            there = f"it holds {listed(found)}" if found else "it holds no array of numbers"
            raise ValueError(f"{path} has no dataset{f' {wanted}' if wanted else ''}: {there}")
    return file[main.name]


def _is_array(dataset: h5py.Dataset) -> bool:
    numeric = dataset.dtype.kind in "biufc" or dataset.dtype.names is not None
    is_scale = text(attribute(dataset, "CLASS")) == "DIMENSION_SCALE"
    return bool(dataset.ndim and numeric and not is_scale)


def _array(dataset: h5py.Dataset, dims: Sequence[str] | None, dtype: Any, path: str) -> xr.Dataset:
    if not dataset.ndim:
        raise ValueError(f"{dataset.name} of {path} is a single value: choose a dataset with axes")
    coords: Mapping[str, xr.Variable] = {}
    if dims is None:
        dims, coords = scaled_dims(dataset)
    if len(dims) != dataset.ndim:
        raise ValueError(
            f"{describe(dataset)} of {path} has {dataset.ndim} axes: dims={tuple(dims)} must name "
            "every one of them"
        )
    return hdf5_dataset(
        dataset,
        tuple(dims),
        coords,
        dtype=dtype,
        path=path,
        data_model="HDF5",
        metadata=metadata(dataset),
    )
