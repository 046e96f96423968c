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
from typing import Any

NAMES_KEPT = 50_000
"""Names of all folders that are remembered, at most; the folder looked at last always is."""
SETTLED = 2.0
"""Seconds after which a folder's time of change tells whether it has changed once more."""


class Folder:
    """Names in a folder, and what was made of them."""

    def __init__(self, path: str):
        self.names: tuple[str, ...] = ()
        with contextlib.suppress(OSError):  # (it may be one to enter, but not to list)
            self.names = tuple(sorted(os.listdir(path)))
        self.made: dict[Any, Any] = {}
        """By who made it."""


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
    # (two changes within a tick of the file system's clock leave one time: what has just changed
    # is looked at again)
    if stamp is not None and abs(time.time_ns() - stamp[2]) > SETTLED * 1e9:
        with _lock:
            _known[text] = stamp, folder
            _known.move_to_end(text)
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
