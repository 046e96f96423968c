"""The carpet plot: all time series of a run at a glance, reduced to the pixels of the plot."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from penstock.fmri.plots.series import RegionSeries, confound_table
from penstock.plots.quantities import LONGEST_NAME, drawn_text, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Order: TypeAlias = Literal["label", "cluster"]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
"""Told apart by colour-blind people as well (Okabe and Ito; the last two by Tol)."""
ROW_PIXELS, COLUMN_PIXELS = 800, 1500
"""Finest grid that a carpet is drawn with."""
MOST_CLUSTERED = 4000
"""Regions that can be ordered by similarity: each is compared with every other."""


def plot_carpet(
    signals: Any,
    *,
    t_r: float | None = None,
    order: Order | None = None,
    groups: Any = None,
    confounds: Any = None,
    limit: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw all time series of a run as a grey image: regions down, time to the right.

    Parameters
    ----------
    signals : xarray.Dataset, xarray.DataArray or array_like
        Signals with the dims region and time (in any order), or an array or table (time, region).
        They may be lazy and larger than memory: they are read in stretches and averaged down to the
        pixels of the plot.
    t_r : float, optional
        Repetition time [s]. Default: from the time coordinate; without one, volumes are counted.
    order : {"label", "cluster"}, optional
        Regions by their labels, or by the similarity of their courses (average linkage of
        correlations, up to 4,000 regions). Default: as they come.
    groups : str or sequence, optional
        A group for every region (network, tissue): drawn together, beside a band of its colour, in
        the order in which they first come (numbers in theirs). Or the name of a coordinate of the
        regions that holds them.
    confounds : array_like, DataFrame or mapping, optional
        Traces above the carpet: one row a volume. The columns of a mapping get axes of their own, a
        table's translations [mm] and rotations [rad] (fMRIPrep's names) as well; all else is drawn
        together in standard deviations.
    limit : float, optional
        Standard deviations at which grey becomes white (or black). Default: as the pixels need.
    ax : matplotlib.axes.Axes, optional
        The room to draw in: it is divided into axes for the carpet and all beside it
        (``ax.child_axes``). Default: a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Of the carpet itself.

    Raises
    ------
    ImportError
        Without matplotlib.
    TypeError, ValueError
        If the signals are no such series, or groups and confounds do not fit to them.

    Notes
    -----
    After Power (2017), A simple but useful way to assess fMRI scan qualities, NeuroImage 154. Every
    region is drawn in its own standard deviations around its mean. The trace on top is the mean of
    all regions so drawn, the global signal. Values that are not finite are left out of the means;
    a pixel without any is blue.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.plots.carpet import plot_carpet
    >>> signals = np.random.default_rng(0).standard_normal((120, 30))
    >>> plot_carpet(signals, t_r=2.0).get_xlabel()
    'time [s]'
    """
    require_matplotlib()
    import matplotlib.pyplot as plt

    series = RegionSeries.of(signals, t_r=t_r)
    if order not in (None, "label", "cluster"):
        raise ValueError(f"order={order!r} must be 'label', 'cluster' or None")
    members = _group_names(signals, series, groups)
    traces = _traces(confounds, series.n_times)
    carpet = _carpet(series, order, members)
    if ax is None:
        height = 3.4 + 0.7 * (len(traces) + 1)
        _, ax = plt.subplots(figsize=(7.2, height), layout="constrained")
    return _draw(ax, carpet, series, traces, limit)


# ---------------------------------------------------------------------- reduction


@dataclass(frozen=True)
class _Carpet:
    """What is drawn."""

    image: np.ndarray
    """(row of pixels, column of pixels) in standard deviations; NaN where there is nothing."""
    average: np.ndarray
    """(column,): mean of all regions."""
    columns: np.ndarray
    """First volume of each column of pixels."""
    bands: tuple[tuple[str, int], ...]
    """Names of the groups and how many regions they have, from the top."""


