"""Writing h5USID: results beside the measurement they were made of, and files of their own.

Values of dimensions are kept in float64 (other writers round them to float32). What is written is
streamed block after block.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import math
import os
import platform
import re
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import xarray as xr

import penstock
from penstock.attributes import nested_attribute, provenance
from penstock.dataset import SIGNAL, Region, check_dataset
from penstock.formats import BUFFER_BYTES
from penstock.io.hdf5.append import appended, check_appendable
from penstock.io.hdf5.contents import attributes
from penstock.io.hdf5.links import open_tree
from penstock.io.hdf5.usid import TABLES, find_main, sides
from penstock.io.hdf5.usid_tables import (
    POSITION,
    SINGLE_POSITION,
    SINGLE_STEP,
    Side,
    Table,
    equal_tables,
    table_of,
    write_tables,
)
from penstock.local_paths import local_path
from penstock.storage.store import fill_shape


def write_usid_results(
    h5_path: str | os.PathLike[str],
    main: str | None,
    name: str,
    results: xr.Dataset,
    *,
    parameters: Mapping[str, Any] | None = None,
    tool: str | None = None,
) -> str:
    """Write results into an h5USID file, in a group beside the main dataset they were made of.

    Parameters
    ----------
    h5_path : path-like
        The file, which no other program has open.
    main : str or None
        Name of the main dataset, or an end of it that only one has; None: the only one.
    name : str
        What was done, e.g. ``"SHO_Fit"``. The group is named ``{Main}-{name}_{NNN}`` with the next
        free number; characters that have a meaning there (``-``, ``/``) become ``_``.
    results : xarray.Dataset
        Variables over the position dims of the main dataset, as `penstock.open_dataset` gives
        them, or over ``position`` in the order of the file; further dims (parameter, peak,
        spectroscopic ones) are what USID calls spectroscopic. Every variable becomes a main
        dataset of its own, with ``long_name`` and ``units`` from its attributes. Names along a dim
        (parameters) are kept in an attribute ``{dim}_names`` of its table.
    parameters : mapping, optional
        Written as attributes of the group; nested values as JSON text. None is left out.
    tool : str, optional
        Attribute ``tool`` of the group. Default: `name`.

    Returns
    -------
    str
        Full name of the new group.

    Raises
    ------
    OSError, ValueError
        If the file cannot be written, or the results do not fit the main dataset. The file is then
        as it was.

    Notes
    -----
    Results are first computed into a file of their own beside the target (``.NAME.*.part``) and
    then added in one go (`penstock.io.hdf5.append.appended`): the measurement is untouched at any
    moment, and a process killed in the middle leaves an unchanged file (and the part, which can be
    deleted), or one that the next opening completes.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, penstock as ps
    >>> path = os.path.join(tempfile.mkdtemp(), "scan.h5")
    >>> scan = ps.make_dataset(np.ones((8, 9, 119)), ("y", "x", "frequency"), units="pm")
    >>> _ = ps.io.write_usid(scan, path)
    >>> maxima = ps.open_dataset(path).max("frequency").rename(signal="maximum")
    >>> ps.io.write_usid_results(path, None, "Maximum", maxima)
    '/Measurement_000/Channel_000/Raw_Data-Maximum_000'
    """
    path = local_path(h5_path)
    if not results.data_vars:
        raise ValueError("the results hold no variable: there is nothing to write")
    with open_tree(path) as tree:
        _, dataset = find_main(tree, main, path)
        if dataset.file != tree.file:
            raise ValueError(
                f"{main} of {path} is a link to {dataset.name} of {dataset.file.filename}: write "
                "the results into that file"
            )
        source, (positions, spectra) = dataset.name, sides(tree, dataset)
    pieces = _pieces(results, positions, spectra, f"{source} of {path}")
    attrs = _group_attributes(name, tool, parameters, results)
    check_appendable(path)
    with _part(path) as staged, h5py.File(staged, "w") as stage:
        for piece in pieces:
            _write_main(stage, piece)
        made = {piece.prefix: piece.columns for piece in pieces if piece.columns is not None}
        for prefix, table in made.items():
            write_tables(stage, prefix, table, axis=1)
        with appended(path) as file:
            group = file[source].parent.create_group(_group_name(file[source], name))
            group.attrs.update(attrs)
            group.attrs["source_000"] = file[source].ref
            for item in stage:
                stage.copy(item, group)
            for piece in pieces:
                _link(group, piece, file[source])
            return str(group.name)


def write_usid(
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    position_dims: Sequence[str] | None = None,
    overwrite: bool = False,
) -> str:
    """Write the signal of a dataset to a new h5USID file.

    Parameters
    ----------
    ds : xarray.Dataset
        A Penstock dataset. The signal keeps its type.
    path : path-like
        The new file. It gets its name when it is complete.
    position_dims : sequence of str, optional
        Dims of the signal that are positions (rows of the table); the others are spectroscopic.
        Default: ``ds.attrs["position_dims"]``, otherwise all dims but the last.
    overwrite : bool, default False
        Whether an existing file is replaced.

    Returns
    -------
    str
        Full name of the main dataset: ``/Measurement_000/Channel_000/Raw_Data``.

    Raises
    ------
    FileExistsError
        If the file exists and is not to be replaced.
    ValueError
        If `position_dims` names other dims than the signal's.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, penstock as ps
    >>> path = os.path.join(tempfile.mkdtemp(), "spectra.h5")
    >>> ds = ps.make_dataset(np.zeros((8, 8, 100)), ("y", "x", "frequency"), units="V")
    >>> ps.io.write_usid(ds, path)
    '/Measurement_000/Channel_000/Raw_Data'
    """
    check_dataset(ds)
    path = local_path(path)
    if os.path.exists(path) and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name, or give overwrite=True")
    dims = tuple(map(str, ds[SIGNAL].dims))
    if position_dims is None:
        known = [str(dim) for dim in ds.attrs.get("position_dims", ())]
        position_dims = known if known and set(known) <= set(dims) else dims[:-1]
    unknown = [dim for dim in position_dims if dim not in dims]
    if unknown:
        raise ValueError(f"position_dims: {', '.join(unknown)} are no dims of the signal {dims}")
    rows = table_of(ds, [dim for dim in dims if dim in position_dims], SINGLE_POSITION)
    columns = table_of(ds, [dim for dim in dims if dim not in position_dims], SINGLE_STEP)
    piece = _Piece("Raw_Data", ds, SIGNAL, rows.dims, "", columns)
    with _part(path) as temporary:
        with h5py.File(temporary, "w") as file:
            group = file.create_group("Measurement_000/Channel_000")
            file.attrs.update({"data_type": "h5USID", **_bookkeeping()})
            merged: dict[str, Any] = {}
            for values in nested_attribute(ds.attrs, "metadata").values():
                merged.update(values)
            file["Measurement_000"].attrs.update(attributes(merged))
            _write_main(group, piece)
            write_tables(group, "", rows, axis=0)
            write_tables(group, "", columns, axis=1)
            _link(group, piece, None)
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    return "/Measurement_000/Channel_000/Raw_Data"


@contextlib.contextmanager
def _part(path: str) -> Iterator[str]:
    """Name of a file beside `path` that is gone at the end, unless it was renamed."""
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
    except PermissionError as error:
        raise OSError(f"nothing can be written in {folder}: make it writable") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


# ---------------------------------------------------------------------- what is written


@dataclass(frozen=True)
class _Piece:
    """One main dataset to write."""

    name: str
    ds: xr.Dataset
    variable: str
    row_dims: tuple[str, ...]
    prefix: str
    """Of the names of its spectroscopic tables."""
    columns: Table | None
    """None: those of the source."""


def _pieces(results: xr.Dataset, positions: Side, spectra: Side, source: str) -> list[_Piece]:
    pieces: list[_Piece] = []
    for key in map(str, results.data_vars):
        variable = results[key]
        dims = tuple(map(str, variable.dims))
        rows = _row_dims(results, key, positions, source)
        if variable.dtype.kind not in "biufc":
            raise ValueError(
                f"{key!r} holds {variable.dtype}, not numbers: leave it out with "
                f"results.drop_vars({key!r})"
            )
        name, prefix = _plain_name(key), ""
        if name in {piece.name for piece in pieces}:
            raise ValueError(f"two variables would be named {name!r} in the file: rename one")
        rest = [dim for dim in dims if dim not in rows]
        columns = None
        if not _same_dims(results, rest, spectra):
            columns = table_of(results, rest, SINGLE_STEP)
            others = [piece for piece in pieces if piece.columns is not None]
            equal = [piece for piece in others if equal_tables(piece.columns, columns)]
            prefix = equal[0].prefix if equal else (f"{name}_" if others else "")
        pieces.append(_Piece(name, results, key, rows, prefix, columns))
    return pieces


def _row_dims(results: xr.Dataset, key: str, positions: Side, source: str) -> tuple[str, ...]:
    """The dims of a variable that are the source's positions, all of them in its order."""
    dims, rows, sizes = results[key].dims, positions.dims, positions.shape
    if POSITION in dims and POSITION not in rows:
        rows, sizes = (POSITION,), (math.prod(positions.shape),)
    if not set(rows) <= set(dims):
        raise ValueError(
            f"{key!r} has the dims {dims}, without the position dims {rows} of {source}: "
            f"leave it out with results.drop_vars({key!r})"
        )
    for dim, size in zip(rows, sizes, strict=True):
        same = results.sizes[dim] == size
        if same and dim in positions.coords and dim in results.coords:
            known, given = positions.coords[dim].values, results.coords[dim].values
            if {known.dtype.kind, given.dtype.kind} <= set("biuf"):
                same = np.allclose(known, given, rtol=1e-6, atol=0, equal_nan=True)
        if not same:
            raise ValueError(
                f"{key!r} has other positions along {dim} than the {size} of {source}: write "
                "results of a part to a file of their own with penstock.io.write_usid"
            )
    return rows


