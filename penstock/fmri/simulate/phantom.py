"""The brain of simulated images: its shape and its tissue, and smooth things to put into it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np

from penstock.fmri.images.images import VoxelGrid, voxel_grid

BASELINE = 1000.0
"""Mean of grey matter [scanner units]."""
_EXTENT = np.array([0.43, 0.46, 0.42])
"""Half axes of the brain as fractions of the field of view, along x, y and z."""


class FmriStream(IntEnum):
    """Independent streams: no option changes what another one draws."""

    NOISE = 0
    BACKGROUND = 1
    NETWORKS = 2
    COURSES = 3
    DRIFT = 4
    MOTION = 5
    SPIKES = 6
    ATLAS = 7
    MASKS = 8
    MAPS = 9


def checked_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """The shape of a simulated image as plain numbers; ValueError where it cannot be one."""
    found = tuple(int(n) for n in shape)
    if len(found) != 3 or found != tuple(shape) or min(found) < 4:
        raise ValueError(f"shape must be three whole numbers of at least 4, got {shape!r}")
    return found  # type: ignore[return-value]


def centred_grid(shape: tuple[int, int, int], voxel_size: float) -> VoxelGrid:
    """Cubic voxels [mm] around the world's origin, with axes to the right, to the front and up."""
    affine = np.diag([voxel_size] * 3 + [1.0])
    affine[:3, 3] = -voxel_size * (np.array(shape) - 1) / 2
    return VoxelGrid(shape, affine)  # type: ignore[arg-type]


def grid_of(ds: Any) -> VoxelGrid:
    """The grid of a dataset or an image, or that of a shape, with voxels of 3 mm."""
    if isinstance(ds, Sequence) and not isinstance(ds, str):
        return centred_grid(checked_shape(ds), 3.0)
    return voxel_grid(ds)


def brain_points(grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """Places of the brain's voxels [mm] (n, 3), and in the image (z slowest) (n,)."""
    baseline = baseline_image(grid.shape)
    brain = np.flatnonzero(baseline)
    z, y, x = np.unravel_index(brain, baseline.shape)
    return np.stack([x, y, z], axis=1) @ grid.matrix[:3, :3].T + grid.matrix[:3, 3], brain


def along(axis: int, shape: tuple[int, int, int], voxel_size: float = 1.0) -> np.ndarray:
    """Distances from the centre along an axis of space, float32."""
    n = shape[axis]
    return ((np.arange(n) - (n - 1) / 2) * voxel_size).astype(np.float32)


def unit_axes(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates x, y, z, shaped to spread over (z, y, x), that are 1 where the brain ends."""
    x, y, z = (along(axis, shape) / np.float32(_EXTENT[axis] * shape[axis]) for axis in range(3))
    return x, y[:, None], z[:, None, None]


@lru_cache(maxsize=2)
def baseline_image(shape: tuple[int, int, int]) -> np.ndarray:
    """A brain (z, y, x), float32: grey around white matter, ventricles, and a fissure; 0 outside.

    As in a T2*-weighted image fluid is bright and white matter dark.
    """
    x, y, z = unit_axes(shape)
    radius = np.sqrt(x**2 + y**2 + z**2)
    folds = 0.13 * np.sin(11 * x) * np.sin(9 * y + 2 * z) * np.sin(8 * z - 3 * y)
    white = 1 / (1 + np.exp((radius + folds - 0.66) * 25))
    image = 1 - np.float32(0.3) * white
    ventricles = ((np.abs(x) - 0.12) / 0.09) ** 2 + (y / 0.35) ** 2 + ((z - 0.08) / 0.2) ** 2
    image += np.float32(0.55) / (1 + np.exp(np.minimum((ventricles - 1) * 4, 80)))
    image -= np.float32(0.25) * np.exp(-((x / 0.05) ** 2)) * (radius > 0.6)
    image *= BASELINE * np.clip(0.3 + 0.7 * (1 - radius) / 0.12, 0.3, 1)
    image[radius > 1] = 0
    return image


def blob(squares: np.ndarray, radius: float) -> np.ndarray:
    """A smooth hill of the squared distance: 1 in the middle, 0 from the radius on."""
    return np.clip(1 - squares / np.float32(radius**2), 0, None) ** 2


def spread_points(rng: np.random.Generator, n: int, radius: float) -> np.ndarray:
    """Random points (n, 3) inside a ball that keep off each other: each the farthest of a few."""
    points = np.zeros((0, 3))
    for _ in range(n):
        directions = rng.standard_normal((16, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        some = directions * radius * rng.random((16, 1)) ** (1 / 3)
        far = np.linalg.norm(some[:, None] - points, axis=2).min(axis=1, initial=np.inf)
        points = np.vstack([points, some[np.argmax(far)]])
    return points
