"""Unfinished results: what they were begun with, which of their files are whole, how they go on.

The folder of an unfinished result holds its store, scratch arrays, the ledger, and ``plan.json``,
which is written last of what is made before the first block. It says of which work the folder is
(digests of its parts), how that is cut into blocks, what every metadata file says, and size and
checksum of the small files, so that damage of any of them is found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from penstock.storage.durable import write_whole
from penstock.storage.file_facts import file_facts, files_below
from penstock.storage.ledger import Ledger, noted_files, partial_path

PLAN = "plan.json"
CHECKING_THREADS = 4
"""Files are read by so many threads at once where they are checked."""


class DamagedError(ValueError):
    """Something that a run left unfinished cannot be used; the message says what."""


@dataclass(frozen=True)
class Begun:
    """What an unfinished result was begun with."""

    key: str
    """Of the result that is being made."""
    parts: dict[str, str]
    """Digests of what the key is made of: "pipeline", "source", "options", ..."""
    blocks: list[list[int]]
    """Block shape of every stage."""
    stages: list[list[str]]
    """Kind and title of every stage."""
    steps: list[str]
    """Names of the processors."""
    memory: int
    """Budget [bytes]."""
    versions: list[dict[str, str]]
    """Of what worked on it, the latest last."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Metadata files and what they say."""
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Small files that were there before the first block: size and checksum."""

    def save(self, building: Path) -> None:
        """Write it down, whole or not at all."""
        from google_crc32c import value

        text = json.dumps(asdict(self), sort_keys=True)
        content = {"key": self.key, "check": value(text.encode()), "begun": text}
        write_whole(building / PLAN, json.dumps(content).encode())


def read_begun(building: Path) -> Begun | None:
    """What an unfinished result was begun with; None where nothing was.

    Raises
    ------
    DamagedError
        If what stands there cannot be read.
    """
    from google_crc32c import value

    try:
        content = json.loads((building / PLAN).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise DamagedError("the plan of the unfinished result is damaged") from None
    if not isinstance(content, dict) or "check" not in content:
        raise DamagedError("another version of Penstock began the unfinished result")
    text = content.get("begun")
    if not isinstance(text, str) or value(text.encode()) != content["check"]:
        raise DamagedError("the plan of the unfinished result is damaged")
    try:
        return Begun(**json.loads(text))
    except TypeError:
        raise DamagedError("another version of Penstock began the unfinished result") from None


def begun_key(target: Path) -> str | None:
    """Key of the result that an interrupted run was making of that name."""
    try:
        begun = read_begun(partial_path(target))
    except DamagedError:
        return None
    return begun.key if begun is not None else None


def with_outline(begun: Begun, building: Path) -> Begun:
    """The same, with what the empty store and its scratch hold."""
    metadata, files = {}, {}
    for part in ("store", "scratch"):
        for entry in files_below(str(building / part)):
            path = Path(entry.path)
            name = path.relative_to(building).as_posix()
            if path.name == "zarr.json":
                metadata[name] = path.read_text()
            else:
                files[name] = file_facts(path)
    return replace(begun, metadata=metadata, files=files)


def restore_outline(begun: Begun, building: Path) -> None:
    """Bring back metadata files as they were before the first block, and check the small ones.

    (A run that was killed while it published had added to some.)

    Raises
    ------
    DamagedError
        If a file is missing or damaged that cannot be brought back.
    """
    for name, text in begun.metadata.items():
        path = building / name
        try:
            same = path.read_text() == text
        except (OSError, ValueError):
            same = False
        if not same:
            try:
                write_whole(path, text.encode())
            except OSError as error:
                raise DamagedError(f"{name} of the unfinished result cannot be written") from error
    for name, facts in begun.files.items():
        if not _is_whole(building / name, *facts):
            raise DamagedError(f"{name} of the unfinished result is missing or damaged")


# ---------------------------------------------------------------------- blocks


def _is_whole(path: Path, size: int, checksum: int) -> bool:
    try:
        return path.stat().st_size == size and file_facts(path) == (size, checksum)
    except OSError:
        return False


def _has_size(path: Path, size: int, checksum: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


Lost = dict[tuple[int, int], str]
"""Blocks (stage, number) of which a file is not whole, with that file."""


def _first_lost(
    building: Path, entry: Mapping[str, Any], is_there: Callable[[Path, int, int], bool]
) -> tuple[tuple[int, int], str | None]:
    lost = (
        name
        for name, size, checksum in noted_files(dict(entry))
        if not is_there(building / name, size, checksum)
    )
    return (entry["stage"], entry["block"]), next(lost, None)


def lost_blocks(building: Path, ledger: Ledger) -> Lost:
    """Blocks that the ledger calls finished, but whose files are gone, cut or damaged.

    All of their bytes are read.
    """
    lost: Lost = {}
    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        for some in _batches(ledger.entries()):
            for block, name in pool.map(lambda e: _first_lost(building, e, _is_whole), some):
                if name is not None:
                    lost[block] = name
    return lost


def blocks_without_files(building: Path, ledger: Ledger, stages: set[int]) -> Lost:
    """The same at a glance, for what was written since it was last checked: sizes only."""
    found = (
        _first_lost(building, entry, _has_size)
        for entry in ledger.entries()
        if entry["stage"] in stages
    )
    return {block: name for block, name in found if name is not None}


def _batches(entries: Iterable[Any], size: int = 1024) -> Iterable[list[Any]]:
    batch: list[Any] = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch
