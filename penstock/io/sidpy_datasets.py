"""To sidpy and back: spectra and images of the pycroscopy packages without loss."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from penstock.attributes import nested_attribute
from penstock.dataset import SIGNAL, check_dataset, make_dataset
from penstock.io.registry import MissingExtraError

GENERIC = "generic"
"""What sidpy puts where nothing is said."""
POSITION_TYPES = frozenset({"SPATIAL", "POINT_CLOUD"})
"""Types of dims that are positions."""
_KEY = "penstock"
"""In the metadata of a sidpy dataset: what it has no place for."""
_SAID = {"title": "title", "modality": "modality", "source": "instrument"}
"""Attributes of a sidpy dataset to those of ours."""


def to_sidpy(ds: xr.Dataset) -> Any:
    """A sidpy dataset of the same values, lazy where these are.

    Parameters
    ----------
    ds : xarray.Dataset
        With real or complex values over any dims.

    Returns
    -------
    sidpy.Dataset
        With the units and the quantity (``long_name``) of the signal, a `sidpy.Dimension` for
        every dim (values, units, quantity, type), the data type (that of ``attrs["data_type"]``,
        otherwise what the dims say), ``metadata`` and ``original_metadata``. What sidpy has no
        place for is in ``metadata["penstock"]``, where `from_sidpy` finds it again.

    Raises
    ------
    ImportError
        Without sidpy.
    ValueError
        If the dataset holds results, whose variables are datasets of their own.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ds = ps.make_dataset(np.zeros((4, 5, 60)), ("y", "x", "energy"), units="nA")
    >>> ps.to_sidpy(ds).data_type.name  # doctest: +SKIP
    'SPECTRAL_IMAGE'
    """
    from penstock.pipeline import Pipeline

    sidpy = _sidpy()
    signal = check_dataset(ds)[SIGNAL]
    lazy = ds if signal.chunks is not None else Pipeline([])(ds)
    attrs = dict(ds.attrs)
    made = sidpy.Dataset.from_array(
        lazy[SIGNAL].data,
        title=str(attrs.get("title", signal.name)),
        units=str(signal.attrs.get("units", GENERIC)),
        quantity=str(signal.attrs.get("long_name", GENERIC)),
        modality=str(attrs.get("modality", GENERIC)),
        source=str(attrs.get("instrument", GENERIC)),
    )
    types = {str(dim): _dimension_type(ds, str(dim)) for dim in signal.dims}
    for axis, dim in enumerate(map(str, signal.dims)):
        along = ds[dim] if dim in ds.coords else None
        numbers = along is not None and along.dtype.kind in "biuf"
        said = along.attrs if along is not None else {}
        values = along.values if along is not None and numbers else np.arange(ds.sizes[dim])
        made.set_dimension(
            axis,
            sidpy.Dimension(
                np.asarray(values),
                name=dim,
                units=str(said.get("units", GENERIC)),
                quantity=str(said.get("long_name", GENERIC)),
                dimension_type=types[dim],
            ),
        )
    made.data_type = attrs.get("data_type") or _data_type(types.values())
    for name in ("metadata", "original_metadata", "provenance"):
        found = nested_attribute(attrs, name)
        if found or name != "provenance":
            setattr(made, name, found)
            attrs.pop(name, None)
    made.metadata[_KEY] = {
        "attrs": _plain(attrs),
        "signal_attrs": _plain(signal.attrs),
        "coords": {
            str(name): {
                "dims": list(map(str, coord.dims)),
                "values": _plain(coord.values.tolist()),
                "dtype": coord.dtype.str,
                "attrs": _plain(coord.attrs),
            }
            for name, coord in ds.coords.items()
        },
    }
    return made


def from_sidpy(dataset: Any) -> xr.Dataset:
    """A dataset of the values of a sidpy dataset, lazy as these.

    Parameters
    ----------
    dataset : sidpy.Dataset
        Of any data type.

    Returns
    -------
    xarray.Dataset
        ``signal`` with ``units`` and ``long_name`` (the quantity); coordinates with ``units``,
        ``long_name`` and ``dimension_type``; ``attrs`` hold ``data_type``, ``title``,
        ``modality``, ``instrument`` (the source), ``metadata``, ``original_metadata``,
        ``provenance`` and ``position_dims``. Points of a cloud have their places in the
        coordinate ``point_cloud_coordinates``; a variance is a variable ``variance``.

    Raises
    ------
    TypeError
        If it is no sidpy dataset.

    Examples
    --------
    >>> import penstock as ps
    >>> ds = ps.from_sidpy(sidpy_dataset)  # doctest: +SKIP
    """
    if not hasattr(dataset, "_axes") or not hasattr(dataset, "dask"):
        raise TypeError(
            f"expected a sidpy.Dataset, got {type(dataset).__name__}: wrap arrays with "
            "penstock.make_dataset(array, dims)"
        )
    metadata = dict(dataset.metadata or {})
    kept = metadata.pop(_KEY, {})
    axes = [dataset._axes[axis] for axis in range(dataset.ndim)]
    dims = tuple(str(axis.name) for axis in axes)
    coords: dict[str, Any] = {}
    for dim, axis in zip(dims, axes, strict=True):
        said = {"units": axis.units, "long_name": axis.quantity}
        attrs = {key: value for key, value in said.items() if value and value != GENERIC}
        attrs["dimension_type"] = axis.dimension_type.name
        coords[dim] = (dim, np.asarray(axis.values, dtype=np.float64), attrs)
    types = {dim: axis.dimension_type.name for dim, axis in zip(dims, axes, strict=True)}
    about: dict[str, Any] = {"data_type": dataset.data_type.name}
    for theirs, ours in _SAID.items():
        value = getattr(dataset, theirs)
        if value and value != GENERIC:
            about[ours] = value
    for name in ("metadata", "original_metadata", "provenance"):
        value = metadata if name == "metadata" else dict(getattr(dataset, name) or {})
        if value:
            about[name] = value
    about["position_dims"] = [dim for dim in dims if types[dim] in POSITION_TYPES]
    said = {"units": dataset.units, "long_name": dataset.quantity}
    signal_attrs = {key: value for key, value in said.items() if value and value != GENERIC}
    ds = make_dataset(xr.Variable(dims, _plain_dask(dataset), signal_attrs), attrs=about)
    ds = ds.assign_coords(coords)
    cloud = getattr(dataset, "point_cloud", None)
    if isinstance(cloud, Mapping) and cloud.get("coordinates") is not None:
        places = np.asarray(cloud["coordinates"])
        ds = ds.assign_coords(point_cloud_coordinates=((dims[0], "point_cloud_axis"), places))
    if getattr(dataset, "variance", None) is not None:
        ds = ds.assign(variance=(dims, _plain_dask(dataset.variance)))
    return _restored(ds, kept) if kept else ds


def _restored(ds: xr.Dataset, kept: Mapping[str, Any]) -> xr.Dataset:
    """What `to_sidpy` has kept for us, where the dims still are what they were."""
    about = dict(kept.get("attrs", {}))
    for name in ("metadata", "original_metadata"):
        if name in ds.attrs:
            about[name] = ds.attrs[name]
    kept_dims = {dim for c in kept["coords"].values() for dim in c["dims"]}
    same = kept_dims <= set(map(str, ds.dims))
    ds = ds.assign_attrs({**about, "data_type": ds.attrs["data_type"]})
    if "data_type" not in about:
        del ds.attrs["data_type"]
    for name in ("title", "modality", "instrument", "provenance", "position_dims"):
        if name not in about:
            ds.attrs.pop(name, None)
    if not same:
        return ds
    had = set(kept["coords"])
    ds = ds.drop_vars([str(dim) for dim in ds[SIGNAL].dims if dim not in had])
    for name, coord in kept["coords"].items():
        values = np.array(coord["values"], dtype=coord["dtype"])
        if values.shape == tuple(ds.sizes[dim] for dim in coord["dims"]):
            ds = ds.assign_coords({name: (coord["dims"], values, coord["attrs"])})
    ds[SIGNAL].attrs.update(kept["signal_attrs"])
    return ds


def _plain_dask(dataset: Any) -> Any:
    """The dask array that a sidpy dataset is, without what sidpy adds to it."""
    import dask.array

    if not hasattr(dataset, "dask"):
        return np.asarray(dataset)
    meta = np.empty((0,) * dataset.ndim, dataset.dtype)
    return dask.array.Array(dataset.dask, dataset.name, dataset.chunks, meta=meta)


def _dimension_type(ds: xr.Dataset, dim: str) -> str:
    said = ds[dim].attrs.get("dimension_type") if dim in ds.coords else None
    if said:
        return str(said).upper()
    if dim in ds.attrs.get("position_dims", ()) or dim in ("x", "y", "z"):
        return "SPATIAL"
    return "TEMPORAL" if dim == "time" else "SPECTRAL"


def _data_type(types: Any) -> str:
    spatial = sum(kind == "SPATIAL" for kind in types)
    others = sum(kind != "SPATIAL" for kind in types)
    known = {
        (0, 1): "SPECTRUM",
        (1, 1): "SPECTRAL_IMAGE",
        (2, 0): "IMAGE",
        (2, 1): "SPECTRAL_IMAGE",
        (2, 2): "IMAGE_4D",
        (3, 0): "IMAGE_STACK",
    }
    return known.get((spatial, others), "UNKNOWN")


def _plain(value: Any) -> Any:
    """A value as JSON knows it, so that it can be written into files with the rest."""
    return json.loads(json.dumps(value, default=lambda v: getattr(v, "tolist", v.__repr__)()))


def _sidpy() -> Any:
    try:
        return importlib.import_module("sidpy")
    except ImportError as error:
        raise MissingExtraError("a dataset of sidpy needs sidpy: pip install sidpy") from error
