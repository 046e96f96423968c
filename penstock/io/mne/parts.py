"""FIF recordings in several files, as they are written above 2 GB: which of them are only parts.

A part says in its first tags which file it goes on from, or the file before it says which comes
next (https://mne.tools/mne-standalone-docs, ``FIFFB_REF``). Names alone do not tell: ``rest-1.fif``
may be a recording of its own. In BIDS names they do: ``split-02`` is never one.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from penstock.io.bids.names import parse_name

_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>[1-9]\d*)(?P<end>\.fif)", re.IGNORECASE)

_TAG = struct.Struct(">iiii")
_BUFFER, _ROLE, _NUMBER, _NAME = 300, 115, 117, 118
_PREVIOUS, _NEXT = 1, 2
_LARGEST_TEXT = 4096
_TAGS_READ = 1_000_000


def first_part(path: Path) -> Path | None:
    """The file with which a recording begins, if `path` is one of its later parts; else None.

    Examples
    --------
    >>> from pathlib import Path
    >>> from penstock.io.mne.parts import first_part
    >>> first_part(Path("night_raw.fif")) is None
    True
    """
    first: Path | None = None
    seen = path
    while (before := _before(seen)) is not None and before.is_file():
        if not _goes_on(before, seen):
            break
        first = seen = before
    return first


def missing_before(path: Path) -> str | None:
    """Name of the file that a later part goes on from, if that lies nowhere beside it; else None.

    Without it the part is no recording: it begins somewhere in the middle of one.
    """
    before = _before(path)
    if before is not None and before.is_file():
        return None
    if before is not None and _split_of(path) is not None:
        return before.name
    try:
        references = _references(*_stamp(path), True)
    except OSError:
        return None
    for role, written, _ in references:
        if role == _PREVIOUS:
            name = os.path.basename(written) or (before.name if before is not None else "")
            return None if name and path.with_name(name).is_file() else name or "the file before it"
    return None


def whole_name(path: Path) -> str:
    """Name of the file in which a recording of several files begins, by the name of a later one."""
    while (before := _before(path)) is not None:
        path = before
    return path.name


def later_parts(path: Path) -> list[Path]:
    """The files in which a recording that begins in `path` goes on, in their order."""
    parts: list[Path] = []
    seen = path
    while (after := _after(seen)) is not None and after.is_file() and _goes_on(seen, after):
        parts.append(after)
        seen = after
    return parts


def next_names(path: Path) -> list[str]:
    """Names of the files in which a FIF file says that it goes on, as they are written."""
    try:
        return [name for role, name, _ in _references(*_stamp(path), False) if role == _NEXT]
    except OSError:
        return []


def _before(path: Path) -> Path | None:
    """The file that a later part would follow, by the names."""
    split = _split_of(path)
    if split is not None:
        text, number = split
        return _with_split(path, text, number - 1) if number > 1 else None
    match = _NUMBERED.fullmatch(path.name)
    if match is None:
        return None
    number = int(match["number"])
    middle = "" if number == 1 else f"-{number - 1}"
    return path.with_name(f"{match['stem']}{middle}{match['end']}")


def _after(path: Path) -> Path | None:
    split = _split_of(path)
    if split is not None:
        return _with_split(path, split[0], split[1] + 1)
    if not path.name.lower().endswith(".fif"):
        return None
    match = _NUMBERED.fullmatch(path.name)
    if match is not None:
        return path.with_name(f"{match['stem']}-{int(match['number']) + 1}{match['end']}")
    return path.with_name(f"{path.name[:-4]}-1{path.name[-4:]}")


def _split_of(path: Path) -> tuple[str, int] | None:
    """The ``split`` entity of a BIDS name, as it is written and as a number."""
    name = parse_name(path)
    is_fif = name is not None and name.extension.lower() == ".fif"
    text = name.entities.get("split", "") if name is not None and is_fif else ""
    return (text, int(text)) if text.isascii() and text.isdigit() else None


def _with_split(path: Path, text: str, number: int) -> Path:
    wanted = str(number).zfill(len(text))
    return path.with_name(path.name.replace(f"split-{text}_", f"split-{wanted}_", 1))


def _goes_on(before: Path, after: Path) -> bool:
    """Whether a recording goes on from one file to the other, as one of them says."""
    if _split_of(after) is not None:
        return True
    if _NUMBERED.fullmatch(after.name) is None:
        return False
    try:
        return any(role == _PREVIOUS for role, _, _ in _references(*_stamp(after), True)) or any(
            role == _NEXT and (os.path.basename(name) == after.name or (not name and number > 0))
            for role, name, number in _references(*_stamp(before), False)
        )
    except OSError:
        return False


def _stamp(path: Path) -> tuple[str, int, int]:
    stat = os.stat(path)
    return str(path), stat.st_mtime_ns, stat.st_size


@lru_cache(256)
def _references(
    path: str, changed: int, size: int, head_only: bool
) -> tuple[tuple[int, str, int], ...]:
    """Role, name and number of the other files that a FIF file refers to."""
    found: list[list[int | str]] = []
    for kind, data in _tags(path, size, head_only):
        if kind == _ROLE:
            found.append([int.from_bytes(data, "big"), "", 0])
        elif found and kind == _NAME:
            found[-1][1] = data.decode("latin-1")
        elif found and kind == _NUMBER:
            found[-1][2] = int.from_bytes(data, "big")
    return tuple((int(role), str(name), int(number)) for role, name, number in found)


def _tags(path: str, size: int, head_only: bool) -> Iterator[tuple[int, bytes]]:
    """Tags of references, of the whole file or of what comes before its samples."""
    position = 0
    with open(path, "rb") as file:
        for _ in range(_TAGS_READ):
            file.seek(position)
            head = file.read(_TAG.size)
            if len(head) < _TAG.size:
                return
            kind, _, length, after = _TAG.unpack(head)
            if length < 0 or (head_only and kind == _BUFFER):
                return
            if kind in (_ROLE, _NAME, _NUMBER) and length <= _LARGEST_TEXT:
                yield kind, file.read(length)
            position = after if after > 0 else position + _TAG.size + length
            if after < 0 or not 0 < position < size:
                return
