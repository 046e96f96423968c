"""Traces of channels over time, one above the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from penstock.dataset import events_table
from penstock.eeg.plots.channels import (
    BAD,
    PARTING,
    PIECE_BYTES,
    TRACE,
    DrawnChannels,
    drawn_span,
    new_axes,
)
from penstock.plots.quantities import LONGEST_NAME, drawn_text, quantity

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

COLUMNS = 2000
"""Places along time at which traces are drawn: of more samples, the least and the largest value."""
MOST_EVENTS = 200
"""Events that are drawn of a stretch."""
FILLED = 0.75
"""Rows that 98 of 100 values of a typical trace may fill, before the distance is rounded up."""
EVENT, ALARM = "#7a5195", "#c0392b"
"""Colours of events, and of those that mark what is bad."""


def plot_traces(
    ds: xr.Dataset,
    *,
    start: float | None = None,
    duration: float = 10.0,
    picks: str | Sequence[str] | None = "all",
    n_channels: int | None = 20,
    scaling: float | Mapping[str, float] | None = None,
    events: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw channels over time, one above the other, with events; bad channels are grey.

    Parameters
    ----------
    ds : xarray.Dataset
        Recording with the dims channel and time. It may be lazy and larger than memory.
    start : float, optional
        Where the picture begins, on the time coordinate [s]. Default: with the first sample.
    duration : float, default 10
        Length of the stretch that is drawn [s]; less where the recording ends before.
    picks : str or list of str, optional
        Channel names or types. ``"all"`` (default): all but stimulus channels; None: the data
        channels (EEG, MEG, ...).
    n_channels : int, optional
        The first so many of them are drawn (default 20); None: all.
    scaling : float or mapping, optional
        What the distance from one trace to the next stands for, in the channels' units; a mapping
        has it by channel type. Default: by type, as the values of good channels need.
    events : bool, default True
        Whether to draw events: those with a duration as spans, others as lines.
    ax : matplotlib.axes.Axes, optional
        Where to draw. Default: a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        If the dataset is no recording, a channel is missing, or the stretch lies outside.

    Notes
    -----
    Traces are drawn around their median. Of long stretches the least and the largest value at each
    of 2,000 places are drawn, so that no peak is lost.

    Examples
    --------
    >>> import penstock as ps
    >>> ds = ps.eeg.simulate.recording(4, duration=20.0, sampling_frequency=250.0)
    >>> ax = ps.eeg.plot_traces(ds, start=5.0, duration=4.0)
    >>> ax.get_xlabel(), [label.get_text() for label in ax.get_yticklabels()][:2]
    ('time [s]', ['Fp1', 'Fp2'])
    """
    channels = DrawnChannels.of(ds, picks, "plot_traces", n_channels)
    low, high = drawn_span(ds, start, duration)
    times, values = _envelope(channels, low, high)
    values = values - _medians(values)[:, np.newaxis]
    scales = _scales(channels, values, scaling)
    n = len(channels.names)
    if ax is None:
        ax = new_axes(9.0, 1.4 + 0.28 * n)
    for row, name in enumerate(channels.names):
        shown = values[row] / scales[channels.kinds[row]] - row
        bad = channels.bad[row]
        ax.plot(times, shown, color=BAD if bad else TRACE, linewidth=0.7, label=drawn_text(name))
    ax.set_yticks(-np.arange(n), [_told_name(channels, row) for row in range(n)], fontsize="small")
    for tick, bad in zip(ax.get_yticklabels(), channels.bad, strict=True):
        tick.set_color(BAD if bad else "black")
    ax.set_ylim(-n + 0.2, 1.8)  # (above the traces there is room for the names of events)
    first, last = float(times[0]), float(times[-1])
    ax.set_xlim(first, last if last > first else first + 1 / channels.rate)
    ax.set_xlabel("time [s]")
    ax.spines[["top", "right"]].set_visible(False)
    if n < channels.picked:
        ax.set_title(f"{n} of {channels.picked} channels", loc="left", fontsize="small")
    ax.set_title(_told_scales(channels, scales), loc="right", fontsize="small")
    if events:
        _draw_events(ax, ds, first, last)
    return ax


