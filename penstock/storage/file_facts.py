"""Sizes and checksums of files and folders: what tells whether they are whole, and as they were."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from pathlib import Path

PIECE_BYTES = 1 << 20
"""What is read at once where a file is checked."""
END_BYTES = 1 << 16
"""Of the beginning and the end of a large file, that are checked where all of it costs too much."""
SMALL_BYTES = 1 << 20
"""Arrays up to this size are checked byte by byte."""


def file_facts(path: Path) -> tuple[int, int]:
    """Size and checksum (CRC-32C) of a file.

    Raises
    ------
    OSError
        If there is none, or it cannot be read.
    """
    from google_crc32c import extend

    size = checksum = 0
    fd = os.open(path, os.O_RDONLY)
    try:
        while piece := os.pread(fd, PIECE_BYTES, size):
            checksum = extend(checksum, piece)
            size += len(piece)
    finally:
        os.close(fd)
    return size, checksum


def end_facts(path: Path) -> tuple[int, int]:
    """Size of a file, and a checksum of its beginning and its end: cheap however large it is."""
    from google_crc32c import extend

    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        checksum = extend(0, os.pread(fd, END_BYTES, 0))
        return size, extend(checksum, os.pread(fd, END_BYTES, max(0, size - END_BYTES)))
    finally:
        os.close(fd)


def files_below(
    folder: str, leave_out: Container[str] = (), _seen: frozenset[str] = frozenset()
) -> Iterator[os.DirEntry[str]]:
    """Files of a folder and those in it, in no order; links are followed, but not in a circle.

    What is in `leave_out` (paths as they are found from `folder` on) is passed over.
    """
    with os.scandir(folder) as found:
        for entry in found:
            if entry.path in leave_out:
                continue
            if not entry.is_dir():
                yield entry
            elif not entry.is_symlink():
                yield from files_below(entry.path, leave_out, _seen)
            elif (real := os.path.realpath(entry.path)) not in _seen:
                yield from files_below(entry.path, leave_out, _seen | {real})


def array_files(store: Path) -> dict[str, list[int]]:
    """Of every array of a complete store: number of its files, their bytes, and a checksum.

    Only arrays with few bytes have one.
    """
    with os.scandir(store) as found:
        names = sorted(entry.name for entry in found if entry.is_dir())
    return {name: files_of_array(store / name) for name in names}


def files_of_array(array: Path) -> list[int]:
    """The same of one array."""
    values = array / "c"
    if values.is_dir():
        sizes = {entry.path: entry.stat().st_size for entry in files_below(str(values))}
    else:
        sizes = {str(values): values.stat().st_size} if values.exists() else {}
    total = sum(sizes.values())
    if total > SMALL_BYTES:
        return [len(sizes), total]
    return [len(sizes), total, sum(file_facts(Path(path))[1] for path in sizes) % 2**32]
