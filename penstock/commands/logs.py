"""``--verbose`` and ``--log-file``: what a command does, told by the logger ``penstock``."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.commands.options import with_options
from penstock.local_paths import local_path
from penstock.messages import shown_text

LOGGER = logging.getLogger("penstock")


class _Shown(logging.Formatter):
    """Lines in which names from files cannot steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return shown_text(super().format(record), lines=True)


def _wanted(
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            help="Tell of every recording, instead of progress; twice (-vv): of every block too.",
        ),
    ] = 0,
    log_file: Annotated[
        Path | None,
        typer.Option(
            "--log-file", help="Add everything to this file: recordings, blocks, tracebacks."
        ),
    ] = None,
) -> dict[str, Any]:
    """How much is told, and into which file."""
    return {"verbose": verbose, "log_file": log_file}


def tells_what_it_does(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `_wanted`; told in full, it shows no progress beside."""

    @functools.wraps(command)
    def told(logs: dict[str, Any], **given: Any) -> Any:
        if logs["verbose"]:
            given["quiet"] = True
        with logged(**logs):
            return command(**given)

    return with_options(told, _wanted, "logs")


@contextlib.contextmanager
def logged(verbose: int, log_file: Path | None) -> Iterator[None]:
    """Log on standard error, and into a file, as long as this lasts."""
    handlers: list[logging.Handler] = []
    if verbose:
        shown = logging.StreamHandler(sys.stderr)
        shown.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
        shown.setFormatter(_Shown("penstock: %(asctime)s %(message)s", "%H:%M:%S"))
        handlers.append(shown)
    if log_file is not None:
        kept = logging.FileHandler(local_path(log_file), encoding="utf-8")
        kept.setFormatter(_Shown("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(kept)
    before = LOGGER.level, LOGGER.propagate
    if handlers:
        LOGGER.setLevel(logging.DEBUG)
        LOGGER.propagate = False
    for handler in handlers:
        LOGGER.addHandler(handler)
    try:
        LOGGER.debug("penstock %s", " ".join(sys.argv[1:]))
        yield
    except Exception as error:
        if not hasattr(error, "exit_code"):  # (with which a command ends of its own accord)
            LOGGER.debug("the command ended with an error", exc_info=True)
        raise
    finally:
        for handler in handlers:
            LOGGER.removeHandler(handler)
            handler.close()
        LOGGER.setLevel(before[0])
        LOGGER.propagate = before[1]
