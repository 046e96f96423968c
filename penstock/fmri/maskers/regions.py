"""Where the regions of a fitted masker are, as an image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.fmri.extraction.base import image_on_grid
from penstock.fmri.images.images import SpatialImage

if TYPE_CHECKING:
    from penstock.fmri.maskers.base import BaseMasker


def regions_image(masker: BaseMasker) -> SpatialImage:
    """Where the regions are, as `regions_and_names` gives it."""
    return regions_and_names(masker)[0]


def region_sizes(masker: BaseMasker) -> list[tuple[str, int, float]] | None:
    """Name, voxels and volume [mm³] of every region, on the masker's grid; None for maps, masks.

    Voxels where regions overlap count for each of them.
    """
    if masker.keeps_type or getattr(masker, "_maps", None) is not None:
        return None
    grid = masker.grid
    extractor: Any = masker.processors(grid)[-1]
    regions = extractor.resolve(grid)
    voxel = abs(float(np.linalg.det(np.asarray(grid.matrix)[:3, :3])))
    counts = np.asarray(regions.voxels.sizes).tolist()
    return [(name, n, n * voxel) for name, n in zip(regions.names(), counts, strict=True)]


def regions_and_names(masker: BaseMasker) -> tuple[SpatialImage, dict[int, str] | None]:
    """Where the regions are, and what they are called.

    Maps are themselves, in the order of their columns; a mask is 1. Otherwise each region has its
    label value in its voxels, or the number of its column (from 1) where there are no labels, or
    one of them is 0, which stands for no region here. Names are by these numbers.
    """
    grid = masker.grid
    extractor: Any = masker.processors(grid)[-1]
    regions = extractor.resolve(grid)
    if masker.keeps_type:
        painted = extractor.paint(np.ones((1, len(regions))), grid)[0]
        return SpatialImage(painted.astype(np.int32).transpose(2, 1, 0), grid.matrix), None
    names = regions.names()
    maps = getattr(masker, "_maps", None)
    if maps is not None:
        here = image_on_grid(maps, grid, "maps_img", "linear", "")
        kept = here.data[..., regions.coords["map"]]
        return SpatialImage(kept, here.affine), dict(enumerate(names))
    values = np.asarray(regions.coords.get("label", 1 + np.arange(len(regions))))
    if (values == 0).any():
        values = 1 + np.arange(len(regions))
    # (not painted as signals: where spheres overlap those are averaged, and the average of two
    # numbers is another region's)
    flat = np.zeros(math.prod(grid.shape), np.int32)
    flat[regions.voxels.voxels] = np.repeat(values, regions.voxels.sizes)
    image = SpatialImage(flat.reshape(grid.shape, order="F"), grid.matrix)
    return image, dict(zip(map(int, values), names, strict=True))
