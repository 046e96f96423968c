"""Compressed images as a stream: inflated from front to back, once, by whichever thread is next.

A compressed file has no way to its middle but through all that lies before. The place that was
reached is kept between reads, so that blocks read in file order cost one pass over the file
together. No file stays open in between.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import importlib
import math
import os
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.io.arrays.arrays import exact_type
from penstock.io.compressed import DamagedError, Inflater, check_version, codec_named

PIECE_BYTES = 256 * 1024
"""Inflated at once; also what is read of the compressed file at once."""
STREAM_BYTES = 1024 * 1024 + 2 * PIECE_BYTES
"""What a stream holds at most: compressed bytes, the state of the decompressor, and a piece."""
MOST_STREAMS = 8
"""Files of which a process remembers how far it has read."""
MARK_BYTES, MOST_MARKS = 16 * 1024 * 1024, 128
"""Distance of the places from which a file that is read in any order can be inflated again, at the
least, and how many of them there are at most: 40 KiB each."""
PATIENCE = 0.25
"""How long [s] a read further on waits for those before it, which other threads may ask for."""


@dataclass(frozen=True)
class StoredValues:
    """Where the values of an image lie, and how: one array in one piece."""

    path: str
    version: tuple[int, int]
    """Time of change [ns] and size [bytes] of the file when it was opened."""
    compression: str
    """Name of the compression (see `penstock.io.compressed`); empty: there is none."""
    offset: int
    """First byte of the values, in what is inflated where the file is compressed."""
    shape: tuple[int, ...]
    """In the order of the file: the last axis varies fastest."""
    dtype: np.dtype
    slope: float = 1.0
    inter: float = 0.0
    unit: str = "volumes"
    """What one position along the first axis is, for messages."""
    resident_bytes: int = 0
    """Memory that inflating keeps from the first read on, beside `STREAM_BYTES`."""

    @property
    def compressed(self) -> bool:
        """Whether the file can only be read front to back."""
        return bool(self.compression)

    @property
    def n_bytes(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def unit_bytes(self) -> int:
        """Bytes of one position along the first axis."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def is_scaled(self) -> bool:
        """Whether stored values are other than the values meant."""
        return (self.slope, self.inter) != (1.0, 0.0)

    @property
    def exact_type(self) -> np.dtype:
        """The smallest floating type that holds every value meant exactly.

        For scaled integers of 16 bit each of the values that there may be is tried. Products of
        wider types with a slope have more digits than float32, and as many as float64 rounds.
        """
        exact = exact_type(self.dtype)
        if not self.is_scaled or exact.kind == "c":
            return np.result_type(exact, np.complex128) if self.is_scaled else exact
        if self.dtype.kind == "f" or self.dtype.itemsize > 2:
            return np.dtype(np.float64)
        held = np.iinfo(self.dtype)
        values = np.arange(held.min, held.max + 1) * self.slope + self.inter
        with np.errstate(over="ignore"):
            fits = bool((values.astype(np.float32) == values).all())
        return np.dtype(np.float32 if fits else np.float64)

    @property
    def stored_as(self) -> str:
        """Type of the values in the file, and how they are scaled, for people."""
        text = self.dtype.name
        if self.slope != 1:
            text += f" × {self.slope:.6g}"
        if self.inter:
            text += f" {'+' if self.inter > 0 else '-'} {abs(self.inter):.6g}"
        return text

    def work_type(self, target: np.dtype) -> np.dtype:
        """Type to scale values in: the target's where a value is then rounded once, as it is cast.

        Otherwise float64: what float32 holds of ``slope * stored`` may be gone when the intercept
        is added.
        """
        exact = np.can_cast(self.dtype, target) and self.inter == 0
        if not self.is_scaled or (exact and float(np.float32(self.slope)) == self.slope):
            return target
        return np.result_type(target, np.float64)

    def check_version(self) -> None:
        """Raise an OSError if the file is no longer the one that was opened."""
        check_version(self.path, os.stat(self.path), self.version)


