"""Inside a worker process: tasks begin only as far as the worker's own memory limit holds them.

Dask gives a worker as many tasks as it has threads, whatever they take. Blocks that would not fit
beside those at work wait here, inside their task. So no worker needs restrictions on tasks, with
which Dask's scheduler would start them all at once; and a worker that joins during a run, and is
smaller than those that the plan was made for, takes no more than fits it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from penstock.errors import BudgetError
from penstock.memory.worker_processes import WorkerProcess, about_worker
from penstock.planning.budget import worker_too_small

RUNS_KEPT = 8


class WorkerTooSmall(BudgetError):
    """A task does not fit the worker that it was given to; another one may hold it."""

    def __init__(self, text: str, larger_worker: int):
        super().__init__(text)
        self.larger_worker = larger_worker


class Admission:
    """Admits tasks to a process, by the bytes that they take."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._running = 0
        self._held = 0
        self._kept: dict[str, int] = {}
        self._users: Counter[str] = Counter()

    @contextlib.contextmanager
    def admitted(
        self, n_bytes: int, room: float, *, token: str = "", kept: int = 0
    ) -> Iterator[None]:
        """Wait until a task fits beside those at work; one is always let in.

        `kept` bytes are what all tasks of one `token` share.
        """
        with self._free:
            self._free.wait_for(lambda: self._fits(n_bytes, room, token, kept))
            self._running += 1
            self._held += n_bytes
            self._users[token] += 1
            self._kept[token] = max(kept, self._kept.get(token, 0))
        try:
            yield
        finally:
            with self._free:
                self._running -= 1
                self._held -= n_bytes
                self._users[token] -= 1
                if not self._users[token]:
                    del self._users[token], self._kept[token]
                self._free.notify_all()

    def _fits(self, n_bytes: int, room: float, token: str, kept: int) -> bool:
        if not self._running:
            return True
        more = max(0, kept - self._kept.get(token, 0))
        return self._held + sum(self._kept.values()) + n_bytes + more <= room


_here = Admission()
_lock = threading.Lock()
_known: OrderedDict[tuple[str, str], WorkerProcess] = OrderedDict()


def _this_worker(run: str, modules: tuple[str, ...]) -> WorkerProcess:
    """The worker that the calling task runs on, as it was when this run first came to it."""
    from distributed import get_worker

    worker = get_worker()
    key = run, str(worker.address)
    with _lock:
        if key not in _known:
            _known[key] = about_worker(worker, modules)
            while len(_known) > RUNS_KEPT:
                _known.popitem(last=False)
        found = _known[key]
        for (other, _), one in _known.items():  # (workers that share this process)
            if other == run and one is not found:
                found = found.joined(one)
        return found


@dataclass(frozen=True)
class Admitted:
    """A task that begins on a worker as soon as its memory holds it.

    Called with the arguments of the task, it raises `WorkerTooSmall` where the task does not even
    fit alone.
    """

    task: Callable[..., Any]
    run: str
    """Which run it is of."""
    modules: tuple[str, ...]
    """What the run's processors import."""
    n_bytes: int
    """What the task takes [bytes]."""
    recording: str = ""
    kept: int = 0
    """What it shares with other tasks of its recording [bytes]."""

    def __call__(self, *arguments: Any) -> Any:
        worker = _this_worker(self.run, self.modules)
        if worker.usable is None:
            return self.task(*arguments)
        room, need = worker.usable - worker.base, self.n_bytes + self.kept
        if need > room:
            text = worker_too_small(worker, need, "itself")
            raise WorkerTooSmall(f"{text}, or allow less memory a block", need)
        with _here.admitted(self.n_bytes, room, token=self.recording, kept=self.kept):
            return self.task(*arguments)
