"""Datasets of HDF5 files, read by region.

What lies in the file in one piece is read with positioned reads; what is chunked, compressed or
virtual goes through h5py, which does one read at a time in a process. Nothing stays open between
reads (opening takes half a millisecond): readers can be pickled and forked, and the file can be
written to in between.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import h5py
import numpy as np

from penstock.dataset import Indexer, indexer_length
from penstock.io.arrays.arrays import convert
from penstock.io.arrays.positioned import read_array
from penstock.io.hdf5.chunks import check_chunks
from penstock.io.hdf5.files import check_filters, open_file
from penstock.io.hdf5.links import reopened
from penstock.io.packing import Decoding
from penstock.memory.buffers import new_array, scratch_buffer
from penstock.storage.store import fill_shape

BOX_BYTES = 4 * 1024 * 1024
"""Chunks decoded at once where values are converted or picked."""


@dataclass(frozen=True, eq=False)
class Hdf5Region:
    """Reads regions of an HDF5 dataset: one indexer for every dim of `shape`."""

    path: str
    name: str
    """Full name of the dataset."""
    stored_shape: tuple[int, ...]
    shape: tuple[int, ...]
    """The dataset's axes with some of them split into several dims, in C order."""
    splits: tuple[int, ...]
    """How many dims each axis of the dataset has become; then 1 for each of an array type."""
    stored: np.dtype
    """Type in the file; of a compound type the fields that are read."""
    dtype: np.dtype
    fields: tuple[str, ...]
    """Fields of a compound type: they are a further last dim."""
    signature: str
    """Whole type in the file, as text."""
    decoding: Decoding | None = None
    """What stored values stand for."""
    sources: tuple[tuple[str, int, int], ...] = ()
    """Files beside its own that it has values in, with their sizes and times of change."""

    def __call__(self, *indexers: Indexer) -> np.ndarray:
        """Values of a region, as a new array."""
        fields = self.fields
        lengths = tuple(indexer_length(indexer) for indexer in indexers)
        if fields:
            *axes, component = indexers
            indexers = tuple(axes)
            fields = tuple(np.array(fields)[component].tolist())
        out = new_array(lengths, self.dtype)
        if not out.size:
            return out
        offset = self._offset()
        if offset is not None:
            read_array(
                self.path, offset, self.shape, self.stored, indexers, out, fields, self.decoding
            )
            return out
        for source, n_bytes, _ in self.sources:
            # (HDF5 would give fill values for what is gone)
            if not os.path.exists(source) or os.path.getsize(source) < n_bytes:
                raise OSError(
                    f"{self.name} of {self.path} has values in {source}, which is gone or cut "
                    "short since it was opened: put it back, and open it again"
                )
        with open_file(self.path) as file:
            dataset = reopened(file[self.name])
            check_filters(dataset)
            selection = self._selection(indexers)
            shape = tuple(indexer_length(indexer) for indexer in selection)
            target = out.reshape(*shape, len(fields)) if fields else out.reshape(shape)
            check_chunks(dataset, selection)
            try:
                _read_boxes(dataset, self.stored, selection, target, fields, self.decoding)
            except OSError as error:
                text = " ".join(str(error).split())
                raise OSError(
                    f"{self.name} of {self.path} cannot be read ({text}): the file is damaged; "
                    "copy or export it again"
                ) from error
        return out

    def _offset(self) -> int | None:
        stat = os.stat(self.path)
        stored_shape, signature, offset = _location(
            self.path, self.name, (stat.st_mtime_ns, stat.st_size)
        )
        if (stored_shape, signature) != (self.stored_shape, self.signature):
            raise OSError(
                f"{self.name} of {self.path} has changed since it was opened: open it again"
            )
        return offset

    def _selection(self, indexers: tuple[Indexer, ...]) -> tuple[Indexer, ...]:
        """The region in the dataset's own axes."""
        selection, at = [], 0
        for n_dims in self.splits:
            dims = slice(at, at + n_dims)
            selection.append(_flatten(self.shape[dims], indexers[dims]))
            at += n_dims
        return tuple(selection)


@functools.lru_cache(maxsize=256)
def _location(
    path: str, name: str, version: tuple[int, int]
) -> tuple[tuple[int, ...], str, int | None]:
    """Shape and type of a dataset and, where positioned reads do, the byte it begins at.

    Looked up again whenever the file has changed: what has been added to it leaves datasets where
    they are, what replaced it does not.
    """
    with open_file(path) as file:
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise OSError(f"{path} holds no dataset {name} any more: open it again")
        return dataset.shape, str(dataset.dtype), offset_of(dataset)


