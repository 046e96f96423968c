"""Signals of maps with weights, by least squares, and of spheres around seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from penstock.fmri.extraction.base import Regions, _Extract, flat_mask, image_on_grid
from penstock.fmri.extraction.map_fit import MapFit, map_weights, maps_overlap
from penstock.fmri.extraction.reducers import ROW_SCRATCH, NanPolicy, Segments, reduce_segments
from penstock.fmri.extraction.regions import RESAMPLE_TO_DATA
from penstock.fmri.extraction.weights import Weights
from penstock.fmri.images.images import SpatialImage, VoxelGrid, load_image

# ---------------------------------------------------------------------- maps


@dataclass(frozen=True, repr=False)
class ExtractMaps(_Extract):
    """Signals of maps with weights (a probabilistic atlas, independent components).

    The signals of a volume are those whose maps, each times its signal, come nearest to it: the
    solution of a least-squares problem, ``min ||W s - y||``, not a weighted mean.

    Parameters
    ----------
    maps_img : str
        Path of an image of maps, (x, y, z, maps). Images in memory are accepted.
    names : tuple of str, optional
        Names of the maps. Default: their positions in the image, from 0.
    mask_img : str, optional
        Path of a mask: voxels outside do not count. Images in memory are accepted.
    allow_overlap : bool, default True
        Whether maps may overlap.
    resampling_target : {"data"} or None, default "data"
        Maps and mask on another grid are brought to that of the data: maps by linear
        interpolation, the mask by the nearest voxel. None: they are refused.
    keep_masked_maps : bool, default False
        Keep maps without a weight on the grid and in the mask, with NaN as their signal, so that
        all datasets have the same regions. They are left out otherwise.
    nan_policy : {"omit", "zero", "propagate"}, default "omit"
        Values that are not finite: ``"omit"`` solves on the voxels that have values (slower: once
        for every pattern of missing voxels), ``"zero"`` takes them as 0, as nilearn does,
        ``"propagate"`` makes all signals of such a volume NaN.

    Raises
    ------
    FileNotFoundError
        If a path leads nowhere.
    ValueError
        If the maps overlap though they must not, there are fewer or more names than maps, the mask
        is empty, an image lies on another grid (`resampling_target` None), or no map is left.

    Warns
    -----
    UserWarning
        If no weight is left of some maps, with their names.

    Notes
    -----
    Signals have the dims (region, time), float64, in the order of the maps; the coordinate ``map``
    has their positions in the image. Weights that are not finite count as 0.

    The same as `nilearn.maskers.NiftiMapsMasker`, which decomposes W for every image (and in single
    precision for float32 data). Here the normal equations of W are solved once in float64, and
    volumes need one product each. That loses up to 1e-10 of the signals. Maps that are linear
    combinations of others (to about 1e-7) get the solution of least norm. Where W is more
    ill-conditioned than 1000, its pseudo-inverse is computed by singular values: that takes four
    times the memory of the maps, in float64, while the regions are found.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.fmri.images.images import SpatialImage
    >>> from penstock.fmri.extraction.weighted import ExtractMaps
    >>> maps = np.array([[1.0, 0.5, 0.0], [0.0, 0.5, 2.0]]).T.reshape(3, 1, 1, 2)
    >>> volume = 3 * maps[..., 0] - maps[..., 1]
    >>> affine = (("affine_row", "affine_column"), np.eye(4))
    >>> ds = ps.make_dataset(volume, ("x", "y", "z"), coords={"affine": affine})
    >>> found = ps.Pipeline([ExtractMaps(SpatialImage(maps, np.eye(4)))])(ds)
    >>> found.signal.values.round(12).tolist()
    [3.0, -1.0]
    """

    images: ClassVar[tuple[str, ...]] = ("maps_img", "mask_img")
    # a volume without its missing values
    row_scratch: ClassVar[float] = ROW_SCRATCH + 1.0

    maps_img: str | SpatialImage
    names: tuple[str, ...] | None = None
    mask_img: str | SpatialImage | None = None
    allow_overlap: bool = True
    resampling_target: Literal["data"] | None = "data"
    keep_masked_maps: bool = False
    nan_policy: NanPolicy = "omit"

    def check(self) -> None:
        image = load_image(self.maps_img, name="maps_img", ndim=4)
        n_maps = image.shape[3]
        if self.names is not None and len(self.names) != n_maps:
            raise ValueError(f"names has {len(self.names)} names, but maps_img {n_maps} maps")
        if not np.nan_to_num(image.data).any():
            raise ValueError("maps_img holds no map: it is 0 everywhere")

    def _find(self, grid: VoxelGrid) -> Regions:
        self.check()
        image = load_image(self.maps_img, name="maps_img", ndim=4)
        n_maps = image.shape[3]
        names = np.array(self.names or [str(i) for i in range(n_maps)])
        resample = self.resampling_target is not None
        image = image_on_grid(
            image, grid, "maps_img", "linear" if resample else None, RESAMPLE_TO_DATA
        )
        mask = flat_mask(self.mask_img, grid, resample, RESAMPLE_TO_DATA)
        weights = map_weights(image.data, mask)
        if not self.allow_overlap and maps_overlap(weights, _epsilon(image.data.dtype)):
            raise ValueError(
                "maps_img has maps that overlap: give allow_overlap=True if they may, or threshold "
                "them first"
            )
        squares = MapFit.of(weights)
        if not squares.used.any():
            raise ValueError(
                "no map is left: none has a weight on the grid of the data"
                + ("" if mask is None else " and inside the mask")
            )
        vanished = tuple(map(str, names[~squares.used]))
        kept = np.arange(n_maps)
        if vanished and not self.keep_masked_maps:
            kept = np.flatnonzero(squares.used)
            squares = MapFit.of(weights.of_regions(kept))
        return Regions(squares, {"region": names[kept], "map": kept}, vanished)

    def _reduce(self, regions: Regions, volumes: np.ndarray, out: np.ndarray) -> None:
        squares: MapFit = regions.voxels
        out[...] = squares.solve(volumes, self.nan_policy)

    def _paint(self, regions: Regions, signals: np.ndarray, n_voxels: int) -> np.ndarray:
        squares: MapFit = regions.voxels
        weights: Weights = squares.weights
        return weights.paint(np.where(squares.used, signals, 0), n_voxels)


def _epsilon(dtype: np.dtype) -> float:
    """Weights up to the rounding of their type count as none."""
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0


# ---------------------------------------------------------------------- spheres

LARGEST_RADIUS = 1e6
"""Of a sphere [mm]: far more than any image is wide."""


@dataclass(frozen=True, repr=False)
class ExtractSpheres(_Extract):
    """Mean signals of spheres around seeds.

    Parameters
    ----------
    seeds : tuple of (float, float, float)
        Centres of the spheres, x, y and z in world coordinates [mm].
    radius : float or tuple of float, optional
        Radius of all spheres, or of each one [mm]. Default: the voxel nearest to the seed only.
    names : tuple of str, optional
        Names of the spheres. Default: the coordinates of their seeds.
    mask_img : str, optional
        Path of a mask: voxels outside do not count. Images in memory are accepted.
    allow_overlap : bool, default False
        Whether spheres may have voxels in common.
    resampling_target : {"data"} or None, default "data"
        A mask on another grid is brought to that of the data, by the nearest voxel. None: it is
        refused.
    nan_policy : {"omit", "zero", "propagate"}, default "omit"
        Whether values that are not finite are left out, taken as 0 (as in nilearn), or passed on.
    keep_empty_spheres : bool, default False
        Keep spheres without a voxel (outside the volume or the mask), with NaN as their signal.

    Raises
    ------
    FileNotFoundError
        If the mask's path leads nowhere.
    ValueError
        If a sphere has no voxel, spheres overlap though they must not, or there are fewer or more
        radii or names than seeds.

    Notes
    -----
    Signals have the dims (region, time), float64, in the order of the seeds, whose coordinates are
    ``seed_x``, ``seed_y`` and ``seed_z`` [mm].

    A sphere has the voxels whose centres lie no farther from the seed than the radius, and the
    voxel nearest to the seed, of those inside the mask. `nilearn.maskers.NiftiSpheresMasker` has
    the same, and one more in rare cases: a voxel whose coordinates in mm, cut down to whole
    numbers, are those of the seed, however large the radius. That one is not taken here.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.fmri.extraction.weighted import ExtractSpheres
    >>> volume = np.arange(27.0).reshape(3, 3, 3)
    >>> affine = (("affine_row", "affine_column"), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> ds = ps.make_dataset(volume, ("x", "y", "z"), coords={"affine": affine})
    >>> found = ps.Pipeline([ExtractSpheres(((2, 2, 2), (0, 0, 0)), radius=(2.0, 0.5))])(ds)
    >>> found.region.values.tolist(), found.signal.values.tolist()
    (['(2, 2, 2)', '(0, 0, 0)'], [13.0, 0.0])
    """

    images: ClassVar[tuple[str, ...]] = ("mask_img",)

    seeds: tuple[tuple[float, float, float], ...]
    radius: float | tuple[float, ...] | None = None
    names: tuple[str, ...] | None = None
    mask_img: str | SpatialImage | None = None
    allow_overlap: bool = False
    resampling_target: Literal["data"] | None = "data"
    nan_policy: NanPolicy = "omit"
    keep_empty_spheres: bool = False

    def __post_init__(self) -> None:
        for name in ("seeds", "radius"):
            object.__setattr__(self, name, _as_list(getattr(self, name)))
        super().__post_init__()

    def validate(self) -> None:
        n = len(self.seeds)
        if not n:
            raise ValueError("seeds is empty: give the coordinates of at least one")
        if not np.isfinite(self.seeds).all():
            raise ValueError(f"seeds must be finite coordinates in mm, got {self.seeds!r}")
        for name, value in (("radius", self.radius), ("names", self.names)):
            if isinstance(value, tuple) and len(value) != n:
                raise ValueError(f"{name} has {len(value)} entries for {n} seeds: give one each")
        if self.radius is not None and not np.min(self.radius) >= 0:
            raise ValueError(f"radius={self.radius!r} must not be negative: mm")
        if self.radius is not None and np.max(self.radius) > LARGEST_RADIUS:
            raise ValueError(f"radius={self.radius!r} must be at most {LARGEST_RADIUS:g}: mm")

    @property
    def averages(self) -> NanPolicy:
        return self.nan_policy

    def sphere_names(self) -> list[str]:
        """Names of the spheres, on any grid."""
        return list(self.names or map(_shown, self.seeds))

    def _find(self, grid: VoxelGrid) -> Regions:
        resample = self.resampling_target is not None
        mask = flat_mask(self.mask_img, grid, resample, RESAMPLE_TO_DATA)
        radii = self.radius if isinstance(self.radius, tuple) else (self.radius,) * len(self.seeds)
        spheres = []
        for seed, radius in zip(self.seeds, radii, strict=True):
            voxels = sphere_voxels(seed, radius, grid)
            if mask is not None:
                voxels = voxels[mask[voxels]]
            if not len(voxels) and not self.keep_empty_spheres:
                where = "in the volume" if mask is None else "in the mask"
                raise ValueError(
                    f"the sphere around the seed {_shown(seed)} has no voxel {where}: move the "
                    "seed, give a larger radius, or keep_empty_spheres=True for a signal of NaN"
                )
            spheres.append(voxels)
        if not any(map(len, spheres)):
            raise ValueError(
                "none of the spheres has a voxel: their seeds are world coordinates in mm"
            )
        segments = Segments.from_lists(spheres)
        if not self.allow_overlap:
            self._refuse_overlap(segments)
        x, y, z = np.array(self.seeds).T
        names = np.array(self.sphere_names())
        coords = {"region": names, "seed_x": x, "seed_y": y, "seed_z": z}
        vanished = tuple(
            str(n) for n, voxels in zip(names, spheres, strict=True) if not len(voxels)
        )
        return Regions(segments, coords, vanished)

    def _refuse_overlap(self, segments: Segments) -> None:
        owners = np.repeat(np.arange(len(segments)), segments.sizes)
        order = np.argsort(segments.voxels, kind="stable")
        shared = np.flatnonzero(np.diff(segments.voxels[order]) == 0)
        if len(shared):
            one, other = (_shown(self.seeds[owners[order[shared[0] + i]]]) for i in (0, 1))
            raise ValueError(
                f"the spheres around the seeds {one} and {other} overlap: give a smaller radius, "
                "or allow_overlap=True"
            )

    def _reduce(self, regions: Regions, volumes: np.ndarray, out: np.ndarray) -> None:
        out[...] = reduce_segments(volumes, regions.voxels, "mean", self.nan_policy)


def sphere_voxels(
    seed: tuple[float, float, float], radius: float | None, grid: VoxelGrid
) -> np.ndarray:
    """Voxels of a sphere, and the one nearest to its seed, as indices in the order of the file.

    Parameters
    ----------
    seed : tuple of float
        Centre, world coordinates [mm].
    radius : float or None
        [mm]; None takes the voxel nearest to the seed only.
    grid : VoxelGrid
        Voxels outside of it are left out.

    Returns
    -------
    numpy.ndarray
        Sorted, int64; empty where the sphere lies outside.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.images.images import VoxelGrid
    >>> sphere_voxels((1.0, 1.0, 1.0), 1.0, VoxelGrid((3, 3, 3), np.eye(4))).tolist()
    [4, 10, 12, 13, 14, 16, 22]
    """
    inverse = np.linalg.inv(grid.matrix)
    centre = inverse[:3, :3] @ np.asarray(seed) + inverse[:3, 3]
    nx, ny, _ = grid.shape
    nearest = np.round(centre).astype(np.int64)
    found = []
    if ((nearest >= 0) & (nearest < grid.shape)).all():
        found.append(nearest @ [1, nx, nx * ny])
    if radius is not None:
        # along an axis of voxels the sphere reaches as far as the rows of the inverse say
        reach = radius * np.sqrt((inverse[:3, :3] ** 2).sum(axis=1)) + 1e-6
        low = np.clip(np.ceil(centre - reach), 0, grid.shape).astype(np.int64)
        high = np.clip(np.floor(centre + reach) + 1, low, grid.shape).astype(np.int64)
        x, y, z = np.meshgrid(*map(np.arange, low, high), indexing="ij", sparse=True)
        # (a voxel on the surface is inside, however its distance is rounded)
        limit = radius**2 * (1 + 1e-9)
        squared = 0.0
        for row, origin in zip(grid.matrix[:3], seed, strict=True):
            squared = squared + (row[0] * x + row[1] * y + row[2] * z + (row[3] - origin)) ** 2
        flat = x + nx * (y + ny * z)
        found.extend(flat[squared <= limit])
    return np.unique(np.array(found, np.int64))


def _as_list(value: Any) -> Any:
    """Arrays, and lists of arrays, as plain numbers."""
    if isinstance(value, list | tuple):
        return tuple(map(_as_list, value))
    return value.tolist() if isinstance(value, np.ndarray) else value


def _shown(seed: tuple[float, float, float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in seed) + ")"
