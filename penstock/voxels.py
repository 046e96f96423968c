"""Where the voxels of a dataset lie: an affine over voxel positions that are coordinates.

The coordinates ``x``, ``y`` and ``z`` count the voxels of the grid that the affine belongs to.
xarray takes them along: whoever crops, flips, strides, joins or aligns an image moves its voxels'
positions with it, and with them their places in the world.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

SPACE = ("x", "y", "z")
"""The dims of a volume, in the order of the affine's columns."""

AFFINE = "affine"
"""Name of the coordinate that turns voxel positions into world coordinates [mm]."""

AFFINE_DIMS = ("affine_row", "affine_column")

UNITS = "voxels"
"""Units of ``x``, ``y`` and ``z`` where they count voxels."""

AXIS = "axis"
"""Attribute of a coordinate that counts voxels: along which axis of the affine's grid."""

_ANOTHER = "give the volumes another affine with penstock.voxels.with_affine(ds, matrix)"


def check_affine(affine: Any, name: str = "the affine") -> np.ndarray:
    """Return an affine as float64 (4, 4); raise ValueError where it cannot be one."""
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise ValueError(
            f"{name} must be a 4 x 4 matrix of finite numbers, got an array of shape {matrix.shape}"
        )
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} must be a 4 x 4 matrix of finite numbers: some are not finite")
    if np.linalg.det(matrix[:3, :3]) == 0:
        raise ValueError(
            f"{name} cannot be inverted (voxels of no size): give one whose first three columns "
            "point in different directions"
        )
    return matrix


def with_affine(ds: xr.Dataset, affine: Any) -> xr.Dataset:
    """The dataset with an affine that counts its voxels from 0 along every dim of space.

    Parameters
    ----------
    ds : xarray.Dataset
        Volumes over x, y and z, and others dims.
    affine : (4, 4) array_like
        Voxel positions, from 0, to world coordinates [mm].

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.voxels import image_affine, with_affine
    >>> ds = with_affine(ps.make_dataset(np.zeros((4, 5, 6)), ("x", "y", "z")), np.eye(4))
    >>> image_affine(ds.isel(x=slice(None, None, -1)))[0].tolist()
    [-1.0, 0.0, 0.0, 3.0]
    """
    stale = [dim for dim in SPACE if dim in ds.coords]
    return ds.drop_vars(stale).assign_coords(
        {AFFINE: (AFFINE_DIMS, np.array(affine, np.float64)), **voxel_positions(ds.sizes)}
    )


def voxel_positions(sizes: Mapping[Any, int]) -> dict[str, xr.Variable]:
    """Coordinates that count the voxels along the dims of space among `sizes`."""
    return {
        dim: xr.Variable(dim, np.arange(sizes[dim], dtype=np.float64), {"units": UNITS, AXIS: dim})
        for dim in SPACE
        if dim in sizes
    }


def image_affine(ds: xr.Dataset) -> np.ndarray:
    """The affine of a dataset's volumes as they are: from 0-based voxels to the world [mm].

    Parameters
    ----------
    ds : xarray.Dataset
        Volumes with the coordinate ``affine``. Where ``x``, ``y`` or ``z`` are coordinates in
        ``voxels``, they say which voxels of the affine's grid are there
        (``ds.isel(x=slice(6, None, 2))`` begins at voxel 6 and takes every second one).

    Returns
    -------
    numpy.ndarray
        float64 (4, 4).

    Raises
    ------
    ValueError
        If there is no affine, or several that differ, if the voxels that are left are not evenly
        spaced, or dims of space were renamed or lost their positions.
    """
    if AFFINE not in ds.variables:
        raise ValueError(
            "the volumes have no affine (no coordinate 'affine'): give them one with "
            "penstock.voxels.with_affine(ds, matrix), or open a file that holds one"
        )
    taken = np.eye(4)
    counting = [dim for dim in SPACE if dim in ds.coords and ds[dim].attrs.get("units") == UNITS]
    along = ds["signal"].dims if "signal" in ds.data_vars else ds.dims
    for axis, dim in enumerate(SPACE):
        if dim in counting:
            counted = ds[dim].attrs.get(AXIS, dim)  # (stores of before do not say it)
            if counted != dim:
                raise ValueError(
                    f"the dim {dim} of the volumes counts the voxels along {counted} of their "
                    "affine's grid (dims of space were renamed), so no affine says where they lie: "
                    f"name it {counted} again, or {_ANOTHER}"
                )
            taken[axis, 3], taken[axis, axis] = _start_and_step(ds[dim])
        elif counting and dim in ds.coords:
            raise ValueError(
                f"the coordinate {dim} of the volumes does not count their voxels any more (its "
                f"units are not {UNITS!r}), so no affine says where they lie: give yours another "
                "name, or the volumes another affine with penstock.voxels.with_affine(ds, matrix)"
            )
        elif counting and dim in along:
            raise ValueError(
                f"the positions of the voxels along {dim} were dropped, so no affine says where "
                f"they lie: keep the coordinate {dim}, or {_ANOTHER}"
            )
    return _only_affine(ds[AFFINE]) @ taken


def _only_affine(affine: xr.DataArray) -> np.ndarray:
    """The affine of all volumes: joined ones may each have their own, equal but for rounding."""
    matrices = affine.values
    if matrices.ndim > 2 and set(AFFINE_DIMS) < set(affine.dims) and matrices.size:
        matrices = affine.transpose(..., *AFFINE_DIMS).values.reshape(-1, 4, 4)
        if not np.allclose(matrices, matrices[0], rtol=1e-5, atol=1e-4):  # [mm]
            further = ", ".join(str(dim) for dim in affine.dims if dim not in AFFINE_DIMS)
            raise ValueError(
                f"the volumes lie on several voxel grids (their affine differs along {further}): "
                "resample them to one before they are joined (penstock.fmri.ResampleVolumes)"
            )
        return check_affine(matrices[0])
    return check_affine(matrices)


def _start_and_step(positions: xr.DataArray) -> tuple[float, float]:
    """Voxel of the grid at which a dim begins, and how many it goes on from voxel to voxel."""
    values = np.atleast_1d(positions.values).astype(np.float64)
    if len(values) < 2:
        return (float(values[0]) if len(values) else 0.0), 1.0
    step = (values[-1] - values[0]) / (len(values) - 1)
    if not step or not np.allclose(np.diff(values), step, rtol=1e-6, atol=0):
        raise ValueError(
            f"the voxels along {positions.name} are not evenly spaced any more (as after picking "
            "single ones or joining pieces with a gap), so no affine says where they lie: select a "
            "slice, or give the volumes another affine with penstock.voxels.with_affine(ds, matrix)"
        )
    return float(values[0]), float(step)
