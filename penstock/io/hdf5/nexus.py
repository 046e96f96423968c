"""NeXus: which dataset a file is to be shown by, and the axes that belong to it.

Definition: https://manual.nexusformat.org/datarules.html and the base class NXdata.
"""

from __future__ import annotations

import re
from typing import Any

import h5py
import numpy as np
import xarray as xr

from penstock.io.hdf5.axes import Axes, Axis, child, named_axes, number, parent
from penstock.io.hdf5.contents import MainDataset, along, attribute, describe, text, texts
from penstock.io.hdf5.links import LinkError, Tree, read_all
from penstock.io.packing import Packing

MOST_STEPS = 32
"""Groups that a chain of ``@default`` may lead through."""
MOST_GROUPS = 10_000
"""Groups that are looked through for plots."""


def nexus_signals(tree: Tree) -> list[MainDataset]:
    """The dataset of the default plot; without one the signals of all plots in the file."""
    name, group = "", tree.file["/"]
    for _ in range(MOST_STEPS):
        step = text(attribute(group, "default"))
        item = _item(tree, f"{name}/{step.strip('/')}") if step else None
        if item is None:
            break
        name = f"{name}/{str(step).strip('/')}"
        if isinstance(item, h5py.Dataset):
            return [describe(item, name)]
        group = item
    found = []
    for home in _plots(tree, name, group, set()):
        signal = _signal_name(tree, home)
        item = child(tree, home, signal) if signal else None
        if item is not None and item.shape:
            found.append(describe(item, f"{home}/{signal}"))
    return found


def _item(tree: Tree, name: str) -> Any:
    try:
        return tree.get(name)
    except LinkError:
        return None


def _plots(tree: Tree, name: str, group: h5py.Group, seen: set[Any]) -> list[str]:
    """Groups of the class NXdata in a group, itself included; groups of NeXus are looked in."""
    about = h5py.h5o.get_info(group.id)
    if (about.fileno, about.addr) in seen or len(seen) > MOST_GROUPS:
        return []
    seen.add((about.fileno, about.addr))
    kind = text(attribute(group, "NX_class"))
    if kind == "NXdata":
        return [name]
    if name and kind is None:
        return []
    found = []
    for part in group:
        item = _item(tree, f"{name}/{part}")
        if isinstance(item, h5py.Group):
            found += _plots(tree, f"{name}/{part}", item, seen)
    return found


def _signal_name(tree: Tree, home: str) -> str | None:
    """Name of the signal of a plot: as NeXus says since 2014, or marked by ``signal=1``."""
    group = _item(tree, home)
    named = texts(attribute(group, "signal"))
    if named:
        return named[0]
    marked = []
    for part in group:
        item = child(tree, home, part)
        mark = attribute(item, "signal") if item is not None else None
        if mark is not None and (number(mark) == 1 or text(mark) == "1"):
            marked.append(part)
    return marked[0] if marked else None


def nexus_axes(tree: Tree, name: str, dataset: h5py.Dataset) -> Axes | None:
    """Axes of a dataset in a group of the class NXdata."""
    home, _, own = name.rpartition("/")
    group = parent(tree, name)
    if text(attribute(group, "NX_class")) != "NXdata":
        return None
    is_signal = own == _signal_name(tree, home)
    names = _axis_names(tree, home, group, dataset) if is_signal else [""] * dataset.ndim
    axes = [_axis(tree, home, names[at], size) for at, size in enumerate(dataset.shape)]
    dims, coords = named_axes(axes)
    if is_signal:
        coords |= _further(tree, home, group, dataset, dims, set(names))
    attrs = {}
    title = child(tree, home, "title")
    if title is not None and not title.shape and text(read_all(tree, title)):
        attrs["title"] = text(read_all(tree, title))
    return Axes("NeXus", dims, coords, attrs=attrs, packed=_scaling(tree, home, own, is_signal))


