"""What an HDF5 file holds: its datasets, attributes as plain values, names of dims.

Attributes are text and numbers, whoever wrote them in whichever way; nothing of them is evaluated
or unpickled, references are left alone.
"""

from __future__ import annotations

import contextlib
import enum
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL
from penstock.io.arrays.arrays import COMPONENT, check_name
from penstock.io.arrays.arrays import SeveralDatasetsError as SeveralDatasetsError
from penstock.io.hdf5.links import Tree, read_all
from penstock.io.hdf5.stored_types import entry_type, unknown_type
from penstock.io.packing import packing

_RESULTS_GROUP = re.compile(r"[^/]+-[^/]+_\d{3,}")
"""``{Main}-{Tool}_{NNN}``: results that a tool made of a main dataset."""

_STRUCTURE = frozenset({
    "Position_Indices", "Position_Values", "Spectroscopic_Indices", "Spectroscopic_Values",
    "DIMENSION_LIST", "DIMENSION_LABELS", "REFERENCE_LIST", "CLASS", "NAME", "quantity", "units",
})  # fmt: skip
"""Attributes of a dataset that are said elsewhere."""

ATTRIBUTE_BYTES = 60_000
"""HDF5 holds attributes up to 64 KiB, with what they are."""

LISTED = 12
"""Datasets named in an error."""


@dataclass(frozen=True)
class MainDataset:
    """One dataset of an HDF5 file that can be opened."""

    name: str
    """Full name in the file, e.g. ``/Measurement_000/Channel_000/Raw_Data``."""
    shape: tuple[int, ...]
    dtype: np.dtype
    quantity: str = ""
    units: str = ""

    @property
    def is_result(self) -> bool:
        """Whether it lies in a group of results, ``{Main}-{Tool}_{NNN}``."""
        return any(map(_RESULTS_GROUP.fullmatch, self.name.split("/")[:-1]))

    def __str__(self) -> str:
        what = self.quantity + (f" [{self.units}]" if self.units else "")
        sizes = " x ".join(map(str, self.shape))
        return f"{self.name.lstrip('/')} ({', '.join(filter(None, (what, sizes)))})"


def describe(dataset: h5py.Dataset, name: str | None = None) -> MainDataset:
    """Name, shape, type, quantity and units of a dataset."""
    stored, entry = entry_type(dataset.dtype)
    return MainDataset(
        name or dataset.name,
        dataset.shape + entry if entry else dataset.shape,
        stored,
        text(attribute(dataset, "quantity")) or "",
        text(attribute(dataset, "units")) or "",
    )


def datasets(tree: Tree, wanted: Callable[[h5py.Dataset], bool]) -> list[MainDataset]:
    """Datasets of a file of which `wanted` holds, in the order of their names."""
    found: list[MainDataset] = []
    for name, item in tree.datasets():
        # one of a type that h5py does not know is none that is wanted
        with contextlib.suppress(OSError, RuntimeError, KeyError, TypeError, ValueError):
            if wanted(item):
                found.append(describe(item, name))
    return found


def choose(found: Sequence[MainDataset], wanted: str | None, path: str) -> MainDataset | None:
    """The dataset that is meant, or None if `wanted` names none of them.

    Without a name: the only one, or the only one that no tool has made of another.

    Raises
    ------
    SeveralDatasetsError
        If there are several, with all of their names.
    ValueError
        If `wanted` is no text.
    """
    check_name(wanted, path)
    if wanted is None:
        originals = [main for main in found if not main.is_result]
        candidates = originals if len(originals) == 1 else list(found)
    else:
        name = "/" + wanted.strip("/")
        exact = [main for main in found if main.name == name]
        candidates = exact or [main for main in found if main.name.endswith(name)]
    if len(candidates) > 1:
        several = "several datasets" if wanted is None else f"several datasets named {wanted}"
        raise SeveralDatasetsError(
            f"{path} holds {several}: choose one with dataset=..., of {listed(candidates)}",
            [main.name for main in candidates],
        )
    return candidates[0] if candidates else None


def listed(found: Collection[MainDataset]) -> str:
    """Datasets by name, for an error."""
    shown = [str(main) for main in found][:LISTED]
    rest = len(found) - len(shown)
    return "; ".join(shown) + (f"; and {rest} more" if rest else "")


# ---------------------------------------------------------------------- attributes


def attribute(item: Any, name: str) -> Any:
    """An attribute, or None if it is missing or of a type that h5py does not read."""
    try:
        return item.attrs.get(name)
    except (OSError, RuntimeError, TypeError, ValueError, KeyError):
        return None


def text(value: Any) -> str | None:
    """Text, written as str, bytes or an array of one of them; None if it is none."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, str) else None


def texts(value: Any) -> list[str] | None:
    """Several texts, or one; None if they are none."""
    if value is None:
        return None
    found = [text(entry) for entry in np.atleast_1d(np.asarray(value, dtype=object)).reshape(-1)]
    return [entry for entry in found if entry is not None] if None not in found else None


def plain(value: Any) -> Any:
    """A value as JSON knows it (complex numbers as text); None for references and nothing."""
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject or value.dtype.names:
            return [plain(entry) for entry in value.tolist()]
        return plain(value.tolist())
    if isinstance(value, np.generic) and not isinstance(value, bytes | str):
        return plain(value.item())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, bytes | str):
        return text(value)
    if isinstance(value, complex):
        return str(value)
    return value if isinstance(value, bool | int | float) else None


def metadata(dataset: h5py.Dataset, beside: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Attributes of the groups that a dataset lies in, from the root on, and of the dataset.

    Parameters
    ----------
    dataset : h5py.Dataset
        Whose path is followed.
    beside : iterable of str
        Groups beside the dataset whose attributes, and those of all groups in them, are wanted
        too.

    Returns
    -------
    dict
        Full name of the group (or dataset) to its attributes, as plain values.
    """
    file, parts = dataset.file, dataset.name.strip("/").split("/")
    items = [file["/" + "/".join(parts[:n])] for n in range(len(parts))]
    for name in beside:
        group = dataset.parent.get(name)
        if isinstance(group, h5py.Group):
            items.append(group)
            group.visititems(lambda _, item: items.append(item))
    found = {}
    for item in [*items, dataset]:
        skipped = _STRUCTURE if isinstance(item, h5py.Dataset) else frozenset()
        values = {name: plain(attribute(item, name)) for name in item.attrs if name not in skipped}
        values = {name: value for name, value in values.items() if value is not None}
        if values:
            found[item.name] = values
    return found


def attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as HDF5 attributes hold them; what they cannot hold becomes JSON text."""
    result = {}
    for name, value in values.items():
        if value is None:
            continue
        plain = _attribute(value)
        if np.asarray(plain).nbytes > ATTRIBUTE_BYTES:
            raise ValueError(
                f"{name!r} is too large for an attribute of an HDF5 file ({ATTRIBUTE_BYTES} "
                "bytes): leave it out"
            )
        result[name] = plain
    return result


def _attribute(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bool | int | float | str | np.number | np.bool_):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return value
    if isinstance(value, list | tuple) and value:
        if all(isinstance(entry, str) for entry in value):
            return byte_strings(value)
        if all(isinstance(entry, int | float) for entry in value):
            return np.array(value)
    return json.dumps(value, default=lambda entry: getattr(entry, "tolist", entry.__repr__)())


def byte_strings(texts: Iterable[str]) -> np.ndarray:
    """Fixed-length bytes, as other readers of h5USID expect them."""
    return np.array([text.encode() for text in texts], dtype="S")


# ---------------------------------------------------------------------- dims


def unique_dims(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Names for dims: not empty, none of them twice, none that a dataset gives to something else.

    What is taken gets ``_1``, ``_2``, ... A slash would be a group in a store: it becomes ``_``.
    """
    used = {SIGNAL, *taken}
    result = []
    for position, name in enumerate(names):
        base = name.strip().replace("/", "_") or f"dim_{position}"
        unique, number = base, 0
        while unique in used:
            number += 1
            unique = f"{base}_{number}"
        used.add(unique)
        result.append(unique)
    return result


def with_entry_dims(
    dims: tuple[str, ...], dataset: h5py.Dataset, taken: Iterable[str] = ()
) -> tuple[str, ...]:
    """Dims of a dataset, and after them those of the entries of an array type."""
    further = range(len(dims), len(dims) + len(entry_type(dataset.dtype)[1]))
    return (*dims, *unique_dims((f"dim_{at}" for at in further), {*dims, *taken}))


def scaled_dims(
    tree: Tree, dataset: h5py.Dataset
) -> tuple[tuple[str, ...], dict[str, xr.Variable]]:
    """Names of a dataset's axes and the values along them, where they have dimension scales.

    Returns
    -------
    dims : tuple of str
        Label of the axis, else the name of its scale, else ``dim_0``, ``dim_1``, ...
    coords : dict of str to xarray.Variable
        Dim to its values (float64, or text), with ``units`` and ``long_name`` in the attributes.
    """
    names, values = [], {}
    for axis, size in enumerate(dataset.shape):
        label, scale = "", None
        # (a dangling reference: the axis has no values)
        with contextlib.suppress(OSError, RuntimeError, KeyError, ValueError):
            label = dataset.dims[axis].label
            scale = dataset.dims[axis][0] if len(dataset.dims[axis]) else None
        if scale is not None and unknown_type(scale) is not None:
            scale = None
        if scale is not None:
            label = label or text(attribute(scale, "name")) or scale.name.rsplit("/", 1)[-1]
            # (netCDF makes scales without values for dims without coordinate)
            netcdf = (text(attribute(scale, "NAME")) or "").startswith("This is a netCDF dimension")
            if scale.shape == (size,) and scale.dtype.kind in "biufSOU" and not netcdf:
                values[axis] = scale
        names.append(label)
    dims = tuple(unique_dims(names, [COMPONENT] if dataset.dtype.names else []))
    found = {dims[axis]: along(tree, scale, (dims[axis],)) for axis, scale in values.items()}
    return dims, found


def along(tree: Tree, dataset: h5py.Dataset, dims: tuple[str, ...], **attrs: Any) -> xr.Variable:
    """Values along dims, float64 (unpacked) or text, with ``units`` and ``long_name``."""
    stored = read_all(tree, dataset)
    found = {
        "units": text(attribute(dataset, "units")),
        "long_name": text(attribute(dataset, "quantity")) or text(attribute(dataset, "long_name")),
        "dimension_type": text(attribute(dataset, "dimension_type")),
        **attrs,
    }
    kept = {name: value for name, value in found.items() if value is not None}
    if dataset.dtype.kind not in "biuf":
        texts = [text(value) or "" for value in stored.reshape(-1).tolist()]
        return xr.Variable(dims, np.array(texts, dtype=str).reshape(stored.shape), kept)
    what = f"{dataset.name} of {dataset.file.filename}"
    packed, _ = packing(stored.dtype, lambda name: attribute(dataset, name), what)
    values = stored.astype(np.float64)
    if packed is not None:
        packed.decode(stored, values)
    return xr.Variable(dims, values, kept)
