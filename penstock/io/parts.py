"""Files that belong to a recording beside the one that is opened."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from penstock.io.fif_parts import later_parts

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
_HEADER_BYTES = 1 << 16


def parts_of(path: str | os.PathLike[str]) -> list[Path]:
    """Files that exist beside a recording and are read with it, in order of their names.

    Those of one name with another extension, those that a BrainVision header names (in its own
    folder), and the later files of a split FIF recording.

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
    return sorted(found)


def _named_in(header: Path) -> list[Path]:
    """The files that a BrainVision header names, of those in its folder."""
    text = ""
    with contextlib.suppress(OSError), open(header, "rb") as file:
        text = file.read(_HEADER_BYTES).decode("latin-1")
    stem = header.with_suffix("").name
    names = re.findall(r"^(?:DataFile|MarkerFile)=(.+?)\s*$", text, re.MULTILINE)
    parts = [header.with_name(os.path.basename(name.replace("$b", stem))) for name in names]
    return [part for part in parts if part.is_file()]
