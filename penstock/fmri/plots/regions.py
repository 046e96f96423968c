"""Plots of regions on planes through the brain: masks, atlases and maps over a background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL
from penstock.fmri.images.images import SPACE, SpatialImage, load_image
from penstock.fmri.images.volumes import as_volumes
from penstock.fmri.maskers.regions import regions_and_names
from penstock.fmri.plots.overlay import Kind, Overlay
from penstock.fmri.plots.slices import Box, plane
from penstock.plots.quantities import require_matplotlib
from penstock.reading import reading_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEAN_VOLUMES = 8
"""Volumes that are averaged for a background."""
_SIDES = ("PA", "LR", "LR")
"""What lies at the left and at the right edge of planes across x, y and z."""


def plot_regions(
    regions: Any,
    background: Any = None,
    *,
    cuts: Sequence[float | None] | Mapping[str, float] | None = None,
    kind: Kind | None = None,
    names: Mapping[int, str] | Sequence[str] | None = None,
    alpha: float = 0.6,
    ax: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes, Axes]:
    """Draw regions on three planes through the brain, in world coordinates.

    Left is left (the neurological convention), marked L and R; sagittal planes look to the left,
    with the front (A) at the right. All follows from the affine, not from the order of the voxels.

    Parameters
    ----------
    regions : image or sequence of images
        A mask, labels (whole numbers, 0 is no region), maps (x, y, z, n), or values (a statistical
        map): a path, nibabel image, `SpatialImage`, or dataset with an affine. Several masks are
        drawn together. A fitted masker stands for its regions.
    background : image, optional
        What is drawn beneath in grey. Of an image over time the mean of a few volumes is drawn, and
        only those are read.
    cuts : sequence of 3 floats, or mapping, optional
        Where to cut along x, y and z [mm], ``(-20, None, 8)`` or ``{"x": -20, "z": 8}``. Default:
        the planes on which most is seen of most regions.
    kind : {"mask", "labels", "maps", "values"}, optional
        What the image is, where its values do not tell.
    names : mapping of int to str, or sequence of str, optional
        Names by label, or in the order of the regions. Of up to 12 regions, those that are on the
        planes are listed beside them.
    alpha : float, default 0.6
        How opaque regions are, from 0 to 1.
    ax : sequence of 3 matplotlib.axes.Axes, optional
        Where to draw the planes across x, y and z. Default: a new figure.

    Returns
    -------
    tuple of matplotlib.axes.Axes
        Of the planes across x (sagittal), y (coronal) and z (axial), in mm.

    Raises
    ------
    ImportError
        Without matplotlib.
    FileNotFoundError, TypeError, ValueError
        If there is no such image, it holds no region, or a cut lies outside of it.

    Notes
    -----
    Neighbouring labels have different colours; far ones may share one. Each voxel of maps has the
    colour of its strongest map, the more opaque the stronger, and lines at half of a map's height.
    Pixels have the values of the voxels that they lie in, without interpolation. Values that are
    small beside the largest one fade.

    Examples
    --------
    >>> from penstock.fmri.simulate import simulated_atlas
    >>> from penstock.fmri.plots.regions import plot_regions
    >>> axes = plot_regions(simulated_atlas((20, 24, 20), 12), cuts=(0, -10, None))
    >>> [ax.get_xlabel() for ax in axes]
    ['y [mm]', 'x [mm]', 'x [mm]']
    """
    require_matplotlib()
    if hasattr(regions, "generate_report"):
        regions, known = regions_and_names(regions)
        if known is not None:  # (a single region, too, has its own label and name)
            names, kind = names or known, kind or ("maps" if regions.data.ndim == 4 else "labels")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha!r}")
    overlay = Overlay.of(regions, kind, names)
    beneath = None if background is None else mean_of_few(background)
    box = overlay.box()
    where = _where(cuts, overlay, box)
    view = _view(box, beneath)
    axes = _take_axes(ax, view, beside=bool(overlay.names) or overlay.kind == "values")
    if beneath is not None:
        _draw_background(axes, beneath, where)
    overlay.draw(axes, box, where, alpha)
    for axis, one in enumerate(axes):
        _dress(one, axis, where, view, dark=beneath is not None)
    return axes


def mean_of_few(image: Any, n_volumes: int = MEAN_VOLUMES) -> SpatialImage:
    """One volume of an image: itself, or the mean of a few volumes, of which only those are read.

    Parameters
    ----------
    image : path, nibabel image, xarray.Dataset or SpatialImage
    n_volumes : int, default 8
        How many volumes: evenly spread over datasets that can be read anywhere, the first ones of
        files and of datasets that are read front to back.

    Returns
    -------
    SpatialImage
        (x, y, z), float.

    Examples
    --------
    >>> from penstock.fmri.simulate import simulate_fmri
    >>> from penstock.fmri.plots.regions import mean_of_few
    >>> mean_of_few(simulate_fmri((20, 24, 20), n_volumes=500)).shape
    (20, 24, 20)
    """
    if isinstance(image, SpatialImage) and image.data.ndim == 3:
        return image
    ds = as_volumes(image)
    signal = ds[SIGNAL]
    few = {}
    for dim in (dim for dim in signal.dims if dim not in SPACE):
        n = signal.sizes[dim]
        first_ones = reading_of(signal).sequential or not isinstance(image, xr.Dataset)
        last = min(n, n_volumes) if first_ones else n
        few[dim] = np.unique(np.linspace(0, last - 1, n_volumes).round().astype(int))
    return load_image(ds.assign({SIGNAL: signal.isel(few).mean(list(few))}), name="background")


# ---------------------------------------------------------------------- planes


def _where(
    cuts: Sequence[float | None] | Mapping[str, float] | None, overlay: Overlay, box: Box
) -> np.ndarray:
    """Where to cut (3,) [mm], on planes of pixels."""
    if cuts is None:
        given: list[float | None] = [None] * 3
    elif isinstance(cuts, Mapping):
        wrong = [key for key in cuts if key not in SPACE]
        if wrong:
            raise ValueError(f"cuts are along x, y and z, not along {wrong[0]!r}")
        given = [cuts.get(dim) for dim in SPACE]
    else:
        given = list(cuts)
        if len(given) != 3:
            raise ValueError(f"cuts must be three coordinates [mm], x, y and z, got {cuts!r}")
    best = overlay.best_cuts(box)
    for axis, cut in enumerate(given):
        if cut is None:
            continue
        low, high = box.extent(axis)
        if not low <= cut <= high:
            raise ValueError(
                f"the cut at {SPACE[axis]} = {cut:g} mm lies outside of the regions, which go from "
                f"{low:g} to {high:g} mm"
            )
        best[axis] = box.nearest(axis, float(cut))
    return best


def _view(box: Box, beneath: SpatialImage | None) -> np.ndarray:
    """What is shown, (3, 2) [mm]: the regions, and of a background what is not dark."""
    shown = np.array([box.extent(axis) for axis in range(3)])
    if beneath is not None:
        values = np.nan_to_num(beneath.data)
        head = Box.around(beneath, values > 0.15 * np.percentile(values, 99), margin=4.0)
        also = np.array([head.extent(axis) for axis in range(3)])
        shown = np.stack(
            [np.minimum(shown[:, 0], also[:, 0]), np.maximum(shown[:, 1], also[:, 1])], axis=1
        )
    return shown


def _take_axes(
    ax: Sequence[Axes] | None, view: np.ndarray, *, beside: bool
) -> tuple[Axes, Axes, Axes]:
    """The axes that are given, or those of a new figure, with room for what stands beside them."""
    import matplotlib.pyplot as plt

    if ax is not None:
        given = tuple(np.atleast_1d(np.asarray(ax, dtype=object)).reshape(-1))
        if len(given) != 3:
            raise ValueError(f"there are 3 planes to draw, but {len(given)} axes are given")
        return given
    lengths = view[:, 1] - view[:, 0]
    widths = [lengths[1], lengths[0], lengths[0]]
    height = 6.2 * max(lengths[1], lengths[2]) / sum(widths) + 0.8
    figure, made = plt.subplots(
        1,
        3,
        width_ratios=widths,
        figsize=(7.8 + 1.1 * beside, min(height, 6.0)),
        layout="constrained",
    )
    figure.get_layout_engine().set(wspace=0.04)
    return tuple(made)


def _draw_background(axes: Sequence[Axes], image: SpatialImage, where: np.ndarray) -> None:
    own = Box.around(image, np.ones(image.shape, bool))
    values = np.nan_to_num(image.data)
    low, high = np.percentile(values, [2, 99.5])
    for axis, ax in enumerate(axes):
        across = [other for other in range(3) if other != axis]
        ax.imshow(
            plane(image, own, axis, own.nearest(axis, where[axis])),
            cmap="gray",
            vmin=min(low, 0),
            vmax=1.1 * high,
            origin="lower",
            extent=(*own.extent(across[0]), *own.extent(across[1])),
            interpolation="nearest",
            zorder=0,
        )


def _dress(ax: Axes, axis: int, where: np.ndarray, view: np.ndarray, *, dark: bool) -> None:
    """Limits, labels, sides, and where the other planes lie."""
    across = [other for other in range(3) if other != axis]
    ink = "white" if dark else "0.2"
    ax.set_facecolor("black" if dark else "white")
    for other, line in zip(across, (ax.axvline, ax.axhline), strict=True):
        line(where[other], color=ink, linewidth=0.6, linestyle=(0, (1, 3)), alpha=0.7, zorder=4)
    ax.set_aspect("equal")
    ax.set_xlim(view[across[0]])
    # the same height on all planes, so that they have one scale
    height = max(view[1, 1] - view[1, 0], view[2, 1] - view[2, 0])
    ax.set_ylim(view[across[1]].mean() + np.array([-height, height]) / 2)
    for side, place in zip(_SIDES[axis], ("left", "right"), strict=True):
        corner = (0.03 if place == "left" else 0.97, 0.97)
        ax.text(*corner, side, transform=ax.transAxes, ha=place, va="top", color=ink, zorder=5)
    coordinate = f"{where[axis]:.1f}".removesuffix(".0").replace("-", "−")
    text = f"{SPACE[axis]} = {'0' if coordinate == '−0' else coordinate} mm"
    ax.set_title(text, fontsize="medium")
    ax.set_xlabel(f"{SPACE[across[0]]} [mm]")
    ax.set_ylabel(f"{SPACE[across[1]]} [mm]", labelpad=1)
    ax.locator_params(nbins=5)
    ax.tick_params(labelsize="small")
    ax.spines[:].set_linewidth(0.5)
