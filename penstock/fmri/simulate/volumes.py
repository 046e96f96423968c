"""Simulated functional MRI of any length, made on demand, with networks that are known.

Any region is computed when it is read, and only the volumes that it touches, so an image far larger
than any disk opens at once. Every volume draws its noise from a random stream of its own, and all
else is a sum of small spatial patterns times time courses: whatever the blocks, the values are the
same, bit for bit.

Values may change between versions of NumPy or Penstock: a simulation is no reference data.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.attributes import nested_attribute
from penstock.dataset import lazy_variable, make_dataset
from penstock.fmri.images.images import AFFINE, AFFINE_DIMS, SPACE, SpatialImage
from penstock.fmri.simulate.parts import N_PATTERNS, SimulatedImage, network_fields, time_courses
from penstock.fmri.simulate.phantom import (
    FmriStream,
    baseline_image,
    blob,
    brain_points,
    grid_of,
    spread_points,
    unit_axes,
)
from penstock.random_streams import random_generator
from penstock.reading import Reading

if TYPE_CHECKING:
    import xarray as xr

CONFOUNDS = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
"""Names of the head's movements, as fMRIPrep writes them."""


def simulate_fmri(
    shape: tuple[int, int, int] = (50, 59, 50),
    n_volumes: int = 1680,
    t_r: float = 2.0,
    *,
    voxel_size: float = 3.0,
    n_networks: int = 6,
    noise: float = 1.5,
    drift: float = 1.0,
    motion: float = 0.1,
    spikes: float = 0.005,
    background: float = 0.0,
    dtype: Any = "float32",
    seed: int = 0,
) -> xr.Dataset:
    """Simulate a functional image: networks, noise, drift, head movement and spikes in a brain.

    Nothing is computed until a region is read, and then its volumes only: an image of 100 GiB opens
    at once.

    Parameters
    ----------
    shape : tuple of int, default (50, 59, 50)
        Voxels along x, y and z. The brain, an ellipsoid, fills most of it.
    n_volumes : int, default 1680
        Length of the run.
    t_r : float, default 2
        Repetition time [s].
    voxel_size : float, default 3
        Edge of a voxel [mm]. World coordinate 0 is the centre of the image, axes point to the
        right, to the front and up.
    n_networks : int, default 6
        Networks, each a pair of smooth blobs, one in each hemisphere, with a time course of its own
        between 0.01 and 0.1 Hz. At its strongest a network is 1.5 % of the baseline (rms).
    noise : float, default 1.5
        White noise in the brain [% of the baseline, rms].
    drift : float, default 1
        Slow drift below 0.005 Hz, another mixture in every voxel [% of the baseline, rms].
    motion : float, default 0.1
        Translations of the head along each axis [mm, rms], and rotations that move points 50 mm
        from the centre as far. They leak into the image as the baseline's gradient times the
        displacement.
    spikes : float, default 0.005
        Fraction of the volumes that are spoilt as a whole, by about 8 % of the baseline.
    background : float, default 0
        Noise outside of the brain (magnitude of normal noise) [% of the baseline]. With 0 the
        values there are exactly 0.
    dtype : {"float32", "float64"}, default "float32"
        Type of the values. Both types give the same image to within single precision.
    seed : int, default 0
        Another seed gives another image of the same kind.

    Returns
    -------
    xarray.Dataset
        ``signal`` (x, y, z, time) [scanner units, grey matter is about 1000]; ``truth``
        (network, time), the networks' time courses of unit variance; ``confounds``
        (time, confound), the head's translations [mm] and rotations [rad]; ``spike`` (time),
        whether a volume is spoilt. Coordinates ``time`` [s] and ``affine`` [mm].

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Notes
    -----
    The spatial patterns of the networks are those of `simulated_networks`. Regressing the six
    confounds removes what the movements add completely, as real movements do not.

    Examples
    --------
    >>> from penstock.fmri.simulate import simulate_fmri
    >>> ds = simulate_fmri((20, 24, 20), n_volumes=100)
    >>> ds.signal.isel(time=slice(10, 12)).values.shape
    (20, 24, 20, 2)
    >>> ds.confounds.to_pandas().columns[:3].tolist()
    ['trans_x', 'trans_y', 'trans_z']
    >>> f"{simulate_fmri((91, 109, 91), n_volumes=29_000).signal.nbytes / 2**30:.1f} GiB"
    '97.5 GiB'
    """
    simulation = SimulatedImage(**locals())  # the parameters, as nothing else is local yet
    courses = time_courses(simulation)
    n_voxels, item = math.prod(simulation.shape), np.dtype(simulation.dtype).itemsize
    signal = lazy_variable(
        (*SPACE, "time"),
        simulation.read,
        (*simulation.shape, simulation.n_volumes),
        simulation.dtype,
        reading=Reading(
            # noise, sums and products, and the patterns of a part of the brain
            scratch_bytes=(5 + N_PATTERNS) * n_voxels * item,
            # measured, with a third to spare: the patterns while they are made
            resident_bytes=120 * n_voxels,
            interleaved=True,
        ),
    )
    ds = make_dataset(
        signal,
        sampling_frequency=1 / simulation.t_r,
        coords={AFFINE: (AFFINE_DIMS, simulation.grid.matrix), "confound": list(CONFOUNDS)},
        attrs={"simulation": dataclasses.asdict(simulation)},
    )
    units = [*["mm"] * 3, *["rad"] * 3]
    return ds.assign(
        truth=(("network", "time"), courses.networks.T.copy()),
        confounds=(("time", "confound"), courses.motion, {"units": units}),
        spike=("time", courses.spikes != 0),
    )


