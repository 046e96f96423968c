"""What a run does, for the logger ``penstock``: nothing is shown unless somebody listens.

Recordings are told at the level INFO, what goes wrong at WARNING and ERROR, blocks and tracebacks
at DEBUG. A program decides where that goes, with handlers of `logging` as for any other library.
"""

from __future__ import annotations

import logging
import time

from penstock import events
from penstock.memory.accounting import format_bytes
from penstock.running.progress import LOG_INTERVAL, Tally, duration

LOGGER = logging.getLogger("penstock")
LOGGER.addHandler(logging.NullHandler())


_LEVELS: dict[type[events.Event], int] = {
    events.BlockFinished: logging.DEBUG,
    events.BlockRetried: logging.WARNING,
    events.RunWaits: logging.WARNING,
    events.MemoryOverrun: logging.WARNING,
    events.RecordingFailed: logging.ERROR,
}
"""Levels of events that are not told at INFO."""


class RunLog:
    """Hears the events of a run and logs them."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._told = time.monotonic()

    def __call__(self, event: events.Event) -> None:
        """Log an event, where somebody listens."""
        self.tally.hear(event)
        level = _LEVELS.get(type(event), logging.INFO)
        if LOGGER.isEnabledFor(level):
            LOGGER.log(level, "%s", _text(event))
        if isinstance(event, events.RecordingFailed) and event.traceback:
            LOGGER.debug("%s: failed here:\n%s", event.name, event.traceback)
        if time.monotonic() - self._told > LOG_INTERVAL:
            self._told = time.monotonic()
            LOGGER.info("%s", self.tally.text())


def _text(event: events.Event) -> str:
    """An event in a line."""
    if isinstance(event, events.RunStarted):
        budget = format_bytes(event.budget)
        return (
            f"run of {event.recordings} recording{'s' * (event.recordings != 1)}, "
            f"{event.concurrency} workers, budget {budget}"
        )
    if isinstance(event, events.RecordingPlanned):
        peak = format_bytes(event.plan["predicted_memory"]) if event.plan else "unknown"
        blocks = f"{event.blocks} block{'s' * (event.blocks != 1)}"
        there = f", {event.finished} of them finished" if event.finished else ""
        note = f" ({event.note})" if event.note else ""
        return f"{event.name}: planned, {blocks}{there}, predicted peak {peak}{note}"
    if isinstance(event, events.BlockFinished):
        times = ", ".join(f"{step} {seconds:.3f} s" for step, seconds in event.seconds.items())
        return (
            f"{event.name}: block {event.block} of stage {event.stage + 1} by {event.process}: "
            f"{format_bytes(event.bytes_in)} read, {format_bytes(event.bytes_out)} made ({times})"
        )
    if isinstance(event, events.BlockRetried):
        what = "" if event.block is None else f"block {event.block} of stage {event.stage + 1} "
        return f"{event.name}: {what}is tried again: {event.reason}"
    if isinstance(event, events.RunWaits):
        return event.reason
    if isinstance(event, events.MemoryOverrun):
        return f"more memory than planned: {event.overrun}"
    if isinstance(event, events.RecordingFinished):
        how = "is there already" if event.skipped else "done"
        note = f" ({event.note})" if event.note else ""
        return f"{event.name}: {how}, {event.target}{note}"
    if isinstance(event, events.RecordingFailed):
        return f"{event.name}: failed: {event.reason}"
    if isinstance(event, events.RunFinished):
        how = "interrupted" if event.interrupted else "ended"
        return f"run {how} after {duration(event.seconds)}"
    return repr(event)
