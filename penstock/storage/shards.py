"""Chunks and shards of Zarr arrays as files, written and read by the thread that wants them.

zarr-python passes every chunk through one event loop, which held a second worker back to 1.4 x, and
encodes a shard whole in memory (measured: twice its size beside the block). Here chunks go straight
into their file and straight out of it. The files are those of zarr-python, which reads and writes
them as well. Format: sharding, transpose, bytes and blosc codecs of the Zarr version 3
specification.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from penstock.dataset import Indexer, indexer_length
from penstock.memory.buffers import new_array

COMPRESSOR, COMPRESSION_LEVEL = "lz4", 5
WORTH_COMPRESSING = 0.8
"""A shard whose first chunk does not shrink to this is stored as it is (see `encode_shard`)."""
VOLUME_DIMS = ("x", "y", "z")
"""Blocks of these dims, and of time after them, lie in memory as in images: x varies fastest."""
FRAME_BYTES = 16
"""What a Blosc frame takes at most beside what it holds."""
CHECKED_BYTES = 1 << 18
"""Of values that are stored as they are, what is copied at once for their checksum."""
MISSING = 2**64 - 1
"""Offset and length, in the index of a shard, of a chunk that is not there."""


@dataclass(frozen=True)
class ArrayFormat:
    """How the values of an array lie in its files."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    dtype: np.dtype
    fill_value: Any
    order: tuple[int, ...]
    """Axes as they follow each other in a chunk: the last of them varies fastest."""
    shuffle: str | None
    """How Blosc groups bytes or bits before it compresses; None where nothing is compressed."""
    volumes: bool = False
    """Whether blocks lie in memory with the leading dims fastest."""
    whole: bool = False
    """Whether all of its files were written: one that is missing is lost, and not fill values."""

    @property
    def unit(self) -> tuple[int, ...]:
        """Shape of what is one file."""
        return self.shards or self.chunks

    @property
    def n_files(self) -> int:
        """Files that the whole array takes."""
        return math.prod(-(-n // size) for n, size in zip(self.shape, self.unit, strict=True))

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk, decoded."""
        return math.prod(self.chunks) * self.dtype.itemsize

    @property
    def counts(self) -> tuple[int, ...]:
        """Chunks of a file along each axis."""
        return tuple(n // c for n, c in zip(self.unit, self.chunks, strict=True))

    @property
    def index_bytes(self) -> int:
        """Bytes of the index at the end of a shard: two numbers a chunk, and a checksum."""
        return 16 * math.prod(self.counts) + 4 if self.shards else 0

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        """An uninitialised block."""
        if self.volumes:
            return new_array(shape[::-1], self.dtype).T
        return new_array(shape, self.dtype)

    def stored(self, values: np.ndarray) -> np.ndarray:
        """A view of values with the axes in the order of the files."""
        return values.transpose(self.order)

    def chunk_view(self, raw: np.ndarray) -> np.ndarray:
        """The decoded bytes of a chunk as its values."""
        shape = tuple(self.chunks[axis] for axis in self.order)
        return raw.view(self.dtype).reshape(shape).transpose(np.argsort(self.order))


def of_volumes(dims: tuple[str, ...]) -> bool:
    """Whether an array of these dims holds volumes, or a series of them."""
    return dims[:3] == VOLUME_DIMS and dims[3:] in ((), ("time",))


def array_format(document: Mapping[str, Any]) -> ArrayFormat | None:
    """How an array is stored, if it is stored the way Penstock does; None for others.

    Parameters
    ----------
    document : mapping
        What ``zarr.json`` says of the array.
    """
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return _format(document)
    return None  # (zarr-python knows more kinds, and what is wrong with a document)


def _format(document: Mapping[str, Any]) -> ArrayFormat | None:
    keys = {"name": "default", "configuration": {"separator": "/"}}
    grid = document["chunk_grid"]
    kind = document["data_type"]
    if kind not in _NUMBERS or document["zarr_format"] != 3 or document["node_type"] != "array":
        return None
    if grid["name"] != "regular" or document["chunk_key_encoding"] != keys:
        return None
    if document.get("storage_transformers") or not document["shape"]:
        return None
    dtype = np.dtype(kind).newbyteorder("<")
    shape, unit = _sizes(document["shape"], 0), _sizes(grid["configuration"]["chunk_shape"], 1)
    chunks, shards = unit, None
    codecs = list(document["codecs"])
    if [codec["name"] for codec in codecs] == ["sharding_indexed"]:
        sharding = codecs[0]["configuration"]
        index = [_little_endian(codec) or codec["name"] for codec in sharding["index_codecs"]]
        if sharding.get("index_location", "end") != "end" or index != [True, "crc32c"]:
            return None
        codecs, shards = list(sharding["codecs"]), unit
        chunks = _sizes(sharding["chunk_shape"], 1)
        if any(whole % part for whole, part in zip(unit, chunks, strict=True)):
            return None
    order = tuple(range(len(shape)))
    if codecs and codecs[0]["name"] == "transpose":
        turned = tuple(codecs.pop(0)["configuration"]["order"])
        if sorted(turned) != list(order):
            return None
        order = turned
    one_byte = dtype.itemsize == 1
    if not codecs or not (_little_endian(codecs[0]) or (codecs[0]["name"] == "bytes" and one_byte)):
        return None
    if [codec["name"] for codec in codecs[1:]] not in ([], ["blosc"]):
        return None
    shuffle = codecs[1]["configuration"]["shuffle"] if len(codecs) == 2 else None
    if len(shape) != len(chunks) or shuffle not in (None, "shuffle", "bitshuffle", "noshuffle"):
        return None
    fill = _fill_value(document["fill_value"], dtype)
    volumes = of_volumes(tuple(map(str, document.get("dimension_names") or ())))
    return ArrayFormat(shape, chunks, shards, dtype, fill, order, shuffle, volumes)


_NUMBERS = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
_FLOATS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}


def _sizes(given: Any, least: int) -> tuple[int, ...]:
    if not all(type(size) is int and size >= least for size in given):
        raise ValueError("sizes are whole numbers")
    return tuple(given)


def _fill_value(given: Any, dtype: np.dtype) -> Any:
    """The fill value of a document; a ValueError where it is not written in the usual way."""
    if dtype.kind == "c":
        real, imaginary = (_fill_value(part, np.dtype(np.float64)) for part in given)
        return dtype.type(complex(real, imaginary))
    if isinstance(given, str):
        given = _FLOATS[given]
    if dtype.kind != "f" and dtype.type(given) != given:
        raise ValueError("not a value of this type")
    return dtype.type(given)


def _little_endian(codec: Any) -> bool:
    endian = codec.get("configuration", {}).get("endian")
    return bool(codec["name"] == "bytes" and endian == "little")


# ---------------------------------------------------------------------- writing


def encode_shard(file: BinaryIO, form: ArrayFormat, values: np.ndarray) -> tuple[int, int]:
    """Write a shard (its chunks, then where they lie, then a checksum) or a single chunk.

    Returns size and checksum (CRC-32C) of the file.

    Noise hardly shrinks: filtered EEG in float32 by 15 %, for half the time of the filter. Where
    the first whole chunk says so, the others are stored in Blosc frames of level 0, which every
    Blosc codec reads. (Not so volumes, where one slab is brain and the next is background.)
    """
    from google_crc32c import value as crc32c

    if form.shards is None:
        return _put(file, _encode_chunk(values, form), 0, 0)
    places = np.full((*form.counts, 2), MISSING, "<u8")
    offset, checksum, shrinks = 0, 0, True
    # (chunks lie in the order of their values, so that what is read together lies together)
    for turned in np.ndindex(*(form.counts[axis] for axis in form.order)):
        index = tuple(np.array(turned)[np.argsort(form.order)])
        at = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, form.chunks, strict=True))
        chunk = values[at]
        if chunk.size:
            # (what a chunk at the end of the array is filled up with shrinks to nothing)
            whole = chunk.shape == form.chunks
            encoded = _encode_chunk(chunk, form, shrinks=shrinks or not whole)
            if whole and not form.volumes and len(encoded) > WORTH_COMPRESSING * chunk.nbytes:
                shrinks = False
            places[index] = offset, len(encoded)
            offset, checksum = _put(file, encoded, offset, checksum)
    where = places.tobytes()
    return _put(file, where + struct.pack("<I", crc32c(where)), offset, checksum)


def _put(file: BinaryIO, content: bytes | memoryview, size: int, checksum: int) -> tuple[int, int]:
    """Write what comes next in a file; its size and checksum with that."""
    from google_crc32c import extend

    file.write(content)
    if isinstance(content, bytes):
        return size + len(content), extend(checksum, content)
    for start in range(0, len(content), CHECKED_BYTES):
        checksum = extend(checksum, bytes(content[start : start + CHECKED_BYTES]))
    return size + len(content), checksum


def _encode_chunk(
    values: np.ndarray, form: ArrayFormat, *, shrinks: bool = True
) -> bytes | memoryview:
    """One chunk as bytes, filled up to its full shape at the end of the array."""
    if values.shape != form.chunks:
        full = np.full(form.chunks, form.fill_value, form.dtype)
        full[tuple(slice(0, n) for n in values.shape)] = values
        values = full
    values = np.ascontiguousarray(form.stored(values), form.dtype)
    if form.shuffle is None:
        return values.reshape(-1).view(np.uint8).data
    return _blosc(COMPRESSION_LEVEL if shrinks else 0, form.shuffle).encode(values)


@functools.cache
def _blosc(level: int, shuffle: str) -> Any:
    from numcodecs import Blosc

    return Blosc(COMPRESSOR, level, getattr(Blosc, shuffle.upper()))


# ---------------------------------------------------------------------- reading


def reading_bytes(form: ArrayFormat) -> int:
    """What reading holds at most beside its result: a chunk encoded, decoded and picked from."""
    return 3 * form.chunk_bytes + 2 * FRAME_BYTES + 3 * form.index_bytes


def read_chunks(folder: Path, form: ArrayFormat, indexers: tuple[Indexer, ...]) -> np.ndarray:
    """Read a region of an array (slices and sorted integer positions) from its files."""
    picks = tuple(
        slice(*pick.indices(size)[:2]) if isinstance(pick, slice) else pick
        for pick, size in zip(indexers, form.shape, strict=True)
    )
    out = form.empty(tuple(max(0, indexer_length(pick)) for pick in picks))
    if not out.size:
        return out
    memory = tuple(np.empty(form.chunk_bytes + FRAME_BYTES, np.uint8) for _ in range(2))
    files = [list(_parts(pick, size)) for pick, size in zip(picks, form.unit, strict=True)]
    for parts in _product(files, form):
        key, inner, into = zip(*parts, strict=True)
        target = out[into]
        try:
            fd = os.open(folder.joinpath("c", *map(str, key)), os.O_RDONLY)
        except FileNotFoundError:
            if form.whole:
                path = folder.joinpath("c", *map(str, key))
                raise OSError(
                    f"{path} is missing: values of the array were lost; run what made it again"
                ) from None
            target[...] = form.fill_value
            continue
        try:
            _read_file(fd, form, inner, target, memory)
        except (ValueError, RuntimeError) as error:
            raise OSError(f"{folder.joinpath('c', *map(str, key))}: damaged ({error})") from error
        finally:
            os.close(fd)
    return out


def check_file(path: str, form: ArrayFormat, size: int) -> None:
    """Raise a ValueError if what a file holds does not go with its size; values are not read."""
    fd = os.open(path, os.O_RDONLY)
    try:
        if form.shards is not None:
            places = _read_index(fd, form, size)
            there = places[places[..., 0] != MISSING]
            if len(there) and int(there.sum(axis=-1).max()) + form.index_bytes > size:
                raise ValueError("it does not hold what its index says")
        elif form.shuffle is not None:
            head = os.pread(fd, FRAME_BYTES, 0)
            # (of a Blosc frame: what it holds, and what it takes)
            holds, takes = struct.unpack("<I4xI", head[4:]) if len(head) == FRAME_BYTES else (0, 0)
            if holds != form.chunk_bytes or takes != size:
                raise ValueError("a compressed chunk is cut or damaged")
        elif size != form.chunk_bytes:
            raise ValueError("a chunk has another size than the array says")
    finally:
        os.close(fd)


def _read_file(
    fd: int,
    form: ArrayFormat,
    picks: tuple[Indexer, ...],
    out: np.ndarray,
    memory: tuple[np.ndarray, ...],
) -> None:
    """Fill `out` with a region of one shard or chunk."""
    size = os.fstat(fd).st_size
    if form.shards is None:
        places = np.array([0, size], "<u8").reshape((1,) * len(form.chunks) + (2,))
        parts = [[(0, pick, slice(None))] for pick in picks]
    else:
        places = _read_index(fd, form, size)
        parts = [list(_parts(pick, unit)) for pick, unit in zip(picks, form.chunks, strict=True)]
    for found in _product(parts, form):
        index, within, into = zip(*found, strict=True)
        offset, length = (int(n) for n in places[index])
        if offset == length == MISSING:
            out[into] = form.fill_value
            continue
        if offset + length > size or length > form.chunk_bytes + FRAME_BYTES:
            raise ValueError("it does not hold what its index says")
        chunk = _read_chunk(fd, form, offset, memory[0][:length], memory[1])
        if not all(isinstance(pick, slice) for pick in within):
            within = np.ix_(
                *(np.arange(p.start, p.stop) if isinstance(p, slice) else p for p in within)
            )
        out[into] = chunk[within]


def _read_index(fd: int, form: ArrayFormat, size: int) -> np.ndarray:
    """Offset and length of every chunk of a shard."""
    from google_crc32c import value as crc32c

    raw = os.pread(fd, form.index_bytes, max(0, size - form.index_bytes))
    if len(raw) != form.index_bytes or raw[-4:] != struct.pack("<I", crc32c(raw[:-4])):
        raise ValueError("the index of its chunks does not agree with its checksum")
    return np.frombuffer(raw[:-4], "<u8").reshape(*form.counts, 2)


def _read_chunk(
    fd: int, form: ArrayFormat, offset: int, raw: np.ndarray, decoded: np.ndarray
) -> np.ndarray:
    """The values of a chunk: its bytes are read into `raw`, and inflated into `decoded`."""
    view = raw.data
    while len(view):
        n = os.preadv(fd, [view], offset)
        if n == 0:
            raise ValueError("it became shorter while it was read")
        view, offset = view[n:], offset + n
    if form.shuffle is not None:
        from numcodecs.blosc import decompress

        # (bytes 4 to 8 of a Blosc frame: how many it holds)
        if raw.nbytes < FRAME_BYTES or int(raw[4:8].view("<u4")[0]) != form.chunk_bytes:
            raise ValueError("a compressed chunk has another size than the array says")
        decompress(raw, decoded)
        raw = decoded[: form.chunk_bytes]
    if raw.nbytes != form.chunk_bytes:
        raise ValueError("a chunk has another size than the array says")
    return form.chunk_view(raw)


Part = tuple[int, Indexer, slice]
"""Number of a unit along a dim, what is picked within it, and where that goes."""


def _parts(pick: Indexer, unit: int) -> Iterator[Part]:
    if isinstance(pick, slice):
        for number in range(pick.start // unit, -(-pick.stop // unit)):
            start, stop = max(pick.start, number * unit), min(pick.stop, (number + 1) * unit)
            within = slice(start - number * unit, stop - number * unit)
            yield number, within, slice(start - pick.start, stop - pick.start)
        return
    numbers, first = np.unique(pick // unit, return_index=True)
    for number, start, stop in zip(numbers, first, [*first[1:], len(pick)], strict=True):
        yield int(number), pick[start:stop] - number * unit, slice(int(start), int(stop))


def _product(parts: list[list[Part]], form: ArrayFormat) -> Iterator[list[Part]]:
    """Every combination of parts, in the order in which values lie in the files."""
    back = np.argsort(form.order)
    for turned in itertools.product(*(parts[axis] for axis in form.order)):
        yield [turned[axis] for axis in back]
