"""Arguments of MNE-Python's methods as plain values, and back: what YAML and provenance hold."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from penstock.dates import in_utc
from penstock.processor import _plain


def plain_argument(value: Any) -> Any:
    """A date, montage, projection or annotations as plain values; anything else likewise."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    if hasattr(value, "get_positions") and hasattr(value, "dig"):
        return {"positions": _plain(dict(value.get_positions()))}
    if {"onset", "duration", "description"} <= set(dir(value)):
        return _plain_annotations(value)
    if type(value).__name__ == "Projection":
        from penstock.io.mne.text import as_text

        return {"projection": as_text(dict(value))}
    if isinstance(value, set | frozenset | range):
        return sorted(value)
    if isinstance(value, tuple | list):
        return [plain_argument(item) for item in value]
    return value if callable(value) else _plain(value)


def _plain_annotations(annotations: Any) -> dict[str, Any]:
    origin = annotations.orig_time
    return {
        "onset": np.asarray(annotations.onset, dtype=float).tolist(),
        "duration": np.asarray(annotations.duration, dtype=float).tolist(),
        "description": [str(text) for text in annotations.description],
        "orig_time": None if origin is None else origin.isoformat(),
        "ch_names": [list(map(str, names)) for names in annotations.ch_names],
    }


def restored_arguments(method: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as MNE-Python takes them."""
    import mne

    given = dict(arguments)
    if method == "set_meas_date" and isinstance(given.get("meas_date"), str):
        given["meas_date"] = _date(given["meas_date"])
    if method == "set_meas_date" and isinstance(given.get("meas_date"), list):
        given["meas_date"] = tuple(given["meas_date"])
    if method == "set_annotations" and isinstance(given.get("annotations"), Mapping):
        described = {**given["annotations"]}
        if isinstance(described.get("orig_time"), str):
            described["orig_time"] = _date(described["orig_time"])
        if not any(described.get("ch_names") or ()):
            described.pop("ch_names", None)
        given["annotations"] = mne.Annotations(**described)
    if method == "set_montage" and isinstance(given.get("montage"), Mapping):
        places = {key: _places(item) for key, item in given["montage"]["positions"].items()}
        given["montage"] = mne.channels.make_dig_montage(**places)
    if method == "add_proj":
        projs = given.get("projs")
        several = projs if isinstance(projs, list) else [projs]
        given["projs"] = [_projection(item) for item in several]
    return given


def _date(text: str) -> datetime.datetime:
    try:
        date = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date: write one such as '2024-05-31T13:00:00'") from None
    return in_utc(date)


def _places(item: Any) -> Any:
    if isinstance(item, Mapping):
        return {str(name): np.asarray(place, dtype=float) for name, place in item.items()}
    return np.asarray(item, dtype=float) if isinstance(item, list) else item


def _projection(item: Any) -> Any:
    import mne

    from penstock.io.mne.text import from_text

    if isinstance(item, Mapping) and "projection" in item:
        return mne.Projection(**from_text(str(item["projection"])))
    raise ValueError("MNE('add_proj') takes projs: a list of mne.Projection")


def named_arguments(method: str, positional: tuple[Any, ...]) -> dict[str, Any]:
    """Arguments given by position under their names."""
    if not positional:
        return {}
    import mne

    found = getattr(mne.io.BaseRaw, method, None)
    names = [] if found is None else list(inspect.signature(found).parameters)[1:]
    if len(positional) > len(names):
        raise TypeError(f"MNE({method!r}) takes at most {len(names)} arguments by position")
    return dict(zip(names, positional, strict=False))
