"""Gaussian smoothing of volumes, one at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from penstock.dataset import SIGNAL, blank_variable
from penstock.fmri.extraction.reducers import NanPolicy
from penstock.fmri.images.images import SPACE, floating_type, image_affine, voxel_sizes
from penstock.fmri.images.separable import SLAB_BYTES, SeparableOperator
from penstock.memory.buffers import new_array, scratch_buffer
from penstock.processor import Context, Processor

if TYPE_CHECKING:
    import xarray as xr

FWHM_PER_SIGMA = float(np.sqrt(8 * np.log(2)))
"""Full width at half maximum of a Gaussian over its standard deviation."""


def smooth(
    volumes: np.ndarray,
    voxel_sizes: tuple[float, ...],
    fwhm: float | tuple[float, float, float],
    *,
    nan_policy: NanPolicy = "omit",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Smooth volumes with a Gaussian filter.

    Values that are not finite are missing, see `nan_policy`; what lies beyond an edge is the mirror
    of what lies inside it. The filter is cut off at four standard deviations.

    Parameters
    ----------
    volumes : numpy.ndarray
        Volumes (n, z, y, x); integers are smoothed as floats.
    voxel_sizes : tuple of three float
        Voxel sizes along x, y and z [mm].
    fwhm : float or tuple of three float
        Full width at half maximum, of all axes or along x, y and z [mm]; 0 leaves an axis alone.
    nan_policy : {"omit", "zero", "propagate"}, default "omit"
        ``"omit"``: missing voxels have no weight, those beside them are the weighted mean of what
        there is (normalised convolution [1]_), and they themselves are NaN. ``"zero"``: they count
        as 0, as in nilearn, which darkens what lies beside them. ``"propagate"``: NaN wherever the
        filter reaches one.
    out : numpy.ndarray, optional
        Where to write the result, C-contiguous.

    Returns
    -------
    numpy.ndarray
        Volumes (n, z, y, x), float32 (float64 for float64 and 64 bit integers).

    Notes
    -----
    Of finite volumes, defined as `nilearn.image.smooth_img`, `scipy.ndimage.gaussian_filter1d`
    along each axis, with which it agrees to 1e-6 of the largest value in float32, 1e-14 in float64.

    References
    ----------
    .. [1] H. Knutsson, C.-F. Westin, "Normalized and differential convolution", CVPR 1993,
       515-523, :doi:`10.1109/CVPR.1993.341081`.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.images.smoothing import smooth
    >>> point = np.zeros((1, 15, 15, 15))
    >>> point[0, 7, 7, 7] = 1.0
    >>> along_x = smooth(point, (3.0, 3.0, 3.0), fwhm=6.0)[0, 7, 7]
    >>> round(float(along_x[8] / along_x[7]), 3)  # half the height at half the width, 3 mm
    0.5
    """
    dtype = floating_type(volumes.dtype)
    if out is None:
        out = np.empty(volumes.shape, dtype)
    _, z, y, x = volumes.shape
    operator = _filter((x, y, z), _sigmas(voxel_sizes, fwhm), dtype.name)
    for volume, result in zip(volumes, out, strict=True):
        operator.apply(finite_volume(volume, dtype), result)
        if nan_policy != "zero" and volume.dtype.kind == "f":
            _without_the_missing(volume, operator, result, spread=nan_policy == "propagate")
    return out


def _without_the_missing(
    volume: np.ndarray, operator: SeparableOperator, result: np.ndarray, *, spread: bool
) -> None:
    """Take out of a smoothed volume that its missing voxels were counted as 0."""
    finite = scratch_buffer("finite voxels", volume.shape, np.bool_)
    np.isfinite(volume, out=finite)
    if finite.all():
        return
    known = scratch_buffer("known voxels", volume.shape, result.dtype)
    weights = scratch_buffer("weights of known voxels", volume.shape, result.dtype)
    np.copyto(known, ~finite if spread else finite)
    operator.apply(known, weights)
    if spread:
        result[weights > 0] = np.nan
        return
    np.divide(result, weights, out=result, where=finite)
    np.copyto(result, np.nan, where=~finite)


