"""What a method of MNE-Python changes in a recording beside its samples, carried to a dataset.

The method runs on an `mne.io.Raw` that stands for the dataset: one that reads nothing, or, where
MNE-Python wants samples, a few zeros. What its description says afterwards, and did not say before,
is what changes in the dataset.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, blank_variable
from penstock.io.bids.electrodes import FRAME, LANDMARKS, POSITION

DESCRIBING = ("channel", "channel_type", "bad", "channel_info")
ATTRIBUTES = ("measurement_date", "first_time", "highpass", "lowpass", "line_frequency",
              "custom_reference", "mne_info")  # fmt: skip
KEPT = frozenset((*ATTRIBUTES, "edf_type", "edf_record_duration", FRAME, LANDMARKS))
"""Attributes that an anonymised dataset keeps: they say nothing of a person or a place."""
ZEROS = 64
"""Samples that stand for a recording where MNE-Python wants some."""


def standing_raw(ds: xr.Dataset, *, samples: bool = False) -> Any:
    """An `mne.io.Raw` that stands for the outline of a dataset, with or without samples (zeros)."""
    from penstock.io.mne.info import info_of
    from penstock.io.mne.raw import PlainRaw, to_mne

    if set(map(str, ds[SIGNAL].dims)) != {"channel", "time"}:
        raise ValueError(
            "methods of mne.io.Raw work on channels and times, but the data have "
            f"{tuple(map(str, ds[SIGNAL].dims))}"
        )
    if not samples:
        others = [str(name) for name in ds.data_vars if name != SIGNAL]
        # (what does not go with it stays in the dataset)
        return to_mne(ds.drop_vars(others), notes=[])
    zeros = np.zeros((ds.sizes["channel"], ZEROS))
    return PlainRaw(zeros, info_of(ds), verbose="error")


def described(ds: xr.Dataset, before: Any, after: Any, positions: np.ndarray) -> xr.Dataset:
    """The outline of a dataset once a method has made `after` of the Raw that stands for it.

    `positions` says where its channels come from (see `kept_channels`).
    """
    start = float(ds["time"][0]) if "time" in ds.coords and ds.sizes["time"] else 0.0
    was = _told(ds, before, start)
    kept, added = np.maximum(positions, 0), positions < 0
    ds = _with_channels(ds, positions, after.info)
    told = _told(ds, after, start)
    for name in DESCRIBING:
        new, old = told[name].values, was[name].values[kept]
        changed = (new != old) | added
        if name not in ds.variables:
            if changed.any():
                ds = ds.assign_coords({name: ("channel", new)})
        elif changed.any():
            own = ds[name].values
            values = np.array(
                [n if c else o for n, o, c in zip(new, own, changed, strict=True)],
                dtype=object if own.dtype.kind == "O" else None,
            )
            ds = ds.assign_coords({name: ("channel", values, ds[name].attrs)})
    ds = ds.copy()  # (its attributes are not those of the input)
    attrs = dict(ds.attrs)
    for name in ATTRIBUTES:
        if told.attrs.get(name) != was.attrs.get(name):
            attrs.pop(name, None)
            if told.attrs.get(name) is not None:
                attrs[name] = told.attrs[name]
    ds.attrs = attrs
    return _with_events_of(ds, before, after, start)


def _told(ds: xr.Dataset, raw: Any, start: float) -> xr.Dataset:
    """What the Raw that stands for a dataset says of it."""
    from penstock.io.mne.info import with_info

    plain = xr.Dataset({SIGNAL: ds[SIGNAL].variable}, attrs=ds.attrs)
    return with_info(plain, raw.info, first_time=float(raw.first_time) - start)


def kept_channels(before: Any, after: Any) -> np.ndarray:
    """Where the channels of a Raw came from, by their names; -1 for new ones."""
    where = {name: number for number, name in enumerate(before.ch_names)}
    return np.array([where.get(name, -1) for name in after.ch_names], dtype=np.int64)


def _with_channels(ds: xr.Dataset, positions: np.ndarray, info: Any) -> xr.Dataset:
    """The outline with other channels; what describes new ones is empty, but for their units."""
    n = ds.sizes["channel"]
    if len(positions) == n and (positions == np.arange(n)).all():
        return ds
    if (positions >= 0).all():
        return ds.isel(channel=positions)
    from penstock.io.mne.units import from_fif

    added = positions < 0
    extended = ds.drop_vars(SIGNAL).isel(channel=np.maximum(positions, 0))
    for name, variable in extended.variables.items():
        if variable.dims == ("channel",):
            values = variable.values.astype(object)
            values[added] = "" if variable.dtype.kind in "OUST" else variable.dtype.type(0)
            if name == "channel_unit":
                kinds = info.get_channel_types()
                for i in np.flatnonzero(added):
                    values[i] = from_fif(int(info["chs"][i]["unit"]), kinds[i])[0]
            if name == "channel":
                values = np.asarray(info["ch_names"], dtype=object)
            kept = values if variable.dtype.kind == "O" else np.array(values.tolist())
            extended = extended.assign_coords({name: ("channel", kept, variable.attrs)})
    signal = ds[SIGNAL].variable
    dims = tuple(map(str, signal.dims))
    shape = tuple(len(positions) if dim == "channel" else signal.sizes[dim] for dim in dims)
    blank = blank_variable(dims, shape, signal.dtype, signal.attrs)
    return extended.assign({SIGNAL: blank})


def _with_events_of(ds: xr.Dataset, before: Any, after: Any, start: float) -> xr.Dataset:
    from penstock.io.mne.annotations import with_annotations

    old, new = before.annotations, after.annotations
    same = len(old) == len(new) and all(
        np.array_equal(getattr(old, name), getattr(new, name))
        for name in ("onset", "duration", "description")
    )
    if same and [tuple(n) for n in old.ch_names] == [tuple(n) for n in new.ch_names]:
        return ds
    return with_annotations(ds, new, float(after.first_time) - start)


def converted_units(
    ds: xr.Dataset, before: Any, after: Any
) -> tuple[list[str] | None, np.ndarray | None]:
    """Units after types of channels changed, and what their values are multiplied with.

    MNE-Python keeps the numbers in SI units and gives them another unit: so do we. None where
    nothing changes.
    """
    from penstock.io.mne.info import channel_units, si_divisors
    from penstock.io.mne.units import from_fif

    units, factors = channel_units(ds), np.ones(ds.sizes["channel"])
    old_kinds, new_kinds = before.get_channel_types(), after.get_channel_types()
    si = si_divisors(ds)
    changed = False
    channels = zip(before.info["chs"], after.info["chs"], strict=True)
    for i, (old, new) in enumerate(channels):
        codes = "stim" in (old_kinds[i], new_kinds[i]) and old_kinds[i] != new_kinds[i]
        if int(old["unit"]) == int(new["unit"]) and not codes:
            continue
        units[i], factor = from_fif(int(new["unit"]), new_kinds[i])
        factors[i] = factor / si[i]
        changed = True
    scaled = np.abs(factors - 1) > 1e-12
    return (units if changed else None), (factors if scaled.any() else None)


def anonymous(ds: xr.Dataset) -> xr.Dataset:
    """The outline without attributes that could say who was recorded, where, or in which file."""
    ds = ds.copy()
    ds.attrs = {name: value for name, value in ds.attrs.items() if name in KEPT}
    for variable in ds.variables.values():
        variable.encoding.pop("source", None)
    return ds


def without_positions(ds: xr.Dataset) -> xr.Dataset:
    """The outline without positions of its own, which would come before those of a montage."""
    ds = ds.drop_vars(POSITION, errors="ignore")
    ds.attrs = {name: value for name, value in ds.attrs.items() if name not in (FRAME, LANDMARKS)}
    return ds


def call(raw: Any, method: str, arguments: Mapping[str, Any]) -> Any:
    """The Raw that a method makes of another; MNE-Python's errors as one sentence."""
    import mne

    try:
        with mne.utils.use_log_level("error"):
            result = getattr(raw, method)(**arguments)
    except TypeError as error:
        raise TypeError(f"MNE({method!r}): {_one_line(error)}") from error
    except (ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"MNE({method!r}): {_one_line(error)}") from error
    return result if isinstance(result, mne.io.BaseRaw) else raw


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
