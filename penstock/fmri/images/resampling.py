"""Resampling of volumes and images to another voxel grid."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np

from penstock.dataset import SIGNAL, blank_variable
from penstock.fmri.images.images import (
    SPACE,
    SpatialImage,
    VoxelGrid,
    check_affine,
    floating_type,
    load_image,
    same_grid,
    voxel_grid,
)
from penstock.fmri.images.separable import SLAB_BYTES, SeparableOperator
from penstock.fmri.images.smoothing import each_volume, finite_volume
from penstock.memory.buffers import new_array
from penstock.processor import Context, Processor
from penstock.voxels import with_affine

if TYPE_CHECKING:
    import xarray as xr

Interpolation: TypeAlias = Literal["continuous", "linear", "nearest"]

ORDERS = {"continuous": 3, "linear": 1, "nearest": 0}
"""Order of the spline of each interpolation."""

ROUNDING = 1e-4
"""Part of a voxel by which affines of files (float32) and their inverses are off at most."""


# ---------------------------------------------------------------------- the grid


def target_grid(
    image_grid: Any, target_affine: Any, target_shape: Sequence[int] | None = None
) -> VoxelGrid:
    """The grid that an affine, with or without a shape, means for an image.

    Parameters
    ----------
    image_grid : VoxelGrid, image, dataset or path
        What will be resampled.
    target_affine : array_like
        (4, 4): the new affine. (3, 3): its axes only [mm]; the grid is then placed so that its
        first voxel lies on the corner of the image's bounding box.
    target_shape : sequence of three int, optional
        Voxels along x, y and z; only with a (4, 4) affine. Default: as far as the image reaches.

    Returns
    -------
    VoxelGrid

    Raises
    ------
    ValueError
        If the new grid holds nothing of the image, or a shape is given with a (3, 3) affine.

    Notes
    -----
    The same as `nilearn.image.resample_img`, which refuses a grid only where the image lies before
    its first voxel, and gives an image of zeros where it lies behind the last.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.images.images import VoxelGrid
    >>> from penstock.fmri.images.resampling import target_grid
    >>> target_grid(VoxelGrid((10, 10, 10), np.eye(4)), np.diag([2.0, 2.0, 2.0])).shape
    (6, 6, 6)
    """
    grid = voxel_grid(image_grid)
    given = np.asarray(target_affine, dtype=np.float64)
    if given.shape not in ((3, 3), (4, 4)):
        raise ValueError(f"target_affine must be 3 x 3 or 4 x 4, got shape {given.shape}")
    affine = np.eye(4)
    affine[: len(given), : len(given)] = given
    check_affine(affine, "target_affine")
    if len(given) == 3 and target_shape is not None:
        raise ValueError("target_shape needs a 4 x 4 target_affine: a 3 x 3 one has no origin")
    ends = [(0, n - 1) for n in grid.shape]
    corners = np.array([(x, y, z, 1) for x in ends[0] for y in ends[1] for z in ends[2]])
    # corners of the image in voxels of the target
    box = (np.linalg.inv(affine).dot(grid.matrix) @ corners.T)[:3]
    low, high = box.min(axis=1), box.max(axis=1)
    if len(given) == 3:
        affine[:3, 3] = given.dot(low)
        low, high = np.zeros(3), high - low
    shape: Sequence[int] = target_shape if target_shape is not None else np.ceil(high) + 1
    if (high < 0).any() or (low > np.asarray(shape) - 1).any():
        raise ValueError(
            f"the target grid (shape {tuple(map(int, shape))}) holds nothing of the image: check "
            "both affines"
        )
    return VoxelGrid(tuple(map(int, shape)), affine)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- one volume


def _voxel_map(source: VoxelGrid, target: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and offset from target voxels to source voxels; a diagonal matrix as a vector.

    Where all voxels of the target lie on voxels of the source, but for rounding, as after cropping
    or flipping an oblique image, the map is one of whole numbers.
    """
    if source.affine == target.affine:
        combined = np.eye(4)
    else:
        combined = np.linalg.inv(source.matrix).dot(target.matrix)
        whole = np.rint(combined)
        farthest = np.abs(combined - whole)[:3] @ [*target.shape, 1]
        if (farthest < ROUNDING).all():
            combined = whole
    matrix, offset = combined[:3, :3], combined[:3, 3]
    diagonal = np.diag(matrix)
    if np.array_equal(np.diag(diagonal), matrix):
        return diagonal.copy(), offset.copy()
    return matrix.copy(), offset.copy()


