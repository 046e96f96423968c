"""Masks: which voxels belong to the brain, found from volumes that are read once, in file order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from penstock.dataset import SIGNAL
from penstock.fmri.images.images import (
    SPACE,
    ImageLike,
    SpatialImage,
    image_affine,
    load_image,
    same_grid,
    voxel_grid,
)
from penstock.fmri.images.resampling import resample_image
from penstock.fmri.images.smoothing import smooth
from penstock.fmri.images.volumes import BLOCK_BYTES, as_volumes, blocks_in_file_order
from penstock.memory.accounting import parse_bytes

Strategy: TypeAlias = Literal[
    "background", "epi", "whole-brain-template", "gm-template", "wm-template"
]

TEMPLATES = {
    "whole-brain-template": "load_mni152_template",
    "gm-template": "load_mni152_gm_template",
    "wm-template": "load_mni152_wm_template",
}
"""Functions of nilearn that load the template of each strategy."""

MASK_OPTIONS = {
    "background": ("border_size",),
    "epi": ("lower_cutoff", "upper_cutoff", "exclude_zeros"),
    **dict.fromkeys(TEMPLATES, ("template",)),
}
"""Options of `compute_mask` that have a meaning for one strategy only."""
COMMON_OPTIONS = ("threshold", "opening", "connected", "target_affine", "target_shape", "memory")


# ---------------------------------------------------------------------- reading


def mean_image(images: Any, *, memory: int | float | str | None = None) -> SpatialImage:
    """Mean of volumes over time, read once, in the order of the file and in bounded memory.

    Parameters
    ----------
    images : xarray.Dataset, path or nibabel image
        Volumes (x, y, z, time); a single volume is its own mean.
    memory : int or str, optional
        Most that one block of volumes takes, e.g. ``"64 MiB"``. Default: 16 MiB; one volume at
        least.

    Returns
    -------
    SpatialImage
        Float64. NaN where a volume has NaN.

    Raises
    ------
    ValueError
        If there are no volumes, or they have no affine.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.fmri.images.masks import mean_image
    >>> affine = (("affine_row", "affine_column"), np.eye(4))
    >>> volumes = np.ones((4, 5, 6, 3)) * np.arange(3)
    >>> ds = ps.make_dataset(volumes, ("x", "y", "z", "time"), coords={"affine": affine})
    >>> float(mean_image(ds).data[0, 0, 0])
    1.0
    """
    ds = as_volumes(images)
    affine = image_affine(ds)
    if not ds[SIGNAL].size:
        raise ValueError(f"there are no volumes to average: sizes {dict(ds.sizes)}")
    total = np.zeros([ds.sizes[dim] for dim in SPACE[::-1]])
    n_volumes = 0
    for block in blocks_in_file_order(ds, BLOCK_BYTES if memory is None else parse_bytes(memory)):
        for index in np.ndindex(block.shape[:-3]):
            total += block[index]
            n_volumes += 1
        del block  # (before the next one is read)
    total /= n_volumes
    return SpatialImage(total.T, affine)


# ---------------------------------------------------------------------- masks


def compute_mask(
    images: Any,
    strategy: Strategy = "background",
    *,
    threshold: float = 0.5,
    opening: int | bool | None = None,
    connected: bool | None = None,
    border_size: int = 2,
    lower_cutoff: float = 0.2,
    upper_cutoff: float = 0.85,
    exclude_zeros: bool = False,
    target_affine: Any = None,
    target_shape: Sequence[int] | None = None,
    template: ImageLike | None = None,
    memory: int | float | str | None = None,
) -> SpatialImage:
    """Find the voxels of the brain.

    Parameters
    ----------
    images : xarray.Dataset, path or nibabel image, or a list of them
        Volumes. Each is read once, in the order of the file and in bounded memory. Several images
        on one grid get one common mask, of voxels that are in the masks of enough of them.
    strategy : str, default "background"
        ``"background"``: the temporal mean differs from the value at the border, which must be
        constant. ``"epi"``: the temporal mean lies above the widest gap in the histogram.
        ``"whole-brain-template"``, ``"gm-template"``, ``"wm-template"``: a template in MNI152 space
        lies above `threshold`; for images in that space, of which only the grid is used.
    threshold : float, default 0.5
        Of several images, the fraction whose masks must hold a voxel. For templates, the value
        above which a voxel is kept.
    opening : int or bool, optional
        How often the mask is eroded, to cut thin bridges, before it is dilated again; 0: not.
        Default: 2, and 0 for the background of one image.
    connected : bool, optional
        Keep the largest connected component only. Default: yes, and no for the background of one
        image.
    border_size : int, default 2
        Voxels at each side that are background. For ``"background"``.
    lower_cutoff, upper_cutoff : float, default 0.2 and 0.85
        Fractions of the histogram between which the gap is searched. For ``"epi"``.
    exclude_zeros : bool, default False
        Leave zeros out of the histogram. For ``"epi"``.
    target_affine, target_shape : array_like, optional
        Grid to which the mean is resampled first (see
        `penstock.fmri.images.resampling.target_grid`).
    template : path or image, optional
        Template instead of the one that nilearn brings along.
    memory : int or str, optional
        Most that one block of volumes takes. Default: 16 MiB.

    Returns
    -------
    SpatialImage
        The mask, bool (x, y, z).

    Raises
    ------
    ValueError
        If nothing is found, the images lie on different grids, or no template is there.

    Notes
    -----
    The same masks as `nilearn.masking` (``compute_background_mask``, ``compute_epi_mask``,
    ``compute_brain_mask`` and their ``multi`` forms), which warns where a mask is empty. The
    ``"epi"`` method is due to T. Nichols.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.fmri.images.masks import compute_mask
    >>> volumes = np.zeros((12, 12, 12, 3))
    >>> volumes[3:9, 3:9, 3:9] = 100.0
    >>> affine = (("affine_row", "affine_column"), np.eye(4))
    >>> ds = ps.make_dataset(volumes, ("x", "y", "z", "time"), coords={"affine": affine})
    >>> int(compute_mask(ds).data.sum())
    216
    """
    if strategy not in ("background", "epi", *TEMPLATES):
        raise ValueError(
            f"strategy must be one of background, epi, {', '.join(TEMPLATES)}, got {strategy!r}"
        )
    several = isinstance(images, list | tuple)
    items = list(images) if several else [images]
    if not items:
        raise ValueError("a list of no images has no mask")
    plain = strategy == "background" and not several
    opening = (0 if plain else 2) if opening is None else int(opening)
    connected = not plain if connected is None else connected
    target = None if target_affine is None else (target_affine, target_shape)
    if target is None and target_shape is not None:
        raise ValueError("target_shape needs a target_affine")

    if strategy in TEMPLATES:
        found = resample_image(_template(strategy, template), voxel_grid(items[0]))
        mask = _tidied(found.data >= threshold, opening, connected)
        _refuse_empty(
            mask, opening, "lower the threshold, or check that the images are in MNI152 space"
        )
        return SpatialImage(mask, found.affine)

    masks = []
    for item in items:
        mean = mean_image(item, memory=memory)
        if target is not None:
            mean = resample_image(mean, target)
        if strategy == "background":
            mask = _not_background(mean.data, border_size)
            hint = "images whose background is not constant need strategy='epi'"
        else:
            values = _histogram_values(mean, smoothed=bool(opening))
            mask = values >= _gap(values, lower_cutoff, upper_cutoff, exclude_zeros)
            hint = "are the images detrended? EPI images have a bright brain on a dark background"
        mask = _tidied(mask, opening, connected)
        _refuse_empty(mask, opening, hint)
        masks.append(SpatialImage(mask, mean.affine))
    return intersect_masks(masks, threshold, connected=connected) if several else masks[0]


def _refuse_empty(mask: np.ndarray, opening: int, hint: str) -> None:
    if not mask.any():
        thin = " (opening=0 where volumes are a few voxels thin)" if opening else ""
        raise ValueError(f"the mask that was found is empty: {hint}{thin}")


def _not_background(mean: np.ndarray, size: int) -> np.ndarray:
    """Voxels that differ from the median of the border; those with a value where that is NaN."""
    if size < 1:
        raise ValueError(f"border_size={size} must be at least one voxel")
    sides = [mean[:size], mean[-size:], mean[:, :size], mean[:, -size:]]
    sides += [mean[:, :, :size], mean[:, :, -size:]]
    border = np.concatenate([side.ravel() for side in sides])
    if np.isnan(border).any():
        return ~np.isnan(mean)
    return mean != np.median(border)


def _histogram_values(mean: SpatialImage, *, smoothed: bool) -> np.ndarray:
    """The mean with 0 for missing values, smoothed by one voxel where the mask will be opened."""
    values = mean.data
    if smoothed:
        values = smooth(values.T[np.newaxis], (1.0, 1.0, 1.0), 1.0, nan_policy="zero")[0].T
        values[np.isnan(mean.data)] = 0
    return np.where(np.isfinite(values), values, 0)


def _gap(values: np.ndarray, lower: float, upper: float, exclude_zeros: bool) -> float:
    """The middle of the widest gap between sorted values, between two fractions of them."""
    if not 0 <= lower < upper <= 1:
        raise ValueError(f"0 <= lower_cutoff={lower} < upper_cutoff={upper} <= 1 must hold")
    ordered = np.sort(values, axis=None)
    if exclude_zeros:
        ordered = ordered[ordered != 0]
    first = int(np.floor(lower * len(ordered)))
    last = min(int(np.floor(upper * len(ordered))), len(ordered) - 1)
    if last <= first:
        raise ValueError(
            f"{len(ordered)} voxels are too few to find a threshold between the fractions "
            f"{lower} and {upper}"
        )
    at = first + int(np.argmax(np.diff(ordered[first : last + 1])))
    return 0.5 * float(ordered[at] + ordered[at + 1])


def _tidied(mask: np.ndarray, opening: int, connected: bool) -> np.ndarray:
    """Cut thin bridges, keep the largest component, and close holes at its border."""
    from scipy.ndimage import binary_dilation, binary_erosion

    if opening:
        mask = binary_erosion(mask, iterations=opening)
    if connected:
        mask = _largest_component(mask)
    if opening:
        mask = binary_dilation(mask, iterations=2 * opening)
        mask = binary_erosion(mask, iterations=opening)
    return mask


def _largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest set of voxels that touch with their faces; the first of equals."""
    from scipy.ndimage import label

    labels, n = label(mask)
    if n < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    return labels == 1 + np.argmax(sizes[1:])


