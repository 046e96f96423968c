"""Images as datasets of volumes, from whatever holds them."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import (
    SIGNAL,
    Indexer,
    Region,
    indexer_length,
    lazy_variable,
    make_dataset,
    read_region,
    sampled_coordinate,
    sampling_frequency,
)
from penstock.fmri.images.images import (
    AFFINE,
    AFFINE_DIMS,
    SPACE,
    SpatialImage,
    same_grid,
    voxel_grid,
)
from penstock.fmri.images.sources import matching_paths, refuse_surface
from penstock.io.bids.choice import chosen_images
from penstock.io.nifti.images import array_variable, from_nibabel
from penstock.io.nifti.times import AGREE
from penstock.memory.buffers import new_array
from penstock.reading import Reading, reading_of


def as_volumes(image: Any, *, t_r: float | None = None, dtype: Any = None) -> xr.Dataset:
    """A dataset of volumes over an image, without reading or copying its values.

    Parameters
    ----------
    image : path, nibabel image, SpatialImage, or xarray.Dataset, or a list of them
        A file that `penstock.open_dataset` opens, an image in memory, or a dataset with the dims x,
        y, z and, where it is a series, time. Images of a list, or those that a pattern matches,
        follow each other in time.
    t_r : float, optional
        Repetition time [s], where it is not that of the header.
    dtype : {"float32", "float64"}, optional
        Type of the values of files and of images of integers. Default: the smaller one if it holds
        all values exactly, otherwise float64.

    Returns
    -------
    xarray.Dataset
        ``signal`` (x, y, z, time), or (x, y, z) for a single volume, with the coordinate
        ``affine``.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        If it is not an image.

    Examples
    --------
    >>> import numpy as np, nibabel
    >>> from penstock.fmri import as_volumes
    >>> image = nibabel.Nifti1Image(np.zeros((4, 5, 6, 10), "int16"), np.eye(4))
    >>> dict(as_volumes(image, t_r=2.0).signal.sizes)
    {'x': 4, 'y': 5, 'z': 6, 'time': 10}
    """
    if isinstance(image, str | os.PathLike):
        paths = matching_paths(image)
        image = paths[0] if len(paths) == 1 else paths
    if isinstance(image, list | tuple):
        if not image:
            raise ValueError("no images given: the list of images is empty")
        ds = joined_in_time([as_volumes(one, dtype=dtype) for one in image])
    elif isinstance(image, str):
        from penstock.io import open_dataset

        ds = open_dataset(image, dtype=dtype)
    elif isinstance(image, xr.Dataset):
        ds = image
    elif isinstance(image, SpatialImage):
        ds = _in_memory(image.data, image.affine, dtype)
    elif hasattr(image, "dataobj") and hasattr(image, "affine"):
        ds = from_nibabel(image, dtype=dtype)
    else:
        refuse_surface(image, "the image")
        raise TypeError(
            "an image is a path, a nibabel image, or a dataset of volumes, got "
            f"{type(image).__name__}"
        )
    signal = ds[SIGNAL]
    missing = [dim for dim in SPACE if dim not in signal.dims]
    if missing:
        raise ValueError(
            f"volumes need the dims x, y and z, but the data have {tuple(map(str, signal.dims))}"
        )
    if t_r is not None and "time" in signal.dims:
        if not t_r > 0:
            raise ValueError(f"t_r is the time between two volumes in seconds, got {t_r!r}")
        ds = ds.drop_vars("time", errors="ignore").assign_coords(
            sampled_coordinate("time", ds.sizes["time"], 1 / t_r)
        )
    return ds


def check_series(ds: xr.Dataset) -> xr.Dataset:
    """The volumes, if they follow each other along time at most.

    Raises
    ------
    ValueError
        If they have a further dim, as vectors over time have.
    """
    further = [str(dim) for dim in ds[SIGNAL].dims if dim not in (*SPACE, "time")]
    if further:
        raise ValueError(
            f"signals are taken of volumes over x, y, z and time, but these have {further[0]!r} as "
            f"well: choose one with ds.isel({further[0]}=...)"
        )
    return ds


BLOCK_BYTES = 16 << 20
"""Volumes that are read at a time, where nothing else is asked for."""


def blocks_in_file_order(ds: xr.Dataset, n_bytes: int) -> Iterator[np.ndarray]:
    """All volumes of a dataset, a few at a time, read once and in the order of image files.

    Parameters
    ----------
    ds : xarray.Dataset
        ``signal`` over any dims.
    n_bytes : int
        Most that a block takes; one volume at least.

    Yields
    ------
    numpy.ndarray
        (volumes, ..., z, y, x): other dims before those of space, ``time`` first where it is one.
    """
    signal = ds.variables[SIGNAL]
    dims = tuple(map(str, signal.dims))
    inner = [dim for dim in dims if dim not in (*SPACE, "time")]
    inner += [dim for dim in SPACE[::-1] if dim in dims]
    order = [dims.index(dim) for dim in ("time", *inner) if dim in dims]
    whole: Region = {dim: slice(0, ds.sizes[dim]) for dim in dims}
    if "time" not in dims:
        yield read_region(ds, whole).transpose(order)[np.newaxis]
        return
    n_values = math.prod(ds.sizes[dim] for dim in inner)
    length = max(1, n_bytes // max(1, n_values * signal.dtype.itemsize))
    for start in range(0, ds.sizes["time"], length):
        run: Region = {**whole, "time": slice(start, min(start + length, ds.sizes["time"]))}
        yield read_region(ds, run).transpose(order)


def joined_in_time(volumes: Sequence[xr.Dataset], *, one_step: bool = True) -> xr.Dataset:
    """Images that follow each other in time, as one dataset; read from each of them as needed.

    Parameters
    ----------
    volumes : sequence of xarray.Dataset
        The images.
    one_step : bool, default True
        Whether they must have the same repetition time, as far as it is known; not so where it is
        given otherwise, or not used.

    Raises
    ------
    ValueError
        If they lie on different voxel grids, or have several repetition times.
    """
    if len(volumes) == 1:
        return volumes[0]
    first = voxel_grid(volumes[0])
    for number, ds in enumerate(volumes[1:], 2):
        if not same_grid(first, ds):
            raise ValueError(
                f"image {number} of the list lies on another voxel grid than the first: images of "
                "a list follow each other in time; give them one by one, or use a Multi masker"
            )
    lengths = [ds.sizes.get("time", 1) for ds in volumes]
    dtype = np.result_type(*(ds[SIGNAL].dtype for ds in volumes))
    known = [reading_of(ds.variables[SIGNAL]) for ds in volumes]
    reading = Reading(
        # (what is read of an image is copied into the block)
        scratch=1.0 + max(one.scratch for one in known),
        scratch_bytes=max(one.scratch_bytes for one in known),
        resident_bytes=sum(one.resident_bytes for one in known),
        interleaved=True,
        sequential=any(one.sequential for one in known),
    )
    dims, shape = (*SPACE, "time"), (*first.shape, sum(lengths))
    read = _InTime(tuple(volumes), np.cumsum([0, *lengths]), dtype)
    if one_step:
        _check_one_step(volumes)
    steps = [repetition_time(ds) for ds in volumes]
    t_r = steps[0] if all(_agree(step, steps[0]) for step in steps) else None
    return make_dataset(
        lazy_variable(dims, read, shape, dtype, volumes[0][SIGNAL].attrs, reading=reading),
        dims,
        sampling_frequency=1 / t_r if t_r else None,
        coords={AFFINE: (AFFINE_DIMS, first.matrix)},
    )


def _check_one_step(volumes: Sequence[xr.Dataset]) -> None:
    first: tuple[int, float] | None = None
    for number, ds in enumerate(volumes, 1):
        step = repetition_time(ds)
        if step is None:
            continue
        first = first or (number, step)
        if not _agree(step, first[1]):
            raise ValueError(
                f"image {number} of the list has a repetition time of {step:g} s, image {first[0]} "
                f"one of {first[1]:g} s: images of a list follow each other in time; give t_r= [s] "
                "if a header is wrong, or the images one by one"
            )


def _agree(step: float | None, other: float | None) -> bool:
    return step is not None and other is not None and math.isclose(step, other, rel_tol=AGREE)


@dataclass(frozen=True, eq=False)
class _InTime:
    """Reads regions of images that follow each other."""

    volumes: tuple[xr.Dataset, ...]
    edges: np.ndarray
    dtype: np.dtype

    def __call__(self, *indexers: Indexer) -> np.ndarray:
        x, y, z, times = indexers
        if isinstance(times, slice):
            times = np.arange(times.start, times.stop)
        lengths = tuple(indexer_length(indexer) for indexer in indexers)
        out = new_array(lengths[::-1], self.dtype).T
        owners = np.searchsorted(self.edges, times, side="right") - 1
        for owner in np.unique(owners):
            ds, at = self.volumes[owner], np.flatnonzero(owners == owner)
            region: Region = dict(zip(SPACE, (x, y, z), strict=True))
            if "time" in ds[SIGNAL].dims:
                local = times[at] - self.edges[owner]
                together = local[-1] - local[0] + 1 == len(local)
                region["time"] = slice(int(local[0]), int(local[-1]) + 1) if together else local
            values = read_region(ds, region)
            dims = ds[SIGNAL].dims
            values = values.transpose([dims.index(dim) for dim in (*SPACE, "time") if dim in dims])
            out[..., at[0] : at[-1] + 1] = values if values.ndim == 4 else values[..., np.newaxis]
        return out


def repetition_time(ds: xr.Dataset) -> float | None:
    """Time between two volumes [s]; None where the time coordinate is missing or irregular."""
    with contextlib.suppress(ValueError):
        # (the reciprocal of a rounded reciprocal: its last digit could cost a cosine)
        return float(f"{1 / sampling_frequency(ds):.12g}")
    return None


def _in_memory(values: np.ndarray, affine: Any, dtype: Any) -> xr.Dataset:
    variable = array_variable(values, (*SPACE, "time")[: values.ndim], dtype)
    return make_dataset(variable, coords={AFFINE: (AFFINE_DIMS, np.array(affine, np.float64))})


def as_list(imgs: Any) -> list[Any]:
    """The images of a list, those that a pattern matches, or the one there is."""
    if isinstance(imgs, str | os.PathLike):
        return [str(path) for path in chosen_images([*map(Path, matching_paths(imgs))])]
    if isinstance(imgs, list | tuple):
        if not imgs:
            raise ValueError("no images given: the list of images is empty")
        return list(imgs)
    return [imgs]
