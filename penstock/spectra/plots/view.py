"""Plots of positions: maps of results, and the spectrum at a position with what was found in it.

Only what is shown is read: one map, or the spectrum of one position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, check_dataset
from penstock.messages import shown
from penstock.plots.quantities import (
    DimAxis,
    Scale,
    drawn_text,
    entry_index,
    labelled_index,
    name_of,
    quantity,
    require_matplotlib,
    take_axes,
)
from penstock.processor import Processor
from penstock.spectra.plots.map_view import LINE, Colors, draw_cells, draw_map, scattered_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ComplexAs: TypeAlias = Literal["magnitude", "real"]
CURVE, SECOND, PEAK = "#D55E00", "#009E73", "#CC0000"
"""Colours of fitted curves, imaginary parts, peaks."""
CURVE_POINTS = 600
"""Points that a fitted curve is drawn with, at least."""


def plot_map(
    results: xr.Dataset | xr.DataArray,
    name: str | None = None,
    *,
    ax: Axes | None = None,
    robust: bool = True,
    cmap: Any = None,
    **selection: Any,
) -> Axes:
    """Draw one result over the positions.

    Parameters
    ----------
    results : xarray.Dataset or xarray.DataArray
        With the result over one or two dims of positions. It may be lazy: only what is drawn is
        read.
    name : str, optional
        Which result of a dataset.
    ax : matplotlib.axes.Axes, optional
        Where to draw. Default: a new figure.
    robust : bool, default True
        Colours from the 2nd to the 98th percentile of the values, instead of all of them.
    cmap : str or matplotlib.colors.Colormap, optional
        Colours. Default: viridis; distinct ones for statuses and cluster labels.
    **selection
        One entry of every further dim: a whole number is its index (``component=0``), anything
        else the value of a coordinate (``parameter="frequency"``, ``bias=2.5``: the nearest).

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError, TypeError, IndexError
        If there is no such result or entry, a dim remains beside those of two axes, or the values
        are no real numbers.

    Notes
    -----
    The first dim is vertical, the second horizontal, except that of dims called x and y x is
    horizontal. Positions without a value are grey: NaN, infinite, -1 in whole numbers (no label, no
    peak), a status that ``flag_values`` does not list, and all results where the ``status`` beside
    them is 2 (failed). Further dims of one entry are dropped. Where both axes have the same units,
    a unit is as long on one as on the other, unless one side would be more than 20 times as long as
    the other. A coordinate that repeats or is out of order is replaced by the index, with a note.
    Positions along one dim with coordinates x and y (scattered points, an aborted scan) are drawn
    as points where they lie; without them, as a line.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from penstock.spectra.plots.view import plot_map
    >>> coords = {"y": ("y", np.arange(3) * 1e-6, {"units": "m"}), "x": ("x", np.arange(4) * 1e-6)}
    >>> results = xr.Dataset({"height": (("y", "x"), np.eye(3, 4))}, coords)
    >>> ax = plot_map(results, "height")
    >>> ax.get_ylabel()
    'y [µm]'
    """
    require_matplotlib()
    return draw_map(results, name, selection, ax=ax, robust=robust, cmap=cmap).ax


# ---------------------------------------------------------------------- one position


def plot_position(
    ds: xr.Dataset,
    position: Any = None,
    *,
    sel: Mapping[str, Any] | None = None,
    results: xr.Dataset | None = None,
    fit: Any = None,
    complex_as: ComplexAs = "magnitude",
    ax: Axes | Sequence[Axes] | None = None,
    title: str | None = None,
) -> Axes | tuple[Axes, ...]:
    """Draw the spectrum at a position, with the curve fitted to it and the peaks found in it.

    Parameters
    ----------
    ds : xarray.Dataset
        The data. They may be lazy: one spectrum is read.
    position : mapping, sequence of int or int, optional
        Indices of the position: ``{"y": 3, "x": 17}``, or ``(3, 17)`` in the order of the dims of
        the positions.
    sel : mapping, optional
        Values of coordinates of the position, ``{"y": 2e-6}`` [their units]: the nearest is taken.
    results : xarray.Dataset, optional
        Results over the positions. Peaks of `FindPeaksCWT` (``peak_index``, ``peak_count``) are
        marked; those of a fit are used with `fit`.
    fit : Fit or callable, optional
        What gave `results`: its curve is drawn, and the parameters are listed with their standard
        errors. Or ``curve(results_at_position, x)`` with the values of a curve at x (L,).
    complex_as : {"magnitude", "real"}, default "magnitude"
        Complex spectra as magnitude and phase, on two axes, or as real and imaginary part on one.
    ax : matplotlib.axes.Axes or sequence of them, optional
        Where to draw: two for magnitude and phase. Default: a new figure.
    title : str, optional
        Default: where the position lies.

    Returns
    -------
    matplotlib.axes.Axes, or a tuple of them where there are several.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError, TypeError, IndexError
        If there is no such position, or data, results and fit do not go together.

    Notes
    -----
    The dims of the data that the position does not name are those of the spectrum. Where there are
    two (a frame of a detector), it is drawn as an image.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra.plots.view import plot_position
    >>> frequency = ("frequency", np.linspace(3.0e5, 3.4e5, 50), {"units": "Hz"})
    >>> ds = ps.make_dataset(
    ...     np.random.rand(4, 5, 50), ("y", "x", "frequency"), coords={"frequency": frequency}
    ... )
    >>> plot_position(ds, (3, 1)).get_xlabel()
    'frequency [kHz]'
    """
    require_matplotlib()
    check_dataset(ds)
    if complex_as not in ("magnitude", "real"):
        raise ValueError(f"complex_as={complex_as!r} must be 'magnitude' or 'real'")
    if fit is not None and results is None:
        raise ValueError("fit= needs the results of the fit: pass results=")
    fit = fit.bound(ds) if isinstance(fit, Processor) else fit
    curve = None if fit is None else _curve_of(fit)
    signal = ds[SIGNAL]
    index = position_index(ds, position, sel, getattr(fit, "core_dims", None))
    core = [str(dim) for dim in signal.dims if dim not in index]
    if len(core) not in (1, 2):
        raise ValueError(
            f"plot_position: at this position lies {', '.join(core) or 'a single number'}; name "
            "all dims of the positions, so that one or two remain for the spectrum"
        )
    if curve is not None and len(core) == 2:
        raise ValueError(
            "plot_position: fit= draws a curve over one dim, but the spectrum has two, "
            f"{' and '.join(core)}"
        )
    if results is not None:
        _check_positions(results, ds, index)
    spectrum = signal.isel(index).compute()
    title = position_text(signal, index) if title is None else title
    if len(core) == 2:
        drawn = _draw_frames(spectrum, complex_as, ax)
    else:
        drawn = _draw_spectrum(spectrum, index, results, fit, curve, complex_as, ax)
    broken = int(spectrum.size - np.isfinite(spectrum.values).sum())
    if broken:
        title += f"\n{broken} of {spectrum.size} values are not finite"
    drawn[0].set_title(drawn_text(title), loc="left", fontsize="medium")
    return drawn if len(drawn) > 1 else drawn[0]


def position_index(
    ds: xr.Dataset,
    position: Any,
    sel: Mapping[str, Any] | None = None,
    core_dims: Sequence[str] | None = None,
) -> dict[str, int]:
    """Indices of a position along its dims, in the order of the dims.

    Raises
    ------
    ValueError, TypeError, IndexError
        If there is no such position.
    """
    what = "position"
    signal = ds[SIGNAL]
    dims = tuple(map(str, signal.dims))
    core_dims = tuple(core_dims or ())
    unknown = [dim for dim in core_dims if dim not in dims]
    if unknown:
        raise ValueError(
            f"the fit is along {unknown[0]!r}, but the data have the dims {', '.join(dims)}"
        )
    possible = [dim for dim in dims if dim not in core_dims]
    # (what a reader knows of the dims: theirs come first, then those of the spectra)
    known = [str(dim) for dim in np.atleast_1d(ds.attrs.get("position_dims", []))]
    first = [dim for dim in known if dim in possible]
    loops = [*first, *(dim for dim in possible if dim not in first)]
    if position is None and not sel and len(dims) > 1:
        raise ValueError(
            f"which position? The data have the dims {', '.join(dims)}: give "
            f"position={{{loops[0]!r}: 0, ...}} by index, or sel={{{loops[0]!r}: ...}} by value"
        )
    if position is None:
        given: dict[str, Any] = {}
    elif isinstance(position, Mapping):
        given = {str(dim): entry for dim, entry in position.items()}
    else:
        entries = position if isinstance(position, list | tuple | np.ndarray) else (position,)
        most = len(loops) if core_dims else len(dims) - 1
        least = 1 if sel else most if core_dims else len(first)
        if not least <= len(entries) <= most:
            raise ValueError(
                f"{what}={shown(position)} has {len(entries)} entries, but the positions have the "
                f"dims {', '.join(loops[: max(least, len(first)) or most])}"
            )
        given = dict(zip(loops, entries, strict=False))
    for dim in given:
        if dim not in dims:
            raise ValueError(f"{what}: the data have no dim {dim!r}, but {', '.join(dims)}")
    index = {dim: entry_index(signal.sizes, dim, entry, what) for dim, entry in given.items()}
    found = labelled_index(signal, sel or {}, what)
    twice = [dim for dim in found if dim in index]
    if twice:
        raise ValueError(f"{what}: {twice[0]!r} is given twice, by index and by value")
    index |= found
    lacking = [dim for dim in loops if dim not in index]
    if core_dims and lacking:
        raise ValueError(
            f"{what}: the index along {', '.join(lacking)} is not given; write "
            f"{{{', '.join(f'{dim!r}: 0' for dim in lacking)}}}"
        )
    return {dim: index[dim] for dim in dims if dim in index}


def _check_positions(results: xr.Dataset, ds: xr.Dataset, index: Mapping[str, int]) -> None:
    common = [dim for dim in index if dim in results.dims]
    if index and not common:
        raise ValueError(
            f"the results have none of the dims {', '.join(index)} of the positions: they are of "
            "other data"
        )
    for dim in common:
        if results.sizes[dim] != ds.sizes[dim]:
            raise ValueError(
                f"the results have {results.sizes[dim]} positions along {dim!r}, the data "
                f"{ds.sizes[dim]}: select the same part of both"
            )


def position_text(signal: xr.DataArray, index: Mapping[str, int]) -> str:
    """Where a position lies, for people: ``y[3] = 470 nm, x[17] = 2.66 µm``."""
    parts = []
    for dim, i in index.items():
        names = scattered_names(signal, dim) or ((dim,) if dim in signal.coords else ())
        values = []
        for name in names:
            value = signal[name].isel({dim: i}).item()
            number = isinstance(value, int | float) and not isinstance(value, bool)
            text = quantity(value, signal[name].attrs.get("units")) if number else str(value)
            values.append(text if name == dim else f"{name} = {text}")
        start = f"{dim}[{i}]"
        joiner = " = " if names == (dim,) else ": "
        parts.append(start + (joiner + ", ".join(values) if values else ""))
    return ", ".join(parts)


# ---------------------------------------------------------------------- spectra


@dataclass(frozen=True)
class _Part:
    """A real part of a spectrum: how it is taken, and what it is called."""

    take: Callable[[np.ndarray], np.ndarray]
    label: str
    legend: str = "data"
    units: str | None = None
    is_angle: bool = False


def _panels(spectrum: xr.DataArray, complex_as: ComplexAs) -> list[list[_Part]]:
    """What is drawn on each of the axes."""
    units, name = spectrum.attrs.get("units"), name_of(spectrum, SIGNAL)
    if spectrum.dtype.kind != "c":
        return [[_Part(np.asarray, name, units=units)]]
    if complex_as == "real":
        return [[_Part(np.real, name, "real", units), _Part(np.imag, name, "imaginary", units)]]
    of = "" if name == SIGNAL else f" of {name}"
    return [
        [_Part(np.abs, f"magnitude{of}", units=units)],
        [_Part(np.angle, "phase", units="rad", is_angle=True)],
    ]


def count_axes(signal: xr.DataArray, n_core: int, complex_as: ComplexAs) -> int:
    """How many axes `plot_position` needs for spectra over `n_core` dims."""
    two = signal.dtype.kind == "c" and (n_core == 2 or complex_as == "magnitude")
    return 2 if two else 1


def _draw_frames(
    spectrum: xr.DataArray, complex_as: ComplexAs, ax: Axes | Sequence[Axes] | None
) -> tuple[Axes, ...]:
    """Draw values over two dims as an image, or two of complex values."""
    parts = [part for panel in _panels(spectrum, complex_as) for part in panel]
    vertical, horizontal = (DimAxis.of(spectrum, str(dim)) for dim in spectrum.dims)
    axes = take_axes(len(parts), ax, ratios=[1] * len(parts))
    for one, part in zip(axes, parts, strict=True):
        attrs = {"units": part.units} if part.units else {}
        label = part.label if part.legend == "data" else f"{part.legend} part of {part.label}"
        image = spectrum.copy(data=part.take(spectrum.values)).rename(label)
        image.attrs = attrs
        turn = (-np.pi, np.pi) if part.is_angle else None
        colors = Colors.of(image, image.values, cmap="twilight" if turn else None, limits=turn)
        draw_cells(one, colors, vertical, horizontal)
    for one in axes[:-1]:
        one.set_xlabel("")
    return axes


@dataclass(frozen=True)
class _Fitted:
    """A fitted curve and what is said about it."""

    x: np.ndarray
    values: np.ndarray
    text: str


def _draw_spectrum(
    spectrum: xr.DataArray,
    index: Mapping[str, int],
    results: xr.Dataset | None,
    fit: Any,
    curve: Callable[..., Any] | None,
    complex_as: ComplexAs,
    ax: Axes | Sequence[Axes] | None,
) -> tuple[Axes, ...]:
    """Draw values over one dim, with curve and peaks."""
    horizontal = DimAxis.of(spectrum, str(spectrum.dims[0]), ordered=False)
    x, values = horizontal.values, spectrum.values
    fitted, peaks = None, None
    if results is not None:
        if curve is not None:
            fitted = _fitted(results, index, fit, curve, x)
        peaks = _peaks(results, index, len(x))
    if fitted and np.iscomplexobj(fitted.values) and values.dtype.kind != "c":
        raise ValueError(
            "the fitted curve is complex, but the data are real: fit= is of other data"
        )
    panels = _panels(spectrum, complex_as)
    axes = take_axes(len(panels), ax)
    for one, parts in zip(axes, panels, strict=True):
        shown = [part.take(values) for part in parts]
        smooth = [part.take(fitted.values) for part in parts] if fitted else []
        for part, y, color in zip(parts, shown, (LINE, SECOND), strict=False):
            # beside a curve, or where they jump by a turn, points are not joined
            line = "none" if fitted or part.is_angle else "-"
            one.plot(x, y, ".", linestyle=line, color=color, linewidth=1, label=part.legend)
        for part, y in zip(parts, smooth, strict=False):
            assert fitted is not None
            at, y = _without_jumps(fitted.x, y) if part.is_angle else (fitted.x, y)
            text = fitted.text if part is parts[-1] else None
            one.plot(at, y, color=CURVE, linewidth=1.4, label=text)
        if peaks is not None and one is axes[0]:
            found = f"{len(peaks)} peak{'' if len(peaks) == 1 else 's'}"
            mark: dict[str, Any] = {"color": PEAK, "fillstyle": "none", "markersize": 10}
            one.plot(x[peaks], shown[0][peaks], "v", label=found, **mark)
        # (matplotlib looks only at points that have a value; the axis is that of the coordinate)
        one.update_datalim(np.column_stack([x, np.zeros(len(x))]), updatey=False)
        one.autoscale_view(scaley=False)
        _label_values(one, parts[0], [*shown, *smooth])
    for one in axes[:-1]:
        one.tick_params(labelbottom=False)
    horizontal.label(axes[-1].xaxis)
    if fitted or peaks is not None or len(panels[0]) > 1:
        axes[0].legend(fontsize="small", framealpha=0.85, handlelength=1.2)
    return axes


def _label_values(ax: Axes, part: _Part, values: Sequence[np.ndarray]) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    if not part.is_angle:
        Scale.of(part.units, *values).apply(ax.yaxis, part.label)
        return
    ax.set_ylim(-1.1 * np.pi, 1.1 * np.pi)
    ax.yaxis.set_major_locator(MultipleLocator(np.pi))
    names = {-1: "−π", 0: "0", 1: "π"}
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _=None: names.get(round(v / np.pi), "")))
    ax.set_ylabel(drawn_text(f"{part.label} [rad]"))


def _without_jumps(x: np.ndarray, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve of angles, interrupted where it jumps by a turn."""
    with np.errstate(invalid="ignore"):
        jumps = np.flatnonzero(np.abs(np.diff(angles)) > np.pi) + 1
    return np.insert(x, jumps, np.nan), np.insert(angles, jumps, np.nan)


