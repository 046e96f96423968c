"""The client's loop: recordings are opened on workers, blocks flow through a sliding window.

The client holds no data and no list of blocks. It keeps just enough tasks under way to fill the
workers, admits a task only while the bytes of all running blocks fit the budget, and takes back
small records of what was done.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import queue
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures import wait as wait_for
from dataclasses import replace
from typing import Any

from penstock import events
from penstock.errors import RecordingError
from penstock.memory.footprints import Footprint
from penstock.memory.overruns import Overruns
from penstock.memory.worker_processes import worker_processes
from penstock.planning.plan import Resources
from penstock.running.attempts import attempt, begun_by, forget_begun
from penstock.running.failures import (
    RETRIES,
    Failure,
    of_error,
    one_sentence,
    seconds_to_wait,
)
from penstock.running.job import Done, Job, Opened
from penstock.running.result_facts import result_note
from penstock.running.tasks import (
    finish_recording,
    open_recording,
    run_block,
    run_stage,
)
from penstock.running.under_way import Recording, Task
from penstock.running.workers.admission import Admitted
from penstock.running.workers.executors import exit_reason
from penstock.running.workers.watch import WorkerWatch
from penstock.running.workplaces import forget

LOOK_EVERY = 5.0
"""Seconds in which nothing is heard before the workers are looked at."""
LET_END = 20.0
"""Seconds that blocks under way are given to end after an interruption."""


class Engine:
    """The client's loop: what to submit next, what to do with what comes back."""

    def __init__(
        self,
        pool: Executor,
        limits: Resources,
        heard: list[events.Listener],
        client: Any,
        *,
        own: bool = False,
        modules: tuple[str, ...] = (),
    ):
        self.modules = modules
        self.pool = pool
        self.limits = limits
        self.heard = heard
        self.client = client
        self.results: queue.SimpleQueue[tuple[Task, Future[Any]]] = queue.SimpleQueue()
        self.active: dict[Recording, None] = {}
        self.ready: list[tuple[int, Recording]] = []
        """Active recordings that may have something to do, the earliest first (a heap)."""
        self.waiting: deque[Recording] = deque()
        self.again: deque[Task] = deque()
        self.later: list[tuple[float, int, Task]] = []
        """Tasks that wait for their next try: when that is, and a number that orders equals."""
        self.suspects: deque[Task] = deque()
        """Tasks during which their worker ended: they are tried again when all else is done."""
        self.watch = WorkerWatch(client, self.tell, own) if client is not None else None
        self._number = itertools.count()
        self.running: dict[Future[Any], Task] = {}
        self._largest = 0
        """No task that is running was planned with more bytes."""
        self.overruns = Overruns()

    def tell(self, event: events.Event) -> None:
        for listener in self.heard:
            listener(event)
        if isinstance(event, events.BlockFinished) and event.footprint is not None:
            self._hear_memory(event.name, event.process, event.footprint)

    def _hear_memory(self, name: str, process: str, footprint: Footprint) -> None:
        """Take note of what a block took, and let fewer go on where that was more than planned."""
        found = self.overruns.hear(name, process, footprint)
        if found or (self.overruns.probing and len(self.running) > 1):
            self._recall()
        for overrun in found:
            self.tell(events.MemoryOverrun(overrun))

    def run(self, jobs: list[Job], refused: Mapping[str, Failure] | None = None) -> None:
        """Do all jobs; `refused` are recordings that cannot be done, with the reasons."""
        began = time.perf_counter()
        n = len(jobs) + len(refused or {})
        self.tell(events.RunStarted(n, self.limits.workers, self.limits.budget))
        self.waiting.extend(Recording(job, order) for order, job in enumerate(jobs))
        interrupted = False
        try:
            for name, failure in (refused or {}).items():
                self._tell_failed(name, failure)
            while self._has_work():
                self._fill()
                self._take_one()
        except BaseException as error:
            interrupted = True
            if isinstance(error, Exception) and not isinstance(error, RecordingError):
                for future in list(self.running):
                    future.cancel()
            else:  # (Ctrl-C, a signal that asks for the end, a failure that is to end the run)
                error.add_note(
                    "what is finished is kept: the same call goes on where this one stopped"
                )
                self._drain(5.0 if isinstance(error, SystemExit) else LET_END)
            raise
        finally:
            self.tell(events.RunFinished(time.perf_counter() - began, interrupted))

    def _has_work(self) -> bool:
        left = (self.waiting, self.active, self.running, self.again, self.later, self.suspects)
        return any(left)

    # ------------------------------------------------------------------ submitting

    def _fill(self) -> None:
        """Submit while there is work, room in the window, and memory for it."""
        while not self._one_alone():
            while self.later and self.later[0][0] <= time.monotonic():
                self.again.append(heapq.heappop(self.later)[-1])
            task = self.again[0] if self.again else self._next_task() or self._next_suspect()
            if task is None:
                return
            # a second round waits at the workers, so that none of them idles while the client hears
            # of a finished block; whichever of them run at once must fit
            slots = 1 if self.overruns.probing else self.limits.workers
            ahead = 1 if self.limits.threads > slots or self.overruns.probing else 2
            full = len(self.running) >= slots * ahead
            if full or (self.running and not self._fits(task, slots)):
                if not self.again:
                    self.again.append(task)
                return
            if self.again:
                self.again.popleft()
            try:
                future = task.submit(task.pool or self.pool)
            except Exception as error:
                self._not_sent(task, error)
                continue
            self._largest = max(self._largest if self.running else 0, task.n_bytes)
            self.running[future] = task
            future.add_done_callback(lambda f, t=task: self.results.put((t, f)))  # type: ignore[misc]

    def _one_alone(self) -> bool:
        """Whether a task is running that nothing may run beside."""
        return len(self.running) == 1 and next(iter(self.running.values())).alone

    def _fits(self, task: Task, slots: int) -> bool:
        """Whether a task and the largest of those that may run beside it fit the budget."""
        available = self.limits.available - self.overruns.kept
        planned = max(self._largest, task.n_bytes)
        most = max(planned, self.overruns.task_bytes(planned))
        if min(slots, len(self.running) + 1) * most <= available:
            return True  # (so it is nearly always: a thousand workers need not be looked through)
        sizes = sorted(self._task_bytes(one) for one in (*self.running.values(), task))
        return sum(sizes[-slots:]) <= available

    def _task_bytes(self, task: Task) -> int:
        """What a task takes, as far as is known by now."""
        if task.block is None or task.recording.job.learned:
            return task.n_bytes
        return self.overruns.task_bytes(task.n_bytes)

    def _recall(self) -> None:
        """Take back what waits for a thread: it was admitted with what was planned."""
        if self.client is not None:
            return  # (what workers have is theirs)
        waiting = [future for future in self.running if future.cancel()]
        # (in their order: blocks that are read from front to back wait for those before them)
        self.again.extendleft(self.running.pop(future) for future in reversed(waiting))

    def _wake(self, recording: Recording) -> None:
        """Something about a recording has changed: it may have something to do."""
        if not recording.queued and recording in self.active:
            recording.queued = True
            heapq.heappush(self.ready, (recording.order, recording))

    def _next_task(self) -> Task | None:
        while self.ready:
            recording = self.ready[0][-1]
            task = self._task_of(recording) if recording in self.active else None
            if task is not None:
                return task
            recording.queued = False
            heapq.heappop(self.ready)
        # a few recordings are open at a time: enough that one is ready when another ends
        suspended = sum(one.suspended for one in {task.recording for task in self.suspects})
        if self.waiting and len(self.active) - suspended < 2 * self.limits.workers:
            recording = self.waiting.popleft()
            self.active[recording] = None
            share = self.limits.available // self.limits.workers
            return self._open_task(recording, min(share, self.limits.largest_task))
        return None

    def _task_of(self, recording: Recording) -> Task | None:
        """What is to be done next for a recording; None where it waits for what is running."""
        opened = recording.opened
        if opened is None or recording.finishing:
            return None
        number = recording.next_block()
        if number is not None:
            if recording.in_order:
                if recording.running >= self._readers():
                    return None
                if self.client is not None:
                    recording.take_stage()
                    return self._stage_task(recording, opened, recording.stage)
            recording.take()
            return self._block_task(recording, opened, recording.stage, number)
        if recording.blocks_done:
            recording.finishing = True
            submit = self._submits(finish_recording, opened, label="finish")
            return Task(recording, opened.finish_bytes, submit, "finish")
        return None

    def _readers(self) -> int:
        """Blocks at once of a recording that is read from front to back.

        They wait for each other while they read. Where there are recordings enough, each thread
        has one of its own; on other processes a recording stays with one of them to its end.
        """
        if self.client is not None:
            return 1
        return max(1, self.limits.workers // (len(self.active) + len(self.waiting)))

    def _next_suspect(self) -> Task | None:
        """A task that may have ended its worker, now that nothing else can be harmed.

        Those that were lost once, with a machine perhaps, run together; what ends a worker again
        runs alone.
        """
        if not self.suspects or self.running or self.later:
            return None
        for task in self.suspects:
            forget_begun(task.recording.job, task.label)
            task.recording.suspended = False
        together = [task for task in self.suspects if task.losses == 1]
        if len(together) > 1:
            self.suspects = deque(task for task in self.suspects if task.losses > 1)
            self.again.extend(together)
            return self.again[0]
        task = self.suspects.popleft()
        task.alone = True
        return task

    def _submits(
        self, task: Callable[..., Any], about: Job | Opened, *rest: Any, label: str
    ) -> Callable[[Executor], Future[Any]]:
        """How a task is submitted; on workers it begins as soon as their memory holds it."""
        if self.client is not None:
            if isinstance(about, Opened):
                n_bytes = about.finish_bytes if task is finish_recording else about.block_bytes
                share = (n_bytes - about.kept_in_all, about.job.token, about.kept)
            else:
                share = (int(rest[0]), about.token, 0)
            job = about.job if isinstance(about, Opened) else about
            task = Admitted(task, job.run, self.modules, *share)
        return lambda pool: pool.submit(attempt, task, about, *rest, label=label)

    def _stage_task(self, recording: Recording, opened: Opened, stage: int) -> Task:
        label = f"{stage}"
        submit = self._submits(run_stage, opened, stage, label=label)
        return Task(recording, opened.block_bytes, submit, label, 0, stage)

    def _open_task(self, recording: Recording, n_bytes: int) -> Task:
        if self.overruns.learned:
            recording.job = replace(recording.job, learned=dict(self.overruns.learned))
        submit = self._submits(open_recording, recording.job, n_bytes, label="open")
        return Task(recording, n_bytes, submit, "open")

    def _block_task(self, recording: Recording, opened: Opened, stage: int, number: int) -> Task:
        label = f"{stage}-{number}"
        submit = self._submits(run_block, opened, stage, number, label=label)
        return Task(recording, opened.block_bytes, submit, label, number, stage)

    # ------------------------------------------------------------------ receiving

    def _take_one(self) -> None:
        found = self._next_result()
        if found is None:
            return
        task, future = found
        recording = task.recording
        if task.block is not None:
            recording.running -= 1
        error = CancelledError() if future.cancelled() else future.exception()
        if recording not in self.active:
            return  # it failed already; this was a block still on its way
        result = future.result() if error is None else self._lost(task, error)
        if isinstance(result, Failure):
            self._failed(task, result)
        elif isinstance(result, events.BlockFinished):
            self.tell(result)
        elif isinstance(result, tuple):
            for block in result:
                self.tell(block)
        elif isinstance(result, Opened):
            self._tell_planned(result)
            recording.job = result.job
            recording.start(result)
        elif isinstance(result, Done):
            if result.opened is not None:
                self._tell_planned(result.opened)
            for block in result.blocks:
                self.tell(block)
            del self.active[recording]
            self.tell(
                events.RecordingFinished(
                    recording.job.name,
                    str(result.target),
                    result.skipped,
                    result_note(result.facts),
                )
            )
        self._wake(recording)

    def _tell_planned(self, opened: Opened) -> None:
        finished = sum(map(len, opened.finished.values()))
        self.tell(
            events.RecordingPlanned(
                opened.job.name, opened.plan, sum(opened.counts), finished, opened.note
            )
        )

    def _next_result(self) -> tuple[Task, Future[Any]] | None:
        """What ends next; None where tasks have become due before."""
        while self.running or self.later:
            due = self.later[0][0] - time.monotonic() if self.later else LOOK_EVERY
            try:
                task, future = self.results.get(timeout=max(0.0, min(due, LOOK_EVERY)))
            except queue.Empty:
                if due <= LOOK_EVERY and self.later:
                    return None
                self._look()
                if self.again or not self.running:
                    return None
            else:
                if self.running.pop(future, None) is not None:
                    return task, future
        return None

    def _look(self) -> None:
        """See whether anybody works; take tasks back from workers that do not begin them."""
        if self.watch is None:
            return
        stuck = self.watch.look()
        for future, task in list(self.running.items()) if stuck else ():
            begun = begun_by(task.recording.job, task.label)
            if getattr(future, "key", None) in stuck and not begun:
                del self.running[future]
                future.cancel()
                self.again.append(task)
        for future, task in list(self.running.items()) if self.watch.nobody else ():
            if task.alone and begun_by(task.recording.job, task.label):
                del self.running[future]
                future.cancel()
                if task.block is not None:
                    task.recording.running -= 1
                self._failed(task, Failure("its worker ended", begun_before=True))

    # ------------------------------------------------------------------ failures

    def _not_sent(self, task: Task, error: Exception) -> None:
        """A task that could not even be submitted."""
        if task.block is not None:
            task.recording.running -= 1
            self._wake(task.recording)
        if self.watch is not None and not self.watch.check_connection():
            self._failed(task, Failure("the Dask scheduler does not answer", may_pass=True))
            return
        self._failed(task, of_error(error))

    def _larger_workers(self, n_bytes: int) -> Executor | None:
        """Workers that hold a task; smaller ones have joined since the plan was made."""
        base = self.limits.largest_base
        try:
            known = worker_processes(self.client, self.modules)
        except (ValueError, RuntimeError):
            return None
        names = [one.name for one in known if one.usable is None or one.usable - base >= n_bytes]
        if not names:
            return None
        executor: Executor = self.client.get_executor(pure=False, workers=names)
        return executor

    def _lost(self, task: Task, error: BaseException) -> Failure:
        """What it means that Dask, not the task, says that it was not done."""
        kind = type(error).__name__
        if kind == "KilledWorker":
            begun = begun_by(task.recording.job, task.label)
            return Failure("its worker ended", may_pass=True, begun_before=bool(begun))
        if isinstance(error, CancelledError) or kind in ("CommClosedError", "FutureCancelledError"):
            if self.watch is not None:
                self.watch.check_connection()
            return Failure("Dask let go of it", may_pass=True)
        if error.__cause__ is not None and "deserializ" in str(error):
            return Failure(
                f"a worker could not load what it was sent ({one_sentence(error.__cause__)}): it "
                "needs the same packages and modules as this process"
            )
        return of_error(error)

    def _failed(self, task: Task, failure: Failure) -> None:
        recording = task.recording
        if failure.row_too_large and task.n_bytes < self.limits.largest_task:
            self.again.append(self._open_task(recording, self.limits.largest_task))
            return
        if failure.larger_worker and task.pool is None:
            task.pool = self._larger_workers(failure.larger_worker)
            if task.pool is not None:
                recording.running += task.block is not None
                self.again.append(task)
                return
            failure = replace(failure, may_pass=True)  # (others may be there in a moment)
        if failure.begun_before:
            task.losses += 1
            if not task.alone and task.losses < 3:
                recording.suspended = True
                self._again_later(task, failure.reason)
                self.suspects.append(task)
                return
            failure = Failure(self._crash(task))
        if failure.may_pass and task.tries < RETRIES:
            task.tries += 1
            task.alone = False
            wait = seconds_to_wait(task.tries)
            self._again_later(task, failure.reason, wait)
            heapq.heappush(self.later, (time.monotonic() + wait, next(self._number), task))
            return
        self._give_up(recording, failure, *task.place)

    def _again_later(self, task: Task, reason: str, wait: float = 0.0) -> None:
        name = task.recording.job.name
        task.recording.running += task.block is not None
        self.tell(events.BlockRetried(name, task.stage, task.block, reason, wait))

    def _give_up(self, recording: Recording, failure: Failure, *place: int | None) -> None:
        """Nothing more is done for a recording; the others go on."""
        del self.active[recording]
        forget({recording.job.token})
        self.again = deque(t for t in self.again if t.recording is not recording)
        self.suspects = deque(t for t in self.suspects if t.recording is not recording)
        self.later = [entry for entry in self.later if entry[-1].recording is not recording]
        heapq.heapify(self.later)
        self._tell_failed(recording.job.name, failure, *place)

    def _tell_failed(self, name: str, failure: Failure, *place: int | None) -> None:
        reason = failure.reason.removeprefix(f"{name}: ")
        self.tell(events.RecordingFailed(name, reason, failure.error, failure.traceback, *place))

    def _crash(self, task: Task) -> str:
        """Why a recording is given up whose task ended every worker that it was given to."""
        what = {"open": "opening or processing it", "finish": "writing its result"}.get(
            task.label, f"block {task.block} of stage {task.stage + 1}"
        )
        by = begun_by(task.recording.job, task.label)
        how = exit_reason(self.client, by) or "out of memory, or a crash in compiled code"
        return (
            f"{what} ended the worker process {task.losses} times ({how}): run it with one block "
            "less at once, or look for the crash on a small part of it"
        )

    def _drain(self, patience: float) -> None:
        """After an interruption: let running tasks end, start no more; again: leave at once."""
        for future in list(self.running):
            future.cancel()
        left = [future for future in self.running if not future.done()]
        if not left:
            return
        n = f"{len(left)} blocks" if len(left) > 1 else "1 block"
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            self.tell(
                events.RunWaits(
                    f"stopping: {n} under way may take {patience:.0f} s more to end (again to stop "
                    "at once)"
                )
            )
            wait_for(left, timeout=patience)
            while not self.results.empty():
                _, ended = self.results.get()
                if not ended.cancelled() and isinstance(ended.result(), events.BlockFinished):
                    self.tell(ended.result())