def _carpet(series: RegionSeries, order: Order | None, groups: Sequence[str]) -> _Carpet:
    """Read all twice, once for means and deviations, once to average what is drawn."""
    n = series.n_regions
    first = np.linspace(0, series.n_times, min(series.n_times, COLUMN_PIXELS) + 1).astype(int)
    if order == "cluster" and n > MOST_CLUSTERED:
        raise ValueError(
            f"order='cluster' compares every region with every other, which is for up to "
            f"{MOST_CLUSTERED:,} regions, not {n:,}: use order=None, or plot larger regions"
        )
    center, spread = _moments(series)
    different = list(dict.fromkeys(groups))
    if all(group.isdecimal() for group in different):
        different.sort(key=int)
    numbers = {group: number for number, group in enumerate(different)}
    keys = np.array([numbers[group] for group in groups]) if groups else np.zeros(n, int)
    ranking = np.arange(n)
    if order == "label":
        ranking = np.array(sorted(range(n), key=lambda i: _natural(series.names[i])))
    ranking = ranking[np.argsort(keys[ranking], kind="stable")]
    # each region for itself while they may still change places, otherwise straight into pixels
    n_rows = n if n <= MOST_CLUSTERED else ROW_PIXELS
    row_of = np.empty(n, int)
    row_of[ranking] = np.arange(n) * n_rows // n
    sums = np.zeros((n_rows, len(first) - 1))
    counts = np.zeros(sums.shape, np.int64)
    for rows, times in series.tiles():
        values = series.read(rows, times)
        finite = np.isfinite(values)
        values -= center[rows, None]
        values[~finite] = 0
        values /= spread[rows, None]
        columns = np.searchsorted(first, np.arange(times.start, times.stop), "right") - 1
        starts = np.flatnonzero(np.diff(columns, prepend=-1))
        at = (row_of[rows, None], columns[starts])
        np.add.at(sums, at, np.add.reduceat(values, starts, axis=1))
        np.add.at(counts, at, np.add.reduceat(finite, starts, axis=1, dtype=np.int64))
    with np.errstate(invalid="ignore"):
        average = sums.sum(axis=0) / counts.sum(axis=0)
    if order == "cluster" and n > 2:
        mean = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
        place = _clustered(mean, keys[ranking])
        sums, counts = sums[place], counts[place]
    if n_rows > ROW_PIXELS:
        edges = np.linspace(0, n_rows, ROW_PIXELS + 1).astype(int)[:-1]
        sums, counts = (np.add.reduceat(a, edges, axis=0) for a in (sums, counts))
    with np.errstate(invalid="ignore"):
        image = sums / counts
    sizes = np.bincount(keys)
    bands = tuple((group, int(sizes[number])) for group, number in numbers.items())
    return _Carpet(image, average, first[:-1], bands)


def _moments(series: RegionSeries) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every region, merged over tiles (Chan et al. 1983).

    Regions that do not change (but for rounding) get an infinite deviation: they are drawn as 0.
    """
    n = series.n_regions
    count, center, squares = np.zeros(n), np.zeros(n), np.zeros(n)
    for rows, times in series.tiles():
        values = series.read(rows, times)
        finite = np.isfinite(values)
        values[~finite] = 0
        new = finite.sum(axis=1)
        mean = values.sum(axis=1) / np.maximum(new, 1)
        values -= mean[:, None]
        values[~finite] = 0
        total = np.maximum(count[rows] + new, 1)
        shift = mean - center[rows]
        squares[rows] += (values**2).sum(axis=1) + shift**2 * count[rows] * new / total
        center[rows] += shift * new / total
        count[rows] += new
    spread = np.sqrt(squares / np.maximum(count - 1, 1))
    flat = spread <= 1e-7 * np.abs(center)
    return center, np.where(flat | (spread == 0), np.inf, spread)


def _natural(name: str) -> list[tuple[float, str]]:
    """For sorting, with numbers inside of names in their order."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdecimal() else (np.inf, part) for part in parts]


