"""How high the memory of processes rose during a run, as far as the kernel and samples tell.

Linux keeps a high-water mark of the resident memory of every process (``VmHWM``) that never looks
away, and lets a process start a new one. It counts pages shared with other processes in full, so
that what a process shares, measured now and then, is taken off. Samples alone have to do where
there is no such mark.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import psutil

from penstock import events
from penstock.memory.accounting import MIB, pss, resident

INTERVAL = 0.02
"""Seconds between looks at memory."""
SHARE_OF_CORE = 0.02
"""What looking may take of a core: where it takes longer, looks are rarer."""
IDLE_SECONDS = 60.0
"""A worker that had nothing to do for so long stops watching: its client may be gone."""


def process_name() -> str:
    """Host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


class MemoryReading(NamedTuple):
    """Memory of a process at a moment [bytes]; zeros where it is gone."""

    now: int
    """Resident."""
    mark: int = 0
    """High-water mark of it; 0 where the kernel tells none."""
    of_files: int = 0
    """Which part of what is resident are pages of files: those it may share with others."""

    def reached(self, mark_before: int) -> int:
        """Highest since a reading with that mark: one that has not moved may be of long ago."""
        return max(self.now, self.mark) if self.mark != mark_before else self.now


class _OwnFiles:
    """Files in which the kernel tells of this process; opening them takes longer than reading."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, str], int] = {}

    def number(self, name: str, flags: int) -> int:
        """Descriptor of a file; a process that was forked has its own."""
        key = (os.getpid(), name)
        if key not in self._files:
            self._files[key] = os.open(f"/proc/self/{name}", flags | os.O_CLOEXEC)
        return self._files[key]


_own = _OwnFiles()


def read_memory(pid: int | None = None) -> MemoryReading:
    """Memory of a process at this moment (of this one by default)."""
    try:
        if pid is None:
            text = os.pread(_own.number("status", os.O_RDONLY), 8192, 0)
        else:
            with open(f"/proc/{pid}/status", "rb") as file:
                text = file.read()
        return MemoryReading(*(_kib(text, name) for name in (b"VmRSS:", b"VmHWM:", b"RssFile:")))
    except (OSError, ValueError):
        return MemoryReading(resident(pid))


def _kib(text: bytes, name: bytes) -> int:
    at = text.index(b"\n" + name) + len(name) + 1
    return int(text[at : at + 24].split(None, 1)[0]) * 1024


def _new_mark() -> bool:
    """Start a new high-water mark of this process; False where the system does not let us."""
    try:
        os.write(_own.number("clear_refs", os.O_WRONLY), b"5")
    except OSError:
        return False
    return True


@dataclass(eq=False)
class Shared:
    """What a process shares with others: that part of it counts for them.

    Only pages of files are shared. Measuring how far walks the page tables, and is done again only
    where the process has other pages of files than it had.
    """

    pid: int | None = None
    due: float = 0.0
    """When it may be measured again."""
    _bytes: int = 0
    _of_files: int = 0

    def bytes(self, reading: MemoryReading) -> int:
        """What counts for others of what was read [bytes]."""
        if not self._of_files:
            return 0
        return min(reading.of_files, self._bytes * reading.of_files // self._of_files)

    def is_stale(self, reading: MemoryReading) -> bool:
        """Whether it should be, and may be, measured again."""
        changed = abs(reading.of_files - self._of_files)
        return changed > 4 * MIB and time.monotonic() > self.due

    def measure(self) -> None:
        """Measure it."""
        began = time.perf_counter()
        reading = read_memory(self.pid)
        self._bytes = max(0, reading.now - pss(self.pid))
        # (where nothing is told of files, what is shared is taken for as constant)
        self._of_files = reading.of_files
        self.due = time.monotonic() + (time.perf_counter() - began) / SHARE_OF_CORE


# ---------------------------------------------------------------------- this process


@dataclass(eq=False)
class Record:
    """What is known of one run in this process."""

    held: bool
    """Whether the run is of this process: it says itself when it ends."""
    forget: Callable[[str], None] | None = None
    """Called where a run is given up."""
    peak: int = 0
    """Highest memory so far [bytes]."""


@dataclass(eq=False)
class Watch:
    """Follows the memory of this process while runs are at work in it; one thread for all of them.

    Two runs at once share a peak: what the process took while both were at work counts for both.
    """

    records: dict[str, Record] = field(default_factory=dict)
    highest: int = 0
    """Highest resident memory since the last `mark` [bytes]."""
    hear: Callable[[int], None] | None = None
    """Told of every look: the highest resident memory since the look before [bytes]."""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    working: int = 0
    """Tasks at work now."""
    _known_mark: int = 0
    _shared: Shared = field(default_factory=Shared)
    _ended: deque[str] = field(default_factory=lambda: deque(maxlen=256))
    _last_used: float = 0.0
    _thread: threading.Thread | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def begin(
        self, run: str, *, held: bool = False, forget: Callable[[str], None] | None = None
    ) -> None:
        """A run is at work in this process (from now on, if this is its first word)."""
        self._last_used = time.monotonic()
        known = self.records.get(run)
        if known is not None:
            known.held |= held
            return
        with self._lock:
            if run in self.records or run in self._ended:
                return  # (what comes late, of a run that was given up, is not watched)
            if not self.records:
                self._shared.measure()
            self.mark()
            self.records[run] = Record(held, forget)
            self.look()
            if self._thread is None:
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._stop,), name="penstock-memory", daemon=True
                )
                self._thread.start()

    def end(self, run: str) -> int:
        """A run has ended; its peak [bytes]. The thread ends with the last of them."""
        with self._lock:
            if run in self.records:
                self.look()
            record = self.records.pop(run, None)
            if run not in self._ended:
                self._ended.append(run)
            thread = None
            if not self.records and self._thread is not None:
                thread, self._thread = self._thread, None
                self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        return record.peak if record is not None else 0

    def has_ended(self, run: str) -> bool:
        """Whether a run was told to be over: what still comes of it is late."""
        return run in self._ended

    def peak(self, run: str) -> int:
        """Highest memory of this process since the run began here, at the last look [bytes]."""
        record = self.records.get(run)
        return record.peak if record is not None else 0

    def look(self) -> int:
        """Take note of what was reached since the last look; what is resident now [bytes]."""
        with self._lock:
            reading = read_memory()
            high = reading.reached(self._known_mark)
            self._known_mark = reading.mark
            self.highest = max(self.highest, high)
            own = high - self._shared.bytes(reading)
            for record in self.records.values():
                record.peak = max(record.peak, own)
            if self.hear is not None:
                self.hear(high)
            return reading.now

    def mark(self) -> int:
        """Begin a new stretch: `highest` is counted from here. What is resident now [bytes]."""
        with self._lock:
            now = self.look()
            if self._known_mark > now and _new_mark():
                now, self._known_mark, _ = read_memory()
            self.highest = now
            return now

    def _run(self, stop: threading.Event) -> None:
        wait = INTERVAL
        while not stop.wait(wait):
            began = time.perf_counter()
            self.look()
            wait = max(INTERVAL, (time.perf_counter() - began) / SHARE_OF_CORE)
            if self._shared.is_stale(read_memory()):
                self._shared.measure()
            if not self.working and time.monotonic() - self._last_used > IDLE_SECONDS:
                self._give_up()

    def _give_up(self) -> None:
        """Let go of runs whose client has not asked for anything in a long time."""
        for run, record in list(self.records.items()):
            if not record.held:
                self.end(run)
                self._ended.remove(run)  # (it may go on)
                if record.forget is not None:
                    record.forget(run)


WATCH = Watch()
"""Of this process."""


# ---------------------------------------------------------------------- several processes


class GroupWatch:
    """Follows the memory of several processes together, at the same moments, from outside.

    Parameters
    ----------
    tree : bool
        Whether processes that this one starts from now on belong to them, with all that those
        start. Others are added by `follow`.
    """

    def __init__(self, *, tree: bool):
        self.peak = 0
        self._tree = tree
        self._strangers: set[int] = set()
        self._followed: set[int] = set()
        self._marks: dict[int, int] = {}
        self._shared: dict[int, Shared] = {}
        self._next_search = 0.0
        self._pause = INTERVAL
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> GroupWatch:
        # (a cluster or a pool that was there before is not of this run)
        self._strangers = {child.pid for child in psutil.Process().children()}
        self._look()
        self._thread = threading.Thread(target=self._run, name="penstock-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._look()

    def follow(self, process: str) -> bool:
        """Count a process (by `process_name`) in; False where it is on another machine."""
        host, _, pid = process.rpartition(":")
        if host != socket.gethostname() or not os.path.exists(f"/proc/{pid}/status"):
            return False
        self._followed.add(int(pid))
        self._next_search = 0.0
        return True

    def _search(self) -> None:
        """Find the processes that belong to the group, and measure what they share."""
        began = time.perf_counter()
        pids = {os.getpid(), *self._followed}
        if self._tree:
            for child in psutil.Process().children():
                if child.pid not in self._strangers:
                    pids.add(child.pid)
                    with contextlib.suppress(psutil.Error):  # (it has just ended)
                        pids |= {below.pid for below in child.children(recursive=True)}
        for pid in self._shared.keys() - pids:
            del self._shared[pid]
        for pid in pids:
            shared = self._shared.setdefault(pid, Shared(pid))
            if shared.is_stale(read_memory(pid)):
                shared.measure()
        cost = time.perf_counter() - began
        self._next_search = time.monotonic() + max(0.2, cost / SHARE_OF_CORE)

    def _look(self) -> None:
        """Add up what each process reached since the look before."""
        if time.monotonic() > self._next_search:
            self._search()
        began = time.perf_counter()
        total = 0
        for pid, shared in self._shared.items():
            reading = read_memory(pid)
            total += reading.reached(self._marks.get(pid, reading.mark)) - shared.bytes(reading)
            self._marks[pid] = reading.mark
        self.peak = max(self.peak, total)
        self._pause = max(INTERVAL, (time.perf_counter() - began) / SHARE_OF_CORE)

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            self._look()


class RunWatch:
    """Follows the memory of one run, wherever it is done: entered around it.

    Processes on this machine are followed together, at the same moments. Of processes of other
    machines each says its own peak; they need not be of the same moment, and are added up.

    Parameters
    ----------
    run : str
        Its token.
    kind : {"threads", "processes", "cluster"}
        Where it is done.
    """

    def __init__(self, run: str, kind: str):
        self._run = run
        self._group = GroupWatch(tree=kind == "processes") if kind != "threads" else None
        self._peaks: dict[str, int] = {}
        self._elsewhere: set[str] = set()

    def __enter__(self) -> RunWatch:
        WATCH.begin(self._run, held=True)
        if self._group is not None:
            self._group.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._group is not None:
            self._group.__exit__()
        WATCH.end(self._run)

    def hear(self, event: events.Event) -> None:
        """Take note of the processes that work for the run."""
        if isinstance(event, events.BlockFinished) and self._group is not None:
            if event.process not in self._peaks and not self._group.follow(event.process):
                self._elsewhere.add(event.process)
            self._peaks[event.process] = max(self._peaks.get(event.process, 0), event.peak)

    @property
    def peak(self) -> int:
        """Highest memory of the run so far, all its processes together [bytes]."""
        WATCH.look()
        own = WATCH.peak(self._run)
        if self._group is None:
            return own
        # (a process may have been at its highest before it was followed)
        here = [peak for name, peak in self._peaks.items() if name not in self._elsewhere]
        together = max(self._group.peak, own, *here)
        return together + sum(self._peaks[name] for name in self._elsewhere)
