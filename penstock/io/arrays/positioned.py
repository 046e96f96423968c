"""Arrays that lie in a file in one piece, read by region with positioned reads.

Never a memory map: its pages count as used memory until the kernel takes them back. No file stays
open between reads, and reading releases Python's lock.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import numpy as np

from penstock.dataset import Indexer, indexer_length
from penstock.io.arrays.arrays import convert
from penstock.io.packing import Decoding
from penstock.memory.buffers import scratch_buffer

BATCH_BYTES = 512 * 1024
"""Bytes read at once where values are converted or picked: they stay in the cache."""
GAP_BYTES = 4096
"""Bytes that cost less to read and throw away than a further system call."""
SCRATCH_BYTES = 3 * BATCH_BYTES
"""What `read_array` holds at most beside its result: a batch, and what is picked of it."""


def read_array(
    path: str,
    offset: int,
    shape: tuple[int, ...],
    stored: np.dtype,
    indexers: tuple[Indexer, ...],
    out: np.ndarray,
    fields: tuple[str, ...] = (),
    decoding: Decoding | None = None,
) -> None:
    """Fill `out` with a region of an array that lies in C order from byte `offset` on.

    Parameters
    ----------
    path : str
        The file.
    offset : int
        Its byte at which the array begins.
    shape : tuple of int
        Of the whole array.
    stored : numpy.dtype
        Type in the file.
    indexers : tuple of slice or sorted int array
        The region, one indexer a dim.
    out : numpy.ndarray
        C-contiguous, of the region's shape; with `fields`, these are a further last axis.
    fields : tuple of str
        Fields of a compound type to keep.
    decoding : Decoding, optional
        What stored values stand for, where it is not themselves.

    Raises
    ------
    OSError
        If the file ends before the array does.
    """
    if not out.size:
        return
    sizes, picks = _merge_whole_axes(shape, indexers)
    lengths = tuple(indexer_length(indexer) for indexer in picks)
    target = out.reshape(*lengths, len(fields)) if fields else out.reshape(lengths)
    strides = [stored.itemsize * math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    # The axis along which one read goes on: from the last one outwards, while what lies between
    # two wanted stretches is not worth a read of its own.
    level = len(sizes) - 1
    while level and strides[level - 1] <= BATCH_BYTES:
        low, high = _span(picks[level])
        if strides[level - 1] - (high - low) * strides[level] >= GAP_BYTES:
            break
        level -= 1
    unit, inner = strides[level], tuple(sizes[level + 1 :])
    inner_picks = picks[level + 1 :]
    whole = all(_is_whole(pick, size) for pick, size in zip(inner_picks, inner, strict=True))
    direct = whole and not fields and decoding is None and stored == out.dtype
    batch = max(1, BATCH_BYTES // unit)
    runs = list(_runs(picks[level], batch, GAP_BYTES // unit, joined=direct))
    outer = [np.arange(*_span(p)) if isinstance(p, slice) else p for p in picks[:level]]
    fd = os.open(path, os.O_RDONLY)
    try:
        for where in np.ndindex(*lengths[:level]):
            steps = zip(where, outer, strides, strict=False)
            position = offset + sum(int(places[i]) * stride for i, places, stride in steps)
            part, done = target[where], 0
            for start, stop, picked in runs:
                n = stop - start if picked is None else len(picked)
                here = part[done : done + n]
                done += n
                if direct and picked is None:
                    fill(fd, position + start * unit, here.reshape(-1).view(np.uint8), path)
                    continue
                buffer = scratch_buffer("positioned-read", ((stop - start) * unit,), np.uint8)
                fill(fd, position + start * unit, buffer, path)
                values = buffer.view(stored).reshape(stop - start, *inner)
                values = values if picked is None else values[picked]
                for axis, pick in enumerate(inner_picks, start=1):
                    values = values[(slice(None),) * axis + (pick,)]
                convert(values, here, fields, decoding)
    finally:
        os.close(fd)


def _merge_whole_axes(
    shape: tuple[int, ...], indexers: tuple[Indexer, ...]
) -> tuple[list[int], list[Indexer]]:
    """The same region with axes that are taken whole made one with the slice before them."""
    sizes, picks = [1, *shape], [slice(0, 1), *indexers]
    for axis in range(len(sizes) - 1, 0, -1):
        size, before = sizes[axis], picks[axis - 1]
        if isinstance(before, slice) and _is_whole(picks[axis], size):
            sizes[axis - 1 : axis + 1] = [sizes[axis - 1] * size]
            picks[axis - 1 : axis + 1] = [slice(before.start * size, before.stop * size)]
    return sizes, picks


def _is_whole(indexer: Indexer, size: int) -> bool:
    return isinstance(indexer, slice) and (indexer.start, indexer.stop) == (0, size)


def _span(indexer: Indexer) -> tuple[int, int]:
    if isinstance(indexer, slice):
        return indexer.start, indexer.stop
    return int(indexer[0]), int(indexer[-1]) + 1


def _runs(
    indexer: Indexer, batch: int, gap: int, *, joined: bool
) -> Iterator[tuple[int, int, np.ndarray | None]]:
    """Stretches to read: (start, stop, positions within or None for all of them).

    Positions whose distance is at most `gap` are read together, at most `batch` at once; `joined`
    leaves neighbouring ones in one piece of any length.
    """
    if isinstance(indexer, slice):
        step = indexer.stop - indexer.start if joined else batch
        for start in range(indexer.start, indexer.stop, step):
            yield start, min(start + step, indexer.stop), None
        return
    # cut where positions lie apart
    cuts = np.flatnonzero(np.diff(indexer) > 1 + gap) + 1
    for near in np.split(indexer, cuts):
        at = 0
        while at < len(near):
            start = int(near[at])
            end = int(np.searchsorted(near, start + batch))
            picked = near[at:end] - start
            every = int(picked[-1]) + 1 == len(picked)
            yield start, start + int(picked[-1]) + 1, None if every else picked
            at = end


def fill(fd: int, position: int, target: np.ndarray, path: str) -> None:
    """Read bytes from a position of a file until `target` is full."""
    view = target.data
    while len(view):
        n = os.preadv(fd, [view], position)
        if n == 0:
            raise OSError(
                f"{path} ended while it was read (byte {position}): it has changed since it was "
                "opened; open it again"
            )
        view, position = view[n:], position + n
