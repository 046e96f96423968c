"""Groups and arrays of Zarr stores as the files they are: documents (``zarr.json``) and values.

zarr-python passes every small file through an event loop of another thread, and xarray asks it for
five of them a variable: 20 ms a recording, which is nothing for hours of EEG and most of the work
where thousands of recordings last ten seconds. The files written here are those that xarray and
zarr-python would write; what is not of the usual kinds (`is_plain`) is left to them.
Format: Zarr version 3 specification.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from penstock.memory.accounting import MIB
from penstock.plain_values import from_json, read_text
from penstock.storage.durable import write_whole
from penstock.storage.ledger import remove
from penstock.storage.shards import COMPRESSION_LEVEL, COMPRESSOR

DOCUMENT = "zarr.json"
PLAIN_BYTES = MIB
"""Largest variable that is written as a single chunk."""

_NAN = "AAAAAAAA+H8="
"""How xarray notes NaN (as a double, in base64) as the value that is missing."""
_SPECIAL = {"_FillValue", "missing_value", "scale_factor", "add_offset", "coordinates", "dtype"}
"""Attributes that mean something to xarray when it writes a variable."""


# ---------------------------------------------------------------------- documents


def read_document(folder: Path) -> dict[str, Any]:
    """What a group or an array says of itself.

    Raises
    ------
    OSError, ValueError
        If there is no document that can be read.
    """
    document = from_json(read_text(folder / DOCUMENT))
    if not isinstance(document, dict):
        raise ValueError(f"{folder / DOCUMENT}: not a document of a Zarr store")
    return document


def write_document(folder: Path, document: Mapping[str, Any]) -> None:
    """Write (or replace, in one step) what a group or an array says of itself."""
    write_whole(folder / DOCUMENT, json.dumps(document).encode())


def group_document(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a group."""
    return {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}


def array_document(
    shape: tuple[int, ...],
    dtype: np.dtype,
    dims: tuple[str, ...],
    attributes: Mapping[str, Any],
    *,
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None = None,
    fill_value: Any = 0,
    order: tuple[int, ...] | None = None,
    shuffle: str | None = None,
) -> dict[str, Any]:
    """The document of an array of numbers that is stored the way Penstock does (`ArrayFormat`)."""
    codecs: list[dict[str, Any]] = [_bytes_codec(dtype)]
    if order is not None:
        codecs.insert(0, {"name": "transpose", "configuration": {"order": list(order)}})
    if shuffle is not None:
        blosc = {
            "typesize": dtype.itemsize,
            "cname": COMPRESSOR,
            "clevel": COMPRESSION_LEVEL,
            "shuffle": shuffle,
            "blocksize": 0,
        }
        codecs.append({"name": "blosc", "configuration": blosc})
    if shards is not None:
        sharding = {
            "chunk_shape": list(chunks),
            "codecs": codecs,
            "index_codecs": [_bytes_codec(np.dtype("<u8")), {"name": "crc32c"}],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    return _array_document(
        shape, dtype.name, shards or chunks, _in_json(fill_value, dtype), codecs, attributes, dims
    )


def _array_document(
    shape: tuple[int, ...],
    data_type: str,
    unit: tuple[int, ...],
    fill_value: Any,
    codecs: list[dict[str, Any]],
    attributes: Mapping[str, Any],
    dims: tuple[str, ...],
) -> dict[str, Any]:
    return {
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(unit)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_value,
        "codecs": codecs,
        "attributes": dict(attributes),
        **({"dimension_names": list(dims)} if dims else {}),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _bytes_codec(dtype: np.dtype) -> dict[str, Any]:
    if dtype.itemsize == 1:
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": "little"}}


def _in_json(fill_value: Any, dtype: np.dtype) -> Any:
    if dtype.kind == "c":
        value = complex(fill_value)
        return [_float_in_json(value.real), _float_in_json(value.imag)]
    if dtype.kind == "f":
        return _float_in_json(float(fill_value))
    return dtype.type(fill_value).item()


def _float_in_json(value: float) -> float | str:
    if np.isfinite(value):
        return value
    return "NaN" if np.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


# ---------------------------------------------------------------------- small variables


def is_plain(name: Any, variable: xr.Variable) -> bool:
    """Whether a variable is of the usual kind: some numbers, truth values or texts."""
    dtype = variable.dtype
    simple = (dtype.kind in "biu" or (dtype.kind in "fc" and dtype.name in _FLOATS)) or (
        dtype.kind == "U"
    )
    return (
        isinstance(name, str)
        and name not in ("", ".", "..", "c", DOCUMENT)
        and not {"/", "\0", " "} & set(name)
        and simple
        and variable.size * dtype.itemsize <= PLAIN_BYTES
        and not _SPECIAL & set(variable.attrs)
        and all(isinstance(dim, str) for dim in variable.dims)
    )


_FLOATS = ("float16", "float32", "float64", "complex64", "complex128")


def write_plain(ds: xr.Dataset, path: Path) -> bool:
    """Write a dataset of small variables as a new group; False where that is for xarray to do.

    Its attributes must be such as JSON holds.
    """
    if not all(is_plain(name, variable) for name, variable in ds.variables.items()):
        return False
    if "coordinates" in ds.attrs:
        return False
    # (which coordinates belong to which variables is told in attributes)
    variables, attributes = xr.conventions.encode_dataset_coordinates(ds)
    remove(path)
    for name, variable in variables.items():
        _write_variable(path / str(name), variable)
    write_document(path, group_document(attributes))
    return True


def _write_variable(folder: Path, variable: xr.Variable) -> None:
    values, attributes = variable.values, dict(variable.attrs)
    codecs: list[dict[str, Any]]
    if values.dtype.kind == "U":
        data_type, fill_value = "string", ""
        codecs = [{"name": "vlen-utf8", "configuration": {}}]
    else:
        dtype = values.dtype.newbyteorder("<")
        data_type, codecs = dtype.name, [_bytes_codec(dtype)]
        fill_value = _in_json(np.nan if dtype.kind == "f" else 0, dtype)
        if dtype.kind == "f":
            attributes["_FillValue"] = _NAN
    codecs.append({"name": "zstd", "configuration": {"level": 0, "checksum": False}})
    shape, dims = variable.shape, tuple(map(str, variable.dims))
    unit = tuple(max(1, n) for n in shape)
    write_document(
        folder, _array_document(shape, data_type, unit, fill_value, codecs, attributes, dims)
    )
    if not _is_blank(values):
        chunk = folder.joinpath("c", *("0" for _ in shape))
        chunk.parent.mkdir(parents=True, exist_ok=True)
        chunk.write_bytes(_encoded(values))


def _is_blank(values: np.ndarray) -> bool:
    """Whether all values are the fill value: then they have no file."""
    if values.dtype.kind == "f":
        return bool(np.isnan(values).all())
    return not values.any() if values.dtype.kind != "U" else bool((values == "").all())


def _encoded(values: np.ndarray) -> bytes:
    from numcodecs.vlen import VLenUTF8
    from numcodecs.zstd import compress

    if values.dtype.kind == "U":
        raw = VLenUTF8().encode(values.astype(object).reshape(-1))
    else:
        raw = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(-1)
    return bytes(compress(raw, 0))


# ---------------------------------------------------------------------- reading


def array_dims(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of the arrays of a group, with their dims."""
    for folder in sorted(path.iterdir()):
        with contextlib.suppress(OSError, ValueError):
            document = read_document(folder)
            if document.get("node_type") == "array":
                yield folder.name, tuple(map(str, document.get("dimension_names") or ()))
