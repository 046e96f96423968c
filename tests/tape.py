"""A source that can only be read from front to back, and writes down how it was read."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import numpy as np
import xarray as xr

import penstock as ps
from penstock.dataset import lazy_variable
from penstock.reading import Reading

_turn = threading.Condition()
_position: dict[str, int] = {}


class Tape:
    """Reads a ``.npy`` file of (x, y, time), noting process, start and stop of every read."""

    def __init__(self, path: Path):
        self.path, self.log = str(path), f"{path}.log"

    def __call__(self, *indexers: slice) -> np.ndarray:
        first, stop = indexers[-1].start, indexers[-1].stop
        with _turn:
            # (threads that read neighbouring stretches wait for their turn)
            while _position.get(self.path, 0) < first and _turn.wait(0.5):
                pass
            with open(self.log, "a") as log:
                log.write(f"{os.getpid()} {first} {stop}\n")
            _position[self.path] = stop
            _turn.notify_all()
        return np.load(self.path, mmap_mode="r")[indexers].copy()

    def reads(self) -> dict[int, list[tuple[int, int]]]:
        """Stretches read, in their order, by process."""
        found: dict[int, list[tuple[int, int]]] = {}
        for line in Path(self.log).read_text().splitlines():
            pid, first, stop = map(int, line.split())
            found.setdefault(pid, []).append((first, stop))
        return found

    def times_wound_back(self) -> int:
        """How often a read began before the end of the one before it."""
        return sum(
            later[0] < earlier[1]
            for reads in self.reads().values()
            for earlier, later in itertools.pairwise(reads)
        )


def tape(path: Path, shape: tuple[int, ...] = (20, 10, 3000), seed: int = 0) -> Tape:
    """Write values to read from."""
    values = np.random.default_rng(seed).standard_normal(shape).astype("float32")
    np.save(path, values)
    return Tape(path)


def dataset(source: Tape) -> xr.Dataset:
    """Dataset of a tape."""
    shape = np.load(source.path, mmap_mode="r").shape
    encoding = {"source": source.path}
    reading = Reading(interleaved=True, sequential=True)
    dims = ("x", "y", "time")
    variable = lazy_variable(dims, source, shape, "f4", encoding=encoding, reading=reading)
    return ps.make_dataset(
        variable, ("x", "y", "time"), sampling_frequency=1.0, attrs={"source": source.path}
    )
