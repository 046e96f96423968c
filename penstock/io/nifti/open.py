"""Images of the brain: NIfTI-1, NIfTI-2, Analyze 7.5, MGH and CIFTI-2.

Headers are parsed by nibabel; values are read here: by region with positioned reads where a file
is not compressed, otherwise front to back as a stream (`penstock.io.nifti.stream`).
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import lazy_variable, make_dataset
from penstock.io.arrays.arrays import as_dtype
from penstock.io.nifti.header import read_header
from penstock.io.nifti.region import ImageRegion
from penstock.io.nifti.stored import ImageHeader
from penstock.io.nifti.stream import close_streams as close_streams
from penstock.io.nifti.stream import open_streams as open_streams
from penstock.io.nifti.times import TimeStep, time_with_sidecars
from penstock.messages import warn
from penstock.reading import Reading


def open_nifti(
    path: str, *, dtype: Any = None, t_r: float | None = None, sidecars: bool = True
) -> xr.Dataset:
    """Open an image or a series of volumes; values stay in the file until a region is read.

    Parameters
    ----------
    path : str
        ``.nii``, ``.hdr`` or ``.img`` of a pair (also Analyze 7.5), ``.mgh``, ``.dtseries.nii`` and
        other CIFTI-2 files of places over times or maps; the same compressed (``.nii.gz``,
        ``.img.gz``, ``.mgz``).
    dtype : {"float32", "float64"}, optional
        Type of the values, after slope and intercept of the file are applied; complex values keep
        both parts, each of this type. Default: the smaller one if it holds all values exactly, as
        it does for integers of 16 bit without a slope and for float32, otherwise float64.
    t_r : float, optional
        Repetition time [s]. Default: that of the image's JSON sidecar (BIDS: ``RepetitionTime``,
        inherited from folders above, or ``VolumeTiming``), else that of the header.
    sidecars : bool, default True
        Whether to look for JSON sidecars.

    Returns
    -------
    xarray.Dataset
        ``signal`` (x, y, z, time), or (x, y, z) for a single volume, in the memory order of the
        file (x fastest); a virtual time coordinate where the repetition time is known; ``affine``
        (4, 4), from voxel positions to mm, as nibabel chooses it (sform, else qform, else from the
        voxel sizes). CIFTI-2: ``signal`` (grayordinate, time) with ``structure``, ``vertex`` and
        ``voxel_x``, ``voxel_y``, ``voxel_z`` along grayordinates (-1: not on a surface, or not in
        the volume). ``attrs`` hold format, codes of the affine, description, intent, and
        ``repetition_time_note`` where the header leaves something open.

    Raises
    ------
    OSError, ValueError
        If the file is unusable or cut short, or holds colours or 128-bit numbers. A compressed
        file that is cut short or damaged is told of when the place is read.

    Warns
    -----
    UserWarning
        Where repetition time, voxel sizes or units of the header are doubtful, or header and
        sidecar differ.

    Notes
    -----
    ``signal.encoding`` says how the file is best read: ``interleaved`` where the leading dims vary
    fastest, ``sequential`` where it can only be read front to back; ``stored_as`` is the type of
    the values in the file.

    Examples
    --------
    >>> import os, tempfile
    >>> import nibabel, numpy as np, penstock as ps
    >>> path = os.path.join(tempfile.mkdtemp(), "bold.nii.gz")
    >>> image = nibabel.Nifti1Image(np.ones((4, 5, 6, 20), "int16"), np.eye(4))
    >>> image.header.set_zooms((1, 1, 1, 2))
    >>> nibabel.save(image, path)
    >>> ds = ps.open_dataset(path)
    >>> ds.signal.sel(time=slice(0, 10)).shape
    (4, 5, 6, 6)
    """
    path = os.path.abspath(path)
    header = read_header(path)
    n_volumes = _length(header, "time")
    time = chosen_time(header.time, n_volumes, path, t_r, sidecars=sidecars)
    for doubt in (*header.doubts, *filter(None, [time.doubt])):
        warn(doubt, stacklevel=3)
    return stored_dataset(header, time, path, dtype)


def stored_dataset(header: ImageHeader, time: TimeStep, path: str, dtype: Any) -> xr.Dataset:
    """A dataset over the values of an image file.

    Parameters
    ----------
    header : ImageHeader
        What the file holds.
    time : TimeStep
        The time between volumes.
    path : str
        The file that was opened.
    dtype : {"float32", "float64"} or None
        Type of the values; None: the one that holds them exactly.
    """
    values = header.values
    target = values.exact_type if dtype is None else as_dtype(dtype)
    if values.dtype.kind == "c":
        target = np.result_type(target, np.complex64)
    region = ImageRegion(values, target, header.order)
    encoding = {"source": path, "stored_as": values.stored_as}
    reading = Reading(
        scratch_bytes=region.scratch_bytes,
        resident_bytes=values.resident_bytes,
        interleaved=header.order[-1] == 0,
        sequential=values.compressed,
    )
    shape = tuple(values.shape[header.order.index(axis)] for axis in range(len(header.dims)))
    variable = lazy_variable(header.dims, region, shape, target, None, encoding, reading=reading)
    attrs = {"source": path, **header.attrs}
    return image_dataset(variable, time, header.affine, header.coords, attrs)


def image_dataset(
    variable: xr.Variable, time: TimeStep, affine: Any, coords: Any, attrs: dict[str, Any]
) -> xr.Dataset:
    """A dataset of volumes with its time, affine, and what else is told of it."""
    coords, attrs = dict(coords), dict(attrs)
    if affine is not None:
        coords["affine"] = (("affine_row", "affine_column"), np.asarray(affine, np.float64))
    if "time" in variable.dims and time.times:
        coords["time"] = ("time", np.array(time.times), {"units": "s"})
    if time.note:
        attrs["repetition_time_note"] = time.note
    return make_dataset(
        variable,
        sampling_frequency=None if time.seconds is None else 1 / time.seconds,
        start_time=time.start,
        coords=coords,
        attrs=attrs,
    )


def _length(header: ImageHeader, dim: str) -> int | None:
    if dim not in header.dims:
        return None
    return header.values.shape[header.order.index(header.dims.index(dim))]


def chosen_time(
    time: TimeStep, n_volumes: int | None, path: str, t_r: float | None, *, sidecars: bool
) -> TimeStep:
    """The time between volumes: what the user says, else a sidecar, else the header.

    Parameters
    ----------
    time : TimeStep
        What the header says.
    n_volumes : int or None
        None where there is no axis of time.
    path : str
        The image.
    t_r : float or None
        What the user says [s].
    sidecars : bool
        Whether to look for some.
    """
    if t_r is not None and not _is_positive(t_r):
        raise ValueError(f"t_r={t_r!r} for {path} must be a positive number of seconds")
    if n_volumes is None:
        if t_r is not None:
            raise ValueError(f"t_r={t_r!r} is given, but {path} has no time axis: leave it out")
        return TimeStep()
    if t_r is not None:
        return time._replace(seconds=float(t_r), note="", doubt="", times=())
    return time_with_sidecars(path, time, n_volumes) if sidecars else time


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and bool(0 < value < math.inf)
