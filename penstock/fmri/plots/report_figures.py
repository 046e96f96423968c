"""Pictures of a finished extraction, for reports."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from penstock.fmri.plots.carpet import COLORS, plot_carpet, time_axis
from penstock.fmri.plots.regions import plot_regions
from penstock.fmri.plots.series import RegionSeries
from penstock.plots.quantities import LONGEST_NAME, drawn_text, require_matplotlib

SHOWN = 6
"""Regions whose time courses are drawn."""


def extraction_figures(ds: Any, *, dpi: int = 110) -> list[tuple[str, bytes]]:
    """Draw what an extraction found: a carpet plot, and the time courses of a few regions.

    Memory is bounded whatever the size of the result: it is read in stretches, and few regions are
    read whole.

    Parameters
    ----------
    ds : xarray.Dataset
        Result with the dims region and time.
    dpi : int, default 110
        Pixels per inch.

    Returns
    -------
    list of (str, bytes)
        Titles and PNG images.

    Raises
    ------
    ImportError
        Without matplotlib.
    TypeError, ValueError
        If the dataset is no such result.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.fmri.plots.report_figures import extraction_figures
    >>> ds = ps.make_dataset(np.eye(4, 50), ("region", "time"), sampling_frequency=0.5)
    >>> [title for title, png in extraction_figures(ds)]
    ['Carpet plot', 'Time courses']
    """
    require_matplotlib()
    # (figures of their own, unknown to pyplot: reports are written on any thread)
    from matplotlib.figure import Figure

    series = RegionSeries.of(ds)
    carpet = Figure(figsize=(7.2, 4.2), layout="constrained")
    plot_carpet(ds, ax=carpet.subplots())
    shown = series.pick(None, min(SHOWN, series.n_regions))
    courses = Figure(figsize=(7.2, 0.6 * len(shown) + 0.9), layout="constrained")
    _draw_courses(courses, series, shown)
    return [
        (title, _png(figure, dpi))
        for title, figure in (("Carpet plot", carpet), ("Time courses", courses))
    ]


def overlay_figure(
    regions: Any, background: Any, *, names: Any = None, kind: Any = None, dpi: int = 110
) -> bytes:
    """Draw masks, labels or maps over an image, of which a few volumes are read.

    Parameters
    ----------
    regions, background : image
        As for `penstock.fmri.plot_regions`.
    names, kind : optional
        As there.
    dpi : int, default 110
        Pixels per inch.

    Returns
    -------
    bytes
        A PNG image.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    plot_regions(regions, background, names=names, kind=kind, ax=figure.subplots(1, 3))
    return _png(figure, dpi)


def _draw_courses(figure: Any, series: RegionSeries, shown: np.ndarray) -> None:
    times, _, label = time_axis(series)
    axes = np.atleast_1d(figure.subplots(len(shown), 1, sharex=True))
    for row, (ax, number) in enumerate(zip(axes, shown, strict=True)):
        course = series.read(slice(number, number + 1))[0]
        ax.plot(times, course, color=COLORS[row % len(COLORS)], linewidth=0.8)
        ax.set_ylabel(
            drawn_text(series.names[number], LONGEST_NAME),
            fontsize="small",
            rotation=0,
            ha="right",
            va="center",
        )
        ax.tick_params(labelsize="x-small")
        ax.locator_params(axis="y", nbins=3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(x=0.005)
    axes[-1].set_xlabel(label)
    units = series.variable.attrs.get("units")
    figure.supylabel(f"signal [{units}]" if units else "signal", fontsize="medium")


def _png(figure: Any, dpi: int) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
