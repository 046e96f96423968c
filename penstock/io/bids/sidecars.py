"""What BIDS keeps beside an electrical or magnetic recording, brought into its dataset.

``channels.tsv`` gives types of channels, units that the file lacks, and which are bad;
``events.tsv`` the events, in place of the file's own; ``electrodes.tsv`` with ``coordsystem.json``
positions; ``*_eeg.json`` the reference, the line frequency and what the sampling frequency should
be. They mean what MNE-BIDS makes of them. Samples are never changed but where a file has no unit
and ``channels.tsv`` has one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, sampling_frequency
from penstock.io.bids.electrodes import electrodes_of, with_electrodes
from penstock.io.bids.events import with_event_table
from penstock.io.bids.names import bids_root, find_sidecars, metadata_of, parse_name, read_tsv
from penstock.io.edf.scaling import source_signals
from penstock.io.labels import clean_unit, volts

SUFFIXES = ("eeg", "meg", "ieeg", "nirs", "emg")
"""Of the names of recordings that have such files."""
USED, NOTES = "sidecars", "sidecar_notes"
"""Attributes of a dataset: which files were used, and what they changed."""

TYPES = {
    "EEG": "eeg",
    "MISC": "misc",
    "TRIG": "stim",
    "EMG": "emg",
    "ECOG": "ecog",
    "SEEG": "seeg",
    "DBS": "dbs",
    "EOG": "eog",
    "VEOG": "eog",
    "HEOG": "eog",
    "ECG": "ecg",
    "RESP": "resp",
    "GSR": "gsr",
    "TEMP": "temperature",
    "NIRSCWAMPLITUDE": "fnirs_cw_amplitude",
    "NIRS": "fnirs_cw_amplitude",
    "EYEGAZE": "eyegaze",
    "PUPIL": "pupil",
}
"""Types of ``channels.tsv`` to those of channels here.

Others become ``"misc"`` where the file does not know better.
"""
_LEFT = ("MEGGRADAXIAL", "MEGMAG", "MEGGRAD", "MEGREFGRADAXIAL", "MEGGRADPLANAR", "MEGREFMAG",
         "MEGOTHER", "HLU")  # fmt: skip
"""Types of which the file knows more."""
_VAGUE = ("eeg", "misc", "")
"""Types of the file that stand where it does not know better."""


@dataclass(frozen=True)
class Reopening:
    """How a recording is opened again with what its sidecars say."""

    open: Callable[[dict[str, str], dict[str, str]], xr.Dataset]
    """``open(channel_types, channel_units)``: read with these, which decide how it is scaled."""
    takes_units: bool = False
    """Whether the reader takes units."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Types that the caller gave, which come before those of the sidecars."""


def has_sidecars(path: str | os.PathLike[str]) -> bool:
    """Whether a recording is one that BIDS keeps files beside, by its name."""
    from penstock.storage.store import sidecar_path

    name = parse_name(path)
    # (results of ours say themselves what they are)
    return (
        name is not None
        and name.suffix in SUFFIXES
        and not name.extension.lower().startswith(".zarr")
        and not sidecar_path(Path(path)).exists()
    )


def sidecars_of(path: str | os.PathLike[str]) -> list[Path]:
    """The files beside a recording that are used, in the order in which they are."""
    if not has_sidecars(path):
        return []
    found = [
        *find_sidecars(path, ".tsv", suffix="channels")[-1:],
        *find_sidecars(path, ".tsv", suffix="events")[-1:],
        *electrodes_of(path),
        *metadata_of(path)[1],
    ]
    return list(dict.fromkeys(found))


def with_sidecars(ds: xr.Dataset, path: str, reader: Reopening) -> xr.Dataset:
    """The dataset of a recording with what the BIDS files beside it say.

    Parameters
    ----------
    ds : xarray.Dataset
        As the file alone gives it.
    path : str
        Of the file.
    reader : Reopening
        How it is opened again, with types and units of channels.

    Returns
    -------
    xarray.Dataset
        With the attributes ``sidecars`` (names of the files, from the top of the dataset) and
        ``sidecar_notes`` (what they changed, and what in them was not used) where there are some.

    Raises
    ------
    OSError, ValueError
        If one of the files cannot be used.
    """
    if not has_sidecars(path) or SIGNAL not in ds or "channel" not in ds.dims:
        return ds
    notes: list[str] = []
    try:
        files = sidecars_of(path)
        if not files:
            return ds
        for file in find_sidecars(path, ".tsv", suffix="channels")[-1:]:
            ds = _with_channels(ds, file, reader, notes)
        for file in find_sidecars(path, ".tsv", suffix="events")[-1:]:
            ds = with_event_table(ds, file, notes)
        ds = with_electrodes(ds, path, notes)
        ds = _with_metadata(ds, *metadata_of(path), notes)
    except (OSError, ValueError) as error:
        hint = "or leave such files alone with sidecars=False (--no-sidecars)"
        raise type(error)(f"{path}: {error}, {hint}") from error
    top = bids_root(path) or Path(path).parent
    ds.attrs[USED] = "; ".join(os.path.relpath(file, top) for file in files)
    if notes:
        ds.attrs[NOTES] = "; ".join(notes)
    return ds