def _template(strategy: str, given: ImageLike | None) -> SpatialImage:
    if given is not None:
        return load_image(given, name="template")
    try:
        from nilearn import datasets
    except ImportError:
        raise ValueError(
            f"strategy={strategy!r} needs a template in MNI152 space: give one with template=path, "
            "or install nilearn, which brings one along"
        ) from None
    return load_image(getattr(datasets, TEMPLATES[strategy])(resolution=1), name="template")


# ---------------------------------------------------------------------- masks that are there


def intersect_masks(
    masks: Sequence[ImageLike], threshold: float = 0.5, *, connected: bool = True
) -> SpatialImage:
    """The voxels that enough of several masks hold.

    Parameters
    ----------
    masks : sequence of paths or images
        Masks on one grid; empty ones count.
    threshold : float, default 0.5
        Voxels in more than this fraction of the masks are kept: 0 for the union, 1 for the
        intersection.
    connected : bool, default True
        Keep the largest connected component only.

    Returns
    -------
    SpatialImage
        The mask, bool (x, y, z).

    Raises
    ------
    ValueError
        If there are no masks, they lie on different grids, or the threshold is not in 0 ... 1.

    Notes
    -----
    The same as `nilearn.masking.intersect_masks`.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.images.images import SpatialImage
    >>> from penstock.fmri.images.masks import intersect_masks
    >>> one, two = np.zeros((2, 3, 3, 3), bool)
    >>> one[:2], two[1:] = True, True
    >>> both = intersect_masks([SpatialImage(m, np.eye(4)) for m in (one, two)], threshold=1)
    >>> both.data.any(axis=(1, 2)).tolist()
    [False, True, False]
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} must lie between 0 (union) and 1 (intersection)")
    images = [load_image(mask, name="mask") for mask in masks]
    if not images:
        raise ValueError("no masks to intersect")
    for number, image in enumerate(images[1:], 2):
        if not same_grid(images[0], image):
            raise ValueError(
                f"mask {number} lies on another grid than mask 1 (shape {image.shape}, affine "
                f"{image.affine.tolist()}): resample it with resample_image(..., "
                'interpolation="nearest")'
            )
    count = np.zeros(images[0].shape, np.int32)
    for image in images:
        count += check_mask(image, allow_empty=True)
    # (the intersection: more than almost all)
    found = count > min(threshold, 1 - 1e-7) * len(images)
    return SpatialImage(_largest_component(found) if connected else found, images[0].affine)


def check_mask(image: ImageLike, *, allow_empty: bool = False) -> np.ndarray:
    """A mask as bool array, if the image can be one.

    Parameters
    ----------
    image : path, nibabel image, dataset or SpatialImage
        3D: 0 outside, one other value inside. NaN and infinite count as 0. 4D: a voxel is inside
        where no volume is 0.
    allow_empty : bool, default False
        Whether the mask may hold no voxel.

    Returns
    -------
    numpy.ndarray
        Bool (x, y, z).

    Raises
    ------
    ValueError
        If the image has more than one value beside 0, or no 0 beside two, or is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.images.images import SpatialImage
    >>> from penstock.fmri.images.masks import check_mask
    >>> int(check_mask(SpatialImage(np.full((2, 2, 2), 7), np.eye(4))).sum())
    8
    """
    found = load_image(image, name="mask", ndim=(3, 4))
    data, where = found.data, f" {found.source}" if found.source else ""
    if data.dtype.kind == "f":
        data = np.where(np.isfinite(data), data, 0)
    inside = data != 0
    if inside.ndim == 4 and inside.shape[3] > 1:
        return _not_empty(inside.all(axis=3), where, allow_empty)
    values = np.unique(data)
    if len(values) > 2:
        shown = ", ".join(f"{value:g}" for value in values[:4])
        raise ValueError(
            f"the mask{where} has {len(values)} different values ({shown}, ...), but a mask has 0 "
            "and one other: make one by comparing, for example image > 0"
        )
    if len(values) == 2 and 0 not in values:
        raise ValueError(
            f"the mask{where} has the values {values[0]:g} and {values[1]:g}, but what is outside "
            "must be 0"
        )
    return _not_empty(inside.all(axis=3) if inside.ndim == 4 else inside, where, allow_empty)


def _not_empty(inside: np.ndarray, where: str, allow_empty: bool) -> np.ndarray:
    if not allow_empty and not inside.any():
        raise ValueError(f"the mask{where} is empty: it holds no voxel")
    return inside
