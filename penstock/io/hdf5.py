"""HDF5 files: which model a file follows (h5USID, NSID or none), and arrays without a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import xarray as xr

from penstock.dataset import SIGNAL
from penstock.io.arrays import COMPONENT, check_name, described, dim_names
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
from penstock.local_paths import local_path


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
    path = local_path(path)
    with open_file(path) as file:
        return main_datasets(file) + nsid_datasets(file)


def open_hdf5(
    path: str,
    *,
    dtype: Any = None,
    dataset: str | None = None,
    dims: str | Sequence[str] | None = None,
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
    dtype : {"float32", "float64"}, optional
        Type of the values; complex values keep both parts, each of this type. Default: the type
        that they are stored in.
    dataset : str, optional
        Name of the dataset, or an end of it that only one has. Default: the only main dataset, or
        the only array of numbers.
    dims : str or sequence of str, optional
        Names for the dims, in their order, also as one text (``"y,x,frequency"``). Those of a main
        dataset are renamed and keep their coordinates; other datasets, also those whose tables are
        broken, are opened as arrays whose axes get these names. Default: labels and dimension
        scales in the file, otherwise ``dim_0``, ``dim_1``, ...
    coords : mapping, optional
        Dim to values along it, or coordinates as for `xarray.Dataset`, with their units:
        ``{"frequency": ("frequency", values, {"units": "Hz"})}``; over those in the file.
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
        If the file is unusable or holds no such dataset.
    SeveralDatasetsError
        If it holds several, with their ``names``.

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
        fields = item.dtype.names
        names = None if dims is None else dim_names(dims, path, fields)
        if why_not_main(item) is None:
            ds = _renamed(usid_dataset(item, dtype=dtype, path=path), names, fields)
        elif names is None and refers_to_tables(item):
            raise ValueError(not_main(item, path))
        elif is_nsid(item):
            ds = _renamed(nsid_dataset(item, dtype=dtype, path=path), names, fields)
        else:
            ds = _array(item, names, dtype, path)
    return described(ds, coords, units, sampling_frequency)


def _chosen(file: h5py.File, wanted: str | None, path: str, *, as_array: bool) -> h5py.Dataset:
    check_name(wanted, path)
    if wanted is not None and isinstance(file.get(wanted), h5py.Dataset):
        return file[wanted]
    mains = main_datasets(file) + nsid_datasets(file)
    main = choose(mains, wanted, path)
    if main is None and wanted is None and not as_array and datasets(file, refers_to_tables):
        return find_main(file, None, path)  # (says why there is none)
    if main is None:
        arrays = datasets(file, _is_array)
        # of broken main datasets and their tables, nobody means the tables
        broken = datasets(file, lambda item: _is_array(item) and refers_to_tables(item))
        main = choose(broken, wanted, path) or choose(arrays, wanted, path)
        if main is None:
            found = mains or arrays
            there = f"it holds {listed(found)}" if found else "it holds no array of numbers"
            raise ValueError(f"{path} has no dataset{f' {wanted}' if wanted else ''}: {there}")
    return file[main.name]


def _is_array(dataset: h5py.Dataset) -> bool:
    numeric = dataset.dtype.kind in "biufc" or dataset.dtype.names is not None
    is_scale = text(attribute(dataset, "CLASS")) == "DIMENSION_SCALE"
    return bool(dataset.ndim and numeric and not is_scale)


def _renamed(
    ds: xr.Dataset, names: tuple[str, ...] | None, fields: tuple[str, ...] | None
) -> xr.Dataset:
    """A main dataset with other names for its dims; what belongs to a dim is renamed with it."""
    if names is None:
        return ds
    dims = tuple(str(dim) for dim in ds[SIGNAL].dims if not (fields and dim == COMPONENT))
    what = f"{ds.attrs['source_dataset'].lstrip('/')} of {ds.attrs['source']}"
    if len(names) != len(dims):
        raise ValueError(
            f"{what} has the dims {dims}: dims={names} must name every one of them, in this order"
        )
    new_names = dict(zip(dims, names, strict=True))
    for dim, name in zip(dims, names, strict=True):
        values = f"{dim}_values"  # (of a dimension that depends on others)
        if values in ds.coords and values not in dims:
            new_names[values] = f"{name}_values"
    kept = {str(name) for name in ds.variables} - set(new_names)
    taken = [name for name in new_names.values() if name in kept]
    if taken:
        raise ValueError(
            f"{what} has a coordinate {taken[0]!r} along {ds[taken[0]].dims}: choose another name "
            f"in dims={names}"
        )
    ds = ds.rename(new_names)
    ds.attrs["position_dims"] = [new_names[dim] for dim in ds.attrs["position_dims"]]
    return ds


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
