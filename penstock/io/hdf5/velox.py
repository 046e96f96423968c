"""EMD files that Velox writes: images, stacks and spectra with their axes in a text beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from penstock.io.hdf5.axes import Axes, Axis, child, named_axes
from penstock.io.hdf5.chunks import check_chunks
from penstock.io.hdf5.links import Tree, read_all

MOST_METADATA = 1 << 24
"""Longest text of metadata [bytes]."""


def velox_axes(tree: Tree, name: str, dataset: h5py.Dataset) -> Axes | None:
    """Axes of ``Data/<kind>/<identifier>/Data``: y, x and frame of images, energy of spectra."""
    parts = name.strip("/").split("/")
    if len(parts) != 4 or parts[0] != "Data" or parts[3] != "Data":
        return None
    about = _metadata(tree, name.rsplit("/", 1)[0])
    if about is None:
        return None
    kind = parts[1]
    if kind == "Image" and dataset.ndim == 3:
        axes = [*_plane(about, dataset.shape), Axis("frame")]
        positions = ["y", "x", "frame"]
    elif kind == "SpectrumImage" and dataset.ndim == 3:
        axes = [*_plane(about, dataset.shape), _energy(about, dataset.shape[-1])]
        positions = ["y", "x"]
    elif kind == "Spectrum" and dataset.ndim == 2:
        axes = [_energy(about, dataset.shape[0]), Axis("frame")]
        positions = ["frame"]
    else:
        return None
    dims, coords = named_axes(axes)
    attrs: dict[str, Any] = {}
    if kind != "Image":
        attrs["position_dims"] = positions
    return Axes("Velox", dims, coords, attrs=attrs)


def _metadata(tree: Tree, home: str) -> Mapping[str, Any] | None:
    """The JSON text of the first frame: one column of bytes a frame, filled up with zeros."""
    stored = child(tree, home, "Metadata")
    if stored is None or stored.dtype != np.uint8 or stored.ndim != 2 or not stored.size:
        return None
    tree.check_storage(stored)
    check_chunks(stored, (slice(0, stored.shape[0]), slice(0, 1)))
    column = (
        read_all(tree, stored)[:, 0] if stored.size < MOST_METADATA else stored[:MOST_METADATA, 0]
    )
    try:
        found = json.loads(bytes(column).rstrip(b"\0").decode("utf-8", "replace"))
    except ValueError:
        return None
    return found if isinstance(found, Mapping) else None


def _plane(about: Mapping[str, Any], shape: tuple[int, ...]) -> list[Axis]:
    result = about.get("BinaryResult")
    result = result if isinstance(result, Mapping) else {}
    axes = []
    for dim, size, key, unit in (
        ("y", shape[0], "height", "PixelUnitY"),
        ("x", shape[1], "width", "PixelUnitX"),
    ):
        step = _float(_entry(result, "PixelSize", key))
        offset = _float(_entry(result, "Offset", dim)) or 0.0
        values = None if step is None else offset + step * np.arange(size)
        axes.append(Axis(dim, values, str(result.get(unit) or "") or None))
    return axes


def _energy(about: Mapping[str, Any], size: int) -> Axis:
    name = _entry(about, "BinaryResult", "Detector")
    detectors = about.get("Detectors")
    detectors = detectors.values() if isinstance(detectors, Mapping) else []
    found = [d for d in detectors if isinstance(d, Mapping) and "Dispersion" in d]
    mine = [d for d in found if name and str(d.get("DetectorName", "")).startswith(str(name))]
    detector = (mine or found or [{}])[0]
    step = _float(detector.get("Dispersion"))
    if step is None:
        return Axis("energy")
    offset = _float(detector.get("OffsetEnergy")) or 0.0
    return Axis("energy", offset + step * np.arange(size), "eV")


def _entry(about: Mapping[str, Any], *keys: str) -> Any:
    found: Any = about
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _float(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found) else None
