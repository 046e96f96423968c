"""What maskers share at their edge to the user: types, frames, names of arguments, warnings."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from penstock import messages
from penstock.io.labels import unique_names


def check_signal_type(dtype: Any) -> None:
    """Raise TypeError where signals cannot have a type."""
    if dtype is None or (isinstance(dtype, str) and dtype == "auto"):
        return
    try:
        kind = np.dtype(dtype).kind
    except TypeError:
        kind = ""
    if kind not in "iufc" or not kind:
        raise TypeError(f"dtype={dtype!r} cannot be the type of signals: give a type of numbers")


def signal_frame(signals: np.ndarray, names: list[str], kind: str) -> Any:
    """Signals as a table of the kind that `set_output` knows."""
    if kind == "polars":
        import polars

        # (two regions may have one name; columns of polars may not)
        return polars.DataFrame(signals, schema=unique_names(names), orient="row")
    import pandas as pd

    return pd.DataFrame(signals, columns=names, copy=False)


def also_called_x(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method whose ``imgs`` may be given as ``X``, the name that scikit-learn has for it."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "X" in kwargs and "imgs" not in kwargs and not args:
            kwargs["imgs"] = kwargs.pop("X")
        return method(self, *args, **kwargs)

    return call


def warn_caller(message: str) -> None:
    """Warn at the line outside of Penstock from which it was called."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("penstock."):
        level, frame = level + 1, frame.f_back
    messages.warn(message, UserWarning, stacklevel=level)
