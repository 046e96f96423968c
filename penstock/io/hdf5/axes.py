"""What the axes of an HDF5 dataset are, in the models that describe them beside it.

NeXus (https://manual.nexusformat.org/classes/base_classes/NXdata.html), HyperSpy, EMD as Berkeley
Lab and as Velox write it, NIX, MATLAB 7.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
import xarray as xr

from penstock.io.hdf5.contents import along, attribute, text, unique_dims
from penstock.io.hdf5.links import LinkError, Tree, is_references
from penstock.io.packing import Packing


@dataclass(frozen=True)
class Axes:
    """The axes of a dataset, and what else is said of its values beside it."""

    model: str
    dims: tuple[str, ...]
    coords: Mapping[str, xr.Variable] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of the signal: ``units``, ``long_name``."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of the dataset: ``position_dims``, ``title``."""
    packed: Packing | None = None
    backwards: bool = False
    """Whether the axes lie in the file from the last to the first."""


@dataclass(frozen=True)
class Axis:
    """One axis before it gets its name."""

    name: str = ""
    values: np.ndarray | None = None
    units: str | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)


def named_axes(axes: list[Axis]) -> tuple[tuple[str, ...], dict[str, xr.Variable]]:
    """Dims and coordinates of axes, each with a name of its own."""
    dims = tuple(unique_dims(axis.name for axis in axes))
    coords = {}
    for dim, axis in zip(dims, axes, strict=True):
        if axis.values is not None:
            attrs = {**axis.attrs, **({"units": axis.units} if axis.units else {})}
            coords[dim] = xr.Variable((dim,), axis.values, attrs)
    return dims, coords


def number(value: Any, otherwise: float | None = None) -> float | None:
    """One number of an attribute or of a small dataset."""
    found = np.asarray(value).reshape(-1) if value is not None else np.zeros(0)
    if found.size != 1 or found.dtype.kind not in "biuf":
        return otherwise
    return float(found[0])


def parent(tree: Tree, name: str) -> h5py.Group:
    """The group that a dataset lies in under a name, whichever links it is known by."""
    group = tree.get(name.rsplit("/", 1)[0] or "/")
    assert isinstance(group, h5py.Group)
    return group


def child(tree: Tree, group: str, name: str) -> h5py.Dataset | None:
    """A dataset by its name in a group; None if there is none or its link leads nowhere."""
    try:
        return tree.dataset(f"{group}/{name}")
    except LinkError:
        return None


# ---------------------------------------------------------------------- HyperSpy


def hyperspy_axes(tree: Tree, name: str, dataset: h5py.Dataset) -> Axes | None:
    """Axes of ``data`` in an experiment of a HyperSpy file (``axis-0``, ``axis-1``, ...)."""
    if name.rsplit("/", 1)[-1] != "data" or "axis-0" not in parent(tree, name):
        return None
    group, axes, navigate = parent(tree, name), [], []
    for at, size in enumerate(dataset.shape):
        about = group.get(f"axis-{at}")
        if not isinstance(about, h5py.Group):
            return None
        read = {key: attribute(about, key) for key in ("name", "units", "scale", "offset")}
        label, units = (text(read[key]) for key in ("name", "units"))
        units = None if units in (None, "<undefined>", "_None_") else units
        scale = number(read["scale"])
        values: np.ndarray | None = None
        stored = child(tree, f"{name.rsplit('/', 1)[0]}/axis-{at}", "axis")
        if scale is not None:
            values = (number(read["offset"]) or 0.0) + scale * np.arange(size)
        elif stored is not None and stored.shape == (size,):
            values = along(tree, stored, ("axis",)).values
        label = "" if label in (None, "<undefined>", "_None_") else label
        axes.append(Axis(label or "", values, units))
        navigate.append(bool(attribute(about, "navigate")))
    dims, coords = named_axes(axes)
    positions = [dim for dim, is_position in zip(dims, navigate, strict=True) if is_position]
    return Axes("HyperSpy", dims, coords, attrs={"position_dims": positions})


# ---------------------------------------------------------------------- EMD


