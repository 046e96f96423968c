"""What tells one input, and one result, from another: digests that decide whether work is done."""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
from typing import Any

import numpy as np
import xarray as xr

import penstock
from penstock.dataset import reads_fresh
from penstock.running.resuming.source_files import dataset_files
from penstock.storage.store import FORMAT, fill_shape

PIECE_BYTES = 8 * 1024 * 1024
"""Values that are read at once where all of a file's are."""


def dataset_identity(ds: xr.Dataset) -> dict[str, Any]:
    """What tells a dataset from others: its own digest, and the files that it is read from."""
    identity: dict[str, Any] = {"dataset": dataset_token(ds)}
    files = dataset_files(ds)
    if files:
        identity["files"] = files
    return identity


def dataset_token(ds: xr.Dataset) -> str:
    """Digest of a dataset: of how its lazy variables are read, and of the values of the others."""
    import cloudpickle

    digest = hashlib.sha256(repr(sorted(map(repr, ds.attrs.items()))).encode())
    for name in sorted(map(str, ds.variables)):
        variable = ds.variables[name]
        digest.update(_described(name, variable))
        if variable.chunks is not None:
            digest.update(variable.data.name.encode())
        elif (identity := _reader_identity(variable)) is not None:
            digest.update(identity)
        elif reads_fresh(variable) or name in ds.xindexes:
            index = ds.xindexes.get(name)
            digest.update(cloudpickle.dumps(index if index is not None else variable._data))
        else:
            digest.update(_plain_bytes(variable.values))
    return digest.hexdigest()


def content_token(ds: xr.Dataset) -> str:
    """Digest of a dataset's values, whatever else changed in its file: all of them are read.

    Attributes of variables (units) count; those of the dataset are about the file around it.
    """
    digest = hashlib.sha256()
    for name in sorted(map(str, ds.variables)):
        variable = ds.variables[name]
        digest.update(_described(name, variable))
        piece = fill_shape(variable.shape, PIECE_BYTES // variable.dtype.itemsize)
        starts = (range(0, n, step) for n, step in zip(variable.shape, piece, strict=True))
        for corner in itertools.product(*starts):
            box = tuple(slice(at, at + n) for at, n in zip(corner, piece, strict=True))
            digest.update(_plain_bytes(variable[box].values))
    return digest.hexdigest()


def _described(name: str, variable: xr.Variable) -> bytes:
    attrs = sorted(map(repr, variable.attrs.items()))
    return f"{name} {variable.dims} {variable.shape} {variable.dtype} {attrs}".encode()


def _plain_bytes(values: np.ndarray) -> memoryview:
    """Values as bytes, hashed in place: a token made by pickling would hold a second copy."""
    plain = values if values.dtype.kind not in "OSU" else np.asarray(values.tolist(), "U")
    return np.ascontiguousarray(plain).view(np.uint8).data


def _reader_identity(variable: xr.Variable) -> bytes | None:
    """What the reader of a lazy variable says of what it reads; None where it says nothing."""
    lazy: Any = variable._data
    say = getattr(getattr(getattr(lazy, "array", None), "read", None), "identity", None)
    return None if say is None else bytes(say()) + repr(lazy.key).encode()


def key_of(
    pipeline: list[dict[str, Any]],
    source: dict[str, Any],
    format: str = "zarr",
    dtype: str | None = None,
) -> str:
    """The key of what a pipeline, in canonical form, makes of a source."""
    content = {
        "format": [FORMAT, format],
        "dtype": dtype,
        "pipeline": pipeline,
        "source": source,
    }
    return _digest(content)


def digests_of(
    pipeline: list[dict[str, Any]],
    source: dict[str, Any],
    format: str = "zarr",
    dtype: str | None = None,
) -> dict[str, str]:
    """Digests of what goes into a key, one by one: they say what differs between two of them."""
    files = {name: value for name, value in source.items() if name != "options"}
    return {
        "source": _digest(files),
        "pipeline": _digest(pipeline),
        "options of reading": _digest([source.get("options"), dtype]),
        "format": _digest([FORMAT, format]),
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what makes a result."""
    import scipy
    import zarr

    return {
        "penstock": penstock.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "xarray": xr.__version__,
        "zarr": zarr.__version__,
    }
