"""Files that take their name once they are complete and on disk."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def published_file(path: str) -> Iterator[io.FileIO]:
    """A new file beside `path` that takes its name at the end; after an error nothing is left."""
    folder, name = os.path.split(path)
    fd, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".part", dir=folder)
    try:
        with io.FileIO(fd, "w") as file:
            yield file
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner reads
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


class KeptOpen(io.RawIOBase):
    """A file that stays open when what writes to it is closed."""

    def __init__(self, file: io.FileIO):
        self._file = file

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:
        """Write bytes to the file."""
        return self._file.write(data)


def write_at(fd: int, values: np.ndarray, position: int) -> None:
    """Write an array at a byte position; a full disk is an error, not a short file."""
    view = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    while len(view):
        n = os.pwrite(fd, view, position)
        view, position = view[n:], position + n
