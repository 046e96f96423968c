"""Compressed files from front to back: gzip, bzip2, xz and Zstandard, told by their first bytes.

Several streams may follow each other in a file, empty ones included; zeros between and behind them
are padding, and whatever else follows the last one is left alone.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import importlib
import lzma
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

PIECE_BYTES = 256 * 1024
"""Read of the compressed file at once."""
MIB = 1 << 20
MOST_LZMA_BYTES = 128 * MIB
"""Most that the dictionary of an xz file may take: twice that of the strongest preset."""
LEAST_WINDOW_LOG, MOST_WINDOW_LOG = 23, 27
"""Windows of Zstandard up to 8 MiB are always allowed for, up to 128 MiB where the file says so."""


class DamagedError(ValueError):
    """Compressed data that cannot be inflated."""


class MissingCodecError(ImportError, ValueError):
    """A compression needs a library that is not installed."""


@dataclass(frozen=True)
class Codec:
    """A kind of compression."""

    name: str
    magic: tuple[bytes, ...]
    """What its files begin with: one of these."""
    suffix: str
    open: Callable[[IO[bytes]], IO[bytes]]
    """A file-like object over the inflated bytes of a file."""
    decompressor: Callable[[bytes], Any]
    """One for a stream that begins with these bytes: ``decompress(data, max_length)``."""
    resident: Callable[[bytes], int] = lambda head: 0
    """Memory [bytes] that inflating a stream takes, beside a megabyte, by its first bytes."""

    def begins(self, data: bytes) -> bool:
        """Whether a stream of this kind begins here."""
        return data.startswith(self.magic)


def _xz_limit(head: bytes) -> int:
    """Memory that a stream of xz needs, in steps: it tells as its first block is read."""
    dictionary = 8 * MIB
    while dictionary < MOST_LZMA_BYTES:
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=dictionary + 2 * MIB)
        try:
            decompressor.decompress(head)
        except lzma.LZMAError as error:
            if "limit" not in str(error):  # (damaged, which is told of when it is read)
                break
        else:
            break
        dictionary *= 2
    return dictionary + 2 * MIB


def _xz(head: bytes) -> Any:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_LZMA_BYTES + 2 * MIB)


_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def _window_log(head: bytes) -> int:
    """Size of the window of a Zstandard frame, as the power of two that holds it (RFC 8878)."""
    at = 0
    while len(head) >= at + 8 and head[at + 1 : at + 4] == b"\x2a\x4d\x18":  # (a skippable frame)
        at += 8 + struct.unpack_from("<I", head, at + 4)[0]
    if head[at : at + 4] != _ZSTD_MAGIC or len(head) < at + 18:
        return LEAST_WINDOW_LOG
    descriptor = head[at + 4]
    if not descriptor & 0x20:
        exponent, eighths = head[at + 5] >> 3, head[at + 5] & 7
        window = (1 << (10 + exponent)) * (8 + eighths) // 8
    else:  # (one segment: the window is all of the content)
        start = at + 5 + (0, 1, 2, 4)[descriptor & 3]
        length = (1, 2, 4, 8)[descriptor >> 6]
        window = int.from_bytes(head[start : start + length], "little")
        window += 256 if length == 2 else 0
    return max(LEAST_WINDOW_LOG, min(MOST_WINDOW_LOG, (window - 1).bit_length()))


def _zstd(head: bytes) -> Any:
    module = zstd_module()
    most = {module.DecompressionParameter.window_log_max: _window_log(head)}
    return module.ZstdDecompressor(options=most)


@functools.cache
def zstd_module() -> Any:
    """Python's module for Zstandard (3.14), or its backport.

    Raises
    ------
    MissingCodecError
        If there is none.
    """
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise MissingCodecError(
        'files compressed with Zstandard (.zst) need backports.zstd: pip install "penstock[fmri]"'
    )


CODECS = (
    Codec(
        "gzip",
        (b"\x1f\x8b",),
        ".gz",
        lambda file: cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb")),
        lambda head: zlib.decompressobj(31),
    ),
    Codec(
        "bzip2",
        (b"BZh",),
        ".bz2",
        lambda file: cast("IO[bytes]", bz2.BZ2File(file)),
        lambda head: bz2.BZ2Decompressor(),
        lambda head: 5 * MIB,
    ),
    Codec(
        "xz",
        (b"\xfd7zXZ\0",),
        ".xz",
        lambda file: cast("IO[bytes]", lzma.LZMAFile(file)),  # noqa: SIM115
        _xz,
        _xz_limit,
    ),
    Codec(
        "zstd",
        (_ZSTD_MAGIC, *(bytes([n]) + b"\x2a\x4d\x18" for n in range(0x50, 0x60))),
        ".zst",
        lambda file: cast("IO[bytes]", zstd_module().ZstdFile(file)),
        _zstd,
        lambda head: 2 << _window_log(head),
    ),
)


def codec_named(name: str) -> Codec:
    """The compression of that name."""
    return next(codec for codec in CODECS if codec.name == name)


def codec_of(head: bytes) -> Codec | None:
    """The compression of a file by its first bytes; None where it is not compressed."""
    return next((codec for codec in CODECS if codec.begins(head)), None)


def compression_of(path: str) -> tuple[str, int]:
    """Name of the compression of a file ("" if there is none), and memory that inflating takes."""
    with open(path, "rb") as file:
        head = file.read(64)
    codec = codec_of(head)
    return ("", 0) if codec is None else (codec.name, codec.resident(head))


def inflated_head(head: bytes, n_bytes: int) -> bytes:
    """As much of a file as its first bytes tell, inflated where they are compressed."""
    codec = codec_of(head)
    if codec is None:
        return head[:n_bytes]
    found = b""
    while codec.begins(head) and len(found) < n_bytes:
        member = codec.decompressor(head)
        try:
            found += member.decompress(head, n_bytes - len(found))
        except (zlib.error, OSError, EOFError, lzma.LZMAError):
            break
        head = member.unused_data.lstrip(b"\0") if member.eof else b""
    return found


@contextlib.contextmanager
def open_inflated(path: str) -> Iterator[IO[bytes]]:
    """A file to be read from its beginning, inflated where it is compressed, whatever its name."""
    with open(path, "rb") as file:
        codec = codec_of(file.read(8))
        file.seek(0)
        yield file if codec is None else codec.open(file)


def check_version(path: str, stat: os.stat_result, version: tuple[int, int]) -> None:
    """Raise an OSError if a file is not the one of that time of change [ns] and size."""
    if (stat.st_mtime_ns, stat.st_size) != version:
        raise OSError(f"{path} has changed since it was opened: open it again")


class Inflater:
    """A compressed file from front to back, without keeping it open between two reads.

    Parameters
    ----------
    path : str
        The file.
    version : tuple of int
        Its time of change [ns] and size [bytes].
    codec : Codec
        Its compression.
    module : module, optional
        For gzip: ``zlib``, or one like it.
    """

    def __init__(self, path: str, version: tuple[int, int], codec: Codec, module: Any = zlib):
        self._path, self._version, self._position = path, version, 0
        self._pending = b""
        self._codec, self.module = codec, module
        self._member: Any = None

    @property
    def can_be_copied(self) -> bool:
        """Whether another one can go on from here: only zlib's decompressors can be copied."""
        return self._codec.name == "gzip" and self.module is zlib

    def copy(self) -> Inflater:
        """Another one that goes on from here."""
        other = Inflater(self._path, self._version, self._codec, self.module)
        # (what is pending is read again: marks are kept by the hundred)
        other._position = self._position - len(self._pending)
        other._member = self._member.copy()
        return other

    def read(self, n_bytes: int) -> bytes:
        """At most so many bytes; none at the end.

        Raises
        ------
        EOFError
            If the file ends before its data do.
        DamagedError
            If the data are damaged.
        """
        while True:
            if self._member is None or self._member.eof:
                rest = self._next_stream()
                if rest is None:
                    return b""
                self._pending, self._member = rest, self._decompressor(rest)
            more_wanted = getattr(self._member, "needs_input", True)
            pending = (self._pending or self._more()) if more_wanted else b""
            try:
                data: bytes = self._member.decompress(pending, n_bytes)
            except Exception as error:  # (each library has errors of its own for damaged data)
                raise DamagedError(" ".join(str(error).split())) from error
            self._pending = getattr(self._member, "unconsumed_tail", b"")
            if data:
                return data
            if more_wanted and not pending and not self._member.eof:
                raise EOFError

    def _decompressor(self, head: bytes) -> Any:
        return (
            self.module.decompressobj(31)
            if self._codec.name == "gzip"
            else self._codec.decompressor(head)
        )

    def _next_stream(self) -> bytes | None:
        """Bytes that the next stream begins with, padding left out; None where there is none."""
        rest = b"" if self._member is None else self._member.unused_data
        rest = rest.lstrip(b"\0") if self._member is not None else rest
        while len(rest) < 32:  # (enough to tell what it is, and what it needs)
            more = self._more()
            if not more:
                break
            rest = rest + more
            rest = rest.lstrip(b"\0") if self._member is not None else rest
        return rest if self._codec.begins(rest) else None

    def _more(self) -> bytes:
        fd = os.open(self._path, os.O_RDONLY)
        try:
            check_version(self._path, os.fstat(fd), self._version)
            data = os.pread(fd, PIECE_BYTES, self._position)
        finally:
            os.close(fd)
        self._position += len(data)
        return data


def read_inflated(path: str, n_bytes: int) -> bytes:
    """The first bytes of a file, inflated where it is compressed.

    Raises
    ------
    OSError
        If the file cannot be opened, or its compressed data are damaged before that.
    """
    with open(path, "rb") as file:
        codec = codec_of(file.read(8))
        file.seek(0)
        if codec is None:
            return file.read(n_bytes)
        stat = os.fstat(file.fileno())
    inflater = Inflater(path, (stat.st_mtime_ns, stat.st_size), codec)
    found = b""
    try:
        while len(found) < n_bytes and (more := inflater.read(n_bytes - len(found))):
            found += more
    except (DamagedError, EOFError) as error:
        raise OSError(
            f"{path} is cut short or damaged within its header ({str(error) or 'it ends early'}): "
            "copy or download it again"
        ) from error
    return found