def _result_type(dtype: np.dtype, interpolation: str) -> np.dtype:
    """Nearest voxels keep the type; what lies between voxels needs a floating one."""
    return np.dtype(dtype) if interpolation == "nearest" else floating_type(dtype)


def _interpolate(
    volume: np.ndarray, matrix: np.ndarray, offset: np.ndarray, order: int, out: np.ndarray
) -> None:
    """Spline interpolation with 0 outside, and NaN where the nearest voxel is missing."""
    volume, missing = _without_missing(volume)
    _transform(volume, matrix, offset, out, order)
    if missing is not None:
        _mark_missing(out, missing, matrix, offset)


def _transform(
    volume: np.ndarray, matrix: np.ndarray, offset: np.ndarray, out: np.ndarray, order: int
) -> None:
    """`scipy.ndimage.affine_transform`, for which what rounding puts outside is on the border."""
    from scipy.ndimage import affine_transform, map_coordinates

    affine_transform(volume, matrix, offset, out.shape, out, order=order)
    at, places = _on_the_border(matrix, offset, volume.shape, out.shape)
    if len(places[0]):
        out[at] = map_coordinates(volume, places, out.dtype, order=order)


Border: TypeAlias = tuple[tuple[np.ndarray, ...], np.ndarray]
"""Indices of target voxels, and the places in the source that they lie on (dims, voxels)."""


def _on_the_border(
    matrix: np.ndarray, offset: np.ndarray, before: tuple[int, ...], after: tuple[int, ...]
) -> Border:
    """Target voxels that lie on the border of the source, and outside by no more than rounding."""
    return _found_on_the_border(
        tuple(matrix.ravel().tolist()), tuple(offset.tolist()), before, after
    )


@lru_cache(maxsize=16)
def _found_on_the_border(
    entries: tuple[float, ...],
    offset: tuple[float, ...],
    before: tuple[int, ...],
    after: tuple[int, ...],
) -> Border:
    n = len(before)
    matrix = np.diag(entries) if len(entries) == n else np.reshape(entries, (n, n))
    last = np.array(before, dtype=np.float64)[:, np.newaxis] - 1
    others = np.indices(after[1:]).reshape(n - 1, math.prod(after[1:]))
    found = []
    for first in range(after[0]):  # (plane by plane: places are three numbers a voxel)
        places = matrix[:, :1] * first + matrix[:, 1:] @ others + np.reshape(offset, (n, 1))
        over = np.maximum(-places, places - last).max(axis=0)
        near = np.flatnonzero((over > 0) & (over < ROUNDING))
        found.append((np.full(len(near), first), others[:, near], places[:, near]))
    firsts = np.concatenate([one[0] for one in found])
    rest = np.concatenate([one[1] for one in found], axis=1)
    places = np.concatenate([one[2] for one in found], axis=1)
    return (firsts, *rest), np.clip(places, 0, last)


