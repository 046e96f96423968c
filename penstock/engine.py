"""The client's loop: recordings are opened on workers, blocks flow through a sliding window.

The client holds no data and no list of blocks. It keeps just enough tasks under way to fill the
workers, admits a task only while the bytes of all running blocks fit the budget, and takes back
small records of what was done.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass, field, replace
from typing import Any

from penstock import events
from penstock.blocks import BudgetError, RowTooLarge
from penstock.job import Done, Job, Opened
from penstock.plan import Resources
from penstock.result_facts import result_note
from penstock.work import (
    finish_recording,
    open_recording,
    run_block,
    run_stage,
)

RETRIES = 2
"""How often a block is tried again after a failure that may pass."""

_LASTING = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EEXIST,
}  # fmt: skip


@dataclass(eq=False)
class _Recording:
    """A recording under way."""

    job: Job
    opened: Opened | None = None
    stage: int = 0
    numbers: Iterator[int] = field(default_factory=lambda: iter(()))
    upcoming: int | None = None
    running: int = 0
    finishing: bool = False

    def start(self, opened: Opened) -> None:
        self.opened = opened
        self.stage = -1
        self._next_stage()

    def _next_stage(self) -> None:
        assert self.opened is not None
        self.stage += 1
        if self.stage < len(self.opened.counts):
            done = self.opened.finished.get(self.stage, set())
            count = self.opened.counts[self.stage]
            self.numbers = (n for n in range(count) if n not in done)
        self.upcoming = next(self.numbers, None)

    def next_block(self) -> int | None:
        """The next block to do; None while a stage must end first, or nothing is left."""
        assert self.opened is not None
        while self.upcoming is None and not self.running and self.stage < len(self.opened.counts):
            self._next_stage()
        return self.upcoming

    def take(self) -> int:
        number = self.upcoming
        assert number is not None
        self.upcoming = next(self.numbers, None)
        self.running += 1
        return number

    def take_stage(self) -> None:
        """Take all blocks that are left of the stage."""
        self.upcoming, self.numbers = None, iter(())
        self.running += 1

    @property
    def in_order(self) -> bool:
        """Whether the stage under way reads its source from front to back."""
        assert self.opened is not None
        return self.stage < len(self.opened.in_order) and self.opened.in_order[self.stage]

    @property
    def blocks_done(self) -> bool:
        """Whether every block of every stage is finished."""
        assert self.opened is not None
        return self.next_block() is None and not self.running


@dataclass(eq=False)
class _Task:
    recording: _Recording
    n_bytes: int
    submit: Callable[[], Future[Any]]
    block: int | None = None
    stage: int = 0
    tries: int = 0


class Engine:
    """The client's loop: what to submit next, what to do with what comes back."""

    def __init__(
        self, pool: Executor, limits: Resources, heard: list[events.Listener], client: Any
    ):
        self.pool = pool
        self.limits = limits
        self.heard = heard
        self.client = client
        self.results: queue.SimpleQueue[tuple[_Task, Future[Any]]] = queue.SimpleQueue()
        self.active: list[_Recording] = []
        self.waiting: deque[_Recording] = deque()
        self.again: deque[_Task] = deque()
        self.running: dict[Future[Any], _Task] = {}

    def tell(self, event: events.Event) -> None:
        for listener in self.heard:
            listener(event)

    def run(self, jobs: list[Job]) -> None:
        began = time.perf_counter()
        self.tell(events.RunStarted(len(jobs), self.limits.workers, self.limits.budget))
        self.waiting.extend(_Recording(job) for job in jobs)
        interrupted = False
        try:
            while self.waiting or self.active or self.running or self.again:
                self._fill()
                self._take_one()
        except KeyboardInterrupt as error:
            interrupted = True
            error.add_note("what is finished is kept: the same call goes on where this one stopped")
            self._drain()
            raise
        finally:
            self.tell(events.RunFinished(time.perf_counter() - began, interrupted))

    # ------------------------------------------------------------------ submitting

    def _fill(self) -> None:
        """Submit while there is work, room in the window, and memory for it."""
        while True:
            task = self.again[0] if self.again else self._next_task()
            if task is None:
                return
            # a second round waits at the workers, so that none of them idles while the client hears
            # of a finished block; whichever of them run at once must fit
            slots = self.limits.workers
            ahead = 1 if self.limits.threads > slots else 2
            sizes = sorted((*(t.n_bytes for t in self.running.values()), task.n_bytes))
            fits = sum(sizes[-slots:]) <= self.limits.available
            if len(self.running) >= slots * ahead or (self.running and not fits):
                if not self.again:
                    self.again.append(task)
                return
            if self.again:
                self.again.popleft()
            future = task.submit()
            self.running[future] = task
            future.add_done_callback(lambda f, t=task: self.results.put((t, f)))  # type: ignore[misc]

    def _next_task(self) -> _Task | None:
        for recording in self.active:
            opened = recording.opened
            if opened is None or recording.finishing:
                continue
            number = recording.next_block()
            if number is not None:
                if recording.in_order:
                    if recording.running >= self._readers():
                        continue
                    if self.client is not None:
                        recording.take_stage()
                        return self._stage_task(recording, opened, recording.stage)
                recording.take()
                return self._block_task(recording, opened, recording.stage, number)
            if recording.blocks_done:
                recording.finishing = True
                return _Task(
                    recording,
                    opened.finish_bytes,
                    lambda o=opened: self.pool.submit(finish_recording, o),  # type: ignore[misc]
                )
        # a few recordings are open at a time: enough that one is ready when another ends
        if self.waiting and len(self.active) < 2 * self.limits.workers:
            recording = self.waiting.popleft()
            self.active.append(recording)
            return self._open_task(recording, self.limits.available // self.limits.workers)
        return None

    def _readers(self) -> int:
        """Blocks at once of a recording that is read from front to back.

        They wait for each other while they read. Where there are recordings enough, each thread
        has one of its own; on other processes a recording stays with one of them to its end.
        """
        if self.client is not None:
            return 1
        return max(1, self.limits.workers // (len(self.active) + len(self.waiting)))

    def _stage_task(self, recording: _Recording, opened: Opened, stage: int) -> _Task:
        return _Task(
            recording,
            opened.block_bytes,
            lambda: self.pool.submit(run_stage, opened, stage),
            0,
            stage,
        )

    def _open_task(self, recording: _Recording, n_bytes: int) -> _Task:
        job = recording.job
        return _Task(recording, n_bytes, lambda: self.pool.submit(open_recording, job, n_bytes))

    def _block_task(self, recording: _Recording, opened: Opened, stage: int, number: int) -> _Task:
        return _Task(
            recording,
            opened.block_bytes,
            lambda: self.pool.submit(run_block, opened, stage, number),
            number,
            stage,
        )

    # ------------------------------------------------------------------ receiving

    def _take_one(self) -> None:
        if not self.running:
            return
        while True:
            try:
                task, future = self.results.get(timeout=5)
                break
            except queue.Empty:
                self._check_workers()
        del self.running[future]
        recording = task.recording
        if task.block is not None:
            recording.running -= 1
        error = CancelledError() if future.cancelled() else future.exception()
        if recording not in self.active:
            return  # it failed already; this was a block still on its way
        if error is not None:
            self._failed(task, error)
        elif isinstance(result := future.result(), events.BlockFinished):
            self.tell(result)
        elif isinstance(result, tuple):
            for block in result:
                self.tell(block)
        elif isinstance(result, Opened):
            self._tell_planned(result)
            recording.start(replace(result, note=""))
        elif isinstance(result, Done):
            if result.opened is not None:
                self._tell_planned(result.opened)
            for block in result.blocks:
                self.tell(block)
            self.active.remove(recording)
            self.tell(
                events.RecordingFinished(
                    recording.job.name,
                    str(result.target),
                    result.skipped,
                    result_note(result.facts),
                )
            )

    def _tell_planned(self, opened: Opened) -> None:
        finished = sum(map(len, opened.finished.values()))
        self.tell(
            events.RecordingPlanned(
                opened.job.name, opened.plan, sum(opened.counts), finished, opened.note
            )
        )

    def _failed(self, task: _Task, error: BaseException) -> None:
        recording = task.recording
        if isinstance(error, RowTooLarge) and task.n_bytes < self.limits.available:
            self.again.append(self._open_task(recording, self.limits.available))
            return
        if task.tries < RETRIES and may_pass(error):
            task.tries += 1
            recording.running += task.block is not None
            self.again.append(task)
            self.tell(
                events.BlockRetried(recording.job.name, task.stage, task.block, one_sentence(error))
            )
            return
        self.active.remove(recording)
        self.again = deque(t for t in self.again if t.recording is not recording)
        name = recording.job.name
        self.tell(events.RecordingFailed(name, one_sentence(error).removeprefix(f"{name}: ")))

    def _check_workers(self) -> None:
        """A cluster without workers would let us wait forever."""
        if self.client is None:
            return
        deadline = time.monotonic() + 30
        while not self.client.scheduler_info(n_workers=1)["workers"]:
            if time.monotonic() > deadline:
                raise RuntimeError(
                    "all Dask workers are gone: look at their logs (out of memory?), start new "
                    "ones, and run the same command again to go on"
                )
            time.sleep(1)

    def _drain(self) -> None:
        """After Ctrl-C: let running blocks end, start no more."""
        for future in list(self.running):
            future.cancel()
        for future in itertools.filterfalse(Future.cancelled, list(self.running)):
            with contextlib.suppress(BaseException):
                future.result(timeout=60)


def may_pass(error: BaseException) -> bool:
    """Whether trying again may help: a network or disk hiccup, a lost worker."""
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _LASTING
    return type(error).__name__ in (
        "KilledWorker",
        "CommClosedError",
        "FutureCancelledError",
        "CancelledError",
    )


def one_sentence(error: BaseException) -> str:
    """What went wrong, for people: one line, with the place where it happened."""
    if type(error).__name__ == "KilledWorker":
        return (
            "its block ended the worker process several times (out of memory, or a crash in "
            "compiled code): allow less memory a block or look at the workers' logs"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            "no space left on the disk of the results: finished blocks are kept, make room and "
            "run the same command again"
        )
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name and "pip install" not in text:
        text += f": pip install {error.name.partition('.')[0]}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    if isinstance(error, KeyError | IndexError | AttributeError | ZeroDivisionError | MemoryError):
        text = f"{type(error).__name__}: {text}"
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith("in ")]
    if notes and not isinstance(error, BudgetError):
        text += f" ({notes[0]})"
    return text