# ---------------------------------------------------------------------- results


def _curve_of(fit: Any) -> Callable[..., Any]:
    curve = getattr(fit, "curve", fit)
    if not callable(curve):
        raise TypeError(
            f"fit={shown(fit)} must be a Fit, or a function curve(results_at_position, x)"
        )
    return curve


def _at(results: xr.Dataset, index: Mapping[str, int]) -> xr.Dataset:
    """The results at a position."""
    return results.isel({dim: i for dim, i in index.items() if dim in results.dims})


def _fitted(
    results: xr.Dataset,
    index: Mapping[str, int],
    fit: Any,
    curve: Callable[..., Any],
    x: np.ndarray,
) -> _Fitted:
    """The curve at a position, with its parameters."""
    model = getattr(fit, "model", None)
    here = _at(results, index)
    if model is None:
        names = [str(name) for name in here.data_vars if f"{name}_error" in here]
    else:
        names = list(model.parameter_names)
        here = here[[name for name in _with_errors(names) if name in here]]
    left = next((dim for name in names if name in here for dim in here[name].dims), None)
    if left is not None:
        raise ValueError(f"the results are over {left!r} too: give its index in the position")
    told = here[[name for name in _with_errors(names) if name in here]].compute()
    here = here.assign({name: told[name] for name in told.data_vars})
    fine = np.linspace(x.min(), x.max(), max(CURVE_POINTS, 4 * len(x)))
    values = np.asarray(curve(here, fine))
    if values.shape != fine.shape:
        raise ValueError(
            f"the curve at a position has shape {values.shape}, expected {fine.shape} as x"
        )
    lines = [_fit_text(told)]
    for name in names:
        if name in told and np.isfinite(told[name]):
            error = float(told[f"{name}_error"]) if f"{name}_error" in told else None
            lines.append(
                f"{name} = {quantity(float(told[name]), told[name].attrs.get('units'), error)}"
            )
    return _Fitted(fine, values, "\n".join(lines))


def _with_errors(names: Sequence[str]) -> list[str]:
    return [*names, *(f"{name}_error" for name in names), "status"]


def _fit_text(here: xr.Dataset) -> str:
    if "status" not in here or here["status"].ndim:
        return "fit"
    attrs = here["status"].attrs
    values = np.atleast_1d(attrs.get("flag_values", [])).tolist()
    meanings = str(attrs.get("flag_meanings", "")).split()
    meaning = dict(zip(values, meanings, strict=False)).get(int(here["status"]))
    return "fit" if meaning is None else f"fit ({meaning.replace('_', ' ')})"


def _peaks(results: xr.Dataset, index: Mapping[str, int], n_points: int) -> np.ndarray | None:
    """Indices of the peaks at a position; None where nobody has looked for some."""
    if "peak_index" not in results or "peak_count" not in results:
        return None
    here = _at(results[["peak_index", "peak_count"]], index).compute()
    if here["peak_index"].ndim != 1 or here["peak_count"].ndim:
        return None
    columns = here["peak_index"].values[: max(0, int(here["peak_count"]))]
    return columns[(columns >= 0) & (columns < n_points)]
