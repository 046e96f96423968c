"""Zarr arrays of others: chunks are inflated to what their array says, and not to what they hold.

A chunk of a megabyte can be compressed zeros of many gigabytes. zarr-python inflates it to whatever
it holds; the codecs here, which are zarr-python's otherwise, stop where the array's chunks end.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import lzma
import math
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from penstock.memory.accounting import MIB

TEXT_BYTES = 4096
"""Most that a text of an array takes, on average over a chunk."""
SLACK_BYTES = 64 * 1024
"""What codecs add to values before they are compressed: checksums, lengths, headers."""

_lock = threading.Lock()


@contextlib.contextmanager
def bounded_codecs() -> Iterator[None]:
    """Let arrays that are opened meanwhile inflate chunks no further than they should be."""
    import zarr

    with _lock, zarr.config.set(_codecs()):
        yield


@functools.cache
def _codecs() -> dict[str, str]:
    """Settings of zarr-python that name our codecs, which it knows from then on."""
    from zarr import registry

    settings = {}
    for name, check in _CHECKS.items():
        with contextlib.suppress(KeyError):
            base = registry.get_codec_class(name)
            ours = _bounded(base, check)
            registry.register_codec(name, ours, qualname=f"{ours.__module__}.{ours.__qualname__}")
            settings[f"codecs.{name}"] = f"{ours.__module__}.{ours.__qualname__}"
    return settings


def _bounded(base: type, beyond: Callable[[memoryview, int], bool]) -> type:
    """The codec, refusing what `beyond` says is more than a chunk holds."""

    class Bounded(base):  # type: ignore[misc, valid-type]
        async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
            limit = _most_bytes(chunk_spec)
            if beyond(memoryview(chunk_bytes.to_bytes()), limit):
                raise RuntimeError(f"a chunk holds more than the {limit} bytes that it should")
            return await super()._decode_single(chunk_bytes, chunk_spec)

        def __reduce__(self) -> Any:  # (made anew wherever it goes: the class has no name there)
            return _again, (self.to_dict(),)

    Bounded.__name__ = Bounded.__qualname__ = f"Bounded{base.__name__}"
    return Bounded


def _again(form: dict[str, Any]) -> Any:
    from zarr import registry

    name = form["name"]
    with bounded_codecs():
        return registry.get_codec_class(name).from_dict(form)


def _most_bytes(spec: Any) -> int:
    """What a chunk holds at most before it is compressed."""
    n = math.prod(spec.shape)
    itemsize = getattr(spec.dtype, "item_size", None)
    return n * int(itemsize or TEXT_BYTES) + SLACK_BYTES


# ---------------------------------------------------------------------- what frames hold


def _inflates_beyond(make: Callable[[], Any]) -> Callable[[memoryview, int], bool]:
    """Whether a stream of one or more members holds more than so many bytes; nothing is kept."""

    def beyond(data: memoryview, limit: int) -> bool:
        found = 0
        with contextlib.suppress(zlib.error, OSError, EOFError, lzma.LZMAError):
            rest: Any = bytes(data)
            while rest:
                inflater = make()
                piece = inflater.decompress(rest, MIB)
                while piece:
                    found += len(piece)
                    if found > limit:
                        return True
                    left = getattr(inflater, "unconsumed_tail", b"")
                    piece = b"" if inflater.eof else inflater.decompress(left, MIB)
                if not inflater.eof:
                    break
                rest = inflater.unused_data
        return False  # (what is damaged is told by the codec)

    return beyond


def _zstd_beyond(data: memoryview, limit: int) -> bool:
    """What the first frame says of its size (RFC 8878), or can hold where it says nothing."""
    if len(data) < 6 or bytes(data[:4]) != b"\x28\xb5\x2f\xfd":
        return False
    flags = data[4]
    single, size_flag = bool(flags & 0x20), flags >> 6
    at = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    n_bytes = (1 if single else 0, 2, 4, 8)[size_flag]
    if not n_bytes:
        # (a block of 128 KiB of one value takes four bytes)
        return len(data) * 32_768 > max(16 * limit, 1024 * MIB)
    size = int.from_bytes(data[at : at + n_bytes], "little") + (256 if n_bytes == 2 else 0)
    return size > limit


def _blosc_beyond(data: memoryview, limit: int) -> bool:
    return len(data) >= 16 and int.from_bytes(data[4:8], "little") > limit


def _lz4_beyond(data: memoryview, limit: int) -> bool:
    return int.from_bytes(data[:4], "little") > limit


_gzip = _inflates_beyond(lambda: zlib.decompressobj(zlib.MAX_WBITS | 16))
_CHECKS: dict[str, Callable[[memoryview, int], bool]] = {
    "gzip": _gzip,
    "zstd": _zstd_beyond,
    "blosc": _blosc_beyond,
    "numcodecs.gzip": _gzip,
    "numcodecs.zlib": _inflates_beyond(zlib.decompressobj),
    "numcodecs.bz2": _inflates_beyond(bz2.BZ2Decompressor),
    "numcodecs.lzma": _inflates_beyond(lzma.LZMADecompressor),
    "numcodecs.zstd": _zstd_beyond,
    "numcodecs.blosc": _blosc_beyond,
    "numcodecs.lz4": _lz4_beyond,
}
