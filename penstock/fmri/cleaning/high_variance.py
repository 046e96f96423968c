"""Confounds from the voxels that vary most, in two passes over the volumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.dataset import SIGNAL
from penstock.fmri.images.volumes import BLOCK_BYTES, as_volumes, blocks_in_file_order
from penstock.memory.accounting import parse_bytes, single_threaded_kernels

if TYPE_CHECKING:
    import xarray as xr

GATHERED_BYTES = 256 << 20
"""Series of the chosen voxels that are gathered in one pass, by default."""
STRETCH = 4096
"""Voxels whose sums are taken together: a few volumes of them stay in the cache."""


def high_variance_confounds(
    source: Any,
    n_confounds: int = 5,
    percentile: float = 2.0,
    detrend: bool = True,
    mask_img: Any = None,
    memory: int | float | str | None = None,
) -> np.ndarray:
    """Time courses that explain most of the voxels with the highest variance (CompCor).

    Parameters
    ----------
    source : xarray.Dataset, path, nibabel image or array_like
        Volumes (x, y, z, time) in any of these forms; or series as columns, (n_times, n_voxels).
    n_confounds : int, default 5
        How many time courses.
    percentile : float, default 2.0
        Which share of the voxels counts as those that vary most [%].
    detrend : bool, default True
        Take out mean and linear trend of every voxel first. Otherwise the variance is the mean
        square.
    mask_img : path, image or dataset, optional
        Only voxels inside count.
    memory : int or str, optional
        Most that the series of the chosen voxels take at a time, e.g. ``"100 MiB"``. Default: 256
        MiB.

    Returns
    -------
    numpy.ndarray, (n_times, n_confounds)
        Orthonormal time courses, float64, that which explains most first; the largest value of each
        is positive.

    Raises
    ------
    ValueError
        If there are too few voxels or time points.

    Notes
    -----
    The definition is that of `nilearn.image.high_variance_confounds`, the method that of [1]_.
    Voxels with values that are not finite are left out.

    Volumes are read in the order of the file: once for the variances (seven values of 8 bytes a
    voxel), and once more to gather the chosen voxels, in as many passes as `memory` asks for. The
    rest are three matrices of (n_times, n_times).

    References
    ----------
    .. [1] Y. Behzadi, K. Restom, J. Liau, T. T. Liu, "A component based noise correction method
       (CompCor) for BOLD and perfusion based fMRI", NeuroImage 37 (2007) 90-101,
       :doi:`10.1016/j.neuroimage.2007.04.042`.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.cleaning.high_variance import high_variance_confounds
    >>> rng = np.random.default_rng(0)
    >>> heart = np.sin(np.arange(50))
    >>> series = rng.standard_normal((50, 200))
    >>> series[:, :4] += 10 * heart[:, np.newaxis]
    >>> found = high_variance_confounds(series, n_confounds=1)
    >>> bool(abs(np.corrcoef(found[:, 0], heart)[0, 1]) > 0.99)
    True
    """
    if hasattr(source, "dtype") and not hasattr(source, "dims"):
        if source.ndim != 2:
            raise ValueError(
                f"series must be (time points, voxels), got the shape {tuple(source.shape)}: give "
                "volumes as a path, a nibabel image or a dataset"
            )
        if mask_img is not None:
            raise ValueError("mask_img goes with images; of an array, give the columns that count")
        blocks = _blocks_of_array(source)
    else:
        blocks = _blocks_of_volumes(_volumes(source), mask_img)
    return high_variance_of_blocks(blocks, n_confounds, percentile, detrend, memory)


def high_variance_of_blocks(
    blocks: Callable[[], Iterable[np.ndarray]],
    n_confounds: int = 5,
    percentile: float = 2.0,
    detrend: bool = True,
    memory: int | float | str | None = None,
) -> np.ndarray:
    """As `high_variance_confounds`, for anything that gives blocks of volumes in order.

    Parameters
    ----------
    blocks : callable
        ``blocks()`` begins a pass: stretches of volumes that follow one another, (volumes, voxels).
    n_confounds, percentile, detrend, memory
        As for `high_variance_confounds`.

    Returns
    -------
    numpy.ndarray, (n_times, n_confounds)
    """
    from scipy.linalg import eigh

    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile={percentile} must lie between 0 and 100")
    variance, n_times = _variances(blocks(), detrend)
    if not 1 <= n_confounds <= n_times:
        raise ValueError(f"n_confounds={n_confounds} must lie between 1 and {n_times} time points")
    if np.isnan(variance).all():
        raise ValueError("no voxel has finite values only: there is nothing to take confounds from")
    chosen = np.flatnonzero(variance > np.nanpercentile(variance, 100 - percentile))
    if len(chosen) < n_confounds:
        raise ValueError(
            f"{len(chosen)} of {len(variance)} voxels vary most (percentile={percentile:g}), too "
            f"few for {n_confounds} confounds: raise percentile, lower n_confounds, or widen the "
            "mask"
        )
    limit = GATHERED_BYTES if memory is None else parse_bytes(memory)
    n_at_once = max(1, limit // (8 * n_times))
    gram = np.zeros((n_times, n_times))
    for start in range(0, len(chosen), n_at_once):
        series = _gathered(blocks(), chosen[start : start + n_at_once], n_times)
        if detrend:
            series -= series.mean(axis=0)
            ramp = _ramp(n_times)
            series -= ramp[:, np.newaxis] * (ramp @ series)
        gram += series @ series.T
    _, courses = eigh(gram / n_times, subset_by_index=(n_times - n_confounds, n_times - 1))
    courses = courses[:, ::-1]
    largest = np.take_along_axis(courses, np.abs(courses).argmax(axis=0)[np.newaxis], axis=0)
    return np.ascontiguousarray(courses * np.sign(largest))


# ---------------------------------------------------------------------- passes


def _variances(blocks: Iterable[np.ndarray], detrend: bool) -> tuple[np.ndarray, int]:
    """Mean square of every voxel, after detrending or as it is; and the number of volumes."""
    n_times = 0
    origin = total = squares = slope = np.zeros(0)
    with np.errstate(invalid="ignore", over="ignore"), single_threaded_kernels():
        for block in blocks:
            if not n_times:
                # sums about the first volume: the large mean of images would cost digits
                origin = np.array(block[0], np.float64) if detrend else np.zeros(block.shape[1])
                total, squares, slope = (np.zeros(block.shape[1]) for _ in range(3))
            times = np.arange(n_times, n_times + len(block), dtype=np.float64)
            for start in range(0, block.shape[1], STRETCH):
                part = slice(start, start + STRETCH)
                values = np.subtract(block[:, part], origin[part], dtype=np.float64)
                total[part] += values.sum(axis=0)
                slope[part] += times @ values
                squares[part] += np.einsum("tv,tv->v", values, values)
            n_times += len(block)
        if not n_times:
            raise ValueError("there are no volumes")
        if detrend and n_times > 1:
            centre = (n_times - 1) / 2
            length = np.linalg.norm(np.arange(n_times) - centre)
            squares -= total**2 / n_times + ((slope - centre * total) / length) ** 2
    return squares / n_times, n_times


def _gathered(blocks: Iterable[np.ndarray], voxels: np.ndarray, n_times: int) -> np.ndarray:
    """Series of some voxels, (n_times, voxels)."""
    series = np.empty((n_times, len(voxels)))
    at = 0
    for block in blocks:
        series[at : at + len(block)] = block[:, voxels]
        at += len(block)
    return series


def _ramp(n_times: int) -> np.ndarray:
    ramp = np.arange(n_times) - (n_times - 1) / 2
    return np.asarray(ramp / max(float(np.linalg.norm(ramp)), 1e-300))


# ---------------------------------------------------------------------- sources


def _volumes(source: Any) -> xr.Dataset:
    """A dataset with a dim time."""
    import xarray as xr

    if isinstance(source, xr.DataArray):
        source = source.to_dataset(name=SIGNAL)
    if not isinstance(source, xr.Dataset) or {"x", "y", "z"} <= set(source.dims):
        source = as_volumes(source, dtype="float64")
    if SIGNAL not in source.data_vars or "time" not in source[SIGNAL].dims:
        name = getattr(source, "attrs", {}).get("source", "the dataset")
        raise ValueError(
            f"{os.fspath(name)} has no dim 'time': confounds are found in a series of volumes"
        )
    return source


def _blocks_of_volumes(ds: xr.Dataset, mask_img: Any) -> Callable[[], Iterator[np.ndarray]]:
    """Blocks of a dataset, its voxels in the order of image files (x fastest)."""
    inside = None if mask_img is None else _inside(ds, mask_img)

    def blocks() -> Iterator[np.ndarray]:
        for block in blocks_in_file_order(ds, BLOCK_BYTES):
            voxels = block.reshape(len(block), -1)
            yield voxels if inside is None else voxels[:, inside]

    return blocks


def _inside(ds: xr.Dataset, mask_img: Any) -> np.ndarray:
    """Numbers of the voxels inside a mask."""
    from penstock.fmri.images.images import load_image, same_grid
    from penstock.fmri.images.masks import check_mask

    mask = load_image(mask_img, name="mask_img", ndim=(3, 4))
    if not same_grid(mask, ds):
        raise ValueError(
            "mask_img does not lie on the grid of the volumes: resample it to them first "
            "(penstock.fmri.resample_image)"
        )
    return np.flatnonzero(check_mask(mask).T)


def _blocks_of_array(series: Any) -> Callable[[], Iterator[np.ndarray]]:
    n_times, n_voxels = series.shape
    length = max(1, BLOCK_BYTES // max(1, n_voxels * series.dtype.itemsize))

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, n_times, length):
            yield np.asarray(series[start : start + length])

    return blocks