def _same_dims(results: xr.Dataset, dims: Sequence[str], spectra: Side) -> bool:
    """Whether dims are the source's spectroscopic ones, unchanged."""
    if tuple(dims) != spectra.dims or tuple(results.sizes[dim] for dim in dims) != spectra.shape:
        return False
    return all(
        np.array_equal(results[name].values, variable.values)
        for name, variable in spectra.coords.items()
        if name in results.coords
    )


# ---------------------------------------------------------------------- writing


def _write_main(group: h5py.Group, piece: _Piece) -> None:
    """Values as positions by spectroscopic steps, block after block, with quantity and units."""
    variable = piece.ds[piece.variable]
    dims = tuple(map(str, variable.dims))
    columns = tuple(dim for dim in dims if dim not in piece.row_dims)
    order = (*piece.row_dims, *columns)
    shapes = [tuple(piece.ds.sizes[dim] for dim in side) for side in (piece.row_dims, columns)]
    dataset = group.create_dataset(piece.name, tuple(map(math.prod, shapes)), variable.dtype)
    for box in _boxes(variable.transpose(*order).variable):
        region: Region = dict(zip(order, box, strict=True))
        values = variable.isel(region).transpose(*order).values
        n = len(piece.row_dims)
        rows, cols = _runs(shapes[0], box[:n]), _runs(shapes[1], box[n:])
        row, col = rows[0].stop - rows[0].start, cols[0].stop - cols[0].start
        blocks = values.reshape(len(rows), row, len(cols), col)
        for i, j in itertools.product(range(len(rows)), range(len(cols))):
            dataset[rows[i], cols[j]] = blocks[i, :, j]
    dataset.attrs.update(attributes(variable.attrs))
    dataset.attrs["quantity"] = str(variable.attrs.get("long_name", piece.variable))
    dataset.attrs["units"] = str(variable.attrs.get("units", ""))
    dataset.attrs.update(_bookkeeping())


