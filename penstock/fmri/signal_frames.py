"""In which form signals are handed out: their type, and frames with names."""

from __future__ import annotations

from typing import Any

import numpy as np


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

        return polars.DataFrame(signals, schema=names, orient="row")
    import pandas as pd

    return pd.DataFrame(signals, columns=names, copy=False)
