"""Python values of MNE-Python's `Info` as JSON text, and back without loss.

Text, so that it lives in attributes and coordinates of a dataset, goes into Zarr and NetCDF, and
can be read; nothing in it is ever executed. (`mne.Info.to_json_dict` loses tuples and the sparse
matrices of Maxfilter's history.)
"""

from __future__ import annotations

import base64
import datetime
import functools
import json
from typing import Any

import numpy as np

LISTED = 64
"""Arrays of up to so many numbers are written as numbers, larger ones as their bytes."""
_KINDS = "biufcSU"


def as_text(value: Any) -> str:
    """JSON text of a value made of numbers, text, dates, arrays, lists and dictionaries.

    Examples
    --------
    >>> from penstock.io.mne.text import as_text, from_text
    >>> from_text(as_text({"when": (1, 2), "size": 2.5}))
    {'when': (1, 2), 'size': 2.5}
    """
    return json.dumps(_packed(value), ensure_ascii=False, separators=(",", ":"))


def from_text(text: str) -> Any:
    """The value that `as_text` wrote.

    Raises
    ------
    ValueError
        If the text is not one of `as_text`.
    """
    try:
        return _unpacked(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(
            "what the dataset says of the recording (attribute mne_info, coordinate channel_info) "
            f"is not as it was written ({error}): open the recording again, or drop both"
        ) from error


def _packed(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int) and hasattr(value, "_name"):
        # (a number that shows the name of its FIFF constant)
        return {"~named": [str(value._name), int(value)]}
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, datetime.datetime):
        return {"~datetime": value.isoformat()}
    if isinstance(value, datetime.date):
        return {"~date": value.isoformat()}
    if type(value).__name__ == "DigPoint":
        return {"~point": {str(key): _packed(item) for key, item in value.items()}}
    if isinstance(value, dict):
        return {str(key): _packed(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return {"~tuple": [_packed(item) for item in value]}
    if isinstance(value, list):
        return [_packed(item) for item in value]
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _KINDS:
        return {"~array": _packed_array(np.asarray(value))}
    if hasattr(value, "tocoo"):
        entries = value.tocoo()
        parts = [np.asarray(part) for part in (entries.data, entries.row, entries.col)]
        return {"~sparse": [value.format, list(value.shape), *map(_packed_array, parts)]}
    return str(value)


def _packed_array(array: np.ndarray) -> list[Any]:
    if array.size <= LISTED and array.dtype.kind in "biuf":
        content: Any = array.ravel().tolist()
    else:
        content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return [array.dtype.str, list(array.shape), content]


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (tag, content), *_ = value.items()
        if tag in _TAGS:
            return _TAGS[tag](content)
    return {key: _unpacked(item) for key, item in value.items()}


def _unpacked_array(content: list[Any]) -> np.ndarray:
    code, shape, values = content
    dtype = np.dtype(str(code))
    if dtype.kind not in _KINDS:
        raise ValueError(f"arrays of type {dtype} are not part of a description")
    if isinstance(values, str):
        found = np.frombuffer(base64.b64decode(values), dtype).copy()
    else:
        found = np.array(values, dtype)
    return found.reshape(shape)


def _named(content: list[Any]) -> Any:
    from mne.io.constants import FIFF

    name, value = content
    return type(FIFF.FIFF_UNIT_V)(name, value) if isinstance(value, int) else value


def _point(content: dict[str, Any]) -> Any:
    return _point_class()({key: _unpacked(item) for key, item in content.items()})


@functools.cache
def _point_class() -> Any:
    from mne.channels import make_dig_montage

    return type(make_dig_montage(nasion=(0.0, 0.0, 0.0)).dig[0])


def _sparse(content: list[Any]) -> Any:
    from scipy import sparse

    form, shape, *parts = content
    data, row, column = map(_unpacked_array, parts)
    return sparse.coo_array((data, (row, column)), shape=tuple(shape)).asformat(form)


_TAGS: dict[str, Any] = {
    "~tuple": lambda content: tuple(map(_unpacked, content)),
    "~array": _unpacked_array,
    "~sparse": _sparse,
    "~named": _named,
    "~point": _point,
    "~datetime": datetime.datetime.fromisoformat,
    "~date": datetime.date.fromisoformat,
}
