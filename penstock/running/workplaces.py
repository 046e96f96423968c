"""Recordings that this process has opened for its blocks, kept from one block to the next."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict

from penstock.planning.plan import Stage
from penstock.running.job import Job

KEPT = 8
"""So many recordings a process keeps at least."""

_lock = threading.Lock()
_open: OrderedDict[str, tuple[Job, tuple[Stage, ...]]] = OrderedDict()


def kept_stages(job: Job) -> tuple[Stage, ...] | None:
    """Stages of a recording that this process has opened; None where it has not, or no longer."""
    with _lock:
        if job.token not in _open:
            return None
        _open.move_to_end(job.token)
        return _open[job.token][1]


def keep_stages(job: Job, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Keep the stages of a recording for its next block.

    A run has two recordings under way for each of its threads: were fewer kept, each of their
    blocks would open its recording again.
    """
    threads = math.ceil(job.limits.workers / job.limits.hosts)
    with _lock:
        others = [(token, other) for token, (other, _) in _open.items() if token != job.token]
    # (of what another process has finished, or given up, the unfinished result is gone)
    done = [token for token, other in others if not other.building.exists()]
    with _lock:
        for token in done:
            _open.pop(token, None)
        _open[job.token] = job, stages
        _open.move_to_end(job.token)
        while len(_open) > max(KEPT, 2 * threads):
            _open.popitem(last=False)
    return stages


def forget(tokens: set[str]) -> None:
    """Let go of recordings that are finished or given up."""
    with _lock:
        for token in tokens:
            _open.pop(token, None)


def forget_run(run: str) -> None:
    """Let go of all recordings of a run."""
    with _lock:
        for token in [token for token, (job, _) in _open.items() if job.run == run]:
            del _open[token]


def kept_recordings() -> list[str]:
    """Names of the recordings that this process keeps open, the one used last at the end."""
    with _lock:
        return [job.name for job, _ in _open.values()]
