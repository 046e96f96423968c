"""Drawing one value a position: cells of a grid, scattered points, a line; their colours."""

from __future__ import annotations

import difflib
import functools
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from penstock.plots.quantities import (
    DimAxis,
    Scale,
    drawn_text,
    entry_index,
    labelled_index,
    name_of,
    quantity,
    take_axes,
)
from penstock.records import STATUS_FAILED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.transforms import Bbox

GREY = "0.72"
"""Colour of positions without a value."""
LINE = "#20507a"
SHADES = 20
"""As many whole numbers, or fewer, get a colour each."""
DISTINCT = ("#0072B2", "#D55E00", "#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0E442")
"""Colours that people of any colour vision tell apart (M. Okabe and K. Ito)."""
PAD = 0.03
"""Room between a map and its colour bar, as a part of the width."""
LONGEST = 20
"""Maps this many times as long as wide are not drawn to scale: nothing could be seen."""


@dataclass(frozen=True)
class DrawnMap:
    """A map with the places of its positions."""

    ax: Axes
    dims: tuple[str, ...]
    """Dims of the positions: one (points, a line) or two (a grid, vertical first)."""
    x: np.ndarray
    """Places along the horizontal axis: of every position, or column of a grid."""
    y: np.ndarray
    """Places along the vertical axis: of every position, or row of a grid."""
    entries: dict[str, int]
    """Entries that were selected of further dims."""

    def index_at(self, x: float, y: float) -> dict[str, int]:
        """The position nearest to a place on the map."""
        if len(self.dims) == 2:
            nearest = (int(np.argmin(np.abs(self.y - y))), int(np.argmin(np.abs(self.x - x))))
            return dict(zip(self.dims, nearest, strict=True))
        # (a line has gaps, where only the distance along it counts)
        places = np.stack([self.x, np.where(np.isfinite(self.y), self.y, y)], axis=1)
        to_pixels = self.ax.transData.transform
        squares = ((to_pixels(places) - to_pixels((x, y))) ** 2).sum(axis=1)
        return {self.dims[0]: int(np.nanargmin(squares))}

    def place_of(self, index: Mapping[str, int]) -> tuple[float, float]:
        """Where a position lies on the map."""
        return float(self.x[index[self.dims[-1]]]), float(self.y[index[self.dims[0]]])


def draw_map(
    results: xr.Dataset | xr.DataArray,
    name: str | None,
    selection: Mapping[str, Any],
    *,
    ax: Axes | None = None,
    robust: bool = True,
    cmap: Any = None,
) -> DrawnMap:
    """Draw a result as `spectra.plots.view.plot_map` does, and say where its positions lie."""
    array, entries = selected(results, name, selection)
    if [str(dim).lower() for dim in array.dims] == ["x", "y"]:
        array = array.transpose()
    dims = tuple(map(str, array.dims))
    values = array.values
    failed = _failed(results, array, entries)
    colors = Colors.of(array, values, robust=robust, cmap=cmap, failed=failed)
    (ax,) = take_axes(1, ax)
    scattered = scattered_names(array, dims[0])
    if len(dims) == 2:
        vertical, horizontal = (DimAxis.of(array, dim) for dim in dims)
        draw_cells(ax, colors, vertical, horizontal)
    elif scattered:
        vertical, horizontal = (_point_axis(array, coordinate) for coordinate in scattered)
        _draw_points(ax, colors, vertical, horizontal)
    else:
        horizontal = DimAxis.of(array, dims[0])
        vertical = DimAxis(dims[0], _draw_line(ax, colors, horizontal))
    lines = [drawn_text(_entries_text(array, entries))]
    missing = int(np.ma.getmaskarray(colors.values).sum())
    if missing:
        lines.append(f"grey: {missing} of {values.size} without a value")
    ax.set_title("\n".join(filter(None, lines)), loc="left", fontsize="medium")
    return DrawnMap(ax, dims, horizontal.values, vertical.values, entries)


