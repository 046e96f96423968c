"""Arrays as files hold them: their types in memory, names and units that users give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, sampled_coordinate
from penstock.io.packing import Decoding
from penstock.messages import shown

COMPONENT = "component"
"""Name of the dim that the fields of a compound type become."""


class SeveralDatasetsError(ValueError):
    """A file holds several datasets, and none of them was chosen.

    Parameters
    ----------
    message : str
        One sentence with what can be chosen from.
    names : iterable of str
        All of them, as `penstock.open_dataset` takes them as ``dataset=``.
    """

    def __init__(self, message: str, names: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


def check_name(dataset: Any, path: str) -> None:
    """Raise a ValueError unless what stands for a dataset of a file is a name, or None."""
    if dataset is not None and not isinstance(dataset, str):
        raise ValueError(
            f"dataset={shown(dataset)} for {path} is no name: datasets are chosen by their name, "
            "as a text"
        )


def dim_names(dims: Any, path: str, fields: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Names for the axes of an array, given one by one or as one text (``"y,x,frequency"``).

    Parameters
    ----------
    dims : str or sequence of str
        The names.
    path : str
        The file, for errors.
    fields : tuple of str, optional
        Fields of a compound type, which have the dim ``component`` to themselves.

    Raises
    ------
    ValueError
        If they are no texts, empty, repeated, or mean something else already.
    """
    given = dims.split(",") if isinstance(dims, str) else dims
    given = list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(name, str) for name in given):
        raise ValueError(
            f"dims={shown(dims)} for {path} are no names: give one text for every axis, such as "
            'dims=("y", "x", "frequency")'
        )
    names = tuple(name.strip() for name in given)
    if "" in names:
        raise ValueError(f"dims={shown(dims)} for {path} has an empty name: give every axis one")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"dims={names} for {path} has the name {name!r} {names.count(name)} times: give "
                "every axis one of its own"
            )
        if name == SIGNAL or (fields and name == COMPONENT):
            what = "the values themselves" if name == SIGNAL else "the fields of its values"
            raise ValueError(
                f"dims={names} for {path}: {name!r} is the name of {what}, choose another"
            )
    return names


def result_type(stored: np.dtype, dtype: Any, what: str) -> tuple[np.dtype, tuple[str, ...]]:
    """Type that stored values have in memory, and the fields that become a dim of their own.

    ``dtype`` is float32 or float64; complex values become complex of that precision. None: the
    type that they are stored in (half precision becomes float32; NumPy's long double, which no
    store knows, float64). The fields of a compound type that are numbers become a last dim, of
    the type that holds all of them.

    Raises
    ------
    ValueError
        If the values are no numbers.
    """
    real = None if dtype is None else as_dtype(dtype)
    fields = number_fields(stored)
    if fields or stored.kind in "biufc":
        parts = [stored[name] for name in fields] or [stored]
        if real is None:
            return np.result_type(*(in_memory(part) for part in parts)), fields
        is_complex = any(part.kind == "c" for part in parts)
        return (np.result_type(real, np.complex64) if is_complex else real), fields
    if stored.names:
        raise ValueError(
            f"{what} has fields ({', '.join(stored.names)}) of which none holds numbers: choose "
            "another array"
        )
    if stored.hasobject:
        raise ValueError(
            f"{what} holds Python objects, which are never unpickled: save it as numbers"
        )
    raise ValueError(f"{what} holds {stored}, not numbers: choose another array")


def number_fields(stored: np.dtype) -> tuple[str, ...]:
    """Fields of a compound type that hold one number each: text beside them is left out."""
    names = stored.names or ()
    return tuple(n for n in names if stored[n].kind in "biufc" and not stored[n].shape)


def in_memory(stored: np.dtype) -> np.dtype:
    """The type in memory that holds stored numbers exactly."""
    if stored.kind == "f":
        return np.dtype(np.float32 if stored.itemsize <= 4 else np.float64)
    if stored.kind == "c":
        return np.dtype(np.complex64 if stored.itemsize <= 8 else np.complex128)
    # (an enumeration of HDF5 is the whole numbers that stand for its names)
    return np.dtype(stored.str).newbyteorder("=")


def stored_as(stored: np.dtype, target: np.dtype, fields: tuple[str, ...] = ()) -> str | None:
    """The type in the file, where that in memory is another; None where it is the same.

    Of a compound type the ``fields`` that are read, where the common type cannot hold all that
    one of them can: whole numbers of 64 bits beside floats are rounded beyond 2**53.
    """
    if not stored.names:
        plain = np.dtype(stored.str).newbyteorder("=")
        return None if plain == target else str(plain)
    parts = {name: np.dtype(stored[name].str).newbyteorder("=") for name in fields}
    long = {np.dtype(np.int64), np.dtype(np.uint64)}
    if all(
        np.can_cast(part, target) and not (target.kind in "fc" and part in long)
        for part in parts.values()
    ):
        return None
    return ", ".join(f"{name} {part}" for name, part in parts.items())


def convert(
    values: np.ndarray,
    out: np.ndarray,
    fields: tuple[str, ...],
    decoding: Decoding | None = None,
) -> None:
    """Write stored values to an array of another type; fields go along its last axis."""
    if decoding is not None:
        decoding.decode(values, out)
    elif not fields:
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
        (dims, values, attrs), or to a variable of xarray.
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
    if units is not None and not isinstance(units, str):
        raise ValueError(
            f"units={shown(units)} for {path} must be one text, the unit of the values: units of a "
            'coordinate are given with it, as coords={"f": ("f", values, {"units": "Hz"})}'
        )
    if coords is not None and not isinstance(coords, Mapping):
        raise ValueError(
            f"coords for {path} must map names to values, as coords={{name: values}}, got "
            f"{type(coords).__name__}"
        )
    if units is not None:
        ds[SIGNAL].attrs["units"] = units
    for name, given in (coords or {}).items():
        if isinstance(given, xr.Variable | xr.DataArray):
            over, values, attrs = tuple(map(str, given.dims)), given.values, dict(given.attrs)
        elif isinstance(given, tuple) and len(given) in (2, 3) and not np.isscalar(given[1]):
            over = (given[0],) if isinstance(given[0], str) else tuple(given[0])
            values, attrs = np.asarray(given[1]), given[2] if len(given) == 3 else {}
            if not isinstance(attrs, Mapping):
                raise ValueError(
                    f"coords: attributes of {name!r} for {path} must map names to values, such as "
                    f'{{"units": "Hz"}}, got {shown(attrs)}'
                )
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


def exact_type(stored: np.dtype) -> np.dtype:
    """The smallest floating type that holds every value of a stored type exactly.

    float32 for bool, integers of 16 bit and float16, float64 for wider ones; complex numbers keep
    both parts. (Integers of 64 bit have no larger float than float64.)
    """
    return np.result_type(stored.newbyteorder("="), np.float32)


def as_dtype(dtype: Any) -> np.dtype:
    """float32 or float64."""
    result = np.dtype(dtype)
    if result not in (np.float32, np.float64):
        raise ValueError(f"dtype must be 'float32' or 'float64', got {str(dtype)!r}")
    return result
