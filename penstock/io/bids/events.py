"""Events as BIDS keeps them beside a recording, ``events.tsv``, as those of a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from penstock.dataset import events_table, with_events
from penstock.io.bids.names import read_tsv
from penstock.io.edf.events import SEAM
from penstock.io.mne.annotations import EXTRAS

KEPT_EVENTS = ("BAD_ACQ_SKIP", "BAD BOUNDARY", "EDGE BOUNDARY")
"""Events of the file that stay beside those of ``events.tsv``: where samples do not go on."""
_NOT_EXTRAS = ("onset", "duration", "trial_type", "stim_type")


def with_event_table(ds: xr.Dataset, file: Path, notes: list[str]) -> xr.Dataset:
    """The events of the table; of the file's own only those that say where samples do not go on."""
    table = read_tsv(file)
    if "onset" not in table:
        notes.append(f"{file.name} has no column 'onset' and is not used")
        return ds
    own = events_table(ds)
    if str(ds.attrs.get("edf_type", "")).endswith("D") and (own["label"] == SEAM).any():
        notes.append(
            f"{file.name} is not used: its onsets count the pauses that were joined in the "
            "recording"
        )
        return ds
    n_rows, onset = len(table), _numbers(table["onset"], file)
    # (what has no onset does not count where labels are made)
    table, onset = table[np.isfinite(onset)], onset[np.isfinite(onset)]
    labels = _labels(table)
    used = np.array([label is not None for label in labels], dtype=bool)
    chosen = table[used]
    duration = _numbers(chosen["duration"], file) if "duration" in table else np.zeros(len(chosen))
    rows = pd.DataFrame(
        {
            "onset": onset[used],
            "duration": np.nan_to_num(duration, nan=0.0),
            "label": pd.Series([x for x, u in zip(labels, used, strict=True) if u], dtype=object),
        }
    )
    extras = _extras(chosen)
    kept = own[[str(label).upper().startswith(KEPT_EVENTS) for label in own["label"]]]
    rows["extras"] = extras
    rows = pd.concat([rows, kept.assign(extras="{}")], ignore_index=True)
    rows = rows.sort_values("onset", kind="stable", ignore_index=True)
    ds = with_events(ds, rows)
    if any(text != "{}" for text in rows["extras"]):
        ds = ds.assign_coords({EXTRAS: ("event", rows["extras"].to_numpy(dtype=object))})
    replaced = len(own) - len(kept)
    note = f"{file.name}: {len(chosen)} event{'s' * (len(chosen) != 1)}"
    if replaced:
        note += f" in place of {replaced} of the file"
    if len(kept):
        note += f", beside {len(kept)} of the file where samples do not go on"
    if len(chosen) < n_rows:
        note += f", without {n_rows - len(chosen)} that have no onset or no type"
    notes.append(note)
    return ds


def _labels(table: pd.DataFrame) -> list[str | None]:
    """Labels as MNE-BIDS makes them: the type of trial, with the value where one type has more."""
    column = next((c for c in ("trial_type", "stim_type", "value") if c in table), None)
    if column is None:
        return ["n/a"] * len(table)
    values = table.get("value")
    if column != "value" and values is not None and table[column].isna().all():
        column = "value" if values.notna().any() else column
    labels: list[str | None] = [None if text is None else str(text) for text in table[column]]
    if values is None or column == "value":
        return labels
    written = ["na" if value is None else str(value) for value in values]
    several: dict[str | None, set[str]] = {}
    for label, value in zip(labels, written, strict=True):
        several.setdefault(label, set()).add(value)
    return [
        f"{label}/{value}" if label is not None and len(several[label]) > 1 else label
        for label, value in zip(labels, written, strict=True)
    ]


def _numbers(column: pd.Series, file: Path) -> np.ndarray:
    numbers = np.full(len(column), np.nan)
    for row, text in enumerate(column):
        try:
            numbers[row] = np.nan if text is None else float(text)
        except ValueError:
            raise ValueError(
                f"{file}: the {column.name} of row {row + 1} is no number ({text!r}): mend it"
            ) from None
    return numbers


def _extras(table: pd.DataFrame) -> list[str]:
    """What else the table says of every event, as JSON; numbers as numbers."""
    columns = {}
    for name in table.columns:
        if name not in _NOT_EXTRAS:
            texts = table[name].tolist()
            columns[str(name)] = _typed(texts)
    rows = [
        {name: values[i] for name, values in columns.items() if values[i] is not None}
        for i in range(len(table))
    ]
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def _typed(texts: list[Any]) -> list[Any]:
    """A column as whole numbers, numbers or text: what all of its values are."""
    for kind in (int, float):
        try:
            found = [None if text is None else kind(text) for text in texts]
        except ValueError:
            continue
        if all(value is None or np.isfinite(value) for value in found):
            return found
    return texts
