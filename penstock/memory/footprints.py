"""What blocks really take of memory, and what their steps do, while they are computed.

Memory belongs to a process, not to a block: what one block takes is known while no other is at work
in the process. Then each step starts a new high-water mark, and what it adds to its input is known
exactly. While several are at work, what is known is how far the process is above what was planned
for all of them together, and which steps were at work when it was at its highest.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock.memory.accounting import MIB, PROCESS_ALLOWANCE
from penstock.memory.buffers import kept_bytes
from penstock.memory.peaks import SHARE_OF_CORE, WATCH

MARKS_A_BLOCK = 5
"""How often memory is looked at for a usual block, beside the first time."""
READING = "reading"
"""The step that is no processor's."""
SLACK_BYTES = 16 * MIB
"""Memory above what was declared that says nothing yet: heaps are kept in larger pieces."""
SLACK = 0.25
"""The same as a part of what was declared."""


def is_over(took: int, declared: int) -> bool:
    """Whether something took more than it declared, beyond what measuring can tell."""
    return took > declared * (1 + SLACK) + SLACK_BYTES


@dataclass(frozen=True)
class StepFootprint:
    """A step that took more than it declared, or kept some, in a block that was alone."""

    name: str
    declared: int
    """Memory beside its input that it declared for this block [bytes]."""
    took: int
    kept: int
    """What was still there after it, beside its result [bytes]."""
    input: int
    """Its input block [bytes]."""
    cold: bool
    """Whether it was the first of its kind in the process: code and tables are loaded with it."""
    advice: str = ""
    """What to write where."""

    @property
    def scratch(self) -> float:
        """What to declare, as a multiple of the input, in steps of a half."""
        return math.ceil(2 * self.took / max(1, self.input)) / 2


@dataclass(frozen=True)
class Footprint:
    """What is known of a block's memory."""

    alone: bool = False
    """Whether no other task was at work in the process."""
    planned: int = 0
    """For the block, with what its thread keeps [bytes]."""
    took: int = 0
    """Where it was alone: how far memory rose above what was there before [bytes]."""
    floor: int = 0
    """Where it was alone: what the process held before it, without buffers that are reused."""
    base: int = 0
    """What the process may hold beside blocks [bytes]."""
    done: int = 0
    """Tasks that the process has finished in this run."""
    threads: int = 0
    """Threads that have been at work in it: each may keep `THREAD_ALLOWANCE`."""
    excess: int = 0
    """Most by which the process was above what was planned for it so far [bytes]."""
    busy: tuple[str, ...] = ()
    """Steps that were at work in it when its memory was at its highest."""
    steps: tuple[StepFootprint, ...] = ()


@dataclass(eq=False)
class Task:
    """Something at work in a thread."""

    planned: int
    step: str = ""
    steps: list[StepFootprint] = field(default_factory=list)
    highest: int = 0
    began: int = 0
    starts: int = 0
    kept: int = 0


@dataclass(eq=False)
class Tasks:
    """What is at work in this process."""

    at_work: dict[int, Task] = field(default_factory=dict)
    """By thread."""
    planned: dict[int, int] = field(default_factory=dict)
    """Largest block of each thread: its memory is used again for later ones [bytes]."""
    base: int = 0
    """What the process may take beside blocks [bytes]."""
    excess: int = 0
    highest: int = 0
    busy: tuple[str, ...] = ()
    starts: int = 0
    done: int = 0
    due: float = 0.0
    """When a block may be measured again."""
    warm: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hear(self, high: int) -> None:
        """Take note of memory that the process has reached."""
        if not self.at_work:
            return
        planned = self.planned.copy()
        for thread, task in self.at_work.copy().items():
            planned[thread] = max(planned.get(thread, 0), task.planned)
        self.excess = max(self.excess, high - self.base - sum(planned.values()))
        if high > self.highest:
            self.highest = high + MIB
            steps = [task.step for task in self.at_work.copy().values()]
            self.busy = tuple(sorted(filter(None, steps)))

    def begin(self, thread: int, task: Task, base: int) -> None:
        """A task begins in a thread."""
        with self._lock:
            if not self.planned:  # (a new run)
                self.due = 0.0
                self.base = base = max(base, WATCH.mark() + PROCESS_ALLOWANCE)
                self.excess, self.highest, self.busy, self.done = 0, 0, (), 0
                self.warm.clear()
            self.base = max(self.base, base)
            self.starts += 1
            known = self.planned.get(thread, 0)
            self.planned[thread] = known if task.step else max(known, task.planned)
            self.at_work[thread] = task
            WATCH.working = len(self.at_work)

    def end(self, thread: int, before: Task | None) -> None:
        """A task ends; one that it was a part of goes on."""
        with self._lock:
            if before is None:
                self.at_work.pop(thread, None)
            else:
                self.at_work[thread] = before
            self.done += 1
            WATCH.working = len(self.at_work)

    def forget(self) -> None:
        """Nothing more is to be done for the runs that there were."""
        with self._lock:
            self.planned.clear()


