"""The budget of a run: what it may use, what its processes take, and what each of them may take."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from penstock.configuration import configured_memory, configured_workers
from penstock.errors import BudgetError
from penstock.memory.accounting import (
    MIB,
    PROCESS_ALLOWANCE,
    THREAD_ALLOWANCE,
    available_memory,
    cpu_count,
    format_bytes,
    parse_bytes,
    process_base,
    worker_base,
    worker_shared,
)
from penstock.memory.worker_processes import WorkerProcess, this_process, worker_processes
from penstock.running.workers.executors import CERTIFICATE_MODULES

BLOCK_ROOM = 64 * MIB
"""What there should be for a block beside each process, where that is ours to choose."""


@dataclass(frozen=True)
class ProcessGroup:
    """Processes in which blocks run, all alike."""

    count: int
    threads: int
    """Of each: blocks that it runs at once, where memory allows."""
    base: int
    """What each takes before any block [bytes]."""
    limit: int | None = None
    """Most that each may take [bytes]: the part of its memory limit below which its worker goes
    on. None: as much as the budget allows."""
    memory_limit: int | None = None
    """That memory limit [bytes]."""
    name: str = ""
    """Address of one of them."""

    @property
    def room(self) -> float:
        """Left for blocks in each [bytes]."""
        return math.inf if self.limit is None else max(0, self.limit - self.base)

    def at_once(self, n_bytes: int) -> int:
        """Blocks of a size that fit all of these processes at once."""
        each = self.threads if self.limit is None else int(self.room // max(1, n_bytes))
        return self.count * min(self.threads, each)


@dataclass(frozen=True)
class Resources:
    """What a run may use, and what its processes take before any block."""

    budget: int
    workers: int
    processes: int = 1
    base: int = 0
    """Of all processes together, with the allowance of each [bytes]."""
    threads: int = 0
    """Threads that there are: more than `workers` where only a part of a cluster is used."""
    groups: tuple[ProcessGroup, ...] = ()
    """Processes in which blocks run; none are named where the budget is all that limits them."""
    home: str = ""
    """The process that leads the run (`this_process`)."""

    @property
    def hosts(self) -> int:
        """How many processes blocks run in."""
        return sum(group.count for group in self.groups) or 1

    @property
    def largest_base(self) -> int:
        """Most that a process in which blocks run takes before any [bytes]."""
        return max((group.base for group in self.groups), default=self.base)

    @property
    def available(self) -> int:
        """Left for blocks [bytes]: of the budget, and in all processes together."""
        return int(min(self.budget - self.base, self.room))

    @property
    def room(self) -> float:
        """Left for blocks within the limits of all processes together [bytes]."""
        if not self.groups:
            return math.inf
        return sum(group.count * group.room for group in self.groups)

    @property
    def tightest(self) -> ProcessGroup | None:
        """Processes with the least room for a block: any block may be given to one of them."""
        limited = [group for group in self.groups if group.limit is not None]
        return min(limited, key=lambda group: group.room) if limited else None

    @property
    def largest_task(self) -> int:
        """Largest task that fits the budget, and each of the processes [bytes]."""
        room = math.inf if self.tightest is None else self.tightest.room
        return int(min(self.available, room))

    def at_once(self, n_bytes: int) -> int:
        """Blocks of a size that run at once; none where there is a process that one does not fit.

        Tasks go to any worker: each must be able to take one.
        """
        if n_bytes > self.largest_task:
            return 0
        fit = min(self.workers, self.available // max(1, n_bytes))
        return (
            min(fit, sum(group.at_once(n_bytes) for group in self.groups)) if self.groups else fit
        )

    def largest_block(self, n: int) -> int:
        """Largest blocks of which `n` run at once [bytes]; 0 where none do."""
        most = min(self.available // n, self.largest_task)
        if not self.groups or self.at_once(most) >= n:
            return most
        # (the numbers that fit a process change where its room is divided by one more)
        sizes = {
            int(group.room // k)
            for group in self.groups
            if group.limit is not None
            for k in range(1, group.threads + 1)
        }
        fitting = (size for size in sizes if 0 < size <= most and self.at_once(size) >= n)
        return max(fitting, default=0)

    def with_resident(self, n_bytes: int) -> Resources:
        """With bytes that each process in which blocks run keeps beside them."""
        groups = tuple(replace(group, base=group.base + n_bytes) for group in self.groups)
        return replace(self, base=self.base + self.hosts * n_bytes, groups=groups)


def peak_together(limits: Resources, n_blocks: int, largest_task: int) -> int:
    """Peak where tasks of several recordings run side by side, as the budget admits them.

    `largest_task` has with it what its recording keeps in the processes.
    """
    at_once = min(limits.workers, n_blocks)
    return limits.base + min(limits.available, at_once * largest_task)


def resources(
    memory: int | float | str | None,
    workers: int | None,
    *,
    kind: str = "threads",
    client: Any = None,
    modules: tuple[str, ...] = (),
) -> Resources:
    """Budget, bases and limits of a run on this machine or on a cluster.

    `modules` are those that its processors, its readers and its format import. Where the processes
    alone take more than the budget, planning says so, and how much would suffice.
    """
    if client is None:  # (a cluster is as large as its workers)
        memory, workers = configured_memory(memory), configured_workers(workers)
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    budget = None if memory is None else parse_bytes(memory)
    if client is not None:
        found = _of_cluster(budget, workers, worker_processes(client, modules), modules)
    elif kind == "processes":
        found = _of_local_processes(budget, workers, modules)
    else:
        own = process_base(modules) + PROCESS_ALLOWANCE
        n = workers if workers is not None else cpu_count()
        found = Resources(budget or _default_budget(own), n, 1, own, home=this_process())
    _check_room(found)
    return found


def _default_budget(base: int, own: int | None = None) -> int:
    """Half of what is available: more of it where the processes leave no room in that half."""
    there = available_memory() + (base if own is None else own)
    return max(there // 2, min(base + BLOCK_ROOM, int(0.9 * there)))


def _of_local_processes(
    budget: int | None, workers: int | None, modules: tuple[str, ...]
) -> Resources:
    own = process_base((*modules, *CERTIFICATE_MODULES)) + PROCESS_ALLOWANCE
    each = worker_base(modules) + PROCESS_ALLOWANCE
    if workers is None:  # (as many as there is memory for)
        there = budget or _default_budget(own)
        workers = max(1, min(cpu_count(), (there - own) // (each + BLOCK_ROOM)))
    # (pages of libraries count once: the workers are on one machine, and alike)
    base = own + workers * each - (workers - 1) * worker_shared(modules)
    groups = (ProcessGroup(workers, 1, each),)
    budget = budget or _default_budget(base, own)
    return Resources(budget, workers, 1 + workers, base, groups=groups, home=this_process())


def _of_cluster(
    budget: int | None,
    workers: int | None,
    known: list[WorkerProcess],
    modules: tuple[str, ...],
) -> Resources:
    here = this_process()
    elsewhere = [one for one in known if one.process != here]
    own = process_base(modules) + PROCESS_ALLOWANCE
    base = own + sum(one.base for one in elsewhere)
    threads = sum(one.threads for one in known)
    n = threads if workers is None else min(workers, threads)
    if budget is None:
        budget = max(base, own * (len(elsewhere) == len(known)) + _of_their_machines(known))
    return Resources(budget, n, 1 + len(elsewhere), base, threads, _grouped(known), here)


def _grouped(known: Iterable[WorkerProcess]) -> tuple[ProcessGroup, ...]:
    """Processes that are alike, counted: a cluster of a thousand is told in a line."""
    known = sorted(known, key=lambda one: one.name)
    step = 16 * MIB  # (bases of processes of one kind differ by a little)
    alike = Counter(
        (one.threads, -(-one.base // step) * step, one.usable, one.memory_limit) for one in known
    )
    names = {(one.threads, one.usable): one.name for one in known}
    return tuple(
        ProcessGroup(count, threads, base, usable, limit, names[threads, usable])
        for (threads, base, usable, limit), count in alike.items()
    )


def _of_their_machines(known: Iterable[WorkerProcess]) -> int:
    """What workers may take altogether: their limits, and never more than there is.

    Of a machine whose workers have no limits, half of what is available.
    """
    domains: dict[str, list[WorkerProcess]] = {}
    for one in known:
        domains.setdefault(one.domain, []).append(one)
    total = 0
    for inside in domains.values():
        there = min(one.available for one in inside) + sum(one.base for one in inside)
        limits = [one.usable for one in inside if one.usable is not None]
        if len(limits) < len(inside):
            total += there // 2
        else:
            total += min(sum(limits), int(0.9 * there))
    return total


def _check_room(found: Resources) -> None:
    """Refuse workers whose own limits leave no room for any block."""
    tightest = found.tightest
    if tightest is not None and tightest.room < THREAD_ALLOWANCE:
        raise BudgetError(worker_too_small(tightest, BLOCK_ROOM, "before any data"))


def worker_too_small(group: ProcessGroup | WorkerProcess, n_bytes: int, what: str) -> str:
    """What a worker may take, and what it would have to be allowed for a task."""
    limit = group.limit if isinstance(group, ProcessGroup) else group.usable
    assert limit is not None
    assert group.memory_limit
    used = limit / group.memory_limit
    need = math.ceil((group.base + n_bytes) / used / MIB) * MIB
    below = f"{used:.0%} of its memory limit of " if used < 1 else "its memory limit of "
    return (
        f"the worker {group.name} may take {below}{format_bytes(group.memory_limit)} and takes "
        f"{format_bytes(group.base)} of that {what}: start workers with at least "
        f"{format_bytes(need)} each"
    )
