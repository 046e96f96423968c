"""Which methods of `mne.io.Raw` work as steps of a pipeline, and what to use instead of the others.

A method must change in a dataset everything that it changes in MNE-Python, or be refused when the
pipeline is made. Every public method of `mne.io.BaseRaw` is in one of the tables below; a test
holds them against the installed MNE-Python, and docs/mne_methods.md shows them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["channels", "whole", "moments", "description", "types", "selection", "crop"]

PICKING = frozenset({"apply_hilbert", "filter", "notch_filter"})
"""Channel-wise methods that leave out channels: those not picked, by default all without data."""

CHANNEL_WISE: dict[str, str] = {
    "apply_hilbert": "with envelope=True",
    "filter": "also notes the pass band; apart between pauses and joins",
    "notch_filter": "apart between pauses and joins",
    "resample": "also the rate; trigger codes that are lost are told",
    "savgol_filter": "",
}
"""Methods that change samples of every channel for itself: blocks may be single channels."""

WHOLE: dict[str, str] = {"apply_function": "the function sees whole channels"}
"""Methods that change samples and must see the whole recording at once."""

MOMENTS: dict[str, str] = {
    "add_reference_channels": "adds channels of zeros",
    "apply_proj": "also notes that projections are applied",
    "interpolate_bads": "also which channels are bad; needs positions (set_montage)",
    "rescale": "",
    "set_eeg_reference": "also notes the reference; with projection=True only adds a projection",
}
"""Methods that change samples from all channels at one time: blocks are stretches of time."""

DESCRIPTION: dict[str, str] = {
    "add_proj": "projections, which apply_proj applies",
    "anonymize": "dates, subject, experimenter, all attributes beside what the signal needs, and "
    "the source in the result's provenance",
    "del_proj": "projections",
    "rename_channels": "names, also in projections and in events of channels",
    "set_annotations": "events",
    "set_channel_types": "types and units",
    "set_meas_date": "the measurement date",
    "set_montage": "positions and digitisation",
}
"""Methods that leave samples as they are and change what is said of them."""

SELECTION: dict[str, str] = {
    "crop": "the same as Crop: events, triggers and the date move along",
    "drop_channels": "",
    "pick": "",
    "pick_channels": "",
    "pick_types": "leaves out bad channels unless exclude=[]",
    "reorder_channels": "",
}
"""Methods that keep a part of the samples."""

_ELSEWHERE = "use it on the result: penstock.to_mne(ds).{method}(...)"
_JOIN = "join datasets with xarray.concat, or {method} to an mne.io.Raw and open that"

REFUSED: dict[str, str] = {
    "add_channels": _JOIN,
    "add_events": "keep events as events (penstock.with_events, or MNE('set_annotations', ...))",
    "append": _JOIN,
    "apply_gradient_compensation": "apply it first: penstock.from_mne(raw.{method}(...))",
    "close": "files are closed by themselves: leave it out",
    "compute_psd": _ELSEWHERE,
    "compute_tfr": _ELSEWHERE,
    "copy": "a pipeline never changes its input: leave it out",
    "crop_by_annotations": "it makes several recordings: use a pipeline with Crop for each",
    "describe": _ELSEWHERE,
    "export": "export the result: penstock.export(ds, path), or run(..., format='edf')",
    "get_annotation_spans": _ELSEWHERE,
    "get_channel_types": "read it from the dataset: ds['channel_type']",
    "get_data": "read it from the dataset: ds['signal'].values",
    "get_montage": _ELSEWHERE,
    "interpolate_to": "do it first: penstock.from_mne(raw.load_data().{method}(...))",
    "load_bad_channels": "give them when opening, or set ds['bad'] before the pipeline",
    "load_data": "samples are read when they are needed: leave it out",
    "plot": _ELSEWHERE,
    "plot_projs_topomap": _ELSEWHERE,
    "plot_psd": _ELSEWHERE,
    "plot_psd_topo": _ELSEWHERE,
    "plot_psd_topomap": _ELSEWHERE,
    "plot_sensors": _ELSEWHERE,
    "reconstruct_proj": "do it first: penstock.from_mne(raw.load_data().{method}(...))",
    "save": "run the pipeline into files: run(..., format='fif')",
    "time_as_index": _ELSEWHERE,
    "to_data_frame": _ELSEWHERE,
}
"""Methods that are no step, and what to do instead."""

ACCEPTED: dict[str, str] = CHANNEL_WISE | WHOLE | MOMENTS | DESCRIPTION | SELECTION
"""All methods that work as steps, with what they change beside samples."""


def kind_of(method: str, arguments: Mapping[str, Any]) -> Kind:
    """How a method is carried out."""
    if method in CHANNEL_WISE:
        return "channels"
    if method in WHOLE:
        return "whole"
    if method == "set_channel_types":
        return "types"
    if method in DESCRIPTION or (method == "set_eeg_reference" and arguments.get("projection")):
        return "description"
    if method in MOMENTS:
        return "moments"
    return "crop" if method == "crop" else "selection"


def check_method(method: str, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError for a method or arguments that cannot be a step, with what to do instead."""
    if not method.isidentifier() or method.startswith("_"):
        raise ValueError(f"method must be the name of a method of mne.io.Raw: {method!r}")
    if method in REFUSED:
        advice = REFUSED[method].replace("{method}", method)
        raise ValueError(f"MNE({method!r}) is no step of a pipeline: {advice}")
    if method not in ACCEPTED:
        near = difflib.get_close_matches(method, ACCEPTED, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(ACCEPTED))}"
        raise ValueError(f"mne.io.Raw has no method {method!r} that is a step: {hint}")
    given = {name for name, value in arguments.items() if value is not None}
    if method == "resample" and not isinstance(arguments.get("sfreq"), int | float):
        raise ValueError("MNE('resample') needs sfreq, the new sampling frequency [Hz]")
    if method == "apply_hilbert" and not arguments.get("envelope"):
        raise ValueError("MNE('apply_hilbert') would make complex values: give envelope=True")
    if method == "crop" and arguments.get("reset_first_samp"):
        raise ValueError("MNE('crop') moves the measurement date: leave reset_first_samp out")
    for name, advice in _NOT_GIVEN.get(method, {}).items():
        if name in given:
            raise ValueError(f"MNE({method!r}) takes no {name} as a step: {advice}")


_NOT_GIVEN = {
    "resample": {
        "events": "events are in seconds and stay as they are",
        "stim_picks": "set the type of those channels to 'stim' (MNE('set_channel_types', ...))",
    },
    "set_eeg_reference": {
        "forward": "re-reference first: penstock.from_mne(mne.set_eeg_reference(raw, ...)[0])"
    },
    "interpolate_bads": {"origin": "MNE-Python fits it to the positions: leave it out"},
}
"""Arguments that are refused, and what to do instead."""
