"""What cleaning did to signals: courses, spectra and what is left of the confounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.fmri.plots.carpet import time_axis
from penstock.fmri.plots.series import RegionSeries, confound_table
from penstock.plots.quantities import drawn_text, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

BEFORE, AFTER, BAND = "0.6", "#0072B2", "#009E73"
"""Colours."""
MOST_REGIONS = 400
"""Regions that spectra and correlations are taken of, evenly spread."""
LONGEST = 300
"""Volumes of a time course that are drawn where no part is asked for."""


def plot_cleaning(
    before: Any,
    after: Any,
    *,
    t_r: float | None = None,
    regions: Any = None,
    band: tuple[float | None, float | None] | None = None,
    confounds: Any = None,
    span: tuple[float, float] | None = None,
    figure: Figure | SubFigure | None = None,
) -> tuple[Axes, ...]:
    """Compare signals before and after cleaning, in one figure.

    Parameters
    ----------
    before, after : xarray.Dataset, xarray.DataArray or array_like
        Signals with the dims region and time, or arrays (time, region), of the same regions. After
        cleaning there may be fewer volumes (censoring), where both have a time coordinate.
    t_r : float, optional
        Repetition time [s]. Default: from the time coordinate of `before`.
    regions : sequence of str or int, optional
        Names or numbers of the regions whose time courses are drawn. Default: three of them.
    band : tuple of float or None, optional
        Pass band of the filter [Hz], ``(0.01, 0.1)``; None for an open side. It is shaded.
    confounds : array_like, DataFrame or xarray.DataArray, optional
        (time, confound), a row for every volume of `before`. With them, the correlations of all
        regions with all confounds are drawn, before and after.
    span : tuple of float, optional
        Part of the run that time courses are drawn of [s]. Default: its first 300 volumes.
    figure : matplotlib.figure.Figure or SubFigure, optional
        Where to draw. Default: a new figure.

    Returns
    -------
    tuple of matplotlib.axes.Axes
        Time courses from the top, then power spectra, then correlations if there are confounds.

    Raises
    ------
    ImportError
        Without matplotlib.
    TypeError, ValueError, IndexError
        If the signals do not fit to each other or to the confounds, or there is no such region.

    Notes
    -----
    All signals are drawn in their standard deviations around their means. Spectra are Welch's, of
    up to 256 volumes a segment, the median of the regions and the quarters around it. Of more than
    400 regions, 400 evenly spread ones are read for spectra and correlations. Spectra after
    censoring are left out: volumes are missing in between.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.plots.cleaning import plot_cleaning
    >>> raw = np.random.default_rng(0).standard_normal((200, 5)).cumsum(axis=0)
    >>> axes = plot_cleaning(raw, np.diff(raw, axis=0, prepend=0), t_r=2.0, band=(0.01, None))
    >>> axes[-1].get_xlabel()
    'frequency [Hz]'
    """
    require_matplotlib()
    import matplotlib.pyplot as plt

    first = RegionSeries.of(before, t_r=t_r, name="before")
    second = RegionSeries.of(after, t_r=t_r, name="after")
    if first.n_regions != second.n_regions:
        raise ValueError(
            f"there are {first.n_regions} regions before and {second.n_regions} after cleaning: "
            "compare the same regions"
        )
    if first.t_r is None:
        raise ValueError("the repetition time is not known: give t_r [s]")
    kept = _kept(first, second)
    table = None if confounds is None else confound_table(confounds, first.n_times)[0]
    shown = first.pick(regions, min(3, first.n_regions))

    n_left, n_right = len(shown), 1 if table is None else 2
    figure = figure or plt.figure(
        figsize=(8.6, max(0.95 * n_left, 1.75 * n_right) + 0.7), layout="constrained"
    )
    halves = figure.add_gridspec(1, 2, width_ratios=(1.6, 1))
    courses = halves[0].subgridspec(n_left, 1).subplots(sharex=True, squeeze=False)[:, 0]
    others = halves[1].subgridspec(n_right, 1).subplots(squeeze=False)[:, 0]
    _draw_courses(courses, first, second, shown, kept, span)
    some = first.pick(None, min(MOST_REGIONS, first.n_regions))
    values = _standardized(first.read(some)), _standardized(second.read(some))
    _draw_spectra(others[0], values, first.t_r, band, complete=len(kept) == first.n_times)
    if table is not None:
        _draw_correlations(others[1], values, (table, table[kept]))
    return (*courses, *others)


def _kept(first: RegionSeries, second: RegionSeries) -> np.ndarray:
    """Numbers of the volumes that are still there after cleaning."""
    if second.n_times == first.n_times:
        return np.arange(first.n_times)
    if second.n_times > first.n_times or not (first.has_times and second.has_times):
        raise ValueError(
            f"there are {first.n_times} volumes before and {second.n_times} after cleaning, and no "
            "time coordinate says which ones: give datasets with one, or series of the same length"
        )
    assert first.t_r is not None
    kept = np.searchsorted(first.times, second.times - first.t_r / 2)
    kept = np.minimum(kept, first.n_times - 1)
    if np.abs(first.times[kept] - second.times).max() > 0.01 * first.t_r:
        raise ValueError("the times after cleaning are not among those before: compare one run")
    return kept


def _standardized(values: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and standard deviation 1; NaN where they do not change."""
    values = values - np.nanmean(values, axis=1, keepdims=True)
    spread = np.nanstd(values, axis=1, keepdims=True)
    return np.divide(values, spread, out=np.full_like(values, np.nan), where=spread > 0)