class NiftiStream:
    """The inflated bytes of one file, for all threads of a process.

    A thread takes its turn with `turn` and then reads forward with `fill`. The stream goes on from
    where the last one left it, or begins again where that lies behind.

    Parameters
    ----------
    values : StoredValues
        The file, and where its values lie.
    """

    def __init__(self, values: StoredValues):
        self.values = values
        self.position = 0
        """Bytes inflated since the beginning of the file."""
        self.inflated = 0
        """Bytes inflated by this stream in all: one pass over the file is its size."""
        self._file: Inflater | None = None
        self._condition = threading.Condition()
        self._waiting: list[int] = []
        self._busy = False
        self._moved = -math.inf
        self._alone: int | None = None
        self._marked = False
        self._marks: list[tuple[int, Inflater]] = []
        total = values.offset + values.n_bytes
        self._mark_bytes = max(MARK_BYTES, total // MOST_MARKS)

    @contextlib.contextmanager
    def turn(self, start: int) -> Iterator[NiftiStream]:
        """Take the stream for a read whose first byte is `start`.

        A read that goes on from the position (it begins less than a volume further on) is served
        first, then the one that skips least. Before it skips a volume or more, a read waits for
        `PATIENCE` in case another thread is about to ask for what lies between; the wait begins
        anew whenever the stream moves on. Reads of what lies behind come last: they begin again
        from the start of the file.
        """
        self._wait(start)
        try:
            yield self
        except BaseException:
            # (where it broke off is not known)
            self._file, self.position = None, 0
            raise
        finally:
            with self._condition:
                self._busy = False
                self._moved = time.monotonic()
                self._condition.notify_all()

    def fill(self, position: int, target: np.ndarray) -> None:
        """Inflate the bytes from a position on into `target` (uint8), within a turn.

        Raises
        ------
        OSError
            If the file is cut short or damaged, or has changed since it was opened.
        """
        self._go_to(position)
        while self.position < position:
            self._inflate(min(PIECE_BYTES, position - self.position))
        view = target.data
        while len(view):
            data = self._inflate(min(PIECE_BYTES, len(view)))
            view[: len(data)] = data
            view = view[len(data) :]
        if self.position == self.values.offset + self.values.n_bytes:
            # what follows ends with the checksum of everything before
            while self._read(PIECE_BYTES):
                pass
            self._file = None

    def _go_to(self, position: int) -> None:
        """Be where least must be inflated to come to a position.

        A first pass is the fastest that there is. Once somebody has gone back, marks are left on
        the way, from which reads in any order go on; only zlib's decompressors can be copied.
        """
        if position < self.position:  # (to the beginning: just another pass)
            self._marked = position > self.values.offset
        here = self.position if self._file is not None and position >= self.position else -1
        at = bisect.bisect_right(self._marks, position, key=lambda mark: mark[0]) - 1
        if at >= 0 and self._marks[at][0] > here:
            self.position, mark = self._marks[at]
            self._file = mark.copy()
        elif here < 0:
            module = zlib if self._marked else zlib_module()
            codec = codec_named(self.values.compression)
            self._file = Inflater(self.values.path, self.values.version, codec, module)
            self.position = 0

    def _inflate(self, n_bytes: int) -> bytes:
        data = self._read(n_bytes)
        if not data:
            raise OSError(self._short())
        self.position += len(data)
        self.inflated += len(data)
        assert self._file is not None
        last = self._marks[-1][0] if self._marks else 0
        if self._file.can_be_copied and self.position >= last + self._mark_bytes:
            self._marks.append((self.position, self._file.copy()))
        return data

    def _read(self, n_bytes: int) -> bytes:
        assert self._file is not None
        try:
            return self._file.read(n_bytes)
        except EOFError:
            raise OSError(self._short()) from None
        except DamagedError as error:
            raise OSError(
                f"{self.values.path} is damaged after {self._progress()} ({error}): copy or "
                "download it again"
            ) from error

    def _short(self) -> str:
        return (
            f"{self.values.path} is cut short after {self._progress()} (compressed data end "
            "early): copy or download it again"
        )

    def _progress(self) -> str:
        values = self.values
        done = max(0, self.position - values.offset) // values.unit_bytes
        return f"{done} of {values.shape[0]} {values.unit}"

    # ------------------------------------------------------------------ whose turn it is

    def _wait(self, start: int) -> None:
        thread = threading.get_ident()
        with self._condition:
            if self._alone != thread:
                self._alone = None
            self._waiting.append(start)
            asked, waited = time.monotonic(), False
            try:
                while (pause := self._pause(start, asked)) is None or pause > 0:
                    waited = waited or pause is not None
                    self._condition.wait(pause)
                if waited and len(self._waiting) == 1 and not self._goes_on(start):
                    self._alone = thread  # nobody came: it need not wait again while it is alone
                self._busy = True
            finally:
                self._waiting.remove(start)
                self._condition.notify_all()

    def _pause(self, start: int, asked: float) -> float | None:
        """Seconds until a read may begin if nothing happens before; None: until others are done."""
        if self._busy:
            return None
        if self._goes_on(start):
            return 0.0
        here = max(self.position, self.values.offset)
        ahead = [other for other in self._waiting if other >= here]
        if start > min(ahead or self._waiting) or (start < here and ahead):
            return None
        if start < here or self._alone == threading.get_ident() or threading.active_count() == 1:
            return 0.0
        if self._marked:  # (they come in any order)
            return 0.0
        return max(asked, self._moved) + PATIENCE - time.monotonic()

    def _goes_on(self, start: int) -> bool:
        here = max(self.position, self.values.offset)
        return here <= start < here + self.values.unit_bytes


@functools.cache
def zlib_module() -> Any:
    """``isal.isal_zlib``, twice as fast as `zlib`, or that where it is not installed."""
    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError:
        return zlib


# ---------------------------------------------------------------------- one stream a file

_streams: OrderedDict[tuple[str, tuple[int, int]], NiftiStream] = OrderedDict()
_lock = threading.Lock()


def stream_of(values: StoredValues) -> NiftiStream:
    """The stream of a file in this process; the ones used least recently are let go."""
    key = values.path, values.version
    with _lock:
        stream = _streams.get(key)
        if stream is None:
            stream = _streams[key] = NiftiStream(values)
        _streams.move_to_end(key)
        while len(_streams) > MOST_STREAMS:
            _streams.popitem(last=False)
    return stream


def open_streams(path: str | os.PathLike[str] | None = None) -> list[NiftiStream]:
    """Streams that this process keeps, of one file or of all."""
    with _lock:
        return [stream for key, stream in _streams.items() if _is_of(key[0], path)]


def close_streams(path: str | os.PathLike[str] | None = None) -> None:
    """Forget how far compressed files have been read, of one file or of all.

    Frees the memory of their decompressors; the next read begins at the start of the file.

    Parameters
    ----------
    path : path-like, optional
        The compressed file. Default: all of them.

    Examples
    --------
    >>> from penstock.io.nifti.open import close_streams
    >>> close_streams()
    """
    with _lock:
        for key in [key for key in _streams if _is_of(key[0], path)]:
            del _streams[key]


def _is_of(found: str, path: str | os.PathLike[str] | None) -> bool:
    return path is None or found == os.path.abspath(os.fspath(path))


def _forget_in_child() -> None:
    # other threads of the parent, which may hold the lock or a stream, are not in the child
    global _lock
    _lock = threading.Lock()
    _streams.clear()


os.register_at_fork(after_in_child=_forget_in_child)
