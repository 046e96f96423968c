"""Memory that a thread uses again: scratch of kernels, and the arrays blocks live in.

Touching new memory costs a page fault every 4 KiB, and faults of two threads wait for each other:
a third to a half of a filter's time in the usual code. Nothing here is shared between threads.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

_local = threading.local()


def scratch_buffer(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array that this thread reuses: same name, same memory, next call.

    Kernels that work through a block in batches keep their batch arrays here. The contents do not
    survive the next request of that name.
    """
    pool: dict[str, np.ndarray] = _local.__dict__.setdefault("scratch", {})
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    buffer = pool.get(name)
    if buffer is None or buffer.nbytes < n_bytes:
        pool.pop(name, None)
        buffer = pool[name] = np.empty(n_bytes, np.uint8)
    return buffer[:n_bytes].view(dtype).reshape(shape)


def trim_scratch(keep_bytes: int = 8 << 20) -> None:
    """Let go of this thread's scratch arrays above a size: between steps only small ones stay."""
    pool: dict[str, np.ndarray] = _local.__dict__.get("scratch", {})
    for name in [name for name, buffer in pool.items() if buffer.nbytes > keep_bytes]:
        del pool[name]


class _Memory(np.ndarray):
    """Bytes that `recycle` may take back."""


SMALLEST = 1 << 20
"""Arrays below this are cheap enough to allocate."""


def new_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array for a block, in recycled memory where that has the size.

    Recycled memory of another size is let go first: a thread never holds more than what is alive.
    """
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes < SMALLEST:
        return np.empty(shape, dtype)
    memory = _local.__dict__.pop("free", None)
    if memory is None or not n_bytes <= memory.nbytes <= n_bytes + n_bytes // 4:
        memory = None  # (freed before the new array is made)
        memory = _Memory((n_bytes,), np.uint8)
    return memory[:n_bytes].view(np.ndarray).view(dtype).reshape(shape)


def recycle(array: np.ndarray) -> None:
    """Take back the memory of an array of `new_array` that nobody will use any more."""
    base: Any = array
    while isinstance(base, np.ndarray) and not isinstance(base, _Memory):
        base = base.base
    if isinstance(base, _Memory):
        _local.free = base


def release_memory() -> None:
    """Let go of all that this thread keeps."""
    _local.__dict__.pop("free", None)
    _local.__dict__.pop("scratch", None)
