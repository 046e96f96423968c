"""Adding to an HDF5 file without a moment at which it can be lost.

HDF5 changes the tables of a file in place while it writes; killed in the middle, it may leave a
file that nothing opens, with all the measurements in it. Here the bytes that the file already has
stay as they are until everything new is behind them and on disk. What must then change (a few
pages: the header and the table of a group) is first written to a journal beside the file and then
carried over. A process that is killed before leaves unused bytes at the end of an unchanged file;
one that is killed while carrying over leaves the journal, which the next opening completes.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import io
import json
import os
from collections.abc import Iterator
from typing import Any

import h5py

from penstock.storage.publish import published_file

PAGE_BYTES = 4096


@contextlib.contextmanager
def appended(path: str) -> Iterator[h5py.File]:
    """An HDF5 file to add groups and datasets to: all of them are in it at the end, or none.

    Parameters
    ----------
    path : str
        An existing file, which no other program may have open meanwhile.

    Raises
    ------
    OSError
        If the file cannot be written, or is open elsewhere.
    """
    complete(path)
    with _locked(path) as fd:
        old_size = os.fstat(fd).st_size
        failed: list[OSError] = []
        try:
            # opened and closed, HDF5 tells where what it knows of ends
            probe = _Overlay(fd, old_size, failed)
            h5py.File(probe, "r+").close()
            overlay = _Overlay(fd, min(old_size, probe.end), failed)
            with h5py.File(overlay, "r+") as file:
                yield file
            os.fsync(fd)
        except BaseException as error:
            os.ftruncate(fd, old_size)
            # (closing a file that could not be written, h5py may raise something else)
            if failed and error is not failed[0]:
                raise failed[0] from error
            raise
        _write_journal(path, overlay.changes())
        _carry_over(fd, path)


def check_appendable(path: str) -> None:
    """Raise now what `appended` would raise once the results are there."""
    complete(path)
    with _locked(path):
        pass


def complete(path: str) -> None:
    """Finish what a killed process was carrying over into a file, if anything.

    Raises
    ------
    OSError
        If the file cannot be written, or is just being written.
    """
    if os.path.exists(_journal(path)):
        with _locked(path) as fd:
            if os.path.exists(_journal(path)):
                _carry_over(fd, path)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[int]:
    """The file, open for reading and writing, that HDF5 opens nowhere else meanwhile."""
    try:
        fd = os.open(path, os.O_RDWR)
    except PermissionError as error:
        raise OSError(
            f"{path} cannot be written: make it writable, or write to a file of its own with "
            "penstock.io.write_usid"
        ) from error
    try:
        try:
            # the kind of lock that the HDF5 library takes
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(
                f"{path} is open in another program, or in this one: close it there, then write "
                "again"
            ) from None
        except OSError:
            pass  # (a file system without locks)
        yield fd
    finally:
        os.close(fd)


class _Overlay(io.RawIOBase):
    """A file for h5py whose first `kept` bytes stay as they are: changes are held in memory."""

    def __init__(self, fd: int, kept: int, failed: list[OSError]):
        self.fd, self.kept, self.end = fd, kept, kept
        self.failed = failed
        self.position = 0
        self.pages: dict[int, bytearray] = {}

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.end}[whence]
        self.position = start + offset
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        start = self.position
        view = memoryview(buffer).cast("B")[: max(0, self.end - start)]
        for low, high, page in self._parts(start, len(view)):
            if page in self.pages:
                data = bytes(self.pages[page][low - page : high - page])
            else:
                data = os.pread(self.fd, high - low, low).ljust(high - low, b"\0")
            view[low - start : high - start] = data
        self.position += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        start, view = self.position, memoryview(data).cast("B")
        for low, high, page in self._parts(start, len(view)):
            part = view[low - start : high - start]
            if page is None:
                try:
                    _write_at(self.fd, part, low)
                except OSError as error:
                    self.failed.append(error)
                    raise
                continue
            if page not in self.pages:
                self.pages[page] = bytearray(self._original(page))
            self.pages[page][low - page : high - page] = part
        self.position += len(view)
        self.end = max(self.end, self.position)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self.end = self.position if size is None else size
        if self.end >= self.kept:
            os.ftruncate(self.fd, self.end)
        return self.end

    def changes(self) -> list[tuple[int, bytes, bytes]]:
        """Pages that differ from the file: (position, as they are, as they will be)."""
        pages = ((at, self._original(at), bytes(new)) for at, new in sorted(self.pages.items()))
        return [(at, old, new) for at, old, new in pages if old != new]

    def _original(self, page: int) -> bytes:
        return os.pread(self.fd, min(PAGE_BYTES, self.kept - page), page)

    def _parts(self, start: int, n_bytes: int) -> Iterator[tuple[int, int, int | None]]:
        """A stretch cut at pages: (from, to, position of the page or None behind what is kept)."""
        at, stop = start, start + n_bytes
        while at < stop:
            if at >= self.kept:
                yield at, stop, None
                return
            page = at - at % PAGE_BYTES
            high = min(stop, page + PAGE_BYTES, self.kept)
            yield at, high, page
            at = high


def _write_at(fd: int, data: Any, position: int) -> None:
    view = memoryview(data)
    while len(view):
        n = os.pwrite(fd, view, position)
        view, position = view[n:], position + n


# ---------------------------------------------------------------------- journal


def _journal(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.penstock-journal")


def _write_journal(path: str, changes: list[tuple[int, bytes, bytes]]) -> None:
    """All of it under its name, and on disk, or nothing."""
    rows = [[at, *(base64.b64encode(b).decode() for b in (old, new))] for at, old, new in changes]
    with published_file(_journal(path)) as file:
        file.write(json.dumps(rows).encode())
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _carry_over(fd: int, path: str) -> None:
    # (whoever else may write into the folder does not change the file that way)
    with open(os.open(_journal(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        if os.fstat(file.fileno()).st_uid not in (os.geteuid(), os.fstat(fd).st_uid):
            raise OSError(
                f"{_journal(path)} was left by another user and is not carried over: remove it"
            )
        rows = json.load(file)
    changes = [(at, base64.b64decode(old), base64.b64decode(new)) for at, old, new in rows]
    # where another program has written since, what was to be added cannot be any more
    if all(os.pread(fd, len(new), at) in (old, new) for at, old, new in changes):
        for at, _, new in changes:
            _write_at(fd, new, at)
        os.fsync(fd)
    os.unlink(_journal(path))
