"""Results under construction: the ledger of finished blocks, and publishing a result whole."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import uuid
from collections.abc import Container, Iterable, Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np

from penstock.storage.durable import write_whole

_PROCESS = uuid.uuid4().hex[:8]
"""Tells this process from earlier ones of its number (in containers, all are the first)."""


LOCK = ".penstock.lock"
"""File in a folder of results that says that a run writes there."""
REPORT_NAME = "penstock-report"
"""What the reports of runs in it are called."""


def partial_path(target: Path) -> Path:
    """Where a result lives until it is complete."""
    return target.with_name(f".{target.name}.partial")


def replaced_path(target: Path) -> Path:
    """Where a result that is being replaced stands for a moment."""
    return target.with_name(f".{target.name}.replaced")


def publish(finished: Path, target: Path, *, overwrite: bool) -> None:
    """Give a finished file or folder its final name in one step.

    Raises
    ------
    FileExistsError
        If the target exists and `overwrite` is False.
    """
    aside = replaced_path(target)
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
        remove(building / "plan.json")
    remove(building)


def remove(path: Path) -> None:
    """Delete a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class BlockNumbers(Set[int]):
    """A set of block numbers that takes a bit each: there may be millions.

    Examples
    --------
    >>> from penstock.storage.ledger import BlockNumbers
    >>> blocks = BlockNumbers([1, 5, 100_000])
    >>> 5 in blocks, 6 in blocks, len(blocks), blocks == {1, 5, 100_000}
    (True, False, 3, True)
    """

    _PAGE = 8192
    """Numbers of a page; pages without any are not there."""

    def __init__(self, numbers: Iterable[int] = ()):
        self._pages: dict[int, bytearray] = {}
        self._count = 0
        for number in numbers:
            self.add(number)

    def add(self, number: int) -> bool:
        """Add a number; whether it is new."""
        page, bit = divmod(number, self._PAGE)
        bits = self._pages.setdefault(page, bytearray(self._PAGE // 8))
        if bits[bit >> 3] & (1 << (bit & 7)):
            return False
        bits[bit >> 3] |= 1 << (bit & 7)
        self._count += 1
        return True

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        page, bit = divmod(number, self._PAGE)
        bits = self._pages.get(page)
        return bits is not None and bool(bits[bit >> 3] & (1 << (bit & 7)))

    def __iter__(self) -> Iterator[int]:
        for page in sorted(self._pages):
            bits = np.unpackbits(np.frombuffer(self._pages[page], np.uint8), bitorder="little")
            yield from (np.flatnonzero(bits) + page * self._PAGE).tolist()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<{len(self)} block numbers>"


class Ledger:
    """Which blocks of a store under construction are finished, and what their files hold.

    One file a process (no locks between machines), one line a block, appended after the block's
    data are written: JSON, a tab, and a checksum. A line that is cut short or damaged is not a
    finished block.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()

    def add(self, stage: int, block: int, **facts: Any) -> None:
        """Note a finished block; `files` are those of `penstock.storage.store.write_block`."""
        # (after a line that a full disk cut short, this one begins anew)
        line = b"\n" + _line({"stage": stage, "block": block, **facts})
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{socket.gethostname()}-{os.getpid()}-{_PROCESS}.jsonl"
        with self._lock, open(path, "ab") as file:
            file.write(line)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every finished block, once, with its facts."""
        seen: dict[int, BlockNumbers] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            with open(path, "rb") as file:
                for line in file:
                    entry = _entry(line)
                    if entry is None:
                        continue
                    of_stage = seen.setdefault(entry["stage"], BlockNumbers())
                    if of_stage.add(entry["block"]):
                        yield entry

    def finished(self) -> dict[int, BlockNumbers]:
        """Finished blocks by stage."""
        blocks: dict[int, BlockNumbers] = {}
        for entry in self.entries():
            blocks.setdefault(entry["stage"], BlockNumbers()).add(entry["block"])
        return blocks

    def forget(self, blocks: Container[tuple[int, int]]) -> None:
        """Strike out finished blocks (stage, number) that turned out not to be."""
        earlier = list(self.folder.glob("*.jsonl"))
        kept = (e for e in self.entries() if (e["stage"], e["block"]) not in blocks)
        path = self.folder / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        write_whole(path, b"".join(map(_line, kept)))
        for old in earlier:
            old.unlink(missing_ok=True)


def _line(entry: dict[str, Any]) -> bytes:
    from google_crc32c import value

    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"%s\t%08x\n" % (text, value(text))


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line of a ledger; None where it is not whole."""
    from google_crc32c import value

    text, _, check = line.rpartition(b"\t")
    if check != b"%08x\n" % value(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def noted_files(entry: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Files of a finished block, below the folder of the result: name, size, checksum."""
    for array, first, counts, facts in entry.get("files", ()):
        for number, index in enumerate(np.ndindex(*counts)):
            key = "/".join(str(start + i) for start, i in zip(first, index, strict=True))
            size, checksum = facts[2 * number : 2 * number + 2]
            yield f"{array}/c/{key}" if key else f"{array}/c", size, checksum


def clean_leftovers(path: Path) -> None:
    """Remove what killed writers left inside a store: temporary files of unfinished chunks."""
    for folder, _, names in os.walk(path):
        for name in names:
            if name.endswith(".partial"):
                Path(folder, name).unlink(missing_ok=True)