_tasks = Tasks()
WATCH.hear = _tasks.hear
forget_tasks = _tasks.forget


@contextlib.contextmanager
def task_at_work(planned: int, base: int = 0, step: str = "") -> Iterator[Task]:
    """Something of so many planned bytes is at work in this thread, in a process of such a base."""
    thread = threading.get_ident()
    before = _tasks.at_work.get(thread)
    task = Task(planned, step)
    _tasks.begin(thread, task, base)
    task.starts = _tasks.starts
    began = time.perf_counter()
    if _is_alone(task) and began > _tasks.due:
        task.began = task.highest = WATCH.mark()
        task.kept = kept_bytes()
        # (many small blocks: not all of them are looked at)
        cost = (1 + MARKS_A_BLOCK) * (time.perf_counter() - began)
        _tasks.due = began + cost / SHARE_OF_CORE
    try:
        yield task
    finally:
        _tasks.end(thread, before)


def _is_alone(task: Task) -> bool:
    return task.starts == _tasks.starts and len(_tasks.at_work) == 1


def footprint() -> Footprint:
    """What is known of the task of this thread, which is about to end."""
    task = _tasks.at_work[threading.get_ident()]
    WATCH.look()
    alone = _is_alone(task) and task.began > 0
    return Footprint(
        alone,
        task.planned,
        max(0, max(task.highest, WATCH.highest) - task.began) if alone else 0,
        task.began - task.kept if alone else 0,
        _tasks.base,
        _tasks.done,
        len(_tasks.planned),
        _tasks.excess,
        _tasks.busy,
        tuple(task.steps),
    )


class StepWatch:
    """What one step of a block takes: entered around it, told of its result within.

    Parameters
    ----------
    name : str
        As people know it.
    declared : callable
        Gives, for the result, how far the step may raise memory beside its input and its result
        [bytes].
    advice : callable, optional
        Gives what to write where, with ``{scratch}`` for the multiple of the input to declare.
    """

    def __init__(
        self, name: str, declared: Callable[[], int], advice: Callable[[], str] = lambda: ""
    ):
        self.name, self._declared, self._advice = name, declared, advice
        self._task: Task | None = None
        self._began = 0
        self._made = self._input = 0
        self._before = ""

    def __enter__(self) -> StepWatch:
        task = self._task = _tasks.at_work.get(threading.get_ident())
        if task is not None:
            self._before, task.step = task.step, self.name
            if task.began and _is_alone(task):
                task.highest = max(task.highest, WATCH.highest)
                self._began = WATCH.mark()
        return self

    def made(self, block: np.ndarray | None, result: np.ndarray) -> None:
        """The step made `result` of `block`."""
        self._input = block.nbytes if block is not None else result.nbytes
        if block is None or not np.may_share_memory(block, result):
            self._made = result.nbytes

    def __exit__(self, kind: Any, *exc_info: object) -> None:
        task = self._task
        if task is None:
            return
        if self._began and kind is None and _is_alone(task):
            now = WATCH.look()
            task.highest = max(task.highest, WATCH.highest)
            took = WATCH.highest - self._began - self._made
            kept = now - self._began - self._made
            declared = self._declared()
            if is_over(took, declared) or kept > MIB:
                cold = self.name not in _tasks.warm
                task.steps.append(
                    StepFootprint(
                        self.name, declared, took, max(0, kept), self._input, cold, self._advice()
                    )
                )
        _tasks.warm.add(self.name)
        task.step = self._before


@contextlib.contextmanager
def at_work(name: str) -> Iterator[None]:
    """What this thread is at, where it is no step of a block."""
    task = _tasks.at_work.get(threading.get_ident())
    if task is None:
        yield
        return
    before, task.step = task.step, name
    try:
        yield
    finally:
        task.step = before
