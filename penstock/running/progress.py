"""Progress of a run: a bar in a terminal or a notebook, quiet lines in a log."""

from __future__ import annotations

import html
import sys
import time
from typing import Any, Protocol, TypeGuard

from penstock import events
from penstock.memory.accounting import format_bytes
from penstock.messages import shown_text

LOG_INTERVAL = 30.0
"""Seconds between lines where nobody watches."""
UPDATE_INTERVAL = 0.1
"""Seconds between changes of a bar: blocks may follow each other faster than anybody looks."""
NAMED = 20
"""So many recordings are named that fail or go on; of thousands the report says the rest."""
SHOW_AFTER = 2.0
"""Seconds of work after which progress is shown where nobody asked for it or against it."""


_FREQUENT = (events.BlockFinished, events.RecordingPlanned, events.RecordingFinished)


class ProgressListener(Protocol):
    """Hears events and shows how far a run is."""

    def __call__(self, event: events.Event) -> None:
        """Take note of an event."""

    def close(self) -> None:
        """Leave the display as it should stay."""


def progress_listener(show: bool | None) -> ProgressListener | None:
    """The kind of progress that suits where we are; None where it is switched off."""
    if show is False:
        return None
    if _in_notebook():
        return NotebookProgress()
    if sys.stderr.isatty():
        return TerminalProgress()
    return LogProgress()


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return type(get_ipython()).__name__ == "ZMQInteractiveShell"


class Tally:
    """How much is done, how fast, how long still: shared by all displays."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.recordings = self.done = self.failed = 0
        self.blocks = self.blocks_total = 0
        self.bytes = 0
        self.blocks_here = 0
        self._under_way: dict[str, list[int]] = {}
        self.overruns = 0

    def hear(self, event: events.Event) -> None:
        """Take note of an event."""
        if isinstance(event, events.RunStarted):
            self.recordings = event.recordings
        elif isinstance(event, events.RecordingPlanned):
            self.blocks_total += event.blocks
            self.blocks += event.finished
            self._under_way[event.name] = [event.finished, event.blocks]
        elif isinstance(event, events.BlockFinished):
            if event.name in self._under_way:
                self._under_way[event.name][0] += 1
            self.blocks += 1
            self.blocks_here += 1
            self.bytes += event.bytes_in
        elif isinstance(event, events.MemoryOverrun):
            self.overruns += 1
        elif isinstance(event, events.RecordingFinished | events.RecordingFailed):
            self.done += 1
            self.failed += isinstance(event, events.RecordingFailed)
            self._under_way.pop(event.name, None)

    @property
    def fraction(self) -> float:
        """Part of the work that is done, 0 to 1."""
        if self.recordings > 1:
            parts = sum(done / max(1, n) for done, n in self._under_way.values())
            return min(1.0, (self.done + 0.99 * parts) / self.recordings)
        return self.blocks / max(1, self.blocks_total)

    @property
    def rate(self) -> float:
        """Source bytes per second."""
        return self.bytes / max(1e-6, time.monotonic() - self.began)

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the time left; None before there is anything to go by."""
        elapsed = time.monotonic() - self.began
        if not self.fraction or not (self.blocks_here or self.done):
            return None
        return elapsed * (1 - self.fraction) / self.fraction

    def text(self) -> str:
        """One line."""
        parts = []
        if self.recordings > 1:
            parts.append(f"{self.done}/{self.recordings} recordings")
        if self.blocks_total:
            parts.append(f"{self.blocks}/{self.blocks_total} blocks")
        elif not self.done:
            parts.append("opening and planning")
        if self.bytes:
            parts.append(f"{format_bytes(self.rate)}/s")
        if self.overruns:
            parts.append("more memory than planned")
        if self.failed:
            parts.append(f"{self.failed} failed")
        left = self.seconds_left
        if left is not None and self.fraction < 1:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds for people."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}:{seconds:02d} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d} h"