def finite_volume(volume: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The volume (z, y, x) C-contiguous, of that type, and with 0 for what is not finite.

    That is the volume itself where it can be, otherwise a scratch array of this thread.
    """
    finite = all(np.isfinite(plane).all() for plane in volume)
    if finite and volume.flags.c_contiguous and volume.dtype == dtype:
        return volume
    copy = scratch_buffer("finite volume", volume.shape, dtype)
    np.copyto(copy, volume, casting="same_kind")
    if not finite:
        for plane in copy:
            plane[~np.isfinite(plane)] = 0
    return copy


def each_volume(block: np.ndarray) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Index and volume (z, y, x), in the order of files, of a block (..., x, y, z)."""
    for index in np.ndindex(block.shape[:-3]):
        yield index, block[index].T


def _sigmas(voxel_sizes: Any, fwhm: Any) -> tuple[float, ...]:
    """Standard deviations along x, y and z [voxels]."""
    widths = np.broadcast_to(np.asarray(fwhm, dtype=np.float64), 3)
    return tuple(map(float, widths / (FWHM_PER_SIGMA * np.asarray(voxel_sizes))))


@lru_cache(maxsize=16)
def _filter(
    shape: tuple[int, int, int], sigmas: tuple[float, ...], dtype: str
) -> SeparableOperator:
    from scipy.ndimage import gaussian_filter1d

    along = [np.eye(n) for n in shape]
    for axis, sigma in enumerate(sigmas):
        if sigma >= 0.125:  # (below, the filter is cut off at its middle)
            along[axis] = gaussian_filter1d(along[axis], sigma, axis=0, mode="reflect", truncate=4)
    return SeparableOperator((along[0], along[1], along[2]), np.dtype(dtype))


LARGEST_WIDTH = 1000.0
"""Of a kernel [mm]: five times a head."""


@dataclass(frozen=True, repr=False)
class SmoothVolumes(Processor):
    """Smooth every volume with a Gaussian filter.

    Parameters
    ----------
    fwhm : float or tuple of three float, optional
        Full width at half maximum [mm], of all axes or along x, y and z; 0 leaves an axis alone.
        None: volumes stay as they are.
    nan_policy : {"omit", "zero", "propagate"}, default "omit"
        Values that are not finite: ``"omit"`` leaves them out of the weighted means of their
        neighbours, and they stay missing (NaN); ``"zero"`` takes them as 0, as nilearn does;
        ``"propagate"`` makes all that the filter reaches from them NaN.

    Raises
    ------
    ValueError
        If the volumes have no affine, or a width is negative.

    Notes
    -----
    Of finite volumes, the same as `nilearn.image.smooth_img` (see `smooth`); float32 stays float32.
    nilearn counts missing values as 0, which darkens the voxels beside them.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.fmri.images.smoothing import SmoothVolumes
    >>> affine = (("affine_row", "affine_column"), np.diag([3.0, 3.0, 3.0, 1.0]))
    >>> noise = np.random.default_rng(0).standard_normal((20, 20, 20, 5)).astype("float32")
    >>> ds = ps.make_dataset(noise, ("x", "y", "z", "time"), coords={"affine": affine})
    >>> smoothed = ps.Pipeline([SmoothVolumes(fwhm=6.0)])(ds)
    >>> bool(smoothed.signal.std() < 0.3)
    True
    """

    core_dims = SPACE
    takes_integers: ClassVar[bool] = True
    # a float32 copy of one volume, of integers of 8 bit at worst; where values are missing, which
    # ones, in two volumes of the same type and one of bool, beside that
    row_scratch: ClassVar[float] = 4.0
    scratch_bytes: ClassVar[int] = 2 * SLAB_BYTES
    modules: ClassVar[tuple[str, ...]] = ("scipy.ndimage",)

    fwhm: float | tuple[float, float, float] | None
    nan_policy: NanPolicy = "omit"

    def validate(self) -> None:
        if self.fwhm is None:
            return
        if not np.all(np.isfinite(self.fwhm)) or np.min(self.fwhm) < 0:
            raise ValueError(f"fwhm={self.fwhm!r} must not be negative: widths in mm")
        if np.max(self.fwhm) > LARGEST_WIDTH:
            raise ValueError(f"fwhm={self.fwhm!r} must be at most {LARGEST_WIDTH:g}: widths in mm")
        if not np.any(self.fwhm):
            warnings.warn(
                f"fwhm={self.fwhm!r}: volumes are not smoothed (fwhm=None says so)",
                UserWarning,
                stacklevel=4,
            )

    @property
    def smooths(self) -> bool:
        """Whether there is anything to do."""
        return self.fwhm is not None and bool(np.any(self.fwhm))

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        if not self.smooths:
            return ds
        image_affine(ds)
        signal = ds[SIGNAL]
        dims = tuple(map(str, signal.dims))
        dtype = floating_type(signal.dtype)
        return ds.assign({SIGNAL: blank_variable(dims, signal.shape, dtype, signal.attrs)})

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        if not self.smooths:
            return block
        assert self.fwhm is not None
        sizes = voxel_sizes(image_affine(ctx.dataset))
        x, y, z = block.shape[-3:]
        result = new_array((*block.shape[:-3], z, y, x), floating_type(block.dtype))
        policy = self.nan_policy
        for index, volume in each_volume(block):
            out = result[(*index, np.newaxis)]
            smooth(volume[np.newaxis], sizes, self.fwhm, nan_policy=policy, out=out)
        return result.swapaxes(-1, -3)