# ---------------------------------------------------------------------- images that go with it


def simulated_brain_mask(ds: Any = (50, 59, 50)) -> SpatialImage:
    """The brain of a simulation.

    Parameters
    ----------
    ds : xarray.Dataset, VoxelGrid or tuple of int, default (50, 59, 50)
        A simulated image, or a shape (x, y, z), then of voxels of 3 mm.

    Returns
    -------
    SpatialImage
        bool (x, y, z).

    Examples
    --------
    >>> from penstock.fmri.simulate import simulated_brain_mask
    >>> int(simulated_brain_mask((20, 24, 20)).data.sum())
    3312
    """
    grid = grid_of(ds)
    return SpatialImage(baseline_image(grid.shape).T > 0, grid.matrix)


def simulated_networks(ds: xr.Dataset) -> SpatialImage:
    """The spatial patterns of the networks of a simulated image.

    Parameters
    ----------
    ds : xarray.Dataset
        Of `simulate_fmri`.

    Returns
    -------
    SpatialImage
        float32 (x, y, z, network), with peaks of 1; the signal of a network in a voxel is 1.5 %
        of its baseline, times this, times its course in ``ds.truth``.

    Raises
    ------
    ValueError
        If the dataset is no simulation.

    Examples
    --------
    >>> from penstock.fmri.simulate import simulate_fmri, simulated_networks
    >>> simulated_networks(simulate_fmri((20, 24, 20), n_volumes=10, n_networks=3)).shape
    (20, 24, 20, 3)
    """
    if "simulation" not in ds.attrs:
        raise ValueError("these volumes are not simulated: their networks are not known")
    simulation = SimulatedImage(**nested_attribute(ds.attrs, "simulation"))
    if not simulation.n_networks:
        raise ValueError("the simulation has no networks: n_networks=0")
    brain = baseline_image(simulation.shape) > 0
    maps = np.stack([field * brain for field in network_fields(simulation)])
    return SpatialImage(maps.T, simulation.grid.matrix)


