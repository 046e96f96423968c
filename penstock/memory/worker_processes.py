"""The processes behind a Dask client: which there are, what each takes and may take.

Workers are threads of processes. Several may share one (those of ``LocalCluster(processes=False)``
share that of the client); what memory is about are the processes.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from penstock.memory.accounting import PROCESS_ALLOWANCE, process_base
from penstock.memory.machine import memory_domain
from penstock.memory.peaks import process_name

ANSWER_SECONDS = 120.0
"""How long workers may take to say what they are: the first time they import what a run needs."""

_TOKEN = uuid.uuid4().hex


def this_process() -> str:
    """What tells this process from all others, where hosts of one name have ids of their own."""
    return f"{process_name()}:{_TOKEN}"


@dataclass(frozen=True)
class WorkerProcess:
    """A process with one or several workers in it."""

    process: str
    name: str
    """Address of its worker (of one of them)."""
    threads: int
    base: int
    """What it takes before any block, with an allowance [bytes]."""
    memory_limit: int | None
    """What Dask lets its worker use [bytes]; None: no limit."""
    fraction: float
    """Of the limit, up to which the worker goes on taking tasks."""
    domain: str = ""
    """Machine and control group, whose memory it shares with others."""
    available: int = 0
    """What there is left in that [bytes]."""

    @property
    def usable(self) -> int | None:
        """Most that it may take [bytes]; None: as much as the budget allows."""
        return None if self.memory_limit is None else int(self.memory_limit * self.fraction)

    def joined(self, other: WorkerProcess) -> WorkerProcess:
        """This one with another worker of the same process: both watch all of its memory."""
        tighter = min(self, other, key=lambda one: float("inf") if (u := one.usable) is None else u)
        return replace(
            tighter, threads=self.threads + other.threads, base=max(self.base, other.base)
        )


def about_worker(worker: Any, modules: tuple[str, ...]) -> WorkerProcess:
    """What a worker is, seen from its own process."""
    manager = worker.memory_manager
    limit = getattr(manager, "memory_limit", None)
    domain, available = memory_domain()
    return WorkerProcess(
        this_process(),
        str(worker.address),
        int(worker.state.nthreads),
        process_base(modules) + PROCESS_ALLOWANCE,
        int(limit) if limit else None,
        usable_fraction(manager, nanny=bool(getattr(worker, "nanny", None))),
        domain,
        available,
    )


def usable_fraction(manager: Any, *, nanny: bool) -> float:
    """Fraction of its memory limit above which a worker stops: it pauses, or its nanny ends it.

    The thresholds ``target`` and ``spill`` are about results that Dask keeps; a run leaves none.
    """
    import dask

    pause = getattr(manager, "memory_pause_fraction", False)
    terminate = dask.config.get("distributed.worker.memory.terminate", False) if nanny else False
    return float(min([1.0, *(one for one in (pause, terminate) if one)]))


async def _about(modules: tuple[str, ...], dask_worker: Any) -> WorkerProcess:
    # (imports take seconds: the worker's loop goes on meanwhile)
    return await asyncio.to_thread(about_worker, dask_worker, modules)


def worker_processes(client: Any, modules: tuple[str, ...] = ()) -> list[WorkerProcess]:
    """The processes of a client's workers. Each is asked for itself, outside of its tasks.

    Raises
    ------
    ValueError
        If there are no workers.
    RuntimeError
        If they do not answer, or cannot import what a run needs.
    """
    answers = _in_time(client, modules)
    if not answers:
        raise ValueError("the Dask client has no workers: start some, or close the client")
    told = [answer for answer in answers.values() if isinstance(answer, WorkerProcess)]
    if not told:
        errors = [answer for answer in answers.values() if isinstance(answer, Exception)]
        reason = " ".join(str(errors[0]).split()) if errors else "they left"
        missing = "ModuleNotFoundError" in reason or "penstock" in reason
        what = "install the same version of penstock there" if missing else "look at their logs"
        raise RuntimeError(f"the Dask workers cannot tell what they are ({reason}): {what}")
    return merged(told)


def merged(workers: Iterable[WorkerProcess]) -> list[WorkerProcess]:
    """One entry a process."""
    found: dict[str, WorkerProcess] = {}
    for one in workers:
        known = found.get(one.process)
        found[one.process] = one if known is None else known.joined(one)
    return list(found.values())


def _in_time(client: Any, modules: tuple[str, ...]) -> dict[str, Any]:
    """Answers of all workers; a worker that hangs must not make us wait for ever."""
    found: dict[str, Any] = {}
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            found.update(client.run(_about, modules, on_error="return"))
        except BaseException as error:
            failed.append(error)

    asking = threading.Thread(target=ask, name="penstock-workers", daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    if failed:
        raise failed[0]
    if asking.is_alive():
        raise RuntimeError(
            f"the Dask workers did not answer within {ANSWER_SECONDS:.0f} s: look at their logs, "
            "end those that hang, and try again"
        )
    return found
