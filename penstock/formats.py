"""Formats that results are written in: their extensions, and what writing one takes."""

from __future__ import annotations

import os
from dataclasses import dataclass

from penstock.memory import MIB


@dataclass(frozen=True)
class Format:
    """One format of results."""

    name: str
    extensions: tuple[str, ...]
    """The first is the one that results get."""
    export_bytes: int = 0
    """Memory of exporting a finished result (see `penstock.io.export`), its libraries included."""
    several: bool = False
    """Whether it can hold several results at every position."""

    @property
    def suffix(self) -> str:
        """What the names of results end in."""
        return self.extensions[0]


FORMATS = {
    each.name: each
    for each in (
        Format("zarr", (".zarr",), several=True),
        Format("edf", (".edf",), 48 * MIB),
        Format("fif", (".fif",), 160 * MIB),
        Format("nifti", (".nii.gz", ".nii"), 96 * MIB),
        Format("parquet", (".parquet",), 128 * MIB),
        Format("csv", (".csv",), 64 * MIB),
        Format("tsv", (".tsv",), 64 * MIB),
    )
}


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
        if lower.endswith(each.extensions):
            return each
    return None
