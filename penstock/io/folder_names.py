"""Names of files in folders, remembered as long as a folder stays as it is.

What belongs to a recording is looked up several times while it is opened, and in folders that it
shares with thousands of others: each look then costs asking when the folder changed last, and
finding a few names among those that there are.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

NAMES_KEPT = 50_000
"""Names of all folders that are remembered, at most; the folder looked at last always is."""
SETTLED = 2.0
"""Seconds after which a folder's time of change tells whether it has changed once more."""


class Folder:
    """Names in a folder, and what was made of them: once, whichever thread asks first."""

    def __init__(self, path: str):
        self._path = path
        self._made: dict[Any, Any] = {}
        self._lock = threading.RLock()

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted; none where the folder cannot be listed."""
        return self.once("names", self._listed)

    def _listed(self) -> tuple[str, ...]:
        with contextlib.suppress(OSError):  # (it may be one to enter, but not to list)
            return tuple(sorted(os.listdir(self._path)))
        return ()

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` gives, called only where nothing was made of that key before."""
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            found: T = self._made[key]
            return found


_lock = threading.Lock()
_known: OrderedDict[str, tuple[tuple[int, int, int], Folder]] = OrderedDict()


def folder_at(path: str | os.PathLike[str]) -> Folder:
    """The names in a folder as they are now; none where it cannot be listed."""
    text = os.path.abspath(path)
    stamp = _stamp(text)
    with _lock:
        known = _known.get(text)
        if known is not None and known[0] == stamp:
            _known.move_to_end(text)
            return known[1]
        folder = Folder(text)
        # (two changes within a tick of the file system's clock leave one time: what has just
        # changed is looked at again)
        if stamp is not None and abs(time.time_ns() - stamp[2]) > SETTLED * 1e9:
            _known[text] = stamp, folder
            _known.move_to_end(text)
    if folder.names:  # (listed by this thread: others who ask meanwhile wait for it)
        with _lock:
            kept = sum(len(one.names) for _, one in _known.values())
            while kept > NAMES_KEPT and len(_known) > 1:
                kept -= len(_known.popitem(last=False)[1][1].names)
    return folder


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns
