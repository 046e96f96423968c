"""Results that stay in memory: blocks computed in threads, handed over in their order.

For results that are small beside what they are made of (region signals of an image, a reduction of
a scan), and for those that the user wants in memory anyway. Blocks, budget and kernels are those of
every run; nothing is written.
"""

from __future__ import annotations

import contextlib
import math
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from penstock.configuration import configured_memory, configured_workers
from penstock.dataset import SIGNAL, reads_fresh
from penstock.errors import BudgetError
from penstock.memory.accounting import (
    MIB,
    THREAD_ALLOWANCE,
    available_memory,
    cpu_count,
    format_bytes,
    parse_bytes,
    process_now,
    single_threaded_kernels,
)
from penstock.memory.buffers import recycle
from penstock.memory.footprints import Footprint, footprint, forget_tasks, task_at_work
from penstock.memory.overruns import Overruns, OverrunWarning
from penstock.memory.peaks import WATCH, process_name
from penstock.messages import warn
from penstock.planning.blocks import TARGET_BYTES, Choice, Grid, choose_block
from penstock.planning.chain import Chain
from penstock.running.progress import LateProgress
from penstock.running.workers.executors import thread_executor

BLOCK_BYTES = 16 * MIB
"""Largest block: nothing is written, so that small ones cost little, and memory is for results."""

T = TypeVar("T")


@dataclass(frozen=True)
class Planned:
    """Memory that tasks in threads of this process were planned to take."""

    task: int
    """Each of those at work at once [bytes]."""
    base: int
    """The process beside them, results included [bytes]."""
    results: int
    """Those alone: they fill from task to task [bytes]."""


