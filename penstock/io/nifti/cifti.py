"""CIFTI-2: values of grayordinates or parcels over time or over maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.io.compressed import open_inflated
from penstock.io.nifti.stored import ImageHeader, first_byte, stored_values
from penstock.io.nifti.times import TimeStep

_UNITS = {"SECOND": "s", "HERTZ": "Hz", "METER": "m", "RADIAN": "rad"}


def read_cifti(path: str, header: Any) -> ImageHeader:
    """Parse the header of a CIFTI-2 file with one axis of places and one of times or maps.

    Parameters
    ----------
    path : str
        The file.
    header : nibabel.Nifti2Header
        As it stands in the file, which says where the values lie.

    Returns
    -------
    ImageHeader
        Dims ``(grayordinate, time)``, with ``parcel`` for the places of parcellated files, and
        ``map`` or ``series`` (frequencies, lengths, angles) in place of the times.

    Raises
    ------
    OSError, ValueError
        If the header is unusable, or the file has other axes (connectivity matrices).
    """
    try:
        contents = describe_axes(_axes(path))
    except Exception as error:  # (the parser of nibabel raises whatever damaged XML leads it to)
        text = " ".join(str(error).split())
        raise ValueError(
            f"{path} has no usable CIFTI-2 header ({text}): convert or download it again"
        ) from error
    shape = tuple(header.get_data_shape()[4:])
    dims, order = contents.layout(path, shape)
    values = stored_values(
        path,
        first_byte(header),
        shape[::-1],  # (the first axis of CIFTI varies fastest in the file)
        header.get_data_dtype(),
        header.get_slope_inter(),
        f"{contents.names[1]}s",
    )
    attrs = {"format": "CIFTI-2", "intent": str(header.get_intent()[0]), **contents.attrs}
    return ImageHeader(values, dims, order, contents.affine, contents.time, contents.coords, attrs)


@dataclass(frozen=True)
class CiftiContents:
    """What the axes of a CIFTI-2 image say."""

    axes: list[Any]
    names: list[str]
    """Dims that the axes become; "" for those of which there are none."""
    coords: dict[str, Any]
    attrs: dict[str, Any]
    time: TimeStep
    affine: Any

    def layout(self, what: str, shape: tuple[int, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Dims of the dataset, places first, and their order in the file, slowest first.

        Raises
        ------
        ValueError
            If the image has other axes than one of places and one of times or maps.
        """
        places = [name for name in self.names if name in ("grayordinate", "parcel")]
        if len(self.names) != 2 or len(places) != 1 or "" in self.names:
            kinds = " × ".join(type(axis).__name__.removesuffix("Axis") for axis in self.axes)
            raise ValueError(
                f"{what} holds {kinds}: CIFTI-2 files of grayordinates or parcels over times or "
                "maps can be opened; read others with nibabel"
            )
        if shape != tuple(map(len, self.axes)):
            raise ValueError(
                f"{what} holds {shape} values, but its axes are {tuple(map(len, self.axes))} long: "
                "convert or download it again"
            )
        dims = (places[0], next(name for name in self.names if name != places[0]))
        return dims, tuple(dims.index(name) for name in reversed(self.names))


def _axes(path: str) -> list[Any]:
    import nibabel
    from nibabel.fileholders import FileHolder

    with open_inflated(path) as file:
        image = nibabel.Cifti2Image.from_file_map({"image": FileHolder(fileobj=file)})
    return [image.header.get_axis(i) for i in range(image.ndim)]


def describe_axes(axes: list[Any]) -> CiftiContents:
    """Dims, coordinates along them, attributes, and the time between samples."""
    coords: dict[str, Any] = {}
    attrs: dict[str, Any] = {}
    time = TimeStep()
    for axis in axes:
        name = _dim(axis)
        if name == "time":
            step = float(axis.step)
            note = "" if step > 0 else f"the header has none ({step:g})"
            time = TimeStep(step if step > 0 else None, note, start=float(axis.start))
        elif name == "series":
            steps = float(axis.start) + float(axis.step) * np.arange(len(axis))
            coords[name] = (name, steps, {"units": _UNITS[axis.unit]})
        elif name == "grayordinate":
            coords |= _grayordinates(axis)
            attrs["n_vertices"] = {str(key): int(n) for key, n in axis.nvertices.items()}
        elif name:
            coords[name] = (name, np.asarray(axis.name).astype(str))
    affine = next((axis.affine for axis in axes if hasattr(axis, "affine")), None)
    return CiftiContents(axes, [_dim(axis) for axis in axes], coords, attrs, time, affine)


def _dim(axis: Any) -> str:
    kind = type(axis).__name__
    if kind == "SeriesAxis":
        return "time" if axis.unit == "SECOND" else "series"
    known = {"BrainModelAxis": "grayordinate", "ParcelsAxis": "parcel"}
    return {**known, "ScalarAxis": "map", "LabelAxis": "map"}.get(kind, "")


def _grayordinates(axis: Any) -> dict[str, Any]:
    """Which structure each is of, its vertex of the surface (-1: none), its voxel (-1: none)."""
    # one text for all that share it: 90,000 names of fixed width take 10 MB
    names, which = np.unique(axis.name, return_inverse=True)
    voxels = np.where(axis.volume_mask[:, None], axis.voxel, -1).astype(np.int32)
    along = "grayordinate"
    return {
        "structure": (along, names.astype(object)[which]),
        "vertex": (along, np.where(axis.surface_mask, axis.vertex, -1).astype(np.int32)),
        **{f"voxel_{name}": (along, voxels[:, i]) for i, name in enumerate("xyz")},
    }
