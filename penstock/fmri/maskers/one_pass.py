"""Signals of one image for any number of maskers: it is read once, from front to back."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL
from penstock.fmri.extraction.together import PART, ExtractTogether
from penstock.fmri.images.images import floating_type, same_grid, voxel_grid
from penstock.fmri.images.volumes import as_list, as_volumes, check_series, joined_in_time
from penstock.local_paths import local_path
from penstock.memory.accounting import MIB
from penstock.planning.chain import Chain
from penstock.planning.lazy import prepared
from penstock.running.in_memory import collect

if TYPE_CHECKING:
    from penstock.fmri.maskers.base import BaseMasker
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
    confounds : array, DataFrame, path of a table, a list of them, or "auto", optional
        Confounds to remove from the signals of all maskers; of several images a table for each, or
        one for all. ``"auto"``: what fMRIPrep left beside the image.
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
    maskers = _checked(maskers)
    wide = any(_is_double(masker.dtype) for masker in maskers)
    volumes = [as_volumes(img, dtype="float64" if wide else None) for img in as_list(imgs)]
    for masker in maskers:
        if not masker.__sklearn_is_fitted__():
            masker.fit(imgs)
    for volume in volumes:
        check_series(volume)
    ds = joined_in_time(volumes, one_step=any(masker.t_r is None for masker in maskers))
    found = _raw(ds, maskers, memory=memory, workers=workers, progress=progress)
    if len(volumes) == 1 and "time" not in ds[SIGNAL].dims:
        return [_cast(raw[:, 0], masker.dtype) for raw, masker in zip(found, maskers, strict=True)]
    copied = sum(raw.nbytes for raw in found) <= COPY_BYTES
    tables = _Tables(volumes, confounds, memory)
    signals: list[np.ndarray] = []
    while found:  # (each is let go of as the next is made)
        masker = maskers[len(signals)]
        cleaned = _clean(found.pop(0), masker, ds, tables, sample_mask)
        cleaned = np.ascontiguousarray(cleaned.T) if copied else cleaned.T
        signals.append(_cast(cleaned, masker.dtype))
    return signals


def _checked(maskers: Any) -> list[BaseMasker]:
    """The maskers, if they are some."""
    if _is_masker(maskers):
        raise TypeError("extract takes a list of maskers: write [masker], or masker.transform(img)")
    listed = list(maskers)
    if not listed:
        raise ValueError("no maskers given: there is nothing to extract")
    for masker in listed:
        if not _is_masker(masker):
            raise TypeError(
                f"extract takes maskers of penstock.fmri, got {type(masker).__name__}: an atlas "
                "goes into NiftiLabelsMasker(atlas), a mask into NiftiMasker(mask)"
            )
    return listed


def _is_masker(value: Any) -> bool:
    """Whether it has what `BaseMasker` has, which is built on this module."""
    return callable(getattr(value, "processors", None)) and hasattr(value, "generate_report")


def _is_double(dtype: Any) -> bool:
    """Whether signals are asked for in double precision: then images are read in it, too."""
    automatic = dtype is None or (isinstance(dtype, str) and dtype == "auto")
    return not automatic and np.dtype(dtype) == np.float64


def single_volumes(imgs: Sequence[Any], masker: BaseMasker, **budget: Any) -> list[np.ndarray]:
    """Signals of images of one volume each, in one pass over all; empty where some are series."""
    volumes = [as_volumes(img) for img in imgs]
    if any("time" in ds[SIGNAL].dims or not same_grid(ds, volumes[0]) for ds in volumes):
        return []
    (raw,) = _raw(joined_in_time(volumes), [masker], **budget)
    return [_cast(row, masker.dtype) for row in np.ascontiguousarray(raw.T)]


def _raw(ds: xr.Dataset, maskers: Sequence[BaseMasker], **budget: Any) -> list[np.ndarray]:
    """Signals as they are in the image, (regions, volumes) for every masker."""
    grid = voxel_grid(ds)
    parts: list[tuple[Processor, ...]] = []
    for masker in maskers:
        masker.check_volumes(ds)
        parts.append(masker.processors(grid))
    if len(parts) == 1:
        chain = prepared(Chain(ds), parts[0], 64 * MIB)
        lengths = np.array([chain.shape[0]])
    else:
        chain = prepared(Chain(ds), [ExtractTogether(tuple(parts))], 64 * MIB)
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
    signals: np.ndarray, masker: BaseMasker, ds: xr.Dataset, tables: _Tables, sample_mask: Any
) -> np.ndarray:
    """Cleaned signals (regions, volumes kept), in the place of the raw ones where that goes."""
    from penstock.fmri.cleaning.plan import plan_cleaning

    table, names, kept = tables.of(masker, sample_mask)
    cleaning = plan_cleaning(
        signals.shape[1],
        masker.options(ds),
        confounds=table,
        names=names,
        sample_mask=kept,
        runs=masker.runs,
    )
    return cleaning.apply_rows(signals, signals if cleaning.n_kept == signals.shape[1] else None)


class _Tables:
    """Confounds of the maskers of one pass: tables and components are worked out once for all."""

    def __init__(self, volumes: Sequence[xr.Dataset], confounds: Any, memory: Any):
        self.volumes, self.confounds, self.memory = volumes, confounds, memory
        self.n_times = sum(_n_volumes(ds) for ds in volumes)
        self._loaded: dict[Any, tuple[np.ndarray | None, tuple[str, ...]]] = {}

    def of(
        self, masker: BaseMasker, sample_mask: Any
    ) -> tuple[np.ndarray | None, tuple[str, ...], Any]:
        """Values and names of the confounds of a masker, and the volumes that are kept."""
        kept = sample_mask
        if masker.confound_strategy is not None:
            table, names, kept = self._chosen(masker, sample_mask)
        else:
            columns = masker.confound_columns
            key = columns if columns is None or isinstance(columns, str) else tuple(columns)
            table, names = self._once(key, lambda: self._load(columns))
        if masker.high_variance_confounds:
            components, theirs = self._once(_Tables, self._components)
            assert components is not None
            table = components if table is None else np.hstack([components, table])
            names = (*theirs, *names)
        return table, names, kept

    def _once(self, key: Any, make: Callable[[], Any]) -> tuple[np.ndarray | None, tuple[str, ...]]:
        if key not in self._loaded:
            self._loaded[key] = make()
        return self._loaded[key]

    def _components(self) -> tuple[np.ndarray, tuple[str, ...]]:
        from penstock.fmri.cleaning.high_variance import high_variance_confounds

        if len(self.volumes) > 1:
            raise ValueError("high_variance_confounds are those of one image: give one, not a list")
        components = high_variance_confounds(self.volumes[0], memory=self.memory)
        return components, tuple(f"high variance {i}" for i in range(components.shape[1]))

    def _given(self) -> Any:
        """The tables that were given, or those beside the images."""
        from penstock.fmri.cleaning.confounds import find_confounds

        if not (isinstance(self.confounds, str) and self.confounds == "auto"):
            return self.confounds
        sources = [ds.attrs.get("source") for ds in self.volumes]
        if not all(sources):
            raise ValueError(
                "confounds='auto' looks beside the image, and this one does not come from a "
                "file: give the table"
            )
        return [find_confounds(str(source)) for source in sources]

    def _chosen(
        self, masker: BaseMasker, sample_mask: Any
    ) -> tuple[np.ndarray | None, tuple[str, ...], np.ndarray | None]:
        """What a strategy takes of the tables of fMRIPrep; of several images one after another."""
        from penstock.fmri.cleaning.plan import kept_volumes
        from penstock.fmri.cleaning.strategies import chosen_confounds

        strategy = masker.confounds_chosen()
        tables = self._given()
        if tables is None:
            raise ValueError("confound_strategy needs a table of fMRIPrep: give confounds='auto'")
        paths = [tables] if isinstance(tables, str | os.PathLike) else list(tables)
        if len(paths) != len(self.volumes):
            raise ValueError(
                f"confound_strategy needs one table of fMRIPrep for each image, and {len(paths)} "
                f"are given for {len(self.volumes)}"
            )
        values, kept, start = [], [], 0
        names: tuple[str, ...] = ()
        for path, ds in zip(paths, self.volumes, strict=True):
            n_times = _n_volumes(ds)
            table, names, left = chosen_confounds(
                path, strategy, str(ds.attrs.get("source", "")), n_times
            )
            values.append(np.zeros((n_times, 0)) if table is None else table)
            kept.append(start + (np.arange(n_times) if left is None else left))
            start += n_times
        if len({part.shape[1] for part in values}) > 1:
            raise ValueError(
                "the tables of these images hold different confounds: clean one image after another"
            )
        together = np.intersect1d(
            np.concatenate(kept), kept_volumes(sample_mask, self.n_times, masker.runs)
        )
        return (np.vstack(values) if names else None), names, together

    def _load(self, columns: Any) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """Values and names of tables; those of several images below each other."""
        from penstock.fmri.cleaning.confounds import load_confounds_table

        confounds = self._given()
        if confounds is None:
            return None, ()
        tables = as_list(confounds)
        if len(self.volumes) > 1 and len(tables) == len(self.volumes):
            each = [load_confounds_table([table], columns) for table in tables]
            if [len(values) for values, _ in each] == list(map(_n_volumes, self.volumes)):
                return np.vstack([values for values, _ in each]), each[0][1]
        return load_confounds_table(tables, columns, self.n_times)


def _n_volumes(ds: xr.Dataset) -> int:
    return int(ds.sizes.get("time", 1))


def _cast(signals: np.ndarray, dtype: Any) -> np.ndarray:
    if dtype is None:
        return signals
    if isinstance(dtype, str) and dtype == "auto":
        dtype = np.float32
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
    overwrite: bool = False,
) -> xr.Dataset:
    """Signals of one masker in a Zarr store, for more of them than memory holds.

    The volumes are read once, in their order; where signals are cleaned, they wait in scratch on
    disk and are cleaned in blocks of all volumes of some voxels.
    """
    from penstock.pipeline import Pipeline
    from penstock.storage.store import open_store

    target = Path(local_path(out))
    if target.suffix != ".zarr":
        raise ValueError(f"{target.name}: signals are written into a Zarr store, named *.zarr")
    images = as_list(imgs)
    if len(images) != 1:
        raise ValueError("images of a list are written one by one: give one image with out=")
    if not masker.__sklearn_is_fitted__():
        masker.fit(imgs)
    ds = check_series(as_volumes(images[0], dtype="float64" if _is_double(masker.dtype) else None))
    masker.check_volumes(ds)
    steps = (*masker.processors(voxel_grid(ds)), *masker.cleaner(confounds, sample_mask))
    report = Pipeline(steps).run(
        {target.stem: ds}, target.parent, memory=memory, workers=workers, progress=progress,
        overwrite=overwrite,
    )  # fmt: skip
    for reason in report.failed.values():
        raise ValueError(reason if str(target) in reason else f"{target}: {reason}")
    return open_store(target)
