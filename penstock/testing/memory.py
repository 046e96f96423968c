"""What a step really takes for one block, beside what it declares: measured in this process."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from penstock.memory.accounting import (
    format_bytes,
    lean_allocator,
    process_base,
    resident,
    single_threaded_kernels,
    trim_heap,
)
from penstock.memory.buffers import release_memory
from penstock.memory.transforms import forget_plans_unless
from penstock.pipeline import Pipeline
from penstock.planning.chain import Chain
from penstock.planning.lazy import prepared
from penstock.processor import Processor

LOOK = 0.002
"""Seconds between two looks, where the system keeps no high-water mark that can be reset."""


@dataclass(frozen=True)
class MemoryUse:
    """Memory of one block, in bytes: what was declared, and what it took."""

    declared: int
    """What the plan counts: the source region, the result, and scratch of the largest step."""
    took: int
    """The highest that the process rose above what it had before."""
    block: int
    """The source region."""
    result: int
    """The result."""
    largest_step: str
    """Which step takes most, by what is declared."""

    def __str__(self) -> str:
        return (
            f"block {format_bytes(self.block)}, declared {format_bytes(self.declared)}, "
            f"took {format_bytes(self.took)} ({self.largest_step})"
        )


def memory_use(steps: Processor | Iterable[Any], ds: xr.Dataset) -> MemoryUse:
    """Compute a whole dataset as one block, and compare the memory with what is declared.

    The block should have some MiB, so that it stands out: that of `virtual_dataset` costs nothing
    but while it is read. Modules of the steps are imported before, and code and tables are warmed
    up on a small part.

    Parameters
    ----------
    steps : Processor or iterable of Processor
        What to do with the block.
    ds : xarray.Dataset
        What the block is read from.

    Returns
    -------
    MemoryUse
        With `declared` and `took`.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.testing import memory_use, virtual_dataset
    >>> step = ps.Apply(np.sort, scratch=1.0)
    >>> use = memory_use(step, virtual_dataset((4, 1_000_000)))
    >>> use.took <= use.declared
    True
    """
    pipeline = Pipeline([steps] if isinstance(steps, Processor) else steps)
    with single_threaded_kernels(), lean_allocator():
        process_base(pipeline.modules)
        chain = prepared(Chain(ds), pipeline.processors, 1 << 40)
        _warm_up(pipeline, ds)
        region = chain.whole()
        declared = chain.block_bytes(region)
        release_memory()
        forget_plans_unless(object())
        trim_heap()
        before = resident()
        with _highest() as highest:
            result = chain.compute(region)
        del result
        release_memory()
    took = max(0, highest[0] - before)
    return MemoryUse(declared.peak, took, declared.read, declared.result, declared.largest_step)


def _warm_up(pipeline: Pipeline, ds: xr.Dataset) -> None:
    """Run the steps on one position, so that what happens once is no part of the block."""
    core = {
        dim
        for step in Chain(ds).bind(pipeline.processors).steps
        for dim in step.processor.core_dims
    }
    loops = [str(dim) for dim in ds["signal"].dims if str(dim) not in core]
    part = ds.isel({dim: slice(0, 1) for dim in loops})
    with contextlib.suppress(Exception):  # (what is wrong with it is told of the block itself)
        chain = prepared(Chain(part), pipeline.processors, 1 << 40)
        if chain.source["signal"].size < ds["signal"].size:
            chain.compute(chain.whole())


@contextlib.contextmanager
def _highest() -> Iterator[list[int]]:
    """A list whose item is, at the end, the highest resident memory inside."""
    found = [resident()]
    if _reset_high_water():
        yield found
        found[0] = max(found[0], _high_water())
        return
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK):
            found[0] = max(found[0], resident())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def _reset_high_water() -> bool:
    """Let Linux begin its mark of the highest resident memory anew; False where it cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return _high_water() > 0


def _high_water() -> int:
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found is not None:
            return int(found[1]) * 1024
    return 0
