"""Tables: a row for every volume or sample, a column for every region or channel."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from penstock.dataset import SIGNAL, make_dataset, read_region
from penstock.formats import ExportReport, WriteOptions
from penstock.io.left_out import left_out
from penstock.io.registry import MissingExtraError
from penstock.storage.publish import KeptOpen, published_file

if TYPE_CHECKING:
    import xarray as xr

PARQUET_CHUNK_BYTES = 2048
"""What a writer of Parquet keeps of every column of every group of rows (measured)."""
COLUMN_BYTES = 1 << 20
"""Of one column in one group of a Parquet file."""


def export_parquet(ds: xr.Dataset, path: str, options: WriteOptions) -> ExportReport:
    """Write a table as Parquet; see `penstock.export`."""
    return _export("parquet", ds, path, options)


def export_csv(ds: xr.Dataset, path: str, options: WriteOptions) -> ExportReport:
    """Write a table with commas; see `penstock.export`."""
    return _export("csv", ds, path, options)


def export_tsv(ds: xr.Dataset, path: str, options: WriteOptions) -> ExportReport:
    """Write a table with tabs; see `penstock.export`."""
    return _export("tsv", ds, path, options)


def _export(format: str, ds: xr.Dataset, path: str, options: WriteOptions) -> ExportReport:
    buffer_bytes = options.buffer_bytes
    return write_table(ds, path, format, progress=options.progress, buffer_bytes=buffer_bytes)


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
    table = _Table(ds, across, along, column_names(ds, across))
    with published_file(path) as file:
        if format == "parquet":
            _write_parquet(file, table, buffer_bytes, progress)
        else:
            _write_text(file, table, "," if format == "csv" else "\t", buffer_bytes, progress)
    return ExportReport(path, format, notes=tuple(left_out(ds, format)))


@dataclass(frozen=True)
class _Table:
    """A signal of two dims as columns, the coordinate of its rows before them."""

    ds: xr.Dataset
    across: str
    along: str
    names: list[str]

    @property
    def n_rows(self) -> int:
        return int(self.ds.sizes[self.along])

    @property
    def has_places(self) -> bool:
        """Whether a first column says where rows lie."""
        return self.along in self.ds.coords and self.along not in self.names

    def places(self, rows: slice) -> np.ndarray:
        """The first column."""
        return self.ds[self.along].isel({self.along: rows}).values

    def values(self, rows: slice) -> np.ndarray:
        """Values (column, row)."""
        return read_region(self.ds, {self.across: slice(0, len(self.names)), self.along: rows})

    def parts(self, n_rows: int) -> Iterator[slice]:
        """Rows to read one after the other, `n_rows` at a time; a table without rows has one."""
        for start in range(0, max(1, self.n_rows), n_rows):
            yield slice(start, min(start + n_rows, self.n_rows))


def text_rows(n_columns: int, itemsize: int, buffer_bytes: int) -> int:
    """Rows of a table of text that are read at once: while written they are there twice."""
    return max(1, buffer_bytes // (2 * itemsize * max(1, n_columns)))


def parquet_rows(n_columns: int, n_rows: int, itemsize: int, buffer_bytes: int) -> int:
    """Rows of a group of a Parquet file.

    A group is in memory while it is written; of every group, the file says something about every
    column, which is kept to the end. What both take together is least where they take the same.
    """
    least = math.sqrt(n_rows * PARQUET_CHUNK_BYTES / itemsize)
    rows = max(int(least), buffer_bytes // (itemsize * max(1, n_columns)))
    # (what a column is encoded in takes ten times its part of a group)
    return max(1, min(rows, COLUMN_BYTES // itemsize))


def _write_text(
    file: io.FileIO,
    table: _Table,
    separator: str,
    buffer_bytes: int,
    progress: Callable[[float], None] | None,
) -> None:
    itemsize = table.ds[SIGNAL].dtype.itemsize
    names = pd.Index(table.names, dtype=object)
    bytes_out = io.BufferedWriter(KeptOpen(file), 1 << 20)
    with io.TextIOWrapper(bytes_out, "utf-8", newline="") as text:
        for rows in table.parts(text_rows(len(names), itemsize, buffer_bytes)):
            frame = pd.DataFrame(table.values(rows).T, columns=names, copy=False)
            if table.has_places:
                frame.insert(0, table.along, table.places(rows))
            # (some rows at a time become text: as many as pandas takes by itself)
            header = rows.start == 0
            frame.to_csv(text, sep=separator, index=False, header=header, lineterminator="\n")
            del frame  # (before the next one is read)
            _tell(progress, rows.stop, table.n_rows)


def _write_parquet(
    file: io.FileIO,
    table: _Table,
    buffer_bytes: int,
    progress: Callable[[float], None] | None,
) -> None:
    """Write columns as they are: a frame of pandas takes many times what wide tables do."""
    import pyarrow as pa
    from pyarrow import parquet

    dtype = table.ds[SIGNAL].dtype.newbyteorder("=")
    fields = [(name, pa.from_numpy_dtype(dtype)) for name in table.names]
    if table.has_places:
        places = table.places(slice(0, min(1, table.n_rows)))
        fields.insert(0, (table.along, pa.array(places).type))
    schema = pa.schema(fields)
    step = parquet_rows(len(table.names), table.n_rows, dtype.itemsize, buffer_bytes)
    # (measured values hardly repeat: looking for those that do takes time, memory and disk)
    repeats = dtype.kind not in "fc"
    with parquet.ParquetWriter(file, schema, use_dictionary=repeats) as writer:
        for rows in table.parts(step):
            values = table.values(rows)
            columns = [
                pa.array(np.ascontiguousarray(column, dtype), from_pandas=True) for column in values
            ]
            if table.has_places:
                columns.insert(0, pa.array(table.places(rows)))
            group = pa.Table.from_arrays(columns, schema=schema)
            writer.write_table(group, row_group_size=max(1, group.num_rows))
            del values, columns, group  # (before the next are read)
            _tell(progress, rows.stop, table.n_rows)


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
