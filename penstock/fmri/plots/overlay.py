"""What is drawn over a background: masks, labels, maps or values, each in its own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from penstock.fmri.extraction.lookup import without_background
from penstock.fmri.images.images import SpatialImage, load_image, nearly_whole, voxel_sizes
from penstock.fmri.plots.carpet import COLORS
from penstock.fmri.plots.slices import Box, best_cuts, distinct_colors, outlines, plane
from penstock.plots.quantities import LONGEST_NAME, drawn_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind: TypeAlias = Literal["mask", "labels", "maps", "values"]

PALETTE = (*COLORS, "#332288", "#F0E442", "#44AA99", "#661100")
"""With further ones by Tol, for as many regions as are listed."""
MOST_NAMED = 12
"""Regions that are listed beside the plot, at most."""


@dataclass(frozen=True, eq=False)
class Overlay:
    """Regions of one or several images."""

    kind: Kind
    images: tuple[SpatialImage, ...]
    labels: np.ndarray
    """Labels of the regions, in their order."""
    names: tuple[str, ...]
    """Their names; none where there are too many to list."""

    @classmethod
    def of(cls, regions: Any, kind: Kind | None, names: Any) -> Overlay:
        """The regions of an image or of several masks.

        Raises
        ------
        ValueError
            If they are of different kinds, or there are none.
        """
        several = isinstance(regions, Sequence) and not isinstance(regions, str)
        given = list(regions) if several else [regions]
        if not given:
            raise ValueError("there are no regions to draw: the list of images is empty")
        images = tuple(load_image(one, name="regions", ndim=(3, 4)) for one in given)
        kinds = [_kind_of(image) for image in images]
        if kind not in (None, "mask", "labels", "maps", "values"):
            raise ValueError(f"kind={kind!r} must be 'mask', 'labels', 'maps' or 'values'")
        if kind is None and isinstance(names, Mapping) and kinds == ["mask"]:
            kind = "mask" if images[0].data.dtype.kind == "b" else "labels"  # (a single label)
        kind = kind or kinds[0]
        if len(images) > 1 and (kind != "mask" or set(kinds) != {"mask"}):
            raise ValueError("several images are drawn together only where all of them are masks")
        first = images[0].data
        if (kind == "maps") != (first.ndim == 4):
            raise ValueError(f"kind={kind!r} does not fit to an image with {first.ndim} dims")
        if not any(np.any(np.nan_to_num(image.data)) for image in images):
            raise ValueError("there are no regions to draw: the image is 0 everywhere")
        if kind == "labels":
            labels = np.unique(np.nan_to_num(first)).astype(np.int64)
            labels = labels[labels != 0]
        else:
            labels = np.arange(first.shape[3] if kind == "maps" else len(images))
        return cls(kind, images, labels, _names_of(labels, kind, names))

    # ------------------------------------------------------------------ where

    def box(self) -> Box:
        """The box around all regions, and a little more."""
        boxes = []
        for image in self.images:
            inside = np.zeros(image.shape[:3], bool)
            for values in _volumes(image.data):
                inside |= np.nan_to_num(values) != 0
            boxes.append(Box.around(image, inside, margin=2 * min(voxel_sizes(image.affine))))
        return Box.union(boxes)

    def best_cuts(self, box: Box) -> np.ndarray:
        """Planes (3,) [mm] on which most is seen."""
        return best_cuts(box, [(image, self.numbers(image.data)) for image in self.images])

    def numbers(self, values: np.ndarray) -> np.ndarray:
        """The number of each voxel's (or pixel's) region, -1 where there is none."""
        if self.kind == "labels":
            whole = np.nan_to_num(values).astype(np.int64)
            return np.where(whole != 0, np.searchsorted(self.labels, whole), -1)
        if self.kind == "maps":
            numbers = np.full(values.shape[:-1], -1)
            highest = np.zeros(numbers.shape)
            for k, highest_value in enumerate(self._heights):
                height = np.abs(np.nan_to_num(values[..., k])) / highest_value
                stronger = (height > 0.5) & (height > highest)
                numbers[stronger], highest[stronger] = k, height[stronger]
            return numbers
        strength = np.abs(np.nan_to_num(values))
        limit = 0.5 * self._heights[0] if self.kind == "values" else 0
        return np.where(strength > limit, 0, -1)

    @cached_property
    def _heights(self) -> np.ndarray:
        """Largest values of the maps."""
        heights = [np.abs(np.nan_to_num(values)).max() for values in _volumes(self.images[0].data)]
        return np.where(np.array(heights) > 0, heights, 1)

    # ------------------------------------------------------------------ drawing

    def draw(self, axes: Sequence[Axes], box: Box, where: np.ndarray, alpha: float) -> None:
        """Draw on the planes across x, y and z, with a list of names or a scale beside them."""
        planes = [
            [plane(image, box, axis, where[axis]) for image in self.images] for axis in range(3)
        ]
        if self.kind == "values":
            self._draw_values(axes, [one[0] for one in planes], box, alpha)
            return
        colors = self._colors(planes)
        for axis, (ax, values) in enumerate(zip(axes, planes, strict=True)):
            if self.kind == "mask":
                for value, color in zip(values, colors, strict=True):
                    inside = np.nan_to_num(value) != 0
                    # (lighter within than labels: masks may lie upon each other)
                    _fill(ax, box, axis, np.where(inside, 0.5 * alpha, 0), color)
                    _line(ax, box, axis, inside, color, 1.3)
            elif self.kind == "labels":
                numbers = self.numbers(values[0])
                shown = np.where(numbers[..., None] >= 0, colors[numbers], 0)
                _fill(ax, box, axis, np.where(numbers >= 0, alpha, 0), shown)
                _line(ax, box, axis, numbers, "white", 0.4)
            else:
                self._draw_maps(ax, box, axis, np.nan_to_num(values[0]), colors, alpha)
        if self.names:
            self._list_names(axes[2], colors, self._seen(planes))

    def _colors(self, planes: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        """Colours (region, 3)."""
        from matplotlib.colors import to_rgb

        palette = np.array([to_rgb(color) for color in PALETTE])
        n = len(self.labels)
        if n <= len(palette) or self.kind == "mask":
            return palette[np.arange(n) % len(palette)]
        return palette[distinct_colors([self.numbers(one[0]) for one in planes], n, len(palette))]

    def _seen(self, planes: Sequence[Sequence[np.ndarray]]) -> set[int]:
        """Numbers of the regions that are on a plane."""
        if self.kind != "mask":
            return {int(k) for one in planes for k in np.unique(self.numbers(one[0])) if k >= 0}
        return {
            k for one in planes for k, value in enumerate(one) if np.any(np.nan_to_num(value) != 0)
        }

    def _draw_maps(
        self,
        ax: Axes,
        box: Box,
        axis: int,
        values: np.ndarray,
        colors: np.ndarray,
        alpha: float,
    ) -> None:
        heights = np.abs(values) / self._heights
        strongest = heights.argmax(axis=-1)
        _fill(ax, box, axis, alpha * heights.max(axis=-1).clip(0, 1), colors[strongest])
        for k, color in enumerate(colors):
            if (heights[..., k] > 0.5).any():
                _line(ax, box, axis, heights[..., k] > 0.5, color, 0.9)

    def _draw_values(
        self, axes: Sequence[Axes], planes: Sequence[np.ndarray], box: Box, alpha: float
    ) -> None:
        data = self.images[0].data
        low, high = float(np.nanmin(data)), float(np.nanmax(data))
        both = low < 0 < high
        largest = max(abs(low), abs(high))
        limits = (-largest, largest) if both else (min(low, 0.0), max(high, 0.0))
        for axis, ax in enumerate(axes):
            shown = np.where(np.nan_to_num(planes[axis]) != 0, planes[axis], np.nan)
            # small values fade, instead of ending at a threshold (Taylor et al. 2023)
            opaque = np.clip(np.abs(np.nan_to_num(shown)) / (0.5 * largest), 0, 1)
            image = ax.imshow(
                shown,
                cmap="RdBu_r" if both else "viridis",
                vmin=limits[0],
                vmax=limits[1],
                alpha=max(alpha, 0.9) * opaque,
                **_place(box, axis),
            )
        bar = axes[2].figure.colorbar(image, ax=list(axes), shrink=0.7, aspect=25, pad=0.02)
        bar.ax.tick_params(labelsize="small")
        bar.outline.set_linewidth(0.5)

    def _list_names(self, ax: Axes, colors: np.ndarray, seen: set[int]) -> None:
        from matplotlib.patches import Patch

        patches = [
            Patch(color=colors[k], label=drawn_text(self.names[k], LONGEST_NAME))
            for k in sorted(seen)
        ]
        beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
        ax.legend(handles=patches, fontsize="small", frameon=False, handlelength=0.9, **beside)


def _kind_of(image: SpatialImage) -> Kind:
    data = image.data
    if data.ndim == 4:
        return "maps"
    if data.dtype.kind == "b":
        return "mask"
    values = np.nan_to_num(data)
    different = values[values != 0]
    if not len(different) or (different == different[0]).all():
        return "mask"
    return "labels" if nearly_whole(different).all() else "values"


def _names_of(
    labels: np.ndarray, kind: Kind, names: Mapping[int, str] | Sequence[str] | None
) -> tuple[str, ...]:
    if kind == "labels" and isinstance(names, Sequence) and not isinstance(names, str):
        names = without_background(names)
    if isinstance(names, str) or (
        names is not None and not isinstance(names, Mapping) and len(names) != len(labels)
    ):
        raise ValueError(f"names must be one a region: there are {len(labels)} regions")
    if kind == "values" or len(labels) > MOST_NAMED or (names is None and len(labels) < 2):
        return ()
    if names is None:
        word = {"mask": "mask", "labels": "label", "maps": "map"}[kind]
        return tuple(f"{word} {label}" for label in labels)
    if isinstance(names, Mapping):
        return tuple(str(names.get(int(label), label)) for label in labels)
    return tuple(map(str, names))


def _volumes(data: np.ndarray) -> list[np.ndarray]:
    """The volumes of an image, one after the other."""
    return [data] if data.ndim == 3 else [data[..., k] for k in range(data.shape[-1])]


def _place(box: Box, axis: int) -> dict[str, Any]:
    across = [other for other in range(3) if other != axis]
    extent = (*box.extent(across[0]), *box.extent(across[1]))
    return {"extent": extent, "origin": "lower", "interpolation": "nearest", "zorder": 2}


def _fill(ax: Axes, box: Box, axis: int, opaque: np.ndarray, color: np.ndarray) -> None:
    """Draw pixels in a colour, or each in its own, as opaque as they are."""
    pixels = np.empty((*opaque.shape, 4))
    pixels[..., :3] = color
    pixels[..., 3] = opaque
    ax.imshow(pixels, **_place(box, axis))


def _line(ax: Axes, box: Box, axis: int, numbers: np.ndarray, color: Any, width: float) -> None:
    """Draw the borders between unequal pixels."""
    from matplotlib.collections import LineCollection

    lines = LineCollection(list(outlines(numbers, box, axis)), colors=[color], linewidths=width)
    lines.set(zorder=3, capstyle="round")
    ax.add_collection(lines, autolim=False)
