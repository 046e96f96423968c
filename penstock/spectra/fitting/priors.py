"""Where fits start when a grid of positions has been looked at first.

Some positions, evenly spread over the grid, are fitted before the blocks. They are the same however
the dataset is cut, and so are the results.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, Region, read_region

Grid = dict[str, np.ndarray]
"""Positions along every loop dim."""

Refit = Callable[[np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray]]
"""Spectra (P, L) and first parameters (P, n), or None for the usual guess, to fitted parameters
(P, n), NaN where the fit is of no use, and misfits (P,)."""

_MOST_BYTES = 32 << 20
"""Spectra that are held at once."""
_SWEEPS = 8


@dataclass(frozen=True)
class NeighbourPrior:
    """Parameters fitted on a coarse grid."""

    grid: Grid
    parameters: np.ndarray
    """One axis for every dim of the grid, and one for the parameters."""

    def start(self, positions: Mapping[str, np.ndarray], spectra: np.ndarray) -> np.ndarray:
        """Parameters (P, n) of the grid's nearest positions; of two as near, of the first."""
        nearest = tuple(
            np.abs(positions[dim][:, np.newaxis] - along).argmin(axis=1)
            for dim, along in self.grid.items()
        )
        found: np.ndarray = self.parameters[nearest]
        return found


@dataclass(frozen=True)
class ClusterPrior:
    """Parameters fitted to the centres of clusters of spectra."""

    centers: np.ndarray
    """Spectra (clusters, L), real and imaginary parts side by side."""
    parameters: np.ndarray
    """One row a cluster."""

    def start(self, positions: Mapping[str, np.ndarray], spectra: np.ndarray) -> np.ndarray:
        """Parameters (P, n) of the nearest centres, in the sense of least squares."""
        products = np.vecdot(_features(spectra)[:, np.newaxis], self.centers)
        distances = np.vecdot(self.centers, self.centers) - 2 * products
        found: np.ndarray = self.parameters[distances.argmin(axis=1)]
        return found


def sampled_spectra(
    ds: xr.Dataset, core_dims: tuple[str, ...], most: int
) -> tuple[Grid, np.ndarray]:
    """Spectra of positions spread evenly over all loop dims.

    Parameters
    ----------
    ds : xarray.Dataset
        Lazy or in memory.
    core_dims : tuple of str
        Dims of a spectrum.
    most : int
        How many positions at most; fewer where they would take more than 32 MiB.

    Returns
    -------
    grid : dict of str to numpy.ndarray
        Positions taken along every loop dim.
    spectra : numpy.ndarray
        (P, L), in the order of the grid's product.
    """
    signal = ds[SIGNAL]
    whole: Region = {dim: slice(0, ds.sizes[dim]) for dim in core_dims}
    length = math.prod(ds.sizes[dim] for dim in core_dims)
    most = max(1, min(most, _MOST_BYTES // max(1, length * signal.dtype.itemsize)))
    sizes = {str(dim): ds.sizes[dim] for dim in signal.dims if dim not in core_dims}
    stride = 1
    while math.prod(-(-size // stride) for size in sizes.values()) > most:
        stride += 1
    grid = {
        dim: np.arange(min((stride - 1) // 2, max(0, size - 1)), size, stride)
        for dim, size in sizes.items()
    }
    if not grid:
        order = [signal.dims.index(dim) for dim in core_dims]
        return grid, read_region(ds, whole).transpose(order).reshape(1, -1)
    *outer, inner = grid
    rows = []
    for at in itertools.product(*(grid[dim] for dim in outer)):
        region = {dim: slice(int(i), int(i) + 1) for dim, i in zip(outer, at, strict=True)}
        block = read_region(ds, {**region, inner: grid[inner], **whole})
        order = [signal.dims.index(dim) for dim in (*outer, inner, *core_dims)]
        rows.append(block.transpose(order).reshape(-1, length))
    return grid, np.concatenate(rows)


def neighbour_prior(grid: Grid, spectra: np.ndarray, refit: Refit) -> NeighbourPrior:
    """Fit a coarse grid, letting good solutions spread to neighbours that found worse ones."""
    shape = tuple(map(len, grid.values()))
    parameters, misfits = refit(spectra, None)
    parameters = parameters.reshape(*shape, -1)
    misfits = misfits.reshape(shape)
    for _ in range(_SWEEPS):
        before = misfits
        for axis, step in itertools.product(range(len(shape)), (1, -1)):
            if shape[axis] > 1:
                moved = np.roll(parameters, step, axis=axis)
                parameters, misfits = _better(spectra, parameters, misfits, moved, refit)
        if not (misfits < before * (1 - 1e-3)).any():
            break
    return NeighbourPrior(grid, _without_gaps(parameters))


def _better(
    spectra: np.ndarray,
    parameters: np.ndarray,
    misfits: np.ndarray,
    start: np.ndarray,
    refit: Refit,
) -> tuple[np.ndarray, np.ndarray]:
    """Fits from other first parameters where these leave a smaller misfit."""
    found, left = refit(spectra, start.reshape(len(spectra), -1))
    better = ~(left.reshape(misfits.shape) >= misfits) & np.isfinite(left).reshape(misfits.shape)
    return (
        np.where(better[..., np.newaxis], found.reshape(parameters.shape), parameters),
        np.where(better, left.reshape(misfits.shape), misfits),
    )


def _without_gaps(parameters: np.ndarray) -> np.ndarray:
    """The nearest usable parameters where the fit of a position is of no use."""
    from scipy.ndimage import distance_transform_edt

    missing = np.isnan(parameters).any(axis=-1)
    if not missing.any() or missing.all() or not missing.ndim:
        return parameters
    nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
    filled: np.ndarray = parameters[tuple(nearest)]
    return filled


def cluster_prior(spectra: np.ndarray, n_clusters: int, refit: Refit) -> ClusterPrior:
    """Cluster spectra by k-means and fit the centres, each also from the solutions of the others.

    Raises
    ------
    ImportError
        Without scikit-learn.
    """
    try:
        from sklearn.cluster import KMeans  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            'prior="kmeans" needs scikit-learn: pip install "penstock[ml]"'
        ) from error
    from threadpoolctl import threadpool_limits

    features = _features(spectra)
    features = features[np.isfinite(features).all(axis=1)]
    if not len(features):
        raise ValueError(
            'prior="kmeans" found no spectrum to learn from: all that were sampled have values '
            "that are not finite"
        )
    n_clusters = min(n_clusters, len(np.unique(features, axis=0)))
    # (one thread: sums over several come in another order every time)
    with threadpool_limits(limits=1):
        centers = KMeans(n_clusters, n_init=1, random_state=0).fit(features).cluster_centers_
    centers = np.ascontiguousarray(centers, dtype=np.float64)
    as_spectra = centers.view(np.complex128) if np.iscomplexobj(spectra) else centers
    parameters, misfits = refit(as_spectra, None)
    for step in range(1, n_clusters):
        moved = np.roll(parameters, step, axis=0)
        parameters, misfits = _better(as_spectra, parameters, misfits, moved, refit)
    return ClusterPrior(centers, parameters)


def _features(spectra: np.ndarray) -> np.ndarray:
    if np.iscomplexobj(spectra):
        return np.ascontiguousarray(spectra, dtype=np.complex128).view(np.float64)
    return np.ascontiguousarray(spectra, dtype=np.float64)
