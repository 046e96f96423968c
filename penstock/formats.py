"""Formats that results are written in: their extensions, and what writing one takes."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and what the format could not hold."""

    path: str
    format: str
    quantisation_step: dict[str, float] = field(default_factory=dict)
    """Distance of two neighbouring values by channel, in the unit of the dataset (EDF)."""
    clipped: dict[str, int] = field(default_factory=dict)
    """Samples beyond the range of the file, by channel; 0 unless `ranges` were too narrow."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Channels whose name the format cannot hold: name in the dataset to name in the file."""
    padded_seconds: float = 0.0
    """Length of repeated last samples, where the format needs whole data records."""
    notes: tuple[str, ...] = ()
    """Everything else that reading the file back will not give, one sentence each."""


BUFFER_BYTES = 32 * 1024 * 1024
"""What an export reads, converts and writes at once, where nothing else is asked for."""


@dataclass(frozen=True)
class WriteOptions:
    """What `penstock.export` was asked for beside the dataset and its target."""

    overwrite: bool
    progress: Callable[[float], None] | None
    ranges: tuple[np.ndarray, np.ndarray] | None
    typed_labels: bool
    buffer_bytes: int


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
    or an `ExportReport`."""
    function: str = ""
    """``"module:function"`` of a format of Penstock, called with `WriteOptions` as well; it is
    imported when something is written."""

    def built_in(self) -> Callable[[Any, str, WriteOptions], ExportReport]:
        """The function that writes a format of Penstock."""
        module, _, function = self.function.partition(":")
        found: Callable[[Any, str, WriteOptions], ExportReport] = getattr(
            importlib.import_module(module), function
        )
        return found

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
        Format("zarr", ".zarr", several=True, function="penstock.storage.store:export_store"),
        Format(
            "edf",
            ".edf",
            ("penstock.io.edf.write",),
            contents=RECORDINGS,
            function="penstock.io.edf.write:export_edf",
        ),
        Format(
            "fif",
            ".fif",
            (
                "penstock.io.mne.write",
                "penstock.io.mne.raw",
                "mne.cov",
                "mne.epochs",
                "dask.array",
            ),
            contents=RECORDINGS,
            function="penstock.io.mne.write:export_fif",
            endings=("_raw", "raw", "raw_sss", "raw_tsss", "_meg", "_eeg", "_ieeg"),
        ),
        Format(
            "nifti",
            ".nii.gz",
            ("penstock.io.nifti.write", "nibabel"),
            contents=VOLUMES,
            function="penstock.io.nifti.write:export_nifti",
        ),
        Format(
            "nii",
            ".nii",
            ("penstock.io.nifti.write", "nibabel"),
            contents=VOLUMES,
            function="penstock.io.nifti.write:export_nifti",
        ),
        Format(
            "parquet",
            ".parquet",
            ("penstock.io.tables", "pyarrow.parquet"),
            contents=TABLES,
            function="penstock.io.tables:export_parquet",
        ),
        Format(
            "csv",
            ".csv",
            ("penstock.io.tables",),
            contents=TABLES,
            function="penstock.io.tables:export_csv",
        ),
        Format(
            "tsv",
            ".tsv",
            ("penstock.io.tables",),
            contents=TABLES,
            function="penstock.io.tables:export_tsv",
        ),
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
    >>> _ = register_format(Format("raw", ".raw", write=write_raw))
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


def check_recording(ds: Any) -> None:
    """Raise a ValueError if the signal of a dataset is none of channels and times."""
    signal = ds["signal"]
    if set(signal.dims) != {"channel", "time"} or 0 in signal.shape:
        raise ValueError(
            "only a signal of channels and time can be exported as a recording, got dims "
            f"{dict(signal.sizes)}: export it as .zarr"
        )


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