def _clustered(rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Places of rows such that similar ones lie side by side, within runs of equal keys."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    places = []
    for key in dict.fromkeys(keys.tolist()):
        inside = np.flatnonzero(keys == key)
        if len(inside) > 2:
            part = rows[inside] - rows[inside].mean(axis=1, keepdims=True)
            length = np.linalg.norm(part, axis=1, keepdims=True)
            part = np.divide(part, length, out=part, where=length > 0)
            # (of unit vectors, the distance orders as the correlation does, also where they are 0)
            tree = linkage(part, "average", "sqeuclidean", optimal_ordering=len(inside) <= 500)
            inside = inside[leaves_list(tree)]
        places.append(inside)
    return np.concatenate(places)


def _group_names(signals: Any, series: RegionSeries, groups: Any) -> list[str]:
    """A name for every region, or none at all."""
    if groups is None:
        return []
    if isinstance(groups, str):
        coords = getattr(signals, "coords", {})
        if groups not in coords or coords[groups].dims != (series.dim,):
            some = [str(c) for c in coords if coords[c].dims == (series.dim,)]
            raise ValueError(
                f"groups={groups!r}: the regions have no such coordinate (only "
                f"{', '.join(some) or 'none'}): give a sequence with one group a region"
            )
        groups = coords[groups].values
    names = [str(group) for group in np.asarray(groups).tolist()]
    if len(names) != series.n_regions:
        raise ValueError(
            f"there are {len(names)} groups for {series.n_regions} regions: one a region is needed"
        )
    return names


@dataclass(frozen=True)
class _Traces:
    """What is drawn on one of the axes above the carpet."""

    label: str
    values: np.ndarray
    """(time, trace)."""
    names: tuple[str, ...] = ()


def _traces(confounds: Any, n_times: int) -> list[_Traces]:
    """All that is drawn above the carpet, beside the global signal."""
    if confounds is None:
        return []
    if isinstance(confounds, Mapping):
        return [
            _Traces(str(name), confound_table(one, n_times)[0]) for name, one in confounds.items()
        ]
    table, names = confound_table(confounds, n_times)
    shown = []
    left = np.ones(len(names), bool)
    for start, label in (("trans_", "translation [mm]"), ("rot_", "rotation [rad]")):
        here = np.array([re.fullmatch(f"{start}[xyz]", name) is not None for name in names])
        if here.any():
            axes = tuple(name[-1] for name, yes in zip(names, here, strict=True) if yes)
            shown.append(_Traces(label, table[:, here], axes))
            left &= ~here
    if left.any():
        rest = table[:, left]
        with np.errstate(invalid="ignore", divide="ignore"):
            rest = (rest - np.nanmean(rest, axis=0)) / np.nanstd(rest, axis=0)
        shown.append(_Traces("confounds [SD]", rest))
    return shown


# ---------------------------------------------------------------------- drawing


def time_axis(series: RegionSeries) -> tuple[np.ndarray, float, str]:
    """Times of a series as they are drawn, the length of a volume, and the axis' label.

    Minutes for runs above ten; numbers of volumes where the repetition time is not known.
    """
    if series.t_r is None:
        return np.arange(series.n_times, dtype=np.float64), 1.0, "volume"
    span = series.n_times * series.t_r
    scale, unit = (60.0, "min") if span > 600 else (1.0, "s")
    return series.times / scale, series.t_r / scale, f"time [{unit}]"


def _draw(
    frame: Axes,
    carpet: _Carpet,
    series: RegionSeries,
    traces: Sequence[_Traces],
    limit: float | None,
) -> Axes:
    """Divide a frame into traces, carpet, bands and scale; return the carpet's axes."""
    import matplotlib

    times, step, label = time_axis(series)
    shown = [*traces, _Traces("global signal [SD]", carpet.average[:, None])]
    share = min(0.14, 0.5 / len(shown))
    height = 1 - share * len(shown)
    frame.set_axis_off()
    left = 0.03 if carpet.bands else 0.0
    ax = frame.inset_axes((left, 0.0, 0.97 - left, height))
    if limit is None:
        # averaged pixels vary less than single regions
        seen = np.abs(carpet.image[np.isfinite(carpet.image)])
        limit = max(0.1, round(float(np.percentile(seen, 95)), 1)) if len(seen) else 1.0
    image = ax.imshow(
        carpet.image,
        cmap=matplotlib.colormaps["gray"].with_extremes(bad="#9ecae1"),
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        extent=(times[0], times[-1] + step, series.n_regions, 0),
    )
    ax.set_xlabel(label)
    ax.tick_params(labelsize="small")
    strip = ax
    if carpet.bands:
        strip = frame.inset_axes((0.0, 0.0, 0.02, height), sharey=ax)
        _draw_bands(ax, strip, carpet.bands)
    strip.set_ylabel(f"{series.n_regions:,} {series.dim}{'' if series.n_regions == 1 else 's'}")

    bar = ax.figure.colorbar(image, cax=frame.inset_axes((0.983, 0.0, 0.017, 0.5 * height)))
    bar.set_label("signal [SD]", fontsize="small")
    bar.set_ticks([-limit, 0, limit])
    bar.ax.tick_params(labelsize="small")
    bar.outline.set_linewidth(0.5)

    for number, traced in enumerate(shown):
        bottom = 1 - (number + 0.85) * share
        upper = frame.inset_axes((left, bottom, 0.97 - left, 0.7 * share), sharex=ax)
        at = times if number < len(traces) else times[carpet.columns]
        colors = ("0.25",) if traced.values.shape[1] == 1 else COLORS
        for column, line in enumerate(traced.values.T):
            name = drawn_text(traced.names[column], LONGEST_NAME) if traced.names else None
            color = colors[column % len(colors)]
            upper.plot(at + step / 2, line, color=color, linewidth=0.8, label=name)
        text: dict[str, Any] = {"fontsize": "small", "rotation": 0, "ha": "right", "va": "center"}
        upper.set_ylabel(drawn_text(traced.label).replace(" ", "\n"), **text)
        upper.tick_params(labelbottom=False, bottom=False, labelsize="x-small")
        upper.locator_params(axis="y", nbins=3)
        upper.spines[["top", "right", "bottom"]].set_visible(False)
        if traced.names:
            beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
            beside |= {"fontsize": "x-small", "handlelength": 0.8, "labelspacing": 0.1}
            upper.legend(**beside, frameon=False, borderpad=0.2, handletextpad=0.4)
    ax.set_xlim(times[0], times[-1] + step)
    return ax


def _draw_bands(ax: Axes, strip: Axes, bands: Sequence[tuple[str, int]]) -> None:
    """Colour the strip to the left of the carpet, with the names of the groups beside it."""
    top, total = 0, sum(size for _, size in bands)
    middles, names = [], []
    for number, (name, size) in enumerate(bands):
        strip.axhspan(top, top + size, color=COLORS[number % len(COLORS)], linewidth=0)
        if top:
            ax.axhline(top, color="white", linewidth=0.8)
            strip.axhline(top, color="white", linewidth=0.8)
        if size >= 0.025 * total:  # (names of smaller ones would lie upon each other)
            middles.append(top + size / 2)
            names.append(name)
        top += size
    strip.set_xlim(0, 1)
    strip.set_xticks([])
    strip.set_yticks(middles, names, fontsize="small")
    strip.tick_params(axis="y", length=0)
    strip.spines[:].set_visible(False)
    ax.tick_params(axis="y", left=False, labelleft=False)
