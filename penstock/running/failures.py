"""What went wrong, for people and for the run: one sentence, and whether trying again may help.

Errors do not travel between processes as they are: some cannot be pickled, some cannot even be
printed, and some (`SystemExit`) would end the worker that meets them. A task that fails returns a
`Failure`, which is text.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import random
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from penstock.errors import BudgetError, RowTooLarge
from penstock.messages import shown_text

P = ParamSpec("P")
T = TypeVar("T")

RETRIES = 6
"""How often a task is tried again after a failure that may pass."""
FIRST_WAIT = 0.5
"""Seconds before the first further try; twice as long before each of the next."""
LONGEST_WAIT = 15.0
"""Seconds between two tries at most: in all, a task is tried for about half a minute."""
LONGEST_REASON = 1000
"""Characters of a reason that are kept."""

LONGEST_TRACEBACK = 8000
"""Characters of a traceback that are kept."""

_PASSING = {
    errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENFILE, errno.EMFILE, errno.EPIPE,
    errno.ENOLCK, errno.ESTALE, errno.EREMOTEIO, errno.ECOMM, errno.EPROTO, errno.ENOBUFS,
    errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.ECONNABORTED, errno.ECONNRESET,
    errno.ENOTCONN, errno.ESHUTDOWN, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.ENOLINK,
}  # fmt: skip
"""Numbers of system errors that disks, networks and file servers give and take back."""
_PASSING_NAMES = {
    # (of libraries that read over networks, which need not be installed)
    "FSTimeoutError", "ClientConnectionError", "ServerDisconnectedError", "ClientPayloadError",
    "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "IncompleteReadError",
    "CommClosedError", "RemoteDisconnected", "IncompleteRead",
}  # fmt: skip
_WRAPPED = 8
"""How deep the causes of an error are looked through."""


@dataclass(frozen=True)
class Failure:
    """Why a task could not be done, in a form that every process can send and read."""

    reason: str
    may_pass: bool = False
    """Whether trying again may help."""
    row_too_large: bool = False
    """Whether more memory for this task alone would help."""
    larger_worker: int = 0
    """What a worker must be able to take for the task, where this one cannot [bytes]."""
    begun_before: bool = False
    """Whether the task was begun by a process that did not end it."""
    error: str = ""
    """Type of the exception, with its module."""
    traceback: str = ""
    """Where it was raised, as Python prints it."""


def of_error(error: BaseException) -> Failure:
    """The failure that an error of a task means."""
    larger = int(getattr(error, "larger_worker", 0))
    return Failure(
        one_sentence(error),
        may_pass(error),
        isinstance(error, RowTooLarge),
        larger,
        error=type_name(error),
        traceback=traceback_of(error),
    )


def type_name(error: BaseException) -> str:
    """The type of an error, as tracebacks name it."""
    kind = type(error)
    home = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return f"{home}{kind.__qualname__}"


def traceback_of(error: BaseException) -> str:
    """Where an error was raised, as Python prints it; its beginning and end, where that is long."""
    text = ""
    with contextlib.suppress(Exception):  # (some cannot even be printed)
        text = "".join(traceback.format_exception(error)).strip()
    if len(text) > LONGEST_TRACEBACK:
        half = LONGEST_TRACEBACK // 2
        text = f"{text[:half]}\n... (cut)\n{text[-half:]}"
    return shown_text(text, lines=True)


def told(task: Callable[P, T]) -> Callable[P, T | Failure]:
    """Make a task return its failure: whatever a kernel raises, it is one recording's alone."""

    @functools.wraps(task)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | Failure:
        try:
            return task(*args, **kwargs)
        except BaseException as error:
            return of_error(error)

    return guarded


def seconds_to_wait(tries: int) -> float:
    """How long to wait before try `tries` (1, 2, ...): longer each time, and never the same.

    A file server that many workers ask at once must not be asked by all of them again at once.

    Examples
    --------
    >>> from penstock.running.failures import seconds_to_wait
    >>> 0.25 <= seconds_to_wait(1) <= 0.5, 4 <= seconds_to_wait(5) <= 8
    (True, True)
    """
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (tries - 1))
    return longest * random.uniform(0.5, 1.0)


def may_pass(error: BaseException) -> bool:
    """Whether trying again may help: a network, disk or file server that has its moment.

    Errors that wrap such a one count like it.
    """
    return any(map(_passes, _causes(error)))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that led to it."""
    found: BaseException | None = error
    for _ in range(_WRAPPED):
        if found is None:
            return
        yield found
        found = found.__cause__ or found.__context__


def _passes(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if type(error).__name__ in _PASSING_NAMES:
        return True
    return isinstance(error, OSError) and _number(error) in _PASSING


def _number(error: OSError) -> int | None:
    """The system's number of an error; h5py has it in its text alone."""
    if error.errno is not None:
        return error.errno
    found = re.search(r"\berrno = (\d+)", text_of(error))
    return int(found[1]) if found else None


def text_of(error: BaseException) -> str:
    """What an error says, on one line and not without end; its kind, where it cannot be asked."""
    text = ""
    with contextlib.suppress(Exception):
        text = " ".join(str(error)[: 4 * LONGEST_REASON].split())
    if len(text) > LONGEST_REASON:
        text = f"{text[:LONGEST_REASON]} ... (cut)"
    return text or _kind(error)


def _kind(error: BaseException) -> str:
    """What an error without words is, in words."""
    kinds: dict[type[BaseException], str] = {
        SystemExit: "it ended the program (SystemExit)",
        KeyboardInterrupt: "it was interrupted (KeyboardInterrupt)",
        MemoryError: "there was not enough memory (MemoryError)",
    }
    return kinds.get(type(error), type(error).__name__)


def one_sentence(error: BaseException) -> str:
    """What went wrong, for people: one line, with the place where it happened."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            "no space left on the disk of the results: finished blocks are kept, make room and "
            "run the same command again"
        )
    text = text_of(error)
    if isinstance(error, ModuleNotFoundError) and error.name and "pip install" not in text:
        text += f": pip install {error.name.partition('.')[0]}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    named = KeyError | IndexError | AttributeError | ZeroDivisionError | MemoryError | SystemExit
    if isinstance(error, named) and text != _kind(error):
        text = f"{type(error).__name__}: {text}"
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith("in ")]
    if notes and not isinstance(error, BudgetError):
        text += f" ({notes[0]})"
    return text


class RunStopped(RuntimeError):
    """A run that cannot go on: nobody is left to work for it. What is finished is kept."""