# ---------------------------------------------------------------------- channels


@dataclass
class _Told:
    """What a table says of the channels that the recording has, by their names there."""

    types: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    bads: dict[str, bool] = field(default_factory=dict)


def _with_channels(ds: xr.Dataset, file: Path, reader: Reopening, notes: list[str]) -> xr.Dataset:
    told = _told(ds, file, notes)
    before, types = _texts(ds, "channel_type"), {}
    for name, kind in told.types.items():
        if kind != before[name] and name not in reader.given:
            types[name] = kind
    lacking, differing = _units(ds, told.units)
    # (without a unit, and nothing that scales them, numbers are not called volts)
    units = {
        name: unit
        for name, unit in told.units.items()
        if name in lacking and (reader.takes_units or volts(unit) is None)
    }
    left = [name for name in lacking if name not in units]
    if left:
        notes.append(f"{file.name}: units of {_some(left)} are not used, the file has none")
    if types or units:
        ds = _assigned(reader.open(types, units), types, units, before)
        after, now = _texts(ds, "channel_type"), _texts(ds, "channel_unit")
        changed = Counter(f"{before[n]} to {after[n]}" for n in types if after[n] != before[n])
        told_types = ", ".join(f"{count} from {change}" for change, count in changed.items())
        if told_types:
            notes.append(f"{file.name}: types of channels ({told_types})")
        scaled = [name for name in units if volts(now[name]) is not None]
        given = [name for name in units if now[name] != lacking[name] or name in scaled]
        if given:
            notes.append(f"{file.name}: units of {_some(given)}, which the file lacks")
    if differing:
        shown = ", ".join(f"{n} ({ours}, not {theirs})" for n, (ours, theirs) in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        notes.append(f"units are those of the file where {file.name} has others: {shown}{more}")
    return _with_bads(ds, told.bads, file, notes)


def _assigned(
    ds: xr.Dataset,
    types: Mapping[str, str],
    units: Mapping[str, str],
    before: Mapping[str, str],
) -> xr.Dataset:
    """Types and units that a reader was not asked for, or did not take: they scale nothing."""
    for end in _groups(ds):
        dim = f"channel{end}"
        names = [str(name) for name in ds[dim].values]
        for variable, told in (("channel_type", types), ("channel_unit", units)):
            if f"{variable}{end}" not in ds.variables or not told:
                continue
            now = [str(value) for value in ds[f"{variable}{end}"].values]
            for i, name in enumerate(names):
                # (what the reader made of it, or the caller wants, stays)
                open_yet = now[i] == before[name] if told is types else not now[i]
                if name in told and open_yet:
                    now[i] = told[name]
            ds = ds.assign_coords({f"{variable}{end}": (dim, np.array(now))})
    return ds


def _told(ds: xr.Dataset, file: Path, notes: list[str]) -> _Told:
    """What the table says of channels of the recording; others are noted."""
    table = read_tsv(file)
    told = _Told()
    if "name" not in table:
        notes.append(f"{file.name} has no column 'name' and is not used")
        return told
    known, types = _names(ds), _texts(ds, "channel_type")
    columns = {key: table[key] for key in ("type", "units", "status") if key in table}
    missing, twice, odd = [], [], []
    seen: set[str] = set()
    for row, text in enumerate(table["name"]):
        name = known.get(str(text), "") if text is not None else ""
        if not name:
            missing.append(str(text))
            continue
        if name in seen:
            twice.append(name)
            continue
        seen.add(name)
        values = {key: column.iloc[row] for key, column in columns.items()}
        kind = values.get("type")
        if kind is not None and kind.upper() in TYPES:
            told.types[name] = TYPES[kind.upper()]
        elif kind is not None and kind.upper() not in _LEFT and types[name] in _VAGUE:
            odd.append(kind)
            told.types[name] = "misc"
        if values.get("units") is not None:
            told.units[name] = values["units"]
        if values.get("status") is not None:
            told.bads[name] = values["status"].lower() == "bad"
    if missing:
        notes.append(f"{file.name} names {_some(missing)}, which the recording does not have")
    if twice:
        notes.append(f"{file.name} names {_some(twice)} more than once: the first counts")
    if odd:
        notes.append(f"{file.name}: the types {_some(sorted(set(odd)))} are not known, now misc")
    return told


def _groups(ds: xr.Dataset) -> list[str]:
    """Ends of the names of the channel dims: ``""``, ``"_500Hz"``."""
    dims = [str(d) for d in ds.dims if str(d).startswith("channel") and d in ds.coords]
    return [dim.removeprefix("channel") for dim in dims]


def _texts(ds: xr.Dataset, variable: str) -> dict[str, str]:
    """Values of a channel variable by the name of the channel, of all groups."""
    return {
        str(name): str(value)
        for end in _groups(ds)
        if f"{variable}{end}" in ds.variables
        for name, value in zip(
            ds[f"channel{end}"].values, ds[f"{variable}{end}"].values, strict=True
        )
    }


def _names(ds: xr.Dataset) -> dict[str, str]:
    """Channels by every way in which a table may name them: by their names, or labels in EDF."""
    labels = {label: name for name, label in _texts(ds, "label").items()}
    own = {str(name): str(name) for end in _groups(ds) for name in ds[f"channel{end}"].values}
    return {**labels, **own}


def _units(
    ds: xr.Dataset, told: Mapping[str, str]
) -> tuple[dict[str, str], list[tuple[str, tuple[str, str]]]]:
    """Channels for which the file has no unit, with theirs, and those for which it has others."""
    ours = _texts(ds, "channel_unit")
    header: dict[str, Any] = {}
    for end in _groups(ds):
        header |= source_signals(ds[f"{SIGNAL}{end}"].attrs) if f"{SIGNAL}{end}" in ds else {}
    lacking, differing = {}, []
    for name, unit in told.items():
        written = str(header[name].get("unit", "")) if name in header else ours.get(name, "")
        if not written.strip():
            lacking[name] = ours.get(name, "")
        elif name in header:
            same = clean_unit(written).lower() == clean_unit(unit).lower()
            if not same and (volts(written) is None or volts(written) != volts(unit)):
                differing.append((name, (written.strip(), unit)))
        elif (volts(written) is None) != (volts(unit) is None):
            differing.append((name, (written, unit)))
    return lacking, differing


def _with_bads(
    ds: xr.Dataset, told: Mapping[str, bool], file: Path, notes: list[str]
) -> xr.Dataset:
    """Bad channels as the table has them, where it has the column; others as in the file."""
    if not told:
        return ds
    bad, good = [], []
    for end in _groups(ds):
        names = [str(name) for name in ds[f"channel{end}"].values]
        before = ds[f"bad{end}"].values if f"bad{end}" in ds.variables else [False] * len(names)
        now = [told.get(name, bool(was)) for name, was in zip(names, before, strict=True)]
        bad += [name for name, is_bad in zip(names, now, strict=True) if is_bad]
        good += [n for n, was, is_bad in zip(names, before, now, strict=True) if was and not is_bad]
        ds = ds.assign_coords({f"bad{end}": (f"channel{end}", np.array(now, dtype=bool))})
    if bad:
        notes.append(f"{file.name}: bad channels {_some(bad)}")
    if good:
        notes.append(f"{file.name}: good although the file says bad: {_some(good)}")
    return ds


# ---------------------------------------------------------------------- metadata


def _with_metadata(
    ds: xr.Dataset, about: Mapping[str, Any], files: list[Path], notes: list[str]
) -> xr.Dataset:
    """Reference and line frequency; a sampling frequency that is not that of the file is told."""
    if not files:
        return ds
    name, attrs = files[-1].name, dict(ds.attrs)
    for key, attribute in (("EEGReference", "reference"), ("iEEGReference", "reference"),
                           ("EEGGround", "ground")):  # fmt: skip
        told = about.get(key)
        if isinstance(told, list):
            told = ", ".join(map(str, told))
        if isinstance(told, str) and told and told.lower() != "n/a":
            attrs[attribute] = told
    line = _number(about.get("PowerLineFrequency"))
    if line is not None:
        before = attrs.get("line_frequency")
        if before is not None and abs(float(before) - line) > 1e-6:
            notes.append(f"{name}: line frequency {line:g} Hz, the file says {before:g} Hz")
        attrs["line_frequency"] = line
    wanted = _number(about.get("SamplingFrequency"))
    if wanted is not None and "time" in ds[SIGNAL].dims:
        rate = sampling_frequency(ds)
        if abs(rate - wanted) > 1e-3 * abs(wanted):
            notes.append(
                f"{name} says {wanted:g} Hz, the file is sampled at {rate:g} Hz: that of the file "
                "counts"
            )
    return ds.assign_attrs(attrs)


def _number(value: Any) -> float | None:
    """A number of a JSON file; None for everything else, ``"n/a"`` included."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and np.isfinite(value) else None


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
