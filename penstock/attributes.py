"""Attributes of datasets: what every format and every process can hold.

xarray writes text, numbers and lists of one of them everywhere (NetCDF, Zarr). What is nested, such
as the pipeline that made a result or the metadata of an instrument, is carried as text (JSON) and
read back with `nested_attribute`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr


def provenance(ds: xr.Dataset) -> dict[str, Any]:
    """What made a result, as its store keeps it: pipeline, parameters, versions, source, notes.

    Parameters
    ----------
    ds : xarray.Dataset
        A result, as `penstock.open_dataset` opens it. ``attrs["penstock"]`` holds all this as text
        (JSON), so that ``ds.to_netcdf`` and other writers of xarray take it along.

    Returns
    -------
    dict
        Empty where Penstock did not make the dataset.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> ps.provenance(ps.make_dataset(np.zeros((2, 10)), sampling_frequency=10.0))
    {}
    """
    return nested_attribute(ds.attrs, "penstock")


def nested_attribute(attrs: Mapping[Any, Any], name: str) -> dict[str, Any]:
    """A nested attribute as a dictionary; empty where there is none."""
    found = attrs.get(name) or {}
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            return {}
    return dict(found) if isinstance(found, Mapping) else {}


def as_plain_attributes(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as every format holds them: text, numbers, and lists of one of them.

    Mappings and mixed or nested lists become text (JSON), truth values 0 or 1, and None is left
    out.
    """
    plain: dict[str, Any] = {}
    for key, value in attrs.items():
        if isinstance(value, bool | np.bool_):
            plain[str(key)] = int(value)
        elif _is_nested(value):
            plain[str(key)] = json.dumps(value, default=_as_json)
        elif value is not None:
            plain[str(key)] = value
    return plain


def _is_nested(value: Any) -> bool:
    if not isinstance(value, list | tuple):
        return isinstance(value, Mapping)
    numbers = [isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in value]
    return not (all(numbers) or all(isinstance(each, str) for each in value))


def _as_json(value: Any) -> Any:
    """What JSON does not know: arrays and numbers of NumPy as lists and numbers, others as text."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
