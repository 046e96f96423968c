"""Writing a dataset to a file of another format, in bounded memory, published when complete."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.dataset import check_dataset
from penstock.formats import (
    BUFFER_BYTES,
    ExportReport,
    Format,
    WriteOptions,
    check_format,
    target_format,
)
from penstock.io.objects import as_dataset
from penstock.local_paths import local_path

if TYPE_CHECKING:
    import xarray as xr


def export(
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    overwrite: bool = False,
    progress: Callable[[float], None] | None = None,
    ranges: tuple[np.ndarray, np.ndarray] | None = None,
    typed_labels: bool = False,
    buffer_bytes: int = BUFFER_BYTES,
) -> ExportReport:
    """Write a dataset to a file: a recording as EDF+ or FIF, volumes as NIfTI, a table, or Zarr.

    The file appears under its name when it is complete; until then it is written beside it.

    Parameters
    ----------
    ds : xarray.Dataset
        ``signal`` (channel, time) for recordings; events, channel types, bad channels and the
        measurement date are written where the format has a place for them. (x, y, z) or
        (x, y, z, time) for NIfTI. Two dims for tables: a row for every point of the last one
        (volumes), a column for every channel or region; one dim: a single row.
    path : path-like
        Target; its extension gives the format: .edf, .fif, .zarr, .nii, .nii.gz, .parquet, .csv,
        .tsv.
    format : str, optional
        "edf", "fif", "zarr", "nifti" (.nii.gz), "nii", "parquet", "csv" or "tsv", if the extension
        does not tell.
    overwrite : bool, default False
        Whether to replace an existing target.
    progress : callable, optional
        Called with the fraction done, from 0 to 1.
    ranges : tuple of two arrays, optional
        Lowest and highest value of every channel of ``signal``, in its unit, if known. EDF then
        needs one pass over the data instead of two.
    typed_labels : bool, default False
        EDF: whether labels begin with the type of the channel, as the standard texts of EDF+ do
        (``EEG Cz``). By default they are the names, and the type stands beside them where the name
        does not tell it; channels that came from EDF keep the labels that they had.
    buffer_bytes : int, default 32 MiB
        Memory to work in.

    Returns
    -------
    ExportReport
        Quantisation step and clipped samples by channel, renamed channels, notes.

    Raises
    ------
    FileExistsError
        If the target exists and `overwrite` is False.
    ValueError
        If the format cannot hold the dataset, or is not known.

    Examples
    --------
    >>> import penstock as ps
    >>> report = ps.export(ps.open_dataset("night.bdf"), "night.edf")  # doctest: +SKIP
    """
    ds = check_dataset(as_dataset(ds))
    path = local_path(path)
    if format is None:
        format = target_format(path).name
    kind = check_format(format)
    if os.path.exists(path) and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name or give overwrite=True")
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no such folder: {folder}; create it first")
    if _is_source(ds, path):
        raise ValueError(
            f"{path} is the file this dataset is read from: export it under another name"
        )
    options = WriteOptions(overwrite, progress, ranges, typed_labels, buffer_bytes)
    if kind.write is not None:
        return _write_registered(ds, path, kind, kind.write)
    return kind.built_in()(ds, path, options)


def _write_registered(
    ds: xr.Dataset, path: str, kind: Format, write: Callable[..., Any]
) -> ExportReport:
    """Write with the function of a user's format; the file has its name when it is complete."""
    unfinished = os.path.join(os.path.dirname(path), f".unfinished-{os.path.basename(path)}")
    try:
        made = write(ds, unfinished)
        if not os.path.exists(unfinished):
            raise ValueError(f"the function of the format {kind.name!r} wrote no file at its path")
        os.replace(unfinished, path)
    finally:
        if os.path.isfile(unfinished):
            os.unlink(unfinished)
    if isinstance(made, ExportReport):
        return replace(made, path=path, format=kind.name)
    return ExportReport(path, kind.name)


def _is_source(ds: xr.Dataset, path: str) -> bool:
    source = ds["signal"].encoding.get("source")
    return bool(
        source
        and os.path.exists(source)
        and os.path.exists(path)
        and os.path.samefile(source, path)
    )