def _envelope(channels: DrawnChannels, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Times [s], and values (channel, time) to draw there."""
    rows, n = len(channels.names), high - low
    begin = float(channels.ds["time"][0])
    if n <= 2 * COLUMNS:
        return begin + np.arange(low, high) / channels.rate, channels.read(slice(None), low, high)
    edges = np.linspace(low, high, COLUMNS + 1).astype(np.int64)
    least, largest = np.full((2, rows, COLUMNS), np.nan)
    step = max(1, PIECE_BYTES // (8 * rows))
    for first in range(low, high, step):
        block = channels.read(slice(None), first, min(first + step, high))
        cuts = np.union1d([first], edges[(edges > first) & (edges < first + block.shape[1])])
        columns = np.searchsorted(edges, cuts, side="right") - 1
        for kept, smaller in ((least, np.fmin), (largest, np.fmax)):
            found = smaller.reduceat(block, cuts - first, axis=1)
            kept[:, columns] = smaller(kept[:, columns], found)
    middles = begin + (edges[1:] + edges[:-1] - 1) / 2 / channels.rate
    values = np.stack([least, largest], axis=2).reshape(rows, -1)
    return np.repeat(middles, 2), values


def _medians(values: np.ndarray) -> np.ndarray:
    """Median of each row's finite values; 0 where there is none."""
    found = [row[np.isfinite(row)] for row in values]
    return np.array([np.median(row) if len(row) else 0.0 for row in found])


def _scales(
    channels: DrawnChannels, values: np.ndarray, given: float | Mapping[str, float] | None
) -> dict[str, float]:
    """What a row stands for, by channel type."""
    scales: dict[str, float] = {}
    for kind in dict.fromkeys(channels.kinds):
        wanted = given.get(kind) if isinstance(given, Mapping) else given
        if wanted is not None:
            if not wanted > 0:
                raise ValueError(f"scaling={given!r} must be above 0")
            scales[kind] = float(wanted)
            continue
        members = np.array([other == kind for other in channels.kinds])
        good = members & ~channels.bad
        spreads = []
        for row in values[good if good.any() else members]:
            finite = row[np.isfinite(row)]
            if len(finite):
                spreads.append(float(np.diff(np.percentile(finite, (1, 99)))[0]))
        scales[kind] = _round_number(FILLED * float(np.median(spreads)) if spreads else 0.0)
    return scales


def _round_number(value: float) -> float:
    """The next larger 1, 2 or 5 times a power of ten."""
    if not (0 < value < math.inf):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def _told_name(channels: DrawnChannels, row: int) -> str:
    name = drawn_text(channels.names[row], LONGEST_NAME)
    return f"{name} (bad)" if channels.bad[row] else name


def _told_scales(channels: DrawnChannels, scales: Mapping[str, float]) -> str:
    """What a row stands for, for people."""
    told = []
    for kind, scale in scales.items():
        unit = channels.units[channels.kinds.index(kind)]
        text = drawn_text(quantity(scale, unit or None))
        told.append(f"{drawn_text(kind)} {text}" if len(scales) > 1 and kind else text)
    return f"a row: {', '.join(told)}"


def _draw_events(ax: Axes, ds: xr.Dataset, first: float, last: float) -> None:
    table = events_table(ds)
    onsets = table["onset"].to_numpy(float)
    ends = onsets + np.nan_to_num(table["duration"].to_numpy(float))
    shown = np.flatnonzero((onsets <= last) & (ends >= first))[:MOST_EVENTS]
    free = -math.inf
    for number in shown:
        begin, end = max(first, onsets[number]), min(last, ends[number])
        label = str(table["label"].iloc[number])
        color = ALARM if label.lower().startswith(PARTING) else EVENT
        if end > begin:
            ax.axvspan(begin, end, color=color, alpha=0.11, linewidth=0)
        if onsets[number] >= first:
            ax.axvline(begin, color=color, alpha=0.6, linewidth=0.8)
        if begin >= free:  # (names that would lie over each other could not be read)
            text = drawn_text(label, 24)
            place = begin + 0.002 * (last - first)
            ax.text(place, 1.7, text, color=color, fontsize="small", va="top", clip_on=True)
            free = begin + (0.012 * len(text) + 0.015) * (last - first)
