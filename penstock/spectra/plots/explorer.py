"""A map beside the spectrum of one of its positions, which the user chooses."""

from __future__ import annotations

import functools
import importlib.util
import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from penstock.dataset import SIGNAL, check_dataset
from penstock.plots.quantities import require_matplotlib
from penstock.processor import Processor
from penstock.spectra.plots.map_view import draw_map
from penstock.spectra.plots.view import ComplexAs, count_axes, plot_position, position_index

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

DRAWN_ONLY = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")
"""Backends of matplotlib that show nothing."""


def explore(
    ds: xr.Dataset,
    results: xr.Dataset | xr.DataArray,
    name: str | None = None,
    *,
    fit: Any = None,
    complex_as: ComplexAs = "magnitude",
    robust: bool = True,
    cmap: Any = None,
    **selection: Any,
) -> Explorer:
    """Show a map, and beside it the spectrum of the position that is clicked.

    Parameters
    ----------
    ds : xarray.Dataset
        The data; one spectrum is read at a time.
    results : xarray.Dataset or xarray.DataArray
        Results over its positions.
    name : str, optional
        The result to draw as a map.
    fit : Fit or callable, optional
        Draws the fitted curve, as for `plot_position`.
    complex_as : {"magnitude", "real"}, default "magnitude"
        How complex spectra are drawn.
    robust, cmap
        Colours of the map, as for `plot_map`.
    **selection
        One entry of every further dim of the map, as for `plot_map`; where the data have this dim
        too, it is part of the position.

    Returns
    -------
    Explorer

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError, TypeError, IndexError
        As `plot_map` and `plot_position`.

    Notes
    -----
    Clicks need a live figure: ``%matplotlib widget`` in Jupyter (``pip install ipympl``), or a
    window. With plain pictures in Jupyter there is a slider for each dim of the positions, where
    ipywidgets is installed. Elsewhere it is a picture of the position in the middle, and of others
    after `Explorer.show`.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.spectra.plots.explorer import explore
    >>> ds = ps.make_dataset(np.random.rand(4, 5, 50), ("y", "x", "frequency"))
    >>> from penstock.spectra.passes.reductions import PositionSum, reduce
    >>> explorer = explore(ds, reduce(ds, {"total": PositionSum()}), "total")
    >>> explorer.show((3, 1))
    >>> explorer.position
    {'y': 3, 'x': 1}
    """
    require_matplotlib()
    return Explorer(
        ds,
        results,
        name,
        selection,
        fit=fit,
        complex_as=complex_as,
        robust=robust,
        cmap=cmap,
    )


