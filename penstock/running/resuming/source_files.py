"""What tells the files of one input from those of another, and from themselves after a change.

A recording is all of its files: the chunks of a Zarr store or the files of a folder, the parts of a
recording that takes several, what its links lead to, what BIDS keeps beside it. Of each the name,
size and time of change count. (Numbers of inodes and times of status changes do not: they differ
where a network file system is mounted again, or a backup made links, and nothing was changed.)
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import xarray as xr

from penstock.dataset import SIGNAL
from penstock.io.bids.sidecars import sidecars_of
from penstock.io.parts import parts_of
from penstock.local_paths import not_there
from penstock.storage.file_facts import files_below


def file_identity(path: Path, leave_out: Container[str] = ()) -> dict[str, Any]:
    """Path, size and time of change of a file, or of the files of a folder together.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    """
    if path.is_dir():
        return {"path": str(path), **_files_in(str(path), leave_out)}
    if not path.exists():
        raise FileNotFoundError(not_there(str(path)))
    stat = path.stat()
    return {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _files_in(folder: str, leave_out: Container[str]) -> dict[str, Any]:
    """Size of the files of a folder, and a digest of their names, sizes and times of change."""
    found = []
    for entry in files_below(folder, leave_out):
        with contextlib.suppress(FileNotFoundError):  # (a link to nothing)
            stat = entry.stat()
            found.append((entry.path[len(folder) :], stat.st_size, stat.st_mtime_ns))
    digest = hashlib.sha256()
    for name, size, changed in sorted(found):
        digest.update(f"{name} {size} {changed}\n".encode(errors="surrogateescape"))
    return {"size": sum(size for _, size, _ in found), "files": digest.hexdigest()}


def recording_identity(
    path: Path, *, sidecars: bool = True, leave_out: Container[str] = ()
) -> dict[str, Any]:
    """The same of a recording: of what is opened, of its parts, of what tells more about it."""
    identity = file_identity(path, leave_out)
    if parts := parts_of(path):
        identity["parts"] = [file_identity(part) for part in parts]
    if sidecars and (told := sidecars_of(str(path))):
        identity["sidecars"] = [file_identity(sidecar) for sidecar in told]
    return identity


def origins_of(ds: xr.Dataset) -> list[str]:
    """Files that a dataset's values are still read from, as far as they are known."""
    found: set[str] = set()
    for name, variable in ds.variables.items():
        if variable._in_memory:
            continue
        told = variable.encoding.get("source")
        if not told and name == SIGNAL:
            told = ds.attrs.get("store") or ds.attrs.get("source")
        found |= {str(told or ds.encoding.get("source") or ""), *map(_file_of, _arrays(variable))}
    return sorted(path for path in found if path and Path(path).exists())


def _arrays(variable: xr.Variable) -> Iterator[Any]:
    """The arrays that a lazy variable reads: its own, or those that its dask graph begins with."""
    if variable.chunks is None:
        yield variable._data
        return
    for name, layer in getattr(variable.data.dask, "layers", {}).items():
        if name.startswith("original-"):
            yield from (getattr(node, "value", node) for node in dict(layer).values())


def _file_of(array: Any) -> str:
    """The file or store behind an array of Zarr, HDF5, NetCDF, or a memory map; "" if unknown."""
    for _ in range(10):  # (xarray wraps what it reads several times)
        inner = getattr(array, "_array", None)
        inner = getattr(array, "array", None) if inner is None else inner
        if inner is None:
            break
        array = inner
    store = getattr(array, "store", None)
    told = (
        getattr(store, "root", None),  # (of Zarr)
        getattr(store, "path", None),
        getattr(getattr(array, "file", None), "filename", None),
        getattr(getattr(array, "datastore", None), "_filename", None),
        getattr(array, "filename", None),
    )
    return next((str(one) for one in told if isinstance(one, str | Path)), "")


def dataset_files(ds: xr.Dataset) -> list[dict[str, Any]]:
    """What tells the files behind a dataset from themselves after a change."""
    return [recording_identity(Path(path)) for path in origins_of(ds)]


def same_files_now(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same files, as they are now; those that are not visible here stand as they were."""
    return [
        recording_identity(path) if (path := Path(one["path"])).exists() else one for one in files
    ]