# ---------------------------------------------------------------------- drawing


def _draw_courses(
    axes: np.ndarray,
    first: RegionSeries,
    second: RegionSeries,
    shown: np.ndarray,
    kept: np.ndarray,
    span: tuple[float, float] | None,
) -> None:
    times, _, label = time_axis(first)
    low, high = 0, min(first.n_times, LONGEST)
    if span is not None:
        low, high = np.searchsorted(first.times, span)
        if high - low < 2:
            raise ValueError(f"span={span!r} [s] holds no two volumes of the run")
    after = np.full((len(shown), first.n_times), np.nan)  # (gaps where volumes were censored)
    after[:, kept] = _standardized(second.read(shown))
    rows = zip(axes, shown, _standardized(first.read(shown)), after, strict=True)
    for ax, number, old, new in rows:
        part = slice(low, high)
        ax.plot(times[part], old[part], color=BEFORE, linewidth=1.0, label="before")
        ax.plot(times[part], new[part], color=AFTER, linewidth=1.0, label="after")
        name = first.names[number]
        title = f"{first.dim} {name}" if name.isdecimal() else name
        ax.set_title(drawn_text(title), loc="left", fontsize="small")
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize="small")
        ax.locator_params(axis="y", nbins=4)
        ax.margins(x=0.01)
    axes[-1].set_xlabel(label)
    axes[len(axes) // 2].set_ylabel("signal [SD]")
    axes[0].legend(
        loc="lower right", bbox_to_anchor=(1.0, 0.95), ncols=2, fontsize="small", frameon=False
    )


def _draw_spectra(
    ax: Axes,
    values: tuple[np.ndarray, np.ndarray],
    t_r: float,
    band: tuple[float | None, float | None] | None,
    *,
    complete: bool,
) -> None:
    from scipy.signal import welch

    nyquist = 0.5 / t_r
    if band is not None:
        low, high = band
        low, high = 0.0 if low is None else low, nyquist if high is None else high
        ax.axvspan(low, min(high, nyquist), color=BAND, alpha=0.13, linewidth=0, label="pass band")
    top = 0.0
    drawn = (("before", BEFORE, values[0]), ("after", AFTER, values[1]))
    for name, color, rows in drawn[: 2 if complete else 1]:
        rows = rows[np.isfinite(rows).all(axis=1)]
        if not len(rows):
            continue
        frequencies, power = welch(rows, 1 / t_r, nperseg=min(256, rows.shape[1]))
        quarters = np.percentile(power[:, 1:], [25, 50, 75], axis=0)
        ax.fill_between(
            frequencies[1:], quarters[0], quarters[2], color=color, alpha=0.25, linewidth=0
        )
        ax.plot(frequencies[1:], quarters[1], color=color, linewidth=1.2, label=name)
        top = max(top, quarters[2].max())
    ax.set_yscale("log")
    if top > 0:
        ax.set_ylim(1e-5 * top, 3 * top)
    ax.set_xlim(0, nyquist)
    if not complete:
        note = "after: not evenly sampled (censored)"
        ax.text(0.98, 0.03, note, transform=ax.transAxes, ha="right", fontsize="x-small")
    ax.set_xlabel("frequency [Hz]")
    ax.set_ylabel("power [SD²/Hz]")
    _tidy(ax, "best")


def _draw_correlations(
    ax: Axes, values: tuple[np.ndarray, np.ndarray], tables: tuple[np.ndarray, np.ndarray]
) -> None:
    bins = np.linspace(-1, 1, 41).tolist()
    for name, color, rows, table in zip(
        ("before", "after"), (BEFORE, AFTER), values, tables, strict=True
    ):
        correlations = np.nan_to_num(rows) @ np.nan_to_num(_standardized(table.T)).T / rows.shape[1]
        found = correlations[np.isfinite(rows).all(axis=1)]
        weights = np.full(found.size, 100 / max(1, found.size))
        label = f"{name} (median |r| {np.median(np.abs(found)) if found.size else np.nan:.2f})"
        style: dict[str, Any] = {"histtype": "stepfilled", "alpha": 0.45, "color": color}
        ax.hist(found.reshape(-1), bins, weights=weights, label=label, **style)
        ax.hist(found.reshape(-1), bins, weights=weights, histtype="step", color=color)
    ax.set_xlim(-1, 1)
    ax.set_ylim(0, 1.4 * ax.get_ylim()[1])  # (room for the legend)
    ax.set_xlabel("correlation with a confound")
    ax.set_ylabel("pairs [%]")
    _tidy(ax, "upper right")


def _tidy(ax: Axes, where: str) -> None:
    ax.legend(loc=where, fontsize="x-small", frameon=False, handlelength=1.2)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize="small")