class Explorer:
    """A map beside the spectrum of one of its positions: what `explore` returns.

    Attributes
    ----------
    figure : matplotlib.figure.Figure
    map_axes : matplotlib.axes.Axes
        Of the map, at the left.
    spectrum_axes : tuple of matplotlib.axes.Axes
        Of the spectrum, at the right: two for magnitude and phase.
    position : dict
        Indices of the position that is shown.
    mode : {"click", "sliders", "static"}
        How the user chooses positions.
    """

    def __init__(
        self,
        ds: xr.Dataset,
        results: xr.Dataset | xr.DataArray,
        name: str | None,
        selection: Mapping[str, Any],
        *,
        fit: Any = None,
        complex_as: ComplexAs = "magnitude",
        robust: bool = True,
        cmap: Any = None,
    ) -> None:
        import matplotlib.pyplot as plt
        from matplotlib.patheffects import withStroke

        self._ds = check_dataset(ds)
        self._results = results if isinstance(results, xr.Dataset) else None
        self._fit, self._complex_as = fit, complex_as
        self.figure: Figure = plt.figure(figsize=(12.5, 5), layout="constrained")
        self.position: dict[str, int] = {}
        self.widget: Any = None
        self._sliders: dict[str, Any] = {}
        try:
            halves: Any = self.figure.subfigures(1, 2, width_ratios=(1, 1.1))
            self._right: SubFigure = halves[1]
            self.map_axes: Axes = halves[0].subplots()
            self.spectrum_axes: tuple[Axes, ...] = ()
            self._map = draw_map(
                results, name, selection, ax=self.map_axes, robust=robust, cmap=cmap
            )
            self._fixed, self._core = self._divided_dims()
            # (the mark must not move the limits)
            self.map_axes.set(xlim=self.map_axes.get_xlim(), ylim=self.map_axes.get_ylim())
            (self._marker,) = self.map_axes.plot(
                [], [], "s", fillstyle="none", color="black", markersize=9, markeredgewidth=1.2
            )
            self._marker.set_path_effects([withStroke(linewidth=3, foreground="white")])
            self.show({dim: ds.sizes[dim] // 2 for dim in self._map.dims})
        except Exception:
            plt.close(self.figure)
            raise
        # (a function of its own: matplotlib would forget a method of an object that nobody keeps)
        self.figure.canvas.mpl_connect("button_press_event", lambda event: self._clicked(event))
        backend = plt.get_backend().lower()
        self.mode: Literal["click", "sliders", "static"] = "click"
        if backend in DRAWN_ONLY or "inline" in backend:
            self.mode = "static"
        if "inline" in backend:
            plt.close(self.figure)  # it is shown by this object, and not a second time
            if importlib.util.find_spec("ipywidgets") is not None:
                self.mode = "sliders"
                self.widget = self._with_sliders()

    def _divided_dims(self) -> tuple[dict[str, int], list[str]]:
        """Entries of dims of positions that the map does not show, and the dims of a spectrum."""
        sizes = {str(dim): size for dim, size in self._ds[SIGNAL].sizes.items()}
        places = {self._map.dims[0]: len(self._map.y), self._map.dims[-1]: len(self._map.x)}
        for dim, n in places.items():
            if dim not in sizes:
                raise ValueError(
                    f"the map is over {dim!r}, but the data have the dims {', '.join(sizes)}: it "
                    "is no map of their positions"
                )
            if sizes[dim] != n:
                raise ValueError(
                    f"the map has {n} positions along {dim!r}, the data {sizes[dim]}: select the "
                    "same part of both"
                )
        fit = self._fit.bound(self._ds) if isinstance(self._fit, Processor) else self._fit
        core_dims = getattr(fit, "core_dims", ())
        entries = self._map.entries
        fixed = {dim: i for dim, i in entries.items() if dim in sizes and dim not in core_dims}
        core = [dim for dim in sizes if dim not in places and dim not in fixed]
        if core:
            return fixed, core
        # what was selected is one value of every spectrum, not a part of the positions
        return {}, [dim for dim in sizes if dim not in places]

    def show(self, position: Any = None, *, sel: Mapping[str, Any] | None = None) -> None:
        """Show the spectrum at another position.

        Parameters
        ----------
        position : mapping, sequence of int or int, optional
            Indices, ``{"y": 3, "x": 17}``, or ``(3, 17)`` in the order of the dims of the data.
        sel : mapping, optional
            Values of coordinates: the nearest are taken.

        Raises
        ------
        ValueError, TypeError, IndexError
            If there is no such position.
        """
        signal = self._ds[SIGNAL]
        loops = [str(dim) for dim in signal.dims if dim in self._map.dims]
        if position is not None and not isinstance(position, Mapping):
            entries = position if isinstance(position, list | tuple) else (position,)
            if len(entries) != len(loops):
                raise ValueError(
                    f"position={position!r} has {len(entries)} entries, but the map has the dims "
                    f"{', '.join(loops)}"
                )
            position = dict(zip(loops, entries, strict=True))
        given = {**self._fixed, **(position or {})}
        index = position_index(self._ds, given, sel, self._core)
        self._right.clear()
        n_axes = count_axes(signal, len(self._core), self._complex_as)
        ratios = (2, 1) if len(self._core) == 1 else (1, 1)
        axes = self._right.subplots(
            n_axes, sharex=True, squeeze=False, height_ratios=ratios[:n_axes]
        )
        self.spectrum_axes = tuple(axes[:, 0])
        plot_position(
            self._ds,
            index,
            results=self._results,
            fit=self._fit,
            complex_as=self._complex_as,
            ax=self.spectrum_axes,
        )
        is_first, self.position = not self.position, index
        x, y = self._map.place_of(index)
        self._marker.set_data([x], [y if math.isfinite(y) else sum(self.map_axes.get_ylim()) / 2])
        if not is_first:  # (a new figure is drawn anyway)
            self.figure.canvas.draw_idle()
        if self.widget is not None:
            self._update_sliders()

    def _clicked(self, event: Any) -> None:
        toolbar = getattr(self.figure.canvas, "toolbar", None)
        busy = bool(getattr(toolbar, "mode", ""))  # the click is one that zooms or pans
        if event.inaxes is self.map_axes and event.button == 1 and not busy:
            self.show(self._map.index_at(event.xdata, event.ydata))

    # ------------------------------------------------------------------ in Jupyter

    def _with_sliders(self) -> Any:
        """A slider for each dim of the positions above a picture of the pair."""
        import ipywidgets  # type: ignore[import-not-found,import-untyped]

        self._picture = ipywidgets.Image(value=self._png(), format="png")
        for dim in self._map.dims:
            slider = ipywidgets.IntSlider(
                self.position[dim],
                min=0,
                max=self._ds.sizes[dim] - 1,
                description=dim,
                continuous_update=False,
            )
            slider.observe(functools.partial(self._moved, dim), "value")
            self._sliders[dim] = slider
        return ipywidgets.VBox([*self._sliders.values(), self._picture])

    def _moved(self, dim: str, change: Any) -> None:
        if self.position[dim] != change["new"]:
            self.show({**self.position, dim: change["new"]})

    def _update_sliders(self) -> None:
        for dim, slider in self._sliders.items():
            slider.value = self.position[dim]
        self._picture.value = self._png()

    def _png(self) -> bytes:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png")
        return buffer.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        if self.widget is None:
            return {}
        return self.widget._repr_mimebundle_(include=include, exclude=exclude)

    def _repr_png_(self) -> bytes | None:
        return self._png() if self.mode == "static" else None

    def __repr__(self) -> str:
        shown = ", ".join(f"{dim} {i}" for dim, i in self.position.items())
        return f"Explorer({self.mode}, at {shown})"