# ---------------------------------------------------------------------- what is drawn


def selected(
    results: xr.Dataset | xr.DataArray, name: str | None, selection: Mapping[str, Any]
) -> tuple[xr.DataArray, dict[str, int]]:
    """The lazy array of one result over one or two dims, and the entries taken of the others.

    Raises
    ------
    TypeError, ValueError, IndexError
        If there is no such result or entry, or it cannot be drawn.
    """
    array = _variable(results, name)
    title = "the values" if array.name is None else repr(str(array.name))
    what = f"map of {title}"
    dims = ", ".join(map(str, array.dims)) or "none"
    entries: dict[str, int] = {}
    labels: dict[str, Any] = {}
    for dim, entry in selection.items():
        if dim not in array.dims and dim not in array.coords:
            raise ValueError(f"{what}: it has no dim {dim!r} to select from, its dims are {dims}")
        if isinstance(entry, int | np.integer) and dim in array.dims:
            entries[dim] = entry_index(array.sizes, dim, entry, what)
        elif np.ndim(entry) == 0 and not isinstance(entry, slice):
            labels[dim] = entry
        else:
            raise TypeError(
                f"{what}: {dim}={entry!r} must be one entry; cut the results before with "
                f"results.isel({dim}=...) to see a part"
            )
    entries |= labelled_index(array, labels, what)
    array = array.isel(entries)
    if array.ndim > 2:
        # one entry is no choice; but dims of positions stay, where a status tells which these are
        positions = _status(results).dims
        others = [str(dim) for dim in reversed(array.dims) if dim not in positions]
        single = [dim for dim in others if array.sizes[dim] == 1][: array.ndim - 2]
        entries |= dict.fromkeys(single, 0)
        array = array.isel(dict.fromkeys(single, 0))
    left = tuple(map(str, array.dims))
    if not left:
        raise ValueError(f"{what}: it is a single number, there is nothing to draw over positions")
    over = next(((dim,) for dim in left if scattered_names(array, dim)), left[:2])
    extra = [dim for dim in left if dim not in over]
    if extra:
        example = ", ".join(f"{dim}=0" for dim in extra)
        raise ValueError(
            f"{what}: it has the dims {', '.join(left)}; choose one entry of {', '.join(extra)}, "
            f"such as plot_map(results, {title}, {example})"
        )
    if not array.size:
        raise ValueError(f"{what}: it has no values, its dims are {dict(array.sizes)}")
    if array.dtype.kind == "c":
        raise ValueError(f"{what}: its values are complex; plot abs() of it, or its real part")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{what}: its values are {array.dtype}, which cannot be drawn as numbers")
    return array, entries


def _variable(results: xr.Dataset | xr.DataArray, name: str | None) -> xr.DataArray:
    if isinstance(results, xr.DataArray):
        if name not in (None, results.name):
            raise ValueError(f"the results are one variable, {results.name!r}, not {name!r}")
        return results
    if not isinstance(results, xr.Dataset):
        raise TypeError(
            f"results must be an xarray.Dataset or DataArray, got {type(results).__name__}"
        )
    there = list(map(str, results.data_vars))
    if name is None and len(there) == 1:
        return results[there[0]]
    if name is None or name not in results.variables:
        close = difflib.get_close_matches(str(name), there, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(there) or 'none'}"
        raise ValueError(
            f"name one of the results: {hint}"
            if name is None
            else f"the results have no {name!r}: {hint}"
        )
    return results[name]


