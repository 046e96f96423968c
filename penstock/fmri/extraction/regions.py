"""Signals of the voxels in a mask, and of the regions of a label image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from penstock.fmri.extraction.base import Regions, _Extract, flat_mask, image_on_grid, mask_on_grid
from penstock.fmri.extraction.label_tables import read_lut
from penstock.fmri.extraction.lookup import without_background
from penstock.fmri.extraction.reducers import (
    MEDIAN_ROW_SCRATCH,
    ROW_SCRATCH,
    NanPolicy,
    Segments,
    Statistic,
    file_order,
    pick_voxels,
    reduce_segments,
)
from penstock.fmri.images.images import SpatialImage, VoxelGrid, load_image, nearly_whole
from penstock.fmri.images.masks import check_mask

RESAMPLE_TO_DATA = "give resampling_target='data' to resample it, or resample one of them before"

# ---------------------------------------------------------------------- voxels


@dataclass(frozen=True, eq=False)
class _Voxels:
    index: np.ndarray

    @property
    def nbytes(self) -> int:
        """Memory of the indices."""
        return self.index.nbytes

    def paint(self, signals: np.ndarray, n_voxels: int) -> np.ndarray:
        volumes = np.zeros((len(signals), n_voxels), signals.dtype)
        volumes[:, self.index] = signals
        return volumes


@dataclass(frozen=True, repr=False)
class ExtractVoxels(_Extract):
    """Signals of all voxels inside a mask.

    Parameters
    ----------
    mask_img : str
        Path of a mask, (x, y, z): voxels that are not 0 are inside. Images in memory are accepted.
    resampling : {"mask"}, optional
        ``"mask"`` brings a mask that lies on another grid to that of the data, by the nearest
        voxel. Default: such a mask is refused.
    nan_policy : {"omit", "zero", "propagate"}, default "omit"
        ``"zero"`` replaces values that are not finite by 0; otherwise they stay as they are.

    Raises
    ------
    FileNotFoundError
        If the mask's path leads nowhere.
    ValueError
        If the mask is empty, no mask, or lies on another grid than the data.

    Notes
    -----
    Signals have the dims (voxel, time) and the type of the data. Voxels come in the C order of the
    mask (x slowest), as in `nilearn.maskers.NiftiMasker`; the coordinates ``voxel_x``, ``voxel_y``
    and ``voxel_z`` say where each one lies.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.fmri.images.images import SpatialImage
    >>> from penstock.fmri.extraction.regions import ExtractVoxels
    >>> volumes = np.arange(16.0).reshape(2, 2, 2, 2)
    >>> affine = (("affine_row", "affine_column"), np.eye(4))
    >>> ds = ps.make_dataset(volumes, ("x", "y", "z", "time"), coords={"affine": affine})
    >>> mask = SpatialImage(np.array([[[1, 0], [0, 1]], [[0, 0], [1, 0]]]), np.eye(4))
    >>> found = ps.Pipeline([ExtractVoxels(mask)])(ds)
    >>> found.signal.values.tolist()
    [[0.0, 1.0], [6.0, 7.0], [12.0, 13.0]]
    """

    images: ClassVar[tuple[str, ...]] = ("mask_img",)
    modules: ClassVar[tuple[str, ...]] = ()
    region_dim: ClassVar[str] = "voxel"

    mask_img: str | SpatialImage
    resampling: Literal["mask"] | None = None
    nan_policy: NanPolicy = "omit"

    def check(self) -> None:
        check_mask(load_image(self.mask_img, name="mask_img", ndim=(3, 4)))

    def _find(self, grid: VoxelGrid) -> Regions:
        remedy = "give resampling='mask' to resample the mask, or resample the data before"
        mask = mask_on_grid(self.mask_img, grid, self.resampling == "mask", remedy)
        x, y, z = np.nonzero(mask)
        index = x + grid.shape[0] * (y + grid.shape[1] * z)
        return Regions(_Voxels(index), {"voxel_x": x, "voxel_y": y, "voxel_z": z})

    def _reduce(self, regions: Regions, volumes: np.ndarray, out: np.ndarray) -> None:
        pick_voxels(volumes, regions.voxels.index, out, self.nan_policy)

    def _signal_type(self, dtype: np.dtype) -> np.dtype:
        return dtype


# ---------------------------------------------------------------------- labels


@dataclass(frozen=True, repr=False)
class ExtractLabels(_Extract):
    """Signals of the regions of a label image (an atlas): one number a region and volume.

    Parameters
    ----------
    labels_img : str
        Path of an image of whole numbers, (x, y, z). Images in memory are accepted.
    labels : tuple of str, optional
        Names of the labels in ascending order of their values, without the background (a first
        name "background", in any case, is skipped).
    lut : str or tuple of (int, str), optional
        Instead of `labels`: values and names, or the path of a table of them: with the columns
        ``index`` and ``name`` (BIDS, nilearn), or a colour table of FreeSurfer, FSL or others (see
        `penstock.fmri.extraction.label_tables.read_lut`). Labels that it lacks are named by their
        value.
    background_label : int, default 0
        The value of voxels in no region.
    strategy : str, default "mean"
        ``"mean"``, ``"median"``, ``"sum"``, ``"minimum"``, ``"maximum"``, or
        ``"standard_deviation"`` and ``"variance"`` of the population (``ddof=0``).
    mask_img : str, optional
        Path of a mask: voxels outside are in no region. Images in memory are accepted.
    resampling_target : {"data"} or None, default "data"
        Labels and mask on another grid are brought to that of the data, by the nearest voxel. None:
        they are refused.
    keep_masked_labels : bool, default False
        Keep regions of which no voxel is left (outside the mask, or lost by resampling), with NaN
        as their signal, so that all datasets have the same regions. They are left out otherwise.
    nan_policy : {"omit", "zero", "propagate"}, default "omit"
        Whether values that are not finite are left out, taken as 0 (as in nilearn), or passed on.
    min_coverage : float, default 0
        Share of a region's voxels that must lie in the mask, from 0 to 1. Regions of which less is
        covered count as masked (see `keep_masked_labels`). Where there is a mask, the coordinate
        ``coverage`` of the signals says the share of each region.

    Raises
    ------
    FileNotFoundError
        If a path leads nowhere.
    ValueError
        If the labels are not whole numbers, there are fewer or more names than labels, a mask or
        label image is empty or lies on another grid (`resampling_target` None), or no region is
        left.

    Warns
    -----
    UserWarning
        If no voxel is left of some regions, with their names.

    Notes
    -----
    Signals have the dims (region, time), in ascending order of the labels, in float64: sums are
    accumulated in it whatever the type of the data. The coordinate ``label`` has the values.

    The same as `nilearn.maskers.NiftiLabelsMasker` for finite data; there values that are not
    finite become 0, and labels that are kept though masked have a signal of 0.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.fmri.images.images import SpatialImage
    >>> from penstock.fmri.extraction.regions import ExtractLabels
    >>> volumes = np.arange(16.0).reshape(2, 2, 2, 2)
    >>> affine = (("affine_row", "affine_column"), np.eye(4))
    >>> ds = ps.make_dataset(volumes, ("x", "y", "z", "time"), coords={"affine": affine})
    >>> atlas = SpatialImage(np.array([[[0, 2], [2, 5]], [[0, 0], [5, 5]]]), np.eye(4))
    >>> found = ps.Pipeline([ExtractLabels(atlas, labels=("V1", "V2"))])(ds)
    >>> found.region.values.tolist(), found.signal.values.tolist()
    (['V1', 'V2'], [[3.0, 4.0], [10.666666666666666, 11.666666666666666]])
    """

    images: ClassVar[tuple[str, ...]] = ("labels_img", "mask_img")
    tables: ClassVar[tuple[str, ...]] = ("lut",)

    labels_img: str | SpatialImage
    labels: tuple[str, ...] | None = None
    lut: str | tuple[tuple[int, str], ...] | None = None
    background_label: int = 0
    strategy: Statistic = "mean"
    mask_img: str | SpatialImage | None = None
    resampling_target: Literal["data"] | None = "data"
    keep_masked_labels: bool = False
    nan_policy: NanPolicy = "omit"
    min_coverage: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.lut, str | os.PathLike):
            object.__setattr__(self, "lut", os.path.expanduser(os.fspath(self.lut)))
        super().__post_init__()

    def validate(self) -> None:
        if self.labels is not None and self.lut is not None:
            raise ValueError("give names by labels or by lut, not both")
        if not 0 <= self.min_coverage <= 1:
            raise ValueError(f"min_coverage is a share, from 0 to 1, got {self.min_coverage!r}")
        if self.min_coverage and self.mask_img is None:
            raise ValueError("min_coverage is how much of a region the mask covers: give mask_img")

    @property
    def averages(self) -> NanPolicy | None:
        return self.nan_policy if self.strategy == "mean" else None

    @property
    def row_scratch(self) -> float:  # type: ignore[override]
        return MEDIAN_ROW_SCRATCH if self.strategy == "median" else ROW_SCRATCH

    def canonical(self) -> dict[str, Any]:
        canonical = super().canonical()
        if isinstance(self.lut, str):
            canonical["lut"] = [list(row) for row in read_lut(self.lut)]
        return canonical

    def check(self) -> None:
        self.all_names()

    def all_names(self) -> dict[int, str]:
        """Names of all labels of the image by their values, ascending, without the background."""
        image = load_image(self.labels_img, name="labels_img", ndim=3)
        return self._names(_distinct(_whole_numbers(image, self.background_label)))

    def _find(self, grid: VoxelGrid) -> Regions:
        image = load_image(self.labels_img, name="labels_img", ndim=3)
        named = self.all_names()
        all_values = tuple(named)
        resample = self.resampling_target is not None
        here = image_on_grid(
            image, grid, "labels_img", "nearest" if resample else None, RESAMPLE_TO_DATA
        )
        flat = file_order(_whole_numbers(here, self.background_label))
        mask = flat_mask(self.mask_img, grid, resample, RESAMPLE_TO_DATA)
        coverage = None
        if mask is not None:
            inside = np.where(mask, flat, self.background_label)
            coverage = _coverage(flat, inside, np.array(list(named), np.int64))
            too_little = np.array(list(named), np.int64)[coverage < self.min_coverage]
            flat = np.where(np.isin(inside, too_little), self.background_label, inside)
        left = set(_distinct(flat).tolist())
        vanished = tuple(name for value, name in named.items() if value not in left)
        if len(vanished) == len(named):
            raise ValueError(
                "no region is left: no voxel has a label on the grid of the data"
                + ("" if mask is None else " and inside the mask")
            )
        if not self.keep_masked_labels:
            named = {value: name for value, name in named.items() if value in left}
        values = np.array(list(named), np.int64)
        coords = {"region": np.array(list(named.values())), "label": values}
        if coverage is not None:
            coords["coverage"] = coverage[np.isin(list(all_values), values)]
        return Regions(Segments.from_labels(flat, values), coords, vanished)

    def _names(self, values: np.ndarray) -> dict[int, str]:
        """Names of all labels of the image, in ascending order of their values."""
        found = [int(value) for value in values if value != self.background_label]
        if not found:
            raise ValueError(
                f"labels_img has no label other than the background ({self.background_label})"
            )
        if self.labels is not None:
            names = without_background(self.labels)
            if len(names) != len(found):
                raise ValueError(
                    f"labels has {len(names)} names, but labels_img {len(found)} labels beside the "
                    f"background ({self.background_label}): give one for each"
                )
            return dict(zip(found, names, strict=True))
        rows = read_lut(self.lut) if isinstance(self.lut, str) else self.lut or ()
        table = dict(rows)
        for value, name in rows:
            if value in found and table[value] != name:
                raise ValueError(
                    f"lut has two names for the label {value}, {name!r} and {table[value]!r}: give "
                    "it one"
                )
        return {value: table.get(value, str(value)) for value in found}

    def _reduce(self, regions: Regions, volumes: np.ndarray, out: np.ndarray) -> None:
        out[...] = reduce_segments(volumes, regions.voxels, self.strategy, self.nan_policy)

    def _signal_attrs(self, attrs: dict[Any, Any]) -> dict[Any, Any]:
        if self.strategy == "variance" and "units" in attrs:
            return {**attrs, "units": f"({attrs['units']})^2"}
        return attrs


def _coverage(labels: np.ndarray, inside: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of every label's voxels that lies in the mask; 0 for labels without a voxel."""
    counts = [
        np.diff(np.searchsorted(np.sort(found), [values, values + 1], "left").T).ravel()
        for found in (labels.ravel(), inside.ravel())
    ]
    return counts[1] / np.maximum(counts[0], 1)


def _distinct(labels: np.ndarray) -> np.ndarray:
    """The values there are, ascending; small ones are counted, which takes a tenth of sorting."""
    flat = labels.reshape(-1, order="A")
    if flat.size and flat.min() >= 0 and flat.max() < flat.size:
        return np.flatnonzero(np.bincount(flat))
    return np.unique(flat)


def _whole_numbers(image: SpatialImage, background: int) -> np.ndarray:
    """Labels as int64 (x, y, z); missing values are background."""
    data = image.data
    if data.dtype.kind == "f":
        data = np.where(np.isfinite(data), data, background)
        odd = ~nearly_whole(data)
        if odd.any():
            raise ValueError(
                f"labels_img must hold whole numbers, but has {data[odd][0]:.9g}: maps with "
                "weights are for ExtractMaps"
            )
        data = np.rint(data)
    return data.astype(np.int64)
