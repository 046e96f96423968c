"""Memory that a thread uses again: scratch of kernels, and the arrays blocks live in.

Touching new memory costs a page fault every 4 KiB, and faults of two threads wait for each other:
a third to a half of a filter's time in the usual code. Nothing here is shared between threads.
"""

from __future__ import annotations

import math
import threading
import weakref
from typing import Any

import numpy as np


class _Pool:
    """What one thread keeps."""

    def __init__(self) -> None:
        self.scratch: dict[str, np.ndarray] = {}
        self.free: np.ndarray | None = None


class _Local(threading.local):
    """The pool of this thread."""

    def __init__(self) -> None:
        self.pool = _Pool()
        _pools.add(self.pool)


_pools: weakref.WeakSet[_Pool] = weakref.WeakSet()
"""Those of all threads that live."""
_local = _Local()


def scratch_buffer(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array that this thread reuses: same name, same memory, next call.

    Kernels that work through a block in batches keep their batch arrays here. The contents do not
    survive the next request of that name.
    """
    pool = _local.pool.scratch
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    buffer = pool.get(name)
    if buffer is None or buffer.nbytes < n_bytes:
        pool.pop(name, None)
        buffer = pool[name] = np.empty(n_bytes, np.uint8)
    return buffer[:n_bytes].view(dtype).reshape(shape)


def trim_scratch(keep_bytes: int = 8 << 20) -> None:
    """Let go of this thread's scratch arrays above a size: between steps only small ones stay."""
    pool = _local.pool.scratch
    for name in [name for name, buffer in pool.items() if buffer.nbytes > keep_bytes]:
        pool.pop(name, None)


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
    pool = _local.pool
    memory, pool.free = pool.free, None
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
        _local.pool.free = base


def release_memory(*, all_threads: bool = False) -> None:
    """Let go of all that this thread keeps, or all threads of this process."""
    for pool in list(_pools) if all_threads else [_local.pool]:
        pool.free = None
        pool.scratch.clear()


def kept_bytes() -> int:
    """What the threads of this process keep, to be used again [bytes]."""
    kept = 0
    for pool in list(_pools):
        free = pool.free
        kept += free.nbytes if free is not None else 0
        kept += sum(buffer.nbytes for buffer in list(pool.scratch.values()))
    return kept
