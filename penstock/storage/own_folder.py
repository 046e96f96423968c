"""Folders of results: what we write lies in them, whatever links others put there.

Whoever may write into a folder of results (a shared one) can put a link where a run is going to
write, and would have the user of the run write through it, with the user's rights.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO


def own_file(path: Path) -> IO[bytes]:
    """A file of ours, opened or made; a link that somebody put in its place is taken away."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.fdopen(os.open(path, flags, 0o666), "r+b")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, flags | os.O_EXCL, 0o666), "r+b")


def refuse_elsewhere(out: Path, folders: Iterable[Path]) -> None:
    """Raise ValueError where a folder below `out` is a link that leads out of it."""
    home = os.path.realpath(out)
    for folder in folders:
        real = os.path.realpath(folder)
        if real != home and not real.startswith(os.path.join(home, "")):
            raise ValueError(
                f"{folder} leads out of {out}, to {real}: remove that link, or give the folder "
                "itself for results"
            )


def leads_elsewhere(folder: Path) -> bool:
    """Whether a folder of ours is a link, or holds one: what we write would lie elsewhere."""
    if folder.is_symlink():
        return True
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        return any(
            entry.is_symlink()
            or (entry.is_dir(follow_symlinks=False) and leads_elsewhere(Path(entry.path)))
            for entry in entries
        )
    return False
