"""What processes really use, and the few process-wide settings that keep it predictable.

Memory is counted as PSS (proportional set size): private pages in full, shared pages divided by
the processes that share them, so that the sum over a process tree is what the machine gives up.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psutil

from penstock.memory.machine import available_memory as available_memory
from penstock.memory.machine import cpu_count as cpu_count

MIB = 1 << 20

_UNITS = {
    "": 1, "b": 1,
    "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
    "t": 10**12, "tb": 10**12,
    "ki": 1 << 10, "kib": 1 << 10, "mi": 1 << 20, "mib": 1 << 20, "gi": 1 << 30, "gib": 1 << 30,
    "ti": 1 << 40, "tib": 1 << 40,
}  # fmt: skip


def parse_bytes(text: int | float | str) -> int:
    """Bytes from a number or a text such as ``"512 MiB"`` or ``"1GB"``.

    Raises
    ------
    ValueError
        If it is not a positive amount of memory.
    """
    if isinstance(text, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][0-9]+)?)\s*([A-Za-z]*)\s*", text)
        if match is None or match[2].lower() not in _UNITS:
            raise ValueError(
                f"cannot read {text!r} as an amount of memory: write for example '512 MiB' or '2GB'"
            )
        amount = float(match[1]) * _UNITS[match[2].lower()]
    else:
        amount = float(text)
    if not amount >= 1:
        raise ValueError(f"memory must be a positive amount, got {text!r}")
    return int(amount)


_MOST = 1 << 80
"""Bytes that are written as a number."""


def format_bytes(amount: float) -> str:
    """Bytes for people: three digits and a binary unit."""
    amount = max(-_MOST, min(amount, _MOST))  # (a parameter may ask for anything)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1000 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.3g} {unit}"


def pss(pid: int | None = None) -> int:
    """Proportional set size of one process [bytes]; where there is no PSS, its USS or RSS."""
    try:
        with open(f"/proc/{pid or os.getpid()}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    with contextlib.suppress(psutil.Error):
        info = psutil.Process(pid).memory_full_info()
        return int(getattr(info, "uss", 0) or info.rss)
    return 0


def tree_pss(pid: int | None = None) -> int:
    """PSS of a process and all its descendants [bytes]."""
    total = pss(pid)
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            total += pss(child.pid)
    return total


def resident(pid: int | None = None) -> int:
    """Resident set size of a process [bytes]: cheap, and never below its PSS."""
    try:
        with open(f"/proc/{pid or os.getpid()}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(pid).memory_info().rss)
    return 0


_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


# ---------------------------------------------------------------------- process-wide settings

_MALLOPT_TRIM, _MALLOPT_MMAP = -1, -3


def _mallopt(parameter: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(parameter, value)


def trim_heap() -> None:
    """Give freed heap pages back to the system (glibc; elsewhere nothing happens)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


LARGE_ARRAY = 4 * MIB
"""From this size on NumPy asks for huge pages, which make new memory cheap to touch."""


def use_lean_allocator() -> None:
    """Let large arrays go back to the system as soon as they are freed (glibc only).

    glibc otherwise keeps freed arrays of up to 32 MiB in one arena a thread, and the peak depends
    on history. Arrays from `LARGE_ARRAY` on are mapped on their own; smaller ones, the batches that
    kernels work in, stay in the heap: mapping those too made a chain of filters 3 x slower.
    """
    _mallopt(_MALLOPT_MMAP, LARGE_ARRAY)
    _mallopt(_MALLOPT_TRIM, 4 * LARGE_ARRAY)


@contextlib.contextmanager
def lean_allocator() -> Iterator[None]:
    """`use_lean_allocator` for a while; then glibc's thresholds go to the top of its own range."""
    use_lean_allocator()
    try:
        yield
    finally:
        _mallopt(_MALLOPT_MMAP, 32 * MIB)
        _mallopt(_MALLOPT_TRIM, 64 * MIB)
        trim_heap()


class _BlasLimit:
    """How many ask for single-threaded kernels: the first sets the limit, the last undoes it."""

    lock = threading.Lock()
    asking = 0
    limiter: Any = None


@contextlib.contextmanager
def single_threaded_kernels() -> Iterator[None]:
    """Limit BLAS and OpenMP to one thread: blocks are the unit of parallelism.

    The limit is that of the process; it lasts until the last of those who asked for it is done.
    """
    with _BlasLimit.lock:
        _BlasLimit.asking += 1
        if _BlasLimit.asking == 1:
            _BlasLimit.limiter = _thread_pools(len(sys.modules)).limit(limits=1)
    try:
        yield
    finally:
        with _BlasLimit.lock:
            _BlasLimit.asking -= 1
            if not _BlasLimit.asking:
                _BlasLimit.limiter.restore_original_limits()


@functools.lru_cache(maxsize=1)
def _thread_pools(_n_modules: int) -> Any:
    """The libraries with threads of their own; looked for again when modules were imported."""
    import threadpoolctl

    return threadpoolctl.ThreadpoolController()


# ---------------------------------------------------------------------- what a process costs

# What a block needs beyond arrays (thread stacks, decoder and codec state, pages of code used for
# the first time), measured as the rise of the first small blocks over the base; the conformance
# tests check that it suffices.
PROCESS_ALLOWANCE = 16 * MIB
THREAD_ALLOWANCE = 4 * MIB

_ENGINE_MODULES = ("penstock.running.run", "scipy.fft", "zarr", "dask.array", "penstock.eeg")


def process_now() -> int:
    """What this process takes at the moment, with an allowance for what it loads [bytes]."""
    trim_heap()
    return resident() + PROCESS_ALLOWANCE


class _Base:
    """What `process_base` found last."""

    lock = threading.Lock()
    found = 0


GROWN, SHRUNK = 8 * MIB, 32 * MIB
"""By how much memory may have changed and count as the same: what a plan said stays true of a run
that follows it (what grew is within the allowance of a process)."""


def process_base(modules: tuple[str, ...] = ()) -> int:
    """What this process uses before any block, with all that a run imports loaded [bytes].

    `modules` are those that its processors import beside.

    Resident pages shared with other processes count in full: they are this process's own once the
    others end.
    """
    import importlib

    for module in (*_ENGINE_MODULES, *modules):
        with contextlib.suppress(ImportError):  # (whoever needs it says how to install it)
            importlib.import_module(module)
    trim_heap()
    now = max(int(psutil.Process().memory_info().rss), pss())
    with _Base.lock:
        if not _Base.found - SHRUNK <= now <= _Base.found + GROWN:
            _Base.found = now
        return _Base.found


def file_pages() -> int:
    """Resident pages of files, such as libraries, that this process never wrote to [bytes].

    Processes that load the same libraries share them. 0 where the system does not say.
    """
    with contextlib.suppress(OSError), open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"RssFile:"):
                return int(line.split()[1]) * 1024
    return 0


def worker_base(modules: tuple[str, ...] = ()) -> int:
    """What a fresh worker process uses before any block [bytes], measured once in one."""
    return _fresh_worker(modules)[0]


def worker_shared(modules: tuple[str, ...] = ()) -> int:
    """Of `worker_base`, what all workers of one machine share with each other [bytes]."""
    return _fresh_worker(modules)[1]


@functools.cache
def _fresh_worker(modules: tuple[str, ...]) -> tuple[int, int]:
    code = (
        "import distributed, distributed.worker, distributed.nanny\n"
        "from penstock.memory.accounting import file_pages, process_base\n"
        f"print(process_base({modules!r}), file_pages())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    base, shared = map(int, done.stdout.split()[-2:])
    return base, shared
