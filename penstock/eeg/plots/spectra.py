"""Power spectral densities of channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.eeg.plots.channels import (
    BAD,
    PARTING,
    PIECE_BYTES,
    TRACE,
    DrawnChannels,
    drawn_span,
    new_axes,
)
from penstock.eeg.stretches import stretches
from penstock.plots.quantities import LONGEST_NAME, drawn_text

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

NAMED = 8
"""As many spectra, or fewer, get a colour and a name each."""
DISTINCT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
"""Told apart by colour-blind people as well (Okabe and Ito; the last two by Tol)."""


def plot_psd(
    ds: xr.Dataset,
    *,
    fmin: float = 0.0,
    fmax: float | None = None,
    picks: str | Sequence[str] | None = None,
    start: float | None = None,
    duration: float | None = 300.0,
    window: float = 4.0,
    dB: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the power spectral density of channels; bad channels are grey.

    Parameters
    ----------
    ds : xarray.Dataset
        Recording with the dims channel and time. It may be lazy and larger than memory.
    fmin, fmax : float, optional
        Frequencies that are drawn [Hz]. Default: all, to half the sampling frequency.
    picks : str or list of str, optional
        Channel names or types. Default: the data channels (EEG, MEG, ...), bad ones included.
    start : float, optional
        Where the stretch begins that is read, on the time coordinate [s]. Default: with the first
        sample.
    duration : float, optional
        Its length [s] (default 300); None: to the end.
    window : float, default 4
        Length of Welch's windows [s]: the frequencies are ``1 / window`` apart.
    dB : bool, default True
        Decibels; otherwise power on a logarithmic axis.
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
        If the dataset is no recording, a channel is missing, the stretch lies outside, or the
        channels have several units.

    Notes
    -----
    As `scipy.signal.welch`: Hann windows that overlap by half, each without its mean. Windows with
    values that are not finite are left out, and so are events whose labels begin with ``bad`` or
    ``edge``: no window reaches across them (MNE's ``reject_by_annotation``).

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> t = np.arange(5000) / 250
    >>> ds = ps.make_dataset(np.sin(2 * np.pi * 10 * t)[np.newaxis], sampling_frequency=250.0)
    >>> line = ps.eeg.plot_psd(ds, fmax=40.0).lines[0]
    >>> float(line.get_xdata()[line.get_ydata().argmax()])
    10.0
    """
    channels = DrawnChannels.of(ds, picks, "plot_psd", None)
    units = sorted(set(channels.units))
    if len(units) > 1:
        raise ValueError(
            f"plot_psd: the channels have several units ({', '.join(units)}): pick those of one, "
            "for example with picks='eeg'"
        )
    low, high = drawn_span(ds, start, duration)
    frequencies, power = power_spectra(channels, low, high, window)
    last = channels.rate / 2 if fmax is None else fmax
    shown = (frequencies >= fmin) & (frequencies <= last)
    if not shown.any():
        raise ValueError(
            f"plot_psd: no frequency lies between fmin={fmin:g} and fmax={last:g} Hz: they go from "
            f"0 to {channels.rate / 2:g} Hz"
        )
    frequencies, power = frequencies[shown], power[:, shown]
    if dB:
        power = decibels(power)
    if ax is None:
        ax = new_axes(7.2, 4.0)
    _draw_spectra(ax, channels, frequencies, power)
    if not dB:
        ax.set_yscale("log")
    density = told_density(units[0])
    ax.set_ylabel(f"power [dB re 1 {density}]" if dB else f"power [{density}]")
    ax.set_xlabel("frequency [Hz]")
    ax.set_xlim(frequencies[0], max(frequencies[-1], frequencies[0] + 1 / window))
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, linewidth=0.6)
    begin, end = low / channels.rate, high / channels.rate
    ax.set_title(
        f"{len(channels.names)} channel{'s' if len(channels.names) > 1 else ''}, {end - begin:g} s",
        loc="left",
        fontsize="small",
    )
    return ax


