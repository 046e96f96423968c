"""Look-up tables of labels: which value is which region."""

from __future__ import annotations

from collections.abc import Mapping
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


def plain_table(lut: Any) -> Any:
    """A look-up table as `ExtractLabels` takes it: a path, or pairs of value and name."""
    if lut is None or isinstance(lut, str | tuple):
        return lut
    if hasattr(lut, "columns"):
        return tuple((int(i), str(name)) for i, name in zip(lut["index"], lut["name"], strict=True))
    return str(lut)
