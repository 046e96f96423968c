"""What a recording says of its reference, and of events of channels, as processors change it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr


def with_reference(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with the note that it was re-referenced.

    MNE-Python then offers no average reference of its own, and one that was only a projection is
    gone.
    """
    ds = ds.assign_attrs(custom_reference=1)
    text = str(ds.attrs.get("mne_info", ""))
    if '"projs":[]' in text or '"projs"' not in text:
        return ds
    from penstock.io.mne.text import as_text, from_text

    content = from_text(text)
    content["projs"] = [proj for proj in content["projs"] if int(proj["kind"]) != _AVERAGE]
    return ds.assign_attrs(mne_info=as_text(content))


_AVERAGE = 10
"""FIFFV_PROJ_ITEM_EEG_AVREF of https://github.com/mne-tools/fiff-constants."""


def events_of_channels_kept(ds: xr.Dataset) -> xr.Dataset:
    """The dataset without the events of channels that it does not have any more.

    As in MNE-Python: events of some channels name those in ``event_channels``.
    """
    if "event_channels" not in ds.variables:
        return ds
    present = set(map(str, ds["channel"].values))
    told = [json.loads(str(text)) or [] for text in ds["event_channels"].values]
    left = [[name for name in names if name in present] for names in told]
    kept = np.array([bool(now) or not names for now, names in zip(left, told, strict=True)])
    texts = np.array([json.dumps(names) for names in left], dtype=object)
    attrs = ds["event_channels"].attrs
    ds = ds.assign_coords(event_channels=("event", texts, attrs))
    return ds.isel(event=kept)
