"""Maskers of several images: subjects or sessions, side by side within one budget."""

from __future__ import annotations

import glob
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from penstock.fmri.images.images import SpatialImage
from penstock.fmri.images.volumes import as_list
from penstock.fmri.maskers.base import BaseMasker
from penstock.fmri.maskers.maskers import (
    NiftiLabelsMasker,
    NiftiMapsMasker,
    NiftiMasker,
    NiftiSpheresMasker,
)
from penstock.fmri.maskers.one_pass import single_volumes
from penstock.memory.accounting import available_memory, cpu_count, process_now


# (scikit-learn would make a frame of the list: here each of its arrays becomes one, where asked)
class _Multi(BaseMasker, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Transforms images one by one; a thread each, with their shares of the budget."""

    def transform(
        self,
        imgs: Any,
        confounds: Any = None,
        sample_mask: Any = None,
        *,
        out: Any = None,
        overwrite: bool = False,
    ) -> Any:
        """Signals of every image.

        Parameters
        ----------
        imgs : list of images
            Each (x, y, z, time). A single image gives a single array.
        confounds, sample_mask : list, optional
            One for every image (see the masker of one image).

        Returns
        -------
        list of numpy.ndarray
            (volumes kept, regions) for every image; a list of frames after
            ``set_output(transform="pandas")``.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        ValueError
            If there are not as many confounds or sample masks as images.
        """
        if isinstance(imgs, str | os.PathLike) and glob.has_magic(os.fspath(imgs)):
            imgs = as_list(imgs)
        if not isinstance(imgs, list | tuple):
            return super().transform(imgs, confounds, sample_mask, out=out, overwrite=overwrite)
        if out is not None:
            raise ValueError(
                "out= takes one image; for many use masker.pipeline().run(images, folder)"
            )
        images = as_list(imgs)
        tables = _one_each(confounds, len(images), "confounds")
        masks = _one_each(sample_mask, len(images), "sample masks")
        self._check_fitted()
        if confounds is None and sample_mask is None and self._frames == "default":
            rows = single_volumes(
                images,
                self,
                memory=self._budget(),
                workers=self._workers(),
                progress=self._progress(),
            )
            if rows:
                return rows
        workers = max(1, min(self._workers() or cpu_count(), len(images)))
        budget = self._budget()
        if budget is None:
            budget = process_now() + available_memory() // 2
        share = process_now() + (budget - process_now()) // workers

        def one(number: int) -> Any:
            return self._signals(images[number], tables[number], masks[number], share, 1)

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, range(len(images))))

    def inverse_transform(self, X: Any, out: Any = None) -> Any:
        """Images of a list of signals; see the masker of one image."""
        if isinstance(X, list | tuple) and out is None:
            return [super(_Multi, self).inverse_transform(x) for x in X]
        return super().inverse_transform(X, out)


def _one_each(values: Any, n_images: int, what: str) -> list[Any]:
    if values is None:
        return [None] * n_images
    found = list(values) if isinstance(values, list | tuple) else [values]
    if len(found) != n_images:
        raise ValueError(f"{len(found)} {what} for {n_images} images: give one for each")
    return found


class MultiNiftiMasker(_Multi, NiftiMasker):
    """Signals of the voxels inside one mask, of several images.

    Parameters are those of `NiftiMasker`. Without `mask_img` a mask is computed from each image;
    voxels are kept that lie in more than half of them, in one connected piece.

    Examples
    --------
    >>> import numpy as np, nibabel
    >>> from penstock.fmri import MultiNiftiMasker
    >>> make = lambda: nibabel.Nifti1Image(np.random.rand(4, 5, 6, 9).astype("f4"), np.eye(4))
    >>> mask = nibabel.Nifti1Image(np.ones((4, 5, 6), "u1"), np.eye(4))
    >>> [signals.shape for signals in MultiNiftiMasker(mask).fit_transform([make(), make()])]
    [(9, 120), (9, 120)]
    """

    def _computed_mask(self, imgs: Any) -> SpatialImage:
        from penstock.fmri.images.masks import compute_mask

        args = self._mask_options()
        if isinstance(imgs, list | tuple):
            args = {"opening": 2, "connected": True, **args}
        return compute_mask(imgs, strategy=self.mask_strategy, **args)  # type: ignore[arg-type]


class MultiNiftiLabelsMasker(_Multi, NiftiLabelsMasker):
    """One signal for every region of an atlas, of several images; see `NiftiLabelsMasker`."""


class MultiNiftiMapsMasker(_Multi, NiftiMapsMasker):
    """One signal for every map, of several images; see `NiftiMapsMasker`."""


class MultiNiftiSpheresMasker(_Multi, NiftiSpheresMasker):
    """One signal for every sphere, of several images; see `NiftiSpheresMasker`."""
