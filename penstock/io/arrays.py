"""Arrays as files hold them: their types in memory, names and units that users give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, sampled_coordinate

COMPONENT = "component"
"""Name of the dim that the fields of a compound type become."""


def result_type(stored: np.dtype, dtype: Any, what: str) -> tuple[np.dtype, tuple[str, ...]]:
    """Type that stored values have in memory, and the fields that become a dim of their own.

    ``dtype`` is float32 or float64; complex values become complex of that precision. The fields of
    a compound type become a last dim, of the type that holds all of them.

    Raises
    ------
    ValueError
        If the values are no numbers.
    """
    real = as_dtype(dtype)
    fields = stored.names or ()
    kinds = {stored[name].kind if not stored[name].shape else "V" for name in fields}
    if (fields and kinds <= set("biufc")) or stored.kind in "biufc":
        is_complex = "c" in kinds or stored.kind == "c"
        return (np.result_type(real, np.complex64) if is_complex else real), fields
    if stored.hasobject:
        raise ValueError(
            f"{what} holds Python objects, which are never unpickled: save it as numbers"
        )
    raise ValueError(f"{what} holds {stored}, not numbers: choose another array")


def convert(values: np.ndarray, out: np.ndarray, fields: tuple[str, ...]) -> None:
    """Write stored values to an array of another type; fields go along its last axis."""
    if not fields:
        np.copyto(out, values, casting="unsafe")
    for i, name in enumerate(fields):
        np.copyto(out[..., i], values[name], casting="unsafe")


def described(
    ds: xr.Dataset,
    coords: Mapping[str, Any] | None,
    units: str | None,
    sampling_frequency: float | None,
) -> xr.Dataset:
    """A dataset with the coordinates, the unit and the sampling frequency that the user gives.

    Parameters
    ----------
    ds : xarray.Dataset
        Whose ``attrs["source"]`` is named in errors.
    coords : mapping or None
        Dim to values along it (numbers become float64), or name to (dims, values) or
        (dims, values, attrs).
    units : str or None
        Unit of the signal.
    sampling_frequency : float or None
        Samples per second along ``time`` [Hz], for the virtual time coordinate.

    Raises
    ------
    ValueError
        If they do not fit the dataset.
    """
    path, dims = ds.attrs["source"], tuple(map(str, ds[SIGNAL].dims))
    if units is not None:
        ds[SIGNAL].attrs["units"] = units
    for name, given in (coords or {}).items():
        if isinstance(given, tuple) and len(given) in (2, 3) and not np.isscalar(given[1]):
            over = (given[0],) if isinstance(given[0], str) else tuple(given[0])
            values, attrs = np.asarray(given[1]), given[2] if len(given) == 3 else {}
        else:
            over, values, attrs = (name,), np.asarray(given), {}
        if name in dims and values.dtype.kind in "iuf":
            values = values.astype(np.float64)
        wanted = {dim: ds.sizes.get(dim) for dim in over}
        if values.shape != tuple(wanted.values()):
            raise ValueError(
                f"coords: {name!r} has the shape {values.shape} along {over}, but {path} has "
                + ", ".join(f"{dim}: {ds.sizes[dim]}" for dim in dims)
            )
        ds = ds.assign_coords({name: (over, values, attrs)})
    if sampling_frequency is not None:
        if "time" not in dims:
            raise ValueError(
                f"sampling_frequency needs a dim 'time', but {path} has {dims}: name its axes "
                "with dims=(...)"
            )
        ds = ds.assign_coords(sampled_coordinate("time", ds.sizes["time"], sampling_frequency))
    return ds


def as_dtype(dtype: Any) -> np.dtype:
    """float32 or float64."""
    result = np.dtype(dtype)
    if result not in (np.float32, np.float64):
        raise ValueError(f"dtype must be 'float32' or 'float64', got {str(dtype)!r}")
    return result
