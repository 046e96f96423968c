"""Chunks of a dask-backed variable: which of them a region touches, and runs of whole ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from penstock.dataset import Indexer, Region


def chunk_edges(variable: xr.Variable) -> list[np.ndarray]:
    """Where the chunks of a variable begin, and the last ends, along every dim."""
    return [np.concatenate([[0], np.cumsum(lengths)]) for lengths in variable.chunks or ()]


def touched(indexer: Indexer, edges: np.ndarray) -> Iterator[tuple[int, Indexer | None, Indexer]]:
    """Chunks that an indexer touches along a dim, with what it takes of each and where it puts it.

    What it takes is None where that is the whole chunk.
    """
    if isinstance(indexer, slice):
        first, last = np.searchsorted(edges, [indexer.start, indexer.stop - 1], side="right") - 1
        for chunk in range(int(first), int(last) + 1):
            low, high = int(edges[chunk]), int(edges[chunk + 1])
            start, stop = max(low, indexer.start), min(high, indexer.stop)
            if start < stop:
                inside = None if (start, stop) == (low, high) else slice(start - low, stop - low)
                yield chunk, inside, slice(start - indexer.start, stop - indexer.start)
        return
    chunks = np.searchsorted(edges, indexer, side="right") - 1
    for chunk in np.unique(chunks):
        where = np.flatnonzero(chunks == chunk)
        together = len(where) == where[-1] - where[0] + 1
        place = slice(int(where[0]), int(where[-1]) + 1) if together else where
        yield int(chunk), indexer[where] - edges[chunk], place


def chunk_elements(variable: xr.Variable, region: Region) -> int:
    """Elements of the chunks that a region touches: they are computed whole."""
    lengths = [
        sum(int(edges[chunk + 1] - edges[chunk]) for chunk, *_ in touched(region[str(dim)], edges))
        for dim, edges in zip(variable.dims, chunk_edges(variable), strict=True)
    ]
    return math.prod(lengths)


def run_of_chunks(variable: xr.Variable, n_bytes: int) -> tuple[int, ...]:
    """Shape of the largest box of whole chunks within some bytes; one chunk where none fits.

    Trailing dims are filled first. (Of chunks of several lengths, the longest counts.)
    """
    assert variable.chunks is not None
    box = [max(1, *lengths) for lengths in variable.chunks]
    for axis in reversed(range(len(box))):
        fits = n_bytes // max(1, math.prod(box) * variable.dtype.itemsize)
        box[axis] = min(box[axis] * max(1, fits), max(1, variable.shape[axis]))
        if box[axis] < variable.shape[axis]:
            break
    return tuple(box)
