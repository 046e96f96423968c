"""Opening HDF5 files, and whether their values can be decoded; what is wrong is one sentence."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator

import h5py

from penstock.io.hdf5.append import complete

CHUNK_CACHE_BYTES = 1024 * 1024


@contextlib.contextmanager
def open_file(path: str) -> Iterator[h5py.File]:
    """An HDF5 file for reading; what is wrong with it becomes one sentence.

    Locks where the file system knows locks, as the HDF5 library does by itself. A file that this
    process has open with other settings is opened with those: HDF5 allows nothing else.
    """
    complete(path)
    file = None
    for locking in ("best-effort", True, False):
        try:
            file = h5py.File(path, "r", locking=locking, rdcc_nbytes=CHUNK_CACHE_BYTES)
            break
        except OSError as error:
            if "don't match" not in str(error) or locking is False:
                raise _opening_error(path, error) from error
    assert file is not None
    with file:
        yield file


def _opening_error(path: str, error: OSError) -> Exception:
    text = " ".join(str(error).split())
    if "truncated file" in text:
        return ValueError(
            f"{path} is cut short: it holds {os.path.getsize(path)} bytes, fewer than its header "
            "announces; copy or export it again"
        )
    if "signature not found" in text:
        return ValueError(f"{path} is not an HDF5 file: check where it comes from")
    if "lock file" in text:
        return OSError(
            f"{path} is being written by another program: wait for it to finish, or close it there"
        )
    if isinstance(error, FileNotFoundError | PermissionError):
        return error
    return ValueError(f"{path} cannot be opened as HDF5 ({text}): copy or export it again")


def check_filters(dataset: h5py.Dataset) -> None:
    """Raise an error if the values of a dataset were packed by a filter that is not installed.

    Filters that the HDF5 library does not bring come from the module hdf5plugin, where it is
    installed.

    Raises
    ------
    MissingFilterError
        With the name of the filter.
    """
    missing = _missing_filters(dataset)
    if missing:
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")  # (it makes its filters known)
            missing = _missing_filters(dataset)
    if missing:
        raise MissingFilterError(
            f"{dataset.name} of {dataset.file.filename} is compressed with {missing[0]}, an HDF5 "
            "filter that is not installed: pip install hdf5plugin"
        )


class MissingFilterError(ImportError, ValueError):
    """Values were packed by an HDF5 filter that is not installed."""


def _missing_filters(dataset: h5py.Dataset) -> list[str]:
    creation = dataset.id.get_create_plist()
    missing = []
    for i in range(creation.get_nfilters()):
        code, _, _, name = creation.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            label = name.decode("utf-8", "replace").strip("\0 ") if name else ""
            missing.append(f"{label} (filter {code})" if label else f"filter {code}")
    return missing