class TerminalProgress:
    """A rich bar with rate and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self.tally = Tally()
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._progress.start()
        self._bar = self._progress.add_task("planning", total=1.0)
        self._shown = 0.0

    def __call__(self, event: events.Event) -> None:
        from rich.markup import escape

        self.tally.hear(event)
        if isinstance(event, events.RecordingFailed):
            if self.tally.failed > NAMED:
                return  # (how many they are stands in the bar)
            # (the reason stands in the report: here it would be said twice)
            self._progress.console.print(f"[red]failed[/] {escape(shown_text(event.name))}")
        elif isinstance(event, events.RunWaits):
            self._progress.console.print(escape(f"penstock: {shown_text(event.reason)}"))
        elif isinstance(event, events.MemoryOverrun):
            told = shown_text(str(event.overrun))
            self._progress.console.print(f"[yellow]memory[/] {escape(told)}")
        if time.monotonic() - self._shown < UPDATE_INTERVAL and event.__class__ in _FREQUENT:
            return
        self._shown = time.monotonic()
        self._progress.update(
            self._bar, completed=self.tally.fraction, description=self.tally.text()
        )

    def close(self) -> None:
        self._progress.stop()


class NotebookProgress:
    """A bar in a notebook's output cell, updated in place; needs no widgets."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self.tally = Tally()
        self._html = HTML
        self._shown = 0.0
        self._waits = ""
        self._display: Any = display(HTML(self._page()), display_id=True)

    def _page(self) -> str:
        percent = 100 * self.tally.fraction
        known = self.tally.blocks_total or self.tally.done
        value, told = (f' value="{percent:.1f}"', f"{percent:.0f} % ") if known else ("", "")
        return (
            f'<div><progress max="100"{value} style="width:20em;max-width:50%"></progress> '
            f"{told}{html.escape(self.tally.text())}"
            f"{'<br>' if self._waits else ''}{html.escape(self._waits)}</div>"
        )

    def __call__(self, event: events.Event) -> None:
        self.tally.hear(event)
        now = time.monotonic()
        waits = event.reason if isinstance(event, events.RunWaits) else ""
        if waits != self._waits or now - self._shown > 0.2 or isinstance(event, events.RunFinished):
            self._waits = waits
            self._shown = now
            self._display.update(self._html(self._page()))

    def close(self) -> None:
        self._display.update(self._html(self._page()))


class LogProgress:
    """Plain lines: at the start, every half minute, for failures, at the end."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._notes = 0
        self._said = time.monotonic()

    def __call__(self, event: events.Event) -> None:
        self.tally.hear(event)
        if isinstance(event, events.RunStarted):
            self._say(
                f"{event.recordings} recording{'s' if event.recordings > 1 else ''}"
                + f", {event.concurrency} workers, budget {format_bytes(event.budget)}"
                * bool(event.budget)
            )
        elif isinstance(event, events.RecordingFailed) and self.tally.failed <= NAMED:
            self._say(f"failed {event.name}")  # (the reason stands in the report)
        elif isinstance(event, events.MemoryOverrun):
            self._say(f"more memory than planned: {event.overrun}")
        elif self._has_note(event) and self._notes < NAMED:
            self._notes += 1
            self._say(f"{event.name}: {event.note}")
        elif isinstance(event, events.RunWaits):
            self._say(event.reason)
        elif isinstance(event, events.RunFinished):
            self._say(f"{self.tally.text()} in {duration(event.seconds)}")
        elif time.monotonic() - self._said > LOG_INTERVAL:
            self._say(self.tally.text())

    @staticmethod
    def _has_note(event: events.Event) -> TypeGuard[events.RecordingPlanned]:
        return isinstance(event, events.RecordingPlanned) and bool(event.note)

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        print(f"penstock: {shown_text(text)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class LateProgress:
    """Progress of work on blocks that is often done before a bar would be of use.

    Parameters
    ----------
    show : bool, optional
        True and False: show it or not. Default: show it once the work has taken two seconds.
    workers, budget : int
        What the display says of the work.
    """

    def __init__(self, show: bool | None, workers: int, budget: int):
        self._show, self._workers, self._budget = show, workers, budget
        self._listener: ProgressListener | None = None
        self._began = time.monotonic()
        self._planned = self._done = 0

    def begin(self, n_blocks: int) -> None:
        """So many more blocks are to be done."""
        self._planned += n_blocks
        if self._listener is not None:
            self._listener(events.RecordingPlanned("", {}, n_blocks, 0))

    def step(self, n_bytes: int) -> None:
        """A block is done, of so many bytes of the source."""
        self._done += 1
        if self._listener is not None:
            self._listener(events.BlockFinished("", 0, self._done, n_bytes, 0))
        elif self._show or (self._show is None and time.monotonic() - self._began > SHOW_AFTER):
            self._open()

    def _open(self) -> None:
        self._listener = progress_listener(True)
        assert self._listener is not None
        self._listener(events.RunStarted(1, self._workers, self._budget))
        self._listener(events.RecordingPlanned("", {}, self._planned, self._done))

    def close(self) -> None:
        """Leave the display as it should stay."""
        if self._listener is not None:
            self._listener(events.RunFinished(time.monotonic() - self._began))
            self._listener.close()