def simulated_atlas(ds: Any = (50, 59, 50), n_labels: int = 100, *, seed: int = 0) -> SpatialImage:
    """Cut the brain of a simulation into compact regions of similar size.

    Parameters
    ----------
    ds : xarray.Dataset, VoxelGrid or tuple of int, default (50, 59, 50)
        A simulated image, or a shape (x, y, z), then of voxels of 3 mm.
    n_labels : int, default 100
        How many regions.
    seed : int, default 0
        Another seed gives another atlas.

    Returns
    -------
    SpatialImage
        int16 or int32 (x, y, z): labels 1 to `n_labels` from left to right, 0 outside of the brain.

    Raises
    ------
    ValueError
        If there are more labels than voxels.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.simulate import simulated_atlas
    >>> len(np.unique(simulated_atlas((20, 24, 20), 12).data))
    13
    """
    from scipy.spatial import cKDTree

    grid = grid_of(ds)
    points, brain = brain_points(grid)
    if not 0 < n_labels <= len(points):
        raise ValueError(f"n_labels must be from 1 to the brain's {len(points)} voxels: {n_labels}")
    rng = random_generator(seed, FmriStream.ATLAS, 0, 0)
    some = points[rng.permutation(len(points))[: max(500 * n_labels, 20_000)]]
    centres = some[:n_labels]
    for _ in range(8):  # towards the middles of their own voxels: sizes become alike
        nearest = cKDTree(centres).query(some)[1]
        counts = np.bincount(nearest, minlength=n_labels)
        sums = [np.bincount(nearest, column, n_labels) for column in some.T]
        means = np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]
        centres = np.where(counts[:, None] > 0, means, centres)
    centres = centres[np.argsort(centres[:, 0], kind="stable")]
    labels = np.zeros(grid.shape[::-1], np.int16 if n_labels < 2**15 else np.int32)
    labels.reshape(-1)[brain] = cKDTree(centres).query(points)[1] + 1
    return SpatialImage(labels.T, grid.matrix)


def simulated_masks(
    ds: Any = (50, 59, 50),
    n: int = 20,
    *,
    sizes: tuple[int, int] = (1000, 2800),
    seed: int = 0,
) -> list[SpatialImage]:
    """Ellipsoidal regions of interest in the brain of a simulation; they may overlap.

    Parameters
    ----------
    ds : xarray.Dataset, VoxelGrid or tuple of int, default (50, 59, 50)
        A simulated image, or a shape (x, y, z), then of voxels of 3 mm.
    n : int, default 20
        How many regions.
    sizes : tuple of int, default (1000, 2800)
        Voxels of the smallest and the largest region; none is larger than the brain.
    seed : int, default 0
        Another seed gives other regions.

    Returns
    -------
    list of SpatialImage
        bool (x, y, z).

    Examples
    --------
    >>> from penstock.fmri.simulate import simulated_masks
    >>> [mask.data.sum().item() for mask in simulated_masks(n=2, sizes=(1000, 1000))]
    [1000, 1000]
    """
    if not 0 < sizes[0] <= sizes[1]:
        raise ValueError(f"sizes must be positive and increasing numbers of voxels, got {sizes}")
    grid = grid_of(ds)
    points, brain = brain_points(grid)
    rng = random_generator(seed, FmriStream.MASKS, 0, 0)
    masks = []
    for _ in range(n):
        size = min(int(rng.integers(sizes[0], sizes[1] + 1)), len(points))
        stretch = rng.uniform(0.8, 1.25, 3)
        distances = (((points - points[rng.integers(len(points))]) * stretch) ** 2).sum(axis=1)
        mask = np.zeros(grid.shape[::-1], bool)
        mask.reshape(-1)[brain[np.argpartition(distances, size - 1)[:size]]] = True
        masks.append(SpatialImage(mask.T, grid.matrix))
    return masks


def simulated_maps(ds: Any = (50, 59, 50), n: int = 32, *, seed: int = 0) -> SpatialImage:
    """Smooth, overlapping maps in the brain of a simulation, as of a probabilistic atlas.

    Parameters
    ----------
    ds : xarray.Dataset, VoxelGrid or tuple of int, default (50, 59, 50)
        A simulated image, or a shape (x, y, z), then of voxels of 3 mm.
    n : int, default 32
        How many maps.
    seed : int, default 0
        Another seed gives other maps.

    Returns
    -------
    SpatialImage
        float32 (x, y, z, n), from 0 to 1, exactly 0 outside of the brain.

    Examples
    --------
    >>> from penstock.fmri.simulate import simulated_maps
    >>> simulated_maps((20, 24, 20), 5)
    SpatialImage(shape=(20, 24, 20, 5), dtype=float32)
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    grid = grid_of(ds)
    rng = random_generator(seed, FmriStream.MAPS, 0, 0)
    x, y, z = unit_axes(grid.shape)
    brain = baseline_image(grid.shape) > 0
    radius = 1.3 * n ** (-1 / 3)  # neighbours overlap at about half of their height
    maps = np.empty((n, *brain.shape), np.float32)
    for out, centre in zip(maps, spread_points(rng, n, 0.9), strict=True):
        squares = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
        np.multiply(blob(squares, max(radius, 0.3)), brain, out=out)
    return SpatialImage(maps.T, grid.matrix)
