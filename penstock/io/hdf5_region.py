"""Datasets of HDF5 files, read by region.

What lies in the file in one piece is read with positioned reads; what is chunked, compressed or
virtual goes through h5py, which does one read at a time in a process. Nothing stays open between
reads (opening takes half a millisecond): readers can be pickled and forked, and the file can be
written to in between.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import xarray as xr

from penstock.buffers import new_array, scratch_buffer
from penstock.dataset import SIGNAL, Indexer, check_dataset, indexer_length, lazy_variable
from penstock.io.arrays import COMPONENT, convert, result_type
from penstock.io.hdf5_append import complete
from penstock.io.hdf5_contents import attribute, text
from penstock.io.positioned import SCRATCH_BYTES, read_array
from penstock.store import fill_shape

BOX_BYTES = 4 * 1024 * 1024
"""Chunks decoded at once where values are converted or picked."""
CHUNK_CACHE_BYTES = 1024 * 1024


@contextlib.contextmanager
def open_file(path: str) -> Iterator[h5py.File]:
    """An HDF5 file for reading; what is wrong with it becomes one sentence.

    Locks where the file system knows locks, as the HDF5 library does by itself. A file that this
    process has open with other settings is opened with those: HDF5 allows nothing else.
    """
    complete(path)
    file = None
    for locking in ("best-effort", True, False):
        try:
            file = h5py.File(path, "r", locking=locking, rdcc_nbytes=CHUNK_CACHE_BYTES)
            break
        except OSError as error:
            if "don't match" not in str(error) or locking is False:
                raise _opening_error(path, error) from error
    assert file is not None
    with file:
        yield file


def _opening_error(path: str, error: OSError) -> Exception:
    text = " ".join(str(error).split())
    if "truncated file" in text:
        return ValueError(
            f"{path} is cut short: it holds {os.path.getsize(path)} bytes, fewer than its header "
            "announces; copy or export it again"
        )
    if "signature not found" in text:
        return ValueError(f"{path} is not an HDF5 file: check where it comes from")
    if "lock file" in text:
        return OSError(
            f"{path} is being written by another program: wait for it to finish, or close it there"
        )
    if isinstance(error, FileNotFoundError | PermissionError):
        return error
    return ValueError(f"{path} cannot be opened as HDF5 ({text}): copy or export it again")


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
    """How many dims each axis of the dataset has become."""
    stored: np.dtype
    dtype: np.dtype
    fields: tuple[str, ...]
    """Fields of a compound type: they are a further last dim."""

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
            read_array(self.path, offset, self.shape, self.stored, indexers, out, fields)
            return out
        with open_file(self.path) as file:
            dataset = file[self.name]
            selection = self._selection(indexers)
            shape = tuple(indexer_length(indexer) for indexer in selection)
            target = out.reshape(*shape, len(fields)) if fields else out.reshape(shape)
            try:
                _read_boxes(dataset, selection, target, fields)
            except OSError as error:
                text = " ".join(str(error).split())
                raise OSError(
                    f"{self.name} of {self.path} cannot be read ({text}): the file is damaged or "
                    "needs an HDF5 filter that is not installed (pip install hdf5plugin)"
                ) from error
        return out

    def _offset(self) -> int | None:
        stat = os.stat(self.path)
        stored_shape, stored, offset = _location(
            self.path, self.name, (stat.st_mtime_ns, stat.st_size)
        )
        if (stored_shape, stored) != (self.stored_shape, self.stored):
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
) -> tuple[tuple[int, ...], np.dtype, int | None]:
    """Shape and type of a dataset and, where positioned reads do, the byte it begins at.

    Looked up again whenever the file has changed: what has been added to it leaves datasets where
    they are, what replaced it does not.
    """
    with open_file(path) as file:
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise OSError(f"{path} holds no dataset {name} any more: open it again")
        return dataset.shape, dataset.dtype, _offset(dataset)


def _offset(dataset: h5py.Dataset) -> int | None:
    creation = dataset.id.get_create_plist()
    if creation.get_layout() != h5py.h5d.CONTIGUOUS or creation.get_external_count():
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
    selection: tuple[Indexer, ...],
    out: np.ndarray,
    fields: tuple[str, ...],
) -> None:
    """Fill `out` with a selection, so that every chunk is decoded once."""
    slices = all(isinstance(indexer, slice) for indexer in selection)
    if slices and not fields and dataset.dtype == out.dtype:
        dataset.read_direct(out, selection)
        return
    units = _box_shape(dataset)
    pieces = [list(_pieces(pick, unit)) for pick, unit in zip(selection, units, strict=True)]
    for box in itertools.product(*pieces):
        shape = tuple(source.stop - source.start for source, _, _ in box)
        n_bytes = math.prod(shape) * dataset.dtype.itemsize
        values = scratch_buffer("hdf5-box", (n_bytes,), np.uint8).view(dataset.dtype).reshape(shape)
        dataset.read_direct(values, tuple(source for source, _, _ in box))
        for axis, (_, _, picked) in enumerate(box):
            if picked is not None:
                values = values[(slice(None),) * axis + (picked,)]
        convert(values, out[tuple(target for _, target, _ in box)], fields)


def _box_shape(dataset: h5py.Dataset) -> tuple[int, ...]:
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


def hdf5_dataset(
    dataset: h5py.Dataset,
    dims: tuple[str, ...],
    coords: Mapping[str, xr.Variable],
    *,
    dtype: Any,
    path: str,
    shape: tuple[int, ...] | None = None,
    splits: tuple[int, ...] | None = None,
    **attrs: Any,
) -> xr.Dataset:
    """A Penstock dataset over an HDF5 dataset; values stay in the file until a region is read.

    Parameters
    ----------
    dataset : h5py.Dataset
        Of numbers, or of a compound type of numbers, whose fields become a last dim ``component``.
    dims : tuple of str
        Names of the dims, without ``component``.
    coords : mapping of str to xarray.Variable
        Coordinates over them.
    dtype : {"float32", "float64"} or None
        Type of the values; complex values keep both parts, each of this type. None: the type that
        they are stored in.
    path : str
        The file that the user has opened.
    shape : tuple of int, optional
        Sizes of the dims, where axes of the dataset are split into several.
    splits : tuple of int, optional
        Into how many dims each axis of the dataset is split.
    **attrs
        Attributes of the result beside ``source``, ``source_dataset``.

    Returns
    -------
    xarray.Dataset
        With what a read costs in the encoding of ``signal`` (see `penstock.testing.check_reader`).
    """
    # (through an external link it may be in another file)
    home = os.path.abspath(dataset.file.filename)
    target, fields = result_type(dataset.dtype, dtype, f"{dataset.name} of {home}")
    shape = dataset.shape if shape is None else shape
    splits = (1,) * dataset.ndim if splits is None else splits
    region = Hdf5Region(
        home, dataset.name, dataset.shape, shape, splits, dataset.dtype, target, fields
    )
    found = {
        "long_name": text(attribute(dataset, "quantity")) or text(attribute(dataset, "long_name")),
        "units": text(attribute(dataset, "units")),
    }
    about = {name: value for name, value in found.items() if value is not None}
    coords = dict(coords)
    if fields:
        dims, shape = (*dims, COMPONENT), (*shape, len(fields))
        coords[COMPONENT] = xr.Variable((COMPONENT,), np.array(fields))
    encoding = _reading_costs(dataset, splits, target.itemsize * max(1, len(fields)))
    encoding["source"] = home
    signal = lazy_variable(dims, region, shape, target, about, encoding)
    everything = {"source": os.path.abspath(path), "source_dataset": dataset.name, **attrs}
    return check_dataset(xr.Dataset({SIGNAL: signal}, coords, everything))


def _reading_costs(dataset: h5py.Dataset, splits: tuple[int, ...], itemsize: int) -> dict[str, Any]:
    if _offset(dataset) is not None:
        return {
            "read_scratch": 0.0,
            "read_scratch_bytes": SCRATCH_BYTES,
            "interleaved": False,
        }
    chunks, shape = dataset.chunks or (0,), dataset.shape
    box, chunk = (math.prod(n) * dataset.dtype.itemsize for n in (_box_shape(dataset), chunks))
    # the positions of a region that is no single stretch of an axis
    positions = 8.0 / max(1, itemsize * math.prod(shape[1:])) if max(splits, default=1) > 1 else 0.0
    return {
        "read_scratch": positions,
        # what is picked of a box, chunks as stored and as decoded
        "read_scratch_bytes": 2 * box + 2 * chunk + CHUNK_CACHE_BYTES,
        "interleaved": bool(len(shape) > 1 and chunks[0] >= shape[0] > 1),
    }
