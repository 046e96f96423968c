"""What all processors that turn volumes into region signals share."""

from __future__ import annotations

import math
import os
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from penstock import messages
from penstock.dataset import SIGNAL, blank_variable
from penstock.fmri.extraction.reducers import (
    ROW_SCRATCH,
    SCRATCH_BYTES,
    NanPolicy,
    file_order,
    flat_volumes,
)
from penstock.fmri.images.images import (
    AFFINE_DIMS,
    SPACE,
    SpatialImage,
    VoxelGrid,
    adopt_images,
    check_images_have_paths,
    image_digests,
    load_image,
    plain_images,
    same_grid,
    voxel_grid,
)
from penstock.fmri.images.masks import check_mask
from penstock.processor import Context, Processor

if TYPE_CHECKING:
    import xarray as xr


class Paints(Protocol):
    """What regions are made of: voxels, lists of voxels, or weights."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""

    def paint(self, signals: np.ndarray, n_voxels: int) -> np.ndarray:
        """Volumes in the order of the file, (volumes, voxels), from signals (volumes, regions)."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions on a voxel grid, with what describes them.

    Parameters
    ----------
    voxels : object
        Where they lie: what the kernel of the processor works with, and paints with.
    coords : mapping of str to numpy.ndarray
        Coordinates along the dim of the regions.
    vanished : tuple of str
        Names of regions without a voxel on this grid or in the mask.
    """

    voxels: Any
    coords: dict[str, np.ndarray]
    vanished: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.coords.values())))

    def names(self) -> list[str]:
        """Names of the regions; voxels are called ``"x y z"`` after their indices."""
        if "region" in self.coords:
            return list(map(str, self.coords["region"]))
        columns = [self.coords[f"voxel_{axis}"] for axis in "xyz"]
        return [f"{x} {y} {z}" for x, y, z in zip(*columns, strict=True)]


class _Extract(Processor):
    """Volumes to signals of regions: finds the regions on the grid of the data once, then reduces.

    A subclass finds them in `_find` and reduces volumes in `_reduce`. Regions are not part of what
    travels with tasks: every process finds them for itself, once for a grid.
    """

    core_dims = SPACE
    takes_integers: ClassVar[bool] = True
    row_scratch: ClassVar[float] = ROW_SCRATCH
    scratch_bytes: ClassVar[int] = SCRATCH_BYTES
    modules: ClassVar[tuple[str, ...]] = ("scipy.sparse",)

    region_dim: ClassVar[str] = "region"
    """Dim of the signals that takes the place of the three of space."""
    images: ClassVar[tuple[str, ...]] = ()
    """Parameters that are images."""
    tables: ClassVar[tuple[str, ...]] = ()
    """Parameters that may be paths of other files."""

    def __post_init__(self) -> None:
        adopt_images(self, *self.images)
        super().__post_init__()

    def parameters(self) -> dict[str, Any]:
        return plain_images(super().parameters())

    def canonical(self) -> dict[str, Any]:
        return {**super().canonical(), "images": image_digests(self, *self.images)}

    def check_writable(self) -> None:
        super().check_writable()
        check_images_have_paths(self, *self.images)

    # ------------------------------------------------------------------ regions

    @property
    def averages(self) -> NanPolicy | None:
        """Under which policy signals are the means of `Segments`; None where they are no means.

        Such signals of several processors are worked out together.
        """
        return None

    def check(self) -> None:
        """Tell what is wrong with images and names whatever the grid of the data.

        Raises
        ------
        FileNotFoundError, ValueError
            If an image is missing or not what it should be, or names do not fit to it.
        """

    def resolve(self, grid: VoxelGrid) -> Regions:
        """The regions on a voxel grid; the same object as long as images and grid are the same.

        Raises
        ------
        ValueError
            If an image is not what it should be, lies elsewhere, or no region is left.
        """
        files = tuple(_version(getattr(self, name)) for name in (*self.images, *self.tables))
        with _resolving:  # (threads that start together must not all find the same regions)
            known = _resolved.setdefault(self, {})
            if (grid, files) not in known:
                if len(known) == GRIDS_KEPT:
                    known.clear()
                known[grid, files] = self._find(grid)
            return known[grid, files]

    def resident_bytes(self, ds: xr.Dataset) -> int:
        images = (getattr(self, name) for name in self.images)
        loaded = [load_image(one, ndim=(3, 4)).data.nbytes for one in images if one is not None]
        voxels: Paints = self.resolve(voxel_grid(ds)).voxels
        return sum(loaded) + voxels.nbytes

    def _find(self, grid: VoxelGrid) -> Regions:
        raise NotImplementedError

    def _reduce(self, regions: Regions, volumes: np.ndarray, out: np.ndarray) -> None:
        """Signals of volumes (volumes, voxels) in the order of the file, into `out`."""
        raise NotImplementedError

    def _signal_type(self, dtype: np.dtype) -> np.dtype:
        return np.dtype(np.float64)

    def _signal_attrs(self, attrs: dict[Any, Any]) -> dict[Any, Any]:
        return attrs

    # ------------------------------------------------------------------ processor

    def outline(self, ds: xr.Dataset, state: Any) -> xr.Dataset:
        signal = ds[SIGNAL]
        if signal.dtype.kind not in "biuf":
            raise TypeError(f"{type(self).__name__} needs real numbers, but got {signal.dtype}")
        regions = self.resolve(voxel_grid(ds))
        if regions.vanished:
            messages.warn(
                f"{type(self).__name__}: no voxel is left of {_listed(regions.vanished)}, on the "
                "grid of the data and inside the mask",
                UserWarning,
                stacklevel=4,
            )
        loops = [str(dim) for dim in signal.dims if dim not in SPACE]
        after = ds.drop_dims([*SPACE, *AFFINE_DIMS], errors="ignore")
        blank = blank_variable(
            (self.region_dim, *loops),
            (len(regions), *(ds.sizes[dim] for dim in loops)),
            self._signal_type(signal.dtype),
            self._signal_attrs(signal.attrs),
        )
        coords = {name: (self.region_dim, values) for name, values in regions.coords.items()}
        return after.assign({SIGNAL: blank}).assign_coords(coords)

    def kernel(self, block: np.ndarray, ctx: Context) -> np.ndarray:
        regions = self.resolve(voxel_grid(ctx.dataset))
        loops = block.shape[:-3]
        dtype = self._signal_type(block.dtype)
        signals = ctx.empty((math.prod(loops), len(regions)), dtype)
        for rows, volumes in flat_volumes(block, len(regions)):
            self._reduce(regions, volumes, signals[rows])
        return signals.reshape(*loops, len(regions))

    # ------------------------------------------------------------------ the way back

    def paint(self, signals: np.ndarray, grid: VoxelGrid) -> np.ndarray:
        """Volumes with the signals of the regions in their voxels, and 0 elsewhere.

        Parameters
        ----------
        signals : numpy.ndarray
            (volumes, regions), the regions in the order in which they are extracted.
        grid : VoxelGrid
            Grid of the data that they were extracted from.

        Returns
        -------
        numpy.ndarray
            (volumes, z, y, x), float32 for float32 signals, otherwise float64.

        Raises
        ------
        ValueError
            If there are more or fewer signals than regions.
        """
        regions = self.resolve(grid)
        signals = np.asarray(signals)
        signals = signals.astype(np.result_type(signals.dtype, np.float32), copy=False)
        if signals.ndim != 2 or signals.shape[1] != len(regions):
            raise ValueError(
                f"{type(self).__name__}: signals of the shape {signals.shape} cannot be put back: "
                f"expected (volumes, {len(regions)}), one for each {self.region_dim}"
            )
        painted: np.ndarray = self._paint(regions, signals, math.prod(grid.shape))
        return painted.reshape(len(signals), *grid.shape[::-1])

    def _paint(self, regions: Regions, signals: np.ndarray, n_voxels: int) -> np.ndarray:
        voxels: Paints = regions.voxels
        return voxels.paint(signals, n_voxels)


GRIDS_KEPT = 2
"""Grids of which a processor keeps its regions: images of a cohort mostly share one."""

_resolving = threading.RLock()
_resolved: weakref.WeakKeyDictionary[_Extract, dict[Any, Regions]] = weakref.WeakKeyDictionary()
"""Regions of the processors that there are; equal processors share them."""


def _version(value: Any) -> tuple[int, int] | None:
    """What tells that a file has changed; values in memory do not."""
    if isinstance(value, str) and os.path.exists(value):
        status = os.stat(value)
        return status.st_mtime_ns, status.st_size
    return None


# ---------------------------------------------------------------------- images on a grid


def image_on_grid(
    image: SpatialImage, grid: VoxelGrid, name: str, interpolation: str | None, remedy: str
) -> SpatialImage:
    """The image on the grid of the data.

    `interpolation` of None refuses an image that lies on another, with `remedy`.
    """
    if same_grid(image, grid):
        return image
    if interpolation is None:
        raise ValueError(
            f"{name} and the data lie on different grids: {_described(voxel_grid(image))}, against "
            f"{_described(grid)}: {remedy}"
        )
    from penstock.fmri.images.resampling import resample_image

    try:
        return resample_image(image, grid, interpolation=interpolation)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{name} lies elsewhere than the data: {error}") from None


def mask_on_grid(
    image: str | SpatialImage, grid: VoxelGrid, resample: bool, remedy: str
) -> np.ndarray:
    """The parameter ``mask_img`` on the grid of the data, bool (x, y, z).

    Raises
    ------
    ValueError
        If it is no mask, or nothing is inside.
    """
    loaded = load_image(image, name="mask_img", ndim=(3, 4))
    mask = SpatialImage(check_mask(loaded), loaded.affine)
    found = image_on_grid(mask, grid, "mask_img", "nearest" if resample else None, remedy)
    inside = found.data.astype(bool)
    if not inside.any():
        raise ValueError("mask_img is empty on the grid of the data: none of its voxels lies there")
    return inside


def flat_mask(
    image: str | SpatialImage | None, grid: VoxelGrid, resample: bool, remedy: str
) -> np.ndarray | None:
    """`mask_on_grid` of the parameter ``mask_img`` in the order of the file; None without one."""
    if image is None:
        return None
    return file_order(mask_on_grid(image, grid, resample, remedy))


def _described(grid: VoxelGrid) -> str:
    shape = " x ".join(map(str, grid.shape))
    rows = ", ".join("[" + ", ".join(f"{value:g}" for value in row) + "]" for row in grid.affine)
    return f"{shape} voxels with the affine [{rows}]"


def _listed(names: tuple[str, ...], most: int = 20) -> str:
    text = ", ".join(map(repr, names[:most]))
    return text if len(names) <= most else f"{text} and {len(names) - most} more"
