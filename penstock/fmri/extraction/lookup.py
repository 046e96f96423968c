"""Look-up tables of labels: which value is which region."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

BACKGROUND = "Background"
"""What the label that is no region is called in tables."""


def look_up_table(
    names: Mapping[int, str], given: Any, background: int | None, dtype: Any = np.int64
) -> Any:
    """Table of label values and names: the background, then every label of an atlas.

    Parameters
    ----------
    names : mapping of int to str
        Names of the labels by their values.
    given : DataFrame, path, or other
        The table that names came from, whose further columns (such as ``color``) are kept.
    background : int, optional
        The value that is no region; None where no voxel has it.
    dtype : numpy dtype
        Type of the column ``index``.

    Returns
    -------
    pandas.DataFrame
        With the columns ``index`` and ``name``, and those of the table given, in its order;
        ascending by value.
    """
    import pandas as pd

    dtype = np.dtype(dtype)
    rows = dict(names) if background is None else {background: BACKGROUND, **names}
    values = np.array(sorted(rows), dtype if dtype.kind in "iu" else np.int64)
    table = pd.DataFrame({"index": values, "name": [rows[int(value)] for value in values]})
    if not hasattr(given, "columns"):
        return table
    further = [name for name in given.columns if name not in ("index", "name")]
    rest = given.drop_duplicates("index").set_index("index")[further]
    table = table.join(rest, on="index")[list(given.columns)]
    if "color" in further and background is not None:
        table.loc[(table["index"] == background) & table["color"].isna(), "color"] = "FFFFFF"
    return table


def without_background(names: Iterable[str]) -> list[str]:
    """Names in the order of their labels, without that of the background, wherever it stands."""
    given = list(map(str, names))
    background = [name for name in given if name.strip().lower() == BACKGROUND.lower()]
    return [name for name in given if name not in background] if len(background) == 1 else given


def plain_table(lut: Any) -> Any:
    """A look-up table as `ExtractLabels` takes it: a path, or pairs of value and name.

    Raises
    ------
    ValueError
        If a table lacks a column, or an index is no whole number.
    """
    if lut is None or isinstance(lut, str | tuple):
        return lut
    if isinstance(lut, Mapping):
        rows = list(lut.items())
    elif hasattr(lut, "columns"):
        missing = [name for name in ("index", "name") if name not in lut.columns]
        if missing:
            raise ValueError(
                f"lut has no column {missing[0]!r}: it needs the columns index and name"
            )
        rows = list(zip(lut["index"], lut["name"], strict=True))
    else:
        return str(lut)
    for value, _ in rows:
        if not isinstance(value, int | float | np.number) or value != np.rint(value):
            raise ValueError(f"lut has the index {value!r}: label values are whole numbers")
    return tuple((int(value), str(name)) for value, name in rows)
