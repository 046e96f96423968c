"""Maskers: estimators that turn images into signals, with the names and parameters of nilearn.

They differ from nilearn's where those are known to go wrong: images are read once and in bounded
memory whatever the number of regions, the repetition time comes from the header where it is not
given, voxels that are not numbers are missing and not zero (`nan_policy`), region signals are
float64, and the defects of `nilearn.signal.clean` are not there (see `penstock.fmri.signal_clean`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from penstock.fmri.extraction.base import _Extract, image_on_grid, mask_on_grid
from penstock.fmri.extraction.lookup import look_up_table, plain_table
from penstock.fmri.extraction.reducers import Statistic
from penstock.fmri.extraction.regions import ExtractLabels, ExtractVoxels
from penstock.fmri.extraction.weighted import ExtractMaps, ExtractSpheres
from penstock.fmri.images.images import SpatialImage, VoxelGrid, same_grid, to_nibabel
from penstock.fmri.images.masks import COMMON_OPTIONS, MASK_OPTIONS, check_mask, compute_mask
from penstock.fmri.images.resampling import resample_image, target_grid
from penstock.fmri.maskers.base import BaseMasker
from penstock.fmri.maskers.frames import warn_caller

_COMMON = """smoothing_fwhm : float, optional
        Full width at half maximum of the Gaussian that volumes are smoothed with first [mm].
    standardize : {"zscore_sample", "psc"} or bool, default False
        Each signal to zero mean and unit variance, or to percent of its mean.
    standardize_confounds : bool, default True
        Confounds to zero mean and unit variance; else divided by their largest value.
    detrend : bool, default False
        Whether to remove the linear trend.
    high_variance_confounds : bool, default False
        Whether to remove the five components of the voxels that vary most as well (two more passes
        over the image).
    low_pass, high_pass : float, optional
        Cut-off frequencies [Hz].
    t_r : float, optional
        Repetition time [s]. Default: that of the image.
    dtype : numpy dtype or "auto", optional
        Type of the result; with float64, files are read in double precision, too. Default:
        float64 for region signals, for voxels the type that holds the image exactly (float32 for
        integers of 16 bit without a slope).
    memory : str or int, optional
        Memory budget, e.g. ``"500 MiB"``. Default: half of what is available.
    verbose : int, default 0
        Above 0: progress is shown at once, not only when the work takes long.
    n_jobs : int, optional
        Threads at work; -1: the cores there are, -2: one less. Default: the cores there are.
    clean_args : mapping, optional
        Further options of `penstock.fmri.signal_clean`: ``filter``, ``ensure_finite``,
        ``extrapolate``, ``butterworth__order`` and the like.
    nan_policy : {"omit", "zero", "propagate"}, default "omit"
        Whether voxels that are not finite are missing, count as zero (as in nilearn), or spoil
        their region.
    runs : array_like of int, optional
        Run of each volume: each is cleaned on its own.
    confound_columns : sequence of str, optional
        Which columns of tables of confounds are used; patterns such as ``"trans_*"`` are names,
        too. Default: all.
    memory_level, reports, cmap : optional
        Taken for scripts written for nilearn; without effect."""


@dataclass(eq=False, repr=False)
class NiftiMasker(BaseMasker):
    """Signals of the voxels inside a mask.

    Parameters
    ----------
    mask_img : image, optional
        3-D; voxels that are not zero are inside. Default: computed from the images at `fit`.
    {common}
    target_affine, target_shape : array_like, optional
        Grid to which volumes (and the mask) are resampled first.
    mask_strategy : {{"background", "epi", "whole-brain-template", "gm-template", "wm-template"}}
        How a mask is computed where none is given. Default: "background".
    mask_args : mapping, optional
        Options of `penstock.fmri.compute_mask`.

    Notes
    -----
    Columns are the voxels of the mask in C order, as in nilearn. Where image and mask lie on
    different grids the image is resampled to the mask's (continuous), with a warning.

    Examples
    --------
    >>> import numpy as np, nibabel
    >>> from penstock.fmri import NiftiMasker
    >>> bold = nibabel.Nifti1Image(np.random.rand(4, 5, 6, 30).astype("f4"), np.eye(4))
    >>> mask = nibabel.Nifti1Image((np.arange(120) < 50).reshape(4, 5, 6).astype("u1"), np.eye(4))
    >>> NiftiMasker(mask, standardize="zscore_sample").fit_transform(bold).shape
    (30, 50)
    """

    keeps_type = True

    mask_img: Any = None
    target_affine: Any = field(default=None, kw_only=True)
    target_shape: Any = field(default=None, kw_only=True)
    mask_strategy: str = field(default="background", kw_only=True)
    mask_args: Mapping[str, Any] | None = field(default=None, kw_only=True)

    @property
    def looks_at_images(self) -> bool:
        return self.mask_img is None

    def _fit(self, imgs: Any) -> None:
        _check_choice("mask_strategy", self.mask_strategy, tuple(MASK_OPTIONS))
        if self.mask_img is not None:
            mask = self._image(self.mask_img, "mask_img", (3, 4))
        elif imgs is None:
            raise ValueError("no mask_img is given: give one, or fit on images to compute one from")
        else:
            mask = self._computed_mask(imgs)
        inside = check_mask(mask)
        mask = SpatialImage(inside, mask.affine, mask.source)
        if self.target_affine is not None:
            grid = target_grid(mask, self.target_affine, self.target_shape)
            mask = resample_image(mask, grid, interpolation="nearest")
        elif self.target_shape is not None:
            raise ValueError("target_shape needs target_affine: give both, or none")
        self._mask = mask

    def _computed_mask(self, imgs: Any) -> SpatialImage:
        args = self._mask_options()
        return compute_mask(imgs, strategy=self.mask_strategy, **args)  # type: ignore[arg-type]

    def _mask_options(self) -> dict[str, Any]:
        """Those of `mask_args` that the strategy knows; the others are told."""
        given = dict(self.mask_args or {})
        known = (*COMMON_OPTIONS, *MASK_OPTIONS.get(self.mask_strategy, given))
        useless = sorted(set(given) - {*known, "verbose"})
        if useless:
            warn_caller(
                f"mask_args: {', '.join(useless)} mean nothing to "
                f"mask_strategy={self.mask_strategy!r}: they are not used"
            )
        return {name: value for name, value in given.items() if name in known}

    def _own_grid(self) -> VoxelGrid:
        return self._mask.grid

    def _target(self) -> VoxelGrid:
        return self._mask.grid

    def _make_extractor(self) -> _Extract:
        return ExtractVoxels(self._mask, nan_policy=self.nan_policy)  # type: ignore[arg-type]

    def check_volumes(self, ds: Any) -> None:
        if self.target_affine is None and not same_grid(ds, self._mask):
            warn_caller(
                "image and mask lie on different voxel grids: the image is resampled to the mask's"
            )


@dataclass(eq=False, repr=False)
class NiftiLabelsMasker(BaseMasker):
    """One signal for every region of an atlas of labels.

    Parameters
    ----------
    labels_img : image
        3-D, whole numbers: each value is a region.
    labels : sequence of str, optional
        Names of the regions in the order of their values, with or without the background's first.
    lut : DataFrame, mapping or path, optional
        Table with the columns ``index`` and ``name``, or names by label, instead of `labels`.
    background_label : int, default 0
        The value that is no region.
    mask_img : image, optional
        Only voxels inside are used.
    strategy : str, default "mean"
        "mean", "median", "sum", "minimum", "maximum", "standard_deviation" or "variance" of the
        voxels of a region (the latter two of the population).
    resampling_target : {{"data", "labels", None}}, default "data"
        Labels (and mask) are resampled to the image, the image to the labels, or neither: then
        different grids are an error.
    keep_masked_labels : bool, default False
        Whether labels that lie outside of the mask, or vanish by resampling, stay as columns of
        NaN. By default they are left out, with a warning.
    min_coverage : float, default 0
        Share of a label's voxels that must lie in the mask, from 0 to 1; labels of which less is
        covered count as outside of it.
    {common}

    Notes
    -----
    Columns are the regions in the order of their values. Voxels that are not finite are missing
    (nilearn takes them for zero).

    Examples
    --------
    >>> import numpy as np, nibabel
    >>> from penstock.fmri import NiftiLabelsMasker
    >>> bold = nibabel.Nifti1Image(np.random.rand(4, 5, 6, 30).astype("f4"), np.eye(4))
    >>> atlas = nibabel.Nifti1Image((np.arange(120) % 4).reshape(4, 5, 6).astype("i2"), np.eye(4))
    >>> masker = NiftiLabelsMasker(atlas, labels=["visual", "motor", "insula"])
    >>> masker.set_output(transform="pandas").fit_transform(bold).shape
    (30, 3)
    >>> list(masker.get_feature_names_out())
    ['visual', 'motor', 'insula']
    """

    labels_img: Any = None
    labels: Sequence[str] | None = None
    lut: Any = None
    background_label: int = 0
    mask_img: Any = None
    strategy: str = field(default="mean", kw_only=True)
    resampling_target: str | None = field(default="data", kw_only=True)
    keep_masked_labels: bool = field(default=False, kw_only=True)
    min_coverage: float = field(default=0.0, kw_only=True)

    def _fit(self, imgs: Any) -> None:
        if self.labels_img is None:
            raise ValueError("no labels_img is given: a masker of labels needs an atlas")
        _check_choice("resampling_target", self.resampling_target, ("data", "labels", None))
        _check_choice("strategy", self.strategy, get_args(Statistic))
        names = self.labels
        if names is not None and (isinstance(names, str) or not all(map(_is_text, names))):
            raise TypeError(f"labels must be a list of names, one for each label; got {names!r}")
        self._labels = self._image(self.labels_img, "labels_img")
        self._mask = _optional(self, self.mask_img)
        self._refuse_other_grids("labels_img", self._labels)
        if self.resampling_target == "labels" and self._mask is not None:
            self._mask = resample_image(self._mask, self._labels.grid, interpolation="nearest")

    def _own_grid(self) -> VoxelGrid:
        return self._labels.grid

    def _target(self) -> VoxelGrid | None:
        return self._labels.grid if self.resampling_target == "labels" else None

    def _make_extractor(self) -> _Extract:
        return ExtractLabels(
            self._labels,
            labels=None if self.labels is None else tuple(self.labels),
            lut=plain_table(self.lut),
            background_label=self.background_label,
            strategy=self.strategy,  # type: ignore[arg-type]
            mask_img=self._mask,
            resampling_target="data" if self.resampling_target == "data" else None,
            keep_masked_labels=self.keep_masked_labels,
            min_coverage=self.min_coverage,
            nan_policy=self.nan_policy,  # type: ignore[arg-type]
        )

    @property
    def labels_(self) -> list[int]:
        """Label values of the columns in their order, after the background's where there is some.

        As in nilearn; `region_ids_` says which column has which.
        """
        columns = self._columns()
        return [self.background_label, *columns] if self._has_background() else columns

    @property
    def lut_(self) -> Any:
        """Table of all labels of the atlas and their names, as a `pandas.DataFrame`.

        The background comes first; further columns of the `lut` that was given are kept.
        """
        self._check_fitted_attribute()
        names = self._extractor.all_names()  # type: ignore[attr-defined]
        background = self.background_label if self._background_in_atlas() else None
        return look_up_table(names, self.lut, background, self._labels.data.dtype)

    @property
    def region_names_(self) -> dict[int, str]:
        """Name of every column."""
        self._check_fitted_attribute()
        return dict(enumerate(self._region_names()))

    @property
    def region_ids_(self) -> dict[str | int, int]:
        """Label value of every column, and under ``"background"`` that of the background."""
        found: dict[str | int, int] = dict(enumerate(self._columns()))
        return {"background": self.background_label, **found} if self._has_background() else found

    @property
    def region_atlas_(self) -> Any:
        """The atlas on the grid of the masker, without what its mask leaves out; int32."""
        self._check_fitted_attribute()
        labels = self._labels_on_grid().data
        if labels.dtype.kind == "f":
            labels = np.where(np.isfinite(labels), labels, self.background_label)
        if self._mask is not None:
            resample = self.resampling_target is not None
            inside = mask_on_grid(self._mask, self.grid, resample, "resample one of them before")
            labels = np.where(inside, labels, self.background_label)
        return to_nibabel(SpatialImage(labels.astype(np.int32), self.grid.matrix))

    @property
    def labels_img_(self) -> Any:
        """The atlas on the grid of the masker: that of the image of `fit`, or its own."""
        self._check_fitted_attribute()
        return to_nibabel(self._labels_on_grid())

    def _labels_on_grid(self) -> SpatialImage:
        self._check_fitted()
        return image_on_grid(self._labels, self.grid, "labels_img", "nearest", "")

    def _columns(self) -> list[int]:
        """Label values of the columns, in their order."""
        self._check_fitted_attribute()
        return [int(value) for value in self._extractor.resolve(self.grid).coords["label"]]

    def _has_background(self) -> bool:
        return self._mask is not None or self._background_in_atlas()

    def _background_in_atlas(self) -> bool:
        return bool(np.any(self._labels.data == self.background_label))


@dataclass(eq=False, repr=False)
class NiftiMapsMasker(BaseMasker):
    """One signal for every map of a 4-D image of weights, by least squares.

    Parameters
    ----------
    maps_img : image
        4-D: one map of weights a volume.
    mask_img : image, optional
        Only voxels inside are used.
    allow_overlap : bool, default True
        Whether two maps may share voxels.
    resampling_target : {{"data", "mask", "maps", None}}, default "data"
        Maps and mask are resampled to the image, all to the mask, all to the maps, or none: then
        different grids are an error.
    keep_masked_maps : bool, default False
        Whether maps that are zero inside the mask stay as columns of NaN. By default they are left
        out, with a warning.
    {common}

    Notes
    -----
    The signals of a volume are those that, times the maps, come nearest to it (least squares over
    the voxels of the mask, or of the maps' support), not weighted means; as in nilearn.

    Examples
    --------
    >>> import numpy as np, nibabel
    >>> from penstock.fmri import NiftiMapsMasker
    >>> bold = nibabel.Nifti1Image(np.random.rand(4, 5, 6, 30).astype("f4"), np.eye(4))
    >>> maps = nibabel.Nifti1Image(np.random.rand(4, 5, 6, 3).astype("f4"), np.eye(4))
    >>> NiftiMapsMasker(maps).fit_transform(bold).shape
    (30, 3)
    """

    maps_img: Any = None
    mask_img: Any = None
    allow_overlap: bool = True
    resampling_target: str | None = field(default="data", kw_only=True)
    keep_masked_maps: bool = field(default=False, kw_only=True)

    def _fit(self, imgs: Any) -> None:
        if self.maps_img is None:
            raise ValueError("no maps_img is given: a masker of maps needs a 4-D image of them")
        _check_choice("resampling_target", self.resampling_target, ("data", "mask", "maps", None))
        self._maps = self._image(self.maps_img, "maps_img", 4)
        self._mask = _optional(self, self.mask_img)
        self._refuse_other_grids("maps_img", self._maps)
        target = self._target()
        if self.resampling_target == "mask" and self._mask is None:
            raise ValueError("resampling_target='mask' needs a mask_img")
        if target is not None:
            if not same_grid(self._maps, target):
                self._maps = resample_image(self._maps, target, interpolation="linear")
            if self._mask is not None:
                self._mask = resample_image(self._mask, target, interpolation="nearest")

    def _own_grid(self) -> VoxelGrid:
        return self._maps.grid

    def _target(self) -> VoxelGrid | None:
        if self.resampling_target == "mask" and self._mask is not None:
            return self._mask.grid
        return self._maps.grid if self.resampling_target == "maps" else None

    def _make_extractor(self) -> _Extract:
        return ExtractMaps(
            self._maps,
            mask_img=self._mask,
            allow_overlap=self.allow_overlap,
            resampling_target="data" if self.resampling_target == "data" else None,
            keep_masked_maps=self.keep_masked_maps,
            nan_policy=self.nan_policy,  # type: ignore[arg-type]
        )

    @property
    def maps_img_(self) -> Any:
        """The maps on the grid of the masker: that of the image of `fit`, or their own."""
        self._check_fitted_attribute()
        return to_nibabel(image_on_grid(self._maps, self.grid, "maps_img", "linear", ""))


@dataclass(eq=False, repr=False)
class NiftiSpheresMasker(BaseMasker):
    """One signal for every sphere around a seed: the mean of its voxels.

    Parameters
    ----------
    seeds : sequence of (x, y, z)
        Centres in world coordinates [mm].
    radius : float or sequence of float, optional
        Of all spheres, or one a seed [mm]. Default: the nearest voxel alone.
    mask_img : image, optional
        Only voxels inside are used; resampled to the image (nearest).
    allow_overlap : bool, default False
        Whether two spheres may share voxels.
    {common}

    Notes
    -----
    A sphere holds the voxels whose centre is within the radius of the seed, and the voxel nearest
    to the seed. nilearn also adds a voxel whose coordinates, cut to whole millimetres, equal the
    seed's: that is not reproduced.

    Examples
    --------
    >>> import numpy as np, nibabel
    >>> from penstock.fmri import NiftiSpheresMasker
    >>> bold = nibabel.Nifti1Image(np.random.rand(9, 9, 9, 30).astype("f4"), np.eye(4))
    >>> NiftiSpheresMasker([(2, 2, 2), (6, 6, 6)], radius=[1.0, 2.0]).fit_transform(bold).shape
    (30, 2)
    """

    seeds: Any = None
    radius: Any = None
    mask_img: Any = None
    allow_overlap: bool = False
    keep_empty_spheres: bool = field(default=False, kw_only=True)

    def _fit(self, imgs: Any) -> None:
        if self.seeds is None or not len(self.seeds):
            raise ValueError("no seeds are given: spheres need the coordinates of their centres")
        if np.ndim(self.seeds) != 2 or np.shape(self.seeds)[1] != 3:
            raise ValueError(
                "seeds must be a list of (x, y, z) in mm, such as [(0, -52, 18)], got "
                f"{self.seeds!r}"
            )
        self._mask = _optional(self, self.mask_img)

    def _own_grid(self) -> VoxelGrid:
        if self._mask is None:
            raise ValueError(
                "spheres have no voxel grid of their own: fit the masker on an image, or give a "
                "mask_img"
            )
        return self._mask.grid

    def _make_extractor(self) -> _Extract:
        radius = self.radius
        if radius is not None and np.ndim(radius):
            radius = tuple(float(r) for r in radius)
        seeds = tuple(tuple(map(float, seed)) for seed in self.seeds)
        return ExtractSpheres(
            seeds,  # type: ignore[arg-type]
            radius=radius,
            mask_img=self._mask,
            allow_overlap=self.allow_overlap,
            keep_empty_spheres=self.keep_empty_spheres,
            nan_policy=self.nan_policy,  # type: ignore[arg-type]
        )

    @property
    def n_elements_(self) -> int:
        self._check_fitted()
        return len(self.seeds)

    @property
    def seeds_(self) -> list[tuple[float, ...]]:
        """Centres of the spheres [mm]."""
        return [tuple(map(float, seed)) for seed in self.seeds]

    def _region_names(self) -> list[str]:
        return self._extractor.sphere_names()  # type: ignore[attr-defined, no-any-return]


def _optional(masker: BaseMasker, mask_img: Any) -> SpatialImage | None:
    if mask_img is None:
        return None
    mask = masker._image(mask_img, "mask_img", (3, 4))
    return SpatialImage(check_mask(mask), mask.affine, mask.source)


def _check_choice(name: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


for _masker in (NiftiMasker, NiftiLabelsMasker, NiftiMapsMasker, NiftiSpheresMasker):
    _masker.__doc__ = (_masker.__doc__ or "").format(common=_COMMON)