def offset_of(dataset: h5py.Dataset) -> int | None:
    """Byte of the file from which on the values lie in one piece, as NumPy knows them."""
    creation = dataset.id.get_create_plist()
    if creation.get_layout() != h5py.h5d.CONTIGUOUS or creation.get_external_count():
        return None
    if dataset.dtype.hasobject:  # (text lies elsewhere in the file, and is longer in memory)
        return None
    # (None as well where nothing has been written yet)
    offset = dataset.id.get_offset()
    same_bytes = dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype, logical=True))
    return offset if same_bytes else None


def _flatten(shape: tuple[int, ...], indexers: tuple[Indexer, ...]) -> Indexer:
    """Positions along one axis that several dims (C order) have been made of."""
    if len(shape) == 1:
        return indexers[0]
    picked = [np.arange(n)[indexer] for n, indexer in zip(shape, indexers, strict=True)]
    if not all(len(positions) for positions in picked):
        return slice(0, 0)
    first = int(np.ravel_multi_index([int(p[0]) for p in picked], shape))
    last = int(np.ravel_multi_index([int(p[-1]) for p in picked], shape))
    if last - first + 1 == math.prod(map(len, picked)):
        return slice(first, last + 1)
    flat = np.ravel_multi_index(np.ix_(*picked), shape).reshape(-1)
    return np.asarray(flat, dtype=np.int64)


def _read_boxes(
    dataset: h5py.Dataset,
    stored: np.dtype,
    selection: tuple[Indexer, ...],
    out: np.ndarray,
    fields: tuple[str, ...],
    decoding: Decoding | None,
) -> None:
    """Fill `out` with a selection, so that every chunk is decoded once."""
    selection, entry = selection[: dataset.ndim], selection[dataset.ndim :]
    slices = all(isinstance(indexer, slice) for indexer in selection)
    if slices and not entry and not fields and decoding is None and stored == out.dtype:
        dataset.read_direct(out, selection)
        return
    units = box_shape(dataset)
    pieces = [list(_pieces(pick, unit)) for pick, unit in zip(selection, units, strict=True)]
    for box in itertools.product(*pieces):
        shape = tuple(source.stop - source.start for source, _, _ in box)
        sources = tuple(source for source, _, _ in box)
        if entry:  # (of an array type: h5py gives its axes as further ones)
            values = dataset[sources]
            for axis, indexer in enumerate(entry, start=dataset.ndim):
                values = values[(slice(None),) * axis + (indexer,)]
        else:
            values = scratch_buffer("hdf5-box", shape, stored)
            dataset.read_direct(values, sources)
        for axis, (_, _, picked) in enumerate(box):
            if picked is not None:
                values = values[(slice(None),) * axis + (picked,)]
        convert(values, out[tuple(target for _, target, _ in box)], fields, decoding)


def box_shape(dataset: h5py.Dataset) -> tuple[int, ...]:
    """As many whole chunks as make `BOX_BYTES`, last axes first; at least one."""
    if dataset.chunks is None:
        return fill_shape(dataset.shape, max(1, BOX_BYTES // dataset.dtype.itemsize))
    chunks = dataset.chunks
    counts = tuple(-(-size // chunk) for size, chunk in zip(dataset.shape, chunks, strict=True))
    n_bytes = math.prod(chunks) * dataset.dtype.itemsize
    taken = fill_shape(counts, max(1, BOX_BYTES // n_bytes))
    return tuple(chunk * n for chunk, n in zip(chunks, taken, strict=True))


def _pieces(indexer: Indexer, unit: int) -> Iterator[tuple[slice, slice, np.ndarray | None]]:
    """An indexer cut at multiples of `unit`: (what to read, where it goes, what to keep of it)."""
    if isinstance(indexer, slice):
        start = indexer.start
        while start < indexer.stop:
            stop = min(indexer.stop, (start // unit + 1) * unit)
            yield slice(start, stop), slice(start - indexer.start, stop - indexer.start), None
            start = stop
        return
    cuts = [0, *(np.flatnonzero(np.diff(indexer // unit)) + 1).tolist(), len(indexer)]
    for begin, end in itertools.pairwise(cuts):
        positions = indexer[begin:end]
        start, stop = int(positions[0]), int(positions[-1]) + 1
        picked = None if stop - start == len(positions) else positions - start
        yield slice(start, stop), slice(begin, end), picked


@dataclass(frozen=True, eq=False)
class Reversed:
    """Reads regions of an array whose axes lie in the file from the last to the first."""

    region: Hdf5Region

    def __call__(self, *indexers: Indexer) -> np.ndarray:
        """Values of a region, as a new array."""
        n_axes = len(self.region.shape)
        read = self.region(*indexers[:n_axes][::-1], *indexers[n_axes:])
        return read.transpose(*range(n_axes)[::-1], *range(n_axes, read.ndim))