def _without_missing(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """A volume whose missing values are filled, and where they are; None where there are none.

    NaN and infinite values would spread over the whole volume with a spline. They are replaced, two
    voxels deep, by the mean of their neighbours, further away by 0.
    """
    if volume.dtype.kind != "f" or all(np.isfinite(plane).all() for plane in volume):
        return volume, None
    known = np.isfinite(volume)
    return _filled(volume, known), ~known


def _filled(volume: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Missing voxels as the mean of their known neighbours (of six), in two rounds; then 0."""
    filled = np.where(known, volume, 0).astype(np.float64)
    for _ in range(2):
        total = np.zeros(volume.shape)
        count = np.zeros(volume.shape, np.uint8)
        for axis in range(3):
            lower = (slice(None),) * axis + (slice(None, -1),)
            upper = (slice(None),) * axis + (slice(1, None),)
            for here, there in ((lower, upper), (upper, lower)):
                total[here] += filled[there]
                count[here] += known[there]
        shell = ~known & (count > 0)
        filled[shell] = total[shell] / count[shell]
        known = known | shell
    return filled


def _mark_missing(
    out: np.ndarray, missing: np.ndarray, matrix: np.ndarray, offset: np.ndarray
) -> None:
    """NaN where the nearest voxel is missing, plane by plane."""
    from scipy.ndimage import affine_transform, map_coordinates

    along_first = np.diag(matrix)[:, 0] if matrix.ndim == 1 else matrix[:, 0]
    for i, plane in enumerate(out):
        shifted = offset + along_first * i
        absent = affine_transform(missing, matrix, shifted, (1, *plane.shape), order=0)
        plane[absent[0]] = np.nan
    at, places = _on_the_border(matrix, offset, missing.shape, out.shape)
    if len(places[0]):
        absent = map_coordinates(missing, places, order=0)
        out[tuple(index[absent] for index in at)] = np.nan


def _value_range(data: np.ndarray) -> tuple[float, float]:
    """Lowest and highest of the finite values and of 0, which is what lies outside an image."""
    low = high = 0.0
    for part in data:  # (in parts, so that no copy of the whole is made)
        finite = part if np.isfinite(part).all() else part[np.isfinite(part)]
        low = min(low, float(finite.min(initial=0)))
        high = max(high, float(finite.max(initial=0)))
    return low, high


# ---------------------------------------------------------------------- images in memory


def resample_image(
    image: Any,
    target: Any,
    *,
    interpolation: Interpolation = "continuous",
    clip: bool = True,
) -> SpatialImage:
    """Resample an image in memory (a mask, labels, maps) to another voxel grid.

    Parameters
    ----------
    image : path, nibabel image, dataset or SpatialImage
        3D or 4D.
    target : VoxelGrid, image, dataset, path, or tuple
        The new grid, what lies on it, or a target affine with or without a shape, ``(affine,)`` or
        ``(affine, shape)`` (see `target_grid`).
    interpolation : {"continuous", "linear", "nearest"}, default "continuous"
        Cubic splines, trilinear, or the nearest voxel. Labels and masks need ``"nearest"``.
    clip : bool, default True
        Keep continuous values within the range of the image's values and 0: splines overshoot.

    Returns
    -------
    SpatialImage
        Voxels outside the image are 0. ``"nearest"`` keeps the type; otherwise integers become
        floats (nilearn truncates integers for ``"linear"``). The image itself where it lies on that
        grid already.

    Raises
    ------
    ValueError
        If the target holds nothing of the image.

    Notes
    -----
    The same as `nilearn.image.resample_img`, bit for bit, but for voxels that rounding puts outside
    of the image, within 1e-4 voxel of its border: they lie on it (0 in nilearn). Missing values
    (NaN, infinite) are put back as NaN where the nearest voxel is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.images.images import SpatialImage, VoxelGrid
    >>> from penstock.fmri.images.resampling import resample_image
    >>> labels = SpatialImage(np.arange(8).reshape(2, 2, 2), np.eye(4))
    >>> finer = VoxelGrid((4, 2, 2), np.diag([1 / 3, 1.0, 1.0, 1.0]))
    >>> resample_image(labels, finer, interpolation="nearest").data[:, 0, 0].tolist()
    [0, 0, 4, 4]
    """
    order = _order(interpolation)
    found = load_image(image, ndim=(3, 4))
    grid = target_grid(found, *target) if isinstance(target, tuple) else voxel_grid(target)
    if same_grid(found, grid):
        return found
    target_grid(found, grid.matrix, grid.shape)  # (refuses a grid that holds nothing of the image)
    data = found.data
    matrix, offset = _voxel_map(found.grid, grid)
    resampled = np.zeros(
        (*grid.shape, *data.shape[3:]), _result_type(data.dtype, interpolation), "F"
    )
    volumes = data.astype(np.uint8) if data.dtype == bool else data
    for index in np.ndindex(data.shape[3:]):
        at = (Ellipsis, *index)
        _interpolate(volumes[at], matrix, offset, order, resampled[at])
    if clip and order == 3:
        np.clip(resampled, *_value_range(data), out=resampled)
    return SpatialImage(resampled, grid.matrix)


def _order(interpolation: str) -> int:
    if interpolation not in ORDERS:
        raise ValueError(f"interpolation must be one of {', '.join(ORDERS)}, got {interpolation!r}")
    return ORDERS[interpolation]


# ---------------------------------------------------------------------- volumes


@dataclass(frozen=True, repr=False)
class ResampleVolumes(Processor):
    """Resample every volume to another voxel grid.

    Give either `target_img` or `target_affine`.

    Parameters
    ----------
    target_img : str, optional
        Path of an image on the new grid. Images, datasets and grids in memory are accepted: their
        affine and shape are taken.
    target_affine : array_like, optional
        (4, 4): the new affine. (3, 3): its axes only [mm]; the grid then begins at the corner of
        the volumes' bounding box.
    target_shape : tuple of three int, optional
        Voxels along x, y and z; needs a (4, 4) affine. Default: as far as the volumes reach.
    interpolation : {"continuous", "linear", "nearest"}, default "continuous"
        Cubic splines, trilinear, or the nearest voxel.

    Raises
    ------
    ValueError
        If the target is not given once, or holds nothing of the volumes.

    Notes
    -----
    The same as `nilearn.image.resample_img` on each volume, to 1e-6 of its largest value in
    float32, but for one thing: cubic splines overshoot at edges. No value changes its sign by that
    (of a volume without negative values none becomes negative); nilearn also cuts what exceeds the
    largest value of the whole recording, which would have to be read first. Voxels outside are 0;
    those within 1e-4 voxel of the border lie on it, while nilearn loses the outermost plane of an
    oblique image that was cropped on its own voxels. Missing values (NaN, infinite) are NaN where
    the nearest voxel is missing; near them, the mean of their neighbours stands in.

    Where the axes of both grids are parallel, a spline is one matrix an axis (see
    `penstock.fmri.images.separable`); otherwise `scipy.ndimage.affine_transform` is used.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.fmri.images.resampling import ResampleVolumes
    >>> affine = (("affine_row", "affine_column"), np.diag([3.0, 3.0, 3.0, 1.0]))
    >>> volumes = np.ones((20, 20, 20, 5), "float32")
    >>> ds = ps.make_dataset(volumes, ("x", "y", "z", "time"), coords={"affine": affine})
    >>> coarse = ps.Pipeline([ResampleVolumes(target_affine=np.diag([6.0, 6.0, 6.0]))])(ds)
    >>> dict(coarse.sizes)["x"], coarse.affine.values[0, 0].item()
    (11, 6.0)
    """

    core_dims = SPACE
    # the spline's coefficients in float64; a volume with missing values has three arrays like it
    row_scratch: ClassVar[float] = 8.0
    scratch_bytes: ClassVar[int] = 2 * SLAB_BYTES
    modules: ClassVar[tuple[str, ...]] = ("scipy.ndimage",)
    takes_integers: ClassVar[bool] = True

    target_img: str | None = None
    target_affine: tuple[tuple[float, ...], ...] | None = None
    target_shape: tuple[int, int, int] | None = None
    interpolation: Interpolation = "continuous"

    def __post_init__(self) -> None:
        if isinstance(self.target_img, os.PathLike):
            object.__setattr__(self, "target_img", os.fspath(self.target_img))
        elif self.target_img is not None and not isinstance(self.target_img, str):
            self._refuse_two_targets()
            grid = voxel_grid(self.target_img)
            object.__setattr__(self, "target_img", None)
            object.__setattr__(self, "target_affine", grid.affine)
            object.__setattr__(self, "target_shape", grid.shape)
        if isinstance(self.target_affine, np.ndarray):
            object.__setattr__(self, "target_affine", self.target_affine.tolist())
        super().__post_init__()

    def _refuse_two_targets(self) -> None:
        if self.target_img is not None and (self.target_affine or self.target_shape):
            raise ValueError("give target_img, or target_affine with target_shape, not both")

    def validate(self) -> None:
        self._refuse_two_targets()
        if self.target_img is None and self.target_affine is None:
            raise ValueError("say where to resample to: target_img or target_affine")

    def canonical(self) -> dict[str, Any]:
        canonical = super().canonical()
        if self.target_img is not None:  # (what counts is the grid, not the path)
            grid = voxel_grid(self.target_img)
            canonical["target_grid"] = {"shape": list(grid.shape), "affine": grid.matrix.tolist()}
        return canonical

    def grid(self, ds: xr.Dataset) -> VoxelGrid:
        """The grid to which the volumes of a dataset are resampled."""
        if self.target_img is not None:
            found = voxel_grid(self.target_img)
            return target_grid(ds, found.matrix, found.shape)
        return target_grid(ds, self.target_affine, self.target_shape)

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        target = self.grid(ds)
        if same_grid(ds, target):
            return ds
        signal = ds[SIGNAL]
        dims = tuple(map(str, signal.dims))
        new_sizes = dict(zip(SPACE, target.shape, strict=True))
        shape = tuple(new_sizes.get(dim, ds.sizes[dim]) for dim in dims)
        dtype = _result_type(signal.dtype, self.interpolation)
        after = ds.drop_dims(SPACE)
        after = after.assign({SIGNAL: blank_variable(dims, shape, dtype, signal.attrs)})
        return with_affine(after, target.matrix)

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        source, target = voxel_grid(ctx.dataset), self.grid(ctx.dataset)
        if same_grid(source, target):
            return block
        dtype = _result_type(block.dtype, self.interpolation)
        result = new_array((*block.shape[:-3], *target.shape[::-1]), dtype)
        for index, volume in each_volume(block):
            self._resample(volume, source, target, result[index])
        return result.swapaxes(-1, -3)

    def _resample(
        self, volume: np.ndarray, source: VoxelGrid, target: VoxelGrid, out: np.ndarray
    ) -> None:
        """Resample one volume (z, y, x), the order of files, into `out`."""
        order = ORDERS[self.interpolation]
        matrix, offset = _voxel_map(source, target)
        operator = _operator(source, target, order, out.dtype.name) if order else None
        if operator is None:
            # (x first, so that sums are rounded as the field's are: it decides what lies outside)
            _interpolate(volume.T, matrix, offset, order, out.T)
        else:
            filled, missing = _without_missing(volume)
            operator.apply(finite_volume(filled, out.dtype), out)
            if missing is not None:
                _mark_missing(out.T, missing.T, matrix, offset)
        if order == 3:
            low, high = _value_range(volume)
            np.clip(out, -np.inf if low < 0 else 0, np.inf if high > 0 else 0, out=out)


@lru_cache(maxsize=16)
def _operator(
    source: VoxelGrid, target: VoxelGrid, order: int, dtype: str
) -> SeparableOperator | None:
    """The interpolation as one matrix an axis, where the grids' axes are parallel."""
    matrix, offset = _voxel_map(source, target)
    if matrix.ndim == 2:
        return None
    along = []
    for before, after, step, start in zip(source.shape, target.shape, matrix, offset, strict=True):
        # each column is what an impulse becomes: the interpolation itself is scipy's
        weights = np.empty((after, before))
        for impulse, column in zip(np.eye(before), weights.T, strict=True):
            _transform(impulse, np.array([step]), np.array([start]), column, order)
        along.append(weights)
    return SeparableOperator((along[0], along[1], along[2]), np.dtype(dtype))
