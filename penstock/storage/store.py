"""Zarr stores: their layout, writing them block by block, reading them lazily.

A store under construction lives beside its target as ``.NAME.partial``. Block regions are whole
shards, so that no two tasks ever write one file; a finished block is one line in the ledger,
appended after its data; the store gets its final name by one rename when everything is in it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import uuid
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from penstock.attributes import as_plain_attributes, provenance
from penstock.dataset import (
    SIGNAL,
    Indexer,
    Region,
    check_dataset,
    lazy_variable,
    read_region,
    sampled_coordinate,
    sampled_index,
)
from penstock.formats import ExportReport, WriteOptions
from penstock.local_paths import local_path
from penstock.memory.accounting import MIB
from penstock.plain_values import from_json, read_text
from penstock.planning.dask_chunks import run_of_chunks
from penstock.reading import Reading, reading_of
from penstock.sampled import LONG, regular_samples
from penstock.storage.durable import sync_file_system
from penstock.storage.file_facts import array_files, file_facts
from penstock.storage.ledger import partial_path, publish, remove
from penstock.storage.shards import (
    ArrayFormat,
    array_format,
    encode_shard,
    of_volumes,
    read_chunks,
    reading_bytes,
)
from penstock.storage.zarr_files import array_document, read_document, write_document, write_plain
from penstock.storage.zarr_limits import bounded_codecs

if TYPE_CHECKING:
    import zarr

FORMAT = 1
"""Version of the layout described here; stored in every store."""

CHUNK_BYTES = MIB
SHARD_BYTES = 8 * MIB
SLABS = 6
"""Into about so many slabs of slices chunks cut a volume: whoever wants the series of some voxels
finds them in a part of the store, and volumes are still read in few pieces."""
QUANTUM = 1 << 14
"""Cuts along a core dim fall on multiples of this many samples, so that chunks divide them."""


# ---------------------------------------------------------------------- layout


def fill_shape(shape: tuple[int, ...], n_elements: int) -> tuple[int, ...]:
    """Largest box of at most `n_elements` (at least one) that takes trailing dims whole first."""
    box: list[int] = []
    for size in reversed(shape):
        take = max(1, min(size, n_elements))
        box.append(take)
        n_elements //= take
        if take < size:
            n_elements = 1
    return tuple(reversed(box))


def store_layout(
    shape: tuple[int, ...], block: tuple[int, ...], itemsize: int, *, volumes: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Chunk and shard shape of an array that is written in blocks of shape `block`.

    Chunks are about 1 MiB, shards about 8 MiB (up to 16 of volumes) and never across blocks: along
    every dim the block is a multiple of the shard (or reaches the end of the array). Chunks and
    shards take trailing dims whole first, those of `volumes` leading ones: a chunk is a slab of
    slices of a run of volumes, a shard a run of whole volumes.
    """
    n = max(1, CHUNK_BYTES // itemsize)
    if volumes:
        chunk = _slab_of_run(shape, block, n)
    else:
        chunk = divided(fill_shape(block, n), block, shape)
    shard = list(chunk)
    n_bytes = math.prod(shard) * itemsize
    axes = range(len(shape))
    for axis in axes if volumes else reversed(axes):
        n_chunks = -(-block[axis] // chunk[axis])
        limit = 2 * SHARD_BYTES if volumes else SHARD_BYTES
        take = max(1, min(n_chunks, limit // max(1, n_bytes)))
        if block[axis] < shape[axis]:
            while n_chunks % take:
                take -= 1
        shard[axis] = chunk[axis] * take
        n_bytes *= take
    return chunk, None if tuple(shard) == chunk else tuple(shard)


def divided(
    parts: tuple[int, ...], block: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Parts of a block made a little smaller, so that they divide it equally along every dim."""
    found = []
    for part, whole, size in zip(parts, block, shape, strict=True):
        if whole < size:  # cut again by the next block: the part must divide the block
            while whole % part:
                part -= 1
        else:  # equal parts: a nearly empty last one would be encoded in full
            part = max(1, -(-whole // max(1, -(-whole // part))))
        found.append(part)
    return tuple(found)


def _slab_of_run(shape: tuple[int, ...], block: tuple[int, ...], n: int) -> tuple[int, ...]:
    """A chunk of at most `n` elements: x and y whole, a slab of z and, of series, a run of volumes.

    Of the parts of the block that fit, the one that comes nearest to `n` elements and to a slab of
    one in `SLABS`.
    """
    plane = fill_shape(block[1::-1], n)[::-1]
    plane = divided(plane, block[:2], shape[:2])
    n //= math.prod(plane)
    if len(shape) == 3:
        return (*plane, *divided((max(1, min(n, block[2])),), block[2:], shape[2:]))
    best, least = (1, 1), math.inf
    for slab in _parts_of(block[2], shape[2], n):
        thick = math.log(slab * SLABS / shape[2])
        for run in _parts_of(block[3], shape[3], n // slab):
            # (thinner slabs than wanted do less harm than shorter runs)
            missed = math.log(n / (slab * run)) + max(thick, -0.5 * thick)
            if missed < least:
                best, least = (slab, run), missed
    return (*plane, *best)


def _parts_of(whole: int, size: int, most: int) -> Iterator[int]:
    """Lengths up to `most` into which a block's part of a dim can be cut equally."""
    last = 0
    for count in range(1, whole + 1):
        part = -(-whole // count)
        if part <= most and part != last and (whole == size or not whole % count):
            yield part
            last = part


def write_buffer_bytes(block_bytes: int) -> int:
    """Extra memory while a block is encoded and written: a few chunks."""
    return 4 * min(block_bytes, CHUNK_BYTES)


def check_alignment(region: Mapping[str, slice], dims: tuple[str, ...], array: _Stored) -> None:
    """Refuse to write a region that shares a shard (or chunk) with its neighbours.

    Two tasks writing parts of one shard lose data without a word; nothing may get that far.
    """
    grid = array.shards or array.chunks
    for dim, unit, size in zip(dims, grid, array.shape, strict=True):
        start, stop = region[dim].start, region[dim].stop
        if start % unit or (stop % unit and stop != size):
            raise ValueError(
                f"the region {start}:{stop} of dim {dim!r} is not aligned with the store's shards "
                f"of {unit}: it would be written by two tasks at once; use blocks that are "
                f"multiples of {unit}"
            )


# ---------------------------------------------------------------------- process-wide settings


@functools.cache
def _configure_zarr() -> None:
    """One block is one unit of parallelism: Zarr's own concurrency only adds buffers."""
    import zarr

    zarr.config.set({"async.concurrency": 2, "threading.max_workers": 2})


@dataclass(frozen=True)
class _Stored:
    """An array of a store: what it says of itself, and how its files lie where we know."""

    shape: tuple[int, ...]
    dtype: np.dtype
    dims: tuple[str, ...]
    attributes: Mapping[str, Any]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    form: ArrayFormat | None
    array: zarr.Array | None = None
    """Where its files are for zarr-python to read."""


@functools.lru_cache(maxsize=64)
def _open_array(path: str, name: str, _version: int) -> _Stored:
    folder = Path(path, name)
    with contextlib.suppress(OSError, ValueError):
        document = read_document(folder)
        form = array_format(document)
        if form is not None:
            about = stored_provenance(Path(path)) or {}
            noted = about.get("files", {}).get(name)
            whole = bool(about.get("scratch")) or (noted is not None and noted[0] == form.n_files)
            form = replace(form, whole=whole)
            dims = tuple(map(str, document.get("dimension_names") or ()))
            attributes = dict(document.get("attributes") or {})
            dtype = form.dtype.newbyteorder("=")
            return _Stored(form.shape, dtype, dims, attributes, form.chunks, form.shards, form)
    import zarr

    _configure_zarr()
    with bounded_codecs():
        array = zarr.open_array(path, path=name, mode="r")
    dims = tuple(map(str, getattr(array.metadata, "dimension_names", None) or ()))
    attributes = dict(array.attrs)
    return _Stored(
        array.shape, array.dtype, dims, attributes, array.chunks, array.shards, None, array
    )


def stored_format(path: Path, name: str) -> ArrayFormat | None:
    """How an array of values lies in its files; None where that is not Penstock's way."""
    return _open_array(str(path), name, store_version(path)).form


def store_version(path: Path) -> int:
    """Changes when a store of the same name is replaced by another."""
    return os.stat(path / "zarr.json").st_mtime_ns


# ---------------------------------------------------------------------- writing


def create_group(path: Path, ds: xr.Dataset, attrs: Mapping[str, Any]) -> None:
    """Start a store: everything of an outline but its large arrays.

    Regular coordinates are kept as start, frequency and size in the attributes, never as an array.
    """
    sampled: dict[str, Any] = {}
    for dim in ds.xindexes:
        index = sampled_index(ds, str(dim))
        if index is not None:
            sampled[str(dim)] = {**index.raster, "attrs": dict(ds[dim].attrs)}
    small = ds.drop_vars([*large_variables(ds), *sampled]).copy()
    attributes = {key: value for key, value in ds.attrs.items() if key != "penstock"}
    small.attrs = {**_json_attrs(attributes), "penstock": {**attrs, "sampled": sampled}}
    for variable in small.variables.values():
        variable.encoding = {}
        variable.attrs = _json_attrs(variable.attrs)
    if write_plain(small, path):
        return
    # (strings of variable length are part of Zarr 3; those of fixed length are not yet)
    texts = {
        name: (variable.dims, variable.values.astype(object), variable.attrs)
        for name, variable in small.variables.items()
        if variable.dtype.kind == "U"
    }
    small = small.assign_coords({name: texts[name] for name in texts if name in small.coords})
    small = small.assign({name: texts[name] for name in texts if name in small.data_vars})
    small.to_zarr(path, mode="w", zarr_format=3, consolidated=False)


def create_array(
    path: Path,
    name: str,
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: Any,
    block: tuple[int, ...],
    attrs: Mapping[str, Any] | None = None,
    *,
    compress: bool = True,
    chunks: tuple[int, ...] | None = None,
) -> None:
    """Add an array to a store, laid out for writing in blocks of shape `block`.

    `chunks` overrides the layout of scratch arrays that are read back in other blocks: each block
    becomes one file of such chunks. Volumes are
    stored as they lie in images and in blocks: a run of them together, x before y before z. Whoever
    opens the store finds (x, y, z, time) all the same.
    """
    dtype = np.dtype(dtype)
    volumes = of_volumes(dims)
    if chunks is None:
        chunks, shards = store_layout(shape, block, dtype.itemsize, volumes=volumes)
    else:
        whole = tuple(-(-n // c) * c for n, c in zip(block, chunks, strict=True))
        shards = None if whole == chunks else whole
    document = array_document(
        shape,
        dtype,
        dims,
        _json_attrs(attrs or {}),
        chunks=tuple(max(1, n) for n in chunks),
        shards=shards,
        fill_value=np.nan if dtype.kind in "fc" else 0,
        # Within a chunk time varies fastest: values of one voxel are alike, which saves a third of
        # the bytes of images (measured), and turning 1 MiB around stays in the cache.
        order=(2, 1, 0, 3)[: len(shape)] if volumes else None,
        # bitshuffle groups the bits that change little between samples. On filtered float32 EEG
        # lz4 encodes 4 x as fast as zstd-3 for 2-4 % more bytes (benchmarks/run.py eeg --only
        # codecs); zstd took more of a filter's time than the filter.
        # Images are grouped by bytes: read and written 1.3 to 2 x as fast, 5 % fewer bytes
        # (measured images) to 26 % more (simulated whole numbers).
        shuffle=("shuffle" if volumes else "bitshuffle") if compress else None,
    )
    write_document(path / name, document)


def write_block(
    path: Path, name: str, region: Region, block: np.ndarray, noted: list[Any] | None = None
) -> None:
    """Write one block; its region must be whole shards.

    What was written is added to `noted`: the array, with the folder that it is in, the first of
    its files and how many follow along each dim, and size and checksum of each.
    """
    array = _open_array(str(path), name, store_version(path))
    form = array.form
    place = f"{path.name}/{name}"
    if not array.shape:  # a single value is a file of its own
        import zarr

        zarr.open_array(str(path / name), mode="r+")[...] = block
        if noted is not None:
            noted.append([place, [], [], list(file_facts(path / name / "c"))])
        return
    if form is None:
        raise ValueError(f"{path}: the array {name!r} is not one that Penstock made")
    slices = {dim: indexer for dim, indexer in region.items() if isinstance(indexer, slice)}
    if len(slices) != len(region):
        raise ValueError("blocks are written by stretches, not by picked positions")
    check_alignment(slices, tuple(region), array)
    spans = list(slices.values())
    unit = form.unit
    first = [span.start // size for span, size in zip(spans, unit, strict=True)]
    counts = [-(-(span.stop - span.start) // size) for span, size in zip(spans, unit, strict=True)]
    facts: list[int] = []
    for index in np.ndindex(*counts):
        at = tuple(
            slice(i * size, min((i + 1) * size, span.stop - span.start))
            for i, size, span in zip(index, unit, spans, strict=True)
        )
        key = [str(start + i) for start, i in zip(first, index, strict=True)]
        target = path.joinpath(name, "c", *key)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
        try:
            with open(temporary, "wb") as file:
                facts += encode_shard(file, form, block[at])
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    if noted is not None:
        noted.append([place, first, counts, facts])


def _json_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON holds them; what it cannot hold becomes text."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, np.generic):
            return value.item()
        return str(value)

    return json.loads(json.dumps({str(k): v for k, v in attrs.items()}, default=plain))


def large_variables(ds: xr.Dataset) -> list[str]:
    """Names of the data variables that are written block by block: the signal and its like."""
    return [
        str(name)
        for name, variable in ds.data_vars.items()
        if name == SIGNAL or (str(name).startswith(f"{SIGNAL}_") and variable.ndim)
    ]


# ---------------------------------------------------------------------- reading


def read_array(path: str, name: str, version: int, *indexers: Indexer) -> np.ndarray:
    """Read a region of a stored array (slices and integer positions)."""
    stored = _open_array(path, name, version)
    if stored.array is None:
        assert stored.form is not None
        return read_chunks(Path(path, name), stored.form, indexers)
    if all(isinstance(indexer, slice) for indexer in indexers):
        return np.asarray(stored.array[indexers])
    return np.asarray(stored.array.oindex[indexers])


def stored_variable(path: Path, name: str) -> xr.Variable:
    """A lazily read variable over a stored array."""
    version = store_version(path)
    array = _open_array(str(path), name, version)
    dims, form = array.dims, array.form
    if len(dims) != len(array.shape):
        raise ValueError(f"{path}: array {name!r} has no dimension names: not a Penstock store")
    if form is not None:
        scratch, scratch_bytes = 0.0, reading_bytes(form)
    else:
        # zarr-python holds a shard, compressed and not, and a few chunks beside the region
        unit = math.prod(array.chunks) * array.dtype.itemsize
        shard = math.prod(array.shards or array.chunks) * array.dtype.itemsize
        scratch, scratch_bytes = 0.5, 6 * unit + 2 * shard
    return lazy_variable(
        dims,
        functools.partial(read_array, str(path), name, version),
        array.shape,
        array.dtype,
        {key: value for key, value in array.attributes.items() if key != "_FillValue"},
        encoding={"preferred_chunks": dict(zip(dims, array.chunks, strict=True))},
        reading=Reading(
            scratch,
            scratch_bytes,
            interleaved=form is not None and form.order[:3] == (2, 1, 0),
        ),
    )


def open_store(path: str | Path) -> xr.Dataset:
    """Open a store that Penstock wrote (or any Zarr group with a variable ``signal``), lazily.

    Parameters
    ----------
    path : path
        Folder of the store.

    Returns
    -------
    xarray.Dataset
        With virtual regular coordinates where the store holds their rate and start. The results
        of a fit or a peak search have variables of their own and no ``signal``.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no store, or no signal in it.
    """
    path = Path(local_path(path))
    if not (path / "zarr.json").is_file():
        raise FileNotFoundError(f"{path}: no Zarr (version 3) store there")
    try:
        with warnings.catch_warnings(), bounded_codecs():
            warnings.simplefilter("ignore")
            ds = xr.open_dataset(
                path,
                engine="zarr",
                chunks=None,
                consolidated=False,
                cache=False,
                create_default_indexes=False,  # (they hold coordinates in memory)
            )
    except Exception as error:
        raise ValueError(f"{path}: not a readable Zarr store ({error})") from error
    about = provenance(ds)
    results = [name for name in about.get("results", []) if name in ds.data_vars]
    large = [*large_variables(ds), *results]
    for name in large:
        encoding = ds[name].encoding
        if {"scale_factor", "add_offset"} & set(encoding):
            continue  # (packed by someone else: xarray unpacks it)
        ds[name] = stored_variable(path, name)
        ds[name].encoding.update({k: encoding[k] for k in ("compressors",) if k in encoding})
    for other, variable in ds.data_vars.items():
        if other not in large and variable.nbytes <= 16 * MIB:
            ds[other] = (variable.dims, _plain_texts(variable.load().values), variable.attrs)
    for dim, regular in about.get("sampled", {}).items():
        if dim in ds.sizes:
            ds = ds.assign_coords(
                sampled_coordinate(
                    dim,
                    ds.sizes[dim],
                    regular["frequency"],
                    regular["start"],
                    regular["attrs"],
                    first=regular.get("first", 0),
                    step=regular.get("step", 1),
                )
            )
    ds = _with_regular_time(ds)
    for label, coordinate in ds.coords.items():
        if sampled_index(ds, str(label)) is None:
            values = coordinate.load().values
            if values.dtype.kind in "OT":
                texts = _plain_texts(values)
                ds = ds.assign_coords({label: (coordinate.dims, texts, coordinate.attrs)})
            elif coordinate.dims == (label,):  # (now with its index)
                held = xr.Variable(coordinate.dims, values, coordinate.attrs, coordinate.encoding)
                ds = ds.assign_coords({label: held})
    ds.attrs = as_plain_attributes(ds.attrs)
    ds.attrs["store"] = str(path)
    if results:
        return ds[[*results, *(name for name in ds.data_vars if name not in results)]]
    try:
        return check_dataset(ds)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {error}") from None


def _plain_texts(values: np.ndarray) -> np.ndarray:
    """Strings of variable length as those that NumPy users expect; other values as they are."""
    if values.dtype.kind not in "OT":
        return values
    return np.asarray(values.tolist(), dtype=str).reshape(values.shape)


def _with_regular_time(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with the times of samples computed where they are regular: they are looked at in
    pieces, and not held."""
    if "time" not in ds.variables or ds.variables["time"].dims != ("time",):
        return ds
    times = ds.variables["time"]
    if times.size < LONG or sampled_index(ds) is not None:
        return ds
    found = regular_samples(lambda part: times.isel(time=part).values, times.size, times.dtype)
    if found is None:
        return ds
    rest = ds.drop_vars("time")
    return rest.assign_coords(sampled_coordinate("time", times.size, *found, times.attrs))


def sidecar_path(target: Path) -> Path:
    """Where the provenance of a result lies whose format cannot hold it."""
    return target.with_name(f"{target.name}.penstock.json")


def stored_provenance(path: Path) -> dict[str, Any] | None:
    """What a finished store says of its making, or None if it says nothing readable."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        attributes = from_json(read_text(path / "zarr.json")).get("attributes", {})
        about = attributes.get("penstock")
        return about if isinstance(about, dict) else None
    return None


def add_provenance(path: Path, facts: Mapping[str, Any]) -> None:
    """Add to what a store says of its making."""
    about = read_document(path)
    attributes = about.setdefault("attributes", {})
    attributes["penstock"] = {**attributes.get("penstock", {}), **_json_attrs(facts)}
    write_document(path, about)


def export_store(ds: xr.Dataset, path: str, options: WriteOptions) -> ExportReport:
    """Write a dataset as a store; see `penstock.export`."""
    write_store(ds, path, overwrite=options.overwrite)
    return ExportReport(path, "zarr")


def write_store(ds: xr.Dataset, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a dataset to a store, block by block in bounded memory.

    Parameters
    ----------
    ds : xarray.Dataset
        Penstock dataset, lazy or not.
    path : path
        Target folder, by convention ending in ``.zarr``.
    overwrite : bool, default False
        Whether an existing target may be replaced.

    Returns
    -------
    pathlib.Path
        The target.

    Raises
    ------
    FileExistsError
        If the target exists and `overwrite` is False.
    """
    target = Path(local_path(path))
    check_dataset(ds)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists: use overwrite to replace it")
    building = partial_path(target)
    remove(building)
    building.mkdir(parents=True)
    store = building / "store"
    create_group(store, ds, {"format": FORMAT})
    for name in large_variables(ds):
        write_variable(ds, name, store)
    add_provenance(store, {"files": array_files(store)})
    sync_file_system(store)
    publish(store, target, overwrite=overwrite)
    remove(building)
    return target


def spool_bytes(variable: xr.Variable) -> int:
    """Memory that writing a variable takes [bytes]: a block of it, twice, and its encoding."""
    n_bytes = SHARD_BYTES
    if variable.chunks is not None:
        n_bytes = math.prod(run_of_chunks(variable, SHARD_BYTES)) * variable.dtype.itemsize
    return 2 * n_bytes + write_buffer_bytes(n_bytes)


def outline_store(ds: xr.Dataset, path: Path) -> Path:
    """A store like that of `write_store`, but without values: what a plan needs to know of it."""
    path.mkdir(parents=True)
    create_group(path, ds, {"format": FORMAT})
    for name in large_variables(ds):
        _create_for(ds.variables[name], name, path)
    return path


def _backwards(variable: xr.Variable) -> bool:
    """Whether its first dim varies fastest in the source."""
    dims = tuple(map(str, variable.dims))
    return of_volumes(dims) or reading_of(variable).interleaved


def _create_for(variable: xr.Variable, name: str, store: Path) -> tuple[int, ...]:
    """An empty array like a variable, and the shape of the blocks in which it is written."""
    dims = tuple(map(str, variable.dims))
    turn = -1 if _backwards(variable) else 1
    n = SHARD_BYTES // variable.dtype.itemsize
    block = fill_shape(variable.shape[::turn], n)[::turn]
    if variable.chunks is not None:
        block = run_of_chunks(variable, SHARD_BYTES)
    create_array(store, name, dims, variable.shape, variable.dtype, block, variable.attrs)
    return block


def write_variable(ds: xr.Dataset, name: str, store: Path) -> None:
    """Copy one large variable of a dataset into a store in blocks of about one shard.

    Blocks follow each other as the values do in the source, which may be a file that can only be
    read from front to back; those of a dask array are its chunks, so that each is computed once.
    """
    variable = ds.variables[name]
    dims = tuple(map(str, variable.dims))
    turn = -1 if _backwards(variable) else 1
    block = _create_for(variable, name, store)
    counts = [-(-size // unit) for size, unit in zip(variable.shape, block, strict=True)]
    for index in np.ndindex(*counts[::turn]):
        region: Region = {
            dim: slice(i * unit, min((i + 1) * unit, size))
            for dim, i, unit, size in zip(dims, index[::turn], block, variable.shape, strict=True)
        }
        write_block(store, name, region, read_region(ds, region, name))
