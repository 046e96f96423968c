"""Which volumes are kept, and which run they belong to."""

from __future__ import annotations

from typing import Any

import numpy as np


def kept_volumes(sample_mask: Any, n_times: int, runs: Any = None) -> np.ndarray:
    """Volumes that a sample mask keeps, as ascending numbers.

    Parameters
    ----------
    sample_mask : array_like of int or bool, list of array_like, or None
        Numbers of the kept volumes, or True for them; None keeps all. With `runs` it may be a list
        with one such mask for each run (in ascending order of the runs), counted from the first
        volume of that run. Text is a stretch of the whole series: ``"4:"``, ``"4:-2"``.
    n_times : int
        Time points.
    runs : array_like, optional
        Run of each volume.

    Returns
    -------
    numpy.ndarray of int64, (n_kept,)

    Raises
    ------
    ValueError
        If the mask is empty, out of range, not ascending or of the wrong length.
    """
    if n_times < 1:
        raise ValueError("there are no time points to clean")
    if sample_mask is None:
        each_run(runs, n_times)
        return np.arange(n_times)
    if isinstance(sample_mask, str):
        sample_mask = np.arange(n_times)[slice_of_text(sample_mask)]
    several = isinstance(sample_mask, list | tuple) and any(np.ndim(part) for part in sample_mask)
    if not several:
        return _one_mask(sample_mask, n_times, "sample_mask")
    parts = each_run(runs, n_times)
    if len(parts) != len(sample_mask):
        raise ValueError(
            f"sample_mask is a list of {len(sample_mask)} masks where there "
            + (f"are {len(parts)} runs" if runs is not None else "is one run")
            + ": give one mask for each run, or one for the whole series"
        )
    kept = [
        volumes[_one_mask(mask, len(volumes), f"sample_mask[{i}]")]
        for i, (mask, (_, volumes)) in enumerate(zip(sample_mask, parts, strict=True))
    ]
    return np.sort(np.concatenate(kept))


def slice_of_text(text: str) -> slice:
    """A stretch of volumes that is written as in Python: ``"4:"``, ``":-2"``, ``"10:100"``."""
    start, mark, stop = text.replace(" ", "").partition(":")
    try:
        if not mark:
            raise ValueError
        return slice(*(int(part) if part else None for part in (start, stop)))
    except ValueError:
        raise ValueError(
            f"sample_mask={text!r} is no stretch of volumes: write first:stop, such as 4: to leave "
            "out the first four"
        ) from None


def each_run(runs: Any, n_times: int) -> list[tuple[Any, np.ndarray]]:
    """Label and volumes of every run, in ascending order of the labels."""
    if runs is None:
        return [(None, np.arange(n_times))]
    labels = np.asarray(runs)
    if labels.shape != (n_times,):
        raise ValueError(
            f"runs must name the run of each of the {n_times} time points, got the shape "
            f"{labels.shape}"
        )
    return [(label, np.flatnonzero(labels == label)) for label in np.unique(labels).tolist()]


def _one_mask(mask: Any, n_times: int, what: str) -> np.ndarray:
    values = np.asarray(mask)
    if values.ndim != 1:
        raise ValueError(f"{what} must be one list of volumes, got the shape {values.shape}")
    if values.dtype == bool:
        if len(values) != n_times:
            raise ValueError(
                f"{what} has {len(values)} entries (true or false) where there are {n_times} "
                "volumes: give one for each volume, or the numbers of the kept ones"
            )
        values = np.flatnonzero(values)
    if not len(values):
        raise ValueError(f"{what} keeps no volume: nothing would be left")
    if values.dtype.kind not in "iu":
        raise ValueError(f"{what} must hold whole numbers or true and false, got {values.dtype}")
    values = values.astype(np.int64)
    outside = values[(values < 0) | (values >= n_times)]
    if len(outside):
        raise ValueError(
            f"{what} names volume {outside[0]}, but there are {n_times} (0 to {n_times - 1})"
        )
    if (np.diff(values) <= 0).any():
        raise ValueError(f"{what} must name volumes in ascending order, each once: sort it")
    return values
