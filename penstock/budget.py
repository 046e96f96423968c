"""The budget of a run: what it may use, and what its processes take before any block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from penstock.cluster import CERTIFICATE_MODULES
from penstock.memory import (
    PROCESS_ALLOWANCE,
    available_memory,
    cpu_count,
    parse_bytes,
    process_base,
    worker_base,
)


def peak_together(base: int, budget: int, at_once: int, task_bytes: int) -> int:
    """Peak where tasks of several recordings run side by side, as the budget admits them."""
    return min(budget, base + at_once * task_bytes)


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

    @property
    def available(self) -> int:
        """Left for blocks [bytes]."""
        return self.budget - self.base


def resources(
    memory: int | float | str | None,
    workers: int | None,
    *,
    kind: str = "threads",
    client: Any = None,
    modules: tuple[str, ...] = (),
) -> Resources:
    """Budget and bases of a run on this machine or on a cluster.

    `modules` are those that its processors, its readers and its format import. Where the processes
    alone take more than the budget, planning says so, and how much would suffice.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    processes = threads = 0
    if client is not None:
        known = client.scheduler_info(n_workers=-1)["workers"].values()
        processes = len(known)
        threads = sum(int(worker["nthreads"]) for worker in known)
        if processes == 0:
            raise ValueError("the Dask client has no workers: start some, or close the client")
        n = min(workers, threads) if workers is not None else threads
        limit = sum(int(worker["memory_limit"] or 0) for worker in known)
    else:
        n = workers if workers is not None else cpu_count()
        processes = n if kind == "processes" else 0
        limit = 0
    here = (*modules, *CERTIFICATE_MODULES) if processes and client is None else modules
    own = process_base(here) + PROCESS_ALLOWANCE
    base = own + processes * (worker_base(modules) + PROCESS_ALLOWANCE if processes else 0)
    if memory is None:
        budget = max(base, int(0.5 * (available_memory() + own)))
        budget = limit or budget
    else:
        budget = parse_bytes(memory)
    return Resources(budget, n, 1 + processes, base, threads)
