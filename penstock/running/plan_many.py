"""Planning of many recordings: opened side by side, in windows, and forgotten once planned.

A plan of one recording keeps what it was made of. Of thousands that would be thousands of opened
datasets, so theirs keep an outline: dims, shape and type of what every stage makes.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import xarray as xr

from penstock import events
from penstock.dataset import SIGNAL, blank_variable
from penstock.planning.chain import Chain
from penstock.planning.plan import Plan, Stage
from penstock.reading import Reading
from penstock.running.failures import one_sentence
from penstock.running.progress import SHOW_AFTER, ProgressListener, progress_listener
from penstock.running.workers.executors import thread_executor

THREADS = 8
"""Files are opened by so many threads at once: mostly they wait for the disk, or the network."""
WINDOW = 4
"""So many recordings a thread are under way or wait for their turn."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Refused:
    """A recording that cannot be planned."""

    reason: str


def plan_many(
    plan_one: Callable[[T], Plan],
    items: Mapping[str, T],
    *,
    progress: bool | None = None,
    failed: dict[str, str] | None = None,
) -> list[Plan]:
    """A plan for each of several recordings, in their order.

    Parameters
    ----------
    plan_one : callable
        Opens a recording and plans it.
    items : mapping
        The recordings, by their names.
    progress : bool, optional
        True and False: show it or not. Default: show it once the work has taken two seconds.
    failed : dict, optional
        Takes the names of recordings that cannot be planned, with the reasons.

    Raises
    ------
    Exception
        What was wrong with the first recording that cannot be planned, without `failed`.
    """

    def planned(item: T) -> Plan | _Refused:
        try:
            return without_data(plan_one(item))
        except Exception as error:
            if failed is None:
                raise
            return _Refused(one_sentence(error))

    plans: list[Plan] = []
    shown = _Planning(len(items), progress)
    try:
        for name, plan in zip(items, in_windows(planned, items.values()), strict=True):
            if isinstance(plan, Plan):
                plans.append(plan)
            elif failed is not None:
                failed[name] = plan.reason
            shown.step(name)
    finally:
        shown.close()
    return plans


def in_windows(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results of a function for many items, in their order, computed in a few threads."""
    under_way: deque[Future[R]] = deque()
    with thread_executor(THREADS) as threads:
        try:
            for item in items:
                under_way.append(threads.submit(function, item))
                if len(under_way) >= WINDOW * THREADS:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


def without_data(plan: Plan) -> Plan:
    """The plan with outlines in place of the datasets and steps that it was made of."""
    return replace(plan, stages=tuple(map(_outlined, plan.stages)))


def _outlined(stage: Stage) -> Stage:
    chain = stage.chain
    return replace(stage, chain=_outline(chain.dims, chain.shape, chain.dtype, stage.in_order))


@functools.lru_cache(maxsize=1024)
def _outline(
    dims: tuple[str, ...], shape: tuple[int, ...], dtype: np.dtype, in_order: bool
) -> Chain:
    variable = blank_variable(dims, shape, dtype)
    variable.encoding = Reading(sequential=in_order).in_encoding()
    return Chain(xr.Dataset({SIGNAL: variable}))


class _Planning:
    """Progress of planning, shown where it takes long."""

    def __init__(self, n: int, show: bool | None):
        self._n, self._done, self._show = n, 0, show
        self._began = time.monotonic()
        self._listener: ProgressListener | None = None

    def step(self, name: str) -> None:
        self._done += 1
        if self._listener is not None:
            self._listener(events.RecordingFinished(name, ""))
        elif self._show or (self._show is None and time.monotonic() - self._began > SHOW_AFTER):
            self._listener = progress_listener(True)
            if self._listener is not None:
                self._listener(events.RunStarted(self._n, THREADS, 0))
                for _ in range(self._done):
                    self._listener(events.RecordingFinished(name, ""))

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
