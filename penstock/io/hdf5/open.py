"""HDF5 files: which model a file follows (h5USID, NSID or none), and arrays without a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import xarray as xr

from penstock.dataset import SIGNAL
from penstock.io.arrays.arrays import (
    COMPONENT,
    SeveralDatasetsError,
    check_name,
    described,
    dim_names,
    number_fields,
)
from penstock.io.hdf5.axes import MODELS, is_matlab_text, matlab_axes
from penstock.io.hdf5.contents import (
    MainDataset,
    attribute,
    choose,
    datasets,
    describe,
    listed,
    metadata,
    scaled_dims,
    text,
    with_entry_dims,
)
from penstock.io.hdf5.dataset import hdf5_dataset
from penstock.io.hdf5.links import Tree, open_tree
from penstock.io.hdf5.nexus import nexus_axes, nexus_signals
from penstock.io.hdf5.nsid import is_nsid, nsid_dataset, nsid_datasets
from penstock.io.hdf5.stored_types import entry_type
from penstock.io.hdf5.usid import (
    find_main,
    main_datasets,
    not_main,
    refers_to_tables,
    usid_dataset,
    why_not_main,
)
from penstock.io.hdf5.velox import velox_axes
from penstock.io.packing import complex_pair
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
    with open_tree(path) as tree:
        return main_datasets(tree) + nsid_datasets(tree)


def open_hdf5(
    path: str,
    *,
    dtype: Any = None,
    dataset: str | None = None,
    dims: str | Sequence[str] | None = None,
    coords: Mapping[str, Any] | None = None,
    units: str | None = None,
    sampling_frequency: float | None = None,
    mask_and_scale: bool = True,
    links_within: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Open a dataset of an HDF5 file; its values stay in the file until a region is read.

    Main datasets of h5USID and NSID files are opened as such, those of NeXus, HyperSpy, EMD, NIX
    and MATLAB 7.3 with the axes described beside them, others as arrays.

    Parameters
    ----------
    path : str
        The file.
    dtype : {"float32", "float64"}, optional
        Type of the values; complex values keep both parts, each of this type. Default: the type
        that they are stored in.
    dataset : str, optional
        Name of the dataset, or an end of it that only one has; ``cell{3}`` is the third entry of
        a cell array of MATLAB. Default: the only main dataset, the default plot of a NeXus file,
        or the only array of numbers.
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
    mask_and_scale : bool, default True
        Whether values packed after the CF conventions (``scale_factor``, ``add_offset``,
        ``_FillValue``, ``missing_value``, ``valid_range``, ``_Unsigned``) or those of NeXus and
        NIX become what they stand for, NaN where they stand for nothing.
    links_within : path, optional
        Folder in which files may lie that links, virtual datasets and external storage lead to.
        Default: that of the file itself. Others are not followed.

    Returns
    -------
    xarray.Dataset
        As `penstock.io.hdf5.usid.open_usid` and `penstock.io.hdf5.nsid.open_nsid` describe. For
        arrays, fields of a compound type that are numbers are a last dim ``component`` (a real and
        an imaginary part complex numbers), text of a table is a coordinate; ``attrs`` hold
        ``source``, ``source_dataset``, ``metadata``, in ``left_out`` fields of other kinds, and in
        ``broken_links`` what links of the file could not be followed, in ``unreadable`` datasets
        of types that NumPy does not know.

    Raises
    ------
    OSError, ValueError
        If the file is unusable or holds no such dataset, or its values are not there: the source
        of a virtual dataset is missing, a link leads out of the folder, a filter is not installed.
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
    within = None if links_within is None else os.fspath(links_within)
    options: dict[str, Any] = {"dtype": dtype, "mask_and_scale": mask_and_scale}
    with open_tree(path, within) as tree:
        name, item = _chosen(tree, dataset, path, as_array=dims is not None)
        fields = () if complex_pair(item.dtype) is not None else number_fields(item.dtype)
        names = None if dims is None else dim_names(dims, path, fields)
        options["name"] = name
        if why_not_main(item) is None:
            ds = _renamed(usid_dataset(tree, item, **options), names, fields)
        elif names is None and refers_to_tables(item):
            raise ValueError(not_main(item, path))
        elif is_nsid(item):
            ds = _renamed(nsid_dataset(tree, item, **options), names, fields)
        else:
            ds = _array(tree, item, names, path, options)
        if dataset is None and tree.broken:
            ds.attrs["broken_links"] = list(tree.broken)
        if dataset is None and tree.unreadable:
            ds.attrs["unreadable"] = list(tree.unreadable)
    return described(ds, coords, units, sampling_frequency)


def _chosen(
    tree: Tree, wanted: str | None, path: str, *, as_array: bool
) -> tuple[str, h5py.Dataset]:
    """The dataset that is meant, with its full name."""
    check_name(wanted, path)
    if wanted is not None:
        item = tree.dataset(wanted)
        if item is not None:
            return "/" + wanted.strip("/"), item
    found = _found(tree, wanted, path, as_array=as_array)
    item = tree.dataset(found.name)
    assert item is not None
    return found.name, item


def _found(tree: Tree, wanted: str | None, path: str, *, as_array: bool) -> MainDataset:
    mains = main_datasets(tree) + nsid_datasets(tree)
    main = choose(mains, wanted, path)
    if main is not None:
        return main
    if wanted is None and not as_array and datasets(tree, refers_to_tables):
        find_main(tree, None, path)  # (says why there is none)
    arrays = datasets(tree, _is_array)
    broken_links = list(tree.broken)
    # of broken main datasets and their tables, nobody means the tables
    broken = datasets(tree, lambda item: _is_array(item) and refers_to_tables(item))
    meant = [broken]
    if wanted is None:
        meant += [nexus_signals(tree), _with_axes(tree, arrays)]
    for candidates in (*meant, arrays):
        try:
            main = choose(candidates, wanted, path)
        except SeveralDatasetsError as error:
            tree.broken[:] = broken_links
            more = f"; {_broken(broken_links)}" if broken_links else ""
            raise SeveralDatasetsError(f"{error}{more}", error.names) from None
        if main is not None:
            tree.broken[:] = broken_links
            return main
    found = mains or arrays
    there = f"it holds {listed(found)}" if found else "it holds no array of numbers"
    if broken_links:
        there += f"; {_broken(broken_links)}"
    elif not found and tree.unreadable:
        there += f"; {tree.unreadable[0]}"
    raise ValueError(f"{path} has no dataset{f' {wanted}' if wanted else ''}: {there}")


def _broken(links: Sequence[str]) -> str:
    """What is wrong with links, for an error."""
    return links[0] + (f" (and {len(links) - 1} more links)" if len(links) > 1 else "")


def _with_axes(tree: Tree, arrays: Sequence[MainDataset]) -> list[MainDataset]:
    """Those whose axes one of the models describes beside them."""
    found = []
    for array in arrays:
        item = tree.dataset(array.name)
        models = (*MODELS, velox_axes)
        if item is not None and any(model(tree, array.name, item) for model in models):
            found.append(array)
    return found


def _is_array(dataset: h5py.Dataset) -> bool:
    stored, _ = entry_type(dataset.dtype)
    numeric = stored.kind in "biufc" or bool(number_fields(dataset.dtype))
    is_scale = text(attribute(dataset, "CLASS")) == "DIMENSION_SCALE"
    return bool(dataset.shape and numeric and not is_scale and not is_matlab_text(dataset))


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


def _array(
    tree: Tree,
    dataset: h5py.Dataset,
    names: Sequence[str] | None,
    path: str,
    options: dict[str, Any],
) -> xr.Dataset:
    name = options["name"]
    what = f"{name} of {path}"
    if not dataset.shape:
        kind = "empty" if dataset.shape is None else "a single value"
        raise ValueError(f"{what} is {kind}: choose a dataset with axes")
    if is_matlab_text(dataset):
        raise ValueError(
            f"{what} holds text, references or nothing, not numbers: choose another array, or an "
            f"entry of a cell array as dataset='{name.strip('/')}{{1}}'"
        )
    about: dict[str, Any] = {"data_model": "HDF5", "metadata": metadata(dataset)}
    axes = None
    for model in (nexus_axes, *MODELS, velox_axes, matlab_axes):
        axes = axes or model(tree, name, dataset)
    if axes is None:
        dims, coords = scaled_dims(tree, dataset)
    else:
        dims, coords = axes.dims, dict(axes.coords)
        about |= {"data_model": axes.model, **axes.attrs}
        options = {**options, "packed": axes.packed, "backwards": axes.backwards}
        options["about"] = axes.about
    dims = with_entry_dims(dims, dataset, coords)
    if names is not None and len(names) != len(dims):
        raise ValueError(
            f"{describe(dataset, name)} of {path} has {len(dims)} axes: dims={tuple(names)} "
            "must name every one of them"
        )
    if names is not None:
        renamed = dict(zip(dims, names, strict=True))
        coords = {} if axes is None else _renamed_coords(coords, renamed)
        positions = about.get("position_dims")
        if positions is not None:
            about["position_dims"] = [renamed[dim] for dim in positions]
        dims = tuple(names)
    return hdf5_dataset(tree, dataset, dims, coords, **options, **about)


def _renamed_coords(
    coords: Mapping[str, xr.Variable], renamed: Mapping[str, str]
) -> dict[str, xr.Variable]:
    """Coordinates over dims of other names; those that would be called as one are left out."""
    result = {}
    for name, variable in coords.items():
        new = renamed.get(name, name)
        if name in renamed or new not in renamed.values():
            over = tuple(renamed[str(dim)] for dim in variable.dims)
            result[new] = xr.Variable(over, variable.values, variable.attrs)
    return result