def _axis_names(tree: Tree, home: str, group: h5py.Group, dataset: h5py.Dataset) -> list[str]:
    """Name of the field along every axis; empty where there is none."""
    named = texts(attribute(group, "axes"))
    if named is None:
        # before 2014: an attribute of the signal, or numbers at the fields
        named = texts(attribute(dataset, "axes"))
    if named is not None:
        if len(named) == 1 and dataset.ndim != 1:
            named = [part.strip() for part in re.split(r"[:,]", named[0].strip("[]"))]
        names = [entry if entry != "." else "" for entry in named]
        # (fields that say themselves which axis they belong to)
        for entry in list(names):
            indices = attribute(group, f"{entry}_indices") if entry else None
            if indices is not None and np.size(indices) == 1 and len(names) != dataset.ndim:
                place = int(np.asarray(indices).reshape(-1)[0])
                names = [""] * dataset.ndim if len(names) != dataset.ndim else names
                if 0 <= place < dataset.ndim:
                    names[place] = entry
        return (names + [""] * dataset.ndim)[: dataset.ndim]
    names = [""] * dataset.ndim
    for part in group:
        item = child(tree, home, part)
        mark = attribute(item, "axis") if item is not None else None
        at = number(mark)
        if at is None and (text(mark) or "").isdigit():
            at = float(text(mark) or 0)
        if at is not None and 1 <= at <= dataset.ndim:
            primary = attribute(item, "primary")
            if not names[int(at) - 1] or number(primary) == 1 or text(primary) == "1":
                names[int(at) - 1] = part
    return names


def _axis(tree: Tree, home: str, name: str, size: int) -> Axis:
    stored = child(tree, home, name) if name else None
    if stored is None or stored.dtype.kind not in "biufSO":
        return Axis(name)
    variable = _values(tree, home, name, stored)
    values, attrs = variable.values, dict(variable.attrs)
    if values.shape == (size + 1,) and values.dtype.kind == "f" and size:
        values, attrs["from"] = (values[1:] + values[:-1]) / 2, "middles of bins"
    units = attrs.pop("units", None)
    return Axis(name, values if values.shape == (size,) else None, units, attrs)


def _values(tree: Tree, home: str, name: str, stored: h5py.Dataset) -> xr.Variable:
    variable = along(tree, stored, tuple(f"axis_{n}" for n in range(stored.ndim)))
    packed = _scaling(tree, home, name, False)
    if packed is not None and variable.dtype.kind == "f":
        variable = variable * packed.scale + packed.offset
    return variable


def _further(
    tree: Tree,
    home: str,
    group: h5py.Group,
    dataset: h5py.Dataset,
    dims: tuple[str, ...],
    used: set[str],
) -> dict[str, xr.Variable]:
    """Fields over one or several axes, beside those that name them (``<field>_indices``)."""
    found = {}
    for key in group.attrs:
        name = key.removesuffix("_indices")
        if name == key or (name in used and name in dims):
            continue
        stored = child(tree, home, name)
        over = np.atleast_1d(attribute(group, key))
        if stored is None or over.dtype.kind not in "iu" or not np.all(over < dataset.ndim):
            continue
        along_dims = tuple(dims[int(at)] for at in over)
        shape = tuple(dataset.shape[int(at)] for at in over)
        if stored.shape == shape and len(set(along_dims)) == len(along_dims) and len(shape):
            variable = _values(tree, home, name, stored)
            label = f"{name}_values" if name in dims else name
            found[label] = xr.Variable(along_dims, variable.values, variable.attrs)
    return {name: value for name, value in found.items() if name not in (*dims, "signal")}


def _scaling(tree: Tree, home: str, name: str, is_signal: bool) -> Packing | None:
    """``(stored + offset) * scaling_factor``, from fields beside the one that they belong to."""
    read: dict[str, float | None] = {}
    for key in ("scaling_factor", "offset"):
        stored = child(tree, home, f"{name}_{key}")
        if stored is None and is_signal:
            stored = child(tree, home, key)
        read[key] = None if stored is None or stored.size != 1 else number(read_all(tree, stored))
    if read["scaling_factor"] is None and read["offset"] is None:
        return None
    scale = 1.0 if read["scaling_factor"] is None else read["scaling_factor"]
    return Packing(scale=scale, offset=scale * (read["offset"] or 0.0))