def _windows(ds: xr.Dataset, low: int, high: int, length: int) -> tuple[int, list[tuple[int, int]]]:
    """Samples of a window, and first samples of those windows that nothing interrupts, as ranges.

    Windows are as long as the longest stretch, where all are shorter.
    """
    parts = [
        (max(part.start, low), min(part.stop, high))
        for part in stretches(ds, PARTING)
        if not part.skipped and min(part.stop, high) > max(part.start, low)
    ]
    if not parts:
        raise ValueError(
            "events whose labels begin with 'bad' or 'edge' leave nothing of the stretch: "
            "choose another with start and duration"
        )
    length = max(1, min(length, max(stop - start for start, stop in parts)))
    return length, [(start, stop) for start, stop in parts if stop - start >= length]


def power_spectra(
    channels: DrawnChannels, low: int, high: int, window: float
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies [Hz], and power spectral densities (channel, frequency): means over windows.

    `low` and `high` are the first sample and one past the last; a window has `window` seconds.
    """
    from scipy.signal import spectrogram

    if not window > 0:
        raise ValueError(f"window={window!r} must be a length above 0 s")
    length, parts = _windows(channels.ds, low, high, round(window * channels.rate))
    overlap = length // 2
    n, n_frequencies = len(channels.names), length // 2 + 1
    total, count = np.zeros((n, n_frequencies)), np.zeros((n, 1))
    frequencies = np.fft.rfftfreq(length, 1 / channels.rate)
    for rows, first, last in _pieces(n, parts, length, length - overlap):
        _, _, found = spectrogram(
            channels.read(rows, first, last), channels.rate, "hann", length, overlap
        )
        finite = np.isfinite(found).all(axis=1)
        total[rows] += np.where(finite[:, np.newaxis], found, 0).sum(axis=2)
        count[rows] += finite.sum(axis=1)[:, np.newaxis]
    with np.errstate(invalid="ignore"):
        return frequencies, total / np.where(count > 0, count, np.nan)


def decibels(power: np.ndarray) -> np.ndarray:
    """Power in decibels; NaN where there is none."""
    with np.errstate(divide="ignore"):
        found = 10 * np.log10(power)
    return np.where(np.isfinite(found), found, np.nan)


def told_density(unit: str) -> str:
    """Unit of a power spectral density, for people."""
    written = "µV" if unit == "uV" else drawn_text(unit)
    return f"{written}²/Hz" if written not in ("", "1") else "1/Hz"


def _pieces(
    n_rows: int, parts: list[tuple[int, int]], length: int, step: int
) -> Iterator[tuple[slice, int, int]]:
    """Rows and samples that are read at once: whole windows, none of them twice."""
    at_once = min(n_rows, max(1, PIECE_BYTES // (8 * length)))
    windows = max(1, PIECE_BYTES // (8 * at_once * step))
    for start, stop in parts:
        n_windows = (stop - start - length) // step + 1
        for number in range(0, n_windows, windows):
            these = min(windows, n_windows - number)
            first = start + number * step
            for row in range(0, n_rows, at_once):
                rows = slice(row, min(row + at_once, n_rows))
                yield rows, first, first + (these - 1) * step + length


def _draw_spectra(
    ax: Axes, channels: DrawnChannels, frequencies: np.ndarray, power: np.ndarray
) -> None:
    good = np.flatnonzero(~channels.bad)
    few = len(good) <= NAMED
    bads = [name for name, bad in zip(channels.names, channels.bad, strict=True) if bad]
    told_bad = drawn_text("bad: " + ", ".join(bads[:NAMED]) + ", …" * (len(bads) > NAMED))
    said = False
    for row, name in enumerate(channels.names):
        style: dict[str, Any] = {"color": BAD, "linewidth": 0.9, "linestyle": "--", "zorder": 3}
        if channels.bad[row]:
            style["label"] = "_" if said else told_bad
            said = True
        elif few:
            color = DISTINCT[int(np.searchsorted(good, row)) % len(DISTINCT)]
            style = {"color": color, "linewidth": 1.2, "label": drawn_text(name, LONGEST_NAME)}
        else:
            style = {"color": TRACE, "linewidth": 0.6, "alpha": 0.35, "label": "_"}
        ax.plot(frequencies, power[row], **style)
    if not few:
        middle = np.median(power[good], axis=0)
        ax.plot(frequencies, middle, color="black", linewidth=1.6, label=f"median of {len(good)}")
    ax.legend(fontsize="small", frameon=False)
