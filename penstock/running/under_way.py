"""Recordings and tasks under way, as the client that leads a run knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.running.job import Job, Opened


@dataclass(eq=False)
class Recording:
    """A recording under way: which of its blocks come next, and how many are running."""

    job: Job
    order: int = 0
    """Which one of all it is: earlier ones come first."""
    queued: bool = False
    """Whether it stands among those that may have something to do."""
    opened: Opened | None = None
    finished: Mapping[int, Set[int]] = field(default_factory=dict)
    """Blocks by stage that are left out: an interrupted run did them."""
    stage: int = 0
    numbers: Iterator[int] = field(default_factory=lambda: iter(()))
    upcoming: int | None = None
    running: int = 0
    finishing: bool = False
    suspended: bool = False
    """Whether a task of it ended its worker, and waits until all others are done."""

    def start(self, opened: Opened) -> None:
        """Go on with the first of its blocks, now that it is known which there are."""
        # (what is sent with every block says nothing of the others)
        self.opened = replace(opened, note="", finished={})
        self.finished = opened.finished
        self.stage = -1
        self._next_stage()

    def _next_stage(self) -> None:
        assert self.opened is not None
        self.stage += 1
        if self.stage < len(self.opened.counts):
            done = self.finished.get(self.stage, set())
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
        """Take the next block."""
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
class Task:
    """What one worker is given at once: opening a recording, a block of it, or its result."""

    recording: Recording
    n_bytes: int
    submit: Callable[[Executor], Future[Any]]
    label: str
    """What the task is called where it leaves its mark (see `penstock.running.attempts`)."""
    block: int | None = None
    stage: int = 0
    tries: int = 0
    losses: int = 0
    """How often its worker ended while it was under way."""
    alone: bool = False
    """Whether nothing else runs beside it: what ends its worker is then known."""
    pool: Executor | None = None
    """Where it runs, if not where all do."""

    @property
    def place(self) -> tuple[int | None, int | None]:
        """Stage and block; none of them for opening and finishing, no block for a whole stage."""
        if self.block is None:
            return None, None
        return self.stage, self.block if "-" in self.label else None
