"""Regions of images: read where they lie, turned into floating point a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from penstock.dataset import Indexer, indexer_length
from penstock.io.arrays.positioned import SCRATCH_BYTES, read_array
from penstock.io.nifti.stream import STREAM_BYTES, StoredValues, stream_of
from penstock.memory.buffers import new_array, scratch_buffer

BATCH_VALUES = 1 << 18
"""Values converted and scaled at once: they stay in the cache."""


@dataclass(frozen=True, eq=False)
class ImageRegion:
    """Reads regions of an image: one indexer a dim."""

    values: StoredValues
    dtype: np.dtype
    """Of the result."""
    order: tuple[int, ...]
    """Dims of the signal in the order of the file: the last one varies fastest."""

    @property
    def scratch_bytes(self) -> int:
        """Memory that a read takes at most beside its result."""
        work = self.values.work_type(self.dtype)
        scaling = 0 if work == self.dtype else BATCH_VALUES * work.itemsize
        if not self.values.compressed:
            return SCRATCH_BYTES + scaling
        # a batch as it is stored, and what is picked of it along two axes in turn
        return STREAM_BYTES + 3 * BATCH_VALUES * self.values.dtype.itemsize + scaling

    def __call__(self, *indexers: Indexer) -> np.ndarray:
        """Values of a region, as a new array in the memory order of the file."""
        self.values.check_version()
        picks = tuple(indexers[axis] for axis in self.order)
        out = new_array(tuple(indexer_length(pick) for pick in picks), self.dtype)
        if out.size and self.values.compressed:
            self._read_stream(picks, out)
        elif out.size:
            self._read_positioned(picks, out)
        return out.transpose(np.argsort(self.order))

    def _read_positioned(self, picks: tuple[Indexer, ...], out: np.ndarray) -> None:
        values = self.values
        parts = _parts(out.shape) if values.is_scaled else [(slice(None),) * out.ndim]
        for part in parts:
            target = out[part]
            piece = self._piece(target)
            some = tuple(_part_of(pick, taken) for pick, taken in zip(picks, part, strict=True))
            read_array(values.path, values.offset, values.shape, values.dtype, some, piece)
            self._finish(piece, target)

    def _read_stream(self, picks: tuple[Indexer, ...], out: np.ndarray) -> None:
        values = self.values
        strides = [
            values.dtype.itemsize * math.prod(values.shape[axis + 1 :])
            for axis in range(len(values.shape))
        ]
        firsts = [pick.start if isinstance(pick, slice) else int(pick[0]) for pick in picks]
        steps = zip(firsts, strides, strict=True)
        start = values.offset + sum(first * stride for first, stride in steps)
        together = all(map(_is_whole, picks[1:], values.shape[1:])) and isinstance(picks[0], slice)
        if together and values.dtype.itemsize <= out.dtype.itemsize:
            self._read_together(start, out)
            return
        # the axis of which a batch takes several positions: the first one that is small enough
        limit = BATCH_VALUES * values.dtype.itemsize
        level = next(i for i, stride in enumerate(strides) if stride <= limit)
        unit, inner, inner_picks = strides[level], values.shape[level + 1 :], picks[level + 1 :]
        whole = all(map(_is_whole, inner_picks, inner))
        direct = whole and values.dtype == out.dtype == values.work_type(out.dtype)
        batches = list(_batches(picks[level], limit // unit))
        outer = [np.arange(p.start, p.stop) if isinstance(p, slice) else p for p in picks[:level]]
        with stream_of(values).turn(start) as stream:
            for where in np.ndindex(out.shape[:level]):
                places = (int(along[i]) for along, i in zip(outer, where, strict=True))
                position = values.offset + sum(map(int.__mul__, places, strides))
                for low, high, picked, taken in batches:
                    target = out[where][taken]
                    if direct and picked is None:
                        piece = target
                        flat = piece.reshape(-1).view(np.uint8)
                        stream.fill(position + low * unit, flat)
                    else:
                        buffer = scratch_buffer("nifti-stream", ((high - low) * unit,), np.uint8)
                        stream.fill(position + low * unit, buffer)
                        stored = buffer.view(values.dtype).reshape(high - low, *inner)
                        stored = stored if picked is None else stored[picked]
                        for axis, pick in enumerate(inner_picks, start=1):
                            stored = stored[(slice(None),) * axis + (pick,)]
                        piece = self._piece(target)
                        np.copyto(piece, stored, casting="unsafe")
                    self._finish(piece, target)

    def _read_together(self, start: int, out: np.ndarray) -> None:
        """Values that lie together in the stream, of a type no wider than the result's.

        They are inflated into the end of the result and spread from there, once the stream is free
        for others.
        """
        flat, stored = out.reshape(-1), self.values.dtype
        tail = flat.view(np.uint8)[out.nbytes - out.size * stored.itemsize :]
        with stream_of(self.values).turn(start) as stream:
            stream.fill(start, tail)
        if stored == out.dtype and not self.values.is_scaled:
            return
        raw = tail.view(stored)
        for first in range(0, out.size, BATCH_VALUES):
            stop = min(first + BATCH_VALUES, out.size)
            # (the last ones lie where they will be written)
            batch = scratch_buffer("nifti-stream", (stop - first,), stored)
            np.copyto(batch, raw[first:stop])
            target = flat[first:stop]
            piece = self._piece(target)
            np.copyto(piece, batch, casting="unsafe")
            self._finish(piece, target)

    def _piece(self, target: np.ndarray) -> np.ndarray:
        """Where stored values are put to be scaled: in place, or in scratch of a wider type."""
        work = self.values.work_type(self.dtype)
        if work == self.dtype:
            return target
        return scratch_buffer("nifti-scaling", target.shape, work)

    def _finish(self, piece: np.ndarray, target: np.ndarray) -> None:
        """Stored values to the ones they mean, in place, then into the result."""
        if self.values.slope != 1:
            piece *= self.values.slope
        if self.values.inter:
            piece += self.values.inter
        if piece is not target:
            np.copyto(target, piece, casting="unsafe")


def _parts(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """An array of that shape in contiguous parts of at most `BATCH_VALUES`."""
    sizes = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    level = next(i for i, size in enumerate(sizes) if size <= BATCH_VALUES)
    step = max(1, BATCH_VALUES // sizes[level])
    rest = tuple(slice(0, size) for size in shape[level + 1 :])
    for where in np.ndindex(shape[:level]):
        for start in range(0, shape[level], step):
            stretch = slice(start, min(start + step, shape[level]))
            yield (*(slice(i, i + 1) for i in where), stretch, *rest)


def _part_of(indexer: Indexer, taken: slice) -> Indexer:
    if taken == slice(None):
        return indexer
    if not isinstance(indexer, slice):
        return indexer[taken]
    return slice(indexer.start + taken.start, indexer.start + taken.stop)


def _is_whole(indexer: Indexer, size: int) -> bool:
    return isinstance(indexer, slice) and (indexer.start, indexer.stop) == (0, size)


def _batches(indexer: Indexer, most: int) -> Iterator[tuple[int, int, np.ndarray | None, slice]]:
    """Stretches to inflate, positions wanted of each (None: all), and where these belong."""
    most = max(1, most)
    if isinstance(indexer, slice):
        for low in range(indexer.start, indexer.stop, most):
            high = min(low + most, indexer.stop)
            yield low, high, None, slice(low - indexer.start, high - indexer.start)
        return
    done = 0
    while done < len(indexer):
        low = int(indexer[done])
        end = int(np.searchsorted(indexer, low + most))
        picked = indexer[done:end] - low
        high = low + int(picked[-1]) + 1
        yield low, high, None if high - low == len(picked) else picked, slice(done, end)
        done = end
