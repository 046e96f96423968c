"""What MNE-Python's `Info` says of a recording, carried by a dataset and given back.

What belongs to a channel (position, coil, coordinate frame) lies in a coordinate ``channel_info``
along the channels, so that picking, sorting, joining and renaming take it along; everything else
(digitisation, projections, subject, device, ...) in the attribute ``mne_info``. What processors
change is said by the dataset itself and wins: names, types and units of channels, which are bad,
the sampling frequency, and the attributes ``measurement_date``, ``first_time``, ``highpass``,
``lowpass``, ``line_frequency`` and ``custom_reference``.
"""

from __future__ import annotations

import copy
import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.dataset import SIGNAL, sampling_frequency
from penstock.dates import ATTRIBUTE, in_utc, moved_date, read_date
from penstock.io.edf.subject import subject_of
from penstock.io.labels import unique_names, volts
from penstock.io.mne.positions import set_positions
from penstock.io.mne.text import as_text, from_text
from penstock.io.mne.units import NONE, FifUnit, to_fif

if TYPE_CHECKING:
    import mne
    import xarray as xr

INFO = "mne_info"
"""Attribute that holds what is said of the whole recording."""
CHANNEL_INFO = "channel_info"
"""Coordinate that holds what is said of every channel."""
_OWN = ("chs", "ch_names", "nchan", "bads", "sfreq", "highpass", "lowpass", "line_freq", "temp")
"""Entries of `Info` that the dataset says itself."""
_ATTRS = {"highpass": "highpass", "lowpass": "lowpass", "line_freq": "line_frequency"}
_CUSTOM = "custom_reference"
_AVERAGE_REFERENCE = 10
"""FIFF code of projections that subtract the average of the EEG."""
_CLOSE = datetime.timedelta(milliseconds=1)


def with_info(
    ds: xr.Dataset, info: mne.Info, *, first_time: float | None = None, rename: bool = True
) -> xr.Dataset:
    """The dataset with everything that an `mne.Info` says of its channels and of the recording.

    Units are left alone: they belong to the values.

    Parameters
    ----------
    ds : xarray.Dataset
        With as many channels as `info`, in the same order.
    info : mne.Info
    first_time : float, optional
        Seconds from ``info["meas_date"]`` to the first sample. Default: what the dataset says.
    rename : bool, default True
        Whether channels take the names of `info`, made unique.

    Returns
    -------
    xarray.Dataset
        With coordinates ``channel``, ``channel_type``, ``bad`` and ``channel_info``.
    """
    channels = info["chs"]
    if len(channels) != ds.sizes["channel"]:
        raise ValueError(
            f"the description is of {len(channels)} channels, the dataset has {ds.sizes['channel']}"
        )
    names = unique_names(info["ch_names"])
    if not rename and "channel" in ds.coords:
        names = [str(name) for name in ds["channel"].values]
    texts = [as_text(dict(channel)) for channel in channels]
    # (as objects: rows of one length would take that of the longest)
    described = np.empty(len(texts), dtype=object)
    described[:] = texts
    ds = ds.assign_coords(
        channel=np.array(names),
        channel_type=("channel", np.array(info.get_channel_types())),
        bad=("channel", np.isin(info["ch_names"], info["bads"])),
        channel_info=("channel", described),
    )
    attrs = dict(ds.attrs)
    if first_time is None:
        first_time = float(attrs.get("first_time", 0.0))
    for name in ("first_time", "measurement_date", _CUSTOM):
        attrs.pop(name, None)
    if first_time:
        attrs["first_time"] = first_time
    if info["meas_date"] is not None:
        first = info["meas_date"] + datetime.timedelta(seconds=first_time)
        attrs["measurement_date"] = first.isoformat()
    for key, name in _ATTRS.items():
        attrs.pop(name, None)
        if info.get(key) is not None:
            attrs[name] = float(info[key])
    if info["custom_ref_applied"]:
        attrs[_CUSTOM] = int(info["custom_ref_applied"])
    attrs[INFO] = as_text({key: value for key, value in info.items() if key not in _OWN})
    ds.attrs = attrs
    return ds


