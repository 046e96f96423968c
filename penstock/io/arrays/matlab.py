"""MATLAB files of versions 4 to 7 (those of 7.3 are HDF5 files).

Arrays that lie in a file as they are are read by region. What is compressed, complex or a part of
a structure is loaded by SciPy at the first read, and kept.

Definition: MAT-File Format, https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

from __future__ import annotations

import functools
import math
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL, Indexer, indexer_length, lazy_variable
from penstock.io.arrays.arrays import (
    SeveralDatasetsError,
    as_dtype,
    check_name,
    convert,
    described,
    dim_names,
    in_memory,
)
from penstock.io.arrays.npy import NpyArray, NpyRegion
from penstock.io.arrays.positioned import SCRATCH_BYTES
from penstock.io.room import check_room
from penstock.memory.buffers import new_array
from penstock.reading import Reading

MATRIX, COMPRESSED = 14, 15
CLASSES = {
    1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 6: "double", 7: "single",
    8: "int8", 9: "uint8", 10: "int16", 11: "uint16", 12: "int32", 13: "uint32", 14: "int64",
    15: "uint64", 16: "function", 17: "opaque",
}  # fmt: skip
STORED = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
NUMBERS = frozenset(name for name in CLASSES.values() if name.strip("u1234568") == "int")
NUMBERS |= {"double", "single"}
HEAD_BYTES = 1 << 14
"""Bytes of a variable in which its name and sizes are looked for."""
MOST_ENTRIES = 1000
"""Entries of a cell array or an array of structures that are looked at."""

_STEP = re.compile(r"([^{}]*)((?:\{\d+\})*)")


@dataclass(frozen=True)
class Variable:
    """One variable of a file, as its header tells."""

    name: str
    kind: str
    """Class in MATLAB: ``"double"``, ``"struct"``, ..."""
    shape: tuple[int, ...]
    dtype: np.dtype | None
    """Of numbers."""
    stored: np.dtype | None = None
    offset: int | None = None
    """Where its values begin, if they lie there as they are."""
    held: int = 0
    """Bytes that all of it has in the file, inflated [bytes]."""

    def __str__(self) -> str:
        return f"{self.name} ({' x '.join(map(str, self.shape))})"


def open_matlab(
    path: str,
    *,
    dtype: Any = None,
    dataset: str | None = None,
    dims: str | Sequence[str] | None = None,
    coords: Mapping[str, Any] | None = None,
    units: str | None = None,
    sampling_frequency: float | None = None,
) -> xr.Dataset:
    """Open an array of a MATLAB file; its values stay there until a region is read.

    Parameters
    ----------
    path : str
        The file.
    dtype : {"float32", "float64"}, optional
        Type of the values; complex values keep both parts, each of this type. Default: the class
        that they have in MATLAB; of parts of structures and cells the type that is stored.
    dataset : str, optional
        Name of the variable; ``"scan/data"`` is a field of a structure, ``"cell{3}"`` an entry of
        a cell array. Default: the only array of numbers.
    dims : str or sequence of str, optional
        Names of the axes, also as one text (``"y,x,frequency"``). Default: ``dim_0``, ``dim_1``,
        ...
    coords : mapping, optional
        As of `penstock.io.arrays.npy.open_npy`.
    units : str, optional
        Physical unit of the values.
    sampling_frequency : float, optional
        Samples per second along ``time`` [Hz].

    Returns
    -------
    xarray.Dataset
        ``signal`` with these dims, in the order of MATLAB.

    Raises
    ------
    OSError, ValueError
        If the file is unusable, holds no such array, or several.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, penstock as ps, scipy.io
    >>> path = os.path.join(tempfile.mkdtemp(), "scan.mat")
    >>> scipy.io.savemat(path, {"cube": np.zeros((4, 5, 119)), "about": "a scan"})
    >>> dict(ps.open_dataset(path, dims=("y", "x", "frequency")).sizes)
    {'y': 4, 'x': 5, 'frequency': 119}
    """
    path = os.path.abspath(path)
    check_name(dataset, path)
    variables = _variables(path)
    chosen, part, held = _chosen(path, variables, dataset)
    name = dataset or f"{chosen.name}{part}"
    if part:
        values = _loaded(path, chosen.name, part, _version(path))
        shape, native = values.shape, values.dtype
    else:
        assert chosen.dtype is not None
        shape, native = chosen.shape, chosen.dtype
    names = tuple(f"dim_{i}" for i in range(len(shape)))
    if dims is not None:
        names = dim_names(dims, path)
    if len(names) != len(shape):
        raise ValueError(f"{name} of {path} has the shape {shape}: dims={names} must name every "
                         "axis of it")  # fmt: skip
    target = in_memory(native)
    if dtype is not None:
        real = as_dtype(dtype)
        target = np.result_type(real, np.complex64) if native.kind == "c" else real
    read: Any
    if not part and chosen.offset is not None and chosen.stored is not None:
        array = NpyArray(name, chosen.offset, shape, chosen.stored, True)
        if array.offset + array.n_bytes > os.path.getsize(path):
            raise ValueError(f"{path} is cut short: {name} goes on after its end; copy or save it "
                             "again")  # fmt: skip
        read = NpyRegion(path, None, array, target, (), _version(path))
        reading = Reading(scratch_bytes=SCRATCH_BYTES, interleaved=len(shape) > 1)
    else:
        read = _Kept(path, chosen.name, part, target, shape, _version(path))
        n_bytes = math.prod(shape) * native.itemsize
        # (loading needs the bytes of the file beside the array that becomes of them)
        reading = Reading(
            scratch=2.0 * native.itemsize / target.itemsize,
            scratch_bytes=2 * max(held, n_bytes) + SCRATCH_BYTES,
            resident_bytes=n_bytes,
        )
    signal = lazy_variable(names, read, shape, target, None, {"source": path}, reading=reading)
    about = {"source": path, "source_dataset": name, "data_model": "MATLAB"}
    return described(xr.Dataset({SIGNAL: signal}, attrs=about), coords, units, sampling_frequency)


def _version(path: str) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_mtime_ns, stat.st_size


# ---------------------------------------------------------------------- which array


def _chosen(
    path: str, variables: Sequence[Variable], wanted: str | None
) -> tuple[Variable, str, int]:
    """Variable, the part of it that is meant, and bytes that all of it takes to load."""
    arrays = [v for v in variables if v.dtype is not None and 0 not in v.shape]
    if wanted is not None:
        for variable in variables:
            if wanted == variable.name and variable.dtype is not None:
                return variable, "", 0
            part = wanted.removeprefix(variable.name)
            if part != wanted and part[:1] in ("/", "{"):
                held = _bytes(_top(path, variable.name))
                if _is_array(_part(_top(path, variable.name), part)):
                    return variable, part, held
    elif len(arrays) == 1:
        return arrays[0], "", 0
    inside = [] if arrays and wanted is None else list(_parts(path, variables))
    if wanted is None and not arrays and len(inside) == 1:
        return inside[0][0], inside[0][1], _bytes(_top(path, inside[0][0].name))
    names = [v.name for v in arrays] or [f"{v.name}{part}" for v, part, _ in inside]
    if wanted is None and len(names) > 1:
        shown = [*map(str, arrays)] or [f"{v.name}{part} ({shape})" for v, part, shape in inside]
        raise SeveralDatasetsError(
            f"{path} holds several arrays: choose one with dataset=..., of "
            f"{'; '.join(shown[:12])}{f'; and {len(shown) - 12} more' if len(shown) > 12 else ''}",
            names,
        )
    others = ", ".join(f"{v.name} ({v.kind})" for v in variables) or "nothing"
    has = "no array of numbers" if wanted is None else f"no array {wanted!r}"
    raise ValueError(f"{path} has {has}: it holds {', '.join(names) or others}")


def _parts(path: str, variables: Sequence[Variable]) -> Iterator[tuple[Variable, str, str]]:
    """Arrays of numbers inside of structures and cells."""
    for variable in variables:
        if variable.kind in ("struct", "object", "cell"):
            for part, values in _leaves(_top(path, variable.name), "", 0):
                yield variable, part, " x ".join(map(str, values.shape))


def _leaves(value: Any, part: str, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    if depth > 16 or not isinstance(value, np.ndarray):
        return
    if _is_array(value):
        if value.size:
            yield part, value
    elif value.dtype.names:
        for i, entry in enumerate(value.reshape(-1, order="F")[:MOST_ENTRIES]):
            where = part if value.size == 1 else f"{part}{{{i + 1}}}"
            for name in value.dtype.names:
                yield from _leaves(entry[name], f"{where}/{name}", depth + 1)
    elif value.dtype == object:
        for i, entry in enumerate(value.reshape(-1, order="F")[:MOST_ENTRIES]):
            yield from _leaves(entry, f"{part}{{{i + 1}}}", depth + 1)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biufc"


def _part(value: Any, part: str) -> Any:
    """What a field, or an entry counted from 1, of a loaded variable is; None if there is none."""
    for name, entries in _STEP.findall(part.replace("/", "\0").lstrip("\0")) if part else ():
        for field in filter(None, name.split("\0")):
            if not isinstance(value, np.ndarray) or field not in (value.dtype.names or ()):
                return None
            value = value.reshape(-1, order="F")
            if value.size != 1:
                return None
            value = value[0][field]
        for number in map(int, re.findall(r"\d+", entries)):
            if not isinstance(value, np.ndarray) or not 1 <= number <= value.size:
                return None
            entry = value.reshape(-1, order="F")[number - 1 : number]
            value = entry[0] if value.dtype == object else entry
    return value


def _bytes(value: Any) -> int:
    if not isinstance(value, np.ndarray):
        return 0
    if value.dtype.names:
        return sum(_bytes(value[name]) for name in value.dtype.names)
    if value.dtype == object:
        return sum(map(_bytes, value.reshape(-1)))
    return value.nbytes


# ---------------------------------------------------------------------- headers


def _variables(path: str) -> list[Variable]:
    try:
        with open(path, "rb") as file:
            head = file.read(128)
            if _is_listed(head):
                return list(_headers(file, path, "<" if head[126:128] == b"IM" else ">"))
        return _old_variables(path)
    except (struct.error, zlib.error, IndexError, KeyError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as a MATLAB file ({' '.join(str(error).split())}): copy or "
            "save it again"
        ) from error


def _is_listed(head: bytes) -> bool:
    """Whether a file lists its variables with their sizes (not so version 4)."""
    return len(head) == 128 and head[124:128] in (b"\x00\x01IM", b"\x01\x00MI")


def _headers(file: IO[bytes], path: str, order: str) -> Iterator[Variable]:
    size, at = os.path.getsize(path), 128
    while at + 8 <= size:
        file.seek(at)
        kind, n_bytes = struct.unpack(order + "II", file.read(8))
        if at + 8 + n_bytes > size:
            raise ValueError(
                f"{path} is cut short: it announces {at + 8 + n_bytes} bytes and holds {size}; "
                "copy or save it again"
            )
        head = file.read(min(n_bytes, HEAD_BYTES))
        offset: int | None = at + 8
        if kind == COMPRESSED:
            head = zlib.decompressobj().decompress(head, HEAD_BYTES)
            kind, inflated = struct.unpack(order + "II", head[:8])
            offset, head = None, head[8:]
        else:
            inflated = n_bytes
        if kind == MATRIX:
            variable = _header(head, order, offset)
            # (a name like that is what MATLAB itself keeps in a file)
            if variable is not None and variable.name and not variable.name.startswith("__"):
                yield _checked(replace(variable, held=inflated), path)
        at += 8 + n_bytes


def _checked(variable: Variable, path: str) -> Variable:
    """The variable, if it can have as many values as its header says.

    (A number takes a bit at least, an entry of a cell the eight bytes that say what it is.)
    """
    n = math.prod(variable.shape)
    least = n * 8 if variable.kind == "cell" else n // 8 if variable.kind in NUMBERS else 0
    if min(variable.shape, default=0) < 0 or least > variable.held:
        raise ValueError(
            f"{path} announces {variable} with more values than it has bytes: copy or save it again"
        )
    return variable


def _header(head: bytes, order: str, offset: int | None) -> Variable | None:
    """Flags, sizes, name and the place of the values, the elements of a matrix."""
    elements, at = [], 0
    for _ in range(4):
        if at + 8 > len(head):
            break
        (first,) = struct.unpack_from(order + "I", head, at)
        if first >> 16:  # up to four bytes together with what they are
            kind, n_bytes, start, after = first & 0xFFFF, first >> 16, at + 4, at + 8
        else:
            kind, n_bytes = struct.unpack_from(order + "II", head, at)
            start = at + 8
            after = start + n_bytes + (-n_bytes) % 8
        elements.append((kind, n_bytes, start))
        at = after
    if len(elements) < 3:
        return None
    flags, _ = struct.unpack_from(order + "II", head, elements[0][2])
    name = CLASSES.get(flags & 0xFF, "unknown")
    _, n_bytes, start = elements[1]
    if name == "opaque":
        return None
    shape: tuple[int, ...] = struct.unpack_from(f"{order}{n_bytes // 4}i", head, start)
    _, n_bytes, start = elements[2]
    label = head[start : start + n_bytes].decode("latin-1")
    if name not in NUMBERS:
        return Variable(label, name, shape, None)
    is_complex, is_logical = bool(flags & 0x800), bool(flags & 0x200)
    dtype = np.dtype({"double": "f8", "single": "f4"}.get(name, name))
    if is_logical:
        dtype = np.dtype(bool)
    if is_complex:
        return Variable(label, name, shape, np.result_type(dtype, np.complex64))
    if len(elements) < 4 or offset is None or elements[3][0] not in STORED:
        return Variable(label, name, shape, dtype)
    kind, n_bytes, start = elements[3]
    stored = np.dtype(order + STORED[kind])
    if n_bytes != math.prod(shape) * stored.itemsize:
        return Variable(label, name, shape, dtype)
    return Variable(label, name, shape, dtype, stored, offset + start)


def _old_variables(path: str) -> list[Variable]:
    """Variables of version 4, of which SciPy must load one to tell its type."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(path)
    except (
        ValueError, TypeError, NotImplementedError, MatReadError, OSError, MemoryError,
        OverflowError,
    ) as error:  # fmt: skip
        raise ValueError(
            f"{path} cannot be read as a MATLAB file ({' '.join(str(error).split())}): save it "
            "again, as version 7 or 7.3"
        ) from error
    return [
        Variable(name, str(value.dtype), value.shape, value.dtype if _is_array(value) else None)
        for name, value in found.items()
        if isinstance(value, np.ndarray)
    ]


