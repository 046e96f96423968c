"""What all maskers share: parameters of cleaning, transforming, and the way back to an image."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from penstock.chain import Chain
from penstock.dataset import SIGNAL
from penstock.fmri.images import SpatialImage, VoxelGrid, load_image, to_nibabel, voxel_grid
from penstock.fmri.volumes import as_volumes, repetition_time
from penstock.pipeline import Pipeline
from penstock.processor import Processor

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.exceptions import NotFittedError
except ImportError as error:
    raise ImportError('maskers need scikit-learn: pip install "penstock[fmri]"') from error

if TYPE_CHECKING:
    from penstock.fmri.cleaning import CleaningOptions

CLEANING = (
    "standardize", "standardize_confounds", "detrend", "low_pass", "high_pass", "t_r",
)  # fmt: skip
"""Parameters of maskers that say how signals are cleaned."""


@dataclass(eq=False, repr=False)
class BaseMasker(TransformerMixin, BaseEstimator):
    """Extracts signals from images and cleans them; subclasses say from where.

    The parameters here are those of all maskers (see `penstock.fmri.NiftiMasker`).
    """

    keeps_type: ClassVar[bool] = False
    """Whether signals have the type of the image; otherwise they are float64."""

    _: KW_ONLY
    smoothing_fwhm: float | None = None
    standardize: Any = False
    standardize_confounds: bool = True
    detrend: bool = False
    high_variance_confounds: bool = False
    low_pass: float | None = None
    high_pass: float | None = None
    t_r: float | None = None
    dtype: Any = None
    memory: Any = None
    memory_level: int | None = None
    verbose: int = 0
    n_jobs: int | None = None
    reports: bool = True
    cmap: Any = None
    clean_args: Mapping[str, Any] | None = None
    nan_policy: str = "omit"
    runs: Any = None
    confound_columns: Any = None

    # ------------------------------------------------------------------ what subclasses say

    def _fit(self, imgs: Any) -> None:
        """Load images, and look at `imgs` where the regions depend on them."""
        raise NotImplementedError

    def _extractor(self) -> Processor:
        """The processor that makes signals of volumes."""
        raise NotImplementedError

    def _target(self) -> VoxelGrid | None:
        """The grid to which volumes are resampled first; None: they stay on their own."""
        return None

    # ------------------------------------------------------------------ scikit-learn

    def fit(self, imgs: Any = None, y: Any = None) -> BaseMasker:
        """Load masks and atlases; look at `imgs` only where regions are computed from them.

        Parameters
        ----------
        imgs : image or list of images, optional
            Needed where no mask is given and one must be computed.
        y : None
            Ignored.

        Returns
        -------
        self

        Raises
        ------
        FileNotFoundError, ValueError
            If an image is missing or of another kind than needed.
        """
        self.options()  # (wrong parameters are told before any image is opened)
        self._names: list[str] | None = None
        self._fit(imgs)
        if imgs is not None and self._target() is None:
            from penstock.fmri.one_pass import as_list

            self._seen_grid = voxel_grid(as_volumes(as_list(imgs)[0]))
        self._extractor()  # (tells wrong parameters of its own)
        self._fitted = True
        return self

    @property
    def looks_at_images(self) -> bool:
        """Whether `fit` needs images to find regions."""
        return False

    def __sklearn_is_fitted__(self) -> bool:
        return getattr(self, "_fitted", False)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted yet: call fit, or fit_transform"
            )

    def transform(
        self,
        imgs: Any,
        confounds: Any = None,
        sample_mask: Any = None,
        *,
        out: Any = None,
        overwrite: bool = False,
    ) -> Any:
        """Signals of the regions, cleaned, from one pass over the image.

        Parameters
        ----------
        imgs : path, nibabel image, xarray.Dataset, or a list of them
            An image (x, y, z, time); a single volume gives a single row. Images of a list follow
            each other in time.
        confounds : array, DataFrame, path of a table, a list of them, or "auto", optional
            Confounds to remove, a row a volume; tables of a list stand side by side, or below each
            other where there is one for each of several images. ``"auto"``: what fMRIPrep left
            beside the image. See the parameter `confound_columns`.
        sample_mask : array_like of int or bool, optional
            Volumes to keep, or a list of them for each run.
        out : path, optional
            A Zarr store to write into instead, block by block within the budget: for more voxels
            than memory holds.
        overwrite : bool, default False
            Whether to replace a store that is there.

        Returns
        -------
        numpy.ndarray
            (volumes kept, regions): float64 for region signals, the type of the image for voxels;
            with `dtype`, that type. With `out`, the dataset in the store (regions, time).

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        ValueError
            If image, masks, confounds and parameters do not go together.
        """
        from penstock.fmri.one_pass import extract, extract_to

        self._check_fitted()
        if out is not None and self._frames != "default":
            raise ValueError(
                f"out= writes a store, and set_output asks for {self._frames}: give one of the two "
                '(set_output(transform="default") takes it back)'
            )
        if out is not None:
            return extract_to(
                out, imgs, self, confounds=confounds, sample_mask=sample_mask,
                memory=self._budget(), workers=self.n_jobs, progress=self._progress(),
                overwrite=overwrite,
            )  # fmt: skip
        (signals,) = extract(
            imgs, [self], confounds=confounds, sample_mask=sample_mask, memory=self._budget(),
            workers=self.n_jobs, progress=self._progress(),
        )  # fmt: skip
        return np.atleast_2d(signals) if self._frames != "default" else signals

    @property
    def _frames(self) -> str:
        """What `set_output` asks for."""
        config = getattr(self, "_sklearn_output_config", {})
        return str(config.get("transform", "default"))

    def fit_transform(
        self, imgs: Any, y: Any = None, confounds: Any = None, sample_mask: Any = None
    ) -> Any:
        """Fit, then transform the same images; see there."""
        return self.fit(imgs, y).transform(imgs, confounds, sample_mask)

    def transform_single_imgs(
        self, imgs: Any, confounds: Any = None, sample_mask: Any = None
    ) -> Any:
        """As `transform`, of one image."""
        return self.transform(imgs, confounds, sample_mask)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns: regions, or voxels by their indices."""
        self._check_fitted()
        return np.array(self._region_names(), dtype=object)

    @property
    def n_elements_(self) -> int:
        """Number of columns."""
        return len(self._region_names())

    @property
    def mask_img_(self) -> Any:
        """The mask that is used, as a nibabel image; None without one."""
        return _as_nibabel(self, "_mask")

    @property
    def labels_img_(self) -> Any:
        """The atlas that is used, as a nibabel image."""
        return _as_nibabel(self, "_labels")

    @property
    def maps_img_(self) -> Any:
        """The maps that are used, as a nibabel image."""
        return _as_nibabel(self, "_maps")

    @property
    def _n_features_out(self) -> int:
        return self.n_elements_

    def generate_report(self, background: Any = None) -> Any:
        """A page that shows the regions, the parameters and the columns.

        Parameters
        ----------
        background : image, optional
            What regions are drawn on; of an image over time the mean of a few volumes.

        Returns
        -------
        MaskerReport
            Shown in Jupyter; ``save_as_html(path)`` writes it.

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        from penstock.fmri.masker_report import masker_report

        self._check_fitted()
        return masker_report(self, background)

    # ------------------------------------------------------------------ as processors

    def processors(self, grid: VoxelGrid | None = None) -> tuple[Processor, ...]:
        """The steps from volumes to raw signals: resampling and smoothing where asked, extraction.

        Parameters
        ----------
        grid : VoxelGrid, optional
            That of the volumes: steps that would change nothing are then left out.
        """
        from penstock.fmri.images import same_grid
        from penstock.fmri.resampling import ResampleVolumes
        from penstock.fmri.smoothing import SmoothVolumes

        steps: list[Processor] = []
        target = self._target()
        if target is not None and (grid is None or not same_grid(grid, target)):
            steps.append(ResampleVolumes(target_affine=target.affine, target_shape=target.shape))
        if self.smoothing_fwhm:
            steps.append(SmoothVolumes(self.smoothing_fwhm))
        return (*steps, self._extractor())

    def pipeline(self, confounds: Any = None, sample_mask: Any = None) -> Pipeline:
        """The masker as a pipeline, to run on many images, into stores, or on a cluster.

        Parameters
        ----------
        confounds : path, tuple of paths, array, or "auto", optional
            As for `penstock.fmri.CleanSignals`: ``"auto"`` finds those of fMRIPrep beside each
            image.
        sample_mask : sequence of int, optional
            Volumes to keep.

        Examples
        --------
        >>> masker = NiftiLabelsMasker("atlas.nii.gz").fit()  # doctest: +SKIP
        >>> masker.pipeline("auto").run(
        ...     "derivatives", "signals", format="parquet"
        ... )  # doctest: +SKIP
        """
        if not self.__sklearn_is_fitted__():
            self.fit()
        return Pipeline((*self.processors(), *self.cleaner(confounds, sample_mask)))

    def cleaner(self, confounds: Any, sample_mask: Any) -> tuple[Processor, ...]:
        """The cleaning as a processor; nothing where nothing is to be cleaned."""
        from penstock.fmri.clean import CleanSignals

        if self.high_variance_confounds:
            raise ValueError(
                "high_variance_confounds are computed from one image before its pass: compute them "
                "with penstock.fmri.high_variance_confounds and give them as confounds"
            )
        nothing = not (self.standardize or self.detrend or self.low_pass or self.high_pass)
        if nothing and confounds is None and sample_mask is None and not self.clean_args:
            return ()
        given = {name: getattr(self, name) for name in CLEANING}
        given["standardize"] = given["standardize"] or None
        extra = self._further_options()
        if sample_mask is not None and self.runs is not None:  # (it may be a list for each run)
            from penstock.fmri.cleaning import kept_volumes

            sample_mask = kept_volumes(sample_mask, len(self.runs), self.runs)
        if sample_mask is not None:
            sample_mask = tuple(np.asarray(sample_mask).tolist())
        runs = None if self.runs is None else tuple(np.asarray(self.runs).tolist())
        return (
            CleanSignals(
                confounds=confounds,
                confound_columns=self.confound_columns if confounds is not None else None,
                sample_mask=sample_mask,
                runs=runs,
                **given,
                **extra,
            ),
        )

    # ------------------------------------------------------------------ back to an image

    def inverse_transform(self, X: Any, out: str | os.PathLike[str] | None = None) -> Any:
        """Signals as an image: every region's value in all of its voxels, zero outside.

        Parameters
        ----------
        X : array_like
            (volumes, regions), or (regions,) for a single volume.
        out : path, optional
            Where to write the image (.nii, .nii.gz or .zarr), some volumes at a time; without it
            the image is made in memory.

        Returns
        -------
        nibabel.Nifti1Image, or pathlib.Path with `out`
            (x, y, z, volumes), or (x, y, z).

        Raises
        ------
        ValueError
            If `X` has another number of columns than there are regions.
        """
        from penstock.fmri.painting import paint

        self._check_fitted()
        grid = self.grid
        ds = paint(self._extractor(), np.asarray(X), grid, self._t_r())
        if out is not None:
            from penstock.io import export

            return Path(export(ds, out).path)
        image = to_nibabel(SpatialImage(ds[SIGNAL].values, grid.matrix))
        if ds[SIGNAL].ndim == 4 and self._t_r():
            image.header.set_zooms((*image.header.get_zooms()[:3], self._t_r()))
        return image

    # ------------------------------------------------------------------ helpers

    def _t_r(self) -> float | None:
        return self.t_r if self.t_r is not None else getattr(self, "_seen_t_r", None)

    @property
    def grid(self) -> VoxelGrid:
        """The grid that signals are painted on: that of the last image, or the atlas's own."""
        return self._target() or getattr(self, "_seen_grid", None) or self._own_grid()

    def _own_grid(self) -> VoxelGrid:
        raise NotImplementedError

    def _region_names(self) -> list[str]:
        from penstock.fmri.together import region_names

        if self._names is None:
            self._names = list(region_names(self._on_grid()))
        return self._names

    def _on_grid(self) -> Chain:
        """The extraction, bound to one volume without values."""
        return Chain(blank_volume(self.grid)).bind([self._extractor()])

    def see(self, ds: xr.Dataset) -> None:
        """Remember where the volumes lie: names and the way back depend on it."""
        grid = voxel_grid(ds)
        if grid != getattr(self, "_seen_grid", None):
            self._names = None
        self._seen_grid = grid
        self._seen_t_r = repetition_time(ds)

    def options(self, ds: xr.Dataset | None = None) -> CleaningOptions:
        """How signals are cleaned; the repetition time is that of the image where none is given."""
        from penstock.fmri.cleaning import CleaningOptions

        given = {name: getattr(self, name) for name in CLEANING}
        extra = self._further_options()
        twice = sorted(set(given) & set(extra))
        if twice:
            raise TypeError(f"{twice[0]!r} is given twice: as a parameter and in clean_args")
        if given["t_r"] is None and ds is not None:
            given["t_r"] = repetition_time(ds)
        return CleaningOptions(**given, **extra)

    def _further_options(self) -> dict[str, Any]:
        """Those of `clean_args`; whether the filter copies makes no difference here."""
        given = dict(self.clean_args or {})
        given.pop("butterworth__copy", None)
        return {key.removeprefix("butterworth__"): value for key, value in given.items()}

    def _budget(self) -> Any:
        """The memory budget; a folder or joblib's cache, as nilearn takes here, is none."""
        from penstock.memory import parse_bytes

        if self.memory is None or isinstance(self.memory, int | float):
            return self.memory
        try:
            return parse_bytes(self.memory)
        except (ValueError, TypeError):
            warnings.warn(
                f"memory={self.memory!r} is not a number of bytes: here it is the memory budget, "
                'such as "500 MiB"; nothing is cached',
                stacklevel=3,
            )
            return None

    def _progress(self) -> bool | None:
        return True if self.verbose else None

    def _image(self, value: Any, name: str, ndim: int = 3) -> SpatialImage:
        return load_image(value, name=name, ndim=ndim)


def _as_nibabel(masker: BaseMasker, name: str) -> Any:
    """A fitted image; AttributeError where maskers of this kind have none."""
    if not hasattr(masker, name):
        raise AttributeError(f"{type(masker).__name__} has no such image, or is not fitted")
    image = getattr(masker, name)
    return None if image is None else to_nibabel(image)


def blank_volume(grid: VoxelGrid) -> xr.Dataset:
    """A dataset of one volume on a grid, without values: to ask processors about their result."""
    from penstock.dataset import blank_variable
    from penstock.fmri.images import AFFINE, AFFINE_DIMS, SPACE

    return xr.Dataset(
        {SIGNAL: blank_variable(SPACE, grid.shape, "float32")},
        {AFFINE: (AFFINE_DIMS, grid.matrix)},
    )
