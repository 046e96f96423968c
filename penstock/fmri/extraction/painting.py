"""From signals back to volumes, some volumes at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import Indexer, lazy_variable, make_dataset
from penstock.fmri.images.images import AFFINE, AFFINE_DIMS, SPACE, VoxelGrid
from penstock.reading import Reading


def paint(extractor: Any, signals: np.ndarray, grid: VoxelGrid, t_r: float | None) -> xr.Dataset:
    """Volumes that hold the signals of a masker where its regions are, zero outside; lazy.

    Parameters
    ----------
    extractor : processor
        One that extracts, with ``paint(signals, grid)``.
    signals : numpy.ndarray
        (volumes, regions), or (regions,) for a single volume.
    grid : VoxelGrid
        Of the volumes.
    t_r : float, optional
        Time between volumes [s].

    Returns
    -------
    xarray.Dataset
        ``signal`` (x, y, z, time), or (x, y, z); made when it is read.

    Raises
    ------
    ValueError
        If there are more or fewer signals than regions.
    """
    single = signals.ndim == 1
    rows = np.atleast_2d(signals)
    if rows.ndim != 2:
        raise ValueError(f"signals have two dims, volumes and regions, got {signals.shape}")
    if rows.dtype.kind not in "fc":
        rows = rows.astype(np.float64)
    n_regions = len(extractor.resolve(grid))
    if rows.shape[1] != n_regions:
        raise ValueError(
            f"signals of the shape {signals.shape} cannot be put back: they need {n_regions} "
            "columns, one for each region"
        )
    painted = extractor.paint(rows[:1], grid)
    dims: tuple[str, ...] = SPACE if single else (*SPACE, "time")
    shape = grid.shape if single else (*grid.shape, len(rows))
    variable = lazy_variable(
        dims,
        _Painted(extractor, rows, grid),
        shape,
        painted.dtype,
        reading=Reading(scratch=1.0, interleaved=True),
    )
    return make_dataset(
        variable,
        dims,
        sampling_frequency=1 / t_r if t_r and not single else None,
        coords={AFFINE: (AFFINE_DIMS, grid.matrix)},
    )


@dataclass(frozen=True, eq=False)
class _Painted:
    """Reads regions of the volumes that signals make."""

    extractor: Any
    signals: np.ndarray
    grid: VoxelGrid

    def __call__(self, *indexers: Indexer) -> np.ndarray:
        rows = self.signals[indexers[3]] if len(indexers) == 4 else self.signals
        volumes = self.extractor.paint(rows, self.grid).transpose(3, 2, 1, 0)
        if len(indexers) == 3:
            volumes = volumes[..., 0]
        for axis, indexer in enumerate(indexers[:3]):
            volumes = volumes[(slice(None),) * axis + (indexer,)]
        return volumes