class OrderedTasks:
    """Numbered tasks in threads, begun and handed over in order.

    A context manager: the threads, the limit of one thread for linear algebra and the progress bar
    last as long. Tasks may be run any number of times.

    Parameters
    ----------
    concurrency : int
        Threads at work.
    progress : LateProgress
        Hears of every task.
    planned : Planned, optional
        What memory they may take. Where they take more, fewer go on at once, and an
        `OverrunWarning` says who took it as soon as all is done. Default: memory is not looked at.
    """

    def __init__(self, concurrency: int, progress: LateProgress, planned: Planned | None = None):
        self.concurrency, self._shown, self._planned = concurrency, progress, planned
        self._stack = contextlib.ExitStack()
        self._pool: Executor | None = None
        self._overruns = Overruns()

    def __enter__(self) -> OrderedTasks:
        self._stack.enter_context(single_threaded_kernels())
        self._pool = self._stack.enter_context(thread_executor(self.concurrency))
        if self._planned is not None:
            self._stack.enter_context(self._watched(self._planned))
        self._stack.callback(self._shown.close)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def run(self, n_tasks: int, job: Callable[[int], T], n_bytes: int = 0) -> Iterator[T]:
        """Yield ``job(0)``, ``job(1)``, ... in this order, a few of them computed ahead.

        `n_bytes` of the source are what a task reads, for the rate that progress shows.
        """
        if self._pool is None:
            raise RuntimeError("tasks run inside the with statement")
        self._shown.begin(n_tasks)
        waiting: deque[Any] = deque()
        do = self._measured(job)
        try:
            for number in range(n_tasks):
                waiting.append(self._pool.submit(do, number))
                while waiting and (len(waiting) >= self._ahead() or number == n_tasks - 1):
                    result, taken = waiting.popleft().result()
                    if taken is not None and self._planned is not None:
                        to_come = self._planned.results * (n_tasks - taken.done) // n_tasks
                        taken = replace(taken, floor=taken.floor + max(0, to_come))
                        self._overruns.hear("", process_name(), taken)
                    yield result
                    self._shown.step(n_bytes)
        finally:
            for future in waiting:
                future.cancel()

    @contextlib.contextmanager
    def _watched(self, planned: Planned) -> Iterator[None]:
        """Follow the memory of this process; at the end, warn where it was more than planned."""
        run = uuid.uuid4().hex
        WATCH.begin(run, held=True)
        try:
            yield
        finally:
            peak = WATCH.end(run)
            if not WATCH.records:
                forget_tasks()
            self._overruns.finish(peak, planned.base + self.concurrency * planned.task)
            for overrun in self._overruns.found:
                warn(str(overrun), OverrunWarning)

    def _measured(self, job: Callable[[int], T]) -> Callable[[int], tuple[T, Footprint | None]]:
        """A job that tells of its memory beside its result."""
        planned = self._planned

        def measured(number: int) -> tuple[T, Footprint | None]:
            if planned is None:
                return job(number), None
            with task_at_work(planned.task, planned.base):
                return job(number), footprint()

        return measured

    def _ahead(self) -> int:
        """How many tasks may be begun and not handed over yet."""
        if self._overruns.probing:
            return 1
        if self._planned is None or not self._overruns.found:
            return 2 * self.concurrency
        left = self.concurrency * self._planned.task - self._overruns.kept
        each = self._overruns.task_bytes(self._planned.task)
        return max(1, min(self.concurrency, left // max(1, each)))


def collect(
    chain: Chain,
    *,
    memory: int | float | str | None = None,
    workers: int | None = None,
    progress: bool | None = None,
) -> np.ndarray:
    """Compute the whole result of a chain into memory, within a budget.

    Parameters
    ----------
    chain : Chain
        Bound to its source, with the states that its steps prepared.
    memory : int or str, optional
        Budget of this process, the result included. Default: half of what is available beside it.
    workers : int, optional
        Threads at work. Default: the cores there are.
    progress : bool, optional
        True and False: show it or not. Default: show it once the work has taken two seconds.

    Returns
    -------
    numpy.ndarray
        Of the shape and type of the chain's outline.

    Raises
    ------
    BudgetError
        If the result and a block do not fit the budget.
    """
    memory, workers = configured_memory(memory), configured_workers(workers)
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    workers = workers if workers is not None else cpu_count()
    base = process_now() + chain.resident_bytes
    held = math.prod(chain.shape) * chain.dtype.itemsize
    if memory is not None:
        budget = parse_bytes(memory)
    else:
        budget = base + held + max(0, available_memory() - held) // 2
    left = budget - base - held
    for concurrency in range(workers, 0, -1):
        slot = left // concurrency - THREAD_ALLOWANCE
        found = (
            choose_block(chain, slot, concurrency=concurrency, target=BLOCK_BYTES)
            if slot > 0
            else None
        )
        if found is not None:
            break
    turn = _turning_point(chain, found)
    if turn is not None:
        first = collect(chain.until(turn), memory=memory, workers=workers, progress=progress)
        outline = chain.until(turn).output
        signal = outline.variables[SIGNAL]
        between = outline.assign({SIGNAL: (signal.dims, first, signal.attrs)})
        rest = Chain(between).bind(
            [step.processor for step in chain.steps[turn:]], chain.states[turn:]
        )
        return collect(rest, memory=memory, workers=workers, progress=progress)
    if found is None:
        smallest = choose_block(chain, 1 << 62, concurrency=1, single=True, target=1)
        need = smallest.bytes.peak if smallest is not None else 0
        raise BudgetError(
            f"the result takes {format_bytes(held)} in memory and its smallest block "
            f"{format_bytes(need)}, but the budget of {format_bytes(budget)} leaves "
            f"{format_bytes(max(0, budget - base))} beside the {format_bytes(base)} that the "
            f"process itself takes: allow {format_bytes(base + held + need + 16 * MIB)}, or run "
            "the pipeline into a store"
        )
    grid = Grid(chain.dims, chain.shape, found.block)
    concurrency = min(concurrency, len(grid))
    result = np.empty(chain.shape, chain.dtype)
    fresh = reads_fresh(chain.source.variables[SIGNAL])

    def block(number: int) -> None:
        region = grid.region(number)
        at = tuple(region[dim] for dim in chain.dims)
        values = chain.compute(region)
        result[at] = values
        if fresh:
            recycle(values)

    shown = LateProgress(progress, concurrency, budget)
    planned = Planned(found.bytes.peak + THREAD_ALLOWANCE, base + held, held)
    with OrderedTasks(concurrency, shown, planned) as tasks:
        for _ in tasks.run(len(grid), block, found.bytes.read):
            pass
    return result


def _turning_point(chain: Chain, found: Choice | None) -> int | None:
    """Index of the step before which the result so far had better be in memory whole."""
    if found is not None and (found.bytes.read <= TARGET_BYTES or found.n_blocks > 1):
        return None
    seen: set[str] = set()
    for index, step in enumerate(chain.steps):
        core = set(step.processor.core_dims)
        if seen and core and not core <= seen:
            return index
        seen |= core
    return None
