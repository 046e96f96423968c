"""An image file in the terms of Penstock, whatever its format."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock.io.arrays.arrays import COMPONENT
from penstock.io.compressed import compression_of
from penstock.io.nifti.stream import StoredValues
from penstock.io.nifti.times import TimeStep


@dataclass(frozen=True)
class ImageHeader:
    """An image file in the terms of Penstock."""

    values: StoredValues
    dims: tuple[str, ...]
    order: tuple[int, ...]
    """Dims in the order of the file: the last one varies fastest."""
    affine: np.ndarray | None
    time: TimeStep
    coords: dict[str, Any] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    """What else to warn of, one sentence each."""


def volume_dims(
    shape: tuple[int, ...], path: str, last: str = "time"
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Shape and dims of an image by the shape that its header gives, axes of length 1 left out.

    Parameters
    ----------
    shape : tuple of int
        Fastest axis first.
    path : str
        What messages call the image.
    last : {"time", "component"}
        What the axis behind those of space is, if there is only one: the fifth of NIfTI, or the
        fourth of an image of vectors, holds components.

    Raises
    ------
    ValueError
        If it has more axes than x, y, z, time and component.
    """
    given = shape
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])
    if len(shape) > 5:
        raise ValueError(
            f"{path} has the shape {given}: images of x, y, z, time and one more axis can be "
            "opened; split it along its further axes"
        )
    shape = shape + (1,) * (3 - len(shape))
    dims = ("x", "y", "z", last) if len(shape) < 5 else ("x", "y", "z", "time", COMPONENT)
    return shape, dims[: len(shape)]


def stored_values(
    path: str,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    scaling: tuple[float | None, float | None],
    unit: str,
) -> StoredValues:
    """The values of a file that is as the header says.

    Parameters
    ----------
    path : str
        File of the values.
    offset : int
        First byte of the values.
    shape : tuple of int
        In the order of the file, slowest axis first.
    dtype : numpy.dtype
        Stored type with its byte order.
    scaling : tuple of float or None
        Slope and intercept; None: there is none.
    unit : str
        What one position along the first axis is, for messages.

    Raises
    ------
    ValueError
        If the type cannot be read, or the file is too short.
    """
    if dtype.kind not in "iufc" or dtype.itemsize > (16 if dtype.kind == "c" else 8):
        kind = "colours" if dtype.names else str(dtype)
        raise ValueError(
            f"{path} holds {kind}, which cannot be read as numbers of float32 or float64: convert "
            "it to one of those with the program that wrote it"
        )
    if not shape or min(shape) < 1:
        raise ValueError(
            f"{path} has no voxels: its header gives the shape {shape[::-1]}; download it again"
        )
    if offset < 0:
        raise ValueError(
            f"{path} has no usable header: it does not tell where values begin; download it again"
        )
    stat = os.stat(path)
    compression, resident = compression_of(path)
    slope, inter = scaling
    values = StoredValues(
        path,
        (stat.st_mtime_ns, stat.st_size),
        compression,
        offset,
        shape,
        dtype,
        1.0 if slope is None else slope,
        0.0 if inter is None else inter,
        unit,
        resident,
    )
    if not compression and offset + values.n_bytes > stat.st_size:
        raise ValueError(
            f"{path} is cut short: its header announces {values.n_bytes} bytes of values from byte "
            f"{offset} on, but it holds {stat.st_size} bytes; copy or download it again"
        )
    return values


def first_byte(header: Any) -> int:
    """Where values begin by a header of nibabel; -1 where it tells nothing of use."""
    try:
        return int(header.get_data_offset())
    except (ValueError, OverflowError):  # (not a number, or infinite)
        return -1
