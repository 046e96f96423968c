"""A pass over positions: read into reused memory, worked on in threads, handed over in order.

Reductions and decompositions read all data and keep little of it. How the data are cut depends on
their layout and the budget, never on the number of workers, and what threads return is merged in
the order of the positions: any number of workers gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import xarray as xr
from xarray.core import indexing

from penstock.configuration import configured_memory, configured_workers
from penstock.dataset import (
    SIGNAL,
    LazyArray,
    Region,
    read_region,
)
from penstock.errors import BudgetError
from penstock.memory.accounting import (
    MIB,
    THREAD_ALLOWANCE,
    available_memory,
    cpu_count,
    format_bytes,
    parse_bytes,
    process_now,
)
from penstock.memory.buffers import recycle, scratch_buffer
from penstock.planning.blocks import Grid
from penstock.planning.chain import Chain
from penstock.reading import reading_of
from penstock.running.in_memory import OrderedTasks, Planned
from penstock.running.progress import LateProgress
from penstock.spectra.passes.layout import Layout, Piece, Positions
from penstock.storage.store import fill_shape

if TYPE_CHECKING:
    pass

PIECE_BYTES = 4 * MIB
"""Positions worked on at once: few enough to stay in the processor's cache from reading to the last
kernel, enough for what Python does between pieces not to show."""
TASK_BYTES = 16 * MIB
"""Pieces of one task, so that handing over results costs little beside them."""
BLOCK_BYTES = 32 * MIB
"""Read at once where single positions lie scattered over the source or in compressed chunks."""
T = TypeVar("T")


@dataclass(frozen=True)
class Needs:
    """Memory that the work on a pass takes, beside reading."""

    scratch: float = 0.0
    """Beside a piece in double precision, as a multiple of it."""
    task_bytes: int = 0
    """What a task works with and hands over."""
    work_bytes: int = 0
    """What a thread works with beside pieces."""
    result_bytes: int = 0
    """What is there all the time, such as results of all positions."""
    task_positions: int = 1
    """At least so many positions a task."""
    folds: bool = False
    """Whether what tasks hand over is merged pairwise (`Pass.fold`), which holds some of it."""


class Pass:
    """Cuts of a dataset's positions that fit a budget, to be run any number of times.

    A context manager: threads, and the limit of one thread for linear algebra, last as long.

    Parameters
    ----------
    layout : Layout
    needs : Needs
        Of the work that will be done.
    memory : int or str, optional
        Budget of this process. Default: half of what is available.
    workers : int, optional
        Threads at work. Default: the cores there are.
    progress : bool, optional
        True and False: show it or not. Default: show it once the work has taken two seconds.
    name, advice : str
        What the work is called in errors, and what to do beside allowing more memory.

    Raises
    ------
    BudgetError
        If the results, or one position, do not fit the budget.
    """

    def __init__(
        self,
        layout: Layout,
        needs: Needs,
        *,
        memory: int | float | str | None = None,
        workers: int | None = None,
        progress: bool | None = None,
        name: str = "the pass",
        advice: str = "ask for less at once",
    ):
        memory, workers = configured_memory(memory), configured_workers(workers)
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        workers = workers if workers is not None else cpu_count()
        self.layout, self.needs = layout, needs
        self._variable = layout.dataset.variables[SIGNAL]
        dims = tuple(map(str, self._variable.dims))
        self._order = [dims.index(dim) for dim in (*layout.loop_dims, *layout.core_dims)]
        self._in_order = self._order == sorted(self._order)
        held = self._variable._data
        self._reads = not isinstance(held, np.ndarray)
        self._interleaved = reading_of(self._variable).interleaved
        # (whether blocks may have to be put in order: what dask computes may have any)
        self._copies = not self._in_order or self._interleaved or self._variable.chunks is not None
        if isinstance(held, np.ndarray):
            self._copies |= not held.flags.c_contiguous
        self._direct = _direct_reader(self._variable)
        self._row_bytes = layout.n_core * layout.dtype.itemsize
        self._source = Chain(layout.dataset)
        self._rows = max(1, min(layout.n_positions, PIECE_BYTES // self._row_bytes))

        base = process_now() + reading_of(self._variable).resident_bytes
        results = needs.result_bytes
        if needs.folds:
            # one state for every power of two of tasks
            n_tasks = -(-layout.n_positions * self._row_bytes // TASK_BYTES)
            results += needs.task_bytes * (2 + n_tasks.bit_length())
        if memory is not None:
            budget = parse_bytes(memory)
        else:
            budget = base + results + max(0, available_memory() - results) // 2
        left = budget - base - results
        self.grid = self._cut(left)
        each = self._worker_bytes(self.grid)
        if each > left:
            raise BudgetError(
                f"{name} needs {format_bytes(results)} for results and {format_bytes(each)} to "
                f"work on a few positions, but the budget of {format_bytes(budget)} leaves "
                f"{format_bytes(max(0, budget - base))} beside the {format_bytes(base)} that the "
                f"process itself takes: allow {format_bytes(base + results + each + MIB)}, or "
                f"{advice}"
            )
        wanted = max(needs.task_positions, TASK_BYTES // self._row_bytes)
        self.blocks_per_task = max(1, min(len(self.grid), wanted // math.prod(self.grid.block)))
        self.n_tasks = -(-len(self.grid) // self.blocks_per_task)
        self.concurrency = max(1, min(workers, self.n_tasks, left // each))
        self.budget = budget
        self._tasks = OrderedTasks(
            self.concurrency,
            LateProgress(progress, self.concurrency, budget),
            Planned(each, base + results, results),
        )

    def __enter__(self) -> Pass:
        self._tasks.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._tasks.__exit__(*exc_info)

    # ------------------------------------------------------------------ cutting

    def _cut(self, left: int) -> Grid:
        """Blocks that are read at once: cache-sized where positions lie together, else larger.

        A fixed ladder of sizes, so that a budget counted slightly otherwise cuts the same way.
        """
        shape = self.layout.loop_shape
        chunks: Any = self._variable.chunksizes or self._variable.encoding.get("preferred_chunks")
        units = []
        for dim, size in zip(self.layout.loop_dims, shape, strict=True):
            unit = (chunks or {}).get(dim, 1)
            units.append(max(1, min(size, unit if isinstance(unit, int) else max(unit))))
        # blocks of an interleaved file take the leading dims whole: they vary fastest in it
        turn = -1 if self._interleaved else 1
        together = not self._reads or not (chunks or self._copies)
        target = max(PIECE_BYTES, self._row_bytes) if together else BLOCK_BYTES
        least = self._worker_bytes(Grid(self.layout.loop_dims, shape, (1,) * len(shape)))
        share = least + max(0, left - least) // 4
        while True:
            n_rows = max(1, target // self._row_bytes)
            n_units = n_rows // math.prod(units)
            if n_units:
                counts = tuple(-(-n // u) for n, u in zip(shape, units, strict=True))
                box = fill_shape(counts[::turn], n_units)[::turn]
                block = tuple(b * u for b, u in zip(box, units, strict=True))
            else:  # parts of a chunk that do not reach into the next
                box = fill_shape(tuple(units), n_rows)
                block = tuple(_divisor(u, b) for b, u in zip(box, units, strict=True))
            grid = Grid(self.layout.loop_dims, shape, tuple(map(min, block, shape)))
            if n_rows == 1 or self._worker_bytes(grid) <= share:
                return grid
            target //= 2

    def _worker_bytes(self, grid: Grid) -> int:
        """What one thread takes: a block, its pieces in double precision, its share of tasks."""
        n_rows = math.prod(grid.block)
        reading = self._source.block_bytes(self._region(grid, 0)).peak if self._reads else 0
        copied = n_rows * self._row_bytes if self._copies else 0
        piece = min(n_rows, self._rows) * self.layout.n_core * self.layout.wide_dtype.itemsize
        work = int(piece * (1 + self.needs.scratch))
        # (a task's state is at work, waits to be merged, and is there again while it is)
        states = self.needs.work_bytes + 3 * self.needs.task_bytes
        return reading + copied + work + states + THREAD_ALLOWANCE

    def _region(self, grid: Grid, number: int) -> Region:
        region = grid.region(number)
        for dim, size in zip(self.layout.core_dims, self.layout.core_shape, strict=True):
            region[dim] = slice(0, size)
        return region

    # ------------------------------------------------------------------ reading

    def _pieces(self, task: int) -> Iterator[Piece]:
        first = task * self.blocks_per_task
        for number in range(first, min(first + self.blocks_per_task, len(self.grid))):
            region = self._region(self.grid, number)
            block = self._read(region)
            moved = block.transpose(self._order)
            if not moved.flags.c_contiguous:
                copy = scratch_buffer("pass-in-order", moved.shape, moved.dtype)
                np.copyto(copy, moved)
                moved = copy
            values = moved.reshape(-1, self.layout.n_core)
            positions = self._positions(region)
            for at in range(0, len(values), self._rows):
                part = slice(at, min(at + self._rows, len(values)))
                yield Piece(values[part], _part(positions, part))
            recycle(block)

    def _read(self, region: Region) -> np.ndarray:
        if self._direct is None:
            return read_region(self.layout.dataset, region)
        read, starts = self._direct
        indexers = []
        for dim, start in zip(map(str, self._variable.dims), starts, strict=True):
            span = region[dim]
            assert isinstance(span, slice)
            indexers.append(slice(span.start + start, span.stop + start))
        return read(*indexers)

    def _positions(self, region: Region) -> Positions:
        spans = [region[dim] for dim in self.layout.loop_dims]
        shape = self.layout.loop_shape
        first = last = 0
        n = 1
        for span, size in zip(spans, shape, strict=True):
            assert isinstance(span, slice)
            first, last = first * size + span.start, last * size + span.stop - 1
            n *= span.stop - span.start
        if last - first + 1 == n:
            return slice(first, last + 1)
        each = np.ix_(*(np.arange(span.start, span.stop) for span in spans))  # type: ignore[union-attr]
        return np.ravel_multi_index(each, shape).reshape(-1)

    # ------------------------------------------------------------------ running

    def run(self, job: Callable[[Iterator[Piece]], T]) -> Iterator[T]:
        """Run `job` on the pieces of every task, in threads; yield what it returns, in order."""
        n_bytes = self._variable.size * self._variable.dtype.itemsize // self.n_tasks
        return self._tasks.run(self.n_tasks, lambda task: job(self._pieces(task)), n_bytes)

    def all(self, job: Callable[[Iterator[Piece]], object]) -> None:
        """Run `job`, whose results lie elsewhere, on the pieces of every task."""
        for _ in self.run(job):
            pass

    def fold(self, job: Callable[[Iterator[Piece]], T], merge: Callable[[T, T], T]) -> T:
        """Merge what `job` returns, pairwise in the order of the positions."""
        stack: list[tuple[int, T]] = []
        for state in self.run(job):
            rank = 0
            while stack and stack[-1][0] == rank:
                state = merge(stack.pop()[1], state)
                rank += 1
            stack.append((rank, state))
        total = stack.pop()[1]
        while stack:
            total = merge(stack.pop()[1], total)
        return total


def _part(positions: Positions, part: slice) -> Positions:
    if isinstance(positions, slice):
        return slice(positions.start + part.start, positions.start + part.stop)
    return positions[part]


def _divisor(n: int, limit: int) -> int:
    """Largest divisor of `n` that is not above `limit`."""
    return next(d for d in range(limit, 0, -1) if n % d == 0)


def _direct_reader(variable: xr.Variable) -> tuple[Callable[..., np.ndarray], list[int]] | None:
    """What reads a variable in slices, and where the variable begins in that.

    Indexing through xarray for every piece would take as long as the work on it.
    """
    data = variable._data
    if isinstance(data, np.ndarray):
        return lambda *indexers: data[indexers], [0] * data.ndim
    if not isinstance(data, indexing.LazilyIndexedArray) or not isinstance(data.array, LazyArray):
        return None
    starts = []
    for indexer, size in zip(data.key.tuple, data.array.shape, strict=True):
        if not isinstance(indexer, slice) or range(size)[indexer].step != 1:
            return None
        starts.append(range(size)[indexer].start)
    return data.array.read, starts
