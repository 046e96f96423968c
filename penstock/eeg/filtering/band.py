"""The band of frequencies that is left in a recording: attributes ``highpass`` and ``lowpass``.

They change as MNE-Python changes ``Info["highpass"]`` and ``Info["lowpass"]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from penstock.eeg.picks import DATA_TYPES, channel_kinds

if TYPE_CHECKING:
    import xarray as xr


def filtered_band(
    ds: xr.Dataset, low: float | None, high: float | None, picked: np.ndarray
) -> xr.Dataset:
    """The dataset after a filter that passes frequencies from `low` to `high` [Hz].

    Nothing changes where a band is stopped (`low` above `high`), or where some data channels are
    not `picked`.
    """
    kinds = channel_kinds(ds)
    if kinds is not None:
        data = np.isin(kinds, list(DATA_TYPES - {"ref_meg"}))
        if len(data) == len(picked) and not (data.any() and picked[data].all()):
            return ds
    elif not picked.all():
        return ds
    if low is not None and high is not None and low >= high:
        return ds
    band: dict[str, float] = {}
    if low is not None and low > float(ds.attrs.get("highpass", 0.0)):
        band["highpass"] = float(low)
    if high is not None and high < float(ds.attrs.get("lowpass", np.inf)):
        band["lowpass"] = float(high)
    return ds.assign_attrs(band) if band else ds


def resampled_band(ds: xr.Dataset, rate: float) -> xr.Dataset:
    """The dataset after resampling to `rate` [Hz]: nothing above half of it is left."""
    before = float(ds.attrs.get("lowpass", np.inf))
    return ds.assign_attrs(lowpass=min(before, rate / 2)) if np.isfinite(before) else ds
