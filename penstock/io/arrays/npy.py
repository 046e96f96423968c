"""NumPy's own files: ``.npy``, and ``.npz`` archives of them.

Arrays are read by region with positioned reads. Compressed members of an archive can only be read
from their beginning: they are decompressed once, at the first read, and kept.
"""

from __future__ import annotations

import functools
import io
import math
import os
import struct
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
import xarray as xr
from numpy.lib import format as npy_format

from penstock.dataset import SIGNAL, Indexer, indexer_length, lazy_variable
from penstock.io.arrays.arrays import (
    COMPONENT,
    SeveralDatasetsError,
    check_name,
    convert,
    described,
    dim_names,
    result_type,
    stored_as,
)
from penstock.io.arrays.positioned import SCRATCH_BYTES, read_array
from penstock.io.room import check_room
from penstock.memory.buffers import new_array
from penstock.reading import Reading


def open_npy(
    path: str,
    *,
    dtype: Any = None,
    dataset: str | None = None,
    dims: str | Sequence[str] | None = None,
    coords: Mapping[str, Any] | None = None,
    units: str | None = None,
    sampling_frequency: float | None = None,
) -> xr.Dataset:
    """Open an array of a ``.npy`` or ``.npz`` file; it stays there until a region is read.

    Parameters
    ----------
    path : str
        The file.
    dtype : {"float32", "float64"}, optional
        Type of the values; complex values keep both parts, each of this type. Default: the type
        that they are stored in.
    dataset : str, optional
        Name of the array in an ``.npz`` archive. Default: the only one.
    dims : str or sequence of str, optional
        Names of the axes, also as one text (``"y,x,frequency"``). Default: ``dim_0``, ``dim_1``,
        ...: nothing in the file tells what they are.
    coords : mapping, optional
        Dim to values along it, or coordinates as for `xarray.Dataset`, with their units:
        ``{"frequency": ("frequency", values, {"units": "Hz"})}``.
    units : str, optional
        Physical unit of the values.
    sampling_frequency : float, optional
        Samples per second along ``time`` [Hz].

    Returns
    -------
    xarray.Dataset
        ``signal`` with these dims; fields of a structured type are a last dim ``component``.

    Raises
    ------
    OSError, ValueError
        If the file is unusable or cut short, holds Python objects (which are never unpickled), or
        an archive holds several arrays.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, penstock as ps
    >>> path = os.path.join(tempfile.mkdtemp(), "spectra.npy")
    >>> np.save(path, np.zeros((4, 5, 119)))
    >>> dict(ps.open_dataset(path, dims=("y", "x", "frequency")).sizes)
    {'y': 4, 'x': 5, 'frequency': 119}
    """
    path = os.path.abspath(path)
    check_name(dataset, path)
    with open(path, "rb") as file:
        archive = file.read(2) == b"PK"
        if archive:
            array, kept = _open_member(path, dataset)
        elif dataset is not None:
            raise ValueError(f"{path} holds a single array without a name: leave out dataset=")
        else:
            file.seek(0)
            array, kept = _read_header(file, path, path), False
    if array.dtype.hasobject:
        raise ValueError(
            f"{path} holds Python objects, which are never unpickled: save it as numbers"
        )
    if not array.shape:
        raise ValueError(
            f"{path} holds a single value, not an array: save one with axes, or read it with NumPy"
        )
    target, fields = result_type(array.dtype, dtype, path)
    if not kept and array.offset + array.n_bytes > os.path.getsize(path):
        raise ValueError(
            f"{path} is cut short: it announces {array.n_bytes} bytes of values from byte "
            f"{array.offset} on, but holds {os.path.getsize(path)} bytes; copy or save it again"
        )
    if dims is None:
        names = tuple(f"dim_{i}" for i in range(len(array.shape)))
    else:
        names = dim_names(dims, path, fields)
    if len(names) != len(array.shape):
        raise ValueError(
            f"{path} has the shape {array.shape}: dims={names} must name every axis of it"
        )
    member = array.name if kept else None
    stat = os.stat(path)
    region = NpyRegion(path, member, array, target, fields, (stat.st_mtime_ns, stat.st_size))
    # in Fortran order one row lies scattered over the whole array
    scattered = array.fortran and len(array.shape) > 1 and not kept
    reading = Reading(scratch_bytes=SCRATCH_BYTES, interleaved=scattered)
    if kept:
        # positions picked along several axes, in the type of the file
        picked = 2.0 * array.dtype.itemsize / (target.itemsize * max(1, len(fields)))
        reading = replace(reading, scratch=picked, resident_bytes=array.n_bytes)
    shape, values = array.shape, {}
    if fields:
        names, shape = (*names, COMPONENT), (*shape, len(fields))
        values[COMPONENT] = xr.Variable((COMPONENT,), np.array(fields))
    signal = lazy_variable(names, region, shape, target, None, {"source": path}, reading=reading)
    ds = xr.Dataset({SIGNAL: signal}, values, {"source": path})
    left_out = [name for name in array.dtype.names or () if name not in fields]
    if left_out:
        ds.attrs["left_out"] = left_out
    told = stored_as(array.dtype, target, fields)
    if told is not None:
        ds.attrs["stored_as"] = told
    if array.name:
        ds.attrs["source_dataset"] = array.name
    return described(ds, coords, units, sampling_frequency)


MAGIC_BYTES = 8
HEADER_BYTES = 1 << 20
"""Largest header of an array [bytes]: a thousand fields take 30 KiB."""


