"""Chunks of HDF5 files that hold what they should: the library inflates them to whatever they hold.

HDF5 does not compare what a chunk is inflated to with its size before it is in memory. Deflate
shrinks a thousandfold at most, so that small chunks need no look; large ones are inflated piece by
piece and counted first.
"""

from __future__ import annotations

import itertools
import math
import os
import zlib
from collections.abc import Iterable, Iterator

import h5py
import numpy as np

from penstock.dataset import Indexer
from penstock.io.room import check_room
from penstock.memory.accounting import MIB

MOST_SHRUNK = 1032
"""Bytes that one byte of deflated data can stand for."""
NO_LOOK_BYTES = 1024 * MIB
"""What a chunk that is not looked at can be inflated to."""
PIECE_BYTES = MIB
_DEFLATE = 1


def check_chunks(dataset: h5py.Dataset, selection: tuple[Indexer, ...]) -> None:
    """Raise OSError where chunks of a region cannot be held, or hold more than they should.

    Parameters
    ----------
    dataset : h5py.Dataset
    selection : tuple of slice or array
        One for every axis of the dataset.
    """
    if dataset.chunks is None:
        return
    what = f"{dataset.name} of {dataset.file.filename}"
    chunk_bytes = math.prod(dataset.chunks) * dataset.id.get_type().get_size()
    check_room(2 * chunk_bytes, f"a chunk of {what}", "store it in smaller chunks (h5repack)")
    creation = dataset.id.get_create_plist()
    filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    if _DEFLATE not in filters:
        return
    largest = _largest(dataset)
    # (what does not shrink grows by five bytes in 16 KiB)
    if filters.count(_DEFLATE) > 1 or largest > chunk_bytes + chunk_bytes // 16 + 4096:
        raise OSError(f"{what} has chunks that hold more than they should: it is damaged")
    if largest * MOST_SHRUNK <= NO_LOOK_BYTES:
        return
    for offsets in _offsets(dataset, selection):
        size = dataset.id.get_chunk_info_by_coord(offsets).size
        if size * MOST_SHRUNK > NO_LOOK_BYTES and _inflates_beyond(dataset, offsets, chunk_bytes):
            raise OSError(f"{what} has chunks that hold more than they should: it is damaged")


def _offsets(dataset: h5py.Dataset, selection: tuple[Indexer, ...]) -> Iterator[tuple[int, ...]]:
    starts: list[Iterable[int]] = []
    for indexer, unit in zip(selection[: dataset.ndim], dataset.chunks, strict=True):
        if isinstance(indexer, slice):
            starts.append(range(indexer.start // unit * unit, indexer.stop, unit))
        else:
            starts.append([int(n) * unit for n in np.unique(np.asarray(indexer) // unit)])
    return itertools.product(*starts)


def _inflates_beyond(dataset: h5py.Dataset, offsets: tuple[int, ...], n_bytes: int) -> bool:
    """Whether a chunk holds more than a checksum beside its values."""
    mask, packed = dataset.id.read_direct_chunk(offsets)
    if mask:  # (stored without one of the filters)
        return False
    inflater, found = zlib.decompressobj(), 0
    while not inflater.eof:
        try:
            piece = inflater.decompress(packed, PIECE_BYTES)
        except zlib.error:
            return False  # (HDF5 finds it damaged at the same place)
        found += len(piece)
        if found > n_bytes + 64:
            return True
        if not piece:
            return False
        packed = inflater.unconsumed_tail
    return False


def _largest(dataset: h5py.Dataset) -> int:
    """Bytes of the largest chunk of a dataset, as it is stored; found once for each file."""
    stat = os.stat(dataset.file.filename)
    key = (dataset.file.filename, str(dataset.name), stat.st_mtime_ns, stat.st_size)
    if key not in _known:
        sizes = [0]

        def note(info: h5py.h5d.StoreInfo) -> None:
            sizes[0] = max(sizes[0], info.size)

        dataset.id.chunk_iter(note)
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[key] = sizes[0]
    return _known[key]


_known: dict[tuple[str, str, int, int], int] = {}
MOST_KNOWN = 256
