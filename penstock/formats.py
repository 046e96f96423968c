"""Formats that results are written in: their extensions, and what writing one takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Format:
    """One format of results."""

    name: str
    suffix: str
    """What the names of files end in."""
    modules: tuple[str, ...] = ()
    """Modules imported when a result is written: memory of the process, known before it begins."""
    several: bool = False
    """Whether it can hold several results at every position."""
    contents: str = ""
    """What it can hold, one of `CONTENTS`; everything where it is empty."""
    endings: tuple[str, ...] = ()
    """How the names of files end before the suffix, where programs ask for that; the first is put
    to names that have none."""
    write: Callable[..., Any] | None = None
    """``write(dataset, path)``, of formats that a user registers: makes the file, and returns None
    or an `ExportReport`. None: `penstock.io.export` writes it."""

    def file_name(self, name: str) -> str:
        """What the result of a recording of that name is called.

        Recordings in FIF are called after the rule of MNE-Python, which warns about other names.

        Examples
        --------
        >>> from penstock.formats import FORMATS
        >>> FORMATS["fif"].file_name("night"), FORMATS["fif"].file_name("sub-01_task-rest_eeg")
        ('night_raw.fif', 'sub-01_task-rest_eeg.fif')
        """
        ending = "" if not self.endings or name.endswith(self.endings) else self.endings[0]
        return f"{name}{ending}{self.suffix}"

    def check_dims(self, dims: Collection[str]) -> None:
        """Raise a ValueError if the format cannot hold a signal of these dims."""
        if self.contents and not CONTENTS[self.contents](set(dims)):
            raise ValueError(
                f"{self.name.upper()} holds {self.contents}, but the signal has the dims "
                f"{', '.join(dims)}: use the format 'zarr'"
            )


RECORDINGS = "recordings (channel, time)"
VOLUMES = "volumes (x, y, z and time)"
TABLES = "tables of rows and columns"
CONTENTS: dict[str, Callable[[set[str]], bool]] = {
    RECORDINGS: lambda dims: dims == {"channel", "time"},
    VOLUMES: lambda dims: {"x", "y", "z"} <= dims <= {"x", "y", "z", "time"},
    TABLES: lambda dims: len(dims) <= 2,
}
"""Whether dims are those of what a format holds."""

FORMATS = {
    each.name: each
    for each in (
        Format("zarr", ".zarr", several=True),
        Format("edf", ".edf", ("penstock.io.edf_export",), contents=RECORDINGS),
        Format(
            "fif",
            ".fif",
            (
                "penstock.io.fif_export",
                "penstock.io.mne.raw",
                "mne.cov",
                "mne.epochs",
                "dask.array",
            ),
            contents=RECORDINGS,
            endings=("_raw", "raw", "raw_sss", "raw_tsss", "_meg", "_eeg", "_ieeg"),
        ),
        Format("nifti", ".nii.gz", ("penstock.io.nifti_write", "nibabel"), contents=VOLUMES),
        Format("nii", ".nii", ("penstock.io.nifti_write", "nibabel"), contents=VOLUMES),
        Format(
            "parquet",
            ".parquet",
            ("penstock.io.table_export", "pyarrow.parquet"),
            contents=TABLES,
        ),
        Format("csv", ".csv", ("penstock.io.table_export",), contents=TABLES),
        Format("tsv", ".tsv", ("penstock.io.table_export",), contents=TABLES),
    )
}


BUILT_IN = dict(FORMATS)
"""The formats that Penstock brings along; all others are a user's."""


def register_format(format: Format) -> Format:
    """Make a format of results known to runs and to `penstock.export`.

    Parameters
    ----------
    format : Format
        Name, extension, and the function that writes it.

    Returns
    -------
    Format
        The same format.

    Raises
    ------
    ValueError
        If it has the name of a format of Penstock, or no function.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.formats import Format, register_format
    >>> def write_raw(ds, path):
    ...     ds.signal.values.astype("<f4").tofile(path)
    >>> _ = register_format(Format("raw", ".raw", 64 << 20, write=write_raw))
    """
    if format.name in BUILT_IN:
        raise ValueError(f"{format.name!r} is a format of Penstock: choose another name")
    if format.write is None:
        raise ValueError(f"the format {format.name!r} needs a function in write= that writes it")
    FORMATS[format.name] = format
    return format


def check_format(name: str) -> Format:
    """The format of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    return FORMATS[name]


def format_of(path: str | os.PathLike[str]) -> Format | None:
    """The format that a file name asks for by its extension; None if it asks for none."""
    lower = os.fspath(path).lower()
    for each in FORMATS.values():
        if lower.endswith(each.suffix):
            return each
    return None


def target_format(path: str | os.PathLike[str]) -> Format:
    """The format that the name of a new file asks for.

    Raises
    ------
    ValueError
        If it asks for none.
    """
    found = format_of(path)
    if found is None:
        known = ", ".join(each.suffix for each in FORMATS.values())
        raise ValueError(
            f"cannot tell the format of {path}: end its name in one of {known}, or name the format"
        )
    return found


def named_target(path: Path, format: Format) -> tuple[str, Path]:
    """Name of a result and its folder, for a run that is to make one file.

    Raises
    ------
    ValueError
        If results of the format are called otherwise.
    """
    if not path.name.endswith(format.suffix):
        raise ValueError(f"{path}: results of this format are named *{format.suffix}")
    return path.name.removesuffix(format.suffix), path.parent
