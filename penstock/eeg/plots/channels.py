"""Channels and stretches that are drawn, and how they are read: in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, Region, check_dataset, read_region, sampling_frequency
from penstock.eeg.picks import channel_kinds, channel_names, pick_mask
from penstock.plots.quantities import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PIECE_BYTES = 4 << 20
"""What is read at once, in float64."""
PARTING = ("edge", "bad")
"""How labels of events begin that spectra leave out, or do not reach across."""
TRACE, BAD = "#20507a", "0.6"
"""Colours of channels, and of those that are marked bad."""


@dataclass(frozen=True)
class DrawnChannels:
    """Channels of a recording that are drawn, and how to read them."""

    ds: xr.Dataset
    positions: np.ndarray
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    units: tuple[str, ...]
    bad: np.ndarray
    rate: float
    picked: int
    """How many there would be without a limit."""

    @classmethod
    def of(
        cls, ds: xr.Dataset, picks: str | Sequence[str] | None, name: str, most: int | None
    ) -> DrawnChannels:
        """The channels that are meant; see `plot_traces`."""
        signal = check_dataset(ds)[SIGNAL]
        if set(signal.dims) != {"channel", "time"}:
            dims = ", ".join(map(str, signal.dims))
            raise ValueError(
                f"{name}: the signal must have the dims channel and time, got ({dims}): keep a "
                "single channel in a list, such as ds.sel(channel=['Cz'])"
            )
        if signal.dtype.kind not in "biuf" or 0 in signal.shape:
            raise ValueError(f"{name}: the signal must hold real numbers, got {signal.dtype}")
        if most is not None and most < 1:
            raise ValueError(f"{name}: n_channels={most!r} must be at least 1")
        wanted = picks if picks is None or isinstance(picks, str) else tuple(picks)
        found = np.flatnonzero(pick_mask(ds, wanted, name))
        positions = found[:most]
        n = ds.sizes["channel"]
        kinds = channel_kinds(ds)
        units = [str(signal.attrs.get("units", ""))] * n
        if "channel_unit" in ds.variables:
            units = [str(unit) for unit in ds["channel_unit"].values]
        bad = np.zeros(n, bool)
        if "bad" in ds.variables:
            bad = np.asarray(ds["bad"].values, dtype=bool)
        return cls(
            ds,
            positions,
            tuple(str(channel_names(ds)[i]) for i in positions),
            tuple("" if kinds is None else str(kinds[i]) for i in positions),
            tuple(units[i] for i in positions),
            bad[positions],
            sampling_frequency(ds),
            len(found),
        )

    def only(self, names: Container[str]) -> DrawnChannels:
        """Those of the channels that have some names."""
        rows = [row for row, name in enumerate(self.names) if name in names]
        return replace(
            self,
            positions=self.positions[rows],
            names=tuple(self.names[row] for row in rows),
            kinds=tuple(self.kinds[row] for row in rows),
            units=tuple(self.units[row] for row in rows),
            bad=self.bad[rows],
        )

    def read(self, rows: slice, low: int, high: int) -> np.ndarray:
        """Values of some of the channels, (channel, time), float64."""
        region: Region = {"channel": self.positions[rows], "time": slice(low, high)}
        signal = self.ds.variables[SIGNAL]
        values = read_region(self.ds, region)
        return np.asarray(values if signal.dims[0] == "channel" else values.T, dtype=np.float64)


def new_axes(width: float, height: float) -> Axes:
    """Axes of a new figure [inches].

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    require_matplotlib()
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def drawn_span(ds: xr.Dataset, start: float | None, duration: float | None) -> tuple[int, int]:
    """First sample of a stretch, and one past its last."""
    rate, n = sampling_frequency(ds), ds.sizes["time"]
    begin, end = float(ds["time"][0]), float(ds["time"][-1])
    if duration is not None and not duration > 0:
        raise ValueError(f"duration={duration!r} must be a length above 0 s")
    low = 0 if start is None else round((start - begin) * rate)
    if not 0 <= low < n:
        raise ValueError(
            f"start={start:g} s lies outside of the recording, which goes from {begin:g} to "
            f"{end:g} s"
        )
    return low, n if duration is None else min(n, low + max(1, round(duration * rate)))