@dataclass(frozen=True)
class NpyArray:
    """Where an array lies and how."""

    name: str
    """Of the member of an archive; empty for ``.npy``."""
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    """Whether the first axis varies fastest in the file."""

    @property
    def n_bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class NpyRegion:
    """Reads regions of an array: one indexer a dim."""

    path: str
    member: str | None
    """Of an archive, if it is compressed."""
    array: NpyArray
    dtype: np.dtype
    fields: tuple[str, ...]
    version: tuple[int, int]
    """Time of change and size of the file when it was opened."""

    def __call__(self, *indexers: Indexer) -> np.ndarray:
        """Values of a region, as a new array."""
        stat = os.stat(self.path)
        if (stat.st_mtime_ns, stat.st_size) != self.version:
            raise OSError(f"{self.path} has changed since it was opened: open it again")
        fields, n_dims = self.fields, len(self.array.shape)
        if fields:
            fields = tuple(np.array(fields)[indexers[-1]].tolist())
        # axes in the order of the file
        order = tuple(range(n_dims))[:: -1 if self.array.fortran else 1]
        shape = tuple(self.array.shape[axis] for axis in order)
        picks = tuple(indexers[axis] for axis in order)
        lengths = tuple(indexer_length(pick) for pick in picks)
        out = new_array((*lengths, len(fields)) if self.fields else lengths, self.dtype)
        if not out.size:
            pass
        elif self.member is None:
            read_array(self.path, self.array.offset, shape, self.array.dtype, picks, out, fields)
        else:
            with _loading:
                values = _decompressed(
                    self.path, self.member, self.version, self.array.n_bytes
                ).transpose(order)
            values = values[tuple(p if isinstance(p, slice) else slice(None) for p in picks)]
            for axis, pick in enumerate(picks):
                if not isinstance(pick, slice):
                    values = values[(slice(None),) * axis + (pick,)]
            convert(values, out, fields)
        return out.transpose(*order, n_dims) if self.fields else out.transpose(order)


def _read_header(file: IO[bytes], path: str, what: str) -> NpyArray:
    try:
        version = npy_format.read_magic(file)
        if version == (1, 0):
            file = _bounded(file, "<H")
            shape, fortran, dtype = npy_format.read_array_header_1_0(file)
        elif version in ((2, 0), (3, 0)):
            file = _bounded(file, "<I")
            shape, fortran, dtype = npy_format.read_array_header_2_0(file)
            if version == (3, 0) and dtype.names:  # the same, in UTF-8 instead of Latin-1
                dtype.names = tuple(name.encode("latin-1").decode() for name in dtype.names)
        else:
            raise ValueError(f"version {version[0]}.{version[1]} of the format is not known")
    except (ValueError, EOFError, SyntaxError, struct.error, tokenize.TokenError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{what} has no usable NumPy header ({text}): save it again") from error
    if any(n < 0 for n in shape):
        raise ValueError(f"{what} has no usable NumPy header (the shape {shape}): save it again")
    return NpyArray("", MAGIC_BYTES + file.tell(), shape, dtype, fortran)


def _bounded(file: IO[bytes], size: str) -> IO[bytes]:
    """What follows the magic text of a file, if it is as long as a header ever is.

    (NumPy reads as many bytes as the file announces before it looks at them.)
    """
    announced = file.read(struct.calcsize(size))
    length = struct.unpack(size, announced)[0]
    if length > HEADER_BYTES:
        raise ValueError(f"it announces {length} bytes of header")
    return io.BytesIO(announced + file.read(length))


# ---------------------------------------------------------------------- archives


def _open_member(path: str, wanted: str | None) -> tuple[NpyArray, bool]:
    """An array of an archive, and whether it is compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            if not members:
                raise ValueError(f"{path} holds 0 arrays: save it again")
            if wanted is None and len(members) > 1:
                raise SeveralDatasetsError(
                    f"{path} holds {len(members)} arrays: choose one with dataset=..., of "
                    f"{', '.join(members)}",
                    members,
                )
            name = next(iter(members)) if wanted is None else wanted.removesuffix(".npy")
            if name not in members:
                raise ValueError(f"{path} has no array {wanted!r}: it holds {', '.join(members)}")
            info = members[name]
            with archive.open(info) as member:
                array = _read_header(member, path, f"{name} of {path}")
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"{path} cannot be read as an .npz archive ({error}): copy or save it again"
        ) from error
    if array.offset + array.n_bytes > info.file_size:
        raise ValueError(
            f"{name} of {path} announces {array.n_bytes} bytes of values, but the archive holds "
            f"{info.file_size} bytes of it: save it again"
        )
    if info.compress_type != zipfile.ZIP_STORED:
        return NpyArray(name, 0, array.shape, array.dtype, array.fortran), True
    # sizes in the local header differ from those in the directory of the archive
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)
        name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
    start = info.header_offset + 30 + name_bytes + extra_bytes
    return NpyArray(name, start + array.offset, array.shape, array.dtype, array.fortran), False


_loading = threading.Lock()
"""Held while an array is decompressed, so that two threads do not do it twice."""


@functools.lru_cache(maxsize=1)
def _decompressed(path: str, member: str, version: tuple[int, int], n_bytes: int) -> np.ndarray:
    check_room(
        n_bytes, f"{member} of {path}", "save it without compression (numpy.savez), to read parts"
    )
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[member]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise OSError(
            f"{member} of {path} cannot be decompressed ({error}): copy or save it again"
        ) from error
