"""What of a dataset a table or image of its values does not hold, as sentences for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.dataset import SIGNAL
from penstock.io.bids.electrodes import FRAME, LANDMARKS, POSITION
from penstock.io.edf.identity import says_more
from penstock.io.labels import clean_unit, listed

if TYPE_CHECKING:
    import xarray as xr

_TOLD = {
    "measurement_date": "the measurement date",
    "mne_info": "what MNE-Python's Info says",
    "highpass": "filters",
    "lowpass": "filters",
    "line_frequency": "the line frequency",
    "custom_reference": "the reference",
    LANDMARKS: "electrode positions",
    "first_time": "when the first sample was taken",
}
"""Attributes of recordings, and what they are called."""
_BOOKKEEPING = frozenset(
    ("source", "store", "penstock", "sidecars", "sidecar_notes", "edf_type", FRAME, "units",
     "edf_record_duration", "edf_start_time", "edf_patient", "edf_recording")
)  # fmt: skip
"""Attributes that say where and how a dataset was made, or are told otherwise."""


def left_out(ds: xr.Dataset, format: str) -> list[str]:
    """What a table, or an image, of ``signal`` has no place for, of what is there.

    Of images and of tables of regions only what is no part of their values: their other coordinates
    say how the columns were made, and results of a run keep that in their sidecar.
    """
    named = {"csv": "CSV", "tsv": "TSV", "parquet": "a Parquet table"}.get(format, "NIfTI")
    notes = []
    rates = sorted(str(name) for name in ds.data_vars if str(name).startswith(f"{SIGNAL}_"))
    if rates:
        notes.append(
            f"{named} holds one sampling frequency: {listed(rates)} "
            f"{'is' if len(rates) == 1 else 'are'} left out (open with rate= to export them, or "
            "export as .edf or .zarr)"
        )
    lost = _lost(ds, rates)
    if lost:
        others = ".edf, .fif or .zarr" if {*ds[SIGNAL].dims} == {"channel", "time"} else ".zarr"
        notes.append(
            f"{named} has no place for {', '.join(lost)}: export as {others} to keep what these say"
        )
    return notes


def _lost(ds: xr.Dataset, rates: list[str]) -> list[str]:
    dims = set(map(str, ds[SIGNAL].dims))
    lost: list[str] = []
    count = ds.sizes.get("event", 0)
    if count:
        lost.append(f"{count} event{'s' if count > 1 else ''}")
    units = [] if {"x", "y", "z"} <= dims else [ds[SIGNAL].attrs.get("units", "")]
    if "channel" in dims and "channel_unit" in ds.variables:
        units = list(ds["channel_unit"].values)
    found = sorted({unit for unit in (clean_unit(str(each)) for each in units) if unit})
    # (z-scores and percent signal change are made by the pipeline, which the sidecar names)
    found = [unit for unit in found if unit not in ("1", "%") or "channel" in dims]
    if found:
        lost.append(f"units ({listed(found)})")
    if "channel" in dims:
        lost += _lost_of_channels(ds)
    elif ds.attrs.get("measurement_date"):
        lost.append("the measurement date")
    known = {SIGNAL, *rates, *(str(name) for name in ds.coords)}
    other = sorted(str(name) for name in ds.data_vars if str(name) not in known)
    beside = {str(dim) for name in rates for dim in ds[name].dims} - dims
    other = [n for n in other if not beside & set(map(str, ds[n].dims)) and "event" not in n]
    if other:
        lost.append(f"the variables {listed(other)}")
    return lost


def _lost_of_channels(ds: xr.Dataset) -> list[str]:
    lost = []
    if "channel_type" in ds.variables:
        kinds = dict.fromkeys(str(kind) for kind in ds["channel_type"].values)
        lost.append(f"channel types ({listed(kinds)})")
    if "bad" in ds.variables and ds["bad"].values.any():
        bad = ds["channel"].values[ds["bad"].values.astype(bool)]
        lost.append(f"marks of bad channels ({listed(map(str, bad))})")
    if any(name in ds.variables for name in POSITION):
        lost.append("electrode positions")
    said = [
        str(name)
        for name, value in ds.attrs.items()
        if value is not None and value is not False and str(value) not in ("", "0.0")
    ]
    lost += [_TOLD[name] for name in said if name in _TOLD]
    patient, recording = (
        str(ds.attrs.get(f"edf_{field}", "")) for field in ("patient", "recording")
    )
    if any(word != "X" for word in patient.split()):
        lost.append("what the file says of the patient")
    if says_more(recording):
        lost.append("what the file says of technician and equipment")
    other = sorted(set(said) - set(_TOLD) - _BOOKKEEPING)
    if other:
        lost.append(f"the attributes {listed(other)}")
    return list(dict.fromkeys(lost))
