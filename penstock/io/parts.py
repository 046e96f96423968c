"""Files that belong to a recording beside the one that is opened."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from penstock.io.mne.parts import later_parts, missing_before, next_names, whole_name

_BESIDE = {
    ".vhdr": (".eeg", ".vmrk", ".dat"),
    ".ahdr": (".eeg", ".amrk", ".avg"),
    ".set": (".fdt",),
    ".hdr": (".img",),
    ".img": (".hdr",),
    ".cdt": (".cdt.dpa", ".cdt.dpo", ".cdt.cef", ".cdt.ceo"),
    ".lay": (".dat",),
}
"""Extension of what is opened, and those of its parts."""
_MASTERS = frozenset({".h5", ".hdf5", ".nxs", ".nx5", ".nexus", ".emd", ".hspy", ".nc", ".cxi"})
"""Extensions of HDF5 files, which may have values in others."""
_HEADER_BYTES = 1 << 24
_LINES = re.MULTILINE | re.IGNORECASE


def parts_of(path: str | os.PathLike[str]) -> list[Path]:
    """Files that exist beside a recording and are read with it, in order of their names.

    Those of one name with another extension, those that a BrainVision header names (in its own
    folder), the later files of a split FIF recording, and those that an HDF5 file leads to.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from penstock.io.parts import parts_of
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("a.vhdr", "a.eeg", "a.vmrk"):
    ...     _ = (folder / name).write_bytes(b"")
    >>> [part.name for part in parts_of(folder / "a.vhdr")]
    ['a.eeg', 'a.vmrk']
    """
    file = Path(path)
    extension = file.suffix.lower()
    found = {
        other
        for end in _BESIDE.get(extension, ())
        if (other := file.with_name(file.name[: -len(extension)] + end)).is_file()
    }
    if extension in (".vhdr", ".ahdr"):
        found.update(_named_in(file))
    if extension == ".fif":
        found.update(later_parts(file))
    if extension in _MASTERS and file.is_file():
        from penstock.io.hdf5.links import other_files

        found.update(map(Path, other_files(str(file))))
    return sorted(found)


def check_parts(path: str | os.PathLike[str]) -> None:
    """Raise a ValueError if a recording leads to another folder, or a part is empty or missing.

    A file from elsewhere must not bring other files of this machine into a result.
    """
    file = Path(path)
    named: list[str] = []
    if file.suffix.lower() in (".vhdr", ".ahdr"):
        named = _names_in(file)
    elif file.suffix.lower() == ".fif" and file.is_file():
        named = next_names(file)
        before = missing_before(file)
        if before is not None:
            raise ValueError(
                f"{path} is only a part of {whole_name(file)}, of which {before} is missing: copy "
                "all files of the recording into one folder"
            )
    for name in named:
        if os.path.basename(name) != name:
            raise ValueError(
                f"{path} goes on in {name}, outside of its folder, which is not followed: put the "
                "files of a recording into one folder, and their bare names into its header"
            )
    for part in parts_of(path):
        if part.stat().st_size == 0:
            raise ValueError(f"{part} is empty (0 bytes): copy or export it again")


def check_inside(path: str | os.PathLike[str], files: Iterable[str | os.PathLike[str]]) -> None:
    """Raise a ValueError if files that a recording is read from lie outside of its folder.

    Links are not looked through: DataLad keeps the files of a folder elsewhere.
    """
    whole = os.path.abspath(path)
    home = whole if os.path.isdir(whole) else os.path.dirname(whole)
    for file in files:
        if os.path.commonpath([home, os.path.abspath(file)]) != home:
            raise ValueError(
                f"{path} goes on in {file}, outside of its folder, which is not followed: put the "
                "files of a recording into one folder, and their bare names into its header"
            )


def _named_in(header: Path) -> list[Path]:
    """The files that a BrainVision header names, of those in its folder."""
    parts = [header.with_name(os.path.basename(name)) for name in _names_in(header)]
    return [part for part in parts if part.is_file()]


def _names_in(header: Path) -> list[str]:
    """The files that a BrainVision header names, as it writes them."""
    text = ""
    with contextlib.suppress(OSError), open(header, "rb") as file:
        text = file.read(_HEADER_BYTES).decode("latin-1")
    stem = header.with_suffix("").name
    # (read as MNE-Python's parser reads it: any case, blanks, a colon)
    names = re.findall(r"^[ \t]*(?:DataFile|MarkerFile)[ \t]*[=:][ \t]*(.+?)\s*$", text, _LINES)
    return [name.replace("$b", stem) for name in names]