def info_of(ds: xr.Dataset, notes: list[str] | None = None) -> mne.Info:
    """What MNE-Python must know of a recording, as an `mne.Info`.

    Channels are in SI units, without calibration factors: see `si_divisors`.

    Parameters
    ----------
    ds : xarray.Dataset
        With a dim ``channel``.
    notes : list of str, optional
        Sentences on what `mne.Info` cannot say are added to it.

    Returns
    -------
    mne.Info
        Positions, digitisation, projections, subject and so on are those that the recording came
        with (see `with_info`), or none.
    """
    import mne

    told: list[str] = [] if notes is None else notes
    names, kinds, units = channel_names(ds), channel_kinds(ds, told), channel_units(ds)
    info = mne.create_info(names, sampling_frequency(ds), kinds, verbose="error")
    content: dict[str, Any] = dict(info)
    text = ds.attrs.get(INFO)
    if text:
        content |= {key: item for key, item in from_text(str(text)).items() if key not in _OWN}
    elif ds.attrs.get("edf_patient"):
        content["subject_info"] = subject_of(str(ds.attrs["edf_patient"]))
    former, channels = _channels(ds, info)
    new_names = {old: new for old, new in zip(former, names, strict=True) if old}
    for channel, unit, form, kind in zip(channels, units, _forms(ds), kinds, strict=True):
        if int(channel["unit"]) != form.code and not (kind == "stim" and form.factor == 1.0):
            channel["unit"], channel["unit_mul"] = form.code, 0
        # values come calibrated
        channel["cal"] = channel["range"] = 1.0
        if not form.known:
            told.append(
                f"FIF has no unit {unit!r}: the values of {channel['ch_name']!r} are kept as they "
                "are, without a unit"
            )
    content["chs"] = channels
    content["projs"] = [_renamed_projection(proj, new_names) for proj in content["projs"]]
    content["comps"] = _renamed_compensation(content["comps"], new_names)
    bads = ds["bad"].values if "bad" in ds.variables else np.zeros(len(names), bool)
    content["bads"] = [name for name, bad in zip(names, bads, strict=True) if bad]
    for key, name in _ATTRS.items():
        if ds.attrs.get(name) is not None:
            content[key] = float(ds.attrs[name])
    # (a filter that passes all frequencies says so)
    content["lowpass"] = min(content["lowpass"], content["sfreq"] / 2)
    custom = int(ds.attrs.get(_CUSTOM, 0))
    if custom != int(content["custom_ref_applied"]):
        content["custom_ref_applied"] = custom
        # (an average reference that waits to be applied would undo another one)
        content["projs"] = [p for p in content["projs"] if int(p["kind"]) != _AVERAGE_REFERENCE]
    content["meas_date"] = _measured(ds, content.get("meas_date"))
    whole = mne.Info(content)
    set_positions(whole, ds)
    return whole


def channel_names(ds: xr.Dataset) -> list[str]:
    """Names of the channels; their numbers where they have none."""
    if "channel" in ds.coords:
        return [str(name) for name in ds["channel"].values]
    return [str(i + 1) for i in range(ds.sizes["channel"])]


def channel_kinds(ds: xr.Dataset, notes: list[str] | None = None) -> list[str]:
    """Types of the channels that MNE-Python knows; ``"misc"`` for others, ``"eeg"`` for none."""
    import mne

    known = set(mne.io.get_channel_type_constants(include_defaults=True))
    kinds = _texts(ds, "channel_type", "eeg")
    for name, kind in zip(channel_names(ds), kinds, strict=True):
        if kind not in known and notes is not None:
            notes.append(f"FIF knows no channel type {kind!r}: {name!r} is written as 'misc'")
    return [kind if kind in known else "misc" for kind in kinds]