def emd_axes(tree: Tree, name: str, dataset: h5py.Dataset) -> Axes | None:
    """Axes of a group of Berkeley Lab's EMD files (``dim1``, ``dim2``, ...)."""
    home, _, own = name.rpartition("/")
    if own != "data" or attribute(parent(tree, name), "emd_group_type") is None:
        return None
    if any(child(tree, home, f"dim{n + 1}") is None for n in range(dataset.ndim)):
        return None
    axes = []
    for at, size in enumerate(dataset.shape):
        stored = child(tree, home, f"dim{at + 1}")
        assert stored is not None
        values: np.ndarray | None = None
        if stored.ndim == 1 and stored.dtype.kind in "biufSO":
            values = along(tree, stored, ("dim",)).values
            if len(values) == 2 != size and values.dtype.kind == "f":
                # (the first two stand for all of a regular axis)
                values = values[0] + (values[1] - values[0]) * np.arange(size)
            values = values if len(values) == size else None
        label = text(attribute(stored, "name")) or f"dim{at + 1}"
        axes.append(Axis(label, values, _emd_units(text(attribute(stored, "units")))))
    dims, coords = named_axes(axes)
    units = _emd_units(text(attribute(dataset, "units")))
    return Axes("EMD", dims, coords, about={"units": units})


def _emd_units(units: str | None) -> str | None:
    """Units without the brackets and underscores that the format puts around them."""
    if not units:
        return None
    return units.strip("[]").replace("_", "") or None


# ---------------------------------------------------------------------- NIX


def nix_axes(tree: Tree, name: str, dataset: h5py.Dataset) -> Axes | None:
    """Axes of a data array of a NIX file (``dimensions/1``, ``dimensions/2``, ...)."""
    home = name.rsplit("/", 1)[0]
    group = parent(tree, name)
    dimensions = group.get("dimensions")
    if name.rsplit("/", 1)[-1] != "data" or not isinstance(dimensions, h5py.Group):
        return None
    axes = []
    for at, size in enumerate(dataset.shape):
        about = dimensions.get(str(at + 1))
        if not isinstance(about, h5py.Group):
            axes.append(Axis())
            continue
        kind = text(attribute(about, "dimension_type"))
        values: np.ndarray | None = None
        listed = "ticks" if kind == "range" else "labels"
        stored = child(tree, f"{home}/dimensions/{at + 1}", listed)
        if kind == "sample":
            step = number(attribute(about, "sampling_interval"), 1.0)
            values = (number(attribute(about, "offset")) or 0.0) + (step or 1.0) * np.arange(size)
        elif kind in ("range", "set") and stored is not None and stored.shape == (size,):
            values = along(tree, stored, ("axis",)).values
        axes.append(Axis(text(attribute(about, "label")) or "", values,
                         text(attribute(about, "unit"))))  # fmt: skip
    dims, coords = named_axes(axes)
    coefficients = child(tree, home, "polynom_coefficients")
    packed = None
    if coefficients is not None and coefficients.size:
        origin = number(attribute(group, "expansion_origin")) or 0.0
        polynomial = np.polynomial.Polynomial(along(tree, coefficients, ("power",)).values)
        shifted = polynomial(np.polynomial.Polynomial([-origin, 1.0]))
        constant, linear, *higher = (*shifted.coef.tolist(), 0.0, 0.0)[: max(2, len(shifted.coef))]
        packed = Packing(scale=linear, offset=constant, higher=tuple(higher))
    about_signal = {key: text(attribute(group, name)) for key, name in _NIX_LABELS.items()}
    title = text(attribute(group, "name"))
    return Axes("NIX", dims, coords, about_signal, {"title": title} if title else {}, packed)


_NIX_LABELS = {"units": "unit", "long_name": "label"}


# ---------------------------------------------------------------------- MATLAB


def matlab_axes(tree: Tree, name: str, dataset: h5py.Dataset) -> Axes | None:
    """Axes of a variable of MATLAB 7.3, in the order of MATLAB: the last one of the file first."""
    if "MATLAB_class" not in dataset.attrs:
        return None
    return Axes("MATLAB", tuple(f"dim_{n}" for n in range(dataset.ndim)), backwards=True)


def is_matlab_text(dataset: h5py.Dataset) -> bool:
    """Whether a dataset holds characters, references, or only the sizes of an empty variable."""
    kind = text(attribute(dataset, "MATLAB_class"))
    empty = number(attribute(dataset, "MATLAB_empty"))
    return kind in ("char", "cell", "struct", "string") or bool(empty) or is_references(dataset)


MODELS: tuple[Callable[[Tree, str, h5py.Dataset], Axes | None], ...] = (
    hyperspy_axes,
    emd_axes,
    nix_axes,
)
"""Models of which every dataset that has axes is one that can be meant."""
