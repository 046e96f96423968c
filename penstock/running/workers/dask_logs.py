"""What Dask writes to the terminal of its own accord: nothing during a run, unless asked.

A scheduler that ends is one event, which a run tells in one sentence; Dask's parts log it in sixty
lines, each from where it stands.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

LOGGERS = (
    "distributed",
    "distributed.client",
    "distributed.batched",
    "tornado",
    "tornado.application",
    "asyncio",
    "concurrent.futures",
)

_settings = {"for good": False}


def keep_dask_quiet() -> None:
    """Let `quiet_dask` last to the end of the process: what ends late is logged late."""
    _settings["for good"] = True


def was_asked_for() -> bool:
    """Whether the user's configuration of Dask says what is to be logged."""
    import dask

    return bool(dask.config.get("logging", None))


def _refuse(record: logging.LogRecord) -> bool:
    return False


@contextlib.contextmanager
def quiet_dask() -> Iterator[None]:
    """Keep what Dask logs off the terminal for a while; what a user's own handlers keep, they keep.

    Where the configuration of Dask (``logging:``, ``DASK_LOGGING__DISTRIBUTED``) says what is to be
    logged, nothing changes.
    """
    if was_asked_for():
        yield
        return
    loggers = [logging.getLogger(name) for name in LOGGERS]
    terminals = [
        handler
        for logger in loggers
        for handler in logger.handlers
        if type(handler) is logging.StreamHandler
    ]
    # (asyncio has no handler of its own: what it says goes to the last resort)
    bare = [logger for logger in loggers if not logger.hasHandlers()]
    for filtered in (*terminals, *bare):
        filtered.addFilter(_refuse)
    try:
        yield
    finally:
        for filtered in (*terminals, *bare) if not _settings["for good"] else ():
            filtered.removeFilter(_refuse)
