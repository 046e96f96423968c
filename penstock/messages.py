"""Values in messages: short, and on one line, whatever they hold."""

from __future__ import annotations

import reprlib
from typing import Any

LONGEST = 80
"""Characters of one value in a message."""


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
