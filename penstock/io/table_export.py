"""Tables: a row for every volume or sample, a column for every region or channel."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from penstock.dataset import SIGNAL, make_dataset, read_region
from penstock.io.export import ExportReport
from penstock.io.left_out import left_out
from penstock.io.publish import published_file
from penstock.io.registry import MissingExtraError

if TYPE_CHECKING:
    import xarray as xr


def write_table(
    ds: xr.Dataset,
    path: str,
    format: str,
    *,
    progress: Callable[[float], None] | None,
    buffer_bytes: int,
) -> ExportReport:
    """Write ``signal`` (column, row) as a table, some rows at a time; see `penstock.io.export`.

    A signal of one dim (regions of a single volume) becomes a single row.

    Columns are called after the coordinate of the first dim (region or channel names); a first
    column holds the coordinate of the last dim (``time`` [s]) where there is one. NaN is a missing
    value: null in Parquet, an empty cell in text. What else the dataset says is in the notes.
    """
    if format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError(
            f'writing {path} needs pyarrow: pip install "penstock[fmri]", or write .csv'
        )
    signal = ds[SIGNAL]
    if signal.ndim == 1:
        ds = ds.assign({SIGNAL: ((*signal.dims, "volume"), signal.values[:, np.newaxis])})
        signal = ds[SIGNAL]
    if signal.ndim != 2:
        raise ValueError(
            f"a table has rows and columns, but the signal has the dims {dict(signal.sizes)}: "
            "export it as .zarr"
        )
    across, along = map(str, signal.dims)
    names = column_names(ds, across)
    n_rows = signal.sizes[along]
    # (values, their frame, and what the library makes of it)
    step = max(1, buffer_bytes // (4 * max(1, len(names)) * 8))

    def frame(start: int) -> pd.DataFrame:
        rows = slice(start, min(start + step, n_rows))
        values = read_region(ds, {across: slice(0, len(names)), along: rows})
        table = pd.DataFrame(values.T, columns=names)
        if along in ds.coords and along not in names:
            table.insert(0, along, ds[along].isel({along: rows}).values)
        return table

    with published_file(path) as file:
        if format == "parquet":
            import pyarrow as pa
            from pyarrow import parquet

            first = pa.Table.from_pandas(frame(0), preserve_index=False)
            with parquet.ParquetWriter(file, first.schema) as writer:
                for start in range(0, max(1, n_rows), step):
                    table = pa.Table.from_pandas(
                        frame(start), schema=first.schema, preserve_index=False
                    )
                    writer.write_table(table)
                    _tell(progress, start + step, n_rows)
        else:
            separator = "," if format == "csv" else "\t"
            for start in range(0, max(1, n_rows), step):
                text = frame(start).to_csv(sep=separator, index=False, header=start == 0)
                file.write(text.encode())
                _tell(progress, start + step, n_rows)
    return ExportReport(path, format, notes=tuple(left_out(ds, format)))


def read_table(path: Path) -> xr.Dataset:
    """A table of `write_table` as a dataset of regions and time, in memory."""
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    rate = None
    if "time" in table:
        times = table.pop("time").to_numpy()
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else None
    return make_dataset(
        table.to_numpy().T,
        ("region", "time"),
        sampling_frequency=rate,
        coords={"region": [str(name) for name in table.columns]},
    )


def column_names(ds: xr.Dataset, dim: str) -> list[str]:
    """Names of the columns, each once: of the coordinate of a dim, or the dim with a number."""
    if dim in ds.coords:
        names = [str(name) for name in ds[dim].values]
    else:
        names = [f"{dim}_{i}" for i in range(ds.sizes[dim])]
    taken = set(names)
    numbers: dict[str, int] = {}
    unique = []
    for name in names:
        found = name
        while name in numbers and found in taken:
            numbers[name] += 1
            found = f"{name}_{numbers[name]}"
        numbers.setdefault(name, 1)
        taken.add(found)
        unique.append(found)
    return unique


def _tell(progress: Callable[[float], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(float(np.clip(done / max(1, total), 0, 1)))