# ---------------------------------------------------------------------- values


_loading = threading.Lock()
"""Held while a variable is loaded, so that two threads do not do it twice."""


def _top(path: str, name: str) -> Any:
    return _loaded_variable(path, name, _version(path))


@functools.lru_cache(maxsize=1)
def _loaded_variable(path: str, name: str, version: tuple[int, int]) -> Any:
    """A variable with all that it holds; nothing of it is evaluated."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    with open(path, "rb") as file:
        listed = list(_variables(path)) if _is_listed(file.read(128)) else []
    held = sum(variable.held for variable in listed if variable.name == name)
    held = held or os.path.getsize(path)
    check_room(2 * held, f"{name} of {path}", "save it as version 7.3, of which parts can be read")
    try:
        # (mat_dtype=True, the classes of MATLAB, would lose imaginary parts)
        return loadmat(path, variable_names=[name])[name]
    except (
        OSError, ValueError, TypeError, KeyError, NotImplementedError, MatReadError, zlib.error,
        MemoryError, OverflowError,
    ) as error:  # fmt: skip
        raise OSError(
            f"{name} of {path} cannot be read ({' '.join(str(error).split())}): save it again"
        ) from error


@functools.lru_cache(maxsize=1)
def _loaded(path: str, name: str, part: str, version: tuple[int, int]) -> np.ndarray:
    values = _part(_loaded_variable(path, name, version), part)
    # (only the part that is read stays)
    _loaded_variable.cache_clear()
    assert isinstance(values, np.ndarray)
    return values


@dataclass(frozen=True, eq=False)
class _Kept:
    """Reads regions of an array that is loaded whole at the first read."""

    path: str
    name: str
    part: str
    dtype: np.dtype
    shape: tuple[int, ...]
    version: tuple[int, int]

    def __call__(self, *indexers: Indexer) -> np.ndarray:
        """Values of a region, as a new array."""
        if _version(self.path) != self.version:
            raise OSError(f"{self.path} has changed since it was opened: open it again")
        out = new_array(tuple(indexer_length(pick) for pick in indexers), self.dtype)
        if not out.size:
            return out
        with _loading:
            values = _loaded(self.path, self.name, self.part, self.version)
        for axis, pick in enumerate(indexers):
            values = values[(slice(None),) * axis + (pick,)]
        convert(values, out, ())
        return out
