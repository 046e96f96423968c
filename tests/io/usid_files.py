"""h5USID files as instruments and old and new software write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Dimensions = Mapping[str, tuple[Sequence[float], str]]
"""Label to values and unit, from slowest to fastest."""


def grid_tables(dimensions: Dimensions) -> tuple[np.ndarray, np.ndarray]:
    """Indices and values (dimensions, entries) of a full grid."""
    sizes = [len(values) for values, _ in dimensions.values()]
    indices = np.array(list(np.ndindex(*sizes))).T.reshape(len(sizes), -1)
    values = [np.asarray(v)[i] for (v, _), i in zip(dimensions.values(), indices, strict=True)]
    return indices, np.array(values, dtype=np.float64)


def write_tables(
    group: h5py.Group,
    side: str,
    indices: np.ndarray,
    values: np.ndarray,
    labels: Sequence[str],
    units: Sequence[str],
    *,
    fast_first: bool = False,
    region_references: bool = False,
    as_text: bool = False,
) -> None:
    """The two ancillary tables of a side, given as (dimensions, entries), slowest first."""
    order = slice(None, None, -1 if fast_first else 1)
    for name, table, dtype in (("Indices", indices, "u4"), ("Values", values, "f4")):
        data = np.asarray(table)[order].astype(dtype)
        dataset = group.create_dataset(
            f"{side}_{name}", data=data.T if side == "Position" else data
        )
        if as_text:
            dataset.attrs["labels"] = list(labels)[order]
            dataset.attrs["units"] = list(units)[order]
        else:
            dataset.attrs["labels"] = np.array(list(labels)[order], dtype="S")
            dataset.attrs["units"] = np.array([u.encode() for u in units][order], dtype="S")
        if region_references:
            for row, label in enumerate(list(labels)[order]):
                part = np.s_[:, row] if side == "Position" else np.s_[row, :]
                dataset.attrs[label] = dataset.regionref[part]


def write_main(
    group: h5py.Group, values: np.ndarray, name: str = "Raw_Data", **options: Any
) -> h5py.Dataset:
    """A table of values with quantity, units and references to the tables of its group."""
    dataset = group.create_dataset(name, data=values, **options)
    dataset.attrs["quantity"], dataset.attrs["units"] = "Amplitude", "m"
    link(dataset, group)
    return dataset


def link(dataset: h5py.Dataset, tables: h5py.Group) -> None:
    for side in ("Position", "Spectroscopic"):
        for name in ("Indices", "Values"):
            dataset.attrs[f"{side}_{name}"] = tables[f"{side}_{name}"].ref


POSITIONS: Dimensions = {"Y": ([0.0, 0.5, 1.5], "um"), "X": ([-2.0, -1.0, 0.0, 4.0], "um")}
SPECTRA: Dimensions = {"Bias": ([-1.0, 1.0], "V"), "Frequency": ([10.0, 20.0, 30.0], "kHz")}


def write_usid_file(
    path: Path,
    values: np.ndarray | None = None,
    positions: Dimensions = POSITIONS,
    spectra: Dimensions = SPECTRA,
    *,
    channels: int = 1,
    fast_first: bool = False,
    region_references: bool = False,
    as_text: bool = False,
    **options: Any,
) -> np.ndarray:
    """A full grid in as many channels; returns the values (channel, *positions, *spectra)."""
    shape = tuple(len(v) for v, _ in (*positions.values(), *spectra.values()))
    n_rows = int(np.prod(shape[: len(positions)]))
    if values is None:
        rng = np.random.default_rng(0)
        values = rng.standard_normal((channels, *shape)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file.attrs["instrument"] = "synthetic"
        measurement = file.create_group("Measurement_000")
        measurement.attrs.update({"lever": b"soft", "rates": [1, 2], "code": "__import__('os')"})
        for channel in range(channels):
            group = measurement.create_group(f"Channel_{channel:03d}")
            for side, dimensions in (("Position", positions), ("Spectroscopic", spectra)):
                write_tables(
                    group,
                    side,
                    *grid_tables(dimensions),
                    list(dimensions),
                    [unit for _, unit in dimensions.values()],
                    fast_first=fast_first,
                    region_references=region_references,
                    as_text=as_text,
                )
            write_main(group, values[channel].reshape(n_rows, -1), **options)
    return values
