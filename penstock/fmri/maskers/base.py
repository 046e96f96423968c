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

from penstock.dataset import SIGNAL
from penstock.fmri.images.images import (
    SpatialImage,
    VoxelGrid,
    load_image,
    same_grid,
    to_nibabel,
    voxel_grid,
)
from penstock.fmri.images.volumes import as_list, as_volumes, repetition_time
from penstock.fmri.maskers.frames import (
    also_called_x,
    signal_frame,
    warn_caller,
)
from penstock.fmri.maskers.one_pass import extract, extract_to
from penstock.fmri.maskers.parameters import check_parameters, check_whole
from penstock.memory.accounting import cpu_count
from penstock.pipeline import Pipeline
from penstock.processor import Processor

try:
    from sklearn import get_config
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.exceptions import NotFittedError
except ImportError as error:
    raise ImportError('maskers need scikit-learn: pip install "penstock[fmri]"') from error

if TYPE_CHECKING:
    from penstock.fmri.cleaning.plan import CleaningOptions
    from penstock.fmri.cleaning.strategies import ConfoundStrategy
    from penstock.fmri.extraction.base import _Extract


@dataclass(eq=False, repr=False)
class BaseMasker(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
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
    confound_strategy: Any = None
    confound_options: Mapping[str, Any] | None = None

    # ------------------------------------------------------------------ what subclasses say

    def _fit(self, imgs: Any) -> None:
        """Load images, and look at `imgs` where the regions depend on them."""
        raise NotImplementedError

    def _make_extractor(self) -> _Extract:
        """The processor that makes signals of volumes."""
        raise NotImplementedError

    def _target(self) -> VoxelGrid | None:
        """The grid to which volumes are resampled first; None: they stay on their own."""
        return None

    # ------------------------------------------------------------------ scikit-learn

    @also_called_x
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
        check_parameters(self)
        seen = None if imgs is None else _first_volumes(imgs)
        self._fit(imgs)
        self._extractor = self._make_extractor()
        self._extractor.check()
        self._grid = self._target() or (None if seen is None else voxel_grid(seen))
        self._seen_t_r = None if seen is None else repetition_time(seen)
        if self._grid is not None:
            self._extractor.resolve(self._grid)  # (an atlas that lies elsewhere is told here)
        self.clean_args_ = dict(self.clean_args or {})
        self._fitted = True
        return self

    @property
    def looks_at_images(self) -> bool:
        """Whether `fit` needs images to find regions."""
        return False

    def __sklearn_tags__(self) -> Any:
        from penstock.fmri.maskers.tags import masker_tags

        return masker_tags(super().__sklearn_tags__())

    def __sklearn_is_fitted__(self) -> bool:
        return getattr(self, "_fitted", False)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted yet: call fit, or fit_transform"
            )

    @also_called_x
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
        self._check_fitted()
        if out is not None and self._frames != "default":
            raise ValueError(
                f"out= writes a store, and set_output asks for {self._frames}: give one of the two "
                '(set_output(transform="default") takes it back)'
            )
        if out is not None:
            return extract_to(
                out, imgs, self, confounds=confounds, sample_mask=sample_mask,
                memory=self._budget(), workers=self._workers(), progress=self._progress(),
                overwrite=overwrite,
            )  # fmt: skip
        return self._signals(imgs, confounds, sample_mask, self._budget(), self._workers())

    def _signals(
        self, imgs: Any, confounds: Any, sample_mask: Any, memory: Any, workers: int | None
    ) -> Any:
        """Signals of one image, in the container that `set_output` asks for."""
        (signals,) = extract(
            imgs, [self], confounds=confounds, sample_mask=sample_mask, memory=memory,
            workers=workers, progress=self._progress(),
        )  # fmt: skip
        if self._frames == "default":
            return signals
        # (the columns of this image: the masker may meet others, on other grids, at the same time)
        names = self._names_on(self._target() or voxel_grid(_first_volumes(imgs)))
        return signal_frame(np.atleast_2d(signals), names, self._frames)

    @property
    def _frames(self) -> str:
        """What `set_output` asks for, or scikit-learn's configuration."""
        asked = getattr(self, "_sklearn_output_config", {}).get("transform")
        return str(asked or get_config()["transform_output"])

    @also_called_x
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
        """Names of the columns: regions, or voxels by their indices.

        Those on the grid that `fit` saw, or on the atlas's own. An image on another grid may lose
        regions: frames of `set_output` have the columns of their own image.
        """
        self._check_fitted()
        return np.array(self._region_names(), dtype=object)

    @property
    def n_elements_(self) -> int:
        """Number of columns."""
        self._check_fitted()
        return len(self._extractor.resolve(self.grid))

    @property
    def mask_img_(self) -> Any:
        """The mask on the grid of the masker, as a nibabel image; None without one."""
        self._check_fitted_attribute()
        mask = getattr(self, "_mask", None)
        if mask is None or self._grid is None:
            return None if mask is None else to_nibabel(mask)
        from penstock.fmri.extraction.base import image_on_grid

        return to_nibabel(image_on_grid(mask, self._grid, "mask_img", "nearest", ""))

    def _check_fitted_attribute(self) -> None:
        """Fitted attributes are not there before `fit`: ``hasattr`` says so."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"this {type(self).__name__} is not fitted yet: call fit")

    @property
    def _n_features_out(self) -> int:
        return self.n_elements_

    def generate_report(
        self,
        background: Any = None,
        *,
        title: str | None = None,
        displayed_maps: Any = "all",
        displayed_spheres: Any = "all",
        engine: Any = None,
    ) -> Any:
        """A page that shows the regions, the parameters and the columns.

        Parameters
        ----------
        background : image, optional
            What regions are drawn on; of an image over time the mean of a few volumes.
        title : str, optional
            Heading of the page. Default: the name of the class and the number of columns.
        displayed_maps, displayed_spheres : int, sequence of int, or "all", default "all"
            Which maps or spheres are drawn: the first ones, or those at these positions.
        engine : optional
            Taken for scripts written for nilearn; without effect.

        Returns
        -------
        MaskerReport
            Shown in Jupyter; ``save_as_html(path)`` writes it.

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        from penstock.fmri.maskers.report import masker_report

        self._check_fitted()
        chosen = displayed_spheres if hasattr(self, "seeds") else displayed_maps
        return masker_report(self, background, title=title, displayed=chosen)

    # ------------------------------------------------------------------ as processors

    def processors(self, grid: VoxelGrid | None = None) -> tuple[Processor, ...]:
        """The steps from volumes to raw signals: resampling and smoothing where asked, extraction.

        Parameters
        ----------
        grid : VoxelGrid, optional
            That of the volumes: steps that would change nothing are then left out.
        """
        from penstock.fmri.images.resampling import ResampleVolumes
        from penstock.fmri.images.smoothing import SmoothVolumes

        steps: list[Processor] = []
        target = self._target()
        if target is not None and (grid is None or not same_grid(grid, target)):
            steps.append(ResampleVolumes(target_affine=target.affine, target_shape=target.shape))
        if self.smoothing_fwhm:
            steps.append(SmoothVolumes(self.smoothing_fwhm, nan_policy=self.nan_policy))  # type: ignore[arg-type]
        return (*steps, self._extractor)

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

    def confounds_chosen(self) -> ConfoundStrategy:
        """The strategy by which confounds of fMRIPrep are chosen, with its parameters."""
        from penstock.fmri.cleaning.strategies import ConfoundStrategy

        return ConfoundStrategy(self.strategy_for("auto") or (), **(self.confound_options or {}))

    def strategy_for(self, confounds: Any) -> tuple[str, ...] | None:
        """What is chosen of tables of confounds, where there are some."""
        given = self.confound_strategy
        if given is None or confounds is None:
            return None
        if self.confound_columns is not None:
            raise ValueError(
                "confound_columns names columns, and confound_strategy chooses among them: give one"
            )
        if not isinstance(given, str | list | tuple):
            raise TypeError(f"confound_strategy is a list of names, or None; got {given!r}")
        return (given,) if isinstance(given, str) else tuple(given)

    def cleaner(self, confounds: Any, sample_mask: Any) -> tuple[Processor, ...]:
        """The cleaning as a processor; nothing where nothing is to be cleaned."""
        from penstock.fmri.maskers.cleaning import cleaning_processors

        return cleaning_processors(self, confounds, sample_mask)

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
            (x, y, z, volumes), or (x, y, z); of the type `dtype` where that is given, else of that
            of the signals (float64 for whole numbers).

        Raises
        ------
        ValueError
            If `X` has another number of columns than there are regions.
        """
        from penstock.fmri.extraction.painting import paint

        self._check_fitted()
        grid = self.grid
        ds = paint(self._extractor, np.asarray(X), grid, self._t_r())
        if self.dtype is not None and out is None:
            ds[SIGNAL] = ds[SIGNAL].astype(np.float32 if self.dtype == "auto" else self.dtype)
        if out is not None:
            from penstock.io import export

            return Path(export(ds, out).path)
        return to_nibabel(ds.load())

    # ------------------------------------------------------------------ helpers

    def _t_r(self) -> float | None:
        return self.t_r if self.t_r is not None else getattr(self, "_seen_t_r", None)

    @property
    def grid(self) -> VoxelGrid:
        """The grid that signals are painted on: that of the image of `fit`, or the atlas's own."""
        return self._grid or self._own_grid()

    def _own_grid(self) -> VoxelGrid:
        raise NotImplementedError

    def _region_names(self) -> list[str]:
        return self._names_on(self.grid)

    def _names_on(self, grid: VoxelGrid) -> list[str]:
        """Names of the columns of an image on a grid."""
        return self._extractor.resolve(grid).names()

    def check_volumes(self, ds: xr.Dataset) -> None:
        """Warn where something is resampled that `fit` did not see; changes nothing."""
        atlas = getattr(self, "_labels", None) or getattr(self, "_maps", None)
        if atlas is None:
            return
        name = "labels_img" if hasattr(self, "_labels") else "maps_img"
        target = self._target()
        if target is not None and not same_grid(target, ds):
            warn_caller(
                f"image and {name} lie on different voxel grids: the image is resampled, as "
                f"resampling_target={getattr(self, 'resampling_target', None)!r} asks for"
            )
        elif target is None and not same_grid(self.grid, ds):
            warn_caller(
                f"image and {name} lie on different voxel grids: {name} is resampled to the image; "
                "fit the masker on it, or use fit_transform, to make it that of the masker"
            )

    def _refuse_other_grids(self, name: str, atlas: SpatialImage) -> None:
        """Raise ValueError where nothing may be resampled and the mask lies elsewhere."""
        mask = getattr(self, "_mask", None)
        never = getattr(self, "resampling_target", None) is None
        if never and mask is not None and not same_grid(mask, atlas):
            raise ValueError(
                f"{name} and mask_img lie on different voxel grids: resample one of them, or give "
                "a resampling_target"
            )

    def options(self, ds: xr.Dataset | None = None) -> CleaningOptions:
        """How signals are cleaned; the repetition time is that of the image where none is given."""
        from penstock.fmri.maskers.cleaning import cleaning_options

        return cleaning_options(self, ds)

    def _budget(self) -> Any:
        """The memory budget; a folder or joblib's cache, as nilearn takes here, is none."""
        from penstock.memory.accounting import parse_bytes

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

    def _workers(self) -> int | None:
        """Threads at work; negative numbers count back from the cores, as in joblib."""
        check_whole("n_jobs", self.n_jobs, "a number of threads (-1: all cores)")
        if self.n_jobs is None or self.n_jobs > 0:
            return self.n_jobs
        if self.n_jobs == 0:
            raise ValueError("n_jobs=0 leaves nobody to work: give None or -1 for all cores")
        return max(1, cpu_count() + 1 + self.n_jobs)

    def _progress(self) -> bool | None:
        return True if self.verbose else None

    def _image(self, value: Any, name: str, ndim: int | tuple[int, ...] = 3) -> SpatialImage:
        return load_image(value, name=name, ndim=ndim)


def _first_volumes(imgs: Any) -> xr.Dataset:
    """The first of the images, opened: it says where voxels lie."""
    return as_volumes(as_list(imgs)[0])
