"""Signals of one image for any number of maskers: it is read once, from front to back."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from penstock.chain import Chain
from penstock.dataset import SIGNAL
from penstock.fmri.images import floating_type, same_grid, voxel_grid
from penstock.fmri.together import PART, ExtractTogether
from penstock.fmri.volumes import as_volumes
from penstock.in_memory import collect
from penstock.memory import MIB

if TYPE_CHECKING:
    from penstock.fmri.base_masker import BaseMasker
    from penstock.processor import Processor

COPY_BYTES = 64 * MIB
"""Signals up to this size are returned as arrays of their own, volumes first in memory too."""


def extract(
    imgs: Any,
    maskers: Iterable[BaseMasker],
    *,
    confounds: Any = None,
    sample_mask: Any = None,
    memory: int | float | str | None = None,
    workers: int | None = None,
    progress: bool | None = None,
) -> list[np.ndarray]:
    """Signals of one image for several maskers, in one pass over it.

    Parameters
    ----------
    imgs : path, nibabel image, xarray.Dataset, or a list of them
        The image (x, y, z, time); images of a list follow each other in time.
    maskers : iterable of masker
        Each with its own regions, smoothing and cleaning. Those that are not fitted are fitted.
    confounds : array, DataFrame, path of a table, or a list of them, optional
        Confounds to remove from the signals of all maskers.
    sample_mask : array_like of int or bool, optional
        Volumes to keep, or a list of them for each run.
    memory : str or int, optional
        Budget of this process, the signals included, e.g. ``"500 MiB"``. Default: half of what is
        available.
    workers : int, optional
        Threads at work. Default: the cores there are.
    progress : bool, optional
        True and False: show it or not. Default: show it once the work has taken two seconds.

    Returns
    -------
    list of numpy.ndarray
        For every masker what its ``transform`` gives: (volumes kept, regions).

    Raises
    ------
    BudgetError
        If signals and a few volumes do not fit the budget.
    ValueError
        If images, masks, confounds and parameters do not go together.

    Examples
    --------
    >>> import numpy as np, nibabel
    >>> from penstock.fmri import NiftiLabelsMasker, NiftiMasker, extract
    >>> bold = nibabel.Nifti1Image(np.random.rand(4, 5, 6, 10).astype("f4"), np.eye(4))
    >>> mask = nibabel.Nifti1Image(np.ones((4, 5, 6), "uint8"), np.eye(4))
    >>> labels = nibabel.Nifti1Image(np.arange(120, dtype="int16").reshape(4, 5, 6), np.eye(4))
    >>> [a.shape for a in extract(bold, [NiftiMasker(mask), NiftiLabelsMasker(labels)])]
    [(10, 120), (10, 119)]
    """
    maskers = list(maskers)
    if not maskers:
        raise ValueError("no maskers given: there is nothing to extract")
    volumes = [as_volumes(img) for img in as_list(imgs)]
    for masker in maskers:
        if not masker.__sklearn_is_fitted__():
            masker.fit(imgs)
    _check_grids(volumes)
    single = "time" not in volumes[0][SIGNAL].dims and len(volumes) == 1
    rows = [_raw(ds, maskers, memory=memory, workers=workers, progress=progress) for ds in volumes]
    found = []
    for number, masker in enumerate(maskers):
        parts = [raw[number] for raw in rows]
        signals = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        if single:
            found.append(_cast(signals[:, 0], masker.dtype))
            continue
        cleaned = _clean(signals, masker, volumes, confounds, sample_mask, memory)
        found.append(_cast(cleaned, masker.dtype))
    return found


def as_list(imgs: Any) -> list[Any]:
    """The images of a list, or the one there is."""
    if isinstance(imgs, list | tuple):
        if not imgs:
            raise ValueError("no images given")
        return list(imgs)
    return [imgs]


def _check_grids(volumes: Sequence[xr.Dataset]) -> None:
    for number, ds in enumerate(volumes[1:], 2):
        if not same_grid(volumes[0], ds):
            raise ValueError(
                f"image {number} of the list lies on another voxel grid than the first: images of "
                "a list follow each other in time; give them one by one, or use a Multi masker"
            )


def _raw(ds: xr.Dataset, maskers: Sequence[BaseMasker], **budget: Any) -> list[np.ndarray]:
    """Signals as they are in the image, (regions, volumes) for every masker."""
    grid = voxel_grid(ds)
    parts: list[tuple[Processor, ...]] = []
    for masker in maskers:
        masker.see(ds)
        parts.append(masker.processors(grid))
    if len(parts) == 1:
        chain = Chain(ds).prepared(parts[0], 64 * MIB)
        lengths = np.array([chain.shape[0]])
    else:
        chain = Chain(ds).prepared([ExtractTogether(tuple(parts))], 64 * MIB)
        lengths = np.bincount(chain.output[PART].values)
    values = collect(chain, **budget)
    if values.ndim == 1:
        values = values[:, np.newaxis]
    edges = itertools.pairwise(np.cumsum([0, *lengths]))
    dtype = floating_type(ds[SIGNAL].dtype)
    return [
        values[first:stop].astype(dtype if masker.keeps_type else np.float64, copy=False)
        for masker, (first, stop) in zip(maskers, edges, strict=True)
    ]


def _clean(
    signals: np.ndarray,
    masker: BaseMasker,
    volumes: Sequence[xr.Dataset],
    confounds: Any,
    sample_mask: Any,
    memory: Any,
) -> np.ndarray:
    """Cleaned signals (volumes kept, regions), in the place of the raw ones where that goes."""
    from penstock.fmri.cleaning import plan_cleaning
    from penstock.fmri.confounds import load_confounds_table

    n_times = signals.shape[1]
    tables = [] if confounds is None else as_list(confounds)
    if masker.high_variance_confounds:
        from penstock.fmri.high_variance import high_variance_confounds

        if len(volumes) > 1:
            raise ValueError("high_variance_confounds are those of one image: give one, not a list")
        tables = [high_variance_confounds(volumes[0], memory=memory), *tables]
    table, names = load_confounds_table(tables, n_times=n_times) if tables else (None, ())
    cleaning = plan_cleaning(
        n_times,
        masker.options(volumes[0]),
        confounds=table,
        names=names,
        sample_mask=sample_mask,
        runs=masker.runs,
    )
    cleaned = signals if cleaning.n_kept == n_times else None
    cleaned = cleaning.apply_rows(signals, cleaned)
    if cleaned.nbytes <= COPY_BYTES:
        return np.ascontiguousarray(cleaned.T)
    return cleaned.T


def _cast(signals: np.ndarray, dtype: Any) -> np.ndarray:
    if dtype is None:
        return signals
    if isinstance(dtype, str) and dtype == "auto":
        dtype = np.float32
    if np.dtype(dtype) == bool:
        raise ValueError("signals cannot be bool: give dtype a type of numbers")
    return signals.astype(dtype, copy=False)


def extract_to(
    out: str | os.PathLike[str],
    imgs: Any,
    masker: BaseMasker,
    *,
    confounds: Any = None,
    sample_mask: Any = None,
    memory: int | float | str | None = None,
    workers: int | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Signals of one masker in a Zarr store, for more of them than memory holds.

    The volumes are read once, in their order; where signals are cleaned, they wait in scratch on
    disk and are cleaned in blocks of all volumes of some voxels.
    """
    from penstock.pipeline import Pipeline
    from penstock.store import open_store

    target = Path(out).expanduser().absolute()
    if target.suffix != ".zarr":
        raise ValueError(f"{target.name}: signals are written into a Zarr store, named *.zarr")
    images = as_list(imgs)
    if len(images) != 1:
        raise ValueError("images of a list are written one by one: give one image with out=")
    if not masker.__sklearn_is_fitted__():
        masker.fit(imgs)
    ds = as_volumes(images[0])
    masker.see(ds)
    steps = (*masker.processors(voxel_grid(ds)), *masker.cleaner(confounds, sample_mask))
    report = Pipeline(steps).run(
        {target.stem: ds}, target.parent, memory=memory, workers=workers, progress=progress
    )
    for reason in report.failed.values():
        raise ValueError(f"{target}: {reason}")
    return open_store(target)