def _status(results: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Status of the positions; a single 0 where there is none beside the results."""
    if isinstance(results, xr.Dataset) and "status" in results.data_vars:
        status = results["status"]
        if status.dtype.kind in "iu":
            return status
    return xr.DataArray(0)


def _failed(
    results: xr.Dataset | xr.DataArray, array: xr.DataArray, entries: Mapping[str, int]
) -> np.ndarray | bool:
    """Positions of a map whose status says that there is no result."""
    status = _status(results)
    status = status.isel({dim: i for dim, i in entries.items() if dim in status.dims})
    if array.name == "status" or not set(status.dims) <= set(array.dims):
        return False
    failed = xr.Variable(status.dims, status.values == STATUS_FAILED)
    return failed.set_dims(dict(array.sizes)).transpose(*array.dims).values


def scattered_names(array: xr.DataArray, dim: str) -> tuple[str, str] | None:
    """Coordinates, vertical first, of positions along one dim that are scattered over a plane."""
    along = [
        str(name)
        for name, coordinate in array.coords.items()
        if coordinate.dims == (dim,) and name != dim and coordinate.dtype.kind in "fiu"
    ]
    planar = {name.lower(): name for name in along}
    if "x" in planar and "y" in planar:
        return planar["y"], planar["x"]
    # (what h5USID calls the dim of positions that form no grid)
    return (along[0], along[1]) if dim == "position" and len(along) > 1 else None


def _point_axis(array: xr.DataArray, name: str) -> DimAxis:
    coordinate = array[name]
    return DimAxis(name, coordinate.values.astype(np.float64), coordinate.attrs.get("units"))


def _entries_text(array: xr.DataArray, entries: Mapping[str, int]) -> str:
    """The entries that a map is of: ``component 0``, ``bias 2.5 V``."""
    parts = [f"{dim} {i}" for dim, i in entries.items() if dim not in array.coords]
    for name, coordinate in array.coords.items():
        if coordinate.ndim == 0 and len(parts) < 3:
            value = coordinate.item()
            number = isinstance(value, int | float) and not isinstance(value, bool)
            text = quantity(value, coordinate.attrs.get("units")) if number else str(value)
            parts.append(f"{name} {text}")
    return ", ".join(parts)


# ---------------------------------------------------------------------- colours


@dataclass(frozen=True)
class Colors:
    """Values with the colours that stand for them."""

    values: np.ma.MaskedArray
    name: str
    units: str | None
    cmap: Colormap
    norm: Normalize
    extend: str = "neither"
    levels: tuple[float, ...] = ()
    """The values there may be, where each has a colour of its own."""
    texts: tuple[str, ...] = ()
    """What these mean."""

    @classmethod
    def of(
        cls,
        array: xr.DataArray,
        values: np.ndarray,
        *,
        robust: bool = False,
        cmap: Any = None,
        limits: tuple[float, float] | None = None,
        failed: np.ndarray | bool = False,
    ) -> Colors:
        """Colours for the values of a variable, by their type and attributes.

        What lies at positions that `failed` is no value.
        """
        from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize

        name = name_of(array, "" if array.name is None else str(array.name))
        flags = _flags(array)
        if values.dtype.kind == "b":
            values = values.astype(np.uint8)
        shown = _masked(values, list(flags))
        shown = np.ma.MaskedArray(values, np.ma.getmaskarray(shown) | failed)
        there = shown.compressed()
        low, high = (there.min(), there.max()) if len(there) else (0, 1)
        if flags or (values.dtype.kind in "iu" and int(high) - int(low) < SHADES):
            levels = tuple(sorted(flags)) or tuple(range(int(low), int(high) + 1))
            named = bool(flags) or "label" in name.lower() or "cluster" in name.lower()
            texts = tuple(flags.get(level, str(level)) for level in levels)
            middles = (np.array(levels[1:], float) + np.array(levels[:-1], float)) / 2
            norm = BoundaryNorm([levels[0] - 0.5, *middles, levels[-1] + 0.5], len(levels))
            listed = ListedColormap(_palette(cmap, len(levels), distinct=named))
            shades = listed.with_extremes(bad=GREY)
            return cls(shown, name, None, shades, norm, "neither", levels, texts)
        if limits is None:
            near, far = np.percentile(there, (2, 98)) if robust and len(there) else (low, high)
            limits = (float(near), float(far)) if near < far else (float(low), float(high))
        ends = (limits[0] > low, limits[1] < high)
        extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[ends]
        if limits[0] == limits[1]:
            around = abs(limits[0]) * 0.01 or 1.0
            limits = (limits[0] - around, limits[1] + around)
        shades = _colormap(cmap).with_extremes(bad=GREY)
        return cls(shown, name, array.attrs.get("units"), shades, Normalize(*limits), extend)

    def bar(self, artist: ScalarMappable, ax: Axes) -> None:
        """Draw what the colours stand for, beside a map whose axes are done."""
        from matplotlib.colorbar import make_axes

        flatness = 1.0
        if ax.get_aspect() == 1:
            flatness = float(np.ptp(ax.get_ylim()) / np.ptp(ax.get_xlim()))
        beside, settings = make_axes(
            ax, aspect=float(np.clip(20 * flatness, 2, 20)), pad=PAD, panchor=(0.0, 0.5)
        )
        # (words need their room, even beside a flat map)
        as_high = flatness > 0.4 or not self.texts_are_words
        beside.set_axes_locator(functools.partial(_beside, ax, as_high))
        scale = Scale() if self.levels else Scale.of(self.units, self.norm.vmin, self.norm.vmax)
        bar = ax.figure.colorbar(
            artist, cax=beside, extend=self.extend, format=scale.formatter(), **settings
        )
        if self.levels:
            edges = np.asarray(self.norm.boundaries)  # type: ignore[attr-defined]
            every = 1 if self.texts_are_words else max(1, -(-len(self.levels) // 12))
            bar.set_ticks(((edges[1:] + edges[:-1]) / 2)[::every], labels=self.texts[::every])
            bar.ax.tick_params(length=0)
            bar.ax.minorticks_off()
        bar.set_label(textwrap.fill(scale.label(self.name), 40))

    @property
    def texts_are_words(self) -> bool:
        """Whether the values have meanings beside themselves."""
        return self.texts != tuple(map(str, self.levels))


def _beside(ax: Axes, as_high: bool, beside: Axes, renderer: Any) -> Bbox:
    """Place of a colour bar: right beside the map, wherever its aspect lets it end."""
    from matplotlib.transforms import Bbox

    ax.apply_aspect()
    own, room, of_map = beside.get_position(True), ax.get_position(True), ax.get_position()
    left = of_map.x1 + PAD * room.width
    low, high = (of_map.y0, of_map.y1) if as_high else (own.y0, own.y1)
    return Bbox.from_extents(left, low, left + own.width, high)


def _flags(array: xr.DataArray) -> dict[float, str]:
    """Values and meanings of a variable that has them, after the CF conventions."""
    if array.dtype.kind == "b":
        return {0: "False", 1: "True"}
    if array.dtype.kind not in "iu":
        return {}
    values = np.atleast_1d(array.attrs.get("flag_values", [])).tolist()
    meanings = str(array.attrs.get("flag_meanings", "")).split()
    if len(values) != len(meanings) or any(isinstance(value, str) for value in values):
        return {}
    return {value: text.replace("_", " ") for value, text in zip(values, meanings, strict=True)}


def _masked(values: np.ndarray, known: list[float]) -> np.ma.MaskedArray:
    """Values with those hidden that stand for nothing."""
    if known:
        hidden = ~np.isin(values, known)
    elif values.dtype.kind == "f":
        hidden = ~np.isfinite(values)
    elif values.dtype.kind == "i" and values.size and values.min() == -1:
        hidden = values == -1
    else:
        hidden = np.zeros(values.shape, bool)
    return np.ma.MaskedArray(values, hidden)


def _colormap(cmap: Any) -> Colormap:
    import matplotlib as mpl

    return mpl.colormaps[cmap or "viridis"] if cmap is None or isinstance(cmap, str) else cmap


def _palette(cmap: Any, n: int, *, distinct: bool) -> list[Any]:
    """A colour for each of `n` values."""
    if cmap is None and distinct and n <= len(DISTINCT):
        return list(DISTINCT[:n])
    shades = _colormap("tab20" if cmap is None and distinct else cmap)
    # (maps of few colours are lists of distinct ones)
    return [shades(k % shades.N if shades.N <= 24 else k / max(1, n - 1)) for k in range(n)]


# ---------------------------------------------------------------------- artists


def draw_cells(ax: Axes, colors: Colors, vertical: DimAxis, horizontal: DimAxis) -> None:
    """Draw a grid of values with its axes and a colour bar."""
    rows, columns = vertical.edges(horizontal), horizontal.edges(vertical)
    values = colors.values
    if vertical.is_regular() and horizontal.is_regular():
        values = values[::-1] if rows[0] > rows[-1] else values
        values = values[:, ::-1] if columns[0] > columns[-1] else values
        artist: ScalarMappable = ax.imshow(
            values,
            cmap=colors.cmap,
            norm=colors.norm,
            origin="lower",
            interpolation="nearest",
            extent=(columns.min(), columns.max(), rows.min(), rows.max()),
        )
    else:
        artist = ax.pcolormesh(columns, rows, values, cmap=colors.cmap, norm=colors.norm)
    _label_plane(ax, vertical, horizontal, np.ptp(rows), np.ptp(columns))
    colors.bar(artist, ax)


def _draw_points(ax: Axes, colors: Colors, vertical: DimAxis, horizontal: DimAxis) -> None:
    artist = ax.scatter(
        horizontal.values,
        vertical.values,
        c=colors.values,
        cmap=colors.cmap,
        norm=colors.norm,
        plotnonfinite=True,
        linewidths=0,
    )
    spans = [float(np.nanmax(a.values) - np.nanmin(a.values)) for a in (vertical, horizontal)]
    _label_plane(ax, vertical, horizontal, *spans)
    colors.bar(artist, ax)
    ax.apply_aspect()
    box = ax.get_window_extent()
    room = box.width * box.height / len(colors.values) * (72 / ax.figure.dpi) ** 2
    artist.set_sizes([float(np.clip(0.7 * room, 3, 150))])


def _label_plane(
    ax: Axes, vertical: DimAxis, horizontal: DimAxis, height: float, width: float
) -> None:
    """Label both axes; to scale, and with one unit, where they are of one kind."""
    alike = vertical.units == horizontal.units and vertical.counted == horizontal.counted
    readable = 0 < max(height, width) <= LONGEST * min(height, width)
    ax.set_aspect("equal" if alike and readable else "auto")
    scale = None
    if alike and readable:
        scale = Scale.of(vertical.units, vertical.values, horizontal.values)
    vertical.label(ax.yaxis, scale)
    horizontal.label(ax.xaxis, scale)


def _draw_line(ax: Axes, colors: Colors, horizontal: DimAxis) -> np.ndarray:
    """Draw values over one dim, those without a value as grey strokes; returns what is drawn."""
    hidden = np.ma.getmaskarray(colors.values)
    values = np.where(hidden, np.nan, np.ma.getdata(colors.values).astype(np.float64))
    if colors.texts_are_words:
        ax.scatter(horizontal.values, values, c=colors.values, cmap=colors.cmap, norm=colors.norm)
        ax.set_yticks(colors.levels, list(map(drawn_text, colors.texts)))
        ax.set_ylabel(drawn_text(colors.name))
    else:
        ax.plot(horizontal.values, values, color=LINE, marker="." if values.size <= 256 else "")
        there = values[~hidden]
        Scale.of(colors.units, there).apply(ax.yaxis, colors.name)
    ax.plot(
        horizontal.values[hidden],
        np.zeros(hidden.sum()),
        "|",
        color=GREY,
        markersize=12,
        transform=ax.get_xaxis_transform(),
        clip_on=False,
    )
    horizontal.label(ax.xaxis)
    return values
