"""Values in messages: short, on one line, and without what steers a terminal, whatever they hold.

Names of channels, labels of events and paths come from files of others. Everything that is printed,
warned or raised passes here: a label can hold commands for the terminal, ends of lines that look
like lines of ours, or characters that turn the direction of what follows.
"""

from __future__ import annotations

import reprlib
import sys
import textwrap
import warnings
from types import FrameType
from typing import Any

LONGEST = 80
"""Characters of one value in a message."""


_NARROWEST, _LABEL = 40, 12
"""Columns: least that text is folded into, and of the labels that lines may begin with."""


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxdict = 6
        self.maxstring = self.maxother = 60

    def repr_instance(self, x: Any, level: int) -> str:
        shape = getattr(x, "shape", None)
        if isinstance(shape, tuple) and shape:
            sizes = " x ".join(map(str, shape))
            return f"<{type(x).__name__} of {sizes} {getattr(x, 'dtype', 'values')}>"
        return super().repr_instance(x, level)


_short = _Short()


def shown(value: Any) -> str:
    """A value for a message: arrays by their shape and type, long ones by their beginning.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.messages import shown
    >>> shown(np.eye(1000)), shown(list(range(1000))), shown("Hz")
    ('<ndarray of 1000 x 1000 float64>', '[0, 1, 2, 3, 4, 5, ...]', "'Hz'")
    """
    text = " ".join(_short.repr(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def shown_text(text: object, *, lines: bool = False) -> str:
    r"""Text for people, in which characters that cannot be seen stand as their codes.

    Parameters
    ----------
    text : object
        What is shown, as text.
    lines : bool, default False
        Whether it may have several lines.

    Examples
    --------
    >>> from penstock.messages import shown_text
    >>> shown_text("Fp1\x1b[2J\nCz")
    'Fp1\\x1b[2J\\nCz'
    """
    text = str(text)
    if text.isprintable():
        return text
    kept = "\n" if lines else ""
    return "".join(c if c.isprintable() or c in kept else _code(c) for c in text)


def _code(character: str) -> str:
    return repr(character)[1:-1]


def folded(text: str, width: int) -> str:
    r"""Text whose lines are no longer than a terminal is wide.

    Lines that go on stand below what they say: labelled ones, which begin with two spaces, below
    their text.

    Examples
    --------
    >>> from penstock.messages import folded
    >>> print(folded("night.edf\n  channels  Fp1, Fp2, F7, F3, Fz, F4, F8, T7, C3", 40))
    night.edf
      channels  Fp1, Fp2, F7, F3, Fz, F4,
                F8, T7, C3
    """
    lines = []
    for line in text.split("\n"):
        indent = " " * (_LABEL if line.startswith("  ") else 2)
        lines += textwrap.wrap(
            line,
            max(_NARROWEST, width),
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        ) or [""]
    return "\n".join(lines)


def shown_error(error: BaseException) -> None:
    """Let the text of an error show what it holds (`shown_text`), in place."""
    # (some classes keep what they say elsewhere: their text is made of what they keep)
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (shown_text(error.args[0], lines=True),)


_NOT_CALLERS = ("penstock.", "contextlib")
"""Modules whose lines are not those of a user."""


def warn(text: str, category: type[Warning] = UserWarning, *, stacklevel: int = 1) -> None:
    """`warnings.warn`, with a text that shows what it holds (`shown_text`).

    It points at the line that called Penstock, also where a step of ours calls another.
    """
    frame: FrameType | None = sys._getframe(stacklevel)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_NOT_CALLERS):
        frame, stacklevel = frame.f_back, stacklevel + 1
    warnings.warn(shown_text(text, lines=True), category, stacklevel=stacklevel + 1)
