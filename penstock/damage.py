"""Errors of readers as sentences: which file, and that it is damaged, in place of a library's text.

A damaged header leads libraries to whatever their code does with it: a shape that does not fit, a
missing key, a division by zero. What Penstock says of a file itself passes as it is.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from penstock.messages import shown_error, shown_text

_PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_OF_FILES = (OSError, ValueError, TypeError, ImportError)
"""Errors that our own sentences are raised as."""
_RAISING = ("RAISE_VARARGS", "RERAISE")
_LONGEST = 300


@contextlib.contextmanager
def readable(what: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Raise errors of libraries, while something is read, as one of ours.

    Parameters
    ----------
    what : str
        Path of what is read.
    kind : type, default ValueError
        Class of the error that is raised.
    """
    try:
        yield
    except Exception as error:
        shown_error(error)
        if isinstance(error, _OF_FILES) and _is_ours(error.__traceback__):
            raise
        if isinstance(error, ImportError) or (isinstance(error, OSError) and error.errno):
            raise
        if isinstance(error, MemoryError):
            raise kind(f"{what} cannot be read: it takes more memory than there is") from error
        text = " ".join(str(error).split())
        text = f"{type(error).__name__}: {text}" if isinstance(error, LookupError) else text
        text = shown_text(text)[:_LONGEST] or type(error).__name__
        raise kind(
            f"{what} cannot be read ({text}): it is damaged, or not what its name says; copy or "
            "export it again"
        ) from error


def _is_ours(traceback: TracebackType | None) -> bool:
    """Whether a statement of ours raised the error, not a library that we called."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return True
    code = traceback.tb_frame.f_code
    if not os.path.abspath(code.co_filename).startswith(_PACKAGE):
        return False
    # (what compiled code raises, which has no frame, comes out of a call and not of a `raise`)
    return dis.opname[code.co_code[traceback.tb_lasti]] in _RAISING


def is_own_reader(function: Any) -> bool:
    """Whether a reader belongs to Penstock; others say what is wrong in their own words."""
    while isinstance(function, functools.partial):
        function = function.func
    module = getattr(function, "__module__", None) or type(function).__module__
    return str(module).split(".")[0] == "penstock"


def source_of(read: Any) -> str:
    """The file that a function reads regions of, where it says so."""
    found = getattr(read, "path", None)
    if found is None and isinstance(read, functools.partial) and read.args:
        found = read.args[0]
    if found is None:
        found = source_of(inner) if (inner := getattr(read, "region", None)) else None
    return str(found) if isinstance(found, str | os.PathLike) else "the file of the dataset"
