"""Signals that ask a command to end: Ctrl-C, and what batch systems and closed terminals send.

The first one lets blocks under way end, the second leaves at once, a third does not even tidy up.
Only the command line installs these handlers; a library leaves those of its program alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Terminated(SystemExit):
    """A signal other than Ctrl-C asked for the end; its code is 128 and the signal's number."""


@contextlib.contextmanager
def ending_signals() -> Iterator[None]:
    """Turn signals into exceptions of the main thread, as long as this lasts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came += 1
        if came > 2:
            os._exit(128 + number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated(128 + number)

    before: dict[signal.Signals, Any] = {}
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(one) is not signal.SIG_IGN:  # (as under nohup)
            before[one] = signal.signal(one, handle)
    try:
        yield
    finally:
        for one, handler in before.items():
            # (what comes while a stopped command ends must not change how it ends)
            signal.signal(one, signal.SIG_IGN if came else handler)