def channel_units(ds: xr.Dataset) -> list[str]:
    """Units of the channels; that of the signal where they have none of their own."""
    return _texts(ds, "channel_unit", str(ds[SIGNAL].attrs.get("units", "")))


def si_divisors(ds: xr.Dataset) -> np.ndarray:
    """What values of every channel are divided by to be in the units of MNE-Python.

    (1e6 is a number that floats hold, 1e-6 is not: dividing gives volts back as they were.)
    """
    return np.array([1 / form.factor for form in _forms(ds)])


def _forms(ds: xr.Dataset) -> list[FifUnit]:
    """How every channel is held by FIF, and by MNE-Python.

    Numbers that MNE-Python took from a file without a unit it knows go back as the same numbers.
    """
    forms = []
    stored = _texts(ds, CHANNEL_INFO, "")
    for unit, kind, text in zip(channel_units(ds), channel_kinds(ds), stored, strict=True):
        form = to_fif(unit, kind)
        if form.factor != 1.0 and volts(unit) is None and text.startswith("{"):
            unknown = int(from_text(text)["unit"]) == NONE
            form = FifUnit(NONE, 1.0, known=False) if unknown else form
        forms.append(form)
    return forms


def _texts(ds: xr.Dataset, name: str, default: str) -> list[str]:
    if name in ds.variables:
        return [str(value) for value in ds[name].values]
    return [default] * ds.sizes["channel"]


def _channels(ds: xr.Dataset, fresh: mne.Info) -> tuple[list[str], list[dict[str, Any]]]:
    """Channels as they were described, under their present names, and the names they had."""
    import mne

    # (joining recordings of which one has no description leaves missing values)
    stored = [
        from_text(text) if text.startswith("{") else None for text in _texts(ds, CHANNEL_INFO, "")
    ]
    merged = [old or dict(new) for old, new in zip(stored, fresh["chs"], strict=True)]
    before = mne.Info({**fresh, "chs": merged}).get_channel_types()
    former, channels = [], []
    for old, new, was, kind in zip(
        stored, fresh["chs"], before, fresh.get_channel_types(), strict=True
    ):
        channel = copy.deepcopy(dict(new))
        if old is not None and was == kind:
            channel = old
        elif old is not None:  # another type was given: the place stays
            same = ("loc", "coord_frame", "logno")
            channel |= {key: old[key] for key in same if key in old}
        former.append(str(old["ch_name"]) if old else "")
        channel["ch_name"] = new["ch_name"]
        channels.append(channel)
    return former, channels


def _renamed_projection(proj: dict[str, Any], new_names: dict[str, str]) -> dict[str, Any]:
    data = proj["data"]
    columns = [new_names.get(name, name) for name in data["col_names"]]
    return {**proj, "data": {**data, "col_names": columns}}


def _renamed_compensation(comps: list[Any], new_names: dict[str, str]) -> list[Any]:
    """Compensation matrices; none where a channel that they need is no longer there."""
    found = []
    for comp in comps:
        data = dict(comp["data"])
        # the matrix is for calibrated values, and calibration factors are 1 from now on
        counts = {"rowcals": len(data["row_names"]), "colcals": len(data["col_names"])}
        calibrated = {key: np.ones(count) for key, count in counts.items()}
        for key in ("row_names", "col_names"):
            if not all(name in new_names for name in data[key]):
                return []
            data[key] = [new_names[name] for name in data[key]]
        found.append({**comp, **calibrated, "data": data})
    return found


def _measured(ds: xr.Dataset, before: datetime.datetime | None) -> datetime.datetime | None:
    """When the recording began, of which the first sample may be some time away."""
    first = read_date(ds.attrs.get(ATTRIBUTE))
    if first is None:
        return None
    # (MNE-Python holds dates in UTC only)
    began = moved_date(in_utc(first), -float(ds.attrs.get("first_time", 0.0)))
    # (seconds are rounded to microseconds on the way)
    return before if before is not None and abs(began - before) < _CLOSE else began
