"""Results under construction: the ledger of finished blocks, and publishing a result whole."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def partial_path(target: Path) -> Path:
    """Where a result lives until it is complete."""
    return target.with_name(f".{target.name}.partial")


def publish(finished: Path, target: Path, *, overwrite: bool) -> None:
    """Give a finished file or folder its final name in one step.

    Raises
    ------
    FileExistsError
        If the target exists and `overwrite` is False.
    """
    aside = target.with_name(f".{target.name}.replaced")
    if os.path.lexists(target):  # (a link is replaced, not followed)
        if not overwrite:
            raise FileExistsError(f"{target} exists: use overwrite to replace it")
        if not finished.exists():
            raise FileNotFoundError(
                f"{finished}: the finished result is gone; nothing was replaced"
            )
        remove(aside)
        os.replace(target, aside)
    os.replace(finished, target)
    remove(aside)


def discard(building: Path) -> None:
    """Delete an unfinished result; killed half-way, what is left does not look like one."""
    if not building.is_symlink():
        (building / "plan.json").unlink(missing_ok=True)
    remove(building)


def remove(path: Path) -> None:
    """Delete a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Ledger:
    """Which blocks of a store under construction are finished.

    One small file a process (no locks between machines), one JSON line a block, appended after the
    block's data are in place. A line cut short by a crash is not a finished block.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()

    def add(self, stage: int, block: int, **facts: Any) -> None:
        """Note a finished block."""
        line = json.dumps({"stage": stage, "block": block, **facts}) + "\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{socket.gethostname()}-{os.getpid()}.jsonl"
        with self._lock, open(path, "ab") as file:
            file.write(line.encode())

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every finished block, once, with its facts."""
        seen: set[tuple[int, int]] = set()
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    continue
                try:
                    entry = json.loads(line)
                    key = (int(entry["stage"]), int(entry["block"]))
                except (ValueError, KeyError, TypeError):
                    continue
                if key not in seen:
                    seen.add(key)
                    yield entry

    def finished(self) -> dict[int, set[int]]:
        """Finished blocks by stage."""
        blocks: dict[int, set[int]] = {}
        for entry in self.entries():
            blocks.setdefault(int(entry["stage"]), set()).add(int(entry["block"]))
        return blocks


def clean_leftovers(path: Path) -> None:
    """Remove what killed writers left inside a store: temporary files of unfinished chunks."""
    for leftover in path.rglob("*.partial"):
        leftover.unlink(missing_ok=True)
