"""Runs that stop half-way, as one does whose disk is full, and what they leave."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock.storage.store import write_store

OPTIONS: dict[str, Any] = {"memory": "3 GiB", "workers": 1, "progress": False}


def recording(path: Path, seed: int = 0, channels: int = 6, samples: int = 40_000) -> Path:
    """A store of noise, with events and a type for every channel."""
    rng = np.random.default_rng(seed)
    ds = ps.make_dataset(
        rng.standard_normal((channels, samples)).astype("f4"),
        sampling_frequency=1000.0,
        coords={
            "channel": [f"C{i}" for i in range(channels)],
            "channel_type": ("channel", ["eeg"] * channels),
        },
    )
    ds.signal.attrs["units"] = "uV"
    return write_store(ds, path, overwrite=True)


@contextmanager
def disk_full_after(blocks: int) -> Iterator[None]:
    """Let so many arrays of blocks be written, and no more."""
    import penstock.running.tasks as work

    left = [blocks]
    write = work.write_block

    def full(*args: Any, **options: Any) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        write(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "write_block", full)
        yield


def interrupt(
    pipeline: ps.Pipeline, source: Any, out: Path, after: int = 3, **options: Any
) -> ps.Report:
    """A run that ends after some blocks."""
    with disk_full_after(after):
        return pipeline.run(source, out, **{**OPTIONS, **options})


def files_of(folder: Path) -> list[Path]:
    """All files of a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def contents(folder: Path) -> dict[str, bytes]:
    """What every file of a folder of results holds, reports aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files_of(folder)
        if not path.name.startswith("penstock-report")
    }


def damage(path: Path, how: str, at: float = 0.5) -> None:
    """Do to a file what a power cut or a bad disk does."""
    content = path.read_bytes()
    place = int(at * max(0, len(content) - 1))
    if how == "gone":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[:place])
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    else:
        flipped = bytearray(content)
        if flipped:
            flipped[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(flipped))


WAYS = ("gone", "empty", "cut", "zeros", "flipped")
