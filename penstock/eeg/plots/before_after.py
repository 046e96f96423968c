"""What became of a recording: spectra before and after, as a plot and in a run's report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.attributes import provenance
from penstock.eeg.plots.channels import BAD, TRACE, DrawnChannels, drawn_span, new_axes
from penstock.eeg.plots.spectra import decibels, power_spectra, told_density
from penstock.plots.quantities import require_matplotlib

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

    from penstock.running.report import Report

WIDER = 1.25
"""How much beyond the highest frequency of the result is drawn of what was before."""
DEEPEST = 30.0
"""How far below the lowest power of the source the picture reaches [dB]."""


def plot_before_after(
    before: xr.Dataset,
    after: xr.Dataset,
    *,
    picks: str | Sequence[str] | None = None,
    start: float | None = None,
    duration: float | None = 60.0,
    window: float = 4.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw the power spectra of a recording and of what became of it.

    The median over channels is a line, the range from the 10th to the 90th percentile an area. Bad
    channels are left out, and channels that are not in both.

    Parameters
    ----------
    before, after : xarray.Dataset
        Recordings with the dims channel and time. They may be lazy and larger than memory.
    picks : str or list of str, optional
        Channel names or types. Default: the data channels (EEG, MEG, ...).
    start : float, optional
        Where the stretch begins that is read, after the first sample of each [s].
    duration : float, optional
        Its length [s] (default 60); None: to the end.
    window : float, default 4
        Length of Welch's windows [s]; see `plot_psd`.
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
        If they are no recordings, share no channel, or have different units.

    Examples
    --------
    >>> import penstock as ps
    >>> ds = ps.eeg.simulate.recording(4, duration=20.0, sampling_frequency=250.0)
    >>> smooth = ps.Pipeline([ps.eeg.LowPassFilter(30.0)])(ds)
    >>> ax = ps.eeg.plot_before_after(ds, smooth)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['before', 'after']
    """
    drawn = [DrawnChannels.of(ds, picks, "plot_before_after", None) for ds in (before, after)]
    shared = {
        name
        for name in set(drawn[0].names) & set(drawn[1].names)
        if not any(channels.bad[channels.names.index(name)] for channels in drawn)
    }
    if not shared:
        raise ValueError("plot_before_after: the recordings share no channel that is good in both")
    drawn = [channels.only(shared) for channels in drawn]
    units = {unit for channels in drawn for unit in channels.units}
    if len(units) > 1:
        raise ValueError(
            f"plot_before_after: the channels have several units ({', '.join(sorted(units))}), "
            "which cannot be compared"
        )
    if ax is None:
        ax = new_axes(7.2, 3.4)
    highest = WIDER * drawn[1].rate / 2
    least = []
    for channels, color, label in zip(drawn, (BAD, TRACE), ("before", "after"), strict=True):
        begin = None if start is None else float(channels.ds["time"][0]) + start
        frequencies, power = power_spectra(
            channels, *drawn_span(channels.ds, begin, duration), window
        )
        kept = frequencies <= highest
        low, middle, high = decibels(np.percentile(power[:, kept], (10, 50, 90), axis=0))
        ax.fill_between(frequencies[kept], low, high, color=color, alpha=0.25, linewidth=0)
        least.append(float(np.nanmin(middle)) if np.isfinite(middle).any() else 0.0)
        ax.plot(frequencies[kept], middle, color=color, linewidth=1.4, label=label)
    # (next to nothing, which a filter leaves, would press all else together)
    ax.set_ylim(bottom=max(ax.get_ylim()[0], least[0] - DEEPEST))
    ax.set_xlim(0, min(highest, drawn[0].rate / 2))
    ax.set_xlabel("frequency [Hz]")
    ax.set_ylabel(f"power [dB re 1 {told_density(units.pop())}]")
    ax.set_title(f"median of {len(shared)} channels", loc="left", fontsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.legend(fontsize="small", frameon=False)
    return ax


def add_pictures(report: Report, *, most: int = 6, duration: float = 60.0) -> Report:
    """Put spectra before and after into the page of a run's report.

    Parameters
    ----------
    report : penstock.Report
        Of a run over recordings; its page is written again.
    most : int, default 6
        The first so many results get a picture. Results that were there already get none.
    duration : float, default 60
        Length of the stretch that is read of each [s].

    Returns
    -------
    penstock.Report
        The same, with its `figures`; its `notes` say of which results there is none, and why.

    Raises
    ------
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> import tempfile, penstock as ps
    >>> ds = ps.eeg.simulate.recording(4, duration=20.0, sampling_frequency=250.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = ps.export(ds, f"{folder}/a.edf")
    ...     pipeline = ps.Pipeline([ps.eeg.LowPassFilter(30.0)])
    ...     report = pipeline.run(f"{folder}/a.edf", f"{folder}/out", progress=False)
    ...     list(ps.eeg.add_pictures(report).figures)
    ['a: spectra before and after']
    """
    require_matplotlib()
    made = [name for name in report.outputs if name not in report.skipped]
    for name in made[:most]:
        try:
            report.figures[f"{name}: spectra before and after"] = _picture(
                report.outputs[name], duration
            )
        except (OSError, TypeError, ValueError) as error:  # (the result itself is there)
            told = f"no picture: {error}"
            earlier = report.notes.get(name)
            report.notes[name] = f"{earlier}; {told}" if earlier else told
    report.save()
    return report


def _picture(path: Path, duration: float) -> bytes:
    """Spectra of a result and of what it was made of, as PNG."""
    # (a figure of its own, unknown to pyplot: reports are written on any thread)
    from matplotlib.figure import Figure

    from penstock.io import open_dataset

    after = open_dataset(path)
    source: Any = provenance(after).get("source", {}).get("path") or after.attrs.get("source")
    if not source:
        raise ValueError("it does not say what it was made of")
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    plot_before_after(open_dataset(source), after, duration=duration, ax=figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