def _boxes(variable: xr.Variable) -> Iterator[tuple[slice, ...]]:
    """Regions to compute at once: the chunks of dask, else as much as is worth a write."""
    if variable.chunks is not None:
        lengths = [list(chunks) for chunks in variable.chunks]
    else:
        n_elements = max(1, BUFFER_BYTES // variable.dtype.itemsize)
        box = fill_shape(variable.shape, n_elements)
        lengths = [
            [min(unit, size - at) for at in range(0, size, unit)]
            for unit, size in zip(box, variable.shape, strict=True)
        ]
    edges = [list(itertools.accumulate(parts, initial=0)) for parts in lengths]
    yield from itertools.product(*([slice(*pair) for pair in itertools.pairwise(e)] for e in edges))


def _runs(shape: tuple[int, ...], box: tuple[slice, ...]) -> list[slice]:
    """A box as stretches of the one axis that its dims make (C order)."""
    if not shape:
        return [slice(0, 1)]
    inner = len(shape) - 1
    while inner and (box[inner].start, box[inner].stop) == (0, shape[inner]):
        inner -= 1
    step = math.prod(shape[inner + 1 :])
    n = (box[inner].stop - box[inner].start) * step
    runs = []
    for where in itertools.product(*(range(part.start, part.stop) for part in box[:inner])):
        start = np.ravel_multi_index((*where, box[inner].start), shape[: inner + 1])
        runs.append(slice(int(start) * step, int(start) * step + n))
    return runs


def _link(group: h5py.Group, piece: _Piece, source: h5py.Dataset | None) -> None:
    dataset = group[piece.name]
    for name in TABLES:
        kept = name.startswith("Position") or piece.columns is None
        if source is not None and kept:
            table = group.file[source.attrs[name]]
        else:
            table = group[f"{piece.prefix}{name}"]
        dataset.attrs[name] = table.ref


# ---------------------------------------------------------------------- names and attributes


def _plain_name(name: str) -> str:
    """A name for a dataset or a tool: without the characters that separate names in a file."""
    plain = re.sub(r"[-/]", "_", name.strip())
    if not plain.strip("._"):
        raise ValueError(f"{name!r} is no name for a group or dataset: use letters and digits")
    return plain


def _group_name(source: h5py.Dataset, name: str) -> str:
    base = f"{source.name.rsplit('/', 1)[-1]}-{_plain_name(name)}_"
    pattern = re.compile(re.escape(base) + r"(\d{3,})")
    taken = [int(match[1]) for match in map(pattern.fullmatch, source.parent) if match]
    return f"{base}{max(taken, default=-1) + 1:03d}"


def _group_attributes(
    name: str, tool: str | None, parameters: Mapping[str, Any] | None, results: xr.Dataset
) -> dict[str, Any]:
    about = provenance(results)
    own: dict[str, Any] = {
        **_bookkeeping(),
        "tool": tool or _plain_name(name),
        "num_source_dsets": 1,
        "pipeline": about.get("pipeline"),
    }
    clashing = sorted({*own, "source_000"} & set(parameters or {}) - {"pipeline"})
    if clashing:
        raise ValueError(f"parameters named {', '.join(clashing)} describe the group: rename them")
    return attributes({**own, **(parameters or {})})


def _bookkeeping() -> dict[str, Any]:
    return {
        "machine_id": socket.gethostname(),
        "timestamp": f"{datetime.datetime.now():%Y_%m_%d-%H_%M_%S}",
        "platform": platform.platform(),
        "penstock_version": penstock.__version__,
    }
